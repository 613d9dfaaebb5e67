"""`copick rm`, `copick mv` and `copick cp`: what URIs name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from copick.cli import util
from copick.cli.base import command, finish, project
from copick.cli.types import CopickURI
from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from copick.models import CopickRoot

REMOVED = click.Choice(["picks", "filaments", "mesh", "segmentation", "tomogram", "feature"])
COPIED = click.Choice(["picks", "filaments", "mesh", "segmentation"])

run_option = click.option("-r", "--run", help="The run. [default: all runs]")
workers_option = click.option(
    "-w", "--workers", type=int, default=8, show_default=True, help="How many runs at a time."
)
overwrite_option = click.option(
    "--overwrite/--no-overwrite", default=False, show_default=True, help="Replace targets that are there."
)


@command()
@util.add_config_option
@click.argument("object_type", type=REMOVED)
@click.argument("uri", type=CopickURI("any"))
@run_option
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--force", is_flag=True, help="Needed for patterns; it is no error if nothing is there.")
@workers_option
@util.add_debug_option
def rm(
    config: str | None,
    object_type: Any,
    uri: str,
    run: str | None,
    dry_run: bool,
    force: bool,
    workers: int,
    debug: bool,
) -> None:
    """Remove what a URI names.

    \b
    picks, filaments, mesh   object:user/session
    segmentation             name:user/session@voxel_size
    tomogram                 type@voxel_size
    feature                  type@voxel_size:feature

    A part may be a pattern ("*", "?"), or the whole a regular expression: "re:...". That needs --force, or --dry-run to see
    what it names.
    """
    from copick.ops.manage import is_pattern, remove_copick_objects_batch

    if is_pattern(uri, object_type) and not (force or dry_run):
        raise click.UsageError(
            f"{uri!r} is a pattern; --force removes all it names, --dry-run shows what that is"
        )
    root = project(config)
    results = remove_copick_objects_batch(root, object_type, uri, [run] if run else None, dry_run, workers)
    if not force and not is_pattern(uri, object_type):  # nothing there (any more) is as good as done
        _check_named(results, "objects", root, object_type, uri, run)
    _tell(results, "objects", "deleted", "Would remove" if dry_run else "Removed")


@command()
@util.add_config_option
@click.argument("object_type", type=COPIED)
@click.argument("source_uri", type=CopickURI("any"))
@click.argument("target_uri", type=CopickURI("any", "output"))
@run_option
@overwrite_option
@workers_option
@util.add_debug_option
def mv(config: str | None, run: str | None, workers: int, debug: bool, **uris: Any) -> None:
    """Give what SOURCE_URI names the name TARGET_URI.

    A pattern as source needs placeholders in the target: {object_name}, {name}, {user_id}, {session_id}, {voxel_spacing}.

    \b
    copick mv picks "ribosome:alice/1" "ribosome:alice/2"
    copick mv picks "ribosome:alice/*" "ribosome:bob/{session_id}"
    """
    from copick.ops.manage import move_copick_objects_batch as move

    root = project(config)
    results = move(root, run_names=[run] if run else None, workers=workers, **uris)
    _check_named(results, "mappings", root, uris["object_type"], uris["source_uri"], run)
    _tell(results, "mappings", "moved", "Moved")


@command()
@util.add_config_option
@click.argument("object_type", type=COPIED)
@click.argument("source_uri", type=CopickURI("any"))
@click.argument("target_uri", type=CopickURI("any", "output"))
@run_option
@overwrite_option
@workers_option
@util.add_debug_option
def cp(config: str | None, run: str | None, workers: int, debug: bool, **uris: Any) -> None:
    """Copy what SOURCE_URI names to TARGET_URI, in the same run.

    A pattern as source needs placeholders in the target: {object_name}, {name}, {user_id}, {session_id}, {voxel_spacing}.

    \b
    copick cp picks "ribosome:alice/1" "ribosome:alice/backup"
    copick cp segmentation "*:alice/*@10" "{name}:bob/{session_id}@10"
    """
    from copick.ops.manage import copy_copick_objects_batch as copy

    root = project(config)
    results = copy(root, run_names=[run] if run else None, workers=workers, **uris)
    _check_named(results, "mappings", root, uris["object_type"], uris["source_uri"], run)
    _tell(results, "mappings", "copied", "Copied")


def _check_named(
    results: Mapping[str, Any], lines: str, root: CopickRoot, object_type: str, uri: str, run: str | None
) -> None:
    """Raises ClickException if the URI named nothing at all: it may be misspelt."""
    from copick.util.uri import resolve_copick_objects, serialize_copick_uri

    if any(result is None or result[lines] or result["errors"] for result in results.values()):
        return
    there = {serialize_copick_uri(each) for each in resolve_copick_objects("*", root, object_type, run)}
    where = f"run {run!r}" if run else "the project"
    raise click.ClickException(
        f"nothing in {where} is named by the {object_type} URI {uri!r}{nearest(uri, sorted(there))}"
    )


def _tell(results: Mapping[str, Any], lines: str, count: str, verb: str) -> None:
    """What was done in each run, and what could not be."""
    errors = []
    for run, result in results.items():
        if result is None:
            errors.append(f"{run}: failed")
            continue
        for line in result[lines]:
            click.echo(f"{run}: {line if isinstance(line, str) else ' → '.join(line)}")
        errors += [f"{run}: {error}" for error in result["errors"]]
    total = sum(result[count] for result in results.values() if result)
    finish(f"{verb} {total} object{'' if total == 1 else 's'}.", errors)
