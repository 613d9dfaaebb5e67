"""A cached array: regions are copied out of cached chunks; what is missing is fetched, kept, and copied too.

A hit is one call into the native core. A miss fetches whole source chunks ("cells"), each once, however many threads and processes
want it: threads of a process share a future; processes exclude each other by a lock that the kernel releases if its holder dies.
Whatever the cache fails at, the fetched data goes to the reader.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import CancelledError, Future
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from copick import _cachecore
from copick.arrays import ArrayBase, ArraySource, Selection, ZarrArray, check_boxes, check_out, no_room
from copick.cache.entry import Entry, as_bytes
from copick.cache.geometry import Geometry, chunk_name, grid
from copick.cache.manager import open_manager
from copick.errors import CacheError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from copick.cache.info import Origin
    from copick.cache.manager import CacheManager
    from copick.cache.source import Source

    Box = tuple[Selection, npt.NDArray[Any]]
    """A region, and the array that it is read into."""

_IN_FLIGHT: Final = 512 << 20  # bytes of decoded cells that one read keeps under way
_ROUNDS: Final = 3  # how often a read begins anew because the cached array was discarded under it


class CachedArray(ArrayBase):
    """One level of a volume, read through the cache. Thread-safe; works in a forked child."""

    def __init__(
        self,
        manager: CacheManager,
        folder: Path,
        origin: Origin,
        source: Source,
        path: str,
        entry: Entry | None,
        geometry: Geometry,
    ) -> None:
        """Use `open`."""
        self._manager, self._folder, self._origin = manager, folder, origin
        self._source, self._path = source, path
        self._entry = entry  # None until something is cached
        self._changes = 0  # how often what was cached was found to be gone
        self.forgotten = False
        """Another array is to be opened in place of this one, which knows metadata that may be out of date."""
        self.geometry = geometry
        self.shape, self.dtype, self.chunks = geometry.shape, geometry.dtype, geometry.chunks

    @classmethod
    def open(
        cls, manager: CacheManager, folder: Path, origin: Origin, source: Source, path: str
    ) -> CachedArray | None:
        """The array at `path` of a volume whose level is cached in `folder`; None if its items cannot be cached.

        Asks the source only if nothing is cached yet. Raises as `Source.open_array` does.
        """
        entry = Entry.open(manager, folder, origin)
        geometry = entry.geometry if entry else Geometry.of(source.open_array(path))
        return None if geometry is None else cls(manager, folder, origin, source, path, entry, geometry)

    def __reduce__(self) -> tuple[Any, ...]:
        manager = self._manager
        place = (str(manager.cache_root), manager.limits)
        return _reopened, (*place, str(self._folder), self._origin, self._source, self._path)

    def read(self, slices: Sequence[slice], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        entry = self._entry
        try:
            if entry is not None:
                result, missing = entry.native.read(slices, out)
                if missing is None:
                    if not self._manager.started:
                        self._manager.start()
                    return result
            selection = Selection.of(slices, self.shape)
            if entry is None:
                result = _cachecore.recycled(selection.count, self.dtype) if out is None else out
                check_out(result, selection.count, self.dtype)
                missing = None
        except TypeError:
            Selection.of(slices, self.shape)  # says it better
            raise
        except MemoryError:
            raise no_room(self._where, Selection.of(slices, self.shape).count, self.dtype) from None
        self._complete(entry, [(selection, result)], missing)
        return result

    @property
    def _where(self) -> str:
        return f"{self._source.where}/{self._path}"

    def patches(
        self, starts: npt.ArrayLike, size: Sequence[int], out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Boxes of one size, `starts` (n, ndim) → (n, *size), in one native call on all cores (at most four)."""
        corners, extent = check_boxes(starts, size, self.shape), tuple(size)
        shape = (len(corners), *extent)
        entry = self._entry
        try:
            if entry is not None:
                result, missing = entry.native.patches(corners, extent, out)
                if missing is None:
                    self._manager.start()
                    return result
            else:
                result = (
                    _cachecore.recycled(shape, self.dtype)
                    if out is None
                    else check_out(out, shape, self.dtype)
                )
                missing = None
        except MemoryError:
            raise no_room(self._where, shape, self.dtype) from None
        forwards, single = (False,) * self.ndim, (1,) * self.ndim
        boxes = [Selection(tuple(map(int, corner)), single, extent, forwards) for corner in corners]
        self._complete(entry, list(zip(boxes, result, strict=True)), missing)
        return result

    def held(self, index: int) -> Any | None:
        """The decoded bytes of a chunk if they are at hand (buffer protocol; empty: all fill value). Never asks the source."""
        entry = self._entry
        return None if entry is None else entry.native.block(index)

    def chunk(self, index: int) -> Any:
        """The decoded bytes of one cached chunk in C order (buffer protocol).

        Edge chunks are whole: what lies outside the array is fill value.
        """
        block = self.held(index)
        if block is not None and len(block):
            return block
        at = np.unravel_index(index, grid(self.shape, self.chunks)) if self.shape else ()
        corner = [int(i) * c for i, c in zip(at, self.chunks, strict=True)]
        whole = np.empty(self.chunks, self.dtype)
        whole[...] = np.frombuffer(self.geometry.fill, self.dtype)[0]
        inside = [
            slice(first, min(first + c, n))
            for first, c, n in zip(corner, self.chunks, self.shape, strict=True)
        ]
        if block is None:
            part = self.read(inside)
            whole[tuple(slice(0, n) for n in part.shape)] = part
        return as_bytes(whole)

    def chunk_names(self, at_source: Callable[[str], bool]) -> Iterator[str]:
        """Names of the cached chunks whose source chunk is there, by its own name."""
        array = self._source.open_array(self._path)
        metadata, unit = array.metadata, array.shards or array.chunks
        for chunk in range(int(np.prod(grid(self.shape, self.chunks), dtype=np.int64))):
            origin, _ = self.geometry.cell_box(self.geometry.cell_of(chunk))
            if at_source(metadata.encode_chunk_key(tuple(o // u for o, u in zip(origin, unit, strict=True)))):
                yield chunk_name(self.geometry, chunk)

    def forget(self) -> None:
        """What was cached is gone: ask the source again, for everything."""
        self.forgotten = True
        self._changes += 1
        self._entry = None
        self._source.forget()

    # What is missing

    def _complete(self, entry: Entry | None, boxes: list[Box], missing: Sequence[int] | None) -> None:
        """Fill in what the native core did not find in `entry` (None: everything).

        If the entry is discarded meanwhile, what was copied from it may be older than what comes after: all is read again.
        """
        self._manager.start()
        for _ in range(_ROUNDS):
            changes = self._changes
            if entry is not None and entry.native.encoded and missing is not None:
                missing = self._decode_cached(entry, boxes, missing)
            self._paste_cells(boxes, self._cells(boxes, missing), self._fetched)
            if self._changes == changes and (entry is None or self._entry is entry):
                return
            entry, missing = self._entry, None
        self._paste_cells(boxes, self._cells(boxes, None), self._read_source)

    def _cells(self, boxes: list[Box], missing: Sequence[int] | None) -> list[int]:
        """The source cells that hold missing chunks (None: that the boxes touch), ascending."""
        if missing is not None:
            return sorted({self.geometry.cell_of(chunk) for chunk in missing})
        across = grid(self.shape, self.geometry.cells)
        cells: set[int] = set()
        for selection, _ in boxes:
            coordinates = [
                np.unique((first + step * np.arange(n)) // extent)
                for first, step, n, extent in zip(
                    selection.start, selection.step, selection.count, self.geometry.cells, strict=True
                )
            ]
            if not across:
                return [0]
            if all(len(along) for along in coordinates):
                grid_of_box = np.meshgrid(*coordinates, indexing="ij")
                cells.update(np.ravel_multi_index(grid_of_box, across).ravel().tolist())
        return sorted(cells)

    def _paste_cells(
        self, boxes: list[Box], cells: Sequence[int], read: Callable[[int], npt.NDArray[Any] | None]
    ) -> None:
        """Read cells, a few at the same time, and copy them into the boxes that they touch."""
        cell_bytes = int(np.prod(self.geometry.cells, dtype=np.int64)) * self.dtype.itemsize
        ahead = max(2, min(2 * self._manager.fetch_threads, _IN_FLIGHT // max(cell_bytes, 1)))
        flights: deque[tuple[int, Future[npt.NDArray[Any] | None]]] = deque()
        pending = iter(cells)
        try:
            while True:
                for cell in islice(pending, ahead - len(flights)):
                    flights.append((cell, self._flight(cell, read)))
                if not flights:
                    return
                cell, flight = flights.popleft()
                data = self._await(cell, flight, read)
                if data is None:  # another process has cached it meanwhile
                    data = self._cached_cell(cell)
                origin, _ = self.geometry.cell_box(cell)
                for selection, out in boxes:
                    paste(out, selection, data, origin)
        except BaseException:  # also Ctrl-C: what has not begun shall not begin
            for _, flight in flights:
                flight.cancel()
            raise

    def _flight(self, cell: int, read: Callable[[int], Any]) -> Future[npt.NDArray[Any] | None]:
        return self._manager.flight((f"{self._folder}:{read.__name__}", cell), partial(read, cell))

    def _await(
        self, cell: int, flight: Future[npt.NDArray[Any] | None], read: Callable[[int], Any]
    ) -> npt.NDArray[Any] | None:
        while True:
            try:
                return flight.result()
            except CancelledError:  # another thread, interrupted, cancelled the flight that we share
                flight = self._flight(cell, read)

    def _cached_cell(self, cell: int) -> npt.NDArray[Any]:
        """A whole cell from the cache; from the source, if what was cached is gone again or does not check."""
        _, box = self.geometry.cell_box(cell)
        entry = self._entry
        if entry is not None:
            result, missing = entry.native.read(box)
            if missing is not None and entry.native.encoded:
                missing = (
                    self._decode_cached(entry, [(Selection.of(box, self.shape), result)], missing) or None
                )
            if missing is None:
                return result
        return self._read_source(cell)

    def _fetched(self, cell: int) -> npt.NDArray[Any] | None:
        """Fetch a cell and cache it. None if it is in the cache already: another process was faster."""
        with self._manager.exclusive(f"{self._folder}:{cell}"):
            entry = self._current()
            origin, box = self.geometry.cell_box(cell)
            if entry is not None and entry.holds(origin, tuple(each.stop - each.start for each in box)):
                return None
            with self._manager.standing(self._folder) as stands:
                data = self._read_source(cell)
                try:
                    if entry is None:
                        documents = self._source.documents(self._path)
                        entry = self._adopt(
                            Entry.create(
                                self._manager,
                                self._folder,
                                self._origin,
                                self.geometry,
                                documents,
                                self._path,
                                data,
                            )
                        )
                    if entry is not None and stands():  # else `data` may be of an older version
                        entry.keep(data, origin)
                except Exception as error:  # noqa: BLE001 (whatever fails here, the reader has its data)
                    self._manager.failed("insert", error)
            return data

    def _current(self) -> Entry | None:
        """What is cached now, perhaps begun or discarded by another process."""
        entry = self._entry
        if entry is not None and entry.discarded:
            self._changes += 1
            self._entry = None
        return self._adopt(Entry.open(self._manager, self._folder, self._origin, self._entry))

    def _adopt(self, entry: Entry | None) -> Entry | None:
        if entry is not None and not entry.geometry.same_data(self.geometry):
            entry = None
        if self._entry is not None and (entry is None or entry.native.id != self._entry.native.id):
            self._changes += 1
        if entry is not None:
            self.geometry, self.chunks = entry.geometry, entry.geometry.chunks
        self._entry = entry
        return entry

    def _read_source(self, cell: int) -> npt.NDArray[Any]:
        """A decoded cell, clipped to the array. Raises LayerError or FormatError."""
        array = self._source.open_array(self._path)
        if (tuple(array.shape), np.dtype(array.dtype)) != (self.shape, self.dtype):
            raise NotFoundError(
                f"{self._where} has changed at its source since it was opened; call refresh()"
            )
        origin, box = self.geometry.cell_box(cell)
        at = tuple(first // size for first, size in zip(origin, self.geometry.cells, strict=True))
        data = self._source.read(self._path, at, box)
        self._manager.count("fetched_cells")
        self._manager.count("fetched_bytes", data.nbytes)
        return data.astype(self.dtype, copy=False).reshape([each.stop - each.start for each in box])

    def _decode_cached(self, entry: Entry, boxes: list[Box], missing: Sequence[int]) -> list[int]:
        """Paste the chunks that lie encoded on disk; returns those that do not."""
        flights = [
            (chunk, self._manager.flight((f"{entry.native.id}:decode", chunk), partial(entry.decode, chunk)))
            for chunk in missing
        ]
        lacking = []
        for chunk, flight in flights:
            decoded = flight.result()
            if decoded is None:
                lacking.append(chunk)
                continue
            at = np.unravel_index(chunk, grid(self.shape, entry.geometry.chunks)) if self.shape else ()
            origin = [int(i) * c for i, c in zip(at, entry.geometry.chunks, strict=True)]
            for selection, out in boxes:
                paste(out, selection, decoded, origin)
        return lacking


def _reopened(
    cache_root: str, limits: dict[str, Any], folder: str, origin: Origin, source: Source, path: str
) -> ArraySource:
    """An array in another process; without the cache if it cannot be opened there."""
    try:
        manager = open_manager(cache_root, **limits)
    except (OSError, CacheError):
        manager = None
    array = None if manager is None else CachedArray.open(manager, Path(folder), origin, source, path)
    return ZarrArray(source.open_array(path), f"{source.where}/{path}") if array is None else array


def paste(out: npt.NDArray[Any], selection: Selection, data: npt.NDArray[Any], origin: Sequence[int]) -> None:
    """Copy into `out`, which holds `selection` of an array, what `data` at `origin` has of it."""
    target: list[Any] = []
    source: list[Any] = []
    for first, step, n, begin, extent in zip(
        selection.start, selection.step, selection.count, origin, data.shape, strict=True
    ):
        low = max(0, -(-(begin - first) // step))
        high = min(n, -(-(begin + extent - first) // step))
        if low >= high:
            return
        target.append(slice(low, high))
        at = first + low * step - begin
        source.append(slice(at, at + (high - low - 1) * step + 1, step))
    flips: tuple[Any, ...] = (*selection.flips, ...)  # `...` keeps 0-d arrays arrays
    out[flips][(*target, ...)] = data[(*source, ...)]
