"""Rotations as RELION's three angles.

Angles are (rot, tilt, psi) in degrees and stand for Rz(rot) @ Ry(tilt) @ Rz(psi) on column vectors: a turn about z by psi, then
about y by tilt, then about z by rot (in other words intrinsic z, y', z'').
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

POLE = 1e-7
"""So close to 0 or 180° (in radians), tilt leaves only the sum or the difference of the other two to be known."""


def zyz_angles(rotations: npt.ArrayLike) -> Floats:
    """(N, 3, 3) rotations → (N, 3) angles: tilt in 0 ... 180°, the others in -180 ... 180°. At the poles psi is 0."""
    m = np.asarray(rotations, dtype=np.float64).reshape(-1, 3, 3)
    # Not arccos(m22): near the poles that loses half of the digits.
    tilt = np.arctan2(np.hypot(m[:, 0, 2], m[:, 1, 2]), m[:, 2, 2])
    pole = np.minimum(tilt, np.pi - tilt) <= POLE
    rot = np.where(pole, np.arctan2(-m[:, 0, 1], m[:, 1, 1]), np.arctan2(m[:, 1, 2], m[:, 0, 2]))
    # From what is left after the turn by rot, so that an error of rot near a pole is made up for.
    c, s = np.cos(rot)[:, None], np.sin(rot)[:, None]
    sin_psi, cos_psi = (c * m[:, 1, :2] - s * m[:, 0, :2]).T
    psi = np.where(pole, 0.0, np.arctan2(sin_psi, cos_psi))
    angles: Floats = np.degrees(np.stack([rot, tilt, psi], axis=-1)) + 0.0  # no -0.0 in tables
    return angles


def zxz_angles(rotations: npt.ArrayLike) -> Floats:
    """(N, 3, 3) rotations → (N, 3) angles a, b, c in degrees of Rz(a) @ Rx(b) @ Rz(c). Ranges and poles as of `zyz_angles`."""
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # Rz(90°) takes x to y
    return zyz_angles(quarter @ np.asarray(rotations, dtype=np.float64).reshape(-1, 3, 3) @ quarter.T)


def zyz_rotations(angles: npt.ArrayLike) -> Floats:
    """(N, 3) angles → (N, 3, 3) rotations."""
    radians = np.radians(np.asarray(angles, dtype=np.float64).reshape(-1, 3))
    (c_rot, c_tilt, c_psi), (s_rot, s_tilt, s_psi) = np.cos(radians).T, np.sin(radians).T
    rows = [
        [c_rot * c_tilt * c_psi - s_rot * s_psi, -c_rot * c_tilt * s_psi - s_rot * c_psi, c_rot * s_tilt],
        [s_rot * c_tilt * c_psi + c_rot * s_psi, -s_rot * c_tilt * s_psi + c_rot * c_psi, s_rot * s_tilt],
        [-s_tilt * c_psi, s_tilt * s_psi, c_tilt],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def nearest_rotations(matrices: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The rotations closest to (N, 3, 3) matrices, so without what scales or shears.

    Returns:
        Rotations (N, 3, 3), and which of the matrices (N,) have one: reflections and those without a volume do not;
        for them stands the identity.
    """
    given = np.asarray(matrices, dtype=np.float64).reshape(-1, 3, 3)
    usable = np.asarray(np.isfinite(given).all(axis=(1, 2)))
    usable[usable] = np.linalg.det(given[usable]) > 0
    left, _, right = np.linalg.svd(np.where(usable[:, None, None], given, np.eye(3)))
    return left @ right, usable
