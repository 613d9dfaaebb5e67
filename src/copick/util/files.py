"""Files of this machine that are written anew."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from copick.errors import LayerError


def write_text(path: str | os.PathLike[str], text: str, what: str) -> None:
    """Replace a file, or that which a link names, in one step. What is there keeps its permissions and its group.

    Raises:
        LayerError: It cannot be written, and is as it was. `what` names it in the text.
    """
    target = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{secrets.token_hex(4)}")
    try:
        if os.path.isdir(target):
            raise IsADirectoryError("it is a directory; name a file in it")
        old = os.stat(target) if os.path.exists(target) else None
        # It may hold credentials: nobody who may not read the old file may read the new one, not even for a moment.
        made = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if old is None else 0o600)
        with open(made, "w", encoding="utf-8") as file:
            file.write(text)
        if old is not None:
            _like(temporary, old)
        os.replace(temporary, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        problem = error.strerror or str(error)
        raise LayerError.of(
            f"{what} {os.fspath(path)!r} cannot be written: {problem}; it is as it was. "
            "Name a file in a folder that you may write to",
            error,
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _like(path: str, old: os.stat_result) -> None:
    """Give a file the permissions of another, and its group; without that, none to the group that it has."""
    mode = stat.S_IMODE(old.st_mode)
    if hasattr(os, "chown"):
        try:
            os.chown(path, -1, old.st_gid)
        except PermissionError:
            mode &= ~0o070
    os.chmod(path, mode)
