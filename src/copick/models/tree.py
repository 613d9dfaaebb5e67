"""The tree of a project: root, runs, voxel spacings; and the objects that are looked for in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from copick.config import CacheChoice, CopickConfig, choose_cache, read_config
from copick.errors import AlreadyExistsError, ConfigError
from copick.kinds import PICKS, RUN, SEGMENTATION, TOMOGRAM, VOXEL_SPACING, normal
from copick.meta import (
    CopickPicksFile,
    CopickRunMeta,
    CopickSegmentationMeta,
    CopickTomogramMeta,
    CopickVoxelSpacingMeta,
    PickableObject,
)
from copick.models.annotations import CopickPicks
from copick.models.entity import Entity, Layers, Node, select
from copick.models.volumes import CopickSegmentation, CopickTomogram
from copick.util.escape import sanitize_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from copick.kinds import Kind
    from copick.layers.layer import Layer

Names = "str | Iterable[str] | None"


def remembered(kind: Kind) -> property:
    """A private list of children as 1.x has it: None = not listed yet; setting None forgets."""

    def read(self: Node) -> list[Any] | None:
        return self._children.get(kind.name)

    def replace(self: Node, children: list[Any] | None) -> None:
        self._forget_kind(kind)
        if children is not None:
            self._children[kind.name] = children

    return property(read, replace)


class CopickObject:
    """One kind of thing that is looked for; described in the config."""

    def __init__(self, root: CopickRoot, meta: PickableObject) -> None:
        self.root, self.meta = root, meta

    name = property(lambda self: self.meta.name)
    is_particle = property(lambda self: self.meta.is_particle)
    label = property(lambda self: self.meta.label)
    color = property(lambda self: self.meta.color)
    emdb_id = property(lambda self: self.meta.emdb_id)
    pdb_id = property(lambda self: self.meta.pdb_id)
    identifier = property(lambda self: self.meta.identifier)
    map_threshold = property(lambda self: self.meta.map_threshold)
    radius = property(lambda self: self.meta.radius, doc="In ångström.")
    metadata = property(lambda self: self.meta.metadata)

    def __repr__(self) -> str:
        what = "particle" if self.is_particle else "region"
        return f"CopickObject(name={self.name!r}, label={self.label}, {what})"


class CopickRoot(Node):
    """A project: everything its layers hold, as one tree."""

    def __init__(self, config: CopickConfig, layer: Layer | None = None, *, cache: CacheChoice = None) -> None:
        super().__init__()
        self.config = config
        if layer is None:
            from copick.layers.build import build_stack

            layer = build_stack(config, choose_cache(config, cache))
        self.layer = layer
        self._objects: list[CopickObject] | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], cache: CacheChoice = None) -> Self:
        """Open the project that a config file describes."""
        return cls(read_config(path), cache=cache)

    def _twin(self, names: tuple[str, ...]) -> Self:
        return type(self)(self.config, self.layer.narrowed(names))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config, self.layer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.config.name!r}, layers={self.layer.name!r}{self._shown()})"

    @property
    def user_id(self) -> str | None:
        return self.config.user_id

    @user_id.setter
    def user_id(self, value: str | None) -> None:
        self.config.user_id = value

    @property
    def session_id(self) -> str | None:
        return self.config.session_id

    @session_id.setter
    def session_id(self, value: str | None) -> None:
        self.config.session_id = value

    # Runs

    _runs = remembered(RUN)

    @property
    def runs(self) -> list[CopickRun]:
        return list(self._list(CopickRun))

    def query(self, *, layers: Layers = None) -> list[CopickRun]:
        """The runs, asked for now."""
        return self.on(layers)._query(CopickRun)

    def get_run(self, name: str, *, layers: Layers = None, **_: object) -> CopickRun | None:
        """The run of that name, or None."""
        return self.on(layers)._find(CopickRun, CopickRunMeta(name=name))

    def new_run(self, name: str, exist_ok: bool = False, *, layers: Layers = None, **_: object) -> CopickRun:
        """Create a run. Raises AlreadyExistsError (a ValueError) unless `exist_ok`."""
        return self._new(CopickRun, CopickRunMeta(name=name), exist_ok, layers)

    # Objects

    @property
    def pickable_objects(self) -> list[CopickObject]:
        if self._objects is None:
            self._objects = self._query_objects()
        return list(self._objects)

    def _query_objects(self) -> list[CopickObject]:
        return [CopickObject(self, meta) for meta in self.config.pickable_objects]

    def get_object(self, name: str) -> CopickObject | None:
        return next((item for item in self.pickable_objects if item.name == name), None)

    def new_object(
        self,
        name: str,
        is_particle: bool,
        label: int | None = None,
        color: tuple[int, int, int, int] | None = None,
        emdb_id: str | None = None,
        pdb_id: str | None = None,
        identifier: str | None = None,
        map_threshold: float | None = None,
        radius: float | None = None,
        metadata: dict[str, Any] | None = None,
        exist_ok: bool = False,
    ) -> CopickObject:
        """Declare an object. Only `save_config` makes it last.

        Args:
            label: None = one more than the highest there is.
            exist_ok: Update the object of that name with the values given.

        Raises:
            ValueError: The name cannot be used, or the name or the label is taken.
        """
        given = {
            "label": label,
            "color": color,
            "emdb_id": emdb_id,
            "pdb_id": pdb_id,
            "identifier": identifier,
            "map_threshold": map_threshold,
            "radius": radius,
            "metadata": metadata,
        }
        fields = {key: value for key, value in given.items() if value is not None}
        found = self.get_object(name)
        if found is not None and not exist_ok:
            raise AlreadyExistsError(f"there is an object {name!r} already; pass exist_ok=True to update it")
        others = [item.label for item in self.config.pickable_objects if item.name != name and item.label is not None]
        if label in others:
            raise AlreadyExistsError(f"label {label} is taken; free is {max(others) + 1}")
        if found is not None:
            updated = PickableObject.model_validate({**found.meta.model_dump(), **fields, "is_particle": is_particle})
            for key in PickableObject.model_fields:
                setattr(found.meta, key, getattr(updated, key))
            return found
        fields.setdefault("label", max(others, default=0) + 1)
        self.config.pickable_objects.append(PickableObject(name=name, is_particle=is_particle, **fields))
        self._objects = None
        return self.pickable_objects[-1]

    def _known_object(self, name: str) -> str:
        if self.get_object(name) is None:
            known = ", ".join(item.name for item in self.pickable_objects) or "(none)"
            raise ConfigError(f"the project has no object {name!r}; it has {known}. Add it with new_object or in the config")
        return name

    def _user(self, user_id: str | None) -> str:
        user = self.user_id if user_id is None else user_id
        if user is None:
            raise ConfigError("no user_id: pass user_id=, or state it in the config")
        return sanitize_name(user)

    def refresh(self) -> None:
        """Forget what was listed, in the whole tree."""
        super().refresh()
        self._objects = None

    def save_config(self, config_path: str | os.PathLike[str]) -> None:
        """Write the config, with every field, as JSON. Credentials in fs_args are written as they are."""
        path = Path(config_path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self.config.model_dump(mode="json"), indent=4), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _run_factory(self) -> tuple[type[CopickRun], type[CopickRunMeta]]:
        return CopickRun, CopickRunMeta

    def _object_factory(self) -> tuple[type[CopickObject], type[PickableObject]]:
        return CopickObject, PickableObject

    def _invalidate_all_caches(self) -> None:
        self.refresh()


class CopickRun(Entity):
    """One tilt series: its tomograms, and everything annotated on them."""

    kind = RUN
    meta: CopickRunMeta

    @property
    def root(self) -> CopickRoot:
        root: CopickRoot = self.parent  # type: ignore[assignment]
        return root

    @property
    def name(self) -> str:
        return self.meta.name

    # Voxel spacings

    _voxel_spacings = remembered(VOXEL_SPACING)

    @property
    def voxel_spacings(self) -> list[CopickVoxelSpacing]:
        return list(self._list(CopickVoxelSpacing))

    def query_voxelspacings(self, *, layers: Layers = None) -> list[CopickVoxelSpacing]:
        return self.on(layers)._query(CopickVoxelSpacing)

    def get_voxel_spacing(self, voxel_size: float, *, layers: Layers = None, **_: object) -> CopickVoxelSpacing | None:
        """The voxel spacing of that size in ångström (to three decimals), or None."""
        try:
            meta = CopickVoxelSpacingMeta(voxel_size=normal(voxel_size))
        except ValueError:  # not a voxel size: nothing has it
            return None
        return self.on(layers)._find(CopickVoxelSpacing, meta)

    def new_voxel_spacing(
        self, voxel_size: float, exist_ok: bool = False, *, layers: Layers = None, **_: object
    ) -> CopickVoxelSpacing:
        """Create a voxel spacing, in ångström."""
        meta = CopickVoxelSpacingMeta(voxel_size=normal(voxel_size))
        return self._new(CopickVoxelSpacing, meta, exist_ok, layers)

    def refresh_voxel_spacings(self) -> None:
        self._refresh_kind(VOXEL_SPACING)

    # Picks

    _picks = remembered(PICKS)

    @property
    def picks(self) -> list[CopickPicks]:
        return list(self._list(CopickPicks))

    def query_picks(self, *, layers: Layers = None) -> list[CopickPicks]:
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
        meta = CopickPicksFile(
            pickable_object_name=self.root._known_object(sanitize_name(object_name)),
            user_id=self.root._user(user_id),
            session_id=sanitize_name(session_id),
            run_name=self.name,
        )
        return self._new(CopickPicks, meta, exist_ok, layers)

    def user_picks(self) -> list[CopickPicks]:
        return self._by_user(self.picks)

    def tool_picks(self) -> list[CopickPicks]:
        return [item for item in self.picks if item.from_tool]

    def refresh_picks(self) -> None:
        self._refresh_kind(PICKS)

    # Segmentations

    _segmentations = remembered(SEGMENTATION)

    @property
    def segmentations(self) -> list[CopickSegmentation]:
        return list(self._list(CopickSegmentation))

    def query_segmentations(self, *, layers: Layers = None) -> list[CopickSegmentation]:
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
        **_: object,
    ) -> CopickSegmentation:
        """Create an empty segmentation; `from_numpy` fills it.

        Args:
            voxel_size: In ångström.
            name: An object of the project; free for multilabel segmentations.

        Raises:
            ValueError: The project has no such object, no user is stated, or the segmentation exists.
        """
        clean = sanitize_name(name)
        meta = CopickSegmentationMeta(
            voxel_size=normal(voxel_size),
            name=clean if is_multilabel else self.root._known_object(clean),
            user_id=self.root._user(user_id),
            session_id=sanitize_name(session_id),
            is_multilabel=is_multilabel,
        )
        return self._new(CopickSegmentation, meta, exist_ok, layers)

    def user_segmentations(self) -> list[CopickSegmentation]:
        return self._by_user(self.segmentations)

    def tool_segmentations(self) -> list[CopickSegmentation]:
        return [item for item in self.segmentations if item.from_tool]

    def refresh_segmentations(self) -> None:
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


class CopickVoxelSpacing(Entity):
    """The tomograms of a run that share one voxel size."""

    kind = VOXEL_SPACING
    meta: CopickVoxelSpacingMeta

    @property
    def run(self) -> CopickRun:
        run: CopickRun = self.parent  # type: ignore[assignment]
        return run

    @property
    def voxel_size(self) -> float:
        """In ångström."""
        return self.meta.voxel_size

    _tomograms = remembered(TOMOGRAM)

    @property
    def tomograms(self) -> list[CopickTomogram]:
        return list(self._list(CopickTomogram))

    def query_tomograms(self, *, layers: Layers = None) -> list[CopickTomogram]:
        return self.on(layers)._query(CopickTomogram)

    def get_tomogram(self, tomo_type: str, *, layers: Layers = None) -> CopickTomogram | None:
        """The tomogram of that type, or None."""
        return self.on(layers)._find(CopickTomogram, CopickTomogramMeta(tomo_type=tomo_type))

    def get_tomograms(
        self, tomo_type: str | Iterable[str] | None = None, *, layers: Layers = None, **unknown: object
    ) -> list[CopickTomogram]:
        """The tomograms of that type or types; all without one."""
        return select(self.on(layers)._list(CopickTomogram), unknown, tomo_type=tomo_type)

    def new_tomogram(
        self, tomo_type: str, exist_ok: bool = False, *, layers: Layers = None, **_: object
    ) -> CopickTomogram:
        """Create an empty tomogram; `from_numpy` fills it."""
        return self._new(CopickTomogram, CopickTomogramMeta(tomo_type=sanitize_name(tomo_type)), exist_ok, layers)

    def refresh_tomograms(self) -> None:
        self._refresh_kind(TOMOGRAM)

    def _tomogram_factory(self) -> tuple[type[CopickTomogram], type[CopickTomogramMeta]]:
        return CopickTomogram, CopickTomogramMeta
