"""Filaments: their curves against independent computations and recorded values, and their documents."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from copick.errors import FormatError
from copick.filaments import CopickFilament, CopickFilamentCurve, CopickFilamentsFile
from copick.util import filaments as curves

Points = npt.NDArray[np.float64]

unhurried = settings(deadline=None, max_examples=50)

BEND = [(0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (10.0, 10.0, 0.0), (20.0, 20.0, 5.0)]
SPLINE = {"kind": "bspline", "control_points": BEND, "degree": 2, "knots": [0, 0, 0, 0.2, 1, 1, 1]}

coordinates = st.integers(-40, 40).map(float)
places = st.tuples(coordinates, coordinates, coordinates)
steps = st.floats(0.5, 300)


def lines(least: int = 2) -> st.SearchStrategy[list[tuple[float, float, float]]]:
    """Points of which no two neighbours are in one place."""
    return st.lists(places, min_size=least, max_size=least + 5).filter(
        lambda points: all(a != b for a, b in pairwise(points))
    )


@st.composite
def splines(draw: st.DrawFn) -> CopickFilamentCurve:
    degree = draw(st.integers(1, 5))
    points = draw(lines(degree + 1))
    inner = st.integers(1, 15).map(lambda n: n / 16)
    m = len(points) - degree - 1
    knots = draw(
        st.lists(inner, min_size=m, max_size=m).filter(lambda t: all(t.count(u) <= degree for u in t))
    )
    ends = degree + 1
    return CopickFilamentCurve(
        kind="bspline",
        control_points=points,
        step=draw(steps),
        degree=degree,
        knots=[0.0] * ends + sorted(knots) + [1.0] * ends,
        smoothing=draw(st.none() | st.just(2.5)),
    )


@st.composite
def any_curves(draw: st.DrawFn) -> CopickFilamentCurve:
    kind = draw(st.sampled_from(curves.CURVE_KINDS))
    if kind == "bspline":
        return draw(splines())
    alpha = draw(st.none() | st.sampled_from([0.0, 0.5, 1.0]))
    return CopickFilamentCurve(kind=kind, control_points=draw(lines()), step=draw(steps), alpha=alpha)


def gaps(points: npt.ArrayLike) -> Points:
    result: Points = np.linalg.norm(np.diff(np.asarray(points), axis=0), axis=1)
    return result


# Curves ------------------------------------------------------------------------------------------------------------


@unhurried
@given(any_curves())
def test_a_curve_goes_from_end_to_end_in_steps_and_past_its_anchors(curve: CopickFilamentCurve) -> None:
    line = curve.evaluate()
    assert tuple(line[0]) == curve.control_points[0]
    assert tuple(line[-1]) == curve.control_points[-1]
    assert gaps(line).max() <= curve.step * (1 + 1e-8)
    assert np.linalg.norm(line[:, None] - curve.anchors(), axis=2).min(axis=0).max() < 1e-6
    assert curve.is_current_for(line)
    if curve.passes_through_control_points:
        assert {*map(tuple, curve.control_points)} <= {*map(tuple, line)}


@unhurried
@given(any_curves())
def test_a_reversed_curve_is_the_same_line_from_its_end(curve: CopickFilamentCurve) -> None:
    there, back = curve.evaluate(), curve.reversed().evaluate()
    assert np.allclose(there[::-1], back, atol=1e-6)
    again = curve.reversed().reversed()
    assert again.control_points == curve.control_points
    assert again.knots is None or np.allclose(again.knots, curve.knots or [])


def barry_goldman(four: Points, alpha: float, m: int) -> Points:
    """The middle piece of a Catmull-Rom curve through four points, by Barry and Goldman's pyramid."""
    t = np.concatenate([[0.0], np.cumsum(gaps(four) ** alpha)])
    u = np.linspace(t[1], t[2], m)[:, None]

    def mix(i: int, j: int, a: Points, b: Points) -> Points:
        result: Points = ((t[j] - u) * a + (u - t[i]) * b) / (t[j] - t[i])
        return result

    p0, p1, p2, p3 = four
    low, middle, high = mix(0, 1, p0, p1), mix(1, 2, p1, p2), mix(2, 3, p2, p3)
    return mix(1, 2, mix(0, 2, low, middle), mix(1, 3, middle, high))


