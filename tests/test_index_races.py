"""What others do while an index is read or written: each test has them do it at the worst moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from copick.errors import LayerError
from copick.index import stack as stack_module
from copick.index.reader import Reader
from copick.index.writer import Writer
from copick.kinds import PICKS, RUN, Ref
from projects import alone, run_of
from test_index import indexed, indexed_again, sessions, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from copick.models import CopickRoot

TS_1 = Ref(RUN, ("TS_1",))


@pytest.fixture
def project(root: CopickRoot, tmp_path: Path) -> CopickRoot:
    made = indexed(tmp_path)
    made.index_all_layers()
    return made


def once(monkeypatch: pytest.MonkeyPatch, place: type, name: str, do: Callable[..., None]) -> None:
    """Have `do` done, with the same arguments, when a method has done its work for the first time."""
    real, done = getattr(place, name), []

    def wrapped(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        if not done:
            done.append(True)
            do(*args, **options)
        return found

    monkeypatch.setattr(place, name, wrapped)


def listed(root: CopickRoot) -> list[str]:
    return [str(meta.session_id) for meta in stack_of(root).list(TS_1, PICKS)]  # type: ignore[attr-defined]


# Scans


def test_a_run_that_is_deleted_before_a_scan_comes_to_it(
    project: CopickRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan lists the runs first, and may come to this one minutes later."""
    for name in ("a", "b"):
        project.new_run(name).new_picks("ribosome", "1")
    other = indexed_again(project)
    once(monkeypatch, Writer, "_drop_runs", lambda *_: other.delete_run("b"))
    project.index_all_layers()
    assert [run.name for run in indexed_again(project).runs] == ["TS_1", "a"]


def test_a_scan_does_not_undo_a_later_one(
    project: CopickRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = indexed_again(project)

    def late(self: Writer, layer: Any, *_: Any, **__: Any) -> None:
        if layer.name == "archive" and self is stack_of(project).writer:
            run_of(alone(tmp_path / "archive")).new_picks("ribosome", "9")
            other.index_all_layers()

    real = Writer._write

    def write(self: Writer, layer: Any, looks: Any) -> None:
        late(self, layer)
        real(self, layer, looks)

    monkeypatch.setattr(Writer, "_write", write)
    project.index_all_layers(full=True)
    assert sessions(indexed_again(project)) == ["0", "9"]


def test_a_name_that_is_given_to_another_place_during_a_scan(
    project: CopickRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may run on with the config of yesterday: what it scans is not taken for what is there today."""
    alone(tmp_path / "elsewhere").new_run("OTHER").new_picks("ribosome", "2")
    layers = {
        "work": {"config_type": "filesystem", "root": str(tmp_path / "work")},
        "archive": {"config_type": "filesystem", "root": str(tmp_path / "elsewhere"), "read_only": True},
    }
    moved = indexed(tmp_path, layer_configs=layers)

    def late(self: Writer, layer: Any, *_: Any) -> None:
        if layer.name == "archive":
            monkeypatch.undo()
            moved.index_all_layers()

    real = Writer._drop_runs

    def drop_runs(self: Writer, layer: Any, *args: Any) -> None:
        real(self, layer, *args)
        late(self, layer)

    monkeypatch.setattr(Writer, "_drop_runs", drop_runs)
    with pytest.raises(LayerError, match=r"layer 'archive' went from the index.*another project"):
        project.index_all_layers(full=True)
    again = indexed_again(moved)
    assert [run.name for run in again.find_objects("runs")["runs"]] == ["OTHER"]
    assert again.layer_status()["archive"]["problem"] is None


# Writes


def test_what_was_deleted_and_made_again_is_empty(
    project: CopickRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever deletes it finds it there again when the index is told; what was in it is gone all the same."""
    run = project.new_run("a")
    run.new_picks("ribosome", "1")
    run.new_voxel_spacing(10).new_tomogram("wbp").new_features("unet")
    other = indexed_again(project)
    layer = stack_of(project)["work"]

    def late(*_: Any) -> None:
        other.refresh()
        other.new_run("a")

    once(monkeypatch, type(layer), "delete", late)
    run.delete()
    again = indexed_again(project)
    assert [run.name for run in again.runs] == ["TS_1", "a"]
    for name, found in again.find_objects(run_name="a").items():
        assert [item.ref for item in found] == ([Ref(RUN, ("a",))] if name == "runs" else [])


# Listings


def test_a_listing_that_is_read_beside_a_write(project: CopickRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one thread read before another wrote does not count after the other has listed it anew."""
    stack = stack_of(project)
    picks = PICKS.ref(PICKS.meta_of(("ribosome", "me", "5")), TS_1)

    def write(*_: Any) -> None:
        stack.save(picks, b'{"pickable_object_name": "ribosome", "user_id": "me", "session_id": "5"}')
        assert sorted(listed(project)) == ["0", "5"]

    once(monkeypatch, Reader, "ahead", write)
    assert listed(project) == ["0"]
    assert sorted(listed(project)) == ["0", "5"]


def test_a_connection_that_was_opened_anew(project: CopickRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has seen no changes, as the one before; what that was used to read does not count all the same."""
    monkeypatch.setattr(stack_module, "FRESH_S", 0.0)
    other = indexed_again(project)
    held = ["0"]
    for session in "12345":
        assert sorted(listed(project)) == held
        stack_of(project).database.close()
        run_of(other).new_picks("ribosome", session)
        held.append(session)
        assert sorted(listed(project)) == held


def test_what_is_refreshed_while_it_is_looked_at(
    project: CopickRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update in the background takes its time; what was refreshed again meanwhile may have changed after it was looked at."""
    project.refresh()

    def late(*_: Any, **__: Any) -> None:
        run_of(alone(tmp_path / "archive")).new_picks("ribosome", "9")
        project.refresh()

    once(monkeypatch, Writer, "update", late)
    stack_of(project).update()
    assert sorted(picks.session_id for picks in run_of(project).picks) == ["0", "9"]
    assert sessions(project) == ["0", "9"]
