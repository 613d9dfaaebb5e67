"""The folder server over real sockets: what clients, caches and fault tests rely on."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from copick.testing.http_server import FolderServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    (root / "Runs" / "TS 1_ü#?&").mkdir(parents=True)
    (root / "Runs" / "TS 1_ü#?&" / ".zattrs").write_text("{}")
    (root / "Runs" / "a%20b").write_text("percent")
    (root / "data.bin").write_bytes(DATA)
    (root / "empty").write_bytes(b"")
    (tmp_path / "secret").write_text("secret")
    return root


@pytest.fixture
def server(folder: Path) -> Iterator[FolderServer]:
    with FolderServer(folder) as running:
        yield running


class Client:
    """One keep-alive connection."""

    def __init__(self, server: FolderServer, timeout: float = 5) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, headers=named)
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()


@pytest.fixture
def client(server: FolderServer) -> Iterator[Client]:
    one = Client(server)
    yield one
    one.connection.close()


def test_get_and_head_of_a_file(server: FolderServer, client: Client) -> None:
    status, headers, body = client.ask("/data.bin")
    assert (status, body, headers["Content-Length"]) == (200, DATA, str(len(DATA)))
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Last-Modified"].endswith("GMT")
    status, headers, body = client.ask("/data.bin", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(DATA)))
    assert client.ask("/empty")[2] == b""
    assert client.ask("/data.bin/")[0] == 404
    assert client.ask("/nothing?x=1")[0] == 404
    assert [(r.method, r.path, r.status, r.bytes) for r in server.requests][:2] == [
        ("GET", "/data.bin", 200, len(DATA)),
        ("HEAD", "/data.bin", 200, 0),
    ]


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [
        ("0-0", 0, 1),
        ("10-19", 10, 20),
        ("10000-", 10000, 10240),
        ("-7", 10233, 10240),
        ("5-99999", 5, 10240),
        ("-99999", 0, 10240),
    ],
)
def test_one_range(client: Client, asked: str, first: int, stop: int) -> None:
    status, headers, body = client.ask("/data.bin", Range=f"bytes={asked}")
    assert (status, body) == (206, DATA[first:stop])
    assert headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(DATA)}"
    assert headers["Content-Length"] == str(stop - first)


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused(client: Client, asked: str) -> None:
    status, headers, _ = client.ask("/data.bin", Range=asked)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=9-3", "bytes=-", "nonsense"])
def test_a_range_that_means_nothing_gets_the_whole_file(client: Client, asked: str) -> None:
    assert client.ask("/data.bin", Range=asked)[::2] == (200, DATA)


def test_etags(folder: Path, client: Client) -> None:
    etag = client.ask("/data.bin")[1]["ETag"]
    status, headers, body = client.ask("/data.bin", If_None_Match=f'"other", W/{etag}')
    assert (status, body, headers["ETag"]) == (304, b"", etag)
    assert client.ask("/data.bin", If_Range=etag, Range="bytes=0-3")[0] == 206
    (folder / "data.bin").write_bytes(DATA[:100])
    status, headers, body = client.ask("/data.bin", If_None_Match=etag)
    assert (status, body) == (200, DATA[:100])
    assert headers["ETag"] != etag
    assert client.ask("/data.bin", If_Range=etag, Range="bytes=0-3")[::2] == (200, DATA[:100])


def test_fsspec_lists_and_reads_every_name(server: FolderServer) -> None:
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    web = fsspec.filesystem("http", skip_instance_cache=True)
    found = {entry["name"]: entry["type"] for entry in web.ls(server.url)}
    assert found == {
        server.url + "Runs/": "directory",
        server.url + "data.bin": "file",
        server.url + "empty": "file",
    }
    (run,) = [name for name in web.ls(server.url + "Runs/", detail=False) if name.endswith("/")]
    (attributes,) = web.ls(run, detail=False)
    assert web.cat_file(attributes) == b"{}"
    assert web.cat_file(server.url + "Runs/a%2520b") == b"percent"
    assert web.cat_file(server.url + "data.bin", start=3, end=9) == DATA[3:9]
    assert web.info(server.url + "data.bin")["size"] == len(DATA)
    assert not web.exists(server.url + "no")


def test_a_folder_without_its_slash_redirects(client: Client) -> None:
    status, headers, _ = client.ask("/Runs")
    assert (status, headers["Location"]) == (301, "/Runs/")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/Runs/..%2f..%2fsecret",
        "/..\\secret",
        "/link",
        "/linked/secret",
        "/%00",
    ],
)
def test_nothing_outside_is_reachable(folder: Path, client: Client, path: str) -> None:
    os.symlink(folder.parent / "secret", folder / "link")
    os.symlink(folder.parent, folder / "linked")
    status, _, body = client.ask(path)
    assert status == 404
    assert b"secret" not in body.replace(path.encode(), b"")


def test_links_inside_are_followed(folder: Path, client: Client) -> None:
    os.symlink("data.bin", folder / "alias")
    assert client.ask("/alias")[::2] == (200, DATA)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_it_is_read_only(folder: Path, server: FolderServer, method: str) -> None:
    one = Client(server)
    one.connection.request(method, "/data.bin", body=b"changed")
    answer = one.connection.getresponse()
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    one.connection.close()
    assert (folder / "data.bin").read_bytes() == DATA


def test_counters(server: FolderServer, client: Client) -> None:
    client.ask("/data.bin", Range="bytes=0-9")
    client.ask("/data.bin", "HEAD")
    client.ask("/no")
    assert server.count() == 3
    assert server.count(lambda request: request.status == 404) == 1
    assert server.requests[0].range == "bytes=0-9"
    assert server.bytes_sent == 10 + len(b"404 Not Found\n")
    server.reset()
    assert (server.requests, server.bytes_sent) == ([], 0)


def test_latency_overlaps(folder: Path) -> None:
    with FolderServer(folder, latency_s=0.2) as server:
        began = time.perf_counter()
        clients = [Client(server) for _ in range(10)]
        threads = [threading.Thread(target=one.ask, args=("/empty",)) for one in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        for one in clients:
            one.connection.close()
    assert 0.2 <= took < 1.0
    assert len(server.requests) == 10


def test_a_status_instead_of_an_answer(server: FolderServer, client: Client) -> None:
    server.fault = lambda method, path: {"/data.bin": 403, "/empty": 500, "/Runs/": 599}.get(path)
    assert [client.ask(path)[0] for path in ("/data.bin", "/empty", "/Runs/", "/no")] == [403, 500, 599, 404]
    server.fault = None
    assert client.ask("/data.bin")[::2] == (200, DATA)


def test_half_a_body(server: FolderServer, client: Client) -> None:
    server.fault = lambda method, path: "truncate"
    with pytest.raises(http.client.IncompleteRead) as broken:
        client.ask("/data.bin")
    assert broken.value.partial == DATA[: len(DATA) // 2]
    assert server.requests[0].bytes == len(DATA) // 2


def test_no_answer_at_all(server: FolderServer, client: Client) -> None:
    server.fault = lambda method, path: "drop"
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        client.ask("/data.bin")
    assert server.requests[0].status == 0


def test_closing_ends_hanging_requests(folder: Path) -> None:
    before = set(threading.enumerate())
    with FolderServer(folder, fault=lambda method, path: "hang") as server:
        hung = Client(server, timeout=0.2)
        with pytest.raises(TimeoutError):
            hung.ask("/data.bin")
        patient = Client(server, timeout=30)
        patient.connection.request("GET", "/data.bin")
        idle = socket.create_connection(("127.0.0.1", server.port))
        while len(server.requests) < 2:
            time.sleep(0.01)
        began = time.perf_counter()
    assert time.perf_counter() - began < 2
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        patient.connection.getresponse()
    for one in (hung.connection, patient.connection, idle):
        one.close()
    server.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)
    assert not [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]


def test_a_client_that_leaves_is_counted_by_what_it_got(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open(folder / "big", "wb") as file:
        file.truncate(64 << 20)
    with FolderServer(folder) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            raw.recv(1000)
        deadline = time.monotonic() + 5
        while server.bytes_sent == 64 << 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.bytes_sent < 64 << 20
    assert capfd.readouterr().err == ""


def test_big_bodies_are_fast(folder: Path) -> None:
    with open(folder / "big", "wb") as file:
        file.truncate(64 << 20)
    with FolderServer(folder) as server, urlopen(server.url + "big", timeout=20) as answer:
        began = time.perf_counter()
        buffer = bytearray(1 << 20)
        total = 0
        while got := answer.readinto(buffer):
            total += got
        assert total == 64 << 20
        assert time.perf_counter() - began < 5


def test_it_runs_as_a_process_of_its_own(folder: Path) -> None:
    command = [sys.executable, "-m", "copick.testing.http_server", str(folder), "--latency-ms", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urlopen(url + "data.bin", timeout=5) as answer:
            assert answer.read() == DATA
        process.communicate()
    assert process.returncode == 0


def test_only_folders_are_served(folder: Path) -> None:
    with pytest.raises(NotADirectoryError, match="not a folder"):
        FolderServer(folder / "data.bin")
