"""Listing whole projects far away: few requests, and the same answers."""

from __future__ import annotations

import json
import pickle
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import copick
from copick.errors import LayerError
from copick.layers import ahead as module
from copick.layers.ahead import Ahead, Entry, FoldersAhead, StoreAhead
from copick.meta import CopickTomogramMeta
from copick.testing.http_server import FolderServer
from copick.testing.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from copick.models import CopickRoot

TOP = "ExperimentRuns"


# The walk alone, over a store made of keys


class Keys:
    """What `Ahead` needs of a place, answered from a set of keys.

    Args:
        page: Items in a page.
        delimiters: Which delimiters the store knows: "any", only "/" ("slash": others are ignored), or "error".
    """

    root = "bucket/some/prefix"
    req_kw: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, keys: Iterable[str], page: int = 1000, delimiters: str = "any") -> None:
        self.keys, self.page, self.delimiters = {*keys}, page, delimiters
        self.asked: Counter[str] = Counter()
        self.pages: list[str] = []
        self.rounds: list[list[str]] = []
        self.fs = self
        self.latency_s = 0.0

    def ask(self, path: str) -> list[Entry]:
        time.sleep(self.latency_s)
        self.asked[path] += 1
        return self.listed(path)

    def listed(self, path: str) -> list[Entry]:
        inside = [key[len(path) + 1 :] for key in self.keys if key.startswith(f"{path}/")]
        if not inside:
            raise FileNotFoundError(path)
        return sorted({Entry(key.partition("/")[0], "/" in key) for key in inside if key})

    def ask_together(self, paths: list[str]) -> dict[str, list[Entry] | None]:
        time.sleep(self.latency_s)
        self.rounds.append(paths)
        found: dict[str, list[Entry] | None] = {}
        for path in paths:
            try:
                found[path] = self.listed(path)
            except FileNotFoundError:
                found[path] = None
        return found

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(
        self, method: str, Bucket: str, Prefix: str, Delimiter: str, StartAfter: str
    ) -> dict[str, Any]:
        """As S3 documents it: groups that sort before StartAfter are left out."""
        assert (method, Bucket) == ("list_objects_v2", "bucket")
        time.sleep(self.latency_s)
        self.pages.append(StartAfter)
        if self.delimiters == "error":
            raise OSError("NotImplemented")
        delimiter = Delimiter if self.delimiters == "any" else ""
        items = set()
        for key in (f"some/prefix/{key}" for key in self.keys):
            if key.startswith(Prefix):
                rest = key[len(Prefix) :]
                cut = rest.find(delimiter) if delimiter else -1
                item = key if cut < 0 else Prefix + rest[: cut + len(delimiter)]
                if key > StartAfter and item > StartAfter:
                    items.add((item, cut >= 0))
        shown = sorted(items)[: self.page]
        return {
            "Contents": [{"Key": item} for item, group in shown if not group],
            "CommonPrefixes": [{"Prefix": item} for item, group in shown if group],
            "IsTruncated": len(items) > len(shown),
        }


def project(runs: int, chunks: int = 2) -> list[str]:
    """The keys of a project: per run a voxel spacing with two tomograms, three picks, a segmentation."""
    inside = [".zgroup", "0/.zarray", *(f"0/0/0/{i}" for i in range(chunks))]
    per_run = [
        *(f"VoxelSpacing10.000/{name}.zarr/{key}" for name in ("denoised", "wbp") for key in inside),
        *(f"Picks/me_1_{name}.json" for name in ("apoferritin", "proteasome", "ribosome")),
        *(f"Segmentations/10.000_me_1_membrane.zarr/{key}" for key in inside),
    ]
    return [f"{TOP}/TS_{run:04}/{key}" for run in range(runs) for key in per_run]


FOLDERS = ["", "/VoxelSpacing10.000", "/Picks", "/Segmentations", "/InstanceSegmentations", "/Meshes"]


