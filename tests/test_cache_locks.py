"""Locks and the number that all processes of a cache share."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.cache import locks as module
from copick.cache import manager as manager_module
from copick.cache.locks import RangeLocks
from support.volumes import noise, opened, write_tomogram

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = [0, 7, 1 << 60, (1 << 61) - 1]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(params=["ranges", "files"])
def kind(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Locks as they are on Linux, and as they are elsewhere."""
    if request.param == "ranges" and module._OFD is None:
        pytest.skip("this system has no open-file-description locks")
    if request.param == "files":
        monkeypatch.setattr(module, "_OFD", None)
    return str(request.param)


def in_child(work: Any) -> int:
    """The exit code of a forked child: what `work` returns."""
    child = os.fork()
    if not child:
        code = 99
        try:
            code = int(work())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def can_lock(folder: Path, number: int, timeout: float = 0) -> bool:
    with RangeLocks(folder).hold(number, timeout) as held:
        return held


@pytest.mark.parametrize("number", NUMBERS)
def test_one_holder_at_a_time(tmp_path: Path, kind: str, number: int) -> None:
    locks = RangeLocks(tmp_path)
    with locks.hold(number, 0) as held:
        assert held
        with locks.hold(number, 0) as again:
            assert not again
        assert not can_lock(tmp_path, number)
        assert can_lock(tmp_path, number + 1)
    assert can_lock(tmp_path, number)


def test_a_lock_is_let_go_after_an_error(tmp_path: Path, kind: str) -> None:
    locks = RangeLocks(tmp_path)
    with pytest.raises(ValueError, match="of the holder"), locks.hold(1, 0):
        raise ValueError("of the holder")
    assert can_lock(tmp_path, 1)


def test_waiting_ends_with_the_timeout_or_the_lock(tmp_path: Path, kind: str) -> None:
    locks = RangeLocks(tmp_path)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.hold(1, 0):
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    begin = time.monotonic()
    assert not can_lock(tmp_path, 1, timeout=0.2)
    assert 0.2 <= time.monotonic() - begin < 2
    threading.Timer(0.2, release.set).start()
    assert can_lock(tmp_path, 1, timeout=30)
    thread.join()
    assert time.monotonic() - begin < 10


def test_threads_exclude_each_other(tmp_path: Path, kind: str) -> None:
    locks, inside, most = RangeLocks(tmp_path), [0], [0]

    def work() -> None:
        for _ in range(30):
            with locks.hold(5, 30) as held:
                assert held
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@needs_fork
def test_a_child_does_not_hold_what_its_parent_holds(tmp_path: Path, kind: str) -> None:
    locks = RangeLocks(tmp_path)

    def work() -> bool:
        locks.after_fork()
        with locks.hold(1, 0) as mine, locks.hold(2, 0) as other:
            return mine or not other

    with locks.hold(1, 0):
        assert in_child(work) == 0
        assert not can_lock(tmp_path, 1)
    assert can_lock(tmp_path, 1)


