"""The data model as a table: what entities exist, what identifies each, and what its file is called.

A `Kind` is a row of the table. A `Ref` is the address of one entity; it is the same in every layer, so two
layers hold the same entity exactly when their refs are equal. A new kind of entity is a new row here and a class
in `copick.models`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from copick.errors import FormatError
from copick.filaments import CopickFilamentsFile
from copick.meta import (
    CopickFeaturesMeta,
    CopickMeshMeta,
    CopickObjectMeta,
    CopickPicksFile,
    CopickRunMeta,
    CopickSegmentationMeta,
    CopickTomogramMeta,
    CopickVoxelSpacingMeta,
    Meta,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger(__name__)

Value = str | float | bool
Payload = Literal["folder", "document", "array"]

VOXEL_DECIMALS = 3
"""Two voxel sizes are the same when they agree to this many decimals (of an ångström)."""

MAX_NAME_BYTES = 255
"""The longest file name that common file systems take."""


@dataclass(frozen=True, eq=False)
class Kind:
    """One row of the table. There is one object per kind: compare with `is`."""

    name: str
    meta: type[Meta]
    identity: tuple[str, ...]
    """The fields of the metadata that tell siblings apart."""
    payload: Payload
    folder: str
    """Where the files of this kind lie in their parent's directory; empty: directly in it."""
    template: str
    """File name, from the identity fields."""
    pattern: re.Pattern[str]
    """Reads the identity fields back from a file name."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Boolean fields, and what stands in the file name when they are true."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are the same for all of this kind."""
    beside: bool = False
    """The files lie beside that of the parent, and their names begin with the parent's."""
    ignores: re.Pattern[str] | None = None
    """File names that belong to other kinds in the same folder; skipped without a word."""

    def __reduce__(self) -> tuple[Any, ...]:
        return kind_named, (self.name,)

    def __repr__(self) -> str:
        return f"<Kind {self.name}>"

    def key(self, meta: Meta) -> tuple[Value, ...]:
        """What identifies `meta` among its siblings."""
        return tuple([normal(getattr(meta, name)) for name in self.identity])

    def ref(self, meta: Meta, parent: Ref | None) -> Ref:
        return Ref(self, self.key(meta), parent)

    def meta_of(self, values: tuple[Value, ...]) -> Meta:
        """The metadata that a key stands for."""
        return self.meta(**dict(zip(self.identity, values, strict=True)), **self.fixed)

    def file_name(self, values: tuple[Value, ...]) -> str:
        """The file name of the entity with this key.

        Raises:
            FormatError: No file name stands for it: it would leave the tree, be hidden, or read back as
                something else.
        """
        return _file_name(self, values)

    def parse(self, file_name: str, where: str = "") -> Meta | None:
        """What a file name stands for; None if it stands for nothing of this kind, and a line in the log that says `where`."""
        match = self.pattern.fullmatch(file_name)
        if match is not None:
            fields: dict[str, Any] = match.groupdict()
            fields.update({flag: bool(fields[flag]) for flag in self.flags})
            try:
                return self.meta(**fields, **self.fixed)
            except ValidationError:
                pass
        logger.warning("skipped %r: no name of %s (%s)", where or file_name, self.label, self.template)
        return None

    def hides(self, file_name: str) -> bool:
        """Whether `file_name` is none of this kind's business."""
        return file_name.startswith(".") or bool(self.ignores and self.ignores.search(file_name))

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")


def normal(value: Any) -> Value:
    """A key value as it is compared: voxel sizes to three decimals."""
    if type(value) is str or isinstance(value, (str, bool)):
        return value
    try:
        return round(float(value), VOXEL_DECIMALS)
    except OverflowError:  # an int that no float can be
        return float("inf")


@lru_cache(maxsize=65536)
def _file_name(kind: Kind, values: tuple[Value, ...]) -> str:
    fields: dict[str, Any] = dict(zip(kind.identity, values, strict=True))
    texts = [value for value in values if isinstance(value, str)]
    for text in texts:
        check_name(text, f"{kind.label} name")
    shown = {name: kind.flags[name] * fields[name] if name in kind.flags else fields[name] for name in fields}
    name = kind.template.format(**shown)
    check_name(name, f"{kind.label} file name")
    if kind.hides(name):
        raise FormatError(f"{name!r} cannot be the file name of a {kind.label}: it would not be listed again")
    match = kind.pattern.fullmatch(name)
    read = match.groupdict() if match else {}
    for key, value in fields.items():
        same = (
            bool(read.get(key)) == value if key in kind.flags else normal_text(read.get(key), value) == value
        )
        if not same:
            raise FormatError(
                f"a {kind.label} with {key} {value!r} cannot be stored: its file name {name!r} would read back "
                "as something else; use names without underscores"
            )
    return name


