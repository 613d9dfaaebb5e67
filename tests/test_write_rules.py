"""What a write leaves behind that is killed, interrupted, refused, or not alone: nothing, or all of it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import copick
from copick.errors import LayerError, NotFoundError
from copick.testing.layers import tomogram
from copick.testing.s3_server import S3Server
from projects import OBJECTS, files
from support.volumes import python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from copick.models import CopickRoot, CopickTomogram

pytestmark = pytest.mark.slow

LONG = bool(os.environ.get("COPICK_STRESS"))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

VOLUME = np.random.default_rng(0).integers(1, 99, (16, 8, 8)).astype(np.float32)
"""Of the archive, in 16 chunks."""


IN_ONE_CHUNK = {"z": slice(0, 1), "y": slice(0, 4), "x": slice(0, 4)}


def project(folder: Path, work: Any = None, **fields: Any) -> CopickRoot:
    """A project of three layers; `work` says where the first is, if not in the folder."""
    places = {name: {"root": str(folder / name)} for name in ("work", "second", "archive")}
    places["work"] |= work or {}
    places["archive"]["read_only"] = True
    places["work"]["priority"] = 1
    config = {
        "config_type": "multilayer",
        "user_id": "me",
        "pickable_objects": OBJECTS,
        "layers": [*places],
        "layer_configs": {name: {"config_type": "filesystem", **place} for name, place in places.items()},
        **fields,
    }
    return copick.from_string(json.dumps(config))


def pending(folder: Path, **fields: Any) -> CopickRoot:
    cache = {"config_type": "cache", "root": str(folder / "cache"), "parent_layer": "archive"}
    return project(folder, write_strategy="cache", cache_config=cache, **fields)


def make(folder: Path) -> None:
    """An archive with a tomogram in many chunks, and a work layer with something of each kind."""
    archive = files(folder / "archive", "archive")
    with archive.writing(tomogram) as store:
        zarr.create_group(store, zarr_format=2)
        zarr.create_array(store, name="0", data=VOLUME, chunks=(4, 4, 4), zarr_format=2)
    fill(project(folder))


def fill(root: CopickRoot) -> None:
    run = root.create_run("mine", "old")
    mine = run.new_voxel_spacing(10).new_tomogram("mine")
    mine.from_numpy(VOLUME, levels=1)
    mine.new_features("unet").from_numpy(VOLUME)
    run.new_picks("ribosome", "1").from_numpy([[1, 1, 1]] * 50)
    run.new_mesh("membrane", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path)
    return tmp_path


def volume_of(root: CopickRoot, run: str = "TS_001", tomo_type: str = "wbp") -> CopickTomogram:
    (found,) = root.get_run(run).get_voxel_spacing(10.0).get_tomograms(tomo_type)
    return found


def seen(root: CopickRoot, sources: bool = False) -> dict[str, Any]:
    """What a project shows, as JSON has it."""
    found: dict[str, Any] = {}
    for run in root.runs:
        found[run.name] = run.description
        found |= {
            f"{run.name}/picks {p.session_id}": [p.points[0].location.x, len(p.points)] for p in run.picks
        }
        found |= {f"{run.name}/mesh {m.session_id}": len(m.mesh.geometry) for m in run.meshes}
        for spacing in run.voxel_spacings:
            for volume in spacing.tomograms:
                found[f"{run.name}/{volume.tomo_type}"] = [digest(volume), *volume.sources * sources]
                found |= {
                    f"{run.name}/{volume.tomo_type}/{f.feature_type}": digest(f) for f in volume.features
                }
    return found


def digest(volume: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(volume.numpy()).tobytes()).hexdigest()[:8]


def left_over(folder: Path) -> list[Path]:
    """What is hidden in a folder."""
    return [path for path in folder.rglob("*") if path.name.startswith(".copick-")]


# Killed


def copy_up(root: CopickRoot) -> None:
    volume_of(root).set_region(np.zeros((1, 4, 4)), **IN_ONE_CHUNK)


def replace(root: CopickRoot) -> None:
    spacing = root.get_run("mine").get_voxel_spacing(10.0)
    spacing.new_tomogram("mine", exist_ok=True).from_numpy(VOLUME[:8] + 100, levels=2)


def propagate(root: CopickRoot) -> None:
    assert volume_of(root).propagate(["second"]) == ["second"]


def delete_tomogram(root: CopickRoot) -> None:
    volume = volume_of(root, "mine", "mine")
    volume.delete()


def delete_run(root: CopickRoot) -> None:
    root.delete_run("mine", missing_ok=False)


def store_picks(root: CopickRoot) -> None:
    root.get_run("mine").get_picks(session_id="1")[0].from_numpy([[2, 2, 2]] * 100)


def store_mesh(root: CopickRoot) -> None:
    import trimesh

    (mesh,) = root.get_run("mine").meshes
    mesh.mesh = trimesh.creation.box((1, 1, 1))
    mesh.store()


def describe(root: CopickRoot) -> None:
    run = root.get_run("mine")
    run.description = "new"
    run.store()


CASES = {
    "copy-up": (copy_up, "local", 20),
    "replace": (replace, "local", 18),
    "propagate": (propagate, "local", 24),
    "delete a run": (delete_run, "local", 8),
    "store picks": (store_picks, "local", 1),
    "store a mesh": (store_mesh, "local", 1),
    "describe": (describe, "local", 1),
    "replace and pass on": (replace, "pending", 45),
    "copy up and pass on": (copy_up, "pending", 60),
    "store and pass on": (store_picks, "pending", 10),
}
FAR_CASES = {
    "copy-up": (copy_up, "S3", 26),
    "replace": (replace, "S3", 36),
    "delete": (delete_tomogram, "S3", 11),
}
"""What is killed, where, and at each so many steps; at every step if `COPICK_STRESS` is set."""


def kill_at_each_step(cases: dict[str, Any], folder: Path, fs_args: dict[str, Any] | None = None) -> None:
    """Print what becomes of each case. To be called in an interpreter of its own."""
    from support import crashes

    template = folder / "template"
    make(template)

    def local(name: str, number: int) -> Path:
        return Path(shutil.copytree(template, folder / name / str(number)))

    def far(name: str, number: int) -> dict[str, Any]:
        where = {"root": f"s3://crashes/{name}/{number}", "fs_args": fs_args}
        if not name.startswith("copy"):
            crashes.answer(lambda: fill(project(template, where)))
        return where

    places = {
        "local": (local, project),
        "pending": (local, pending),
        "S3": (far, lambda where: project(template, where)),
    }
    results = {}
    for name, (act, place, stride) in cases.items():
        new, opened = places[place]

        def do(where: Any, act: Any = act, opened: Any = opened) -> None:
            root = opened(where)
            act(root)
            root.flush()

        def state(where: Any, act: Any = act, opened: Any = opened) -> dict[str, Any]:
            return seen(opened(where), sources=act is propagate)

        how = {"stride": 1 if LONG else stride, "repeats": "delete" not in name}
        if place == "S3":
            how |= {"dying": crashes.die_at_request, "may_be_gone": act is not copy_up}
        where = new(name, -1)
        crashes.warm(lambda do=do, where=where: do(where))
        try:
            results[name] = crashes.at_each_step(partial(new, name), do, state, **how)
        except AssertionError as error:
            results[name] = f"failed: {error}"
    print(json.dumps(results))


def failures(cases: str, folder: Path, *more: Any) -> list[str]:
    """What went wrong. All cases run in one interpreter: to import what they need takes longer than most of them."""
    arguments = ", ".join([f"t.{cases}", f"t.Path({str(folder)!r})", *map(repr, more)])
    done = python(
        f"import test_write_rules as t; t.kill_at_each_step({arguments})", timeout=6000 if LONG else 280
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return [f"{name} {what}" for name, what in results.items() if "done after" not in what]


@needs_fork
def test_killed(tmp_path: Path) -> None:
    assert failures("CASES", tmp_path) == []


@needs_fork
@pytest.mark.slow
def test_killed_while_writing_to_s3(tmp_path: Path) -> None:
    with S3Server() as server:
        server.put("crashes", {})
        assert failures("FAR_CASES", tmp_path, server.fs_args) == []


# Not alone


def change_a_part(root: CopickRoot, at: int) -> None:
    volume_of(root).set_region(np.full((4, 8, 8), 200 + at, np.float32), z=slice(4 * at, 4 * at + 4))


def change_parts_together(folder: Path, work: dict[str, Any] | None = None) -> None:
    """Four processes change parts of one volume that is copied up for that."""
    from support import crashes

    crashes.warm(lambda: seen(project(folder, work)))
    statuses = crashes.together(*(lambda at=at: change_a_part(project(folder, work), at) for at in range(4)))
    assert statuses == [0, 0, 0, 0]


def check_parts(root: CopickRoot) -> None:
    volume = volume_of(root)
    assert volume.sources == ["work", "archive"]
    assert [np.unique(part).tolist() for part in np.split(volume.numpy(), 4)] == [[200], [201], [202], [203]]


@needs_fork
def test_processes_that_copy_up_the_same_volume(folder: Path) -> None:
    done = python(f"import test_write_rules as t; t.change_parts_together(t.Path({str(folder)!r}))")
    assert done.returncode == 0, done.stderr
    check_parts(project(folder))
    assert left_over(folder) == []


@needs_fork
def test_processes_that_copy_up_the_same_volume_to_s3(folder: Path) -> None:
    with S3Server() as server:
        server.put("together", {})
        work = {"root": "s3://together/work", "fs_args": server.fs_args}
        arguments = f"t.Path({str(folder)!r}), {work!r}"
        done = python(f"import test_write_rules as t; t.change_parts_together({arguments})")
        assert done.returncode == 0, done.stderr
        check_parts(project(folder, work))
        assert not [key for key in keys_in(server, "together") if ".copick" in key]


def impatient(server: S3Server) -> dict[str, Any]:
    """fs_args that ask the server once."""
    return {**server.fs_args, "config_kwargs": {"retries": {"max_attempts": 1, "mode": "standard"}}}


def keys_in(server: S3Server, bucket: str) -> list[str]:
    import fsspec

    keys: list[str] = fsspec.filesystem("s3", skip_instance_cache=True, **server.fs_args).find(bucket)
    return keys


def write_over_and_over(folder: Path, cached: bool, times: int) -> None:
    """Two processes store the same picks, a third reads them: it sees what one of them stored, whole."""
    from support import crashes

    def picks_of(run: Any) -> Any:
        return run.get_picks(session_id="1")[0]

    def opened() -> Any:
        return picks_of(project(folder, cache_config=a_cache(folder) if cached else None).get_run("mine"))

    def stores(value: int) -> None:
        mine = opened()
        for _ in range(times):
            mine.from_numpy([[value] * 3] * (10 * value))

    def reads() -> None:
        theirs = opened()
        values = set()
        for _ in range(2 * times):
            points = theirs.load().points
            found = {(point.location.x, len(points)) for point in points}
            assert len(found) == 1, found
            values |= found
        assert values <= {(1, 50), (2, 20), (3, 30)}

    crashes.warm(lambda: opened().load())
    assert crashes.together(lambda: stores(2), lambda: stores(3), reads, reads) == [0] * 4


def a_cache(folder: Path) -> dict[str, Any]:
    return {"config_type": "cache", "root": str(folder / "cache"), "parent_layer": "*"}


@needs_fork
@pytest.mark.parametrize("cached", [False, True])
def test_processes_that_store_the_same_picks(folder: Path, cached: bool) -> None:
    arguments = f"t.Path({str(folder)!r}), {cached}, {1000 if LONG else 60}"
    done = python(f"import test_write_rules as t; t.write_over_and_over({arguments})")
    assert done.returncode == 0, done.stderr
    (stored,) = project(folder).get_run("mine").picks
    (remembered,) = project(folder, cache_config=a_cache(folder) if cached else None).get_run("mine").picks
    assert stored.numpy()[0].tolist() == remembered.numpy()[0].tolist()
    assert left_over(folder) == []


def pass_on_together(folder: Path, times: int) -> None:
    """Processes whose changes wait in one folder: each has picks of its own, all have the same run and some picks in common."""
    from support import crashes

    def work(user: int) -> None:
        run = pending(folder).get_run("TS_001")
        common = run.new_picks("ribosome", "1", "all", exist_ok=True)
        for at in range(times):
            run.new_picks("ribosome", str(at), f"user{user}").from_numpy([[user, at, 0]])
            common.from_numpy([[user, at, 0]] * 20)

    crashes.warm(lambda: seen(pending(folder)))
    assert crashes.together(*(lambda user=user: work(user) for user in range(3))) == [0] * 3


@needs_fork
def test_processes_that_pass_on_changes(folder: Path) -> None:
    times = 300 if LONG else 15
    done = python(f"import test_write_rules as t; t.pass_on_together(t.Path({str(folder)!r}), {times})")
    assert done.returncode == 0, done.stderr
    root = pending(folder)
    root.flush()
    picks = project(folder).get_run("TS_001").picks
    assert {p.sources[0] for p in picks} == {"work"}
    stored = {(p.user_id, int(p.session_id)): p.points[0].location for p in picks}
    (common,) = project(folder).get_run("TS_001").get_picks(user_id="all")
    assert len({(p.location.x, p.location.y) for p in common.points}) == 1
    assert common.points[0].location.y == times - 1
    del stored["all", 1]
    assert {key: (at.x, at.y) for key, at in stored.items()} == {
        (f"user{user}", at): (user, at) for user in range(3) for at in range(times)
    }
    assert root.flush() == []
    assert [path for path in (folder / "cache" / "pending").rglob("*") if path.is_file()] == []


# Interrupted


def copy_up_slowly(folder: Path, signalled: int) -> None:
    """Copy up, and be told to stop on the way."""
    from support import crashes

    def slowly() -> None:
        slow_source()
        try:
            copy_up(project(folder))
        except KeyboardInterrupt:
            os._exit(3)

    def meanwhile(pid: int) -> None:
        until = time.monotonic() + 30
        while not (folder / "work").is_dir() or not left_over(folder / "work"):
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(pid, signalled)

    before = crashes.answer(lambda: seen(project(folder), sources=True))
    crashes.warm(lambda: volume_of(project(folder)).numpy())
    assert crashes.forked(slowly, meanwhile) == 3
    assert left_over(folder) == []
    assert crashes.answer(lambda: seen(project(folder), sources=True)) == before


def slow_source() -> None:
    """Make each chunk take a while to read."""
    get = zarr.storage.LocalStore.get

    async def slowly(self: Any, *arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.1)
        return await get(self, *arguments, **options)

    zarr.storage.LocalStore.get = slowly  # type: ignore[method-assign]


@needs_fork
def test_interrupted(folder: Path) -> None:
    arguments = f"t.Path({str(folder)!r}), {int(signal.SIGINT)}"
    done = python(f"import test_write_rules as t; t.copy_up_slowly({arguments})")
    assert done.returncode == 0, done.stderr
    copy_up(project(folder))
    assert volume_of(project(folder)).sources == ["work", "archive"]


# Refused, and places that fail on the way


class Trouble:
    """Something that goes wrong after some chunks are written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None], after: int) -> None:
        self.written, self.happens, self.after = 0, happens, after
        self.set = zarr.storage.LocalStore.set
        trouble = self

        async def set_chunk(store: Any, key: str, *arguments: Any) -> None:
            if key.rpartition("/")[2][0].isdigit():
                trouble.written += 1
                if trouble.written == trouble.after:
                    trouble.happens()
            await trouble.set(store, key, *arguments)

        monkeypatch.setattr(zarr.storage.LocalStore, "set", set_chunk)


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def nothing_changed(act: Callable[[CopickRoot], None], folder: Path, match: str) -> None:
    """What fails leaves everything as it was, says why, and works later."""
    before = seen(project(folder), sources=True)
    root = project(folder)
    with pytest.raises(LayerError, match=match):
        act(root)
    root.refresh()  # what could not be stored is still in memory
    for each in (root, project(folder)):
        assert seen(each, sources=True) == before
    assert left_over(folder) == []


