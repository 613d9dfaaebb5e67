"""What may come into a full cache: how good the policies are, what an epoch is, and that the index does what a small model does."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from copick import _cachecore
from copick.cache.epochs import Epochs, SharedEpochs
from copick.cache.locks import RangeLocks
from copick.cache.manager import CacheManager
from support.volumes import CHUNK_FILE, cached_store, chunk_bytes, noise, python, write_array

if TYPE_CHECKING:
    from benchmarks import policies as replays

sys.path.insert(0, str(Path(__file__).parents[1]))  # where pytest is not started as a module
replays = pytest.importorskip("benchmarks.policies", reason="no benchmarks here")

FOREVER = 2**64 - 1


# How good the policies are


@cache
def traces() -> dict[str, replays.Trace]:
    return {trace.name: trace for trace in replays.traces(2)}


@cache
def hits(trace: str, share: float, policy: str, told: bool = False) -> float:
    """Hits per use of one policy of the cache, or of what it is compared with."""
    recorded = traces()[trace]
    chunks = int(recorded.distinct * share)
    if policy in ("exact_lru", "optimum"):
        return recorded.ratio(getattr(replays, policy)(recorded, chunks))
    return recorded.ratio(replays.replay(recorded, chunks, policy, told=told))


@pytest.mark.parametrize("share", [0.2, 0.4])
@pytest.mark.parametrize("trace", ["shuffle", "overlap", "picks", "switch", "browse", "scan"])
def test_lru_is_almost_exact_lru(trace: str, share: float) -> None:
    assert hits(trace, share, "lru") == pytest.approx(hits(trace, share, "exact_lru"), abs=0.02)


@pytest.mark.parametrize("told", [False, True])
def test_shuffled_epochs_hit_almost_as_often_as_is_possible(told: bool) -> None:
    assert hits("shuffle", 0.4, "optimum") == pytest.approx(0.4, abs=0.005)
    assert hits("shuffle", 0.4, "epoch", told) >= 0.36
    assert hits("shuffle", 0.4, "lru") < 0.11


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.4])
@pytest.mark.parametrize("trace", ["shuffle", "overlap", "picks", "switch"])
def test_training_hits_more_often_under_epoch_than_under_lru(trace: str, share: float, told: bool) -> None:
    assert hits(trace, share, "lru") < hits(trace, share, "epoch", told) <= hits(trace, share, "optimum")


def test_pinned_chunks_stay_and_others_do_not_come() -> None:
    assert hits("shuffle", 0.4, "pin") == pytest.approx(0.4, abs=0.005)
    assert hits("switch", 0.4, "pin") == 0
    assert hits("switch", 0.4, "epoch") > 0.15


@st.composite
def short_traces(draw: st.DrawFn) -> replays.Trace:
    uses = draw(st.lists(st.integers(0, 5), min_size=1, max_size=14))
    return replays.Trace("", "", [np.array(uses)], range(1), 1)


@given(short_traces(), st.integers(1, 4))
def test_the_optimum_is_what_trying_everything_finds(trace: replays.Trace, chunks: int) -> None:
    uses = trace.parts[0].tolist()

    @cache
    def best(at: int, held: frozenset[int]) -> int:
        if at == len(uses):
            return 0
        chunk, rest = uses[at], at + 1
        if chunk in held:
            return 1 + best(rest, held)
        options = [held] if len(held) >= chunks else [held | {chunk}]
        options += [held - {other} | {chunk} for other in held if len(held) >= chunks]
        return max(best(rest, option) for option in options)

    assert replays.optimum(trace, chunks) == [best(0, frozenset())]


@pytest.mark.parametrize("trace", ["shuffle", "picks", "scan"])
def test_the_references_agree_with_those_of_libcachesim(trace: str) -> None:
    simulator = pytest.importorskip("libcachesim")
    recorded = traces()[trace]
    chunks = recorded.distinct // 3
    assert replays.peer(recorded, chunks, "LRU") == replays.exact_lru(recorded, chunks)

    belady, request = simulator.Belady(cache_size=chunks, hashpower=16), simulator.Request()
    uses = np.concatenate(recorded.parts).tolist()
    following, later = [0] * len(uses), {}
    for at in reversed(range(len(uses))):
        following[at] = later.get(uses[at], 2**62)
        later[uses[at]] = at
    found = 0
    for chunk, again in zip(uses, following, strict=True):
        request.obj_id, request.obj_size, request.next_access_vtime = chunk + 1, 1, again
        found += bool(belady.get(request))
    # That one lets everything in, ours need not.
    assert 0 <= sum(replays.optimum(recorded, chunks)) - found <= 0.02 * len(uses)


@pytest.mark.parametrize(
    ("policy", "least", "most"), [("lru", 0, 0.2), ("epoch", 0.3, 0.45), ("pin", 0.35, 0.4)]
)
def test_files_are_kept_as_the_replay_says(tmp_path: Path, policy: Any, least: float, most: float) -> None:
    """The whole cache, with files, in shuffled epochs of all chunks; 40 % have room."""
    data = noise((48, 48, 48))
    write_array(tmp_path / "source", data, chunks=(8, 8, 8), compressors=None)
    size = 8**3 * 4 + 4
    store = cached_store(
        tmp_path / "cache",
        tmp_path / "source",
        max_size_bytes=int(216 * 0.4) * size,
        policy=policy,
        fetch_threads=1,
    )
    array, manager, random = store.open_array("0"), store.cache_manager, np.random.default_rng(1)
    before = 0
    for epoch in range(6):
        manager.new_epoch()
        for at in random.permutation(216):
            z, y, x = (8 * int(i) for i in np.unravel_index(at, (6, 6, 6)))
            box = (slice(z, z + 8), slice(y, y + 8), slice(x, x + 8))
            assert np.array_equal(array.read(box), data[box])
        assert chunk_bytes(tmp_path / "cache") <= manager.max_size_bytes
        if epoch == 0:
            before = manager.get_stats()["fetched_cells"]
    hit_ratio = 1 - (manager.get_stats()["fetched_cells"] - before) / (5 * 216)
    assert least <= hit_ratio <= most
    assert ("refused" in manager.get_stats()) == (policy != "lru")
    assert manager.check()
    manager.close()


# What an epoch is


def test_a_trainer_says_when_epochs_begin() -> None:
    epochs = Epochs()
    for number in range(5):
        epochs = epochs.begun(100 * number, None)
        for _ in range(4):
            epochs = epochs.used(250, 10, 100 * number + 50)
    # The chunks that were last used before the second epoch, which is the one before the previous, are of no use any more.
    assert epochs.starts == (400, 300, 200)
    assert epochs.stale_before == 200
    assert epochs.begun(500, None).stale_before == 300


def test_each_process_of_a_training_may_say_so() -> None:
    epochs = Epochs().begun(0, None).used(1000, 10, 50).begun(100, None)
    told = epochs.begun(101, None).used(100, 10, 102).begun(103, None)
    assert told.starts == epochs.starts == (100, 0, 0)
    numbered = Epochs().begun(0, 7).used(1000, 10, 50)
    assert numbered.begun(100, 7) == numbered
    assert numbered.begun(100, 8).starts == (100, 0, 0)


def test_where_nobody_says_so_an_epoch_is_as_many_uses_as_there_are_chunks() -> None:
    epochs = Epochs()
    for step in range(1, 9):
        epochs = epochs.used(50, 100, step)
    assert epochs.starts == (8, 6, 4)
    # A worker that has not opened all arrays yet does not end it earlier.
    assert epochs.used(60, 20, 9).used(30, 20, 10).starts == (8, 6, 4)
    assert epochs.used(60, 20, 9).used(40, 20, 10).starts == (10, 8, 6)


def test_a_trainer_that_goes_leaves_no_epoch_without_end() -> None:
    epochs = Epochs().begun(0, None).used(1000, 10, 1).begun(2, None)
    assert epochs.used(1999, 10, 3) == epochs.used(1000, 10, 3).used(999, 10, 4)
    over = epochs.used(2000, 10, 3)
    assert over.starts == (3, 2, 0)
    assert over.used(10, 10, 5).starts == (5, 3, 2)


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 300), st.integers(0, 100), st.none() | st.integers(0, 3)),
        max_size=60,
    )
)
def test_epochs_begin_one_after_the_other(steps: list[tuple[bool, int, int, int | None]]) -> None:
    epochs = Epochs()
    for now, (begins, uses, chunks, number) in enumerate(steps, 1):
        after = epochs.begun(now, number) if begins else epochs.used(uses, chunks, now)
        assert after.starts in (epochs.starts, (now, *epochs.starts[:2]))
        assert after.uses in (epochs.uses, epochs.uses + uses, 0)
        epochs = after


def test_all_processes_have_the_same_epochs(tmp_path: Path) -> None:
    manager = CacheManager(tmp_path, policy="epoch")
    code = """
