"""Every file below a folder. What cannot be listed is an error: a copy made from half a listing would pass for the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from copick.layers.ahead import Entry

    Listings: TypeAlias = "Mapping[str, list[Entry] | Exception]"
    """What folders hold, by path, or why that is not known."""

AT_ONCE = 16
"""Folders that are asked for together."""


def attempt(ask: Callable[..., list[Entry]], *args: Any) -> list[Entry] | Exception:
    """What `ask` returns, or what it raises."""
    try:
        return ask(*args)
    except Exception as error:  # noqa: BLE001 (filesystems raise what their libraries raise; it is not lost)
        return error


def is_absence(answer: object) -> bool:
    """Whether the answer is that there is no such folder."""
    return isinstance(answer, FileNotFoundError | NotADirectoryError)


def walked(top: str, ask: Callable[[Sequence[str]], Listings]) -> Iterator[list[str]]:
    """The files below `top`, by path from there, a few folders at a time. `ask` says what folders hold.

    Raises:
        FileNotFoundError, NotADirectoryError: There is no such folder.
        OSError: A folder in it is not there although it is listed; or whatever `ask` gives as the reason.
    """
    waiting = [top]
    while waiting:
        now, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        found = []
        for folder, entries in ask(now).items():
            if isinstance(entries, Exception):
                if is_absence(entries) and folder != top:
                    raise OSError(f"{folder} is listed, but it is not there") from entries
                raise entries
            for name, is_folder in entries:
                path = f"{folder}/{name}" if folder else name
                waiting.append(path) if is_folder else found.append(path)
        yield [path[len(top) + 1 :] if top else path for path in found]
