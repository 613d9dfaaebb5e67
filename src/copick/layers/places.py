"""Directories, local or remote: what a filesystem layer needs of them.

Paths are relative to the root of the project, with `/`. A place says FileNotFoundError for what is not there;
every other failure is its layer's to explain. (One module, because the two kinds of places are read side by side.)
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import secrets
import shutil
import stat
import sys
import weakref
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from copick.layers.ahead import Ahead, Entry, FoldersAhead, StoreAhead
from copick.layers.protocols import OBJECT_STORES, filesystem_class, with_timeouts
from copick.layers.stamps import local_stamps, remote_stamps
from copick.layers.tags import read_at, tag_at
from copick.layers.walks import attempt, is_absence, walked
from copick.util.folders import standing
from copick.util.lazy import lazy
from copick.util.urls import local_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from zarr.abc.store import Store


ROOT_DOCUMENTS = {"zarr.json", ".zgroup", ".zattrs", ".zmetadata"}
"""What makes a folder an array group: written last and removed first, so that a part of one does not look whole."""


TRIES = 10
"""How often a directory is made that others remove meanwhile."""


class Place(Protocol):
    """A tree of files."""

    @property
    def root(self) -> str: ...
    @property
    def can_rename(self) -> bool:
        """Whether a folder can be put in place in one step."""
        ...

    def entries(self, path: str) -> list[Entry]: ...
    def known(self, path: str) -> list[Entry] | None:
        """What `entries` would say if that is known already; else None. Raises FileNotFoundError."""

    def files(self, path: str) -> Iterator[list[str]]:
        """Every file below a folder, by its path from there, a few at a time.

        Raises FileNotFoundError or NotADirectoryError if there is no such folder, anything else if one in it cannot be listed.
        """
        ...

    def stamps(self, path: str, parts: Sequence[str]) -> dict[str, str | None] | None:
        """What changes with the content of each entry of a folder: of a file, or of these `parts` of a folder.

        None = it cannot be told without reading.
        """
        ...

    def has_file(self, path: str) -> bool: ...
    def has_folder(self, path: str) -> bool: ...
    def read(self, path: str) -> bytes: ...
    def tag(self, path: str) -> str | None:
        """What tells this version of a file from any other; None if nothing does."""

    def read_tagged(self, path: str) -> tuple[bytes, str | None]:
        """A file and its tag."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Replace the file in one step, making its directories."""

    def make_folder(self, path: str) -> None: ...
    def remove_file(self, path: str) -> None: ...
    def standing(self, path: str) -> AbstractContextManager[Callable[[], bool]]:
        """Gives what tells whether the folder that `path` lies in still is the one that it was."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, or a folder and everything in it: in one step for who looks, if folders can be renamed."""

    def prune(self, path: str, but: str) -> None:
        """Remove a folder, and those in it, if there is no file but the one of that name. It may be left."""

    def swap_in(self, temporary: str, path: str, replace: bool) -> None:
        """Rename the folder `temporary` to `path`, in place of what is there; unless `replace`, that stays."""

    def store(self, path: str, read_only: bool) -> Store: ...
    def missing_root(self, read_only: bool) -> str | None:
        """What is wrong with the root itself, if it is not there and should be."""

    @property
    def had_root(self) -> bool:
        """Whether the root was there: then it should be. Remote places do not say."""
        ...

    def address(self, path: str) -> tuple[Any, str]:
        """The fsspec filesystem, and what `path` is called there."""

    def forget(self, path: str = "") -> None:
        """Drop what was remembered of a path and below."""

    def reconnect(self) -> None:
        """Drop the connection; the next request opens another."""

    def failed(self, error: Exception) -> None:
        """Told of every failure."""