@unhurried
@given(lines(3), st.sampled_from([0.0, 0.25, 0.5, 1.0]), steps)
def test_catmull_rom_is_that_of_barry_and_goldman(points: Any, alpha: float, step: float) -> None:
    p = np.array([2 * np.array(points[0]) - points[1], *points, 2 * np.array(points[-1]) - points[-2]])
    pieces = [barry_goldman(p[i : i + 4], alpha, 1001) for i in range(len(points) - 1)]
    line = curves.evaluate_curve(points, step, alpha=alpha)
    # Points are cut from a polyline with 16 samples per step, which lies a little inside the curve.
    assert curves.distances_to_polyline(line, np.concatenate(pieces)).max() < 0.01 * gaps(points).max()
    parts = [math.ceil(gaps(piece).sum() / step) for piece in pieces]
    assert abs(len(line) - 1 - sum(parts)) <= len(pieces)


def basis(i: int, degree: int, t: Points, u: Points) -> Points:
    """Cox and de Boor's recursion, right-continuous."""
    if degree == 0:
        return ((t[i] <= u) & (u < t[i + 1])).astype(np.float64)
    total = np.zeros_like(u)
    if t[i + degree] > t[i]:
        total += (u - t[i]) / (t[i + degree] - t[i]) * basis(i, degree - 1, t, u)
    if t[i + degree + 1] > t[i + 1]:
        total += (t[i + degree + 1] - u) / (t[i + degree + 1] - t[i + 1]) * basis(i + 1, degree - 1, t, u)
    return total


@unhurried
@given(splines())
def test_a_spline_is_the_sum_of_its_basis(spline: CopickFilamentCurve) -> None:
    assert spline.degree is not None
    p, d, t = np.array(spline.control_points), spline.degree, np.array(spline.knots)

    def at(u: Points) -> Points:
        result: Points = np.column_stack([basis(i, d, t, u) for i in range(len(p))]) @ p
        return result

    spans = np.unique(t)
    assert np.allclose(spline.anchors()[:-1], at(spans[:-1]), atol=1e-9)
    dense = at(np.concatenate([np.linspace(a, b, 400, endpoint=False) for a, b in pairwise(spans)]))
    line = spline.model_copy(update={"step": 0.5}).evaluate()
    assert curves.distances_to_polyline(line[::7], [*dense, p[-1]]).max() < 0.02


# What copick 1.31 gives for these.
RECORDED = [
    (
        {"kind": "catmull-rom"},
        [
            (0.0, 0.0, 0.0),
            (5.072375951789782, -0.5581396452553748, 0.0),
            (10.0, 0.0, 0.0),
            (10.076352517581412, 4.955322536216574, -0.24610187398767816),
            (10.0, 10.0, 0.0),
            (12.857834832568079, 13.84874900481804, 1.428917416284039),
            (16.441693134862074, 16.906444380233772, 3.2208465674310354),
            (20.0, 20.0, 5.0),
        ],
    ),
    (
        {"kind": "catmull-rom", "alpha": 0.0},
        [
            (0.0, 0.0, 0.0),
            (5.072375951789782, -0.5581396452553747, 0.0),
            (10.0, 0.0, 0.0),
            (9.871651839062151, 4.968232985556392, -0.34069325909800896),
            (10.0, 10.0, 0.0),
            (12.987197415690616, 13.720651740047511, 1.4935987078453077),
            (16.50464669157794, 16.84528095374196, 3.2523233457889686),
            (20.0, 20.0, 5.0),
        ],
    ),
    (
        {"kind": "bspline", "degree": 2, "knots": [0, 0, 0, 0.5, 1, 1, 1]},
        [
            (0.0, 0.0, 0.0),
            (6.15726568003246, 0.7233405310549696, 0.0),
            (10.0, 5.0, 0.0),
            (12.189546814252703, 10.773656003723874, 1.094773407126352),
            (15.881495847256891, 15.609355445939988, 2.940747923628445),
            (20.0, 20.0, 5.0),
        ],
    ),
]


