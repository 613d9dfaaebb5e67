"""How full the cache folder is, what may come in when it is full, and what goes for it.

All processes share the numbers: the bytes of all chunk files plus what is reserved for chunks being written, in all and for each
layer with a quota. Which chunks there are, and when each was used, every process knows roughly; whoever has to evict takes in
first what the others wrote to the database. One process evicts at a time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from copick.cache.epochs import Epochs, SharedEpochs
from copick.cache.folder import cached_files, documents, volume_lacks
from copick.cache.geometry import Geometry, chunk_index, chunk_name, grid
from copick.cache.locks import SharedTotal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from copick import _cachecore
    from copick.cache.journal import Journal
    from copick.cache.locks import RangeLocks

Policy = Literal["lru", "epoch", "pin"]
"""What may come into a full cache: anything; what takes the place of what idled for two epochs, and little else; nothing."""

LOW_WATER: Final = 0.95
"""Eviction frees space down to this share of the limit, so that it is rarely needed."""
DRIFT: Final = 0.1
"""The shared number and the index may differ by this share before the files are counted again."""
DRIFT_BYTES: Final = 1 << 20
LEARN_S: Final = 5.0
"""How long what the database said is believed; others write to it no more often."""
TELL_S: Final = 1.0
_EVICT_LOCK: Final = 2
_COUNT_LOCK: Final = 3
_PATIENCE_S: Final = 10.0
_BATCH: Final = 256  # chunks that go before others may see that there is room
_LATEST: Final = 2**64 - 1


@dataclass
class Reservation:
    """Room for chunks that are about to be written; what is not `written` in the end is given back."""

    size: int
    counts: int
    """How often the files were counted before it."""
    written: int = 0


class _Totals(NamedTuple):
    """The shared numbers: bytes of all chunks, of those of one layer (0 if it has no quota), how often files were counted."""

    size: int
    of_layer: int
    counts: int


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
    ) -> None:
        """`limit` in bytes, 0 = none; `count` notes what happened in the statistics."""
        self.limit = limit
        self.policy: Policy = "lru"
        self.quotas: dict[str, int] = {}
        """Bytes that the chunks of a layer may take; 0 or absent = any number."""
        self._root, self._native, self._journal = root, native, journal
        self._locks, self._count = locks, count
        self._metadata = root / ".cache_metadata"
        self._usage = SharedTotal(self._metadata / "usage", locks)
        self._documents = SharedTotal(self._metadata / "usage-documents", locks)
        self._document_bytes = 0  # as last seen
        self._shared_epochs = SharedEpochs(self._metadata / "epochs", locks)
        self._epochs = Epochs()
        # Array id → its folder and geometry, to name files by; its layer; how many chunks those have that are read here.
        self.layouts: dict[int, tuple[Path, Geometry]] = {}
        self._layers: dict[int, str] = {}
        self._read_here: dict[int, int] = {}
        # Layer → what the native core calls it; its shared number.
        self._groups: dict[str, int] = {}
        self._books: dict[str, SharedTotal] = {}
        self._evictions_seen = 0
        self._counted = -1  # which count of the files was this process's last
        self._learn_again, self._looked_at = 0.0, -LEARN_S
        self.after_fork()

    def after_fork(self) -> None:
        # What this process has reserved and what the shared numbers say change together.
        self._writing = threading.RLock()
        self._reserved: Counter[str] = Counter()
        self._unbooked: set[str] = set()
        self._telling = threading.Lock()
        self._told, self._told_at = self._uses(), 0.0
        self._untrimmed = False
        self._shared_epochs.after_fork()
        for shared in (self._usage, self._documents, *self._books.values()):
            shared.after_fork()

    # What is known of arrays

    def note_array(
        self, id: int, folder: Path, geometry: Geometry, layer: str, *, read: bool = False
    ) -> bool:
        """Note an array in the folder; `read`: by this process. Whether it is new."""
        if read:
            self._read_here[id] = prod(grid(geometry.shape, geometry.chunks))
        if id in self.layouts:
            return False
        group = self._groups.setdefault(layer, len(self._groups) + 1)
        self.layouts[id], self._layers[id] = (folder, geometry), layer
        self._native.assign(id, group)
        return True

    def forget_array(self, id: int) -> None:
        """An array is gone."""
        self.layouts.pop(id, None)
        self._layers.pop(id, None)
        self._read_here.pop(id, None)

    # Coming in

    @contextlib.contextmanager
    def reserve(self, size: int, id: int) -> Iterator[Reservation | None]:
        """Room for `size` bytes of an array while the block runs, evicting if need be; None if there is none. Raises OSError."""
        layer = self._layers.get(id, "")
        room = self._admit(size, layer)
        try:
            yield room
        finally:
            if room is not None:
                self._settle(room, layer)

    def _admit(self, size: int, layer: str) -> Reservation | None:
        if any(0 < bound < size for bound in (self.limit, self.quotas.get(layer, 0))):
            return None
        totals = self._add(size, layer, reserving=size)
        room, admitted = Reservation(size, totals.counts), False
        try:
            admitted = self._fits(size, layer, totals) or self._make_room(size, layer)
        finally:
            if not admitted:
                self._settle(room, layer)
        return room if admitted else None

    def _settle(self, room: Reservation, layer: str) -> None:
        """Put what was written in the place of what was reserved. Raises OSError."""
        with self._writing:
            self._reserved[layer] -= room.size
            now = self._usage.add()
            # Who counted the files knew nothing of what others had reserved.
            lost = now is not None and now.counts not in (room.counts, self._counted)
            if more := room.written - (0 if lost else room.size):
                self._book(more, layer)

    def used(self) -> int | None:
        """Bytes of all chunk files and reservations; None if nobody has counted yet. Raises OSError."""
        totals = self._usage.add()
        return None if totals is None else totals.size

    def release(self, moved: Path) -> tuple[int, list[int]]:
        """What lies in `moved` was taken out of the cache; other processes shall let go of it, too. Its bytes, its arrays' ids."""
        chunks: Counter[str] = Counter()
        ids = []
        for _, cached, files in cached_files(moved):
            ids.append(cached.id)
            sizes = [size for name, size, _ in files if chunk_index(cached.geometry, name) is not None]
            chunks[cached.layer] += sum(sizes)
        papers = sum(size for _, size, _ in documents(moved))
        with contextlib.suppress(OSError):
            for layer, size in chunks.items():
                self._add(-size, layer)
            if chunks.total():
                self._usage.add(evictions=1)
            if papers:
                self.add_documents(-papers)
        return chunks.total() + papers, ids

    # The shared numbers

    def _add(self, size: int, layer: str, *, reserving: int = 0) -> _Totals:
        """Add to the shared numbers; counts the files first if nobody knows them. Raises OSError."""
        with self._writing:
            self._reserved[layer] += reserving
            try:
                totals = self._book(size, layer)
            except OSError:
                self._reserved[layer] -= reserving
                raise
            if totals is None:
                with self._locks.hold(_COUNT_LOCK, timeout=30):
                    totals = self._book(size, layer)  # another process may have counted meanwhile
                    if totals is None:
                        self.rescan()  # the files as they are and all that is reserved: `size` is in it
                        totals = self._book(0, layer) or _Totals(max(size, 0), max(size, 0), 0)
            return totals

    def _book(self, size: int, layer: str, *, evictions: int = 0) -> _Totals | None:
        """Add to the shared numbers; None if one is not known, and nothing was added. Raises OSError."""
        of_layer = None
        if layer in self.quotas or layer not in self._unbooked:
            of_layer = self._book_of(layer).add(size)
            if of_layer is None:
                self._unbooked.add(layer)  # nobody has given it a quota
        total = self._usage.add(size, evictions=evictions)
        if total is None or (of_layer is None and self.quotas.get(layer)):
            if of_layer is not None:
                self._book_of(layer).add(-size)
            if total is not None:
                self._usage.add(-size)
            return None
        return _Totals(total.size, 0 if of_layer is None else of_layer.size, total.counts)

    def _book_of(self, layer: str) -> SharedTotal:
        if layer not in self._books:
            name = f"usage-{sha256(layer.encode()).hexdigest()[:16]}"
            self._books[layer] = SharedTotal(self._metadata / name, self._locks)
        return self._books[layer]

    def _fits(self, size: int, layer: str, totals: _Totals | None = None) -> bool:
        """Whether `size` bytes that are reserved for a layer can be written."""
        totals = totals or self._add(0, layer)
        return max(self._excess(size, totals.size)) <= 0 and self._over_quota(layer, totals.of_layer) <= 0

    def _excess(self, size: int, total: int) -> tuple[int, int]:
        """By how many bytes and files the cache is too large, or the volume too full, to write `size` bytes that are reserved."""
        # What other threads have reserved will be written too.
        lacking, files = volume_lacks(self._root, max(size, self._reserved.total()))
        if self.limit:
            lacking = max(lacking, total + self._document_bytes - self.limit)
        return lacking, files

    def _over_quota(self, layer: str, of_layer: int) -> int:
        quota = self.quotas.get(layer, 0)
        return of_layer - quota if quota else 0

    # Making room

    def _make_room(self, size: int, layer: str) -> bool:
        """Let chunks go until what is reserved fits. Whether it does; not if the policy would rather keep what is there."""
        if not self._may_come(size, layer):
            self._count("refused")
            return False
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            with self._locks.hold(_EVICT_LOCK, timeout=0.1) as held:
                if self._fits(size, layer):  # who holds the lock has made room
                    return True
                if held:
                    self._learn()
                    self._trim(size)
                    return self._fits(size, layer)
        return False

    def _may_come(self, size: int, layer: str) -> bool:
        if self.policy == "lru":
            return True
        if self.policy == "epoch" and self._ignorant():
            with self._locks.hold(_EVICT_LOCK, timeout=0.1) as held:
                if held:
                    self._learn()
        self._journal.drain()
        over = self._over_quota(layer, self._add(0, layer).of_layer) > 0
        return self._native.admits(
            self.policy, self._groups.get(layer, 0) if over else 0, self._stale_before()
        )

    def shrink(self) -> int:
        """Remove what is too much, by the limits of this process; returns the bytes freed. Raises OSError."""
        if self.policy == "pin":
            return 0
        with self._locks.hold(_EVICT_LOCK, timeout=_PATIENCE_S) as held:
            if not held:
                return 0
            self._learn()
            return self._trim(0)

    def _trim(self, size: int) -> int:
        """Remove what is too much for `size` bytes to come, and some more; returns the bytes freed.

        Chunks of layers over their quota go first, listings and documents last.
        """
        self._journal.drain()
        freed, fits = self._trim_known(size)
        if not fits and self._may_look():
            self.rescan()  # there may be chunks of which the database does not tell
            more, fits = self._trim_known(size)
            freed += more
        if not fits:
            freed += self._evict_documents(*self._excess(size, self._add(0, "").size))
        if freed:
            self._journal.flush()  # who learns next does not try what is gone
        return freed

    def _trim_known(self, size: int) -> tuple[int, bool]:
        """As `_trim`, but only chunks that are known; returns the bytes freed, and whether that is enough."""
        freed, fits = 0, True
        for layer, quota in self.quotas.items():
            if (over := self._over_quota(layer, self._add(0, layer).of_layer)) > 0:
                gone = self._evict(over, 0, self._groups.get(layer, 0), int(quota * (1 - LOW_WATER)))
                freed, fits = freed + gone, fits and gone >= over
        total = self._add(0, "").size
        need, files = self._excess(size, total)
        if need > 0 or files > 0:
            freed += self._evict(need, files, 0, int((self.limit or total) * (1 - LOW_WATER)))
        return freed, fits and max(self._excess(size, self._add(0, "").size)) <= 0

    def _evict(self, size: int, files: int, group: int, more: int) -> int:
        """Remove the least recently used chunks of a group until so many bytes and files are free, and some bytes more.

        Returns the bytes freed.
        """
        # Under `epoch` one comes for one that goes, unless that was of no use any more.
        more_before = self._stale_before() if self.policy == "epoch" else _LATEST
        size, files, freed, gone = max(size, 0), max(files, 0), 0, 0
        while True:
            extra = max(size + more - max(freed, size), 0)
            victims = self._native.victims(
                max(size - freed, 0), max(files - gone, 0), group, extra, more_before
            )
            if not victims:
                return freed
            for first in range(0, len(victims), _BATCH):
                sizes = self._remove(victims[first : first + _BATCH])
                freed, gone = freed + sum(sizes), gone + len(sizes)

    def _remove(self, victims: Sequence[tuple[int, int, int]]) -> list[int]:
        """Remove chunks (array id, chunk, last use); returns the bytes of those files that were there."""
        freed: Counter[str] = Counter()
        sizes, removed = [], []
        for id, chunk, used in victims:
            self._native.index_remove(id, chunk)
            if id not in self.layouts:
                continue
            folder, geometry = self.layouts[id]
            path = folder / chunk_name(geometry, chunk)
            with contextlib.suppress(OSError):  # that somebody else was faster is no error
                stat = path.lstat()
                if (written := stat.st_mtime_ns // 1000) > used + 1000:  # another process just wrote it
                    self._native.index_add(id, chunk, stat.st_size, written)
                    continue
                path.unlink()
                freed[self._layers[id]] += stat.st_size
                sizes.append(stat.st_size)
            self._native.drop_block(id, chunk)
            removed.append((id, chunk))
        self._journal.note_removed(removed)
        for layer, size in freed.items():
            self._book(-size, layer, evictions=1)
        self._count("evicted", len(sizes))
        self._count("evicted_bytes", sum(sizes))
        return sizes

    def _evict_documents(self, size: int, files: int) -> int:
        """Remove listings and documents, those first that were remembered longest ago; returns the bytes freed."""
        if self._document_bytes <= 0:
            return 0
        freed, left = 0, 0
        for _, bytes_of_it, path in sorted(documents(self._root)):
            if size <= 0 and files <= 0:
                left += bytes_of_it
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                freed, size, files = freed + bytes_of_it, size - bytes_of_it, files - 1
                self._count("evicted_documents")
        self._documents.set(left)
        self._see_documents()
        return freed

    # Listings and documents

    def admits_document(self, size: int) -> bool:
        """Whether a listing or document of `size` bytes is worth remembering: chunks make room for it, unless they are pinned."""
        if not self.limit:
            return True
        chunks = (self.used() or 0) if self.policy == "pin" else 0
        return chunks + self._document_bytes + size <= self.limit

    def add_documents(self, size: int) -> None:
        """Listings and documents now take `size` bytes more (or less). Raises OSError."""
        if self._documents.add(size) is None:
            self._documents.set(sum(each for _, each, _ in documents(self._root)))
        self._see_documents()
        self._untrimmed = self._untrimmed or size > 0

    @property
    def document_bytes(self) -> int:
        """Bytes of all listings and documents, as of some seconds ago."""
        return self._document_bytes

    def _see_documents(self) -> None:
        totals = self._documents.add()
        self._document_bytes = totals.size if totals else 0

    # Epochs

    def new_epoch(self, number: int | None = None) -> None:
        """An epoch of training begins. Raises OSError."""
        with self._telling:
            self._tell()
            now = int(time.time() * 1e6)
            self._epochs = self._shared_epochs.change(lambda epochs: epochs.begun(now, number))

    def _stale_before(self) -> int:
        """Chunks that were last used before this (microseconds) have idled for two epochs."""
        due = self._uses() - self._told > self._epochs.chunks // 64
        if (due or time.monotonic() - self._told_at > TELL_S) and self._telling.acquire(blocking=False):
            try:
                self._tell()
            except OSError:  # then by what is known
                pass
            finally:
                self._telling.release()
        return self._epochs.stale_before

    def _tell(self) -> None:
        """Add what was used here to what all have used. Raises OSError."""
        uses, chunks, now = self._uses(), sum(self._read_here.values()), int(time.time() * 1e6)
        since = uses - self._told
        self._epochs = self._shared_epochs.change(lambda epochs: epochs.used(since, chunks, now))
        self._told, self._told_at = uses, time.monotonic()

    def _uses(self) -> int:
        stats = self._native.stats()
        return stats["chunk_hits"] + stats["chunk_loads"] + stats["chunk_misses"] + stats["fills"]

    # What is in the folder

    def _ignorant(self) -> bool:
        """Whether what is known of the chunks in the folder is too old, or too little."""
        total = self._add(0, "").size - self._reserved.total()
        missed = abs(total - self._native.index_bytes())
        return time.monotonic() >= self._learn_again or missed > (self.limit or total) * (1 - LOW_WATER)

    def _learn(self) -> None:
        """Take in what other processes cached, unless that was done just now; from the files if the database does not tell."""
        if not self._ignorant():
            return
        began = time.monotonic()
        self._journal.flush()
        loaded = None if self._journal.rebuild_wanted else self._journal.load()
        if loaded is None or not self._take_in(*loaded):
            self.rescan()
        else:
            known, total = self._native.index_bytes(), self._add(0, "").size - self._reserved.total()
            if (
                abs(total - known) > total * DRIFT + DRIFT_BYTES
            ):  # a writer died, or somebody cleaned up by hand
                self.rescan()
        now = time.monotonic()
        self._learn_again = now + max(LEARN_S, 20 * (now - began))

    def _may_look(self) -> bool:
        """Whether it is some seconds since the files were looked at."""
        return time.monotonic() - self._looked_at > LEARN_S

    def _take_in(self, arrays: dict[int, tuple[str, dict[str, Any]]], rows: Any) -> bool:
        try:
            for id, (folder, layout) in arrays.items():
                self.note_array(id, self._root / folder, Geometry.from_json(layout), str(layout["layer"]))
        except (KeyError, TypeError, ValueError):  # a row that no version of ours wrote
            return False
        self._native.index_replace(rows, self._journal.written_until)
        return True

    def heal(self) -> None:
        """Upkeep: what was lost is counted again, what others evicted is let go of, what is too much goes. Raises OSError."""
        if self._journal.rebuild_wanted:
            with self._locks.hold(_EVICT_LOCK, timeout=0) as held:
                if held:
                    self.rescan()
        self._unbooked.clear()
        self._see_documents()
        if self.policy == "epoch":
            self._stale_before()
        totals = self._usage.add()
        if totals is None:
            return
        if totals.evictions != self._evictions_seen:
            self._evictions_seen = totals.evictions
            for key in self._native.held():
                layout = self.layouts.get(key[0])
                if layout and not (layout[0] / chunk_name(layout[1], key[1])).exists():
                    self._native.drop_block(*key)  # a held mapping keeps the space of an unlinked file
        if self._untrimmed and self.limit:
            self._untrimmed = False
            if totals.size + self._document_bytes > self.limit:
                self.shrink()

    def rescan(self) -> None:
        """Make index, database and numbers anew from the files. Removes what crashed processes left behind. Raises OSError."""
        with (
            self._writing
        ):  # what this process reserves waits: it must be in the number once, not twice or never
            self._rescan()

    def _rescan(self) -> None:
        self._journal.rebuild_wanted = False
        began = int(time.time() * 1e6)
        arrays: dict[int, tuple[str, dict[str, Any]]] = {}
        rows: list[tuple[int, int, int, int]] = []
        sizes: Counter[str] = Counter()
        for folder, cached, files in cached_files(self._root):
            self.note_array(cached.id, folder, cached.geometry, cached.layer)
            layout = {**cached.geometry.to_json(), "layer": cached.layer}
            arrays[cached.id] = (folder.relative_to(self._root).as_posix(), layout)
            for name, size, used in files:
                if (chunk := chunk_index(cached.geometry, name)) is not None:
                    rows.append((cached.id, chunk, size, int(used * 1e6)))
                    sizes[cached.layer] += size
        self._native.index_replace(np.array(rows, np.uint64).reshape(-1, 4).T, began)
        self._journal.replace(arrays, rows)
        self._counted = self._usage.set(sizes.total() + self._reserved.total()).counts
        for layer, quota in self.quotas.items():
            if quota:
                self._book_of(layer).set(sizes[layer] + self._reserved[layer])
        self._documents.set(sum(size for _, size, _ in documents(self._root)))
        self._see_documents()
        self._looked_at = time.monotonic()
        self._count("rescans", 1)
