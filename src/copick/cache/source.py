"""The array at its source: a zarr array whose metadata is fetched once, in as few requests as the protocol allows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from zarr.abc.store import ByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from copick.arrays import missing_array, source_error
from copick.cache.contact import Contact
from copick.cache.decode import Decoder
from copick.errors import FormatError, NotFoundError
from copick.stores import ReadOnlyStore, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    import numpy.typing as npt
    import zarr

    from copick.cache.generations import Moment

_SHARD_INDEXES = 256  # remembered per store


class SourceStore(ReadOnlyStore):
    """The parent's store, read-only, with documents that are known already and shard indexes remembered.

    Not sync-capable on purpose: zarr then always asks `get`, where what is known is answered without a request.
    """

    def __init__(self, parent: Store, known: dict[str, bytes | None]) -> None:
        super().__init__()
        self._parent, self._known = parent, known
        self._indexes: OrderedDict[tuple[str, int], Buffer | None] = OrderedDict()
        self._asked: dict[tuple[str, int], asyncio.Future[Buffer | None]] = {}  # indexes under way

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SourceStore) and self._parent == other._parent

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key in self._known and byte_range is None:
            data = self._known[key]
            return None if data is None else prototype.buffer.from_bytes(data)
        if not isinstance(byte_range, SuffixByteRequest):
            return await self._parent.get(key, prototype, byte_range)
        # Only the sharding codec asks for the end of a file: the index of the shard, needed for each of its chunks.
        # Zarr runs all of this on one event loop, so that nothing else happens between two awaits.
        at = (key, byte_range.suffix)
        if at in self._indexes:
            return self._indexes[at]
        if at not in self._asked:
            self._asked[at] = asyncio.ensure_future(self._index(at, prototype))
        return await asyncio.shield(self._asked[at])

    async def _index(self, at: tuple[str, int], prototype: BufferPrototype) -> Buffer | None:
        try:
            index = await self._parent.get(at[0], prototype, SuffixByteRequest(at[1]))
        finally:
            del self._asked[at]
        self._indexes[at] = index
        while len(self._indexes) > _SHARD_INDEXES:
            self._indexes.popitem(last=False)
        return index

    async def exists(self, key: str) -> bool:
        if key in self._known:
            return self._known[key] is not None
        return await self._parent.exists(key)

    def list(self) -> AsyncIterator[str]:
        return self._parent.list()

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        return self._parent.list_prefix(prefix)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        return self._parent.list_dir(prefix)


def fetch(store: Store, keys: Iterable[str]) -> dict[str, bytes | None]:
    """Several small documents at the same time; None for those that are not there."""
    names = list(dict.fromkeys(keys))

    async def ask() -> list[Buffer | None]:
        return await asyncio.gather(*(store.get(name, default_buffer_prototype()) for name in names))

    return {
        name: None if data is None else data.to_bytes() for name, data in zip(names, run(ask()), strict=True)
    }


def join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


class Source:
    """One volume at its source. Knows which zarr format it has, and its documents, once asked.

    Attributes:
        where: Names it in errors.
        open_store: Gives the parent's store (asked for once per process).
        ask_tag: Asks what tells the version of the node at a path from others; None = the place does not tell.
        contact: Whether the place answers.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        where: str,
        formats: dict[str, int] | None = None,
        ask_tag: Callable[[str], str | None] | None = None,
        contact: Contact | None = None,
    ) -> None:
        """`formats` is shared by the volumes of a layer: what one of them is, the next one probably is too."""
        self.where, self.open_store = where, open_store
        self.ask_tag, self.contact = ask_tag, contact or Contact(where)
        self.moment: Callable[[], Moment] | None = None
        """Tells when what is known of the volume is out of date. Not kept when pickled."""
        self._formats = {} if formats is None else formats
        self._known: dict[str, bytes | None] = {}
        self._tags: dict[str, str | None] = {}
        self._asked: Moment | None = None  # as of when all of it is known
        self._begin()

    def _begin(self) -> None:
        """Connections and locks belong to one process."""
        self._pid = os.getpid()
        self._mutex, self._asking = threading.RLock(), threading.RLock()  # the second is taken first
        self._store: Store | None = None
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._decoders: dict[str, tuple[zarr.Array[Any], Decoder | None]] = {}

    @property
    def store(self) -> Store:
        if self._pid != os.getpid():
            self._begin()
        with self._mutex:
            if self._store is None:
                self._store = self.open_store()
            return self._store

    @property
    def alone(self) -> threading.RLock:
        """To be held by the thread that asks the place whether the volume has changed."""
        if self._pid != os.getpid():
            self._begin()
        return self._asking

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.open_store, self.where, self._formats, self.ask_tag, self.contact)

    def documents(self, path: str) -> dict[str, bytes | None]:
        """The metadata of the root group and of the node at `path`: at most four requests, at the same time.

        Two if another volume of the layer has told its zarr format, and the others only if this one differs.
        """
        store = self._up_to_date()
        v2 = [join(path, ".zarray"), ".zattrs"]
        v3 = [join(path, "zarr.json"), "zarr.json"]
        with self._mutex:
            self._note_tag(path)  # before the documents: should they change in between, another tag will tell
            rounds = {2: [v2, v3], 3: [v3, v2]}.get(self._formats.get("zarr", 0), [[*v2, *v3]])
            for keys in rounds:
                lacking = [key for key in keys if key not in self._known]
                if lacking:
                    try:
                        self._known.update(fetch(store, lacking))
                    except Exception as error:
                        raise source_error(error, join(self.where, path)) from error
                if self._known[keys[0]] is not None:
                    break
            return dict(self._known)

    def _note_tag(self, path: str) -> None:
        if path in self._tags or self.ask_tag is None:
            return
        tag = None
        with contextlib.suppress(NotFoundError):  # the documents say better what is missing
            tag = self.ask_tag(path)
        self._tags[path] = tag
        if tag is not None and tag.startswith("."):
            self._formats["zarr"] = 2
        elif tag is not None and tag.startswith("zarr.json"):
            self._formats["zarr"] = 3

    def tag(self, path: str) -> str | None:
        """The tag of the node at `path` as of when its documents were asked for; None if that is not known."""
        return self._tags.get(path)

    def open_array(self, path: str) -> zarr.Array[Any]:
        """The array at `path`; opened once per process.

        Raises:
            NotFoundError: There is none; the text names those there are.
            FormatError: Its metadata cannot be understood.
            LayerError: The place failed.
        """
        store = self._up_to_date()
        with self._mutex:
            if path not in self._arrays:
                self._arrays[path] = self._open(store, path)
            return self._arrays[path]

    def _open(self, store: Store, path: str) -> zarr.Array[Any]:
        import zarr

        known = self.documents(path)
        v2, v3 = known.get(join(path, ".zarray")), known.get(join(path, "zarr.json"))
        zarr_format: Literal[2, 3] = 3 if v3 is not None and _node_type(v3) != "group" else 2
        if zarr_format == 2 and v2 is None:
            self._known = {key: data for key, data in known.items() if data is not None}  # it may come yet
            raise missing_array(store, path, self.where)
        # Attributes of an array change nothing about its data, so they are not worth a request.
        answers = {**known, join(path, ".zattrs"): None}
        try:
            array = zarr.open_array(SourceStore(store, answers), path=path, mode="r", zarr_format=zarr_format)
            if array.shape and min(getattr(array.metadata, "chunks", ()), default=1) < 1:
                raise ValueError(f"chunks of {array.chunks}")
        except Exception as error:
            name = join(self.where, path, ".zarray" if zarr_format == 2 else "zarr.json")
            raise FormatError(
                f"{name} cannot be understood ({type(error).__name__}: {error}); it is damaged, or of a format that "
                "this version of zarr does not read: repair or replace it"
            ) from error
        self._formats["zarr"] = zarr_format
        return array

    def read(
        self, array: zarr.Array[Any], path: str, cell: tuple[int, ...], box: tuple[slice, ...]
    ) -> npt.NDArray[Any]:
        """A decoded chunk (of a shard) of the array at `path`, clipped to `box`. Its memory may be a view of a larger array.

        `array`: what `open_array` gave, which may be something else now.

        Raises:
            FormatError: The chunk is truncated, corrupt or of an unknown format.
            LayerError: The place failed.
        """
        file = cell
        if array.shards is not None:
            file = tuple(
                at * inner // outer for at, inner, outer in zip(cell, array.chunks, array.shards, strict=True)
            )
        key = join(path, array.metadata.encode_chunk_key(file))
        try:
            decoder = self._decoder(path, array)
            if decoder is None:
                return np.asarray(array[box])
            data = run(self.store.get(key, default_buffer_prototype()))
            if data is None:
                extent = [each.stop - each.start for each in box]
                fill = (
                    np.zeros((), array.dtype)
                    if array.fill_value is None
                    else np.asarray(array.fill_value, array.dtype)
                )
                return np.broadcast_to(fill, extent)
            chunk = decoder.decode(data.as_numpy_array())
        except Exception as error:
            raise source_error(error, join(self.where, key)) from error
        return chunk[tuple(slice(each.stop - each.start) for each in box)]

    def _decoder(self, path: str, array: zarr.Array[Any]) -> Decoder | None:
        known = self._decoders.get(path)
        if known is None or known[0] is not array:
            known = self._decoders[path] = (array, Decoder.of(array))
        return known[1]

    def forget(self) -> None:
        """Ask again for all that is known."""
        with self._mutex:
            self._known, self._tags, self._arrays, self._decoders = {}, {}, {}, {}

    def has_changed(self, path: str) -> bool:
        """Whether the array at `path` has other metadata than when it was opened. Raises as `documents` does."""
        names = [join(path, ".zarray"), join(path, "zarr.json")]
        before = self.documents(path)
        self.forget()
        after = self.documents(path)
        return any(before.get(name) != after.get(name) for name in names)

    def _up_to_date(self) -> Store:
        """The store, after forgetting what is known if the volume was written since it was asked for."""
        store = self.store
        if self.moment is not None and (self._asked is None or not self._asked.stands()):
            with self._mutex:
                asked = self.moment()
                self._known, self._tags, self._arrays, self._decoders, self._asked = {}, {}, {}, {}, asked
        return store


def _node_type(document: bytes) -> str | None:
    try:
        parsed = json.loads(document)
    except ValueError:
        return None
    return parsed.get("node_type") if isinstance(parsed, dict) else None
