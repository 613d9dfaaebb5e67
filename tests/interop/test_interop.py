"""Both directions between this package and copick 1.31: each reads what the other wrote.

Needs an interpreter with copick 1.31: `make interop` makes one, and names it in COPICK_INCUMBENT_PYTHON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.interop import differences, unexplained
from support.trees import State, state

INCUMBENT = os.environ.get("COPICK_INCUMBENT_PYTHON")
HERE = Path(__file__).parent
PYTHON = {"1.31": INCUMBENT or "", "ours": sys.executable}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INCUMBENT is None, reason="needs copick 1.31: run `make interop`"),
]


def run(which: str, script: str, *arguments: Path) -> None:
    subprocess.run([PYTHON[which], HERE / script, *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same project as each writes it."""
    folder = tmp_path_factory.mktemp("projects")
    for which in PYTHON:
        run(which, "make_project.py", folder / which)
    return {which: folder / which for which in PYTHON}


@pytest.fixture(scope="module")
def seen(
    projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], tuple[Any, State, State]]:
    """(who wrote it, who reads it) → what is seen in it, and its files before and after. Each reads a copy."""
    found = {}
    for writer, project in projects.items():
        for reader in PYTHON:
            copy = tmp_path_factory.mktemp("read") / "project"
            shutil.copytree(project, copy, symlinks=True)
            out = copy.with_name("seen.json")
            before = state(copy)
            run(reader, "read_project.py", copy / "project.json", out)
            found[writer, reader] = json.loads(out.read_text(encoding="utf-8")), before, state(copy)
    return found


@pytest.mark.parametrize("writer", [*PYTHON])
def test_both_see_the_same(seen: Any, writer: str) -> None:
    theirs, ours = seen[writer, "1.31"][0], seen[writer, "ours"][0]
    assert unexplained(theirs, ours) == {}


def test_who_wrote_it_is_not_seen_by_us(seen: Any) -> None:
    assert differences(seen["1.31", "ours"][0], seen["ours", "ours"][0]) == {}


def test_who_wrote_it_is_not_seen_by_1_31(seen: Any) -> None:
    """But for volumes that are only begun: we make them a group, so 1.31 does not try to."""
    found = differences(seen["1.31", "1.31"][0], seen["ours", "1.31"][0])
    assert {values[1].get("error") for values in found.values()} == {"KeyError"}
    assert {path.split("/")[-2] for path in found} == {"empty", "7.84_alice_none-yet_membrane_binary"}


@pytest.mark.parametrize("writer", [*PYTHON])
def test_our_reading_changes_nothing(seen: Any, writer: str) -> None:
    _, before, after = seen[writer, "ours"]
    assert after == before


def test_1_31_leaves_our_files_alone(seen: Any) -> None:
    """It makes a directory for each density map that it looks for; nothing of ours makes it change anything else."""
    _, before, after = seen["ours", "1.31"]
    made = {path for path in {*after} - {*before} if not path.startswith("overlay/Objects/")}
    assert made == set()
    files = {path for path, (_, content) in before.items() if content != "directory"}
    assert {path: after[path] for path in files} == {path: before[path] for path in files}
