"""Picks from files of other programs: what copick 1.x makes of the same files, except where it mixes runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import emfile
import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copick.errors import (
    AlreadyExistsError,
    ConfigError,
    FormatError,
    RelionPixelSizeError,
    RelionTomogramCenterError,
    UnknownNameError,
)
from copick.ops.add import add_picks, add_picks_from_file, add_picks_grouped_from_file, add_tomogram
from copick.ops.poses import Poses, read_poses, read_relion_tomograms
from projects import alone

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickPicks, CopickRoot

KEY = ("ribosome", "me", "1")


@pytest.fixture
def root(tmp_path: Path) -> CopickRoot:
    """TS_1 has a tomogram of 600, 500, 400 Å (x, y, z)."""
    root = alone(tmp_path / "project")
    for name in ("TS_1", "TS_2", "bare"):
        root.new_run(name)
    add_tomogram(root, "TS_1", "wbp", np.zeros((40, 50, 60), np.float32), 10.0)
    return root


def positions(picks: CopickPicks) -> list[list[float]]:
    found: list[list[float]] = picks.numpy()[0].round(3).tolist()
    return found


# CSV


def csv_of(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_csv(root: CopickRoot, tmp_path: Path) -> None:
    path = csv_of(
        tmp_path / "a.csv",
        "run_name,x,y,z,transform_00,transform_01,transform_03,score,instance_id,more\n"
        "TS_1,1,2,3,0.5,4,9,0.25,3,x\nTS_1,4,5,6,,,,,,\n",
    )
    picks = add_picks_from_file(root, "TS_1", path, *KEY)
    assert positions(picks) == [[1, 2, 3], [4, 5, 6]]
    first, second = picks.numpy()[1]
    assert first.tolist() == [[0.5, 4, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    # Cells that are left out are those of the identity, and of nothing else.
    assert np.array_equal(second, np.eye(4))
    assert picks.scores().tolist() == [0.25, 1.0]
    assert picks.instance_ids().tolist() == [3, 0]


def test_csv_of_several_runs(root: CopickRoot, tmp_path: Path) -> None:
    """copick 1.x puts all of them into the run."""
    path = csv_of(tmp_path / "a.csv", "run_name,x,y,z\nTS_1,1,2,3\nTS_2,4,5,6\nTS_1,7,8,9\n")
    assert positions(add_picks_from_file(root, "TS_1", path, *KEY)) == [[1, 2, 3], [7, 8, 9]]
    older = add_picks(root, "TS_2", path, *KEY, 10.0, "csv", tomogram_dimensions=(9, 9, 9))
    assert positions(older) == [[4, 5, 6]]
    with pytest.raises(FormatError, match="holds picks of 2 runs, but none of 'bare': TS_1, TS_2"):
        add_picks_from_file(root, "bare", path, *KEY)
    added = add_picks_grouped_from_file(root, path, "ribosome", "you", "1")
    assert {name: positions(picks) for name, picks in added.items()} == {
        "TS_1": [[1, 2, 3], [7, 8, 9]],
        "TS_2": [[4, 5, 6]],
    }


def test_csv_of_one_run_may_be_another(root: CopickRoot, tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", "run_name,x,y,z\nelsewhere,1,2,3\n")
    assert positions(add_picks_from_file(root, "TS_1", path, *KEY)) == [[1, 2, 3]]
    path = csv_of(tmp_path / "b.csv", "\ufeffx, y, z\n1,2,3\n")
    assert positions(add_picks_from_file(root, "new", path, *KEY)) == [[1, 2, 3]]
    with pytest.raises(FormatError, match="does not say to which runs"):
        add_picks_grouped_from_file(root, path, *KEY)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column x and y and z; its first line names none"),
        ("x,y\n1,2\n", "no column z; its first line names x, y"),
        ("x,y,z\n1,2,3\n1,2,far\n", "line 3: z is 'far'; expected a number"),
        ("x,y,z\n1,2\n", "line 2: z is ''; expected a number"),
        ("x,y,z\n1,2,nan\n", "finite"),
        ("x,y,z,instance_id\n1,2,3,-1\n", "0 or more"),
        ("x,y,z,instance_id\n1,2,3,1.5\n", "whole numbers"),
        ("x,y,z,transform_33\n1,2,3,5\n", "last row"),
    ],
)
def test_bad_csv_leaves_nothing(root: CopickRoot, tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        add_picks_from_file(root, "TS_1", csv_of(tmp_path / "a.csv", text), *KEY)
    assert root.runs[0].picks == []


def test_bytes_are_no_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(FormatError, match="cannot be read as CSV"):
        read_poses(tmp_path / "a.csv")


def test_what_is_there_stays_unless_told(root: CopickRoot, tmp_path: Path) -> None:
    one, two = (csv_of(tmp_path / f"{n}.csv", f"x,y,z\n{n},0,0\n") for n in (1, 2))
    add_picks_from_file(root, "TS_1", one, *KEY)
    with pytest.raises(AlreadyExistsError, match="exists already"):
        add_picks_from_file(root, "TS_1", two, *KEY)
    assert positions(add_picks_from_file(root, "TS_1", two, *KEY, overwrite=True)) == [[2, 0, 0]]
    assert positions(add_picks_from_file(root, "TS_1", one, *KEY, exist_ok=True)) == [[1, 0, 0]]


def test_bad_arguments(root: CopickRoot, tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", "x,y,z\n1,2,3\n")
    with pytest.raises(ConfigError, match="no object 'proteasome'"):
        add_picks_from_file(root, "TS_1", path, "proteasome", "me", "1")
    with pytest.raises(UnknownNameError, match="no run 'nope'"):
        add_picks_from_file(root, "nope", path, *KEY, create=False)
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*b.csv'"):
        add_picks_from_file(root, "TS_1", tmp_path / "b.csv", *KEY)
    with pytest.raises(FormatError, match=r"csv \(.csv\), em \(.em\), dynamo \(.tbl\), star \(.star\)"):
        add_picks_from_file(root, "TS_1", tmp_path / "a.xyz", *KEY)
    with pytest.raises(FormatError, match=r"format 'relion' is not known"):
        add_picks_from_file(root, "TS_1", path, *KEY, file_type="relion")
    assert positions(add_picks_from_file(root, "TS_1", path, *KEY, file_type="csv")) == [[1, 2, 3]]


# Motivelists and Dynamo tables


def motivelist(path: Path, rows: Any) -> Path:
    """An EM file of rows of 20 numbers."""
    emfile.write(str(path), np.asarray(rows, np.float32)[np.newaxis])
    return path


def em_row(tomogram: int = 1, **numbers: Any) -> Any:
    row = np.zeros(20)
    row[4] = tomogram
    for at, value in numbers.items():
        row[int(at[1:])] = value
    return row


# phi or tdrot 10°, theta or tilt 20°, psi or narot 30°, as copick 1.x reads them from a motivelist
TURNED = [
    [0.771281, -0.613092, 0.171010],
    [0.633718, 0.714610, -0.296198],
    [0.059391, 0.336824, 0.939693],
]


def test_em(root: CopickRoot, tmp_path: Path) -> None:
    row = em_row(_3=0.5, _7=2, _8=3, _9=4, _10=0.5, _16=10, _17=30, _18=20)
    path = motivelist(tmp_path / "a.em", [row])
    picks = add_picks_from_file(root, "TS_1", path, *KEY, voxel_spacing=10.0)
    assert positions(picks) == [[10, 20, 30]]
    (placed,) = picks.numpy()[1]
    assert np.allclose(placed[:3, :3], TURNED, atol=1e-6)
    assert placed[:3, 3].tolist() == [5, 0, 0]
    assert picks.scores().tolist() == [0.5]
    with pytest.raises(FormatError, match="positions are in pixels; pass voxel_spacing"):
        add_picks_from_file(root, "TS_1", path, "ribosome", "me", "2")


def dynamo(path: Path, rows: Any) -> Path:
    """A table from rows of {column: value}."""
    table = np.zeros((len(rows), 40))
    for at, row in enumerate(rows):
        table[at, 0] = at + 1
        for column, value in row.items():
            table[at, column] = value
    np.savetxt(path, table)
    return path


def test_dynamo(root: CopickRoot, tmp_path: Path) -> None:
    row = {3: 0.5, 6: 10, 7: 20, 8: 30, 9: 0.25, 19: 1, 23: 1, 24: 2, 25: 3}
    path = dynamo(tmp_path / "a.tbl", [row])
    picks = add_picks_from_file(root, "TS_1", path, *KEY, voxel_spacing=10.0)
    assert positions(picks) == [[10, 20, 30]]
    (placed,) = picks.numpy()[1]
    assert np.allclose(placed[:3, :3], np.transpose(TURNED), atol=1e-6)
    assert placed[:3, 3].tolist() == [5, 0, 0]
    assert picks.scores().tolist() == [0.25]
    with pytest.raises(FormatError, match="positions are in pixels; pass voxel_spacing"):
        add_picks_from_file(root, "TS_1", path, "ribosome", "me", "2")


def test_tomograms_by_number(root: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    em = motivelist(tmp_path / "a.em", [em_row(tomogram, _7=x) for tomogram, x in ((1, 2), (2, 3), (9, 4))])
    tbl = dynamo(tmp_path / "a.tbl", [{19: tomogram, 23: x} for tomogram, x in ((1, 1), (2, 2), (9, 3))])
    for path, user in ((em, "em"), (tbl, "tbl")):
        added = add_picks_grouped_from_file(
            root, path, "ribosome", user, "1", 10.0, {1: "TS_1", 2: "TS_2"}, create=False
        )
        assert [positions(picks)[0][0] for picks in added.values()] == [10, 20]
        assert f"{path}: picks of tomogram 9 are left out" in caplog.text
        # One run may be asked for; then the file's numbers may mean something else.
        both = add_picks_from_file(root, "bare", path, "ribosome", user, "1", voxel_spacing=10.0)
        assert len(both.points) == 3
        assert "holds picks of 3 tomograms, which all become those of run 'bare'" in caplog.text
    shifted = add_picks_grouped_from_file(
        root, em, "ribosome", "row", "1", 10.0, {0: "new"}, tomo_index_row=5
    )
    assert len(shifted["new"].points) == 3
    with pytest.raises(UnknownNameError, match="no run 'nope'"):
        add_picks_grouped_from_file(
            root, em, "ribosome", "x", "1", 10.0, {1: "TS_1", 2: "nope"}, create=False
        )
    assert root.runs[0].get_picks(user_id="x") == []


@pytest.mark.parametrize("name", ["a.em", "a.tbl", "a.star"])
def test_files_that_cannot_be_read(root: CopickRoot, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello")
    with pytest.raises(FormatError, match=name):
        add_picks_from_file(root, "TS_1", tmp_path / name, *KEY, voxel_spacing=10.0)
    assert root.runs[0].picks == []


def test_a_volume_is_no_motivelist(tmp_path: Path) -> None:
    emfile.write(str(tmp_path / "a.em"), np.zeros((2, 3, 4), np.float32))
    with pytest.raises(FormatError, match="20 numbers per particle, not 4"):
        read_poses(tmp_path / "a.em", voxel_spacing=10.0)


def test_scores_that_are_no_numbers(
    root: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = dynamo(tmp_path / "a.tbl", [{9: np.nan}, {9: 0.5}])
    assert add_picks_from_file(root, "TS_1", path, *KEY, voxel_spacing=10.0).scores().tolist() == [1.0, 0.5]
    assert "become 1" in caplog.text


# RELION


PIXELS = {"rlnCoordinateX": [1.0, 2.0], "rlnCoordinateY": [3.0, 4.0], "rlnCoordinateZ": [5.0, 6.0]}
CENTRED = {
    "rlnCenteredCoordinateXAngst": [1.0, 2.0],
    "rlnCenteredCoordinateYAngst": [3.0, 4.0],
    "rlnCenteredCoordinateZAngst": [5.0, 6.0],
}
NAMES = {"rlnTomoName": ["TS_1", "TS_2"]}


def star(path: Path, columns: Any, optics: Any = None) -> Path:
    tables = {"optics": pd.DataFrame(optics)} if optics else {}
    starfile.write({**tables, "particles": pd.DataFrame(columns)}, path)
    return path


@pytest.fixture
def tomograms(tmp_path: Path) -> Path:
    """TS_1 is 600, 500, 400 Å, TS_2 is 1000, 650, 525 Å (x, y, z)."""
    sizes = {"rlnTomoSizeX": [300, 400], "rlnTomoSizeY": [250, 260], "rlnTomoSizeZ": [200, 210]}
    table = pd.DataFrame({**NAMES, "rlnTomoTiltSeriesPixelSize": [2.0, 2.5], **sizes})
    starfile.write({"global": table}, tmp_path / "tomograms.star")
    return tmp_path / "tomograms.star"


def test_star_in_pixels(
    root: CopickRoot, tmp_path: Path, tomograms: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read(path: Path, **options: Any) -> list[float]:
        picks = add_picks_from_file(root, "TS_1", path, *KEY, overwrite=True, **options)
        return positions(picks)[1]

    plain = star(tmp_path / "a.star", PIXELS)
    with pytest.raises(RelionPixelSizeError, match="pixel size"):
        read(plain)
    assert read(plain, tomograms_star=tomograms) == [4, 8, 12]
    assert read(plain, tilt_series_pixel_size=3.0, tomograms_star=tomograms) == [6, 12, 18]
    assert not caplog.messages
    assert read(plain, voxel_spacing=10.0) == [20, 40, 60]
    assert "pass tilt_series_pixel_size" in caplog.text
    optics = {"rlnOpticsGroup": [1, 2], "rlnTomoTiltSeriesPixelSize": [3.0, 4.0]}
    grouped = star(tmp_path / "b.star", {**PIXELS, "rlnOpticsGroup": [1, 2]}, optics)
    assert read(grouped, tomograms_star=tomograms, voxel_spacing=10.0) == [8, 16, 24]
    assert read(grouped, tilt_series_pixel_size=1.0) == [2, 4, 6]


def test_star_from_the_centre(root: CopickRoot, tmp_path: Path, tomograms: Path) -> None:
    path = star(tmp_path / "a.star", CENTRED)
    assert positions(add_picks_from_file(root, "TS_1", path, *KEY))[0] == [301, 253, 205]
    with pytest.raises(RelionTomogramCenterError, match="bare"):
        add_picks_from_file(root, "bare", path, *KEY)
    found = add_picks_from_file(root, "TS_2", path, *KEY, tomograms_star=tomograms)
    assert positions(found)[0] == [501, 328, 267.5]
    both = star(tmp_path / "b.star", {**CENTRED, **PIXELS})
    options = {"tilt_series_pixel_size": 2.0, "overwrite": True}
    assert positions(add_picks_from_file(root, "TS_1", both, *KEY, **options))[0] == [301, 253, 205]
    options["relion_version"] = "relion4"
    assert positions(add_picks_from_file(root, "TS_1", both, *KEY, **options))[0] == [2, 6, 10]
    with pytest.raises(ValueError, match="relion_version"):
        add_picks_from_file(root, "TS_1", both, *KEY, **{**options, "relion_version": "relion6"})


def test_star_rotations_and_shifts(root: CopickRoot, tmp_path: Path) -> None:
    angles = {"rlnAngleRot": [10.0], "rlnAngleTilt": [20.0], "rlnAnglePsi": [30.0], "rlnHelicalTubeID": [7]}
    box = {"rlnTomoSubtomogramRot": [40.0], "rlnTomoSubtomogramTilt": [50.0], "rlnTomoSubtomogramPsi": [60.0]}
    shift = {"rlnOriginXAngst": [1.0], "rlnOriginYAngst": [2.0], "rlnOriginZAngst": [3.0]}
    where = {name: values[:1] for name, values in PIXELS.items()}
    path = star(tmp_path / "a.star", {**where, **angles, **box, **shift})
    picks = add_picks_from_file(root, "TS_1", path, *KEY, tilt_series_pixel_size=10.0)
    # What copick 1.x makes of the same file
    assert positions(picks) == [[9.72, 28.707, 46.5]]
    expected = [[-0.884, 0.452, -0.119], [-0.326, -0.415, 0.849], [0.334, 0.79, 0.514]]
    assert np.allclose(picks.numpy()[1][0, :3, :3], expected, atol=1e-3)
    assert picks.instance_ids().tolist() == [7]


def test_star_of_several_tomograms(root: CopickRoot, tmp_path: Path, tomograms: Path) -> None:
    path = star(tmp_path / "a.star", {**CENTRED, **NAMES})
    assert positions(add_picks_from_file(root, "TS_1", path, *KEY)) == [[301, 253, 205]]
    with pytest.raises(FormatError, match="none of 'bare': TS_1, TS_2"):
        add_picks_from_file(root, "bare", path, *KEY)
    stated = read_relion_tomograms(tomograms)
    added = add_picks_grouped_from_file(root, path, "ribosome", "a", "1", tomograms=stated)
    expected = {"TS_1": [[301, 253, 205]], "TS_2": [[502, 329, 268.5]]}
    assert {name: positions(picks) for name, picks in added.items()} == expected
    centres = {"TS_2": (1.0, 1.0, 1.0)}
    added = add_picks_grouped_from_file(root, path, "ribosome", "b", "1", tomogram_centers=centres)
    assert positions(added["TS_2"]) == [[3, 5, 7]]


def test_star_without_particles(root: CopickRoot, tmp_path: Path, tomograms: Path) -> None:
    with pytest.raises(FormatError, match="no table in it has rlnCenteredCoordinateXAngst or rlnCoordinateX"):
        add_picks_from_file(root, "TS_1", tomograms, *KEY)
    with pytest.raises(FormatError, match="no table in it has rlnTomoName"):
        read_relion_tomograms(star(tmp_path / "a.star", PIXELS))
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*none.star'"):
        read_relion_tomograms(tmp_path / "none.star")


# What was written is read


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    rows=st.lists(
        st.tuples(*[st.floats(-1e6, 1e6)] * 3, st.floats(-1e3, 1e3), st.integers(0, 2**40)), max_size=5
    )
)
def test_any_csv_reads_back(tmp_path: Path, rows: list[tuple[float, ...]]) -> None:
    text = "x,y,z,score,instance_id\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows)
    poses: Poses = read_poses(csv_of(tmp_path / "a.csv", text))
    assert poses.positions.tolist() == [list(row[:3]) for row in rows]
    assert poses.scores is not None
    assert poses.scores.tolist() == [row[3] for row in rows]
    assert np.asarray(poses.instance_ids).tolist() == [row[4] for row in rows]
    assert np.array_equal(poses.transforms, np.tile(np.eye(4), (len(rows), 1, 1)))
