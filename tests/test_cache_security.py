"""Nothing that a server, a project or somebody in the folder says leads out of the cache, fills the memory, or tells secrets."""

from __future__ import annotations

import ast
import bz2
import contextlib
import gzip
import json
import logging
import lzma
import os
import pickle
import resource
import shutil
import sqlite3
import stat
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import copick
from copick import _cachecore
from copick.cache import info
from copick.cache import manager as managers
from copick.cache.decode import Decoder, bounded, zstd_size
from copick.cache.geometry import Geometry
from copick.cache.manager import open_manager
from copick.cache.verify import collect, repair, verify
from copick.config import CopickConfigCache
from copick.errors import ConfigError, CopickError, FormatError
from copick.kinds import RUN, VOXEL_SPACING
from copick.layers.cached import CachedLayer
from copick.layers.memory import MemoryLayer
from copick.testing.http_server import FolderServer
from support.volumes import (
    CHUNK_FILE,
    TOMOGRAM,
    cached_store,
    chunk_files,
    config_of,
    noise,
    opened,
    python,
    tomogram_of,
    write_array,
    write_tomogram,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.usefixtures("own_managers"),
    pytest.mark.skipif(sys.platform == "win32", reason="symbolic links and permissions are POSIX's"),
]

LEVEL = f"{TOMOGRAM}/0"


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        os.path.relpath(os.path.join(parent, name), folder): Path(parent, name).read_bytes()
        for parent, _, names in os.walk(folder)
        for name in names
    }


# Names


HOSTILE = [
    "..",
    "../../etc",
    "/etc/passwd",
    "a/../../b",
    ".",
    "a\\..\\b",
    "..%2f..",
    "~root",
    "x\ny",
    "CON",
    "é/…",
]


@pytest.mark.parametrize(
    "key", ["../../x/0/0/0/0", "/etc/passwd", "0/../../../x", "..\\x", "0/./0/0", "0//0/0", "0\0"]
)
def test_keys_that_lead_out_of_a_volume_name_nothing(tmp_path: Path, key: str) -> None:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    write_array(tmp_path / "source", noise())
    write_array(tmp_path / "x", noise(seed=2))
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    assert sync(store.get(key, default_buffer_prototype())) is None
    with pytest.raises(CopickError):
        store.open_array("../../../x/0")
    store.cache_manager.close()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("how", ["listed", "named"])
def test_names_of_a_hostile_project_stay_in_the_cache(tmp_path: Path, name: str, how: str) -> None:
    """A layer says that there is a run of that name, with a tomogram in it."""

    class Hostile(MemoryLayer):
        def list(self, parent: Any, kind: Any) -> Any:
            return [kind.meta.model_construct(name=name)] if kind is RUN else []

    manager = open_manager(tmp_path / "cache")
    config = CopickConfigCache(root=str(tmp_path / "cache"))
    layer = CachedLayer(Hostile("memory"), config, manager=manager)
    try:
        metas = layer.list(None, RUN) if how == "listed" else [RUN.meta(name=name)]
        refs = [RUN.ref(meta, None) for meta in metas]
    except (CopickError, ValueError):  # there can be no such run
        refs = []
    for ref in refs:
        try:
            paths = [layer.folder(ref), layer._document_file(ref)]
        except FormatError:
            continue
        for path in paths:
            where = Path(os.path.normpath(path))
            assert where != manager.cache_root
            assert where.is_relative_to(manager.cache_root)
        with contextlib.suppress(CopickError, ValueError):
            layer.list(ref, VOXEL_SPACING)
    manager.close()
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_names_that_differ_in_case_alone_are_never_taken_for_each_other(tmp_path: Path) -> None:
    """Where the cache's filesystem does not tell them apart, `.cache_info` does not say whose it is: the place and shape do."""
    first, second = noise(seed=1), noise(seed=2)
    write_tomogram(tmp_path / "project", first)
    write_array(tmp_path / "project" / TOMOGRAM.replace("wbp", "WBP"), second)
    spacing = opened(tmp_path / "project", tmp_path / "cache").voxel_spacing
    for _ in range(2):
        for tomo_type, data in (("wbp", first), ("WBP", second)):
            (found,) = spacing.get_tomograms(tomo_type)
            np.testing.assert_array_equal(found.numpy(), data)


