"""How old what is cached may be, what is served while its source cannot be reached, and that versions never mix."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import copick
from copick.cache import contact, freshness, journal, manager
from copick.cache.source import Source
from copick.errors import LayerError, NotFoundError
from copick.layers.tags import described
from copick.testing.http_server import FolderServer
from copick.testing.s3_server import S3Server
from support.volumes import (
    CHUNK_FILE,
    TOMOGRAM,
    chunk_files,
    config_of,
    noise,
    opened,
    python,
    write_array,
    write_tomogram,
)

if TYPE_CHECKING:
    from copick.models import CopickRoot

pytestmark = pytest.mark.usefixtures("own_managers")

OBJECTS = [
    {"name": "ribosome", "is_particle": True, "label": 1},
    {"name": "membrane", "is_particle": False, "label": 2},
]
PICKS = "ExperimentRuns/R1/Picks/me_1_ribosome.json"
LEVEL = f"{TOMOGRAM}/0"
OLD = {"max_age": 0.001}
"""Everything in the cache is too old to be used unasked."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """With something of each kind."""
    folder = tmp_path / "project"
    group = write_tomogram(folder, noise())
    (group / ".zattrs").write_text('{"voltage": 300}')
    run = copick.from_string(json.dumps(config_of(folder, pickable_objects=OBJECTS))).get_run("R1")
    assert run is not None
    run.new_picks("ribosome", "1").from_numpy(np.array([[1.0, 2.0, 3.0]]))
    run.new_mesh("membrane", "1").mesh = trimesh.creation.box()
    return folder


def root_of(place: Any, cache: Path, **fields: Any) -> CopickRoot:
    """As a new process opens it."""
    for each in manager._managers.values():
        each.close()
    manager._managers.clear()
    choice = {"root": str(cache), "parent_layer": "*", **fields}
    where = {"root": place} if isinstance(place, str) else place
    return copick.from_string(json.dumps(config_of(pickable_objects=OBJECTS, **where)), cache=choice)


def manager_of(root: CopickRoot) -> Any:
    return root.layer.layers[0].manager  # type: ignore[attr-defined]


def the_picks(root: CopickRoot) -> Any:
    run = root.get_run("R1")
    assert run is not None
    return run.picks[0]


def the_tomogram(root: CopickRoot) -> Any:
    run = root.get_run("R1")
    assert run is not None
    return run.voxel_spacings[0].tomograms[0]


def attributes(tomogram: Any) -> dict[str, Any]:
    return dict(zarr.open_group(tomogram.zarr(), mode="r").attrs)


def everything(root: CopickRoot) -> list[Any]:
    """What is in the project."""
    (run,) = root.query()
    picks, mesh = run.query_picks()[0], run.query_meshes()[0]
    tomogram = the_tomogram(root)
    return [
        run.name,
        picks.numpy()[0].tolist(),
        len(mesh.mesh.geometry),
        attributes(tomogram),
        float(tomogram.numpy().sum()),
    ]


def put(project: Path, server: S3Server, bucket: str) -> dict[str, Any]:
    """The project as a bucket; how it is reached."""
    files = {str(p.relative_to(project)): p.read_bytes() for p in project.rglob("*") if p.is_file()}
    server.put(bucket, files)
    retries = {"retries": {"max_attempts": 1, "mode": "standard"}}
    return {
        "root": f"s3://{bucket}",
        "fs_args": {**server.fs_args, "config_kwargs": retries},
        "read_only": True,
    }


# Age


def test_within_its_age_nothing_is_asked_and_then_one_question_each_that_moves_nothing(
    tmp_path: Path, project: Path
) -> None:
    with FolderServer(project) as server:
        expected = everything(root_of(server.url, tmp_path / "cache"))
        server.reset()
        assert everything(root_of(server.url, tmp_path / "cache")) == expected
        assert server.requests == []
        time.sleep(1.1)
        assert everything(root_of(server.url, tmp_path / "cache", max_age=1)) == expected
        asked = [(r.method, r.path.rpartition("/")[2]) for r in server.requests if not r.path.endswith("/")]
        documents = ["me_1_ribosome.json", "me_1_membrane.glb", ".zattrs", ".zarray"]
        assert sorted(asked) == sorted(("HEAD", name) for name in documents)
        server.reset()
        assert everything(root_of(server.url, tmp_path / "cache")) == expected
        assert server.requests == []


def test_the_same_in_a_bucket(tmp_path: Path, project: Path) -> None:
    with S3Server() as server:
        place = put(project, server, "ages")
        expected = everything(root_of(place, tmp_path / "cache"))
        time.sleep(0.01)
        server.requests.clear()
        root = root_of(place, tmp_path / "cache", **OLD)
        picks, tomogram = the_picks(root), the_tomogram(root)
        server.requests.clear()
        assert picks.numpy()[0].tolist() == expected[1]
        assert float(tomogram.numpy().sum()) == expected[4]
        assert [(r.method, r.path.rpartition("/")[2]) for r in server.requests] == [
            ("HEAD", "me_1_ribosome.json"),
            ("HEAD", ".zarray"),
        ]


def test_a_server_that_tells_no_versions_apart(tmp_path: Path, project: Path) -> None:
    """Documents are fetched anew when they are old; volumes stay until they are refreshed."""
    with FolderServer(project, fault=lambda method, path: 405 if method == "HEAD" else None) as server:
        before = everything(root_of(server.url, tmp_path / "cache"))
        write_tomogram(project, noise(seed=2))
        (project / PICKS).write_text((project / PICKS).read_text().replace("2.0", "5.0"))
        for _ in range(2):
            root = root_of(server.url, tmp_path / "cache", **OLD)
            assert the_picks(root).numpy()[0].tolist() == [[1, 5, 3]]
            assert float(the_tomogram(root).numpy().sum()) == before[4]
        tomogram = the_tomogram(root)
        assert manager_of(root).get_info(LEVEL).expires_at is None
        tomogram.refresh()
        assert (tomogram.numpy() == noise(seed=2)).all()


@pytest.mark.parametrize(
    ("facts", "tag"),
    [
        ({"ETag": '"a"', "Last-Modified": "now", "Content-Length": "3"}, '"a" now 3'),
        ({"mtime": 1.5, "size": 0, "name": "x"}, "1.5 0"),
        ({"size": 7}, None),
        ({"ETag": "", "Content-Length": "7"}, None),
    ],
)
def test_what_a_tag_is_made_of(facts: dict[str, Any], tag: str | None) -> None:
    assert described(facts) == tag


@pytest.mark.parametrize("far", ["folder", "http", "s3"])
def test_what_changed_at_its_source_is_seen_when_its_age_is_over(
    tmp_path: Path, project: Path, far: str
) -> None:
    with FolderServer(project) as http, S3Server() as s3:

        def place() -> Any:
            if far == "s3":
                return put(project, s3, "changes")
            return http.url if far == "http" else str(project)

        tomogram = the_tomogram(root_of(place(), tmp_path / "cache"))
        assert (tomogram.numpy() == noise()).all()
        assert the_picks(root_of(place(), tmp_path / "cache")).numpy()[0].tolist() == [[1, 2, 3]]
        time.sleep(1.1)  # what a bucket says of times is in seconds
        write_tomogram(project, noise(seed=2))
        file = project / PICKS
        file.write_text(file.read_text().replace("2.0", "5.0"))
        where = place()
        fresh = root_of(where, tmp_path / "cache")
        assert (the_tomogram(fresh).numpy() == noise()).all()
        assert the_picks(fresh).numpy()[0].tolist() == [[1, 2, 3]]
        late = root_of(where, tmp_path / "cache", **OLD)
        assert (the_tomogram(late).numpy() == noise(seed=2)).all()
        assert the_picks(late).numpy()[0].tolist() == [[1, 5, 3]]
        assert len(chunk_files(tmp_path / "cache")) == 27


def test_a_reader_that_stays_open_asks_when_it_is_time(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "INTERVAL_S", 0.05)
    tomogram = the_tomogram(root_of(str(project), tmp_path / "cache", max_age=0.5))
    array = tomogram.array()
    assert (array.read(()) == noise()).all()
    write_tomogram(project, noise((20, 30, 40), seed=2))
    assert (array.read(()) == noise()).all()
    time.sleep(0.8)
    assert (array.read(()) == noise((20, 30, 40), seed=2)).all()
    assert array.shape == (20, 30, 40)


def test_what_was_deleted_at_its_source_is_gone_when_its_age_is_over(tmp_path: Path, project: Path) -> None:
    with FolderServer(project) as server:
        root = root_of(server.url, tmp_path / "cache", **OLD)
        picks, array = the_picks(root), the_tomogram(root).array()
        picks.load()
        assert (array.read(()) == noise()).all()
        (project / PICKS).unlink()
        shutil.rmtree(project / TOMOGRAM)
        time.sleep(0.01)
        with pytest.raises(NotFoundError, match="ribosome"):
            the_picks(root).load()
        array.look_after()
        with pytest.raises(NotFoundError, match="has no array '0'"):
            array.read(())


# Unreachable


READ = """
import logging, sys, time
from pathlib import Path
import test_cache_freshness as t
from copick.errors import LayerError
place, cache = eval(sys.argv[1]), Path(sys.argv[2])
logging.basicConfig(format="%(message)s")
begin = time.monotonic()
root = t.root_of(place, cache, **t.OLD)
print(t.everything(root))
print([t.everything(root) for _ in range(3)][0])
try:
    root.get_run("R1").get_picks(session_id="2")[0].load()
