"""Properties that are computed when they are first needed."""

from __future__ import annotations

import threading
from typing import Any

from copick.util.lazy import lazy


class Thing:
    """What is computed takes until both threads compute."""

    def __init__(self, both: threading.Barrier) -> None:
        self.both = both

    @lazy
    def value(self) -> list[int]:
        """A list."""
        self.both.wait(10)
        return []


def in_two_threads(*things: Thing) -> list[Any]:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda each=each: found.append(each.value)) for each in things]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_do_not_wait_for_each_other() -> None:
    both = threading.Barrier(2)
    assert in_two_threads(Thing(both), Thing(both)) == [[], []]


def test_there_is_one_value() -> None:
    thing = Thing(threading.Barrier(2))
    one, other = in_two_threads(thing, thing)
    assert one is other is thing.value
    assert Thing.value.__doc__ == "A list."
