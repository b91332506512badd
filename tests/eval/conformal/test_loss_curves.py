"""Counts of losses against masks made one by one, margins on anisotropic spacing against all pairs of voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.conformal.loss_curves import SETTINGS, bound_mask, loss_curves

SHAPES = {(9, 7): (0.4, 1.7), (5, 8, 6): (3.0, 0.7, 1.1), (1, 9, 8): (999.0, 0.5, 0.8)}


def brute_force(kind: str, setting: float, segmentation: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """A margin from the distances between all pairs of voxels."""
    centres = np.argwhere(np.ones(segmentation.shape, bool)) * np.array(spacing)
    inside = segmentation.ravel()
    if kind == "outer_margin_mm":
        if not inside.any():
            return segmentation.copy()
        return (cdist(centres, centres[inside]).min(1) <= setting).reshape(segmentation.shape)
    if inside.all():
        return segmentation.copy()
    return (inside & (cdist(centres, centres[~inside]).min(1) > setting)).reshape(segmentation.shape)


def random_case(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference, segmentation, probability; the latter two do not agree everywhere, as with several labels."""
    rng = np.random.default_rng(seed)
    reference = rng.random(shape) < 0.4
    logit = rng.normal(0, 8, shape) + np.where(reference, 3, -3)
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return reference, probability > rng.choice([0.4, 0.5, 0.6]), probability


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["outer_margin_mm", "inner_margin_mm"])
def test_margins_against_all_pairs(shape: tuple[int, ...], kind: str) -> None:
    spacing = SHAPES[shape]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        segmentation = np.zeros(shape, bool)
        low = [rng.integers(0, max(n // 2, 1)) for n in shape]
        segmentation[tuple(slice(a, a + max(n // 2, 1)) for a, n in zip(low, shape, strict=True))] = True
        segmentation &= rng.random(shape) < 0.9
        for setting in (0.0, 0.3, 0.5, 0.75, 1.0, 1.45, 2.0, 3.05, 4.7, 50.0):
            found = bound_mask(kind, setting, segmentation, spacing)
            np.testing.assert_array_equal(found, brute_force(kind, setting, segmentation, spacing))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_curve_has_what_each_mask_would_cost(shape: tuple[int, ...], kind: str, dtype: type) -> None:
    for seed in range(3):
        reference, segmentation, probability = random_case(shape, seed)
        probability = probability.astype(dtype)
        if dtype is np.float32:
            probability.ravel()[:6] = SETTINGS["outer_threshold"][[0, 1, 40, 160, 200, -1]]  # right on thresholds
        valid = np.random.default_rng(seed).random(shape) < 0.8
        curve = loss_curves(reference, segmentation, SHAPES[shape], probability, valid, sizes=True)[kind]
        for index, setting in enumerate(SETTINGS[kind]):
            mask = bound_mask(kind, float(setting), segmentation, SHAPES[shape], probability) & valid
            truth = reference & valid
            wrong, of = (truth & ~mask, truth) if kind.startswith("outer") else (mask & ~truth, mask)
            assert curve.size is not None and curve.size[index] == mask.sum()
            assert (curve.wrong[index], curve.of[index]) == (wrong.sum(), of.sum()), setting
            if of.any():
                assert curve.losses[index] == wrong.sum() / of.sum()


@pytest.mark.parametrize("kind", SETTINGS)
def test_masks_are_nested_and_the_last_setting_is_the_segmentation(kind: str) -> None:
    _, segmentation, probability = random_case((5, 8, 6), 1)
    masks = [bound_mask(kind, float(s), segmentation, (3.0, 0.7, 1.1), probability) for s in SETTINGS[kind]]
    np.testing.assert_array_equal(masks[-1], segmentation)
    for cautious, bold in itertools.pairwise(masks):
        assert (cautious | bold == (cautious if kind.startswith("outer") else bold)).all()
    if kind == "outer_threshold":
        assert masks[0].all()
    if kind == "inner_threshold":
        assert not masks[0].any()


def test_a_hand_counted_case() -> None:
    reference = np.array([[0, 1, 1, 1, 0, 0]], bool)
    segmentation = np.array([[0, 0, 0, 1, 1, 0]], bool)
    curves = loss_curves(reference, segmentation, (1.0, 2.0))
    grid = SETTINGS["outer_margin_mm"]
    losses = curves["outer_margin_mm"].losses
    assert (losses[grid < 2] == 2 / 3).all()
    assert (losses[(grid >= 2) & (grid < 4)] == 1 / 3).all()
    assert (losses[grid >= 4] == 0).all()
    inner = curves["inner_margin_mm"]
    assert (inner.losses[grid < 2] == 1 / 2).all()
    assert (inner.of[grid >= 2] == 0).all() and (inner.losses[grid >= 2] == 0).all()
    assert "outer_threshold" not in curves


def test_empty_masks() -> None:
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    some = empty.copy()
    some[1, 2] = True
    zero = np.zeros((4, 5), np.float32)

    missed = loss_curves(some, empty, (1.0, 1.0), zero)
    assert (missed["outer_margin_mm"].losses == 1).all()  # no margin finds what was not segmented at all
    assert missed["outer_threshold"].losses[0] == 0 and (missed["outer_threshold"].losses[1:] == 1).all()
    assert (missed["inner_margin_mm"].losses == 0).all() and (missed["inner_threshold"].losses == 0).all()

    nothing = loss_curves(empty, some, (1.0, 1.0), some.astype(np.float32))
    assert (nothing["outer_margin_mm"].of == 0).all() and (nothing["outer_margin_mm"].losses == 0).all()
    assert nothing["inner_threshold"].losses[0] == 0 and (nothing["inner_threshold"].losses[1:] == 1).all()

    assert all((curve.losses == 0).all() for curve in loss_curves(empty, empty, (1.0, 1.0), zero).values())
    whole = loss_curves(some, full, (1.0, 1.0))  # it has no border inside of the image
    assert (whole["inner_margin_mm"].losses == 19 / 20).all()
    assert bound_mask("inner_margin_mm", 100, full, (1.0, 1.0)).all()
    assert not bound_mask("outer_margin_mm", 100, empty, (1.0, 1.0)).any()


def test_settings_are_the_same_everywhere() -> None:
    thresholds, margins = SETTINGS["outer_threshold"], SETTINGS["inner_margin_mm"]
    assert (thresholds[0], thresholds[-1], margins[-1], margins[0]) == (0, 1, 0, 200)
    assert 0.5 in thresholds
    np.testing.assert_array_equal(thresholds, thresholds.astype(np.float32))
    assert (np.diff(thresholds) > 0).all() and (np.diff(margins) < 0).all()
    middle = thresholds[(thresholds > 1e-6) & (thresholds < 1 - 1e-4)]
    np.testing.assert_allclose(np.diff(np.log(middle / (1 - middle))), 0.1, atol=0.02)


def test_bad_input() -> None:
    mask = np.zeros((3, 4), bool)
    with pytest.raises(UserError, match=r"reference has \(4, 3\) voxels, the segmentation \(3, 4\)"):
        loss_curves(mask.T, mask, (1.0, 1.0))
    with pytest.raises(UserError, match="must be a bool array, got uint8"):
        loss_curves(mask.astype(np.uint8), mask, (1.0, 1.0))
    with pytest.raises(UserError, match=r"probabilities must be in \[0, 1\], got 0 to 2"):
        loss_curves(mask, mask, (1.0, 1.0), np.array([0.0, 2.0] * 6).reshape(3, 4))
    with pytest.raises(UserError, match="probabilities must be"):
        loss_curves(mask, mask, (1.0, 1.0), np.full((3, 4), np.nan))
    for spacing in ((1.0,), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(UserError, match="spacing must be 2 positive numbers"):
            loss_curves(mask, mask, spacing)
    with pytest.raises(UserError, match="needs the object's probabilities"):
        bound_mask("outer_threshold", 0.1, mask, (1.0, 1.0))
    with pytest.raises(UserError, match="mm >= 0, got -1"):
        bound_mask("outer_margin_mm", -1, mask, (1.0, 1.0))
