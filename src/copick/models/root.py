"""The root of a project, and the objects that are looked for in it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Self

from copick.config import CopickConfig
from copick.errors import AlreadyExistsError, ConfigError, FormatError, NotFoundError, UnknownNameError
from copick.kinds import RUN
from copick.meta import CopickRunMeta, FilamentSpec, PickableObject, with_filament
from copick.models.entity import E, Layers, Node, note_ignored, remembered
from copick.models.objects import CopickObject
from copick.models.run import CopickRun
from copick.util.escape import sanitize_name
from copick.util.files import write_text
from copick.util.segmentation import RESERVED_NAME_SUFFIXES

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from copick.cache.manager import CacheManager
    from copick.kinds import Kind
    from copick.layers.build import CacheChoice
    from copick.layers.layer import Layer
    from copick.models.entity import Entity
    from copick.models.search import PointsFound

logger = logging.getLogger(__name__)


class CopickRoot(Node):
    """A project: everything its layers hold, as one tree."""

    config_class: ClassVar[type[CopickConfig]] = CopickConfig

    def __init__(
        self, config: CopickConfig, layer: Layer | None = None, *, cache: CacheChoice = None
    ) -> None:
        super().__init__()
        self.config = config
        if layer is None:
            from copick.layers.build import build_stack, choose_cache

            layer = build_stack(config, choose_cache(config, cache))
        self.layer = layer
        self._objects: list[CopickObject] | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], cache: CacheChoice = None) -> Self:
        """Open the project that a config file describes. Raises ConfigError, also if it is of another type."""
        return cls(cls.config_class.from_file(path), cache=cache)

    def _twin(self, names: tuple[str, ...]) -> Self:
        return type(self)(self.config, self.layer.narrowed(names))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config, self.layer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.config.name!r}, layers={self.layer.name!r}{self._shown()})"

    @property
    def user_id(self) -> str | None:
        """Who annotates: the default of `new_picks` and `new_segmentation`."""
        return self.config.user_id

    @user_id.setter
    def user_id(self, value: str | None) -> None:
        self.config.user_id = value

    @property
    def session_id(self) -> str | None:
        """As the config states it; no default of anything."""
        return self.config.session_id

    @session_id.setter
    def session_id(self, value: str | None) -> None:
        self.config.session_id = value

    # Runs

    _runs = remembered(RUN)

    @property
    def runs(self) -> list[CopickRun]:
        """The runs of all layers, by name; listed once (see `refresh`)."""
        return list(self._list(CopickRun))

    def query(self, *, layers: Layers = None) -> list[CopickRun]:
        """The runs, asked for now."""
        return self.on(layers)._query(CopickRun)

    def _asked(self, cls: type[E], kind: Kind) -> list[E]:
        found, named = super()._asked(cls, kind), self.config.runs
        if named is None or kind is not RUN:
            return found
        return [run for run in found if run.ref.values[0] in named]

    def get_run(self, name: str, *, layers: Layers = None, **unknown: object) -> CopickRun | None:
        """The run of that name, or None: also for one that the config does not name among its `runs`.

        Runs of the data portal are called by their ids there; they are also found by what the portal calls them.

        Raises:
            UnknownNameError: The portal calls several runs so, in several datasets. (A KeyError and a ValueError.)
        """
        note_ignored(unknown)
        shown, here = self.config.runs, self.on(layers)
        meta = CopickRunMeta.of(name=name)
        found = here._find(CopickRun, meta) if shown is None or name in shown else None
        if found is not None:
            return found
        others = sorted(str(ref.values[0]) for ref in here.layer.matching(None, RUN, {"name": name}))
        if len(others) > 1:
            raise UnknownNameError(
                f"the portal calls several runs {name!r}: {', '.join(others)}; ask for one of these"
            )
        if not others or (shown is not None and others[0] not in shown):
            return None
        return here._find(CopickRun, CopickRunMeta.of(name=others[0]))

    def new_run(
        self, name: str, exist_ok: bool = False, *, layers: Layers = None, **unknown: object
    ) -> CopickRun:
        """Create a run. One that the config hides (see its `runs`) is shown from now on.

        Raises:
            AlreadyExistsError: It exists (also a ValueError); not with `exist_ok`.
        """
        note_ignored(unknown)
        shown = self.config.runs
        hidden = shown is not None and name not in shown
        run = self._new(CopickRun, CopickRunMeta.of(name=name), exist_ok or hidden, layers)
        if shown is not None and hidden:
            shown.append(name)
        return run

    def create_run(self, name: str, description: str | None = None, *, layers: Layers = None) -> CopickRun:
        """Create a run, with a description in its `.meta` file. Raises AlreadyExistsError (a ValueError)."""
        run = self.new_run(name, layers=layers)
        if description is not None:
            run.description = description
            run.store()
        return run

    def delete_run(self, name: str, *, missing_ok: bool = True, layers: Layers = None) -> None:
        """Delete a run and everything in it from the layers that can be written.

        Raises:
            NotFoundError: There is no such run (not if `missing_ok`).
            ReadOnlyError: It is also in layers that cannot be written, and still there.
        """
        run = self.get_run(name, layers=layers)
        if run is not None:
            run.delete()
        elif not missing_ok:
            raise NotFoundError(f"there is no run {name!r}; the layers are {self.layer.name}")

    # Objects

    @property
    def pickable_objects(self) -> list[CopickObject]:
        """What is looked for in the project's tomograms, in the order of the config."""
        listed = self.config.pickable_objects
        if self._objects is None or list(map(id, listed)) != [id(item.meta) for item in self._objects]:
            self._objects = self._query_objects()
        return list(self._objects)

    def _query_objects(self) -> list[CopickObject]:
        made, _ = self._object_factory()
        return [made(self, meta) for meta in self.config.pickable_objects]

    def get_object(self, name: str) -> CopickObject | None:
        """The object of that name, or None."""
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
        filament: FilamentSpec | Mapping[str, Any] | None = None,
    ) -> CopickObject:
        """Declare an object. Only `save_config` makes it last.

        Args:
            label: None = one more than the highest there is.
            exist_ok: Update the object of that name with the values given.
            filament: Makes it a filament, with what is known of it.

        Raises:
            ValueError: The name or a value cannot be used, or the name or the label is taken.
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
        if filament is not None:
            known = found.metadata if found else {}
            fields["metadata"] = with_filament(known if metadata is None else metadata, filament)
        taken = [0, *(item.label or 0 for item in self.config.pickable_objects if item.name != name)]
        if label in taken and label != 0:
            raise AlreadyExistsError(f"label {label} is taken; free is {max(taken) + 1}")
        if found is not None:
            merged = {**found.meta.model_dump(), **fields, "is_particle": is_particle}
            updated = _usable(merged, found.meta)  # all of it is checked before any of it changes
            for key in PickableObject.model_fields:
                setattr(found.meta, key, getattr(updated, key))
            return found
        fields.setdefault("label", max(taken) + 1)
        made = _usable({"name": name, "is_particle": is_particle, **fields})
        if name.endswith(RESERVED_NAME_SUFFIXES):
            logger.warning("object %r: a binary segmentation of it would read back as a multilabel one", name)
        self.config.pickable_objects.append(made)
        self._objects = None
        return self.pickable_objects[-1]

    def _remove_object(self, name: str) -> None:
        kept = [item for item in self.config.pickable_objects if item.name != name]
        self.config.pickable_objects[:] = kept
        self._objects = None

    def _known_object(self, name: str) -> str:
        if self.get_object(name) is None:
            known = ", ".join(item.name for item in self.pickable_objects) or "(none)"
            raise ConfigError(
                f"the project has no object {name!r}; it has {known}. Add it with new_object or in the config"
            )
        return name

    def _user(self, user_id: str | None) -> str:
        user = self.user_id if user_id is None else user_id
        if user is None:
            raise ConfigError("no user_id: pass user_id=, or state it in the config")
        return sanitize_name(user)

    # Finding things

    def find_objects(
        self,
        /,  # so that "self" is a field that nothing has, like any other
        object_types: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
        limit: int | None = None,
        **criteria: Any,
    ) -> dict[str, list[Any]]:
        """Everything whose fields are as given: one value, or several = one of these.

        root.find_objects(user_id="alice", object_name="ribosome")["picks"]
        root.find_objects("picks", point_count_min=100, layer="archive", metadata={"deposition_id": 10301})
        root.find_objects("runs", having={"picks": {"object_name": "ribosome"}, "segmentations": {"name": "membrane"}})

        Args:
            object_types: Of "runs", "voxel_spacings", "tomograms", "features", "picks", "meshes", "filaments",
                "segmentations", "objects"; None = all that have every field asked for.
            layers: Look at these layers alone, as if there were no others; the index is not used.
            limit: At most so many of each type.
            criteria: Fields of these (`copick.models.search.FIELDS`); numbers are compared to three decimals, and may be
                given as ranges: `voxel_size_min=7, voxel_size_max=11`. Besides

                - `layer`: one of these layers holds it;
                - `author`: its metadata name this author;
                - `metadata`: a dict; what listings and documents say, nested keys joined by dots;
                - `having`: a dict of types and criteria; its run has one of each.

        Raises:
            ValueError: Nothing has such a field, or there is no such type.
        """
        from copick.models import search

        return search.find(self.on(layers), criteria, object_types, limit)

    def search(
        self,
        query: str,
        object_types: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
        limit: int | None = None,
    ) -> dict[str, list[Any]]:
        """Everything that has all words of `query` in its text fields; case does not count, beginnings are enough.

        What has more of the words as whole words comes first, then what has fewer words in all.

        Raises:
            ValueError: The query holds no word, or there is no such type (see `find_objects`).
            TypeError: The query is no text.
        """
        from copick.models import search

        if not isinstance(query, str):
            raise TypeError(
                f"search() looks for the words of a text, not of {type(query).__name__} {query!r:.40}"
            )

        return search.search(self.on(layers), query, object_types, limit)

    def find_related(
        self,
        things: Entity | Iterable[Entity],
        object_types: str | Iterable[str] | None = None,
        *,
        layers: Layers = None,
        **criteria: Any,
    ) -> dict[str, list[Any]]:
        """What belongs to the same runs as these things: the tomograms that picks are of, the picks in a tomogram, ...

        Args:
            object_types, layers, criteria: As in `find_objects`.
        """
        from copick.models import search

        return search.related(self.on(layers), things, object_types, criteria)

    def find_points(
        self,
        low: npt.ArrayLike | None = None,
        high: npt.ArrayLike | None = None,
        *,
        near: npt.ArrayLike | None = None,
        radius: float | None = None,
        layers: Layers = None,
        **criteria: Any,
    ) -> list[PointsFound]:
        """Points of picks in a box or around a place, with the picks they belong to.

        Args:
            low, high: Corners of the box (x, y, z) in ångström, themselves included; None = no bound.
            near, radius: The centre (x, y, z) and radius of a ball in ångström, its surface included.
            criteria: Of the picks; as in `find_objects`.

        Returns:
            For each set of picks with such points: the picks, the indices of the points, and their positions (N, 3).

        Raises:
            ValueError: Neither a box nor a ball is given, or picks have no such field.
        """
        from copick.models import search

        return search.points(self.on(layers), low, high, near, radius, criteria)

    def get_summary_statistics(self, *, layers: Layers = None) -> dict[str, Any]:
        """How much of what there is: by type ("total"), by layer, by object (sets of picks and points), user and voxel size."""
        from copick.models import search

        return search.summary(self.on(layers))

    # The index

    def index_all_layers(self, *, full: bool = False, workers: int = 8) -> dict[str, dict[str, int]]:
        """Look at every layer anew, and bring the index up to date; how many things of each type each layer holds.

        Args:
            full: Read again what seems unchanged, too.
            workers: How many runs to look at at a time.

        Raises:
            LayerError: A layer could not be asked, or the index cannot be written.
        """
        return self._index(None, full, workers)

    def index_layer(self, name: str, *, full: bool = False, workers: int = 8) -> dict[str, int]:
        """Look at one layer anew, and bring the index up to date; how many things of each type it holds.

        Raises:
            NotFoundError: There is no such layer.
        """
        self.layer.narrowed(name)
        return self._index(name, full, workers)[name]

    def _index(self, name: str | None, full: bool, workers: int) -> dict[str, dict[str, int]]:
        from copick.models import search

        if (stack := search.index_of(self)) is not None:
            self._forget_listed()
            self._objects = None
            stack.renew(None if name is None else [name], full=full, workers=workers)
        else:
            self.refresh()
            search.count(self)  # lists everything, once
        names = self.layer_names if name is None else [name]
        return {each: search.count(self, each) for each in names}

    def layer_status(self) -> dict[str, dict[str, Any]]:
        """What the index knows of each layer.

        Returns:
            By layer: "indexed" (all of it was looked at once), "scanned_at" (seconds since 1970), "seconds" (that took),
            "entities" (it holds), "problem" (of the last look).
        """
        from copick.models import search

        return search.status(self)

    @property
    def cache_manager(self) -> CacheManager | None:
        """The folder of its cache as this process uses it; None without a cache."""
        from copick.layers.build import cache_of

        return cache_of(self.layer)

    def get_cache_stats(self) -> dict[str, Any]:
        """Hits, misses, bytes fetched, failures of this process, and the size of the folder; empty without a cache."""
        manager = self.cache_manager
        return {} if manager is None else manager.get_stats()

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers, highest priority first."""
        return self.layer.names

    def flush(self, *, force: bool = False) -> list[str]:
        """Pass on the changes that wait in the cache (`write_strategy: cache`); what was passed on.

        Args:
            force: Also where that replaces what others have changed since the change that waits was begun.

        Raises:
            ConflictError: Others have changed something that waits; both versions are as they were. The rest was passed on.
            LayerError: Something could not be passed on for other reasons; it still waits.
        """
        passed = [str(ref) for ref in self.layer.flush(force=force)]
        if passed:
            self.refresh()
        return passed

    def refresh(self) -> None:
        """Forget what was listed, in the whole tree."""
        super().refresh()
        self._objects = None

    def ensure(self, create: bool = False) -> bool:
        """Whether the place of every layer is there and answers, asked now; `create` makes those that can be written.

        Raises:
            ReadOnlyError: `create` where no layer can be written.
            LayerError: A place cannot be made.
        """
        return self.layer.ensure(create=create)

    def reconnect(self) -> None:
        """Drop connections and what was listed; both are made again when they are next needed."""
        self.layer.reconnect()
        self.refresh()

    @property
    def root_overlay(self) -> str:
        """The root of the layer that writes go to, without protocol."""
        return self.overlay_path.rstrip("/")

    @property
    def root_static(self) -> str:
        """The root of the static data, without protocol; without static data, that of the overlay."""
        return self.static_path.rstrip("/")

    def save_config(self, config_path: str | os.PathLike[str]) -> None:
        """Write the config, with every field, as JSON. Credentials in fs_args are written as they are.

        A file that is there keeps its permissions; of a link, the file that it names is written.

        Raises:
            LayerError: The file cannot be written; it is as it was.
        """
        write_text(config_path, json.dumps(self.config.model_dump(mode="json"), indent=4), "the config file")

    def _run_factory(self) -> tuple[type[CopickRun], type[CopickRunMeta]]:
        return CopickRun, CopickRunMeta

    def _object_factory(self) -> tuple[type[CopickObject], type[PickableObject]]:
        return CopickObject, PickableObject

    def _invalidate_all_caches(self) -> None:
        self.refresh()


def _usable(fields: Mapping[str, Any], known: PickableObject | None = None) -> PickableObject:
    """An object of these values. Raises FormatError if one cannot be so, unless `known` says the same already."""
    made = PickableObject.of(**fields)
    problem = made.problem()
    if problem is not None and (known is None or known.problem() != problem):
        raise FormatError(problem)
    return made
