"""Questions to an index. It gives candidates: what is asked for is among them, and who asks looks at each once more.

So what counts as found is said in one place, for the index and for the scan of layers alike.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from copick.index.listings import listed, place
from copick.index.rows import COLUMN, clean, key_values, run_name, run_of
from copick.index.schema import FAILURES, encoded
from copick.index.things import AUTHORS, TYPE_OF, TYPES, Held, Thing, Wanted
from copick.kinds import CHILDREN, OBJECT, RUN, Kind, Ref, kind_named

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from copick.index.listings import Holder, Told
    from copick.index.schema import Database
    from copick.layers.layer import Entry, Layer
    from copick.layers.stack import Holding
    from copick.meta import Meta

    Box = tuple[Sequence[float], Sequence[float]]

MANY = 64
"""Words that begin alike are looked up one by one up to so many: faster than as a beginning where they are frequent."""
TERMS = 32
"""Words of a query that the index looks up."""
CHUNK = 200
"""Entities whose details are read with one statement."""
TOLERANCE = 0.001
"""Numbers are compared to three decimals."""

_PARENT = {kind: parent for parent, kinds in CHILDREN.items() for kind in kinds}
_SHARED = {"run_name": "run", "object_name": "name", "tomo_type": "tomogram"}
_ORDER = {
    "runs": "e.run",
    "voxel_spacings": "e.run, e.size",
    "tomograms": "e.run, e.size, e.name",
    "features": "e.run, e.size, e.tomogram, e.name",
    "segmentations": "e.run, "
    + "CASE e.kind "
    + " ".join(f"WHEN '{kind.name}' THEN {at}" for at, kind in enumerate(TYPES["segmentations"]))
    + " END, e.name, e.user, e.session, e.size, e.flag",
    **dict.fromkeys(("picks", "meshes", "filaments"), "e.run, e.name, e.user, e.session"),
}
"""As the tree lists them."""


class Row(NamedTuple):
    """What a question to `entities` gives."""

    id: int
    kind: str
    run: str
    tomogram: str
    name: str
    user: str
    session: str
    size: float
    flag: int


_ROW = ", ".join(f"e.{column}" for column in Row._fields)


def ref_of(row: Row, parents: dict[tuple[Any, ...], Ref] | None = None) -> Ref:
    """The address that a row stands for. `parents`: those made before, so that there is one object of each."""
    kind = kind_named(row[1])
    return Ref(
        kind, key_values(kind, row[4:9]), _above(_PARENT[kind], row, {} if parents is None else parents)
    )


def _above(kind: Kind | None, row: Row, made: dict[tuple[Any, ...], Ref]) -> Ref | None:
    if kind is None:
        return None
    path = (
        row[2:3]
        if kind is RUN
        else (row[2], row[7])
        if "voxel_size" in kind.identity
        else (row[2], row[7], row[3])
    )
    if path not in made:
        made[path] = Ref(kind, path[-1:], _above(_PARENT[kind], row, made))
    return made[path]


Listing = tuple["Iterable[Entry]", "Holding"]
"""The children of one kind under one parent, by key, and which layers of the stack hold each."""


class Ahead(NamedTuple):
    """What lies in some runs, by name, and the layers by id, highest first: names, and those of the stack that these belong to."""

    layers: Mapping[int, str]
    members: Mapping[int, tuple[Layer, ...]]
    runs: Mapping[str, Told]


class Reader:
    """An index as a stack of layers sees it.

    Every method raises LayerError if the index cannot be read, or does not know all of the layers.

    Args:
        layers: Those that hold data themselves.
        members: The layer of the stack that each of these is, or belongs to, by name.
    """

    def __init__(self, database: Database, layers: Sequence[Layer], members: Mapping[str, Layer]) -> None:
        self.database = database
        self._leaves = tuple(layers)
        self._sources = {layer.name: layer.source for layer in layers}
        self._members = members

    @property
    def places(self) -> dict[str, str]:
        """What each layer shows, by name: what is in the config may change."""
        return {layer.name: layer.content for layer in self._leaves}

    def members(self, names: Iterable[str]) -> tuple[Layer, ...]:
        """The layers of the stack that these are, or belong to."""
        return tuple(dict.fromkeys([self._members[name] for name in names]))

    def layers(self, db: sqlite3.Connection) -> dict[int, str]:
        """Ids and names of the stack's layers, highest first. Raises LayerError if one was never looked at completely."""
        rows = db.execute("SELECT name, location, id FROM layers WHERE scanned IS NOT NULL")
        ids = {(name, location): id for name, location, id in rows}
        places = self.places
        for each in places.items():
            if each not in ids:
                from copick.errors import LayerError

                raise LayerError(
                    f"the index {self.database.path} does not know layer {each[0]!r} yet; run: copick index update"
                )
        return {ids[each]: each[0] for each in places.items()}

    def scanned(self) -> float:
        """When the layer that was not looked at for the longest time was; seconds since 1970."""
        with self.database.reading() as db:
            ids = self.layers(db)
            times = [row for row in db.execute("SELECT id, scanned FROM layers") if row[0] in ids]
        return float(min((scanned for _, scanned in times), default=0.0))

    def odd_names(self) -> list[tuple[str, Ref, str]]:
        """(layer, address, file name) of what we would call otherwise."""
        with self.database.reading() as db:
            layers = self.layers(db)
            rows = db.execute(
                f"SELECT {_ROW}, h.layer, h.file FROM holdings AS h JOIN entities AS e ON e.id = h.entity "
                "WHERE h.file IS NOT NULL"
            )
            return [
                (layers[layer], ref_of(Row._make(row)), file) for *row, layer, file in rows if layer in layers
            ]

    # Listings

    def top(self, kind: Kind) -> Listing:
        """The runs, or the objects."""
        return self._top(kind, "")

    def alone(self, run: str) -> Listing:
        """A run by that name, if there is one."""
        return self._top(RUN, "AND e.name = ?", run)

    def _top(self, kind: Kind, where: str, *values: str) -> Listing:
        with self.database.reading() as db:
            layers = self.layers(db)
            rows = db.execute(
                "SELECT e.name, h.layer, h.listed FROM entities AS e JOIN holdings AS h ON h.entity = e.id "
                f"WHERE e.parent = 0 AND e.kind = ? {where} ORDER BY e.name",
                (kind.name, *values),
            )
            held: dict[str, dict[int, Any]] = {}
            for name, layer, said in rows:
                held.setdefault(name, {})[layer] = said
            told = [[(layers[id], each[id]) for id in layers if id in each] for each in held.values()]
            return self._listing([Ref(kind, (name,)) for name in held], told)

    def ahead(self, runs: Sequence[str]) -> Ahead:
        """What lies in these runs, which are all that there are between the first and the last of them."""
        with self.database.reading() as db:
            layers = self.layers(db)
            return Ahead(layers, {id: self.members([name]) for id, name in layers.items()}, listed(db, runs))

    def under(self, parent: Ref, kind: Kind, ahead: Ahead) -> Listing:
        """The children of one kind of something in a run that was read ahead. A walk over everything spends its time here."""
        try:
            told = ahead.runs[run_name(parent)].get(place(parent, kind))
            if told is None:
                return (), {}
            values = iter(told)
            holders = next(values)
            keys = [*zip(*[values] * len(kind.identity), strict=True)]
            new = tuple.__new__  # what `Ref` calls, too, and takes twice the time
            refs = [new(Ref, (kind, key, parent)) for key in keys]
            if type(holders) is not int:
                return self._listing(refs, self._told(len(keys), holders, ahead))
            held = ahead.members.get(holders)
            return (zip(refs, repeat(None)), dict.fromkeys(keys, held)) if held else ((), {})
        except (*FAILURES, StopIteration) as error:
            raise self.database.failed(error) from error

    @staticmethod
    def _told(count: int, holders: Iterable[Holder], ahead: Ahead) -> list[list[tuple[str, Any]]]:
        """Of each of some siblings, names of the layers that hold it, highest first, and what these say."""
        told: list[list[tuple[str, Any]]] = [[] for _ in range(count)]
        by_layer = {layer: (which, said) for layer, which, said in holders}
        for id, name in ahead.layers.items():
            which, said = by_layer.get(id, ([], None))
            places = range(count) if which is None else which
            for at, text in zip(places, said or [None] * len(places), strict=True):
                told[at].append((name, text))
        return told

    def _listing(self, refs: Sequence[Ref], told: Sequence[Sequence[tuple[str, Any]]]) -> Listing:
        """Of each of some siblings, names of the layers that hold it, highest first, and what these say: none = left out."""
        entries: list[Entry] = []
        holding: Holding = {}
        for ref, each in zip(refs, told, strict=True):
            if each:
                entries.append((ref, self._meta(ref, each)))
                holding[ref.values] = self.members([name for name, _ in each])
        return entries, holding

    def _meta(self, ref: Ref, listed: Iterable[tuple[str, Any]]) -> Meta | None:
        """What listings say of an entity: names of layers, highest first, and what each says beyond the key, if anything."""
        told = [*listed]
        if not any(text for _, text in told):
            return None
        known = {**dict(zip(ref.kind.identity, ref.values, strict=True)), **ref.kind.fixed}
        found: Meta | None = None
        for at, (name, text) in enumerate(told):
            if text:
                said = text if isinstance(text, dict) else json.loads(text)
                meta = self._sources[name].meta_of(ref.kind, {**said, **known})
                first = ref.kind.meta_of(ref.values) if at and found is None else found
                found = meta if first is None else first.filled(meta)
        return found

    # Finding

    def find(self, name: str, wanted: Wanted, runs: Collection[str] | None = None) -> Iterator[Thing]:
        """Things of a type, as the tree lists them: at least those that are as wanted."""
        with self.database.reading() as db:
            layers = self.layers(db)
            conditions, values = _conditions(name, wanted, runs, layers)
            if conditions is not None:
                asked = f"SELECT {_ROW} FROM entities AS e WHERE {conditions} ORDER BY {_ORDER[name]}"
                yield from self._things(db, db.execute(asked, values), layers)

    def search(self, terms: Sequence[str], types: Iterable[str]) -> Iterator[Thing]:
        """Things that have words which begin with these, in any order."""
        with self.database.reading() as db:
            layers = self.layers(db)
            query = _query(db, terms)
            if query is None:
                return
            kinds = [kind.name for name in types for kind in TYPES[name]]
            # CROSS: the words come first. SQLite would rather ask about each run, if there are few.
            rows = db.execute(
                f"SELECT {_ROW} FROM words CROSS JOIN entities AS e ON e.id = words.rowid "
                f"WHERE words MATCH ? AND e.kind IN ({_marks(kinds)})",
                (query, *kinds),
            )
            yield from self._things(db, rows, layers)

    def points(self, wanted: Wanted, box: Box, runs: Collection[str] | None = None) -> Iterator[Thing]:
        """Picks, with their points, of which some layer says that some may be in a box: at least those."""
        (x0, y0, z0), (x1, y1, z1) = box
        with self.database.reading() as db:
            layers = self.layers(db)
            conditions, values = _conditions("picks", wanted, runs, layers)
            if conditions is None:
                return
            inside = (
                "EXISTS (SELECT 1 FROM points WHERE entity = e.id AND x1 >= ? AND x0 <= ? AND y1 >= ? AND y0 <= ? "
                "AND z1 >= ? AND z0 <= ?)"
            )
            rows = db.execute(
                f"SELECT {_ROW} FROM entities AS e WHERE {conditions} AND {inside} ORDER BY {_ORDER['picks']}",
                (*values, x0, x1, y0, y1, z0, z1),
            )
            yield from self._things(db, rows, layers, points=True)

    def _things(
        self,
        db: sqlite3.Connection,
        rows: Iterable[tuple[Any, ...]],
        layers: Mapping[int, str],
        points: bool = False,
    ) -> Iterator[Thing]:
        waiting: list[Row] = []
        for row in rows:
            waiting.append(Row._make(row))
            if len(waiting) == CHUNK:
                yield from self._described(db, waiting, layers, points)
                waiting = []
        yield from self._described(db, waiting, layers, points)

    def _described(
        self, db: sqlite3.Connection, rows: Sequence[Row], layers: Mapping[int, str], points: bool
    ) -> Iterator[Thing]:
        ids = [row.id for row in rows]
        order = {id: at for at, id in enumerate(layers)}
        where: dict[tuple[int, int], bytes] = {}
        if points:
            asked = f"SELECT entity, layer, positions FROM points WHERE entity IN ({_marks(ids)})"
            where = {(entity, layer): blob for entity, layer, blob in db.execute(asked, ids)}
        held: dict[int, list[tuple[int, Held]]] = defaultdict(list)
        asked = (
            "SELECT entity, layer, listed, said, shape, dtype, points FROM holdings "
            f"WHERE entity IN ({_marks(ids)})"
        )
        for entity, layer, told, said, shape, dtype, count in db.execute(asked, ids):
            if layer in order:
                blob = where.get((entity, layer), b"")
                one = Held(
                    layers[layer],
                    json.loads(told) if told else {},
                    json.loads(said) if said else {},
                    count,
                    np.frombuffer(blob, "<f4").reshape(-1, 3) if points and count is not None else None,
                    tuple(json.loads(shape)) if shape else None,
                    dtype,
                )
                held[entity].append((order[layer], one))
        for row in rows:
            found = sorted(held[row.id], key=lambda each: each[0])
            if found and self._is_reached(db, row, layers):
                ref, all_held = ref_of(row), [one for _, one in found]
                told = [(each.layer, each.listed) for each in all_held]
                yield Thing(ref, all_held, meta=partial(self._meta, ref, told))

    def _is_reached(self, db: sqlite3.Connection, row: Row, layers: Mapping[int, str]) -> bool:
        """Whether a layer holds what it lies beside: else nobody comes by."""
        if not kind_named(row.kind).beside:
            return True
        asked = (
            "SELECT 1 FROM holdings WHERE entity = (SELECT parent FROM entities WHERE id = ?) "
            f"AND layer IN ({_marks(layers)})"
        )
        return db.execute(asked, (row.id, *layers)).fetchone() is not None

    # Numbers

    def counts(self, name: str | None = None, runs: Collection[str] | None = None) -> dict[str, int]:
        """How many things of each type there are, in a layer alone or in all."""
        with self.database.reading() as db:
            layers = {id: each for id, each in self.layers(db).items() if name in (None, each)}
            held, values = _is_held(layers, runs)
            rows = db.execute(
                f"SELECT e.kind, count(*) FROM entities AS e WHERE {held} GROUP BY e.kind", values
            )
            found = dict.fromkeys(TYPES, 0)
            for kind, count in rows:
                if kind != OBJECT.name:
                    found[TYPE_OF[kind_named(kind)]] += count
        return found

    def totals(self, runs: Collection[str] | None = None) -> dict[str, dict[Any, Any]]:
        """Picks and their points by object, annotations by user, voxel spacings by size."""
        with self.database.reading() as db:
            layers = self.layers(db)
            held, values = _is_held(layers, runs)
            order = " ".join(f"WHEN {id} THEN {at}" for at, id in enumerate(layers))
            count = (
                f"(SELECT points FROM holdings WHERE entity = e.id AND layer IN ({', '.join(map(str, layers))}) "
                f"ORDER BY CASE layer {order} END LIMIT 1)"
            )
            picks = db.execute(
                f"SELECT e.name, count(*), sum({count}) FROM entities AS e WHERE e.kind = 'picks' AND {held} GROUP BY e.name",
                values,
            ).fetchall()
            users = db.execute(
                f"SELECT e.user, count(*) FROM entities AS e WHERE e.user <> '' AND {held} GROUP BY e.user",
                values,
            ).fetchall()
            sizes = db.execute(
                f"SELECT e.size, count(*) FROM entities AS e WHERE e.kind = 'voxel_spacing' AND {held} GROUP BY e.size",
                values,
            ).fetchall()
        return {
            "picks_by_object": {name: {"sets": n, "points": points or 0} for name, n, points in picks},
            "annotations_by_user": dict(users),
            "voxel_spacings_by_size": dict(sizes),
        }

    def status(self) -> dict[str, dict[str, Any]]:
        """What is known of each layer: when it was looked at, how long that took, how much it holds, what went wrong."""
        with self.database.reading() as db:
            rows = db.execute("SELECT id, name, location, scanned, took, problem FROM layers").fetchall()
            counted = dict(db.execute("SELECT layer, count(*) FROM holdings GROUP BY layer").fetchall())
        known = {(name, location): rest for _, name, location, *rest in rows}
        ids = {name: id for id, name, *_ in rows}
        found = {}
        for name, location in self.places.items():
            scanned, took, problem = known.get((name, location), (None, None, None))
            found[name] = {
                "indexed": scanned is not None,
                "scanned_at": scanned,
                "seconds": took,
                "entities": counted.get(ids.get(name), 0) if (name, location) in known else 0,
                "problem": problem,
            }
        return found


