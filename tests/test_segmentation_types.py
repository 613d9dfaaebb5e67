"""Binary, multilabel, instance and panoptic segmentations: made, found, read, written, refused."""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import copick
from copick.errors import AlreadyExistsError, ConfigError, FormatError, NotFoundError, ReadOnlyError
from copick.models import CopickSegmentation, CopickSegmentationMeta
from copick.ome import halved_nearest
from projects import VOLUME, alone, opened, run_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from copick.models import CopickRun

TYPES: dict[str, dict[str, bool]] = {
    "binary": {},
    "multilabel": {"is_multilabel": True},
    "instance": {"is_instance": True},
    "panoptic": {"is_panoptic": True},
}
FOLDERS = {
    "binary": "Segmentations/10.000_me_1_membrane.zarr",
    "multilabel": "Segmentations/10.000_me_1_membrane-multilabel.zarr",
    "instance": "InstanceSegmentations/10.000_me_1_membrane.zarr",
    "panoptic": "PanopticSegmentations/10.000_me_1_membrane.zarr",
}
SHAPE = (5, 6, 7)
LABELS = np.zeros(SHAPE, int)
LABELS[:2], LABELS[2:4] = 1, 2
IDS = np.zeros(SHAPE, int)
IDS[0, :3], IDS[0, 3:], IDS[2] = 4, 700, 4
BOTH = np.stack([LABELS, IDS])
"""A ribosome 4, a ribosome 700, ribosomes nobody told apart, a membrane 4, and membranes."""


def made(run: CopickRun, kind: str, name: str = "membrane", session: str = "1") -> CopickSegmentation:
    return run.new_segmentation(10, name, session, **TYPES[kind])  # type: ignore[arg-type]


def data_for(kind: str) -> npt.NDArray[Any]:
    return {"binary": LABELS > 0, "multilabel": LABELS, "instance": IDS, "panoptic": BOTH}[kind]


@pytest.fixture
def mine(tmp_path: Path) -> CopickRun:
    return alone(tmp_path / "mine", user_id="me").new_run("TS_1")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TYPES)
def test_where_they_lie(mine: CopickRun, kind: str, tmp_path: Path) -> None:
    mask = made(mine, kind)
    assert mask.path == str(tmp_path / "mine/ExperimentRuns/TS_1" / FOLDERS[kind])
    assert mask.directory == FOLDERS[kind].partition("/")[0]
    assert mask.segmentation_type == kind
    assert (mask.is_multilabel, mask.is_instance, mask.is_panoptic) == tuple(
        kind == each for each in ("multilabel", "instance", "panoptic")
    )
    assert (mask.name, mask.user_id, mask.session_id, mask.voxel_size) == ("membrane", "me", "1", 10)
    assert mask.color == ((100, 100, 100, 255) if kind in {"binary", "instance"} else [128, 128, 128, 0])
    assert (mask.from_user, mask.from_tool, mask.read_only) == (True, False, False)
    assert list(zarr.open_group(mask.zarr(), mode="r").array_keys()) == []
    assert pickle.loads(pickle.dumps(mask)).path == mask.path
    with pytest.raises(NotFoundError, match="it has no arrays"):
        mask.numpy()
    with pytest.raises(AlreadyExistsError, match="exists already"):
        made(mine, kind)
    (again,) = run_of(alone(tmp_path / "mine")).segmentations
    assert (again.ref, again.meta) == (mask.ref, mask.meta)
    assert repr(again) == repr(mask)
    assert f"is_{kind}=True" in repr(mask) or kind == "binary"


