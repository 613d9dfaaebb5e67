"""`copick demo`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--keep", is_flag=True, help="Keep the folder with the project, its cache and the picture.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read a project of your own instead of a sample. It is not changed.",
)
@click.option("--run", help="With --config: the run to read (default: the first with a tomogram).")
@click.option(
    "--tomogram", metavar="TYPE[@SPACING]", help="With --config: the tomogram to read, such as wbp@10.0."
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the picture (default: copick-demo.png here, or in the folder that is kept).",
)
@click.option(
    "--latency-ms",
    type=click.FloatRange(0, 10_000),
    default=20.0,
    show_default=True,
    help="How far away the sample's archive is.",
)
@click.option("--small", is_flag=True, help="A smaller sample, in a few seconds.")
def demo(
    keep: bool,
    config: Path | None,
    run: str | None,
    tomogram: str | None,
    picture: Path | None,
    latency_ms: float,
    small: bool,
) -> None:
    """See what the cache does, on this machine, in about a minute.

    Makes a project of phantom tomograms, serves its archive over HTTP with a delay, reads a tomogram with and
    without a cache, compares every byte, and draws it.
    """
    if config is None and (run is not None or tomogram is not None):
        raise click.UsageError("--run and --tomogram choose from a project of yours; they need --config")
    if config is not None and small:
        raise click.UsageError("--small is the size of the sample; it does not go with --config")
    from rich.console import Console

    from copick.demo.run import Options, run_demo

    options = Options(keep, config, run, tomogram, picture, latency_ms, small)
    run_demo(options, Console())
