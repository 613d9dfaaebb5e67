"""Zarr stores that also are mappings of keys to bytes, as the stores of copick 1.x were.

`store["0/.zarray"]`, `key in store`, `len(store)`, `items()` and iteration work beside everything that zarr does with a store
(`get` is zarr's, so not a mapping's).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, ItemsView, ValuesView
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from copick.errors import CopickError, ReadOnlyError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

T = TypeVar("T")

GROUP = b'{\n    "zarr_format": 2\n}'
"""What an empty zarr group is on disk."""


def run(coroutine: Awaitable[T]) -> T:
    """Wait for a store's answer. Not to be called from zarr's own event loop."""
    return sync(coroutine)  # type: ignore[arg-type]


class MappingCalls(Store):
    """The mapping calls, on top of a store's own."""

    def __getitem__(self, key: str) -> bytes:
        data = run(self.get(key, default_buffer_prototype()))
        if data is None:
            raise KeyError(key)
        return data.to_bytes()

    def __setitem__(self, key: str, value: bytes) -> None:
        self._writable(key)
        run(self.set(key, default_buffer_prototype().buffer.from_bytes(value)))

    def __delitem__(self, key: str) -> None:
        self._writable(key)
        if key not in self:
            raise KeyError(key)
        run(self.delete(key))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and run(self.exists(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __bool__(self) -> bool:
        return True  # a store is something, even if it is empty

    def keys(self) -> list[str]:
        """Every key, sorted."""

        async def collect() -> list[str]:
            return [key async for key in self.list()]

        return sorted(run(collect()))

    def items(self) -> ItemsView[str, bytes]:
        """Every key and what it holds, read one by one."""
        return ItemsView(self)

    def values(self) -> ValuesView[bytes]:
        """What every key holds, read one by one."""
        return ValuesView(self)

    def _writable(self, key: str) -> None:
        if self.read_only:
            raise ReadOnlyError(f"cannot write {key!r}: {self!r} is read-only")


Explain = Callable[[str, Exception], Exception]
"""(key, what a store raised) → what to raise instead."""


class ReadOnlyStore(Store):
    """What stores that only read have in common."""

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self) -> None:
        super().__init__(read_only=True)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()


class MappingStore(MappingCalls, WrapperStore[Any]):
    """Any store, with the mapping calls, and with failures that say where and what to do.

    Args:
        store: What is asked.
        where: Names the store in errors: layer and path.
        explain: Makes an error of this project out of what the store raises. None: errors pass as they are.
    """

    def __init__(self, store: Store, where: str = "", explain: Explain | None = None) -> None:
        super().__init__(store)
        self.where, self._explain = where, explain

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self.where, self._explain)

    def __repr__(self) -> str:
        return f"<MappingStore of {self.where or self._store}>"

    @contextlib.contextmanager
    def _asking(self, key: str, write: bool = False) -> Iterator[None]:
        try:
            yield
        except CopickError:
            raise
        except Exception as error:
            absent = isinstance(error, FileNotFoundError | NotADirectoryError) and not write
            if self._explain is None or absent:  # zarr knows what an absence means
                raise
            raise self._explain(key, error) from error

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        with self._asking(key):
            return await super().get(key, prototype, byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        with self._asking(key):
            # zarr 3.1 has no such call
            return super().get_sync(key, prototype=prototype, byte_range=byte_range)  # type: ignore[misc, no-any-return, unused-ignore]

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        with self._asking(""):
            return await super().get_partial_values(prototype, key_ranges)

    async def get_ranges(self, key: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with self._asking(key):
            async for group in self._store.get_ranges(key, *args, **kwargs):
                yield group

    async def _get_many(self, requests: Any) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        with self._asking(""):
            async for answer in self._store._get_many(requests):
                yield answer

    async def exists(self, key: str) -> bool:
        with self._asking(key):
            return bool(await self._store.exists(key))

    async def set(self, key: str, value: Buffer) -> None:
        with self._asking(key, write=True):
            await self._store.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        with self._asking(key, write=True):
            super().set_sync(key, value)  # type: ignore[misc, unused-ignore]

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with self._asking(key, write=True):
            await self._store.set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        with self._asking(key):
            await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self._asking(prefix):
            await self._store.delete_dir(prefix)

    async def clear(self) -> None:
        with self._asking(""):
            await self._store.clear()

    async def is_empty(self, prefix: str) -> bool:
        with self._asking(prefix):
            return bool(await self._store.is_empty(prefix))

    async def list(self) -> AsyncIterator[str]:
        with self._asking(""):
            async for key in self._store.list():
                yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with self._asking(prefix):
            async for key in self._store.list_prefix(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with self._asking(prefix):
            async for key in self._store.list_dir(prefix):
                yield key


Walk = Callable[[str], "Iterator[list[str]]"]
"""A folder of a store → the keys below it, a few at a time."""


class VolumeStore(MappingStore):
    """The store of a volume as its files are meant: what old tools left unsaid is filled in, and nothing is written for it.

    - copick 1.x makes a new volume as an empty directory, and some tools write arrays alone. Both are a group; else zarr
      would write one when it opens the store in its default mode.
    - Arrays that say `.` between the numbers of a chunk, or nothing, may have their chunks in directories: zarr's older
      stores and copick 1.x put them there whatever the array says. zarr would find no chunks, and read zeros.
    - Keys are listed by `walk`, which fails when a folder cannot be listed. zarr's own stores would leave out what is in it.

    Args:
        store, where, explain: As for `MappingStore`.
        walk: Lists the keys. It may wait for the place: it is called on a thread of its own.
        check: Called when a key is not there, and before one is written: raises an error if that is because nothing is. Else
            chunks on a disk that is gone would be read as fill value, and written into the folder that it was mounted on.
    """

    def __init__(
        self, store: Store, where: str, explain: Explain, walk: Walk, check: Callable[[], None] | None = None
    ) -> None:
        super().__init__(store, where, explain)
        self._walk, self._check = walk, check or _trusted

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self.where, cast("Explain", self._explain), self._walk, self._check)

    async def set(self, key: str, value: Buffer) -> None:
        self._check()
        await super().set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        self._check()
        super().set_sync(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check()
        await super().set_if_not_exists(key, value)

    async def exists(self, key: str) -> bool:
        found = await super().exists(key)
        if not found:
            self._check()
        return found

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        if found is None:
            self._check()
        return found

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        folder = prefix.rstrip("/")
        with self._asking(folder):
            keys = self._walk(folder)
            # In steps, so that who is interrupted does not wait for all of it.
            while (some := await asyncio.to_thread(next, keys, None)) is not None:
                for key in some:
                    yield key

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is None:
            self._check()
        if byte_range is not None:
            return found
        if key == ".zgroup" and found is None:
            others = [await self.exists(name) for name in ("zarr.json", ".zarray")]
            return None if any(others) else prototype.buffer.from_bytes(GROUP)
        if found is not None and (key == ".zarray" or key.endswith("/.zarray")):
            mended = await self._mended(key.removesuffix(".zarray"), found.to_bytes())
            return found if mended is None else prototype.buffer.from_bytes(mended)
        return found

    async def _mended(self, prefix: str, document: bytes) -> bytes | None:
        """The metadata of an array, if it must say something else than it does."""
        try:
            fields = json.loads(document)
            axes = len(fields["shape"])
            said = fields.get("dimension_separator") or "."
        except (ValueError, KeyError, TypeError, AttributeError):  # zarr says best what is wrong
            return None
        if said != "." or axes < 2 or not await self._has_folders(prefix, axes):
            return None
        return json.dumps({**fields, "dimension_separator": "/"}).encode()

    async def _has_folders(self, prefix: str, axes: int) -> bool:
        """Whether the chunks of an array lie in directories."""
        for separator in (".", "/"):  # mostly there is a first chunk: no need to list them all
            if await self.exists(prefix + separator.join("0" * axes)):
                return separator == "/"
        async for name in self.list_dir(prefix.rstrip("/")):
            if re.fullmatch(r"[0-9]+(\.[0-9]+)*", name):
                return "." not in name
        return False


def _trusted() -> None:
    """Of a place that says itself when it fails."""


class WatchedStore(MappingStore):
    """A writable store that says when it is written: the cache forgets what it holds of the volume.

    Args:
        store: What is written.
        changing: Makes the context in which a key, or what is below a folder ("" is everything), is changed.
    """

    def __init__(self, store: Store, changing: Callable[[str], AbstractContextManager[None]]) -> None:
        super().__init__(store, str(getattr(store, "where", "")))
        self._changing = changing

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._changing)

    async def set(self, key: str, value: Buffer) -> None:
        with self._changing(key):
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with self._changing(key):
            await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        with self._changing(key):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self._changing(prefix):
            await super().delete_dir(prefix)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        with self._changing(""):
            await super()._set_many(values)

    async def clear(self) -> None:
        with self._changing(""):
            await super().clear()

    @property
    def _supports_sync_io(self) -> bool:
        return False  # zarr's synchronous shortcut would write past the methods above
