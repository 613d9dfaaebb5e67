"""What tells the content of files from an earlier one without reading it: times, sizes, version tags."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    Stamps = dict[str, str | None]

RACY_NS = 2 * 10**9
"""A file that was changed so lately may change again without another time of change: some filesystems count in 2 s."""


def local_stamps(folder: str, parts: Sequence[str]) -> Stamps:
    """Of each entry of a folder of this machine: see `Place.stamps`."""
    recent = time.time_ns() - RACY_NS
    found: Stamps = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            # An array that is put in place whole is another folder; what is new in a run tells nothing of the run.
            stats = [] if len(parts) == 1 else [_status(entry.path)]
            stats += [_status(f"{entry.path}{os.sep}{part}") for part in parts]
            racy = any(each is not None and each[0] > recent for each in stats)
            found[entry.name] = None if racy else repr(stats)
    return found


def _status(path: str) -> tuple[int, int, int] | None:
    """What changes with a file: when it was changed, its size, which file it is. None = there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def remote_stamps(fs: Any, folder: str, folders: Sequence[str], parts: Sequence[str]) -> Stamps:
    """The same of another filesystem, as listings of it tell.

    Args:
        folders: The entries that are looked into.
        parts: What of them counts, if it lies directly in them; none = the files of the folder itself.
    """
    if not parts:
        return _listed(fs, folder)
    found: Stamps = {}
    for name in folders:
        found[name] = None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            inside = _listed(fs, f"{folder}/{name}")
            told = [inside.get(part, "") for part in parts if "/" not in part]
            found[name] = None if None in told else repr(told)
    return found


def _listed(fs: Any, folder: str) -> Stamps:
    listed = fs.ls(folder, detail=True, refresh=True)
    return {str(item["name"]).rstrip("/").rpartition("/")[2]: _stamp(item) for item in listed}


def _stamp(item: dict[str, Any]) -> str | None:
    """What a listing tells of the content of a file. None = not enough."""
    told = [item.get(key) for key in ("ETag", "etag", "LastModified", "last_modified", "mtime")]
    known = [str(value) for value in told if value]
    return " ".join([*known, str(item.get("size"))]) if known else None
