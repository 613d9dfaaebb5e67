"""`.cache_info`: the truth about one cached item, as a small JSON file beside it.

A file carries a CRC-32C of its content, is written under a temporary name and renamed (or linked, where the first writer shall
win), so it is whole or absent. One that does not check is treated as absent.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

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
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o600), "wb") as file:
            file.write(data)
        if keep_first:
            return _link(temporary, path)
        os.replace(temporary, path)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a filesystem without hard links: the last writer wins there
        if path.exists():
            return False
        os.replace(temporary, path)
    return True
