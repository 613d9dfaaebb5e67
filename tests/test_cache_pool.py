"""Worker threads of the cache."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
import pytest

from copick.cache.pool import Background, DaemonPool
from copick.errors import CacheError
from support.volumes import cached_store, noise, python, write_tomogram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_results_and_errors_reach_whoever_asked() -> None:
    pool = DaemonPool(2, "test")
    assert [pool.submit(pow, 2, exponent).result() for exponent in range(5)] == [1, 2, 4, 8, 16]
    with pytest.raises(ZeroDivisionError, match="division"):
        pool.submit(lambda: 1 / 0).result()
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
    pool.shutdown()


def test_an_error_ends_no_worker() -> None:
    pool = DaemonPool(1, "test")
    for error in (ValueError("one"), SystemExit("two"), KeyboardInterrupt("three")):

        def work(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error), match=r"one|two|three"):
            pool.submit(work).result()
    assert pool.submit(lambda: 5).result() == 5
    pool.shutdown()


def test_threads_start_as_they_are_needed_up_to_the_limit() -> None:
    pool, go = DaemonPool(3, "test-limit"), threading.Event()

    def alive() -> int:
        return sum(thread.name.startswith("test-limit") for thread in threading.enumerate())

    assert alive() == 0
    futures = []
    for number in range(6):
        futures.append(pool.submit(go.wait))
        assert alive() == min(number + 1, 3)
    go.set()
    assert all(future.result() for future in futures)
    time.sleep(0.05)
    assert pool.submit(lambda: 1).result() == 1
    assert alive() == 3
    pool.shutdown()
    assert alive() == 0


def test_shutdown_finishes_or_cancels_what_waits() -> None:
    for cancel in (False, True):
        pool, go = DaemonPool(1, "test"), threading.Event()
        first, second = pool.submit(go.wait), pool.submit(lambda: 2)
        threading.Timer(0.05, go.set).start()
        pool.shutdown(cancel_futures=cancel)
        assert first.result() is True
        assert second.cancelled() is cancel
        with pytest.raises(RuntimeError, match="closed"):
            pool.submit(lambda: 3)


def test_shutdown_does_not_wait_for_ever() -> None:
    pool, go = DaemonPool(2, "test"), threading.Event()
    pool.submit(go.wait)
    begin = time.monotonic()
    pool.shutdown(timeout=0.1)
    assert time.monotonic() - begin < 2
    pool.shutdown(wait=False)
    go.set()


def test_a_cancelled_task_does_not_run() -> None:
    pool, go, ran = DaemonPool(1, "test"), threading.Event(), []
    pool.submit(go.wait)
    future = pool.submit(ran.append, 1)
    assert future.cancel()
    go.set()
    pool.shutdown()
    assert not ran


def test_a_task_keeps_nothing_alive_after_its_end() -> None:
    import weakref

    class Chunk:
        pass

    pool = DaemonPool(1, "test")
    chunk = Chunk()
    seen = weakref.ref(chunk)
    future = pool.submit(lambda held: None, chunk)
    future.result()
    del chunk
    pool.submit(lambda: None).result()
    assert seen() is None
    pool.shutdown()


def test_the_interpreter_does_not_wait_for_workers() -> None:
    code = (
        "import time\nfrom copick.cache.pool import DaemonPool\n"
        "DaemonPool(1, 'test').submit(time.sleep, 60)\nprint('left')"
    )
    begin = time.monotonic()
    ended = python(code)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("left\n", "", 0)
    assert time.monotonic() - begin < 30


# No more threads to be had


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The cache's threads cannot be started, as where the system's limit is reached, until this is undone."""
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith(("copick", "test")):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    yield monkeypatch
    monkeypatch.undo()


def test_without_a_thread_work_is_done_by_who_asks(no_threads: pytest.MonkeyPatch) -> None:
    pool, mine = DaemonPool(2, "test"), threading.get_ident()
    for _ in range(3):
        future: Future[int] = Future()
        pool.fulfil(future, threading.get_ident)
        assert future.result(0) == mine
        with pytest.raises(CacheError, match="no thread"):
            pool.submit(threading.get_ident)
    no_threads.undo()
    assert pool.submit(threading.get_ident).result(30) != mine
    pool.shutdown()


def test_fewer_threads_than_wished_are_enough(request: pytest.FixtureRequest) -> None:
    pool, go = DaemonPool(2, "test"), threading.Event()
    first = pool.submit(go.wait)
    request.getfixturevalue("no_threads")
    second = pool.submit(lambda: 2)
    go.set()
    assert first.result(30)
    assert second.result(30) == 2
    pool.shutdown()


def test_without_a_thread_work_in_the_background_is_waited_for(no_threads: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    background = Background(lambda: done.append(1), "test", 10)
    background.run()
    background.run()
    assert done == [1, 1]


def test_without_a_thread_a_volume_is_read_and_cached(tmp_path: Path, no_threads: pytest.MonkeyPatch) -> None:
    data = noise()
    store = cached_store(tmp_path / "cache", write_tomogram(tmp_path / "project", data))
    for _ in range(3):
        np.testing.assert_array_equal(store.open_array("0")[:], data)
    assert store.cache_manager.get_stats()["fetched_cells"] == 27
    assert not store.cache_manager.started
    no_threads.undo()
    np.testing.assert_array_equal(store.open_array("0")[:], data)
    assert store.cache_manager.started
    store.cache_manager.close()


# In the background


def test_work_in_the_background_is_done_once_at_a_time() -> None:
    done: list[float] = []

    def work() -> None:
        time.sleep(0.2)
        done.append(time.monotonic())

    background = Background(work, "test", 10)
    asking = [threading.Thread(target=background.run) for _ in range(5)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(done) == 1
    background.run()
    assert len(done) == 2


def test_nobody_waits_long_for_work_in_the_background() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(30)
        done.set()

    background = Background(work, "test", 0.1)
    began = time.monotonic()
    for _ in range(100):
        background.run()
    assert time.monotonic() - began < 5
    assert not done.is_set()
    go.set()
    assert done.wait(30)


def test_what_work_in_the_background_raises_reaches_whoever_waits() -> None:
    def work() -> None:
        raise OSError("no room")

    background = Background(work, "test", 30)
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            background.run()
