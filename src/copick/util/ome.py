"""OME-Zarr under the names of copick 1.x and 2.0; the work is done in `copick.ome`.

A pyramid is a dict from voxel size (ångström) to array (z, y, x; c, z, y, x with channels), finest first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from copick import ome
from copick.errors import NotFoundError
from copick.util.segmentation import checked_label_cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import zarr
    from zarr.abc.store import Store

    Pyramid = dict[float, npt.NDArray[Any]]

UNITFACTOR = ome.ANGSTROM
"""Ångström per unit of length."""

DEFAULT_SPATIAL_CHUNKS = ome.CHUNKS
"""Chunks along z, y, x that are written unless told."""


def volume_pyramid(
    volume: npt.NDArray[Any], voxel_size: float, levels: int, dtype: npt.DTypeLike = np.float32
) -> Pyramid:
    """`volume` as `dtype` and `levels - 1` coarser copies, each of the means of 2×2×2 blocks.

    Raises:
        ValueError: `dtype` cannot hold the values.
    """
    return dict(ome.pyramid(ome.exact_cast(volume, dtype, "volume"), voxel_size, levels))


def segmentation_pyramid(
    segmentation: npt.NDArray[Any], voxel_size: float, levels: int, dtype: npt.DTypeLike | None = None
) -> Pyramid:
    """`segmentation` as `dtype` (None: its own) and `levels - 1` coarser copies, each of every second voxel.

    Raises:
        ValueError: `dtype` cannot hold the labels.
    """
    return dict(ome.pyramid(checked_label_cast(segmentation, dtype), voxel_size, levels, labels=True))


def ome_metadata(pyramid: Pyramid, channel_axis: bool = False) -> dict[str, Any]:
    """`axes`, and `coordinate_transformations` of each level, as NGFF writes them."""
    rank = _rank(pyramid, channel_axis)
    return {
        "axes": ome.axes(rank),
        "coordinate_transformations": [[ome.transformation(size, rank)] for size in pyramid],
    }


def write_ome_zarr_3d(
    store: Store | str,
    pyramid: Pyramid,
    chunk_size: tuple[int, ...] = ome.CHUNKS,
    channel_axis: bool = False,
    metadata: Mapping[str, Any] | None = None,
    *,
    zarr_format: Literal[2, 3] = 2,
) -> None:
    """Replace what `store` holds by a pyramid.

    Args:
        chunk_size: Along the last axes; 1 along those before them.
        channel_axis: Whether a channel axis stands before z, y, x.
        metadata: What else to say about the image.
        zarr_format: 2 writes NGFF 0.4, 3 writes NGFF 0.5.

    Raises:
        ValueError: An array does not have these axes.
    """
    ome.write_levels(
        store,
        pyramid.items(),
        rank=_rank(pyramid, channel_axis),
        chunks=chunk_size,
        metadata=metadata,
        zarr_format=zarr_format,
    )


def _rank(pyramid: Pyramid, channel_axis: bool) -> int:
    rank = 4 if channel_axis else 3
    for data in pyramid.values():
        if data.ndim != rank:
            raise ValueError(f"the axes are {'c, ' if channel_axis else ''}z, y, x; found shape {data.shape}")
    return rank


def get_multiscales(zarr_group: zarr.Group) -> list[dict[str, Any]]:
    """The group's multiscales metadata, NGFF 0.4 or 0.5. Raises NotFoundError (a KeyError) if there is none."""
    attributes: Mapping[str, Any] = dict(zarr_group.attrs)
    found: list[dict[str, Any]] | None = (attributes.get("ome") or attributes).get("multiscales")
    if not found:
        raise NotFoundError(f"{zarr_group.store_path} has no OME-Zarr multiscales metadata")
    return found


def get_level_path(zarr_group: zarr.Group, level: int) -> str:
    """The name of the array of a level; 0 is the finest. Raises ValueError if there is no such level."""
    levels = ome.levels({"multiscales": get_multiscales(zarr_group)}, str(zarr_group.store_path))
    if not 0 <= level < len(levels):
        raise ValueError(f"Level {level} not found in {zarr_group.store_path}; it has 0 to {len(levels) - 1}")
    return levels[level].path


def get_voxel_size_from_zarr(zarr_group: zarr.Group) -> float:
    """Voxel size of the finest level in ångström.

    Raises:
        NotFoundError: The group has no multiscales metadata (also a KeyError).
        FormatError: The metadata states no scale (also a ValueError).
    """
    return ome.voxel_size({"multiscales": get_multiscales(zarr_group)}, str(zarr_group.store_path))


def fits_in_memory(array: zarr.Array[Any], slices: Sequence[slice]) -> tuple[bool, int, int]:
    """Whether a region fits into memory: (it does, bytes it takes, bytes there are).

    Raises:
        ImportError: psutil, which knows, is not installed.
    """
    try:
        import psutil
    except ImportError as error:
        raise ImportError("free memory is known with psutil only: pip install 'copick[memory]'") from error
    from copick.arrays import Selection

    requested = math.prod(Selection.of(slices, array.shape).count) * array.dtype.itemsize
    available = int(psutil.virtual_memory().available)
    return requested <= available, requested, available
