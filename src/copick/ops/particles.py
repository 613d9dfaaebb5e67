"""Picks of many runs as RELION's particle tables: what is written for all of them must be known of each.

What the columns mean is the business of `copick.models.tables`.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from copick.errors import FormatError, RelionPixelSizeError, RelionTomogramCenterError
from copick.models.tables import (
    ANGLES,
    CENTRED,
    HALF,
    NAME,
    OPTICS,
    OPTICS_SIZE,
    TUBE,
    halves,
    is_filament,
    length,
    one_of,
    tomogram_center,
)
from copick.ops.outputs import File, new_file
from copick.ops.poses import OPTICS as CTF
from copick.util.path_util import library
from copick.util.uri import parse_copick_uri, resolve_copick_objects, serialize_copick_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import pandas as pd

    from copick.models import CopickFilaments, CopickPicks
    from copick.ops.poses import RelionTomogram

logger = logging.getLogger("copick.ops.export")

Centre = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class FilamentPolarity:
    """What is known of the directions of a run's filaments."""

    source: str | None
    """The URI of the filaments that say it; None if there are none."""
    known: int
    """How many of the filaments that were exported have a known direction."""
    unknown: int


@dataclasses.dataclass(frozen=True)
class RelionOptions:
    """How picks become particles; see `copick.ops.export.export_relion_particles`.

    Raises:
        ValueError: An option cannot be so, or contradicts another.
    """

    voxel_spacing: float | None = None
    tomo_type: str | None = None
    tilt_series_pixel_size: float | Mapping[str, float] | None = None
    tomograms: Mapping[str, RelionTomogram] = dataclasses.field(default_factory=dict)
    tomogram_centers: Mapping[str, Centre] = dataclasses.field(default_factory=dict)
    coordinates: str = "auto"
    include_optics: bool = True
    filament_columns: str = "auto"
    polarity_from_filaments: bool = True
    filaments_uri: str | None = None
    filament_angles: Literal["frame", "pose"] = "frame"
    half_sets: Literal["filament"] | None = None

    def __post_init__(self) -> None:
        length("voxel_spacing", self.voxel_spacing)
        one_of("coordinates", self.coordinates, ("auto", "centered"))
        one_of("filament_columns", self.filament_columns, ("auto", "on", "off"))
        one_of("filament_angles", self.filament_angles, ("frame", "pose"))
        one_of("half_sets", self.half_sets, (None, "filament"))
        if self.half_sets and self.filament_columns == "off":
            raise ValueError(
                "half_sets='filament' needs the columns of filaments, and filament_columns='off' leaves them out"
            )
        if self.filaments_uri is not None:
            parse_copick_uri(self.filaments_uri, "filaments")
            if not self.polarity_from_filaments:
                raise ValueError(
                    "filaments_uri says where the polarity is from, and polarity_from_filaments=False that it is not used"
                )

    def pixel_size(self, run: str) -> float | None:
        """Of the tilt series of a run, in ångström; None if nothing says it."""
        given = self.tilt_series_pixel_size
        stated = given if given is None or isinstance(given, int | float) else given.get(run)
        if stated is None and run in self.tomograms:
            stated = self.tomograms[run].pixel_size
        return length("tilt_series_pixel_size", stated)

    def center(self, picks: CopickPicks) -> Centre | None:
        """Of the tomogram of a run, in ångström, x, y, z; None if nothing says it."""
        name = picks.run.name
        stated = self.tomograms[name].center if name in self.tomograms else None
        if stated is None and self.tomograms:
            logger.warning(
                "%s: the tomograms.star states no size of it; its centre is taken from elsewhere", name
            )
        if stated is None:
            stated = self.tomogram_centers.get(name)
        return stated or tomogram_center(picks.run, self.voxel_spacing, self.tomo_type)


@dataclasses.dataclass(frozen=True)
class Particles:
    """The tables of RELION's particles."""

    tables: dict[str, pd.DataFrame]
    """By run, all with the same columns."""
    optics: pd.DataFrame | None
    """One optics group per run; None if a pixel size is not known, or nobody wants it."""
    filament: bool
    """Whether they have the columns of filaments."""
    polarity: dict[str, FilamentPolarity]
    """By run, if they have."""

    def one_table(self) -> pd.DataFrame:
        """All runs', with their optics groups if there are any."""
        import pandas

        if not self.tables:
            return pandas.DataFrame(columns=[NAME, *CENTRED, *ANGLES])
        table = pandas.concat([*self.tables.values()], ignore_index=True)
        if self.optics is not None:
            groups = dict(zip(self.optics[OPTICS + "Name"], self.optics[OPTICS], strict=True))
            table[OPTICS] = [groups[name] for name in table[NAME]]
        return table


