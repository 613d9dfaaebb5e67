"""Directories near and far: odd names, and everything that can go wrong."""

from __future__ import annotations

import datetime
import email.utils
import errno
import logging
import multiprocessing
import os
import socket
import stat
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from copick.errors import ConfigError, CopickError, LayerError
from copick.kinds import PICKS, RUN, TOMOGRAM, VOXEL_SPACING, Ref
from copick.layers.ahead import Entry
from copick.layers.places import LocalPlace, local_path
from copick.layers.protocols import with_timeouts
from copick.layers.retries import seconds
from copick.layers.walks import walked
from copick.testing.http_server import FolderServer
from copick.testing.layers import keys, mask, picks, run, spacing, tomogram
from projects import alone, files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from copick.layers.filesystem import FilesystemLayer
    from copick.testing.http_server import Fault


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a run, a tomogram, picks and a segmentation."""
    layer = files(tmp_path / "project")
    layer.save(picks, b"[1]")
    layer.create(mask)
    layer.create(tomogram)
    zarr.create_array(layer.store(tomogram, write=True), name="0", data=np.ones((2, 2, 2)), zarr_format=2)
    return tmp_path / "project"


@pytest.fixture
def server(project: Path) -> Iterator[FolderServer]:
    with FolderServer(project) as server:
        yield server


# Local directories


@pytest.mark.parametrize("prefix", ["", "local://", "file://", "local:", "file:", "LOCAL://", "File://"])
def test_ways_to_say_a_directory(project: Path, prefix: str) -> None:
    layer = files(f"{prefix}{project}")
    assert layer.is_local
    assert keys(layer, None, run) == [run]


def test_relative_roots_stay_where_they_were(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.parent)
    layer = files("project")
    monkeypatch.chdir("/")
    assert layer.load(picks) == b"[1]"
    monkeypatch.setenv("HOME", str(project.parent))
    assert local_path("~/project") == str(project)


def test_layout(project: Path) -> None:
    found = {
        str(path.relative_to(project))
        for path in project.rglob("*")
        if path.is_file() and "wbp" not in str(path)
    }
    assert found == {
        "ExperimentRuns/TS_001/Picks/me_1_ribosome.json",
        "ExperimentRuns/TS_001/Segmentations/10.000_me_1_ribosome.zarr/.zgroup",
        "ExperimentRuns/TS_001/VoxelSpacing10.000/.meta",
    }


def test_odd_names_of_directories_are_read(project: Path) -> None:
    (project / "ExperimentRuns/TS_001/VoxelSpacing10.000").rename(
        project / "ExperimentRuns/TS_001/VoxelSpacing10"
    )
    layer = files(project)
    assert keys(layer, run, spacing) == [spacing]
    assert keys(layer, spacing, tomogram) == [tomogram]
    assert layer.exists(tomogram)
    assert zarr.open_array(layer.store(tomogram), path="0", mode="r").shape == (2, 2, 2)


def test_of_two_names_for_one_thing_ours_wins(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("VoxelSpacing10", "VoxelSpacing10.00000"):
        (project / "ExperimentRuns/TS_001" / name).mkdir()
    layer = files(project)
    assert keys(layer, run, spacing) == [spacing]
    assert keys(layer, spacing, tomogram) == [tomogram]
    assert "twice" in caplog.text


def test_what_is_not_ours_is_skipped(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    top = project / "ExperimentRuns"
    (top / "notes.txt").write_text("x")
    (top / ".hidden").mkdir()
    (top / "linked").symlink_to(top / "TS_001")
    (top / "TS_001/VoxelSpacingabc").mkdir()
    (top / "TS_001/VoxelSpacing10.000/wbp_edge_features.zarr").mkdir()
    (top / "TS_001/VoxelSpacing10.000/features-v2.zarr").mkdir()
    (top / "TS_001/VoxelSpacing10.000/file.zarr").write_text("x")
    (top / "TS_001/Picks/short.json").write_text("{}")
    (top / "TS_001/Picks/dir_is_none.json").mkdir()
    layer = files(project)
    assert [ref.values for ref in keys(layer, None, run)] == [("TS_001",), ("linked",)]
    with caplog.at_level(logging.WARNING, "copick"):
        assert keys(layer, run, spacing) == [spacing]
        assert [ref.values for ref in keys(layer, spacing, tomogram)] == [("features-v2",), ("wbp",)]
        assert keys(layer, run, picks) == [picks]
    skipped = ("VoxelSpacingabc", "file.zarr", "dir_is_none.json", "short.json")
    for record, name in zip(caplog.records, skipped, strict=True):
        assert record.levelname == "WARNING"
        assert f"{name}'" in record.getMessage()


@pytest.mark.skipif(os.name == "nt", reason="such names cannot exist")
def test_names_that_we_would_not_write_can_be_read(project: Path) -> None:
    (project / "ExperimentRuns" / "a\\b").mkdir()
    (project / "ExperimentRuns" / "tab\there").mkdir()
    assert keys(files(project), None, run) == [run]


def test_saving_is_atomic(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = files(project)

    def dies(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(
        LayerError, match=r"layer 'files'.*me_1_ribosome\.json failed: OSError: disk full; check the disk"
    ):
        layer.save(picks, b"[2]")
    monkeypatch.undo()
    assert layer.load(picks) == b"[1]"
    assert [path.name for path in (project / "ExperimentRuns/TS_001/Picks").iterdir()] == [
        "me_1_ribosome.json"
    ]


def test_documents_have_the_permissions_of_the_directory_s_owner(project: Path) -> None:
    path = project / "ExperimentRuns/TS_001/Picks/me_1_ribosome.json"
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~before


def test_deleting_a_link_keeps_what_it_points_to(project: Path) -> None:
    top = project / "ExperimentRuns"
    (top / "linked").symlink_to(top / "TS_001")
    files(project).delete(Ref(RUN, ("linked",)))
    assert files(project).load(picks) == b"[1]"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read(project: Path) -> None:
    (project / "ExperimentRuns").chmod(0)
    with pytest.raises(LayerError, match="check its permissions"):
        files(project).list(None, RUN)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_chunks_that_may_not_be_listed_are_not_left_out(project: Path, tmp_path: Path) -> None:
    (project / "ExperimentRuns/TS_001/VoxelSpacing10.000/wbp.zarr/0").chmod(0)
    with pytest.raises(LayerError, match="check its permissions"):
        files(tmp_path / "target").adopt(tomogram, files(project).original(tomogram))
    assert not files(tmp_path / "target").exists(tomogram)


def test_what_is_not_permitted_is_a_permission_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in copick 1.x: scripts tell by it that they cannot write here."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    root = alone(project)
    owner = root.runs[0]
    for module, name in ((LocalPlace, "write"), (LocalPlace, "remove"), (os, "replace")):
        monkeypatch.setattr(module, name, refuse)
    acts: list[tuple[str, Callable[[], object]]] = [
        ("check its permissions", lambda: root.new_run("TS_002")),
        ("check its permissions", lambda: owner.new_picks("ribosome", "2")),
        ("was not removed; this failed: filesystem .*Permission denied", owner.delete),
        ("cannot be written: Permission denied", lambda: root.save_config(project / "config.json")),
    ]
    for text, act in acts:
        with pytest.raises(PermissionError, match=text) as caught:
            act()
        assert isinstance(caught.value, LayerError)


def test_what_is_no_array_is_not_copied(project: Path, tmp_path: Path) -> None:
    (project / "ExperimentRuns/TS_001/VoxelSpacing10.000/empty.zarr").mkdir()
    empty = Ref(TOMOGRAM, ("empty",), spacing)
    with pytest.raises(LayerError, match=r"layer 'old'.*empty\.zarr holds no array"):
        files(tmp_path / "target").adopt(empty, files(project, "old").original(empty))
    assert not files(tmp_path / "target").exists(empty)


def test_a_listed_folder_that_is_gone_is_an_error() -> None:
    there = {"a": [Entry("b", True), Entry("c", False)]}

    def ask(folders: Sequence[str]) -> dict[str, list[Entry] | Exception]:
        return {folder: there.get(folder, FileNotFoundError(folder)) for folder in folders}

    found = walked("a", ask)
    assert next(found) == ["c"]
    with pytest.raises(OSError, match="a/b is listed, but it is not there"):
        next(found)


def test_roots_that_do_not_exist(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        ConfigError, match=r"layer 'old': root .*nowhere' cannot be used: there is no such directory"
    ):
        files(tmp_path / "nowhere", "old", read_only=True).check()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="not a directory"):
        files(tmp_path / "file").check()
    new = files(tmp_path / "new")
    new.check()
    assert f"root {tmp_path}/new is not there; the first write will make it" in caplog.text
    assert new.list(None, RUN) == []
    assert not (tmp_path / "new").exists()
    new.create(run)
    assert (tmp_path / "new/ExperimentRuns/TS_001").is_dir()


@pytest.mark.parametrize("read_only", [True, False])
def test_a_root_that_vanishes_is_not_an_empty_one(project: Path, read_only: bool) -> None:
    layer = files(project, read_only=read_only)
    layer.check()
    array = zarr.open_array(layer.store(tomogram), path="0", mode="r")
    project.rename(project.with_name("elsewhere"))
    asks = [
        lambda: layer.list(None, RUN),
        lambda: layer.stamps(None, RUN),
        lambda: layer.exists(run),
        lambda: layer.load(picks),
        lambda: layer.store(tomogram),
        lambda: array[...],
    ]
    for ask in asks:
        with pytest.raises(LayerError, match="there is no such directory; it was there before"):
            ask()


@pytest.mark.parametrize("new", [True, False])
def test_nothing_is_written_where_a_root_was(tmp_path: Path, new: bool) -> None:
    layer = files(tmp_path / "disk/project")
    if not new:
        (tmp_path / "disk/project").mkdir(parents=True)
    layer.check()
    layer.save(picks, b"[1]")
    array = zarr.create_array(layer.store(tomogram, write=True), name="0", data=np.ones((2, 2, 2)))
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    writes = [
        lambda: layer.save(picks, b"[2]"),
        lambda: layer.create(run),
        lambda: layer.delete(picks),
        lambda: layer.store(mask, write=True),
        lambda: layer.adopt(mask, files(tmp_path / "elsewhere/project").original(tomogram)),
        lambda: array.__setitem__(..., 2.0),
    ]
    for write in writes:
        with pytest.raises(LayerError, match="it was there before"):
            write()
    assert not (tmp_path / "disk").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "disk")
    assert layer.load(picks) == b"[1]"


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second disk")
def test_an_empty_folder_on_another_disk_is_not_the_root(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as disk:
        (tmp_path / "root").symlink_to(disk)
        layer = files(tmp_path / "root")
        layer.save(picks, b"[1]")
        (tmp_path / "root").unlink()
        (tmp_path / "root").mkdir()
        with pytest.raises(LayerError, match="it is empty, and not on the disk that it was on"):
            layer.save(picks, b"[2]")
        assert not [*(tmp_path / "root").iterdir()]


def test_an_existing_root_without_runs_is_empty(tmp_path: Path) -> None:
    assert files(tmp_path, read_only=True).list(None, RUN) == []
    (tmp_path / "ExperimentRuns").write_text("a file")
    assert files(tmp_path, read_only=True).list(None, RUN) == []


# Addresses


def test_protocols_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"no file system 's33' \(did you mean 's3'\?\)"):
        files("s33://bucket").check()


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> None:
        raise ImportError("Install sshfs")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(ConfigError, match=r'ssh:// needs a package.*pip install "copick\[ssh\]"'):
        files("ssh://host/x").check()


def test_time_limits_unless_stated() -> None:
    http = with_timeouts("https", {"client_kwargs": {"trust_env": True}}, 7.0)["client_kwargs"]
    assert (http["timeout"].sock_connect, http["timeout"].sock_read, http["trust_env"]) == (7.0, 7.0, True)
    stated = {"client_kwargs": {"timeout": 3, "middlewares": ()}}
    assert with_timeouts("https", stated, 7.0) == stated
    s3 = with_timeouts("s3", {"config_kwargs": {"read_timeout": 1}}, 7.0)["config_kwargs"]
    assert (s3["connect_timeout"], s3["read_timeout"], s3["retries"]["max_attempts"]) == (7.0, 1, 2)
    assert with_timeouts("memory", {}, 7.0) == {}


# Web servers


def test_requests_are_few(server: FolderServer) -> None:
    layer = files(server.url)
    layer.list(None, RUN)
    assert server.count() == 1
    layer.list(run, VOXEL_SPACING)
    layer.list(spacing, TOMOGRAM)
    assert server.count() == 3
    layer.store(tomogram)
    layer.exists(mask)
    layer.load(picks)
    assert server.count() == 5
    assert [request.path.rpartition("/")[2] for request in server.requests[3:]] == [
        ".zgroup",
        "me_1_ribosome.json",
    ]


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (403, "check that you may read it"),
        (401, "check that you may read it"),
        (500, "check the address and the network"),
        (503, "check the address and the network"),
        ("drop", "check the address and the network"),
        ("hang", r"did not answer within timeout_s=0\.3"),
    ],
)
def test_servers_that_fail(server: FolderServer, fault: Any, advice: str) -> None:
    layer = files(server.url, "archive", timeout_s=0.3)
    server.fault = lambda method, path: fault
    asks = [
        lambda: layer.list(None, RUN),
        lambda: layer.list(run, PICKS),
        lambda: layer.exists(run),
        lambda: layer.exists(tomogram),
        lambda: layer.exists(picks),
        lambda: layer.load(picks),
        lambda: layer.store(tomogram),
    ]
    for ask in asks:
        with pytest.raises(LayerError, match=rf"layer 'archive': {server.url.rstrip('/')}.*{advice}"):
            ask()


@pytest.mark.parametrize(("status", "tries"), [(429, 3), (502, 3), (503, 3), (504, 3), (500, 1), (403, 1)])
def test_servers_that_are_busy_are_asked_again(server: FolderServer, status: int, tries: int) -> None:
    layer = files(server.url)
    answers = iter([status] * (tries - 1))
    server.fault = lambda method, path: next(answers, None)
    assert layer.load(picks) == b"[1]"
    server.reset()
    server.fault = lambda method, path: status
    with pytest.raises(CopickError):
        layer.load(picks)
    assert server.count() == tries


def test_servers_say_when_they_are_asked_again(server: FolderServer) -> None:
    layer, times = files(server.url, timeout_s=5), []

    def fault(method: str, path: str) -> Fault:
        times.append(time.monotonic())
        return (503, "1") if len(times) == 1 else None

    server.fault = fault
    store = layer.store(tomogram)
    read = zarr.core.sync.sync(store.get("0/.zarray", zarr.core.buffer.default_buffer_prototype()))
    assert read is not None
    assert times[1] - times[0] > 0.99
    server.reset()
    server.fault = lambda method, path: (503, "6")
    with pytest.raises(LayerError, match="503"):
        layer.load(picks)
    assert server.count() == 1, "nobody waits for longer than timeout_s"


@pytest.mark.parametrize("folder", ["wbp.zarr", "wbp.zarr/0"])
@pytest.mark.parametrize("fault", [404, 500, "hang", "drop", "truncate"])
def test_what_cannot_be_listed_is_not_copied(
    server: FolderServer, tmp_path: Path, folder: str, fault: Any
) -> None:
    source, target = files(server.url, "archive", timeout_s=0.3), files(tmp_path / "target")
    keys(source, spacing, tomogram)
    server.fault = lambda method, path: fault if path.rstrip("/").endswith(folder) else None
    with pytest.raises(LayerError, match=r"layer 'archive'.*wbp\.zarr"):
        target.adopt(tomogram, source.original(tomogram))
    assert not target.exists(tomogram)
    assert not [path for path in tmp_path.glob("target/**/*.*") if path.is_file()]
    server.fault = None
    target.adopt(tomogram, source.original(tomogram))
    assert {*target.store(tomogram)} == {*source.store(tomogram)} > {".zgroup", "0/.zarray", "0/0.0.0"}


def test_when_to_ask_again() -> None:
    assert seconds("0") == 0.0
    assert seconds(" 120 ") == 120.0
    later = email.utils.format_datetime(
        datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60), usegmt=True
    )
    assert 58 < (seconds(later) or 0) <= 60
    assert seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert {
        seconds(text) for text in (None, "", "soon", "-1", "1.5", "\u0663", "Wed, 99 Oct 2015 07:28:00 GMT")
    } == {None}


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(LayerError, match="check the address and the network"):
        files(f"http://127.0.0.1:{port}").list(None, RUN)


def test_a_page_that_is_not_there(server: FolderServer) -> None:
    layer = files(server.url + "/nowhere")
    with pytest.raises(LayerError, match=r"cannot be read: there is no such directory"):
        layer.list(None, RUN)
    with pytest.raises(LayerError, match=r"cannot be read: there is no such directory"):
        layer.load(picks)
    with pytest.raises(LayerError, match="no such directory"):
        layer.exists(run)


def test_empty_documents(project: Path, server: FolderServer) -> None:
    files(project).save(picks, b"")
    assert files(server.url).exists(picks)
    assert files(server.url).load(picks) == b""


def test_links_that_lead_elsewhere_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = files("http://host/a%20b")
    here = "http://host/a%20b/ExperimentRuns"
    links = [
        f"{here}/TS_1/", f"{here}/TS%202/", "https://host/a%20b/ExperimentRuns/TS_3/", "http://host/a%20b/",
        "http://other/TS_4/", f"{here}/TS_5/VoxelSpacing10/", f"{here}/?C=N;O=D", f"{here}/%2e%2e/", f"{here}/a%2Fb/",
        f"{here}/#top", f"{here}/file.txt", f"{here}/100%25/",
    ]  # fmt: skip

    class Page:
        async_impl = False

        def ls(self, path: str, detail: bool) -> list[dict[str, str]]:
            return [{"name": link, "type": "directory" if link.endswith("/") else "file"} for link in links]

    monkeypatch.setattr(layer.place, "_open", (os.getpid(), Page(), "http://host/a%20b"))
    assert [ref.values[0] for ref in keys(layer, None, run)] == ["100%", "TS 2", "TS_1", "TS_3"]


# S3


def test_whether_a_place_is_there(tmp_path: Path, project: Path, server: FolderServer) -> None:
    work = files(tmp_path / "new/work")
    assert not work.ensure()
    assert work.ensure(create=True)
    assert work.ensure()
    assert (tmp_path / "new/work").is_dir()
    archive = files(server.url)
    assert archive.ensure()
    assert not files(f"{server.url}nothing").ensure()
    server.close()
    assert not archive.ensure()
    (tmp_path / "file").write_text("")
    with pytest.raises(LayerError, match=r"layer 'files': .*file/work.* Not a directory"):
        files(tmp_path / "file/work").ensure(create=True)


def test_whether_a_bucket_is_there(s3_bucket: str, s3_args: dict[str, Any]) -> None:
    assert files(f"s3://{s3_bucket}/new", fs_args=s3_args).ensure(create=True)
    assert files(f"s3://{s3_bucket}/new", fs_args=s3_args).ensure()
    assert not files(f"s3://{s3_bucket}/new", fs_args=s3_args, read_only=True).ensure()
    assert not files("s3://no-such-bucket-here/new", fs_args=s3_args).ensure(create=True)


def test_a_bucket_that_is_not_there(s3_args: dict[str, Any]) -> None:
    for read_only in (True, False):
        layer = files("s3://no-such-bucket-here/x", "lab", fs_args=s3_args, read_only=read_only)
        with pytest.raises(LayerError, match=r"layer 'lab'.*(bucket|nothing)"):
            layer.list(None, RUN)


def test_an_empty_bucket(s3_bucket: str, s3_args: dict[str, Any]) -> None:
    assert files(f"s3://{s3_bucket}/new", fs_args=s3_args).list(None, RUN) == []
    with pytest.raises(LayerError, match="there is nothing under 'new'"):
        files(f"s3://{s3_bucket}/new", fs_args=s3_args, read_only=True).list(None, RUN)


def test_what_others_write_shows_after_a_refresh(s3_bucket: str, s3_args: dict[str, Any]) -> None:
    layer, other = (files(f"s3://{s3_bucket}/x", fs_args=s3_args) for _ in range(2))
    layer.create(run)
    assert keys(layer, None, run) == [run]
    new = Ref(RUN, ("new",))
    other.create(new)
    layer.refresh()
    assert keys(layer, None, run) == [run, new]


def test_a_server_without_credentials(
    s3_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    layer = files("s3://bucket/x", fs_args={"endpoint_url": s3_args["endpoint_url"]})
    with pytest.raises(LayerError, match='"anon": true'):
        layer.list(None, RUN)


# Processes


def _reads_after_fork(layer: FilesystemLayer, results: Any) -> None:
    document = layer.load(picks)
    value = zarr.open_array(layer.store(tomogram), path="0", mode="r")[0, 0, 0]
    results.put((document, float(value), len(layer.list(None, RUN))))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_remote_layer_works_after_a_fork(server: FolderServer) -> None:
    layer = files(server.url)
    layer.load(picks)
    zarr.open_array(layer.store(tomogram), path="0", mode="r")[...]
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_reads_after_fork, args=(layer, results))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert results.get() == (b"[1]", 1.0, 1)
    assert layer.load(picks) == b"[1]"


def test_a_root_that_others_make_meanwhile(tmp_path: Path) -> None:
    root = tmp_path / "root"
    place, stopped = LocalPlace(str(root)), threading.Event()

    def make() -> None:
        while not stopped.is_set():
            root.mkdir()
            root.rmdir()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(make)
        said = {place.missing_root(read_only) for read_only in (True, False) for _ in range(5000)}
        stopped.set()
    assert said == {None, "there is no such directory"}


def test_a_folder_that_others_remove_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by processes that tidy up beside each other: it was there when it was made, and gone at the next look."""
    made, mkdir = [], os.mkdir

    def made_and_removed_by_others(path: str, mode: int = 0o777) -> None:
        made.append(path)
        if len(made) in (1, 3):
            raise FileExistsError(17, "File exists", path)
        mkdir(path, mode)
        if len(made) == 2:
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", made_and_removed_by_others)
    LocalPlace(str(tmp_path)).write("Picks/1.json", b"[1]")
    assert len(made) == 4
    assert (tmp_path / "Picks" / "1.json").read_bytes() == b"[1]"


def test_a_root_that_is_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "root").symlink_to(tmp_path / "unmounted")
    with pytest.raises(ConfigError, match="it is a link to nothing"):
        alone(tmp_path / "root", read_only=True)
