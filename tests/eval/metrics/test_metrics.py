"""Hand-computed shapes on anisotropic spacing, the table of empty masks, a brute-force oracle, and surface-distance."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import surface_distance
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.metrics import surface
from nnunet_robust.eval.metrics.metrics import (
    METRIC_INFO,
    METRICS,
    Reference,
    SegmentationMetrics,
    case_metrics,
    segmentation_metrics,
)

# surface-distance 0.1 still writes scipy.ndimage.filters
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


def box(shape: tuple[int, ...], *bounds: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*b) for b in bounds)] = True
    return mask


# --- by hand


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_grown_rectangle_2d(k: int, axis: int) -> None:
    """A rectangle of a x w voxels and the same one, k voxels longer along the first axis.

    Contour elements sit at the corners of voxels: length t along the top, s along a side, half a diagonal at a
    corner. t is so large that the nearest element always lies in the same column.
    """
    a, w, s, t = 6, 9, 0.5, 40.0
    half = 0.5 * math.hypot(s, t)
    reference = box((16, 16), (2, 2 + a), (3, 3 + w))
    prediction = box((16, 16), (2, 2 + a + k), (3, 3 + w))
    spacing = (s, t)
    if axis == 1:
        reference, prediction, spacing = reference.T, prediction.T, (t, s)
    result = segmentation_metrics(reference, prediction, spacing, tolerance_mm=(k - 0.5) * s)

    top = (w - 1) * t
    length_ref = 2 * top + 2 * (a - 1) * s + 4 * half
    length_pred = 2 * top + 2 * (a + k - 1) * s + 4 * half
    sum_ref = top * k * s
    sum_pred = top * k * s + 2 * half * k * s + 2 * s * s * sum(range(1, k))
    assert result.hd95_mm == pytest.approx(k * s)
    assert result.assd_mm == pytest.approx((sum_ref + sum_pred) / (length_ref + length_pred))
    too_far = top + top + 2 * half  # both tops and the prediction's upper corners
    assert result.nsd == pytest.approx(1 - too_far / (length_ref + length_pred))
    assert segmentation_metrics(reference, prediction, spacing, k * s).nsd == 1
    assert result.dice == pytest.approx(2 * a / (2 * a + k))
    assert result.iou == pytest.approx(a / (a + k))
    assert result.volume_ratio == pytest.approx((a + k) / a)
    assert (result.n_ref, result.n_pred, result.outcome) == (a * w, (a + k) * w, "ok")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_slab_3d(axis: int) -> None:
    """Two wide flat boxes, k voxels apart along a thin axis: both faces of each are k * s from the other's."""
    k, s, t = 2, 0.7, 500.0
    reference = box((20, 14, 14), (3, 9), (2, 12), (2, 12))
    prediction = np.roll(reference, k, axis=0)
    spacing = [s, t, t]
    reference, prediction = np.moveaxis(reference, 0, axis), np.moveaxis(prediction, 0, axis)
    spacing.insert(axis, spacing.pop(0))
    result = segmentation_metrics(reference, prediction, spacing, tolerance_mm=0.99 * k * s)
    assert result.hd95_mm == pytest.approx(k * s)
    # a face's inner 9 x 9 elements have area t * t; its rim's elements, partly at distance 0, are the rest
    assert result.assd_mm == pytest.approx(k * s, rel=0.12)
    assert result.assd_mm <= k * s
    assert result.nsd < 0.12
    assert segmentation_metrics(reference, prediction, spacing, k * s + 1e-9).nsd == 1
    assert result.dice == pytest.approx(4 / 6)
    assert result.iou == pytest.approx(4 / 8)


