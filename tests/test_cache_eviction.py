"""The budget of a cache folder, and what goes when it is used up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zarr.storage import LocalStore

from copick.cache import budget as module
from copick.cache import folder as folders
from copick.cache import info
from copick.cache.manager import CacheManager, open_manager
from copick.cache.store import CachingZarrStore
from copick.errors import NotFoundError
from copick.layers import build
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

    from copick.arrays import ArraySource

Names = set[str]


def box(*at: int) -> tuple[slice, ...]:
    """The slices of one chunk."""
    return tuple(slice(16 * i, 16 * i + 16) for i in at)


def names(cache: Path, array: str = "x.zarr/0") -> Names:
    """Which chunks of an array are on disk."""
    return {path.relative_to(cache / array).as_posix() for path in chunk_files(cache / array)}


def layer_array(manager: CacheManager, source: Path, layer: str) -> ArraySource:
    """A volume of a layer, as `CachedLayer` opens it."""
    folder = manager.cache_root / layer / "x.zarr"
    store = CachingZarrStore(
        folder, lambda: LocalStore(source, read_only=True), manager, origin=info.Origin(layer, layer)
    )
    return store.open_array("0")


# Within the budget


@pytest.mark.parametrize("fetch_threads", [1, 16])
def test_the_shared_total_is_what_lies_in_the_folder(tmp_path: Path, fetch_threads: int) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source", fetch_threads=fetch_threads)
    store.open_array("0").read(())
    written = chunk_bytes(tmp_path / "cache")
    assert written == 27 * CHUNK_FILE
    assert abs(store.cache_manager.get_stats()["size_bytes"] - written) < CHUNK_FILE


@pytest.mark.parametrize("policy", ["lru", "epoch", "pin"])
@pytest.mark.parametrize("fetch_threads", [1, 16])
@pytest.mark.parametrize("readers", [1, 2])
def test_the_folder_stays_within_its_budget(
    tmp_path: Path, readers: int, fetch_threads: int, policy: Any
) -> None:
    """Two readers, each with a manager of its own as in two processes, evict each other's chunks."""
    data = noise()
    write_array(tmp_path / "source", data)
    budget = 10 * CHUNK_FILE
    arrays = [
        cached_store(
            tmp_path / "cache",
            tmp_path / "source",
            max_size_bytes=budget,
            fetch_threads=fetch_threads,
            policy=policy,
        ).open_array("0")
        for _ in range(readers)
    ]
    for _ in range(5):
        for array in arrays:
            np.testing.assert_array_equal(array.read(()), data)
            assert chunk_bytes(tmp_path / "cache") <= budget


def test_eviction_leaves_some_room_and_not_more(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise((64, 64, 64)))
    limit = 40 * CHUNK_FILE
    store = cached_store(tmp_path / "cache", tmp_path / "source", max_size_bytes=limit, fetch_threads=1)
    array = store.open_array("0")
    least = limit
    for at in np.ndindex(4, 4, 4):
        array.read(box(*at))
        if store.cache_manager.get_stats().get("evicted"):
            least = min(least, chunk_bytes(tmp_path / "cache"))
    assert least >= 0.95 * limit - CHUNK_FILE
    assert chunk_bytes(tmp_path / "cache") <= limit


def test_a_limit_that_was_lowered_counts(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    store.open_array("0").read(())
    manager = CacheManager(tmp_path / "cache", max_size_bytes=10 * CHUNK_FILE)
    assert manager.budget.shrink() == 27 * CHUNK_FILE - chunk_bytes(tmp_path / "cache") >= 17 * CHUNK_FILE
    assert manager.budget.shrink() == 0
    assert 9 * CHUNK_FILE <= chunk_bytes(tmp_path / "cache") == manager.budget.used()


def test_who_waits_for_room_waits_for_a_few_chunks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)
    write_array(tmp_path / "source", noise((64, 64, 64)))
    store = cached_store(
        tmp_path / "cache", tmp_path / "source", max_size_bytes=60 * CHUNK_FILE, fetch_threads=1
    )
    array, manager, order = store.open_array("0"), store.cache_manager, list(np.ndindex(4, 4, 4))
    monkeypatch.setattr(module, "LOW_WATER", 0.5)
    for at in order[:61]:
        array.read(box(*at))
    assert len(names(tmp_path / "cache")) == 60 + 1 - 2
    manager.budget.heal()
    assert len(names(tmp_path / "cache")) == 30
    assert manager.budget.used() == chunk_bytes(tmp_path / "cache")
    manager.budget.heal()
    assert len(names(tmp_path / "cache")) == 30
    manager.close()


