"""Picks: documents, arrays, and layers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.errors import (
    ConfigError,
    FormatError,
    NotFoundError,
    ReadOnlyError,
)
from copick.meta import CopickLocation, CopickPoint
from copick.ops.copies import copy_entity
from projects import opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun


def points(n: int) -> list[CopickPoint]:
    return [
        CopickPoint(location=CopickLocation(x=i, y=2 * i, z=3 * i), score=i / 2, instance_id=i)
        for i in range(n)
    ]


def test_picks(run: CopickRun, tmp_path: Path) -> None:
    picks = run.new_picks("ribosome", "s1")
    assert (
        json.loads((tmp_path / "work/ExperimentRuns/TS_1/Picks/me_s1_ribosome.json").read_text())["points"]
        == []
    )
    picks.points = points(3)
    picks.store()
    opened_again = opened(tmp_path).get_run("TS_1")
    assert opened_again is not None
    (again,) = opened_again.get_picks(session_id="s1")
    assert again.points == points(3)
    assert again.meta.run_name == "TS_1"
    assert again.instance_ids().tolist() == [0, 1, 2]
    assert again.scores().tolist() == [0, 0.5, 1.0]
    locations, transforms = again.numpy()
    assert locations.tolist() == [[0, 0, 0], [1, 2, 3], [2, 4, 6]]
    assert np.array_equal(transforms, np.stack([np.eye(4)] * 3))
    assert picks.color == (0, 117, 220, 255)


def test_names_are_sanitised(run: CopickRun) -> None:
    with pytest.warns(UserWarning, match="was changed"):
        picks = run.new_picks("ribosome", "my_session", "me")
    assert picks.session_id == "my-session"
    with pytest.warns(UserWarning, match="was changed"):
        tomogram = run.voxel_spacings[0].new_tomogram("de_noised")
    assert tomogram.tomo_type == "de-noised"


def test_empty_picks(run: CopickRun) -> None:
    locations, transforms = run.new_picks("ribosome", "1").numpy()
    assert locations.shape == (0, 3)
    assert transforms.shape == (0, 4, 4)


def test_picks_from_arrays(run: CopickRun) -> None:
    picks = run.new_picks("ribosome", "1")
    transforms = np.stack([np.eye(4)] * 2)
    transforms[:, :3, 3] = [[1, 1, 1], [2, 2, 2]]
    picks.from_numpy([[1, 2, 3], [4, 5, 6]], transforms, instance_ids=[7, 8], scores=[0.1, 0.2])
    picks.refresh()
    assert picks.full_positions().tolist() == [[2, 3, 4], [6, 7, 8]]
    assert picks.instance_ids().tolist() == [7, 8]
    picks.from_numpy(np.empty((0, 3)))
    picks.refresh()
    assert picks.points == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"positions": [1, 2, 3]}, r"positions must be \(N, 3\)"),
        ({"positions": [[1, 2]]}, r"positions must be \(N, 3\)"),
        ({"positions": [[1, 2, np.nan]]}, "finite"),
        ({"positions": [["a", "b", "c"]]}, "finite numbers"),
        ({"transforms": np.eye(4)}, "transforms must be"),
        ({"transforms": np.stack([np.eye(4)] * 2)}, "2 rows for 1 positions"),
        ({"transforms": np.zeros((1, 4, 4))}, "last row"),
        ({"instance_ids": [-1]}, "0 or more; found -1"),
        ({"instance_ids": [0.5]}, "whole numbers"),
        ({"instance_ids": [1, 2]}, "2 rows for 1"),
        ({"scores": [np.inf]}, "finite"),
        ({"scores": []}, "0 rows for 1"),
    ],
)
def test_arrays_that_are_no_picks_change_nothing(
    run: CopickRun, arguments: dict[str, Any], problem: str
) -> None:
    picks = run.new_picks("ribosome", "1")
    picks.from_numpy([[9, 9, 9]])
    with pytest.raises(ValueError, match=problem):
        picks.from_numpy(**{"positions": [[1, 2, 3]], **arguments})
    assert len(picks.points) == 1
    picks.refresh()
    assert picks.numpy()[0].tolist() == [[9, 9, 9]]


def _nan(point: CopickPoint) -> None:
    point.location.x = np.nan


def _infinite(point: CopickPoint) -> None:
    point.score = np.inf


def _turned(point: CopickPoint) -> None:
    point.transformation_[0][0] = np.nan


def _text(point: CopickPoint) -> None:
    point.location.y = "here"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_nan, r"points\.1\.location\.x is nan; it must be a finite number"),
        (_infinite, r"points\.1\.score is inf"),
        (_turned, r"points\.1\.transformation_\.0\.0 is nan"),
        (_text, r"is not a picks document: points\.1\.location\.y"),
    ],
)
def test_what_could_not_be_read_again_is_not_stored(
    run: CopickRun, change: Callable[[CopickPoint], None], problem: str
) -> None:
    picks = run.new_picks("ribosome", "1")
    picks.from_numpy([[1, 2, 3], [4, 5, 6]])
    change(picks.points[1])
    with pytest.raises(FormatError, match=rf"picks 'TS_1/ribosome_me_1' as it is to be stored.*{problem}"):
        picks.store()
    picks.refresh()
    assert picks.numpy()[0].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("value", [[1, 2], None, "points", [np.zeros(3)], [{"x": 1}]])
def test_what_are_no_points_cannot_be_set(run: CopickRun, value: Any) -> None:
    picks = run.new_picks("ribosome", "1")
    picks.points = [{"location": {"x": 1, "y": 2, "z": 3}}]  # type: ignore[list-item]
    with pytest.raises(FormatError, match="picks 'TS_1/ribosome_me_1': points: "):
        picks.points = value
    assert picks.points == [CopickPoint(location=CopickLocation(x=1, y=2, z=3))]


def test_numbers_that_json_does_not_have_are_read_and_copied(run: CopickRun, tmp_path: Path) -> None:
    """copick 1.x writes them."""
    picks = run.new_picks("ribosome", "1")
    picks.from_numpy([[1, 2, 3]], scores=[0.5])
    path = tmp_path / "work/ExperimentRuns/TS_1/Picks/me_1_ribosome.json"
    path.write_text(path.read_text().replace('"x": 1.0', '"x": NaN').replace("0.5", "-Infinity"))
    run.refresh()
    (picks,) = run.get_picks(session_id="1")
    copy = copy_entity(picks, lambda exist_ok: run.new_picks("ribosome", "2", exist_ok=exist_ok), False)
    for each in (picks, copy):
        assert np.isnan(each.numpy()[0][0, 0])
        assert each.scores().tolist() == [-np.inf]


def test_another_unit_is_told_once(run: CopickRun, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run.new_picks("ribosome", "1").from_numpy([[1, 2, 3]])
    path = tmp_path / "work/ExperimentRuns/TS_1/Picks/me_1_ribosome.json"
    path.write_text(path.read_text().replace('"angstrom"', '"nanometer"'))
    run.refresh()
    caplog.clear()
    (picks,) = run.get_picks(session_id="1")
    assert picks.numpy()[0].tolist() == [[1, 2, 3]]
    picks.refresh()
    (told,) = caplog.messages
    assert "in layer 'work'" in told
    assert "TS_1/Picks/me_1_ribosome.json" in told
    assert "its unit is 'nanometer'; positions are taken for ångström" in told


def test_what_the_document_says_besides_points_is_kept(run: CopickRun, tmp_path: Path) -> None:
    run.new_picks("ribosome", "1")
    path = tmp_path / "work/ExperimentRuns/TS_1/Picks/me_1_ribosome.json"
    document = {**json.loads(path.read_text()), "trust_orientation": False, "note": "x"}
    path.write_text(json.dumps(document))
    run.refresh()
    (picks,) = run.get_picks(user_id="me")
    picks.points = points(1)
    picks.store()
    assert json.loads(path.read_text())["note"] == "x"
    assert not json.loads(path.read_text())["trust_orientation"]
    run.refresh()
    (picks,) = run.get_picks(user_id="me")
    picks.meta.trust_orientation = True
    picks.points = points(2)
    picks.store()
    stored = json.loads(path.read_text())
    assert stored["trust_orientation"]
    assert len(stored["points"]) == 2


def test_storing_what_was_not_read_loses_nothing(run: CopickRun) -> None:
    run.new_picks("ribosome", "1").from_numpy([[1, 2, 3]])
    run.refresh()
    (picks,) = run.get_picks(user_id="me")
    picks.store()
    picks.refresh()
    assert len(picks.points) == 1


def test_archived_picks_are_shadowed_by_a_write(run: CopickRun) -> None:
    (picks,) = run.picks
    assert picks.read_only
    picks.points = points(2)
    picks.store()
    assert picks.sources == ["work", "archive"]
    assert not picks.read_only
    picks.refresh()
    assert len(picks.points) == 2
    assert len(run.picks) == 1
    assert len(run.get_picks(layers="archive")[0].points) == 1
    with pytest.raises(ReadOnlyError, match="archive"):
        picks.on("archive").store()


def test_broken_picks(run: CopickRun, tmp_path: Path) -> None:
    run.new_picks("ribosome", "1")
    (tmp_path / "work/ExperimentRuns/TS_1/Picks/me_1_ribosome.json").write_text("{")
    run.refresh()
    (picks,) = run.get_picks(user_id="me")
    with pytest.raises(
        FormatError, match=r"picks 'TS_1/ribosome_me_1' in layer 'work' is not a picks document"
    ):
        _ = picks.points
    picks.points = points(1)
    picks.store()
    picks.refresh()
    assert len(picks.points) == 1


def test_picks_that_are_gone(run: CopickRun) -> None:
    picks = run.new_picks("ribosome", "1")
    picks.delete()
    with pytest.raises(NotFoundError, match="no layer has picks"):
        picks.load()


def test_picks_need_an_object_and_a_user(root: CopickRoot, run: CopickRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no object 'nope'; it has ribosome, membrane") as caught:
        run.new_picks("nope", "1")
    assert isinstance(caught.value, ValueError)
    root.user_id = None
    with pytest.raises(ValueError, match="no user_id"):
        run.new_picks("ribosome", "1")
    (tmp_path / "work/ExperimentRuns/TS_1/Picks").mkdir(parents=True)
    (tmp_path / "work/ExperimentRuns/TS_1/Picks/a_b_unknown.json").write_text("{}")
    run.refresh()
    (picks,) = run.get_picks("unknown")
    with pytest.raises(ValueError, match="no object 'unknown'"):
        _ = picks.color