def test_one_name_many_types(mine: CopickRun) -> None:
    """They do not clash, and are found by their flags: False = but these, True = only these, None = these, too."""
    masks = {kind: made(mine, kind) for kind in TYPES}
    assert len(mine.segmentations) == 4
    flags: list[bool | None] = [False, True, None]
    for instance, panoptic in itertools.product(flags, flags):
        found = mine.get_segmentations(is_instance=instance, is_panoptic=panoptic)
        expected = {
            kind
            for kind in TYPES
            if instance in (None, kind == "instance") and panoptic in (None, kind == "panoptic")
        }
        assert {mask.segmentation_type for mask in found} == expected
    assert mine.get_segmentations(is_multilabel=True) == [masks["multilabel"]]
    assert mine.get_segmentations(is_multilabel=False) == [masks["binary"]]
    assert mine.get_segmentations(is_multilabel=True, is_instance=True) == []
    assert {
        m.segmentation_type
        for m in mine.get_segmentations(is_multilabel=False, is_instance=None, is_panoptic=None)
    } == {"binary", "instance", "panoptic"}
    assert {m.ref for m in mine.query_segmentations()} == {m.ref for m in masks.values()}
    assert mine.new_segmentation(10.0, "membrane", "1", exist_ok=True, is_panoptic=True) is masks["panoptic"]
    for kind, mask in masks.items():
        mask.from_numpy(data_for(kind))
    for kind, mask in masks.items():
        assert np.array_equal(mask.numpy(), data_for(kind))
    mine._segmentations = None
    assert mine._segmentations is None
    assert len(mine.segmentations) == 4


def test_filters(mine: CopickRun) -> None:
    """`get_segmentations(user_id, session_id, is_multilabel, name, voxel_size)`, in this order."""
    for size, user, session in itertools.product((10, 7.84), ("me", "you"), ("0", "1")):
        mine.new_segmentation(size, "membrane", session, user_id=user)
        mine.new_segmentation(size, "cell", session, True, user)
    assert len(mine.get_segmentations()) == 16
    assert len(mine.get_segmentations("me", "0", False, "membrane", 10)) == 1
    assert len(mine.get_segmentations(["me", "you"], session_id="0", voxel_size=[10, 7.84])) == 8
    assert len(mine.get_segmentations(name=("cell", "nope"))) == 8
    assert len(mine.get_segmentations(name="cell", is_multilabel=False)) == 0
    for size in (7.84, np.float32(7.84), np.array([7.84]), {7.84}, 7.8404):
        assert len(mine.get_segmentations(voxel_size=size)) == 8
    assert len(mine.get_segmentations(voxel_size=np.int64(10))) == 8
    assert len(mine.get_segmentations(layers="filesystem")) == 16
    assert {m.user_id for m in mine.user_segmentations()} == {"me"}
    assert {m.session_id for m in mine.tool_segmentations()} == {"0"}
    assert len(mine.tool_segmentations()) == 8


def test_which_names_are_free(mine: CopickRun) -> None:
    for kind in ("binary", "instance"):
        with pytest.raises(ConfigError, match="no object 'cell'; it has ribosome, membrane"):
            made(mine, kind, "cell")
    for kind in ("multilabel", "panoptic"):
        assert made(mine, kind, "cell").name == "cell"
    flags = [*TYPES.values()][1:]
    for one, other in itertools.combinations(flags, 2):
        with pytest.raises(ValueError, match="a segmentation has one type; given are"):
            mine.new_segmentation(10, "membrane", "7", **one, **other)  # type: ignore[arg-type]
    assert len(mine.segmentations) == 2


def test_names_that_read_back_as_another_type(mine: CopickRun) -> None:
    """`a-multilabel` is what the multilabel mask `a` is called on disk."""
    mine.root.new_object("a-multilabel", False)
    with pytest.raises(FormatError, match=r"would read back\s+as something else"):
        made(mine, "binary", "a-multilabel")
    for kind in ("multilabel", "instance", "panoptic"):
        assert made(mine, kind, "a-multilabel").name == "a-multilabel"
    mine.refresh_segmentations()
    assert {(m.name, m.segmentation_type) for m in mine.segmentations} == {
        ("a-multilabel", kind) for kind in ("multilabel", "instance", "panoptic")
    }


