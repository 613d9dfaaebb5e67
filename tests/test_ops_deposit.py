"""Links to a project's files."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh

import copick
from copick.errors import UnknownNameError
from copick.ops.deposit import deposit, deposit_run
from projects import VOLUME, alone, opened

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot

EVERYTHING: dict[str, Any] = {
    "picks_uris": ["*"],
    "meshes_uris": ["*"],
    "segmentations_uris": ["*", "*:*/*@*?instance=true"],
    "tomograms_uris": ["*"],
    "features_uris": ["*"],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed. TS_1 has one of everything, TS_2 has picks."""
    folder = tmp_path_factory.mktemp("deposit") / "archive"
    archive = alone(folder)
    run = archive.new_run("TS_1")
    tomogram = run.new_voxel_spacing(10).new_tomogram("wbp")
    tomogram.from_numpy(VOLUME)
    tomogram.new_features("sobel").from_numpy(VOLUME)
    run.new_picks("ribosome", "1", "tool").from_numpy([[1, 2, 3]])
    run.new_segmentation(10, "membrane", "1").from_numpy(VOLUME > 100)
    run.new_segmentation(10, "ribosome", "1", is_instance=True).from_numpy(VOLUME > 100)
    run.new_mesh("membrane", "1").mesh = trimesh.creation.box()
    run.meshes[0].store()
    archive.new_run("TS_2").new_picks("ribosome", "1", "tool").from_numpy([[1, 2, 3]])
    return folder


@pytest.fixture
def root(original: Path, tmp_path: Path) -> CopickRoot:
    """A copy of it, and picks of TS_1 in the layer above it, too."""
    shutil.copytree(original, tmp_path / "archive")
    root = opened(tmp_path)
    root.get_run("TS_1").new_picks("ribosome", "1", "tool", exist_ok=True).from_numpy([[4, 5, 6]])  # type: ignore[union-attr]
    return root


def links(target: Path, source: Path) -> dict[str, str]:
    found = {path for path in target.rglob("*") if path.is_symlink()}
    return {
        str(path.relative_to(target / "ExperimentRuns")): os.path.relpath(os.readlink(path), source)
        for path in sorted(found)
    }


def test_everything(root: CopickRoot, tmp_path: Path) -> None:
    target = tmp_path / "new" / "links"
    for _ in range(2):  # again: they are there
        found = deposit(root, target, **EVERYTHING)
        assert found == {"TS_1": {"processed": 6, "errors": []}, "TS_2": {"processed": 1, "errors": []}}
    inside = "ExperimentRuns/TS_1"
    assert links(target, tmp_path) == {
        "TS_1/InstanceSegmentations/10.000_them_1_ribosome.zarr": (
            f"archive/{inside}/InstanceSegmentations/10.000_them_1_ribosome.zarr"
        ),
        "TS_1/Meshes/them_1_membrane.glb": f"archive/{inside}/Meshes/them_1_membrane.glb",
        "TS_1/Picks/tool_1_ribosome.json": f"work/{inside}/Picks/tool_1_ribosome.json",
        "TS_1/Segmentations/10.000_them_1_membrane.zarr": (
            f"archive/{inside}/Segmentations/10.000_them_1_membrane.zarr"
        ),
        "TS_1/VoxelSpacing10.000/wbp.zarr": f"archive/{inside}/VoxelSpacing10.000/wbp.zarr",
        "TS_1/VoxelSpacing10.000/wbp_sobel_features.zarr": (
            f"archive/{inside}/VoxelSpacing10.000/wbp_sobel_features.zarr"
        ),
        "TS_2/Picks/tool_1_ribosome.json": "archive/ExperimentRuns/TS_2/Picks/tool_1_ribosome.json",
    }
    linked = alone(target).get_run("TS_1")
    assert linked is not None
    assert np.array_equal(linked.voxel_spacings[0].tomograms[0].numpy(), VOLUME)
    assert linked.picks[0].numpy()[0].tolist() == [[4, 5, 6]]


