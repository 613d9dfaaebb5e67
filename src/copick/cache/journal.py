"""`entries.db`: which chunks lie in the cache folder, and when each was last used. A hint: losing it costs no data.

One writer thread per process, started at the first read, takes what the native core noted (a lossy ring of touches) and what was
inserted or removed, and writes it in one transaction every few seconds. A batch that cannot be written is dropped. The database has
no write-ahead log: rare batches gain nothing from it, and its use by many processes has had corrupting bugs (SQLite before 3.51.3).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from copick.cache import info
from copick.util import gates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

logger = logging.getLogger("copick.cache")

SCHEMA = 1
INTERVAL_S = 5.0
BATCH = 1000
PATIENCE_S = 1.0
"""How long one use of the database waits for another process; after that has been in vain, none waits for a while."""
_TABLES = """
CREATE TABLE IF NOT EXISTS arrays (id INTEGER PRIMARY KEY, folder TEXT NOT NULL, layout TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (array INTEGER NOT NULL, chunk INTEGER NOT NULL, bytes INTEGER NOT NULL,
                                   accessed INTEGER NOT NULL, PRIMARY KEY (array, chunk)) WITHOUT ROWID;
"""

_FOUND = """
CREATE TEMP TABLE found (array INTEGER, chunk INTEGER, bytes INTEGER, accessed INTEGER, PRIMARY KEY (array, chunk)) WITHOUT ROWID
"""
_TAKE_IN = """
INSERT INTO chunks SELECT * FROM found WHERE true
ON CONFLICT (array, chunk) DO UPDATE SET bytes = excluded.bytes, accessed = max(accessed, excluded.accessed)
"""

_DAMAGED = (sqlite3.Error, ValueError, TypeError, OverflowError)
"""What a damaged database raises: sqlite3 even fails to decode its own error texts, and rows may hold anything."""

Rows = npt.NDArray[np.uint64]
"""Chunks, (4, n): array, chunk, bytes, accessed (microseconds)."""


class Journal:
    """The database of one cache folder, as one process uses it."""

    def __init__(
        self, path: Path, drain: Callable[[], npt.NDArray[np.uint64]], tick: Callable[[], None]
    ) -> None:
        self.path = path
        self.rebuild_wanted = False
        self.failures = 0
        self.written_until = 0
        """What was noted here before this time (microseconds) is in the database."""
        self._impatient_until = 0.0
        self._drain, self._tick = drain, tick
        self.after_fork()

    def after_fork(self) -> None:
        """Forget threads, locks and pending rows: in a forked child they are the parent's."""
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._arrays: dict[int, tuple[str, str]] = {}
        self._inserted: dict[tuple[int, int], tuple[int, int]] = {}
        self._removed: list[tuple[int, int]] = []
        self._discarded: list[int] = []
        self._touches: list[npt.NDArray[np.uint64]] = []
        self._draining = threading.Lock()
        self._flushing = threading.Lock()

    def start(self) -> bool:
        """Start the writer thread, once per process. Whether it runs."""
        with self._wake:
            if self._thread is not None and not self._thread.is_alive():
                self._thread = None
            if self._thread is None and not self._stopping:
                thread = threading.Thread(target=self._run, name="copick-journal", daemon=True)
                with contextlib.suppress(RuntimeError):  # the system has no more threads
                    thread.start()
                    self._thread = thread
            return self._thread is not None

    def note_array(self, id: int, folder: str, layout: dict[str, Any]) -> None:
        with self._wake:
            self._arrays[id] = (folder, json.dumps(layout))

    def note_inserted(self, array: int, chunks: Iterable[int], size: int, stamp: int) -> None:
        with self._wake:
            self._inserted.update({(array, chunk): (size, stamp) for chunk in chunks})
            if len(self._inserted) >= BATCH:
                self._wake.notify()

    def note_removed(self, keys: Iterable[tuple[int, int]]) -> None:
        with self._wake:
            for key in keys:
                self._inserted.pop(key, None)
                self._removed.append(key)

    def note_discarded(self, array: int) -> None:
        """A whole array is gone."""
        with self._wake:
            self._arrays.pop(array, None)
            self._inserted = {key: row for key, row in self._inserted.items() if key[0] != array}
            self._discarded.append(array)

    def stop(self) -> None:
        """Write what is pending and end the thread. Takes at most a few seconds."""
        with self._wake:
            thread, self._thread, self._stopping = self._thread, None, True
            self._wake.notify()
        if thread is not None:
            thread.join(timeout=5)
        with self._wake:
            self._stopping = False

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._stopping:
                    self._wake.wait(INTERVAL_S)
                stopping = self._stopping
            if not stopping:
                try:
                    self._tick()
                except OSError as error:
                    logger.debug("cache upkeep failed: %s", error)
                except Exception:  # without this thread, what is noted would pile up
                    logger.exception("cache upkeep failed")
            self.flush()
            if stopping:
                return

    def drain(self) -> None:
        """Make the native index see all uses so far; they are written with what else is pending."""
        with self._draining:
            touches = self._drain()
            if touches.size:
                self._touches.append(touches)

    def flush(self) -> bool:
        """Write what is pending, now. False if it could not be written and was dropped."""
        with self._flushing:
            began = int(time.time() * 1e6) - 1_000_000  # what was written just now may not be noted yet
            self.drain()
            with self._draining:
                drained, self._touches = self._touches, []
            with self._wake:
                arrays, self._arrays = self._arrays, {}
                inserted, self._inserted = self._inserted, {}
                removed, self._removed = self._removed, []
                discarded, self._discarded = self._discarded, []
            if not (arrays or inserted or removed or discarded or drained):
                self.written_until = began
                return True
            try:
                with self._open() as db:
                    db.execute("BEGIN IMMEDIATE")
                    for table, column in (("arrays", "id"), ("chunks", "array")):
                        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(id,) for id in discarded])
                    db.executemany(
                        "INSERT OR REPLACE INTO arrays VALUES (?, ?, ?)",
                        [(id, *row) for id, row in arrays.items()],
                    )
                    db.executemany("DELETE FROM chunks WHERE array = ? AND chunk = ?", removed)
                    db.executemany(
                        "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)",
                        [(*key, *row) for key, row in inserted.items()],
                    )
                    for touches in drained:
                        array, chunk, stamp = (column.tolist() for column in touches)
                        db.executemany(
                            "UPDATE chunks SET accessed = max(accessed, ?) WHERE array = ? AND chunk = ?",
                            zip(stamp, array, chunk, strict=True),
                        )
                    db.execute("COMMIT")
            except _DAMAGED as error:
                self._failed(error)
                return False
            self.written_until = began
            return True

    def load(self) -> tuple[dict[int, tuple[str, dict[str, Any]]], Rows] | None:
        """All arrays (id → folder, layout) and all chunks. None if the database is of no use."""
        if not self.path.exists():
            return None
        try:
            with self._open() as db:
                arrays = {
                    id: (folder, json.loads(layout))
                    for id, folder, layout in db.execute("SELECT * FROM arrays")
                }
                rows = chain.from_iterable(db.execute("SELECT array, chunk, bytes, accessed FROM chunks"))
                table = np.fromiter(rows, np.uint64).reshape(-1, 4)
        except _DAMAGED as error:
            self._failed(error)
            return None
        return arrays, table.T

    def last_access(self, array: int) -> int | None:
        """When a chunk of an array was last used (microseconds since 1970), as far as the database knows."""
        if not self.path.exists():
            return None
        try:
            with self._open() as db:
                (latest,) = db.execute(
                    "SELECT max(accessed) FROM chunks WHERE array = ?", (array,)
                ).fetchone()
        except _DAMAGED as error:
            self._failed(error)
            return None
        return None if latest is None else int(latest)

    def arrays(self) -> set[int]:
        """The arrays that the database tells of."""
        if not self.path.exists():
            return set()
        try:
            with self._open() as db:
                return {int(id) for (id,) in db.execute("SELECT id FROM arrays")}
        except _DAMAGED as error:
            self._failed(error)
            return set()

    def replace(
        self,
        arrays: dict[int, tuple[str, dict[str, Any]]],
        rows: Iterable[Sequence[int]],
        since: int,
        before: Iterable[int] = (),
    ) -> None:
        """Make the database say what a look at the files found that began at `since` (microseconds); later uses stay.

        `before`: the arrays that it told of then; those that were not found are gone.
        """
        try:
            with self._open() as db:
                db.execute("BEGIN IMMEDIATE")
                db.execute(_FOUND)
                db.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?)", rows)
                db.execute(
                    "DELETE FROM chunks WHERE accessed < ? AND (array, chunk) NOT IN (SELECT array, chunk FROM found)",
                    [since],
                )
                db.execute(_TAKE_IN)
                db.executemany("DELETE FROM arrays WHERE id = ?", [(id,) for id in {*before} - arrays.keys()])
                db.executemany(
                    "INSERT OR REPLACE INTO arrays VALUES (?, ?, ?)",
                    [(id, folder, json.dumps(layout)) for id, (folder, layout) in arrays.items()],
                )
                db.execute("COMMIT")
            self.rebuild_wanted = False  # also if the database was new
        except _DAMAGED as error:
            self._failed(error)

    @contextlib.contextmanager
    def _open(self) -> Any:
        """A connection for one use: nothing is kept open, and no fork happens meanwhile, so nothing is inherited by one."""
        with gates.journal:
            yield from self._opened()

    def _opened(self) -> Any:
        try:  # SQLite would make it as the umask has it
            os.close(info.open_file(self.path, os.O_RDWR | os.O_CREAT))
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error
        patience = PATIENCE_S if time.monotonic() >= self._impatient_until else 0
        db = sqlite3.connect(self.path, timeout=patience, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous = OFF")
            db.execute("PRAGMA temp_store = MEMORY")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self.rebuild_wanted = True  # new, or emptied: only the files know what there is
                db.executescript(_TABLES + f"PRAGMA user_version = {SCHEMA}")
            elif version != SCHEMA:
                raise sqlite3.OperationalError(f"schema version {version} is not {SCHEMA}")
            yield db
        finally:
            db.close()

    def _failed(self, error: Exception) -> None:
        """Count a failure; a damaged or foreign database is set aside, and the index made anew from the files."""
        if not self.path.parent.is_dir():
            return  # somebody deleted the whole cache folder
        self.failures += 1
        self._impatient_until = time.monotonic() + INTERVAL_S
        if self.failures == 1:
            logger.warning(
                "the cache index %s cannot be used (%s); reading goes on without it", self.path, error
            )
        # Locked, full, read-only and of a newer version are OperationalErrors: the file is left as it is.
        if not isinstance(error, sqlite3.OperationalError) or "no such" in str(error):
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.rebuild_wanted = True
