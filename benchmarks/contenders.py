"""Who reads patches. Each is set up on one volume, reads boxes, and is closed.

The first box of each is compared with the truth. A peer that is not installed, does not work with the installed zarr or
reads something else is reported with the reason; it is never left out silently.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchmarks.workloads import LEVEL, Box, Volume, open_tomogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

KEPT = 32
"""Results kept alive: the last so many (a loader that prefetches), or collected and dropped together (one that makes batches)."""


@dataclass(frozen=True)
class Place:
    """One volume in RAM, encoded on disk, and where its cache is."""

    volume: Volume
    data: npt.NDArray[np.float32]
    root: Path
    cache: Path

    @property
    def array_path(self) -> str:
        """Folder of the encoded zarr array."""
        return str(self.root / self.volume.key / LEVEL)

    @property
    def tomogram(self) -> Any:
        return open_tomogram(f"local://{self.root}", self.cache, self.volume.tomo_type)


def native_array(place: Place, folder: Path) -> Any:
    """The volume in the native core alone, divided as the cache divides it: for what no public call offers."""
    from copick import _cachecore

    folder.mkdir(parents=True, exist_ok=True)
    data, chunks = place.data, place.tomogram.array(LEVEL).chunks
    array = _cachecore.Array(
        _cachecore.Cache(), 1, str(folder), data.shape, tuple(chunks), data.dtype, bytes(data.itemsize)
    )
    error, _ = array.insert_box(data, (0,) * data.ndim)
    if error:
        raise OSError(error, "the native core could not write")
    array.read(())
    return array


class Contender(ABC):
    """A way to read patches."""

    name: ClassVar[str]
    peer: ClassVar[bool] = False
    """May be missing."""
    keeps: ClassVar[bool] = False
    """Keeps what it read, so that it must have read everything once to be warm."""

    @abstractmethod
    def setup(self, place: Place, patch: int) -> None: ...

    @abstractmethod
    def read(self, box: Box) -> Any: ...

    def close(self) -> None:
        """Let go of what `setup` took."""
        return


class NumpyFresh(Contender):
    name = "numpy copy"

    def setup(self, place: Place, patch: int) -> None:
        self._data = place.data

    def read(self, box: Box) -> Any:
        return self._data[box].copy()


class NumpyReused(Contender):
    name = "numpy copyto"

    def setup(self, place: Place, patch: int) -> None:
        self._data, self._out = place.data, np.zeros((patch,) * 3, np.float32)

    def read(self, box: Box) -> Any:
        np.copyto(self._out, self._data[box])
        return self._out


class NumpyKept(NumpyFresh):
    name = f"numpy copy, {KEPT} kept"

    def setup(self, place: Place, patch: int) -> None:
        super().setup(place, patch)
        self._kept: deque[Any] = deque(maxlen=KEPT)

    def read(self, box: Box) -> Any:
        self._kept.append(super().read(box))
        return self._kept[-1]

    def close(self) -> None:
        self._kept.clear()


class Collected(Contender):
    """Results are kept until there are KEPT, and then dropped together."""

    def setup(self, place: Place, patch: int) -> None:
        super().setup(place, patch)
        self._batch: list[Any] = []

    def read(self, box: Box) -> Any:
        if len(self._batch) == KEPT:
            self._batch.clear()
        self._batch.append(super().read(box))
        return self._batch[-1]

    def close(self) -> None:
        self._batch.clear()


class NumpyCollected(Collected, NumpyFresh):
    name = f"numpy copy, {KEPT} at a time"


class CopickFresh(Contender):
    name = "copick numpy()"
    keeps = True

    def setup(self, place: Place, patch: int) -> None:
        self._tomogram = place.tomogram

    def read(self, box: Box) -> Any:
        z, y, x = box
        return self._tomogram.numpy(z=z, y=y, x=x)


class CopickReused(CopickFresh):
    name = "copick numpy(out=)"
    keeps = False  # the cache is that of the one above

    def setup(self, place: Place, patch: int) -> None:
        super().setup(place, patch)
        self._out = np.zeros((patch,) * 3, np.float32)

    def read(self, box: Box) -> Any:
        z, y, x = box
        return self._tomogram.numpy(z=z, y=y, x=x, out=self._out)


class CopickKept(CopickFresh):
    name = f"copick numpy(), {KEPT} kept"
    keeps = False  # the cache is that of the one above

    def setup(self, place: Place, patch: int) -> None:
        super().setup(place, patch)
        self._kept: deque[Any] = deque(maxlen=KEPT)

    def read(self, box: Box) -> Any:
        self._kept.append(super().read(box))
        return self._kept[-1]

    def close(self) -> None:
        self._kept.clear()


class CopickCollected(Collected, CopickFresh):
    name = f"copick numpy(), {KEPT} at a time"
    keeps = False  # the cache is that of the one above


class CopickZarr(Contender):
    name = "zarr.open(tomogram.zarr())"
    keeps = True

    def setup(self, place: Place, patch: int) -> None:
        import zarr

        self._array = zarr.open(place.tomogram.zarr(), mode="r")[LEVEL]

    def read(self, box: Box) -> Any:
        return self._array[box]


class Zarr(Contender):
    """zarr-python on the encoded original."""

    name = "zarr-python"

    def setup(self, place: Place, patch: int) -> None:
        import zarr

        self._array = zarr.open_array(place.array_path, mode="r")

    def read(self, box: Box) -> Any:
        return self._array[box]


class ZarrCacheStore(Zarr):
    """zarr-python on the encoded original through its own cache of encoded chunks in RAM."""

    name = "zarr CacheStore"
    peer = keeps = True

    def setup(self, place: Place, patch: int) -> None:
        import zarr
        from zarr.experimental.cache_store import CacheStore
        from zarr.storage import LocalStore, MemoryStore

        store = CacheStore(LocalStore(place.array_path, read_only=True), cache_store=MemoryStore())
        self._array = zarr.open_array(store, mode="r")


class Zarrs(Zarr):
    """zarr-python with the codec pipeline of the `zarrs` package."""

    name = "zarr-python with zarrs"
    peer = True

    def setup(self, place: Place, patch: int) -> None:
        import zarr
        import zarrs  # noqa: F401 (tells if it is installed)

        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            super().setup(place, patch)
        pipeline = type(self._array.async_array.codec_pipeline).__name__
        if pipeline != "ZarrsCodecPipeline":
            raise RuntimeError(f"zarr reads with {pipeline}")


class Tensorstore(Contender):
    """tensorstore with a pool of decoded chunks that holds the whole volume."""

    name = "tensorstore, warm pool"
    peer = keeps = True

    def setup(self, place: Place, patch: int) -> None:
        import tensorstore

        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": place.array_path + "/"},
            "context": {"cache_pool": {"total_bytes_limit": 2 << 30}},
            "recheck_cached_data": False,
            "recheck_cached_metadata": False,
        }
        self._array = tensorstore.open(spec, read=True, open=True).result()

    def read(self, box: Box) -> Any:
        return self._array[box].read().result()

    def close(self) -> None:
        del self._array


@contextlib.contextmanager
def set_up(
    kinds: Sequence[type[Contender]], place: Place, patch: int
) -> Iterator[tuple[dict[str, Contender], dict[str, str]]]:
    """Those that work, by name, each warm; and why the others do not."""
    ready: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    middle = tuple(slice((size - patch) // 2, (size - patch) // 2 + patch) for size in place.volume.shape)
    try:
        for kind in kinds:
            contender = kind()
            try:
                contender.setup(place, patch)
                if not np.array_equal(contender.read(middle), place.data[middle]):
                    raise RuntimeError("reads other data than was written")
                if kind.keeps:
                    contender.read((slice(None),) * 3)
            except Exception as error:
                if not kind.peer:
                    raise
                missing[kind.name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            ready[kind.name] = contender
        yield ready, missing
    finally:
        for contender in ready.values():
            contender.close()
