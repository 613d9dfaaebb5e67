"""What can be known of an entity without its bytes: the same whether layers are asked for it or the index is."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from copick.errors import CopickError, FormatError, LayerError, NotFoundError
from copick.filaments import CopickFilamentsFile
from copick.kinds import (
    FEATURES,
    FILAMENTS,
    INSTANCE_SEGMENTATION,
    KINDS,
    MESH,
    PANOPTIC_SEGMENTATION,
    PICKS,
    RUN,
    SEGMENTATION,
    TOMOGRAM,
    VOXEL_SPACING,
    Kind,
    normal,
)
from copick.layers.stack import LayerStack
from copick.layers.transfer import said as read_document
from copick.meta import CopickPicksFile
from copick.util.lazy import lazy
from copick.util.segmentation import segmentation_type

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from copick.kinds import Ref
    from copick.layers.layer import Layer
    from copick.meta import Meta

    Points = npt.NDArray[np.float32]

TYPES: Mapping[str, tuple[Kind, ...]] = {
    "runs": (RUN,),
    "voxel_spacings": (VOXEL_SPACING,),
    "tomograms": (TOMOGRAM,),
    "features": (FEATURES,),
    "picks": (PICKS,),
    "meshes": (MESH,),
    "filaments": (FILAMENTS,),
    "segmentations": (SEGMENTATION, INSTANCE_SEGMENTATION, PANOPTIC_SEGMENTATION),
}
"""The kinds of each type of thing that lies in runs."""
TYPE_OF: Mapping[Kind, str] = {kind: name for name, kinds in TYPES.items() for kind in kinds}

AUTHORS = "authors"
"""What the authors of a thing are asked for by: see `Layer.matching`."""
AXES = ("nz", "ny", "nx")
"""Voxels along each axis of the finest level."""
CONTENT = {"description", "point_count", "dtype", *AXES}
"""Fields that are no part of an entity's name: something must be read to know them."""
NUMBERS = {"voxel_size", "label", "map_threshold", "radius", "point_count", *AXES}
"""Fields that can be asked for by range."""

_ORDER = {kind: at for at, kind in enumerate(KINDS)}


class Held(NamedTuple):
    """What one layer says of one entity."""

    layer: str
    listed: dict[str, Any]
    """What its listing says, beyond the key."""
    said: dict[str, Any]
    """What its document says, beyond the key and the points."""
    number: int | None = None
    """Of picks: how many points."""
    points: Points | None = None
    """Of picks: where the objects are, (N, 3) in ångström, x, y, z."""
    shape: tuple[int, ...] | None = None
    """Of arrays: of the finest level."""
    dtype: str | None = None
    problem: str | None = None
    """Why its file could not be read; then that says nothing."""


def leaves(layer: Layer) -> list[Layer]:
    """The layers that a layer is made of, highest first."""
    if isinstance(layer, LayerStack):
        return [leaf for each in layer.layers for leaf in leaves(each)]
    return [layer]


def describe(layer: Layer, ref: Ref, meta: Meta) -> Held:
    """What a layer says of an entity that it lists as `meta`. What cannot be read or understood says nothing."""
    held = Held(layer.name, beyond_key(ref.kind, meta), {})
    try:
        if ref.kind.payload == "folder":
            return held._replace(said=_said(ref.kind, read_document(layer.load(ref))))
        if ref.kind is PICKS:
            picks = CopickPicksFile.from_json(layer.load(ref), ref)
            where = positions(picks)
            return held._replace(said=_said(PICKS, picks.model_extra or {}), number=len(where), points=where)
        if ref.kind is FILAMENTS:
            file = CopickFilamentsFile.from_json(layer.load(ref), ref)
            return held._replace(said=_said(FILAMENTS, file.model_extra or {}))
        if ref.kind.payload == "array":
            shape, dtype = _array(layer, ref)
            return held._replace(shape=shape, dtype=dtype)
    except (NotFoundError, FormatError):
        pass
    except CopickError as error:  # of this file alone: the layer lists it
        return held._replace(problem=str(error))
    return held


