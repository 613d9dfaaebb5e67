"""What copick's own commands share: a project to work on, and failures as one line of text."""

from __future__ import annotations

import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

import click

from copick.errors import CopickError
from copick.util.log import get_logger
from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from copick.models import CopickRoot


class CoreCommand(click.Command):
    """Says in one line what went wrong; with --debug also where."""

    def invoke(self, ctx: click.Context) -> Any:
        get_logger("copick", debug=bool(ctx.params.get("debug")))
        with warnings.catch_warnings():
            warnings.showwarning = _warned
            try:
                return super().invoke(ctx)
            except (CopickError, OSError, ValueError, ImportError) as error:
                if ctx.params.get("debug"):
                    logging.getLogger(__name__).debug("failed", exc_info=error)
                raise click.ClickException(in_flags(str(error) or type(error).__name__, ctx)) from error


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """Shows a warning without the line of code that it is from."""
    click.secho(f"copick: {message}", fg="yellow", err=True)


_ALSO = {
    "exist_ok": ("overwrite",),
    "voxel_spacing": ("voxel_size",),
    "file_type": ("volume_format",),
    "run_to_index": ("index_map",),
}
"""What parameters of functions are called where a command has them under another name."""
_PARAMETER = re.compile(r"\b([a-z]+(?:_[a-z]+)+)(=True(?: to get it)?|=(?=[,. ]))?")


def in_flags(text: str, ctx: click.Context) -> str:
    """An error's text with the parameters that it tells of called as the command's flags."""
    flags = {option.name: max(option.opts, key=len) for option in ctx.command.params}

    def flag(found: re.Match[str]) -> str:
        names = (found[1], *_ALSO.get(found[1], ()))
        return next((flags[name] for name in names if flags.get(name, "").startswith("--")), found[0])

    return _PARAMETER.sub(flag, text)


class CoreGroup(click.Group):
    """A group of such commands."""

    command_class = CoreCommand


def command(name: str | None = None) -> Callable[[Callable[..., Any]], CoreCommand]:
    """Make a command of a function."""
    return click.command(name, cls=CoreCommand)


def group(name: str | None = None) -> Callable[[Callable[..., Any]], CoreGroup]:
    """Make a group of commands of a function."""
    return click.group(name, cls=CoreGroup)


def project(config: str | None, *, cache: str | None = None) -> CopickRoot:
    """The project of a command, `cache`: read through that folder. Raises UsageError if none is named, or ConfigError."""
    if config is None:
        raise click.UsageError("name the project: --config FILE, or COPICK_CONFIG in the environment")
    from copick import from_file

    return from_file(config, cache=cache)


def check_objects(root: CopickRoot, names: Iterable[str], flag: str) -> None:
    """Raises ClickException for a name that no object of the project has."""
    known = [item.name for item in root.pickable_objects]
    for name in names:
        if name not in known:
            raise click.ClickException(
                f"{flag}: the project has no object {name!r}{nearest(name, known)}; it has {', '.join(known) or 'none'}"
            )


def finish(done: str, errors: Iterable[str]) -> None:
    """End a command that did `done`: fail if there were errors, which are shown."""
    context = click.get_current_context()
    failed = [in_flags(line, context) for line in errors]
    for line in failed:
        click.secho(" ".join(line.split()), fg="red", err=True)
    click.echo(done)
    if failed:
        raise click.ClickException(
            f"{len(failed)} of them could not be done" if len(failed) > 1 else "one failed"
        )
