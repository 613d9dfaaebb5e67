"""Volumes for other programs: MRC, TIFF, EM and OME-Zarr files, a slab of whole chunks at a time where the format allows."""

from __future__ import annotations

import importlib.util
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from copick.errors import FormatError, NotFoundError
from copick.ops.outputs import File, new_file, new_folder
from copick.util import stopping
from copick.util.path_util import library
from copick.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from copick.arrays import ArraySource
    from copick.models.volumes import StoredArray

BIG_TIFF = 2**32 - 2**25
"""Bytes of voxels that a TIFF file with offsets of 32 bits has room for, beside what describes them."""
EXACT_FLOAT = 2**24
"""Up to here float32 has every whole number."""
COMPRESSIONS = ("lzw", "zlib", "jpeg", "none")


class Level(NamedTuple):
    """One level of a volume, or of one channel of it."""

    array: ArraySource
    """(z, y, x), or (c, z, y, x)."""
    voxel_size: float
    """In ångström."""
    what: str
    """Names it in errors."""
    channel: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """z, y, x."""
        z, y, x = self.array.shape[-3:]
        return z, y, x

    @property
    def dtype(self) -> np.dtype[Any]:
        """In this machine's byte order."""
        return self.array.dtype.newbyteorder("=")

    def slabs(self) -> Iterator[npt.NDArray[Any]]:
        """All voxels (n, y, x), n the depth of a chunk, so that each chunk is read once. Ctrl-C ends it in any thread."""
        depth, step = self.shape[0], self.array.chunks[-3]
        lead = [] if self.channel is None else [slice(self.channel, self.channel + 1)]
        with Progress(f"writing {self.what}", -(-depth // step)) as progress:
            for start in range(0, depth, step):
                stopping.check()
                slab = self.array.read([*lead, slice(start, start + step)])
                yield slab if self.channel is None else slab[0]
                progress.step()


def level_of(
    volume: StoredArray, number: int, voxel_size: float, channel: int | None = None, *, rank: int = 3
) -> Level:
    """One level of a volume.

    Args:
        number: 0 = the finest.
        voxel_size: Of the finest level, in ångström. Those of others follow from the metadata, or each is twice the last.
        channel: Of a panoptic segmentation.
        rank: How many axes its arrays have: 4 = channels first.

    Raises:
        NotFoundError: There is no such level.
        FormatError: It has other axes, or no voxels.
    """
    paths = volume.levels()
    if not 0 <= number < len(paths):
        has = f"has the levels 0 to {len(paths) - 1}" if paths else "is empty"
        raise NotFoundError(f"{volume.ref} has no level {number}; it {has}")
    array = volume.array(paths[number])
    if array.ndim != rank or 0 in array.shape:
        raise FormatError(f"{volume.ref}: an array of shape {array.shape} is no volume to write")
    return Level(array, voxel_size * _coarseness(volume, number), f"{volume.ref}, level {number}", channel)


def _coarseness(volume: StoredArray, number: int) -> float:
    """How many voxels of the finest level one of a level is wide."""
    import zarr

    from copick.ome import levels

    scales = [
        each.scale
        for each in levels(zarr.open_group(volume.layer.store(volume.ref), mode="r").attrs, str(volume.ref))
    ]
    if number < len(scales) and scales[0] and scales[number]:
        return scales[number][-1] / scales[0][-1]
    return 2.0**number


# MRC


def write_mrc(path: File, level: Level, *, labels: bool) -> None:
    """Replace an MRC file by a volume: float32, and labels in the smallest of int16, uint16 and float32 that has them all.

    Raises:
        ValueError: There is a label that none of these has.
        LayerError: The file cannot be written.
        ImportError: mrcfile is not installed.
    """
    mrcfile = library("mrcfile")
    dtype = np.dtype(np.float32)
    if labels:
        dtype = _label_type(level, "MRC", (np.dtype(np.int16), np.dtype(np.uint16), dtype))
    with new_file(path, ".mrc") as temporary:
        mode = mrcfile.utils.mode_from_dtype(dtype)
        with mrcfile.new_mmap(temporary, level.shape, mode, overwrite=True) as file:
            file.voxel_size = level.voxel_size
            start, stored = file.header.nbytes, file.data.dtype
        moments = _Moments()
        # Not through the map: a full disk would kill the process (SIGBUS), here it is an error.
        with open(temporary, "r+b") as raw:
            raw.seek(start)
            for slab in level.slabs():
                values = np.ascontiguousarray(slab, stored)
                raw.write(values.data)
                moments.add(values)
        with mrcfile.mmap(temporary, "r+") as file:
            header = file.header
            header.dmin, header.dmax, header.dmean, header.rms = moments.all()


class _Moments:
    """Least, greatest, mean and standard deviation of voxels that come in parts."""

    def __init__(self) -> None:
        self._ranges: list[tuple[Any, Any]] = []
        self._parts: list[tuple[int, float, float]] = []

    def add(self, values: npt.NDArray[Any]) -> None:
        """Slice by slice: a wide copy of a slab would be twice its size."""
        self._ranges.append((values.min(), values.max()))
        for plane in values:
            self._parts.append((plane.size, plane.mean(dtype=np.float64), plane.var(dtype=np.float64)))

    def all(self) -> tuple[float, float, float, float]:
        counts, means, variances = np.array(self._parts).T
        mean = np.average(means, weights=counts)
        variance = np.average(variances + (means - mean) ** 2, weights=counts)
        least, greatest = zip(*self._ranges, strict=True)
        return float(min(least)), float(max(greatest)), float(mean), float(np.sqrt(variance))


def _label_type(level: Level, name: str, known: tuple[np.dtype[Any], ...]) -> np.dtype[Any]:
    """The first of these types that has all labels of a volume. Raises ValueError."""
    low, high = _label_range(level)
    for dtype in known:
        least, most = (
            (-EXACT_FLOAT, EXACT_FLOAT) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        )
        if least <= low and high <= most:
            return dtype
    raise ValueError(
        f"{level.what}: labels from {low} to {high} cannot be written to {name} files without changing them; write TIFF or "
        "OME-Zarr"
    )


def _label_range(level: Level) -> tuple[int, int]:
    if level.dtype.kind == "b":
        return 0, 1
    if level.dtype.kind in "iu" and level.dtype.itemsize == 1:  # whatever they are, they fit
        return int(np.iinfo(level.dtype).min), int(np.iinfo(level.dtype).max)
    low, high = 0, 0
    for slab in level.slabs():
        if level.dtype.kind not in "iu" and not np.array_equal(slab, np.rint(slab)):
            raise FormatError(f"{level.what}: labels are whole numbers, and some of these are none")
        low, high = min(low, int(slab.min())), max(high, int(slab.max()))
    return low, high


# TIFF


def write_tiff(path: File, level: Level, compression: str | None, *, labels: bool) -> None:
    """Replace a TIFF file by a volume, a page for each slice. Values keep their type.

    Args:
        compression: "lzw", "zlib", "jpeg" or "none"; None = none.

    Raises:
        ValueError: The compression is unknown, or would change the values.
        LayerError: The file cannot be written.
        ImportError: tifffile is not installed, nor what "lzw" and "jpeg" need.
    """
    tifffile = library("tifffile")
    method = check_compression(compression)
    dtype = np.dtype(np.uint8) if level.dtype.kind == "b" else level.dtype
    if method == "jpeg" and (labels or dtype != np.uint8):
        what = "would change labels" if labels else f"holds uint8, not {dtype}"
        raise ValueError(f"{level.what}: compression 'jpeg' {what}; use 'zlib' or 'lzw'")
    pages = itertools.chain.from_iterable(slab.astype(dtype, copy=False) for slab in level.slabs())
    with new_file(path, ".tif") as temporary:
        tifffile.imwrite(
            temporary,
            map(np.ascontiguousarray, pages),
            shape=level.shape,
            dtype=dtype,
            photometric="minisblack",  # else three or four columns are taken for colours
            compression=method,
            bigtiff=int(np.prod(level.shape)) * dtype.itemsize > BIG_TIFF,
        )


def check_compression(compression: str | None) -> str | None:
    """What tifffile calls it. Raises ValueError, or ImportError if a library is not installed."""
    if compression is None or compression == "none":
        return None
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression must be one of {', '.join(COMPRESSIONS)}; not {compression!r}")
    if compression != "zlib" and importlib.util.find_spec("imagecodecs") is None:
        raise ImportError(
            f"compression {compression!r} needs imagecodecs: pip install imagecodecs; 'zlib' does not"
        )
    return compression


# EM


def write_em(path: File, level: Level) -> None:
    """Write labels to an EM file, as float32 or, if they are larger, int32. These files state no voxel size.

    Raises:
        AlreadyExistsError: There is such a file.
        ValueError: There is a label that neither type has.
        LayerError: The file cannot be written.
        ImportError: emfile is not installed.
    """
    emfile = library("emfile")
    dtype = _label_type(level, "EM", (np.dtype(np.float32), np.dtype(np.int32)))
    with new_file(path, ".em", replace=False) as temporary:
        emfile.write(
            temporary, np.concatenate([slab.astype(dtype) for slab in level.slabs()]), overwrite=True
        )


# OME-Zarr


def write_zarr(path: File, volume: StoredArray, level: Level | None, *, labels: bool) -> None:
    """Make an OME-Zarr folder of a volume.

    Args:
        level: The only one to write, as its finest; None = all, as they are stored.

    Raises:
        NotFoundError: Nothing was written to the volume.
        AlreadyExistsError: Something is there already.
        LayerError: It cannot be read or written.
    """
    if not volume.levels():
        raise NotFoundError(f"{volume.ref} is empty; there is nothing to write")
    from zarr.storage import LocalStore

    from copick.layers.transfer import copy_array
    from copick.ome import write_volume
    from copick.util.segmentation import PANOPTIC_CHANNELS

    with new_folder(path) as temporary:
        store = LocalStore(temporary)
        if level is None:
            copy_array(volume.layer.original(volume.ref), store, str(volume.ref))
            return
        source: Any = level.array  # is sliced as it is written
        channels = PANOPTIC_CHANNELS if level.array.ndim == 4 else None
        write_volume(store, source, level.voxel_size, levels=1, labels=labels, channels=channels)
