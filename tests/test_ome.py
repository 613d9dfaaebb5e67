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


def test_labels_are_not_averaged() -> None:
    data = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert halved_nearest(data).tolist() == [[[0, 2], [6, 8]], [[18, 20], [24, 26]]]


# Reading


def test_levels_of_both_versions() -> None:
    for version in ("0.4", "0.5"):
        found = levels(multiscales(["0", "1"], 8.0, version), "x")  # type: ignore[arg-type]
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
    "image",
    [
        3,
        {},
        {"datasets": [{}]},
        {"datasets": [{"path": "0"}]},
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


@pytest.mark.parametrize("values", [[-1], [0.5], [np.nan], [np.inf], ["a"], [1j]])
def test_what_is_no_label(values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"whole numbers|negative"):
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
