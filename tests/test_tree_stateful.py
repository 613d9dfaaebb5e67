"""Whatever is made, changed and deleted, by whichever way: an open project shows what somebody sees who opens it now."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from copick.config import CopickConfigMultilayer
from copick.errors import AlreadyExistsError, LayerError, NotFoundError, ReadOnlyError
from copick.impl.multilayer import CopickRootMultilayer
from copick.layers.memory import MemoryLayer
from copick.layers.stack import LayerStack
from projects import OBJECTS

pytestmark = pytest.mark.slow

LAYERS = ["high", "low", "archive"]
RUNS = st.sampled_from(["a", "b"])
SESSIONS = st.sampled_from(["0", "1", "2"])
KINDS = st.sampled_from(["picks", "segmentations", "meshes"])
WHERE = st.sampled_from([None, "high", "low", ["low", "high"], ["archive", "low"]])
EXPECTED = (AlreadyExistsError, ReadOnlyError, NotFoundError, LayerError)
"""What the stack may say to a step, each with a reason. Nothing else."""


class Tree(RuleBasedStateMachine):
    """Entities are taken from lists, from queries, by name and through narrower views, and kept."""

    @initialize()
    def make(self) -> None:
        archive = MemoryLayer("archive")
        self.layers = [MemoryLayer("high"), MemoryLayer("low"), archive]
        run = self.open().new_run("a", layers="archive")
        run.new_picks("ribosome", "0").from_numpy([[0, 0, 0]])
        run.new_segmentation(10, "membrane", "1").from_numpy(np.ones((2, 2, 2)))
        run.new_voxel_spacing(10).new_tomogram("wbp").from_numpy(np.ones((2, 2, 2)), levels=1)
        archive.read_only = True
        self.root = self.open()
        self.kept: list[Any] = []

    def open(self) -> Any:
        config = CopickConfigMultilayer(
            user_id="me",
            pickable_objects=OBJECTS,
            layers=LAYERS,
            layer_configs={name: {"config_type": "memory"} for name in LAYERS},
        )
        return CopickRootMultilayer(config, LayerStack(self.layers, "low"))

    def run_named(self, name: str, layers: Any = None) -> Any:
        return self.root.get_run(name, layers=layers)

    def attempt(self, step: Any) -> Any:
        try:
            return step()
        except EXPECTED:
            return None

    @rule(name=RUNS, layers=WHERE)
    def new_run(self, name: str, layers: Any) -> None:
        self.attempt(lambda: self.root.new_run(name, layers=layers))

    @rule(name=RUNS, session=SESSIONS, kind=KINDS, layers=WHERE, narrowed=st.booleans())
    def new_item(self, name: str, session: str, kind: str, layers: Any, narrowed: bool) -> None:
        run = self.run_named(name)
        if run is None:
            return
        if narrowed and layers is not None:
            run, layers = run.on(layers), None
        made = self.attempt(
            lambda: {
                "picks": lambda: run.new_picks("ribosome", session, layers=layers),
                "meshes": lambda: run.new_mesh("ribosome", session, layers=layers),
                "segmentations": lambda: run.new_segmentation(10, "membrane", session, layers=layers),
            }[kind]()
        )
        if made is not None:
            self.kept.append(made)

    @rule(name=RUNS, tomo_type=st.sampled_from(["wbp", "sirt"]), layers=WHERE, value=st.integers(2, 9))
    def new_tomogram(self, name: str, tomo_type: str, layers: Any, value: int) -> None:
        """Through a voxel spacing that is reached by way of its run."""
        run = self.run_named(name)
        if run is not None:
            self.attempt(
                lambda: (
                    run.new_voxel_spacing(10, exist_ok=True, layers=layers)
                    .new_tomogram(tomo_type)
                    .from_numpy(np.full((2, 2, 2), value), levels=1)
                )
            )

    @rule(name=RUNS, kind=KINDS, layers=WHERE, fresh=st.booleans())
    def keep_what_is_there(self, name: str, kind: str, layers: Any, fresh: bool) -> None:
        run = self.run_named(name)
        if run is not None:
            self.kept += getattr(run, f"query_{kind}" if fresh else f"get_{kind}")(layers=layers)

    @rule(at=st.integers(0, 30), layers=WHERE)
    def delete_kept(self, at: int, layers: Any) -> None:
        if self.kept:
            item = self.kept[at % len(self.kept)]
            self.attempt(lambda: item.delete(layers=layers))

    @rule(at=st.integers(0, 30))
    def store_kept(self, at: int) -> None:
        if self.kept:
            item = self.kept[at % len(self.kept)]
            if hasattr(item, "set_region"):
                self.attempt(lambda: item.from_numpy(np.full((2, 2, 2), at)))
            elif hasattr(item, "points"):
                self.attempt(lambda: item.from_numpy([[at, 0, 0]]))
            else:
                self.attempt(item.store)

    @rule(at=st.integers(0, 30), layers=st.sampled_from(["high", "low"]))
    def propagate_kept(self, at: int, layers: str) -> None:
        if self.kept:
            item = self.kept[at % len(self.kept)]
            self.attempt(lambda: item.propagate(layers))

    @rule(name=RUNS, kind=KINDS, session=st.none() | SESSIONS, layers=WHERE)
    def delete_some(self, name: str, kind: str, session: str | None, layers: Any) -> None:
        run = self.run_named(name)
        if run is not None:
            self.attempt(lambda: getattr(run, f"delete_{kind}")(session_id=session, layers=layers))

    @rule(name=RUNS, layers=WHERE)
    def delete_run(self, name: str, layers: Any) -> None:
        self.attempt(lambda: self.root.delete_run(name, layers=layers))

    @rule(name=RUNS)
    def region(self, name: str) -> None:
        run = self.run_named(name)
        for spacing in run.voxel_spacings if run is not None else ():
            for tomogram in spacing.tomograms:
                self.attempt(lambda tomogram=tomogram: tomogram.set_region(3, x=slice(0, 1)))

    @rule()
    def refresh(self) -> None:
        self.root.refresh()
        self.kept.clear()  # of the tree before: it is not told any more

    def seen(self, root: Any) -> dict[str, Any]:
        """Everything a project shows, with its layers and content."""
        found: dict[str, Any] = {}
        for run in root.runs:
            found[str(run.ref)] = run.sources
            for picks in run.picks:
                found[str(picks.ref)] = (picks.sources, picks.layer.load(picks.ref))
            for mesh in run.meshes:
                found[str(mesh.ref)] = mesh.sources
            for mask in run.segmentations:
                found[str(mask.ref)] = (mask.sources, self.attempt(lambda mask=mask: mask.numpy().tolist()))
            for spacing in run.voxel_spacings:
                for tomogram in spacing.tomograms:
                    found[str(tomogram.ref)] = (tomogram.sources, tomogram.numpy().tolist())
        return found

    @invariant()
    def what_is_seen_is_what_is_there(self) -> None:
        if hasattr(self, "root"):
            now = self.open()
            expected = self.seen(now)
            assert self.seen(self.root) == expected
            for name in ("a", "b"):
                assert (self.root.get_run(name) is None) == (now.get_run(name) is None)
            for layers in ("high", ["low", "archive"]):
                assert [r.ref for r in self.root.on(layers).runs] == [r.ref for r in now.query(layers=layers)]
            for item in self.kept:
                assert bool(item.sources) == item.ensure()


TestTree = Tree.TestCase
LONG = bool(os.environ.get("COPICK_STRESS"))
TestTree.settings = settings(max_examples=3000 if LONG else 12, stateful_step_count=15, deadline=None)
