"""Entities of many runs in one list.

Every function takes an open project or the path of a config file, and a run or runs (or their names; None = all).
Filters are as in the `get_` methods of a run: None = any, several values = one of these.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from copick.models.entity import select
from copick.models.root import CopickRoot
from copick.ops.run import chosen_runs, known_run
from copick.util.progress import Progress

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from copick.models import (
        CopickFeatures,
        CopickFilaments,
        CopickMesh,
        CopickPicks,
        CopickRun,
        CopickSegmentation,
        CopickTomogram,
        CopickVoxelSpacing,
    )
    from copick.ops.run import Runs

Root: TypeAlias = "CopickRoot | str | os.PathLike[str]"
"""A project, or the path of its config file."""
Names: TypeAlias = "str | Iterable[str] | None"
Sizes: TypeAlias = "float | Iterable[float] | None"
"""Voxel sizes in ångström."""

T = TypeVar("T")


def opened(root: Root) -> CopickRoot:
    """The project, opened if it is given by its config file. Raises ConfigError."""
    if isinstance(root, CopickRoot):
        return root
    from copick import from_file

    return from_file(root)


def get_runs(root: Root, names: Runs = None) -> list[CopickRun]:
    """The runs of these names, in this order; None = all. Raises UnknownNameError."""
    project = opened(root)
    return [known_run(project, run) for run in chosen_runs(project, names)]


def get_voxelspacings(
    root: Root,
    runs: Runs = None,
    voxel_size: Sizes = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
) -> list[CopickVoxelSpacing]:
    """The voxel spacings of these runs. Raises UnknownNameError for a run that does not exist."""
    return gather(
        root, runs, lambda run: _spacings(run, voxel_size), parallel, workers, show_progress, "voxel spacings"
    )


def get_tomograms(
    root: Root,
    runs: Runs = None,
    voxel_size: Sizes = None,
    tomo_type: Names = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
) -> list[CopickTomogram]:
    """The tomograms of these runs. Raises UnknownNameError for a run that does not exist."""
    return gather(
        root,
        runs,
        lambda run: _tomograms(run, voxel_size, tomo_type),
        parallel,
        workers,
        show_progress,
        "tomograms",
    )


def get_features(
    root: Root,
    runs: Runs = None,
    voxel_size: Sizes = None,
    tomo_type: Names = None,
    feature_type: Names = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
) -> list[CopickFeatures]:
    """The features of these runs' tomograms. Raises UnknownNameError for a run that does not exist."""

    def query(run: CopickRun) -> list[CopickFeatures]:
        tomograms = _tomograms(run, voxel_size, tomo_type)
        return select(
            [each for tomogram in tomograms for each in tomogram.features], {}, feature_type=feature_type
        )

    return gather(root, runs, query, parallel, workers, show_progress, "features")


def get_picks(
    root: Root,
    runs: Runs = None,
    user_id: Names = None,
    session_id: Names = None,
    object_name: Names = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
) -> list[CopickPicks]:
    """The picks of these runs. Raises UnknownNameError for a run that does not exist."""
    return gather(
        root,
        runs,
        lambda run: run.get_picks(object_name, user_id, session_id),
        parallel,
        workers,
        show_progress,
        "picks",
    )


def get_filaments(
    root: Root,
    runs: Runs = None,
    user_id: Names = None,
    session_id: Names = None,
    object_name: Names = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
) -> list[CopickFilaments]:
    """The filaments of these runs. Raises UnknownNameError for a run that does not exist."""
    return gather(
        root,
        runs,
        lambda run: run.get_filaments(object_name, user_id, session_id),
        parallel,
        workers,
        show_progress,
        "filaments",
    )


def get_meshes(
    root: Root,
    runs: Runs = None,
    user_id: Names = None,
    session_id: Names = None,
    object_name: Names = None,
    parallel: bool = False,
    workers: int | None = 8,
    show_progress: bool = True,
) -> list[CopickMesh]:
    """The meshes of these runs. Raises UnknownNameError for a run that does not exist."""
    return gather(
        root,
        runs,
        lambda run: run.get_meshes(object_name, user_id, session_id),
        parallel,
        workers,
        show_progress,
        "meshes",
    )


def get_segmentations(
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
) -> list[CopickSegmentation]:
    """The segmentations of these runs; by default the binary and multilabel ones.

    Args:
        is_instance, is_panoptic: True = only these, False = all but these, None = these, too.

    Raises:
        UnknownNameError: There is no such run.
    """
    return gather(
        root,
        runs,
        lambda run: run.get_segmentations(
            user_id,
            session_id,
            is_multilabel,
            name,
            voxel_size,
            is_instance=is_instance,
            is_panoptic=is_panoptic,
        ),
        parallel,
        workers,
        show_progress,
        "segmentations",
    )


def _spacings(run: CopickRun, voxel_size: Sizes) -> list[CopickVoxelSpacing]:
    return select(run.voxel_spacings, {}, voxel_size=voxel_size)


def _tomograms(run: CopickRun, voxel_size: Sizes, tomo_type: Names) -> list[CopickTomogram]:
    spacings = _spacings(run, voxel_size)
    return select([each for spacing in spacings for each in spacing.tomograms], {}, tomo_type=tomo_type)


def gather(
    root: Root,
    runs: Runs,
    query: Callable[[CopickRun], list[T]],
    parallel: bool,
    workers: int | None,
    show_progress: bool,
    what: str,
) -> list[T]:
    """What `query` gives for each run, in the order of the runs; an error in one ends it all."""
    chosen = get_runs(root, runs)
    found: list[T] = []
    with (
        ThreadPoolExecutor(workers if parallel else 1) as pool,
        Progress(f"Listing {what}", len(chosen)) as bar,
    ):
        answers: Any = pool.map(query, chosen) if parallel else map(query, chosen)
        for answer in answers:
            found += answer
            if show_progress:
                bar.step()
    return found
