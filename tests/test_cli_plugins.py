"""Commands of installed packages, and what plugins use of copick's command line."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from copick.cli import cli as cli_module
from copick.cli import ext, util
from copick.cli.grouped_cli import GroupedCommandGroup
from copick.cli.types import CopickURI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLUGIN = """
import click
from copick.cli.types import CopickURI
from copick.cli.util import (
    add_config_option, add_debug_option, add_deprecated_run_alias, add_run_names_option, resolve_run_names,
)

@click.command("hello-world", short_help="Says hello.")
def hello():
    click.echo("hello")

@click.command()
@add_config_option
@click.option("-i", "--input", "input_uri", required=True, type=CopickURI("picks"))
@click.option("-o", "--output", "output_uri", type=CopickURI("segmentation", "output"))
@add_run_names_option
@add_deprecated_run_alias("--runs")
@add_debug_option
def picks2seg(config, input_uri, output_uri, run_names, legacy_run_names, debug):
    "Make segmentations of picks."
    import copick
    from copick.ops.run import map_runs
    root = copick.from_file(config)
    runs = resolve_run_names(run_names, legacy_run_names, legacy_flag="--runs")
    found = map_runs(callback=lambda run: len(run.picks), root=root, runs=runs, workers=2, task_desc="Counting")
    click.echo(f"{input_uri} {found} {debug}")

number = 3
"""
ENTRY_POINTS = {
    "copick.commands": {
        "hello": "tiny_plugin:hello",
        "number": "tiny_plugin:number",
        "lost": "tiny_plugin:nothing",
        "rude": "rude_plugin:x",
        "info": "tiny_plugin:hello",
    },
    "copick.convert.commands": {"picks2seg": "tiny_plugin:picks2seg", "broken": "broken_plugin:x"},
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with a package that adds commands, some of which do not work."""
    folder = tmp_path / "site"
    metadata = folder / "tiny_plugin-1.2.dist-info"
    metadata.mkdir(parents=True)
    (folder / "tiny_plugin.py").write_text(textwrap.dedent(PLUGIN))
    (folder / "broken_plugin.py").write_text("raise RuntimeError('no\\nway')")
    (folder / "rude_plugin.py").write_text("raise SystemExit(3)")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.2\n")
    lines = []
    for group, entries in ENTRY_POINTS.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """That package, as installed for this process."""

    def forget() -> None:
        ext._installed.cache_clear()
        ext.load.cache_clear()
        for name in ("tiny_plugin", "broken_plugin", "rude_plugin"):
            sys.modules.pop(name, None)

    monkeypatch.syspath_prepend(site)
    forget()
    yield
    forget()


@pytest.fixture
def copick(site: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the program where that package is installed."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            [sys.executable, "-c", "from copick.cli.cli import main; main()", *arguments],
            capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    return run


def test_the_help_imports_no_plugin(copick: Any, site: Path) -> None:
    (site / "tiny_plugin.py").write_text("raise SystemExit('imported')")
    done = copick("--help")
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    assert "Data Processing: convert Make one kind of annotation" in words
    assert "Other Commands: hello A command of tiny-plugin." in words
    # Groups that have no command are not shown.
    assert "training" not in done.stdout


def test_a_command_runs(copick: Any) -> None:
    for name in ("hello", "hello-world"):
        done = copick(name)
        assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "Make segmentations of picks." in copick("convert", "picks2seg", "--help").stdout


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("number", "is no click command but a int"),
        ("lost", "cannot be loaded: AttributeError: module 'tiny_plugin' has no attribute 'nothing'"),
        ("rude", "cannot be loaded: SystemExit: 3"),
    ],
)
def test_a_broken_command_is_one_line(copick: Any, name: str, problem: str) -> None:
    done = copick(name)
    lines = [line for line in done.stderr.splitlines() if f"the command {name!r} of" in line]
    assert len(lines) == 1
    assert problem in lines[0]
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert "No such command" in done.stderr


