"""The table of kinds: names and paths read back as what was written."""

from __future__ import annotations

import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copick.errors import FormatError
from copick.kinds import (
    KINDS,
    PICKS,
    RUN,
    SEGMENTATION,
    TOMOGRAM,
    VOXEL_SPACING,
    Kind,
    Ref,
    check_name,
    kind_named,
    normal,
)
from copick.util.escape import sanitize_name

RUN_1 = Ref(RUN, ("TS_1",))

anything = st.text(min_size=1, max_size=40)
clean = anything.map(lambda text: sanitize_name("x" + text, suppress_warnings=True))
sizes = st.floats(min_value=0.001, max_value=1e4).map(normal)


@pytest.mark.parametrize(
    ("ref", "path"),
    [
        (RUN_1, "ExperimentRuns/TS_1"),
        (Ref(VOXEL_SPACING, (10.0,), RUN_1), "ExperimentRuns/TS_1/VoxelSpacing10.000"),
        (
            Ref(TOMOGRAM, ("wbp",), Ref(VOXEL_SPACING, (7.84,), RUN_1)),
            "ExperimentRuns/TS_1/VoxelSpacing7.840/wbp.zarr",
        ),
        (Ref(PICKS, ("ribosome", "me", "s1"), RUN_1), "ExperimentRuns/TS_1/Picks/me_s1_ribosome.json"),
        (
            Ref(SEGMENTATION, ("mem", "me", "s1", 10.0, False), RUN_1),
            "ExperimentRuns/TS_1/Segmentations/10.000_me_s1_mem.zarr",
        ),
        (
            Ref(SEGMENTATION, ("mem", "me", "s1", 10.0, True), RUN_1),
            "ExperimentRuns/TS_1/Segmentations/10.000_me_s1_mem-multilabel.zarr",
        ),
    ],
)
def test_paths(ref: Ref, path: str) -> None:
    assert ref.path == path
    meta = ref.kind.parse(ref.file_name)
    assert meta is not None
    assert ref.kind.ref(meta, ref.parent) == ref


def read_back(kind: Kind, values: tuple[object, ...]) -> tuple[object, ...] | None:
    meta = kind.parse(kind.file_name(values))  # type: ignore[arg-type]
    return None if meta is None else kind.key(meta)


@given(st.data())
def test_every_name_reads_back_or_is_refused(data: st.DataObject) -> None:
    """What cannot be read back as itself must never be written."""
    kind = data.draw(st.sampled_from(KINDS))
    values = tuple(
        data.draw(sizes if name == "voxel_size" else st.booleans() if name in kind.flags else anything)
        for name in kind.identity
    )
    try:
        name = kind.file_name(values)
    except FormatError:
        return
    assert "/" not in name
    assert "\\" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 255
    assert not kind.hides(name)
    assert read_back(kind, values) == values


@given(clean, clean, clean, sizes, st.booleans())
def test_clean_names_are_never_refused(
    user: str, session: str, name: str, size: float, multilabel: bool
) -> None:
    if len((user + session + name).encode()) > 200 or "." in (user[0], session[0], name[0]):
        return
    assert read_back(PICKS, (name, user, session)) == (name, user, session)
    if not name.endswith("-multilabel"):
        values = (name, user, session, size, multilabel)
        assert read_back(SEGMENTATION, values) == values


def test_object_names_may_hold_underscores() -> None:
    meta = PICKS.parse("me_s1_beta_amylase_v2.json")
    assert meta is not None
    assert PICKS.key(meta) == ("beta_amylase_v2", "me", "s1")


def test_a_user_with_an_underscore_is_refused() -> None:
    with pytest.raises(FormatError, match="would read back as something else"):
        PICKS.file_name(("ribosome", "a_b", "1"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (PICKS, "a.json"),
        (PICKS, "a_b.json"),
        (VOXEL_SPACING, "VoxelSpacing"),
        (VOXEL_SPACING, "VoxelSpacingabc"),
        (VOXEL_SPACING, "VoxelSpacing0.000"),
        (VOXEL_SPACING, "VoxelSpacing-3"),
        (VOXEL_SPACING, "VoxelSpacing1e999"),
        (SEGMENTATION, "x_me_1_mem.zarr"),
        (SEGMENTATION, "10.000_me_mem.zarr"),
    ],
)
def test_misnamed_files_are_skipped_with_one_line(
    kind: Kind, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "copick"):
        assert kind.parse(name, f"some/folder/{name}") is None
    assert len(caplog.records) == 1
    assert f"some/folder/{name}" in caplog.text


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (RUN, ".hidden"),
        (TOMOGRAM, "wbp_edge_features.zarr"),
        (TOMOGRAM, "wbp.mrc"),
        (TOMOGRAM, ".wbp.zarr"),
        (VOXEL_SPACING, "Picks"),
        (PICKS, "notes.txt"),
    ],
)
def test_what_belongs_to_others_is_ignored(kind: Kind, name: str) -> None:
    assert kind.hides(name)


def test_a_tomogram_may_be_called_features() -> None:
    assert not TOMOGRAM.hides("features-denoised.zarr")
    with pytest.raises(FormatError, match="would not be listed again"):
        TOMOGRAM.file_name(("wbp_edge_features",))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        (".", "would leave"),
        ("..", "would leave"),
        ("a/b", "separator"),
        ("a\\b", "separator"),
        ("a\0", "control"),
        ("a\x7f", "control"),
        ("x" * 256, "256 bytes"),
        ("ü" * 128, "256 bytes"),
        ("\ud800", "Unicode"),
    ],
)
def test_names_that_cannot_be_used(name: str, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        check_name(name, "run name")


def test_a_file_name_may_be_too_long_although_its_parts_are_not() -> None:
    with pytest.raises(FormatError, match="takes 307 bytes"):
        PICKS.file_name(("o" * 100, "u" * 100, "s" * 100))


def test_voxel_sizes_are_the_same_to_three_decimals() -> None:
    assert Ref(VOXEL_SPACING, (normal(10.0001),), RUN_1) == Ref(VOXEL_SPACING, (normal(10),), RUN_1)
    assert normal(10.0049) == 10.005


def test_refs_travel() -> None:
    ref = Ref(TOMOGRAM, ("wbp",), Ref(VOXEL_SPACING, (10.0,), RUN_1))
    copy = pickle.loads(pickle.dumps(ref))
    assert copy == ref
    assert hash(copy) == hash(ref)
    assert copy.kind is TOMOGRAM
    assert kind_named("tomogram") is TOMOGRAM
    assert ref.key == ("run", "TS_1", "voxel_spacing", 10.0, "tomogram", "wbp")
    assert [each.kind for each in ref.walk()] == [RUN, VOXEL_SPACING, TOMOGRAM]
    assert ref.within(RUN_1)
    assert not RUN_1.within(ref)
    assert str(ref) == "tomogram 'TS_1/10.000/wbp'"
