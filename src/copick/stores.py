"""Zarr stores that also are mappings of keys to bytes, as the stores of copick 1.x were.

`store["0/.zarray"]`, `key in store`, `len(store)` and iteration work beside everything that zarr does with a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from copick.errors import ReadOnlyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from zarr.core.buffer import Buffer

T = TypeVar("T")


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

    def _writable(self, key: str) -> None:
        if self.read_only:
            raise ReadOnlyError(f"cannot write {key!r}: {self!r} is read-only")


class MappingStore(MappingCalls, WrapperStore[Any]):
    """Any store, with the mapping calls."""

    def __repr__(self) -> str:
        return f"<MappingStore of {self._store}>"


class WatchedStore(MappingStore):
    """A writable store that says when it was written: the cache forgets what it holds of the volume."""

    def __init__(self, store: Store, written: Callable[[], None]) -> None:
        super().__init__(store)
        self._written = written

    def _with_store(self, store: Store) -> WatchedStore:
        return type(self)(store, self._written)

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        self._written()

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await super().set_if_not_exists(key, value)
        self._written()

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self._written()

    async def delete_dir(self, prefix: str) -> None:
        await super().delete_dir(prefix)
        self._written()

    async def clear(self) -> None:
        await super().clear()
        self._written()

    @property
    def _supports_sync_io(self) -> bool:
        return False  # zarr's synchronous shortcut would write past the methods above
