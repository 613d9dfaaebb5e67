"""Arrays: tomograms and segmentations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from copick.arrays import ArraySource, Selection, missing_array, open_array, source_error
from copick.errors import CopickError, FormatError, LayerError, NotFoundError, ReadOnlyError
from copick.kinds import SEGMENTATION, TOMOGRAM, check_name
from copick.models.annotations import Annotation
from copick.models.entity import Entity

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from copick.meta import CopickSegmentationMeta, CopickTomogramMeta
    from copick.models.root import CopickRoot
    from copick.models.spacing import CopickVoxelSpacing
    from copick.stores import MappingCalls

ALL = slice(None)


class Volume(Entity):
    """An OME-Zarr multiscale volume. Arrays are z, y, x; level "0" is the finest."""

    _labels: ClassVar[bool] = False
    """Whether coarser levels take the nearest voxel instead of the mean."""

    def __init__(self, parent: Any, meta: Any, config: Any = None) -> None:
        super().__init__(parent, meta, config)
        self._arrays: dict[str, ArraySource] = {}
        self._pid = os.getpid()

    @property
    def _voxel_size(self) -> float:
        raise TypeError(f"{type(self).__name__} must say its voxel size")

    def zarr(self) -> MappingCalls:
        """The zarr store of the group, writable if the layer that serves it is. Also a mapping of keys to bytes."""
        from copick.stores import MappingCalls, MappingStore  # brings zarr, which import copick must not

        serving = self._serving()
        store = serving.store(self._ref, write=not serving.read_only)
        return store if isinstance(store, MappingCalls) else MappingStore(store)

    def array(self, level: str | int = "0") -> ArraySource:
        """One level as an array-like: slice it, or hand it to napari or dask. Nothing is read until then.

        Raises:
            NotFoundError: There is no such level; the text names those there are.
        """
        path = str(level).strip("/")
        if self._pid != os.getpid():  # handles do not survive a fork
            self._arrays, self._pid = {}, os.getpid()
        if path not in self._arrays:
            try:
                for part in path.split("/"):
                    check_name(part, "level")
            except FormatError:
                raise NotFoundError(
                    f"{self._ref} has no array {level!r}; levels are named '0', '1', ..."
                ) from None
            self._arrays[path] = open_array(self.layer.store(self._ref), path, str(self._ref))
        return self._arrays[path]

    def numpy(
        self,
        zarr_group: str = "0",
        x: slice = ALL,
        y: slice = ALL,
        z: slice = ALL,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """The voxels of a level, or of a box of it, as an array in z, y, x order.

        Args:
            zarr_group: The level.
            x, y, z: Slices by NumPy's rules, in voxels of that level.
            out: Where to put them: same shape and dtype.

        Raises:
            NotFoundError: There is no such level.
            TypeError: An index is not a slice.
            MemoryError: The machine has no room for the result.
        """
        # Sampling calls this for each patch: no work here beyond one look-up.
        if self._pid == os.getpid() and zarr_group in self._arrays:
            return self._arrays[zarr_group].read((z, y, x), out)
        return self.array(zarr_group).read((z, y, x), out)

    def patches(
        self,
        starts: npt.ArrayLike,
        size: Sequence[int],
        zarr_group: str = "0",
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Boxes of one size: `starts` (n, 3) in voxels, z, y, x → (n, *size).

        Raises:
            IndexError: A box reaches outside the volume.
        """
        return self.array(zarr_group).patches(starts, size, out)

    def set_region(
        self,
        data: npt.ArrayLike,
        zarr_group: str = "0",
        x: slice = ALL,
        y: slice = ALL,
        z: slice = ALL,
    ) -> None:
        """Overwrite a box of one level. Coarser levels are not computed again.

        Raises:
            ValueError: The shape does not match, or the array's type cannot hold the values.
            ReadOnlyError: No layer that can be written holds the volume.
        """
        from copick.ome import exact_cast

        target = self._writable_level(str(zarr_group))
        what = f"{self._ref}, level {zarr_group}"
        selection = Selection.of((z, y, x), target.shape)
        values = exact_cast(np.asarray(data), target.dtype, what)
        if values.ndim and values.shape != selection.count:
            raise ValueError(
                f"{what}: the region is {selection.count} voxels (z, y, x), the data {values.shape}"
            )
        try:
            target[selection.slices] = values[selection.flips] if values.ndim else values
        except CopickError:
            raise
        except Exception as error:  # codecs and stores raise what they like
            raise _write_error(error, what) from error
        self._written()

    def _writable_level(self, level: str) -> Any:
        """The zarr array of a level in the layer that serves the volume: a region cannot be written elsewhere."""
        import zarr

        serving = self._serving()
        if serving.read_only:
            raise ReadOnlyError(
                f"{self._ref} is in layer {serving.name!r}, which is read-only: a region of it cannot be "
                "changed. Write the whole volume with from_numpy"
            )
        store = serving.store(self._ref, write=True)
        try:
            return zarr.open_array(store, path=level, mode="r+")
        except FileNotFoundError:
            raise missing_array(store, level, str(self._ref)) from None
        except CopickError:
            raise
        except Exception as error:  # metadata that cannot be understood
            raise source_error(error, f"{self._ref}/{level}") from error

    def _write(self, data: npt.NDArray[Any], levels: int, zarr_format: Any) -> None:
        from copick.ome import write_volume

        store = self.layer.store(self._ref, write=True)
        try:
            write_volume(
                store, data, self._voxel_size, levels=levels, labels=self._labels, zarr_format=zarr_format
            )
        except (CopickError, ValueError):
            raise
        except Exception as error:  # codecs and stores raise what they like
            raise _write_error(error, str(self._ref)) from error
        finally:
            self._written()

    def _written(self) -> None:
        self._arrays = {}
        self._twins.clear()

    def refresh(self) -> None:
        """Forget what is known about the volume: its levels are opened again when they are next read."""
        self._arrays = {}
        super().refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_arrays": {}, "_pid": 0}


