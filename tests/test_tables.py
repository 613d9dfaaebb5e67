"""Picks as data frames: copick's own columns and RELION's."""

from __future__ import annotations

import builtins
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copick.errors import (
    ConfigError,
    CopickError,
    FormatError,
    RelionPixelSizeError,
    RelionTomogramCenterError,
)
from copick.models.tables import tomogram_center
from copick.util.euler import nearest_rotations, zyz_angles, zyz_rotations
from projects import OBJECTS, alone

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from copick.models import CopickPicks, CopickRun

pd = pytest.importorskip("pandas")

OWN = ["x", "y", "z", *(f"transform_{i}{j}" for i in range(4) for j in range(4)), "instance_id", "score"]
PIXELS = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
CENTRED = ["rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst"]
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
SUBTOMOGRAM = ["rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"]
FILAMENT = {
    "name": "microtubule",
    "is_particle": True,
    "label": 3,
    "metadata": {"copick": {"filament": {"polar": True}}},
}


def turn(axis: str, degrees: float) -> npt.NDArray[np.float64]:
    """Rodrigues' rotation about an axis of the frame: I + sin K + (1 - cos) K²."""
    x, y, z = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}[axis]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=np.float64)
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def zyz(rot: float, tilt: float, psi: float) -> npt.NDArray[np.float64]:
    return turn("z", rot) @ turn("y", tilt) @ turn("z", psi)


def affine(rotation: npt.NDArray[np.float64], shift: Any = (0, 0, 0)) -> npt.NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, shift
    return matrix


