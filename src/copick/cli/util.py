"""Options that many commands share, here and in plugins, and what they mean.

Each decorator adds parameters of fixed names: `config`, `run_names`, `debug`, ...
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_logger = logging.getLogger(__name__)


def _all(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """One decorator that adds several options, in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def add_config_option(func: F) -> F:
    """`config`: the project's config file."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(exists=True),
        envvar="COPICK_CONFIG",
        show_envvar=True,
        help="The project's config file.",
    )(func)


def add_debug_option(func: F) -> F:
    """`debug`: say more."""
    return click.option("--debug/--no-debug", default=False, show_default=True, help="Log details.")(func)


def add_run_names_option(func: F) -> F:
    """`run_names`: see `resolve_run_names`."""
    return click.option(
        "--run-names",
        "-r",
        multiple=True,
        help="A run to process; repeat it for more. [default: all runs]",
    )(func)


def add_deprecated_run_alias(*flags: str) -> Callable[[F], F]:
    """`legacy_run_names`: hidden older names of `--run-names`."""
    return click.option(*flags, "legacy_run_names", multiple=True, hidden=True)


def add_create_overwrite_options(func: F) -> F:
    """`create` and `overwrite`."""
    return _all(
        click.option(
            "--overwrite/--no-overwrite", default=False, show_default=True, help="Replace what is there."
        ),
        click.option(
            "--create/--no-create",
            default=True,
            show_default=True,
            help="Create runs and voxel spacings that are not there.",
        ),
    )(func)


def add_run_options(func: F) -> F:
    """`run`, `run_regex` and `run_name_prefix`: the run that a file belongs to."""
    return _all(
        click.option(
            "--run",
            default="",
            help="The run. [default: what --run-regex finds in the file's name; always so for a glob pattern]",
        ),
        click.option(
            "--run-regex",
            default="(.*)",
            show_default=True,
            help="Finds the run in a file's name without extension: its first group.",
        ),
        click.option("--run-name-prefix", default="", help="Put before the run's name."),
    )(func)


def add_volume_transform_options(func: F) -> F:
    """`transpose` and `flip`."""
    return _all(
        click.option(
            "--transpose",
            default=None,
            help="Another order of the axes (0 = z, 1 = y, 2 = x), such as '2,1,0'.",
        ),
        click.option("--flip", default=None, help="Axes to reverse after that, such as '0,2'."),
    )(func)


def add_user_session_options(func: F) -> F:
    """`user_id` and `session_id`."""
    return _all(
        click.option("--user-id", default="copick", show_default=True, help="Who made the annotation."),
        click.option("--session-id", default="1", show_default=True, help="In which session."),
    )(func)


def add_max_workers_option(func: F) -> F:
    """`max_workers`."""
    return click.option(
        "--max-workers", type=int, default=4, show_default=True, help="How many files or runs at a time."
    )(func)


def add_pyramid_create_options(func: F) -> F:
    """`create_pyramid`, `pyramid_levels` and `chunk_size`."""
    return _all(
        click.option(
            "--create-pyramid/--no-create-pyramid",
            default=True,
            show_default=True,
            help="Compute coarser levels.",
        ),
        click.option(
            "--pyramid-levels",
            type=int,
            default=3,
            show_default=True,
            help="How many levels, each half as fine.",
        ),
        click.option(
            "--chunk-size", default="256,256,256", show_default=True, help="Voxels of a chunk along z, y, x."
        ),
    )(func)


def add_export_common_options(func: F) -> F:
    """`output_dir`."""
    return click.option(
        "--output-dir", type=click.Path(file_okay=False), required=True, help="Where to write."
    )(func)


def add_pyramid_export_options(func: F) -> F:
    """`level`, `copy_all_levels` and `compression`."""
    return _all(
        click.option("--level", type=int, default=0, show_default=True, help="The level to write."),
        click.option(
            "--copy-all-levels/--level-only",
            default=True,
            show_default=True,
            help="Write every level, where the format can.",
        ),
        click.option(
            "--compression",
            type=click.Choice(["lzw", "zlib", "jpeg", "none"]),
            default=None,
            help="Of TIFF files.",
        ),
    )(func)


def resolve_run_names(
    run_names: Sequence[str] | None = (),
    legacy_run_names: Sequence[str] | None = (),
    *,
    legacy_flag: str | None = None,
    logger: logging.Logger | None = None,
) -> list[str] | None:
    """The runs that were asked for; None if none was: all runs.

    Names joined by commas are split, and older flags accepted, with a warning each.
    """
    log = logger or _logger
    if legacy_run_names:
        log.warning("%s is deprecated; use --run-names/-r (repeatable) instead", legacy_flag or "this flag")
    given = [*(run_names or ()), *(legacy_run_names or ())]
    if any("," in name for name in given):
        log.warning("comma-separated run names are deprecated; pass -r/--run-names once per run instead")
    parts = [part.strip() for name in given for part in name.split(",") if part.strip() or "," not in name]
    return parts or None


def resolve_deprecated_option(
    primary: Any, legacy: Any, *, old_flag: str, new_flag: str, logger: logging.Logger | None = None
) -> Any:
    """`legacy` if an older flag gave it, with a warning, else `primary`."""
    if legacy is None:
        return primary
    (logger or _logger).warning("%s is deprecated; use %s instead", old_flag, new_flag)
    return legacy


def resolve_tomogram_uri(
    uri: str | None,
    tomo_alg: str | None,
    voxel_size: float | None,
    *,
    default_vs: float = 10.0,
    logger: logging.Logger | None = None,
) -> str:
    """The tomogram that was asked for as TYPE@SIZE; older flags are accepted with a warning.

    Args:
        default_vs: The voxel size in ångström if an older flag gives the type alone.

    Raises:
        UsageError: Neither was given.
    """
    if uri:
        return uri
    if not tomo_alg:
        raise click.UsageError("name the input tomogram: -i/--input TYPE@VOXEL_SIZE")
    (logger or _logger).warning(
        "--tomo-alg/--voxel-size are deprecated; use -i/--input TYPE@VOXEL_SIZE instead"
    )
    return f"{tomo_alg}@{default_vs if voxel_size is None else voxel_size}"