@needs_fork
def test_the_locks_of_a_killed_process_are_free(tmp_path: Path, kind: str) -> None:
    def work() -> int:
        with RangeLocks(tmp_path).hold(1, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    assert in_child(work) == -signal.SIGKILL
    assert can_lock(tmp_path, 1)


def test_a_folder_without_room_for_locks_is_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(OSError, match="nowhere"), RangeLocks(tmp_path / "nowhere").hold(1, 0):
        pass


# Locks that many hold


def test_shared_locks_are_seen_and_exclude_nobody(tmp_path: Path, kind: str) -> None:
    mine, other = RangeLocks(tmp_path), RangeLocks(tmp_path)
    assert not mine.taken([5])
    with mine.share([5, 900, 5]), other.share([5]), mine.share([5]):
        for locks in (mine, other, RangeLocks(tmp_path)):
            assert locks.taken([5])
            assert locks.taken([1, 900])
            assert not locks.taken([1, 7, 901])
        assert can_lock(tmp_path, 6)
    for locks in (mine, other, RangeLocks(tmp_path)):
        assert not locks.taken([5, 900])


def test_a_shared_lock_is_let_go_after_an_error(tmp_path: Path, kind: str) -> None:
    mine = RangeLocks(tmp_path)
    with pytest.raises(ValueError, match="of the holder"), mine.share([1]):
        raise ValueError("of the holder")
    assert not RangeLocks(tmp_path).taken([1])


@needs_fork
def test_a_shared_lock_ends_with_its_holder(tmp_path: Path, kind: str) -> None:
    ready, write = os.pipe()

    def work() -> int:
        with RangeLocks(tmp_path).share([3]):
            os.write(write, b"!")
            time.sleep(60)
        return 0

    child = os.fork()
    if not child:
        work()
        os._exit(0)
    os.read(ready, 1)
    locks = RangeLocks(tmp_path)
    assert locks.taken([3])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not locks.taken([3])
    for end in (ready, write):
        os.close(end)


@needs_fork
def test_a_child_shares_nothing_of_its_parent(tmp_path: Path, kind: str) -> None:
    locks = RangeLocks(tmp_path)

    def work() -> bool:
        locks.after_fork()
        inside.__exit__(None, None, None)  # as a child does that was forked inside the block
        seen = locks.taken([3])  # the parent's
        with locks.share([4]):
            return not (seen and locks.taken([4]))

    inside = locks.share([3])
    inside.__enter__()
    assert in_child(work) == 0
    assert RangeLocks(tmp_path).taken([3])
    inside.__exit__(None, None, None)
    assert not locks.taken([3])


# Locks that share a file, where there are no ranges


@needs_fork
def test_who_holds_a_lock_does_not_wait_for_himself(tmp_path: Path, kind: str) -> None:
    numbers = [1, 257, 1 << 60 | 1, 1 << 60 | 257, 2 << 60 | 1]
    locks = RangeLocks(tmp_path)
    with contextlib.ExitStack() as stack:
        for number in numbers:
            assert stack.enter_context(locks.hold(number, 0))
        for number in numbers:
            assert not can_lock(tmp_path, number)
            assert in_child(partial(can_lock, tmp_path, number)) == 0
    assert all(in_child(partial(can_lock, tmp_path, number)) == 1 for number in numbers)


@needs_fork
def test_locks_of_one_kind_hold_up_none_of_another(tmp_path: Path, kind: str) -> None:
    few, cells, created = [1, 2], [1 << 60 | 1, 1 << 60 | 2], [2 << 60 | 1, 2 << 60 | 2]
    for held, others in ((few, cells + created), (cells, few + created), (created, few + cells)):
        with RangeLocks(tmp_path).hold(held[0], 0):
            assert all(in_child(partial(can_lock, tmp_path, number)) == 1 for number in [held[1], *others])


def asking(folder: Path, seconds: float) -> list[int]:
    """Two processes that ask all the time whether something is shared; their exit code is how often in a hundred it was."""
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            locks, end, told, asked = RangeLocks(folder), time.monotonic() + seconds, 0, 0
            while time.monotonic() < end:
                asked, told = asked + 1, told + locks.taken([5, 900, 77])
            os._exit(-(-100 * told // asked))
    return children


@needs_fork
def test_who_asks_is_not_taken_for_a_writer(tmp_path: Path, kind: str) -> None:
    for child in asking(tmp_path, 1.5):
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) <= 1


@needs_fork
def test_who_asks_does_not_hide_a_writer(tmp_path: Path, kind: str) -> None:
    mine, other = RangeLocks(tmp_path), RangeLocks(tmp_path)
    children = asking(tmp_path, 3)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        with mine.share([900]):
            assert other.taken([900])
    for child in children:
        os.waitpid(child, 0)


def test_a_cold_read_whose_locks_share_a_file(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "hash_name", lambda name: 1)
    data = noise()
    write_tomogram(tmp_path / "project", data)
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    begin = time.monotonic()
    np.testing.assert_array_equal(tomogram.numpy(), data)
    assert time.monotonic() - begin < 4
