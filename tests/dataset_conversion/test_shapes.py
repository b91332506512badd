from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, label
from scipy.spatial import ConvexHull
from scipy.stats import mannwhitneyu

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.dataset_conversion.shapes import FOREGROUND_SHARE, SHAPES, ShapeStyle, _closed_curve, bezier_shape

SIZE = (64, 96)


@functools.cache
def masks(difficulty: str) -> list[np.ndarray]:
    return [bezier_shape(SIZE, numpy_generator(seed), difficulty) for seed in range(200)]


@pytest.mark.parametrize("difficulty", SHAPES)
def test_every_shape_is_one_solid_piece_inside_the_image(difficulty: str) -> None:
    for seed, mask in enumerate(masks(difficulty)):
        assert mask.shape == SIZE and mask.dtype == bool
        assert FOREGROUND_SHARE[0] <= mask.mean() <= FOREGROUND_SHARE[1], seed
        assert label(mask)[1] == 1, f"seed {seed}: several pieces"
        assert label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1] == 1, f"seed {seed}: a hole"
        assert mask[2:-2, 2:-2].sum() == mask.sum(), f"seed {seed}: within two pixels of the border"


def isoperimetric_ratio(mask: np.ndarray) -> float:
    """4 pi area / perimeter**2 with the perimeter counted in boundary pixels: near 1 for a disk, small for ragged."""
    return 4 * np.pi * mask.sum() / (mask & ~binary_erosion(mask)).sum() ** 2


def solidity(mask: np.ndarray) -> float:
    """Share of the convex hull (of the pixels' corners) that the mask fills: 1 for a convex shape."""
    corners = np.argwhere(mask)[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return mask.sum() / ConvexHull(corners.reshape(-1, 2)).volume


@pytest.mark.parametrize("compactness", [isoperimetric_ratio, solidity])
def test_harder_shapes_are_less_compact(compactness) -> None:
    measured = {difficulty: [compactness(mask) for mask in masks(difficulty)] for difficulty in SHAPES}
    assert list(measured) == ["easy", "normal", "hard"]
    for easier, harder in pairwise(measured.values()):
        assert np.median(easier) > np.median(harder)
        assert mannwhitneyu(easier, harder, alternative="greater").pvalue < 1e-6


def test_shapes_vary_in_place_and_size() -> None:
    centres = np.array([np.argwhere(mask).mean(axis=0) / SIZE for mask in masks("normal")])
    assert (centres.std(axis=0) > 0.05).all()
    assert np.std([mask.mean() for mask in masks("normal")]) > 0.03


def test_same_seed_same_shape() -> None:
    assert np.array_equal(bezier_shape(SIZE, numpy_generator(7)), bezier_shape(SIZE, numpy_generator(7)))
    assert not np.array_equal(bezier_shape(SIZE, numpy_generator(7)), bezier_shape(SIZE, numpy_generator(8)))


def test_the_smallest_image_takes_every_shape() -> None:
    for difficulty in SHAPES:
        for seed in range(20):
            assert bezier_shape((16, 16), numpy_generator(seed), difficulty).any()


SQUARE = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # not in order of angle


def test_curve_without_handles_is_the_polygon_through_the_sorted_points() -> None:
    curve = _closed_curve(SQUARE, ShapeStyle(4, radius=0.0, edginess=0.0))
    on_side = np.isclose(curve, 0) | np.isclose(curve, 1)
    assert on_side.any(axis=1).all()  # never through the middle, as the unsorted points would
    for corner in SQUARE:
        assert np.isclose(curve, corner).all(axis=1).any()


def test_curve_of_a_square_is_the_circle_known_from_drawing_programs() -> None:
    # Four cubic segments are a circle to 0.03 % with handles of 4/3 tan(pi/8) radii; the side is sqrt(2) radii.
    handle = 4 / 3 * np.tan(np.pi / 8) / np.sqrt(2)
    curve = _closed_curve(SQUARE, ShapeStyle(4, radius=handle, edginess=0.0))
    distance = np.linalg.norm(curve - 0.5, axis=1)
    assert np.allclose(distance, np.sqrt(0.5), rtol=5e-4)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UserError, match="easy, normal, hard, got 'insane'"):
        bezier_shape(SIZE, numpy_generator(0), "insane")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 16 pixels"):
        bezier_shape((15, 64), numpy_generator(0))
