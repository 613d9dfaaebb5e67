"""One version of one array as it lies in the cache folder: opening it, beginning it, putting chunks into it."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from copick import _cachecore
from copick.cache import info
from copick.cache.decode import decode_blosc
from copick.cache.geometry import MAX_ENCODED_RATIO, Geometry, blosc, zarr_document
from copick.cache.items import expired, expiry, has_ended
from copick.errors import CacheError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from copick.cache.generations import Moment
    from copick.cache.manager import CacheManager

ZARR = {".zarray", "zarr.json"}
DOCUMENTS = ".zarr_info"
"""File with the source's metadata documents of a group or array, beside `.cache_info`."""


class Entry:
    """An array that is cached, at least in part."""

    def __init__(
        self,
        manager: CacheManager,
        native: _cachecore.Array,
        geometry: Geometry,
        folder: Path,
    ) -> None:
        """Use `open`."""
        self._manager, self.native, self.geometry, self._folder = manager, native, geometry, folder
        self.discarded = False  # its folder was found to be gone
        self.tag: str | None = None
        """What tells this version at the source from others."""
        self.until = math.inf
        """When the source is to be asked whether this is still its version (seconds since 1970)."""
        self._file: tuple[int, ...] | None = None  # tells one `.cache_info` from another that took its place

    @classmethod
    def open(
        cls,
        manager: CacheManager,
        folder: Path,
        origin: info.Origin,
        generation: int,
        known: Entry | None = None,
    ) -> Entry | None:
        """What is cached in `folder` from `origin` (`known`, if it is that); None if there is nothing that can be used.

        `generation`: what the folder's was before this call.
        """
        file = _signature(folder / info.FILE)
        if known is not None and file is not None and file == known._file and known.until > time.time():
            return known
        document = info.read(folder / info.FILE)
        if document is None or not origin.owns(document) or has_ended(document):
            return None
        try:
            array = document["array"]
            if known is not None and array["id"] == known.native.id:  # something was noted about it
                return known._noted(document, file)
            geometry = Geometry.from_json(array["geometry"])
            native = _cachecore.Array(
                manager.native, array["id"], str(folder), geometry.shape, geometry.chunks, geometry.dtype,
                geometry.fill, geometry.prefix, array["format"] == "encoded", manager.slots(folder), generation,
            )  # fmt: skip
        except FileNotFoundError:  # discarded this very moment
            return None
        except (KeyError, TypeError, ValueError, OSError) as error:
            manager.failed("open", error)
            return None
        manager.register(native.id, folder, geometry, origin.layer)
        return cls(manager, native, geometry, folder)._noted(document, file)

    def _noted(self, document: dict[str, Any], file: tuple[int, ...] | None) -> Entry:
        """With what its `.cache_info` says."""
        self._file, self.tag = file, document.get("tag")
        end = expiry(self._manager, document)
        self.until = math.inf if end is None else 0.0 if expired(self._manager, document) else end.timestamp()
        return self

    def confirm(self) -> None:
        """The source has this version still: it counts for another `max_age`, in all processes."""
        self.until = time.time() + self._manager.max_age if self._manager.max_age else math.inf
        try:
            with info.Directory(self._folder) as there:
                known = there.read(info.FILE)  # if it is discarded from now on, what is written goes with it
                if known is not None and known.get("array", {}).get("id") == self.native.id:
                    there.write(info.FILE, info.seal({**known, "time": time.time()}))
        except FileNotFoundError:  # discarded this very moment
            pass
        except OSError as error:
            self._manager.failed("metadata", error)

    @classmethod
    def create(
        cls,
        manager: CacheManager,
        folder: Path,
        origin: info.Origin,
        geometry: Geometry,
        documents: dict[str, bytes | None],
        path: str,
        sample: npt.NDArray[Any],
        moment: Moment,
        tag: str | None = None,
    ) -> Entry | None:
        """Begin to cache the array at `path`; the first to do so decides, from some data of it, how chunks are kept.

        Raises OSError. None if another version was begun meanwhile that cannot be used, or if the array was written since the
        `moment` when it was asked for.
        """
        encoded = {"raw": False, "encoded": True, "auto": _compresses(sample, geometry)}[manager.disk_format]
        stored = "encoded" if encoded else "raw"
        with manager.exclusive(f"{folder}:create", within=True):
            entry = cls.open(manager, folder, origin, moment.generation)
            if entry is not None and entry.geometry.same_data(geometry):  # another was faster
                return entry
            if not moment.may_keep():
                return None
            if folder.is_dir() and (names := {*os.listdir(folder)} - {DOCUMENTS}):
                if info.FILE not in names and any(not is_ours(folder / name) for name in ZARR & names):
                    raise CacheError(f"{folder} is an array that no cache has made; it stays as it is")
                if entry is None and _is_intact(folder, origin, geometry):
                    return None  # what failed was to open it, just now
                # Damaged, or of another place, shape or version: no chunk of it can be trusted.
                manager.remove(folder)
            name, document = zarr_document(geometry, documents, path, stored=stored)
            item = {
                "path": path,
                "cached_at": info.timestamp(),
                "time": time.time(),
                "tag": tag,
                "array": {"id": secrets.randbits(62) + 1, "format": stored, "geometry": geometry.to_json()},
            }
            info.make_folder(folder)
            with info.Directory(folder) as there:
                if not moment.may_keep():
                    return None
                # If it is discarded from now on, what is written goes with it.
                there.write(name, document)
                there.write(info.FILE, info.seal(origin.mark(item)), keep_first=True)
            return cls.open(manager, folder, origin, moment.generation)

    def holds(self, origin: tuple[int, ...], extent: tuple[int, ...]) -> bool:
        """Whether every chunk of a box is on disk."""
        return all(self.native.contains(chunk) for chunk in self.native.inside(origin, extent))

    def keep(self, data: npt.NDArray[Any], origin: tuple[int, ...]) -> None:
        """Write the chunks that `data` at `origin` holds whole, as far as there is room. Failures are counted, not raised."""
        if self.native.encoded:
            for chunk in self.native.inside(origin, data.shape):
                self._keep_encoded(chunk, data, origin)
            return
        chunks = self.native.inside(origin, data.shape)
        size = self.native.chunk_bytes + _TRAILER
        with self._manager.budget.reserve(size * len(chunks), self.native.id) as room:
            if room is None:
                self._manager.count("bypassed")
                return
            replaced = {chunk for chunk in chunks if self.native.contains(chunk)}
            error, written = self.native.insert_box(data, origin)
            with self._manager.budget.noting(room):
                noted = self._manager.inserted(self.native.id, written, size)
                new = noted.keys() - replaced
                room.written, room.noted = size * len(new), sum(noted[chunk] for chunk in new)
        self._check(error)

    def _keep_encoded(self, chunk: int, data: npt.NDArray[Any], origin: tuple[int, ...]) -> None:
        whole = self.native.assemble(chunk, data, origin)
        if whole is None:
            return self._check(self.native.insert_absent(chunk))
        encoded = codec_for(self.geometry.dtype).encode(whole)
        self.native.keep(chunk, as_bytes(whole))
        size = len(encoded) + _TRAILER
        with self._manager.budget.reserve(size, self.native.id) as room:
            if room is None:
                return self._manager.count("bypassed")
            error = self.native.insert(chunk, encoded)
            if not error:
                with self._manager.budget.noting(room):
                    room.noted = sum(self._manager.inserted(self.native.id, [chunk], size).values())
                    room.written = size
        return self._check(error)

    def _check(self, error: int) -> None:
        if error == errno.ENOENT:
            self.discarded = True
        elif error:
            self._manager.failed("insert", error)

    def decode(self, chunk: int) -> npt.NDArray[Any] | None:
        """A chunk that lies encoded on disk, decoded and kept in memory; None if there is none that can be used."""
        payload = self.native.payload(chunk)
        if payload is None:
            return None
        decoded = np.empty(self.geometry.chunks, self.geometry.dtype)
        try:
            decode_blosc(codec_for(self.geometry.dtype), payload, as_bytes(decoded))
        except Exception as error:  # noqa: BLE001 (the checksum was right: written wrongly, or by another version)
            self._manager.failed("decode", error)
            self.native.remove(chunk)
            return None
        self._manager.count("decoded")
        self.native.keep(chunk, as_bytes(decoded))
        return decoded


