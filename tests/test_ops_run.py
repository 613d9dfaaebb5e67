"""map_runs: threads, processes, a dask cluster; failures and interrupts."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from copick.ops.run import map_runs, report_results
from projects import alone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from copick.models import CopickRoot, CopickRun

NAMES = ["TS_1", "TS_2", "TS_3"]


@pytest.fixture
def root(tmp_path: Path) -> CopickRoot:
    """Three runs; the n-th has n picks."""
    root = alone(tmp_path / "project")
    for n, name in enumerate(NAMES):
        root.new_run(name).new_picks("ribosome", "0", "tool").from_numpy([[1, 2, 3]] * (n + 1))
    return root


def count(run: CopickRun, **arguments: Any) -> tuple[int, dict[str, Any]]:
    (picks,) = run.get_picks("ribosome")
    return len(picks.points), arguments


def where(run: CopickRun) -> tuple[int, int]:
    time.sleep(0.01)
    return os.getpid(), id(run.root)


def annotate(run: CopickRun, user_id: str) -> str:
    if run.name == "TS_2":
        raise RuntimeError("no annotations for you")
    run.new_picks("ribosome", "1", user_id).from_numpy([[0, 0, 0]])
    return run.name


def listed(run: CopickRun) -> list[str]:
    return [picks.user_id for picks in run.picks]


COUNTS = {"TS_1": (1, {}), "TS_2": (2, {}), "TS_3": (3, {})}


@pytest.fixture(params=["thread", "process"])
def parallelism(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_as_plugins_call_it(root: CopickRoot, parallelism: Any) -> None:
    results = map_runs(
        callback=count,
        root=root,
        runs=root.runs,
        workers=2,
        task_desc="Counting",
        parallelism=parallelism,
        a=1,
    )
    assert results == {"TS_1": (1, {"a": 1}), "TS_2": (2, {"a": 1}), "TS_3": (3, {"a": 1})}
    assert list(results) == NAMES


@pytest.mark.parametrize("runs", [None, NAMES, iter(NAMES)], ids=["all", "names", "iterator"])
def test_runs_may_be(root: CopickRoot, runs: Any) -> None:
    assert map_runs(count, root, runs) == COUNTS


def test_one_run(root: CopickRoot) -> None:
    assert map_runs(count, root, "TS_2") == {"TS_2": (2, {})}
    run = root.get_run("TS_2")
    assert map_runs(lambda it: it, root, run) == {"TS_2": run}
    assert map_runs(count, root, []) == {}


def test_arguments_of_each_run(root: CopickRoot, parallelism: Any) -> None:
    run_args = ({"a": n} for n in range(3))
    results = map_runs(count, root, NAMES, run_args=run_args, parallelism=parallelism, workers=2, b=7)
    assert [each[1] for each in results.values()] == [{"a": 0, "b": 7}, {"a": 1, "b": 7}, {"a": 2, "b": 7}]


def test_a_failure_is_logged_and_becomes_none(
    root: CopickRoot, parallelism: Any, caplog: pytest.LogCaptureFixture
) -> None:
    results = map_runs(annotate, root, NAMES, parallelism=parallelism, workers=2, user_id="bob")
    assert results == {"TS_1": "TS_1", "TS_2": None, "TS_3": "TS_3"}
    (record,) = [record for record in caplog.records if record.name == "copick.ops.run"]
    assert "run TS_2 failed: RuntimeError: no annotations for you" in record.getMessage()
    assert record.exc_info
    root.refresh()
    assert map_runs(listed, root) == {"TS_1": ["bob", "tool"], "TS_2": ["tool"], "TS_3": ["bob", "tool"]}


def test_an_unknown_run_is_none_for_the_callback(root: CopickRoot, caplog: pytest.LogCaptureFixture) -> None:
    assert map_runs(lambda run: run is None, root, ["TS_1", "nope"]) == {"TS_1": False, "nope": True}
    assert "no run 'nope'" in caplog.text


def test_bad_arguments(root: CopickRoot) -> None:
    with pytest.raises(ValueError, match=r"run_args has 1 entries for 3 runs"):
        map_runs(count, root, NAMES, run_args=[{}])
    with pytest.raises(ValueError, match=r"'thread' or 'process', not 'fibre'"):
        map_runs(count, root, NAMES, parallelism="fibre")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"workers must be 1 or more, not 0"):
        map_runs(count, root, NAMES, workers=0)
    with pytest.raises(TypeError, match=r"names or CopickRun objects, not int 3"):
        map_runs(count, root, [3])  # type: ignore[list-item]


def test_a_run_seen_through_some_layers_stays_so(tmp_path: Path, root: CopickRoot, parallelism: Any) -> None:
    from projects import opened

    alone(tmp_path / "archive").new_run("TS_1").new_picks("ribosome", "0", "far").store()
    both = opened(tmp_path)
    archived = both.get_run("TS_1", layers="archive")
    both.new_run("TS_1", layers="work").new_picks("ribosome", "0", "near")
    assert map_runs(listed, both, archived, parallelism=parallelism) == {"TS_1": ["far"]}


def test_a_process_opens_the_root_once(root: CopickRoot) -> None:
    seen = set(map_runs(where, root, NAMES, parallelism="process", workers=2).values())
    processes = {pid for pid, _ in seen}
    assert os.getpid() not in processes
    assert len(seen) == len(processes)


def die(run: CopickRun) -> None:
    os._exit(3)


def test_a_process_that_dies_is_a_failure(root: CopickRoot, caplog: pytest.LogCaptureFixture) -> None:
    assert map_runs(die, root, ["TS_1", "TS_2"], parallelism="process", workers=1) == {
        "TS_1": None,
        "TS_2": None,
    }
    assert "run TS_1 failed: TerminatedWorkerError" in caplog.text


class Counting(ThreadPoolExecutor):
    """An executor that a caller brings."""

    submitted = 0

    def submit(self, *arguments: Any, **options: Any) -> Any:
        self.submitted += 1
        return super().submit(*arguments, **options)


def test_an_executor_of_the_callers_stays_open(root: CopickRoot) -> None:
    with Counting(2) as executor:
        assert map_runs(count, root, executor=executor) == COUNTS
        assert executor.submitted == 3
        assert executor.submit(int, "7").result() == 7


@pytest.fixture(scope="module")
def dask_executor() -> Iterator[Executor]:
    """A cluster of two worker processes on this machine."""
    import dask
    from distributed import Client, LocalCluster

    quiet = {"distributed.worker.memory.terminate": False, "distributed.admin.tick.limit": "1h"}
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor()


def test_on_a_dask_cluster(
    root: CopickRoot, dask_executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    assert map_runs(count, root, root.runs, executor=dask_executor, task_desc="Counting") == COUNTS
    seen = set(map_runs(where, root, NAMES * 4, executor=dask_executor).values())
    processes = {pid for pid, _ in seen}
    assert os.getpid() not in processes
    assert len(seen) == len(processes)
    assert map_runs(listed, root, executor=dask_executor)["TS_1"] == ["tool"]
    results = map_runs(annotate, root, NAMES, executor=dask_executor, user_id="bob")
    assert results == {"TS_1": "TS_1", "TS_2": None, "TS_3": "TS_3"}
    assert "run TS_2 failed: RuntimeError: no annotations for you" in caplog.text
    # The workers live on, and must not show what they listed before.
    assert map_runs(listed, root, executor=dask_executor)["TS_1"] == ["bob", "tool"]


SCRIPT = """
import os, sys, time

