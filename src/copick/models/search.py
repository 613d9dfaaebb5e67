"""Finding things in a project: the index gives candidates if there is one, else the layers are looked through.

Either way the same rules say what is found (`copick.index.things`), so the results are the same.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from copick.errors import ConfigError, LayerError
from copick.index.stack import IndexedStack
from copick.index.things import (
    AUTHORS,
    AXES,
    NUMBERS,
    TYPES,
    Thing,
    Wanted,
    leaves,
    rank,
    split_words,
)
from copick.kinds import RUN, normal
from copick.models.entity import UNASKED, Entity, allowed
from copick.models.scan import scan
from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from copick.kinds import Kind, Ref
    from copick.models.annotations import CopickPicks
    from copick.models.root import CopickRoot

T = TypeVar("T")

_PLACES = ("layer", "author", "metadata")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "runs": ("name", "run_name", "description", *_PLACES),
    "voxel_spacings": ("voxel_size", "run_name", "description", *_PLACES),
    "tomograms": ("tomo_type", "voxel_size", "run_name", "dtype", *AXES, *_PLACES),
    "features": ("feature_type", "tomo_type", "voxel_size", "run_name", "dtype", *AXES, *_PLACES),
    "picks": (
        "pickable_object_name",
        "object_name",
        "user_id",
        "session_id",
        "run_name",
        "point_count",
        *_PLACES,
    ),
    "meshes": ("pickable_object_name", "object_name", "user_id", "session_id", "run_name", *_PLACES),
    "filaments": ("pickable_object_name", "object_name", "user_id", "session_id", "run_name", *_PLACES),
    "segmentations": (
        "name",
        "user_id",
        "session_id",
        "voxel_size",
        "is_multilabel",
        "is_instance",
        "is_panoptic",
        "segmentation_type",
        "run_name",
        "dtype",
        *AXES,
        *_PLACES,
    ),
    "objects": (
        "name",
        "object_name",
        "is_particle",
        "label",
        "emdb_id",
        "pdb_id",
        "identifier",
        "map_threshold",
        "radius",
    ),
}
"""What can be asked of each type of thing. `object_name` is short for `pickable_object_name`."""


class PointsFound(NamedTuple):
    """Points of a set of picks that lie where it was asked for."""

    picks: CopickPicks
    indices: npt.NDArray[np.int64]
    """(N,): which points of the set."""
    positions: npt.NDArray[np.float32]
    """(N, 3): where these objects are, in ångström, x, y, z."""


def find(
    root: CopickRoot, criteria: Mapping[str, Any], types: Iterable[str] | None, limit: int | None = None
) -> dict[str, list[Any]]:
    """Things whose fields are as wanted. See `CopickRoot.find_objects`."""
    asked = dict(criteria)
    having = asked.pop("having", None)
    wanted = _wanted(asked)
    fields = _fields(wanted)
    chosen = [name for name in _checked(types) if fields <= set(FIELDS[name])]
    runs = _runs_having(root, having)
    if having is not None:
        chosen = [name for name in chosen if name != "objects"]
    _check_limit(limit)
    found: dict[str, list[Any]] = {name: [] for name in chosen}
    if "objects" in found:
        found["objects"] = [item for item in root.pickable_objects if _object_matches(item, wanted)][:limit]
    things = _things(root, [name for name in chosen if name != "objects"], wanted, runs, limit)
    for name in things:
        found[name] = _entities(root, things[name])
    return found


def related(
    root: CopickRoot, things: Any, types: Iterable[str] | None, criteria: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Things in the same runs. See `CopickRoot.find_related`."""
    given = [things] if isinstance(things, Entity) else list(things)
    if outside := [each for each in given if next(each.ref.walk()).kind is not RUN]:
        raise ValueError(
            f"{outside[0].ref} lies in no run; what is of an object is found by find_objects(object_name=...)"
        )
    runs = {str(next(each.ref.walk()).values[0]) for each in given}
    names = [name for name in _checked(types) if name != "objects"]
    return find(root, {**criteria, "run_name": runs}, names)


