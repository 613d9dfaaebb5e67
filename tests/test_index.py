"""An index of what layers hold: it is asked first, own writes change it at once, and it reads only what has changed."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import copick
from copick.cli.cli import cli
from copick.config import CopickConfigSQLiteDB, parse_config
from copick.errors import ConfigError, FormatError, LayerError, NotFoundError, ReadOnlyError
from copick.impl.sqlite_db import CopickRootSQLiteDB
from copick.index import looks, writer
from copick.index.reader import Reader
from copick.index.stack import IndexedStack
from copick.layers.filesystem import FilesystemLayer
from projects import VOLUME, alone, opened, run_of, tomogram_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.models import CopickRoot


def indexed(folder: Path, **fields: Any) -> CopickRoot:
    """A work layer over an archive, with an index that nothing updates by itself."""
    db = {"db_path": str(folder / "index.db"), "auto_index": False}
    return opened(folder, **{"db_config": db, **fields})


def stack_of(root: CopickRoot) -> IndexedStack:
    assert isinstance(root.layer, IndexedStack)
    return root.layer


@pytest.fixture
def project(root: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[CopickRoot]:
    """One with a run in the archive, indexed; the index is asked throughout."""
    made = indexed(tmp_path)
    made.index_all_layers()
    yield made
    assert "asked instead of the index" not in caplog.text


def sessions(root: CopickRoot, **criteria: Any) -> list[str]:
    return sorted(picks.session_id for picks in root.find_objects("picks", **criteria)["picks"])


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read for the index."""
    read: list[str] = []
    real = looks.describe

    def describe(layer: Any, ref: Any, meta: Any) -> Any:
        read.append(f"{layer.name} {ref}")
        return real(layer, ref, meta)

    monkeypatch.setattr(looks, "describe", describe)
    return read


def age(folder: Path) -> None:
    """Make files as old as those that are told apart by their times."""
    long_ago = time.time() - 1000
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (long_ago, long_ago))


# Listing and writing


def test_nothing_is_opened(project: CopickRoot, tmp_path: Path) -> None:
    """Listing and finding need no layer at all."""
    (tmp_path / "archive").rename(tmp_path / "away")
    (tmp_path / "archive").mkdir()
    root = indexed_again(project)
    (run,) = root.runs
    assert [(p.user_id, p.sources) for p in run.picks] == [("tool", ["archive"])]
    assert [t.tomo_type for s in run.voxel_spacings for t in s.tomograms] == ["wbp"]
    assert root.get_run("TS_1") is not None
    (found,) = root.find_objects("picks", point_count=1)["picks"]
    assert found.pickable_object_name == "ribosome"
    ((picks, indices, where),) = root.find_points(near=[1, 2, 3], radius=0)
    assert (picks, indices.tolist(), where.tolist()) == (found, [0], [[1, 2, 3]])
    (tmp_path / "archive").rmdir()
    (tmp_path / "away").rename(tmp_path / "archive")
    assert np.array_equal(tomogram_of(root).numpy(), VOLUME)