any_angle = st.floats(-360, 360)
near_poles = st.sampled_from([0.0, 180.0, -180.0]).flatmap(
    lambda pole: st.sampled_from([0, 1e-12, 1e-9, 5e-6, 6e-6, 1e-4, -1e-7, -1e-3]).map(lambda d: pole + d)
)
triples = st.tuples(any_angle, st.one_of(any_angle, near_poles), any_angle)
lengths = st.floats(-1e4, 1e4)
points = st.lists(
    st.tuples(
        st.tuples(lengths, lengths, lengths),
        triples,
        st.tuples(lengths, lengths, lengths),
        st.integers(0, 2**62),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    max_size=6,
)
on_disk = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def run(tmp_path: Path) -> CopickRun:
    return alone(tmp_path, pickable_objects=[*OBJECTS, FILAMENT]).new_run("TS_1")


def filled(run: CopickRun, made: Any, name: str = "ribosome") -> CopickPicks:
    """The picks of that object with these points: location, angles, shift, id, score."""
    picks = run.new_picks(name, "s", exist_ok=True)
    picks.from_numpy(
        [where for where, *_ in made],
        [affine(zyz(*angles), shift) for _, angles, shift, *_ in made],
        [each[3] for each in made],
        [each[4] for each in made],
    )
    return picks


def three(run: CopickRun, name: str = "ribosome") -> CopickPicks:
    made = [
        ((10, 20, 30), (0, 0, 0), (1, 2, 3), 3, 0.5),
        ((40, 50, 60), (10, 20, 30), (0, 0, 0), 4, 0.6),
        ((7, 8, 9), (0, 180, 40), (-4, 0, 0), 3, 0.7),
    ]
    return filled(run, made, name)


def stored(picks: CopickPicks) -> CopickPicks:
    """As a new reader of the files sees it."""
    root = alone(picks.layer.files(None)[1], pickable_objects=[*OBJECTS, FILAMENT])
    run = root.get_run("TS_1")
    assert run is not None
    (found,) = run.get_picks(picks.pickable_object_name, picks.user_id, picks.session_id)
    return found


# Angles


@given(triples)
def test_angles_stand_for_the_rotation(angles: tuple[float, float, float]) -> None:
    rotation = zyz(*angles)
    assert np.allclose(zyz_rotations(angles)[0], rotation, atol=1e-14)
    ((rot, tilt, psi),) = zyz_angles(rotation)
    assert -180 <= rot <= 180
    assert 0 <= tilt <= 180
    assert -180 <= psi <= 180
    # Within 1e-7 radian of a pole the tilt's direction is dropped.
    at_pole = min(tilt, 180 - tilt) < np.degrees(1.1e-7)
    assert np.allclose(zyz(rot, tilt, psi), rotation, rtol=0, atol=2.1e-7 if at_pole else 1e-13)


@pytest.mark.parametrize("tilt", [0.0, 1e-9, 5e-6])
@given(rot=st.floats(-89, 89), psi=st.floats(-89, 89))
def test_at_the_poles_psi_is_zero(tilt: float, rot: float, psi: float) -> None:
    assert np.allclose(zyz_angles(zyz(rot, tilt, psi)), [rot + psi, tilt, 0], rtol=0, atol=1e-10)
    assert np.allclose(zyz_angles(zyz(rot, 180 - tilt, psi)), [rot - psi, 180 - tilt, 0], rtol=0, atol=1e-10)


def test_angles_just_off_a_pole_are_all_told() -> None:
    assert np.allclose(zyz_angles(zyz(20, 6e-6, 30)), [20, 6e-6, 30], rtol=0, atol=1e-6)
    assert np.allclose(zyz_angles(zyz(20, 180 - 1e-4, 30)), [20, 180 - 1e-4, 30], rtol=0, atol=1e-6)


@given(triples, st.floats(0.01, 100), st.tuples(*[st.floats(0.2, 5)] * 3))
def test_scaling_does_not_change_the_rotation(
    angles: tuple[float, float, float], scale: float, stretch: tuple[float, float, float]
) -> None:
    rotation = zyz(*angles)
    for matrix in (rotation * scale, rotation * stretch, rotation * np.array(stretch)[:, None]):
        (found,), (usable,) = nearest_rotations(matrix)
        assert usable
        assert np.allclose(found, rotation, atol=1e-12)


@given(triples, st.lists(st.floats(-0.3, 0.3), min_size=9, max_size=9), triples)
def test_no_other_rotation_is_nearer(angles: Any, sheared: list[float], other: Any) -> None:
    matrix = zyz(*angles) @ (np.eye(3) + np.reshape(sheared, (3, 3)))
    (found,), (usable,) = nearest_rotations(matrix)
    assert usable == (np.linalg.det(matrix) > 0)
    if usable:
        assert np.isclose(np.linalg.det(found), 1)
        assert np.linalg.norm(matrix - found) <= np.linalg.norm(matrix - zyz(*other)) + 1e-9


@pytest.mark.parametrize(
    "matrix", [-np.eye(3), np.zeros((3, 3)), np.diag([1, 1, 0]), np.full((3, 3), np.nan)]
)
def test_what_is_no_rotation(matrix: npt.NDArray[np.float64]) -> None:
    found, usable = nearest_rotations([matrix, turn("x", 30)])
    assert usable.tolist() == [False, True]
    assert np.allclose(found, [np.eye(3), turn("x", 30)])


# copick's own columns


@on_disk
@given(points)
def test_own_columns_lose_nothing(run: CopickRun, made: Any) -> None:
    picks = filled(run, made)
    picks.meta.trust_orientation = False
    before = picks.points
    table = picks.df(format="copick")
    assert list(table) == OWN
    assert len(table) == len(made)
    assert {str(table[name].dtype) for name in OWN if name != "instance_id"} == {"float64"}
    assert table["instance_id"].dtype == np.int64
    picks.from_numpy(np.zeros((1, 3)))
    picks.from_df(table, format="copick")
    again = stored(picks)
    assert again.points == before
    assert not again.trust_orientation


def test_own_columns_say_what_the_points_say(run: CopickRun) -> None:
    table = three(run).df("copick")
    assert table[["x", "y", "z"]].to_numpy().tolist() == [[10, 20, 30], [40, 50, 60], [7, 8, 9]]
    assert table[["transform_03", "transform_13", "transform_23", "transform_33"]].iloc[0].tolist() == [
        1,
        2,
        3,
        1,
    ]
    assert np.isclose(table["transform_01"][1], zyz(10, 20, 30)[0, 1])
    assert table["instance_id"].tolist() == [3, 4, 3]
    assert table["score"].tolist() == [0.5, 0.6, 0.7]


def test_own_columns_survive_csv(run: CopickRun, tmp_path: Path) -> None:
    picks = three(run)
    before = picks.points
    picks.df("copick").assign(run_name="TS_1").to_csv(tmp_path / "picks.csv", index=False)
    picks.from_df(pd.read_csv(tmp_path / "picks.csv", dtype=str), "copick")
    assert stored(picks).points == before


def test_only_positions_are_needed(run: CopickRun) -> None:
    picks = three(run)
    picks.from_df(pd.DataFrame({"x": [1], "y": ["2.5"], "z": [3.0], "transform_03": [7]}), "copick")
    (point,) = picks.points
    assert (point.location.x, point.location.y, point.location.z) == (1, 2.5, 3)
    assert np.array_equal(point.transformation, affine(np.eye(3), (7, 0, 0)))
    assert (point.instance_id, point.score) == (0, 1.0)


# RELION, written


def test_pixels(run: CopickRun) -> None:
    table = three(run).df(tilt_series_pixel_size=2.0)
    assert list(table) == ["rlnTomoName", *PIXELS, *ANGLES]
    assert table["rlnTomoName"].tolist() == ["TS_1"] * 3
    assert table[PIXELS].to_numpy().tolist() == [[5.5, 11, 16.5], [20, 25, 30], [1.5, 4, 4.5]]
    # The inverse of Rz(10) Ry(20) Rz(30) is Rz(-30) Ry(-20) Rz(-10) = Rz(150) Ry(20) Rz(170);
    # that of Ry(180) Rz(40) is Rz(-40) Ry(-180).
    expected = [[0, 0, 0], [150, 20, 170], [-40, 180, 0]]
    assert np.allclose(table[ANGLES], expected, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "size", "corner"),
    [((10, 20, 41), 10.0, (205, 100, 50)), ((5, 3, 1), 7.84, (3.92, 11.76, 19.6))],
)
def test_centred(run: CopickRun, shape: Any, size: float, corner: Any) -> None:
    run.new_voxel_spacing(size).new_tomogram("wbp").from_numpy(np.zeros(shape, np.float32))
    table = three(run).df()
    assert list(table) == ["rlnTomoName", *ANGLES, *CENTRED]
    expected = np.array([[11, 22, 33], [40, 50, 60], [3, 8, 9]]) - corner
    assert np.allclose(table[CENTRED], expected, atol=1e-9)