@pytest.mark.parametrize("act", [copy_up, replace, propagate])
def test_a_disk_that_is_full(
    act: Callable[[CopickRoot], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        Trouble(patched, full, after=2)
        nothing_changed(act, folder, r"layer '(work|second)'.*No space left on device.*check the disk")
    act(project(folder))


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Callable[..., None]]:
    """The work layer lies on a file system of its own, with little room. Gives what mounts it otherwise."""
    work = folder / "work"
    shutil.move(work, folder / "before")
    work.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(work)]
        return (
            shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
        )

    if not mount("size=4M"):
        pytest.skip("nothing can be mounted here")
    try:
        shutil.copytree(folder / "before", work, dirs_exist_ok=True)
        shutil.rmtree(folder / "before")
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(work)], check=True)


@pytest.mark.parametrize(
    ("data", "level", "error"),
    [(np.zeros((9, 9, 9)), "0", ValueError), (0, "3", NotFoundError), ("x", "0", ValueError)],
    ids=["another shape", "no such level", "no numbers"],
)
def test_a_region_that_cannot_be_is_refused_before_anything_is_copied(
    data: Any, level: str, error: type[Exception], folder: Path
) -> None:
    with pytest.raises(error):
        volume_of(project(folder)).set_region(data, level, **IN_ONE_CHUNK)
    assert not (folder / "work" / "ExperimentRuns" / "TS_001").exists()


