"""One cache folder as one process uses it: what may be written, what must go, what went wrong, and the numbers.

Layout (the folder is itself a copick project that zarr tools can read):

    .cache_metadata/entries.db, stats.json, usage, locks   hints; all can be deleted at any time
    .cache_metadata/source                                  which place's data lies in the root; that of others is in sources/
    ExperimentRuns/.../X.zarr/N/.cache_info                 the truth about one cached array; its absence means "not cached"
    ExperimentRuns/.../X.zarr/N/<chunk>                     payload and CRC-32C
    ExperimentRuns/.../X.zarr/N/<chunk>.absent              the source has no such chunk
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from copick import _cachecore
from copick.cache import info
from copick.cache.geometry import Geometry, chunk_index, chunk_name
from copick.cache.journal import Journal
from copick.cache.locks import RangeLocks, SharedTotal
from copick.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from copick.cache.array import CachedArray

logger = logging.getLogger("copick.cache")

DiskFormat = Literal["auto", "raw", "encoded"]

LOW_WATER = 0.95
"""Eviction frees space down to this share of `max_size_bytes`, so that it is rarely needed."""
DRIFT = 0.1
"""The shared total and the index may differ by this share before the files are counted again."""
FREE_SHARE = 0.05
"""This share of the volume is left to others."""
LOCK_TIMEOUT_S = 60.0
"""How long another process may take to fetch a chunk before this one fetches it too."""
_EVICT_LOCK = 2
STALE_TEMPORARY_S = 3600
IDLE_BUFFER_S = 10.0
"""How long a result buffer waits for its next use before its memory is given back."""


class CacheManager:
    """The folder of one cache. Use `open_manager`, which gives one per folder and process."""

    def __init__(
        self,
        cache_root: str | os.PathLike[str],
        *,
        max_size_bytes: int = 10 << 30,
        max_age: float = 7 * 24 * 3600,
        disk_format: DiskFormat = "auto",
        decoded_bytes: int = 256 << 20,
        fetch_threads: int = 16,
    ) -> None:
        """Raises OSError if the folder cannot be made or written."""
        self.cache_root = Path(cache_root)
        self.max_size_bytes, self.max_age = max_size_bytes, max_age
        self.disk_format, self.fetch_threads = disk_format, fetch_threads
        metadata = self.cache_root / ".cache_metadata"
        metadata.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(metadata, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(metadata))
        self.db_path = metadata / "entries.db"
        self.native = _cachecore.Cache(decoded_bytes=decoded_bytes)
        self.locks = RangeLocks(metadata)
        self._usage = SharedTotal(metadata / "usage", self.locks)
        self.journal = Journal(self.db_path, self.native.drain, self._tick)
        self._layouts: dict[
            int, tuple[Path, Geometry]
        ] = {}  # array id → folder and geometry, to name files by
        self._evictions_seen = 0
        self._stats_written: dict[str, Any] = {}
        self.after_fork()

    def after_fork(self) -> None:
        """Set what belongs to one process. Also called in a forked child, where other threads and their locks are gone."""
        self.started = False
        self.arrays: weakref.WeakValueDictionary[str, CachedArray] = weakref.WeakValueDictionary()
        self._mutex = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._waiters: ThreadPoolExecutor | None = None
        self._flights: dict[tuple[str, int], Future[Any]] = {}
        self._warned: set[str] = set()
        self._counts: dict[str, int] = {}
        self.locks.after_fork()
        self._usage.after_fork()
        self.journal.after_fork()

    def start(self) -> None:
        """Begin background work in this process: at the first read, never before."""
        if not self.started:
            self.started = True
            self.journal.start()

    # Fetching

    def flight(self, key: tuple[str, int], work: Callable[[], Any]) -> Future[Any]:
        """The result of `work`, done once however many threads ask for `key` at the same time."""
        with self._mutex:
            if key in self._flights:
                return self._flights[key]
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.fetch_threads, thread_name_prefix="copick-fetch")
            future = self._flights[key] = self._pool.submit(work)
        future.add_done_callback(lambda _: self._flights.pop(key, None))
        return future

    @property
    def waiters(self) -> ThreadPoolExecutor:
        """Threads on which an event loop waits for fetches. Not the fetching ones: they would wait for themselves."""
        with self._mutex:
            if self._waiters is None:
                self._waiters = ThreadPoolExecutor(2 * self.fetch_threads, thread_name_prefix="copick-wait")
            return self._waiters

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[bool]:
        """Hold the lock of that name between processes; yields False if it took too long or locks do not work here."""
        with contextlib.ExitStack() as stack:
            held = False
            try:
                held = stack.enter_context(self.locks.hold(hash_name(name) | 1 << 60, LOCK_TIMEOUT_S))
            except OSError as error:
                self.failed("lock", error)
            else:
                if not held:
                    self.failed("lock", f"no lock within {LOCK_TIMEOUT_S:g} s: fetching without it")
            yield held

    # Budget

    def admit(self, size: int) -> bool:
        """Reserve `size` bytes, evicting if need be. False: there is no room, do not write."""
        try:
            if self.max_size_bytes and size > self.max_size_bytes:
                self.count("bypassed")
                return False
            self._add(size)
            if self._excess(size) <= 0 or self.evict(lambda: self._excess(size)) >= 0:
                return True
            self._add(-size)
        except OSError as error:
            self.failed("budget", error)
        self.count("bypassed")
        return False

    def _excess(self, size: int) -> int:
        """By how many bytes the cache is too large, or the volume too full, to write `size` bytes that are reserved already."""
        volume = shutil.disk_usage(self.cache_root)
        lacking = size + int(volume.total * FREE_SHARE) - volume.free
        return max(self._add(0) - self.max_size_bytes, lacking) if self.max_size_bytes else lacking

    def refund(self, size: int) -> None:
        """Give back what `admit` reserved and was not used."""
        with contextlib.suppress(OSError):
            self._add(-size)

    def _add(self, size: int) -> int:
        """Add to the shared total; recounts first if nobody knows it."""
        totals = self._usage.add(size)
        if totals is None:
            self.rescan()
            totals = self._usage.add(size) or (size, 0)
        return totals[0]

    def evict(self, excess: Callable[[], int]) -> int:
        """Remove the least recently used chunks until `excess()` is no more than 0, and some more (see LOW_WATER).

        Returns how much room that left; negative if it was not enough.
        """
        with self.locks.hold(_EVICT_LOCK, timeout=10) as held:
            if not held or (need := excess()) <= 0:  # the one who held the lock before us has made room
                return -excess()
            self.journal.flush()
            self._learn()
            need += int(self.max_size_bytes * (1 - LOW_WATER))
            freed, removed = 0, []
            while freed < need and (victims := self.native.victims(need - freed)):
                for key in victims:
                    size = self.native.index_remove(*key)
                    self.native.drop_block(*key)
                    layout = self._layouts.get(key[0])
                    if layout is not None and _unlink(layout[0] / chunk_name(layout[1], key[1])):
                        freed += size
                removed += victims
            self.journal.note_removed(removed)
            self._usage.add(-freed, evictions=1)
            self.count("evicted", len(removed))
            self.count("evicted_bytes", freed)
            return -excess()

    def _learn(self) -> None:
        """Take in what other processes cached; from the files if the database does not tell."""
        loaded = self.journal.load()
        if loaded is None or self.journal.rebuild_wanted:
            return self.rescan()
        arrays, rows = loaded
        for id, (folder, layout) in arrays.items():
            if id not in self._layouts:
                self._layouts[id] = (self.cache_root / folder, Geometry.from_json(layout))
        self.native.index_load(*rows)
        known, total = self.native.stats()["index_bytes"], self._add(0)
        if (
            abs(total - known) > total * DRIFT
        ):  # a writer died between reserving and writing, or somebody cleaned up by hand
            self.rescan()
        return None

    def rescan(self) -> None:
        """Make index, database and total anew from the files. Removes what crashed writers left behind."""
        self.journal.rebuild_wanted = False
        now = time.time()
        arrays: dict[int, tuple[str, dict[str, Any]]] = {}
        rows: list[tuple[int, int, int, int]] = []
        total = 0
        self.native.index_clear()
        for folder, geometry, id, files in self._cached_files(now):
            if geometry is None:
                total += sum(size for _, size, _ in files)
                continue
            self._layouts[id] = (folder, geometry)
            arrays[id] = (folder.relative_to(self.cache_root).as_posix(), geometry.to_json())
            for name, size, used in files:
                total += size
                if (chunk := chunk_index(geometry, name)) is not None:
                    rows.append((id, chunk, size, int(used * 1e6)))
        table = np.array(rows, np.uint64).reshape(-1, 4)
        self.native.index_load(*(np.ascontiguousarray(column) for column in table.T))
        self.journal.replace(arrays, rows)
        self._usage.set(total)
        self.count("rescans")

    def _cached_files(
        self, now: float
    ) -> Iterator[tuple[Path, Geometry | None, int, list[tuple[str, int, float]]]]:
        """Every cached array (folder, geometry, id) with its files (relative name, size, last use), and loose files."""
        pending: list[tuple[Path, Path, Geometry | None, int]] = [(self.cache_root, self.cache_root, None, 0)]
        while pending:
            folder, base, geometry, id = pending.pop()
            if folder.name == ".cache_metadata":
                continue
            if geometry is None and (found := read_layout(folder)) is not None:
                base, (geometry, id) = folder, found
            files = []
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((Path(entry.path), base, geometry, id))
                        continue
                    stat = entry.stat(follow_symlinks=False)
                    if entry.name.startswith(info.TEMPORARY):
                        if now - stat.st_mtime > STALE_TEMPORARY_S:
                            os.unlink(entry.path)
                        continue
                    used = max(stat.st_atime, stat.st_mtime)
                    files.append((os.path.relpath(entry.path, base).replace(os.sep, "/"), stat.st_size, used))
            yield base, geometry, id, files

    def _tick(self) -> None:
        """Upkeep on the journal's thread: heal the index, drop what others evicted, free idle buffers, write the statistics."""
        _cachecore.pool_trim(IDLE_BUFFER_S)
        if self.journal.rebuild_wanted:
            with self.locks.hold(_EVICT_LOCK, timeout=0) as held:
                if held:
                    self.rescan()
        totals = self._usage.add()
        if totals is not None and totals[1] != self._evictions_seen:
            self._evictions_seen = totals[1]
            for key in self.native.held():
                layout = self._layouts.get(key[0])
                if layout and not (layout[0] / chunk_name(layout[1], key[1])).exists():
                    self.native.drop_block(*key)
        if (stats := self.get_stats()) != self._stats_written:
            self.write_stats()
            self._stats_written = stats

    # Arrays

    def claim(self, layer: str, location: str) -> Path:
        """The folder for what comes from one place. The first place has the cache's root itself; others lie apart in `sources/`.

        So a cache folder that several projects or layers share never serves the data of one as another's.
        """
        digest = hashlib.sha256(location.encode()).hexdigest()
        owner = self.cache_root / ".cache_metadata" / "source"
        try:
            info.write(owner, info.seal({"location": digest, "layer": layer}), keep_first=True)
        except OSError as error:
            self.failed("metadata", error)
        first = info.read(owner)
        if first is not None and first.get("location") == digest:
            return self.cache_root
        return self.cache_root / "sources" / digest[:32]

    def register(self, id: int, folder: Path, geometry: Geometry) -> None:
        """Note an array whose chunks this process will read or write."""
        if id not in self._layouts:
            self._layouts[id] = (folder, geometry)
            self.journal.note_array(id, folder.relative_to(self.cache_root).as_posix(), geometry.to_json())

    def inserted(self, id: int, chunks: Iterable[int], size: int) -> int:
        """Note written chunks of `size` bytes each; returns how many bytes were there before."""
        stamp = int(time.time() * 1e6)
        written = list(chunks)
        self.journal.note_inserted(id, written, size, stamp)
        return sum(self.native.index_add(id, chunk, size, stamp) for chunk in written)

    def discard(self, path: Path) -> None:
        """Remove a cached item and all below it, in one step for every reader. Raises OSError."""
        for folder, array in list(self.arrays.items()):
            if Path(folder) == path or path in Path(folder).parents:
                del self.arrays[folder]
                array.forget()
        trash = self.cache_root / ".cache_metadata" / f"{info.TEMPORARY}{secrets.token_hex(8)}"
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return
        for id in [
            id for id, (folder, _) in self._layouts.items() if folder == path or path in folder.parents
        ]:
            self.native.drop_array(id)
            self.journal.note_discarded(id)
            del self._layouts[id]
        if not trash.is_dir():
            trash.unlink(missing_ok=True)
            return
        self.refund(sum(file.lstat().st_size for file in trash.rglob("*") if not file.is_dir()))
        shutil.rmtree(trash, ignore_errors=True)

    # What went wrong, and the numbers

    def failed(self, what: str, why: object) -> None:
        """Count a failure of the cache and say so once per kind. Never raises: the reader gets its data all the same."""
        self.count(f"failed_{what}")
        if what not in self._warned:
            self._warned.add(what)
            text = os.strerror(why) if isinstance(why, int) else why
            logger.warning(
                "cache %s: %s failed (%s); data comes from the source", self.cache_root, what, text
            )

    def count(self, what: str, more: int = 1) -> None:
        with self._mutex:
            self._counts[what] = self._counts.get(what, 0) + more

    def get_stats(self) -> dict[str, Any]:
        """Numbers of this process (hits, misses, fetches, failures), and the size of the folder."""
        with self._mutex:
            counts = dict(self._counts)
        try:
            totals = self._usage.add()
        except OSError:
            totals = None
        return {
            "cache_root": str(self.cache_root), "max_size_bytes": self.max_size_bytes,
            "size_bytes": totals[0] if totals else None, "journal_failures": self.journal.failures,
            **counts, **self.native.stats(),
        }  # fmt: skip

    def write_stats(self) -> None:
        """Leave a snapshot in `stats.json`, for people and monitoring. Raises OSError."""
        folder = self.db_path.parent
        if folder.is_dir():  # a cache that somebody deleted does not come back for this
            document = {"time": info.timestamp(), "pid": os.getpid(), **self.get_stats()}
            info.write(folder / "stats.json", json.dumps(document, indent=1).encode())

    def check(self) -> bool:
        """Recount everything that the native core counts."""
        return bool(self.native.check())

    def close(self) -> None:
        """Finish what is under way, write what is pending, end the threads. A later read begins again."""
        with self._mutex:
            pools, self._pool, self._waiters = (self._pool, self._waiters), None, None
        for pool in pools:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        if self.started:
            self.started = False
            self.journal.stop()
            with contextlib.suppress(OSError):
                self.write_stats()


