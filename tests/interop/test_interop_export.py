"""What copick 1.31 and this package write for other programs from one project, read by the libraries of these programs."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from copick.ops.poses import read_poses
from support.trees import state

INCUMBENT = os.environ.get("COPICK_INCUMBENT_PYTHON")
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INCUMBENT is None, reason="needs copick 1.31: run `make interop`"),
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder that each leaves, of copies of one project."""
    project = tmp_path_factory.mktemp("export") / "project"
    script = HERE / "export_project.py"
    for arguments in ([HERE / "make_project.py", project], [script, project, "fill"]):
        subprocess.run([INCUMBENT or "", *arguments], check=True, stdout=subprocess.DEVNULL)
    found = {}
    for which, python in (("1.31", INCUMBENT or ""), ("ours", sys.executable)):
        copy = shutil.copytree(project, project.with_name(which) / "project", symlinks=True)
        before = state(copy)
        subprocess.run([python, script, copy], check=True, stdout=subprocess.DEVNULL)
        after = state(copy)
        assert {path: after[path] for path in before} == before
        found[which] = copy / "out"
    return found


def files(folder: Path, *ends: str) -> dict[str, Path]:
    """Files and links below a folder, what is inside of OME-Zarr folders left out."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {
        name: path
        for name, path in found.items()
        if ".zarr/" not in name and (path.is_file() or path.is_symlink() or path.suffix == ".zarr")
        if not ends or path.suffix in ends
    }


def pairs(outputs: dict[str, Path], *ends: str) -> list[tuple[str, Path, Path]]:
    theirs, ours = (files(outputs[which], *ends) for which in ("1.31", "ours"))
    assert [*theirs] == [*ours]
    assert theirs
    return [(name, path, ours[name]) for name, path in theirs.items() if not path.is_symlink()]


def test_the_same_files(outputs: dict[str, Path]) -> None:
    assert len(pairs(outputs)) > 90


def test_errors_and_results(outputs: dict[str, Path]) -> None:
    for name, theirs, ours in pairs(outputs, ".error", ".json"):
        assert ours.read_text() == theirs.read_text(), name


def test_star(outputs: dict[str, Path]) -> None:
    starfile = pytest.importorskip("starfile")
    for name, *both in pairs(outputs, ".star"):
        theirs, ours = (starfile.read(path, always_dict=True) for path in both)
        assert [*theirs] == [*ours], name
        for table in theirs:
            one, other = theirs[table], ours[table][[*theirs[table].columns]]
            assert {*one.columns} == {*ours[table].columns}, name
            for column in one.columns:
                if one[column].dtype.kind in "fi":
                    assert np.allclose(one[column], other[column], atol=2e-6), (name, column)
                else:
                    assert [*one[column]] == [*other[column]], (name, column)


@pytest.mark.parametrize("end", [".csv", ".em", ".tbl"])
def test_poses(outputs: dict[str, Path], end: str) -> None:
    read = 0
    for name, *both in pairs(outputs, end):
        if "mask-" in name or name == "none.tbl":  # that is an empty file
            continue
        theirs, ours = (read_poses(path, voxel_spacing=10.0) for path in both)
        assert theirs.tomograms == ours.tomograms, name
        for one, other in zip(theirs[:4], ours[:4], strict=True):
            if one is not None:
                assert np.allclose(one, other, atol=1e-5), name
        read += len(ours.positions)
    assert read


def test_csv_to_the_letter(outputs: dict[str, Path]) -> None:
    for _, theirs, ours in pairs(outputs, ".csv"):
        assert ours.read_text() == theirs.read_text()


def test_dynamo_tables(outputs: dict[str, Path]) -> None:
    for name, *both in pairs(outputs, ".tbl"):
        if Path(both[0]).stat().st_size > 1:
            theirs, ours = (np.loadtxt(path, ndmin=2) for path in both)
            assert np.allclose(theirs, ours), name


def test_mrc(outputs: dict[str, Path]) -> None:
    mrcfile = pytest.importorskip("mrcfile")
    for name, *both in pairs(outputs, ".mrc"):
        with mrcfile.open(both[0]) as theirs, mrcfile.open(both[1]) as ours:
            assert theirs.data.dtype == ours.data.dtype, name
            assert np.array_equal(theirs.data, ours.data), name
            for field in theirs.header.dtype.names:
                one, other = theirs.header[field], ours.header[field]
                if field in ("dmean", "rms"):
                    assert np.allclose(one, other, rtol=1e-4, atol=1e-6), (name, field)
                elif field != "label":  # who made it, and when
                    assert np.array_equal(one, other), (name, field)
        assert mrcfile.validate(both[1], print_file=io.StringIO()), name


def test_tiff(outputs: dict[str, Path]) -> None:
    tifffile = pytest.importorskip("tifffile")
    for name, *both in pairs(outputs, ".tiff"):
        with tifffile.TiffFile(both[0]) as theirs, tifffile.TiffFile(both[1]) as ours:
            assert np.array_equal(theirs.asarray(), ours.asarray()), name
            assert theirs.series[0].dtype == ours.series[0].dtype, name
            if theirs.pages[0].photometric == tifffile.PHOTOMETRIC.RGB:  # 3 or 4 columns or slices of 1.31
                assert ours.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
                continue
            for pages in zip(theirs.pages, ours.pages, strict=True):
                places = {"StripOffsets", "StripByteCounts"}
                one, other = (
                    {tag.name: tag.value for tag in page.tags if tag.name not in places} for page in pages
                )
                assert one == other, name


def test_em_volumes(outputs: dict[str, Path]) -> None:
    emfile = pytest.importorskip("emfile")
    for name, *both in pairs(outputs, ".em"):
        (head, theirs), (own, ours) = (emfile.read(path) for path in both)
        assert head == own, name
        assert theirs.dtype == ours.dtype, name
        assert np.allclose(theirs, ours, atol=1e-4), name


def content(folder: Path) -> dict[str, str]:
    return {path: content for path, (_, content) in state(folder).items()}


def test_zarr(outputs: dict[str, Path]) -> None:
    import zarr

    for name, theirs, ours in pairs(outputs, ".zarr"):
        if not name.endswith("-0.zarr"):  # all levels, as they are stored
            assert content(ours) == content(theirs), name
            continue
        # One level: 1.31 describes the others, too, and calls chunks 0.0.0.
        one: Any = zarr.open_array(str(theirs / "0"), mode="r")
        other: Any = zarr.open_group(str(ours), mode="r")
        assert np.array_equal(one[:], other["0"][:]), name
        assert one.dtype == other["0"].dtype, name
        (image,), (said,) = (
            zarr.open_group(str(path), mode="r").attrs["multiscales"] for path in (theirs, ours)
        )
        assert said["datasets"] == image["datasets"][:1], name
        assert said["axes"] == image["axes"], name


def test_links(outputs: dict[str, Path]) -> None:
    seen = []
    for folder in outputs.values():
        links = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_symlink()}
        seen.append({name: os.readlink(path).rpartition("project/")[2] for name, path in links.items()})
        assert all(path.exists() for path in links.values())
    assert seen[0] == seen[1]
    assert len(seen[0]) > 10
