"""What stopped being true in the cache folder, told to every process that uses it.

A file of random numbers, mapped by all. Each number stands for the folders and files whose path hashes to it, and is replaced when
one of them is no longer true. The generation of an item is the sum of the numbers of its path and of every folder above it; as long
as that has not changed, nothing has. Paths that share a number cost each other a look at the disk, no more.

The file is a hint: if it is lost, another one takes its place, listings are asked for again and open arrays are looked up again.
Nobody waits for anybody: a change is one small write, a look is a few loads from memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from copick import _cachecore
from copick.cache import info

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.cache.locks import RangeLocks

_SIZE: Final = 8 * _cachecore.NUMBERS
_OPENING: Final = 4
"""The lock of whoever makes the file."""
_WRITERS: Final = 1 << 32
"""Where the locks of writers begin, one for each number."""

Slots = tuple[int, ...]
"""Which numbers an item watches; the last one is its own."""


@lru_cache(maxsize=4096)
def slots_of(path: str) -> Slots:
    """The numbers of a path relative to the cache's root ("" is the root itself)."""
    parts = path.replace(os.sep, "/").split("/") if path else []
    above = ["/".join(parts[:n]) for n in range(len(parts) + 1)]
    return tuple(_cachecore.crc32c(each.encode()) % _cachecore.NUMBERS for each in above)


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was asked for, to tell later what has become of the answer."""

    generations: Generations
    slots: Slots
    generation: int
    written: bool
    """Whether it was being written at that time."""

    def stands(self) -> bool:
        """Whether what was asked for since then is still what there is to know.

        What was asked for while it was written is good until that ends, one way or the other: a writer that is killed changes no
        number.
        """
        return self.generations.now(self.slots) == self.generation and (
            not self.written or self.generations.is_written(self.slots)
        )

    def may_keep(self) -> bool:
        """Whether what was asked for since then may be kept for others."""
        return not self.written and self.generations.now(self.slots) == self.generation


class Generations:
    """The numbers of one cache folder, as one process sees them."""

    def __init__(self, path: Path, native: _cachecore.Cache, locks: RangeLocks) -> None:
        """Raises OSError if there is no file and none can be made."""
        self._path, self._native, self._locks = path, native, locks
        self._fd = -1
        self._identity: tuple[int, int] | None = None
        self._numbers = memoryview(b"")
        self.mapped = False
        """Whether the native core sees changes by itself. Not on a network: there a server that is gone would end the process."""
        self.after_fork()
        with self._mutex:
            self._open()

    def after_fork(self) -> None:
        self._mutex = threading.Lock()

    def now(self, slots: Slots) -> int:
        """The generation of what watches these numbers."""
        numbers = self._numbers
        if not self.mapped:
            for slot in slots:
                numbers[slot] = self._read(slot)
        return sum([numbers[slot] for slot in slots]) % 2**64

    def moment(self, slots: Slots) -> Moment:
        """To be taken before something is asked for."""
        # In this order: a writer who is not seen yet will change the generation.
        generation = self.now(slots)
        return Moment(self, slots, generation, self.is_written(slots))

    def is_written(self, slots: Slots) -> bool:
        """Whether any process is writing what watches these numbers."""
        with contextlib.suppress(OSError):
            return self._locks.taken([_WRITERS + slot for slot in slots])
        return False

    @contextlib.contextmanager
    def writing(self, *items: Slots) -> Iterator[None]:
        """While the block runs, it is known that these items, and all below them, are written. Raises OSError."""
        with self._locks.share(_WRITERS + slots[-1] for slots in items):
            yield

    def change(self, slots: Slots) -> None:
        """Tell every process that an item, and all below it, is no longer true. Raises OSError."""
        self._write(slots[-1])  # for those who have the same file as we do
        if self.renew():
            self._write(slots[-1])

    def renew(self) -> bool:
        """Turn to the file that has taken the place of ours, if any. Whether one has. Raises OSError."""
        with self._mutex:
            try:
                stat = os.stat(self._path)
            except FileNotFoundError:
                if not self._path.parent.is_dir():
                    return False  # somebody deleted the whole cache: it does not come back for this
            else:
                if (stat.st_dev, stat.st_ino) == self._identity and stat.st_size == _SIZE:
                    return False
            self._open()
            return True

    def _open(self) -> None:
        flags = os.O_RDWR | info.BINARY | getattr(os, "O_CLOEXEC", 0)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # or two processes might turn to different files
                stack.enter_context(self._locks.hold(_OPENING, timeout=5))
            try:
                fd = info.open_file(self._path, flags)
            except FileNotFoundError:
                fd = -1
            if fd < 0 or os.fstat(fd).st_size != _SIZE:
                if fd >= 0:
                    os.close(fd)
                info.write(self._path, os.urandom(_SIZE))
                fd = info.open_file(self._path, flags)
        try:
            stat = os.fstat(fd)
            self._map(fd)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._identity = fd, (stat.st_dev, stat.st_ino)

    def _map(self, fd: int) -> None:
        # What was watched before stays as it is: another thread may be looking at it.
        numbers, mapped = memoryview(bytearray(_SIZE)).cast("Q"), False
        if not _cachecore.on_network(str(self._path.parent)):
            # A filesystem without mappings, or the file was cut this very moment.
            with contextlib.suppress(OSError, ValueError):
                numbers = memoryview(mmap.mmap(fd, _SIZE, access=mmap.ACCESS_READ)).cast("Q")
                mapped = True
        self._native.watch(numbers)
        self._numbers, self.mapped = numbers, mapped

    def _read(self, slot: int) -> int:
        """A number of a file that is not mapped. One that cannot be read is never the same."""
        with self._mutex:
            try:
                if hasattr(os, "pread"):
                    data = os.pread(self._fd, 8, 8 * slot)
                else:
                    os.lseek(self._fd, 8 * slot, os.SEEK_SET)
                    data = os.read(self._fd, 8)
            except OSError:
                data = b""
        return int.from_bytes(data if len(data) == 8 else secrets.token_bytes(8), "little")

    def _write(self, slot: int) -> None:
        with self._mutex:
            if hasattr(os, "pwrite"):  # a position in the file would be shared with forked processes
                os.pwrite(self._fd, secrets.token_bytes(8), 8 * slot)
            else:
                os.lseek(self._fd, 8 * slot, os.SEEK_SET)
                os.write(self._fd, secrets.token_bytes(8))

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
