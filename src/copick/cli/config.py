"""`copick config`: write config files."""

from __future__ import annotations

import os

import click

from copick.cli import util
from copick.cli.base import group
from copick.errors import AlreadyExistsError

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")


@group("config")
def config_group() -> None:
    """Create and manage config files."""


@config_group.command()
@click.option(
    "--overlay-root", type=click.Path(), required=True, help="Where the project's data are: a path or URL."
)
@click.option(
    "--objects",
    multiple=True,
    metavar="NAME,IS_PARTICLE[,RADIUS][,PDB_ID]",
    help="An object to look for; repeat it for more. Labels are given in this order, from 1.",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False),
    default="config.json",
    show_default=True,
    help="The file to write.",
)
@click.option("--proj-name", default="project", show_default=True, help="What the project is called.")
@click.option("--proj-description", default="", help="What it is about.")
@overwrite_option
@util.add_debug_option
def filesystem(
    overlay_root: str,
    objects: tuple[str, ...],
    config: str,
    proj_name: str,
    proj_description: str,
    overwrite: bool,
    debug: bool,
) -> None:
    """Write the config of a project in a directory.

    \b
    copick config filesystem --overlay-root /data/project --objects membrane,False --objects apoferritin,True,60,4V1W
    """
    from copick import new_config

    _check_target(config, overwrite)
    items = [_object(text, label) for label, text in enumerate(objects, 1)]
    new_config(config, overlay_root, proj_name, proj_description, items)
    click.echo(f"Wrote {config}.")


@config_group.command()
@click.option(
    "-ds",
    "--dataset-id",
    "dataset_ids",
    type=int,
    multiple=True,
    required=True,
    help="A dataset of the data portal; repeat it for more.",
)
@click.option(
    "--overlay", type=click.Path(), required=True, help="Where your own data will be: a path or URL."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    default="config.json",
    show_default=True,
    help="The file to write.",
)
@overwrite_option
@util.add_debug_option
def dataportal(dataset_ids: tuple[int, ...], overlay: str, output: str, overwrite: bool, debug: bool) -> None:
    """Write the config of a project over datasets of the CryoET Data Portal, with what is annotated there as objects.

    \b
    copick config dataportal -ds 10440 -ds 10441 --overlay /data/mine
    """
    from copick import from_czcdp_datasets

    _check_target(output, overwrite)
    from_czcdp_datasets(dataset_ids, overlay, output_path=output)
    click.echo(f"Wrote {output}.")


def _check_target(path: str, overwrite: bool) -> None:
    """Raises AlreadyExistsError: a config is work, and its objects are nowhere else."""
    if os.path.lexists(path) and not overwrite:
        raise AlreadyExistsError(f"{path} is there already; --overwrite replaces it")


def _object(text: str, label: int) -> dict[str, object]:
    """An object from NAME,IS_PARTICLE[,RADIUS][,PDB_ID]. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if not 2 <= len(parts) <= 4 or parts[1].lower() not in known:
        raise click.UsageError(
            f"--objects {text!r}: expected NAME,True or NAME,False, then a radius and a PDB id"
        )
    found: dict[str, object] = {"name": parts[0], "is_particle": known[parts[1].lower()], "label": label}
    if len(parts) > 2 and parts[2]:
        try:
            found["radius"] = float(parts[2])
        except ValueError:
            raise click.UsageError(f"--objects {text!r}: {parts[2]!r} is no radius in ångström") from None
    if len(parts) > 3 and parts[3]:
        found["pdb_id"] = parts[3]
    return found