def test_both_ways_and_centred_alone(run: CopickRun) -> None:
    picks = three(run)
    options: dict[str, Any] = {"tilt_series_pixel_size": 2.0, "tomogram_center": (1, 2, 3)}
    both, alone = picks.df(**options), picks.df(coordinates="centered", **options)
    assert list(both) == ["rlnTomoName", *PIXELS, *ANGLES, *CENTRED]
    assert list(alone) == ["rlnTomoName", *ANGLES, *CENTRED]
    assert both[CENTRED].iloc[0].tolist() == [10, 20, 30]
    assert both[PIXELS].iloc[0].tolist() == [5.5, 11, 16.5]


def test_voxels_of_a_tomogram_are_a_last_resort(run: CopickRun, caplog: pytest.LogCaptureFixture) -> None:
    picks = three(run)
    with caplog.at_level(logging.WARNING):
        table = picks.df(voxel_spacing=10.0)
    assert "RELION takes them for pixels of the tilt series" in caplog.text
    assert table[PIXELS].iloc[0].tolist() == [1.1, 2.2, 3.3]
    caplog.clear()
    picks.df(voxel_spacing=10.0, tilt_series_pixel_size=2.0)
    picks.df(voxel_spacing=10.0, tomogram_center=(0, 0, 0))
    assert not caplog.records