def hash_name(name: str) -> int:
    """A number for a name, the same in every process."""
    data = name.encode()
    return int(_cachecore.crc32c(data) << 28 ^ _cachecore.crc32c(data[::-1]))


def read_layout(folder: Path) -> tuple[Geometry, int] | None:
    """Geometry and id of the array cached in `folder`; None if there is none."""
    document = info.read(folder / info.FILE)
    if document is None or "array" not in document:
        return None
    array = document["array"]
    return Geometry.from_json(array["geometry"]), int(array["id"])


def _unlink(path: Path) -> bool:
    """Whether the file was removed by us; that somebody else was faster is no error."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


_managers: dict[str, CacheManager] = {}
_managers_mutex = threading.Lock()


def open_manager(cache_root: str | os.PathLike[str], **limits: Any) -> CacheManager:
    """The manager of a folder, one per process. Raises OSError (see CacheManager) or CacheError."""
    root = os.path.realpath(cache_root)
    with _managers_mutex:
        manager = _managers.get(root)
        if manager is None:
            if os.path.exists(root) and not os.path.isdir(root):
                raise CacheError(f"the cache root {root} is not a directory")
            manager = _managers[root] = CacheManager(root, **limits)
        else:
            for name in ("max_size_bytes", "max_age", "disk_format"):
                setattr(manager, name, limits.get(name, getattr(manager, name)))
        return manager


def _after_fork() -> None:
    global _managers_mutex
    _managers_mutex = threading.Lock()
    for manager in _managers.values():
        manager.after_fork()


@atexit.register
def _close_all() -> None:
    for manager in _managers.values():
        manager.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