def particles_of(groups: Mapping[str, Sequence[CopickPicks]], options: RelionOptions) -> Particles:
    """Picks as RELION's particles.

    Args:
        groups: The picks of each run, by its name; one or more.

    Raises:
        RelionTomogramCenterError, RelionPixelSizeError: The positions cannot be stated (both are ValueErrors).
        ValueError: Filaments are not numbered, numbered twice, or not among those that are to say their polarity.
    """
    library("pandas", "table")
    helical = _helical([each for picks in groups.values() for each in picks], options)
    if options.half_sets and not helical and groups:
        raise ValueError(
            "half sets are made of whole filaments, which these picks are not; pass filament_columns='on' if they are"
        )
    pixels, centers = _positions(groups, options)
    polarity: dict[str, FilamentPolarity] = {}
    tables: dict[str, pd.DataFrame] = {}
    for name, picks in groups.items():
        if helical:
            _check_numbers(name, picks)
        found = []
        for each in picks:
            known: npt.NDArray[np.bool_] | None = None
            if helical:
                known, said = _polarity(each, options)
                polarity[name] = _summed(polarity[name], said) if name in polarity else said
            found.append(_table(each, pixels.get(name), centers.get(name), helical, known, options))
        tables[name] = _joined(found)
    if options.half_sets and tables:
        _add_half_sets(tables)
    return Particles(tables, _optics(groups, options), helical, polarity)


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas

    return tables[0] if len(tables) == 1 else pandas.concat(tables, ignore_index=True)


def _helical(picks: Sequence[CopickPicks], options: RelionOptions) -> bool:
    if options.filament_columns != "auto":
        return options.filament_columns == "on"
    found = {is_filament(each) for each in picks}
    if len(found) > 1:
        logger.warning(
            "filaments and other particles go to one file, so their filament columns are left out; export them one by one"
        )
    return found == {True}


def _positions(
    groups: Mapping[str, Sequence[CopickPicks]], options: RelionOptions
) -> tuple[dict[str, float], dict[str, Centre]]:
    """What to state positions by, for all runs or none: pixel sizes and centres, by run."""
    sizes = {name: options.pixel_size(name) for name in groups}
    found = {name: options.center(picks[0]) for name, picks in groups.items()}
    centers = {name: center for name, center in found.items() if center is not None}
    pixels = {name: size for name, size in sizes.items() if size is not None}
    off_centre = [name for name in groups if name not in centers]
    if options.coordinates == "centered":
        if off_centre:
            raise RelionTomogramCenterError(
                f"the centre of the tomogram of {_shown(off_centre)} is not known; name a tomogram by voxel_spacing and "
                "tomo_type, or state the sizes by tomograms_star"
            )
        return {}, centers
    if pixels and len(pixels) < len(groups):
        lacking = [name for name in groups if name not in pixels]
        logger.warning(
            "the tilt series' pixel size of %s is not known, so positions in pixels are left out for all runs",
            _shown(lacking),
        )
        pixels = {}
    if not off_centre:
        return pixels, centers
    if pixels:
        return pixels, {}
    if options.voxel_spacing is None:
        raise RelionPixelSizeError(
            f"RELION's positions need the tilt series' pixel size (tilt_series_pixel_size, tomograms_star) or the centre of "
            f"the tomogram (voxel_spacing, tomogram_centers); of {_shown(off_centre)} neither is known"
        )
    logger.warning(
        "%s are written in voxels of %g Å; RELION takes them for pixels of the tilt series: pass tilt_series_pixel_size, or "
        "tomograms_star. Neither that nor the centre of the tomogram is known of %s",
        "rlnCoordinateX, Y, Z",
        options.voxel_spacing,
        _shown(off_centre),
    )
    return dict.fromkeys(groups, options.voxel_spacing), {}


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _table(
    picks: CopickPicks,
    pixel: float | None,
    center: Centre | None,
    helical: bool,
    known: npt.NDArray[np.bool_] | None,
    options: RelionOptions,
) -> pd.DataFrame:
    table = picks.df(
        "relion",
        tilt_series_pixel_size=pixel,
        # Any will do where these columns are dropped: it must not be looked for again.
        tomogram_center=center or (0.0, 0.0, 0.0),
        coordinates="auto" if pixel is not None else "centered",
        filament=helical,
        filament_angles=options.filament_angles,
        polarity_known=known,
    )
    return table if center is not None else table.drop(columns=CENTRED)


