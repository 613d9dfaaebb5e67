"""What is read: volumes like those of the data portal, patches at random places, and how much of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from copick.models import CopickTomogram

RUN, SPACING, LEVEL = "bench", 10.0, "0"

Box: TypeAlias = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Scale:
    """How large everything is. Ratios are the same promise at any size; small sizes only show that all works."""

    name: str
    shape: tuple[int, int, int]
    chunks: tuple[int, ...]
    """Edges of the cubic chunks, a volume for each."""
    cold: tuple[int, ...]
    """Those of them that are read over HTTP."""
    patch: int
    batch: int
    rounds: int
    reads: int
    """Patches per contender and round."""
    seconds: float
    """A contender's turn ends after so long, so that slow peers do not take all the time; never before its third read."""
    cold_rounds: int
    latency_s: float
    workers: int
    worker_seconds: float
    entries: int
    """Chunks in the index of a large cache."""
    imports: int
    runs: int
    """Of the project that is listed."""
    listings: int


FULL = Scale(
    "full", (184, 630, 630), (64, 128, 256), (64, 256), 96, 32, 7, 30, 0.6, 3, 0.02, 4, 1.5, 1_000_000, 7, 1_000, 5
)  # fmt: skip
QUICK = Scale(
    "quick", (40, 72, 72), (16, 24, 32), (16, 32), 24, 4, 1, 3, 0.1, 1, 0.001, 2, 0.1, 2_000, 1, 20, 1
)


@dataclass(frozen=True)
class Volume:
    """A tomogram: noise in float32, compressed with blosc-lz4 in cubic chunks, as zarr v2."""

    shape: tuple[int, int, int]
    chunk: int
    seed: int = 1

    @property
    def tomo_type(self) -> str:
        return f"chunks{self.chunk}"

    @property
    def key(self) -> str:
        """Its path below a project's root."""
        return f"ExperimentRuns/{RUN}/VoxelSpacing{SPACING:.3f}/{self.tomo_type}.zarr"

    @property
    def chunk_count(self) -> int:
        return int(np.prod([-(-size // self.chunk) for size in self.shape]))

    def data(self) -> npt.NDArray[np.float32]:
        """The same for all chunkings. Lossless codecs save about a tenth of it, as of real tomograms."""
        return np.random.default_rng(self.seed).standard_normal(self.shape, np.float32)

    def write(self, root: Path, data: npt.NDArray[np.float32]) -> None:
        """Write it where a project in `root` has it."""
        import zarr
        from numcodecs import Blosc

        level = {"path": LEVEL, "coordinateTransformations": [{"type": "scale", "scale": [SPACING] * 3}]}
        axes = [{"name": name, "type": "space", "unit": "angstrom"} for name in "zyx"]
        multiscales = [{"version": "0.4", "axes": axes, "datasets": [level]}]
        group = zarr.open_group(
            root / self.key, mode="w", zarr_format=2, attributes={"multiscales": multiscales}
        )
        array = group.create_array(
            LEVEL,
            shape=self.shape,
            dtype=data.dtype,
            chunks=(self.chunk,) * 3,
            compressors=Blosc("lz4", 5, Blosc.SHUFFLE),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[:] = data


def volumes(scale: Scale) -> list[Volume]:
    return [Volume(scale.shape, chunk) for chunk in scale.chunks]


def corners(scale: Scale, n: int, seed: int) -> npt.NDArray[np.int64]:
    """Corners (n, 3) of patches at random places."""
    room = np.asarray(scale.shape) - scale.patch
    return np.random.default_rng((7, seed)).integers(0, room, (n, 3), endpoint=True)


def boxes(scale: Scale, n: int, seed: int) -> list[Box]:
    """The same patches as slices."""
    return list(_slices(corners(scale, n, seed), scale.patch))


def _slices(starts: npt.NDArray[np.int64], size: int) -> Iterator[Box]:
    for z, y, x in starts.tolist():
        yield slice(z, z + size), slice(y, y + size), slice(x, x + size)


def project(source: str) -> str:
    """The config of a project whose one layer is at `source`, a URL."""
    layer = {"config_type": "filesystem", "root": source, "read_only": True}
    config: dict[str, Any] = {
        "config_type": "multilayer",
        "name": "benchmarks",
        "pickable_objects": [],
        "layers": ["source"],
        "layer_configs": {"source": layer},
    }
    return json.dumps(config)


def open_tomogram(source: str, cache: Path | None, tomo_type: str) -> CopickTomogram:
    """A tomogram of the project at `source`, cached in the folder `cache` or not at all."""
    import copick

    options = False if cache is None else {"root": str(cache), "parent_layer": "*", "max_size_bytes": 0}
    root = copick.from_string(project(source), cache=options)
    tomogram = root.get_run(RUN).get_voxel_spacing(SPACING).get_tomogram(tomo_type)
    if tomogram is None:
        raise LookupError(f"no tomogram {tomo_type!r} at {source}")
    return tomogram