def outcome(ask: Any, path: str) -> list[Entry] | None:
    """What it says of a folder; None = there is none."""
    try:
        return sorted(ask(path))
    except FileNotFoundError:
        return None


def walk(ahead: Ahead, place: Keys, runs: int, folders: Iterable[str] = FOLDERS) -> None:
    """Ask for the folders of all runs; each answer must be right."""
    names = [entry.name for entry in ahead.entries(TOP)]
    assert len(names) == runs
    for name in names:
        for folder in folders:
            path = f"{TOP}/{name}{folder}"
            assert outcome(ahead.entries, path) == outcome(place.listed, path), path


@pytest.mark.parametrize(("runs", "chunks"), [(200, 1), (6, 1100)])
def test_pages_hold_documents_and_arrays_alone(runs: int, chunks: int) -> None:
    place = Keys(project(runs, chunks))
    walk(StoreAhead(place), place, runs)  # type: ignore[arg-type]
    # The first two runs take a request for each folder that is there; then 6 items a run.
    assert sum(place.asked.values()) == 1 + 2 * 4
    assert len(place.pages) == -(-runs * 6 // 1000)


def test_a_store_that_ignores_the_delimiter_is_led_past_arrays() -> None:
    place = Keys(project(6, 1100), delimiters="slash")
    walk(StoreAhead(place), place, 6)  # type: ignore[arg-type]
    assert sum(place.asked.values()) == 1 + 2 * 4
    # Three arrays a run, each more than a page; the end of a run shows on the page after.
    assert len(place.pages) <= 5 * 4


@pytest.mark.parametrize("delimiters", ["error", "any"])
def test_what_cannot_be_trusted_is_not_used(delimiters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Keys(project(30), delimiters=delimiters)
    if delimiters == "any":  # a store whose pages lack something
        honest = place.call_s3
        monkeypatch.setattr(
            place, "call_s3", lambda *args, **options: {**honest(*args, **options), "CommonPrefixes": []}
        )
    walk(StoreAhead(place), place, 30)  # type: ignore[arg-type]
    assert sum(place.asked.values()) == 1 + 30 * 4
    assert len(place.pages) == 1


def test_a_store_that_does_not_go_on_is_given_up() -> None:
    place = Keys(project(30), page=5)
    place.call_s3 = lambda *_, **__: {"IsTruncated": True}  # type: ignore[method-assign]
    walk(StoreAhead(place), place, 30)  # type: ignore[arg-type]
    assert sum(place.asked.values()) == 1 + 30 * 4


names = st.text(st.sampled_from("ab/-.~!é_0"), min_size=1, max_size=3).map(
    lambda name: name.strip("/") or "a"
)
keys = st.builds(
    lambda run, inside, end: f"{TOP}/{run}/{inside}{end}",
    names.map(lambda name: name.replace("/", "x")),
    names,
    st.sampled_from(["", "/", ".zarr/", ".zarr/0/x", ".zarr/~", ".zarr", "/x.json", "/y.zarr/.zgroup"]),
)


@settings(deadline=None, max_examples=300)
@given(
    st.sets(
        st.one_of(keys, st.sampled_from([f"{TOP}/file.txt", f"{TOP}/a.zarr/Picks/x", "Objects/a.zarr/0"]))
    ),
    st.integers(1, 7),
    st.sampled_from(["any", "slash"]),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_every_answer_is_that_of_the_place(
    held: set[str], page: int, delimiters: str, random: Any, whole: bool
) -> None:
    """Any keys, any order of asking, writes in between."""
    place = Keys(held, page, delimiters)
    for ahead in (StoreAhead(place), FoldersAhead(place)):  # type: ignore[arg-type]
        parts = [key.split("/") for key in held]
        folders = {"/".join(each[:depth]) for each in parts for depth in range(1, len(each))}
        folders |= {f"{path}/absent" for path in folders} | {f"{TOP}/absent"}
        order = sorted(folders - {path for path in folders if ".zarr" in path.rpartition("/")[0][len(TOP) :]})
        if not whole:
            random.shuffle(order)
        for path in [TOP, *order, *order]:
            assert outcome(ahead.entries, path) == outcome(place.listed, path), path
            if random.random() < 0.1:
                new = f"{path}/{random.choice('ab')}/{random.choice(['new', 'n.zarr/.zgroup'])}"
                place.keys.add(new)
                ahead.forget(new)
        for path in order:
            assert outcome(ahead.entries, path) == outcome(place.listed, path), path


# Time: others write, too


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("kind", [StoreAhead, FoldersAhead])
def test_what_was_asked_for_ahead_counts_for_a_while(kind: type[Ahead], clock: Clock) -> None:
    place = Keys(project(40))
    ahead = kind(place)  # type: ignore[arg-type]
    names = [entry.name for entry in ahead.entries(TOP)]
    for name in names[:3]:
        ahead.entries(f"{TOP}/{name}")
    fourth, fifth = f"{TOP}/{names[3]}", f"{TOP}/{names[4]}"
    place.keys |= {f"{fourth}/Picks/new.json", f"{fifth}/Picks/new.json", f"{fourth}/New/x", f"{fifth}/New/x"}
    assert Entry("New", True) not in ahead.entries(fourth)
    clock.now += module.FRESH_S + 1
    assert Entry("New", True) in ahead.entries(fifth)
    assert Entry("new.json", False) in ahead.entries(f"{fifth}/Picks")


def test_folders_asked_for_together_are_told_once(clock: Clock) -> None:
    place = Keys(project(40))
    ahead = FoldersAhead(place)  # type: ignore[arg-type]
    names = [entry.name for entry in ahead.entries(TOP)]
    for name in names[:4]:
        ahead.entries(f"{TOP}/{name}")
    fourth = f"{TOP}/{names[3]}"
    assert place.asked[fourth] == 0
    place.keys.add(f"{fourth}/New/x")
    assert Entry("New", True) in ahead.entries(fourth)


def test_a_slow_walk_is_none(clock: Clock) -> None:
    for kind in (StoreAhead, FoldersAhead):
        place = Keys(project(30))
        ahead: Ahead = kind(place)  # type: ignore[arg-type]
        for entry in ahead.entries(TOP):
            ahead.entries(f"{TOP}/{entry.name}")
            clock.now += 6
        assert not place.pages
        assert not place.rounds


def test_looking_at_one_run_again_and_again_is_no_walk(clock: Clock) -> None:
    place = Keys(project(30))
    ahead = StoreAhead(place)  # type: ignore[arg-type]
    for _ in range(20):
        for run in (0, 1):
            outcome(ahead.entries, f"{TOP}/TS_{run:04}/Picks")
            ahead.forget(f"{TOP}/TS_{run:04}/Picks/x.json")
    assert not place.pages


def test_a_walk_in_no_order_is_not_run_ahead_of() -> None:
    place = Keys(project(60))
    ahead = FoldersAhead(place)  # type: ignore[arg-type]
    ahead.entries(TOP)
    for run in (0, 20, 40, 10, 30, 50, 15, 55, 35):
        ahead.entries(f"{TOP}/TS_{run:04}")
    assert not place.rounds


def test_what_is_long_known_is_dropped(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    place = Keys(project(60), page=60)
    ahead = StoreAhead(place)  # type: ignore[arg-type]
    walk(ahead, place, 60)
    clock.now += module.FRESH_S + 1
    walk(ahead, place, 60)
    clock.now += module.FRESH_S + 1
    ahead.entries(f"{TOP}/TS_0000")
    assert len(ahead._known) == 1


def test_an_answer_that_a_write_overtook_is_not_kept() -> None:
    place = Keys(project(30))
    ahead = StoreAhead(place)  # type: ignore[arg-type]
    new = f"{TOP}/TS_0000/Picks/new.json"
    ask = place.ask

    def slow(path: str) -> list[Entry]:
        found = ask(path)
        if path.endswith("Picks") and new not in place.keys:
            place.keys.add(new)
            ahead.forget(new)
        return found

    place.ask = slow  # type: ignore[method-assign]
    assert Entry("new.json", False) not in ahead.entries(f"{TOP}/TS_0000/Picks")
    assert Entry("new.json", False) in ahead.entries(f"{TOP}/TS_0000/Picks")


def test_a_run_that_is_made_is_there() -> None:
    place = Keys(project(5))
    ahead = StoreAhead(place)  # type: ignore[arg-type]
    ahead.entries(TOP)
    new = f"{TOP}/TS_0002b"
    assert outcome(ahead.entries, new) is None
    place.keys.add(f"{new}/.meta")
    ahead.forget(f"{new}/.meta")
    assert ahead.entries(new) == [Entry(".meta", False)]


def test_threads_walk_together() -> None:
    place = Keys(project(200), page=300)
    place.latency_s = 0.01
    for ahead in (StoreAhead(place), FoldersAhead(place)):  # type: ignore[arg-type]
        names = [entry.name for entry in ahead.entries(TOP)]
        place.asked.clear()
        place.pages.clear()

        def look(name: str, ahead: Ahead = ahead) -> list[Any]:
            return [outcome(ahead.entries, f"{TOP}/{name}{folder}") for folder in FOLDERS]

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(look, names))
        assert found == [
            [outcome(place.listed, f"{TOP}/{name}{folder}") for folder in FOLDERS] for name in names
        ]
        if isinstance(ahead, StoreAhead):
            assert len(place.pages) + sum(place.asked.values()) < 300


# Real places

OBJECTS_CONFIG = [{"name": name, "is_particle": True, "label": at} for at, name in enumerate("abc", 1)]


def opened(root: str = "", **fields: Any) -> CopickRoot:
    config = {"user_id": "me", "pickable_objects": OBJECTS_CONFIG}
    place = {"config_type": "filesystem", "root": root} if root else {"config_type": "multilayer"}
    return copick.from_string(json.dumps({**config, **place, **fields}))


def documents(runs: int, chunks: int = 2) -> dict[str, bytes]:
    document = b'{"pickable_object_name": "a", "user_id": "me", "session_id": "1", "points": []}'
    names = {"apoferritin": "a", "proteasome": "b", "ribosome": "c"}
    keys = project(runs, chunks)
    for long, short in names.items():
        keys = [key.replace(f"{long}.json", f"{short}.json") for key in keys]
    return {f"p/{key}": document if key.endswith(".json") else b"{}" for key in keys}


def everything(root: CopickRoot) -> list[str]:
    """The refs of all there is."""
    found: list[Any] = []
    for run in root.runs:
        found += [run, *run.picks, *run.meshes, *run.filaments, *run.segmentations]
        for spacing in run.voxel_spacings:
            found += [spacing, *spacing.tomograms]
    return [str(each.ref) for each in found]


@pytest.fixture
def server() -> Iterator[S3Server]:
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server) -> Iterator[str]:
    """A bucket with a project of 100 runs."""
    name = f"listing-{uuid.uuid4().hex[:12]}"
    server.put(name, documents(100))
    yield name
    server.remove(name)


def on(server: S3Server, bucket: str, **fields: Any) -> CopickRoot:
    root = opened(f"s3://{bucket}/p", fs_args=server.fs_args, **fields)
    server.requests.clear()
    return root


def test_a_project_on_s3_takes_few_requests(server: S3Server, bucket: str) -> None:
    root = on(server, bucket, read_only=True)
    assert len(everything(root)) == 100 * 8
    assert len(server.requests) <= 25
    everything(root)
    root.refresh()
    server.requests.clear()
    assert len(everything(root)) == 100 * 8
    assert len(server.requests) <= 25


def test_getting_one_thing_of_each_run_takes_few_requests(server: S3Server, bucket: str) -> None:
    root = on(server, bucket, read_only=True)
    for run in root.runs:
        spacing = run.get_voxel_spacing(10.0)
        assert spacing is not None
        assert spacing.get_tomogram("wbp") is not None
        assert spacing.get_tomogram("absent") is None
        assert [each.session_id for each in run.get_picks("b")] == ["1"]
    assert len(server.requests) <= 40


def test_big_arrays_cost_nothing(server: S3Server, bucket: str) -> None:
    inside = {
        f"p/{TOP}/TS_{run:04}/VoxelSpacing10.000/big.zarr/0/{i}": b""
        for run in range(0, 100, 20)
        for i in range(1100)
    }
    server.put(bucket, inside)
    root = on(server, bucket, read_only=True)
    assert len(everything(root)) == 100 * 8 + 5
    assert len(server.requests) <= 25


def test_a_store_that_refuses_such_listings_is_listed_as_ever(server: S3Server) -> None:
    bucket = f"listing-{uuid.uuid4().hex[:12]}"
    server.put(bucket, documents(20))
    server.fault = lambda request: 501 if request.query.get("delimiter") == ".zarr/" else None
    root = on(server, bucket, read_only=True)
    assert len(everything(root)) == 20 * 8
    assert sum(request.query.get("delimiter") == ".zarr/" for request in server.requests) <= 5
    assert len(server.requests) <= 20 * 5 + 10


def test_a_store_that_fails_is_not_empty(server: S3Server, bucket: str) -> None:
    root = on(server, bucket, read_only=True)
    runs = root.runs
    for run in runs[:2]:
        assert run.picks
    server.fault = lambda _: 403
    for run in runs[2:5]:
        with pytest.raises(LayerError, match="Picks failed"):
            _ = run.picks
        with pytest.raises(LayerError, match="failed"):
            run.get_voxel_spacing(10.0)
    server.fault = None
    assert [len(run.picks) for run in runs[2:5]] == [3, 3, 3]


def test_own_writes_are_seen_at_once(server: S3Server, bucket: str) -> None:
    root = on(server, bucket)
    assert len(everything(root)) == 100 * 8
    run = root.runs[50]
    run.new_picks("a", "2")
    assert len(run.query_picks()) == 4
    run.picks[0].delete()
    assert len(run.query_picks()) == 3
    new = root.new_run("TS_0100b")
    new.new_picks("c", "1")
    assert [run.name for run in root.query()][-2:] == ["TS_0099", "TS_0100b"]
    assert len(new.query_picks()) == 1
    tomogram = run.voxel_spacings[0].new_tomogram("new")
    tomogram.from_numpy(np.ones((2, 2, 2)), levels=1)
    assert [each.tomo_type for each in run.voxel_spacings[0].query_tomograms()] == ["denoised", "new", "wbp"]
    new.delete()
    assert new not in root.query()
    assert new.query_picks() == []
    # A walk after that: the runs that were written to are told as they are.
    assert len(root.query()) == 100
    assert sum(len(run.query_picks()) for run in root.query()) == 300


def test_arrays_written_through_a_store_are_seen(server: S3Server, bucket: str) -> None:
    """A store that is open writes without telling the layer."""
    root = on(server, bucket)
    ref = root.runs[60].voxel_spacings[0].new_tomogram("other").ref
    store = root.layer.store(ref.kind.ref(CopickTomogramMeta(tomo_type="late"), ref.parent), write=True)
    assert len(everything(root)) == 100 * 8 + 1
    zarr.create_group(store, zarr_format=2)
    assert "late" in [each.tomo_type for each in root.runs[60].voxel_spacings[0].query_tomograms()]


def test_files_written_around_the_layer_are_seen(server: S3Server, bucket: str) -> None:
    root = on(server, bucket)
    everything(root)
    run = root.runs[30]
    assert root.fs.exists(f"{root.path}/{TOP}")
    run.fs.pipe_file(f"{run.path}/Picks/you_7_a.json", b"{}")
    assert [each.user_id for each in run.query_picks()] == ["me", "you", "me", "me"]
    server.requests.clear()
    assert len(everything(on(server, bucket))) == 100 * 8 + 1
    assert len(server.requests) <= 25


def test_refresh_shows_what_others_wrote(server: S3Server, bucket: str) -> None:
    root = on(server, bucket, read_only=True)
    everything(root)
    (document,) = {content for key, content in documents(1).items() if key.endswith(".json")}
    server.put(
        bucket, {f"p/{TOP}/TS_0070/Picks/you_7_a.json": document, f"p/{TOP}/TS_0070/Meshes/you_7_a.glb": b""}
    )
    root.refresh()
    run = root.runs[70]
    assert [each.user_id for each in run.picks] == ["me", "you", "me", "me"]
    assert len(run.meshes) == 1


def test_runs_that_another_layer_holds_are_not_asked_for(
    server: S3Server, bucket: str, tmp_path: Path
) -> None:
    for run in range(200):
        (tmp_path / TOP / f"own_{run:03}" / "Picks").mkdir(parents=True)
    layers = {
        "work": {"config_type": "filesystem", "root": str(tmp_path)},
        "store": {
            "config_type": "filesystem",
            "root": f"s3://{bucket}/p",
            "fs_args": server.fs_args,
            "read_only": True,
        },
    }
    root = opened(layers=["work", "store"], layer_configs=layers)
    server.requests.clear()
    assert len(everything(root)) == 100 * 8 + 200
    assert len(server.requests) <= 25


def test_it_travels_to_other_processes(server: S3Server, bucket: str) -> None:
    root = on(server, bucket, read_only=True)
    before = everything(root)
    again = pickle.loads(pickle.dumps(root))
    assert everything(again) == before


def test_a_cached_layer_lists_its_parent_with_few_requests(
    server: S3Server, bucket: str, tmp_path: Path, own_managers: None
) -> None:
    cache = {"root": str(tmp_path / "cache"), "parent_layer": "*"}
    root = on(server, bucket, read_only=True)
    before = everything(root)
    store = {
        "config_type": "filesystem",
        "root": f"s3://{bucket}/p",
        "fs_args": server.fs_args,
        "read_only": True,
    }
    cached = opened(layers=["store"], layer_configs={"store": store}, cache_config=cache)
    server.requests.clear()
    assert everything(cached) == before
    assert len(server.requests) <= 25


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for key, content in documents(60).items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "p"


def test_over_http_the_next_runs_are_asked_for_together(folder: Path) -> None:
    expected = everything(opened(str(folder)))
    together = threading.Barrier(8)
    waited = []

    def fault(_: str, path: str) -> None:
        """Eight requests for runs meet, if they are on their way at the same time."""
        if path.endswith(tuple(f"/TS_00{run}/" for run in range(20, 28))):
            together.wait(30)
            waited.append(path)

    with FolderServer(folder, fault=fault) as server:
        root = opened(server.url)
        assert everything(root) == expected
        assert len(waited) == 8
        # A listing of all runs; of each run, its own folder and the three in it. Then the first runs' absent folders.
        assert server.count() <= 1 + 60 * 4 + 4 * 4


def test_a_web_server_that_fails_on_the_way_is_not_empty(folder: Path) -> None:
    with FolderServer(folder) as server:
        root = opened(server.url)
        runs = root.runs
        for run in runs[:10]:
            assert run.picks
        server.fault = lambda method, path: 500 if "TS_0033" in path else None
        for run in runs[10:]:
            if run.name == "TS_0033":
                with pytest.raises(LayerError, match="TS_0033"):
                    _ = run.picks
            else:
                assert len(run.picks) == 3
