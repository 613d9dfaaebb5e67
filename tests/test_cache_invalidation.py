"""What any process writes through the cache, every process of the machine reads from then on."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import copick
from copick import _cachecore
from copick.cache import info
from copick.cache import locks as locks_module
from copick.cache import source as source_module
from copick.cache import store as store_module
from copick.cache.array import CachedArray
from copick.cache.generations import Generations, slots_of
from copick.cache.locks import RangeLocks
from copick.cache.manager import CacheManager
from copick.errors import CopickError
from copick.ome import write_volume
from support.volumes import (
    CHUNK,
    cached_store,
    chunk_files,
    config_of,
    noise,
    opened,
    tomogram_of,
    write_array,
    write_tomogram,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from copick.layers.cached import CachedLayer

pytestmark = [
    pytest.mark.usefixtures("own_managers"),
    # Python warns of what is tested here: forking while other threads run.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
SHAPE = (40, 40, 40)


# Processes that read all the time


class Board:
    """What all processes of a test know: of each voxel, the version that was written last, and the one being written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mode: Any = "r+" if (folder / "done").exists() else "w+"
        self.begun: Any = np.memmap(folder / "begun", np.float32, mode, shape=SHAPE)
        self.done: Any = np.memmap(folder / "done", np.float32, mode, shape=SHAPE)
        self.rewrites: Any = np.memmap(folder / "rewrites", np.int64, mode, shape=(1,))
        """Odd while the whole volume is replaced: it may lack anything then."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Board, (self.folder,)

    def check(self, region: tuple[slice, ...], read: Callable[[], npt.NDArray[Any]]) -> None:
        """A read must not be older than what was written when it began, nor newer than what is being written when it ends."""
        rewrites, oldest = int(self.rewrites[0]), self.done[region].copy()
        try:
            got = read()
        except CopickError:
            if rewrites % 2 or rewrites != self.rewrites[0]:
                return
            raise
        newest = self.begun[region].copy()
        assert (got <= newest).all(), f"read {got.max()}, but only {newest.max()} was written"
        if not rewrites % 2 and rewrites == self.rewrites[0]:
            assert (got >= oldest).all(), (
                f"read {got[got < oldest][:3]} after {oldest[got < oldest][:3]} was written"
            )


WRITES = ["set_region", "zarr", "from_numpy"]


def write(tomogram: Any, board: Board, kind: str, region: tuple[slice, ...], version: int) -> None:
    """One write, by one of the ways there are."""
    if kind == "from_numpy":
        board.begun[...] = version
        board.rewrites[0] += 1
        data = np.full(SHAPE, version, np.float32)
        if version % 2:
            tomogram.from_numpy(data, levels=1)  # one chunk
        else:
            with tomogram.layer.writing(tomogram._ref) as store:
                write_volume(store, data, 10, levels=1, chunks=CHUNK)
        board.done[...] = version
        board.rewrites[0] += 1
        return
    board.begun[region] = version
    if kind == "zarr":
        zarr.open(tomogram.zarr(), mode="r+")["0"][region] = version
    else:
        z, y, x = region
        data = np.full(board.begun[region].shape, version, np.float32)
        tomogram.set_region(data, z=z, y=y, x=x)
    board.done[region] = version


def any_region(random: random.Random) -> tuple[slice, ...]:
    corners = [sorted(random.sample(range(n + 1), 2)) for n in SHAPE]
    return tuple(slice(*ends) for ends in corners)


def read_everything(tomogram: Any, board: Board, arrays: list[Any]) -> None:
    """Every way to read must give what was written last."""
    expected = np.array(board.done)
    np.testing.assert_array_equal(tomogram.numpy(), expected)
    patches = tomogram.patches([(0, 0, 0), (7, 3, 24)], (16, 16, 16))
    np.testing.assert_array_equal(patches[1], expected[7:23, 3:19, 24:40])
    for array in arrays:
        np.testing.assert_array_equal(array[...], expected)
    np.testing.assert_array_equal(zarr.open(tomogram.zarr(), mode="r")["0"][...], expected)


def work(tomogram: Any, board: Board, pipe: Any, seed: int) -> None:
    """Read all the time, on two threads; write, or read everything, when told to."""
    stop, wrong = threading.Event(), []

    def hammer(seed: int) -> None:
        choose = random.Random(seed)
        try:
            while not stop.is_set():
                region = any_region(choose)
                z, y, x = region
                board.check(region, lambda z=z, y=y, x=x: tomogram.numpy("0", z=z, y=y, x=x).copy())
        except BaseException:  # noqa: BLE001 (whatever it is, the test must hear of it)
            wrong.append(traceback.format_exc())

    threads = [threading.Thread(target=hammer, args=(seed + n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    arrays = [tomogram.array()]
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        try:
            if order[0] == "write":
                write(tomogram, board, *order[1:])
            else:
                read_everything(tomogram, board, arrays)
        except BaseException:  # noqa: BLE001
            wrong.append(traceback.format_exc())
        pipe.send(wrong)
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send(wrong)


class Workers:
    """Processes that do `work`."""

    def __init__(self, method: str, tomograms: list[Any], board: Board) -> None:
        context: Any = multiprocessing.get_context(method)
        self.pipes, self.processes = [], []
        for seed, tomogram in enumerate(tomograms):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(tomogram, board, theirs, seed * 10))
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:
            assert self.answer(pipe) == "ready"

    @staticmethod
    def answer(pipe: Any) -> Any:
        assert pipe.poll(120), "a worker hangs"
        return pipe.recv()

    def order(self, worker: int, *what: Any) -> None:
        self.pipes[worker].send(what)
        assert self.answer(self.pipes[worker]) == []

    def all_read(self) -> None:
        for pipe in self.pipes:
            pipe.send(("read",))
        for pipe in self.pipes:
            wrong = self.answer(pipe)
            assert not wrong, wrong[0]

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        wrongs = [self.answer(pipe) for pipe in self.pipes]
        for process in self.processes:
            process.join(30)
        assert wrongs == [[] for _ in wrongs], wrongs

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@contextmanager
def workers(method: str, tomograms: list[Any], board: Board) -> Iterator[Workers]:
    started = Workers(method, tomograms, board)
    try:
        yield started
        started.end()
    finally:
        started.kill()


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """The board, and a project with a tomogram of zeros."""
    write_tomogram(tmp_path / "project", np.zeros(SHAPE, np.float32))
    (tmp_path / "board").mkdir()
    return Board(tmp_path / "board")


@pytest.fixture(params=["ranges", "files"])
def kind_of_locks(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks as they are on Linux, and as they are elsewhere (in forked processes, too)."""
    if request.param == "files":
        monkeypatch.setattr(locks_module, "_OFD", None)


