"""Lists of tomograms that other programs keep: which run, which file."""

from __future__ import annotations

import os
import re
from pathlib import PurePath

from copick.errors import FormatError
from copick.ops.poses import relion_tables

Name = str | os.PathLike[str]


def read_index_map(path: Name) -> dict[int, str]:
    """Run names by number of tomogram, from lines of a number and a name.

    Raises:
        FileNotFoundError: There is no such file.
        FormatError: A line is something else, or a number stands twice.
    """
    return _numbered(path, "a run")


def read_dynamo_tomolist(path: Name) -> dict[int, str]:
    """The files of tomograms by their number in Dynamo. Raises as `read_index_map` does."""
    return _numbered(path, "a file")


def runs_of_tomolist(files: dict[int, str]) -> dict[int, str]:
    """Runs named after the files of a tomolist, by number. Raises FormatError if two files have one name."""
    runs = {number: PurePath(file).stem for number, file in files.items()}
    if len({*runs.values()}) < len(runs):
        raise FormatError("files of the tomolist have the same name; say the runs with an index map")
    return runs


def _numbered(path: Name, what: str) -> dict[int, str]:
    found: dict[int, str] = {}
    with open(path, encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            parts = re.fullmatch(r"\s*([0-9]+)\s*[,;\t ]\s*(\S.*?)\s*", text)
            if parts is not None:
                if int(parts[1]) in found:
                    raise FormatError(f"{path}, line {number}: tomogram {parts[1]} stands twice")
                found[int(parts[1])] = parts[2]
            elif text.strip() and number > 1:  # the first line may be a header
                raise FormatError(
                    f"{path}, line {number}: expected a number and {what}; found {text.strip()!r}"
                )
    if not found:
        raise FormatError(f"{path}: has no line of a number and {what}")
    return found


def read_relion_reconstructions(
    path: Name, half: str = "half1", base_dir: Name | None = None
) -> dict[str, tuple[str, float]]:
    """The file and the voxel size (ångström) of each tomogram in RELION's tomograms.star.

    Args:
        half: Which reconstruction: "half1" or "half2".
        base_dir: What the paths in the file are relative to: the RELION project.

    Raises:
        FileNotFoundError: There is no such file.
        FormatError: It does not say the files or the voxel sizes.
    """
    if half not in ("half1", "half2"):
        raise ValueError(f"half is 'half1' or 'half2', not {half!r}")
    file = f"rlnTomoReconstructedTomogramH{half[1:]}"
    wanted = ["rlnTomoName", file, "rlnTomoTiltSeriesPixelSize", "rlnTomoTomogramBinning"]
    for table in relion_tables(os.fspath(path)).values():
        if {*wanted} <= {*table.columns}:
            return {
                str(name): (os.path.join(base_dir or "", str(where)), float(pixel) * float(binning))
                for name, where, pixel, binning in table[wanted].itertuples(index=False)
            }
    raise FormatError(f"{path}: no table in it has {', '.join(wanted)}")
