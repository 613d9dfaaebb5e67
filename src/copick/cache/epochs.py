"""When epochs of training began: what the policy `epoch` goes by.

One record for all processes of a cache. A trainer says when an epoch begins; where nobody does, one is over after as many uses of
chunks as the arrays have that are read. What was not used since the epoch before the previous one began is stale.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from copick.cache.locks import SharedRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from copick.cache.locks import RangeLocks

TELL_S: Final = 1.0
"""Processes tell each other no more often how much they have used."""
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

    @classmethod
    def of(cls, document: dict[str, Any] | None) -> Epochs:
        """From a record; one that is missing, or of another version, is a new beginning."""
        try:
            latest, previous, before = (document or {})["starts"]
            return cls(**{**(document or {}), "starts": (latest, previous, before)})
        except (KeyError, TypeError, ValueError):
            return cls()

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
    """The record of all processes, and what this one adds to it."""

    def __init__(
        self, path: Path, locks: RangeLocks, uses: Callable[[], int], chunks: Callable[[], int]
    ) -> None:
        """`uses`: of chunks by this process so far; `chunks`: how many the arrays have that it reads."""
        self._record, self._uses, self._chunks = SharedRecord(path, locks, _LOCK), uses, chunks
        self.known = Epochs()
        """The record, as of about a second ago."""
        self.after_fork()

    def after_fork(self) -> None:
        self._mutex = threading.Lock()
        self._told, self._told_at = self._uses(), 0.0
        self._record.after_fork()

    def begin(self, number: int | None = None) -> None:
        """A trainer says that an epoch begins. Raises OSError."""
        with self._mutex:
            self._tell()
            self._change(lambda epochs, now: epochs.begun(now, number))

    def stale_before(self) -> int:
        """As of all processes' epochs, see `Epochs`. Never raises: if the record cannot be used, by what is known."""
        due = self._uses() - self._told > self.known.chunks // 64
        if (due or time.monotonic() - self._told_at > TELL_S) and self._mutex.acquire(blocking=False):
            try:
                self._tell()
            except OSError:
                pass
            finally:
                self._mutex.release()
        return self.known.stale_before

    def _tell(self) -> None:
        """Add what was used here to what all have used."""
        uses, chunks = self._uses(), self._chunks()
        self._change(lambda epochs, now: epochs.used(uses - self._told, chunks, now))
        self._told, self._told_at = uses, time.monotonic()

    def _change(self, step: Callable[[Epochs, int], Epochs]) -> None:
        now = int(time.time() * 1e6)
        self.known = Epochs.of(self._record.change(lambda document: asdict(step(Epochs.of(document), now))))
