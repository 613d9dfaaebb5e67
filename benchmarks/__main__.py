"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks import bookkeeping, cold, index, listing, policies, processes, report, startup, warm
from benchmarks.contenders import Place
from benchmarks.workloads import FULL, QUICK, Scale, volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

RESULTS = Path(__file__).parent / "results"

ROWS: dict[str, Callable[[Bench], Iterator[report.Row]]] = {
    "patch": warm.patch,
    "batch": warm.batch,
    "zarr": warm.zarr,
    "cold": cold.cold,
    "process": processes.new_process,
    "workers": processes.workers,
    "hit": bookkeeping.hit,
    "index": bookkeeping.index,
    "policies": policies.policies,
    "list": listing.listing,
    "find": index.find,
    "keep": index.keep,
    "index-list": index.index_listing,
    "import": startup.imports,
}


class Bench:
    """What all rows share: the sizes, and the volumes, made when a row first asks for them."""

    def __init__(self, scale: Scale, folder: Path) -> None:
        self.scale, self.folder = scale, folder
        self._data: npt.NDArray[np.float32] | None = None

    @property
    def source(self) -> Path:
        """The project that is read."""
        return self.folder / "source"

    def place(self, chunk: int) -> Place:
        """The volume with chunks of that size. All are written together: a cached listing would not tell of later ones."""
        if self._data is None:
            self._data = volumes(self.scale)[0].data()
            for volume in volumes(self.scale):
                volume.write(self.source, self._data)
        volume = next(volume for volume in volumes(self.scale) if volume.chunk == chunk)
        return Place(volume, self._data, self.source, self.folder / "cache")

    def close(self) -> None:
        """End what caches do in the background, before their folders go."""
        from copick.cache.manager import open_manager

        for cache in self.folder.glob("*/.cache_metadata"):
            open_manager(cache.parent).close()

    def places(self) -> Iterator[Place]:
        return (self.place(chunk) for chunk in self.scale.chunks)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure copick beside its peers."
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny, within a minute: shows that the benchmarks work"
    )
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row (may be repeated)")
    parser.add_argument("--json", type=Path, help="where to write the results (default: benchmarks/results/)")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    path = arguments.json
    if path is None and not arguments.quick:
        today = datetime.date.today().isoformat()
        path = RESULTS / f"{today}-{report.slug()}.json"

    console = Console() if sys.stdout.isatty() else Console(width=120)
    began = time.perf_counter()
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory(prefix="copick-bench-", ignore_cleanup_errors=True) as folder:
        bench = Bench(scale, Path(folder))
        for name in arguments.only or ROWS:
            for row in ROWS[name](bench):
                report.show(row, console)
                rows.append(row)
        bench.close()
    document = report.document(rows, scale, time.perf_counter() - began)
    goals = [goal for row in rows for goal in row.goals]
    console.print(
        f"{sum(goal.met is True for goal in goals)} of {len(goals)} goals met in {document['seconds']} s",
        highlight=False,
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        console.print(f"Results: {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
