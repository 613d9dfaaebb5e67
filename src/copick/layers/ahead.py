"""Listing many sibling folders of a remote place: a walk over them is noticed, and the next ones are asked for before their turn.

A request for each folder of each run makes a project of 1,000 runs slow to list from far away. Who asked for folders of three
runs is likely to ask for those of all. So from the third run on

- an S3 store is asked for everything there is from that run on, up to 1,000 documents and arrays with each request
  (`StoreAhead`). What is inside arrays stays there: the delimiter of these listings is `.zarr/`;
- a filesystem that takes several requests at once is asked for the folders of the next runs together, for those that were asked
  for in the runs before (`FoldersAhead`). Such an answer counts once.

**Costs.** A walk that stops early has asked for more than it needed: one page, or the folders of 16 runs.

**No guesses.** A run counts as listed when the place was asked for all of it. The pages of an S3 store are believed once they have
agreed with ordinary listings of another run: some stores know no delimiter but `/`. When anything here fails, the folder is
asked for in the ordinary way, which then fails with an error of its own, or does not.

**Not for long.** What was asked for ahead counts for a few seconds, and until `forget`: others write, too, and a job of many hours
that skips what is there already must see what they wrote. A walk so slow that this matters does not wait for listings.

A branch is a folder that walks go over, with all that is below: `ExperimentRuns/TS_1`.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from copick.layers.places import RemotePlace

logger = logging.getLogger(__name__)

WALK = 3
"""Folders in so many branches were asked for: somebody walks over all."""
ARRAY = ".zarr/"
"""What the names of arrays' folders end with. Nothing in them is listed."""
LAST = "~"
"""Sorts after what the names of files in arrays begin with."""
MOST_PAGES = 8
"""A branch that fills more is not worth it."""
MOST_AHEAD = 16
"""Branches asked for together where each folder is a request."""
FRESH_S = 10.0
"""How long what was asked for ahead counts."""
KEPT = 4096
"""With more branches than that, what no longer counts is dropped."""
NEAR = 4
"""Walkers in several threads are out of order by so much."""


class Entry(NamedTuple):
    """What a folder holds."""

    name: str
    is_folder: bool


def _soon() -> float:
    return time.monotonic() + FRESH_S


@dataclass
class Branch:
    """What is known of a branch."""

    tree: dict[str, set[Entry] | None] = field(default_factory=dict)
    """What the folders hold, by path; None = there is no such folder."""
    whole: bool = False
    """All folders are in `tree` (but for what is in arrays)."""
    until: float = field(default_factory=_soon)
    given: set[str] = field(default_factory=set)

    def entries(self, path: str) -> list[Entry] | None:
        """None = not known. Raises FileNotFoundError."""
        above, _, name = path.rpartition("/")
        beside = self.tree.get(above)
        if path in self.tree:
            found = self.tree[path]
        elif (beside is not None and Entry(name, True) not in beside) or (
            self.whole and ARRAY not in f"{path}/"
        ):
            found = None
        else:
            return None
        if found is None:
            raise FileNotFoundError(path)
        return sorted(found)


