"""What the packages around copick call: the conventions, names and private parts that they were seen to use.

The project is one of copick 1.x, an overlay over static data. Viewers (napari-copick, chimerax-copick, copick-server) read,
pipelines (copick-utils, copick-torch) read and write.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
import trimesh
import zarr
from click.testing import CliRunner

import copick
from copick.impl.filesystem import CopickConfigFSSpec, CopickRootFSSpec, CopickTomogramFSSpec
from copick.models import (
    CopickConfig,
    CopickFilament,
    CopickFilamentCurve,
    CopickFilaments,
    CopickLocation,
    CopickMesh,
    CopickObject,
    CopickPicks,
    CopickPicksFile,
    CopickPoint,
    CopickRoot,
    CopickRun,
    CopickSegmentation,
    CopickTomogram,
    CopickVoxelSpacing,
    PickableObject,
)
from copick.ops.get import get_runs
from copick.ops.run import map_runs
from copick.util.log import get_logger
from copick.util.uri import (
    expand_output_uri,
    get_copick_objects_by_type,
    parse_copick_uri,
    resolve_copick_objects,
    serialize_copick_uri,
)
from projects import OBJECTS, VOLUME

if TYPE_CHECKING:
    from pathlib import Path

SESSION, USER = "s1", "membrain"


@pytest.fixture
def root(tmp_path: Path) -> CopickRoot:
    """Static data of a run, and an empty overlay."""
    static = copick.new_config(
        tmp_path / "static.json",
        tmp_path / "static",
        pickable_objects=OBJECTS,  # type: ignore[arg-type]
    )
    run = static.new_run("TS_1")
    run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(VOLUME)
    run.new_picks("ribosome", "0", "pytom").from_numpy([[1, 2, 3], [4, 5, 6]], scores=[0.5, 0.25])
    run.new_segmentation(10.0, "membrane", "1", user_id="membrain").from_numpy(VOLUME > 100)
    run.new_segmentation(10.0, "cells", "1", True, "membrain").from_numpy(VOLUME > 50)
    mesh = run.new_mesh("membrane", "1", "membrain")
    mesh.mesh = trimesh.creation.box()
    mesh.store()
    config = {
        "config_type": "filesystem",
        "name": "test",
        "description": "",
        "version": "1.31.0",
        "pickable_objects": OBJECTS,
        "overlay_root": f"local://{tmp_path}/overlay",
        "overlay_fs_args": {"auto_mkdir": True},
        "static_root": f"local://{tmp_path}/static",
        "static_fs_args": {"auto_mkdir": False},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return copick.from_file(str(tmp_path / "config.json"))


@pytest.fixture
def run(root: CopickRoot) -> CopickRun:
    found = root.get_run("TS_1")
    assert found is not None
    return found


# Tier 0: imports and openers


def test_a_bare_import_has_the_models() -> None:
    code = """
import copick
assert copick.models.CopickRun.__name__ == "CopickRun"
assert copick.models.CopickPicksFile.__name__ == "CopickPicksFile"
assert isinstance(copick.__version__, str)
assert callable(copick.from_file) and callable(copick.from_string) and callable(copick.new_config)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_types(root: CopickRoot, run: CopickRun) -> None:
    """Trees are built by isinstance, and told apart from one another."""
    things: dict[type, Any] = {
        CopickRoot: root,
        CopickRun: run,
        CopickVoxelSpacing: run.voxel_spacings[0],
        CopickTomogram: run.voxel_spacings[0].tomograms[0],
        CopickPicks: run.picks[0],
        CopickMesh: run.meshes[0],
        CopickSegmentation: run.segmentations[0],
        CopickFilaments: run.new_filaments("ribosome", SESSION, USER),
        CopickObject: root.pickable_objects[0],
        CopickPoint: run.picks[0].points[0],
        CopickLocation: run.picks[0].points[0].location,
        CopickConfig: root.config,
        PickableObject: root.config.pickable_objects[0],
        CopickPicksFile: run.picks[0].meta,
    }
    for cls, thing in things.items():
        assert [each for each in things if isinstance(thing, each)] == [cls]
    assert {root, run, *run.picks} == {*run.picks, run, root}
    assert isinstance(root, CopickRootFSSpec)
    assert isinstance(root.config, CopickConfigFSSpec)
    assert isinstance(things[CopickTomogram], CopickTomogramFSSpec)
    assert set(copick.COPICK_TYPES) >= {CopickRoot, CopickRun, CopickMesh, CopickFilaments}