def test_far_apart_voxels() -> None:
    """Single voxels, five apart along an axis of 3 mm: each of the four corners is 15 mm from its twin, 12 at best."""
    reference, prediction = box((8, 12), (4, 5), (2, 3)), box((8, 12), (4, 5), (7, 8))
    result = segmentation_metrics(reference, prediction, (2.0, 3.0), tolerance_mm=12.0)
    # the corners at columns 2 and 3 against those at 7 and 8: 15 and 12 mm, equally long
    assert result.hd95_mm == pytest.approx(15)
    assert result.assd_mm == pytest.approx(13.5)
    assert result.nsd == pytest.approx(0.5)
    assert (result.dice, result.iou, result.volume_ratio, result.outcome) == (0, 0, 1, "ok")


@pytest.mark.parametrize(("width", "expected"), [(32, 0.0), (21, 8.0)])
def test_hd95_forgives_a_speck_below_five_percent_of_the_surface(width: int, expected: float) -> None:
    """A bar of 2 x width voxels, found, and one voxel too many, whose nearer corners are 8 mm below the bar.

    The speck's contour has 2.83 mm; the bar's 66.8 or 44.8 mm: 4.1 or 5.9 % of the whole.
    """
    reference = box((14, 40), (0, 2), (2, 2 + width))
    prediction = reference | box((14, 40), (10, 11), (9, 10))
    assert segmentation_metrics(reference, prediction, (1, 1), 1).hd95_mm == pytest.approx(expected)


def test_small_masks_by_hand() -> None:
    reference = np.array([[1, 1, 0], [0, 1, 0]], bool)
    prediction = np.array([[0, 1, 1], [0, 1, 0]], bool)
    result = segmentation_metrics(reference, prediction, (1, 1), 0)
    assert result.dice == pytest.approx(2 * 2 / 6)
    assert result.iou == pytest.approx(2 / 4)


# --- shapes that trip libraries


@pytest.mark.parametrize(
    "mask",
    [
        box((5, 5), (2, 3), (2, 3)),  # one voxel
        box((5, 5), (2, 3), (0, 5)),  # one voxel thick, through the image
        box((5, 5), (0, 5), (0, 5)),  # the whole image
        box((1, 5), (0, 1), (0, 5)),
        box((4, 5, 6), (1, 2), (1, 2), (1, 2)),
        box((4, 5, 6), (2, 3), (0, 5), (0, 6)),  # a sheet, touching four borders
        box((4, 5, 6), (0, 4), (0, 5), (0, 6)),
        box((4, 5, 6), (3, 4), (4, 5), (5, 6)),  # the last corner
        np.indices((6, 6, 6)).sum(axis=0) % 2 == 0,  # a checkerboard
    ],
)
def test_identical_masks(mask: np.ndarray) -> None:
    result = segmentation_metrics(mask, mask.copy(), (2.0, 0.5, 3.0)[: mask.ndim], 0.0)
    n = int(mask.sum())
    assert result == SegmentationMetrics(1.0, 1.0, 0.0, 0.0, 1.0, 1.0, n, n, "ok")


def test_the_border_of_the_image_is_a_surface() -> None:
    """Cutting an image along an object does not change what is measured of it."""
    reference, prediction = box((12, 12, 12), (0, 6), (0, 5), (3, 9)), box((12, 12, 12), (0, 7), (0, 5), (4, 12))
    padded = segmentation_metrics(np.pad(reference, 3), np.pad(prediction, 3), (1, 2, 3), 1)
    assert segmentation_metrics(reference, prediction, (1, 2, 3), 1) == padded


def test_layout_in_memory_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 9, 10, 11)) > 0.6
    expected = segmentation_metrics(reference, prediction, (1, 2, 3), 1)
    assert segmentation_metrics(np.asfortranarray(reference), prediction[::-1][::-1], (1, 2, 3), 1) == expected
    reference.flags.writeable = False
    assert segmentation_metrics(reference, prediction, np.array([1, 2, 3], np.float32), 1) == expected


