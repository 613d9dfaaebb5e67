"""What tomograms, features, segmentations and density maps share: arrays."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from copick.arrays import ArraySource, Selection, missing_array, open_array, source_error
from copick.errors import CopickError, FormatError, LayerError, NotFoundError
from copick.kinds import check_name
from copick.models.entity import Entity
from copick.util.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    from zarr.abc.store import Store

    from copick.cache.prefetch import Prefetch
    from copick.kinds import Ref
    from copick.layers.layer import Opened
    from copick.stores import MappingCalls

ALL = slice(None)
_FINEST = "/"
"""What the finest level is kept as, which no level can be called."""


class StoredArray(Entity):
    """An entity whose data are OME-Zarr arrays. They stay open until something in this project changes them."""

    @lazy
    def _arrays(self) -> Opened:
        """The levels that are open, by path."""
        return self.layer.opened(self._ref)

    def zarr(self) -> MappingCalls:
        """The zarr store of the group, writable if the layer that serves it is. Also a mapping of keys to bytes."""
        from copick.stores import MappingCalls, MappingStore  # brings zarr, which import copick must not

        serving = self._serving()
        store = serving.store(self._ref, write=not serving.read_only)
        return store if isinstance(store, MappingCalls) else MappingStore(store)

    def array(self, level: str | int | None = "0") -> ArraySource:
        """One level as an array-like: slice it, or hand it to napari or dask. Nothing is read until then.

        Args:
            level: Its path. None: the finest; so is "0" if none is called that and the metadata call the finest otherwise.

        Raises:
            NotFoundError: There is no such level; the text names those there are.
        """
        path = _FINEST if level is None else _level(level)
        arrays = self._arrays.here()
        opened: ArraySource | None = arrays.get(path)
        if opened is None:
            opened = arrays[path] = self._open(self._finest() if level is None else path)
        return opened

    def _open(self, path: str) -> ArraySource:
        self._check_level(path)
        store = self.layer.store(self._ref)
        try:
            return open_array(store, path, str(self._ref))
        except NotFoundError:
            if path != "0" or (finest := self._finest()) == "0":
                raise
            return open_array(store, finest, str(self._ref))

    def _finest(self) -> str:
        """The path of the finest level: "0" unless the metadata call it otherwise."""
        return next(iter(self._levels()[0]), "0")

    def _check_level(self, path: str) -> None:
        try:
            for part in path.split("/"):
                check_name(part, "level")
        except FormatError:
            raise NotFoundError(
                f"{self._ref} has no array {path!r}; levels are named '0', '1', ..."
            ) from None

    def _read(
        self, zarr_group: str | None, slices: Sequence[slice], out: npt.NDArray[Any] | None
    ) -> npt.NDArray[Any]:
        # Sampling calls this for each patch: no work here beyond one look-up.
        opened = self._arrays.get(zarr_group or _FINEST) if self._arrays.pid == os.getpid() else None
        return (self.array(zarr_group) if opened is None else opened).read(slices, out)

    def _write_region(self, data: npt.ArrayLike, zarr_group: str | None, slices: Sequence[slice]) -> None:
        """Overwrite a box of one level, where writes go; an array that is not there yet is first copied there."""
        level = self._finest() if zarr_group is None else _level(zarr_group)
        what = f"{self._ref}, level {level}"
        self.layer.check_writable(self._ref)
        # Before anything is copied for it.
        known = self.array(level)
        where, values = _fitted(data, slices, known.shape, known.dtype, what)
        with self.layer.writing(self._ref, keep=True) as store:
            target = self._writable(store, level)
            if (target.shape, target.dtype) != (known.shape, known.dtype):  # somebody replaced it meanwhile
                where, values = _fitted(data, slices, target.shape, target.dtype, what)
            try:
                target[where] = values
            except CopickError:
                raise
            except Exception as error:  # codecs and stores raise what they like
                raise _write_error(error, what) from error
            finally:
                self._written()

    def _writable(self, store: Store, path: str) -> Any:
        """One level as a zarr array to write to."""
        import zarr

        try:
            return zarr.open_array(store, path=path, mode="r+")
        except FileNotFoundError:
            if path != "0" or (finest := self._finest()) == "0":
                raise missing_array(store, path, str(self._ref)) from None
            return self._writable(store, finest)
        except CopickError:
            raise
        except Exception as error:  # metadata that cannot be understood
            raise source_error(error, f"{self._ref}/{path}") from error

    def _replace(
        self, write: Callable[..., None], *data: Any, zarr_format: int | None, **options: Any
    ) -> None:
        """Call a writer of `copick.ome` with the store to write to and the project's zarr format."""
        chosen = getattr(self._project_config(), "zarr_format", 2) if zarr_format is None else zarr_format
        with self.layer.writing(self._ref) as store:
            try:
                with about(self._ref):
                    write(store, *data, zarr_format=chosen, **options)
            except (CopickError, ValueError):
                raise
            except Exception as error:  # codecs and stores raise what they like
                raise _write_error(error, str(self._ref)) from error
            finally:
                self._written()

    def levels(self) -> list[str]:
        """The paths of its arrays, the finest first.

        Raises:
            FormatError: The metadata cannot be understood.
            LayerError: They could not be read.
        """
        described, there = self._levels()
        return described or there

    def _levels(self) -> tuple[list[str], list[str]]:
        """The paths of the levels that the metadata describe, the finest first; if there are none, of its arrays."""
        import zarr

        from copick.ome import levels

        store = self.layer.store(self._ref)
        where = str(getattr(store, "where", "") or self._ref)
        try:
            group = zarr.open_group(store, mode="r")
            described = [level.path for level in levels(group.attrs, where)]
            return described, [] if described else sorted(group.array_keys())
        except FileNotFoundError:  # nothing was written yet
            return [], []
        except Exception as error:  # metadata are whatever somebody wrote
            raise source_error(error, where) from error

    def is_cached(self) -> bool:
        """Whether all of it, at every level, is in the cache; False without one, or if its levels cannot be asked for."""
        try:
            levels = self.levels()
        except LayerError:
            return False
        return bool(levels) and all(self.array(level).holds(()) for level in levels)

    def store(self) -> None:
        """Make the layer that writes go to hold it: one that a read-only layer serves is copied there, whole.

        Data are written as soon as they are set; nothing else waits to be stored. Raises ReadOnlyError.
        """
        if not self.layer.exists(self._ref):
            self.layer.create(self._ref)
        with self.layer.writing(self._ref, keep=True):
            self._written()

    def _written(self) -> None:
        self._arrays.clear()
        self._changed()

    def refresh(self) -> None:
        """Forget what is known about it: its levels are opened again when they are next read."""
        self._arrays.clear()
        super().refresh()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_arrays", None)
        return state


