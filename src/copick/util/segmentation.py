"""Types of segmentations: what they are called on disk, and which numbers they may hold.

binary: where one object is. multilabel: the labels of several objects. instance: the ids of the instances of one
object. panoptic: two channels, label and instance id of several objects.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

SEGMENTATION_TYPES = ("binary", "multilabel", "instance", "panoptic")
SEGMENTATION_TYPE_FILTERS = (*SEGMENTATION_TYPES, "all")

PANOPTIC_CHANNELS = ("label", "instance")
"""What the channels of a panoptic segmentation hold, in order."""

SEGMENTATION_DIRECTORIES = {
    "binary": "Segmentations",
    "multilabel": "Segmentations",
    "instance": "InstanceSegmentations",
    "panoptic": "PanopticSegmentations",
}
"""Where in a run's directory each type lies."""

MULTILABEL_SUFFIX = "-multilabel"
RESERVED_NAME_SUFFIXES = (MULTILABEL_SUFFIX,)
"""How names must not end: a binary segmentation of such a name would read back as a multilabel one."""

_STORE_NAME = re.compile(
    r"(?P<voxel_size>[^_]+)_(?P<user_id>[^_]+)_(?P<session_id>[^_]+)_(?P<name>.+)", re.DOTALL
)


def segmentation_type(
    is_multilabel: bool = False, is_instance: bool = False, is_panoptic: bool = False
) -> str:
    """The type that the flags stand for. Raises ValueError if more than one is set."""
    types = [
        name
        for name, flag in zip(SEGMENTATION_TYPES[1:], (is_multilabel, is_instance, is_panoptic), strict=True)
        if flag
    ]
    if len(types) > 1:
        raise ValueError(f"a segmentation has one type, not {' and '.join(types)}")
    return types[0] if types else "binary"


def segmentation_type_query(segmentation_type: str | None = None) -> dict[str, bool | None]:
    """Keywords of `run.get_segmentations` that select a type, "all" types, or (None) binary and multilabel ones.

    Raises:
        ValueError: There is no such type.
    """
    if segmentation_type == "all":
        return {"is_multilabel": None, "is_instance": None, "is_panoptic": None}
    if segmentation_type not in (None, *SEGMENTATION_TYPES):
        raise ValueError(
            f"there is no segmentation type {segmentation_type!r}; use one of {', '.join(SEGMENTATION_TYPE_FILTERS)}"
        )
    return {
        "is_multilabel": None if segmentation_type is None else segmentation_type == "multilabel",
        "is_instance": segmentation_type == "instance",
        "is_panoptic": segmentation_type == "panoptic",
    }


def segmentation_directory(
    is_multilabel: bool = False, is_instance: bool = False, is_panoptic: bool = False
) -> str:
    """Where in a run's directory such a segmentation lies. Raises ValueError if more than one flag is set."""
    return SEGMENTATION_DIRECTORIES[segmentation_type(is_multilabel, is_instance, is_panoptic)]


def segmentation_store_name(
    voxel_size: float,
    user_id: str,
    session_id: str,
    name: str,
    *,
    is_multilabel: bool = False,
    is_instance: bool = False,
    is_panoptic: bool = False,
) -> str:
    """The name of a segmentation's directory; `voxel_size` in ångström, written to three decimals.

    The parts are taken as they are: `copick.util.escape.sanitize_name` makes them fit to be read back.

    Raises:
        ValueError: More than one flag is set.
    """
    kind = segmentation_type(is_multilabel, is_instance, is_panoptic)
    suffix = MULTILABEL_SUFFIX if kind == "multilabel" else ""
    return f"{voxel_size:.3f}_{user_id}_{session_id}_{name}{suffix}.zarr"


def parse_segmentation_store_name(store_name: str, directory: str = "Segmentations") -> dict[str, Any] | None:
    """What the name of a segmentation's directory says: the fields of its metadata. None: it is no such name.

    Args:
        store_name: With or without `.zarr`.
        directory: One of SEGMENTATION_DIRECTORIES.

    Raises:
        ValueError: No segmentations lie in such a directory.
    """
    types = [name for name, each in SEGMENTATION_DIRECTORIES.items() if each == directory]
    if not types:
        raise ValueError(
            f"no segmentations lie in {directory!r}; use one of {', '.join(sorted(set(SEGMENTATION_DIRECTORIES.values())))}"
        )
    stem = store_name.removesuffix(".zarr")
    is_multilabel = "multilabel" in types and stem.endswith(MULTILABEL_SUFFIX)
    match = _STORE_NAME.fullmatch(stem.removesuffix(MULTILABEL_SUFFIX) if is_multilabel else stem)
    if match is None:
        return None
    try:
        voxel_size = float(match["voxel_size"])
    except ValueError:
        return None
    if not 0 < voxel_size < math.inf:
        return None
    return {
        **match.groupdict(),
        "voxel_size": voxel_size,
        "is_multilabel": is_multilabel,
        "is_instance": "instance" in types,
        "is_panoptic": "panoptic" in types,
    }


