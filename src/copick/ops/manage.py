"""Remove, move and copy what URIs name, in one run or in all; see `copick.util.uri`.

Moves and copies stay in their run. A pattern needs placeholders in the target, {object_name}, {user_id}, {session_id}, and of
segmentations {name} and {voxel_spacing}, which are filled from each source; one single source needs none and takes none.
What cannot be done to one entity is reported under "errors", and the others go on.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from copick.errors import AlreadyExistsError, CopickError, FormatError, ReadOnlyError
from copick.kinds import VOXEL_DECIMALS
from copick.models.segmentation import CopickSegmentation
from copick.ops.copies import copy_entity
from copick.ops.run import chosen_runs, known_run, map_runs
from copick.util.escape import sanitize_name
from copick.util.uri import parse_copick_uri, resolve_copick_objects, serialize_copick_uri

if TYPE_CHECKING:
    from collections.abc import Iterable

    from copick.models import CopickRoot, CopickRun

logger = logging.getLogger(__name__)

Result = dict[str, Any]
ObjectType = Literal["picks", "filaments", "mesh", "segmentation", "tomogram", "feature"]
CopiedType = Literal["picks", "filaments", "mesh", "segmentation"]

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_PARTS = {
    "picks": ("object_name", "user_id", "session_id"),
    "filaments": ("object_name", "user_id", "session_id"),
    "mesh": ("object_name", "user_id", "session_id"),
    "segmentation": ("name", "user_id", "session_id", "voxel_spacing"),
}
"""What identifies what can be copied."""
_FLAGS = ("multilabel", "instance", "panoptic")


# Remove


def remove_copick_objects(
    root: CopickRoot,
    object_type: ObjectType,
    uri: str,
    run_name: str | None = None,
    dry_run: bool = False,
    log: bool = False,
) -> Result:
    """Delete what a URI names, in one run or in all.

    Args:
        dry_run: Only say what would be deleted.

    Returns:
        `deleted` (how many), their URIs as `objects`, and `errors`.

    Raises:
        ValueError: This is no URI of that type, or there is no such run.
    """
    parse_copick_uri(uri, object_type)
    runs = root.runs if run_name is None else [known_run(root, run_name)]
    results = [remove_copick_objects_per_run(run, object_type, uri, dry_run) for run in runs]
    return _summed({"deleted": 0, "objects": [], "errors": []}, results, log)


def remove_copick_objects_per_run(
    run: CopickRun, object_type: ObjectType, uri: str, dry_run: bool = False
) -> Result:
    """Delete what a URI names in one run. As `remove_copick_objects`."""
    result: Result = {"deleted": 0, "objects": [], "errors": []}
    for found in resolve_copick_objects(uri, run.root, object_type, run.name):
        name = serialize_copick_uri(found)
        try:
            if not dry_run:
                found.delete()
        except (CopickError, OSError) as error:
            result["errors"].append(f"Failed to delete {name}: {error}")
        else:
            result["deleted"] += 1
            result["objects"].append(name)
    return result


def remove_copick_objects_batch(
    root: CopickRoot,
    object_type: ObjectType,
    uri: str,
    run_names: Iterable[str] | None = None,
    dry_run: bool = False,
    workers: int = 8,
) -> dict[str, Result | None]:
    """Delete what a URI names in many runs at once.

    Returns:
        The result of each run; None for a run that failed as a whole.
    """
    parse_copick_uri(uri, object_type)
    work = partial(remove_copick_objects_per_run, object_type=object_type, uri=uri, dry_run=dry_run)
    return _batch(root, work, run_names, workers, "Looking" if dry_run else "Removing")


# Move and copy


def move_copick_objects(
    root: CopickRoot,
    object_type: CopiedType,
    source_uri: str,
    target_uri: str,
    run_name: str | None = None,
    overwrite: bool = False,
    log: bool = False,
) -> Result:
    """Give what a URI names another name, in one run or in all. A source is deleted when its copy is complete.

    Args:
        overwrite: Replace targets that exist.

    Returns:
        `moved` (how many), their old and new URIs as `mappings`, and `errors`.

    Raises:
        ValueError: A URI cannot be used, or there is no such run; nothing was moved.
    """
    return _transfer_all("move", root, object_type, source_uri, target_uri, run_name, overwrite, log)


def copy_copick_objects(
    root: CopickRoot,
    object_type: CopiedType,
    source_uri: str,
    target_uri: str,
    run_name: str | None = None,
    overwrite: bool = False,
    log: bool = False,
) -> Result:
    """Copy what a URI names to another name, in one run or in all. As `move_copick_objects`, with `copied`."""
    return _transfer_all("copy", root, object_type, source_uri, target_uri, run_name, overwrite, log)


def move_copick_objects_per_run(
    run: CopickRun, object_type: CopiedType, source_uri: str, target_uri: str, overwrite: bool = False
) -> Result:
    """As `move_copick_objects`, in one run."""
    return _transfer("move", run, object_type, source_uri, target_uri, overwrite)


def copy_copick_objects_per_run(
    run: CopickRun, object_type: CopiedType, source_uri: str, target_uri: str, overwrite: bool = False
) -> Result:
    """As `copy_copick_objects`, in one run."""
    return _transfer("copy", run, object_type, source_uri, target_uri, overwrite)


def move_copick_objects_batch(
    root: CopickRoot,
    object_type: CopiedType,
    source_uri: str,
    target_uri: str,
    run_names: Iterable[str] | None = None,
    overwrite: bool = False,
    workers: int = 8,
) -> dict[str, Result | None]:
    """As `move_copick_objects`, in many runs at once; the result of each, None for one that failed as a whole."""
    return _transfer_batch("move", root, object_type, source_uri, target_uri, run_names, overwrite, workers)


def copy_copick_objects_batch(
    root: CopickRoot,
    object_type: CopiedType,
    source_uri: str,
    target_uri: str,
    run_names: Iterable[str] | None = None,
    overwrite: bool = False,
    workers: int = 8,
) -> dict[str, Result | None]:
    """As `copy_copick_objects`, in many runs at once; the result of each, None for one that failed as a whole."""
    return _transfer_batch("copy", root, object_type, source_uri, target_uri, run_names, overwrite, workers)


Verb = Literal["move", "copy"]
_DONE = {"move": "moved", "copy": "copied"}


def _transfer_all(
    verb: Verb,
    root: CopickRoot,
    object_type: CopiedType,
    source_uri: str,
    target_uri: str,
    run_name: str | None,
    overwrite: bool,
    log: bool,
) -> Result:
    _check_uris(verb, object_type, source_uri, target_uri)
    runs = root.runs if run_name is None else [known_run(root, run_name)]
    results = [_transfer(verb, run, object_type, source_uri, target_uri, overwrite) for run in runs]
    return _summed({_DONE[verb]: 0, "mappings": [], "errors": []}, results, log)


def _transfer_batch(
    verb: Verb,
    root: CopickRoot,
    object_type: CopiedType,
    source_uri: str,
    target_uri: str,
    run_names: Iterable[str] | None,
    overwrite: bool,
    workers: int,
) -> dict[str, Result | None]:
    _check_uris(verb, object_type, source_uri, target_uri)
    work = partial(
        _transfer_in,
        verb=verb,
        object_type=object_type,
        source_uri=source_uri,
        target_uri=target_uri,
        overwrite=overwrite,
    )
    return _batch(root, work, run_names, workers, "Moving" if verb == "move" else "Copying")


def _transfer_in(run: CopickRun, verb: Verb, **arguments: Any) -> Result:
    return _transfer(verb, run, **arguments)


def _batch(
    root: CopickRoot, work: Any, run_names: Iterable[str] | None, workers: int, what: str
) -> dict[str, Result | None]:
    runs = [known_run(root, run) for run in chosen_runs(root, None if run_names is None else [*run_names])]
    return map_runs(work, root, runs, workers=workers, task_desc=f"{what} objects")


def _summed(total: Result, results: list[Result], log: bool) -> Result:
    for result in results:
        for key in total:
            total[key] += result[key]
    for line in total.get("objects", ()):
        logger.log(logging.INFO if log else logging.DEBUG, "removed %s", line)
    for source, target in total.get("mappings", ()):
        logger.log(logging.INFO if log else logging.DEBUG, "%s is now %s", source, target)
    for line in total["errors"]:
        logger.error("%s", line)
    return total


def _check_uris(verb: str, object_type: str, source_uri: str, target_uri: str) -> None:
    """Raises ValueError for what can be known to be wrong before any run is looked at."""
    if object_type not in _PARTS:
        raise ValueError(f"cannot {verb} {object_type!r}; use one of {', '.join(_PARTS)}")
    target = parse_copick_uri(target_uri, object_type)
    if target["pattern_type"] == "regex" or any(_is_pattern(target[part]) for part in _PARTS[object_type]):
        missing = [part for part in _PARTS[object_type] if target[part] in ("", "*")]
        problem = f"does not say the {' and the '.join(missing)}" if missing else "is a pattern"
        raise ValueError(f"the target {target_uri!r} {problem}; a target names one thing in full")
    allowed = {"object_name", "name", *_PARTS[object_type]}
    for name in _PLACEHOLDER.findall(target_uri):
        if name not in allowed:
            shown = ", ".join(f"{{{part}}}" for part in _PARTS[object_type])
            raise ValueError(
                f"the target {target_uri!r} has an unknown placeholder {{{name}}}; there are {shown}"
            )
    spacing = target.get("voxel_spacing", "1")
    if not _PLACEHOLDER.search(spacing) and not _is_number(spacing):
        raise ValueError(f"the target {target_uri!r}: {spacing!r} is no voxel size in ångström")
    _check_placeholders(is_pattern(source_uri, object_type), source_uri, target_uri)


def is_pattern(uri: str, object_type: str) -> bool:
    """Whether a URI may name several things in one run. Raises ValueError if it is no URI of that type."""
    parsed = parse_copick_uri(uri, object_type)
    parts = [value for key, value in parsed.items() if key not in ("object_type", "pattern_type", *_FLAGS)]
    return parsed["pattern_type"] == "regex" or any(map(_is_pattern, parts))


def _is_number(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _is_pattern(part: str) -> bool:
    return any(char in part for char in "*?[")


def _check_placeholders(many: bool, source_uri: str, target_uri: str) -> None:
    placeholders = _PLACEHOLDER.search(target_uri)
    if many and not placeholders:
        raise ValueError(
            f"{source_uri!r} may name several things, which cannot all become {target_uri!r}; put placeholders such "
            "as {user_id} or {session_id} into the target"
        )
    if placeholders and not many:
        raise ValueError(
            f"{source_uri!r} names one thing; write its new name without placeholders, not {target_uri!r}"
        )


def _transfer(
    verb: Verb, run: CopickRun, object_type: CopiedType, source_uri: str, target_uri: str, overwrite: bool
) -> Result:
    _check_uris(verb, object_type, source_uri, target_uri)
    sources = resolve_copick_objects(source_uri, run.root, object_type, run.name)
    own = [_Key.of(source) for source in sources]
    wanted = [key.renamed(target_uri, object_type) for key in own]
    often = Counter(wanted)
    result: Result = {_DONE[verb]: 0, "mappings": [], "errors": []}
    for source, key, target in zip(sources, own, wanted, strict=True):
        name = serialize_copick_uri(source)
        try:
            # Else one would be lost, or replace another before that was read.
            if often[target] > 1:
                raise FormatError(
                    f"{often[target]} sources have this target; add placeholders to {target_uri!r}"
                )
            if target in own:
                raise FormatError(
                    "source and target are the same" if target == key else "its target is a source"
                )
            made = _transfer_one(verb, run, source, key, target, overwrite)
        except AlreadyExistsError:
            result["errors"].append(f"Failed to {verb} {name}: the target exists; overwrite replaces it")
        except (CopickError, OSError, ValueError) as error:
            result["errors"].append(f"Failed to {verb} {name}: {error}")
        else:
            result[_DONE[verb]] += 1
            result["mappings"].append((name, serialize_copick_uri(made)))
    return result


def _transfer_one(verb: Verb, run: CopickRun, source: Any, key: _Key, target: _Key, overwrite: bool) -> Any:
    if target.kind != key.kind:
        raise FormatError(f"it is a {key.kind} segmentation; types are not converted")
    if target.voxel_size != key.voxel_size:
        raise FormatError(f"it has voxels of {key.voxel_size} Å; nothing is resampled")
    fixed = [layer for layer in source.sources if source.on(layer).read_only]
    if verb == "move" and fixed:
        raise ReadOnlyError(f"it is in layer {fixed[0]!r}, which is read-only; copy it instead")
    made = copy_entity(source, partial(target.new_in, run), overwrite)
    if verb == "move":
        source.delete()
    return made


class _Key(NamedTuple):
    """What tells something from its siblings in a run."""

    name: str
    user_id: str
    session_id: str
    voxel_size: float | None
    kind: str

    @classmethod
    def of(cls, source: Any) -> _Key:
        if isinstance(source, CopickSegmentation):
            name, size, kind = source.name, source.voxel_size, source.segmentation_type
        else:
            name, size, kind = source.pickable_object_name, None, source.kind.name
        return cls(name, source.user_id, source.session_id, size, kind)

    def renamed(self, uri: str, object_type: CopiedType) -> _Key:
        """What this becomes by a target's URI."""
        values = {**self._asdict(), "object_name": self.name, "voxel_spacing": str(self.voxel_size)}
        parsed = parse_copick_uri(_PLACEHOLDER.sub(lambda found: values[found[1]], uri), object_type)
        size, kind = self.voxel_size, self.kind
        if object_type == "segmentation":
            size = round(float(parsed["voxel_spacing"]), VOXEL_DECIMALS)
            stated = [flag for flag in _FLAGS if parsed[flag]]
            denied = parsed.get(kind) is False
            kind = stated[0] if stated else "binary" if denied else kind
        name, user, session = (sanitize_name(parsed[part]) for part in _PARTS[object_type][:3])
        return _Key(name, user, session, size, kind)

    def new_in(self, run: CopickRun, exist_ok: bool) -> Any:
        if self.voxel_size is not None:
            types: Any = {f"is_{flag}": self.kind == flag for flag in _FLAGS}
            return run.new_segmentation(
                self.voxel_size, self.name, self.session_id, user_id=self.user_id, exist_ok=exist_ok, **types
            )
        makers = {"picks": run.new_picks, "filaments": run.new_filaments, "mesh": run.new_mesh}
        new: Any = makers[self.kind]
        return new(self.name, self.session_id, self.user_id, exist_ok=exist_ok)
