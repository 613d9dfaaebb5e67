"""Particle lists of other programs: positions and orientations, read as ångström and object → tomogram rotations.

csv      x, y, z in ångström; optional run_name, transform_00 ... transform_33, score, instance_id
em       motivelists of the TOM toolbox: 20 numbers per particle, positions in pixels counted from 1
dynamo   tables of Dynamo, positions in pixels
star     particles of RELION 4 and 5; what their columns mean is the business of `CopickPicks.from_df`
"""

from __future__ import annotations

import csv
import logging
import os
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from copick.errors import FormatError
from copick.util.path_util import get_data_from_file, library

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

FORMATS = {".csv": "csv", ".em": "em", ".tbl": "dynamo", ".star": "star"}
"""Formats by file name."""


class Poses(NamedTuple):
    """N particles."""

    positions: Floats
    """(N, 3) in ångström, x, y, z."""
    transforms: Floats
    """(N, 4, 4); their translations are in ångström, and not in the positions."""
    scores: Floats | None = None
    instance_ids: npt.NDArray[np.int64] | None = None
    tomograms: tuple[str | int, ...] | None = None
    """Of each particle: its run's name, or the number of its tomogram. None: the file does not say."""

    def only(self, chosen: Sequence[bool]) -> Poses:
        """The particles that are marked."""
        marked = np.asarray(chosen, bool)
        names = self.tomograms and tuple(
            name for name, keep in zip(self.tomograms, chosen, strict=True) if keep
        )
        scores = None if self.scores is None else self.scores[marked]
        ids = None if self.instance_ids is None else self.instance_ids[marked]
        return Poses(self.positions[marked], self.transforms[marked], scores, ids, names)


def format_of(path: str | os.PathLike[str], file_type: str | None = None) -> str:
    """The format of a file that is there: the one stated, else what its name says.

    Raises:
        FormatError: There is no such format.
        FileNotFoundError: There is no such file.
    """
    name = os.fspath(path)
    kind = file_type or FORMATS.get(PurePath(name).suffix.lower())
    if kind is None or kind not in FORMATS.values():
        said = f"format {kind!r} is not known" if kind else "its name does not say the format"
        known = ", ".join(f"{each} ({suffix})" for suffix, each in FORMATS.items())
        raise FormatError(f"{name}: {said}; picks are read from {known}")
    if not os.path.isfile(name):
        raise FileNotFoundError(f"there is no file {name!r}")
    return kind


def read_poses(
    path: str | os.PathLike[str],
    file_type: str | None = None,
    voxel_spacing: float | None = None,
    *,
    tomogram_row: int = 4,
) -> Poses:
    """The particles in a file.

    Args:
        file_type: "csv", "em" or "dynamo"; None = as the file's name says.
        voxel_spacing: Size of the pixels that positions are in, in ångström.
        tomogram_row: Which number of a motivelist, from 0, is that of the tomogram.

    Raises:
        FileNotFoundError: There is no such file.
        FormatError: It is not of that format, or the size of its pixels is not known (also a ValueError).
        ImportError: The library that reads it is not installed.
    """
    name, kind = os.fspath(path), format_of(path, file_type)
    if kind == "csv":
        return _read_csv(name)
    if not voxel_spacing or not 0 < voxel_spacing < float("inf"):
        raise FormatError(f"{name}: its positions are in pixels; pass voxel_spacing in ångström")
    return _read_em(name, voxel_spacing, tomogram_row) if kind == "em" else _read_dynamo(name, voxel_spacing)


# CSV


