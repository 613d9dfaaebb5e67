"""Changes that wait in the cache while others change the same: neither version is lost unasked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import copick
from copick.errors import ConflictError, LayerError
from copick.layers import bases
from copick.testing.s3_server import S3Server
from projects import OBJECTS

if TYPE_CHECKING:
    from pathlib import Path

    from copick.models import CopickRoot

pytestmark = pytest.mark.usefixtures("own_managers")

VOXELS = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
REFUSED = (
    r"was changed in layer 'work' since the change that waits in 'cache' was begun; both are as they were"
)


def project(folder: Path, work: dict[str, Any] | None = None, **cache: Any) -> CopickRoot:
    """One layer, and a cache folder where changes wait."""
    config = {
        "config_type": "multilayer",
        "user_id": "me",
        "pickable_objects": OBJECTS,
        "write_strategy": "cache",
        "layers": ["work", "cache"],
        "layer_configs": {
            "work": {"config_type": "filesystem", **(work or {"root": str(folder / "work")})},
            "cache": {
                "config_type": "cache",
                "root": str(folder / "cache"),
                "parent_layer": "*",
                "propagate": False,
                **cache,
            },
        },
    }
    return copick.from_string(json.dumps(config))


def others(folder: Path) -> CopickRoot:
    """The layer as those see it who know nothing of the cache."""
    config = {"config_type": "filesystem", "root": str(folder / "work"), "user_id": "me"}
    return copick.from_string(json.dumps({**config, "pickable_objects": OBJECTS}))


class Kind:
    """An entity that is written with a number."""

    def write(self, root: CopickRoot, value: int) -> None:
        raise AssertionError

    def read(self, root: CopickRoot) -> int:
        raise AssertionError


class Picks(Kind):
    def write(self, root: CopickRoot, value: int) -> None:
        run = root.new_run("R1", exist_ok=True)
        picks = run.new_picks("ribosome", "1", exist_ok=True)
        picks.from_numpy(np.array([[value, 0.0, 0.0]]))

    def read(self, root: CopickRoot) -> int:
        run = root.get_run("R1")
        assert run is not None
        return int(run.query_picks()[0].numpy()[0][0, 0])


class Tomogram(Kind):
    def write(self, root: CopickRoot, value: int) -> None:
        run = root.new_run("R1", exist_ok=True)
        spacing = run.new_voxel_spacing(10.0, exist_ok=True)
        spacing.new_tomogram("wbp", exist_ok=True).from_numpy(VOXELS + value, levels=1)

    def read(self, root: CopickRoot) -> int:
        run = root.get_run("R1")
        assert run is not None
        return int(run.voxel_spacings[0].tomograms[0].numpy()[0, 0, 0])


KINDS = pytest.mark.parametrize("kind", [Picks(), Tomogram()], ids=["picks", "tomogram"])


@KINDS
def test_what_others_changed_is_not_replaced_unasked(tmp_path: Path, kind: Kind) -> None:
    kind.write(others(tmp_path), 1)
    kind.write(project(tmp_path), 2)
    kind.write(others(tmp_path), 3)
    root = project(tmp_path)
    for _ in range(2):
        with pytest.raises(ConflictError, match=REFUSED):
            root.flush()
        assert kind.read(project(tmp_path)) == 2
        assert kind.read(others(tmp_path)) == 3
    assert len(root.flush(force=True)) >= 1
    assert kind.read(others(tmp_path)) == 2
    assert root.flush() == []


@KINDS
def test_the_change_that_waits_can_be_given_up(tmp_path: Path, kind: Kind) -> None:
    kind.write(others(tmp_path), 1)
    kind.write(project(tmp_path), 2)
    kind.write(others(tmp_path), 3)
    run: Any = project(tmp_path).get_run("R1", layers="cache")
    each = run.picks[0] if isinstance(kind, Picks) else run.voxel_spacings[0].tomograms[0]
    each.delete()
    root = project(tmp_path)
    root.flush()
    root.refresh()
    assert kind.read(others(tmp_path)) == 3
    kind.write(root, 4)  # begins from what is there now
    root.flush()
    assert kind.read(others(tmp_path)) == 4


@KINDS
def test_what_others_made_meanwhile_is_not_replaced(tmp_path: Path, kind: Kind) -> None:
    kind.write(project(tmp_path), 2)
    kind.write(others(tmp_path), 3)
    with pytest.raises(ConflictError, match=REFUSED):
        project(tmp_path).flush()
    assert kind.read(others(tmp_path)) == 3


@KINDS
def test_what_nobody_changed_is_passed_on_however_often_it_was_changed_here(
    tmp_path: Path, kind: Kind
) -> None:
    kind.write(others(tmp_path), 1)
    for value in (2, 3):
        kind.write(project(tmp_path), value)
    assert kind.read(others(tmp_path)) == 1
    project(tmp_path).flush()
    assert kind.read(others(tmp_path)) == 3
    for value in (4, 5):
        kind.write(project(tmp_path, propagate=True), value)
        assert kind.read(others(tmp_path)) == value
    assert not list((tmp_path / "cache").rglob(bases.FOLDER))


@KINDS
def test_what_others_deleted_is_there_again(tmp_path: Path, kind: Kind) -> None:
    kind.write(others(tmp_path), 1)
    kind.write(project(tmp_path), 2)
    run: Any = others(tmp_path).get_run("R1")
    (run.picks[0] if isinstance(kind, Picks) else run.voxel_spacings[0].tomograms[0]).delete()
    project(tmp_path).flush()
    assert kind.read(others(tmp_path)) == 2


@KINDS
def test_what_was_passed_on_when_the_process_ended_is_no_conflict(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind.write(others(tmp_path), 1)
    kind.write(project(tmp_path), 2)
    root: Any = project(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(bases.Bases, "passed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            root.flush()
    assert kind.read(others(tmp_path)) == 2
    assert project(tmp_path).flush() != []
    assert project(tmp_path).flush() == []


def test_descriptions(tmp_path: Path) -> None:
    def description(root: CopickRoot, text: str | None = None) -> str | None:
        run = root.new_run("R1", exist_ok=True)
        if text is not None:
            run.description = text
            run.store()
        return run.description

    others(tmp_path).new_run("R1")
    description(project(tmp_path), "ours")
    description(others(tmp_path), "theirs")
    with pytest.raises(ConflictError, match=REFUSED):
        project(tmp_path).flush()
    assert description(others(tmp_path)) == "theirs"
    project(tmp_path).flush(force=True)
    assert description(others(tmp_path)) == "ours"


def test_a_change_begins_from_what_was_read(tmp_path: Path) -> None:
    """Not from what is there by then, which nobody here has seen."""
    kind = Picks()
    kind.write(others(tmp_path), 1)
    root = project(tmp_path)
    assert kind.read(root) == 1
    kind.write(others(tmp_path), 3)
    kind.write(root, 2)
    with pytest.raises(ConflictError, match=REFUSED):
        root.flush()


def test_passing_on_at_once_replaces_nothing_either(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind = Picks()
    kind.write(others(tmp_path), 1)
    root = project(tmp_path, propagate=True)
    assert kind.read(root) == 1
    kind.write(others(tmp_path), 3)
    kind.write(root, 2)
    assert "is kept in 'cache' until flush() can pass it on" in caplog.text
    assert (kind.read(root), kind.read(others(tmp_path))) == (2, 3)


def test_a_change_begun_while_its_target_cannot_be_reached(tmp_path: Path) -> None:
    """What was there cannot be known, so it is not replaced; what was not there is made."""
    down = False
    with S3Server(fault=lambda request: 500 if down else None) as server:
        server.put("conflicts", {})
        retries = {"retries": {"max_attempts": 1, "mode": "standard"}}
        work = {"root": "s3://conflicts", "fs_args": {**server.fs_args, "config_kwargs": retries}}
        there = copick.from_string(
            json.dumps({"config_type": "filesystem", **work, "user_id": "me", "pickable_objects": OBJECTS})
        )
        Tomogram().write(there, 1)
        root = project(tmp_path, work)
        assert [run.name for run in root.runs] == ["R1"]
        run = root.get_run("R1")
        assert run is not None
        assert [t.tomo_type for t in run.voxel_spacings[0].tomograms] == ["wbp"]
        assert run.picks == []
        down = True
        Picks().write(root, 2)
        Tomogram().write(root, 2)
        with pytest.raises(LayerError):
            root.flush()
        down = False
        with pytest.raises(ConflictError, match=r"wbp' may have been changed in layer 'work'"):
            project(tmp_path, work).flush()
        there.refresh()
        assert (Picks().read(there), Tomogram().read(there)) == (2, 1)
        project(tmp_path, work).flush(force=True)
        there.refresh()
        assert Tomogram().read(there) == 2
