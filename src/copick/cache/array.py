"""A cached array: regions are copied out of cached chunks; what is missing is fetched, kept, and copied too.

A hit is one call into the native core. A miss fetches whole source chunks ("cells"), each once, however many threads and processes
want it: threads of a process share a future; processes exclude each other by a lock that the kernel releases if its holder dies.
Whatever the cache fails at, the fetched data goes to the reader.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from copick import _cachecore
from copick.arrays import ArrayBase, ArraySource, Selection, ZarrArray, check_boxes, check_out, no_room
from copick.cache.entry import Entry, as_bytes
from copick.cache.freshness import Freshness
from copick.cache.geometry import Geometry, chunk_index, chunk_name, grid
from copick.cache.manager import open_manager
from copick.errors import CacheError, CopickError, LayerError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from copick.cache.generations import Moment
    from copick.cache.info import Origin
    from copick.cache.manager import CacheManager
    from copick.cache.prefetch import Scroll
    from copick.cache.source import Source

    Box = tuple[Selection, npt.NDArray[Any]]
    """A region, and the array that it is read into."""

T = TypeVar("T")

_IN_FLIGHT: Final = 512 << 20  # bytes of decoded cells that one read keeps under way
_ROUNDS: Final = 3  # how often a read tries to be all of one version, while the volume is being written


@dataclass(frozen=True, slots=True)
class View:
    """What is known about an array since some moment."""

    moment: Moment
    geometry: Geometry
    entry: Entry | None
    """None until something is cached."""
    native: _cachecore.Array | None
    """What a hit asks: the entry's, if that looks by itself whether it is current, and is not too old."""

    @classmethod
    def of(cls, moment: Moment, geometry: Geometry, entry: Entry | None) -> View:
        native = None
        if entry is not None and moment.generations.mapped and entry.until > time.time():
            native = entry.native
        return cls(moment, geometry, entry, native)


