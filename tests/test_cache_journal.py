"""The index of a cache folder: written by a thread of its own, in batches, and made anew when it is lost."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.cache import journal as module
from copick.cache.journal import Journal
from copick.cache.manager import CacheManager
from support.volumes import CHUNK_FILE, cached_store, chunk_bytes, chunk_files, noise, python, write_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAYOUT = {"shape": [4]}


def journal_of(folder: Path, touches: list[tuple[int, int, int]] | None = None) -> Journal:
    """A journal whose native core noted these touches (array, chunk, microseconds), again and again."""
    table = np.array(touches or [], np.uint64).reshape(-1, 3).T
    return Journal(folder / "entries.db", lambda: table, lambda: None)


def rows(folder: Path) -> list[tuple[int, int, int, int]]:
    loaded = journal_of(folder).load()
    assert loaded is not None
    return sorted(zip(*(column.tolist() for column in loaded[1]), strict=True))


def until(holds: Callable[[], Any], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def journal_threads() -> int:
    return sum(thread.name == "copick-journal" for thread in threading.enumerate())


# One journal


def test_what_is_noted_is_written_and_loaded(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, [(1, 0, 500), (1, 1, 50), (1, 9, 70)])
    journal.note_array(1, "x/0", LAYOUT)
    journal.note_inserted(1, [0, 1, 2], 68, 100)
    assert journal.flush()
    loaded = journal.load()
    assert loaded is not None
    assert loaded[0] == {1: ("x/0", LAYOUT)}
    assert rows(tmp_path) == [(1, 0, 68, 500), (1, 1, 68, 100), (1, 2, 68, 100)]


def test_what_is_removed_is_gone_and_may_come_back(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    journal.note_inserted(1, range(4), 68, 100)
    journal.flush()
    journal.note_removed([(1, 0), (1, 1), (2, 5)])
    journal.note_inserted(1, [1], 70, 200)
    journal.flush()
    assert rows(tmp_path) == [(1, 1, 70, 200), (1, 2, 68, 100), (1, 3, 68, 100)]
    journal.note_inserted(1, [0], 68, 300)
    journal.note_removed([(1, 0)])
    journal.flush()
    assert len(rows(tmp_path)) == 3


def test_a_discarded_array_leaves_nothing(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    for id in (1, 2):
        journal.note_array(id, f"x/{id}", LAYOUT)
        journal.note_inserted(id, range(3), 68, 100)
    journal.flush()
    journal.note_inserted(1, [7], 68, 100)
    journal.note_discarded(1)
    journal.flush()
    loaded = journal.load()
    assert loaded is not None
    assert set(loaded[0]) == {2}
    assert {row[0] for row in rows(tmp_path)} == {2}


def test_what_a_look_at_the_files_found_replaces_what_was_known_before_it(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    for chunk, used in enumerate((100, 300, 600)):
        journal.note_inserted(1, [chunk], 68, used)
    journal.flush()
    found = [(1, 1, 70, 200), (1, 2, 70, 100), (2, 0, 68, 50)]
    journal.replace({1: ("x/1", LAYOUT), 2: ("x/2", LAYOUT)}, found, 500)
    # A use that is known to be later counts; what came while the files were looked at stays.
    assert rows(tmp_path) == [(1, 1, 70, 300), (1, 2, 70, 600), (2, 0, 68, 50)]
    journal.replace({}, found[:1], 500)
    assert rows(tmp_path) == [(1, 1, 70, 300), (1, 2, 70, 600)]
    loaded = journal.load()
    assert loaded is not None
    assert set(loaded[0]) == {1, 2}


def test_large_ids_survive(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    journal.note_array((1 << 62) + 1, "x", LAYOUT)
    journal.note_inserted((1 << 62) + 1, [(1 << 40)], 1 << 33, 1 << 51)
    assert journal.flush()
    assert rows(tmp_path) == [((1 << 62) + 1, 1 << 40, 1 << 33, 1 << 51)]


@pytest.mark.parametrize("at", [*range(0, 120, 3), 4096 - 40, 4096 - 20, *range(110, 400, 7)])
def test_a_flipped_bit_is_no_error_for_anybody(tmp_path: Path, at: int) -> None:
    path = tmp_path / "entries.db"
    journal = journal_of(tmp_path)
    journal.note_array(1, "x/0", LAYOUT)
    journal.note_inserted(1, range(3), 68, 100)
    assert journal.flush()
    pristine = path.read_bytes()
    for place in (at, pristine.index(b"CREATE TABLE arrays") + at):
        damaged = bytearray(pristine)
        damaged[place % len(damaged)] ^= 1 << at % 8
        path.write_bytes(damaged)
        damaged_journal = journal_of(tmp_path)
        damaged_journal.load()
        damaged_journal.note_inserted(1, [7], 68, 100)
        damaged_journal.flush()
        damaged_journal.replace({}, [], 1000)


@pytest.mark.parametrize("value", [-1, "text", None, b"bytes", 1.5])
def test_rows_of_another_kind_are_no_error_for_anybody(tmp_path: Path, value: Any) -> None:
    journal = journal_of(tmp_path)
    journal.note_array(1, "x/0", LAYOUT)
    journal.note_inserted(1, range(3), 68, 100)
    assert journal.flush()
    database = sqlite3.connect(journal.path)
    database.executescript("CREATE TABLE other (array, chunk, bytes, accessed); DROP TABLE chunks")
    database.executescript("ALTER TABLE other RENAME TO chunks")
    database.execute("INSERT INTO chunks VALUES (1, 2, ?, 4)", (value,))
    database.commit()
    database.close()
    loaded = journal.load()
    assert loaded is None or len(loaded[1][0]) == 1
    journal.note_inserted(1, [7], 68, 100)
    journal.flush()


def test_two_journals_of_one_folder_add_to_each_other(tmp_path: Path) -> None:
    def write(id: int) -> None:
        journal = journal_of(tmp_path)
        for chunk in range(20):
            journal.note_inserted(id, [chunk], 68, 100)
            assert journal.flush()

    threads = [threading.Thread(target=write, args=(id,)) for id in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(tmp_path)) == 80


def test_the_thread_starts_once_stops_and_starts_again(tmp_path: Path) -> None:
    journal, before = journal_of(tmp_path), journal_threads()
    for chunk in range(3):
        journal.start()
        journal.start()
        assert journal_threads() == before + 1
        journal.note_inserted(1, [chunk], 68, 100)
        journal.stop()
        assert journal_threads() == before
        assert len(rows(tmp_path)) == chunk + 1
    journal.stop()


def test_a_full_batch_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 60)
    journal = journal_of(tmp_path)
    journal.start()
    time.sleep(0.1)
    journal.note_inserted(1, range(module.BATCH), 68, 100)
    until(lambda: (tmp_path / "entries.db").exists() and len(rows(tmp_path)) == module.BATCH)
    journal.stop()


def test_upkeep_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    calls = []

    def tick() -> None:
        calls.append(1)
        raise OSError("the disk is gone")

    journal = Journal(tmp_path / "entries.db", lambda: np.empty((3, 0), np.uint64), tick)
    journal.start()
    until(lambda: len(calls) > 3)
    journal.stop()


# With a cache


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CacheManager:
    monkeypatch.setattr(module, "INTERVAL_S", 0.05)
    write_array(tmp_path / "source", noise())
    return cached_store(tmp_path / "cache", tmp_path / "source").cache_manager


def accessed(manager: CacheManager) -> dict[int, int]:
    database = sqlite3.connect(manager.db_path)
    try:
        return dict(database.execute("SELECT chunk, accessed FROM chunks"))
    finally:
        database.close()


def test_uses_reach_the_database_without_a_reader_writing(tmp_path: Path, manager: CacheManager) -> None:
    array = cached_store(tmp_path / "cache", tmp_path / "source", manager).open_array("0")
    array.read(())
    until(lambda: manager.db_path.exists() and len(accessed(manager)) == 27)
    manager.close()
    before = accessed(manager)
    time.sleep(0.01)
    array.read((slice(0, 1), slice(0, 1), slice(0, 1)))
    until(lambda: accessed(manager)[0] > before[0])
    assert {chunk for chunk, used in accessed(manager).items() if used > before[chunk]} == {0}
    manager.close()


def test_statistics_are_left_for_people(tmp_path: Path, manager: CacheManager) -> None:
    cached_store(tmp_path / "cache", tmp_path / "source", manager).open_array("0").read(())
    file = manager.db_path.parent / "stats.json"
    until(lambda: file.exists() and json.loads(file.read_text())["fetched_cells"] == 27)
    manager.close()
    document = json.loads(file.read_text())
    assert document["size_bytes"] == 27 * CHUNK_FILE
    assert document["inserts"] == 27


def test_who_counts_the_files_amid_writes_counts_each_once(
    tmp_path: Path, manager: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a chunk that lies there and is not noted yet, and one that is noted."""
    budget, noting = manager.budget, manager.budget.noting

    @contextmanager
    def counted_beside(room: Any) -> Iterator[None]:
        budget.rescan()
        with noting(room):
            yield
        budget.rescan()

    monkeypatch.setattr(budget, "noting", counted_beside)
    cached_store(tmp_path / "cache", tmp_path / "source", manager).open_array("0").read(())
    assert budget.used() == 27 * CHUNK_FILE


