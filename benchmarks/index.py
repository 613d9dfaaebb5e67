"""The rows about the index: what it costs to make and to keep, and how fast things are found by it and without it."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Timing, race, ratio
from benchmarks.report import Row
from copick.config import CopickConfigMultilayer
from copick.kinds import CHILDREN, PICKS, RUN, SEGMENTATION, TOMOGRAM, VOXEL_SPACING, Kind, Ref
from copick.layers.memory import MemoryLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.__main__ import Bench
    from copick.index.stack import IndexedStack
    from copick.layers.layer import Layer
    from copick.meta import Meta
    from copick.models import CopickRoot

OBJECTS = [f"object-{n}" for n in range(10)]
USERS = [f"user-{n}" for n in range(30)]
POINTS = 5
PER_RUN = 100


def _picks(points: int) -> bytes:
    where = [{"location": {"x": n, "y": 2 * n, "z": 3}} for n in range(points)]
    return json.dumps({"pickable_object_name": "", "user_id": "", "session_id": "", "points": where}).encode()


_FEW, _MANY = _picks(POINTS), _picks(20 * POINTS)
_ARRAY = json.dumps({"zarr_format": 2, "shape": [200, 900, 900], "dtype": "<f4"}).encode()


def find(bench: Bench) -> Iterator[Row]:
    """In an index of a million things."""
    runs = bench.scale.entries // PER_RUN
    layer = _Generated(runs, PER_RUN)
    root = _root(bench.folder / "million.db", layer)
    stack: IndexedStack = root.layer  # type: ignore[assignment]
    before = _resident()
    began = time.perf_counter()
    stack.update(workers=1)
    took = time.perf_counter() - began
    grown = _resident() - before
    rows = root.layer_status()["generated"]["entities"]
    row = Row("find", f"something in an index of {rows:,} entities in {runs:,} runs", "ms")
    picked = range(0, runs, max(1, runs // 20))
    questions: dict[str, Callable[[int], object]] = {
        "search: run and object": lambda n: root.search(f"TS {n:05} object"),
        "search: a beginning, first ten": lambda n: root.search(f"TS {n // 10:04}", "runs", limit=10),
        "find: run": lambda n: root.find_objects(run_name=f"TS_{n:05}", object_name=OBJECTS[n % 10]),
        "find: user, first ten": lambda n: root.find_objects("picks", user_id=USERS[n % 30], limit=10),
        "find: both, and size": lambda n: root.find_objects(
            "picks", run_name=f"TS_{n:05}", user_id=USERS[n % 30], point_count_min=POINTS
        ),
        "points of one run in a box": lambda n: root.find_points([0, 0, 0], [9, 9, 9], run_name=f"TS_{n:05}"),
    }
    timings = race(questions, lambda turn: list(picked), bench.scale.rounds)
    row.add(timings, 1e3)
    size = {"bytes per entity": stack.database.size() // rows}
    row.add({"build, per 1,000 entities": Timing([took / rows * 1000], 1, size)}, 1e3)
    for name in questions:
        row.goal(f"{name} (ms)", timings[name].median * 1e3, 5)
    row.goal("memory that building takes (MiB)", grown / 2**20, 150)
    yield row
    stack.database.close()


def keep(bench: Bench) -> Iterator[Row]:
    """Make an index of files, and bring it up to date; find things by it and by looking through the files."""
    folder = bench.folder / "indexed"
    runs = bench.scale.runs // 4
    _write(folder, runs)
    config: dict[str, Any] = {"config_type": "filesystem", "root": str(folder)}
    root = _opened(bench.folder / "files.db", config)
    plain = _opened(None, config)
    stack: IndexedStack = root.layer  # type: ignore[assignment]
    time.sleep(2.1)  # files are told apart by their times only when they are older than this
    stack.update()
    timings = race(
        {
            "build": lambda _: stack.update(full=True),
            "update, nothing changed": lambda _: stack.update(),
        },
        lambda turn: [None],
        bench.scale.listings,
    )
    row = Row("keep", f"an index of {root.layer_status()['files']['entities']:,} entities in files", "ms")
    row.add(timings, 1e3)
    found = race(
        {
            "find by the index": lambda name: root.find_objects("picks", point_count_min=1, run_name=name),
            "search by the index": lambda name: root.search(f"{name} object 3"),
        },
        lambda turn: [f"TS_{n:05}" for n in range(0, runs, max(1, runs // 20))],
        bench.scale.rounds,
    )
    scans = race(
        {
            "find by the layers": lambda name: (
                plain.refresh(),
                plain.find_objects("picks", point_count_min=1),
            ),
            "search by the layers": lambda name: (plain.refresh(), plain.search(f"{name} object 3")),
        },
        lambda turn: ["TS_00001"],
        bench.scale.listings,
    )
    row.add({**found, **scans}, 1e3)
    row.goal("update / build", ratio(timings["update, nothing changed"], timings["build"]), 0.1)
    yield row
    stack.database.close()
    shutil.rmtree(folder)


def index_listing(bench: Bench) -> Iterator[Row]:
    """Everything in 1,000 runs of eight entities, by the index."""
    runs = bench.scale.runs
    layer = _Generated(runs, 8)
    root = _root(bench.folder / "listing.db", layer)
    stack: IndexedStack = root.layer  # type: ignore[assignment]
    stack.update(workers=1)

    def entities(_: object) -> None:
        found = 0
        fresh = type(root)(root.config, stack)
        for run in fresh.runs:
            found += 1 + len(run.picks) + len(run.segmentations)
            for spacing in run.voxel_spacings:
                found += 1 + len(spacing.tomograms)
        if found != 8 * runs:
            raise RuntimeError(f"{found} entities instead of {8 * runs}")
        stack._forget_read()

    def addresses(_: object) -> None:
        """All that the index has, asked of it alone."""
        found, _holding = stack.reader.top(RUN)
        listed = [ref for ref, _meta in found]
        ahead = stack.reader.ahead([str(ref.values[0]) for ref in listed], {})
        count = len(listed)
        for run in listed:
            told = ahead.runs[str(run.values[0])]
            for kind in CHILDREN[RUN]:
                children = stack.reader.under(run, kind, told, ahead)[0] if kind.name in told else ()
                for child, _meta in children:
                    count += 1
                    for below in CHILDREN.get(kind, ()):
                        count += len([*stack.reader.under(child, below, told, ahead)[0]])
        if count != 8 * runs:
            raise RuntimeError(f"{count} addresses instead of {8 * runs}")

    def kind_by_kind(_: object) -> None:
        """Each kind of each parent, asked of the stack, also those of which there are none."""
        for run, _meta in stack.entries(None, RUN):
            for kind in CHILDREN[RUN]:
                for each, _meta in stack.entries(run, kind):
                    for below in CHILDREN.get(each.kind, ()):
                        stack.entries(each, below)
        stack._forget_read()

    timings = race(
        {
            "addresses and layers": addresses,
            "the same, kind by kind": kind_by_kind,
            "entities": entities,
        },
        lambda turn: [None] * 3,
        bench.scale.rounds,
    )
    row = Row("index-list", f"everything in {runs:,} runs, by the index", "ms")
    row.add(timings, 1e3)
    for name, timing in timings.items():
        row.goal(f"{name} (ms)", timing.median * 1e3, 20)
    yield row
    stack.database.close()


def _resident() -> int:
    """Bytes of memory this process has at most had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Generated(MemoryLayer):
    """A layer that makes up what it holds."""

    def __init__(self, runs: int, per_run: int) -> None:
        super().__init__("generated", read_only=True)
        self.runs, self.per_run = runs, per_run

    @property
    def location(self) -> str:
        return f"{self.runs} {self.per_run}"

    def list(self, parent: Ref | None, kind: Kind) -> list[Meta]:
        return [kind.meta_of(values) for values in self._values(parent, kind)]

    def _values(self, parent: Ref | None, kind: Kind) -> list[tuple[Any, ...]]:
        if kind is RUN:
            return [(f"TS_{n:05}",) for n in range(self.runs)]
        if kind is VOXEL_SPACING:
            return [(10.0,)]
        if kind is TOMOGRAM:
            return [("denoised",), ("wbp",)]
        if kind is SEGMENTATION:
            return [("membrane", "tool", "1", 10.0, False)]
        if kind is PICKS:
            each = range(self.per_run - 5)
            return sorted((OBJECTS[n % 10], USERS[n % 30], str(n)) for n in each)
        return []

    def exists(self, ref: Ref) -> bool:
        return True

    def stamps(self, parent: Ref | None, kind: Kind) -> dict[str, str | None] | None:
        return {kind.file_name(values): "1" for values in self._values(parent, kind)}

    def load(self, ref: Ref) -> bytes:
        return _FEW if ref.kind is PICKS else b"meta"

    def part(self, ref: Ref, key: str) -> bytes | None:
        return _ARRAY if key == "0/.zarray" else None


