"""Zarr's own tests of stores, for the store that every place of a project is wrapped in."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from zarr.core.buffer import Buffer, cpu
from zarr.storage import LocalStore, WrapperStore
from zarr.testing.store import StoreTests

from copick.stores import MappingStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _waited_for(test: Callable[..., Any]) -> Callable[..., Any]:
    """A test that is a coroutine, as one that pytest can run by itself."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


needs_sync = pytest.mark.skipif(
    not hasattr(WrapperStore, "get_sync"), reason="wrapped stores of this zarr have no synchronous calls"
)


def _as_functions(cls: type) -> type:
    for name in dir(StoreTests):
        test = getattr(StoreTests, name)
        if name.startswith("test_") and name not in vars(cls) and inspect.iscoroutinefunction(test):
            setattr(cls, name, _waited_for(test))
    return cls


@_as_functions
class TestMappingStore(StoreTests[Any, Any]):
    store_cls = MappingStore
    buffer_cls = cpu.Buffer

    async def get(self, store: Any, key: str) -> Buffer:
        return self.buffer_cls.from_bytes((store._store.root / key).read_bytes())

    async def set(self, store: Any, key: str, value: Buffer) -> None:
        path = store._store.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value.to_bytes())

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"store": LocalStore(tmp_path), "where": "here"}

    @pytest.fixture
    def open_kwargs(self, tmp_path: Path) -> dict[str, Any]:
        return {"store_cls": LocalStore, "root": tmp_path}

    @pytest.fixture
    def store(self, store_kwargs: dict[str, Any]) -> Any:
        store = self.store_cls(**store_kwargs)
        asyncio.run(store._ensure_open())
        return store

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> Any:
        return self.store_cls(**store_kwargs)

    def test_store_repr(self, store: Any) -> None:
        assert "MappingStore of" in repr(store)

    def test_store_supports_writes(self, store: Any) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: Any) -> None:
        assert store.supports_listing

    @needs_sync
    def test_get_sync(self, store: Any) -> None:
        super().test_get_sync(store)

    @needs_sync
    def test_get_sync_missing(self, store: Any) -> None:
        super().test_get_sync_missing(store)

    @needs_sync
    def test_set_sync(self, store: Any) -> None:
        super().test_set_sync(store)
