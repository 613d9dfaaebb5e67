"""The cached chunks of a volume as a zarr store, so that `zarr.open(tomogram.zarr())` and all that is built on it are cached too.

Zarr sees uncompressed arrays in the cache's chunk grid: metadata made from the source's, chunks straight from the cached files
(verified when first used by this process). Everything else in the group is the source's.
"""

from __future__ import annotations

import asyncio
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from copick.arrays import ArraySource, ZarrArray
from copick.cache import info
from copick.cache.array import CachedArray
from copick.cache.entry import DOCUMENTS
from copick.cache.geometry import zarr_document
from copick.cache.manager import CacheManager, open_manager
from copick.cache.remembered import Remembered
from copick.cache.source import Source, fetch, join
from copick.errors import CacheError, NotFoundError, ReadOnlyError
from copick.stores import MappingCalls, ReadOnlyStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from collections.abc import Set as AbstractSet

    from fsspec import AbstractFileSystem

    from copick.cache.contact import Contact

T = TypeVar("T")

_METADATA = (".zarray", ".zattrs", ".zgroup", "zarr.json")
"""Consolidated metadata (`.zmetadata`) describes the source's chunks and is not passed on."""


class CachingZarrStore(MappingCalls, ReadOnlyStore):
    """A read-only zarr store of one volume, cached; also a mapping of keys to bytes.

    Args:
        local_path: Where the volume is cached: a folder under the cache's root.
        parent_store: The volume's store at its source, or what opens it (called when the source is first needed).
        cache_manager: The cache.
        origin: Where the volume comes from; cached items of another origin are not used.
        where: Name of the volume in errors.
        formats, ask_tag, contact: See `Source`; the first and the last are shared by the volumes of a layer.
    """

    def __init__(
        self,
        local_path: str | Path,
        parent_store: Store | Callable[[], Store],
        cache_manager: CacheManager,
        *,
        origin: info.Origin | None = None,
        where: str = "",
        formats: dict[str, int] | None = None,
        ask_tag: Callable[[str], str | None] | None = None,
        contact: Contact | None = None,
    ) -> None:
        super().__init__()
        self.local_path, self.cache_manager = Path(local_path), cache_manager
        self._origin = origin or info.Origin("", "")
        self._opened: dict[str, CachedArray] = {}
        self._source = Source(
            parent_store if callable(parent_store) else lambda: parent_store,
            where or self.local_path.name,
            formats,
            ask_tag,
            contact,
        )
        self._source.moment = partial(cache_manager.moment, self.local_path)

    def __reduce__(self) -> tuple[Any, ...]:
        manager = self.cache_manager
        return _reopened, (
            str(self.local_path), self._source.open_store, str(manager.cache_root), manager.limits, self._origin,
            self._source.where, self._source.ask_tag, self._source.contact,
        )  # fmt: skip

    @property
    def fs(self) -> AbstractFileSystem:
        """The filesystem that the cache lies in."""
        return self.cache_manager.fs

    @property
    def parent_store(self) -> Store:
        """The volume's store at its source."""
        return self._source.store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CachingZarrStore) and self.local_path == other.local_path

    def _writable(self, key: str) -> None:
        raise ReadOnlyError(
            f"cannot write {key!r}: {self!r} shows the cache's chunks, not those of the source. Write with from_numpy or "
            "set_region, or to the store that zarr() of an entity in a layer that can be written gives"
        )

    @property
    def where(self) -> str:
        """Names the volume in errors: layer and path."""
        return self._source.where

    def __repr__(self) -> str:
        return f"<CachingZarrStore of {self._source.where!r} in {self.local_path}>"

    # Arrays

    def open_array(self, path: str) -> ArraySource:
        """The array at `path`, read by the native core where its items have a fixed size. See `copick.arrays.open_array`."""
        array = self._cached(path)
        if array is not None:
            return array
        return ZarrArray(self._source.open_array(path), f"{self._source.where}/{path}")

    def _cached(self, path: str) -> CachedArray | None:
        array = self._opened.get(path)
        if array is not None:
            return array
        folder = self.local_path / path if path else self.local_path
        if not Path(os.path.normpath(folder)).is_relative_to(self.cache_manager.cache_root):
            raise NotFoundError(f"{self._source.where} has no array {path!r}")
        known = (str(folder), self._origin.place)
        array = self.cache_manager.arrays.get(known)
        if array is None:
            array = CachedArray.open(self.cache_manager, folder, self._origin, self._source, path)
            if array is not None:
                self.cache_manager.arrays[known] = array
        if array is not None:
            self._opened[path] = array  # the manager's reference is a weak one
        return array

    def _places(self, key: str) -> list[tuple[str, str]]:
        """The ways to read a key as array path and chunk name. Levels lie in the group itself, so there are few."""
        parts = key.split("/")
        return [("/".join(parts[:n]), "/".join(parts[n:])) for n in range(min(len(parts), 3))]

    def _is_array(self, path: str) -> bool:
        return path in self._opened or any(
            _is_array_document(name, data) for name, data in self._documents(path).items()
        )

    # Store

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # Finding and mapping a cached chunk takes microseconds; all that asks the source runs on another thread, because the
        # source's own zarr calls need the event loop that we are on.
        if not _inside(key):
            return None
        data = self._held(key)
        if data is None:
            data = await self._elsewhere(self._fetched, key)
        if data is None:
            return None
        return prototype.buffer.from_array_like(_cut(np.frombuffer(data, np.uint8), byte_range))

    def _held(self, key: str) -> Any | None:
        """The bytes of a chunk that is cached here; None if it is not, or all fill value."""
        for path, name in self._places(key):
            array = self._opened.get(path)
            if array is not None and (block := array.held(name)) is not None:
                return block if len(block) else None
        return None

    def _fetched(self, key: str) -> Any | None:
        """The bytes of any key, from wherever they are."""
        name = key.rpartition("/")[2]
        if name in _METADATA:
            return self._metadata(key)
        if name == ".zmetadata":
            return None
        for path, chunk in self._places(key):
            if self._is_array(path) and (array := self._cached(path)) is not None:
                return array.chunk(chunk)
        return fetch(self.parent_store, [key])[key]

    def _metadata(self, key: str) -> bytes | None:
        """A metadata document: a group's is the source's, an array's is made from the source's."""
        path, _, name = key.rpartition("/")
        documents = self._documents(path)
        data = documents.get(name)
        if data is None:
            return None
        if _is_array_document(name, data):
            array = self._cached(path)  # if its items have no fixed size, zarr reads the source's chunks
            known = {join(path, each): document for each, document in documents.items()}
            return data if array is None else zarr_document(array.geometry, known, path, stored=None)[1]
        if name != "zarr.json":
            return data
        group = json.loads(data)
        group.pop("consolidated_metadata", None)
        return json.dumps(group).encode()

    def _documents(self, path: str) -> dict[str, bytes | None]:
        """The metadata documents of the node at `path`, as the source has them; kept in `.zarr_info` once asked for."""
        file, source = self.local_path / path / DOCUMENTS, self._source
        with source.alone:
            kept = Remembered(self.cache_manager, self._origin, source.contact, file)
            return kept.answer(
                lambda document: {
                    name: None if text is None else text.encode()
                    for name, text in document["documents"].items()
                },
                partial(self._asked_documents, path),
                None if source.ask_tag is None else partial(source.ask_tag, path),
            )

    def _asked_documents(self, path: str) -> tuple[dict[str, bytes | None], dict[str, Any] | None]:
        """Those that there are, and what to keep of them."""
        known = self._source.documents(path)
        documents = {name: known[key] for name in _METADATA if (key := join(path, name)) in known}
        if documents.get(".zarray") is not None:
            documents[".zgroup"] = None
        elif documents.get(".zattrs") is not None and not path:
            documents[".zgroup"] = b'{"zarr_format": 2}'
        is_v3 = documents.get("zarr.json") is not None
        lacking = [] if is_v3 else [name for name in _METADATA if name not in documents]
        fetched = fetch(self.parent_store, [join(path, name) for name in lacking]) if lacking else {}
        documents.update({name: fetched[join(path, name)] for name in lacking})
        if all(documents.get(name) is None for name in (".zarray", ".zgroup", "zarr.json")):
            return documents, None
        try:
            texts = {name: None if data is None else data.decode() for name, data in documents.items()}
        except UnicodeDecodeError as error:
            self.cache_manager.failed("metadata", error)
            return documents, None
        return documents, {"documents": texts, "tag": self._source.tag(path)}

    async def exists(self, key: str) -> bool:
        return await self.get(key, default_buffer_prototype()) is not None

    async def _elsewhere(self, work: Callable[..., T], *args: Any) -> T:
        """What `work` returns, on another thread."""
        loop = asyncio.get_running_loop()
        # Not as a future's exception: at the end of Python nobody takes it, and asyncio prints it.
        answer, error = await loop.run_in_executor(self.cache_manager.waiters, _attempt, work, *args)
        if error is not None:
            raise error
        return cast("T", answer)

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The keys under `prefix`: the source's, with each of its chunks replaced by the cached chunks that hold its data."""
        if prefix and not _inside(prefix.rstrip("/")):
            return
        start = prefix
        for path, _ in self._places(prefix):
            if await self._elsewhere(self._is_array, path):
                start = f"{path}/" if path else ""  # the source names and divides the chunks in its own way
        there = {key async for key in self.parent_store.list_prefix(start)}
        arrays = {key.rpartition("/")[0] for key in there if key.endswith((".zarray", "zarr.json"))}
        keys = {key for key in there if key.rpartition("/")[2] in _METADATA}
        for path in sorted(arrays):
            keys |= await self._elsewhere(self._chunk_keys, path, there)
        for key in sorted(keys):
            if key.startswith(prefix):
                yield key

    def _chunk_keys(self, path: str, there: AbstractSet[str]) -> AbstractSet[str]:
        """The keys of the cached chunks of an array whose source chunks are `there`."""
        if not self._is_array(path):
            return set()
        array = self._cached(path)
        if array is None:  # zarr reads the source's chunks
            return {key for key in there if not path or key.startswith(f"{path}/")}
        return {join(path, name) for name in array.chunk_names(lambda key: join(path, key) in there)}

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names directly under `prefix`."""
        base = prefix.strip("/")
        inside = [path for path, _ in self._places(base + "/") if path or base == ""]
        if any([await self._elsewhere(self._is_array, path) for path in inside]):
            start = f"{base}/" if base else ""
            names = {key[len(start) :].partition("/")[0] async for key in self.list_prefix(start)}
        else:
            names = {name async for name in self.parent_store.list_dir(prefix) if name != ".zmetadata"}
        for name in sorted(names):
            yield name


def _reopened(
    local_path: str,
    open_store: Callable[[], Store],
    cache_root: str,
    limits: dict[str, Any],
    origin: info.Origin,
    where: str,
    ask_tag: Callable[[str], str | None] | None,
    contact: Contact,
) -> Store:
    """A store in another process; the source's own if the cache cannot be opened there."""
    try:
        manager = open_manager(cache_root, **limits)
    except (OSError, CacheError):
        return open_store()
    return CachingZarrStore(
        local_path, open_store, manager, origin=origin, where=where, ask_tag=ask_tag, contact=contact
    )


