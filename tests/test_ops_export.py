"""Files for other programs: read back by our own importers, and by the libraries of these programs."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import dynamotable
import emfile
import mrcfile
import numpy as np
import pytest
import starfile
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copick.errors import (
    AlreadyExistsError,
    FormatError,
    LayerError,
    NotFoundError,
    RelionPixelSizeError,
    RelionTomogramCenterError,
    UnknownNameError,
)
from copick.ops import export as exporting
from copick.ops.add import (
    add_picks_from_file,
    add_picks_grouped_from_file,
    add_segmentation_from_file,
    add_tomogram,
    add_tomogram_from_file,
    read_volume,
)
from copick.ops.export import (
    FilamentPolarity,
    export,
    export_picks,
    export_picks_combined,
    export_relion_particles,
    export_run,
    export_segmentation,
    export_tomogram,
)
from copick.ops.outputs import new_file, new_folder
from copick.ops.poses import read_poses, read_relion_tomograms
from copick.ops.volume_writers import Level
from copick.util import stopping
from copick.util.euler import nearest_rotations, zxz_angles
from projects import OBJECTS, VOLUME, alone

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickPicks, CopickRoot, CopickRun, CopickSegmentation, CopickTomogram


TUBE = {
    "name": "tube",
    "is_particle": True,
    "label": 3,
    "metadata": {"copick": {"filament": {"polar": True}}},
}
ENDS = {"em": "em", "star": "star", "dynamo": "tbl", "csv": "csv"}


def poses(seed: int, n: int) -> tuple[Any, Any]:
    """Points in 100 Å, and rotations of any kind with shifts."""
    random = np.random.default_rng(seed)
    transforms = np.tile(np.eye(4), (n, 1, 1))
    transforms[:, :3, :3] = nearest_rotations(random.normal(size=(8 * n, 3, 3)))[0][:n]
    transforms[:, :3, 3] = random.normal(size=(n, 3))
    return random.uniform(0, 100, (n, 3)), transforms


def opened(folder: Path) -> CopickRoot:
    return alone(folder, pickable_objects=[*OBJECTS, TUBE])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed. TS_1 and TS_2 have a tomogram of 70, 60, 50 Å (x, y, z), "bare" has none."""
    folder = tmp_path_factory.mktemp("export") / "project"
    root = opened(folder)
    for seed, name in enumerate(("TS_1", "TS_2", "bare")):
        run = root.new_run(name)
        where, turned = poses(seed, 4)
        run.new_picks("ribosome", "1").from_numpy(where, turned, np.arange(4), np.linspace(0, 1, 4))
        if name != "bare":
            run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(VOLUME)
            run.new_picks("tube", "1").from_numpy(*poses(seed + 9, 6), np.array([2, 1, 1, 3, 1, 3]))
    lines = [np.arange(6.0).reshape(2, 3)] * 3
    filaments = root.runs[0].new_filaments("tube", "1")
    filaments.from_numpy(lines, instance_ids=[1, 2, 3], polarity_known=[True, False, True])
    return folder


@pytest.fixture
def root(project: Path, tmp_path: Path) -> CopickRoot:
    """A copy of it."""
    return opened(shutil.copytree(project, tmp_path / "project"))


@pytest.fixture
def run(root: CopickRoot) -> CopickRun:
    return root.runs[0]


@pytest.fixture
def picks(run: CopickRun) -> CopickPicks:
    return run.get_picks("ribosome")[0]


@pytest.fixture
def tubes(run: CopickRun) -> CopickPicks:
    return run.get_picks("tube")[0]


@pytest.fixture
def tomogram(run: CopickRun) -> CopickTomogram:
    return run.voxel_spacings[0].tomograms[0]


@pytest.fixture
def tomograms_star(tmp_path: Path) -> Path:
    """TS_1 is 300, 200, 100 pixels of 2 Å, TS_2 is not in it."""
    path = tmp_path / "tomograms.star"
    path.write_text(
        "data_global\n\nloop_\n_rlnTomoName #1\n_rlnTomoTiltSeriesPixelSize #2\n_rlnTomoSizeX #3\n_rlnTomoSizeY #4\n"
        "_rlnTomoSizeZ #5\n_rlnVoltage #6\n_rlnAmplitudeContrast #7\nTS_1 2.0 300 200 100 300 0.1\n"
    )
    return path