def beyond_key(kind: Kind, meta: Meta) -> dict[str, Any]:
    """What the metadata of a listing say besides the key."""
    known = {*kind.identity, *kind.fixed, "tomo_type"}
    if not meta.model_fields_set - known:
        return {}
    return meta.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude=known)


def positions(picks: CopickPicksFile) -> Points:
    """Where the objects are, (N, 3) in ångström, x, y, z."""
    rows = [
        (p.location.x + m[0][3], p.location.y + m[1][3], p.location.z + m[2][3])
        for p in picks.points
        for m in [p.transformation_]
    ]
    with np.errstate(over="ignore"):
        return np.array(rows, np.float64).reshape(-1, 3).astype(np.float32)


def _said(kind: Kind, fields: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in fields.items() if value is not None and key not in kind.identity}
    return json.loads(json.dumps(kept, default=str)) if kept else kept


def _array(layer: Layer, ref: Ref) -> tuple[tuple[int, ...] | None, str | None]:
    """Shape and type of the finest level; None, None if there is none that can be understood."""
    from copick.ome import levels

    def document(key: str) -> dict[str, Any]:
        found = json.loads(layer.part(ref, key) or b"{}")
        return found if isinstance(found, dict) else {}

    try:
        path = "0"
        found = document("0/.zarray") or document("0/zarr.json")
        if "shape" not in found:
            group = document(".zattrs") or document("zarr.json").get("attributes", {})
            path = next(iter(levels(group, str(ref)))).path
            found = document(f"{path}/.zarray") or document(f"{path}/zarr.json")
        name = found.get("dtype", found.get("data_type"))
        return tuple(int(n) for n in found["shape"]), np.dtype(name).newbyteorder("=").name
    except (CopickError, StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, LayerError):
            raise
        return None, None


class Wanted(NamedTuple):
    """What is asked for: all of these."""

    exact: Mapping[str, set[Any]] = {}
    """Field → values, one of which it has."""
    ranges: Mapping[str, tuple[float, float]] = {}
    """Number → least and most."""
    layers: set[str] | None = None
    """One of these layers holds it."""
    authors: set[str] | None = None
    """One of these is an author of it."""
    metadata: Mapping[str, set[Any]] = {}
    """Metadata key → values, one of which it has."""
    known: Mapping[str, Collection[Ref]] = {}
    """Metadata key, or `AUTHORS` → what layers found by it that they alone could (`Layer.found_by`)."""

    def matches(self, thing: Thing) -> bool:
        for field, accepted in self.exact.items():
            value = thing.value(field)
            if value is None or normal(value) not in accepted:
                return False
        for field, (least, most) in self.ranges.items():
            value = thing.value(field)
            if value is None or not least <= normal(value) <= most:  # type: ignore[operator]
                return False
        if self.layers is not None and not self.layers.intersection(thing.sources):
            return False
        if self.authors is not None and not self._is_known(thing, AUTHORS) and not thing.is_by(self.authors):
            return False
        return all(
            self._is_known(thing, key) or thing.says(key, accepted) for key, accepted in self.metadata.items()
        )

    def _is_known(self, thing: Thing, key: str) -> bool:
        return thing.ref in self.known.get(key, ())