def _read_csv(path: str) -> Poses:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows, columns = [*reader], [*(reader.fieldnames or ())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read as CSV ({error})") from error
    missing = [name for name in "xyz" if name not in columns]
    if missing:
        raise FormatError(
            f"{path}: has no column {' and '.join(missing)}; its first line names {', '.join(columns) or 'none'}"
        )

    def column(name: str, default: float | None = None) -> Floats:
        return np.array(
            [_number(path, line, name, row.get(name), default) for line, row in enumerate(rows, 2)],
            np.float64,
        )

    transforms = np.empty((len(rows), 4, 4))
    for i, j in np.ndindex(4, 4):
        transforms[:, i, j] = column(f"transform_{i}{j}", float(i == j))
    return Poses(
        np.stack([column(name) for name in "xyz"], axis=1),
        transforms,
        column("score", 1.0) if "score" in columns else None,
        column("instance_id", 0) if "instance_id" in columns else None,  # type: ignore[arg-type]
        tuple((row["run_name"] or "").strip() for row in rows) if "run_name" in columns else None,
    )


def _number(path: str, line: int, name: str, cell: str | None, default: float | None) -> float:
    text = (cell or "").strip()
    if not text and default is not None:
        return default
    try:
        return float(text)
    except ValueError:
        raise FormatError(f"{path}, line {line}: {name} is {text!r}; expected a number") from None


# Motivelists and tables: rotations as Euler angles, positions in pixels


def _read_em(path: str, voxel_spacing: float, tomogram_row: int) -> Poses:
    data, _ = get_data_from_file(path, "em")
    table = np.asarray(data, np.float64).reshape(-1, np.shape(data)[-1])
    if table.shape[1] != 20:
        raise FormatError(f"{path}: a motivelist has 20 numbers per particle, not {table.shape[1]}")
    if not 0 <= tomogram_row < 20:
        raise ValueError(f"the number of the tomogram is one of the 20 of a particle, not {tomogram_row}")
    phi, psi, theta = table[:, 16], table[:, 17], table[:, 18]
    return Poses(
        (table[:, 7:10] - 1) * voxel_spacing,
        _placed(_turned("zxz", psi, theta, phi), table[:, 10:13] * voxel_spacing),
        table[:, 3],
        None,
        tuple(table[:, tomogram_row].astype(int).tolist()),
    )


def _read_dynamo(path: str, voxel_spacing: float) -> Poses:
    try:
        table = library("dynamotable").read(path)
        numbers = {name: table[name].to_numpy(np.float64) for name in _DYNAMO}
    except (ValueError, KeyError) as error:
        raise FormatError(f"{path} cannot be read as a Dynamo table ({error!r})") from error
    shifts = np.stack([numbers[name] for name in ("dx", "dy", "dz")], axis=1)
    return Poses(
        np.stack([numbers[name] for name in "xyz"], axis=1) * voxel_spacing,
        _placed(
            _turned("zxz", -numbers["tdrot"], -numbers["tilt"], -numbers["narot"]), shifts * voxel_spacing
        ),
        numbers["cc"],
        None,
        tuple(numbers["tomo"].astype(int).tolist()),
    )


_DYNAMO = ("x", "y", "z", "dx", "dy", "dz", "tdrot", "tilt", "narot", "cc", "tomo")


def _turned(axes: str, *degrees: Floats) -> Floats:
    """The product of rotations about these axes, (N, 3, 3); the last one turns first."""
    rotation = np.eye(3)
    for axis, angle in zip(axes, np.deg2rad(degrees), strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        each = np.zeros((len(angle), 3, 3))
        fixed = "xyz".index(axis)
        first, second = (fixed + 1) % 3, (fixed + 2) % 3
        each[:, fixed, fixed] = 1
        each[:, first, first] = each[:, second, second] = cos
        each[:, first, second], each[:, second, first] = -sin, sin
        rotation = rotation @ each
    return rotation


def _placed(rotations: Floats, translations: Floats | float = 0.0) -> Floats:
    transforms = np.tile(np.eye(4), (len(rotations), 1, 1))
    transforms[:, :3, :3] = rotations
    transforms[:, :3, 3] = translations
    return transforms


# RELION


@dataclass(frozen=True)
class RelionParticles:
    """What a particle STAR file holds."""

    table: pd.DataFrame
    optics: pd.DataFrame | None

    @property
    def tomograms(self) -> tuple[str, ...] | None:
        """The tomogram of each particle; None: the file does not say."""
        return tuple(map(str, self.table[_NAME])) if _NAME in self.table else None

    @property
    def states_pixel_size(self) -> bool:
        """Whether the file says what a pixel of the tilt series measures."""
        return self.optics is not None and _PIXEL_SIZE in self.optics

    def only(self, chosen: Sequence[bool]) -> RelionParticles:
        """The particles that are marked."""
        return RelionParticles(self.table[list(chosen)], self.optics)


@dataclass(frozen=True)
class RelionTomogram:
    """What a tomograms.star says of one tomogram."""

    pixel_size: float
    """Of the tilt series, in ångström."""
    center: tuple[float, float, float] | None
    """In ångström, x, y, z."""
    optics: Mapping[str, float] = field(default_factory=dict)
    """What else RELION's table of optics groups says (of `OPTICS`), as far as it is stated."""


OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
_NAME, _PIXEL_SIZE = "rlnTomoName", "rlnTomoTiltSeriesPixelSize"
_POSITIONS = {"rlnCoordinateX", "rlnCenteredCoordinateXAngst"}


def read_relion_particles(path: str | os.PathLike[str]) -> RelionParticles:
    """The particles in a STAR file of RELION. Raises FileNotFoundError, FormatError or ImportError."""
    tables = relion_tables(os.fspath(path))
    for name, table in tables.items():
        if _POSITIONS & {*table.columns} and name != "optics":
            return RelionParticles(table, tables.get("optics"))
    raise FormatError(f"{path}: no table in it has {' or '.join(sorted(_POSITIONS))}")


def read_relion_tomograms(path: str | os.PathLike[str]) -> dict[str, RelionTomogram]:
    """What a tomograms.star says, by tomogram. Raises FileNotFoundError, FormatError or ImportError."""
    sizes = [f"rlnTomoSize{axis}" for axis in "XYZ"]
    for table in relion_tables(os.fspath(path)).values():
        if {_NAME, _PIXEL_SIZE} <= {*table.columns}:
            found = {}
            for _, row in table.iterrows():
                pixel = float(row[_PIXEL_SIZE])
                x, y, z = (float(row.get(name, np.nan)) * pixel / 2 for name in sizes)
                known = np.isfinite([x, y, z]).all()
                optics = {name: float(row[name]) for name in OPTICS if name in table.columns}
                found[str(row[_NAME])] = RelionTomogram(pixel, (x, y, z) if known else None, optics)
            return found
    raise FormatError(f"{path}: no table in it has {_NAME} and {_PIXEL_SIZE}")


def relion_tables(path: str) -> dict[str, pd.DataFrame]:
    """The tables of a STAR file by name. Raises FileNotFoundError, FormatError or ImportError."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path!r}")
    starfile = library("starfile")
    try:
        tables = starfile.read(path, always_dict=True)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise FormatError(f"{path} cannot be read as a STAR file ({error})") from error
    return {name: table for name, table in tables.items() if hasattr(table, "columns")}
