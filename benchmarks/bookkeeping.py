"""Rows about what the cache does beside copying: bookkeeping of a hit, and the index of a large cache."""

from __future__ import annotations

import sqlite3
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contenders import native_array
from benchmarks.measure import Timing, race, ratio
from benchmarks.report import Row
from benchmarks.workloads import LEVEL, boxes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from benchmarks.__main__ import Bench
    from benchmarks.contenders import Place
    from copick.cache.manager import CacheManager
    from copick.cache.store import CachingZarrStore

MICROSECOND = 1e6
READS = 20_000
SIZE = 1 << 20
"""Bytes of a chunk in the index."""


def hit(bench: Bench) -> Iterator[Row]:
    """Finding, noting and copying one voxel in a held chunk; and whether the journal's thread slows readers down."""
    from copick.cache.manager import CacheManager

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
        _view(place, CacheManager(bench.folder / f"journal-{started}"), started) for started in (False, True)
    )
    timings = race(
        {"journal on": lambda box: with_journal.read(box), "journal off": lambda box: without.read(box)},
        partial(boxes, scale, scale.reads),
        90 * scale.rounds,  # some 15 s, in which the journal's thread works a few times
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


def _store(place: Place, manager: CacheManager) -> CachingZarrStore:
    from zarr.storage import LocalStore

    from copick.cache.store import CachingZarrStore

    source = LocalStore(place.root / place.volume.key, read_only=True)
    return CachingZarrStore(manager.cache_root / place.volume.key, source, manager)


def _view(place: Place, manager: CacheManager, started: bool = False) -> Any:
    """The volume, cached; a manager that believes it has `started` never starts its journal."""
    manager.started = started
    view = _store(place, manager).open_array(LEVEL)
    for _ in range(2):  # the first fills the cache, the second maps its files
        if not np.array_equal(view.read(()), place.data):
            raise RuntimeError("reads other data than was written")
    return view


def index(bench: Bench) -> Iterator[Row]:
    """A cache with very many chunks: remembering them, choosing what to evict, and reading while it learns of them."""
    from copick import _cachecore
    from copick.cache.manager import CacheManager

    scale, n = bench.scale, bench.scale.entries
    place = bench.place(scale.chunks[0])
    columns = np.empty((4, n), np.uint64)
    columns[0], columns[1], columns[2] = np.arange(n) // 1000 + 1, np.arange(n) % 1000, SIZE
    columns[3] = np.random.default_rng(3).permutation(n) + 1
    names = ("load into the index", "choose victims of 5 %", "open", "open and read a cached voxel")
    timings = {name: Timing() for name in (*names, "learn of all chunks", "slowest of 1,000 reads meanwhile")}
    root = bench.folder / "large"
    manager = CacheManager(root, max_size_bytes=0)
    _view(place, manager)
    manager.close()
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
        victims = native.victims(n // 20 * SIZE)
        note("choose victims of 5 %", began)
        if len(victims) != n // 20:
            raise RuntimeError(f"{len(victims)} victims instead of {n // 20}")
        memory = native.stats()["index_memory"] / n
        began = time.perf_counter()
        manager = CacheManager(root, max_size_bytes=int(1.01 * (n * SIZE + place.data.nbytes)))
        note("open", began)
        array = _store(place, manager).open_array(LEVEL)
        array.read((slice(1),) * 3)
        note("open and read a cached voxel", began)
        timings["slowest of 1,000 reads meanwhile"].rounds.append(
            _read_while_learning(manager, array, n, note)
        )
        manager.close()
    row = Row("index", f"a cache of {n:,} chunks", "ms")
    timings["load into the index"].counts["bytes per entry"] = round(memory, 1)
    row.add(timings, 1e3)
    row.goal("opening (ms)", timings["open"].median * 1e3, 50)
    row.goal(
        "opening, and reading what is cached (ms)", timings["open and read a cached voxel"].median * 1e3, 50
    )
    row.goal(
        "slowest of 1,000 reads while all is learned (ms)",
        timings["slowest of 1,000 reads meanwhile"].median * 1e3,
        50,
    )
    row.goal("RAM per entry (bytes)", memory, 100)
    yield row


def _read_while_learning(
    manager: CacheManager, array: Any, chunks: int, note: Callable[[str, float], None]
) -> float:
    """Read cached voxels until the upkeep has taken in all chunks of `entries.db`; what one of 1,000 reads took, or more, in s."""
    began = time.perf_counter()
    upkeep = threading.Thread(target=manager.budget.heal)
    upkeep.start()
    ended, is_last = [began], False
    while not is_last:
        is_last = not upkeep.is_alive()
        array.read((slice(1),) * 3)
        ended.append(time.perf_counter())
    note("learn of all chunks", began)
    if manager.native.stats()["index_chunks"] < chunks:
        raise RuntimeError("the chunks of the database are not known")
    return float(np.quantile(np.diff(ended), 0.999))


def _write_database(root: Path, columns: npt.NDArray[np.uint64]) -> None:
    """Let an `entries.db` tell of many more chunks, as a large cache leaves it."""
    from copick.cache.geometry import Geometry
    from copick.cache.manager import CacheManager

    manager = CacheManager(root)
    geometry = Geometry((10, 10, 10), np.dtype("f4"), bytes(4), (1, 1, 1), (1, 1, 1), 2)
    for id in np.unique(columns[0]).tolist():
        manager.register(id, root / "ExperimentRuns" / str(id), geometry, "archive")
    manager.journal.flush()
    manager.budget.ledger.now()
    manager.budget.ledger.add({"archive": int(columns[2].sum())})
    with sqlite3.connect(manager.db_path) as db:
        db.executemany(
            "INSERT INTO chunks VALUES (?, ?, ?, ?)", zip(*(each.tolist() for each in columns), strict=True)
        )
    db.close()