class Ahead(ABC):
    """The folders of a remote place, listed as they are asked for."""

    def __init__(self, place: RemotePlace) -> None:
        self.place = place
        self._changes = 0
        self._written: set[str] = set()
        self._given_up = False
        self.forget()

    def forget(self, path: str = "") -> None:
        """What is known of `path`, and of what is below, may be so no more."""
        self._changes += 1
        if branch := branch_of(path):
            self._known.pop(branch, None)
            self._siblings.pop(_top(branch), None)  # it may be new, or gone
        else:
            self._known: dict[str, Branch] = {}
            # Branches under each top folder with their places in order, and until when that counts.
            self._siblings: dict[str, tuple[dict[str, int], float]] = {}
            self._asked: dict[str, float] = {}  # when a branch was last asked for
            self._recent: deque[str] = deque(maxlen=WALK + NEAR)

    def is_written(self, path: str) -> None:
        """From now on somebody changes what is below `path` without saying so: its branch is not remembered any more."""
        self._written.add(branch_of(path))
        self.forget(path)

    def entries(self, path: str) -> list[Entry]:
        """What the folder holds. Raises FileNotFoundError, or what the place raises."""
        known = self.known(path)
        if known is not None:
            return known
        changes = self._changes
        try:
            found = self.place.ask(path)
        except FileNotFoundError:
            if branch := self._branch(path):
                self._missed(branch)
            raise
        if changes == self._changes:  # nobody wrote while the answer was on its way
            if branch := self._branch(path):
                self._saw(branch, path, found)
            elif "/" not in path:
                names = sorted(entry.name for entry in found if entry.is_folder)
                self._siblings[path] = {f"{path}/{name}": at for at, name in enumerate(names)}, _soon()
        return found

    def known(self, path: str) -> list[Entry] | None:
        """What the folder holds if no request is needed for it alone; else None. Raises FileNotFoundError."""
        branch = self._branch(path)
        if not branch:
            return None
        now = time.monotonic()
        is_next = now - self._asked.get(branch, -FRESH_S) >= FRESH_S
        self._asked[branch] = now
        if is_next:
            self._recent.append(branch)
        found = self._answer(branch, path, now)
        if found is None and is_next and self._is_walk(now) and not self._given_up:
            self._try(branch)
            found = self._answer(branch, path, now)
        return found

    def _branch(self, path: str) -> str:
        """The branch that `path` belongs to; empty for what is not remembered."""
        branch = branch_of(path)
        return "" if f"{branch}/".endswith(ARRAY) or branch in self._written else branch

    def _is_walk(self, now: float) -> bool:
        last = [*self._recent][-WALK:]
        return len(last) == WALK and all(now - self._asked.get(each, 0.0) < FRESH_S for each in last)

    def _order(self, branch: str, now: float) -> dict[str, int] | None:
        """The branches beside this one and their places in order, if that is known."""
        order, until = self._siblings.get(_top(branch), ({}, 0.0))
        return order if now <= until else None

    def _try(self, branch: str) -> None:
        changes = self._changes
        try:
            learned = self._learn(branch)
        except FileNotFoundError:  # nothing there to learn from
            return
        except Exception:
            logger.debug("%s and what follows could not be listed together", branch, exc_info=True)
            self._given_up = True
            return
        if changes == self._changes:
            self._remember(learned)

    def _remember(self, learned: dict[str, Branch]) -> None:
        if len(self._known) > KEPT:
            now = time.monotonic()
            self._known = {each: known for each, known in [*self._known.items()] if now <= known.until}
        self._known.update(learned)

    @abstractmethod
    def _learn(self, branch: str) -> dict[str, Branch]:
        """Ask for this branch and the next ones; what is known of each now."""

    @abstractmethod
    def _answer(self, branch: str, path: str, now: float) -> list[Entry] | None:
        """From what is known. Raises FileNotFoundError."""

    @abstractmethod
    def _saw(self, branch: str, path: str, found: list[Entry]) -> None:
        """The place was asked for this folder in the ordinary way."""

    @abstractmethod
    def _missed(self, branch: str) -> None:
        """A folder of this branch is not there."""


class StoreAhead(Ahead):
    """An S3 store: pages of everything, in the order of the keys."""

    _trusted = False

    def _answer(self, branch: str, path: str, now: float) -> list[Entry] | None:
        order = self._order(branch, now)
        if order is not None and branch not in order:
            raise FileNotFoundError(path)
        known = self._fresh(branch)
        return known.entries(path) if known else None

    def _fresh(self, branch: str) -> Branch | None:
        known = self._known.get(branch)
        return known if known and time.monotonic() <= known.until else None

    def _saw(self, branch: str, path: str, found: list[Entry]) -> None:
        known = self._fresh(branch) or Branch()
        known.tree[path] = {*found}
        self._remember({branch: known})

    def _missed(self, branch: str) -> None:
        """What is there says that others are not, either. s3fs has asked for it already, to find out about the first."""
        changes = self._changes
        try:
            found = self.place.ask(branch)
        except FileNotFoundError:
            if changes == self._changes:
                self._remember({branch: Branch(whole=True)})
        else:
            if changes == self._changes:
                self._saw(branch, branch, found)

    def _learn(self, branch: str) -> dict[str, Branch]:
        learned = {} if self._trusted else self._compared([*self._recent][-2])
        return learned if branch in learned else learned | self._pages(branch)

    def _compared(self, branch: str) -> dict[str, Branch]:
        """Pages from that branch on, after they agreed with what the store says when it is asked for its folders."""
        known = self._fresh(branch)
        listed = dict(known.tree) if known else {}
        inside = listed.get(branch) or {*self.place.ask(branch)}
        for path in (branch, *(f"{branch}/{name}" for name, is_folder in sorted(inside) if is_folder)):
            if path not in listed and ARRAY not in f"{path}/":
                listed[path] = {*self.place.ask(path)}
        learned = self._pages(branch)
        for path, found in listed.items():
            if learned[branch].tree.get(path) != found:
                raise ValueError(f"the store lists {path} differently where arrays are the only folders")
        self._trusted = True
        return learned

    def _pages(self, branch: str) -> dict[str, Branch]:
        """All of this branch, and of those that came with it."""
        fs = self.place.fs
        bucket, key, _ = fs.split_path(self.place.root)
        base = f"{key}/" if key else ""
        after = f"{base}{branch}/"
        found = {branch: Branch(whole=True)}
        for _ in range(MOST_PAGES):
            page = fs.call_s3(
                "list_objects_v2",
                Bucket=bucket,
                Prefix=f"{base}{_top(branch)}/",
                Delimiter=ARRAY,
                StartAfter=after,
                **fs.req_kw,
            )
            keys = [item["Key"] for item in page.get("Contents", ())]
            keys = sorted([*keys, *(item["Prefix"] for item in page.get("CommonPrefixes", ()))])
            goes_on = page["IsTruncated"]
            if (keys and keys[0] <= after) or (goes_on and not keys):
                raise ValueError(f"the store does not go on after {after!r}")
            for each in keys:
                _add(found, each.removeprefix(base))
            last = [*found][-1]
            if not goes_on or last != branch:
                if goes_on:  # there may be more of it on the next page
                    del found[last]
                return found
            end = keys[-1].find(ARRAY, len(base) + len(branch))
            after = keys[-1] if end < 0 else keys[-1][: end + len(ARRAY)] + LAST
        raise ValueError(f"{branch} fills more than {MOST_PAGES} pages")


