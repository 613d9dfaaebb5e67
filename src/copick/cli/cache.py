"""`copick cache`: look at a cache folder, check it, fill it, and clean it up."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from copick.cli import util
from copick.cli.base import group, project
from copick.cli.types import CopickURI

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from copick.cache.manager import CacheManager
    from copick.cache.verify import Report
    from copick.config import CopickConfigCache

F = TypeVar("F", bound="Callable[..., Any]")

folder_option = click.option(
    "--cache-dir",
    "folder",
    type=click.Path(exists=True, file_okay=False),
    help="The cache folder. [default: what the project's config names, else COPICK_CACHE_DIR]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _options(function: F) -> F:
    for option in (util.add_debug_option, json_option, folder_option, util.add_config_option):
        function = option(function)
    return function


@group("cache")
def cache_group() -> None:
    """Look after the cache of chunks on the local disk."""


@cache_group.command()
@_options
def stats(config: str | None, folder: str | None, as_json: bool, debug: bool) -> None:
    """Say how much lies in the cache."""
    from copick.cache.verify import verify

    cache = _cache_of(config, folder)
    report = verify(_root(cache), content=False)
    last = os.path.join(report.root, ".cache_metadata", "stats.json")
    found = {
        "cache_root": report.root, "size_bytes": report.size_bytes, "max_size_bytes": cache.max_size_bytes,
        "document_bytes": report.document_bytes, "counted_bytes": report.counted_bytes,
        "arrays": report.arrays, "chunks": report.chunks,
        "absent_chunks": report.absent, "listings_and_documents": report.records,
        "leftovers": len(report.leftovers), "foreign_files": report.foreign,
        "last_process": _document(last),
    }  # fmt: skip
    _show(found if as_json else {**found, "last_process": None}, as_json)


@cache_group.command()
@click.argument("path", default="")
@_options
def info(path: str, config: str | None, folder: str | None, as_json: bool, debug: bool) -> None:
    """Say what is cached at a PATH of the project, such as ExperimentRuns/TS_1, and below.

    Fails if nothing is.
    """
    found = _opened(_cache_of(config, folder)).get_info(path)
    if found is None:
        raise click.ClickException(f"nothing is cached at {path!r}")
    times = ("cached_at", "last_accessed", "expires_at")
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    fields.update({name: fields[name] and fields[name].isoformat(timespec="seconds") for name in times})
    _show({"path": path, **fields}, as_json)


@cache_group.command()
@click.argument("uri", type=CopickURI("tomogram"), default="*")
@util.add_run_names_option
@click.option("--level", type=int, multiple=True, help="Only this level; repeat it for more. [default: all]")
@_options
def prefetch(
    uri: str,
    run_names: tuple[str, ...],
    level: tuple[int, ...],
    config: str | None,
    folder: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Bring tomograms into the cache before they are needed: those that a URI names (TYPE@VOXEL_SIZE), or all.

    Fails if a part of them cannot be read; the rest is cached.
    """
    from copick.cache.prefetch import begin
    from copick.util.uri import resolve_copick_objects

    root = project(config, cache=folder)
    named = util.resolve_run_names(run_names)
    runs: list[str | None] = [None] if named is None else [*named]
    tomograms = [each for run in runs for each in resolve_copick_objects(uri, root, "tomogram", run)]
    if not tomograms:
        raise click.ClickException(f"no tomogram is named by {uri!r}")
    levels = [each.levels() for each in tomograms]
    arrays = [
        (each.array(name), ())
        for each, names in zip(tomograms, levels, strict=True)
        for at, name in enumerate(names)
        if not level or at in level
    ]
    if not arrays:
        most = max(map(len, levels))
        raise click.ClickException(
            f"none of {len(tomograms)} tomograms has the level {' or '.join(map(str, level))}; "
            f"the levels are 0 to {most - 1}"
        )
    begun = begin(arrays)
    if begun is None:
        raise click.ClickException("these tomograms lie in layers that are not cached")
    begun.finish(f"{len(tomograms)} tomograms")
    _show({"tomograms": len(tomograms), "levels": len(arrays), "chunks": begun.total}, as_json)


