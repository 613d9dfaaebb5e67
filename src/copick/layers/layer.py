"""The narrow waist: what a place that holds copick data must be able to do.

A filesystem is a layer; a stack of layers is a layer; a cached layer is a layer. Nothing above this interface
knows which one it talks to, and nothing below it knows what an entity is.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from copick.errors import LayerError, NotFoundError, ReadOnlyError
from copick.kinds import RUN

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from zarr.abc.store import Store

    from copick.kinds import Kind, Ref, Value
    from copick.meta import Meta


class Opened(dict[str, Any]):
    """What readers keep open of one array, by path, in one process: handles do not survive a fork."""

    def __init__(self) -> None:
        super().__init__()
        self.pid = os.getpid()

    def here(self) -> Self:
        """It, without what another process opened."""
        if self.pid != os.getpid():
            self.clear()
            self.pid = os.getpid()
        return self


Entry: TypeAlias = "tuple[Ref, Meta | None]"
"""An entity that a layer lists; None: the metadata say no more than the address does."""


class Layer(ABC):
    """A place that holds copick data. Picklable: it re-opens its connections in the process that uses it."""

    name: str
    read_only: bool = False

    @property
    def names(self) -> builtins.list[str]:
        """Names of the layers that this one is made of, highest priority first."""
        return [self.name]

    @property
    def location(self) -> str:
        """What tells this place from any other, without credentials: the cache keeps the data of each apart."""
        return self.name

    @property
    def content(self) -> str:
        """What tells that which is listed here from what other places, or other configs of this one, list."""
        return self.location

    @abstractmethod
    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        """The children of one kind under `parent` (`None`: the root), by key. A missing parent has none.

        Raises:
            LayerError: The place could not be asked. An unreachable place is never reported as an empty one.
        """

    def entries(self, parent: Ref | None, kind: Kind) -> Iterable[Entry]:
        """As `list`, with the address of each, to be gone through once. A layer that knows these can spare their metadata."""
        return [(kind.ref(meta, parent), meta) for meta in self.list(parent, kind)]

    def stamps(self, parent: Ref | None, kind: Kind) -> dict[str, str | None] | None:
        """What tells this content of each child from an earlier one, by file name, without reading it.

        None, for all or for one: only reading tells. Raises LayerError as `list` does.
        """
        return None

    def nowhere(self) -> str | None:
        """What is wrong with the place itself if it is not there, so that the layer lists nothing. None: it is, or that is unknown.

        A folder that is written and not there yet is no error; but who remembers that it held something knows better.
        """
        return None

    def odd_name(self, ref: Ref) -> str | None:
        """What the file of `ref` is called here, if a listing found it under another name than we would give it."""
        return None

    def call(self, ref: Ref, name: str) -> None:  # noqa: B027 (most layers have no such names)
        """Look for `ref` under such a name."""

    def ensure(self, *, create: bool = False) -> bool:
        """Whether its place is there and answers, asked now; `create` makes it.

        Raises:
            ReadOnlyError: `create` of a layer that cannot be written.
            LayerError: It cannot be made.
        """
        if create:
            self.check_writable("its root")
        try:
            self.list(None, RUN)
        except LayerError:
            return False
        return True

    @property
    def source(self) -> Layer:
        """The layer that knows of changes by others: of a cache, what it is a cache of."""
        return self

    @abstractmethod
    def exists(self, ref: Ref) -> bool:
        """Whether the layer holds `ref`. Raises LayerError as `list` does."""

    def matching(self, parent: Ref | None, kind: Kind, query: Mapping[str, Any]) -> set[Ref]:
        """The children of one kind that a place finds by what it alone knows of them (the data portal); elsewhere none.

        Raises:
            LayerError: The place could not be asked.
        """
        return set()

    def found_by(self, kind: Kind, field: str, values: Iterable[Value]) -> set[Ref] | None:
        """Everything of one kind, in all runs, that a place finds by a field that it alone knows: one of these values.

        Args:
            field: As in a query of `matching`.

        Returns:
            None: this layer knows no such field.

        Raises:
            LayerError: The place could not be asked.
        """
        return None

    def meta_of(self, kind: Kind, fields: Mapping[str, Any]) -> Meta:
        """The metadata that a listing of this layer has: of these fields, as JSON has them."""
        return kind.meta(**fields)

    def listed(self, ref: Ref) -> Meta | None:
        """What its listing says of `ref`; None: no more than the address does. Raises LayerError as `list` does."""
        return next((meta for each, meta in self.entries(ref.parent, ref.kind) if each == ref), None)

    def keep_listings(self, folder: Path) -> bool:
        """Asked by a cache around it: whether the layer keeps its listings itself, from now on in `folder`."""
        return False

    @abstractmethod
    def create(self, ref: Ref) -> None:
        """Make `ref` and its parents exist; an array starts as an empty group. Nothing happens if it exists.

        Raises:
            ReadOnlyError: The layer cannot be written.
        """

    @abstractmethod
    def delete(self, ref: Ref) -> None:
        """Remove `ref` and everything below it.

        Raises:
            NotFoundError: The layer does not hold it.
            ReadOnlyError: The layer cannot be written.
        """

    @abstractmethod
    def load(self, ref: Ref) -> bytes:
        """The whole document of `ref`; of a run or a voxel spacing its `.meta`. Raises NotFoundError or LayerError."""

    def tag(self, ref: Ref, path: str = "") -> str | None:
        """What tells this version of a document from any other, without moving it: an etag, or time and size.

        Of an array: of the metadata document of the node at `path`; it may begin with that document's name. None: this
        layer cannot tell versions apart.

        Raises:
            NotFoundError: The layer does not hold it.
            LayerError: The place could not be asked.
        """
        return None

    def load_tagged(self, ref: Ref) -> tuple[bytes, str | None]:
        """The document of `ref` and its tag. Raises as `load` does."""
        tag = self.tag(ref)  # first: a change in between is found when the tag is next compared
        return self.load(ref), tag

    def address(self, ref: Ref) -> str | None:
        """Where `ref` lies, if that is not told by its path, and another thing may be called so tomorrow. Asks no server as a rule.

        Raises:
            NotFoundError: The layer does not hold it.
            LayerError: The place could not be asked.
        """
        return None

    def seen(self, ref: Ref) -> str | None:
        """The tag of the version that readers of this layer have seen last. Raises as `tag` does."""
        return self.tag(ref)

    @abstractmethod
    def save(self, ref: Ref, document: bytes) -> None:
        """Replace the document of `ref`, creating it and its parents if needed.

        Atomic: a reader, or a crash, sees the old document or the new one, never a mixture.
        """

    @abstractmethod
    def store(self, ref: Ref, *, write: bool = False) -> Store:
        """The zarr store rooted at the array group of `ref`, read-only unless `write`.

        A store may also have a method `open_array(path)` that returns a `copick.arrays.ArraySource` faster than
        zarr itself (the cache's does); `copick.arrays.open_array` uses it.

        Raises:
            NotFoundError: The layer does not hold it (reading only: a writable store may start empty).
            ReadOnlyError: `write` was asked of a layer that cannot be written.
        """

    def part(self, ref: Ref, key: str) -> bytes | None:
        """One key of the zarr store of `ref`, as it is stored; None = there is none."""
        from zarr.core.buffer import default_buffer_prototype

        from copick.stores import run

        data = run(self.store(ref).get(key, default_buffer_prototype()))
        return None if data is None else data.to_bytes()

    @contextmanager
    def writing(self, ref: Ref, *, keep: bool = False) -> Iterator[Store]:
        """The store to write the array of `ref` to, until the block ends.

        Args:
            keep: A part will be changed, so what there is now is needed; else all of it will be replaced.

        Raises:
            NotFoundError: There is nothing to keep.
            ReadOnlyError: The layer cannot be written.
        """
        self.check_writable(ref)
        if keep and not self.exists(ref):
            raise NotFoundError(f"layer {self.name!r} has no {ref}")
        yield self.store(ref, write=True)

    def original(self, ref: Ref) -> Store:
        """The read-only store of `ref` with its chunks as they are stored: for copies that convert nothing."""
        return self.store(ref)

    def adopt(self, ref: Ref, source: Store, *, replace: bool = True) -> None:
        """Replace the array of `ref` by a copy of `source`, key by key, in one step.

        What was there before is seen until all of it is copied; an interrupted copy leaves nothing to see.

        Args:
            replace: False = if there is an array when the copy is complete, that one stays.
        """
        raise ReadOnlyError(f"layer {self.name!r} cannot take whole arrays; cannot copy {ref} there")

    def opened(self, ref: Ref) -> Opened:
        """What readers keep open of `ref`. The layer empties it when it changes `ref`, or what `ref` lies in."""
        return Opened()

    def holders(self, ref: Ref) -> builtins.list[str]:
        """Names of the layers that hold `ref`, highest priority first."""
        return [self.name] if self.exists(ref) else []

    def propagate(self, ref: Ref, names: str | Iterable[str]) -> builtins.list[str]:
        """Copy `ref` as it is read now to each of these layers; the names of those that have it now.

        Raises:
            NotFoundError: No layer holds it, or there is no layer of that name.
        """
        self.narrowed(names)  # there is this layer alone
        if not self.exists(ref):
            raise NotFoundError(f"layer {self.name!r} has no {ref}")
        return [self.name]

    def flush(self, *, force: bool = False) -> builtins.list[Ref]:
        """Pass on the changes that wait in a layer on top; what was passed on.

        Args:
            force: Also where that replaces what others have changed meanwhile.
        """
        return []

    @property
    def overlay(self) -> Layer:
        """The layer that writes go to as a rule; where nothing can be written, the highest."""
        return self

    @property
    def static(self) -> Layer:
        """The highest layer that is only read; where there is none, the overlay."""
        return self

    def files(self, ref: Ref | None) -> tuple[Any, str]:
        """The fsspec filesystem of this layer, and where in it `ref` (`None`: the root) lies, or would.

        Raises:
            AttributeError: The layer is not made of files, so what is in it has no path.
        """
        raise AttributeError(f"layer {self.name!r} is not made of files: {ref or 'its root'} has no path")

    def prune(self, folder: Ref) -> None:  # noqa: B027 (an empty folder does no harm)
        """Remove a run or a voxel spacing, with what is said of it, if nothing is in it: nor begins to be just now."""

    def reconnect(self) -> None:  # noqa: B027 (most layers have nothing to drop)
        """Drop connections; they are made again when they are next needed."""

    def narrowed(self, names: str | Iterable[str]) -> Layer:
        """This layer restricted to the layers of those names. Raises NotFoundError for an unknown name."""
        wanted = [names] if isinstance(names, str) else [*names]
        unknown = [name for name in wanted if name != self.name]
        if unknown or not wanted:
            asked = repr(unknown[0]) if unknown else "(none named)"
            raise NotFoundError(f"no layer {asked}; the only layer here is {self.name!r}")
        return self

    @abstractmethod
    def refresh(self, ref: Ref | None = None) -> None:
        """Forget what was remembered about `ref` and below (`None`: about everything)."""

    def check_writable(self, what: object) -> None:
        if self.read_only:
            raise ReadOnlyError(f"layer {self.name!r} is read-only; cannot change {what}")
