"""Texts for people."""

from __future__ import annotations

import difflib


def nearest(word: str, known: list[str]) -> str:
    """A hint at what was meant, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
