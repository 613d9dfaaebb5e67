"""`copick add object` and `copick add object-volume`."""

from __future__ import annotations

import json
from typing import Any

import click

from copick.cli import util
from copick.cli.add import BY_NAME, HEADER, VOLUMES, add, voxel_size_option
from copick.cli.base import project


@add.command("object")
@util.add_config_option
@click.option("--name", required=True, help="Its name, without underscores and spaces.")
@click.option(
    "--object-type",
    type=click.Choice(["particle", "segmentation", "filament"]),
    default="particle",
    show_default=True,
    help="Found as points, as a region, or as points along filaments.",
)
@click.option(
    "--label", type=int, help="Its value in multilabel segmentations. [default: the next that is free]"
)
@click.option("--color", metavar="R,G,B,A", help="Four numbers from 0 to 255.")
@click.option("--emdb-id", help="Of its density map in the EMDB.")
@click.option("--pdb-id", help="Of its model in the PDB.")
@click.option("--identifier", help="In an ontology or database, such as GO:0022626.")
@click.option("--map-threshold", type=float, help="Where to contour the density map.")
@click.option("--radius", type=float, default=50, show_default=True, help="In ångström.")
@click.option("--polar/--apolar", default=None, help="Filaments: whether their two directions differ.")
@click.option("--helical-rise", type=float, help="Filaments: ångström along the axis per subunit.")
@click.option("--helical-twist", type=float, help="Filaments: degrees per subunit.")
@click.option("--metadata", help="What else to say of it: a JSON object.")
@click.option("--volume", type=click.Path(exists=True), help="A file with its density map.")
@click.option("--volume-format", type=VOLUMES, help=f"The format of that file. {BY_NAME}")
@voxel_size_option(f"Of the density map, in ångström. {HEADER.partition('. ')[2]}")
@click.option(
    "--exist-ok/--no-exist-ok", default=False, show_default=True, help="Update an object of that name."
)
@util.add_debug_option
def object_(config: str | None, name: str, object_type: str, **options: Any) -> None:
    """Add an object to the project, and write the config file anew."""
    from copick.ops.add import add_object, read_volume

    root = project(config)
    said = {
        "polar": options["polar"],
        "helical_rise_a": options["helical_rise"],
        "helical_twist_deg": options["helical_twist"],
    }
    if object_type != "filament" and any(value is not None for value in said.values()):
        raise click.UsageError("--polar, --helical-rise and --helical-twist are for --object-type filament")
    volume = size = None
    if options["volume"]:
        volume, size = read_volume(options["volume"], options["volume_format"], options["voxel_size"])
    added = add_object(
        root,
        name,
        object_type != "segmentation",
        options["label"],
        _color(options["color"]),
        options["emdb_id"],
        options["pdb_id"],
        options["identifier"],
        options["map_threshold"],
        options["radius"],
        volume,
        size,
        _metadata(options["metadata"]),
        options["exist_ok"],
        save_config=True,
        config_path=config,
        filament=said if object_type == "filament" else None,
    )
    click.echo(f"Added object {added.name!r} with label {added.label} to {config}.")


def _color(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        red, green, blue, alpha = (int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"--color {text!r}: expected four numbers, as 255,0,0,255") from None
    return red, green, blue, alpha


def _metadata(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"--metadata is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise click.UsageError('--metadata: expected a JSON object, as \'{"source": "own"}\'')
    return said


@add.command("object-volume")
@util.add_config_option
@click.option("--object-name", required=True, help="An object of the project.")
@click.option(
    "--volume-path", type=click.Path(exists=True), required=True, help="A file with its density map."
)
@click.option("--volume-format", type=VOLUMES, help=f"The format of that file. {BY_NAME}")
@voxel_size_option(HEADER)
@util.add_debug_option
def object_volume(
    config: str | None,
    object_name: str,
    volume_path: str,
    volume_format: str | None,
    voxel_size: float | None,
    debug: bool,
) -> None:
    """Add a density map to an object, in place of the one it has."""
    from copick.ops.add import add_object_volume, read_volume

    root = project(config)
    volume, size = read_volume(volume_path, volume_format, voxel_size)
    add_object_volume(root, object_name, volume, size)
    click.echo(f"Added a density map of {size:g} Å to object {object_name!r}.")
