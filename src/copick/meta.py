"""What is known about each entity, and the documents that picks are stored as."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from copick.errors import FormatError
from copick.util.escape import check_clean
from copick.util.words import nearest


def _size(size: float) -> float:
    if round(size, 3) <= 0:  # what is compared and stands in names
        raise ValueError(f"a voxel of {size} is too small; sizes have three decimals")
    return size


VoxelSize = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_size)]
"""Edge of a cubic voxel in ångström."""

PORTAL_USER = "data-portal"
"""The user whose annotations are those of the data portal."""

M = TypeVar("M", bound="Meta")


class Meta(BaseModel):
    """Base of what layers list."""

    @classmethod
    def of(cls: type[M], **fields: Any) -> M:
        """From what a caller gave. Raises FormatError (a ValueError), in one line, for what cannot be so."""
        try:
            return cls(**fields)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
            texts = [
                (f"{p['loc'][0]} {p['input']!r:.40}: " if p["loc"] else "") + _lowered(p["msg"])
                for p in problems
            ]
            raise FormatError("; ".join(texts)) from None

    def filled(self: M, other: Meta) -> M:
        """This metadata with what it lacks taken from `other`; what it has is never changed."""
        lacking = {
            name: theirs
            for name in type(self).model_fields
            if getattr(self, name) is None and (theirs := getattr(other, name, None)) is not None
        }
        return self.model_copy(update=lacking) if lacking else self


class FolderMeta(Meta):
    """What the `.meta` file of a run or voxel spacing may say. copick 1.x writes the word "meta" there, and ignores it."""

    description: str | None = None


class CopickRunMeta(FolderMeta):
    name: str
    portal_run_id: int | None = None
    """What the data portal says of it, if it is of there."""
    portal_run_name: str | None = None
    portal_dataset_id: int | None = None


class CopickVoxelSpacingMeta(FolderMeta):
    voxel_size: VoxelSize


class CopickTomogramMeta(Meta):
    tomo_type: str


class CopickFeaturesMeta(Meta):
    tomo_type: str = ""
    """Of the tomogram; known from it."""
    feature_type: str


class CopickMeshMeta(Meta):
    pickable_object_name: str
    user_id: str
    session_id: str


class CopickSegmentationMeta(Meta):
    """At most one of the flags is set; none = binary."""

    user_id: str
    session_id: str
    name: str
    is_multilabel: bool = False
    is_instance: bool = False
    is_panoptic: bool = False
    voxel_size: VoxelSize

    @model_validator(mode="after")
    def _has_one_type(self) -> CopickSegmentationMeta:
        flags = [flag for flag in ("is_multilabel", "is_instance", "is_panoptic") if getattr(self, flag)]
        if len(flags) > 1:
            raise ValueError(f"a segmentation has one type; given are {' and '.join(flags)}")
        return self


class CopickObjectMeta(Meta):
    """An object as layers list it: by its density map."""

    name: str


class FilamentSpec(BaseModel):
    """What is known of a filament-like object: `metadata["copick"]["filament"]` of a `PickableObject`."""

    model_config = ConfigDict(extra="allow")

    polar: bool | None = None
    """Whether its two ends differ."""
    helical_rise_a: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Ångström along the axis from subunit to subunit."""
    helical_twist_deg: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Degrees around the axis from subunit to subunit."""


def _label(label: int | None) -> int | None:
    if label == 0:
        raise ValueError("label 0 is reserved for the background; use 1 or more")
    return label


MAX_OBJECT_NAME_BYTES = 200
"""File names have 255, and that of picks also holds a user and a session."""

Channel = Annotated[int, Field(ge=0, le=255)]


def with_filament(
    metadata: Mapping[str, Any], spec: FilamentSpec | Mapping[str, Any] | None
) -> dict[str, Any]:
    """An object's `metadata` with this filament spec in its place; None = without one."""
    own = dict(metadata.get("copick") or {})
    own.pop("filament", None)
    if spec is not None:
        own["filament"] = (
            spec.model_dump(exclude_unset=True) if isinstance(spec, FilamentSpec) else dict(spec)
        )
    rest = {key: value for key, value in metadata.items() if key != "copick"}
    return {**rest, "copick": own} if own else rest


