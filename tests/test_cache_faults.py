"""Whatever is damaged, lost or refused: the reader gets the source's bytes, or an error that is the source's own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from numcodecs import BZ2, LZ4, Blosc, GZip, Zstd
from zarr.storage import LocalStore

from copick import _cachecore
from copick.cache import manager as managers
from copick.cache.manager import CacheManager
from copick.cache.store import CachingZarrStore
from copick.errors import FormatError
from copick.testing.http_server import FolderServer
from support.volumes import (
    CHUNK_FILE,
    cached_store,
    chunk_bytes,
    chunk_files,
    noise,
    opened,
    python,
    write_array,
    write_tomogram,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("own_managers")


def new_process() -> None:
    """Forget what this process knows of cache folders."""
    for manager in managers._managers.values():
        manager.close()
    managers._managers.clear()


# What was cached belongs to one version of one array


def test_chunks_without_their_cache_info_are_not_used(tmp_path: Path) -> None:
    old, new = noise(seed=1), noise(seed=2)
    write_array(tmp_path / "source", old)
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    np.testing.assert_array_equal(store.open_array("0").read(()), old)
    store.cache_manager.close()
    (tmp_path / "cache" / "x.zarr" / "0" / ".cache_info").unlink()
    shutil.rmtree(tmp_path / "source")
    write_array(tmp_path / "source", new)
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    np.testing.assert_array_equal(store.open_array("0").read(()), new)


@pytest.mark.parametrize("lost", ["owner", "metadata"])
def test_the_data_of_one_place_is_never_served_as_that_of_another(tmp_path: Path, lost: str) -> None:
    first, second, cache = noise(seed=1), noise(seed=2), tmp_path / "cache"
    write_tomogram(tmp_path / "first", first)
    write_tomogram(tmp_path / "second", second)
    np.testing.assert_array_equal(opened(tmp_path / "first", cache).numpy(), first)
    new_process()
    if lost == "metadata":
        shutil.rmtree(cache / ".cache_metadata")
    else:
        (cache / ".cache_metadata" / "source").unlink(missing_ok=True)
        (cache / ".cache_info").unlink(missing_ok=True)
    np.testing.assert_array_equal(opened(tmp_path / "second", tmp_path / "cache").numpy(), second)
    np.testing.assert_array_equal(opened(tmp_path / "first", tmp_path / "cache").numpy(), first)


@pytest.mark.parametrize("lost", ["everything", "metadata"])
def test_nor_is_what_is_open_of_a_folder_that_was_deleted(tmp_path: Path, lost: str) -> None:
    first, second, cache = noise(seed=1), noise(seed=2), tmp_path / "cache"
    write_tomogram(tmp_path / "first", first)
    write_tomogram(tmp_path / "second", second)
    held = opened(tmp_path / "first", cache)
    np.testing.assert_array_equal(held.numpy(), first)
    shutil.rmtree(cache if lost == "everything" else cache / ".cache_metadata")
    np.testing.assert_array_equal(opened(tmp_path / "second", cache).numpy(), second)
    np.testing.assert_array_equal(held.numpy(), first)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_what_cannot_be_opened_for_a_moment_stays_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    write_tomogram(tmp_path / "project", noise())
    opened(tmp_path / "project", tmp_path / "cache").numpy()
    new_process()
    real, left = _cachecore.Array, [None] * failures

    def without_descriptors(*arguments: Any) -> Any:
        if left:
            left.pop()
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments)

    monkeypatch.setattr(_cachecore, "Array", without_descriptors)
    data = opened(tmp_path / "project", tmp_path / "cache").numpy(x=slice(0, 8))
    np.testing.assert_array_equal(data, noise()[:, :, :8])
    assert len(chunk_files(tmp_path / "cache")) == 27


@pytest.mark.parametrize("shape", [(40, 40, 40), (30, 20, 10)], ids=["same shape", "another shape"])
@pytest.mark.parametrize("held", [True, False], ids=["array held", "nothing held"])
def test_a_volume_is_read_as_it_was_written_last(tmp_path: Path, held: bool, shape: tuple[int, ...]) -> None:
    write_tomogram(tmp_path / "project", noise())
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    array = tomogram.array()
    array.read(())
    if not held:
        del array
    new = noise(shape, seed=2)
    tomogram.from_numpy(new, levels=1)
    np.testing.assert_array_equal(tomogram.numpy(), new)
    np.testing.assert_array_equal(opened(tmp_path / "project", tmp_path / "cache").numpy(), new)


def test_what_is_written_through_a_store_held_since_before_the_read_is_seen(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise())
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    level: Any = zarr.open_group(tomogram.zarr(), mode="r+")["0"]
    tomogram.numpy()
    level[...] = 5
    assert (opened(tmp_path / "project", tmp_path / "cache").numpy() == 5).all()


class Held(LocalStore):
    """A store whose first answer of a chunk waits until it is let go."""

    def hold(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        data = await super().get(key, *args, **kwargs)
        if key == "0/0/0/0" and not self.go.is_set():
            self.asked.set()
            while not self.go.is_set():
                await asyncio.sleep(0.005)
        return data


@pytest.mark.parametrize("cached_before", [False, True])
@pytest.mark.parametrize("by", ["the same process", "another process"])
def test_a_chunk_on_its_way_while_its_volume_is_rewritten_is_not_kept(
    tmp_path: Path, by: str, cached_before: bool
) -> None:
    old, new = noise(seed=1), noise(seed=2)
    write_array(tmp_path / "source", old)
    source = Held(tmp_path / "source", read_only=True)
    source.hold()
    manager = CacheManager(tmp_path / "cache")
    store = CachingZarrStore(tmp_path / "cache" / "x.zarr", lambda: source, manager)
    array = store.open_array("0")
    if cached_before:
        array.read((slice(16, 32),))
    results: list[Any] = []
    reader = threading.Thread(target=lambda: results.append(array.read(())))
    reader.start()
    assert source.asked.wait(30)
    shutil.rmtree(tmp_path / "source")
    write_array(tmp_path / "source", new)
    writer = manager if by == "the same process" else CacheManager(tmp_path / "cache")
    writer.discard(store.local_path)
    later: list[Any] = []
    # A reader that begins now must not be given what was asked for before.
    second = threading.Thread(target=lambda: later.append(store.open_array("0").read((slice(0, 16),))))
    second.start()
    time.sleep(0.2)
    source.go.set()
    reader.join()
    second.join()
    np.testing.assert_array_equal(later[0], new[:16])
    assert any(np.array_equal(results[0], whole) for whole in (old, new))
    np.testing.assert_array_equal(
        cached_store(tmp_path / "cache", tmp_path / "source").open_array("0").read(()), new
    )
    np.testing.assert_array_equal(store.open_array("0").read(()), new)
    manager.close()
    writer.close()


@pytest.mark.parametrize("chunks", [(40, 40, 40), (20, 20, 20), (16, 16, 16)])
def test_a_volume_replaced_while_it_is_read_is_read_anew(tmp_path: Path, chunks: tuple[int, ...]) -> None:
    """Its writer has put the new one in place, and has not told so yet."""
    old, new = noise(seed=1), noise(seed=2)
    write_array(tmp_path / "source", old)
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    array = store.open_array("0")
    writer = CacheManager(tmp_path / "cache")
    with writer.changing(store.local_path):
        np.testing.assert_array_equal(array.read((slice(0, 4),)), old[:4])
        shutil.rmtree(tmp_path / "source")
        write_array(tmp_path / "source", new, chunks=chunks)
        part = (slice(16, 32),) * 3  # in one chunk, whose file is missing if there is one chunk now
        np.testing.assert_array_equal(array.read(part), new[part])
        np.testing.assert_array_equal(array.read(()), new)
    np.testing.assert_array_equal(array.read(()), new)
    store.cache_manager.close()


# A damaged source


@pytest.mark.parametrize("codec", [Blosc("lz4"), Blosc("zstd"), Zstd(), LZ4(), GZip(), BZ2(), None], ids=str)
@pytest.mark.parametrize("damage", ["half", "garbage", "empty"])
def test_a_damaged_source_chunk_is_an_error_that_names_it(tmp_path: Path, codec: Any, damage: str) -> None:
    write_array(tmp_path / "source", noise((32, 32)), compressors=codec, chunks=(16, 16))
    chunk = tmp_path / "source" / "0" / "1" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes({"half": whole[: len(whole) // 2], "garbage": bytes(range(251)), "empty": b""}[damage])
    array = cached_store(tmp_path / "cache", tmp_path / "source").open_array("0")
    with pytest.raises(FormatError, match="0/1/0 cannot be decoded"):
        array.read(())
    assert not (tmp_path / "cache" / "x.zarr" / "0" / "1" / "0").exists()
    chunk.write_bytes(whole)
    np.testing.assert_array_equal(array.read(()), noise((32, 32)))


def test_a_damaged_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise((32, 32)), zarr_format=3, chunks=(8, 8), shards=(16, 16))
    shard = tmp_path / "source" / "0" / "c" / "1" / "0"
    shard.write_bytes(shard.read_bytes()[:-100])
    array = cached_store(tmp_path / "cache", tmp_path / "source").open_array("0")
    with pytest.raises(FormatError, match="0/c/1/0 cannot be decoded"):
        array.read((slice(16, 32), slice(0, 16)))


# A source that does not answer

EXIT = """
import sys, threading, time
from support.volumes import opened
from pathlib import Path
tomogram = opened(sys.argv[1], Path(sys.argv[2]), timeout_s=20)
threading.Thread(target=tomogram.array().read, args=((),), daemon=True).start()
time.sleep(0.5)
print("leaving at", time.time(), flush=True)
"""


def test_an_interpreter_ends_while_its_source_hangs(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise())
    with FolderServer(tmp_path / "project") as server:
        server.fault = lambda _, path: "hang" if path.rpartition("/")[2].isdigit() else None
        ended = python(EXIT, server.url, tmp_path / "cache")
        end = time.time()
    assert ended.returncode == 0
    assert end - float(ended.stdout.rpartition("leaving at ")[2]) < 10
    assert not chunk_files(tmp_path / "cache")


# A writer that is killed

KILLED = """
import sys
from copick import _cachecore
from support.volumes import cached_store
from pathlib import Path
store = cached_store(Path(sys.argv[1]), Path(sys.argv[2]), disk_format=sys.argv[3])
array = store.open_array("0")
array.read((slice(0, 1),) * 3)
_cachecore.inject(int(sys.argv[4]), -1)
array.read(())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the native test points exist on POSIX only")
@pytest.mark.parametrize(
    ("step", "disk_format"), [*((step, "raw") for step in range(1, 8)), (3, "encoded"), (7, "encoded")]
)
def test_a_writer_killed_at_any_step_leaves_a_cache_that_reads_right(
    tmp_path: Path, step: int, disk_format: str
) -> None:
    data = noise((32, 32, 32))
    write_array(tmp_path / "source", data)
    killed = python(KILLED, tmp_path / "cache", tmp_path / "source", disk_format, step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for _ in range(2):
        store = cached_store(tmp_path / "cache", tmp_path / "source", disk_format=disk_format)
        np.testing.assert_array_equal(store.open_array("0").read(()), data)
        assert store.cache_manager.check()
        assert store.cache_manager.get_stats()["corrupt"] == 0
        store.cache_manager.close()
    assert store.cache_manager.get_stats().get("fetched_cells", 0) == 0


# A folder that cannot be written


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB in memory."""
    folder = tmp_path / "volume"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting is not permitted here: {getattr(error, 'stderr', error)!r}")
    yield folder
    new_process()
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_volume_that_is_too_small_keeps_some_space_and_reads_right(
    tmp_path: Path, small_volume: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = noise((150, 150, 150))
    write_array(tmp_path / "source", data, chunks=(50, 50, 50))
    array = cached_store(small_volume, tmp_path / "source").open_array("0")
    for _ in range(3):
        np.testing.assert_array_equal(array.read(()), data)
        assert shutil.disk_usage(small_volume).free > 8e6 * 0.03
    assert chunk_files(small_volume)
    assert not caplog.records


def fill_up(volume: Path) -> None:
    """Leave no byte free."""
    with contextlib.suppress(OSError), open(volume / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


@pytest.mark.parametrize("moment", ["before", "while reading"])
def test_a_full_volume_costs_a_warning_and_no_data(
    tmp_path: Path, small_volume: Path, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    data = noise()
    write_array(tmp_path / "source", data)
    array = cached_store(small_volume, tmp_path / "source").open_array("0")
    if moment == "while reading":
        array.read((slice(0, 10),))
    fill_up(small_volume)
    for _ in range(2):
        np.testing.assert_array_equal(array.read(()), data)
    kinds = [record.getMessage().partition(" failed")[0] for record in caplog.records]
    assert len(kinds) == len(set(kinds)) <= 1, caplog.text


@pytest.mark.parametrize("filled", [False, True])
def test_a_read_only_volume_costs_a_warning_and_no_data(
    tmp_path: Path, small_volume: Path, caplog: pytest.LogCaptureFixture, filled: bool
) -> None:
    write_tomogram(tmp_path / "project", noise())
    if filled:
        opened(tmp_path / "project", small_volume).numpy()
        new_process()
        gc.collect()  # the lock file is open for writing as long as there are readers
    subprocess.run(["mount", "-o", "remount,ro", str(small_volume)], check=True)
    tomogram = opened(tmp_path / "project", small_volume)
    for _ in range(2):
        np.testing.assert_array_equal(tomogram.numpy(), noise())
    (record,) = caplog.records
    assert "cannot be used" in record.getMessage()


def test_a_cache_root_that_is_a_file_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tomogram(tmp_path / "project", noise())
    (tmp_path / "cache").write_text("a file")
    np.testing.assert_array_equal(opened(tmp_path / "project", tmp_path / "cache").numpy(), noise())
    assert "is not a directory" in caplog.text
    assert (tmp_path / "cache").read_text() == "a file"


MANY = """
import json, resource, sys
import copick
from support.volumes import config_of
resource.setrlimit(resource.RLIMIT_NOFILE, (112, 112))
root = copick.from_string(json.dumps(config_of(sys.argv[1])), cache={"root": sys.argv[2], "parent_layer": "*"})
volumes = [run.voxel_spacings[0].tomograms[0] for run in root.runs]
stats = root.layer.layers[0].manager.get_stats
for _ in range(2):
    assert all(volume.numpy().sum() == 64 for volume in volumes)
print(len(volumes), stats()["fetched_cells"], stats()["failures"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of open files are POSIX's")
def test_more_volumes_than_open_files_cost_nothing(tmp_path: Path) -> None:
    group = write_tomogram(tmp_path / "project", np.ones((4, 4, 4), np.float32))
    run = group.parents[1]
    for number in range(2, 151):
        shutil.copytree(run, run.with_name(f"R{number}"))
    ended = python(MANY, tmp_path / "project", tmp_path / "cache")
    assert (ended.stdout, ended.stderr) == ("150 150 {}\n", "")


@pytest.mark.parametrize("disk_format", ["raw", "encoded"])
def test_a_cache_folder_deleted_under_a_reader_costs_no_data(tmp_path: Path, disk_format: str) -> None:
    data = noise()
    write_tomogram(tmp_path / "project", data)
    tomogram = opened(tmp_path / "project", tmp_path / "cache", {"disk_format": disk_format})
    array = tomogram.array()
    array.read((slice(0, 10),))
    shutil.rmtree(tmp_path / "cache")
    for _ in range(2):
        np.testing.assert_array_equal(array.read(()), data)
        np.testing.assert_array_equal(tomogram.numpy(), data)
    np.testing.assert_array_equal(zarr.open_group(tomogram.zarr(), mode="r")["0"][...], data)


def test_files_damaged_one_by_one_are_fetched_again(tmp_path: Path) -> None:
    data = noise()
    write_array(tmp_path / "source", data)
    cached_store(tmp_path / "cache", tmp_path / "source").open_array("0").read(())
    files = chunk_files(tmp_path / "cache")
    for number, file in enumerate(files):
        whole = file.read_bytes()
        kind = number % 5
        file.unlink()
        if kind < 3:
            flipped = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
            file.write_bytes([flipped, whole[:-7], b""][kind])
        elif kind == 3:
            file.mkdir()
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    np.testing.assert_array_equal(store.open_array("0").read(()), data)
    assert store.cache_manager.get_stats()["fetched_cells"] == len(files)
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    np.testing.assert_array_equal(store.open_array("0").read(()), data)
    assert store.cache_manager.get_stats().get("fetched_cells", 0) == 0


# A database that cannot be used


@pytest.mark.parametrize("budget", [0, 10 * CHUNK_FILE])
def test_a_locked_database_does_not_hold_up_readers(tmp_path: Path, budget: int) -> None:
    data = noise()
    write_array(tmp_path / "source", data)
    store = cached_store(tmp_path / "cache", tmp_path / "source", max_size_bytes=budget)
    store.open_array("0").read((slice(0, 1),) * 3)
    assert store.cache_manager.journal.flush()
    other = sqlite3.connect(store.cache_manager.db_path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        begin = time.monotonic()
        for _ in range(2):
            np.testing.assert_array_equal(store.open_array("0").read(()), data)
        assert time.monotonic() - begin < 2.5
        assert not budget or chunk_bytes(tmp_path / "cache") <= budget + CHUNK_FILE
    finally:
        other.close()


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    data = noise()
    write_array(tmp_path / "source", data)
    database = tmp_path / "cache" / ".cache_metadata" / "entries.db"
    database.parent.mkdir(parents=True)
    newer = sqlite3.connect(database)
    newer.executescript("CREATE TABLE chunks (of INTEGER, another INTEGER); PRAGMA user_version = 99")
    newer.close()
    before = database.read_bytes()
    for _ in range(2):
        store = cached_store(tmp_path / "cache", tmp_path / "source", max_size_bytes=10 * CHUNK_FILE)
        np.testing.assert_array_equal(store.open_array("0").read(()), data)
        store.cache_manager.close()
    assert database.read_bytes() == before
    assert chunk_bytes(tmp_path / "cache") <= 11 * CHUNK_FILE


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100], ids=["empty", "garbage"])
def test_a_damaged_database_is_made_anew_from_the_files(tmp_path: Path, content: bytes) -> None:
    data = noise()
    write_array(tmp_path / "source", data)
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    store.open_array("0").read(())
    store.cache_manager.close()
    store.cache_manager.db_path.write_bytes(content)
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    np.testing.assert_array_equal(store.open_array("0").read(()), data)
    assert store.cache_manager.get_stats().get("fetched_cells", 0) == 0
    store.cache_manager.journal.flush()
    store.cache_manager.budget.heal()
    loaded = store.cache_manager.journal.load()
    assert loaded is not None
    assert len(loaded[1][0]) == 27
    assert store.cache_manager.budget.used() == chunk_bytes(tmp_path / "cache")
    store.cache_manager.close()