def test_plain_python_numbers() -> None:
    mask = box((5, 5), (1, 3), (1, 4))
    result = segmentation_metrics(mask, np.roll(mask, 1), np.array([1.0, 2.0]), np.float32(1))
    for field in dataclasses.fields(result):
        assert type(getattr(result, field.name)) in (float, int, str), field.name


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_symmetric(shift: int) -> None:
    mask, other = box((9, 20, 20), (2, 6), (3, 9), (4, 12)), box((9, 20, 20), (3, 6), (3 + shift, 10), (5, 12))
    one, two = (segmentation_metrics(*pair, (3.0, 1.0, 0.8), 1.5) for pair in ((mask, other), (other, mask)))
    for name in ("dice", "iou", "hd95_mm", "assd_mm", "nsd"):
        assert getattr(one, name) == pytest.approx(getattr(two, name))
    assert one.volume_ratio == pytest.approx(1 / two.volume_ratio)
    assert (one.n_ref, one.n_pred) == (two.n_pred, two.n_ref)


def test_a_2d_image_with_a_leading_axis_is_2d() -> None:
    reference, prediction = box((14, 15), (2, 8), (3, 9)), box((14, 15), (4, 8), (2, 11))
    flat = segmentation_metrics(reference, prediction, (0.5, 2.0), 1.0)
    assert segmentation_metrics(reference[None], prediction[None], (999.0, 0.5, 2.0), 1.0) == flat


def test_other_axes_of_length_one_stay() -> None:
    """A stack one row high is still a volume: its voxels have faces above and below."""
    reference, prediction = box((6, 1, 8), (1, 4), (0, 1), (2, 6)), box((6, 1, 8), (1, 5), (0, 1), (2, 6))
    padded = segmentation_metrics(np.pad(reference, 1), np.pad(prediction, 1), (1, 2, 3), 1)
    assert segmentation_metrics(reference, prediction, (1, 2, 3), 1) == padded


# --- the table of empty masks


@pytest.mark.parametrize(
    ("shape", "spacing", "diagonal"),
    [
        ((30, 40), (2.0, 2.0), 100.0),
        ((1, 30, 40), (999.0, 2.0, 2.0), 100.0),
        ((10, 20, 20), (3.0, 3.0, 1.5), math.sqrt(30**2 + 60**2 + 30**2)),
    ],
)
def test_empty_masks(shape: tuple[int, ...], spacing: tuple[float, ...], diagonal: float) -> None:
    empty, full = np.zeros(shape, bool), np.zeros(shape, bool)
    full[..., 2:5, 2:4] = True
    n = int(full.sum())
    both = segmentation_metrics(empty, empty.copy(), spacing, 1.0)
    assert both == SegmentationMetrics(1, 1, 0, 0, 1, 1, 0, 0, "both_empty")
    missed = segmentation_metrics(full, empty, spacing, 1.0)
    assert missed == SegmentationMetrics(0, 0, pytest.approx(diagonal), pytest.approx(diagonal), 0, 0, n, 0, "missed")
    invented = segmentation_metrics(empty, full, spacing, 1.0)
    assert invented == SegmentationMetrics(
        0, 0, pytest.approx(diagonal), pytest.approx(diagonal), 0, math.inf, 0, n, "hallucinated"
    )


def test_no_distance_exceeds_that_of_a_missed_object() -> None:
    """Otherwise missing an object could be better than finding the wrong corner."""
    reference, prediction = box((6, 30, 40), (0, 1), (0, 1), (0, 1)), box((6, 30, 40), (5, 6), (29, 30), (39, 40))
    wrong = segmentation_metrics(reference, prediction, (5, 1, 1), 1)
    missed = segmentation_metrics(reference, np.zeros_like(reference), (5, 1, 1), 1)
    assert 0.9 * missed.hd95_mm < wrong.hd95_mm <= missed.hd95_mm


# --- label maps


