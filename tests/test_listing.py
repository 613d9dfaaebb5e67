"""Listing whole projects far away: few requests, and the same answers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copick.layers.ahead import Ahead, Entry, FoldersAhead, StoreAhead

if TYPE_CHECKING:
    from collections.abc import Iterable

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

    def ask(self, path: str) -> list[Entry]:
        self.asked[path] += 1
        return self.listed(path)

    def listed(self, path: str) -> list[Entry]:
        inside = [key[len(path) + 1 :] for key in self.keys if key.startswith(f"{path}/")]
        if not inside:
            raise FileNotFoundError(path)
        return sorted({Entry(key.partition("/")[0], "/" in key) for key in inside if key})

    def ask_together(self, paths: list[str]) -> dict[str, list[Entry] | None]:
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


@pytest.mark.parametrize(("runs", "chunks"), [(200, 1), (10, 1500)])
def test_pages_hold_documents_and_arrays_alone(runs: int, chunks: int) -> None:
    place = Keys(project(runs, chunks))
    walk(StoreAhead(place), place, runs)  # type: ignore[arg-type]
    # The first two runs take a request for each folder that is there; then 6 items a run.
    assert sum(place.asked.values()) == 1 + 2 * 4
    assert len(place.pages) == -(-runs * 6 // 1000)


def test_a_store_that_ignores_the_delimiter_is_led_past_arrays() -> None:
    place = Keys(project(10, 1500), delimiters="slash")
    walk(StoreAhead(place), place, 10)  # type: ignore[arg-type]
    assert sum(place.asked.values()) == 1 + 2 * 4
    # Three arrays a run, each more than a page; the end of a run shows on the page after.
    assert len(place.pages) <= 9 * 4


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