_TRAILER = 4  # bytes of the checksum behind a payload


def _is_intact(folder: Path, origin: info.Origin, geometry: Geometry) -> bool:
    """Whether what is cached there is of that origin, and of an array like this."""
    document = info.read(folder / info.FILE)
    if document is None or not origin.owns(document) or has_ended(document):
        return False
    try:
        return Geometry.from_json(document["array"]["geometry"]).same_data(geometry)
    except (KeyError, TypeError, ValueError):
        return False


def is_ours(path: Path) -> bool:
    """Whether zarr metadata tells of chunks as only a cache writes them. Somebody's own arrays are none of our business."""
    try:
        with open(info.open_file(path, os.O_RDONLY | info.BINARY), "rb") as file:
            document = json.load(file)
        if path.name == ".zarray":
            return bool(document["compressor"] == {"id": "crc32c", "location": "end"})
        return bool(document["node_type"] == "array" and document["codecs"][-1] == {"name": "crc32c"})
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


def as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of a C-ordered array, without a copy."""
    return array.reshape(-1).view(np.uint8)


def codec_for(dtype: np.dtype[Any]) -> Any:
    """The codec of encoded entries."""
    from numcodecs.registry import get_codec

    return get_codec(blosc(dtype))


def _compresses(data: npt.NDArray[Any], geometry: Geometry) -> bool:
    """Whether to keep an array encoded, judged by a sample from the middle of some data.

    Nothing but fill value tells nothing: then integers are taken for a mask, which compresses, and floats for a tomogram.
    """
    if data.flat[0:1].tobytes() == geometry.fill and data.tobytes() == geometry.fill * data.size:
        return geometry.dtype.kind not in "fc"
    middle = tuple(slice(max(0, size // 2 - 32), size // 2 + 32) for size in data.shape)
    sample = np.ascontiguousarray(data[middle])
    return bool(len(codec_for(geometry.dtype).encode(sample)) <= MAX_ENCODED_RATIO * sample.nbytes)