class Volume(StoredArray):
    """An OME-Zarr multiscale volume. Arrays are z, y, x; level "0" is the finest, whatever the metadata call it."""

    def numpy(
        self,
        zarr_group: str | None = "0",
        x: slice = ALL,
        y: slice = ALL,
        z: slice = ALL,
        *,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """The voxels of a level, or of a box of it, as an array in z, y, x order.

        Args:
            zarr_group: The level; None: the finest.
            x, y, z: Slices by NumPy's rules, in voxels of that level.
            out: Where to put them: same shape and dtype.

        Raises:
            NotFoundError: There is no such level.
            TypeError: An index is not a slice.
            MemoryError: The machine has no room for the result.
        """
        return self._read(zarr_group, (z, y, x), out)

    def patches(
        self,
        starts: npt.ArrayLike,
        size: Sequence[int],
        zarr_group: str | None = "0",
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Boxes of one size: `starts` (n, 3) in voxels, z, y, x → (n, *size).

        Raises:
            IndexError: A box reaches outside the volume.
        """
        return self.array(zarr_group).patches(starts, size, out)

    def prefetch_region(
        self, zarr_group: str | None = "0", x: slice = ALL, y: slice = ALL, z: slice = ALL
    ) -> Prefetch | None:
        """Begin to bring a box into the cache, in the background; it can be waited for or cancelled. None without a cache."""
        from copick.cache.prefetch import begin

        return begin([(self.array(zarr_group), self._box(x, y, z))])

    def ensure_region_cached(
        self, zarr_group: str | None = "0", x: slice = ALL, y: slice = ALL, z: slice = ALL
    ) -> bool:
        """Bring a box into the cache, with a progress bar; whether it is there now: False without a cache.

        Raises:
            LayerError, FormatError: The source could not be read.
        """
        begun = self.prefetch_region(zarr_group, x, y, z)
        if begun is None:
            return False
        begun.finish(str(self._ref))
        return self.array(zarr_group).holds(self._box(x, y, z))

    def _box(self, x: slice, y: slice, z: slice) -> tuple[slice, ...]:
        """The slices along the axes of its arrays."""
        return z, y, x

    def set_region(
        self,
        data: npt.ArrayLike,
        zarr_group: str | None = "0",
        x: slice = ALL,
        y: slice = ALL,
        z: slice = ALL,
    ) -> None:
        """Overwrite a box of one level. Coarser levels are not computed again.

        A volume that a read-only layer serves is first copied, whole, to the layer that is written.

        Raises:
            ValueError: The shape does not match, or the array's type cannot hold the values.
            NotFoundError: There is no such volume or level.
            ReadOnlyError: No layer can be written.
        """
        self._write_region(data, zarr_group, (z, y, x))


def _level(zarr_group: str | int) -> str:
    return str(zarr_group).strip("/")


@contextmanager
def about(ref: Ref) -> Iterator[None]:
    """Values that cannot be: the error names what they are for."""
    try:
        yield
    except CopickError:
        raise
    except ValueError as error:
        raise ValueError(f"{ref}: {error}") from error


def _fitted(
    data: npt.ArrayLike, slices: Sequence[slice], shape: tuple[int, ...], dtype: np.dtype[Any], what: str
) -> tuple[tuple[slice, ...], npt.NDArray[Any]]:
    """Where in an array to write, and its values as it has them. Raises ValueError if they do not fit."""
    from copick.ome import exact_cast

    selection = Selection.of(slices, shape)
    values = exact_cast(np.asarray(data), dtype, what)
    if not values.ndim:
        return selection.slices, values
    if values.shape != selection.count:
        raise ValueError(f"{what}: the region has the shape {selection.count}, the data {values.shape}")
    return selection.slices, values[selection.flips]


def _write_error(error: Exception, what: str) -> LayerError:
    """What a failure while writing voxels means to a caller."""
    cause = f"{type(error).__name__}: {error}".rstrip(": ")
    return LayerError(f"{what} could not be written ({cause}); it may be incomplete now, so write it again")
