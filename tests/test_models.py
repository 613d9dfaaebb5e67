"""The tree of a project: what is found in it, filtered, created, deleted; objects."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import copick
from copick.errors import (
    AlreadyExistsError,
    FormatError,
    NotFoundError,
    ReadOnlyError,
)
from copick.impl.filesystem import CopickRootFS
from copick.impl.multilayer import CopickRootMultilayer, CopickRunML
from projects import OBJECTS, alone, opened, run_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun


# The tree


def test_missing_things(root: CopickRoot, run: CopickRun) -> None:
    for name in ("nope", "", "..", "a/b"):
        assert root.get_run(name) is None
    assert root.get_object("nope") is None
    assert run.get_voxel_spacing(3.0) is None
    assert run.get_voxel_spacing(-1) is None
    assert run.get_picks("nope") == []
    assert run.get_segmentations(name="nope") == []
    spacing = run.voxel_spacings[0]
    assert spacing.get_tomogram("nope") is None
    assert spacing.get_tomograms("nope") == []


def test_one_run_is_found_without_listing_them_all(root: CopickRoot) -> None:
    assert root.get_run("TS_1") is root.get_run("TS_1")
    assert root._runs is None
    assert root.get_run("TS_1") is root.runs[0]
    assert root.runs is not root.runs


def test_existing_things(root: CopickRoot, run: CopickRun) -> None:
    with pytest.raises(AlreadyExistsError, match=r"run 'TS_1' exists already \(in layer archive\)") as caught:
        root.new_run("TS_1")
    assert isinstance(caught.value, ValueError)
    assert root.new_run("TS_1", exist_ok=True) is run
    assert run.new_voxel_spacing(10, exist_ok=True).voxel_size == 10.0
    with pytest.raises(ValueError, match="exists already"):
        run.new_picks("ribosome", "0", "tool")


def test_new_things_are_listed_in_order(root: CopickRoot) -> None:
    for name in ("b", "a", "TS 2", "Z"):
        root.new_run(name)
    names = [run.name for run in root.runs]
    assert names == sorted(names) == ["TS 2", "TS_1", "Z", "a", "b"]
    root.new_run("c")
    assert [run.name for run in root.runs][-1] == "c"
    assert [run.name for run in root.query()] == [run.name for run in root.runs]


def test_names_that_cannot_be_stored(root: CopickRoot, tmp_path: Path) -> None:
    for name in ("", "../../x", "a/b", "\0"):
        with pytest.raises(FormatError, match="cannot be used"):
            root.new_run(name)
    assert not (tmp_path / "x").exists()


def test_voxel_sizes(run: CopickRun) -> None:
    spacing = run.new_voxel_spacing(7.84049)
    assert spacing.voxel_size == 7.84
    assert run.get_voxel_spacing(7.8401) is spacing
    assert run.get_voxel_spacing(np.float32(7.84)) is spacing
    for size in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="voxel_size"):
            run.new_voxel_spacing(size)


def test_sources_and_layers(root: CopickRoot, run: CopickRun) -> None:
    assert run.sources == ["archive"]
    assert root.get_run("TS_1", layers="work") is None
    mine = run.new_picks("ribosome", "1")
    assert run.sources == ["work", "archive"]
    assert mine.sources == ["work"]
    assert [picks.sources for picks in run.picks] == [["work"], ["archive"]]
    assert [picks.ref for picks in run.get_picks(layers="work")] == [mine.ref]
    assert [picks.user_id for picks in run.get_picks(layers=["archive"])] == ["tool"]
    assert run.on("archive").segmentations[0].run.root.on("archive") is not None
    with pytest.raises(NotFoundError, match="no layer 'wrok'"):
        run.get_picks(layers="wrok")


def test_layer_specific(root: CopickRoot) -> None:
    assert isinstance(root, CopickRootMultilayer)
    archive = root.layer_specific("archive")
    assert isinstance(archive, CopickRootFS)
    assert [run.name for run in archive.runs] == ["TS_1"]
    with pytest.raises(ReadOnlyError, match="read-only"):
        archive.new_run("x")
    assert root.layer_specific("work").runs == []


def test_writing_to_a_named_layer(root: CopickRoot, run: CopickRun) -> None:
    with pytest.raises(ReadOnlyError, match="archive"):
        run.new_picks("ribosome", "1", layers="archive")
    shadow = run.new_picks("ribosome", "0", "tool", layers="work")
    assert shadow.points == []
    assert [picks.sources for picks in run.picks] == [["work", "archive"]]


def test_what_is_made_below_a_narrower_view_is_seen_by_all(root: CopickRoot, run: CopickRun) -> None:
    (spacing,) = run.voxel_spacings
    assert [tomogram.tomo_type for tomogram in spacing.tomograms] == ["wbp"]
    mine = run.new_voxel_spacing(10, exist_ok=True, layers="work").new_tomogram("mine")
    assert [tomogram.tomo_type for tomogram in spacing.tomograms] == ["mine", "wbp"]
    mine.delete()
    assert [tomogram.tomo_type for tomogram in spacing.tomograms] == ["wbp"]


def test_roots_take_their_config(tmp_path: Path) -> None:
    config = copick.config.CopickConfigFS(root=str(tmp_path), pickable_objects=OBJECTS)
    root = CopickRootFS(config)
    assert root.new_run("a").sources == ["filesystem"]
    assert isinstance(root.runs[0], CopickRunML)
    assert isinstance(alone(tmp_path), CopickRootFS)


def test_ensure(tmp_path: Path, run: CopickRun) -> None:
    run.new_picks("ribosome", "5")
    (picks,) = run.get_picks(session_id="5")
    assert picks.ensure()
    picks.delete()
    assert not picks.ensure()
    assert picks.ensure(create=True)
    assert picks.ensure()
    gone = run.on("archive").get_picks()[0]
    assert gone.ensure(create=True)
    empty = opened(tmp_path).on("archive").get_run("TS_1")
    assert empty is not None
    missing = type(empty)(empty.root, copick.meta.CopickRunMeta(name="new"))
    assert not missing.ensure()
    with pytest.raises(ReadOnlyError, match="archive"):
        missing.ensure(create=True)


def test_delete(root: CopickRoot, run: CopickRun) -> None:
    mine = root.new_run("mine")
    mine.new_picks("ribosome", "1")
    mine.delete()
    assert root.get_run("mine") is None
    assert [each.name for each in root.runs] == ["TS_1"]
    with pytest.raises(ReadOnlyError, match="still in layer"):
        run.picks[0].delete()
    assert len(run.picks) == 1


def test_refresh_shows_what_others_did(root: CopickRoot, run: CopickRun, tmp_path: Path) -> None:
    assert len(run.picks) == len(root.runs) == 1
    other = opened(tmp_path)
    other.new_run("TS_2")
    other_run = other.get_run("TS_1")
    assert other_run is not None
    other_run.new_picks("ribosome", "7")
    assert len(run.picks) == len(root.runs) == 1
    run.refresh_picks()
    assert len(run.picks) == 2
    root.refresh()
    assert len(root.runs) == 2


REFRESHED: dict[str, tuple[str, Callable[[CopickRun], Any]]] = {
    "voxel_spacings": ("voxel_spacings", lambda run: run.new_voxel_spacing(5)),
    "picks": ("picks", lambda run: run.new_picks("ribosome", "7")),
    "meshes": ("meshes", lambda run: run.new_mesh("ribosome", "7")),
    "filaments": ("filaments", lambda run: run.new_filaments("ribosome", "7")),
    "segmentations": (
        "segmentations",
        lambda run: run.new_segmentation(10, "membrane", "7", is_instance=True),
    ),
}


@pytest.mark.parametrize("kind", REFRESHED)
def test_each_kind_is_refreshed_alone(run: CopickRun, tmp_path: Path, kind: str) -> None:
    """What others made is not seen before; lists of other kinds stay as they are."""
    name, make = REFRESHED[kind]
    before = {each: getattr(run, each) for each in REFRESHED}
    make(run_of(opened(tmp_path)))
    assert getattr(run, name) == before[name]
    getattr(run, f"refresh_{kind}")()
    assert len(getattr(run, name)) == len(before[name]) + 1
    assert not set(getattr(run, name)) & set(before[name])
    for other in REFRESHED.keys() - {kind}:
        assert getattr(run, other) == before[other]
    query = "voxelspacings" if kind == "voxel_spacings" else kind
    assert [each.ref for each in getattr(run, f"query_{query}")()] == [
        each.ref for each in getattr(run, name)
    ]
    assert not set(getattr(run, f"query_{query}")()) & set(getattr(run, name))


def test_repr_reads_nothing(root: CopickRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    run = root.runs[0]
    things = [
        root,
        run,
        *run.picks,
        *run.segmentations,
        *run.voxel_spacings,
        *run.voxel_spacings[0].tomograms,
    ]
    monkeypatch.setattr(root, "layer", None)
    for thing in things:
        monkeypatch.setattr(thing, "layer", type("Layer", (), {"name": "none"})())
    assert repr(run) == "CopickRun(name='TS_1', picks=1, segmentation=1, voxel_spacing=1)"
    assert repr(things[-1]) == "CopickTomogram(tomo_type='wbp')"
    assert [repr(thing) for thing in (root, *root.pickable_objects)][
        1
    ] == "CopickObject(name='ribosome', label=1, particle)"


def test_private_names_of_1x(root: CopickRoot, run: CopickRun) -> None:
    assert run._picks is None
    assert len(run.picks) == len(run._picks or [])
    run._picks = None
    assert run._picks is None
    root._objects = None
    assert root._run_factory() == (copick.models.CopickRun, copick.models.CopickRunMeta)
    assert run._voxel_spacing_factory()[0] is copick.models.CopickVoxelSpacing


# Filters


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 4),
        ({"object_name": "ribosome"}, 3),
        ({"object_name": ["ribosome", "membrane"]}, 4),
        ({"user_id": {"me", "you"}}, 3),
        ({"user_id": "me", "session_id": ("1", "2")}, 2),
        ({"session_id": "0"}, 1),
        ({"object_name": []}, 0),
        ({"object_name": "ribo"}, 0),
    ],
)
def test_filters(run: CopickRun, filters: dict[str, Any], count: int) -> None:
    run.new_picks("ribosome", "1")
    run.new_picks("ribosome", "2")
    run.new_picks("membrane", "1", "you")
    assert len(run.get_picks(**filters)) == count


def test_filters_of_segmentations(run: CopickRun) -> None:
    run.new_segmentation(20, "all", "1", is_multilabel=True)
    run.new_segmentation(10, "membrane", "2")
    for size in (10, 10.0, np.float32(10), np.float64(10.0001), [10, 99]):
        assert len(run.get_segmentations(voxel_size=size)) == 2
    assert [s.name for s in run.get_segmentations(is_multilabel=True)] == ["all"]
    assert len(run.get_segmentations(is_multilabel=False)) == 2
    assert len(run.get_segmentations("me", "2")) == 1


def test_unknown_filters_are_told_in_the_log(run: CopickRun, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "copick"):
        assert len(run.get_picks(users="me")) == 1
    assert "unknown argument 'users' is ignored (did you mean 'user_id'?)" in caplog.text


def test_user_and_tool(root: CopickRoot, run: CopickRun) -> None:
    mine, yours = run.new_picks("ribosome", "1"), run.new_picks("ribosome", "1", "you")
    assert [p.user_id for p in run.tool_picks()] == ["tool"]
    assert run.user_picks() == [mine]
    root.user_id = None
    assert run.user_picks() == [mine, yours]
    assert mine.from_user
    assert run.tool_picks()[0].from_tool
    assert run.user_segmentations() == run.segmentations
    assert run.tool_segmentations() == []


# Objects


def test_objects(root: CopickRoot) -> None:
    item = root.get_object("ribosome")
    assert item is not None
    assert (item.label, item.radius, item.color, item.is_particle) == (1, 150.0, (0, 117, 220, 255), True)
    assert (item.pdb_id, item.emdb_id, item.identifier, item.map_threshold, item.metadata) == (
        None,
        None,
        None,
        None,
        {},
    )
    new = root.new_object("proteasome", True)
    assert new.label == 3
    assert root.get_object("proteasome") is not None
    for name, label in (("a_b", None), ("ribosome", None), ("x", 2), ("x", 0)):
        with pytest.raises(ValueError, match=r"a_b|already|taken|background"):
            root.new_object(name, True, label)
    again = root.new_object("ribosome", False, radius=10, exist_ok=True)
    assert (again.radius, again.is_particle, again.label) == (10, False, 1)


def test_objects_are_kept_by_save_config(root: CopickRoot, tmp_path: Path) -> None:
    root.new_object("proteasome", True, identifier="GO:0000502")
    root.save_config(tmp_path / "saved.json")
    item = copick.from_file(tmp_path / "saved.json").get_object("proteasome")
    assert item is not None
    assert item.identifier == "GO:0000502"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "project.json",
        "saved.json",
    ]