def normal_text(text: str | None, like: Value) -> Value | None:
    """`text` from a file name as a value of the type of `like`."""
    return round(float(text), VOXEL_DECIMALS) if text and isinstance(like, float) else text


_SEPARATOR, _CONTROL = re.compile(r"[/\\]"), re.compile(r"[\x00-\x1f\x7f]")


def check_name(name: str, what: str) -> str:
    """`name` itself if it can be one part of a path.

    Raises:
        FormatError: It is empty, holds separators or control characters, is `.` or `..`, or is too long.
    """
    problem = None
    if not name.strip():
        problem = "is empty"
    elif name in {".", ".."}:
        problem = "would leave its directory"
    elif _SEPARATOR.search(name):
        problem = "holds a path separator"
    elif _CONTROL.search(name):
        problem = "holds control characters"
    else:
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            problem = "is not valid Unicode"
        else:
            if size > MAX_NAME_BYTES:
                problem = f"takes {size} bytes; file systems allow {MAX_NAME_BYTES}"
    if problem:
        raise FormatError(f"{what} {name!r} cannot be used: it {problem}")
    return name


class Ref(NamedTuple):
    """The address of one entity, the same in every layer. A tuple: listings make and compare very many."""

    kind: Kind
    values: tuple[Value, ...]
    parent: Ref | None = None

    @property
    def key(self) -> tuple[Value, ...]:
        """Kinds and key values from the root down."""
        above = self.parent.key if self.parent else ()
        return (*above, self.kind.name, *self.values)

    @property
    def file_name(self) -> str:
        own = self.kind.file_name(self.values)
        prefix = prefix_of(self.kind, self.parent)
        return check_name(f"{prefix}{own}", f"{self.kind.label} file name") if prefix else own

    @property
    def path(self) -> str:
        """Relative path in the directory layout, with `/`. Raises FormatError as `Kind.file_name` does."""
        return "/".join([*folder_of(self.kind, self.parent), self.file_name])

    def walk(self) -> Iterator[Ref]:
        """The ancestors from the root down, and this ref itself."""
        if self.parent:
            yield from self.parent.walk()
        yield self

    def within(self, other: Ref) -> bool:
        """Whether this is `other` or lies below it."""
        return self == other or (self.parent is not None and self.parent.within(other))

    def __str__(self) -> str:
        shown = ("_".join(_shown(value) for value in ref.values if value is not False) for ref in self.walk())
        return f"{self.kind.label} {'/'.join(shown)!r}"


def prefix_of(kind: Kind, parent: Ref | None) -> str:
    """What the file names of a kind begin with under this parent."""
    return f"{parent.file_name.removesuffix('.zarr')}_" if kind.beside and parent else ""


def folder_of(kind: Kind, parent: Ref | None) -> list[str]:
    """The parts of the path where the files of a kind lie under this parent."""
    above = parent.parent if kind.beside and parent else parent
    return [*([above.path] if above else []), *([kind.folder] if kind.folder else [])]


def _shown(value: Value) -> str:
    if value is True:
        return "multilabel"
    return value if isinstance(value, str) else f"{value:.{VOXEL_DECIMALS}f}"


_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"

