"""Readers that fork, spawn, are interrupted or killed: as training programs do with their workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.testing.http_server import FolderServer
from support.volumes import TOMOGRAM, chunk_files, noise, opened, python, write_array, write_tomogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from copick.models import CopickTomogram

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("own_managers"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Python warns of what is tested here: forking while other threads run.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

SHAPE = (40, 40, 40)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FolderServer]:
    """A project of two tomograms behind HTTP."""
    write_tomogram(tmp_path / "project", noise(SHAPE))
    write_array((tmp_path / "project" / TOMOGRAM).with_name("denoised.zarr"), noise(SHAPE, seed=2))
    with FolderServer(tmp_path / "project") as server:
        yield server


def reads_right(tomogram: CopickTomogram) -> bool:
    """Whether both tomograms of the spacing read as they were written, in every way."""
    other = tomogram.voxel_spacing.get_tomogram("denoised")
    assert other is not None
    first, second = noise(SHAPE), noise(SHAPE, seed=2)
    patches = tomogram.array().patches([(0, 0, 0), (7, 3, 24)], (16, 16, 16))
    return (
        np.array_equal(tomogram.numpy(), first)
        and np.array_equal(patches[1], first[7:23, 3:19, 24:40])
        and np.array_equal(other.numpy(), second)
    )


def _child(tomogram: CopickTomogram) -> None:
    sys.exit(0 if reads_right(tomogram) else 3)


def run_children(method: str, tomogram: CopickTomogram, count: int, timeout: float = 60) -> list[int | None]:
    """Exit codes of children that read; None for one that hangs."""
    context: Any = multiprocessing.get_context(method)
    children = [context.Process(target=_child, args=(tomogram,)) for _ in range(count)]
    for child in children:
        child.start()
    end = time.monotonic() + timeout
    for child in children:
        child.join(max(0.1, end - time.monotonic()))
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
        child.join()
    return codes


@pytest.mark.parametrize("read", ["nothing", "a part", "everything"])
def test_forked_workers_read_what_their_parent_opened(
    tmp_path: Path, server: FolderServer, read: str
) -> None:
    tomogram = opened(server.url, tmp_path / "cache")
    if read == "a part":
        tomogram.array().read((slice(0, 10),))
    elif read == "everything":
        assert reads_right(tomogram)
    assert run_children("fork", tomogram, 4) == [0] * 4
    assert reads_right(tomogram)


@pytest.mark.parametrize("disk_format", ["raw", "encoded"])
def test_forks_while_threads_of_the_parent_read(
    tmp_path: Path, server: FolderServer, disk_format: str
) -> None:
    fields = {"disk_format": disk_format, "max_size_bytes": 300_000}  # a third: there are always cold chunks
    tomogram = opened(server.url, tmp_path / "cache", fields)
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            if not reads_right(tomogram):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            assert run_children("fork", tomogram, 2) == [0] * 2
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_fork_of_a_fork_reads(tmp_path: Path, server: FolderServer) -> None:
    tomogram = opened(server.url, tmp_path / "cache")
    tomogram.array().read((slice(0, 10),))
    child = os.fork()
    if not child:
        code = 4
        try:
            tomogram.array().read((slice(10, 20),))
            grandchild = os.fork()
            if not grandchild:
                code = 0 if reads_right(tomogram) else 3
            else:
                code = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.slow
def test_spawned_workers_get_what_their_parent_opened(tmp_path: Path, server: FolderServer) -> None:
    tomogram = opened(server.url, tmp_path / "cache")
    tomogram.numpy()
    assert run_children("spawn", tomogram, 2) == [0] * 2


# Readers that end early

READ = """
import sys, time
from pathlib import Path
from support.volumes import opened, noise
tomogram = opened(sys.argv[1], Path(sys.argv[2]))
array = tomogram.array()
print("reading", flush=True)
begin = time.monotonic()
try:
    array.read(())
except KeyboardInterrupt:
    print("interrupted", flush=True)
    if sys.argv[3] == "again":
        time.sleep(1)
        print("right" if (array.read(()) == noise()).all() else "wrong", flush=True)
"""


def reader(server: FolderServer, cache: Path, then: str = "") -> subprocess.Popen[str]:
    """A process that is reading."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", READ, server.url, str(cache), then],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    return process


def hang_at_chunks(method: str, path: str) -> Any:
    return "hang" if path.rpartition("/")[2].isdigit() else None


def temporaries(cache: Path) -> list[Path]:
    return [*cache.rglob(".tmp-*")]


def test_a_reader_killed_while_it_fetches_holds_up_nobody(tmp_path: Path, server: FolderServer) -> None:
    server.fault = hang_at_chunks
    process = reader(server, tmp_path / "cache")
    time.sleep(0.5)
    process.kill()
    process.communicate()
    server.fault = None
    begin = time.monotonic()
    assert reads_right(opened(server.url, tmp_path / "cache"))
    assert time.monotonic() - begin < 5


def test_a_child_of_a_killed_reader_does_not_keep_its_locks(tmp_path: Path, server: FolderServer) -> None:
    code = """
import os, signal, sys, threading, time
from pathlib import Path
from support.volumes import opened
tomogram = opened(sys.argv[1], Path(sys.argv[2]))
threading.Thread(target=tomogram.array().read, args=((),), daemon=True).start()
time.sleep(1)
if not os.fork():
    for number in (0, 1, 2):
        os.close(number)
    time.sleep(20)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    server.fault = hang_at_chunks
    assert python(code, server.url, tmp_path / "cache").returncode == -signal.SIGKILL
    server.fault = None
    begin = time.monotonic()
    assert reads_right(opened(server.url, tmp_path / "cache"))
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("source", ["slow", "hanging"])
def test_ctrl_c_ends_a_cold_read_and_the_next_one_is_right(
    tmp_path: Path, server: FolderServer, source: str
) -> None:
    if source == "slow":
        server.latency_s = 0.7
    else:
        server.fault = hang_at_chunks
    process = reader(server, tmp_path / "cache", "again" if source == "slow" else "")
    time.sleep(1)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - begin < 3
    server.latency_s = 0
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert time.monotonic() - begin < 10
    if source == "slow":
        assert out == "right\n"
    server.fault = None
    assert not temporaries(tmp_path / "cache")
    assert reads_right(opened(server.url, tmp_path / "cache"))
    assert len(chunk_files(tmp_path / "cache")) == 2 * 27
