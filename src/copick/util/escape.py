"""Names that can stand in file names: `user_session_object.json` must read back as what was written."""

from __future__ import annotations

import re
import warnings

from copick.errors import FormatError

_UNCLEAN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\s_]')


def sanitize_name(input_str: str, suppress_warnings: bool = False) -> str:
    """`input_str` with `_`, white space and characters that file systems reserve replaced by `-`.

    Raises:
        TypeError: `input_str` is not a string.
        FormatError: Nothing of it is left, or it is no valid Unicode (also a ValueError).
    """
    if not isinstance(input_str, str):
        raise TypeError(f"a name must be a string, not {type(input_str).__name__} {input_str!r}")
    if not input_str.isascii() and any("\ud800" <= char <= "\udfff" for char in input_str):
        raise FormatError(f"the name {input_str!r} is not valid Unicode")
    clean = _UNCLEAN.sub("-", input_str).strip("-")
    if not clean:
        raise FormatError(f"the name {input_str!r} has no character that can be used in a file name")
    if clean != input_str and not suppress_warnings:
        warnings.warn(
            f"the name {input_str!r} was changed to {clean!r} to be usable in file names", UserWarning, 2
        )
    return clean


def cut_name(name: str, size: int) -> str:
    """A clean name, or as much of its beginning as takes no more than `size` bytes."""
    return name.encode()[:size].decode(errors="ignore").rstrip("-")


def check_clean(name: str, what: str) -> str:
    """`name` itself. Raises ValueError if `sanitize_name` would change it."""
    clean = sanitize_name(name, suppress_warnings=True)
    if clean != name:
        raise ValueError(f"{what} {name!r} holds characters that cannot be used in file names; try {clean!r}")
    return name
