"""One thing to one file, and everything of a run to a folder: what the functions of `copick.ops.export` share."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from copick.errors import CopickError, FormatError
from copick.kinds import check_name
from copick.ops.outputs import make_folder
from copick.ops.particles import RelionOptions, particles_of, write_star
from copick.ops.pose_writers import poses_of, write_poses
from copick.ops.poses import read_relion_tomograms
from copick.ops.run import chosen_runs, known_run, map_runs
from copick.ops.volume_writers import check_compression, level_of, write_em, write_mrc, write_tiff, write_zarr
from copick.util import stopping
from copick.util.segmentation import PANOPTIC_CHANNELS, panoptic_channel_index
from copick.util.uri import parse_copick_uri, resolve_copick_objects, serialize_copick_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from copick.models import CopickPicks, CopickRoot, CopickRun, CopickSegmentation, CopickTomogram
    from copick.ops.outputs import File

    Outputs = Iterator[tuple[tuple[str, ...], Callable[[str], None]]]
    """Paths below the output folder, part by part, and what writes there."""

logger = logging.getLogger("copick.ops.export")

PICKS = {"em": "em", "star": "star", "dynamo": "tbl", "csv": "csv"}
"""What files of picks end in, by format."""
TOMOGRAMS = {kind: kind for kind in ("mrc", "tiff", "zarr")}
SEGMENTATIONS = {**TOMOGRAMS, "em": "em"}


def checked_format(output_format: str | None, known: Iterable[str], what: str) -> str:
    """The format in lower case. Raises FormatError (a ValueError) if it is none of these."""
    kind = str(output_format).lower()
    if kind not in known:
        raise FormatError(f"output_format {output_format!r}: {what} are written as {', '.join(known)}")
    return kind


def relion_options(kind: str, tomograms_star: File | None, **options: Any) -> RelionOptions | None:
    """How to write "star"; None for other formats, which these options mean nothing to. Raises ValueError."""
    if kind != "star":
        return None
    tomograms = read_relion_tomograms(tomograms_star) if tomograms_star else {}
    return RelionOptions(tomograms=tomograms, **options)


def write_picks(
    picks: CopickPicks,
    path: File,
    kind: str,
    voxel_spacing: float | None,
    tomogram: str | int,
    relion: RelionOptions | None,
) -> None:
    """Write picks to a file; `tomogram` is the run's name or number that it states."""
    if relion is None:
        write_poses(path, kind, poses_of(picks, tomogram), voxel_spacing)
        return
    particles = particles_of({picks.run.name: [picks]}, relion)
    optics = {} if particles.optics is None else {"optics": particles.optics}
    write_star(path, {**optics, "particles": particles.one_table()})


def write_tomogram(
    tomogram: CopickTomogram, path: File, kind: str, level: int, compression: str | None, all_levels: bool
) -> None:
    """Write a tomogram to a file."""
    size = tomogram.voxel_spacing.voxel_size
    if kind == "zarr":
        write_zarr(path, tomogram, None if all_levels else level_of(tomogram, level, size), labels=False)
    elif kind == "tiff":
        write_tiff(path, level_of(tomogram, level, size), compression, labels=False)
    else:
        write_mrc(path, level_of(tomogram, level, size), labels=False)


def write_segmentation(
    segmentation: CopickSegmentation,
    path: File,
    kind: str,
    level: int,
    compression: str | None,
    all_levels: bool,
    channel: str | int | None,
) -> None:
    """Write a segmentation, or one channel of it, to a file."""
    at = _channel_of(segmentation, kind, channel)
    if kind == "zarr" and all_levels:
        write_zarr(path, segmentation, None, labels=True)
        return
    rank = 4 if segmentation.is_panoptic else 3
    chosen = level_of(segmentation, level, segmentation.voxel_size, at, rank=rank)
    if kind == "zarr":
        write_zarr(path, segmentation, chosen, labels=True)
    elif kind == "tiff":
        write_tiff(path, chosen, compression, labels=True)
    elif kind == "em":
        write_em(path, chosen)
    else:
        write_mrc(path, chosen, labels=True)


