"""A layer seen through the cache. It wraps its parent and takes its place in the stack, under the parent's name.

Listings and documents are remembered in the cache folder for `max_age`; arrays go through `CachingZarrStore`. Writes go to the
parent and forget what was remembered of the entity.
"""

from __future__ import annotations

import glob
import logging
import os
import secrets
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from copick.cache import info
from copick.cache.manager import CacheManager, open_manager
from copick.errors import CacheError
from copick.kinds import CHILDREN
from copick.layers.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from zarr.abc.store import Store

    from copick.config import CopickConfigCache
    from copick.kinds import Kind, Ref
    from copick.meta import Meta

logger = logging.getLogger("copick.cache")

_ASKED = ".asked-"
"""In the name of a file whose answer is awaited."""


def open_cache(config: CopickConfigCache) -> CacheManager | None:
    """The cache that a config describes; None, with one line in the log, if its folder cannot be used."""
    root = config.root.removeprefix("local://").removeprefix("file://")
    try:
        return open_manager(
            root,
            max_size_bytes=config.max_size_bytes,
            max_age=config.max_age,
            disk_format=config.disk_format,
            decoded_bytes=config.decoded_bytes,
        )
    except (OSError, CacheError) as error:
        logger.warning("the cache in %s cannot be used (%s); reading goes on without it", root, error)
        return None


