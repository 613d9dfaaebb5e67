"""The budget of a cache folder, and what goes when it is used up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.volumes import CHUNK_FILE, cached_store, chunk_bytes, noise, write_array

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("fetch_threads", [1, 16])
def test_the_shared_total_is_what_lies_in_the_folder(tmp_path: Path, fetch_threads: int) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source", fetch_threads=fetch_threads)
    store.open_array("0").read(())
    written = chunk_bytes(tmp_path / "cache")
    assert written == 27 * CHUNK_FILE
    assert abs(store.cache_manager.get_stats()["size_bytes"] - written) < CHUNK_FILE


@pytest.mark.parametrize("fetch_threads", [1, 16])
@pytest.mark.parametrize("readers", [1, 2])
def test_the_folder_stays_within_its_budget(tmp_path: Path, readers: int, fetch_threads: int) -> None:
    """Two readers, each with a manager of its own as in two processes, evict each other's chunks."""
    data = noise()
    write_array(tmp_path / "source", data)
    budget = 10 * CHUNK_FILE
    arrays = [
        cached_store(
            tmp_path / "cache", tmp_path / "source", max_size_bytes=budget, fetch_threads=fetch_threads
        ).open_array("0")
        for _ in range(readers)
    ]
    for _ in range(5):
        for array in arrays:
            np.testing.assert_array_equal(array.read(()), data)
            assert chunk_bytes(tmp_path / "cache") <= budget + CHUNK_FILE
