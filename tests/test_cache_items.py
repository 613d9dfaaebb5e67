"""Looking after a cache folder: what is in it, what has expired, what goes."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.cache import CacheInfo
from copick.errors import NotFoundError
from support.volumes import (
    CHUNK_FILE,
    TOMOGRAM,
    cached_store,
    chunk_bytes,
    chunk_files,
    noise,
    opened,
    python,
    write_array,
    write_tomogram,
)

if TYPE_CHECKING:
    from pathlib import Path

    from copick.cache.manager import CacheManager
    from copick.models import CopickTomogram

pytestmark = pytest.mark.usefixtures("own_managers")

LEVEL = f"{TOMOGRAM}/0"
SOON = timedelta(seconds=20)


def manager_of(tomogram: CopickTomogram) -> CacheManager:
    layer: Any = tomogram.layer
    manager: CacheManager = layer.layers[0].manager
    return manager


@pytest.fixture
def tomogram(tmp_path: Path) -> CopickTomogram:
    """Of 27 chunks, cached."""
    write_tomogram(tmp_path / "project", noise())
    return opened(tmp_path / "project", tmp_path / "cache", {"disk_format": "raw"})


# What is known of an item


def test_an_array_that_is_cached_in_part_and_then_whole(tmp_path: Path, tomogram: CopickTomogram) -> None:
    manager = manager_of(tomogram)
    assert manager.get_info(LEVEL) is None
    begin = datetime.now(UTC)
    tomogram.numpy(z=slice(0, 16))
    for chunks in (9, 27):
        found = manager.get_info(LEVEL)
        assert isinstance(found, CacheInfo)
        assert (found.source_layer, found.is_stale) == ("filesystem", False)
        assert found.expires_at is not None
        assert timedelta(days=6) < found.expires_at - datetime.now(UTC) < timedelta(days=7)
        assert str(found.etag).startswith(".zarray ")
        assert found.is_complete == (chunks == 27)
        assert 0 < found.size_bytes - chunks * CHUNK_FILE < 4096  # and `.cache_info`
        assert begin - timedelta(seconds=1) < found.cached_at <= found.last_accessed <= datetime.now(UTC)
        tomogram.numpy()


def test_absent_chunks_make_an_array_complete(tmp_path: Path) -> None:
    data = np.zeros((40, 40, 40), np.float32)
    data[:3] = 1
    write_tomogram(tmp_path / "project", data)
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    tomogram.numpy()
    found = manager_of(tomogram).get_info(LEVEL)
    assert found is not None
    assert found.is_complete
    assert len(chunk_files(tmp_path / "cache")) == 9


def test_a_folder_is_all_that_is_in_it(tmp_path: Path, tomogram: CopickTomogram) -> None:
    manager = manager_of(tomogram)
    tomogram.numpy(z=slice(0, 16))
    whole, level = manager.get_info(), manager.get_info(LEVEL)
    assert whole is not None
    assert level is not None
    records = list((tmp_path / "cache").rglob(".cache_info*"))
    assert whole.size_bytes == chunk_bytes(tmp_path / "cache") + sum(path.stat().st_size for path in records)
    assert whole.cached_at < level.cached_at < whole.last_accessed
    assert not whole.is_complete
    listing = manager.get_info("ExperimentRuns/R1/VoxelSpacing10.000")
    assert listing is not None
    assert listing.expires_at is not None
    assert timedelta(days=6) < listing.expires_at - datetime.now(UTC) < timedelta(days=7)


def test_a_document(tmp_path: Path, tomogram: CopickTomogram) -> None:
    objects = [{"name": "ribosome", "is_particle": True, "label": 1}]
    run = opened(tmp_path / "project", tmp_path / "cache", pickable_objects=objects).voxel_spacing.run
    picks = run.new_picks("ribosome", "1", user_id="me")
    picks.from_numpy(np.array([[1.0, 2.0, 3.0]]))
    manager, path = manager_of(tomogram), "ExperimentRuns/R1/Picks/me_1_ribosome.json"
    assert manager.get_info(path) is None
    picks.load()
    found = manager.get_info(path)
    assert found is not None
    assert found.is_complete
    picks.from_numpy(np.array([[1.0, 2.0, 4.0]]))
    assert manager.get_info(path) is None


@pytest.mark.parametrize(
    "path", ["../other", "/../..", ".cache_metadata", ".cache_metadata/entries.db", "pending/ExperimentRuns"]
)
def test_paths_that_lead_out_of_the_cache(tomogram: CopickTomogram, path: str) -> None:
    manager = manager_of(tomogram)
    for ask in (
        manager.get_info,
        manager.is_stale,
        manager.invalidate,
        manager.update_access_time,
        manager.set_cache_entry,
    ):
        with pytest.raises(NotFoundError, match="is no path of a project"):
            ask(path)  # type: ignore[operator]


# What has expired


def test_an_array_that_expires_is_fetched_anew(tmp_path: Path, tomogram: CopickTomogram) -> None:
    manager = manager_of(tomogram)
    tomogram.numpy()
    assert not manager.is_stale(LEVEL)
    manager.set_cache_entry(LEVEL, expires_at=datetime.now(UTC) + SOON, etag='"v1"')
    found = manager.get_info(TOMOGRAM)
    assert found is not None
    assert found.etag == '"v1"'
    assert found.expires_at is not None
    assert not manager.is_stale(LEVEL)
    before = manager.get_stats()["fetched_cells"]
    np.testing.assert_array_equal(tomogram.numpy(), noise())
    np.testing.assert_array_equal(opened(tmp_path / "project", tmp_path / "cache").numpy(), noise())
    assert manager.get_stats()["fetched_cells"] == before
    manager.set_cache_entry(LEVEL, expires_at=datetime.now(UTC) - SOON)
    assert manager.is_stale(LEVEL)
    write_tomogram(tmp_path / "project", noise(seed=2))
    np.testing.assert_array_equal(opened(tmp_path / "project", tmp_path / "cache").numpy(), noise(seed=2))
    assert not manager.is_stale(LEVEL)


def test_noting_something_of_an_array_in_use_changes_nothing(
    tmp_path: Path, tomogram: CopickTomogram
) -> None:
    """Other readers find another `.cache_info`, and that it is of the same array."""
    manager = manager_of(tomogram)
    tomogram.numpy(z=slice(0, 16))
    fetched = manager.get_stats()["fetched_cells"]
    for turn in range(1, 3):
        manager.set_cache_entry(LEVEL, etag=str(turn))
        tomogram.numpy(z=slice(0, 16 * turn + 8))
        np.testing.assert_array_equal(tomogram.numpy(z=slice(0, 16)), noise()[:16])
    assert manager.get_stats()["fetched_cells"] == fetched + 18
    assert len(chunk_files(tmp_path / "cache")) == 27
    assert manager.check()
    manager.budget.limit = 5 * CHUNK_FILE
    assert manager.cleanup() >= 22 * CHUNK_FILE
    assert len(chunk_files(tmp_path / "cache")) <= 5


def test_naive_times_are_local(tomogram: CopickTomogram) -> None:
    manager = manager_of(tomogram)
    tomogram.numpy()
    manager.set_cache_entry(LEVEL, expires_at=datetime.now() + SOON)
    assert not manager.is_stale(LEVEL)
    manager.set_cache_entry(LEVEL, expires_at=datetime.now() - SOON)
    assert manager.is_stale(LEVEL)


def test_nothing_can_be_noted_of_what_is_not_cached(tomogram: CopickTomogram) -> None:
    with pytest.raises(NotFoundError, match="nothing is cached at"):
        manager_of(tomogram).set_cache_entry(LEVEL, etag="1")


def test_a_listing_is_stale_when_it_is_too_old_or_forgotten(tmp_path: Path, tomogram: CopickTomogram) -> None:
    manager, spacing = manager_of(tomogram), "ExperimentRuns/R1/VoxelSpacing10.000"
    assert not manager.is_stale(spacing)
    manager.max_age = 0.001
    time.sleep(0.01)
    assert manager.is_stale(spacing)
    manager.max_age = 0
    assert not manager.is_stale(spacing)
    tomogram.voxel_spacing.refresh()
    assert manager.is_stale(spacing)
    assert manager.is_stale("ExperimentRuns/R9")


# What goes


def test_cleaning_up_removes_what_has_expired_and_nothing_else(
    tmp_path: Path, tomogram: CopickTomogram
) -> None:
    write_array((tmp_path / "project" / TOMOGRAM).with_name("other.zarr"), noise(seed=2))
    manager, other = manager_of(tomogram), opened(tmp_path / "project", tmp_path / "cache")
    other.voxel_spacing.refresh()
    other = next(t for t in other.voxel_spacing.tomograms if t.tomo_type == "other")
    for each in (tomogram, other):
        each.numpy()
    manager.cleanup()  # of what refresh() left
    assert manager.cleanup() == 0
    manager.set_cache_entry(LEVEL, expires_at=datetime.now(UTC) - SOON)
    assert manager.cleanup() >= 27 * CHUNK_FILE
    assert len(chunk_files(tmp_path / "cache")) == 27
    assert manager.get_info(LEVEL) is None
    write_tomogram(tmp_path / "project", noise(seed=3))
    np.testing.assert_array_equal(tomogram.numpy(), noise(seed=3))  # it noticed
    assert manager.budget.used() == chunk_bytes(tmp_path / "cache")
    manager.max_age = 0.001
    time.sleep(0.01)
    listings = len(list((tmp_path / "cache").rglob(".cache_info.*")))
    assert listings
    assert manager.cleanup() > 0
    assert not list((tmp_path / "cache").rglob(".cache_info.*"))


def test_what_was_touched_goes_last(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    write_array(tmp_path / "source", noise(seed=2), path="1")
    store = cached_store(tmp_path / "cache", tmp_path / "source", disk_format="raw")
    manager = store.cache_manager
    for level in ("0", "1"):
        store.open_array(level).read(())
        time.sleep(0.01)
    manager.update_access_time("x.zarr/0")
    manager.journal.flush()
    first, second = (manager.get_info(f"x.zarr/{level}") for level in (0, 1))
    assert first is not None
    assert second is not None
    assert first.last_accessed > second.last_accessed
    manager.budget.limit = 30 * CHUNK_FILE
    assert manager.cleanup() > 0
    kept = [path.relative_to(store.local_path).parts[0] for path in chunk_files(tmp_path / "cache")]
    assert kept.count("0") == 27
    manager.close()


TOUCH = """
import sys
from pathlib import Path
from copick.cache.manager import CacheManager
manager = CacheManager(Path(sys.argv[1]))
manager.update_access_time("x.zarr/0")
manager.journal.flush()
"""


def test_a_touch_by_another_process_counts(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    store.open_array("0").read(())
    before = store.cache_manager.get_info("x.zarr/0")
    assert python(TOUCH, tmp_path / "cache").returncode == 0
    after = store.cache_manager.get_info("x.zarr/0")
    assert before is not None
    assert after is not None
    assert after.last_accessed > before.last_accessed
    store.cache_manager.close()


@pytest.mark.parametrize(
    "path", [None, "", "ExperimentRuns", "ExperimentRuns/R1", TOMOGRAM, LEVEL, f"/{LEVEL}/"]
)
def test_invalidating_a_path_forgets_what_is_below(
    tmp_path: Path, tomogram: CopickTomogram, path: str | None
) -> None:
    manager = manager_of(tomogram)
    np.testing.assert_array_equal(tomogram.numpy(), noise())
    (tmp_path / "cache" / "pending").mkdir()
    (tmp_path / "cache" / "pending" / "change").touch()
    write_tomogram(tmp_path / "project", noise(seed=2))
    manager.invalidate("ExperimentRuns/R2")
    np.testing.assert_array_equal(tomogram.numpy(), noise())
    manager.invalidate(path)
    np.testing.assert_array_equal(tomogram.numpy(), noise(seed=2))
    assert (tmp_path / "cache" / "pending" / "change").exists()
    assert manager.check()
    assert manager.budget.used() == chunk_bytes(tmp_path / "cache")


def test_a_damaged_record_is_left_out(tmp_path: Path, tomogram: CopickTomogram) -> None:
    manager = manager_of(tomogram)
    tomogram.numpy()
    record = tmp_path / "cache" / LEVEL / ".cache_info"
    record.write_bytes(record.read_bytes().replace(b'"raw"', b'"row"'))
    assert manager.get_info(LEVEL) is None
    assert manager.is_stale(LEVEL)
    manager.update_access_time(LEVEL)
    shutil.rmtree(tmp_path / "cache" / ".cache_metadata")
    assert manager.get_info(TOMOGRAM) is None


# Numbers


def test_statistics_by_tier(tmp_path: Path) -> None:
    data = noise()
    data[:16, :16, :16] = 0
    write_array(tmp_path / "source", data)
    for disk_format in ("raw", "encoded"):
        store = cached_store(tmp_path / disk_format, tmp_path / "source", disk_format=disk_format)
        store.open_array("0").read(())
        stats = store.cache_manager.get_stats()
        assert stats["misses"] == 27
        assert stats["bytes_fetched"] == data.nbytes
        store.cache_manager.close()
        store = cached_store(tmp_path / disk_format, tmp_path / "source", disk_format=disk_format)
        for _ in range(3):
            store.open_array("0").read(())
        stats = store.cache_manager.get_stats()
        assert stats["hits"]["disk"] + stats["hits"]["absent"] == 27
        assert (stats["hits"]["memory"], stats["hits"]["absent"]) == (54, 1)
        assert (stats["misses"], stats["bytes_fetched"], stats["evictions"], stats["failures"]) == (
            0,
            0,
            0,
            {},
        )
        store.cache_manager.close()


def test_failures_are_counted_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    store.open_array("0").read(())
    store.cache_manager.close()
    file = chunk_files(tmp_path / "cache")[0]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1])
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    monkeypatch.setattr(store.cache_manager.budget, "reserve", None)
    store.open_array("0").read(())
    assert store.cache_manager.get_stats()["failures"] == {"corrupt": 1, "insert": 1}
    store.cache_manager.close()


def test_the_filesystem_of_the_cache(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    store.open_array("0").read(())
    assert store.fs is store.cache_manager.fs
    assert store.fs.exists(os.fspath(store.local_path / "0" / ".cache_info"))
    store.cache_manager.close()
