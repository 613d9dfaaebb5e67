"""An index that cannot be used costs time, never a result: the layers are asked instead, and one line in the log says so."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from copick import _cachecore
from copick.errors import CopickError, LayerError, NotFoundError
from copick.index import looks, schema, writer
from projects import alone, run_of
from test_index import indexed, indexed_again, sessions, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from copick.models import CopickRoot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
def project(root: CopickRoot, tmp_path: Path) -> CopickRoot:
    made = indexed(tmp_path)
    made.index_all_layers()
    return made


def settled(path: Path) -> None:
    """All that was written is in the file itself."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "copick.index"]


def check_reads(root: CopickRoot, caplog: pytest.LogCaptureFixture, problem: str) -> None:
    """Everything is found, with one line that says why it takes longer."""
    caplog.clear()
    for _ in range(2):
        assert [run.name for run in root.runs] == ["TS_1"]
        assert [p.user_id for p in run_of(root).picks] == ["tool"]
        assert sessions(root, point_count=1) == ["0"]
        assert len(root.search("ribosome tool")["picks"]) == 1
        assert len(root.find_points([0, 0, 0])) == 1
        assert root.get_summary_statistics()["total"]["points"] == 1
        root.refresh()
    (line,) = lines(caplog)
    assert problem in line


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3 + 77)


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)


def scramble(path: Path) -> None:
    """Rows that say what nobody can read."""
    with sqlite3.connect(path) as db:
        db.execute("UPDATE holdings SET listed = '{', said = x'ff'")
    db.close()


