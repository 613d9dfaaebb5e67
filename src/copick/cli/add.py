"""`copick add`: tomograms and segmentations from files. Its other commands are in `add_picks` and `add_object`."""

from __future__ import annotations

import glob
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar

import click

from copick.cli import util
from copick.cli.base import finish, group, project
from copick.errors import CopickError, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from copick.models import CopickRoot

F = TypeVar("F", bound="Callable[..., Any]")

VOLUMES = click.Choice(["mrc", "zarr", "tiff", "em"])
BY_NAME = "[default: as the file's name says]"

file_type_option = click.option("--file-type", type=VOLUMES, help=f"The format. {BY_NAME}")
tomo_type_option = click.option(
    "--tomo-type", default="wbp", show_default=True, help="What the tomogram is called."
)


def voxel_size_option(text: str, required: bool = False) -> Callable[[F], F]:
    """`voxel_size`."""
    return click.option("--voxel-size", type=float, required=required, help=text)


HEADER = "Voxel size in ångström. [default: as the file says]"


@group()
def add() -> None:
    """Add entities to copick projects."""


# Volumes


@add.command()
@util.add_config_option
@click.argument("path")
@util.add_run_options
@tomo_type_option
@file_type_option
@voxel_size_option(HEADER)
@util.add_pyramid_create_options
@util.add_volume_transform_options
@util.add_create_overwrite_options
@util.add_max_workers_option
@util.add_debug_option
def tomogram(config: str | None, path: str, **options: Any) -> None:
    """Add tomograms to the project.

    PATH is an MRC, TIFF, EM or OME-Zarr file, or a glob pattern of such files: one per run.
    """
    root = project(config)
    _import_volumes(root, runs_of(path, options), options)


@add.command("tomograms-dynamo")
@util.add_config_option
@click.option(
    "--tomolist",
    type=click.Path(exists=True, dir_okay=False),
    required=True,
    help="A number and a file per line.",
)
@click.option(
    "--index-map",
    type=click.Path(exists=True, dir_okay=False),
    help="A number and a run per line. [default: runs are called as the files]",
)
@tomo_type_option
@file_type_option
@voxel_size_option(HEADER)
@util.add_pyramid_create_options
@util.add_volume_transform_options
@util.add_create_overwrite_options
@util.add_max_workers_option
@util.add_debug_option
def tomograms_dynamo(config: str | None, tomolist: str, index_map: str | None, **options: Any) -> None:
    """Add the tomograms of a Dynamo tomolist."""
    from copick.ops.tomolists import read_dynamo_tomolist, read_index_map, runs_of_tomolist

    root = project(config)
    files = read_dynamo_tomolist(tomolist)
    runs = read_index_map(index_map) if index_map else runs_of_tomolist(files)
    missing = [number for number in files if number not in runs]
    if missing:
        raise FormatError(f"{index_map}: has no run for tomogram {missing[0]}")
    _import_volumes(root, {runs[number]: file for number, file in files.items()}, options)


@add.command("tomograms-relion")
@util.add_config_option
@click.option(
    "--tomograms-star", type=click.Path(exists=True, dir_okay=False), required=True, help="RELION's list."
)
@click.option(
    "--base-dir",
    type=click.Path(exists=True, file_okay=False),
    required=True,
    help="The RELION project, which the paths in the list are relative to.",
)
@click.option(
    "--half",
    type=click.Choice(["half1", "half2"]),
    default="half1",
    show_default=True,
    help="Which reconstruction.",
)
@tomo_type_option
@file_type_option
@voxel_size_option("Voxel size in ångström. [default: as the list says]")
@util.add_pyramid_create_options
@util.add_volume_transform_options
@util.add_create_overwrite_options
@util.add_max_workers_option
@util.add_debug_option
def tomograms_relion(
    config: str | None, tomograms_star: str, base_dir: str, half: str, **options: Any
) -> None:
    """Add the tomograms of a RELION tomograms.star, to runs named as there."""
    from copick.ops.tomolists import read_relion_reconstructions

    root = project(config)
    found = read_relion_reconstructions(tomograms_star, half, base_dir)
    sizes = {name: size for name, (_, size) in found.items()}
    _import_volumes(root, {name: file for name, (file, _) in found.items()}, options, sizes)


