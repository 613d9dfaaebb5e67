"""OME-Zarr multiscale volumes: find their levels, write them.

Reads NGFF 0.4 (`.zattrs`) and 0.5 (`zarr.json`, under `ome`). Arrays are z, y, x, with axes that are not spatial
before them; voxel sizes in ångström.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from copick.errors import FormatError
from copick.util import stopping
from copick.util.progress import Progress

if TYPE_CHECKING:
    import numpy.typing as npt
    import zarr
    from zarr.abc.store import Store

CHUNKS = (256, 256, 256)

CHANNEL = {"name": "c", "type": "channel"}
FEATURE = {"name": "feature"}
"""Axes that are not spatial."""

_POWERS = {
    "yocto": -24,
    "zepto": -21,
    "atto": -18,
    "femto": -15,
    "pico": -12,
    "nano": -9,
    "micro": -6,
    "milli": -3,
    "centi": -2,
    "deci": -1,
    "": 0,
    "deca": 1,
    "hecto": 2,
    "kilo": 3,
    "mega": 6,
    "giga": 9,
    "tera": 12,
    "peta": 15,
    "exa": 18,
    "zetta": 21,
    "yotta": 24,
}
ANGSTROM = {
    "angstrom": 1.0,
    **{f"{prefix}meter": float(f"1e{10 + power}") for prefix, power in _POWERS.items()},
    "inch": 2.54e8,
    "foot": 3.048e9,
    "yard": 9.144e9,
    "mile": 1.609344e13,
    "parsec": 3.0856775814913673e26,
}
"""Ångström per unit of length that NGFF knows."""


class Level(NamedTuple):
    """One resolution of a volume."""

    path: str
    scale: tuple[float, ...]
    """Voxel size along the array's axes; ångström for spatial ones. Empty: the metadata state none."""


def levels(attributes: Mapping[str, Any], where: str) -> list[Level]:
    """The levels that a group's attributes describe, finest first; none if they describe no multiscale image.

    Raises:
        FormatError: They claim to, but cannot be understood.
    """
    ome = attributes.get("ome")
    multiscales = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    if not multiscales:
        return []
    try:
        image = multiscales[0]
        units = [_factor(axis) for axis in image.get("axes", [])]
        return [Level(str(item["path"]), _scale(item, image, units)) for item in image["datasets"]]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise FormatError(f"{where}: the multiscales metadata cannot be understood ({error!r})") from error


def _factor(axis: Any) -> float:
    """Ångström per unit of an axis; 1 if it is no length. (NGFF before 0.4 names axes by a letter.)"""
    unit = axis.get("unit") if isinstance(axis, Mapping) else None
    return ANGSTROM.get(str(unit), 1.0)


def _scale(item: Mapping[str, Any], image: Mapping[str, Any], units: Sequence[float]) -> tuple[float, ...]:
    steps = [*item.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]
    total: list[float] = []
    for step in steps:
        if step.get("type") == "scale":
            factors = [float(value) for value in step["scale"]]
            total = [a * b for a, b in zip(total, factors, strict=True)] if total else factors
    if not total:
        return ()
    return tuple(value * unit for value, unit in zip(total, units or [1.0] * len(total), strict=True))


def voxel_size(attributes: Mapping[str, Any], where: str) -> float:
    """Voxel size of the finest level in ångström. Raises FormatError if the attributes state none."""
    found = levels(attributes, where)
    if not found or len(found[0].scale) < 3:
        raise FormatError(f"{where}: states no voxel size (no multiscales metadata with a scale)")
    return found[0].scale[-3]


