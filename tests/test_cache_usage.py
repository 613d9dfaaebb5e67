"""The record of how many bytes lie in the cache folder."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from copick.cache.locks import RangeLocks, SharedRecord
from copick.cache.usage import Ledger, Reservation, Usage

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def nothing() -> None:
    pass


def ledger(folder: Path, **counted: int) -> Ledger:
    """A process's view of the record; counting the files would find what is stated."""
    made = Ledger(folder / "usage", RangeLocks(folder), lambda: restart(made, counted))
    return made


def restart(to: Ledger, counted: dict[str, int], documents: int = 0) -> None:
    with to.mutex:
        to.restart(counted, documents)


def _add(folder: Path, begin: Any) -> None:
    mine = ledger(folder)
    begin.wait(60)
    for number in range(300):
        usage = mine.add({"a": 3 if number % 2 else -1, "b": 1}, documents=2, evictions=number % 2)
        assert usage is not None


@pytest.mark.parametrize(
    "method", [pytest.param("spawn", marks=pytest.mark.slow), pytest.param("fork", marks=needs_fork)]
)
def test_no_addition_of_any_process_is_lost(tmp_path: Path, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    mine, begin = ledger(tmp_path), context.Barrier(4)
    restart(mine, {"a": 10_000})
    adding = [context.Process(target=_add, args=(tmp_path, begin)) for _ in range(4)]
    for process in adding:
        process.start()
    for process in adding:
        process.join(120)
    assert [process.exitcode for process in adding] == [0] * 4
    usage = mine.now()
    assert usage.chunks == {"a": 10_000 + 4 * 300, "b": 4 * 300}
    assert (usage.documents, usage.evictions, usage.size) == (4 * 600, 4 * 150, 10_000 + 8 * 300)


def test_threads_add_exactly(tmp_path: Path) -> None:
    mine = ledger(tmp_path, a=0)
    mine.now()
    threads = [threading.Thread(target=lambda: [mine.add({"a": 1}) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mine.now().size == 400


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "long", "flipped", "foreign"])
def test_a_damaged_record_is_none_until_somebody_counts(tmp_path: Path, damage: str) -> None:
    path, locks = tmp_path / "usage", RangeLocks(tmp_path)
    mine = ledger(tmp_path, a=5)
    mine.now()
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        SharedRecord(path, locks, 1).change(lambda _: {"bytes": 5})
    else:
        flipped = whole.replace(b'"a": 5', b'"a": 4')
        path.write_bytes(
            {"empty": b"", "short": whole[:-1], "long": whole + b"x", "flipped": flipped}[damage]
        )
    assert mine.add({"a": 7}) is None
    assert mine.now().chunks == {"a": 5}
    assert mine.add({"a": 1}) == mine.now()
    assert mine.now().size == 6


def test_no_number_falls_below_zero(tmp_path: Path) -> None:
    mine = ledger(tmp_path, a=5)
    mine.now()
    usage = mine.add({"a": -100, "b": 3}, documents=-1)
    assert usage is not None
    assert (usage.chunks, usage.documents) == ({"a": 0, "b": 3}, 0)
    mine.add(evictions=3)
    counts = mine.now().counts
    restart(mine, {"a": 7}, 8)
    assert mine.now() == Usage({"a": 7}, 8, 3, counts + 1)


def test_what_is_reserved_counts_until_it_is_settled(tmp_path: Path) -> None:
    mine, other = ledger(tmp_path, a=10), ledger(tmp_path)
    booked = mine.reserve("a", 100)
    assert booked is not None
    room, usage = booked
    assert usage.size == other.now().size == 110
    assert (mine.reserved, other.reserved) == (100, 0)
    room.written = 60
    mine.settle(room)
    assert (mine.reserved, other.now().size) == (0, 70)


def test_files_that_take_long_to_count_hold_nobody_up(tmp_path: Path) -> None:
    slow = Ledger(tmp_path / "usage", RangeLocks(tmp_path), nothing)
    assert slow.reserve("a", 5) is None
    assert slow.reserved == 0
    with pytest.raises(OSError, match="are being counted"):
        slow.now()


def test_a_record_that_cannot_be_written_reserves_nothing(tmp_path: Path) -> None:
    mine = ledger(tmp_path / "gone", a=5)
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            mine.reserve("a", 5)
    assert mine.reserved == 0


class Writers(RuleBasedStateMachine):
    """Three processes that write chunks and evict, while the files are counted now and then: nothing drifts."""

    rooms = Bundle("rooms")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.files = {"a": 0, "b": 0}
        self.writers = [self.writer() for _ in range(3)]
        self.open: list[tuple[int, Reservation]] = []

    def writer(self) -> Ledger:
        made = Ledger(
            Path(self.folder.name) / "usage",
            RangeLocks(Path(self.folder.name)),
            lambda: restart(made, self.files),
        )
        return made

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(target=rooms, who=st.integers(0, 2), layer=st.sampled_from("ab"), size=st.integers(1, 50))
    def reserve(self, who: int, layer: str, size: int) -> tuple[int, Reservation]:
        booked = self.writers[who].reserve(layer, size)
        assert booked is not None
        self.open.append((who, booked[0]))
        return who, booked[0]

    @rule(room=consumes(rooms), share=st.floats(0, 1))
    def write(self, room: tuple[int, Reservation], share: float) -> None:
        who, reservation = room
        reservation.written = int(reservation.size * share)
        self.files[reservation.layer] += reservation.written
        self.writers[who].settle(reservation)
        self.open.remove(room)

    @rule(who=st.integers(0, 2), layer=st.sampled_from("ab"), share=st.floats(0, 1))
    def evict(self, who: int, layer: str, share: float) -> None:
        gone = int(self.files[layer] * share)
        self.writers[who].now()
        self.files[layer] -= gone
        self.writers[who].add({layer: -gone}, evictions=1)

    @rule(who=st.integers(0, 2))
    def count(self, who: int) -> None:
        restart(self.writers[who], self.files)

    @rule()
    def lose(self) -> None:
        (Path(self.folder.name) / "usage").unlink(missing_ok=True)

    @invariant()
    def the_record_is_right_when_all_is_settled(self) -> None:
        for who, writer in enumerate(self.writers):
            assert writer.reserved == sum(room.size for owner, room in self.open if owner == who)
        usage = self.writers[0].add()
        if usage is not None and not self.open:
            assert {layer: usage.chunks.get(layer, 0) for layer in "ab"} == self.files


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