@add.command()
@util.add_config_option
@click.argument("path")
@util.add_run_options
@voxel_size_option(HEADER)
@click.option(
    "--name", required=True, help="An object of the project; any name for multilabel and panoptic ones."
)
@util.add_user_session_options
@file_type_option
@click.option(
    "--segmentation-type",
    type=click.Choice(["multilabel", "binary", "instance", "panoptic"]),
    default="multilabel",
    show_default=True,
    help="What the voxels are: labels of objects, 1 inside the object, ids of its instances, or (2, z, y, x): labels and ids.",
)
@util.add_volume_transform_options
@util.add_create_overwrite_options
@util.add_max_workers_option
@util.add_debug_option
def segmentation(
    config: str | None,
    path: str,
    name: str,
    user_id: str,
    session_id: str,
    segmentation_type: str,
    **options: Any,
) -> None:
    """Add segmentations to the project.

    PATH is an MRC, TIFF, EM or OME-Zarr file, or a glob pattern of such files: one per run.
    """
    from copick.ops.add import add_segmentation_from_file

    root = project(config)
    flags = {flag: segmentation_type == flag for flag in ("multilabel", "instance", "panoptic")}

    def import_one(run: str, file: str) -> None:
        add_segmentation_from_file(
            root,
            run,
            file,
            options["voxel_size"],
            name,
            user_id,
            session_id,
            options["file_type"],
            transpose=options["transpose"],
            flip=options["flip"],
            create=options["create"],
            overwrite=options["overwrite"],
            log=True,
            **flags,
        )

    import_files(
        root,
        runs_of(path, options),
        import_one,
        options["max_workers"],
        "segmentations",
    )


def _import_volumes(
    root: CopickRoot,
    files: Mapping[str, str],
    options: Mapping[str, Any],
    sizes: Mapping[str, float] | None = None,
) -> None:
    from copick.ops.add import add_tomogram_from_file

    try:
        z, y, x = (int(part) for part in options["chunk_size"].split(","))
    except ValueError:
        raise click.UsageError(
            f"--chunk-size {options['chunk_size']!r}: expected three numbers, as 256,256,256"
        ) from None

    def import_one(run: str, file: str) -> None:
        size = options["voxel_size"]
        add_tomogram_from_file(
            root,
            run,
            options["tomo_type"],
            file,
            size if size is not None else (sizes or {}).get(run),
            options["file_type"],
            options["create_pyramid"],
            options["pyramid_levels"],
            (z, y, x),
            options["transpose"],
            options["flip"],
            create=options["create"],
            overwrite=options["overwrite"],
            log=True,
        )

    import_files(root, files, import_one, options["max_workers"], "tomograms")


def runs_of(path: str, options: Mapping[str, Any]) -> dict[str, str]:
    """The file of each run. Raises ClickException if there is none."""
    from copick.util.path_util import runs_of_paths

    files = files_of(path)
    name = options["run"] if files == [path] else ""
    found = runs_of_paths(files, name, options["run_regex"], options["run_name_prefix"])
    if not found:
        raise click.ClickException(
            f"--run-regex {options['run_regex']!r} finds no run in the name of any file, such as {files[0]!r}"
        )
    return found


def files_of(path: str) -> list[str]:
    """A file, or the files of a glob pattern. Raises ClickException if there is none."""
    if glob.has_magic(path) and not os.path.exists(path):
        files = sorted(glob.glob(path))
        if not files:
            raise click.ClickException(f"no file is called as {path!r} says")
        return files
    if "://" not in path and not os.path.exists(path):
        raise click.ClickException(f"there is no file {path!r}")
    return [path]


def import_files(
    root: CopickRoot,
    files: Mapping[str, str],
    import_one: Callable[[str, str], None],
    workers: int,
    what: str,
) -> None:
    """Import a file into each run, which is made when its file was read, and say what came of it."""
    from copick.util.progress import Progress

    def attempt(run: str, file: str) -> str:
        try:
            import_one(run, file)
        except (CopickError, OSError, ValueError, ImportError) as error:
            text = str(error)
            return text if text.startswith(file) else f"{file}: {text}"
        return ""

    if workers < 1:
        raise click.UsageError(f"--max-workers {workers}: expected 1 or more")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="copick-add")
    try:
        flights = [pool.submit(attempt, run, file) for run, file in files.items()]
        with Progress(f"Adding {what}", len(flights)) as progress:
            for _ in as_completed(flights):
                progress.step()
    finally:
        pool.shutdown(cancel_futures=True)
    errors = [error for flight in flights if (error := flight.result())]
    finish(f"Added {what} to {len(files) - len(errors)} of {len(files)} runs.", errors)
