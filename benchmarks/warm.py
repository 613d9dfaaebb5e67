"""Rows about warm reads: single patches, batches, and reads through zarr."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import contenders as who
from benchmarks.contenders import native_array, set_up
from benchmarks.measure import race, ratio
from benchmarks.report import Row
from benchmarks.workloads import boxes, corners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from benchmarks.__main__ import Bench
    from benchmarks.contenders import Place

SINGLE = (
    who.NumpyFresh, who.NumpyReused, who.NumpyKept, who.NumpyCollected, who.CopickFresh, who.CopickReused, who.CopickKept,
    who.CopickCollected, who.Tensorstore, who.Zarr, who.Zarrs, who.ZarrCacheStore,
)  # fmt: skip
THREADS = 2
STREAM_BYTES = 256 << 20


def patch(bench: Bench) -> Iterator[Row]:
    """A warm patch at a random place, for each chunk size."""
    scale = bench.scale
    for place in bench.places():
        chunk = place.volume.chunk
        title = f"warm {scale.patch}³ patch at random places, {chunk}³ chunks"
        row = Row(f"patch-{chunk}", title, "ms", baseline=who.NumpyFresh.name)
        with set_up(SINGLE, place, scale.patch) as (ready, missing):
            reads = {name: contender.read for name, contender in ready.items()}
            timings = race(reads, partial(boxes, scale, scale.reads), scale.rounds, scale.seconds)
        row.add(timings, 1e3)
        row.add_missing(missing)

        def against(
            one: type[who.Contender], other: type[who.Contender], timings: Any = timings
        ) -> float | None:
            found = timings.get(one.name), timings.get(other.name)
            return None if None in found else ratio(*found)

        row.goal("fresh result / numpy copy", against(who.CopickFresh, who.NumpyFresh), 1.0)
        row.goal("out= / np.copyto into a reused buffer", against(who.CopickReused, who.NumpyReused), 1.0)
        row.goal("the last 32 kept / numpy likewise", against(who.CopickKept, who.NumpyKept), 0.5)
        row.goal("32 at a time / numpy likewise", against(who.CopickCollected, who.NumpyCollected), 0.5)
        row.goal("fresh result / tensorstore", against(who.CopickFresh, who.Tensorstore), 1.0)
        limit = 200 if chunk >= 256 else 25
        row.goal("zarr-python / fresh result", against(who.Zarr, who.CopickFresh), limit, at_least=True)
        yield row


def zarr(bench: Bench) -> Iterator[Row]:
    """The same through zarr."""
    scale = bench.scale
    for place in bench.places():
        title = f"warm {scale.patch}³ patch through zarr-python, {place.volume.chunk}³ chunks"
        row = Row(f"zarr-{place.volume.chunk}", title, "ms", baseline=who.Zarr.name)
        with set_up((who.Zarr, who.CopickZarr), place, scale.patch) as (ready, missing):
            reads = {name: contender.read for name, contender in ready.items()}
            timings = race(reads, partial(boxes, scale, scale.reads), scale.rounds, scale.seconds)
        row.add(timings, 1e3)
        row.add_missing(missing)
        faster = ratio(timings[who.Zarr.name], timings[who.CopickZarr.name])
        row.goal("zarr-python on the original / through the cache", faster, 3, at_least=True)
        yield row


def batch(bench: Bench) -> Iterator[Row]:
    """Many patches at once, by one thread and by all; and what the machine's memory can give to one and to two threads."""
    stream = _Stream(STREAM_BYTES if bench.scale.patch > 48 else STREAM_BYTES >> 8)
    for place in bench.places():
        yield _batch(bench, place, stream)


def _batch(bench: Bench, place: Place, stream: _Stream) -> Row:
    scale = bench.scale
    size = (scale.patch,) * 3
    tomogram = place.tomogram
    tomogram.numpy()
    array = native_array(place, bench.folder / f"native-{place.volume.chunk}")
    out = np.zeros((scale.batch, *size), np.float32)
    pool = ThreadPoolExecutor(THREADS)

    def by_numpy(starts: npt.NDArray[np.int64], threads: int) -> None:
        """Each thread copies its share of the boxes, in Python."""
        parts = [range(first, len(starts), threads) for first in range(threads)]
        list(pool.map(partial(_copy_boxes, place.data, starts, scale.patch, out), parts))

    def native(starts: npt.NDArray[np.int64], threads: int) -> None:
        # The number of threads is not part of the public API.
        _, lacking = array.patches(starts, size, out, threads)
        if lacking:
            raise RuntimeError("the cache is not warm")

    one, every, numpy = "copick patches(out=), 1 thread", "copick patches(out=)", "numpy loop, {} threads"
    reads: dict[str, Callable[[Any], object]] = {
        numpy.format(1): partial(by_numpy, threads=1),
        numpy.format(THREADS): partial(by_numpy, threads=THREADS),
        one: partial(native, threads=1),
        every: lambda starts: tomogram.patches(starts, size, out=out),
        "copick patches()": lambda starts: tomogram.patches(starts, size),
    }
    streams = {f"stream, {n} threads": partial(stream.copy, n) for n in (1, THREADS)}
    starts = corners(scale, scale.batch, 0)
    reads[every](starts)
    for patch, (z, y, x) in zip(out, starts, strict=True):
        if not np.array_equal(patch, place.data[z : z + size[0], y : y + size[1], x : x + size[2]]):
            raise RuntimeError("a batch holds other data than was written")

    def work(turn: int) -> list[Any]:
        return [corners(scale, scale.batch, 1000 * turn + n) for n in range(max(3, scale.reads // 3))]

    timings = race({**reads, **streams}, work, scale.rounds)
    pool.shutdown()
    for name, timing in timings.items():
        moved = stream.nbytes if name in streams else out.nbytes
        timing.counts["GB/s"] = moved / timing.median / 1e9
        if name in reads:
            timing.counts["patches/s"] = round(scale.batch / timing.median)
    title = f"batch of {scale.batch} patches, {place.volume.chunk}³ chunks; stream: np.copyto of {stream.nbytes >> 20} MiB"
    row = Row(f"batch-{place.volume.chunk}", title, "ms", baseline=one)
    row.add(timings, 1e3)
    row.goal("rate with all threads / with one", ratio(timings[one], timings[every]), 1.6, at_least=True)
    row.goal(
        f"time / numpy loop, {THREADS} threads", ratio(timings[every], timings[numpy.format(THREADS)]), 1.0
    )
    return row


def _copy_boxes(
    data: npt.NDArray[Any], starts: npt.NDArray[np.int64], size: int, out: npt.NDArray[Any], which: range
) -> None:
    for at in which:
        z, y, x = starts[at]
        np.copyto(out[at], data[z : z + size, y : y + size, x : x + size])


class _Stream:
    """What the memory gives: one large copy, cut in as many parts as there are threads."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._from, self._to = np.ones(nbytes // 8), np.zeros(nbytes // 8)
        self._pool = ThreadPoolExecutor(THREADS)

    def copy(self, threads: int, _: object = None) -> None:
        parts = zip(np.array_split(self._to, threads), np.array_split(self._from, threads), strict=True)
        list(self._pool.map(lambda part: np.copyto(*part), parts))
