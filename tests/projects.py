"""Small projects, and layers that hold one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

import copick
from copick.config import CopickConfigFS
from copick.layers.filesystem import FilesystemLayer

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun, CopickTomogram

OBJECTS = [
    {"name": "ribosome", "is_particle": True, "label": 1, "color": [0, 117, 220, 255], "radius": 150.0},
    {"name": "membrane", "is_particle": False, "label": 2},
]
WBP = "ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr"
V3 = "ExperimentRuns/TS_1/VoxelSpacing10.000/v3.zarr"
VOLUME = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)


def opened(tmp_path: Path, **fields: Any) -> CopickRoot:
    """A project of a work layer over a read-only archive."""
    config = {
        "config_type": "multilayer",
        "user_id": "me",
        "pickable_objects": OBJECTS,
        "layers": ["work", "archive"],
        "layer_configs": {
            "work": {"config_type": "filesystem", "root": str(tmp_path / "work")},
            "archive": {"config_type": "filesystem", "root": str(tmp_path / "archive"), "read_only": True},
        },
        **fields,
    }
    path = tmp_path / "project.json"
    path.write_text(json.dumps(config))
    return copick.from_file(path)


def alone(root: Path, **fields: Any) -> CopickRoot:
    config = {"config_type": "filesystem", "root": str(root), "user_id": "them", "pickable_objects": OBJECTS}
    return copick.from_string(json.dumps({**config, **fields}))


def archived(tmp_path: Path, root: object, cached: bool, **fields: Any) -> CopickRoot:
    """A work layer over a read-only archive at `root`, which may be cached; `fields` are the archive's."""
    layers = {
        "work": {"config_type": "filesystem", "root": str(tmp_path / "work")},
        "archive": {"config_type": "filesystem", "root": str(root), "read_only": True, **fields},
    }
    cache = {"root": str(tmp_path / "cache"), "parent_layer": "archive"}
    tmp_path.mkdir(exist_ok=True)
    return opened(tmp_path, layer_configs=layers, cache_config=cache if cached else None)


def run_of(root: CopickRoot) -> CopickRun:
    run = root.get_run("TS_1")
    assert run is not None
    return run


def tomogram_of(root: CopickRoot, tomo_type: str = "wbp") -> CopickTomogram:
    spacing = run_of(root).get_voxel_spacing(10.0)
    assert spacing is not None
    found = spacing.get_tomogram(tomo_type)
    assert found is not None
    return found


def files(root: object, name: str = "files", **fields: Any) -> FilesystemLayer:
    return FilesystemLayer(CopickConfigFS(root=str(root), **fields), name)
