"""A folder of links to a project's files, laid out as a project: what is to be handed on, under the names that it is to have.

Several projects may be linked into one folder, one after the other. Links that are there already are left; anything else that is
in their place is an error, and left, too. What lies on no disk of this machine cannot be linked.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from copick.errors import AlreadyExistsError, CopickError, FormatError, LayerError
from copick.kinds import check_name
from copick.models import CopickRoot
from copick.ops.outputs import make_folder
from copick.ops.run import chosen_runs, known_run, map_runs, report_results
from copick.util import stopping
from copick.util.uri import parse_copick_uri, resolve_copick_objects, serialize_copick_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from copick.models import CopickRun
    from copick.ops.outputs import File

Results = dict[str, dict[str, Any]]


class Uris(NamedTuple):
    """What to link, by type."""

    picks: tuple[str, ...]
    mesh: tuple[str, ...]
    segmentation: tuple[str, ...]
    tomogram: tuple[str, ...]
    feature: tuple[str, ...]

    @classmethod
    def of(cls, *uris: Iterable[str] | None) -> Uris:
        """Raises ValueError for what is no URI of its type."""
        found = cls(*(tuple(each or ()) for each in uris))
        for object_type, each in found._asdict().items():
            for uri in each:
                parse_copick_uri(uri, object_type)
        return found


def deposit(
    config: File | CopickRoot,
    target_dir: File,
    run_names: Iterable[str] | None = None,
    run_name_prefix: str = "",
    run_name_regex: str | None = None,
    picks_uris: Iterable[str] | None = None,
    meshes_uris: Iterable[str] | None = None,
    segmentations_uris: Iterable[str] | None = None,
    tomograms_uris: Iterable[str] | None = None,
    features_uris: Iterable[str] | None = None,
    n_workers: int = 8,
) -> Results:
    """Link what URIs name in a project, run by run: target_dir/ExperimentRuns/RUN/Picks/... Says in the log what failed.

    Args:
        config: A project, or its config file.
        run_names: None = all.
        run_name_prefix: Put before the names of runs. Runs of the data portal, whose names are numbers, get their dataset and
            the portal's name without it: DATASET_NAME_.
        run_name_regex: Finds the new name of a run in its name: the first group. The prefix comes before that.
        picks_uris, meshes_uris, segmentations_uris, tomograms_uris, features_uris: What to link. None = none.

    Returns:
        By run, {"processed": how many are linked now, "errors": [why others are not]}.

    Raises:
        UnknownNameError: There is no such run.
        ValueError: The regular expression does not match a run's name, runs would get the same name, or this is no URI.
            Nothing was linked.
    """
    uris = Uris.of(picks_uris, meshes_uris, segmentations_uris, tomograms_uris, features_uris)
    results = link_runs(config, target_dir, run_names, run_name_prefix, run_name_regex, uris, n_workers)
    report_results(results, sum(result["processed"] + len(result["errors"]) for result in results.values()))
    return results


def link_runs(
    config: File | CopickRoot,
    target_dir: File,
    run_names: Iterable[str] | None,
    run_name_prefix: str,
    run_name_regex: str | None,
    uris: Uris,
    n_workers: int,
) -> Results:
    """As `deposit`, without a word in the log of what failed."""
    if not isinstance(config, CopickRoot):
        from copick import from_file

        config = from_file(config)
    runs = [known_run(config, run) for run in chosen_runs(config, run_names)]
    names = {run.name: _new_name(run, run_name_prefix or _portal_prefix(run), run_name_regex) for run in runs}
    for name, count in Counter(names.values()).items():
        if count > 1:
            both = " and ".join(old for old in names if names[old] == name)
            raise ValueError(f"{both} would both become {name!r}; let run_name_regex tell them apart")
    found = map_runs(
        _deposit,
        config,
        runs,
        n_workers,
        run_args=[{"name": names[run.name]} for run in runs],
        task_desc="Linking",
        target_dir=target_dir,
        uris=uris,
    )
    return {
        name: result or {"processed": 0, "errors": [f"run {name} failed"]} for name, result in found.items()
    }


def deposit_run(
    run: CopickRun,
    target_dir: File,
    run_name_prefix: str = "",
    run_name_regex: str | None = None,
    picks_uris: Iterable[str] | None = None,
    meshes_uris: Iterable[str] | None = None,
    segmentations_uris: Iterable[str] | None = None,
    tomograms_uris: Iterable[str] | None = None,
    features_uris: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Link what URIs name in one run. As `deposit`, but names are taken as they are if there is no prefix.

    Returns:
        {"processed": how many are linked now, "errors": [why others are not]}.
    """
    uris = Uris.of(picks_uris, meshes_uris, segmentations_uris, tomograms_uris, features_uris)
    return _deposit(run, _new_name(run, run_name_prefix, run_name_regex), target_dir, uris)


