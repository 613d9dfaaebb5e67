"""Stores are mappings too, as those of copick 1.x were, and nothing less of a zarr store for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

from copick.errors import ReadOnlyError
from copick.stores import MappingStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MappingStore:
    return MappingStore(MemoryStore() if request.param == "memory" else LocalStore(tmp_path))


def test_mapping_calls(store: MappingStore) -> None:
    assert len(store) == 0
    assert store  # an empty store is still a store
    store["a/b"] = b"1"
    store["c"] = b"22"
    assert [*store] == ["a/b", "c"]
    assert store["a/b"] == b"1"
    assert "c" in store
    assert "d" not in store
    assert 7 not in store
    del store["c"]
    assert len(store) == 1
    assert list(store.items()) == [(key, store[key]) for key in store]
    assert list(store.values()) == [store[key] for key in store]
    with pytest.raises(KeyError, match="nothing"):
        store["nothing"]
    with pytest.raises(KeyError, match="nothing"):
        del store["nothing"]


def test_zarr_uses_it_like_any_store(store: MappingStore) -> None:
    data = np.arange(24.0).reshape(4, 6)
    zarr.open_group(store, mode="w").create_array("0", data=data, chunks=(2, 3))
    assert (zarr.open(store, mode="r")["0"][...] == data).all()
    assert len(store) > 4
    assert any(key.startswith("0/") for key in store)


def test_read_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    store = MappingStore(LocalStore(tmp_path, read_only=True))
    assert store["a"] == b"1"
    with pytest.raises(ReadOnlyError, match="read-only"):
        store["b"] = b"2"
    with pytest.raises(ReadOnlyError, match="read-only"):
        del store["a"]
    assert [*store] == ["a"]
