"""Files and folders that are made for other programs: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from copick.errors import AlreadyExistsError, CopickError, LayerError
from copick.util.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

File: TypeAlias = "str | os.PathLike[str]"


@contextlib.contextmanager
def new_file(path: File, suffix: str = "", *, replace: bool = True) -> Iterator[str]:
    """An empty file to fill, which takes its place at `path` in one step; as `copick.util.files.replacing`.

    The folder is made if there is none.

    Args:
        replace: Whether a file that is there may be replaced.

    Raises:
        AlreadyExistsError: There is one, and it may not.
        LayerError: It cannot be written.
    """
    if not replace:
        _refuse_existing(path)
    make_folder(os.path.dirname(os.path.abspath(path)))
    with replacing(path, "the file", suffix) as temporary:
        yield temporary


@contextlib.contextmanager
def new_folder(path: File) -> Iterator[str]:
    """Where to make a folder, which is moved to `path` when it is whole.

    Raises:
        AlreadyExistsError: Something is there already, and it is no empty folder.
        LayerError: It cannot be made.
    """
    target = os.path.abspath(path)
    if not (os.path.isdir(target) and not os.listdir(target)):
        _refuse_existing(path)
    make_folder(os.path.dirname(target))
    temporary = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.rename(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError) or isinstance(error, CopickError):
            raise
        raise LayerError(
            f"the folder {os.fspath(path)!r} cannot be written: {error.strerror or error}; nothing of it is left"
        ) from error


def make_folder(path: File) -> None:
    """Make a folder if it is not there. Raises LayerError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LayerError(
            f"the folder {os.fspath(path)!r} cannot be made: {error.strerror}; name one that you may write to"
        ) from error


def _refuse_existing(path: File) -> None:
    if os.path.lexists(path):
        raise AlreadyExistsError(f"{os.fspath(path)!r} exists already; remove it, or name another")