def test_a_closed_cache_has_written_everything_and_begins_again(
    tmp_path: Path, manager: CacheManager
) -> None:
    array = cached_store(tmp_path / "cache", tmp_path / "source", manager).open_array("0")
    before = journal_threads()
    for rounds in range(1, 3):
        array.read((slice(0, 16 * rounds),))
        manager.close()
        assert journal_threads() == before
        assert len(accessed(manager)) == 9 * rounds


@pytest.mark.parametrize("loss", ["deleted", "garbage", "emptied", "no tables"])
def test_a_lost_index_is_made_anew(
    tmp_path: Path, manager: CacheManager, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 60)
    array = cached_store(tmp_path / "cache", tmp_path / "source", manager).open_array("0")
    array.read(())
    manager.close()
    database = manager.db_path
    if loss == "deleted":
        database.unlink()
    elif loss == "no tables":
        connection = sqlite3.connect(database)
        connection.executescript("DROP TABLE chunks")
        connection.close()
    else:
        database.write_bytes(b"no index" * 999 if loss == "garbage" else b"")
    (tmp_path / "cache" / ".cache_metadata" / "usage").unlink()
    (tmp_path / "cache" / "x.zarr" / "0" / "1" / "1" / "1").unlink()
    np.testing.assert_array_equal(array.read(()), noise())
    for _ in range(2):  # as the journal's thread does every few seconds
        manager.journal.flush()
        manager.budget.heal()
    assert manager.get_stats()["rescans"]
    assert len(rows(database.parent)) == len(chunk_files(tmp_path / "cache")) == 27
    assert manager.budget.used() == chunk_bytes(tmp_path / "cache")
    manager.close()