class LocalPlace:
    """A directory of this machine."""

    can_rename = True

    def __init__(self, root: str, *, lasting: bool = True) -> None:
        """`lasting`: a root that was there is missed when it is gone, for example with the disk that it is on."""
        self.root, self._lasting = local_path(root), lasting
        self._disk: int | None = None  # that the root was seen on

    @property
    def had_root(self) -> bool:
        return self._disk is not None

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path.replace("/", os.sep)) if path else self.root

    def entries(self, path: str) -> list[Entry]:
        with os.scandir(self._at(path)) as found:
            return [Entry(entry.name, entry.is_dir()) for entry in found]

    def known(self, path: str) -> list[Entry] | None:
        return None

    def files(self, path: str) -> Iterator[list[str]]:
        return walked(path, lambda folders: {folder: attempt(self.entries, folder) for folder in folders})

    def stamps(self, path: str, parts: Sequence[str]) -> dict[str, str | None] | None:
        return local_stamps(self._at(path), parts)

    def has_file(self, path: str) -> bool:
        return os.path.isfile(self._at(path))

    def has_folder(self, path: str) -> bool:
        return os.path.isdir(self._at(path))

    def read(self, path: str) -> bytes:
        return Path(self._at(path)).read_bytes()

    def tag(self, path: str) -> str | None:
        return _tag(os.stat(self._at(path)))

    def read_tagged(self, path: str) -> tuple[bytes, str | None]:
        with open(self._at(path), "rb") as file:
            return file.read(), _tag(os.fstat(file.fileno()))

    def write(self, path: str, content: bytes) -> None:
        target = self._at(path)
        temporary = hidden(target, "tmp")
        try:
            with os.fdopen(_new_file(temporary), "wb") as file:
                file.write(content)
            os.replace(temporary, target)
            self._made()
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def make_folder(self, path: str) -> None:
        _make_folders(self._at(path))
        self._made()

    def _made(self) -> None:
        if self._disk is None:
            self.missing_root(False)

    def remove_file(self, path: str) -> None:
        os.unlink(self._at(path))

    def standing(self, path: str) -> AbstractContextManager[Callable[[], bool]]:
        return standing(os.path.dirname(self._at(path)))

    def remove(self, path: str) -> None:
        target = self._at(path)
        if not os.path.isdir(target) or os.path.islink(target):
            os.unlink(target)
            return
        old = hidden(target, "old")
        os.rename(target, old)  # a part of it must not look like all of it, should this be interrupted
        shutil.rmtree(old)

    def prune(self, path: str, but: str) -> None:
        top = self._at(path)
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):  # something is in it, or it is gone
                if folder == top and os.listdir(top) == [but]:
                    os.unlink(os.path.join(top, but))
                os.rmdir(folder)

    def swap_in(self, temporary: str, path: str, replace: bool) -> None:
        new, target = self._at(temporary), self._at(path)
        if replace and exchange(new, target):
            shutil.rmtree(new)
        else:
            _swap(new, target, replace, os.rename, os.path.lexists, shutil.rmtree)

    def store(self, path: str, read_only: bool) -> Store:
        from zarr.storage import LocalStore

        store = LocalStore(self._at(path), read_only=read_only)
        # zarr makes the directory of a store that it opens for writing, and it opens so unless told otherwise.
        store._is_open = True
        return store

    def missing_root(self, read_only: bool) -> str | None:
        # Asked once: somebody may be making it now.
        try:
            found = os.stat(self.root)
        except FileNotFoundError:
            if os.path.islink(self.root):
                return "it is a link to nothing"
        except OSError as error:
            return error.strerror or str(error)
        else:
            if not stat.S_ISDIR(found.st_mode):
                return "it is not a directory"
            if self._disk not in (None, found.st_dev) and not os.listdir(self.root):
                return "it is empty, and not on the disk that it was on"  # where that disk was mounted
            self._disk = found.st_dev if self._lasting else None
            return None
        # A new one is made on the first write.
        return "there is no such directory" if read_only or self.had_root else None

    def address(self, path: str) -> tuple[Any, str]:
        import fsspec

        return fsspec.filesystem("file", auto_mkdir=True), self._at(path)

    def forget(self, path: str = "") -> None:
        pass

    def reconnect(self) -> None:
        pass

    def failed(self, error: Exception) -> None:
        pass


_RENAMES = {"ssh", "sftp"}
"""Protocols that write into the file itself, and rename atomically."""
_CONNECTED = {"ssh", "sftp"}
"""Protocols with one connection that all requests share."""
_LOST = {"ConnectionLost", "DisconnectError", "ChannelOpenError", "SFTPConnectionLost", "SFTPNoConnection"}
"""What asyncssh raises when that is no more."""


