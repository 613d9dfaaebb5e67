"""Keeps an index right: looks at layers, and at nothing that has not changed.

What tells of a change is a stamp for each file (see `Layer.stamps`) and a digest of all stamps of a run. A scan looks at each
run of each layer: an equal digest ends it; else the run is listed, and what has another stamp is read.

A scan reads without holding up anybody, so meanwhile somebody may write: `changes` counts the changes that went through copick. If
it is another one when the scan has its result, the run is looked at again, now alone.
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
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from copick.errors import CopickError, FormatError, LayerError
from copick.index.schema import encoded
from copick.index.things import Held, Thing, describe, facts, split_words
from copick.kinds import CHILDREN, FEATURES, KINDS, OBJECT, RUN, TOMOGRAM, Kind, Ref, kind_named, normal
from copick.util.progress import Progress

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from copick.index.schema import Database
    from copick.kinds import Value
    from copick.layers.layer import Layer
    from copick.meta import Meta

logger = logging.getLogger("copick.index")

BATCH = 64
"""Runs that are written in one go."""
LEASE_S = 60.0
"""After so long without a word of it, a process that scans counts as dead."""

COLUMN = {
    "name": "name",
    "tomo_type": "name",
    "feature_type": "name",
    "pickable_object_name": "name",
    "user_id": "user",
    "session_id": "session",
    "voxel_size": "size",
    "is_multilabel": "flag",
}
"""Where the fields of a key stand in `entities`."""
KEY = ("name", "user", "session", "size", "flag")
_EMPTY = {"name": "", "user": "", "session": "", "size": 0.0, "flag": 0}


def key_row(ref: Ref) -> tuple[Value, ...]:
    """What `entities` says of a key, in the order of `KEY`."""
    row = dict(_EMPTY)
    for field, value in zip(ref.kind.identity, ref.values, strict=True):
        row[COLUMN[field]] = int(value) if isinstance(value, bool) else value
    return tuple(row[column] for column in KEY)  # type: ignore[misc]


_AT = {kind: [KEY.index(COLUMN[field]) for field in kind.identity] for kind in KINDS}
_SEVERAL = {kind: itemgetter(*at) for kind, at in _AT.items() if len(at) > 1}
_FLAGGED = {kind for kind in KINDS if kind.flags}


def key_values(kind: Kind, row: Sequence[Any]) -> tuple[Value, ...]:
    """The key that such a row stands for."""
    several = _SEVERAL.get(kind)
    values = (row[_AT[kind][0]],) if several is None else several(row)
    return (*values[:-1], bool(values[-1])) if kind in _FLAGGED else values


def clean(text: Any) -> Any:
    """Text that SQLite takes: file names and JSON may hold halves of characters."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


class Found(NamedTuple):
    """An entity that a layer holds."""

    stamp: str | None
    held: Held | None
    """None: it is as it was."""
    file: str | None = None
    """What it is called there if we would call it otherwise."""


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


