"""Types of segmentations, their names on disk, and the numbers they hold."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from copick.util.segmentation import (
    SEGMENTATION_DIRECTORIES,
    SEGMENTATION_TYPES,
    check_panoptic_values,
    checked_label_cast,
    label_dtype,
    list_segmentation_stores,
    panoptic_channel_index,
    parse_segmentation_store_name,
    segmentation_directory,
    segmentation_store_name,
    segmentation_type,
    segmentation_type_query,
)

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = ("is_multilabel", "is_instance", "is_panoptic")


def flags_of(kind: str) -> dict[str, bool]:
    return {flag: flag == f"is_{kind}" for flag in FLAGS}


@pytest.mark.parametrize("kind", SEGMENTATION_TYPES)
def test_types_and_directories(kind: str) -> None:
    assert segmentation_type(**flags_of(kind)) == kind
    assert segmentation_directory(**flags_of(kind)) == SEGMENTATION_DIRECTORIES[kind]


@pytest.mark.parametrize("flags", [each for each in product([False, True], repeat=3) if sum(each) > 1])
def test_a_segmentation_has_one_type(flags: tuple[bool, bool, bool]) -> None:
    with pytest.raises(ValueError, match=r"one type, not .* and "):
        segmentation_type(*flags)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, (None, False, False)),
        ("binary", (False, False, False)),
        ("multilabel", (True, False, False)),
        ("instance", (False, True, False)),
        ("panoptic", (False, False, True)),
        ("all", (None, None, None)),
    ],
)
def test_queries(kind: str | None, expected: tuple[bool | None, ...]) -> None:
    assert tuple(segmentation_type_query(kind)[flag] for flag in FLAGS) == expected


def test_unknown_type() -> None:
    with pytest.raises(ValueError, match=r"'mask'; use one of binary"):
        segmentation_type_query("mask")


characters = st.characters(exclude_characters="_/\\", exclude_categories=["C"], codec="utf-8")
word = st.text(characters, min_size=1, max_size=10).filter(
    lambda text: not text.isspace() and text not in (".", "..")
)


@given(
    st.sampled_from(SEGMENTATION_TYPES), st.integers(1, 10**7).map(lambda n: n / 1000), word, word, word, word
)
def test_names_read_back(kind: str, size: float, user: str, session: str, one: str, two: str) -> None:
    flags = flags_of(kind)
    name = segmentation_store_name(size, user, session, f"{one}_{two}", **flags)
    assert parse_segmentation_store_name(name, segmentation_directory(**flags)) == {
        "voxel_size": size,
        "user_id": user,
        "session_id": session,
        "name": f"{one}_{two}",
        **flags,
    }


def test_names_on_disk() -> None:
    assert segmentation_store_name(7.84, "u", "s", "n") == "7.840_u_s_n.zarr"
    assert segmentation_store_name(10, "u", "s", "n", is_multilabel=True) == "10.000_u_s_n-multilabel.zarr"
    assert segmentation_store_name(10, "u", "s", "n", is_panoptic=True) == "10.000_u_s_n.zarr"


def test_names_that_would_not_read_back_are_refused() -> None:
    for user, name in [("a_b", "n"), ("u", "n-multilabel"), ("", "n"), ("u", "a/b")]:
        with pytest.raises(ValueError, match=r"cannot be (stored|used)"):
            segmentation_store_name(10, user, "s", name)
    with pytest.raises(ValueError, match="voxel_size"):
        segmentation_store_name(-1, "u", "s", "n")


def test_the_suffix_means_something_in_one_directory_only() -> None:
    name = "10.000_u_s_n-multilabel.zarr"
    assert (parse_segmentation_store_name(name) or {})["is_multilabel"]
    found = parse_segmentation_store_name(name, "InstanceSegmentations") or {}
    assert (found["name"], found["is_multilabel"], found["is_instance"]) == ("n-multilabel", False, True)


@pytest.mark.parametrize(
    "name",
    ["10_u_s", "x_u_s_n", "10__s_n", "10_u__n", "10_u_s_", "nan_u_s_n", "-1_u_s_n", ""],
)
def test_what_is_no_name(name: str) -> None:
    assert parse_segmentation_store_name(f"{name}.zarr") is None


def test_what_is_no_directory() -> None:
    with pytest.raises(ValueError, match="'Picks'; use one of Segmentations, Inst"):
        parse_segmentation_store_name("10_u_s_n.zarr", "Picks")


def test_listing(tmp_path: Path) -> None:
    names = [
        "PanopticSegmentations/10.000_u_s_p.zarr",
        "Segmentations/9.000_u_s_n.zarr",
        "Segmentations/10.000_u_s_n.zarr",
        "Segmentations/10.000_u_s_n-multilabel.zarr",
        "Segmentations/.10.000_u_s_hidden.zarr",
        "Segmentations/10.000_u_s_other",
        "Segmentations/junk.zarr",
        "elsewhere.zarr",
    ]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "Segmentations" / "10.000_u_s_file.zarr").touch()
    (tmp_path / "Segmentations" / "10.000_u_s_link.zarr").symlink_to(tmp_path / "elsewhere.zarr")
    (tmp_path / "Segmentations" / "10.000_u_s_dangling.zarr").symlink_to(tmp_path / "nowhere")
    found = list_segmentation_stores(fsspec.filesystem("file"), f"{tmp_path}/")
    assert [(each["voxel_size"], each["name"], each["is_multilabel"]) for each in found] == [
        (10.0, "link", False),
        (10.0, "n", True),
        (10.0, "n", False),
        (9.0, "n", False),
        (10.0, "p", False),
    ]
    assert [each["is_panoptic"] for each in found] == [False] * 4 + [True]
    assert list_segmentation_stores(fsspec.filesystem("file"), f"{tmp_path}/none") == []


# Values


@pytest.mark.parametrize("channel", ["label", 0, np.int64(0)])
def test_the_label_channel(channel: Any) -> None:
    assert panoptic_channel_index(channel) == 0
    assert panoptic_channel_index("instance") == 1


@pytest.mark.parametrize("channel", ["0", "labels", 2, -1, True, None, 0.0])
def test_what_is_no_channel(channel: Any) -> None:
    with pytest.raises(ValueError, match="use one of label, instance"):
        panoptic_channel_index(channel)


def test_panoptic_values() -> None:
    labels, ids = np.array([[0, 1, 2]]), np.array([[0, 0, 5]])
    check_panoptic_values(labels, ids, [1, 2])
    check_panoptic_values(np.array([]), np.array([]), [])
    with pytest.raises(ValueError, match=r"holds 2, which .* objects have 1$"):
        check_panoptic_values(labels, ids, [1])
    with pytest.raises(ValueError, match=r"holds -1, 1, which .* objects have none"):
        check_panoptic_values(np.array([1, -1, 1]), np.array([0, 0, 0]), [])
    with pytest.raises(ValueError, match="2 background voxels"):
        check_panoptic_values(np.array([0, 1, 0]), np.array([3, 3, 3]), [1])


def test_many_unknown_labels_are_not_all_shown() -> None:
    with pytest.raises(ValueError, match=r"holds 1, 2, .* 10, \.\.\., which"):
        check_panoptic_values(np.arange(1000), np.zeros(1000), [])


@pytest.mark.parametrize(
    ("values", "floor", "expected"),
    [
        ([0, 255], "u1", "u1"),
        ([256], "u1", "u2"),
        ([1], "u2", "u2"),
        ([70000], "u2", "u4"),
        ([True], "u2", "u2"),
    ],
)
def test_smallest_type(values: list[int], floor: str, expected: str) -> None:
    assert label_dtype(values, floor) == np.dtype(expected)


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, np.inf, 2.0**64, 1e300])
def test_what_has_no_type(value: float) -> None:
    with pytest.raises(ValueError, match=r"negative|whole numbers|no unsigned type"):
        label_dtype([value])


@given(
    hnp.arrays(st.sampled_from(["u1", "i2", "u4", "i8", "u8"]), 3),
    st.sampled_from(["u1", "u2", "i4", "u8", "f2", "f4", "f8", "b1"]),
)
def test_no_label_changes(data: np.ndarray, dtype: str) -> None:  # type: ignore[type-arg]
    try:
        cast = checked_label_cast(data, dtype)
    except ValueError:
        assert data.dtype != np.dtype(dtype)
        return
    assert cast.dtype == np.dtype(dtype)
    assert [int(value) for value in cast] == data.tolist()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(256, "u1"), (-1, "u1"), (0.5, "u1"), (np.nan, "u1"), (2**24 + 1, "f4"), (2.0**24 + 1, "f4"), (2, "?")],
)
def test_casts_that_change_labels(value: float, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"do not fit|whole numbers|not exact"):
        checked_label_cast([value], dtype)


def test_casts_that_do_nothing() -> None:
    data = np.array([3], np.uint8)
    assert checked_label_cast(data, "u1") is data
    assert checked_label_cast(data, None) is data
    large = np.array([2.0**100, np.nan], np.float32)
    assert np.array_equal(checked_label_cast(large, "f8"), large, equal_nan=True)
