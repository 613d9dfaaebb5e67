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

from copick.errors import CacheError

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
        """Raises CacheError if no thread can be had at all, RuntimeError if the pool is closed."""
        future: Future[Any] = Future()
        if not self._take(future, partial(fn, *args, **kwargs)):
            raise CacheError(
                "no thread can be started to read ahead or for zarr: the system's limit is reached"
            )
        return future

    def fulfil(self, future: Future[Any], work: Callable[[], Any]) -> None:
        """Do `work` for `future`; here and now if no thread can be had at all. Raises RuntimeError if the pool is closed."""
        if not self._take(future, work):
            _do(future, work)

    def _take(self, future: Future[Any], work: Callable[[], Any]) -> bool:
        with self._mutex:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._unfinished >= len(self._threads) < self._limit:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                if _started(thread):
                    self._threads.append(thread)
            if not self._threads:
                return False
            self._unfinished += 1
            self._work.put((future, work))
            return True

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            _do(*item)
            del item  # it holds a whole chunk
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


def _do(future: Future[Any], work: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 (it belongs to whoever waits)
            future.set_exception(error)


def _started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:  # the system has no more threads, or Python is about to end
        return False
    return True


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
            begins = self._future is None or self._future.done()
            if begins:
                self._future, self._awaited_until = Future(), time.monotonic() + self._patience_s
            future = self._future
        assert future is not None
        if begins and not _started(
            threading.Thread(target=_do, args=(future, self._work), name=self._name, daemon=True)
        ):
            _do(future, self._work)
        with contextlib.suppress(TimeoutError):
            future.result(max(0.0, self._awaited_until - time.monotonic()))
