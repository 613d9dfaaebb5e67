"""Every kind of zarr array is read through the cache bit by bit as zarr reads it at the source, in whatever form it is kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import BZ2, LZ4, Blosc, Delta, FixedScaleOffset, GZip, Shuffle, Zstd
from zarr.codecs import BytesCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.storage import LocalStore

from copick.cache import geometry
from copick.cache.manager import CacheManager
from copick.cache.store import CachingZarrStore
from support.volumes import write_array

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

NOISE = np.random.default_rng(1).standard_normal((20, 33, 17))
"""Ragged in every axis for the chunks below."""
CHUNKS = (8, 16, 17)


@dataclass
class Flavour:
    """An array at its source; `data` equals the fill value where chunks shall be missing."""

    data: npt.NDArray[Any]
    options: dict[str, Any] = field(default_factory=dict)


def _partly(data: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
    data = data.copy()
    data[9:] = fill
    return data


def _v2(data: npt.NDArray[Any], separator: str = "/", **options: Any) -> Flavour:
    encoding = {"name": "v2", "separator": separator}
    return Flavour(data, {"chunks": CHUNKS[: data.ndim], "chunk_key_encoding": encoding, **options})


def _v3(data: npt.NDArray[Any], **options: Any) -> Flavour:
    return Flavour(data, {"zarr_format": 3, "chunks": CHUNKS[: data.ndim], **options})


def _flavours() -> Iterator[tuple[str, Flavour]]:
    for name in ("<f4", ">f4", "<i2", ">u2", "u1", "f8", "c8", "?"):
        data = (NOISE * 50).astype(name)
        yield f"v2-{name}", _v2(data)
        if data.dtype.itemsize > 1:
            yield f"v2-{name}-F-dots", _v2(data, order="F", separator=".")
        if name[0] != ">":
            yield f"v3-{name}", _v3(data)
    single = NOISE.astype("f4")
    for codec in (None, Blosc("zstd"), Zstd(), GZip(), LZ4(), BZ2()):
        name = type(codec).__name__
        yield f"v2-{name}", _v2(_partly(single, 1.5), compressors=codec, fill_value=1.5)
    yield "v2-shuffle", _v2(_partly(single, 0), compressors=Zstd(), filters=[Shuffle(4)])
    whole = (NOISE * 100).astype("i2")
    yield "v2-delta", _v2(whole, filters=[Delta("i2")])
    scaled = FixedScaleOffset(offset=0, scale=10, dtype="f4", astype="i2")
    yield "v2-scaled", _v2((whole / 10).astype("f4"), filters=[scaled])
    yield "v2-nan-fill", _v2(_partly(single, np.nan), fill_value=np.nan)
    yield "v2-fill-null", _v2(single, fill_value=None)
    yield "v2-negative-zero", _v2(np.where(single > 0, np.float32(-0.0), np.float32(0)), fill_value=0)
    yield "v2-chunk-larger-than-array", _v2(single, chunks=(64, 64, 64))
    yield "v2-0d", _v2(np.array(4.0), chunks=())
    yield "v2-empty", _v2(np.zeros((0, 5)), chunks=(1, 5))
    yield "v2-bytes", _v2(np.array([b"ab", b"c", b"", b"defghi"] * 3, "S6"), chunks=(5,), fill_value=b"")
    yield "v2-all-fill", _v2(np.full((30, 40), 7, "u1"), chunks=(10, 10), fill_value=7)
    record = np.dtype([("a", "<i4"), ("b", ">f8")])
    yield "v2-record", _v2(np.array([(i, -i) for i in range(9)], record), chunks=(4,), fill_value=None)
    times = np.arange(9).astype("M8[s]")
    yield "v2-datetime", _v2(times, chunks=(4,), fill_value=np.datetime64("NaT", "s"))
    for endian in ("little", "big"):
        yield f"v3-{endian}", _v3(single, serializer=BytesCodec(endian=endian))
    for codec in (GzipCodec(), ZstdCodec(), None):
        yield f"v3-{type(codec).__name__}", _v3(_partly(single, 0), compressors=codec)
    yield "v3-checksum", _v3(single, compressors=[ZstdCodec(), zarr.codecs.Crc32cCodec()])
    yield "v3-sharded", _v3(_partly(single, 0), chunks=(4, 8, 8), shards=(16, 32, 32))
    yield "v3-sharded-ragged", _v3(single, chunks=(8, 8, 8), shards=(16, 16, 16), compressors=None)
    yield "v3-transposed", _v3(whole, chunks=whole.shape, filters=[TransposeCodec(order=(2, 0, 1))])
    yield "v3-nan-fill", _v3(_partly(single, np.nan), fill_value=np.nan)
    yield "v3-dots", _v3(single, chunk_key_encoding={"name": "default", "separator": "."})
    yield "v3-v2-keys", _v3(single, chunk_key_encoding={"name": "v2", "separator": "/"})
    yield "v3-0d", _v3(np.array(4.0), chunks=())
    yield "v2-cut", _v2(_partly(single, 0), chunks=(64, 64, 64), order="F")
    yield "v3-cut", _v3(_partly(single, 0), chunks=(16, 32, 8), compressors=None)


FLAVOURS = dict(_flavours())


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Flavours that were written already."""
    return {}


