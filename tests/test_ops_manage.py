"""Removing, moving and copying what URIs name."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from copick.errors import UnknownNameError
from copick.ops import manage
from projects import VOLUME, alone, archived, opened

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun


def fill(run: CopickRun) -> None:
    wbp = run.new_voxel_spacing(10).new_tomogram("wbp")
    wbp.from_numpy(VOLUME)
    wbp.new_features("edges").from_numpy(VOLUME)
    run.new_picks("ribosome", "0", "tool").from_numpy([[1, 2, 3]])
    for session in ("1", "2"):
        run.new_picks("ribosome", session, "bob").from_numpy([[1, 2, 3], [4, 5, int(session)]])
    run.new_mesh("membrane", "1", "bob")
    run.new_filaments("ribosome", "1", "bob").from_numpy([[[0, 0, 0], [1, 1, 1]]])
    run.new_segmentation(10, "membrane", "1", user_id="bob").from_numpy(VOLUME > 9)
    run.new_segmentation(10, "membrane", "1", True, user_id="bob").from_numpy(VOLUME.astype(int))


@pytest.fixture
def root(tmp_path: Path) -> CopickRoot:
    root = alone(tmp_path / "project")
    for name in ("A", "B"):
        fill(root.new_run(name))
    return root


def run_of(root: CopickRoot, name: str = "A") -> CopickRun:
    run = root.get_run(name)
    assert run is not None
    return run


def picks(root: CopickRoot, name: str = "A") -> list[str]:
    """What is on disk: the user and session of each."""
    return [f"{each.user_id}/{each.session_id}" for each in run_of(root, name).query_picks()]


# Remove


@pytest.mark.parametrize(
    ("object_type", "uri"),
    [
        ("picks", "ribosome:bob/1"),
        ("filaments", "ribosome:bob/1"),
        ("mesh", "membrane:bob/1"),
        ("segmentation", "membrane:bob/1@10.0?multilabel=true"),
        ("tomogram", "wbp@10.0"),
        ("feature", "wbp@10.0:edges"),
    ],
)
def test_remove(root: CopickRoot, object_type: Any, uri: str) -> None:
    every = {"deleted": 2, "objects": [uri, uri], "errors": []}
    assert manage.remove_copick_objects(root, object_type, uri, dry_run=True) == every
    one = {"deleted": 1, "objects": [uri], "errors": []}
    assert manage.remove_copick_objects(root, object_type, uri, run_name="A") == one
    assert manage.remove_copick_objects_per_run(run_of(root, "B"), object_type, uri) == one
    root.refresh()
    nothing = {"deleted": 0, "objects": [], "errors": []}
    assert manage.remove_copick_objects(root, object_type, uri) == nothing


def test_remove_in_many_runs(root: CopickRoot) -> None:
    found = manage.remove_copick_objects_batch(root, "picks", "ribosome:bob/*", dry_run=True, workers=2)
    one = {"deleted": 2, "objects": ["ribosome:bob/1", "ribosome:bob/2"], "errors": []}
    assert found == {"A": one, "B": one}
    assert picks(root) == ["bob/1", "bob/2", "tool/0"]
    assert manage.remove_copick_objects_batch(root, "picks", "ribosome:bob/*", run_names=["A"]) == {"A": one}
    assert (picks(root), picks(root, "B")) == (["tool/0"], ["bob/1", "bob/2", "tool/0"])


def test_remove_what_cannot_be(tmp_path: Path) -> None:
    fill(alone(tmp_path / "archive").new_run("A"))
    root = opened(tmp_path)
    run_of(root).new_picks("ribosome", "7", "bob")
    found = manage.remove_copick_objects(root, "picks", "ribosome:bob/*")
    assert (found["deleted"], found["objects"]) == (1, ["ribosome:bob/7"])
    assert len(found["errors"]) == 2
    assert "Failed to delete ribosome:bob/1" in found["errors"][0]
    assert "read-only" in found["errors"][0]


def test_remove_bad_arguments(root: CopickRoot) -> None:
    with pytest.raises(UnknownNameError, match="no run 'C'"):
        manage.remove_copick_objects(root, "picks", "ribosome:bob/1", run_name="C")
    with pytest.raises(UnknownNameError, match="no run 'C'"):
        manage.remove_copick_objects_batch(root, "picks", "ribosome:bob/1", run_names=["A", "C"])
    with pytest.raises(ValueError, match="no object type 'run'"):
        manage.remove_copick_objects(root, "run", "A")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no picks URI"):
        manage.remove_copick_objects_batch(root, "picks", "ribosome:bob/1:x")
    assert picks(root) == ["bob/1", "bob/2", "tool/0"]


# Move and copy


def test_copy_and_move_one(root: CopickRoot) -> None:
    done = manage.copy_copick_objects(root, "picks", "ribosome:bob/2", "ribosome:ann/9", run_name="A")
    assert done == {"copied": 1, "mappings": [("ribosome:bob/2", "ribosome:ann/9")], "errors": []}
    assert picks(root) == ["ann/9", "bob/1", "bob/2", "tool/0"]
    (copy,) = run_of(root).get_picks(user_id="ann")
    assert (copy.meta.run_name, copy.numpy()[0].tolist()) == ("A", [[1, 2, 3], [4, 5, 2]])
    # One name in several runs is still one thing per run.
    done = manage.move_copick_objects(root, "picks", "ribosome:bob/2", "ribosome:bob/3")
    assert (done["moved"], done["errors"]) == (2, [])
    assert picks(root, "B") == ["bob/1", "bob/3", "tool/0"]


def test_patterns_need_placeholders(root: CopickRoot) -> None:
    done = manage.move_copick_objects_per_run(
        run_of(root), "picks", "ribosome:bob/*", "{object_name}:carl/{user_id}-{session_id}"
    )
    assert done["moved"] == 2
    assert picks(root) == ["carl/bob-1", "carl/bob-2", "tool/0"]
    done = manage.copy_copick_objects_per_run(run_of(root), "mesh", "re:mem.*:b.b/1", "{name}:{user_id}/5")
    assert done["mappings"] == [("membrane:bob/1", "membrane:bob/5")]


def test_segmentations_keep_their_type_and_bytes(root: CopickRoot, tmp_path: Path) -> None:
    masks = tmp_path / "project/ExperimentRuns/A/Segmentations"
    before = {path.name: stored(path) for path in masks.iterdir()}
    done = manage.copy_copick_objects(
        root, "segmentation", "*:*/*@*", "{name}:ann/{session_id}@{voxel_spacing}", run_name="A"
    )
    assert sorted(done["mappings"]) == [
        ("membrane:bob/1@10.0", "membrane:ann/1@10.0"),
        ("membrane:bob/1@10.0?multilabel=true", "membrane:ann/1@10.0?multilabel=true"),
    ]
    for name, content in before.items():
        assert stored(masks / name.replace("bob", "ann")) == content
    (copy,) = run_of(root).get_segmentations(user_id="ann", is_multilabel=True)
    assert np.array_equal(copy.numpy(), VOLUME)


def stored(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_other_documents_are_copied_whole(root: CopickRoot, tmp_path: Path) -> None:
    folder = tmp_path / "project/ExperimentRuns/A"
    manage.copy_copick_objects(root, "mesh", "membrane:bob/1", "membrane:ann/1", run_name="A")
    meshes = folder / "Meshes"
    assert (meshes / "ann_1_membrane.glb").read_bytes() == (meshes / "bob_1_membrane.glb").read_bytes()
    done = manage.move_copick_objects(root, "filaments", "ribosome:bob/1", "ribosome:ann/1", run_name="A")
    assert done["errors"] == []
    (filaments,) = run_of(root).filaments
    assert (filaments.user_id, filaments.numpy()[0].tolist()) == ("ann", [[0, 0, 0], [1, 1, 1]])
    # What this version does not know of belongs to somebody, and goes along.
    path = folder / "Picks/bob_1_ribosome.json"
    path.write_text(path.read_text().replace('"unit":', '"colour": "red", "unit":'))
    manage.copy_copick_objects(root, "picks", "ribosome:bob/1", "membrane:x/1", run_name="A")
    assert '"colour": "red"' in (folder / "Picks/x_1_membrane.json").read_text()


def test_what_is_there_stays_unless_told(root: CopickRoot) -> None:
    arguments = (run_of(root), "picks", "ribosome:bob/1", "ribosome:tool/0")
    done = manage.move_copick_objects_per_run(*arguments)
    assert done["errors"] == ["Failed to move ribosome:bob/1: the target exists; overwrite replaces it"]
    assert picks(root) == ["bob/1", "bob/2", "tool/0"]
    (target,) = run_of(root).get_picks(user_id="tool")
    assert len(target.points) == 1
    assert manage.move_copick_objects_per_run(*arguments, overwrite=True)["moved"] == 1
    assert picks(root) == ["bob/2", "tool/0"]
    assert len(target.points) == 2


def test_many_runs_at_once(root: CopickRoot) -> None:
    arguments = (root, "picks", "ribosome:bob/1", "ribosome:ann/1")
    one = {"copied": 1, "mappings": [("ribosome:bob/1", "ribosome:ann/1")], "errors": []}
    assert manage.copy_copick_objects_batch(*arguments, workers=2) == {"A": one, "B": one}
    moved = manage.move_copick_objects_batch(*arguments, run_names=["A"], overwrite=True)
    assert moved["A"] is not None
    assert moved["A"]["moved"] == 1
    assert (picks(root), picks(root, "B")) == (
        ["ann/1", "bob/2", "tool/0"],
        ["ann/1", "bob/1", "bob/2", "tool/0"],
    )
    assert manage.copy_copick_objects(root, "picks", "ribosome:nobody/1", "ribosome:ann/1") == {
        "copied": 0, "mappings": [], "errors": []
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["move", "copy"])
def test_nothing_is_lost(root: CopickRoot, verb: str, caplog: pytest.LogCaptureFixture) -> None:
    """copick 1.x lets sources with one target overwrite each other, and then deletes them."""
    act = getattr(manage, f"{verb}_copick_objects")
    done = act(root, "picks", "ribosome:*/*", "{object_name}:same/1", run_name="A", overwrite=True)
    assert len(done["errors"]) == 3
    assert "3 sources have this target" in done["errors"][0]
    assert "3 sources have this target" in caplog.text
    run_of(root).new_picks("ribosome", "11", "bob")
    done = act(root, "picks", "ribosome:bob/*", "ribosome:bob/1{session_id}", run_name="A", overwrite=True)
    assert done["errors"] == [f"Failed to {verb} ribosome:bob/1: its target is a source"]
    assert len(done["mappings"]) == 2
    done = act(root, "mesh", "membrane:bob/1", "membrane:bob/1", run_name="A", overwrite=True)
    assert done["errors"] == [f"Failed to {verb} membrane:bob/1: source and target are the same"]
    if verb == "move":
        assert picks(root) == ["bob/1", "bob/111", "bob/12", "tool/0"]


@pytest.mark.parametrize("verb", ["move", "copy"])
def test_nothing_is_converted(root: CopickRoot, verb: str) -> None:
    act = getattr(manage, f"{verb}_copick_objects_per_run")
    for target, problem in [
        ("membrane:ann/1@20", "it has voxels of 10.0 Å; nothing is resampled"),
        ("membrane:ann/1@10?instance=true", "multilabel segmentation; types are not converted"),
        ("membrane:ann/1@10?multilabel=false", "multilabel segmentation; types are not converted"),
        ("other:ann/1@10", None),
    ]:
        done = act(run_of(root), "segmentation", "membrane:bob/1@10?multilabel=true", target)
        assert ([problem in error for error in done["errors"]] == [True]) is (problem is not None)
    done = act(run_of(root), "segmentation", "membrane:bob/1@10?multilabel=false", "other:ann/1@10")
    assert "no object 'other'" in done["errors"][0]


@pytest.mark.parametrize(
    ("object_type", "source", "target", "problem"),
    [
        ("picks", "ribosome:bob/*", "ribosome:ann/1", "may name several things"),
        ("picks", "re:ribosome:bob/1", "ribosome:ann/1", "may name several things"),
        ("picks", "ribosome:bob", "ribosome:ann/1", "may name several things"),
        ("picks", "ribosome:bob/1", "ribosome:{user_id}/2", "names one thing; write its new name"),
        (
            "picks",
            "ribosome:bob/*",
            "ribosome:{user}/2",
            r"unknown placeholder {user}; there are {object_name}",
        ),
        ("picks", "ribosome:bob/*", "r:u/{voxel_spacing}", "unknown placeholder {voxel_spacing}"),
        ("picks", "ribosome:bob/1", "ribosome:ann", "does not say the session_id"),
        ("picks", "ribosome:bob/1", "ribosome:ann/*", "does not say the session_id"),
        ("picks", "ribosome:bob/1", "ribosome:ann/x*", "is a pattern"),
        ("picks", "ribosome:bob/1", "re:ribosome:ann/x", "is a pattern"),
        ("segmentation", "membrane:bob/1@10", "membrane:ann/1", "does not say the voxel_spacing"),
        ("segmentation", "membrane:bob/1@10", "membrane:ann/1@ten", "'ten' is no voxel size"),
        ("tomogram", "wbp@10", "wbp2@10", "cannot (move|copy) 'tomogram'; use one of picks, filaments"),
    ],
)
def test_bad_uris_change_nothing(
    root: CopickRoot, object_type: Any, source: str, target: str, problem: str
) -> None:
    for act in (manage.move_copick_objects, manage.copy_copick_objects_batch):
        with pytest.raises(ValueError, match=problem):
            act(root, object_type, source, target)
    assert picks(root) == ["bob/1", "bob/2", "tool/0"]


def test_from_a_read_only_layer(tmp_path: Path) -> None:
    fill(alone(tmp_path / "archive").new_run("A"))
    root = archived(tmp_path, tmp_path / "archive", cached=True)
    assert np.array_equal(
        run_of(root).get_segmentations(is_multilabel=True)[0].numpy(), VOLUME
    )  # now it is in the cache, decoded
    uris = ("membrane:bob/1@10?multilabel=true", "all:me/1@10")
    done = manage.move_copick_objects(root, "segmentation", *uris)
    assert "layer 'archive', which is read-only; copy it instead" in done["errors"][0]
    assert manage.copy_copick_objects(root, "segmentation", *uris)["copied"] == 1
    segmentations = "ExperimentRuns/A/Segmentations"
    original = stored(tmp_path / "archive" / segmentations / "10.000_bob_1_membrane-multilabel.zarr")
    assert stored(tmp_path / "work" / segmentations / "10.000_me_1_all-multilabel.zarr") == original


def test_log(root: CopickRoot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    manage.move_copick_objects(root, "mesh", "membrane:bob/1", "membrane:ann/1", run_name="A", log=True)
    manage.remove_copick_objects(root, "mesh", "membrane:ann/1", run_name="A", log=True)
    assert caplog.messages == ["membrane:bob/1 is now membrane:ann/1", "removed membrane:ann/1"]


def test_any_array_is_copied_as_it_is(root: CopickRoot, tmp_path: Path) -> None:
    """Codecs, chunks and formats that this version does not write."""
    mask = run_of(root).new_segmentation(10, "odd", "1", True, user_id="bob", exist_ok=True)
    folder = tmp_path / "project" / mask.ref.path
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.create_array(
        "s0", data=VOLUME.astype(np.uint16), chunks=(2, 2, 2), shards=(4, 4, 4), compressors=None
    )
    done = manage.copy_copick_objects(
        root, "segmentation", "odd:bob/1@10?multilabel=true", "odd:bob/2@10", run_name="A"
    )
    assert done["errors"] == []
    assert stored(folder.with_name("10.000_bob_2_odd-multilabel.zarr")) == stored(folder)
