"""What layers have of entities now: looks at single things."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from copick.errors import FormatError, LayerError
from copick.index.things import Held, describe
from copick.kinds import CHILDREN, Ref

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from copick.layers.layer import Layer
    from copick.meta import Meta

FAILING_S = 60.0
"""Files that cannot be read may take a scan so long; then the layer counts as one that cannot be asked."""


class Found(NamedTuple):
    """An entity that a layer holds."""

    stamp: str | None
    held: Held | None
    """None: it is as it was."""
    file: str | None = None
    """What it is called there if we would call it otherwise."""
    problem: str | None = None
    """Why it could not be read. What was known of it counts until it can."""


class Failures:
    """Files of a layer that could not be read in a scan."""

    def __init__(self) -> None:
        self._first, self._count, self._spent = "", 0, 0.0

    def __str__(self) -> str:
        return (
            f"{self._count} of its files could not be read, the first: {self._first}" if self._count else ""
        )

    def add(self, problem: str, seconds: float) -> None:
        """Raises LayerError if they took too long in all."""
        self._first = self._first or problem
        self._count += 1
        self._spent += seconds
        if self._spent > FAILING_S:
            raise LayerError(f"{self}; they took {self._spent:.0f} s, and no more are tried")


def look_at(source: Layer, ref: Ref, held: Collection[Ref]) -> tuple[dict[Ref, Found], set[Ref]]:
    """What a layer has now of `ref`, the folders it lies in, and what lies beside it; and what of these it does not have.

    Args:
        held: What it is known to have. What lies below `ref` may be gone although that is there: somebody made it again.
    """
    there = source.exists(ref)
    found = {ref: find(source, ref, None, {})} if there else {}
    gone = set() if there else {ref}
    for folder in [each for each in ref.walk() if each.kind.payload == "folder" and each != ref]:
        if not there and not source.exists(folder):
            gone.add(folder)
        elif folder not in held:
            found[folder] = find(source, folder, None, {})
    below = [each for each in held if each != ref and each.within(ref)] if there else []
    places = {(each.parent, each.kind) for each in below if not each.kind.beside}
    listed = {kind.ref(meta, parent) for parent, kind in places for meta in source.list(parent, kind)}
    gone.update(each for each in below if not each.kind.beside and each not in listed)
    for kind in CHILDREN.get(ref.kind, ()):
        if kind.beside:
            for meta in source.list(ref, kind):
                each = kind.ref(meta, ref)
                found[each] = find(source, each, None, {}, meta)
    return found, gone


def find(
    source: Layer,
    ref: Ref,
    stamp: str | None,
    before: Mapping[Ref, str | None],
    meta: Meta | None = None,
    full: bool = False,
) -> Found:
    """What a layer that lists `ref` says of it. `before`: stamps of what is known; the same stamp ends it unless `full`."""
    if stamp is not None and before.get(ref) == stamp and not full:
        return Found(stamp, None)
    held = describe(source, ref, ref.kind.meta_of(ref.values) if meta is None else meta)
    if held.problem is not None:
        return Found(None, None if ref in before else held, source.odd_name(ref), held.problem)
    return Found(stamp, held, source.odd_name(ref))


def file_name(ref: Ref) -> str:
    try:
        return ref.file_name
    except FormatError:  # readable although we would not write it
        return ""