def _optics(groups: Mapping[str, Sequence[CopickPicks]], options: RelionOptions) -> pd.DataFrame | None:
    import pandas

    sizes = [options.pixel_size(name) for name in groups]
    if not options.include_optics or not sizes or None in sizes:
        return None
    columns: dict[str, Any] = {
        OPTICS: [*range(1, len(groups) + 1)],
        f"{OPTICS}Name": [*groups],
        OPTICS_SIZE: sizes,
    }
    stated = [options.tomograms[name].optics if name in options.tomograms else {} for name in groups]
    columns |= {each: [said[each] for said in stated] for each in CTF if all(each in said for said in stated)}
    return pandas.DataFrame(columns)


# Filaments


def _check_numbers(run: str, picks: Sequence[CopickPicks]) -> None:
    """Raises FormatError if filaments of several picks have one number: RELION would take them for one filament."""
    owners: dict[int, CopickPicks] = {}
    for each in picks:
        for number in np.unique(each.instance_ids()).tolist():
            other = owners.setdefault(number, each)
            if other is not each:
                raise FormatError(
                    f"run {run!r}: {serialize_copick_uri(other)} and {serialize_copick_uri(each)} both have a filament "
                    f"{number}, which RELION would take for one; export one of them, or number them apart"
                )


def _polarity(picks: CopickPicks, options: RelionOptions) -> tuple[npt.NDArray[np.bool_], FilamentPolarity]:
    """Whether the direction of the filament of each point is known, and the sum of it."""
    ids = picks.instance_ids()
    numbers = {*ids.tolist()}
    source = _filaments(picks, options) if options.polarity_from_filaments else None
    filaments = source.filaments if source is not None else []
    missing = sorted(numbers - {each.instance_id for each in filaments}) if source is not None else []
    if missing:
        raise ValueError(
            f"{picks.ref}: {serialize_copick_uri(source)} lacks the filament(s) {_shown([*map(str, missing)])}; name the "
            "filaments that the picks are from by filaments_uri, or pass polarity_from_filaments=False"
        )
    known = {each.instance_id for each in filaments if each.polarity_known} & numbers
    said = None if source is None else serialize_copick_uri(source)
    return np.isin(ids, [*known]), FilamentPolarity(said, len(known), len(numbers - known))


def _filaments(picks: CopickPicks, options: RelionOptions) -> CopickFilaments | None:
    """The filaments that say the polarity of picks: those that are named, else those that are called as the picks."""
    uri, run = options.filaments_uri, picks.run
    if uri is None:
        own = run.get_filaments(picks.pickable_object_name, picks.user_id, picks.session_id)
        return own[0] if own else None
    found = resolve_copick_objects(uri, run.root, "filaments", run.name)
    if len(found) != 1:
        which = ", ".join(map(serialize_copick_uri, found)) or "none"
        raise ValueError(
            f"filaments_uri {uri!r} must name the filaments that {picks.ref} is from, one in that run; it names {which}"
        )
    filaments: CopickFilaments = found[0]
    return filaments


def _summed(one: FilamentPolarity, other: FilamentPolarity) -> FilamentPolarity:
    sources = dict.fromkeys(each.source for each in (one, other) if each.source)
    return FilamentPolarity(", ".join(sources) or None, one.known + other.known, one.unknown + other.unknown)


def _add_half_sets(tables: Mapping[str, pd.DataFrame]) -> None:
    """Whole filaments to each half, so that both get as many particles as can be, over all runs."""
    import pandas

    every = pandas.concat([table[[NAME, TUBE]] for table in tables.values()], ignore_index=True)
    subsets = halves(every.groupby([NAME, TUBE]).ngroup().to_numpy())
    at = 0
    for table in tables.values():
        table[HALF] = subsets[at : at + len(table)]
        at += len(table)


# Files


def write_star(path: File, tables: Mapping[str, Any]) -> None:
    """Replace a STAR file by these tables. Raises LayerError, or ImportError."""
    starfile = library("starfile")
    with new_file(path, ".star") as temporary:
        starfile.write(dict(tables), temporary)
