"""Rows about other processes: one that starts with a warm cache, and several that share one."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import Timing, timed
from benchmarks.report import Figure, Row
from benchmarks.server import Server
from benchmarks.workloads import Scale, Volume, boxes, open_tomogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.__main__ import Bench

METHODS = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]
CORES = 2


# One process that starts with a warm cache.


def new_process(bench: Bench) -> Iterator[Row]:
    """A fresh interpreter, a cache that another process filled, and a source that must not be asked."""
    scale = bench.scale
    place = bench.place(scale.chunks[1])
    cache = bench.folder / "shared"
    row = Row("process", "a new process with a warm cache", "ms")
    with Server(place.root, scale.latency_s) as server:
        filler = open_tomogram(server.url, cache, place.volume.tomo_type)
        filler.numpy()
        server.traffic()
        timings: dict[str, Timing] = {}
        for _ in range(scale.imports):
            for what, took in _in_new_process(server.url, cache, place.volume, scale).items():
                timings.setdefault(what, Timing()).rounds.append(took)
        traffic = server.traffic()
    row.add(timings, 1e3)
    row.goal("requests", traffic.total, 0)
    yield row


def _in_new_process(url: str, cache: Path, volume: Volume, scale: Scale) -> dict[str, float]:
    request = json.dumps(
        {"url": url, "cache": str(cache), "tomo_type": volume.tomo_type, "quick": scale.name}
    )
    asked = [sys.executable, "-m", "benchmarks.processes", request]
    began = time.time()
    answer = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    times = json.loads(answer.stdout)
    return {"process start to first patch": times.pop("at") - began, **times}


def _answer(request: dict[str, Any]) -> dict[str, float]:
    """What runs in the new process."""
    from benchmarks.workloads import FULL, QUICK

    scale = QUICK if request["quick"] == QUICK.name else FULL
    began = time.perf_counter()
    tomogram = open_tomogram(request["url"], Path(request["cache"]), request["tomo_type"])
    opened = time.perf_counter()
    first, *others = boxes(scale, scale.reads + 1, 99)

    def read(box: Any) -> Any:
        return tomogram.numpy(z=box[0], y=box[1], x=box[2])

    read(first)
    done, at = time.perf_counter(), time.time()
    tomogram.numpy()
    median = float(np.median(timed(read, others)))
    return {"at": at, "import and open": opened - began, "first patch": done - opened, "warm patch": median}


# Several that share one cache.


@dataclass(frozen=True)
class Work:
    """What a group of workers needs to know."""

    url: str
    cache: str
    tomo_type: str
    scale: Scale


def workers(bench: Bench) -> Iterator[Row]:
    """Workers that fill one cold cache together, then read patches from it; as a training loop's loaders do."""
    scale = bench.scale
    place = bench.place(scale.chunks[0])
    for method in METHODS:
        with Server(place.root, scale.latency_s) as server:
            work = Work(server.url, str(bench.folder / f"workers-{method}"), place.volume.tomo_type, scale)
            server.traffic()
            together = _group(method, scale.workers, work)
            chunks = server.traffic().of_chunks()
            alone = _group(method, 1, work)
        limit = _numpy_limit(scale)
        row = Row(
            f"workers-{method}", f"{scale.workers} processes on one cache, started by {method}", "patches/s"
        )
        rates = {name: {"rounds": [sum(each["rate"] for each in group)], "counts": _memory(group)} for name, group in
                 ((f"{scale.workers} workers", together), ("one worker", alone))}  # fmt: skip
        for name, found in rates.items():
            row.figures.append(Figure(name, found["rounds"][0], found["rounds"], counts=found["counts"]))
        row.figures.append(Figure(f"numpy copyto from RAM, {CORES} processes", limit, [limit]))
        row.goal("most requests for one chunk", max(chunks.values(), default=0), 1)
        row.goal("chunks not asked for", place.volume.chunk_count - len(chunks), 0)
        row.goal(
            f"rate / {CORES} numpy processes",
            sum(each["rate"] for each in together) / limit,
            0.9,
            at_least=True,
        )
        several, one = (found["counts"] for found in rates.values())
        if several:
            row.goal("PSS of all / of one", several["PSS MB"] / one["PSS MB"], 1.2)
            row.goal(
                "cached data in the PSS of all / of one", several["of files MB"] / one["of files MB"], 1.2
            )
        yield row


def _group(method: str, n: int, work: Work) -> list[dict[str, Any]]:
    """What `n` workers report. Their parent is a process of its own, which has opened the project as a trainer has."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    parent = spawn.Process(target=_parent, args=(method, n, work, send))
    parent.start()
    send.close()
    try:
        reports: list[dict[str, Any]] = receive.recv()
    except EOFError:
        raise RuntimeError(f"the workers started by {method} failed") from None
    parent.join()
    return reports


def _parent(method: str, n: int, work: Work, send: Any) -> None:
    tomogram = open_tomogram(work.url, Path(work.cache), work.tomo_type)
    context = multiprocessing.get_context(method)
    barrier, queue = context.Barrier(n), context.Queue()
    args = (work, barrier, queue)
    children = [context.Process(target=_worker, args=(at, tomogram, *args)) for at in range(n)]
    for child in children:
        child.start()
    send.send([queue.get(timeout=120) for _ in children])
    for child in children:
        child.join()


def _worker(at: int, tomogram: Any, work: Work, barrier: Any, queue: Any) -> None:
    scale = work.scale
    barrier.wait(60)
    tomogram.numpy()
    barrier.wait(60)
    out = np.zeros((scale.patch,) * 3, np.float32)
    rate = _rate(lambda box: tomogram.numpy(z=box[0], y=box[1], x=box[2], out=out), scale, at)
    barrier.wait(60)
    report = {"rate": rate, **_proportional()}
    barrier.wait(60)  # PSS counts who else is there
    queue.put(report)


def _rate(read: Any, scale: Scale, seed: int) -> float:
    """Patches per second."""
    places = boxes(scale, 1000, seed)
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < scale.worker_seconds:
        read(places[n % len(places)])
        n += 1
    return n / (time.perf_counter() - began)


def _proportional() -> dict[str, float]:
    """Memory of this process, that which others share counted in parts; in MB, Linux only."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return {}
    found = {name: int(value.split()[0]) / 1e3 for name, _, value in (line.partition(":") for line in lines)}
    return {"PSS MB": found["Pss"], "of files MB": found["Pss_File"]}


def _memory(reports: list[dict[str, Any]]) -> dict[str, float]:
    return {
        name: sum(each[name] for each in reports) for name in ("PSS MB", "of files MB") if name in reports[0]
    }


def _numpy_limit(scale: Scale) -> float:
    """Patches per second that two processes copy from a volume in RAM."""
    spawn = multiprocessing.get_context("spawn")
    barrier, queue = spawn.Barrier(CORES), spawn.Queue()
    children = [spawn.Process(target=_copier, args=(at, scale, barrier, queue)) for at in range(CORES)]
    for child in children:
        child.start()
    rates = [queue.get(timeout=120) for _ in children]
    for child in children:
        child.join()
    return float(sum(rates))


def _copier(at: int, scale: Scale, barrier: Any, queue: Any) -> None:
    data = np.ones(scale.shape, np.float32)
    out = np.zeros((scale.patch,) * 3, np.float32)
    barrier.wait(60)
    queue.put(_rate(lambda box: np.copyto(out, data[box]), scale, at))


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))
