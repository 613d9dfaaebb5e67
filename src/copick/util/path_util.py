"""Files that are imported into a project: their format, their voxels, and the runs they belong to."""

from __future__ import annotations

import importlib
import logging
import re
import struct
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from copick import ome
from copick.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from copick.models import CopickRoot

    Volume = tuple[npt.NDArray[Any], float]

_logger = logging.getLogger(__name__)

_EXTENSIONS = {
    ".zarr": "zarr",
    ".mrc": "mrc",
    ".map": "mrc",
    ".rec": "mrc",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".em": "em",
}


def get_format_from_extension(path: str) -> str | None:
    """ "zarr", "mrc", "tiff" or "em", by the end of a file's name; None if it says nothing."""
    return _EXTENSIONS.get(PurePath(path).suffix.lower())


def get_data_from_file(path: str, file_format: str) -> Volume:
    """A volume (z, y, x) and its voxel size in ångström, 0.0 if the file does not say.

    Of an OME-Zarr image the finest level, of an MRC file the voxel size along y. TIFF and EM files say no voxel size.

    Args:
        file_format: As `get_format_from_extension` returns it.

    Raises:
        ValueError: There is no such format.
        FileNotFoundError: There is no such file.
        FormatError: The file is not of that format, or damaged.
        ImportError: The library that reads it is not installed.
    """
    reader = _READERS.get(str(file_format).lower())
    if reader is None:
        raise ValueError(f"{path}: there is no file format {file_format!r}; use one of {', '.join(_READERS)}")
    return reader(str(path))


def library(name: str, extra: str = "formats") -> Any:
    """A module for files of other programs. Raises ImportError, which says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this file needs {name}: pip install 'copick[{extra}]'") from error


def _read_mrc(path: str) -> Volume:
    mrcfile = library("mrcfile")
    try:
        with mrcfile.open(path) as file:
            x, y, z = (float(file.voxel_size[axis]) for axis in "xyz")
            data = file.data
    except ValueError as error:
        raise FormatError(f"{path} cannot be read as an MRC file ({error})") from error
    if not np.allclose((x, z), y, rtol=0.01):
        _logger.warning("%s: voxels of %g × %g × %g Å (x, y, z) are taken as cubes of %g Å", path, x, y, z, y)
    return data, y


def _read_tiff(path: str) -> Volume:
    tifffile = library("tifffile")
    try:
        return tifffile.imread(path), 0.0
    except tifffile.TiffFileError as error:
        raise FormatError(f"{path} cannot be read as a TIFF file ({error})") from error


def _read_em(path: str) -> Volume:
    emfile = library("emfile")
    try:
        return emfile.read(path)[1], 0.0
    except (struct.error, KeyError, ValueError) as error:
        raise FormatError(f"{path} cannot be read as an EM file ({error!r})") from error


def _read_zarr(path: str) -> Volume:
    import zarr

    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return np.asarray(node[...]), 0.0
    attributes = dict(node.attrs)
    levels = ome.levels(attributes, path)
    finest = node.get(levels[0].path) if levels else None
    if not isinstance(finest, zarr.Array):
        raise FormatError(f"{path} is a zarr group without OME-Zarr levels; name one of its arrays")
    return np.asarray(finest[...]), ome.voxel_size(attributes, path)


_READERS: dict[str, Callable[[str], Volume]] = {
    "zarr": _read_zarr,
    "mrc": _read_mrc,
    "tiff": _read_tiff,
    "em": _read_em,
}


def prepare_runs_from_paths(
    root: CopickRoot,
    paths: Sequence[str],
    input_run: str | None,
    run_regex: str = "(.*)",
    run_name_prefix: str = "",
    create: bool = True,
    logger: logging.Logger | None = None,
) -> dict[str, str]:
    """The run that each file belongs to: {run name: path}, and the runs created that the project lacks.

    A file that has no run, or whose run has a file already, is left out with a warning.

    Args:
        input_run: The name of the run; empty: it is found in the file's name.
        run_regex: Its first group (without one: all of it) is the run's name in a file's name without extension.
        run_name_prefix: Stands before each name.
        create: Whether to create runs; without, they are only warned of.
        logger: Who says so; this module's own unless given.

    Raises:
        ValueError: `run_regex` is no regular expression.
    """
    log = logger or _logger
    found = runs_of_paths(paths, input_run, run_regex, run_name_prefix, log)
    for name in found:
        if root.get_run(name) is not None:
            continue
        if create:
            root.new_run(name)
            log.info("created run %r", name)
        else:
            log.warning("there is no run %r", name)
    return found


def runs_of_paths(
    paths: Sequence[str],
    input_run: str | None,
    run_regex: str = "(.*)",
    run_name_prefix: str = "",
    logger: logging.Logger | None = None,
) -> dict[str, str]:
    """As `prepare_runs_from_paths`, of names alone: no project is looked at."""
    try:
        pattern = re.compile(run_regex)
    except re.error as error:
        raise ValueError(f"{run_regex!r} is no regular expression ({error})") from error
    log = logger or _logger
    found: dict[str, str] = {}
    for path in paths:
        name = input_run or _run_in(PurePath(path).stem, pattern)
        if not name:
            log.warning("skipped %s: %r is not in its name", path, run_regex)
            continue
        name = run_name_prefix + name
        if name in found:
            log.warning("skipped %s: run %r has %s already", path, name, found[name])
            continue
        found[name] = path
    return found


def _run_in(stem: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(stem)
    return None if match is None else match[1 if pattern.groups else 0]