def points(
    root: CopickRoot,
    low: Any,
    high: Any,
    near: Any,
    radius: float | None,
    criteria: Mapping[str, Any],
) -> list[PointsFound]:
    """Points in a box or a ball. See `CopickRoot.find_points`."""
    asked = dict(criteria)
    runs = _runs_having(root, asked.pop("having", None))
    wanted = _wanted(asked)
    if unknown := sorted(_fields(wanted) - set(FIELDS["picks"])):
        raise ValueError(f"picks have no field {unknown[0]!r}; known are {', '.join(FIELDS['picks'])}")
    least, most, inside = _region(low, high, near, radius)
    wanted_runs = _runs(root, wanted, runs)
    wanted = _told(root, ["picks"], wanted)

    def from_index(stack: IndexedStack) -> list[Thing]:
        found = stack.reader.points(wanted, (least.tolist(), most.tolist()), wanted_runs)
        return [thing for thing in found if wanted.matches(thing)]

    def from_layers() -> list[Thing]:
        return [thing for thing in scan(root, {"picks"}, wanted_runs) if wanted.matches(thing)]

    result = []
    for thing in _asked(root, from_index, from_layers):
        where = thing.points
        if where is None:
            continue
        (indices,) = np.nonzero(inside(where))
        if len(indices):
            (picks,) = _entities(root, [thing])
            result.append(PointsFound(picks, indices, where[indices]))
    return result


def search(
    root: CopickRoot, query: str, types: Iterable[str] | None, limit: int | None = None
) -> dict[str, list[Any]]:
    """Things that have all words of a text, best first. See `CopickRoot.search`."""
    terms = list(dict.fromkeys(split_words(query)))
    if not terms:
        raise ValueError(f"{query!r} holds no word to search for")
    chosen = _checked(types)
    _check_limit(limit)
    names = [name for name in chosen if name != "objects"]

    def from_index(stack: IndexedStack) -> list[Thing]:
        shown = _shown(root)
        return [thing for thing in stack.reader.search(terms, names) if shown is None or thing.run in shown]

    def from_layers() -> list[Thing]:
        return list(scan(root, set(names), _shown(root)))

    ranked: dict[str, list[tuple[Any, Any, Any]]] = {name: [] for name in chosen}
    if names:
        for thing in _asked(root, from_index, from_layers):
            if (place := rank(terms, thing.words())) is not None:
                ranked[thing.type].append((place, thing.order, thing))
    found: dict[str, list[Any]] = {}
    for name in chosen:
        if name == "objects":
            found[name] = _search_objects(root, terms)[:limit]
        else:
            best = sorted(ranked[name], key=lambda each: each[:2])[:limit]
            found[name] = _entities(root, [thing for *_, thing in best])
    return found


def count(root: CopickRoot, layer: str | None = None) -> dict[str, int]:
    """How many things of each type there are, in a layer alone or in all."""

    def from_layers() -> dict[str, int]:
        return _sums(scan(root.on(layer), set(TYPES), _shown(root)))

    found = _asked(root, lambda stack: stack.reader.counts(layer, _shown(root)), from_layers)
    return {**found, "objects": len(root.pickable_objects)}


def status(root: CopickRoot) -> dict[str, dict[str, Any]]:
    """What the index knows of each layer. See `CopickRoot.layer_status`."""
    stack = index_of(root)
    try:
        if stack is not None:
            return stack.reader.status()
        problem = "the project has no index"
    except LayerError as error:
        problem = str(error)
    nothing = {"indexed": False, "scanned_at": None, "seconds": None, "entities": 0, "problem": problem}
    return {name: dict(nothing) for name in root.layer_names}


