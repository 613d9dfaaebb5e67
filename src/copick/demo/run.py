"""The demo as a story: build a project, put its archive behind a slow server, read it both ways."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import copick
from copick.config import CopickConfigMultilayer
from copick.demo.picture import draw_orthogonal
from copick.demo.project import FULL_SIZE, SMALL_SIZE, SampleProject, build, total_voxels
from copick.demo.reader import (
    Address,
    Cache,
    checksum,
    find,
    median_ms,
    request,
    timed_patches,
    timed_read,
)
from copick.errors import CopickError, NotFoundError
from copick.testing.http_server import FolderServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from rich.console import Console

    from copick.models import CopickPicks, CopickRoot, CopickRun

PICTURE = "copick-demo.png"
SHOWN_RUNS = 5


@dataclass(frozen=True)
class Options:
    """What the command line says. `config=None`: a sample project is made."""

    keep: bool = False
    config: Path | None = None
    run: str | None = None
    tomogram: str | None = None
    picture: Path | None = None
    latency_ms: float = 20.0
    small: bool = False


@dataclass(frozen=True)
class Scene:
    """What the measurements are made on.

    Attributes:
        config: The project's config file.
        cache: What to pass to `copick.from_file` for reads that are cached.
        server: Serves the archive; `None` for a project of the user's own, whose servers cannot be asked.
    """

    config: Path
    cache: Cache
    server: FolderServer | None


@dataclass(frozen=True)
class Timing:
    """One row of the result. Requests and bytes are those of the whole-volume read; `None`: not known.

    A new process is counted as a whole.
    """

    what: str
    seconds: float
    patch_ms: float | None
    requests: int | None = None
    received: int | None = None


@dataclass(frozen=True)
class Result:
    """What was read, how fast, and where the picture is."""

    address: Address
    timings: list[Timing]
    picture: Path


def run_demo(options: Options, console: Console) -> Result:
    """Everything `copick demo` does.

    Raises:
        CopickError: The demo cannot go on, or two reads of the same tomogram differ.
    """
    project = None
    with contextlib.ExitStack() as closing:
        folder = closing.enter_context(_workplace(options.keep, console))
        if options.config is None:
            project = _build(folder, options.small, console)
            server = closing.enter_context(FolderServer(project.archive, options.latency_ms / 1000))
            scene = Scene(project.write_config(server.url), None, server)
            console.print(
                f"The archive is at {server.url}, {options.latency_ms:g} ms away.\n", highlight=False
            )
        else:
            scene = Scene(options.config, _cache_for(options.config, folder), None)

        root = copick.from_file(scene.config, cache=scene.cache)
        _show_contents(root, console)
        address = _choose(root, options.run, options.tomogram)
        timings, volume = _measure(scene, root, address, console)
        _show_timings(timings, address, volume, console)
        console.print("[green]All reads agree, byte for byte.[/green]")

        picture = _draw(root, address, volume, _picture_path(options, folder))
        console.print(f"Picture: {picture}", highlight=False, soft_wrap=True)
        if options.keep and project is not None:
            kept = project.write_local_config()
            console.print(f"Open it: copick.from_file({str(kept)!r})", highlight=False, soft_wrap=True)
        return Result(address, timings, picture)


# The stage.


@contextlib.contextmanager
def _workplace(keep: bool, console: Console) -> Iterator[Path]:
    """A folder of our own, gone in the end whatever happens, unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="copick-demo-"))
    if not keep:
        atexit.register(_remove, folder)  # after the cache, imported later, has said its last word
    try:
        yield folder
    finally:
        if keep:
            console.print(f"Kept: {folder}", highlight=False, soft_wrap=True)
        else:
            _close_cache(folder / "cache")
            _remove(folder)
            if folder.exists():
                console.print(f"[yellow]{folder} could not be removed[/yellow]", soft_wrap=True)


def _close_cache(folder: Path) -> None:
    """End the background work of the cache in `folder`: it would write its statistics after the folder is gone."""
    managers = sys.modules.get("copick.cache.manager")
    if managers is not None and folder.exists():
        managers.open_manager(folder).close()


def _remove(folder: Path) -> None:
    """Remove a folder in which another process may be finishing its last file."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _build(folder: Path, small: bool, console: Console) -> SampleProject:
    plans = SMALL_SIZE if small else FULL_SIZE
    columns = (
        TextColumn("Building a sample project"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total_voxels(plans))
        return build(
            folder, plans, lambda text, voxels: progress.update(bar, description=text, advance=voxels)
        )


def _cache_for(config: Path, folder: Path) -> Cache:
    """The config's own cache if it has one; a temporary one of everything else."""
    parsed = copick.from_file(config, cache=False).config
    if isinstance(parsed, CopickConfigMultilayer) and parsed.cache is not None:
        return None
    return {"root": str(folder / "cache"), "parent_layer": "*"}