def test_a_run_is_asked_for_alone(project: CopickRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants one of thousands by its name does not list them all, each time."""
    listed: list[Any] = []
    monkeypatch.setattr(Reader, "top", lambda self, kind: listed.append(kind))
    assert run_of(project).picks[0].sources == ["archive"]
    assert project.get_run("TS_2") is None
    assert listed == []


def test_features_say_of_which_tomogram_they_are(project: CopickRoot) -> None:
    tomogram_of(project).new_features("unet").from_numpy(VOLUME)
    for root in (project, indexed_again(project)):
        (features,) = tomogram_of(root).features
        (found,) = root.find_objects("features")["features"]
        assert [each.tomo_type for each in (features, features.meta, found, found.meta)] == ["wbp"] * 4


def indexed_again(root: CopickRoot) -> CopickRoot:
    return type(root)(root.config)


def test_own_writes_are_found_at_once_by_everybody(project: CopickRoot) -> None:
    other = indexed_again(project)
    run = run_of(project)
    run.new_picks("ribosome", "7").from_numpy([[5, 5, 5], [6, 6, 6]])
    run.new_segmentation(10, "membrane", "7").from_numpy(VOLUME > 5)
    new = project.new_run("TS_2")
    new.description = "a lamella"
    new.store()
    for root in (project, other, indexed_again(project)):
        assert sessions(root, user_id="me", point_count=2) == ["7"]
        assert [
            s.session_id for s in root.find_objects("segmentations", nx=7, user_id="me")["segmentations"]
        ] == ["7"]
        assert [run.name for run in root.search("lame")["runs"]] == ["TS_2"]
    assert [run.name for run in other.runs] == ["TS_1", "TS_2"]
    run.delete_picks(user_id="me")
    project.delete_run("TS_2")
    for root in (project, other, indexed_again(project)):
        assert sessions(root) == ["0"]
        assert root.search("lamella")["runs"] == []
    other.refresh()
    assert [run.name for run in other.runs] == ["TS_1"]


def test_writes_through_some_layers_and_pending_ones(
    root: CopickRoot, tmp_path: Path, own_managers: None
) -> None:
    project = indexed(
        tmp_path,
        write_strategy="cache",
        cache_config={"root": str(tmp_path / "cache"), "parent_layer": "archive", "propagate": False},
    )
    project.index_all_layers()
    run_of(project).new_picks("ribosome", "waits")
    run_of(project).new_picks("ribosome", "direct", layers="work")
    assert sessions(indexed_again(project), user_id="me") == ["direct", "waits"]
    assert sessions(project, layer="cache") == ["waits"]
    project.flush()
    assert sessions(project, layer="work") == ["direct", "waits"]
    assert sessions(project, layer="cache") == []


def test_what_was_refreshed_is_asked_of_the_layers(project: CopickRoot, tmp_path: Path) -> None:
    other = alone(tmp_path / "archive")
    run_of(other).new_picks("ribosome", "9").from_numpy([[1, 1, 1]])
    other.new_run("TS_9")
    assert [run.name for run in project.runs] == ["TS_1"]  # the index is older
    project.refresh()
    assert [run.name for run in project.runs] == ["TS_1", "TS_9"]
    assert [p.session_id for p in run_of(project).picks] == ["9", "0"]
    assert sessions(indexed_again(project)) == ["0"]
    assert sessions(project) == ["0", "9"]  # looks at what was refreshed
    assert sessions(indexed_again(project)) == ["0", "9"]
    run_of(other).delete_picks(session_id="9")
    run_of(project).refresh()
    assert sessions(project) == ["0"]


def test_what_was_refreshed_is_looked_at_together(
    project: CopickRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the runs are listed, which are many."""
    for name in "abc":
        project.new_run(name)
    for run in project.runs:
        run.refresh()
    asked: list[str] = []
    real = FilesystemLayer.stamps

    def stamps(self: FilesystemLayer, parent: Any, kind: Any) -> Any:
        if parent is None:
            asked.append(f"{self.name} {kind.name}")
        return real(self, parent, kind)

    monkeypatch.setattr(FilesystemLayer, "stamps", stamps)
    assert sessions(project) == ["0"]
    assert asked == ["work run", "archive run"]


def test_a_write_believes_the_layers(project: CopickRoot, tmp_path: Path) -> None:
    """What the index says is there, and is not, does not keep anybody from making it."""
    project.new_run("TS_2").new_picks("ribosome", "1")
    root = indexed_again(project)
    run = root.get_run("TS_2")
    assert run is not None
    shutil.rmtree(tmp_path / "work" / "ExperimentRuns" / "TS_2")
    assert run.ensure()  # as the index says
    run.store()
    assert (tmp_path / "work" / "ExperimentRuns" / "TS_2").is_dir()
    root.index_all_layers()
    assert root.find_objects(run_name="TS_2")["picks"] == []


# Scans


def test_an_update_reads_what_has_changed(project: CopickRoot, tmp_path: Path, described: list[str]) -> None:
    other = alone(tmp_path / "archive")
    for at in range(4):
        other.new_run(f"R{at}").new_picks("ribosome", "1").from_numpy([[at, 0, 0]])
    age(tmp_path / "archive")
    project.index_all_layers()
    described.clear()
    project.index_all_layers()
    assert described == []
    path = tmp_path / "archive" / "ExperimentRuns" / "R2" / "Picks" / "them_1_ribosome.json"
    document = json.loads(path.read_text())
    document["points"] *= 3
    path.write_text(json.dumps(document))  # in place: the folder does not change
    project.index_all_layers()
    assert described == ["archive picks 'R2/ribosome_them_1'"]
    assert [p.run.name for p in project.find_objects("picks", point_count=3)["picks"]] == ["R2"]
    described.clear()
    project.index_all_layers(full=True)
    assert len(described) == 13


def test_folders_that_are_called_otherwise(project: CopickRoot, tmp_path: Path) -> None:
    """An index says what they are called: nobody lists them."""
    run = tmp_path / "archive" / "ExperimentRuns" / "TS_1"
    (run / "VoxelSpacing10.000").rename(run / "VoxelSpacing10")
    project.index_all_layers()
    (tomogram,) = indexed_again(project).find_objects("tomograms")["tomograms"]
    assert tomogram.sources == ["archive"]
    assert np.array_equal(tomogram.numpy(), VOLUME)


def test_arrays_are_looked_at_again(project: CopickRoot, tmp_path: Path, described: list[str]) -> None:
    age(tmp_path / "archive")
    project.index_all_layers()
    described.clear()
    tomogram_of(alone(tmp_path / "archive")).from_numpy(np.zeros((2, 3, 4), np.float32), levels=1)
    project.index_all_layers()
    assert described == ["archive tomogram 'TS_1/10.000/wbp'"]
    assert len(project.find_objects("tomograms", nz=2, ny=3, nx=4)["tomograms"]) == 1


def test_one_layer_and_its_status(root: CopickRoot, tmp_path: Path) -> None:
    project = indexed(tmp_path)
    assert not project.layer_status()["work"]["indexed"]
    assert "make it with" in project.layer_status()["work"]["problem"]
    assert project.index_layer("archive")["picks"] == 1
    status = project.layer_status()
    assert [status[name]["indexed"] for name in ("work", "archive")] == [False, True]
    assert (status["archive"]["entities"], status["archive"]["problem"]) == (5, None)
    assert time.time() - 100 < status["archive"]["scanned_at"] < time.time()
    with pytest.raises(NotFoundError, match="there is no layer 'nope'"):
        project.index_layer("nope")
    assert root.layer_status()["work"]["problem"] == "the project has no index"


def test_looking_at_one_layer_looks_at_no_other(
    project: CopickRoot, tmp_path: Path, described: list[str]
) -> None:
    """Nor does what is asked next."""
    _ = project.runs
    run_of(alone(tmp_path / "archive")).new_picks("ribosome", "9")
    alone(tmp_path / "work").new_run("TS_1").new_picks("ribosome", "8")
    assert project.index_layer("work")["picks"] == 1
    assert [line.split()[0] for line in described] == ["work", "work"]
    assert [picks.session_id for picks in run_of(project).picks] == ["8", "0"]
    assert sessions(project) == ["0", "8"]
    project.index_all_layers()
    assert sessions(project) == ["0", "8", "9"]


def test_a_layer_that_cannot_be_asked_keeps_what_is_known(project: CopickRoot, tmp_path: Path) -> None:
    run_of(project).new_picks("ribosome", "1")
    (tmp_path / "archive").rename(tmp_path / "away")
    with pytest.raises(LayerError, match=r"layer 'archive'.*no such directory"):
        project.index_all_layers()
    assert "no such directory" in project.layer_status()["archive"]["problem"]
    (tmp_path / "archive").mkdir()
    assert sessions(indexed_again(project)) == ["0", "1"]
    (tmp_path / "archive").rmdir()
    (tmp_path / "away").rename(tmp_path / "archive")
    project.index_all_layers()
    assert project.layer_status()["archive"]["problem"] is None


def test_another_place_under_the_same_name(project: CopickRoot, tmp_path: Path) -> None:
    """What was known of a layer does not count for another one that is called the same."""
    elsewhere = tmp_path / "elsewhere"
    alone(elsewhere).new_run("OTHER")
    layers = {
        "work": {"config_type": "filesystem", "root": str(tmp_path / "work")},
        "archive": {"config_type": "filesystem", "root": str(elsewhere), "read_only": True},
    }
    moved = indexed(tmp_path, layer_configs=layers)
    assert [run.name for run in moved.runs] == ["OTHER"]
    moved.index_all_layers()
    assert [run.name for run in moved.find_objects("runs")["runs"]] == ["OTHER"]
    with stack_of(moved).database.reading() as db:
        assert db.execute("SELECT count(*) FROM entities").fetchone() == (1,)


def test_another_place_without_a_run_that_others_have(tmp_path: Path) -> None:
    """What one layer held is not listed as what its successor holds, though nothing else in the run has changed."""
    for name in ("work", "before"):
        alone(tmp_path / name).new_run("TS_1").new_picks("ribosome", "1", name)
    (tmp_path / "after").mkdir()
    age(tmp_path / "work")
    for archive, held in (("before", ["before", "work"]), ("after", ["work"])):
        layers = {
            "work": {"config_type": "filesystem", "root": str(tmp_path / "work")},
            "archive": {"config_type": "filesystem", "root": str(tmp_path / archive), "read_only": True},
        }
        root = indexed(tmp_path, layer_configs=layers)
        root.index_all_layers()
        assert [picks.user_id for picks in run_of(root).picks] == held


def test_a_scan_does_not_undo_what_is_written_meanwhile(
    project: CopickRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = indexed_again(project)
    real = writer.Writer._write

    def late(self: Any, layer: Any, looks: Any) -> None:
        if layer.name == "work" and not sessions(other, user_id="me"):
            run_of(other).new_picks("ribosome", "meanwhile")
        real(self, layer, looks)

    run_of(project).new_segmentation(10, "membrane", "2")
    monkeypatch.setattr(writer.Writer, "_write", late)
    project.index_all_layers(full=True)
    assert sessions(indexed_again(project), user_id="me") == ["meanwhile"]


def test_a_cache_forgets_what_a_scan_finds_changed(
    root: CopickRoot, tmp_path: Path, own_managers: None
) -> None:
    project = indexed(tmp_path, cache_config={"root": str(tmp_path / "cache"), "parent_layer": "archive"})
    project.index_all_layers()
    assert len(run_of(project).picks[0].points) == 1
    run_of(alone(tmp_path / "archive")).picks[0].from_numpy([[1, 1, 1], [2, 2, 2]])
    project.index_all_layers()
    (picks,) = project.find_objects("picks", point_count=2)["picks"]
    assert len(picks.points) == 2


def test_a_store_of_objects(
    s3_args: dict[str, Any], s3_bucket: str, tmp_path: Path, described: list[str]
) -> None:
    root = f"s3://{s3_bucket}/project"
    theirs = alone(root, fs_args=s3_args)  # type: ignore[arg-type]
    run = theirs.new_run("TS_1")
    run.new_voxel_spacing(10).new_tomogram("wbp").from_numpy(VOLUME, levels=1)
    run.new_picks("ribosome", "1").from_numpy([[1, 2, 3]])
    layers = {"work": {"config_type": "filesystem", "root": root, "fs_args": s3_args}}
    project = indexed(tmp_path, layers=["work"], layer_configs=layers)
    project.index_all_layers()
    assert sessions(project, point_count=1) == ["1"]
    described.clear()
    project.index_all_layers()
    assert described == []
    run.new_picks("ribosome", "2").from_numpy([[1, 2, 3], [4, 5, 6]])
    project.index_all_layers()
    assert described == ["work picks 'TS_1/ribosome_them_2'"]
    run_of(project).new_picks("ribosome", "3")
    assert sessions(indexed_again(project)) == ["1", "2", "3"]


def test_in_the_background(root: CopickRoot, tmp_path: Path) -> None:
    """`auto_index` makes an index and keeps it up to date while the project is in use."""
    db = {"db_path": str(tmp_path / "index.db"), "auto_index": True, "index_interval": 0.05}
    project = [indexed(tmp_path, db_config=db)]
    assert [run.name for run in project[0].runs] == ["TS_1"]
    wait_for(lambda: all(known["indexed"] for known in project[0].layer_status().values()))
    alone(tmp_path / "archive").new_run("TS_2")
    wait_for(lambda: len(indexed_again(project[0]).runs) == 2)
    project.clear()
    wait_for_no_watchers()


def wait_for_no_watchers() -> None:
    wait_for(lambda: gc.collect() >= 0 and not watchers())


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "copick-index"]


def test_a_project_that_is_left_leaves_no_thread(project: CopickRoot, tmp_path: Path) -> None:
    db = {"db_path": str(tmp_path / "index.db"), "auto_index": True}
    opened_often = [indexed(tmp_path, db_config=db) for _ in range(5)]
    assert [len(each.runs) for each in opened_often] == [1] * 5
    wait_for(lambda: len(watchers()) == 5)
    del opened_often
    wait_for_no_watchers()


def test_who_scans_slowly_goes_on_scanning_alone(
    project: CopickRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it rests, for longer than a process may be silent."""
    for at in range(3):
        project.new_run(f"R{at}")
    monkeypatch.setattr(writer, "LEASE_S", 0.2)
    own = stack_of(project)
    assert own.writer.lease()
    monkeypatch.setattr(writer, "BATCH", 1)
    monkeypatch.setattr(looks, "describe", slowly(looks.describe))
    done = threading.Thread(target=own.update, kwargs={"full": True, "workers": 1, "pace": 4.0})
    done.start()
    until = []
    while done.is_alive():
        with own.database.reading() as db:
            until.append(db.execute("SELECT until FROM lease").fetchone()[0] - time.time())
        time.sleep(0.02)
    assert min(until[:-3]) > 0


def slowly(function: Any) -> Any:
    def call(*args: Any) -> Any:
        time.sleep(0.05)
        return function(*args)

    return call


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Processes


def ask(connection: Any, root: CopickRoot) -> None:
    connection.send((sessions(root), stack_of(root)._complained))
    run_of(root).new_picks("ribosome", "child")
    connection.send(sessions(root))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_other_processes(project: CopickRoot, method: str) -> None:
    """While threads of this one are inside the database."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            sessions(project)
            project.search("ribo")

    threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context(method)
    try:
        for _ in range(5 if method == "fork" else 1):
            mine, theirs = context.Pipe()
            process = context.Process(target=ask, args=(theirs, project))
            process.start()
            assert mine.poll(60)
            assert mine.recv() in ((["0"], False), (["0", "child"], False))
            assert mine.poll(60)
            assert mine.recv() == ["0", "child"]
            process.join(60)
            assert process.exitcode == 0
            run_of(project).refresh()
            run_of(project).delete_picks(session_id="child")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sessions(project) == ["0"]


def test_a_pickled_project_has_its_index(project: CopickRoot) -> None:
    copy = pickle.loads(pickle.dumps(project))
    assert sessions(copy) == ["0"]
    run_of(copy).new_picks("ribosome", "5")
    assert sessions(project) == ["0", "5"]
    narrow = pickle.loads(pickle.dumps(project.on("work")))
    narrow.new_run("TS_1", exist_ok=True).new_picks("ribosome", "6")
    assert sessions(project) == ["0", "5", "6"]


# Questions


def test_metadata_and_authors(project: CopickRoot, tmp_path: Path) -> None:
    run = tmp_path / "archive" / "ExperimentRuns" / "TS_1"
    said = {
        "grid": {"name": "B", "squares": [4, 7]},
        "authors": [{"name": "Ada"}],
        "dose": 3.14159,
        "flag": True,
    }
    (run / ".meta").write_text(json.dumps(said))
    path = run / "Picks" / "tool_0_ribosome.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "software": {"name": "pytom", "author": "Bob"}})
    )
    project.index_all_layers()
    for root in (project, alone(tmp_path / "archive")):
        for metadata, found in (
            ({"grid.name": "B"}, ["runs"]),
            ({"grid.squares": 7, "dose": 3.142}, ["runs"]),
            ({"flag": True}, ["runs"]),
            ({"software.name": ["x", "pytom"]}, ["picks"]),
            ({"grid.name": "b"}, []),
            ({"\udcff": "\udcff"}, []),
        ):
            hits = root.find_objects(metadata=metadata)
            assert [name for name, items in hits.items() if items] == found
        assert len(root.find_objects("runs", author="Ada")["runs"]) == 1
        assert len(root.find_objects("picks", author=["Bob", "Ada"])["picks"]) == 1
        assert [run.name for run in root.search("ADA b")["runs"]] == ["TS_1"]


def test_ranking_and_limits(project: CopickRoot) -> None:
    for name in ("tomo-1", "tomo-10", "tomo-100-b", "tomo-1-a"):
        project.new_run(name)
    plain = type(project)(project.config.model_copy(update={"db_config": None}))
    for root in (project, plain):
        assert [run.name for run in root.search("tomo 1")["runs"]] == [
            "tomo-1",
            "tomo-1-a",
            "tomo-10",
            "tomo-100-b",
        ]
        assert [run.name for run in root.search("tomo 1", "runs", limit=2)["runs"]] == ["tomo-1", "tomo-1-a"]
        assert [run.name for run in root.find_objects("runs", limit=2)["runs"]] == ["TS_1", "tomo-1"]


def test_where_points_are(project: CopickRoot) -> None:
    run = run_of(project)
    shifted = np.tile(np.eye(4), (2, 1, 1))
    shifted[1, :3, 3] = 10
    run.new_picks("ribosome", "1").from_numpy([[0, 0, 0], [0, 0, 0]], shifted)
    plain = type(project)(project.config.model_copy(update={"db_config": None}))
    for root in (project, plain):
        assert [
            (f.picks.session_id, f.indices.tolist()) for f in root.find_points([9, 9, 9], [11, 11, 11])
        ] == [("1", [1])]
        assert [
            f.positions.tolist() for f in root.find_points(near=[10, 10, 11], radius=1, user_id="me")
        ] == [[[10] * 3]]
        assert root.find_points(high=[-1, 0, 0]) == []
        assert len(root.find_points(low=[-1, -1, -1])) == 2
        for wrong in (
            {},
            {"near": [1, 2, 3]},
            {"near": [1, 2, 3], "radius": 1, "low": [0, 0, 0]},
            {"low": [1, 2]},
        ):
            with pytest.raises(ValueError, match="x, y, z"):
                root.find_points(**wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="picks have no field 'nx'"):
            root.find_points([0, 0, 0], nx=3)


def test_the_surface_of_a_ball_belongs_to_it(project: CopickRoot) -> None:
    """However the bounds of the box around it are rounded."""
    run_of(project).new_picks("ribosome", "1").from_numpy([[7.537869, 0, 0]])
    ((_, _, where),) = project.find_points(session_id="1", low=[0, 0, 0])
    for x in np.linspace(-20, 0, 99):
        near, radius = [x, 0, 0], float(where[0, 0]) - x
        assert len(project.find_points(near=near, radius=radius, session_id="1")) == 1


def test_points_that_are_nowhere_hide_no_others(project: CopickRoot, tmp_path: Path) -> None:
    run = run_of(alone(tmp_path / "archive"))
    for session, wheres in (("nan", [[-7, 1, 1], [50, 50, 50]]), ("none", [[-7, -7, -7]])):
        run.new_picks("ribosome", session).from_numpy(wheres)
    for file in (tmp_path / "archive/ExperimentRuns/TS_1/Picks").iterdir():
        file.write_text(file.read_text().replace("-7.0", "NaN"))  # as Python's json writes it
    project.index_all_layers()
    ((picks, indices, _),) = project.find_points([40] * 3, [60] * 3)
    assert (picks.session_id, indices.tolist()) == ("nan", [1])
    assert sessions(project, point_count=1) == ["0", "none"]


def test_folders_of_sizes_that_are_none(
    project: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "archive/ExperimentRuns/TS_1/VoxelSpacing0.0001").mkdir()
    project.index_all_layers()
    assert [s.voxel_size for s in project.find_objects("voxel_spacings")["voxel_spacings"]] == [10.0]
    assert "VoxelSpacing0.0001" in caplog.text
    with pytest.raises(FormatError, match=r"voxel_size .* greater than 0"):
        run_of(project).new_voxel_spacing(0.0001)


def test_what_belongs_together(project: CopickRoot) -> None:
    project.new_run("TS_2").new_voxel_spacing(5).new_tomogram("raw")
    picks = project.find_objects("picks")["picks"]
    found = project.find_related(picks, "tomograms")
    assert [(t.tomo_type, t.voxel_spacing.run.name) for t in found["tomograms"]] == [("wbp", "TS_1")]
    (tomogram,) = found["tomograms"]
    assert project.find_related(tomogram, ["picks"], user_id="tool")["picks"] == picks
    assert project.find_related([], "picks") == {"picks": []}


TEXTS = st.one_of(
    st.text(max_size=20),
    st.lists(
        st.sampled_from(
            ["ribo", "ts", "1", "*", '"', "'", "OR", "NOT", "NEAR(", ")", "-", "^", ":", "🦠", "é", "--", ";"]
        ),
        max_size=6,
    ).map(" ".join),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
@example("'; DROP TABLE entities; --")
@example('ribosome" OR "a')
@example("rib*")
@example("name : x")
@example("NEAR(ribosome tool, 2)")
@example("a" * 5000)
@example("\x00\udcff ribosome")
@example(" ".join(f"w{n}" for n in range(2000)))
@example("🦠 ǅ ß İ ﬁ ₂")
def test_any_text_is_only_text(project: CopickRoot, text: str) -> None:
    plain = type(project)(project.config.model_copy(update={"db_config": None}))
    answers = []
    for root in (project, plain):
        try:
            hits = {
                name: [str(getattr(item, "ref", item)) for item in items]
                for name, items in root.search(text).items()
                if name != "objects"
            }
        except ValueError as error:
            hits = str(error)  # type: ignore[assignment]
        values = {
            "name": text,
            "user_id": [text, "tool"],
            "author": text,
            "metadata": {text: text},
            "run_name": text,
            "layer": text,
        }
        found = [
            {
                name: [str(item.ref) for item in items]
                for name, items in root.find_objects(list(kinds), **{field: values[field]}).items()
            }
            for field, kinds in (
                ("user_id", ["picks"]),
                ("author", ["runs"]),
                ("metadata", ["runs"]),
                ("run_name", ["runs"]),
                ("layer", ["runs"]),
            )
        ]
        answers.append((hits, found))
    assert answers[0] == answers[1]


# Config, roots, commands


def test_where_an_index_is_stated(root: CopickRoot, tmp_path: Path) -> None:
    db = {"db_path": str(tmp_path / "index.db"), "auto_index": False}
    layers = {
        "db": {"config_type": "sqlite_db", "priority": 1000, **db},
        "work": {"config_type": "filesystem", "root": str(tmp_path / "work")},
        "archive": {"config_type": "filesystem", "root": str(tmp_path / "archive"), "read_only": True},
    }
    stated = opened(tmp_path, layers=list(layers), layer_configs=layers)
    beside = opened(tmp_path, db_config=db)
    for project in (stated, beside):
        assert project.layer_names == ["work", "archive"]
        project.index_all_layers()
        manager = project.layer_manager  # type: ignore[attr-defined]
        assert list(manager.layers) == ["db", "work", "archive"]
        assert manager.get_layer("db") is manager.db_layer
    saved = tmp_path / "saved.json"
    beside.save_config(saved)
    assert sessions(copick.from_file(saved)) == ["0"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"db_config": {"db_path": ""}}, "db_path"),
        ({"db_config": {"db_path": "s3://bucket/x.db"}}, "needs a local file"),
        ({"db_config": {"db_path": "x", "interval": 3}}, "interval: unknown key"),
        ({"db_config": {"db_path": "x", "index_interval": -1}}, "index_interval"),
        ({"db_config": {"db_path": "x", "layer_name": "a"}}, "is also a key of layer_configs"),
        ({"db_config": {"db_path": "x"}, "default_write_layer": "db"}, "no layer of this stack"),
        ({"layers": ["a", "i"], "default_write_layer": "i"}, "is the index"),
        ({"layers": ["a", "i"], "db_config": {"db_path": "x"}}, "is a second index"),
        (
            {"layers": ["i"], "layer_configs": {"i": {"config_type": "sqlite_db", "db_path": "x"}}},
            "at least one layer",
        ),
    ],
)
def test_configs_that_cannot_be(fields: dict[str, Any], problem: str) -> None:
    layers = {"a": {"config_type": "memory"}, "i": {"config_type": "sqlite_db", "db_path": "x"}}
    named = fields.get("layers", ["a"])
    config = {
        "config_type": "multilayer",
        "layers": ["a"],
        "layer_configs": {name: layers[name] for name in named},
        **fields,
    }
    with pytest.raises(ConfigError, match=problem):
        parse_config(config)


