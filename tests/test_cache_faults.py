"""Whatever is damaged, lost or refused: the reader gets the source's bytes, or an error that is the source's own."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from numcodecs import BZ2, LZ4, Blosc, GZip, Zstd

from copick.cache import manager as managers
from copick.errors import FormatError
from copick.testing.http_server import FolderServer
from support.volumes import cached_store, chunk_files, noise, opened, python, write_array, write_tomogram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _as_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Managers that a test opens end with it."""
    monkeypatch.setattr(managers, "_managers", {})
    yield
    for manager in managers._managers.values():
        manager.close()


def new_process() -> None:
    """Forget what this process knows of cache folders."""
    for manager in managers._managers.values():
        manager.close()
    managers._managers.clear()


# What was cached belongs to one version of one array


def test_chunks_without_their_cache_info_are_not_used(tmp_path: Path) -> None:
    old, new = noise(seed=1), noise(seed=2)
    write_array(tmp_path / "source", old)
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    np.testing.assert_array_equal(store.open_array("0").read(()), old)
    store.cache_manager.close()
    (tmp_path / "cache" / "x.zarr" / "0" / ".cache_info").unlink()
    shutil.rmtree(tmp_path / "source")
    write_array(tmp_path / "source", new)
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    np.testing.assert_array_equal(store.open_array("0").read(()), new)


@pytest.mark.parametrize("lost", ["owner", "metadata"])
def test_the_data_of_one_place_is_never_served_as_that_of_another(tmp_path: Path, lost: str) -> None:
    first, second, cache = noise(seed=1), noise(seed=2), tmp_path / "cache"
    write_tomogram(tmp_path / "first", first)
    write_tomogram(tmp_path / "second", second)
    np.testing.assert_array_equal(opened(tmp_path / "first", cache).numpy(), first)
    new_process()
    if lost == "metadata":
        shutil.rmtree(cache / ".cache_metadata")
    else:
        (cache / ".cache_metadata" / "source").unlink(missing_ok=True)
        (cache / ".cache_info").unlink(missing_ok=True)
    np.testing.assert_array_equal(opened(tmp_path / "second", tmp_path / "cache").numpy(), second)
    np.testing.assert_array_equal(opened(tmp_path / "first", tmp_path / "cache").numpy(), first)


@pytest.mark.parametrize("shape", [(40, 40, 40), (30, 20, 10)], ids=["same shape", "another shape"])
@pytest.mark.parametrize("held", [True, False], ids=["array held", "nothing held"])
def test_a_volume_is_read_as_it_was_written_last(tmp_path: Path, held: bool, shape: tuple[int, ...]) -> None:
    write_tomogram(tmp_path / "project", noise())
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    array = tomogram.array()
    array.read(())
    if not held:
        del array
    new = noise(shape, seed=2)
    tomogram.from_numpy(new, levels=1)
    np.testing.assert_array_equal(tomogram.numpy(), new)
    np.testing.assert_array_equal(opened(tmp_path / "project", tmp_path / "cache").numpy(), new)


def test_what_is_written_through_a_store_held_since_before_the_read_is_seen(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise())
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    level: Any = zarr.open_group(tomogram.zarr(), mode="r+")["0"]
    tomogram.numpy()
    level[...] = 5
    assert (opened(tmp_path / "project", tmp_path / "cache").numpy() == 5).all()


# A damaged source


@pytest.mark.parametrize("codec", [Blosc("lz4"), Blosc("zstd"), Zstd(), LZ4(), GZip(), BZ2(), None], ids=str)
@pytest.mark.parametrize("damage", ["half", "garbage", "empty"])
def test_a_damaged_source_chunk_is_an_error_that_names_it(tmp_path: Path, codec: Any, damage: str) -> None:
    write_array(tmp_path / "source", noise((32, 32)), compressors=codec, chunks=(16, 16))
    chunk = tmp_path / "source" / "0" / "1" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes({"half": whole[: len(whole) // 2], "garbage": bytes(range(251)), "empty": b""}[damage])
    array = cached_store(tmp_path / "cache", tmp_path / "source").open_array("0")
    with pytest.raises(FormatError, match="0/1/0 cannot be decoded"):
        array.read(())
    assert not (tmp_path / "cache" / "x.zarr" / "0" / "1" / "0").exists()
    chunk.write_bytes(whole)
    np.testing.assert_array_equal(array.read(()), noise((32, 32)))


def test_a_damaged_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise((32, 32)), zarr_format=3, chunks=(8, 8), shards=(16, 16))
    shard = tmp_path / "source" / "0" / "c" / "1" / "0"
    shard.write_bytes(shard.read_bytes()[:-100])
    array = cached_store(tmp_path / "cache", tmp_path / "source").open_array("0")
    with pytest.raises(FormatError, match="0/c/1/0 cannot be decoded"):
        array.read((slice(16, 32), slice(0, 16)))


# A source that does not answer

EXIT = """
import sys, threading, time
from support.volumes import opened
from pathlib import Path
tomogram = opened(sys.argv[1], Path(sys.argv[2]), timeout_s=20)
threading.Thread(target=tomogram.array().read, args=((),), daemon=True).start()
time.sleep(0.5)
print("leaving", flush=True)
"""


def test_an_interpreter_ends_while_its_source_hangs(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise())
    with FolderServer(tmp_path / "project") as server:
        server.fault = lambda _, path: "hang" if path.rpartition("/")[2].isdigit() else None
        begin = time.monotonic()
        ended = python(EXIT, server.url, tmp_path / "cache")
    assert "leaving" in ended.stdout
    assert ended.returncode == 0
    assert time.monotonic() - begin < 10
    assert not chunk_files(tmp_path / "cache")