def _choose(root: CopickRoot, run_name: str | None, tomogram: str | None) -> Address:
    """The tomogram that was asked for, or the first one there is.

    Args:
        run_name: `None` for any.
        tomogram: `TYPE` or `TYPE@SPACING`; `None` for any.
    """
    tomo_type, _, spacing = (tomogram or "").partition("@")
    try:
        voxel_size = float(spacing) if spacing else None
    except ValueError:
        raise CopickError(f"--tomogram {tomogram}: {spacing!r} is no voxel spacing; write wbp@10.0") from None
    runs = root.runs if run_name is None else [_run(root, run_name)]
    for run in runs:
        for voxel_spacing in run.voxel_spacings:
            if voxel_size is not None and abs(voxel_spacing.voxel_size - voxel_size) > 5e-4:
                continue
            for candidate in voxel_spacing.tomograms:
                if candidate.tomo_type == tomo_type or not tomo_type:
                    return Address(run.name, voxel_spacing.voxel_size, candidate.tomo_type)
    where = f"in run {run_name!r}" if run_name is not None else f"in any of the project's {len(runs)} runs"
    raise NotFoundError(f"there is no tomogram {tomogram or ''} {where}".replace("  ", " "))


def _run(root: CopickRoot, name: str) -> CopickRun:
    run = root.get_run(name)
    if run is None:
        names = [run.name for run in root.runs]
        listed = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
        raise NotFoundError(f"there is no run {name!r}; there are {listed or 'none'}")
    return run


# What is there.


