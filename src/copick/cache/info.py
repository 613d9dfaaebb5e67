"""`.cache_info`: the truth about one cached item, as a small JSON file beside it.

A file carries a CRC-32C of its content, is written under a temporary name and renamed (or linked, where the first writer shall
win), so it is whole or absent. One that does not check is treated as absent.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from copick import _cachecore

FILE = ".cache_info"
VERSION = 1
BINARY: Final = getattr(os, "O_BINARY", 0)  # Windows: no translation of line ends
METADATA = ".cache_metadata"
MOST: Final = 1 << 30
"""Bytes of the longest document that is read."""
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
"""Who put a pipe in a file's place does not hold us up."""
_DIR_FD: Final = os.open in os.supports_dir_fd
TEMPORARY = ".tmp-"
"""What the names of unfinished files begin with, here and in the native core."""


@dataclass(frozen=True)
class Origin:
    """Where a cached item came from. An item of another place is never used, wherever it lies."""

    layer: str
    place: str
    """A digest of the place's location, which might hold a secret."""

    def at(self, address: str) -> Origin:
        """One thing of that place, as long as it lies there."""
        return Origin(self.layer, hashlib.sha256(f"{self.place} {address}".encode()).hexdigest())

    def mark(self, document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "source_layer": self.layer, "place": self.place}

    def owns(self, document: dict[str, Any]) -> bool:
        return document.get("place") == self.place


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """One cached item, or all items of a folder taken together.

    Attributes:
        source_layer: Name of the layer that the data come from.
        cached_at: When it was first cached; of several items, the oldest.
        last_accessed: When it was last read; of several items, the latest. May lag some seconds behind other processes.
        expires_at: When its source is next asked whether it is still the same; of several items, the first. None: never.
        size_bytes: Of the chunks, listings and documents on disk.
        is_complete: Whether nothing would have to be fetched to read all of it.
        etag: What tells this version at the source from others, if that is known; of several items, if it is the same.
        is_stale: It is due to be asked for again, and used only as long as the source does not answer. Of several items, any.
    """

    source_layer: str
    cached_at: datetime
    last_accessed: datetime
    expires_at: datetime | None
    size_bytes: int
    is_complete: bool
    etag: str | None
    is_stale: bool = False


