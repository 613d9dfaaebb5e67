"""Deleting: what goes, what stays, and what is seen afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.errors import GoneError, LayerError, NotFoundError, ReadOnlyError
from projects import VOLUME, alone, opened, run_of, tomogram_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun


def fill(run: CopickRun) -> None:
    """Something of each kind, by two users."""
    for size in (10, 20):
        spacing = run.new_voxel_spacing(size, exist_ok=True)
        for name in ("raw", "sirt", "wbp"):
            tomogram = spacing.new_tomogram(name, exist_ok=True)
            tomogram.from_numpy(VOLUME, levels=1)
        tomogram.new_features("unet").from_numpy(VOLUME)
    for user, session in (("me", "1"), ("me", "2"), ("you", "0")):
        run.new_picks("ribosome", session, user).from_numpy([[1, 2, 3]])
        run.new_mesh("membrane", session, user)
        run.new_filaments("ribosome", session, user)
        for types in ({}, {"is_multilabel": True}, {"is_instance": True}, {"is_panoptic": True}):
            run.new_segmentation(10, "membrane", session, user_id=user, **types)


@pytest.fixture
def mine(tmp_path: Path) -> CopickRun:
    run = alone(tmp_path / "mine").new_run("TS_1")
    fill(run)
    return run


def files(folder: Path) -> set[str]:
    """Every file and directory below, without what arrays are made of."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not any(parent.suffix == ".zarr" for parent in path.parents)
    }


def who(items: Iterable[Any]) -> list[tuple[str, str]]:
    return [(item.user_id, item.session_id) for item in items]


EVERYONE = [("me", "1"), ("me", "2"), ("you", "0")]


@pytest.mark.parametrize("kind", ["picks", "meshes", "filaments"])
def test_annotations(mine: CopickRun, kind: str, tmp_path: Path) -> None:
    def held() -> list[tuple[str, str]]:
        """In memory and on disk."""
        now = sorted(who(getattr(mine, kind)))
        assert now == sorted(who(getattr(run_of(alone(tmp_path / "mine")), kind)))
        return now

    delete: Callable[..., None] = getattr(mine, f"delete_{kind}")
    assert held() == EVERYONE
    delete(object_name="nope")
    delete(user_id=["nobody"])
    assert held() == EVERYONE
    delete(user_id="me", session_id=("1", "7"))
    assert held() == EVERYONE[1:]
    delete(None, None, "0")
    assert held() == EVERYONE[1:2]
    delete()
    assert held() == []
    delete()


def test_segmentations(mine: CopickRun) -> None:
    def types() -> list[str]:
        return sorted({mask.segmentation_type for mask in mine.query_segmentations()})

    mine.delete_segmentations(voxel_size=20)
    mine.delete_segmentations(user_id="you")
    assert len(mine.query_segmentations()) == 10  # instance and panoptic ones have to be named
    assert types() == ["binary", "instance", "multilabel", "panoptic"]
    mine.delete_segmentations(is_multilabel=True)
    assert types() == ["binary", "instance", "panoptic"]
    mine.delete_segmentations(is_panoptic=True)
    assert types() == ["binary", "instance"]
    mine.delete_segmentations(is_instance=None, voxel_size=[10, 20], name=["membrane"])
    assert types() == []
    assert mine.segmentations == []


def test_tomograms_and_spacings(mine: CopickRun, tmp_path: Path) -> None:
    spacing = mine.get_voxel_spacing(10)
    assert spacing is not None
    spacing.delete_tomograms("nope")
    spacing.delete_tomograms("wbp")
    assert [t.tomo_type for t in spacing.tomograms] == ["raw", "sirt"]
    spacing.delete_tomograms()
    assert spacing.tomograms == spacing.query_tomograms() == []
    folder = tmp_path / "mine/ExperimentRuns/TS_1"
    assert files(folder / "VoxelSpacing10.000") == {".meta"}
    mine.delete_voxel_spacings(10)
    assert [s.voxel_size for s in mine.voxel_spacings] == [20]
    with pytest.raises(ValueError, match=r"run 'TS_1' has no voxel spacing 10"):
        mine.delete_voxel_spacings(10)
    mine.delete_voxel_spacings()
    assert mine.voxel_spacings == []
    assert not list(folder.glob("VoxelSpacing*"))


