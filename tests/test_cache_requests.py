"""What a cached reader asks of its source: every chunk once, a few documents, and nothing the second time."""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import copick
from copick.cache import manager as managers
from copick.testing.http_server import FolderServer
from support.volumes import TOMOGRAM, config_of, noise, opened, python, write_array, write_tomogram

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPE, CHUNKS = (40, 40, 40), 27
_CHUNK = re.compile(r".*\.zarr/0/(?:c/)?\d+/\d+/\d+$")


@pytest.fixture(autouse=True)
def _as_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Managers that a test opens end with it."""
    monkeypatch.setattr(managers, "_managers", {})
    yield
    new_process()


def new_process() -> None:
    """Forget what this process knows of cache folders."""
    for manager in managers._managers.values():
        manager.close()
    managers._managers.clear()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FolderServer]:
    """A project of two tomograms behind a slow connection."""
    write_tomogram(tmp_path / "project", noise(SHAPE))
    write_array((tmp_path / "project" / TOMOGRAM).with_name("denoised.zarr"), noise(SHAPE, seed=2))
    with FolderServer(tmp_path / "project", latency_s=0.002) as server:
        yield server


def asked(server: FolderServer) -> tuple[Counter[str], list[str]]:
    """How often each chunk was asked for, and what else was asked of volumes."""
    paths = [request.path for request in server.requests if ".zarr/" in request.path]
    return Counter(filter(_CHUNK.match, paths)), [path for path in paths if not _CHUNK.match(path)]


def assert_each_chunk_once(server: FolderServer, chunks: int, others: int) -> None:
    counts, rest = asked(server)
    assert len(counts) == chunks
    assert set(counts.values()) == {1}
    assert len(rest) <= others, rest


# Cold


def test_a_cold_read_asks_for_its_chunks_and_a_few_documents(tmp_path: Path, server: FolderServer) -> None:
    tomogram = opened(server.url, tmp_path / "cache")
    server.reset()
    np.testing.assert_array_equal(tomogram.numpy(), noise(SHAPE))
    assert_each_chunk_once(server, CHUNKS, others=4)


def test_a_part_asks_for_the_chunks_it_touches(tmp_path: Path, server: FolderServer) -> None:
    tomogram = opened(server.url, tmp_path / "cache")
    region = (slice(0, 10), slice(10, 20), slice(39, None))
    np.testing.assert_array_equal(tomogram.array().read(region), noise(SHAPE)[region])
    assert_each_chunk_once(server, 2, others=4)


def test_patches_ask_for_the_chunks_they_touch(tmp_path: Path, server: FolderServer) -> None:
    array = opened(server.url, tmp_path / "cache").array()
    for _ in range(2):
        patches = array.patches([(0, 0, 0), (4, 4, 10), (2, 3, 20)], (8, 8, 8))
        np.testing.assert_array_equal(patches[1], noise(SHAPE)[4:12, 4:12, 10:18])
        assert_each_chunk_once(server, 2, others=4)


def test_the_second_volume_of_a_layer_takes_two_documents_and_two_tags(
    tmp_path: Path, server: FolderServer
) -> None:
    first = opened(server.url, tmp_path / "cache")
    first.numpy()
    second = first.voxel_spacing.get_tomogram("denoised")
    assert second is not None
    server.reset()
    np.testing.assert_array_equal(second.numpy(), noise(SHAPE, seed=2))
    assert_each_chunk_once(server, CHUNKS, others=4)
    assert server.count(lambda request: request.method == "HEAD") == 2


def test_a_shard_takes_its_chunks_and_one_index(tmp_path: Path) -> None:
    data = noise((32, 32, 32))
    write_tomogram(tmp_path / "project", data, zarr_format=3, chunks=(8, 8, 8), shards=(16, 16, 16))
    with FolderServer(tmp_path / "project") as server:
        array = opened(server.url, tmp_path / "cache").array()
        server.reset()
        np.testing.assert_array_equal(array.read((slice(0, 16),)), data[:16])
        counts, rest = asked(server)
        assert len(counts) == 4
        assert set(counts.values()) == {8 + 1}
        ranges = Counter((request.path, request.range) for request in server.requests)
        assert set(ranges.values()) == {1}
        assert len(rest) <= 4
        np.testing.assert_array_equal(array.read(()), data)
        assert set(asked(server)[0].values()) == {8 + 1}
        server.reset()
        new_process()
        np.testing.assert_array_equal(opened(server.url, tmp_path / "cache").numpy(), data)
        assert server.count() == 0


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_reads_a_cached_store_as_sparingly(tmp_path: Path, zarr_format: int) -> None:
    write_tomogram(tmp_path / "project", noise(SHAPE), zarr_format=zarr_format)
    with FolderServer(tmp_path / "project") as server:
        for opening in range(2):
            level: Any = zarr.open_group(opened(server.url, tmp_path / "cache").zarr(), mode="r")["0"]
            np.testing.assert_array_equal(level[...], noise(SHAPE))
            if opening == 0:
                assert_each_chunk_once(server, CHUNKS, others=8 + 4)  # documents and tags
            else:
                assert server.count() == 0
            server.reset()
            new_process()


# At the same time


@pytest.mark.parametrize("disk_format", ["raw", "encoded"])
def test_threads_that_want_the_same_fetch_it_once(
    tmp_path: Path, server: FolderServer, disk_format: str
) -> None:
    array = opened(server.url, tmp_path / "cache", {"disk_format": disk_format}).array()
    server.reset()
    begin, data, wrong = threading.Barrier(8), noise(SHAPE), []

    def read(number: int) -> None:
        region = tuple(slice(number + axis, 36 - number + axis) for axis in range(3))
        begin.wait()
        got = array.read(region) if number % 2 else array.patches([(0, number, 0)], (40, 30, 40))[0]
        expected = data[region] if number % 2 else data[:, number : number + 30, :]
        if not np.array_equal(got, expected):
            wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # Each who waited for the source asks whether it is still the version that he began with.
    assert_each_chunk_once(server, CHUNKS, others=4 + 8)


def _read_together(url: str, cache: str, begin: Any, wrong: Any) -> None:
    tomogram = opened(url, Path(cache))
    begin.wait(60)
    if not np.array_equal(tomogram.numpy(), noise(SHAPE)):
        wrong.value += 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # the server's threads
@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_processes_that_start_together_fetch_each_chunk_once(
    tmp_path: Path, server: FolderServer, method: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    context: Any = multiprocessing.get_context(method)
    begin, wrong = context.Barrier(4), context.Value("i", 0)
    readers = [
        context.Process(target=_read_together, args=(server.url, str(tmp_path / "cache"), begin, wrong))
        for _ in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
    assert [reader.exitcode for reader in readers] == [0] * 4
    assert wrong.value == 0
    assert_each_chunk_once(server, CHUNKS, others=4 * 5)  # one to see that it is there


# Warm


def test_a_second_read_asks_nothing(tmp_path: Path, server: FolderServer) -> None:
    tomogram = opened(server.url, tmp_path / "cache")
    tomogram.numpy()
    server.reset()
    np.testing.assert_array_equal(tomogram.numpy(), noise(SHAPE))
    new_process()
    np.testing.assert_array_equal(opened(server.url, tmp_path / "cache").numpy(), noise(SHAPE))
    assert server.count() == 0


LIFE = """
import sys
import copick
from support.volumes import noise
root = copick.from_file(sys.argv[1])
found = [t for run in root.runs for spacing in run.voxel_spacings for t in spacing.tomograms]
assert sorted(t.tomo_type for t in found) == ["denoised", "wbp"], found
assert not root.get_run("R2") and not root.get_run("R1").picks
(wbp,) = (t for t in found if t.tomo_type == "wbp")
assert (wbp.numpy() == noise()).all()
assert (wbp.array().patches([(1, 2, 3)], (9, 9, 9))[0] == noise()[1:10, 2:11, 3:12]).all()
import zarr
assert (zarr.open_group(wbp.zarr(), mode="r")["0"][...] == noise()).all()
"""


def test_a_new_process_asks_nothing_in_all_its_life(tmp_path: Path, server: FolderServer) -> None:
    place = config_of(server.url)
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "config_type": "multilayer",
                "user_id": "me",
                "pickable_objects": [],
                "layers": ["place", "cache"],
                "layer_configs": {
                    "place": {"config_type": "filesystem", "root": place["root"]},
                    "cache": {
                        "config_type": "cache",
                        "root": str(tmp_path / "cache"),
                        "parent_layer": "place",
                    },
                },
            }
        )
    )
    for life in range(2):
        ended = python(LIFE, config)
        assert ended.returncode == 0, ended.stderr
        if life == 1:
            assert server.requests == []
        server.reset()
    assert copick.from_file(config).get_run("R1") is not None
    assert server.requests == []


def test_missing_chunks_are_asked_for_once(tmp_path: Path) -> None:
    data = noise(SHAPE)
    data[:16] = 0
    write_tomogram(tmp_path / "project", data)
    with FolderServer(tmp_path / "project") as server:
        np.testing.assert_array_equal(opened(server.url, tmp_path / "cache").numpy(), data)
        assert server.count(lambda request: request.status == 404) >= 9
        assert_each_chunk_once(server, CHUNKS, others=4)
        server.reset()
        new_process()
        np.testing.assert_array_equal(opened(server.url, tmp_path / "cache").numpy(), data)
        assert server.requests == []
