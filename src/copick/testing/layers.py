"""The contract of `copick.layers.layer.Layer`, as tests. Shipped, so that packages can test their layers with it.

class TestMyLayer(LayerTests):
    @pytest.fixture
    def layer(self, tmp_path):
        return MyLayer(tmp_path)
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore

from copick.errors import CopickError, FormatError, NotFoundError, ReadOnlyError
from copick.kinds import (
    CHILDREN,
    FEATURES,
    FILAMENTS,
    INSTANCE_SEGMENTATION,
    KINDS,
    MESH,
    OBJECT,
    PANOPTIC_SEGMENTATION,
    PICKS,
    RUN,
    SEGMENTATION,
    TOMOGRAM,
    VOXEL_SPACING,
    Ref,
)
from copick.layers.transfer import copy_array

if TYPE_CHECKING:
    import numpy.typing as npt
    from zarr.abc.store import Store

    from copick.layers.layer import Layer

run = Ref(RUN, ("TS_001",))
spacing = Ref(VOXEL_SPACING, (10.0,), run)
tomogram = Ref(TOMOGRAM, ("wbp",), spacing)
features = Ref(FEATURES, ("sobel",), tomogram)
picks = Ref(PICKS, ("ribosome", "me", "1"), run)
mesh = Ref(MESH, ("membrane", "me", "1"), run)
filaments = Ref(FILAMENTS, ("microtubule", "me", "1"), run)
mask = Ref(SEGMENTATION, ("ribosome", "me", "1", 10.0, False), run)
labels = Ref(SEGMENTATION, ("ribosome", "me", "1", 10.0, True), run)
instances = Ref(INSTANCE_SEGMENTATION, ("ribosome", "me", "1", 10.0), run)
panoptic = Ref(PANOPTIC_SEGMENTATION, ("ribosome", "me", "1", 10.0), run)
density = Ref(OBJECT, ("ribosome",))

FOLDERS = (run, spacing)
DOCUMENTS = (picks, mesh, filaments)
ARRAYS = (tomogram, features, mask, labels, instances, panoptic, density)
EVERYTHING = (*FOLDERS, *DOCUMENTS, *ARRAYS)
"""One of each kind, and both kinds of mask that lie in one folder."""

VOXELS = np.arange(1, 17, dtype=np.float32).reshape(2, 2, 4)
"""Two chunks, none of them empty."""
FEWER = VOXELS[..., :2] + 100
"""One chunk."""


def under(ref: Ref, name: str) -> Ref:
    """The same in another run."""
    if ref.parent is None:
        return Ref(RUN, (name,)) if ref.kind is RUN else ref
    return Ref(ref.kind, ref.values, under(ref.parent, name))


def keys(layer: Layer, parent: Ref | None, like: Ref) -> list[Ref]:
    """What a layer lists, as refs."""
    return [like.kind.ref(meta, parent) for meta in layer.list(parent, like.kind)]


def write(layer: Layer, ref: Ref, data: npt.NDArray[Any] = VOXELS) -> None:
    """Make `data` the array of `ref`, in chunks of 2 along each axis."""
    with layer.writing(ref) as store:
        copy_array(source(data), store, str(ref))


def read(layer: Layer, ref: Ref) -> npt.NDArray[Any]:
    """The array of `ref`."""
    return contents(layer.store(ref))


def contents(store: Store) -> npt.NDArray[Any]:
    """What `write` wrote to a store."""
    return np.asarray(zarr.open_array(store, path="0", mode="r")[...])


def fill(layer: Layer) -> None:
    """What `ReadOnlyLayerTests` expects to find."""
    layer.save(run, b'{"description": "a run"}')
    for ref in DOCUMENTS:
        layer.save(ref, ref.kind.name.encode())
    for ref in ARRAYS:
        write(layer, ref)


def source(data: npt.NDArray[Any] = VOXELS) -> Store:
    """A store to copy from."""
    store = MemoryStore()
    zarr.create_group(store, zarr_format=2)
    zarr.create_array(store, name="0", data=data, chunks=(2,) * data.ndim, zarr_format=2)
    return store.with_read_only(True)


class Failing(WrapperStore[Any]):
    """A store that cannot be read to its end."""

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        if key == "0/0.0.1":
            raise OSError("the cable was pulled")
        return await super().get(key, *args, **kwargs)


class LayerTests:
    """Subclass with a fixture `layer` that gives an empty, writable layer."""

    arrays = ARRAYS
    """Fewer, if it takes long and is made of what was tested with all."""

    @pytest.fixture
    def layer(self) -> Layer:
        pytest.fail("define a fixture `layer` that gives an empty, writable layer")

    def test_every_kind_is_tested(self) -> None:
        assert {ref.kind for ref in EVERYTHING} == {*KINDS}

    # Nothing

    def test_empty_layer_holds_nothing(self, layer: Layer) -> None:
        for ref in EVERYTHING:
            assert keys(layer, ref.parent, ref) == []
            assert not layer.exists(ref)
            assert layer.holders(ref) == []
            with pytest.raises(NotFoundError, match=ref.kind.label):
                layer.delete(ref)
        assert layer.flush() == []

    def test_its_place_is_made(self, layer: Layer) -> None:
        assert layer.ensure(create=True)
        assert layer.ensure()
        assert keys(layer, None, run) == []

    def test_empty_layer_gives_nothing(self, layer: Layer) -> None:
        for ref in (*FOLDERS, *DOCUMENTS):
            with pytest.raises(NotFoundError, match=ref.kind.label):
                layer.load(ref)
        for ref in ARRAYS:
            for ask in (layer.store, layer.original):
                with pytest.raises(NotFoundError, match=ref.kind.label):
                    ask(ref)
            with pytest.raises(NotFoundError, match=ref.kind.label), layer.writing(ref, keep=True):
                pytest.fail("there is nothing to keep")
            assert not layer.exists(ref)
        with pytest.raises(NotFoundError, match="picks"):
            layer.propagate(picks, layer.names[:1])

    # Creating and listing

    def test_create_makes_it_and_its_parents(self, layer: Layer) -> None:
        for at, kind in enumerate((*FOLDERS, *DOCUMENTS, *self.arrays)):
            ref = under(kind, f"TS_{at}")
            layer.create(ref)
            for each in ref.walk():
                if each is ref or each.kind.payload == "folder":
                    assert layer.exists(each)
                    assert each in keys(layer, each.parent, each)
                    assert len(layer.holders(each)) == 1
                else:  # features lie beside their tomogram, which may be in another layer
                    assert not layer.exists(each)
                    assert keys(layer, each.parent, each) == []

    def test_create_again_changes_nothing(self, layer: Layer) -> None:
        layer.save(run, b'{"description": "a run"}')
        layer.save(picks, b"[1]")
        write(layer, tomogram)
        for ref in (picks, tomogram, features):
            layer.create(ref)
        assert layer.load(run) == b'{"description": "a run"}'
        assert layer.load(picks) == b"[1]"
        assert np.array_equal(read(layer, tomogram), VOXELS)

    def test_children_are_listed_by_key(self, layer: Layer) -> None:
        for name in ("b", "a", "c"):
            layer.create(Ref(RUN, (name,)))
        for size in (100.0, 9.5, 10.0):
            layer.create(Ref(VOXEL_SPACING, (size,), run))
        assert [meta.name for meta in layer.list(None, RUN)] == ["TS_001", "a", "b", "c"]  # type: ignore[attr-defined]
        assert [ref.values[0] for ref in keys(layer, run, spacing)] == [9.5, 10.0, 100.0]

    def test_children_of_another_parent_are_not_listed(self, layer: Layer) -> None:
        for ref in EVERYTHING:
            layer.create(ref)
        other = Ref(RUN, ("TS_002",))
        far = Ref(VOXEL_SPACING, (20.0,), run)
        layer.create(other)
        layer.create(far)
        for kind in CHILDREN[RUN]:
            assert layer.list(other, kind) == []
        assert keys(layer, far, tomogram) == []
        assert keys(layer, spacing, tomogram) == [tomogram]
        assert keys(layer, Ref(TOMOGRAM, ("wbp",), far), features) == []
        assert keys(layer, Ref(TOMOGRAM, ("denoised",), spacing), features) == []

    def test_kinds_do_not_mix(self, layer: Layer) -> None:
        """They may share a folder (a tomogram and its features), or a file name in different folders (picks, filaments)."""
        for ref in EVERYTHING:
            layer.create(ref)
        for ref in EVERYTHING:
            same = [mask, labels] if ref.kind is SEGMENTATION else [ref]
            assert keys(layer, ref.parent, ref) == same
        for ref in (features, labels, filaments):
            layer.delete(ref)
        for ref in EVERYTHING:
            assert layer.exists(ref) == (ref not in (features, labels, filaments))

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

    # Documents

    def test_documents(self, layer: Layer) -> None:
        for ref in DOCUMENTS:
            for document in (b"[1]", bytes(range(256)) * 100, b""):
                layer.save(ref, document)
                assert layer.load(ref) == document
            assert keys(layer, None, run) == [run]
            assert keys(layer, run, ref) == [ref]

    def test_documents_of_folders(self, layer: Layer) -> None:
        for ref in (spacing, run):
            layer.save(ref, b'{"description": "first"}')
            layer.save(ref, b'{"description": "second"}')
            layer.create(ref)
            assert layer.load(ref) == b'{"description": "second"}'
            assert keys(layer, ref.parent, ref) == [ref]
        layer.save(picks, b"[1]")
        write(layer, tomogram)
        for ref in (spacing, run):
            assert layer.load(ref) == b'{"description": "second"}'
        other = Ref(RUN, ("TS_002",))
        layer.create(other)
        assert layer.load(other) is not None

    # Arrays

    def test_arrays(self, layer: Layer) -> None:
        for ref in self.arrays:
            layer.create(ref)
            zarr.create_array(layer.store(ref, write=True), name="0", data=VOXELS, zarr_format=2)
            store = layer.store(ref)
            assert store.read_only
            assert np.array_equal(contents(store), VOXELS)

    def test_an_array_can_be_written_without_create(self, layer: Layer) -> None:
        zarr.create_group(layer.store(tomogram, write=True), zarr_format=2, overwrite=True)
        assert layer.exists(tomogram)
        assert keys(layer, spacing, tomogram) == [tomogram]
        assert layer.exists(run)

    def test_writing_replaces_the_array(self, layer: Layer) -> None:
        write(layer, tomogram)
        assert keys(layer, spacing, tomogram) == [tomogram]
        assert np.array_equal(read(layer, tomogram), VOXELS)
        write(layer, tomogram, FEWER)
        assert np.array_equal(read(layer, tomogram), FEWER)

    def test_writing_a_part_keeps_the_rest(self, layer: Layer) -> None:
        write(layer, mask)
        with layer.writing(mask, keep=True) as store:
            zarr.open_array(store, path="0", mode="r+")[0] = 100
        expected = VOXELS.copy()
        expected[0] = 100
        assert np.array_equal(read(layer, mask), expected)

    def test_an_error_while_writing_is_the_callers(self, layer: Layer) -> None:
        write(layer, mask)
        for keep in (True, False):
            with pytest.raises(ZeroDivisionError), layer.writing(mask, keep=keep):
                raise ZeroDivisionError
        write(layer, mask, VOXELS + 1)
        assert np.array_equal(read(layer, mask), VOXELS + 1)

    def test_original_has_the_stored_chunks(self, layer: Layer) -> None:
        write(layer, tomogram)
        original = layer.original(tomogram)
        assert original.read_only
        assert np.array_equal(contents(original), VOXELS)
        copy = Ref(TOMOGRAM, ("copy",), spacing)
        layer.adopt(copy, original)
        assert np.array_equal(read(layer, copy), VOXELS)
        assert keys(layer, spacing, tomogram) == [copy, tomogram]

    def test_adopt(self, layer: Layer) -> None:
        for ref in self.arrays:
            layer.adopt(ref, source())
            assert layer.exists(ref)
            assert ref in keys(layer, ref.parent, ref)
            layer.adopt(ref, source(FEWER), replace=False)
            assert np.array_equal(read(layer, ref), VOXELS)
            layer.adopt(ref, source(FEWER))
            assert np.array_equal(read(layer, ref), FEWER)

    def test_an_array_that_could_not_be_copied_is_as_it_was(self, layer: Layer) -> None:
        with pytest.raises((CopickError, OSError), match="cable"):
            layer.adopt(mask, Failing(source()))
        assert not layer.exists(mask)
        assert keys(layer, run, mask) == []
        write(layer, tomogram)
        with pytest.raises((CopickError, OSError), match="cable"):
            layer.adopt(tomogram, Failing(source(VOXELS + 1)))
        assert keys(layer, spacing, tomogram) == [tomogram]
        assert np.array_equal(read(layer, tomogram), VOXELS)
        for ref in (mask, tomogram):
            layer.adopt(ref, source(VOXELS + 2))
            assert np.array_equal(read(layer, ref), VOXELS + 2)

    # Deleting

    def test_delete(self, layer: Layer) -> None:
        for ref in EVERYTHING:
            layer.create(ref)
        for ref in (*reversed(ARRAYS), *DOCUMENTS, *reversed(FOLDERS)):
            assert layer.exists(ref)
            layer.delete(ref)
            assert not layer.exists(ref)
            assert ref not in keys(layer, ref.parent, ref)
            with pytest.raises(NotFoundError, match=ref.kind.label):
                layer.delete(ref)

    def test_delete_takes_what_is_below(self, layer: Layer) -> None:
        fill(layer)
        layer.delete(run)
        for ref in EVERYTHING:
            assert layer.exists(ref) == (ref is density)
            assert keys(layer, ref.parent, ref) == ([ref] if ref is density else [])

    def test_a_tomogram_takes_its_features_with_it(self, layer: Layer) -> None:
        """They lie beside it, and their names begin with its own: so do those of others."""
        other = Ref(TOMOGRAM, ("wbp_denoised",), spacing)
        others = Ref(FEATURES, ("sobel",), other)
        for ref in (tomogram, features, other, others):
            write(layer, ref)
        layer.delete(other)
        assert [ref for ref in (tomogram, features, other, others) if layer.exists(ref)] == [
            tomogram,
            features,
        ]
        layer.delete(tomogram)
        assert not layer.exists(features)
        assert keys(layer, tomogram, features) == []
        layer.create(tomogram)
        assert keys(layer, tomogram, features) == []

    # The rest

    def test_propagate(self, layer: Layer) -> None:
        """To where it is already: nothing is to be done, and nothing is lost."""
        fill(layer)
        for ref in EVERYTHING:
            names = layer.holders(ref)
            assert layer.propagate(ref, names) == names
            assert layer.propagate(ref, names[0]) == names[:1]
        for ref in DOCUMENTS:
            assert layer.load(ref) == ref.kind.name.encode()
        for ref in ARRAYS:
            assert np.array_equal(read(layer, ref), VOXELS)
        with pytest.raises(NotFoundError, match="nowhere"):
            layer.propagate(picks, "nowhere")

    def test_flush_and_refresh_keep_the_data(self, layer: Layer) -> None:
        fill(layer)
        for forget in (
            layer.flush,
            layer.refresh,
            lambda: layer.refresh(run),
            lambda: layer.refresh(tomogram),
            layer.reconnect,
        ):
            forget()
            assert keys(layer, None, run) == [run]
            assert layer.load(run) == b'{"description": "a run"}'
            assert layer.load(picks) == b"picks"
            assert np.array_equal(read(layer, tomogram), VOXELS)
        for ref in EVERYTHING:
            assert ref in keys(layer, ref.parent, ref)
        assert layer.flush() == []

    def test_tags_tell_versions_apart_or_are_none(self, layer: Layer) -> None:
        fill(layer)
        layer.save(picks, b"[1]")
        document, tag = layer.load_tagged(picks)
        assert (document, tag) == (b"[1]", layer.tag(picks))
        assert layer.seen(picks) == tag
        for ref in ARRAYS:
            for path in ("", "0"):
                assert layer.tag(ref, path) == layer.tag(ref, path)
        layer.save(picks, b"[1, 2]")
        assert tag is None or layer.tag(picks) != tag
        layer.delete(picks)
        if tag is not None:
            with pytest.raises(NotFoundError, match="TS_001"):
                layer.tag(picks)

    def test_narrowed(self, layer: Layer) -> None:
        layer.save(picks, b"[1]")
        held = layer.holders(picks)
        assert layer.narrowed(held[0]).load(picks) == b"[1]"
        assert layer.narrowed(held).load(picks) == b"[1]"
        with pytest.raises(NotFoundError, match="nowhere"):
            layer.narrowed("nowhere")
        with pytest.raises(NotFoundError, match="named"):
            layer.narrowed([])

    def test_files_are_where_they_are_said_to_be(self, layer: Layer) -> None:
        fill(layer)
        for ref in (None, *EVERYTHING):
            try:
                fs, path = layer.files(ref)
            except AttributeError:  # not every layer is made of files
                continue
            assert ref is None or fs.exists(path)
        assert layer.overlay.names
        assert layer.static.names

    def test_pickle(self, layer: Layer) -> None:
        layer.save(picks, b"[1]")
        write(layer, tomogram)
        copy = pickle.loads(pickle.dumps(layer))
        assert copy.name == layer.name
        assert copy.load(picks) == b"[1]"
        assert np.array_equal(read(copy, tomogram), VOXELS)


class ReadOnlyLayerTests:
    """Subclass with a fixture `layer` that gives a read-only layer holding what `fill` writes."""

    @pytest.fixture
    def layer(self) -> Layer:
        pytest.fail("define a fixture `layer` that gives a read-only layer")

    def test_reading(self, layer: Layer) -> None:
        assert layer.read_only
        for ref in EVERYTHING:
            assert layer.exists(ref)
            assert layer.holders(ref) == layer.names[:1]
            assert keys(layer, ref.parent, ref) == ([mask, labels] if ref.kind is SEGMENTATION else [ref])
        assert layer.load(run) == b'{"description": "a run"}'
        for ref in DOCUMENTS:
            assert layer.load(ref) == ref.kind.name.encode()
        for ref in ARRAYS:
            assert np.array_equal(read(layer, ref), VOXELS)
            assert np.array_equal(contents(layer.original(ref)), VOXELS)

    def test_what_is_not_there(self, layer: Layer) -> None:
        other = Ref(RUN, ("TS_002",))
        far = Ref(VOXEL_SPACING, spacing.values, other)
        for ref in EVERYTHING[1:]:
            parent = far if ref.kind is TOMOGRAM else None if ref is density else other
            if ref.kind is FEATURES:
                parent = Ref(TOMOGRAM, tomogram.values, far)
            missing = Ref(ref.kind, ("nothing",) if ref is density else ref.values, parent)
            assert not layer.exists(missing)
            assert missing not in keys(layer, parent, missing)
            with pytest.raises(NotFoundError, match=r"TS_002|nothing"):
                (layer.store if ref.kind.payload == "array" else layer.load)(missing)
        assert not layer.exists(other)

    def test_writing_is_refused(self, layer: Layer) -> None:
        refused = r"read-only|no layer can be written"
        assert layer.ensure()
        for change in (lambda: layer.create(Ref(RUN, ("new",))), lambda: layer.ensure(create=True)):
            with pytest.raises(ReadOnlyError, match=refused):
                change()
        for ref in (*DOCUMENTS, run):
            with pytest.raises(ReadOnlyError, match=refused):
                layer.save(ref, b"[2]")
        for ref in ARRAYS:
            with pytest.raises(ReadOnlyError, match=refused):
                layer.store(ref, write=True)
            with pytest.raises(ReadOnlyError, match=refused):
                layer.adopt(ref, source(VOXELS + 1))
            for keep in (True, False):
                with pytest.raises(ReadOnlyError, match=refused), layer.writing(ref, keep=keep):
                    pytest.fail("it can be written")
        for ref in EVERYTHING:
            with pytest.raises(ReadOnlyError, match="read-only"):
                layer.delete(ref)
        assert layer.flush() == []
        assert layer.load(picks) == b"picks"
        assert np.array_equal(read(layer, tomogram), VOXELS)

    def test_pickle(self, layer: Layer) -> None:
        copy = pickle.loads(pickle.dumps(layer))
        assert copy.load(picks) == b"picks"
        assert np.array_equal(read(copy, tomogram), VOXELS)
