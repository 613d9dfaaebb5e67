"""One cache folder as one process uses it: fetching once, keeping apart what belongs apart, what went wrong, and the numbers.

Layout (the folder is itself a copick project that zarr tools can read):

    .cache_metadata/entries.db, stats.json, locks          hints; all can be deleted at any time
    .cache_metadata/usage, epochs                           so are these: bytes in the folder, when epochs of training began
    .cache_metadata/generations                             what changed, see generations.py; can be deleted, too
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
import stat
import threading
import time
import weakref
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from copick import _cachecore
from copick.cache import info, items
from copick.cache.budget import Budget, Policy
from copick.cache.folder import KEPT, waiting_bytes
from copick.cache.generations import Generations, slots_of
from copick.cache.journal import Journal
from copick.cache.locks import RangeLocks
from copick.cache.pool import DaemonPool, Foreground
from copick.errors import CacheError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fsspec import AbstractFileSystem

    from copick.cache.array import CachedArray
    from copick.cache.generations import Moment, Slots
    from copick.cache.geometry import Geometry
    from copick.cache.info import CacheInfo

logger = logging.getLogger("copick.cache")

DiskFormat = Literal["auto", "raw", "encoded"]

LOCK_TIMEOUT_S: Final = 60.0
"""How long another process may take to fetch a chunk before this one fetches it too."""
EXIT_TIMEOUT_S: Final = 1.0
"""How long the end of the interpreter waits for chunks that are being fetched."""
IDLE_BUFFER_S: Final = 10.0
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
        policy: Policy = "lru",
        quotas: Mapping[str, int] | None = None,
        mode: int = 0o700,
    ) -> None:
        """`mode`: permissions of a folder that is made; all in it has them. Raises OSError if it cannot be made or written."""
        self.cache_root = Path(os.path.realpath(cache_root))
        self.max_age, self.disk_format, self.fetch_threads = max_age, disk_format, fetch_threads
        metadata = self.cache_root / ".cache_metadata"
        for folder in (self.cache_root, metadata):
            _make(folder, mode)
        if not os.access(metadata, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(metadata))
        self.db_path = metadata / "entries.db"
        self._decoded_bytes = decoded_bytes
        self.native = _cachecore.Cache(decoded_bytes=decoded_bytes)
        self.locks = RangeLocks(metadata)
        self.generations = Generations(metadata / "generations", self.native, self.locks)
        self.journal = Journal(self.db_path, self.native.drain, self._tick)
        self.budget = Budget(
            self.cache_root, max_size_bytes, self.native, self.journal, self.locks, self.count, self.drop
        )
        self.budget.policy, self.budget.quotas = policy, dict(quotas or {})
        self._stats_written: dict[str, Any] = {}
        self.after_fork()

    def after_fork(self) -> None:
        """Set what belongs to one process. Also called in a forked child, where other threads and their locks are gone."""
        self.started = False
        # By folder and place: a folder may hold the arrays of another place by and by. Those that the parent opened are read on.
        self.arrays: weakref.WeakValueDictionary[tuple[str, str], CachedArray] = weakref.WeakValueDictionary(
            getattr(self, "arrays", {})
        )
        self._mutex = threading.Lock()
        self.foreground = Foreground()
        self._pool: DaemonPool | None = None
        self._waiters: DaemonPool | None = None
        self._flights: dict[tuple[str, int], Future[Any]] = {}
        self._warned: set[str] = set()
        self._counts: dict[str, int] = {}
        self.locks.after_fork()
        self.generations.after_fork()
        self.journal.after_fork()
        self.budget.after_fork()

    @property
    def max_size_bytes(self) -> int:
        """The limit of all chunk files together; 0 = none."""
        return self.budget.limit

    @property
    def limits(self) -> dict[str, Any]:
        """What `open_manager` takes, to open the same cache in another process."""
        return {
            "max_size_bytes": self.max_size_bytes, "max_age": self.max_age, "disk_format": self.disk_format,
            "decoded_bytes": self._decoded_bytes, "policy": self.budget.policy, "quotas": self.budget.quotas,
        }  # fmt: skip

    def start(self) -> None:
        """Begin background work in this process: at the first read, never before."""
        if not self.started:
            self.started = self.journal.start()

    # Fetching

    def flight(self, key: tuple[str, int], work: Callable[[], Any]) -> Future[Any]:
        """The result of `work`, done once however many threads ask for `key` at the same time."""
        with self._mutex:
            if key in self._flights:
                return self._flights[key]
            if self._pool is None:
                self._pool = DaemonPool(self.fetch_threads, "copick-fetch")
            pool, future = self._pool, Future[Any]()
            self._flights[key] = future

        def landed(flight: Future[Any]) -> None:
            if self._flights.get(key) is flight:  # else it was disowned, and another has taken its place
                self._flights.pop(key, None)

        future.add_done_callback(landed)
        try:
            pool.fulfil(future, work)
        except BaseException:
            future.cancel()
            raise
        return future

    @property
    def waiters(self) -> DaemonPool:
        """Threads on which an event loop waits for fetches. Not the fetching ones: they would wait for themselves."""
        with self._mutex:
            if self._waiters is None:
                self._waiters = DaemonPool(2 * self.fetch_threads, "copick-wait")
            return self._waiters

    @contextlib.contextmanager
    def exclusive(self, name: str, *, within: bool = False) -> Iterator[bool]:
        """Hold the lock of that name between processes; yields False if it took too long or locks do not work here.

        `within`: its holders hold another such lock all the while.
        """
        with contextlib.ExitStack() as stack:
            held = False
            try:
                held = stack.enter_context(
                    self.locks.hold(hash_name(name) | (2 if within else 1) << 60, LOCK_TIMEOUT_S)
                )
            except OSError as error:
                self.failed("lock", error)
            else:
                if not held:
                    self.failed("lock", f"no lock within {LOCK_TIMEOUT_S:g} s: fetching without it")
            yield held

    def _tick(self) -> None:
        """Upkeep on the journal's thread, every few seconds. Raises OSError."""
        _cachecore.pool_trim(IDLE_BUFFER_S)
        for reference in self.arrays.valuerefs():
            if (array := reference()) is not None:
                array.look_after()
        self.generations.renew()
        self.budget.heal()
        if (stats := self.get_stats()) != self._stats_written:
            self.write_stats()
            self._stats_written = stats

    # Places and arrays

    def claim(self, layer: str, location: str) -> tuple[Path, info.Origin]:
        """The folder for what comes from one place, and what marks it as such.

        The first place has the cache's root itself; others lie apart in `sources/`. So projects and layers can share a cache
        folder. That none is served another's data does not depend on it: each cached item says where it came from.
        """
        origin = info.Origin(layer, hashlib.sha256(location.encode()).hexdigest())
        owner = self.cache_root / ".cache_metadata" / "source"
        try:
            info.write(owner, info.seal({"place": origin.place, "layer": layer}), keep_first=True)
        except OSError as error:
            self.failed("metadata", error)
        first = info.read(owner)
        own = first is not None and first.get("place") == origin.place
        return (self.cache_root if own else self.cache_root / "sources" / origin.place[:32]), origin

    def register(self, id: int, folder: Path, geometry: Geometry, layer: str) -> None:
        """Note an array whose chunks this process will read or write."""
        if self.budget.note_array(id, folder, geometry, layer, read=True):
            layout = {**geometry.to_json(), "layer": layer}
            self.journal.note_array(id, folder.relative_to(self.cache_root).as_posix(), layout)

    def inserted(self, id: int, chunks: Iterable[int], size: int) -> dict[int, int]:
        """Note written chunks of `size` bytes each; how many bytes of each were noted before."""
        stamp = int(time.time() * 1e6)
        written = list(chunks)
        self.journal.note_inserted(id, written, size, stamp)
        return {chunk: self.native.index_add(id, chunk, size, stamp) for chunk in written}

    # What stopped being true

    def slots(self, path: Path) -> Slots:
        """What tells, to `generations`, that the item at `path` or a folder above it was discarded."""
        root, item = os.fspath(self.cache_root), os.fspath(path)
        if item == root:
            return slots_of("")
        if not item.startswith(root + os.sep):
            raise ValueError(f"{item} is not in the cache {root}")
        return slots_of(item[len(root) + 1 :])

    def moment(self, path: Path) -> Moment:
        """To be taken before something is asked for that is kept at `path`."""
        return self.generations.moment(self.slots(path))

    @contextlib.contextmanager
    def changing(self, *paths: Path) -> Iterator[None]:
        """Around a change of these items at their source: it is not seen here before, but in every process after the block.

        What is cached of them, and of all below, is discarded before the change, too, and nothing is kept while it goes on: should
        the process be killed, the source is asked for whatever it has then.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.generations.writing(*map(self.slots, paths)))
            except OSError as error:
                self.failed("lock", error)
            self.forget(*paths)
            try:
                yield
            finally:
                self.forget(*paths)

    def forget(self, *paths: Path) -> None:
        """As `discard`, for several items; says in the log what could not be done."""
        for path in paths:
            try:
                self.discard(path)
            except OSError as error:
                self.failed("invalidate", error)

    def discard(self, path: Path) -> int:
        """Forget a cached item and all below it, in every process; returns the bytes freed. Raises OSError."""
        slots = self.slots(path)
        # First, so that nothing is kept that was asked for before; then, so that nobody goes on with what was there.
        self.generations.change(slots)
        if (freed := self.remove(path)) is not None:
            self.generations.change(slots)
        return freed or 0

    def outdated(self, path: Path) -> None:
        """Ask again for the listings and documents at and below a folder; arrays stay."""
        try:
            self.generations.change(self.slots(path))
        except OSError as error:
            self.failed("invalidate", error)

    def remove(self, path: Path) -> int | None:
        """Remove a cached item and all below it from disk, in one step. The bytes freed; None: there was none. Raises OSError."""
        try:
            moved = self._into_trash(path)
        except OSError as error:
            if error.errno == errno.ELOOP:  # a symbolic link on the way: what lies behind it is not ours
                raise
            # A system that does not move what is in use: without its `.cache_info` nothing of an array is used.
            for file in path.rglob(f"{info.FILE}*"):
                file.unlink(missing_ok=True)
            return 0
        if moved is None:
            return None
        trash = Path(moved)
        if trash.is_symlink() or not trash.is_dir():
            freed = trash.lstat().st_size
            trash.unlink(missing_ok=True)
            if path.name.startswith(f"{info.FILE}."):
                self.budget.add_documents(-freed)
            return freed
        freed, found = self.budget.release(trash)
        known = list(self.budget.layouts.items())
        for id in {*found, *(id for id, (folder, _) in known if folder == path or path in folder.parents)}:
            self.drop(id)
        shutil.rmtree(trash, ignore_errors=True)
        return freed

    def _into_trash(self, path: Path) -> str | None:
        """Where a cached item was moved to; None if there was none. Raises OSError."""
        # A writer comes here for each chunk, mostly in vain: no work before it is known that there is something.
        trash = f"{self.db_path.parent}{os.sep}{info.TEMPORARY}{secrets.token_hex(8)}"
        try:
            with info.Directory(path.parent) as there:
                try:
                    there.move(path.name, trash)
                except FileNotFoundError:
                    if not os.path.lexists(path):
                        return None
                    self.db_path.parent.mkdir(mode=0o700, exist_ok=True)  # somebody deleted it
                    there.move(path.name, trash)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(path):
                raise
            return None
        return trash

    def drop(self, id: int) -> None:
        """Forget an array that is gone from disk."""
        self.budget.forget_array(id)
        self.native.drop_array(id)
        self.journal.note_discarded(id)

    # Looking after the folder. Items are named by their paths, see `items`

    def get_info(self, path: str | os.PathLike[str] = "") -> CacheInfo | None:
        """What is known about a cached item, or about all of a folder; None if nothing is cached there."""
        return items.describe(self, items.path_of(self, path))

    def is_stale(self, path: str | os.PathLike[str]) -> bool:
        """Whether an item is not cached, has expired, or was changed since it was cached."""
        return items.stale(self, items.path_of(self, path))

    def set_cache_entry(
        self,
        path: str | os.PathLike[str],
        *,
        expires_at: datetime | None = None,
        etag: str | None = None,
    ) -> None:
        """State when a cached item, and all below it, shall no longer be used, and which version of the source's data it is.

        Args:
            expires_at: None = arrays never expire, listings and documents after `max_age`. Naive times are local. An array that
                is in use is looked at when it is next opened, or by `cleanup`.
            etag: None = unknown.

        Raises:
            NotFoundError: Nothing is cached there.
            OSError: It could not be written.
        """
        end = None if expires_at is None else expires_at.astimezone(UTC).isoformat()
        if not items.note(self, items.path_of(self, path), expires_at=end, etag=etag):
            raise NotFoundError(f"nothing is cached at {os.fspath(path)!r} in {self.cache_root}")

    def update_access_time(self, path: str | os.PathLike[str]) -> None:
        """Let an item, and all below it, count as read now: it is the last to be evicted. Raises OSError."""
        items.touch(self, items.path_of(self, path))

    def invalidate(self, path: str | os.PathLike[str] | None = None) -> None:
        """As `clear_path`; None = everything."""
        self.clear_path(path or "")

    def clear_all(self) -> int:
        """Forget everything that is cached, in every process; bytes freed. Changes that are pending stay. Raises OSError."""
        slots = self.slots(self.cache_root)
        self.generations.change(slots)
        cached = [Path(entry.path) for entry in os.scandir(self.cache_root) if entry.name not in KEPT]
        freed = sum(self.remove(path) or 0 for path in cached)
        self.generations.change(slots)
        return freed

    def clear_path(self, path: str | os.PathLike[str]) -> int:
        """Forget what is cached at a path and below, in every process; bytes freed. "" is everything.

        Raises:
            NotFoundError: The path leads out of the cache.
            OSError: Something could not be removed.
        """
        folder = items.path_of(self, path)
        if folder == self.cache_root:
            return self.clear_all()
        return self.discard(folder) + self.discard(folder.with_name(f"{info.FILE}.{folder.name}"))

    def cleanup(self) -> int:
        """Remove what has expired, and the least recently used chunks while there are too many. Bytes freed. Raises OSError."""
        return items.clean(self)

    @property
    def fs(self) -> AbstractFileSystem:
        """The filesystem that the cache lies in."""
        from fsspec import filesystem

        return filesystem("file")

    def remember(self, file: Path, document: bytes) -> None:
        """Keep a listing or document in a file, if there is room for it. Raises OSError."""
        before = file.stat().st_size if file.exists() else 0
        if self.budget.admits_document(len(document) - before):
            info.write(file, document)
            self.budget.add_documents(len(document) - before)
        else:
            self.count("refused_documents")

    def new_epoch(self, number: int | None = None) -> None:
        """An epoch of training begins: what the policy `epoch` goes by, in all processes that use the cache folder.

        Say so at the beginning of each epoch, once or from every process of the training. Without it, an epoch is taken to be over
        after as many uses of chunks as the arrays have that are read.

        Args:
            number: What the trainer calls this epoch; further calls with the same number mean the same epoch.
        """
        try:
            self.budget.epochs.begin(number)
        except OSError as error:
            self.failed("epoch", error)

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
        """Numbers of this process, and what lies in the folder, by whichever process.

        Of the folder: `size_bytes` of chunks, `document_bytes` of listings and documents (None: not counted yet), `dirty_bytes` of
        changes that wait to be passed on, which are never evicted. Of this process: `hits` (in memory, on disk, and of nothing but
        fill value), `evictions` and `absent_chunks` (found to be nothing but fill value) count cached chunks, `misses` and
        `decodes` those of the source (`decodes` also encoded ones of the cache), `bytes_saved` is the size of the chunk of each
        hit, `failures` what the cache failed at, by kind. The rest are counters of how it works.
        """
        with self._mutex:
            counts = dict(self._counts)
        usage = None
        with contextlib.suppress(OSError):
            usage = self.budget.ledger.add()
        native = self.native.stats()
        failures = {
            kind.removeprefix("failed_"): n for kind, n in counts.items() if kind.startswith("failed_")
        }
        failures.update(
            journal=self.journal.failures, corrupt=native["corrupt"], load=native["load_failures"]
        )
        return {
            "cache_root": str(self.cache_root), "max_size_bytes": self.max_size_bytes,
            "size_bytes": None if usage is None else usage.size,
            "document_bytes": None if usage is None else usage.documents,
            "dirty_bytes": waiting_bytes(self.cache_root),
            "hits": {"memory": native["chunk_hits"], "disk": native["chunk_loads"], "absent": native["fills"]},
            "misses": 0,
            "bytes_fetched": counts.get("fetched_bytes", 0), "bytes_saved": native["saved_bytes"],
            "decodes": counts.get("fetched_cells", 0) + counts.get("decoded", 0),
            "evictions": counts.get("evicted", 0), "absent_chunks": native["absents"],
            "failures": {kind: n for kind, n in failures.items() if n},
            "policy": self.budget.policy,
            "journal_failures": self.journal.failures, **counts, **native,
        }  # fmt: skip

    def write_stats(self) -> None:
        """Leave a snapshot in `stats.json`, for people and monitoring. Raises OSError."""
        folder = self.db_path.parent
        if folder.is_dir():  # a cache that somebody deleted does not come back for this
            document = {"time": info.timestamp(), "pid": os.getpid(), **self.get_stats()}
            info.write(folder / "stats.json", json.dumps(document, indent=1).encode())

    def check(self) -> bool:
        """Recount everything that the native core counts."""
        return self.native.check()

    def close(self, timeout: float | None = None) -> None:
        """Finish what is under way, write what is pending, end the threads. A later read begins again."""
        with self._mutex:
            pools, self._pool, self._waiters = (self._pool, self._waiters), None, None
        for pool in pools:
            if pool is not None:
                pool.shutdown(cancel_futures=True, timeout=timeout)
        if self.started:
            self.started = False
            self.journal.stop()
            with contextlib.suppress(OSError):
                self.write_stats()


def _make(folder: Path, mode: int) -> None:
    """Make a folder with just this mode, whatever the umask; with the group's rights, new files are the group's. Raises OSError."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=mode & 0o700, exist_ok=True)
    if mode & 0o077:
        folder.chmod(mode | (stat.S_ISGID if mode & 0o020 else 0))


