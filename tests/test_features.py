"""Features: arrays of any rank that were computed from a tomogram."""

from __future__ import annotations

import json
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from copick.errors import AlreadyExistsError, FormatError, NotFoundError, ReadOnlyError
from copick.models import CopickFeatures, CopickFeaturesMeta
from projects import VOLUME, alone, opened, tomogram_of

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot, CopickTomogram

RNG = np.random.default_rng(3)
FIELD = RNG.normal(size=(4, 5, 6, 7)).astype(np.float32)
"""Four channels of VOLUME's size."""


@pytest.fixture
def mine(tmp_path: Path) -> CopickTomogram:
    """A tomogram that can be written."""
    tomogram = alone(tmp_path / "mine").new_run("TS_1").new_voxel_spacing(10).new_tomogram("wbp")
    tomogram.from_numpy(VOLUME, levels=1)
    return tomogram


def test_new_features_are_listed_by_type(mine: CopickTomogram) -> None:
    assert mine.features == []
    unet = mine.new_features("unet")
    assert (unet.feature_type, unet.tomo_type, unet.tomogram) == ("unet", "wbp", mine)
    assert unet.meta == CopickFeaturesMeta(feature_type="unet", tomo_type="wbp")
    assert mine.features == [unet]
    first = mine.new_features("a")
    assert mine.features == [first, unet]
    assert mine.get_features("unet") is unet
    assert mine.get_features("nope") is None
    assert [found.feature_type for found in mine.query_features()] == ["a", "unet"]
    with pytest.raises(AlreadyExistsError, match=r"features 'TS_1/10\.000/wbp/unet' exists already"):
        mine.new_features("unet")
    assert mine.new_features("unet", exist_ok=True) is unet
    with pytest.warns(UserWarning, match="changed to 'de-noised'"):
        assert mine.new_features("de_noised").feature_type == "de-noised"


def test_empty_features(mine: CopickTomogram) -> None:
    empty = mine.new_features("empty")
    with pytest.raises(NotFoundError, match=r"has no array '0'; it has no arrays") as caught:
        empty.numpy()
    assert isinstance(caught.value, KeyError)
    assert list(zarr.open_group(empty.zarr(), mode="r").array_keys()) == []


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shape", [(5,), (5, 6), (5, 6, 7), (4, 5, 6, 7), (2, 3, 5, 6, 7)])
def test_any_rank(mine: CopickTomogram, shape: tuple[int, ...], zarr_format: int) -> None:
    features = mine.new_features("f")
    data = RNG.normal(size=shape)
    features.from_numpy(data, chunks=(2, 3), zarr_format=zarr_format, metadata={"made": "here"})
    assert features.numpy().dtype == np.float64
    assert np.array_equal(features.numpy(), data)
    box = tuple(slice(1, 3) for _ in shape)
    assert np.array_equal(features.numpy(slices=box), data[box])
    assert np.array_equal(features.numpy("0", box), data[box])
    out = np.empty_like(data[box])
    assert features.numpy(slices=box, out=out) is out
    assert np.array_equal(out, data[box])
    group = zarr.open_group(features.zarr(), mode="r")
    attributes: Any = group.attrs["ome"] if zarr_format == 3 else group.attrs
    (image,) = attributes["multiscales"]
    assert image["metadata"] == {"made": "here"}
    assert [axis["name"] for axis in image["axes"]][-3:] == ["z", "y", "x"][-len(shape) :]
    (scale,) = image["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [1.0] * (len(shape) - 3) + [10.0] * min(3, len(shape))
    assert group["0"].chunks == (*(1,) * (len(shape) - 2), 2, 3)[-len(shape) :]  # type: ignore[union-attr]


def test_slices_follow_numpy(mine: CopickTomogram) -> None:
    features = mine.new_features("f")
    features.from_numpy(FIELD)
    box = (slice(-2, None), slice(None, None, 2), slice(4, 1, -1), slice(3, 100))
    assert np.array_equal(features.numpy(slices=box), FIELD[box])
    assert features.numpy(slices=list(box)).shape == FIELD[box].shape
    with pytest.raises(ValueError, match="has 4 axes; 3 slices were given"):
        features.numpy(slices=box[:3])
    with pytest.raises(ValueError, match="has 4 axes; 5 slices were given"):
        features.set_region(FIELD, slices=(*box, slice(None)))
    with pytest.raises(TypeError, match="axis 0: a slice is needed, not int 3"):
        features.numpy(slices=(3, *box[1:]))  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="has no array '7'; it has 0"):
        features.numpy("7")