def _portal_prefix(run: CopickRun) -> str:
    dataset = run.portal_dataset_id
    return "" if dataset is None else f"{dataset}_{run.portal_run_name or ''}_"


def _new_name(run: CopickRun, prefix: str, regex: str | None) -> str:
    name = run.name
    if regex is not None:
        try:
            match = re.search(regex, name)
            found = None if match is None else match[1]
        except (re.error, IndexError) as error:
            raise ValueError(
                f"run_name_regex {regex!r} has no first group to take names from ({error})"
            ) from error
        if not found:
            raise ValueError(
                f"run_name_regex {regex!r} finds no name in {name!r}; change it, or choose other runs"
            )
        name = found
    return check_name(f"{prefix}{name}", "a run called")


def _deposit(run: CopickRun, name: str, target_dir: File, uris: Uris) -> dict[str, Any]:
    result: dict[str, Any] = {"processed": 0, "errors": []}
    folder = os.path.join(os.path.abspath(target_dir), "ExperimentRuns", name)
    for source, path in _links(run, folder, uris._asdict()).items():
        stopping.check()
        try:
            _link(source, path)
        except (CopickError, OSError) as error:
            result["errors"].append(
                f"{serialize_copick_uri(source)} of run {run.name} is not linked: {error}"
            )
        else:
            result["processed"] += 1
    return result


def _links(run: CopickRun, folder: str, uris: Mapping[str, tuple[str, ...]]) -> dict[Any, str]:
    """Where to link each thing, once even if several URIs name it; only its folder is known here."""
    return {
        source: os.path.join(folder, _folder_of(source, object_type))
        for object_type, each in uris.items()
        for uri in each
        for source in resolve_copick_objects(uri, run.root, object_type, run.name)
    }


def _folder_of(source: Any, object_type: str) -> str:
    """In the folder of a run."""
    if object_type in ("tomogram", "feature"):
        tomogram = source if object_type == "tomogram" else source.tomogram
        return f"VoxelSpacing{tomogram.voxel_spacing.voxel_size:.3f}"
    return str(source.kind.folder)


def _link(source: Any, folder: str) -> None:
    """Raises LayerError if it is in no file of this machine, AlreadyExistsError if something else is in the link's place."""
    file = _file_of(source)
    path = os.path.join(folder, os.path.basename(file))
    make_folder(folder)
    try:
        os.symlink(file, path, target_is_directory=os.path.isdir(file))
    except FileExistsError:
        if os.path.islink(path) and os.path.realpath(path) == os.path.realpath(file):
            return
        what = f"a link to {os.path.realpath(path)}" if os.path.islink(path) else "something else"
        raise AlreadyExistsError(f"{path} is {what} already; remove it, or choose another folder") from None


def _file_of(source: Any) -> str:
    """The file or folder that holds it, on this machine."""
    from fsspec.implementations.local import LocalFileSystem

    pending = getattr(source.layer, "pending", None)
    if pending is not None and pending.exists(source.ref):  # the file is gone when it is passed on
        raise LayerError("it waits in the cache to be passed on; call flush() of the project first")
    try:
        local, path = isinstance(source.fs, LocalFileSystem), os.path.abspath(str(source.path))
    except AttributeError:  # not made of files
        local, path = False, ""
    if not local:
        raise LayerError(
            f"layer {source.sources[0]!r} is not on a disk of this machine; copy it to one first"
        )
    if not os.path.exists(path):
        raise FormatError(f"there is nothing at {path}")
    return path