@pytest.fixture(params=["mapped", "network"])
def kind_of_folder(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder, and one that is taken for a network's (in forked processes, too)."""
    if request.param == "network":
        monkeypatch.setattr(_cachecore, "on_network", lambda folder: True)


def play(tmp_path: Path, board: Board, method: str, steps: int, seed: int, **cache: Any) -> None:
    """Writes by random processes; after each, every process reads everything, as they do all the time meanwhile."""
    choose = random.Random(seed)
    project, folder = tmp_path / "project", tmp_path / "cache"
    mine = opened(project, folder, cache)
    tomograms = [opened(project, folder, cache, read_only=n == 2) for n in range(3)]
    with workers(method, tomograms, board) as others:
        others.all_read()
        for version in range(1, steps + 1):
            kind = choose.choices(WRITES, [4, 4, 2])[0]
            region = any_region(choose)
            writer = choose.randrange(3)
            if writer == 2:  # it may not write; we do
                write(mine, board, kind, region, version)
            else:
                others.order(writer, "write", kind, region, version)
            others.all_read()
            read_everything(mine, board, [])
    assert mine.layer.layers[0].manager.check()


@pytest.mark.slow
@pytest.mark.parametrize("disk_format", ["raw", "encoded"])
@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=needs_fork)])
def test_what_one_process_writes_all_read(
    tmp_path: Path, board: Board, method: str, disk_format: str
) -> None:
    play(tmp_path, board, method, steps=12, seed=1, disk_format=disk_format)


