"""One tilt series: its voxel spacings, and everything annotated on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from copick.errors import FormatError
from copick.kinds import PICKS, RUN, SEGMENTATION, VOXEL_DECIMALS, VOXEL_SPACING
from copick.meta import (
    CopickPicksFile,
    CopickRunMeta,
    CopickSegmentationMeta,
    CopickVoxelSpacingMeta,
)
from copick.models.annotations import CopickPicks
from copick.models.entity import Entity, Layers, note_ignored, remembered, select
from copick.models.spacing import CopickVoxelSpacing
from copick.models.volumes import CopickSegmentation
from copick.util.escape import sanitize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from copick.models.root import CopickRoot


def _voxel_size(value: float) -> float:
    """A voxel size as it is stored, to three decimals. Raises FormatError or TypeError."""
    try:
        return round(float(value), VOXEL_DECIMALS)
    except (ValueError, OverflowError):
        raise FormatError(f"voxel size {value!r:.40}: expected a length in ångström, more than 0") from None


class CopickRun(Entity):
    """One tilt series: its tomograms, and everything annotated on them."""

    kind = RUN
    meta: CopickRunMeta

    @property
    def root(self) -> CopickRoot:
        """The project."""
        root: CopickRoot = self.parent  # type: ignore[assignment]
        return root

    @property
    def name(self) -> str:
        """Its name, unique in the project."""
        return self.meta.name

    # Voxel spacings

    _voxel_spacings = remembered(VOXEL_SPACING)

    @property
    def voxel_spacings(self) -> list[CopickVoxelSpacing]:
        """The voxel spacings of all layers, by size; listed once (see `refresh_voxel_spacings`)."""
        return list(self._list(CopickVoxelSpacing))

    def query_voxelspacings(self, *, layers: Layers = None) -> list[CopickVoxelSpacing]:
        """The voxel spacings, asked for now."""
        return self.on(layers)._query(CopickVoxelSpacing)

    def get_voxel_spacing(
        self, voxel_size: float, *, layers: Layers = None, **unknown: object
    ) -> CopickVoxelSpacing | None:
        """The voxel spacing of that size in ångström (to three decimals), or None."""
        note_ignored(unknown)
        try:
            meta = CopickVoxelSpacingMeta.of(voxel_size=_voxel_size(voxel_size))
        except FormatError:  # not a voxel size: nothing has it
            return None
        return self.on(layers)._find(CopickVoxelSpacing, meta)

    def new_voxel_spacing(
        self, voxel_size: float, exist_ok: bool = False, *, layers: Layers = None, **unknown: object
    ) -> CopickVoxelSpacing:
        """Create a voxel spacing, in ångström."""
        note_ignored(unknown)
        meta = CopickVoxelSpacingMeta.of(voxel_size=_voxel_size(voxel_size))
        return self._new(CopickVoxelSpacing, meta, exist_ok, layers)

    def refresh_voxel_spacings(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kind(VOXEL_SPACING)

    # Picks

    _picks = remembered(PICKS)

    @property
    def picks(self) -> list[CopickPicks]:
        """The picks of all layers; listed once (see `refresh_picks`)."""
        return list(self._list(CopickPicks))

    def query_picks(self, *, layers: Layers = None) -> list[CopickPicks]:
        """The picks, asked for now."""
        return self.on(layers)._query(CopickPicks)

    def get_picks(
        self,
        object_name: str | Iterable[str] | None = None,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
        **unknown: object,
    ) -> list[CopickPicks]:
        """The picks whose object, user and session are as given: None = any, several = one of these."""
        wanted = {"pickable_object_name": object_name, "user_id": user_id, "session_id": session_id}
        return select(self.on(layers)._list(CopickPicks), unknown, **wanted)

    def new_picks(
        self,
        object_name: str,
        session_id: str,
        user_id: str | None = None,
        exist_ok: bool = False,
        *,
        layers: Layers = None,
    ) -> CopickPicks:
        """Create an empty set of picks and store it.

        Raises:
            ValueError: The project has no such object, no user is stated, or the picks exist.
        """
        meta = CopickPicksFile.of(
            pickable_object_name=self.root._known_object(sanitize_name(object_name)),
            user_id=self.root._user(user_id),
            session_id=sanitize_name(session_id),
            run_name=self.name,
        )
        return self._new(CopickPicks, meta, exist_ok, layers)

    def user_picks(self) -> list[CopickPicks]:
        """Those of the project's user; if it states none, those that no tool made."""
        return self._by_user(self.picks)

    def tool_picks(self) -> list[CopickPicks]:
        """Those that a tool made: session "0"."""
        return [item for item in self.picks if item.from_tool]

    def refresh_picks(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kind(PICKS)

    # Segmentations

    _segmentations = remembered(SEGMENTATION)

    @property
    def segmentations(self) -> list[CopickSegmentation]:
        """The segmentations of all layers; listed once (see `refresh_segmentations`)."""
        return list(self._list(CopickSegmentation))

    def query_segmentations(self, *, layers: Layers = None) -> list[CopickSegmentation]:
        """The segmentations, asked for now."""
        return self.on(layers)._query(CopickSegmentation)

    def get_segmentations(
        self,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        is_multilabel: bool | None = None,
        name: str | Iterable[str] | None = None,
        voxel_size: float | Iterable[float] | None = None,
        *,
        layers: Layers = None,
        **unknown: object,
    ) -> list[CopickSegmentation]:
        """The segmentations that are as given: None = any, several = one of these."""
        wanted = {
            "user_id": user_id,
            "session_id": session_id,
            "is_multilabel": is_multilabel,
            "name": name,
            "voxel_size": voxel_size,
        }
        return select(self.on(layers)._list(CopickSegmentation), unknown, **wanted)

    def new_segmentation(
        self,
        voxel_size: float,
        name: str,
        session_id: str,
        is_multilabel: bool = False,
        user_id: str | None = None,
        exist_ok: bool = False,
        *,
        layers: Layers = None,
        **unknown: object,
    ) -> CopickSegmentation:
        """Create an empty segmentation; `from_numpy` fills it.

        Args:
            voxel_size: In ångström.
            name: An object of the project; free for multilabel segmentations.

        Raises:
            ValueError: The project has no such object, no user is stated, or the segmentation exists.
        """
        note_ignored(unknown)
        clean = sanitize_name(name)
        meta = CopickSegmentationMeta.of(
            voxel_size=_voxel_size(voxel_size),
            name=clean if is_multilabel else self.root._known_object(clean),
            user_id=self.root._user(user_id),
            session_id=sanitize_name(session_id),
            is_multilabel=is_multilabel,
        )
        return self._new(CopickSegmentation, meta, exist_ok, layers)

    def user_segmentations(self) -> list[CopickSegmentation]:
        """Those of the project's user; if it states none, those that no tool made."""
        return self._by_user(self.segmentations)

    def tool_segmentations(self) -> list[CopickSegmentation]:
        """Those that a tool made: session "0"."""
        return [item for item in self.segmentations if item.from_tool]

    def refresh_segmentations(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kind(SEGMENTATION)

    def _by_user(self, items: list[Any]) -> list[Any]:
        """What the project's user made; without one, what any user made."""
        user = self.root.user_id
        return [item for item in items if (item.from_user if user is None else item.user_id == user)]

    def _voxel_spacing_factory(self) -> tuple[type[CopickVoxelSpacing], type[CopickVoxelSpacingMeta]]:
        return CopickVoxelSpacing, CopickVoxelSpacingMeta

    def _picks_factory(self) -> type[CopickPicks]:
        return CopickPicks

    def _segmentation_factory(self) -> tuple[type[CopickSegmentation], type[CopickSegmentationMeta]]:
        return CopickSegmentation, CopickSegmentationMeta

    def _invalidate_caches(self) -> None:
        self.refresh()