def timestamp(seconds: float | None = None) -> str:
    """A time (default: now) as ISO 8601 in UTC."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).isoformat()


def seal(document: dict[str, Any]) -> bytes:
    """A JSON document with its checksum."""
    body = json.dumps(document, sort_keys=True, indent=1)
    checksum = f"{_cachecore.crc32c(body.encode()):08x}"
    return json.dumps(
        {"crc32c": checksum, "version": VERSION, "document": document}, sort_keys=True, indent=1
    ).encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """The document of `seal`, or None if it is damaged or of another version."""
    try:
        sealed = json.loads(data)
        document = sealed["document"]
        body = json.dumps(document, sort_keys=True, indent=1)
        whole = sealed["version"] == VERSION and sealed["crc32c"] == f"{_cachecore.crc32c(body.encode()):08x}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return document if whole and isinstance(document, dict) else None


def open_file(path: str | os.PathLike[str], flags: int) -> int:
    """A descriptor of a file of the cache folder, made with `O_CREAT` as private as its folder is. Raises OSError.

    Symbolic links are not followed, here and anywhere else below: who may write in a cache folder that several share must not
    lead the others out of it.
    """
    if _DIR_FD and not flags & os.O_CREAT:
        return _cachecore.open_plain(os.fspath(path), flags | os.O_CLOEXEC)
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, (flags & ~os.O_CREAT) | BINARY | _NOFOLLOW)
    with Directory(Path(path).parent) as there:
        return there.create(os.path.basename(path), flags)


def read(path: Path) -> dict[str, Any] | None:
    """The document in a file; None if there is none that can be read and checks."""
    try:
        return unseal(content(path))
    except OSError:
        return None


def content(path: Path) -> bytes:
    """What is in a file. Raises OSError, also for what is no plain file."""
    with open(open_file(path, os.O_RDONLY | BINARY | _NONBLOCK), "rb") as file:
        return _content(file)


def _content(file: BinaryIO) -> bytes:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST:
        raise OSError(errno.EINVAL, f"is no plain file of at most {MOST} bytes")
    return file.read(MOST)


def write(path: Path, data: bytes, *, keep_first: bool = False) -> bool:
    """Put `data` at `path` in one step. With `keep_first` a file that is there wins; False is returned then.

    Raises:
        OSError: Nothing was written; no temporary is left.
    """
    make_folder(path.parent)
    with Directory(path.parent) as there:
        return there.write(path.name, data, keep_first=keep_first)


def make_folder(path: Path) -> None:
    """Make a folder of the cache, and those above it, as private as `.cache_metadata` is. Raises OSError."""
    if not _DIR_FD:
        path.mkdir(parents=True, exist_ok=True)
        return
    try:
        os.close(_cachecore.open_plain(os.fspath(path), os.O_RDONLY | os.O_DIRECTORY))
    except FileNotFoundError:
        make_folder(path.parent)
        with Directory(path.parent) as above:
            above.make(path.name)


class Directory:
    """A directory to work in, also after it was moved. (Where the system has no such thing: what has its path.)"""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._fd = _cachecore.open_plain(os.fspath(path), flags) if _DIR_FD else None
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def write(self, name: str, data: bytes, *, keep_first: bool = False) -> bool:
        """As the function of this name."""
        temporary = f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with open(self.create(temporary, os.O_WRONLY | os.O_EXCL), "wb") as file:
                file.write(data)
            if keep_first:
                return self._link(self._at(temporary), self._at(name))
            self._rename(self._at(temporary), self._at(name))
            return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._at(temporary), dir_fd=self._fd)

    def create(self, name: str, flags: int) -> int:
        """A descriptor of a new file. Raises OSError."""
        mode = self._mode() & 0o666
        fd = os.open(self._at(name), flags | os.O_CREAT | BINARY | _NOFOLLOW, mode, dir_fd=self._fd)
        if mode & 0o077:  # who shares the cache has another umask
            with contextlib.suppress(OSError):  # it is somebody else's by now
                os.fchmod(fd, mode)
        return fd

    def make(self, name: str) -> None:
        """A folder, if it is not there. Raises OSError."""
        mode = self._mode()
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=self._fd)
            if mode & 0o077:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW, dir_fd=self._fd)
                try:
                    os.fchmod(fd, mode)
                finally:
                    os.close(fd)

    def stat(self, name: str) -> os.stat_result:
        """Raises OSError."""
        return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)

    def remove(self, name: str) -> None:
        """Raises OSError."""
        os.unlink(self._at(name), dir_fd=self._fd)

    def move(self, name: str, target: str) -> None:
        """Raises OSError."""
        os.rename(self._at(name), target, src_dir_fd=self._fd)

    def _mode(self) -> int:
        """What is made here is as private as the cache is; its root may be a folder that was there before."""
        if self._fd is None:
            return 0o700
        with contextlib.suppress(OSError):
            return stat.S_IMODE(os.stat(METADATA, dir_fd=self._fd, follow_symlinks=False).st_mode)
        own = stat.S_IMODE(os.fstat(self._fd).st_mode)
        if not own & 0o077 or any(os.path.isdir(above / METADATA) for above in self._path.parents):
            return own | 0o700
        return 0o700

    def read(self, name: str) -> dict[str, Any] | None:
        """As the function of this name."""
        try:
            flags = os.O_RDONLY | BINARY | _NOFOLLOW | _NONBLOCK
            with open(os.open(self._at(name), flags, dir_fd=self._fd), "rb") as file:
                return unseal(_content(file))
        except OSError:
            return None

    def _at(self, name: str) -> str:
        return name if self._fd is not None else os.path.join(self._path, name)

    def _rename(self, old: str, new: str) -> None:
        os.replace(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _link(self, temporary: str, name: str) -> bool:
        try:
            os.link(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileExistsError:
            return False
        except OSError:  # a filesystem without hard links: the last writer wins there
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=self._fd)
                return False
            self._rename(temporary, name)
        return True
