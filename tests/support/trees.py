"""What directories hold."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, tuple[int, str]]


def state(folder: Path) -> State:
    """For each file and directory below `folder`: when it was changed, and what is in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
        found[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, content)
    return found


def content(folder: Path) -> dict[str, str]:
    """What is in each file and directory below `folder`, whenever it was written."""
    return {path: content for path, (_, content) in state(folder).items()}