def test_labels_and_regions() -> None:
    reference = np.zeros((10, 10), np.int16)
    reference[1:5, 1:5] = 1
    reference[5:8, 1:5] = 2
    prediction = np.zeros((10, 10), np.uint8)
    prediction[1:5, 1:5] = 2
    prediction[5:8, 1:5] = 1
    result = case_metrics(
        reference, prediction, {"whole": (1, 2), "core": 2, "edge": [1], "absent": 7}, (1, 1), tolerance_mm=1
    )
    assert list(result) == ["whole", "core", "edge", "absent"]
    assert result["whole"].dice == 1
    assert (result["core"].n_ref, result["core"].n_pred, result["core"].dice) == (12, 16, 0)
    assert (result["edge"].n_ref, result["edge"].n_pred) == (16, 12)
    assert result["absent"].outcome == "both_empty"


def test_ignored_voxels_are_in_neither_mask() -> None:
    reference = np.zeros((1, 8, 8), np.int16)
    reference[0, 2:6, 2:4] = 1
    reference[0, 2:6, 4:6] = 9
    prediction = np.zeros_like(reference)
    prediction[0, 2:6, 2:6] = 1
    before = reference.copy(), prediction.copy()
    plain = case_metrics(reference, prediction, {"a": 1, "r": (1, 9)}, (1, 1, 1), 1)
    ignoring = case_metrics(reference, prediction, {"a": 1, "r": (1, 9)}, (1, 1, 1), 1, ignore_label=9)
    assert plain["a"].dice == pytest.approx(2 * 8 / 24)
    assert ignoring["a"].dice == 1 and ignoring["a"].hd95_mm == 0
    assert ignoring["a"].n_pred == 8
    assert ignoring["r"].n_ref == 8
    np.testing.assert_array_equal(reference, before[0])
    np.testing.assert_array_equal(prediction, before[1])


def test_only_hallucinated_where_ignored_is_nothing() -> None:
    reference, prediction = np.full((6, 6), 3), np.zeros((6, 6), int)
    prediction[2:4, 2:4] = 1
    assert case_metrics(reference, prediction, {"a": 1}, (1, 1), 1, ignore_label=3)["a"].outcome == "both_empty"


# --- the oracle


def surface_points(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Centres, in mm, of the voxels that erosion removes."""
    border = mask & ~ndimage.binary_erosion(mask)
    return np.argwhere(border) * spacing


def brute_force_hausdorff(reference: np.ndarray, prediction: np.ndarray, spacing: np.ndarray, percent: float) -> float:
    distances = cdist(surface_points(reference, spacing), surface_points(prediction, spacing))
    return max(np.percentile(distances.min(axis=1), percent), np.percentile(distances.min(axis=0), percent))


@pytest.mark.parametrize("shape", [(40, 44), (14, 24, 26)])
@pytest.mark.parametrize("seed", range(6))
def test_against_brute_force(shape: tuple[int, ...], seed: int) -> None:
    """Voxel centres instead of corners: no distance differs by more than a voxel's diagonal."""
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.4, 3.0, len(shape))
    field = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    reference = field > np.quantile(field, 0.85)
    prediction = np.roll(field, rng.integers(-3, 4, len(shape)), tuple(range(len(shape)))) > np.quantile(field, 0.8)
    result = segmentation_metrics(reference, prediction, spacing, tolerance_mm=1.0)

    diagonal = float(np.linalg.norm(spacing))
    lower, upper = (brute_force_hausdorff(reference, prediction, spacing, percent) for percent in (85, 100))
    assert lower - diagonal <= result.hd95_mm <= upper + diagonal
    mean = np.concatenate(
        [
            cdist(surface_points(a, spacing), surface_points(b, spacing)).min(axis=1)
            for a, b in ((reference, prediction), (prediction, reference))
        ]
    ).mean()
    assert abs(result.assd_mm - mean) <= diagonal
    overlap, total = np.logical_and(reference, prediction).sum(), reference.sum() + prediction.sum()
    assert result.dice == pytest.approx(2 * overlap / total)
    assert result.iou == pytest.approx(result.dice / (2 - result.dice))
    assert result.volume_ratio == pytest.approx(prediction.sum() / reference.sum())


