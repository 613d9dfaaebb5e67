"""`verify`, `repair` and `collect`, and the commands around them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from copick import _cachecore
from copick.cache import info
from copick.cache.manager import CacheManager, open_manager
from copick.cache.verify import collect, repair, verify
from copick.cli.cli import cli
from copick.errors import NotFoundError
from support.volumes import (
    CHUNK_FILE,
    TOMOGRAM,
    cached_store,
    chunk_bytes,
    chunk_files,
    config_of,
    noise,
    opened,
    write_array,
    write_tomogram,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.usefixtures("own_managers")

LEVEL = f"{TOMOGRAM}/0"
FORMATS = [("raw", 2), ("encoded", 2), ("raw", 3), ("encoded", 3)]


def fill(folder: Path, disk_format: str = "raw", zarr_format: int = 2) -> Path:
    """A cache of one tomogram: 26 chunks and one that is absent."""
    data = noise()
    data[:16, :16, :16] = 0
    write_tomogram(folder / "project", data, zarr_format=zarr_format)
    fields = {"disk_format": disk_format}
    np.testing.assert_array_equal(opened(folder / "project", folder / "cache", fields).numpy(), data)
    open_manager(folder / "cache").close()
    return folder / "cache"


def replace(file: Path, content: bytes) -> None:
    """Files of the cache are replaced, never changed."""
    file.unlink()
    file.write_bytes(content)


def readable_at_once(cache: Path) -> None:
    """What is in the cache is what the source has, or is not used."""
    manager = CacheManager(cache)
    assert manager.check()
    manager.close()
    np.testing.assert_array_equal(opened(cache.parent / "project", cache).numpy()[16:], noise()[16:])


@pytest.mark.parametrize(("disk_format", "zarr_format"), FORMATS)
def test_a_cache_in_order(tmp_path: Path, disk_format: str, zarr_format: int) -> None:
    cache = fill(tmp_path, disk_format, zarr_format)
    report = verify(cache)
    assert report.problems == []
    assert (report.arrays, report.chunks, report.absent, report.foreign) == (1, 26, 1, 0)
    files = [file for file in cache.rglob("*") if file.name.isdigit() and file.is_file()]
    assert report.size_bytes == sum(file.stat().st_size for file in files)
    papers = [file for file in cache.rglob(".cache_info.*") if file.is_file()]
    assert report.document_bytes == sum(file.stat().st_size for file in papers) > 0
    assert report.counted_bytes == report.size_bytes + report.document_bytes
    assert report.leftovers == []


@pytest.mark.parametrize(("disk_format", "zarr_format"), FORMATS)
def test_each_flipped_byte_of_a_chunk_is_found(tmp_path: Path, disk_format: str, zarr_format: int) -> None:
    cache = fill(tmp_path, disk_format, zarr_format)
    files = chunk_files(cache)
    for number, file in enumerate(files):
        whole = bytearray(file.read_bytes())
        whole[[0, 3, 5, 13, 17, len(whole) // 2, -5, -4, -1][number % 9]] ^= 1 << number % 8
        replace(file, whole)
    found = verify(cache).problems
    assert {problem.path for problem in found} == {file.relative_to(cache).as_posix() for file in files}
    assert {problem.kind for problem in found} == {"chunk"}
    assert verify(cache, content=False).problems == []
    repair(open_manager(cache))
    assert verify(cache).problems == []
    assert chunk_files(cache) == []
    readable_at_once(cache)


def test_a_chunk_that_was_encoded_wrongly_is_found(tmp_path: Path) -> None:
    cache = fill(tmp_path, "encoded")
    file = chunk_files(cache)[0]
    payload = bytearray(file.read_bytes()[:-4])
    payload[4:8] = (1 << 30).to_bytes(4, "little")
    replace(file, bytes(payload) + _cachecore.crc32c(payload).to_bytes(4, "little"))
    (problem,) = verify(cache).problems
    assert problem.text == "is of another length than what it says"


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a chunk too short": ("chunk", lambda c: replace(c / LEVEL / "1/1/1", b"short")),
    "an empty chunk": ("chunk", lambda c: replace(c / LEVEL / "1/1/1", b"")),
    "a folder for a chunk": (
        "stray",
        lambda c: [(c / LEVEL / "1/1/1").unlink(), (c / LEVEL / "1/1/1/x").mkdir(parents=True)],
    ),
    "a link for a chunk": (
        "stray",
        lambda c: [(c / LEVEL / "1/1/1").unlink(), (c / LEVEL / "1/1/1").symlink_to("/etc/passwd")],
    ),
    "a link to another folder": ("stray", lambda c: (c / LEVEL / "9").symlink_to("/etc")),
    "an unknown file": ("stray", lambda c: (c / LEVEL / "7").write_bytes(b"x" * CHUNK_FILE)),
    "a damaged .cache_info": (
        "record",
        lambda c: replace(c / LEVEL / ".cache_info", (c / LEVEL / ".cache_info").read_bytes()[:-5]),
    ),
    "a .cache_info of no array": (
        "record",
        lambda c: replace(c / LEVEL / ".cache_info", info.seal({"path": "x"})),
    ),
    "a damaged listing": ("record", lambda c: replace(c / ".cache_info.run", b"{")),
    "damaged source metadata": ("record", lambda c: (c / TOMOGRAM / ".zarr_info").write_bytes(b"")),
    "other metadata": (
        "metadata",
        lambda c: replace(
            c / LEVEL / ".zarray", (c / LEVEL / ".zarray").read_bytes().replace(b"<f4", b"<i4")
        ),
    ),
    "metadata of another shape": (
        "metadata",
        lambda c: replace(c / LEVEL / ".zarray", (c / LEVEL / ".zarray").read_bytes().replace(b"40", b"41")),
    ),
    "no metadata": ("metadata", lambda c: replace(c / LEVEL / ".zarray", b"")),
    "a damaged index": (
        "index",
        lambda c: replace(c / ".cache_metadata/entries.db", b"no database at all" * 400),
    ),
    "another index": ("index", lambda c: index_of(c, "DROP TABLE chunks")),
    "a damaged count": ("count", lambda c: replace(c / ".cache_metadata/usage", b"\0" * 31)),
    "a wrong count": (
        "count",
        lambda c: CacheManager(c).budget.ledger.add({"project": 10 << 20}),
    ),
    "a damaged owner": ("record", lambda c: replace(c / ".cache_metadata/source", b"me")),
}


def index_of(cache: Path, statement: str) -> None:
    db = sqlite3.connect(cache / ".cache_metadata" / "entries.db")
    db.executescript(statement)
    db.close()


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_is_found_and_removed(tmp_path: Path, damage: str) -> None:
    kind, do = DAMAGE[damage]
    cache = fill(tmp_path)
    do(cache)
    before = {path: path.lstat() for path in cache.rglob("*")}
    report = verify(cache)
    assert {problem.kind for problem in report.problems} == {kind}, report.problems
    assert {path: path.lstat() for path in cache.rglob("*")}.keys() == before.keys()
    manager = CacheManager(cache)
    repair(manager, report)
    manager.close()
    assert verify(cache).problems == []
    readable_at_once(cache)
    assert verify(cache).problems == []
    assert os.path.exists("/etc/passwd")


def test_a_database_that_is_locked_or_newer_is_no_problem(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    index_of(cache, "PRAGMA user_version = 99")
    assert verify(cache).problems == []
    index_of(cache, "PRAGMA user_version = 1")
    db = sqlite3.connect(cache / ".cache_metadata" / "entries.db", isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    assert verify(cache).problems == []
    db.close()


def test_repair_lets_running_readers_read_on(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    tomogram = opened(tmp_path / "project", cache)
    array = tomogram.array()
    whole = array.read(())
    for file in chunk_files(cache)[::2]:
        content = file.read_bytes()
        replace(file, content[:-1] + bytes([content[-1] ^ 1]))
    report = repair(open_manager(cache))
    assert len(report.problems) == 13
    np.testing.assert_array_equal(array.read(()), whole)
    open_manager(cache).budget.heal()
    np.testing.assert_array_equal(array.read(()), whole)
    assert verify(cache).problems == []
    assert open_manager(cache).budget.used() == chunk_bytes(cache)


# What killed processes leave


def test_leftovers_are_collected_when_they_are_old(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    write_array(tmp_path / "source", noise())
    store = cached_store(cache, tmp_path / "source")
    store.open_array("0").read(())
    store.cache_manager.close()
    (cache / "x.zarr" / "0" / ".cache_info").unlink()
    (cache / ".cache_metadata" / ".tmp-trash" / "0").mkdir(parents=True)
    for file in (cache / ".cache_metadata/.tmp-trash/0/chunk", cache / LEVEL / "1/1/.tmp-1-2-3"):
        file.write_bytes(b"x" * 1000)
    (cache / "ExperimentRuns" / "gone" / "Picks").mkdir(parents=True)
    report = verify(cache)
    assert sorted(report.leftovers) == [
        ".cache_metadata/.tmp-trash",
        f"{LEVEL}/1/1/.tmp-1-2-3",
        "x.zarr/0",
    ]
    assert report.problems == []
    manager = CacheManager(cache)
    assert collect(manager) == 0
    assert verify(cache).leftovers == report.leftovers
    assert collect(manager, older_than=0) >= 2000 + 27 * CHUNK_FILE
    manager.close()
    report = verify(cache)
    assert report.leftovers == report.problems == []
    assert report.chunks == 26
    assert not (cache / "x.zarr").exists()
    assert not (cache / "ExperimentRuns" / "gone").exists()
    readable_at_once(cache)


def test_the_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """Somebody's own arrays and documents in the folder."""
    cache = fill(tmp_path)
    write_tomogram(cache / "mine", noise())
    (cache / "notes.txt").write_text("mine")
    pending = cache / "pending" / "abc" / ".tmp-1"
    pending.mkdir(parents=True)
    before = sorted((cache / "mine").rglob("*"))
    report = verify(cache)
    assert report.problems == report.leftovers == []
    assert report.foreign > 27
    manager = CacheManager(cache)
    repair(manager)
    collect(manager, older_than=0)
    manager.close()
    assert sorted((cache / "mine").rglob("*")) == before
    assert (cache / "notes.txt").read_text() == "mine"
    assert pending.is_dir()


