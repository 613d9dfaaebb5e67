"""What people say of runs and voxel spacings: the `.meta` file, in one layer and in several."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from copick.errors import AlreadyExistsError, FormatError, NotFoundError, ReadOnlyError
from copick.models import CopickRun, CopickRunMeta, CopickVoxelSpacing, CopickVoxelSpacingMeta
from projects import alone, opened, run_of

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot


@pytest.fixture
def mine(tmp_path: Path) -> CopickRoot:
    return alone(tmp_path / "mine")


def meta_of(tmp_path: Path, layer: str = "mine", run: str = "TS_1") -> bytes:
    return (tmp_path / layer / "ExperimentRuns" / run / ".meta").read_bytes()


def test_a_run_is_made_with_a_description(mine: CopickRoot, tmp_path: Path) -> None:
    run = mine.create_run("TS_1", "lamella 3, grid A\nto be looked at again")
    assert run.meta == CopickRunMeta(name="TS_1", description="lamella 3, grid A\nto be looked at again")
    assert json.loads(meta_of(tmp_path)) == {"description": "lamella 3, grid A\nto be looked at again"}
    seen = run_of(alone(tmp_path / "mine"))
    assert seen.meta.description is None  # a listing reads no files
    assert seen.description == "lamella 3, grid A\nto be looked at again"
    assert seen.meta.description == seen.description
    with pytest.raises(AlreadyExistsError, match="run 'TS_1' exists already"):
        mine.create_run("TS_1", "another")
    assert seen.description == "lamella 3, grid A\nto be looked at again"


def test_without_a_description(mine: CopickRoot, tmp_path: Path) -> None:
    """Then the file is what copick 1.x writes."""
    assert mine.create_run("TS_1").description is None
    assert mine.new_run("TS_2").description is None
    assert meta_of(tmp_path) == meta_of(tmp_path, run="TS_2") == b"meta"


def test_only_store_writes(mine: CopickRoot, tmp_path: Path) -> None:
    run = mine.new_run("TS_1")
    run.description = "first"
    assert run_of(alone(tmp_path / "mine")).description is None
    run.store()
    assert run_of(alone(tmp_path / "mine")).description == "first"
    run.meta.description = "Ünïcode ✓"
    run.store()
    assert run_of(alone(tmp_path / "mine")).description == "Ünïcode ✓"
    run.description = "dropped"
    run.refresh()
    assert run.description == "Ünïcode ✓"
    run.description = None
    run.store()
    assert meta_of(tmp_path) == b"meta"
    run.refresh()
    assert run.description is None


def test_what_others_said_is_seen_after_a_refresh(mine: CopickRoot, tmp_path: Path) -> None:
    run = mine.create_run("TS_1", "old")
    other = run_of(alone(tmp_path / "mine"))
    other.description = "new"
    other.store()
    assert run.description == "old"
    run.refresh()
    assert run.description == "new"


def test_storing_what_was_not_read_loses_nothing(mine: CopickRoot, tmp_path: Path) -> None:
    mine.create_run("TS_1", "kept")
    run_of(alone(tmp_path / "mine")).store()
    assert run_of(alone(tmp_path / "mine")).description == "kept"


def test_what_others_wrote_there_is_kept(mine: CopickRoot, tmp_path: Path) -> None:
    mine.create_run("TS_1", "x")
    path = tmp_path / "mine/ExperimentRuns/TS_1/.meta"
    path.write_text('{"description": "x", "microscope": "Krios", "tilts": [1, 2]}')
    run = run_of(alone(tmp_path / "mine"))
    run.description = "y"
    run.store()
    assert json.loads(path.read_text()) == {"description": "y", "microscope": "Krios", "tilts": [1, 2]}


@pytest.mark.parametrize(
    "content",
    [b"", b"meta", b"[]", b"null", b"3", b"{", b"\xff\xfe", b'{"description": 3}', b'{"name": "other"}'],
)
def test_files_that_say_nothing(mine: CopickRoot, tmp_path: Path, content: bytes) -> None:
    run = mine.new_run("TS_1")
    (tmp_path / "mine/ExperimentRuns/TS_1/.meta").write_bytes(content)
    run.refresh()
    assert run.description is None
    assert (run.name, run.meta.name) == ("TS_1", "TS_1")


def test_no_file(mine: CopickRoot, tmp_path: Path) -> None:
    (tmp_path / "mine/ExperimentRuns/TS_1").mkdir(parents=True)
    run = run_of(mine)
    assert run.description is None
    run.description = "now"
    run.store()
    assert json.loads(meta_of(tmp_path)) == {"description": "now"}


def test_voxel_spacings(mine: CopickRoot, tmp_path: Path) -> None:
    run = mine.new_run("TS_1")
    spacing = run.new_voxel_spacing(7.84)
    assert spacing.description is None
    spacing.description = "binned twice"
    spacing.store()
    (seen,) = run_of(alone(tmp_path / "mine")).voxel_spacings
    assert seen.description == "binned twice"
    assert seen.meta == CopickVoxelSpacingMeta(voxel_size=7.84, description="binned twice")
    assert run.description is None
    assert (tmp_path / "mine/ExperimentRuns/TS_1/VoxelSpacing7.840/.meta").is_file()


# Several layers


def test_the_highest_layer_that_says_something_counts(root: CopickRoot, tmp_path: Path) -> None:
    archive = run_of(alone(tmp_path / "archive"))
    archive.description = "in the archive"
    archive.store()
    run = run_of(opened(tmp_path))
    assert run.description == "in the archive"
    run.new_picks("ribosome", "1")  # the work layer has the run now, and says nothing
    run.refresh()
    assert run.sources == ["work", "archive"]
    assert run.description == "in the archive"
    run.description = "mine"
    run.store()
    assert run_of(opened(tmp_path)).description == "mine"
    assert run.on("archive").description == "in the archive"
    assert {name: each.description for name, each in run.source_runs.items()} == {
        "work": "mine",
        "archive": "in the archive",
    }
    assert run.primary_run.description == "mine"
    assert run.primary_run.sources == ["work"]
    run.delete(layers="work")
    assert run.description == "in the archive"


def test_a_layer_that_is_only_read_is_described_above_it(root: CopickRoot, tmp_path: Path) -> None:
    run = run_of(root)
    before = meta_of(tmp_path, "archive")
    run.description = "good"
    with pytest.raises(ReadOnlyError, match="no layer can be written; read-only are archive"):
        run.on("archive").store()
    run.store()
    assert meta_of(tmp_path, "archive") == before
    assert json.loads(meta_of(tmp_path, "work")) == {"description": "good"}
    assert run.sources == ["work", "archive"]
    made = root.create_run("TS_2", "in the work layer", layers="work")
    assert (made.sources, made.description) == (["work"], "in the work layer")
    with pytest.raises(ReadOnlyError, match="no layer can be written"):
        root.create_run("TS_3", "no", layers="archive")
    assert [each.name for each in root.query()] == ["TS_1", "TS_2"]


# Runs and voxel spacings besides


def test_made_by_hand(mine: CopickRoot) -> None:
    run = CopickRun(mine, CopickRunMeta(name="TS_1", description="by hand"))
    assert not run.ensure()
    run.store()
    assert run.ensure()
    assert mine.get_run("TS_1") is not None
    spacing = CopickVoxelSpacing(run, CopickVoxelSpacingMeta(voxel_size=5))
    assert not spacing.ensure(create=False)
    assert spacing.ensure(create=True)
    assert [each.voxel_size for each in run.query_voxelspacings()] == [5]
    copy = pickle.loads(pickle.dumps(run))
    assert copy.description == "by hand"
    assert [each.voxel_size for each in copy.voxel_spacings] == [5]


def test_renaming_means_another_run(mine: CopickRoot, tmp_path: Path) -> None:
    """As in copick 1.x: nothing is renamed on disk."""
    run = mine.create_run("TS_1", "the first")
    other = mine.create_run("TS_2", "the second")
    other.new_picks("ribosome", "1")
    assert run.picks == []
    run.name = "TS_2"
    assert (run.name, run.description) == ("TS_2", "the second")
    assert len(run.picks) == 1
    run.name = "TS_9"
    assert not run.ensure()
    with pytest.raises(NotFoundError, match="TS_9"):
        run.delete()
    assert [each.name for each in mine.runs] == ["TS_1", "TS_2"]
    with pytest.raises(FormatError, match="name 3: expected a valid string"):
        run.name = 3  # type: ignore[assignment]


def test_run_names_stay_as_they_are(mine: CopickRoot) -> None:
    """Portal and RELION names hold underscores and more."""
    names = ["TS_1", "a b", "Position_12:3", "100%", "Ünï", "17768"]
    for name in names:
        mine.new_run(name)
    assert sorted(run.name for run in mine.query()) == sorted(names)


def test_only_some_runs_are_shown(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        alone(tmp_path).new_run(name)
    root = alone(tmp_path, runs=["a", "c", "nope"])  # type: ignore[arg-type]
    assert [run.name for run in root.runs] == [run.name for run in root.query()] == ["a", "c"]
    assert root.get_run("b") is None
    assert root.get_run("nope") is None
    assert root.new_run("b").name == "b"
    assert [run.name for run in root.query()] == ["a", "b", "c"]
    assert alone(tmp_path, runs=[]).runs == []  # type: ignore[arg-type]


def test_spacings_are_told_apart_to_three_decimals(mine: CopickRoot, tmp_path: Path) -> None:
    run = mine.new_run("TS_1")
    spacing = run.new_voxel_spacing(10.0049)
    assert spacing.voxel_size == 10.005
    assert run.get_voxel_spacing(10.00501) is spacing
    assert run.get_voxel_spacing(10.0) is None
    with pytest.raises(AlreadyExistsError, match=r"TS_1/10\.005"):
        run.new_voxel_spacing(10.0051)
    assert run.new_voxel_spacing(10.0051, exist_ok=True) is spacing
    assert run.new_voxel_spacing(3, True).voxel_size == 3.0
    assert isinstance(run.new_voxel_spacing(4).voxel_size, float)
    assert [each.voxel_size for each in run.voxel_spacings] == [3, 4, 10.005]
    (tmp_path / "mine/ExperimentRuns/TS_1/VoxelSpacing12").mkdir()
    (tmp_path / "mine/ExperimentRuns/TS_1/VoxelSpacing1.3E1").mkdir()
    run.refresh_voxel_spacings()
    assert [each.voxel_size for each in run.voxel_spacings] == [3, 4, 10.005, 12, 13]
    made = run.new_voxel_spacing(12, exist_ok=True).new_tomogram("x")
    assert "VoxelSpacing12/" in made.path


def test_unknown_arguments_are_told(mine: CopickRoot, caplog: pytest.LogCaptureFixture) -> None:
    run: Any = mine.new_run("TS_1", exist_ok=True, portal_run_id=3)
    run.get_voxel_spacing(1.0, create=True)
    run.get_picks(portal_metaquery={})
    assert caplog.text.count("is ignored") == 3
