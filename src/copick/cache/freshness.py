"""Whether what is cached of an array is still what its source has, told by the tag of its metadata: no data are moved for it.

The source is asked when an array was cached `max_age` ago, and after each read that had to fetch something: what was fetched may be
of another version than what lies here. If it is, all that is cached of the volume is forgotten.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from copick.cache.contact import REST_S
from copick.errors import LayerError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from copick.cache.entry import Entry
    from copick.cache.manager import CacheManager
    from copick.cache.source import Source

_PIECES_S: Final = 1.0
"""How often the source is asked while an array is read piece by piece."""


class Freshness:
    """Of the array at `path` of a source, cached in the folder `volume`, or below it."""

    def __init__(self, manager: CacheManager, source: Source, path: str, volume: Path) -> None:
        self._manager, self._source, self._path, self._volume = manager, source, path, volume
        self._same_at: tuple[float, str | None] = (
            0.0,
            None,
        )  # when the source was last seen to have which version
        self._unchecked = False  # whether something was fetched since then

    def is_confirmed(self, entry: Entry) -> bool:
        """Whether what is cached is what the source has; it is asked if that was too long ago.

        As long as the source does not answer, it is taken for that.
        """
        contact = self._source.contact
        with self._source.alone:
            if entry.until > time.time():
                return True
            try:
                if not contact.rests:
                    if self._is_replaced(entry.tag):
                        return False
                    contact.made()
                    entry.confirm()
                    return True
            except LayerError as error:
                contact.lost(error)
            entry.until = time.time() + REST_S
            return True

    def was_replaced(self, tag: str | None, *, piece: bool) -> bool:
        """Whether the source, which was just read, has another version than this by now.

        Args:
            piece: It was one of many that are read in turn: it need not be known after each of them.
        """
        if piece and self._same_at[1] == tag and time.monotonic() - self._same_at[0] < _PIECES_S:
            self._unchecked = True
            return False
        for _ in range(2):  # it answered a moment ago
            with contextlib.suppress(LayerError):
                return self._is_replaced(tag)
        self._unchecked = True  # `look_after` asks until it answers again
        return False

    def look_after(self, entry: Entry | None) -> None:
        """Ask what was not asked after the last pieces, in the background. Called every few seconds."""
        if self._unchecked and entry is not None:
            self._unchecked = False
            self._manager.flight(
                (f"{self._volume}/{self._path}:tag", 0), lambda: self.was_replaced(entry.tag, piece=False)
            )

    def _is_replaced(self, tag: str | None) -> bool:
        """Whether the source has another version than this: then it is forgotten. Raises LayerError if it cannot be asked."""
        if tag is None or self._source.ask_tag is None:
            return False
        begin = time.monotonic()
        with self._source.alone:
            if (
                self._same_at[0] >= begin and self._same_at[1] == tag
            ):  # another thread asked, after this one had to know
                return False
            begin = time.monotonic()
            try:
                now = self._source.ask_tag(self._path)
            except NotFoundError:
                now = ""
            if now is None or now == tag:
                self._same_at = begin, tag
                return False
            self._manager.forget(self._volume)
            return True
