"""Runs, volumes, features, segmentations and objects put into a project; picks are in test_ops_picks_files.py."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import emfile
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr

import copick
from copick.errors import AlreadyExistsError, ConfigError, FormatError, UnknownNameError
from copick.ops import add
from projects import OBJECTS, VOLUME, alone

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot


@pytest.fixture
def root(tmp_path: Path) -> CopickRoot:
    return alone(tmp_path / "project")


def levels(entity: Any) -> list[tuple[tuple[int, ...], str, tuple[int, ...], float]]:
    """Shape, type, chunks and voxel size of each level."""
    group = zarr.open_group(entity.zarr(), mode="r")
    described = group.attrs["multiscales"][0]["datasets"]
    return [
        (array.shape, str(array.dtype), array.chunks, item["coordinateTransformations"][0]["scale"][-1])
        for item in described
        for array in [group[item["path"]]]
    ]


# Runs and voxel spacings


def test_runs(root: CopickRoot) -> None:
    run = add.add_run(root, "A")
    with pytest.raises(ValueError, match="run 'A' exists already"):
        add.add_run(root, "A")
    assert add.add_run(root, "A", exist_ok=True) is run
    assert add.get_or_create_run(root, "A", create=False) is run
    assert add.get_or_create_run(root, "B").name == "B"
    with pytest.raises(ValueError, match="no run 'C'; it has A, B"):
        add.get_or_create_run(root, "C", create=False)
    assert [run.name for run in root.runs] == ["A", "B"]


def test_voxel_spacings(root: CopickRoot) -> None:
    spacing = add.add_voxelspacing(root, "A", 10)
    assert spacing.run.name == "A"
    with pytest.raises(ValueError, match="exists already"):
        add.add_voxelspacing(root, "A", 10.0)
    assert add.add_voxelspacing(root, spacing.run, 10.0, exist_ok=True) is spacing
    with pytest.raises(ValueError, match="no run 'B'"):
        add.add_voxelspacing(root, "B", 10.0, create=False)
    assert add.get_or_create_voxelspacing(spacing.run, 10.0, create=False) is spacing
    assert add.get_or_create_voxelspacing(spacing.run, 20.0).voxel_size == 20
    with pytest.raises(UnknownNameError, match=r"run 'A' has no voxel spacing of 30.0 Å; it has 10, 20"):
        add.get_or_create_voxelspacing(spacing.run, 30.0, create=False)


# Tomograms


def test_tomogram(root: CopickRoot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    volume = VOLUME.astype(np.int16)
    tomogram = add.add_tomogram(root, "A", "wbp", volume, 10.0, meta={"software": "aretomo"}, log=True)
    assert np.array_equal(tomogram.numpy(), volume)
    assert levels(tomogram) == [((5, 6, 7), "int16", (256, 256, 256), 10.0)]
    attributes = zarr.open_group(tomogram.zarr(), mode="r").attrs["multiscales"][0]
    assert attributes["metadata"] == {"software": "aretomo"}
    run = root.get_run("A")
    assert run is not None
    assert tomogram.voxel_spacing is run.get_voxel_spacing(10.0)
    assert caplog.messages == [
        "added run 'A'", "added voxel spacing 'A/10.000'", "added tomogram 'A/10.000/wbp'"
    ]  # fmt: skip


def test_pyramid(root: CopickRoot) -> None:
    tomogram = add.add_tomogram(
        root,
        "A",
        "wbp",
        VOLUME.astype(np.int16),
        10.0,
        create_pyramid=True,
        pyramid_levels=2,
        chunks=(2, 4, 4),
    )
    assert levels(tomogram) == [
        ((5, 6, 7), "float32", (2, 4, 4), 10.0),
        ((3, 3, 4), "float32", (2, 4, 4), 20.0),
    ]
    assert tomogram.numpy("1")[0, 0, 0] == VOLUME[:2, :2, :2].mean()


def test_levels_come_finest_first(root: CopickRoot) -> None:
    coarse = VOLUME[::2, ::2, ::2]
    tomogram = add.add_tomogram(root, "A", "wbp", {20.0: coarse, 10.0: VOLUME})
    assert tomogram.voxel_spacing.voxel_size == 10
    assert [level[3] for level in levels(tomogram)] == [10.0, 20.0]
    assert np.array_equal(tomogram.numpy("1"), coarse)


def test_axes(root: CopickRoot) -> None:
    tomogram = add.add_tomogram(root, "A", "wbp", VOLUME, 10.0, transpose="2,1,0", flip="0, 2")
    assert np.array_equal(tomogram.numpy(), np.flip(VOLUME.transpose(2, 1, 0), (0, 2)))
    assert add.add_tomogram(root, "A", "same", VOLUME, 10.0, transpose="", flip="").numpy().shape == (5, 6, 7)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"transpose": "3,1,0"}, "transpose '3,1,0': expected axes 0"),
        ({"transpose": "0,1"}, "transpose '0,1': expected each of 0, 1 and 2 once"),
        ({"transpose": "z,y,x"}, "transpose 'z,y,x': expected axes 0"),
        ({"flip": "3"}, "flip '3': expected axes 0"),
        ({"flip": "0,0"}, "flip '0,0': names an axis twice"),
        ({"volume": VOLUME[0]}, r"axes z, y, x; found an array of shape \(6, 7\)"),
        ({"volume": VOLUME[None]}, r"axes z, y, x; found an array of shape \(1, 5, 6, 7\)"),
        ({"volume": VOLUME + 1j}, "real numbers"),
        ({"volume": {}}, "at least one"),
        (
            {"volume": {10.0: VOLUME}, "voxel_spacing": 20.0},
            "finest level has voxels of 10 Å, voxel_spacing says 20",
        ),
        ({"voxel_spacing": None}, "pass voxel_spacing in ångström"),
        ({"voxel_spacing": -1.0}, "voxel_size -1.0"),
        ({"tomo_type": "///"}, "no character that can be used"),
        ({"chunks": (0, 1, 1)}, "chunks|chunk"),
        ({"pyramid_levels": 0, "create_pyramid": True}, "levels"),
    ],
)
def test_bad_tomograms_leave_nothing(root: CopickRoot, arguments: dict[str, Any], text: str) -> None:
    given = {"tomo_type": "wbp", "volume": VOLUME, "voxel_spacing": 10.0, **arguments}
    with pytest.raises(ValueError, match=text):
        add.add_tomogram(root, "A", **given)
    assert [t for run in root.runs for v in run.voxel_spacings for t in v.tomograms] == []


def test_what_is_there_stays_unless_told(root: CopickRoot) -> None:
    add.add_tomogram(root, "A", "wbp", VOLUME, 10.0)
    with pytest.raises(AlreadyExistsError, match=r"tomogram 'A/10.000/wbp' exists already"):
        add.add_tomogram(root, "A", "wbp", VOLUME + 1, 10.0)
    assert add.add_tomogram(root, "A", "wbp", VOLUME + 2, 10.0, overwrite=True).numpy()[0, 0, 0] == 2
    assert add.add_tomogram(root, "A", "wbp", VOLUME + 3, 10.0, exist_ok=True).numpy()[0, 0, 0] == 3


def test_nothing_is_created_unless_told(root: CopickRoot) -> None:
    with pytest.raises(UnknownNameError, match="no run 'A'"):
        add.add_tomogram(root, "A", "wbp", VOLUME, 10.0, create=False)
    root.new_run("A")
    with pytest.raises(UnknownNameError, match=r"no voxel spacing of 10.0 Å; it has none"):
        add.add_tomogram(root, "A", "wbp", VOLUME, 10.0, create=False)
    root.runs[0].new_voxel_spacing(10)
    assert add.add_tomogram(root, "A", "wbp", VOLUME, 10.0, create=False).numpy().shape == VOLUME.shape


# Files


def write_mrc(path: Path, data: Any, voxel_size: float | None = 13.5) -> Path:
    with mrcfile.new(path, data) as file:
        if voxel_size is not None:
            file.voxel_size = voxel_size
    return path


def test_tomogram_from_mrc(root: CopickRoot, tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", VOLUME)
    tomogram = add.add_tomogram_from_file(root, "A", "wbp", path)
    assert np.array_equal(tomogram.numpy(), VOLUME)
    assert [level[3] for level in levels(tomogram)] == [13.5, 27.0, 54.0]
    other = add.add_tomogram_from_file(root, "A", "wbp", str(path), voxel_spacing=7, create_pyramid=False)
    assert [level[3] for level in levels(other)] == [7.0]


def test_tomogram_from_tiff_and_zarr(root: CopickRoot, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tiff", VOLUME)
    with pytest.raises(FormatError, match=r"a.tiff: the file states no voxel size; pass voxel_spacing"):
        add.add_tomogram_from_file(root, "A", "wbp", tmp_path / "a.tiff")
    tomogram = add.add_tomogram_from_file(root, "A", "wbp", tmp_path / "a.tiff", voxel_spacing=10.0)
    assert np.array_equal(tomogram.numpy(), VOLUME)
    path = tmp_path / "project/ExperimentRuns/A/VoxelSpacing10.000/wbp.zarr"
    copy = add.add_tomogram_from_file(root, "B", "wbp", path, chunks=(4, 4, 4))
    assert np.array_equal(copy.numpy(), VOLUME)
    assert levels(copy)[0][2:] == ((4, 4, 4), 10.0)


def test_tomogram_from_em(root: CopickRoot, tmp_path: Path) -> None:
    emfile.write(str(tmp_path / "a.em"), VOLUME)
    with pytest.raises(FormatError, match="states no voxel size"):
        add.add_tomogram_from_file(root, "A", "wbp", tmp_path / "a.em")
    tomogram = add.add_tomogram_from_file(root, "A", "wbp", tmp_path / "a.em", voxel_spacing=10.0)
    assert np.array_equal(tomogram.numpy(), VOLUME)
    (tmp_path / "broken.em").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"broken.em cannot be read as an EM file"):
        add.add_tomogram_from_file(root, "A", "wbp", tmp_path / "broken.em", voxel_spacing=10.0)


def test_files_that_cannot_be_read(root: CopickRoot, tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "unscaled.mrc", VOLUME, None)
    with pytest.raises(FormatError, match=r"unscaled.mrc: the file states no voxel size"):
        add.add_tomogram_from_file(root, "A", "wbp", path)
    (tmp_path / "broken.mrc").write_bytes(b"no volume" * 500)
    with pytest.raises(FormatError, match=r"broken.mrc cannot be read as an MRC file"):
        add.add_tomogram_from_file(root, "A", "wbp", tmp_path / "broken.mrc")
    (tmp_path / "short.mrc").write_bytes(write_mrc(tmp_path / "long.mrc", VOLUME).read_bytes()[:1100])
    with pytest.raises(FormatError, match=r"short.mrc cannot be read as an MRC file"):
        add.add_tomogram_from_file(root, "A", "wbp", tmp_path / "short.mrc")
    with pytest.raises(FileNotFoundError, match=r"none.mrc"):
        add.add_tomogram_from_file(root, "A", "wbp", tmp_path / "none.mrc")
    with pytest.raises(FormatError, match=r"a.json: its name does not say the format"):
        add.add_tomogram_from_file(root, "A", "wbp", "a.json")
    with pytest.raises(ValueError, match=r"no file format 'dicom'"):
        add.add_tomogram_from_file(root, "A", "wbp", "a.mrc", file_type="dicom")
    assert root.runs == []


# Features


def test_features_are_those_of_the_tomogram(root: CopickRoot) -> None:
    """copick 1.x looks for the tomogram at 1 Å, whatever the voxel spacing."""
    for size in (1.0, 10.0):
        add.add_tomogram(root, "A", "wbp", VOLUME, size)
    data = np.stack([VOLUME, -VOLUME])
    features = add.add_features(root, "A", 10.0, "wbp", "edges", data, chunks=(2, 3, 3), meta={"net": "x"})
    assert features.tomogram.voxel_spacing.voxel_size == 10
    assert np.array_equal(features.numpy(), data)
    assert levels(features) == [((2, 5, 6, 7), "float32", (1, 2, 3, 3), 10.0)]
    with pytest.raises(AlreadyExistsError, match=r"features 'A/10.000/wbp/edges' exists"):
        add.add_features(root, "A", 10.0, "wbp", "edges", data)
    assert add.add_features(root, "A", 10, "wbp", "edges", VOLUME, overwrite=True).numpy().shape == (5, 6, 7)


def test_features_need_their_tomogram(root: CopickRoot) -> None:
    with pytest.raises(UnknownNameError, match="no run 'A'; it has none"):
        add.add_features(root, "A", 10.0, "wbp", "edges", VOLUME)
    add.add_tomogram(root, "A", "wbp", VOLUME, 10.0)
    with pytest.raises(UnknownNameError, match=r"no voxel spacing of 5.0 Å; it has 10"):
        add.add_features(root, "A", 5.0, "wbp", "edges", VOLUME)
    with pytest.raises(UnknownNameError, match=r"no tomogram 'wpb' at 10 Å \(did you mean 'wbp'\?\)"):
        add.add_features(root, "A", 10.0, "wpb", "edges", VOLUME)
    with pytest.raises(ValueError, match="real numbers"):
        add.add_features(root, "A", 10.0, "wbp", "edges", np.array(["a"]))
    (spacing,) = root.runs[0].voxel_spacings
    assert spacing.tomograms[0].features == []


# Segmentations

MASK = (VOLUME % 3).astype(np.int16)


def test_segmentation_is_multilabel_unless_told(root: CopickRoot, tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "mask.mrc", MASK)
    found = add.add_segmentation_from_file(root, "A", path, None, "any", "me", "1")
    assert (found.segmentation_type, found.voxel_size, found.numpy().dtype) == ("multilabel", 13.5, np.uint8)
    assert np.array_equal(found.numpy(), MASK)
    binary = add.add_segmentation_from_file(root, "A", path, 10, "membrane", "me", "1", multilabel=False)
    assert (binary.segmentation_type, binary.voxel_size) == ("binary", 10.0)
    instance = add.add_segmentation_from_file(
        root, "A", path, None, "ribosome", "me", "1", instance=True, transpose="2,1,0", flip="1"
    )
    assert (instance.segmentation_type, instance.numpy().dtype) == ("instance", np.uint16)
    assert np.array_equal(instance.numpy(), MASK.transpose(2, 1, 0)[:, ::-1])


def test_panoptic_segmentation(root: CopickRoot, tmp_path: Path) -> None:
    volume = np.stack([MASK % 2, MASK % 2]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "mask.tif", volume)
    found = add.add_segmentation_from_file(
        root, "A", tmp_path / "mask.tif", 10.0, "all", "me", "1", panoptic=True, transpose="2,1,0"
    )
    assert found.segmentation_type == "panoptic"
    assert np.array_equal(found.numpy(), volume.transpose(0, 3, 2, 1))
    with pytest.raises(
        FormatError, match=r"expected an array \(z, y, x\), found one of shape \(2, 5, 6, 7\)"
    ):
        add.add_segmentation_from_file(root, "A", tmp_path / "mask.tif", 10.0, "all", "me", "2")


def test_add_segmentation_is_binary(root: CopickRoot, tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "mask.mrc", MASK)
    found = add.add_segmentation(root, "A", path, 13.5, "membrane", "me", "1")
    assert found.segmentation_type == "binary"
    with pytest.raises(AlreadyExistsError, match="exists already"):
        add.add_segmentation(root, "A", path, 13.5, "membrane", "me", "1")
    write_mrc(tmp_path / "other.mrc", MASK * 2)
    path = tmp_path / "other.mrc"
    again = add.add_segmentation(root, "A", path, 13.5, "membrane", "me", "1", overwrite=True)
    assert np.array_equal(again.numpy(), MASK * 2)


def test_bad_segmentations_leave_nothing(root: CopickRoot, tmp_path: Path) -> None:
    negative, fractions = (write_mrc(tmp_path / f"{n}.mrc", n * VOLUME) for n in (-1, 0.5))
    for path, text in ((negative, "negative"), (fractions, "whole numbers")):
        with pytest.raises(ValueError, match=text):
            add.add_segmentation_from_file(root, "A", path, None, "any", "me", "1")
    mask = write_mrc(tmp_path / "mask.mrc", MASK)
    with pytest.raises(ConfigError, match="no object 'any'; it has ribosome, membrane"):
        add.add_segmentation(root, "A", mask, None, "any", "me", "1")
    with pytest.raises(ValueError, match="one type"):
        add.add_segmentation(root, "A", mask, None, "membrane", "me", "1", multilabel=True, instance=True)
    with pytest.raises(UnknownNameError, match="no run 'B'"):
        add.add_segmentation(root, "B", mask, None, "membrane", "me", "1", create=False)
    assert [mask for run in root.runs for mask in run.segmentations] == []


# Objects


def test_objects(root: CopickRoot, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    added = add.add_object(
        root, "proteasome", True, radius=60, volume=VOLUME, voxel_size=5.0, save_config=True, config_path=path
    )
    assert added.label == 3
    assert np.array_equal(added.numpy(), VOLUME)
    saved = copick.from_file(path).get_object("proteasome")
    assert saved is not None
    assert (saved.radius, saved.has_density_map()) == (60.0, True)
    with pytest.raises(ValueError, match="there is an object 'proteasome' already"):
        add.add_object(root, "proteasome", True)
    assert add.add_object(root, "proteasome", True, radius=9, exist_ok=True).radius == 9
    with pytest.raises(AlreadyExistsError, match="label 1 is taken; free is 4"):
        add.add_object(root, "fiducial", True, label=1)
    tube = add.add_object(root, "microtubule", True, filament={"polar": True})
    assert tube.is_filament


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "a_b"}, "try 'a-b'"),
        ({"label": 0}, "reserved for the background"),
        ({"volume": VOLUME}, "pass voxel_size"),
        ({"volume": VOLUME, "voxel_size": 0}, "voxel_size 0"),
        ({"volume": VOLUME[0], "voxel_size": 5.0}, "axes z, y, x|shape"),
        ({"volume": VOLUME, "voxel_size": 5.0, "is_particle": False}, "has no density map"),
        ({"save_config": True}, "needs config_path"),
    ],
)
def test_bad_objects_leave_nothing(root: CopickRoot, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        add.add_object(root, **{"name": "new", "is_particle": True, **arguments})
    assert [item.name for item in root.pickable_objects] == ["ribosome", "membrane"]


def test_object_volume(root: CopickRoot) -> None:
    assert np.array_equal(add.add_object_volume(root, "ribosome", VOLUME, 4.0).numpy(), VOLUME)
    with pytest.raises(UnknownNameError, match=r"no object 'ribosom' \(did you mean 'ribosome'\?\)"):
        add.add_object_volume(root, "ribosom", VOLUME, 4.0)
    with pytest.raises(FormatError, match="has no density map"):
        add.add_object_volume(root, "membrane", VOLUME, 4.0)


@pytest.mark.parametrize("cached", [False, True])
def test_what_fails_leaves_no_empty_run(tmp_path: Path, cached: bool) -> None:
    """Nor an empty voxel spacing; what was there before, and what others put there meanwhile, stays."""
    cache = {"root": str(tmp_path / "cache"), "parent_layer": "*"}
    config = {"config_type": "filesystem", "root": str(tmp_path / "data"), "pickable_objects": OBJECTS}
    root = copick.from_string(json.dumps(config), cache=cache if cached else False)
    kept = root.new_run("kept")
    (tmp_path / "p.csv").write_text("x,y,z\n1,2,3\n")
    for name in ("kept", "new"):
        with pytest.raises(ValueError, match="no object 'x'"):
            add.add_picks_from_file(root, name, tmp_path / "p.csv", "x", "me", "1")
        with pytest.raises(ValueError, match="cannot be used"):
            add.add_tomogram(root, name, "x" * 300, VOLUME, 10.0)
    assert root.runs == [kept]
    assert kept.voxel_spacings == []
    assert [path.name for path in (tmp_path / "data/ExperimentRuns").iterdir()] == ["kept"]


def test_an_interrupt_leaves_nothing(root: CopickRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("copick.ome.write_levels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add.add_tomogram(root, "A", "wbp", VOLUME, 10.0)
    root.refresh()
    assert root.runs == []
