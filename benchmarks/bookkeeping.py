"""Rows about what the cache does beside copying: bookkeeping of a hit, and the index of a large cache."""

from __future__ import annotations

import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contenders import native_array
from benchmarks.measure import Timing, race, ratio
from benchmarks.report import Row
from benchmarks.workloads import LEVEL, boxes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.__main__ import Bench
    from benchmarks.contenders import Place

MICROSECOND = 1e6
READS = 20_000


def hit(bench: Bench) -> Iterator[Row]:
    """Finding, noting and copying one voxel in a held chunk; and whether the journal's thread slows readers down."""
    scale = bench.scale
    place = bench.place(scale.chunks[0])
    array = native_array(place, bench.folder / "native-hit")
    data, n = place.data, READS if scale.patch > 48 else READS // 10
    out, taken = np.zeros((n, 1, 1, 1), np.float32), np.zeros(n, np.float32)
    pairs = np.zeros((n, 2, 2, 2), np.float32)
    corner = np.full((n, 3), place.volume.chunk - 1)  # the last voxel before eight chunks meet

    def native(size: int, out: Any, starts: Any) -> None:
        array.patches(starts, (size,) * 3, out, 1)  # by one thread, which the public call does not offer

    def numpy(starts: Any) -> None:
        np.take(data.reshape(-1), np.ravel_multi_index(tuple(starts.T), data.shape), out=taken)

    # All at one place, in the processor's cache: what is left is bookkeeping, not the memory's latency.
    timings = race(
        {
            "one voxel, one chunk": partial(native, 1, out),
            "eight voxels, eight chunks": partial(native, 2, pairs),
            "one voxel by numpy": numpy,
        },
        lambda turn: [corner] * 5,
        max(scale.rounds, 3),
    )
    row = Row("hit", "bookkeeping of a hit", "ns")
    row.add(timings, 1e9 / n)
    one, eight, plain = (timing.median / n * 1e9 for timing in timings.values())
    row.goal("a read of one chunk, beyond numpy's (ns)", one - plain, 100)
    row.goal("a chunk more in the same read (ns)", (eight - one) / 7, 100)
    yield row

    with_journal, without = (
        _view(place, bench.folder / f"journal-{started}", started) for started in (False, True)
    )
    timings = race(
        {"journal on": lambda box: with_journal.read(box), "journal off": lambda box: without.read(box)},
        partial(boxes, scale, scale.reads),
        max(2 * scale.rounds, 2),
    )
    row = Row(
        "journal",
        f"warm {scale.patch}³ patch with and without the journal's thread",
        "ms",
        baseline="journal off",
    )
    row.add(timings, 1e3)
    row.goal("journal on / off", ratio(timings["journal on"], timings["journal off"]), 1.02)
    yield row


def _view(place: Place, root: Path, started: bool) -> Any:
    """The volume in a cache of its own; a manager that believes it has started never starts its journal."""
    from zarr.storage import LocalStore

    from copick.cache.manager import CacheManager
    from copick.cache.store import CachingZarrStore

    manager = CacheManager(root)
    manager.started = started
    source = LocalStore(place.root / place.volume.key, read_only=True)
    view = CachingZarrStore(root / place.volume.key, source, manager).open_array(LEVEL)
    for _ in range(2):  # the first fills the cache, the second maps its files
        if not np.array_equal(view.read(()), place.data):
            raise RuntimeError("reads other data than was written")
    return view


def index(bench: Bench) -> Iterator[Row]:
    """A cache with very many chunks: opening it, remembering them, choosing what to evict."""
    from copick import _cachecore
    from copick.cache.manager import CacheManager

    scale, n = bench.scale, bench.scale.entries
    columns = np.empty((4, n), np.uint64)
    columns[0], columns[1], columns[2] = np.arange(n) // 1000 + 1, np.arange(n) % 1000, 1 << 20
    columns[3] = np.random.default_rng(3).permutation(n) + 1
    timings = {
        name: Timing()
        for name in ("load into the index", "choose victims of 5 %", "open the cache", "read entries.db")
    }
    root = bench.folder / "large"
    _write_database(root, columns)
    memory = 0.0

    def note(name: str, began: float) -> None:
        timings[name].rounds.append(time.perf_counter() - began)

    for _ in range(max(1, scale.rounds // 2)):
        native = _cachecore.Cache()
        began = time.perf_counter()
        native.index_replace(columns, 0)
        note("load into the index", began)
        began = time.perf_counter()
        victims = native.victims(n // 20 << 20)
        note("choose victims of 5 %", began)
        if len(victims) != n // 20:
            raise RuntimeError(f"{len(victims)} victims instead of {n // 20}")
        memory = native.stats()["index_memory"] / n
        began = time.perf_counter()
        manager = CacheManager(root)
        note("open the cache", began)
        began = time.perf_counter()
        if manager.journal.load() is None:
            raise RuntimeError("the database was not read")
        note("read entries.db", began)
    row = Row("index", f"a cache of {n:,} chunks", "ms")
    timings["load into the index"].counts["bytes per entry"] = round(memory, 1)
    row.add(timings, 1e3)
    row.goal("opening (ms)", timings["open the cache"].median * 1e3, 50)
    row.goal("RAM per entry (bytes)", memory, 100)
    yield row


def _write_database(root: Path, columns: Any) -> None:
    """An `entries.db` as a cache leaves it."""
    from copick.cache.manager import CacheManager

    manager = CacheManager(root)
    manager.journal.note_array(1, "ExperimentRuns", {})
    manager.journal.flush()
    with sqlite3.connect(manager.db_path) as db:
        db.executemany(
            "INSERT INTO chunks VALUES (?, ?, ?, ?)", zip(*(each.tolist() for each in columns), strict=True)
        )
    db.close()
