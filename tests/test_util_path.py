"""Files to import: formats, voxels, runs."""

from __future__ import annotations

import gzip
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import mrcfile
import numpy as np
import pytest
import tifffile
import zarr

from copick.errors import FormatError
from copick.util.ome import write_ome_zarr_3d
from copick.util.path_util import get_data_from_file, get_format_from_extension, prepare_runs_from_paths
from projects import alone

if TYPE_CHECKING:
    from pathlib import Path

# mrcfile sets the dtype of arrays in a way that newer NumPy deprecates.

DATA = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def mrc(path: Path, voxel_size: Any) -> str:
    with mrcfile.new(path) as file:
        file.set_data(DATA)
        file.voxel_size = voxel_size
    return str(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.zarr", "zarr"),
        ("x/a.ome.zarr/", "zarr"),
        ("a.b.mrc", "mrc"),
        ("s3://bucket/a.MAP", "mrc"),
        ("a.rec", "mrc"),
        ("a.tif", "tiff"),
        ("a.ome.tiff", "tiff"),
        ("a.zarr/0", None),
        ("a", None),
        ("a.em", "em"),
        ("a.raw", None),
    ],
)
def test_formats(path: str, expected: str | None) -> None:
    assert get_format_from_extension(path) == expected


def test_mrc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, size = get_data_from_file(mrc(tmp_path / "a.mrc", 7.5), "mrc")
    assert np.array_equal(data, DATA)
    assert size == 7.5
    (tmp_path / "a.mrc.gz").write_bytes(gzip.compress((tmp_path / "a.mrc").read_bytes()))
    assert np.array_equal(get_data_from_file(str(tmp_path / "a.mrc.gz"), "MRC")[0], DATA)
    assert get_data_from_file(mrc(tmp_path / "none.mrc", 0), "mrc")[1] == 0.0
    assert not caplog.messages
    assert get_data_from_file(mrc(tmp_path / "box.mrc", (1, 2, 3)), "mrc")[1] == 2.0
    assert "1 × 2 × 3 Å (x, y, z) are taken as cubes of 2 Å" in caplog.text


def test_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DATA, photometric="minisblack")
    data, size = get_data_from_file(str(tmp_path / "a.tif"), "tiff")
    assert np.array_equal(data, DATA)
    assert size == 0.0


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(tmp_path: Path, zarr_format: Any) -> None:
    write_ome_zarr_3d(str(tmp_path / "a.zarr"), {7.84: DATA, 15.68: DATA[:1]}, zarr_format=zarr_format)
    data, size = get_data_from_file(str(tmp_path / "a.zarr"), "zarr")
    assert np.array_equal(data, DATA)
    assert size == 7.84
    data, size = get_data_from_file(str(tmp_path / "a.zarr" / "1"), "zarr")
    assert np.array_equal(data, DATA[:1])
    assert size == 0.0


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a.mrc", "a.tiff"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(FormatError, match=rf"{name} cannot be read as an? (MRC|TIFF) file"):
            get_data_from_file(str(tmp_path / name), name[2:])
    zarr.create_array(tmp_path / "plain.zarr", name="data", data=DATA)
    with pytest.raises(FormatError, match="without OME-Zarr levels"):
        get_data_from_file(str(tmp_path / "plain.zarr"), "zarr")
    for file_format in ("mrc", "tiff", "zarr", "em"):
        with pytest.raises(FileNotFoundError):
            get_data_from_file(str(tmp_path / "missing"), file_format)
    with pytest.raises(ValueError, match="no file format 'dicom'; use one of zarr, mrc, tiff, em"):
        get_data_from_file(str(tmp_path / "a.mrc"), "dicom")


@pytest.mark.parametrize(("file_format", "library"), [("mrc", "mrcfile"), ("tiff", "tifffile")])
def test_missing_libraries(file_format: str, library: str) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from copick.util.path_util import get_data_from_file\n"
        f"try: get_data_from_file('a', {file_format!r})\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"this file needs {library}: pip install 'copick[formats]'"


# Runs


@pytest.mark.parametrize(
    ("paths", "options", "expected"),
    [
        (["/x/TS_9.mrc", "/x/b.rec.mrc"], {}, {"TS_9": "/x/TS_9.mrc", "b.rec": "/x/b.rec.mrc"}),
        (["/x/b.zarr/"], {}, {"b": "/x/b.zarr/"}),
        (["/x/9.mrc"], {"run_name_prefix": "TS_"}, {"TS_9": "/x/9.mrc"}),
        (["/x/9.mrc"], {"input_run": "a"}, {"a": "/x/9.mrc"}),
        (["/x/a_TS_9_rec.mrc"], {"run_regex": r"(TS_\d+)"}, {"TS_9": "/x/a_TS_9_rec.mrc"}),
        (["/x/a_TS_9_rec.mrc"], {"run_regex": r"TS_\d+"}, {"TS_9": "/x/a_TS_9_rec.mrc"}),
        (["/x/a-b.mrc"], {"run_regex": "(a)-(b)"}, {"a": "/x/a-b.mrc"}),
        ([], {}, {}),
    ],
)
def test_runs_of_files(
    tmp_path: Path, paths: list[str], options: dict[str, Any], expected: dict[str, str]
) -> None:
    root = alone(tmp_path)
    assert prepare_runs_from_paths(root, paths, **{"input_run": "", **options}) == expected
    assert [run.name for run in root.runs] == sorted(expected)


@pytest.mark.parametrize(
    ("paths", "options", "expected", "text"),
    [
        (["/x/TS_9/b.mrc"], {"run_regex": r"(TS_\d+)"}, {}, "skipped /x/TS_9/b.mrc: '(TS_"),
        (["/x/b.mrc"], {"run_regex": "(a)?b"}, {}, "skipped /x/b.mrc"),
        (["/x/a.mrc", "/y/a.mrc"], {}, {"a": "/x/a.mrc"}, "skipped /y/a.mrc: run 'a' has /x/a.mrc already"),
        (["/x/a.mrc"], {"create": False}, {"a": "/x/a.mrc"}, "there is no run 'a'"),
    ],
)
def test_what_is_warned_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    paths: list[str],
    options: dict[str, Any],
    expected: dict[str, str],
    text: str,
) -> None:
    assert prepare_runs_from_paths(alone(tmp_path), paths, "", **options) == expected
    (message,) = (record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert message.startswith(text)


def test_runs_that_exist(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = alone(tmp_path)
    run = root.new_run("a")
    with caplog.at_level(logging.INFO):
        own = logging.getLogger("my.tool")
        assert prepare_runs_from_paths(root, ["a.mrc", "b.mrc"], "", logger=own) == {
            "a": "a.mrc",
            "b": "b.mrc",
        }
    assert root.get_run("a") is run
    assert [(record.name, record.message) for record in caplog.records] == [("my.tool", "created run 'b'")]


def test_bad_expression(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        prepare_runs_from_paths(alone(tmp_path), ["a.mrc"], "", run_regex="(")
