"""copick's own commands, as a user types them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import emfile
import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from click.testing import CliRunner

import copick
from copick.cli.cli import cli, main
from projects import OBJECTS, VOLUME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from copick.models import CopickRoot, CopickRun

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory; the environment names a project in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COPICK_CONFIG", "config.json")
    copick.new_config("config.json", tmp_path / "project", pickable_objects=OBJECTS)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Callable[..., Result]:
    def invoke(*words: object, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert result.exit_code == code, result.output
        if result.exception is not None:
            assert isinstance(result.exception, SystemExit)
        return result

    return invoke


def opened() -> CopickRoot:
    return copick.from_file("config.json")


def run_of(name: str = "A") -> CopickRun:
    found = opened().get_run(name)
    assert found is not None
    return found


def write_mrc(path: Path, data: Any = VOLUME, voxel_size: float | None = 10.0) -> Path:
    with mrcfile.new(path, data) as file:
        if voxel_size is not None:
            file.voxel_size = voxel_size
    return path


# What commands share


@pytest.mark.parametrize("words", [("stats", "picks"), ("new", "run", "A"), ("rm", "picks", "a:b/c")])
def test_a_project_must_be_named(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COPICK_CONFIG", raising=False)
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert "name the project: --config FILE, or COPICK_CONFIG in the environment" in result.output


def test_a_bad_config_is_one_line(run: Any, folder: Path) -> None:
    (folder / "bad.json").write_text("{")
    result = run("stats", "picks", "-c", "bad.json", code=1)
    assert "bad.json: not valid JSON" in result.output
    assert "Traceback" not in result.output
    assert "does not exist" in run("stats", "picks", "-c", "none.json", code=2).output


def test_groups_without_a_command_show_their_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["add"])
    assert end.value.code == 2
    assert "Usage: copick add [OPTIONS] COMMAND" in capsys.readouterr().err


def test_failures_have_a_traceback_with_debug(
    run: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("new", "voxelspacing", "-1", "--run", "A", code=2)
    run("new", "voxelspacing", "--run", "A", "--debug", "--", "-1", code=1)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "voxel_size -1" in str(record.exc_info and record.exc_info[1])


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_help(name: str, run: Any) -> None:
    command = cli.commands[name]
    words = [(name,), *((name, each) for each in getattr(command, "commands", {}))]
    for each in words:
        assert run(*each, "--help").output.startswith("Usage: ")


# config


def test_config_filesystem(run: Any, folder: Path) -> None:
    objects = ["--objects", "membrane,False", "--objects", "apoferritin, true ,60,4V1W"]
    run("config", "filesystem", "--overlay-root", folder / "data", "--config", "new/c.json", *objects)
    root = copick.from_file("new/c.json")
    found = [(o.name, o.is_particle, o.label, o.radius, o.pdb_id) for o in root.pickable_objects]
    assert found == [("membrane", False, 1, None, None), ("apoferritin", True, 2, 60.0, "4V1W")]
    assert root.config.name == "project"
    root.new_run("A")
    assert (folder / "data/ExperimentRuns/A").is_dir()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("membrane", "expected NAME,True or NAME,False"),
        ("membrane,maybe", "expected NAME,True or NAME,False"),
        ("membrane,True,big", "'big' is no radius"),
        ("a_b,True", "try 'a-b'"),
    ],
)
def test_config_of_bad_objects(run: Any, folder: Path, text: str, problem: str) -> None:
    words = ("config", "filesystem", "--overlay-root", "data", "--config", "new.json", "--objects", text)
    result = CliRunner().invoke(cli, words)
    assert result.exit_code in (1, 2)
    assert problem in result.output
    assert not (folder / "new.json").exists()


def test_a_config_is_not_replaced_by_accident(run: Any, folder: Path) -> None:
    before = (folder / "config.json").read_text()
    words = "config", "filesystem", "--overlay-root", "data"
    assert "config.json is there already; --overwrite replaces it" in run(*words, code=1).output
    portal = "config", "dataportal", "-ds", "1", "--overlay", "data"
    assert "config.json is there already; --overwrite replaces it" in run(*portal, code=1).output
    assert (folder / "config.json").read_text() == before
    run(*words, "--overwrite")
    assert opened().pickable_objects == []


# new


def test_new(run: Any) -> None:
    run("new", "run", "A")
    assert "exists already" in run("new", "run", "A", code=1).output
    run("new", "run", "A", "--overwrite")
    assert "no run 'B'" in run("new", "run", "B", "--no-create", code=1).output
    run("new", "voxelspacing", "10", "--run", "A")
    assert "exists already" in run("new", "voxelspacing", "10", "--run", "A", code=1).output
    assert "no run 'B'" in run("new", "voxelspacing", "10", "--run", "B", "--no-create", code=1).output
    run("new", "voxelspacing", "20.5", "--run", "B")
    root = opened()
    assert [(each.name, [v.voxel_size for v in each.voxel_spacings]) for each in root.runs] == [
        ("A", [10.0]),
        ("B", [20.5]),
    ]
    assert "Created picks in 2 runs." in run("new", "picks", "--particle-name", "ribosome").output
    (picks,) = run_of().picks
    assert (picks.user_id, picks.session_id) == ("copick", "0")
    picks.from_numpy([[1, 2, 3]])
    assert "0 runs; 2 have them already" in run("new", "picks", "--particle-name", "ribosome").output
    assert len(run_of().picks[0].points) == 1
    run("new", "picks", "--particle-name", "ribosome", "--overwrite")
    assert run_of().picks[0].points == []
    assert "no object 'x'" in run("new", "picks", "--particle-name", "x", code=1).output


# add


def test_add_tomogram(run: Any, folder: Path) -> None:
    write_mrc(folder / "TS_1_rec.mrc")
    words = ["--run-regex", r"(TS_\d+)", "--run-name-prefix", "P-", "--pyramid-levels", "2"]
    output = run(
        "add", "tomogram", "TS_1_rec.mrc", *words, "--chunk-size", "4,4,4", "--transpose", "2,1,0"
    ).output
    assert "Added tomograms to 1 of 1 runs." in output
    tomogram = run_of("P-TS_1").voxel_spacings[0].tomograms[0]
    assert (tomogram.tomo_type, tomogram.array("0").chunks) == ("wbp", (4, 4, 4))
    assert np.array_equal(tomogram.numpy(), VOLUME.transpose(2, 1, 0))
    assert tomogram.numpy("1").shape == (4, 3, 3)


def test_add_many_tomograms(run: Any, folder: Path) -> None:
    for name in ("a", "b"):
        write_mrc(folder / f"{name}.mrc")
    write_mrc(folder / "c.mrc", voxel_size=None)
    output = run("add", "tomogram", "*.mrc", "--tomo-type", "raw", "--run", "ignored", code=1).output
    assert "Added tomograms to 2 of 3 runs." in output
    assert "\nc.mrc: the file states no voxel size; pass" in f"\n{output}"
    assert [each.name for each in opened().runs if each.voxel_spacings] == ["a", "b"]
    output = run("add", "tomogram", "a.mrc", "--tomo-type", "raw", code=1).output
    assert "tomogram 'a/10.000/raw' exists already" in output
    run("add", "tomogram", "a.mrc", "--tomo-type", "raw", "--overwrite")
    run("add", "tomogram", "a.mrc", "--voxel-size", "5", "--run", "x", "--no-create-pyramid")
    assert [v.voxel_size for v in run_of("x").voxel_spacings] == [5.0]


def test_add_tomogram_that_cannot_be(run: Any, folder: Path) -> None:
    assert "there is no file 'none.mrc'" in run("add", "tomogram", "none.mrc", code=1).output
    assert "no file is called as '*.tif' says" in run("add", "tomogram", "*.tif", code=1).output
    write_mrc(folder / "a.mrc")
    assert "no run 'a'" in run("add", "tomogram", "a.mrc", "--no-create", code=1).output
    assert "expected three numbers" in run("add", "tomogram", "a.mrc", "--chunk-size", "x", code=2).output
    assert "expected three numbers" in run("add", "tomogram", "a.mrc", "--chunk-size", "8,8", code=2).output
    assert "expected three numbers" in run("add", "tomogram", "a.mrc", "--chunk-size", "8,8,0", code=1).output
    for size in ("0", "nan"):
        output = run("add", "tomogram", "a.mrc", "--voxel-size", size, code=1).output
        assert f"voxel-size {float(size)}: expected a length in ångström, more than 0" in output
    output = run("add", "tomogram", "?.mrc", "--run-regex", r"TS_(\d+)", code=1).output
    assert r"--run-regex 'TS_(\\d+)' finds no run in the name of any file, such as 'a.mrc'" in output
    (folder / "b.mrc").write_bytes(b"nothing" * 300)
    assert "b.mrc cannot be read as an MRC file" in run("add", "tomogram", "b.mrc", code=1).output
    assert opened().runs == []


def test_add_listed_tomograms(run: Any, folder: Path) -> None:
    for name in ("a", "b"):
        write_mrc(folder / f"{name}.mrc")
    (folder / "list.doc").write_text(f"1\t{folder}/a.mrc\n2 {folder}/b.mrc\n")
    run("add", "tomograms-dynamo", "--tomolist", "list.doc")
    (folder / "map.csv").write_text("index,run\n1,TS_1\n2,TS_2\n")
    run("add", "tomograms-dynamo", "--tomolist", "list.doc", "--index-map", "map.csv")
    (folder / "relion/h").mkdir(parents=True)
    write_mrc(folder / "relion/h/1.mrc", voxel_size=None)
    table = {
        "rlnTomoName": ["R_1"],
        "rlnTomoTiltSeriesPixelSize": [2.5],
        "rlnTomoTomogramBinning": [4],
        "rlnTomoReconstructedTomogramHalf1": ["h/1.mrc"],
    }
    starfile.write({"global": pd.DataFrame(table)}, folder / "t.star")
    run(
        "add", "tomograms-relion", "--tomograms-star", "t.star", "--base-dir", "relion", "--tomo-type", "half"
    )
    found = [
        (each.name, v.voxel_size, t.tomo_type)
        for each in opened().runs
        for v in each.voxel_spacings
        for t in v.tomograms
    ]
    assert found == [
        (name, 10.0, "half" if name == "R_1" else "wbp") for name in ("R_1", "TS_1", "TS_2", "a", "b")
    ]
    other = run(
        "add", "tomograms-relion", "--tomograms-star", "t.star", "--base-dir", ".", "--half", "half2", code=1
    )
    assert "no table in it has rlnTomoName, rlnTomoReconstructedTomogramHalf2" in other.output


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no line of a number and a file"),
        ("1 a.mrc\n1 b.mrc\n", "line 2: tomogram 1 stands twice"),
        ("1 a.mrc\nx b.mrc\n", "line 2: expected a number and a file; found 'x b.mrc'"),
        ("1 x/a.mrc\n2 y/a.mrc\n", "have the same name"),
    ],
)
def test_bad_lists(run: Any, folder: Path, text: str, problem: str) -> None:
    (folder / "list.doc").write_text(text)
    assert problem in run("add", "tomograms-dynamo", "--tomolist", "list.doc", code=1).output


def test_add_segmentation(run: Any, folder: Path) -> None:
    write_mrc(folder / "A.mrc", (VOLUME % 3).astype(np.int16))
    run("add", "segmentation", "A.mrc", "--name", "any")
    run(
        "add",
        "segmentation",
        "A.mrc",
        "--name",
        "ribosome",
        "--segmentation-type",
        "instance",
        "--user-id",
        "me",
    )
    found = [(m.name, m.user_id, m.session_id, m.segmentation_type) for m in run_of().segmentations]
    assert found == [("any", "copick", "1", "multilabel"), ("ribosome", "me", "1", "instance")]
    output = run(
        "add", "segmentation", "A.mrc", "--name", "any", "--segmentation-type", "binary", code=1
    ).output
    assert "no object 'any'" in output


def test_add_picks(run: Any, folder: Path) -> None:
    key = ("--object-name", "ribosome")
    (folder / "p.csv").write_text("run_name,x,y,z\nA,1,2,3\nB,4,5,6\n")
    assert "Added picks to 2 runs." in run("add", "picks", "p.csv", *key).output
    run("add", "picks", "p.csv", *key, "--run", "B", "--session-id", "2")
    assert [(p.session_id, len(p.points)) for p in run_of("B").picks] == [("1", 1), ("2", 1)]
    (folder / "C.csv").write_text("x,y,z\n1,2,3\n")
    run("add", "picks", "C.csv", *key)
    assert run_of("C").picks[0].numpy()[0].tolist() == [[1, 2, 3]]
    assert "exists already" in run("add", "picks", "C.csv", *key, code=1).output
    (folder / "bad.csv").write_text("a,b\n1,2\n")
    assert "has no column x" in run("add", "picks", "bad.csv", *key, code=1).output
    (folder / "D.csv").write_text("x,y,z\n1,2,3\n")
    assert "no object 'x'" in run("add", "picks", "D.csv", "--object-name", "x", code=1).output
    assert [each.name for each in opened().runs] == ["A", "B", "C"]


def test_add_picks_of_many_tomograms(run: Any, folder: Path) -> None:
    (folder / "map.csv").write_text("1,A\n2,B\n")
    row = np.zeros((1, 2, 20), np.float32)
    row[0, :, 4] = row[0, :, 7] = [1, 2]
    emfile.write(str(folder / "p.em"), row)
    table = np.zeros((2, 40))
    table[:, 0] = table[:, 19] = table[:, 23] = [1, 2]
    np.savetxt(folder / "p.tbl", table)
    columns = {f"rlnCoordinate{axis}": [1.0, 2.0] for axis in "XYZ"}
    starfile.write({"particles": pd.DataFrame({"rlnTomoName": ["A", "B"], **columns})}, folder / "p.star")
    key = ("--object-name", "ribosome", "--voxel-size", "10")
    run("add", "picks-em", "p.em", *key, "--index-map", "map.csv", "--user-id", "em")
    run("add", "picks-dynamo", "p.tbl", *key, "--index-map", "map.csv", "--user-id", "dynamo")
    (folder / "list.doc").write_text("1 x/A.mrc\n2 x/B.mrc\n")
    run("add", "picks-dynamo", "p.tbl", *key, "--tomolist", "list.doc", "--user-id", "dynamo", "--overwrite")
    run("add", "picks-relion", "p.star", *key, "--user-id", "relion", "--tilt-series-pixel-size", "5")
    assert "say the runs by" in run("add", "picks-dynamo", "p.tbl", *key, code=2).output
    found = {p.user_id: p.numpy()[0][0, 0] for p in run_of("B").picks}
    assert found == {"dynamo": 20.0, "em": 10.0, "relion": 10.0}
    single = run("add", "picks", "p.em", *key, "--run", "all", "--user-id", "one").output
    assert "Added picks to 1 of 1 runs." in single


def test_add_object(run: Any, folder: Path) -> None:
    volume = write_mrc(folder / "map.mrc", voxel_size=4.0)
    said = ["--color", "1,2,3,4", "--metadata", '{"source": "own"}', "--pdb-id", "4V1W"]
    run("add", "object", "--name", "proteasome", "--volume", volume, *said)
    run("add", "object", "--name", "actin", "--object-type", "filament", "--polar", "--helical-rise", "27.5")
    run("add", "object", "--name", "vesicle", "--object-type", "segmentation", "--label", "9")
    first, second, third = opened().pickable_objects[2:]
    assert (first.color, first.metadata, first.radius, first.label) == (
        (1, 2, 3, 4),
        {"source": "own"},
        50,
        3,
    )
    assert np.array_equal(first.numpy(), VOLUME)
    assert second.filament is not None
    assert (second.filament.polar, second.filament.helical_rise_a) == (True, 27.5)
    assert (third.is_particle, third.label) == (False, 9)
    assert "there is an object 'actin' already" in run("add", "object", "--name", "actin", code=1).output
    run("add", "object", "--name", "proteasome", "--radius", "60", "--exist-ok")
    run("add", "object-volume", "--object-name", "ribosome", "--volume-path", volume)
    ribosome, proteasome = opened().get_object("ribosome"), opened().get_object("proteasome")
    assert ribosome is not None
    assert proteasome is not None
    assert (ribosome.has_density_map(), proteasome.radius) == (True, 60)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--color", "red"), "expected four numbers"),
        (("--metadata", "{"), "is no JSON"),
        (("--metadata", "[]"), "expected a JSON object"),
        (("--polar",), "are for --object-type filament"),
        (("--label", "1"), "label 1 is taken"),
    ],
)
def test_add_bad_object(run: Any, folder: Path, words: tuple[str, ...], problem: str) -> None:
    before = (folder / "config.json").read_text()
    result = CliRunner().invoke(cli, ["add", "object", "--name", "new", *words])
    assert result.exit_code in (1, 2)
    assert problem in result.output
    assert (folder / "config.json").read_text() == before


# rm, mv, cp


@pytest.fixture
def picked(run: Any) -> None:
    root = opened()
    for name in ("A", "B"):
        each = root.new_run(name)
        for session in ("1", "2"):
            each.new_picks("ribosome", session, "bob").from_numpy([[1, 2, 3]])


def names(run_name: str = "A") -> list[str]:
    return [f"{p.user_id}/{p.session_id}" for p in run_of(run_name).picks]


def test_version(run: Any) -> None:
    """The second word, for scripts, as in copick 1.x."""
    assert run("--version").output.split() == ["copick", copick.__version__]


@pytest.mark.usefixtures("picked")
def test_rm(run: Any) -> None:
    assert "is a pattern; --force removes" in run("rm", "picks", "ribosome:bob/*", code=2).output
    output = run("rm", "picks", "ribosome:bob/*", "--dry-run").output
    assert "A: ribosome:bob/1" in output
    assert "Would remove 4 objects." in output
    assert names() == ["bob/1", "bob/2"]
    assert "Removed 1 object." in run("rm", "picks", "ribosome:bob/1", "--run", "A").output
    assert (names(), names("B")) == (["bob/2"], ["bob/1", "bob/2"])
    run("rm", "picks", "ribosome:bob/*", "--force", "--workers", "2")
    assert (names(), names("B")) == ([], [])
    assert "Removed 0 objects." in run("rm", "picks", "ribosome:bob/*", "--force").output
    nothing = "nothing in the project is named by the picks URI 'ribosome:bob/1'"
    assert nothing in run("rm", "picks", "ribosome:bob/1", code=1).output
    assert "Removed 0 objects." in run("rm", "picks", "ribosome:bob/1", "--force").output  # as in copick 1.x
    assert "is no picks URI" in run("rm", "picks", "a:b:c", code=1).output
    assert "no run 'C'" in run("rm", "picks", "a:b/c", "-r", "C", code=1).output
    assert "'zoo' is not one of" in run("rm", "zoo", "a:b/c", code=2).output


@pytest.mark.usefixtures("picked")
def test_cp_and_mv(run: Any) -> None:
    output = run("cp", "picks", "ribosome:bob/1", "ribosome:ann/1").output
    assert "A: ribosome:bob/1 → ribosome:ann/1" in output
    assert "Copied 2 objects." in output
    failed = run("cp", "picks", "ribosome:bob/1", "ribosome:ann/1", "-r", "A", code=1).output
    assert "A: Failed to copy ribosome:bob/1: the target exists; overwrite replaces it" in failed
    run("cp", "picks", "ribosome:bob/1", "ribosome:ann/1", "--overwrite")
    run("mv", "picks", "ribosome:bob/*", "ribosome:carl/{session_id}", "--run", "B")
    assert (names(), names("B")) == (["ann/1", "bob/1", "bob/2"], ["ann/1", "carl/1", "carl/2"])
    for verb in ("cp", "mv"):
        output = run(verb, "picks", "ribosme:ann/1", "ribosome:x/1", "-r", "A", code=1).output
        assert (
            "nothing in run 'A' is named by the picks URI 'ribosme:ann/1' (did you mean 'ribosome:ann/1'?)"
            in output
        )
    assert "may name several things" in run("mv", "picks", "ribosome:*/*", "ribosome:x/1", code=1).output


# sync


def test_sync(run: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    copick.new_config(
        "other.json", folder / "other", pickable_objects=[{"name": "x", "is_particle": True, "label": 1}]
    )
    root = opened()
    for name in ("A", "B"):
        each = root.new_run(name)
        each.new_voxel_spacing(10).new_tomogram("wbp").from_numpy(VOLUME)
        each.new_picks("ribosome", "1", "bob").from_numpy([[1, 2, 3]])
        each.new_filaments("ribosome", "1", "bob")
        each.new_mesh("membrane", "1", "bob")
        each.new_segmentation(10, "membrane", "1", user_id="bob").from_numpy(VOLUME > 9)
        each.new_segmentation(10, "all", "1", True, user_id="bob").from_numpy(VOLUME.astype(int))
    to = ("--target-config", "other.json", "--source-runs", "A", "--target-runs", "A:X")
    assert "Copied 1 items." in run("sync", "picks", *to, "--target-users", "bob:rob").output
    # Objects that the target lacks were added, with their labels where these were free.
    labels = {o.name: o.label for o in copick.from_file("other.json").pickable_objects}
    assert labels == {"x": 1, "ribosome": 2}
    run("sync", "filaments", *to)
    run("sync", "meshes", *to, "--log")
    run("sync", "segmentations", *to, "--segmentation-type", "multilabel", "--target-names", "all:every")
    run("sync", "segmentations", *to, "--voxel-spacings", "10, 20", "--segmentation-type", "binary")
    run("sync", "tomograms", *to, "--target-tomo-types", "wbp:raw")
    target = copick.from_file("other.json").get_run("X")
    assert target is not None
    assert [p.user_id for p in target.picks] == ["rob"]
    assert (len(target.filaments), len(target.meshes)) == (1, 1)
    assert [(m.name, m.is_multilabel) for m in target.segmentations] == [("every", True), ("membrane", False)]
    assert np.array_equal(target.voxel_spacings[0].tomograms[0].numpy(), VOLUME)
    failed = run("sync", "tomograms", *to, "--target-tomo-types", "wbp:raw", code=1).output
    assert "the target has it; --exist-ok replaces it" in failed
    assert "was not copied" not in caplog.text  # it is said once
    run("sync", "tomograms", *to, "--target-tomo-types", "wbp:raw", "--exist-ok")
    output = run("sync", "picks", *to, "--source-objects", "ribosme", code=1).output
    assert "--source-objects: the project has no object 'ribosme' (did you mean 'ribosome'?)" in output
    output = run("sync", "tomograms", *to, "--source-tomo-types", "wpb", code=1).output
    assert "the source has nothing of --source-runs A --source-tomo-types wpb; nothing was copied" in output
    assert "expected 'old:new'" in run("sync", "picks", *to, "--target-objects", "a", code=2).output
    assert "expected numbers" in run("sync", "tomograms", *to, "--voxel-spacings", "a", code=2).output
    assert (
        "no run 'C'"
        in run("sync", "picks", "--target-config", "other.json", "--source-runs", "C", code=1).output
    )


# stats, info


@pytest.mark.usefixtures("picked")
def test_stats(run: Any) -> None:
    root = opened()
    root.runs[0].new_mesh("membrane", "1", "bob")
    root.runs[0].new_segmentation(10, "all", "1", True, user_id="bob")
    root.runs[0].new_segmentation(10, "ribosome", "1", user_id="bob", is_instance=True)
    found = json.loads(run("stats", "picks", "--output", "json").output)
    assert (found["total_picks"], found["distribution_by_run"]) == (4, {"A": 2, "B": 2})
    found = json.loads(run("stats", "picks", "-r", "A", "--session-id", "2", "--output", "json").output)
    assert (found["total_picks"], found["distribution_by_session"]) == (1, {"2": 1})
    for kind in ("picks", "meshes", "segmentations"):
        older = run("stats", kind, "--runs", "A,B", "--output", "json")
        assert json.loads(older.stdout) == json.loads(run("stats", kind, "--output", "json").stdout)
    words = " ".join(run("stats", "picks", "--no-parallel").output.split())
    assert words.startswith("Picks Total picks: 4 Total pick files: 4 By run: A: 2 B: 2 By user: bob: 4")
    assert "Total meshes: 1" in run("stats", "meshes", "--object-name", "membrane").output
    assert "By user:\n  none" in run("stats", "meshes", "--user-id", "x").output
    found = json.loads(run("stats", "segmentations", "--output", "json").output)
    assert found["distribution_by_type"] == {"multilabel": 1}
    found = json.loads(run("stats", "segmentations", "--output", "json", "--segmentation-type", "all").output)
    assert found["distribution_by_type"] == {"multilabel": 1, "instance": 1}
    found = json.loads(run("stats", "segmentations", "--output", "json", "--no-multilabel").output)
    assert found["total_segmentations"] == 0
    found = json.loads(
        run("stats", "segmentations", "--output", "json", "--voxel-size", "10", "--name", "all").output
    )
    assert found["total_segmentations"] == 1
    assert "no run 'C'" in run("stats", "picks", "-r", "C", code=1).output
    output = run("stats", "picks", "--object-name", "ribosme", code=1).output
    assert "no object 'ribosme' (did you mean 'ribosome'?); it has ribosome, membrane" in output


# How things are said


@pytest.mark.filterwarnings("default")
def test_errors_and_warnings_are_said_in_words_of_the_command(run: Any, folder: Path) -> None:
    """Not in those of Python."""
    output = run("add", "object", "--name", "ribosome", code=1).output
    assert "there is an object 'ribosome' already; pass --exist-ok to update it" in output
    write_mrc(folder / "a.mrc", voxel_size=None)
    output = run("add", "tomogram", "a.mrc", code=1).output
    assert "states no voxel size; pass --voxel-size in ångström" in output
    (folder / "a.dat").write_bytes(b"")
    assert "or pass --file-type" in run("add", "tomogram", "a.dat", code=1).output
    words = ("add", "object-volume", "--object-name", "ribosome", "--volume-path", "a.dat")
    assert "or pass --volume-format" in run(*words, code=1).output
    run("new", "run", "A")
    assert "exists already (in layer overlay); pass --overwrite\n" in run("new", "run", "A", code=1).output
    output = run("new", "picks", "--particle-name", "ribosome", "--out-user", "a_b").output
    assert "copick: the name 'a_b' was changed to 'a-b'" in output
    assert "UserWarning" not in output
    assert ".py" not in output


def test_info(run: Any) -> None:
    assert run("info").output.startswith(f"copick {copick.__version__}\n")
