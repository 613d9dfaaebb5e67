"""Where something is put: the run and the voxel spacing it belongs to, and the entity that is filled."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, TypeVar

from copick.errors import AlreadyExistsError, CopickError, UnknownNameError
from copick.ops.run import known_run, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from copick.models import CopickRoot, CopickRun, CopickVoxelSpacing, Entity

    E = TypeVar("E", bound=Entity)

logger = logging.getLogger("copick.ops.add")

_listing = threading.Lock()
"""Many files are imported at a time, and a root's list of runs is not made to be changed by several threads."""


def add_run(root: CopickRoot, name: str, exist_ok: bool = False, log: bool = False) -> CopickRun:
    """Create a run. Raises AlreadyExistsError (a ValueError) unless `exist_ok`."""
    return said(log, root.new_run(name, exist_ok=exist_ok))


def get_or_create_run(root: CopickRoot, name: str, create: bool = True, log: bool = False) -> CopickRun:
    """The run of that name. Raises UnknownNameError (a ValueError) if there is none and it may not be created."""
    found = root.get_run(name)
    if found is not None or not create:
        return found or known_run(root, name)
    return add_run(root, name, exist_ok=True, log=log)


def add_voxelspacing(
    root: CopickRoot,
    run: str | CopickRun,
    voxel_spacing: float,
    create: bool = True,
    exist_ok: bool = False,
    log: bool = False,
) -> CopickVoxelSpacing:
    """Create a voxel spacing, and its run if `create`.

    Raises:
        UnknownNameError: There is no such run.
        AlreadyExistsError: There is such a voxel spacing.
    """
    owner = get_or_create_run(root, name_of(run), create, log)
    return said(log, owner.new_voxel_spacing(voxel_spacing, exist_ok=exist_ok))


def get_or_create_voxelspacing(
    run: CopickRun, voxel_size: float, create: bool = True, log: bool = False
) -> CopickVoxelSpacing:
    """The voxel spacing of that size. Raises UnknownNameError if there is none and it may not be created."""
    found = run.get_voxel_spacing(voxel_size)
    if found is not None:
        return found
    if not create:
        sizes = ", ".join(f"{each.voxel_size:g}" for each in run.voxel_spacings)
        raise UnknownNameError(
            f"run {run.name!r} has no voxel spacing of {voxel_size} Å; it has {sizes or 'none'}"
        )
    return said(log, run.new_voxel_spacing(voxel_size, exist_ok=True))


@contextlib.contextmanager
def target_run(root: CopickRoot, name: str, create: bool, log: bool) -> Iterator[CopickRun]:
    """The run to add something to, as `get_or_create_run`. One that is made for it goes again if that fails and it is empty."""
    with _listing:
        made = root.get_run(name) is None
        run = get_or_create_run(root, name, create, log)
    with _made_for(run if made else None):
        yield run


@contextlib.contextmanager
def target_spacing(
    root: CopickRoot, run: str, voxel_size: float, create: bool, log: bool
) -> Iterator[CopickVoxelSpacing]:
    """The voxel spacing of a run to add something to, as `target_run`."""
    with target_run(root, run, create, log) as owner:
        made = owner.get_voxel_spacing(voxel_size) is None
        spacing = get_or_create_voxelspacing(owner, voxel_size, create, log)
        with _made_for(spacing if made else None):
            yield spacing


@contextlib.contextmanager
def _made_for(folder: CopickRun | CopickVoxelSpacing | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if folder is not None:
            with _listing, contextlib.suppress(CopickError, OSError):  # what failed first is what counts
                folder.prune()
        raise


@contextlib.contextmanager
def filling(new: Callable[[bool], E], replace: bool) -> Iterator[E]:
    """The entity to fill: a new one, which is deleted again if that fails, or one that may be replaced."""
    try:
        entity, ours = new(False), True
    except AlreadyExistsError:
        if not replace:
            raise
        entity, ours = new(True), False
    try:
        yield entity
    except BaseException:
        if ours:
            with contextlib.suppress(CopickError, OSError):  # what failed first is what counts
                entity.delete()
        raise


def said(log: bool, entity: E) -> E:
    logger.log(logging.INFO if log else logging.DEBUG, "added %s", entity.ref)
    return entity