class Thing:
    """One entity as some layers together show it.

    Args:
        held: What each of them says, highest first; asked for when it is needed.
        sources: The names of these layers, where they are known without asking what they say.
        meta: What listings say of it; None: no more than the address does.
    """

    def __init__(
        self,
        ref: Ref,
        held: Iterable[Held],
        *,
        sources: Callable[[], Sequence[str]] | None = None,
        meta: Callable[[], Meta | None] | None = None,
    ) -> None:
        self.ref = ref
        self.type = TYPE_OF[ref.kind]
        self._held, self._sources, self._meta = held, sources, meta

    @lazy
    def held(self) -> list[Held]:
        return list(self._held)

    @lazy
    def run(self) -> str:
        return str(next(self.ref.walk()).values[0])

    @property
    def order(self) -> tuple[Any, ...]:
        """Things in this order are as the tree lists them."""
        return tuple(part for ref in self.ref.walk() for part in (_ORDER[ref.kind], ref.values))

    @lazy
    def names(self) -> dict[str, Any]:
        """The fields that its address tells."""
        found: dict[str, Any] = {}
        for ref in self.ref.walk():
            found.update(zip(ref.kind.identity, ref.values, strict=True))
            found.update(ref.kind.fixed)
            if ref.kind is RUN:
                found["run_name"] = found.pop("name")
        if self.type == "runs":
            found["name"] = found["run_name"]
        if "pickable_object_name" in found:
            found["object_name"] = found["pickable_object_name"]
        if self.type == "segmentations":
            flags = (found["is_multilabel"], found["is_instance"], found["is_panoptic"])
            found["segmentation_type"] = segmentation_type(*flags)
        return found

    @lazy
    def metadata(self) -> dict[str, Any]:
        """What is said of it: in listings and in the documents of folders by any layer, in other documents by the highest."""
        found = {key: value for held in reversed(self.held) for key, value in held.listed.items()}
        for held in reversed(self.held if self.ref.kind.payload == "folder" else self.held[:1]):
            found.update(held.said)
        return found

    @property
    def points(self) -> Points | None:
        return self.held[0].points if self.held else None

    def value(self, field: str) -> Any:
        """The value of a field; None if it has none."""
        if field not in CONTENT:
            return self.names.get(field)
        if field == "description":
            said = self.metadata.get("description")
            return said if isinstance(said, str) else None
        first = self.held[0] if self.held else None
        if first is None:
            return None
        if field == "point_count":
            return first.number
        if field in AXES:
            space = (first.shape or ())[-3:]
            return dict(zip(AXES[3 - len(space) :], space, strict=True)).get(field)
        return first.dtype if field == "dtype" else None

    @lazy
    def sources(self) -> tuple[str, ...]:
        """The layers that hold it, highest first."""
        return tuple(held.layer for held in self.held) if self._sources is None else tuple(self._sources())

    @property
    def meta(self) -> Meta | None:
        """What listings say of it; None: no more than the address does."""
        return None if self._meta is None else self._meta()

    def says(self, key: str, accepted: set[Any]) -> bool:
        """Whether its metadata have one of these values under a key; nested keys are joined by dots."""
        return any(name == key and normal(value) in accepted for name, value in facts(self.metadata))

    def is_by(self, authors: set[Any]) -> bool:
        return any(is_author(name) and value in authors for name, value in facts(self.metadata))

    def words(self) -> set[str]:
        """What a search for text looks at."""
        texts = {value for value in self.names.values() if isinstance(value, str)}
        if metadata := self.metadata:
            texts.update(value for _, value in facts(metadata) if isinstance(value, str))
        return {word for text in texts for word in split_words(text)}


def facts(fields: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested metadata as flat (key, value) pairs; items of a list share its key."""
    if isinstance(fields, dict):
        for key, value in fields.items():
            yield from facts(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(fields, list):
        for value in fields:
            yield from facts(value, prefix)
    elif fields is not None:
        yield prefix, fields


def is_author(key: str) -> bool:
    """Whether what stands under this key names an author."""
    return "author" in key.casefold()


@lru_cache(maxsize=4096)
def split_words(text: str) -> tuple[str, ...]:
    """The words of a text as they are compared: letters and digits, whatever their case."""
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


def rank(terms: Sequence[str], words: set[str]) -> tuple[int, int] | None:
    """Where something with these words comes among what is found: more whole words first, then fewer words in all.

    None: it does not have them all.
    """
    if not all(term in words or any(word.startswith(term) for word in words) for term in terms):
        return None
    return -sum(term in words for term in terms), len(words)