import copick
from copick.ops.run import map_runs

def slow(run, folder):
    open(os.path.join(folder, f"{os.getpid()}-{run.name}"), "w").close()
    time.sleep(2.0)
    return run.name

root = copick.from_string(sys.argv[1])
try:
    print(map_runs(slow, root, workers=2, parallelism=sys.argv[2], folder=sys.argv[3]))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def script(tmp_path: Path, root: CopickRoot, parallelism: str) -> subprocess.Popen[str]:
    """A script without a `__main__` guard, in a process group of its own."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "started").mkdir()
    config = root.config.model_dump_json()
    arguments = [str(tmp_path / "script.py"), config, parallelism, str(tmp_path / "started")]
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_script_needs_no_guard(tmp_path: Path, root: CopickRoot, parallelism: Any) -> None:
    done = script(tmp_path, root, parallelism)
    output, errors = done.communicate(timeout=60)
    assert output.splitlines() == [str({name: name for name in NAMES})], errors
    assert errors == ""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX has them")
@pytest.mark.parametrize("to", ["process", "group"])
def test_an_interrupt_ends_what_runs_and_what_waits(
    tmp_path: Path, root: CopickRoot, parallelism: Any, to: str
) -> None:
    for n in range(40):
        root.new_run(f"more{n}")
    running = script(tmp_path, root, parallelism)
    started = tmp_path / "started"
    deadline = time.monotonic() + 60
    while len(list(started.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(running.pid).children(recursive=True)
    begun = time.monotonic()
    (os.killpg if to == "group" else os.kill)(running.pid, signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert output.splitlines() == ["interrupted"], errors
    assert time.monotonic() - begun < 30
    # What had begun may have ended, and its worker may have taken the next before it was stopped.
    assert 2 <= len(list(started.iterdir())) <= 6
    _, left = psutil.wait_procs(workers, timeout=5)
    assert [worker for worker in left if worker.status() != psutil.STATUS_ZOMBIE] == []


def test_report(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    results = {"a": {"processed": 2, "errors": []}, "b": {"processed": 0, "errors": ["bad x"]}, "c": None}
    report_results(results, 5)
    assert [record.getMessage() for record in caplog.records] == [
        "bad x",
        "run c failed",
        "2 of 5 items processed, 2 errors",
    ]
    caplog.clear()
    report_results({"a": {"processed": 2, "errors": []}}, 2, logging.getLogger("mine"))
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("mine", "all 2 items processed")
    ]
