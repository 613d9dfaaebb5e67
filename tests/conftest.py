"""What several test modules share."""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from projects import VOLUME, alone, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun, CopickTomogram

# No test is about time. In CI the same examples each time, so that it tells what a change broke; `make stress` tries others.
settings.register_profile("here", deadline=None)
settings.register_profile("CI", deadline=None, derandomize=True, database=None)
settings.load_profile("CI" if os.environ.get("CI") else "here")


@pytest.fixture(autouse=True)
def _no_cache_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COPICK_CACHE_DIR", raising=False)
    monkeypatch.delenv("COPICK_CACHE_SIZE", raising=False)


@pytest.fixture
def own_managers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cache managers that a test opens end with it."""
    from copick.cache import manager as managers

    monkeypatch.setattr(managers, "_managers", {})
    yield
    for manager in managers._managers.values():
        manager.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server on this machine."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_args(s3_server: str) -> dict[str, Any]:
    """fs_args that reach `s3_server`."""
    return {"endpoint_url": s3_server, "key": "test", "secret": "test"}


@pytest.fixture
def s3_bucket(s3_args: dict[str, Any]) -> Iterator[str]:
    """Name of an empty bucket."""
    import uuid

    import fsspec

    fs = fsspec.filesystem("s3", skip_instance_cache=True, **s3_args)
    name = f"copick-{uuid.uuid4().hex[:12]}"
    fs.mkdir(name)
    yield name
    fs.rm(name, recursive=True)


@pytest.fixture
def root(tmp_path: Path) -> CopickRoot:
    """An archive with a run, and an empty work layer above it."""
    archive = alone(tmp_path / "archive")
    run = archive.new_run("TS_1")
    run.new_voxel_spacing(10).new_tomogram("wbp").from_numpy(VOLUME)
    run.new_picks("ribosome", "0", "tool").from_numpy([[1, 2, 3]])
    run.new_segmentation(10, "membrane", "1").from_numpy(VOLUME > 100)
    return opened(tmp_path)


@pytest.fixture
def run(root: CopickRoot) -> CopickRun:
    run = root.get_run("TS_1")
    assert run is not None
    return run


@pytest.fixture
def tomogram(run: CopickRun) -> CopickTomogram:
    spacing = run.get_voxel_spacing(10.0)
    assert spacing is not None
    (found,) = spacing.tomograms
    return found


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a tomogram (8, 8, 8) in each zarr format, and picks. Not to be changed."""
    folder = tmp_path_factory.mktemp("original")
    run = alone(folder).new_run("TS_1")
    spacing = run.new_voxel_spacing(10)
    noise = np.random.default_rng(0).normal(size=(8, 8, 8))
    spacing.new_tomogram("wbp").from_numpy(noise, levels=1)
    spacing.new_tomogram("v3").from_numpy(noise, levels=1, zarr_format=3)
    run.new_picks("ribosome", "0", "tool").from_numpy([[1, 2, 3]])
    return folder


@pytest.fixture
def archive(original: Path, tmp_path: Path) -> Path:
    """A copy of `original` that a test may damage."""
    return shutil.copytree(original, tmp_path / "archive")


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """For commands, which set up logging."""
    package = logging.getLogger("copick")
    before = package.level, package.handlers[:]
    yield
    package.setLevel(before[0])
    package.handlers[:] = before[1]
