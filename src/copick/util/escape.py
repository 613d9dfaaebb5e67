"""Names that can stand in file names: `user_session_object.json` must read back as what was written."""

from __future__ import annotations

import re
import warnings

_UNCLEAN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\s_]')


def sanitize_name(input_str: str, suppress_warnings: bool = False) -> str:
    """`input_str` with `_`, white space and characters that file systems reserve replaced by `-`.

    Raises:
        TypeError: `input_str` is not a string.
        ValueError: Nothing of it is left.
    """
    if not isinstance(input_str, str):
        raise TypeError(f"a name must be a string, not {type(input_str).__name__} {input_str!r}")
    clean = _UNCLEAN.sub("-", input_str).strip("-")
    if not clean:
        raise ValueError(f"the name {input_str!r} has no character that can be used in a file name")
    if clean != input_str and not suppress_warnings:
        warnings.warn(
            f"the name {input_str!r} was changed to {clean!r} to be usable in file names", UserWarning, 2
        )
    return clean


def check_clean(name: str, what: str) -> str:
    """`name` itself, or ValueError if `sanitize_name` would change it."""
    clean = sanitize_name(name, suppress_warnings=True)
    if clean != name:
        raise ValueError(f"{what} {name!r} holds characters that cannot be used in file names; try {clean!r}")
    return name
