"""Whether a cache folder is right: every checksum, every record, every count. And what removes what is not.

Readers need none of this: what does not check is fetched again when it is next read. It is for people who want to know, and for
space that nobody gives back otherwise. `verify` changes nothing and needs no project; `repair` and `collect` may run while others
use the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from copick import _cachecore
from copick.cache import info
from copick.cache.budget import DRIFT, DRIFT_BYTES
from copick.cache.decode import blosc_sizes
from copick.cache.entry import DOCUMENTS, ZARR, is_ours
from copick.cache.folder import KEPT, STALE_TEMPORARY_S
from copick.cache.geometry import Geometry, chunk_index, zarr_document
from copick.cache.journal import SCHEMA
from copick.cache.locks import SharedRecord
from copick.cache.usage import Usage
from copick.errors import NotFoundError
from copick.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from copick.cache.manager import CacheManager

Kind = Literal["chunk", "record", "metadata", "stray", "index", "count"]

_THREADS: Final = 4
_TRAILER: Final = 4
_LINK: Final = "a symbolic link: the cache follows none"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong.

    Attributes:
        path: Relative to the cache's root.
        kind: "chunk": its bytes; "record": a listing, a document or `.cache_info`; "metadata": what tells zarr tools about an
            array; "stray": not a file of the cache where one belongs; "index": `entries.db`; "count": the bytes in the folder.
        text: What is wrong.
    """

    path: str
    kind: Kind
    text: str


@dataclass(slots=True)
class Report:
    """What lies in a cache folder.

    Attributes:
        root: The folder.
        arrays: Cached arrays (levels of volumes).
        chunks: Chunk files.
        absent: Chunks that are known to hold nothing but fill value.
        records: Listings, documents and `.cache_info` files.
        size_bytes: Of the chunk files.
        document_bytes: Of the listings and documents.
        counted_bytes: What the processes that use the folder believe both to be; None = nobody has counted yet.
        foreign: Files outside cached arrays that copick did not write; they are left alone.
        leftovers: What killed processes left, relative to the root: it takes room and is never read. See `collect`.
        problems: What is wrong.
    """

    root: str
    arrays: int = 0
    chunks: int = 0
    absent: int = 0
    records: int = 0
    size_bytes: int = 0
    document_bytes: int = 0
    counted_bytes: int | None = None
    foreign: int = 0
    leftovers: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verify(root: str | os.PathLike[str], *, content: bool = True) -> Report:
    """Look at everything in a cache folder. Changes nothing.

    Args:
        root: The folder.
        content: False = only look what there is, without reading chunks.

    Raises:
        NotFoundError: There is no cache.
    """
    folder = existing(root)
    report = Report(str(folder))
    before = _counted(folder)
    walk = _Walk(folder, report, content)
    with ThreadPoolExecutor(_THREADS) as pool, Progress(f"verifying {folder}", None) as progress:
        for problem in pool.map(lambda job: job(), walk.jobs()):
            progress.step()
            if problem is not None:
                report.problems.append(problem)
    _look_at_hints(folder, report, before)
    return report


def existing(root: str | os.PathLike[str]) -> Path:
    """A folder that holds a cache. Raises NotFoundError if it does not."""
    folder = Path(os.path.realpath(root))
    if not (folder / ".cache_metadata").is_dir():
        raise NotFoundError(f"there is no cache in {folder}: it has no folder .cache_metadata")
    return folder


def repair(manager: CacheManager, report: Report | None = None) -> Report:
    """Remove what `verify` finds wrong; it will be fetched again when it is needed. Returns what was found.

    Raises:
        OSError: Something could not be removed.
    """
    root = manager.cache_root
    report = report or verify(root)
    for problem in report.problems:
        path = root / problem.path
        if problem.kind in {"chunk", "stray"}:
            manager.remove(path)
        elif problem.kind == "metadata" or path.name == info.FILE:
            manager.discard(path.parent)
        elif problem.kind == "record" or path == manager.db_path:
            path.unlink(missing_ok=True)
    if report.problems:
        manager.budget.rescan()
        manager.budget.ledger.add(evictions=1)  # lets others let go of what is gone
    return report


def collect(manager: CacheManager, *, older_than: float = STALE_TEMPORARY_S) -> int:
    """Remove what killed processes left, what has expired, what is over the budget, and empty folders. Bytes freed.

    Args:
        older_than: Seconds. What is younger may belong to somebody who is at work.

    Raises:
        OSError: Something could not be removed.
    """
    root, freed = manager.cache_root, 0
    before = time.time() - older_than
    for name in verify(root, content=False).leftovers:
        path = root / name
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_mtime <= before:
                freed += _size(path)
                manager.remove(path)
    freed += manager.cleanup()
    for parent, _, _ in os.walk(root, topdown=False):
        place = Path(parent)
        if place != root and place.relative_to(root).parts[0] not in KEPT:
            with contextlib.suppress(OSError):  # it holds something, or somebody was faster
                if place.stat().st_mtime <= time.time() - older_than:
                    place.rmdir()
    return freed


