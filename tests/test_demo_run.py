"""`copick demo` from the command line down: the story, its figures, and every way it can end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import copick
from copick.cli.cli import main
from copick.demo import run as demo_run
from copick.demo.project import SMALL_SIZE, build
from copick.demo.run import Options, run_demo
from copick.errors import CopickError

pytest.importorskip("matplotlib")
pytest.importorskip("aiohttp")


pytestmark = pytest.mark.slow


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its folders; it also runs in a current folder of its own."""
    place, here = tmp_path / "tmp", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.chdir(here)
    return place


@pytest.fixture(scope="module")
def own_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without a cache, on this disk."""
    folder = tmp_path_factory.mktemp("own")
    build(folder, SMALL_SIZE[:2], lambda text, voxels: None)
    config = folder / "own.json"
    config.write_text(
        json.dumps(
            {"config_type": "filesystem", "root": str(folder / "archive"), "pickable_objects": demo_objects()}
        )
    )
    return config


def demo_objects() -> list[dict[str, Any]]:
    from copick.demo.project import OBJECTS

    return OBJECTS


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def exit_code(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_whole_story(temporary: Path) -> None:
    from matplotlib.image import imread

    console = quiet()
    result = run_demo(Options(small=True, latency_ms=5), console)
    plain, first, second, process, memory = result.timings
    assert plain.requests is not None
    assert plain.requests > 0
    assert plain.received is not None
    assert plain.received > 1_000_000
    assert first.received is not None
    assert first.received > 1_000_000
    assert [(row.requests, row.received) for row in (second, process)] == [(0, 0), (0, 0)]
    assert memory.requests is None
    assert second.seconds < plain.seconds
    text = printed(console)
    for expected in (
        "copick demo: 3 runs",
        "wbp at 10 Å",
        "denoised at 20 Å",
        "ribosome by alice/1",
        "membrane by template-matching/0 at 10 Å",
        "archive",
        "work",
        "All reads agree",
        "cache, new process",
    ):
        assert expected in text
    assert result.picture == Path.cwd() / "copick-demo.png"
    assert imread(result.picture)[..., :3].std() > 0.05
    assert list(temporary.iterdir()) == [], "the demo left something behind"


def test_a_process_of_its_own_ends_clean(temporary: Path) -> None:
    command = [sys.executable, "-m", "copick.cli.cli", "demo", "--small", "--latency-ms", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "All reads agree" in done.stdout
    assert [path.name for path in Path.cwd().iterdir()] == ["copick-demo.png"]
    assert list(temporary.iterdir()) == [], "the demo left something behind"


def test_keep_leaves_a_project_that_opens_without_the_server(temporary: Path) -> None:
    console = quiet()
    result = run_demo(Options(small=True, latency_ms=0, keep=True), console)
    (folder,) = temporary.iterdir()
    assert result.picture == folder / "copick-demo.png"
    assert str(folder) in printed(console)
    root = copick.from_file(folder / "local.json")
    assert (
        root.get_run("TS_002").get_voxel_spacing(10.0).get_tomogram("wbp").numpy().shape
        == SMALL_SIZE[1].shape
    )


def test_a_project_of_ones_own_is_not_changed(temporary: Path, own_project: Path, tmp_path: Path) -> None:
    before = snapshot(own_project.parent)
    picture = tmp_path / "own.png"
    options = Options(config=own_project, run="TS_002", tomogram="wbp@10", picture=picture)
    result = run_demo(options, quiet())
    assert (result.address.run, result.address.voxel_size) == ("TS_002", 10.0)
    assert all(timing.requests is None for timing in result.timings)
    assert picture.stat().st_size > 10_000
    assert snapshot(own_project.parent) == before
    assert list(temporary.iterdir()) == []


def test_a_cache_in_the_config_is_the_one_used(temporary: Path, own_project: Path, tmp_path: Path) -> None:
    plain = json.loads(own_project.read_text())
    cache = tmp_path / "my-cache"
    config = tmp_path / "cached.json"
    config.write_text(
        json.dumps(
            {
                "config_type": "multilayer",
                "pickable_objects": plain.pop("pickable_objects"),
                "layers": ["mine", "data"],
                "layer_configs": {
                    "data": plain,
                    "mine": {"config_type": "cache", "root": str(cache), "parent_layer": "data"},
                },
            }
        )
    )
    run_demo(Options(config=config, run="TS_002"), quiet())
    assert any(path.is_file() for path in cache.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--run", "TS_009"], "no run 'TS_009'; there are TS_001, TS_002"),
        (["--tomogram", "sirt"], "no tomogram sirt in any of the project's 2 runs"),
        (["--run", "TS_002", "--tomogram", "wbp@20"], "no tomogram wbp@20 in run 'TS_002'"),
        (["--tomogram", "wbp@ten"], "write wbp@10.0"),
        (["--picture", "no/such/folder/p.png", "--run", "TS_002"], "could not be written"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    temporary: Path,
    own_project: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    assert exit_code("demo", "--config", str(own_project), *arguments) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--run", "TS_001"],
        ["demo", "--latency-ms", "-1"],
        ["demo", "--nonsense"],
        ["demo", "--config", "missing.json"],
        ["nonsense"],
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(
    temporary: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert exit_code(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("copick: ")
    assert "--help" in error
    assert error.count("\n") == 1


def test_a_config_that_is_none_is_refused_in_one_line(
    temporary: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "broken.json"
    config.write_text("{")
    assert exit_code("demo", "--config", str(config)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_help_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("demo", "--help") == 0
    assert "--latency-ms" in capsys.readouterr().out
    assert exit_code() == 0
    assert "demo" in capsys.readouterr().out


def test_a_wrong_byte_is_found(
    temporary: Path, own_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = []
    honest = demo_run.timed_read

    def one_bit_off_in_the_fourth(tomogram: Any) -> Any:
        data, seconds = honest(tomogram)
        reads.append(tomogram)
        if len(reads) == 4:
            data = data.copy()
            data.view(np.uint8).reshape(-1)[1234] ^= 1
        return data, seconds

    monkeypatch.setattr(demo_run, "timed_read", one_bit_off_in_the_fourth)
    assert exit_code("demo", "--config", str(own_project), "--run", "TS_002") == 1
    assert "'cache, again' differs from the read without a cache: 1 of" in capsys.readouterr().err
    assert list(temporary.iterdir()) == []


def test_a_new_process_that_fails_says_why(
    temporary: Path, own_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_run, "request", lambda *told: '{"config": "gone.json", "cache": false}')
    with pytest.raises(CopickError, match=r"new process failed: .*gone\.json"):
        run_demo(Options(config=own_project, run="TS_002"), quiet())


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize("wait_for", ["archive", "work", "project.json"])
def test_ctrl_c_cleans_up(temporary: Path, wait_for: str) -> None:
    """Interrupted while it builds (two places) and while it reads through a very slow server."""
    command = [sys.executable, "-m", "copick.cli.cli", "demo", "--small", "--latency-ms", "3000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(temporary.glob(f"copick-demo-*/{wait_for}")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        if wait_for == "project.json":
            time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    # CPython ends by the signal itself if it struck inside exec(), as in an import: the same 130 to a shell.
    assert process.returncode in (130, -signal.SIGINT)
    assert error.strip() == "copick: interrupted"
    assert list(temporary.iterdir()) == []


def test_importing_the_command_line_is_cheap() -> None:
    heavy = "matplotlib rich.progress zarr aiohttp"
    code = f"import sys, copick.cli.cli; print([name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
