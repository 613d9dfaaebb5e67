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

from benchmarks.measure import Timing, ratio, timed
from benchmarks.report import Figure, Row
from benchmarks.server import Server
from benchmarks.workloads import Scale, Volume, boxes, open_tomogram

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.__main__ import Bench

METHODS = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]


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
        together: list[list[dict[str, Any]]] = []
        limits: list[float] = []
        with Server(place.root, scale.latency_s) as server:
            work = Work(server.url, str(bench.folder / f"workers-{method}"), place.volume.tomo_type, scale)
            server.traffic()
            together.append(_group(method, scale.workers, work))
            chunks = server.traffic().of_chunks()
            alone = _group(method, 1, work)
            for _ in range(scale.cold_rounds):
                limits.append(_numpy_limit(scale))
                together.append(_group(method, scale.workers, work))
        row = Row(
            f"workers-{method}", f"{scale.workers} processes on one cache, started by {method}", "patches/s"
        )
        rates = Timing([_total(group) for group in together[1:]])
        limit = Timing(limits)
        several, one = _memory(together[-1]), _memory(alone)
        names = f"{scale.workers} workers", "one worker", f"numpy copyto from RAM, {scale.workers} processes"
        row.figures = [
            Figure(names[0], rates.median, rates.rounds, counts=several),
            Figure(names[1], _total(alone), [_total(alone)], counts=one),
            Figure(names[2], limit.median, limit.rounds),
        ]
        row.goal("most requests for one chunk", max(chunks.values(), default=0), 1)
        row.goal("chunks not asked for", place.volume.chunk_count - len(chunks), 0)
        row.goal("rate / as many numpy processes", ratio(rates, limit), 0.9, at_least=True)
        if several:
            row.goal("PSS of all / of one", several["PSS MB"] / one["PSS MB"], 1.2)
            row.goal(
                "cached data in the PSS of all / of one", several["of files MB"] / one["of files MB"], 1.2
            )
        yield row


def _total(group: list[dict[str, Any]]) -> float:
    return float(sum(each["rate"] for each in group))


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
    out = np.zeros((scale.patch,) * 3, np.float32)
    barrier.wait(60)
    for z, y, x in _tiles(scale, at):
        tomogram.numpy(z=z, y=y, x=x, out=out)
    barrier.wait(60)
    rate = _rate(lambda box: tomogram.numpy(z=box[0], y=box[1], x=box[2], out=out), scale, at)
    barrier.wait(60)
    report = {"rate": rate, **_proportional()}
    barrier.wait(60)  # PSS counts who else is there
    queue.put(report)


def _tiles(scale: Scale, seed: int) -> list[Any]:
    """Patches that cover the volume, in an order of the worker's own: nobody holds the volume as a whole."""
    axes = [[*range(0, size - scale.patch, scale.patch), size - scale.patch] for size in scale.shape]
    corners = np.random.default_rng(seed).permutation(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3))
    return [tuple(slice(first, first + scale.patch) for first in corner) for corner in corners.tolist()]


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
    """Patches per second that as many processes copy, each from a volume in its RAM: the same share of a busy machine."""
    spawn = multiprocessing.get_context("spawn")
    barrier, queue = spawn.Barrier(scale.workers), spawn.Queue()
    children = [
        spawn.Process(target=_copier, args=(at, scale, barrier, queue)) for at in range(scale.workers)
    ]
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
