"""Progress bars: seen on terminals, after a while, one at a time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from copick.ops.add import add_tomogram
from copick.ops.run import map_runs
from copick.util import progress
from projects import VOLUME, alone

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal as standard error. (In a fixture, pytest would take it away again.)"""
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(progress, "DELAY_S", 0)
    monkeypatch.setenv("TERM", "xterm")
    return shown


def test_one_bar_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with progress.Progress("outer", 3) as outer:
        outer.step()
        with progress.Progress("inner", 3) as inner:
            inner.step()
            outer.step()
        assert "outer" in terminal.getvalue()
        assert "inner" not in terminal.getvalue()
    with progress.Progress("later", 3) as later:
        later.step()
    assert "later" in terminal.getvalue()


def test_nothing_where_no_one_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    monkeypatch.setattr(progress, "DELAY_S", 0)
    with progress.Progress("text", 3) as bar:
        bar.step()
    assert file.getvalue() == ""


def test_map_runs_shows_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal = a_terminal(monkeypatch)
    root = alone(tmp_path / "project")
    for name in "abc":
        root.new_run(name)
    map_runs(str, root, task_desc="Counting sheep", show_progress=False)
    assert terminal.getvalue() == ""
    map_runs(str, root, task_desc="Counting sheep")
    assert "Counting sheep" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_writing_a_volume_shows_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = alone(tmp_path / "project")
    terminal = a_terminal(monkeypatch)
    add_tomogram(root, "A", "wbp", VOLUME, 10.0, chunks=(2, 4, 4))
    assert "writing a volume" in terminal.getvalue()
    assert "3/?" in terminal.getvalue()
