"""Directories of this machine."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def standing(folder: str | os.PathLike[str]) -> Iterator[Callable[[], bool]]:
    """Yields what tells whether `folder` still is the directory that it was, not another one of that name."""
    directory = None
    with contextlib.suppress(OSError):  # Windows opens no directories
        directory = os.open(folder, os.O_RDONLY)  # as long as it is open, no other one gets its number

    def stands() -> bool:
        try:
            return directory is None or os.path.samestat(os.fstat(directory), os.stat(folder))
        except OSError:
            return False

    try:
        yield stands
    finally:
        if directory is not None:
            os.close(directory)