class RemotePlace:
    """A directory of any fsspec filesystem."""

    had_root = False

    def __init__(self, url: str, protocol: str, fs_args: dict[str, Any], timeout_s: float) -> None:
        self.url, self.protocol = url.rstrip("/"), protocol
        self.fs_args, self.timeout_s = fs_args, timeout_s
        self.is_http = self.protocol in {"http", "https"}
        self._open: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_ahead"} | {"_open": None}

    @lazy
    def _ahead(self) -> Ahead | None:
        """What lists many folders faster than one by one; None where requests must not overlap."""
        if self.protocol in {"s3", "s3a"} and not self.fs.version_aware:
            return StoreAhead(self)
        return FoldersAhead(self) if self.fs.async_impl else None

    @property
    def can_rename(self) -> bool:
        return self.protocol not in OBJECT_STORES

    @property
    def fs(self) -> Any:
        return self._opened()[1]

    @property
    def root(self) -> str:
        return self._opened()[2]

    def _opened(self) -> tuple[int, Any, str]:
        """This process's filesystem (connections survive no fork), and the path of the root in it."""
        if self._open is None or self._open[0] != os.getpid():
            import fsspec

            filesystem_class(self.protocol)
            options = with_timeouts(self.protocol, self.fs_args, self.timeout_s)
            # No instance cache: layers must not share listings, nor a process its parent's sockets.
            fs, root = fsspec.url_to_fs(self.url, skip_instance_cache=True, **options)
            _connected[id(fs)] = fs
            self._open = (os.getpid(), fs, str(root).rstrip("/") if self.is_http else str(root))
        return self._open

    def _at(self, path: str) -> str:
        if self.is_http:
            from urllib.parse import quote

            path = quote(path)
        return f"{self.root}/{path}" if path else self.root

    def entries(self, path: str) -> list[Entry]:
        return self._ahead.entries(path) if self._ahead else self.ask(path)

    def known(self, path: str) -> list[Entry] | None:
        return self._ahead.known(path) if self._ahead else None

    def files(self, path: str) -> Iterator[list[str]]:
        if self.protocol not in OBJECT_STORES:
            return walked(path, self._listings)
        folder = self._at(path) + "/"  # these list the keys below a prefix at once, or fail
        found = [str(name) for name in self.fs.find(folder)]
        return iter(
            [[name.removeprefix(folder) for name in found if name.startswith(folder) and name != folder]]
        )

    def stamps(self, path: str, parts: Sequence[str]) -> dict[str, str | None] | None:
        if self.is_http:  # pages of links tell no times
            return None
        folders = [entry.name for entry in self.entries(path)] if parts else []
        return remote_stamps(self.fs, self._at(path), folders, parts)

    def ask(self, path: str) -> list[Entry]:
        """What a folder holds, by a request of its own."""
        folder = self._at(path)
        return self._entries(path, self.fs.ls(folder + "/" if self.is_http else folder, detail=True))

    def ask_together(self, paths: Sequence[str]) -> dict[str, list[Entry] | None]:
        """What folders hold; None for those that are not there. Those that could not be asked are missing."""
        found = self._listings(paths)
        absent = dict.fromkeys(path for path, answer in found.items() if is_absence(answer))
        return {path: answer for path, answer in found.items() if not isinstance(answer, Exception)} | absent

    def _listings(self, paths: Sequence[str]) -> dict[str, list[Entry] | Exception]:
        """What folders hold, asked together, or why that is not known."""
        from fsspec.asyn import sync

        fs = self.fs
        if not fs.async_impl:
            return {path: attempt(self.ask, path) for path in paths}
        folders = [self._at(path) + "/" * self.is_http for path in paths]

        async def answers() -> list[Any]:
            return await asyncio.gather(*map(partial(fs._ls, detail=True), folders), return_exceptions=True)

        return {
            path: answer if isinstance(answer, Exception) else attempt(self._entries, path, answer)
            for path, answer in zip(paths, sync(fs.loop, answers), strict=True)
        }

    def _entries(self, path: str, listed: list[dict[str, Any]]) -> list[Entry]:
        folder = self._at(path)
        found = []
        for item in listed:
            full, is_folder = str(item["name"]), item["type"] == "directory"
            name = _name_in(full, folder) if self.is_http else full.rstrip("/").rpartition("/")[2]
            if item["type"] == "link":  # what counts is what it points to, as in a local directory
                is_folder = self.has_folder(f"{path}/{name}" if path else name)
            if name and full != f"{folder}/":  # that key of an object store stands for the folder itself
                found.append(Entry(name, is_folder))
        if len(listed) == 1 and str(listed[0]["name"]) == folder and listed[0]["type"] == "file":
            raise NotADirectoryError(folder)  # most filesystems list a file as itself
        return found

    def has_file(self, path: str) -> bool:
        try:
            if self.is_http:  # its own exists() takes a refusal for an absence
                self.fs.cat_file(self._at(path), start=0, end=1)
                return True
            return bool(self.fs.info(self._at(path))["type"] == "file")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except Exception as error:
            if getattr(error, "status", None) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return True  # an empty file has no first byte
            raise

    def has_folder(self, path: str) -> bool:
        try:
            if self.is_http:
                self.fs.ls(self._at(path) + "/", detail=True)
                return True
            return bool(self.fs.info(self._at(path))["type"] == "directory")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def read(self, path: str) -> bytes:
        return bytes(self.fs.cat_file(self._at(path)))

    def name_of(self, path: str) -> str:
        """What its filesystem calls a path."""
        return self._at(path)

    def tag(self, path: str) -> str | None:
        return tag_at(self, path)

    def read_tagged(self, path: str) -> tuple[bytes, str | None]:
        return read_at(self, path)

    def write(self, path: str, content: bytes) -> None:
        target = self._at(path)
        self._make_parent(target)
        if self.protocol in _RENAMES:
            temporary = hidden(target, "tmp")
            try:
                self.fs.pipe_file(temporary, content)
                self.fs.mv(temporary, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.fs.rm_file(temporary)
                raise
        else:
            self.fs.pipe_file(target, content)
        self.forget(path)

    def _make_parent(self, target: str) -> None:
        if self.protocol not in OBJECT_STORES:  # these have no directories to make
            self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)

    def make_folder(self, path: str) -> None:
        self._make_parent(self._at(path) + "/")
        self.forget(path)

    def remove_file(self, path: str) -> None:
        self.fs.rm_file(self._at(path))
        self.forget(path)

    def standing(self, path: str) -> AbstractContextManager[Callable[[], bool]]:
        return contextlib.nullcontext(lambda: True)

    def remove(self, path: str) -> None:
        self.forget(path)
        target = self._at(path)
        if self.protocol in OBJECT_STORES:
            self._remove_keys(target)
        else:
            if self.protocol in _RENAMES and self.has_folder(path):
                old = hidden(target, "old")
                self.fs.mv(target, old)
                target = old
            self.fs.rm(target, recursive=True)
        self.forget(path)

    def prune(self, path: str, but: str) -> None:
        pass

    def swap_in(self, temporary: str, path: str, replace: bool) -> None:
        self.forget(path)
        new, target = self._at(temporary), self._at(path)
        if self.protocol in OBJECT_STORES:
            self._move_keys(new, target)
        else:
            move, there = partial(self.fs.mv, recursive=True), self.fs.exists
            _swap(new, target, replace, move, there, partial(self.fs.rm, recursive=True))
        self.forget(path)

    def _remove_keys(self, target: str) -> None:
        """Remove the keys under a prefix: first those without which the rest is no array."""
        for names in reversed(self._keys(target)):
            if names:
                self.fs.rm(names)

    def _move_keys(self, old: str, new: str) -> None:
        """Replace the keys under the prefix `new` by those under `old`: last those that make them an array."""
        if self.fs.exists(new):
            self._remove_keys(new)
        for names in self._keys(old):
            if names:
                self.fs.copy(names, [new + name.removeprefix(old) for name in names])
        self._remove_keys(old)

    def _keys(self, target: str) -> tuple[list[str], list[str]]:
        """The keys under a prefix, or the one of that name: those of chunks and the like, and those that make it an array."""
        names = [str(name) for name in self.fs.find(target)]
        if not names:
            raise FileNotFoundError(target)
        roots = {f"{target}/{name}" for name in ROOT_DOCUMENTS}
        return [name for name in names if name not in roots], [name for name in names if name in roots]

    def store(self, path: str, read_only: bool) -> Store:
        from zarr.storage import FsspecStore

        if self.fs.async_impl:
            fs: Any = OnItsOwnLoop(self)
        else:
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

            fs = AsyncFileSystemWrapper(self.fs, asynchronous=True)
        if self._ahead and not read_only:
            self._ahead.is_written(path)
        return FsspecStore(fs, read_only=read_only, path=self._at(path))

    def missing_root(self, read_only: bool) -> str | None:
        if self.protocol in {"s3", "s3a"}:
            bucket, _, prefix = self.root.partition("/")
            # One key is enough to know. A new project in an existing bucket has none yet.
            if read_only and self._is_known(self.root):
                return None
            if not self._is_known(bucket):
                return f"there is no bucket {bucket!r}"
            return f"there is nothing under {prefix!r}" if read_only and prefix else None
        if self.protocol == "memory":
            return None
        if (read_only or self.is_http) and not self.has_folder(""):
            return "there is no such directory"
        return None

    def _is_known(self, path: str) -> bool:
        try:
            self.fs.info(path)
        except FileNotFoundError:
            return False
        return True

    def address(self, path: str) -> tuple[Any, str]:
        if self._ahead and path:
            self._ahead.is_written(path)
        return self.fs, self._at(path)

    def forget(self, path: str = "") -> None:
        if self._open is not None:
            self.fs.invalidate_cache()
            if self._ahead:
                self._ahead.forget(path)

    def reconnect(self) -> None:
        self._open = None

    def failed(self, error: Exception) -> None:
        """After a failure: a connection that is lost is opened anew when it is next needed."""
        names = {base.__name__ for base in type(error).__mro__}
        if self.protocol in _CONNECTED and (
            isinstance(error, ConnectionError | TimeoutError | EOFError) or names & _LOST
        ):
            self._open = None


