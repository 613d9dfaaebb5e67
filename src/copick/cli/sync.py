"""`copick sync`: from project to project."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import click

from copick.cli import util
from copick.cli.base import check_objects, finish, group, project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from copick.models import CopickRoot

F = TypeVar("F", bound="Callable[..., Any]")


def _list(name: str, what: str) -> Callable[[F], F]:
    return click.option(f"--{name}", default="", help=f"{what}, separated by commas. [default: all]")


def _mapping(name: str, what: str) -> Callable[[F], F]:
    return click.option(f"--{name}", default="", help=f"What {what} are called in the target: 'a:b,c:d'.")


def _first_options(function: F) -> F:
    target = click.option(
        "--target-config", type=click.Path(exists=True), required=True, help="The other project's config."
    )
    for option in (
        _mapping("target-runs", "runs"),
        _list("source-runs", "Runs"),
        target,
        util.add_config_option,
    ):
        function = option(function)
    return function


def _last_options(function: F) -> F:
    ok = click.option(
        "--exist-ok/--no-exist-ok", default=False, show_default=True, help="Replace what the target has."
    )
    log = click.option("--log/--no-log", default=False, show_default=True, help="Name each copy.")
    for option in (util.add_debug_option, log, util.add_max_workers_option, ok):
        function = option(function)
    return function


def _annotation_options(function: F) -> F:
    for option in (
        _last_options,
        _mapping("target-users", "users"),
        _list("source-users", "Users"),
        _mapping("target-objects", "objects"),
        _list("source-objects", "Objects"),
        _first_options,
    ):
        function = option(function)
    return function


@group()
def sync() -> None:
    """Copy what one project holds into another.

    Objects that the target lacks are added to its config.
    """


@sync.command()
@_annotation_options
def picks(**options: Any) -> None:
    """Copy picks."""
    from copick.ops.get import get_picks
    from copick.ops.sync import sync_picks

    _sync(sync_picks, get_picks, options)


@sync.command()
@_annotation_options
def filaments(**options: Any) -> None:
    """Copy filaments."""
    from copick.ops.get import get_filaments
    from copick.ops.sync import sync_filaments

    _sync(sync_filaments, get_filaments, options)


@sync.command()
@_annotation_options
def meshes(**options: Any) -> None:
    """Copy meshes."""
    from copick.ops.get import get_meshes
    from copick.ops.sync import sync_meshes

    _sync(sync_meshes, get_meshes, options)


@sync.command()
@_first_options
@_list("voxel-spacings", "Voxel sizes in ångström")
@_list("source-names", "Names")
@_mapping("target-names", "segmentations")
@_list("source-users", "Users")
@_mapping("target-users", "users")
@click.option(
    "--segmentation-type",
    type=click.Choice(["binary", "multilabel", "instance", "panoptic", "all"]),
    help="[default: binary and multilabel]",
)
@_last_options
def segmentations(segmentation_type: str | None, **options: Any) -> None:
    """Copy segmentations. Labels keep their values."""
    from copick.ops.get import get_segmentations
    from copick.ops.sync import sync_segmentations
    from copick.util.segmentation import segmentation_type_query

    _sync(sync_segmentations, get_segmentations, options, **segmentation_type_query(segmentation_type))


@sync.command()
@_first_options
@_list("voxel-spacings", "Voxel sizes in ångström")
@_list("source-tomo-types", "Types of tomograms")
@_mapping("target-tomo-types", "types of tomograms")
@_last_options
def tomograms(**options: Any) -> None:
    """Copy tomograms, without their features."""
    from copick.ops.sync import sync_tomograms

    _sync(sync_tomograms, None, options)


def _sync(
    copy: Callable[..., Any], find: Callable[..., Any] | None, options: dict[str, Any], **types: Any
) -> None:
    source, target = project(options.pop("config")), project(config := options.pop("target_config"))
    options.pop("debug")
    said: dict[str, Any] = {}
    for name, value in options.items():
        if name == "voxel_spacings":
            said[name] = _numbers(value)
        elif name.startswith("target_"):
            said[name] = _parse_mapping(f"--{name.replace('_', '-')}", value)
        else:
            said[name] = _parse_list(value) if name.startswith("source_") else value
    check_objects(source, said.get("source_objects") or (), "--source-objects")
    if find is not None:
        found = find(
            source,
            said["source_runs"],
            user_id=said["source_users"],
            **({"name": said["source_names"], "voxel_size": said["voxel_spacings"]} if types else {}),
            **({} if types else {"object_name": said["source_objects"]}),
            **types,
        )
        names = {getattr(each, "pickable_object_name", None) or each.name for each in found}
        renamed = said.get("target_objects") or said.get("target_names") or {}
        if _declare(source, target, names, renamed):
            target.save_config(config)
    log = logging.getLogger(copy.__module__)
    log.addFilter(_not_reported)
    try:
        results = copy(source, target, **said, **types)
    finally:
        log.removeFilter(_not_reported)
    errors = [error for result in results.values() for error in result["errors"]]
    chosen = [
        f"--{name.replace('_', '-')} {','.join(map(str, said[name]))}"
        for name in said
        if said[name] and (name.startswith("source_") or name == "voxel_spacings")
    ]
    if chosen and not errors and not any(result["processed"] for result in results.values()):
        raise click.ClickException(f"the source has nothing of {' '.join(chosen)}; nothing was copied")
    finish(f"Copied {sum(result['processed'] for result in results.values())} items.", errors)


def _not_reported(record: logging.LogRecord) -> bool:
    """The end of the command says what the report of the function would."""
    return record.funcName != "report_results"


def _declare(
    source: CopickRoot, target: CopickRoot, names: Iterable[str], renamed: Mapping[str, str]
) -> bool:
    """Give the target the objects that it lacks, with their labels where these are free. Whether it lacked any."""
    lacking = [
        item
        for item in source.pickable_objects
        if item.name in names and target.get_object(renamed.get(item.name, item.name)) is None
    ]
    for item in lacking:
        fields = item.meta.model_dump()
        taken = {other.label for other in target.pickable_objects}
        label = None if item.label in taken else item.label
        target.new_object(**{**fields, "name": renamed.get(item.name, item.name), "label": label})
    return bool(lacking)


def _parse_list(text: str) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] or None


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in _parse_list(text) or []] or None
    except ValueError:
        raise click.UsageError(f"--voxel-spacings {text!r}: expected numbers, separated by commas") from None


def _parse_mapping(flag: str, text: str) -> dict[str, str] | None:
    found = {}
    for part in _parse_list(text) or []:
        old, colon, new = (piece.strip() for piece in part.partition(":"))
        if not (old and colon and new):
            raise click.UsageError(f"{flag} {text!r}: expected 'old:new', separated by commas")
        found[old] = new
    return found or None
