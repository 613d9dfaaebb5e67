"""What datasets of the CryoET Data Portal hold, as the objects of a project."""

from __future__ import annotations

import colorsys
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from copick.errors import FormatError
from copick.meta import MAX_OBJECT_NAME_BYTES, PickableObject
from copick.util.escape import cut_name, sanitize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from copick.layers.portal_catalogue import PortalFile

RADIUS = 50.0
"""Of an object of which the portal states none, in ångström."""


def objects_from_datasets(
    dataset_ids: Iterable[int], *, url: str | None = None, cache_dir: str | None = None
) -> list[PickableObject]:
    """One object for each thing that is annotated in these datasets, by identifier: the same each time, in every process.

    Args:
        url, cache_dir: As in `copick.config_portal.CopickConfigPortal`.

    Raises:
        ConfigError: The portal has no such dataset.
        LayerError: The portal does not answer.
    """
    from copick.config_errors import validated
    from copick.config_portal import CopickConfigPortal
    from copick.layers.portal import PortalLayer

    stated = {"dataset_ids": [*dataset_ids], "url": url, "cache_dir": cache_dir}
    fields = {key: value for key, value in stated.items() if value is not None}
    layer = PortalLayer(validated(CopickConfigPortal, fields, "the portal"), "portal")
    layer.check()
    files: dict[str, list[PortalFile]] = defaultdict(list)
    for run in layer.catalogue.runs.values():
        for file in run.files:
            files[file.object_id].append(file)
    taken: set[str] = set()
    return [
        _object(identifier, files[identifier], label, taken)
        for label, identifier in enumerate(sorted(files), 1)
    ]


def _object(identifier: str, files: list[PortalFile], label: int, taken: set[str]) -> PickableObject:
    from copick.layers.portal_catalogue import POINTS

    names = Counter(file.object_name for file in files)
    # The portal may call one thing several names: the commonest, of these the first in the alphabet.
    common = min(names, key=lambda name: (-names[name], name))
    name = _usable(common) or _usable(identifier) or "object"
    if name in taken:  # and several things one name
        name = _usable(f"{name}-{identifier}")
    first, number = name, 1
    while name in taken:  # and several identifiers differ in what no name may hold
        number += 1
        name = f"{first}-{number}"
    taken.add(name)
    published = sorted({part.strip() for file in files for part in (file.publication or "").split(",")})
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.55 + 0.4 * (label % 2), 0.95)
    return PickableObject(
        name=name,
        is_particle=any(file.shape in POINTS for file in files),
        label=label,
        color=(round(red * 255), round(green * 255), round(blue * 255), 255),
        identifier=identifier,
        emdb_id=_accession("EMD", published),
        pdb_id=_accession("PDB", [identifier, *published]),
        radius=RADIUS,
    )


def _usable(text: str) -> str:
    """What of a text can be the name of an object; empty if nothing can. It is short enough to get a number."""
    try:
        clean = sanitize_name(text.lower(), suppress_warnings=True)
    except FormatError:
        return ""
    return cut_name(clean.lstrip("-."), MAX_OBJECT_NAME_BYTES - 20)  # a file with a dot first is hidden


def _accession(database: str, texts: Iterable[str]) -> str | None:
    """The first accession in that database: `EMD-3883`, `4V9D`."""
    for text in texts:
        if found := re.fullmatch(rf"{database}-?(\w+)", text):
            return f"EMD-{found[1]}" if database == "EMD" else found[1]
    return None