@needs_fork
@pytest.mark.slow
def test_the_same_without_shared_maps(
    tmp_path: Path, board: Board, kind_of_folder: None, kind_of_locks: None
) -> None:
    play(tmp_path, board, "fork", steps=6, seed=2)


@pytest.mark.slow
def test_the_same_in_a_cache_that_is_too_small(tmp_path: Path, board: Board) -> None:
    play(tmp_path, board, "spawn", steps=8, seed=3, max_size_bytes=200_000)


# Orders to a process that does nothing else


def serve(setup: Callable[..., Any], arguments: tuple[Any, ...], pipe: Any) -> None:
    """Make something, and call its methods by name."""
    thing = setup(*arguments)
    pipe.send("ready")
    while (call := pipe.recv()) is not None:
        name, parameters = call
        try:
            pipe.send(getattr(thing, name)(*parameters))
        except CopickError as error:
            pipe.send(type(error).__name__)


class Reader:
    """A project, read through the cache."""

    def __init__(self, project: Path, cache: Path, read_only: bool) -> None:
        fields = {"pickable_objects": [{"name": "ribosome", "is_particle": True, "label": 1}]}
        config = config_of(project, read_only=read_only, **fields)
        self.open = lambda: copick.from_string(
            json.dumps(config), cache={"root": str(cache), "parent_layer": "*"}
        )
        self.layer: CachedLayer = self.open().layer.layers[0]  # type: ignore[assignment]
        self.tomogram: Any = None

    def voxels(self) -> Any:
        self.tomogram = self.tomogram or tomogram_of(self.open())
        return self.tomogram.numpy()

    def geometry(self) -> Any:
        array = self.tomogram.array()
        return array.shape, array.dtype, array.chunks

    def zarr(self) -> Any:
        return zarr.open(tomogram_of(self.open()).zarr(), mode="r")["0"][...]

    def attributes(self) -> Any:
        return dict(zarr.open_group(tomogram_of(self.open()).zarr(), mode="r").attrs)

    def runs(self) -> list[str]:
        return [run.name for run in self.open().runs]

    def tomograms(self) -> list[str]:
        run = self.open().get_run("R1")
        return sorted(t.tomo_type for v in run.voxel_spacings for t in v.tomograms) if run else []

    def picks(self) -> list[list[list[float]]]:
        run = self.open().get_run("R1")
        return [picks.numpy()[0].tolist() for picks in run.picks] if run else []


