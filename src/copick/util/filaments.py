"""Curves through filaments: evaluating them, comparing them with polylines, finding their control points.

A filament is kept as a polyline; a curve says how that polyline was made, so that it can be edited again by a few
control points. Points are x, y, z in ångström, arrays (N, 3) float64.
"""

from __future__ import annotations

from bisect import insort
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Points = npt.NDArray[np.float64]

CURVE_KINDS = ("catmull-rom", "linear", "bspline")
"""The kinds of curves that can be evaluated. Documents may hold others; they are kept as they are."""

MAX_DEGREE = 5
COINCIDENT = 1e-6
"""Ångström within which two points are one."""
CURRENT = 0.01
"""Steps by which a polyline may miss the anchors of a curve and still be the curve's."""
FINE = 16
"""Samples for each step, and at least for each piece, from which arc lengths are measured."""
BLOCK = 1 << 20
"""Distances that are computed at a time."""


def check_curve(
    kind: str,
    control_points: npt.ArrayLike,
    step: float,
    alpha: float | None = None,
    degree: int | None = None,
    knots: Sequence[float] | None = None,
) -> None:
    """Refuse a curve that cannot be evaluated. For the arguments see `evaluate_curve`.

    Raises:
        ValueError: The kind is unknown, or the arguments do not make a curve of that kind; the text says why.
    """
    if kind not in CURVE_KINDS:
        raise ValueError(f"cannot evaluate a curve of kind {kind!r}; known are {', '.join(CURVE_KINDS)}")
    points = as_points(control_points, "control points")
    if not (np.isfinite(step) and step > 0):
        raise ValueError(f"the step of a curve must be a positive number of ångström, not {step}")
    if len(points) < 2:
        raise ValueError(f"a {kind} curve needs 2 control points or more, not {len(points)}")
    if kind == "bspline":
        _check_spline(len(points), degree, knots)
        return
    if kind == "catmull-rom" and alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 (uniform) to 1 (chordal), not {alpha}")
    same = np.flatnonzero(_lengths(points) <= COINCIDENT)
    if same.size:
        raise ValueError(f"control points {same[0]} and {same[0] + 1} are the same place; remove one of them")


def _check_spline(n: int, degree: int | None, knots: Sequence[float] | None) -> None:
    if degree is None or knots is None:
        raise ValueError("a bspline curve needs a degree and knots")
    if degree not in range(1, MAX_DEGREE + 1):
        raise ValueError(f"the degree of a bspline is a whole number from 1 to {MAX_DEGREE}, not {degree}")
    if n <= degree:
        raise ValueError(f"a bspline of degree {degree} needs {degree + 1} control points or more, not {n}")
    t = np.asarray(knots, dtype=np.float64)
    if t.shape != (n + degree + 1,):
        raise ValueError(
            f"a bspline of degree {degree} with {n} control points needs {n + degree + 1} knots, not {t.size}"
        )
    if not np.isfinite(t).all():
        raise ValueError("the knots of a bspline must be finite numbers")
    if (np.diff(t) < 0).any():
        raise ValueError("the knots of a bspline must not decrease")
    first, last = t[: degree + 1], t[-degree - 1 :]
    if first[0] != first[-1] or last[0] != last[-1] or first[0] == last[0]:
        raise ValueError(f"the knots of a bspline must be clamped: {degree + 1} equal ones at each end")
    repeats = np.unique(t, return_counts=True)[1]
    repeats[[0, -1]] -= 1
    # More would tear the curve apart; as many as the degree make a corner.
    if (repeats > degree).any():
        raise ValueError(f"inner knots of a bspline of degree {degree} may repeat {degree} times at most")


