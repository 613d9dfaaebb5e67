"""Tomograms and segmentations: reading, writing, failures, other processes."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import copick
from copick.arrays import ArraySource
from copick.errors import (
    ConfigError,
    FormatError,
    LayerError,
    NotFoundError,
    ReadOnlyError,
)
from copick.ome import halved_nearest
from copick.testing.http_server import FolderServer
from projects import VOLUME, alone, archived, tomogram_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun, CopickTomogram


def test_tomogram(tomogram: CopickTomogram) -> None:
    assert np.array_equal(tomogram.numpy(), VOLUME)
    assert tomogram.numpy("1").shape == (3, 3, 4)
    assert tomogram.numpy("2").shape == (2, 2, 2)
    assert tomogram.voxel_spacing.run.root.config.user_id == "me"
    attributes = dict(zarr.open_group(tomogram.zarr(), mode="r").attrs)
    assert copick.ome.voxel_size(attributes, "x") == 10.0


@pytest.mark.parametrize(
    "slices",
    [
        {"x": slice(1, 3)},
        {"z": slice(-2, None), "y": slice(None, None, 2)},
        {"x": slice(None, None, -1)},
        {"z": slice(3, 100)},
        {"z": slice(100, 200)},
        {"y": slice(4, 2)},
        {"x": slice(5, 0, -2), "y": slice(1, 2), "z": slice(0, 1)},
    ],
)
def test_slices_follow_numpy(tomogram: CopickTomogram, slices: dict[str, slice]) -> None:
    everything = slice(None)
    expected = VOLUME[slices.get("z", everything), slices.get("y", everything), slices.get("x", everything)]
    result = tomogram.numpy(**slices)  # type: ignore[arg-type]
    assert np.array_equal(result, expected)
    out = np.empty(expected.shape, np.float32)
    assert tomogram.numpy(**slices, out=out) is out  # type: ignore[arg-type]
    assert np.array_equal(out, expected)


def test_reading_what_is_not_there(run: CopickRun, tomogram: CopickTomogram) -> None:
    for level in ("7", "", "../0", "0/0", ".."):
        with pytest.raises(NotFoundError, match=r"no array") as caught:
            tomogram.numpy(level)
        assert isinstance(caught.value, KeyError)
    with pytest.raises(NotFoundError, match="it has 0, 1, 2"):
        tomogram.numpy("7")
    empty = run.voxel_spacings[0].new_tomogram("empty")
    with pytest.raises(NotFoundError, match="it has no arrays"):
        empty.numpy()
    with pytest.raises(TypeError, match=r"a slice is needed, not int 3; write slice\(3, 4\)"):
        tomogram.numpy(z=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out="):
        tomogram.numpy(out=np.empty((1, 1, 1), np.float32))


@pytest.mark.parametrize("cached", [False, True])
def test_the_finest_level_may_have_any_name(tomogram: CopickTomogram, tmp_path: Path, cached: bool) -> None:
    group = tmp_path / "archive/ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr"
    for level in "012":
        (group / level).rename(group / f"s{level}")
    said = (group / ".zattrs").read_text()
    (group / ".zattrs").write_text(re.sub(r'"path": "(\d)"', r'"path": "s\1"', said))
    tomogram = tomogram_of(archived(tmp_path, tmp_path / "archive", cached))
    assert tomogram.levels() == ["s0", "s1", "s2"]
    for level in (None, "0", "s0"):
        assert np.array_equal(tomogram.numpy(level), VOLUME)
        assert tomogram.array(level).shape == VOLUME.shape
    assert tomogram.numpy("s1").shape == (3, 3, 4)
    with pytest.raises(NotFoundError, match="it has s0, s1, s2"):
        tomogram.numpy("1")
    tomogram.set_region(7, z=slice(0, 1))
    tomogram.set_region(8, None, z=slice(1, 2))
    assert tomogram.sources == ["work", "archive"]
    assert {*tomogram.numpy()[:2].ravel()} == {7, 8}


@pytest.mark.parametrize("cached", [False, True])
def test_levels_that_cannot_be_understood(tomogram: CopickTomogram, tmp_path: Path, cached: bool) -> None:
    assert np.array_equal(tomogram.numpy(None), VOLUME)
    (tmp_path / "archive/ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr/.zattrs").write_text("{")
    tomogram = tomogram_of(archived(tmp_path, tmp_path / "archive", cached))
    for ask in (tomogram.levels, lambda: tomogram.numpy(None)):
        with pytest.raises(FormatError, match=r"layer 'archive': .*wbp\.zarr cannot be decoded"):
            ask()


def test_array_and_patches(tomogram: CopickTomogram) -> None:
    array = tomogram.array()
    assert isinstance(array, ArraySource)
    assert array is tomogram.array("0") is tomogram.array(0)
    assert (array.shape, array.ndim) == ((5, 6, 7), 3)
    assert np.array_equal(array[1:3, ..., 2], VOLUME[1:3, ..., 2])
    boxes = tomogram.patches([[0, 0, 0], [3, 3, 3]], (2, 3, 4))
    assert np.array_equal(boxes[1], VOLUME[3:5, 3:6, 3:7])
    with pytest.raises(IndexError, match="outside"):
        tomogram.patches([[4, 0, 0]], (2, 2, 2))


def test_what_is_written_is_read(tomogram: CopickTomogram, run: CopickRun) -> None:
    own = run.new_voxel_spacing(20).new_tomogram("own")
    own.from_numpy(VOLUME, levels=1)
    assert np.array_equal(own.numpy(), VOLUME)
    own.from_numpy(VOLUME * 2, levels=2, zarr_format=3)
    assert np.array_equal(own.numpy(), VOLUME * 2)
    assert own.numpy("1").shape == (3, 3, 4)
    own.set_region(np.zeros((5, 6, 2)), x=slice(0, 2))
    assert own.numpy(x=slice(0, 2)).max() == 0
    own.set_region(np.arange(5).reshape(5, 1, 1), z=slice(None, None, -1), y=slice(0, 1), x=slice(6, 7))
    assert own.numpy(y=slice(0, 1), x=slice(6, 7)).ravel().tolist() == [4, 3, 2, 1, 0]
    own.set_region(7, z=slice(0, 1))
    assert (own.numpy(z=slice(0, 1)) == 7).all()
    with pytest.raises(ValueError, match=r"the region has the shape \(5, 6, 7\)"):
        own.set_region(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="do not fit float32"):
        own.set_region(np.full((5, 6, 7), 1e300))
    with pytest.raises(NotFoundError, match="no array '9'"):
        own.set_region(VOLUME, "9")
    with pytest.raises(ValueError, match="axes z, y, x"):
        own.from_numpy(VOLUME[0])


def test_archived_volumes_are_changed_in_a_copy(tomogram: CopickTomogram) -> None:
    assert tomogram.read_only
    assert tomogram.zarr().read_only
    assert tomogram.sources == ["archive"]
    with pytest.raises(ReadOnlyError, match="read-only"):
        tomogram.on("archive").set_region(VOLUME)
    tomogram.set_region(7, z=slice(0, 1))
    assert tomogram.sources == ["work", "archive"]
    assert np.array_equal(tomogram.numpy()[1:], VOLUME[1:])
    assert (tomogram.numpy()[0] == 7).all()
    assert np.array_equal(tomogram.on("archive").numpy(), VOLUME)
    tomogram.from_numpy(VOLUME + 1, levels=1)
    assert tomogram.sources == ["work", "archive"]
    assert np.array_equal(tomogram.numpy(), VOLUME + 1)
    assert np.array_equal(tomogram.on("archive").numpy(), VOLUME)
    assert not tomogram.zarr().read_only


def test_stores_are_mappings_too(tomogram: CopickTomogram) -> None:
    store: Any = tomogram.zarr()
    assert json.loads(store[".zgroup"]) == {"zarr_format": 2}
    assert len(store) > 3
    assert "0/.zarray" in store
    assert np.array_equal(zarr.open(store)["0"][...], VOLUME)  # type: ignore[index]


def test_segmentations(run: CopickRun) -> None:
    (archived,) = run.segmentations
    assert archived.numpy().dtype == np.uint8
    assert archived.color == (100, 100, 100, 255)
    labels = run.new_segmentation(10, "cells", "1", is_multilabel=True)
    assert labels.segmentation_type == "multilabel"
    assert labels.color == [128, 128, 128, 0]
    labels.from_numpy(VOLUME.astype(np.int64) * 3, levels=2)
    assert labels.numpy().dtype == np.uint16
    assert np.array_equal(labels.numpy("1"), halved_nearest(VOLUME * 3))
    labels.from_numpy(VOLUME, dtype=np.uint32)
    assert labels.numpy().dtype == np.uint32
    for data, dtype in (
        (VOLUME - 1, None),
        (VOLUME / 2, None),
        (VOLUME * 100, np.uint8),
        (VOLUME * np.nan, None),
    ):
        with pytest.raises(ValueError, match=r"negative|whole numbers|do not fit"):
            labels.from_numpy(data, dtype=dtype)
    assert np.array_equal(labels.numpy(), VOLUME)
    with pytest.raises(ValueError, match="do not fit uint32"):
        labels.set_region(np.full((5, 6, 7), -1))
    with pytest.raises(ConfigError, match="no object 'cells'"):
        run.new_segmentation(10, "cells", "1")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("0/.zarray", b"{", FormatError),
        ("0/.zarray", b'{"zarr_format": 2}', FormatError),
        ("0/.zarray", b"[]", FormatError),
        ("0/0/0/0", b"not a blosc chunk", FormatError),
    ],
)
def test_corrupt_files(
    tomogram: CopickTomogram, tmp_path: Path, name: str, content: bytes, error: type[Exception]
) -> None:
    (tmp_path / "archive/ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr" / name).write_bytes(content)
    with pytest.raises(error, match=r"layer 'archive': .*wbp\.zarr/0 cannot be decoded"):
        tomogram.numpy()


def test_corrupt_zarr_3(run: CopickRun, tmp_path: Path) -> None:
    own = run.new_voxel_spacing(20).new_tomogram("own")
    own.from_numpy(VOLUME, levels=1, zarr_format=3)
    (tmp_path / "work/ExperimentRuns/TS_1/VoxelSpacing20.000/own.zarr/0/zarr.json").write_bytes(
        b'{"zarr_format": 3}'
    )
    with pytest.raises(FormatError, match=r"layer 'work': .*own\.zarr/0 cannot be decoded"):
        own.numpy()


@pytest.mark.parametrize("fault", [403, 500, "drop", "hang", "truncate"])
def test_servers_that_fail_during_a_read(tmp_path: Path, root: CopickRoot, fault: Any) -> None:
    with FolderServer(tmp_path / "archive") as server:
        remote = alone(server.url, timeout_s=0.5)  # type: ignore[arg-type]
        run = remote.get_run("TS_1")
        assert run is not None
        (tomogram,) = run.voxel_spacings[0].tomograms
        tomogram.array()
        server.fault = lambda method, path: fault if path.endswith("0/0/0/0") else None
        with pytest.raises(LayerError, match=r"layer 'filesystem': http:.*wbp\.zarr/0/.* failed"):
            tomogram.numpy()
        server.fault = None
        assert np.array_equal(tomogram.numpy(), VOLUME)
        with pytest.raises(ReadOnlyError, match="no layer can be written"):
            tomogram.from_numpy(VOLUME)


# Other processes


def test_entities_travel(root: CopickRoot, run: CopickRun, tomogram: CopickTomogram) -> None:
    tomogram.numpy()
    for entity in (root, run, run.picks[0], run.segmentations[0], tomogram):
        copy = pickle.loads(pickle.dumps(entity))
        assert repr(copy).partition(",")[0].rstrip(")") == repr(entity).partition(",")[0].rstrip(")")
    copy = pickle.loads(pickle.dumps(tomogram))
    assert np.array_equal(copy.numpy(), VOLUME)
    assert copy.sources == ["archive"]
    assert copy.voxel_spacing.run.root.config == root.config
    assert len(pickle.dumps(tomogram)) < 6000
    narrowed = pickle.loads(pickle.dumps(run.on("work")))
    assert narrowed.sources == []


def _read(tomogram: CopickTomogram, results: Any) -> None:
    results.put(float(tomogram.numpy(z=slice(1, 2)).sum()))


@pytest.fixture
def remote_tomogram(root: CopickRoot, tmp_path: Path) -> Iterator[CopickTomogram]:
    with FolderServer(tmp_path / "archive") as server:
        remote = alone(server.url)  # type: ignore[arg-type]
        yield remote.runs[0].voxel_spacings[0].tomograms[0]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_reading_in_other_processes(remote_tomogram: CopickTomogram, method: str) -> None:
    expected = float(remote_tomogram.numpy(z=slice(1, 2)).sum())
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    children = [context.Process(target=_read, args=(remote_tomogram, results)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert [results.get() for _ in children] == [expected] * 2
    assert float(remote_tomogram.numpy(z=slice(1, 2)).sum()) == expected


# Formats


@pytest.mark.parametrize("by", ["config", "argument"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_both_zarr_formats(zarr_format: int, by: str, tmp_path: Path) -> None:
    """Every kind of volume, as the config says, or as the caller says whatever the config does."""
    says = zarr_format if by == "config" else 5 - zarr_format
    passed: dict[str, Any] = {"zarr_format": zarr_format} if by == "argument" else {}
    root = alone(tmp_path, zarr_format=says)  # type: ignore[arg-type]
    run = root.new_run("TS_1")
    tomogram = run.new_voxel_spacing(10).new_tomogram("wbp")
    assert ("zarr.json" in tomogram.zarr()) == (says == 3)
    tomogram.from_numpy(VOLUME, levels=3, **passed)
    features = tomogram.new_features("f")
    features.from_numpy(VOLUME, **passed)
    masks = [
        run.new_segmentation(10, "membrane", "1", **flags)
        for flags in ({}, {"is_multilabel": True}, {"is_instance": True})
    ]
    for mask in masks:
        mask.from_numpy(VOLUME, levels=2, **passed)
    ribosome = root.get_object("ribosome")
    assert ribosome is not None
    ribosome.from_numpy(VOLUME, 10, **passed)
    for volume in (tomogram, features, *masks, ribosome):
        group = zarr.open_group(volume.zarr(), mode="r")
        assert group.metadata.zarr_format == zarr_format
        assert all(array.metadata.zarr_format == zarr_format for _, array in group.arrays())
        assert copick.ome.voxel_size(dict(group.attrs), "x") == 10.0
        assert ("ome" in group.attrs) == (zarr_format == 3)
        assert np.array_equal(volume.numpy(), VOLUME)
        volume.set_region(0)
        assert not volume.numpy().any()
    assert [tomogram.numpy(level).shape for level in "012"] == [(5, 6, 7), (3, 3, 4), (2, 2, 2)]
    assert [
        level.scale
        for level in copick.ome.levels(dict(zarr.open_group(tomogram.zarr(), mode="r").attrs), "x")
    ] == [(size,) * 3 for size in (10.0, 20.0, 40.0)]


def test_a_pyramid_replaces_the_one_before(tomogram: CopickTomogram, run: CopickRun) -> None:
    own = run.new_voxel_spacing(20).new_tomogram("own")
    own.from_numpy(VOLUME, levels=3)
    own.from_numpy(VOLUME[:4, :4, :4], levels=2, zarr_format=3)
    assert sorted(zarr.open_group(own.zarr(), mode="r").array_keys()) == ["0", "1"]
    assert ".zgroup" not in own.zarr()
    mean = VOLUME[:4, :4, :4].reshape(2, 2, 2, 2, 2, 2).mean(axis=(1, 3, 5))
    assert np.allclose(own.numpy("1"), mean)
    own.from_numpy(VOLUME, 1)
    assert sorted(zarr.open_group(own.zarr(), mode="r").array_keys()) == ["0"]
    assert "zarr.json" not in own.zarr()