def _root(path: Path, layer: Layer) -> CopickRoot:
    """A project of that one layer, with an index."""
    from copick.index.stack import IndexedStack
    from copick.models import CopickRoot

    config = _config({"config_type": "memory"}, layer.name, path)
    return CopickRoot(config, IndexedStack([layer], index=config.index))


def _opened(path: Path | None, config: dict[str, Any]) -> CopickRoot:
    from copick.models import CopickRoot

    return CopickRoot(_config(config, "files", path))


def _config(layer: dict[str, Any], name: str, path: Path | None) -> CopickConfigMultilayer:
    db = {"db_config": {"db_path": str(path), "auto_index": False}} if path else {}
    fields = {"config_type": "multilayer", "layers": [name], "layer_configs": {name: layer}, **db}
    return CopickConfigMultilayer.model_validate(fields)


def _write(folder: Path, runs: int) -> None:
    """Files of runs with a voxel spacing, two tomograms, 20 picks, and a segmentation each."""
    for run in (folder / "ExperimentRuns" / f"TS_{n:05}" for n in range(runs)):
        for array in (
            "VoxelSpacing10.000/wbp",
            "VoxelSpacing10.000/raw",
            "Segmentations/10.000_me_1_membrane",
        ):
            (run / f"{array}.zarr" / "0").mkdir(parents=True)
            (run / f"{array}.zarr" / ".zgroup").write_bytes(b'{"zarr_format": 2}')
            (run / f"{array}.zarr" / "0" / ".zarray").write_bytes(_ARRAY)
        (run / "Picks").mkdir()
        for n in range(20):
            (run / "Picks" / f"{USERS[n]}_1_{OBJECTS[n % 10]}.json").write_bytes(_MANY)
