"""A walk through the tree of a project, to search it without an index."""

from __future__ import annotations

import functools
import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from copick.index.looks import Failures
from copick.index.things import Held, Thing, describe, leaves
from copick.util.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from copick.kinds import Kind, Ref
    from copick.layers.layer import Layer
    from copick.meta import Meta
    from copick.models.entity import Entity
    from copick.models.root import CopickRoot

logger = logging.getLogger("copick.index")


def scan(root: CopickRoot, types: set[str], runs: Collection[str] | None) -> Iterator[Thing]:
    """Everything of these types, from the tree; what is in layers is read when it is needed."""
    chosen = [run for run in root.runs if runs is None or run.name in runs]
    failures: dict[str, Failures] = defaultdict(Failures)
    with Progress("searching runs", len(chosen)) as progress:
        for run in chosen:
            look = _Look(root.layer, failures)
            for entity in _tree(run, types):
                yield Thing(
                    entity.ref, look.held(entity.ref), sources=functools.partial(getattr, entity, "sources")
                )
            progress.step()


class _Look:
    """What layers say of the entities of a run. Their listings are asked for once."""

    def __init__(self, layer: Layer, failures: dict[str, Failures]) -> None:
        self._layers, self._failures = leaves(layer), failures
        self._listings: dict[tuple[str, Ref | None, Kind], dict[Ref, Meta]] = {}

    def held(self, ref: Ref) -> Iterator[Held]:
        for layer in self._layers:
            place = (layer.name, ref.parent, ref.kind)
            if place not in self._listings:
                listed = layer.list(ref.parent, ref.kind)
                self._listings[place] = {ref.kind.ref(meta, ref.parent): meta for meta in listed}
            if (meta := self._listings[place].get(ref)) is not None:
                began = time.monotonic()
                held = describe(layer, ref, meta)
                if held.problem is not None:
                    if layer.name not in self._failures:
                        logger.warning("what cannot be read is searched by its name alone: %s", held.problem)
                    self._failures[layer.name].add(held.problem, time.monotonic() - began)
                yield held


def _tree(run: Any, types: set[str]) -> Iterator[Entity]:
    """A run and what is in it, of these types."""
    if "runs" in types:
        yield run
    for name in ("picks", "meshes", "filaments", "segmentations"):
        if name in types:
            yield from getattr(run, name)
    if not types & {"voxel_spacings", "tomograms", "features"}:
        return
    for spacing in run.voxel_spacings:
        if "voxel_spacings" in types:
            yield spacing
        if not types & {"tomograms", "features"}:
            continue
        for tomogram in spacing.tomograms:
            if "tomograms" in types:
                yield tomogram
            if "features" in types:
                yield from tomogram.features