def test_the_files_of_a_new_cache_are_counted_once(tmp_path: Path, manager: CacheManager) -> None:
    """A count beside writers is not exact, so there is none without need."""
    cached_store(tmp_path / "cache", tmp_path / "source", manager).open_array("0").read(())
    time.sleep(0.2)
    manager.close()
    assert manager.get_stats()["rescans"] == 1
    assert manager.budget.used() == chunk_bytes(tmp_path / "cache")


def test_no_thread_starts_before_the_first_read(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    code = """
import sys, threading
from pathlib import Path
from support.volumes import cached_store
array = cached_store(Path(sys.argv[1]), Path(sys.argv[2])).open_array("0")
print([thread.name for thread in threading.enumerate() if thread.name.startswith("copick")])
array.read(())
print(sum(thread.name == "copick-journal" for thread in threading.enumerate()))
"""
    ended = python(code, tmp_path / "cache", tmp_path / "source")
    assert ended.stdout == "[]\n1\n", ended.stderr


def test_arrays_that_are_gone_are_let_go_of(tmp_path: Path, manager: CacheManager) -> None:
    """Also where nobody holds them any more, and another process replaced them."""
    cache, group = tmp_path / "cache", tmp_path / "source"
    other = CacheManager(cache)
    for seed in range(5):
        cached_store(cache, group, manager).open_array("0").read(())
        other.discard(cache / "x.zarr")
        write_array(group, noise(seed=seed))
        cached_store(cache, group, other).open_array("0").read(())
    cached_store(cache, group, manager).open_array("0").read(())
    assert len(manager.budget.layouts) == 1
    assert manager.budget._chunks_read() == len(chunk_files(cache)) == 27
    assert manager.native.stats()["held"] <= 27
    other.discard(cache / "x.zarr")
    cached_store(cache, group, other).open_array("0").read(())
    manager.budget.heal()
    assert manager.native.stats()["held"] == 0
    other.close()
    manager.close()


def test_what_killed_processes_left_in_the_database_is_found_out(
    tmp_path: Path, manager: CacheManager
) -> None:
    cached_store(tmp_path / "cache", tmp_path / "source", manager).open_array("0").read(())
    ((_, geometry),) = manager.budget.layouts.values()
    for id in (7, 8):  # what else those noted is lost
        manager.journal.note_array(id, "x.zarr/0", {**geometry.to_json(), "layer": ""})
    manager.journal.flush()
    assert manager.journal.arrays() >= {7, 8}
    manager.budget._load()
    manager.budget.rescan()
    assert len(manager.journal.arrays()) == len(manager.budget.layouts) == 1
    assert not manager.journal.arrays() & {7, 8}
    manager.close()


def test_no_process_forks_while_a_thread_is_inside_sqlite(tmp_path: Path) -> None:
    code = """
import os, sys, threading, time
from pathlib import Path
from copick.cache.manager import CacheManager
journal, inside, left = CacheManager(Path(sys.argv[1])).journal, threading.Event(), []
def work():
    with journal._open():
        inside.set()
        time.sleep(0.5)
        left.append(True)
threading.Thread(target=work).start()
inside.wait()
pid = os.fork()
if pid == 0:
    os._exit(0 if left and journal.load() is not None and journal.flush() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    ended = python(code, tmp_path / "cache")
    assert ended.returncode == 0, ended.stderr


def test_a_failure_of_upkeep_does_not_end_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 1:
            raise RuntimeError("no thread can be started")

    journal = Journal(tmp_path / "entries.db", lambda: np.empty((3, 0), np.uint64), tick)
    journal.start()
    until(lambda: len(ticks) > 1)
    journal.stop()
    assert "no thread can be started" in caplog.text
