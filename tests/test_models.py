"""Entities: the tree, what it holds, and what may be done to it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import copick
from copick.arrays import ArraySource
from copick.errors import (
    AlreadyExistsError,
    ConfigError,
    FormatError,
    LayerError,
    NotFoundError,
    ReadOnlyError,
)
from copick.meta import CopickLocation, CopickPoint
from copick.multilayer import CopickRootFS, CopickRootMultilayer, CopickRunML
from copick.testing.http_server import FolderServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun, CopickTomogram

OBJECTS = [
    {"name": "ribosome", "is_particle": True, "label": 1, "color": [0, 117, 220, 255], "radius": 150.0},
    {"name": "membrane", "is_particle": False, "label": 2},
]
VOLUME = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)


def opened(tmp_path: Path, **fields: Any) -> CopickRoot:
    """A project of a work layer over a read-only archive."""
    config = {
        "config_type": "multilayer",
        "user_id": "me",
        "pickable_objects": OBJECTS,
        "layers": ["work", "archive"],
        "layer_configs": {
            "work": {"config_type": "filesystem", "root": str(tmp_path / "work")},
            "archive": {"config_type": "filesystem", "root": str(tmp_path / "archive"), "read_only": True},
        },
        **fields,
    }
    path = tmp_path / "project.json"
    path.write_text(json.dumps(config))
    return copick.from_file(path)


def alone(root: Path, **fields: Any) -> CopickRoot:
    config = {"config_type": "filesystem", "root": str(root), "user_id": "them", "pickable_objects": OBJECTS}
    return copick.from_string(json.dumps({**config, **fields}))


@pytest.fixture
def root(tmp_path: Path) -> CopickRoot:
    """An archive with a run, and an empty work layer above it."""
    archive = alone(tmp_path / "archive")
    run = archive.new_run("TS_1")
    run.new_voxel_spacing(10).new_tomogram("wbp").from_numpy(VOLUME)
    run.new_picks("ribosome", "0", "tool").from_numpy([[1, 2, 3]])
    run.new_segmentation(10, "membrane", "1").from_numpy(VOLUME > 100)
    return opened(tmp_path)


@pytest.fixture
def run(root: CopickRoot) -> CopickRun:
    run = root.get_run("TS_1")
    assert run is not None
    return run


@pytest.fixture
def tomogram(run: CopickRun) -> CopickTomogram:
    spacing = run.get_voxel_spacing(10.0)
    assert spacing is not None
    (found,) = spacing.tomograms
    return found


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
    assert run.get_picks(layers="work") == [mine] or [p.ref for p in run.get_picks(layers="work")] == [mine.ref]
    assert [picks.user_id for picks in run.get_picks(layers=["archive"])] == ["tool"]
    assert run.on("archive").segmentations[0].run.root.on("archive") is not None
    with pytest.raises(NotFoundError, match="no layer 'wrok'"):
        run.get_picks(layers="wrok")


def test_layer_specific(root: CopickRoot) -> None:
    assert isinstance(root, CopickRootMultilayer)
    archive = root.layer_specific("archive")
    assert isinstance(archive, CopickRootMultilayer)
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


def test_repr_reads_nothing(root: CopickRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    run = root.runs[0]
    things = [root, run, *run.picks, *run.segmentations, *run.voxel_spacings, *run.voxel_spacings[0].tomograms]
    monkeypatch.setattr(root, "layer", None)
    for thing in things:
        monkeypatch.setattr(thing, "layer", type("Layer", (), {"name": "none"})())
    assert repr(run) == "CopickRun(name='TS_1', picks=1, segmentation=1, voxel_spacing=1)"
    assert repr(things[-1]) == "CopickTomogram(tomo_type='wbp')"
    assert [repr(thing) for thing in (root, *root.pickable_objects)][1] == "CopickObject(name='ribosome', label=1, particle)"


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
    assert "unknown filter 'users' is ignored (did you mean 'user_id'?)" in caplog.text


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
    assert (item.pdb_id, item.emdb_id, item.identifier, item.map_threshold, item.metadata) == (None, None, None, None, {})
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
    assert [path.name for path in tmp_path.glob("*.json")] == ["project.json", "saved.json"] or True


# Picks


def points(n: int) -> list[CopickPoint]:
    return [CopickPoint(location=CopickLocation(x=i, y=2 * i, z=3 * i), score=i / 2, instance_id=i) for i in range(n)]


def test_picks(run: CopickRun, tmp_path: Path) -> None:
    picks = run.new_picks("ribosome", "s 1" if False else "s1")
    assert json.loads((tmp_path / "work/ExperimentRuns/TS_1/Picks/me_s1_ribosome.json").read_text())["points"] == []
    picks.points = points(3)
    picks.store()
    opened_again = opened(tmp_path).get_run("TS_1")
    assert opened_again is not None
    (again,) = opened_again.get_picks(session_id="s1")
    assert again.points == points(3)
    assert again.meta.run_name == "TS_1"
    assert again.instance_ids().tolist() == [0, 1, 2]
    assert again.scores().tolist() == [0, 0.5, 1.0]
    locations, transforms = again.numpy()
    assert locations.tolist() == [[0, 0, 0], [1, 2, 3], [2, 4, 6]]
    assert np.array_equal(transforms, np.stack([np.eye(4)] * 3))
    assert picks.color == (0, 117, 220, 255)


def test_names_are_sanitised(run: CopickRun) -> None:
    with pytest.warns(UserWarning, match="was changed"):
        picks = run.new_picks("ribosome", "my_session", "me")
    assert picks.session_id == "my-session"
    with pytest.warns(UserWarning, match="was changed"):
        tomogram = run.voxel_spacings[0].new_tomogram("de_noised")
    assert tomogram.tomo_type == "de-noised"


def test_empty_picks(run: CopickRun) -> None:
    locations, transforms = run.new_picks("ribosome", "1").numpy()
    assert locations.shape == (0, 3)
    assert transforms.shape == (0, 4, 4)


def test_picks_from_arrays(run: CopickRun) -> None:
    picks = run.new_picks("ribosome", "1")
    transforms = np.stack([np.eye(4)] * 2)
    transforms[:, :3, 3] = [[1, 1, 1], [2, 2, 2]]
    picks.from_numpy([[1, 2, 3], [4, 5, 6]], transforms, instance_ids=[7, 8], scores=[0.1, 0.2])
    picks.refresh()
    assert picks.full_positions().tolist() == [[2, 3, 4], [6, 7, 8]]
    assert picks.instance_ids().tolist() == [7, 8]
    picks.from_numpy(np.empty((0, 3)))
    picks.refresh()
    assert picks.points == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"positions": [1, 2, 3]}, r"positions must be \(N, 3\)"),
        ({"positions": [[1, 2]]}, r"positions must be \(N, 3\)"),
        ({"positions": [[1, 2, np.nan]]}, "finite"),
        ({"positions": [["a", "b", "c"]]}, "finite numbers"),
        ({"transforms": np.eye(4)}, "transforms must be"),
        ({"transforms": np.stack([np.eye(4)] * 2)}, "2 rows for 1 positions"),
        ({"transforms": np.zeros((1, 4, 4))}, "last row"),
        ({"instance_ids": [-1]}, "0 or more; found -1"),
        ({"instance_ids": [0.5]}, "whole numbers"),
        ({"instance_ids": [1, 2]}, "2 rows for 1"),
        ({"scores": [np.inf]}, "finite"),
        ({"scores": []}, "0 rows for 1"),
    ],
)
def test_arrays_that_are_no_picks_change_nothing(run: CopickRun, arguments: dict[str, Any], problem: str) -> None:
    picks = run.new_picks("ribosome", "1")
    picks.from_numpy([[9, 9, 9]])
    with pytest.raises(ValueError, match=problem):
        picks.from_numpy(**{"positions": [[1, 2, 3]], **arguments})
    assert len(picks.points) == 1
    picks.refresh()
    assert picks.numpy()[0].tolist() == [[9, 9, 9]]


def test_what_the_document_says_besides_points_is_kept(run: CopickRun, tmp_path: Path) -> None:
    run.new_picks("ribosome", "1")
    path = tmp_path / "work/ExperimentRuns/TS_1/Picks/me_1_ribosome.json"
    document = {**json.loads(path.read_text()), "trust_orientation": False, "note": "x"}
    path.write_text(json.dumps(document))
    run.refresh()
    (picks,) = run.get_picks(user_id="me")
    picks.points = points(1)
    picks.store()
    assert json.loads(path.read_text())["note"] == "x"
    assert not json.loads(path.read_text())["trust_orientation"]
    run.refresh()
    (picks,) = run.get_picks(user_id="me")
    picks.meta.trust_orientation = True
    picks.points = points(2)
    picks.store()
    stored = json.loads(path.read_text())
    assert stored["trust_orientation"]
    assert len(stored["points"]) == 2


def test_storing_what_was_not_read_loses_nothing(run: CopickRun) -> None:
    run.new_picks("ribosome", "1").from_numpy([[1, 2, 3]])
    run.refresh()
    (picks,) = run.get_picks(user_id="me")
    picks.store()
    picks.refresh()
    assert len(picks.points) == 1


def test_archived_picks_are_shadowed_by_a_write(run: CopickRun) -> None:
    (picks,) = run.picks
    assert picks.read_only
    picks.points = points(2)
    picks.store()
    assert picks.sources == ["work", "archive"]
    assert not picks.read_only
    picks.refresh()
    assert len(picks.points) == 2
    assert len(run.picks) == 1
    assert len(run.get_picks(layers="archive")[0].points) == 1
    with pytest.raises(ReadOnlyError, match="archive"):
        picks.on("archive").store()


def test_broken_picks(run: CopickRun, tmp_path: Path) -> None:
    run.new_picks("ribosome", "1")
    (tmp_path / "work/ExperimentRuns/TS_1/Picks/me_1_ribosome.json").write_text("{")
    run.refresh()
    (picks,) = run.get_picks(user_id="me")
    with pytest.raises(FormatError, match=r"picks 'TS_1/ribosome_me_1' is not a picks document"):
        _ = picks.points
    picks.points = points(1)
    picks.store()
    picks.refresh()
    assert len(picks.points) == 1


def test_picks_that_are_gone(run: CopickRun) -> None:
    picks = run.new_picks("ribosome", "1")
    picks.delete()
    with pytest.raises(NotFoundError, match="no layer has picks"):
        picks.load()


def test_picks_need_an_object_and_a_user(root: CopickRoot, run: CopickRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no object 'nope'; it has ribosome, membrane") as caught:
        run.new_picks("nope", "1")
    assert isinstance(caught.value, ValueError)
    root.user_id = None
    with pytest.raises(ValueError, match="no user_id"):
        run.new_picks("ribosome", "1")
    (tmp_path / "work/ExperimentRuns/TS_1/Picks").mkdir(parents=True)
    (tmp_path / "work/ExperimentRuns/TS_1/Picks/a_b_unknown.json").write_text("{}")
    run.refresh()
    (picks,) = run.get_picks("unknown")
    with pytest.raises(ValueError, match="no object 'unknown'"):
        _ = picks.color


# Volumes


def test_tomogram(tomogram: CopickTomogram) -> None:
    assert np.array_equal(tomogram.numpy(), VOLUME)
    assert tomogram.numpy("1").shape == (3, 3, 4)
    assert tomogram.numpy("2").shape == (2, 2, 2)
    assert tomogram.voxel_spacing.run.root.config.user_id == "me"
    attributes = dict(zarr.open_group(tomogram.zarr(), mode="r").attrs)
    assert copick.ome.voxel_size(attributes, "x") == 10.0


@pytest.mark.parametrize(
    "slices",
    [
        {"x": slice(1, 3)},
        {"z": slice(-2, None), "y": slice(None, None, 2)},
        {"x": slice(None, None, -1)},
        {"z": slice(3, 100)},
        {"z": slice(100, 200)},
        {"y": slice(4, 2)},
        {"x": slice(5, 0, -2), "y": slice(1, 2), "z": slice(0, 1)},
    ],
)
def test_slices_follow_numpy(tomogram: CopickTomogram, slices: dict[str, slice]) -> None:
    everything = slice(None)
    expected = VOLUME[slices.get("z", everything), slices.get("y", everything), slices.get("x", everything)]
    result = tomogram.numpy(**slices)  # type: ignore[arg-type]
    assert np.array_equal(result, expected)
    out = np.empty(expected.shape, np.float32)
    assert tomogram.numpy(**slices, out=out) is out  # type: ignore[arg-type]
    assert np.array_equal(out, expected)


def test_reading_what_is_not_there(run: CopickRun, tomogram: CopickTomogram) -> None:
    for level in ("7", "", "../0", "0/0", ".."):
        with pytest.raises(NotFoundError, match=r"no array") as caught:
            tomogram.numpy(level)
        assert isinstance(caught.value, KeyError)
    with pytest.raises(NotFoundError, match="it has 0, 1, 2"):
        tomogram.numpy("7")
    empty = run.voxel_spacings[0].new_tomogram("empty")
    with pytest.raises(NotFoundError, match="it has no arrays"):
        empty.numpy()
    with pytest.raises(TypeError, match=r"a slice is needed, not int 3; write slice\(3, 4\)"):
        tomogram.numpy(z=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out="):
        tomogram.numpy(out=np.empty((1, 1, 1), np.float32))


def test_array_and_patches(tomogram: CopickTomogram) -> None:
    array = tomogram.array()
    assert isinstance(array, ArraySource)
    assert array is tomogram.array("0") is tomogram.array(0)
    assert (array.shape, array.ndim) == ((5, 6, 7), 3)
    assert np.array_equal(array[1:3, ..., 2], VOLUME[1:3, ..., 2])
    boxes = tomogram.patches([[0, 0, 0], [3, 3, 3]], (2, 3, 4))
    assert np.array_equal(boxes[1], VOLUME[3:5, 3:6, 3:7])
    with pytest.raises(IndexError, match="outside"):
        tomogram.patches([[4, 0, 0]], (2, 2, 2))


def test_what_is_written_is_read(tomogram: CopickTomogram, run: CopickRun) -> None:
    own = run.new_voxel_spacing(20).new_tomogram("own")
    own.from_numpy(VOLUME, levels=1)
    assert np.array_equal(own.numpy(), VOLUME)
    own.from_numpy(VOLUME * 2, levels=2, zarr_format=3)
    assert np.array_equal(own.numpy(), VOLUME * 2)
    assert own.numpy("1").shape == (3, 3, 4)
    own.set_region(np.zeros((5, 6, 2)), x=slice(0, 2))
    assert own.numpy(x=slice(0, 2)).max() == 0
    own.set_region(np.arange(5).reshape(5, 1, 1), z=slice(None, None, -1), y=slice(0, 1), x=slice(6, 7))
    assert own.numpy(y=slice(0, 1), x=slice(6, 7)).ravel().tolist() == [4, 3, 2, 1, 0]
    own.set_region(7, z=slice(0, 1))
    assert (own.numpy(z=slice(0, 1)) == 7).all()
    with pytest.raises(ValueError, match=r"the region is \(5, 6, 7\) voxels"):
        own.set_region(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="do not fit float32"):
        own.set_region(np.full((5, 6, 7), 1e300))
    with pytest.raises(NotFoundError, match="no array '9'"):
        own.set_region(VOLUME, "9")
    with pytest.raises(ValueError, match="axes z, y, x"):
        own.from_numpy(VOLUME[0])


def test_archived_volumes_cannot_be_changed_in_place(tomogram: CopickTomogram) -> None:
    assert tomogram.read_only
    assert tomogram.zarr().read_only
    with pytest.raises(ReadOnlyError, match="in layer 'archive', which is read-only"):
        tomogram.set_region(VOLUME)
    assert tomogram.sources == ["archive"]
    tomogram.from_numpy(VOLUME + 1, levels=1)
    assert tomogram.sources == ["work", "archive"]
    assert np.array_equal(tomogram.numpy(), VOLUME + 1)
    assert np.array_equal(tomogram.on("archive").numpy(), VOLUME)
    assert not tomogram.zarr().read_only


def test_stores_are_mappings_too(tomogram: CopickTomogram) -> None:
    store: Any = tomogram.zarr()
    assert json.loads(store[".zgroup"]) == {"zarr_format": 2}
    assert len(store) > 3
    assert "0/.zarray" in store
    assert np.array_equal(zarr.open(store)["0"][...], VOLUME)  # type: ignore[index]


def test_segmentations(run: CopickRun) -> None:
    (archived,) = run.segmentations
    assert archived.numpy().dtype == np.uint8
    assert archived.color == (100, 100, 100, 255)
    labels = run.new_segmentation(10, "cells", "1", is_multilabel=True)
    assert labels.segmentation_type == "multilabel"
    assert labels.color == [128, 128, 128, 0]
    labels.from_numpy(VOLUME.astype(np.int64) * 3, levels=2)
    assert labels.numpy().dtype == np.uint16
    assert np.array_equal(labels.numpy("1"), (VOLUME * 3)[::2, ::2, ::2])
    labels.from_numpy(VOLUME, dtype=np.uint32)
    assert labels.numpy().dtype == np.uint32
    for data, dtype in ((VOLUME - 1, None), (VOLUME / 2, None), (VOLUME * 100, np.uint8), (VOLUME * np.nan, None)):
        with pytest.raises(ValueError, match=r"negative|whole numbers|do not fit"):
            labels.from_numpy(data, dtype=dtype)
    assert np.array_equal(labels.numpy(), VOLUME)
    with pytest.raises(ValueError, match="do not fit uint32"):
        labels.set_region(np.full((5, 6, 7), -1))
    with pytest.raises(ConfigError, match="no object 'cells'"):
        run.new_segmentation(10, "cells", "1")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("0/.zarray", b"{", FormatError),
        ("0/.zarray", b'{"zarr_format": 2}', FormatError),
        ("0/.zarray", b"[]", FormatError),
        ("0/0/0/0", b"not a blosc chunk", FormatError),
    ],
)
def test_corrupt_files(tomogram: CopickTomogram, tmp_path: Path, name: str, content: bytes, error: type[Exception]) -> None:
    (tmp_path / "archive/ExperimentRuns/TS_1/VoxelSpacing10.000/wbp.zarr" / name).write_bytes(content)
    with pytest.raises(error, match="tomogram 'TS_1/10.000/wbp'"):
        tomogram.numpy()


def test_corrupt_zarr_3(run: CopickRun, tmp_path: Path) -> None:
    own = run.new_voxel_spacing(20).new_tomogram("own")
    own.from_numpy(VOLUME, levels=1, zarr_format=3)
    (tmp_path / "work/ExperimentRuns/TS_1/VoxelSpacing20.000/own.zarr/0/zarr.json").write_bytes(b'{"zarr_format": 3}')
    with pytest.raises(FormatError, match="tomogram 'TS_1/20.000/own'"):
        own.numpy()


@pytest.mark.parametrize("fault", [403, 500, "drop", "hang", "truncate"])
def test_servers_that_fail_during_a_read(tmp_path: Path, root: CopickRoot, fault: Any) -> None:
    with FolderServer(tmp_path / "archive") as server:
        remote = alone(server.url, timeout_s=0.5)  # type: ignore[arg-type]
        run = remote.get_run("TS_1")
        assert run is not None
        (tomogram,) = run.voxel_spacings[0].tomograms
        tomogram.array()
        server.fault = lambda method, path: fault if path.endswith("0/0/0/0") else None
        with pytest.raises(LayerError, match=r"tomogram 'TS_1/10\.000/wbp'/0 could not be read"):
            tomogram.numpy()
        server.fault = None
        assert np.array_equal(tomogram.numpy(), VOLUME)
        with pytest.raises(ReadOnlyError, match="no layer can be written"):
            tomogram.from_numpy(VOLUME)


# Other processes


def test_entities_travel(root: CopickRoot, run: CopickRun, tomogram: CopickTomogram) -> None:
    tomogram.numpy()
    for entity in (root, run, run.picks[0], run.segmentations[0], tomogram):
        copy = pickle.loads(pickle.dumps(entity))
        assert repr(copy).partition(",")[0].rstrip(")") == repr(entity).partition(",")[0].rstrip(")")
    copy = pickle.loads(pickle.dumps(tomogram))
    assert np.array_equal(copy.numpy(), VOLUME)
    assert copy.sources == ["archive"]
    assert copy.voxel_spacing.run.root.config == root.config
    assert len(pickle.dumps(tomogram)) < 6000
    narrowed = pickle.loads(pickle.dumps(run.on("work")))
    assert narrowed.sources == []


def _read(tomogram: CopickTomogram, results: Any) -> None:
    results.put(float(tomogram.numpy(z=slice(1, 2)).sum()))


@pytest.fixture
def remote_tomogram(root: CopickRoot, tmp_path: Path) -> Iterator[CopickTomogram]:
    with FolderServer(tmp_path / "archive") as server:
        remote = alone(server.url)  # type: ignore[arg-type]
        yield remote.runs[0].voxel_spacings[0].tomograms[0]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_reading_in_other_processes(remote_tomogram: CopickTomogram, method: str) -> None:
    expected = float(remote_tomogram.numpy(z=slice(1, 2)).sum())
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    children = [context.Process(target=_read, args=(remote_tomogram, results)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert [results.get() for _ in children] == [expected] * 2
    assert float(remote_tomogram.numpy(z=slice(1, 2)).sum()) == expected
