"""Random closed Bézier shapes, the masks of Kamath et al. 2023, from smooth blobs to spiky stars."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.draw import polygon
from skimage.measure import label

from nnunet_robust.common.errors import UserError

Difficulty = Literal["easy", "normal", "hard"]


class ShapeStyle(NamedTuple):
    """What makes a shape smooth or ragged.

    Attributes:
        num_points: how many random points the curve goes through; more of them make more lobes.
        radius: length of the Bézier handles, as a share of the distance to the next point; 0 gives a polygon.
        edginess: 0 lets the tangent halve the angle between a point's two sides, which is smoothest; the larger it is,
            the more the tangent follows the incoming side, and the sharper the corner that follows.
    """

    num_points: int
    radius: float
    edginess: float


SHAPES: dict[str, ShapeStyle] = {
    "easy": ShapeStyle(num_points=4, radius=0.4, edginess=0.0),
    "normal": ShapeStyle(num_points=7, radius=0.3, edginess=0.2),
    "hard": ShapeStyle(num_points=14, radius=0.15, edginess=1.0),
}

FOREGROUND_SHARE = (0.05, 0.4)
"""The bounds of a mask's share of the image."""

SMALLEST_SIDE = 16
"""The least side of an image, in pixels; in smaller images shapes have too few pixels to differ."""

_EXTENT = (0.4, 0.85)  # of the image's sides, that a shape spans
_MARGIN = 2  # pixels between a shape and the image's border
_SAMPLES = 50  # points drawn on each Bézier segment


def bezier_shape(size: tuple[int, int], rng: np.random.Generator, difficulty: Difficulty = "normal") -> np.ndarray:
    """Draw a random closed shape without holes, at a random place, wholly inside the image.

    Random points, sorted by their angle around their mean, are joined by cubic Bézier segments whose handles follow a
    tangent shared by neighbouring segments. Curves that come out in several pieces, or too small or too large, are
    drawn anew.

    Args:
        size: (H, W) of the image in pixels, each at least `SMALLEST_SIDE`.
        rng: the source of randomness; the number of draws depends on the shape.
        difficulty: a row of `SHAPES`.

    Returns:
        A bool array (H, W): one 4-connected component, at least two pixels off the border, its share of the pixels
        within `FOREGROUND_SHARE`.

    Raises:
        UserError: `size` is too small, or there is no such difficulty.

    Reference: masks as in Kamath et al., "Do we really need that skip-connection?", MICCAI 2023.
    """
    if difficulty not in SHAPES:
        raise UserError(f"shape must be one of {', '.join(get_args(Difficulty))}, got {difficulty!r}")
    if min(size) < SMALLEST_SIDE:
        raise UserError(f"shapes need images of at least {SMALLEST_SIDE} pixels a side, got {size}")
    style = SHAPES[difficulty]
    while True:
        curve = _closed_curve(rng.random((style.num_points, 2)), style)
        mask = _rasterise(_place(curve, size, rng), size)
        low, high = FOREGROUND_SHARE
        if low <= mask.mean() <= high and label(mask, connectivity=1).max() == 1:
            return mask


def _closed_curve(points: np.ndarray, style: ShapeStyle) -> np.ndarray:
    """Return the closed smooth curve through `points` (n, 2), sorted by angle, as a polygon (n * _SAMPLES, 2)."""
    offsets = points - points.mean(axis=0)
    start = points[np.argsort(np.arctan2(offsets[:, 1], offsets[:, 0]))]
    end = np.roll(start, -1, axis=0)
    side = end - start
    length = np.linalg.norm(side, axis=1, keepdims=True)
    direction = side / length
    share = 0.5 + np.arctan(style.edginess) / np.pi  # of the incoming side in a point's tangent
    tangent = share * np.roll(direction, 1, axis=0) + (1 - share) * direction
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    handle_out = start + style.radius * length * tangent
    handle_in = end - style.radius * length * np.roll(tangent, -1, axis=0)

    t = np.linspace(0, 1, _SAMPLES, endpoint=False)[:, None, None]
    curve = (
        (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * handle_out + 3 * (1 - t) * t**2 * handle_in + t**3 * end
    )  # (_SAMPLES, n, 2)
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def _place(curve: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Scale a curve to a random part of the image and move it to a random place off the border; in pixels."""
    sides = np.array(size) - 1 - 2 * _MARGIN
    low, high = curve.min(axis=0), curve.max(axis=0)
    extent = rng.uniform(*_EXTENT, size=2) * sides
    corner = _MARGIN + rng.random(2) * (sides - extent)
    return corner + (curve - low) / (high - low) * extent


def _rasterise(curve: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels inside the curve; what the curve's own crossings leave open is filled."""
    mask: np.ndarray = np.zeros(size, dtype=bool)
    mask[polygon(curve[:, 0], curve[:, 1], shape=size)] = True
    return binary_fill_holes(mask)
