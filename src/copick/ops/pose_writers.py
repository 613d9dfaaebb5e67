"""Particle lists for other programs: what `copick.ops.poses` reads.

csv      run_name, x, y, z in ångström, transform_00 ... transform_33 row by row, score, instance_id: nothing is lost
em       motivelists of the TOM toolbox: 20 numbers per particle, float32, positions in pixels counted from 1
dynamo   tables of Dynamo, positions in pixels

Of a transformation, the last two hold the nearest rotation, and the translation as a shift.
"""

from __future__ import annotations

import csv
import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from copick.models.tables import POSITION, TRANSFORM, length
from copick.ops.outputs import File, new_file
from copick.ops.poses import Poses
from copick.util.euler import nearest_rotations, zxz_angles
from copick.util.path_util import library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from copick.models import CopickPicks

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]


def poses_of(picks: CopickPicks, tomogram: str | int) -> Poses:
    """The points of picks, as of a tomogram of that name or number."""
    positions, transforms = picks.numpy()
    return Poses(positions, transforms, picks.scores(), picks.instance_ids(), (tomogram,) * len(positions))


def joined(parts: Sequence[Poses]) -> Poses:
    """Those that `poses_of` gave, one or more, as one."""
    positions, transforms, scores, ids = (
        np.concatenate(column) for column in list(zip(*parts, strict=True))[:4]
    )
    return Poses(positions, transforms, scores, ids, sum((part.tomograms or () for part in parts), ()))


def write_poses(path: File, kind: str, poses: Poses, voxel_spacing: float | None = None) -> None:
    """Write the particles that `poses_of` gave.

    Args:
        kind: "csv", "em" or "dynamo".
        voxel_spacing: Size of the pixels to count positions in, in ångström; "csv" has none.

    Raises:
        AlreadyExistsError: There is such an EM file; other files are replaced.
        LayerError: The file cannot be written.
        ValueError: The voxel spacing is missing or cannot be so.
        ImportError: The library that writes it is not installed.
    """
    if kind == "csv":
        _write_csv(path, poses)
        return
    pixel = length("voxel_spacing", voxel_spacing)
    if pixel is None:
        raise ValueError(f"{path}: its positions are in pixels; pass voxel_spacing in ångström")
    (_write_em if kind == "em" else _write_dynamo)(path, poses, pixel)


def _write_csv(path: File, poses: Poses) -> None:
    assert poses.scores is not None
    assert poses.instance_ids is not None
    table = np.hstack([poses.positions, poses.transforms.reshape(-1, 16), poses.scores[:, None]])
    with new_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run_name", *POSITION, *TRANSFORM, "score", "instance_id"])
        names, ids = poses.tomograms or (), poses.instance_ids.tolist()
        for name, numbers, number in zip(names, table.tolist(), ids, strict=True):
            writer.writerow([name, *numbers, number])


def _rotations(path: File, poses: Poses) -> Floats:
    rotations, usable = nearest_rotations(poses.transforms[:, :3, :3])
    if not usable.all():
        logger.warning(
            "%s: %d of %d transformations are no rotations; their angles are written as 0",
            path,
            (~usable).sum(),
            len(usable),
        )
    return rotations


def _write_em(path: File, poses: Poses, pixel: float) -> None:
    emfile = library("emfile")
    table = np.zeros((len(poses.positions), 20), np.float32)
    table[:, 3] = poses.scores
    table[:, 4] = poses.tomograms
    table[:, 5] = 1
    table[:, 6] = np.arange(1, len(table) + 1)
    table[:, 7:10] = poses.positions / pixel + 1
    table[:, 10:13] = poses.transforms[:, :3, 3] / pixel
    psi, theta, phi = zxz_angles(_rotations(path, poses)).T
    table[:, 16:19] = np.stack([phi, psi, theta], axis=1)
    with new_file(path, ".em", replace=False) as temporary:
        emfile.write(temporary, table[np.newaxis], overwrite=True)


def _write_dynamo(path: File, poses: Poses, pixel: float) -> None:
    dynamotable = library("dynamotable")
    import pandas

    # Dynamo's angles turn the tomogram to the object.
    narot, tilt, tdrot = zxz_angles(_rotations(path, poses).transpose(0, 2, 1)).T
    columns = {
        **dict(zip(("x", "y", "z"), (poses.positions / pixel).T, strict=True)),
        **dict(zip(("dx", "dy", "dz"), (poses.transforms[:, :3, 3] / pixel).T, strict=True)),
        "tdrot": tdrot,
        "tilt": tilt,
        "narot": narot,
        "cc": poses.scores,
        "tomo": poses.tomograms,
    }
    with new_file(path, ".tbl") as temporary:
        dynamotable.write(pandas.DataFrame(columns), temporary)
