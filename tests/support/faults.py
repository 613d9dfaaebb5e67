"""Every call that a process makes to the cache folder fails, is cut short, or is its last.

Runs in an interpreter of its own, with `faults.c` preloaded (`library`): see `support.crashes`, whose children these are.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPEN, READ, WRITE, NAME, MAP, LOCK = 1, 2, 4, 8, 16, 32
CHANGES = OPEN | WRITE | NAME
KILL, SHORT = -1, -2
ERRORS = {
    READ: (errno.EIO, errno.EACCES, errno.ESTALE),
    OPEN: (errno.EACCES, errno.EMFILE, errno.EIO, errno.EROFS, errno.ENOSPC),
    WRITE: (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    NAME: (errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO),
    MAP: (errno.ENOMEM, errno.ENODEV),
    LOCK: (errno.ENOLCK, errno.EIO),
}
FOREVER = 1 << 40


def library(folder: Path) -> Path:
    """`faults.c`, compiled. Raises OSError or CalledProcessError if there is no compiler."""
    made = folder / "faults.so"
    source = Path(__file__).with_suffix(".c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-w", str(source), "-o", str(made), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return made


class Faults:
    """The preloaded library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.fault_arm.argtypes = [
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
            ctypes.c_long,
        ]
        self._library.fault_calls.restype = ctypes.c_long

    def arm(self, folder: Path, kinds: int, action: int, first: int, last: int) -> None:
        self._library.fault_arm(os.fsencode(folder), kinds, action, first, last)

    @property
    def calls(self) -> int:
        return int(self._library.fault_calls())


SHAPE, CHUNKS = (12, 12, 12), (6, 6, 6)
CHUNK_FILE = 6**3 * 4 + 4


def work(place: Path, data: np.ndarray[Any, Any], disk_format: str) -> None:
    """What processes do to a cache: list, insert, read, journal, evict, recount, forget. All that is read is right."""
    from copick.cache import manager as managers
    from support.volumes import opened

    fields = {"disk_format": disk_format, "max_size_bytes": 5 * CHUNK_FILE}
    for _ in range(2):
        tomogram = opened(place / "project", place / "cache", fields)
        np.testing.assert_array_equal(tomogram.numpy(z=slice(0, 6)), data[:6])
    manager = managers._managers.get(os.path.realpath(place / "cache"))  # none, if it could not be opened
    if manager is not None:
        manager.journal.flush()
    np.testing.assert_array_equal(tomogram.numpy(), data)
    if manager is not None:
        with contextlib.suppress(OSError):  # as the thread does
            manager._tick()
        manager.journal.flush()
        tomogram.refresh()
    np.testing.assert_array_equal(tomogram.numpy(z=slice(3, 9)), data[3:9])
    if manager is not None:
        assert manager.check()
        manager.close()


def afterwards(place: Path, data: np.ndarray[Any, Any], disk_format: str) -> list[str]:
    """What is wrong with the folder then: nothing, and whoever comes next reads right."""
    from copick.cache.verify import verify
    from support.volumes import opened

    cache, wrong = place / "cache", []
    if (cache / ".cache_metadata").is_dir():
        wrong += [f"{each.kind} {each.path}: {each.text}" for each in verify(cache).problems]
    fields = {"disk_format": disk_format, "max_size_bytes": 5 * CHUNK_FILE}
    for _ in range(2):
        found = opened(place / "project", cache, fields).numpy()
        if not np.array_equal(found, data):
            wrong.append("the next reader has wrong bytes")
    found = (Path(parent, name) for parent, _, names in os.walk(cache) for name in names)
    files = [file for file in found if file.name.isdigit() and "/.tmp-" not in str(file)]
    if sum(file.stat().st_size for file in files) > 6 * CHUNK_FILE:
        wrong.append(f"{len(files)} chunks are more than the budget")
    return [*wrong, *(f"{each.kind} {each.path}: {each.text}" for each in verify(cache).problems)]


def plans(kinds: int, how: str, stride: int) -> Iterator[tuple[int, int, int]]:
    """Actions and the calls that they hit: each one alone, or all from one on."""
    for number, at in enumerate(range(0, FOREVER, stride)):
        if how in ("kill", "short"):
            yield {"kill": KILL, "short": SHORT}[how], at, at + 1
        else:
            errors = ERRORS[kinds]
            yield errors[number % len(errors)], at, at + 1 if how == "once" else FOREVER


def run(folder: Path, kinds: int, how: str, stride: int, disk_format: str) -> str:
    """Try each plan in children of this process. Raises AssertionError."""
    from support.crashes import answer, forked
    from support.volumes import noise, write_tomogram

    data = noise(SHAPE)
    data[:6, :6, :6] = 0
    faults, template = Faults(), folder / "template"
    write_tomogram(template / "project", data, chunks=CHUNKS)
    assert forked(lambda: work(template, data, disk_format)) == 0
    shutil.rmtree(template / "cache")
    for tried, (action, first, last) in enumerate(plans(kinds, how, stride), 1):
        place = Path(shutil.copytree(template, folder / f"{first}"))
        what = f"{how} {kinds} {disk_format}: action {action} at call {first}"

        def child(place: Path = place, action: int = action, first: int = first, last: int = last) -> None:
            faults.arm(place / "cache", kinds, action, first, last)
            work(place, data, disk_format)
            (place / "calls").write_text(str(faults.calls))

        status = forked(child)
        assert status in (0, -signal.SIGKILL if action == KILL else 0), f"{what}: ended with {status}"
        wrong = answer(lambda place=place: afterwards(place, data, disk_format))
        assert not wrong, f"{what}: {wrong}"
        done = status == 0 and int((place / "calls").read_text()) <= first
        shutil.rmtree(place)
        if done:
            return f"{tried} places"
    raise AssertionError("there is no end of calls")


def main() -> None:
    folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    from support.crashes import warm
    from support.volumes import noise, write_tomogram

    write_tomogram(folder / "warm" / "project", noise(SHAPE), chunks=CHUNKS)
    prepare: Callable[[], Any] = lambda: (  # noqa: E731
        work(folder / "warm", noise(SHAPE), "encoded"),
        afterwards(folder / "warm", noise(SHAPE), "encoded"),
    )
    warm(prepare)
    results = {}
    for name, (kinds, how, stride, disk_format) in cases.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        try:
            results[name] = run(place, kinds, how, stride, disk_format)
        except AssertionError as error:
            results[name] = f"failed: {error}"
    print(json.dumps(results))


if __name__ == "__main__":
    main()
