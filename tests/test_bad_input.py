"""What a user does wrong, and what fails under a user: one clear error each, from one table per subject.

Everything goes through `copick.from_file` (and, for configs, `copick demo --config`) against real directories and
servers. An error is clear when its class is one of `copick.errors`, which also is the builtin that copick 1.x
raised, and its text says what failed, where (layer and path), and what to do. Bad arguments are in test_bad_arguments.py.
"""

from __future__ import annotations

import itertools
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import copick
from copick.cli.cli import main
from copick.errors import (
    ConfigError,
    FormatError,
    LayerError,
    MissingConfigError,
    NotFoundError,
)
from copick.layers.places import exchange
from copick.layers.transfer import entities
from copick.testing.http_server import Fault, FolderServer
from projects import V3, WBP, alone, archived, run_of, tomogram_of
from support.trees import content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from copick.models import CopickRoot


@pytest.fixture
def server(original: Path) -> Iterator[FolderServer]:
    with FolderServer(original) as server:
        yield server


CACHES = pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])


# Configs

FS = {"config_type": "filesystem", "root": "work"}
ARCHIVE = {"config_type": "filesystem", "root": "archive", "read_only": True}
CACHE = {"config_type": "cache", "root": "cache"}


def stack(**fields: Any) -> str:
    layers = {"work": FS, "archive": ARCHIVE}
    return json.dumps({"config_type": "multilayer", "layers": [*layers], "layer_configs": layers, **fields})


def one(**fields: Any) -> str:
    return json.dumps({**FS, **fields})


