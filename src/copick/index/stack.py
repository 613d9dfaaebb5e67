"""A stack of layers that lists from an index, and keeps the index right when it writes."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from copick.errors import CopickError, LayerError
from copick.index.reader import Ahead, Listing, Reader
from copick.index.rows import run_name, run_of
from copick.index.schema import Database
from copick.index.things import leaves
from copick.index.writer import Writer
from copick.kinds import RUN, Ref
from copick.layers.stack import LayerStack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from copick.config import CopickConfigSQLiteDB
    from copick.kinds import Kind
    from copick.layers.layer import Entry, Layer
    from copick.layers.stack import Holding
    from copick.meta import Meta

logger = logging.getLogger("copick.index")

AHEAD = 64
"""Runs whose listings are read at once in a walk over all."""
PACE = 3.0
"""A scan in the background works a quarter of the time."""
AGAIN_S = 60.0
"""After a failure, or while another process scans, a scan in the background waits so long."""


FRESH_S = 0.05
"""What was read ahead counts so long before it is asked whether another process has changed the index."""


class _Memory:
    """What was read of one state of the index. When that changes there is a new one: who is still reading fills the old one."""

    def __init__(self, version: tuple[int, ...] = ()) -> None:
        self.version = version
        self.checked = 0.0
        self.runs: list[str] = []
        self.ahead = Ahead({}, {}, {}, {})
        self.width = 1


class IndexedStack(LayerStack):
    """Layers in order of priority whose listings are remembered in a database.

    What was refreshed is asked of the layers themselves until the index was updated. A database that cannot be used is
    passed by, with one line in the log. Stacks of some of the layers (`narrowed`) ask the layers, and tell the index
    what they write.
    """

    def __init__(
        self, layers: Sequence[Layer], *args: Any, index: CopickConfigSQLiteDB, **options: Any
    ) -> None:
        super().__init__(layers, *args, **options)
        self.config = index
        self.database = Database(index.db_path)
        self._start_afresh()
        self._watch: _Watch | None = _Watch(self) if index.auto_index else None

    def _start_afresh(self) -> None:
        self.observers.append(self)
        places = leaves(self)
        members = {name: layer for layer in self.layers for name in layer.names}
        self.reader, self.writer = Reader(self.database, places, members), Writer(self.database, places)
        # What may be otherwise than the index says: entities and what is below (None: everything), and the lists (parent,
        # kind) that these entities stand in. Each with a mark of its own: it may be doubted again while it is looked at.
        self._doubts: dict[Ref | tuple[Ref | None, Kind] | None, object] = {}
        # Somebody is about to write these: what is asked of them must be true.
        self._changing_now: set[Ref] = set()
        self._forget_read()
        self._complained = False

    def _forget_read(self) -> None:
        self._memory = _Memory()

    def __repr__(self) -> str:
        return f"<IndexedStack {' › '.join(layer.name for layer in self.layers)} in {self.database.path}>"

    def __getstate__(self) -> dict[str, Any]:
        kept = {*vars(LayerStack(())), "config", "database"}
        state = {key: value for key, value in super().__getstate__().items() if key in kept}
        return {**state, "observers": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._start_afresh()
        self._watch = None  # the process that made it watches

    # Listings

    def entries(self, parent: Ref | None, kind: Kind) -> Iterable[Entry]:
        if self._doubts and self._in_doubt(parent, kind):
            return super().entries(parent, kind)
        try:
            entries, self._holding[parent, kind] = self._listed(parent, kind)
        except LayerError as error:
            self.complain(error)
            return super().entries(parent, kind)
        return entries

    def listed(self, ref: Ref) -> Meta | None:
        if ref.kind is not RUN or self._in_doubt(None, RUN):
            return super().listed(ref)
        try:
            return next((meta for _, meta in self.reader.alone(str(ref.values[0]))[0]), None)
        except LayerError as error:
            self.complain(error)
            return super().listed(ref)

    def remember(self, ref: Ref, names: Iterable[str]) -> None:
        """That these layers hold `ref`, as the index says: nobody asks them again."""
        self._known(ref)[ref.values] = self.reader.members(names)

    def _now(self) -> _Memory:
        """What was read of the index as it is now."""
        if time.monotonic() > self._memory.checked + FRESH_S:
            self.watch()
            self._look_for_changes()
        return self._memory

    def _listed(self, parent: Ref | None, kind: Kind) -> Listing:
        memory = self._memory
        if (
            time.monotonic() > memory.checked + FRESH_S
        ):  # as `_now` does: a walk over everything comes by here for each list
            memory = self._now()
        if parent is None:
            found = self.reader.top(kind)
            if kind is RUN:
                memory.runs = [str(run) for (run,) in found[1]]
            return found
        run: Any = parent.values[0] if parent.parent is None else run_name(parent)
        ahead = memory.ahead
        if run not in ahead.runs:
            ahead = self._read_ahead(memory, run)
        return self.reader.under(parent, kind, ahead.runs[run], ahead)

    def _look_for_changes(self) -> None:
        """Forget what was read if the index has changed since."""
        version, memory = self.database.version(), self._memory
        if version != memory.version:
            self._memory = memory = _Memory(version)
            sources = {layer.name: layer.source for layer in leaves(self)}
            for name, ref, file in self.reader.odd_names():
                sources[name].call(ref, file)
        memory.checked = time.monotonic()

    def _read_ahead(self, memory: _Memory, run: str) -> Ahead:
        """The listings of a run; in a walk over all, those of the next ones, too."""
        runs = memory.runs
        at = bisect_left(runs, run)
        is_known = runs[at : at + 1] == [run]
        walks = is_known and at > 0 and runs[at - 1] in memory.ahead.runs
        memory.width = width = min(4 * memory.width, AHEAD) if walks else 1
        names = runs[at : at + width] if is_known else [run]
        memory.ahead = found = self.reader.ahead(names, memory.ahead.texts)
        return found

    def exists(self, ref: Ref) -> bool:
        if ref not in self._changing_now and not self._in_doubt(ref.parent, ref.kind):
            try:
                if ref.values in self._siblings(ref):
                    return True
            except LayerError as error:
                self.complain(error)
        return super().exists(ref)  # what the index does not know of may be there all the same

    def _siblings(self, ref: Ref) -> Holding:
        """Which layers hold `ref` and its siblings; of a run, of which there are many, it alone."""
        if ref.kind is not RUN:
            return self._listed(ref.parent, ref.kind)[1]
        self._now()
        return self.reader.alone(str(ref.values[0]))[1]

    # Doubts

    def refresh(self, ref: Ref | None = None) -> None:
        super().refresh(ref)
        self._doubt(ref)

    def _doubt(self, *refs: Ref | None) -> None:
        for ref in refs:
            self._doubts[ref] = mark = object()
            if ref is not None:
                self._doubts[ref.parent, ref.kind] = mark

    def _believe(self, doubts: Mapping[Ref | tuple[Ref | None, Kind] | None, object]) -> None:
        """End these doubts, but for those that came again."""
        for doubted, mark in doubts.items():
            if self._doubts.get(doubted) is mark:
                self._doubts.pop(doubted, None)

    def _in_doubt(self, parent: Ref | None, kind: Kind) -> bool:
        if not self._doubts:
            return False
        if None in self._doubts or (parent, kind) in self._doubts:
            return True
        return parent is not None and any(each in self._doubts for each in parent.walk())

    def settle(self) -> None:
        """Have the index look at what was refreshed. Raises LayerError, also if it does not know all layers."""
        self._look_for_changes()
        if not (doubts := self._doubts.copy()):
            return
        self.reader.scanned()  # who only asks makes no index
        if None in doubts:
            self.update()
            return
        self.writer.update(runs={run_of(doubt) for doubt in doubts if isinstance(doubt, Ref)})
        self._believe(doubts)

    # Changes

    def changed(self, layer: Layer, ref: Ref) -> None:
        if not self.writer.changed(layer, ref):
            self._doubt(*ref.walk())
        self._forget_read()
        self._changing_now.discard(ref)

    def _forget(self, ref: Ref, *changed: Layer) -> None:
        if not changed:
            self._changing_now.add(ref)
        super()._forget(ref, *changed)

    def update(
        self,
        names: Iterable[str] | None = None,
        *,
        full: bool = False,
        workers: int = 8,
        pace: float = 0.0,
    ) -> None:
        """Look for changes in layers; None = all. See `Writer.update`."""
        chosen = None if names is None else [*names]
        doubts = self._doubts.copy()
        self.writer.update(chosen, full=full, workers=workers, pace=pace)
        if chosen is None:
            self._believe(doubts)
        self._forget_read()
        self._complained = False

    def renew(self, names: Iterable[str] | None = None, *, full: bool = False, workers: int = 8) -> None:
        """Forget what is known of layers, None = all, and have the index look at them at once. Raises LayerError."""
        chosen = None if names is None else [*names]
        if chosen is None:
            super().refresh()
        else:
            self._holding.clear()
            for name in chosen:
                self[name].refresh()
        try:
            self.update(chosen, full=full, workers=workers)
        except LayerError:
            self._doubt(None)
            raise

    def complain(self, error: Exception) -> None:
        """Say once that the index is of no use at present."""
        if not self._complained:
            self._complained = True
            logger.warning(
                "the layers are asked instead of the index: %s", str(error)
            )  # the error would keep the stack

    def watch(self) -> None:
        """Start looking for changes in the background, if the config says so."""
        if self._watch is not None:
            self._watch.start()


class _Watch:
    """Updates an index in the background: once it is older than `index_interval`, as long as its stack is in use."""

    def __init__(self, stack: IndexedStack) -> None:
        self._stack = weakref.ref(stack)
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        weakref.finalize(stack, _end, self._pid, self._ended)

    def start(self) -> None:
        if self._thread is None and self._pid == os.getpid():
            self._thread = threading.Thread(target=self._run, name="copick-index", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (stack := self._stack()) is not None:
            pause = _update_if_due(stack)
            del stack
            if pause is None:
                return
            if self._ended.wait(pause):
                return


def _end(pid: int, ended: threading.Event) -> None:
    if pid == os.getpid():  # the lock of an event may have been taken when its process forked
        ended.set()


def _update_if_due(stack: IndexedStack) -> float | None:
    """Seconds until an update is due again; None = never."""
    interval = stack.config.index_interval
    try:
        scanned = stack.reader.scanned()
    except LayerError:
        scanned = 0.0
    due = scanned + interval - time.time()
    if scanned and not interval:
        return None
    if scanned and due > 0:
        return min(due, AGAIN_S)
    try:
        if not stack.writer.lease():
            return AGAIN_S
        stack.update(workers=1, pace=PACE)
    except CopickError as error:
        stack.complain(error)
        return AGAIN_S
    return interval or None
