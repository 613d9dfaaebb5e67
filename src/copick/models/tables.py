"""Picks as pandas tables: `CopickPicks.df` and `from_df`.

- `copick`: every point as it is; nothing is lost. `x`, `y`, `z` (the location), `transform_00` ... `transform_33` (the
  transformation, row by row, with its own translation), `instance_id`, `score`. Lengths are in ångström.
- `relion`: the columns of a RELION particle STAR file, without the scores. Positions are the points' final ones (location
  plus translation). RELION's angles turn the tomogram to the object, so they are those of the inverse rotation.

RELION states positions in one of three ways, and `df` writes all that it knows:

- `rlnCenteredCoordinate{X,Y,Z}Angst`: ångström from the tomogram's centre;
- `rlnCoordinate{X,Y,Z}`: pixels of the tilt series from the tomogram's corner;
- the same columns, in voxels of the tomogram they were picked in: an old habit that RELION itself does not share.

Particles of filaments have `rlnHelicalTubeID` (the instance id), `rlnHelicalTrackLengthAngst` (the way from the filament's first
particle) and `rlnAnglePsiFlipRatio` (0: its direction is known; 0.5: it is not). Their rotation is split in two: the angles of the
subtomogram, whose z is x of the particle's inverse, and those of the particle in it, which are the prior 0, 90, 0.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from copick.errors import (
    ConfigError,
    FormatError,
    NotFoundError,
    RelionPixelSizeError,
    RelionTomogramCenterError,
)
from copick.util.euler import nearest_rotations, zyz_angles, zyz_rotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from copick.models.annotations import CopickPicks
    from copick.models.run import CopickRun
    from copick.models.tomogram import CopickTomogram

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Centre = tuple[float, float, float]

POSITION = ["x", "y", "z"]
TRANSFORM = [f"transform_{row}{column}" for row in range(4) for column in range(4)]
INSTANCE, SCORE = "instance_id", "score"

NAME = "rlnTomoName"
PIXELS = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
CENTRED = ["rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst"]
ORIGIN = ["rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"]
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
SUBTOMOGRAM = ["rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"]
PRIORS = ["rlnAngleTiltPrior", "rlnAnglePsiPrior"]
TUBE, TRACK, FLIP = "rlnHelicalTubeID", "rlnHelicalTrackLengthAngst", "rlnAnglePsiFlipRatio"
HALF = "rlnRandomSubset"
OPTICS, OPTICS_SIZE = "rlnOpticsGroup", "rlnTomoTiltSeriesPixelSize"

HELIX = np.array([0.0, 90.0, 0.0])
"""Angles of a particle of a filament, relative to its subtomogram, whose z is the filament's direction."""


def picks_to_frame(picks: CopickPicks, format: str, **options: Any) -> pd.DataFrame:
    """See `CopickPicks.df`."""
    if _known(format) == "copick":
        return _to_copick(picks, **options)
    return picks_to_relion(picks, **options)


def picks_from_frame(picks: CopickPicks, df: pd.DataFrame, format: str, **options: Any) -> None:
    """See `CopickPicks.from_df`."""
    read = _from_copick if _known(format) == "copick" else picks_from_relion
    if not isinstance(df, _pandas().DataFrame):
        raise TypeError(f"from_df takes a pandas DataFrame, not {type(df).__name__}")
    read(picks, df, **options)


def _known(format: str) -> str:
    if format not in ("relion", "copick"):
        raise ValueError(f'there is no table format {format!r}; use "relion" or "copick"')
    return format


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ConfigError('tables need pandas; try: pip install "copick[table]"') from error
    return pandas


# copick's own


def _to_copick(picks: CopickPicks) -> pd.DataFrame:
    locations, transforms = picks.numpy()
    return _pandas().DataFrame(
        {
            **dict(zip(POSITION, locations.T, strict=True)),
            **dict(zip(TRANSFORM, transforms.reshape(-1, 16).T, strict=True)),
            INSTANCE: picks.instance_ids(),
            SCORE: picks.scores(),
        }
    )