def test_what_is_stored(mine: CopickTomogram) -> None:
    features = mine.new_features("f")
    features.from_numpy(FIELD, dtype=np.float16)
    assert features.numpy().dtype == np.float16
    features.from_numpy(FIELD > 0)
    assert features.numpy().dtype == np.bool_
    features.from_numpy(FIELD, zarr_format=3, chunks=(2, 2, 2), shards=(4, 4, 4))
    assert np.array_equal(features.numpy(), FIELD)
    array: Any = zarr.open_group(features.zarr(), mode="r")["0"]
    assert (array.chunks, array.shards) == ((1, 2, 2, 2), (1, 4, 4, 4))
    with pytest.raises(AlreadyExistsError, match="pass overwrite=True") as caught:
        features.from_numpy(FIELD * 2, overwrite=False)
    assert isinstance(caught.value, FileExistsError)
    other = mine.new_features("g")
    other.from_numpy(FIELD * 2, overwrite=False)
    assert np.array_equal(other.numpy(), FIELD * 2)


@pytest.mark.parametrize(
    ("data", "arguments", "problem"),
    [
        (7.0, {}, "one axis or more"),
        ("text", {}, "real numbers"),
        (FIELD * 1j, {}, "real numbers"),
        (FIELD.astype(np.float64) * 1e300, {"dtype": np.float32}, "do not fit float32"),
        (FIELD, {"dtype": np.uint8}, "do not fit uint8"),
        (FIELD, {"dtype": "S3"}, r"real numbers, not of \|S3"),
        (FIELD, {"chunks": (0, 4, 4)}, "chunks and shards are whole numbers, 1 or more"),
        (FIELD, {"chunks": ("a",)}, "chunks and shards are whole numbers"),
        (FIELD, {"shards": (256, 256, 256)}, "shards need zarr_format=3"),
        (FIELD, {"chunks": (4, 4, 4), "shards": (6, 6, 6), "zarr_format": 3}, "must be multiples"),
        (FIELD, {"zarr_format": 4}, "zarr_format must be 2 or 3"),
    ],
)
def test_what_cannot_be_stored_changes_nothing(
    mine: CopickTomogram, data: Any, arguments: dict[str, Any], problem: str
) -> None:
    features = mine.new_features("f")
    features.from_numpy(FIELD)
    with pytest.raises(ValueError, match=problem):
        features.from_numpy(data, **arguments)
    assert np.array_equal(features.numpy(), FIELD)


def test_a_region(mine: CopickTomogram) -> None:
    features = mine.new_features("f")
    features.from_numpy(FIELD)
    expected = FIELD.copy()
    box = (slice(1, 3), slice(None), slice(0, 2), slice(None, None, 3))
    expected[box] = -1
    features.set_region(np.full(expected[box].shape, -1), slices=box)
    assert np.array_equal(features.numpy(), expected)
    features.set_region(0)
    assert not features.numpy().any()
    with pytest.raises(ValueError, match=r"the region has the shape \(4, 5, 6, 7\), the data \(5, 6, 7\)"):
        features.set_region(FIELD[0])
    with pytest.raises(NotFoundError, match="no array '3'"):
        features.set_region(FIELD, "3")


def test_arrays_written_by_the_zarr_library(mine: CopickTomogram, tmp_path: Path) -> None:
    """As tools of copick 1.x write them."""
    features = mine.new_features("net")
    group = zarr.group(features.zarr(), overwrite=True)
    group.create_array("0", data=FIELD, chunks=(4, 5, 6, 7))
    group.create_array("fine", data=FIELD[0])
    assert np.array_equal(features.numpy(), FIELD)
    assert np.array_equal(features.numpy("fine"), FIELD[0])
    (again,) = tomogram_of(alone(tmp_path / "mine")).features
    assert np.array_equal(again.numpy(), FIELD)
    # A later write through the store is seen, too.
    zarr.open_group(features.zarr(), mode="r+")["0"][...] = 1  # type: ignore[index]
    assert (features.numpy() == 1).all()


def test_types_that_begin_like_others(mine: CopickTomogram) -> None:
    spacing = mine.voxel_spacing
    other = spacing.new_tomogram("wbp-denoised")
    mine.new_features("unet")
    other.new_features("unet")
    other.new_features("sam")
    assert [f.feature_type for f in mine.query_features()] == ["unet"]
    assert [f.feature_type for f in other.query_features()] == ["sam", "unet"]
    spacing.refresh()
    assert [t.tomo_type for t in spacing.tomograms] == ["wbp", "wbp-denoised"]


def test_refresh_and_setter(mine: CopickTomogram, tmp_path: Path) -> None:
    assert mine.features == []
    tomogram_of(alone(tmp_path / "mine")).new_features("theirs")
    assert mine.features == []
    mine.refresh_features()
    (theirs,) = mine.features
    theirs.from_numpy(FIELD)
    (same,) = tomogram_of(alone(tmp_path / "mine")).features
    same.from_numpy(VOLUME)
    theirs.refresh()
    assert np.array_equal(theirs.numpy(), VOLUME)
    mine.features = []
    assert mine.features == []
    mine.refresh()
    assert [f.feature_type for f in mine.features] == ["theirs"]


