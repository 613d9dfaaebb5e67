"""The phantom is what it says: dense is dark where the points are, and the missing wedge is missing."""

from __future__ import annotations

import numpy as np
import pytest

from copick.demo.phantom import MAX_TILT_DEG, SPECIES, Phantom, phantom

SHAPE = (64, 200, 180)
VOXEL = 10.0


@pytest.fixture(scope="module")
def sample() -> Phantom:
    return phantom(SHAPE, VOXEL, seed=3)


def sphere_means(sample: Phantom, name: str, radius: float) -> np.ndarray:
    """Mean density within `radius` Å of each point, nearest voxel centres, inside the volume."""
    z, y, x = np.indices(sample.volume.shape)
    means = []
    for at in sample.points[name] / sample.voxel_size:
        near = (x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2 <= (radius / sample.voxel_size) ** 2
        means.append(sample.volume[near].mean())
    return np.array(means)


def test_shapes_types_and_units(sample: Phantom) -> None:
    assert (sample.volume.shape, sample.volume.dtype) == (SHAPE, np.float32)
    assert (sample.membrane.shape, sample.membrane.dtype) == (SHAPE, np.uint8)
    assert np.isfinite(sample.volume).all()
    assert set(sample.points) == {species.name for species in SPECIES}
    for points in sample.points.values():
        assert points.dtype == np.float64
        assert (points >= 0).all()
        assert (points < np.array(SHAPE[::-1]) * VOXEL).all()  # x, y, z in Å


def test_points_lie_on_dark_density(sample: Phantom) -> None:
    spread = sample.volume.std()
    for species in SPECIES:
        inside = sphere_means(sample, species.name, species.radius)
        assert len(inside) >= species.at_least
        assert (inside < -0.15 * spread).mean() > 0.9, species.name
    assert (sphere_means(sample, "gold-bead", 50) < -8 * spread).all()


def test_points_elsewhere_are_not_dark(sample: Phantom) -> None:
    rng = np.random.default_rng(0)
    anywhere = {"ribosome": rng.random((40, 3)) * np.array(SHAPE[::-1]) * VOXEL}
    moved = Phantom(sample.volume, anywhere, sample.membrane, VOXEL)
    assert np.median(sphere_means(moved, "ribosome", 125)) > -0.15 * sample.volume.std()


def test_particles_do_not_overlap(sample: Phantom) -> None:
    balls = [(at, species.radius) for species in SPECIES for at in sample.points[species.name]]
    for i, (a, a_radius) in enumerate(balls):
        for b, b_radius in balls[:i]:
            assert np.linalg.norm(a - b) >= a_radius + b_radius


def test_the_membrane_is_a_dark_wall_around_something(sample: Phantom) -> None:
    clean = phantom(SHAPE, VOXEL, seed=3, noise=0)
    middle = sample.membrane[SHAPE[0] // 2]
    assert 100 < middle.sum() < 0.1 * middle.size
    wall = clean.membrane.astype(bool)
    assert clean.volume[wall].mean() < -0.1
    rows, columns = np.nonzero(middle)
    assert middle[round(rows.mean()), round(columns.mean())] == 0


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_missing_wedge_is_empty(noise: float) -> None:
    volume = phantom(SHAPE, VOXEL, seed=5, noise=noise).volume
    power = (np.abs(np.fft.rfftn(volume.astype(np.float64), axes=(0, 2))) ** 2).sum(axis=1)
    kz, kx = np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[2])[None, :]
    edge = 1 / SHAPE[0] / np.cos(np.radians(MAX_TILT_DEG))  # a tilt's plane is as thick as 1/depth
    wedge = np.abs(kz) > np.tan(np.radians(MAX_TILT_DEG)) * kx + edge
    assert 0.2 < wedge.mean() < 0.5
    assert power[wedge].sum() < 1e-8 * power.sum()
    seen = (np.abs(kz) < np.tan(np.radians(MAX_TILT_DEG)) * kx) & (kx < 0.1)
    assert power[seen].mean() > 1e6 * power[wedge].mean()


def test_no_seams_between_the_slabs_it_is_made_in() -> None:
    noise = phantom((32, 96, 64), VOXEL, seed=8).volume - phantom((32, 96, 64), VOXEL, seed=8, noise=0).volume
    steps = np.abs(np.diff(noise, axis=1)).mean(axis=(0, 2))
    assert steps.max() < 1.25 * np.median(steps)


def test_a_seed_is_a_tomogram(sample: Phantom) -> None:
    again, other = phantom(SHAPE, VOXEL, seed=3), phantom(SHAPE, VOXEL, seed=4)
    assert np.array_equal(again.volume, sample.volume)
    assert not np.array_equal(other.volume, sample.volume)
    assert not np.array_equal(other.points["gold-bead"], sample.points["gold-bead"])


def test_odd_and_small_sizes_work_and_smaller_ones_are_refused() -> None:
    assert phantom((32, 33, 65), VOXEL).volume.shape == (32, 33, 65)
    with pytest.raises(ValueError, match="at least 32"):
        phantom((31, 200, 200))
