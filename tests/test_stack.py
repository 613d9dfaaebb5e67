"""Many layers as one: order, merging, memory, where writes go."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from copick.errors import LayerError, NotFoundError, ReadOnlyError
from copick.kinds import PICKS, RUN, TOMOGRAM, Kind, Ref
from copick.layers.memory import MemoryLayer
from copick.layers.stack import LayerStack
from copick.meta import CopickPicksFile, Meta
from copick.testing.layers import features, keys, picks, run, spacing, tomogram

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


def test_a_listing_replaces_what_was_known(stack: LayerStack, high: Counting) -> None:
    mine = Ref(PICKS, ("membrane", "me", "1"), run)
    high.save(mine, b"mine")
    assert keys(stack, run, picks) == [mine, picks]
    high.delete(mine)
    assert keys(stack, run, picks) == [picks]
    assert not stack.exists(mine)
    assert stack.holders(mine) == []


def test_a_stack_in_a_stack_is_told_what_a_narrower_view_wrote() -> None:
    inner = LayerStack([MemoryLayer("a"), MemoryLayer("b")], "b")
    outer = LayerStack([MemoryLayer("top"), inner], "top")
    inner.save(picks, b"b")
    assert outer.load(picks) == b"b"
    outer.narrowed("a").save(picks, b"a")
    assert outer.load(picks) == b"a"
    assert outer.holders(picks) == ["a", "b"]
    outer.narrowed("a").delete(picks)
    assert outer.load(picks) == b"b"
    assert outer.propagate(picks, ["b", "top"]) == ["b", "top"]
    assert outer.holders(picks) == ["top", "b"]


def test_what_another_layer_holds_is_not_made_again(stack: LayerStack, high: Counting) -> None:
    """An empty one would hide it."""
    stack.create(picks)
    stack.create(tomogram)
    assert stack.load(picks) == b"low"
    assert not high.documents
    with pytest.raises(ReadOnlyError, match="read-only are low"):
        stack.narrowed("low").create(picks)


def test_documents_of_folders_are_read_as_one(stack: LayerStack, high: Counting, low: Counting) -> None:
    low.documents[run] = b'{"description": "of the archive", "lab": "far"}'
    high.documents[run] = b"meta"
    assert stack.load(run) == low.documents[run]
    high.documents[run] = b'{"description": "mine"}'
    assert json.loads(stack.load(run)) == {"description": "mine", "lab": "far"}
    assert stack.propagate(run, ["high"]) == ["high"]  # it serves it
    assert stack.load(spacing) == b"meta"


# Deleting


class Failing(MemoryLayer):
    """Deletes and takes nothing."""

    def delete(self, ref: Ref) -> None:
        raise LayerError(f"layer {self.name!r}: {ref} is stuck")

    def adopt(self, ref: Ref, source: Store, *, replace: bool = True) -> None:
        raise LayerError(f"layer {self.name!r}: no room")

    def save(self, ref: Ref, document: bytes) -> None:
        if self.documents:
            raise LayerError(f"layer {self.name!r}: no room")
        super().save(ref, document)


def test_deleting_tries_every_layer(high: Counting) -> None:
    layers = [high, Failing("stuck"), MemoryLayer("below")]
    for layer in layers:
        layer.save(picks, b"")
    stack = LayerStack(layers, "high")
    with pytest.raises(LayerError, match=r"removed from high, below; this failed: stuck \(.*is stuck\)"):
        stack.delete(picks)
    assert stack.holders(picks) == ["stuck"]


def test_features_go_with_their_tomogram_from_every_layer(high: Counting, low: Counting) -> None:
    """They may be where the tomogram is not."""
    between = MemoryLayer("between")
    between.create(features)
    stack = LayerStack([high, between, low], "high")
    with pytest.raises(ReadOnlyError, match="was not removed: it is still in layer"):
        stack.delete(tomogram)
    assert stack.holders(features) == ["between"]
    high.create(tomogram)
    stack.refresh()
    with pytest.raises(
        ReadOnlyError, match=r"was removed from between, high, but is still in layer\(s\) low"
    ):
        stack.delete(tomogram)
    assert stack.holders(features) == []
    assert stack.holders(tomogram) == ["low"]


# Pending changes


@pytest.fixture
def below() -> MemoryLayer:
    return MemoryLayer("below")


@pytest.fixture
def waiting(below: MemoryLayer, low: Counting) -> LayerStack:
    """Changes stay in a layer on top until they are flushed."""
    return LayerStack(
        [below, low], "below", strategy="cache", pending=MemoryLayer("pending"), propagate=False
    )


def test_features_wait_without_their_tomogram(waiting: LayerStack, below: MemoryLayer) -> None:
    waiting.create(features)
    waiting.create(picks := Ref(PICKS, ("membrane", "me", "1"), run))
    assert waiting.holders(features) == ["pending"]
    assert waiting.flush() == [run, spacing, features, picks]
    assert waiting.holders(features) == waiting.holders(picks) == ["below"]
    assert not below.exists(tomogram)
    assert waiting.flush() == []


def test_a_folder_that_says_nothing_replaces_no_description(waiting: LayerStack, below: MemoryLayer) -> None:
    below.save(run, b'{"description": "important"}')
    waiting.create(features)
    waiting.flush()
    assert below.load(run) == b'{"description": "important"}'
    waiting.save(run, b'{"description": "new"}')
    assert waiting.flush() == [run]
    assert below.load(run) == b'{"description": "new"}'
    assert waiting.holders(run) == ["below", "low"]


def test_a_description_that_waits_is_not_lost_with_what_is_passed_on(
    waiting: LayerStack, below: MemoryLayer
) -> None:
    waiting.save(run, b'{"description": "new"}')
    waiting.propagates = True
    waiting.save(picks, b"new")
    assert waiting.holders(picks) == ["below", "low"]
    assert waiting.holders(run) == ["pending", "below", "low"]
    assert json.loads(waiting.load(run))["description"] == "new"
    waiting.flush()
    assert below.load(run) == b'{"description": "new"}'
    assert waiting.holders(run) == ["below", "low"]


def test_what_cannot_be_passed_on_stays(low: Counting, caplog: pytest.LogCaptureFixture) -> None:
    below = Failing("below")
    below.documents[run] = b"meta"
    stack = LayerStack([below, low], "below", strategy="cache", pending=MemoryLayer("pending"))
    stack.save(picks, b"new")
    assert "is kept in 'pending' until flush() can pass it on: layer 'below': no room" in caplog.text
    assert stack.load(picks) == b"new"
    assert stack.holders(picks) == ["pending", "low"]
    with pytest.raises(LayerError, match=r"1 of 2 changes are still pending: picks .*no room"):
        stack.flush()
    assert stack.load(picks) == b"new"


def test_only_what_is_above_is_passed_on(low: Counting) -> None:
    stack = LayerStack([low], None, strategy="cache", pending=MemoryLayer("pending"))
    stack.save(picks, b"new")
    assert stack.load(picks) == b"new"
    with pytest.raises(LayerError, match="no layer below 'pending' can be written"):
        stack.flush()
