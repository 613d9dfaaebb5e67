"""A web server in a process of its own, so that it takes no time from the reader's interpreter; it counts what it is asked."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path
    from types import TracebackType
    from typing import Self


@dataclass(frozen=True)
class Traffic:
    """What was asked since the last look."""

    requests: Counter[str]
    """By path."""
    nbytes: int

    @property
    def total(self) -> int:
        return sum(self.requests.values())

    def of_chunks(self) -> Counter[str]:
        """Requests for chunks, by path: files whose name is a number."""
        return Counter({path: n for path, n in self.requests.items() if path.rpartition("/")[2].isdigit()})

    def counts(self) -> dict[str, Any]:
        return {"requests": self.total, "MB": round(self.nbytes / 1e6)}


class Server:
    """Serves a folder until it is closed."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(str(folder), latency_s, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.url: str = self._pipe.recv()

    def traffic(self) -> Traffic:
        """What was asked since the last call."""
        self._pipe.send("traffic")
        return Traffic(*self._pipe.recv())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(10)


def _serve(folder: str, latency_s: float, pipe: Connection) -> None:
    from copick.testing.http_server import FolderServer

    with FolderServer(folder, latency_s) as server:
        pipe.send(server.url)
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            requests = server.requests
            server.reset()
            pipe.send((Counter(request.path for request in requests), sum(each.bytes for each in requests)))