def test_a_broken_plugin_leaves_the_others(copick: Any) -> None:
    done = copick("convert", "--help")
    assert done.returncode == 0
    assert "picks2seg  Make segmentations of picks." in done.stdout
    assert done.stderr.count("\n") == 1
    assert "'broken' of tiny-plugin (broken_plugin:x) cannot be loaded: RuntimeError: no way" in done.stderr


def test_info(copick: Any) -> None:
    done = copick("info")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    assert "copick COMMAND hello-world Says hello. [tiny-plugin]" in words
    assert "copick convert COMMAND picks2seg Make segmentations of picks. [tiny-plugin]" in words
    # What is copick's own is not replaced.
    assert words.startswith("copick 2.")


@pytest.mark.usefixtures("installed")
def test_what_other_programs_ask(caplog: pytest.LogCaptureFixture) -> None:
    ((command, package),) = ext.load_plugin_commands("convert")
    assert (command.name, package) == ("picks2seg", "tiny-plugin")
    assert "RuntimeError: no way" in caplog.text
    assert ext.load_plugin_commands("training") == []
    assert ext.get_plugin_command_sources() == {
        ("hello-world",): "tiny-plugin",
        ("convert", "picks2seg"): "tiny-plugin",
    }


@pytest.mark.usefixtures("installed")
def test_groups_of_other_programs() -> None:
    group = click.Group("theirs")
    assert cli_module.add_core_commands(group) is group
    assert {"add", "config", "cp", "info", "mv", "new", "rm", "stats", "sync"} <= {*group.commands}
    info = group.commands["info"]
    assert cli_module.add_plugin_commands(group) is group
    assert {"hello-world", "convert"} <= {*group.commands}
    assert "training" not in group.commands
    assert group.commands["info"] is info
    lazy = GroupedCommandGroup("ours", command_categories={"Mine": ["add"]})
    cli_module.add_plugin_commands(cli_module.add_core_commands(lazy))
    assert {"add", "hello-world", "convert"} <= {*lazy.commands}


def test_what_the_command_line_offers() -> None:
    groups = ("inference", "training", "evaluation", "process", "convert", "logical", "setup", "download")
    assert {*ext.PLUGIN_GROUPS} == {"main", *groups}
    for name in groups:
        group = getattr(cli_module, name)
        assert isinstance(group, click.Group)
        assert group.name == name
    placed = [name for names in cli_module.COMMAND_CATEGORIES.values() for name in names]
    assert {*cli_module.cli.commands} <= {*placed}
    assert len(placed) == len({*placed})


def test_a_group_with_sections() -> None:
    @click.group(cls=GroupedCommandGroup, command_categories={"First": ["b", "missing"], "Second": ["a"]})
    def main() -> None:
        pass

    for name in "abc":
        main.add_command(click.Command(name, help=f"Does {name}."))
    main.add_command(click.Command("secret", hidden=True))
    words = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert words.endswith("First: b Does b. Second: a Does a. Other Commands: c Does c.")


def test_an_empty_group_says_so() -> None:
    result = CliRunner().invoke(GroupedCommandGroup("training", plugins="training"), ["--help"])
    assert "No package that is installed adds commands here." in result.output


# What plugins import


def parameters(*decorators: Any) -> dict[str, click.Parameter]:
    def function(**_: Any) -> None:
        pass

    for decorator in decorators:
        function = decorator(function)
    return {parameter.name or "": parameter for parameter in click.command()(function).params}