@pytest.fixture(params=FLAVOURS, ids=str)
def source(
    request: Any,
    sources: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The group of an array of each flavour."""
    name = request.param
    if name.endswith("-cut"):  # as the large chunks of the data portal are
        monkeypatch.setattr(geometry, "CHUNK_BYTES", 4096)
    if name not in sources:
        group = tmp_path_factory.mktemp("source")
        flavour = FLAVOURS[name]
        options = {"compressors": Blosc("lz4"), **flavour.options}
        if options.get("zarr_format") == 3 and "compressors" not in flavour.options:
            del options["compressors"]
        write_array(group, flavour.data, **options)
        sources[name] = group
    return sources[name]


def cached(folder: Path, source: Path, **options: Any) -> CachingZarrStore:
    """The array as a new process with this cache folder sees it."""
    manager = CacheManager(folder, **options)
    return CachingZarrStore(folder / "x.zarr", lambda: LocalStore(source, read_only=True), manager)


def same_bits(got: Any, expected: npt.NDArray[Any]) -> bool:
    got = np.asarray(got)
    return (got.dtype, got.shape, got.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def whole(group: Path) -> npt.NDArray[Any]:
    return np.asarray(zarr.open_array(LocalStore(group, read_only=True), path="0", mode="r")[...])


def some_selections(shape: tuple[int, ...], count: int = 6) -> Iterator[tuple[slice, ...]]:
    random = np.random.default_rng(len(shape))
    for _ in range(count):
        yield tuple(
            slice(
                *(None if random.random() < 0.3 else int(random.integers(-n - 2, n + 3)) for _ in range(2)),
                int(random.choice([1, 1, 2, 3, -1, -2])),
            )
            for n in shape
        )


@pytest.mark.parametrize("disk_format", ["raw", "encoded"])
def test_a_cached_array_is_the_source_bit_by_bit(tmp_path: Path, source: Path, disk_format: str) -> None:
    expected = whole(source)
    for opening in range(2):
        store = cached(tmp_path / "cache", source, disk_format=disk_format)
        array = store.open_array("0")
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        for selection in some_selections(expected.shape):
            assert same_bits(array.read(selection), expected[selection]), selection
        assert same_bits(array.read(()), expected)
        assert same_bits(zarr.open_array(store, path="0", mode="r")[...], expected)
        if opening == 1:
            assert store.cache_manager.get_stats().get("fetched_cells", 0) == 0
        assert store.cache_manager.check()
        store.cache_manager.close()
    if expected.size:
        assert same_bits(whole(tmp_path / "cache" / "x.zarr"), expected)


def test_keys_and_listings_of_a_cached_store_agree(tmp_path: Path, source: Path) -> None:
    store = cached(tmp_path / "cache", source)
    keys = list(store)
    assert keys == sorted(set(keys))
    assert len(store) == len(keys)
    copy = {key: store[key] for key in keys}
    assert all(key in store for key in keys)
    for absent in ("0/99/99/99", "0/nothing", "nothing", "", "0/", "../0/.zarray"):
        assert absent not in store
    memory = zarr.storage.MemoryStore()
    for key, value in copy.items():
        asyncio.run(memory.set(key, zarr.core.buffer.cpu.Buffer.from_bytes(value)))
    assert same_bits(zarr.open_array(memory, path="0", mode="r")[...], whole(source))

    async def collected(keys: Any) -> list[str]:
        return [key async for key in keys]

    folders = {key[: at + 1] for key in keys for at, letter in enumerate(key) if letter == "/"}
    for prefix in ["", "0", *folders]:
        begun = [key for key in keys if key.startswith(prefix)]
        assert sorted(asyncio.run(collected(store.list_prefix(prefix)))) == begun, prefix
    for folder in ["", *folders]:
        names = {key[len(folder) :].partition("/")[0] for key in keys if key.startswith(folder)}
        assert set(asyncio.run(collected(store.list_dir(folder)))) == names, folder
        assert set(asyncio.run(collected(store.list_dir(folder.rstrip("/"))))) == names, folder
    store.cache_manager.close()


@pytest.mark.parametrize("opening", ["string", "object"])
def test_items_without_a_fixed_size_are_read_through(tmp_path: Path, opening: str) -> None:
    group = zarr.open_group(LocalStore(tmp_path / "source"), mode="w", zarr_format=3)
    group.create_array("0", shape=(5,), chunks=(2,), dtype="str")[...] = np.array(list("abcde"))
    store = cached(tmp_path / "cache", tmp_path / "source")
    if opening == "object":
        np.testing.assert_array_equal(zarr.open_array(store, path="0", mode="r")[...], list("abcde"))
    np.testing.assert_array_equal(store.open_array("0").read((slice(1, 3),)), ["b", "c"])
    assert list(store) == ["0/c/0", "0/c/1", "0/c/2", "0/zarr.json", "zarr.json"]


@st.composite
def _cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[slice, ...]]]:
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
    chunks = tuple(draw(st.integers(1, 14)) for _ in shape)
    bound = st.none() | st.integers(-15, 15)
    step = st.none() | st.integers(-5, 5).filter(bool)
    selection = st.tuples(*[st.builds(slice, bound, bound, step) for _ in shape])
    return shape, chunks, draw(st.lists(selection, min_size=1, max_size=4))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=_cases(), encoded=st.booleans(), sharded=st.booleans(), holes=st.booleans())
def test_any_selection_of_any_grid(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[tuple[int, ...], tuple[int, ...], list[tuple[slice, ...]]],
    encoded: bool,
    sharded: bool,
    holes: bool,
) -> None:
    shape, chunks, selections = case
    folder = tmp_path_factory.mktemp("case")
    data = np.arange(1, 1 + np.prod(shape), dtype="i4").reshape(shape)
    if holes:
        data[: shape[0] // 2] = 0
    shards: dict[str, Any] = {"zarr_format": 3, "shards": tuple(2 * n for n in chunks)} if sharded else {}
    write_array(folder / "source", data, chunks=chunks, **shards)
    for _ in range(2):
        disk_format = "encoded" if encoded else "raw"
        store = cached(folder / "cache", folder / "source", disk_format=disk_format)
        array = store.open_array("0")
        for selection in selections:
            np.testing.assert_array_equal(array.read(selection), data[selection])
        assert store.cache_manager.check()
        store.cache_manager.close()
