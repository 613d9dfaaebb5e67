"""The command line: its groups, and the one place where errors become a line of text and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from copick.cli import add_object, add_picks  # noqa: F401 (commands of `copick add`)
from copick.cli.add import add
from copick.cli.cache import cache_group
from copick.cli.config import config_group
from copick.cli.demo import demo
from copick.cli.deposit import deposit
from copick.cli.export import export
from copick.cli.ext import load_plugin_commands, plugin_entries
from copick.cli.grouped_cli import GroupedCommandGroup
from copick.cli.index import find, index, search
from copick.cli.info import info
from copick.cli.manage import cp, mv, rm
from copick.cli.new import new
from copick.cli.stats import stats
from copick.cli.sync import sync
from copick.errors import CopickError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED, USAGE, INTERRUPTED = 1, 2, 130

COMMAND_CATEGORIES = {
    "Data Management": ["add", "cp", "export", "find", "index", "mv", "new", "rm", "search", "sync"],
    "Data Processing": ["convert", "inference", "logical", "process", "training", "evaluation"],
    "Utilities": ["browse", "cache", "config", "demo", "deposit", "download", "info", "setup", "stats"],
}
"""The sections of `copick --help`, and the commands in each, of copick and of plugins."""

G = TypeVar("G", bound=click.Group)


@click.group(
    cls=GroupedCommandGroup,
    command_categories=COMMAND_CATEGORIES,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(package_name="copick", message="copick %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """One dataset over every place a cryo-electron tomography project is kept."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _plugin_group(name: str, help: str) -> GroupedCommandGroup:
    return GroupedCommandGroup(name, help=help, plugins=name)


inference = _plugin_group("inference", "Run models on tomograms.")
training = _plugin_group("training", "Train models.")
evaluation = _plugin_group("evaluation", "Compare predictions with what is known.")
process = _plugin_group("process", "Process what a project holds.")
convert = _plugin_group("convert", "Make one kind of annotation from another.")
logical = _plugin_group("logical", "Combine annotations: unions, intersections, selections.")
setup = _plugin_group("setup", "Set up what other programs need.")
download = _plugin_group("download", "Download data.")

_PLUGIN_GROUPS = (inference, training, evaluation, process, convert, logical, setup, download)


def add_core_commands(cmd: G) -> G:
    """Add copick's own commands to a group."""
    for command in (
        add,
        cache_group,
        config_group,
        cp,
        demo,
        deposit,
        export,
        find,
        index,
        info,
        mv,
        new,
        rm,
        search,
        stats,
        sync,
    ):
        cmd.add_command(command)
    return cmd


def add_plugin_commands(cmd: G) -> G:
    """Add the commands of plugins to a group. Commands that it has are not replaced."""
    if isinstance(cmd, GroupedCommandGroup):
        for group in _PLUGIN_GROUPS:
            cmd.add_command(group)
        cmd.plugins = "main"  # they are loaded when they are needed
        return cmd
    found = [command for command, _ in load_plugin_commands("main")]
    for command in (*found, *(group for group in _PLUGIN_GROUPS if plugin_entries(group.name or ""))):
        if command.name not in cmd.commands:
            cmd.add_command(command)
    return cmd


add_plugin_commands(add_core_commands(cli))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The console script. Always ends the process: 0, or 1 (failed), 2 (usage), 130 (interrupted)."""
    try:
        code = cli.main(args=args, prog_name="copick", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        sys.exit(INTERRUPTED)
    except getattr(click.exceptions, "NoArgsIsHelpError", ()) as error:
        click.echo(error.format_message(), err=True)
        sys.exit(USAGE)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "copick"
        _complain(f"{error.format_message().rstrip('.')} (see {command} --help)")
        sys.exit(USAGE)
    except click.ClickException as error:
        _complain(error.format_message())
        sys.exit(error.exit_code)
    except (CopickError, OSError) as error:
        _complain(str(error) or type(error).__name__)
        sys.exit(FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(text: str) -> None:
    click.secho(f"copick: {' '.join(text.split())}", fg="red", err=True)


if __name__ == "__main__":
    main()