def _marks(values: Collection[Any]) -> str:
    return ",".join("?" * len(values))


def _is_held(layers: Collection[int], runs: Collection[str] | None) -> tuple[str, list[Any]]:
    """That one of these layers holds an entity, and what it lies beside."""
    marks = ", ".join(map(str, layers))
    held = f"EXISTS (SELECT 1 FROM holdings WHERE entity = %s AND layer IN ({marks}))"
    beside = " OR ".join(f"e.kind = '{kind.name}'" for kind in _PARENT if kind.beside)
    text = f"{held % 'e.id'} AND (NOT ({beside}) OR {held % 'e.parent'})"
    if runs is None:
        return text, []
    return f"{text} AND e.run IN ({_marks(runs)})", list(runs)


def _query(db: sqlite3.Connection, terms: Sequence[str]) -> str | None:
    """A query of FTS5 for words that begin with these terms; None if there are no such words."""
    parts = []
    for term in sorted(set(terms), key=len, reverse=True)[:TERMS]:
        code = encoded(term)
        words = db.execute(
            "SELECT word FROM vocabulary WHERE word >= ? AND word < ? LIMIT ?", (code, f"{code}{{", MANY + 1)
        ).fetchall()
        if not words:
            return None
        known = " OR ".join(f'"{word}"' for (word,) in words)
        parts.append(f"({known})" if len(words) <= MANY else f'"{code}"*')
    return " AND ".join(parts)