import sys
from copick.cache.manager import CacheManager
manager = CacheManager(sys.argv[1], policy="epoch")
for number in range(3):
    manager.new_epoch(number)
    manager.budget.epochs._told -= 100
"""
    assert python(code, tmp_path).returncode == 0
    manager.budget.heal()
    assert manager.budget.epochs.known.number == 2
    assert all(manager.budget.epochs.known.starts[:2])


@pytest.mark.parametrize("damage", [b"", b"garbage", b'00000000 {"uses": 7}'])
def test_a_damaged_record_of_epochs_begins_anew(tmp_path: Path, damage: bytes) -> None:
    uses = [0]
    mine, other = (
        SharedEpochs(tmp_path / "epochs", RangeLocks(tmp_path), lambda: uses[0], lambda: 9) for _ in range(2)
    )
    uses[0] = 5
    mine.stale_before()
    assert mine.known == Epochs(uses=5, chunks=9)
    other.begin(3)
    assert (other.known.uses, other.known.number, other.known.starts[0] > 0) == (0, 3, True)
    (tmp_path / "epochs").write_bytes(damage)
    mine.begin()
    assert mine.known == Epochs(chunks=9, length=-1)


def test_a_record_of_another_version_is_a_new_beginning() -> None:
    assert Epochs.of({"starts": [3, 2, 1], "uses": 7}) == Epochs((3, 2, 1), 7)
    for document in (None, {}, {"starts": [1, 2]}, {"starts": [1, 2, 3], "pace": 1}, {"starts": 5}):
        assert Epochs.of(document) == Epochs()


# The index and a model of it

arrays, chunks, groups, stamps = st.integers(1, 4), st.integers(0, 40), st.integers(0, 2), st.integers(1, 200)


class IndexAndPolicy(RuleBasedStateMachine):
    """The native index beside a dictionary that is sorted anew for every question."""

    SIZE = 7

    def __init__(self) -> None:
        super().__init__()
        self.native = _cachecore.Cache()
        self.known: dict[tuple[int, int], int] = {}
        self.group_of: dict[int, int] = {}

    def of_group(self, group: int) -> list[tuple[int, tuple[int, int]]]:
        """Last use and key of every chunk of a group, coldest first."""
        return sorted(
            (used, key)
            for key, used in self.known.items()
            if not group or self.group_of.get(key[0], 0) == group
        )

    @rule(array=arrays, chunk=chunks, stamp=stamps)
    def add(self, array: int, chunk: int, stamp: int) -> None:
        before = self.native.index_add(array, chunk, self.SIZE, stamp)
        assert before == (self.SIZE if (array, chunk) in self.known else 0)
        self.known[array, chunk] = max(self.known.get((array, chunk), 0), stamp)

    @rule(array=arrays, first=chunks, stamp=stamps)
    def add_many(self, array: int, first: int, stamp: int) -> None:
        for chunk in range(first, first + 20):
            self.add(array, chunk, stamp + chunk)

    @rule(array=arrays, chunk=chunks)
    def remove(self, array: int, chunk: int) -> None:
        assert self.native.index_remove(array, chunk) == (
            self.SIZE if self.known.pop((array, chunk), 0) else 0
        )

    @rule(uses=st.lists(st.tuples(arrays, chunks, stamps), max_size=10))
    def touch(self, uses: list[tuple[int, int, int]]) -> None:
        self.native.index_touch(np.array(uses, np.uint64).reshape(-1, 3).T)
        for array, chunk, stamp in uses:
            if (array, chunk) in self.known:
                self.known[array, chunk] = max(self.known[array, chunk], stamp)

    @rule(
        rows=st.lists(st.tuples(arrays, chunks, stamps), max_size=20, unique_by=lambda row: row[:2]),
        since=stamps,
    )
    def replace(self, rows: list[tuple[int, int, int]], since: int) -> None:
        table = np.array([(array, chunk, self.SIZE, stamp) for array, chunk, stamp in rows], np.uint64)
        self.native.index_replace(table.reshape(-1, 4).T, since)
        told = {(array, chunk): stamp for array, chunk, stamp in rows}
        self.known = {
            key: max(told.get(key, 0), self.known.get(key, 0))
            for key in {*told, *self.known}
            if key in told or self.known[key] >= since
        }

    @rule(array=arrays, group=groups)
    def assign(self, array: int, group: int) -> None:
        self.native.assign(array, group)
        self.group_of[array] = group

    @rule(array=arrays)
    def drop_array(self, array: int) -> None:
        self.native.drop_array(array)
        self.known = {key: used for key, used in self.known.items() if key[0] != array}
        self.group_of.pop(array, None)

    @rule(
        size=st.integers(0, 300), files=st.integers(0, 10), group=groups, more=st.integers(0, 300),
        before=stamps | st.just(FOREVER), goes=st.booleans(),
    )  # fmt: skip
    def victims(self, size: int, files: int, group: int, more: int, before: int, goes: bool) -> None:
        expected: list[int] = []
        for used, _ in self.of_group(group):
            freed = self.SIZE * len(expected)
            if freed >= size and len(expected) >= files and (freed - size >= more or used >= before):
                break
            expected.append(used)
        chosen = self.native.victims(size, files, group, more, before)
        assert [used for _, _, used in chosen] == expected
        keys = [(array, chunk) for array, chunk, _ in chosen]
        assert len(set(keys)) == len(keys)
        for array, chunk, used in chosen:
            assert self.known[array, chunk] == used
            assert not group or self.group_of.get(array, 0) == group
            if goes:
                self.remove(array, chunk)

    @rule(group=groups, stale_before=stamps)
    def admit(self, group: int, stale_before: int) -> None:
        assert self.native.admits("lru", group, stale_before)
        assert not self.native.admits("pin", group, stale_before)
        cold = self.of_group(group)
        if not cold or cold[0][0] < stale_before:
            assert self.native.admits("epoch", group, stale_before)
        else:
            assert sum(self.native.admits("epoch", group, stale_before) for _ in range(100)) < 50

    @invariant()
    def counts_are_right(self) -> None:
        assert self.native.check()
        for group in range(3):
            assert self.native.index_bytes(group) == self.SIZE * len(self.of_group(group))
        assert self.native.stats()["index_chunks"] == len(self.known)


TestIndexAndPolicy = IndexAndPolicy.TestCase
TestIndexAndPolicy.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'fifo' is not one of lru, epoch, pin"):
        _cachecore.Cache().admits("fifo")
    for wrong in (np.zeros((3, 2), np.uint64), np.zeros((4, 2), np.uint64)):
        call = _cachecore.Cache().index_replace if len(wrong) == 3 else _cachecore.Cache().index_touch
        with pytest.raises(ValueError, match="rows are needed"):
            call(wrong, *([0] if len(wrong) == 3 else []))


def test_a_full_cache_that_is_pinned_stays_as_it_is(tmp_path: Path) -> None:
    data = noise()
    write_array(tmp_path / "source", data)
    store = cached_store(
        tmp_path / "cache", tmp_path / "source", max_size_bytes=10 * CHUNK_FILE, policy="pin"
    )
    array, manager = store.open_array("0"), store.cache_manager
    array.read(())
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "x.zarr").rglob("*")}
    np.testing.assert_array_equal(array.read(()), data)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "x.zarr").rglob("*")} == kept
    assert chunk_bytes(tmp_path / "cache") == 10 * CHUNK_FILE
    stats = manager.get_stats()
    assert stats["refused"] == stats["bypassed"] == 17 + 17
    assert stats["inserts"] == 10
    assert "evicted" not in stats
    manager.close()
