"""The sample project: phantoms written through copick, as an archive, a work folder and a config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import copick
from copick.demo.phantom import SPECIES, Phantom, phantom

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from copick.models import CopickRoot, CopickRun

VOXEL_SIZE = 10.0
TOOL = "template-matching"
USER = "alice"
CACHE_BYTES = 4 * 1024**3

_COLORS = {
    "ribosome": (0, 190, 255, 255),
    "proteasome": (255, 90, 60, 255),
    "apoferritin": (90, 220, 90, 255),
    "gold-bead": (255, 205, 40, 255),
}
OBJECTS: list[dict[str, Any]] = [
    {
        "name": species.name,
        "is_particle": True,
        "label": at,
        "color": _COLORS[species.name],
        "radius": species.radius,
    }
    for at, species in enumerate(SPECIES, start=1)
] + [{"name": "membrane", "is_particle": False, "label": len(SPECIES) + 1, "color": (190, 120, 255, 255)}]


@dataclass(frozen=True)
class RunPlan:
    """A run to make: its name, the shape of its tomogram (z, y, x), and its phantom's seed."""

    name: str
    shape: tuple[int, int, int]
    seed: int

    @property
    def voxels(self) -> int:
        return int(np.prod(self.shape))


FULL_SIZE = (
    RunPlan("TS_001", (184, 630, 630), 1),
    RunPlan("TS_002", (64, 200, 200), 2),
    RunPlan("TS_003", (64, 200, 200), 3),
)
SMALL_SIZE = (
    RunPlan("TS_001", (48, 140, 160), 1),
    RunPlan("TS_002", (36, 64, 80), 2),
    RunPlan("TS_003", (36, 64, 80), 3),
)


@dataclass(frozen=True)
class SampleProject:
    """Where the parts of a sample project are."""

    folder: Path

    @property
    def archive(self) -> Path:
        """Tomograms, tool picks and membranes; to be served read-only."""
        return self.folder / "archive"

    @property
    def work(self) -> Path:
        """What people add."""
        return self.folder / "work"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def write_config(self, archive_url: str, name: str = "project.json") -> Path:
        """Write a config of three layers: a cache over the archive at `archive_url`, and the work folder."""
        config = {
            "config_type": "multilayer",
            "name": "copick demo",
            "description": "Phantom tomograms in a remote archive, annotated on this machine.",
            "pickable_objects": OBJECTS,
            "layers": ["cache", "work", "archive"],
            "default_write_layer": "work",
            "layer_configs": {
                "work": {"config_type": "filesystem", "root": _local(self.work), "priority": 50},
                "archive": {
                    "config_type": "filesystem",
                    "root": archive_url,
                    "read_only": True,
                    "priority": 20,
                },
                "cache": {
                    "config_type": "cache",
                    "root": str(self.cache),
                    "max_size_bytes": CACHE_BYTES,
                    "parent_layer": "archive",
                },
            },
        }
        path = self.folder / name
        path.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
        return path

    def write_local_config(self) -> Path:
        """Write a config that needs no server: the archive is read where it lies."""
        return self.write_config(_local(self.archive), "local.json")


def total_voxels(plans: Sequence[RunPlan]) -> int:
    """What `advance` adds up to in `build`."""
    return sum(plan.voxels for plan in plans)


def build(folder: Path, plans: Sequence[RunPlan], advance: Callable[[str, float], None]) -> SampleProject:
    """Make the sample project in an empty folder.

    Args:
        folder: An existing folder.
        plans: What to make. The first run gets a denoised tomogram and a person's picks, too.
        advance: Called with what comes next and the voxels finished since the last call.

    Raises:
        CopickError: The folder cannot be written.
    """
    project = SampleProject(folder)
    project.archive.mkdir()
    project.work.mkdir()
    archive, work = _open_folder(project.archive), _open_folder(project.work)
    for plan in plans:
        advance(f"{plan.name}: imaging", 0)
        sample = phantom(plan.shape, VOXEL_SIZE, plan.seed)
        advance(f"{plan.name}: writing", plan.voxels / 2)
        run = archive.new_run(plan.name)
        _write_tomogram(run, sample)
        _write_tool_results(run, sample, plan.seed)
        if plan is plans[0]:
            _write_denoised(run, sample)
            _write_user_picks(work.new_run(plan.name), sample)
        advance(f"{plan.name}: done", plan.voxels / 2)
    return project


def _local(folder: Path) -> str:
    return "local://" + folder.resolve().as_posix()


def _open_folder(folder: Path) -> CopickRoot:
    config = {"config_type": "filesystem", "root": _local(folder), "pickable_objects": OBJECTS}
    return copick.from_string(json.dumps(config), cache=False)


def _write_tomogram(run: CopickRun, sample: Phantom) -> None:
    run.new_voxel_spacing(VOXEL_SIZE).new_tomogram("wbp").from_numpy(sample.volume)


def _write_denoised(run: CopickRun, sample: Phantom) -> None:
    """A smoothed copy at half the resolution."""
    run.new_voxel_spacing(2 * VOXEL_SIZE).new_tomogram("denoised").from_numpy(
        denoised(sample.volume), levels=1
    )


def _write_tool_results(run: CopickRun, sample: Phantom, seed: int) -> None:
    """What a program found: every particle within a voxel of where it is, and the membrane."""
    rng = np.random.default_rng([seed, 7])
    for name, points in sample.points.items():
        found = points + rng.normal(0, 0.3 * VOXEL_SIZE, points.shape)
        run.new_picks(name, session_id="0", user_id=TOOL).from_numpy(found)
    segmentation = run.new_segmentation(
        voxel_size=VOXEL_SIZE, name="membrane", session_id="0", user_id=TOOL, is_multilabel=False
    )
    segmentation.from_numpy(sample.membrane)


def _write_user_picks(run: CopickRun, sample: Phantom) -> None:
    """A person's ribosomes: centred by hand, every fifth thrown out."""
    points = sample.points["ribosome"]
    sure = np.arange(len(points)) % 5 != 4
    run.new_picks("ribosome", session_id="1", user_id=USER).from_numpy(points[sure])


def denoised(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Means of 2 × 2 × 2 voxels (an odd last plane is left out), smoothed once along each axis."""
    z, y, x = (size // 2 * 2 for size in volume.shape)
    half = volume[0:z:2, :y, :x] + volume[1:z:2, :y, :x]
    half = half[:, 0::2] + half[:, 1::2]
    half = half[:, :, 0::2] + half[:, :, 1::2]
    half /= 8
    for axis in range(3):
        padded = np.pad(half, [(1, 1) if at == axis else (0, 0) for at in range(3)], mode="edge")
        moved = np.moveaxis(padded, axis, 0)
        half = np.moveaxis((moved[:-2] + moved[2:]) / 4 + moved[1:-1] / 2, 0, axis)
    return np.ascontiguousarray(half, np.float32)
