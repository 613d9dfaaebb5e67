"""Any sequence of reads, damage, new processes, budgets and new versions: the bytes are right, the counts add up."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from zarr.storage import LocalStore

from copick.cache.manager import CacheManager
from copick.cache.store import CachingZarrStore
from support.volumes import write_array

SHAPE, CHUNKS = (11, 7, 9), (4, 4, 4)
CHUNK_FILE = 4 * 4 * 4 * 4 + 4
LIMITS = [0, 3 * CHUNK_FILE, 9 * CHUNK_FILE]

bounds = st.none() | st.integers(-13, 13)
regions = st.tuples(
    *[st.builds(slice, bounds, bounds, st.none() | st.integers(-3, 3).filter(bool)) for _ in SHAPE]
)
choices = st.integers(0, 2**30)


class Readers(RuleBasedStateMachine):
    """Up to three readers of one volume, each with a manager of its own, as three processes have."""

    disk_format = "raw"
    zarr_format = 2

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.version = 0
        self.data = np.empty(0)
        self.readers: list[CachingZarrStore] = []
        self.limit = 0
        self.write_source(holes=True)
        self.open_reader(0)

    def teardown(self) -> None:
        for store in self.readers:
            store.cache_manager.close()
        shutil.rmtree(self.folder)

    def write_source(self, holes: bool) -> None:
        self.version += 1
        self.data = np.random.default_rng(self.version).standard_normal(SHAPE, np.float32)
        if holes:
            self.data[:4] = 0
        shards: dict[str, Any] = {"shards": (8, 8, 8)} if self.zarr_format == 3 else {}
        write_array(self.folder / "source", self.data, chunks=CHUNKS, zarr_format=self.zarr_format, **shards)

    def open_reader(self, limit: int) -> None:
        manager = CacheManager(
            self.folder / "cache",
            max_size_bytes=limit,
            disk_format=self.disk_format,  # type: ignore[arg-type]
            fetch_threads=2,
            decoded_bytes=2 * CHUNK_FILE,
        )
        source = self.folder / "source"
        self.readers.append(
            CachingZarrStore(
                self.folder / "cache" / "x.zarr", lambda: LocalStore(source, read_only=True), manager
            )
        )

    def reader(self, choice: int) -> CachingZarrStore:
        return self.readers[choice % len(self.readers)]

    def files(self) -> list[Path]:
        return sorted(
            path
            for path in (self.folder / "cache").rglob("*")
            if path.is_file() and path.name not in ("locks",)
        )

    def chunk_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files() if path.name.isdigit())

    # Readers

    @rule(choice=choices, region=regions)
    def read(self, choice: int, region: tuple[slice, ...]) -> None:
        store = self.reader(choice)
        before = self.chunk_bytes()
        np.testing.assert_array_equal(store.open_array("0").read(region), self.data[region])
        if limit := store.cache_manager.max_size_bytes:
            assert self.chunk_bytes() <= max(limit + CHUNK_FILE, before)

    @rule(choice=choices, corners=st.lists(st.tuples(*[st.integers(0, n - 3) for n in SHAPE]), max_size=4))
    def read_patches(self, choice: int, corners: list[tuple[int, int, int]]) -> None:
        starts = np.array(corners, np.int64).reshape(-1, 3)
        got = self.reader(choice).open_array("0").patches(starts, (3, 3, 3))
        for (z, y, x), patch in zip(corners, got, strict=True):
            np.testing.assert_array_equal(patch, self.data[z : z + 3, y : y + 3, x : x + 3])

    @rule(choice=choices)
    def read_through_zarr(self, choice: int) -> None:
        array: Any = zarr.open_array(self.reader(choice), path="0", mode="r")
        np.testing.assert_array_equal(array[...], self.data)

    @rule(choice=choices, limit=st.sampled_from(LIMITS))
    def reopen(self, choice: int, limit: int) -> None:
        store = self.readers.pop(choice % len(self.readers))
        store.cache_manager.close()
        self.open_reader(limit)

    @precondition(lambda self: len(self.readers) < 3)
    @rule(limit=st.sampled_from(LIMITS))
    def open_another(self, limit: int) -> None:
        self.open_reader(limit)

    @rule(choice=choices)
    def upkeep(self, choice: int) -> None:
        manager = self.reader(choice).cache_manager
        manager.journal.flush()
        manager.budget.heal()

    # What happens to the folder

    @rule(choice=choices, damage=st.sampled_from(["flip", "truncate", "empty", "delete", "grow"]), at=choices)
    def damage(self, choice: int, damage: str, at: int) -> None:
        """Put a damaged file in place of a whole one. (A file that may be mapped is never changed itself.)"""
        files = self.files()
        if not files:
            return
        file = files[choice % len(files)]
        content = file.read_bytes()
        file.unlink()
        if damage == "flip" and content:
            at %= len(content)
            content = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        elif damage == "truncate":
            content = content[: at % (len(content) + 1)]
        elif damage == "empty":
            content = b""
        elif damage == "grow":
            content += b"more"
        if damage != "delete":
            file.write_bytes(content)

    @rule()
    def delete_hints(self) -> None:
        shutil.rmtree(self.folder / "cache" / ".cache_metadata")
        (self.folder / "cache" / ".cache_metadata").mkdir(mode=0o700)
        for store in self.readers:  # a lock file that is deleted divides those that hold it from the others
            store.cache_manager.close()
        self.readers.clear()
        self.open_reader(0)

    # New versions

    @rule(choice=choices)
    def discard(self, choice: int) -> None:
        store = self.reader(choice)
        store.cache_manager.discard(store.local_path)

    @rule(choice=choices, holes=st.booleans())
    def rewrite_and_refresh(self, choice: int, holes: bool) -> None:
        """The source is written anew; whoever did it tells its own cache. Others see it when they refresh, or come anew."""
        self.write_source(holes)
        first = self.readers.pop(choice % len(self.readers))
        first.cache_manager.discard(first.local_path)
        for store in self.readers:
            store.cache_manager.discard(store.local_path)
        self.readers.append(first)

    @invariant()
    def counts_add_up(self) -> None:
        for store in self.readers:
            assert store.cache_manager.check()


class Encoded(Readers):
    disk_format = "encoded"


class Sharded(Readers):
    zarr_format = 3


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Readers, Encoded, Sharded])
def test_readers_of_one_folder(machine: type[Readers]) -> None:
    examples = int(os.environ.get("COPICK_TEST_EXAMPLES", "12"))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