@pytest.mark.parametrize(("fields", "expected"), RECORDED)
def test_points_are_those_of_copick_1(fields: dict[str, Any], expected: list[Any]) -> None:
    assert np.allclose(curves.evaluate_curve(BEND, 7.0, **fields), expected, rtol=0, atol=1e-12)


def test_no_piece_is_cut_in_two_by_rounding() -> None:
    assert len(curves.evaluate_curve([[0, 0, 0], [0.3, 0, 0]], 0.1)) == 4
    assert len(curves.evaluate_curve([[0, 0, 0], [0.3001, 0, 0]], 0.1)) == 5


def test_a_spline_may_rest_at_a_control_point() -> None:
    points = [[0.3, 1, 0], [0.3, 1, 0], [20, 0, 0], [20, 0, 0]]
    line = curves.evaluate_curve(points, 40.0, "bspline", degree=1, knots=[0, 0, 0.1, 0.2, 1, 1])
    assert line.tolist() == [[0.3, 1, 0], [20, 0, 0]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "nurbs"}, "curve of kind 'nurbs'; known are catmull-rom, linear, bspline"),
        ({"control_points": [[0, 0, 0]]}, "needs 2 control points or more, not 1"),
        ({"control_points": []}, "needs 2 control points or more, not 0"),
        ({"control_points": [[0, 0], [1, 1]]}, r"must be \(N, 3\), not \(2, 2\)"),
        ({"control_points": [[0, 0, 0], [0, math.nan, 0]]}, "must be finite"),
        ({"control_points": [[0, 0, 0], [1, 0, 0], [1, 0, 0]]}, "control points 1 and 2 are the same place"),
        (
            {"kind": "linear", "control_points": [[1, 0, 0], [1, 0, 1e-7]]},
            "points 0 and 1 are the same place",
        ),
        ({"step": 0}, "positive number of ångström, not 0"),
        ({"step": math.inf}, "positive number of ångström, not inf"),
        ({"step": math.nan}, "positive number of ångström, not nan"),
        ({"alpha": 1.1}, "alpha must be from 0 .* not 1.1"),
        ({"kind": "bspline"}, "needs a degree and knots"),
        ({"kind": "bspline", "degree": 2}, "needs a degree and knots"),
        ({**SPLINE, "degree": 6}, "whole number from 1 to 5, not 6"),
        ({**SPLINE, "degree": 0}, "whole number from 1 to 5, not 0"),
        ({**SPLINE, "degree": 4}, "needs 5 control points or more, not 4"),
        ({**SPLINE, "knots": [0, 0, 0, 1, 1, 1]}, "needs 7 knots, not 6"),
        ({**SPLINE, "knots": [0, 0, 0, math.nan, 1, 1, 1]}, "finite"),
        ({**SPLINE, "knots": [0, 0, 0, -1, 1, 1, 1]}, "must not decrease"),
        ({**SPLINE, "knots": [0, 0, 0.1, 0.2, 1, 1, 1]}, "clamped: 3 equal ones at each end"),
        ({**SPLINE, "knots": [0] * 7}, "clamped"),
        ({**SPLINE, "knots": [0, 0, 0, 0, 1, 1, 1]}, "repeat 2 times at most"),
        (
            {**SPLINE, "control_points": [*BEND, [0, 0, 1], [0, 0, 2]], "knots": [0, 0, 0, 5, 5, 5, 9, 9, 9]},
            "repeat 2 times at most",
        ),
        ({**SPLINE, "control_points": [[1, 2, 3]] * 4}, "all in one place"),
    ],
)
def test_what_is_no_curve_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curves.evaluate_curve(**{"control_points": BEND, "step": 1.0, **changed})


