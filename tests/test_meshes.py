"""Meshes: surfaces in binary glTF."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trimesh

from copick.errors import AlreadyExistsError, ConfigError, FormatError, NotFoundError, ReadOnlyError
from copick.models import CopickMesh, CopickMeshMeta
from projects import alone, opened, run_of

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRun


def box(size: float = 100.0) -> trimesh.Trimesh:
    """A box around a point away from the origin, longer in x than in y and z."""
    mesh = trimesh.creation.box(extents=(3 * size, 2 * size, size))
    mesh.apply_translation((1000.0, 2000.0, 3000.0))
    return mesh


def again(tmp_path: Path) -> CopickMesh:
    """The mesh as somebody sees it who opens the project now."""
    (found,) = run_of(opened(tmp_path)).get_meshes("membrane", "me", "s1")
    return found


@pytest.fixture
def mesh(run: CopickRun) -> CopickMesh:
    return run.new_mesh("membrane", "s1")


def test_a_new_mesh_is_an_empty_scene(mesh: CopickMesh, tmp_path: Path) -> None:
    path = tmp_path / "work/ExperimentRuns/TS_1/Meshes/me_s1_membrane.glb"
    assert path.read_bytes()[:4] == b"glTF"
    assert mesh.path == str(path)
    assert isinstance(mesh.mesh, trimesh.Scene)
    assert len(mesh.mesh.geometry) == 0
    found = again(tmp_path)
    assert isinstance(found.mesh, trimesh.Scene)
    assert sum(len(part.faces) for part in found.mesh.geometry.values()) == 0
    assert (mesh.pickable_object_name, mesh.user_id, mesh.session_id) == ("membrane", "me", "s1")
    assert mesh.meta == CopickMeshMeta(pickable_object_name="membrane", user_id="me", session_id="s1")
    assert (mesh.from_user, mesh.from_tool, mesh.read_only) == (True, False, False)
    assert mesh.color == (100, 100, 100, 255)
    assert mesh.run.name == "TS_1"
    assert repr(mesh) == "CopickMesh(pickable_object_name='membrane', user_id='me', session_id='s1')"


def test_vertices_are_kept(mesh: CopickMesh, tmp_path: Path) -> None:
    """x, y, z in ångström: nothing is scaled, turned or cut off."""
    mesh.mesh = box()
    mesh.store()
    (part,) = again(tmp_path).mesh.geometry.values()
    assert np.allclose(part.bounds, [[850, 1900, 2950], [1150, 2100, 3050]])
    assert len(part.faces) == 12
    assert part.is_watertight
    assert again(tmp_path).mesh.bounds.tolist() == part.bounds.tolist()


def test_what_can_be_stored(mesh: CopickMesh, tmp_path: Path) -> None:
    scene = trimesh.Scene({"a": box(), "b": box(10)})
    for geometry, parts in (
        (scene, 2),
        (box(), 1),
        (trimesh.PointCloud([[1, 2, 3], [4, 5, 6]]), 1),
    ):
        mesh.mesh = geometry
        mesh.store()
        assert len(again(tmp_path).mesh.geometry) == parts
    before = again(tmp_path).mesh.bounds
    for nothing in ("a box", 3, np.zeros((3, 3))):
        mesh.mesh = nothing
        with pytest.raises(TypeError, match="a mesh is a trimesh geometry, not"):
            mesh.store()
    assert np.array_equal(again(tmp_path).mesh.bounds, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vertices_that_are_nowhere_are_not_stored(mesh: CopickMesh, tmp_path: Path, value: float) -> None:
    mesh.mesh = box()
    mesh.store()
    damaged = box()
    damaged.vertices[0, 0] = value
    mesh.mesh = trimesh.Scene({"part": damaged})
    with pytest.raises(FormatError, match=r"'TS_1/membrane.*vertices of 'part' are not finite"):
        mesh.store()
    assert again(tmp_path).mesh.bounds[0][0] == pytest.approx(850)


def test_changes_are_kept_until_stored_or_refreshed(mesh: CopickMesh, tmp_path: Path) -> None:
    mesh.mesh = box()
    assert len(mesh.mesh.faces) == 12
    assert again(tmp_path).mesh.bounds is None or again(tmp_path).mesh.is_empty
    mesh.refresh()
    assert mesh.mesh.is_empty
    other = again(tmp_path)
    other.mesh = box()
    other.store()
    assert mesh.mesh.is_empty
    assert not mesh.load().is_empty
    assert not mesh.mesh.is_empty
    mesh.mesh.apply_translation((1, 0, 0))
    mesh.store()
    assert again(tmp_path).mesh.bounds[0][0] == pytest.approx(851)


def test_storing_what_was_not_read_loses_nothing(mesh: CopickMesh, tmp_path: Path) -> None:
    mesh.mesh = box()
    mesh.store()
    found = again(tmp_path)
    found.store()
    assert not again(tmp_path).mesh.is_empty
    # None: whatever is stored.
    found.mesh = None
    assert not found.mesh.is_empty


def test_duplicates_and_names(run: CopickRun, mesh: CopickMesh) -> None:
    with pytest.raises(
        AlreadyExistsError, match=r"mesh 'TS_1/membrane_me_s1' exists already \(in layer work\)"
    ):
        run.new_mesh("membrane", "s1")
    assert run.new_mesh("membrane", "s1", exist_ok=True) is mesh
    assert run.new_mesh("membrane", "s1", None, True) is mesh
    with pytest.raises(ConfigError, match="no object 'nope'"):
        run.new_mesh("nope", "s1")
    with pytest.warns(UserWarning, match="changed to 'a-b'"):
        other = run.new_mesh("membrane", "a_b", "you")
    assert other.session_id == "a-b"
    run.root.user_id = None
    with pytest.raises(ConfigError, match="no user_id"):
        run.new_mesh("membrane", "s2")


def test_lists(run: CopickRun, mesh: CopickMesh, tmp_path: Path) -> None:
    tool = run.new_mesh("ribosome", "0", "segmenter")
    assert run.meshes == [mesh, tool]
    assert run.get_meshes() == [mesh, tool]
    assert run.get_meshes() is not run.meshes
    assert run.get_meshes("ribosome") == [tool]
    assert run.get_meshes(["ribosome", "membrane"], session_id="s1") == [mesh]
    assert run.get_meshes(user_id={"segmenter"}, layers="work")[0].ref == tool.ref
    assert run.get_meshes(layers="archive") == []
    assert run.user_meshes() == [mesh]
    assert run.tool_meshes() == [tool]
    assert [found.ref for found in run.query_meshes()] == [mesh.ref, tool.ref]
    run_of(alone(tmp_path / "work")).get_meshes("membrane")[0].delete()
    assert run.meshes == [mesh, tool]
    run.refresh_meshes()
    assert [found.ref for found in run.meshes] == [tool.ref]


def test_archived_meshes(tmp_path: Path, run: CopickRun) -> None:
    archive = run_of(alone(tmp_path / "archive")).new_mesh("membrane", "s1", "me")
    archive.mesh = box()
    archive.store()
    found = again(tmp_path)
    assert found.read_only
    with pytest.raises(ReadOnlyError, match="still in"):
        found.delete()
    found.mesh = box(1)
    found.store()
    assert found.sources == ["work", "archive"]
    assert again(tmp_path).mesh.extents.max() == pytest.approx(3)
    assert found.on("archive").mesh.extents.max() == pytest.approx(300)
    with pytest.raises(ReadOnlyError, match="archive"):
        found.on("archive").store()


def test_broken_and_missing_files(mesh: CopickMesh, tmp_path: Path) -> None:
    mesh.mesh = box()
    mesh.store()
    path = tmp_path / "work/ExperimentRuns/TS_1/Meshes/me_s1_membrane.glb"
    whole = path.read_bytes()
    for content in (b"", b"glTF", b"{}", whole[:20], whole[: len(whole) // 2], b"x" * len(whole)):
        path.write_bytes(content)
        with pytest.raises(
            FormatError, match=r"mesh 'TS_1/membrane_me_s1' in layer 'work' is not binary glTF"
        ):
            _ = again(tmp_path).mesh
    repaired = again(tmp_path)
    repaired.mesh = box()
    repaired.store()
    assert not again(tmp_path).mesh.is_empty
    path.unlink()
    with pytest.raises(NotFoundError, match="no layer has mesh"):
        mesh.load()
    with pytest.raises(NotFoundError, match="no layer has mesh"):
        mesh.delete()


def test_pickle_and_made_by_hand(run: CopickRun, mesh: CopickMesh, tmp_path: Path) -> None:
    mesh.mesh = box()
    mesh.store()
    copy = pickle.loads(pickle.dumps(mesh))
    assert copy.mesh.extents.max() == pytest.approx(300)
    meta = CopickMeshMeta(pickable_object_name="membrane", user_id="me", session_id="s2")
    made = CopickMesh(run, meta, box(2))
    assert not made.ensure()
    assert made.ensure(create=True)
    run.refresh_meshes()
    assert run.get_meshes(session_id="s2")[0].mesh.extents.max() == pytest.approx(6)
