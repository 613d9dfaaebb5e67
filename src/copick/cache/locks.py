"""Locks between processes: byte ranges of one file, released by the kernel when their holder dies.

Linux has open-file-description locks, which threads and forks handle sanely. Elsewhere a lock is `flock` on one of a few hundred
small files, or a locked byte on Windows: coarser, with the same promises. Small numbers have a file each, and those of a kind (the
bits from 60 on) share 256: who holds a lock of one kind waits for nobody's lock of that kind to get one of another.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from copick import _cachecore
from copick.cache import info

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_OFD: Any = getattr(fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" else None
_SLOTS: Final = 256
_KIND: Final = 60  # the bit of a number where its kind begins
_TRIES: Final = 6
_PATIENCE_S: Final = 0.1
_MOST: Final = 1 << 20  # bytes of a shared record
_BUSY: Final = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


class _Files(threading.local):
    """The lock files that this thread holds, which would wait for itself if it locked one for another number."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, str], tuple[set[int], Callable[[], None]]] = {}
        """Process and path → for which numbers, and what lets go of it."""


_files = _Files()


class RangeLocks:
    """Locks named by numbers, for all processes that use the same folder. A number is for `hold` or for `share`, not both."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None
        # By threads of this process: one descriptor's locks do not exclude each other.
        self._held: set[int] = set()
        # How many threads of this process share a lock, and what lets go of it.
        self._shared: dict[int, tuple[int, Callable[[], None]]] = {}
        self._stuck = False  # a lock could not be released
        self._mutex = threading.Lock()

    @contextmanager
    def hold(self, number: int, timeout: float) -> Iterator[bool]:
        """Hold lock `number` inside the block; yields False if that was not possible within `timeout` seconds.

        Excludes other threads of this process too. Not re-entrant; the thread that holds it lets go of it. Raises OSError if the
        lock file cannot be used.
        """
        deadline, pause = time.monotonic() + timeout, 0.001
        while (unlock := self._lock(number)) is None and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        try:
            yield unlock is not None
        finally:
            if unlock is not None:
                unlock()

    def after_fork(self) -> None:
        """In a forked child: let go of the parent's descriptor, or it would keep the parent's locks should the parent die."""
        self._mutex = threading.Lock()
        self._held, self._shared, self._stuck = set(), {}, False
        self._close()  # releases nothing while the parent has it open

    @contextmanager
    def share(self, numbers: Iterable[int]) -> Iterator[None]:
        """Hold locks inside the block that many may hold at once, for `taken` to see. Hardly waits.

        Raises OSError if the lock file cannot be used.
        """
        mine: list[int] = []
        try:
            for number in dict.fromkeys(numbers):
                with self._mutex:
                    count, release = self._shared.get(number) or (0, self._share(number))
                    self._shared[number] = (count + 1, release)
                mine.append(number)
            yield
        finally:
            for number in mine:
                with self._mutex:
                    if number not in self._shared:  # we are a child that was forked inside the block
                        continue
                    count, release = self._shared[number]
                    self._shared[number] = (count - 1, release)
                    if count == 1:
                        del self._shared[number]
                        release()

    def taken(self, numbers: Collection[int]) -> bool:
        """Whether anyone, here or in another process, holds one of these locks for `share`. Raises OSError."""
        with self._mutex:
            if any(number in self._shared for number in numbers):
                return True
            if _OFD is not None and not self._is_shared(first := min(numbers), max(numbers) - first + 1):
                return False  # mostly nobody writes anything, and one question will do
            return any(map(self._is_shared, numbers))

    def _share(self, number: int) -> Callable[[], None]:
        if _OFD is not None:
            return self._lock_range(number, fcntl.F_RDLCK) or (lambda: None)
        deadline = time.monotonic() + _PATIENCE_S  # another is asking; on Windows, or has it
        while (release := self._lock_file(self._path(number, "share"), shared=True)) is None:
            if time.monotonic() > deadline:
                return lambda: None
            time.sleep(0.001)
        return release

    def _is_shared(self, number: int, count: int = 1) -> bool:
        if _OFD is not None:
            answer = fcntl.fcntl(self._opened(), fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, number, count))
            return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)
        for turn in range(_TRIES):
            if turn:
                time.sleep(0.001)  # another may just have been asking, too
            if release := self._lock_file(self._path(number, "share")):
                release()
                return False
        return True

    def _lock(self, number: int) -> Callable[[], None] | None:
        """Take the lock and return what releases it, or None if it is taken. Raises OSError."""
        with self._mutex:
            if number in self._held:
                return None
            release = self._lock_range(number) if _OFD is not None else self._lock_slot(number)
            if release is None:
                return None
            self._held.add(number)

        def unlock() -> None:
            with self._mutex:
                self._held.discard(number)
                release()
                if self._stuck and not (self._held or self._shared):
                    self._stuck = False  # closing the file lets go of everything
                    self._close()

        return unlock

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _opened(self) -> int:
        if self._fd is None:
            self._fd = info.open_file(self._folder / "locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        return self._fd

    def _lock_range(self, number: int, kind: int | None = None) -> Callable[[], None] | None:
        fd, start = self._opened(), number & (2**62 - 1)
        try:
            fcntl.fcntl(fd, _OFD, _flock(fcntl.F_WRLCK if kind is None else kind, start))
        except OSError as error:
            if error.errno in _BUSY:
                return None
            raise

        def release() -> None:
            try:
                fcntl.fcntl(fd, _OFD, _flock(fcntl.F_UNLCK, start))
            except OSError:  # a server that does not answer: who reads has his data all the same
                self._stuck = True

        return release

    def _path(self, number: int, name: str) -> Path:
        kind = f"{number >> _KIND}-" if number >= _SLOTS else ""
        return self._folder / f"{name}-{kind}{number % _SLOTS:03d}"

    def _lock_slot(self, number: int) -> Callable[[], None] | None:
        path, files = self._path(number, "lock"), _files.held
        key = os.getpid(), os.fspath(path)
        numbers, release = files.get(key) or (set(), self._lock_file(path))
        if release is None or number in numbers:
            return None
        numbers.add(number)
        files[key] = numbers, release

        def unlock() -> None:
            numbers.discard(number)
            if not numbers:
                files.pop(key, None)
                release()

        return unlock

    def _lock_file(self, path: Path, *, shared: bool = False) -> Callable[[], None] | None:
        fd = info.open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            if fcntl is not None:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            else:
                import msvcrt

                msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            os.close(fd)
            if error.errno in _BUSY:
                return None
            raise
        return lambda: os.close(fd)

    def __del__(self) -> None:
        self._close()


def _flock(kind: int, start: int, count: int = 1) -> bytes:
    """`struct flock` of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (which must be 0 for these locks)."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, count, 0)


