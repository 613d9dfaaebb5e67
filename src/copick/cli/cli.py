"""The command group, and the one place where errors become a line of text and an exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import click

from copick.cli.demo import demo
from copick.errors import CopickError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED, USAGE, INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(package_name="copick")
@click.pass_context
def cli(context: click.Context) -> None:
    """One dataset over every place a cryo-electron tomography project is kept."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.add_command(demo)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The console script. Always ends the process: 0, or 1 (failed), 2 (usage), 130 (interrupted)."""
    try:
        code = cli.main(args=args, prog_name="copick", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        sys.exit(INTERRUPTED)
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