class _Walk:
    """Everything in a cache folder, as work to be done by threads: each looks at one file and returns what is wrong with it."""

    def __init__(self, root: Path, report: Report, content: bool) -> None:
        self.root, self.report, self.content = root, report, content

    def jobs(self) -> Iterator[Any]:
        yield from self._leftovers(self.root / ".cache_metadata")
        pending = [(self.root, _Array.none())]
        while pending:
            folder, array = pending.pop()
            entries = _entries(folder)
            names = {entry.name for entry in entries}
            if info.FILE in names:
                array = _Array.at(folder)
                self.report.arrays += 1
            elif array.folder is None and any(is_ours(folder / name) for name in ZARR & names):
                self.report.leftovers.append(self._name(folder))
                continue
            for entry in entries:
                if folder == self.root and entry.name in KEPT:
                    continue
                if entry.name.startswith(info.TEMPORARY):
                    self.report.leftovers.append(self._name(Path(entry.path)))
                elif entry.is_symlink():
                    yield partial(self._problem, Path(entry.path), "stray", _LINK)
                elif entry.is_dir(follow_symlinks=False) and array.may_be_folder(Path(entry.path)):
                    pending.append((Path(entry.path), array))
                else:
                    yield from self._file(entry, array)

    def _leftovers(self, metadata: Path) -> Iterator[Any]:
        for entry in _entries(metadata):
            if entry.name.startswith(info.TEMPORARY):
                self.report.leftovers.append(self._name(Path(entry.path)))
            elif entry.is_symlink():
                yield partial(self._problem, Path(entry.path), "stray", _LINK)

    def _file(self, entry: os.DirEntry[str], array: _Array) -> Iterator[Any]:
        path, report = Path(entry.path), self.report
        if entry.name == info.FILE or entry.name.startswith(f"{info.FILE}.") or entry.name == DOCUMENTS:
            report.records += 1
            if entry.name.startswith(f"{info.FILE}."):
                with contextlib.suppress(OSError):
                    report.document_bytes += entry.stat(follow_symlinks=False).st_size
            yield partial(self._record, path, array)
        elif array.folder is None:
            report.foreign += 1
        elif entry.name in ZARR and path.parent == array.folder:
            yield partial(self._metadata, path, array)
        elif array.geometry is None:  # its record is what is wrong
            return
        elif chunk_index(array.geometry, array.name(path)) is not None:
            if entry.is_file(follow_symlinks=False):
                report.chunks += 1
                with contextlib.suppress(OSError):
                    report.size_bytes += entry.stat(follow_symlinks=False).st_size
            yield partial(self._chunk, path, array)
        elif chunk_index(array.geometry, array.name(path).removesuffix(".absent")) is not None:
            report.absent += 1
        else:
            yield partial(self._problem, path, "stray", "no file of a cached array")

    def _record(self, path: Path, array: _Array) -> Problem | None:
        try:
            document = info.unseal(_content(path))
        except FileNotFoundError:  # forgotten meanwhile
            return None
        except OSError as error:
            return self._problem(path, "record", str(error))
        if document is None:
            return self._problem(path, "record", "damaged, or of another version")
        if path.name == info.FILE and array.geometry is None:
            return self._problem(path, "record", "does not say what array this is")
        return None

    def _metadata(self, path: Path, array: _Array) -> Problem | None:
        if array.geometry is None:
            return None
        try:
            right = _describes(path, array.geometry, array.stored)
        except FileNotFoundError:  # forgotten meanwhile
            return None
        except Exception:  # noqa: BLE001 (zarr and JSON fail in many ways)
            right = False
        return None if right else self._problem(path, "metadata", "does not describe what is cached")

    def _chunk(self, path: Path, array: _Array) -> Problem | None:
        geometry, wrong = array.geometry, partial(self._problem, path, "chunk")
        assert geometry is not None
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                return self._problem(path, "stray", "no file, but stands in a chunk's place")
            if not _TRAILER <= status.st_size <= geometry.most_stored + _TRAILER:
                return wrong(f"has {status.st_size} bytes")
            if array.stored == "raw" and status.st_size != geometry.chunk_bytes + _TRAILER:
                return wrong(f"has {status.st_size} bytes, not {geometry.chunk_bytes + _TRAILER}")
            if not self.content:
                return None
            data = memoryview(_content(path))
        except FileNotFoundError:  # evicted meanwhile
            return None
        except OSError as error:
            return wrong(str(error))
        payload, checksum = data[:-_TRAILER], int.from_bytes(data[-_TRAILER:], "little")
        if len(data) < _TRAILER or _cachecore.crc32c(payload) != checksum:
            return wrong("its checksum does not match")
        if array.stored == "encoded" and blosc_sizes(payload) != (geometry.chunk_bytes, len(payload)):
            return wrong("is of another length than what it says")
        return None

    def _problem(self, path: Path, kind: Kind, text: str) -> Problem:
        return Problem(self._name(path), kind, text)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@dataclass(frozen=True, slots=True)
