"""Keeps an index right: looks at layers, and at nothing that has not changed.

What tells of a change is a stamp for each file (see `Layer.stamps`) and a digest of all stamps of a run. A scan looks at each
run of each layer: an equal digest ends it; else the run is listed, and what has another stamp is read.

Layers are read without holding up anybody, so meanwhile somebody may write: `changes` counts the changes of a run that went through
copick, and the results of other scans. If it is another one when there is a result, it is looked for again; after a few times
alone, while others wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from copick.errors import CopickError, LayerError
from copick.index.listings import put_listing
from copick.index.looks import Failures, Found, file_name, find, look_at
from copick.index.rows import (
    KEY,
    all_ids,
    clean,
    drop_orphans,
    held_rows,
    key_row,
    name_of,
    run_of,
)
from copick.index.schema import encoded
from copick.index.things import Held, Thing, facts, split_words
from copick.kinds import CHILDREN, FEATURES, OBJECT, RUN, TOMOGRAM, Kind, Ref, normal
from copick.util.progress import Progress

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from copick.index.schema import Database
    from copick.layers.layer import Layer
    from copick.meta import Meta

logger = logging.getLogger("copick.index")

BATCH = 64
"""Runs that are written in one go."""
LEASE_S = 60.0
"""After so long without a word of it, a process that scans counts as dead."""
TRIES = 3
"""How often something is looked at beside others who write there."""


class Look(NamedTuple):
    """What a layer has of one run, or of the objects (run "")."""

    layer: str
    run: str
    digest: str | None
    found: dict[Ref, Found] | None
    """None: all is as it was."""
    changes: int
    """How many changes had been counted before."""


class Known(NamedTuple):
    """What the index says of a run in a layer."""

    digest: str | None
    changes: int


class Noted(NamedTuple):
    """What the index says of a run in a layer that somebody has just written to."""

    layer_id: int
    changes: int
    held: dict[Ref, int]

    def folders(self) -> set[Ref]:
        return {each for each in self.held if each.kind.payload == "folder"}


class Writer:
    """The only one who writes an index."""

    def __init__(self, database: Database, layers: Sequence[Layer]) -> None:
        self.database, self.layers = database, tuple(layers)
        self._words: set[str] = set()  # that this transaction put into the vocabulary
        self._leased = 0.0

    # Scans

    def update(
        self,
        names: Iterable[str] | None = None,
        runs: Collection[str] | None = None,
        *,
        full: bool = False,
        workers: int = 8,
        pace: float = 0.0,
    ) -> None:
        """Look for changes.

        Args:
            names: The layers to look at; None = all.
            runs: Only in these runs, "" = the objects; None = all.
            full: Read everything again.
            workers: How many runs to look at at a time.
            pace: Rest so many times as long as the work took, so that others get on.

        Raises:
            LayerError: The index cannot be written, or a layer could not be asked; what was found until then counts.
        """
        wanted = [layer for layer in self.layers if names is None or layer.name in set(names)]
        with self._writing(create=True) as db:
            for layer in self.layers:
                self._register(db, layer)
        failed = []
        for layer in wanted:
            began, failures = time.time(), Failures()
            try:
                self._scan(layer, runs, full, workers, pace, failures)
            except CopickError as error:
                failed.append(f"layer {layer.name!r}: {error}")
                self._note(layer, problem=str(error))
            else:
                problem = str(failures) or None
                if problem:
                    logger.warning("layer %r: %s", layer.name, problem)
                if runs is None:
                    self._note(layer, scanned=began, took=time.time() - began, problem=problem)
        if failed:
            raise LayerError("; ".join(failed))

    @contextmanager
    def _writing(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        with self.database.writing(create=create) as db:
            self._words.clear()
            yield db

    def lease(self) -> bool:
        """Become the process that scans; False if another one does."""
        holder, now = f"{socket.gethostname()} {os.getpid()}", time.time()
        with self._writing(create=True) as db:
            row = db.execute("SELECT holder, until FROM lease").fetchone()
            if row is not None and row[0] != holder and now < row[1] < now + 2 * LEASE_S:
                return False
            db.execute("INSERT OR REPLACE INTO lease VALUES (1, ?, ?)", (holder, now + LEASE_S))
            self._leased = now
            return True

    def _renew(self) -> None:
        """Go on being the process that scans, if this is it."""
        if self._leased and not 0 <= time.time() - self._leased < LEASE_S / 4:
            self.lease()

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LEASE_S / 4))
            self._renew()

    def _register(self, db: sqlite3.Connection, layer: Layer) -> None:
        """Make the layer known. What was known of another place under this name is dropped."""
        row = db.execute("SELECT id, location FROM layers WHERE name = ?", (layer.name,)).fetchone()
        if row is not None and row[1] != layer.content:
            held = "SELECT DISTINCT run FROM holdings JOIN entities ON entities.id = entity WHERE layer = ?"
            runs = db.execute(held, (row[0],)).fetchall()
            for table in ("holdings", "facts", "points", "runs"):
                db.execute(f"DELETE FROM {table} WHERE layer = ?", (row[0],))
            db.execute("DELETE FROM layers WHERE id = ?", (row[0],))
            for (run,) in runs:
                drop_orphans(db, run)
                put_listing(db, run)
        db.execute("INSERT OR IGNORE INTO layers (name, location) VALUES (?, ?)", (layer.name, layer.content))

    def _note(self, layer: Layer, **fields: Any) -> None:
        told = ", ".join(f"{name} = :{name}" for name in fields)
        known = {**fields, "layer": layer.name, "place": layer.content}
        with self._writing() as db:
            db.execute(f"UPDATE layers SET {told} WHERE name = :layer AND location = :place", known)

    @staticmethod
    def _id(db: sqlite3.Connection, layer: Layer) -> int:
        """Of a layer that was made known. Raises LayerError if another project has since called another place so."""
        asked = "SELECT id FROM layers WHERE name = ? AND location = ?"
        row = db.execute(asked, (layer.name, layer.content)).fetchone()
        if row is None:
            raise LayerError(
                f"layer {layer.name!r} went from the index meanwhile: another project calls another place so (state another "
                "db_path in one of them), or the index was made again"
            )
        return int(row[0])

    def _scan(
        self,
        layer: Layer,
        runs: Collection[str] | None,
        full: bool,
        workers: int,
        pace: float,
        failures: Failures,
    ) -> None:
        source = layer.source
        source.refresh()
        before = self._known(layer)  # first: who then deletes a run that is in the list has changed it
        stamps = source.stamps(None, RUN) or {}
        metas = {RUN.ref(meta, None): meta for meta in source.list(None, RUN)}
        refs: list[Ref | None] = [ref for ref in metas if runs is None or name_of(ref) in runs]
        if runs is None or "" in runs:
            refs.append(None)  # the objects
        self._drop_runs(layer, metas, runs)
        batches = (refs[at : at + BATCH] for at in range(0, len(refs), BATCH))
        nothing = Known(None, 0)

        with (
            Progress(f"indexing {layer.name}", len(refs)) as progress,
            ThreadPoolExecutor(max(1, workers), thread_name_prefix="copick-index") as pool,
        ):
            for batch in batches:
                began = time.monotonic()
                known = self._known(layer, [name_of(ref) for ref in batch])

                def look(ref: Ref | None, known: Mapping[str, Known] = known) -> Look:
                    name = name_of(ref)
                    now = known.get(name, nothing)
                    if ref and now.changes != before.get(name, nothing).changes:
                        source.refresh(ref)  # what it remembers may be older
                        if not source.exists(ref):
                            return Look(layer.name, name, None, {}, now.changes)
                    stamp, meta = (stamps.get(file_name(ref)), metas[ref]) if ref else ("", None)
                    return self._look(layer, ref, now, stamp, full, meta, failures)

                looks = [*(pool.map(look, batch) if workers > 1 else map(look, batch))]
                if any(each.found is not None for each in looks):
                    self._write(layer, looks)
                progress.step(len(batch))
                self._rest(pace * (time.monotonic() - began))

    def _known(self, layer: Layer, runs: Sequence[str] | None = None) -> dict[str, Known]:
        """What the index says of these runs in a layer; None = all."""
        these = "" if runs is None else f"AND run IN ({','.join('?' * len(runs))})"
        with self.database.reading() as db:
            asked = f"SELECT run, digest, changes FROM runs WHERE layer = ? {these}"
            rows = db.execute(asked, (self._id(db, layer), *(runs or ())))
            return {run: Known(digest, changes) for run, digest, changes in rows}

    def _look(
        self,
        layer: Layer,
        run: Ref | None,
        known: Known,
        stamp: str | None,
        full: bool,
        meta: Meta | None = None,
        failures: Failures | None = None,
    ) -> Look:
        """What a layer has of a run now. `stamp`, `meta`: of the run itself."""
        source, name = layer.source, name_of(run)
        digest, stamps = hashlib.blake2b(str(stamp).encode(), digest_size=16), {}
        told = stamp is not None
        places = [*self._places(run)]
        for parent, kind in places:
            found = source.stamps(parent, kind)
            told = told and found is not None and None not in found.values()
            stamps[parent, kind] = found or {}
            digest.update(repr((str(parent), kind.name, sorted((found or {}).items(), key=str))).encode())
        fresh = digest.hexdigest() if told else None
        if fresh is not None and fresh == known.digest and not full:
            return Look(layer.name, name, fresh, None, known.changes)
        before = self._stamps(layer, name)
        result: dict[Ref, Found] = {}

        def look(ref: Ref, stamp: str | None, meta: Meta | None) -> None:
            self._renew()
            began = time.monotonic()
            result[ref] = each = find(source, ref, stamp, before, meta, full)
            if each.problem is not None and failures is not None:
                failures.add(each.problem, time.monotonic() - began)

        if run is not None:
            look(run, stamp, meta)
        for parent, kind in places:
            for child in source.list(parent, kind):
                ref = kind.ref(child, parent)
                look(ref, stamps[parent, kind].get(file_name(ref)), child)
        if any(each.problem is not None for each in result.values()):
            fresh = None
        if any(each.held is not None for each in result.values()) and layer is not source:
            layer.refresh(run)  # a cache may have what was there before
        return Look(layer.name, name, fresh, result, known.changes)

    def _places(self, run: Ref | None) -> Iterator[tuple[Ref | None, Kind]]:
        """Where something may lie in a run. What lies beside others may do so in a layer that does not have these."""
        waiting: deque[Ref | None] = deque([run])
        while waiting:
            parent = waiting.popleft()
            for kind in CHILDREN[parent.kind] if parent else (OBJECT,):
                yield parent, kind
                if kind in CHILDREN:
                    found: set[Ref] = {
                        kind.ref(meta, parent)
                        for layer in self.layers
                        for meta in layer.source.list(parent, kind)
                    }
                    by_key: list[Ref] = sorted(found, key=lambda each: each.values)
                    waiting.extend(by_key)

    def _stamps(self, layer: Layer, run: str) -> dict[Ref, str | None]:
        with self.database.reading() as db:
            return {ref: stamp for ref, _, stamp in held_rows(db, self._id(db, layer), run)}

    # Writing

    def _write(self, layer: Layer, looks: Sequence[Look]) -> None:
        for _ in range(TRIES):
            looks = self._write_what_stands(layer, looks)
            if not looks:
                return
            known = self._known(layer, [look.run for look in looks])
            looks = [self._look_again(layer, look.run, known.get(look.run, Known(None, 0))) for look in looks]
        with self._writing() as db:  # somebody writes there all the time: nobody does now
            known = self._known(layer, [look.run for look in looks])
            for look in looks:
                now = known.get(look.run, Known(None, 0))
                self._apply(db, layer, self._look_again(layer, look.run, now))

    def _write_what_stands(self, layer: Layer, looks: Sequence[Look]) -> list[Look]:
        """Write what was found; those of runs that somebody wrote to meanwhile are given back."""
        late = []
        with self._writing() as db:
            known = self._known(layer, [look.run for look in looks])
            for look in looks:
                if look.found is not None and known.get(look.run, Known(None, 0)).changes == look.changes:
                    self._apply(db, layer, look)
                elif look.found is not None:
                    late.append(look)
        return late

    def _look_again(self, layer: Layer, run: str, known: Known) -> Look:
        source = layer.source
        source.refresh()
        ref = Ref(RUN, (run,)) if run else None
        if ref is not None and not source.exists(ref):
            return Look(layer.name, run, None, {}, known.changes)
        return self._look(layer, ref, known, None, full=True)

    def _drop_runs(self, layer: Layer, listed: Iterable[Ref], runs: Collection[str] | None) -> None:
        """Runs that a layer no longer has. Raises LayerError if it has none because the place is gone."""
        names = {str(ref.values[0]) for ref in listed}
        known = [name for name in self._known(layer) if name and (runs is None or name in runs)]
        gone = [name for name in known if name not in names]
        if gone and (problem := layer.source.nowhere()):
            raise LayerError(
                f"{layer.location.strip()}: {problem}; what it held is kept until it is there again"
            )
        for name in gone:
            before = self._known(layer, [name])
            if layer.source.exists(Ref(RUN, (name,))):
                continue
            with self._writing() as db:
                if self._known(layer, [name]) == before:  # nor was it made meanwhile
                    self._apply(db, layer, Look(layer.name, name, None, {}, 0))
                    db.execute("DELETE FROM runs WHERE run = ? AND layer = ?", (name, self._id(db, layer)))

    def _apply(self, db: sqlite3.Connection, layer: Layer, look: Look) -> None:
        """Make the index say of a run in a layer what a look at it found."""
        layer_id = self._id(db, layer)
        assert look.found is not None
        before = {ref: id for ref, id, _ in held_rows(db, layer_id, look.run)}
        for ref, id in before.items():
            if ref not in look.found:
                self._remove(db, id, layer_id)
        self._put(db, layer_id, look.run, look.found)
        if before.keys() - look.found.keys():
            drop_orphans(db, look.run)
        put_listing(db, look.run)
        db.execute(
            "INSERT INTO runs VALUES (?, ?, ?, 1) "
            "ON CONFLICT DO UPDATE SET digest = excluded.digest, changes = changes + 1",
            (look.run, layer_id, look.digest),
        )

    def _put(self, db: sqlite3.Connection, layer_id: int, run: str, found: Mapping[Ref, Found]) -> None:
        ids = all_ids(db, run)
        # Parents first: also those that only other layers hold.
        for above in dict.fromkeys(above for ref in found for above in ref.walk()):
            if above not in ids:
                ids[above] = self._insert(db, above, ids)
        for ref, each in found.items():
            if each.held is not None:
                self._say(db, ids[ref], layer_id, ref, each.stamp, each.held, each.file)

    def _insert(self, db: sqlite3.Connection, ref: Ref, ids: Mapping[Ref, int]) -> int:
        above = {each.kind: each for each in ref.walk()}
        row = dict(zip(KEY, key_row(ref), strict=True))
        if "voxel_size" not in ref.kind.identity:
            row["size"] = next(
                (each.values[0] for each in above.values() if "voxel_size" in each.kind.identity), 0.0
            )
        tomogram = above[TOMOGRAM].values[0] if ref.kind in (TOMOGRAM, FEATURES) else ""
        inserted = db.execute(
            "INSERT INTO entities (parent, kind, run, tomogram, name, user, session, size, flag) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                ids[ref.parent] if ref.parent else 0,
                ref.kind.name,
                run_of(ref),
                tomogram,
                *(row[column] for column in KEY),
            ),
        )
        id = int(inserted.lastrowid or 0)
        if ref.kind is not OBJECT:
            self._set_words(db, id, Thing(ref, ()).words())
        return id

    def _say(
        self,
        db: sqlite3.Connection,
        id: int,
        layer_id: int,
        ref: Ref,
        stamp: str | None,
        held: Held,
        file: str | None,
    ) -> None:
        """What a layer says of an entity."""
        told = {(clean(key), clean(value)) for key, value in facts({**held.listed, **held.said})}
        had = db.execute(
            "SELECT count(*) FROM facts WHERE entity = ? AND layer = ?", (id, layer_id)
        ).fetchone()[0]
        db.execute(
            "INSERT OR REPLACE INTO holdings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                id,
                layer_id,
                stamp,
                json.dumps(held.listed) if held.listed else None,
                json.dumps(held.said) if held.said else None,
                json.dumps(held.shape) if held.shape is not None else None,
                held.dtype,
                held.number,
                file,
            ),
        )
        if ref.kind.name == "picks":
            self._put_points(db, id, layer_id, held)
        if not told and not had:
            return
        db.execute("DELETE FROM facts WHERE entity = ? AND layer = ?", (id, layer_id))
        db.executemany(
            "INSERT OR IGNORE INTO facts VALUES (?, ?, ?, ?)",
            [(id, layer_id, key, normal(value)) for key, value in told],
        )
        texts = db.execute("SELECT value FROM facts WHERE entity = ? AND typeof(value) = 'text'", (id,))
        spoken = {word for (text,) in texts for word in split_words(text)}
        self._set_words(db, id, Thing(ref, ()).words() | spoken)

    def _put_points(self, db: sqlite3.Connection, id: int, layer_id: int, held: Held) -> None:
        db.execute("DELETE FROM points WHERE entity = ? AND layer = ?", (id, layer_id))
        if held.points is not None and len(held.points):
            # A point that is nowhere (NaN) lies in no box; the others do.
            low, high = np.fmin.reduce(held.points, axis=0), np.fmax.reduce(held.points, axis=0)
            blob = held.points.astype("<f4").tobytes()
            if np.isnan(low).any():
                return
            box = [*low.tolist(), *high.tolist()]
            db.execute("INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (id, layer_id, *box, blob))

    def _set_words(self, db: sqlite3.Connection, id: int, words: set[str]) -> None:
        codes = sorted(map(encoded, words))
        db.execute("DELETE FROM words WHERE rowid = ?", (id,))
        db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (id, " ".join(codes)))
        if new := [code for code in codes if code not in self._words]:
            db.executemany("INSERT OR IGNORE INTO vocabulary VALUES (?)", [(code,) for code in new])
            self._words.update(new)

    @staticmethod
    def _remove(db: sqlite3.Connection, id: int, layer_id: int) -> None:
        for table in ("holdings", "facts", "points"):
            db.execute(f"DELETE FROM {table} WHERE entity = ? AND layer = ?", (id, layer_id))

    # Own writes

    def changed(self, layer: Layer, ref: Ref) -> bool:
        """Look at what was just written: `ref` in a layer, and what is above and below. False if that could not be noted."""
        if not self.database.path.exists():
            return True
        try:
            for name in layer.names:
                own = next(each for each in self.layers if each.name == name)
                self._note_change(own, ref)
        except (CopickError, OSError, StopIteration) as error:
            logger.warning(
                "a change of %s is not in the index yet, until it is updated (copick index update): %s",
                ref,
                error,
            )
            return False
        return True

    def _note_change(self, layer: Layer, ref: Ref) -> None:
        for _ in range(TRIES):
            before = self._noted(layer, ref)
            if before is None:  # it was never looked at
                return
            found, gone = look_at(layer.source, ref, before.held)
            with self._writing() as db:
                now = self._noted(layer, ref)
                if now is None or (now.changes, now.folders()) == (before.changes, before.folders()):
                    self._put_change(db, ref, now, found, gone)
                    break
        else:  # others write there all the time: they do not now
            with self._writing() as db:
                if (now := self._noted(layer, ref)) is not None:
                    found, gone = look_at(layer.source, ref, now.held)
                    self._put_change(db, ref, now, found, gone)
        if problem := next((each.problem for each in found.values() if each.problem), None):
            raise LayerError(problem)

    def _noted(self, layer: Layer, ref: Ref) -> Noted | None:
        with self.database.reading() as db:
            row = db.execute(
                "SELECT id, changes FROM layers LEFT JOIN runs ON layer = id AND run = ? "
                "WHERE name = ? AND location = ?",
                (run_of(ref), layer.name, layer.content),
            ).fetchone()
            if row is None:
                return None
            held = {each: id for each, id, _ in held_rows(db, row[0], run_of(ref))}
            return Noted(row[0], row[1] or 0, held)

    def _put_change(
        self, db: sqlite3.Connection, ref: Ref, now: Noted | None, found: Mapping[Ref, Found], gone: set[Ref]
    ) -> None:
        """Make the index say what was seen of something that was written."""
        if now is None:
            return
        run = run_of(ref)
        for each, id in now.held.items():
            beside = each.kind.beside and each.parent == ref
            if each not in found and (beside or any(each.within(folder) for folder in gone)):
                self._remove(db, id, now.layer_id)
        self._put(db, now.layer_id, run, found)
        drop_orphans(db, run)
        put_listing(db, run)
        db.execute(
            "INSERT INTO runs VALUES (?, ?, NULL, 1) "
            "ON CONFLICT DO UPDATE SET digest = NULL, changes = changes + 1",
            (run, now.layer_id),
        )