class CachedLayer(Layer):
    """What `parent` holds, remembered in a folder that all processes of the machine share."""

    def __init__(self, parent: Layer, config: CopickConfigCache, *, manager: CacheManager) -> None:
        self.parent, self.config, self.manager = parent, config, manager
        self.name, self.read_only = parent.name, parent.read_only
        self._root, self._origin = manager.claim(parent.name, parent.location)
        self._formats: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<CachedLayer of {self.parent!r} in {self.manager.cache_root}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.parent, self.config)

    def folder(self, ref: Ref | None) -> Path:
        """Where the cache keeps what belongs to `ref`."""
        return self._root if ref is None else self._root / ref.path

    def files(self, ref: Ref | None) -> tuple[Any, str]:
        return self.parent.files(ref)

    def reconnect(self) -> None:
        self.parent.reconnect()

    # Listings and documents

    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        file = self._listing_file(parent, kind)
        remembered = self._remembered(file)
        if remembered is not None:
            try:
                return [kind.meta(**item) for item in remembered["items"]]
            except (ValidationError, KeyError, TypeError):  # of another version
                pass
        with self._learning(file) as remember:
            found = self.parent.list(parent, kind)
            remember({"items": [meta.model_dump(mode="json", exclude_unset=True) for meta in found]})
        return found

    def exists(self, ref: Ref) -> bool:
        return any(ref.kind.key(meta) == ref.values for meta in self.list(ref.parent, ref.kind))

    def load(self, ref: Ref) -> bytes:
        file = self._document_file(ref)
        remembered = self._remembered(file)
        if remembered is not None:
            return str(remembered["text"]).encode("latin-1")
        with self._learning(file) as remember:
            document = self.parent.load(ref)
            remember({"text": document.decode("latin-1")})
        return document

    def _listing_file(self, parent: Ref | None, kind: Kind) -> Path:
        return self.folder(parent) / f"{info.FILE}.{kind.name}"

    def _document_file(self, ref: Ref) -> Path:
        folder = self.folder(ref)
        return folder.with_name(f"{info.FILE}.{folder.name}")

    def _remembered(self, file: Path) -> dict[str, Any] | None:
        document = info.read(file)
        if document is None or not self._origin.owns(document):
            return None
        fresh = not self.manager.max_age or 0 <= time.time() - document["time"] < self.manager.max_age
        return document if fresh else None

    @contextmanager
    def _learning(self, file: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Yields what remembers the answer to a question asked in the block, unless a write made it old meanwhile.

        A file is made before the question and renamed after it; who writes removes it in between.
        """
        asked = file.with_name(f"{file.name}{_ASKED}{secrets.token_hex(8)}")

        def remember(what: dict[str, Any]) -> None:
            data = info.seal(self._origin.mark({"time": time.time(), **what}))
            try:
                with open(os.open(asked, os.O_WRONLY | info.BINARY), "wb") as opened:
                    opened.write(data)
                os.replace(asked, file)
            except FileNotFoundError:
                pass
            except OSError as error:
                self.manager.failed("metadata", error)

        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(asked, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            self.manager.failed("metadata", error)
        try:
            yield remember
        finally:
            with suppress(OSError):
                asked.unlink(missing_ok=True)

    # Arrays

    def store(self, ref: Ref, *, write: bool = False) -> Store:
        from copick.cache.store import CachingZarrStore
        from copick.stores import WatchedStore

        if write:
            return WatchedStore(self.parent.store(ref, write=True), lambda: self._forget(ref))
        if not self.exists(ref):
            return self.parent.store(ref)  # its NotFoundError says it best
        return CachingZarrStore(
            self.folder(ref),
            partial(self.parent.store, ref),
            self.manager,
            origin=self._origin,
            where=f"layer {self.name!r}: {ref.path}",
            formats=self._formats,
        )

    def original(self, ref: Ref) -> Store:
        return self.parent.original(ref)

    # Writes: what is remembered is forgotten also if they fail, for something may have changed

    @contextmanager
    def writing(self, ref: Ref, *, keep: bool = False) -> Iterator[Store]:
        from copick.stores import WatchedStore

        with self._changing(ref), self.parent.writing(ref, keep=keep) as store:
            yield WatchedStore(store, lambda: self._forget(ref))

    def adopt(self, ref: Ref, source: Store, *, replace: bool = True) -> None:
        with self._changing(ref):
            self.parent.adopt(ref, source, replace=replace)

    def create(self, ref: Ref) -> None:
        with self._changing(ref):
            self.parent.create(ref)

    def save(self, ref: Ref, document: bytes) -> None:
        with self._changing(ref):
            self.parent.save(ref, document)

    def delete(self, ref: Ref) -> None:
        beside = [kind for kind in CHILDREN.get(ref.kind, ()) if kind.beside]  # not in its folder
        below = [kind.ref(meta, ref) for kind in beside for meta in self.list(ref, kind)]
        with self._changing(ref, *below):
            self.parent.delete(ref)

    @contextmanager
    def _changing(self, *refs: Ref) -> Iterator[None]:
        try:
            yield
        finally:
            for ref in refs:
                self._forget(ref)

    def refresh(self, ref: Ref | None = None) -> None:
        """Forget the listings and documents at and below `ref`, and the array that `ref` itself is. Other arrays stay."""
        folder = self.folder(ref)
        try:
            if ref is not None and ref.kind.payload == "array":
                self.manager.discard(folder)
            _unlink(folder.rglob(f"{info.FILE}.*"))
            if ref is not None:
                _unlink(_with_asked(self._document_file(ref)))
                _unlink(_with_asked(self._listing_file(ref.parent, ref.kind)))
        except OSError as error:
            self.manager.failed("refresh", error)
        self.parent.refresh(ref)

    def _forget(self, ref: Ref) -> None:
        """Everything remembered of `ref`, and that its parents did or did not have it."""
        try:
            self.manager.discard(self.folder(ref))
            _unlink(_with_asked(self._document_file(ref)))
            for each in ref.walk():
                _unlink(_with_asked(self._listing_file(each.parent, each.kind)))
        except OSError as error:
            self.manager.failed("invalidate", error)


def _with_asked(file: Path) -> Iterator[Path]:
    """The file of a remembered answer, and those of questions that are being asked."""
    yield from file.parent.glob(f"{glob.escape(file.name)}{_ASKED}*")
    yield file


def _unlink(files: Iterable[Path]) -> None:
    """Remove the files of answers and questions: the questions first, else one could be answered meanwhile."""
    found = {*files}
    asked = {file for file in found if _ASKED in file.name}
    answers = {file.with_name(file.name.partition(_ASKED)[0]) for file in asked} | found - asked
    for file in (*asked, *answers):
        file.unlink(missing_ok=True)


def _reopened(parent: Layer, config: CopickConfigCache) -> Layer:
    """A cached layer in another process; the plain layer if the cache cannot be opened there."""
    manager = open_cache(config)
    return parent if manager is None else CachedLayer(parent, config, manager=manager)
