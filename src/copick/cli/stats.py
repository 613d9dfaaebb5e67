"""`copick stats`: how much of what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import click

from copick.cli import util
from copick.cli.base import check_objects, group, project

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

F = TypeVar("F", bound="Callable[..., Any]")


def _shared_options(function: F) -> F:
    for option in reversed(
        (
            util.add_config_option,
            util.add_run_names_option,
            util.add_deprecated_run_alias("--runs"),
            click.option("--user-id", multiple=True, help="Only of this user; repeat it for more."),
            click.option("--session-id", multiple=True, help="Only of this session; repeat it for more."),
        )
    ):
        function = option(function)
    return function


def _output_options(function: F) -> F:
    for option in reversed(
        (
            click.option(
                "--parallel/--no-parallel", default=True, show_default=True, help="Many runs at a time."
            ),
            click.option(
                "--workers", type=int, default=8, show_default=True, help="How many runs at a time."
            ),
            click.option(
                "--output", type=click.Choice(["table", "json"]), default="table", show_default=True
            ),
            util.add_debug_option,
        )
    ):
        function = option(function)
    return function


@group()
def stats() -> None:
    """Count what a project holds."""


@stats.command()
@_shared_options
@click.option("--object-name", multiple=True, help="Only of this object; repeat it for more.")
@_output_options
def picks(**options: Any) -> None:
    """Count picks."""
    from copick.ops.stats import picks_stats

    _count(picks_stats, "Picks", options)


@stats.command()
@_shared_options
@click.option("--object-name", multiple=True, help="Only of this object; repeat it for more.")
@_output_options
def meshes(**options: Any) -> None:
    """Count meshes."""
    from copick.ops.stats import meshes_stats

    _count(meshes_stats, "Meshes", options)


@stats.command()
@_shared_options
@click.option("--name", multiple=True, help="Only of this name; repeat it for more.")
@click.option(
    "--voxel-size", type=float, multiple=True, help="Only of this size in ångström; repeat it for more."
)
@click.option(
    "--multilabel/--no-multilabel", "is_multilabel", default=None, help="Only (or no) multilabel ones."
)
@click.option(
    "--segmentation-type",
    type=click.Choice(["binary", "multilabel", "instance", "panoptic", "all"]),
    help="[default: binary and multilabel]",
)
@_output_options
def segmentations(segmentation_type: str | None, is_multilabel: bool | None, **options: Any) -> None:
    """Count segmentations."""
    from copick.ops.stats import segmentations_stats
    from copick.util.segmentation import segmentation_type_query

    types = segmentation_type_query(segmentation_type)
    if is_multilabel is not None:
        types["is_multilabel"] = is_multilabel
    _count(segmentations_stats, "Segmentations", {**options, **types})


def _count(function: Callable[..., dict[str, Any]], title: str, options: dict[str, Any]) -> None:
    root = project(options.pop("config"))
    runs = util.resolve_run_names(
        options.pop("run_names"), options.pop("legacy_run_names"), legacy_flag="--runs"
    )
    output, _ = options.pop("output"), options.pop("debug")
    check_objects(root, options.get("object_name") or (), "--object-name")
    filters = {
        name: value for name, value in options.items() if value not in ((), None) or name.startswith("is_")
    }
    found = function(root, runs, **filters)
    click.echo(json.dumps(found, indent=2) if output == "json" else _table(title, found))


def _table(title: str, found: Mapping[str, Any]) -> str:
    lines = [title]
    for key, value in found.items():
        words = key.replace("_", " ")
        if isinstance(value, dict):
            lines += ["", f"{words.removeprefix('distribution ').capitalize()}:"]
            counts = sorted(value.items(), key=lambda item: (-item[1], str(item[0])))
            lines += [f"  {name}: {count}" for name, count in counts] or ["  none"]
        else:
            lines.append(f"{words.capitalize()}: {value}")
    return "\n".join(lines)