def test_a_layer_is_not_its_own_cache(tmp_path: Path) -> None:
    """The cache would take the layer's arrays for damaged ones of its own."""
    write_tomogram(tmp_path / "project", noise())
    (tmp_path / "link").symlink_to(tmp_path / "project")
    before = tree(tmp_path / "project")
    for cache in (tmp_path / "project", tmp_path / "link", tmp_path / "x" / ".." / "project"):
        with pytest.raises(ConfigError, match="is the root of a layer"):
            opened(tmp_path / "project", cache)
    assert tree(tmp_path / "project") == before


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_that_no_cache_made_is_neither_replaced_nor_removed(
    tmp_path: Path, zarr_format: int
) -> None:
    write_array(tmp_path / "source", noise())
    write_array(tmp_path / "cache" / "x.zarr", noise(seed=2), zarr_format=zarr_format)
    before = tree(tmp_path / "cache" / "x.zarr" / "0")
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    for _ in range(2):
        np.testing.assert_array_equal(store.open_array("0").read(()), noise())
    assert store.cache_manager.get_stats()["failures"].keys() == {"insert"}
    store.cache_manager.close()
    assert tree(tmp_path / "cache" / "x.zarr" / "0") == before


# Symbolic links in the cache


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of somebody else, which looks like what lies in a cache."""
    folder = tmp_path / "elsewhere"
    for name in ("0/0/0", "1/1/1", "x", "ExperimentRuns/R1/x", ".cache_info", "R1/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * CHUNK_FILE)
    return folder


LINKS = [
    ".cache_info.run",
    ".cache_metadata/entries.db",
    ".cache_metadata/generations",
    ".cache_metadata/locks",
    ".cache_metadata/source",
    ".cache_metadata/usage",
    "ExperimentRuns",
    "ExperimentRuns/R1",
    TOMOGRAM,
    LEVEL,
    f"{LEVEL}/.cache_info",
    f"{LEVEL}/.zarray",
    f"{LEVEL}/0",
    f"{LEVEL}/0/0",
    f"{LEVEL}/0/0/0",
    f"{LEVEL}/1/1/1",
]


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize("link", LINKS)
def test_no_symbolic_link_is_followed(tmp_path: Path, elsewhere: Path, link: str, filled: bool) -> None:
    write_tomogram(tmp_path / "project", noise())
    cache = tmp_path / "cache"
    manager = open_manager(cache)
    if filled:
        opened(tmp_path / "project", cache).numpy()
    manager.close()
    place = cache / link
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        place.rename(tmp_path / "was")
    else:
        place.unlink(missing_ok=True)
    is_file = place.name.startswith(".") or ".cache_metadata" in link
    place.symlink_to(elsewhere / "x" if is_file else elsewhere)
    before = tree(elsewhere)
    managers._managers.clear()
    limited = {"max_size_bytes": 5 * CHUNK_FILE}
    for fields in ({}, limited):
        tomogram = opened(tmp_path / "project", cache, fields)
        for _ in range(2):
            np.testing.assert_array_equal(tomogram.numpy(), noise())
        tomogram.refresh()
        for manager in managers._managers.values():
            manager.journal.flush()
            assert manager.check()
            with contextlib.suppress(OSError):  # without locks, say
                manager.budget.rescan()
    strays = [each for each in verify(cache).problems if each.kind == "stray"]
    assert strays or not place.is_symlink()
    with contextlib.suppress(OSError):  # there is no managing such a folder
        manager = open_manager(cache)
        repair(manager)
        collect(manager, older_than=0)
        assert not [each for each in verify(cache).problems if each.kind == "stray"]
        manager.invalidate()
    assert tree(elsewhere) == before


def test_where_one_call_cannot_do_it_paths_are_walked(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"content")
    (tmp_path / "a" / "link").symlink_to(elsewhere)
    (tmp_path / "a" / "b" / "link").symlink_to(elsewhere / "x")
    for walk in (False, True):
        fd = _cachecore.open_plain(f"{tmp_path}/a//b/file", os.O_RDONLY, walk)
        assert os.read(fd, 100) == b"content"
        os.close(fd)
        os.close(_cachecore.open_plain(f"{tmp_path}/a/b/", os.O_RDONLY | os.O_DIRECTORY, walk))
        for name in ("a/link/x", "a/b/link"):
            with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
                _cachecore.open_plain(f"{tmp_path}/{name}", os.O_RDONLY, walk)
        with pytest.raises(FileNotFoundError):
            _cachecore.open_plain(f"{tmp_path}/a/c/file", os.O_RDONLY, walk)


def test_an_index_that_names_other_folders_evicts_nothing_there(tmp_path: Path, elsewhere: Path) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    store.open_array("0").read((slice(0, 16),))
    store.cache_manager.close()
    geometry = json.dumps(Geometry((40,) * 3, np.dtype("f4"), bytes(4), (16,) * 3, (16,) * 3, 2).to_json())
    before = tree(elsewhere)
    (tmp_path / "cache" / "linked").symlink_to(elsewhere)
    for folder in (str(elsewhere), "../elsewhere", "x/../../elsewhere", "linked"):
        db = sqlite3.connect(tmp_path / "cache" / ".cache_metadata" / "entries.db")
        db.execute("INSERT OR REPLACE INTO arrays VALUES (7, ?, ?)", (folder, geometry))
        db.executemany(
            "INSERT OR REPLACE INTO chunks VALUES (7, ?, ?, 1)", [(0, CHUNK_FILE), (13, CHUNK_FILE)]
        )
        db.commit()
        db.close()
        store = cached_store(tmp_path / "cache", tmp_path / "source", max_size_bytes=3 * CHUNK_FILE)
        np.testing.assert_array_equal(store.open_array("0").read(()), noise())
        assert store.cache_manager.get_stats()["evictions"] > 0
        store.cache_manager.close()
        assert tree(elsewhere) == before


def test_a_pipe_in_a_files_place_holds_nobody_up(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise())
    cache = tmp_path / "cache"
    opened(tmp_path / "project", cache).numpy()
    for name in (f"{LEVEL}/0/0/0", f"{LEVEL}/.cache_info", ".cache_info.run"):
        (cache / name).unlink()
        os.mkfifo(cache / name)
        np.testing.assert_array_equal(opened(tmp_path / "project", cache).numpy(), noise())


# Who may read it


def modes(folder: Path) -> set[tuple[str, int]]:
    return {
        ("folder" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode))
        for path in [folder, *folder.rglob("*")]
    }


@pytest.mark.parametrize("disk_format", ["raw", "encoded"])
def test_a_cache_is_for_its_owner_alone(tmp_path: Path, disk_format: str) -> None:
    before = os.umask(0)
    try:
        write_tomogram(tmp_path / "project", noise())
        tomogram = opened(tmp_path / "project", tmp_path / "cache", {"disk_format": disk_format})
        tomogram.numpy()
        tomogram.voxel_spacing.run.picks  # noqa: B018
        open_manager(tmp_path / "cache").close()
    finally:
        os.umask(before)
    assert modes(tmp_path / "cache") == {("folder", 0o700), ("file", 0o600)}


def test_a_folder_that_was_there_stays_as_it_is_and_what_is_in_it_is_private(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise())
    (tmp_path / "cache").mkdir(mode=0o755)
    opened(tmp_path / "project", tmp_path / "cache").numpy()
    open_manager(tmp_path / "cache").close()
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o755
    assert set().union(*(modes(each) for each in (tmp_path / "cache").iterdir())) == {
        ("folder", 0o700),
        ("file", 0o600),
    }


USERS = """
import json, os, sys
from pathlib import Path
import numpy as np
from copick.cache import manager as managers
from support.crashes import answer, warm
from support.volumes import CHUNK_FILE, noise, opened

