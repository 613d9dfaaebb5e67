"""A portal with a thousand runs: how often it is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import copick
from support import portal as fixture

pytest.importorskip("cryoet_data_portal")

from copick.testing.portal_server import PortalServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.models import CopickRoot

RUNS, TOMOGRAMS, ANNOTATIONS = 1000, 4, 7


@pytest.fixture(scope="module")
def server() -> Iterator[PortalServer]:
    with PortalServer() as portal:
        fixture.large(portal, RUNS, tomograms=TOMOGRAMS, annotations=ANNOTATIONS)
        yield portal


@pytest.fixture
def config(server: PortalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    server.requests.clear()
    server.max_rows = None
    return fixture.config(server, "", dataset_ids=[10310], cache_dir=str(tmp_path / "kept"))


def listed(root: CopickRoot) -> tuple[int, int, int]:
    """How many runs, tomograms and picks there are, after listing them all."""
    tomograms = [
        tomogram for run in root.runs for spacing in run.voxel_spacings for tomogram in spacing.tomograms
    ]
    return len(root.runs), len(tomograms), sum(len(run.picks) for run in root.runs)


WHOLE = (RUNS, RUNS * TOMOGRAMS, RUNS * ANNOTATIONS)


def test_a_thousand_runs_take_a_handful_of_requests(
    server: PortalServer, config: dict[str, Any], tmp_path: Path
) -> None:
    assert listed(copick.from_string(json.dumps(config))) == WHOLE
    assert len(server.requests) == 3  # at most 8 are allowed; copick 1.31: 141
    server.requests.clear()
    assert listed(copick.from_string(json.dumps(config))) == WHOLE
    assert server.requests == []
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.stat().st_size < 1_000_000  # copick 1.31: 75 MB, with the authors


def test_a_portal_that_gives_few_rows_at_once(server: PortalServer, config: dict[str, Any]) -> None:
    server.max_rows = 2000
    assert listed(copick.from_string(json.dumps(config))) == WHOLE
    refused = [request for request in server.requests if request.status == 502]
    assert len(refused) <= 5
    assert len(server.requests) - len(refused) <= 12


def test_authors_of_all_runs_are_asked_for_once(server: PortalServer, config: dict[str, Any]) -> None:
    root = copick.from_string(json.dumps(config))
    _ = root.runs
    server.requests.clear()
    found = [run.get_picks(portal_author_query=["author 3", "author 17"]) for run in root.runs]
    assert sum(map(len, found)) == RUNS * ANNOTATIONS
    assert len(server.requests) <= 3