class CachedArray(ArrayBase):
    """One level of a volume, read through the cache. Thread-safe; works in a forked child.

    When the volume was written, by whatever process, the next read sees it: also another shape or type.
    """

    def __init__(
        self, manager: CacheManager, folder: Path, origin: Origin, source: Source, path: str, view: View
    ) -> None:
        """Use `open`."""
        self._manager, self._folder, self._origin = manager, folder, origin
        self._source, self._path = source, path
        self._slots = manager.slots(folder)
        volume = folder.parents[path.count("/")] if path else folder
        self._fresh = Freshness(manager, source, path, volume)
        self._view = view
        self._scroll: Scroll | None = None  # since something thin was missing

    @classmethod
    def open(
        cls, manager: CacheManager, folder: Path, origin: Origin, source: Source, path: str
    ) -> CachedArray | None:
        """The array at `path` of a volume whose level is cached in `folder`; None if its items cannot be cached.

        Asks the source only if nothing is cached yet. Raises as `Source.open_array` does.
        """
        moment = manager.moment(folder)
        entry = Entry.open(manager, folder, origin, moment.generation)
        geometry = entry.geometry if entry else Geometry.of(source.open_array(path))
        if geometry is None:
            return None
        return cls(manager, folder, origin, source, path, View.of(moment, geometry, entry))

    def __reduce__(self) -> tuple[Any, ...]:
        manager = self._manager
        place = (str(manager.cache_root), manager.limits)
        return _reopened, (*place, str(self._folder), self._origin, self._source, self._path)

    @property
    def geometry(self) -> Geometry:
        """Shape and type as they are now. Raises as `open` does if the volume was written and has to be looked at again."""
        return self._current().geometry

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.geometry.shape

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return self.geometry.dtype

    @property
    def chunks(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.geometry.chunks

    def read(self, slices: Sequence[slice], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        view, found = self._view, None
        result: npt.NDArray[Any]
        if view.native is not None:
            try:
                result, missing = view.native.read(slices, out)
                if missing is None:
                    if not self._manager.started:
                        self._manager.start()
                    if self._scroll is not None:
                        self._passed(slices)
                    return result
                found = None if result is None else (view, result, missing)
            except (TypeError, ValueError, IndexError, MemoryError):
                pass  # what follows says it better

        with self._manager.foreground:
            result = self._answer(partial(_region, slices, out), out, found)
        self._passed(slices)
        return result

    def bring(self, box: Sequence[slice], patience_s: float) -> None:
        """Read for the sake of the cache; if others wait for something, after them. Raises as `read`."""
        self._manager.foreground.give_way(patience_s)
        if not self.holds(box):
            self._answer(partial(_region, box, None), None, piece=True)

    def _passed(self, slices: Sequence[slice]) -> None:
        """Something was read, now or before not all of it from the cache: perhaps a step of somebody who scrolls."""
        from copick.cache.prefetch import Scroll

        geometry = self._view.geometry
        with suppress(TypeError, ValueError, IndexError, CopickError):  # changed since it was read
            selection = Selection.of(slices, geometry.shape)
            if self._scroll is None and Scroll.thin(selection, geometry.cells):
                self._scroll = Scroll(self)
            if self._scroll is not None:
                self._scroll.passed(selection)

    @property
    def _where(self) -> str:
        return f"{self._source.where}/{self._path}"

    def patches(
        self, starts: npt.ArrayLike, size: Sequence[int], out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Boxes of one size, `starts` (n, ndim) → (n, *size), in one native call on all cores (at most four)."""
        view, found = self._view, None
        result: npt.NDArray[Any]
        if view.native is not None:
            try:
                corners = check_boxes(starts, size, view.geometry.shape)
                result, missing = view.native.patches(corners, tuple(size), out)
                if missing is None:
                    self._manager.start()
                    return result
                found = None if result is None else (view, result, missing)
            except (TypeError, ValueError, IndexError, MemoryError):
                pass  # what follows says it better

        def request(geometry: Geometry) -> _Request:
            corners, extent = check_boxes(starts, size, geometry.shape), tuple(size)
            forwards, single = (False,) * len(extent), (1,) * len(extent)

            def split(result: npt.NDArray[Any]) -> list[Box]:
                parts = (Selection(tuple(map(int, corner)), single, extent, forwards) for corner in corners)
                return list(zip(parts, result, strict=True))

            return _Request(
                (len(corners), *extent), lambda native: native.patches(corners, extent, out), split
            )

        with self._manager.foreground:
            return self._answer(request, out, found)

    def held(self, name: str) -> Any | None:
        """The decoded bytes of the chunk of that name if they are at hand (buffer protocol; empty: all fill value).

        Never asks the source.
        """
        view = self._view
        if view.native is None or (index := chunk_index(view.geometry, name)) is None:
            return None
        return view.native.block(index)

    def chunk(self, name: str) -> Any | None:
        """The decoded bytes of the cached chunk of that name in C order (buffer protocol); None if there is no such chunk.

        Edge chunks are whole: what lies outside the array is fill value.
        """
        view = self._current()
        geometry = view.geometry
        index = chunk_index(geometry, name)
        if index is None:
            return None
        block = None if view.entry is None else view.entry.native.block(index)
        if block is not None and len(block):
            return block
        at = np.unravel_index(index, grid(geometry.shape, geometry.chunks)) if geometry.shape else ()
        corner = [int(i) * c for i, c in zip(at, geometry.chunks, strict=True)]
        whole = np.empty(geometry.chunks, geometry.dtype)
        whole[...] = np.frombuffer(geometry.fill, geometry.dtype)[0]
        inside = [
            slice(first, min(first + c, n))
            for first, c, n in zip(corner, geometry.chunks, geometry.shape, strict=True)
        ]
        if block is None:
            with self._manager.foreground:
                part = self._answer(partial(_region, inside, None), None, piece=True)
            whole[tuple(slice(0, n) for n in part.shape)] = part
        return as_bytes(whole)

    def chunk_names(self, at_source: Callable[[str], bool]) -> Iterator[str]:
        """Names of the cached chunks whose source chunk is there, by its own name."""
        geometry, array = self.geometry, self._source.open_array(self._path)
        metadata, unit = array.metadata, array.shards or array.chunks
        for chunk in range(int(np.prod(grid(geometry.shape, geometry.chunks), dtype=np.int64))):
            origin, _ = geometry.cell_box(geometry.cell_of(chunk))
            if at_source(metadata.encode_chunk_key(tuple(o // u for o, u in zip(origin, unit, strict=True)))):
                yield chunk_name(geometry, chunk)

    def holds(self, slices: Sequence[slice]) -> bool:
        """Whether a region is cached, all of it. The source is asked for metadata at most."""
        view = self._current()
        if view.entry is None:
            return False
        selection = Selection.of(slices, view.geometry.shape)
        return all(
            view.entry.holds(origin, tuple(each.stop - each.start for each in box))
            for origin, box in map(view.geometry.cell_box, _cells(view.geometry, [selection], None))
        )

    # What is known

    def _current(self, *, anew: bool = False) -> View:
        """What is known as of now: looked up again if the volume, or something that shares its number, was changed."""
        view = self._view
        if anew:
            self._source.forget()
        elif view.moment.stands() and (view.entry is None or view.entry.until > time.time()):
            return view
        moment, entry = self._looked_up(view.entry)
        if entry is not None and not self._fresh.is_confirmed(entry):
            moment, entry = self._looked_up(view.entry)
        if entry is not None and entry is view.entry:
            entry.native.accept(moment.generation)
            view = View.of(moment, view.geometry, entry)
        else:
            if view.entry is not None:
                self._manager.drop(view.entry.native.id)
            geometry = entry.geometry if entry else Geometry.of(self._source.open_array(self._path))
            if geometry is None:
                raise self._changed()
            view = View.of(moment, geometry, entry)
        self._view = view
        return view

    def _looked_up(self, known: Entry | None) -> tuple[Moment, Entry | None]:
        moment = self._manager.generations.moment(self._slots)
        return moment, Entry.open(self._manager, self._folder, self._origin, moment.generation, known)

    def look_after(self) -> None:
        """Let the next read ask for the source's version, if it is time. Called every few seconds: a hit looks at no clock."""
        view = self._view
        self._fresh.look_after(view.entry)
        if view.native is not None and view.entry is not None and view.entry.until <= time.time():
            self._view = View.of(view.moment, view.geometry, view.entry)

    def _unchanged(self, view: View) -> bool:
        """Whether nothing was discarded since `view` was current. It does not count that the array began to be cached."""
        return view.moment.stands() and (view.entry is None or self._view.entry is view.entry)

    def _changed(self) -> NotFoundError:
        return NotFoundError(f"{self._where} has changed at its source since it was opened; call refresh()")

    # What is missing

    def _answer(
        self,
        request_of: Callable[[Geometry], _Request],
        out: npt.NDArray[Any] | None,
        found: tuple[View, npt.NDArray[Any], Sequence[int]] | None = None,
        *,
        piece: bool = False,
    ) -> npt.NDArray[Any]:
        """The result of a request: what is cached is copied (that may be `found` already), what is missing is fetched.

        If the volume is written meanwhile, what was copied may be older than what comes after: all is read again.
        """
        self._manager.start()
        anew = False
        for turn in range(_ROUNDS):
            last = turn == _ROUNDS - 1  # then from the source alone, which always answers
            view = self._current(anew=anew) if found is None else found[0]
            geometry, entry = view.geometry, None if last else view.entry
            request = request_of(geometry)
            result: npt.NDArray[Any]
            missing: Sequence[int] | None = None
            try:
                if found is not None:
                    (_, result, missing), found = found, None
                elif entry is not None:
                    result, missing = request.copied(entry.native)
                    if result is None:  # discarded this very moment
                        continue
                    if missing is None:
                        return result
                elif out is None:
                    result = _cachecore.recycled(request.shape, geometry.dtype)
                else:
                    result = check_out(out, request.shape, geometry.dtype)
            except MemoryError:
                raise no_room(self._where, request.shape, geometry.dtype) from None
            tag = view.entry.tag if view.entry else self._source.tag(self._path)
            written = view.moment.written
            try:
                asked = self._fill(view, entry, request.boxes(result), missing, fetch=not last)
                replaced = asked and self._was_replaced(view, tag, piece=piece)
                if not replaced and (last or self._unchanged(view)):
                    return result
            except CopickError as error:
                # A writer tells of his change when it is done. Before that, metadata and chunks may be of two versions.
                written = written or self._manager.generations.is_written(self._slots)
                replaced = (
                    not written
                    and not isinstance(error, LayerError)
                    and self._was_replaced(view, tag, piece=False)
                )
                if not replaced and (last or (self._unchanged(view) and not written)):
                    raise
            anew = written
        raise LayerError(
            f"{self._where} was replaced at its source each of {_ROUNDS} times that it was read; wait until it is written, "
            "and try again"
        )

    def _was_replaced(self, view: View, tag: str | None, *, piece: bool) -> bool:
        """Whether the source, which was just read, has another version by now, though no user of this cache has said so."""
        if (
            view.moment.written
        ):  # its writer will tell, and until then nothing is kept: no matter what, it is read anew
            return self._source.has_changed(self._path)
        return self._unchanged(view) and self._fresh.was_replaced(tag, piece=piece)

    def _fill(
        self, view: View, entry: Entry | None, boxes: list[Box], missing: Sequence[int] | None, *, fetch: bool
    ) -> bool:
        """Fill in what the native core did not find in `entry` (None: everything). Whether it was asked for at the source."""
        if entry is not None and entry.native.encoded and missing is not None:
            missing = self._decode_cached(entry, boxes, missing)
        cells = _cells(view.geometry, (selection for selection, _ in boxes), missing)
        self._manager.count("misses", len(cells))
        self._paste_cells(view, boxes, cells, self._fetched if fetch else self._read_source)
        return bool(cells)

    def _paste_cells(
        self,
        view: View,
        boxes: list[Box],
        cells: Sequence[int],
        read: Callable[[View, int], npt.NDArray[Any] | None],
    ) -> None:
        """Read cells, a few at the same time, and copy them into the boxes that they touch."""
        geometry = view.geometry
        cell_bytes = int(np.prod(geometry.cells, dtype=np.int64)) * geometry.dtype.itemsize
        ahead = max(2, min(2 * self._manager.fetch_threads, _IN_FLIGHT // max(cell_bytes, 1)))
        flights: deque[tuple[int, Future[npt.NDArray[Any] | None]]] = deque()
        pending = iter(cells)

        def flight_of(cell: int) -> Future[npt.NDArray[Any] | None]:
            # Who asks after a change does not share what was asked for before.
            key = f"{self._folder}:{view.moment.generation}:{read.__name__}"
            return self._manager.flight((key, cell), partial(read, view, cell))

        try:
            while True:
                for cell in islice(pending, ahead - len(flights)):
                    flights.append((cell, flight_of(cell)))
                if not flights:
                    return
                cell, flight = flights.popleft()
                data = _landed(flight, partial(flight_of, cell))
                if data is None:  # another process has cached it meanwhile
                    data = self._cached_cell(view, cell)
                origin, _ = geometry.cell_box(cell)
                for selection, out in boxes:
                    paste(out, selection, data, origin)
        except BaseException:  # also Ctrl-C: what has not begun shall not begin
            for _, flight in flights:
                flight.cancel()
            raise

    def _cached_cell(self, view: View, cell: int) -> npt.NDArray[Any]:
        """A whole cell from the cache; from the source, if what was cached is gone again or does not check."""
        _, box = view.geometry.cell_box(cell)
        entry = self._view.entry
        result: npt.NDArray[Any]
        if entry is not None and entry.geometry.same_data(view.geometry):
            result, missing = entry.native.read(box)
            if result is not None and missing is not None and entry.native.encoded:
                missing = (
                    self._decode_cached(entry, [(Selection.of(box, entry.geometry.shape), result)], missing)
                    or None
                )
            if result is not None and missing is None:
                return result
        return self._read_source(view, cell)

    def _fetched(self, view: View, cell: int) -> npt.NDArray[Any] | None:
        """Fetch a cell and cache it. None if it is in the cache already: another process was faster."""
        with self._manager.exclusive(f"{self._folder}:{cell}"):
            entry = self._adopt(view)
            origin, box = view.geometry.cell_box(cell)
            if entry is not None and entry.holds(origin, tuple(each.stop - each.start for each in box)):
                return None
            moment = self._manager.generations.moment(self._slots)
            data = self._read_source(view, cell)
            tag = self._source.tag(self._path)
            try:
                if entry is None and view.moment.may_keep():
                    documents = self._source.documents(self._path)
                    begun = Entry.create(
                        self._manager,
                        self._folder,
                        self._origin,
                        view.geometry,
                        documents,
                        self._path,
                        data,
                        moment,
                        tag,
                    )
                    entry = None if begun is None else self._adopt(view)
                if entry is not None and entry.tag in (tag, None) and moment.may_keep():
                    entry.keep(data, origin)
            except FileNotFoundError:  # discarded this very moment
                pass
            except Exception as error:  # noqa: BLE001 (whatever fails here, the reader has its data)
                self._manager.failed("insert", error)
            return data

    def _adopt(self, view: View) -> Entry | None:
        """What is cached now, perhaps begun or deleted by another process."""
        known = self._view.entry
        if known is not None and known.discarded:
            known = None
        entry = Entry.open(self._manager, self._folder, self._origin, view.moment.generation, known)
        if entry is not None and not entry.geometry.same_data(view.geometry):
            entry = None
        if entry is not self._view.entry and self._view.moment.generation == view.moment.generation:
            geometry = entry.geometry if entry else view.geometry
            self._view = View.of(view.moment, geometry, entry)
        return entry

    def _read_source(self, view: View, cell: int) -> npt.NDArray[Any]:
        """A decoded cell, clipped to the array. Raises LayerError or FormatError."""
        array, geometry = self._source.open_array(self._path), view.geometry
        found = (tuple(array.shape), np.dtype(array.dtype), tuple(array.chunks))
        cached, tag = view.entry and view.entry.tag, self._source.tag(self._path)
        if found != (geometry.shape, geometry.dtype, geometry.cells) or (cached and tag and cached != tag):
            raise self._changed()
        origin, box = geometry.cell_box(cell)
        at = tuple(first // size for first, size in zip(origin, geometry.cells, strict=True))
        data = self._source.read(array, self._path, at, box)
        self._manager.count("fetched_cells")
        self._manager.count("fetched_bytes", data.nbytes)
        return data.astype(geometry.dtype, copy=False).reshape([each.stop - each.start for each in box])

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
            geometry = entry.geometry
            at = np.unravel_index(chunk, grid(geometry.shape, geometry.chunks)) if geometry.shape else ()
            origin = [int(i) * c for i, c in zip(at, geometry.chunks, strict=True)]
            for selection, out in boxes:
                paste(out, selection, decoded, origin)
        return lacking


@dataclass(frozen=True, slots=True)
class _Request:
    """What a reader asked for, given the array's geometry."""

    shape: tuple[int, ...]
    copied: Callable[[_cachecore.Array], tuple[Any, Sequence[int] | None]]
    """Copies what is cached, see `_cachecore.Array.read`."""
    boxes: Callable[[npt.NDArray[Any]], list[Box]]
    """The parts of a result."""


def _region(slices: Sequence[slice], out: npt.NDArray[Any] | None, geometry: Geometry) -> _Request:
    selection = Selection.of(slices, geometry.shape)
    return _Request(
        selection.count, lambda native: native.read(slices, out), lambda result: [(selection, result)]
    )


def _cells(geometry: Geometry, regions: Iterable[Selection], missing: Sequence[int] | None) -> list[int]:
    """The source cells that hold missing chunks (None: that the regions touch), ascending."""
    if missing is not None:
        return sorted({geometry.cell_of(chunk) for chunk in missing})
    across = grid(geometry.shape, geometry.cells)
    cells: set[int] = set()
    for selection in regions:
        coordinates = [
            np.unique((first + step * np.arange(n)) // extent)
            for first, step, n, extent in zip(
                selection.start, selection.step, selection.count, geometry.cells, strict=True
            )
        ]
        if not across:
            return [0]
        if all(len(along) for along in coordinates):
            grid_of_box = np.meshgrid(*coordinates, indexing="ij")
            cells.update(np.ravel_multi_index(grid_of_box, across).ravel().tolist())
    return sorted(cells)


def _landed(flight: Future[T], again: Callable[[], Future[T]]) -> T:
    """The result of a flight that others may share."""
    while True:
        try:
            return flight.result()
        except CancelledError:  # another thread, interrupted, cancelled it
            flight = again()


def _reopened(
    cache_root: str, limits: dict[str, Any], folder: str, origin: Origin, source: Source, path: str
) -> ArraySource:
    """An array in another process; without the cache if it cannot be opened there."""
    try:
        manager = open_manager(cache_root, **limits)
    except (OSError, CacheError):
        manager = None
    array = None
    if manager is not None:
        source.moment = partial(manager.moment, Path(folder))
        array = CachedArray.open(manager, Path(folder), origin, source, path)
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
