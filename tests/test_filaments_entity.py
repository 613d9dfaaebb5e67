"""Filaments in runs: made, listed, edited, stored, removed."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from copick.errors import AlreadyExistsError, ConfigError, FormatError, NotFoundError, ReadOnlyError
from copick.filaments import CopickFilament, CopickFilamentCurve
from projects import alone, opened, run_of

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickFilaments, CopickRun

BEND = [[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [10.0, 10.0, 0.0], [20.0, 20.0, 5.0]]
SHORT = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
LINEAR = CopickFilamentCurve(kind="linear", control_points=BEND, step=3)
NURBS = CopickFilamentCurve(kind="nurbs", control_points=SHORT, step=1)


@pytest.fixture
def filaments(run: CopickRun) -> CopickFilaments:
    return run.new_filaments("ribosome", "s1")


def path_of(tmp_path: Path, name: str = "me_s1_ribosome") -> Path:
    return tmp_path / f"work/ExperimentRuns/TS_1/Filaments/{name}.json"


def again(tmp_path: Path) -> CopickFilaments:
    """The same filaments, by somebody who opens the project now."""
    (found,) = run_of(opened(tmp_path)).get_filaments("ribosome", "me", "s1")
    return found


def test_new_filaments_are_stored_at_once(filaments: CopickFilaments, tmp_path: Path) -> None:
    assert json.loads(path_of(tmp_path).read_text()) == {
        "pickable_object_name": "ribosome",
        "user_id": "me",
        "session_id": "s1",
        "run_name": "TS_1",
        "voxel_spacing": None,
        "unit": "angstrom",
        "version": 1,
        "filaments": [],
    }
    assert filaments.filaments == filaments.numpy() == filaments.control_points() == []
    assert filaments.instance_ids().dtype == np.int64
    assert filaments.instance_ids().shape == (0,)
    assert filaments.from_user
    assert not filaments.from_tool
    assert not filaments.read_only
    assert filaments.voxel_spacing is None
    assert filaments.color == (0, 117, 220, 255)
    assert filaments.run.filaments == [filaments]


def test_names_and_duplicates(filaments: CopickFilaments) -> None:
    run = filaments.run
    with pytest.raises(AlreadyExistsError, match=r"ribosome"):
        run.new_filaments("ribosome", "s1")
    assert run.new_filaments("ribosome", "s1", exist_ok=True) is filaments
    with pytest.raises(ValueError, match="no object 'microtubule'"):
        run.new_filaments("microtubule", "s1")
    tool = run.new_filaments("ribosome", "0", "tracer")
    assert tool.from_tool
    assert run.tool_filaments() == [tool]
    assert run.user_filaments() == [filaments]
    assert run.get_filaments(session_id=["0", "s1"], user_id="tracer") == [tool]
    assert run.get_filaments("membrane") == []


def test_polylines(filaments: CopickFilaments, tmp_path: Path) -> None:
    filaments.from_numpy(
        [np.array(BEND), SHORT],
        instance_ids=np.array([3, 5]),  # type: ignore[arg-type]
        polarity_known=np.array([True, False]),  # type: ignore[arg-type]
        scores=[0.25, np.float32(0.5)],
        radii=[None, 30],
        voxel_spacing=10,
        metadata=[None, {"a": 1}],
    )
    found = again(tmp_path)
    assert [line.tolist() for line in found.numpy()] == [BEND, SHORT]
    assert found.numpy()[0].dtype == np.float64
    assert found.instance_ids().tolist() == [3, 5]
    assert found.voxel_spacing == 10.0
    second = found.get(5)
    assert second is not None
    assert (second.polarity_known, second.score, second.radius, second.metadata) == (False, 0.5, 30, {"a": 1})
    assert found.get(3) is found.filaments[0]
    assert found.get(3) == CopickFilament(instance_id=3, points=BEND, polarity_known=True, score=0.25)
    assert found.get(4) is None
    assert found.control_points() == [None, None]


def test_ids_are_counted_and_the_spacing_stays(filaments: CopickFilaments, tmp_path: Path) -> None:
    filaments.from_numpy([SHORT], voxel_spacing=7.5)
    filaments.from_numpy(np.array([SHORT, SHORT, SHORT]))  # type: ignore[arg-type]
    assert again(tmp_path).instance_ids().tolist() == [1, 2, 3]
    assert again(tmp_path).voxel_spacing == 7.5
    filaments.from_numpy([])
    assert again(tmp_path).filaments == []


@pytest.mark.parametrize(
    ("lines", "columns", "message"),
    [
        ([SHORT], {"instance_ids": [1, 2]}, "instance_ids has 2 entries for 1 filaments"),
        ([SHORT], {"scores": []}, "scores has 0 entries for 1 filaments"),
        ([SHORT], {"metadata": [None, None]}, "metadata has 2 entries for 1 filaments"),
        ([SHORT], {"scores": [np.nan]}, "scores must be finite"),
        ([SHORT], {"instance_ids": [0]}, "filament at index 0: instance_id: .* greater than or equal to 1"),
        ([SHORT], {"instance_ids": [1.5]}, "filament at index 0: instance_id"),
        ([SHORT, SHORT], {"radii": [1, -1]}, "filament at index 1: radius: .* greater than 0"),
        ([SHORT, SHORT], {"instance_ids": [4, 4]}, "instance id 4 stands twice"),
        ([SHORT, SHORT[:1]], {}, "filament at index 1: points: .*2 points or more, not 1"),
        ([SHORT, np.zeros((3, 2))], {}, r"polylines\[1\] must be \(N, 3\), not \(3, 2\)"),
        ([np.zeros(6)], {}, r"polylines\[0\] must be \(N, 3\), not \(6,\)"),
        ([[[0, 0, 0], [0, 0, np.inf]]], {}, r"polylines\[0\] must be finite"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    filaments: CopickFilaments, tmp_path: Path, lines: Any, columns: dict[str, Any], message: str
) -> None:
    filaments.from_numpy([BEND], voxel_spacing=10)
    before = path_of(tmp_path).read_bytes()
    with pytest.raises(ValueError, match=message):
        filaments.from_numpy(lines, voxel_spacing=20, **columns)
    assert filaments.numpy()[0].tolist() == BEND
    assert filaments.voxel_spacing == 10
    assert path_of(tmp_path).read_bytes() == before


def test_curves(filaments: CopickFilaments, tmp_path: Path) -> None:
    filaments.from_curves([LINEAR], instance_ids=[9], radii=[3.0], voxel_spacing=4)
    (found,) = again(tmp_path).filaments
    assert found == CopickFilament.from_curve(9, LINEAR, radius=3)
    assert len(found.points) == 14
    with pytest.raises(FormatError, match=r"TS_1.*filament at index 1: cannot evaluate .* kind 'nurbs'"):
        filaments.from_curves([LINEAR, NURBS])


def test_control_points(filaments: CopickFilaments, tmp_path: Path) -> None:
    filaments.from_control_points([BEND, np.array(SHORT)], step=5.0, alpha=0.25, scores=[0.5, 1])
    found = again(tmp_path)
    assert found.filaments[0] == CopickFilament.from_control_points(1, BEND, 5.0, alpha=0.25, score=0.5)
    given = found.control_points()
    assert [points.tolist() for points in given if points is not None] == [BEND, SHORT]
    with pytest.raises(ValueError, match=r"filament at index 0: .*bspline curve is not made from control"):
        filaments.from_control_points([BEND], step=5.0, kind="bspline")


def test_the_step_is_the_voxel_spacing(filaments: CopickFilaments, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Pass step or voxel_spacing"):
        filaments.from_control_points([BEND])
    filaments.from_control_points([BEND], voxel_spacing=7.0)
    found = again(tmp_path)
    found.from_control_points([BEND, SHORT], kind="linear")
    curves = [each.curve for each in again(tmp_path).filaments]
    assert [(curve.kind, curve.step) for curve in curves if curve] == [("linear", 7.0)] * 2


def test_only_curves_that_make_the_points_have_control_points(filaments: CopickFilaments) -> None:
    stale = CopickFilamentCurve(kind="linear", control_points=BEND[::-1], step=1)
    filaments.filaments = [
        CopickFilament.from_curve(1, LINEAR),
        CopickFilament(instance_id=2, points=BEND, curve=stale),
        CopickFilament(instance_id=3, points=SHORT, curve=NURBS),
        CopickFilament(instance_id=4, points=BEND),
    ]
    assert [points is not None for points in filaments.control_points()] == [True, False, False, False]


def test_editing(filaments: CopickFilaments, tmp_path: Path) -> None:
    filaments.from_curves([LINEAR])
    assert filaments.editable_curve(1) == LINEAR
    smooth = filaments.editable_curve(1, tolerance=1.0, kinds=["catmull-rom"])
    assert smooth.kind == "catmull-rom"
    filament = filaments.get(1)
    assert filament is not None
    moved = filament.with_control_points(np.array(BEND) + 1)
    filaments.filaments = [moved]
    filaments.store()
    assert again(tmp_path).filaments == [moved]
    with pytest.raises(NotFoundError, match="has no filament 77; its first ids: 1") as caught:
        filaments.editable_curve(77)
    assert isinstance(caught.value, KeyError)


def test_stale_curves_are_dropped_when_stored(
    filaments: CopickFilaments, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filaments.from_curves([LINEAR, LINEAR, LINEAR])
    first, second, third = filaments.filaments
    first.points = first.points[::-1]
    second.points = [(x + 1, y, z) for x, y, z in second.points]
    filaments.filaments.append(CopickFilament(instance_id=4, points=BEND, curve=NURBS))
    with caplog.at_level(logging.WARNING, "copick"):
        filaments.store()
    (record,) = caplog.records
    assert "curves of filaments 1, 2 are dropped" in record.getMessage()
    assert "TS_1" in record.getMessage()
    for found in (filaments.filaments, again(tmp_path).filaments):
        assert [each.curve for each in found] == [None, None, third.curve, NURBS]
    caplog.clear()
    filaments.store()
    assert caplog.records == []


def test_changes_are_kept_until_stored_or_refreshed(filaments: CopickFilaments, tmp_path: Path) -> None:
    filaments.filaments = [CopickFilament(instance_id=2, points=SHORT)]
    assert again(tmp_path).filaments == []
    filaments.refresh()
    assert filaments.filaments == []
    other = again(tmp_path)
    other.from_numpy([SHORT])
    assert filaments.filaments == []
    assert filaments.load().filaments == other.filaments
    assert filaments.filaments == other.filaments


def test_ids_stand_once(filaments: CopickFilaments, tmp_path: Path) -> None:
    filaments.from_numpy([SHORT])
    with pytest.raises(ValidationError, match="instance id 1 stands twice"):
        filaments.filaments = filaments.filaments * 2
    filaments.filaments.append(filaments.filaments[0])
    with pytest.raises(
        FormatError, match=r"filaments 'TS_1/.*' as it is to be stored.*instance id 1 stands twice"
    ):
        filaments.store()
    assert len(again(tmp_path).filaments) == 1


def test_what_others_wrote_survives_a_change(filaments: CopickFilaments, tmp_path: Path) -> None:
    filaments.from_numpy([SHORT])
    document = json.loads(path_of(tmp_path).read_text())
    document["lab"] = "theirs"
    document["filaments"][0]["colour"] = "red"
    document["version"] = 2
    path_of(tmp_path).write_text(json.dumps(document))
    found = again(tmp_path)
    found.filaments.append(CopickFilament(instance_id=8, points=SHORT))
    found.store()
    after = json.loads(path_of(tmp_path).read_text())
    assert after["filaments"].pop()["instance_id"] == 8
    assert after == document


def test_files_of_others_are_listed_and_malformed_names_are_not(run: CopickRun, tmp_path: Path) -> None:
    run.new_filaments("ribosome", "s1")
    folder = path_of(tmp_path).parent
    text = path_of(tmp_path).read_text()
    (folder / "you_7_fibre.json").write_text(text.replace('"ribosome"', '"fibre"'))
    (folder / "notes.json").write_text("{}")
    (folder / "me_s1.json").write_text("{}")
    run.refresh_filaments()
    assert [(f.user_id, f.session_id, f.pickable_object_name) for f in run.filaments] == [
        ("you", "7", "fibre"),
        ("me", "s1", "ribosome"),
    ]
    with pytest.raises(ConfigError, match="no object 'fibre'"):
        _ = run.filaments[0].color


def test_broken_and_missing_documents(filaments: CopickFilaments, tmp_path: Path) -> None:
    path_of(tmp_path).write_text('{"a')
    found = again(tmp_path)
    with pytest.raises(FormatError, match=r"TS_1.* is not a filaments document: document: Invalid JSON"):
        _ = found.filaments
    with pytest.raises(FormatError, match="not a filaments document"):
        found.from_control_points([BEND])
    found.from_numpy([SHORT])
    assert again(tmp_path).instance_ids().tolist() == [1]
    path_of(tmp_path).unlink()
    with pytest.raises(NotFoundError, match="TS_1"):
        filaments.refresh()


def test_deleting(filaments: CopickFilaments, tmp_path: Path) -> None:
    run = filaments.run
    other = run.new_filaments("ribosome", "s2")
    filaments.delete()
    assert not path_of(tmp_path).exists()
    assert run.filaments == [other]
    run.delete_filaments(session_id="s2")
    assert run.filaments == []
    with pytest.raises(NotFoundError, match="TS_1"):
        filaments.delete()


def test_filaments_that_cannot_be_written(run: CopickRun, tmp_path: Path) -> None:
    archive = run_of(alone(tmp_path / "archive")).new_filaments("ribosome", "0", "tracer")
    archive.from_numpy([BEND])
    archived_file = tmp_path / "archive/ExperimentRuns/TS_1/Filaments/tracer_0_ribosome.json"
    before = archived_file.read_bytes()
    (found,) = run_of(opened(tmp_path)).filaments
    assert found.read_only
    with pytest.raises(ReadOnlyError, match="read-only"):
        found.delete()
    found.from_numpy([SHORT])
    assert archived_file.read_bytes() == before
    assert path_of(tmp_path, "tracer_0_ribosome").exists()
    (merged,) = run_of(opened(tmp_path)).filaments
    assert merged.numpy()[0].tolist() == SHORT
    assert not merged.read_only