CONFIGS: dict[str, tuple[str, str]] = {
    "unknown type": (
        '{"config_type": "filesytem"}',
        r"unknown config_type .*did you mean 'filesystem'.*known",
    ),
    "no type": ("{}", r"config_type: is missing; known are .*filesystem"),
    "unknown layer": (
        stack(layers=["work", "archiv"]),
        r"layers\.1: found 'archiv'.*did you mean 'archive'.*work, archive",
    ),
    "unknown write layer": (stack(default_write_layer="wrk"), r"default_write_layer: found 'wrk'.*'work'"),
    "read-only write layer": (
        stack(default_write_layer="archive"),
        r"default_write_layer: 'archive' is read-only; expected one that can be written: work",
    ),
    "unknown parent": (
        stack(cache_config={"root": "c", "parent_layer": "x"}),
        r"cache_config\.parent_layer: found 'x'.*expected one of work, archive",
    ),
    "two caches": (
        stack(
            layers=["work", "archive", "c", "d"],
            layer_configs={"work": FS, "archive": ARCHIVE, "c": CACHE, "d": CACHE},
        ),
        r"layer_configs\.d: is a second cache beside layer_configs\.c",
    ),
    "missing field": ('{"config_type": "filesystem"}', "root: is missing"),
    "not JSON": ("{config", r"not valid JSON at line 1, column 2"),
    "empty": ("", "not valid JSON at line 1, column 1"),
    "a list": ("[]", "found a list; expected an object"),
    "a key twice": ('{"config_type": "filesystem", "root": "a", "root": "b"}', "key 'root' stands twice"),
    "too deep": ("[" * 100_000, "recursion"),
    "a huge number": (f'{{"priority": {"9" * 5000}}}', "digits"),
    "read-only root that is not there": (
        one(root="nowhere", read_only=True),
        r"layer 'filesystem': root .*nowhere' cannot be used: there is no such directory",
    ),
    "root is a file": (
        one(root="/dev/null"),
        r"root '/dev/null' cannot be used: it is not a directory",
    ),
    "unknown protocol": (one(root="s4://x"), r"layer 'filesystem': root 's4://x' .*no file system 's4'"),
    "no bucket": (one(root="s3://"), r"root: s3:// names no bucket"),
    "no host": (one(root="http:///"), r"root: http:// names no host"),
    "control characters": (one(root="a\0b"), r"root: holds control characters"),
    "a query": (one(root="http://h/x?token=s3cr3t"), r"root: holds \? or #"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "archive").mkdir()
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command line says."""
    with pytest.raises(SystemExit, match=r"^[12]$"):
        main(arguments)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("copick: ")
    return said


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, problem = CONFIGS[case]
    path = here / "project.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        copick.from_file(path)
    assert isinstance(caught.value, ValueError)
    assert "s3cr3t" not in str(caught.value)
    assert complaint(
        capsys, "demo", "--config", "project.json"
    ) == f"copick: {' '.join(str(caught.value).split())}\n".replace(str(path), "project.json")


def test_config_files_that_cannot_be_opened(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingConfigError, match=r"no config file 'no\.json' \(looked in") as missing:
        copick.from_file("no.json")
    assert isinstance(missing.value, FileNotFoundError)
    for path in ("archive", "a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            copick.from_file(path)
    assert "no.json" in complaint(capsys, "demo", "--config", "no.json")
    assert "archive" in complaint(capsys, "demo", "--config", "archive")


def test_a_byte_order_mark_is_no_error(here: Path) -> None:
    (here / "project.json").write_text("\ufeff" + one())
    assert copick.from_file("project.json").runs == []


# Roots


def test_roots_that_are_not_there(
    tmp_path: Path,
    server: FolderServer,
    s3_bucket: str,
    s3_args: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    roots = {
        f"{server.url}nowhere": ({}, "cannot be read: there is no such directory; check the address"),
        "s3://copick-no-such-bucket/x": ({"fs_args": s3_args}, "there is no bucket 'copick-no-such-bucket'"),
        f"s3://{s3_bucket}/nowhere": ({"fs_args": s3_args}, "there is nothing under 'nowhere'"),
        "http://127.0.0.1:1/x": ({"timeout_s": 2}, "check the address and the network"),
    }
    for root, (fields, problem) in roots.items():
        with pytest.raises(LayerError, match=rf"layer 'archive': .*{problem}") as caught:
            _ = archived(tmp_path, root, False, **fields).runs
        assert root in str(caught.value)
        assert problem in complaint(capsys, "demo", "--config", str(tmp_path / "project.json"))
        with pytest.raises(LayerError, match="layer 'archive'"):
            run_of(archived(tmp_path, root, True, **fields))


def test_secrets_are_in_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = {"key": "AKIA-s3cr3t", "secret": "s3cr3t", "endpoint_url": "http://127.0.0.1:1"}
    roots = {
        "s3://bucket/x": {"fs_args": args},
        "http://me:s3cr3t@127.0.0.1:1/x": {},
        "http://127.0.0.1:1/x": {"fs_args": {"headers": {"Authorization": "Bearer s3cr3t"}}},
    }
    for root, fields in roots.items():
        opened = archived(tmp_path, root, True, timeout_s=2, **fields)
        with pytest.raises(LayerError, match="layer 'archive'") as caught:
            _ = opened.runs
        shown = [repr(opened), repr(opened.config), repr(opened.layer), str(caught.value), caplog.text]
        for layer in opened.layer.layers:  # type: ignore[attr-defined]
            shown += [repr(layer), layer.location]
        assert not any("s3cr3t" in text for text in shown)


# Servers that fail

FAULTS: tuple[Fault, ...] = (403, 500, "hang", "drop", "truncate")
STAGES: dict[str, tuple[str, Callable[[CopickRoot], Any]]] = {
    "list runs": ("ExperimentRuns/", lambda root: root.runs),
    "list picks": ("Picks/", lambda root: run_of(root).picks),
    "load picks": (".json", lambda root: run_of(root).picks[0].points),
    "metadata": (".zarray", lambda root: tomogram_of(root).numpy()),
    "chunk": ("/0/0/0/0", lambda root: tomogram_of(root).numpy()),
    "chunk, patches": ("/0/0/0/0", lambda root: tomogram_of(root).patches([[0, 0, 0]], (2, 2, 2))),
    "chunk, zarr": (
        "/0/0/0/0",
        lambda root: zarr.open_array(tomogram_of(root).zarr(), path="0", mode="r")[0],
    ),
}


@CACHES
@pytest.mark.parametrize("fault", FAULTS)
def test_servers_that_fail(fault: Fault, cached: bool, server: FolderServer, tmp_path: Path) -> None:
    for stage, (end, work) in STAGES.items():
        server.fault = lambda _, path, end=end: fault if path.endswith(end) else None
        opened = archived(tmp_path / stage, server.url, cached, timeout_s=0.3)
        with pytest.raises(LayerError, match="layer 'archive': ") as caught:
            work(opened)
        text = str(caught.value)
        assert end.strip("/").removesuffix(".json") in text
        advice = {403: "credentials", "hang": "timeout_s=0.3"}.get(fault, "try again")  # type: ignore[arg-type]
        assert advice in text or "that you may read it" in text
        assert isinstance(caught.value, OSError)
        # What failed is not remembered.
        server.fault = None
        work(opened)
        opened.refresh()


@CACHES
def test_what_a_404_means(cached: bool, server: FolderServer, tmp_path: Path) -> None:
    """Something is not there: no picks, no such document, no such array, a chunk that is all fill value."""

    def read(stage: str) -> Any:
        end, work = STAGES[stage]
        server.fault = lambda _, path: 404 if path.endswith(end) else None
        return work(archived(tmp_path / stage, server.url, cached))

    assert read("list picks") == []
    with pytest.raises(NotFoundError, match="TS_1/ribosome_tool_0"):
        read("load picks")
    with pytest.raises(NotFoundError, match="has no array '0'"):
        read("metadata")
    assert not read("chunk").any()


# Damaged files

GARBAGE = {"garbage": b"{{{", "empty": b"", "no text": b"\xff\xfe", "list": b"[]", "null": b"null"}
FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    f"{WBP}/0/.zarray": {
        "shape": {"shape": ["x", 1, 1]},
        "negative": {"shape": [-1, 8, 8]},
        "rank": {"shape": [8, 8]},
        "no dtype": {"dtype": None},
        "dtype": {"dtype": "<q9"},
        "no chunks": {"chunks": None},
        "codec": {"compressor": {"id": "zzz"}},
        "fill": {"fill_value": "blue"},
        "version": {"zarr_format": 7},
    },
    f"{V3}/0/zarr.json": {
        "no shape": {"shape": None},
        "shape": {"shape": "x"},
        "dtype": {"data_type": "float99"},
        "codec": {"codecs": [{"name": "zzz"}]},
        "no codecs": {"codecs": []},
        "grid": {"chunk_grid": 3},
        "no node type": {"node_type": None},
    },
}


@CACHES
@pytest.mark.parametrize("file", FIELDS)
def test_damaged_metadata(file: str, cached: bool, archive: Path, tmp_path: Path) -> None:
    path = archive / file
    known = json.loads(path.read_bytes())
    damages = dict(GARBAGE)
    for name, changes in FIELDS[file].items():
        changed = {
            key: value
            for key, value in {**known, **changes}.items()
            if value is not None or key not in changes
        }
        damages[name] = json.dumps(changed).encode()
    array = file.rpartition("/")[0]
    for name, damage in damages.items():
        path.write_bytes(damage)
        opened = archived(tmp_path / f"{name}-{cached}", archive, cached)
        read = tomogram_of(opened, array.rpartition("/")[0].rpartition("/")[2].removesuffix(".zarr")).numpy
        with pytest.raises(
            FormatError, match=rf"layer 'archive': .*{array}.* cannot be (decoded|understood)"
        ) as caught:
            read()
        assert isinstance(caught.value, ValueError)
        assert "\n" not in str(caught.value)


@CACHES
def test_damaged_chunks(cached: bool, archive: Path, tmp_path: Path) -> None:
    for file in (f"{WBP}/0/0/0/0", f"{V3}/0/c/0/0/0"):
        path = archive / file
        whole = path.read_bytes()
        for name, damage in {"half": whole[: len(whole) // 2], "empty": b"", "garbage": b"x" * 100}.items():
            path.write_bytes(damage)
            read = tomogram_of(
                archived(tmp_path / f"{name}-{'c/0' in file}", archive, cached),
                "v3" if "c/0" in file else "wbp",
            )
            for work in (read.numpy, lambda read=read: read.patches([[0, 0, 0]], (2, 2, 2))):
                with pytest.raises(FormatError, match=r"layer 'archive': .*\.zarr/0.* cannot be decoded"):
                    work()


DOCUMENTS = {
    "picks": ("tool_0_ribosome.json", "Picks", lambda run: run.picks[0].points),
    "filaments": ("tool_0_ribosome.json", "Filaments", lambda run: run.filaments[0].filaments),
    "mesh": ("tool_0_ribosome.glb", "Meshes", lambda run: run.meshes[0].mesh),
}


@CACHES
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents_that_are_none(kind: str, cached: bool, archive: Path, tmp_path: Path) -> None:
    name, folder, read = DOCUMENTS[kind]
    path = archive / "ExperimentRuns/TS_1" / folder / name
    path.parent.mkdir(exist_ok=True)
    more = [b'{"points": 3}', b'{"filaments": [1]}', b"glTF", b"glTF" + bytes(100)]
    for at, damaged in enumerate([*GARBAGE.values(), *more]):
        path.write_bytes(damaged)
        before = content(archive)
        opened = archived(tmp_path / str(at), archive, cached)
        what = {"mesh": "binary glTF"}.get(kind, f"a {kind} document")
        with pytest.raises(
            FormatError, match=rf"{kind} 'TS_1/ribosome_tool_0' in layer 'archive' is not {what}"
        ) as caught:
            read(run_of(opened))
        assert isinstance(caught.value, ValueError)
        # What cannot be read is not overwritten by chance, and can be replaced on purpose.
        assert content(archive) == before


@pytest.mark.parametrize("kind", ["picks", "filaments"])
def test_documents_that_say_they_are_others(
    kind: str, archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file name is what they are found, stored and deleted by. The log tells, once."""
    fields = {"pickable_object_name": "membrane", "user_id": "theirs", "session_id": "9", "run_name": "TS_7"}
    folder = archive / "ExperimentRuns/TS_1" / kind.capitalize()
    folder.mkdir(exist_ok=True)
    (folder / "tool_0_ribosome.json").write_text(json.dumps(fields))
    run = run_of(archived(tmp_path, archive, False))
    caplog.clear()
    (item,) = getattr(run, kind)
    assert caplog.records == []
    _ = item.load(), item.instance_ids(), item.load()
    (told,) = caplog.messages
    assert "tool_0" in told
    assert "in layer 'archive'" in told
    assert "the document says ['membrane', 'theirs', '9']; its file name counts" in told
    assert (item.pickable_object_name, item.user_id, item.session_id) == ("ribosome", "tool", "0")
    assert (item.meta.user_id, item.meta.run_name) == ("theirs", "TS_7")
    assert getattr(run, f"get_{kind}")("ribosome", "tool", "0") == [item]
    assert getattr(run, f"get_{kind}")(user_id="theirs") == []
    assert item.color == (0, 117, 220, 255)
    item.store()
    stored = tmp_path / "work/ExperimentRuns/TS_1" / kind.capitalize()
    assert [path.name for path in stored.iterdir()] == ["tool_0_ribosome.json"]
    assert json.loads((stored / "tool_0_ribosome.json").read_text())["user_id"] == "theirs"
    item.delete(layers="work")
    assert list(stored.iterdir()) == []
    # A caller who changes it means another document.
    item.meta.session_id = "10"
    with pytest.raises(FormatError, match=r"cannot become .*'10'.*; make a new one"):
        item.store()
    assert list(stored.iterdir()) == []


# Files that belong nowhere

RUN = "ExperimentRuns/TS_1"
SPACING = f"{RUN}/VoxelSpacing10.000"
STRAY: dict[str, str] = {
    f"{RUN}/VoxelSpacing/": "no name of voxel spacing",
    f"{RUN}/VoxelSpacingabc/": "no name of voxel spacing",
    f"{RUN}/VoxelSpacing0.000/": "no name of voxel spacing",
    f"{RUN}/VoxelSpacing-10.000/": "no name of voxel spacing",
    f"{RUN}/VoxelSpacingnan/": "no name of voxel spacing",
    f"{RUN}/VoxelSpacing20.000": "it is a file, not a directory",
    f"{SPACING}/a.zarr": "it is a file, not a directory",
    f"{SPACING}/wbp_features.zarr/": "no name of features",
    f"{SPACING}/wbp__features.zarr/": "no name of features",
    f"{SPACING}/wbp_sam_features.zarr": "it is a file, not a directory",
    f"{RUN}/Picks/ribosome.json": "no name of picks",
    f"{RUN}/Picks/me_ribosome.json": "no name of picks",
    f"{RUN}/Picks/_1_ribosome.json": "no name of picks",
    f"{RUN}/Picks/me_1_.json": "no name of picks",
    f"{RUN}/Picks/me_1_ribosome.json/": "it is a directory, not a file",
    f"{RUN}/Picks/me\n_1_ribosome.json": "control characters",
    f"{RUN}/Meshes/x.glb": "no name of mesh",
    f"{RUN}/Meshes/me_1_membrane.glb/": "it is a directory, not a file",
    f"{RUN}/Filaments/x.json": "no name of filaments",
    f"{RUN}/Segmentations/x.zarr/": "no name of segmentation",
    f"{RUN}/Segmentations/wide_me_1_membrane.zarr/": "no name of segmentation",
    f"{RUN}/Segmentations/0.000_me_1_membrane.zarr/": "no name of segmentation",
    f"{RUN}/Segmentations/10.000_me_membrane.zarr/": "no name of segmentation",
    f"{RUN}/Segmentations/10.000_me_1_membrane.zarr": "it is a file, not a directory",
    f"{RUN}/InstanceSegmentations/10.000_me.zarr/": "no name of instance segmentation",
    f"{RUN}/PanopticSegmentations/10.000_me.zarr/": "no name of panoptic segmentation",
    "Objects/ribosome.zarr": "it is a file, not a directory",
}
"""What is skipped with one line in the log. A slash at the end: a directory."""
FOREIGN = (
    "notes.txt",
    "ExperimentRuns/notes.txt",
    "ExperimentRuns/.DS_Store",
    f"{RUN}/notes/",
    f"{RUN}/.DS_Store",
    f"{RUN}/Picks/notes.txt",
    f"{RUN}/Picks/.me_1_ribosome.json",
    f"{RUN}/Picks/me_1_ribosome.json.bak",
    f"{SPACING}/wbp.mrc",
    f"{SPACING}/.wbp.zarr/",
    f"{SPACING}/gone_unet_features.zarr/",
    f"{RUN}/Segmentations/membrane.mrc",
    "Objects/ribosome.mrc",
)
"""What nobody takes for data of a project."""


def add(place: Path, name: str) -> None:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_text("x")


def everything(folder: Path) -> list[str]:
    """All that is found in a project, by who opens it now; every folder is listed once."""
    return [str(ref) for ref in entities(alone(folder).layer)]


@pytest.mark.parametrize("name", STRAY)
def test_stray_files_are_skipped_with_one_line(
    name: str, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = everything(archive)
    caplog.clear()
    add(archive, name)
    before = content(archive)
    assert everything(archive) == known
    (told,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert told.getMessage().startswith("skipped ")
    assert repr(name.rstrip("/").rpartition("/")[2])[1:-1] in told.getMessage()
    assert STRAY[name] in told.getMessage()
    assert content(archive) == before


def test_foreign_files_are_no_reason_to_say_anything(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = everything(archive)
    for name in FOREIGN:
        add(archive, name)
    assert everything(archive) == known
    assert caplog.records == []


def test_two_names_for_one_thing(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of two directories that mean the same voxel spacing, the one with our name is read."""
    shutil.copytree(archive / SPACING, archive / RUN / "VoxelSpacing10.0")
    shutil.rmtree(archive / RUN / "VoxelSpacing10.0/v3.zarr")
    (spacing,) = run_of(alone(archive)).voxel_spacings
    assert [t.tomo_type for t in spacing.tomograms] == ["v3", "wbp"]
    (told,) = caplog.messages
    assert "'VoxelSpacing10.0' is ignored" in told
    # Where neither has our name, the first is read.
    (archive / SPACING).rename(archive / RUN / "VoxelSpacing10")
    (spacing,) = run_of(alone(archive)).voxel_spacings
    assert [t.tomo_type for t in spacing.tomograms] == ["v3", "wbp"]
    assert spacing.tomograms[1].numpy().shape == (8, 8, 8)
    assert "'VoxelSpacing10.0' is ignored" in caplog.messages[1]


# A layer that vanishes


def vanishing(folder: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """With the n-th file written below `folder`, all of it becomes a file: an unmounted disk."""
    from zarr.storage import LocalStore

    original, written, unmounted = LocalStore.set, itertools.count(1), folder.with_name("unmounted")
    unmounted.write_text("nothing is mounted here")

    async def write(self: LocalStore, key: str, value: Any) -> None:
        if next(written) == at:  # in one step: writers beside this one would make the folder again
            assert exchange(str(folder), str(unmounted))
        await original(self, key, value)

    monkeypatch.setattr(LocalStore, "set", write)


WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "whole": lambda tomogram, mask: mask.from_numpy(np.ones((20, 20, 20)), levels=3),
    "tomogram": lambda tomogram, mask: tomogram.from_numpy(np.ones((20, 20, 20)), levels=3),
    "copied up": lambda tomogram, mask: tomogram.set_region(0, x=slice(0, 1)),
    "features": lambda tomogram, mask: tomogram.new_features("x").from_numpy(np.ones((3, 9, 9, 9))),
}


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("write", WRITES)
def test_a_layer_that_vanishes_while_it_is_written(
    write: str, at: int, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = archived(tmp_path, archive, False)
    tomogram = tomogram_of(opened)
    mask = run_of(opened).new_segmentation(10, "membrane", "1")
    before = content(archive)
    vanishing(tmp_path / "work", monkeypatch, at)
    with pytest.raises(
        LayerError, match=r"layer 'work': .*/work.*(: it is not a directory; it was there|NotADirectoryError)"
    ):
        WRITES[write](tomogram, mask)
    monkeypatch.undo()
    assert content(archive) == before
    with pytest.raises(
        LayerError, match=r"layer 'work': root .*/work' cannot be read: it is not a directory"
    ):
        _ = opened.query()
    assert np.array_equal(tomogram.on("archive").numpy(), tomogram_of(alone(archive)).numpy())
    # When it is back, empty, the project works.
    (tmp_path / "work").unlink()
    (tmp_path / "work").mkdir()
    opened.refresh()
    assert tomogram.read_only
    WRITES[write](tomogram, mask)
    assert tomogram.numpy().shape in {(8, 8, 8), (20, 20, 20)}


def test_a_layer_that_vanishes_before_a_document_is_stored(archive: Path, tmp_path: Path) -> None:
    opened = archived(tmp_path, archive, False)
    run = run_of(opened)
    things: list[Any] = [
        run.new_picks("ribosome", "1"),
        run.new_mesh("ribosome", "1"),
        run.new_filaments("ribosome", "1"),
        run,
    ]
    shutil.rmtree(tmp_path / "work")
    (tmp_path / "work").write_text("nothing is mounted here")
    for thing in things:
        with pytest.raises(LayerError, match=r"layer 'work': .*(not a directory|Not a directory)"):
            thing.store()
        with pytest.raises(LayerError, match=r"layer 'work': .*it is not a directory"):
            thing.delete()
    (tmp_path / "work").unlink()
    (tmp_path / "work").mkdir()
    for thing in things:
        thing.store()
        assert "work" in thing.sources


def test_an_array_that_vanishes_while_a_region_is_written(archive: Path, tmp_path: Path) -> None:
    """Nothing of it is made again: a part would look like a whole."""
    opened = archived(tmp_path, archive, False)
    mask = run_of(opened).new_segmentation(10, "membrane", "1")
    mask.from_numpy(np.ones((4, 4, 4)))
    shutil.rmtree(tmp_path / "work/ExperimentRuns/TS_1/Segmentations/10.000_me_1_membrane.zarr")
    with pytest.raises(NotFoundError, match="no layer has segmentation"):
        mask.set_region(1, x=slice(0, 2))
    assert not (tmp_path / "work/ExperimentRuns/TS_1/Segmentations/10.000_me_1_membrane.zarr").exists()


# A cache that cannot be


def test_a_cache_root_that_cannot_be_used(
    archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache is never needed: one line in the log, and the data."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "work").mkdir()
    archived(tmp_path, archive, False)
    for root in (tmp_path / "file", tmp_path / "file/below", "/proc/copick-cache"):
        caplog.clear()
        opened = copick.from_file(
            tmp_path / "project.json", cache={"root": str(root), "parent_layer": "archive"}
        )
        assert tomogram_of(opened).numpy().shape == (8, 8, 8)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert str(root) in caplog.text
