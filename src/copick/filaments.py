"""The documents that filaments are stored as: polylines, and the curves they were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from copick.errors import FormatError
from copick.meta import Meta, checked_json, describe
from copick.util import filaments as curves

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Points = npt.NDArray[np.float64]
Position = tuple[float, float, float]


def _listed(points: Any) -> Any:
    return points.tolist() if isinstance(points, np.ndarray) else points


Positions = Annotated[list[Position], BeforeValidator(_listed)]


class CopickFilamentCurve(BaseModel):
    """How the points of a filament were made: a curve by a few control points.

    Curves of kinds that are not known are kept, but cannot be evaluated.
    """

    # Keys this version does not know belong to someone: they survive a rewrite.
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants")

    kind: Annotated[str, Field(min_length=1)]
    control_points: Positions
    """(N, 3), x, y, z in ångström."""
    step: Annotated[float, Field(gt=0)]
    """Largest distance between two points of the filament, along the curve, in ångström."""
    alpha: float | None = None
    """Catmull-Rom: 0 uniform, 0.5 centripetal (also for None), 1 chordal."""
    degree: int | None = None
    """B-spline: 1 to 5."""
    knots: Annotated[list[float] | None, BeforeValidator(_listed)] = None
    """B-spline: clamped, N + degree + 1."""
    smoothing: Annotated[float | None, Field(ge=0)] = None
    """B-spline: with which it was fitted to data; only to be told."""

    @model_validator(mode="after")
    def _check(self) -> CopickFilamentCurve:
        if self.is_known:
            curves.check_curve(self.kind, self.control_points, self.step, self.alpha, self.degree, self.knots)
        return self

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        optional = {"alpha", "degree", "knots", "smoothing"}
        return {key: v for key, v in serialize(self).items() if v is not None or key not in optional}

    @classmethod
    def from_tck(
        cls,
        tck: tuple[npt.ArrayLike, Sequence[npt.ArrayLike], int],
        step: float,
        smoothing: float | None = None,
        scale: float = 1.0,
    ) -> CopickFilamentCurve:
        """From what `scipy.interpolate.splprep` returns.

        Args:
            tck: Knots, coefficients of x, y and z (three arrays), degree.
            step: In ångström.
            smoothing: The `s` it was fitted with.
            scale: Ångström per unit of the coefficients, for example the voxel size.

        Raises:
            ValueError: There are not three coefficient arrays, or they make no clamped B-spline.
        """
        knots, coefficients, degree = tck
        if len(coefficients) != 3:
            raise ValueError(f"a tck needs coefficients for x, y and z, not {len(coefficients)} arrays")
        t = np.asarray(knots, dtype=np.float64)
        # Some routines pad the coefficients to the number of knots.
        xyz = [np.asarray(axis, dtype=np.float64)[: len(t) - degree - 1] for axis in coefficients]
        return cls(
            kind="bspline",
            control_points=(scale * np.column_stack(xyz)).tolist(),
            step=step,
            degree=degree,
            knots=t.tolist(),
            smoothing=smoothing,
        )

    @property
    def is_known(self) -> bool:
        """Whether it can be evaluated."""
        return self.kind in curves.CURVE_KINDS

    @property
    def passes_through_control_points(self) -> bool:
        """Whether its control points lie on it."""
        return self.kind in ("catmull-rom", "linear")

    def evaluate(self) -> Points:
        """Its polyline, (K, 3). Raises ValueError for a kind that is not known."""
        return curves.evaluate_curve(
            self.control_points, self.step, self.kind, self.alpha, self.degree, self.knots
        )

    def anchors(self) -> Points:
        """(M, 3): places that its polyline certainly passes."""
        return curves.curve_anchors(self.control_points, self.kind, self.degree, self.knots)

    def is_current_for(self, points: npt.ArrayLike) -> bool:
        """Whether these points (K, 3) still are its polyline; never for a kind that is not known."""
        return curves.curve_is_current(
            points, self.control_points, self.step, self.kind, self.degree, self.knots
        )

    def reversed(self) -> CopickFilamentCurve:
        """The same curve from its end to its start."""
        update: dict[str, Any] = {"control_points": self.control_points[::-1]}
        if self.knots is not None:
            update["knots"] = curves.reverse_knots(self.knots).tolist()
        return self.model_copy(update=update, deep=True)


class CopickFilament(BaseModel):
    """One filament: a polyline, and what is known about it."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants", validate_assignment=True)

    instance_id: Annotated[int, Field(ge=1)]
    points: Positions
    """(K, 3), K ≥ 2, x, y, z in ångström, in order."""
    polarity_known: bool = False
    """Whether the order of the points is the filament's own direction."""
    score: float = 1.0
    radius: Annotated[float | None, Field(gt=0)] = None
    """In ångström."""
    metadata: Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)] = {}
    curve: CopickFilamentCurve | None = None

    @field_validator("points")
    @classmethod
    def _line(cls, points: list[Position]) -> list[Position]:
        if len(points) < 2:
            raise ValueError(f"a filament needs 2 points or more, not {len(points)}")
        curves.as_points(points)
        return points

    @classmethod
    def from_curve(cls, instance_id: int, curve: CopickFilamentCurve, **fields: Any) -> CopickFilament:
        """With the points of a curve. Raises ValueError if it cannot be evaluated."""
        return cls(instance_id=instance_id, points=curve.evaluate().tolist(), curve=curve, **fields)

    @classmethod
    def from_control_points(
        cls,
        instance_id: int,
        control_points: npt.ArrayLike,
        step: float,
        kind: str = "catmull-rom",
        alpha: float = 0.5,
        **fields: Any,
    ) -> CopickFilament:
        """With the points of a curve that passes through control points.

        Args:
            instance_id: 1 or more.
            control_points: (N, 3), x, y, z in ångström.
            step: Largest distance between two points, along the curve, in ångström.
            kind: "catmull-rom" or "linear".
            alpha: Catmull-Rom: 0 uniform, 0.5 centripetal, 1 chordal.
            fields: Of the filament, for example `radius`.

        Raises:
            ValueError: These make no curve.
        """
        curve = _through(control_points, step, kind, alpha)
        return cls.from_curve(instance_id, curve, **fields)

    def curve_is_current(self) -> bool:
        """Whether it has a curve that still makes its points."""
        return self.curve is not None and self.curve.is_current_for(self.points)

    def with_control_points(self, control_points: npt.ArrayLike, step: float | None = None) -> CopickFilament:
        """A copy that follows other control points.

        Its curve keeps its kind and step if it is current; else the new one is a Catmull-Rom curve with steps of
        the median spacing of the points.

        Raises:
            ValueError: These make no curve, or a B-spline would change their number.
        """
        points = curves.as_points(control_points, "control points").tolist()
        old = self.curve if self.curve_is_current() else None
        if old is None:
            curve = _through(points, self._step() if step is None else step)
        elif old.kind == "bspline" and len(points) != len(old.control_points):
            raise ValueError(
                f"a bspline keeps its {len(old.control_points)} control points; to have {len(points)}, "
                "start from editable_curve(kinds=('catmull-rom',))"
            )
        else:
            changed = {"control_points": points, "step": old.step if step is None else step}
            curve = CopickFilamentCurve.model_validate({**old.model_dump(), **changed})
        return self.model_copy(update={"points": _positions(curve.evaluate()), "curve": curve}, deep=True)

    def editable_curve(
        self,
        tolerance: float | None = None,
        step: float | None = None,
        kinds: Iterable[str] = curves.CURVE_KINDS,
    ) -> CopickFilamentCurve:
        """Its curve if that is current and of one of `kinds`, else a new Catmull-Rom curve along its points.

        Args:
            tolerance: How far the new curve may be from the points, in ångström; half the step by default.
            step: Of the new curve, in ångström; the median spacing of the points by default.
            kinds: Kinds that the caller can edit.

        Raises:
            ValueError: The points do not make a curve, or the tolerance or step is not positive.
        """
        if self.curve is not None and self.curve.kind in tuple(kinds) and self.curve_is_current():
            return self.curve
        step = self._step() if step is None else step
        within = step / 2 if tolerance is None else tolerance
        return _through(curves.control_points_from_polyline(self.points, within), step)

    def editable_control_points(
        self,
        tolerance: float | None = None,
        step: float | None = None,
        kinds: Iterable[str] = curves.CURVE_KINDS,
    ) -> Points:
        """(N, 3): the control points of `editable_curve`."""
        return curves.as_points(self.editable_curve(tolerance, step, kinds).control_points)

    def reversed(self) -> CopickFilament:
        """A copy that runs from its end to its start."""
        curve = self.curve.reversed() if self.curve is not None else None
        return self.model_copy(update={"points": self.points[::-1], "curve": curve}, deep=True)

    def _step(self) -> float:
        step = curves.median_spacing(self.points)
        if step <= curves.COINCIDENT:
            raise ValueError("most points of the filament are in one place, which gives no step; pass step")
        return step


