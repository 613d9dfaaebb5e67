"""Worker threads of the cache."""

from __future__ import annotations

import threading
import time

import pytest

from copick.cache.pool import Background, DaemonPool
from support.volumes import python


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
