"""Commands that installed packages add: entry points of the groups `copick.commands` and `copick.GROUP.commands`."""

from __future__ import annotations

import functools
import logging
from importlib.metadata import EntryPoint, entry_points

import click

logger = logging.getLogger(__name__)

PLUGIN_GROUPS = [
    "main",
    "inference",
    "training",
    "evaluation",
    "process",
    "convert",
    "logical",
    "setup",
    "download",
]
"""Where a package can add commands: "main" stands for `copick COMMAND`, the others for `copick GROUP COMMAND`."""


def load_plugin_commands(entry_point: str = "main") -> list[tuple[click.Command, str]]:
    """The commands that packages add to one of PLUGIN_GROUPS, each with the name of its package.

    What cannot be loaded, or is no command, costs a line in the log.
    """
    loaded = [(load(entry), package_of(entry)) for entry in plugin_entries(entry_point)]
    return [(command, package) for command, package in loaded if command is not None]


def get_plugin_command_sources() -> dict[tuple[str, ...], str]:
    """The package of each command that is not copick's own, by its words after `copick`."""
    return {
        (command.name or "",) if group == "main" else (group, command.name or ""): package
        for group in PLUGIN_GROUPS
        for command, package in load_plugin_commands(group)
    }


def plugin_entries(group: str) -> list[EntryPoint]:
    """The entry points of one of PLUGIN_GROUPS, by name. Nothing is imported."""
    name = "copick.commands" if group == "main" else f"copick.{group}.commands"
    return sorted(_installed().select(group=name), key=lambda entry: entry.name)


# Read once: asking for one group reads the metadata of every installed package.
_installed = functools.cache(entry_points)


def package_of(entry: EntryPoint) -> str:
    """The name of the package that an entry point is of."""
    return entry.dist.name if entry.dist is not None else "an unknown package"


@functools.cache
def load(entry: EntryPoint) -> click.Command | None:
    """The command that an entry point stands for; None, and a line in the log, if it is none or fails."""
    where = f"the command {entry.name!r} of {package_of(entry)} ({entry.value})"
    try:
        command = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (importing a plugin may raise anything)
        cause = f"{type(error).__name__}: {error}"
        logger.critical("%s cannot be loaded: %s", where, " ".join(cause.split()))
        return None
    if not isinstance(command, click.Command):
        logger.critical("%s is no click command but a %s", where, type(command).__name__)
        return None
    return command
