"""When epochs of training began: what the policy `epoch` goes by.

One record for all processes of a cache. A trainer says when an epoch begins; where nobody does, one is over after as many uses of
chunks as the arrays have that are read. What was not used since the epoch before the previous one began is stale.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from copick.cache import info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from copick.cache.locks import RangeLocks

_LOCK: Final = 5
_MERGED: Final = 8
"""An epoch of less than this part of the one before is none: each process of one training says that it begins."""
_UNKNOWN: Final = -1


@dataclass(frozen=True)
class Epochs:
    """When the last three epochs began, and how far the current one is."""

    starts: tuple[int, int, int] = (0, 0, 0)
    """Microseconds since 1970, the latest first; 0 = there was none."""
    uses: int = 0
    """Uses of chunks in the current epoch, by all processes."""
    length: int = 0
    """Uses in the last epoch that a trainer ended; -1 if none was ended yet, 0 if nobody says when epochs begin."""
    chunks: int = 0
    """The most chunks that the arrays of one process have which reported in the current epoch."""
    chunks_before: int = 0
    number: int | None = None
    """What the trainer calls the current epoch."""

    @property
    def stale_before(self) -> int:
        """Chunks that were last used before this (microseconds) have idled for two epochs. 0: there were not so many yet."""
        return self.starts[2]

    def used(self, uses: int, chunks: int, now: int) -> Epochs:
        """After some more uses, by a process that reads arrays of so many chunks in all."""
        here = replace(self, uses=self.uses + uses, chunks=max(self.chunks, chunks))
        due = max(here.chunks, here.chunks_before, 2 * here.length)
        # A trainer that never comes back does not leave an epoch that never ends, except its first.
        over = due and here.uses >= due and here.length != _UNKNOWN
        return here._next(now, 0) if over else here

    def begun(self, now: int, number: int | None) -> Epochs:
        """After a trainer said that an epoch begins."""
        if number is not None and number == self.number:
            return self
        here = replace(self, number=number, length=self.length or _UNKNOWN)
        if self.uses == 0 or self.uses * _MERGED < self.length:
            return here
        return here._next(now, self.uses)

    def _next(self, now: int, length: int) -> Epochs:
        return replace(
            self,
            starts=(now, *self.starts[:2]), uses=0, length=length, chunks=0, chunks_before=self.chunks or self.chunks_before,
        )  # fmt: skip


class SharedEpochs:
    """The record in a small file. One that is lost or damaged begins anew."""

    def __init__(self, path: Path, locks: RangeLocks) -> None:
        self._path, self._locks, self._mutex = path, locks, threading.Lock()

    def after_fork(self) -> None:
        self._mutex = threading.Lock()

    def read(self) -> Epochs:
        try:
            document = info.read(self._path) or {}
            return Epochs(**{**document, "starts": _three(*document.get("starts", (0, 0, 0)))})
        except TypeError:  # of another version
            return Epochs()

    def change(self, step: Callable[[Epochs], Epochs]) -> Epochs:
        """Replace the record by what `step` makes of it. Raises OSError."""
        with self._mutex, self._locks.hold(_LOCK, timeout=5):
            before = self.read()
            after = step(before)
            if after != before:
                info.write(self._path, info.seal(asdict(after)))
            return after


def _three(latest: int, previous: int, before: int) -> tuple[int, int, int]:
    return latest, previous, before