RUN = Kind(
    name="run",
    meta=CopickRunMeta,
    identity=("name",),
    payload="folder",
    folder="ExperimentRuns",
    template="{name}",
    pattern=re.compile(r"(?P<name>.+)", re.DOTALL),
)
VOXEL_SPACING = Kind(
    name="voxel_spacing",
    meta=CopickVoxelSpacingMeta,
    identity=("voxel_size",),
    payload="folder",
    folder="",
    template="VoxelSpacing{voxel_size:.3f}",
    pattern=re.compile(rf"VoxelSpacing(?P<voxel_size>{_NUMBER})"),
    ignores=re.compile(r"^(?!VoxelSpacing)"),
)
TOMOGRAM = Kind(
    name="tomogram",
    meta=CopickTomogramMeta,
    identity=("tomo_type",),
    payload="array",
    folder="",
    template="{tomo_type}.zarr",
    pattern=re.compile(r"(?P<tomo_type>.+)\.zarr", re.DOTALL),
    ignores=re.compile(r"_features\.zarr$|(?<!\.zarr)$"),
)
FEATURES = Kind(
    name="features",
    meta=CopickFeaturesMeta,
    identity=("feature_type",),
    payload="array",
    folder="",
    template="{feature_type}_features.zarr",
    pattern=re.compile(r"(?P<feature_type>.+)_features\.zarr", re.DOTALL),
    beside=True,
    ignores=re.compile(r"(?<!_features\.zarr)$"),
)


def _annotation(name: str, meta: type[Meta], folder: str, suffix: str) -> Kind:
    """A document about one object by one user in one session."""
    return Kind(
        name=name,
        meta=meta,
        identity=("pickable_object_name", "user_id", "session_id"),
        payload="document",
        folder=folder,
        template="{user_id}_{session_id}_{pickable_object_name}" + suffix,
        pattern=re.compile(
            r"(?P<user_id>[^_]+)_(?P<session_id>[^_]+)_(?P<pickable_object_name>.+)" + re.escape(suffix),
            re.DOTALL,
        ),
        ignores=re.compile(rf"(?<!{re.escape(suffix)})$"),
    )


PICKS = _annotation("picks", CopickPicksFile, "Picks", ".json")
FILAMENTS = _annotation("filaments", CopickFilamentsFile, "Filaments", ".json")
MESH = _annotation("mesh", CopickMeshMeta, "Meshes", ".glb")


def _segmentation(name: str, folder: str, flag: str = "", **fixed: bool) -> Kind:
    """A mask of a run. `flag`: what marks multilabel masks in a file name; empty: nothing does."""
    optional = rf"(?P<is_multilabel>{flag})?" if flag else ""
    return Kind(
        name=name,
        meta=CopickSegmentationMeta,
        identity=("name", "user_id", "session_id", "voxel_size", *(["is_multilabel"] if flag else [])),
        payload="array",
        folder=folder,
        template="{voxel_size:.3f}_{user_id}_{session_id}_{name}"
        + ("{is_multilabel}" if flag else "")
        + ".zarr",
        pattern=re.compile(
            rf"(?P<voxel_size>{_NUMBER})_(?P<user_id>[^_]+)_(?P<session_id>[^_]+)_(?P<name>.+?){optional}\.zarr",
            re.DOTALL,
        ),
        flags={"is_multilabel": flag} if flag else {},
        fixed=fixed,
        ignores=re.compile(r"(?<!\.zarr)$"),
    )


SEGMENTATION = _segmentation(
    "segmentation", "Segmentations", "-multilabel", is_instance=False, is_panoptic=False
)
INSTANCE_SEGMENTATION = _segmentation(
    "instance_segmentation", "InstanceSegmentations", is_multilabel=False, is_instance=True, is_panoptic=False
)
PANOPTIC_SEGMENTATION = _segmentation(
    "panoptic_segmentation", "PanopticSegmentations", is_multilabel=False, is_instance=False, is_panoptic=True
)
OBJECT = Kind(
    name="object",
    meta=CopickObjectMeta,
    identity=("name",),
    payload="array",
    folder="Objects",
    template="{name}.zarr",
    pattern=re.compile(r"(?P<name>.+)\.zarr", re.DOTALL),
    ignores=re.compile(r"(?<!\.zarr)$"),
)

CHILDREN: Mapping[Kind | None, tuple[Kind, ...]] = {
    None: (RUN, OBJECT),
    RUN: (VOXEL_SPACING, PICKS, MESH, FILAMENTS, SEGMENTATION, INSTANCE_SEGMENTATION, PANOPTIC_SEGMENTATION),
    VOXEL_SPACING: (TOMOGRAM,),
    TOMOGRAM: (FEATURES,),
}
"""What may lie under what; None is the root."""

KINDS: tuple[Kind, ...] = tuple(kind for kinds in CHILDREN.values() for kind in kinds)
_BY_NAME = {kind.name: kind for kind in KINDS}


def kind_named(name: str) -> Kind:
    """The kind of that name. Raises KeyError."""
    return _BY_NAME[name]
