"""Three orthogonal slices through a tomogram with its picks, as a figure that could be printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from copick.errors import CopickError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from copick.arrays import ArraySource

    Picks = Mapping[str, tuple[npt.ArrayLike, Sequence[int], float | None]]
    Image = npt.NDArray[np.float32]

DPI = 200
# Inches.
WIDEST, TALLEST = 6.6, 6.8  # of the panels together: two columns of a journal
NARROWEST_FIGURE = 3.6
MARGIN, GAP, HEADER = 0.15, 0.14, 0.24
PANEL_TITLE = 0.21
NARROWEST_CELL = 1.05  # a panel's title must fit above it
LEGEND_ROW, LEGEND_KEY, LETTER = 0.21, 0.33, 0.053  # of the legend: a row, its circle, a letter


@dataclass(frozen=True)
class _View:
    """One slice: which array axes (0: z, 1: y, 2: x) run to the right and up, and which one is cut."""

    right: int
    up: int
    cut: int

    @property
    def name(self) -> str:
        return "zyx"[self.right] + "zyx"[self.up]


# y runs up, as in IMOD; the side views keep the axis they share with the xy panel aligned with it.
_XY, _ZY, _XZ = _View(2, 1, 0), _View(0, 1, 2), _View(2, 0, 1)


@dataclass(frozen=True)
class _Layout:
    """Where everything goes, in inches from the lower left corner: (left, bottom, width, height)."""

    size: tuple[float, float]
    panels: dict[_View, tuple[float, float, float, float]]
    legend: tuple[float, float, int]  # left, top, columns


def draw_orthogonal(
    volume: npt.NDArray[Any] | ArraySource,
    voxel_size: float,
    points: Picks,
    path: str | os.PathLike[str],
    title: str,
    center: Sequence[int] | None = None,
    slab: int = 1,
) -> Path:
    """Write a figure of the xy, zy and xz slices through a voxel, all at one scale.

    A pick is drawn where the slice cuts its sphere, as the circle of that cut (unless it grazes it).

    Args:
        volume: (z, y, x); only the three slices are read.
        voxel_size: Å.
        points: Name → ((n, 3) centres in Å, columns x, y, z; colour, 3 or 4 of 0..255; radius in Å, `None`
            for five voxels).
        path: Where to write. The suffix tells the format: `.png`, `.pdf`, `.svg`.
        title: Above the figure.
        center: Voxel (z, y, x) that all three slices go through; the middle of the volume if `None`.
        slab: Show the mean of this many slices, for noisy data.

    Returns:
        The path.

    Raises:
        CopickError: matplotlib is not installed, or the file cannot be written.
        ValueError: The volume has not three axes, or is empty.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CopickError(f"a picture needs matplotlib ({error}): pip install 'copick[plot]'") from error
    shape = tuple(int(size) for size in volume.shape)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"a picture needs a volume of three axes that are not empty, not {shape}")
    wanted = [size // 2 for size in shape] if center is None else [int(at) for at in center]
    cut_at = [min(max(at, 0), size - 1) for at, size in zip(wanted, shape, strict=True)]
    drawn = {name: entry for name, entry in points.items() if np.size(entry[0])}
    images = {view: _slice(volume, view, cut_at, slab) for view in (_XY, _ZY, _XZ)}
    limits = _contrast(images.values())

    labels = [f"{name} ({len(np.reshape(places, (-1, 3)))})" for name, (places, _, _) in drawn.items()]
    layout = _lay_out(shape, labels)
    figure = Figure(figsize=layout.size, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for view, image in images.items():
        axes = _add_panel(figure, layout, view)
        axes.imshow(
            image, cmap="gray", vmin=limits[0], vmax=limits[1], origin="lower", interpolation="antialiased"
        )
        _draw_picks(axes, view, cut_at, voxel_size, drawn)
        _annotate(axes, view, cut_at, voxel_size)
    _draw_scale_bar(figure.axes[0], shape[2], voxel_size, layout.panels[_XY][3])
    width, height = layout.size
    left = layout.panels[_XY][0]
    # Letters are about 0.62 of their size wide.
    size = min(9.5, (width - 2 * left) * 72 / (0.62 * max(len(title), 1)))
    figure.text(left / width, 1 - MARGIN / height, title, ha="left", va="top", size=size, weight="bold")
    _draw_legend(figure, layout, drawn, labels)
    target = Path(path)
    try:
        figure.savefig(target, dpi=DPI)
    except OSError as error:
        raise CopickError(f"the picture {target} could not be written: {error}") from error
    return target


def _lay_out(shape: Sequence[int], labels: Sequence[str]) -> _Layout:
    """xy with zy to its right and xz below it; the legend in the corner if it fits there, below if not."""
    depth, height, width = (float(size) for size in shape)
    scale = min(WIDEST / (width + depth), TALLEST / (height + depth))
    depth, height, width = depth * scale, height * scale, width * scale
    left_cell, right_cell = max(width, NARROWEST_CELL), max(depth, NARROWEST_CELL)
    label_width = LEGEND_KEY + LETTER * max(map(len, labels), default=0)
    inside = left_cell + GAP + right_cell
    figure_width = max(inside, NARROWEST_FIGURE, min(WIDEST, label_width)) + 2 * MARGIN
    left = (figure_width - inside) / 2
    in_corner = depth >= LEGEND_ROW * len(labels) and right_cell >= label_width
    columns = 1 if in_corner else min(len(labels), max(1, int((figure_width - 2 * MARGIN) / label_width)))
    below = 0.0 if in_corner or not labels else LEGEND_ROW * -(-len(labels) // columns) + 0.12
    xz_bottom = MARGIN + below
    xy_bottom = xz_bottom + depth + PANEL_TITLE + 0.06
    figure_height = xy_bottom + height + PANEL_TITLE + HEADER + MARGIN
    zy_left = left + left_cell + GAP
    return _Layout(
        size=(figure_width, figure_height),
        panels={
            _XY: (left, xy_bottom, width, height),
            _ZY: (zy_left, xy_bottom, depth, height),
            _XZ: (left, xz_bottom, width, depth),
        },
        legend=(zy_left + 0.02, xz_bottom + depth, 1)
        if in_corner
        else (MARGIN, MARGIN + below - 0.12, columns),
    )


def _slice(volume: npt.NDArray[Any] | ArraySource, view: _View, cut_at: Sequence[int], slab: int) -> Image:
    """The mean of `slab` slices around the cut, rows going up and columns to the right."""
    size = volume.shape[view.cut]
    first = min(max(cut_at[view.cut] - (slab - 1) // 2, 0), size - 1)
    where = [slice(None)] * 3
    where[view.cut] = slice(first, min(first + max(slab, 1), size))
    mean = np.asarray(volume[tuple(where)], np.float32).mean(axis=view.cut)
    return np.asarray(mean.T if view.right < view.up else mean)


def _contrast(images: Iterable[Image]) -> tuple[float, float]:
    """Grey levels for black and white: the 1st and the 99th percentile of all that is shown."""
    finite = np.concatenate([image[np.isfinite(image)] for image in images])
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(level) for level in np.percentile(finite, [1, 99]))
    if high <= low:  # a mask, or nothing: its whole range
        low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _add_panel(figure: Figure, layout: _Layout, view: _View) -> Axes:
    left, bottom, width, height = layout.panels[view]
    across, up = layout.size
    return figure.add_axes((left / across, bottom / up, width / across, height / up), label=view.name)


def _annotate(axes: Axes, view: _View, cut_at: Sequence[int], voxel_size: float) -> None:
    """The panel's title, and ticks at its edges where the other two slices are."""
    position = cut_at[view.cut] * voxel_size / 10
    axes.set_title(f"{view.name}   {'zyx'[view.cut]} = {position:.1f} nm", loc="left", size=7.5, pad=3.5)
    axes.set_xticks([cut_at[view.right]], [""])
    axes.set_yticks([cut_at[view.up]], [""])
    axes.tick_params(length=3, width=0.7, direction="out", right=True, color="0.35")
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)


def _draw_picks(axes: Axes, view: _View, cut_at: Sequence[int], voxel_size: float, points: Picks) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Circle

    for places, color, radius in points.values():
        centres = np.asarray(places, np.float64).reshape(-1, 3)[:, ::-1] / voxel_size  # z, y, x in voxels
        size = radius / voxel_size if radius else 5.0
        cut = size**2 - (centres[:, view.cut] - cut_at[view.cut]) ** 2
        seen = cut > (0.4 * size) ** 2
        circles = [
            Circle((centre[view.right], centre[view.up]), float(reach))
            for centre, reach in zip(centres[seen], np.sqrt(cut[seen]), strict=True)
        ]
        axes.add_collection(
            PatchCollection(circles, facecolor="none", edgecolor=_rgb(color), linewidth=1.0), autolim=False
        )


def _draw_scale_bar(axes: Axes, width: int, voxel_size: float, height_in: float) -> None:
    """A bar of a round length in nm, about a quarter of the panel, in its lower left corner."""
    from matplotlib.patheffects import withStroke

    extent_nm = width * voxel_size / 10
    magnitude = 10.0 ** np.floor(np.log10(extent_nm / 3))
    length_nm = max(factor * magnitude for factor in (1, 2, 5) if factor * magnitude <= extent_nm / 3)
    share = length_nm / extent_nm
    start, level = 0.04, 0.13 / height_in
    outline = [withStroke(linewidth=4.2, foreground="black")]
    axes.plot(
        [start, start + share],
        [level, level],
        transform=axes.transAxes,
        color="white",
        linewidth=2.6,
        solid_capstyle="butt",
        path_effects=outline,
        scalex=False,
        scaley=False,
    )
    axes.text(
        start + share / 2,
        level + 0.04 / height_in,
        f"{length_nm:g} nm",
        transform=axes.transAxes,
        ha="center",
        va="bottom",
        size=8,
        color="white",
        weight="bold",
        path_effects=[withStroke(linewidth=2.2, foreground="black")],
    )


def _draw_legend(figure: Figure, layout: _Layout, points: Picks, labels: Sequence[str]) -> None:
    """Each object's circle, name and number of picks in the whole volume."""
    from matplotlib.lines import Line2D

    if not points:
        return
    left, top, columns = layout.legend
    keys = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=6,
            markerfacecolor="none",
            markeredgecolor=_rgb(color),
        )
        for _, color, _ in points.values()
    ]
    figure.legend(
        keys,
        labels,
        loc="upper left",
        bbox_to_anchor=(left / layout.size[0], top / layout.size[1]),
        ncols=columns,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handletextpad=0.3,
        columnspacing=1.2,
        fontsize=7.5,
    )


def _rgb(color: Sequence[int]) -> tuple[float, float, float]:
    red, green, blue = (min(max(int(part), 0), 255) / 255 for part in color[:3])
    return red, green, blue
