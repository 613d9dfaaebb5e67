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

from copick.errors import CopickError, FormatError, NotFoundError
from projects import WBP, alone, archived, tomogram_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    "separator": "a/b",
    "backslash": "a\\b",
    "parent": "..",
    "NUL": "\0",
    "line end": "a\nb",
    "300 bytes": "é" * 150,
    "half a character": "a\ud800",
    "empty": "",
    "blank": " ",
    "hidden": ".x",
}


@pytest.mark.parametrize("case", NAMES)
def test_names(case: str, tmp_path: Path) -> None:
    """Refused, or made usable with a warning; never a file outside the project, nor one that is not listed again."""
    name = NAMES[case]
    root = alone(tmp_path / "p/project")
    run = root.new_run("r")
    spacing = run.new_voxel_spacing(10)
    with pytest.raises(FormatError, match="cannot be"):
        root.new_run(name)
    assert root.get_run(name) is None
    assert spacing.get_tomogram(name) is None
    assert run.get_picks(session_id=name) == []
    makers: list[Callable[[], Any]] = [
        lambda: spacing.new_tomogram(name),
        lambda: run.new_picks("ribosome", name),
        lambda: run.new_picks("ribosome", "1", name),
        lambda: run.new_segmentation(10, name, "1", is_multilabel=True),
    ]
    for make in makers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "the name ... was changed to ..."
            try:
                made = make()
            except FormatError:
                continue
        root.refresh()
        assert made.ref in {entity.ref for entity in (*run.picks, *run.segmentations, *spacing.tomograms)}
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["project"]
    with pytest.raises(NotFoundError, match="there is no layer"):
        root.get_run("r", layers=name)


def test_what_is_no_name(tmp_path: Path) -> None:
    root = alone(tmp_path)
    run = root.new_run("r")
    spacing = run.new_voxel_spacing(10)
    for bad in (3, None):
        with pytest.raises(FormatError, match=rf"name {bad}: expected a valid string"):
            root.get_run(bad)  # type: ignore[arg-type]
        with pytest.raises(FormatError, match=rf"tomo_type {bad}: expected a valid string"):
            spacing.get_tomogram(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=rf"a name must be a string, not \w+ {bad}"):
            run.new_picks("ribosome", bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="layers= takes a name or names of layers, not 3"):
        root.get_run("r", layers=3)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=r"name 'a_b': .*try 'a-b'"):
        root.new_object("a_b", True)


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf"), 0.0001, "x", 10**400])
def test_voxel_sizes(size: Any, tmp_path: Path) -> None:
    run = alone(tmp_path).new_run("r")
    assert run.get_voxel_spacing(size) is None
    assert run.get_segmentations(voxel_size=size) == []
    for make in (run.new_voxel_spacing, lambda size: run.new_segmentation(size, "membrane", "1")):
        with pytest.raises(FormatError, match=r"voxel.size .*: expected") as caught:
            make(size)
        assert isinstance(caught.value, CopickError)
