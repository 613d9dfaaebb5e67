"""`copick export` and `copick deposit`, as a user types them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mrcfile
import numpy as np
import pytest
import starfile
from click.testing import CliRunner

import copick
from copick.cli.cli import cli
from copick.ops.poses import read_poses
from projects import OBJECTS, VOLUME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a project of two runs, which no test changes."""
    path = tmp_path_factory.mktemp("project") / "config.json"
    root = copick.new_config(path, path.with_name("data"), pickable_objects=OBJECTS)  # type: ignore[arg-type]
    for name in ("TS_1", "TS_2"):
        run = root.new_run(name)
        run.new_picks("ribosome", "1", "me").from_numpy([[10, 20, 30], [40, 50, 60]])
        run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(VOLUME)
        run.new_segmentation(10.0, "membrane", "1", user_id="me").from_numpy(VOLUME > 100)
    return path


@pytest.fixture
def folder(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory; the environment names the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COPICK_CONFIG", str(config))
    (tmp_path / "map.csv").write_text("3,TS_1\n5,TS_2\n")
    return tmp_path


@pytest.fixture
def invoke(folder: Path) -> Callable[..., Result]:
    def invoke(*words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, [*words])
        assert result.exit_code == code, result.output
        if result.exception is not None:
            assert isinstance(result.exception, SystemExit)
        return result

    return invoke


PICKS = ("export", "picks", "--picks-uri", "ribosome:me/1", "--output-format")


def test_picks_for_each_run(invoke: Callable[..., Result], folder: Path) -> None:
    done = invoke(*PICKS, "dynamo", "--output-dir", "out", "--voxel-size", "10", "--index-map", "map.csv")
    assert "Wrote 2 picks." in done.output
    poses = read_poses(folder / "out" / "TS_2_ribosome_me_1.tbl", voxel_spacing=10.0)
    assert poses.tomograms == (5, 5)
    invoke(*PICKS, "csv", "--output-dir", "one", "-r", "TS_1")
    assert [path.name for path in (folder / "one").iterdir()] == ["TS_1_ribosome_me_1.csv"]


def test_picks_in_one_file(invoke: Callable[..., Result], folder: Path) -> None:
    done = invoke(
        *PICKS, "star", "--output-file", "a.star", "--tilt-series-pixel-size", "2", "--half-sets", "none"
    )
    assert "Wrote a.star." in done.output
    assert len(starfile.read(folder / "a.star")["particles"]) == 4
    invoke(*PICKS, "star", "--output-file", "import/a.star", "--star-layout", "import")
    assert sorted(path.name for path in (folder / "import/coordinates").iterdir()) == [
        "TS_1.star",
        "TS_2.star",
    ]
    invoke(*PICKS, "em", "--output-file", "a.em", "--voxel-size", "10", "--index-map", "map.csv")
    assert read_poses(folder / "a.em", voxel_spacing=10.0).tomograms == (3, 3, 5, 5)
    assert (
        "exists already"
        in invoke(
            *PICKS, "em", "--output-file", "a.em", "--voxel-size", "10", "--index-map", "map.csv", code=1
        ).output
    )


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["csv"], "by --output-dir or by --output-file", 2),
        (["csv", "--output-dir", "a", "--output-file", "b"], "by --output-dir or by --output-file", 2),
        (["em", "--output-dir", "a"], "needs --voxel-size", 2),
        (["em", "--output-file", "a", "--voxel-size", "10"], "needs --index-map", 2),
        (["star", "--output-dir", "a", "--star-layout", "import"], "--star-layout import needs", 2),
        (["xyz", "--output-dir", "a"], "'xyz' is not one of", 2),
        (["csv", "--output-dir", "a", "-r", "nope"], "no run 'nope'", 1),
        (["star", "--output-dir", "a", "--half-sets", "filament"], "2 of them could not be done", 1),
        (
            ["star", "--output-dir", "a", "--filament-columns", "off", "--half-sets", "filament"],
            "--half-sets='filament' needs",
            1,
        ),
    ],
)
def test_picks_that_cannot_be(invoke: Callable[..., Result], words: list[str], said: str, code: int) -> None:
    assert said in invoke(*PICKS, *words, code=code).output


def test_a_map_with_a_run_twice(invoke: Callable[..., Result], folder: Path) -> None:
    (folder / "map.csv").write_text("3,TS_1\n5,TS_1\n")
    words = ("em", "--output-file", "a.em", "--voxel-size", "10", "--index-map", "map.csv")
    assert "a run stands twice" in invoke(*PICKS, *words, code=1).output
    (folder / "map.csv").write_text("3,TS_1\n")
    assert "'TS_2' has no number in --index-map" in invoke(*PICKS, *words, code=1).output


def test_tomograms(invoke: Callable[..., Result], folder: Path) -> None:
    words = ("export", "tomogram", "--tomogram-uri", "wbp@10.0", "--output-dir", "out", "--output-format")
    assert "Wrote 2 tomograms." in invoke(*words, "mrc", "--level", "1").output
    with mrcfile.open(folder / "out/TS_1/VoxelSpacing10.000/wbp.mrc") as file:
        assert file.data.shape == (3, 3, 4)
    invoke(*words, "zarr", "--level-only")
    assert not (folder / "out/TS_1/VoxelSpacing10.000/wbp.zarr/1").exists()
    assert "2 of them could not be done" in invoke(*words, "zarr", code=1).output
    failed = invoke(*words, "mrc", "--level", "7", code=1).output
    assert "has no level 7" in failed
    assert "Wrote 0 tomograms." in failed


def test_segmentations(invoke: Callable[..., Result], folder: Path) -> None:
    words = ("export", "segmentation", "--output-dir", "out", "--output-format", "mrc", "--segmentation-uri")
    assert "Wrote 1 segmentations." in invoke(*words, "membrane:me/*@10", "-r", "TS_2").output
    with mrcfile.open(folder / "out/TS_2/Segmentations/membrane_me_1.mrc") as file:
        assert np.array_equal(file.data, VOLUME > 100)
    assert "has no such segmentations" in invoke(*words, "nope:*/*", code=1).output


def test_deposit(invoke: Callable[..., Result], folder: Path) -> None:
    words = ("deposit", "--target-dir", "links")
    done = invoke(*words, "--picks", "ribosome", "--picks", "*:me/*", "--tomograms", "wbp", "-r", "TS_1,TS_2")
    assert "Linked 4 items." in done.output
    assert (folder / "links/ExperimentRuns/TS_1/Picks/me_1_ribosome.json").is_symlink()
    assert (
        "finds no name in 'TS_1'" in invoke(*words, "--picks", "*", "--run-name-regex", "(x)", code=1).output
    )
    assert "has nothing of what" in invoke(*words, "--picks", "nope", code=1).output
    link = folder / "links/ExperimentRuns/TS_1/Picks/me_1_ribosome.json"
    link.unlink()
    link.write_text("mine")
    assert "is something else already" in invoke(*words, "--picks", "*", code=1).output
