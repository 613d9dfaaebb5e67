"""Write a project with every kind of entity in it, through the API that copick 1.31 and this package share.

    python make_project.py FOLDER

Runs unchanged under either. FOLDER gets `project.json`, `static/` and `overlay/`; the config names the two by relative
paths, so the project can be moved. Everything written is the same each time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import trimesh
import zarr

import copick

OBJECTS = [
    {
        "name": "ribosome",
        "is_particle": True,
        "label": 1,
        "color": [0, 117, 220, 255],
        "go_id": "GO:0022626",
        "pdb_id": "4V9D",
        "emdb_id": "EMD-3883",
        "map_threshold": 0.037,
        "radius": 150.0,
        "metadata": {"source": "hand", "nested": {"list": [1, 2.5, None]}},
    },
    {"name": "membrane", "is_particle": False, "label": 2, "color": [153, 63, 0, 255]},
    {
        "name": "microtubule",
        "is_particle": True,
        "label": 7,
        "metadata": {"copick": {"filament": {"polar": True, "helical_rise_a": 8.2}}},
    },
    {"name": "β-gal.2+x", "is_particle": True, "label": None},
]
CONFIG = {
    "config_type": "filesystem",
    "name": "interop",
    "description": "Every kind of entity",
    "version": "1.4.0",
    "pickable_objects": OBJECTS,
    "user_id": "alice",
    "session_id": "s1",
    "overlay_fs_args": {"auto_mkdir": True},
    "static_fs_args": {},
}
PLAIN_POINT = {"location": {"x": 1.5, "y": 2.5, "z": 3.5}}


def write_config(folder: Path, name: str, **fields: object) -> Path:
    path = folder / name
    path.write_text(json.dumps({**CONFIG, **fields}, indent=4, ensure_ascii=False), encoding="utf-8")
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labels(seed: int, *shape: int, values: tuple[int, ...] = (0, 1)) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, size=shape).astype(np.uint8)


def turned(n: int) -> np.ndarray:
    """(n, 4, 4) rotations about z, each with a shift."""
    matrices = np.tile(np.eye(4), (n, 1, 1))
    for at, matrix in enumerate(matrices):
        sine, cosine = np.sin(at), np.cos(at)
        matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
        matrix[:3, 3] = [at, -at / 3, 0.1]
    return matrices


def fill_tomograms(run: copick.models.CopickRun) -> None:
    spacing = run.new_voxel_spacing(10.0)
    wbp = spacing.new_tomogram("wbp")
    wbp.from_numpy(noise(1, 9, 10, 11))
    wbp.set_region(np.full((2, 2, 2), 5, np.float32), x=slice(0, 2), y=slice(3, 5), z=slice(4, 6))
    spacing.new_tomogram("denoised-2.0").from_numpy(noise(2, 8, 8, 8), levels=2, dtype=np.float16)
    fill_features(wbp.new_features("sobel"), noise(3, 2, 9, 10, 11))
    spacing.new_tomogram("empty")
    run.new_voxel_spacing(7.84).new_tomogram("wbp").from_numpy(noise(4, 3, 4, 5), levels=1)


def fill_features(features: copick.models.CopickFeatures, values: np.ndarray) -> None:
    if hasattr(features, "from_numpy"):
        features.from_numpy(values)
    else:  # copick 1.x has no such method: its users write the array themselves
        zarr.group(features.zarr(), overwrite=True).create_dataset("0", data=values, chunks=(1, 4, 4, 4))


def fill_annotations(run: copick.models.CopickRun) -> None:
    picks = run.new_picks("ribosome", "s1")
    picks.from_numpy(noise(5, 6, 3) * 100, turned(6), np.arange(6), np.linspace(0, 1, 6))
    picks.meta.trust_orientation = False
    picks.store()
    run.new_picks("ribosome", "0", "template-matching").from_numpy(noise(6, 3, 3))
    run.new_picks("microtubule", "empty")
    run.new_picks("β-gal.2+x", "s.1+2", "bob.m")

    mesh = run.new_mesh("membrane", "s1")
    mesh.mesh = trimesh.creation.box(extents=(100.0, 50.0, 25.0))
    mesh.store()
    run.new_mesh("membrane", "0", "mesher")

    filaments = run.new_filaments("microtubule", "s1")
    filaments.from_numpy([noise(7, 5, 3) * 100, noise(8, 2, 3)], scores=[0.5, 1.0], radii=[120.0, None])
    run.new_filaments("microtubule", "0", "tracer").from_control_points([noise(9, 4, 3) * 100], step=10.0)

    run.new_segmentation(10.0, "membrane", "s1").from_numpy(labels(10, 9, 10, 11))
    run.new_segmentation(10.0, "all", "s1", True).from_numpy(
        labels(11, 9, 10, 11, values=(0, 1, 2, 7)), levels=3
    )
    instances = np.arange(9 * 10 * 11).reshape(9, 10, 11) // 100
    run.new_segmentation(10.0, "ribosome", "s1", is_instance=True).from_numpy(instances)
    foreground = labels(12, 9, 10, 11, values=(0, 1, 2))
    panoptic = np.stack([foreground, instances * (foreground > 0)])
    run.new_segmentation(10.0, "everything", "s1", is_panoptic=True).from_numpy(panoptic)
    run.new_segmentation(7.84, "membrane", "none-yet")


def write_array(folder: Path, separator: str | None, nested: bool) -> None:
    """A zarr v2 array (2, 3, 4) in one chunk, in a group without attributes. `separator`: what it says its keys have."""
    array = {
        "zarr_format": 2,
        "shape": [2, 3, 4],
        "chunks": [2, 3, 4],
        "dtype": ">i2",
        "order": "F",
        "compressor": None,
        "filters": None,
        "fill_value": 0,
        **({"dimension_separator": separator} if separator else {}),
    }
    chunk = folder / ("0/0/0" if nested else "0.0.0")
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(np.arange(24, dtype=">i2").reshape(2, 3, 4).tobytes(order="F"))
    (folder / ".zarray").write_text(json.dumps(array))
    (folder.parent / ".zgroup").write_text(json.dumps({"zarr_format": 2}))


def fill_by_hand(static: Path) -> None:
    """What people and other tools leave in such folders."""
    runs = static / "ExperimentRuns"
    bare = runs / "by hand"
    (bare / "Picks").mkdir(parents=True)
    write = json.dumps
    (bare / "Picks" / "carol_1_ribosome.json").write_text(
        write(
            {
                "pickable_object_name": "ribosome",
                "user_id": "carol",
                "session_id": "1",
                "points": [PLAIN_POINT],
            }
        )
    )
    (bare / "Picks" / "carol_2_ribosome.json").write_text(
        write(
            {
                "pickable_object_name": "ribosome",
                "user_id": "carol",
                "session_id": "2",
                "run_name": "another run",
                "voxel_spacing": 10,
                "unit": "angstrom",
                "points": [{**PLAIN_POINT, "instance_id": 4, "score": 0.25, "note": "kept"}],
                "who": "a newer tool",
            }
        )
    )
    (bare / "Picks" / "carol_3_unheard-of.json").write_text(
        write({"pickable_object_name": "unheard-of", "user_id": "carol", "session_id": "3"})
    )
    (bare / "Picks" / "notes.txt").write_text("not picks")
    (bare / "Picks" / ".carol_4_ribosome.json").write_text("{")
    (bare / "notes").mkdir()

    write_array(bare / "VoxelSpacing12.500" / "bare.zarr" / "0", "/", nested=True)

    (bare / "Segmentations" / "12.500_carol_1_with_under_scores.zarr").mkdir(parents=True)
    (bare / "Segmentations" / "ten_carol_1_membrane.zarr").mkdir()
    (runs / ".hidden").mkdir()
    (runs / "README.txt").write_text("not a run")
    with contextlib.suppress(OSError):  # Windows lets few users do this
        os.symlink("by hand", runs / "a link")


def fill_with_oddities(run: Path) -> None:
    """What copick 1.31 stumbles over."""
    (run / "Picks").mkdir(parents=True)
    picks = {"user_id": "carol", "session_id": "1", "points": [PLAIN_POINT]}
    for name, document in {
        "carol_1_ribosome": {**picks, "pickable_object_name": "ribosome"},
        "carol_1_beta_gal": {**picks, "pickable_object_name": "beta_gal"},
    }.items():
        (run / "Picks" / f"{name}.json").write_text(json.dumps(document))
    hidden = run.with_name(f"{run.name}, misnamed") / "Picks"
    hidden.mkdir(parents=True)
    shutil.copy(run / "Picks" / "carol_1_ribosome.json", hidden)
    (hidden / "ribosome.json").write_text("{}")
    for volume, separator in {
        "VoxelSpacing10.000/dotted.zarr": ".",
        "VoxelSpacing10.000/old-dotted.zarr": None,
        "VoxelSpacing10.000/old-nested.zarr": None,
        "VoxelSpacing10.000/myfeatures.zarr": "/",
        "VoxelSpacing5/wbp.zarr": "/",
    }.items():
        write_array(run / volume / "0", separator, nested=separator == "/" or "nested" in volume)


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.chdir(folder)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    alone = copick.from_file(write_config(folder, "static.json", overlay_root="static"))
    first = alone.new_run("TS_1")
    fill_tomograms(first)
    fill_annotations(first)
    alone.get_object("ribosome").from_numpy(noise(13, 6, 6, 6), 4.0)
    alone.new_run("run two.5+α")
    fill_by_hand(folder / "static")
    fill_with_oddities(folder / "static/ExperimentRuns/odd")

    both = copick.from_file(
        write_config(folder, "project.json", overlay_root="overlay", static_root="local://static")
    )
    run = both.get_run("TS_1")
    run.new_picks("ribosome", "s2").from_numpy(noise(14, 2, 3))
    spacing = run.get_voxel_spacing(10.0)
    spacing.new_tomogram("isonet").from_numpy(noise(15, 4, 4, 4))
    wbp = next(item for item in spacing.tomograms if item.tomo_type == "wbp")
    fill_features(wbp.new_features("mine"), noise(17, 1, 4, 4, 4))
    both.get_object("microtubule").from_numpy(noise(16, 5, 5, 5), 2.5)
    both.new_run("only in overlay").new_voxel_spacing(10.0)
    # The same picks in both layers: someone's copy of what is in the archive, changed since.
    theirs = folder / "static/ExperimentRuns/TS_1/Picks/template-matching_0_ribosome.json"
    copy = json.loads(theirs.read_text())
    copy["points"] = copy["points"][:1]
    (folder / "overlay/ExperimentRuns/TS_1/Picks" / theirs.name).write_text(json.dumps(copy))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