@contextmanager
def serving(
    setup: Callable[..., Any], *arguments: Any, method: str = "spawn"
) -> Iterator[Callable[..., Any]]:
    """A new process that calls methods of what `setup` makes."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(setup, arguments, theirs))
    process.start()

    def call(name: str, *parameters: Any) -> Any:
        ours.send((name, parameters))
        return Workers.answer(ours)

    try:
        assert Workers.answer(ours) == "ready"
        yield call
        ours.send(None)
        process.join(30)
    finally:
        process.kill()
        process.join()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_tomogram(tmp_path / "project", noise())
    return tmp_path / "project"


@pytest.fixture
def elsewhere(tmp_path: Path, project: Path) -> Iterator[Callable[..., Any]]:
    """A `Reader` in another process. It may not write."""
    with serving(Reader, project, tmp_path / "cache", True) as call:
        yield call


@pytest.fixture
def here(tmp_path: Path, project: Path) -> Reader:
    return Reader(project, tmp_path / "cache", False)


def test_a_volume_of_another_shape_type_and_grid(elsewhere: Callable[..., Any], here: Reader) -> None:
    np.testing.assert_array_equal(elsewhere("voxels"), noise())
    here.voxels()
    new = (noise((24, 60, 10), seed=2) * 100).astype(np.int16)
    here.tomogram.from_numpy(new, levels=2, dtype=np.int16)
    assert elsewhere("geometry") == (new.shape, new.dtype, (24, 60, 10))
    for way in ("voxels", "zarr", "voxels"):
        np.testing.assert_array_equal(elsewhere(way), new)


def test_a_volume_that_is_deleted_and_made_again(elsewhere: Callable[..., Any], here: Reader) -> None:
    here.voxels()
    elsewhere("voxels")
    here.tomogram.delete()
    assert elsewhere("tomograms") == []
    assert elsewhere("voxels") == "NotFoundError"
    spacing = here.open().get_run("R1").get_voxel_spacing(10.0)
    spacing.new_tomogram("wbp").from_numpy(noise(seed=3), levels=1)
    assert elsewhere("tomograms") == ["wbp"]
    np.testing.assert_array_equal(elsewhere("voxels"), noise(seed=3))


def test_a_volume_whose_run_is_deleted_and_made_again(elsewhere: Callable[..., Any], here: Reader) -> None:
    elsewhere("voxels")
    assert elsewhere("tomograms") == ["wbp"]
    root = here.open()
    root.delete_run("R1")
    assert (elsewhere("runs"), elsewhere("tomograms"), elsewhere("voxels")) == ([], [], "NotFoundError")
    root.new_run("R1").new_voxel_spacing(10).new_tomogram("wbp").from_numpy(noise(seed=4), levels=1)
    assert (elsewhere("runs"), elsewhere("tomograms")) == (["R1"], ["wbp"])
    np.testing.assert_array_equal(elsewhere("voxels"), noise(seed=4))


def test_attributes_of_a_group(elsewhere: Callable[..., Any], here: Reader) -> None:
    for n in range(3):
        group = zarr.open_group(tomogram_of(here.open()).zarr(), mode="r+")
        group.attrs["n"] = n
        assert elsewhere("attributes")["n"] == n


def test_keys_set_by_hand(elsewhere: Callable[..., Any], here: Reader) -> None:
    np.testing.assert_array_equal(elsewhere("voxels"), noise())
    here.voxels()
    store = here.tomogram.zarr()
    store["0/0/0/0"], first = store["0/1/0/0"], noise()[16:32, :16, :16]
    np.testing.assert_array_equal(elsewhere("voxels")[:16, :16, :16], first)
    del store["0/0/0/0"]
    assert not elsewhere("voxels")[:16, :16, :16].any()


def test_listings_and_documents(elsewhere: Callable[..., Any], here: Reader) -> None:
    assert (elsewhere("runs"), elsewhere("picks")) == (["R1"], [])
    run = here.open().get_run("R1")
    picks = run.new_picks("ribosome", "1")
    for n in range(3):
        picks.from_numpy(np.array([[1.0, 2.0, n]]))
        assert elsewhere("picks") == [[[1.0, 2.0, n]]]
    run.new_picks("ribosome", "2").from_numpy(np.array([[7.0, 8.0, 9.0]]))
    assert elsewhere("picks") == [[[1.0, 2.0, 2.0]], [[7.0, 8.0, 9.0]]]
    picks.delete()
    assert elsewhere("picks") == [[[7.0, 8.0, 9.0]]]
    here.open().new_run("R2")
    assert elsewhere("runs") == ["R1", "R2"]
    run.get_voxel_spacing(10.0).new_tomogram("other")
    assert elsewhere("tomograms") == ["other", "wbp"]


def test_listings_of_a_place_that_remembers_them_itself(
    tmp_path: Path, s3_bucket: str, s3_args: dict[str, Any]
) -> None:
    config = config_of(f"s3://{s3_bucket}/project", fs_args=s3_args)
    config["pickable_objects"] = [{"name": "ribosome", "is_particle": True, "label": 1}]
    cache = {"root": str(tmp_path / "cache")}
    here, elsewhere = (copick.from_string(json.dumps(config), cache=cache) for _ in range(2))
    run = here.new_run("R1")
    for n in range(3):
        picks = run.new_picks("ribosome", str(n))
        picks.from_numpy(np.array([[1.0, 2.0, 3.0]]))
        assert len(elsewhere.layer.list(run._ref, picks.kind)) == n + 1


def test_a_new_volume_through_a_store(tmp_path: Path, elsewhere: Callable[..., Any], here: Reader) -> None:
    """Listed and read elsewhere as soon as its metadata are written; a chunk more changes no listing."""
    assert elsewhere("tomograms") == ["wbp"]
    ref = tomogram_of(here.open())._ref
    store = here.layer.store(type(ref)(ref.kind, ("new",), ref.parent), write=True)
    array = zarr.open_group(store, mode="w", zarr_format=2).create_array(
        "0", shape=(8, 8), chunks=(4, 4), dtype="f4"
    )
    assert elsewhere("tomograms") == ["new", "wbp"]
    (listing,) = (tmp_path / "cache").rglob(".cache_info.tomogram")
    before = listing.stat().st_mtime_ns
    array[...] = 1
    assert elsewhere("tomograms") == ["new", "wbp"]
    assert listing.stat().st_mtime_ns == before


@pytest.mark.parametrize("moment", ["while it is asked for", "while it is kept"])
@pytest.mark.parametrize("what", ["listing", "document"])
def test_an_answer_that_is_out_of_date_before_it_is_kept_is_not_used(
    tmp_path: Path, project: Path, what: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, late = Reader(project, tmp_path / "cache", False), Reader(project, tmp_path / "cache", False)
    run = here.open().get_run("R1")
    picks = run.new_picks("ribosome", "1")
    picks.from_numpy(np.array([[0.0, 0.0, 0.0]]))
    owner: Any = late.layer.parent if "asked" in moment else info
    name = {"listing": "list", "document": "load_tagged"}[what] if "asked" in moment else "write"
    original = getattr(owner, name)

    def change() -> None:
        monkeypatch.undo()
        run.new_picks("ribosome", "2").from_numpy(np.array([[1.0, 1.0, 1.0]]))
        picks.from_numpy(np.array([[2.0, 2.0, 2.0]]))

    def slow(*arguments: Any) -> Any:
        if "kept" in moment:
            change()
            return original(*arguments)
        answer = original(*arguments)
        change()
        return answer

    monkeypatch.setattr(owner, name, slow)
    if what == "listing":
        assert len(late.layer.list(run._ref, picks.kind)) == 1
        for layer in (late.layer, here.layer):
            assert len(layer.list(run._ref, picks.kind)) == 2
    else:
        assert b"2.0" not in late.layer.load(picks._ref)
        for layer in (late.layer, here.layer):
            assert b"2.0" in layer.load(picks._ref)


@pytest.mark.parametrize("moment", ["while they are asked for", "while they are kept"])
@pytest.mark.parametrize("way", ["array", "zarr"])
def test_metadata_that_are_out_of_date_before_they_are_kept_are_not_used(
    tmp_path: Path, project: Path, way: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, late = Reader(project, tmp_path / "cache", False), Reader(project, tmp_path / "cache", True)
    new, fetch, keep, pending = noise((10, 10, 10), seed=2), source_module.fetch, info.write, [1]

    def change() -> None:
        pending.clear()
        tomogram_of(here.open()).from_numpy(new, levels=1)

    def slow_fetch(*arguments: Any) -> Any:
        documents = fetch(*arguments)
        if pending and any(name.endswith(".zarray") for name in documents):
            change()
        return documents

    def slow_keep(path: Path, *arguments: Any, **options: Any) -> bool:
        if pending and path.parts[-2:] == ("0", ".zarr_info"):
            change()
        return keep(path, *arguments, **options)

    if "asked" in moment:
        for module in (source_module, store_module):
            monkeypatch.setattr(module, "fetch", slow_fetch)
    else:
        monkeypatch.setattr(info, "write", slow_keep)
    # Only zarr asks for what is kept in `.zarr_info`. It may find metadata of one version with chunks of the other.
    for read in (
        [late.voxels, late.zarr] if "kept" in moment else [late.voxels if way == "array" else late.zarr]
    ):
        with contextlib.suppress(CopickError, ValueError):
            read()
    assert not pending
    for reader in (late, Reader(project, tmp_path / "cache", True)):
        np.testing.assert_array_equal(reader.voxels(), new)
        np.testing.assert_array_equal(reader.zarr(), new)


def test_an_array_is_not_begun_with_the_metadata_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_array(tmp_path / "source", noise(), fill_value=1)
    store, fetched, pending = cached_store(tmp_path / "cache", tmp_path / "source"), CachedArray._fetched, [1]

    def slow(self: CachedArray, *arguments: Any) -> Any:
        if pending:
            pending.clear()
            write_array(tmp_path / "source", noise(seed=2), fill_value=2)
            store.cache_manager.discard(store.local_path)
        return fetched(self, *arguments)

    slow.__name__ = fetched.__name__
    monkeypatch.setattr(CachedArray, "_fetched", slow)
    np.testing.assert_array_equal(store.open_array("0").read(()), noise(seed=2))
    assert store.open_array("0").geometry.fill == np.float32(2).tobytes()
    store.cache_manager.close()


def test_a_reader_that_looks_in_the_middle_of_a_discard_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_array(tmp_path / "source", noise())
    store, writer = cached_store(tmp_path / "cache", tmp_path / "source"), CacheManager(tmp_path / "cache")
    array, rename, looks = store.open_array("0"), os.rename, []
    array.read(())

    def slow(old: Any, new: Any, **options: Any) -> None:
        looks.append(array.read(()).copy())
        rename(old, new, **options)

    shutil.rmtree(tmp_path / "source")
    write_array(tmp_path / "source", noise(seed=2))
    monkeypatch.setattr(os, "rename", slow)
    writer.discard(store.local_path)
    assert looks
    np.testing.assert_array_equal(array.read(()), noise(seed=2))
    writer.close()
    store.cache_manager.close()


# A writer that is killed

KILLED = """
import itertools, sys
from pathlib import Path
import numpy as np
from support.volumes import opened
tomogram = opened(sys.argv[1], Path(sys.argv[2]))
print("ready", flush=True)
for n in itertools.count(1):
    tomogram.from_numpy(np.full((40, 40, 40), n + 0.5, np.float32), levels=1)
    for z in range(8):
        tomogram.set_region(np.full((5, 40, 40), n, np.float32), z=slice(5 * z, 5 * z + 5))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system does not kill so")
