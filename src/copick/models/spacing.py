"""The tomograms of a run that share one voxel size."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from copick.kinds import TOMOGRAM, VOXEL_SPACING
from copick.meta import CopickTomogramMeta, CopickVoxelSpacingMeta
from copick.models.entity import Folder, Layers, PortalQuery, allowed, note_ignored, of_portal, remembered
from copick.models.tomogram import CopickTomogram
from copick.util.escape import sanitize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from copick.models.run import CopickRun


class CopickVoxelSpacing(Folder):
    """The tomograms of a run that share one voxel size."""

    kinds = (VOXEL_SPACING,)
    factory = "_voxel_spacing_factory"
    meta: CopickVoxelSpacingMeta

    def __init__(self, run: CopickRun, meta: CopickVoxelSpacingMeta, config: Any = None) -> None:
        super().__init__(run, meta, config)

    @property
    def run(self) -> CopickRun:
        """The run it belongs to."""
        run: CopickRun = self.parent  # type: ignore[assignment]
        return run

    @property
    def parent_voxel_spacing(self) -> CopickVoxelSpacing | None:
        """The voxel spacing itself, if this project is a cache of another."""
        return self._at_parent()

    @property
    def voxel_size(self) -> float:
        """In ångström."""
        return self.meta.voxel_size

    _tomograms = remembered(TOMOGRAM)

    @property
    def tomograms(self) -> list[CopickTomogram]:
        """The tomograms of all layers, by type; listed once (see `refresh_tomograms`)."""
        return self._list(CopickTomogram)

    def query_tomograms(self, *, layers: Layers = None) -> list[CopickTomogram]:
        """The tomograms, asked for now."""
        return self.on(layers)._query(CopickTomogram)

    def get_tomogram(self, tomo_type: str, *, layers: Layers = None) -> CopickTomogram | None:
        """The tomogram of that type, or None. Deprecated since 1.x: `get_tomograms` takes several types."""
        warnings.warn("get_tomogram is deprecated; use get_tomograms", DeprecationWarning, stacklevel=2)
        return self.on(layers)._find(CopickTomogram, CopickTomogramMeta.of(tomo_type=tomo_type))

    def get_tomograms(
        self,
        tomo_type: str | Iterable[str] | None = None,
        *,
        portal_meta_query: PortalQuery = None,
        portal_author_query: Iterable[str] | None = None,
        layers: Layers = None,
        **unknown: object,
    ) -> list[CopickTomogram]:
        """The tomograms of that type or types; all without one.

        Args:
            tomo_type: Of several of one type that the data portal has, each is found by it.
            portal_meta_query: Only tomograms of the data portal whose fields have these values.
            portal_author_query: Only tomograms of the data portal that all of these are authors of.
        """
        note_ignored(unknown, "tomo_type")
        wanted = None if tomo_type is None else allowed(tomo_type)
        found = [
            tomogram
            for tomogram in self.on(layers)._list(CopickTomogram)
            if wanted is None
            or tomogram.tomo_type in wanted
            or getattr(tomogram.meta, "portal_tomo_type", None) in wanted
        ]
        return of_portal(found, portal_meta_query, portal_author_query)

    def new_tomogram(
        self, tomo_type: str, exist_ok: bool = False, *, layers: Layers = None, **unknown: object
    ) -> CopickTomogram:
        """Create an empty tomogram; `from_numpy` fills it."""
        note_ignored(unknown)
        return self._new(
            CopickTomogram, CopickTomogramMeta.of(tomo_type=sanitize_name(tomo_type)), exist_ok, layers
        )

    def delete_tomograms(
        self, tomo_type: str | Iterable[str] | None = None, *, layers: Layers = None
    ) -> None:
        """Delete the tomograms of that type or types, and their features; all without one."""
        self._delete_all(self.get_tomograms(tomo_type, layers=layers))

    def refresh_tomograms(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kinds(TOMOGRAM)

    def _tomogram_factory(self) -> tuple[type[CopickTomogram], type[CopickTomogramMeta]]:
        return CopickTomogram, CopickTomogramMeta

    def _invalidate_caches(self) -> None:
        self.refresh()
