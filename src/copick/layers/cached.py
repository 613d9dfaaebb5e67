"""A layer seen through the cache. It wraps its parent and takes its place in the stack, under the parent's name.

Listings and documents are remembered in the cache folder; arrays go through `CachingZarrStore`. After `max_age` the parent is
asked whether they changed; while it cannot be reached, what is cached is served. Writes go to the parent; before they return,
every process that uses the cache folder has forgotten what it remembered of the entity.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from copick.cache import info
from copick.cache.contact import Contact
from copick.cache.manager import CacheManager, open_manager
from copick.cache.remembered import Remembered
from copick.errors import CacheError, LayerError, NotFoundError
from copick.kinds import CHILDREN, RUN
from copick.layers.layer import Layer
from copick.util.urls import local_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from zarr.abc.store import Store

    from copick.config import CopickConfigCache
    from copick.kinds import Kind, Ref
    from copick.meta import Meta

logger = logging.getLogger("copick.cache")

_METADATA = {".zgroup", ".zarray", ".zattrs", ".zmetadata", "zarr.json"}
"""Names of the keys that make an array or a group appear in, or go from, a listing."""


def open_cache(config: CopickConfigCache) -> CacheManager | None:
    """The cache that a config describes; None, with one line in the log, if its folder cannot be used."""
    root = local_path(config.root)
    try:
        return open_manager(
            root,
            max_size_bytes=config.max_size_bytes,
            max_age=config.max_age,
            disk_format=config.disk_format,
            decoded_bytes=config.decoded_bytes,
            policy=config.policy,
            quotas=config.quotas,
            mode=int(config.mode, 8),
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
        self._contact = Contact(parent.name)
        self._lists = not parent.keep_listings(manager.cache_root / ".cache_metadata")
        # Changes with every listing and document that is forgotten: then what the parent remembers may be out of date, too.
        self._changes = self._root / f"{info.FILE}."
        self._asked = manager.moment(self._changes)

    def __repr__(self) -> str:
        return f"<CachedLayer of {self.parent!r} in {self.manager.cache_root}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.parent, self.config)

    def folder(self, ref: Ref | None) -> Path:
        """Where the cache keeps what belongs to `ref`."""
        return self._root if ref is None else self._root / ref.path

    def files(self, ref: Ref | None) -> tuple[Any, str]:
        return self.parent.files(ref)

    def ensure(self, *, create: bool = False) -> bool:
        return self.parent.ensure(create=create)

    def reconnect(self) -> None:
        self.parent.reconnect()

    @property
    def source(self) -> Layer:
        return self.parent.source

    # Listings and documents

    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        if not self._lists:
            return self.parent.list(parent, kind)

        def ask() -> tuple[list[Meta], dict[str, Any]]:
            found = self._up_to_date().list(parent, kind)
            return found, {"items": [meta.model_dump(mode="json", exclude_unset=True) for meta in found]}

        return self._remembered(self._listing_file(parent, kind)).answer(
            lambda document: [kind.meta(**item) for item in document["items"]], ask
        )

    def knows_runs(self) -> bool:
        """Whether the runs were ever listed, so that there is something to show if the parent is gone."""
        return self._remembered(self._listing_file(None, RUN)).read() is not None

    def exists(self, ref: Ref) -> bool:
        return any(ref.kind.key(meta) == ref.values for meta in self.list(ref.parent, ref.kind))

    def matching(self, parent: Ref | None, kind: Kind, query: Mapping[str, Any]) -> set[Ref]:
        return self.parent.matching(parent, kind, query)

    def load(self, ref: Ref) -> bytes:
        def ask() -> tuple[bytes, dict[str, Any]]:
            document, tag = self._up_to_date().load_tagged(ref)
            return document, {"text": document.decode("latin-1"), "tag": tag}

        return self._remembered(self._document_file(ref), self._origin_of(ref)).answer(
            lambda document: str(document["text"]).encode("latin-1"), ask, partial(self.parent.tag, ref)
        )

    def load_tagged(self, ref: Ref) -> tuple[bytes, str | None]:
        return self._up_to_date().load_tagged(
            ref
        )  # who wants to know the version wants the one that is there

    def tag(self, ref: Ref, path: str = "") -> str | None:
        return self._up_to_date().tag(ref, path)

    def seen(self, ref: Ref) -> str | None:
        known = None
        if ref.kind.payload == "document":
            known = self._remembered(self._document_file(ref), self._origin_of(ref)).read()
        if known is not None and known.get("tag"):
            return str(known["tag"])
        if not self.exists(ref):  # as far as anybody here has seen
            raise NotFoundError(f"layer {self.name!r} has no {ref}")
        if self._contact.rests:
            raise LayerError(f"layer {self.name!r} failed a moment ago; it was not asked for {ref}")
        return self.parent.seen(ref)

    def _remembered(self, file: Path, origin: info.Origin | None = None) -> Remembered:
        return Remembered(self.manager, origin or self._origin, self._contact, file)

    def _origin_of(self, ref: Ref) -> info.Origin:
        """What marks that which is cached of `ref`: if it lies elsewhere by now, that is no longer it."""
        address = self.parent.address(ref)
        return self._origin if address is None else self._origin.at(address)

    def _up_to_date(self) -> Layer:
        """The parent, made to forget what it remembers if any process changed something since it was last asked."""
        if self._lists and not self._asked.stands():
            self._asked = self.manager.moment(self._changes)
            self.parent.refresh()
        return self.parent

    def _listing_file(self, parent: Ref | None, kind: Kind) -> Path:
        return self.folder(parent) / f"{info.FILE}.{kind.name}"

    def _document_file(self, ref: Ref) -> Path:
        folder = self.folder(ref)
        return folder.with_name(f"{info.FILE}.{folder.name}")

    # Arrays

    def store(self, ref: Ref, *, write: bool = False) -> Store:
        from copick.cache.store import CachingZarrStore
        from copick.stores import WatchedStore

        if write:
            return WatchedStore(self.parent.store(ref, write=True), partial(self._writing, ref))
        if not self.exists(ref):
            return self.parent.store(ref)  # its NotFoundError says it best
        return CachingZarrStore(
            self.folder(ref),
            partial(self.parent.store, ref),
            self.manager,
            origin=self._origin_of(ref),
            where=f"layer {self.name!r}: {ref.path}",
            formats=self._formats,
            ask_tag=partial(self.parent.tag, ref),
            contact=self._contact,
        )

    def original(self, ref: Ref) -> Store:
        return self.parent.original(ref)

    # Writes

    @contextlib.contextmanager
    def writing(self, ref: Ref, *, keep: bool = False) -> Iterator[Store]:
        with self._changing(ref), self.parent.writing(ref, keep=keep) as store:
            yield store

    def adopt(self, ref: Ref, source: Store, *, replace: bool = True) -> None:
        with self._changing(ref):
            self.parent.adopt(ref, source, replace=replace)

    def create(self, ref: Ref) -> None:
        with self._changing(ref):
            self.parent.create(ref)

    def delete(self, ref: Ref) -> None:
        beside = [kind for kind in CHILDREN.get(ref.kind, ()) if kind.beside]  # not in its folder
        below = [kind.ref(meta, ref) for kind in beside for meta in self.list(ref, kind)]
        with self._changing(ref, *below):
            self.parent.delete(ref)

    def prune(self, folder: Ref) -> None:
        with self._changing(folder):
            self.parent.prune(folder)

    def save(self, ref: Ref, document: bytes) -> None:
        with self._changing(ref):
            self.parent.save(ref, document)

    def refresh(self, ref: Ref | None = None) -> None:
        """Ask again for the listings and documents at and below `ref`, and for the array that `ref` itself is. Other arrays stay.

        What is cached goes when the parent has answered: if it cannot be reached, the old is better than nothing.
        """
        self._contact.made()
        self.parent.refresh(ref)
        if ref is not None and ref.kind.payload == "array" and self._answers(ref):
            self.manager.forget(self.folder(ref))
        else:
            self.manager.outdated(self.folder(ref))
        if ref is not None:
            self.manager.outdated(self._document_file(ref))
            self.manager.outdated(self._listing_file(ref.parent, ref.kind))

    def _answers(self, ref: Ref) -> bool:
        """Whether the parent can be asked for `ref`."""
        try:
            self.parent.exists(ref)
        except LayerError as error:
            self._contact.lost(error)
            return False
        return True

    def _changing(self, *refs: Ref) -> AbstractContextManager[None]:
        """Around a change of entities: all that is remembered of them, and that their parents did or did not have them."""
        paths = [path for ref in refs for path in (self.folder(ref), self._document_file(ref))]
        known = [self._listing_file(each.parent, each.kind) for ref in refs for each in ref.walk()]
        return self.manager.changing(*paths, *dict.fromkeys(known), self._changes)

    def _writing(self, ref: Ref, key: str) -> AbstractContextManager[None]:
        """Around a change of one key of an array's store. A chunk neither begins nor ends an array, so listings stay."""
        if key == "" or key.rpartition("/")[2] in _METADATA:
            return self._changing(ref)
        return self.manager.changing(self.folder(ref))


def _reopened(parent: Layer, config: CopickConfigCache) -> Layer:
    """A cached layer in another process; the plain layer if the cache cannot be opened there."""
    manager = open_cache(config)
    return parent if manager is None else CachedLayer(parent, config, manager=manager)
