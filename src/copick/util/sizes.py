"""Sizes as people write them."""

from __future__ import annotations

import re

from copick.errors import ConfigError

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def parse_size(text: str, where: str) -> int:
    """Bytes from text such as `500M`, `20GiB` or `1073741824`. Raises ConfigError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{where}: found {text!r}; expected a size such as 20GB or 500M")
    return int(float(match[1]) * _UNITS[match[2].lower()])
