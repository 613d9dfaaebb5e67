"""`copick add picks` and its kin: picks from files of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from copick.cli import util
from copick.cli.add import BY_NAME, add, files_of, import_files, runs_of, voxel_size_option
from copick.cli.base import finish, project
from copick.errors import CopickError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from copick.models import CopickRoot

object_option = click.option("--object-name", required=True, help="The object that was picked.")
tomograms_star_option = click.option(
    "--tomograms-star",
    type=click.Path(exists=True, dir_okay=False),
    help="STAR: RELION's tomograms.star, for the pixel sizes and centres of the tomograms.",
)
pixel_size_option = click.option(
    "--tilt-series-pixel-size",
    type=float,
    help="STAR: ångström per pixel of the tilt series. [default: as the file says]",
)

PIXELS = "Ångström per pixel of the positions."


@add.command()
@util.add_config_option
@click.argument("path")
@util.add_run_options
@object_option
@util.add_user_session_options
@voxel_size_option(
    f"{PIXELS} EM and Dynamo files need it; STAR files if nothing says the tilt series' pixel size."
)
@pixel_size_option
@tomograms_star_option
@click.option(
    "--file-type", type=click.Choice(["em", "star", "dynamo", "csv"]), help=f"The format. {BY_NAME}"
)
@util.add_max_workers_option
@util.add_create_overwrite_options
@util.add_debug_option
def picks(config: str | None, path: str, **options: Any) -> None:
    """Add picks of other programs: motivelists (.em), RELION (.star), Dynamo (.tbl), or CSV.

    PATH is a file, or a glob pattern of files, one per run. CSV files name the runs themselves, in a column run_name.
    """
    from copick.ops.add import add_picks_from_file
    from copick.ops.poses import format_of

    root = project(config)
    files = files_of(path)
    grouped = [file for file in files if format_of(file, options["file_type"]) == "csv" and _names_runs(file)]
    if grouped and not options["run"]:
        _import_grouped(root, grouped, options)
        files = [file for file in files if file not in grouped]
        if not files:
            return

    def import_one(run: str, file: str) -> None:
        add_picks_from_file(
            root,
            run,
            file,
            options["object_name"],
            options["user_id"],
            options["session_id"],
            options["voxel_size"],
            options["file_type"],
            options["create"],
            overwrite=options["overwrite"],
            log=True,
            tilt_series_pixel_size=options["tilt_series_pixel_size"],
            tomograms_star=options["tomograms_star"],
        )

    runs = runs_of(path, options)
    wanted = {run: file for run, file in runs.items() if file in files}
    import_files(root, wanted, import_one, options["max_workers"], "picks")


def _names_runs(path: str) -> bool:
    """Whether a CSV file has a column of run names."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return "run_name" in [name.strip() for name in file.readline().split(",")]


INDEX_MAP = "The run of each tomogram: a number and a run per line."


@add.command("picks-em")
@util.add_config_option
@click.argument("path")
@object_option
@util.add_user_session_options
@voxel_size_option(PIXELS, required=True)
@click.option("--index-map", type=click.Path(exists=True, dir_okay=False), required=True, help=INDEX_MAP)
@click.option(
    "--tomo-index-row",
    type=click.IntRange(0, 19),
    default=4,
    show_default=True,
    help="Which of the 20 numbers of a particle, from 0, is that of its tomogram.",
)
@util.add_max_workers_option
@util.add_create_overwrite_options
@util.add_debug_option
def picks_em(config: str | None, path: str, index_map: str, **options: Any) -> None:
    """Add picks from motivelists of many tomograms. PATH is a file or a glob pattern."""
    from copick.ops.tomolists import read_index_map

    _import_grouped(
        project(config),
        files_of(path),
        {**options, "file_type": "em"},
        index_to_run=read_index_map(index_map),
    )


@add.command("picks-dynamo")
@util.add_config_option
@click.argument("path")
@object_option
@util.add_user_session_options
@voxel_size_option(PIXELS, required=True)
@click.option("--index-map", type=click.Path(exists=True, dir_okay=False), help=INDEX_MAP)
@click.option(
    "--tomolist",
    type=click.Path(exists=True, dir_okay=False),
    help="Or Dynamo's list of tomograms; runs are called as its files.",
)
@util.add_max_workers_option
@util.add_create_overwrite_options
@util.add_debug_option
def picks_dynamo(
    config: str | None, path: str, index_map: str | None, tomolist: str | None, **options: Any
) -> None:
    """Add picks from Dynamo tables of many tomograms. PATH is a file or a glob pattern."""
    from copick.ops.tomolists import read_dynamo_tomolist, read_index_map, runs_of_tomolist

    if (index_map is None) == (tomolist is None):
        raise click.UsageError("say the runs by --index-map or by --tomolist")
    root = project(config)
    runs = read_index_map(index_map) if index_map else runs_of_tomolist(read_dynamo_tomolist(tomolist or ""))
    _import_grouped(root, files_of(path), {**options, "file_type": "dynamo"}, index_to_run=runs)


@add.command("picks-relion")
@util.add_config_option
@click.argument("path")
@object_option
@util.add_user_session_options
@voxel_size_option(f"{PIXELS} Only if nothing says the tilt series' pixel size.")
@tomograms_star_option
@pixel_size_option
@click.option(
    "--relion-version",
    type=click.Choice(["auto", "relion4", "relion5"]),
    default="auto",
    show_default=True,
    help="relion5: take centred positions alone; relion4: pixels alone.",
)
@util.add_max_workers_option
@util.add_create_overwrite_options
@util.add_debug_option
def picks_relion(config: str | None, path: str, tomograms_star: str | None, **options: Any) -> None:
    """Add picks from STAR files whose particles name their tomograms. PATH is a file or a glob pattern."""
    from copick.ops.poses import read_relion_tomograms

    tomograms = read_relion_tomograms(tomograms_star) if tomograms_star else None
    _import_grouped(
        project(config),
        files_of(path),
        {**options, "file_type": "star"},
        tomograms=tomograms,
        relion_version=options["relion_version"],
    )


def _import_grouped(root: CopickRoot, files: Sequence[str], options: Mapping[str, Any], **more: Any) -> None:
    """Import files that say themselves which picks are whose."""
    from copick.ops.add import add_picks_grouped_from_file

    known = {name: options[name] for name in ("tomo_index_row", "tilt_series_pixel_size") if name in options}
    runs, errors = 0, []
    for file in files:
        try:
            added = add_picks_grouped_from_file(
                root,
                file,
                options["object_name"],
                options["user_id"],
                options["session_id"],
                options["voxel_size"],
                file_type=options["file_type"],
                create=options["create"],
                overwrite=options["overwrite"],
                log=True,
                **known,
                **more,
            )
            runs += len(added)
        except (CopickError, OSError, ValueError) as error:
            errors.append(f"{file}: {error}")
    finish(f"Added picks to {runs} runs.", errors)