@cache_group.command()
@_options
@click.option("--fast", is_flag=True, help="Only compare lengths; do not read chunks.")
def verify(fast: bool, config: str | None, folder: str | None, as_json: bool, debug: bool) -> None:
    """Check every checksum, record and count. Changes nothing; fails if something is wrong."""
    from copick.cache.verify import verify

    report = verify(_root(_cache_of(config, folder)), content=not fast)
    _show_report(report, as_json)
    if report.problems:
        count = len(report.problems)
        raise click.ClickException(
            f"{count} problem{'s' * (count > 1)}; `copick cache repair` removes what is wrong"
        )


@cache_group.command()
@_options
def repair(config: str | None, folder: str | None, as_json: bool, debug: bool) -> None:
    """Remove what is wrong; it is fetched again when it is needed. Fails if something wrong is left."""
    from copick.cache.verify import repair, verify

    cache = _cache_of(config, folder)
    report = repair(_opened(cache), verify(_root(cache)))
    _show_report(report, as_json)
    left = verify(report.root).problems if report.problems else []
    if left:
        raise click.ClickException(
            f"{len(left)} problems are left, the first: {left[0].path}: {left[0].text}"
        )


@cache_group.command()
@click.argument("path", default="")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_options
def clear(path: str, yes: bool, config: str | None, folder: str | None, as_json: bool, debug: bool) -> None:
    """Forget what is cached at a PATH of the project and below, or everything.

    Changes that wait in the cache to be passed on stay.
    """
    manager = _opened(_cache_of(config, folder))
    if path and manager.get_info(path) is None:
        raise click.ClickException(f"nothing is cached at {path!r}")
    if not yes:
        _confirm(f"Remove {path or 'everything'} from {manager.cache_root}?")
    _show({"freed_bytes": manager.clear_path(path)}, as_json)


@cache_group.command()
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    help="Leave unfinished files of the last so many seconds: somebody may be writing them.",
)
@_options
def gc(older_than: float, config: str | None, folder: str | None, as_json: bool, debug: bool) -> None:
    """Remove what killed processes left, what has expired, and what is over the budget."""
    from copick.cache.verify import collect

    _show({"freed_bytes": collect(_opened(_cache_of(config, folder)), older_than=older_than)}, as_json)


def _confirm(question: str) -> None:
    """Raises Abort, or UsageError if nobody can be asked."""
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise
        raise click.UsageError("this cannot be undone, and nobody said yes; --yes does not ask") from None


def _cache_of(config: str | None, folder: str | None) -> CopickConfigCache:
    """The cache that was named; a folder that is named alone has no limits, so that nothing is evicted.

    Raises:
        UsageError: There is none, or no folder yet.
    """
    from copick.config import CopickConfigCache, read_config
    from copick.layers.build import choose_cache

    own = None
    if config is not None:
        found = read_config(config)
        own = found if isinstance(found, CopickConfigCache) else choose_cache(found, folder)
    elif (folder := folder or os.environ.get("COPICK_CACHE_DIR")) is not None:
        own = CopickConfigCache(root=folder, max_size_bytes=0)
    if own is None:
        raise click.UsageError(
            "name the cache: --cache-dir FOLDER, or --config FILE of a project that has a cache"
        )
    return own


def _root(cache: CopickConfigCache) -> str:
    from copick.util.urls import local_path

    return local_path(cache.root)


def _opened(cache: CopickConfigCache) -> CacheManager:
    """Raises NotFoundError, OSError or CacheError: a folder is not made to be looked at."""
    from copick.cache.manager import open_manager
    from copick.cache.verify import existing

    return open_manager(
        existing(_root(cache)),
        max_size_bytes=cache.max_size_bytes,
        max_age=cache.max_age,
        policy=cache.policy,
        quotas=cache.quotas,
    )


def _document(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _show_report(report: Report, as_json: bool) -> None:
    if as_json:
        _show(report.to_json(), as_json)
        return
    for problem in report.problems:
        click.echo(f"{problem.kind:<9} {problem.path}: {problem.text}")
    click.echo(
        f"{report.arrays} arrays, {report.chunks} chunks ({report.size_bytes / 1e6:.1f} MB), {report.records} listings and "
        f"documents; wrong: {len(report.problems)}, left over: {len(report.leftovers)}"
    )


def _show(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        if value is not None:
            click.echo(f"{key.replace('_', ' ').capitalize()}: {value}")
