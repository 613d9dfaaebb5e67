"""What is wrong with a config, said so that a person can act on it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from copick.errors import ConfigError
from copick.util.urls import SECRETS, shown_url
from copick.util.words import nearest

M = TypeVar("M", bound=BaseModel)
Fields = Callable[[str, Mapping[str, Any]], "list[str]"]
"""(key, object under it) → the keys that the object may have."""


def from_json(text: str | bytes, where: str) -> tuple[Any, list[str]]:
    """What a JSON text says, and the keys that stand twice in one object (of these, the last counts).

    Raises:
        ConfigError: It is no JSON; `where` names it.
    """
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                repeated.append(key)
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=collect), repeated
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg} "
            "(JSON allows no comments and no comma after the last item)"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, too deep
        raise ConfigError(f"{where}: cannot be used: {error}") from error


def validated(cls: type[M], data: Any, where: str, fields: Fields | None = None) -> M:
    """`data` as a `cls`, or a ConfigError that names each field, what was found and what is expected.

    Args:
        where: Names the source of `data` in the error.
        fields: Knows the keys of objects inside `data`, to find the one that a misspelt key was meant to be.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        problems = [_problem(item, data, cls, fields) for item in error.errors(include_url=False)]
    head = f"{where}: " + (f"{len(problems)} problems:\n  " if len(problems) > 1 else "")
    raise ConfigError(head + "\n  ".join(problems))  # not "from" the cause: it would print secrets


def _problem(error: Any, data: Any, cls: type[BaseModel], fields: Fields | None) -> str:
    """One line: which field, what was found, what is expected."""
    loc = error["loc"]
    at = ".".join(map(str, loc)) + ": " if loc else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{at}unknown key{nearest(str(loc[-1]), _keys_at(data, loc[:-1], cls, fields))}"
    if error["type"] == "missing":
        return f"{at}is missing"
    if error["type"] == "value_error":
        return at + message
    found = error["input"]
    secret = any(str(part).endswith("fs_args") or SECRETS.search(str(part)) for part in loc)
    shown = "" if secret or isinstance(found, Mapping | list) else f"found {shown_url(repr(found))}; "
    message = re.sub("^Input should be", "expected", message)
    return f"{at}{shown}{message[:1].lower()}{message[1:]}"


def _keys_at(data: Any, loc: tuple[Any, ...], cls: type[BaseModel], fields: Fields | None) -> list[str]:
    if not loc:
        return list(cls.model_fields)
    for part in loc:
        data = data.get(part) if isinstance(data, Mapping) else None
    return fields(str(loc[-1]), data) if fields and isinstance(data, Mapping) else []