def test_whose_centre(run: CopickRun) -> None:
    """The finest voxel spacing that has a tomogram, unless the caller chooses."""

    def put(size: float, tomo_type: str, n: int) -> None:
        spacing = run.new_voxel_spacing(size, exist_ok=True)
        spacing.new_tomogram(tomo_type).from_numpy(np.zeros((2, 2, n), np.float32), levels=1)

    assert tomogram_center(run) is None
    put(20.0, "wbp", 2)
    put(10.0, "wbp", 6)
    put(10.0, "aaa", 8)
    run.new_voxel_spacing(5.0).new_tomogram("empty")
    run.new_voxel_spacing(2.0)
    assert tomogram_center(run) == (40, 10, 10)
    assert tomogram_center(run, 20.0) == (20, 20, 20)
    assert tomogram_center(run, tomo_type="wbp") == (30, 10, 10)
    assert tomogram_center(run, 10.0004, "wbp") == (30, 10, 10)
    assert tomogram_center(run, 20.0, "aaa") is None
    assert tomogram_center(run, 33.0, "aaa") is None
    assert tomogram_center(run, 33.0) == (40, 10, 10)
    assert tomogram_center(run, tomo_type="nothing") is None


def test_what_is_no_rotation_gets_zeros_and_a_warning(
    run: CopickRun, caplog: pytest.LogCaptureFixture
) -> None:
    picks = run.new_picks("ribosome", "s")
    picks.from_numpy(np.zeros((3, 3)), [affine(-np.eye(3)), affine(2.5 * turn("x", 30)), np.eye(4)])
    table = picks.df(tilt_series_pixel_size=1)
    assert "1 of 3 transformations are no rotations" in caplog.text
    assert table[ANGLES].iloc[0].tolist() == [0, 0, 0]
    # Rx(-30) = Rz(-90) Ry(-30) Rz(90) = Rz(90) Ry(30) Rz(-90)
    assert np.allclose(table[ANGLES].iloc[1], [90, 30, -90])


