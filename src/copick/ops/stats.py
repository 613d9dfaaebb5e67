"""How much of what a project holds. Arguments are those of the functions in `copick.ops.get`."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from copick.errors import CopickError
from copick.ops.get import gather, get_meshes, get_segmentations

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from copick.models import CopickPicks, CopickRun
    from copick.ops.get import Names, Root, Sizes
    from copick.ops.run import Runs

logger = logging.getLogger(__name__)

Statistics = dict[str, Any]


def picks_stats(
    root: Root,
    runs: Runs = None,
    user_id: Names = None,
    session_id: Names = None,
    object_name: Names = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
) -> Statistics:
    """How many points there are.

    A file that cannot be read counts as one without points, with a warning in the log.

    Returns:
        `total_picks`, `total_pick_files`, and points by run, user, session and object: `distribution_by_run`, ...
    """

    def query(run: CopickRun) -> list[tuple[CopickPicks, int]]:
        return [(picks, _count(picks)) for picks in run.get_picks(object_name, user_id, session_id)]

    counted = gather(root, runs, query, parallel, workers, show_progress, "picks")
    return {
        "total_picks": sum(n for _, n in counted),
        "total_pick_files": len(counted),
        "distribution_by_run": _sums((picks.run.name, n) for picks, n in counted),
        "distribution_by_user": _sums((picks.user_id, n) for picks, n in counted),
        "distribution_by_session": _sums((picks.session_id, n) for picks, n in counted),
        "distribution_by_object": _sums((picks.pickable_object_name, n) for picks, n in counted),
    }


def meshes_stats(
    root: Root,
    runs: Runs = None,
    user_id: Names = None,
    session_id: Names = None,
    object_name: Names = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
) -> Statistics:
    """How many meshes there are.

    Returns:
        `total_meshes`, and meshes by user, session, object and their combination ("session_user_object").
    """
    found = get_meshes(root, runs, user_id, session_id, object_name, parallel, workers, show_progress)
    return {
        "total_meshes": len(found),
        "distribution_by_user": _numbers(mesh.user_id for mesh in found),
        "distribution_by_session": _numbers(mesh.session_id for mesh in found),
        "distribution_by_object": _numbers(mesh.pickable_object_name for mesh in found),
        "session_user_object_combinations": _numbers(
            f"{mesh.session_id}_{mesh.user_id}_{mesh.pickable_object_name}" for mesh in found
        ),
    }


def segmentations_stats(
    root: Root,
    runs: Runs = None,
    user_id: Names = None,
    session_id: Names = None,
    is_multilabel: bool | None = None,
    name: Names = None,
    voxel_size: Sizes = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
    is_instance: bool | None = False,
    is_panoptic: bool | None = False,
) -> Statistics:
    """How many segmentations there are; by default binary and multilabel ones are counted.

    Returns:
        `total_segmentations`, and segmentations by user, session, name, voxel size (ångström), type, whether they are
        multilabel ("True", "False"), and by combination ("session_user_name_size_multilabel").
    """
    found = get_segmentations(
        root,
        runs,
        user_id,
        session_id,
        is_multilabel,
        name,
        voxel_size,
        parallel,
        workers,
        show_progress,
        is_instance,
        is_panoptic,
    )
    return {
        "total_segmentations": len(found),
        "distribution_by_user": _numbers(mask.user_id for mask in found),
        "distribution_by_session": _numbers(mask.session_id for mask in found),
        "distribution_by_name": _numbers(mask.name for mask in found),
        "distribution_by_voxel_size": _numbers(mask.voxel_size for mask in found),
        "distribution_by_multilabel": _numbers(str(mask.is_multilabel) for mask in found),
        "distribution_by_type": _numbers(mask.segmentation_type for mask in found),
        "session_user_voxelspacing_multilabel_combinations": _numbers(
            f"{mask.session_id}_{mask.user_id}_{mask.name}_{mask.voxel_size}_{mask.is_multilabel}"
            for mask in found
        ),
    }


def _count(picks: CopickPicks) -> int:
    try:
        return len(picks.points)
    except CopickError as error:
        logger.warning("not counted: %s", error)
        return 0


def _sums(numbers: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for key, number in numbers:
        total[key] += number
    return dict(total)


def _numbers(keys: Iterable[Hashable]) -> dict[Any, int]:
    return dict(Counter(keys))
