"""Lists over runs, and statistics of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import copick
from copick.errors import MissingConfigError, UnknownNameError
from copick.ops import get, stats
from projects import OBJECTS, VOLUME, alone

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot


@pytest.fixture
def root(tmp_path: Path) -> CopickRoot:
    """Two runs with the same of everything."""
    root = alone(tmp_path / "project")
    for name in ("A", "B"):
        run = root.new_run(name)
        wbp = run.new_voxel_spacing(10).new_tomogram("wbp")
        wbp.new_features("edges").from_numpy(VOLUME)
        run.new_voxel_spacing(20).new_tomogram("denoised")
        run.new_picks("ribosome", "0", "tool").from_numpy([[1, 2, 3]])
        run.new_picks("ribosome", "1", "bob").from_numpy([[1, 2, 3], [4, 5, 6]])
        run.new_picks("membrane", "9", "ann")
        run.new_mesh("membrane", "1", "bob")
        run.new_filaments("ribosome", "1", "bob")
        run.new_segmentation(10, "membrane", "1", user_id="bob")
        run.new_segmentation(10, "all", "1", True, user_id="bob")
        run.new_segmentation(20, "ribosome", "2", user_id="bob", is_instance=True)
    root.refresh()
    return root


@pytest.fixture(params=[False, True], ids=["one at a time", "parallel"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"parallel": request.param, "workers": 2, "show_progress": True}


def test_runs(root: CopickRoot, tmp_path: Path) -> None:
    assert get.get_runs(root) == root.runs
    assert get.get_runs(root, "B") == [root.get_run("B")]
    assert get.get_runs(root, ["B", "A"]) == root.runs[::-1]
    assert get.get_runs(root, root.runs) == root.runs
    path = tmp_path / "config.json"
    root.save_config(path)
    assert [run.name for run in get.get_runs(str(path))] == ["A", "B"]
    with pytest.raises(UnknownNameError, match=r"no run 'AA' \(did you mean 'A'\?\); it has A, B"):
        get.get_runs(root, ["A", "AA"])
    with pytest.raises(MissingConfigError, match="nowhere"):
        get.get_runs("nowhere.json")


def test_filters(root: CopickRoot, how: dict[str, Any]) -> None:
    def of(function: Any, *arguments: Any, **filters: Any) -> list[str]:
        return [
            str(each.ref).partition("'")[2].strip("'")
            for each in function(root, *arguments, **filters, **how)
        ]

    assert of(get.get_voxelspacings) == ["A/10.000", "A/20.000", "B/10.000", "B/20.000"]
    assert of(get.get_voxelspacings, "A", voxel_size=20) == ["A/20.000"]
    assert of(get.get_tomograms) == ["A/10.000/wbp", "A/20.000/denoised", "B/10.000/wbp", "B/20.000/denoised"]
    assert of(get.get_tomograms, "B", tomo_type=["wbp", "x"]) == ["B/10.000/wbp"]
    assert of(get.get_tomograms, root.get_run("A"), voxel_size=[20.0]) == ["A/20.000/denoised"]
    assert of(get.get_features) == ["A/10.000/wbp/edges", "B/10.000/wbp/edges"]
    assert of(get.get_features, feature_type="corners") == []
    assert of(get.get_picks, user_id=["bob", "x"]) == ["A/ribosome_bob_1", "B/ribosome_bob_1"]
    assert of(get.get_picks, ["B"], object_name="membrane") == ["B/membrane_ann_9"]
    assert of(get.get_picks, [], session_id="1") == []
    assert of(get.get_filaments, "A", session_id="1") == ["A/ribosome_bob_1"]
    assert of(get.get_meshes, "A") == ["A/membrane_bob_1"]
    masks = of(get.get_segmentations, "A")
    assert masks == ["A/all_bob_1_10.000_multilabel", "A/membrane_bob_1_10.000"]
    assert of(get.get_segmentations, "A", is_multilabel=True) == masks[:1]
    assert of(get.get_segmentations, "A", voxel_size=20, is_instance=True) == ["A/ribosome_bob_2_20.000"]


def test_an_unknown_run_is_an_error(root: CopickRoot, how: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="no run 'C'"):
        get.get_picks(root, ["A", "C"], **how)


def test_a_failure_is_not_an_empty_list(root: CopickRoot, tmp_path: Path, how: dict[str, Any]) -> None:
    mounted = alone(tmp_path / "project", read_only=True)
    assert len(mounted.runs) == 2
    (tmp_path / "project").rename(tmp_path / "elsewhere")
    with pytest.raises(copick.LayerError, match="there is no such directory"):
        get.get_picks(mounted, **how)


def test_picks_stats(root: CopickRoot, how: dict[str, Any]) -> None:
    assert stats.picks_stats(root, **how) == {
        "total_picks": 6,
        "total_pick_files": 6,
        "distribution_by_run": {"A": 3, "B": 3},
        "distribution_by_user": {"ann": 0, "bob": 4, "tool": 2},
        "distribution_by_session": {"9": 0, "1": 4, "0": 2},
        "distribution_by_object": {"membrane": 0, "ribosome": 6},
    }
    only = stats.picks_stats(root, "A", user_id="bob", **how)
    assert (only["total_picks"], only["distribution_by_run"]) == (2, {"A": 2})
    assert stats.picks_stats(root, user_id="nobody", **how)["distribution_by_object"] == {}


def test_a_damaged_file_is_told_and_counts_as_empty(
    root: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "project/ExperimentRuns/A/Picks/bob_1_ribosome.json").write_text("{")
    found = stats.picks_stats(root)
    assert (found["total_picks"], found["total_pick_files"]) == (4, 6)
    assert "not counted: picks 'A/ribosome_bob_1'" in caplog.text


def test_meshes_stats(root: CopickRoot, how: dict[str, Any]) -> None:
    assert stats.meshes_stats(root, **how) == {
        "total_meshes": 2,
        "distribution_by_user": {"bob": 2},
        "distribution_by_session": {"1": 2},
        "distribution_by_object": {"membrane": 2},
        "session_user_object_combinations": {"1_bob_membrane": 2},
    }


def test_segmentations_stats(root: CopickRoot, how: dict[str, Any]) -> None:
    assert stats.segmentations_stats(root, **how) == {
        "total_segmentations": 4,
        "distribution_by_user": {"bob": 4},
        "distribution_by_session": {"1": 4},
        "distribution_by_name": {"all": 2, "membrane": 2},
        "distribution_by_voxel_size": {10.0: 4},
        "distribution_by_multilabel": {"True": 2, "False": 2},
        "distribution_by_type": {"multilabel": 2, "binary": 2},
        "session_user_voxelspacing_multilabel_combinations": {
            "1_bob_all_10.0_True": 2,
            "1_bob_membrane_10.0_False": 2,
        },
    }
    every = stats.segmentations_stats(root, "A", is_instance=None, **how)
    assert every["distribution_by_type"] == {"multilabel": 1, "binary": 1, "instance": 1}


def test_the_root_may_be_a_config_file(tmp_path: Path, root: CopickRoot) -> None:
    config = {
        "config_type": "filesystem",
        "root": str(tmp_path / "project"),
        "pickable_objects": OBJECTS,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert np.sum([len(each.points) for each in get.get_picks(path, object_name="ribosome")]) == 6
    assert stats.meshes_stats(str(path))["total_meshes"] == 2


def test_operations_are_reachable_after_a_bare_import() -> None:
    assert copick.ops.open.from_file is copick.from_file
    assert copick.ops.open.new_config is copick.new_config
    assert copick.ops.run.map_runs
    assert "manage" in dir(copick.ops)
    with pytest.raises(AttributeError, match="no attribute 'remove'"):
        _ = copick.ops.remove