def _conditions(
    name: str, wanted: Wanted, runs: Collection[str] | None, layers: Mapping[int, str]
) -> tuple[str | None, list[Any]]:
    """What a row of `entities` must be like; None: none is."""
    kinds = [kind.name for kind in TYPES[name]]
    conditions, values = [f"e.kind IN ({_marks(kinds)})"], list[Any](kinds)

    def add(condition: str, given: Iterable[Any]) -> None:
        conditions.append(condition)
        values.extend(given)

    if runs is not None:
        add(f"e.run IN ({_marks(runs)})", map(clean, runs))
    for field, accepted in wanted.exact.items():
        texts = [clean(value) for value in accepted if isinstance(value, str)]
        numbers = [float(value) for value in accepted if not isinstance(value, str)]
        column = _column(TYPES[name][0], field)
        if column in ("size", "flag") or field == "point_count":
            either = " OR ".join(["%s BETWEEN ? AND ?"] * len(numbers)) or "0"
            around = [bound for value in numbers for bound in (value - TOLERANCE, value + TOLERANCE)]
            add(_where_number(column, either), around)
        elif column is not None:
            add(f"e.{column} IN ({_marks(texts)})", texts)
        elif field == "dtype":
            add(f"EXISTS (SELECT 1 FROM holdings WHERE entity = e.id AND dtype IN ({_marks(texts)}))", texts)
        elif field == "description":
            add(
                f"e.id IN (SELECT entity FROM facts WHERE key = 'description' AND value IN ({_marks(texts)}))",
                texts,
            )
    for field, (least, most) in wanted.ranges.items():
        column = _column(TYPES[name][0], field)
        if column == "size" or field == "point_count":
            add(_where_number(column, "%s BETWEEN ? AND ?"), (least - TOLERANCE, most + TOLERANCE))
    if wanted.layers is not None:
        ids = [id for id, each in layers.items() if each in wanted.layers]
        add(f"EXISTS (SELECT 1 FROM holdings WHERE entity = e.id AND layer IN ({_marks(ids)}))", ids)
    if wanted.authors is not None:
        people = [clean(author) for author in wanted.authors]
        known, there = _in_runs_of(wanted.known.get(AUTHORS, ()))
        add(
            f"({known} OR e.id IN "
            f"(SELECT entity FROM facts WHERE value IN ({_marks(people)}) AND key LIKE '%author%'))",
            [*there, *people],
        )
    for key, accepted in wanted.metadata.items():
        told = [clean(value) for value in accepted]
        known, there = _in_runs_of(wanted.known.get(key, ()))
        add(
            f"({known} OR e.id IN (SELECT entity FROM facts WHERE key = ? AND value IN ({_marks(told)})))",
            [*there, clean(key), *told],
        )
    return " AND ".join(conditions), values


def _in_runs_of(refs: Iterable[Ref]) -> tuple[str, list[Any]]:
    runs = sorted({run_of(ref) for ref in refs})
    return f"e.run IN ({_marks(runs)})", runs


def _column(kind: Kind, field: str) -> str | None:
    """The column of `entities` where a field of a kind stands; None if it is not there."""
    if field in kind.identity:
        return COLUMN[field]
    if field == "voxel_size" or field in _SHARED:
        return "size" if field == "voxel_size" else _SHARED[field]
    return None


def _where_number(column: str | None, condition: str) -> str:
    """A condition on a number of an entity, or (no column) on how many points it has."""
    if column is not None:
        return f"({condition.replace('%s', f'e.{column}')})"
    return f"EXISTS (SELECT 1 FROM holdings WHERE entity = e.id AND ({condition.replace('%s', 'points')}))"
