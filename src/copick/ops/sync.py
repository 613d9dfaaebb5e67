"""Copy what one project holds into another.

What the functions share: runs, objects, users, ... are those named, or all (None); `target_...` maps their names to those in the
target, and what it does not name keeps its name. Sessions keep theirs. Runs and voxel spacings that the target lacks are created.
What is there already is an error, unless `exist_ok`: then it is replaced. Arrays are copied as they are stored.

Each returns, by source run, {"processed": how many, "errors": [why not]}, and reports the same in the log; `log` also names
each copy.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from copick.errors import AlreadyExistsError, CopickError, FormatError
from copick.models import CopickRun
from copick.models.entity import select
from copick.ops.copies import copy_entity
from copick.ops.run import chosen_runs, known_run, map_runs, report_results
from copick.util import stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from copick.models import CopickRoot

logger = logging.getLogger(__name__)

Renamed: TypeAlias = "Mapping[str, str] | None"
Results = dict[str, dict[str, Any]]


class _Copy(NamedTuple):
    """Something to copy."""

    source: Any
    key: tuple[Any, ...]
    """What tells the copy from others in its run."""
    new: Callable[[CopickRun, bool], Any]
    """(target run, exist_ok) → the entity to fill."""


def sync_picks(
    source_root: CopickRoot,
    target_root: CopickRoot,
    source_runs: Iterable[str] | None = None,
    target_runs: Renamed = None,
    source_objects: Iterable[str] | None = None,
    target_objects: Renamed = None,
    source_users: Iterable[str] | None = None,
    target_users: Renamed = None,
    exist_ok: bool = False,
    max_workers: int = 4,
    log: bool = False,
) -> Results:
    """Copy picks. Raises UnknownNameError for a run that the source does not have."""
    names = source_objects, target_objects or {}, source_users, target_users or {}
    plan = partial(_annotations, CopickRun.get_picks, CopickRun.new_picks, names)
    return _sync(
        source_root, target_root, source_runs, target_runs, plan, exist_ok, max_workers, log, "picks"
    )


def sync_filaments(
    source_root: CopickRoot,
    target_root: CopickRoot,
    source_runs: Iterable[str] | None = None,
    target_runs: Renamed = None,
    source_objects: Iterable[str] | None = None,
    target_objects: Renamed = None,
    source_users: Iterable[str] | None = None,
    target_users: Renamed = None,
    exist_ok: bool = False,
    max_workers: int = 4,
    log: bool = False,
) -> Results:
    """Copy filaments. As `sync_picks`."""
    names = source_objects, target_objects or {}, source_users, target_users or {}
    plan = partial(_annotations, CopickRun.get_filaments, CopickRun.new_filaments, names)
    return _sync(
        source_root, target_root, source_runs, target_runs, plan, exist_ok, max_workers, log, "filaments"
    )


def sync_meshes(
    source_root: CopickRoot,
    target_root: CopickRoot,
    source_runs: Iterable[str] | None = None,
    target_runs: Renamed = None,
    source_objects: Iterable[str] | None = None,
    target_objects: Renamed = None,
    source_users: Iterable[str] | None = None,
    target_users: Renamed = None,
    exist_ok: bool = False,
    max_workers: int = 4,
    log: bool = False,
) -> Results:
    """Copy meshes. As `sync_picks`."""
    names = source_objects, target_objects or {}, source_users, target_users or {}
    plan = partial(_annotations, CopickRun.get_meshes, CopickRun.new_mesh, names)
    return _sync(
        source_root, target_root, source_runs, target_runs, plan, exist_ok, max_workers, log, "meshes"
    )


def sync_segmentations(
    source_root: CopickRoot,
    target_root: CopickRoot,
    source_runs: Iterable[str] | None = None,
    target_runs: Renamed = None,
    voxel_spacings: Iterable[float] | None = None,
    source_names: Iterable[str] | None = None,
    target_names: Renamed = None,
    source_users: Iterable[str] | None = None,
    target_users: Renamed = None,
    exist_ok: bool = False,
    max_workers: int = 4,
    log: bool = False,
    is_multilabel: bool | None = None,
    is_instance: bool | None = False,
    is_panoptic: bool | None = False,
) -> Results:
    """Copy segmentations; by default the binary and multilabel ones. Labels keep their values.

    Args:
        voxel_spacings: In ångström.
        is_multilabel, is_instance, is_panoptic: True = only these, False = all but these, None = these, too.

    Raises:
        UnknownNameError: The source has no such run.
    """

    def plan(run: CopickRun) -> Iterator[_Copy]:
        for mask in run.get_segmentations(
            source_users,
            None,
            is_multilabel,
            source_names,
            voxel_spacings,
            is_instance=is_instance,
            is_panoptic=is_panoptic,
        ):
            user = (target_users or {}).get(mask.user_id, mask.user_id)
            name = (target_names or {}).get(mask.name, mask.name)
            flags = mask.is_multilabel, mask.is_instance, mask.is_panoptic
            key = mask.voxel_size, name, mask.session_id, user, *flags
            yield _Copy(mask, key, partial(_new_segmentation, key=key))

    if is_multilabel is not False or is_panoptic is not False:
        _warn_of_labels(source_root, target_root)
    return _sync(
        source_root, target_root, source_runs, target_runs, plan, exist_ok, max_workers, log, "segmentations"
    )


def sync_tomograms(
    source_root: CopickRoot,
    target_root: CopickRoot,
    source_runs: Iterable[str] | None = None,
    target_runs: Renamed = None,
    voxel_spacings: Iterable[float] | None = None,
    source_tomo_types: Iterable[str] | None = None,
    target_tomo_types: Renamed = None,
    exist_ok: bool = False,
    max_workers: int = 4,
    log: bool = False,
) -> Results:
    """Copy tomograms, without their features.

    Args:
        voxel_spacings: In ångström.

    Raises:
        UnknownNameError: The source has no such run.
    """

    def plan(run: CopickRun) -> Iterator[_Copy]:
        for spacing in select(run.voxel_spacings, {}, voxel_size=voxel_spacings):
            for tomogram in spacing.get_tomograms(source_tomo_types):
                name = (target_tomo_types or {}).get(tomogram.tomo_type, tomogram.tomo_type)
                key = spacing.voxel_size, name
                yield _Copy(tomogram, key, partial(_new_tomogram, key=key))

    return _sync(
        source_root, target_root, source_runs, target_runs, plan, exist_ok, max_workers, log, "tomograms"
    )


def _annotations(get: Any, new: Any, names: Any, run: CopickRun) -> Iterator[_Copy]:
    objects, new_objects, users, new_users = names
    for source in get(run, objects, users):
        name, user = source.pickable_object_name, source.user_id
        key = new_objects.get(name, name), source.session_id, new_users.get(user, user)
        yield _Copy(source, key, partial(_new_annotation, new=new, key=key))


def _new_annotation(run: CopickRun, exist_ok: bool, new: Any, key: tuple[str, str, str]) -> Any:
    return new(run, *key, exist_ok=exist_ok)


def _new_segmentation(run: CopickRun, exist_ok: bool, key: tuple[Any, ...]) -> Any:
    size, name, session, user, multilabel, instance, panoptic = key
    return run.new_segmentation(
        size, name, session, multilabel, user, exist_ok, is_instance=instance, is_panoptic=panoptic
    )


def _new_tomogram(run: CopickRun, exist_ok: bool, key: tuple[float, str]) -> Any:
    return run.new_voxel_spacing(key[0], exist_ok=True).new_tomogram(key[1], exist_ok=exist_ok)


def _sync(
    source_root: CopickRoot,
    target_root: CopickRoot,
    source_runs: Iterable[str] | None,
    target_runs: Renamed,
    plan: Callable[[CopickRun], Iterator[_Copy]],
    exist_ok: bool,
    max_workers: int,
    log: bool,
    what: str,
) -> Results:
    runs = [known_run(source_root, run) for run in chosen_runs(source_root, source_runs)]
    names = {run.name: (target_runs or {}).get(run.name, run.name) for run in runs}
    for target, count in Counter(names.values()).items():
        if count > 1:
            both = " and ".join(name for name in names if names[name] == target)
            raise ValueError(f"target_runs: {both} would both become {target!r}")

    def copy(run: CopickRun) -> dict[str, Any]:
        result: dict[str, Any] = {"processed": 0, "errors": []}
        copies = [*plan(run)]
        if not copies:
            return result
        often = Counter(each.key for each in copies)
        target = target_root.new_run(names[run.name], exist_ok=True)
        for each in copies:
            stopping.check()
            try:
                if often[each.key] > 1:
                    raise FormatError(f"{often[each.key]} sources have this target; map their names apart")
                made = copy_entity(each.source, partial(each.new, target), exist_ok)
            except AlreadyExistsError:
                result["errors"].append(
                    f"{each.source.ref} was not copied: the target has it; exist_ok replaces it"
                )
            except (CopickError, OSError, ValueError) as error:
                result["errors"].append(f"{each.source.ref} was not copied: {error}")
            else:
                result["processed"] += 1
                logger.log(logging.INFO if log else logging.DEBUG, "%s is now %s", each.source.ref, made.ref)
        return result

    found = map_runs(copy, source_root, runs, workers=max_workers, task_desc=f"Copying {what}")
    results: Results = {
        name: result or {"processed": 0, "errors": [f"run {name} failed"]} for name, result in found.items()
    }
    total = sum(result["processed"] + len(result["errors"]) for result in results.values())
    report_results(results, total, logger)
    return results


def _warn_of_labels(source_root: CopickRoot, target_root: CopickRoot) -> None:
    """Labels are numbers: in another project they may mean other objects."""
    there = {item.label: item.name for item in target_root.pickable_objects}
    for item in source_root.pickable_objects:
        other = there.get(item.label)
        if other not in (None, item.name):
            logger.warning(
                "label %s is %r in the source and %r in the target; masks are copied as they are",
                item.label,
                item.name,
                other,
            )