def test_a_run(mine: CopickRun, tmp_path: Path) -> None:
    root = mine.root
    other = root.new_run("TS_2")
    assert len(mine.picks) == 3
    root.delete_run("nope")
    with pytest.raises(NotFoundError, match="there is no run 'nope'"):
        root.delete_run("nope", missing_ok=False)
    root.delete_run("TS_1")
    assert root.runs == [other]
    assert root.get_run("TS_1") is None
    assert files(tmp_path / "mine/ExperimentRuns") == {"TS_2", "TS_2/.meta"}
    # It can be made again; nothing of the old one is left in it.
    assert mine.ensure(create=True)
    assert mine.picks == mine.voxel_spacings == mine.segmentations == []
    again = alone(tmp_path / "mine")
    again.delete_run("TS_2")  # listed by nobody yet
    assert [run.name for run in again.runs] == ["TS_1"]


def test_deleting_twice(mine: CopickRun) -> None:
    things: list[Any] = [
        mine.picks[0],
        mine.meshes[0],
        mine.filaments[0],
        mine.segmentations[0],
        mine.voxel_spacings[0].tomograms[0],
        mine.voxel_spacings[0],
        mine,
    ]
    for thing in things:
        thing.delete()
        assert thing.sources == []
        with pytest.raises(GoneError, match="no layer has") as caught:
            thing.delete()
        # copick 1.x raised the former; who asks for what is not there gets the latter everywhere else.
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, NotFoundError)
        thing.delete(missing_ok=True)


def test_documents_that_are_gone(mine: CopickRun) -> None:
    for thing in (mine.picks[0], mine.meshes[0], mine.filaments[0]):
        thing.delete()
        for read in (thing.load, thing.refresh):
            with pytest.raises(GoneError, match=r"no layer has .*TS_1") as caught:
                read()
            assert isinstance(caught.value, FileNotFoundError)


def test_what_is_deleted_is_not_read(mine: CopickRun) -> None:
    """Neither by the entity that was deleted, nor by another one for the same thing that was open."""
    mask = mine.get_segmentations(user_id="me", session_id="1", is_multilabel=False)[0]
    mask.from_numpy(VOLUME > 5)
    (fresh,) = [found for found in mine.query_segmentations() if found.ref == mask.ref]
    narrowed = mask.on("filesystem")
    for each in (mask, fresh, narrowed):
        assert each.numpy().any()
    mask.delete()
    for each in (mask, fresh, narrowed):
        with pytest.raises(NotFoundError, match="no layer has segmentation"):
            each.numpy()
    made = mine.new_segmentation(10, "membrane", "1", user_id="me")
    made.from_numpy(np.ones((2, 3, 4)))
    for each in (mask, fresh, narrowed):
        assert each.numpy().shape == (2, 3, 4)
    tomogram = tomogram_of(mine.root)
    assert tomogram.numpy().shape == VOLUME.shape
    features = tomogram.features[0]
    assert features.numpy().shape == VOLUME.shape
    mine.delete()
    for gone in (tomogram, features):
        with pytest.raises(NotFoundError, match="no layer has"):
            gone.numpy()


def test_a_replaced_array_is_read_as_it_is_now(mine: CopickRun) -> None:
    tomogram = tomogram_of(mine.root)
    (fresh,) = [t for t in tomogram.voxel_spacing.query_tomograms() if t.tomo_type == "wbp"]
    other_root = alone(mine.root.root_overlay)  # type: ignore[arg-type]
    theirs = tomogram_of(other_root)
    for each in (tomogram, fresh, theirs):
        assert each.numpy().shape == VOLUME.shape
    fresh.from_numpy(VOLUME[:2] + 1)
    theirs.refresh()  # of another project, as far as this one knows
    for each in (tomogram, fresh, theirs):
        assert np.array_equal(each.numpy(), VOLUME[:2] + 1)
        assert np.array_equal(each.patches([[0, 0, 0]], (2, 2, 2))[0], VOLUME[:2, :2, :2] + 1)


# Several layers


@pytest.fixture
def both(root: CopickRoot, tmp_path: Path) -> CopickRun:
    """A run in the archive and above it, with the same things in both."""
    archive = run_of(alone(tmp_path / "archive"))
    archive.delete_picks()
    fill(archive)
    run = run_of(opened(tmp_path))
    for picks in run.picks:
        picks.store()
    for mesh in run.meshes:
        mesh.store()
    for mask in run.segmentations:
        mask.store()
    run.new_picks("ribosome", "9").from_numpy([[9, 9, 9]])
    return run