def _attempt(work: Callable[..., T], *args: Any) -> tuple[T | None, Exception | None]:
    """What `work` returns, or what it raises."""
    try:
        return work(*args), None
    except Exception as error:  # noqa: BLE001 (it belongs to whoever waits)
        return None, error


def _inside(key: str) -> bool:
    """Whether a key names something in the store. What would lead out of its folder does not exist."""
    return not any(part in {"", ".", ".."} or "\\" in part or "\0" in part for part in key.split("/"))


def _is_array_document(name: str, data: bytes | None) -> bool:
    if data is None or name not in (".zarray", "zarr.json"):
        return False
    if name == ".zarray":
        return True
    try:
        return bool(json.loads(data).get("node_type") == "array")
    except (ValueError, AttributeError):
        return False


def _cut(data: np.ndarray[Any, Any], byte_range: ByteRequest | None) -> np.ndarray[Any, Any]:
    """The bytes that a store's caller asked for."""
    if isinstance(byte_range, RangeByteRequest):
        return data[byte_range.start : byte_range.end]
    if isinstance(byte_range, OffsetByteRequest):
        return data[byte_range.offset :]
    if isinstance(byte_range, SuffixByteRequest):
        return data[-byte_range.suffix :] if byte_range.suffix else data[:0]
    return data