@unhurried
@given(st.lists(places, min_size=1, max_size=6), st.lists(places, max_size=6))
def test_distances(line: list[Any], queries: list[Any]) -> None:
    def distance(q: Points, a: Points, b: Points) -> float:
        along = b - a
        share = 0.0 if not along.any() else min(1.0, max(0.0, float((q - a) @ along / (along @ along))))
        return float(np.linalg.norm(q - (a + share * along)))

    arrays = [np.array(p) for p in line]
    pairs = list(zip(arrays, arrays[1:] or arrays, strict=False))
    expected = [min(distance(np.array(q), a, b) for a, b in pairs) for q in queries]
    assert np.allclose(curves.distances_to_polyline(queries, line), expected, atol=1e-9)


def test_distances_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = np.random.default_rng(0).normal(size=(20, 3))
    whole = curves.distances_to_polyline(queries, BEND)
    monkeypatch.setattr(curves, "BLOCK", 10)
    assert np.array_equal(curves.distances_to_polyline(queries, BEND), whole)
    assert curves.distances_to_polyline([1.0, 1.0, 0.0], BEND).tolist() == [1.0]
    with pytest.raises(ValueError, match="needs a point"):
        curves.distances_to_polyline(queries, [])


@pytest.mark.parametrize("kind", ["catmull-rom", "linear"])
def test_a_curve_is_current_while_its_anchors_are_on_the_line(kind: str) -> None:
    line = curves.evaluate_curve(BEND, 2.0, kind)

    def current(points: Any, control_points: Any = BEND, kind: str = kind) -> bool:
        return curves.curve_is_current(points, control_points, 2.0, kind)

    assert current(line)
    assert not current(line, kind="nurbs")
    assert not current(line[::-1])
    assert not current(line[1:])
    assert not current(line[:1])
    for shift, expected in ((0.0199, True), (0.0201, False)):
        moved_end, moved_middle = line.copy(), np.array(BEND)
        moved_end[-1, 2] += shift
        moved_middle[1, 2] += shift
        assert current(moved_end) is expected
        assert current(line, moved_middle) is expected


@unhurried
@given(lines(2), st.floats(0.1, 50))
def test_control_points_pass_all_points_closely(line: list[Any], tolerance: float) -> None:
    if line[0] == line[-1]:
        with pytest.raises(ValueError, match="closed filaments have no control points"):
            curves.control_points_from_polyline(line, tolerance)
        return
    found = [tuple(p) for p in curves.control_points_from_polyline(line, tolerance)]
    assert (found[0], found[-1]) == (line[0], line[-1])
    rest = iter(line)
    assert all(p in rest for p in found), "some of the points, in their order"
    away = curves.distances_to_polyline(line, curves.evaluate_curve(found, tolerance / 4))
    assert away.max() <= tolerance * 1.05


def test_few_control_points_for_smooth_lines_and_all_for_none_to_spare() -> None:
    turn = np.linspace(0, np.pi, 50)
    arc = 100 * np.column_stack([np.cos(turn), np.sin(turn), turn])
    assert len(curves.control_points_from_polyline(arc, 1.0)) < 10
    assert np.array_equal(curves.control_points_from_polyline(arc, 1e-15), arc)
    assert len(curves.control_points_from_polyline([[x, 0, 0] for x in range(20)], 1e-6)) == 2
    twice = np.repeat(arc, 2, axis=0)
    assert np.array_equal(
        curves.control_points_from_polyline(twice, 1.0), curves.control_points_from_polyline(arc, 1.0)
    )


