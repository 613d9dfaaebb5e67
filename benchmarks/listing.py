"""The rows about listing: every run, voxel spacing, tomogram, picks and segmentation of a project, each time in a fresh process."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import copick
from benchmarks.measure import Timing, ratio
from benchmarks.report import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from benchmarks.__main__ import Bench

INCUMBENT = "COPICK_INCUMBENT_PYTHON"
"""Names the interpreter that has copick 1.x."""
OWN, INDEXED, THEIRS = "copick", "copick with an index", "copick 1.x"
BUCKET = "listing"
STORED, REQUESTS = 100, 60
"""Runs in the store, and the goal for them."""

ARRAYS = (
    "VoxelSpacing10.000/wbp.zarr",
    "VoxelSpacing10.000/denoised.zarr",
    "Segmentations/10.000_me_1_membrane.zarr",
)
OBJECTS = ("ribosome", "proteasome", "apoferritin")
CHILDREN = 7
"""Entities of each run: those arrays, picks of these objects, a voxel spacing."""

_LIST = """
import sys, time, copick
root = copick.from_file(sys.argv[1])
root.runs  # connects
if "db_config" in open(sys.argv[1]).read():
    root = copick.from_file(sys.argv[1])
else:
    root.refresh()
began, found = time.perf_counter(), 0
for run in root.runs:
    found += 1 + len(run.picks) + len(run.segmentations)
    for spacing in run.voxel_spacings:
        found += 1 + len(spacing.tomograms)
print(time.perf_counter() - began, found)
"""


def listing(bench: Bench) -> Iterator[Row]:
    """On a local disk, and in an S3 store that is far away."""
    runs = bench.scale.runs
    for key, content in _files(runs):
        path = bench.folder / "listing" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    row = Row("list", f"everything in {runs:,} runs on a local disk", "ms", baseline=OWN)
    config = _project(bench.folder, str(bench.folder / "listing"))
    contenders = {name: (python, config) for name, python in _contenders().items()}
    contenders[INDEXED] = sys.executable, _indexed(bench.folder, str(bench.folder / "listing"))
    timings = {name: Timing() for name in contenders}
    for turn in range(-1, bench.scale.listings):  # the first finds cold files and is not counted
        for name, (python, where) in contenders.items():
            took = _seconds(python, where, runs)
            if turn >= 0:
                timings[name].rounds.append(took)
    row.add(timings, 1e3)
    _add_goal(row, timings)
    if THEIRS in timings:
        row.goal(f"{INDEXED} / {THEIRS}", ratio(timings[INDEXED], timings[THEIRS]), 0.01)
    yield row
    shutil.rmtree(bench.folder / "listing")

    runs = STORED
    with Store(runs, bench.scale.latency_s) as store:
        latency = f"{bench.scale.latency_s * 1e3:g} ms away"
        row = Row("list-store", f"everything in {runs:,} runs in an S3 store {latency}", "ms", baseline=OWN)
        config = _project(bench.folder, f"s3://{BUCKET}", store.fs_args)
        timings = {name: Timing() for name in _contenders()}
        for name, python in _contenders().items():
            store.requests()
            timings[name].rounds.append(_seconds(python, config, runs))
            timings[name].counts["requests"] = store.requests()
    row.add(timings, 1e3)
    row.goal("requests", timings[OWN].counts["requests"], REQUESTS)
    _add_goal(row, timings)
    yield row


def _contenders() -> dict[str, str]:
    """Their interpreters."""
    incumbent = os.environ.get(INCUMBENT)
    return {OWN: sys.executable, **({THEIRS: incumbent} if incumbent else {})}


def _add_goal(row: Row, timings: dict[str, Timing]) -> None:
    if THEIRS in timings:
        row.goal(f"{OWN} / {THEIRS}", ratio(timings[OWN], timings[THEIRS]), 0.5)
    else:
        row.add_missing({THEIRS: f"{INCUMBENT} does not name an interpreter that has it"})
        row.goal(f"{OWN} / {THEIRS}", None, 0.5)


def _files(runs: int) -> Iterator[tuple[str, bytes]]:
    """The files of a project, the arrays as small as can be."""
    for run in (f"ExperimentRuns/TS_{number:04}" for number in range(runs)):
        for array in ARRAYS:
            for name in (".zgroup", ".zattrs", "0/.zarray", "0/0/0/0"):
                yield f"{run}/{array}/{name}", b"{}"
        for name in OBJECTS:
            yield f"{run}/Picks/me_1_{name}.json", b"{}"


def _project(folder: Path, root: str, fs_args: dict[str, Any] | None = None) -> Path:
    """A config that both versions read."""
    config = {
        "config_type": "filesystem",
        "name": "listing",
        "user_id": "me",
        "pickable_objects": [
            {"name": name, "is_particle": True, "label": label} for label, name in enumerate(OBJECTS, 1)
        ],
        "overlay_root": root,
        "overlay_fs_args": {"auto_mkdir": True} if fs_args is None else fs_args,
    }
    path = folder / "listing.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def _indexed(folder: Path, root: str) -> Path:
    """The same as a layer with an index that knows it."""
    config = {
        **json.loads(_project(folder, root).read_text(encoding="utf-8")),
        "config_type": "multilayer",
        "layers": ["files"],
        "layer_configs": {"files": {"config_type": "filesystem", "root": root}},
        "db_config": {"db_path": str(folder / "listing.db"), "auto_index": False},
    }
    for field in ("overlay_root", "overlay_fs_args"):
        del config[field]
    path = folder / "indexed.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    copick.from_file(path).index_all_layers()
    return path


def _seconds(python: str, config: Path, runs: int) -> float:
    asked = [python, "-c", _LIST, str(config)]
    took, found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[-2:]
    if int(found) != runs * (1 + CHILDREN):
        raise RuntimeError(f"{python} found {found} of {runs * (1 + CHILDREN)} entities")
    return float(took)


class Store:
    """An S3 server with such a project, in a process of its own."""

    def __init__(self, runs: int, latency_s: float) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(runs, latency_s, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.fs_args: dict[str, Any] = self._pipe.recv()

    def requests(self) -> int:
        """How many came since the last call."""
        self._pipe.send("requests")
        return int(self._pipe.recv())

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(10)


def _serve(runs: int, latency_s: float, pipe: Connection) -> None:
    from copick.testing.s3_server import S3Server

    with S3Server(latency_s) as server:
        server.put(BUCKET, dict(_files(runs)))
        pipe.send(server.fs_args)
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            count = len(server.requests)
            server.requests.clear()
            pipe.send(count)