def test_loggers() -> None:
    logger = get_logger("a.plugin")
    assert isinstance(logger, logging.Logger)
    assert get_logger("a.plugin", debug=True).isEnabledFor(logging.DEBUG)


# Tier 1: reading


def test_the_way_to_a_tomogram(root: CopickRoot) -> None:
    for run in root.runs:
        assert run.name == "TS_1"
        assert run.meta.name == "TS_1"
        for spacing in run.voxel_spacings:
            assert (spacing.voxel_size, spacing.meta.voxel_size, spacing.run) == (10.0, 10.0, run)
            for tomogram in spacing.tomograms:
                assert (tomogram.tomo_type, tomogram.meta.tomo_type) == ("wbp", "wbp")
                assert tomogram.voxel_spacing.run.root is root
                assert tomogram.read_only
    found: Any = root.get_run("TS_1")
    assert found.get_voxel_spacing(10).get_tomograms("wbp")[0].numpy().shape == VOLUME.shape
    with pytest.warns(DeprecationWarning, match="get_tomogram is deprecated; use get_tomograms") as caught:
        assert found.get_voxel_spacing(10).get_tomogram("wbp").tomo_type == "wbp"
    assert caught[0].filename == __file__
    assert root.get_run("nope") is None
    assert found.get_voxel_spacing(3.0) is None


def test_stores(run: CopickRun) -> None:
    tomogram = run.voxel_spacings[0].tomograms[0]
    assert np.array_equal(zarr.open(tomogram.zarr())["0"][:], VOLUME)  # type: ignore[index]
    group: Any = zarr.open(tomogram.zarr(), mode="r")
    assert sorted(group.keys()) == ["0", "1", "2"]
    assert dict(group.arrays()).keys() == {"0", "1", "2"}
    assert np.array_equal(zarr.open(store=tomogram.zarr(), mode="r")["0"][1:3, 2, ::2], VOLUME[1:3, 2, ::2])  # type: ignore[index]
    assert zarr.open_group(tomogram.zarr(), mode="r")["1"].shape == (3, 3, 4)  # type: ignore[union-attr]
    store = tomogram.zarr()
    assert len(store) > 0
    assert json.loads(store["/".join(["0", ".zarray"])])["shape"] == [5, 6, 7]
    assert isinstance(store["0/0/0/0"], bytes)
    with pytest.raises(KeyError):
        store["0/9/9/9"]
    assert zarr.open(run.segmentations[0].zarr())["0"].shape == (5, 6, 7)  # type: ignore[index]