def test_names_of_parameters() -> None:
    expected = {
        util.add_config_option: ["config"],
        util.add_debug_option: ["debug"],
        util.add_run_names_option: ["run_names"],
        util.add_deprecated_run_alias("--runs"): ["legacy_run_names"],
        util.add_create_overwrite_options: ["create", "overwrite"],
        util.add_run_options: ["run", "run_name_prefix", "run_regex"],
        util.add_volume_transform_options: ["flip", "transpose"],
        util.add_user_session_options: ["session_id", "user_id"],
        util.add_max_workers_option: ["max_workers"],
        util.add_pyramid_create_options: ["chunk_size", "create_pyramid", "pyramid_levels"],
        util.add_export_common_options: ["output_dir"],
        util.add_pyramid_export_options: ["compression", "copy_all_levels", "level"],
    }
    for decorator, names in expected.items():
        assert sorted(parameters(decorator)) == names
    together = parameters(util.add_config_option, util.add_run_names_option, util.add_debug_option)
    assert (together["config"].envvar, together["run_names"].multiple) == ("COPICK_CONFIG", True)


@pytest.mark.parametrize(
    ("names", "legacy", "expected", "warnings"),
    [
        ((), (), None, 0),
        (None, None, None, 0),
        (("a", "b", "a"), (), ["a", "b", "a"], 0),
        (("a, b", "c"), (), ["a", "b", "c"], 1),
        (("a",), ("x", "y,z"), ["a", "x", "y", "z"], 2),
        (("",), (), [""], 0),  # an empty shell variable is not "all runs"
        ((",",), (), None, 1),
    ],
)
def test_run_names(
    names: Any, legacy: Any, expected: Any, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert util.resolve_run_names(names, legacy, legacy_flag="--runs") == expected
    assert len(caplog.records) == warnings
    assert ("--runs is deprecated; use --run-names/-r" in caplog.text) is bool(legacy)


def test_deprecated_options(caplog: pytest.LogCaptureFixture) -> None:
    flags = {"old_flag": "--old", "new_flag": "--new"}
    assert util.resolve_deprecated_option("new", None, **flags) == "new"
    assert not caplog.messages
    theirs = logging.getLogger("theirs")
    assert util.resolve_deprecated_option("new", "old", **flags, logger=theirs) == "old"
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("theirs", "--old is deprecated; use --new instead")
    ]


def test_tomogram_uris(caplog: pytest.LogCaptureFixture) -> None:
    assert util.resolve_tomogram_uri("wbp@7", "sirt", 5.0) == "wbp@7"
    assert not caplog.messages
    assert util.resolve_tomogram_uri(None, "sirt", 5.0) == "sirt@5.0"
    assert util.resolve_tomogram_uri(None, "sirt", None) == "sirt@10.0"
    assert util.resolve_tomogram_uri(None, "sirt", None, default_vs=3) == "sirt@3"
    assert caplog.text.count("deprecated") == 3
    with pytest.raises(click.UsageError, match=r"-i/--input TYPE@VOXEL_SIZE"):
        util.resolve_tomogram_uri(None, None, 5.0)


def test_uri_parameters() -> None:
    kind = CopickURI("picks", "output")
    assert (kind.name, kind.object_type, kind.role) == ("COPICK_URI", "picks", "output")
    assert kind.convert("ribosome:bob/1", None, None) == "ribosome:bob/1"
    assert CopickURI("mesh").role == "input"
    assert repr(kind) == "CopickURI('picks', 'output')"


def test_a_plugin_at_work(copick: Any, tmp_path: Path) -> None:
    from copick import new_config

    root = new_config(
        tmp_path / "config.json", tmp_path / "project", pickable_objects=[{"name": "r", "is_particle": True}]
    )
    for name in ("A", "B"):
        root.new_run(name).new_picks("r", "1", "me")
    done = copick("convert", "picks2seg", "-c", "config.json", "-i", "r:me/1", "-r", "A", "-r", "B")
    assert (done.returncode, done.stdout) == (0, "r:me/1 {'A': 1, 'B': 1} False\n")
    done = copick("convert", "picks2seg", "-c", "config.json", "-i", "r:me/1", "--runs", "A,B", "--debug")
    assert done.stdout == "r:me/1 {'A': 1, 'B': 1} True\n"
    assert done.stderr.count("deprecated") == 2
    done = copick("convert", "picks2seg", "-c", "nowhere.json", "-i", "x")
    assert done.returncode == 2
    assert "nowhere.json" in done.stderr
