"""A layer behind the cache: what it remembers, and what a write makes it forget."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import copick
from copick.cache.store import CachingZarrStore
from copick.layers.cached import CachedLayer

if TYPE_CHECKING:
    from pathlib import Path

OBJECTS = [{"name": "ribosome", "is_particle": True, "label": 1}]


def project(tmp_path: Path, **cache: Any) -> Any:
    """A writable local layer, cached."""
    config = {
        "config_type": "multilayer",
        "pickable_objects": OBJECTS,
        "user_id": "me",
        "layers": ["place", "cache"],
        "layer_configs": {
            "place": {"config_type": "filesystem", "root": str(tmp_path / "place")},
            "cache": {
                "config_type": "cache",
                "root": str(tmp_path / "cache"),
                "parent_layer": "place",
                **cache,
            },
        },
    }
    return copick.from_string(json.dumps(config))


def volume(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((20, 30, 40), np.float32)


@pytest.fixture
def tomogram(tmp_path: Path) -> Any:
    run = project(tmp_path).new_run("TS_1")
    made = run.new_voxel_spacing(10.0).new_tomogram("wbp")
    made.from_numpy(volume(0), levels=2)
    return made


def reopened(tmp_path: Path) -> Any:
    return project(tmp_path).get_run("TS_1").get_voxel_spacing(10.0).get_tomogram("wbp")


def test_a_volume_written_through_the_cache_is_read_as_written(tmp_path: Path, tomogram: Any) -> None:
    assert (tomogram.numpy() == volume(0)).all()
    tomogram.from_numpy(volume(1), levels=2)
    assert (tomogram.numpy() == volume(1)).all()
    assert (reopened(tmp_path).numpy() == volume(1)).all()


def test_a_region_written_through_the_cache_is_read_as_written(tmp_path: Path, tomogram: Any) -> None:
    expected = tomogram.numpy().copy()
    expected[3:5, :, 7] = 9
    tomogram.set_region(np.full((2, 30, 1), 9, np.float32), z=slice(3, 5), x=slice(7, 8))
    assert (tomogram.numpy() == expected).all()
    assert (reopened(tmp_path).numpy() == expected).all()


def test_writing_through_zarr_is_seen(tmp_path: Path, tomogram: Any) -> None:
    other = reopened(tmp_path)
    assert other.numpy()[0, 0, 0] != 77
    zarr.open(tomogram.zarr(), mode="r+")["0"][0, 0, 0] = 77
    assert reopened(tmp_path).numpy()[0, 0, 0] == 77


def test_opening_for_writing_forgets_nothing(tmp_path: Path, tomogram: Any) -> None:
    tomogram.numpy()
    cached = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    tomogram.zarr()
    assert sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file()) == cached


def test_listings_and_picks_follow_writes(tmp_path: Path, tomogram: Any) -> None:
    root = project(tmp_path)
    run = root.get_run("TS_1")
    assert run.picks == []
    picks = run.new_picks("ribosome", "1")
    picks.from_numpy(np.array([[1.0, 2.0, 3.0]]))
    again = project(tmp_path).get_run("TS_1")
    assert [p.pickable_object_name for p in again.picks] == ["ribosome"]
    assert again.picks[0].numpy()[0].tolist() == [[1.0, 2.0, 3.0]]
    picks.from_numpy(np.array([[4.0, 5.0, 6.0]]))
    assert project(tmp_path).get_run("TS_1").picks[0].numpy()[0].tolist() == [[4.0, 5.0, 6.0]]
    root.new_run("TS_2")
    assert [run.name for run in project(tmp_path).runs] == ["TS_1", "TS_2"]


def test_what_others_write_is_seen_after_refresh(tmp_path: Path, tomogram: Any) -> None:
    assert [run.name for run in project(tmp_path).runs] == ["TS_1"]
    (tmp_path / "place" / "ExperimentRuns" / "TS_9").mkdir()
    root = project(tmp_path)
    assert [run.name for run in root.runs] == ["TS_1"]
    root.refresh()
    assert [run.name for run in root.runs] == ["TS_1", "TS_9"]


def test_refresh_of_a_tomogram_reads_it_anew(tmp_path: Path, tomogram: Any) -> None:
    reader = reopened(tmp_path)
    assert (reader.numpy() == volume(0)).all()
    place = json.loads('{"config_type": "filesystem"}') | {"root": str(tmp_path / "place")}
    elsewhere = copick.from_string(json.dumps(place)).get_run("TS_1").get_voxel_spacing(10.0)
    larger = np.concatenate([volume(5)] * 2)
    elsewhere.get_tomogram("wbp").from_numpy(larger, levels=1)
    assert (reader.numpy() == volume(0)).all()
    reader.refresh()
    assert (reader.numpy() == larger).all()
    assert (reopened(tmp_path).numpy() == larger).all()


def test_arrays_on_the_cache_travel_to_other_processes(tmp_path: Path, tomogram: Any) -> None:
    config = {"config_type": "filesystem", "root": str(tmp_path / "place"), "read_only": True}
    root = copick.from_string(
        json.dumps(config), cache={"root": str(tmp_path / "cache"), "parent_layer": "*"}
    )
    reader = root.get_run("TS_1").get_voxel_spacing(10.0).get_tomogram("wbp")
    array = zarr.open(reader.zarr(), mode="r")["0"]
    assert isinstance(array.store, CachingZarrStore)
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[...].sum())"
    process = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(array), capture_output=True, check=True
    )
    assert float(process.stdout) == pytest.approx(float(volume(0).sum()), rel=1e-4)


def test_max_age(tmp_path: Path, tomogram: Any) -> None:
    assert [run.name for run in project(tmp_path, max_age=0.2).runs] == ["TS_1"]
    (tmp_path / "place" / "ExperimentRuns" / "TS_9").mkdir()
    assert [run.name for run in project(tmp_path, max_age=1000).runs] == ["TS_1"]
    time.sleep(0.3)
    assert [run.name for run in project(tmp_path, max_age=0.2).runs] == ["TS_1", "TS_9"]


def test_two_places_in_one_cache_folder_stay_apart(tmp_path: Path) -> None:
    for n, name in enumerate(["a", "b"]):
        config = {"config_type": "filesystem", "root": str(tmp_path / name), "pickable_objects": OBJECTS}
        cache = {"root": str(tmp_path / "cache"), "parent_layer": "*"}
        run = copick.from_string(json.dumps(config), cache=cache).new_run("TS_1")
        run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(volume(n), levels=1)
    for _ in range(2):
        for n, name in enumerate(["a", "b"]):
            config = {"config_type": "filesystem", "root": str(tmp_path / name), "pickable_objects": OBJECTS}
            cache = {"root": str(tmp_path / "cache"), "parent_layer": "*"}
            run = copick.from_string(json.dumps(config), cache=cache).get_run("TS_1")
            assert (run.get_voxel_spacing(10.0).get_tomogram("wbp").numpy() == volume(n)).all()
    assert (tmp_path / "cache" / "ExperimentRuns").is_dir()
    assert len([*(tmp_path / "cache" / "sources").iterdir()]) == 1


def test_a_cached_layer_takes_its_parents_place(tmp_path: Path) -> None:
    root = project(tmp_path)
    (layer,) = root.layer.layers
    assert isinstance(layer, CachedLayer)
    assert layer.name == "place"
    assert root.new_run("TS_1").sources == ["place"]
    assert not list((tmp_path / "cache").rglob("TS_1/.meta"))


def test_what_cannot_be_read_is_said_clearly(tmp_path: Path, tomogram: Any) -> None:
    array = reopened(tmp_path).array("0")
    for _ in range(2):  # before and after something is cached
        with pytest.raises(TypeError, match=r"axis 1: a slice is needed, not int 3; write slice\(3, 4\)"):
            array.read((slice(None), 3, slice(None)))
        array.read(())


@pytest.mark.usefixtures("own_managers")
@pytest.mark.parametrize("prefix", ["", "local://"])
def test_a_cache_may_lie_in_the_home_directory(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As layers and commands read it: not in a folder called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    manager = project(tmp_path, root=f"{prefix}~/cache").cache_manager
    assert str(manager.cache_root) == f"{tmp_path}/cache"