def _add(found: dict[str, Branch], path: str) -> None:
    """Note a file, or the folder of an array: its path may go on inside."""
    branch = branch_of(path)
    if not branch or path == branch:  # a file beside the branches
        return
    tree = found.setdefault(branch, Branch(whole=True)).tree
    inside, array, _ = path[len(branch) + 1 :].partition(ARRAY)
    *folders, name = (inside + array.rstrip("/")).split("/")
    here = branch
    for folder in folders:
        _entries(tree, here).add(Entry(folder, True))
        here = f"{here}/{folder}"
    at = _entries(tree, here)
    if name:  # else it stands for the folder itself
        at.add(Entry(name, bool(array)))


def _entries(tree: dict[str, set[Entry] | None], folder: str) -> set[Entry]:
    found = tree.setdefault(folder, set())
    assert found is not None
    return found


class FoldersAhead(Ahead):
    """A filesystem that takes several requests at once: the next branches' folders together."""

    def __init__(self, place: RemotePlace) -> None:
        self._inner: set[str] = set()  # which folders of branches are asked for
        self._coming: set[str] = set()
        self._number = NEAR
        super().__init__(place)

    def _answer(self, branch: str, path: str, now: float) -> list[Entry] | None:
        self._inner.add(path[len(branch) + 1 :])
        known = self._known.get(branch)
        if known is None or path in known.given or now > known.until:
            return None
        known.given.add(path)
        return known.entries(path)

    def _saw(self, branch: str, path: str, found: list[Entry]) -> None:
        pass

    def _missed(self, branch: str) -> None:
        pass

    def _learn(self, branch: str) -> dict[str, Branch]:
        branches = self._next(branch)
        if not branches:
            return {}
        self._number = min(2 * self._number, MOST_AHEAD)
        self._coming.update(branches)
        try:
            if "" in self._inner:
                found = self.place.ask_together(branches)
                kinds = {_alike(name) for name in [*self._inner]}
                found |= self.place.ask_together(
                    [
                        f"{path}/{entry.name}"
                        for path, entries in found.items()
                        for entry in entries or ()
                        if entry.is_folder and _alike(entry.name) in kinds
                    ]
                )
            else:
                found = self.place.ask_together(
                    [f"{each}/{name}" for each in branches for name in [*self._inner]]
                )
        finally:
            self._coming.difference_update(branches)
        learned = {each: Branch() for each in branches}
        for path, entries in found.items():
            learned[branch_of(path)].tree[path] = None if entries is None else {*entries}
        return learned

    def _next(self, branch: str) -> list[str]:
        """This branch and those after it, if that is how they are walked over."""
        order = self._order(branch, time.monotonic()) or {}
        if branch not in order or branch in self._coming:
            return []
        at = order[branch]
        before = [order.get(each, at) for each in [*self._recent] if each != branch]
        if not any(0 < at - other <= NEAR for other in before):
            return []
        taken = self._coming | self._written
        return [each for each in [*order][at : at + self._number] if each not in taken]


def _alike(name: str) -> str:
    """Folders whose names differ by numbers are of one kind: voxel spacings."""
    return re.sub(r"[0-9.]+", "0", name)


def branch_of(path: str) -> str:
    """Its first two parts; empty if it has fewer."""
    top, _, rest = path.partition("/")
    name = rest.partition("/")[0]
    return f"{top}/{name}" if name else ""


def _top(branch: str) -> str:
    return branch.partition("/")[0]
