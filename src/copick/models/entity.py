"""What every entity shares: its address, the layers that hold it, and its children.

An entity is a proxy: it holds an address and metadata, and asks its layer (usually a stack) for the rest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from weakref import WeakValueDictionary

from copick.errors import AlreadyExistsError, FormatError, GoneError, NotFoundError, ReadOnlyError
from copick.kinds import CHILDREN, Kind, Ref, Value, normal
from copick.models.files import InFiles
from copick.util.lazy import lazy
from copick.util.words import nearest

if TYPE_CHECKING:
    from copick.layers.layer import Layer
    from copick.meta import Meta

logger = logging.getLogger(__name__)

Layers = str | Iterable[str] | None
"""The layers to look at or write to: a name, names, or None for all."""

PortalQuery = Mapping[str, Any] | None
"""Fields of the data portal, as its client calls them, and the values they must have; None as a value = any."""

E = TypeVar("E", bound="Entity")

UNASKED: Any = ...
"""Instead of metadata: what listings say is asked for when it is needed."""

_MADE: dict[tuple[type, type], Any] = {}
"""What a class makes children of another class as."""

MEMORIES = ("_children", "_alone", "_has_alone", "_known", "_twins", "_origin")
"""What a node keeps of others, and can do without."""


class Node(InFiles):
    """Something with children: the root or an entity.

    Children are listed on first access and kept until `refresh*`; `new_*` and `delete` keep the lists right.
    """

    layer: Layer

    # Most entities never have any of these, and there are very many: they are made when they are needed.

    @lazy
    def _children(self) -> dict[str, list[Any]]:
        """The children that were listed, by kind."""
        return {}

    @lazy
    def _alone(self) -> dict[Ref, Any]:
        """Children that were asked for by name before anything was listed."""
        self._has_alone = True
        return {}

    _has_alone = False

    @lazy
    def _twins(self) -> dict[tuple[str, ...], Any]:
        """This as some layers alone show it."""
        return {}

    _known: WeakValueDictionary[Ref, Any] | None = None
    """Children that somebody may still hold: a list that is made again has them, so that there is one of each."""
    _origin: Node | None = None
    """Whose twin this is."""

    def _remember_nothing(self) -> None:
        for memory in MEMORIES:
            self.__dict__.pop(memory, None)

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
            self._twins[names]._origin = self
        twin: Self = self._twins[names]
        return twin

    def _twin(self, names: tuple[str, ...]) -> Self:
        raise TypeError(f"{type(self).__name__} must say how it is seen through some layers")

    def refresh(self) -> None:
        """Forget what was listed here and below; it is asked for again when it is next needed."""
        self._forget_listed()
        self.layer.refresh(self.ref)

    def _forget_listed(self) -> None:
        for memory in (self._children, self._alone, self._twins):
            memory.clear()
        self._known = None

    def _refresh_kinds(self, *kinds: Kind) -> None:
        for kind in kinds:
            self._forget_kind(kind)
        known: MutableMapping[Ref, Any] = self._known or {}
        for ref in [ref for ref in known if ref.kind in kinds]:
            known.pop(ref, None)
        self.layer.refresh(self.ref)

    def _forget_kind(self, kind: Kind, gone: Ref | None = None) -> None:
        """List the children of a kind again when they are asked for; of the one at `gone`, what is below it too."""
        if gone is not None:
            known: Mapping[Ref, Any] = self._known or {}
            for child in filter(None, (self._alone.get(gone), known.get(gone))):
                child._forget_below()
        for child in self._children.pop(kind.name, ()):
            self._same(child)
        self._alone = {ref: child for ref, child in self._alone.items() if ref.kind is not kind}
        self._told(kind, gone)

    def _query(self, cls: type[E], kinds: Iterable[Kind] | None = None) -> list[E]:
        """The children of a class, asked for now."""
        return [child for kind in (cls.kinds if kinds is None else kinds) for child in self._asked(cls, kind)]

    def _asked(self, cls: type[E], kind: Kind) -> list[E]:
        """The children of one kind, asked for now. This is where the time of listings goes."""
        layer, made = self.layer, _MADE.get((type(self), cls)) or self._made_as(cls)
        found, new, has_children = [], cls.__new__, kind in CHILDREN
        for ref, meta in layer.entries(self.ref, kind):
            if meta is None and made is cls:  # as `_listed` does
                child = new(cls)
                child.parent, child.layer, child._ref = self, layer, ref
                if has_children:
                    child._children = {}
            else:
                child = made(self, kind.meta_of(ref.values) if meta is None else meta)
            found.append(child)
        return found

    def _made_as(self, cls: type[E]) -> type[E]:
        """What children of a class are made as: a plugin's own class, if it overrides the factory of copick 1.x."""
        known: type[E] | None = _MADE.get((type(self), cls))
        if known is None:
            made = getattr(self, cls.factory)()
            known = _MADE[type(self), cls] = made[0] if isinstance(made, tuple) else made
        return known

    def _listed_as(self, cls: type[E]) -> Callable[[Node, Ref, Any], E]:
        made = self._made_as(cls)
        return made._listed if made is cls else made._listed_in_full

    def _list(self, cls: type[E], kinds: Iterable[Kind] | None = None) -> list[E]:
        """The children of a class, each kind listed once."""
        found: list[E] = []
        children = self._children
        for kind in cls.kinds if kinds is None else kinds:
            siblings = children.get(kind.name)
            if siblings is None:
                siblings = self._asked(cls, kind)
                if self._known or (self._has_alone and self._alone):
                    siblings = [self._alone.get(child.ref) or self._same(child) for child in siblings]
                children[kind.name] = siblings
            found += siblings
        return found

    def _find(self, cls: type[E], meta: Meta) -> E | None:
        """The child with the key of `meta`. Asks for it alone unless its siblings are listed already."""
        ref = cls.kind_of(meta).ref(meta, self.ref)
        listed: list[E] | None = self._children.get(ref.kind.name)
        if listed is not None:
            return next((child for child in listed if child.ref == ref), None)
        if ref not in self._alone:
            try:
                if not self.layer.exists(ref):
                    return None
            except FormatError:  # a name that no layer can hold
                return None
            self._alone[ref] = self._same(self._made_as(cls)(self, meta))
        found: E = self._alone[ref]
        return found

    def _at(self, cls: type[E], ref: Ref, meta: Any = UNASKED) -> E:
        """The child with this address, which somebody knows to exist, and perhaps what listings say of it."""
        if ref not in self._alone:
            listed: list[E] | None = self._children.get(ref.kind.name)
            if listed is not None:
                for child in listed:
                    if child.ref == ref:
                        return child
                self._forget_kind(ref.kind)  # it came after these were listed
            self._alone[ref] = self._same(self._listed_as(cls)(self, ref, meta))
        known: E = self._alone[ref]
        return known

    def _new(self, cls: type[E], meta: Meta, exist_ok: bool, layers: Layers) -> E:
        """Create a child where writes go, or in `layers`. Raises AlreadyExistsError or ReadOnlyError."""
        here = self.on(layers)
        found = here._find(cls, meta)
        if found is not None:
            if exist_ok:
                return found
            if held := ", ".join(found.sources):
                raise AlreadyExistsError(
                    f"{found.ref} exists already (in layer {held}); pass exist_ok=True to get it"
                )
            here._drop(found)  # it was there when it was listed
        child = here._made_as(cls)(here, meta)
        child._create()
        here._adopt(child)
        child._changed()
        return child

    def _delete_all(self, children: Iterable[Entity]) -> None:
        """Delete each of these children.

        Raises:
            ReadOnlyError: Some are in layers that cannot be written. If one is in such layers alone, nothing was
                deleted; else all were deleted from the layers that can be written.
        """
        chosen = list(children)
        if fixed := [child for child in chosen if child.sources and child._only_read()]:
            raise ReadOnlyError(
                f"nothing was deleted: {', '.join(str(child.ref) for child in fixed[:3])}"
                f"{' and others' if len(fixed) > 3 else ''} cannot be, being in read-only layers alone"
            )
        kept = []
        for child in chosen:
            try:
                child.delete()
            except ReadOnlyError as error:
                kept.append(str(error))
        if kept:
            raise ReadOnlyError("; ".join(kept))

    def _same(self, child: E) -> E:
        """The child that is known already for the same thing, or this one. Documents are read anew by a new one."""
        if child.kind.payload == "document":
            return child
        if self._known is None:
            self._known = WeakValueDictionary()
        same: E = self._known.setdefault(child.ref, child)
        return same

    def _adopt(self, child: Entity) -> None:
        if self._known is not None:
            self._known.pop(child.ref, None)
        self._same(child)
        siblings = self._children.get(child.kind.name)
        if siblings is None:
            self._alone[child.ref] = child
        else:
            siblings.append(child)
            siblings.sort(key=lambda sibling: sibling.ref.values)

    def _noticed(self, child: Entity) -> None:
        """`child` was written: it may be new here, and a document that is known here may have been replaced."""
        is_document, listed = child.kind.payload == "document", self._children.get(child.kind.name, ())
        same = [other for other in listed if other.ref == child.ref]
        if is_document and self._alone.get(child.ref, child) is not child:
            self._alone.pop(child.ref)
        if child.kind.name in self._children and (not same or (is_document and same[0] is not child)):
            self._forget_kind(child.kind)
        else:
            self._twins.clear()
            if (elder := self._elder()) is not None:
                elder._noticed(child)

    def _drop(self, child: Entity) -> None:
        name = child.kind.name
        if name in self._children:
            self._children[name] = [other for other in self._children[name] if other.ref != child.ref]
        self._alone.pop(child.ref, None)
        if self._known is not None:
            self._known.pop(child.ref, None)
        self._told(child.kind, child.ref)

    def _told(self, kind: Kind, gone: Ref | None = None) -> None:
        """The children of a kind changed: others who listed them list them again."""
        self._twins.clear()
        if (elder := self._elder()) is not None:
            elder._forget_kind(kind, gone)

    def _elder(self) -> Node | None:
        """This as more layers show it, if that is known: whose twin it is, or the same below its parent's elder."""
        if self._origin is not None or not isinstance(self, Entity):
            return self._origin
        above = self.parent._elder()
        return None if above is None else above._held(self._ref)

    def _held(self, ref: Ref) -> Node | None:
        """The child at this address, if it was listed or asked for."""
        listed: list[Node] = self._children.get(ref.kind.name, [])
        return self._alone.get(ref) or next((child for child in listed if child.ref == ref), None)

    def _shown(self) -> str:
        """What a repr says of the children: those that are listed, without listing any."""
        return "".join(f", {name}={len(children)}" for name, children in self._children.items() if children)