class SharedRecord:
    """A small JSON document in a file that all processes change, one at a time. It is a hint that can be lost.

    Before it stands its checksum. Writers of chunks come here twice for each: this is as short as it can be.
    """

    def __init__(self, path: Path, locks: RangeLocks, number: int) -> None:
        """`number`: of the lock that its users hold."""
        self._path, self._locks, self._number, self._mutex = path, locks, number, threading.Lock()

    def after_fork(self) -> None:
        self._mutex = threading.Lock()

    def change(self, step: Callable[[dict[str, Any] | None], dict[str, Any] | None]) -> dict[str, Any] | None:
        """Replace the record by what `step` makes of it, and return that; None = it is missing or damaged, and stays so.

        Raises OSError.
        """
        with self._mutex, self._locks.hold(self._number, timeout=5):
            fd = info.open_file(self._path, os.O_RDWR | os.O_CREAT)
            try:
                before = self.parse(os.read(fd, _MOST))
                after = step(before)
                if after is not None and after != before:
                    # In place, which is quicker: who is killed meanwhile leaves a record that does not check.
                    body = json.dumps(after).encode()
                    os.lseek(fd, 0, os.SEEK_SET)
                    os.write(fd, _checksum(body) + b" " + body)
                    os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))
                return after
            finally:
                os.close(fd)

    @staticmethod
    def parse(data: bytes) -> dict[str, Any] | None:
        """The record, from what its file holds; None if it is damaged."""
        checksum, _, body = data.partition(b" ")
        try:
            document = json.loads(body) if checksum == _checksum(body) else None
        except (ValueError, RecursionError):  # nobody's accident
            return None
        return document if isinstance(document, dict) else None


def _checksum(data: bytes) -> bytes:
    return b"%08x" % _cachecore.crc32c(data)
