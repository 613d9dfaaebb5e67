"""Processes that are killed at each step of what they do.

Everything runs in children of a process that has imported much and started no thread, so that a child costs little: import this in
an interpreter of its own (`support.volumes.python`), never in the one that runs the tests.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numcodecs  # noqa: F401
import s3fs
import trimesh  # noqa: F401
import zarr  # noqa: F401

import copick  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable

KILLED = -signal.SIGKILL
CHANGES = {
    "open",
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.truncate",
    "ctypes.dlopen",
}
"""Audit events before the calls that change what is on disk. (Where folders change places, a library is opened.)"""


def forked(work: Callable[[], Any], meanwhile: Callable[[int], Any] = lambda pid: None) -> int:
    """The exit status of a child that does `work`; negative: the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        _end_with(work)
    meanwhile(pid)
    return _status(pid)


def together(*works: Callable[[], Any]) -> list[int]:
    """The exit statuses of children that begin at the same time."""
    read, write = os.pipe()

    def begin(work: Callable[[], Any]) -> None:
        os.close(write)
        os.read(read, 1)  # until nobody can write any more
        work()

    pids = []
    for work in works:
        if (pid := os.fork()) == 0:
            _end_with(lambda work=work: begin(work))
        pids.append(pid)
    os.close(read)
    os.close(write)
    return [_status(pid) for pid in pids]


def answer(work: Callable[[], Any]) -> Any:
    """What `work` returns, in a child, as JSON has it."""
    read, write = os.pipe()

    def send() -> None:
        with open(write, "w") as pipe:
            json.dump(work(), pipe)

    if (pid := os.fork()) == 0:
        _end_with(send)
    os.close(write)
    with open(read) as pipe:
        text = pipe.read()
    assert _status(pid) == 0, "the child failed"
    return json.loads(text)


def _end_with(work: Callable[[], Any]) -> NoReturn:
    try:
        work()
    except BaseException:  # noqa: BLE001 (a child must end here, whatever it raised)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(step: int) -> None:
    """Be killed before the change number `step`, counted from 0, of this process to a file."""
    steps = itertools.count()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES:
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if next(steps) >= step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_at_request(step: int) -> None:
    """Be killed before request number `step` of this process to S3."""
    steps, call = itertools.count(), s3fs.S3FileSystem._call_s3

    async def dying(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(steps) >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return await call(self, *arguments, **options)

    s3fs.S3FileSystem._call_s3 = dying


def warm(work: Callable[[], Any]) -> None:
    """Import what `work` imports, lest each child does it anew."""
    for module in answer(lambda: [work(), [*sys.modules]][1]):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def at_each_step(
    place: Callable[[int], Any],
    act: Callable[[Any], Any],
    state: Callable[[Any], Any],
    *,
    dying: Callable[[int], None] = die_at,
    stride: int = 1,
    repeats: bool = True,
    may_be_gone: bool = False,
) -> str:
    """Kill `act` at each step: what is seen then is what was before or what is after, and to do it again works.

    Args:
        place: Makes a project and says where; called with another number each time.
        act: What is done to the project.
        state: What is seen of a project, by name.
        stride: Only each so many steps.
        repeats: False = `act` cannot be done twice.
        may_be_gone: What changes, with what belongs to it, may be missing until it is done again.
    """
    first, last = place(0), place(1)
    before = answer(lambda: state(first))
    assert forked(lambda: act(last)) == 0
    after = answer(lambda: state(last))
    assert before != after
    changed = tuple(name for name in {*before, *after} if before.get(name) != after.get(name))
    others = {name for name in before if not name.startswith(changed)}

    def is_whole(now: dict[str, Any]) -> bool:
        known = all(what in (before.get(name), after.get(name)) for name, what in now.items())
        return now in (before, after) or (may_be_gone and known and others <= {*now})

    seen = []
    for step in itertools.count(0, stride):
        where = place(step + 2)
        status = forked(lambda where=where, step=step: (dying(step), act(where)))
        assert status in (0, KILLED), status
        now = answer(lambda where=where: state(where))
        assert is_whole(now), f"killed at step {step}: neither {before} nor {after}, but {now}"
        seen.append(now == after)
        if status == 0:
            break
        if repeats or now == before:
            assert forked(lambda where=where: act(where)) == 0, (
                f"killed at step {step}: it cannot be done again"
            )
            again = answer(lambda where=where: state(where))
            assert again == after, f"killed at step {step}, done again: not {after}, but {again}"
    assert len(seen) > 2
    assert seen == sorted(seen), "what was done was undone"
    return f"{step + 1} steps, done after {seen.index(True) * stride}"


def copies_of(template: Path, folder: Path) -> Callable[[int], Path]:
    """Gives copies of a project to `at_each_step`."""
    return lambda number: Path(shutil.copytree(template, folder / str(number)))