except LayerError as error:
    print(str(error)[:20])
try:
    t.the_tomogram(root).array("1")
except LayerError as error:
    print(str(error)[:20])
print(t.manager_of(root).get_info(t.PICKS).is_stale, t.manager_of(root).get_info(t.LEVEL).is_stale)
print(time.monotonic() - begin)
"""


@pytest.mark.parametrize("far", ["folder", "http", "s3", "broken", "silent"])
def test_a_new_process_reads_what_is_cached_of_a_place_that_cannot_be_reached(
    tmp_path: Path, project: Path, far: str
) -> None:
    other = (project / PICKS).with_name("me_2_ribosome.json")
    shutil.copy(project / PICKS, other)
    write_array(project / TOMOGRAM, noise((20, 20, 20)), path="1")
    (project / TOMOGRAM / ".zattrs").write_text('{"voltage": 300}')
    with FolderServer(project) as http, S3Server() as s3:
        place: Any = {"root": http.url, "timeout_s": 1.0 if far == "silent" else 20.0}
        if far == "s3":
            place = put(project, s3, "gone")
        elif far == "folder":
            place = {"root": str(project), "read_only": True}
        root = root_of(place, tmp_path / "cache")
        run = root.get_run("R1")
        assert run is not None
        expected = [
            "R1",
            the_picks(root).numpy()[0].tolist(),
            len(run.meshes[0].mesh.geometry),
            attributes(the_tomogram(root)),
            float(the_tomogram(root).numpy().sum()),
        ]
        if far == "folder":
            project.rename(tmp_path / "elsewhere")
        elif far == "silent":
            http.fault = lambda method, path: "hang"
        elif far == "broken":
            http.fault = lambda method, path: 503
        else:
            s3.close() if far == "s3" else http.close()
        ended = python(READ, repr(place), tmp_path / "cache", timeout=120)
        assert ended.returncode == 0, ended.stderr
        first, again, picks, level, stale, took = ended.stdout.splitlines()
        assert first == again == repr(expected)
        assert picks.startswith("layer 'filesystem'")
        assert level.startswith("layer 'filesystem'")
        assert stale == "True True"
        warnings = [line for line in ended.stderr.splitlines() if "cannot be reached" in line]
        assert len(warnings) == 1
        assert "layer 'filesystem'" in warnings[0]
        if far == "silent":  # three questions, not one for each listing and document
            assert float(took) < 15


@pytest.fixture
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (contact, freshness):
        monkeypatch.setattr(module, "REST_S", 0.3)


def test_a_place_that_is_back_is_used_again(tmp_path: Path, project: Path, short_rest: None) -> None:
    down = False
    with FolderServer(project, fault=lambda method, path: 500 if down else None) as server:
        root = root_of(server.url, tmp_path / "cache", **OLD)
        array = the_tomogram(root).array()
        before = everything(root)
        down = True
        assert everything(root) == before
        server.reset()
        assert the_picks(root).numpy()[0].tolist() == [[1, 2, 3]]
        assert server.requests == []  # it rests
        down = False
        write_tomogram(project, noise(seed=2))
        (project / PICKS).write_text((project / PICKS).read_text().replace("2.0", "5.0"))
        time.sleep(0.4)
        assert the_picks(root_of(server.url, tmp_path / "cache", **OLD)).numpy()[0].tolist() == [[1, 5, 3]]
        array.look_after()
        assert (array.read(()) == noise(seed=2)).all()
        info = manager_of(root_of(server.url, tmp_path / "cache")).get_info(LEVEL)
        assert not info.is_stale


def test_refreshing_what_cannot_be_reached_loses_nothing(
    tmp_path: Path, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    down = False
    with FolderServer(project, fault=lambda method, path: 500 if down else None) as server:
        root = root_of(server.url, tmp_path / "cache")
        before = everything(root)
        down = True
        tomogram = the_tomogram(root)
        tomogram.refresh()
        root.refresh()
        assert everything(root) == before
        assert (tomogram.numpy() == noise()).all()
        assert caplog.text.count("cannot be reached") == 1
        down = False
        (project / PICKS).write_text((project / PICKS).read_text().replace("2.0", "5.0"))
        root.refresh()
        assert the_picks(root).numpy()[0].tolist() == [[1, 5, 3]]


def test_metadata_outlive_volumes(tmp_path: Path, project: Path) -> None:
    with FolderServer(project) as server:
        root = root_of(server.url, tmp_path / "cache", disk_format="raw", max_size_bytes=3 * CHUNK_FILE)
        before = everything(root)
        assert len(chunk_files(tmp_path / "cache")) <= 3
        server.fault = lambda method, path: 503
        again = root_of(server.url, tmp_path / "cache", **OLD)
        assert [run.name for run in again.query()] == ["R1"]
        assert the_picks(again).numpy()[0].tolist() == before[1]
        assert attributes(the_tomogram(again)) == before[3]
        with pytest.raises(LayerError, match="503"):
            the_tomogram(again).numpy()


# Replaced at the source


@pytest.mark.parametrize("shape", [(40, 40, 40), (40, 30, 20)])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("after", [1, 9, 18])
def test_a_volume_that_is_replaced_while_it_is_read_is_read_as_one_version(
    tmp_path: Path, zarr_format: int, after: int, shape: tuple[int, ...]
) -> None:
    """By somebody who does not use this cache; a third of it was cached before."""
    project, other = tmp_path / "project", tmp_path / "other"
    write_tomogram(project, noise(), zarr_format=zarr_format)
    write_tomogram(other, noise(shape, seed=2), zarr_format=zarr_format)
    chunks = itertools.count(1)

    def replace(method: str, path: str) -> None:
        if path.rpartition("/")[2].isdigit() and next(chunks) == 9 + after:
            (project / TOMOGRAM).rename(project / "old")
            (other / TOMOGRAM).rename(project / TOMOGRAM)

    with FolderServer(project, fault=replace) as server:
        tomogram = opened(server.url, tmp_path / "cache")
        assert (tomogram.numpy(z=slice(0, 16)) == noise()[:16]).all()
        assert (tomogram.numpy() == noise(shape, seed=2)).all()
        assert (opened(server.url, tmp_path / "cache").numpy() == noise(shape, seed=2)).all()


def test_a_volume_that_is_replaced_again_and_again_is_an_error(tmp_path: Path) -> None:
    project, versions = tmp_path / "project", itertools.count(1)
    write_tomogram(project, np.zeros((32, 32, 32), np.float32) + next(versions))
    tomogram, read, alone = opened(project, tmp_path / "cache"), Source.read, threading.Lock()

    def replaced(*arguments: Any) -> Any:
        found = read(*arguments)
        with alone:
            write_tomogram(project, np.zeros((32, 32, 32), np.float32) + next(versions))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "read", replaced)
        with pytest.raises(LayerError, match="was replaced at its source each of 3 times that it was read"):
            tomogram.numpy()
    assert (tomogram.numpy() == next(versions) - 1).all()


regions = st.tuples(*(st.tuples(st.integers(0, 47), st.integers(1, 48)) for _ in range(3)))


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(regions, st.integers(0, 30)), min_size=1, max_size=6))
def test_versions_never_mix(turns: list[tuple[Any, int]]) -> None:
    """Each version is one value. Chunks of any of them may be cached; the source is replaced after so many chunks (0: not)."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        project, versions, until = Path(folder) / "project", itertools.count(1), [0]
        version = next(versions)

        def replace() -> None:
            nonlocal version
            version = next(versions)
            made = write_tomogram(Path(folder) / f"v{version}", np.full((48, 48, 48), version, np.uint16))
            os.rename(project / TOMOGRAM, Path(folder) / f"old{version}")
            os.rename(made, project / TOMOGRAM)

        def read(*arguments: Any) -> Any:
            found = read_source(*arguments)
            until[0] -= 1
            if until[0] == 0:
                replace()
            return found

        write_tomogram(project, np.full((48, 48, 48), version, np.uint16))
        tomogram, read_source = opened(project, Path(folder) / "cache"), Source.read
        patch.setattr(Source, "read", read)
        for region, after in turns:
            until[0] = after
            slices = dict(zip("zyx", (slice(min(a, b - 1), max(a + 1, b)) for a, b in region), strict=True))
            assert len(np.unique(tomogram.numpy(**slices))) == 1
        for each in [*manager._managers]:
            if each.startswith(folder):
                manager._managers.pop(each).close()