def left(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(os.listdir(folder)) if folder.exists() else []


# Picks


@pytest.mark.parametrize("kind", ["em", "star", "dynamo", "csv"])
def test_picks_come_back(root: CopickRoot, picks: CopickPicks, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new" / f"a.{ENDS[kind]}"
    assert export_picks(picks, path, kind.upper(), 10.0) == str(path)
    back = add_picks_from_file(root, "TS_1", path, "ribosome", "back", "1", 10.0)
    where, turned = picks.numpy()
    again, turned_again = back.numpy()
    close = 1e-4 if kind == "em" else 1e-5
    assert np.allclose(back.full_positions(), picks.full_positions(), atol=close)
    assert np.allclose(turned_again[:, :3, :3], turned[:, :3, :3], atol=close)
    if kind != "star":  # RELION has no scores, and no shift beside the position
        assert np.allclose(again, where, atol=close)
        assert np.allclose(turned_again, turned, atol=close)
        assert np.allclose(back.scores(), picks.scores())
    if kind == "csv":
        assert np.array_equal(turned_again, turned)
        assert back.instance_ids().tolist() == [0, 1, 2, 3]


def test_what_motivelists_and_tables_hold(picks: CopickPicks, tmp_path: Path) -> None:
    where, turned = picks.numpy()
    export_picks(picks, tmp_path / "a.em", "em", 10.0, tomogram_index=7)
    (table,) = emfile.read(tmp_path / "a.em")[1]
    assert table.dtype == np.float32
    assert table[:, 4:7].tolist() == [[7, 1, 1], [7, 1, 2], [7, 1, 3], [7, 1, 4]]
    assert np.allclose(table[:, 7:10], where / 10 + 1)
    assert np.allclose(table[:, 10:13], turned[:, :3, 3] / 10)
    export_picks(picks, tmp_path / "a.tbl", "dynamo", 10.0, tomogram_index=7)
    frame = dynamotable.read(tmp_path / "a.tbl")
    assert frame["tag"].tolist() == [1, 2, 3, 4]
    assert {*frame["tomo"]} == {7}
    assert np.allclose(frame[["x", "y", "z"]], where / 10)
    export_picks(picks, tmp_path / "a.csv", "csv", run_name="other")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].startswith("run_name,x,y,z,transform_00,")
    assert lines[0].endswith("transform_33,score,instance_id")
    assert {line.split(",")[0] for line in lines[1:]} == {"other"}


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(angles=st.tuples(st.floats(-180, 180), st.sampled_from([0, 1e-9, 30, 90, 180]), st.floats(-180, 180)))
def test_zxz_angles(angles: tuple[float, float, float]) -> None:
    def turn(axis: int, degrees: float) -> Any:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array(
            [[1, 0, 0], [0, c, -s], [0, s, c]] if axis == 0 else [[c, -s, 0], [s, c, 0], [0, 0, 1]]
        )

    def made(a: float, b: float, c: float) -> Any:
        return turn(2, a) @ turn(0, b) @ turn(2, c)

    (found,) = zxz_angles(made(*angles)[None])
    assert np.allclose(made(*found), made(*angles), atol=1e-8)
    assert 0 <= found[1] <= 180


def test_zxz_angles_of_what_does_not_turn() -> None:
    assert zxz_angles(np.eye(3)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("kind", ["em", "star", "dynamo", "csv"])
def test_picks_without_points(run: CopickRun, tmp_path: Path, kind: str) -> None:
    none = run.new_picks("ribosome", "none")
    path = tmp_path / f"a.{ENDS[kind]}"
    export_picks(none, path, kind, 10.0)
    if kind in ("csv", "em"):
        assert len(read_poses(path, voxel_spacing=10.0).positions) == 0
    elif kind == "star":
        assert len(starfile.read(path)) == 0
    else:
        assert path.read_text().strip() == ""


def test_shearing_is_left_out(run: CopickRun, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picks = run.new_picks("ribosome", "odd")
    picks.from_numpy([[1, 2, 3]] * 2, np.array([np.diag([2, 2, 2, 1.0]), np.diag([1, 1, -1, 1.0])]))
    export_picks(picks, tmp_path / "a.tbl", "dynamo", 10.0)
    assert "1 of 2 transformations are no rotations; their angles are written as 0" in caplog.text
    assert np.allclose(read_poses(tmp_path / "a.tbl", voxel_spacing=10.0).transforms, np.eye(4))


@pytest.mark.parametrize("kind", ["em", "dynamo"])
@pytest.mark.parametrize("size", [None, 0, -10.0, float("nan")])
def test_positions_in_pixels_need_their_size(
    picks: CopickPicks, tmp_path: Path, kind: str, size: float | None
) -> None:
    with pytest.raises(ValueError, match="voxel_spacing"):
        export_picks(picks, tmp_path / "out" / "a", kind, size)
    assert left(tmp_path / "out") == []


def test_unknown_formats(picks: CopickPicks, tomogram: CopickTomogram, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'xyz': picks are written as em, star, dynamo, csv"):
        export_picks(picks, tmp_path / "a.xyz", "xyz")
    with pytest.raises(ValueError, match="'em': tomograms are written as mrc, tiff, zarr"):
        export_tomogram(tomogram, tmp_path / "a.em", "em")


# RELION


def particles(path: Any) -> dict[str, Any]:
    found: dict[str, Any] = starfile.read(path, always_dict=True)
    return found


def test_star_states_what_is_known(
    root: CopickRoot,
    picks: CopickPicks,
    tomograms_star: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, where = tmp_path / "a.star", picks.full_positions()
    centred = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
    pixels = [f"rlnCoordinate{axis}" for axis in "XYZ"]

    def written(of: CopickPicks = picks, **options: Any) -> dict[str, Any]:
        export_picks(of, path, "star", **options)
        return particles(path)

    table = written()["particles"]
    assert np.allclose(table[centred], where - [35, 30, 25], atol=1e-5)
    assert not {*pixels} & {*table.columns}
    tables = written(tilt_series_pixel_size=2.0)
    assert tables["optics"].to_dict("list") == {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["TS_1"],
        "rlnTomoTiltSeriesPixelSize": [2.0],
    }
    assert np.allclose(tables["particles"][pixels], where / 2, atol=1e-5)
    assert {*tables["particles"]["rlnOpticsGroup"]} == {1}
    assert [*written(tilt_series_pixel_size=2.0, include_optics=False)] == ["particles"]
    tables = written(tomograms_star=tomograms_star, tilt_series_pixel_size=4.0)
    assert tables["optics"]["rlnVoltage"].tolist() == [300.0]
    assert np.allclose(tables["particles"][centred], where - [300, 200, 100], atol=1e-5)
    assert np.allclose(tables["particles"][pixels], where / 4, atol=1e-5)
    assert not {*pixels} & {
        *written(tomograms_star=tomograms_star, coordinates="centered")["particles"].columns
    }
    assert not caplog.messages

    bare = root.runs[2].picks[0]
    with pytest.raises(RelionPixelSizeError, match="of bare neither is known"):
        written(bare)
    with pytest.raises(RelionTomogramCenterError, match="of bare is not known"):
        written(bare, voxel_spacing=10.0, coordinates="centered")
    assert np.allclose(
        written(bare, voxel_spacing=10.0)["particles"][pixels], bare.full_positions() / 10, atol=1e-5
    )
    assert "are written in voxels of 10 Å" in caplog.text
    written(bare, tomograms_star=tomograms_star, voxel_spacing=10.0)
    assert "bare: the tomograms.star states no size of it" in caplog.text


def test_particles_of_many_runs(root: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "all.star"
    both: dict[str, Any] = {"run_names": ["TS_1", "TS_2"]}
    found = export_relion_particles(root, "ribosome:them/1", path, **both)
    assert found == exporting.RelionExport(str(path), "particles", {}, {"TS_1": 4, "TS_2": 4})
    added = add_picks_grouped_from_file(root, path, "ribosome", "back", "1")
    for name, back in added.items():
        original = root.get_run(name).get_picks("ribosome", "them")[0]  # type: ignore[union-attr]
        assert np.allclose(back.full_positions(), original.full_positions(), atol=1e-5)

    sizes = {"TS_1": 2.0, "TS_2": 4.0}
    export_relion_particles(root, "ribosome:them/1", path, tilt_series_pixel_size=sizes, **both)
    tables = particles(path)
    assert tables["optics"]["rlnOpticsGroupName"].tolist() == ["TS_1", "TS_2"]
    assert tables["particles"]["rlnOpticsGroup"].tolist() == [1] * 4 + [2] * 4
    # What is not known of one is left out for all
    export_relion_particles(root, "ribosome:them/1", path, tilt_series_pixel_size={"TS_1": 2.0}, **both)
    assert "pixel size of TS_2 is not known, so positions in pixels are left out" in caplog.text
    assert [*particles(path)] == ["particles"]
    export_relion_particles(root, "ribosome:them/1", path, tilt_series_pixel_size=2.0)
    assert "rlnCenteredCoordinateXAngst" not in particles(path)["particles"]
    assert export_relion_particles(
        root, "ribosome:them/1", path, tomogram_centers={"bare": (1, 2, 3)}
    ).rows == {"TS_1": 4, "TS_2": 4, "bare": 4}
    with pytest.raises(UnknownNameError, match="no run 'nope'"):
        export_relion_particles(root, "ribosome:them/1", path, run_names=["nope"])


def test_no_particles(root: CopickRoot, tmp_path: Path) -> None:
    root.runs[0].new_picks("ribosome", "none")
    for uri in ("ribosome:nobody/1", "ribosome:them/none"):
        with pytest.raises(ValueError, match="No picks found to export"):
            export_relion_particles(root, uri, tmp_path / "a.star")
    found = export_relion_particles(root, "ribosome:nobody/1", tmp_path / "a.star", allow_empty=True)
    assert found.rows == {"TS_1": 0, "TS_2": 0, "bare": 0}
    assert len(starfile.read(tmp_path / "a.star")) == 0


def test_a_list_to_import(root: CopickRoot, tomograms_star: Path, tmp_path: Path) -> None:
    path = tmp_path / "import" / "list.star"
    found = export_relion_particles(
        root, "ribosome:them/1", path, layout="import", run_names=["TS_1"], tomograms_star=tomograms_star
    )
    assert found.files == {"TS_1": str(tmp_path / "import" / "coordinates" / "TS_1.star")}
    table = particles(path)["coordinate_files"]
    assert dict(zip(table["rlnTomoName"], table["rlnTomoImportParticleFile"], strict=True)) == found.files
    assert [*particles(found.files["TS_1"])] == ["particles"]
    with pytest.raises(ValueError, match="layout must be one of 'particles', 'import'"):
        export_relion_particles(root, "ribosome:them/1", path, layout="x")


def test_filaments(root: CopickRoot, tubes: CopickPicks, tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    export_picks(tubes, path, "star")
    table = particles(path)["particles"]
    assert table["rlnHelicalTubeID"].tolist() == [2, 1, 1, 3, 1, 3]
    assert table["rlnAnglePsiFlipRatio"].tolist() == [0.5, 0, 0, 0, 0, 0]
    back = add_picks_from_file(root, "TS_1", path, "tube", "back", "1")
    order = np.argsort(tubes.instance_ids(), kind="stable")
    assert np.allclose(back.numpy()[1][:, :3, :3], tubes.numpy()[1][order, :3, :3], atol=1e-5)
    export_picks(tubes, path, "star", polarity_from_filaments=False)
    assert {*particles(path)["particles"]["rlnAnglePsiFlipRatio"]} == {0.5}
    export_picks(tubes, path, "star", filament_columns="off")
    assert "rlnHelicalTubeID" not in particles(path)["particles"]
    with pytest.raises(ValueError, match="instance_id is less"):
        export_picks(root.runs[0].get_picks("ribosome")[0], path, "star", filament_columns="on")


def test_half_sets_hold_whole_filaments(root: CopickRoot, tmp_path: Path) -> None:
    found = export_relion_particles(
        root, "tube:them/1", tmp_path / "a.star", half_sets="filament", filament_angles="pose"
    )
    assert found.half_sets == {1: 6, 2: 6}
    assert found.filament
    assert found.polarity == {
        "TS_1": FilamentPolarity("tube:them/1", 2, 1),
        "TS_2": FilamentPolarity(None, 0, 3),
    }
    table = particles(tmp_path / "a.star")["particles"]
    assert table.groupby(["rlnTomoName", "rlnHelicalTubeID"])["rlnRandomSubset"].nunique().max() == 1
    assert "rlnTomoSubtomogramRot" not in table


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"filaments_uri": "tube:nobody/1"}, "it names none"),
        ({"filaments_uri": "tube:*/*"}, "it names tube:them/1, tube:them/2"),
        ({"filaments_uri": "tube:them/2"}, r"tube:them/2 lacks the filament\(s\) 2, 3"),
        ({"filaments_uri": "tube:them/1", "polarity_from_filaments": False}, "not used"),
        ({"filament_columns": "off", "half_sets": "filament"}, "filament_columns='off' leaves them out"),
        ({"filament_columns": "x"}, "filament_columns must be one of"),
        ({"filament_angles": "x"}, "filament_angles must be one of"),
        ({"half_sets": "x"}, "half_sets must be one of"),
        ({"coordinates": "x"}, "coordinates must be one of"),
        ({"tilt_series_pixel_size": -1.0}, "tilt_series_pixel_size must be a length"),
    ],
)
def test_options_that_cannot_be(
    run: CopickRun, tubes: CopickPicks, tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    run.new_filaments("tube", "2").from_numpy([np.arange(6.0).reshape(2, 3)], instance_ids=[1])
    with pytest.raises(ValueError, match=match):
        export_picks(tubes, tmp_path / "out" / "a.star", "star", **options)
    assert left(tmp_path / "out") == []


def test_filaments_with_one_number(root: CopickRoot, run: CopickRun, tmp_path: Path) -> None:
    other = run.new_picks("tube", "2")
    other.from_numpy([[1, 2, 3]], instance_ids=[3])
    with pytest.raises(FormatError, match=r"tube:them/1 and tube:them/2 both have a filament 3"):
        export_relion_particles(root, "tube:them/*", tmp_path / "a.star")
    other.from_numpy([[1, 2, 3]], instance_ids=[4])
    export_relion_particles(root, "tube:them/*", tmp_path / "a.star", run_names=["TS_1"])
    assert len(starfile.read(tmp_path / "a.star")) == 7


def test_filaments_beside_others(root: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = export_relion_particles(root, "*:them/1", tmp_path / "a.star", run_names=["TS_1"])
    assert not found.filament
    assert "their filament columns are left out" in caplog.text
    with pytest.raises(ValueError, match="half sets are made of whole filaments"):
        export_relion_particles(root, "*:them/1", tmp_path / "a.star", half_sets="filament")


def test_what_a_tomograms_star_says(tomograms_star: Path) -> None:
    found = read_relion_tomograms(tomograms_star)["TS_1"]
    assert (found.pixel_size, found.center) == (2.0, (300.0, 200.0, 100.0))
    assert found.optics == {"rlnVoltage": 300.0, "rlnAmplitudeContrast": 0.1}


# Many runs in one file


@pytest.mark.parametrize("kind", ["em", "dynamo", "csv", "star"])
def test_combined(root: CopickRoot, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"all.{ENDS[kind]}"
    numbers = {"TS_1": 3, "TS_2": 8, "bare": 9} if kind in ("em", "dynamo") else None
    runs = ["TS_1", "TS_2"]
    assert export_picks_combined(root, path, "ribosome:them/1", kind, 10.0, runs, numbers) == str(path)
    back = add_picks_grouped_from_file(
        root, path, "ribosome", "back", "1", 10.0, {number: name for name, number in (numbers or {}).items()}
    )
    assert [*back] == runs
    for name, picks in back.items():
        original = root.get_run(name).get_picks("ribosome", "them")[0]  # type: ignore[union-attr]
        assert np.allclose(picks.full_positions(), original.full_positions(), atol=1e-4)


def test_combined_needs_numbers(root: CopickRoot, tmp_path: Path) -> None:
    path = tmp_path / "a.em"
    with pytest.raises(ValueError, match="pass run_to_index"):
        export_picks_combined(root, path, "ribosome:them/1", "em", 10.0)
    with pytest.raises(ValueError, match="run 'TS_2' has no number in run_to_index"):
        export_picks_combined(root, path, "ribosome:them/1", "em", 10.0, run_to_index={"TS_1": 1})
    with pytest.raises(ValueError, match="No picks found to export"):
        export_picks_combined(root, path, "ribosome:nobody/1", "csv")
    assert not path.exists()


# Volumes


def test_mrc(root: CopickRoot, tomogram: CopickTomogram, tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    for level, size in ((0, 10.0), (1, 20.0)):
        assert export_tomogram(tomogram, path, "mrc", level) == str(path)
        with mrcfile.open(path) as file:
            assert file.data.dtype == np.float32
            assert np.array_equal(file.data, tomogram.numpy(str(level)))
            assert file.voxel_size.tolist() == (size, size, size)
            stats = [float(file.header[name]) for name in ("dmin", "dmax", "dmean", "rms")]
            data = file.data.astype(np.float64)
            assert np.allclose(stats, [data.min(), data.max(), data.mean(), data.std()])
            assert file.is_volume()
    export_tomogram(tomogram, path, "mrc")
    back = add_tomogram_from_file(root, "new", "back", path)
    assert back.voxel_spacing.voxel_size == 10.0
    assert np.array_equal(back.numpy(), tomogram.numpy())
    with pytest.raises(NotFoundError, match="has no level 3; it has the levels 0 to 2"):
        export_tomogram(tomogram, path, "mrc", 3)


def test_slab_by_slab(run: CopickRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two slices: what is in memory is a slab, and all arrives."""
    values = np.random.default_rng(0).normal(size=(7, 5, 6)).astype(np.float32)
    tomogram = add_tomogram(run.root, run, "thin", values, 10.0, chunks=(2, 3, 3))
    depths: list[int] = []
    slabs = Level.slabs

    def watched(level: Level) -> Any:
        for slab in slabs(level):
            depths.append(len(slab))
            yield slab

    monkeypatch.setattr(Level, "slabs", watched)
    export_tomogram(tomogram, tmp_path / "a.mrc", "mrc")
    export_tomogram(tomogram, tmp_path / "a.tif", "tiff", compression="zlib")
    assert depths == [2, 2, 2, 1] * 2
    with mrcfile.open(tmp_path / "a.mrc") as file:
        assert np.array_equal(file.data, values)
        assert np.isclose(float(file.header.rms), values.std())
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), values)
    export_tomogram(tomogram, tmp_path / "a.zarr", "zarr", copy_all_levels=False)
    assert np.array_equal(zarr.open_array(str(tmp_path / "a.zarr/0"), mode="r")[:], values)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int16, ">f4"])
def test_tiff(run: CopickRun, tmp_path: Path, dtype: Any) -> None:
    tomogram = run.voxel_spacings[0].new_tomogram("typed")
    values = VOLUME[:, :, :3].astype(dtype)  # three columns are no colours
    tomogram.from_numpy(values, dtype=dtype)
    for compression in (None, "none", "zlib"):
        export_tomogram(tomogram, tmp_path / "a.tiff", "tiff", compression=compression)
        with tifffile.TiffFile(tmp_path / "a.tiff") as file:
            assert len(file.pages) == 5
            assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK  # type: ignore[union-attr]
            found = file.asarray()
        assert found.dtype == np.dtype(dtype).newbyteorder("=")
        assert np.array_equal(found, values)


def test_compressions(tomogram: CopickTomogram, run: CopickRun, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ValueError, match="must be one of lzw, zlib, jpeg, none; not 'xx'"):
        export_tomogram(tomogram, tmp_path / "a.tiff", "tiff", compression="xx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install imagecodecs; 'zlib' does not"):
        export_tomogram(tomogram, tmp_path / "a.tiff", "tiff", compression="lzw")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ValueError, match="holds uint8, not float32; use 'zlib'"):
        export_tomogram(tomogram, tmp_path / "a.tiff", "tiff", compression="jpeg")
    mask = run.new_segmentation(10.0, "ribosome", "1")
    mask.from_numpy(VOLUME > 100)
    with pytest.raises(ValueError, match="would change labels"):
        export_segmentation(mask, tmp_path / "a.tiff", "tiff", compression="jpeg")
    assert "a.tiff" not in left(tmp_path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_as_it_is_stored(root: CopickRoot, run: CopickRun, tmp_path: Path, zarr_format: int) -> None:
    tomogram = run.voxel_spacings[0].new_tomogram("stored")
    tomogram.from_numpy(VOLUME, zarr_format=zarr_format)
    export_tomogram(tomogram, tmp_path / "a.zarr", "zarr")
    source = tmp_path / "project" / "ExperimentRuns/TS_1/VoxelSpacing10.000/stored.zarr"
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert (tmp_path / "a.zarr" / path).read_bytes() == (source / path).read_bytes()
    assert np.array_equal(add_tomogram_from_file(root, "new", "back", tmp_path / "a.zarr").numpy(), VOLUME)
    with pytest.raises(AlreadyExistsError, match=r"a\.zarr' exists already"):
        export_tomogram(tomogram, tmp_path / "a.zarr", "zarr")
    with pytest.raises(AlreadyExistsError, match="exists already"):
        export_tomogram(tomogram, source, "zarr")  # itself
    assert [name for name in left(tmp_path) if name.startswith(".")] == []


def test_one_level_of_zarr(root: CopickRoot, tomogram: CopickTomogram, tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()  # an empty folder is no loss
    export_tomogram(tomogram, tmp_path / "a.zarr", "zarr", level=1, copy_all_levels=False)
    back = add_tomogram_from_file(root, "new", "back", tmp_path / "a.zarr")
    assert back.voxel_spacing.voxel_size == 20.0
    assert np.array_equal(back.numpy(), tomogram.numpy("1"))


def test_levels_that_are_not_halves(run: CopickRun, tmp_path: Path) -> None:
    levels = {10.0: VOLUME, 30.0: VOLUME[::3, ::3, ::3]}
    tomogram = add_tomogram(run.root, run, "thirds", levels)
    export_tomogram(tomogram, tmp_path / "a.mrc", "mrc", 1)
    with mrcfile.open(tmp_path / "a.mrc") as file:
        assert file.voxel_size.tolist() == (30.0, 30.0, 30.0)


def test_what_is_no_volume(run: CopickRun, tmp_path: Path) -> None:
    tomogram = run.voxel_spacings[0].new_tomogram("odd")
    zarr.open_group(tomogram.zarr(), mode="a").create_array("0", shape=(1, 2, 3, 4), dtype="f4")
    with pytest.raises(FormatError, match=r"array of shape \(1, 2, 3, 4\) is no volume"):
        export_tomogram(tomogram, tmp_path / "a.mrc", "mrc")


# Segmentations


def labels(run: CopickRun, most: int, session: str = "1") -> CopickSegmentation:
    values = np.zeros((4, 5, 6), np.int64)
    values[1, 2, 3], values[2, 0, 0] = most, 1
    mask = run.new_segmentation(10.0, "ribosome", session, is_instance=True)
    mask.from_numpy(values)
    return mask


@pytest.mark.parametrize(
    ("most", "in_mrc", "in_em"),
    [
        (1, "int16", "float32"),
        (2**15 - 1, "int16", "float32"),
        (2**15, "uint16", "float32"),
        (2**16 - 1, "uint16", "float32"),
        (2**16, "float32", "float32"),
        (2**24, "float32", "float32"),
        (2**24 + 1, None, "int32"),
        (2**31, None, None),
    ],
)
def test_labels_keep_their_values(
    run: CopickRun, tmp_path: Path, most: int, in_mrc: str | None, in_em: str | None
) -> None:
    mask = labels(run, most)
    for kind, dtype in (("mrc", in_mrc), ("em", in_em), ("tiff", str(mask.numpy().dtype)), ("zarr", "")):
        path = tmp_path / f"a.{kind}"
        if dtype is None:
            with pytest.raises(ValueError, match=f"0 to {most} cannot be written to {kind.upper()} files"):
                export_segmentation(mask, path, kind)
            assert not path.exists()
            continue
        export_segmentation(mask, path, kind)
        assert np.array_equal(read_volume(path, kind, 10.0)[0], mask.numpy())
        if kind == "mrc":
            with mrcfile.open(path) as file:
                assert file.data.dtype == dtype
                assert file.voxel_size.x == 10.0
        elif kind == "em":
            assert emfile.read(path)[1].dtype == dtype
    if in_em is not None:
        with pytest.raises(AlreadyExistsError, match="exists already; remove it"):
            export_segmentation(mask, tmp_path / "a.em", "em")


@pytest.mark.parametrize("kind", ["mrc", "tiff", "em", "zarr"])
def test_segmentations_come_back(root: CopickRoot, run: CopickRun, tmp_path: Path, kind: str) -> None:
    mask, path = labels(run, 2**16), tmp_path / f"a.{kind}"
    export_segmentation(mask, path, kind)
    back = add_segmentation_from_file(root, "TS_2", path, 10.0, "ribosome", kind, "1", instance=True)
    assert np.array_equal(back.numpy(), mask.numpy())


def test_labels_that_are_fractions(run: CopickRun, tmp_path: Path) -> None:
    mask = labels(run, 3)
    array = zarr.open_group(mask.zarr(), mode="a").create_array(
        "0", shape=(2, 3, 4), dtype="f4", overwrite=True
    )
    array[:] = 2.0
    mask.refresh()
    export_segmentation(mask, tmp_path / "a.mrc", "mrc")
    with mrcfile.open(tmp_path / "a.mrc") as file:
        assert file.data.dtype == np.int16
    array[0, 0, 0] = 0.5
    mask.refresh()
    with pytest.raises(FormatError, match="labels are whole numbers"):
        export_segmentation(mask, tmp_path / "b.mrc", "mrc")


def test_channels(root: CopickRoot, run: CopickRun, tmp_path: Path) -> None:
    values = np.zeros((2, 4, 5, 6), np.int64)
    values[0, :2], values[1, :2] = 1, 7
    mask = run.new_segmentation(10.0, "all", "1", is_panoptic=True)
    mask.from_numpy(values)
    for at, channel in enumerate(("label", "instance")):
        for kind in ("mrc", "tiff", "em"):
            path = tmp_path / f"{channel}.{kind}"
            export_segmentation(mask, path, kind, channel=channel)
            assert np.array_equal(read_volume(path, kind, 10.0)[0], values[at])
    for name, options in (("all", {}), ("one", {"copy_all_levels": False})):
        export_segmentation(mask, tmp_path / f"{name}.zarr", "zarr", **options)
        back = add_segmentation_from_file(
            root, "TS_2", tmp_path / f"{name}.zarr", None, "all", name, "1", panoptic=True
        )
        assert np.array_equal(back.numpy(), values)
    for kind, channel, match in (
        ("mrc", None, "mrc files hold one channel; pass channel='label' or 'instance'"),
        ("mrc", "nope", "no panoptic channel 'nope'"),
        ("zarr", "label", "holds both channels"),
    ):
        with pytest.raises(ValueError, match=match):
            export_segmentation(mask, tmp_path / "x", kind, channel=channel)
    with pytest.raises(ValueError, match="only panoptic ones have channels"):
        export_segmentation(labels(run, 1), tmp_path / "x", "mrc", channel="label")


def test_nothing_was_written_to_it(run: CopickRun, tmp_path: Path) -> None:
    empty = run.voxel_spacings[0].new_tomogram("empty")
    for kind in ("mrc", "tiff"):
        with pytest.raises(NotFoundError, match="has no level 0; it is empty"):
            export_tomogram(empty, tmp_path / "a", kind)
    with pytest.raises(NotFoundError, match="is empty"):
        export_tomogram(empty, tmp_path / "a.zarr", "zarr")
    assert left(tmp_path) == ["project"]


# Whole, or not at all


@pytest.mark.parametrize("kind", ["mrc", "tiff", "zarr"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_export_leaves_what_was(
    tomogram: CopickTomogram,
    tmp_path: Path,
    kind: str,
    failure: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "out" / "a"
    path.parent.mkdir()
    if kind != "zarr":
        path.write_text("old")

    def fail(*_: Any) -> Any:
        raise failure

    def fails_at_last(level: Level) -> Any:
        yield VOLUME[:2]
        raise failure

    monkeypatch.setattr("copick.layers.transfer.copy_array", fail)
    monkeypatch.setattr(Level, "slabs", fails_at_last)
    with pytest.raises(LayerError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        export_tomogram(tomogram, path, kind)
    if isinstance(failure, OSError):
        assert "cannot be written: No space left on device" in str(caught.value)
    assert left(path.parent) == ([] if kind == "zarr" else ["a"])
    assert kind == "zarr" or path.read_text() == "old"


def test_an_interrupt_reaches_threads(tomogram: CopickTomogram, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    for kind, options in (("mrc", {}), ("tiff", {}), ("zarr", {}), ("zarr", {"copy_all_levels": False})):
        with pytest.raises(KeyboardInterrupt):
            stopping.until(
                stop, lambda k, o: export_tomogram(tomogram, tmp_path / "a", k, **o), kind, options
            )
    assert left(tmp_path) == ["project"]


def test_a_source_that_fails_is_not_taken_for_the_target(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match=r"^the bucket is gone$"), new_file(tmp_path / "a"):
        raise LayerError("the bucket is gone")
    with pytest.raises(LayerError, match=r"^the bucket is gone$"), new_folder(tmp_path / "a"):
        raise LayerError("the bucket is gone")
    assert left(tmp_path) == []


def test_where_nothing_can_be(picks: CopickPicks, tomogram: CopickTomogram, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(LayerError, match="file' cannot be made"):
        export_picks(picks, tmp_path / "file" / "a.csv", "csv")
    with pytest.raises(LayerError, match="it is a directory"):
        export_picks(picks, tmp_path / "folder", "csv")
    with pytest.raises(LayerError, match="file' cannot be made"):
        export_tomogram(tomogram, tmp_path / "file" / "a.zarr", "zarr")
    assert left(tmp_path / "folder") == []


def test_a_library_that_is_not_there(
    picks: CopickPicks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for kind, name in (("star", "starfile"), ("em", "emfile"), ("dynamo", "dynamotable")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"needs {name}: pip install 'copick\[formats\]'"):
            export_picks(picks, tmp_path / "a", kind, 10.0)
    assert left(tmp_path) == ["project"]


# Many things


def tree(folder: Path) -> list[str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.suffix == ".zarr")
    return [name for path in files if ".zarr/" not in (name := str(path.relative_to(folder)))]


def test_export_run(run: CopickRun, tmp_path: Path) -> None:
    labels(run, 5)
    mask = run.new_segmentation(10.0, "all", "1", is_panoptic=True)
    mask.from_numpy(np.ones((2, 3, 3, 3), np.uint8))
    uris = {"tomogram_uri": "wbp@10.0", "segmentation_uri": "*:*/*@*?panoptic=true", "picks_uri": "*:*/*"}
    volumes = {name: uri for name, uri in uris.items() if name != "picks_uri"}
    found = export_run(run, tmp_path / "out", **volumes, output_format="mrc")
    assert found == {"picks": 0, "segmentations": 1, "tomograms": 1, "errors": []}
    assert tree(tmp_path / "out") == [
        "TS_1/PanopticSegmentations/all_them_1_instance.mrc",
        "TS_1/PanopticSegmentations/all_them_1_label.mrc",
        "TS_1/VoxelSpacing10.000/wbp.mrc",
    ]
    found = export_run(run, tmp_path / "picks", picks_uri="*:*/*", output_format="csv")
    assert found["picks"] == 2
    assert tree(tmp_path / "picks") == ["TS_1_ribosome_them_1.csv", "TS_1_tube_them_1.csv"]
    found = export_run(
        run, tmp_path / "em", segmentation_uri="*:*/*@10?instance=true", output_format="em", channel="label"
    )
    assert tree(tmp_path / "em") == ["TS_1/InstanceSegmentations/ribosome_them_1.em"]
    assert export_run(run, tmp_path / "none") == {
        "picks": 0,
        "segmentations": 0,
        "tomograms": 0,
        "errors": [],
    }
    with pytest.raises(ValueError, match="output_format None"):
        export_run(run, tmp_path / "none", tomogram_uri="*")
    with pytest.raises(ValueError, match="is no picks URI"):
        export_run(run, tmp_path / "none", picks_uri="a:b:c", output_format="csv")


def test_export_goes_on_and_says_what_failed(root: CopickRoot, run: CopickRun, tmp_path: Path) -> None:
    """`root` as the project; the config's path does as well."""
    labels(run, 5, "a")
    labels(run, 2**31, "b")
    labels(run, 5, "c")
    uri = "ribosome:*/*?instance=true"
    (error,) = export(root, tmp_path / "out", segmentation_uri=uri, output_format="mrc")
    assert error.startswith("Error exporting segmentations: ribosome:them/b@10.0?instance=true of run TS_1: ")
    assert len(tree(tmp_path / "out")) == 2
    errors = export(root, tmp_path / "star", picks_uri="ribosome:them/1", output_format="star")
    assert len(errors) == 1
    assert tree(tmp_path / "star") == ["TS_1_ribosome_them_1.star", "TS_2_ribosome_them_1.star"]
    numbers = {"TS_1": 0, "TS_2": 5}
    arguments: dict[str, Any] = {
        "picks_uri": "ribosome:them/1",
        "output_format": "dynamo",
        "voxel_spacing": 10.0,
    }
    (error,) = export(root, tmp_path / "tbl", **arguments, run_to_index=numbers)
    assert "run 'bare' has no number in run_to_index" in error
    for name, number in numbers.items():
        path = tmp_path / f"tbl/{name}_ribosome_them_1.tbl"
        assert read_poses(path, voxel_spacing=10.0).tomograms == (number,) * 4
    with pytest.raises(UnknownNameError, match="no run 'nope'"):
        export(root, tmp_path / "x", ["nope"], picks_uri="*", output_format="csv")
    with pytest.raises(ValueError, match="pass voxel_spacing"):
        export(root, tmp_path / "x", picks_uri="*", output_format="em")
    assert not (tmp_path / "x").exists()


def test_two_things_with_one_place(run: CopickRun, tmp_path: Path) -> None:
    """Names of files say neither voxel size nor type: one would replace the other."""
    for size in (10.0, 20.0):
        run.new_segmentation(size, "membrane", "1").from_numpy(VOLUME > 100)
    found = export_run(run, tmp_path / "out", segmentation_uri="membrane", output_format="mrc")
    assert found["segmentations"] == 0
    assert len(found["errors"]) == 2
    assert "2 segmentations would be TS_1/Segmentations/membrane_them_1.mrc" in found["errors"][0]
    assert tree(tmp_path / "out") == []
    found = export_run(run, tmp_path / "out", segmentation_uri="membrane@20", output_format="mrc")
    assert found["segmentations"] == 1


def test_names_that_leave_the_folder(
    root: CopickRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = root.runs[0]
    monkeypatch.setattr(type(run), "name", property(lambda self: "../evil"))
    monkeypatch.setattr("copick.ops.exports.resolve_copick_objects", lambda *_: run.get_picks("ribosome"))
    found = export_run(run, tmp_path / "out", picks_uri="*", output_format="csv")
    assert "it holds a path separator" in found["errors"][0]
    assert left(tmp_path) == ["out", "project"]