class _Array:
    """The cached array that a file belongs to."""

    folder: Path | None
    geometry: Geometry | None
    stored: str

    @classmethod
    def none(cls) -> _Array:
        return cls(None, None, "")

    @classmethod
    def at(cls, folder: Path) -> _Array:
        document = info.read(folder / info.FILE)
        try:
            array = document["array"] if document is not None else {}
            return cls(folder, Geometry.from_json(array["geometry"]), str(array["format"]))
        except (KeyError, TypeError, ValueError):
            return cls(folder, None, "")

    def name(self, path: Path) -> str:
        """A file of the array as its chunks are named."""
        return path.relative_to(self.folder or path).as_posix()

    def may_be_folder(self, path: Path) -> bool:
        """Whether a folder belongs here: not in the place of a chunk."""
        return self.geometry is None or chunk_index(self.geometry, self.name(path)) is None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:  # gone meanwhile
        return []


def _content(path: Path) -> bytes:
    with open(info.open_file(path, os.O_RDONLY | info.BINARY), "rb") as file:
        return file.read()


def _describes(path: Path, geometry: Geometry, stored: str) -> bool:
    """Whether zarr metadata is what the cache writes for an array. Raises whatever zarr raises."""
    import zarr
    from zarr.storage import LocalStore

    data = _content(path)
    name, made = zarr_document(geometry, {path.name: data}, "", stored=stored)
    if name != path.name or json.loads(made) != json.loads(data):
        return False
    with warnings.catch_warnings():  # of data types that others might not read
        warnings.simplefilter("ignore")
        array: Any = zarr.open_array(LocalStore(path.parent, read_only=True), mode="r")
        found = Geometry.of(array)
    return found is not None and found.same_data(geometry) and tuple(array.chunks) == geometry.chunks


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(
        os.lstat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(path) for name in names
    )


def _counted(root: Path) -> Usage | None:
    """What `usage` says; None if it says nothing, or nothing that checks."""
    try:
        return Usage.of(SharedRecord.parse(_content(root / ".cache_metadata" / "usage")))
    except OSError:
        return None


def _look_at_hints(root: Path, report: Report, before: Usage | None) -> None:
    """The files in `.cache_metadata`, all of which can be lost."""
    metadata = root / ".cache_metadata"

    def wrong(name: str, kind: Kind, text: str) -> None:
        report.problems.append(Problem(f".cache_metadata/{name}", kind, text))

    owner = metadata / "source"
    if os.path.lexists(owner) and info.read(owner) is None:
        wrong("source", "record", "damaged, or of another version")
    usage = _counted(root)
    if usage is None:
        if _has_content(metadata / "usage"):
            wrong("usage", "count", "damaged")
    else:
        report.counted_bytes = usage.size + usage.documents
        there = report.size_bytes + report.document_bytes
        # If it changes meanwhile, somebody is at work.
        if usage == before and abs(report.counted_bytes - there) > there * DRIFT + DRIFT_BYTES:
            wrong("usage", "count", f"says {report.counted_bytes} bytes; there are {there}")
    if (metadata / "entries.db").exists() and (text := _index_problem(metadata / "entries.db")):
        wrong("entries.db", "index", text)


def _has_content(path: Path) -> bool:
    """Whether a file is there, and not just about to be written."""
    try:
        return path.lstat().st_size > 0
    except FileNotFoundError:
        return False


def _index_problem(path: Path) -> str | None:
    """What is wrong with `entries.db`. One that is locked, or of a newer version, is not."""
    if path.lstat().st_size == 0:
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=1, uri=True)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA:
                return None
            (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            db.execute("SELECT id, folder, layout FROM arrays LIMIT 1").fetchone()
            db.execute("SELECT array, chunk, bytes, accessed FROM chunks LIMIT 1").fetchone()
            return None if answer == "ok" else str(answer)
    except sqlite3.OperationalError as error:
        return str(error) if "no such" in str(error) else None
    except (sqlite3.Error, ValueError) as error:
        return str(error)