def test_names(root: CopickRoot, tmp_path: Path) -> None:
    picks: dict[str, Any] = {"picks_uris": ["ribosome:tool/1"]}
    for at, (options, names) in enumerate(
        (
            ({}, ["TS_1", "TS_2"]),
            ({"run_name_prefix": "p_"}, ["p_TS_1", "p_TS_2"]),
            ({"run_name_regex": "S_(.)", "run_name_prefix": "p_"}, ["p_1", "p_2"]),
            ({"run_names": ["TS_2"], "run_name_regex": "(TS)"}, ["TS"]),
        )
    ):
        deposit(root, tmp_path / str(at), **options, **picks)  # type: ignore[arg-type]
        assert sorted(os.listdir(tmp_path / str(at) / "ExperimentRuns")) == names
    run = root.get_run("TS_1")
    assert run is not None
    run.meta = run.meta.model_copy(
        update={"portal_run_id": 1, "portal_dataset_id": 10301, "portal_run_name": "a"}
    )
    deposit(root, tmp_path / "portal", ["TS_1"], **picks)
    assert os.listdir(tmp_path / "portal/ExperimentRuns") == ["10301_a_TS_1"]
    deposit(root, tmp_path / "own", ["TS_1"], "p_", **picks)
    assert os.listdir(tmp_path / "own/ExperimentRuns") == ["p_TS_1"]
    deposit_run(run, tmp_path / "run", **picks)
    assert os.listdir(tmp_path / "run/ExperimentRuns") == ["TS_1"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"run_name_regex": "(nope)"}, r"'\(nope\)' finds no name in 'TS_1'"),
        ({"run_name_regex": "TS"}, "has no first group"),
        ({"run_name_regex": "("}, "has no first group"),
        ({"run_name_regex": "(TS)"}, "TS_1 and TS_2 would both become 'TS'"),
        ({"run_name_prefix": "../"}, "a run called '../TS_1' cannot be used: it holds a path separator"),
        ({"picks_uris": ["a:b:c"]}, "is no picks URI"),
    ],
)
def test_nothing_is_linked_if_something_cannot_be(
    root: CopickRoot, tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        deposit(root, tmp_path / "links", **{**EVERYTHING, **options})
    assert not (tmp_path / "links").exists()


def test_runs_that_are_not_there(root: CopickRoot, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no run 'nope'"):
        deposit(root, tmp_path / "links", ["nope"], picks_uris=["*"])


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_what_is_there_stays(
    root: CopickRoot, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "links/ExperimentRuns/TS_2/Picks/tool_1_ribosome.json"
    place.parent.mkdir(parents=True)
    if what == "file":
        place.write_text("mine")
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "elsewhere")
    found = deposit(root, tmp_path / "links", picks_uris=["*"])
    (error,) = found["TS_2"]["errors"]
    assert error.startswith("ribosome:tool/1 of run TS_2 is not linked: ")
    assert "remove it, or choose another folder" in error
    assert error in caplog.text
    assert found["TS_1"] == {"processed": 1, "errors": []}
    assert what != "file" or place.read_text() == "mine"
    assert what != "link" or os.readlink(place) == str(tmp_path / "elsewhere")


def test_into_the_project_itself(root: CopickRoot, tmp_path: Path) -> None:
    found = deposit(root, tmp_path / "archive", tomograms_uris=["*"])
    assert "is something else already" in found["TS_1"]["errors"][0]
    assert (tmp_path / "archive/ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr").is_dir()


def test_what_is_in_no_file(tmp_path: Path) -> None:
    config = {
        "config_type": "memory",
        "user_id": "me",
        "pickable_objects": [{"name": "a", "is_particle": True}],
    }
    root = copick.from_string(json.dumps(config))
    root.new_run("TS_1").new_picks("a", "1").from_numpy([[1, 2, 3]])
    found = deposit(root, tmp_path / "links", picks_uris=["*"])
    assert "is not on a disk of this machine" in found["TS_1"]["errors"][0]
    assert [path for path in tmp_path.rglob("*") if path.is_symlink()] == []


def test_what_waits_in_the_cache(root: CopickRoot, tmp_path: Path) -> None:
    cache = {"root": str(tmp_path / "cache"), "parent_layer": "archive", "propagate": False}
    pending = opened(tmp_path, write_strategy="cache", cache_config=cache)
    pending.get_run("TS_2").new_picks("ribosome", "2").from_numpy([[1, 2, 3]])  # type: ignore[union-attr]
    found = deposit(pending, tmp_path / "links", ["TS_2"], picks_uris=["*"])
    assert found["TS_2"]["processed"] == 1
    assert "waits in the cache to be passed on" in found["TS_2"]["errors"][0]
    pending.flush()
    assert deposit(pending, tmp_path / "links", ["TS_2"], picks_uris=["*"])["TS_2"]["processed"] == 2
