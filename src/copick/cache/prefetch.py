"""Bringing regions into the cache before they are read.

Regions are read cell by cell (a cell is a chunk of the source) and the result is dropped: what was fetched stays in the
cache. At most `THREADS` cells of a process are under way, and none begins while somebody waits for a cell that he asked for himself
(but for `PATIENCE_S` at most: with readers that always wait nothing would ever come ahead of them).

`plan` runs ahead of a sampler, `Scroll` ahead of somebody who looks at a volume plane after plane.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Final, Self, TypeVar

from copick.arrays import Selection
from copick.cache.pool import DaemonPool
from copick.errors import CopickError
from copick.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from copick.arrays import ArraySource
    from copick.cache.array import CachedArray
    from copick.models.volumes import Volume

logger = logging.getLogger("copick.cache")

THREADS: Final = 4
PATIENCE_S: Final = 1.0
CELLS_AHEAD: Final = 2
"""How many source chunks, in the direction of scrolling, are brought ahead of the one that is looked at."""

Box = tuple[slice, ...]
K = TypeVar("K")


class Prefetch:
    """Work that was begun: regions on their way into the cache. `wait` for it, or `cancel` it, or forget it."""

    def __init__(self, plan: Iterable[tuple[CachedArray, Sequence[slice]]]) -> None:
        """Begin. `plan`: arrays and regions of them, in the order in which they will be needed."""
        pool = _pool()
        self._flights: list[Future[None]] = [
            pool.submit(_fetch, array, box) for array, slices in plan for box in boxes(array, slices)
        ]

    def __repr__(self) -> str:
        return f"<Prefetch {self.done} of {self.total} chunks>"

    @property
    def total(self) -> int:
        """Source chunks asked for, also those that were cached already."""
        return len(self._flights)

    @property
    def done(self) -> int:
        """Source chunks that are dealt with: cached, failed or cancelled."""
        return sum(flight.done() for flight in self._flights)

    @property
    def failed(self) -> int:
        """Source chunks that could not be read."""
        ended = (flight for flight in self._flights if flight.done() and not flight.cancelled())
        return sum(flight.exception() is not None for flight in ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """What has not begun does not begin."""
        for flight in self._flights:
            flight.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it was reached within `timeout` seconds."""
        return not wait(self._flights, timeout).not_done

    def finish(self, what: str) -> None:
        """Wait for the end with a progress bar; Ctrl-C cancels the rest.

        Raises:
            LayerError, FormatError: A chunk could not be read; the rest was.
        """
        first: CopickError | None = None
        try:
            with Progress(f"caching {what}", self.total) as progress:
                for flight in self._flights:
                    try:
                        flight.result()
                    except CancelledError:
                        pass
                    except CopickError as error:
                        first = first or error
                    progress.step()
        except BaseException:
            self.cancel()
            raise
        if first is not None:
            raise first


def begin(plan: Iterable[tuple[ArraySource, Sequence[slice]]]) -> Prefetch | None:
    """Begin to bring regions of arrays into the cache; None if none of the arrays is cached."""
    from copick.cache.array import CachedArray

    cached = [(array, slices) for array, slices in plan if isinstance(array, CachedArray)]
    return Prefetch(cached) if cached else None


def plan(
    keys: Iterable[K], region: Callable[[K], tuple[Volume, Sequence[slice]]], *, ahead: int = 32
) -> Iterator[K]:
    """Go through `keys`, for example those of a sampler, while what the next ones need is brought into the cache.

    Closing the iterator, or leaving a loop over it, cancels what has not begun.

    Args:
        keys: Whatever names the regions that will be read, in the order in which they will be.
        region: The volume that a key needs and the part of its finest level (slices along z, y, x).
        ahead: How many keys to be ahead. Together their regions should take no more than a small part of the cache.

    Example:
        >>> for name, z, y, x in plan(sampler, lambda key: (tomograms[key[0]], key[1:])):
        ...     patch = tomograms[name].numpy(z=z, y=y, x=x)
    """
    begun: deque[tuple[K, Prefetch | None]] = deque()

    def start(key: K) -> tuple[K, Prefetch | None]:
        volume, slices = region(key)
        return key, begin([(volume.array(), slices)])

    try:
        for key in keys:
            begun.append(start(key))
            if len(begun) > ahead:
                yield begun.popleft()[0]
        while begun:
            yield begun.popleft()[0]
    finally:
        for _, work in begun:
            if work is not None:
                work.cancel()


