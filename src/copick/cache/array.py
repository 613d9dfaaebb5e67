"""A cached array: regions are copied out of cached chunks; what is missing is fetched, kept, and copied too.

A hit is one call into the native core. A miss fetches whole source chunks ("cells"), each once, however many threads and processes
want it: threads of a process share a future; processes exclude each other by a lock that the kernel releases if its holder dies.
Whatever the cache fails at, the fetched data goes to the reader.
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections import deque
from concurrent.futures import CancelledError, Future
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from copick import _cachecore
from copick.arrays import ArrayBase, Selection, check_boxes, check_out
from copick.cache import info
from copick.cache.geometry import MAX_ENCODED_RATIO, Geometry, blosc, chunk_name, grid, zarr_document
from copick.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from copick.cache.manager import CacheManager
    from copick.cache.source import Source

logger = logging.getLogger("copick.cache")

_IN_FLIGHT = 512 << 20  # bytes of decoded cells that one read keeps under way
_ROUNDS = 3  # reading again after another process cached something; then the source is read without the cache


class CachedArray(ArrayBase):
    """One level of a volume, read through the cache. Thread-safe; works in a forked child."""

    def __init__(
        self,
        manager: CacheManager,
        folder: Path,
        source: Source,
        path: str,
        layer: str,
        native: Any,
        geometry: Geometry,
    ) -> None:
        self._manager, self._folder, self._source, self._path, self._layer = (
            manager,
            folder,
            source,
            path,
            layer,
        )
        self._native = (
            native  # None until the first chunk has shown whether to keep chunks decoded or encoded
        )
        self.geometry = geometry
        self.shape, self.dtype, self.chunks = geometry.shape, geometry.dtype, geometry.chunks

    @classmethod
    def open(
        cls, manager: CacheManager, folder: Path, source: Source, path: str, layer: str
    ) -> CachedArray | None:
        """The array at `path` of a volume whose cache folder is `folder`; None if its items cannot be cached.

        Asks the source only if nothing is cached yet. Raises as `Source.open_array` does.
        """
        cached = _open_native(manager, folder)
        if cached is not None:
            return cls(manager, folder, source, path, layer, *cached)
        geometry = Geometry.of(source.open_array(path))
        return None if geometry is None else cls(manager, folder, source, path, layer, None, geometry)

    def read(self, slices: Sequence[slice], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        native = self._native
        if native is None:
            return self._read_undecided(slices, out)
        result, missing = native.read(slices, out)
        if missing is None:
            if not self._manager.started:
                self._manager.start()
            return result  # type: ignore[no-any-return]
        selection = Selection.of(slices, self.shape)
        self._complete([(selection, result)], missing)
        return result  # type: ignore[no-any-return]

    def patches(
        self, starts: npt.ArrayLike, size: Sequence[int], out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Boxes of one size, `starts` (n, ndim) → (n, *size), in one native call on all cores (at most four)."""
        corners = check_boxes(starts, size, self.shape)
        if self._native is None and len(corners) and all(size):
            self.read([slice(int(at), int(at) + 1) for at in corners[0]])  # decides how chunks are kept
        if self._native is None:
            return super().patches(corners, size, out)
        result, missing = self._native.patches(corners, tuple(size), out)
        if missing is not None:
            boxes = [
                Selection(tuple(map(int, corner)), (1,) * self.ndim, tuple(size), (False,) * self.ndim)
                for corner in corners
            ]
            self._complete(list(zip(boxes, result, strict=True)), missing)
        return result  # type: ignore[no-any-return]

    def held(self, index: int) -> Any | None:
        """The decoded bytes of a chunk if they are at hand (buffer protocol; empty: all fill value). Never asks the source."""
        return None if self._native is None else self._native.block(index)

    def chunk(self, index: int) -> Any | None:
        """The decoded bytes of one cached chunk in C order (buffer protocol), None if it is all fill value.

        Edge chunks are whole: what lies outside the array is fill value.
        """
        self._manager.start()
        cell = self.geometry.cell_of(index)
        for _ in range(_ROUNDS):
            block = self.held(index)
            if block is not None:
                return block if len(block) else None
            if (
                self._native is not None
                and self._native.encoded
                and (decoded := self._decode(index)) is not None
            ):
                return as_bytes(decoded)
            fetched = self._await(cell, self._fetch(cell))
            if fetched is not None:
                break
        else:
            fetched = self._read_source(cell)
        return as_bytes(self._cut(index, fetched))

    def chunk_names(self, at_source: Callable[[str], bool]) -> Iterator[str]:
        """Names of the cached chunks whose source chunk is there, by its own name."""
        array = self._source.open_array(self._path)
        metadata, unit = array.metadata, array.shards or array.chunks
        for chunk in range(int(np.prod(grid(self.shape, self.chunks), dtype=np.int64))):
            origin, _ = self.geometry.cell_box(self.geometry.cell_of(chunk))
            if at_source(metadata.encode_chunk_key(tuple(o // u for o, u in zip(origin, unit, strict=True)))):
                yield chunk_name(self.geometry, chunk)

    def _cut(self, chunk: int, cell: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A whole cached chunk out of a fetched cell, padded with fill value."""
        at = np.unravel_index(chunk, grid(self.shape, self.chunks)) if self.shape else ()
        origin = self.geometry.cell_box(self.geometry.cell_of(chunk))[0]
        whole = np.empty(self.chunks, self.dtype)
        whole[...] = np.frombuffer(self.geometry.fill, self.dtype)[0]
        corner = (int(i) * c - o for i, c, o in zip(at, self.chunks, origin, strict=True))
        part = cell[
            tuple(slice(first, first + size) for first, size in zip(corner, self.chunks, strict=True))
        ]
        whole[tuple(slice(0, size) for size in part.shape)] = part
        return whole

    def forget(self) -> None:
        """What was cached is gone: ask the source again, for everything."""
        self._native = None
        self._source.forget()

    # What is missing

    def _read_undecided(self, slices: Sequence[slice], out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """The first read of an array that nobody has cached."""
        selection = Selection.of(slices, self.shape)
        if out is None:
            out = _cachecore.recycled(selection.count, self.dtype)
        else:
            check_out(out, selection.count, self.dtype)
        if all(selection.count):
            self._paste_cells([(selection, out)], self._cells(selection))
        return out

    def _cells(self, selection: Selection) -> list[int]:
        """The source cells that a selection needs, ascending."""
        coordinates = [
            np.unique((first + step * np.arange(n)) // extent)
            for first, step, n, extent in zip(
                selection.start, selection.step, selection.count, self.geometry.cells, strict=True
            )
        ]
        across = grid(self.shape, self.geometry.cells)
        if not across:
            return [0]
        return [
            int(cell)
            for cell in np.ravel_multi_index(np.meshgrid(*coordinates, indexing="ij"), across).ravel()
        ]

    def _complete(self, boxes: list[tuple[Selection, npt.NDArray[Any]]], missing: Sequence[int]) -> None:
        """Fill in what the native core did not find."""
        self._manager.start()
        if self._native.encoded:
            missing = self._decode_cached(boxes, missing)
        self._paste_cells(boxes, sorted({self.geometry.cell_of(chunk) for chunk in missing}))

    def _paste_cells(self, boxes: list[tuple[Selection, npt.NDArray[Any]]], cells: Sequence[int]) -> None:
        """Fetch cells, each once, and copy them into the boxes that they touch."""
        self._manager.start()
        ahead = max(2, min(2 * self._manager.fetch_threads, _IN_FLIGHT // max(self._cell_bytes, 1)))
        flights: deque[tuple[int, Future[npt.NDArray[Any] | None]]] = deque()
        pending = iter(cells)
        try:
            while True:
                for cell in islice(pending, ahead - len(flights)):
                    flights.append((cell, self._fetch(cell)))
                if not flights:
                    return
                cell, flight = flights.popleft()
                data = self._await(cell, flight)
                if data is None:  # another process has cached it meanwhile
                    data = self._cached_cell(cell)
                origin, _ = self.geometry.cell_box(cell)
                for selection, out in boxes:
                    paste(out, selection, data, origin)
        except BaseException:  # also Ctrl-C: what has not begun shall not begin
            for _, flight in flights:
                flight.cancel()
            raise

    def _await(self, cell: int, flight: Future[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
        while True:
            try:
                return flight.result()
            except CancelledError:  # another thread, interrupted, cancelled the flight that we share
                flight = self._fetch(cell)

    @property
    def _cell_bytes(self) -> int:
        return int(np.prod(self.geometry.cells, dtype=np.int64)) * self.dtype.itemsize

    def _cached_cell(self, cell: int) -> npt.NDArray[Any]:
        """A whole cell from the cache; from the source, if what was cached is gone again or does not check."""
        _, box = self.geometry.cell_box(cell)
        native = self._native
        if native is not None:
            result, missing = native.read(box)
            if missing is not None and native.encoded:
                missing = self._decode_cached([(Selection.of(box, self.shape), result)], missing) or None
            if missing is None:
                return result  # type: ignore[no-any-return]
        return self._read_source(cell)

    def _fetch(self, cell: int) -> Future[npt.NDArray[Any] | None]:
        return self._manager.flight((str(self._folder), cell), partial(self._fetch_cell, cell))

    def _fetch_cell(self, cell: int) -> npt.NDArray[Any] | None:
        """Fetch a cell and cache it. None if it is in the cache already: another process was faster."""
        with self._manager.exclusive(f"{self._folder}:{cell}"):
            if self._native is None:
                self._adopt(_open_native(self._manager, self._folder))
            native, (origin, box) = self._native, self.geometry.cell_box(cell)
            extent = tuple(each.stop - each.start for each in box)
            if native is not None and all(native.contains(chunk) for chunk in native.inside(origin, extent)):
                return None
            data = self._read_source(cell)
            try:
                self._keep(data, origin)
            except Exception as error:  # noqa: BLE001 (whatever fails here, the reader has its data)
                self._manager.failed("insert", error)
            return data

    def _read_source(self, cell: int) -> npt.NDArray[Any]:
        """A decoded cell, clipped to the array. Raises LayerError or FormatError."""
        array = self._source.open_array(self._path)
        if (tuple(array.shape), np.dtype(array.dtype)) != (self.shape, self.dtype):
            raise NotFoundError(
                f"{self._source.where}/{self._path} has changed at its source since it was cached; call refresh()"
            )
        origin, box = self.geometry.cell_box(cell)
        at = tuple(first // size for first, size in zip(origin, self.geometry.cells, strict=True))
        data = self._source.read(self._path, at, box)
        self._manager.count("fetched_cells")
        self._manager.count("fetched_bytes", data.nbytes)
        return data.astype(self.dtype, copy=False).reshape([each.stop - each.start for each in box])

    # Keeping

    def _adopt(self, cached: tuple[Any, Geometry] | None) -> None:
        if cached is None:
            return
        native, geometry = cached
        if (geometry.shape, geometry.dtype, geometry.fill) == (self.shape, self.dtype, self.geometry.fill):
            self.geometry, self.chunks, self._native = geometry, geometry.chunks, native

    def _keep(self, data: npt.NDArray[Any], origin: tuple[int, ...]) -> None:
        """Write the chunks of a cell, as far as there is room."""
        if self._native is None and not self._create(data, origin):
            return
        native, manager = self._native, self._manager
        chunks = native.inside(origin, data.shape)
        if native.encoded:
            for chunk in chunks:
                self._keep_encoded(chunk, data, origin)
            return
        size = native.chunk_bytes + 4
        if not manager.admit(size * len(chunks)):
            return
        error, written = native.insert_box(data, origin)
        before = manager.inserted(native.id, written, size)
        if unused := size * (len(chunks) - len(written)) + before:
            manager.refund(unused)
        if error:
            self._failed_insert(error)

    def _failed_insert(self, error: int) -> None:
        self._manager.failed("insert", error)
        if error == errno.ENOENT:  # another process discarded the array: begin again with the next chunk
            self._native = None

    def _keep_encoded(self, chunk: int, data: npt.NDArray[Any], origin: tuple[int, ...]) -> None:
        native, manager = self._native, self._manager
        whole = native.assemble(chunk, data, origin)
        if whole is None:
            error = native.insert_absent(chunk)
        else:
            encoded = _codec(self.dtype).encode(whole)
            native.keep(chunk, as_bytes(whole))
            size = len(encoded) + 4
            if not manager.admit(size):
                return
            error = native.insert(chunk, encoded)
            refund = size if error else manager.inserted(native.id, [chunk], size)
            if refund:
                manager.refund(refund)
        if error:
            self._failed_insert(error)

    def _create(self, data: npt.NDArray[Any], origin: tuple[int, ...]) -> bool:
        """Begin caching: decide how chunks are kept, from the first that is not empty, and write `.cache_info`."""
        manager, geometry = self._manager, self.geometry
        encoded = manager.disk_format == "encoded"
        if manager.disk_format == "auto":
            ratio = _encoded_ratio(data, geometry)
            if ratio is None:
                return False  # nothing but fill value: tells nothing
            encoded = ratio <= MAX_ENCODED_RATIO
        stored = "encoded" if encoded else "raw"
        known = self._source.documents(self._path)
        with manager.exclusive(f"{self._folder}:create"):
            self._adopt(_open_native(manager, self._folder))
            if self._native is not None:  # another thread or process was faster
                return True
            if (self._folder / info.FILE).exists():  # damaged, of another version or of another shape
                manager.discard(self._folder)
            name, document = zarr_document(geometry, known, self._path, stored=stored)
            info.write(self._folder / name, document)
            array = {"id": secrets.randbits(62) + 1, "format": stored, "geometry": geometry.to_json()}
            item = {
                "source_layer": self._layer,
                "path": self._path,
                "cached_at": info.timestamp(),
                "array": array,
            }
            info.write(self._folder / info.FILE, info.seal(item), keep_first=True)
            self._adopt(_open_native(manager, self._folder))
        return self._native is not None

    # The encoded tier

    def _decode_cached(
        self, boxes: list[tuple[Selection, npt.NDArray[Any]]], missing: Sequence[int]
    ) -> list[int]:
        """Paste the chunks that lie encoded on disk; returns those that do not."""
        decoding = {
            chunk: self._manager.flight((f"{self._folder}:decode", chunk), partial(self._decode, chunk))
            for chunk in missing
        }
        lacking = []
        for chunk, flight in decoding.items():
            decoded = flight.result()
            if decoded is None:
                lacking.append(chunk)
                continue
            at = np.unravel_index(chunk, grid(self.shape, self.chunks))
            origin = tuple(int(i) * c for i, c in zip(at, self.chunks, strict=True))
            for selection, out in boxes:
                paste(out, selection, decoded, origin)
        return lacking

    def _decode(self, chunk: int) -> npt.NDArray[Any] | None:
        """A chunk that lies encoded on disk, decoded and kept in memory; None if there is none that can be used."""
        payload = self._native.payload(chunk)
        if payload is None:
            return None
        decoded = np.empty(self.chunks, self.dtype)
        try:
            _codec(self.dtype).decode(payload, out=as_bytes(decoded))
        except Exception as error:  # noqa: BLE001 (the checksum was right: written wrongly, or by another version)
            self._manager.failed("decode", error)
            self._native.remove(chunk)
            return None
        self._manager.count("decoded")
        self._native.keep(chunk, as_bytes(decoded))
        return decoded


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


def _open_native(manager: CacheManager, folder: Path) -> tuple[Any, Geometry] | None:
    """What is cached in `folder`; None if nothing is that can be used."""
    document = info.read(folder / info.FILE)
    if document is None:
        return None
    try:
        array = document["array"]
        geometry = Geometry.from_json(array["geometry"])
        native = _cachecore.Array(
            manager.native, array["id"], str(folder), geometry.shape, geometry.chunks, geometry.dtype, geometry.fill,
            geometry.prefix, array["format"] == "encoded",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError) as error:
        manager.failed("open", error)
        return None
    manager.register(array["id"], folder, geometry)
    return native, geometry


def as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of a C-ordered array, without a copy."""
    return array.reshape(-1).view(np.uint8)


def _codec(dtype: np.dtype[Any]) -> Any:
    from numcodecs import Blosc

    codec = blosc(dtype)
    return Blosc(
        cname=codec["cname"], clevel=codec["clevel"], shuffle=codec["shuffle"], blocksize=codec["blocksize"]
    )


def _encoded_ratio(data: npt.NDArray[Any], geometry: Geometry) -> float | None:
    """Encoded over raw size of a sample from the middle of some data; None if all of it is fill value."""
    if data.flat[0:1].tobytes() == geometry.fill and data.tobytes() == geometry.fill * data.size:
        return None
    middle = tuple(slice(max(0, size // 2 - 32), size // 2 + 32) for size in data.shape)
    sample = np.ascontiguousarray(data[middle])
    return len(_codec(geometry.dtype).encode(sample)) / sample.nbytes
