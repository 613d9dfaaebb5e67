"""Picks from files of other programs."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from copick.errors import FormatError
from copick.ops.poses import (
    Poses,
    RelionParticles,
    format_of,
    read_poses,
    read_relion_particles,
    read_relion_tomograms,
)
from copick.ops.run import known_run
from copick.ops.targets import filling, said, target_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from copick.models import CopickPicks, CopickRoot
    from copick.ops.poses import RelionTomogram

logger = logging.getLogger("copick.ops.add")

File: TypeAlias = "str | os.PathLike[str]"


def add_picks_from_file(
    root: CopickRoot,
    run_name: str,
    file_path: File,
    object_name: str,
    user_id: str,
    session_id: str,
    voxel_spacing: float | None = None,
    file_type: str | None = None,
    create: bool = True,
    exist_ok: bool = False,
    overwrite: bool = False,
    log: bool = False,
    tilt_series_pixel_size: float | None = None,
    tomograms_star: File | None = None,
    relion_version: str | None = None,
) -> CopickPicks:
    """Add the picks of one run from a file; see `copick.ops.poses` for the formats.

    Of a file that names the runs of its picks, only those of this run are taken; a file of a single run may call
    it otherwise.

    Args:
        voxel_spacing: The size of the pixels that positions are in, for "em", "dynamo" and some "star" files.
        file_type: "csv", "em", "dynamo" or "star"; None = as the file's name says.
        tilt_series_pixel_size: "star": the size of the pixels, if the file does not say it.
        tomograms_star: "star": a file that says the size and the centre of each tomogram. Without it, centres are
            those of the run's tomograms.
        relion_version: "star": "relion5" takes centred positions alone, "relion4" pixels alone.

    Raises:
        UnknownNameError: There is no such run, and `create` is False.
        AlreadyExistsError: There are such picks.
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, it holds picks of several other runs, or the project has no such object.
    """
    particles = _of_run(_read(file_path, file_type, voxel_spacing), run_name, file_path)
    options = _relion_options(
        particles,
        (particles.tomograms or (run_name,))[:1],
        read_relion_tomograms(tomograms_star) if tomograms_star else {},
        voxel_spacing,
        tilt_series_pixel_size,
        relion_version,
    )
    identity = object_name, session_id, user_id
    return _put(root, run_name, particles, options, identity, create, exist_ok or overwrite, log)


def add_picks(
    root: CopickRoot,
    run_name: str,
    path: File,
    object_name: str,
    user_id: str,
    session_id: str,
    voxel_spacing: float | None = None,
    file_type: str | None = None,
    tomogram_dimensions: tuple[int, int, int] | None = None,
    create: bool = True,
    exist_ok: bool = False,
    overwrite: bool = False,
    log: bool = False,
) -> CopickPicks:
    """The older name of `add_picks_from_file`, which needs no `tomogram_dimensions`."""
    return add_picks_from_file(
        root,
        run_name,
        path,
        object_name,
        user_id,
        session_id,
        voxel_spacing,
        file_type,
        create,
        exist_ok,
        overwrite,
        log,
    )


def add_picks_grouped_from_file(
    root: CopickRoot,
    file_path: File,
    object_name: str,
    user_id: str,
    session_id: str,
    voxel_spacing: float | None = None,
    index_to_run: Mapping[int, str] | None = None,
    file_type: str | None = None,
    tomo_index_row: int = 4,
    create: bool = True,
    exist_ok: bool = False,
    overwrite: bool = False,
    log: bool = False,
    tomogram_centers: Mapping[str, tuple[float, float, float]] | None = None,
    relion_version: str | None = None,
    tilt_series_pixel_size: float | None = None,
    tomograms: Mapping[str, RelionTomogram] | None = None,
) -> dict[str, CopickPicks]:
    """Add the picks of many runs from one file, which says for each the run or the number of its tomogram.

    Args:
        index_to_run: Run names by number of tomogram, for "em" and "dynamo"; picks of other tomograms are left out
            with a warning.
        tomo_index_row: "em": which of the 20 numbers, from 0, is that of the tomogram.
        tomogram_centers: "star": centres in ångström, x, y, z, of tomograms that `tomograms` does not name.
        tomograms: "star": as `copick.ops.poses.read_relion_tomograms` gives them.
        voxel_spacing, file_type, relion_version, tilt_series_pixel_size: As in `add_picks_from_file`.

    Returns:
        The picks by run name.

    Raises:
        UnknownNameError: There is no such run, and `create` is False; nothing was added.
        AlreadyExistsError: A run has such picks.
        ValueError: The file cannot be read, or does not say which picks belong together.
    """
    particles = _read(file_path, file_type, voxel_spacing, tomo_index_row)
    if particles.tomograms is None:
        raise FormatError(
            f"{os.fspath(file_path)}: does not say to which runs its picks belong; use add_picks_from_file"
        )
    groups: dict[str, list[str | int]] = {}
    for key in dict.fromkeys(particles.tomograms):
        name = key if isinstance(key, str) else (index_to_run or {}).get(key)
        if name:
            groups.setdefault(name, []).append(key)
        else:
            logger.warning("%s: picks of tomogram %s are left out: it stands for no run", file_path, key)
    if not create:
        for name in groups:
            known_run(root, name)
    identity = object_name, session_id, user_id
    added = {}
    for name, keys in groups.items():
        members = particles.only([key in keys for key in particles.tomograms])
        options = _relion_options(
            members, keys, tomograms or {}, voxel_spacing, tilt_series_pixel_size, relion_version
        )
        if options.get("tomogram_center", ...) is None:
            options["tomogram_center"] = (tomogram_centers or {}).get(name)
        added[name] = _put(root, name, members, options, identity, create, exist_ok or overwrite, log)
    return added


def _read(
    path: File, file_type: str | None, voxel_spacing: float | None, tomogram_row: int = 4
) -> Poses | RelionParticles:
    if format_of(path, file_type) == "star":
        return read_relion_particles(path)
    return read_poses(path, file_type, voxel_spacing, tomogram_row=tomogram_row)


def _relion_options(
    particles: Poses | RelionParticles,
    names: Iterable[str | int],
    tomograms: Mapping[str, RelionTomogram],
    voxel_spacing: float | None,
    tilt_series_pixel_size: float | None,
    relion_version: str | None,
) -> dict[str, Any]:
    """What `CopickPicks.from_df` is to know beside the table. What the particles' own file says counts more."""
    if isinstance(particles, Poses):
        return {}
    stated = next((tomograms[str(name)] for name in names if str(name) in tomograms), None)
    if tilt_series_pixel_size is None and stated is not None and not particles.states_pixel_size:
        tilt_series_pixel_size = stated.pixel_size
    return {
        "optics": particles.optics,
        "tilt_series_pixel_size": tilt_series_pixel_size,
        "tomogram_center": stated.center if stated else None,
        "voxel_spacing": voxel_spacing,
        "relion_version": None if relion_version == "auto" else relion_version,
    }


