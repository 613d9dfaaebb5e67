"""What lies in the cache folder, item by item: for people and programs that look after it.

An item is named by its path in the project ("ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr", ".../wbp.zarr/0",
".../Picks/a_b_c.json"); a folder is everything in it, and "" is all there is. Nothing here is on the way of a read.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from copick.cache import info
from copick.cache.folder import KEPT
from copick.cache.geometry import Geometry, chunk_index, grid
from copick.cache.info import CacheInfo
from copick.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from copick.cache.manager import CacheManager


def path_of(manager: CacheManager, item: str | os.PathLike[str]) -> Path:
    """Where an item lies. Raises NotFoundError if that is not in the cache."""
    root = manager.cache_root
    path = Path(os.path.normpath(root / os.fspath(item).lstrip("/\\")))
    if path != root and (root not in path.parents or path.relative_to(root).parts[0] in KEPT):
        raise NotFoundError(
            f"{os.fspath(item)!r} is no path of a project; expected one like ExperimentRuns/TS_1"
        )
    return path


def records(manager: CacheManager, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The `.cache_info` files of an item and of all below it, with their content. Damaged ones are left out."""
    own = [path.with_name(f"{info.FILE}.{path.name}")] if path != manager.cache_root else []
    folders = ((Path(folder), names) for folder, _, names in os.walk(path) if _is_data(path, Path(folder)))
    inside = (folder / name for folder, names in folders for name in names if _is_record(name))
    for file in (*own, *inside):
        if (document := info.read(file)) is not None:
            yield file, document


def _is_data(root: Path, folder: Path) -> bool:
    return folder == root or folder.relative_to(root).parts[0] not in KEPT


def _is_record(name: str) -> bool:
    return name == info.FILE or name.startswith(f"{info.FILE}.")


def describe(manager: CacheManager, path: Path) -> CacheInfo | None:
    """An item, or everything in a folder; None if nothing is cached."""
    manager.journal.flush()
    found = [_described(manager, file, document) for file, document in records(manager, path)]
    if not found:
        return None
    etags, expiries = {each.etag for each in found}, [each.expires_at for each in found if each.expires_at]
    return CacheInfo(
        source_layer=found[0].source_layer,
        cached_at=min(each.cached_at for each in found),
        last_accessed=max(each.last_accessed for each in found),
        expires_at=min(expiries, default=None),
        size_bytes=sum(each.size_bytes for each in found),
        is_complete=all(each.is_complete for each in found),
        etag=etags.pop() if len(etags) == 1 else None,
        is_stale=any(each.is_stale for each in found),
    )


def _described(manager: CacheManager, file: Path, document: dict[str, Any]) -> CacheInfo:
    stat = file.stat()
    layer, etag = str(document.get("source_layer", "")), document.get("etag") or document.get("tag")
    old = _out_of_date(manager, file, document)
    if "array" not in document:
        used = _moment(max(stat.st_atime, stat.st_mtime))
        cached = _moment(document.get("time", stat.st_mtime))
        return CacheInfo(layer, cached, used, expiry(manager, document), stat.st_size, True, etag, old)
    geometry, size, chunks = Geometry.from_json(document["array"]["geometry"]), stat.st_size, 0
    for name, length in _files(file.parent):
        if chunk_index(geometry, name.removesuffix(".absent")) is not None:
            size, chunks = size + length, chunks + 1
    accessed = manager.journal.last_access(document["array"]["id"])
    used = _moment(stat.st_mtime if accessed is None else accessed / 1e6)
    cached = datetime.fromisoformat(document["cached_at"])
    whole = chunks >= int(np.prod(grid(geometry.shape, geometry.chunks), dtype=np.int64))
    return CacheInfo(layer, cached, used, expiry(manager, document), size, whole, etag, old)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Relative names and sizes of all files in a folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                yield os.path.relpath(path, folder).replace(os.sep, "/"), os.lstat(path).st_size


def stated_end(document: dict[str, Any]) -> datetime | None:
    """From when on, as somebody stated, what a `.cache_info` file tells of must not be used."""
    stated = document.get("expires_at")
    return None if stated is None else datetime.fromisoformat(stated)


def has_ended(document: dict[str, Any]) -> bool:
    """Whether that time is over."""
    end = stated_end(document)
    return end is not None and end <= datetime.now(UTC)


def expiry(manager: CacheManager, document: dict[str, Any]) -> datetime | None:
    """When to ask the source for what a `.cache_info` file tells of: as stated, or by its age.

    An array whose source cannot tell versions apart is not asked for: that would mean to fetch all of it.
    """
    if (end := stated_end(document)) is not None:
        return end
    ages = "time" in document and ("array" not in document or document.get("tag"))
    return _moment(document["time"] + manager.max_age) if manager.max_age and ages else None


def expired(manager: CacheManager, document: dict[str, Any]) -> bool:
    """Whether it is time to ask. A clock that was set back is no reason to trust what is here."""
    end = expiry(manager, document)
    ahead = bool(manager.max_age) and document.get("time", 0) > time.time()
    return end is not None and (ahead or end <= datetime.now(UTC))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def stale(manager: CacheManager, path: Path) -> bool:
    """Whether a read of an item would, at least in part, ask the source: for it, or whether it is still the same."""
    found = list(records(manager, path))
    return not found or any(_out_of_date(manager, file, document) for file, document in found)


def _out_of_date(manager: CacheManager, file: Path, document: dict[str, Any]) -> bool:
    generation = document.get("generation")
    changed = generation is not None and generation != manager.generations.now(manager.slots(file))
    return changed or expired(manager, document)


def note(manager: CacheManager, path: Path, **fields: Any) -> bool:
    """Write fields into the `.cache_info` of an item and of all below it. Whether there was one. Raises OSError."""
    noted = False
    for file, document in records(manager, path):
        with contextlib.suppress(FileNotFoundError), info.Directory(file.parent) as there:
            known = there.read(file.name)  # if it is discarded from now on, what is written goes with it
            if known is not None:
                there.write(file.name, info.seal({**known, **fields}))
                noted = True
        if "array" in document:  # let those who have it open look again
            manager.generations.change(manager.slots(file.parent))
    return noted


def touch(manager: CacheManager, path: Path) -> None:
    """Let an item, and all below it, count as read now. Raises OSError."""
    for file, document in records(manager, path):
        if "array" not in document:
            os.utime(file, (time.time(), file.stat().st_mtime))
            continue
        geometry, id = Geometry.from_json(document["array"]["geometry"]), document["array"]["id"]
        manager.register(id, file.parent, geometry, str(document.get("source_layer", "")))
        for name, size in _files(file.parent):
            if (chunk := chunk_index(geometry, name)) is not None:
                manager.inserted(id, [chunk], size)


def clean(manager: CacheManager) -> int:
    """Remove what has expired, and the least recently used chunks as far as there are too many. Bytes freed. Raises OSError.

    An array that is merely old stays: a question may be enough to go on using it.
    """
    freed = 0
    for file, document in list(records(manager, manager.cache_root)):
        if has_ended(document) if "array" in document else _out_of_date(manager, file, document):
            freed += _described(manager, file, document).size_bytes
            manager.discard(file.parent if "array" in document else file)
    return freed + manager.budget.shrink()
