"""The database of an index: its tables, and how processes and threads use it.

It is a copy of what the layers hold and can be made again, so nothing waits for the disk. Writers take turns; readers see the
state before or after a change and wait for nobody (write-ahead log).

A process has one connection, which one thread uses at a time. A fork waits until no thread is inside SQLite; the child opens
its own connection and leaves its parent's alone. A file that was replaced under a running program is opened anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from copick.errors import LayerError
from copick.util import gates

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("copick.index")

VERSION = 2
APPLICATION = 0x636F706B
"""Marks the file as ours in its header: nothing else is ever replaced."""
PATIENCE_S = 5.0
"""How long a writer waits for another process."""
LAST_S = 1.0
"""So long a connection that nobody needs waits until no thread is inside SQLite; else it stays open."""
CACHE_KIB = 16384

TABLES = """
-- A layer counts once all of it was looked at (`scanned`, seconds since 1970).
CREATE TABLE layers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, location TEXT NOT NULL, scanned REAL, took REAL,
                     problem TEXT);

-- Every entity that some layer holds. `run`: the name of its run, '' for objects. `tomogram`: the type of its tomogram.
-- `size`: its voxel size, or that of the spacing it belongs to. A parent's id is smaller than its children's; 0 = the root.
CREATE TABLE entities (id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL, kind TEXT NOT NULL, run TEXT NOT NULL,
                       name TEXT NOT NULL, tomogram TEXT NOT NULL, user TEXT NOT NULL, session TEXT NOT NULL,
                       size REAL NOT NULL, flag INTEGER NOT NULL);
CREATE UNIQUE INDEX entity ON entities (parent, kind, name, user, session, size, flag);
CREATE INDEX entity_by_run ON entities (run, kind);
CREATE INDEX entity_by_name ON entities (name, kind, run);
CREATE INDEX entity_by_user ON entities (user, kind, run);
CREATE INDEX entity_by_session ON entities (session, kind, run);
CREATE INDEX entity_by_kind ON entities (kind, run);

-- What each layer says of an entity, and the stamp of the content that it said it of (NULL: look again). `file`: what it is
-- called there if we would call it otherwise.
CREATE TABLE holdings (entity INTEGER NOT NULL, layer INTEGER NOT NULL, stamp TEXT, listed TEXT, said TEXT, shape TEXT,
                       dtype TEXT, points INTEGER, file TEXT, PRIMARY KEY (entity, layer)) WITHOUT ROWID;
CREATE INDEX odd_name ON holdings (file) WHERE file IS NOT NULL;
-- The same as flat pairs, to be looked up.
CREATE TABLE facts (entity INTEGER NOT NULL, layer INTEGER NOT NULL, key TEXT NOT NULL, value NOT NULL,
                    PRIMARY KEY (entity, layer, key, value)) WITHOUT ROWID;
CREATE INDEX fact ON facts (value, key);

-- Where the points of picks are: the box they fill, and (N, 3) float32, little-endian, in ångström, x, y, z.
CREATE TABLE points (entity INTEGER NOT NULL, layer INTEGER NOT NULL, x0 REAL, y0 REAL, z0 REAL, x1 REAL, y1 REAL, z1 REAL,
                     positions BLOB NOT NULL, PRIMARY KEY (entity, layer));

-- All of a run as it is listed: see `listings.py`.
CREATE TABLE listings (run TEXT PRIMARY KEY, told TEXT NOT NULL);

-- The digest of all stamps of a run in a layer (NULL: look again), and how often what is said of it was made anew.
CREATE TABLE runs (run TEXT NOT NULL, layer INTEGER NOT NULL, digest TEXT, changes INTEGER NOT NULL DEFAULT 0,
                   PRIMARY KEY (run, layer)) WITHOUT ROWID;

-- The words of an entity, those of all layers together, and every word there is. Words are as `encoded` makes them.
CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "ascii tokenchars '_'", detail = none, columnsize = 0);
CREATE TABLE vocabulary (word TEXT PRIMARY KEY) WITHOUT ROWID;