class PickableObject(Meta):
    """One kind of thing that is looked for in the tomograms of a project."""

    name: Annotated[str, AfterValidator(lambda name: check_clean(name, "object name"))]
    is_particle: bool
    """Found as points (True) or as a region (False)."""
    label: Annotated[int | None, AfterValidator(_label)] = 1
    """Its value in multilabel segmentations."""
    color: tuple[Channel, Channel, Channel, Channel] = (100, 100, 100, 255)
    emdb_id: str | None = None
    pdb_id: str | None = None
    identifier: str | None = None
    """Accession in an ontology or database, for example GO:0022626."""
    map_threshold: float | None = None
    radius: float | None = None
    """In ångström."""
    metadata: Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)] = {}

    @model_validator(mode="before")
    @classmethod
    def _accept_go_id(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "go_id" in data:
            data = dict(data)
            if (go_id := data.pop("go_id")) is not None:  # where both stand, 1.x takes this one
                data["identifier"] = go_id
        return data

    @model_validator(mode="after")
    def _filament_is_usable(self) -> PickableObject:
        if self.is_filament:
            if not self.is_particle:
                raise ValueError(f"object {self.name!r} has a filament spec, so is_particle must be true")
            _ = self.filament
        return self

    @classmethod
    def check_keys(cls, fields: Mapping[str, Any]) -> None:
        """Raises ValueError for a key that no object has. copick 1.x ignores such."""
        known = [*cls.model_fields, "go_id"]
        for key in fields:
            if key not in known:
                raise ValueError(
                    f"object {fields.get('name')!r}: unknown key {key!r}{nearest(str(key), known)}; "
                    "what else there is to say of it goes into its metadata"
                )

    def problem(self) -> str | None:
        """What cannot be so of its values, although copick 1.x takes them."""
        what, radius, threshold = f"object {self.name!r:.60}", self.radius, self.map_threshold
        if self.name in {".", ".."} or len(self.name.encode()) > MAX_OBJECT_NAME_BYTES:
            return f"{what}: no file can be called so; expected at most {MAX_OBJECT_NAME_BYTES} bytes, and not . or .."
        if self.label is not None and self.label < 0:
            return f"{what}: label {self.label}: expected 1 or more"
        if radius is not None and not 0 <= radius < math.inf:
            return f"{what}: radius {radius}: expected a length in ångström, 0 or more"
        if threshold is not None and not math.isfinite(threshold):
            return f"{what}: map_threshold {threshold}: expected a finite number"
        return None

    @property
    def is_filament(self) -> bool:
        """Whether its metadata hold a filament spec."""
        return self._filament_fields() is not None

    @property
    def filament(self) -> FilamentSpec | None:
        """The filament spec in its metadata."""
        fields = self._filament_fields()
        return None if fields is None else FilamentSpec.model_validate(fields)

    def set_filament(self, filament: FilamentSpec | Mapping[str, Any] | None) -> None:
        """Replace the filament spec; None removes it.

        Raises:
            ValueError: It cannot be so, or the object is no particle; nothing is changed then.
        """
        changed = with_filament(self.metadata, filament)
        type(self).of(**{**self.model_dump(), "metadata": changed})  # checks it all before anything changes
        self.metadata = changed

    def _filament_fields(self) -> Any:
        own = self.metadata.get("copick")
        return own.get("filament") if isinstance(own, Mapping) else None

    @property
    def go_id(self) -> str | None:
        """The older name of `identifier`."""
        return self.identifier

    @go_id.setter
    def go_id(self, value: str | None) -> None:
        self.identifier = value


def wrong_objects(objects: Iterable[PickableObject]) -> str | None:
    """What is wrong with the objects of a project: one that cannot be so, or two that share a name or a label."""
    listed = [*objects]
    for item in listed:
        if problem := item.problem():
            return problem
    for field in ("name", "label"):
        seen: dict[Any, int] = {}
        for at, item in enumerate(listed):
            value = getattr(item, field)
            if value is not None and (first := seen.setdefault(value, at)) != at:
                who = f"{first} and {at}" if field == "name" else f"{listed[first].name!r} and {item.name!r}"
                return f"{who} both have the {field} {value!r}; each needs a {field} of its own"
    return None


class CopickLocation(BaseModel):
    """A position in ångström from the corner of the volume."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # null could not be read again

    x: float
    y: float
    z: float


IDENTITY = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


def _rows(matrix: Any) -> Any:
    return matrix.tolist() if isinstance(matrix, np.ndarray) else matrix


def _affine(matrix: list[list[float]]) -> list[list[float]]:
    if len(matrix) != 4 or any(len(row) != 4 for row in matrix):
        raise ValueError("a transformation is a 4x4 matrix")
    if matrix[3] != IDENTITY[3]:
        raise ValueError(f"the last row of a transformation is [0, 0, 0, 1], not {matrix[3]}")
    return matrix


class CopickPoint(BaseModel):
    """One pick: where it is, and how the object is turned and shifted there.

    The object's own position is `location` plus the translation of `transformation`, both in ångström, x, y, z.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants", validate_assignment=True)

    location: CopickLocation
    transformation_: Annotated[list[list[float]], BeforeValidator(_rows), AfterValidator(_affine)] = Field(
        default_factory=lambda: [list(row) for row in IDENTITY]
    )
    instance_id: int = 0
    score: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _accept_transformation(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "transformation" in data:
            data = dict(data)
            data.setdefault("transformation_", data.pop("transformation"))
        return data

    @property
    def transformation(self) -> npt.NDArray[np.float64]:
        """Object frame → tomogram frame, (4, 4)."""
        return np.array(self.transformation_, dtype=np.float64)

    @transformation.setter
    def transformation(self, value: npt.ArrayLike) -> None:
        self.transformation_ = np.asarray(value, dtype=np.float64).tolist()


class CopickPicksFile(Meta):
    """The document of a set of picks: one object in one run, by one user in one session."""

    # Keys this version does not know belong to someone: they survive a rewrite.
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants")

    pickable_object_name: str
    user_id: str
    session_id: str
    run_name: str | None = None
    voxel_spacing: float | None = None
    unit: str = "angstrom"
    points: list[CopickPoint] = Field(default_factory=list)
    trust_orientation: bool = True

    def to_json(self, where: object = "the document to store") -> bytes:
        """The document; `where`, as text, names it in errors. Raises FormatError if it could not be read again."""
        return checked_json(self, where)

    @classmethod
    def from_json(cls, document: bytes, where: object) -> CopickPicksFile:
        """Read a document; `where`, as text, names it in errors. Raises FormatError."""
        try:
            return cls.model_validate_json(document)
        except ValidationError as error:
            raise FormatError(f"{where} is not a picks document: {describe(error)}") from error


def checked_json(file: Any, where: object) -> bytes:
    """What a document is stored as, after it was read again: changes in place are not checked when they are made.

    Args:
        file: A `Meta` with `from_json`.
        where: As text, names it in errors.

    Raises:
        FormatError: It could not be read.
    """
    try:
        document: bytes = file.model_dump_json(indent=4, warnings=False).encode()
    except PydanticSerializationError as error:
        raise FormatError(f"{where} cannot be written: {error}") from error
    file.from_json(document, where)
    return document


def check_finite(document: bytes, where: object) -> None:
    """Refuse a document with numbers that JSON does not have. copick 1.x writes them, and other programs cannot read that.

    Raises:
        FormatError: It has one; the text says where.
    """
    if b"NaN" not in document and b"Infinity" not in document:
        return
    for path, value in _numbers(json.loads(document)):
        if not math.isfinite(value):
            raise FormatError(f"{where}: {path} is {value}; it must be a finite number")


def _numbers(part: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(part, float):
        yield path, part
    elif isinstance(part, dict | list):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from _numbers(value, f"{path}.{key}" if path else str(key))


def _lowered(message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should be", "expected")
    return message[:1].lower() + message[1:]


def describe(error: ValidationError, limit: int = 3) -> str:
    """What is wrong, in one line: field and reason, for the first few problems."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(map(str, p['loc'])) or 'document'}: {p['msg']}" for p in problems[:limit]]
    more = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
    return "; ".join(lines + more)