class Scroll:
    """Notices that an array is looked at plane after plane, in one direction, and brings the next cells into the cache.

    Told of every read since the first thin one that found something missing: patches, and all that is cached, cost nothing.
    """

    def __init__(self, array: CachedArray) -> None:
        self._array, self._process = array, os.getpid()
        self._last: Selection | None = None
        self._way = (-1, 0)  # axis, direction
        self._asked: Box | None = None
        self._work: Prefetch | None = None

    @staticmethod
    def thin(selection: Selection, cells: Sequence[int]) -> bool:
        """Whether this may be a step of somebody who scrolls: a few planes, much smaller than a cell is thick."""
        flat = [4 * n <= cell for n, cell in zip(selection.count, cells, strict=True)]
        return len(flat) > 1 and sum(flat) == 1

    def passed(self, selection: Selection) -> None:
        """Told what was read. Threads that scroll in one array disturb each other, and no more than that."""
        if self._process != os.getpid():
            self._process, self._work = os.getpid(), None
        way, last, self._last = self._way, self._last, selection
        self._way = (-1, 0) if last is None else _step(last, selection, self._array.geometry.cells)
        if self._way != way or not self._way[1]:
            self._stop()
            return
        box = self._next(selection)
        if box is not None and box != self._asked:
            self._asked, self._work = box, begin([(self._array, box)])

    def _next(self, selection: Selection) -> Box | None:
        """The part of the array that comes next: of the same extent but for whole cells in the direction."""
        geometry, (axis, direction) = self._array.geometry, self._way
        box = [
            slice(first, first + step * (n - 1) + 1)
            for first, step, n in zip(selection.start, selection.step, selection.count, strict=True)
        ]
        cell = geometry.cells[axis]
        if direction > 0:
            at = ((box[axis].stop - 1) // cell + 1) * cell
            box[axis] = slice(at, min(at + CELLS_AHEAD * cell, geometry.shape[axis]))
        else:
            at = box[axis].start // cell * cell
            box[axis] = slice(max(0, at - CELLS_AHEAD * cell), at)
        return tuple(box) if box[axis].start < box[axis].stop else None

    def _stop(self) -> None:
        """Who turns round, or jumps, does not need what was begun."""
        self._asked = None
        if self._work is not None:
            self._work.cancel()
            self._work = None


def _step(last: Selection, now: Selection, cells: Sequence[int]) -> tuple[int, int]:
    """Axis and direction of a step from one selection to the next: (-1, 0) if it is none, or more than half a cell."""
    moved = [axis for axis, (a, b) in enumerate(zip(last.start, now.start, strict=True)) if a != b]
    if len(moved) != 1 or (last.count, last.step) != (now.count, now.step):
        return -1, 0
    by = now.start[moved[0]] - last.start[moved[0]]
    return (moved[0], 1 if by > 0 else -1) if 2 * abs(by) <= cells[moved[0]] else (-1, 0)


def boxes(array: CachedArray, slices: Sequence[slice]) -> Iterator[Box]:
    """The region cut at the borders of source chunks."""
    selection = Selection.of(slices, array.shape)
    along: list[list[slice]] = []
    for first, step, count, cell in zip(
        selection.start, selection.step, selection.count, array.geometry.cells, strict=True
    ):
        last = first + step * (count - 1)
        cells = range(first // cell, last // cell + 1) if count else range(0)
        along.append([slice(max(first, at * cell), min(last + 1, (at + 1) * cell)) for at in cells])
    yield from itertools.product(*along)


def _fetch(array: CachedArray, box: Box) -> None:
    try:
        array.bring(box, PATIENCE_S)
    except CopickError as error:
        logger.debug("prefetching failed: %s", error)
        raise


_pools: dict[int, DaemonPool] = {}
"""By process: a parent's threads are not in its children."""


def _pool() -> DaemonPool:
    return _pools.setdefault(os.getpid(), DaemonPool(THREADS, "copick-prefetch"))