# Who goes


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(
        tmp_path / "cache", tmp_path / "source", max_size_bytes=26 * CHUNK_FILE, fetch_threads=1
    )
    array, manager = store.open_array("0"), store.cache_manager
    order = list(np.ndindex(3, 3, 3))
    for at in order[:26]:
        array.read(box(*at))
    time.sleep(1.1)  # uses are noted once per second
    array.read(box(*order[0]))
    array.read(box(*order[26]))  # comes, and with it some room
    gone = {"/".join(map(str, at)) for at in order} - names(tmp_path / "cache")
    assert gone == {"0/0/1", "0/0/2", "0/1/0"}
    assert manager.get_stats()["evicted"] == 3
    manager.close()


@pytest.mark.parametrize("told", ["in the database", "not yet told"])
def test_uses_and_chunks_of_other_processes_count(tmp_path: Path, told: str) -> None:
    """What another process just wrote never goes in the place of what is older."""
    write_array(tmp_path / "source", noise())
    limit = {"max_size_bytes": 12 * CHUNK_FILE, "fetch_threads": 1}
    mine, theirs = (cached_store(tmp_path / "cache", tmp_path / "source", **limit) for _ in range(2))
    order = list(np.ndindex(3, 3, 3))
    for at in order[:12]:
        mine.open_array("0").read(box(*at))
    assert mine.cache_manager.journal.flush()
    # The other one evicts the oldest, and fetches one of them again.
    for at in (*order[12:15], order[0]):
        theirs.open_array("0").read(box(*at))
    new = {"/".join(map(str, at)) for at in (*order[12:15], order[0])}
    assert new < names(tmp_path / "cache")
    if told == "in the database":
        assert theirs.cache_manager.journal.flush()
    mine.cache_manager.budget._learn_again = 0.0  # some seconds later
    for at in order[15:21]:
        mine.open_array("0").read(box(*at))
    assert new < names(tmp_path / "cache")
    assert chunk_bytes(tmp_path / "cache") <= limit["max_size_bytes"]


def test_chunks_that_somebody_else_removed_are_no_error(tmp_path: Path) -> None:
    data = noise()
    write_array(tmp_path / "source", data)
    store = cached_store(
        tmp_path / "cache", tmp_path / "source", max_size_bytes=20 * CHUNK_FILE, fetch_threads=1
    )
    array = store.open_array("0")
    for turn in range(3):
        np.testing.assert_array_equal(array.read(()), data)
        for path in chunk_files(tmp_path / "cache")[turn::2]:
            path.unlink()
    np.testing.assert_array_equal(array.read(()), data)
    assert chunk_bytes(tmp_path / "cache") <= 20 * CHUNK_FILE
    assert not [name for name in store.cache_manager.get_stats() if name.startswith("failed")]


# Looking at the files


