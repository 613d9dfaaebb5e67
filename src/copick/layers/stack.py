"""Many layers seen as one. A stack is itself a layer, so nothing above it knows that it is many.

Where a write goes (`write_strategy`):

- `default`: to the default write layer. An entity that a writable layer above it serves is changed there: below, nobody
  would see the change.
- `source`: to the layer that serves the entity if that can be written, else to the default write layer.
- `cache`: to the local folder of pending changes, the topmost layer, and from there to the first writable layer below.
  What could not be passed on, or must not be (`propagate` off), stays pending and is read from there; `flush` passes it on.
  It does not replace what others have changed at the target since the pending change was begun.

To change a part of an array that the target does not hold, the whole array is first copied up to it.
"""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from copick.errors import ConflictError, CopickError, LayerError, NotFoundError, ReadOnlyError
from copick.kinds import CHILDREN
from copick.layers.bases import Bases
from copick.layers.layer import Layer, Opened
from copick.layers.transfer import copy_entity, entities, one_at_a_time, said

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from zarr.abc.store import Store

    from copick.kinds import Kind, Ref, Value
    from copick.layers.layer import Entry
    from copick.meta import Meta

logger = logging.getLogger(__name__)

T = TypeVar("T")
Strategy = Literal["default", "source", "cache"]
Holding: TypeAlias = "dict[tuple[Value, ...], tuple[Layer, ...]]"
"""Which layers hold each of some siblings, by their keys."""


class Observer(Protocol):
    """Somebody who must know what a stack changed."""

    def changed(self, layer: Layer, ref: Ref) -> None:
        """`ref`, and what is above or below it, may be in `layer` otherwise than before. Must not raise."""


