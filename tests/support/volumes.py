"""Small volumes, their projects, and readers of them in other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numcodecs import Blosc
from zarr.storage import LocalStore

import copick
from copick.cache.manager import CacheManager
from copick.cache.store import CachingZarrStore

if TYPE_CHECKING:
    import numpy.typing as npt

    from copick.models import CopickRoot, CopickTomogram

CHUNK = (16, 16, 16)
CHUNK_FILE = 16**3 * 4 + 4
"""Bytes of a cached chunk of float32, with its checksum."""
TOMOGRAM = "ExperimentRuns/R1/VoxelSpacing10.000/wbp.zarr"


def noise(shape: tuple[int, ...] = (40, 40, 40), seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def write_array(group: Path, data: npt.NDArray[Any], path: str = "0", **options: Any) -> None:
    """A zarr array at `path` of a group; what the options do not say is as in copick 1.x."""
    zarr_format = options.pop("zarr_format", 2)
    if zarr_format == 2:
        options.setdefault("compressors", Blosc("lz4"))
        options.setdefault("chunk_key_encoding", {"name": "v2", "separator": "/"})
    options = {"chunks": CHUNK[: data.ndim], "fill_value": 0, **options}
    root = zarr.open_group(LocalStore(group), mode="a", zarr_format=zarr_format)
    root.create_array(path, shape=data.shape, dtype=data.dtype, overwrite=True, **options)[...] = data


def write_tomogram(project: Path, data: npt.NDArray[Any], **options: Any) -> Path:
    """A project of one tomogram; returns the tomogram's group."""
    write_array(project / TOMOGRAM, data, **options)
    return project / TOMOGRAM


def tomogram_of(root: CopickRoot) -> CopickTomogram:
    run = root.get_run("R1")
    assert run is not None
    spacing = run.get_voxel_spacing(10.0)
    assert spacing is not None
    tomogram = spacing.get_tomogram("wbp")
    assert tomogram is not None
    return tomogram


def config_of(root: str | Path, **fields: Any) -> dict[str, Any]:
    """The config of a project of one layer."""
    return {"config_type": "filesystem", "root": str(root), "user_id": "me", "pickable_objects": [], **fields}


def opened(
    root: str | Path, cache: Path, cache_fields: dict[str, Any] | None = None, **fields: Any
) -> CopickTomogram:
    """The tomogram of a project, read through a cache (of local places, too)."""
    choice = {"root": str(cache), "parent_layer": "*", **(cache_fields or {})}
    return tomogram_of(copick.from_string(json.dumps(config_of(root, **fields)), cache=choice))


def cached_store(
    cache: Path, group: Path, manager: CacheManager | None = None, **limits: Any
) -> CachingZarrStore:
    """A volume read through a cache of its own manager: what another process would do."""
    manager = CacheManager(cache, **limits) if manager is None else manager
    return CachingZarrStore(cache / "x.zarr", lambda: LocalStore(group, read_only=True), manager)


def chunk_files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file() and path.name.isdigit())


def chunk_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in chunk_files(cache))


def python(
    code: str, *arguments: object, timeout: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that finds these helpers."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, env=environment, check=False, **options,
    )  # fmt: skip
