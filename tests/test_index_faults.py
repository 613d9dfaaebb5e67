"""An index that cannot be used costs time, never a result: the layers are asked instead, and one line in the log says so."""

from __future__ import annotations

import os
import sqlite3
import stat
from typing import TYPE_CHECKING, Any

import pytest

from copick import _cachecore
from copick.errors import LayerError
from copick.index import schema
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