# Values


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", TYPES)
def test_what_is_written_is_read(mine: CopickRun, kind: str, zarr_format: int) -> None:
    mask, data = made(mine, kind), data_for(kind)
    mask.from_numpy(data, levels=3, zarr_format=zarr_format)
    (again,) = mine.query_segmentations()
    expected = data
    for level in ("0", "1", "2"):
        assert np.array_equal(again.numpy(level), expected)
        expected = halved_nearest(expected)
    assert mask.numpy().dtype == (np.uint8 if kind in {"binary", "multilabel"} else np.uint16)
    box = {"x": slice(1, 6, 2), "y": slice(None, None, -1), "z": slice(-3, None)}
    expected = data[..., box["z"], box["y"], box["x"]]
    assert np.array_equal(mask.numpy(**box), expected)
    out = np.empty(expected.shape, mask.numpy().dtype)
    assert mask.numpy(**box, out=out) is out
    assert np.array_equal(out, expected)
    group = zarr.open_group(mask.zarr(), mode="r")
    attributes: Any = dict(group.attrs)["ome"] if zarr_format == 3 else dict(group.attrs)
    (image,) = attributes["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == [*"czyx"][kind != "panoptic" :]
    assert copick.ome.voxel_size(dict(group.attrs), "x") == 10
    if kind == "panoptic":
        assert image["metadata"]["copick"] == {
            "segmentation_type": "panoptic",
            "channels": ["label", "instance"],
        }
        array: Any = group["0"]
        assert array.chunks[0] == 1


@pytest.mark.parametrize(
    ("kind", "most", "expected"),
    [
        ("binary", 1, np.uint8),
        ("binary", 255, np.uint8),
        ("multilabel", 256, np.uint16),
        ("multilabel", 65_536, np.uint32),
        ("multilabel", 2**32, np.uint64),
        ("multilabel", 2**64 - 1, np.uint64),
        ("instance", 1, np.uint16),
        ("instance", 65_535, np.uint16),
        ("instance", 65_536, np.uint32),
    ],
)
def test_the_smallest_type_that_holds_the_labels(
    mine: CopickRun, kind: str, most: int, expected: Any
) -> None:
    mask = made(mine, kind)
    data = np.zeros((2, 2, 2), np.uint64)
    data[1, 1, 1] = most
    mask.from_numpy(data)
    assert mask.numpy().dtype == expected
    assert int(mask.numpy().max()) == most


def test_whatever_holds_whole_numbers(mine: CopickRun) -> None:
    mask = made(mine, "multilabel")
    for data in (LABELS.astype(np.float32), LABELS.astype(">i2"), LABELS.tolist(), LABELS > 1, LABELS.T):
        mask.from_numpy(data)
        assert np.array_equal(mask.numpy(), np.asarray(data))
    mask.from_numpy(LABELS, dtype=np.int16)
    assert mask.numpy().dtype == np.int16
    mask.from_numpy(LABELS.astype(np.int64) * 2**40)  # NumPy has two unsigned types of 64 bits
    assert np.array_equal(mask.numpy(), LABELS.astype(np.uint64) * 2**40)
    mask.from_numpy(np.zeros((0, 4, 4)))
    assert mask.numpy().shape == (0, 4, 4)


REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("binary", LABELS - 1, {}, "not|-1"),
    ("binary", LABELS / 2, {}, "whole numbers"),
    ("binary", np.where(LABELS, np.nan, 0), {}, "whole numbers"),
    ("binary", np.where(LABELS, np.inf, 0), {}, "whole numbers"),
    ("binary", LABELS.astype(complex), {}, "whole numbers"),
    ("binary", np.full(SHAPE, "a"), {}, "whole numbers"),
    ("binary", np.full(SHAPE, 2.0**64), {}, "fit"),
    ("multilabel", LABELS * 200, {"dtype": np.uint8}, "do not fit uint8"),
    ("multilabel", LABELS * 200, {"dtype": np.int8}, "do not fit int8"),
    ("multilabel", LABELS, {"dtype": "U3"}, "<U3"),
    ("multilabel", LABELS, {"dtype": np.float32}, "stored as whole numbers, not as float32"),
    ("multilabel", LABELS, {"dtype": complex}, "stored as whole numbers, not as complex128"),
    ("instance", IDS * 100_000, {"dtype": np.uint16}, "do not fit uint16"),
    ("instance", -IDS, {}, "not|-"),
    ("binary", LABELS[0], {}, "axes z, y, x"),
    ("binary", BOTH, {}, "axes z, y, x"),
    ("instance", BOTH, {}, "axes z, y, x"),
    ("binary", LABELS, {"levels": 0}, "levels must be 1 or more"),
    ("panoptic", LABELS, {}, r"an array \(2, z, y, x\)"),
    ("panoptic", BOTH[:1], {}, r"an array \(2, z, y, x\)"),
    ("panoptic", np.stack([LABELS] * 3), {}, r"an array \(2, z, y, x\)"),
    ("panoptic", BOTH[..., None], {}, r"an array \(2, z, y, x\)"),
    ("panoptic", np.stack([LABELS * 9, IDS]), {}, "the label of no object; the project's objects have 1, 2"),
    ("panoptic", np.stack([LABELS * 0, IDS]), {}, "background voxels"),
    ("panoptic", BOTH * 0.5, {}, "whole numbers|label of no object"),
    ("panoptic", BOTH * -1, {}, "label of no object|negative"),
    ("panoptic", BOTH, {"dtype": np.uint8}, "do not fit uint8"),
]