def hash_name(name: str) -> int:
    """A number of 60 bits for a name, the same in every process."""
    data = name.encode()
    return _cachecore.crc32c(data) << 28 ^ _cachecore.crc32c(data[::-1])


_managers: dict[str, CacheManager] = {}
_managers_mutex = threading.Lock()


def open_manager(
    cache_root: str | os.PathLike[str],
    *,
    max_size_bytes: int = 10 << 30,
    max_age: float = 7 * 24 * 3600,
    disk_format: DiskFormat = "auto",
    decoded_bytes: int = 256 << 20,
    policy: Policy = "lru",
    quotas: Mapping[str, int] | None = None,
    mode: int = 0o700,
) -> CacheManager:
    """The manager of a folder, one per process; the latest limits count. Raises OSError or CacheError."""
    root = os.path.realpath(cache_root)
    with _managers_mutex:
        manager = _managers.get(root)
        if manager is None:
            if os.path.exists(root) and not os.path.isdir(root):
                raise CacheError(f"the cache root {root} is not a directory")
            manager = _managers[root] = CacheManager(root, decoded_bytes=decoded_bytes, mode=mode)
        manager.budget.limit, manager.max_age, manager.disk_format = max_size_bytes, max_age, disk_format
        manager.budget.policy, manager.budget.quotas = policy, dict(quotas or {})
        return manager


def _after_fork() -> None:
    global _managers_mutex
    _managers_mutex = threading.Lock()
    for manager in _managers.values():
        manager.after_fork()


@atexit.register
def _close_all() -> None:
    for manager in _managers.values():
        manager.close(timeout=EXIT_TIMEOUT_S)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
