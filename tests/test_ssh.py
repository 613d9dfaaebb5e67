"""Projects on another machine over SSH: a real server on this one, with keys of its own."""

from __future__ import annotations

import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
import pytest
import zarr

from copick.config import CopickConfigFS
from copick.errors import LayerError
from copick.layers.filesystem import FilesystemLayer
from copick.testing.layers import LayerTests, ReadOnlyLayerTests, fill, keys, picks, run, tomogram
from projects import archived, files, run_of, tomogram_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.layers.layer import Layer

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
KEYGEN = shutil.which("ssh-keygen")


class Server(NamedTuple):
    port: int
    pid: int
    args: dict[str, Any]
    """fs_args that reach it."""


pytestmark = [
    pytest.mark.skipif(SSHD is None or KEYGEN is None, reason="sshd is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("sshfs") is None, reason="sshfs is not installed"),
]

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp internal-sftp
"""


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An SSH server on this machine."""
    folder = tmp_path_factory.mktemp("sshd")
    for key in ("host", "user"):
        subprocess.run([str(KEYGEN), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # a server of root's insists on it
    log = folder / "log"
    server = subprocess.Popen([str(SSHD), "-D", "-f", str(folder / "config"), "-E", str(log)])
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"sshd did not start: {log.read_text() if log.exists() else ''}")
                time.sleep(0.05)
        kind, key, *_ = (folder / "host.pub").read_text().split()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        keys = {"client_keys": [str(folder / "user")], "known_hosts": str(folder / "known_hosts")}
        yield Server(
            port, server.pid, {"username": getpass.getuser(), "agent_path": None, "config": None, **keys}
        )
    finally:
        server.terminate()
        server.wait(10)


def over_ssh(folder: Path, sshd: Server, protocol: str = "ssh", **fields: Any) -> FilesystemLayer:
    fields = {"fs_args": sshd.args, "timeout_s": 20, **fields}
    return FilesystemLayer(
        CopickConfigFS(root=f"{protocol}://127.0.0.1:{sshd.port}{folder}", **fields), "far"
    )


class TestSsh(LayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path, sshd: Server) -> Layer:
        return over_ssh(tmp_path / "my project", sshd)


class TestSftp(ReadOnlyLayerTests):
    @pytest.fixture
    def layer(self, tmp_path: Path, sshd: Server) -> Layer:
        fill(over_ssh(tmp_path / "project", sshd))
        return over_ssh(tmp_path / "project", sshd, "sftp", read_only=True)


def test_a_tomogram_through_a_stack_with_a_cache(archive: Path, tmp_path: Path, sshd: Server) -> None:
    root = archived(tmp_path, f"ssh://127.0.0.1:{sshd.port}{archive}", True, fs_args=sshd.args)
    plain = archived(tmp_path / "plain", archive, False)
    data = tomogram_of(root).numpy()
    assert np.array_equal(data, tomogram_of(plain).numpy())
    assert tomogram_of(root).sources == ["archive"]
    assert run_of(root).picks[0].points[0].location.x == 1
    shutil.rmtree(archive)
    assert np.array_equal(tomogram_of(root).numpy(), data)


def test_what_links_point_to_is_listed(tmp_path: Path, sshd: Server) -> None:
    fill(over_ssh(tmp_path, sshd))
    top = tmp_path / "ExperimentRuns"
    (top / "linked").symlink_to(top / "TS_001")
    (top / "broken").symlink_to(top / "nowhere")
    layer = over_ssh(tmp_path, sshd)
    assert [ref.values for ref in keys(layer, None, run)] == [("TS_001",), ("linked",)]


def test_saving_is_atomic(tmp_path: Path, sshd: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = over_ssh(tmp_path, sshd)
    layer.save(picks, b"[1]")

    def dies(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(layer.place.fs, "mv", dies)  # type: ignore[attr-defined]
    with pytest.raises(
        LayerError, match=r"layer 'far': ssh://.*me_1_ribosome\.json failed: OSError: disk full"
    ):
        layer.save(picks, b"[2]")
    assert layer.load(picks) == b"[1]"
    folder = tmp_path / "ExperimentRuns/TS_001/Picks"
    assert [path.name for path in folder.iterdir()] == ["me_1_ribosome.json"]


def test_a_lost_connection_is_opened_again(tmp_path: Path, sshd: Server) -> None:
    layer = over_ssh(tmp_path, sshd)
    fill(layer)
    array = zarr.open_array(layer.store(tomogram), path="0", mode="r")
    assert array[0, 0, 0] == 1
    for session in psutil.Process(sshd.pid).children(recursive=True):
        session.kill()
    with pytest.raises(LayerError, match=r"layer 'far': .*try again"):
        layer.load(picks)
    assert layer.load(picks) == b"picks"
    assert array[0, 0, 0] == 1


def test_servers_that_refuse_or_are_silent(tmp_path: Path, sshd: Server) -> None:
    stranger = {**sshd.args, "client_keys": []}
    with pytest.raises(LayerError, match=r"layer 'far': ssh://127.*PermissionError.*credentials in fs_args"):
        over_ssh(tmp_path, sshd, fs_args=stranger).list(None, run.kind)
    unknown = {**sshd.args, "known_hosts": str(tmp_path / "empty")}
    (tmp_path / "empty").write_text("")
    with pytest.raises(LayerError, match=r"HostKeyNotVerifiable.*connect once with ssh"):
        over_ssh(tmp_path, sshd, fs_args=unknown).list(None, run.kind)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = sshd._replace(port=silent.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(LayerError, match=r"timeout_s=0\.5|try again"):
            over_ssh(tmp_path, mute, timeout_s=0.5).list(None, run.kind)
        assert time.monotonic() - began < 10
    with pytest.raises(LayerError, match=r"ssh://me@127\.0\.0\.1:1/x.*refused|Connect call failed") as caught:
        files("ssh://me:s3cr3t@127.0.0.1:1/x", "far").list(None, run.kind)
    assert "s3cr3t" not in str(caught.value)