def as_points(values: npt.ArrayLike, what: str = "points") -> Points:
    """`values` as an (N, 3) float64 array. Raises ValueError if they are not finite points."""
    points = np.asarray(values, dtype=np.float64)
    if points.size == 0:
        return points.reshape(0, 3)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{what} must be (N, 3), not {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{what} must be finite numbers")
    return points


def evaluate_curve(
    control_points: npt.ArrayLike,
    step: float,
    kind: str = "catmull-rom",
    alpha: float | None = 0.5,
    degree: int | None = None,
    knots: Sequence[float] | None = None,
) -> Points:
    """The polyline of a curve, (K, 3), from its first to its last anchor.

    Each piece between two anchors is cut into the fewest parts of equal arc length that are no longer than `step`,
    so every anchor is a point of the result, and a change of one control point moves only its neighbourhood.

    Args:
        control_points: (N, 3), x, y, z in ångström. Linear and Catmull-Rom curves pass through them.
        step: In ångström.
        kind: One of `CURVE_KINDS`.
        alpha: Catmull-Rom: 0 uniform, 0.5 centripetal (also for None), 1 chordal.
        degree: B-spline: 1 to 5.
        knots: B-spline: N + degree + 1 numbers that do not decrease, clamped.

    Raises:
        ValueError: This is no curve; the text says why.
    """
    check_curve(kind, control_points, step, alpha, degree, knots)
    points = as_points(control_points)
    pieces = [
        piece
        for piece in _pieces(points, step, kind, alpha, degree, knots)
        if _lengths(piece).sum() > COINCIDENT
    ]
    if not pieces:
        raise ValueError("the control points are all in one place; a curve needs a length")
    return np.concatenate([*(_cut(piece, step) for piece in pieces), pieces[-1][-1:]])


def curve_anchors(
    control_points: npt.ArrayLike,
    kind: str = "catmull-rom",
    degree: int | None = None,
    knots: Sequence[float] | None = None,
) -> Points:
    """Where the pieces of a curve meet, (M, 3): places that its polyline certainly passes.

    The control points; of a B-spline the places at its knots.
    """
    points = as_points(control_points, "control points")
    if kind != "bspline":
        return points
    _check_spline(len(points), degree, knots)
    assert degree is not None
    t = np.asarray(knots, dtype=np.float64)
    starts = [_de_boor(points, t, degree, span, t[span : span + 1]) for span in _spans(t)]
    return np.concatenate([*starts, points[-1:]])


def curve_is_current(
    points: npt.ArrayLike,
    control_points: npt.ArrayLike,
    step: float,
    kind: str = "catmull-rom",
    degree: int | None = None,
    knots: Sequence[float] | None = None,
) -> bool:
    """Whether a polyline still is that of a curve: it passes the anchors, and ends where the curve ends.

    False for kinds that are not known.
    """
    line = as_points(points)
    if kind not in CURVE_KINDS or len(line) < 2:
        return False
    anchors = curve_anchors(control_points, kind, degree, knots)
    far = CURRENT * step
    ends = np.linalg.norm(anchors[[0, -1]] - line[[0, -1]], axis=1)
    return bool((ends <= far).all() and (distances_to_polyline(anchors, line) <= far).all())


def control_points_from_polyline(points: npt.ArrayLike, tolerance: float) -> Points:
    """Few of the points, (M, 3): a centripetal Catmull-Rom curve through them passes all others within `tolerance`.

    Starts from the two ends and adds the point that the curve misses most, until it misses none.

    Args:
        points: (N, 3), x, y, z in ångström, in order.
        tolerance: In ångström.

    Raises:
        ValueError: The tolerance is not positive, or the points have no two ends.
    """
    if not tolerance > 0:
        raise ValueError(f"the tolerance must be a positive number of ångström, not {tolerance}")
    line = as_points(points)
    line = line[np.insert(_lengths(line) > COINCIDENT, 0, True)] if len(line) else line
    if len(line) < 2:
        raise ValueError("a filament needs two points in different places")
    if np.linalg.norm(line[-1] - line[0]) <= COINCIDENT:
        raise ValueError("the points end where they start; closed filaments have no control points")
    # Finer sampling than the points themselves would see what they do not tell.
    step = max(tolerance, _lengths(line).mean())

    @cache
    def missed(around: tuple[int, ...], at: int) -> tuple[float, int]:
        """How far, and where, piece `at` of a curve through some points is off most; only these shape it."""
        first, last = around[at : at + 2]
        piece = next(islice(_pieces(line[list(around)], step, "catmull-rom"), at, None))
        away = distances_to_polyline(line[first : last + 1], piece)
        away[[0, -1]] = 0.0  # but for rounding
        return float(np.max(away)), first + int(np.argmax(away))

    kept = [0, len(line) - 1]
    while True:
        away, worst = max(missed(tuple(kept[max(i - 1, 0) : i + 3]), min(i, 1)) for i in range(len(kept) - 1))
        if away <= tolerance:
            return line[kept]
        insort(kept, worst)


def distances_to_polyline(queries: npt.ArrayLike, polyline: npt.ArrayLike) -> Points:
    """How far each of the queries (Q, 3) is from a polyline (N, 3), N ≥ 1: (Q,) in ångström."""
    asked, line = as_points(np.atleast_2d(queries), "queries"), as_points(polyline, "polyline")
    if len(line) == 0:
        raise ValueError("a polyline needs a point")
    starts, along = line[:-1] if len(line) > 1 else line, np.diff(line, axis=0)
    along = along if len(along) else np.zeros((1, 3))
    squares = np.maximum((along**2).sum(axis=1), np.finfo(np.float64).tiny)
    nearest = np.empty(len(asked))
    rows = max(1, BLOCK // len(starts))
    for at in range(0, len(asked), rows):
        offset = asked[at : at + rows, None] - starts
        share = np.clip((offset * along).sum(axis=2) / squares, 0.0, 1.0)
        nearest[at : at + rows] = np.linalg.norm(offset - share[..., None] * along, axis=2).min(axis=1)
    return nearest


def reverse_knots(knots: Sequence[float] | Points) -> Points:
    """The knots of the same B-spline run backwards: same ends, spacings in reverse."""
    t = np.asarray(knots, dtype=np.float64)
    reversed_knots: Points = (t[0] + t[-1] - t)[::-1] if t.size else t
    return reversed_knots


def median_spacing(points: npt.ArrayLike) -> float:
    """Of the points of a polyline, in ångström; 0 for fewer than two."""
    lengths = _lengths(as_points(points))
    return float(np.median(lengths)) if lengths.size else 0.0


def _lengths(points: Points) -> Points:
    lengths: Points = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return lengths


def _cut(piece: Points, step: float) -> Points:
    """Points that cut a finely sampled piece into equal lengths, from its start on, without its end."""
    at = np.insert(np.cumsum(_lengths(piece)), 0, 0.0)
    # A length of 3.0000000001 steps is three steps.
    n = max(1, int(np.ceil(at[-1] / step - 1e-9)))
    targets = at[-1] / n * np.arange(n)
    return np.column_stack([np.interp(targets, at, axis) for axis in piece.T])


def _pieces(
    points: Points,
    step: float,
    kind: str,
    alpha: float | None = 0.5,
    degree: int | None = None,
    knots: Sequence[float] | None = None,
) -> Iterator[Points]:
    """Each piece of a curve that is known to be right, sampled finely from anchor to anchor."""
    if kind == "bspline":
        assert degree is not None
        t = np.asarray(knots, dtype=np.float64)
        for span in _spans(t):
            # The curve is shorter than the control points that shape it are far apart.
            length = _lengths(points[span - degree : span + 1]).sum()
            u = np.linspace(t[span], t[span + 1], _samples(length, step) + 1)
            yield _de_boor(points, t, degree, span, u)
    elif kind == "linear":
        yield from (points[i : i + 2] for i in range(len(points) - 1))
    else:
        yield from _catmull_rom(points, step, 0.5 if alpha is None else alpha)


def _samples(length: float, step: float) -> int:
    return max(FINE, int(np.ceil(FINE * length / step)))


def _catmull_rom(points: Points, step: float, alpha: float) -> Iterator[Points]:
    """Cubic Hermite pieces whose slopes come from the neighbours; beyond each end its neighbour is mirrored."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    chords = np.diff(padded, axis=0)
    times = (_lengths(padded) ** alpha)[:, None]
    speeds = chords / times
    # The slope at a point: that of the parabola through it and its two neighbours.
    slopes = (speeds[:-1] * times[1:] + speeds[1:] * times[:-1]) / (times[:-1] + times[1:])
    for i, length in enumerate(_lengths(points)):
        s = np.linspace(0.0, 1.0, _samples(length, step) + 1)[:, None]
        start, end = times[i + 1] * slopes[i], times[i + 1] * slopes[i + 1]
        yield (
            points[i] + chords[i + 1] * s**2 * (3 - 2 * s) + start * s * (1 - s) ** 2 - end * s**2 * (1 - s)
        )


def _spans(knots: Points) -> npt.NDArray[np.int_]:
    """Indices of the knots that start a piece of some length."""
    return np.flatnonzero(np.diff(knots) > 0)


def _de_boor(points: Points, knots: Points, degree: int, span: int, u: Points) -> Points:
    """De Boor's algorithm: a B-spline at the parameters `u`, all within knots[span] and knots[span + 1]."""
    d = [np.broadcast_to(points[span - degree + j], (len(u), 3)) for j in range(degree + 1)]
    for r in range(1, degree + 1):
        for j in range(degree, r - 1, -1):
            low, high = knots[span - degree + j], knots[span + j + 1 - r]
            share = ((u - low) / (high - low))[:, None]
            d[j] = (1 - share) * d[j - 1] + share * d[j]
    return d[degree]
