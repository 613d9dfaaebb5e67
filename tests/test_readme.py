"""The README's code, run in order on the README's own project: its archive on a web server, the rest on the local disk."""

from __future__ import annotations

import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import copick
from copick.testing.http_server import FolderServer
from projects import OBJECTS, alone

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[str]:
    """Address of a project that can only be read: what the README says is in it."""
    root = alone(tmp_path / "archive")
    for name in ("TS_001", "TS_002"):
        run = root.new_run(name)
        noise = np.random.default_rng(0).normal(size=(104, 128, 164)).astype(np.float32)
        run.new_voxel_spacing(10.0).new_tomogram("wbp").from_numpy(noise)
    run = root.runs[0]
    run.new_picks("ribosome", "1", "bob").from_numpy([[812, 1040, 300]])
    run.new_segmentation(10.0, "membrane", "1", user_id="bob").from_numpy(noise > 3)
    with FolderServer(tmp_path / "archive") as server:
        yield server.url


@pytest.mark.usefixtures("own_managers")
def test_every_block_runs(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def here(text: str) -> str:
        for there, place in (
            ("local:///home/me/", f"local://{tmp_path}/"),
            ("s3://lab/project", archive),
            ("/scratch/copick-cache", f"{tmp_path}/cache"),
        ):
            text = text.replace(there, place)
        return text

    (tmp_path / "annotations").mkdir()
    monkeypatch.chdir(tmp_path)
    project, legacy = (here(text) for text in blocks("json"))
    Path("project.json").write_text(project)
    with ThreadPoolExecutor(2) as pool:
        names: dict[str, Any] = {"dask_client": SimpleNamespace(get_executor=lambda: pool)}
        with caplog.at_level(logging.WARNING, "copick"):
            for block in blocks("python"):
                exec(compile(here(block), README.name, "exec", dont_inherit=True), names)
    assert [record.getMessage() for record in caplog.records] == []

    assert names["batch"].shape == (2, 64, 64, 64)
    assert names["theirs"].sources == ["work", "archive"]
    assert [picks.user_id for picks in names["run"].get_picks(layers="work")] == ["alice", "bob"]
    assert names["patch"].shape == (64, 64, 64)
    assert [names["count"](run) for run in names["root"].runs] == [2, 0]
    assert len(names["dataset"]) == 40
    assert names["root"].get_cache_stats()["bytes_fetched"] > 0
    root = copick.from_string(legacy)
    assert (root.layer_names, len(root.runs)) == (["overlay", "static"], 2)
    assert root.cache_manager is names["root"].cache_manager


def test_the_objects_are_those_of_the_archive() -> None:
    declared = json.loads(blocks("json")[0])["pickable_objects"]
    assert [(item["name"], item["label"]) for item in declared] == [
        (each["name"], each["label"]) for each in OBJECTS
    ]