class Writer:
    """The only one who writes an index."""

    def __init__(self, database: Database, layers: Sequence[Layer]) -> None:
        self.database, self.layers = database, tuple(layers)
        self._words: set[str] = set()  # that this transaction put into the vocabulary

    # Scans

    def update(
        self,
        names: Iterable[str] | None = None,
        run: str | None = None,
        *,
        full: bool = False,
        workers: int = 8,
        pace: float = 0.0,
    ) -> None:
        """Look for changes.

        Args:
            names: The layers to look at; None = all.
            run: Only in this run; "" = only the objects.
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
            began = time.time()
            try:
                self._scan(layer, run, full, workers, pace)
            except LayerError as error:
                failed.append(f"layer {layer.name!r}: {error}")
                self._note(layer, problem=str(error))
            else:
                if run is None:
                    self._note(layer, scanned=began, took=time.time() - began, problem=None)
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
            return True

    def _register(self, db: sqlite3.Connection, layer: Layer) -> None:
        """Make the layer known. What was known of another place under this name is dropped."""
        row = db.execute("SELECT id, location FROM layers WHERE name = ?", (layer.name,)).fetchone()
        if row is not None and row[1] != layer.location:
            for table in ("holdings", "facts", "points", "runs"):
                db.execute(f"DELETE FROM {table} WHERE layer = ?", (row[0],))
            db.execute("DELETE FROM layers WHERE id = ?", (row[0],))
            for (run,) in db.execute("SELECT DISTINCT run FROM entities").fetchall():
                _drop_orphans(db, run)
        db.execute(
            "INSERT OR IGNORE INTO layers (name, location) VALUES (?, ?)", (layer.name, layer.location)
        )

    def _note(self, layer: Layer, **fields: Any) -> None:
        told = ", ".join(f"{name} = :{name}" for name in fields)
        with self._writing() as db:
            db.execute(f"UPDATE layers SET {told} WHERE name = :layer", {**fields, "layer": layer.name})

    def _scan(self, layer: Layer, run: str | None, full: bool, workers: int, pace: float) -> None:
        source = layer.source
        source.refresh()
        stamps = source.stamps(None, RUN) or {}
        metas = {RUN.ref(meta, None): meta for meta in source.list(None, RUN)}
        refs: list[Ref | None] = [ref for ref in metas if run is None or ref.values[0] == run]
        if run in (None, ""):
            refs.append(None)  # the objects
        self._drop_runs(layer, metas, run)
        batches = (refs[at : at + BATCH] for at in range(0, len(refs), BATCH))
        with (
            Progress(f"indexing {layer.name}", len(refs)) as progress,
            ThreadPoolExecutor(max(1, workers), thread_name_prefix="copick-index") as pool,
        ):
            for batch in batches:
                began = time.monotonic()
                known = self._known(layer, [_name(ref) for ref in batch])

                def look(ref: Ref | None, known: Mapping[str, Known] = known) -> Look:
                    stamp = stamps.get(_file_name(ref)) if ref else ""
                    meta = metas[ref] if ref else None
                    return self._look(layer, ref, known.get(_name(ref), Known(None, 0)), stamp, full, meta)

                looks = [*(pool.map(look, batch) if workers > 1 else map(look, batch))]
                if any(each.found is not None for each in looks):
                    self._write(layer, looks)
                progress.step(len(batch))
                if pace:
                    time.sleep(pace * (time.monotonic() - began))
                    self.lease()

    def _known(self, layer: Layer, runs: Sequence[str]) -> dict[str, Known]:
        marks = ",".join("?" * len(runs))
        with self.database.reading() as db:
            rows = db.execute(
                "SELECT run, digest, changes FROM runs JOIN layers ON layers.id = layer "
                f"WHERE layers.name = ? AND run IN ({marks})",
                (layer.name, *runs),
            )
            return {run: Known(digest, changes) for run, digest, changes in rows}

    def _look(
        self,
        layer: Layer,
        run: Ref | None,
        known: Known,
        stamp: str | None,
        full: bool,
        meta: Meta | None = None,
    ) -> Look:
        """What a layer has of a run now. `stamp`, `meta`: of the run itself."""
        source, name = layer.source, _name(run)
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
        before = {} if full else self._stamps(layer, name)
        result: dict[Ref, Found] = {}
        if run is not None:
            result[run] = _found(source, run, stamp, before, meta)
        for parent, kind in places:
            for child in source.list(parent, kind):
                ref = kind.ref(child, parent)
                result[ref] = _found(source, ref, stamps[parent, kind].get(_file_name(ref)), before, child)
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
            return {ref: stamp for ref, _, stamp in _rows(db, layer.name, run)}

    # Writing

    def _write(self, layer: Layer, looks: Sequence[Look]) -> None:
        with self._writing() as db:
            known = self._known(layer, [look.run for look in looks])
            for look in looks:
                now = known.get(look.run, Known(None, 0))
                if look.found is not None and now.changes == look.changes:
                    self._apply(db, layer, look)
                elif look.found is not None:  # somebody wrote meanwhile: nobody does now
                    self._apply(db, layer, self._look_again(layer, look.run, now))

    def _look_again(self, layer: Layer, run: str, known: Known) -> Look:
        source = layer.source
        source.refresh()
        ref = Ref(RUN, (run,)) if run else None
        if ref is not None and not source.exists(ref):
            return Look(layer.name, run, None, {}, known.changes)
        return self._look(layer, ref, known, None, full=True)

    def _drop_runs(self, layer: Layer, listed: Iterable[Ref], run: str | None) -> None:
        """Runs that a layer no longer has. Raises LayerError if it has none because the place is gone."""
        names = {str(ref.values[0]) for ref in listed}
        with self.database.reading() as db:
            rows = db.execute(
                "SELECT run FROM runs JOIN layers ON layers.id = layer WHERE layers.name = ? AND run <> ''",
                (layer.name,),
            )
            gone = [name for (name,) in rows if name not in names and run in (None, name)]
        if gone and (problem := layer.source.nowhere()):
            raise LayerError(
                f"{layer.location.strip()}: {problem}; what it held is kept until it is there again"
            )
        for name in gone:
            with self._writing() as db:
                if not layer.source.exists(Ref(RUN, (name,))):  # nor was it made meanwhile
                    self._apply(db, layer, Look(layer.name, name, None, {}, 0))
                    db.execute(
                        "DELETE FROM runs WHERE run = ? AND layer = (SELECT id FROM layers WHERE name = ?)",
                        (name, layer.name),
                    )

    def _apply(self, db: sqlite3.Connection, layer: Layer, look: Look) -> None:
        """Make the index say of a run in a layer what a look at it found."""
        (layer_id,) = db.execute("SELECT id FROM layers WHERE name = ?", (layer.name,)).fetchone()
        assert look.found is not None
        before = {ref: id for ref, id, _ in _rows(db, layer.name, look.run)}
        for ref, id in before.items():
            if ref not in look.found:
                self._remove(db, id, layer_id)
        self._put(db, layer_id, look.run, look.found)
        if before.keys() - look.found.keys():
            _drop_orphans(db, look.run)
        db.execute(
            "INSERT INTO runs VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET digest = excluded.digest",
            (look.run, layer_id, look.digest, look.changes),
        )

    def _put(self, db: sqlite3.Connection, layer_id: int, run: str, found: Mapping[Ref, Found]) -> None:
        ids = _ids(db, run)
        # Parents first: also those that only other layers hold.
        for each in dict.fromkeys(above for ref in found for above in ref.walk()):
            if each not in ids:
                ids[each] = self._insert(db, each, ids)
        for ref, (stamp, held, file) in found.items():
            if held is not None:
                self._say(db, ids[ref], layer_id, ref, stamp, held, file)

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
            box = [*held.points.min(axis=0).tolist(), *held.points.max(axis=0).tolist()]
            blob = held.points.astype("<f4").tobytes()
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
        run = run_of(ref)
        with self._writing() as db:  # alone: of two that write at once, the later sees what both did
            row = db.execute(
                "SELECT id FROM layers WHERE name = ? AND location = ?", (layer.name, layer.location)
            ).fetchone()
            if row is None:  # it was never looked at
                return
            (layer_id,) = row
            held = {each: id for each, id, _ in _rows(db, layer.name, run)}
            found, gone = self._look_at(layer.source, ref, held)
            for each in gone:
                self._remove(db, held[each], layer_id)
            self._put(db, layer_id, run, found)
            _drop_orphans(db, run)
            db.execute(
                "INSERT INTO runs VALUES (?, ?, NULL, 1) "
                "ON CONFLICT DO UPDATE SET digest = NULL, changes = changes + 1",
                (run, layer_id),
            )

    def _look_at(self, source: Layer, ref: Ref, held: Iterable[Ref]) -> tuple[dict[Ref, Found], set[Ref]]:
        """What a layer has now of `ref`, the folders it lies in, and what lies beside it; and what of `held` it has no more."""
        there = source.exists(ref)
        found = {ref: _found(source, ref, None, {})} if there else {}
        gone: set[Ref] = set()
        for folder in [each for each in ref.walk() if each.kind.payload == "folder" and each != ref]:
            if there or source.exists(folder):
                if folder not in held:
                    found[folder] = _found(source, folder, None, {})
            else:
                gone.update(each for each in held if each.within(folder))
        beside = [kind for kind in CHILDREN.get(ref.kind, ()) if kind.beside]
        gone.update(each for each in held if each.within(ref) and (not there or each.kind in beside))
        for kind in beside:
            for meta in source.list(ref, kind):
                each = kind.ref(meta, ref)
                found[each] = _found(source, each, None, {}, meta)
        return found, gone - found.keys()


def _found(
    source: Layer, ref: Ref, stamp: str | None, before: Mapping[Ref, str | None], meta: Any = None
) -> Found:
    if stamp is not None and before.get(ref) == stamp:
        return Found(stamp, None)
    held = describe(source, ref, ref.kind.meta_of(ref.values) if meta is None else meta)
    return Found(stamp, held, source.odd_name(ref))


def _name(run: Ref | None) -> str:
    return str(run.values[0]) if run else ""


def run_of(ref: Ref) -> str:
    """The name of the run that `ref` belongs to; "" for objects."""
    top = next(ref.walk())
    return _name(top) if top.kind is RUN else ""


def _file_name(ref: Ref) -> str:
    try:
        return ref.file_name
    except FormatError:  # readable although we would not write it
        return ""


def _refs(rows: Iterable[tuple[Any, ...]], known: dict[int, Ref]) -> Iterator[Ref]:
    """The addresses of rows (id, parent, kind, *KEY), which come parents first."""
    for id, parent, kind_name, *key in rows:
        kind = kind_named(kind_name)
        known[id] = Ref(kind, key_values(kind, key), known.get(parent))
        yield known[id]


def _ids(db: sqlite3.Connection, run: str) -> dict[Ref, int]:
    """Everything in a run, by any layer."""
    columns = f"id, parent, kind, {', '.join(KEY)}"
    rows = db.execute(f"SELECT {columns} FROM entities WHERE run = ? ORDER BY id", (run,)).fetchall()
    known: dict[int, Ref] = {}
    return {ref: row[0] for row, ref in zip(rows, _refs(rows, known), strict=True)}


def _rows(db: sqlite3.Connection, layer: str, run: str) -> list[tuple[Ref, int, str | None]]:
    """(address, id, stamp) of what a layer holds of a run."""
    held = dict(
        db.execute(
            "SELECT entity, stamp FROM holdings JOIN entities ON entities.id = entity "
            "WHERE run = ? AND layer = (SELECT id FROM layers WHERE name = ?)",
            (run, layer),
        )
    )
    return [(ref, id, held[id]) for ref, id in _ids(db, run).items() if id in held] if held else []


def _drop_orphans(db: sqlite3.Connection, run: str) -> None:
    """Remove entities of a run that no layer holds and nothing belongs to."""
    while True:
        rows = db.execute(
            "SELECT id FROM entities AS e WHERE run = ? AND NOT EXISTS (SELECT 1 FROM holdings WHERE entity = e.id) "
            "AND NOT EXISTS (SELECT 1 FROM entities WHERE parent = e.id)",
            (run,),
        ).fetchall()
        if not rows:
            return
        db.executemany("DELETE FROM words WHERE rowid = ?", rows)
        db.executemany("DELETE FROM entities WHERE id = ?", rows)
