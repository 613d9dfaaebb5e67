"""What every entity shares: its address, the layers that hold it, and its children.

An entity is a proxy: it holds an address and metadata, and asks its layer (usually a stack) for the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from copick.errors import AlreadyExistsError, FormatError, ReadOnlyError
from copick.kinds import Kind, Ref, normal
from copick.models.files import InFiles
from copick.util.words import nearest

if TYPE_CHECKING:
    from copick.layers.layer import Layer
    from copick.meta import Meta

logger = logging.getLogger(__name__)

Layers = str | Iterable[str] | None
"""The layers to look at or write to: a name, names, or None for all."""

E = TypeVar("E", bound="Entity")


class Node(InFiles):
    """Something with children: the root or an entity.

    Children are listed on first access and kept until `refresh*`; `new_*` and `delete` keep the lists right.
    """

    layer: Layer

    def __init__(self) -> None:
        self._children: dict[str, list[Any]] = {}
        self._alone: dict[Ref, Any] = {}  # children that were asked for by name before anything was listed
        self._twins: dict[tuple[str, ...], Any] = {}

    def on(self, layers: Layers) -> Self:
        """This entity as these layers alone show it; everything reached from it is seen the same way.

        Raises:
            NotFoundError: There is no layer of that name.
        """
        if layers is None:
            return self
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers= takes a name or names of layers, not {layers!r}")
        names = (layers,) if isinstance(layers, str) else tuple(layers)
        if names not in self._twins:
            self._twins[names] = self._twin(names)
        twin: Self = self._twins[names]
        return twin

    def _twin(self, names: tuple[str, ...]) -> Self:
        raise TypeError(f"{type(self).__name__} must say how it is seen through some layers")

    def refresh(self) -> None:
        """Forget what was listed here and below; it is asked for again when it is next needed."""
        self._children.clear()
        self._alone.clear()
        self._twins.clear()
        self.layer.refresh(self.ref)

    def _refresh_kind(self, kind: Kind) -> None:
        self._forget_kind(kind)
        self.layer.refresh(self.ref)

    def _forget_kind(self, kind: Kind) -> None:
        self._children.pop(kind.name, None)
        self._alone = {ref: child for ref, child in self._alone.items() if ref.kind is not kind}
        self._twins.clear()

    def _query(self, cls: type[E]) -> list[E]:
        """The children of one kind, asked for now."""
        return [cls(self, meta) for meta in self.layer.list(self.ref, cls.kind)]

    def _list(self, cls: type[E]) -> list[E]:
        """The children of one kind, listed once. This is the list itself: hand out copies."""
        name = cls.kind.name
        if name not in self._children:
            listed = (self._alone.get(child.ref, child) for child in self._query(cls))
            self._children[name] = list(listed)
        children: list[E] = self._children[name]
        return children

    def _find(self, cls: type[E], meta: Meta) -> E | None:
        """The child with the key of `meta`. Asks for it alone unless its siblings are listed already."""
        ref = cls.kind.ref(meta, self.ref)
        listed: list[E] | None = self._children.get(cls.kind.name)
        if listed is not None:
            return next((child for child in listed if child.ref == ref), None)
        if ref not in self._alone:
            try:
                if not self.layer.exists(ref):
                    return None
            except FormatError:  # a name that no layer can hold
                return None
            self._alone[ref] = cls(self, meta)
        found: E = self._alone[ref]
        return found

    def _new(self, cls: type[E], meta: Meta, exist_ok: bool, layers: Layers) -> E:
        """Create a child where writes go, or in `layers`. Raises AlreadyExistsError or ReadOnlyError."""
        here = self.on(layers)
        found = here._find(cls, meta)
        if found is not None:
            if exist_ok:
                return found
            held = ", ".join(found.sources)
            raise AlreadyExistsError(
                f"{found.ref} exists already (in layer {held}); pass exist_ok=True to get it"
            )
        child = cls(here, meta)
        child._create()
        here._adopt(child)
        if here is not self:
            self._children.pop(cls.kind.name, None)
        else:
            self._twins.clear()
        return child

    def _adopt(self, child: Entity) -> None:
        siblings = self._children.get(child.kind.name)
        if siblings is None:
            self._alone[child.ref] = child
        else:
            siblings.append(child)
            siblings.sort(key=lambda sibling: sibling.ref.values)

    def _drop(self, child: Entity) -> None:
        name = child.kind.name
        if name in self._children:
            self._children[name] = [other for other in self._children[name] if other.ref != child.ref]
        self._alone.pop(child.ref, None)
        self._twins.clear()

    def _shown(self) -> str:
        """What a repr says of the children: those that are listed, without listing any."""
        return "".join(f", {name}={len(children)}" for name, children in self._children.items())


class Entity(Node):
    """One thing in a project."""

    kind: ClassVar[Kind]

    def __init__(self, parent: Node, meta: Any, config: Any = None) -> None:
        super().__init__()
        self.parent, self.meta = parent, meta
        self.config = config
        self.layer = parent.layer
        self._ref = self.kind.ref(meta, parent.ref)

    @property
    def ref(self) -> Ref:
        """The address, the same in every layer."""
        return self._ref

    @property
    def sources(self) -> list[str]:
        """Names of the layers that hold it, the one that serves it first."""
        return self.layer.holders(self._ref)

    @property
    def read_only(self) -> bool:
        """Whether the layer that serves it cannot be written."""
        return self._serving().read_only

    def _serving(self) -> Layer:
        """The layer that reads come from; where nothing is yet, the one that writes go to."""
        names = self.sources
        return self.layer.narrowed(names[0]) if names else self.layer

    def _twin(self, names: tuple[str, ...]) -> Self:
        return type(self)(self.parent.on(names), self.meta, self.config)

    def ensure(self, create: bool = False) -> bool:
        """Whether it exists, after creating it if `create`. Raises ReadOnlyError if it cannot be created."""
        if self.layer.exists(self._ref):
            return True
        if create:
            self._create()
        return create

    def _create(self) -> None:
        self.layer.create(self._ref)

    def delete(self) -> None:
        """Remove it, and everything below it, from the layers that can be written.

        Raises:
            ReadOnlyError: It is also in layers that cannot be written, and still there.
        """
        try:
            self.layer.delete(self._ref)
        except ReadOnlyError:
            self.parent._forget_kind(self.kind)  # another layer may serve it now, and less may be below it
            for memory in (self._children, self._alone, self._twins):
                memory.clear()
            raise
        self.parent._drop(self)

    def __getstate__(self) -> dict[str, Any]:
        """The reference alone: lists and handles are made again where they are needed."""
        return {**self.__dict__, "layer": None, "_children": {}, "_alone": {}, "_twins": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.layer = self.parent.layer

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name}={value!r}" for name, value in zip(self.kind.identity, self._ref.values, strict=True)
        )
        return f"{type(self).__name__}({fields}{self._shown()})"


def remembered(kind: Kind) -> property:
    """A private list of children as 1.x has it: None = not listed yet; setting None forgets."""

    def read(self: Node) -> list[Any] | None:
        return self._children.get(kind.name)

    def replace(self: Node, children: list[Any] | None) -> None:
        self._forget_kind(kind)
        if children is not None:
            self._children[kind.name] = children

    return property(read, replace)


def select(children: Iterable[E], unknown: Mapping[str, object], **wanted: Any) -> list[E]:
    """The children whose key fields are as wanted: None = any, an iterable = one of these.

    Args:
        unknown: Keywords the caller was given that mean nothing here. copick 1.x ignores them, so they only
            cost a line in the log.
    """
    note_ignored(unknown, *wanted)
    filters = {name: allowed(value) for name, value in wanted.items() if value is not None}
    if not filters:
        return list(children)
    found = []
    for child in children:
        values = dict(zip(child.kind.identity, child.ref.values, strict=True))
        if all(values[name] in accepted for name, accepted in filters.items()):
            found.append(child)
    return found


def note_ignored(unknown: Mapping[str, object], *known: str) -> None:
    """A line in the log for each keyword that means nothing: a misspelt `layers` must not pass unseen."""
    for name in unknown:
        hint = nearest(name, ["layers", "exist_ok", *known])
        logger.warning("unknown argument %r is ignored%s", name, hint)


def allowed(value: Any) -> set[Any]:
    """A filter's value or values as a set of key values."""
    scalar = isinstance(value, str) or not isinstance(value, Iterable)
    return {normal(item) for item in ([value] if scalar else value)}
