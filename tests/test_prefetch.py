"""What is brought into the cache before somebody reads it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.cache import prefetch
from copick.cache.prefetch import plan
from copick.errors import LayerError
from copick.testing.http_server import FolderServer
from projects import alone
from support.volumes import config_of, noise, opened, python, tomogram_of, write_tomogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from copick.models import CopickTomogram

LONG = (96, 16, 16)
"""Six cells, one behind the other."""
_CHUNK = re.compile(r".*\.zarr/0/(\d+)/\d+/\d+$")

pytestmark = pytest.mark.usefixtures("own_managers")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FolderServer]:
    write_tomogram(tmp_path / "project", noise(LONG))
    with FolderServer(tmp_path / "project") as server:
        yield server


@pytest.fixture
def tomogram(server: FolderServer, tmp_path: Path) -> CopickTomogram:
    return opened(server.url, tmp_path / "cache")


def fetched(server: FolderServer) -> list[int]:
    """The cells that were asked for, in that order."""
    return [int(found[1]) for request in server.requests if (found := _CHUNK.match(request.path))]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


# Work that is begun


def test_what_was_brought_is_not_asked_for_again(server: FolderServer, tomogram: CopickTomogram) -> None:
    begun = tomogram.prefetch_region(z=slice(20, 60))
    assert begun is not None
    assert begun.wait(60)
    assert (begun.total, begun.done, begun.failed) == (3, 3, 0)
    assert repr(begun) == "<Prefetch 3 of 3 chunks>"
    assert sorted(fetched(server)) == [1, 2, 3]
    np.testing.assert_array_equal(tomogram.numpy(z=slice(20, 60)), noise(LONG)[20:60])
    again = tomogram.prefetch_region()
    assert again is not None
    again.finish("wbp")
    assert sorted(fetched(server)) == [0, 1, 2, 3, 4, 5]


def test_a_project_without_a_cache_has_nothing_to_bring(server: FolderServer, tmp_path: Path) -> None:
    assert tomogram_of(alone(tmp_path / "project")).prefetch_region() is None


def test_cancelled(server: FolderServer, tomogram: CopickTomogram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE_S", 60.0)
    with foreground(tomogram):  # nothing begins meanwhile
        begun = tomogram.prefetch_region()
        assert begun is not None
        with begun:
            pass
    assert begun.wait(60)
    assert (begun.done, begun.failed) == (6, 0)
    assert len(fetched(server)) <= prefetch.THREADS


def test_a_chunk_that_cannot_be_read(server: FolderServer, tomogram: CopickTomogram) -> None:
    server.fault = lambda method, path: 403 if path.endswith("/0/2/0/0") else None
    begun = tomogram.prefetch_region()
    assert begun is not None
    with pytest.raises(LayerError, match="403"):
        begun.finish("wbp")
    assert (begun.done, begun.failed) == (6, 1)
    server.fault = None
    server.reset()
    np.testing.assert_array_equal(tomogram.numpy(), noise(LONG))
    assert fetched(server) == [2]


def test_it_gives_way_to_readers(server: FolderServer, tomogram: CopickTomogram) -> None:
    with foreground(tomogram):
        begun = tomogram.prefetch_region()
        assert begun is not None
        assert not begun.wait(0.2)
        assert fetched(server) == []
    assert begun.wait(60)
    assert len(fetched(server)) == 6


def test_it_does_not_give_way_for_ever(
    server: FolderServer, tomogram: CopickTomogram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE_S", 0.02)
    with foreground(tomogram):
        begun = tomogram.prefetch_region()
        assert begun is not None
        assert begun.wait(60)
    assert len(fetched(server)) == 6


BEGUN = """
import sys
from support.volumes import opened
tomogram = opened(*sys.argv[1:])
tomogram.numpy(z=slice(0, 1))
print("begun", flush=True)
"""


def test_ctrl_c(server: FolderServer, tmp_path: Path) -> None:
    code = BEGUN + "tomogram.ensure_region_cached()"
    server.fault = lambda method, path: "hang" if path.endswith("/0/4/0/0") else None
    arguments = [sys.executable, "-c", code, server.url, str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        until(lambda: 4 in fetched(server))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.rstrip().endswith("KeyboardInterrupt")
    server.fault = None
    np.testing.assert_array_equal(opened(server.url, tmp_path / "cache").numpy(), noise(LONG))


def test_ctrl_c_on_the_command_line(server: FolderServer, tmp_path: Path) -> None:
    """What other threads were asking for at that moment is nobody's concern any more."""
    server.latency_s = 0.5
    (tmp_path / "project.json").write_text(json.dumps(config_of(server.url)))
    environment = {**os.environ, "COPICK_CACHE_DIR": str(tmp_path / "cache")}
    code = "from copick.cli.cli import main; main()"
    arguments = [sys.executable, "-c", code, "cache", "prefetch", "-c", str(tmp_path / "project.json")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, env=environment, text=True) as process:
        until(lambda: server.count(lambda request: ".zarr/" in request.path) > 3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (130, "copick: interrupted")


def test_the_end_of_the_interpreter_waits_for_nothing(server: FolderServer, tmp_path: Path) -> None:
    server.fault = lambda method, path: "hang" if path.endswith("/0/4/0/0") else None
    code = BEGUN + "tomogram.prefetch_region().wait(1)"
    done = python(code, server.url, tmp_path / "cache", timeout=30)  # the source's own is a minute
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_brings_its_own(server: FolderServer, tmp_path: Path) -> None:
    code = (
        BEGUN
        + """
import os
tomogram.prefetch_region(z=slice(0, 40)).wait(30)
child = os.fork()
if not child:
    begun = tomogram.prefetch_region()
    os._exit(0 if begun.wait(30) and begun.failed == 0 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    )
    done = python(code, server.url, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert sorted(fetched(server)) == [0, 1, 2, 3, 4, 5]


# Ahead of a sampler


def test_a_plan_is_ahead_of_its_reader(server: FolderServer, tomogram: CopickTomogram) -> None:
    keys = [80, 0, 48, 16, 64, 32]

    def region(z: int) -> tuple[CopickTomogram, tuple[slice, ...]]:
        return tomogram, (slice(z, z + 16), slice(None), slice(None))

    given = []
    for z in plan(keys, region, ahead=2):
        given.append(z)
        until(lambda: len(fetched(server)) >= min(len(given) + 2, 6))
        before = len(fetched(server))
        np.testing.assert_array_equal(tomogram.numpy(z=slice(z, z + 16)), noise(LONG)[z : z + 16])
        assert len(fetched(server)) == before
    assert given == keys
    assert sorted(fetched(server)) == [0, 1, 2, 3, 4, 5]


def test_a_plan_that_is_left(
    server: FolderServer, tomogram: CopickTomogram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE_S", 60.0)
    asked = []

    def region(z: int) -> tuple[CopickTomogram, tuple[slice, ...]]:
        asked.append(z)
        return tomogram, (slice(z, z + 16), slice(None), slice(None))

    with foreground(tomogram):
        ahead = plan(range(0, 96, 16), region, ahead=3)
        assert next(ahead) == 0
        ahead.close()
    assert asked == [0, 16, 32, 48]
    until(lambda: not busy())
    assert len(fetched(server)) <= prefetch.THREADS


# Ahead of somebody who scrolls


def look(tomogram: CopickTomogram, planes: Iterable[int]) -> None:
    for z in planes:
        np.testing.assert_array_equal(tomogram.numpy(z=slice(z, z + 1)), noise(LONG)[z : z + 1])
        until(lambda: not busy())


def busy() -> bool:
    """Whether threads bring something now."""
    return any(pool._unfinished for pool in prefetch._pools.values())


def test_scrolling(server: FolderServer, tomogram: CopickTomogram) -> None:
    look(tomogram, [0])
    assert fetched(server) == [0]
    look(tomogram, [1])
    assert fetched(server) == [0]
    look(tomogram, [2])
    assert sorted(fetched(server)) == [0, 1, 2]
    look(tomogram, range(3, 17))
    assert sorted(fetched(server)) == [0, 1, 2, 3]
    look(tomogram, range(17, 96))
    assert sorted(fetched(server)) == [0, 1, 2, 3, 4, 5]


def test_scrolling_back(server: FolderServer, tomogram: CopickTomogram) -> None:
    look(tomogram, [95, 93, 91])
    assert sorted(fetched(server)) == [3, 4, 5]
    look(tomogram, range(90, -1, -2))
    assert sorted(fetched(server)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "steps",
    [
        [(0, 1), (40, 1), (0, 1), (40, 1)],  # there and back
        [(0, 1), (1, 1), (0, 1), (1, 1)],
        [(0, 1), (0, 1), (0, 1)],
        [(0, 1), (40, 1), (80, 1)],  # leaps
        [(0, 8), (1, 8), (2, 8), (3, 8)],  # patches
        [(0, 1), (1, 2), (2, 1), (3, 2)],
    ],
)
def test_what_is_no_scrolling(
    server: FolderServer, tomogram: CopickTomogram, steps: list[tuple[int, int]]
) -> None:
    for z, n in steps:
        tomogram.numpy(z=slice(z, z + n))
        until(lambda: not busy())
    assert set(fetched(server)) == {z // 16 for z, _ in steps}


def test_nothing_is_brought_beyond_the_end(server: FolderServer, tomogram: CopickTomogram) -> None:
    look(tomogram, range(84, 96))
    assert fetched(server) == [5]


def foreground(tomogram: CopickTomogram) -> Any:
    """Somebody who waits for something that he asked for."""
    array: Any = tomogram.array()
    return array._manager.foreground
