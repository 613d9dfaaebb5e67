"""`copick export`: to files of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from copick.cli import util
from copick.cli.base import finish, group, project
from copick.cli.types import CopickURI

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def _uri(flag: str, object_type: str, example: str) -> Callable[[F], F]:
    return click.option(
        flag, type=CopickURI(object_type), required=True, help=f"Which ones, such as '{example}'."
    )


def _format(*formats: str) -> Callable[[F], F]:
    return click.option("--output-format", type=click.Choice(formats), required=True, help="The format.")


def _relion_options(function: F) -> F:
    """What is for STAR files alone."""
    for option in reversed(
        (
            click.option(
                "--include-optics/--no-include-optics",
                default=True,
                show_default=True,
                help="STAR: write the table of optics groups, if all pixel sizes are known.",
            ),
            click.option(
                "--tilt-series-pixel-size",
                type=float,
                help="STAR: ångström per pixel of the tilt series; positions are written in such pixels, too.",
            ),
            click.option(
                "--tomograms-star",
                type=click.Path(exists=True, dir_okay=False),
                help="STAR: RELION's tomograms.star, for pixel sizes, optics, and the centres of tomograms.",
            ),
            click.option(
                "--star-layout",
                type=click.Choice(["particles", "import"]),
                default="particles",
                show_default=True,
                help="STAR, with --output-file: one table; or a list for RELION's import of coordinates, and a file per run "
                "in coordinates/ beside it.",
            ),
            click.option(
                "--tomo-type",
                help="STAR: the tomogram (of --voxel-size) whose centre counts. [default: the first]",
            ),
            click.option(
                "--coordinates",
                type=click.Choice(["auto", "centered"]),
                default="auto",
                show_default=True,
                help="STAR: all positions that can be stated, or those from the centre alone.",
            ),
            click.option(
                "--filament-columns",
                type=click.Choice(["auto", "on", "off"]),
                default="auto",
                show_default=True,
                help="STAR: write the columns of filaments; auto: of objects that are declared filaments.",
            ),
            click.option(
                "--polarity-from-filaments/--no-polarity-from-filaments",
                default=True,
                show_default=True,
                help="STAR: filaments say whose direction is known; else none is.",
            ),
            click.option(
                "--filaments-uri",
                type=CopickURI("filaments"),
                help="STAR: these filaments. [default: with the object, user and session of the picks]",
            ),
            click.option(
                "--filament-angles",
                type=click.Choice(["frame", "pose"]),
                default="frame",
                show_default=True,
                help="STAR: rotations of filaments in two steps, or as of other particles.",
            ),
            click.option(
                "--half-sets",
                type=click.Choice(["none", "filament"]),
                default="none",
                show_default=True,
                help="STAR: half sets of whole filaments; in each file for itself.",
            ),
        )
    ):
        function = option(function)
    return function


@group()
def export() -> None:
    """Write what a project holds to files of other programs."""


@export.command()
@util.add_config_option
@util.add_run_names_option
@_uri("--picks-uri", "picks", "ribosome:alice/*")
@click.option(
    "--output-dir", type=click.Path(file_okay=False), help="Write a file for each run and each picks there."
)
@click.option("--output-file", type=click.Path(dir_okay=False), help="Or write all of them to one file.")
@_format("em", "star", "dynamo", "csv")
@click.option(
    "--voxel-size",
    type=float,
    help="EM, Dynamo: ångström per pixel of the positions. STAR: of the tomogram whose centre counts.",
)
@click.option(
    "--index-map",
    type=click.Path(exists=True, dir_okay=False),
    help="EM, Dynamo: the number of each tomogram, and its run, per line. One file of many runs needs it.",
)
@_relion_options
@util.add_max_workers_option
@util.add_debug_option
def picks(
    config: str | None,
    run_names: tuple[str, ...],
    output_dir: str | None,
    output_file: str | None,
    output_format: str,
    star_layout: str,
    half_sets: str,
    **options: Any,
) -> None:
    """Write picks: motivelists (.em), RELION (.star), Dynamo (.tbl), or CSV.

    STAR files state positions from the centre of the tomogram, in pixels of the tilt series, or both: what is known of all runs.
    """
    from copick.ops.export import export_picks_combined

    if (output_dir is None) == (output_file is None):
        raise click.UsageError("say where to write by --output-dir or by --output-file")
    if star_layout == "import" and (output_file is None or output_format != "star"):
        raise click.UsageError("--star-layout import needs --output-format star and --output-file")
    numbered = output_format in ("em", "dynamo")
    if numbered and options["voxel_size"] is None:
        raise click.UsageError(f"--output-format {output_format} needs --voxel-size")
    if numbered and output_file is not None and options["index_map"] is None:
        raise click.UsageError(f"one {output_format} file of many runs needs --index-map")
    workers, index_map = options.pop("max_workers"), options.pop("index_map")
    options.pop("debug")
    options["run_to_index"] = None if index_map is None else _numbers_of_runs(index_map)
    options["voxel_spacing"] = options.pop("voxel_size")
    options["half_sets"] = None if half_sets == "none" else half_sets
    names = util.resolve_run_names(run_names)
    if output_dir is not None:
        _export("picks", config, output_dir, names, workers, output_format=output_format, **options)
        return
    export_picks_combined(
        project(config),
        output_file or "",
        output_format=output_format,
        run_names=names,
        star_layout=star_layout,
        **options,
    )
    click.echo(f"Wrote {output_file}.")


@export.command()
@util.add_config_option
@util.add_run_names_option
@_uri("--tomogram-uri", "tomogram", "wbp@10.0")
@util.add_export_common_options
@_format("mrc", "tiff", "zarr")
@util.add_pyramid_export_options
@util.add_max_workers_option
@util.add_debug_option
def tomogram(
    config: str | None,
    output_dir: str,
    run_names: tuple[str, ...],
    max_workers: int,
    debug: bool,
    **options: Any,
) -> None:
    """Write tomograms as MRC (float32), TIFF or OME-Zarr."""
    _export("tomograms", config, output_dir, util.resolve_run_names(run_names), max_workers, **options)


@export.command()
@util.add_config_option
@util.add_run_names_option
@_uri("--segmentation-uri", "segmentation", "membrane:alice/*@10.0")
@util.add_export_common_options
@_format("mrc", "tiff", "zarr", "em")
@util.add_pyramid_export_options
@click.option(
    "--channel",
    type=click.Choice(["label", "instance"]),
    help="Of panoptic segmentations, where the format holds one. [default: each has a file of its own]",
)
@util.add_max_workers_option
@util.add_debug_option
def segmentation(
    config: str | None,
    output_dir: str,
    run_names: tuple[str, ...],
    max_workers: int,
    debug: bool,
    **options: Any,
) -> None:
    """Write segmentations as MRC, TIFF, OME-Zarr or EM. Labels keep their values."""
    _export("segmentations", config, output_dir, util.resolve_run_names(run_names), max_workers, **options)


def _numbers_of_runs(index_map: str) -> dict[str, int]:
    from copick.ops.tomolists import read_index_map

    runs = read_index_map(index_map)
    numbers = {run: number for number, run in runs.items()}
    if len(numbers) < len(runs):
        raise click.ClickException(f"--index-map {index_map}: a run stands twice")
    return numbers


def _export(
    what: str, config: str | None, output_dir: str, run_names: list[str] | None, workers: int, **options: Any
) -> None:
    from copick.ops.exports import export_wanted, wanted_of

    results = export_wanted(project(config), output_dir, run_names, workers, wanted_of(**options))
    errors = [error for result in results.values() for error in result["errors"]]
    done = sum(result[what] for result in results.values())
    if not done and not errors:
        raise click.ClickException(f"the project has no such {what}; nothing was written")
    finish(f"Wrote {done} {what}.", errors)