def test_delete(mine: CopickTomogram) -> None:
    for name in ("a", "b", "c", "d"):
        mine.new_features(name).from_numpy(FIELD)
    mine.features[0].delete()
    assert [f.feature_type for f in mine.features] == ["b", "c", "d"]
    mine.delete_features("b")
    assert [f.feature_type for f in mine.features] == ["c", "d"]
    mine.delete_features()
    assert mine.features == mine.query_features() == []
    gone = mine.new_features("x")
    gone.delete()
    with pytest.raises(NotFoundError, match="wbp/x"):
        gone.delete()
    gone.delete(missing_ok=True)


def test_deleting_the_tomogram_takes_them_along(mine: CopickTomogram, tmp_path: Path) -> None:
    mine.new_features("a").from_numpy(FIELD)
    mine.delete()
    folder = tmp_path / "mine/ExperimentRuns/TS_1/VoxelSpacing10.000"
    assert [path.name for path in folder.iterdir()] == [".meta"]


def test_features_of_an_archived_tomogram(root: CopickRoot, tomogram: CopickTomogram, tmp_path: Path) -> None:
    """They go to the layer that is written; the tomogram is not copied."""
    features = tomogram.new_features("unet")
    features.from_numpy(FIELD)
    assert (features.sources, tomogram.sources) == (["work"], ["archive"])
    assert not features.read_only
    assert tomogram.read_only
    folder = tmp_path / "work/ExperimentRuns/TS_1/VoxelSpacing10.000"
    assert sorted(path.name for path in folder.iterdir()) == [".meta", "wbp_unet_features.zarr"]
    assert features.path == str(folder / "wbp_unet_features.zarr")
    (again,) = tomogram_of(opened(tmp_path)).features
    assert np.array_equal(again.numpy(), FIELD)
    assert tomogram_of(opened(tmp_path)).get_features("unet", layers="archive") is None
    with pytest.raises(ReadOnlyError, match="no layer can be written; read-only are archive"):
        tomogram.new_features("x", layers="archive")


def test_archived_features_are_changed_in_a_copy(root: CopickRoot, tmp_path: Path) -> None:
    archive = tomogram_of(alone(tmp_path / "archive"))
    archive.new_features("unet").from_numpy(FIELD)
    (features,) = tomogram_of(opened(tmp_path)).features
    assert features.read_only
    assert features.zarr().read_only
    with pytest.raises(ReadOnlyError, match="still in"):
        features.delete()
    features.set_region(7, slices=(slice(0, 1), *[slice(None)] * 3))
    assert features.sources == ["work", "archive"]
    assert np.array_equal(features.numpy()[1:], FIELD[1:])
    assert (features.numpy()[0] == 7).all()
    assert np.array_equal(features.on("archive").numpy(), FIELD)
    features.delete(missing_ok=True)
    assert features.sources == ["archive"]
    assert np.array_equal(features.numpy(), FIELD)


def test_ensure_pickle_and_repr(mine: CopickTomogram) -> None:
    features = CopickFeatures(mine, CopickFeaturesMeta(feature_type="new"))
    assert features.tomo_type == "wbp"
    assert not features.ensure()
    assert features.ensure(create=True)
    assert features.ensure()
    features.from_numpy(FIELD)
    assert repr(features) == "CopickFeatures(feature_type='new')"
    copy = pickle.loads(pickle.dumps(features))
    assert np.array_equal(copy.numpy(), FIELD)
    assert copy.tomogram.voxel_spacing.run.name == "TS_1"
    assert mine.get_features("new") is not None


def test_the_project_says_the_zarr_format(tmp_path: Path) -> None:
    tomogram = alone(tmp_path, zarr_format=3).new_run("TS_1").new_voxel_spacing(10).new_tomogram("wbp")
    features = tomogram.new_features("f")
    store: Any = features.zarr()
    assert json.loads(store["zarr.json"])["node_type"] == "group"
    features.from_numpy(FIELD)
    assert "0/zarr.json" in store
    features.from_numpy(FIELD, zarr_format=2)
    assert ".zgroup" in store
    assert "zarr.json" not in store
    assert np.array_equal(features.numpy(), FIELD)


def test_names_that_cannot_be(mine: CopickTomogram) -> None:
    for name in ("", "   ", "..", ".hidden", "é" * 120):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "the name ... was changed to ..."
            with pytest.raises(FormatError):
                mine.new_features(name)
    assert mine.query_features() == []
