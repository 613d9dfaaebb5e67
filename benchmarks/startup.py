"""The row about importing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.measure import Timing, ratio
from benchmarks.report import Row
from benchmarks.workloads import project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.__main__ import Bench

OPENED = "import copick; copick.from_string(PROJECT)"
STATEMENTS = ("import copick", "import numpy, pydantic", OPENED)
"""Copick imports most of what it needs when a project is opened, so that is shown too."""
_TIMED = "import sys, time; PROJECT = sys.argv[1]; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def imports(bench: Bench) -> Iterator[Row]:
    """Importing copick and what it cannot do without, in fresh interpreters that take turns."""
    bench.place(bench.scale.chunks[0])
    config = project(f"local://{bench.source}")
    timings = {statement: Timing() for statement in STATEMENTS}
    for turn in range(-1, bench.scale.imports):  # the first finds cold files and is not counted
        for statement in STATEMENTS:
            took = _import_seconds(statement, config)
            if turn >= 0:
                timings[statement].rounds.append(took)
    own, theirs = timings[STATEMENTS[0]], timings[STATEMENTS[1]]
    row = Row("import", "importing in a fresh interpreter", "ms", baseline=STATEMENTS[1])
    row.add(timings, 1e3)
    row.goal("import copick minus import numpy, pydantic (ms)", (own.median - theirs.median) * 1e3, 100)
    row.goal("import copick / import numpy, pydantic", ratio(own, theirs), 1.0 + 0.1 / theirs.median)
    yield row


def _import_seconds(statement: str, config: str) -> float:
    asked = [sys.executable, "-c", _TIMED.format(statement), config]
    return float(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
