"""Goals, tables, and the results as JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from benchmarks.measure import Timing

PACKAGES = (
    "copick",
    "numpy",
    "numcodecs",
    "zarr",
    "tensorstore",
    "zarrs",
    "libcachesim",
    "fsspec",
    "aiohttp",
)


@dataclass(frozen=True)
class Figure:
    """What was measured of one contender; `missing` says why nothing was."""

    name: str
    value: float | None = None
    rounds: list[float] = field(default_factory=list)
    reads: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None


@dataclass(frozen=True)
class Goal:
    """A promise and what came of it. `value` is None if it could not be measured here."""

    what: str
    value: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Row:
    """One line of the table of goals."""

    name: str
    title: str
    unit: str
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    baseline: str = ""
    """The contender that others are shown as multiples of."""

    def add(self, timings: Mapping[str, Timing], factor: float = 1.0) -> None:
        """Add what was timed, in units of 1/factor seconds."""
        for name, timing in timings.items():
            rounds = [value * factor for value in timing.rounds]
            self.figures.append(Figure(name, timing.median * factor, rounds, timing.reads, timing.counts))

    def add_missing(self, missing: Mapping[str, str]) -> None:
        self.figures += [Figure(name, missing=why) for name, why in missing.items()]

    def goal(self, what: str, value: float | None, limit: float, *, at_least: bool = False) -> None:
        self.goals.append(Goal(what, value, limit, at_least))

    def value(self, name: str) -> float | None:
        return next((figure.value for figure in self.figures if figure.name == name), None)


def show(row: Row, console: Console) -> None:
    table = Table(title=f"{row.name}: {row.title}", title_justify="left", title_style="bold")
    table.add_column("contender")
    table.add_column(row.unit, justify="right")
    base = row.value(row.baseline)
    if base:
        table.add_column(f"× {row.baseline}", justify="right")
    table.add_column("counts")
    for figure in row.figures:
        counts = "  ".join(f"{name} {_number(value)}" for name, value in figure.counts.items())
        if figure.missing is not None:
            table.add_row(figure.name, "", *([""] if base else []), f"not available: {figure.missing}")
            continue
        relative = [_number(figure.value / base)] if base and figure.value is not None else [""] * bool(base)
        table.add_row(figure.name, _number(figure.value), *relative, counts)
    console.print(table)
    for goal in row.goals:
        sign = "≥" if goal.at_least else "≤"
        verdict = {True: "[green]met[/]", False: "[red]not met[/]", None: "[yellow]not measured[/]"}[goal.met]
        console.print(
            f"  {verdict}  {goal.what}: {_number(goal.value)}, goal {sign} {_number(goal.limit)}",
            highlight=False,
        )
    console.print()


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def document(rows: list[Row], scale: Any, seconds: float) -> dict[str, Any]:
    """Everything, for a file."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "scale": asdict(scale),
        "seconds": round(seconds, 1),
        "rows": [
            {**asdict(row), "goals": [{**asdict(goal), "met": goal.met} for goal in row.goals]}
            for row in rows
        ],
    }


def machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "ram_gib": _ram_gib(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    # Of this checkout. Copick's own too only if that is what is installed.
    found["commit"] = _commit()
    found["copick_is_this_checkout"] = "yes" if _own_copick() else "no"
    return found


def slug() -> str:
    """A short name of this machine for a file."""
    described = machine()
    words = f"{described['cpu']} {described['cores']} cores".lower()
    return "-".join("".join(c if c.isalnum() else " " for c in words).split())


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _ram_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _own_copick() -> bool:
    import copick

    return Path(copick.__file__).is_relative_to(Path(__file__).parents[1])


def _commit() -> str | None:
    try:
        here = Path(__file__).parent
        asked = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
