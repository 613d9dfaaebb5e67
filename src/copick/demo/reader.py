"""Reading one tomogram against the clock, here or in a process of its own.

`python -m copick.demo.reader` takes a JSON request on standard input and prints a JSON answer: what a worker
that is started later finds in the cache that another process filled.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import copick
from copick.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from copick.models import CopickRoot, CopickTomogram

PATCH = 96

Cache = bool | dict[str, Any] | None
"""As `copick.from_file` takes it: `None` for the config's own, `False` for none, a dict for that one."""


@dataclass(frozen=True)
class Address:
    """Which tomogram."""

    run: str
    voxel_size: float
    tomo_type: str

    def __str__(self) -> str:
        return f"{self.run}, {self.tomo_type} at {self.voxel_size:g} Å"


def find(root: CopickRoot, address: Address) -> CopickTomogram:
    """The tomogram at an address. Raises NotFoundError."""
    run = root.get_run(address.run)
    spacing = run.get_voxel_spacing(address.voxel_size) if run is not None else None
    tomogram = spacing.get_tomogram(address.tomo_type) if spacing is not None else None
    if tomogram is None:
        raise NotFoundError(f"there is no tomogram {address}")
    return tomogram


def timed_read(tomogram: CopickTomogram) -> tuple[npt.NDArray[Any], float]:
    """The whole full-resolution volume, (z, y, x), and the seconds it took."""
    began = time.perf_counter()
    data = tomogram.numpy()
    return data, time.perf_counter() - began


def timed_patches(tomogram: CopickTomogram, n: int) -> float:
    """Median milliseconds for one of `n` cubic patches of at most 96 voxels at random places."""
    array = tomogram.array("0")
    return median_ms(array.shape, n, lambda start, size: array.patches([start], size))


def median_ms(
    shape: tuple[int, ...], n: int, read: Callable[[tuple[int, ...], tuple[int, ...]], object]
) -> float:
    """Median milliseconds of `n` calls of `read` with a patch's corner and size, the same for all readers."""
    size = tuple(min(PATCH, extent) for extent in shape)
    rng = np.random.default_rng(0)
    took = []
    for _ in range(n):
        start = tuple(
            int(rng.integers(0, extent - patch + 1)) for extent, patch in zip(shape, size, strict=True)
        )
        began = time.perf_counter()
        read(start, size)
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


def checksum(data: npt.NDArray[Any]) -> str:
    """What two arrays share if and only if (for all practical purposes) shape, type and every byte agree."""
    crc = zlib.crc32(np.ascontiguousarray(data).reshape(-1).view(np.uint8))
    return f"{data.dtype.str} {data.shape} {crc:08x}"


def request(config: str, address: Address, cache: Cache, patches: int) -> str:
    """The JSON that `main` takes."""
    return json.dumps({"config": config, "address": asdict(address), "cache": cache, "patches": patches})


def main() -> None:
    """Read as told on standard input; print seconds, milliseconds per patch and the checksum as JSON."""
    told = json.load(sys.stdin)
    tomogram = find(copick.from_file(told["config"], cache=told["cache"]), Address(**told["address"]))
    data, seconds = timed_read(tomogram)
    patch_ms = timed_patches(tomogram, told["patches"])
    json.dump({"seconds": seconds, "patch_ms": patch_ms, "checksum": checksum(data)}, sys.stdout)


if __name__ == "__main__":
    main()
