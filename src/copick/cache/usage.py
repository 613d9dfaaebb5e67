"""How many bytes lie in the cache folder: one record for all processes, kept while chunks come and go.

What is about to be written is booked before it is, so that writers who do not know of each other stay within the limit.
"""

from __future__ import annotations

import errno
import secrets
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from copick.cache.locks import SharedRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from copick.cache.locks import RangeLocks

_LOCK: Final = 1


class Usage(NamedTuple):
    """The record."""

    chunks: dict[str, int]
    """Layer → bytes of its chunk files, and of those that are about to be written."""
    documents: int = 0
    """Bytes of the listings and documents."""
    evictions: int = 0
    """How often something was evicted."""
    counts: int = 0
    """How often the files were counted."""

    @classmethod
    def of(cls, document: dict[str, Any] | None) -> Usage | None:
        """From what the file says; None if it says nothing, or is of another version."""
        try:
            usage = None if document is None else cls(**document)
            numbers = [] if usage is None else [*usage.chunks.values(), *usage[1:]]
        except (TypeError, AttributeError):
            return None
        return usage if all(type(number) is int for number in numbers) else None

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(self.chunks.values())


@dataclass
class Reservation:
    """Room for chunks that are about to be written; what is not `written` in the end is given back."""

    layer: str
    size: int
    counts: int
    """How often the files were counted before it."""
    written: int = 0
    noted: int = 0
    """Bytes of what was written that this process knew of before: a count of the files may have found them."""
    settled: bool = False


class Ledger:
    """The record, as one process books in it."""

    def __init__(self, path: Path, locks: RangeLocks, count_files: Callable[[], None]) -> None:
        """`count_files` counts the files and calls `restart`; if that takes long, it goes on after the call."""
        self._record, self._count_files = SharedRecord(path, locks, _LOCK), count_files
        self._counted = -1  # which count of the files was this process's last
        self.after_fork()

    def after_fork(self) -> None:
        # What this process has reserved and what the record says change together.
        self.mutex = threading.RLock()
        self._reserved: Counter[str] = Counter()
        self._record.after_fork()

    @property
    def reserved(self) -> int:
        """Bytes that this process is about to write."""
        return self._reserved.total()

    def add(
        self, chunks: Mapping[str, int] | None = None, *, documents: int = 0, evictions: int = 0
    ) -> Usage | None:
        """Book changes; returns what is right now, or None if nobody has counted yet: then nothing is booked. Raises OSError."""

        def booked(before: dict[str, Any] | None) -> dict[str, Any] | None:
            usage = Usage.of(before)
            if usage is None:
                return None
            sizes = dict(usage.chunks)
            for layer, size in (chunks or {}).items():
                sizes[layer] = max(sizes.get(layer, 0) + size, 0)
            return usage._replace(
                chunks=sizes,
                documents=max(usage.documents + documents, 0),
                evictions=usage.evictions + evictions,
            )._asdict()

        return Usage.of(self._record.change(booked))

    def now(self) -> Usage:
        """What lies in the folder and is about to be written. Raises OSError, also while the files are being counted."""
        usage = self.add()
        if usage is None:
            self._count_files()
            usage = self.add()
        if usage is None:
            raise BlockingIOError(errno.EAGAIN, "the files of the cache are being counted")
        return usage

    def reserve(self, layer: str, size: int) -> tuple[Reservation, Usage] | None:
        """Book `size` bytes before they are written; None while the files are being counted. Raises OSError."""
        for counted in (False, True):
            with self.mutex:
                usage = self.add({layer: size})
                if usage is not None:
                    self._reserved[layer] += size
                    return Reservation(layer, size, usage.counts), usage
            if not counted:
                self._count_files()
        return None

    def settle(self, room: Reservation) -> None:
        """Put what was written in the place of what was reserved, once. Raises OSError."""
        with self.mutex:
            if room.settled:
                return
            room.settled = True
            self._reserved[room.layer] -= room.size
            now = self.add()
            counts = room.counts if now is None else now.counts
            # Who counted the files knew nothing of what others had reserved.
            lost = counts not in (room.counts, self._counted)
            found = room.noted if counts == self._counted != room.counts else 0
            if more := room.written - found - (0 if lost else room.size):
                self.add({room.layer: more})

    def restart(self, chunks: Mapping[str, int], documents: int) -> None:
        """Begin anew from what was counted; what this process has reserved comes on top. To be called with `mutex`.

        Raises OSError.
        """

        def begun(before: dict[str, Any] | None) -> dict[str, Any]:
            known = Usage.of(before) or Usage(
                {}, counts=secrets.randbits(30)
            )  # no count of before has this number
            sizes = Counter(chunks)
            sizes.update(self._reserved)
            return Usage(dict(sizes), documents, known.evictions, known.counts + 1)._asdict()

        usage = Usage.of(self._record.change(begun))
        self._counted = usage.counts if usage else -1
