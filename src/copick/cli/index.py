"""`copick index`, `copick search`, `copick find`: what a project holds, from its index if it has one."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from copick.cli import util
from copick.cli.base import command, group, project

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from copick.models import CopickRoot

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_workers = click.option(
    "--workers", type=click.IntRange(1), default=8, show_default=True, help="How many runs at a time."
)
_types = click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="runs, tomograms, picks, ...; repeat it. [default: all]",
)
_limit = click.option("--limit", type=click.IntRange(1), help="At most so many of each type.")


@group()
def index() -> None:
    """Keep the index of a project."""


def _command(help: str) -> Callable[[Callable[..., None]], click.Command]:
    def decorate(function: Callable[..., None]) -> click.Command:
        for option in (util.add_debug_option, _json, util.add_config_option):
            function = option(function)
        function.__doc__ = help
        return index.command()(function)

    return decorate


@_command("Make the index anew: everything is read.")
@_workers
def build(config: str | None, workers: int, as_json: bool, debug: bool) -> None:
    _update(project(config), True, workers, as_json)


@_command("Bring the index up to date: what has changed is read.")
@_workers
@click.option("--layer", help="Only this layer.")
def update(config: str | None, workers: int, layer: str | None, as_json: bool, debug: bool) -> None:
    _update(project(config), False, workers, as_json, layer)


@_command("Show what the index knows of each layer.")
def status(config: str | None, as_json: bool, debug: bool) -> None:
    from copick.models.search import needed_index

    root = project(config)
    found = {"db_path": str(needed_index(root).database.path), "layers": root.layer_status()}
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(found["db_path"])
    for name, known in root.layer_status().items():
        scanned = known["scanned_at"]
        when = "never" if scanned is None else f"{datetime.fromtimestamp(scanned, UTC):%Y-%m-%d %H:%M:%S} UTC"
        line = f"  {name}: {known['entities']} entities, looked at {when}"
        click.echo(line + (f"; {known['problem']}" if known["problem"] else ""))


def _update(root: CopickRoot, full: bool, workers: int, as_json: bool, layer: str | None = None) -> None:
    from copick.models.search import needed_index

    needed_index(root)
    began = time.monotonic()
    if layer is None:
        found = root.index_all_layers(full=full, workers=workers)
    else:
        found = {layer: root.index_layer(layer, full=full, workers=workers)}
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, counts in found.items():
        shown = ", ".join(
            f"{count} {_words(each)}" for each, count in counts.items() if count and each != "objects"
        )
        click.echo(f"{name}: {shown or 'nothing'}")
    click.echo(f"Done in {time.monotonic() - began:.1f} s.")


@command()
@click.argument("text")
@util.add_config_option
@_types
@_limit
@_json
@util.add_debug_option
def search(
    text: str, config: str | None, types: tuple[str, ...], limit: int | None, as_json: bool, debug: bool
) -> None:
    """Find what has all words of TEXT; beginnings of words are enough."""
    _show(project(config).search(text, types or None, limit=limit), as_json)


@command()
@click.argument("criteria", nargs=-1, metavar="[FIELD=VALUE]...")
@util.add_config_option
@_types
@_limit
@_json
@util.add_debug_option
def find(
    criteria: tuple[str, ...],
    config: str | None,
    types: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Find what has these fields; a field that is given twice may have either value.

    \b
    copick find user_id=alice object_name=ribosome point_count_min=100
    copick find --type tomograms voxel_size=10 layer=archive metadata.deposition_id=10301
    """
    found = project(config).find_objects(types or None, limit=limit, **_criteria(criteria))
    _show(found, as_json)


_OPTIONS = {
    "limit": "use --limit",
    "object_types": "use --type",
    "layers": "use layer=NAME for what a layer holds",
    "having": "only Python can ask for that",
    "metadata": "use metadata.KEY=VALUE",
}
"""Arguments of `find_objects` that are no fields."""


def _criteria(given: tuple[str, ...]) -> dict[str, Any]:
    """FIELD=VALUE arguments as keywords of `find_objects`. Raises UsageError."""
    found: dict[str, Any] = {}
    metadata: dict[str, list[Any]] = {}
    for text in given:
        field, mark, value = text.partition("=")
        if not mark or not field:
            raise click.UsageError(f"{text!r}: expected FIELD=VALUE")
        if field in _OPTIONS:
            raise click.UsageError(f"{text!r}: that is no field; {_OPTIONS[field]}")
        if field.startswith("metadata."):
            metadata.setdefault(field.partition(".")[2], []).extend({value, _value(value)})
        elif field.endswith(("_min", "_max")):
            found[field] = _value(value)
        else:
            found.setdefault(field, []).extend({value, _value(value)})
    return {**found, **({"metadata": metadata} if metadata else {})}


def _value(text: str) -> Any:
    """A number or a truth value if the text is one."""
    known = {"true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    try:
        return float(text)
    except ValueError:
        return text


def _show(found: Mapping[str, list[Any]], as_json: bool) -> None:
    if as_json:
        click.echo(
            json.dumps({name: [_fields(item) for item in items] for name, items in found.items()}, indent=2)
        )
        return
    for name, items in found.items():
        if items:
            click.echo(f"{_words(name).capitalize()}:")
        for item in items:
            fields = _fields(item)
            click.echo("  " + ", ".join(f"{field}={value}" for field, value in fields.items()))
    if not any(found.values()):
        click.echo("Nothing found.")


def _fields(item: Any) -> dict[str, Any]:
    """What tells a thing from others, from its run down."""
    found: dict[str, Any] = {}
    for ref in item.ref.walk():
        values = zip(ref.kind.identity, ref.values, strict=True)
        found.update({"run" if ref.kind.name == "run" else field: value for field, value in values})
    return found


def _words(name: str) -> str:
    return name.replace("_", " ")
