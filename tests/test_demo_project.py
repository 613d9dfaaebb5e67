"""The sample project on disk, and as the stack that its config describes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

import copick
from copick.demo.phantom import phantom
from copick.demo.project import SMALL_SIZE, SampleProject, build, denoised, total_voxels
from copick.testing.http_server import FolderServer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SampleProject:
    steps: list[tuple[str, float]] = []
    made = build(
        tmp_path_factory.mktemp("sample"), SMALL_SIZE, lambda text, voxels: steps.append((text, voxels))
    )
    assert sum(voxels for _, voxels in steps) == total_voxels(SMALL_SIZE)
    assert steps[0] == ("TS_001: imaging", 0)
    return made


def test_files_are_where_every_tool_of_the_field_looks(project: SampleProject) -> None:
    run = project.archive / "ExperimentRuns" / "TS_001"
    meta = json.loads((run / "VoxelSpacing10.000" / "wbp.zarr" / "0" / ".zarray").read_text())
    assert (meta["zarr_format"], meta["shape"], meta["dtype"]) == (2, list(SMALL_SIZE[0].shape), "<f4")
    assert meta["chunks"] == [256, 256, 256]
    assert (meta["compressor"]["id"], meta["compressor"]["cname"]) == ("blosc", "lz4")
    assert (run / "VoxelSpacing10.000" / "wbp.zarr" / "2" / ".zarray").exists()
    assert (run / "VoxelSpacing20.000" / "denoised.zarr" / "0" / ".zarray").exists()
    picks = json.loads((run / "Picks" / "template-matching_0_ribosome.json").read_text())
    assert picks["unit"] == "angstrom"
    assert len(picks["points"]) == len(phantom(SMALL_SIZE[0].shape, seed=1).points["ribosome"])
    assert [path.name for path in (project.work / "ExperimentRuns").iterdir()] == ["TS_001"]
    assert (project.work / "ExperimentRuns" / "TS_001" / "Picks" / "alice_1_ribosome.json").exists()


def test_the_stack_joins_archive_and_work(project: SampleProject) -> None:
    with FolderServer(project.archive) as server:
        root = copick.from_file(project.write_config(server.url))
        assert [run.name for run in root.runs] == ["TS_001", "TS_002", "TS_003"]
        run = root.get_run("TS_001")
        assert {*run.sources} == {"work", "archive"}
        (alice,) = run.get_picks("ribosome", user_id="alice")
        (tool,) = run.get_picks("ribosome", user_id="template-matching")
        assert (alice.sources, alice.from_user) == (["work"], True)
        assert (tool.sources, tool.from_tool) == (["archive"], True)
        (mask,) = run.segmentations
        assert np.array_equal(mask.numpy(), phantom(SMALL_SIZE[0].shape, seed=1).membrane)
        assert root.get_object("gold-bead").radius == 50.0
        assert len({item.label for item in root.pickable_objects}) == 5


def test_what_is_read_is_the_phantom(project: SampleProject) -> None:
    sample = phantom(SMALL_SIZE[0].shape, seed=1)
    run = copick.from_file(project.write_local_config(), cache=False).get_run("TS_001")
    assert np.array_equal(run.get_voxel_spacing(10.0).get_tomogram("wbp").numpy(), sample.volume)
    small = run.get_voxel_spacing(20.0).get_tomogram("denoised").numpy()
    assert np.array_equal(small, denoised(sample.volume))
    (tool,) = run.get_picks("ribosome", user_id="template-matching")
    off = np.linalg.norm(tool.numpy()[0] - sample.points["ribosome"], axis=1)
    assert 0 < off.max() < 20
    (alice,) = run.get_picks("ribosome", user_id="alice")
    assert 0 < len(alice.points) < len(tool.points)


def test_denoised_halves_and_smooths() -> None:
    noise = np.random.default_rng(0).standard_normal((9, 10, 12)).astype(np.float32)
    smooth = denoised(noise)
    assert (smooth.shape, smooth.dtype) == ((4, 5, 6), np.float32)
    assert smooth.std() < 0.4 * noise.std()
    assert np.allclose(denoised(np.full((8, 8, 8), 3, np.float32)), 3)
    assert not (denoised(np.zeros((2, 2, 2), np.float32))).any()


def test_a_folder_that_is_there_already_is_not_overwritten(project: SampleProject) -> None:
    with pytest.raises(FileExistsError):
        build(project.folder, SMALL_SIZE, lambda text, voxels: None)


def test_configs_are_plain_json(project: SampleProject, tmp_path: Path) -> None:
    config = json.loads(project.write_config("http://127.0.0.1:1/", "dead.json").read_text())
    assert config["layers"] == ["cache", "work", "archive"]
    assert config["layer_configs"]["archive"] == {
        "config_type": "filesystem",
        "root": "http://127.0.0.1:1/",
        "read_only": True,
        "priority": 20,
    }
