"""What people and tools add to a run: points, and what all annotations share."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from copick.errors import ConfigError, CopickError, FormatError, NotFoundError
from copick.kinds import PICKS
from copick.meta import PORTAL_USER, CopickLocation, CopickPicksFile, CopickPoint, check_finite, describe
from copick.models.entity import Entity
from copick.util.lazy import lazy

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from copick.models.run import CopickRun

logger = logging.getLogger(__name__)

ANGSTROM = ("angstrom", "ångström", "å")
"""How documents spell the unit that positions have."""

TOOL_SESSION = "0"
"""The session id that marks what a tool made."""


class Annotation(Entity):
    """Something that a user or a tool made in a session."""

    @property
    def run(self) -> CopickRun:
        """The run it belongs to."""
        run: CopickRun = self.parent  # type: ignore[assignment]
        return run

    @property
    def user_id(self) -> str:
        """Who made it: a person or a tool."""
        return str(self._key("user_id"))

    @property
    def session_id(self) -> str:
        """In which session; "0" = by a tool."""
        return str(self._key("session_id"))

    @property
    def from_tool(self) -> bool:
        """Whether a tool made it: session "0"; or it is of the data portal."""
        return self.session_id == TOOL_SESSION or self.user_id == PORTAL_USER

    @property
    def from_user(self) -> bool:
        """Whether a person made it: any other session."""
        return not self.from_tool


class ObjectAnnotation(Annotation):
    """An annotation of one object, kept as one document."""

    @property
    def pickable_object_name(self) -> str:
        """Name of the object."""
        return str(self._key("pickable_object_name"))

    @property
    def color(self) -> tuple[int, int, int, int]:
        """Of the object. Raises ConfigError (a ValueError) if the project has no such object."""
        found = self.run.root.get_object(self.pickable_object_name)
        if found is None:
            raise ConfigError(
                f"{self.ref}: the project has no object {self.pickable_object_name!r}; "
                "add it to pickable_objects"
            )
        return found.color

    def _where(self) -> Where:
        return Where(self)


class Where:
    """As text: what an entity is, and which layer serves it. Asking all layers for that is left until the text is needed."""

    def __init__(self, entity: Entity) -> None:
        self._entity = entity

    def __str__(self) -> str:
        try:
            held = self._entity.sources
        except CopickError:
            held = []
        return f"{self._entity.ref} in layer {held[0]!r}" if held else str(self._entity.ref)


class Document(ObjectAnnotation):
    """An annotation whose metadata is the JSON document itself: read on first need, written by `store()`.

    Its object, user and session are those of the file name, wherever the document says otherwise: `meta` shows what the
    document says, but it is found, stored and deleted by the file name.
    """

    content: ClassVar[str]
    """The field of the document that is more than a description."""

    def __init__(self, run: CopickRun, file: Any) -> None:
        super().__init__(run, file)
        self._said = self._says()
        if self.content in file.model_fields_set:
            self._loaded = True  # by a caller: layers list names
        else:
            self._known_before = frozenset(file.model_fields_set)

    _loaded = False
    _unit = ANGSTROM[0]
    """What the document said it was, so that it is told once."""

    @lazy
    def _known_before(self) -> frozenset[str]:
        """What was known before the document was read; anything more was set by a caller."""
        return frozenset(self.kind.identity)

    @lazy
    def _said(self) -> list[Any]:
        """Whose and what the document said it was."""
        return [*self.ref.values]

    def _take(self, meta: Any) -> None:
        super()._take(meta)
        if meta is not None:
            self._said, self._known_before = self._says(), frozenset(meta.model_fields_set)

    def _meta_for_twin(self) -> Any:
        return self.kind.meta_of(self.ref.values) if self._loaded else self.meta.model_copy()

    def _says(self) -> list[Any]:
        """Whose and what the metadata say they are."""
        return [getattr(self.meta, field) for field in self.kind.identity]

    def load(self) -> Any:
        """Read the document again, dropping changes in memory.

        Raises:
            GoneError: No layer holds it. (A KeyError and a FileNotFoundError.)
            FormatError: It is no such document.
        """
        self.meta = type(self.meta).from_json(self._document(), self._where())
        self._loaded = True
        said, self._said = self._said, self._says()
        if self._said != said and self._said != [*self.ref.values]:
            logger.warning("%s: the document says %s; its file name counts", self._where(), self._said)
        unit, self._unit = self._unit, self.meta.unit
        if self._unit != unit and self._unit.lower() not in ANGSTROM:
            logger.warning(
                "%s (%s): the document says that its unit is %r; positions are taken for ångström as they are",
                self._where(),
                self.ref.path,
                self._unit,
            )
        return self.meta

    def _ensure_loaded(self) -> None:
        if not self._loaded:
            self._check_name()
            before = self.meta
            after = self.load()
            for field in before.model_fields_set - self._known_before:
                setattr(after, field, getattr(before, field))

    def _set(self, field: str, value: Any) -> None:
        """Replace a field that is the content; what else the document says is kept."""
        with contextlib.suppress(NotFoundError, ValueError):  # nothing to keep, or nothing that can be read
            self._ensure_loaded()
        setattr(self.meta, field, value)
        self._loaded = True

    def store(self) -> None:
        """Write the document, in one step.

        Raises:
            ReadOnlyError: No layer can be written.
            FormatError: The user, session or object in `meta` was changed: that would be another document. Or it could not be read
                again: something in it is no number, or not finite. What was stored before stays.
        """
        if not self._loaded and self.layer.exists(self.ref):
            self._ensure_loaded()
        self._create()
        self._changed()

    def _create(self) -> None:
        self._check_name()
        where = f"{self.ref} as it is to be stored"
        document = self.meta.to_json(where)
        check_finite(document, where)
        self._loaded = True
        self.layer.save(self.ref, document)

    def _check_name(self) -> None:
        if self._says() != self._said:
            raise FormatError(
                f"{self.ref} cannot become {self._says()}: user, session and object of a document stay; make a new one"
            )

    def refresh(self) -> None:
        """Read the document again, dropping changes in memory."""
        super().refresh()
        self.load()


class CopickPicks(Document):
    """Points of one object in one run."""

    kinds = (PICKS,)
    factory = "_picks_factory"
    content = "points"
    meta: CopickPicksFile

    @property
    def trust_orientation(self) -> bool:
        """Whether the rotations of the points mean something."""
        if "trust_orientation" not in self.meta.model_fields_set:
            self._ensure_loaded()
        return self.meta.trust_orientation

    @property
    def points(self) -> list[CopickPoint]:
        """Loaded on first access. Changes are kept in memory until `store()`. Set to what are no points: FormatError."""
        self._ensure_loaded()
        return self.meta.points

    @points.setter
    def points(self, points: list[CopickPoint]) -> None:
        if not isinstance(points, list) or not all(isinstance(point, CopickPoint) for point in points):
            try:
                points = TypeAdapter(list[CopickPoint]).validate_python(points)
            except ValidationError as error:
                raise FormatError(f"{self.ref}: points: {describe(error)}") from None
        self._set("points", points)

    def numpy(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Locations (N, 3) in ångström, x, y, z, and transformations (N, 4, 4)."""
        points = self.points
        locations = np.array([(p.location.x, p.location.y, p.location.z) for p in points], dtype=np.float64)
        transforms = np.array([p.transformation_ for p in points], dtype=np.float64)
        return locations.reshape(-1, 3), transforms.reshape(-1, 4, 4)

    def full_positions(self) -> npt.NDArray[np.float64]:
        """Where the objects are, (N, 3): location plus the transformation's translation."""
        locations, transforms = self.numpy()
        moved: npt.NDArray[np.float64] = locations + transforms[:, :3, 3]
        return moved

    def instance_ids(self) -> npt.NDArray[np.int64]:
        """(N,): which instance each point belongs to."""
        return np.array([p.instance_id for p in self.points], dtype=np.int64)

    def scores(self) -> npt.NDArray[np.float64]:
        """(N,): how sure each point is."""
        return np.array([p.score for p in self.points], dtype=np.float64)

    def from_numpy(
        self,
        positions: npt.ArrayLike,
        transforms: npt.ArrayLike | None = None,
        instance_ids: npt.ArrayLike | None = None,
        scores: npt.ArrayLike | None = None,
    ) -> None:
        """Replace the points and store them.

        Args:
            positions: (N, 3) in ångström, x, y, z.
            transforms: (N, 4, 4), last row (0, 0, 0, 1).
            instance_ids: (N,) whole numbers, 0 or more.
            scores: (N,) finite.

        Raises:
            ValueError: An array does not fit; nothing is changed then.
        """
        self.points = points_from(positions, transforms, instance_ids, scores)
        self.store()

    def df(self, format: str = "relion", **options: Any) -> pd.DataFrame:
        """The points as a pandas table, one row each.

        Args:
            format: What the columns are.

                - "relion": `rlnTomoName`; `rlnCenteredCoordinateXAngst`, ... (ångström from the tomogram's centre, if the run
                  has a tomogram or `tomogram_center=` is given) and `rlnCoordinateX`, ... (pixels, with
                  `tilt_series_pixel_size=`), both with the transformations' translations; `rlnAngleRot`, `rlnAngleTilt`,
                  `rlnAnglePsi` in degrees; for filaments RELION's columns for these. No scores.
                - "copick": `x`, `y`, `z` (the location, ångström), `transform_00` ... `transform_33`, `instance_id`,
                  `score`. Nothing is lost.
            options: Of "relion": see `copick.models.tables.picks_to_relion`.

        Raises:
            ValueError: There is no such format, or RELION's positions cannot be stated: no centre and no pixel size.
        """
        from copick.models.tables import picks_to_frame

        return picks_to_frame(self, format, **options)

    def from_df(self, df: pd.DataFrame, format: str = "relion", **options: Any) -> None:
        """Replace the points by the rows of a table with the columns that `df` gives, and store them.

        Args:
            format: "copick" needs only `x`, `y`, `z`. "relion" needs centred coordinates and the tomogram's centre, or
                coordinates in pixels and `tilt_series_pixel_size=` or `optics=`; the location gets it all, so the
                transformations are mere rotations.
            options: Of "relion": see `copick.models.tables.picks_from_relion`.

        Raises:
            ValueError: There is no such format, or the table cannot be understood. Nothing is changed then.
        """
        from copick.models.tables import picks_from_frame

        picks_from_frame(self, df, format, **options)