def test_nsd_grows_with_the_tolerance_to_one() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 12, 12, 12)) > 0.9
    values = [segmentation_metrics(reference, prediction, (1, 1, 2), tolerance).nsd for tolerance in (0, 1, 2, 100)]
    assert values == sorted(values) and 0 <= values[0] < values[1] and values[-1] == 1


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 4), bool), np.zeros((4, 3), bool), (1, 1), 1), r"\(3, 4\) and \(4, 3\)"),
        ((np.zeros((3, 4), np.uint8), np.zeros((3, 4), bool), (1, 1), 1), "uint8 and bool"),
        ((np.zeros(3, bool), np.zeros(3, bool), (1,), 1), r"2 or 3 axes, got the shape \(3,\)"),
        ((np.zeros((3, 4), bool), np.zeros((3, 4), bool), (1, 1, 1), 1), "2 positive numbers"),
        ((np.zeros((3, 4), bool), np.zeros((3, 4), bool), (1, 0), 1), "2 positive numbers"),
        ((np.zeros((3, 4), bool), np.zeros((3, 4), bool), (1, math.nan), 1), "2 positive numbers"),
        ((np.zeros((3, 4), bool), np.zeros((3, 4), bool), (1, 1), -1), ">= 0 mm, got -1"),
        ((np.zeros((3, 4), bool), np.zeros((3, 4), bool), (1, 1), math.nan), ">= 0 mm, got nan"),
    ],
)
def test_bad_input(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        segmentation_metrics(*arguments)


def test_label_maps_of_different_shapes() -> None:
    with pytest.raises(UserError, match="same shape"):
        case_metrics(np.zeros((3, 4), int), np.zeros((1, 4), int), {"a": 1}, (1, 1), 1, ignore_label=2)


def test_the_table_for_plots_is_the_metrics() -> None:
    fields = [field.name for field in dataclasses.fields(SegmentationMetrics)]
    assert list(METRICS) == list(METRIC_INFO) == fields[: len(METRICS)]
    assert fields[len(METRICS) :] == ["n_ref", "n_pred", "outcome"]
    assert {name for name, info in METRIC_INFO.items() if info.unit == "mm"} == {"hd95_mm", "assd_mm"}
    assert {name for name, info in METRIC_INFO.items() if info.better == "lower"} == {"hd95_mm", "assd_mm"}


# --- against surface-distance itself


def by_surface_distance(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float):
    """HD95, ASSD and NSD by the library's own transform of the box around both masks."""
    if reference.ndim == 3 and reference.shape[0] == 1:
        reference, prediction, spacing = reference[0], prediction[0], spacing[1:]
    found = surface_distance.compute_surface_distances(reference, prediction, spacing)
    areas = found["surfel_areas_gt"], found["surfel_areas_pred"]
    total = areas[0] @ found["distances_gt_to_pred"] + areas[1] @ found["distances_pred_to_gt"]
    return (
        surface_distance.compute_robust_hausdorff(found, 95),
        total / (areas[0].sum() + areas[1].sum()),
        surface_distance.compute_surface_dice_at_tolerance(found, tolerance),
    )


def assert_as_surface_distance(result: SegmentationMetrics, reference, prediction, spacing, tolerance) -> None:
    n_ref, n_pred = int(reference.sum()), int(prediction.sum())
    assert (result.n_ref, result.n_pred) == (n_ref, n_pred)
    if not n_ref or not n_pred:
        assert result.outcome == {(0, 0): "both_empty"}.get((n_ref, n_pred), "hallucinated" if n_pred else "missed")
        return
    hd95, assd, nsd = by_surface_distance(reference, prediction, spacing, tolerance)
    assert result.outcome == "ok"
    assert result.hd95_mm == pytest.approx(hd95, rel=1e-12, abs=0)
    assert result.assd_mm == pytest.approx(assd, rel=1e-12, abs=0)
    assert result.nsd == pytest.approx(nsd, rel=1e-12, abs=0)
    overlap = int((reference & prediction).sum())
    assert (result.dice, result.iou) == (2 * overlap / (n_ref + n_pred), overlap / (n_ref + n_pred - overlap))


SPACINGS = ((1.0, 1.0, 1.0), (2.5, 0.78515601, 0.78515601), (0.3, 1.7, 0.9), (7.5, 1.0, 0.5))


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One of: nothing, a voxel, noise of any density, a box that may touch the border, a box in noise, everything."""
    noise = rng.random(shape) < rng.choice([0.01, 0.1, 0.5, 0.95])
    bounds = [sorted(rng.choice(n + 1, 2, replace=False)) for n in shape]
    kinds = (
        np.zeros(shape, bool),
        np.arange(noise.size).reshape(shape) == rng.integers(noise.size),
        noise,
        box(shape, *bounds),
        noise ^ box(shape, *bounds),
        np.ones(shape, bool),
    )
    return kinds[rng.choice(len(kinds), p=(0.04, 0.1, 0.3, 0.26, 0.26, 0.04))]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("mapped", [True, False])
def test_random_masks_as_surface_distance(dimensions: int, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small masks, each reference with several predictions, by the map and by the tree."""
    if mapped:
        monkeypatch.setattr(surface, "_VOXELS_PER_FAR_POINT", math.inf)
        monkeypatch.setattr(surface, "_FAR", -1)  # everything is
        monkeypatch.setattr(surface, "_CHUNK", 20)
    rng = np.random.default_rng(dimensions)
    for number in range(40):
        shape = tuple(rng.integers(1 + (dimensions == 2), 30 if dimensions == 2 else 12, dimensions))
        spacing = SPACINGS[number % len(SPACINGS)][:dimensions]
        tolerance = (0.0, 1.0, 2.6)[number % 3]
        mask = random_mask(rng, shape)
        reference = Reference(mask, {"mask": 1}, spacing, tolerance)
        for _ in range(5):
            prediction = random_mask(rng, shape)
            result = reference.compare(prediction)["mask"]
            assert_as_surface_distance(result, mask, prediction, spacing, tolerance)
            assert result == segmentation_metrics(mask, prediction, spacing, tolerance)


def test_the_percentile_s_edge_as_surface_distance() -> None:
    """Of 20 equal areas, the sum of 19 over the sum of all is 0.95, or one bit off: so with areas that are no integers.

    Elements as of isolated voxels, far apart; one side has distances 1, 2, ..., in a shuffled order.
    """
    rng = np.random.default_rng(0)
    for _ in range(300):
        areas = rng.choice(rng.random(3), 20)
        distances = rng.integers(0, 20, 20).astype(float)
        ordered = np.array(sorted(zip(distances, areas, strict=True)))
        expected = surface_distance.compute_robust_hausdorff(
            {
                "distances_gt_to_pred": ordered[:, 0],
                "distances_pred_to_gt": ordered[:, 0],
                "surfel_areas_gt": ordered[:, 1],
                "surfel_areas_pred": ordered[:, 1],
            },
            95,
        )
        assert surface.weighted_percentile(distances, areas, 95) == expected


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_volume_with_scattered_noise_as_surface_distance(spacing: tuple[float, ...]) -> None:
    """Labels and a region, an ignore label, and specks all over: first the tree is asked, then the map."""
    rng = np.random.default_rng(1)
    shape = (18, 60, 64)
    z, y, x = np.ogrid[tuple(map(slice, shape))]
    squared = (2.5 * (z - 9)) ** 2 + (y - 20) ** 2 + (x - 58.0) ** 2
    label = np.where(squared < 7**2, 2, np.where(squared < 15**2, 1, 0))
    label[:2] = 5
    regions = {"whole": (1, 2), "core": 2, "absent": 4}
    reference = Reference(label, regions, spacing, 1.6, ignore_label=5)
    for share in (0.0, 0.0002, 0.002, 0.02, 0.2):
        prediction = np.roll(label, (1, -2, 1), (0, 1, 2)).astype(np.uint8)
        noise = rng.random(shape) < share
        prediction[noise] = rng.integers(0, 5, int(noise.sum()))
        results = reference.compare(prediction)
        assert list(results) == list(regions)
        for name, wanted in regions.items():
            masks = (np.isin(labels, wanted) & (label != 5) for labels in (label, prediction))
            assert_as_surface_distance(results[name], *masks, spacing, 1.6)


def test_a_prediction_far_away_as_surface_distance() -> None:
    """Beyond the neighbourhood that is looked at first, for some of the surface or for all of it."""
    reference = box((4, 300, 40), (1, 3), (2, 20), (2, 30))
    for found in (box(reference.shape, (3, 4), (290, 300), (30, 40)), box(reference.shape, (1, 2), (2, 3), (2, 3))):
        for spacing in SPACINGS:
            prediction = found | box(reference.shape, (0, 1), (150, 151), (0, 1))
            result = segmentation_metrics(reference, prediction, spacing, 3.0)
            assert_as_surface_distance(result, reference, prediction, spacing, 3.0)


def test_what_lies_beside_the_neighbourhood_may_be_nearer_than_what_lies_in_it() -> None:
    """The bar's right end is 12 rows from a voxel outside of the box that is looked at, 94 columns from one in it."""
    reference = box((40, 120), (2, 4), (2, 100))
    prediction = box(reference.shape, (2, 4), (4, 6)) | box(reference.shape, (15, 16), (99, 100))
    for pair in ((reference, prediction), (reference.T, prediction.T)):
        assert_as_surface_distance(segmentation_metrics(*pair, (1, 1), 3.0), *pair, (1, 1), 3.0)


def test_chunks_and_an_exhausted_budget_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    reference, prediction = rng.random((2, 10, 20, 20)) < 0.05
    expected = segmentation_metrics(reference, prediction, (3, 1, 1), 1)
    monkeypatch.setattr(surface, "_CHUNK", 100)
    assert segmentation_metrics(reference, prediction, (3, 1, 1), 1) == expected
    made = []
    monkeypatch.setattr(surface, "distance_transform_edt", lambda *_, **__: made.append(1))
    monkeypatch.setattr(surface, "_VOXELS_PER_FAR_POINT", math.inf)
    monkeypatch.setattr(surface, "_FAR", -1)
    budget = surface.MapBudget(4 * 11 * 21 * 21 - 1)
    whole = surface.Crop(reference, (0, 0, 0), int(reference.sum()))
    elements = surface.extract_surface(whole, surface.area_table((3, 1, 1)))
    distances = surface.ReferenceSurface(elements, reference.shape, (3, 1, 1), budget).distances_from(elements)
    assert not distances.any() and not made
    budget.bytes_left += 1
    with pytest.raises(TypeError):  # now the map is wanted, of which there is none here
        surface.ReferenceSurface(elements, reference.shape, (3, 1, 1), budget).distances_from(elements)
    assert made


def test_several_threads_share_a_reference() -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(0, 3, (12, 30, 30)) * (rng.random((12, 30, 30)) < 0.1)
    predictions = [rng.integers(0, 3, label.shape) for _ in range(12)]
    regions = {"a": 1, "b": (1, 2)}
    expected = [case_metrics(label, p, regions, (2, 1, 1), 1) for p in predictions]
    reference = Reference(label, regions, (2, 1, 1), 1)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reference.compare, predictions)) == expected