def test_what_is_in_a_read_only_layer_stays(both: CopickRun, tmp_path: Path) -> None:
    before = files(tmp_path / "archive")
    picks = both.get_picks(session_id="1")[0]
    assert picks.sources == ["work", "archive"]
    with pytest.raises(
        ReadOnlyError, match=r"was removed from work, but is still in layer\(s\) archive"
    ) as caught:
        picks.delete()
    assert isinstance(caught.value, PermissionError)
    assert both.get_picks(session_id="1")[0].sources == picks.sources == ["archive"]
    picks.delete(missing_ok=True)
    with pytest.raises(ReadOnlyError, match="was not removed: it is still in"):
        picks.delete()
    with pytest.raises(ReadOnlyError, match=r"read-only layers alone") as caught:
        both.delete_picks()
    assert "nothing was deleted" in str(caught.value)
    assert len(both.picks) == 4
    assert files(tmp_path / "archive") == before


def test_layers_narrow_a_delete(both: CopickRun, tmp_path: Path) -> None:
    assert len(both.picks) == 4
    both.delete_picks(layers="work")
    assert [(p.session_id, *p.sources) for p in both.picks] == [
        ("1", "archive"),
        ("2", "archive"),
        ("0", "archive"),
    ]
    mask = both.segmentations[0]
    mask.delete(layers=["work"])
    assert mask.sources == ["archive"]
    assert both.segmentations[0].sources == ["archive"]
    both.meshes[0].delete(layers="work")
    both.delete_meshes(layers="work")
    assert {tuple(mesh.sources) for mesh in both.meshes} == {("archive",)}
    both.delete_segmentations(layers="work", is_instance=None, is_panoptic=None)
    assert {tuple(found.sources) for found in both.segmentations} == {("archive",)}
    assert [path for path in files(tmp_path / "work") if "_" in path.rpartition("/")[2] and "." in path] == []
    with pytest.raises(NotFoundError, match="no layer has"):
        mask.delete(layers="work")
    mask.delete(layers="work", missing_ok=True)
    with pytest.raises(ReadOnlyError, match="archive"):
        mask.delete(layers="archive")


def test_the_whole_project_knows_what_a_narrower_view_deleted(both: CopickRun) -> None:
    root = both.root
    assert (len(both.picks), len(root.runs)) == (4, 1)
    (mine,) = both.get_picks(session_id="9", layers="work")
    mine.delete()
    assert who(both.get_picks(session_id="9")) == []
    new = both.on("work").new_picks("ribosome", "8")
    assert who(both.get_picks(session_id="8")) == [("me", "8")]
    assert new.run is not both
    root.on("work").new_run("TS_9").new_voxel_spacing(5)
    assert [run.name for run in root.runs] == ["TS_1", "TS_9"]
    both.delete(layers="work")
    assert [run.sources for run in root.runs] == [["archive"], ["work"]]
    assert {tuple(p.sources) for p in root.runs[0].picks} == {("archive",)}


def test_a_mixed_delete_is_all_or_what_can_be(both: CopickRun) -> None:
    """One that is in the work layer alone, and others that are below it, too."""
    with pytest.raises(ReadOnlyError) as caught:
        both.delete_picks()
    assert str(caught.value).count("was removed from work, but is still in") == 3
    assert who(both.picks) == [("me", "1"), ("me", "2"), ("you", "0")]
    assert {tuple(p.sources) for p in both.picks} == {("archive",)}


def test_an_object_and_its_map(root: CopickRoot, tmp_path: Path) -> None:
    ribosome = root.get_object("ribosome")
    assert ribosome is not None
    ribosome.from_numpy(VOLUME, 10)
    ribosome.delete()
    assert root.get_object("ribosome") is None
    assert [item.name for item in root.config.pickable_objects] == ["membrane"]
    assert not list((tmp_path / "work/Objects").iterdir())


@pytest.mark.skipif("os.geteuid() == 0", reason="root may do anything")
def test_a_layer_that_refuses(mine: CopickRun, tmp_path: Path) -> None:
    folder = tmp_path / "mine/ExperimentRuns/TS_1/Picks"
    folder.chmod(0o500)
    try:
        with pytest.raises(LayerError, match="check its permissions"):
            mine.delete_picks()
    finally:
        folder.chmod(0o700)
    assert len(mine.picks) == 3