def test_what_zarr_reads_chunk_by_chunk_is_checked_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk is of one version; those of another one than the rest do not stay."""
    monkeypatch.setattr(journal, "INTERVAL_S", 0.05)
    project, other = tmp_path / "project", tmp_path / "other"
    write_tomogram(project, noise())
    write_tomogram(other, noise(seed=2))
    tomogram = opened(project, tmp_path / "cache")
    level: Any = zarr.open_group(tomogram.zarr(), mode="r")["0"]
    assert (level[:16] == noise()[:16]).all()
    (project / TOMOGRAM).rename(project / "old")
    (other / TOMOGRAM).rename(project / TOMOGRAM)
    level[:]
    time.sleep(1.5)
    assert (tomogram.numpy() == noise(seed=2)).all()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_source_that_does_not_say_its_version_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """Once within the read; should that be in vain, too, the versions that it met do not stay together."""
    first, second, left = noise(), noise(seed=2), [None] * failures
    group = write_tomogram(tmp_path / "project", first)
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    tomogram.numpy(z=slice(0, 16))
    write_array(group, second)
    source: Source = tomogram.array()._source  # type: ignore[attr-defined]
    ask, fetched = source.ask_tag, []
    assert ask is not None

    def ask_but_fail(path: str) -> str | None:
        if fetched and left:
            left.pop()
            raise LayerError("503")
        return ask(path)

    def read(*arguments: Any) -> Any:
        fetched.append(1)
        return Source.read(source, *arguments)

    monkeypatch.setattr(source, "ask_tag", ask_but_fail)
    monkeypatch.setattr(source, "read", read)
    read_now = tomogram.numpy()
    assert not left
    if failures == 1:
        np.testing.assert_array_equal(read_now, second)
    (cached,) = manager._managers.values()
    cached._tick()
    end = time.monotonic() + 10
    while not np.array_equal(tomogram.numpy(), second):
        assert time.monotonic() < end, "two versions stay together"
        time.sleep(0.05)