project, cache = sys.argv[1:]

def read(cache, chunks):
    fields = {"mode": "0770", "max_size_bytes": chunks * CHUNK_FILE}
    tomogram = opened(project, Path(cache), fields)
    for part in (slice(0, 16), slice(None)):
        np.testing.assert_array_equal(tomogram.numpy(z=part), noise()[part])
    (manager,) = managers._managers.values()
    manager.journal.flush()
    manager.budget.heal()
    manager.close()
    return [manager.get_stats().get("fetched_cells", 0), manager.get_stats()["failures"]]

def user(id, chunks):
    os.setgroups([]); os.setgid(12345); os.setuid(id); os.umask(0o077)
    return read(cache, chunks)

warm(lambda: read(cache + "-warm", 1))
print(json.dumps([answer(lambda: user(id, chunks)) for id, chunks in [(1001, 0), (1002, 0), (1002, 5), (1001, 4)]]))
"""


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can be two users")
def test_two_users_of_a_group_share_a_cache() -> None:
    # Below /tmp itself: the folders of pytest are for their owner alone.
    shared = Path(tempfile.mkdtemp())
    try:
        shared.chmod(0o770)
        os.chown(shared, -1, 12345)
        write_tomogram(shared / "project", noise())
        for each in [shared / "project", *(shared / "project").rglob("*")]:
            each.chmod(0o755 if each.is_dir() else 0o644)
        done = python(USERS, shared / "project", shared / "cache", timeout=200)
        assert done.returncode == 0, done.stderr
        cold, warm, small, smaller = json.loads(done.stdout.splitlines()[-1])
        assert (cold, warm) == ([27, {}], [0, {}])
        assert (small[1], smaller[1]) == ({}, {})
        assert len(chunk_files(shared / "cache")) <= 27
        assert {mode for _, mode in modes(shared / "cache")} == {0o2770, 0o660}
        assert verify(shared / "cache").problems == []
    finally:
        shutil.rmtree(shared)


# Nothing is executed


def test_nothing_unpickles_or_evaluates() -> None:
    """Neither what lies in the cache nor what comes from a server is ever code."""
    banned = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    package = Path(copick.__file__).parent
    for path in package.rglob("*.py"):
        if path == package / "ops" / "run.py" or package / "testing" in path.parents:
            continue  # what it unpickles it has pickled, for its own workers
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.split(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned, path
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile"}, f"{path}:{node.lineno}"
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/copick-was-here",)


def test_a_source_of_python_objects_is_not_unpickled(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise((4, 4, 4)))
    level = tmp_path / "project" / LEVEL
    document = json.loads((level / ".zarray").read_text())
    document.update(dtype="|O", filters=[{"id": "pickle"}], compressor=None, fill_value=None)
    (level / ".zarray").write_text(json.dumps(document))
    data = np.empty((4, 4, 4), object)
    data[:] = Bomb()
    (level / "0" / "0" / "0").write_bytes(pickle.dumps([*data.ravel(), "|O", (64,)]))
    with pytest.raises(CopickError):
        opened(tmp_path / "project", tmp_path / "cache").numpy()
    assert not os.path.exists("/tmp/copick-was-here")


# Lengths


def zstd_of_unknown_length(blocks: int) -> bytes:
    """A frame that does not say how long it is: four bytes for each 128 KiB."""
    headers = [(int(at == blocks - 1) | 2 | 131072 << 3).to_bytes(3, "little") + b"a" for at in range(blocks)]
    return bytes.fromhex("28b52ffd0058") + b"".join(headers)


HUGE = 1 << 27
BOMBS: dict[str, tuple[Any, Callable[[], bytes]]] = {
    "zlib": (numcodecs.Zlib(), lambda: zlib.compress(bytes(HUGE))),
    "gzip": (numcodecs.GZip(), lambda: gzip.compress(bytes(HUGE), 1)),
    "gzip, many streams": (numcodecs.GZip(), lambda: gzip.compress(bytes(1 << 20)) * 128),
    "bz2": (numcodecs.BZ2(), lambda: bz2.compress(bytes(HUGE >> 3)) * 8),
    "lzma": (numcodecs.LZMA(), lambda: lzma.compress(bytes(HUGE), preset=0)),
    "zstd": (numcodecs.Zstd(), lambda: bytes(numcodecs.Zstd().encode(bytes(HUGE)))),
    "zstd of unknown length": (numcodecs.Zstd(), lambda: zstd_of_unknown_length(HUGE >> 17)),
    "lz4": (numcodecs.LZ4(), lambda: bytes(numcodecs.LZ4().encode(bytes(HUGE)))),
    "blosc": (numcodecs.Blosc("zstd"), lambda: bytes(numcodecs.Blosc("zstd").encode(bytes(HUGE)))),
}


@pytest.mark.slow
@pytest.mark.parametrize("filters", [[], [numcodecs.Delta("f4")]], ids=["alone", "filtered"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_chunk_decodes_to_what_its_array_declares_or_not_at_all(bomb: str, filters: list[Any]) -> None:
    codec, make = BOMBS[bomb]
    decoder = Decoder([*filters, codec], np.dtype("f4"), (16, 16, 16), "C")
    data = np.frombuffer(make(), np.uint8)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            decoder.decode(data)
        except MemoryError:
            os.write(write, b"out of memory")
        except Exception as error:  # noqa: BLE001 (codecs raise what they like)
            os.write(write, type(error).__name__.encode())
        os._exit(0)
    os.close(write)
    assert os.waitpid(pid, 0)[1] == 0
    with open(read, "rb") as pipe:
        assert pipe.read() in (b"ValueError", b"RuntimeError")


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=5000),
    codec=st.sampled_from([numcodecs.Zlib(), numcodecs.GZip(), numcodecs.BZ2(), numcodecs.LZMA(), numcodecs.Zstd(),
                           numcodecs.LZ4(), numcodecs.Blosc("lz4")]),
    flip=st.integers(0, 1 << 20),
)  # fmt: skip
def test_bounded_codecs_decode_as_the_codecs_do(data: bytes, codec: Any, flip: int) -> None:
    stored = np.frombuffer(bytes(codec.encode(data)), np.uint8)
    for exactly in (False, True):
        assert bytes(bounded(codec, stored, len(data), exactly=exactly)) == data
        with pytest.raises((ValueError, RuntimeError)):
            bounded(codec, stored, len(data) - 1, exactly=exactly)
    damaged = stored.copy()
    damaged[flip % len(damaged)] ^= 1 << flip % 8
    try:
        found = bytes(bounded(codec, damaged, 1 << 16))
    except Exception:  # noqa: BLE001 (codecs raise what they like)
        return
    assert len(found) <= 1 << 16


@given(data=st.binary(max_size=200))
def test_any_bytes_have_a_bounded_zstd_size_or_none(data: bytes) -> None:
    try:
        size, _ = zstd_size(memoryview(data))
    except ValueError:
        return
    assert size >= 0


GEOMETRY = {
    "shape": [4, 4],
    "dtype": "<f4",
    "fill": "00000000",
    "chunks": [2, 2],
    "cells": [2, 2],
    "zarr_format": 2,
}


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": [1 << 40, 2]}, {"cells": [1 << 40, 2]}, {"chunks": [0, 2]}, {"chunks": [2]}, {"shape": [-1, 4]},
        {"shape": ["4", 4]}, {"shape": [4.0, 4]}, {"dtype": "|O"}, {"fill": ""}, {"fill": "zz"}, {"dtype": "|V0"},
    ],
)  # fmt: skip
def test_a_geometry_that_no_array_has_is_refused(change: dict[str, Any]) -> None:
    assert Geometry.from_json(GEOMETRY).chunk_bytes == 16
    with pytest.raises((ValueError, TypeError)):
        Geometry.from_json({**GEOMETRY, **change})


def test_a_source_with_chunks_of_terabytes_is_read_without_memory_for_them(tmp_path: Path) -> None:
    group = write_tomogram(tmp_path / "project", noise((4, 4, 4)))
    document = json.loads((group / "0" / ".zarray").read_text())
    document.update(shape=[1 << 20] * 3, chunks=[1 << 14] * 3, fill_value=0)
    (group / "0" / ".zarray").write_text(json.dumps(document))
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    with pytest.raises(CopickError):
        tomogram.numpy(z=slice(0, 4), y=slice(0, 4), x=slice(0, 4))
    assert not chunk_files(tmp_path / "cache")


@pytest.mark.parametrize("disk_format", ["raw", "encoded"])
def test_a_cached_file_of_terabytes_is_not_read(tmp_path: Path, disk_format: str) -> None:
    write_tomogram(tmp_path / "project", noise())
    cache = tmp_path / "cache"
    fields = {"disk_format": disk_format}
    opened(tmp_path / "project", cache, fields).numpy()
    for name in (f"{LEVEL}/1/1/1", f"{LEVEL}/.cache_info", ".cache_info.run"):
        (cache / name).unlink()
        with open(cache / name, "wb") as file:
            file.truncate(1 << 40)
    copick.cache.manager._managers.clear()
    np.testing.assert_array_equal(opened(tmp_path / "project", cache, fields).numpy(), noise())
    assert max(path.stat().st_size for path in cache.rglob("*")) < 1 << 20


def test_an_encoded_chunk_that_is_shorter_than_it_should_be_is_not_shown(tmp_path: Path) -> None:
    """Its checksum is right; what it does not fill would be whatever was in memory."""
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source", disk_format="encoded")
    store.open_array("0").read(())
    store.cache_manager.close()
    for file in chunk_files(tmp_path / "cache"):
        payload = bytes(numcodecs.Blosc("zstd").encode(np.ones(100, np.float32)))
        file.unlink()
        file.write_bytes(payload + _cachecore.crc32c(payload).to_bytes(4, "little"))
    store = cached_store(tmp_path / "cache", tmp_path / "source", disk_format="encoded")
    np.testing.assert_array_equal(store.open_array("0").read(()), noise())
    assert store.cache_manager.get_stats()["failures"] == {"decode": 27}
    store.cache_manager.close()


# Secrets


def test_credentials_are_nowhere_in_the_cache_the_log_or_texts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not what stands in a URL, nor what stands in fs_args; not when all works, nor when it fails."""
    caplog.set_level(logging.DEBUG)
    write_tomogram(tmp_path / "project", noise())
    with FolderServer(tmp_path / "project") as server:
        root = server.url.replace("//", "//user:s3cr3t@")
        fs_args = {"client_kwargs": {"headers": {"X-Token": "t0k3n"}}}
        text = json.dumps(config_of(root, fs_args=fs_args))
        project = copick.from_string(text, cache={"root": str(tmp_path / "cache"), "parent_layer": "*"})
        tomogram = tomogram_of(project)
        np.testing.assert_array_equal(tomogram.numpy(z=slice(0, 16)), noise()[:16])
        store = tomogram.zarr()
        manager = open_manager(tmp_path / "cache")
        server.fault = lambda method, path: 403
        errors = []
        for part in (slice(16, 32), slice(None)):
            with pytest.raises(CopickError) as error:
                tomogram.numpy(z=part)
            errors.append(str(error.value))
    manager.close()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("copick")]
    said += [
        *errors, repr(project), repr(tomogram), repr(store), repr(manager), repr(tomogram.layer),
        repr(getattr(tomogram.layer, "layers", "")), json.dumps(manager.get_stats()), repr(tomogram.array()),
    ]  # fmt: skip
    for name, content in tree(tmp_path / "cache").items():
        said += [name, content.decode("latin-1")]
    assert chunk_files(tmp_path / "cache")
    for each in said:
        assert "s3cr3t" not in each
        assert "t0k3n" not in each
    assert info.read(tmp_path / "cache" / LEVEL / ".cache_info") is not None