def summary(root: CopickRoot) -> dict[str, Any]:
    """How much of what there is. See `CopickRoot.get_summary_statistics`."""

    def from_index(stack: IndexedStack) -> dict[str, Any]:
        totals = stack.reader.totals(_shown(root))
        layers = {name: stack.reader.counts(name, _shown(root)) for name in stack.names}
        return {"total": stack.reader.counts(None, _shown(root)), **totals, "layers": layers}

    def from_layers() -> dict[str, Any]:
        picks: dict[str, dict[str, int]] = defaultdict(lambda: {"sets": 0, "points": 0})
        users: dict[str, int] = defaultdict(int)
        sizes: dict[float, int] = defaultdict(int)
        total = dict.fromkeys(TYPES, 0)
        for thing in scan(root, set(TYPES), _shown(root)):
            total[thing.type] += 1
            if thing.type == "picks":
                picks[thing.value("object_name")]["sets"] += 1
                picks[thing.value("object_name")]["points"] += thing.value("point_count") or 0
            if thing.type == "voxel_spacings":
                sizes[thing.value("voxel_size")] += 1
            elif (user := thing.value("user_id")) is not None:
                users[user] += 1
        layers = {name: _sums(scan(root.on(name), set(TYPES), _shown(root))) for name in root.layer_names}
        return {
            "total": total,
            "picks_by_object": dict(picks),
            "annotations_by_user": dict(users),
            "voxel_spacings_by_size": dict(sizes),
            "layers": layers,
        }

    found = _asked(root, from_index, from_layers)
    found["total"]["objects"] = len(root.pickable_objects)
    found["total"]["points"] = sum(each["points"] for each in found["picks_by_object"].values())
    return found


def index_of(root: CopickRoot) -> IndexedStack | None:
    """The stack of a root, if it has an index."""
    return root.layer if isinstance(root.layer, IndexedStack) else None


def needed_index(root: CopickRoot) -> IndexedStack:
    """The same. Raises ConfigError if there is none."""
    if (stack := index_of(root)) is None:
        raise ConfigError(
            "this project has no index: state one in its config, "
            '"db_config": {"db_path": "/path/to/index.db"} ("index" in a config of copick 1.x)'
        )
    return stack


# What is asked for


def _wanted(criteria: Mapping[str, Any]) -> Wanted:
    """Criteria as they are compared. Raises ValueError, naming the fields there are."""
    known = sorted({field for fields in FIELDS.values() for field in fields})
    exact: dict[str, set[Any]] = {}
    ranges: dict[str, tuple[float, float]] = {}
    metadata: dict[str, set[Any]] = {}
    special: dict[str, set[Any]] = {}
    for name, value in criteria.items():
        field, _, end = name.rpartition("_")
        if value is None and (name in {*known, "metadata"} or (end in ("min", "max") and field in NUMBERS)):
            continue  # any
        if name == "metadata":
            if not isinstance(value, Mapping):
                raise ValueError(f"metadata={value!r}: expected a dict of keys and values")
            metadata = {str(key): allowed(each) for key, each in value.items() if each is not None}
        elif name in ("layer", "author"):
            special[name] = allowed(value)
        elif name in known:
            exact[name] = allowed(value)
        elif end in ("min", "max") and field in NUMBERS:
            least, most = ranges.get(field, (-math.inf, math.inf))
            number = _number(name, value)
            ranges[field] = (number, most) if end == "min" else (least, number)
        else:
            bounds = [f"{number}_{which}" for number in sorted(NUMBERS) for which in ("min", "max")]
            raise ValueError(
                f"nothing has a field {name!r}{nearest(name, [*known, *bounds])}; known are {', '.join(known)}; "
                "numbers also with _min and _max"
            )
    return Wanted(exact, ranges, special.get("layer"), special.get("author"), metadata)


def _number(name: str, value: Any) -> float:
    try:
        return float(normal(value))
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r}: expected a number") from None