def _show_contents(root: CopickRoot, console: Console) -> None:
    runs = root.runs
    title = f"{root.config.name}: {len(runs)} runs" + (
        f", the first {SHOWN_RUNS}" if len(runs) > SHOWN_RUNS else ""
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("run", "what", "which", "from layer"):
        table.add_column(heading)
    for run in runs[:SHOWN_RUNS]:
        for what, which, sources in _contents(run):
            table.add_row(run.name, what, which, ", ".join(sources))
        table.add_section()
    console.print(table)
    console.print()


def _contents(run: CopickRun) -> Iterator[tuple[str, str, list[str]]]:
    """Kind, identity and layers of everything in a run."""
    for spacing in run.voxel_spacings:
        for tomogram in spacing.tomograms:
            yield "tomogram", f"{tomogram.tomo_type} at {spacing.voxel_size:g} Å", tomogram.sources
    for picks in run.picks:
        yield "picks", f"{picks.pickable_object_name} by {_author(picks)}", picks.sources
    for segmentation in run.segmentations:
        author = f"{segmentation.user_id}/{segmentation.session_id}"
        which = f"{segmentation.name} by {author} at {segmentation.voxel_size:g} Å"
        yield "segmentation", which, segmentation.sources


def _author(picks: CopickPicks) -> str:
    return f"{picks.user_id}/{picks.session_id}"


# The measurements.


class _Traffic:
    """What the server was asked since this was made."""

    def __init__(self, server: FolderServer | None) -> None:
        self._server = server
        if server is not None:
            server.reset()

    @property
    def requests(self) -> int | None:
        return None if self._server is None else self._server.count()

    @property
    def received(self) -> int | None:
        return None if self._server is None else self._server.bytes_sent


def _measure(
    scene: Scene, root: CopickRoot, address: Address, console: Console
) -> tuple[list[Timing], npt.NDArray[Any]]:
    """Read the tomogram in every way, checking each against the first; timings and the volume (z, y, x)."""
    with console.status(f"Reading {address} ...") as status:
        status.update(f"Reading {address} without a cache ...")
        uncached = copick.from_file(scene.config, cache=False)
        _read(scene, uncached, address, "connecting", 0)  # else the first to read would pay for imports
        plain, reference = _read(scene, uncached, address, "no cache", 5)

        status.update(f"Reading {address} through the cache ...")
        first, data = _read(scene, root, address, "cache, first read", 0)
        _check_same(reference, data, first.what)
        del data
        second, data = _read(scene, root, address, "cache, again", 50)
        _check_same(reference, data, second.what)
        del data

        status.update(f"Reading {address} in a new process ...")
        process, sum_there = _read_in_new_process(scene, address)
        if sum_there != checksum(reference):
            raise _different(process.what, f"{sum_there} instead of {checksum(reference)}")

        memory = _read_memory(reference)
    return [plain, first, second, process, memory], reference


def _read(
    scene: Scene, root: CopickRoot, address: Address, what: str, patches: int
) -> tuple[Timing, npt.NDArray[Any]]:
    """The whole volume, then `patches` patches."""
    tomogram = find(root, address)
    traffic = _Traffic(scene.server)
    data, seconds = timed_read(tomogram)
    requests, received = traffic.requests, traffic.received
    patch_ms = timed_patches(tomogram, patches) if patches else None
    return Timing(what, seconds, patch_ms, requests, received), data


def _read_in_new_process(scene: Scene, address: Address) -> tuple[Timing, str]:
    """The same read in a process that has never seen the project, and its checksum.

    Requests are those of the process's whole life: opening the project, listing it and reading patches too.
    """
    traffic = _Traffic(scene.server)
    paths = [str(Path(copick.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "copick.demo.reader"],
        input=request(str(scene.config.resolve()), address, scene.cache, 50),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CopickError(f"the read in a new process failed: {reason}")
    answer = json.loads(done.stdout)
    timing = Timing(
        "cache, new process", answer["seconds"], answer["patch_ms"], traffic.requests, traffic.received
    )
    return timing, answer["checksum"]


def _read_memory(volume: npt.NDArray[Any]) -> Timing:
    """The limit: copies of an array that is in memory already. The best of three, as fresh memory costs more."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        volume.copy()
        took.append(time.perf_counter() - began)

    def patch(start: tuple[int, ...], size: tuple[int, ...]) -> npt.NDArray[Any]:
        return volume[tuple(slice(at, at + n) for at, n in zip(start, size, strict=True))].copy()

    return Timing("NumPy copy in RAM", min(took), median_ms(volume.shape, 50, patch))


def _check_same(reference: npt.NDArray[Any], data: npt.NDArray[Any], what: str) -> None:
    """Raises CopickError unless two arrays agree bit for bit (NaN included)."""
    if (reference.shape, reference.dtype) != (data.shape, data.dtype):
        raise _different(what, f"{data.shape} {data.dtype} instead of {reference.shape} {reference.dtype}")
    a, b = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (reference, data))
    if not np.array_equal(a, b):
        raise _different(what, f"{np.count_nonzero(a != b)} of {len(a)} bytes")


def _different(what: str, how: str) -> CopickError:
    return CopickError(f"the read {what!r} differs from the read without a cache: {how}; please report this")


def _show_timings(
    timings: list[Timing], address: Address, volume: npt.NDArray[Any], console: Console
) -> None:
    size = tuple(min(96, extent) for extent in volume.shape)
    patch = f"{size[0]}³" if len(set(size)) == 1 else "×".join(map(str, size))
    shape = "×".join(map(str, volume.shape))
    title = f"Reading {address}: {shape} {volume.dtype}, {volume.nbytes / 1e6:.0f} MB"
    caption = "×: against no cache. Requests and MB: of the volume; of the new process, of its whole life."
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    table.add_column("\nread", no_wrap=True)
    for heading in ("volume\ns", "\n×", f"{patch}\npatch, ms", "\n×", "server\nrequests", "server\nMB"):
        table.add_column(heading, justify="right", no_wrap=True)
    plain = timings[0]
    for timing in timings:
        table.add_row(
            timing.what,
            f"{timing.seconds:.3g}",
            _gain(plain.seconds, timing.seconds),
            "-" if timing.patch_ms is None else f"{timing.patch_ms:.2f}",
            _gain(plain.patch_ms, timing.patch_ms),
            "-" if timing.requests is None else str(timing.requests),
            "-" if timing.received is None else f"{timing.received / 1e6:.1f}",
        )
    console.print(table)


def _gain(plain: float | None, other: float | None) -> str:
    """How many times less than `plain`."""
    if not plain or not other:
        return "-"
    gain = plain / other
    return f"{gain:.1f}" if gain < 10 else f"{gain:.0f}"


# The picture.


def _picture_path(options: Options, folder: Path) -> Path:
    if options.picture is not None:
        return options.picture
    return (folder if options.keep else Path.cwd()) / PICTURE


def _draw(root: CopickRoot, address: Address, volume: npt.NDArray[Any], path: Path) -> Path:
    """The slices through a pick near the middle; one set of picks per object, a person's if there is one."""
    shown: dict[str, CopickPicks] = {}
    for picks in sorted(_run(root, address.run).picks, key=lambda picks: picks.from_tool):
        shown.setdefault(picks.pickable_object_name, picks)
    points = {}
    for name, picks in shown.items():
        declared = root.get_object(name)
        color, radius = (declared.color, declared.radius) if declared is not None else (None, None)
        points[f"{name}, {picks.user_id}" if picks.from_user else name] = (
            picks.numpy()[0],
            color or (100, 100, 100, 255),
            radius,
        )
    middle = np.array(volume.shape[::-1]) * address.voxel_size / 2
    everything = np.concatenate(
        [np.reshape(entry[0], (-1, 3)) for entry in points.values()] or [middle[None]]
    )
    nearest = (
        everything[np.argmin(np.linalg.norm(everything - middle, axis=1))] if len(everything) else middle
    )
    center = [int(at) for at in np.round(nearest[::-1] / address.voxel_size)]
    return draw_orthogonal(volume, address.voxel_size, points, path, str(address), center=center, slab=3)