def _from_copick(picks: CopickPicks, df: pd.DataFrame) -> None:
    _require(df, POSITION)
    transforms = np.tile(np.eye(4).ravel(), (len(df), 1))
    for at, name in enumerate(TRANSFORM):
        if name in df:
            transforms[:, at] = _numbers(df, [name])[:, 0]
    picks.from_numpy(
        _numbers(df, POSITION),
        transforms.reshape(-1, 4, 4),
        _whole(df, INSTANCE) if INSTANCE in df else None,
        _numbers(df, [SCORE])[:, 0] if SCORE in df else None,
    )


# RELION, written


def picks_to_relion(
    picks: CopickPicks,
    *,
    tilt_series_pixel_size: float | None = None,
    tomogram_center: Centre | None = None,
    voxel_spacing: float | None = None,
    tomo_type: str | None = None,
    coordinates: Literal["auto", "centered"] = "auto",
    filament: bool | Literal["auto"] = "auto",
    filament_angles: Literal["frame", "pose"] = "frame",
    polarity_known: bool | Sequence[bool] | npt.NDArray[np.bool_] = False,
    half_sets: Literal["filament"] | None = None,
) -> pd.DataFrame:
    """The points as RELION's particles, in their order.

    Args:
        tilt_series_pixel_size: In ångström; writes the columns in pixels, too.
        tomogram_center: In ångström from the corner, x, y, z; None = of a tomogram of the run: see `tomogram_center`.
        voxel_spacing, tomo_type: Of the tomogram whose centre counts. If there is none, and no pixel size, positions are
            written in voxels of that size, with a warning.
        coordinates: "centered" = these alone.
        filament: Whether to write the columns of filaments; "auto" = if the object is a filament.
        filament_angles: "frame" = in two steps; "pose" = as for any particle.
        polarity_known: Whether the direction of a filament is known; one for all or one per point.
        half_sets: "filament" = also `rlnRandomSubset`: whole filaments, so that both halves get as many particles as can be.

    Raises:
        RelionPixelSizeError, RelionTomogramCenterError: The positions cannot be stated (both are ValueErrors).
        ValueError: An argument cannot be so, or a point of a filament has no instance id.
    """
    one_of("coordinates", coordinates, ("auto", "centered"))
    one_of("filament_angles", filament_angles, ("frame", "pose"))
    one_of("half_sets", half_sets, (None, "filament"))
    if filament not in ("auto",) and not isinstance(filament, bool):
        raise ValueError(f'filament must be True, False or "auto", not {filament!r}')
    helical = is_filament(picks) if filament == "auto" else filament
    if half_sets and not helical:
        raise ValueError(
            f"{picks.ref}: half sets are made of whole filaments, which these points are not; "
            "pass filament=True or leave half_sets out"
        )
    pixel_size = length("tilt_series_pixel_size", tilt_series_pixel_size)
    voxel_size = length("voxel_spacing", voxel_spacing)
    centre = _centre(picks.run, tomogram_center, voxel_size, tomo_type)

    where = picks.full_positions()
    in_pixels, centred = None, None if centre is None else where - centre
    if coordinates == "centered":
        if centred is None:
            raise RelionTomogramCenterError(f"{picks.ref}: {_NO_CENTRE}")
    elif pixel_size is not None:
        in_pixels = where / pixel_size
    elif centred is None:
        in_pixels = where / _voxels(picks, voxel_size, "written")

    columns: dict[str, Any] = {NAME: [picks.run.name] * len(where)}
    if in_pixels is not None:
        columns |= zip(PIXELS, in_pixels.T, strict=True)
    columns |= _angle_columns(picks, helical and filament_angles == "frame")
    if helical:
        columns |= _filament_columns(picks, where, polarity_known)
    if centred is not None:
        columns |= zip(CENTRED, centred.T, strict=True)
    if half_sets:
        columns[HALF] = halves(columns[TUBE])
    return _pandas().DataFrame(columns)


def is_filament(picks: CopickPicks) -> bool:
    """Whether they are of an object that is declared a filament."""
    found = picks.run.root.get_object(picks.pickable_object_name)
    return found is not None and found.is_filament


