"""A user annotates: the archive is far away, read-only and cached; what is made goes to the work layer and is seen at once."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import copick
from copick.errors import ReadOnlyError
from copick.models import CopickRoot, CopickRun, CopickVoxelSpacing
from copick.testing.http_server import FolderServer
from projects import VOLUME, alone, archived, run_of, tomogram_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def fill(root: CopickRoot) -> None:
    run = root.new_run("TS_1")
    run.new_voxel_spacing(10).new_tomogram("wbp").from_numpy(VOLUME)
    run.new_picks("ribosome", "1", "them").from_numpy([[1, 2, 3], [4, 5, 6]])
    run.new_segmentation(10, "membrane", "1", user_id="them").from_numpy(VOLUME > 100)


@pytest.fixture(params=["http", "s3"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CopickRoot]:
    """A project whose archive is on a server, and cached."""
    if request.param == "http":
        fill(alone(tmp_path / "far"))
        with FolderServer(tmp_path / "far") as server:
            yield archived(tmp_path, server.url, True)
    else:
        bucket, args = request.getfixturevalue("s3_bucket"), request.getfixturevalue("s3_args")
        fill(alone(f"s3://{bucket}/far", fs_args=args))  # type: ignore[arg-type]
        yield archived(tmp_path, f"s3://{bucket}/far", True, fs_args=args)


def again(tmp_path: Path) -> CopickRun:
    """The run as somebody sees it who opens the project now."""
    return run_of(copick.from_file(tmp_path / "project.json"))


def test_what_is_made_is_seen_at_once(far: CopickRoot, tmp_path: Path) -> None:
    run = run_of(far)
    assert (len(run.picks), len(run.segmentations)) == (1, 1)
    run.new_picks("ribosome", "7").from_numpy([[7, 8, 9]])
    run.new_segmentation(10, "membrane", "7").from_numpy(VOLUME > 5)
    for seen in (run, again(tmp_path)):
        assert {(p.user_id, *p.sources) for p in seen.picks} == {("them", "archive"), ("me", "work")}
        assert {(s.user_id, *s.sources) for s in seen.segmentations} == {("them", "archive"), ("me", "work")}
        (mine,) = seen.get_segmentations(user_id="me")
        assert np.array_equal(mine.numpy(), VOLUME > 5)
        assert [p.user_id for p in seen.get_picks(layers="work")] == ["me"]
        assert [p.user_id for p in seen.get_picks(layers=["archive"])] == ["them"]


def test_editing_picks_of_the_archive_keeps_both(far: CopickRoot, tmp_path: Path) -> None:
    (picks,) = run_of(far).picks
    assert picks.read_only
    picks.points[0].location.x = 99.0
    picks.points.append(picks.points[1].model_copy(deep=True))
    picks.store()
    for seen in (picks, *again(tmp_path).picks):
        assert seen.sources == ["work", "archive"]
        assert [p.location.x for p in seen.points] == [99.0, 4.0, 4.0]
    (old,) = again(tmp_path).get_picks(layers="archive")
    assert [p.location.x for p in old.points] == [1.0, 4.0]
    with pytest.raises(ReadOnlyError, match=r"was removed from work, but is still in layer\(s\) archive"):
        picks.delete()
    (old,) = run_of(far).picks
    assert (old.sources, len(old.points)) == (["archive"], 2)
    with pytest.raises(ReadOnlyError, match=r"was not removed: it is still in layer\(s\) archive"):
        old.delete()
    assert len(again(tmp_path).picks) == 1


def test_changes_that_cannot_be_stored_stay_in_memory(far: CopickRoot) -> None:
    (picks,) = run_of(far).get_picks(layers="archive")
    picks.points = picks.points[:1]
    with pytest.raises(ReadOnlyError, match="no layer can be written; read-only are archive"):
        picks.store()
    assert len(picks.points) == 1
    picks.refresh()
    assert len(picks.points) == 2


def test_masks_of_the_archive(far: CopickRoot, tmp_path: Path) -> None:
    (mask,) = run_of(far).segmentations
    before = mask.numpy()
    with pytest.raises(ReadOnlyError, match="cannot write"):
        mask.zarr()["0/.zarray"] = b"{}"
    mask.from_numpy(1 - before)
    for seen in (mask, *again(tmp_path).segmentations):
        assert seen.sources == ["work", "archive"]
        assert np.array_equal(seen.numpy(), 1 - before)
    (old,) = again(tmp_path).get_segmentations(layers="archive")
    assert np.array_equal(old.numpy(), before)


def test_a_region_of_a_mask_of_the_archive(far: CopickRoot, tmp_path: Path) -> None:
    """The mask is copied up, whole, and the region changed in the copy."""
    (mask,) = run_of(far).segmentations
    expected = mask.numpy().copy()
    expected[:, :, :1] = 1
    mask.set_region(1, x=slice(0, 1))
    for seen in (mask, *again(tmp_path).segmentations):
        assert seen.sources == ["work", "archive"]
        assert np.array_equal(seen.numpy(), expected)


def test_deleting_a_run_that_is_also_in_the_archive(far: CopickRoot) -> None:
    run = run_of(far)
    run.new_picks("ribosome", "7")
    assert len(run.picks) == 2
    with pytest.raises(ReadOnlyError, match="was removed from work, but is still in"):
        run.delete()
    assert [p.user_id for p in run.picks] == ["them"]


def test_nothing_is_made_in_layers_that_cannot_be_written(far: CopickRoot) -> None:
    run = run_of(far)
    spacing = run.voxel_spacings[0]
    attempts = [
        lambda: far.new_run("x", layers="archive"),
        lambda: run.new_voxel_spacing(5, layers="archive"),
        lambda: run.new_picks("ribosome", "7", layers="archive"),
        lambda: run.new_segmentation(10, "membrane", "7", layers="archive"),
        lambda: spacing.new_tomogram("x", layers="archive"),
    ]
    for attempt in attempts:
        with pytest.raises(ReadOnlyError, match="no layer can be written; read-only are archive"):
            attempt()
    assert (len(far.query()), len(run.query_picks()), len(spacing.query_tomograms())) == (1, 1, 1)


@pytest.mark.parametrize("cls", [CopickRoot, CopickRun, CopickVoxelSpacing])
def test_every_query_getter_and_creator_takes_layers(cls: type) -> None:
    methods = {
        name: method
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if name.startswith(("query", "get_", "new_")) and not name.endswith(("_object", "_stats"))
    }
    assert methods
    for method in methods.values():
        assert inspect.signature(method).parameters["layers"].kind is inspect.Parameter.KEYWORD_ONLY


def test_a_misspelt_argument_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = alone(tmp_path)
    run = root.new_run("r", layer="x")
    run.new_voxel_spacing(10, layer="x").new_tomogram("t", layer="x")
    run.new_segmentation(10, "membrane", "1", layer="x")
    root.get_run("r", layer="x")
    run.get_voxel_spacing(10, layer="x")
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told == ["unknown argument 'layer' is ignored (did you mean 'layers'?)"] * 6


def read(entity: Any) -> Any:
    """What a worker makes of an entity."""
    if hasattr(entity, "numpy"):
        data = entity.numpy()
        return data.shape if isinstance(data, np.ndarray) else [part.shape for part in data]
    return getattr(entity, "name", type(entity).__name__)


def test_entities_go_to_other_processes(far: CopickRoot) -> None:
    run = run_of(far)
    ribosome = far.get_object("ribosome")
    assert ribosome is not None
    ribosome.from_numpy(VOLUME, 10)
    entities = [
        far,
        run,
        run.voxel_spacings[0],
        tomogram_of(far),
        *run.picks,
        *run.segmentations,
        ribosome,
    ]
    expected = [
        read(entity) for entity in entities
    ]  # used here before: connections and handles must not travel
    assert [read(pickle.loads(pickle.dumps(entity))) for entity in entities] == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(read, entities) == expected
