"""A folder behind a slow, read-only web server: what a remote archive is to a reader, here and countable.

    with FolderServer("/data/project", latency_s=0.02) as server:
        fsspec.filesystem("http").ls(server.url)
        assert server.count(lambda request: request.path.endswith(".zarray")) == 0

Real sockets, HTTP/1.1 with keep-alive, one thread per connection. Requests are counted before their first
byte is answered, so a client that has its answer always finds its request in the count. Faults are injected
per request.

It runs alone, too, until its input ends: `python -m copick.testing.http_server FOLDER --latency-ms 20` prints
the URL.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import os
import re
import socket
import stat
import sys
import threading
import time
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

Fault: TypeAlias = "int | tuple[int, str] | Literal['hang', 'truncate', 'drop'] | None"
"""What happens instead of an answer: a status (and `Retry-After`), silence, half a body, a hang-up. `None`: it answers."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class Request:
    """One request that reached the server.

    Attributes:
        method: `GET` or `HEAD`, or what was refused.
        path: Percent-decoded, without the query, starting with `/`.
        status: The status answered; 0 for a request that got none (hang, drop).
        bytes: Bytes of the body sent.
        range: The `Range` header as sent, or `None`.
    """

    method: str
    path: str
    status: int
    bytes: int
    range: str | None = None


