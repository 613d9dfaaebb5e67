"""Filaments of one object in one run."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from copick.errors import FormatError, NotFoundError
from copick.filaments import CopickFilament
from copick.kinds import FILAMENTS
from copick.meta import describe
from copick.models.annotations import Document
from copick.util.filaments import CURVE_KINDS, as_points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from copick.filaments import CopickFilamentCurve, CopickFilamentsFile

    Points = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

COLUMNS = {
    "instance_ids": "instance_id",
    "polarity_known": "polarity_known",
    "scores": "score",
    "radii": "radius",
    "metadata": "metadata",
}
"""What callers give for all filaments at once, and the field of each filament it goes to."""


class CopickFilaments(Document):
    """Filaments of one object in one run: polylines, x, y, z in ångström, and the curves that made them."""

    kinds = (FILAMENTS,)
    factory = "_filaments_factory"
    content = "filaments"
    meta: CopickFilamentsFile

    @property
    def voxel_spacing(self) -> float | None:
        """Of the tomogram that they were traced in, in ångström, if that is known."""
        self._ensure_loaded()
        return self.meta.voxel_spacing

    @property
    def filaments(self) -> list[CopickFilament]:
        """Loaded on first access. Changes are kept in memory until `store()`."""
        self._ensure_loaded()
        return self.meta.filaments

    @filaments.setter
    def filaments(self, filaments: list[CopickFilament]) -> None:
        self._set("filaments", filaments)

    def get(self, instance_id: int) -> CopickFilament | None:
        """The filament with this instance id, if there is one."""
        return next((each for each in self.filaments if each.instance_id == instance_id), None)

    def instance_ids(self) -> npt.NDArray[np.int64]:
        """(N,): of each filament."""
        return np.array([each.instance_id for each in self.filaments], dtype=np.int64)

    def numpy(self) -> list[Points]:
        """The polyline of each filament, (K, 3), x, y, z in ångström."""
        return [as_points(each.points) for each in self.filaments]

    def control_points(self) -> list[Points | None]:
        """The control points of each filament's curve, (M, 3); None without a curve that makes its points."""
        return [
            as_points(each.curve.control_points) if each.curve and each.curve_is_current() else None
            for each in self.filaments
        ]

    def editable_curve(
        self, instance_id: int, tolerance: float | None = None, kinds: Iterable[str] = CURVE_KINDS
    ) -> CopickFilamentCurve:
        """A curve to edit a filament by; see `CopickFilament.editable_curve`.

        Raises:
            NotFoundError: There is no such filament. (A KeyError.)
            ValueError: Its points make no curve.
        """
        found = self.get(instance_id)
        if found is None:
            known = ", ".join(map(str, self.instance_ids()[:10])) or "none"
            raise NotFoundError(f"{self.ref} has no filament {instance_id}; its first ids: {known}")
        return found.editable_curve(tolerance, kinds=kinds)

    def from_numpy(
        self,
        polylines: Sequence[npt.ArrayLike],
        instance_ids: Sequence[int] | None = None,
        polarity_known: Sequence[bool] | None = None,
        scores: Sequence[float] | None = None,
        radii: Sequence[float | None] | None = None,
        voxel_spacing: float | None = None,
        metadata: Sequence[dict[str, Any] | None] | None = None,
    ) -> None:
        """Replace the filaments and store them.

        Args:
            polylines: Each (K, 3), K ≥ 2, x, y, z in ångström, in order.
            instance_ids: 1 or more, each once; 1, 2, 3 ... by default.
            polarity_known: Whether the order of the points is the filament's own direction.
            scores: Finite.
            radii: In ångström.
            voxel_spacing: Of the tomogram that they were traced in; as it was by default.
            metadata: Anything that can be written as JSON.

        Raises:
            ValueError: Something does not fit; nothing is changed then.
        """
        columns = (instance_ids, polarity_known, scores, radii, metadata)
        lines = [as_points(line, f"polylines[{i}]").tolist() for i, line in enumerate(polylines)]
        self._replace(CopickFilament, "points", lines, columns, voxel_spacing)

    def from_curves(
        self,
        curves: Sequence[CopickFilamentCurve],
        instance_ids: Sequence[int] | None = None,
        polarity_known: Sequence[bool] | None = None,
        scores: Sequence[float] | None = None,
        radii: Sequence[float | None] | None = None,
        voxel_spacing: float | None = None,
        metadata: Sequence[dict[str, Any] | None] | None = None,
    ) -> None:
        """Replace the filaments by the polylines of curves, and store them with these. See `from_numpy`."""
        columns = (instance_ids, polarity_known, scores, radii, metadata)
        self._replace(CopickFilament.from_curve, "curve", curves, columns, voxel_spacing)

    def from_control_points(
        self,
        control_points: Sequence[npt.ArrayLike],
        instance_ids: Sequence[int] | None = None,
        step: float | None = None,
        kind: str = "catmull-rom",
        alpha: float = 0.5,
        polarity_known: Sequence[bool] | None = None,
        scores: Sequence[float] | None = None,
        radii: Sequence[float | None] | None = None,
        voxel_spacing: float | None = None,
        metadata: Sequence[dict[str, Any] | None] | None = None,
    ) -> None:
        """Replace the filaments by curves through control points, and store them. See `from_numpy`.

        Args:
            control_points: For each filament (M, 3), x, y, z in ångström.
            step: Largest distance between two points, along the curve, in ångström; the voxel spacing by default.
            kind: "catmull-rom" or "linear".
            alpha: Catmull-Rom: 0 uniform, 0.5 centripetal, 1 chordal.

        Raises:
            ValueError: Something does not fit, or neither step nor voxel spacing is known; nothing is changed then.
        """
        if step is None:
            step = self.voxel_spacing if voxel_spacing is None else voxel_spacing
        if step is None:
            raise ValueError(f"{self.ref}: how far apart shall the points be? Pass step or voxel_spacing")
        make = partial(CopickFilament.from_control_points, step=step, kind=kind, alpha=alpha)
        columns = (instance_ids, polarity_known, scores, radii, metadata)
        self._replace(make, "control_points", control_points, columns, voxel_spacing)

    def _replace(
        self,
        make: Callable[..., CopickFilament],
        name: str,
        sources: Iterable[Any],
        columns: tuple[Sequence[Any] | None, ...],
        voxel_spacing: float | None,
    ) -> None:
        """Filaments made of `sources`, named so, and of `columns` in the order of COLUMNS take the place of these."""
        made = []
        for i, fields in enumerate(_rows(name, list(sources), columns)):
            try:
                made.append(make(**fields))
            except ValueError as error:
                text = describe(error) if isinstance(error, ValidationError) else str(error)
                raise FormatError(f"{self.ref}: filament at index {i}: {text}") from None
        self.filaments = made
        if voxel_spacing is not None:
            self.meta.voxel_spacing = float(voxel_spacing)
        self.store()

    def _create(self) -> None:
        stale = [
            each
            for each in self.meta.filaments
            if each.curve and each.curve.is_known and not each.curve_is_current()
        ]
        for filament in stale:
            filament.curve = None
        if stale:
            ids = ", ".join(str(filament.instance_id) for filament in stale)
            logger.warning(
                "%s: the curves of filaments %s are dropped; their points were changed since", self.ref, ids
            )
        super()._create()

    def store(self) -> None:
        """Write the document, in one step, without curves that do not make the points of their filaments.

        Raises:
            ReadOnlyError: No layer can be written.
            FormatError: It could not be read again, for example by an instance id that stands twice.
        """
        super().store()


def _rows(
    name: str, sources: list[Any], columns: tuple[Sequence[Any] | None, ...]
) -> Iterator[dict[str, Any]]:
    """The fields of each filament. Raises ValueError."""
    n = len(sources)
    given: dict[str, Sequence[Any]] = {name: sources, "instance_ids": range(1, n + 1)}
    given |= {column: values for column, values in zip(COLUMNS, columns, strict=True) if values is not None}
    for column, values in given.items():
        if len(values) != n:
            raise ValueError(f"{column} has {len(values)} entries for {n} filaments")
    if not np.isfinite(np.asarray(given.get("scores", ()), dtype=np.float64)).all():
        raise ValueError("scores must be finite numbers")
    for i in range(n):
        yield {COLUMNS.get(column, column): _plain(values[i]) for column, values in given.items()}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
