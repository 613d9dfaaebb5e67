"""Whether the place behind a cache answers.

A place that fails is left alone for a while: whatever is cached of it is served meanwhile, without waiting for its time limit again
and again. What is not cached is asked for all the same, so that the reader gets the place's own error, or the data.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

logger = logging.getLogger("copick.cache")

REST_S: Final = 15.0
"""How long a place that failed is left alone."""


class Contact:
    """One place, as this process reaches it."""

    def __init__(self, layer: str) -> None:
        """`layer`: what it is called in the log."""
        self._layer, self._rests_until, self._warned = layer, 0.0, False

    def __reduce__(self) -> tuple[Any, ...]:
        return Contact, (self._layer,)  # another process finds out by itself

    @property
    def rests(self) -> bool:
        """Whether it failed a short while ago."""
        return time.monotonic() < self._rests_until

    def lost(self, error: Exception) -> None:
        """It failed, and what is cached is served in its place."""
        self._rests_until = time.monotonic() + REST_S
        if not self._warned:
            self._warned = True
            logger.warning(
                "layer %r cannot be reached (%s); what is cached of it is used and may be out of date",
                self._layer,
                error,
            )

    def made(self) -> None:
        """It answered, or shall be asked whatever happened before."""
        self._rests_until = 0.0
