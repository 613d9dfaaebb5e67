"""`copick new`: empty runs, voxel spacings and picks."""

from __future__ import annotations

import click

from copick.cli import util
from copick.cli.base import group, project

overwrite_option = click.option(
    "--overwrite/--no-overwrite",
    default=False,
    show_default=True,
    help="Accept one that is there, and keep it.",
)
create_option = click.option(
    "--create/--no-create", default=True, show_default=True, help="Create the run if it is not there."
)


@group()
def new() -> None:
    """Create empty entities."""


@new.command()
@util.add_config_option
@click.argument("name")
@overwrite_option
@create_option
@util.add_debug_option
def run(config: str | None, name: str, overwrite: bool, create: bool, debug: bool) -> None:
    """Create a run called NAME."""
    from copick.ops.add import add_run, get_or_create_run

    root = project(config)
    if not create:
        get_or_create_run(root, name, create=False)
    made = add_run(root, name, exist_ok=overwrite or not create)
    click.echo(f"Run {made.name!r} is there.")


@new.command()
@util.add_config_option
@click.argument("voxel_spacing", type=float)
@click.option("--run", "run_name", metavar="RUN", required=True, help="The run that it is for.")
@overwrite_option
@create_option
@util.add_debug_option
def voxelspacing(
    config: str | None, voxel_spacing: float, run_name: str, overwrite: bool, create: bool, debug: bool
) -> None:
    """Create a voxel spacing of VOXEL_SPACING ångström."""
    from copick.ops.add import add_voxelspacing

    made = add_voxelspacing(project(config), run_name, voxel_spacing, create, exist_ok=overwrite)
    click.echo(f"Voxel spacing {made.voxel_size:g} of run {run_name!r} is there.")


@new.command()
@util.add_config_option
@click.option("--particle-name", required=True, help="The object.")
@click.option("--out-user", default="copick", show_default=True, help="The user id of the picks.")
@click.option("--out-session", default="0", show_default=True, help="The session id of the picks.")
@click.option(
    "--overwrite/--no-overwrite", default=False, show_default=True, help="Empty the picks that are there."
)
@util.add_debug_option
def picks(
    config: str | None, particle_name: str, out_user: str, out_session: str, overwrite: bool, debug: bool
) -> None:
    """Create empty picks in every run; those that are there are left as they are."""
    from copick.errors import AlreadyExistsError

    made = kept = 0
    for each in project(config).runs:
        try:
            each.new_picks(particle_name, out_session, out_user)
            made += 1
        except AlreadyExistsError:
            if overwrite:
                each.new_picks(particle_name, out_session, out_user, exist_ok=True).from_numpy([])
                made += 1
            else:
                kept += 1
    click.echo(f"Created picks in {made} runs{f'; {kept} have them already' if kept else ''}.")