@pytest.mark.parametrize(("kind", "data", "arguments", "problem"), REFUSED)
def test_what_is_refused_changes_nothing(
    mine: CopickRun, kind: str, data: Any, arguments: dict[str, Any], problem: str
) -> None:
    mask, before = made(mine, kind), data_for(kind)
    mask.from_numpy(before)
    with pytest.raises(ValueError, match=problem) as caught:
        mask.from_numpy(data, **arguments)
    assert "'TS_1/membrane_me_1_10.000" in str(caught.value)
    assert np.array_equal(mask.numpy(), before)


# Regions


@pytest.mark.parametrize("kind", ["binary", "multilabel", "instance"])
def test_regions(mine: CopickRun, kind: str) -> None:
    mask, expected = made(mine, kind), data_for(kind).astype(int)
    mask.from_numpy(expected, levels=2)
    coarse = mask.numpy("1")
    box = {"x": slice(0, 3), "y": slice(5, 1, -2), "z": slice(1, 2)}
    shape = expected[box["z"], box["y"], box["x"]].shape
    values = np.arange(np.prod(shape)).reshape(shape)
    expected[box["z"], box["y"], box["x"]] = values
    mask.set_region(values, "0", box["x"], box["y"], box["z"])
    assert np.array_equal(mask.numpy(), expected)
    assert np.array_equal(mask.numpy("1"), coarse)
    mask.set_region(3, "1", z=slice(0, 1))
    assert (mask.numpy("1", z=slice(0, 1)) == 3).all()
    for data, problem in (
        (np.full(shape, -1), "do not fit"),
        (np.full(shape, 70_000), "do not fit"),
        (np.full(shape, 0.5), "whole numbers"),
        (np.full(shape, np.nan), "whole numbers"),
        (np.full(shape, "a"), "whole numbers|cannot become"),
        (values[0], "the region has the shape"),
        (values[..., :1], "the region has the shape"),
        (BOTH * 0, "the region has the shape"),
    ):
        with pytest.raises(ValueError, match=problem) as caught:
            mask.set_region(data, **box)
        assert "'TS_1/membrane_me_1_10.000" in str(caught.value)
    with pytest.raises(NotFoundError, match="no array '7'"):
        mask.set_region(1, "7")
    with pytest.raises(ValueError, match="only panoptic ones have channels"):
        mask.set_region(1, channel="label")
    assert np.array_equal(mask.numpy(), expected)


