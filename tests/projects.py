"""Small projects for tests of entities."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

import copick

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot

OBJECTS = [
    {"name": "ribosome", "is_particle": True, "label": 1, "color": [0, 117, 220, 255], "radius": 150.0},
    {"name": "membrane", "is_particle": False, "label": 2},
]
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
