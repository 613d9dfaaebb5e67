"""Operations on whole projects: open, add, deposit, export, get, move, copy, count, and one function over many runs.

One module per kind of operation (`copick.ops.add`, `copick.ops.run`, ...), imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("add", "deposit", "export", "get", "manage", "open", "run", "stats", "sync")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"copick.ops.{name}")
    raise AttributeError(f"module 'copick.ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
