"""What may come into the cache folder when it is full, and what goes for it.

Which chunks there are, and when each was used, every process knows roughly; whoever has to evict takes in first what the others
wrote to the database. One process evicts at a time. How full the folder is, all know: see usage.py.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from copick.cache import info
from copick.cache.epochs import SharedEpochs
from copick.cache.folder import cached_files, documents, read_layout, volume_lacks
from copick.cache.geometry import Geometry, chunk_index, chunk_name, grid
from copick.cache.pool import Background
from copick.cache.usage import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import numpy.typing as npt

    from copick import _cachecore
    from copick.cache.journal import Journal
    from copick.cache.locks import RangeLocks
    from copick.cache.usage import Reservation, Usage

Policy = Literal["lru", "epoch", "pin"]
"""What may come into a full cache: anything; what takes the place of what idled for two epochs, and little else; nothing."""

LOW_WATER: Final = 0.95
"""Eviction frees space down to this share of the limit, so that it is rarely needed."""
DRIFT: Final = 0.1
"""The record and the index may differ by this share before the files are counted again."""
DRIFT_BYTES: Final = 1 << 20
LEARN_S: Final = 5.0
"""How long what the database said is believed; others write to it no more often."""
LOOK_S: Final = 2.0
"""How long readers wait for the files to be looked at, which then goes on without them."""
_EVICT_LOCK: Final = 2
_COUNT_LOCK: Final = 3
_PATIENCE_S: Final = 10.0
_BATCH: Final = 256  # chunks that go before others may see that there is room
_LATEST: Final = 2**64 - 1


class Budget:
    """The space of one cache folder, as one process sees it."""

    def __init__(
        self,
        root: Path,
        limit: int,
        native: _cachecore.Cache,
        journal: Journal,
        locks: RangeLocks,
        count: Callable[..., None],
        drop: Callable[[int], None],
    ) -> None:
        """`limit` in bytes, 0 = none; `count` notes what happened in the statistics; `drop` lets go of an array that is gone."""
        self.limit = limit
        self.policy: Policy = "lru"
        self.quotas: dict[str, int] = {}
        """Bytes that the chunks of a layer may take; 0 or absent = any number."""
        self._root, self._native, self._journal = root, native, journal
        self._locks, self._count, self._drop = locks, count, drop
        # Array id → its folder and geometry, to name files by; its layer; how many chunks those have that are read here.
        self.layouts: dict[int, tuple[Path, Geometry]] = {}
        self._layers: dict[int, str] = {}
        self._read_here: dict[int, int] = {}
        self._at: dict[Path, int] = {}  # which array that is read here a folder holds
        self._groups: dict[str, int] = {}  # layer → what the native core calls it
        metadata = root / ".cache_metadata"
        self.ledger = Ledger(metadata / "usage", locks, lambda: self._count_once.run())
        self.epochs = SharedEpochs(metadata / "epochs", locks, self._uses, self._chunks_read)
        self._evictions_seen = 0
        # When the database, and the files, are worth another look.
        self._learn_again, self._look_again = 0.0, 0.0
        self.after_fork()

    def after_fork(self) -> None:
        self._later: dict[int, int] = {}  # group → bytes that are still to go, without hurry
        self._grown = False  # documents came, and nobody has looked whether there are too many
        self._look = Background(self.rescan, "copick-look", LOOK_S)
        self._count_once = Background(self._rescan_if_lost, "copick-count", LOOK_S)
        self._scanning, self._learning = threading.Lock(), threading.Lock()
        self._removed: set[tuple[int, int]] | None = None  # since the files are being looked at
        self.ledger.after_fork()
        self.epochs.after_fork()

    # What is known of arrays

    def note_array(
        self, id: int, folder: Path, geometry: Geometry, layer: str, *, read: bool = False
    ) -> bool:
        """Note an array in the folder; `read`: by this process. Whether it is new."""
        if read:
            self._read_here[id] = prod(grid(geometry.shape, geometry.chunks))
            if (former := self._at.get(folder, id)) != id:
                self._drop(former)
            self._at[folder] = id
        if id in self.layouts:
            return False
        self._native.assign(id, self._groups.setdefault(layer, len(self._groups) + 1))
        self.layouts[id], self._layers[id] = (folder, geometry), layer
        return True

    def forget_array(self, id: int) -> None:
        """An array is gone."""
        folder = self.layouts[id][0] if id in self.layouts else None
        if folder is not None and self._at.get(folder) == id:
            del self._at[folder]
        for known in (self.layouts, self._layers, self._read_here):
            known.pop(id, None)

    def _uses(self) -> int:
        stats = self._native.stats()
        return stats["chunk_hits"] + stats["chunk_loads"] + stats["chunk_misses"] + stats["fills"]

    def _chunks_read(self) -> int:
        return sum(self._read_here.values())

    # Coming in and going out

    @contextlib.contextmanager
    def reserve(self, size: int, id: int) -> Iterator[Reservation | None]:
        """Room for `size` bytes of an array while the block runs, evicting if need be; None if there is none. Raises OSError."""
        room = self._admit(size, self._layers.get(id, ""))
        try:
            yield room
        finally:
            if room is not None:
                self.ledger.settle(room)

    @contextlib.contextmanager
    def noting(self, room: Reservation) -> Iterator[None]:
        """To note what was written, as the last thing: who counts the files does so before or after, so that each counts once."""
        with self.ledger.mutex:
            yield
            self.ledger.settle(room)

    def _admit(self, size: int, layer: str) -> Reservation | None:
        if any(0 < bound < size for bound in (self.limit, self.quotas.get(layer, 0))):
            return None
        booked = self.ledger.reserve(layer, size)
        if booked is None:
            return None
        (room, usage), admitted = booked, False
        try:
            admitted = self._fits(size, usage, layer) or self._make_room(size, layer)
        finally:
            if not admitted:
                self.ledger.settle(room)
        return room if admitted else None

    def used(self) -> int | None:
        """Bytes of all chunk files and reservations; None if nobody has counted yet. Raises OSError."""
        usage = self.ledger.add()
        return None if usage is None else usage.size

    def release(self, moved: Path) -> tuple[int, list[int]]:
        """What lies in `moved` was taken out of the cache; other processes shall let go of it, too. Its bytes, its arrays' ids."""
        chunks: Counter[str] = Counter()
        ids = []
        for _, cached, files in cached_files(moved):
            ids.append(cached.id)
            chunks[cached.layer] -= sum(
                size for name, size, _ in files if chunk_index(cached.geometry, name) is not None
            )
        papers = sum(size for _, size, _ in documents(moved))
        with contextlib.suppress(OSError):
            self.ledger.add(chunks, documents=-papers, evictions=1 if chunks.total() else 0)
        return papers - chunks.total(), ids

    def admits_document(self, size: int) -> bool:
        """Whether a listing or document of `size` bytes is worth remembering: chunks make room for it, unless they are pinned."""
        usage = self.ledger.add() if self.limit else None
        if usage is None:
            return True
        return (usage.size if self.policy == "pin" else 0) + usage.documents + size <= self.limit

    def add_documents(self, size: int) -> None:
        """Listings and documents now take `size` bytes more (or less). Raises OSError."""
        self.ledger.add(documents=size)
        self._grown = self._grown or size > 0

    # Whether there is room

    def _fits(self, size: int, usage: Usage, *layers: str) -> bool:
        """Whether `size` bytes that are reserved can be written, and these layers are within their quotas."""
        return max(self._excess(size, usage)) <= 0 and all(
            self._over_quota(each, usage) <= 0 for each in layers
        )

    def _excess(self, size: int, usage: Usage) -> tuple[int, int]:
        """By how many bytes and files the cache is too large, or the volume too full, to write `size` bytes that are reserved."""
        # What other threads have reserved will be written too.
        lacking, files = volume_lacks(self._root, max(size, self.ledger.reserved))
        if self.limit:
            lacking = max(lacking, usage.size + usage.documents - self.limit)
        return lacking, files

    def _over_quota(self, layer: str, usage: Usage) -> int:
        quota = self.quotas.get(layer, 0)
        return usage.chunks.get(layer, 0) - quota if quota else 0

    # Making room

    def _make_room(self, size: int, layer: str) -> bool:
        """Let chunks go until what is reserved fits. Whether it does; not if the policy would rather keep what is there."""
        if not self._may_come(layer):
            self._count("refused")
            return False
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            with self._locks.hold(_EVICT_LOCK, timeout=0.1) as held:
                if self._fits(size, self.ledger.now(), layer):  # who holds the lock has made room
                    return True
                if held:
                    self._learn()
                    self._trim(size, hurry=True)
                    return self._fits(size, self.ledger.now(), layer)
        return False

    def _may_come(self, layer: str) -> bool:
        if self.policy == "lru":
            return True
        if self.policy == "epoch":
            self._learn()
            self._journal.drain()
        over = self._over_quota(layer, self.ledger.now()) > 0
        group = self._groups.get(layer, 0) if over else 0
        return self._native.admits(self.policy, group, self.epochs.stale_before())

    def shrink(self) -> int:
        """Remove what is too much, by the limits of this process; returns the bytes freed. Raises OSError."""
        if self.policy == "pin":
            return 0
        with self._locks.hold(_EVICT_LOCK, timeout=_PATIENCE_S) as held:
            if not held:
                return 0
            self._learn()
            return self._trim(0, hurry=False)

    def _trim(self, size: int, *, hurry: bool) -> int:
        """Remove what is too much for `size` bytes to come, and some more; returns the bytes freed.

        Chunks of layers over their quota go first. `hurry`: somebody waits for the room, and what is
        not needed for it can go later.
        """
        self._journal.drain()
        freed = self._trim_known(size, hurry)
        if not self._fits(size, self.ledger.now(), *self.quotas) and time.monotonic() >= self._look_again:
            self._look.run()  # there may be chunks of which the database does not tell
            freed += self._trim_known(size, hurry)
        # Listings and documents make no room for chunks: they go if there are too many of them alone.
        lacking, files = volume_lacks(self._root, 0)
        if self.limit:
            lacking = max(lacking, self.ledger.now().documents - self.limit)
        freed += self._evict_documents(lacking, files)
        if freed:
            self._journal.flush()  # who learns next does not try what is gone
        return freed

    def _trim_known(self, size: int, hurry: bool) -> int:
        freed = 0
        for layer, quota in self.quotas.items():
            if (over := self._over_quota(layer, self.ledger.now())) > 0:
                freed += self._evict(over, 0, self._groups.get(layer, 0), _spare(quota), hurry=hurry)
        usage = self.ledger.now()
        need, files = self._excess(size, usage)
        if need > 0 or files > 0:
            freed += self._evict(need, files, 0, _spare(self.limit or usage.size), hurry=hurry)
        return freed

    def _evict(self, size: int, files: int, group: int, more: int, *, hurry: bool) -> int:
        """Remove the least recently used chunks of a group until so many bytes and files are free, and some bytes more.

        Returns the bytes freed.
        """
        # Under `epoch` one comes for one that goes, unless that was of no use any more.
        more_before = self.epochs.stale_before() if self.policy == "epoch" else _LATEST
        size, files, freed, gone = max(size, 0), max(files, 0), 0, 0
        while True:
            extra = max(size + more - max(freed, size), 0)
            victims = self._native.victims(
                max(size - freed, 0), max(files - gone, 0), group, extra, more_before
            )
            for first in range(0, len(victims), _BATCH):
                sizes = self._remove(victims[first : first + _BATCH])
                freed, gone = freed + sum(sizes), gone + len(sizes)
                if hurry and freed >= size and gone >= files:
                    self._later[group] = max(size + more - freed, 0)
                    return freed
            if not victims:
                return freed

    def _remove(self, victims: Sequence[tuple[int, int, int]]) -> list[int]:
        """Remove chunks (array id, chunk, last use); returns the bytes of those files that were there."""
        booked: Counter[str] = Counter()
        sizes, removed = [], []
        for id, chunk, used in victims:
            self._native.index_remove(id, chunk)
            if id not in self.layouts:
                continue
            folder, geometry = self.layouts[id]
            path = folder / chunk_name(geometry, chunk)
            with (
                contextlib.suppress(OSError),  # that somebody else was faster is no error
                info.Directory(path.parent) as there,
            ):
                stat = there.stat(path.name)
                if (written := stat.st_mtime_ns // 1000) > used + 1000:  # another process just wrote it
                    self._native.index_add(id, chunk, stat.st_size, written)
                    continue
                there.remove(path.name)
                booked[self._layers[id]] -= stat.st_size
                sizes.append(stat.st_size)
            self._native.drop_block(id, chunk)
            removed.append((id, chunk))
        self._journal.note_removed(removed)
        if self._removed is not None:
            self._removed.update(removed)
        if sizes:
            self.ledger.add(booked, evictions=1)
            self._count("evicted", len(sizes))
            self._count("evicted_bytes", sum(sizes))
        return sizes

    def _evict_documents(self, size: int, files: int) -> int:
        """Remove listings and documents, those first that were remembered longest ago; returns the bytes freed."""
        if size <= 0 and files <= 0:
            return 0
        freed, left = 0, 0
        for _, length, path in sorted(documents(self._root)):
            if size <= 0 and files <= 0:
                left += length
                continue
            with contextlib.suppress(FileNotFoundError), info.Directory(path.parent) as there:
                there.remove(path.name)
                freed, size, files = freed + length, size - length, files - 1
                self._count("evicted_documents")
        self.ledger.add(documents=left - self.ledger.now().documents)
        return freed

    # What is in the folder

    def _learn(self) -> None:
        """Take in what other processes cached, unless that was done just now; from the files if the database does not tell."""
        with self._learning:
            if time.monotonic() >= self._learn_again and not (self._load() and self._agrees()):
                self._look.run()

    def _load(self) -> bool:
        """Take in what the database tells. Whether it was of use."""
        began = time.monotonic()
        self._journal.flush()
        loaded = None if self._journal.rebuild_wanted else self._journal.load()
        if loaded is None:
            return False
        arrays, rows = loaded
        try:
            for id, (folder, layout) in arrays.items():
                self.note_array(id, self._inside(folder), Geometry.from_json(layout), str(layout["layer"]))
        except (KeyError, TypeError, ValueError):  # a row that no version of ours wrote
            return False
        self._keep_only(arrays)
        self._native.index_replace(rows, self._journal.written_until)
        self._learn_again = _next_time(began)
        return True

    def _agrees(self) -> bool:
        """Whether index and record tell about the same; else a writer died, or somebody cleaned up by hand."""
        known, total = self._native.index_bytes(), self.ledger.now().size - self.ledger.reserved
        return abs(total - known) <= total * DRIFT + DRIFT_BYTES

    def _inside(self, folder: str) -> Path:
        """A folder that the database names. Raises ValueError if it is not in the cache: files there would be evicted."""
        path = Path(os.path.normpath(self._root / folder))
        if self._root not in path.parents:
            raise ValueError(f"{folder!r} is no folder of the cache")
        return path

    def heal(self) -> None:
        """Upkeep: what was lost is counted again, what others evicted is let go of, what is too much goes. Raises OSError."""
        if self._journal.rebuild_wanted:
            self._look.run()
        if self.policy == "epoch":
            self.epochs.stale_before()
        usage = self.ledger.add()
        if usage is None:
            return
        if usage.evictions != self._evictions_seen:
            self._evictions_seen = usage.evictions
            self._let_go()
        if not self._learn_again and self.limit and usage.size > LOW_WATER * self.limit:
            self._learn()  # in good time, so that no reader waits for it
        if self._grown and self.limit and usage.size + usage.documents > self.limit:
            self.shrink()
        self._grown = False
        self._evict_later()

    def _let_go(self) -> None:
        """Of what others have evicted or replaced: a held mapping keeps the space of an unlinked file."""
        held = self._native.held()
        for id in {id for id, _ in held}:
            layout = self.layouts.get(id)
            cached = read_layout(layout[0]) if layout else None
            if cached is not None and cached.id != id:
                self._drop(id)
        for id, chunk in held:
            layout = self.layouts.get(id)
            if layout and not (layout[0] / chunk_name(layout[1], chunk)).exists():
                self._native.drop_block(id, chunk)

    def _keep_only(self, ids: Collection[int]) -> None:
        """Of the arrays that are not read here, forget all but these."""
        for id in self.layouts.keys() - self._read_here.keys() - {*ids}:
            self.forget_array(id)

    def _evict_later(self) -> None:
        """Go on where somebody was in a hurry."""
        if not any(self._later.values()):
            return
        with self._locks.hold(_EVICT_LOCK, timeout=0) as held:
            if held:
                later, self._later = self._later, {}
                for group, more in later.items():
                    self._evict(0, 0, group, more, hurry=False)

    def _rescan_if_lost(self) -> None:
        with self._locks.hold(_COUNT_LOCK, timeout=30):
            if self.ledger.add() is None:  # else another process has counted meanwhile
                self.rescan()

    def rescan(self) -> None:
        """Make index, database and record anew from the files. Removes what crashed processes left behind. Raises OSError."""
        with self._scanning:
            self._removed = set()
            try:
                self._rescan()
            finally:
                self._removed = None

    def _rescan(self) -> None:
        began, since = time.monotonic(), int(time.time() * 1e6)
        self._journal.rebuild_wanted = False
        before = self._journal.arrays()
        arrays: dict[int, tuple[str, dict[str, Any]]] = {}
        found: list[npt.NDArray[np.uint64]] = [np.empty((0, 4), np.uint64)]
        for folder, cached, files in cached_files(self._root):
            self.note_array(cached.id, folder, cached.geometry, cached.layer)
            if cached.id not in arrays:
                layout = {**cached.geometry.to_json(), "layer": cached.layer}
                arrays[cached.id] = (folder.relative_to(self._root).as_posix(), layout)
            rows = [
                (cached.id, chunk, size, int(used * 1e6))
                for name, size, used in files
                if (chunk := chunk_index(cached.geometry, name)) is not None
            ]
            found.append(np.array(rows, np.uint64).reshape(-1, 4))
        table = np.concatenate(found)
        papers = sum(size for _, size, _ in documents(self._root))
        # What this process writes meanwhile is in the index, and shall be in the record once.
        with self.ledger.mutex:
            if gone := self._removed:
                table = table[[key not in gone for key in zip(*table.T[:2].tolist(), strict=True)]]
            self._native.index_replace(table.T, since)
            sizes = {layer: self._native.index_bytes(group) for layer, group in self._groups.items()}
            self.ledger.restart(sizes, papers)
        self._journal.replace(arrays, map(np.ndarray.tolist, table), since, before)
        self._keep_only(arrays)
        self._look_again = self._learn_again = _next_time(began)
        self._count("rescans")


def _spare(limit: int) -> int:
    """What is freed beyond need."""
    return int(limit * (1 - LOW_WATER))


def _next_time(began: float) -> float:
    """When work that began then may be done again: it shall take no more than a twentieth of the time."""
    now = time.monotonic()
    return now + max(LEARN_S, 20 * (now - began))
