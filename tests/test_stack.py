"""Many layers as one: order, merging, memory, where writes go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from copick.errors import LayerError, NotFoundError, ReadOnlyError
from copick.kinds import PICKS, RUN, TOMOGRAM, Kind, Ref
from copick.layers.memory import MemoryLayer
from copick.layers.stack import LayerStack
from copick.meta import CopickPicksFile, Meta
from copick.testing.layers import keys, picks, run, spacing, tomogram

if TYPE_CHECKING:
    from zarr.abc.store import Store


class Counting(MemoryLayer):
    """Counts what it is asked."""

    def __init__(self, name: str, *, read_only: bool = False) -> None:
        super().__init__(name, read_only=read_only)
        self.asked: list[str] = []

    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        self.asked.append("list")
        return super().list(parent, kind)

    def exists(self, ref: Ref) -> bool:
        self.asked.append("exists")
        return super().exists(ref)

    def load(self, ref: Ref) -> bytes:
        self.asked.append("load")
        return super().load(ref)

    def store(self, ref: Ref, *, write: bool = False) -> Store:
        self.asked.append("store")
        return super().store(ref, write=write)


@pytest.fixture
def high() -> Counting:
    return Counting("high")


@pytest.fixture
def low() -> Counting:
    layer = Counting("low")
    layer.save(picks, b"low")
    layer.create(tomogram)
    layer.read_only = True
    return layer


@pytest.fixture
def stack(high: Counting, low: Counting) -> LayerStack:
    high.asked, low.asked = [], []
    return LayerStack([high, low], "high")


def test_children_are_merged(stack: LayerStack, high: Counting) -> None:
    mine = Ref(PICKS, ("membrane", "me", "1"), run)
    high.save(mine, b"mine")
    assert keys(stack, None, run) == [run]
    assert keys(stack, run, picks) == [mine, picks]
    assert stack.holders(picks) == ["low"]
    assert stack.holders(run) == ["high", "low"]


def test_the_highest_layer_serves(stack: LayerStack) -> None:
    assert stack.load(picks) == b"low"
    stack.save(picks, b"high")
    assert stack.load(picks) == b"high"
    assert stack.holders(picks) == ["high", "low"]
    assert stack.narrowed("low").load(picks) == b"low"


def test_metadata_is_filled_from_below() -> None:
    class Described(MemoryLayer):
        def __init__(self, name: str, **fields: object) -> None:
            super().__init__(name)
            self.fields = fields

        def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
            return [meta.model_copy(update=self.fields) for meta in super().list(parent, kind)]

    layers = [Described("a", run_name="a"), Described("b", run_name="b", voxel_spacing=2.0)]
    for layer in layers:
        layer.save(picks, b"")
    (meta,) = LayerStack(layers, "a").list(run, PICKS)
    assert isinstance(meta, CopickPicksFile)
    assert (meta.run_name, meta.voxel_spacing) == ("a", 2.0)


def test_reading_what_was_listed_asks_no_other_layer(
    stack: LayerStack, high: Counting, low: Counting
) -> None:
    stack.list(run, PICKS)
    stack.list(spacing, TOMOGRAM)
    high.asked, low.asked = [], []
    assert stack.exists(picks)
    assert stack.holders(picks) == ["low"]
    stack.load(picks)
    stack.store(tomogram)
    assert high.asked == []
    assert low.asked == ["load", "store"]


def test_refresh_forgets_what_was_listed(stack: LayerStack, high: Counting) -> None:
    stack.list(run, PICKS)
    high.save(picks, b"new")
    assert stack.load(picks) == b"low"
    stack.refresh(run)
    assert stack.load(picks) == b"new"
    assert stack.holders(picks) == ["high", "low"]


def test_what_vanished_since_the_listing_is_looked_for_again(stack: LayerStack, high: Counting) -> None:
    high.save(picks, b"high")
    stack.list(run, PICKS)
    high.delete(picks)
    assert stack.load(picks) == b"low"


def test_writes_through_a_narrowed_stack_are_seen(high: Counting, low: Counting) -> None:
    other = MemoryLayer("other")
    stack = LayerStack([high, other, low], "high")
    assert stack.holders(picks) == ["low"]
    stack.narrowed("other").save(picks, b"other")
    assert stack.holders(picks) == ["other", "low"]
    assert high.documents == {}
    stack.save(picks, b"high")
    assert stack.narrowed(["high", "low"]).holders(picks) == ["high", "low"]


def test_an_unreachable_layer_is_not_an_empty_one(stack: LayerStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> list[Meta]:
        raise LayerError("layer 'low': connection refused")

    monkeypatch.setattr(stack.layers[1], "list", down)
    with pytest.raises(LayerError, match="layer 'low'"):
        stack.list(None, RUN)


def test_no_layer_can_be_written(low: Counting) -> None:
    stack = LayerStack([low], None)
    assert stack.read_only
    for write in (
        lambda: stack.save(picks, b""),
        lambda: stack.create(run),
        lambda: stack.store(tomogram, write=True),
    ):
        with pytest.raises(ReadOnlyError, match="no layer can be written; read-only are low"):
            write()


def test_writing_to_a_named_layer(stack: LayerStack) -> None:
    with pytest.raises(ReadOnlyError, match="low"):
        stack.narrowed("low").save(picks, b"")


def test_what_a_layer_above_the_default_serves_is_changed_there(high: Counting) -> None:
    below = MemoryLayer("below")
    high.save(picks, b"high")
    stack = LayerStack([high, below], "below")
    stack.save(picks, b"changed")
    assert stack.load(picks) == high.load(picks) == b"changed"
    assert not below.exists(picks)


def test_delete_leaves_read_only_layers_alone(stack: LayerStack, high: Counting, low: Counting) -> None:
    stack.save(picks, b"high")
    with pytest.raises(ReadOnlyError, match=r"still in layer\(s\) low"):
        stack.delete(picks)
    assert not high.exists(picks)
    assert stack.load(picks) == b"low"
    mine = Ref(RUN, ("mine",))
    stack.create(mine)
    stack.delete(mine)
    assert not stack.exists(mine)
    with pytest.raises(NotFoundError, match="high, low"):
        stack.delete(mine)


def test_names(stack: LayerStack) -> None:
    nested = LayerStack([MemoryLayer("top"), stack], "top")
    assert nested.names == ["top", "high", "low"]
    assert nested.holders(picks) == ["low"]
    assert nested.narrowed(["low", "top"]).names == ["top", "low"]
    assert nested.narrowed("low") is nested.narrowed("low")
    with pytest.raises(NotFoundError, match=r"no layer 'hgih'; the layers are top, high, low"):
        nested.narrowed("hgih")
    assert stack.narrowed(["low", "high"]).names == ["high", "low"]
    assert stack.narrowed("low").default_write is None
