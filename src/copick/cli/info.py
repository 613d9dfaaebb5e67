"""`copick info`: this version, and what packages add to it."""

from __future__ import annotations

import click

from copick.cli.base import command


@command()
def info() -> None:
    """Show the version, and the commands of plugins with their packages."""
    from copick import __version__
    from copick.cli.ext import PLUGIN_GROUPS, load_plugin_commands

    click.echo(f"copick {__version__}")
    found = {name: load_plugin_commands(name) for name in PLUGIN_GROUPS}
    for name, commands in found.items():
        if commands:
            click.echo(f"\ncopick {'' if name == 'main' else name + ' '}COMMAND")
        for each, package in commands:
            click.echo(f"  {each.name:<24} {each.get_short_help_str(limit=70)} [{package}]")
    if not any(found.values()):
        click.echo("No plugin adds commands.")
