"""Stores as other tools and older versions write them: read as they are meant, and never changed by reading."""

from __future__ import annotations

import itertools
import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

import copick
from copick.errors import LayerError
from copick.stores import VolumeStore
from projects import OBJECTS, alone
from support.trees import state

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot, CopickTomogram

VALUES = np.arange(2 * 3 * 5, dtype=np.int16).reshape(2, 3, 5)
SPACING = "ExperimentRuns/TS_1/VoxelSpacing10.000"
# What an array says stands between the numbers of a chunk, and what does; "/" and "." is what no tool writes.
SEPARATORS = [(".", "."), (".", "/"), ("/", "/"), (None, "."), (None, "/")]


def write_v2(
    folder: Path,
    values: np.ndarray[Any, Any] = VALUES,
    *,
    stated: str | None = "/",
    actual: str = "/",
    **fields: Any,
) -> None:
    """A zarr v2 array in chunks of 2, by hand; no compression. A chunk (0, 1, 2) is called `0/1/2` if `actual` is `/`."""
    metadata = {
        "zarr_format": 2,
        "shape": values.shape,
        "chunks": [2] * values.ndim,
        "dtype": values.dtype.str,
        "order": "C",
        "compressor": None,
        "filters": None,
        "fill_value": 0,
        **({"dimension_separator": stated} if stated else {}),
        **fields,
    }
    folder.mkdir(parents=True)
    (folder / ".zarray").write_text(json.dumps(metadata))
    for at in itertools.product(*(range((size + 1) // 2) for size in values.shape)):
        chunk = np.zeros([2] * values.ndim, values.dtype)
        part = values[tuple(slice(2 * i, 2 * i + 2) for i in at)]
        chunk[tuple(slice(0, n) for n in part.shape)] = part
        file = folder / actual.join(map(str, at))
        file.parent.mkdir(parents=True, exist_ok=True)
        if chunk.any():
            file.write_bytes(chunk.tobytes(order=metadata["order"]))


def of_1x(overlay: Path, static: Path | None = None, **fields: Any) -> CopickRoot:
    config = {
        "config_type": "filesystem",
        "pickable_objects": OBJECTS,
        "overlay_root": str(overlay),
        **fields,
    }
    return copick.from_string(json.dumps({**config, **({"static_root": str(static)} if static else {})}))


def tomograms(root: CopickRoot) -> dict[str, CopickTomogram]:
    run = root.get_run("TS_1")
    assert run is not None
    spacing = run.get_voxel_spacing(10.0)
    assert spacing is not None
    return {tomogram.tomo_type: tomogram for tomogram in spacing.tomograms}


# Where the chunks are


@pytest.mark.parametrize(("stated", "actual"), SEPARATORS)
def test_chunks_are_found_where_they_are(tmp_path: Path, stated: str | None, actual: str) -> None:
    write_v2(tmp_path / SPACING / "wbp.zarr" / "0", stated=stated, actual=actual)
    before = state(tmp_path)
    for root in (of_1x(tmp_path), of_1x(tmp_path / "overlay", tmp_path), alone(tmp_path)):
        tomogram = tomograms(root)["wbp"]
        np.testing.assert_array_equal(tomogram.numpy(), VALUES)
        np.testing.assert_array_equal(tomogram.numpy(x=slice(1, 4), z=slice(1, 2)), VALUES[1:2, :, 1:4])
        np.testing.assert_array_equal(zarr.open(tomogram.zarr())["0"][...], VALUES)
        np.testing.assert_array_equal(zarr.open_array(tomogram.zarr(), path="0")[...], VALUES)
        copied = pickle.loads(pickle.dumps(tomogram))
        np.testing.assert_array_equal(copied.numpy(), VALUES)
    assert state(tmp_path) == before


@pytest.mark.parametrize("actual", [".", "/"])
def test_chunks_are_found_through_a_cache(tmp_path: Path, actual: str, own_managers: None) -> None:
    write_v2(tmp_path / SPACING / "wbp.zarr" / "0", stated=None, actual=actual)
    cache = {"root": str(tmp_path / "cache"), "parent_layer": "*"}
    tomogram = tomograms(of_1x(tmp_path, cache=cache))["wbp"]
    np.testing.assert_array_equal(tomogram.numpy(), VALUES)
    np.testing.assert_array_equal(zarr.open(tomogram.zarr())["0"][...], VALUES)


@pytest.mark.parametrize("actual", [".", "/"])
def test_chunks_are_found_in_a_bucket(
    tmp_path: Path, actual: str, s3_bucket: str, s3_args: dict[str, Any]
) -> None:
    import fsspec

    sparse = VALUES.copy()
    sparse[:2, :2, :2] = 0
    write_v2(tmp_path / SPACING / "wbp.zarr" / "0", sparse, stated=None, actual=actual)
    fs = fsspec.filesystem("s3", skip_instance_cache=True, **s3_args)
    fs.put(str(tmp_path / "ExperimentRuns"), f"{s3_bucket}/ExperimentRuns", recursive=True)
    there = {"static_root": f"s3://{s3_bucket}", "static_fs_args": s3_args}
    tomogram = tomograms(of_1x(tmp_path / "overlay", **there))["wbp"]
    np.testing.assert_array_equal(tomogram.numpy(), sparse)
    assert [*zarr.open(tomogram.zarr()).array_keys()] == ["0"]


@pytest.mark.parametrize("actual", [".", "/"])
def test_the_first_chunk_may_be_missing(tmp_path: Path, actual: str) -> None:
    sparse = VALUES.copy()
    sparse[:2, :2, :2] = 0
    write_v2(tmp_path / SPACING / "wbp.zarr" / "0", sparse, stated=".", actual=actual)
    (tmp_path / SPACING / "wbp.zarr/0/notes.txt").write_text("not a chunk")
    np.testing.assert_array_equal(tomograms(of_1x(tmp_path))["wbp"].numpy(), sparse)


def test_an_array_without_chunks_is_its_fill_value(tmp_path: Path) -> None:
    empty = np.zeros_like(VALUES)
    write_v2(tmp_path / SPACING / "wbp.zarr" / "0", empty, stated=".", fill_value=7)
    np.testing.assert_array_equal(tomograms(of_1x(tmp_path))["wbp"].numpy(), empty + 7)


@pytest.mark.parametrize("actual", [".", "/"])
def test_a_region_is_written_where_the_chunks_are(tmp_path: Path, actual: str) -> None:
    array = tmp_path / SPACING / "wbp.zarr" / "0"
    write_v2(array, stated=None, actual=actual)
    files = {str(path.relative_to(array)) for path in array.rglob("*")}
    tomogram = tomograms(of_1x(tmp_path))["wbp"]
    tomogram.set_region(np.full((1, 1, 1), 99, np.int16), x=slice(0, 1), y=slice(0, 1), z=slice(0, 1))
    assert {str(path.relative_to(array)) for path in array.rglob("*")} - {".zattrs"} == files
    expected = VALUES.copy()
    expected[0, 0, 0] = 99
    np.testing.assert_array_equal(tomograms(of_1x(tmp_path))["wbp"].numpy(), expected)


@pytest.mark.parametrize(
    "document", ["[]", "{", '{"shape": 3}', '{"shape": [2, 2], "dimension_separator": 3}']
)
def test_metadata_that_cannot_be_mended_are_left_alone(tmp_path: Path, document: str) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / ".zarray").write_text(document)
    store = VolumeStore(LocalStore(tmp_path), "", lambda key, error: LayerError(key), lambda folder: iter([]))
    assert store["0/.zarray"] == document.encode()


# What other tools write


def test_what_other_tools_write(tmp_path: Path) -> None:
    """Stores without multiscales or without a group, either byte order, any compression and filter, each format."""
    folder = tmp_path / SPACING
    write_v2(folder / "bare.zarr" / "0")
    (folder / "bare.zarr/.zgroup").write_text('{"zarr_format": 2}')
    write_v2(folder / "groupless.zarr" / "0")
    write_v2(folder / "big.zarr" / "0", VALUES.astype(">i2"))
    write_v2(folder / "fortran.zarr" / "0", order="F")
    for name, options in {
        "v2": {"zarr_format": 2},
        "v3": {"zarr_format": 3},
        "v3-sharded": {"zarr_format": 3, "shards": (2, 4, 6)},
    }.items():
        group = zarr.create_group(folder / f"{name}.zarr", zarr_format=options.pop("zarr_format"))
        group.create_array("0", data=VALUES, chunks=(2, 2, 2), **options)
    before = state(tmp_path)
    found = tomograms(of_1x(tmp_path))
    assert [*found] == ["bare", "big", "fortran", "groupless", "v2", "v3", "v3-sharded"]
    for tomogram in found.values():
        np.testing.assert_array_equal(tomogram.numpy(), VALUES)
        np.testing.assert_array_equal(zarr.open(tomogram.zarr())["0"][:, 1:], VALUES[:, 1:])
        assert len(tomogram.zarr()) > 1
    assert state(tmp_path) == before


def test_levels_are_chosen_by_name(tmp_path: Path) -> None:
    write_v2(tmp_path / SPACING / "wbp.zarr" / "s0")
    tomogram = tomograms(of_1x(tmp_path))["wbp"]
    np.testing.assert_array_equal(tomogram.numpy("s0"), VALUES)
    with pytest.raises(KeyError, match="no array '0'; it has s0"):
        tomogram.numpy()


# Reading changes nothing


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, Path]:
    """Overlay and static data with every kind of entity, and with volumes that have nothing in them yet."""
    overlay, static = tmp_path / "overlay", tmp_path / "static"
    for folder in (overlay, static):
        root = alone(folder)
        run = root.new_run("TS_1")
        spacing = run.new_voxel_spacing(10)
        tomogram = spacing.new_tomogram("wbp")
        tomogram.from_numpy(VALUES)
        tomogram.new_features("sobel").from_numpy(VALUES[None].astype(np.float32))
        spacing.new_tomogram("v3").from_numpy(VALUES, levels=1, zarr_format=3)
        run.new_picks("ribosome", "1").from_numpy([[1, 2, 3]])
        run.new_picks("ribosome", "2")
        run.new_mesh("membrane", "1")
        run.new_filaments("ribosome", "1")
        run.new_segmentation(10, "membrane", "1").from_numpy(VALUES > 3)
        root.get_object("ribosome").from_numpy(VALUES, 4.0)
        write_v2(folder / SPACING / "dotted.zarr" / "0", stated=None, actual="/")
        # As copick 1.x leaves what was only begun.
        for begun in (f"{SPACING}/begun.zarr", f"{SPACING}/wbp_begun_features.zarr"):
            (folder / begun).mkdir()
        (folder / "ExperimentRuns/TS_1/Segmentations/10.000_them_2_membrane.zarr").mkdir()
        (folder / "ExperimentRuns/bare/Picks").mkdir(parents=True)
    return overlay, static


def read_everything(root: CopickRoot) -> int:
    """Everything that looks at a project; how many volumes there were."""
    arrays: list[Any] = [item for item in root.pickable_objects if item.is_particle]
    for run in root.runs:
        assert root.get_run(run.name) is run
        assert run.ensure()
        for picks in run.picks:
            assert len(picks.points) == len(picks.numpy()[0]) == len(picks.scores())
            picks.refresh()
        for mesh in run.meshes:
            assert mesh.mesh is not None
        for filaments in run.filaments:
            assert filaments.numpy() == []
        arrays += run.segmentations
        for spacing in run.voxel_spacings:
            assert spacing.ensure()
            for tomogram in spacing.tomograms:
                arrays += [tomogram, *tomogram.features]
        run.refresh()
    for each in arrays:
        assert all((repr(each), each.path, each.overlay_path, each.static_path, each.fs.protocol))
        assert each.read_only in {True, False}
        for group in (
            zarr.open(each.zarr()),
            zarr.open(each.zarr(), mode="r"),
            zarr.open_group(each.zarr(), mode="r" if each.read_only else "a"),
        ):
            for _, array in group.arrays():
                assert array[...].size
            assert isinstance(dict(group.attrs), dict)
        keys = [*each.zarr()]
        assert len(each.zarr()) == len(keys)
        if "0/.zarray" in keys or "zarr.json" in keys:
            assert each.numpy().size
        else:
            with pytest.raises(KeyError):
                each.numpy()
    root.refresh()
    root.reconnect()
    return len(arrays)


@pytest.mark.parametrize("layers", ["overlay", "both", "static"])
def test_reading_changes_nothing(project: tuple[Path, Path], tmp_path: Path, layers: str) -> None:
    overlay, static = project
    before = state(tmp_path)
    root = {
        "overlay": lambda: of_1x(overlay),
        "both": lambda: of_1x(overlay, static),
        "static": lambda: of_1x(tmp_path / "new", static),
    }[layers]()
    assert read_everything(root) == 9
    assert read_everything(pickle.loads(pickle.dumps(root))) == 9
    assert state(tmp_path) == before


def test_an_empty_volume_is_an_empty_group_until_it_is_written(project: tuple[Path, Path]) -> None:
    overlay, _ = project
    begun = tomograms(of_1x(overlay))["begun"]
    group = zarr.open(begun.zarr())
    assert [*group.keys()] == []
    assert os.listdir(overlay / SPACING / "begun.zarr") == []
    group.create_array("0", data=VALUES)
    written = overlay / SPACING / "begun.zarr"
    assert json.loads((written / ".zgroup").read_text()) == {"zarr_format": 2}
    np.testing.assert_array_equal(tomograms(of_1x(overlay))["begun"].numpy(), VALUES)


def test_a_map_that_is_not_there_is_not_made_by_looking(project: tuple[Path, Path]) -> None:
    overlay, _ = project
    root = of_1x(overlay, pickable_objects=[{"name": "new", "is_particle": True}])
    (item,) = root.pickable_objects
    assert [*zarr.open(item.zarr()).keys()] == []
    assert len(item.zarr()) == 0
    assert not (overlay / "Objects/new.zarr").exists()
    item.from_numpy(VALUES, 4.0)
    assert (overlay / "Objects/new.zarr/0").is_dir()