def _angle_columns(picks: CopickPicks, framed: bool) -> dict[str, Floats]:
    """RELION's angles; `framed`: in two steps, as for filaments."""
    rotations, usable = nearest_rotations(picks.numpy()[1][:, :3, :3])
    if not usable.all():
        logger.warning(
            "%s: %d of %d transformations are no rotations; their angles are written as 0",
            picks.ref,
            (~usable).sum(),
            len(usable),
        )
    if not framed:
        return dict(zip(ANGLES, zyz_angles(_inverse(rotations)).T, strict=True))
    # rotation = frame @ inverse(particle)
    frames = np.where(usable[:, None, None], rotations @ zyz_rotations(HELIX), np.eye(3))
    particles = np.tile(HELIX, (len(frames), 1)).T
    return {
        **dict(zip(SUBTOMOGRAM, zyz_angles(_inverse(frames)).T, strict=True)),
        **dict(zip(ANGLES, particles, strict=True)),
        **dict(zip(PRIORS, particles[1:], strict=True)),
    }


def _filament_columns(picks: CopickPicks, where: Floats, polarity_known: Any) -> dict[str, Any]:
    ids = picks.instance_ids()
    if (without := ids < 1).any():
        raise ValueError(
            f"{picks.ref}: {without.sum()} of {len(ids)} points belong to no filament: RELION counts filaments from 1, and "
            "their instance_id is less; number the filaments, or pass filament=False"
        )
    known = np.asarray(bool(polarity_known) if polarity_known is None else polarity_known).astype(bool)
    if known.ndim and known.shape != ids.shape:
        raise ValueError(
            f"polarity_known is one bool, or one for each of {len(ids)} points; not {known.shape}"
        )
    tracks = np.zeros(len(ids))
    for members in _members(ids):
        tracks[members[1:]] = np.cumsum(np.linalg.norm(np.diff(where[members], axis=0), axis=1))
    return {TUBE: ids, TRACK: tracks, FLIP: np.where(np.broadcast_to(known, ids.shape), 0.0, 0.5)}


def _members(ids: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.intp]]:
    """The rows of each filament, in order of the ids."""
    for each in np.unique(ids):
        yield np.flatnonzero(ids == each)