def drop(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE holdings")
    db.close()


@pytest.mark.parametrize("damage", [cut, overwrite, scramble, drop], ids=lambda function: function.__name__)
@pytest.mark.parametrize("open_already", [False, True], ids=["closed", "open"])
def test_a_damaged_database(
    project: CopickRoot, path: Path, damage: Callable[[Path], None], open_already: bool, caplog: Any
) -> None:
    settled(path)
    if not open_already:
        stack_of(project).database.close()
    damage(path)
    check_reads(project, caplog, "asked instead of the index")
    run_of(project).new_picks("ribosome", "1")  # nor does it keep anybody from writing
    assert sessions(project) == ["0", "1"]
    project.index_all_layers(full=True)
    again = indexed_again(project)
    assert sessions(again) == ["0", "1"]
    assert again.layer_status()["archive"]["indexed"]


@pytest.mark.parametrize("told", ["[]", "1", '{"picks":[]}', '{"picks":1}', '{"picks":[[[1,[5],null]],"a"]}'])
def test_a_listing_that_is_none(project: CopickRoot, caplog: pytest.LogCaptureFixture, told: str) -> None:
    with stack_of(project).database.writing() as db:
        db.execute("UPDATE listings SET told = ?", (told,))
    root = indexed_again(project)
    assert [p.user_id for p in run_of(root).picks] == ["tool"]
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"SQLite for", b"notes of mine\n" * 99, b"SQLite format 3\0" + bytes(500)]
)
def test_what_is_no_index_is_never_replaced(
    root: CopickRoot, tmp_path: Path, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    project = indexed(tmp_path)
    check_reads(project, caplog, str(path))
    if content:
        with pytest.raises(LayerError, match=r"index\.db"):
            project.index_all_layers()
        assert path.read_bytes() == content
    else:
        project.index_all_layers()
        assert project.layer_status()["archive"]["indexed"]


def test_the_database_of_something_else(
    root: CopickRoot, tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
        db.execute("INSERT INTO mine VALUES (42)")
    db.close()
    project = indexed(tmp_path)
    check_reads(project, caplog, "a database of something else")
    with pytest.raises(LayerError, match="a database of something else; state another db_path"):
        project.index_all_layers()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT * FROM mine").fetchall() == [(42,)]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    db.close()


def test_of_a_newer_version(project: CopickRoot, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settled(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()
    again = indexed_again(project)
    check_reads(again, caplog, "newer version of copick")
    with pytest.raises(LayerError, match="update copick, or state another db_path"):
        again.index_all_layers()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION + 1,)
        assert db.execute("SELECT count(*) FROM entities").fetchone()[0] > 0
    db.close()


def test_of_an_older_version(
    project: CopickRoot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stack_of(project).database.close()
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    again = indexed_again(project)
    check_reads(again, caplog, "older version")
    again.index_all_layers()
    assert sessions(indexed_again(project)) == ["0"]
    assert again.layer_status()["archive"]["indexed"]


def test_deleted_while_open(project: CopickRoot, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert sessions(project) == ["0"]
    for file in path.parent.glob("index.db*"):
        file.unlink()
    check_reads(project, caplog, "there is no index")
    run_of(project).new_picks("ribosome", "1")
    assert not path.exists()  # who only reads and writes makes none
    project.index_all_layers()
    assert sessions(indexed_again(project)) == ["0", "1"]


def test_replaced_while_open(project: CopickRoot, path: Path, tmp_path: Path) -> None:
    """Another file of that name is another database."""
    assert sessions(project) == ["0"]
    run_of(alone(tmp_path / "archive")).new_picks("ribosome", "9")
    for file in path.parent.glob("index.db*"):
        file.unlink()
    indexed_again(project).index_all_layers()
    assert sessions(project) == ["0", "9"]
    run_of(project).new_picks("ribosome", "7")
    assert len(indexed_again(project).search("ribosome me 7")["picks"]) == 1


def test_locked(
    project: CopickRoot, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Readers do not wait for a writer. Who writes meanwhile has written all the same, and sees it."""
    monkeypatch.setattr(schema, "PATIENCE_S", 0.05)
    other = indexed_again(project)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert sessions(other) == ["0"]
    assert not lines(caplog)
    run_of(other).new_picks("ribosome", "1")
    (line,) = lines(caplog)
    assert "is not in the index yet" in line
    assert [p.session_id for p in indexed_again(project).on("work").runs[0].picks] == ["1"]
    assert [p.session_id for p in run_of(other).picks] == ["1", "0"]
    assert sessions(other) == ["0", "1"]  # the layers say so
    with pytest.raises(LayerError, match="locked"):
        other.index_all_layers()
    holder.execute("ROLLBACK")
    holder.close()
    assert sessions(other) == ["0", "1"]
    assert sessions(indexed_again(project)) == ["0", "1"]


def test_only_readable(
    project: CopickRoot, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an index in a place where nothing can be written, everything can be read."""
    settled(path)
    stack_of(project).database.close()
    for file in path.parent.glob("index.db-*"):
        file.unlink()
    path.chmod(stat.S_IRUSR)
    monkeypatch.setattr(schema.os, "access", lambda *_: False)
    connected = schema.Database._connected
    modes: list[str] = []

    def unable(self: Any, mode: str) -> Any:
        modes.append(mode)
        if mode == "ro":  # as SQLite does where it cannot make the memory that the log needs
            return type("Unable", (), {"execute": _unable, "close": lambda self: None})()
        return connected(self, mode)

    monkeypatch.setattr(schema.Database, "_connected", unable)
    again = indexed_again(project)
    assert sessions(again, point_count=1) == ["0"]
    assert modes == ["ro", "ro&immutable=1"]
    assert not lines(caplog)


def _unable(*_: Any) -> None:
    raise sqlite3.OperationalError("unable to open database file")


def test_on_a_network(
    root: CopickRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_cachecore, "on_network", lambda folder: True)
    project = indexed(tmp_path)
    with pytest.raises(LayerError, match=r"network filesystem.*state a db_path on a local disk"):
        project.index_all_layers()
    assert not (tmp_path / "index.db").exists()
    (tmp_path / "index.db").touch()
    check_reads(indexed(tmp_path), caplog, "network filesystem")


def test_never_made(root: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_reads(indexed(tmp_path), caplog, "there is no index")
    assert not (tmp_path / "index.db").exists()


def test_half_made(root: CopickRoot, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before every layer was looked at, an index is of no use for all of them."""
    project = indexed(tmp_path)
    stack_of(project).update(["work"])
    check_reads(project, caplog, "does not know layer 'archive' yet")


ENDING = """
import sys, threading, time
from copick.index.schema import Database

database = Database(sys.argv[1])
with database.writing(create=True):
    pass
inside = threading.Event()

def count():
    while True:
        with database.reading() as db:
            inside.set()
            asked = "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 50000) SELECT max(i) FROM n"
            db.execute(asked).fetchall()

threading.Thread(target=count, daemon=True).start()
inside.wait()
time.sleep(0.03)
"""


def test_the_interpreter_ends_while_a_thread_asks(tmp_path: Path) -> None:
    ended = [
        subprocess.Popen([sys.executable, "-c", ENDING, str(tmp_path / f"{at}.db")], stderr=subprocess.PIPE)
        for at in range(6)
    ]
    assert [(process.communicate()[1], process.returncode) for process in ended] == [(b"", 0)] * 6


def test_what_is_no_damage(project: CopickRoot, path: Path) -> None:
    """Faults of programs cost nobody the index."""
    database, kept = stack_of(project).database, path.open("rb")
    for fault in (
        NotFoundError("no such run"),
        ValueError("a voxel size of 0"),
        sqlite3.ProgrammingError("closed"),
    ):
        with pytest.raises((CopickError, ValueError)), database.reading():
            raise fault
        project.index_all_layers()
        assert os.path.samestat(os.fstat(kept.fileno()), path.stat())
    kept.close()


def unreadable(file: Path) -> None:
    """Make it a file that is listed, and fails when it is read."""
    file.unlink()
    file.symlink_to("/proc/self/mem")


@pytest.fixture
def broken(root: CopickRoot, tmp_path: Path) -> Path:
    """One of two sets of picks in the archive cannot be read."""
    run_of(alone(tmp_path / "archive")).new_picks("ribosome", "1").from_numpy([[4, 5, 6]])
    file = tmp_path / "archive/ExperimentRuns/TS_1/Picks/tool_0_ribosome.json"
    kept = file.read_bytes()
    unreadable(file)
    (tmp_path / "kept").write_bytes(kept)
    return file


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_says_nothing(
    broken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is listed, and everything else is found, with an index and without."""
    project = indexed(tmp_path)

    def check() -> None:
        assert sessions(project) == ["0", "1"]
        assert sessions(project, point_count_min=1) == ["1"]
        assert len(project.search("ribosome")["picks"]) == 2
        assert len(project.find_points([0, 0, 0])) == 1
        assert project.get_summary_statistics()["total"]["points"] == 1

    check()
    assert "tool_0_ribosome.json failed" in caplog.text
    caplog.clear()
    for _ in range(2):
        project.index_all_layers()
        status = project.layer_status()["archive"]
        assert status["indexed"]
        assert "1 of its files could not be read, the first: " in status["problem"]
        assert "tool_0_ribosome.json failed" in status["problem"]
    caplog.clear()
    check()
    assert not lines(caplog)
    broken.unlink()
    (tmp_path / "kept").rename(broken)
    project.index_all_layers()
    assert project.layer_status()["archive"]["problem"] is None
    assert sessions(project, point_count_min=1) == ["0", "1"]
    unreadable(broken)
    project.index_all_layers()
    assert sessions(project, point_count_min=1) == ["0", "1"]  # what was known counts until it can be read


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that cannot be read")
def test_files_that_fail_for_long(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan does not wait for each file of a layer that no longer answers."""
    monkeypatch.setattr(looks, "FAILING_S", 0)
    project = indexed(tmp_path)
    with pytest.raises(LayerError, match=r"layer 'archive': 1 of its files .* and no more are tried"):
        project.index_all_layers()
    assert not project.layer_status()["archive"]["indexed"]


def test_a_layer_is_read_without_holding_up_writers(
    project: CopickRoot, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, looked = writer.look_at, []

    def look_at(*args: Any) -> Any:
        with sqlite3.connect(path, timeout=0, isolation_level=None) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
        db.close()
        looked.append(args[1])
        return real(*args)

    monkeypatch.setattr(writer, "look_at", look_at)
    run_of(project).new_picks("ribosome", "1")
    assert looked
    assert not lines(caplog)
    assert sessions(indexed_again(project)) == ["0", "1"]


def test_those_who_write_one_thing_at_once_agree(
    project: CopickRoot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever looked before another wrote looks again, a few times beside others and then alone."""
    other, real = indexed_again(project), writer.look_at
    numbers = [*range(2, 2 + writer.TRIES)]

    def look_at(*args: Any) -> Any:
        saw = real(*args)
        if numbers and not busy.locked():
            with busy:
                run_of(other).get_picks(user_id="me")[0].from_numpy([[1, 2, 3]] * numbers.pop(0))
        return saw

    picks, busy = run_of(project).new_picks("ribosome", "1"), threading.Lock()
    monkeypatch.setattr(writer, "look_at", look_at)
    picks.from_numpy([[1, 2, 3]])
    assert not numbers
    assert not lines(caplog)
    assert sessions(indexed_again(project), user_id="me", point_count=1 + writer.TRIES) == ["1"]


@pytest.mark.parametrize("again", [False, True], ids=["seen", "new process"])
def test_a_layer_whose_disk_is_gone_keeps_its_entries(root: CopickRoot, tmp_path: Path, again: bool) -> None:
    run_of(root).new_picks("ribosome", "mine", "me").from_numpy([[1, 2, 3]])
    project = indexed(tmp_path)
    project.index_all_layers()
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    project = indexed(tmp_path) if again else project
    with pytest.raises(LayerError, match=r"layer 'work'.*there is no such directory"):
        project.index_all_layers()
    assert sessions(indexed(tmp_path)) == ["0", "mine"]
    (tmp_path / "elsewhere").rename(tmp_path / "work")
    project = indexed(tmp_path)
    project.index_all_layers()
    assert sessions(project) == ["0", "mine"]