def test_after_a_writer_was_killed_all_read_what_it_left(
    tmp_path: Path, elsewhere: Callable[..., Any], here: Reader
) -> None:
    choose = random.Random(5)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    for _ in range(8):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "project"), str(tmp_path / "cache")]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        end = time.monotonic() + choose.uniform(0, 0.4)
        while time.monotonic() < end:  # whatever they see now may be half of it, or nothing
            elsewhere("voxels")
            with contextlib.suppress(CopickError):
                here.voxels()
        writer.kill()
        writer.wait()
        writer.stdout.close()
        plain = copick.from_string(json.dumps(config_of(tmp_path / "project")), cache=False)
        try:
            left = tomogram_of(plain).numpy()
        except (AssertionError, CopickError):  # killed between removing the old and making the new
            tomogram_of(plain).from_numpy(noise(), levels=1)
            here.layer.refresh(tomogram_of(plain)._ref)
            continue
        for read in (
            here.voxels,
            partial(elsewhere, "voxels"),
            Reader(tmp_path / "project", tmp_path / "cache", True).voxels,
        ):
            np.testing.assert_array_equal(read(), left)


def test_what_is_fetched_while_it_is_written_is_not_kept(tmp_path: Path) -> None:
    """A writer that was killed in the middle tells nobody, so what was read from it meanwhile must not last."""
    write_array(tmp_path / "source", noise())
    store, writer = cached_store(tmp_path / "cache", tmp_path / "source"), CacheManager(tmp_path / "cache")
    with writer.changing(store.local_path):
        np.testing.assert_array_equal(store.open_array("0").read(()), noise())
        assert not chunk_files(tmp_path / "cache")
        writer.generations.change = lambda slots: None  # type: ignore[method-assign]
        write_array(tmp_path / "source", noise((20, 20), seed=2), chunks=(10, 10))
    np.testing.assert_array_equal(store.open_array("0").read(()), noise((20, 20), seed=2))
    assert chunk_files(tmp_path / "cache")
    writer.close()
    store.cache_manager.close()


