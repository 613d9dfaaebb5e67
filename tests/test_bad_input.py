"""What a user does wrong, and what fails under a user: one clear error each, from one table per subject.

Everything goes through `copick.from_file` (and, for configs, `copick demo --config`) against real directories and
servers. An error is clear when its class is one of `copick.errors`, which also is the builtin that copick 1.x
raised, and its text says what failed, where (layer and path), and what to do. Bad arguments are in test_bad_arguments.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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
from copick.testing.http_server import Fault, FolderServer
from projects import V3, WBP, archived, run_of, tomogram_of

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
    for name, content in damages.items():
        path.write_bytes(content)
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
        for name, content in {"half": whole[: len(whole) // 2], "empty": b"", "garbage": b"x" * 100}.items():
            path.write_bytes(content)
            read = tomogram_of(
                archived(tmp_path / f"{name}-{'c/0' in file}", archive, cached),
                "v3" if "c/0" in file else "wbp",
            )
            for work in (read.numpy, lambda read=read: read.patches([[0, 0, 0]], (2, 2, 2))):
                with pytest.raises(FormatError, match=r"layer 'archive': .*\.zarr/0.* cannot be decoded"):
                    work()


def test_picks_that_are_none(archive: Path, tmp_path: Path) -> None:
    path = archive / "ExperimentRuns/TS_1/Picks/tool_0_ribosome.json"
    for content in (*GARBAGE.values(), b'{"points": 3}'):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"picks 'TS_1/ribosome_tool_0' in layer 'archive' is not a picks document"):
            _ = run_of(archived(tmp_path, archive, False)).picks[0].points


# A cache that cannot be


def test_a_cache_root_that_cannot_be_used(
    archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache is never needed: one line in the log, and the data."""
    (tmp_path / "file").write_text("x")
    archived(tmp_path, archive, False)
    for root in (tmp_path / "file", tmp_path / "file/below", "/proc/copick-cache"):
        caplog.clear()
        opened = copick.from_file(
            tmp_path / "project.json", cache={"root": str(root), "parent_layer": "archive"}
        )
        assert tomogram_of(opened).numpy().shape == (8, 8, 8)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert str(root) in caplog.text
