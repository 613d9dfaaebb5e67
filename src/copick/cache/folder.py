"""What lies in a cache folder, by looking; and how much room there is on its volume."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from copick.cache import info
from copick.cache.geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Iterator

FREE_SHARE: Final = 0.05
"""This share of the volume is left to others, in bytes and in files."""
STALE_TEMPORARY_S: Final = 3600
PENDING: Final = "pending"
"""Where changes wait to be passed on: they are nowhere else, so nothing of it is ever counted or removed."""
KEPT: Final = {".cache_metadata", PENDING}
"""What in a cache folder is no cached data: its own files, and changes that wait."""


class Cached(NamedTuple):
    """What `.cache_info` says of an array."""

    geometry: Geometry
    id: int
    layer: str


def read_layout(folder: Path) -> Cached | None:
    """The array that is cached in `folder`; None if there is none."""
    document = info.read(folder / info.FILE)
    if document is None or "array" not in document:
        return None
    try:
        array, layer = document["array"], document.get("source_layer", "")
        return Cached(Geometry.from_json(array["geometry"]), int(array["id"]), str(layer))
    except (KeyError, TypeError, ValueError):
        return None


def cached_files(root: Path) -> Iterator[tuple[Path, Cached, list[tuple[str, int, float]]]]:
    """Every cached array (its folder, and what it is) with files of it (relative name, size, last use).

    Removes, on the way, what crashed processes left behind.
    """
    stale = time.time() - STALE_TEMPORARY_S
    # Folders, with the array that each is part of: its own folder, and from there to here.
    pending: list[tuple[Path, Path, str, Cached | None]] = [(root, root, "", None)]
    while pending:
        folder, base, inside, cached = pending.pop()
        if cached is None and (cached := read_layout(folder)) is not None:
            base, inside = folder, ""
        files = []
        for entry in _scan(folder):
            with contextlib.suppress(OSError):
                stat = entry.stat(follow_symlinks=False)
                if entry.name.startswith(info.TEMPORARY):
                    if stat.st_mtime < stale:
                        _remove(Path(entry.path))
                elif not entry.is_dir(follow_symlinks=False):
                    used = max(stat.st_atime, stat.st_mtime)
                    files.append((f"{inside}{entry.name}", stat.st_size, used))
                elif entry.name != PENDING or folder != root:
                    pending.append((Path(entry.path), base, f"{inside}{entry.name}/", cached))
        if cached is not None:
            yield base, cached, files


def documents(root: Path) -> Iterator[tuple[float, int, Path]]:
    """The remembered listings and documents: when each was last used, its bytes, its file."""
    pending = [root]
    while pending:
        folder = pending.pop()
        entries = _scan(folder)
        is_array = any(entry.name == info.FILE for entry in entries)
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.startswith(f"{info.FILE}."):
                    stat = entry.stat(follow_symlinks=False)
                    yield max(stat.st_atime, stat.st_mtime), stat.st_size, Path(entry.path)
                elif is_array or (folder == root and entry.name in KEPT):
                    continue  # nothing but chunks is in an array
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))


def waiting_bytes(root: Path) -> int:
    """Bytes of the changes that wait to be passed on."""
    total = 0
    for parent, _, names in os.walk(root / PENDING):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def volume_lacks(root: Path, size: int) -> tuple[int, int]:
    """How many bytes and files must go before `size` bytes can be written and the volume still has its free share."""
    try:
        volume = os.statvfs(root)
    except AttributeError:  # Windows
        usage = shutil.disk_usage(root)
        return size + int(usage.total * FREE_SHARE) - usage.free, 0
    total, free = volume.f_blocks * volume.f_frsize, volume.f_bavail * volume.f_frsize
    # Some filesystems make files as they need them, and say that they have none.
    files = 1 + int(volume.f_files * FREE_SHARE) - volume.f_favail if volume.f_files else 0
    return size + int(total * FREE_SHARE) - free, files


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:  # gone meanwhile
        return []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
