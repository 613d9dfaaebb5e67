"""A question to a place and its answer, kept in one file of the cache folder: a listing, a document, the metadata of a group.

It is used while it is fresh. After `max_age`, only its tag is asked for where the place has such: if that is the same, the answer
counts for another `max_age`. While the place cannot be asked, the answer is used whatever its age. Only "it is not there" ends it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from copick.cache import info, items
from copick.errors import LayerError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from copick.cache.contact import Contact
    from copick.cache.info import Origin
    from copick.cache.manager import CacheManager

T = TypeVar("T")

Document = dict[str, Any]
"""What is kept; under "tag" what tells this version from others, if that is known."""


class Remembered:
    """What is kept in one file, about to be read or asked for."""

    def __init__(self, manager: CacheManager, origin: Origin, contact: Contact, file: Path) -> None:
        self._manager, self._origin, self._contact, self._file = manager, origin, contact, file
        self._moment = manager.moment(file)

    def read(self) -> Document | None:
        """What is kept, of whatever age; None if there is nothing of this place."""
        document = info.read(self._file)
        return document if document is not None and self._origin.owns(document) else None

    def answer(
        self,
        parse: Callable[[Document], T],
        ask: Callable[[], tuple[T, Document | None]],
        tag: Callable[[], str | None] | None = None,
    ) -> T:
        """The answer.

        Args:
            parse: Makes it of what is kept. Raises ValueError, KeyError or TypeError if that is of another version.
            ask: The place: the answer, and what to keep of it (None: nothing).
            tag: The place, for the tag alone. None: it has none.

        Raises:
            NotFoundError: It is not there.
            LayerError: The place failed, and nothing is kept.
        """
        document = self.read()
        known: tuple[T] | None = None
        if document is not None:
            try:
                known = (parse(document),)
            except (ValueError, KeyError, TypeError):
                document = None
        if document is None or known is None:
            answer, document = ask()
            self._keep(document)
            return answer
        current = document.get("generation") == self._moment.generation
        if (current and not items.expired(self._manager, document)) or self._contact.rests:
            return known[0]
        try:
            # If somebody said that it changed, it is not worth a question whether it did.
            if current and tag is not None and document.get("tag") and tag() == document["tag"]:
                answer = known[0]
            else:
                answer, document = ask()
        except LayerError as error:
            self._contact.lost(error)
            return known[0]
        except NotFoundError:
            self._manager.forget(self._file)
            raise
        self._contact.made()
        self._keep(document)
        return answer

    def _keep(self, document: Document | None) -> None:
        """Remember an answer, unless something was written while it was asked for."""
        if document is not None and self._moment.may_keep():
            kept = {**document, "time": time.time(), "generation": self._moment.generation}
            try:
                self._manager.remember(self._file, info.seal(self._origin.mark(kept)))
            except OSError as error:
                self._manager.failed("metadata", error)