def _of_run(particles: Poses | RelionParticles, run: str, path: File) -> Poses | RelionParticles:
    """The particles that are this run's. Raises FormatError if they are those of several others."""
    keys = {*(particles.tomograms or ())}
    if len(keys) < 2:
        return particles
    if not all(isinstance(key, str) for key in keys):
        logger.warning(
            "%s: holds picks of %d tomograms, which all become those of run %r; "
            "add_picks_grouped_from_file tells them apart",
            path,
            len(keys),
            run,
        )
        return particles
    if run not in keys:
        shown = ", ".join(sorted(map(str, keys))[:5])
        raise FormatError(
            f"{os.fspath(path)}: holds picks of {len(keys)} runs, but none of {run!r}: {shown}. Name one of them, "
            "or use add_picks_grouped_from_file"
        )
    return particles.only([key == run for key in particles.tomograms or ()])


def _put(
    root: CopickRoot,
    run: str,
    particles: Poses | RelionParticles,
    options: Mapping[str, Any],
    identity: tuple[str, str, str],
    create: bool,
    replace: bool,
    log: bool,
) -> CopickPicks:
    """Make picks of particles; `options` are for tables of RELION."""
    with (
        target_run(root, run, create, log) as owner,
        filling(lambda ok: owner.new_picks(*identity, exist_ok=ok), replace) as picks,
    ):
        if isinstance(particles, RelionParticles):
            picks.from_df(particles.table, "relion", **options)
        else:
            scores = particles.scores
            if scores is not None and not np.isfinite(scores).all():
                logger.warning("%s: scores that are no finite numbers become 1", picks.ref)
                scores = np.where(np.isfinite(scores), scores, 1.0)
            picks.from_numpy(particles.positions, particles.transforms, particles.instance_ids, scores)
    return said(log, picks)
