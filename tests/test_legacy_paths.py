"""Names that plugins of copick 1.x use: paths and filesystems of entities, import paths, private members."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import copick
from copick.impl import cache, filesystem, multilayer
from copick.layers.memory import MemoryLayer
from copick.meta import (
    CopickFeaturesMeta,
    CopickRunMeta,
    CopickSegmentationMeta,
    CopickTomogramMeta,
    CopickVoxelSpacingMeta,
    PickableObject,
)
from projects import OBJECTS, VOLUME, alone, opened, run_of, tomogram_of

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot

RUN = "ExperimentRuns/TS_1"
SPACING = f"{RUN}/VoxelSpacing10.000"


@pytest.fixture
def project(tmp_path: Path) -> CopickRoot:
    """Static data with one of each kind below an overlay that has other picks."""
    static = alone(tmp_path / "static")
    run = static.new_run("TS_1")
    tomogram = run.new_voxel_spacing(10).new_tomogram("wbp")
    tomogram.from_numpy(VOLUME)
    tomogram.new_features("sobel").from_numpy(VOLUME[None])
    run.new_picks("ribosome", "1")
    run.new_mesh("membrane", "1")
    run.new_filaments("ribosome", "1")
    run.new_segmentation(10, "membrane", "1")
    run.new_segmentation(10, "ribosome", "1", is_instance=True)
    static.get_object("ribosome").from_numpy(VOLUME, 4.0)
    config = {
        "config_type": "filesystem",
        "pickable_objects": OBJECTS,
        "user_id": "me",
        "overlay_root": f"local://{tmp_path}/overlay/",
        "static_root": f"{tmp_path}/static/",
    }
    root = copick.from_string(json.dumps(config))
    run_of(root).new_picks("ribosome", "2")
    return root


def test_roots(project: CopickRoot, tmp_path: Path) -> None:
    assert project.root_overlay == f"{tmp_path}/overlay"
    assert project.root_static == f"{tmp_path}/static"
    assert not project.static_is_overlay
    assert project.fs_overlay.isdir(project.root_overlay)
    assert project.fs_static.isdir(project.root_static)


def test_what_lies_in_both(project: CopickRoot, tmp_path: Path) -> None:
    run = run_of(project)
    tomogram = tomogram_of(project)
    item = project.get_object("ribosome")
    assert item is not None
    for entity, path in (
        (run, RUN),
        (run.voxel_spacings[0], SPACING),
        (tomogram, f"{SPACING}/wbp.zarr"),
        (item, "Objects/ribosome.zarr"),
    ):
        assert entity.overlay_path == f"{tmp_path}/overlay/{path}"
        assert entity.static_path == f"{tmp_path}/static/{path}"
        assert entity.fs_static.exists(entity.static_path)
        assert not entity.static_is_overlay
    assert tomogram.static_stem == f"{tmp_path}/static/{SPACING}/wbp"
    assert tomogram.overlay_stem == f"{tmp_path}/overlay/{SPACING}/wbp"
    assert not tomogram.fs_overlay.exists(tomogram.overlay_path)


def test_what_lies_in_one(project: CopickRoot, tmp_path: Path) -> None:
    run = run_of(project)
    (features,) = tomogram_of(project).features
    new, old = run.picks
    masks = run.get_segmentations(is_instance=None)
    for entity, path in (
        (features, f"static/{SPACING}/wbp_sobel_features.zarr"),
        (old, f"static/{RUN}/Picks/them_1_ribosome.json"),
        (new, f"overlay/{RUN}/Picks/me_2_ribosome.json"),
        (run.meshes[0], f"static/{RUN}/Meshes/them_1_membrane.glb"),
        (run.filaments[0], f"static/{RUN}/Filaments/them_1_ribosome.json"),
        (masks[0], f"static/{RUN}/Segmentations/10.000_them_1_membrane.zarr"),
        (masks[1], f"static/{RUN}/InstanceSegmentations/10.000_them_1_ribosome.zarr"),
    ):
        assert entity.path == f"{tmp_path}/{path}"
        assert entity.fs.exists(entity.path)
    assert old.directory == f"{tmp_path}/static/{RUN}/Picks/"
    assert new.directory == f"{tmp_path}/overlay/{RUN}/Picks/"
    assert [mask.directory for mask in masks] == ["Segmentations", "InstanceSegmentations"]


def test_one_layer_is_both(tmp_path: Path) -> None:
    root = alone(tmp_path)
    assert (root.root_overlay, root.root_static) == (str(tmp_path), str(tmp_path))
    assert root.static_is_overlay
    run = root.new_run("TS_1")
    assert run.overlay_path == run.static_path == run.path == f"{tmp_path}/{RUN}"


def test_any_stack_has_an_overlay(root: CopickRoot, tmp_path: Path) -> None:
    assert (root.root_overlay, root.root_static) == (f"{tmp_path}/work", f"{tmp_path}/archive")
    tomogram = tomogram_of(root)
    assert tomogram.path == tomogram.static_path
    assert tomogram.overlay_path.startswith(f"{tmp_path}/work/")


def test_paths_through_a_cache(root: CopickRoot, tmp_path: Path, own_managers: None) -> None:
    cached = opened(tmp_path, cache_config={"root": str(tmp_path / "cache"), "parent_layer": "archive"})
    assert tomogram_of(cached).path == tomogram_of(root).path


def test_directories_that_are_named_in_another_way(tmp_path: Path) -> None:
    odd = tmp_path / RUN / "VoxelSpacing10"
    odd.mkdir(parents=True)
    (spacing,) = run_of(alone(tmp_path)).voxel_spacings
    assert spacing.path == str(odd)


def test_a_bucket(s3_bucket: str, s3_args: dict[str, Any]) -> None:
    root = alone(f"s3://{s3_bucket}/project/", fs_args=s3_args)  # type: ignore[arg-type]
    picks = root.new_run("TS_1").new_picks("ribosome", "1")
    assert root.root_overlay == f"{s3_bucket}/project"
    assert picks.path == f"{s3_bucket}/project/{RUN}/Picks/them_1_ribosome.json"
    assert b"ribosome" in picks.fs.cat_file(picks.path)
    fs = root.fs_overlay
    root.reconnect()
    assert root.fs_overlay is not fs
    assert [each.session_id for each in run_of(root).picks] == ["1"]


def test_what_is_not_in_files_has_no_path() -> None:
    root = copick.from_string('{"config_type": "memory", "pickable_objects": []}')
    assert isinstance(root.layer.layers[0], MemoryLayer)  # type: ignore[attr-defined]
    run = root.new_run("TS_1")
    assert not hasattr(run, "path")
    assert not hasattr(root, "root_overlay")
    with pytest.raises(AttributeError, match="layer 'memory' is not made of files: run 'TS_1' has no path"):
        _ = run.path


# Names

FAMILY = [
    "Run",
    "VoxelSpacing",
    "Tomogram",
    "Features",
    "Picks",
    "Mesh",
    "Segmentation",
    "Object",
    "Filaments",
]


def test_each_family_has_its_names() -> None:
    for name in FAMILY:
        entity = getattr(copick.models, f"Copick{name}")
        for family in (filesystem, multilayer):
            suffixes = ("FS", "FSSpec") if family is filesystem else ("ML", "Multilayer")
            for suffix in suffixes:
                assert getattr(family, f"Copick{name}{suffix}") is entity
                assert f"Copick{name}{suffix}" in family.__all__
    assert {f"Copick{name}" for name in ["Root", *FAMILY]} == {cls.__name__ for cls in copick.COPICK_TYPES}
    for module in (filesystem, multilayer, cache):
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize(
    "name",
    [
        "models.CopickRun",
        "impl.filesystem.CopickRootFSSpec",
        "impl.multilayer.CopickRootMultilayer",
        "impl.cache.CopickConfigCache",
        "ops.open.from_file",
        "ops.open.new_config",
        "COPICK_TYPES",
        "new_config",
    ],
)
def test_names_after_a_bare_import(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import copick; copick.{name}"], check=True)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match=r"module 'copick\.impl' has no attribute 'nope'"):
        _ = copick.impl.nope


def test_private_names_that_plugins_use(project: CopickRoot) -> None:
    project.config.pickable_objects.append(
        copick.models.PickableObject(name="late", is_particle=True, label=9)
    )
    project._objects = None
    assert project.get_object("late") is not None
    run = run_of(project)
    cls, meta = run._voxel_spacing_factory()
    assert isinstance(run.voxel_spacings[0], cls)
    assert isinstance(run.voxel_spacings[0].meta, meta)
    assert project._run_factory()[0] is copick.models.CopickRun
    assert project._object_factory() == (copick.models.CopickObject, copick.models.PickableObject)
    assert len(project._query_objects()) == 3
    assert project.runs
    assert project._runs is not None
    project._invalidate_all_caches()
    assert project._runs is None


def test_what_the_folder_of_a_segmentation_is_called(project: CopickRoot) -> None:
    names = [segmentation.filename for segmentation in run_of(project).segmentations]
    assert names == ["10.000_them_1_membrane.zarr", "10.000_them_1_ribosome.zarr"]


def test_classes_of_a_plugin_are_used_wherever_entities_are_made(project: CopickRoot) -> None:
    """A plugin may override the factories; entities that are listed, got by name and made new are all of its classes."""

    class Marked:
        mark = "of the plugin"

    class Picks(Marked, filesystem.CopickPicksFSSpec):
        def __init__(self, run: Any, file: Any) -> None:
            super().__init__(run, file)
            self.more = len(run.name)

    class Features(Marked, filesystem.CopickFeaturesFSSpec):
        pass

    class Tomogram(Marked, filesystem.CopickTomogramFSSpec):
        def _feature_factory(self) -> Any:
            return Features, CopickFeaturesMeta

    class Spacing(Marked, filesystem.CopickVoxelSpacingFSSpec):
        def _tomogram_factory(self) -> Any:
            return Tomogram, CopickTomogramMeta

    class Segmentation(Marked, filesystem.CopickSegmentationFSSpec):
        pass

    class Run(Marked, filesystem.CopickRunFSSpec):
        def _voxel_spacing_factory(self) -> Any:
            return Spacing, CopickVoxelSpacingMeta

        def _picks_factory(self) -> Any:
            return Picks

        def _segmentation_factory(self) -> Any:
            return Segmentation, CopickSegmentationMeta

    class Density(Marked, filesystem.CopickObjectFSSpec):
        pass

    class Root(filesystem.CopickRootFSSpec):
        def _run_factory(self) -> Any:
            return Run, CopickRunMeta

        def _object_factory(self) -> Any:
            return Density, PickableObject

    for listed in (False, True):
        root: Any = Root(project.config)
        if listed:
            assert root.runs
        run = root.get_run("TS_1")
        tomogram = run.get_voxel_spacing(10.0).get_tomograms("wbp")[0]
        made = run.new_picks("ribosome", f"{listed}")
        entities = [
            *(root.new_run(f"TS_{listed}"), run, made, *run.picks, *run.segmentations, *run.voxel_spacings),
            *(tomogram, *tomogram.features, *root.pickable_objects, run.on("static").picks[0]),
        ]
        assert {entity.mark for entity in entities} == {"of the plugin"}
        assert {picks.more for picks in (*run.picks, made)} == {4}
        assert {type(mesh) for mesh in run.meshes} == {filesystem.CopickMeshFSSpec}
        assert (tomogram.numpy() == VOLUME).all()