def test_a_reference_keeps_nothing_of_the_caller_s_arrays() -> None:
    label, prediction = np.zeros((8, 9), np.int32), np.zeros((8, 9), np.uint16)
    label[2:5, 3:7] = prediction[2:6, 3:6] = 1
    before = prediction.copy()
    reference = Reference(label, {"a": 1}, (1, 2), 1, ignore_label=3)
    first = reference.compare(prediction)
    label[:] = 3
    assert reference.compare(prediction) == first
    np.testing.assert_array_equal(prediction, before)


def test_a_label_below_one_is_a_label() -> None:
    label, prediction = np.ones((6, 7), int), np.ones((6, 7), int)
    label[1:3, 2:5], prediction[1:3, 2:6], prediction[5, 5] = 0, 0, -1
    result = case_metrics(label, prediction, {"hole": 0, "both": (-1, 0)}, (1, 1), 1)
    assert [(m.n_ref, m.n_pred) for m in result.values()] == [(6, 8), (6, 9)]


def test_a_reference_says_what_is_wrong() -> None:
    with pytest.raises(UserError, match="of integers, got float64"):
        Reference(np.zeros((3, 4)), {"a": 1}, (1, 1), 1)
    reference = Reference(np.zeros((3, 4), int), {"a": 1}, (1, 1), 1)
    with pytest.raises(UserError, match=r"\(3, 4\) and \(4, 4\)"):
        reference.compare(np.zeros((4, 4), int))
    with pytest.raises(UserError, match="of integers, got float32"):
        reference.compare(np.zeros((3, 4), np.float32))


