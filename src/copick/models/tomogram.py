"""Tomograms, and the features that are computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from copick.errors import AlreadyExistsError, NotFoundError
from copick.kinds import FEATURES, TOMOGRAM
from copick.meta import CopickFeaturesMeta, CopickTomogramMeta
from copick.models.entity import Layers, note_ignored, remembered, select
from copick.models.volumes import StoredArray, Volume
from copick.util.escape import sanitize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from copick.models.spacing import CopickVoxelSpacing


class CopickTomogram(Volume):
    """A reconstructed volume."""

    kinds = (TOMOGRAM,)
    factory = "_tomogram_factory"
    meta: CopickTomogramMeta

    def __init__(
        self, voxel_spacing: CopickVoxelSpacing, meta: CopickTomogramMeta, config: Any = None
    ) -> None:
        super().__init__(voxel_spacing, meta, config)

    @property
    def voxel_spacing(self) -> CopickVoxelSpacing:
        """The voxel spacing it belongs to."""
        spacing: CopickVoxelSpacing = self.parent  # type: ignore[assignment]
        return spacing

    @property
    def parent_tomogram(self) -> CopickTomogram | None:
        """The tomogram itself, if this project is a cache of another."""
        return self._at_parent()

    @property
    def source_tomograms(self) -> dict[str, CopickTomogram]:
        """The tomogram as each layer that holds it shows it; the one that serves it first."""
        return self.by_layer()

    @property
    def primary_tomogram(self) -> CopickTomogram:
        """The tomogram as the layer that serves it shows it."""
        return self.on(self.sources[:1] or None)

    @property
    def tomo_type(self) -> str:
        """How it was made, for example "wbp" or "denoised"."""
        return self.meta.tomo_type

    def from_numpy(
        self,
        data: npt.ArrayLike,
        levels: int = 3,
        dtype: npt.DTypeLike = np.float32,
        *,
        zarr_format: int | None = None,
    ) -> None:
        """Replace the volume by `data` (z, y, x) and coarser levels of it: means of 2×2×2 voxels.

        Args:
            zarr_format: 2 = OME-NGFF 0.4, 3 = 0.5; None = as the project's config says.

        Raises:
            ValueError: The data are no real numbers, do not fit `dtype`, or have other axes.
            ReadOnlyError: No layer can be written.
        """
        from copick.ome import write_volume

        values = real_numbers(data, dtype, str(self._ref))
        self._replace(
            write_volume, values, self.voxel_spacing.voxel_size, levels=levels, zarr_format=zarr_format
        )

    # Features

    _features = remembered(FEATURES)

    @property
    def features(self) -> list[CopickFeatures]:
        """The features of all layers, by type; listed once (see `refresh_features`)."""
        return self._list(CopickFeatures)

    @features.setter
    def features(self, features: list[CopickFeatures]) -> None:
        self._features = features

    def query_features(self, *, layers: Layers = None) -> list[CopickFeatures]:
        """The features, asked for now."""
        return self.on(layers)._query(CopickFeatures)

    def get_features(self, feature_type: str, *, layers: Layers = None) -> CopickFeatures | None:
        """The features of that type, or None."""
        meta = CopickFeaturesMeta.of(feature_type=feature_type, tomo_type=self.tomo_type)
        return self.on(layers)._find(CopickFeatures, meta)

    def new_features(
        self, feature_type: str, exist_ok: bool = False, *, layers: Layers = None, **unknown: object
    ) -> CopickFeatures:
        """Create empty features, where writes go; `from_numpy` fills them. The tomogram itself may be elsewhere."""
        note_ignored(unknown)
        meta = CopickFeaturesMeta.of(feature_type=sanitize_name(feature_type), tomo_type=self.tomo_type)
        return self._new(CopickFeatures, meta, exist_ok, layers)

    def delete_features(
        self, feature_type: str | Iterable[str] | None = None, *, layers: Layers = None
    ) -> None:
        """Delete the features of that type or types; all without one."""
        self._delete_all(select(self.on(layers)._list(CopickFeatures), {}, feature_type=feature_type))

    def refresh_features(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kinds(FEATURES)

    def _feature_factory(self) -> tuple[type[CopickFeatures], type[CopickFeaturesMeta]]:
        return CopickFeatures, CopickFeaturesMeta

    def _invalidate_caches(self) -> None:
        self.refresh()


class CopickFeatures(StoredArray):
    """What was computed from a tomogram for each voxel or block: an array of any rank, its last axes z, y, x."""

    kinds = (FEATURES,)
    factory = "_feature_factory"
    meta: CopickFeaturesMeta

    def __init__(self, tomogram: CopickTomogram, meta: CopickFeaturesMeta) -> None:
        super().__init__(tomogram, meta)
        self._take(meta)

    def _take(self, meta: CopickFeaturesMeta | None) -> None:
        if meta is not None and not meta.tomo_type:  # a layer lists the type of features alone
            meta.tomo_type = self.tomogram.tomo_type
        super()._take(meta)

    @property
    def tomogram(self) -> CopickTomogram:
        """The tomogram they were computed from."""
        tomogram: CopickTomogram = self.parent  # type: ignore[assignment]
        return tomogram

    @property
    def tomo_type(self) -> str:
        """Of the tomogram."""
        return self.meta.tomo_type

    @property
    def feature_type(self) -> str:
        """What they are, for example the name of the network."""
        return self.meta.feature_type

    def numpy(
        self,
        zarr_group: str | None = "0",
        slices: Sequence[slice] | None = None,
        *,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """The array, or a box of it.

        Args:
            slices: One per axis, by NumPy's rules; None = everything.

        Raises:
            ValueError: There is not one slice per axis.
        """
        return self._read(zarr_group, self._checked(slices, zarr_group), out)

    def from_numpy(
        self,
        data: npt.ArrayLike,
        *,
        chunks: Sequence[int] | None = None,
        shards: Sequence[int] | None = None,
        dtype: npt.DTypeLike | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = True,
        zarr_format: int | None = None,
    ) -> None:
        """Replace the features by `data`: any rank, the last axes z, y, x, those before them channels.

        Args:
            chunks: Along the last axes; None = 256 each.
            shards: Chunks of this size are kept together in one file (zarr format 3 only): multiples of `chunks`.
            dtype: None = that of the data.
            metadata: What else to say in the OME metadata.
            overwrite: Whether features that are there may be replaced.

        Raises:
            ValueError: The data are no real numbers or do not fit `dtype`, or chunks and shards cannot be so.
            AlreadyExistsError: There are features already, and `overwrite` is False.
            ReadOnlyError: No layer can be written.
        """
        from copick.ome import CHUNKS, write_features

        if not overwrite and self._has_arrays():
            raise AlreadyExistsError(f"{self._ref} exists already; pass overwrite=True to replace it")
        values = real_numbers(data, dtype, str(self._ref))
        self._replace(
            write_features,
            values,
            self.tomogram.voxel_spacing.voxel_size,
            chunks=CHUNKS if chunks is None else tuple(chunks),
            shards=None if shards is None else tuple(shards),
            metadata=metadata,
            zarr_format=zarr_format,
        )

    def set_region(
        self, data: npt.ArrayLike, zarr_group: str | None = "0", slices: Sequence[slice] | None = None
    ) -> None:
        """Overwrite a box. Features that a read-only layer serves are first copied to the layer that is written.

        Raises:
            ValueError: The shape does not match, or the array's type cannot hold the values.
        """
        self._write_region(data, zarr_group, self._checked(slices, zarr_group))

    def _has_arrays(self) -> bool:
        try:
            self.array()
        except NotFoundError:
            return False
        return True

    def _checked(self, slices: Sequence[slice] | None, zarr_group: str | None) -> Sequence[slice]:
        if slices is None:
            return ()
        rank = len(self.array(zarr_group).shape)
        if len(slices) != rank:
            raise ValueError(f"{self._ref} has {rank} axes; {len(slices)} slices were given")
        return slices


def real_numbers(data: npt.ArrayLike, dtype: npt.DTypeLike | None, what: str) -> npt.NDArray[Any]:
    """`data` as an array of `dtype` (None = their own). Fractions are cut off where `dtype` has none.

    Raises:
        ValueError: They are no real numbers, or `dtype` cannot hold their range.
    """
    values, target = np.asarray(data), None if dtype is None else np.dtype(dtype)
    for kind in (values.dtype, target or values.dtype):
        if kind.kind not in "biuf":
            raise ValueError(f"{what}: is made of real numbers, not of {kind}")
    if target is None or values.dtype == target:
        return values
    if np.can_cast(values.dtype, target, "safe") or target.kind == "b" or not values.size:
        return values.astype(target)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(target)
        low, high = values.min(), values.max()
    if target.kind == "f":
        lost = np.isinf(cast) & np.isfinite(values)
        if lost.any():
            raise ValueError(f"{what}: values up to {np.abs(values[lost]).max():g} do not fit {target}")
    elif not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{what}: values that are not finite do not fit {target}")
    elif int(low) < np.iinfo(target).min or int(high) > np.iinfo(target).max:
        raise ValueError(f"{what}: values from {low:g} to {high:g} do not fit {target}")
    return cast