def test_there_must_be_a_cache(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no cache in"):
        verify(tmp_path)
    assert not list(tmp_path.iterdir())


# Commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    for name in ("COPICK_CONFIG", "COPICK_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*words: object, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["cache", *map(str, words)])
        assert result.exit_code == code, result.output
        return result

    return invoke


def configure(folder: Path, name: str = "config.json", **cache: Any) -> None:
    """A project of two layers, cached."""
    data = {
        "name": "p", "version": "2", "config_type": "multilayer", "user_id": "me", "pickable_objects": [],
        "layers": ["archive"], "layer_configs": {"archive": config_of(folder / "project")},
        "cache_config": {"root": str(folder / "cache"), "parent_layer": "*", **cache},
    }  # fmt: skip
    (folder / name).write_text(json.dumps(data))


def answer(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.mark.parametrize("by", ["--cache-dir", "--config", "environment"])
def test_commands_name_the_cache(
    tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    fill(tmp_path)
    configure(tmp_path)
    monkeypatch.setenv("COPICK_CACHE_DIR", str(tmp_path / ("cache" if by == "environment" else "none")))
    words = {"--cache-dir": ["--cache-dir", "cache"], "--config": ["--config", "config.json"]}.get(by, [])
    found = answer(run("stats", "--json", *words))
    assert (found["arrays"], found["chunks"], found["absent_chunks"]) == (1, 26, 1)
    assert found["size_bytes"] == found["counted_bytes"] - found["document_bytes"] == 26 * CHUNK_FILE
    assert found["max_size_bytes"] == (10 << 30 if by == "--config" else 0)
    assert found["last_process"]["misses"] == 27
    assert f"Size bytes: {26 * CHUNK_FILE}" in run("stats", *words).output


def test_a_cache_must_be_named_and_be_there(tmp_path: Path, run: Callable[..., Result]) -> None:
    assert "name the cache" in run("stats", code=2).output
    (tmp_path / "empty").mkdir()
    for command in ("stats", "info", "verify", "repair", "gc", "clear"):
        assert "there is no cache in" in run(command, "--cache-dir", "empty", code=1).output
    assert not list((tmp_path / "empty").iterdir())


def test_info_of_an_item(tmp_path: Path, run: Callable[..., Result]) -> None:
    fill(tmp_path)
    found = answer(run("info", LEVEL, "--cache-dir", "cache", "--json"))
    assert (found["path"], found["is_complete"], found["source_layer"]) == (LEVEL, True, "filesystem")
    assert "Is complete: True" in run("info", LEVEL, "--cache-dir", "cache").output
    assert "nothing is cached at" in run("info", "ExperimentRuns/R2", "--cache-dir", "cache", code=1).output
    assert "is no path of a project" in run("info", "../..", "--cache-dir", "cache", code=1).output


def test_prefetch_fills_the_cache(tmp_path: Path, run: Callable[..., Result]) -> None:
    write_tomogram(tmp_path / "project", noise())
    configure(tmp_path)
    found = answer(run("prefetch", "wbp@10.0", "-r", "R1", "-c", "config.json", "--level", 0, "--json"))
    assert found == {"tomograms": 1, "levels": 1, "chunks": 27}
    assert len(chunk_files(tmp_path / "cache")) == 27
    run("verify", "-c", "config.json")
    assert "no tomogram is named" in run("prefetch", "other", "-c", "config.json", code=1).output
    configure(tmp_path, "uncached.json", parent_layer=None)
    output = run("prefetch", "-c", "config.json", "--level", 7, code=1).output
    assert "has the level 7; the levels are 0 to" in output
    assert "are not cached" in run("prefetch", "-c", "uncached.json", code=1).output


def test_prefetch_says_what_cannot_be_read(tmp_path: Path, run: Callable[..., Result]) -> None:
    group = write_tomogram(tmp_path / "project", noise())
    (group / "0/1/1/1").write_bytes(b"damaged")
    configure(tmp_path)
    assert "1/1/1" in run("prefetch", "-c", "config.json", code=1).output
    assert len(chunk_files(tmp_path / "cache")) == 26


def test_verify_and_repair_say_what_is_wrong(tmp_path: Path, run: Callable[..., Result]) -> None:
    cache = fill(tmp_path)
    file = chunk_files(cache)[0]
    content = file.read_bytes()
    replace(file, content[:-1] + bytes([content[-1] ^ 1]))
    name = file.relative_to(cache).as_posix()
    failed = run("verify", "--cache-dir", "cache", code=1)
    assert f"chunk     {name}: its checksum does not match" in failed.output
    assert "1 problem; `copick cache repair` removes what is wrong" in failed.output
    run("verify", "--cache-dir", "cache", "--fast")
    (problem,) = answer(run("repair", "--cache-dir", "cache", "--json"))["problems"]
    assert problem == {"path": name, "kind": "chunk", "text": "its checksum does not match"}
    assert "25 chunks" in run("verify", "--cache-dir", "cache").output


def test_clear_forgets_a_part_or_all(tmp_path: Path, run: Callable[..., Result]) -> None:
    fill(tmp_path)
    write_array(tmp_path / "source", noise())
    cached_store(tmp_path / "cache", tmp_path / "source").open_array("0").read(())
    where = ("--cache-dir", "cache")
    assert "nobody said yes; --yes does not ask" in run("clear", *where, code=2).output
    for path, problem in (
        ("../..", "is no path of a project"),
        ("ExperimentRuns/R9", "nothing is cached at"),
    ):
        output = run("clear", path, *where, code=1).output
        assert problem in output
        assert "Remove" not in output
    assert answer(run("clear", TOMOGRAM, "-y", *where, "--json")) == {"freed_bytes": 26 * CHUNK_FILE}
    papers = sum(file.stat().st_size for file in (tmp_path / "cache").rglob(".cache_info.*"))
    assert papers > 0
    assert answer(run("clear", "--yes", *where, "--json")) == {"freed_bytes": 27 * CHUNK_FILE + papers}
    assert chunk_files(tmp_path / "cache") == []


def test_gc_removes_what_has_expired_and_what_is_too_much(tmp_path: Path, run: Callable[..., Result]) -> None:
    fill(tmp_path)
    assert answer(run("gc", "--cache-dir", "cache", "--json")) == {"freed_bytes": 0}
    configure(tmp_path, max_size_bytes=5 * CHUNK_FILE)
    assert answer(run("gc", "-c", "config.json", "--json"))["freed_bytes"] >= 21 * CHUNK_FILE
    assert len(chunk_files(tmp_path / "cache")) <= 5
    configure(tmp_path, max_age=0.001)
    time.sleep(0.01)
    assert answer(run("gc", "-c", "config.json", "--json"))["freed_bytes"] > 0
    assert not list((tmp_path / "cache").rglob(".cache_info.*"))
    shutil.rmtree(tmp_path / "cache")