def list_segmentation_stores(fs: Any, run_path: str) -> list[dict[str, Any]]:
    """The fields of the metadata of each segmentation in a run's directory, in order of type and name.

    Args:
        fs: An fsspec file system.
        run_path: The run's directory on it.
    """
    found = []
    for directory in dict.fromkeys(SEGMENTATION_DIRECTORIES.values()):
        try:
            entries = fs.ls(f"{run_path.rstrip('/')}/{directory}", detail=True)
        except FileNotFoundError:
            continue
        # A symbolic link is listed as neither file nor directory.
        paths = (
            entry["name"].rstrip("/")
            for entry in entries
            if entry["type"] == "directory" or (entry["type"] != "file" and fs.isdir(entry["name"]))
        )
        names = sorted(path.rpartition("/")[2] for path in paths if path.endswith(".zarr"))
        fields = (parse_segmentation_store_name(name, directory) for name in names if name[0] != ".")
        found += [each for each in fields if each is not None]
    return found


def panoptic_channel_index(channel: str | int) -> int:
    """0 for "label" and 1 for "instance"; an index is returned as it is.

    Raises:
        ValueError: There is no such channel.
    """
    if isinstance(channel, str) and channel in PANOPTIC_CHANNELS:
        return PANOPTIC_CHANNELS.index(channel)
    if isinstance(channel, int | np.integer) and not isinstance(channel, bool) and channel in (0, 1):
        return int(channel)
    raise ValueError(
        f"there is no panoptic channel {channel!r}; use one of {', '.join(PANOPTIC_CHANNELS)}, or 0 or 1"
    )


def check_panoptic_values(
    labels: npt.NDArray[Any], instances: npt.NDArray[Any], known_labels: Iterable[int]
) -> None:
    """Whether the two channels of a panoptic segmentation make sense together.

    Args:
        labels, instances: The channels, of one shape.
        known_labels: The labels of the project's objects.

    Raises:
        ValueError: A label is that of no object, or the background (label 0) has instance ids.
    """
    known = sorted({0, *known_labels})
    unknown = np.unique(labels[~np.isin(labels, known)])
    if unknown.size:
        raise ValueError(
            f"the label channel holds {_few(unknown)}, which is the label of no object; "
            f"the project's objects have {_few(known[1:]) or 'none'}"
        )
    stray = int(np.count_nonzero(instances[labels == 0]))
    if stray:
        raise ValueError(
            f"{stray} background voxels (label 0) have an instance id; an instance belongs to an object"
        )


def _few(values: Any, limit: int = 10) -> str:
    shown = [f"{value}" for value in values[:limit]]
    return ", ".join([*shown, "..."] if len(values) > limit else shown)


def label_dtype(data: npt.ArrayLike, floor: npt.DTypeLike = np.uint8) -> np.dtype[Any]:
    """The smallest unsigned type that holds the labels in `data`, but not below `floor`.

    Raises:
        ValueError: A label is negative, fractional, not finite or too large for any.
    """
    from copick.ome import smallest_unsigned

    return max(smallest_unsigned(np.asarray(data)), np.dtype(floor))


def checked_label_cast(data: npt.ArrayLike, dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
    """`data` as `dtype`, each label unchanged; None leaves the type.

    Raises:
        ValueError: `dtype` cannot hold the labels.
    """
    from copick.ome import exact_cast

    values = np.asarray(data)
    if dtype is None:
        return values
    target = np.dtype(dtype)
    if target.kind == "f" and values.dtype.kind in "iu" and values.size:
        limit = 2 ** (np.finfo(target).nmant + 1)
        if int(values.max()) > limit or int(values.min()) < -limit:
            raise ValueError(
                f"labels from {values.min()} to {values.max()} are not exact as {target} (up to {limit} are)"
            )
    return exact_cast(values, target, "segmentation")