def _fields(wanted: Wanted) -> set[str]:
    special = (("layer", wanted.layers), ("author", wanted.authors), ("metadata", wanted.metadata or None))
    return {*wanted.exact, *wanted.ranges, *(name for name, value in special if value is not None)}


def _checked(types: Iterable[str] | None) -> list[str]:
    chosen = list(FIELDS) if types is None else [types] if isinstance(types, str) else list(types)
    for name in chosen:
        if name not in FIELDS:
            raise ValueError(
                f"there is no type {name!r}{nearest(str(name), list(FIELDS))}; known are {', '.join(FIELDS)}"
            )
    return chosen


def _check_limit(limit: int | None) -> None:
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise ValueError(f"limit={limit!r}: expected a whole number of things, or None for all")


def _runs_having(root: CopickRoot, having: Any) -> set[str] | None:
    """The runs that have one of each of these; None = all."""
    if having is None:
        return None
    if not isinstance(having, Mapping):
        raise ValueError(f"having={having!r}: expected a dict of types and their criteria")
    runs: set[str] | None = None
    for name, criteria in having.items():
        _checked(name)
        if not isinstance(criteria, Mapping | None):
            raise ValueError(f"having={{{name!r}: {criteria!r}}}: expected a dict of criteria")
        wanted = _wanted(criteria or {})
        if name == "objects" or not _fields(wanted) <= set(FIELDS[name]):
            raise ValueError(
                f"having={{{name!r}: {criteria!r}}}: no run can have that; known are {FIELDS[name]}"
            )
        found = {thing.run for thing in _things(root, [name], wanted, runs, None)[name]}
        runs = found if runs is None else runs & found
    return runs


def _region(
    low: Any, high: Any, near: Any, radius: float | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Callable[[Any], npt.NDArray[np.bool_]]]:
    """The box around a region, and what tells which of (N, 3) points are in it. Raises ValueError."""
    if (near is None) == (low is None and high is None) or (near is None) != (radius is None):
        raise ValueError(
            "say where: low= and high= (a box), or near= and radius= (a ball), in ångström, x, y, z"
        )
    if near is not None:
        centre, reach = _position("near", near), float(radius or 0)
        if not reach >= 0:
            raise ValueError(f"radius={radius!r}: expected a length in ångström")
        around = reach + (np.abs(centre) + reach) * 1e-12  # sums are rounded otherwise than distances
        return (
            centre - around,
            centre + around,
            lambda where: np.linalg.norm(where.astype(np.float64) - centre, axis=1) <= reach,
        )
    least = np.full(3, -np.inf) if low is None else _position("low", low)
    most = np.full(3, np.inf) if high is None else _position("high", high)
    return least, most, lambda where: ((where >= least) & (where <= most)).all(axis=1)


def _position(name: str, value: Any) -> npt.NDArray[np.float64]:
    position = np.asarray(value, dtype=np.float64)
    if position.shape != (3,) or np.isnan(position).any():
        raise ValueError(f"{name}={value!r}: expected x, y, z in ångström")
    return position


# Where it is looked for


def _asked(root: CopickRoot, from_index: Callable[[IndexedStack], T], from_layers: Callable[[], T]) -> T:
    """The answer of the index; if there is none, or it is of no use, what the layers say."""
    stack = index_of(root)
    if stack is not None:
        stack.watch()
        try:
            stack.settle()
            return from_index(stack)
        except LayerError as error:
            stack.complain(error)
    return from_layers()


def _things(
    root: CopickRoot, names: list[str], wanted: Wanted, runs: set[str] | None, limit: int | None
) -> dict[str, list[Thing]]:
    """Things of these types that are as wanted, as the tree lists them."""
    if not names:
        return {}
    chosen = _runs(root, wanted, runs)
    wanted = _told(root, names, wanted)

    def from_index(stack: IndexedStack) -> dict[str, list[Thing]]:
        return {name: _first(stack.reader.find(name, wanted, chosen), wanted, limit) for name in names}

    def from_layers() -> dict[str, list[Thing]]:
        found: dict[str, list[Thing]] = {name: [] for name in names}
        for thing in scan(root, set(names), chosen):
            if (limit is None or len(found[thing.type]) < limit) and wanted.matches(thing):
                found[thing.type].append(thing)
        return found

    return _asked(root, from_index, from_layers)


