"""Files of this machine that are written anew."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from copick.errors import CopickError, LayerError

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_text(path: str | os.PathLike[str], text: str, what: str) -> None:
    """Replace a file by a text, as `replacing`."""
    with replacing(path, what) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], what: str, suffix: str = "") -> Iterator[str]:
    """An empty file to fill, which takes the place of a file, or of that which a link names, in one step at the end.

    What is there keeps its permissions and its group, and is as it was if the block fails.

    Args:
        what: Names it in errors.
        suffix: What the name of the file to fill ends in; some libraries insist.

    Raises:
        LayerError: It cannot be written.
    """
    target = os.path.realpath(path)
    name = f".{os.path.basename(target)}.{secrets.token_hex(4)}{suffix}"
    temporary = os.path.join(os.path.dirname(target), name)
    try:
        if os.path.isdir(target):
            raise IsADirectoryError("it is a directory; name a file in it")
        old = os.stat(target) if os.path.exists(target) else None
        # It may hold credentials: nobody who may not read the old file may read the new one, not even for a moment.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if old is None else 0o600))
        yield temporary
        if old is not None:
            _like(temporary, old)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError) or isinstance(error, CopickError):
            raise
        problem = error.strerror or str(error)
        raise LayerError.of(
            f"{what} {os.fspath(path)!r} cannot be written: {problem}; it is as it was. "
            "Name a file in a folder that you may write to",
            error,
        ) from error


def _like(path: str, old: os.stat_result) -> None:
    """Give a file the permissions of another, and its group; without that, none to the group that it has."""
    mode = stat.S_IMODE(old.st_mode)
    if hasattr(os, "chown"):
        try:
            os.chown(path, -1, old.st_gid)
        except PermissionError:
            mode &= ~0o070
    os.chmod(path, mode)