def test_regions_of_panoptic_ones(mine: CopickRun) -> None:
    mask, expected = made(mine, "panoptic"), BOTH.copy()
    mask.from_numpy(BOTH)
    top = {"z": slice(0, 1), "x": slice(0, 4)}
    both = np.stack([np.full((1, 6, 4), 2), np.full((1, 6, 4), 9)])
    expected[:, :1, :, :4] = both
    mask.set_region(both, **top)
    assert np.array_equal(mask.numpy(), expected)
    for channel in ("instance", 1):
        expected[1, :1, :, :4] += 1
        mask.set_region(expected[1, :1, :, :4], **top, channel=channel)
        assert np.array_equal(mask.numpy(), expected)
    for channel in ("label", 0):
        expected[0, :1, :, :4] = 1
        mask.set_region(np.ones((1, 6, 4)), **top, channel=channel)
        assert np.array_equal(mask.numpy(), expected)
    below: dict[str, slice] = {"z": slice(4, 5)}
    refused: list[tuple[Any, Any, dict[str, slice], str]] = [
        (np.zeros((1, 6, 4)), "label", top, "background voxels"),
        (np.ones((1, 6, 7)), "instance", below, "background voxels"),
        (np.full((1, 6, 4), 9), "label", top, "the label of no object"),
        (np.full((1, 6, 4), 70_000), "instance", top, "do not fit uint16"),
        (np.full((1, 6, 4), -1), "instance", top, "do not fit uint16|negative"),
        (np.full((1, 6, 4), 0.5), "instance", top, "whole numbers"),
        (np.ones((1, 6, 5)), "instance", top, "the region has the shape"),
        (np.ones((1, 6, 5)), "label", top, "the region has the shape"),
        (np.ones((2, 1, 6, 5)), None, top, "the region has the shape"),
        (np.ones((1, 6, 4)), None, top, r"a panoptic region is an array \(2, z, y, x\)"),
        (1, "instance", top, "the region has the shape"),
        (np.ones((1, 6, 4)), 2, top, "no panoptic channel 2"),
        (np.ones((1, 6, 4)), "labels", top, "no panoptic channel 'labels'"),
        (np.ones((1, 6, 4)), -1, top, "no panoptic channel -1"),
    ]
    for data, channel, box, problem in refused:
        with pytest.raises(ValueError, match=problem):
            mask.set_region(data, **box, channel=channel)
        assert np.array_equal(mask.numpy(), expected)


def test_channels(mine: CopickRun) -> None:
    mask = made(mine, "panoptic")
    mask.from_numpy(BOTH, levels=2)
    for channel in ("label", 0):
        assert np.array_equal(mask.numpy(channel=channel), LABELS)
    for channel in ("instance", 1):
        assert np.array_equal(mask.numpy("1", channel=channel), halved_nearest(IDS))
    assert np.array_equal(mask.numpy("0", slice(0, 2), slice(1, 3), slice(2, 4), 1), IDS[2:4, 1:3, 0:2])
    out = np.empty(SHAPE, np.uint16)
    assert np.array_equal(mask.numpy(channel=1, out=out), IDS)
    assert np.array_equal(out, IDS)
    with pytest.raises(ValueError, match="out="):
        mask.numpy(out=out)
    for channel in (2, -1, "labels", 0.5):
        with pytest.raises((ValueError, TypeError), match="channel"):
            mask.numpy(channel=channel)  # type: ignore[arg-type]
    plain = made(mine, "binary")
    plain.from_numpy(LABELS > 0)
    with pytest.raises(ValueError, match="is binary: only panoptic ones have channels"):
        plain.numpy(channel="label")


# Instances


