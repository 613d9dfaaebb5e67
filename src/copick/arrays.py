"""Regions of chunked arrays: what a slice selects, and the array-like that reads it.

`Selection` turns the slices a user writes into start, step and count per axis, once, for every reader. `ArraySource` is what
a reader offers: `ZarrArray` reads through zarr; the cache's `CachedArray` reads decoded chunks from local memory.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from copick.errors import CopickError, FormatError, LayerError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import zarr
    from zarr.abc.store import Store


@dataclass(frozen=True, slots=True)
class Selection:
    """A box of an array, in the array's axis order: elements `start + i * step` for `i < count` on each axis.

    Steps are positive; `flip` marks the axes that are read backwards (NumPy's negative steps).
    """

    start: tuple[int, ...]
    step: tuple[int, ...]
    count: tuple[int, ...]
    flip: tuple[bool, ...]

    @classmethod
    def of(cls, slices: Sequence[slice], shape: Sequence[int]) -> Selection:
        """The selection that NumPy's rules give for `slices` on an array of `shape`; missing trailing slices are full.

        Raises:
            TypeError: An index is not a slice (an int would drop an axis; write `slice(i, i + 1)`).
            IndexError: There are more slices than axes.
        """
        if len(slices) > len(shape):
            raise IndexError(f"{len(slices)} slices for an array of {len(shape)} axes {tuple(shape)}")
        start, step, count, flip = [], [], [], []
        for axis, size in enumerate(shape):
            index = slices[axis] if axis < len(slices) else slice(None)
            if not isinstance(index, slice):
                raise not_a_slice(axis, index)
            first, stop, stride = index.indices(size)
            n = len(range(first, stop, stride))
            if stride < 0 and n:
                first, stride = first + (n - 1) * stride, -stride
                flip.append(True)
            else:
                stride = abs(stride)
                flip.append(False)
            start.append(min(first, size) if n else 0)
            step.append(stride)
            count.append(n)
        return cls(tuple(start), tuple(step), tuple(count), tuple(flip))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Forward slices (without the flips)."""
        return tuple(
            slice(first, first + (n - 1) * step + 1 if n else first, step)
            for first, step, n in zip(self.start, self.step, self.count, strict=True)
        )

    @property
    def flips(self) -> tuple[slice, ...]:
        """The slices that turn an array read with `slices` into what was asked for."""
        return tuple(slice(None, None, -1) if flipped else slice(None) for flipped in self.flip)


def not_a_slice(axis: int, index: object) -> TypeError:
    """The error for an index that is no slice."""
    if isinstance(index, int | np.integer) and not isinstance(index, bool):
        return TypeError(
            f"axis {axis}: a slice is needed, not int {index}; write slice({index}, {int(index) + 1})"
        )
    shown = f"{index!r:.40}" if isinstance(index, str | int | float | None) else ""
    return TypeError(f"axis {axis}: a slice is needed, not {type(index).__name__} {shown}".rstrip())


@runtime_checkable
class ArraySource(Protocol):
    """One level of a volume as an array-like that napari, dask and NumPy accept."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def chunks(self) -> tuple[int, ...]: ...

    def read(self, slices: Sequence[slice], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """The region as a new array, or in `out` (same shape and dtype)."""

    def patches(
        self, starts: npt.ArrayLike, size: Sequence[int], out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Boxes of one size: `starts` (n, ndim) → (n, *size). Boxes must lie inside the array."""

    def holds(self, slices: Sequence[slice]) -> bool:
        """Whether a cache has the region, all of it."""
        ...

    def __getitem__(self, index: Any) -> npt.NDArray[Any]: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]: ...