def test_empty(run: CopickRun) -> None:
    for name in ("ribosome", "microtubule"):
        picks = run.new_picks(name, "s")
        half_sets = "filament" if name == "microtubule" else None
        table = picks.df(tilt_series_pixel_size=2, half_sets=half_sets)
        assert len(table) == 0
        assert [*PIXELS, *ANGLES] == [each for each in table if each in {*PIXELS, *ANGLES}]
        picks.from_numpy(np.zeros((1, 3)), instance_ids=[1])
        picks.from_df(table, tilt_series_pixel_size=2)
        assert stored(picks).points == []
        picks.from_df(picks.df("copick"), "copick")
        assert stored(picks).points == []


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, RelionPixelSizeError, "need the tilt series' pixel size"),
        ({"tomo_type": "wbp"}, RelionPixelSizeError, "need the tilt series' pixel size"),
        (
            {"coordinates": "centered", "tilt_series_pixel_size": 2},
            RelionTomogramCenterError,
            "need the tomogram's centre",
        ),
        ({"coordinates": "pixels"}, ValueError, "coordinates must be one of 'auto', 'centered'"),
        ({"tilt_series_pixel_size": 0}, ValueError, "tilt_series_pixel_size must be a length"),
        ({"tilt_series_pixel_size": float("nan")}, ValueError, "tilt_series_pixel_size must be a length"),
        ({"voxel_spacing": -1}, ValueError, "voxel_spacing must be a length"),
        ({"tomogram_center": (1, 2)}, ValueError, "tomogram_center must be x, y, z"),
        ({"tomogram_center": (1, 2, float("inf"))}, ValueError, "tomogram_center must be x, y, z"),
        ({"filament": "on"}, ValueError, "filament must be True, False"),
        ({"filament": None}, ValueError, "filament must be True, False"),
        ({"filament_angles": "z"}, ValueError, "filament_angles must be one of"),
        ({"half_sets": "random"}, ValueError, "half_sets must be one of"),
        ({"half_sets": "filament"}, ValueError, "half sets are made of whole filaments"),
        ({"pixel_size": 2.0}, TypeError, "unexpected keyword argument 'pixel_size'"),
        ({"format": "csv"}, ValueError, 'no table format \'csv\'; use "relion" or "copick"'),
        ({"format": None}, ValueError, "no table format None"),
        ({"format": "copick", "voxel_spacing": 2.0}, TypeError, "unexpected keyword argument"),
    ],
)
def test_refused(run: CopickRun, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        three(run).df(**options)
    assert issubclass(error, TypeError) or isinstance(caught.value, ValueError)


def test_a_tomogram_that_cannot_be_read_is_an_error(run: CopickRun, tmp_path: Path) -> None:
    run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(np.zeros((4, 4, 4)), levels=1)
    (array,) = tmp_path.rglob("wbp.zarr/0/.zarray")
    array.write_text("{")
    run.refresh()
    with pytest.raises(CopickError, match="wbp"):
        three(run).df(tilt_series_pixel_size=2)


# RELION, filaments


def test_filament_columns(run: CopickRun) -> None:
    table = three(run, "microtubule").df(tilt_series_pixel_size=2.0, half_sets="filament")
    assert list(table) == [
        "rlnTomoName",
        *PIXELS,
        *SUBTOMOGRAM,
        *ANGLES,
        "rlnAngleTiltPrior",
        "rlnAnglePsiPrior",
        "rlnHelicalTubeID",
        "rlnHelicalTrackLengthAngst",
        "rlnAnglePsiFlipRatio",
        "rlnRandomSubset",
    ]
    assert table["rlnHelicalTubeID"].tolist() == [3, 4, 3]
    # From (11, 22, 33) to (3, 8, 9).
    assert np.allclose(table["rlnHelicalTrackLengthAngst"], [0, 0, np.sqrt(8**2 + 14**2 + 24**2)])
    assert table["rlnAnglePsiFlipRatio"].tolist() == [0.5, 0.5, 0.5]
    assert table["rlnRandomSubset"].tolist() == [1, 2, 1]
    assert table[ANGLES].to_numpy().tolist() == [[0, 90, 0]] * 3
    assert table[["rlnAngleTiltPrior", "rlnAnglePsiPrior"]].to_numpy().tolist() == [[90, 0]] * 3
    rotations = [np.eye(3), zyz(10, 20, 30), zyz(0, 180, 40)]
    for rotation, sub in zip(rotations, table[SUBTOMOGRAM].to_numpy(), strict=True):
        assert np.allclose(zyz(*sub).T @ zyz(0, 90, 0).T, rotation)


def test_pose_and_choice(run: CopickRun) -> None:
    ribosome, tube = three(run), three(run, "microtubule")
    pose = tube.df(tilt_series_pixel_size=2.0, filament_angles="pose", polarity_known=[True, False, True])
    assert not {*SUBTOMOGRAM, "rlnAngleTiltPrior"} & {*pose}
    assert pose["rlnAnglePsiFlipRatio"].tolist() == [0, 0.5, 0]
    plain = ribosome.df(tilt_series_pixel_size=2.0)
    assert pose[[*PIXELS, *ANGLES]].equals(plain[[*PIXELS, *ANGLES]])
    assert tube.df(filament=False, tilt_series_pixel_size=2.0).equals(plain)
    forced = ribosome.df(filament=True, tilt_series_pixel_size=2.0, polarity_known=True)
    assert forced["rlnAnglePsiFlipRatio"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="polarity_known is one bool, or one for each of 3 points"):
        ribosome.df(filament=True, tilt_series_pixel_size=2.0, polarity_known=[True])


def test_points_without_a_filament(run: CopickRun) -> None:
    picks = run.new_picks("microtubule", "s")
    picks.from_numpy(np.zeros((3, 3)), instance_ids=[1, 0, 0])
    with pytest.raises(ValueError, match="2 of 3 points belong to no filament"):
        picks.df(tilt_series_pixel_size=2)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.integers(1, 6), max_size=20))