def test_instances(mine: CopickRun) -> None:
    panoptic, instance = made(mine, "panoptic"), made(mine, "instance")
    panoptic.from_numpy(BOTH, levels=2)
    instance.from_numpy(IDS)
    assert instance.instance_ids().tolist() == [4, 700]
    assert instance.instance_ids().dtype == np.int64
    assert panoptic.instance_ids(object_name="ribosome").tolist() == [4, 700]
    assert panoptic.instance_ids("0", "membrane").tolist() == [4]
    assert panoptic.segments() == [
        ("membrane", 0),
        ("membrane", 4),
        ("ribosome", 0),
        ("ribosome", 4),
        ("ribosome", 700),
    ]
    assert panoptic.segments("1") == [("membrane", 0), ("ribosome", 0)]  # of every second voxel
    assert np.array_equal(panoptic.label_volume(), LABELS)
    assert np.array_equal(panoptic.instance_volume("ribosome"), np.where(LABELS == 1, IDS, 0))
    assert panoptic.instance_volume("membrane", "1").shape == halved_nearest(IDS).shape
    with pytest.raises(ValueError, match="instance ids are per object; pass object_name="):
        panoptic.instance_ids()
    for ask in (panoptic.instance_volume, lambda name: panoptic.instance_ids(object_name=name)):
        with pytest.raises(ValueError, match="no object 'nope' with a label"):
            ask("nope")
    for ask in (instance.segments, instance.label_volume, lambda: instance.instance_volume("ribosome")):
        with pytest.raises(ValueError, match="is instance: only panoptic ones have channels"):
            ask()
    for kind in ("binary", "multilabel"):
        with pytest.raises(ValueError, match=f"is {kind}: only instance and panoptic ones have ids"):
            made(mine, kind).instance_ids()


def test_instances_over_many_chunks(mine: CopickRun) -> None:
    """What is counted chunk by chunk is what is there."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, size=(9, 10, 11))
    ids = rng.integers(0, 40, size=labels.shape) * (labels > 0)
    mask = made(mine, "panoptic")
    group = zarr.group(mask.zarr(), overwrite=True)
    group.create_array("0", data=np.stack([labels, ids]).astype(np.uint16), chunks=(1, 4, 3, 5))
    assert mask.segments() == sorted(
        {
            (("", "ribosome", "membrane")[one], int(i))
            for one, i in zip(labels.flat, ids.flat, strict=True)
            if one
        }
    )
    expected = np.unique(ids[labels == 2])
    assert mask.instance_ids(object_name="membrane").tolist() == expected[expected > 0].tolist()
    # Labels of objects that the project no longer has go by their number.
    mine.root.pickable_objects[0].delete()
    assert {name for name, _ in mask.segments()} == {"1", "membrane"}


# Layers


def test_archived_ones(run: CopickRun, tmp_path: Path) -> None:
    archive = run_of(alone(tmp_path / "archive"))
    for kind in TYPES:
        archive.new_segmentation(
            10,
            "membrane",
            "5",
            user_id="you",
            **TYPES[kind],  # type: ignore[arg-type]
        ).from_numpy(data_for(kind))
    run = run_of(opened(tmp_path))
    for kind, flags in TYPES.items():
        asked: dict[str, Any] = {"session_id": "5", "is_multilabel": False, **flags}
        (mask,) = run.get_segmentations(**asked)
        assert (mask.read_only, mask.sources) == (True, ["archive"])
        with pytest.raises(ReadOnlyError, match="still in"):
            mask.delete()
        mask.set_region(np.zeros((2, 5, 6, 3)) if kind == "panoptic" else 0, x=slice(0, 3))
        assert mask.sources == ["work", "archive"]
        assert not mask.numpy(x=slice(0, 3)).any()
        assert np.array_equal(mask.numpy(x=slice(3, 7)), data_for(kind)[..., 3:])
        (old,) = run.get_segmentations(**asked, layers="archive")
        assert np.array_equal(old.numpy(), data_for(kind))


def test_made_by_hand(mine: CopickRun) -> None:
    meta = CopickSegmentationMeta(
        user_id="me", session_id="3", name="membrane", voxel_size=10, is_instance=True
    )
    mask = CopickSegmentation(run=mine, meta=meta)
    assert not mask.ensure()
    mask.from_numpy(VOLUME)
    assert mask.ensure()
    assert np.array_equal(mine.get_segmentations(is_instance=True)[0].numpy(), VOLUME)
