"""Types of segmentations: what they are called on disk, and which numbers they may hold.

binary: where one object is. multilabel: the labels of several objects. instance: the ids of the instances of one
object. panoptic: two channels, label and instance id of several objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from copick.kinds import INSTANCE_SEGMENTATION, PANOPTIC_SEGMENTATION, SEGMENTATION
from copick.meta import CopickSegmentationMeta

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

SEGMENTATION_TYPES = ("binary", "multilabel", "instance", "panoptic")
SEGMENTATION_TYPE_FILTERS = (*SEGMENTATION_TYPES, "all")

PANOPTIC_CHANNELS = ("label", "instance")
"""What the channels of a panoptic segmentation hold, in order."""

_KINDS = {
    "binary": SEGMENTATION,
    "multilabel": SEGMENTATION,
    "instance": INSTANCE_SEGMENTATION,
    "panoptic": PANOPTIC_SEGMENTATION,
}
SEGMENTATION_DIRECTORIES = {name: kind.folder for name, kind in _KINDS.items()}
"""Where in a run's directory each type lies."""

RESERVED_NAME_SUFFIXES = tuple(SEGMENTATION.flags.values())
"""How names must not end: a binary segmentation of such a name would read back as a multilabel one."""


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

    Raises:
        ValueError: More than one flag is set, or the name would read back as something else:
            `copick.util.escape.sanitize_name` makes parts of names that do not.
    """
    kind = _KINDS[segmentation_type(is_multilabel, is_instance, is_panoptic)]
    meta = CopickSegmentationMeta.of(
        voxel_size=voxel_size, user_id=user_id, session_id=session_id, name=name, is_multilabel=is_multilabel
    )
    return kind.file_name(kind.key(meta))


def parse_segmentation_store_name(store_name: str, directory: str = "Segmentations") -> dict[str, Any] | None:
    """What the name of a segmentation's directory says: the fields of its metadata. None: it is no such name.

    Args:
        store_name: With or without `.zarr`.
        directory: One of SEGMENTATION_DIRECTORIES.

    Raises:
        ValueError: No segmentations lie in such a directory.
    """
    kinds = {kind.folder: kind for kind in _KINDS.values()}
    if directory not in kinds:
        raise ValueError(f"no segmentations lie in {directory!r}; use one of {', '.join(kinds)}")
    file_name = store_name.removesuffix(".zarr") + ".zarr"
    meta = kinds[directory].parse(file_name, f"{directory}/{file_name}")
    return None if meta is None else meta.model_dump()


def list_segmentation_stores(fs: Any, run_path: str) -> list[dict[str, Any]]:
    """The fields of the metadata of each segmentation in a run's directory, in order of type and name.

    Args:
        fs: An fsspec file system.
        run_path: The run's directory on it.
    """
    found = []
    for kind in dict.fromkeys(_KINDS.values()):
        try:
            entries = fs.ls(f"{run_path.rstrip('/')}/{kind.folder}", detail=True)
        except FileNotFoundError:
            continue
        # A symbolic link is listed as neither file nor directory.
        names = sorted(
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in entries
            if entry["type"] == "directory" or (entry["type"] != "file" and fs.isdir(entry["name"]))
        )
        metas = (kind.parse(name, f"{kind.folder}/{name}") for name in names if not kind.hides(name))
        found += [meta.model_dump() for meta in metas if meta is not None]
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
    # Floats hold whole numbers up to a limit; from a smaller float to a larger one nothing changes.
    narrows = values.dtype.kind in "iu" or values.dtype.itemsize > target.itemsize
    if target.kind == "f" and values.dtype.kind in "iuf" and narrows and values.size:
        limit = 2 ** (np.finfo(target).nmant + 1)
        if values.max() > limit or values.min() < -limit:
            raise ValueError(
                f"labels from {values.min()} to {values.max()} are not exact as {target} (up to {limit} are)"
            )
    return exact_cast(values, target, "segmentation")