@pytest.mark.parametrize(
    ("points", "tolerance", "message"),
    [
        (BEND, 0, "tolerance must be a positive number of ångström, not 0"),
        (BEND, math.nan, "tolerance must be a positive"),
        (BEND[:1], 1, "two points in different places"),
        ([], 1, "two points in different places"),
        ([BEND[0]] * 3, 1, "two points in different places"),
    ],
)
def test_what_has_no_control_points(points: Any, tolerance: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curves.control_points_from_polyline(points, tolerance)


def test_knots_and_spacing() -> None:
    assert np.allclose(curves.reverse_knots([2, 2, 2, 2.5, 4, 4, 4]), [2, 2, 2, 3.5, 4, 4, 4])
    assert curves.reverse_knots([]).size == 0
    assert curves.median_spacing(BEND) == 10
    assert curves.median_spacing(BEND[:1]) == curves.median_spacing([]) == 0


# Documents ---------------------------------------------------------------------------------------------------------


@st.composite
def any_filaments(draw: st.DrawFn, instance_id: int) -> CopickFilament:
    return CopickFilament(
        instance_id=instance_id,
        points=draw(st.lists(places, min_size=2, max_size=5)),
        polarity_known=draw(st.booleans()),
        score=draw(st.floats(0, 1)),
        radius=draw(st.none() | st.floats(1, 100)),
        metadata=draw(st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=2)),
        curve=draw(st.none() | any_curves()),
    )


def document(filaments: list[CopickFilament]) -> CopickFilamentsFile:
    return CopickFilamentsFile(
        pickable_object_name="microtubule", user_id="me", session_id="1", filaments=filaments
    )


@unhurried
@given(st.data(), st.sets(st.integers(1, 99), max_size=3))
def test_documents_round_trip(data: st.DataObject, ids: set[int]) -> None:
    before = document([data.draw(any_filaments(i)) for i in ids])
    after = CopickFilamentsFile.from_json(before.to_json(), "here")
    assert after == before
    assert after.to_json() == before.to_json()


def test_what_is_written() -> None:
    curve = CopickFilamentCurve(kind="linear", control_points=BEND[:2], step=10)
    written = json.loads(document([CopickFilament.from_curve(3, curve)]).to_json())
    assert written == {
        "pickable_object_name": "microtubule",
        "user_id": "me",
        "session_id": "1",
        "run_name": None,
        "voxel_spacing": None,
        "unit": "angstrom",
        "version": 1,
        "filaments": [
            {
                "instance_id": 3,
                "points": [[0, 0, 0], [10, 0, 0]],
                "polarity_known": False,
                "score": 1.0,
                "radius": None,
                "metadata": {},
                "curve": {"kind": "linear", "control_points": [[0, 0, 0], [10, 0, 0]], "step": 10},
            }
        ],
    }


def test_what_others_wrote_survives() -> None:
    theirs = {
        "pickable_object_name": "microtubule",
        "user_id": "me",
        "session_id": "1",
        "lab": "ours",
        "filaments": [
            {
                "instance_id": 1,
                "points": [[0, 0, 0], [1, 0, 0]],
                "metadata": None,
                "colour": "red",
                "curve": {"kind": "nurbs", "control_points": [], "step": 2, "weights": [1], "degree": 7},
            }
        ],
    }
    read = CopickFilamentsFile.from_json(json.dumps(theirs).encode(), "here")
    (filament,) = read.filaments
    assert filament.metadata == {}
    assert filament.curve is not None
    assert not filament.curve.is_known
    written = json.loads(read.to_json())
    assert written["lab"] == "ours"
    assert written["filaments"][0]["colour"] == "red"
    assert written["filaments"][0]["curve"] == theirs["filaments"][0]["curve"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instance_id": 0}, "instance_id: .* greater than or equal to 1"),
        ({"points": [[0, 0, 0]]}, "points: .*2 points or more, not 1"),
        ({"points": [[0, 0, 0], [0, 0]]}, "points.1.2: Field required"),
        ({"points": [[0, 0, 0], [0, 0, math.inf]]}, "points: .*finite"),
        ({"radius": 0}, "radius: .* greater than 0"),
        (
            {"curve": {"kind": "linear", "control_points": [[0, 0, 0]], "step": 1}},
            "curve: .*2 control points",
        ),
        ({"curve": {"kind": "x", "control_points": [], "step": 0}}, "curve.step: .* greater than 0"),
        ({"curve": {"kind": "", "control_points": [], "step": 1}}, "curve.kind: "),
    ],
)
def test_what_is_no_filament_is_refused(fields: dict[str, Any], message: str) -> None:
    filament = {"instance_id": 1, "points": BEND, **fields}
    text = {"pickable_object_name": "o", "user_id": "u", "session_id": "1", "filaments": [filament]}
    with pytest.raises(FormatError, match=rf"^here is not a filaments document: filaments\.0\.{message}"):
        CopickFilamentsFile.from_json(json.dumps(text).encode(), "here")
    with pytest.raises(ValidationError):
        CopickFilament(**filament)