def test_half_sets_are_whole_filaments_and_as_equal_as_can_be(run: CopickRun, ids: list[int]) -> None:
    picks = run.new_picks("microtubule", "s", exist_ok=True)
    picks.from_numpy(np.zeros((len(ids), 3)), instance_ids=ids)
    halves = picks.df(tilt_series_pixel_size=2, half_sets="filament")["rlnRandomSubset"].to_numpy()
    sizes = {each: ids.count(each) for each in ids}
    assert {*halves.tolist()} <= {1, 2}
    assert all(len({*halves[np.array(ids) == each].tolist()}) == 1 for each in sizes)
    difference = abs(int((halves == 1).sum() - (halves == 2).sum()))
    assert difference <= max(sizes.values(), default=0)


# RELION, read


@on_disk
@given(points, st.sampled_from(["pixels", "centred", "filament", "pose"]))
def test_relion_round_trip(run: CopickRun, made: Any, way: str) -> None:
    helical = way in ("filament", "pose")
    made = [(where, angles, shift, number + helical, 1.0) for where, angles, shift, number, _ in made]
    picks = filled(run, made, "microtubule" if helical else "ribosome")
    options: dict[str, Any] = (
        {"tomogram_center": (100, 200, 300)} if way == "centred" else {"tilt_series_pixel_size": 1.35}
    )
    positions, rotations = picks.full_positions(), picks.numpy()[1][:, :3, :3]
    ids = picks.instance_ids()
    table = picks.df(**options, **({"filament_angles": "pose"} if way == "pose" else {}))
    kept = table.copy()
    picks.from_df(table, **options)
    assert table.equals(kept)
    again = stored(picks)
    order = np.argsort(ids, kind="stable") if helical else np.arange(len(ids))
    locations, transforms = again.numpy()
    assert np.allclose(locations, positions[order], rtol=1e-12, atol=1e-9)
    assert np.allclose(transforms[:, :3, :3], rotations[order], rtol=0, atol=3e-7)
    assert not transforms[:, :3, 3].any()
    assert again.instance_ids().tolist() == (ids[order].tolist() if helical else [0] * len(ids))
    assert again.scores().tolist() == [1.0] * len(made)


def row(**columns: float) -> dict[str, Any]:
    return {
        **dict(zip(PIXELS, (1.0, 2.0, 3.0), strict=True)),
        **dict(zip(CENTRED, (10.0, 20.0, 30.0), strict=True)),
        **columns,
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tomogram_center": (100, 200, 300), "tilt_series_pixel_size": 2}, [110, 220, 330]),
        ({"tomogram_center": (100, 200, 300), "relion_version": "relion5"}, [110, 220, 330]),
        (
            {
                "tomogram_center": (100, 200, 300),
                "tilt_series_pixel_size": 2,
                "relion_version": "relion4",
            },
            [2, 4, 6],
        ),
        ({"tilt_series_pixel_size": 2, "voxel_spacing": 10}, [2, 4, 6]),
        ({"tilt_series_pixel_size": "2"}, [2, 4, 6]),
        ({"voxel_spacing": 10}, [10, 20, 30]),
        (
            {"optics": {"rlnOpticsGroup": [1], "rlnTomoTiltSeriesPixelSize": [3.0]}, "voxel_spacing": 10},
            [3, 6, 9],
        ),
        (
            {"optics": {"rlnTomoTiltSeriesPixelSize": [3.0]}, "tilt_series_pixel_size": 2},
            [2, 4, 6],
        ),
        (
            {"optics": {"rlnOpticsGroup": [5, 7], "rlnTomoTiltSeriesPixelSize": [3.0, 4.0]}},
            [4, 8, 12],
        ),
    ],
)
def test_which_coordinates_count(run: CopickRun, options: Any, expected: list[float]) -> None:
    if "optics" in options:
        options = {**options, "optics": pd.DataFrame(options["optics"])}
    picks = run.new_picks("ribosome", "s")
    picks.from_df(pd.DataFrame([row(rlnOpticsGroup=7)]), **options)
    assert stored(picks).numpy()[0].tolist() == [expected]


