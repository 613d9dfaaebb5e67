"""Arguments and names that cannot be: one clear error each, with and without a cache.

Bad arguments of reads raise what NumPy raises for them; what is not there, and names that no file can have, raise errors of
`copick.errors`.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.errors import ConfigError, CopickError, FormatError, NotFoundError
from copick.layers.transfer import entities
from projects import WBP, alone, archived, tomogram_of
from support.trees import content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from copick.kinds import Ref
    from copick.models import CopickRoot, CopickRun

CACHES = pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])

NUMPY: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "level that is not there": ({"zarr_group": "9"}, NotFoundError, "has no array '9'; it has 0"),
    "level as a number": ({"zarr_group": 9}, NotFoundError, "has no array '9'; it has 0"),
    "no level": ({"zarr_group": ""}, NotFoundError, "has no array ''; levels are named '0'"),
    "level outside": ({"zarr_group": "../v3/0"}, NotFoundError, "has no array '../v3/0'"),
    "level with NUL": ({"zarr_group": "a\0"}, NotFoundError, "has no array"),
    "level of 300 bytes": ({"zarr_group": "x" * 300}, NotFoundError, "has no array"),
    "int": ({"x": 3}, TypeError, "axis 2: a slice is needed, not int 3"),
    "NumPy int": ({"z": np.int64(3)}, TypeError, "axis 0: a slice is needed"),
    "list": ({"y": [1]}, TypeError, "axis 1: a slice is needed, not list"),
    "None": ({"y": None}, TypeError, "axis 1: a slice is needed, not NoneType"),
    "fractions": ({"x": slice(0.5, 2)}, TypeError, "slice indices must be integers"),
    "step 0": ({"x": slice(0, 2, 0)}, ValueError, "slice step cannot be zero"),
    "out is a list": ({"out": [1]}, TypeError, "out= must be a NumPy array, not list"),
    "out of another shape": (
        {"out": np.empty((2, 2), np.float32)},
        ValueError,
        r"out= must be .*\(8, 8, 8\) float32",
    ),
}
PATCHES: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "outside": (
        [[0, 0, 0], [7, 0, 0]],
        (2, 2, 2),
        IndexError,
        r"box at \[7, 0, 0\] of size \(2, 2, 2\) reaches outside",
    ),
    "before the first": ([[-1, 0, 0]], (2, 2, 2), IndexError, "reaches outside the array of shape"),
    "beyond 64 bits": ([[2**63 - 2, 0, 0]], (4, 2, 2), IndexError, "reaches outside"),
    "beyond 63 bits": (np.array([[2**64 - 2, 0, 0]], np.uint64), (4, 2, 2), IndexError, "reaches outside"),
    "too large": ([[0, 0, 0]], (9, 1, 1), IndexError, "reaches outside"),
    "negative size": ([[0, 0, 0]], (-1, 1, 1), IndexError, "size must be 0 or more"),
    "fractions": ([[0.5, 0, 0]], (2, 2, 2), ValueError, "starts must be integers"),
    "two axes": ([[0, 0]], (2, 2, 2), ValueError, r"starts must be \(n, 3\) and size 3 long"),
    "ragged": ([[0], [0, 1]], (2, 2, 2), ValueError, "rows differ in length"),
    "nothing": (None, (2, 2, 2), ValueError, r"starts must be \(n, 3\)"),
    "size is a number": ([[0, 0, 0]], 2, TypeError, "size must be 3 ints, not 2"),
    "size of fractions": ([[0, 0, 0]], (2.0, 2, 2), TypeError, "size must be 3 ints"),
    "size of two axes": ([[0, 0, 0]], (2, 2), ValueError, "size 3 long"),
}
INDICES: dict[str, tuple[Any, type[Exception], str]] = {
    "outside": (8, IndexError, "index 8 is out of bounds for axis 0 with size 8"),
    "too many": ((0, 0, 0, 0), IndexError, "4 indices for an array of 3 axes"),
    "two ellipses": ((..., ...), IndexError, "only one"),
    "list": ([1, 2], TypeError, "a slice is needed, not list"),
    "mask": (np.ones((8, 8, 8), bool), TypeError, "a slice is needed, not ndarray"),
}


@CACHES
def test_arguments_of_reads(cached: bool, archive: Path, tmp_path: Path) -> None:
    read = tomogram_of(archived(tmp_path, archive, cached))
    for arguments, error, problem in NUMPY.values():
        with pytest.raises(error, match=problem):
            read.numpy(**arguments)
    for starts, size, error, problem in PATCHES.values():
        with pytest.raises(error, match=problem):
            read.patches(starts, size)
    for index, error, problem in INDICES.values():
        with pytest.raises(error, match=problem):
            read.array()[index]
    assert read.numpy(x=slice(5, 100)).shape == (8, 8, 3)
    assert read.numpy(x=slice(100, 200)).shape == (8, 8, 0)
    assert read.patches([], (2, 2, 2)).shape == (0, 2, 2, 2)


def test_more_than_fits_into_memory(archive: Path, tmp_path: Path) -> None:
    path = archive / WBP / "0/.zarray"
    for shape in ([10**6] * 3, [10**9] * 3):
        path.write_text(json.dumps({**json.loads(path.read_text()), "shape": shape}))
        read = tomogram_of(archived(tmp_path, archive, False))
        with pytest.raises(MemoryError, match=r"layer 'archive': .*GB, more than there is; read a part"):
            read.numpy()
        assert read.numpy(x=slice(0, 2), y=slice(0, 2), z=slice(0, 2)).shape == (2, 2, 2)


def test_arguments_of_writes(tmp_path: Path) -> None:
    written = alone(tmp_path / "w").new_run("r").new_voxel_spacing(10).new_tomogram("wbp")
    data = np.ones((2, 2, 2), np.float32)
    written.from_numpy(data, levels=1)
    bad: dict[str, dict[str, Any]] = {
        "has the axes z, y, x": {"data": data[0]},
        "levels must be 1 or more": {"data": data, "levels": 0},
        "levels must be 1 or more, not 'x'": {"data": data, "levels": "x"},
        "zarr_format must be 2 or 3": {"data": data, "zarr_format": 5},
        "real numbers, not of <U1": {"data": np.full((2, 2, 2), "a")},
        "real numbers, not of complex64": {"data": data * 1j},
        "real numbers, not of object": {"data": None},
    }
    for problem, arguments in bad.items():
        with pytest.raises(ValueError, match=problem):
            written.from_numpy(**arguments)
        assert np.array_equal(written.numpy(), data)


# Names

NAMES = {
    "separator": "a1/b",
    "absolute": "/a2/x",
    "backslash": "a3\\b",
    "parent": "..",
    "above": "../../a4",
    "inside": "a5/../../y",
    "NUL": "\0",
    "NUL inside": "a6\0b",
    "line end": "a7\nb",
    "escape": "a8\x1b[31mb",
    "DEL": "a9\x7f",
    "300 bytes": "x" * 300,
    "300 bytes of two each": "é" * 150,
    "half a character": "a\ud800",
    "empty": "",
    "blank": " ",
    "blanks": " \t\u00a0 ",
    "hidden": ".x",
    "only what is replaced": "_/:",
}
CREATORS: dict[str, Callable[[CopickRun, str], Any]] = {
    "run": lambda run, name: run.root.new_run(name),
    "described run": lambda run, name: run.root.create_run(name, "x"),
    "object": lambda run, name: run.root.new_object(name, True).ensure(create=True),
    "tomogram": lambda run, name: run.voxel_spacings[0].new_tomogram(name),
    "features": lambda run, name: run.voxel_spacings[0].tomograms[0].new_features(name),
    "picks, session": lambda run, name: run.new_picks("ribosome", name),
    "picks, user": lambda run, name: run.new_picks("ribosome", "1", name),
    "picks, object": lambda run, name: run.new_picks(name, "1"),
    "mesh, session": lambda run, name: run.new_mesh("ribosome", name),
    "mesh, user": lambda run, name: run.new_mesh("ribosome", "1", name),
    "filaments, session": lambda run, name: run.new_filaments("ribosome", name),
    "filaments, user": lambda run, name: run.new_filaments("ribosome", "1", name),
    "binary, session": lambda run, name: run.new_segmentation(10, "membrane", name),
    "binary, user": lambda run, name: run.new_segmentation(10, "membrane", "1", user_id=name),
    "binary, name": lambda run, name: run.new_segmentation(10, name, "1"),
    "multilabel, name": lambda run, name: run.new_segmentation(10, name, "1", True),
    "instance, session": lambda run, name: run.new_segmentation(10, "membrane", name, is_instance=True),
    "panoptic, name": lambda run, name: run.new_segmentation(10, name, "1", is_panoptic=True),
}


def small(tmp_path: Path) -> CopickRun:
    """A run with a tomogram, in a project that has directories above it."""
    run = alone(tmp_path / "p/project").new_run("r")
    run.new_voxel_spacing(10).new_tomogram("wbp")
    return run


def listed(root: CopickRoot) -> set[Ref]:
    """What somebody finds in it who opens it now."""
    return {*entities(alone(root.root_overlay).layer)}  # type: ignore[arg-type]


@pytest.mark.parametrize("creator", CREATORS)
def test_names(creator: str, tmp_path: Path) -> None:
    """Refused, or made usable with a warning; never a file outside the project, nor one that is not listed again."""
    run = small(tmp_path)
    for name in NAMES.values():
        before = content(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "the name ... was changed to ..."
            try:
                made = CREATORS[creator](run, name)
            except (FormatError, ConfigError) as error:
                said = str(error)
            else:
                said = ""
        if said:
            assert not {"\0", "\x1b", "\n"} & {*said}
            assert content(tmp_path) == before
            continue
        assert made is True or made.ref in listed(run.root)
        assert before.items() <= content(tmp_path).items()
        assert [path.name for path in (tmp_path / "p").iterdir()] == ["project"]


def test_names_that_are_looked_for(tmp_path: Path) -> None:
    run = small(tmp_path)
    root, spacing = run.root, run.voxel_spacings[0]
    before = content(tmp_path)
    for name in NAMES.values():
        assert root.get_run(name) is None
        assert root.get_object(name) is None
        assert spacing.get_tomogram(name) is None
        assert spacing.get_tomograms(name) == []
        assert spacing.tomograms[0].get_features(name) is None
        assert (
            run.get_picks(name, name, name) == run.get_meshes(name) == run.get_filaments(user_id=name) == []
        )
        assert run.get_segmentations(name=name, session_id=[name]) == []
        with pytest.raises(NotFoundError, match=r"there is no layer|no layer is named"):
            root.get_run("r", layers=name)
    assert content(tmp_path) == before


def test_what_is_no_name(tmp_path: Path) -> None:
    root = alone(tmp_path)
    run = root.new_run("r")
    spacing = run.new_voxel_spacing(10)
    for bad in (3, None):
        with pytest.raises(FormatError, match=rf"name {bad}: expected a valid string"):
            root.get_run(bad)  # type: ignore[arg-type]
        with pytest.raises(FormatError, match=rf"tomo_type {bad}: expected a valid string"):
            spacing.get_tomogram(bad)  # type: ignore[arg-type]
        for make in (run.new_picks, run.new_mesh, run.new_filaments):
            with pytest.raises(TypeError, match=rf"a name must be a string, not \w+ {bad}"):
                make("ribosome", bad)
    for make in (run.get_voxel_spacing, run.new_voxel_spacing):
        with pytest.raises(TypeError, match="a voxel size is a number of ångström, not NoneType None"):
            make(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"search\(\) looks for the words of a text, not of NoneType None"):
        root.search(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="layers= takes a name or names of layers, not 3"):
        root.get_run("r", layers=3)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=r"name 'a_b': .*try 'a-b'"):
        root.new_object("a_b", True)


@pytest.mark.parametrize(
    "size", [0, -1, -0.0, float("nan"), float("inf"), -float("inf"), 0.0001, "x", "", b"x", 10**400]
)
def test_voxel_sizes(size: Any, tmp_path: Path) -> None:
    run = small(tmp_path)
    before = content(tmp_path)
    assert run.get_voxel_spacing(size) is None
    assert run.get_segmentations(voxel_size=size) == []
    with pytest.raises(ValueError, match="has no voxel spacing"):
        run.delete_voxel_spacings(size)
    for make in (
        run.new_voxel_spacing,
        lambda size: run.new_segmentation(size, "membrane", "1"),
        lambda size: run.new_segmentation(size, "cell", "1", is_panoptic=True),
    ):
        with pytest.raises(FormatError, match=r"voxel.size .*: expected") as caught:
            make(size)
        assert isinstance(caught.value, CopickError)
        assert len(str(caught.value)) < 200
    assert content(tmp_path) == before


@pytest.mark.parametrize("size", [None, [], {}, object()])
def test_what_is_no_voxel_size(size: Any, tmp_path: Path) -> None:
    run = small(tmp_path)
    for ask in (run.new_voxel_spacing, run.get_voxel_spacing):
        with pytest.raises((TypeError, ValueError), match=r"voxel.size|float\(\)"):
            ask(size)
    assert len(run.query_voxelspacings()) == 1


# Regions of volumes

REGIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another shape": (
        {"data": np.ones((2, 3, 4))},
        ValueError,
        r"the region has the shape \(4, 4, 4\), the data \(2, 3, 4\)",
    ),
    "too few axes": ({"data": np.ones((4, 4))}, ValueError, "the region has the shape"),
    "too many axes": ({"data": np.ones((1, 4, 4, 4))}, ValueError, "the region has the shape"),
    "shape of another box": (
        {"data": np.ones((4, 4, 4)), "x": slice(0, 2)},
        ValueError,
        r"the region has the shape \(4, 4, 2\)",
    ),
    "text": ({"data": np.full((4, 4, 4), "a")}, ValueError, "cannot become float32"),
    "complex": ({"data": np.ones((4, 4, 4)) * 1j}, ValueError, "cannot become float32"),
    "nothing": ({"data": None}, ValueError, "object data cannot become float32"),
    "overflow": ({"data": np.full((4, 4, 4), 1e300)}, ValueError, "up to 1e\\+300 do not fit float32"),
    "int": ({"data": 1, "x": 3}, TypeError, "a slice is needed, not int 3"),
    "list": ({"data": 1, "z": [1]}, TypeError, "a slice is needed, not list"),
    "step 0": ({"data": 1, "z": slice(0, 2, 0)}, ValueError, "slice step cannot be zero"),
    "level": ({"data": 1, "zarr_group": "5"}, NotFoundError, "has no array '5'; it has 0"),
    "no level": ({"data": 1, "zarr_group": ""}, NotFoundError, "has no array ''"),
    "level outside": ({"data": 1, "zarr_group": "../wbp.zarr/0"}, NotFoundError, "has no array"),
    "level with NUL": ({"data": 1, "zarr_group": "\0"}, NotFoundError, "has no array"),
    "an axis too much": ({"data": 1, "w": slice(0, 1)}, TypeError, "unexpected keyword argument 'w'"),
}


@pytest.mark.parametrize("case", REGIONS)
def test_regions(case: str, tmp_path: Path) -> None:
    arguments, error, problem = REGIONS[case]
    run = small(tmp_path)
    tomogram, ribosome = run.voxel_spacings[0].tomograms[0], run.root.get_object("ribosome")
    assert ribosome is not None
    data = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    tomogram.from_numpy(data, levels=1)
    ribosome.from_numpy(data, 10)
    before = content(tmp_path)
    for volume in (tomogram, ribosome):
        with pytest.raises(error, match=problem) as caught:
            volume.set_region(**arguments)
        if error is not TypeError and "step" not in problem:  # what NumPy says of slices names nothing
            assert volume.ref.file_name.removesuffix(".zarr") in str(caught.value)
        assert np.array_equal(volume.numpy(), data)
    assert content(tmp_path) == before


def test_regions_of_what_is_not_there(tmp_path: Path) -> None:
    run = small(tmp_path)
    tomogram = run.voxel_spacings[0].tomograms[0]
    with pytest.raises(NotFoundError, match="it has no arrays"):
        tomogram.set_region(1)
    tomogram.delete()
    before = content(tmp_path)
    with pytest.raises(NotFoundError, match=r"no layer has tomogram 'r/10\.000/wbp'"):
        tomogram.set_region(1)
    assert content(tmp_path) == before


def test_numbers_that_do_not_fit_the_type_asked_for(tmp_path: Path) -> None:
    tomogram = small(tmp_path).voxel_spacings[0].tomograms[0]
    tomogram.from_numpy(np.ones((2, 2, 2)), levels=1)
    before = content(tmp_path)
    for value, dtype in (
        (1e39, np.float32),
        (-1e300, np.float32),
        (65_520.0, np.float16),
        (np.uint16(65_535), np.float16),
        (128, np.int8),
        (-1, np.uint8),
        (2.0**31, np.int32),
        (np.nan, np.int16),
        (np.inf, np.int16),
        (1, "S1"),
        (1, complex),
    ):
        with pytest.raises(ValueError, match=r"tomogram 'r/10\.000/wbp': .*(fit|real numbers)"):
            tomogram.from_numpy(np.full((2, 2, 2), value), dtype=dtype)
        assert content(tmp_path) == before
    tomogram.from_numpy(np.array([[[np.nan, np.inf, -np.inf]]]), levels=1)
    assert np.isnan(tomogram.numpy()[0, 0, 0])
    tomogram.from_numpy(np.full((2, 2, 2), 2.75), dtype=np.int8)
    assert (tomogram.numpy() == 2).all()