def _write_error(error: Exception, what: str) -> LayerError:
    """What a failure while writing voxels means to a caller."""
    cause = f"{type(error).__name__}: {error}".rstrip(": ")
    return LayerError(f"{what} could not be written ({cause}); it may be incomplete now, so write it again")


class CopickTomogram(Volume):
    """A reconstructed volume."""

    kind = TOMOGRAM
    meta: CopickTomogramMeta

    @property
    def voxel_spacing(self) -> CopickVoxelSpacing:
        """The voxel spacing it belongs to."""
        spacing: CopickVoxelSpacing = self.parent  # type: ignore[assignment]
        return spacing

    @property
    def tomo_type(self) -> str:
        """How it was made, for example "wbp" or "denoised"."""
        return self.meta.tomo_type

    @property
    def _voxel_size(self) -> float:
        return self.voxel_spacing.voxel_size

    def from_numpy(
        self, data: npt.ArrayLike, levels: int = 3, dtype: npt.DTypeLike = np.float32, *, zarr_format: int = 2
    ) -> None:
        """Replace the volume by `data` (z, y, x) and coarser levels of it.

        Raises:
            ValueError: The data are no real numbers, or have other axes.
            ReadOnlyError: No layer can be written.
        """
        values = np.asarray(data)
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{self._ref}: a tomogram is made of real numbers, not of {values.dtype}")
        self._write(values.astype(dtype, copy=False), levels, zarr_format)


class CopickSegmentation(Annotation, Volume):
    """A mask: 0/1 for one object (binary), or the objects' labels (multilabel)."""

    kind = SEGMENTATION
    meta: CopickSegmentationMeta
    _labels = True

    @property
    def name(self) -> str:
        """Name of the object; any name for multilabel segmentations."""
        return self.meta.name

    @property
    def is_multilabel(self) -> bool:
        """Whether its values are the objects' labels."""
        return self.meta.is_multilabel

    @property
    def voxel_size(self) -> float:
        """In ångström."""
        return self.meta.voxel_size

    @property
    def segmentation_type(self) -> str:
        """ "binary" or "multilabel"."""
        return "multilabel" if self.meta.is_multilabel else "binary"

    @property
    def color(self) -> Sequence[int]:
        """Of the object; grey and transparent for multilabel segmentations and unknown objects."""
        root: CopickRoot = self.run.root
        found = None if self.is_multilabel else root.get_object(self.name)
        return found.color if found else [128, 128, 128, 0]

    @property
    def _voxel_size(self) -> float:
        return self.meta.voxel_size

    def from_numpy(
        self,
        data: npt.ArrayLike,
        levels: int = 1,
        dtype: npt.DTypeLike | None = None,
        *,
        zarr_format: int = 2,
    ) -> None:
        """Replace the mask by `data` (z, y, x).

        Args:
            dtype: None = the smallest unsigned type that holds the labels.

        Raises:
            ValueError: A value is negative or fractional, or does not fit `dtype`.
        """
        from copick.ome import exact_cast, smallest_unsigned

        values = np.asarray(data)
        needed = smallest_unsigned(values)
        self._write(
            exact_cast(values, needed if dtype is None else dtype, str(self._ref)), levels, zarr_format
        )
