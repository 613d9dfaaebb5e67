"""What the eviction policies keep: recorded reads, replayed through the code that decides (the budget and the native index).

Only files, and what is shared with other processes, are left out. Uses are noted as coarsely as in the cache: once per second.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.report import Figure, Row
from copick import _cachecore
from copick.cache.budget import Budget, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from benchmarks.__main__ import Bench

SHARES = (0.2, 0.4)
"""What part of the chunks that are read fits into the cache."""
SHAPE, CHUNK, PATCH = (184, 630, 630), 64, 64
SIZE = 1 << 20
"""Bytes of a chunk."""
PEERS = {"sieve": "Sieve", "s3-fifo": "S3FIFO", "w-tinylfu": "WTinyLFU"}
"""What other caches do, as libcachesim does it."""


@dataclass(frozen=True)
class Trace:
    """The chunks that were read, in order."""

    name: str
    title: str
    parts: list[npt.NDArray[np.int64]]
    """Epochs, or volumes that are looked at one after the other."""
    counted: range
    """The parts whose hits count: not those in which everything is new."""
    uses_per_s: int
    """How fast they were read."""
    is_training: bool = True

    @property
    def distinct(self) -> int:
        """How many chunks one part reads, at most."""
        return max(len(np.unique(part)) for part in self.parts)

    def ratio(self, hits: Sequence[int]) -> float:
        """Hits per use, from the hits of each part."""
        return sum(hits[at] for at in self.counted) / sum(len(self.parts[at]) for at in self.counted)


def traces(tomograms: int, seed: int = 1) -> Iterator[Trace]:
    random = np.random.default_rng(seed)
    grid = np.array([-(-size // CHUNK) for size in SHAPE])
    per_tomogram = int(np.prod(grid))
    total = tomograms * per_tomogram
    epochs, speed = range(1, 6), 10 * tomograms

    def touched(boxes: Iterator[tuple[int, npt.NDArray[Any]]]) -> npt.NDArray[np.int64]:
        """The chunks of patches (tomogram, first voxel), in order."""
        return np.concatenate(
            [
                tomogram * per_tomogram
                + np.ravel_multi_index(np.indices(last - first + 1).reshape(3, -1) + first[:, None], grid)
                for tomogram, corner in boxes
                for first, last in [(corner // CHUNK, (corner + PATCH - 1) // CHUNK)]
            ]
        )

    def shuffled(items: Sequence[Any]) -> Iterator[Any]:
        return (items[at] for at in random.permutation(len(items)))

    room = np.array(SHAPE) - PATCH
    yield Trace(
        "shuffle",
        "every chunk once per epoch, in a new order",
        [random.permutation(total) for _ in range(6)],
        epochs,
        speed,
    )
    yield Trace(
        "overlap",
        "patches at random places, new ones in each epoch",
        [
            touched(
                shuffled(
                    [
                        (t, random.integers(0, room + 1))
                        for t in range(tomograms)
                        for _ in range(per_tomogram // 5)
                    ]
                )
            )
            for _ in range(6)
        ],
        epochs,
        speed,
    )
    centres = {t: random.integers(0, room + 1, (12, 3)) for t in range(tomograms)}
    picks = [
        (t, centres[t][random.integers(12)] + random.normal(0, 40, 3))
        for t in range(tomograms)
        for _ in range(per_tomogram // 2)
    ]
    yield Trace(
        "picks",
        "patches around the same clustered picks in each epoch, shifted a little",
        [
            touched(shuffled([(t, np.clip(at + random.integers(-8, 9, 3), 0, room).astype(int)) for t, at in picks]))
            for _ in range(6)
        ],
        epochs,
        speed,
    )  # fmt: skip
    yield Trace(
        "switch",
        "five shuffled epochs of other tomograms than before",
        [random.permutation(total // 2) + (total // 2 if at > 4 else 0) for at in range(10)],
        range(6, 10),
        speed,
    )
    # A viewer: planes of one tomogram after the other, up and down between random depths.
    deep, layer = 8, 256
    looked_at = []
    for volume in range(3):
        depths = random.integers(0, deep * CHUNK, 13)
        planes = np.concatenate([np.arange(a, b, 8 if a < b else -8) for a, b in pairwise(depths)])
        looked_at.append(((volume * deep + planes // CHUNK)[:, None] * layer + np.arange(layer)).ravel())
    yield Trace(
        "browse",
        "planes of three tomograms, up and down in each",
        looked_at,
        range(3),
        2000,
        is_training=False,
    )
    # Of three reads two are among few tomograms, some of which are read often; the third passes over all others, once.
    popular = random.zipf(1.2, 10 * total) % (total // 4)
    scanned = np.arange(total // 4, total)
    uses = np.empty(3 * len(scanned), np.int64)
    uses[0::3], uses[1::3], uses[2::3] = (
        popular[: len(scanned)],
        popular[len(scanned) : 2 * len(scanned)],
        scanned,
    )
    yield Trace(
        "scan",
        "some tomograms often, and a pass over all others between",
        np.split(uses, 3),
        range(3),
        speed,
        is_training=False,
    )


# The policies of the cache


class Alone:
    """The database, and the locks between processes: there are no others."""

    rebuild_wanted = False

    def __init__(self, replay: Replay) -> None:
        self.drain = replay.tell_uses

    def hold(self, number: int, timeout: float) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def flush(self) -> None:
        pass


class Memory:
    """A record of all processes that is no file."""

    def __init__(self) -> None:
        self.document: dict[str, Any] | None = None

    def change(self, step: Callable[[dict[str, Any] | None], dict[str, Any] | None]) -> dict[str, Any] | None:
        self.document = step(self.document)
        return self.document

    def after_fork(self) -> None:
        pass


class ReplayedBudget(Budget):
    """The budget of chunks that are only names."""

    def __init__(self, replay: Replay, limit: int) -> None:
        self.replay, alone = replay, Alone(replay)
        journal: Any = alone
        locks: Any = alone
        super().__init__(
            Path(tempfile.gettempdir()),
            limit,
            replay.native,
            journal,
            locks,
            lambda *what: None,
            lambda id: None,
        )
        self.ledger._record: Any = Memory()
        self.epochs._record: Any = Memory()
        with self.ledger.mutex:
            self.ledger.restart({}, 0)

    def _uses(self) -> int:
        return self.replay.uses

    def _learn(self) -> None:
        """There are no others."""

    def _remove(self, victims: Sequence[tuple[int, int, int]]) -> list[int]:
        for id, chunk, _ in victims:
            self._native.index_remove(id, chunk)
            self.replay.last_use.pop(chunk)
        self.ledger.add({"": -SIZE * len(victims)})
        return [SIZE] * len(victims)


class Replay:
    """A cache of so many chunks."""

    def __init__(self, trace: Trace, chunks: int, policy: Policy) -> None:
        self.trace, self.uses = trace, 0
        self.native = _cachecore.Cache()
        self.budget = ReplayedBudget(self, chunks * SIZE)
        self.budget.policy = policy
        self.budget._read_here[1] = trace.distinct
        # Chunk → the second in which it was last used; what is in here is in the cache.
        self.last_use: dict[int, int] = {}
        self.noted: list[tuple[int, int, int]] = []

    def use(self, chunk: int) -> bool:
        """Read a chunk; whether it was there."""
        self.uses += 1
        second, before = self.uses // self.trace.uses_per_s, self.last_use.get(chunk)
        if before is None:
            with self.budget.reserve(SIZE, 1) as room:
                if room is not None:
                    room.written = SIZE
                    self.native.index_add(1, chunk, SIZE)
                    self.last_use[chunk] = second
            return False
        if before != second:
            self.noted.append((1, chunk, int(time.time() * 1e6)))
            self.last_use[chunk] = second
        return True

    def tell_uses(self) -> None:
        if self.noted:
            self.native.index_touch(np.array(self.noted, np.uint64).T)
            self.noted.clear()


def replay(trace: Trace, chunks: int, policy: Policy, *, told: bool = False) -> list[int]:
    """The hits in each part, in a cache of so many chunks; `told`: the trainer says when an epoch begins."""
    cache, hits = Replay(trace, chunks, policy), []
    for part in trace.parts:
        if told:
            cache.budget.epochs.begin()
        hits.append(sum(map(cache.use, part.tolist())))
    if not cache.native.check() or len(cache.last_use) > chunks:
        raise RuntimeError(f"{len(cache.last_use)} chunks in a cache for {chunks}, or wrong counts")
    return hits


# What they are compared with


def exact_lru(trace: Trace, chunks: int) -> list[int]:
    """As `replay`, of a cache that knows every use at once."""
    held: OrderedDict[int, None] = OrderedDict()

    def use(chunk: int) -> bool:
        hit = chunk in held
        held[chunk] = None
        held.move_to_end(chunk)
        if len(held) > chunks:
            held.popitem(last=False)
        return hit

    return [sum(map(use, part.tolist())) for part in trace.parts]


def optimum(trace: Trace, chunks: int) -> list[int]:
    """As `replay`, of a cache that knows the future: it does without the chunk, the new one included, that is used last again."""
    uses = np.concatenate(trace.parts).tolist()
    following: list[int] = [0] * len(uses)
    later: dict[int, int] = {}
    for at in reversed(range(len(uses))):
        following[at] = later.get(uses[at], len(uses))
        later[uses[at]] = at
    held: dict[int, int] = {}  # chunk → its next use
    farthest: list[tuple[int, int]] = []
    at = -1

    def use(chunk: int) -> bool:
        nonlocal at
        at += 1
        hit = chunk in held
        held[chunk] = following[at]
        heapq.heappush(farthest, (-following[at], chunk))
        while len(held) > chunks:
            when, victim = heapq.heappop(farthest)
            if held.get(victim) == -when:
                del held[victim]
        return hit

    return [sum(map(use, part.tolist())) for part in trace.parts]


def peer(trace: Trace, chunks: int, name: str) -> list[int]:
    """As `replay`, by a policy of libcachesim. Raises ImportError."""
    import libcachesim

    cache, request = getattr(libcachesim, name)(cache_size=chunks, hashpower=16), libcachesim.Request()
    request.obj_size = 1

    def use(chunk: int) -> bool:
        request.obj_id = chunk + 1
        return bool(cache.get(request))

    return [sum(map(use, part.tolist())) for part in trace.parts]


def policies(bench: Bench) -> Iterator[Row]:
    """Hits per use of the policies for several ways to read, beside what others and what the best possible cache would have had."""
    for trace in traces(20 if bench.scale.name == "full" else 2):
        for share in SHARES:
            yield _row(trace, share)


def _row(trace: Trace, share: float) -> Row:
    chunks = int(trace.distinct * share)
    row = Row(
        f"policies-{trace.name}-{share * 100:.0f}",
        f"{trace.title}; cache of {share:.0%}",
        "hits per use",
        baseline="optimum",
    )
    contenders: dict[str, Callable[[], list[int]]] = {
        "lru": lambda: replay(trace, chunks, "lru"),
        "epoch": lambda: replay(trace, chunks, "epoch"),
        "epoch, told of each": lambda: replay(trace, chunks, "epoch", told=True),
        "pin": lambda: replay(trace, chunks, "pin"),
        "exact lru": lambda: exact_lru(trace, chunks),
        "optimum": lambda: optimum(trace, chunks),
        **{name: lambda peer_name=of: peer(trace, chunks, peer_name) for name, of in PEERS.items()},
    }
    if not trace.is_training:
        del contenders["epoch, told of each"]
    for name, run in contenders.items():
        try:
            hits = run()
        except ImportError as error:
            row.figures.append(Figure(name, missing=str(error)))
            continue
        rounds = [n / len(part) for n, part in zip(hits, trace.parts, strict=True)]
        row.figures.append(
            Figure(name, trace.ratio(hits), rounds, sum(map(len, trace.parts)), {"chunks": chunks})
        )
    lru, exact = row.value("lru"), row.value("exact lru")
    if lru is not None and exact is not None:
        row.goal("exact lru's hits beyond lru's", exact - lru, 0.02)
    if trace.name == "shuffle" and share == 0.4:
        row.goal("hits of epoch", row.value("epoch"), 0.36, at_least=True)
        row.goal("hits of epoch, told of each", row.value("epoch, told of each"), 0.36, at_least=True)
    return row
