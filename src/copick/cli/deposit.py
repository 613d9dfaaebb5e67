"""`copick deposit`: a folder of links to a project's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from copick.cli import util
from copick.cli.base import command, finish, project
from copick.cli.types import CopickURI

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def _uris(flag: str, object_type: str, example: str) -> Callable[[F], F]:
    return click.option(
        flag,
        type=CopickURI(object_type),
        multiple=True,
        help=f"What to link, such as '{example}'; repeat it for more. [default: none]",
    )


@command()
@util.add_config_option
@click.option(
    "--target-dir", type=click.Path(file_okay=False), required=True, help="Where to make the links."
)
@util.add_run_names_option
@click.option(
    "--run-name-prefix",
    default="",
    help="Put before the names of runs. [default: of runs of the data portal their dataset and name]",
)
@click.option(
    "--run-name-regex", help="Finds the new name of a run in its name: the first group. [default: names stay]"
)
@_uris("--picks", "picks", "ribosome:alice/*")
@_uris("--meshes", "mesh", "membrane:*/*")
@_uris("--segmentations", "segmentation", "membrane:*/*@10.0")
@_uris("--tomograms", "tomogram", "wbp@10.0")
@_uris("--features", "feature", "wbp@10.0:sobel")
@click.option("--max-workers", type=int, default=8, show_default=True, help="How many runs at a time.")
@util.add_debug_option
def deposit(
    config: str | None,
    target_dir: str,
    run_names: tuple[str, ...],
    max_workers: int,
    run_name_prefix: str,
    run_name_regex: str | None,
    debug: bool,
    **uris: Any,
) -> None:
    """Make a folder of links to a project's files, laid out as a project, to be handed on.

    Several projects may be linked into one folder. What is there already stays as it is.
    """
    from copick.ops.deposit import Uris, link_runs

    names = util.resolve_run_names(run_names)
    wanted = Uris.of(*(uris[what] for what in ("picks", "meshes", "segmentations", "tomograms", "features")))
    results = link_runs(
        project(config), target_dir, names, run_name_prefix, run_name_regex, wanted, max_workers
    )
    errors = [error for result in results.values() for error in result["errors"]]
    done = sum(result["processed"] for result in results.values())
    if not done and not errors:
        raise click.ClickException("the project has nothing of what these URIs name; nothing was linked")
    finish(f"Linked {done} items.", errors)
