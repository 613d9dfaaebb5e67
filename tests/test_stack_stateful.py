"""Any sequence of changes to a stack: each layer holds what the rules say, and the view is their sum."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import copick
from copick.cache import manager as managers
from copick.errors import AlreadyExistsError, CopickError, LayerError, NotFoundError, ReadOnlyError
from copick.kinds import FEATURES, PICKS, RUN, SEGMENTATION, TOMOGRAM, VOXEL_SPACING, Ref
from projects import OBJECTS, files

if TYPE_CHECKING:
    from copick.layers.layer import Layer
    from copick.models import CopickRoot

pytestmark = pytest.mark.slow

SIZE = 10.0
EMPTY = ()
"""An array group without levels; picks without points."""


def _of_run(name: str) -> list[Ref]:
    run = Ref(RUN, (name,))
    spacing = Ref(VOXEL_SPACING, (SIZE,), run)
    tomograms = [Ref(TOMOGRAM, (each,), spacing) for each in ("raw", "raw-2")]
    return [
        run,
        spacing,
        *tomograms,
        *(Ref(FEATURES, ("unet",), tomogram) for tomogram in tomograms),
        *(Ref(PICKS, ("ribosome", "me", session), run) for session in "12"),
        *(Ref(SEGMENTATION, ("membrane", "me", "1", SIZE, multi), run) for multi in (False, True)),
    ]


EVERYTHING = [*_of_run("a"), *_of_run("b")]
FOLDERS = [ref for ref in EVERYTHING if ref.kind.payload == "folder"]
CONTENTS = [ref for ref in EVERYTHING if ref.kind.payload != "folder"]
ARRAYS = [ref for ref in EVERYTHING if ref.kind.payload == "array"]


class Model:
    """What each layer holds: of a folder what is said of it, of picks their x, of a volume the values of its two slices."""

    def __init__(self, strategy: str, default: str, propagates: bool) -> None:
        self.strategy, self.default, self.propagates = strategy, default, propagates
        self.layers = [*(["cache"] if strategy == "cache" else []), "top", "shared", "archive"]
        self.held: dict[str, dict[Ref, Any]] = {name: {} for name in self.layers}

    def view(self, layers: list[str] | None) -> list[str]:
        return [name for name in self.layers if layers is None or name in layers]

    def holders(self, ref: Ref, view: list[str]) -> list[str]:
        return [name for name in view if ref in self.held[name]]

    def content(self, ref: Ref, view: list[str]) -> Any:
        """As it is read; of a folder, from the highest layer that says something."""
        found = [self.held[name][ref] for name in self.holders(ref, view)]
        if ref.kind.payload == "folder":
            return next((text for text in found if text), None)
        return found[0]

    def add(self, name: str, ref: Ref, content: Any) -> None:
        for each in ref.walk():
            if each.kind.payload == "folder":
                self.held[name].setdefault(each, None)
        if content is not None:
            self.held[name][ref] = content

    def target(self, ref: Ref, view: list[str]) -> str:
        writable = [name for name in view if name != "archive"]
        if not writable:
            raise ReadOnlyError
        if "cache" in view:
            return "cache"
        default = self.default if self.default in writable else writable[0]
        serving = next(iter(self.holders(ref, view)), None)
        if serving in writable and (
            self.strategy == "source" or writable.index(serving) < writable.index(default)
        ):
            return serving
        return default

    def put(self, ref: Ref, content: Any, view: list[str]) -> None:
        target = self.target(ref, view)
        self.add(target, ref, content)
        if target == "cache" and self.propagates:
            self.pass_on(ref, view)

    def pass_on(self, ref: Ref, view: list[str]) -> None:
        below = next((name for name in view if name not in {"cache", "archive"}), None)
        if below is None:
            return
        pending = self.held["cache"]
        self.add(below, ref, pending[ref])
        for each in reversed([*ref.walk()]):
            if each is not ref and each.kind.payload != "folder":
                continue
            if each is not ref and pending.get(each):
                break
            if any(other.within(each) for other in pending if other != each):
                break
            pending.pop(each, None)

    # What a user does. Each raises what the user would see, and has done what was done all the same.

    def create(self, ref: Ref, view: list[str]) -> None:
        if self.holders(ref, view):
            raise AlreadyExistsError
        self.put(ref, None if ref.kind.payload == "folder" else EMPTY, view)

    def write(self, ref: Ref, content: Any, view: list[str]) -> None:
        self.put(ref, content, view)

    def set_region(self, ref: Ref, value: int, view: list[str]) -> None:
        target, before = self.target(ref, view), self.content(ref, view)
        if before == EMPTY:
            raise NotFoundError
        self.add(target, ref, before)
        self.put(ref, (value, *self.held[target][ref][1:]), view)

    def delete(self, ref: Ref, view: list[str]) -> None:
        holding = self.holders(ref, view)
        writable = [name for name in holding if name != "archive"]
        if not holding:
            raise NotFoundError
        for name in view if ref.kind is TOMOGRAM and writable else writable:
            if name != "archive":
                self.held[name] = {
                    each: held for each, held in self.held[name].items() if not each.within(ref)
                }
        if "archive" in holding:
            raise ReadOnlyError

    def delete_family(self, refs: list[Ref], view: list[str]) -> None:
        chosen = [ref for ref in refs if self.holders(ref, view)]
        if any(self.holders(ref, view) == ["archive"] for ref in chosen):
            raise ReadOnlyError
        kept = False
        for ref in chosen:
            try:
                self.delete(ref, view)
            except ReadOnlyError:
                kept = True
        if kept:
            raise ReadOnlyError

    def propagate(self, ref: Ref, layers: list[str]) -> None:
        content = copy.copy(self.content(ref, self.layers))
        serving = self.holders(ref, self.layers)[0]
        for name in layers:
            if name not in (serving, "archive"):
                self.add(name, ref, content)
        if "archive" in layers and serving != "archive":
            raise LayerError

    def flush(self) -> None:
        pending = self.held.get("cache", {})
        for ref, content in pending.items():
            self.add("top", ref, content)
        pending.clear()


layers_or_all = st.none() | st.lists(
    st.sampled_from(["top", "shared", "archive", "cache"]), min_size=1, max_size=2, unique=True
)
values = st.integers(1, 200)
choices = st.integers(0, 2**20)


class Project(RuleBasedStateMachine):
    """One user of a project."""

    strategy, default, propagates, cached = "default", "top", True, ["archive"]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model = Model(self.strategy, self.default, self.propagates)
        archive = files(self.folder / "archive", "archive")
        for at, ref in enumerate(EVERYTHING[:7]):
            self.fill(archive, ref, at + 1)
            self.model.add("archive", ref, self.filled(ref, at + 1))
        self.known: dict[Ref, Any] = {}
        self.root = self.opened()

    def teardown(self) -> None:
        while managers._managers:
            managers._managers.popitem()[1].close()
        shutil.rmtree(self.folder)

    def opened(self) -> CopickRoot:
        config = {
            "config_type": "multilayer",
            "user_id": "me",
            "pickable_objects": OBJECTS,
            "layers": ["top", "shared", "archive"],
            "layer_configs": {
                name: {
                    "config_type": "filesystem",
                    "root": str(self.folder / name),
                    "read_only": name == "archive",
                    "priority": {"top": 1}.get(name, 0),
                }
                for name in ("top", "shared", "archive")
            },
            "default_write_layer": self.default,
            "write_strategy": self.strategy,
            "cache_config": {
                "config_type": "cache",
                "root": str(self.folder / "cache"),
                "parent_layer": self.cached,
                "propagate": self.propagates,
            },
        }
        return copick.from_string(json.dumps(config))

    def plain(self, name: str) -> Layer:
        """A layer as whoever has nothing to do with this project sees it."""
        if name != "cache":
            return files(self.folder / name, name)
        found = [*(self.folder / "cache" / "pending").glob("*")]
        return files(found[0] if found else self.folder / "none", name)

    @staticmethod
    def filled(ref: Ref, value: int) -> Any:
        return {"folder": f"text {value}", "document": (value,), "array": (value, value)}[ref.kind.payload]

    def fill(self, layer: Layer, ref: Ref, value: int) -> None:
        if ref.kind.payload == "folder":
            layer.save(ref, json.dumps({"description": f"text {value}"}).encode())
        elif ref.kind.payload == "document":
            layer.save(ref, picks_document(ref, value))
        else:
            with layer.writing(ref) as store:
                zarr.create_group(store, zarr_format=2)
                zarr.create_array(store, name="0", data=volume(value), zarr_format=2)

    # Ways to the entities

    def entity(self, ref: Ref, layers: list[str] | None = None) -> Any:
        """The entity that the getters give; None if they give none."""
        values = ref.values
        if ref.parent is None:
            return self.root.get_run(values[0], layers=layers)
        parent = self.entity(ref.parent)
        if parent is None:
            return None
        if ref.kind is VOXEL_SPACING:
            return parent.get_voxel_spacing(values[0], layers=layers)
        if ref.kind is FEATURES:
            return parent.get_features(values[0], layers=layers)
        if ref.kind is TOMOGRAM:
            found = parent.get_tomograms(values[0], layers=layers)
        elif ref.kind is PICKS:
            found = parent.get_picks(*values, layers=layers)
        else:
            name, user, session, size, multi = values
            found = parent.get_segmentations(user, session, multi, name, size, layers=layers)
        assert len(found) < 2
        return found[0] if found else None

    def new(self, ref: Ref, layers: list[str] | None) -> Any:
        values = ref.values
        if ref.parent is None:
            return self.root.new_run(values[0], layers=layers)
        parent = self.entity(ref.parent)
        if ref.kind is VOXEL_SPACING:
            return parent.new_voxel_spacing(values[0], layers=layers)
        if ref.kind is TOMOGRAM:
            return parent.new_tomogram(values[0], layers=layers)
        if ref.kind is FEATURES:
            return parent.new_features(values[0], layers=layers)
        if ref.kind is PICKS:
            return parent.new_picks(values[0], values[2], values[1], layers=layers)
        name, user, session, size, multi = values
        return parent.new_segmentation(size, name, session, multi, user, layers=layers)

    def choose(self, refs: list[Ref], which: int) -> Ref | None:
        return refs[which % len(refs)] if refs else None

    def there(self, refs: list[Ref], layers: list[str] | None = None) -> list[Ref]:
        """Those that getters reach."""
        view = self.model.view(layers)
        reached = [
            ref for ref in refs if all(self.model.holders(each, self.model.layers) for each in ref.walk())
        ]
        return [ref for ref in reached if self.model.holders(ref, view)]

    def names(self, layers: list[str] | None) -> list[str] | None:
        """`layers` without what this project does not have; None if nothing is left."""
        return [name for name in layers if name in self.model.layers] or None if layers else None

    def same(self, expected: Any, done: Any, *arguments: Any) -> None:
        """Do something to the model and to the project: both do it, or both refuse it for the same reason."""
        try:
            expected(*arguments)
            reason: type[Exception] | None = None
        except CopickError as error:
            reason = type(error)
        if reason is None:
            done()
        else:
            with pytest.raises(reason):
                done()

    # What a user does

    @rule(which=choices, layers=layers_or_all)
    def create(self, which: int, layers: list[str] | None) -> None:
        layers = self.names(layers)
        open_to = [ref for ref in EVERYTHING if ref.parent is None or self.there([ref.parent])]
        ref = self.choose(open_to, which)
        assert ref is not None
        self.same(self.model.create, lambda: self.new(ref, layers), ref, self.model.view(layers))

    @rule(which=choices, value=values, layers=layers_or_all, known=st.booleans())
    def write(self, which: int, value: int, layers: list[str] | None, known: bool) -> None:
        layers = self.names(layers)
        ref = self.choose(self.there(CONTENTS, layers), which)
        if ref is None:
            return
        entity = self.known.get(ref) if known and layers is None else self.entity(ref, layers)
        if entity is None:
            return
        data = [[value, 0, 0]] if ref.kind is PICKS else volume(value)
        self.same(
            self.model.write,
            lambda: entity.from_numpy(data),
            ref,
            self.filled(ref, value),
            self.model.view(layers),
        )

    @rule(which=choices, value=values, layers=layers_or_all, known=st.booleans())
    def set_region(self, which: int, value: int, layers: list[str] | None, known: bool) -> None:
        layers = self.names(layers)
        ref = self.choose(self.there(ARRAYS, layers), which)
        if ref is None:
            return
        entity = self.known.get(ref) if known and layers is None else self.entity(ref, layers)
        if entity is None:
            return
        first = (
            {"slices": (slice(0, 1), slice(0, 2), slice(0, 2))}
            if ref.kind is FEATURES
            else {"z": slice(0, 1)}
        )
        self.same(
            self.model.set_region,
            lambda: entity.set_region(volume(value)[:1], **first),
            ref,
            value,
            self.model.view(layers),
        )

    @rule(which=choices, value=values, layers=layers_or_all)
    def describe(self, which: int, value: int, layers: list[str] | None) -> None:
        layers = self.names(layers)
        ref = self.choose(self.there(FOLDERS, layers), which)
        if ref is None:
            return
        entity = self.entity(ref, layers)
        entity.description = f"text {value}"
        self.same(self.model.write, entity.store, ref, f"text {value}", self.model.view(layers))

    @rule(which=choices, layers=layers_or_all)
    def delete(self, which: int, layers: list[str] | None) -> None:
        layers = self.names(layers)
        ref = self.choose(self.there(EVERYTHING), which)
        if ref is not None:
            entity = self.entity(ref)
            self.same(self.model.delete, lambda: entity.delete(layers=layers), ref, self.model.view(layers))

    @rule(which=choices, layers=layers_or_all)
    def delete_family(self, which: int, layers: list[str] | None) -> None:
        layers = self.names(layers)
        ref = self.choose(self.there(FOLDERS), which)
        if ref is None:
            return
        kind, done = (
            (PICKS, lambda: self.entity(ref).delete_picks(layers=layers))
            if ref.kind is RUN
            else (TOMOGRAM, lambda: self.entity(ref).delete_tomograms(layers=layers))
        )
        family = [each for each in EVERYTHING if each.kind is kind and each.parent == ref]
        self.same(self.model.delete_family, done, family, self.model.view(layers))

    @rule(which=choices, layers=layers_or_all)
    def propagate(self, which: int, layers: list[str] | None) -> None:
        layers, ref = self.names(layers), self.choose(self.there(EVERYTHING), which)
        if ref is not None and layers is not None:
            self.same(self.model.propagate, lambda: self.entity(ref).propagate(layers), ref, layers)

    @rule()
    def flush(self) -> None:
        pending = {str(ref) for ref in self.model.held.get("cache", ())}
        assert {*self.root.flush(force=True)} == pending  # `layers=` changes what is below, too
        self.model.flush()

    @rule()
    def refresh(self) -> None:
        self.root.refresh()

    @rule()
    def reopen(self) -> None:
        self.root, self.known = self.opened(), {}

    @rule(which=choices, value=values, layer=st.sampled_from(["top", "shared", "archive"]))
    def someone_else_picks(self, which: int, value: int, layer: str) -> None:
        ref = self.choose([ref for ref in CONTENTS if ref.kind is PICKS], which)
        assert ref is not None
        self.fill(self.plain(layer), ref, value)
        self.model.add(layer, ref, (value,))
        self.root.refresh()

    # What must be true then

    @invariant()
    def layers_hold_what_they_should(self) -> None:
        for name in self.model.layers:
            layer, held = self.plain(name), self.model.held[name]
            assert {ref for ref in EVERYTHING if layer.exists(ref)} == {*held}, name
            for ref, content in held.items():
                assert stored(layer, ref) == content, (name, ref)

    @invariant()
    def the_view_is_their_sum(self) -> None:
        everywhere = self.model.layers
        for ref in EVERYTHING:
            expected = bool(self.there([ref]))
            entity = self.entity(ref)
            assert (entity is not None) == expected, ref
            known = self.known.setdefault(ref, entity) if entity else self.known.get(ref)
            for each in (entity, known):
                if each is None:
                    continue
                assert each.ensure() == bool(self.model.holders(ref, everywhere))
                assert each.sources == self.model.holders(ref, everywhere)
                if expected:
                    assert seen(each) == self.model.content(ref, everywhere), (ref, each is known)
        assert [run.name for run in self.root.runs] == [
            ref.values[0] for ref in EVERYTHING if ref.kind is RUN and self.there([ref])
        ]

    @invariant()
    def nothing_is_left_over(self) -> None:
        for path in self.folder.rglob("*"):
            assert not path.name.startswith(".copick-"), path


def volume(value: int) -> Any:
    return np.full((2, 2, 2), value, np.uint8)


def picks_document(ref: Ref, value: int) -> bytes:
    point = {"location": {"x": value, "y": 0, "z": 0}}
    name, user, session = ref.values
    named = {"pickable_object_name": name, "user_id": user, "session_id": session}
    return json.dumps({**named, "points": [point]}).encode()


def stored(layer: Layer, ref: Ref) -> Any:
    """What is in a layer, as the model has it."""
    if ref.kind.payload == "folder":
        try:
            return json.loads(layer.load(ref)).get("description")
        except (NotFoundError, ValueError):
            return None
    if ref.kind.payload == "document":
        return tuple(int(point["location"]["x"]) for point in json.loads(layer.load(ref))["points"])
    try:
        return slices(np.asarray(zarr.open_array(layer.store(ref), path="0", mode="r")[...]))
    except FileNotFoundError:
        return EMPTY


def seen(entity: Any) -> Any:
    """What an entity shows, as the model has it."""
    if hasattr(entity, "description"):  # kept in memory once read, as points are
        return type(entity)(entity.parent, entity.kind.meta_of(entity.ref.values)).description
    if hasattr(entity, "points"):
        entity.load()
        return tuple(int(point.location.x) for point in entity.points)
    try:
        return slices(entity.numpy())
    except NotFoundError as error:
        if "no array" not in str(error):
            raise
        return EMPTY


def slices(data: Any) -> tuple[int, ...]:
    """The value of each slice along z, each being of one value."""
    assert all((part == part.flat[0]).all() for part in data)
    return tuple(int(part.flat[0]) for part in data)


LONG = bool(os.environ.get("COPICK_STRESS"))


@pytest.mark.parametrize(
    ("strategy", "default", "propagates", "cached"),
    [
        ("default", "top", True, ["archive"]),
        ("default", "shared", True, ["shared", "archive"]),
        ("source", "top", True, ["*"]),
        ("cache", "top", True, ["shared", "archive"]),
        ("cache", "shared", False, ["archive"]),
    ],
)
def test_layers(
    strategy: str, default: str, propagates: bool, cached: list[str], own_managers: None, caplog: Any
) -> None:
    class Case(Project):
        pass

    Case.strategy, Case.default, Case.propagates, Case.cached = strategy, default, propagates, cached
    run_state_machine_as_test(
        Case,
        settings=settings(
            max_examples=200 if LONG else 5,
            stateful_step_count=40 if LONG else 20,
            deadline=None,
            suppress_health_check=[*HealthCheck],
            **({"phases": [Phase.generate]} if os.environ.get("DEV") else {}),
        ),
    )
