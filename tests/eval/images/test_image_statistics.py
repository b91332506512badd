"""Bright details or dark ones: by hand, and what may not change the answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from nnunet_robust.eval.images.image_statistics import ImageStatistics, polarity

FLAT = (999.0, 1.0, 1.0)


def spots(seed: int = 0, size: int = 96) -> np.ndarray:
    """Bright spots on grey (1, 1, rows, columns)."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size))
    image[tuple(rng.integers(8, size - 8, (2, 25)))] = 50
    return (100 + ndimage.gaussian_filter(image, 2) + rng.normal(0, 0.01, image.shape))[None, None].astype(np.float32)


def one(image: np.ndarray, spacing: tuple[float, ...] = FLAT) -> float:
    (found,) = polarity(image, spacing)
    assert found is not None
    return found


def test_bright_spots_and_dark_ones() -> None:
    image = spots()
    assert one(image) > 0.5
    assert one(200 - image) == pytest.approx(-one(image), abs=1e-4)


def test_against_scipy() -> None:
    image = spots(1)
    pixels = image[0, 0].astype(float)
    details = ndimage.gaussian_filter(pixels, 2) - ndimage.gaussian_filter(pixels, 4)
    cut = stats.mstats.winsorize(details.ravel(), (0.005, 0.005))
    assert one(image) == pytest.approx(stats.skew(np.asarray(cut)), rel=0.02)


def test_what_changes_nothing() -> None:
    image = spots()
    rising = image + np.linspace(0, 1, 96, dtype=np.float32)  # a bias
    assert one(3 * image - 500) == pytest.approx(one(image), abs=1e-3)
    assert one(rising) == pytest.approx(one(image), abs=0.15)
    noisy = image + np.random.default_rng(0).normal(0, 0.3, image.shape).astype(np.float32)
    assert one(noisy) == pytest.approx(one(image), abs=0.3)


def test_slices_lie_across_the_coarsest_axis() -> None:
    planes = np.stack([spots(seed)[0, 0] for seed in range(5)])
    volume = planes[None]
    along = one(volume, (5.0, 1.0, 1.0))
    assert one(np.moveaxis(volume, 1, 3), (1.0, 1.0, 5.0)) == pytest.approx(along)
    assert along == pytest.approx(np.mean([one(spots(seed)) for seed in range(5)]), abs=0.15)


def test_channels_by_themselves_and_nothing_to_measure() -> None:
    image = np.concatenate([spots(), 200 - spots(), np.full_like(spots(), 7.0)])
    bright, dark, nothing = polarity(image, FLAT)
    assert bright is not None and dark is not None and bright > 0 > dark and nothing is None
    found = ImageStatistics.of(image, FLAT)
    assert found.polarity == (bright, dark, nothing) and len(found.percentiles) == 3