# The file of numbers


def generations(folder: Path) -> Generations:
    return Generations(folder / "generations", _cachecore.Cache(), RangeLocks(folder))


def test_only_what_was_changed_and_what_is_below_changes(tmp_path: Path) -> None:
    mine, other = generations(tmp_path), generations(tmp_path)
    items = {path: slots_of(path) for path in ("", "a", "a/b", "a/c", "a/b/d", "e")}
    for changed in items:
        before = {path: mine.now(slots) for path, slots in items.items()}
        assert before == {path: other.now(slots) for path, slots in items.items()}
        other.change(items[changed])
        for path, slots in items.items():
            below = not changed or path == changed or path.startswith(f"{changed}/")
            assert (mine.now(slots) != before[path]) == below


@given(
    st.lists(
        st.text("abc/", min_size=1, max_size=6).filter(lambda path: "//" not in path.strip("/")), max_size=5
    )
)
def test_a_path_watches_its_folders(paths: list[str]) -> None:
    for path in (each.strip("/") for each in paths):
        above = slots_of(path)
        assert all(0 <= slot < _cachecore.NUMBERS for slot in above)
        assert above[:-1] == (slots_of(os.path.dirname(path)) if path else ())


@pytest.mark.parametrize(
    "content", [None, b"", b"short", bytes(32768), bytes(40000)], ids=lambda c: f"{len(c or '')}"
)
def test_any_file_will_do(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "generations").write_bytes(content)
    mine, other = generations(tmp_path), generations(tmp_path)
    slots = slots_of("a/b")
    for _ in range(3):
        before = mine.now(slots)
        assert before == other.now(slots)
        other.change(slots)
        assert before != mine.now(slots) == other.now(slots)
    assert (tmp_path / "generations").stat().st_size == 8 * _cachecore.NUMBERS