def _channel_of(segmentation: CopickSegmentation, kind: str, channel: str | int | None) -> int | None:
    """Which channel to write. Raises ValueError if there is none such, or nobody says which."""
    if not segmentation.is_panoptic:
        if channel is not None:
            raise ValueError(
                f"{segmentation.ref} is {segmentation.segmentation_type}: only panoptic ones have channels"
            )
        return None
    if kind == "zarr":
        if channel is not None:
            raise ValueError(
                f"{segmentation.ref}: OME-Zarr holds both channels; channel= is for the other formats"
            )
        return None
    if channel is None:
        raise ValueError(
            f"{segmentation.ref} is panoptic, and {kind} files hold one channel; pass channel='label' or 'instance'"
        )
    return panoptic_channel_index(channel)


# Everything of a run


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What of each run to write, and how. Raises ValueError if it cannot be so."""

    picks_uri: str | None
    segmentation_uri: str | None
    tomogram_uri: str | None
    output_format: str | None
    voxel_spacing: float | None
    level: int
    compression: str | None
    copy_all_levels: bool
    channel: str | int | None
    run_to_index: Mapping[str, int] | None
    relion: RelionOptions | None
    log: bool

    def __post_init__(self) -> None:
        wanted = (
            (self.picks_uri, "picks", PICKS, "picks"),
            (self.segmentation_uri, "segmentation", SEGMENTATIONS, "segmentations"),
            (self.tomogram_uri, "tomogram", TOMOGRAMS, "tomograms"),
        )
        for uri, object_type, known, what in wanted:
            if uri is not None:
                parse_copick_uri(uri, object_type)
                checked_format(self.output_format, known, what)
        if self.picks_uri is not None and self.kind in ("em", "dynamo") and self.voxel_spacing is None:
            raise ValueError(f"{self.kind} files hold positions in pixels; pass voxel_spacing in ångström")
        if self.kind == "tiff":
            check_compression(self.compression)

    @property
    def kind(self) -> str:
        """The format."""
        return str(self.output_format).lower()


def wanted_of(
    *,
    output_format: str | None,
    picks_uri: str | None = None,
    segmentation_uri: str | None = None,
    tomogram_uri: str | None = None,
    voxel_spacing: float | None = None,
    level: int = 0,
    compression: str | None = None,
    copy_all_levels: bool = True,
    channel: str | int | None = None,
    run_to_index: Mapping[str, int] | None = None,
    log: bool = False,
    tomograms_star: File | None = None,
    **relion: Any,
) -> Wanted:
    """What the functions of `copick.ops.export` are asked for; `relion`: see `RelionOptions`. Raises ValueError."""
    kind = str(output_format).lower() if picks_uri is not None else ""
    options = relion_options(kind, tomograms_star, voxel_spacing=voxel_spacing, **relion)
    return Wanted(
        picks_uri,
        segmentation_uri,
        tomogram_uri,
        output_format,
        voxel_spacing,
        level,
        compression,
        copy_all_levels,
        channel,
        run_to_index,
        options,
        log,
    )


class _Output(NamedTuple):
    """A file to write."""

    what: str
    """picks, segmentations or tomograms."""
    source: Any
    parts: tuple[str, ...]
    """Its path below the output folder."""
    write: Callable[[str], None]


def export_wanted(
    root: CopickRoot, output_dir: File, run_names: Iterable[str] | None, workers: int, wanted: Wanted
) -> dict[str, dict[str, Any]]:
    """What `export_one` returns for each run, by name. Raises UnknownNameError."""
    runs = [known_run(root, run) for run in chosen_runs(root, run_names)]
    make_folder(output_dir)
    results = map_runs(
        export_one, root, runs, workers, task_desc="Exporting", output_dir=output_dir, wanted=wanted
    )
    return {name: result or _nothing(f"run {name} failed") for name, result in results.items()}


def _nothing(*errors: str) -> dict[str, Any]:
    return {"picks": 0, "segmentations": 0, "tomograms": 0, "errors": [*errors]}


def export_one(run: CopickRun, output_dir: File, wanted: Wanted) -> dict[str, Any]:
    """Write what is wanted of a run below a folder.

    Returns:
        How many `picks`, `segmentations` and `tomograms` were written, and `errors`: why others were not.
    """
    result = _nothing()
    outputs = [*_outputs(run, wanted)]
    often = Counter(each.parts for each in outputs)
    failed = set()
    for each in outputs:
        stopping.check()
        path = os.path.join(output_dir, *each.parts)
        try:
            for part in each.parts:
                check_name(part, "a file or folder")
            if often[each.parts] > 1:
                raise FormatError(
                    f"{often[each.parts]} {each.what} would be {os.path.join(*each.parts)}; let the URI name one of them"
                )
            each.write(path)
        except (CopickError, OSError, ValueError, ImportError) as error:
            name = serialize_copick_uri(each.source)
            result["errors"].append(f"Error exporting {each.what}: {name} of run {run.name}: {error}")
            failed.add(each.source.ref)
        else:
            logger.log(logging.INFO if wanted.log else logging.DEBUG, "%s is now %s", each.source.ref, path)
    for what in ("picks", "segmentations", "tomograms"):
        result[what] = len({each.source.ref for each in outputs if each.what == what} - failed)
    return result


def _outputs(run: CopickRun, wanted: Wanted) -> Iterator[_Output]:
    for what, object_type, uri, files in (
        ("picks", "picks", wanted.picks_uri, _picks_files),
        ("segmentations", "segmentation", wanted.segmentation_uri, _segmentation_files),
        ("tomograms", "tomogram", wanted.tomogram_uri, _tomogram_files),
    ):
        if uri is not None:
            for source in resolve_copick_objects(uri, run.root, object_type, run.name):
                for parts, write in files(source, wanted):
                    yield _Output(what, source, parts, write)


def _picks_files(picks: CopickPicks, wanted: Wanted) -> Outputs:
    run, kind = picks.run.name, wanted.kind
    name = f"{run}_{picks.pickable_object_name}_{picks.user_id}_{picks.session_id}.{PICKS[kind]}"

    def write(path: str) -> None:
        tomogram: str | int = run
        if kind in ("em", "dynamo"):
            numbers = {run: 1} if wanted.run_to_index is None else wanted.run_to_index
            if run not in numbers:
                raise FormatError(f"run {run!r} has no number in run_to_index")
            tomogram = numbers[run]
        write_picks(picks, path, kind, wanted.voxel_spacing, tomogram, wanted.relion)

    yield (name,), write


def _segmentation_files(segmentation: CopickSegmentation, wanted: Wanted) -> Outputs:
    kind = wanted.kind
    name = f"{segmentation.name}_{segmentation.user_id}_{segmentation.session_id}"
    channels: tuple[str | int | None, ...] = (None,)
    if segmentation.is_panoptic and (kind != "zarr" or wanted.channel is not None):
        channels = PANOPTIC_CHANNELS if wanted.channel is None else (wanted.channel,)
    for channel in channels:
        suffix = "" if channel is None else f"_{PANOPTIC_CHANNELS[panoptic_channel_index(channel)]}"

        def write(path: str, channel: str | int | None = channel) -> None:
            write_segmentation(
                segmentation, path, kind, wanted.level, wanted.compression, wanted.copy_all_levels, channel
            )

        yield (segmentation.run.name, segmentation.directory, f"{name}{suffix}.{SEGMENTATIONS[kind]}"), write


def _tomogram_files(tomogram: CopickTomogram, wanted: Wanted) -> Outputs:
    spacing, kind = tomogram.voxel_spacing, wanted.kind

    def write(path: str) -> None:
        write_tomogram(tomogram, path, kind, wanted.level, wanted.compression, wanted.copy_all_levels)

    folder = f"VoxelSpacing{spacing.voxel_size:.3f}"
    yield (spacing.run.name, folder, f"{tomogram.tomo_type}.{TOMOGRAMS[kind]}"), write
