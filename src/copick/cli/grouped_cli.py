"""Groups of commands: with sections in their help, and with commands of plugins, which are imported when they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from copick.cli.ext import load, package_of, plugin_entries

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence
    from importlib.metadata import EntryPoint

OTHER = "Other Commands"


class GroupedCommandGroup(click.Group):
    """A group whose help shows its commands in sections.

    Args:
        command_categories: Sections and the names of their commands; the rest comes under "Other Commands".
        plugins: One of `copick.cli.ext.PLUGIN_GROUPS`: commands of plugins join the group. A plugin is imported when its
            command is run, or asked about; `commands` has all of them.
    """

    def __init__(
        self,
        *args: Any,
        command_categories: Mapping[str, Sequence[str]] | None = None,
        plugins: str | None = None,
        **options: Any,
    ) -> None:
        self.command_categories = dict(command_categories or {})
        self.plugins = plugins
        self._waiting: dict[str, EntryPoint] | None = None
        super().__init__(*args, **options)

    @property
    def commands(self) -> MutableMapping[str, click.Command]:
        """Every command by name, plugins' included."""
        for name in [*self._plugins_waiting()]:
            self._load(name)
        return self._loaded

    @commands.setter
    def commands(self, commands: MutableMapping[str, click.Command]) -> None:
        self._loaded = commands

    def _plugins_waiting(self) -> dict[str, EntryPoint]:
        """Entry points that are not loaded yet, by name."""
        if self.plugins is None:
            return {}
        if self._waiting is None:
            self._waiting = {entry.name: entry for entry in plugin_entries(self.plugins)}
        return self._waiting

    def _load(self, name: str) -> click.Command | None:
        command = load(self._plugins_waiting().pop(name))
        if command is not None:  # copick's own commands are never replaced
            self._loaded.setdefault(command.name or name, command)
        return command

    def list_commands(self, ctx: click.Context) -> list[str]:
        if ctx.parent is None:  # the help of `copick` itself imports nothing
            return sorted({*self._loaded, *self._plugins_waiting()})
        return sorted(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._loaded and cmd_name in self._plugins_waiting():
            return self._load(cmd_name)
        # A command may be called otherwise than its entry point.
        return self._loaded.get(cmd_name) or self.commands.get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self.has_commands():
            formatter.write_paragraph()
            formatter.write_text("No package that is installed adds commands here.")
        rows = {name: self._row(name) for name in self.list_commands(ctx)}
        shown = {name: text for name, text in rows.items() if text is not None}
        sections = {
            title: [name for name in sorted(names) if name in shown]
            for title, names in self.command_categories.items()
        }
        placed = {name for names in sections.values() for name in names}
        sections[OTHER if placed else "Commands"] = [name for name in shown if name not in placed]
        for title, names in sections.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, shown[name]) for name in names])

    def _row(self, name: str) -> str | None:
        """What the help says of a command; None for those it does not show."""
        entry = self._plugins_waiting().get(name) if name not in self._loaded else None
        if entry is not None:
            return f"A command of {package_of(entry)}."
        command = self._loaded[name]
        empty = isinstance(command, GroupedCommandGroup) and not command.has_commands()
        return None if command.hidden or empty else command.get_short_help_str(limit=100)

    def has_commands(self) -> bool:
        """Whether there is a command, of copick or of a plugin. Nothing is imported."""
        return bool(self._loaded or self._plugins_waiting())