@pytest.mark.parametrize("damage", ["deleted", "replaced", "replaced by a short one", "overwritten"])
def test_a_file_that_is_lost_while_it_is_in_use(tmp_path: Path, damage: str) -> None:
    mine, other = generations(tmp_path), generations(tmp_path)
    slots, file = slots_of("a/b"), tmp_path / "generations"
    before = mine.now(slots)
    if damage == "overwritten":
        file.write_bytes(file.read_bytes()[::-1])
    else:
        file.unlink()
        if damage != "deleted":
            file.write_bytes(os.urandom(100 if "short" in damage else 8 * _cachecore.NUMBERS))
    other.change(slots)  # it tells those who still have the old one, too
    assert mine.now(slots) != before
    mine.renew()
    before = mine.now(slots)
    assert before == other.now(slots) == generations(tmp_path).now(slots)
    generations(tmp_path).change(slots)
    assert mine.now(slots) != before
    assert not mine.renew()


def test_a_deleted_cache_does_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    mine = generations(tmp_path / "metadata")
    shutil.rmtree(tmp_path / "metadata")
    before = mine.now(slots_of("a"))
    mine.change(slots_of("a"))
    assert mine.now(slots_of("a")) != before
    assert not (tmp_path / "metadata").exists()


def _change_often(folder: Path, begin: Any) -> None:
    mine = generations(folder)
    begin.wait(60)
    for n in range(200):
        mine.change(slots_of(f"{os.getpid()}/{n}"))


def test_processes_that_make_the_file_at_once_have_the_same(tmp_path: Path) -> None:
    context: Any = multiprocessing.get_context("spawn")
    begin = context.Event()
    processes = [context.Process(target=_change_often, args=(tmp_path, begin)) for _ in range(4)]
    for process in processes:
        process.start()
    seen = generations(tmp_path)
    before = {
        process.pid: [seen.now(slots_of(f"{process.pid}/{n}")) for n in range(200)] for process in processes
    }
    begin.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
        after = [seen.now(slots_of(f"{process.pid}/{n}")) for n in range(200)]
        assert all(a != b for a, b in zip(before[process.pid], after, strict=True))