def test_the_root_of_an_index(project: CopickRoot, tmp_path: Path) -> None:
    root = project.layer_manager.db_layer  # type: ignore[attr-defined]
    assert isinstance(root, CopickRootSQLiteDB)
    assert [run.name for run in root.query()] == ["TS_1"]
    assert sessions(root) == ["0"]
    assert root.get_summary_statistics()["total"]["points"] == 1
    assert root.layer_status()["archive"]["indexed"]
    with pytest.raises(ReadOnlyError, match="no layer can be written"):
        run_of(root).new_picks("ribosome", "1", "me")
    with pytest.raises(ReadOnlyError, match="through the index"):
        run_of(root).picks[0].delete()
    with pytest.raises(ReadOnlyError, match="through the index"):
        run_of(root).picks[0].propagate("work")
    bare = CopickRootSQLiteDB(CopickConfigSQLiteDB(db_path=str(tmp_path / "index.db")))
    assert bare.query() == []
    bare.set_layer_manager(project.layer_manager)  # type: ignore[attr-defined]
    assert [run.name for run in bare.runs] == ["TS_1"]


def test_commands(root: CopickRoot, tmp_path: Path) -> None:
    indexed(tmp_path)
    config = ["--config", str(tmp_path / "project.json")]

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, [*arguments, *config])
        assert result.exit_code == code, result.output
        return result.output

    assert "never" in run("index", "status")
    assert "archive: 1 runs, 1 voxel spacings, 1 tomograms, 1 picks, 1 segmentations" in run("index", "build")
    assert json.loads(run("index", "update", "--json", "--layer", "archive"))["archive"]["picks"] == 1
    assert json.loads(run("index", "status", "--json"))["layers"]["archive"]["entities"] == 5
    assert "archive: 5 entities, looked at 2" in run("index", "status")
    assert "there is no layer 'x'" in run("index", "update", "--layer", "x", code=1)
    found = json.loads(run("search", "ribosome tool", "--json", "--type", "picks"))
    expected = {"run": "TS_1", "pickable_object_name": "ribosome", "user_id": "tool", "session_id": "0"}
    assert found == {"picks": [expected]}
    assert "run=TS_1, pickable_object_name=ribosome" in run("search", "ribosome tool")
    assert json.loads(run("find", "session_id=0", "point_count_min=1", "--json"))["picks"] == [expected]
    assert json.loads(
        run("find", "voxel_size=10", "nx=7", "--type", "tomograms", "--json", "--limit", "1")
    ) == {"tomograms": [{"run": "TS_1", "voxel_size": 10.0, "tomo_type": "wbp"}]}
    assert "Nothing found." in run("find", "metadata.x=3", "user_id=tool")
    assert "expected FIELD=VALUE" in run("find", "x", code=2)
    assert "use --limit" in run("find", "limit=1", code=2)
    assert "use --type" in run("find", "object_types=picks", code=2)
    assert "nothing has a field 'x'" in run("find", "x=1", code=1)
    assert "holds no word" in run("search", "!?", code=1)
    opened(tmp_path)
    assert "this project has no index" in run("index", "status", code=1)
    assert "ribosome" in run("search", "ribosome")