def _swap(
    new: str,
    target: str,
    replace: bool,
    rename: Callable[[str, str], Any],
    exists: Callable[[str], bool],
    remove: Callable[[str], Any],
) -> None:
    """Put the folder `new` in the place of `target`. If that fails, what was there is there again."""
    while True:
        if not exists(target):
            try:
                rename(new, target)
                return
            except Exception:  # of any kind that a filesystem has
                if not exists(target):
                    raise
        if not replace:  # someone else was first
            remove(new)
            return
        old = hidden(target, "old")
        try:
            rename(target, old)
        except Exception:
            if exists(target):
                raise
            continue  # someone else moved it away
        try:
            rename(new, target)
        except BaseException:
            if not exists(target):
                rename(old, target)
                raise
            remove(old)  # someone else has put theirs there; this one is later
            continue
        remove(old)
        return


def _tag(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns} {stat.st_size}"


def _new_file(path: str) -> int:
    """Make a file, and its directories. Another process may remove these while they are empty."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    for _ in range(TRIES):
        _make_folders(os.path.dirname(path))
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags, 0o666)
    return os.open(path, flags, 0o666)


def _make_folders(path: str) -> None:
    """Make a folder and those above it. Another process may remove any of them while it is empty, between any two steps."""
    for _ in range(TRIES):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return os.makedirs(path, exist_ok=True)
    return os.makedirs(path, exist_ok=True)


def exchange(one: str, other: str) -> bool:
    """Let two folders of this machine change places in one step. False if there are not two, or that is not possible here."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    at_cwd, flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), flag) == 0


