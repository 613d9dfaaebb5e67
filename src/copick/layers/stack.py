"""Many layers seen as one. A stack is itself a layer, so nothing above it knows that it is many."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from copick.errors import NotFoundError, ReadOnlyError
from copick.layers.layer import Layer

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Sequence

    from zarr.abc.store import Store

    from copick.kinds import Kind, Ref
    from copick.meta import Meta

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LayerStack(Layer):
    """Layers in order of priority, highest first. Reads come from the highest that holds the entity.

    It remembers which layers held what when it last listed them, so that reading what was listed asks no layer
    again.
    """

    def __init__(self, layers: Sequence[Layer], default_write: str | None = None) -> None:
        self.layers = tuple(layers)
        self.name = "+".join(layer.name for layer in self.layers)
        self.default_write = default_write
        self.read_only = all(layer.read_only for layer in self.layers)
        self._holding: dict[Ref, tuple[Layer, ...]] = {}
        self._narrowed: dict[tuple[str, ...], LayerStack] = {}
        self._family: list[LayerStack] = [
            self
        ]  # stacks over the same layers: what one writes, all must forget

    def __repr__(self) -> str:
        return f"<LayerStack {' › '.join(layer.name for layer in self.layers)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_holding": {}, "_narrowed": {}, "_family": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._family = [self]

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
        return [
            name
            for layer in self.layers
            for name in (layer.names if isinstance(layer, LayerStack) else [layer.name])
        ]

    @property
    def overlay(self) -> Layer:
        return self[self.default_write] if self.default_write is not None else self.layers[0].overlay

    @property
    def static(self) -> Layer:
        return next((layer.static for layer in self.layers if layer.read_only), self.overlay)

    def files(self, ref: Ref | None) -> tuple[Any, str]:
        held = self._layers_holding(ref) if ref else ()
        return (held[0] if held else self.overlay).files(ref)

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
            writable = [layer.name for layer in kept if not layer.read_only]
            default = self.default_write if self.default_write in writable else next(iter(writable), None)
            self._narrowed[wanted] = child = LayerStack(kept, default)
            child._family = self._family
            self._family.append(child)
        return self._narrowed[wanted]

    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        merged: dict[Ref, Meta] = {}
        holding: dict[Ref, tuple[Layer, ...]] = {}
        for layer in self.layers:
            for meta in layer.list(parent, kind):
                ref = kind.ref(meta, parent)
                merged[ref] = merged[ref].filled(meta) if ref in merged else meta
                holding[ref] = (*holding.get(ref, ()), layer)
        self._holding.update(holding)
        return [merged[ref] for ref in sorted(merged, key=lambda ref: ref.values)]

    def _layers_holding(self, ref: Ref) -> tuple[Layer, ...]:
        held = self._holding.get(ref, ())
        if not held:
            held = tuple(layer for layer in self.layers if layer.exists(ref))
            if held:  # an absence is not remembered: a store that is open may end it
                self._holding[ref] = held
        return held

    def exists(self, ref: Ref) -> bool:
        if self._holding.get(ref):
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
        return self._from_highest(ref, lambda layer: layer.load(ref))

    def store(self, ref: Ref, *, write: bool = False) -> Store:
        if not write:
            return self._from_highest(ref, lambda layer: layer.store(ref))
        target = self._target(ref)
        self._forget(ref)
        return target.store(ref, write=True)

    def _from_highest(self, ref: Ref, ask: Callable[[Layer], T]) -> T:
        """Ask the layers from the top until one has it; those that were seen to hold it come first."""
        for layer in self._holding.get(ref, ()):
            try:
                return ask(layer)
            except NotFoundError:
                self._holding.pop(ref, None)  # gone since the listing: ask them all
                break
        for at, layer in enumerate(self.layers):
            try:
                found = ask(layer)
            except NotFoundError:
                continue
            if at == len(self.layers) - 1:
                self._holding[ref] = (layer,)
            return found
        raise NotFoundError(f"no layer has {ref}; asked {', '.join(self.names)}")

    def create(self, ref: Ref) -> None:
        target = self._target(ref)
        target.create(ref)
        self._forget(ref)

    def save(self, ref: Ref, document: bytes) -> None:
        target = self._target(ref)
        target.save(ref, document)
        self._forget(ref)

    def _target(self, ref: Ref) -> Layer:
        """The layer that writes go to."""
        if self.default_write is None:
            raise ReadOnlyError(
                f"cannot change {ref}: no layer can be written; read-only are {', '.join(self.names)}"
            )
        target = self[self.default_write]
        target.check_writable(ref)
        holding = self._holding.get(ref, ())
        if holding and holding[0].name != target.name and not holding[0].read_only:
            logger.warning(
                "%s is written to layer %r but read from %r, which is above it",
                ref,
                target.name,
                holding[0].name,
            )
        return target

    def delete(self, ref: Ref) -> None:
        self._forget(ref)
        holding = self._layers_holding(ref)
        if not holding:
            raise NotFoundError(f"no layer has {ref}; asked {', '.join(self.names)}")
        for layer in holding:
            if not layer.read_only:
                layer.delete(ref)
        for stack in self._family:
            stack._holding.clear()
        kept = [layer.name for layer in holding if layer.read_only]
        if kept:
            removed = [layer.name for layer in holding if not layer.read_only]
            done = f"was removed from {', '.join(removed)}, but" if removed else "was not removed: it"
            raise ReadOnlyError(f"{ref} {done} is still in layer(s) {', '.join(kept)}, which are read-only")

    def _forget(self, ref: Ref) -> None:
        """What we knew about `ref` and its ancestors is no longer true: a write may have made them appear."""
        for stack in self._family:
            for each in ref.walk():
                stack._holding.pop(each, None)

    def refresh(self, ref: Ref | None = None) -> None:
        for stack in self._family:
            stack._holding = (
                {} if ref is None else {r: held for r, held in stack._holding.items() if not r.within(ref)}
            )
        for layer in self.layers:
            layer.refresh(ref)
