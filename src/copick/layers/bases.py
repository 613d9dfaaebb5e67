"""What pending changes began from, so that passing them on does not replace what others have changed meanwhile.

When the first change of an entity begins to wait, the version that its target has, or was last seen to have, is noted: its tag.
When it is passed on, the tag is compared. What came there by ourselves, before we were interrupted, is told by its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING

from copick.errors import ConflictError, LayerError, NotFoundError
from copick.layers.transfer import same_entity

if TYPE_CHECKING:
    from copick.kinds import Ref
    from copick.layers.layer import Layer
    from copick.layers.places import Place

FOLDER = ".bases"
"""Where they are noted, beside the changes."""
_ABSENT, _UNKNOWN, _UNTOLD = "absent", "unknown", "untold"
"""It was not there; the layer could not be asked; the layer tells no versions apart."""


class Bases:
    """By entity and layer."""

    def __init__(self, place: Place | None = None) -> None:
        """`place`: of the pending changes. None: they are noted in this process only."""
        self._place, self._noted = place, dict[str, dict[str, str]]()
        self._passed: dict[tuple[str, str], str | None] = {}  # tags of what this process brought where

    def begin(self, ref: Ref, pending: Layer, target: Layer) -> None:
        """To be called before a change of `ref`: notes what it begins from, unless an earlier one waits."""
        noted = self._read(ref) if pending.exists(ref) else {}
        if target.name in noted:
            return
        try:
            tag = target.seen(ref)
            base = _UNTOLD if tag is None else f"tag {tag}"
        except NotFoundError:
            base = _ABSENT
        except LayerError:
            tag = self._passed.get((str(ref), target.name))
            base = _UNKNOWN if tag is None else f"tag {tag}"
        self._write(ref, {**noted, target.name: base})

    def check(self, ref: Ref, pending: Layer, target: Layer) -> None:
        """Refuse to replace what others have changed. Raises ConflictError, or LayerError if `target` cannot be asked."""
        base = self._read(ref).get(target.name, _UNTOLD)
        if base == _UNTOLD:
            return
        try:
            now = target.tag(ref)
            if base == f"tag {now}" or same_entity(ref, pending, target):
                return
        except NotFoundError:
            return  # nothing is replaced
        how = "may have been changed" if base == _UNKNOWN else "was changed"
        raise ConflictError(
            f"{ref} {how} in layer {target.name!r} since the change that waits in {pending.name!r} was begun; both are as they "
            f"were. flush(force=True) replaces that of {target.name!r}; to give up the other, delete it with "
            f"layers={pending.name!r}"
        )

    def passed(self, ref: Ref, target: Layer) -> None:
        """The change was brought to `target`: nothing waits any more."""
        with contextlib.suppress(NotFoundError, LayerError):
            self._passed[str(ref), target.name] = target.tag(ref)
        self._noted.pop(str(ref), None)
        if self._place is not None:
            with contextlib.suppress(FileNotFoundError):
                self._place.remove_file(_file(ref))
                self._place.prune(FOLDER, "")

    def _read(self, ref: Ref) -> dict[str, str]:
        if self._place is None:
            return self._noted.get(str(ref), {})
        try:
            noted = json.loads(self._place.read(_file(ref)))
        except (FileNotFoundError, ValueError):
            return {}
        return {str(name): str(base) for name, base in noted.items()}

    def _write(self, ref: Ref, noted: dict[str, str]) -> None:
        if self._place is None:
            self._noted[str(ref)] = noted
        else:
            self._place.write(_file(ref), json.dumps(noted).encode())


def _file(ref: Ref) -> str:
    return f"{FOLDER}/{hashlib.sha256(str(ref).encode()).hexdigest()[:32]}.json"
