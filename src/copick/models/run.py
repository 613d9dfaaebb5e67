"""One tilt series: its voxel spacings, and everything annotated on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from copick.errors import FormatError
from copick.filaments import CopickFilamentsFile
from copick.kinds import (
    FILAMENTS,
    INSTANCE_SEGMENTATION,
    MESH,
    PANOPTIC_SEGMENTATION,
    PICKS,
    RUN,
    SEGMENTATION,
    VOXEL_DECIMALS,
    VOXEL_SPACING,
)
from copick.meta import (
    CopickMeshMeta,
    CopickPicksFile,
    CopickRunMeta,
    CopickSegmentationMeta,
    CopickVoxelSpacingMeta,
)
from copick.models.annotations import CopickPicks, ObjectAnnotation
from copick.models.entity import Folder, Layers, PortalQuery, note_ignored, of_portal, remembered, select
from copick.models.filaments import CopickFilaments
from copick.models.mesh import CopickMesh
from copick.models.segmentation import CopickSegmentation
from copick.models.spacing import CopickVoxelSpacing
from copick.util.escape import sanitize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from copick.meta import Meta
    from copick.models.root import CopickRoot

A = TypeVar("A", bound=ObjectAnnotation)


def _voxel_size(value: float) -> float:
    """A voxel size as it is stored, to three decimals. Raises FormatError or TypeError."""
    try:
        return round(float(value), VOXEL_DECIMALS)
    except TypeError:
        raise TypeError(
            f"a voxel size is a number of ångström, not {type(value).__name__} {value!r:.40}"
        ) from None
    except (ValueError, OverflowError):
        raise FormatError(f"voxel size {value!r:.40}: expected a length in ångström, more than 0") from None


class CopickRun(Folder):
    """One tilt series: its tomograms, and everything annotated on them."""

    kinds = (RUN,)
    factory = "_run_factory"
    meta: CopickRunMeta

    def __init__(self, root: CopickRoot, meta: CopickRunMeta, config: Any = None) -> None:
        super().__init__(root, meta, config)

    @property
    def root(self) -> CopickRoot:
        """The project."""
        root: CopickRoot = self.parent  # type: ignore[assignment]
        return root

    @property
    def parent_run(self) -> CopickRun | None:
        """The run itself, if this project is a cache of another (`CopickRootCache.parent_root`)."""
        return self._at_parent()

    @property
    def name(self) -> str:
        """Its name, unique in the project. Setting it makes this object stand for another run; none is renamed."""
        return str(self._key("name"))

    @name.setter
    def name(self, name: str) -> None:
        meta = CopickRunMeta.of(name=name)
        self.parent._drop(self)
        self.meta, self._ref = meta, RUN.ref(meta, None)
        self._forget_below()
        self.parent._forget_kind(RUN)

    @property
    def portal_run_id(self) -> int | None:
        """Its id in the data portal, if it is of there."""
        return self._with_portal_fields().portal_run_id

    @property
    def portal_run_name(self) -> str | None:
        """What the data portal calls it, if it is of there; runs of several datasets may be called the same."""
        return self._with_portal_fields().portal_run_name

    @property
    def portal_dataset_id(self) -> int | None:
        """Its dataset in the data portal, if it is of there."""
        return self._with_portal_fields().portal_dataset_id

    def _with_portal_fields(self) -> CopickRunMeta:
        if self.meta.portal_run_id is None:
            _ = self.description  # what the layers say of it is read once
        return self.meta

    @property
    def split(self) -> str | None:
        """Whether it is for training, validation, ...: only Croissant projects say so."""
        return None

    @property
    def source_runs(self) -> dict[str, CopickRun]:
        """The run as each layer that holds it shows it; the one that serves it first."""
        return self.by_layer()

    @property
    def primary_run(self) -> CopickRun:
        """The run as the layer that serves it shows it."""
        return self.on(self.sources[:1] or None)

    def is_cached(self) -> bool:
        """Whether all its volumes, at every level, are in the cache; False without one."""
        tomograms = [tomogram for spacing in self.voxel_spacings for tomogram in spacing.tomograms]
        features = [item for tomogram in tomograms for item in tomogram.features]
        volumes = [*tomograms, *features, *self.segmentations]
        return bool(volumes) and all(volume.is_cached() for volume in volumes)

    # Voxel spacings

    _voxel_spacings = remembered(VOXEL_SPACING)

    @property
    def voxel_spacings(self) -> list[CopickVoxelSpacing]:
        """The voxel spacings of all layers, by size; listed once (see `refresh_voxel_spacings`)."""
        return self._list(CopickVoxelSpacing)

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

    def delete_voxel_spacings(self, voxel_size: float | None = None, *, layers: Layers = None) -> None:
        """Delete the voxel spacing of that size, and everything in it; all without one.

        Raises:
            ValueError: There is none of that size.
            ReadOnlyError: See `Entity.delete`.
        """
        if voxel_size is None:
            self._delete_all(self.on(layers)._list(CopickVoxelSpacing))
            return
        found = self.get_voxel_spacing(voxel_size, layers=layers)
        if found is None:
            raise FormatError(f"{self.ref} has no voxel spacing {voxel_size!r}")
        found.delete()

    def refresh_voxel_spacings(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kinds(VOXEL_SPACING)

    # Picks

    _picks = remembered(PICKS)

    @property
    def picks(self) -> list[CopickPicks]:
        """The picks of all layers; listed once (see `refresh_picks`)."""
        return self._list(CopickPicks)

    def query_picks(self, *, layers: Layers = None) -> list[CopickPicks]:
        """The picks, asked for now."""
        return self.on(layers)._query(CopickPicks)

    def get_picks(
        self,
        object_name: str | Iterable[str] | None = None,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        *,
        portal_meta_query: PortalQuery = None,
        portal_author_query: Iterable[str] | None = None,
        layers: Layers = None,
        **unknown: object,
    ) -> list[CopickPicks]:
        """The picks whose object, user and session are as given: None = any, several = one of these.

        Args:
            portal_meta_query: Only annotations of the data portal whose fields have these values.
            portal_author_query: Only annotations of the data portal that all of these are authors of.
        """
        found = self._annotations(CopickPicks, object_name, user_id, session_id, layers, unknown)
        return of_portal(found, portal_meta_query, portal_author_query)

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
        return self._new_annotation(
            CopickPicks,
            CopickPicksFile,
            object_name,
            session_id,
            user_id,
            exist_ok,
            layers,
            run_name=self.name,
        )

    def delete_picks(
        self,
        object_name: str | Iterable[str] | None = None,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
    ) -> None:
        """Delete the picks that `get_picks` would give. Raises ReadOnlyError; see `Entity.delete`."""
        self._delete_all(self.get_picks(object_name, user_id, session_id, layers=layers))

    def user_picks(self) -> list[CopickPicks]:
        """Those of the project's user; if it states none, those that no tool made."""
        return self._by_user(self.picks)

    def tool_picks(self) -> list[CopickPicks]:
        """Those that a tool made: session "0"."""
        return [item for item in self.picks if item.from_tool]

    def refresh_picks(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kinds(PICKS)

    # Meshes

    _meshes = remembered(MESH)

    @property
    def meshes(self) -> list[CopickMesh]:
        """The meshes of all layers; listed once (see `refresh_meshes`)."""
        return self._list(CopickMesh)

    def query_meshes(self, *, layers: Layers = None) -> list[CopickMesh]:
        """The meshes, asked for now."""
        return self.on(layers)._query(CopickMesh)

    def get_meshes(
        self,
        object_name: str | Iterable[str] | None = None,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
        **unknown: object,
    ) -> list[CopickMesh]:
        """The meshes whose object, user and session are as given: None = any, several = one of these."""
        return self._annotations(CopickMesh, object_name, user_id, session_id, layers, unknown)

    def new_mesh(
        self,
        object_name: str,
        session_id: str,
        user_id: str | None = None,
        exist_ok: bool = False,
        *,
        layers: Layers = None,
        **unknown: object,
    ) -> CopickMesh:
        """Create an empty scene and store it.

        Raises:
            ValueError: The project has no such object, no user is stated, or the mesh exists.
        """
        note_ignored(unknown)
        return self._new_annotation(
            CopickMesh, CopickMeshMeta, object_name, session_id, user_id, exist_ok, layers
        )

    def delete_meshes(
        self,
        object_name: str | Iterable[str] | None = None,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
    ) -> None:
        """Delete the meshes that `get_meshes` would give. Raises ReadOnlyError; see `Entity.delete`."""
        self._delete_all(self.get_meshes(object_name, user_id, session_id, layers=layers))

    def user_meshes(self) -> list[CopickMesh]:
        """Those of the project's user; if it states none, those that no tool made."""
        return self._by_user(self.meshes)

    def tool_meshes(self) -> list[CopickMesh]:
        """Those that a tool made: session "0"."""
        return [item for item in self.meshes if item.from_tool]

    def refresh_meshes(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kinds(MESH)

    # Filaments

    _filaments = remembered(FILAMENTS)

    @property
    def filaments(self) -> list[CopickFilaments]:
        """The filaments of all layers; listed once (see `refresh_filaments`)."""
        return self._list(CopickFilaments)

    def query_filaments(self, *, layers: Layers = None) -> list[CopickFilaments]:
        """The filaments, asked for now."""
        return self.on(layers)._query(CopickFilaments)

    def get_filaments(
        self,
        object_name: str | Iterable[str] | None = None,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
        **unknown: object,
    ) -> list[CopickFilaments]:
        """The filaments whose object, user and session are as given: None = any, several = one of these."""
        return self._annotations(CopickFilaments, object_name, user_id, session_id, layers, unknown)

    def new_filaments(
        self,
        object_name: str,
        session_id: str,
        user_id: str | None = None,
        exist_ok: bool = False,
        *,
        layers: Layers = None,
    ) -> CopickFilaments:
        """Create an empty set of filaments and store it.

        Raises:
            ValueError: The project has no such object, no user is stated, or the filaments exist.
        """
        return self._new_annotation(
            CopickFilaments,
            CopickFilamentsFile,
            object_name,
            session_id,
            user_id,
            exist_ok,
            layers,
            run_name=self.name,
        )

    def delete_filaments(
        self,
        object_name: str | Iterable[str] | None = None,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
    ) -> None:
        """Delete the filaments that `get_filaments` would give. Raises ReadOnlyError; see `Entity.delete`."""
        self._delete_all(self.get_filaments(object_name, user_id, session_id, layers=layers))

    def user_filaments(self) -> list[CopickFilaments]:
        """Those of the project's user; if it states none, those that no tool made."""
        return self._by_user(self.filaments)

    def tool_filaments(self) -> list[CopickFilaments]:
        """Those that a tool made: session "0"."""
        return [item for item in self.filaments if item.from_tool]

    def refresh_filaments(self) -> None:
        """Forget the list; it is asked for again when it is next needed."""
        self._refresh_kinds(FILAMENTS)

    def _annotations(
        self,
        cls: type[A],
        object_name: Any,
        user_id: Any,
        session_id: Any,
        layers: Layers,
        unknown: dict[str, object],
    ) -> list[A]:
        wanted = {"pickable_object_name": object_name, "user_id": user_id, "session_id": session_id}
        return select(self.on(layers)._list(cls), unknown, **wanted)

    def _new_annotation(
        self,
        cls: type[A],
        meta: type[Meta],
        object_name: str,
        session_id: str,
        user_id: str | None,
        exist_ok: bool,
        layers: Layers,
        **more: Any,
    ) -> A:
        fields = {
            "pickable_object_name": self.root._known_object(sanitize_name(object_name)),
            "user_id": self.root._user(user_id),
            "session_id": sanitize_name(session_id),
        }
        return self._new(cls, meta.of(**fields, **more), exist_ok, layers)

    # Segmentations

    _segmentations = remembered(SEGMENTATION, INSTANCE_SEGMENTATION, PANOPTIC_SEGMENTATION)

    @property
    def segmentations(self) -> list[CopickSegmentation]:
        """The segmentations of all types and layers; listed once (see `refresh_segmentations`)."""
        return self._list(CopickSegmentation)

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
        is_instance: bool | None = False,
        is_panoptic: bool | None = False,
        portal_meta_query: PortalQuery = None,
        portal_author_query: Iterable[str] | None = None,
        layers: Layers = None,
        **unknown: object,
    ) -> list[CopickSegmentation]:
        """The segmentations that are as given: None = any, several = one of these.

        Args:
            portal_meta_query, portal_author_query: As of `get_picks`.
            is_instance, is_panoptic: True = only these, False = all but these, None = these, too. By default binary
                and multilabel ones are given.
        """
        wanted = {
            "user_id": user_id,
            "session_id": session_id,
            "is_multilabel": is_multilabel,
            "name": name,
            "voxel_size": voxel_size,
        }
        kinds = [
            kind
            for kind in CopickSegmentation.kinds
            if is_instance in (None, kind.fixed["is_instance"])
            and is_panoptic in (None, kind.fixed["is_panoptic"])
        ]
        found = select(self.on(layers)._list(CopickSegmentation, kinds), unknown, **wanted)
        return of_portal(found, portal_meta_query, portal_author_query)

    def new_segmentation(
        self,
        voxel_size: float,
        name: str,
        session_id: str,
        is_multilabel: bool = False,
        user_id: str | None = None,
        exist_ok: bool = False,
        *,
        is_instance: bool = False,
        is_panoptic: bool = False,
        layers: Layers = None,
        **unknown: object,
    ) -> CopickSegmentation:
        """Create an empty segmentation; `from_numpy` fills it.

        Args:
            voxel_size: In ångström.
            name: An object of the project; free for multilabel and panoptic segmentations.

        Raises:
            ValueError: The project has no such object, no user is stated, more than one type is asked for, or the
                segmentation exists.
        """
        note_ignored(unknown)
        clean = sanitize_name(name)
        meta = CopickSegmentationMeta.of(
            voxel_size=_voxel_size(voxel_size),
            name=clean if is_multilabel or is_panoptic else self.root._known_object(clean),
            user_id=self.root._user(user_id),
            session_id=sanitize_name(session_id),
            is_multilabel=is_multilabel,
            is_instance=is_instance,
            is_panoptic=is_panoptic,
        )
        return self._new(CopickSegmentation, meta, exist_ok, layers)

    def delete_segmentations(
        self,
        user_id: str | Iterable[str] | None = None,
        session_id: str | Iterable[str] | None = None,
        is_multilabel: bool | None = None,
        name: str | Iterable[str] | None = None,
        voxel_size: float | Iterable[float] | None = None,
        *,
        is_instance: bool | None = False,
        is_panoptic: bool | None = False,
        layers: Layers = None,
    ) -> None:
        """Delete the segmentations that `get_segmentations` would give. Raises ReadOnlyError; see `Entity.delete`."""
        wanted = (user_id, session_id, is_multilabel, name, voxel_size)
        found = self.get_segmentations(
            *wanted, is_instance=is_instance, is_panoptic=is_panoptic, layers=layers
        )
        self._delete_all(found)

    def user_segmentations(self) -> list[CopickSegmentation]:
        """Those of the project's user; if it states none, those that no tool made."""
        return self._by_user(self.segmentations)

    def tool_segmentations(self) -> list[CopickSegmentation]:
        """Those that a tool made: session "0"."""
        return [item for item in self.segmentations if item.from_tool]

    def refresh_segmentations(self) -> None:
        """Forget the lists; they are asked for again when they are next needed."""
        self._refresh_kinds(*CopickSegmentation.kinds)

    def _by_user(self, items: list[Any]) -> list[Any]:
        """What the project's user made; without one, what any user made."""
        user = self.root.user_id
        return [item for item in items if (item.from_user if user is None else item.user_id == user)]

    # What plugins of 1.x call

    def _voxel_spacing_factory(self) -> tuple[type[CopickVoxelSpacing], type[CopickVoxelSpacingMeta]]:
        return CopickVoxelSpacing, CopickVoxelSpacingMeta

    def _picks_factory(self) -> type[CopickPicks]:
        return CopickPicks

    def _filaments_factory(self) -> type[CopickFilaments]:
        return CopickFilaments

    def _mesh_factory(self) -> tuple[type[CopickMesh], type[CopickMeshMeta]]:
        return CopickMesh, CopickMeshMeta

    def _segmentation_factory(self) -> tuple[type[CopickSegmentation], type[CopickSegmentationMeta]]:
        return CopickSegmentation, CopickSegmentationMeta

    def _invalidate_caches(self) -> None:
        self.refresh()