class ArrayBase:
    """What every ArraySource shares: NumPy-style basic indexing and conversion on top of `read`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def read(self, slices: Sequence[slice], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        raise TypeError(f"{type(self).__name__} must define read()")

    def holds(self, slices: Sequence[slice]) -> bool:
        """Whether a cache has the region: there is none."""
        return False

    def patches(
        self, starts: npt.ArrayLike, size: Sequence[int], out: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        """Boxes of one size: `starts` (n, ndim) → (n, *size), one box after the other."""
        corners = check_boxes(starts, size, self.shape)
        shape = (len(corners), *size)
        result = np.empty(shape, self.dtype) if out is None else check_out(out, shape, self.dtype)
        for box, corner in zip(result, corners, strict=True):
            self.read([slice(int(at), int(at) + n) for at, n in zip(corner, size, strict=True)], out=box)
        return result

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Basic NumPy indexing: slices, ints, `...`."""
        items = list(index) if isinstance(index, tuple) else [index]
        dots = [at for at, item in enumerate(items) if item is Ellipsis]
        if len(dots) > 1:
            raise IndexError("an index can have only one '...'")
        if len(items) - len(dots) > self.ndim:
            raise IndexError(f"{len(items)} indices for an array of {self.ndim} axes {self.shape}")
        if dots:
            items[dots[0] : dots[0] + 1] = [slice(None)] * (self.ndim - len(items) + 1)
        slices, drop = [], []
        for axis, item in enumerate(items):
            if isinstance(item, int | np.integer):
                at = int(item)
                if not -self.shape[axis] <= at < self.shape[axis]:
                    raise IndexError(
                        f"index {at} is out of bounds for axis {axis} with size {self.shape[axis]}"
                    )
                at %= self.shape[axis]
                slices.append(slice(at, at + 1))
                drop.append(axis)
            else:
                slices.append(item)
        result = self.read(slices)
        return result.squeeze(axis=tuple(drop)) if drop else result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a chunked array cannot become a NumPy array without a copy")
        data = self.read(())
        return data if dtype is None else data.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape} {self.dtype} in chunks of {self.chunks}>"


