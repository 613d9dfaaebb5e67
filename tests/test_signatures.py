"""Signatures of copick 1.x and 2.0: names, order and defaults of what callers pass. More keyword-only ones are fine."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import copick

ALL = slice(None)

FILTERS = "object_name=None, user_id=None, session_id=None"
NEW = "object_name, session_id, user_id=None, exist_ok=False"
MASKS = "user_id=None, session_id=None, is_multilabel=None, name=None, voxel_size=None, *, is_instance=False, is_panoptic=False"
BOX = "zarr_group='0', x=ALL, y=ALL, z=ALL"
COLUMNS = "polarity_known=None, scores=None, radii=None, voxel_spacing=None, metadata=None"
DOCUMENT = dict.fromkeys(("load", "store", "refresh", "delete"), "")

METHODS: dict[str, dict[str, str]] = {
    "CopickRoot": {
        "__init__": "config",
        "query": "",
        "get_run": "name, **kwargs",
        "new_run": "name, exist_ok=False, **kwargs",
        "delete_run": "name",
        "get_object": "name",
        "new_object": "name, is_particle, label=None, color=None, emdb_id=None, pdb_id=None, identifier=None, "
        "map_threshold=None, radius=None, metadata=None, exist_ok=False, filament=None",
        "refresh": "",
        "reconnect": "",
        "save_config": "config_path",
        "_query_objects": "",
        "_run_factory": "",
        "_object_factory": "",
        "_invalidate_all_caches": "",
    },
    "CopickObject": {
        "__init__": "root, meta",
        "zarr": "",
        "numpy": BOX,
        "from_numpy": "data, voxel_size, dtype=np.float32",
        "set_region": f"data, {BOX}",
        "delete": "",
        "has_density_map": "",
    },
    "CopickRun": {
        "__init__": "root, meta, config=None",
        **{
            f"query_{name}": "" for name in ("voxelspacings", "picks", "meshes", "segmentations", "filaments")
        },
        "get_voxel_spacing": "voxel_size, **kwargs",
        "get_picks": f"{FILTERS}, **kwargs",
        "get_meshes": FILTERS,
        "get_filaments": FILTERS,
        "get_segmentations": f"{MASKS}, **kwargs",
        **{f"{who}_{name}": "" for who in ("user", "tool") for name in ("picks", "meshes", "segmentations")},
        "new_voxel_spacing": "voxel_size, exist_ok=False, **kwargs",
        "new_picks": NEW,
        "new_filaments": NEW,
        "new_mesh": f"{NEW}, **kwargs",
        "new_segmentation": "voxel_size, name, session_id, is_multilabel=False, user_id=None, exist_ok=False, "
        "*, is_instance=False, is_panoptic=False, **kwargs",
        "refresh": "",
        **{
            f"refresh_{name}": ""
            for name in ("voxel_spacings", "picks", "meshes", "segmentations", "filaments")
        },
        "ensure": "create=False",
        "delete": "",
        "delete_voxel_spacings": "voxel_size=None",
        "delete_picks": FILTERS,
        "delete_meshes": FILTERS,
        "delete_filaments": FILTERS,
        "delete_segmentations": MASKS,
        **{
            f"_{name}_factory": "" for name in ("voxel_spacing", "picks", "filaments", "mesh", "segmentation")
        },
        "_invalidate_caches": "",
    },
    "CopickVoxelSpacing": {
        "__init__": "run, meta, config=None",
        "query_tomograms": "",
        "get_tomogram": "tomo_type",
        "get_tomograms": "tomo_type=None, **kwargs",
        "new_tomogram": "tomo_type, exist_ok=False, **kwargs",
        "refresh": "",
        "refresh_tomograms": "",
        "ensure": "create=False",
        "delete": "",
        "delete_tomograms": "tomo_type=None",
    },
    "CopickTomogram": {
        "__init__": "voxel_spacing, meta, config=None",
        "query_features": "",
        "get_features": "feature_type",
        "new_features": "feature_type, exist_ok=False, **kwargs",
        "refresh": "",
        "refresh_features": "",
        "delete_features": "",
        "delete": "",
        "zarr": "",
        "numpy": BOX,
        "from_numpy": "data, levels=3, dtype=np.float32",
        "set_region": f"data, {BOX}",
    },
    "CopickFeatures": {
        "__init__": "tomogram, meta",
        "zarr": "",
        "numpy": "zarr_group='0', slices=None",
        "from_numpy": "data, *, chunks=None, shards=None, dtype=None, metadata=None, overwrite=True",
        "set_region": "data, zarr_group='0', slices=None",
        "delete": "",
    },
    "CopickPicks": {
        **DOCUMENT,
        "__init__": "run, file",
        "numpy": "",
        "instance_ids": "",
        "scores": "",
        "full_positions": "",
        "from_numpy": "positions, transforms=None, instance_ids=None, scores=None",
        "df": "format='relion', **kwargs",
        "from_df": "df, format='relion', **kwargs",
    },
    "CopickMesh": {**DOCUMENT, "__init__": "run, meta, mesh=None"},
    "CopickSegmentation": {
        "__init__": "run, meta",
        "zarr": "",
        "numpy": f"{BOX}, channel=None",
        "from_numpy": "data, levels=1, dtype=None",
        "set_region": f"data, {BOX}, channel=None",
        "instance_ids": "zarr_group='0', object_name=None",
        "segments": "zarr_group='0'",
        "label_volume": "zarr_group='0'",
        "instance_volume": "object_name, zarr_group='0'",
        "delete": "",
        "refresh": "",
    },
    "CopickFilaments": {
        **DOCUMENT,
        "__init__": "run, file",
        "get": "instance_id",
        "instance_ids": "",
        "numpy": "",
        "from_numpy": f"polylines, instance_ids=None, {COLUMNS}",
        "from_curves": f"curves, instance_ids=None, {COLUMNS}",
        "from_control_points": "control_points, instance_ids=None, step=None, kind='catmull-rom', alpha=0.5, "
        + COLUMNS,
        "control_points": "",
        "editable_curve": "instance_id, tolerance=None, kinds=copick.util.filaments.CURVE_KINDS",
    },
}
PROPERTIES = {
    "CopickRoot": "user_id session_id runs pickable_objects fs_overlay fs_static root_overlay root_static static_is_overlay "
    "_runs",
    "CopickObject": "name is_particle label color emdb_id pdb_id identifier map_threshold radius metadata filament "
    "is_filament read_only",
    "CopickRun": "root name split voxel_spacings picks meshes segmentations filaments _voxel_spacings _picks _meshes "
    "_segmentations _filaments",
    "CopickVoxelSpacing": "run voxel_size tomograms _tomograms",
    "CopickTomogram": "voxel_spacing tomo_type features read_only static_path overlay_path static_stem overlay_stem "
    "fs_static fs_overlay",
    "CopickFeatures": "tomogram tomo_type feature_type read_only path fs",
    "CopickPicks": "run pickable_object_name user_id session_id trust_orientation from_tool from_user points color path "
    "directory fs read_only",
    "CopickMesh": "run pickable_object_name user_id session_id from_tool from_user mesh color path directory fs read_only",
    "CopickSegmentation": "run name user_id session_id is_multilabel is_instance is_panoptic voxel_size from_tool from_user "
    "segmentation_type directory color path fs read_only",
    "CopickFilaments": "run pickable_object_name user_id session_id from_tool from_user filaments voxel_spacing color path "
    "directory fs read_only",
}
SETTABLE = {
    "CopickRoot": "user_id session_id _runs",
    "CopickRun": "name _voxel_spacings _picks _meshes _segmentations _filaments",
    "CopickVoxelSpacing": "_tomograms",
    "CopickTomogram": "features",
    "CopickPicks": "points",
    "CopickMesh": "mesh",
    "CopickFilaments": "filaments",
}
FUNCTIONS = {
    "from_file": "path",
    "from_string": "data",
    "new_config": "config, overlay_root, proj_name='copick project', proj_description='', pickable_objects=None",
}
STAR = "filaments_uri=None, tomo_type=None, coordinates='auto'"
POSES = "filament_angles='frame', half_sets=None"
SELECTED = "picks_uri=None, segmentation_uri=None, tomogram_uri=None, output_format=None, voxel_spacing=None, level=0, "
SELECTED += "compression=None, include_optics=True, run_to_index=None"
OPTIONS = "log=False, tilt_series_pixel_size=None, tomograms_star=None, filament_columns='auto'"
MORE = f"channel=None, polarity_from_filaments=True, {STAR}, {POSES}"
LINKS = (
    "run_name_prefix='', run_name_regex=None, picks_uris=None, meshes_uris=None, segmentations_uris=None, "
)
LINKS += "tomograms_uris=None, features_uris=None"
OPERATIONS = {
    "export.export_picks": "picks, output_path, output_format, voxel_spacing=None, include_optics=True, run_name=None, "
    f"tomogram_index=1, {OPTIONS}, polarity_from_filaments=True, {STAR}, {POSES}",
    "export.export_relion_particles": "root, picks_uri, output_path, *, voxel_spacing=None, run_names=None, "
    "layout='particles', tomo_type=None, tomogram_centers=None, tilt_series_pixel_size=None, tomograms_star=None, "
    "coordinates='auto', include_optics=True, filament_columns='auto', polarity_from_filaments=True, filaments_uri=None, "
    f"allow_empty=False, {POSES}",
    "export.export_picks_combined": "config, output_file, picks_uri, output_format, voxel_spacing=None, run_names=None, "
    f"run_to_index=None, include_optics=True, {OPTIONS}, polarity_from_filaments=True, {STAR}, star_layout='particles', {POSES}",
    "export.export_tomogram": "tomogram, output_path, output_format, level=0, compression=None, copy_all_levels=True, log=False",
    "export.export_segmentation": "segmentation, output_path, output_format, level=0, compression=None, "
    "copy_all_levels=True, log=False, channel=None",
    "export.export_run": f"run, output_dir, {SELECTED}, {OPTIONS}, {MORE}",
    "export.export": f"config, output_dir, run_names=None, {SELECTED}, n_workers=8, {OPTIONS}, {MORE}",
    "deposit.deposit_run": f"run, target_dir, {LINKS}",
    "deposit.deposit": f"config, target_dir, run_names=None, {LINKS}, n_workers=8",
}
"""Of `copick.ops`."""

OWN: dict[str, list[tuple[str, Any]]] = {
    "CopickRoot.__init__": [("layer", None)],
    "CopickTomogram.delete_features": [("feature_type", None)],
    "from_file": [("cache", None)],
    "from_string": [("cache", None)],
}
"""What may be passed by position beyond that."""


def expected(parameters: str) -> inspect.Signature:
    namespace = {"np": np, "ALL": ALL, "copick": copick}
    return inspect.signature(eval(f"lambda {parameters}: None", namespace))


def compare(function: Any, parameters: str, bound: bool) -> None:
    """Callers that were written for `parameters` can call `function`."""
    ours = [*inspect.signature(function).parameters.values()][bound:]
    wanted = [*expected(parameters).parameters.values()]

    def of(found: list[inspect.Parameter], *kinds: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in found if p.kind in kinds]

    positional, named, rest = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    )
    assert of(ours, positional) == [*of(wanted, positional), *OWN.get(function.__qualname__, [])]
    assert set(of(wanted, named)) <= set(of(ours, named))
    if of(wanted, rest):
        assert of(ours, rest)
    assert not of(ours, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)


@pytest.mark.parametrize(
    ("cls", "method"), [(cls, method) for cls, methods in METHODS.items() for method in methods]
)
def test_methods(cls: str, method: str) -> None:
    compare(getattr(getattr(copick.models, cls), method), METHODS[cls][method], True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    compare(getattr(copick, name), FUNCTIONS[name], False)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    module, function = name.split(".")
    compare(getattr(getattr(copick.ops, module), function), OPERATIONS[name], False)


@pytest.mark.parametrize("cls", PROPERTIES)
def test_properties(cls: str) -> None:
    entity = getattr(copick.models, cls)
    for name in PROPERTIES[cls].split():
        assert isinstance(inspect.getattr_static(entity, name), property), name
    for name in SETTABLE.get(cls, "").split():
        assert inspect.getattr_static(entity, name).fset is not None, name


def test_what_new_arguments_are_called() -> None:
    """Every query, getter, creator and delete takes `layers=`, by name only."""
    for cls in METHODS:
        entity = getattr(copick.models, cls)
        for name, method in inspect.getmembers(entity, inspect.isfunction):
            if name.startswith(("query", "get_", "new_", "delete")) and not name.endswith(
                ("_object", "_cache_stats")
            ):
                layers = inspect.signature(method).parameters["layers"]
                assert (layers.kind, layers.default) == (inspect.Parameter.KEYWORD_ONLY, None), (cls, name)
