"""What two readers of one project see, compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Differences = dict[str, tuple[Any, Any]]
ABSENT = "(absent)"

DELIBERATE: Mapping[str, str] = {
    r"runs/TS_1/picks/.* \(static twin\)|runs/TS_1/of tools": (
        "What lies in the overlay and among the static data is one thing, shown as the overlay has it; 1.31 lists both."
    ),
    r"runs/.*/(empty|7\.84_alice_.*|12\.5_carol_.*)/(arrays|channel|level 1|numpy|part)": (
        "Nothing was written yet: NotFoundError, a KeyError. 1.31 tries to write a group there: PermissionError."
    ),
    r"runs/odd/picks/carol_1_beta(_gal)?": (
        "Underscores in an object's name are a part of it. 1.31 drops what follows the first, and finds no such file."
    ),
    r"runs/odd, misnamed/.*": "A file that is called like nothing is skipped; 1.31 then lists no picks of the run (IndexError).",
    r"runs/odd/voxel_spacings/10\.000/(old-)?dotted/.*": (
        "Chunks that are called 0.0.0 are read; 1.31 looks for 0/0/0 only, and reads zeros."
    ),
    r"runs/odd/voxel_spacings/10\.000/myfeatures": 'A tomogram is no features because its name ends so; 1.31 hides any "features".',
    r"runs/odd/voxel_spacings/5\.000/wbp": "VoxelSpacing5 is the folder of 5 Å; 1.31 lists it, but looks into VoxelSpacing5.000.",
}
"""Where this package means to differ from copick 1.31 (patterns of paths), and why."""


def unexplained(theirs: Any, ours: Any) -> Differences:
    """The differences between what 1.31 sees (`theirs`) and what we see that are not deliberate.

    Raises:
        AssertionError: Something in `DELIBERATE` does not differ.
    """
    found = differences(theirs, ours)
    for pattern, reason in DELIBERATE.items():
        explained = {path for path in found if re.fullmatch(pattern, path)}
        assert explained, f"no longer so: {reason}"
        found = {path: values for path, values in found.items() if path not in explained}
    return found


def differences(theirs: Any, ours: Any, at: str = "") -> Differences:
    """Where two dumps of `read_project.py` differ: path → (what one says, what the other says)."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and "error" not in {*theirs, *ours}:
        pairs = [(key, theirs.get(key, ABSENT), ours.get(key, ABSENT)) for key in sorted({*theirs, *ours})]
    elif _is_table(theirs) and _is_table(ours):
        return differences(_by_key(theirs), _by_key(ours), at)
    else:
        return {} if theirs == ours else {at: (theirs, ours)}
    found: Differences = {}
    for key, one, other in pairs:
        found |= differences(one, other, f"{at}/{key}" if at else str(key))
    return found


def _is_table(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) and "key" in item for item in items)


def _by_key(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Annotations by name; a read-only one that has a twin in the overlay is told apart."""
    found: dict[str, Any] = {}
    for item in items:
        name = "_".join(map(str, item["key"]))
        found[f"{name} (static twin)" if name in found else name] = item
    return found