def test_each_instance_id_stands_once() -> None:
    one = CopickFilament(instance_id=1, points=BEND)
    with pytest.raises(ValidationError, match="instance id 1 stands twice"):
        document([one, one])
    file = document([one])
    with pytest.raises(ValidationError, match="instance id 1 stands twice"):
        file.filaments = [one, one]
    assert file.filaments == [one]
    file.filaments.append(one)
    with pytest.raises(FormatError, match="instance id 1 stands twice"):
        file.to_json()


def test_what_could_not_be_read_again_is_not_written() -> None:
    filament = CopickFilament.from_control_points(1, BEND, 5.0)
    with pytest.raises(ValidationError, match="2 points or more"):
        filament.points = []
    assert filament.curve_is_current()
    assert filament.curve is not None
    filament.curve.alpha = 7.0
    with pytest.raises(FormatError, match="alpha must be from 0"):
        document([filament]).to_json()


def test_scores_that_are_no_numbers_are_kept() -> None:
    before = document([CopickFilament(instance_id=1, points=BEND, score=math.nan)])
    (after,) = CopickFilamentsFile.from_json(before.to_json(), "here").filaments
    assert math.isnan(after.score)


def test_broken_documents() -> None:
    with pytest.raises(FormatError, match=r"^here is not a filaments document: document: Invalid JSON"):
        CopickFilamentsFile.from_json(b'{"a', "here")


# Filaments and curves ----------------------------------------------------------------------------------------------


def test_a_filament_from_control_points() -> None:
    filament = CopickFilament.from_control_points(4, np.array(BEND), 7.0, radius=12, metadata={"a": 1})
    assert filament.curve == CopickFilamentCurve(kind="catmull-rom", control_points=BEND, step=7, alpha=0.5)
    assert np.allclose(filament.points, RECORDED[0][1])
    assert (filament.radius, filament.metadata, filament.instance_id) == (12, {"a": 1}, 4)
    linear = CopickFilament.from_control_points(4, BEND, 7.0, kind="linear")
    assert linear.curve == CopickFilamentCurve(kind="linear", control_points=BEND, step=7)
    for kind in ("bspline", "nurbs"):
        with pytest.raises(ValueError, match=f"{kind} curve is not made from control points alone"):
            CopickFilament.from_control_points(4, BEND, 7.0, kind=kind)


def test_curves_that_are_not_known_are_not_evaluated() -> None:
    curve = CopickFilamentCurve(kind="nurbs", control_points=BEND, step=1)
    with pytest.raises(ValueError, match="cannot evaluate a curve of kind 'nurbs'"):
        CopickFilament.from_curve(1, curve)
    filament = CopickFilament(instance_id=1, points=BEND, curve=curve)
    assert not filament.curve_is_current()
    assert filament.editable_curve(kinds=["nurbs"]).kind == "catmull-rom"
    assert filament.reversed().curve == CopickFilamentCurve(kind="nurbs", control_points=BEND[::-1], step=1)


