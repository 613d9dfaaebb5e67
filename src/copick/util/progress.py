"""Progress bars: on a terminal only, and only for work that takes a while."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

DELAY_S = 1.0
"""Work that is done sooner shows nothing."""

# A terminal shows one bar at a time: of works that go on at once, the first that takes a while.
_terminal = threading.Lock()


class Progress:
    """A bar on stderr that appears after `DELAY_S`, counts steps, and is gone at the end.

    with Progress("copying wbp", total=120) as progress:
        progress.step()
    """

    def __init__(self, text: str, total: int | None) -> None:
        self._text, self._total = text, total
        self._done, self._start = 0, time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def step(self, count: int = 1) -> None:
        """Say that `count` more steps are done."""
        self._done += count
        if (
            self._bar is None
            and sys.stderr.isatty()
            and time.monotonic() - self._start > DELAY_S
            and _terminal.acquire(blocking=False)
        ):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._text, total=self._total)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            _terminal.release()
