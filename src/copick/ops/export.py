"""Write what a project holds to files of other programs.

    picks           em      motivelists of the TOM toolbox      .em
                    star    particles of RELION 4 and 5         .star
                    dynamo  tables of Dynamo                    .tbl
                    csv     copick's own: nothing is lost       .csv
    tomograms       mrc, tiff, zarr (OME-Zarr)
    segmentations   the same, and em

`copick.ops.add` reads them. A file appears when it is whole; what is there is replaced, but for EM files and OME-Zarr folders:
these are an error. `log` says at level INFO what was written. Lengths are in ångström.

The functions have the parameters that they have in copick 1.x, which take most of this file; the work is done in `exports`,
`particles`, `pose_writers` and `volume_writers` beside it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import TYPE_CHECKING, Any, Literal

from copick.errors import FormatError
from copick.kinds import check_name
from copick.models import CopickRoot
from copick.models.tables import HALF, NAME, one_of
from copick.ops.exports import (
    PICKS,
    SEGMENTATIONS,
    TOMOGRAMS,
    checked_format,
    export_one,
    export_wanted,
    relion_options,
    wanted_of,
    write_picks,
    write_segmentation,
    write_tomogram,
)
from copick.ops.outputs import make_folder
from copick.ops.particles import FilamentPolarity, Particles, RelionOptions, particles_of, write_star
from copick.ops.pose_writers import joined, poses_of, write_poses
from copick.ops.poses import read_relion_tomograms
from copick.ops.run import chosen_runs, known_run
from copick.util import stopping
from copick.util.progress import Progress
from copick.util.uri import parse_copick_uri, resolve_copick_objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from copick.models import CopickPicks, CopickRun, CopickSegmentation, CopickTomogram
    from copick.ops.outputs import File

    Config = File | CopickRoot
    """A project, or its config file."""

__all__ = [
    "FilamentPolarity",
    "RelionExport",
    "export",
    "export_picks",
    "export_picks_combined",
    "export_relion_particles",
    "export_run",
    "export_segmentation",
    "export_tomogram",
]

logger = logging.getLogger(__name__)

Angles = Literal["frame", "pose"]
Halves = Literal["filament"] | None


# Picks


def export_picks(
    picks: CopickPicks,
    output_path: File,
    output_format: str,
    voxel_spacing: float | None = None,
    include_optics: bool = True,
    run_name: str | None = None,
    tomogram_index: int = 1,
    log: bool = False,
    tilt_series_pixel_size: float | None = None,
    tomograms_star: File | None = None,
    filament_columns: str = "auto",
    polarity_from_filaments: bool = True,
    filaments_uri: str | None = None,
    tomo_type: str | None = None,
    coordinates: str = "auto",
    filament_angles: Angles = "frame",
    half_sets: Halves = None,
) -> str:
    """Write picks to a file.

    Args:
        output_format: "em", "star", "dynamo" or "csv".
        voxel_spacing: "em", "dynamo": the size of the pixels to count positions in. "star": of the tomogram whose centre
            counts; see `export_relion_particles` for this and what follows.
        run_name: "csv": what to call the run; None = as it is called.
        tomogram_index: "em", "dynamo": the number of the tomogram.

    Returns:
        The path.

    Raises:
        AlreadyExistsError: There is such an EM file.
        LayerError: The picks cannot be read, or the file not written.
        ValueError: An argument cannot be so, or the positions cannot be stated in this format.
        ImportError: The library that writes it is not installed.
    """
    kind = checked_format(output_format, PICKS, "picks")
    relion = relion_options(
        kind,
        tomograms_star,
        voxel_spacing=voxel_spacing,
        include_optics=include_optics,
        tilt_series_pixel_size=tilt_series_pixel_size,
        filament_columns=filament_columns,
        polarity_from_filaments=polarity_from_filaments,
        filaments_uri=filaments_uri,
        tomo_type=tomo_type,
        coordinates=coordinates,
        filament_angles=filament_angles,
        half_sets=half_sets,
    )
    tomogram = (run_name or picks.run.name) if kind == "csv" else tomogram_index
    write_picks(picks, output_path, kind, voxel_spacing, tomogram, relion)
    return _written(output_path, picks.ref, log)


@dataclasses.dataclass(frozen=True)
class RelionExport:
    """What `export_relion_particles` wrote."""

    path: str
    layout: str
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    """Layout "import": the coordinate file of each run."""
    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    """Particles of each run that was asked for."""
    filament: bool = False
    """Whether there are the columns of filaments."""
    polarity: dict[str, FilamentPolarity] = dataclasses.field(default_factory=dict)
    """What is known of the directions of filaments, by run."""
    half_sets: dict[int, int] = dataclasses.field(default_factory=dict)
    """Particles in each half set, if there are half sets."""


def export_relion_particles(
    root: Config,
    picks_uri: str,
    output_path: File,
    *,
    voxel_spacing: float | None = None,
    run_names: Iterable[str] | None = None,
    layout: str = "particles",
    tomo_type: str | None = None,
    tomogram_centers: Mapping[str, tuple[float, float, float]] | None = None,
    tilt_series_pixel_size: float | Mapping[str, float] | None = None,
    tomograms_star: File | None = None,
    coordinates: str = "auto",
    include_optics: bool = True,
    filament_columns: str = "auto",
    polarity_from_filaments: bool = True,
    filaments_uri: str | None = None,
    allow_empty: bool = False,
    filament_angles: Angles = "frame",
    half_sets: Halves = None,
) -> RelionExport:
    """Write picks of many runs as particles of RELION: each names its tomogram, which is called as the run.

    Positions are stated from the centre of the tomogram, in pixels of the tilt series, or both: what is known of all runs.

    Args:
        root: A project, or its config file.
        voxel_spacing, tomo_type: Of the tomogram whose centre counts; as `copick.models.tables.tomogram_center`. If neither a
            centre nor a pixel size is known, positions are written in voxels of that size, with a warning.
        run_names: None = all.
        layout: "particles" = one table. "import" = a list of runs and their files for RELION's job to import coordinates, and
            the files in a folder `coordinates` beside it.
        tomogram_centers: By run, in ångström from the corner, x, y, z.
        tilt_series_pixel_size: One for all runs, or by run. Counts more than `tomograms_star`.
        tomograms_star: RELION's file that says pixel sizes, sizes of tomograms and optics. Counts more than all other centres.
        coordinates: "centered" = state positions from the centre alone.
        include_optics: Write a table of optics groups, one per run, if all pixel sizes are known.
        filament_columns: "on", "off", or "auto": if all objects are declared filaments.
        polarity_from_filaments: Whether filaments (`CopickFilaments`) say whose direction is known; else none is.
        filaments_uri: These filaments; None = those with the object, user and session of the picks.
        allow_empty: Write a table of nothing if there are no particles.
        filament_angles: "frame" = rotations of filaments in two steps; "pose" = as of other particles.
        half_sets: "filament" = `rlnRandomSubset` by whole filaments, so that both halves get as many particles as can be.

    Raises:
        UnknownNameError: There is no such run.
        RelionPixelSizeError, RelionTomogramCenterError: The positions cannot be stated.
        ValueError: An argument cannot be so, there are no particles, or filaments are not numbered as RELION needs it.
        LayerError: Something could not be read or written.
        ImportError: A library is not installed.
    """
    one_of("layout", layout, ("particles", "import"))
    options = RelionOptions(
        voxel_spacing=voxel_spacing,
        tomo_type=tomo_type,
        tilt_series_pixel_size=tilt_series_pixel_size,
        tomograms=read_relion_tomograms(tomograms_star) if tomograms_star else {},
        tomogram_centers=tomogram_centers or {},
        coordinates=coordinates,
        include_optics=include_optics,
        filament_columns=filament_columns,
        polarity_from_filaments=polarity_from_filaments,
        filaments_uri=filaments_uri,
        filament_angles=filament_angles,
        half_sets=half_sets,
    )
    asked = _picks_by_run(_root(root), picks_uri, run_names)
    groups = {name: picks for name, picks in asked.items() if picks}
    if not groups and not allow_empty:
        raise _nothing(picks_uri)
    particles = particles_of(groups, options)
    path = os.fspath(output_path)
    files = _write_particles(path, particles, layout)
    rows = {name: len(particles.tables.get(name, ())) for name in asked}
    logger.info("%d particles of %d runs are now %s", sum(rows.values()), len(groups), path)
    return RelionExport(
        path, layout, files, rows, particles.filament, particles.polarity, _sizes_of_halves(particles)
    )


def _write_particles(path: str, particles: Particles, layout: str) -> dict[str, str]:
    """The coordinate files by run."""
    if layout == "particles":
        optics = {} if particles.optics is None else {"optics": particles.optics}
        write_star(path, {**optics, "particles": particles.one_table()})
        return {}
    import pandas

    folder = os.path.join(os.path.dirname(path), "coordinates")
    files = {name: os.path.join(folder, f"{check_name(name, 'run')}.star") for name in particles.tables}
    for name, table in particles.tables.items():
        write_star(files[name], {"particles": table})
    columns = {NAME: [*files], "rlnTomoImportParticleFile": [*files.values()]}
    write_star(path, {"coordinate_files": pandas.DataFrame(columns)})  # last: it names only what is there
    return files


def _sizes_of_halves(particles: Particles) -> dict[int, int]:
    subsets = [int(half) for table in particles.tables.values() if HALF in table for half in table[HALF]]
    return {half: subsets.count(half) for half in (1, 2)} if subsets else {}


def export_picks_combined(
    config: Config,
    output_file: File,
    picks_uri: str,
    output_format: str,
    voxel_spacing: float | None = None,
    run_names: Iterable[str] | None = None,
    run_to_index: Mapping[str, int] | None = None,
    include_optics: bool = True,
    log: bool = False,
    tilt_series_pixel_size: float | Mapping[str, float] | None = None,
    tomograms_star: File | None = None,
    filament_columns: str = "auto",
    polarity_from_filaments: bool = True,
    filaments_uri: str | None = None,
    tomo_type: str | None = None,
    coordinates: str = "auto",
    star_layout: str = "particles",
    filament_angles: Angles = "frame",
    half_sets: Halves = None,
) -> str:
    """Write picks of many runs to one file.

    Args:
        config: A project, or its config file.
        run_to_index: "em", "dynamo": the number of each run's tomogram.
        star_layout: `layout` of `export_relion_particles`; see there for what else is for "star" alone.

    Returns:
        The path.

    Raises:
        UnknownNameError: There is no such run.
        ValueError: An argument cannot be so, or there are no such picks.
        As `export_picks`.
    """
    kind = checked_format(output_format, PICKS, "picks")
    if kind == "star":
        export_relion_particles(
            config,
            picks_uri,
            output_file,
            voxel_spacing=voxel_spacing,
            run_names=run_names,
            layout=star_layout,
            tomo_type=tomo_type,
            tilt_series_pixel_size=tilt_series_pixel_size,
            tomograms_star=tomograms_star,
            coordinates=coordinates,
            include_optics=include_optics,
            filament_columns=filament_columns,
            polarity_from_filaments=polarity_from_filaments,
            filaments_uri=filaments_uri,
            filament_angles=filament_angles,
            half_sets=half_sets,
        )
        return _written(output_file, picks_uri, log)
    if kind != "csv" and run_to_index is None:
        raise ValueError(f"{kind} files number tomograms; pass run_to_index: the number of each run's")
    parts = []
    for name, picks in _picks_by_run(_root(config), picks_uri, run_names).items():
        if picks and kind != "csv" and name not in (run_to_index or {}):
            raise FormatError(f"run {name!r} has no number in run_to_index")
        tomogram = name if kind == "csv" else (run_to_index or {}).get(name, 0)
        parts += [poses_of(each, tomogram) for each in picks]
    if not parts:
        raise _nothing(picks_uri)
    write_poses(output_file, kind, joined(parts), voxel_spacing)
    return _written(output_file, picks_uri, log)


def _picks_by_run(
    root: CopickRoot, uri: str, run_names: Iterable[str] | None
) -> dict[str, list[CopickPicks]]:
    """The picks that a URI names in each run, without those that have no points."""
    parse_copick_uri(uri, "picks")
    runs = [known_run(root, run) for run in chosen_runs(root, run_names)]
    found = {}
    with Progress("Reading picks", len(runs)) as progress:
        for run in runs:
            stopping.check()
            picks = resolve_copick_objects(uri, root, "picks", run.name)
            found[run.name] = [each for each in picks if each.points]
            progress.step()
    return found


def _nothing(uri: str) -> FormatError:
    return FormatError(f"No picks found to export: {uri!r} names none with points in these runs")


# Volumes


def export_tomogram(
    tomogram: CopickTomogram,
    output_path: File,
    output_format: str,
    level: int = 0,
    compression: str | None = None,
    copy_all_levels: bool = True,
    log: bool = False,
) -> str:
    """Write a tomogram to a file: MRC as float32, the others with the type that it has.

    Args:
        output_format: "mrc", "tiff" or "zarr".
        level: Which resolution, 0 = the finest.
        compression: "tiff": "lzw", "zlib", "jpeg" (of uint8, with losses) or "none"; None = none.
        copy_all_levels: "zarr": write every level, as it is stored.

    Returns:
        The path.

    Raises:
        NotFoundError: There is no such level.
        AlreadyExistsError: "zarr": something is there already.
        LayerError: The tomogram cannot be read, or the file not written.
        ValueError: The format or the compression cannot be so.
        ImportError: The library that writes it is not installed.
    """
    kind = checked_format(output_format, TOMOGRAMS, "tomograms")
    write_tomogram(tomogram, output_path, kind, level, compression, copy_all_levels)
    return _written(output_path, tomogram.ref, log)


def export_segmentation(
    segmentation: CopickSegmentation,
    output_path: File,
    output_format: str,
    level: int = 0,
    compression: str | None = None,
    copy_all_levels: bool = True,
    log: bool = False,
    channel: str | int | None = None,
) -> str:
    """Write a segmentation to a file. Labels keep their values. As `export_tomogram`.

    Args:
        output_format: "mrc" (int16, uint16 or float32), "tiff", "zarr", or "em" (float32 or int32).
        compression: "tiff": "lzw", "zlib" or "none".
        channel: Which one of a panoptic segmentation: "label" or "instance". "zarr" holds both.

    Raises:
        ValueError: Also: a label is too large for the format, or there is no such channel.
        AlreadyExistsError: "zarr", "em": something is there already.
    """
    kind = checked_format(output_format, SEGMENTATIONS, "segmentations")
    write_segmentation(segmentation, output_path, kind, level, compression, copy_all_levels, channel)
    return _written(output_path, segmentation.ref, log)


# Many things


def export_run(
    run: CopickRun,
    output_dir: File,
    picks_uri: str | None = None,
    segmentation_uri: str | None = None,
    tomogram_uri: str | None = None,
    output_format: str | None = None,
    voxel_spacing: float | None = None,
    level: int = 0,
    compression: str | None = None,
    include_optics: bool = True,
    run_to_index: Mapping[str, int] | None = None,
    log: bool = False,
    tilt_series_pixel_size: float | Mapping[str, float] | None = None,
    tomograms_star: File | None = None,
    filament_columns: str = "auto",
    channel: str | int | None = None,
    polarity_from_filaments: bool = True,
    filaments_uri: str | None = None,
    tomo_type: str | None = None,
    coordinates: str = "auto",
    filament_angles: Angles = "frame",
    half_sets: Halves = None,
    *,
    copy_all_levels: bool = True,
) -> dict[str, Any]:
    """Write everything of a run that URIs name, one file each.

    RUN_OBJECT_USER_SESSION.*, RUN/VoxelSpacing10.000/TYPE.*, RUN/Segmentations/NAME_USER_SESSION.* (and
    `InstanceSegmentations`, `PanopticSegmentations`; `_label` and `_instance` follow where channels have files of their own).

    Args:
        run_to_index: "em", "dynamo": the number of each run's tomogram; None = 1.
        channel: Of panoptic segmentations; None = both.
        The others: as in `export_picks`, `export_relion_particles` and `export_segmentation`.

    Returns:
        How many `picks`, `segmentations` and `tomograms` were written, and `errors`: why others were not.

    Raises:
        ValueError: An argument cannot be so; nothing was written.
    """
    wanted = wanted_of(
        output_format=output_format,
        picks_uri=picks_uri,
        segmentation_uri=segmentation_uri,
        tomogram_uri=tomogram_uri,
        tomograms_star=tomograms_star,
        voxel_spacing=voxel_spacing,
        level=level,
        compression=compression,
        copy_all_levels=copy_all_levels,
        channel=channel,
        run_to_index=run_to_index,
        log=log,
        include_optics=include_optics,
        tilt_series_pixel_size=tilt_series_pixel_size,
        filament_columns=filament_columns,
        polarity_from_filaments=polarity_from_filaments,
        filaments_uri=filaments_uri,
        tomo_type=tomo_type,
        coordinates=coordinates,
        filament_angles=filament_angles,
        half_sets=half_sets,
    )
    make_folder(output_dir)
    return export_one(run, output_dir, wanted)


def export(
    config: Config,
    output_dir: File,
    run_names: Iterable[str] | None = None,
    picks_uri: str | None = None,
    segmentation_uri: str | None = None,
    tomogram_uri: str | None = None,
    output_format: str | None = None,
    voxel_spacing: float | None = None,
    level: int = 0,
    compression: str | None = None,
    include_optics: bool = True,
    run_to_index: Mapping[str, int] | None = None,
    n_workers: int = 8,
    log: bool = False,
    tilt_series_pixel_size: float | Mapping[str, float] | None = None,
    tomograms_star: File | None = None,
    filament_columns: str = "auto",
    channel: str | int | None = None,
    polarity_from_filaments: bool = True,
    filaments_uri: str | None = None,
    tomo_type: str | None = None,
    coordinates: str = "auto",
    filament_angles: Angles = "frame",
    half_sets: Halves = None,
    *,
    copy_all_levels: bool = True,
) -> list[str]:
    """Write everything that URIs name in a project, one file each. As `export_run`, for many runs at a time.

    Args:
        config: A project, or its config file.
        run_names: None = all.

    Returns:
        Why something was not written; nothing = all was.

    Raises:
        UnknownNameError: There is no such run.
        ValueError: An argument cannot be so; nothing was written.
    """
    wanted = wanted_of(
        output_format=output_format,
        picks_uri=picks_uri,
        segmentation_uri=segmentation_uri,
        tomogram_uri=tomogram_uri,
        tomograms_star=tomograms_star,
        voxel_spacing=voxel_spacing,
        level=level,
        compression=compression,
        copy_all_levels=copy_all_levels,
        channel=channel,
        run_to_index=run_to_index,
        log=log,
        include_optics=include_optics,
        tilt_series_pixel_size=tilt_series_pixel_size,
        filament_columns=filament_columns,
        polarity_from_filaments=polarity_from_filaments,
        filaments_uri=filaments_uri,
        tomo_type=tomo_type,
        coordinates=coordinates,
        filament_angles=filament_angles,
        half_sets=half_sets,
    )
    results = export_wanted(_root(config), output_dir, run_names, n_workers, wanted)
    errors = [error for result in results.values() for error in result["errors"]]
    for error in errors:
        logger.error("%s", error)
    return errors


def _root(config: Config) -> CopickRoot:
    if isinstance(config, CopickRoot):
        return config
    from copick import from_file

    return from_file(config)


def _written(path: File, what: object, log: bool) -> str:
    logger.log(logging.INFO if log else logging.DEBUG, "%s is now %s", what, path)
    return os.fspath(path)
