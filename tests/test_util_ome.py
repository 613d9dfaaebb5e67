"""OME-Zarr under the names of copick 1.x and 2.0."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from copick.errors import FormatError, NotFoundError
from copick.util.ome import (
    UNITFACTOR,
    fits_in_memory,
    get_level_path,
    get_multiscales,
    get_voxel_size_from_zarr,
    ome_metadata,
    segmentation_pyramid,
    volume_pyramid,
    write_ome_zarr_3d,
)

if TYPE_CHECKING:
    from pathlib import Path

SPACE = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]


def test_volume_pyramids() -> None:
    data = np.random.default_rng(0).normal(size=(4, 6, 7))
    found = volume_pyramid(data, 10, 3)
    assert {size: level.shape for size, level in found.items()} == {
        10: (4, 6, 7),
        20: (2, 3, 4),
        40: (1, 2, 2),
    }
    assert all(level.dtype == np.float32 for level in found.values())
    assert found[20][0, 0, 0] == pytest.approx(data[:2, :2, :2].mean(), rel=1e-6)
    assert volume_pyramid(np.ones((2, 2, 2)), 1.0, 1, np.float64)[1.0].dtype == np.float64
    with pytest.raises(ValueError, match="whole numbers"):
        volume_pyramid(data, 10, 1, np.uint8)


def test_segmentation_pyramids() -> None:
    data = np.random.default_rng(0).integers(0, 300, (2, 4, 6, 7))
    found = segmentation_pyramid(data, 10.0, 2)
    assert list(found) == [10.0, 20.0]
    assert found[20.0].shape == (2, 2, 3, 4)
    assert found[20.0].dtype == data.dtype
    assert set(np.unique(found[20.0])) <= set(np.unique(data))
    assert segmentation_pyramid(data, 10.0, 1, np.uint16)[10.0].dtype == np.uint16
    with pytest.raises(ValueError, match="do not fit uint8"):
        segmentation_pyramid(data, 10.0, 1, np.uint8)


def test_metadata() -> None:
    levels = {4.0: np.zeros((2, 4, 4, 4)), 2.0: np.zeros((2, 8, 8, 8))}
    assert ome_metadata(levels, channel_axis=True) == {
        "axes": [{"name": "c", "type": "channel"}, *SPACE],
        "coordinate_transformations": [
            [{"type": "scale", "scale": [1.0, 4.0, 4.0, 4.0]}],
            [{"type": "scale", "scale": [1.0, 2.0, 2.0, 2.0]}],
        ],
    }
    assert ome_metadata({1.5: np.zeros((2, 2, 2))})["axes"] == SPACE
    with pytest.raises(ValueError, match="axes are z, y, x"):
        ome_metadata(levels)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_is_written_is_read(tmp_path: Path, zarr_format: Any) -> None:
    levels = volume_pyramid(np.random.default_rng(0).normal(size=(4, 4, 4)), 7.84, 2)
    write_ome_zarr_3d(str(tmp_path), levels, (2, 2, 2), metadata={"by": "me"}, zarr_format=zarr_format)
    group = zarr.open_group(tmp_path, mode="r")
    assert get_voxel_size_from_zarr(group) == 7.84
    assert [get_level_path(group, level) for level in (0, 1)] == ["0", "1"]
    for path, data in zip(("0", "1"), levels.values(), strict=True):
        array = group[path]
        assert isinstance(array, zarr.Array)
        assert array.chunks == (2, 2, 2)
        assert np.array_equal(array[...], data)  # type: ignore[arg-type]
    (image,) = get_multiscales(group)
    assert image["metadata"] == {"by": "me"}
    for level in (-1, 2):
        with pytest.raises(ValueError, match=f"Level {level} not found in .*; it has 0 to 1"):
            get_level_path(group, level)


def test_channels_on_disk(tmp_path: Path) -> None:
    levels = segmentation_pyramid(np.ones((2, 4, 4, 4), np.uint16), 10.0, 1)
    write_ome_zarr_3d(zarr.storage.LocalStore(tmp_path), levels, channel_axis=True)
    assert json.loads((tmp_path / "0" / ".zarray").read_text())["chunks"] == [1, 256, 256, 256]
    assert get_voxel_size_from_zarr(zarr.open_group(tmp_path, mode="r")) == 10.0


def test_nothing_is_removed_for_a_wrong_shape(tmp_path: Path) -> None:
    write_ome_zarr_3d(str(tmp_path), {1.0: np.ones((2, 2, 2))})
    with pytest.raises(ValueError, match="axes are c, z, y, x"):
        write_ome_zarr_3d(str(tmp_path), {1.0: np.ones((2, 2, 2))}, channel_axis=True)
    assert get_voxel_size_from_zarr(zarr.open_group(tmp_path, mode="r")) == 1.0


def test_groups_that_say_nothing(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=2)
    for ask in (get_multiscales, get_voxel_size_from_zarr, lambda group: get_level_path(group, 0)):
        with pytest.raises(NotFoundError, match="no OME-Zarr multiscales"):
            ask(group)
    group.attrs["multiscales"] = [{"axes": SPACE, "datasets": [{"path": "0"}]}]
    assert get_level_path(group, 0) == "0"
    with pytest.raises(FormatError, match="states no voxel size"):
        get_voxel_size_from_zarr(group)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("angstrom", 1),
        ("attometer", 1e-8),
        ("picometer", 1e-2),
        ("nanometer", 10),
        ("micrometer", 1e4),
        ("decimeter", 1e9),
        ("kilometer", 1e13),
        ("yottameter", 1e34),
        ("inch", 2.54e8),
        ("foot", 3.048e9),
        ("yard", 9.144e9),
        ("mile", 1.609344e13),
        ("parsec", 3.0857e26),
    ],
)
def test_units(unit: str, factor: float) -> None:
    assert UNITFACTOR[unit] == pytest.approx(factor, rel=1e-5)


def test_memory(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path, name="small", shape=(10, 10, 10), dtype="f4", chunks=(5, 5, 5))
    fits, requested, available = fits_in_memory(array, (slice(0, 2), slice(None), slice(0, 10, 5)))
    assert fits
    assert requested == 2 * 10 * 2 * 4
    assert available > 10**6
    huge = zarr.create_array(tmp_path, name="huge", shape=(10**6,) * 3, dtype="f4", chunks=(1, 1, 1))
    assert not fits_in_memory(huge, (slice(None),) * 3)[0]


def test_memory_without_psutil() -> None:
    code = (
        "import sys; sys.modules['psutil'] = None\n"
        "from copick.util.ome import fits_in_memory\n"
        "try: fits_in_memory(None, ())\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'copick[memory]'" in done.stdout