def _told(root: CopickRoot, names: Iterable[str], wanted: Wanted) -> Wanted:
    """With what layers find by what they alone know (the data portal): asked first, while nobody waits for the index."""
    fields = {**wanted.metadata, **({} if wanted.authors is None else {AUTHORS: wanted.authors})}
    known: dict[str, set[Ref]] = defaultdict(set)
    kinds = [kind for name in names for kind in TYPES[name]] if fields else []
    for layer in leaves(root.layer):
        for kind in kinds:
            for field, values in fields.items():
                known[field].update(layer.source.found_by(kind, field, values) or ())
    return wanted._replace(known=known)


def _first(things: Iterator[Thing], wanted: Wanted, limit: int | None) -> list[Thing]:
    found: list[Thing] = []
    for thing in things:
        if limit is not None and len(found) >= limit:
            break
        if wanted.matches(thing):
            found.append(thing)
    return found


def _shown(root: CopickRoot) -> set[str] | None:
    """The runs that the config names; None = all."""
    return None if root.config.runs is None else set(root.config.runs)


def _runs(root: CopickRoot, wanted: Wanted, runs: set[str] | None) -> set[str] | None:
    """The runs to look into; None = all."""
    named = wanted.exact.get("run_name")
    found = None if named is None else {name for name in named if isinstance(name, str)}
    for others in (runs, _shown(root)):
        if others is not None:
            found = others if found is None else found & others
    return found


def _sums(things: Iterable[Thing]) -> dict[str, int]:
    total = dict.fromkeys(TYPES, 0)
    for thing in things:
        total[thing.type] += 1
    return total


# What is given


def _entities(root: CopickRoot, things: Iterable[Thing]) -> list[Any]:
    """The entities of a project that things are; those it has listed are these."""
    known: dict[Ref, Any] = {}
    stack = index_of(root)
    found = []
    for thing in things:
        if stack is not None:
            stack.remember(thing.ref, thing.sources)
        found.append(_entity(root, thing.ref, known, thing.meta))
    return found


def _entity(root: CopickRoot, ref: Ref, known: dict[Ref, Any], meta: Any = UNASKED) -> Any:
    if ref not in known:
        parent = root if ref.parent is None else _entity(root, ref.parent, known)
        known[ref] = parent._at(entity_class(ref.kind), ref, meta)
    return known[ref]


@functools.cache
def entity_class(kind: Kind) -> type[Entity]:
    """The class of the entities of a kind."""
    return next(cls for cls in _subclasses(Entity) if kind in getattr(cls, "kinds", ()))


def _subclasses(cls: type[Entity]) -> Iterator[type[Entity]]:
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)


# Objects, which are in the config


def _object_matches(item: Any, wanted: Wanted) -> bool:
    values = _object_values(item)
    if any(
        values[field] is None or normal(values[field]) not in accepted
        for field, accepted in wanted.exact.items()
    ):
        return False
    return all(
        values[field] is not None and least <= float(values[field]) <= most
        for field, (least, most) in wanted.ranges.items()
    )


def _object_values(item: Any) -> dict[str, Any]:
    return {field: getattr(item, "name" if field == "object_name" else field) for field in FIELDS["objects"]}


def _search_objects(root: CopickRoot, terms: list[str]) -> list[Any]:
    ranked = []
    for at, item in enumerate(root.pickable_objects):
        texts = [value for value in _object_values(item).values() if isinstance(value, str)]
        place = rank(terms, {word for text in texts for word in split_words(text)})
        if place is not None:
            ranked.append((place, at, item))
    return [item for *_, item in sorted(ranked, key=lambda each: each[:2])]
