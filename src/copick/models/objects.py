"""The kinds of things that are looked for in a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from copick.errors import FormatError, NotFoundError
from copick.kinds import OBJECT
from copick.models.tomogram import real_numbers
from copick.models.volumes import ALL, Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from copick.meta import FilamentSpec, PickableObject
    from copick.models.entity import Layers
    from copick.models.root import CopickRoot


MAX_VOXEL_SIZE = 1e300
"""More than anything that can be measured, and less than what no float can be."""


class CopickObject(Volume):
    """One kind of thing that is looked for: described in the config; a particle may have a density map in the layers."""

    kinds = (OBJECT,)
    factory = "_object_factory"
    meta: PickableObject

    def __init__(self, root: CopickRoot, meta: PickableObject) -> None:
        super().__init__(root, meta)

    @property
    def root(self) -> CopickRoot:
        """The project."""
        root: CopickRoot = self.parent  # type: ignore[assignment]
        return root

    @property
    def name(self) -> str:
        """Its name, unique in the project."""
        return self.meta.name

    @property
    def is_particle(self) -> bool:
        """Found as points (True) or as a region (False)."""
        return self.meta.is_particle

    @property
    def label(self) -> int | None:
        """Its value in multilabel segmentations."""
        return self.meta.label

    @property
    def color(self) -> tuple[int, int, int, int]:
        """Red, green, blue, opacity: 0 to 255."""
        return self.meta.color

    @property
    def emdb_id(self) -> str | None:
        """Of its density map in the EMDB."""
        return self.meta.emdb_id

    @property
    def pdb_id(self) -> str | None:
        """Of its model in the PDB."""
        return self.meta.pdb_id

    @property
    def identifier(self) -> str | None:
        """Accession in an ontology or database, for example GO:0022626."""
        return self.meta.identifier

    @property
    def map_threshold(self) -> float | None:
        """Where to contour the density map."""
        return self.meta.map_threshold

    @property
    def radius(self) -> float | None:
        """In ångström."""
        return self.meta.radius

    @property
    def metadata(self) -> dict[str, Any]:
        """Whatever else the project says of it."""
        return self.meta.metadata

    @property
    def filament(self) -> FilamentSpec | None:
        """What is known of it as a filament; None if it is none."""
        return self.meta.filament

    @property
    def is_filament(self) -> bool:
        """Whether it is a filament."""
        return self.meta.is_filament

    def _meta_for_twin(self) -> PickableObject:
        return self.meta  # the config's own, of whatever layer

    def __repr__(self) -> str:
        what = "filament" if self.is_filament else "particle" if self.is_particle else "region"
        return f"CopickObject(name={self.name!r}, label={self.label}, {what})"

    # Density map

    def has_density_map(self) -> bool:
        """Whether a layer holds a density map of it."""
        return self.is_particle and self.layer.exists(self.ref)

    def zarr(self) -> Any:
        """The zarr store of the density map, also where nothing is (then it is empty); None for regions."""
        if not self.is_particle:
            return None
        try:
            return super().zarr()
        except NotFoundError:  # nor can anything be there: no layer can be written
            from zarr.storage import MemoryStore

            from copick.stores import MappingStore

            return MappingStore(MemoryStore(read_only=True))

    def numpy(
        self,
        zarr_group: str | None = "0",
        x: slice = ALL,
        y: slice = ALL,
        z: slice = ALL,
        *,
        out: npt.NDArray[Any] | None = None,
    ) -> Any:
        """The density map, or a box of it: z, y, x. None for regions.

        Raises:
            NotFoundError: There is no map.
        """
        return super().numpy(zarr_group, x, y, z, out=out) if self.is_particle else None

    def from_numpy(
        self,
        data: npt.ArrayLike,
        voxel_size: float,
        dtype: npt.DTypeLike = np.float32,
        *,
        zarr_format: int | None = None,
    ) -> None:
        """Replace the density map.

        Args:
            data: z, y, x.
            voxel_size: In ångström.

        Raises:
            ValueError: It is no particle, or the data are no real numbers or have other axes.
            ReadOnlyError: No layer can be written.
        """
        from copick.ome import write_volume

        self._need_particle()
        if not (isinstance(voxel_size, int | float | np.number) and 0 < voxel_size < MAX_VOXEL_SIZE):
            raise FormatError(f"voxel_size {voxel_size!r:.40}: expected a length in ångström, more than 0")
        values = real_numbers(data, dtype, str(self.ref))
        self._replace(write_volume, values, float(voxel_size), levels=1, zarr_format=zarr_format)

    def store(self) -> None:
        """Make the layer that writes go to hold the map: one that a read-only layer serves is copied there.

        Raises:
            ValueError: It is no particle.
            ReadOnlyError: No layer can be written.
        """
        self._need_particle()
        super().store()

    def _create(self) -> None:
        self._need_particle()
        super()._create()

    def _write_region(self, data: npt.ArrayLike, zarr_group: str | None, slices: Sequence[slice]) -> None:
        self._need_particle()
        super()._write_region(data, zarr_group, slices)

    def _need_particle(self) -> None:
        if not self.is_particle:
            raise FormatError(f"{self.name!r} is a region (is_particle is false): it has no density map")

    def delete(self, *, missing_ok: bool = False, layers: Layers = None) -> None:
        """Take it out of the config, and its density map out of the layers that can be written.

        `save_config` makes the former last. With `layers`, only those layers' maps go and the config stays.

        Raises:
            ReadOnlyError: Its map is also in layers that cannot be written; nothing was taken from the config.
        """
        if layers is not None or self.has_density_map():
            super().delete(missing_ok=missing_ok, layers=layers)
        if layers is None:
            self.root._remove_object(self.name)
