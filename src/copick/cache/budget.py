"""How full the cache folder is, and what goes when it is too full.

All processes share one number: the bytes of all chunk files plus what is reserved for chunks being written. Which chunks there
are, and when each was used, every process knows roughly; whoever has to evict takes in first what the others wrote to the database.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from copick.cache import info
from copick.cache.geometry import Geometry, chunk_index, chunk_name
from copick.cache.locks import SharedTotal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from copick import _cachecore
    from copick.cache.journal import Journal
    from copick.cache.locks import RangeLocks

LOW_WATER: Final = 0.95
"""Eviction frees space down to this share of the limit, so that it is rarely needed."""
DRIFT: Final = 0.1
"""The shared number and the index may differ by this share before the files are counted again."""
DRIFT_BYTES: Final = 1 << 20
FREE_SHARE: Final = 0.05
"""This share of the volume is left to others."""
STALE_TEMPORARY_S: Final = 3600
_EVICT_LOCK: Final = 2
_COUNT_LOCK: Final = 3


@dataclass
class Reservation:
    """Room for chunks that are about to be written; what is not `written` in the end is given back."""

    size: int
    written: int = 0


class Budget:
    """The space of one cache folder, as one process sees it."""

    def __init__(
        self,
        root: Path,
        limit: int,
        native: _cachecore.Cache,
        journal: Journal,
        locks: RangeLocks,
        count: Callable[[str, int], None],
    ) -> None:
        """`limit` in bytes, 0 = none; `count` notes what happened in the statistics."""
        self.limit = limit
        self._root, self._native, self._journal = root, native, journal
        self._locks, self._count = locks, count
        self._usage = SharedTotal(root / ".cache_metadata" / "usage", locks)
        # Array id → its folder and geometry, to name files by.
        self.layouts: dict[int, tuple[Path, Geometry]] = {}
        self._evictions_seen = 0
        self.after_fork()

    def after_fork(self) -> None:
        # What this process has reserved and what the shared number says change together.
        self._books = threading.RLock()
        self._reserved = 0
        self._usage.after_fork()

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[Reservation | None]:
        """Room for `size` bytes while the block runs, evicting if need be; None if there is none. Raises OSError."""
        room = Reservation(size) if self._admit(size) else None
        try:
            yield room
        finally:
            if room is not None and room.written != size:
                self._add(room.written - size, reserving=-size)
            elif room is not None:  # the shared number is right as it is
                with self._books:
                    self._reserved -= size

    def _admit(self, size: int) -> bool:
        if self.limit and size > self.limit:
            return False
        admitted = False
        total = self._add(size, reserving=size)
        try:
            admitted = self._excess(size, total) <= 0 or self._evict(size)
        finally:
            if not admitted:
                self._add(-size, reserving=-size)
        return admitted

    def used(self) -> int | None:
        """Bytes of all chunk files and reservations; None if nobody has counted yet. Raises OSError."""
        totals = self._usage.add()
        return None if totals is None else totals[0]

    def release(self, size: int) -> None:
        """Chunk files of this many bytes were removed; other processes shall let go of them, too."""
        with contextlib.suppress(OSError):
            self._add(-size)
            self._usage.add(evictions=1)

    def _add(self, size: int, *, reserving: int = 0) -> int:
        """Add to the shared number; counts the files first if nobody knows it. Raises OSError."""
        with self._books:
            self._reserved += reserving
            try:
                totals = self._usage.add(size)
            except OSError:
                self._reserved -= reserving
                raise
            if totals is None:
                with self._locks.hold(_COUNT_LOCK, timeout=30):
                    totals = self._usage.add(size)  # another process may have counted meanwhile
                    if totals is None:
                        self.rescan()  # the files as they are and all that is reserved: `size` is in it
                        totals = self._usage.add() or (max(size, 0), 0)
            return totals[0]

    def _excess(self, size: int, total: int | None = None) -> int:
        """By how many bytes the cache is too large, or the volume too full, to write `size` bytes that are reserved."""
        volume = shutil.disk_usage(self._root)
        # What other threads have reserved will be written too.
        lacking = max(size, self._reserved) + int(volume.total * FREE_SHARE) - volume.free
        if not self.limit:
            return lacking
        return max((self._add(0) if total is None else total) - self.limit, lacking)

    def _evict(self, size: int) -> bool:
        """Remove the least recently used chunks until there is room, and some more. Whether there is."""
        with self._locks.hold(_EVICT_LOCK, timeout=10) as held:
            if not held or (need := self._excess(size)) <= 0:  # who held the lock before us has made room
                return self._excess(size) <= 0
            self._journal.flush()
            self._learn()
            need += int(self.limit * (1 - LOW_WATER))
            freed, removed = 0, []
            while freed < need and (victims := self._native.victims(need - freed)):
                for key in victims:
                    bytes_of_it = self._native.index_remove(*key)
                    self._native.drop_block(*key)
                    layout = self.layouts.get(key[0])
                    if layout is not None and _unlink(layout[0] / chunk_name(layout[1], key[1])):
                        freed += bytes_of_it
                removed += victims
            self._journal.note_removed(removed)
            self._usage.add(-freed, evictions=1)
            self._count("evicted", len(removed))
            self._count("evicted_bytes", freed)
            return self._excess(size) <= 0

    def shrink(self) -> int:
        """Remove what is too much, if anything. Bytes freed. Raises OSError."""
        before = self._add(0)
        if self._excess(0, before) > 0:
            self._evict(0)
        return max(before - self._add(0), 0)

    def _learn(self) -> None:
        """Take in what other processes cached; from the files if the database does not tell."""
        loaded = None if self._journal.rebuild_wanted else self._journal.load()
        if loaded is None:
            return self.rescan()
        arrays, rows = loaded
        try:
            for id, (folder, layout) in arrays.items():
                if id not in self.layouts:
                    self.layouts[id] = (self._root / folder, Geometry.from_json(layout))
        except (KeyError, TypeError, ValueError):  # a row that no version of ours wrote
            return self.rescan()
        self._native.index_load(*rows)
        known, total = self._native.stats()["index_bytes"], self._add(0) - self._reserved
        if abs(total - known) > total * DRIFT + DRIFT_BYTES:  # a writer died, or somebody cleaned up by hand
            self.rescan()
        return None

    def heal(self) -> None:
        """Count the files again if the database was lost; drop what other processes evicted. Raises OSError."""
        if self._journal.rebuild_wanted:
            with self._locks.hold(_EVICT_LOCK, timeout=0) as held:
                if held:
                    self.rescan()
        totals = self._usage.add()
        if totals is not None and totals[1] != self._evictions_seen:
            self._evictions_seen = totals[1]
            for key in self._native.held():
                layout = self.layouts.get(key[0])
                if layout and not (layout[0] / chunk_name(layout[1], key[1])).exists():
                    self._native.drop_block(*key)  # a held mapping keeps the space of an unlinked file

    def rescan(self) -> None:
        """Make index, database and number anew from the files. Removes what crashed processes left behind. Raises OSError."""
        with (
            self._books
        ):  # what this process reserves waits: it must be in the number once, not twice or never
            self._rescan()

    def _rescan(self) -> None:
        self._journal.rebuild_wanted = False
        arrays: dict[int, tuple[str, dict[str, Any]]] = {}
        rows: list[tuple[int, int, int, int]] = []
        self._native.index_clear()
        for folder, (geometry, id), files in cached_files(self._root):
            self.layouts[id] = (folder, geometry)
            arrays[id] = (folder.relative_to(self._root).as_posix(), geometry.to_json())
            for name, size, used in files:
                if (chunk := chunk_index(geometry, name)) is not None:
                    rows.append((id, chunk, size, int(used * 1e6)))
        table = np.array(rows, np.uint64).reshape(-1, 4)
        self._native.index_load(*(np.ascontiguousarray(column) for column in table.T))
        self._journal.replace(arrays, rows)
        self._usage.set(sum(size for _, _, size, _ in rows) + self._reserved)
        self._count("rescans", 1)


def read_layout(folder: Path) -> tuple[Geometry, int] | None:
    """Geometry and id of the array cached in `folder`; None if there is none."""
    document = info.read(folder / info.FILE)
    if document is None or "array" not in document:
        return None
    try:
        return Geometry.from_json(document["array"]["geometry"]), int(document["array"]["id"])
    except (KeyError, TypeError, ValueError):
        return None


def cached_files(root: Path) -> Iterator[tuple[Path, tuple[Geometry, int], list[tuple[str, int, float]]]]:
    """Every cached array (folder, geometry and id) with files of it (relative name, size, last use)."""
    stale = time.time() - STALE_TEMPORARY_S
    pending: list[tuple[Path, Path, tuple[Geometry, int] | None]] = [(root, root, None)]
    while pending:
        folder, base, layout = pending.pop()
        if layout is None and (layout := read_layout(folder)) is not None:
            base = folder
        files = []
        try:
            entries = list(os.scandir(folder))
        except OSError:  # gone meanwhile
            continue
        for entry in entries:
            with contextlib.suppress(OSError):
                stat = entry.stat(follow_symlinks=False)
                if entry.name.startswith(info.TEMPORARY):
                    if stat.st_mtime < stale:
                        _remove(Path(entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    pending.append((Path(entry.path), base, layout))
                else:
                    name = os.path.relpath(entry.path, base).replace(os.sep, "/")
                    files.append((name, stat.st_size, max(stat.st_atime, stat.st_mtime)))
        if layout is not None:
            yield base, layout, files


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unlink(path: Path) -> bool:
    """Whether the file was removed by us; that somebody else was faster is no error."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
