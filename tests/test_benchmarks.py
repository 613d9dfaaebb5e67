"""The benchmarks work: every row at a tiny size. How fast anything is, is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "benchmarks" / "__main__.py").exists(), reason="no benchmarks here"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run of everything writes."""
    pytest.importorskip("aiohttp")
    path = tmp_path_factory.mktemp("benchmarks") / "sub" / "results.json"
    asked = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(path)]
    ran = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_row_is_there(results: dict[str, Any]) -> None:
    names = {row["name"].partition("-")[0] for row in results["rows"]}
    assert names >= {
        "patch",
        "batch",
        "zarr",
        "cold",
        "process",
        "workers",
        "hit",
        "journal",
        "index",
        "policies",
        "list",
        "find",
        "keep",
        "import",
    }


def test_every_contender_has_figures_or_a_reason(results: dict[str, Any]) -> None:
    for row in results["rows"]:
        assert row["title"]
        assert row["unit"]
        assert row["figures"]
        for figure in row["figures"]:
            if figure["missing"] is None:
                # A cache may well have had no hit at all; nothing takes no time.
                assert figure["value"] > 0 or (row["unit"] == "hits per use" and figure["value"] == 0)
                assert figure["rounds"]
            else:
                assert figure["value"] is None


def test_every_goal_has_a_verdict(results: dict[str, Any]) -> None:
    for row in results["rows"]:
        for goal in row["goals"]:
            if goal["value"] is None:
                assert goal["met"] is None
            else:
                expected = (
                    goal["value"] >= goal["limit"] if goal["at_least"] else goal["value"] <= goal["limit"]
                )
                assert goal["met"] is expected


def test_the_machine_and_the_versions_are_named(results: dict[str, Any]) -> None:
    assert results["scale"]["name"] == "quick"
    assert {"cpu", "cores", "kernel", "ram_gib"} <= set(results["machine"])
    assert {"python", "numpy", "zarr", "tensorstore", "zarrs", "copick", "commit"} <= set(results["versions"])


def test_no_chunk_is_asked_for_twice(results: dict[str, Any]) -> None:
    """Counts are exact at any size, so they are goals here too."""
    for row in results["rows"]:
        for goal in row["goals"]:
            if "request" in goal["what"] or goal["what"] == "chunks not asked for":
                assert goal["met"], f"{row['name']}: {goal['what']}"
