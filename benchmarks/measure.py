"""Rounds in which contenders take turns, and their medians."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")


@dataclass
class Timing:
    """What one contender took: a median for each round."""

    rounds: list[float] = field(default_factory=list)
    reads: int = 0
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


def ratio(one: Timing, other: Timing) -> float:
    """How many times as long `one` took as `other`: the median over the rounds, in each of which both had the same load."""
    return statistics.median(a / b for a, b in zip(one.rounds, other.rounds, strict=True))


def race(
    reads: Mapping[str, Callable[[T], object]],
    work: Callable[[int], Sequence[T]],
    rounds: int,
    seconds: float = float("inf"),
) -> dict[str, Timing]:
    """Every contender does the work of every round; who comes first rotates.

    Args:
        reads: What a contender does with one piece of work.
        work: The pieces of a round.
        seconds: A turn ends after so long, but not before its third piece.
    """
    timings = {name: Timing() for name in reads}
    names = list(reads)
    for turn in range(rounds):
        pieces = work(turn)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            took = timed(reads[name], pieces, seconds)
            timings[name].rounds.append(statistics.median(took))
            timings[name].reads += len(took)
    return timings


def timed(read: Callable[[T], object], pieces: Sequence[T], seconds: float = float("inf")) -> list[float]:
    """Seconds that each piece took."""
    took: list[float] = []
    clock = time.perf_counter
    deadline = clock() + seconds
    for piece in pieces:
        began = clock()
        read(piece)
        took.append(clock() - began)
        if len(took) >= 3 and clock() > deadline:
            break
    return took


def per_call(call: Callable[[], object], repeats: int = 5, at_least_s: float = 0.02) -> float:
    """Seconds of one short call: the best of several loops that are each long enough to be timed."""
    n = 1
    while True:
        began = time.perf_counter()
        for _ in range(n):
            call()
        if (took := time.perf_counter() - began) >= at_least_s:
            break
        n = max(2 * n, int(n * at_least_s / max(took, 1e-9)))
    best = took
    for _ in range(repeats - 1):
        began = time.perf_counter()
        for _ in range(n):
            call()
        best = min(best, time.perf_counter() - began)
    return best / n
