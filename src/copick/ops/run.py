"""One function over many runs: in threads, in processes, or on whatever an Executor stands for."""

from __future__ import annotations

import functools
import logging
import pickle
import secrets
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from copick.errors import UnknownNameError
from copick.models import CopickRun
from copick.util import stopping
from copick.util.lazy import lazy
from copick.util.progress import Progress
from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from copick.models import CopickRoot

logger = logging.getLogger(__name__)

Runs: TypeAlias = "str | CopickRun | Iterable[str | CopickRun] | None"
"""A run or runs, or their names; None = all."""


def map_runs(
    callback: Callable[..., Any],
    root: CopickRoot,
    runs: Runs = None,
    workers: int = 8,
    parallelism: Literal["thread", "process"] = "thread",
    run_args: Iterable[Mapping[str, Any]] | None = None,
    show_progress: bool = True,
    task_desc: str | None = None,
    *,
    executor: Executor | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Call `callback(run, **run_args[i], **kwargs)` for each run, many at a time.

    An exception in the callback is logged with the name of its run, which then has the result None; the other
    runs go on. An interrupt (Ctrl-C) cancels what has not started, stops copies of arrays that threads are making, and ends when
    nothing is running any more.

    Args:
        callback: Its first argument is the run; None if the project has no run of that name.
        runs: A run or runs, or their names; None = all.
        workers: How many threads or processes.
        parallelism: "thread", or "process". Processes are fresh interpreters that get the callback by value:
            the caller's script needs no `if __name__ == "__main__"`, and lambdas work.
        run_args: Keywords for each run, as many as there are runs.
        show_progress: A bar on stderr, if that is a terminal.
        task_desc: What the bar says.
        executor: Where to run instead, for example `dask.distributed.Client(...).get_executor()` or
            `mpi4py.futures.MPIPoolExecutor()`; `workers` and `parallelism` mean nothing then. It stays open.
            The root travels there pickled and opens its connections anew, once per process.

    Returns:
        Results by run name, in the order of `runs`.

    Raises:
        ValueError: `run_args` are not as many as the runs, or `workers` or `parallelism` cannot be so.
    """
    chosen = chosen_runs(root, runs)
    arguments = [{}] * len(chosen) if run_args is None else [*run_args]
    if len(arguments) != len(chosen):
        raise ValueError(f"run_args has {len(arguments)} entries for {len(chosen)} runs; pass one per run")
    if parallelism not in ("thread", "process"):
        raise ValueError(f"parallelism is 'thread' or 'process', not {parallelism!r}")
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers!r}")
    if not chosen:
        return {}

    parcel = _Parcel(root)
    pool = executor or _new_pool(min(workers, len(chosen)), parallelism)
    stop = threading.Event()
    # Other processes are stopped otherwise, and somebody else's executor may lead there.
    call = (
        functools.partial(stopping.until, stop, _call)
        if executor is None and parallelism == "thread"
        else _call
    )
    futures: dict[Future[Any], str] = {}
    results: dict[str, Any] = dict.fromkeys(map(name_of, chosen))
    try:
        for run, own in zip(chosen, arguments, strict=True):
            future = pool.submit(call, _Ticket(parcel, run), callback, {**kwargs, **own})
            futures[future] = name_of(run)
        with Progress(task_desc or "Processing runs", len(futures)) as progress:
            for future in as_completed(futures):
                name, error = futures[future], future.exception()
                if error is None:
                    results[name] = future.result()
                else:
                    logger.error("run %s failed: %s: %s", name, type(error).__name__, error, exc_info=error)
                if show_progress:
                    progress.step()
    except BaseException:
        stop.set()
        if executor is None and parallelism == "process":
            pool.shutdown(kill_workers=True)  # type: ignore[call-arg]
        else:
            for future in futures:
                future.cancel()
        wait(futures)
        raise
    finally:
        if executor is None:
            pool.shutdown()
    return results


def _new_pool(workers: int, parallelism: str) -> Executor:
    if parallelism == "thread":
        return ThreadPoolExecutor(workers, thread_name_prefix="copick-runs")
    # Not multiprocessing: its forked workers inherit locks that other threads hold, its spawned ones run an unguarded
    # script again from the top, and neither can be stopped at once.
    from loky import ProcessPoolExecutor

    pool: Executor = ProcessPoolExecutor(workers)
    return pool


class _Parcel:
    """A root on its way to workers: pickled once, and unpickled once per process, however many tasks bring it."""

    def __init__(self, root: CopickRoot, token: str | None = None) -> None:
        self.root = root
        self._token = token or secrets.token_hex(8)

    @lazy
    def _packed(self) -> bytes:
        return pickle.dumps(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self._token, self._packed)


@functools.lru_cache(maxsize=1)
def _unpacked(token: str, packed: bytes) -> _Parcel:
    # The token tells calls apart: a worker that lives on must not show the next call what it listed for this one.
    return _Parcel(pickle.loads(packed), token)


class _Ticket:
    """A run on its way to a worker: beside the root that it belongs to, and by name."""

    def __init__(self, parcel: _Parcel, run: str | CopickRun) -> None:
        self.parcel, self.run = parcel, run

    def __reduce__(self) -> tuple[Any, ...]:
        foreign = isinstance(self.run, CopickRun) and self.run.root is not self.parcel.root
        return _Ticket, (self.parcel, self.run if foreign else name_of(self.run))


def _call(ticket: _Ticket, callback: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    run: Any = ticket.run
    if isinstance(run, str):
        run = ticket.parcel.root.get_run(run)
        if run is None:
            logger.warning("the project has no run %r", ticket.run)
    return callback(run, **arguments)


def name_of(run: str | CopickRun) -> str:
    """The name of a run that is given by name or as itself."""
    return run if isinstance(run, str) else run.name


def chosen_runs(root: CopickRoot, runs: Runs) -> list[str | CopickRun]:
    """What a caller gave as runs, as a list. Raises TypeError."""
    if runs is None:
        return [*root.runs]
    chosen = [runs] if isinstance(runs, str | CopickRun) else [*runs]
    for run in chosen:
        if not isinstance(run, str | CopickRun):
            raise TypeError(f"runs are names or CopickRun objects, not {type(run).__name__} {run!r:.40}")
    return chosen


def known_run(root: CopickRoot, run: str | CopickRun) -> CopickRun:
    """The run of that name. Raises UnknownNameError."""
    if isinstance(run, CopickRun):
        return run
    found = root.get_run(run)
    if found is None:
        names = [each.name for each in root.runs]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UnknownNameError(
            f"the project has no run {run!r}{nearest(run, names)}; it has {shown or 'none'}"
        )
    return found


def report_results(
    results: Mapping[str, Any], total_files: int, logger: logging.Logger | None = None
) -> None:
    """Log what came of `map_runs` over a callback that returns {"processed": int, "errors": [str]}.

    Args:
        total_files: How many items there were to process.
        logger: Where to; the default is copick's own.
    """
    log = logger or logging.getLogger(__name__)
    processed = sum(result["processed"] for result in results.values() if result)
    errors = [
        error
        for name, result in results.items()
        for error in (result["errors"] if result else [f"run {name} failed"])
    ]
    for error in errors:
        log.error("%s", error)
    if errors:
        log.warning("%d of %d items processed, %d errors", processed, total_files, len(errors))
    else:
        log.info("all %d items processed", processed)