def halves(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """1 or 2 for each row: the longest filament first, each to the half that has less so far."""
    halves = np.zeros(len(ids), dtype=np.int64)
    sizes = [0, 0]
    for members in sorted(_members(ids), key=len, reverse=True):
        half = int(sizes[1] < sizes[0])
        sizes[half] += len(members)
        halves[members] = half + 1
    return halves


# RELION, read


def picks_from_relion(
    picks: CopickPicks,
    df: pd.DataFrame,
    *,
    optics: pd.DataFrame | None = None,
    tilt_series_pixel_size: float | None = None,
    tomogram_center: Centre | None = None,
    voxel_spacing: float | None = None,
    tomo_type: str | None = None,
    relion_version: Literal["relion4", "relion5"] | None = None,
) -> None:
    """Replace the points by RELION's particles: all rows, whatever tomogram they name. Scores become 1.

    Positions are read from the centred columns if the tomogram's centre is known, else from those in pixels of the tilt series,
    else from the same columns in voxels of `voxel_spacing`, with a warning. Rows with tube ids and track lengths are put in
    that order.

    Args:
        optics: The table of optics groups: states the tilt series' pixel size unless `tilt_series_pixel_size` does.
        tomogram_center, voxel_spacing, tomo_type: As for `picks_to_relion`.
        relion_version: "relion5" = centred columns alone, "relion4" = pixels alone.

    Raises:
        RelionPixelSizeError, RelionTomogramCenterError: The positions cannot be known (both are ValueErrors).
        ValueError: Columns are missing, or what is in them cannot be so. Nothing is changed then.
    """
    one_of("relion_version", relion_version, (None, "relion4", "relion5"))
    centred = relion_version != "relion4" and _has(df, CENTRED)
    pixels = relion_version != "relion5" and _has(df, PIXELS)
    if not centred and not pixels:
        wanted = {"relion4": [PIXELS], "relion5": [CENTRED], None: [CENTRED, PIXELS]}[relion_version]
        raise FormatError(f"a RELION table needs the columns {' or '.join(map(', '.join, wanted))}")
    voxel_size = length("voxel_spacing", voxel_spacing)
    centre = _centre(picks.run, tomogram_center, voxel_size, tomo_type) if centred else None
    if centre is not None:
        where = _numbers(df, CENTRED) + centre
    elif pixels:
        size = _pixel_sizes(df, optics, length("tilt_series_pixel_size", tilt_series_pixel_size))
        where = _numbers(df, PIXELS) * (_voxels(picks, voxel_size, "read") if size is None else size)
    else:
        raise RelionTomogramCenterError(f"{picks.ref}: {_NO_CENTRE}")

    rotations = _read_rotations(df, ANGLES)
    if _has(df, SUBTOMOGRAM):
        frames = _read_rotations(df, SUBTOMOGRAM)
        rotations = frames @ rotations
    else:
        frames = np.broadcast_to(np.eye(3), rotations.shape)
    if _has(df, ORIGIN):
        where = where - np.einsum("nij,nj->ni", frames, _numbers(df, ORIGIN))

    if NAME in df and df[NAME].nunique() > 1:
        logger.warning(
            "%s is filled with particles of %d tomograms; pass only the rows of its own",
            picks.ref,
            df[NAME].nunique(),
        )
    transforms = np.tile(np.eye(4), (len(df), 1, 1))
    transforms[:, :3, :3] = rotations
    order = _along_filaments(df)
    ids = _whole(df, TUBE)[order] if TUBE in df else None
    picks.from_numpy(where[order], transforms[order], ids)


def _read_rotations(df: pd.DataFrame, columns: list[str]) -> Floats:
    """(N, 3, 3), object to tomogram; the identity where the table states no angles."""
    if not _has(df, columns):
        return np.tile(np.eye(3), (len(df), 1, 1))
    return _inverse(zyz_rotations(_numbers(df, columns)))


def _pixel_sizes(df: pd.DataFrame, optics: pd.DataFrame | None, stated: float | None) -> Any:
    """Ångström per pixel of the tilt series: one for all, (N, 1) by optics groups, or None if nothing says it."""
    if stated is not None or optics is None or OPTICS_SIZE not in optics or not len(optics):
        return stated
    sizes = _numbers(optics, [OPTICS_SIZE])[:, 0]
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise FormatError(f"the optics table has a pixel size ({OPTICS_SIZE}) that is none: {sizes.tolist()}")
    if len(sizes) == 1:
        return float(sizes[0])
    if OPTICS not in df or OPTICS not in optics:
        raise FormatError(
            f"the optics table has {len(sizes)} groups; without a column {OPTICS} nobody knows whose the particles are"
        )
    by_group = dict(zip(_whole(optics, OPTICS).tolist(), sizes, strict=True))
    groups = _whole(df, OPTICS).tolist()
    if unknown := {*groups} - {*by_group}:
        raise FormatError(f"the optics table lacks the group(s) {', '.join(map(str, sorted(unknown)))}")
    return np.array([by_group[group] for group in groups], dtype=np.float64).reshape(-1, 1)


def _along_filaments(df: pd.DataFrame) -> npt.NDArray[np.intp]:
    """The order of the rows: by tomogram, filament, and the way along it, if the table says these."""
    if TUBE not in df or TRACK not in df:
        return np.arange(len(df))
    names = _pandas().factorize(df[NAME], sort=True)[0] if NAME in df else np.zeros(len(df))
    return np.lexsort((_numbers(df, [TRACK])[:, 0], _whole(df, TUBE), names))


# What both need

_NO_CENTRE = (
    "centred coordinates need the tomogram's centre, and the run has no such tomogram; pass tomogram_center=(x, y, z) in "
    "ångström, or voxel_spacing= and tomo_type= of a tomogram that is there"
)


def tomogram_center(
    run: CopickRun, voxel_spacing: float | None = None, tomo_type: str | None = None
) -> Centre | None:
    """The centre of a tomogram of the run, in ångström from its corner, x, y, z; None if there is no such tomogram.

    Args:
        voxel_spacing: Of the tomogram; None = the finest that has one. Without `tomo_type` any other does, too.
        tomo_type: None = the first.
    """
    chosen = run.get_voxel_spacing(voxel_spacing) if voxel_spacing is not None else None
    if voxel_spacing is None:
        spacings = run.voxel_spacings
    elif tomo_type is not None:
        spacings = [chosen] if chosen is not None else []
    else:
        spacings = [*([chosen] if chosen is not None else []), *run.voxel_spacings]
    for spacing in spacings:
        for tomogram in spacing.get_tomograms(tomo_type) if tomo_type is not None else spacing.tomograms:
            if (shape := _shape(tomogram)) is not None:
                z, y, x = (size * spacing.voxel_size / 2 for size in shape)
                return x, y, z
    return None


def _shape(tomogram: CopickTomogram) -> tuple[int, ...] | None:
    """z, y, x; None while nothing was written to it."""
    try:
        return tuple(tomogram.array().shape[-3:])
    except NotFoundError:
        return None


def _centre(
    run: CopickRun, given: Sequence[float] | None, voxel_size: float | None, tomo_type: str | None
) -> Floats | None:
    if given is None:
        found = tomogram_center(run, voxel_size, tomo_type)
        return None if found is None else np.array(found)
    centre = np.asarray(given, dtype=np.float64)
    if centre.shape != (3,) or not np.isfinite(centre).all():
        raise ValueError(f"tomogram_center must be x, y, z in ångström, not {given!r}")
    return centre


def _voxels(picks: CopickPicks, voxel_size: float | None, done: str) -> float:
    """The voxel size to count positions in, which RELION does not understand."""
    if voxel_size is None:
        raise RelionPixelSizeError(
            f"{picks.ref}: coordinates in pixels need the tilt series' pixel size; pass tilt_series_pixel_size= (or, for "
            "positions in voxels of the tomogram they were picked in, voxel_spacing=)"
        )
    logger.warning(
        "%s: %s are %s in voxels of %g Å; RELION takes them for pixels of the tilt series: pass tilt_series_pixel_size",
        picks.ref,
        "rlnCoordinateX, Y, Z",
        done,
        voxel_size,
    )
    return voxel_size


def _inverse(rotations: Floats) -> Floats:
    return rotations.transpose(0, 2, 1)


def one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    """Raises ValueError for a value that is none of these."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; not {value!r}")


def length(name: str, value: float | None) -> float | None:
    """A length in ångström. Raises ValueError."""
    if value is None:
        return None
    size = float(value)
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"{name} must be a length in ångström, more than 0; not {value!r}")
    return size


def _has(df: pd.DataFrame, columns: list[str]) -> bool:
    """Whether the table has all of these; some alone mean nothing."""
    missing = [name for name in columns if name not in df]
    if missing and len(missing) < len(columns):
        given = ", ".join(name for name in columns if name in df)
        logger.warning("%s means nothing without %s; ignored", given, ", ".join(missing))
    return not missing


def _require(df: pd.DataFrame, columns: list[str]) -> None:
    if missing := [name for name in columns if name not in df]:
        raise FormatError(f"the table lacks {', '.join(missing)}; it has {', '.join(map(str, df.columns))}")


def _numbers(df: pd.DataFrame, columns: list[str]) -> Floats:
    """(N, columns). Raises FormatError."""
    try:
        return np.asarray(df[columns].to_numpy(dtype=np.float64))
    except (ValueError, TypeError) as error:
        raise FormatError(f"{', '.join(columns)}: found something that is no number ({error})") from error


def _whole(df: pd.DataFrame, column: str) -> npt.NDArray[np.int64]:
    """(N,) whole numbers. Raises FormatError."""
    values = _pandas().to_numeric(df[column], errors="coerce").to_numpy()
    if np.isfinite(values.astype(np.float64)).all():
        whole: npt.NDArray[np.int64] = values.astype(np.int64)
        if np.array_equal(whole, values):
            return whole
    raise FormatError(f"{column}: expected whole numbers")
