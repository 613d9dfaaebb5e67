"""What stands in the tables of an index about the addresses of entities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from copick.kinds import KINDS, RUN, Kind, Ref, kind_named

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from copick.kinds import Value

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


def key_values(kind: Kind, row: Sequence[Any]) -> tuple[Value, ...]:
    """The key that a row with the columns of `KEY` stands for."""
    values = tuple([row[at] for at in _AT[kind]])
    return (*values[:-1], bool(values[-1])) if kind.flags else values


def clean(text: Any) -> Any:
    """Text that SQLite takes: file names and JSON may hold halves of characters."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


def name_of(run: Ref | None) -> str:
    return str(run.values[0]) if run else ""


def run_name(ref: Ref) -> Any:
    """The name of the run that `ref` lies in, or is."""
    while ref.parent is not None:
        ref = ref.parent
    return ref.values[0]


def run_of(ref: Ref) -> str:
    """The name of the run that `ref` belongs to; "" for objects."""
    top = next(ref.walk())
    return name_of(top) if top.kind is RUN else ""


def _refs(rows: Iterable[tuple[Any, ...]], known: dict[int, Ref]) -> Iterator[Ref]:
    """The addresses of rows (id, parent, kind, *KEY), which come parents first."""
    for id, parent, kind_name, *key in rows:
        kind = kind_named(kind_name)
        known[id] = Ref(kind, key_values(kind, key), known.get(parent))
        yield known[id]


def all_ids(db: sqlite3.Connection, run: str) -> dict[Ref, int]:
    """Everything in a run, by any layer."""
    columns = f"id, parent, kind, {', '.join(KEY)}"
    rows = db.execute(f"SELECT {columns} FROM entities WHERE run = ? ORDER BY id", (run,)).fetchall()
    known: dict[int, Ref] = {}
    return {ref: row[0] for row, ref in zip(rows, _refs(rows, known), strict=True)}


def held_rows(db: sqlite3.Connection, layer: int, run: str) -> list[tuple[Ref, int, str | None]]:
    """(address, id, stamp) of what a layer holds of a run."""
    held = dict(
        db.execute(
            "SELECT entity, stamp FROM holdings JOIN entities ON entities.id = entity WHERE run = ? AND layer = ?",
            (run, layer),
        )
    )
    return [(ref, id, held[id]) for ref, id in all_ids(db, run).items() if id in held] if held else []


def drop_orphans(db: sqlite3.Connection, run: str) -> None:
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
