"""Pictures are decoded again and looked at: slices, circles and their colours are where they should be."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from copick.demo.picture import draw_orthogonal
from copick.errors import CopickError

matplotlib = pytest.importorskip("matplotlib")

if TYPE_CHECKING:
    from pathlib import Path

RED, BLUE = (255, 0, 0, 255), (0, 0, 255, 255)


def decoded(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    pixels: np.ndarray = imread(path)
    return pixels[..., :3]


def near(pixels: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    return (np.abs(pixels - np.array(color[:3]) / 255) < 0.2).all(axis=-1)


@pytest.mark.parametrize(
    "shape", [(36, 206, 94), (184, 630, 630), (8, 400, 400), (200, 32, 32), (1, 1, 1), (40, 20, 600)]
)
def test_every_proportion_gives_a_picture_of_sane_size(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    points = {"a": (np.array(shape)[None, ::-1] * 5.0, RED, 50.0)}
    path = draw_orthogonal(volume, 10.0, points, tmp_path / "p.png", "title " * 8)
    pixels = decoded(path)
    height, width, _ = pixels.shape
    assert 700 <= width <= 1700
    assert 200 <= height <= 1900
    assert pixels.std() > 0.05
    assert near(pixels, RED).any()
    edge = np.concatenate(
        [pixels[:5].ravel(), pixels[-5:].ravel(), pixels[:, :5].ravel(), pixels[:, -5:].ravel()]
    )
    assert (edge == 1).all(), "something sticks out of the figure"


def test_circles_are_around_what_they_mark(tmp_path: Path) -> None:
    volume = np.zeros((40, 100, 80), np.float32)
    z, y, x = np.indices(volume.shape)
    volume[(z - 20) ** 2 + (y - 70) ** 2 + (x - 30) ** 2 <= 8**2] = 1
    points = {"ball": ([[300.0, 700.0, 200.0]], RED, 120.0), "far": ([[300.0, 300.0, 20.0]], BLUE, 120.0)}
    pixels = decoded(draw_orthogonal(volume, 10.0, points, tmp_path / "p.png", "", center=(20, 70, 30)))
    # Only the xy panel: the crop leaves out the other two and the legend.
    panel = pixels[: int(len(pixels) * 0.62), : int(pixels.shape[1] * 0.62)]
    rows, columns = np.nonzero(near(panel, RED))
    middle = (int((rows.min() + rows.max()) / 2), int((columns.min() + columns.max()) / 2))
    radius = (rows.max() - rows.min()) / 2
    assert abs((columns.max() - columns.min()) / 2 - radius) <= 2  # equal scale on both axes
    assert (panel[middle] == 1).all()
    just_inside = middle[0], round(middle[1] + radius * 0.85)
    assert (panel[just_inside] == 0).all()
    assert (panel[middle[0], round(middle[1] + radius * 0.6)] == 1).all()  # 8 of 12 voxels
    assert not near(panel, BLUE).any(), "a pick far from the slice was drawn"


def test_masks_and_constants(tmp_path: Path) -> None:
    mask = np.zeros((30, 60, 60), np.uint8)
    mask[14:17, 20:25, 20:25] = 1
    pixels = decoded(draw_orthogonal(mask, 10.0, {}, tmp_path / "mask.png", "mask", center=(15, 22, 22)))
    assert near(pixels[300:], (0, 0, 0)).mean() > 0.3
    draw_orthogonal(np.full((8, 8, 8), np.nan, np.float32), 1.0, {}, tmp_path / "nan.png", "nothing")
    draw_orthogonal(
        np.zeros((8, 8, 8), bool), 1.0, {"none": (np.empty((0, 3)), RED, None)}, tmp_path / "no.png", ""
    )


def test_only_the_slices_are_read(tmp_path: Path) -> None:
    read: list[tuple[slice, ...]] = []

    class Lazy:
        shape = (40, 50, 60)

        def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
            read.append(index)
            return np.random.default_rng(0).random((40, 50, 60))[index]

    lazy: Any = Lazy()
    draw_orthogonal(lazy, 10.0, {}, tmp_path / "p.png", "lazy", center=(39, 0, 999), slab=3)
    whole = slice(None)
    assert read == [
        (slice(38, 40), whole, whole),
        (whole, whole, slice(58, 60)),
        (whole, slice(0, 3), whole),
    ]


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_vector_formats(tmp_path: Path, suffix: str) -> None:
    path = draw_orthogonal(np.random.rand(32, 32, 32), 10.0, {}, tmp_path / f"p.{suffix}", "vector")
    assert path.stat().st_size > 1000


def test_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = np.zeros((8, 8, 8))
    with pytest.raises(CopickError, match="could not be written"):
        draw_orthogonal(volume, 10.0, {}, tmp_path / "missing" / "p.png", "")
    with pytest.raises(ValueError, match="three axes"):
        draw_orthogonal(volume[0], 10.0, {}, tmp_path / "p.png", "")
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CopickError, match=r"pip install 'copick\[plot\]'"):
        draw_orthogonal(volume, 10.0, {}, tmp_path / "p.png", "")


@pytest.mark.parametrize("shape", [(184, 630, 630), (36, 206, 94), (20, 600, 60)])
def test_long_names_fit(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    places = np.array(shape)[None, ::-1] * 5.0
    names = ["short", "thyroglobulin, template-matching/0", "a-name-of-reasonable-length", "x"]
    points = dict.fromkeys(names, (places, RED, 40.0))
    pixels = decoded(
        draw_orthogonal(np.zeros(shape, np.uint8), 10.0, points, tmp_path / "p.png", "long names")
    )
    assert (pixels[:, -8:] == 1).all()