class Entity(Node):
    """One thing in a project."""

    kinds: ClassVar[tuple[Kind, ...]]
    """The rows of the table that this class stands for; most stand for one."""
    factory: ClassVar[str]
    """The method of its parent that says what it is made as."""

    config: Any = None
    _meta: Any = None

    def __init__(self, parent: Node, meta: Any, config: Any = None) -> None:
        self.parent, self.layer, self._meta = parent, parent.layer, meta
        self._ref = self.kind_of(meta).ref(meta, parent.ref)
        if config is not None:
            self.config = config

    @classmethod
    def _listed(cls, parent: Node, ref: Ref, meta: Any = None) -> Self:
        """What a layer lists. Without metadata, which are made when they are needed, it takes a fifth of the time."""
        if meta is not None and meta is not UNASKED:
            return cls(parent, meta)
        entity = cls.__new__(cls)
        entity.parent, entity.layer, entity._ref = parent, parent.layer, ref
        if meta is UNASKED:
            entity._meta = UNASKED
        return entity

    @classmethod
    def _listed_in_full(cls, parent: Node, ref: Ref, meta: Any = None) -> Self:
        """What a layer lists, as a plugin's class: its `__init__` may do more than ours."""
        said = parent.layer.listed(ref) if meta is UNASKED else meta
        return cls(parent, ref.kind.meta_of(ref.values) if said is None else said)

    @property
    def meta(self) -> Any:
        """What is known of it."""
        if self._meta is UNASKED:
            self._take(self.layer.listed(self._ref))
        if self._meta is None:
            self._take(self.kind.meta_of(self._ref.values))
        return self._meta

    @meta.setter
    def meta(self, meta: Any) -> None:
        self._meta = meta

    def _take(self, meta: Any) -> None:
        """What its listing says, asked for now, or its address."""
        self._meta = meta

    @classmethod
    def kind_of(cls, meta: Any) -> Kind:
        """The row of the table that an entity with this metadata belongs to."""
        return cls.kinds[0]

    @property
    def kind(self) -> Kind:
        """Its row of the table."""
        return self._ref.kind

    @property
    def ref(self) -> Ref:
        """The address, the same in every layer."""
        return self._ref

    def _key(self, field: str) -> Value:
        """One of the values that tell it from its siblings."""
        return self._ref.values[self.kind.identity.index(field)]

    @property
    def sources(self) -> list[str]:
        """Names of the layers that hold it, the one that serves it first."""
        return self.layer.holders(self._ref)

    def by_layer(self) -> dict[str, Self]:
        """It as each layer that holds it shows it; the one that serves it first."""
        return {name: self.on(name) for name in self.sources}

    @property
    def read_only(self) -> bool:
        """Whether the layer that serves it cannot be written."""
        return self._serving().read_only

    def _project_config(self) -> Any:
        """The config of the project it belongs to."""
        node: Any = self
        while isinstance(node, Entity):
            node = node.parent
        return node.config

    def _at_parent(self) -> Self | None:
        """It in the project that this one is a cache of; None if this is no cache, or the parent does not have it."""
        if isinstance(self.parent, Entity):
            parent: Node | None = self.parent._at_parent()
        else:
            parent = getattr(self.parent, "parent_root", None)
        return None if parent is None else parent._find(type(self), self.meta)

    def _only_read(self) -> bool:
        """Whether no layer that holds it can be written."""
        return all(self.layer.narrowed(name).read_only for name in self.sources)

    def _serving(self) -> Layer:
        """The layer that reads come from; where nothing is yet, the one that writes go to."""
        names = self.sources
        return self.layer.narrowed(names[0]) if names else self.layer

    def _twin(self, names: tuple[str, ...]) -> Self:
        twin = type(self)(self.parent.on(names), self._meta_for_twin())
        twin.config = self.config
        return twin

    def _meta_for_twin(self) -> Any:
        """What is known of it in whatever layer it is."""
        return self.meta.model_copy()

    def ensure(self, create: bool = False) -> bool:
        """Whether it exists, after creating it if `create`. Raises ReadOnlyError if it cannot be created."""
        if self.layer.exists(self._ref):
            return True
        if create:
            self._create()
            self._changed()
        return create

    def _document(self) -> bytes:
        """What is stored of it, if that is a document. Raises GoneError."""
        try:
            return self.layer.load(self._ref)
        except NotFoundError as error:
            raise GoneError(str(error)) from None

    def _create(self) -> None:
        self.layer.create(self._ref)

    def _changed(self) -> None:
        """It was written: it, and what it lies in, may be in layers where they were not before."""
        node: Node = self
        while isinstance(node, Entity):
            node._twins.clear()
            node.parent._noticed(node)
            node = node.parent

    def delete(self, *, missing_ok: bool = False, layers: Layers = None) -> None:
        """Remove it, and everything below it, from the layers that can be written.

        Args:
            missing_ok: No error if there is nothing to remove, or if layers that cannot be written still hold it.
            layers: Remove it from these layers alone.

        Raises:
            GoneError: Nothing is there. (A KeyError and a FileNotFoundError.)
            ReadOnlyError: It is also in layers that cannot be written, and still there.
        """
        gone = False
        try:
            self.on(layers).layer.delete(self._ref)
            gone = layers is None
        except ReadOnlyError:
            if not missing_ok:
                raise
        except NotFoundError as error:
            if not missing_ok:
                raise GoneError(str(error)) from None
        finally:
            self._forget_below()
            if gone:
                self.parent._drop(self)
            else:  # another layer may serve it now
                self.parent._forget_kind(self.kind, self._ref)

    def _forget_below(self) -> None:
        for memory in (self._children, self._alone, self._twins):
            memory.clear()

    def propagate(self, layers: str | Iterable[str]) -> list[str]:
        """Copy it, as it is read now, to these layers. What is below it is not copied.

        Returns:
            The names of the layers that hold this version now.

        Raises:
            LayerError: A layer could not take it and is as it was; the text says which have it now.
        """
        try:
            return self.layer.propagate(self._ref, layers)
        finally:
            self._changed()

    def __getstate__(self) -> dict[str, Any]:
        """The reference alone: lists and handles are made again where they are needed."""
        return {name: value for name, value in self.__dict__.items() if name not in MEMORIES} | {
            "layer": None
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._remember_nothing()
        self.__dict__.update(state)
        self.layer = self.parent.layer

    def __repr__(self) -> str:
        known = {**dict(zip(self.kind.identity, self._ref.values, strict=True)), **self.kind.fixed}
        fields = ", ".join(f"{name}={value!r}" for name, value in known.items() if value is not False)
        return f"{type(self).__name__}({fields}{self._shown()})"


class Folder(Entity):
    """An entity that is a folder: a run or a voxel spacing. What is said of it stands in its `.meta` file."""

    _described = False

    @property
    def description(self) -> str | None:
        """What people should know of it: from the highest layer that says something."""
        if not self._described and self.meta.description is None:
            for name in self.sources:
                self.meta = self.meta.filled(self._read_meta(self.layer.narrowed(name))[0])
            self._described = True
        described: str | None = self.meta.description
        return described

    @description.setter
    def description(self, text: str | None) -> None:
        self.meta.description = text
        self._described = True

    def _read_meta(self, layer: Layer) -> tuple[Meta, dict[str, Any]]:
        """What the `.meta` file of a layer says: what we know of, and what else others wrote."""
        named = dict(zip(self.kind.identity, self._ref.values, strict=True))
        cls = type(self.meta)
        try:
            said = {**json.loads(layer.load(self._ref)), **named}
            return cls(**said), {key: said[key] for key in said.keys() - cls.model_fields.keys()}
        except (NotFoundError, ValueError, TypeError):  # no file, the word "meta", or something else of 1.x
            return cls(**named), {}

    def _meta_for_twin(self) -> Any:
        return self.meta.model_copy(update={"description": None})

    def prune(self) -> None:
        """Remove it if nothing is in it, nor begins to be just now. Where there are no directories it may be left."""
        self.layer.prune(self._ref)
        if not self.layer.exists(self._ref):
            self._forget_below()
            self.parent._drop(self)

    def store(self) -> None:
        """Write what `meta` says to the `.meta` file, making the folder. Raises ReadOnlyError."""
        _ = self.description  # what was not read yet would be lost
        self.layer.create(self._ref)
        mine = self.meta.model_dump(mode="json", exclude_none=True, exclude=set(self.kind.identity))
        said = {**self._read_meta(self.layer)[1], **mine}
        self.layer.save(self._ref, json.dumps(said).encode() if said else b"meta")
        self._changed()

    def refresh(self) -> None:
        """Forget what was listed here and below, and the description."""
        super().refresh()
        self._forget_description()

    def _forget_below(self) -> None:
        super()._forget_below()
        self._forget_description()

    def _forget_description(self) -> None:
        if self._described:
            self.meta.description, self._described = None, False


def remembered(*kinds: Kind) -> property:
    """A private list of children as 1.x has it: None = not listed yet; setting None forgets."""

    def read(self: Node) -> list[Any] | None:
        if any(kind.name not in self._children for kind in kinds):
            return None
        return [child for kind in kinds for child in self._children[kind.name]]

    def replace(self: Node, children: list[Any] | None) -> None:
        for kind in kinds:
            self._forget_kind(kind)
            if children is not None:
                self._children[kind.name] = [child for child in children if child.kind is kind]

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
        values = {**child.kind.fixed, **dict(zip(child.kind.identity, child.ref.values, strict=True))}
        if all(values[name] in accepted for name, accepted in filters.items()):
            found.append(child)
    return found


def of_portal(children: list[E], query: PortalQuery, authors: Iterable[str] | None) -> list[E]:
    """Of these siblings, or children of one kind of several parents, those that the data portal finds by this query."""
    fields = {name: value for name, value in (query or {}).items() if value is not None}
    names = [authors] if isinstance(authors, str) else [*(authors or ())]
    if not fields and not names:
        return children
    found: dict[tuple[Ref | None, Kind], set[Ref]] = {}
    kept = []
    for child in children:
        family = (child.ref.parent, child.kind)
        if family not in found:
            found[family] = child.layer.matching(*family, {**fields, "authors": names})
        if child.ref in found[family]:
            kept.append(child)
    return kept


def note_ignored(unknown: Mapping[str, object], *known: str) -> None:
    """A line in the log for each keyword that means nothing: a misspelt `layers` must not pass unseen."""
    for name in unknown:
        hint = nearest(name, ["layers", "exist_ok", *known])
        logger.warning("unknown argument %r is ignored%s", name, hint)


def allowed(value: Any) -> set[Any]:
    """A filter's value or values as a set of key values."""
    scalar = isinstance(value, str) or not isinstance(value, Iterable)
    return {normal(item) for item in ([value] if scalar else value)}