def test_the_centre_is_that_of_the_tomogram(run: CopickRun, caplog: pytest.LogCaptureFixture) -> None:
    for size, shape in ((10.0, (4, 6, 8)), (20.0, (8, 8, 8))):
        run.new_voxel_spacing(size).new_tomogram("wbp").from_numpy(np.zeros(shape, np.float32), levels=1)
    picks = run.new_picks("ribosome", "s")
    picks.from_df(pd.DataFrame([row()]))
    assert picks.numpy()[0].tolist() == [[50, 50, 50]]
    picks.from_df(pd.DataFrame([row()]), voxel_spacing=20)
    assert picks.numpy()[0].tolist() == [[90, 100, 110]]
    assert not caplog.records
    picks.from_df(pd.DataFrame([row()]), voxel_spacing=20, relion_version="relion4")
    assert picks.numpy()[0].tolist() == [[20, 40, 60]]
    assert "read in voxels of 20 Å" in caplog.text


def test_subtomograms_and_origins(run: CopickRun) -> None:
    angles = {
        **dict(zip(SUBTOMOGRAM, (90.0, 0, 0), strict=True)),
        **dict(zip(ANGLES, (10.0, 30, 50), strict=True)),
    }
    origin = {"rlnOriginXAngst": 1.0, "rlnOriginYAngst": 3.0, "rlnOriginZAngst": 5.0}
    picks = run.new_picks("ribosome", "s")
    picks.from_df(pd.DataFrame([row(**angles, **origin)]), tilt_series_pixel_size=2)
    # The subtomogram's axes are turned by -90° about z: its (1, 3, 5) is (3, -1, 5) in the tomogram.
    ((where,), (transform,)) = picks.numpy()
    assert np.allclose(where, [2 - 3, 4 + 1, 6 - 5])
    assert np.allclose(transform, affine(turn("z", -90) @ zyz(10, 30, 50).T))
    picks.from_df(pd.DataFrame([row(**origin)]), tilt_series_pixel_size=2)
    ((where,), (transform,)) = picks.numpy()
    assert where.tolist() == [1, 1, 1]
    assert np.array_equal(transform, np.eye(4))


def test_rows_along_filaments(run: CopickRun) -> None:
    table = pd.DataFrame([row()] * 4, index=[5, 5, 7, 7])
    table["rlnCoordinateX"] = [0.0, 1, 2, 3]
    table["rlnHelicalTubeID"] = ["10", "3", "10", "3"]
    picks = run.new_picks("microtubule", "s")

    def read() -> tuple[list[float], list[int]]:
        picks.from_df(table, tilt_series_pixel_size=1)
        return picks.numpy()[0][:, 0].tolist(), picks.instance_ids().tolist()

    assert read() == ([0, 1, 2, 3], [10, 3, 10, 3])
    table["rlnHelicalTrackLengthAngst"] = [9.0, 0, 5, 0]
    assert read() == ([1, 3, 2, 0], [3, 3, 10, 10])
    table["rlnTomoName"] = ["a", "b", "a", "b"]
    assert read() == ([2, 0, 1, 3], [10, 10, 3, 3])


def test_tables_that_are_suspicious(run: CopickRun, caplog: pytest.LogCaptureFixture) -> None:
    picks = run.new_picks("ribosome", "s")
    picks.from_df(pd.DataFrame([row(rlnAngleRot=10.0)]), tilt_series_pixel_size=1)
    assert "rlnAngleRot means nothing without rlnAngleTilt, rlnAnglePsi" in caplog.text
    assert np.array_equal(picks.numpy()[1][0], np.eye(4))
    table = pd.DataFrame([row(), row()]).assign(rlnTomoName=["TS_1", "TS_2"])
    picks.from_df(table, tilt_series_pixel_size=1)
    assert "is filled with particles of 2 tomograms" in caplog.text
    assert len(picks.points) == 2


OPTICS = {"rlnOpticsGroup": [1, 2], "rlnTomoTiltSeriesPixelSize": [3.0, 4.0]}