class FolderServer:
    """Serves `folder` read-only at `url` from construction to `close()`; a context manager.

    Attributes:
        latency_s: Seconds before each answer, slept in the connection's own thread: requests overlap.
        fault: Asked for each request with its method and decoded path.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        latency_s: float = 0.0,
        *,
        fault: Callable[[str, str], Fault] | None = None,
        port: int = 0,
    ) -> None:
        """Starts to serve.

        Args:
            folder: What to serve. Nothing outside it is reachable, not through symbolic links either.
            latency_s: See the attribute.
            fault: See the attribute.
            port: TCP port on 127.0.0.1; 0 takes a free one.

        Raises:
            NotADirectoryError: `folder` is no folder.
            OSError: The port is taken.
        """
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder} is not a folder")
        self.latency_s = latency_s
        self.fault = fault
        self.closing = threading.Event()
        self._requests: list[Request] = []
        self._lock = threading.Lock()  # guards _requests
        self._http = _Sockets(("127.0.0.1", port), self)
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever,
            kwargs={"poll_interval": 0.05},
            name=f"http-{self.port}",
            daemon=True,
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The folder's address, ending with a slash."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def requests(self) -> list[Request]:
        """Everything asked since the start or the last `reset()`, in order of arrival."""
        with self._lock:
            return [*self._requests]

    @property
    def bytes_sent(self) -> int:
        """Bytes of bodies sent since the start or the last `reset()`."""
        return sum(request.bytes for request in self.requests)

    def count(self, predicate: Callable[[Request], bool] = lambda request: True) -> int:
        """How many requests `predicate` holds for; without one, all."""
        return sum(predicate(request) for request in self.requests)

    def reset(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests.clear()

    def close(self) -> None:
        """Stop serving and end every connection, hanging ones too. Harmless when closed."""
        if self.closing.is_set():
            return
        self.closing.set()
        # A forked child holds the listening socket too: without this, clients would queue there for ever.
        with contextlib.suppress(OSError):
            self._http.socket.shutdown(socket.SHUT_RDWR)
        self._http.shutdown()
        self._http.server_close()
        self._http.end_connections()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.folder} at {self.url}>"

    def record(self, request: Request) -> None:
        """Count a request that is about to be answered."""
        with self._lock:
            self._requests.append(request)

    def correct(self, request: Request, sent: int) -> None:
        """The answer to `request` broke off after `sent` bytes of its body."""
        with self._lock:
            for at in range(len(self._requests) - 1, -1, -1):
                if self._requests[at] is request:
                    self._requests[at] = replace(request, bytes=sent)
                    return

    def locate(self, path: str) -> str | None:
        """The file or folder at a decoded URL path, or `None` if it is outside the folder or unspeakable."""
        parts = [part for part in path.split("/") if part]
        if any(part in {".", ".."} or "\0" in part or os.sep in part or "\\" in part for part in parts):
            return None
        real = os.path.realpath(os.path.join(self.folder, *parts))
        inside = real == str(self.folder) or real.startswith(str(self.folder).rstrip(os.sep) + os.sep)
        return real if inside else None


class _Sockets(ThreadingHTTPServer):
    """The listening socket and one daemon thread per connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], owner: FolderServer) -> None:
        self.owner = owner
        self._open: dict[threading.Thread, socket.socket] = {}
        self._open_lock = threading.Lock()  # guards _open
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer looks its own name up in the DNS here, which takes seconds on some machines.
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        arguments = (request, client_address)
        thread = threading.Thread(target=self.process_request_thread, args=arguments, daemon=True)
        with self._open_lock:
            self._open[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_lock:
                self._open.pop(threading.current_thread(), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that goes away is not our error
            super().handle_error(request, client_address)

    def end_connections(self, timeout_s: float = 5.0) -> None:
        """Shut the sockets of all connections and wait for their threads."""
        with self._open_lock:
            connections = dict(self._open)
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + timeout_s
        for thread in connections:
            thread.join(max(0.0, deadline - time.monotonic()))


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "copick-folder"
    disable_nagle_algorithm = True

    @property
    def owner(self) -> FolderServer:
        return cast("_Sockets", self.server).owner

    def do_GET(self) -> None:
        self._truncate = False
        self._target = unquote(self.path.partition("?")[0].partition("#")[0], errors="surrogateescape")
        owner = self.owner
        if owner.latency_s:
            owner.closing.wait(owner.latency_s)
        fault = owner.fault(self.command, self._target) if owner.fault is not None else None
        if fault in ("hang", "drop"):
            self._record(0, 0)
            self.close_connection = True
            if fault == "hang":
                owner.closing.wait()
        elif isinstance(fault, int):
            self._fail(fault)
        elif isinstance(fault, tuple):
            self._fail(fault[0], {"Retry-After": fault[1]})
        else:
            self._truncate = fault == "truncate"
            self._answer()

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self._truncate = False
        self._target = unquote(self.path.partition("?")[0], errors="surrogateescape")
        self.close_connection = True  # its body is not read
        self._fail(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD", "Connection": "close"})

    do_PUT = do_POST = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        place = self.owner.locate(self._target)
        try:
            found = os.stat(place) if place is not None else None
        except OSError:
            found = None
        if place is None or found is None:
            self._fail(HTTPStatus.NOT_FOUND)
        elif stat.S_ISDIR(found.st_mode):
            self._folder(place)
        elif stat.S_ISREG(found.st_mode) and not self._target.endswith("/"):
            self._file(place)
        else:
            self._fail(HTTPStatus.NOT_FOUND)

    def _folder(self, place: str) -> None:
        if not self._target.endswith(
            "/"
        ):  # links are relative: the address of a folder must end with a slash
            location = quote(self._target + "/", errors="surrogateescape")
            self._send(HTTPStatus.MOVED_PERMANENTLY, {"Location": location})
            return
        try:
            with os.scandir(place) as entries:
                names = sorted(entry.name + "/" if entry.is_dir() else entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):  # gone since it was looked for
            self._fail(HTTPStatus.NOT_FOUND)
        except OSError:
            self._fail(HTTPStatus.FORBIDDEN)
            return
        links = []
        for name in names:
            href = quote(name, safe="/", errors="surrogateescape")
            text = html.escape(name.encode(errors="surrogateescape").decode(errors="replace"))
            links.append(f'<li><a href="{href}">{text}</a></li>')
        title = html.escape(self._target.encode(errors="surrogateescape").decode(errors="replace"))
        page = f"<!DOCTYPE html><title>{title}</title><h1>{title}</h1><ul>\n" + "\n".join(links) + "\n</ul>\n"
        self._send(HTTPStatus.OK, {"Content-Type": "text/html; charset=utf-8"}, page.encode())

    def _file(self, place: str) -> None:
        try:
            file = open(place, "rb")  # noqa: SIM115 (closed by the with below; opening alone may be refused)
        except (FileNotFoundError, NotADirectoryError):  # gone since it was looked for
            self._fail(HTTPStatus.NOT_FOUND)
        except OSError:
            self._fail(HTTPStatus.FORBIDDEN)
            return
        with file:
            info = os.fstat(file.fileno())
            size = info.st_size
            etag = f'"{info.st_mtime_ns:x}-{size:x}"'
            headers = {
                "ETag": etag,
                "Last-Modified": formatdate(info.st_mtime, usegmt=True),
                "Accept-Ranges": "bytes",
            }
            if _matches(self.headers.get("If-None-Match"), etag):
                self._send(HTTPStatus.NOT_MODIFIED, headers)
                return
            headers["Content-Type"] = (
                "application/json" if place.endswith(".json") else "application/octet-stream"
            )
            wanted = _parse_range(self.headers.get("Range"), size)
            if self.headers.get("If-Range") not in (None, etag):
                wanted = None
            if wanted is None:
                self._send(HTTPStatus.OK, headers, file, 0, size)
            elif not wanted:
                self._fail(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{size}"})
            else:
                headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
                self._send(HTTPStatus.PARTIAL_CONTENT, headers, file, wanted.start, len(wanted))

    def _fail(self, status: int, headers: dict[str, str] | None = None) -> None:
        text = f"{status} {_phrase(status)}\n".encode()
        self._send(status, {"Content-Type": "text/plain", **(headers or {})}, text)

    def _send(
        self, status: int, headers: dict[str, str], body: Any = b"", start: int = 0, count: int = -1
    ) -> None:
        """One answer; `body` is bytes, or an open file of which `count` bytes from `start` on are sent."""
        count = len(body) if count < 0 else count
        has_body = self.command != "HEAD" and status != HTTPStatus.NOT_MODIFIED
        to_send = count if has_body else 0
        if self._truncate:
            to_send //= 2
            self.close_connection = True
        request = self._record(status, to_send)
        sent = 0
        try:
            self.send_response(status, _phrase(status))
            for name, value in headers.items():
                self.send_header(name, value)
            if status != HTTPStatus.NOT_MODIFIED:  # its length would be that of the body it spares
                self.send_header("Content-Length", str(count))
            self.end_headers()
            if isinstance(body, bytes):
                self.wfile.write(body[:to_send])
                sent = to_send
            elif to_send:
                sent = self.connection.sendfile(body, start, to_send)
        finally:
            if sent < to_send:
                self.close_connection = True
                self.owner.correct(request, sent)

    def _record(self, status: int, sent: int) -> Request:
        request = Request(self.command, self._target, int(status), sent, self.headers.get("Range"))
        self.owner.record(request)
        return request


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Injected"


def _matches(condition: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` header names `etag`."""
    if condition is None:
        return False
    return any(tag.strip().removeprefix("W/") in ("*", etag) for tag in condition.split(","))


def _parse_range(header: str | None, size: int) -> range | None:
    """The bytes a `Range` header asks of a file of `size`.

    `None` for the whole file (no header, or one we may ignore: several ranges, another unit, nonsense); an
    empty range for one that cannot be satisfied.
    """
    asked = _RANGE.fullmatch(header.strip()) if header is not None else None
    if asked is None or asked.groups() == ("", ""):
        return None
    first, last = asked.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    start = int(first)
    stop = size if not last else min(size, int(last) + 1)
    if last and int(last) < start:
        return None
    return range(start, stop) if start < stop else range(0)


def main() -> None:
    """Serve a folder from the command line until standard input ends."""
    parser = argparse.ArgumentParser(
        description="Serve a folder read-only on 127.0.0.1 until standard input ends."
    )
    parser.add_argument("folder")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="wait this long before each answer")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    arguments = parser.parse_args()
    with FolderServer(arguments.folder, arguments.latency_ms / 1000, port=arguments.port) as server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()


if __name__ == "__main__":
    main()
