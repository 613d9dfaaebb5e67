"""What this process changed: whoever keeps an array open asks here whether it is still the one that is stored.

An array that is deleted or replaced would go on being read with its old shape, and its missing chunks as zeros.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from copick.kinds import Ref

MANY = 10_000
"""So many addresses are remembered; then all that was open counts as changed."""


class Changes:
    """The last change of each address, counted. Addresses of other projects may be the same: that costs an opening."""

    def __init__(self) -> None:
        self.count = 0
        self._numbers = itertools.count(1)
        self._last: dict[Ref, int] = {}
        self._forgotten = 0

    def note(self, ref: Ref) -> None:
        """`ref` was changed just now."""
        number = next(self._numbers)
        if len(self._last) >= MANY:
            self._last, self._forgotten = {}, number
        self._last[ref] = number
        self.count = number

    def since(self, ref: Ref, count: int) -> bool:
        """Whether `ref`, or what it lies in, was changed after `count`."""
        return count < self._forgotten or any(self._last.get(each, 0) > count for each in ref.walk())


changes = Changes()
