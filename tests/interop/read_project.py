"""Write down, as JSON, everything that a reader of a project can see through the API.

    python read_project.py FOLDER/project.json OUT.json

Runs unchanged under copick 1.31 and under this package. Arrays and meshes are given as digests of their content. What fails is
given as the name of the error, so that one broken item hides nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

import copick

if TYPE_CHECKING:
    from collections.abc import Callable

Dump = dict[str, Any]


def attempt(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 (whatever it is)
        builtin = next(base for base in type(error).__mro__ if base.__module__ == "builtins")
        return {"error": builtin.__name__}


def digest(values: Any) -> str:
    """Of shape, type and content, whatever the byte order."""
    array = np.ascontiguousarray(values)
    array = array.astype(array.dtype.newbyteorder("<"))
    return f"{array.dtype.name}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def rounded(level: str, values: Any) -> Any:
    """Means differ in their last digits, by how they are summed."""
    return values if level == "0" or values.dtype.kind != "f" else np.round(values, 3)


def relative(path: str) -> str:
    return os.path.relpath(path)


def arrays(item: Any) -> Dump:
    """The levels of a volume, as zarr shows them."""
    group = zarr.open_group(item.zarr(), mode="r")
    if not list(group.arrays()):
        raise KeyError("nothing in it yet")
    return {
        "attributes": dict(group.attrs),
        "levels": {
            name: {
                "values": digest(rounded(name, array[...])),
                "fill": repr(np.asarray(array.fill_value).tolist()),
            }
            for name, array in sorted(group.arrays())
        },
    }


def volume(item: Any) -> Dump:
    part = slice(1, 3)
    seen = {
        "read_only": item.read_only,
        "arrays": attempt(lambda: arrays(item)),
        "numpy": attempt(lambda: digest(item.numpy())),
        "part": attempt(lambda: digest(item.numpy("0", x=part, y=slice(None, None, 2), z=slice(-2, None)))),
        "level 1": attempt(lambda: digest(rounded("1", item.numpy("1")))),
    }
    if "error" not in seen["arrays"]:
        seen["default mode"] = sorted(zarr.open(item.zarr()).array_keys())
    return seen


def features(item: Any) -> Dump:
    seen = {
        "tomo_type": item.tomo_type,
        "read_only": item.read_only,
        "path": relative(item.path),
        "arrays": attempt(lambda: arrays(item)["levels"]),
        "numpy": attempt(lambda: digest(item.numpy())),
    }
    part = (slice(None), slice(1, 3), slice(1, 3), slice(0, 2))
    return {**seen, "part": attempt(lambda: digest(item.numpy(slices=part)))}


def tomogram(item: Any) -> Dump:
    return {
        **volume(item),
        "paths": [relative(path) for path in (item.overlay_path, item.static_path)],
        "features": {each.feature_type: features(each) for each in item.features},
    }


def annotation(item: Any) -> Dump:
    return {
        "key": [item.user_id, item.session_id, item.pickable_object_name],
        "read_only": item.read_only,
        "from_tool": item.from_tool,
        "from_user": item.from_user,
        "path": relative(item.path),
        "directory": relative(item.directory),
    }


def picks(item: Any) -> Dump:
    seen = {**annotation(item), "color": attempt(lambda: list(item.color))}
    return {**seen, "content": attempt(lambda: points(item))}


def points(item: Any) -> Dump:
    locations, transforms = item.numpy()
    document = item.meta.model_dump()
    return {
        "document": {**{name: document[name] for name in type(item.meta).model_fields}, "points": None},
        "locations": digest(locations),
        "transforms": digest(transforms),
        "positions": digest(item.full_positions()),
        "ids": item.instance_ids().tolist(),
        "scores": item.scores().tolist(),
    }


def mesh(item: Any) -> Dump:
    parts = item.mesh.geometry
    return {
        **annotation(item),
        "color": attempt(lambda: list(item.color)),
        "parts": {name: [digest(part.vertices), digest(part.faces)] for name, part in sorted(parts.items())},
        "bounds": None if item.mesh.bounds is None else np.round(item.mesh.bounds, 6).tolist(),
    }


def filaments(item: Any) -> Dump:
    seen = annotation(item)
    polylines = [digest(np.round(points, 6)) for points in item.numpy()]
    document = item.meta.model_dump(mode="json")
    for each in document["filaments"]:
        del each["points"]
    return {
        **seen,
        "polylines": polylines,
        "ids": [int(each) for each in item.instance_ids()],
        "document": document,
    }


def segmentation(item: Any) -> Dump:
    return {
        **volume(item),
        "key": [item.voxel_size, item.user_id, item.session_id, item.name, item.segmentation_type],
        "flags": [item.is_multilabel, item.is_instance, item.is_panoptic],
        "from_tool": item.from_tool,
        "path": relative(item.path),
        "directory": item.directory,
        "color": list(item.color),
        "channel": attempt(lambda: digest(item.numpy(channel="instance"))),
    }


def in_order(items: list[Dump]) -> list[Dump]:
    return sorted(items, key=lambda item: (item["key"], item["read_only"]))


def run(item: Any) -> Dump:
    found = item.get_segmentations(is_instance=None, is_panoptic=None)
    return {
        "paths": [relative(path) for path in (item.overlay_path, item.static_path)],
        "voxel_spacings": {
            f"{spacing.voxel_size:.3f}": {each.tomo_type: tomogram(each) for each in spacing.tomograms}
            for spacing in item.voxel_spacings
        },
        "picks": attempt(lambda: in_order([picks(each) for each in item.picks])),
        "meshes": attempt(lambda: in_order([mesh(each) for each in item.meshes])),
        "filaments": attempt(lambda: in_order([filaments(each) for each in item.filaments])),
        "segmentations": in_order([segmentation(each) for each in found]),
        "plain segmentations": len(item.get_segmentations()),
        "all segmentations": len(item.segmentations),
        "of the user": attempt(
            lambda: [len(item.user_picks()), len(item.user_meshes()), len(item.user_segmentations())]
        ),
        "of tools": attempt(
            lambda: [len(item.tool_picks()), len(item.tool_meshes()), len(item.tool_segmentations())]
        ),
    }


def copick_object(item: Any) -> Dump:
    meta = item.meta.model_dump(mode="json")
    seen = {"meta": meta, "go_id": item.meta.go_id, "read_only": item.read_only}
    if item.is_particle:
        seen["paths"] = [relative(path) for path in (item.overlay_path, item.static_path)]
        seen["numpy"] = attempt(lambda: digest(item.numpy()))
    return seen


def root(project: Any) -> Dump:
    config = project.config.model_dump(mode="json")
    return {
        "type": type(project).__name__,
        "config": {name: config[name] for name in COMMON_FIELDS},
        "roots": [relative(project.root_overlay), relative(project.root_static)],
        "static_is_overlay": project.static_is_overlay,
        "user": [project.user_id, project.session_id],
        "objects": {item.name: copick_object(item) for item in project.pickable_objects},
        "runs": {item.name: run(item) for item in project.runs},
        "missing": [project.get_run("nope"), project.get_object("nope")],
    }


COMMON_FIELDS = (
    "config_type",
    "name",
    "description",
    "version",
    "pickable_objects",
    "user_id",
    "session_id",
    "runs",
    "voxel_spacings",
    "tomograms",
    "overlay_root",
    "overlay_fs_args",
    "static_root",
    "static_fs_args",
)


def main(config: Path, out: Path) -> None:
    os.chdir(config.parent)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    seen = root(copick.from_file(config.name))
    out.write_text(json.dumps(seen, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
