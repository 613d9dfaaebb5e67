"""The contract of `copick.layers.layer.Layer`, as tests. Shipped, so that packages can test their layers with it.

class TestMyLayer(LayerTests):
    @pytest.fixture
    def layer(self, tmp_path):
        return MyLayer(tmp_path)
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from copick.errors import FormatError, NotFoundError, ReadOnlyError
from copick.kinds import PICKS, RUN, SEGMENTATION, TOMOGRAM, VOXEL_SPACING, Ref

if TYPE_CHECKING:
    from copick.layers.layer import Layer

run = Ref(RUN, ("TS_001",))
spacing = Ref(VOXEL_SPACING, (10.0,), run)
tomogram = Ref(TOMOGRAM, ("wbp",), spacing)
picks = Ref(PICKS, ("ribosome", "me", "1"), run)
mask = Ref(SEGMENTATION, ("ribosome", "me", "1", 10.0, False), run)
labels = Ref(SEGMENTATION, ("ribosome", "me", "1", 10.0, True), run)

EVERY_KIND = (run, spacing, tomogram, picks, mask)


def keys(layer: Layer, parent: Ref | None, like: Ref) -> list[Ref]:
    """What a layer lists, as refs."""
    return [like.kind.ref(meta, parent) for meta in layer.list(parent, like.kind)]


class LayerTests:
    """Subclass with a fixture `layer` that gives an empty, writable layer."""

    @pytest.fixture
    def layer(self) -> Layer:
        pytest.fail("define a fixture `layer` that gives an empty, writable layer")

    def test_empty_layer_lists_nothing(self, layer: Layer) -> None:
        assert keys(layer, None, run) == []
        assert keys(layer, run, picks) == []

    @pytest.mark.parametrize("ref", EVERY_KIND, ids=lambda ref: ref.kind.name)
    def test_empty_layer_holds_nothing(self, layer: Layer, ref: Ref) -> None:
        assert not layer.exists(ref)
        assert layer.holders(ref) == []
        with pytest.raises(NotFoundError, match=ref.kind.label):
            layer.delete(ref)

    def test_empty_layer_gives_nothing(self, layer: Layer) -> None:
        with pytest.raises(NotFoundError, match="picks"):
            layer.load(picks)
        with pytest.raises(NotFoundError, match="tomogram"):
            layer.store(tomogram)

    @pytest.mark.parametrize("ref", EVERY_KIND, ids=lambda ref: ref.kind.name)
    def test_create_makes_it_and_its_parents(self, layer: Layer, ref: Ref) -> None:
        layer.create(ref)
        for each in ref.walk():
            assert layer.exists(each)
            assert keys(layer, each.parent, each) == [each]
        assert len(layer.holders(ref)) == 1

    def test_create_again_changes_nothing(self, layer: Layer) -> None:
        layer.save(picks, b"[1]")
        layer.create(picks)
        assert layer.load(picks) == b"[1]"

    def test_children_are_listed_by_key(self, layer: Layer) -> None:
        for name in ("b", "a", "c"):
            layer.create(Ref(RUN, (name,)))
        assert [meta.name for meta in layer.list(None, RUN)] == ["a", "b", "c"]  # type: ignore[attr-defined]

    def test_children_of_another_parent_are_not_listed(self, layer: Layer) -> None:
        layer.create(tomogram)
        other = Ref(VOXEL_SPACING, (20.0,), run)
        layer.create(other)
        assert keys(layer, other, tomogram) == []
        assert keys(layer, spacing, tomogram) == [tomogram]

    def test_kinds_in_one_folder_do_not_mix(self, layer: Layer) -> None:
        layer.create(mask)
        layer.create(labels)
        assert keys(layer, run, mask) == [mask, labels]
        assert keys(layer, run, picks) == []

    def test_documents(self, layer: Layer) -> None:
        layer.save(picks, b"[1]")
        assert layer.load(picks) == b"[1]"
        layer.save(picks, b"")
        assert layer.load(picks) == b""
        assert keys(layer, None, run) == [run]
        assert keys(layer, run, picks) == [picks]

    def test_names(self, layer: Layer) -> None:
        """Names that must survive: white space, percent signs, other alphabets."""
        for name in ("a b", "100%25", "Ünïçødé", "run_1", "a+b&c=d", "#1", "(x)"):
            ref = Ref(RUN, (name,))
            layer.create(ref)
            assert layer.exists(ref)
            assert ref in keys(layer, None, run)
            document = Ref(PICKS, ("beta_amylase", "me", "1"), ref)
            layer.save(document, name.encode())
            assert layer.load(document) == name.encode()
            assert keys(layer, ref, document) == [document]

    @pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "\0", "a\nb", "x" * 256, ".hidden"])
    def test_names_that_could_leave_the_tree_are_refused(self, layer: Layer, name: str) -> None:
        with pytest.raises(FormatError, match="cannot be"):
            layer.create(Ref(RUN, (name,)))

    def test_arrays(self, layer: Layer) -> None:
        layer.create(tomogram)
        data = np.arange(24.0).reshape(2, 3, 4)
        zarr.create_array(layer.store(tomogram, write=True), name="0", data=data, zarr_format=2)
        store = layer.store(tomogram)
        assert store.read_only
        assert np.array_equal(zarr.open_array(store, path="0", mode="r")[...], data)

    def test_an_array_can_be_written_without_create(self, layer: Layer) -> None:
        zarr.create_group(layer.store(tomogram, write=True), zarr_format=2, overwrite=True)
        assert layer.exists(tomogram)
        assert keys(layer, spacing, tomogram) == [tomogram]
        assert layer.exists(run)

    def test_delete(self, layer: Layer) -> None:
        layer.save(picks, b"[1]")
        layer.create(tomogram)
        layer.create(run)
        layer.delete(picks)
        assert not layer.exists(picks)
        assert layer.exists(run)
        layer.delete(tomogram)
        assert not layer.exists(tomogram)
        assert keys(layer, spacing, tomogram) == []

    def test_delete_takes_what_is_below(self, layer: Layer) -> None:
        layer.create(tomogram)
        layer.save(picks, b"[1]")
        layer.delete(run)
        for ref in (run, spacing, tomogram, picks):
            assert not layer.exists(ref)
        assert keys(layer, None, run) == []

    def test_refresh_keeps_the_data(self, layer: Layer) -> None:
        layer.save(picks, b"[1]")
        layer.refresh(run)
        layer.refresh()
        assert layer.load(picks) == b"[1]"

    def test_narrowed(self, layer: Layer) -> None:
        layer.save(picks, b"[1]")
        held = layer.holders(picks)
        assert layer.narrowed(held[0]).load(picks) == b"[1]"
        assert layer.narrowed(held).load(picks) == b"[1]"
        with pytest.raises(NotFoundError, match="nowhere"):
            layer.narrowed("nowhere")
        with pytest.raises(NotFoundError, match="named"):
            layer.narrowed([])

    def test_pickle(self, layer: Layer) -> None:
        layer.save(picks, b"[1]")
        zarr.create_array(layer.store(tomogram, write=True), name="0", data=np.ones(3), zarr_format=2)
        copy = pickle.loads(pickle.dumps(layer))
        assert copy.name == layer.name
        assert copy.load(picks) == b"[1]"
        assert zarr.open_array(copy.store(tomogram), path="0", mode="r")[1] == 1


class ReadOnlyLayerTests:
    """Subclass with a fixture `layer` that gives a read-only layer holding `tomogram`, `picks` (`[1]`) and `mask`."""

    @pytest.fixture
    def layer(self) -> Layer:
        pytest.fail("define a fixture `layer` that gives a read-only layer")

    def test_reading(self, layer: Layer) -> None:
        assert layer.read_only
        assert keys(layer, None, run) == [run]
        assert keys(layer, run, spacing) == [spacing]
        assert keys(layer, spacing, tomogram) == [tomogram]
        assert keys(layer, run, picks) == [picks]
        assert keys(layer, run, mask) == [mask]
        assert layer.load(picks) == b"[1]"
        assert zarr.open_array(layer.store(tomogram), path="0", mode="r")[1, 1, 1] == 1
        for ref in EVERY_KIND:
            assert layer.exists(ref)

    def test_what_is_not_there(self, layer: Layer) -> None:
        other = Ref(RUN, ("TS_002",))
        for ref in EVERY_KIND[1:]:
            missing = Ref(ref.kind, ref.values, other)
            assert not layer.exists(missing)
        assert not layer.exists(other)
        assert keys(layer, other, picks) == []
        with pytest.raises(NotFoundError, match="TS_002"):
            layer.load(Ref(PICKS, picks.values, other))
        with pytest.raises(NotFoundError, match="TS_002"):
            layer.store(Ref(TOMOGRAM, tomogram.values, Ref(VOXEL_SPACING, spacing.values, other)))

    def test_writing_is_refused(self, layer: Layer) -> None:
        with pytest.raises(ReadOnlyError, match=r"read-only|no layer can be written"):
            layer.create(Ref(RUN, ("new",)))
        with pytest.raises(ReadOnlyError, match=r"read-only|no layer can be written"):
            layer.save(picks, b"[2]")
        with pytest.raises(ReadOnlyError, match=r"read-only|no layer can be written"):
            layer.store(tomogram, write=True)
        with pytest.raises(ReadOnlyError, match="read-only"):
            layer.delete(picks)
        assert layer.load(picks) == b"[1]"