def points_from(positions: Any, transforms: Any, instance_ids: Any, scores: Any) -> list[CopickPoint]:
    """Points from arrays. Raises ValueError."""
    where = _column("positions", positions, np.float64, (3,)) if np.size(positions) else np.empty((0, 3))
    n = len(where)
    turned = (
        np.tile(np.eye(4), (n, 1, 1))
        if transforms is None
        else _column("transforms", transforms, np.float64, (4, 4), n)
    )
    if not np.array_equal(turned[:, 3], np.tile([0.0, 0.0, 0.0, 1.0], (n, 1))):
        raise ValueError("transforms: the last row of each must be [0, 0, 0, 1]")
    ids = (
        np.zeros(n, np.int64)
        if instance_ids is None
        else _column("instance_ids", instance_ids, np.int64, (), n)
    )
    if (ids < 0).any():
        raise ValueError(f"instance_ids must be 0 or more; found {ids[ids < 0][0]}")
    score = np.ones(n) if scores is None else _column("scores", scores, np.float64, (), n)
    rows = zip(where.tolist(), turned.tolist(), ids.tolist(), score.tolist(), strict=True)
    return [
        CopickPoint(location=CopickLocation(x=x, y=y, z=z), transformation_=matrix, instance_id=i, score=s)
        for (x, y, z), matrix, i, s in rows
    ]


def _column(
    name: str, values: Any, dtype: Any, item: tuple[int, ...], n: int | None = None
) -> npt.NDArray[Any]:
    """`values` as an (n, *item) array of finite numbers."""
    given = np.asarray(values)
    if given.size == 0:
        given = given.reshape(0, *item)
    if given.ndim != 1 + len(item) or given.shape[1:] != item:
        raise ValueError(f"{name} must be (N{''.join(f', {m}' for m in item)}), not {given.shape}")
    if n is not None and len(given) != n:
        raise ValueError(f"{name} has {len(given)} rows for {n} positions")
    if given.dtype.kind not in "biuf" or not np.isfinite(given).all():
        raise ValueError(f"{name} must be finite numbers")
    result = given.astype(dtype)
    if result.dtype.kind == "i" and not np.array_equal(result, given):
        raise ValueError(f"{name} must be whole numbers")
    return result