-- Who scans at present, until when: one process is enough.
CREATE TABLE lease (id INTEGER PRIMARY KEY CHECK (id = 1), holder TEXT NOT NULL, until REAL NOT NULL);
"""

FAILURES = (sqlite3.Error, OSError, ValueError, TypeError, LookupError, OverflowError, AttributeError)
"""What a damaged database raises: sqlite3 fails to decode even its own error texts, and rows may hold anything."""

_left_open: list[Any] = []


def _is_damage(error: BaseException) -> bool:
    """Whether the file is not what we wrote. Locked, full, read-only and the like are OperationalErrors."""
    if isinstance(error, sqlite3.OperationalError):
        return "no such" in str(error)
    if isinstance(error, sqlite3.ProgrammingError):  # a connection that was closed, and the like
        return False
    return isinstance(error, sqlite3.DatabaseError | UnicodeError | json.JSONDecodeError)


def encoded(word: str) -> str:
    """A word in letters and digits of ASCII and `_`: SQLite then knows words as Python does. Beginnings stay beginnings."""
    return word if word.isascii() else "".join(c if c.isascii() else f"_{ord(c):06x}" for c in word)


class _Open(NamedTuple):
    """A connection, and what it is to."""

    pid: int
    file: tuple[int, int]
    size: int
    db: sqlite3.Connection
    writable: bool
    closing: weakref.finalize[..., Any]
    """Closes it: when it is called, when its `Database` is gone, or at the end of the interpreter."""


def _let_go(pid: int, db: sqlite3.Connection) -> None:
    # At the end of the interpreter a daemon thread may be inside SQLite: closing what it uses there kills the process.
    if pid == os.getpid() and gates.index.acquire(timeout=LAST_S):
        try:
            db.close()
        except sqlite3.Error:
            pass
        finally:
            gates.index.release()
    else:  # of a parent: closing it would let go of its locks
        _left_open.append(db)


class Database:
    """The file of an index. Picklable."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(path)))
        self._forget()

    def _forget(self) -> None:
        self._open: _Open | None = None
        self._count = 0  # of connections
        self._damaged: tuple[int, int] | None = None  # which file is not what SQLite wrote

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._forget()

    def __repr__(self) -> str:
        return f"<Database {self.path}>"

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the database throughout.

        Raises:
            LayerError: There is no index, or it cannot be read; the text says why.
        """
        with gates.index, self._explained():
            db = self._connection(write=False)
            if db.in_transaction:  # of this thread: it sees its own state
                yield db
                return
            db.execute("BEGIN")
            try:
                yield db
            finally:
                self._end(db, "ROLLBACK")

    @contextlib.contextmanager
    def writing(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection that alone may write; what was written in the block counts if the block ends without an error.

        Args:
            create: Make the database if there is none, and again if it is damaged or older than this version.

        Raises:
            LayerError: It cannot be written; the text says why.
        """
        with gates.index, self._explained():
            db = self._connection(write=True, create=create)
            if db.in_transaction:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                self._end(db, "ROLLBACK")
                raise
            db.execute("COMMIT")

    def close(self) -> None:
        with gates.index:
            self._close()

    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self._files() if file.exists())

    def version(self) -> tuple[int, ...]:
        """Changes when anybody writes. Raises as `reading` does."""
        with gates.index, self._explained():
            db = self._connection(write=False)
            return self._count, db.total_changes, int(db.execute("PRAGMA data_version").fetchone()[0])

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except LayerError:
            raise
        except FAILURES as error:
            raise self.failed(error) from error

    def failed(self, error: BaseException) -> LayerError:
        """What to raise instead of an error that reading what it holds met."""
        with gates.index:
            if _is_damage(error) and self._open is not None:
                self._damaged = self._open.file
            self._close()
        return LayerError(
            f"the index {self.path} cannot be used: {type(error).__name__}: {error}; "
            "if it stays so, run: copick index build"
        )

    def _files(self) -> list[Path]:
        return [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm", "-journal")]

    def _connection(self, *, write: bool, create: bool = False) -> sqlite3.Connection:
        """This process's connection to the file that is there now."""
        try:
            status = os.stat(self.path)
            file = (status.st_dev, status.st_ino)
        except FileNotFoundError:
            file = None
        if (known := self._open) is not None:
            if file == known.file and status.st_size < known.size:
                self._damaged = file
            elif (
                known.closing.alive  # else it was closed at the end of the interpreter
                and known.pid == os.getpid()
                and file == known.file
                and known.writable >= write
            ):
                return known.db
            self._close()
        if file is None and not create:
            raise LayerError(f"there is no index {self.path} yet; make it with: copick index build")
        self._check_place()
        if file is not None and (file == self._damaged or self._is_cut()):
            self._damaged = file
            if not create:
                raise LayerError(f"the index {self.path} is damaged; make it again with: copick index build")
            if self._is_ours():
                for each in self._files():
                    each.unlink(missing_ok=True)
        writable = write or os.access(self.path, os.W_OK)
        try:
            db = self._made(writable, create)
        except sqlite3.OperationalError:
            if write:
                raise
            writable, db = False, self._made(False, create=False)
        except sqlite3.DatabaseError:
            self._damaged = file
            raise
        status = os.stat(self.path)
        file = (status.st_dev, status.st_ino)
        closing = weakref.finalize(self, _let_go, os.getpid(), db)
        self._open = _Open(os.getpid(), file, status.st_size, db, writable, closing)
        self._count += 1
        self._damaged = None
        return db

    def _made(self, writable: bool, create: bool) -> sqlite3.Connection:
        db = self._connected("rwc" if create else "rw" if writable else "ro")
        try:
            try:
                version = self._version(db)
            except sqlite3.OperationalError:
                # Nobody can make the shared memory of the log where nothing may be written. Without a log none is needed.
                if writable or self._files()[1].exists():
                    raise
                db.close()
                db = self._connected("ro&immutable=1")
                version = self._version(db)
            if version != VERSION:
                if not create or version > VERSION:
                    raise LayerError(self._unsuitable(version))
                self._make_tables(db)
        except BaseException:
            db.close()
            raise
        return db

    def _connected(self, mode: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            timeout=PATIENCE_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            db.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            db.close()
            raise
        return db

    def _version(self, db: sqlite3.Connection) -> int:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != APPLICATION and tables:
            raise LayerError(f"{self.path} is a database of something else; state another db_path")
        return int(version)

    def _unsuitable(self, version: int) -> str:
        if version > VERSION:
            return (
                f"the index {self.path} was made by a newer version of copick (schema {version}, not {VERSION}); "
                "update copick, or state another db_path"
            )
        return f"the index {self.path} is of an older version or not complete; make it again with: copick index build"

    def _make_tables(self, db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA application_id = {APPLICATION}")  # in the file itself, before there is a log
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        try:
            if self._version(db) != VERSION:  # another process was not first
                names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
                for (name,) in db.execute(names + " ORDER BY sql LIKE 'CREATE VIRTUAL%' DESC").fetchall():
                    db.execute(f'DROP TABLE IF EXISTS "{name}"')
                for statement in TABLES.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")
        except BaseException:
            self._end(db, "ROLLBACK")
            raise

    def _is_ours(self) -> bool:
        try:
            with open(self.path, "rb") as file:
                return file.read(100)[68:72] == APPLICATION.to_bytes(4, "big")
        except FileNotFoundError:
            return False

    def _is_cut(self) -> bool:
        """Whether the file is shorter than its header says. With a log beside it, it may be."""
        log = self._files()[1]
        if log.exists() and log.stat().st_size:
            return False
        with open(self.path, "rb") as file:
            header = file.read(100)
        page, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
        return self.path.stat().st_size < pages * (65536 if page == 1 else page)

    def _check_place(self) -> None:
        from copick import _cachecore

        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if _cachecore.on_network(str(folder)):
            raise LayerError(
                f"the index {self.path} lies on a network filesystem, where SQLite damages databases that are written "
                "from several machines; state a db_path on a local disk"
            )

    def _close(self) -> None:
        if (known := self._open) is not None:
            self._open = None
            known.closing()

    @staticmethod
    def _end(db: sqlite3.Connection, statement: str) -> None:
        with contextlib.suppress(sqlite3.Error):
            db.execute(statement)
