"""A project that copick 1.31 wrote, read by this package: the same as 1.31 sees in it.

`data/project_1x.tar.xz` is what `interop/make_project.py` wrote under copick 1.31, `data/project_1x.json` what
`interop/read_project.py` saw in it, also under copick 1.31.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.interop import Differences, differences, unexplained
from support.trees import state

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    with tarfile.open(HERE / "data" / "project_1x.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "project_1x"


def test_a_project_of_1x_opens_unchanged(project: Path, tmp_path: Path) -> None:
    before = state(project)
    script = HERE / "interop" / "read_project.py"
    subprocess.run([sys.executable, script, project / "project.json", tmp_path / "seen.json"], check=True)
    seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    expected = json.loads((HERE / "data" / "project_1x.json").read_text(encoding="utf-8"))
    assert unexplained(expected, seen) == {}
    assert state(project) == before


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}, {"a/b": ([1], [2])}),
        ({"a": 1}, {}, {"a": (1, "(absent)")}),
        ({"a": {"error": "KeyError"}}, {"a": {"x": 1}}, {"a": ({"error": "KeyError"}, {"x": 1})}),
        ([{"key": ["u", "1"], "n": 1}], [{"key": ["u", "1"], "n": 2}], {"u_1/n": (1, 2)}),
        (
            [{"key": ["u"]}, {"key": ["u"]}],
            [{"key": ["u"]}],
            {"u (static twin)": ({"key": ["u"]}, "(absent)")},
        ),
    ],
)
def test_differences_are_found(theirs: object, ours: object, expected: Differences) -> None:
    assert differences(theirs, ours) == expected


def test_a_difference_that_is_gone_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no longer so"):
        unexplained({}, {})
