"""What docs/reliability.md promises, where no other module shows it; and that each test which it names is there."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.cache import manager as managers
from copick.cache.manager import open_manager
from copick.cache.verify import repair, verify
from copick.errors import FormatError, LayerError
from copick.testing.http_server import FolderServer
from support.volumes import TOMOGRAM, chunk_files, noise, opened, write_tomogram

if TYPE_CHECKING:
    from copick.errors import CopickError

pytestmark = pytest.mark.usefixtures("own_managers")

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def new_process() -> None:
    """Forget what this process knows of cache folders."""
    for manager in managers._managers.values():
        manager.close()
    managers._managers.clear()


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 30
    for module, name in named:
        tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{module}.py has no {name}"


# Bytes of the folder


def fill(folder: Path, disk_format: str) -> Path:
    data = noise((16, 16, 16))
    data[:8, :8, :8] = 0
    write_tomogram(folder / "project", data, chunks=(8, 8, 8))
    cache = folder / "cache"
    np.testing.assert_array_equal(
        opened(folder / "project", cache, {"disk_format": disk_format}).numpy(), data
    )
    new_process()
    return cache


@pytest.mark.slow
@pytest.mark.parametrize("disk_format", ["raw", "encoded"])
def test_any_byte_of_any_file_may_be_wrong(tmp_path: Path, disk_format: str) -> None:
    """Each kind of file, its beginning, its middle, its end and some bytes in between."""
    cache = fill(tmp_path, disk_format)
    data = opened(tmp_path / "project", tmp_path / "other").numpy()
    shutil.move(cache, tmp_path / "whole")
    kinds: dict[str, Path] = {}
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file() and path.stat().st_size:
            relative = path.relative_to(tmp_path / "whole")
            kinds["chunk" if path.name.isdigit() else relative.as_posix()] = relative
    assert len(kinds) >= 9
    random = np.random.default_rng(0)
    for name in kinds.values():
        content = (tmp_path / "whole" / name).read_bytes()
        size = len(content)
        places = {0, 1, 3, 4, 12, 18, 27, 40, 60, 99, size // 2, size - 5, size - 4, size - 1}
        for at in sorted(place for place in {*places, *random.integers(0, size, 2).tolist()} if place < size):
            shutil.copytree(tmp_path / "whole", cache)
            damaged = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
            (cache / name).write_bytes(damaged)
            try:
                tomogram = opened(tmp_path / "project", cache, {"disk_format": disk_format})
                for _ in range(2):
                    np.testing.assert_array_equal(tomogram.numpy(), data)
                tomogram.refresh()
                manager = open_manager(cache)
                assert manager.check()
                repair(manager)
                assert verify(cache).problems == []
            except BaseException as error:
                error.add_note(f"{name}, byte {at} of {size}")
                raise
            new_process()
            shutil.rmtree(cache)


# The source


SOURCES: dict[str, tuple[Any, type[CopickError]]] = {
    "500": (500, LayerError),
    "503": (503, LayerError),
    "503 with Retry-After": ((503, "0"), LayerError),
    "half a body": ("truncate", LayerError),
    "a hang-up": ("drop", LayerError),
    "never": ("hang", LayerError),
    "another length": (None, FormatError),
}


@pytest.mark.parametrize("fault", SOURCES)
def test_a_source_that_fails_leaves_nothing_wrong(tmp_path: Path, fault: str) -> None:
    """One chunk cannot be had: that is an error, whatever the reader asks for besides; the rest is cached, and right."""
    what, error = SOURCES[fault]
    data, name = noise(), f"{TOMOGRAM}/0/1/1/1"
    write_tomogram(tmp_path / "project", data)
    chunk = tmp_path / "project" / name
    whole = chunk.read_bytes()
    with FolderServer(tmp_path / "project") as server:
        tomogram = opened(server.url, tmp_path / "cache", {"disk_format": "raw"}, timeout_s=1)
        if what is None:
            chunk.write_bytes(whole[:-9])
        server.fault = lambda _, path: what if path.endswith(name) else None
        for _ in range(2):
            with pytest.raises(error, match="1/1/1"):
                tomogram.numpy()
        np.testing.assert_array_equal(tomogram.numpy(z=slice(0, 16)), data[:16])
        assert verify(tmp_path / "cache").problems == []
        assert not (tmp_path / "cache" / name).exists()
        server.fault = None
        chunk.write_bytes(whole)
        np.testing.assert_array_equal(tomogram.numpy(), data)
        new_process()
        server.fault = lambda *_: 500
        np.testing.assert_array_equal(
            opened(server.url, tmp_path / "cache", timeout_s=1).numpy(), data
        )  # from the cache alone
    assert len(chunk_files(tmp_path / "cache")) == 27
    assert verify(tmp_path / "cache").problems == []


def test_a_slow_source_is_asked_once_for_each_chunk(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise())
    with FolderServer(tmp_path / "project", latency_s=0.3) as server:
        tomogram = opened(server.url, tmp_path / "cache")
        for _ in range(2):
            np.testing.assert_array_equal(tomogram.numpy(), noise())
        assert server.count(lambda request: request.path.rpartition("/")[2].isdigit()) == 27
    assert verify(tmp_path / "cache").problems == []