def axes(rank: int, leading: Mapping[str, str] = CHANNEL) -> list[dict[str, str]]:
    """The axes of an array: the last three are z, y, x; what stands before them is `leading`."""
    names = [leading["name"]] if rank == 4 else [f"{leading['name']}{i}" for i in range(rank - 3)]
    before = [{**leading, "name": name} for name in names]
    return before + [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"[-rank:]]


def transformation(voxel_size: float, rank: int) -> dict[str, Any]:
    """How indices along the axes of an array become ångström."""
    return {"type": "scale", "scale": [1.0] * (rank - 3) + [float(voxel_size)] * min(rank, 3)}


def multiscales(
    sizes: Sequence[float],
    version: Literal["0.4", "0.5"],
    *,
    rank: int = 3,
    leading: Mapping[str, str] = CHANNEL,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The attributes of a group whose array "i" has voxels of `sizes[i]` ångström.

    Args:
        rank: Number of axes.
        leading: What stands before z, y, x.
        metadata: What else to say about the image.
    """
    image: dict[str, Any] = {
        "axes": axes(rank, leading),
        "datasets": [
            {"path": str(i), "coordinateTransformations": [transformation(size, rank)]}
            for i, size in enumerate(sizes)
        ],
        "metadata": dict(metadata or {}),
        "name": "/",
    }
    if version == "0.4":
        return {"multiscales": [{**image, "version": "0.4"}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}


def halved_mean(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Means of 2×2×2 blocks, of each channel; odd edges are padded with zeros."""
    if data.ndim > 3:
        return np.stack([halved_mean(channel) for channel in data])
    depth = -(-data.shape[0] // 2)
    result = np.empty((depth, *(-(-n // 2) for n in data.shape[1:])), data.dtype)
    wide = np.float64 if data.dtype.kind in "iub" or data.dtype.itemsize > 4 else np.float32
    pad = [(0, 0), *((0, n % 2) for n in data.shape[1:])]
    for z in range(
        depth
    ):  # one pair of slices at a time: the sums of a whole volume would be several times its size
        pair = data[2 * z : 2 * z + 2].sum(axis=0, dtype=wide)[np.newaxis]
        padded = np.pad(pair, pad)[0]
        mean = (padded[0::2, 0::2] + padded[1::2, 0::2] + padded[0::2, 1::2] + padded[1::2, 1::2]) / wide(8)
        result[z] = np.rint(mean) if data.dtype.kind in "iu" else mean
    return result


def halved_nearest(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every second voxel along z, y, x: labels must not be averaged.

    Which ones, and how many of an odd number, is what scikit-image's `rescale(0.5, order=0)` takes: copick 1.x makes
    the same files.
    """
    z, y, x = (slice(int(n % 4 != 3 and n > 1), None, 2) for n in data.shape[-3:])
    return data[..., z, y, x]


def pyramid(
    data: npt.NDArray[Any], voxel_size: float, levels: int, *, labels: bool = False
) -> Iterator[tuple[float, npt.NDArray[Any]]]:
    """`data` (..., z, y, x) and its coarser copies with their voxel sizes, finest first.

    Args:
        labels: Coarser levels take the nearest voxel instead of the mean.
    """
    for level in range(levels):
        if level:
            data = halved_nearest(data) if labels else halved_mean(data)
        yield voxel_size * 2**level, data


def write_volume(
    store: Store,
    data: npt.NDArray[Any],
    voxel_size: float,
    *,
    levels: int,
    labels: bool = False,
    chunks: tuple[int, ...] = CHUNKS,
    channels: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    zarr_format: Literal[2, 3] = 2,
) -> None:
    """Replace what `store` holds by `data` and `levels - 1` coarser copies.

    Args:
        store: Rooted at the volume's group.
        data: z, y, x; of a panoptic segmentation c, z, y, x.
        voxel_size: Of `data`, in ångström.
        labels: Coarser levels take the nearest voxel instead of the mean.
        chunks: Along the last axes; 1 along those before them.
        channels: Makes it a panoptic segmentation: what each channel holds.
        metadata: What else to say about the image.
        zarr_format: 2 writes NGFF 0.4, 3 writes NGFF 0.5.
    """
    if channels is None and data.ndim != 3:
        raise ValueError(f"a volume has the axes z, y, x; found an array of shape {data.shape}")
    if channels is not None:
        if data.ndim != 4 or len(data) != len(channels):
            raise ValueError(
                f"a volume with channels has the axes c ({', '.join(channels)}), z, y, x; "
                f"found an array of shape {data.shape}"
            )
        says = {"segmentation_type": "panoptic", "channels": list(channels)}
        metadata = {"copick": says, **(metadata or {})}
    if not isinstance(levels, int) or levels < 1:
        raise ValueError(f"levels must be 1 or more, not {levels!r}")
    write_levels(
        store,
        pyramid(data, voxel_size, levels, labels=labels),
        rank=data.ndim,
        chunks=chunks,
        metadata=metadata,
        zarr_format=zarr_format,
    )


def write_features(
    store: Store,
    data: npt.NDArray[Any],
    voxel_size: float,
    *,
    chunks: tuple[int, ...] = CHUNKS,
    shards: tuple[int, ...] | None = None,
    metadata: Mapping[str, Any] | None = None,
    zarr_format: Literal[2, 3] = 2,
) -> None:
    """Replace what `store` holds by one array of any rank: the last axes are z, y, x, those before them features.

    Args and format as for `write_volume`.
    """
    if data.ndim == 0:
        raise ValueError("features have one axis or more; found a single number")
    write_levels(
        store,
        [(voxel_size, data)],
        rank=data.ndim,
        leading=FEATURE,
        chunks=chunks,
        shards=shards,
        metadata=metadata,
        zarr_format=zarr_format,
    )


def write_levels(
    store: Store | str,
    levels: Iterable[tuple[float, npt.NDArray[Any]]],
    *,
    rank: int = 3,
    leading: Mapping[str, str] = CHANNEL,
    chunks: tuple[int, ...] = CHUNKS,
    shards: tuple[int, ...] | None = None,
    metadata: Mapping[str, Any] | None = None,
    zarr_format: Literal[2, 3] = 2,
) -> None:
    """Replace what `store` holds by arrays of one rank, given with their voxel sizes, finest first.

    The description of the levels is written last: a volume that a crash left half-written does not claim to be
    whole.
    """
    import zarr

    if zarr_format not in (2, 3):  # before anything is removed
        raise ValueError(f"zarr_format must be 2 or 3, not {zarr_format!r}")
    if shards is not None and zarr_format == 2:
        raise ValueError("shards need zarr_format=3")
    shape = chunk_shape(chunks, rank)
    whole = None if shards is None else chunk_shape(shards, rank)
    if whole is not None and any(n % chunk for n, chunk in zip(whole, shape, strict=True)):
        raise ValueError(f"shards {whole} must be multiples of the chunks {shape}")
    group = zarr.create_group(store, overwrite=True, zarr_format=zarr_format)
    sizes: list[float] = []
    with Progress("writing a volume", None) as progress:
        for size, data in levels:
            array = new_array(store, str(len(sizes)), data.shape, data.dtype, shape, zarr_format, whole)
            for slab in _slabs(data.shape, whole or shape):
                stopping.check()
                array[slab] = data[slab]
                progress.step()
            sizes.append(size)
    version: Literal["0.4", "0.5"] = "0.4" if zarr_format == 2 else "0.5"
    group.attrs.update(multiscales(sizes, version, rank=rank, leading=leading, metadata=metadata))


def _slabs(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """An array in parts of whole chunks along its first spatial axis."""
    axis = max(len(shape) - 3, 0)
    for start in range(0, shape[axis], chunks[axis]):
        yield (*(slice(None),) * axis, slice(start, start + chunks[axis]))


def chunk_shape(chunks: Sequence[int], rank: int) -> tuple[int, ...]:
    """`chunks` along the last axes of an array, 1 along those before them. Raises ValueError if they are no sizes."""
    if not chunks or not all(isinstance(n, int | np.integer) and n > 0 for n in chunks):
        raise ValueError(f"chunks and shards are whole numbers, 1 or more; not {chunks!r}")
    return (*(1,) * (rank - len(chunks)), *chunks[-rank:])


def new_array(
    store: Store | str,
    path: str,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    chunks: tuple[int, ...] = CHUNKS,
    zarr_format: Literal[2, 3] = 2,
    shards: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    """An empty array as the tools of the field expect it: Blosc lz4 chunks in nested directories."""
    import zarr

    if zarr_format == 2:
        import numcodecs

        codec: Any = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=1)
        keys = {"name": "v2", "separator": "/"}
    else:
        from zarr.codecs import BloscCodec

        codec = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
        keys = {"name": "default", "separator": "/"}
    return zarr.create_array(
        store,
        name=path,
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=chunks,
        shards=shards,
        compressors=codec,
        fill_value=0,
        zarr_format=zarr_format,
        chunk_key_encoding=keys,  # type: ignore[arg-type]
    )


def smallest_unsigned(data: npt.NDArray[Any]) -> np.dtype[Any]:
    """The smallest unsigned type that holds the labels in `data`, uint8 or wider.

    Raises:
        ValueError: A label is negative, fractional, not finite or too large.
    """
    if data.dtype == np.bool_ or data.size == 0:
        return np.dtype(np.uint8)
    _check_whole(data, "labels")
    low, high = data.min(), data.max()
    if low < 0:
        raise ValueError(f"labels must not be negative; found {low}")
    smallest = np.min_scalar_type(int(high))
    if smallest.kind != "u":
        raise ValueError(f"labels up to {high} fit no unsigned type")
    return np.dtype(smallest.str)  # there are two types of 64 bits, and zarr knows one


def exact_cast(data: npt.NDArray[Any], dtype: npt.DTypeLike, what: str) -> npt.NDArray[Any]:
    """`data` as `dtype`, which must be able to hold it; between floats, rounding is allowed but not overflow.

    Raises:
        ValueError: Values are fractional or out of range.
    """
    target = np.dtype(dtype)
    if data.dtype == target or np.can_cast(data.dtype, target, "safe") or data.size == 0:
        return data.astype(target, copy=False)
    if data.dtype.kind not in "biuf" or target.kind not in "biuf":
        raise ValueError(f"{what}: {data.dtype} data cannot become {target}")
    low, high = data.min(), data.max()
    if target.kind == "f":
        limit = np.finfo(target).max
        finite = (
            np.abs(data[np.isfinite(data)]) if data.dtype.kind == "f" else np.abs(data.astype(np.float64))
        )
        if finite.size and finite.max() > limit:
            raise ValueError(f"{what}: {data.dtype} data up to {finite.max():g} do not fit {target}")
        return data.astype(target)
    _check_whole(data, f"{what}: values")
    least, most = (0, 1) if target.kind == "b" else (np.iinfo(target).min, np.iinfo(target).max)
    if int(low) < least or int(high) > most:
        raise ValueError(f"{what}: values from {low} to {high} do not fit {target} ({least} to {most})")
    return data.astype(target)


def _check_whole(data: npt.NDArray[Any], what: str) -> None:
    if data.dtype.kind not in "biuf":
        raise ValueError(f"{what} must be whole numbers, not {data.dtype}")
    if data.dtype.kind == "f" and not (np.isfinite(data).all() and (data == np.trunc(data)).all()):
        raise ValueError(f"{what} must be whole numbers; found fractions or values that are not finite")
