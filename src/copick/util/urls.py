"""Addresses as they may be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

SECRETS = re.compile(r"key|secret|token|passw|credential|auth", re.IGNORECASE)
"""Names of fields whose values must not be shown."""

LOCAL = re.compile(r"(?:local|file):(?://)?", re.IGNORECASE)
"""How the address of a local path may begin, as fsspec reads it."""

_USER = re.compile(r"(?<=://)[^/@\s]*@")
HIDDEN = "***"


def local_path(root: str) -> str:
    """The absolute path that a path or a `local:` or `file:` URL stands for."""
    path = LOCAL.sub("", root, count=1) if LOCAL.match(root) else root
    if os.name == "nt" and re.match(r"/[A-Za-z]:", path):
        path = path[1:]
    return os.path.abspath(os.path.expanduser(path))


def shown_url(url: str) -> str:
    """`url` without the password in it."""
    return _USER.sub(lambda found: f"{found[0].partition(':')[0].rstrip('@')}@", url)


def secrets_in(url: str, options: Any) -> set[str]:
    """What must not be shown of an address and the options it is opened with."""
    user = _USER.search(url)
    password = user[0][:-1].partition(":")[2] if user else ""
    return {text for text in (password, unquote(password), *_secret_values(options)) if len(text) > 2}


def _secret_values(options: Any, hidden: bool = False) -> Iterator[str]:
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield from _secret_values(value, hidden or bool(SECRETS.search(str(name))))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _secret_values(value, hidden)
    elif hidden and isinstance(options, str):
        yield options


def without(text: str, secrets: set[str]) -> str:
    """`text` with each secret replaced by stars."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def masked(options: Any) -> Any:
    """Options as they may be shown: secrets hidden at any depth."""
    if isinstance(options, Mapping):
        return {
            name: HIDDEN if SECRETS.search(str(name)) and value is not None else masked(value)
            for name, value in options.items()
        }
    return [masked(item) for item in options] if isinstance(options, list | tuple) else options