def test_a_disk_with_little_room(folder: Path, small_disk: Callable[..., None]) -> None:
    noise = np.random.default_rng(1).normal(size=(128, 128, 128))

    def too_large(root: CopickRoot) -> None:
        volume_of(root, "mine", "mine").from_numpy(noise)

    def too_many(root: CopickRoot) -> None:
        root.get_run("mine").picks[0].from_numpy(noise.reshape(-1)[:30_000].reshape(-1, 3))

    nothing_changed(too_large, folder, "No space left on device")
    nothing_changed(too_many, folder, "No space left on device")
    copy_up(project(folder))
    assert volume_of(project(folder)).sources == ["work", "archive"]


def test_a_disk_that_is_mounted_read_only(folder: Path, small_disk: Callable[..., None]) -> None:
    assert small_disk("remount,ro")
    for act in (copy_up, replace, delete_tomogram, delete_run, store_picks, store_mesh, describe):
        nothing_changed(act, folder, "layer 'work'.*(Read-only file system|read-only)")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
def test_folders_that_may_not_be_written(folder: Path) -> None:
    folders = [folder / "work", *(path for path in (folder / "work").rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        for act in (copy_up, replace, delete_tomogram, delete_run, store_picks, store_mesh, describe):
            nothing_changed(act, folder, "layer 'work'.*Permission denied.*check its permissions")
    finally:
        for path in folders:
            path.chmod(0o755)


@pytest.mark.parametrize("act", [copy_up, replace])
def test_a_folder_that_is_removed_while_it_is_written(
    act: Callable[[CopickRoot], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(folder)
    with monkeypatch.context() as patched:
        Trouble(patched, lambda: shutil.rmtree(folder / "work"), after=2)
        with pytest.raises(LayerError, match=r"layer 'work'|removed.* meanwhile"):
            act(root)
    later = project(folder)
    assert {name: what for name, what in seen(later, sources=True).items() if what} == {
        "TS_001/wbp": [digest(volume_of(later)), "archive"]
    }
    copy_up(project(folder))
    assert volume_of(project(folder)).sources == ["work", "archive"]


def test_a_server_that_stops_while_it_is_written(folder: Path) -> None:
    puts = 0

    def stops(request: Any) -> int | None:
        nonlocal puts
        puts += request.method == "PUT"
        return 500 if stopped and puts >= 6 else None

    with S3Server(fault=stops) as server:
        server.put("stops", {})
        work = {"root": "s3://stops/work", "fs_args": impatient(server)}
        stopped = True
        with pytest.raises(
            LayerError, match=r"layer 'work': s3://stops/work.*check the address and the network"
        ):
            copy_up(project(folder, work))
        stopped = False
        assert volume_of(project(folder, work)).sources == ["archive"]
        copy_up(project(folder, work))
        assert volume_of(project(folder, work)).sources == ["work", "archive"]
        assert not [key for key in keys_in(server, "stops") if ".copick" in key]


# To several layers


def test_some_layers_take_it_and_some_do_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(folder)
    volume = volume_of(root, "mine", "mine")
    volume.propagate("second")
    volume.from_numpy(VOLUME + 1)
    before = digest(volume_of(root.on("second"), "mine", "mine"))
    with pytest.raises(NotFoundError, match="nowhere"):
        volume.propagate(["second", "nowhere"])
    assert digest(volume_of(root.on("second"), "mine", "mine")) == before
    with monkeypatch.context() as patched:
        Trouble(patched, full, after=1)
        with pytest.raises(
            LayerError, match=r"not copied to second \(.*No space.*archive.*; copied to work$"
        ):
            volume.propagate(["work", "second", "archive"])
    assert digest(volume_of(root.on("second"), "mine", "mine")) == before
    assert left_over(folder) == []
    with pytest.raises(LayerError, match=r"not copied to archive \(.*read-only.*; copied to second, work$"):
        volume.propagate(["archive", "second", "work"])
    assert digest(volume_of(root.on("second"), "mine", "mine")) == digest(volume)
    assert volume.sources == ["work", "second"]


# Pending


def test_what_cannot_be_passed_on_waits(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    down = False
    with S3Server(fault=lambda request: 500 if down else None) as server:
        server.put("below", {})
        work = {"root": "s3://below/work", "fs_args": impatient(server)}

        def opened() -> CopickRoot:
            return pending(folder, work=work)

        root = opened()
        run = root.get_run("TS_001")
        mine, volume = run.new_picks("ribosome", "1"), volume_of(root)
        down = True
        mine.from_numpy([[1, 2, 3]])
        volume.set_region(np.zeros((1, 4, 4)), **IN_ONE_CHUNK)
        assert "is kept in 'cache' until flush() can pass it on" in caplog.text
        assert mine.load().points[0].location.y == 2
        assert volume.numpy()[0, 0, 0] == 0
        with pytest.raises(LayerError, match="layer 'work'"):
            root.flush()
        again = opened()
        assert volume_of(again.on("cache")).numpy()[0, 0, 0] == 0
        down = False
        assert sorted(opened().flush())[0].startswith("picks 'TS_001")
        assert opened().flush() == []
        for each in (opened(), opened().on("work")):
            assert volume_of(each).sources[0] == "work"
            assert volume_of(each).numpy()[0, 0, 0] == 0
            assert each.get_run("TS_001").picks[0].points[0].location.y == 2
