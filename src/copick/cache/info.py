"""`.cache_info`: the truth about one cached item, as a small JSON file beside it.

A file carries a CRC-32C of its content, is written under a temporary name and renamed (or linked, where the first writer shall
win), so it is whole or absent. One that does not check is treated as absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from copick import _cachecore

if TYPE_CHECKING:
    from pathlib import Path

FILE = ".cache_info"
VERSION = 1
BINARY: Final = getattr(os, "O_BINARY", 0)  # Windows: no translation of line ends
TEMPORARY = ".tmp-"
"""What the names of unfinished files begin with, here and in the native core."""


@dataclass(frozen=True)
class Origin:
    """Where a cached item came from. An item of another place is never used, wherever it lies."""

    layer: str
    place: str
    """A digest of the place's location, which might hold a secret."""

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


def read(path: Path) -> dict[str, Any] | None:
    """The document in a file; None if there is none that can be read and checks."""
    try:
        return unseal(path.read_bytes())
    except OSError:
        return None


def write(path: Path, data: bytes, *, keep_first: bool = False) -> bool:
    """Put `data` at `path` in one step. With `keep_first` a file that is there wins; False is returned then.

    Raises:
        OSError: Nothing was written; no temporary is left.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Directory(path.parent) as there:
        return there.write(path.name, data, keep_first=keep_first)


class Directory:
    """A directory to work in, also after it was moved. (Where the system has no such thing: what has its path.)"""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._fd = os.open(path, os.O_RDONLY) if os.open in os.supports_dir_fd else None
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def write(self, name: str, data: bytes, *, keep_first: bool = False) -> bool:
        """As the function of this name."""
        temporary = self._at(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY
        try:
            with open(os.open(temporary, flags, 0o600, dir_fd=self._fd), "wb") as file:
                file.write(data)
            if keep_first:
                return self._link(temporary, self._at(name))
            self._rename(temporary, self._at(name))
            return True
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._fd)

    def read(self, name: str) -> dict[str, Any] | None:
        """As the function of this name."""
        try:
            with open(os.open(self._at(name), os.O_RDONLY | BINARY, dir_fd=self._fd), "rb") as file:
                return unseal(file.read())
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
