"""Worker threads that never hold up the end of the interpreter.

`concurrent.futures` joins its workers before any exit handler runs; with a source that hangs, leaving Python would take as long as
the source's timeout. These threads are daemons; at the end they are given a moment and then left.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class DaemonPool(Executor):
    """At most `threads` workers, started as work comes in."""

    def __init__(self, threads: int, name: str) -> None:
        self._limit, self._name = threads, name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._closed = False
        self._mutex = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._mutex:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._unfinished += 1
            self._work.put((future, partial(fn, *args, **kwargs)))
            if self._unfinished > len(self._threads) < self._limit:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 (it belongs to whoever waits)
                    future.set_exception(error)
            del item, future, work  # they hold a whole chunk
            with self._mutex:
                self._unfinished -= 1

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None:
        """End the threads; one that is still at work after `timeout` seconds is left to it."""
        with self._mutex:
            self._closed = True
            if cancel_futures:
                while not self._work.empty():
                    if (item := self._work.get()) is not None:
                        item[0].cancel()
            for _ in self._threads:
                self._work.put(None)
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads if wait else ():
            thread.join(None if end is None else max(0.0, end - time.monotonic()))


class Foreground:
    """Those who wait for what they asked for themselves; others give way to them."""

    def __init__(self) -> None:
        self._changed, self._waiting = threading.Condition(), 0

    def __enter__(self) -> None:
        with self._changed:
            self._waiting += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._waiting -= 1
            self._changed.notify_all()

    def give_way(self, timeout: float) -> None:
        """Wait until nobody waits, or for `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout)


class Background:
    """Some work on a thread of its own: once at a time, and who asks for it waits only a moment."""

    def __init__(self, work: Callable[[], None], name: str, patience_s: float) -> None:
        """`patience_s`: how long the work may take before nobody waits for it."""
        self._work, self._name, self._patience_s = work, name, patience_s
        self._mutex = threading.Lock()
        self._future: Future[None] | None = None
        self._awaited_until = 0.0

    def run(self) -> None:
        """Begin the work unless it is going on, and wait for it if that may be worthwhile. Raises what it raises meanwhile."""
        with self._mutex:
            if self._future is None or self._future.done():
                self._future, self._awaited_until = Future(), time.monotonic() + self._patience_s
                threading.Thread(target=self._run, args=(self._future,), name=self._name, daemon=True).start()
            future = self._future
        with contextlib.suppress(TimeoutError):
            future.result(max(0.0, self._awaited_until - time.monotonic()))

    def _run(self, future: Future[None]) -> None:
        try:
            future.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 (it belongs to whoever waits)
            future.set_exception(error)
