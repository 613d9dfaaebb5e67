"""The row about the first read of a whole volume from far away."""

from __future__ import annotations

import http.client
import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.measure import Timing, ratio
from benchmarks.report import Row
from benchmarks.server import Server
from benchmarks.workloads import LEVEL, open_tomogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.__main__ import Bench
    from benchmarks.contenders import Place

CONNECTIONS = 16
"""As many as copick's cache uses."""

BARE, CACHED, UNCACHED, ZARR = (
    "fetch and decode, 16 threads",
    "copick, cold cache",
    "copick, no cache",
    "zarr-python",
)


def cold(bench: Bench) -> Iterator[Row]:
    """A whole volume over HTTP, by readers that take turns."""
    for chunk in bench.scale.cold:
        yield _cold(bench, bench.place(chunk))


def _cold(bench: Bench, place: Place) -> Row:
    scale, volume = bench.scale, place.volume
    folders = (bench.folder / f"cold-{volume.chunk}-{n}" for n in itertools.count())
    with Server(place.root, scale.latency_s) as server:
        bare = Bare(server.url, place)
        readers: dict[str, Callable[[], Callable[[], Any]]] = {
            BARE: lambda: bare,
            CACHED: lambda: _Cached(server.url, next(folders), place),
            UNCACHED: lambda: open_tomogram(server.url, None, volume.tomo_type).numpy,
            ZARR: lambda: _zarr(server.url, place),
        }
        timings = _take_turns(readers, server, place, scale.cold_rounds)
        bare.end()
    title = f"first read of a volume over HTTP, {scale.latency_s * 1e3:g} ms away, {volume.chunk}³ chunks"
    row = Row(f"cold-{volume.chunk}", title, "s", baseline=BARE)
    row.add(timings)
    # A limit that another reader beats is none: the faster of the two readers that keep nothing counts.
    limit = min((BARE, ZARR), key=lambda name: timings[name].median)
    row.goal(
        f"cold cache / the faster without a cache ({limit})", ratio(timings[CACHED], timings[limit]), 1.15
    )
    row.goal("requests beyond one per chunk", timings[CACHED].counts["requests"] - volume.chunk_count, 4)
    return row


def _take_turns(
    readers: dict[str, Callable[[], Callable[[], Any]]], server: Server, place: Place, rounds: int
) -> dict[str, Timing]:
    """Timings of the reads alone; what prepares them (listings, opening) is not counted, its requests neither."""
    timings = {name: Timing() for name in readers}
    names = list(readers)
    for turn in range(
        -1, rounds
    ):  # the first, in which modules are imported and buffers grow, is not counted
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            read = readers[name]()
            server.traffic()
            cpu, began = time.process_time(), time.perf_counter()
            data = read()
            seconds = time.perf_counter() - began
            counts = server.traffic().counts() | {"CPU s": time.process_time() - cpu}
            if turn < 0:
                if not np.array_equal(data, place.data):
                    raise RuntimeError(f"{name} reads other data than was written")
            else:
                timings[name].rounds.append(seconds)
                timings[name].counts = counts
                timings[name].reads += 1
            del data
            if close := getattr(read, "close", None):
                close()
    return timings


class _Cached:
    """A read through a cache that does not exist yet."""

    def __init__(self, url: str, folder: Path, place: Place) -> None:
        self._folder = folder
        self._tomogram = open_tomogram(url, self._folder, place.volume.tomo_type)

    def __call__(self) -> Any:
        return self._tomogram.numpy()

    def close(self) -> None:
        from copick.cache.manager import open_manager

        open_manager(self._folder).close()
        shutil.rmtree(self._folder)


def _zarr(url: str, place: Place) -> Callable[[], Any]:
    import zarr

    array = zarr.open_array(f"{url}{place.volume.key}/{LEVEL}", mode="r", zarr_format=2)
    return lambda: array[:]


class Bare:
    """What latency, bandwidth and decoding alone allow: a thread per connection, no store, no cache.

    Threads, connections and buffers live as long as this does, so that after its first read none of them costs anything.
    """

    def __init__(self, url: str, place: Place) -> None:
        from numcodecs import Blosc

        self._address, self._volume, self._codec = urlsplit(url), place.volume, Blosc()
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(CONNECTIONS)

    def __call__(self) -> Any:
        edge = self._volume.chunk
        result = np.empty(self._volume.shape, np.float32)
        chunks = itertools.product(*(range(-(-size // edge)) for size in result.shape))
        list(self._pool.map(partial(self._one, result), chunks))
        return result

    def _one(self, result: Any, at: tuple[int, ...]) -> None:
        local, edge = self._local, self._volume.chunk
        if not hasattr(local, "http"):
            local.http = http.client.HTTPConnection(self._address.hostname or "", self._address.port)
            local.chunk = np.zeros((edge,) * 3, np.float32)
            local.payload = bytearray(local.chunk.nbytes + 4096)
        local.http.request("GET", f"/{self._volume.key}/{LEVEL}/" + "/".join(map(str, at)))
        answer = local.http.getresponse()
        payload = memoryview(local.payload)[: answer.length]
        if answer.status != 200 or answer.readinto(payload) != len(payload):
            raise RuntimeError(f"status {answer.status} for chunk {at}, or too few bytes")
        answer.close()
        self._codec.decode(payload, out=local.chunk)
        target = result[tuple(slice(i * edge, i * edge + edge) for i in at)]
        target[...] = local.chunk[tuple(slice(0, size) for size in target.shape)]

    def end(self) -> None:
        self._pool.shutdown()