DATA = Path(os.environ.get("NNUNET_ROBUST_TEST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


@pytest.mark.parametrize("fault", [None, MemoryError("no room"), RuntimeError("no device")])
def test_cucim_is_used_where_it_works(fault: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its place SciPy, which has the same interface: no GPU is needed to see that it is asked, and what then."""
    asked = []

    def on_the_gpu(array, **options):
        asked.append(options)
        if fault:
            raise fault
        return ndimage.distance_transform_edt(array, **options).astype(np.int64)

    cupy = types.SimpleNamespace(asarray=np.asarray, asnumpy=np.asarray)
    morphology = types.SimpleNamespace(distance_transform_edt=on_the_gpu)
    for name in ("cucim", "cucim.core", "cucim.core.operations"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cucim.core.operations.morphology", morphology)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    array = np.random.default_rng(0).random((5, 6, 7)) > 0.1
    found = surface._nearest_zero(array, (3.0, 1.0, 1.0))
    wanted = ndimage.distance_transform_edt(array, (3.0, 1.0, 1.0), return_distances=False, return_indices=True)
    assert found.dtype == np.int32 and np.array_equal(found, wanted) and len(asked) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cucim_gives_scipys_distances() -> None:
    pytest.importorskip("cucim.core.operations.morphology")
    array = np.random.default_rng(0).random((20, 60, 70)) > 0.01
    spacing = (3.0, 1.0, 0.7)
    grid = np.indices(array.shape)
    size = np.reshape(spacing, (3, 1, 1, 1))
    found = np.sqrt((((grid - surface._nearest_zero(array, spacing)) * size) ** 2).sum(0))
    np.testing.assert_allclose(found, ndimage.distance_transform_edt(array, spacing), rtol=1e-6)


@pytest.mark.skipif(not (DATA / "Task04_Hippocampus").is_dir(), reason="no Decathlon data")
def test_real_hippocampi_as_surface_distance() -> None:
    labels = []
    for path in sorted((DATA / "Task04_Hippocampus" / "labelsTr").glob("*.nii.gz"))[:4]:
        labels.append(np.asarray(nibabel.load(path).dataobj).astype(np.uint8)[:30, :40, :25])
    for label in labels:
        reference = Reference(label, {"anterior": 1, "all": (1, 2)}, (1.0, 1.0, 1.0), 2.0)
        for prediction in labels:
            results = reference.compare(prediction)
            for name, wanted in (("anterior", [1]), ("all", [1, 2])):
                masks = np.isin(label, wanted), np.isin(prediction, wanted)
                assert_as_surface_distance(results[name], *masks, (1.0, 1.0, 1.0), 2.0)