@pytest.mark.parametrize(
    ("columns", "options", "error", "text"),
    [
        (PIXELS, {}, RelionPixelSizeError, "need the tilt series' pixel size"),
        (CENTRED, {"tilt_series_pixel_size": 2}, RelionTomogramCenterError, "need the tomogram's centre"),
        ([*PIXELS, *CENTRED], {"relion_version": "relion5"}, RelionTomogramCenterError, "centre"),
        (PIXELS, {"relion_version": "relion5"}, FormatError, "needs the columns rlnCentered"),
        (CENTRED, {"relion_version": "relion4"}, FormatError, "needs the columns rlnCoordinateX"),
        ([], {}, FormatError, "needs the columns .* or "),
        (PIXELS[:2], {}, FormatError, "needs the columns"),
        (PIXELS, {"relion_version": "auto"}, ValueError, "relion_version must be one of None, 'relion4'"),
        (PIXELS, {"tilt_series_pixel_size": -2}, ValueError, "must be a length"),
        (CENTRED, {"tomogram_center": 5}, ValueError, "tomogram_center must be x, y, z"),
        (PIXELS, {"optics": {"rlnOpticsGroup": [1]}}, RelionPixelSizeError, "pixel size"),
        (PIXELS, {"optics": OPTICS}, FormatError, "2 groups; without a column rlnOpticsGroup"),
        ([*PIXELS, "rlnOpticsGroup"], {"optics": OPTICS}, FormatError, "lacks the group.s. 7"),
        (
            PIXELS,
            {"optics": {"rlnTomoTiltSeriesPixelSize": [0]}},
            FormatError,
            "a pixel size .* that is none",
        ),
        (PIXELS, {"pixel_size": 2.0}, TypeError, "unexpected keyword argument 'pixel_size'"),
        (PIXELS, {"format": "star"}, ValueError, "no table format 'star'"),
        (PIXELS, {"format": "copick"}, FormatError, "the table lacks x, y, z; it has rlnCoordinateX"),
    ],
)
def test_tables_that_are_refused(
    run: CopickRun, columns: list[str], options: Any, error: type[Exception], text: str
) -> None:
    picks = three(run)
    before = stored(picks).points
    if "optics" in options:
        options = {**options, "optics": pd.DataFrame(options["optics"])}
    with pytest.raises(error, match=text):
        picks.from_df(pd.DataFrame([row(rlnOpticsGroup=7)])[columns], **options)
    assert stored(picks).points == before
    assert picks.points == before


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("rlnCoordinateX", "east", "rlnCoordinateX, .*: found something that is no number"),
        ("rlnCoordinateX", float("nan"), "must be finite"),
        ("rlnAngleRot", float("inf"), "must be finite"),
        ("rlnHelicalTubeID", 7.5, "rlnHelicalTubeID: expected whole numbers"),
        ("rlnHelicalTubeID", float("nan"), "rlnHelicalTubeID: expected whole numbers"),
        ("rlnHelicalTubeID", "first", "rlnHelicalTubeID: expected whole numbers"),
        ("rlnHelicalTubeID", -7, "must be 0 or more"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_values_that_are_refused(run: CopickRun, column: str, value: Any, text: str) -> None:
    picks = three(run)
    before = stored(picks).points
    table = pd.DataFrame([{**row(), **dict.fromkeys(ANGLES, 0.0), column: value}])
    with pytest.raises(ValueError, match=text):
        picks.from_df(table, tilt_series_pixel_size=2)
    assert stored(picks).points == before


@pytest.mark.parametrize("table", [None, {"x": [1]}, np.zeros((2, 3))], ids=["None", "dict", "array"])
def test_only_data_frames_are_tables(run: CopickRun, table: Any) -> None:
    with pytest.raises(TypeError, match="takes a pandas DataFrame, not"):
        three(run).from_df(table, "copick")


def test_without_pandas(run: CopickRun, monkeypatch: pytest.MonkeyPatch) -> None:
    picks, table = three(run), three(run).df("copick")
    ordinary = builtins.__import__

    def absent(name: str, *rest: Any, **options: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return ordinary(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    for use in (picks.df, lambda: picks.from_df(table)):
        with pytest.raises(ConfigError, match=r'pip install "copick\[table\]"'):
            use(format="copick") if use == picks.df else use()