def test_a_file_that_cannot_be_read_tells_of_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cachecore, "on_network", lambda folder: True)
    mine = generations(tmp_path)
    assert mine.now((1, 2)) == mine.now((1, 2))
    os.truncate(tmp_path / "generations", 0)
    assert mine.now((1, 2)) != mine.now((1, 2))


def test_readers_notice_when_the_file_was_replaced(
    tmp_path: Path, project: Path, elsewhere: Callable[..., Any]
) -> None:
    """Somebody deletes the hints; a process that comes later knows nothing of the numbers that others look at."""
    np.testing.assert_array_equal(elsewhere("voxels"), noise())
    shutil.rmtree(tmp_path / "cache" / ".cache_metadata")
    opened(project, tmp_path / "cache").set_region(np.full(SHAPE, 7, np.float32))
    end = time.monotonic() + 60
    while not (elsewhere("voxels") == 7).all():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_change_of_something_else_with_the_same_number_costs_no_request(tmp_path: Path) -> None:
    write_array(tmp_path / "source", noise())
    store = cached_store(tmp_path / "cache", tmp_path / "source")
    array = store.open_array("0")
    array.read(())
    shutil.rmtree(tmp_path / "source")
    manager = store.cache_manager
    fetched = manager.get_stats()["fetched_cells"]
    manager.generations.change(manager.slots(store.local_path))
    np.testing.assert_array_equal(array.read(()), noise())
    assert manager.get_stats()["fetched_cells"] == fetched
    manager.close()


# What it costs


def test_a_whole_volume_is_discarded_once(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tomogram = opened(project, tmp_path / "cache")
    tomogram.numpy()
    removed, remove = [], CacheManager.remove
    monkeypatch.setattr(
        CacheManager, "remove", lambda self, path: remove(self, path) and not removed.append(path)
    )
    tomogram.from_numpy(noise((160, 160, 160)), levels=1)
    level = zarr.open(tomogram.zarr(), mode="r+")["0"]
    tomogram.numpy()
    level[...] = 1
    arrays = [path for path in removed if path.name == "wbp.zarr"]
    assert len(arrays) == 2


def test_a_store_that_is_written_can_be_sent_to_another_process(tmp_path: Path, project: Path) -> None:
    tomogram = opened(project, tmp_path / "cache")
    tomogram.numpy()
    level = pickle.loads(pickle.dumps(zarr.open(tomogram.zarr(), mode="r+")["0"]))
    level[...] = 3
    assert (tomogram.numpy() == 3).all()


def test_what_cannot_be_discarded_is_not_used(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be moved (Windows moves none with open files) loses what says that it is cached."""
    tomogram = opened(project, tmp_path / "cache")
    tomogram.numpy()
    rename = os.rename

    def refuse(old: Any, new: Any, **options: Any) -> None:
        if Path(old).name.endswith(".zarr"):
            raise PermissionError(13, "in use")
        rename(old, new, **options)

    monkeypatch.setattr(os, "rename", refuse)
    tomogram.set_region(np.full(SHAPE, 7, np.float32))
    assert (tomogram.numpy() == 7).all()
    assert (opened(project, tmp_path / "cache").numpy() == 7).all()


def test_turning_to_another_file_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, others = CacheManager(tmp_path), CacheManager(tmp_path)
    (tmp_path / ".cache_metadata" / "generations").unlink()
    others.generations.renew()

    def no_descriptor(folder: str) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(_cachecore, "on_network", no_descriptor)
        with pytest.raises(OSError, match="Too many open files"):
            mine.generations.renew()
    assert mine.generations.renew()
    slots = mine.slots(tmp_path / "x")
    before = mine.generations.now(slots)
    others.generations.change(slots)
    assert mine.generations.now(slots) != before


def test_arrays_that_a_parent_opened_are_looked_after_in_a_child(tmp_path: Path) -> None:
    write_tomogram(tmp_path / "project", noise())
    tomogram = opened(tmp_path / "project", tmp_path / "cache")
    array = tomogram.array()
    manager: CacheManager = tomogram.layer.layers[0].manager  # type: ignore[attr-defined]
    manager.after_fork()
    assert [*manager.arrays.values()] == [array]