def test_a_cache_that_is_almost_full_is_known_before_there_must_be_room(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    limit = {"max_size_bytes": 27 * CHUNK_FILE}
    store = cached_store(tmp_path / "cache", tmp_path / "source", **limit)
    store.open_array("0").read(())
    store.cache_manager.close()
    for share, known in ((3, 0), (1, 27)):
        manager = CacheManager(tmp_path / "cache", max_size_bytes=share * limit["max_size_bytes"])
        assert manager.native.stats()["index_chunks"] == 0
        manager.budget.heal()
        assert manager.native.stats()["index_chunks"] == known


def test_nobody_waits_for_many_files_to_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    store.open_array("0").read((slice(0, 16),))
    store.cache_manager.close()
    (tmp_path / "cache" / ".cache_metadata" / "usage").unlink()

    go, found = threading.Event(), folders.cached_files
    monkeypatch.setattr(module, "LOOK_S", 0.1)
    monkeypatch.setattr(module, "cached_files", lambda root: go.wait(60) and found(root))
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    array, manager, began = store.open_array("0"), store.cache_manager, time.monotonic()
    for _ in range(2):
        np.testing.assert_array_equal(array.read(()), noise())
    assert time.monotonic() - began < 30
    assert manager.get_stats()["size_bytes"] is None
    assert manager.get_stats()["bypassed"] == 18 + 18
    assert not manager.get_stats()["failures"]
    go.set()
    while manager.budget.used() is None:
        assert time.monotonic() - began < 60
        time.sleep(0.01)
    np.testing.assert_array_equal(array.read(()), noise())
    assert manager.budget.used() == chunk_bytes(tmp_path / "cache") == 27 * CHUNK_FILE
    manager.close()


@pytest.mark.parametrize("room", [10, 40])
def test_counting_the_files_beside_writers_loses_nothing(tmp_path: Path, room: int) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(
        tmp_path / "cache", tmp_path / "source", max_size_bytes=room * CHUNK_FILE, fetch_threads=4
    )
    array, manager, ended = store.open_array("0"), store.cache_manager, threading.Event()

    def look() -> None:
        while not ended.is_set():
            manager.budget.rescan()

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(12):
        np.testing.assert_array_equal(array.read(()), noise())
        if room > 27:
            manager.clear_all()
    ended.set()
    looking.join()
    lies, booked = chunk_bytes(tmp_path / "cache"), manager.budget.used()
    assert lies <= room * CHUNK_FILE
    assert booked is not None
    # What one of the threads is writing while it is counted may count twice until the next count.
    assert lies <= booked <= lies + 4 * CHUNK_FILE
    assert manager.check()
    manager.close()


# Several processes

READER = """
import sys
import numpy as np
from pathlib import Path
from support.volumes import cached_store, noise
seed, limit, policy = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
store = cached_store(Path(sys.argv[1]), Path(sys.argv[2]), max_size_bytes=limit, policy=policy, fetch_threads=2)
array, data, random = store.open_array("0"), noise((64, 64, 64)), np.random.default_rng(seed)
for _ in range(150):
    z, y, x = random.integers(0, 48, 3)
    box = (slice(z, z + 16), slice(y, y + 16), slice(x, x + 16))
    assert np.array_equal(array.read(box), data[box])
store.cache_manager.close()
assert store.cache_manager.check()
failed = [name for name in store.cache_manager.get_stats() if name.startswith("failed")]
assert not failed, failed
"""


@pytest.mark.parametrize("policy", ["lru", "epoch"])
def test_processes_that_evict_at_once_stay_between_the_marks(tmp_path: Path, policy: str) -> None:
    write_array(tmp_path / "source", noise((64, 64, 64)))
    limit, readers = 30 * CHUNK_FILE, 4
    ended: list[Any] = [None] * readers
    seen, told = [0], [0]
    watching = CacheManager(tmp_path / "cache")

    def run(number: int) -> None:
        ended[number] = python(
            READER, tmp_path / "cache", tmp_path / "source", number, limit, policy, timeout=240
        )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(chunk_bytes_now(tmp_path / "cache"))
        told.append(watching.budget.used() or 0)
        time.sleep(0.005)
    for each in ended:
        assert each.returncode == 0, each.stderr
    # What comes and goes while the files are counted may be counted, or not.
    assert max(seen) <= limit + 2 * readers * CHUNK_FILE
    # With what is reserved. What found no room in the end leaves its own.
    full = next(at for at, size in enumerate(told) if size >= 0.95 * limit)
    assert min(told[full:]) >= 0.95 * limit - 2 * readers * CHUNK_FILE
    assert watching.budget.used() == chunk_bytes(tmp_path / "cache") <= limit


def chunk_bytes_now(cache: Path) -> int:
    """As `chunk_bytes`, while files come and go."""
    total = 0
    for path in cache.rglob("*"):
        if path.name.isdigit():
            try:
                total += path.stat().st_size * path.is_file()
            except OSError:
                continue
    return total


# Quotas


def test_a_layer_over_its_quota_gives_up_its_own_chunks_first(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    manager = CacheManager(
        tmp_path / "cache", fetch_threads=1, max_size_bytes=40 * CHUNK_FILE, quotas={"small": 8 * CHUNK_FILE}
    )
    small, large = (layer_array(manager, tmp_path / "source", layer) for layer in ("small", "large"))
    for at in np.ndindex(3, 3, 3):
        small.read(box(*at))
        large.read(box(*at))
    assert len(names(tmp_path / "cache", "large/x.zarr/0")) == 27
    last = {"/".join(map(str, at)) for at in list(np.ndindex(3, 3, 3))[19:]}
    assert names(tmp_path / "cache", "small/x.zarr/0") in (last, last - {"2/0/1"})
    assert manager.check()
    manager.close()


def test_a_quota_that_was_lowered_counts_when_room_is_needed(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    manager = CacheManager(tmp_path / "cache", fetch_threads=1, max_size_bytes=30 * CHUNK_FILE)
    large, small = (layer_array(manager, tmp_path / "source", layer) for layer in ("large", "small"))
    large.read((slice(16, 48),))
    small.read((slice(0, 16),))
    manager.budget.quotas = {"small": 4 * CHUNK_FILE}
    large.read(())  # those of the other layer were used longer ago, and stay
    assert len(names(tmp_path / "cache", "large/x.zarr/0")) == 27
    assert len(names(tmp_path / "cache", "small/x.zarr/0")) == 3
    manager.close()


def test_all_processes_share_a_quota(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    limits: dict[str, Any] = {"quotas": {"a": 10 * CHUNK_FILE}, "fetch_threads": 1}
    managers = [CacheManager(tmp_path / "cache", **limits) for _ in range(2)]
    readers = [layer_array(manager, tmp_path / "source", "a") for manager in managers]
    for number, at in enumerate(np.ndindex(3, 3, 3)):
        readers[number % 2].read(box(*at))
        assert chunk_bytes(tmp_path / "cache") <= 10 * CHUNK_FILE
    # One that knows of no quota counts all the same.
    plain = CacheManager(tmp_path / "cache", fetch_threads=1)
    layer_array(plain, tmp_path / "source", "a").read(())
    assert chunk_bytes(tmp_path / "cache") == 27 * CHUNK_FILE
    plain.close()
    managers[0].budget._learn_again = 0.0  # some seconds later
    managers[0].budget.shrink()
    assert chunk_bytes(tmp_path / "cache") <= 10 * CHUNK_FILE
    for manager in managers:
        manager.close()


@pytest.mark.parametrize("policy", ["epoch", "pin"])
def test_a_layer_at_its_quota_is_full_for_the_other_policies(tmp_path: Path, policy: Any) -> None:
    write_array(tmp_path / "source", noise())
    manager = CacheManager(
        tmp_path / "cache", fetch_threads=1, quotas={"small": 8 * CHUNK_FILE}, policy=policy
    )
    for layer in ("small", "large"):
        np.testing.assert_array_equal(layer_array(manager, tmp_path / "source", layer).read(()), noise())
    assert len(names(tmp_path / "cache", "small/x.zarr/0")) == 8
    assert len(names(tmp_path / "cache", "large/x.zarr/0")) == 27
    assert manager.get_stats()["refused"] >= 19 - 6  # some come in by chance
    manager.close()


def test_a_config_says_how_to_evict(tmp_path: Path, own_managers: None) -> None:
    write_tomogram(tmp_path / "project", noise())
    fields = {"policy": "epoch", "quotas": {"filesystem": 8 * CHUNK_FILE}}
    tomogram = opened(tmp_path / "project", tmp_path / "cache", fields)
    np.testing.assert_array_equal(tomogram.numpy(), noise())
    assert chunk_bytes(tmp_path / "cache") <= 8 * CHUNK_FILE
    manager = open_manager(tmp_path / "cache", policy="epoch", quotas=fields["quotas"])
    assert manager.get_stats()["refused"]
    assert manager.limits["policy"] == "epoch"
    assert manager.limits["quotas"] == fields["quotas"]


# Listings and documents


def remember(manager: CacheManager, count: int, size: int = 1000) -> list[Path]:
    """Documents in the folder, the first the oldest."""
    files = [manager.cache_root / "ExperimentRuns" / f"R{at}" / f"{info.FILE}.picks" for at in range(count)]
    for at, file in enumerate(files):
        manager.remember(file, bytes(size))
        if file.exists():
            os.utime(file, (1e9 + at, 1e9 + at))
    return files


def test_documents_count_and_go_last(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(
        tmp_path / "cache", tmp_path / "source", max_size_bytes=10 * CHUNK_FILE, fetch_threads=1
    )
    manager, array = store.cache_manager, store.open_array("0")
    documents = remember(manager, 4, CHUNK_FILE)
    for _ in range(2):
        array.read(())
        assert 5 * CHUNK_FILE <= chunk_bytes(tmp_path / "cache") <= 6 * CHUNK_FILE
    assert all(file.exists() for file in documents)
    assert manager.get_stats()["document_bytes"] == 4 * CHUNK_FILE

    manager.budget.limit = 7 * CHUNK_FILE
    manager.budget.heal()  # nothing was remembered since: no hurry
    documents += remember(manager, 6, CHUNK_FILE)[4:]
    manager.budget.heal()
    assert chunk_bytes(tmp_path / "cache") <= CHUNK_FILE
    assert all(file.exists() for file in documents)

    manager.budget.limit, before = 5 * CHUNK_FILE, chunk_bytes(tmp_path / "cache")
    assert manager.budget.shrink() == before + CHUNK_FILE
    assert [file.exists() for file in documents] == [False, True, True, True, True, True]
    assert not chunk_files(tmp_path / "cache")
    manager.close()


def test_documents_that_are_forgotten_do_not_count(tmp_path: Path) -> None:
    manager = CacheManager(tmp_path)
    documents = remember(manager, 5)
    for number in range(3):
        manager.remember(documents[0], bytes(500 * number))
    assert manager.budget.ledger.now().documents == 5 * 1000
    manager.forget(documents[1], documents[2].parent)
    assert manager.budget.ledger.now().documents == 3 * 1000
    CacheManager(tmp_path).budget.rescan()
    manager.budget.heal()
    assert manager.budget.ledger.now().documents == 3 * 1000


@pytest.mark.parametrize("policy", ["lru", "pin"])
def test_documents_that_have_no_room_are_not_remembered(tmp_path: Path, policy: Any) -> None:
    write_array(tmp_path / "source", noise())
    limits: dict[str, Any] = {"max_size_bytes": 5 * CHUNK_FILE, "policy": policy}
    store = cached_store(tmp_path / "cache", tmp_path / "source", **limits)
    store.open_array("0").read(())
    manager = store.cache_manager
    (large,) = remember(manager, 1, 6 * CHUNK_FILE)
    assert not large.exists()
    assert all(file.exists() == (policy == "lru") for file in remember(manager, 2))
    assert manager.get_stats()["refused_documents"] == (3 if policy == "pin" else 1)


def test_listings_and_documents_of_a_project_are_counted(tmp_path: Path, own_managers: None) -> None:
    write_tomogram(tmp_path / "project", noise())
    opened(tmp_path / "project", tmp_path / "cache").numpy()
    manager = open_manager(tmp_path / "cache")
    found = [path.stat().st_size for path in (tmp_path / "cache").rglob(f"{info.FILE}.*")]
    assert found
    assert manager.budget.ledger.now().documents == sum(found)


# What waits to be passed on


def test_changes_that_wait_are_never_touched(tmp_path: Path) -> None:
    assert folders.PENDING == build.PENDING
    write_array(tmp_path / "source", noise())
    waiting = tmp_path / "cache" / folders.PENDING / "0123" / "ExperimentRuns"
    write_array(waiting / "new.zarr", noise())
    (waiting / f"{info.FILE}.picks").write_bytes(bytes(99))
    (waiting / f"{info.TEMPORARY}old").write_bytes(bytes(99))
    os.utime(waiting / f"{info.TEMPORARY}old", (1e9, 1e9))
    before = set((tmp_path / "cache").rglob("*"))
    store = cached_store(tmp_path / "cache", tmp_path / "source", max_size_bytes=3 * CHUNK_FILE)
    store.open_array("0").read(())
    manager = store.cache_manager
    manager.budget.rescan()
    assert manager.budget.used() == chunk_bytes(tmp_path / "cache" / "x.zarr")
    assert manager.budget.ledger.now().documents == 0
    manager.budget.limit = 1
    manager.budget.shrink()
    assert not chunk_files(tmp_path / "cache" / "x.zarr")
    manager.clear_all()
    assert not (tmp_path / "cache" / "x.zarr").exists()
    assert before <= set((tmp_path / "cache").rglob("*"))


# The numbers


def test_the_statistics_tell_what_was_kept_saved_and_lost(tmp_path: Path) -> None:
    data = noise()
    data[:16, :16] = 0  # three chunks of nothing but fill value
    write_array(tmp_path / "source", data)
    store = cached_store(
        tmp_path / "cache", tmp_path / "source", max_size_bytes=20 * CHUNK_FILE, fetch_threads=1
    )
    array, manager, raw = store.open_array("0"), store.cache_manager, CHUNK_FILE - 4
    array.read((slice(0, 16),))
    stats = manager.get_stats()
    assert (stats["misses"], stats["absent_chunks"], stats["decodes"]) == (9, 3, 9)
    assert stats["bytes_fetched"] == data[:16].nbytes
    assert (stats["hits"], stats["bytes_saved"]) == ({"memory": 0, "disk": 0, "absent": 0}, 0)
    for _ in range(2):
        array.read((slice(0, 16),))
    stats = manager.get_stats()
    assert stats["hits"] == {"memory": 9, "disk": 6, "absent": 3}
    assert stats["bytes_saved"] == 18 * raw
    assert (stats["misses"], stats["size_bytes"], stats["evictions"]) == (9, 6 * CHUNK_FILE, 0)
    array.read(())
    stats = manager.get_stats()
    assert stats["size_bytes"] == chunk_bytes(tmp_path / "cache")
    assert stats["evictions"] == 24 - len(chunk_files(tmp_path / "cache")) > 0
    assert (stats["dirty_bytes"], stats["failures"]) == (0, {})

    waiting = tmp_path / "cache" / folders.PENDING / "0123" / "picks.json"
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes(bytes(77))
    corrupt = chunk_files(tmp_path / "cache")[-1]
    flipped = bytearray(corrupt.read_bytes())
    flipped[5] ^= 1
    corrupt.write_bytes(flipped)
    manager.close()
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    np.testing.assert_array_equal(store.open_array("0").read(()), data)
    stats = store.cache_manager.get_stats()
    assert (stats["dirty_bytes"], stats["failures"]) == (77, {"corrupt": 1})
    store.cache_manager.close()
    written = json.loads((tmp_path / "cache" / ".cache_metadata" / "stats.json").read_text())
    for name in (
        "hits",
        "misses",
        "bytes_fetched",
        "bytes_saved",
        "decodes",
        "evictions",
        "failures",
        "absent_chunks",
    ):
        assert written[name] == stats[name]


# The volume


def test_a_volume_with_few_files_left_keeps_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_array(tmp_path / "source", noise())
    most = 12

    def lacks(root: Path, size: int) -> tuple[int, int]:
        return -1, 1 + len(chunk_files(tmp_path / "cache")) - most

    monkeypatch.setattr(module, "volume_lacks", lacks)
    store = cached_store(tmp_path / "cache", tmp_path / "source", max_size_bytes=0, fetch_threads=1)
    array = store.open_array("0")
    for _ in range(2):
        np.testing.assert_array_equal(array.read(()), noise())
        assert most - 2 <= len(chunk_files(tmp_path / "cache")) <= most


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="this system does not count files")
def test_what_a_volume_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Volume:
        f_frsize, f_blocks, f_bavail, f_files, f_favail = 4096, 1000, 100, 1000, 60

    monkeypatch.setattr(os, "statvfs", lambda path: Volume)
    assert folders.volume_lacks(tmp_path, 0) == (-50 * 4096, -9)
    assert folders.volume_lacks(tmp_path, 51 * 4096) == (4096, -9)
    Volume.f_favail = 40
    assert folders.volume_lacks(tmp_path, 0)[1] == 11
    Volume.f_files = Volume.f_favail = 0  # such as btrfs
    assert folders.volume_lacks(tmp_path, 0)[1] == 0


@pytest.fixture
def volume_of_few_files(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that holds 400 files."""
    folder = tmp_path / "volume"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=400", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting is not permitted here: {getattr(error, 'stderr', error)!r}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_volume_without_files_to_spare_is_left_some(tmp_path: Path, volume_of_few_files: Path) -> None:
    data = noise((64, 64, 64))
    write_array(tmp_path / "source", data, chunks=(8, 8, 8))
    array = cached_store(volume_of_few_files, tmp_path / "source", fetch_threads=1).open_array("0")
    for _ in range(2):
        np.testing.assert_array_equal(array.read(()), data)
        assert os.statvfs(volume_of_few_files).f_favail >= 0.04 * 400
    assert len(chunk_files(volume_of_few_files)) > 150


# Clearing


def test_everything_can_be_cleared(tmp_path: Path, own_managers: None) -> None:
    write_tomogram(tmp_path / "project", noise())
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    np.testing.assert_array_equal(tomogram.numpy(), noise())
    manager = open_manager(tmp_path / "cache")
    documents = manager.budget.ledger.now().documents
    assert manager.clear_all() == 27 * CHUNK_FILE + documents
    assert not chunk_files(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob(f"{info.FILE}*"))
    assert (manager.budget.used(), manager.budget.ledger.now().documents) == (0, 0)
    assert manager.clear_all() == 0
    np.testing.assert_array_equal(tomogram.numpy(), noise())
    assert chunk_bytes(tmp_path / "cache") == 27 * CHUNK_FILE == manager.budget.used()


def test_a_path_can_be_cleared(tmp_path: Path, own_managers: None) -> None:
    write_array(tmp_path / "source", noise())
    manager = open_manager(tmp_path / "cache", quotas={"a": 1 << 30})
    arrays = [layer_array(manager, tmp_path / "source", layer) for layer in "ab"]
    for array in arrays:
        array.read(())
    remember(manager, 2)
    assert manager.clear_path("a/x.zarr") == 27 * CHUNK_FILE
    assert manager.budget.ledger.now().chunks == {"a": 0, "b": 27 * CHUNK_FILE}
    assert manager.clear_path("ExperimentRuns/R1") == 1000
    assert manager.clear_path(f"ExperimentRuns/R0/{info.FILE}.picks") == 1000
    assert manager.clear_path("ExperimentRuns/R7") == 0
    np.testing.assert_array_equal(arrays[0].read(()), noise())
    assert manager.clear_path(".") == 2 * 27 * CHUNK_FILE


@pytest.mark.parametrize(
    "path", ["..", "../x", "a/../../x", ".cache_metadata", ".cache_metadata/usage", "pending/x"]
)
def test_what_is_not_cached_cannot_be_cleared(tmp_path: Path, path: str) -> None:
    manager = CacheManager(tmp_path / "cache")
    with pytest.raises(NotFoundError, match="is no path of a project"):
        manager.clear_path(path)


@pytest.mark.skipif(sys.platform == "win32", reason="files that are open are not removed there")
def test_a_reader_elsewhere_sees_that_the_cache_was_cleared(tmp_path: Path, own_managers: None) -> None:
    write_array(tmp_path / "source", noise())
    mine, other = (cached_store(tmp_path / "cache", tmp_path / "source") for _ in range(2))
    for store in (mine, other):
        np.testing.assert_array_equal(store.open_array("0").read(()), noise())
    write_array(tmp_path / "source", noise(seed=2))
    mine.cache_manager.clear_all()
    for store in (mine, other):
        np.testing.assert_array_equal(store.open_array("0").read(()), noise(seed=2))
