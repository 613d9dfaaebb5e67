"""Bringing regions into the cache before they are read.

Regions are read cell by cell (a cell is a chunk of the source) and the result is dropped: what was fetched stays in the
cache. At most `THREADS` cells of a process are under way, so that what people wait for finds threads that are free.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Any

from copick.arrays import Selection
from copick.cache.pool import DaemonPool
from copick.errors import CopickError
from copick.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from copick.arrays import ArraySource
    from copick.cache.array import CachedArray

logger = logging.getLogger("copick.cache")

THREADS = 4

Box = tuple[slice, ...]


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
        array.read(box)
    except CopickError as error:
        logger.debug("prefetching failed: %s", error)
        raise


_pools: dict[int, Any] = {}
_mutex = threading.Lock()


def _pool() -> DaemonPool:
    """This process's prefetching threads."""
    with _mutex:
        if os.getpid() not in _pools:
            _pools.clear()  # a parent's threads are not here
            _pools[os.getpid()] = DaemonPool(THREADS, "copick-prefetch")
        pool: DaemonPool = _pools[os.getpid()]
        return pool
