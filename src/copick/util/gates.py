"""Locks that no other thread holds while the process forks.

Inside SQLite a thread may hold locks of the library itself. A child that is forked at that moment would wait for these for ever. So
whoever enters SQLite takes a gate first, and a fork waits for all gates.
"""

from __future__ import annotations

import os
import threading

index = threading.RLock()
"""Around the database of an index."""
journal = threading.RLock()
"""Around the database of a cache folder. Who holds it never waits for `index`; the other way round may happen."""

_IN_ORDER = (index, journal)


def _take() -> None:
    for gate in _IN_ORDER:
        gate.acquire()


def _let_go() -> None:
    for gate in reversed(_IN_ORDER):
        gate.release()  # in a child, too: the one thread that it has took them


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_let_go, after_in_child=_let_go)
