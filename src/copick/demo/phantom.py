"""A believable cryo-tomogram out of nothing: particles, vesicles and gold in ice, seen in a tilt series.

What the picture owes to physics: dense matter is dark; particles wear the bright fringes of a defocused
microscope; and between the last tilts there is nothing, so everything is stretched along z and gold throws
streaks. The tilt axis is y.

The contrast transfer function is applied to each template (and to the membrane's profile, which is a plane
as far as it can tell). That leaves one pass over the volume: a Fourier transform over z and x alone, slab by
slab along y.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Volume = npt.NDArray[np.float32]

MAX_TILT_DEG = 60.0
TILT_STEP_DEG = 3.0
DEFOCUS_A = 35_000.0
WAVELENGTH_A = 0.0197  # 300 kV
AMPLITUDE_CONTRAST = 0.3
DAMPING_A2 = 500.0
SIGNAL = 3.0
"""Amplitude of a protein against noise of standard deviation 1, before both are filtered."""

_SLAB = 32  # rows of y per Fourier transform


@dataclass(frozen=True)
class Species:
    """One kind of particle.

    Attributes:
        name: The pickable object's name.
        radius: Å.
        density: Relative to ribosomal protein and RNA, which is 1.
        per_cubic_micron: How crowded the ice is.
        at_least: How many there are in however small a volume.
        orientations: Templates made; a particle takes one of them.
        shape: `(axis coordinates in Å, rotation)` → mass density on the grid these span, z, y, x.
    """

    name: str
    radius: float
    density: float
    per_cubic_micron: float
    at_least: int
    orientations: int
    shape: Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], Volume]


@dataclass(frozen=True)
class Phantom:
    """A tomogram and the truth about it.

    Attributes:
        volume: (z, y, x) float32; noise of standard deviation about 1 around 0, dense is negative (dark).
        points: Object name → (n, 3) float64 centres in Å, columns x, y, z: voxel index times voxel size.
        membrane: (z, y, x) uint8, 1 in a membrane.
        voxel_size: Å.
    """

    volume: Volume
    points: dict[str, npt.NDArray[np.float64]]
    membrane: npt.NDArray[np.uint8]
    voxel_size: float


def phantom(
    shape: tuple[int, int, int] = (184, 630, 630), voxel_size: float = 10.0, seed: int = 0, noise: float = 1.0
) -> Phantom:
    """The same tomogram for the same arguments, on any machine and any number of cores.

    Args:
        shape: z, y, x in voxels.
        voxel_size: Å.
        seed: Of everything: where things are, and the noise. Another `noise` keeps the things where they are.
        noise: Standard deviation of the noise before filtering; 0 gives the projections' signal alone.

    Raises:
        ValueError: An axis is shorter than 32 voxels, too short for a particle.
    """
    if len(shape) != 3 or min(shape) < 32:
        raise ValueError(f"a phantom needs three axes of at least 32 voxels, not {shape}")
    rng = np.random.default_rng(seed)
    density = np.zeros(shape, np.float32)
    membrane = np.zeros(shape, np.uint8)
    vesicles = _vesicles(rng, shape, voxel_size)
    for vesicle in vesicles:
        vesicle.draw(density, membrane, voxel_size)
    centres = _place(rng, shape, voxel_size, vesicles)
    for species in SPECIES:
        _draw(rng, density, species, centres[species.name], voxel_size)
    _observe(density, seed, noise)
    points = {name: np.asarray(places[:, ::-1] * voxel_size, np.float64) for name, places in centres.items()}
    return Phantom(density, points, membrane, voxel_size)


# Particles. A shape is a sum of Gaussian lumps, each separable, so that a template costs one matrix product.


def _lumps(
    axis: npt.NDArray[np.float64],
    rotation: npt.NDArray[np.float64],
    centres: npt.NDArray[np.float64],
    sigma: float,
) -> Volume:
    """Saturating sum of Gaussians of width `sigma` at `centres` (n, 3; z, y, x), rotated. All in Å."""
    z, y, x = (np.exp(-(((axis - at[:, None]) / sigma) ** 2) / 2) for at in (centres @ rotation.T).T)
    plane = (z[:, :, None] * y[:, None, :]).reshape(len(centres), -1)
    total = (plane.T @ x).reshape(len(axis), len(axis), len(axis))
    return np.asarray(1 - np.exp(-total), np.float32)


def _ribosome(axis: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64]) -> Volume:
    """Two lumpy subunits of unequal size with a cleft between them."""
    rng = np.random.default_rng(80)  # the same molecule in every phantom
    large = _ball(rng, 60) * [72, 92, 92] + [42, 0, 0]
    small = _ball(rng, 34) * [40, 62, 92] + [-62, 8, 0]
    stalk = np.linspace([40, 88, 30], [60, 125, 45], 4)
    return _lumps(axis, rotation, np.concatenate([large, small, stalk]), 19.0)


def _proteasome(axis: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64]) -> Volume:
    """Four stacked rings of seven with a channel through them: a barrel 150 Å long."""
    angle = 2 * np.pi * np.arange(7) / 7
    rings = [
        np.stack([np.full(7, z), radius * np.cos(angle + turn), radius * np.sin(angle + turn)], axis=1)
        for z, radius, turn in ((-57, 36, 0.0), (-19, 42, 0.45), (19, 42, 0.45), (57, 36, 0.0))
    ]
    return _lumps(axis, rotation, np.concatenate(rings), 15.0)


def _apoferritin(axis: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64]) -> Volume:
    """A hollow ball of 24 subunits, 120 Å across."""
    golden = np.pi * (3 - 5**0.5)
    height = 1 - 2 * (np.arange(24) + 0.5) / 24
    ring = np.sqrt(1 - height**2)
    turn = golden * np.arange(24)
    centres = 50 * np.stack([height, ring * np.sin(turn), ring * np.cos(turn)], axis=1)
    return _lumps(axis, rotation, centres, 11.0)


def _gold(axis: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64]) -> Volume:
    """A bead 100 Å across."""
    square = axis**2
    distance = np.sqrt(square[:, None, None] + square[None, :, None] + square[None, None, :])
    return np.asarray(np.clip((55 - distance) / 10, 0, 1), np.float32)


SPECIES = (
    Species("gold-bead", 50.0, 7.0, 130.0, 2, 1, _gold),
    Species("ribosome", 125.0, 1.0, 2400.0, 10, 24, _ribosome),
    Species("proteasome", 85.0, 1.35, 1400.0, 7, 16, _proteasome),
    Species("apoferritin", 60.0, 1.7, 2000.0, 10, 6, _apoferritin),
)


def _ball(rng: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    """`n` points spread evenly in the unit ball, (n, 3)."""
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(direction * rng.random((n, 1)) ** (1 / 3))


def _rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A rotation matrix drawn evenly from all rotations."""
    w, x, y, z = (quaternion := rng.standard_normal(4)) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _transfer(frequency: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Contrast transfer at a spatial frequency (1/Å): faint where slow, positive to the first zero."""
    phase = np.pi * WAVELENGTH_A * DEFOCUS_A * frequency**2 + np.arcsin(AMPLITUDE_CONTRAST)
    return np.asarray(np.sin(phase) * np.exp(-(DAMPING_A2 * frequency**2)))


def _draw(
    rng: np.random.Generator,
    density: Volume,
    species: Species,
    centres: npt.NDArray[np.int64],
    voxel_size: float,
) -> None:
    """Add particles at voxel `centres` (n, 3; z, y, x) to `density`, clipped at its faces."""
    half = int(np.ceil((species.radius + 110) / voxel_size))  # room for the fringes
    axis = np.asarray((np.arange(2 * half) - half) * voxel_size, np.float64)
    k = np.fft.fftfreq(2 * half, voxel_size)
    squares = k**2
    frequency = np.sqrt(squares[:, None, None] + squares[None, :, None] + squares[None, None, : half + 1])
    transfer = (_transfer(frequency) * SIGNAL * species.density).astype(np.float32)
    templates: list[Volume] = []
    for at in range(len(centres)):
        if at < species.orientations:
            mass = species.shape(axis, _rotation(rng))
            drawn = np.fft.irfftn(np.fft.rfftn(mass) * transfer, s=mass.shape, axes=(0, 1, 2))
            templates.append(drawn.astype(np.float32, copy=False))
        template = templates[at % len(templates)]
        into, out_of = [], []
        for centre, size in zip(centres[at].tolist(), density.shape, strict=True):
            first, last = max(0, centre - half), min(size, centre + half)
            into.append(slice(first, last))
            out_of.append(slice(first - centre + half, last - centre + half))
        density[tuple(into)] += template[tuple(out_of)]


def _place(
    rng: np.random.Generator, shape: tuple[int, int, int], voxel_size: float, vesicles: list[_Vesicle]
) -> dict[str, npt.NDArray[np.int64]]:
    """Voxel centres (z, y, x) per species that touch neither each other nor a membrane nor a face."""
    volume = float(np.prod(np.array(shape) * voxel_size * 1e-4))  # µm³
    taken = np.empty((0, 4))
    centres: dict[str, npt.NDArray[np.int64]] = {}
    for species in SPECIES:
        wanted = max(species.at_least, round(species.per_cubic_micron * volume))
        margin = np.minimum(species.radius / voxel_size * 0.9, np.array(shape) / 3)
        found: list[npt.NDArray[np.float64]] = []
        for _ in range(60 * wanted):
            if len(found) == wanted:
                break
            at = np.round(margin + rng.random(3) * (np.array(shape) - 2 * margin))
            gap = np.linalg.norm(taken[:, :3] - at, axis=1) * voxel_size - taken[:, 3] - species.radius
            walls = np.array([float(vesicle.distance(at * voxel_size)) for vesicle in vesicles])
            if species.radius < 100:  # what is larger stays out of the vesicles
                walls = np.abs(walls)
            if (gap < 10).any() or (walls < species.radius + 60).any():
                continue
            found.append(at)
            taken = np.vstack([taken, [*at, species.radius]])
        centres[species.name] = np.array(found, np.int64).reshape(-1, 3)
    return centres


# Membranes.


@dataclass(frozen=True)
class _Vesicle:
    """A dented ball of lipid bilayer. Lengths in Å, vectors z, y, x."""

    centre: npt.NDArray[np.float64]
    radius: float
    dents: npt.NDArray[
        np.float64
    ]  # (3, 3): stretched along the first, squeezed along the second, an egg along the third

    HALF_WIDTH = 25.0  # half of the bilayer's thickness

    def distance(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Distance from points (..., 3) to mid-bilayer, positive outside (exact where it is round)."""
        offset = points - self.centre
        length = np.linalg.norm(offset, axis=-1)
        turn = offset @ self.dents.T / np.maximum(length, 1)[..., None]
        return np.asarray(
            length - self.radius * (1 + turn[..., 0] ** 2 - turn[..., 1] ** 2 + 0.3 * turn[..., 2])
        )

    def draw(self, density: Volume, membrane: npt.NDArray[np.uint8], voxel_size: float) -> None:
        """Add the bilayer to `density` and its mask to `membrane`."""
        step = 1.0
        reach = 200.0
        profile = _bilayer(np.arange(-2048.0, 2048.0), step) * SIGNAL * 0.9
        profile = profile[2048 - int(reach) : 2049 + int(reach)].astype(np.float32)
        extent = (
            self.radius * (1.02 + (self.dents[0] ** 2).sum() + 0.3 * np.linalg.norm(self.dents[2])) + reach
        )
        low = np.maximum(0, np.floor((self.centre - extent) / voxel_size)).astype(int)
        high = np.minimum(density.shape, np.ceil((self.centre + extent) / voxel_size)).astype(int)
        ys, xs = (np.arange(low[i], high[i]) * voxel_size for i in (1, 2))
        for z in range(low[0], high[0]):  # plane by plane: the points of a whole box would be gigabytes
            grid = np.stack(np.broadcast_arrays(z * voxel_size, ys[:, None], xs[None, :]), axis=-1)
            distance = self.distance(grid)
            near = np.abs(distance) < reach
            window = (z, slice(low[1], high[1]), slice(low[2], high[2]))
            density[window][near] += profile[np.round(distance[near] + reach).astype(np.intp)]
            membrane[window][np.abs(distance) <= self.HALF_WIDTH] = 1


def _bilayer(distance: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.float64]:
    """Two leaflets 34 Å apart with the lighter tails between them, as the microscope shows them."""
    heads = sum(np.exp(-(((distance - at) / 9.5) ** 2) / 2) for at in (-17.0, 17.0))
    tails = 0.25 * np.exp(-((distance / 10.0) ** 2) / 2)
    transfer = _transfer(np.fft.rfftfreq(len(distance), step))
    return np.asarray(np.fft.irfft(np.fft.rfft(heads - tails) * transfer, n=len(distance)))


def _vesicles(rng: np.random.Generator, shape: tuple[int, int, int], voxel_size: float) -> list[_Vesicle]:
    """One large vesicle, and two smaller ones where the field of view has room for them."""
    size = np.array(shape) * voxel_size
    wide = min(size[1], size[2])
    places = [((0.5, 0.60, 0.33), 0.16)]
    if wide >= 3000:
        places += [((0.55, 0.22, 0.74), 0.085), ((0.42, 0.83, 0.86), 0.058)]
    vesicles = []
    for place, radius in places:
        centre = (np.array(place) + rng.uniform(-0.03, 0.03, 3)) * size
        vesicles.append(_Vesicle(centre, radius * wide, rng.normal(0, 0.24, (3, 3))))
    return vesicles


# The microscope.


def _observe(density: Volume, seed: int, noise: float) -> None:
    """Turn density into a tomogram, in place: noise, inverted contrast, band limit, missing wedge."""
    depth, height, width = density.shape
    seen = _seen(depth, width)[:, None, :]
    n_slabs = -(-height // _SLAB)
    edges = np.linspace(0, height, n_slabs + 1).astype(int).tolist()
    inner, seams = (np.random.SeedSequence([seed, kind]).spawn(n_slabs + 1) for kind in (1, 2))

    def white(stream: np.random.SeedSequence, rows: int) -> Volume:
        return np.random.default_rng(stream).standard_normal((depth, rows, width), dtype=np.float32)

    def slab(at: int) -> None:
        rows = slice(edges[at], edges[at + 1])
        data = -density[:, rows]
        if noise:
            # Two rows at each edge are drawn by both neighbours from one stream, so that no seam shows.
            between = white(inner[at], rows.stop - rows.start - 2)
            ice = np.concatenate([white(seams[at], 2), between, white(seams[at + 1], 2)], axis=1)
            ice *= np.float32(noise / 6**0.5)
            data += ice[:, :-2]  # [1, 2, 1]: the band limit along y
            data += ice[:, 2:]
            ice *= 2
            data += ice[:, 1:-1]
        spectrum = np.fft.rfftn(data, axes=(0, 2))
        spectrum *= seen
        density[:, rows] = np.fft.irfftn(spectrum, s=(depth, width), axes=(0, 2))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(slab, range(n_slabs)))


def _seen(depth: int, width: int) -> Volume:
    """What passes at each frequency of (kz, kx), (depth, width // 2 + 1): 0 in the missing wedge.

    Each tilt measures a central plane as thick as the specimen allows (1/depth); together they leave out the
    directions steeper than the last tilt and, far from the origin, a little between neighbours.
    """
    kz = np.fft.fftfreq(depth)[:, None]
    kx = np.fft.rfftfreq(width)[None, :]
    weight = np.zeros((depth, width // 2 + 1))
    for tilt in np.radians(np.arange(-MAX_TILT_DEG, MAX_TILT_DEG + TILT_STEP_DEG / 2, TILT_STEP_DEG)):
        off_plane = np.abs(kz * np.cos(tilt) - kx * np.sin(tilt)) * depth
        weight += np.clip(1 - off_plane, 0, None)
    square = kz**2 + kx**2
    weight = np.clip(weight, 0, 1) * np.exp(-square / 0.3**2) * (1 - 0.9 * np.exp(-square / 0.008**2))
    weight[0, 0] = 0
    return weight.astype(np.float32)