def _positions(points: Points) -> list[Position]:
    return [(x, y, z) for x, y, z in points.tolist()]


def _through(
    control_points: npt.ArrayLike, step: float, kind: str = "catmull-rom", alpha: float = 0.5
) -> CopickFilamentCurve:
    if kind not in ("catmull-rom", "linear"):
        raise ValueError(f"a {kind} curve is not made from control points alone; use from_curve")
    points = _positions(curves.as_points(control_points, "control points"))
    shape = {"alpha": alpha} if kind == "catmull-rom" else {}
    return CopickFilamentCurve(kind=kind, control_points=points, step=step, **shape)


class CopickFilamentsFile(Meta):
    """The document of a set of filaments: one object in one run, by one user in one session."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants", validate_assignment=True)

    pickable_object_name: str
    user_id: str
    session_id: str
    run_name: str | None = None
    voxel_spacing: float | None = None
    unit: str = "angstrom"
    version: int = 1
    filaments: list[CopickFilament] = Field(default_factory=list)

    @field_validator("filaments")
    @classmethod
    def _one_of_each(cls, filaments: list[CopickFilament]) -> list[CopickFilament]:
        seen: set[int] = set()
        for filament in filaments:
            if filament.instance_id in seen:
                raise ValueError(
                    f"instance id {filament.instance_id} stands twice; each filament has its own"
                )
            seen.add(filament.instance_id)
        return filaments

    def to_json(self, where: object = "the document to store") -> bytes:
        """The document; `where`, as text, names it in errors. Raises FormatError if it could not be read again."""
        return checked_json(self, where)

    @classmethod
    def from_json(cls, document: bytes, where: object) -> CopickFilamentsFile:
        """Read a document; `where`, as text, names it in errors. Raises FormatError."""
        try:
            return cls.model_validate_json(document)
        except ValidationError as error:
            raise FormatError(f"{where} is not a filaments document: {describe(error)}") from error
