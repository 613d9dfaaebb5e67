"""All of a run as it is listed, put together by the writer whenever the run changes.

A walk over everything would spend most of its time on the values that SQLite hands out one by one; so it gets one text for each
run. It says what `entities` and `holdings` say, and nothing else:

    {place: [holders, value, value, ...], ...}

At a place are siblings of one kind: the values of all their keys, in order. `holders`: the layer that holds them all and says no
more than the key of any; else [[layer, which, said], ...] of each that holds some. `which`: positions among them (null = all);
`said`: what its listing says of each of these (null = of none more than the key).
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from copick.index.rows import all_ids
from copick.kinds import kind_named

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from copick.kinds import Kind, Ref, Value

    Holder = tuple[int, list[int] | None, list[dict[str, Any] | None] | None]


class Siblings(NamedTuple):
    """The children of one kind under one parent: their keys, and who holds them, as above."""

    keys: list[tuple[Value, ...]]
    holders: int | list[Holder]


Told = dict[str, Siblings]
"""What the text of a run says, by place. Runs with the same text share one: in many projects all runs hold the same."""


def put_listing(db: sqlite3.Connection, run: str) -> None:
    """Make the listing of a run what the tables say: after every change of these."""
    held: dict[int, dict[int, str | None]] = defaultdict(dict)
    rows = db.execute(
        "SELECT entity, layer, listed FROM holdings JOIN entities ON entities.id = entity WHERE run = ?",
        (run,),
    )
    for id, layer, said in rows:
        held[id][layer] = said
    siblings: dict[str, dict[tuple[Value, ...], dict[int, str | None]]] = defaultdict(dict)
    for ref, id in all_ids(db, run).items():
        if ref.parent is not None and id in held:
            siblings[place(ref.parent, ref.kind)][ref.values] = held[id]
    told = {where: _told(dict(sorted(found.items()))) for where, found in siblings.items()}
    db.execute("DELETE FROM listings WHERE run = ?", (run,))
    if told:
        db.execute("INSERT INTO listings VALUES (?, ?)", (run, json.dumps(told, separators=(",", ":"))))


def _told(siblings: dict[tuple[Value, ...], dict[int, str | None]]) -> list[Any]:
    all_held = [*siblings.values()]
    holders: list[Holder] = []
    for layer in sorted({layer for held in all_held for layer in held}):
        which = [at for at, held in enumerate(all_held) if layer in held]
        said = [json.loads(text) if (text := all_held[at][layer]) else None for at in which]
        holders.append((layer, None if len(which) == len(all_held) else which, said if any(said) else None))
    is_plain = len(holders) == 1 and holders[0][1:] == (None, None)
    return [holders[0][0] if is_plain else holders, *chain.from_iterable(siblings)]


def listed(
    db: sqlite3.Connection, runs: Sequence[str], known: Mapping[str, Told]
) -> dict[str, tuple[str, Told]]:
    """The text of each of some runs, and what it says. They are all that there are between the first and the last of them.

    Args:
        known: What texts say that were read before.
    """
    asked = "SELECT run, told FROM listings WHERE run BETWEEN ? AND ?"
    texts = dict(db.execute(asked, (runs[0], runs[-1])).fetchall())
    new = [text for text in dict.fromkeys(texts.values()) if text not in known]
    said = json.loads(f"[{','.join(new)}]")  # at once takes half the time
    read = {**known, **dict(zip(new, map(_read, said), strict=True)), "": {}}
    return {run: (text := texts.get(run, ""), read[text]) for run in runs}


def _read(text: Mapping[str, Iterable[Any]]) -> Told:
    told: Told = {}
    for where, siblings in text.items():
        size = len(kind_named(where.partition(" ")[0]).identity)
        holders, *values = siblings
        told[where] = Siblings([*zip(*[iter(values)] * size, strict=True)], holders)
    return told


def place(parent: Ref, kind: Kind) -> str:
    """Where the text of a run has the children of one kind."""
    return kind.name if parent.parent is None else f"{place(parent.parent, kind)} {parent.values!r}"