def hidden(path: str, suffix: str) -> str:
    """A name in the same folder, so that renaming is atomic, that no listing shows and nobody else has."""
    at = max(path.rfind("/"), path.rfind(os.sep)) + 1
    return f"{path[:at]}.copick-{secrets.token_hex(8)}.{suffix}"


_connected: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_inherited: list[Any] = []


def _keep_inherited() -> None:
    """Let no filesystem of the parent process be finalised in a child.

    That would close its sockets through the event loop's epoll set, which parent and child share: the parent would
    wait for answers for ever.
    """
    _inherited.extend(_connected.values())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited)


class OnItsOwnLoop:
    """An fsspec filesystem whose coroutines may be awaited on any loop; they run on fsspec's.

    zarr has a loop of its own. A second filesystem for it would hold connections of its own, which nobody closes.
    """

    async_impl = True
    asynchronous = True

    def __init__(self, place: RemotePlace) -> None:
        self._place = place  # not its filesystem: that changes with the process, and after a lost connection

    def __reduce__(self) -> tuple[Any, ...]:
        return OnItsOwnLoop, (self._place,)

    def _key(self) -> tuple[str, str]:
        return self._place.url, repr(self._place.fs_args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnItsOwnLoop) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __getattr__(self, name: str) -> Any:
        fs = self._place.fs
        member = getattr(fs, name)
        if not inspect.iscoroutinefunction(member):
            return member

        async def run(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(member(*args, **kwargs), fs.loop)
            )

        return run


def _name_in(url: str, folder: str) -> str:
    """The name of a direct child, from the address a page links to; empty for links to anything else."""
    here, there = re.sub(r"^https?:", "", unquote(folder)), re.sub(r"^https?:", "", url)
    if "?" in there or "#" in there or not unquote(there).startswith(here + "/"):
        return ""
    name = there.rstrip("/").rpartition("/")[2]
    inside = unquote(there)[len(here) + 1 :].rstrip("/")
    name = unquote(name)
    return name if inside == name and "/" not in name else ""