def test_following_other_control_points() -> None:
    elsewhere = np.array(BEND) + 1
    filament = CopickFilament.from_control_points(1, BEND, 5.0, alpha=0.9, radius=3)
    moved = filament.with_control_points(elsewhere)
    assert moved.curve == CopickFilamentCurve(
        kind="catmull-rom", control_points=elsewhere.tolist(), step=5, alpha=0.9
    )
    assert moved.curve_is_current()
    assert np.allclose(moved.points, np.array(filament.points) + 1)
    assert moved.radius == 3
    shorter = filament.with_control_points(BEND[:2], step=2.0)
    assert len(shorter.points) == 6
    moved.metadata["of"] = "the copy"
    assert filament.metadata == {}
    assert filament.curve_is_current()
    with pytest.raises(ValueError, match="2 control points or more"):
        filament.with_control_points(BEND[:1])


def test_following_control_points_without_a_current_curve() -> None:
    stale = CopickFilamentCurve(kind="linear", control_points=BEND[::-1], step=1)
    for curve in (None, stale):
        filament = CopickFilament(instance_id=1, points=BEND, curve=curve)
        assert filament.with_control_points(BEND).curve == CopickFilamentCurve(
            kind="catmull-rom", control_points=BEND, step=10, alpha=0.5
        )


def test_splines_keep_the_number_of_their_control_points() -> None:
    filament = CopickFilament.from_curve(1, CopickFilamentCurve(**SPLINE, step=5, fitted_by="me"))
    moved = filament.with_control_points(np.array(BEND) + 1)
    assert np.allclose(moved.points, np.array(filament.points) + 1)
    assert moved.curve == CopickFilamentCurve(
        **{**SPLINE, "control_points": (np.array(BEND) + 1).tolist()}, step=5, fitted_by="me"
    )
    with pytest.raises(ValueError, match=r"keeps its 4 control points; to have 3, start from editable_curve"):
        filament.with_control_points(BEND[:3])
    editable = filament.editable_curve(kinds=("catmull-rom",))
    assert editable.kind == "catmull-rom"
    assert curves.distances_to_polyline(filament.points, editable.evaluate()).max() < editable.step / 2


def test_editable_curves() -> None:
    turn = np.linspace(0, 3, 60)
    helix = 100 * np.column_stack([np.cos(turn), np.sin(turn), turn])
    bare = CopickFilament(instance_id=1, points=helix)
    spacing = curves.median_spacing(helix)
    found = bare.editable_curve()
    assert found.step == pytest.approx(spacing)
    assert np.array_equal(found.control_points, curves.control_points_from_polyline(helix, spacing / 2))
    assert np.array_equal(bare.editable_control_points(), found.control_points)
    assert len(bare.editable_control_points(tolerance=50.0)) < len(found.control_points)
    assert bare.editable_curve(step=3.0).step == 3
    current = CopickFilament.from_control_points(1, BEND, 5.0)
    assert current.editable_curve(step=3.0) is current.curve
    with pytest.raises(ValueError, match="tolerance must be a positive"):
        bare.editable_curve(tolerance=-1)
    with pytest.raises(ValueError, match="which gives no step; pass step"):
        CopickFilament(instance_id=1, points=[BEND[0]] * 3).editable_curve()


@unhurried
@given(any_curves())
def test_reversed_filaments_keep_their_curves(curve: CopickFilamentCurve) -> None:
    filament = CopickFilament.from_curve(1, curve, radius=2)
    there = filament.reversed()
    assert there.points == filament.points[::-1]
    assert there.curve_is_current()
    assert there.radius == 2


def test_splines_from_scipy() -> None:
    knots = np.array([0, 0, 0, 0.2, 1, 1, 1])
    padded = [np.concatenate([axis, np.zeros(3)]) for axis in np.array(BEND).T / 10]
    curve = CopickFilamentCurve.from_tck((knots, padded, 2), 5.0, smoothing=0.5, scale=10)
    assert curve == CopickFilamentCurve(**SPLINE, step=5, smoothing=0.5)
    with pytest.raises(ValueError, match="coefficients for x, y and z, not 2 arrays"):
        CopickFilamentCurve.from_tck((knots, padded[:2], 2), 5.0)
    with pytest.raises(ValueError, match="clamped"):
        CopickFilamentCurve.from_tck((np.linspace(0, 1, 7), padded, 2), 5.0)
