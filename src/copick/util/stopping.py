"""Ctrl-C reaches the main thread alone: this tells the threads that work for it."""

from __future__ import annotations

from concurrent.futures import wait
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from concurrent.futures import Future

T = TypeVar("T")

LOOK_S = 0.1
"""How often who waits looks whether he should stop."""

_stop: ContextVar[threading.Event | None] = ContextVar("copick_stop", default=None)


def until(stop: threading.Event, work: Callable[..., T], *args: Any) -> T:
    """`work(*args)`, which may ask whether `stop` is set."""
    before = _stop.set(stop)
    try:
        return work(*args)
    finally:
        _stop.reset(before)


def check() -> None:
    """Raises KeyboardInterrupt if whoever this thread works for was interrupted."""
    stop = _stop.get()
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt("interrupted")


def result(future: Future[T]) -> T:
    """What comes of a future. Raises what it raises, or as `check` does: then it may be under way."""
    while _stop.get() is not None and not wait([future], LOOK_S).done:
        check()
    return future.result()
