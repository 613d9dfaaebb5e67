"""Multiscale volumes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from copick.errors import FormatError
from copick.ome import (
    exact_cast,
    halved_mean,
    halved_nearest,
    levels,
    multiscales,
    smallest_unsigned,
    voxel_size,
    write_features,
    write_levels,
    write_volume,
)

if TYPE_CHECKING:
    from pathlib import Path

AXES = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]


def scaled(path: str, size: float) -> dict[str, Any]:
    return {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [size] * 3}]}


def test_what_is_on_disk_in_zarr_2(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    write_volume(zarr.storage.LocalStore(tmp_path), data, 10.0, levels=3)
    assert json.loads((tmp_path / ".zgroup").read_text()) == {"zarr_format": 2}
    assert json.loads((tmp_path / ".zattrs").read_text()) == {
        "multiscales": [
            {
                "axes": AXES,
                "datasets": [scaled("0", 10.0), scaled("1", 20.0), scaled("2", 40.0)],
                "metadata": {},
                "name": "/",
                "version": "0.4",
            }
        ]
    }
    array = json.loads((tmp_path / "0" / ".zarray").read_text())
    assert array == {
        "zarr_format": 2,
        "shape": [5, 6, 7],
        "chunks": [256, 256, 256],
        "dtype": "<f4",
        "order": "C",
        "fill_value": 0.0,
        "filters": None,
        "dimension_separator": "/",
        "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
    }
    assert (tmp_path / "0" / "0" / "0" / "0").is_file()
    assert np.array_equal(zarr.open_array(tmp_path / "0", mode="r")[...], data)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "2" / ".zarray").read_text())["shape"] == [2, 2, 2]


def test_what_is_on_disk_in_zarr_3(tmp_path: Path) -> None:
    write_volume(
        zarr.storage.LocalStore(tmp_path), np.ones((4, 4, 4), np.uint8), 7.5, levels=2, zarr_format=3
    )
    group = json.loads((tmp_path / "zarr.json").read_text())
    assert group["attributes"]["ome"]["version"] == "0.5"
    assert voxel_size(group["attributes"], "x") == 7.5
    assert not (tmp_path / ".zattrs").exists()
    assert zarr.open_array(tmp_path / "1", mode="r").shape == (2, 2, 2)


def test_panoptic_on_disk(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 9, (2, 4, 5, 6)).astype(np.uint16)
    names = ("label", "instance")
    write_volume(zarr.storage.LocalStore(tmp_path), data, 10.0, levels=2, labels=True, channels=names)
    image = json.loads((tmp_path / ".zattrs").read_text())["multiscales"][0]
    assert image["axes"] == [{"name": "c", "type": "channel"}, *AXES]
    assert image["metadata"] == {"copick": {"segmentation_type": "panoptic", "channels": list(names)}}
    scales = [item["coordinateTransformations"][0]["scale"] for item in image["datasets"]]
    assert scales == [[1.0, 10.0, 10.0, 10.0], [1.0, 20.0, 20.0, 20.0]]
    assert voxel_size({"multiscales": [image]}, "x") == 10.0
    assert json.loads((tmp_path / "0" / ".zarray").read_text())["chunks"] == [1, 256, 256, 256]
    assert (tmp_path / "0" / "1" / "0" / "0" / "0").is_file()
    group = zarr.open_group(tmp_path, mode="r")
    assert np.array_equal(group["0"][...], data)  # type: ignore[index,arg-type]
    for channel in (0, 1):
        assert np.array_equal(group["1"][channel], halved_nearest(data[channel]))  # type: ignore[index,arg-type]


def test_what_else_is_said_of_an_image(tmp_path: Path) -> None:
    store = zarr.storage.LocalStore(tmp_path)
    write_volume(store, np.ones((2, 2, 2)), 1.0, levels=1, metadata={"by": "me"})
    assert json.loads((tmp_path / ".zattrs").read_text())["multiscales"][0]["metadata"] == {"by": "me"}
    write_volume(store, np.ones((1, 2, 2, 2)), 1.0, levels=1, channels=["a"], metadata={"by": "me"})
    found = json.loads((tmp_path / ".zattrs").read_text())["multiscales"][0]["metadata"]
    assert found["by"] == "me"
    assert found["copick"]["channels"] == ["a"]


@pytest.mark.parametrize(
    ("shape", "names", "scale", "chunks"),
    [
        ((7,), ["x"], [5.0], [8]),
        ((6, 7), ["y", "x"], [5.0, 5.0], [8, 8]),
        ((5, 6, 7), ["z", "y", "x"], [5.0] * 3, [8, 8, 8]),
        ((4, 5, 6, 7), ["feature", "z", "y", "x"], [1.0, *[5.0] * 3], [1, 8, 8, 8]),
        ((3, 4, 5, 6, 7), ["feature0", "feature1", "z", "y", "x"], [1.0, 1.0, *[5.0] * 3], [1, 1, 8, 8, 8]),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_features_of_any_rank(
    tmp_path: Path,
    shape: tuple[int, ...],
    names: list[str],
    scale: list[float],
    chunks: list[int],
    zarr_format: Any,
) -> None:
    data = np.random.default_rng(0).normal(size=shape)
    store = zarr.storage.LocalStore(tmp_path)
    write_features(store, data, 5, chunks=(8, 8, 8), metadata={"model": "m"}, zarr_format=zarr_format)
    group = zarr.open_group(tmp_path, mode="r")
    attributes: dict[str, Any] = dict(group.attrs)
    image = attributes.get("ome", attributes)["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == names
    assert image["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": scale}]
    assert image["metadata"] == {"model": "m"}
    array = group["0"]
    assert isinstance(array, zarr.Array)
    assert list(array.chunks) == chunks
    assert np.array_equal(array[...], data)  # type: ignore[arg-type]
    assert [level.scale for level in levels(attributes, "x")] == [tuple(scale)]


def test_chunks_may_be_given_for_all_axes(tmp_path: Path) -> None:
    write_features(zarr.storage.LocalStore(tmp_path), np.ones((4, 4, 4, 4)), 1.0, chunks=(4, 2, 2, 2))
    assert zarr.open_array(tmp_path / "0", mode="r").chunks == (4, 2, 2, 2)


def test_a_number_is_no_feature(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one axis or more"):
        write_features(zarr.storage.LocalStore(tmp_path), np.array(1.0), 1.0)


def test_bad_format_removes_nothing(tmp_path: Path) -> None:
    store = zarr.storage.LocalStore(tmp_path)
    write_volume(store, np.ones((2, 2, 2)), 1.0, levels=1)
    with pytest.raises(ValueError, match="zarr_format must be 2 or 3"):
        write_levels(store, [(1.0, np.ones((2, 2, 2)))], zarr_format=4)  # type: ignore[arg-type]
    assert zarr.open_array(tmp_path / "0", mode="r").shape == (2, 2, 2)


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 2, 2), (1, 2, 2, 2, 2)])
def test_channels_have_an_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"axes c \(a, b\), z, y, x"):
        write_volume(zarr.storage.LocalStore(tmp_path), np.ones(shape), 1.0, levels=1, channels=["a", "b"])


def test_writing_replaces_all_there_was(tmp_path: Path) -> None:
    store = zarr.storage.LocalStore(tmp_path)
    write_volume(store, np.ones((8, 8, 8)), 1.0, levels=3, zarr_format=3)
    write_volume(store, np.ones((4, 4, 4)), 1.0, levels=1)
    assert sorted(zarr.open_group(store, mode="r").array_keys()) == ["0"]
    assert not (tmp_path / "zarr.json").exists()


def test_a_volume_that_was_not_finished_does_not_look_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("copick.ome.halved_mean", dies)
    with pytest.raises(OSError, match="disk full"):
        write_volume(zarr.storage.LocalStore(tmp_path), np.ones((4, 4, 4)), 1.0, levels=2)
    assert levels(dict(zarr.open_group(tmp_path, mode="r").attrs), "x") == []


@pytest.mark.parametrize(("shape", "count"), [((4, 4), 1), ((4, 4, 4, 4), 1), ((4, 4, 4), 0)])
def test_what_is_no_volume(tmp_path: Path, shape: tuple[int, ...], count: int) -> None:
    with pytest.raises(ValueError, match=r"axes z, y, x|levels must be"):
        write_volume(zarr.storage.LocalStore(tmp_path), np.ones(shape), 1.0, levels=count)


small = st.tuples(*[st.integers(1, 7)] * 3)


@settings(deadline=None)
@given(hnp.arrays(np.float32, small, elements=st.floats(-100, 100, width=32)))
def test_means_of_blocks(data: np.ndarray) -> None:  # type: ignore[type-arg]
    padded = np.zeros([-(-n // 2) * 2 for n in data.shape])
    padded[tuple(slice(n) for n in data.shape)] = data
    d, h, w = (n // 2 for n in padded.shape)
    expected = padded.reshape(d, 2, h, 2, w, 2).mean(axis=(1, 3, 5))
    result = halved_mean(data)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_means_of_whole_numbers_are_rounded_and_do_not_overflow() -> None:
    assert halved_mean(np.full((2, 2, 2), 255, np.uint8)).item() == 255
    data = np.zeros((2, 2, 2), np.int16)
    data[0] = 3
    data[1] = 4
    assert halved_mean(data).item() == 4
    assert halved_mean(np.full((2, 2, 2), -32768, np.int16)).item() == -32768


def test_each_channel_has_its_own_means() -> None:
    data = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    assert np.array_equal(halved_mean(data), [halved_mean(channel) for channel in data])


@pytest.mark.parametrize(
    ("size", "taken"),
    [
        (1, [0]),
        (2, [1]),
        (3, [0, 2]),
        (4, [1, 3]),
        (5, [1, 3]),
        (7, [0, 2, 4, 6]),
        (9, [1, 3, 5, 7]),
        (11, [0, 2, 4, 6, 8, 10]),
        (12, [1, 3, 5, 7, 9, 11]),
    ],
)
def test_labels_of_the_voxels_that_scikit_image_takes(size: int, taken: list[int]) -> None:
    line = np.arange(size)
    assert halved_nearest(line.reshape(-1, 1, 1)).ravel().tolist() == taken
    assert halved_nearest(line.reshape(1, 1, 1, -1)).ravel().tolist() == taken


def test_labels_are_not_averaged() -> None:
    data = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert halved_nearest(data).tolist() == [[[0, 2], [6, 8]], [[18, 20], [24, 26]]]


# Reading


def test_levels_of_both_versions() -> None:
    for version in ("0.4", "0.5"):
        found = levels(multiscales([8.0, 16.0], version), "x")  # type: ignore[arg-type]
        assert [(level.path, level.scale) for level in found] == [("0", (8.0,) * 3), ("1", (16.0,) * 3)]
    assert levels({}, "x") == []


def test_units_and_leading_channels() -> None:
    image = {
        "axes": [{"name": "c", "type": "channel"}, *({**axis, "unit": "nanometer"} for axis in AXES)],
        "datasets": [{"path": "a", "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 2, 2]}]}],
        "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5, 0.5]}],
    }
    assert voxel_size({"multiscales": [image]}, "x") == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("unit", "size"),
    [("angstrom", 2.0), ("nanometer", 20.0), ("micrometer", 2e4), ("inch", 5.08e8), ("furlong", 2.0)],
)
def test_units(unit: str, size: float) -> None:
    image = {"axes": [{**axis, "unit": unit} for axis in AXES], "datasets": [scaled("0", 2.0)]}
    assert voxel_size({"multiscales": [image]}, "x") == size


@pytest.mark.parametrize(
    "image",
    [
        3,
        {},
        {"datasets": [{}]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": ["x"]}]}]},
    ],
)
def test_metadata_that_cannot_be_understood(image: Any) -> None:
    with pytest.raises(FormatError, match="tomogram 'x'"):
        levels({"multiscales": [image]}, "tomogram 'x'")


def test_no_voxel_size() -> None:
    with pytest.raises(FormatError, match="states no voxel size"):
        voxel_size({}, "x")


# Types


@pytest.mark.parametrize(
    ("top", "dtype"),
    [(1, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**32, "u8")],
)
def test_smallest_type_for_labels(top: int, dtype: str) -> None:
    assert smallest_unsigned(np.array([0, top])) == np.dtype(dtype)
    assert smallest_unsigned(np.array([0.0, top])) == np.dtype(dtype)


def test_smallest_type_of_masks_and_nothing() -> None:
    assert smallest_unsigned(np.array([True])) == np.uint8
    assert smallest_unsigned(np.empty((0, 2))) == np.uint8


@pytest.mark.parametrize("values", [[-1], [0.5], [np.nan], [np.inf], ["a"], [1j], [2.0**64], [1e300]])
def test_what_is_no_label(values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"whole numbers|negative|no unsigned type"):
        smallest_unsigned(np.array(values))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([256]), "u1"),
        (np.array([-1]), "u1"),
        (np.array([0.5]), "i4"),
        (np.array([1e300]), "f4"),
        (np.array([2**40]), "f2"),
        (np.array([1j]), "f4"),
        (np.array(["a"]), "f4"),
    ],
)
def test_casts_that_would_change_values_are_refused(values: np.ndarray, dtype: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=r"volume 'x'|whole numbers"):
        exact_cast(values, dtype, "volume 'x'")


@given(hnp.arrays(st.sampled_from(["u1", "i2", "f4", "f8"]), 4), st.sampled_from(["u1", "u2", "i4", "f4"]))
def test_casts_keep_the_values(data: np.ndarray, dtype: str) -> None:  # type: ignore[type-arg]
    try:
        cast = exact_cast(data, dtype, "x")
    except ValueError:
        return
    assert cast.dtype == np.dtype(dtype)
    if cast.dtype.kind != "f" or data.dtype.kind != "f":
        assert np.array_equal(cast, data)
