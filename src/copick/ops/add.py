"""Put runs, tomograms, features, segmentations, picks and objects into a project, from arrays and from files.

What the functions share: `create` makes the run and the voxel spacing if the project lacks them. Something that is there already
is an error, unless `exist_ok` or `overwrite` says that it may be replaced. What could not be filled is not left behind.
`log` says at level INFO what was added. Volumes are z, y, x, voxel sizes in ångström.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from copick.errors import ConfigError, FormatError, UnknownNameError
from copick.models.tomogram import real_numbers
from copick.ops.add_picks import add_picks, add_picks_from_file, add_picks_grouped_from_file
from copick.ops.run import known_run, name_of
from copick.ops.targets import (
    add_run,
    add_voxelspacing,
    filling,
    get_or_create_run,
    get_or_create_voxelspacing,
    said,
    target_run,
    target_spacing,
)
from copick.util.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from copick.meta import FilamentSpec
    from copick.models import (
        CopickFeatures,
        CopickObject,
        CopickRoot,
        CopickRun,
        CopickSegmentation,
        CopickTomogram,
    )

__all__ = [
    "add_features",
    "add_object",
    "add_object_volume",
    "add_picks",
    "add_picks_from_file",
    "add_picks_grouped_from_file",
    "add_run",
    "add_segmentation",
    "add_segmentation_from_file",
    "add_tomogram",
    "add_tomogram_from_file",
    "add_voxelspacing",
    "get_or_create_run",
    "get_or_create_voxelspacing",
    "read_volume",
]

File: TypeAlias = "str | os.PathLike[str]"
CHUNKS = (256, 256, 256)

# Tomograms and features


def add_tomogram(
    root: CopickRoot,
    run: str | CopickRun,
    tomo_type: str,
    volume: npt.ArrayLike | Mapping[float, npt.ArrayLike],
    voxel_spacing: float | None = None,
    create: bool = True,
    exist_ok: bool = False,
    overwrite: bool = False,
    create_pyramid: bool = False,
    pyramid_levels: int = 3,
    chunks: Sequence[int] = CHUNKS,
    transpose: str | None = None,
    flip: str | None = None,
    meta: Mapping[str, Any] | None = None,
    log: bool = False,
) -> CopickTomogram:
    """Add a tomogram.

    Args:
        volume: An array, or all levels as {voxel size: array}; the finest stands for the voxel spacing.
        voxel_spacing: Of an array.
        create_pyramid: Compute coarser levels of an array, which becomes float32; without, its type is kept.
        transpose: The order of the axes, for example "2,1,0" (0 = z, 1 = y, 2 = x).
        flip: The axes to reverse after that, for example "0,2".
        meta: What else to say in the OME metadata.

    Raises:
        UnknownNameError: There is no such run or voxel spacing, and `create` is False.
        AlreadyExistsError: There is such a tomogram.
        ValueError: The volume has other axes or no real numbers, or its voxel size is not known.
    """
    what = f"tomogram {tomo_type!r} of run {name_of(run)!r}"
    if len(chunks) != 3 or not all(isinstance(each, int | np.integer) and each > 0 for each in chunks):
        raise ValueError(f"{what}: chunks {chunks!r}: expected three numbers of voxels (z, y, x), 1 or more")
    levels, size = _levels_of(volume, voxel_spacing, what)
    levels = {each: oriented(level, transpose, flip) for each, level in levels.items()}
    if create_pyramid and len(levels) == 1:
        from copick.ome import pyramid

        if pyramid_levels < 1:
            raise ValueError(f"{what}: pyramid_levels must be 1 or more, not {pyramid_levels}")
        finest = real_numbers(levels[size], np.float32, what)
        # Lazy: no more than two levels are in memory at a time.
        written: Iterable[tuple[float, npt.NDArray[Any]]] = pyramid(finest, size, pyramid_levels)
    else:
        written = levels.items()
    with (
        target_spacing(root, name_of(run), size, create, log) as spacing,
        filling(lambda ok: spacing.new_tomogram(tomo_type, exist_ok=ok), exist_ok or overwrite) as tomogram,
    ):
        from copick.ome import write_levels

        config: Any = root.config
        with tomogram.layer.writing(tomogram.ref) as store:
            write_levels(store, written, chunks=tuple(chunks), metadata=meta, zarr_format=config.zarr_format)
        tomogram.refresh()
    return said(log, tomogram)


def _levels_of(
    volume: Any, voxel_spacing: float | None, what: str
) -> tuple[dict[float, npt.NDArray[Any]], float]:
    """Levels by voxel size, finest first, and the finest size. Raises ValueError."""
    if isinstance(volume, dict):
        levels = {float(size): real_numbers(volume[size], None, what) for size in sorted(volume)}
        if not levels:
            raise ValueError(f"{what}: a dict of levels needs at least one, as {{voxel size: array}}")
        size = next(iter(levels))
        if voxel_spacing is not None and round(voxel_spacing - size, 3) != 0:
            raise ValueError(
                f"{what}: the finest level has voxels of {size:g} Å, voxel_spacing says {voxel_spacing:g}"
            )
    elif voxel_spacing is None:
        raise ValueError(f"{what}: the size of its voxels is not known; pass voxel_spacing in ångström")
    else:
        size = voxel_spacing
        levels = {size: real_numbers(volume, None, what)}
    for level in levels.values():
        if level.ndim != 3:
            raise ValueError(f"{what}: a volume has the axes z, y, x; found an array of shape {level.shape}")
    return levels, size


def add_tomogram_from_file(
    root: CopickRoot,
    run_name: str,
    tomo_type: str,
    file_path: File,
    voxel_spacing: float | None = None,
    file_type: str | None = None,
    create_pyramid: bool = True,
    pyramid_levels: int = 3,
    chunks: Sequence[int] = CHUNKS,
    transpose: str | None = None,
    flip: str | None = None,
    create: bool = True,
    exist_ok: bool = False,
    overwrite: bool = False,
    log: bool = False,
) -> CopickTomogram:
    """Add a tomogram from an MRC, TIFF, EM or OME-Zarr file. As `add_tomogram`.

    Args:
        voxel_spacing: None = as the file says; TIFF and EM files do not.
        file_type: "mrc", "tiff", "em" or "zarr"; None = as the file's name says.

    Raises:
        FileNotFoundError: There is no such file.
        FormatError: It cannot be read, or states no voxel size (also a ValueError).
    """
    volume, size = read_volume(file_path, file_type, voxel_spacing)
    return add_tomogram(
        root,
        run_name,
        tomo_type,
        volume,
        size,
        create,
        exist_ok,
        overwrite,
        create_pyramid,
        pyramid_levels,
        chunks,
        transpose,
        flip,
        log=log,
    )


def add_features(
    root: CopickRoot,
    run: str | CopickRun,
    voxel_spacing: float,
    tomo_type: str,
    feature_type: str,
    features_vol: npt.ArrayLike,
    exist_ok: bool = False,
    overwrite: bool = False,
    chunks: Sequence[int] = CHUNKS,
    meta: Mapping[str, Any] | None = None,
    log: bool = False,
) -> CopickFeatures:
    """Add features of a tomogram that exists: an array of any rank, the last axes z, y, x.

    Raises:
        UnknownNameError: There is no such run, voxel spacing or tomogram.
        AlreadyExistsError: There are such features.
    """
    owner = known_run(root, run)
    spacing = get_or_create_voxelspacing(owner, voxel_spacing, create=False)
    tomogram = spacing.get_tomogram(tomo_type)
    if tomogram is None:
        types = [each.tomo_type for each in spacing.tomograms]
        raise UnknownNameError(
            f"run {owner.name!r} has no tomogram {tomo_type!r} at {spacing.voxel_size:g} Å"
            f"{nearest(tomo_type, types)}; it has {', '.join(types) or 'none'}"
        )
    with filling(
        lambda ok: tomogram.new_features(feature_type, exist_ok=ok), exist_ok or overwrite
    ) as features:
        features.from_numpy(features_vol, chunks=chunks, metadata=meta)
    return said(log, features)


# Segmentations


def add_segmentation(
    root: CopickRoot,
    run: str | CopickRun,
    mask_path: File,
    voxel_spacing: float | None,
    name: str,
    user_id: str,
    session_id: str,
    multilabel: bool = False,
    instance: bool = False,
    panoptic: bool = False,
    transpose: str | None = None,
    flip: str | None = None,
    create: bool = True,
    exist_ok: bool = False,
    overwrite: bool = False,
    log: bool = False,
) -> CopickSegmentation:
    """Add a segmentation from a file, a binary one unless said otherwise. As `add_segmentation_from_file`."""
    return add_segmentation_from_file(
        root,
        name_of(run),
        mask_path,
        voxel_spacing,
        name,
        user_id,
        session_id,
        None,
        multilabel,
        instance,
        panoptic,
        transpose,
        flip,
        create,
        exist_ok,
        overwrite,
        log,
    )


def add_segmentation_from_file(
    root: CopickRoot,
    run_name: str,
    file_path: File,
    voxel_spacing: float | None,
    name: str,
    user_id: str,
    session_id: str,
    file_type: str | None = None,
    multilabel: bool | None = None,
    instance: bool = False,
    panoptic: bool = False,
    transpose: str | None = None,
    flip: str | None = None,
    create: bool = True,
    exist_ok: bool = False,
    overwrite: bool = False,
    log: bool = False,
) -> CopickSegmentation:
    """Add a segmentation from an MRC, TIFF, EM or OME-Zarr file. Its labels keep their values.

    Args:
        voxel_spacing: None = as the file says; TIFF and EM files do not.
        name: An object of the project; free for multilabel and panoptic segmentations.
        file_type: "mrc", "tiff", "em" or "zarr"; None = as the file's name says.
        multilabel: None = unless it is an instance or a panoptic one.
        panoptic: The file holds (2, z, y, x): labels and instance ids.
        transpose, flip: As in `add_tomogram`; of the axes z, y, x.

    Raises:
        UnknownNameError: There is no such run, and `create` is False.
        AlreadyExistsError: There is such a segmentation.
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read or states no voxel size, the project has no such object, or a value
            is no label.
    """
    volume, size = read_volume(file_path, file_type, voxel_spacing)
    rank = 4 if panoptic else 3
    if volume.ndim != rank:
        axes = "(2, z, y, x)" if panoptic else "(z, y, x)"
        raise FormatError(f"{file_path}: expected an array {axes}, found one of shape {volume.shape}")
    values = oriented(volume, transpose, flip)
    types: Any = {
        "is_multilabel": not (instance or panoptic) if multilabel is None else multilabel,
        "is_instance": instance,
        "is_panoptic": panoptic,
    }
    with (
        target_run(root, run_name, create, log) as owner,
        filling(
            lambda ok: owner.new_segmentation(size, name, session_id, user_id=user_id, exist_ok=ok, **types),
            exist_ok or overwrite,
        ) as segmentation,
    ):
        segmentation.from_numpy(values)
    return said(log, segmentation)


def read_volume(
    path: File, file_type: str | None, voxel_spacing: float | None
) -> tuple[npt.NDArray[Any], float]:
    """A file's voxels, and their size in ångström: the one given, else the file's own.

    Raises:
        FormatError: The file cannot be read, or states no voxel size, or the one given cannot be so.
    """
    from copick.util.path_util import get_data_from_file, get_format_from_extension

    name = os.fspath(path)
    kind = file_type or get_format_from_extension(name)
    if kind is None:
        raise FormatError(
            f"{name}: its name does not say the format; name it .mrc, .map, .rec, .tif, .tiff, .em or .zarr, "
            "or pass file_type"
        )
    if voxel_spacing is not None and not 0 < voxel_spacing < math.inf:
        raise FormatError(f"voxel_spacing {voxel_spacing}: expected a length in ångström, more than 0")
    volume, stated = get_data_from_file(name, kind)
    size = stated if voxel_spacing is None else voxel_spacing
    if not size:
        raise FormatError(f"{name}: the file states no voxel size; pass voxel_spacing in ångström")
    return volume, size


def oriented(volume: npt.NDArray[Any], transpose: str | None, flip: str | None) -> npt.NDArray[Any]:
    """`volume` (..., z, y, x) with its last three axes in another order, then some of them reversed.

    Raises:
        ValueError: The texts name no such axes.
    """
    first = volume.ndim - 3
    if transpose:
        order = _axes("transpose", transpose)
        if sorted(order) != [0, 1, 2]:
            raise ValueError(f"transpose {transpose!r}: expected each of 0, 1 and 2 once, such as '2,1,0'")
        volume = volume.transpose(*range(first), *(first + axis for axis in order))
    if flip:
        axes = _axes("flip", flip)
        if len({*axes}) != len(axes):
            raise ValueError(f"flip {flip!r}: names an axis twice")
        volume = np.flip(volume, tuple(first + axis for axis in axes))
    return volume


def _axes(what: str, text: str) -> list[int]:
    axes = [part.strip() for part in text.split(",")]
    if any(axis not in ("0", "1", "2") for axis in axes):
        raise ValueError(f"{what} {text!r}: expected axes 0 (z), 1 (y) and 2 (x), separated by commas")
    return [int(axis) for axis in axes]


# Objects


def add_object(
    root: CopickRoot,
    name: str,
    is_particle: bool,
    label: int | None = None,
    color: tuple[int, int, int, int] | None = None,
    emdb_id: str | None = None,
    pdb_id: str | None = None,
    identifier: str | None = None,
    map_threshold: float | None = None,
    radius: float | None = None,
    volume: npt.ArrayLike | None = None,
    voxel_size: float | None = None,
    metadata: dict[str, Any] | None = None,
    exist_ok: bool = False,
    save_config: bool = False,
    config_path: File | None = None,
    log: bool = False,
    filament: FilamentSpec | Mapping[str, Any] | None = None,
) -> CopickObject:
    """Declare an object, with its density map if `volume` is given; `save_config` makes it last.

    Args:
        label: None = one more than the highest there is.
        volume, voxel_size: The density map (z, y, x) and its voxel size.
        exist_ok: Update the object of that name.
        config_path: Where `save_config` writes.

    Raises:
        ValueError: The name cannot be used, the name or the label is taken, or the volume cannot be its map.
    """
    if save_config and not config_path:
        raise ConfigError("save_config needs config_path: the file to write")
    if volume is not None and voxel_size is None:
        raise FormatError(f"object {name!r}: the size of the volume's voxels is not known; pass voxel_size")
    if volume is not None and not is_particle:
        raise FormatError(f"object {name!r} is a region (is_particle is false): it has no density map")
    known = root.get_object(name) is not None
    added = root.new_object(
        name,
        is_particle,
        label,
        color,
        emdb_id,
        pdb_id,
        identifier,
        map_threshold,
        radius,
        metadata,
        exist_ok,
        filament,
    )
    try:
        if volume is not None and voxel_size is not None:
            added.from_numpy(volume, voxel_size)
        if save_config and config_path:
            root.save_config(config_path)
    except BaseException:
        if not known:
            added.delete(missing_ok=True)
        raise
    return said(log, added)


def add_object_volume(
    root: CopickRoot, object_name: str, volume: npt.ArrayLike, voxel_size: float, log: bool = False
) -> CopickObject:
    """Replace the density map (z, y, x) of an object.

    Raises:
        UnknownNameError: The project has no such object.
        ValueError: It is no particle, or the volume cannot be its map.
    """
    found = root.get_object(object_name)
    if found is None:
        names = [each.name for each in root.pickable_objects]
        raise UnknownNameError(
            f"the project has no object {object_name!r}{nearest(object_name, names)}; "
            f"it has {', '.join(names) or 'none'}"
        )
    found.from_numpy(volume, voxel_size)
    return said(log, found)
