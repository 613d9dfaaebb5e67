"""Finding things in a project by looking through its layers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from copick.kinds import normal
from copick.models.entity import allowed
from copick.util.progress import Progress
from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from copick.models.entity import Entity
    from copick.models.root import CopickRoot

FIELDS: Mapping[str, tuple[str, ...]] = {
    "runs": ("name", "run_name", "description"),
    "voxel_spacings": ("voxel_size", "run_name", "description"),
    "tomograms": ("tomo_type", "voxel_size", "run_name"),
    "features": ("feature_type", "tomo_type", "voxel_size", "run_name"),
    "picks": ("pickable_object_name", "object_name", "user_id", "session_id", "run_name"),
    "meshes": ("pickable_object_name", "object_name", "user_id", "session_id", "run_name"),
    "filaments": ("pickable_object_name", "object_name", "user_id", "session_id", "run_name"),
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

_DESCRIBED = {"description"}
"""Fields that need a file to be read."""


def find(root: CopickRoot, criteria: Mapping[str, Any], types: Iterable[str] | None) -> dict[str, list[Any]]:
    """Things whose fields are as wanted. See `CopickRoot.find_objects`."""
    wanted = {field: allowed(value) for field, value in criteria.items()}
    known = sorted({field for fields in FIELDS.values() for field in fields})
    for field in wanted:
        if field not in known:
            raise ValueError(
                f"nothing has a field {field!r}{nearest(field, known)}; known are {', '.join(known)}"
            )
    chosen = [name for name in _checked(types) if set(wanted) <= set(FIELDS[name])]
    return _collect(
        root, chosen, wanted.get("run_name"), lambda values: _matches(values, wanted), set(wanted)
    )


def search(root: CopickRoot, query: str, types: Iterable[str] | None) -> dict[str, list[Any]]:
    """Things that have all words of a text. See `CopickRoot.search`."""
    terms = _words(query)
    if not terms:
        raise ValueError(f"{query!r} holds no word to search for")

    def holds(values: Mapping[str, Any]) -> bool:
        words = {word for value in values.values() if isinstance(value, str) for word in _words(value)}
        return all(any(word.startswith(term) for word in words) for term in terms)

    return _collect(root, _checked(types), None, holds, _DESCRIBED)


def count(root: CopickRoot) -> dict[str, int]:
    """How many things of each type there are; everything is listed anew."""
    root.refresh()
    found = _collect(root, list(FIELDS), None, lambda values: True, set())
    return {name: len(things) for name, things in found.items()}


def _checked(types: Iterable[str] | None) -> list[str]:
    chosen = list(FIELDS) if types is None else [types] if isinstance(types, str) else list(types)
    for name in chosen:
        if name not in FIELDS:
            raise ValueError(
                f"there is no type {name!r}{nearest(str(name), list(FIELDS))}; known are {', '.join(FIELDS)}"
            )
    return chosen


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _matches(values: Mapping[str, Any], wanted: Mapping[str, set[Any]]) -> bool:
    return all(
        values[field] is not None and normal(values[field]) in accepted for field, accepted in wanted.items()
    )


def _collect(
    root: CopickRoot,
    types: list[str],
    run_names: set[Any] | None,
    matches: Callable[[Mapping[str, Any]], bool],
    needed: set[str],
) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in types}
    if "objects" in found:
        found["objects"] = [
            item for item in root.pickable_objects if matches(_values(item, "objects", needed))
        ]
    kinds = {name for name in types if name != "objects"}
    if not kinds:
        return found
    runs = [run for run in root.runs if run_names is None or run.name in run_names]
    with Progress("searching runs", len(runs)) as progress:
        for run in runs:
            for name, entity in _things(run, kinds):
                if matches(_values(entity, name, needed)):
                    found[name].append(entity)
            progress.step()
    return found


def _things(run: Any, types: set[str]) -> Iterator[tuple[str, Entity]]:
    """A run and what is in it, of these types."""
    if "runs" in types:
        yield "runs", run
    for name in ("picks", "meshes", "filaments", "segmentations"):
        if name in types:
            yield from ((name, item) for item in getattr(run, name))
    if not types & {"voxel_spacings", "tomograms", "features"}:
        return
    for spacing in run.voxel_spacings:
        if "voxel_spacings" in types:
            yield "voxel_spacings", spacing
        if not types & {"tomograms", "features"}:
            continue
        for tomogram in spacing.tomograms:
            if "tomograms" in types:
                yield "tomograms", tomogram
            if "features" in types:
                yield from (("features", item) for item in tomogram.features)


def _values(entity: Any, name: str, needed: set[str]) -> dict[str, Any]:
    """The fields of a thing. Those that need a file to be read are left out unless they are `needed`."""
    above = {ref.kind.name: ref.values[0] for ref in entity.ref.walk()}
    values: dict[str, Any] = {
        "run_name": above.get("run"),
        "voxel_size": above.get("voxel_spacing"),
        "object_name": getattr(entity, "pickable_object_name", getattr(entity, "name", None)),
    }
    for field in FIELDS[name]:
        if field not in values or (field == "voxel_size" and values[field] is None):
            values[field] = getattr(entity, field) if field not in _DESCRIBED or field in needed else None
    return {field: values[field] for field in FIELDS[name]}