def check_out(out: npt.NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """`out` itself if a read of `shape` and `dtype` can go there. Raises ValueError if not."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out= must be a NumPy array, not {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        state = "" if out.flags.writeable else " (read-only)"
        raise ValueError(f"out= must be a writable {shape} {dtype} array, not {out.shape} {out.dtype}{state}")
    return out


def check_boxes(starts: npt.ArrayLike, size: Sequence[int], shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """`starts` as an (n, ndim) int64 array of boxes that lie inside `shape`.

    Raises:
        TypeError: The size is no sequence of ints.
        ValueError: The number of axes does not match.
        IndexError: A box reaches outside the array.
    """
    if isinstance(size, int | float) or not all(isinstance(n, int | np.integer) for n in size):
        raise TypeError(f"size must be {len(shape)} ints, not {size!r}")
    try:
        corners = np.atleast_2d(np.asarray(starts))
    except ValueError:
        raise ValueError(f"starts must be (n, {len(shape)}): its rows differ in length") from None
    if corners.size == 0:
        corners = corners.reshape(0, len(shape))
    if corners.ndim != 2 or corners.shape[1] != len(shape) or len(size) != len(shape):
        raise ValueError(
            f"starts must be (n, {len(shape)}) and size {len(shape)} long for an array of shape {tuple(shape)}"
        )
    if not (np.issubdtype(corners.dtype, np.integer) or corners.size == 0):
        raise ValueError(f"starts must be integers (voxels), not {corners.dtype}")
    if min(size, default=1) < 0:
        raise IndexError(f"size must be 0 or more on each axis, not {tuple(size)}")
    # The size is taken from the limit, not added to the corner: a sum could overflow and seem to lie inside.
    room = np.array([int(extent) - int(n) for extent, n in zip(shape, size, strict=True)], dtype=np.int64)
    outside = ((corners < 0) | (corners > room)).any(axis=1)
    if outside.any():
        first = corners[np.flatnonzero(outside)[0]].tolist()
        raise IndexError(
            f"box at {first} of size {tuple(size)} reaches outside the array of shape {tuple(shape)}"
        )
    return np.ascontiguousarray(corners, dtype=np.int64)


class ZarrArray(ArrayBase):
    """One array read through zarr, as it is at the source. No cache."""

    def __init__(self, array: zarr.Array[Any], where: str) -> None:
        self._array, self._where = array, where
        self.shape, self.chunks = tuple(array.shape), tuple(array.chunks)
        self.dtype = np.dtype(array.dtype)

    def read(self, slices: Sequence[slice], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        selection = Selection.of(slices, self.shape)
        if out is not None:
            check_out(out, selection.count, self.dtype)
        try:
            data = np.asarray(self._array[selection.slices]).reshape(selection.count)
        except CopickError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError) or self._bytes(selection) > sys.maxsize:
                raise no_room(self._where, selection.count, self.dtype) from error
            raise source_error(error, self._where) from error
        data = data[selection.flips]
        if out is None:
            return np.ascontiguousarray(data) if any(selection.flip) else data
        out[...] = data
        return out

    def _bytes(self, selection: Selection) -> int:
        return math.prod(selection.count) * self.dtype.itemsize


def no_room(where: str, shape: Sequence[int], dtype: np.dtype[Any]) -> MemoryError:
    """The error for a read whose result is too large for this machine."""
    size = math.prod(shape) * dtype.itemsize / 1e9
    return MemoryError(
        f"{where}: {tuple(shape)} {dtype} takes {size:.3g} GB, more than there is; read a part of it, or a coarser level"
    )


def source_error(error: Exception, where: str) -> CopickError:
    """What a failure while reading an array at the source means to a caller."""
    if isinstance(error, CopickError):
        return error
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    # Decoders raise OSErrors, too: gzip one of its own, bz2 a bare one.
    damaged = type(error).__name__ == "BadGzipFile" or (type(error) is OSError and error.errno is None)
    if (isinstance(error, OSError) and not damaged) or any(
        base.__module__.partition(".")[0] in {"aiohttp", "botocore", "asyncssh"}
        for base in type(error).__mro__
    ):
        return LayerError.of(
            f"{where} could not be read ({text}); check that the place is reachable and that you may read it",
            error,
        )
    return FormatError(
        f"{where} cannot be decoded ({text}); the file is truncated, corrupt or of an unknown format"
    )


def open_array(store: Store, path: str, where: str) -> ArraySource:
    """The array at `path` of a volume's store; `where` names the volume in errors.

    Raises:
        NotFoundError: There is no array at `path`; the text names those that are there.
        FormatError: The metadata cannot be understood.
        LayerError: The place failed.
    """
    where = getattr(store, "where", "") or where  # it knows the layer and the path
    faster = getattr(store, "open_array", None)
    if faster is not None:
        source: ArraySource = faster(path)
        return source
    import zarr

    try:
        return ZarrArray(zarr.open_array(store, path=path, mode="r"), f"{where}/{path}")
    except CopickError:
        raise
    except FileNotFoundError:  # a KeyError would be metadata that lacks something
        raise missing_array(store, path, where) from None
    except zarr.errors.NodeTypeValidationError as error:
        if "'group'" in str(error):  # there is something, but a group
            raise missing_array(store, path, where) from None
        raise source_error(error, f"{where}/{path}") from error
    except Exception as error:
        raise source_error(error, f"{where}/{path}") from error


def missing_array(store: Store, path: str, where: str) -> NotFoundError:
    """The error for an array that is not there, naming those that are."""
    import zarr

    try:
        names = sorted(zarr.open_group(store, mode="r").array_keys())
        there = f"it has {', '.join(names)}" if names else "it has no arrays"
    except Exception:  # noqa: BLE001 (only a better text depends on it)
        there = "it has no readable arrays"
    return NotFoundError(f"{where} has no array {path!r}; {there}")