class LayerStack(Layer):
    """Layers in order of priority, highest first. Reads come from the highest that holds the entity.

    It remembers which layers held what when it last listed them, so that reading what was listed asks no layer
    again.

    Args:
        layers: Highest first.
        default_write: Name of the default write layer; None = writes are refused.
        strategy: Where writes go.
        pending: Where the strategy `cache` writes; becomes the topmost layer.
        propagate: Pass what is pending on at once.
        bases: What the pending changes began from.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        default_write: str | None = None,
        *,
        strategy: Strategy = "default",
        pending: Layer | None = None,
        propagate: bool = True,
        bases: Bases | None = None,
    ) -> None:
        self.layers = tuple(layers) if pending is None else (pending, *layers)
        self.name = "+".join(layer.name for layer in self.layers)
        self.default_write, self.strategy, self.pending = default_write, strategy, pending
        self.propagates, self._bases = propagate, bases or Bases()
        self.read_only = all(layer.read_only for layer in self.layers)
        # By parent and kind, because a listing replaces all that was known of it.
        self._holding: dict[tuple[Ref | None, Kind], Holding] = {}
        self._opened: WeakValueDictionary[Ref, Opened] = WeakValueDictionary()
        self._narrowed: dict[tuple[str, ...], LayerStack] = {}
        # Stacks over the same layers: what one writes, all must forget.
        self._family: list[LayerStack] = [self]
        self.observers: list[Observer] = []

    def __repr__(self) -> str:
        return f"<LayerStack {' › '.join(layer.name for layer in self.layers)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_holding": {}, "_opened": None, "_narrowed": {}, "_family": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._family, self._opened = [self], WeakValueDictionary()

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
            if isinstance(layer, LayerStack) and name in layer.names:
                return layer[name]
        raise NotFoundError(f"there is no layer {name!r}; the layers are {', '.join(self.names)}")

    @property
    def names(self) -> builtins.list[str]:
        """Names of the layers, highest priority first."""
        return [name for layer in self.layers for name in layer.names]

    @property
    def overlay(self) -> Layer:
        return self[self.default_write] if self.default_write is not None else self.layers[0].overlay

    @property
    def static(self) -> Layer:
        return next((layer.static for layer in self.layers if layer.read_only), self.overlay)

    def files(self, ref: Ref | None) -> tuple[Any, str]:
        held = self._layers_holding(ref) if ref else ()
        return (held[0] if held else self.overlay).files(ref)

    def ensure(self, *, create: bool = False) -> bool:
        """As of a layer, of all of them; `create` makes the places of those that can be written."""
        if create:
            self._default("its root")
        there = [layer.ensure(create=create and not layer.read_only) for layer in self.layers]  # all are made
        return all(there)

    def reconnect(self) -> None:
        for layer in self.layers:
            layer.reconnect()

    def narrowed(self, names: str | Iterable[str]) -> LayerStack:
        wanted = (names,) if isinstance(names, str) else tuple(names)
        if wanted not in self._narrowed:
            if not wanted:
                raise NotFoundError(f"no layer is named; the layers are {', '.join(self.names)}")
            layers = {id(layer): layer for layer in map(self.__getitem__, wanted)}
            order = self.names
            kept = sorted(
                layers.values(), key=lambda layer: order.index(layer.name) if layer.name in order else -1
            )
            pending = self.pending if self.pending in kept else None
            kept = [layer for layer in kept if layer is not pending]
            writable = [layer.name for layer in kept if not layer.read_only]
            default = self.default_write if self.default_write in writable else next(iter(writable), None)
            strategy = "default" if self.strategy == "cache" and pending is None else self.strategy
            self._narrowed[wanted] = child = LayerStack(
                kept,
                default,
                strategy=strategy,
                pending=pending,
                propagate=self.propagates,
                bases=self._bases,
            )
            child._family, child.observers = self._family, self.observers
            self._family.append(child)
        return self._narrowed[wanted]

    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        return [
            kind.meta_of(ref.values) if meta is None else meta for ref, meta in self.entries(parent, kind)
        ]

    def entries(self, parent: Ref | None, kind: Kind) -> Iterable[Entry]:
        merged: dict[tuple[Value, ...], Entry] = {}
        holding: Holding = {}
        for layer in self.layers:
            for ref, meta in layer.entries(parent, kind):
                key = ref.values
                if key in merged:
                    merged[key] = ref, _joined(ref, merged[key][1], meta)
                    holding[key] = (*holding[key], layer)
                else:
                    merged[key], holding[key] = (ref, meta), (layer,)
        self._holding[parent, kind] = holding
        return [merged[key] for key in sorted(merged)]

    def matching(self, parent: Ref | None, kind: Kind, query: Mapping[str, Any]) -> set[Ref]:
        return {ref for layer in self.layers for ref in layer.matching(parent, kind, query)}

    def _known(self, ref: Ref) -> Holding:
        """What is remembered of `ref` and its siblings."""
        return self._holding.setdefault((ref.parent, ref.kind), {})

    def _layers_holding(self, ref: Ref) -> tuple[Layer, ...]:
        held = self._known(ref).get(ref.values, ())
        if not held:
            held = tuple(layer for layer in self.layers if layer.exists(ref))
            if held:  # an absence is not remembered: a store that is open may end it
                self._known(ref)[ref.values] = held
        return held

    def exists(self, ref: Ref) -> bool:
        if ref.values in self._known(ref):
            return True
        # One layer that holds it is enough: the others are not asked, so nothing is remembered.
        return any(layer.exists(ref) for layer in self.layers)

    def holders(self, ref: Ref) -> builtins.list[str]:
        nested = (
            layer.holders(ref) if isinstance(layer, LayerStack) else [layer.name]
            for layer in self._layers_holding(ref)
        )
        return [name for names in nested for name in names]

    def load(self, ref: Ref) -> bytes:
        """The document of the highest layer; of a run or a voxel spacing what all of them say, the highest first."""
        if ref.kind.payload != "folder":
            return self._from_highest(ref, lambda layer: layer.load(ref))
        found: builtins.list[bytes] = []
        together: dict[str, Any] = {}
        for layer in self._layers_holding(ref):
            with suppress(NotFoundError):  # a folder without a document
                found.append(layer.load(ref))
                together = {**said(found[-1]), **together}
        if not found:
            raise self._missing(ref)
        return json.dumps(together).encode() if together and together != said(found[0]) else found[0]

    def tag(self, ref: Ref, path: str = "") -> str | None:
        """That of the highest layer, with its name: another layer's is another version. None for what layers say together."""
        if ref.kind.payload == "folder":
            return None

        def ask(layer: Layer) -> tuple[Layer, str | None]:
            return layer, layer.tag(ref, path)

        layer, tag = self._from_highest(ref, ask)
        return tag and f"{tag} {layer.name}"

    def store(self, ref: Ref, *, write: bool = False) -> Store:
        if not write:
            return self._from_highest(ref, lambda layer: layer.store(ref))
        target = self._target(ref)
        self._forget(ref, target)
        return target.store(ref, write=True)

    def _from_highest(self, ref: Ref, ask: Callable[[Layer], T]) -> T:
        """Ask the layers from the top until one has it; those that were seen to hold it come first."""
        last: NotFoundError | None = None
        for layer in self._known(ref).get(ref.values, ()):
            try:
                return ask(layer)
            except NotFoundError as error:
                self._known(ref).pop(ref.values, None)  # gone since the listing: ask them all
                last = error
                break
        for at, layer in enumerate(self.layers):
            try:
                found = ask(layer)
            except NotFoundError as error:
                last = error
                continue
            if at == len(self.layers) - 1:
                self._known(ref)[ref.values] = (layer,)
            return found
        raise self._missing(ref, last) from last

    def _missing(self, ref: Ref, last: NotFoundError | None = None) -> NotFoundError:
        said = "" if last is None else f": {last}"
        return NotFoundError(f"no layer has {ref}; asked {', '.join(self.names)}{said}")

    def original(self, ref: Ref) -> Store:
        return self._from_highest(ref, lambda layer: layer.original(ref))

    # Writes

    def create(self, ref: Ref) -> None:
        self._target(ref)  # where nothing can be written, that is said in any case
        self._forget(ref)
        if not self.exists(ref):  # an empty one would hide it
            with self._changing(ref) as target:
                target.create(ref)

    def save(self, ref: Ref, document: bytes) -> None:
        with self._changing(ref) as target:
            target.save(ref, document)

    def adopt(self, ref: Ref, source: Store, *, replace: bool = True) -> None:
        if replace or not self.exists(ref):
            with self._changing(ref) as target:
                target.adopt(ref, source, replace=replace)

    @contextmanager
    def writing(self, ref: Ref, *, keep: bool = False) -> Iterator[Store]:
        with self._changing(ref) as target:
            if keep and not target.exists(ref):
                target.adopt(ref, self.original(ref), replace=False)
            with target.writing(ref, keep=keep) as store:
                yield store

    @contextmanager
    def _changing(self, ref: Ref) -> Iterator[Layer]:
        """The layer to change; what was known of `ref` is forgotten however that ends."""
        target = self._target(ref)
        with self._alone_with(ref) if target is self.pending else nullcontext():
            try:
                if target is self.pending and (below := self._below()) is not None:
                    self._bases.begin(ref, target, below)
                yield target
            finally:
                self._forget(ref, target)
            if target is self.pending and self.propagates:
                try:
                    self._pass_on(ref)
                except (CopickError, OSError) as error:
                    logger.warning(
                        "%s is kept in %r until flush() can pass it on: %s", ref, target.name, error
                    )

    def _target(self, ref: Ref) -> Layer:
        """The layer that a write goes to."""
        if self.pending is not None:
            return self.pending
        default = self._default(ref)
        writable = [layer for layer in self.layers if not layer.read_only]
        if self.strategy == "source" or default is not writable[0]:
            serving = next(iter(self._layers_holding(ref)), None)
            if serving in writable and (
                self.strategy == "source" or writable.index(serving) < writable.index(default)
            ):
                return serving
        return default

    def _default(self, ref: object) -> Layer:
        if self.default_write is None:
            raise ReadOnlyError(
                f"cannot change {ref}: no layer can be written; read-only are {', '.join(self.names)}"
            )
        default = next(
            layer
            for layer in self.layers
            if self.default_write == layer.name
            or (isinstance(layer, LayerStack) and self.default_write in layer.names)
        )
        default.check_writable(ref)
        return default

    # What is pending

    def flush(self, *, force: bool = False) -> builtins.list[Ref]:
        """Pass on everything that is pending; what was passed on.

        Args:
            force: Also where that replaces what others have changed since the pending change was begun.

        Raises:
            ConflictError: Others have changed something that is pending; both versions are as they were. The rest was passed on.
            LayerError: Something could not be passed on for other reasons; it stays pending. The rest was passed on.
        """
        if self.pending is None:
            return []
        done: builtins.list[Ref] = []
        failed: builtins.list[str] = []
        conflict = False
        # What is in a folder before the folder, which goes with the last of it.
        for ref in reversed([*entities(self.pending, among=self)]):
            try:
                with self._alone_with(ref):
                    if self.pending.exists(ref):
                        self._pass_on(ref, force)
                done.insert(0, ref)
            except (CopickError, OSError) as error:
                failed.append(f"{ref}: {error}")
                conflict = conflict or isinstance(error, ConflictError)
        if failed:
            raise (ConflictError if conflict else LayerError)(
                f"{len(failed)} of {len(failed) + len(done)} changes are still pending: {'; '.join(failed)}"
            )
        return done

    @contextmanager
    def _alone_with(self, *refs: Ref) -> Iterator[None]:
        """No other process changes these, or what they belong to, in the pending changes: one would lose what it wrote."""
        assert self.pending is not None
        named = [each for ref in refs for each in ref.walk() if each is ref or each.kind.payload != "folder"]
        with ExitStack() as stack:
            for each in named:
                stack.enter_context(one_at_a_time(f"{self.pending.location} {each}"))
            yield

    def _below(self) -> Layer | None:
        """Where what is pending goes: the first writable layer below."""
        return next((layer for layer in self.layers[1:] if not layer.read_only), None)

    def _pass_on(self, ref: Ref, force: bool = False) -> None:
        """Move `ref` from the pending changes to the layer below. To be called alone with it."""
        assert self.pending is not None
        target = self._below()
        if target is None:
            raise ReadOnlyError(f"no layer below {self.pending.name!r} can be written")
        if not force:
            self._bases.check(ref, self.pending, target)
        copy_entity(ref, self.pending, target)
        self._bases.passed(ref, target)
        if ref.kind.payload == "folder":
            self.pending.prune(ref)
        elif not any(True for _ in entities(self.pending, ref)):
            self.pending.delete(ref)
        above = [each for each in ref.walk() if each.kind.payload == "folder" and each != ref]
        for folder in reversed(above):
            with self._alone_with(folder):
                if self._says_something(folder):
                    break
                self.pending.prune(folder)
        self._forget(ref, self.pending, target)

    def _says_something(self, folder: Ref) -> bool:
        """Whether the document of a pending folder is a change of its own."""
        assert self.pending is not None
        try:
            return bool(said(self.pending.load(folder)))
        except NotFoundError:
            return False

    def propagate(self, ref: Ref, names: str | Iterable[str]) -> builtins.list[str]:
        """Copy `ref` as it is read now to each of these layers; the names of those that have it now.

        Raises:
            LayerError: A layer could not take it and is as it was. The text says which could.
        """
        targets = {name: self[name] for name in ([names] if isinstance(names, str) else names)}
        if not (holders := self.holders(ref)):
            raise self._missing(ref)
        done: builtins.list[str] = []
        failed: builtins.list[tuple[str, Exception]] = []
        for name, target in targets.items():
            try:
                if name != holders[0]:
                    copy_entity(ref, self, target)
                done.append(name)
            except (CopickError, OSError) as error:
                failed.append((name, error))
            finally:
                self._forget(ref, target)
        if failed:
            raise _failure(
                f"{ref} was not copied to ", failed, f"; copied to {', '.join(done) or 'no layer'}"
            )
        return done

    def prune(self, folder: Ref) -> None:
        writable = [layer for layer in self.layers if not layer.read_only]
        for layer in writable:
            layer.prune(folder)
        self._forget(folder, *writable)

    def delete(self, ref: Ref) -> None:
        self._forget(ref)
        holding = self._layers_holding(ref)
        if not holding:
            raise self._missing(ref)
        removed: builtins.list[str] = []
        kept: builtins.list[str] = []
        failed: builtins.list[tuple[str, Exception]] = []
        try:
            for layer, each in [*self._elsewhere(ref, holding), *((layer, ref) for layer in holding)]:
                try:
                    layer.delete(each)
                    removed.append(layer.name)
                except NotFoundError:  # someone else was faster
                    pass
                except ReadOnlyError:
                    kept += layer.holders(each)
                except (CopickError, OSError) as error:
                    failed.append((layer.name, error))
        finally:
            for stack in self._relatives():
                stack._holding.clear()
            self._forget(ref, *(layer for layer in self.layers if not layer.read_only))
        done = f"was removed from {', '.join(removed)}" if removed else "was not removed"
        if failed:
            raise _failure(f"{ref} {done}; this failed: ", failed)
        if kept:
            but = ", but" if removed else ": it"
            raise ReadOnlyError(
                f"{ref} {done}{but} is still in layer(s) {', '.join(kept)}, which are read-only"
            )

    def _elsewhere(self, ref: Ref, holding: Sequence[Layer]) -> builtins.list[tuple[Layer, Ref]]:
        """What belongs to `ref` and lies in layers that can be written, but do not hold `ref` itself."""
        if all(layer.read_only for layer in holding):
            return []  # it stays, and so does that
        beside = [kind for kind in CHILDREN.get(ref.kind, ()) if kind.beside]
        children = [kind.ref(meta, ref) for kind in beside for meta in self.list(ref, kind)]
        return [
            (layer, child)
            for child in children
            for layer in self._layers_holding(child)
            if layer not in holding and not layer.read_only
        ]

    def _relatives(self) -> Iterator[LayerStack]:
        """The stacks over the same layers, and those inside of them."""
        for stack in self._family:
            yield stack
            for layer in stack.layers:
                if isinstance(layer, LayerStack):
                    yield from layer._relatives()

    def _forget(self, ref: Ref, *changed: Layer) -> None:
        """What we knew about `ref` and its ancestors is no longer true: a write may have made them appear in these layers."""
        self._close(ref)
        for stack in self._relatives():
            for each in ref.walk():
                stack._known(each).pop(each.values, None)
        for layer in changed:
            for observer in self.observers:
                observer.changed(layer, ref)

    def opened(self, ref: Ref) -> Opened:
        return self._opened.setdefault(ref, Opened())

    def _close(self, ref: Ref | None) -> None:
        """An array that was replaced would go on being read with its old shape, and its missing chunks as zeros."""
        for stack in self._relatives():
            for each, opened in list(stack._opened.items()):
                if ref is None or each.within(ref):
                    opened.clear()

    def refresh(self, ref: Ref | None = None) -> None:
        self._close(ref)
        for stack in self._relatives():
            if ref is None:
                stack._holding = {}
            else:
                stack._known(ref).pop(ref.values, None)
                for place in [*stack._holding]:
                    if place[0] and place[0].within(ref):
                        stack._holding.pop(place, None)
        for layer in self.layers:
            layer.refresh(ref)


def _failure(what: str, failed: Sequence[tuple[str, Exception]], rest: str = "") -> LayerError:
    """What to raise after some layers failed."""
    told = ", ".join(f"{name} ({error})" for name, error in failed)
    return LayerError.of(f"{what}{told}{rest}", *(error for _, error in failed))


def _joined(ref: Ref, meta: Meta | None, other: Meta | None) -> Meta | None:
    """What two layers say of `ref`: the first counts, the other fills its gaps."""
    if other is None:
        return meta
    return (ref.kind.meta_of(ref.values) if meta is None else meta).filled(other)