def test_nothing_is_written_by_reading(root: CopickRoot, run: CopickRun, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for tomogram in run.voxel_spacings[0].tomograms:
        zarr.open(tomogram.zarr())
        tomogram.numpy()
    for mask in run.segmentations:
        zarr.open(mask.zarr(), mode="r")
    assert [len(picks.points) for picks in run.picks] == [2]
    assert run.meshes[0].mesh is not None
    assert root.pickable_objects[0].zarr() is not None
    assert sorted(tmp_path.rglob("*")) == before


def test_annotations(root: CopickRoot, run: CopickRun) -> None:
    (picks,) = run.get_picks(object_name="ribosome", user_id="pytom", session_id="0")
    assert (picks.pickable_object_name, picks.user_id, picks.session_id) == ("ribosome", "pytom", "0")
    assert (picks.from_tool, picks.from_user, picks.read_only) == (True, False, True)
    assert picks.color == (0, 117, 220, 255)
    point = picks.points[0]
    assert (point.location.x, point.location.y, point.location.z) == (1, 2, 3)
    assert np.array_equal(point.transformation, np.eye(4))
    assert (point.instance_id, point.score) == (0, 0.5)
    assert (picks.meta.unit, picks.meta.run_name, picks.meta.trust_orientation) == ("angstrom", "TS_1", True)
    picks.meta.trust_orientation = False
    assert not picks.trust_orientation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pydantic's own: .dict() is of its first version
        document = picks.meta.dict()
    assert json.loads(json.dumps(document))["points"][1]["location"] == {"x": 4, "y": 5, "z": 6}
    assert (picks.run, run.get_picks("nope"), run.get_filaments()) == (run, [], [])
    (mesh,) = run.get_meshes(object_name="membrane")
    assert len(mesh.mesh.geometry) == 1
    masks = run.get_segmentations(
        name="cells", user_id="membrain", session_id="1", voxel_size=10.0, is_multilabel=True
    )
    assert [mask.is_multilabel for mask in masks] == [True]
    size = run.voxel_spacings[0].meta.voxel_size
    assert len(run.get_segmentations(voxel_size=size)) == 2
    assert run.get_segmentations(is_panoptic=True) == []


def test_the_config(root: CopickRoot, tmp_path: Path) -> None:
    assert root.config.overlay_root == f"local://{tmp_path}/overlay"
    assert root.config.overlay_root.removeprefix("local://") == str(tmp_path / "overlay")
    assert (root.config.user_id, root.config.session_id) == (None, None)
    assert [item.name for item in root.config.pickable_objects] == ["ribosome", "membrane"]
    labels = {item.name: item.label for item in root.pickable_objects}
    assert labels == {"ribosome": 1, "membrane": 2}
    item: Any = root.get_object("ribosome")
    assert (item.color, item.radius, item.is_particle) == ((0, 117, 220, 255), 150.0, True)
    assert (item.identifier, item.pdb_id, item.emdb_id, item.map_threshold) == (None, None, None, None)
    assert root.config.model_dump()["pickable_objects"][0]["name"] == "ribosome"


# Tier 2: writing


def test_segmentations(run: CopickRun, tmp_path: Path) -> None:
    mask = run.new_segmentation(
        name="membrane",
        user_id=USER,
        session_id=SESSION,
        is_multilabel=False,
        voxel_size=10.0,
        exist_ok=True,
    )
    mask.from_numpy(VOLUME > 100)
    again = run.new_segmentation(
        name="membrane", user_id=USER, session_id=SESSION, is_multilabel=False, voxel_size=10, exist_ok=True
    )
    assert again is mask
    again.set_region(np.ones((1, 6, 7), np.uint8), z=slice(0, 1))
    assert again.numpy()[0].all()
    assert not again.read_only
    for flag in ("is_instance", "is_panoptic"):
        made = run.new_segmentation(
            voxel_size=10.0,
            name="membrane",
            session_id=SESSION,
            user_id=USER,
            **{flag: True},  # type: ignore[arg-type]
        )
        assert getattr(made, flag)
    assert (tmp_path / "overlay/ExperimentRuns/TS_1/Segmentations/10.000_membrain_s1_membrane.zarr").is_dir()


def test_segmentations_written_by_zarr(run: CopickRun) -> None:
    mask = run.new_segmentation(10.0, "membrane", SESSION, user_id=USER)
    group = zarr.open(mask.zarr(), mode="a")
    assert isinstance(group, zarr.Group)
    array = group.create_array("0", shape=VOLUME.shape, dtype="u1", chunks=(2, 3, 4))
    array[1:3] = 7
    assert mask.numpy()[1:3].min() == 7
    assert (zarr.open(mask.zarr(), mode="r")["0"][0] == 0).all()  # type: ignore[index]


def test_picks(run: CopickRun) -> None:
    out = run.new_picks("ribosome", SESSION, USER, exist_ok=True)
    out.points = [
        CopickPoint(location=CopickLocation(x=1.0, y=2.0, z=3.0), score=0.5, instance_id=4),
        CopickPoint(location={"x": 7, "y": 8, "z": 9}, transformation_=np.eye(4).tolist()),  # type: ignore[arg-type]
    ]
    out.store()
    run.refresh_picks()
    (found,) = run.get_picks(object_name="ribosome", session_id=SESSION)
    assert [point.location.x for point in found.points] == [1, 7]
    positions, transforms = found.numpy()
    transforms[:, :3, 3] = 5
    found.from_numpy(positions, transforms, instance_ids=np.array([3, 4]))
    run.refresh()
    (found,) = run.get_picks(session_id=SESSION)
    assert found.full_positions().tolist() == [[6, 7, 8], [12, 13, 14]]
    assert found.instance_ids().tolist() == [3, 4]


def test_picks_from_a_document(run: CopickRun) -> None:
    """A server takes what a client sends."""
    data = {
        "pickable_object_name": "ribosome",
        "user_id": USER,
        "session_id": SESSION,
        "run_name": "TS_1",
        "unit": "angstrom",
        "points": [{"location": {"x": 1, "y": 2, "z": 3}}],
    }
    document = CopickPicksFile(**data)  # type: ignore[arg-type]
    picks = run.new_picks(object_name="ribosome", session_id=SESSION, user_id=USER)
    picks.points = document.points
    picks.store()
    assert run.query_picks()[0].points[0].location.x == 1
    picks.meta = document
    picks.store()
    made = CopickPicks(run, CopickPicksFile(**{**data, "session_id": "s2"}))  # type: ignore[arg-type]
    assert len(made.points) == 1
    made.store()
    run.refresh_picks()
    assert len(run.get_picks(session_id="s2")[0].points) == 1


def test_meshes_and_filaments(run: CopickRun) -> None:
    mesh = run.new_mesh(object_name="membrane", session_id=SESSION, user_id=USER, exist_ok=True)
    mesh.mesh = trimesh.creation.icosphere()
    mesh.store()
    assert run.query_meshes()[0].mesh is not None
    filaments = run.new_filaments("ribosome", SESSION, USER, exist_ok=True)
    line = [[0.0, 0, 0], [10, 0, 0], [20, 5, 0]]
    filaments.from_control_points([line], step=2.0)
    curve = filaments.editable_curve(1)
    filaments.from_curves([curve], radii=[5.0])
    assert isinstance(filaments.get(1), CopickFilament)
    assert isinstance(filaments.filaments[0].curve, CopickFilamentCurve)
    for filament in filaments.filaments:
        assert filament.curve_is_current()
        assert np.allclose(filament.editable_control_points(), line)


def test_tomograms(run: CopickRun) -> None:
    spacing = run.get_voxel_spacing(10.0)
    assert spacing is not None
    tomogram = spacing.new_tomogram("denoised", exist_ok=True)
    tomogram.from_numpy(VOLUME)
    assert [t.tomo_type for t in spacing.tomograms] == ["denoised", "wbp"]
    assert run.new_voxel_spacing(voxel_size=20.0, exist_ok=True).voxel_size == 20.0
    tomogram.delete()
    spacing.refresh_tomograms()
    assert [t.tomo_type for t in spacing.tomograms] == ["wbp"]
    run.root.refresh()
    run.refresh_segmentations()
    run.refresh_voxel_spacings()


def test_editing_what_is_read_only(run: CopickRun) -> None:
    """Viewers decide by `read_only` and `from_tool`; session "0" is a tool's."""
    (picks,) = run.picks
    assert picks.read_only
    with pytest.raises(PermissionError):
        picks.delete()
    mine = run.new_picks("ribosome", "0", "me")
    assert (mine.from_tool, mine.read_only) == (True, False)
    assert {each.ref for each in run.tool_picks()} == {mine.ref, picks.ref}


# Tier 3: operations over runs, and URIs


def count(run: CopickRun, factor: int = 1, **rest: object) -> dict[str, Any]:
    if run.name == "bad":
        raise RuntimeError("no tomogram")
    return {"processed": factor * len(run.picks), "errors": [], **rest}


def test_one_function_over_many_runs(root: CopickRoot, caplog: pytest.LogCaptureFixture) -> None:
    root.new_run("bad")
    results = map_runs(
        callback=count,
        root=root,
        runs=["TS_1", "bad"],
        workers=2,
        task_desc="Counting picks",
        factor=3,
        extra="x",
    )
    assert results == {"TS_1": {"processed": 3, "errors": [], "extra": "x"}, "bad": None}
    assert "no tomogram" in caplog.text
    runs = map_runs(count, root, root.runs, 1, "thread", [{"factor": 1}, {"factor": 2}], False)
    assert runs == {"TS_1": {"processed": 1, "errors": []}, "bad": None}


def test_runs_by_name(root: CopickRoot, tmp_path: Path) -> None:
    for project in (root, str(tmp_path / "config.json")):
        assert [run.name for run in get_runs(project)] == ["TS_1"]
        assert [run.name for run in get_runs(project, ["TS_1"])] == ["TS_1"]


def test_uris(root: CopickRoot, run: CopickRun) -> None:
    parts = parse_copick_uri("ribosome:pytom/*", "picks")
    assert (parts["object_name"], parts["user_id"], parts["pattern_type"]) == ("ribosome", "pytom", "glob")
    found = resolve_copick_objects("ribosome:pytom/0", root, "picks", run_name="TS_1")
    assert found == run.picks
    (mask,) = resolve_copick_objects("cells:membrain/1@10.0?multilabel=true", root, "segmentation", "TS_1")
    assert serialize_copick_uri(mask) == "cells:membrain/1@10.0?multilabel=true"
    for kind, thing in (
        ("picks", run.picks[0]),
        ("mesh", run.meshes[0]),
        ("segmentation", run.segmentations[0]),
        ("tomogram", run.voxel_spacings[0].tomograms[0]),
    ):
        assert resolve_copick_objects(serialize_copick_uri(thing), root, kind, run_name="TS_1") == [thing]
    assert get_copick_objects_by_type(root, "mesh", run_name="TS_1") == run.meshes
    assert expand_output_uri("ribosome:me/1", "ribosome:pytom/0", "picks", "picks") == "ribosome:me/1"
    with pytest.raises(ValueError, match="nope"):
        resolve_copick_objects("ribosome:pytom/0", root, "picks", run_name="nope")


def plugin() -> click.Command:
    """A command as copick-utils writes them."""
    from copick.cli.types import CopickURI
    from copick.cli.util import add_config_option, add_debug_option, add_run_names_option, resolve_run_names

    @click.command(short_help="Count points.")
    @add_config_option
    @add_run_names_option
    @click.option("-i", "--input", "input_uri", type=CopickURI("picks", role="input"), required=True)
    @click.option("-w", "--workers", type=int, default=8)
    @add_debug_option
    def count_points(
        config: str, run_names: tuple[str, ...], input_uri: str, workers: int, debug: bool
    ) -> None:
        """Count the points of picks."""
        logger = get_logger(__name__, debug=debug)
        root = copick.from_file(config)
        parts = parse_copick_uri(input_uri, "picks")
        names = resolve_run_names(run_names, logger=logger)
        runs = [root.get_run(name) for name in names] if names else root.runs
        found = [picks for run in runs if run for picks in run.get_picks(object_name=parts["object_name"])]
        click.echo(f"{sum(len(picks.points) for picks in found)} points, {workers} workers")

    return count_points


def test_commands_of_plugins(root: CopickRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from copick.cli.cli import (
        COMMAND_CATEGORIES,
        add_core_commands,
        add_plugin_commands,
        cli,
        convert,
        evaluation,
        inference,
        logical,
        process,
        training,
    )
    from copick.cli.ext import load_plugin_commands
    from copick.cli.types import CopickURI

    command = plugin()
    assert {"config", "run_names", "debug"} <= {option.name for option in command.params}
    (uri,) = (option.type for option in command.params if isinstance(option.type, CopickURI))
    assert (uri.object_type, uri.role, uri.name) == ("picks", "input", "COPICK_URI")
    arguments = ["-i", "ribosome:pytom/0", "-w", "2"]
    config = str(tmp_path / "config.json")
    runner = CliRunner()
    for given in (["-c", config, *arguments], ["-c", config, "--run-names", "TS_1", *arguments, "--debug"]):
        done = runner.invoke(command, given)
        assert (done.exit_code, done.stdout) == (0, "2 points, 2 workers\n")
    monkeypatch.setenv("COPICK_CONFIG", config)
    assert runner.invoke(command, [*arguments, "-r", "nope"]).stdout == "0 points, 2 workers\n"
    for group in (convert, evaluation, inference, logical, process, training):
        assert isinstance(group, click.Group)
        assert group.name in {name for names in COMMAND_CATEGORIES.values() for name in names}
    assert isinstance(cli, click.Group)
    # A server of its own builds the tree anew.
    tree = add_plugin_commands(add_core_commands(click.Group("copick")))
    assert {"add", "new", "cp", "mv", "rm", "sync", "stats", "config"} <= set(tree.commands)
    assert isinstance(load_plugin_commands("main"), list)


# Tier 4: private parts


def test_clearing_the_objects(root: CopickRoot) -> None:
    """A dialog edits the config's list, and sets `_objects` to None."""
    assert len(root.pickable_objects) == 2
    root.config.pickable_objects.append(PickableObject(name="new", is_particle=True, label=3))
    root._objects = None
    assert [item.name for item in root.pickable_objects] == ["ribosome", "membrane", "new"]
    root.config.pickable_objects = [item for item in root.config.pickable_objects if item.name != "new"]
    root._objects = None
    assert root.get_object("new") is None
    root._invalidate_all_caches()


def test_factories(root: CopickRoot, run: CopickRun) -> None:
    cls, meta = run._voxel_spacing_factory()
    spacing = cls(run=run, meta=meta(voxel_size=10.0))
    assert [t.tomo_type for t in spacing.tomograms] == ["wbp"]
    assert cls(run, meta(voxel_size=10.0), None).voxel_size == 10.0
    run_cls, run_meta = root._run_factory()
    assert [s.voxel_size for s in run_cls(root, run_meta(name="TS_1")).voxel_spacings] == [10.0]
    object_cls, object_meta = root._object_factory()
    assert object_cls(root, object_meta(name="x", is_particle=True)).label == 1
    assert [item.name for item in root._query_objects()] == ["ribosome", "membrane"]
    picks = run._picks_factory()
    assert picks(
        run, CopickPicksFile(pickable_object_name="ribosome", user_id="pytom", session_id="0")
    ).points
    mesh_cls, mesh_meta = run._mesh_factory()
    assert mesh_cls(run, mesh_meta(pickable_object_name="membrane", user_id="membrain", session_id="1")).mesh
    mask_cls, mask_meta = run._segmentation_factory()
    fields = {"name": "membrane", "user_id": "membrain", "session_id": "1", "voxel_size": 10.0}
    assert mask_cls(run, mask_meta(**fields)).numpy().shape == VOLUME.shape
    assert run._filaments_factory() is CopickFilaments


def test_lists_that_are_set(run: CopickRun, root: CopickRoot) -> None:
    """None: list again. A list: that one."""
    assert root._runs is None
    _ = root.runs
    assert [each.name for each in root._runs] == ["TS_1"]
    root._runs = None
    for name in ("_picks", "_meshes", "_segmentations", "_filaments", "_voxel_spacings"):
        public = name.removeprefix("_")
        assert getattr(run, name) is None
        listed = getattr(run, public)
        assert getattr(run, name) == listed
        setattr(run, name, [])
        assert getattr(run, public) == []
        setattr(run, name, None)
        assert [each.ref for each in getattr(run, public)] == [each.ref for each in listed]
    run._invalidate_caches()
    assert run._picks is None


def test_where_things_lie(root: CopickRoot, run: CopickRun, tmp_path: Path) -> None:
    tomogram = run.voxel_spacings[0].tomograms[0]
    inside = "ExperimentRuns/TS_1/VoxelSpacing10.000/wbp"
    assert tomogram.static_path == f"{tmp_path}/static/{inside}.zarr"
    assert tomogram.overlay_path == f"{tmp_path}/overlay/{inside}.zarr"
    assert (tomogram.static_stem, tomogram.overlay_stem) == (
        f"{tmp_path}/static/{inside}",
        f"{tmp_path}/overlay/{inside}",
    )
    assert tomogram.fs_static.exists(tomogram.static_path)
    assert (root.root_overlay, root.root_static) == (f"{tmp_path}/overlay", f"{tmp_path}/static")  # type: ignore[attr-defined]
    (picks,) = run.picks
    assert picks.fs.exists(picks.path)
    assert picks.directory == f"{tmp_path}/static/ExperimentRuns/TS_1/Picks/"


def test_an_empty_store_is_no_volume(root: CopickRoot) -> None:
    """Viewers ask an object for its map by the length of its store."""
    for item in root.pickable_objects:
        if item.is_particle:
            assert len(item.zarr()) == 0
