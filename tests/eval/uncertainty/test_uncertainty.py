"""Maps against a direct computation in double precision; closed forms; what degenerate input gives; memory."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.spatial.distance import cdist
from scipy.stats import entropy
from sklearn.metrics import f1_score

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty import label_layout as heads_module
from nnunet_robust.eval.uncertainty import overlap as overlap_module
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout
from nnunet_robust.eval.uncertainty.uncertainty import neighbourhood, structure_scores, uncertainty
from tests.eval.uncertainty.test_label_layout import LABELS, REGIONS, probabilities

SHAPE = (6, 9, 8)
BINARY = LabelLayout({"foreground": 1})


def _entropy(p: np.ndarray, heads: LabelLayout) -> np.ndarray:
    if heads.class_order is None:
        return entropy(p, base=2, axis=0)
    return entropy(np.stack([p, 1 - p]), base=2, axis=0).sum(axis=0)


def _binary(foreground: np.ndarray) -> np.ndarray:
    return np.stack([1 - foreground, foreground]).astype(np.float32)


@pytest.mark.parametrize("heads", [LABELS, REGIONS], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("n_members", [2, 5])
def test_maps_are_those_of_a_direct_computation(
    heads: LabelLayout, n_members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads_module, "_VOXELS_AT_ONCE", 150)  # two slices a block
    members = [probabilities(heads, SHAPE, seed=i) for i in range(n_members)]
    found = uncertainty(iter(members), heads)

    exact = np.stack(members).astype(float)
    mean = exact.mean(axis=0)
    total, each = _entropy(mean, heads), np.mean([_entropy(m, heads) for m in exact], axis=0)
    assert found.n_members == n_members
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.entropy, total, atol=1e-5)
    np.testing.assert_allclose(found.expected_entropy, each, atol=1e-5)
    np.testing.assert_allclose(found.mutual_information, total - each, atol=1e-5)
    assert (found.mutual_information >= 0).all()
    assert all(
        m.dtype == np.float32 for m in (found.mean, found.entropy, found.expected_entropy, found.mutual_information)
    )
    assert (found.segmentation == heads.segment(found.mean)).all()


@pytest.mark.parametrize("heads", [LABELS, REGIONS], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("weights", [[0.3, 0.7], [2.0, 5.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
def test_weights_weigh_every_mean(heads: LabelLayout, weights: list[float]) -> None:
    members = [probabilities(heads, SHAPE, seed=i) for i in range(len(weights))]
    found = uncertainty(iter(members), heads, weights)
    exact = np.stack(members).astype(float)
    np.testing.assert_allclose(found.mean, np.average(exact, axis=0, weights=weights), atol=1e-6)
    each = np.average([_entropy(m, heads) for m in exact], axis=0, weights=weights)
    np.testing.assert_allclose(found.expected_entropy, each, atol=1e-5)
    for name in heads.structures:
        dice = [_dice(heads.mask(found.segmentation, name), heads.mask(heads.segment(m), name)) for m in members]
        assert found.overlap[name].predicted_dice == pytest.approx(np.average(dice, weights=weights))


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / n if (n := np.count_nonzero(a) + np.count_nonzero(b)) else 1.0


@pytest.mark.parametrize("weights", [None, [1.0], [0.3, 0.7], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.0, 0.7]])
def test_an_ensemble_of_one_model_is_that_model_bit_for_bit(weights: list[float] | None) -> None:
    member = probabilities(LABELS, SHAPE)
    found = uncertainty([member] * len(weights or [1.0]), LABELS, weights)
    assert (found.mean == member).all() and (found.segmentation == LABELS.segment(member)).all()


def test_the_overlap_asked_for_is_that_with_the_segmentation_given() -> None:
    members = [probabilities(LABELS, SHAPE, seed=i) for i in range(3)]
    given = LABELS.segment(members[0])
    found = uncertainty(members, LABELS, segmentation=given)
    assert (found.segmentation == given).all()
    for name in LABELS.structures:
        dice = [_dice(LABELS.mask(given, name), LABELS.mask(LABELS.segment(m), name)) for m in members]
        assert dice[0] == 1 and found.overlap[name].predicted_dice == pytest.approx(np.mean(dice))


@pytest.mark.parametrize(
    ("n_members", "weights", "message"),
    [
        (1, [0.0], "all 0"),
        (2, [0.0, 0.0], "all 0"),
        (2, [1.0, -0.5], "-0.5"),
        (1, [0.5, 0.5], "each of 1 members"),
        (3, [0.5, 0.5], "2 weights and more members"),
    ],
)
def test_weights_that_do_not_fit_are_refused(n_members: int, weights: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        uncertainty([probabilities(LABELS, SHAPE)] * n_members, LABELS, weights)


@pytest.mark.parametrize("heads", [LABELS, REGIONS], ids=["softmax", "sigmoid"])
def test_predicted_dice_is_that_of_a_direct_computation(heads: LabelLayout) -> None:
    members = [probabilities(heads, SHAPE, seed=i) for i in range(3)]
    found = uncertainty(members, heads)
    for name, labels in heads.labels.items():
        masks = [np.isin(heads.segment(m), labels).ravel() for m in members]
        own = np.isin(found.segmentation, labels).ravel()
        overlap = found.overlap[name]
        assert overlap.predicted_dice == pytest.approx(np.mean([f1_score(own, m) for m in masks]))
        pairs = [f1_score(masks[i], masks[j]) for i, j in [(0, 1), (0, 2), (1, 2)]]
        assert overlap.pairwise_dice == pytest.approx(np.mean(pairs))
        p = found.mean[heads.index[name]].astype(float).ravel()
        assert overlap.soft_dice == pytest.approx(2 * p[own].sum() / (own.sum() + p.sum()))


def test_soft_dice_is_near_the_mean_dice_of_truths_drawn_from_the_probabilities() -> None:
    rng = np.random.default_rng(3)
    p = np.clip(rng.beta(0.6, 0.9, 4000), 0, 1)
    found = uncertainty([_binary(p)], BINARY)
    mask = p > 0.5
    truths = rng.random((400, p.size)) < p
    drawn = 2 * (truths & mask).sum(axis=1) / (truths.sum(axis=1) + mask.sum())
    assert found.overlap["foreground"].soft_dice == pytest.approx(drawn.mean(), abs=0.002)


def test_two_members_that_are_sure_of_opposites_disagree_by_one_bit() -> None:
    yes, no = _binary(np.ones((4, 4))), _binary(np.zeros((4, 4)))
    found = uncertainty([yes, no], BINARY)
    assert (found.entropy == 1).all()
    assert (found.expected_entropy == 0).all()
    assert (found.mutual_information == 1).all()
    assert (found.segmentation == 0).all()  # of equals the lowest, as nnU-Net has it
    overlap = found.overlap["foreground"]
    assert (overlap.predicted_dice, overlap.pairwise_dice) == (0.5, 0.0)


def test_rounding_makes_no_negative_information() -> None:
    member = probabilities(LABELS, (40, 40))
    nearly = np.nextafter(member, np.float32(0.5))
    found = uncertainty([member, nearly], LABELS)
    assert (found.entropy < found.expected_entropy).any()
    assert found.mutual_information.min() == 0
    assert found.mutual_information.max() < 1e-5


# ---- degenerate input ----


@pytest.mark.parametrize("heads", [LABELS, REGIONS], ids=["softmax", "sigmoid"])
def test_one_member_and_the_same_one_thrice(heads: LabelLayout) -> None:
    member = probabilities(heads, SHAPE)
    one, three = uncertainty([member], heads), uncertainty([member] * 3, heads)
    for found in (one, three):
        assert (found.mean == member).all()  # bit for bit
        assert (found.mutual_information == 0).all()
        assert (found.entropy == found.expected_entropy).all()
    for name in heads.structures:
        assert math.isnan(one.overlap[name].predicted_dice)
        assert math.isnan(one.overlap[name].pairwise_dice)
        assert 0 < one.overlap[name].soft_dice < 1
        assert (three.overlap[name].predicted_dice, three.overlap[name].pairwise_dice) == (1, 1)
        assert three.overlap[name].soft_dice == one.overlap[name].soft_dice
    scores = structure_scores(one, heads, (1, 1, 1))
    assert all(score.mutual_information_bits == 0 and score.entropy_bits > 0 for score in scores.values())


@pytest.mark.parametrize(("heads", "p"), [(LABELS, 1 / 3), (REGIONS, 0.5)], ids=["softmax", "sigmoid"])
def test_constant_logits_are_as_unsure_as_can_be(heads: LabelLayout, p: float) -> None:
    found = uncertainty([np.full((heads.count, *SHAPE), p, np.float32)] * 2, heads)
    assert (found.segmentation == 0).all()
    assert (found.mutual_information == 0).all()
    for score in structure_scores(found, heads, (1, 1, 1)).values():
        assert score.entropy_bits == pytest.approx(heads.max_entropy_bits, rel=1e-6)
        assert score.n_foreground == 0
        assert score.n_voxels == np.count_nonzero(_within(_seed(SHAPE, (0, 0, 0)), (1, 1, 1), 3))
        assert (score.overlap.predicted_dice, score.overlap.pairwise_dice, score.overlap.soft_dice) == (1, 1, 0)


def test_an_empty_prediction_is_looked_at_where_the_structure_is_likeliest() -> None:
    p = np.zeros((30, 30))
    p[20, 10] = 0.4
    scores = structure_scores(uncertainty([_binary(p)] * 2, BINARY), BINARY, (1, 1), band_mm=2)["foreground"]
    assert (scores.n_foreground, scores.n_voxels) == (0, 13)
    bits = -(0.4 * np.log2(0.4) + 0.6 * np.log2(0.6))
    assert scores.entropy_bits == pytest.approx(bits / 13, rel=1e-5)
    nothing = uncertainty([_binary(np.zeros((30, 30)))] * 2, BINARY)
    assert nothing.overlap["foreground"].soft_dice == 1
    assert structure_scores(nothing, BINARY, (1, 1))["foreground"].entropy_bits == 0


def test_all_foreground() -> None:
    found = uncertainty([_binary(np.full((5, 5), q)) for q in (0.9, 0.8)], BINARY)
    scores = structure_scores(found, BINARY, (1, 1))["foreground"]
    assert (scores.n_foreground, scores.n_voxels) == (25, 25)
    assert scores.overlap.predicted_dice == scores.overlap.pairwise_dice == 1
    assert scores.overlap.soft_dice == pytest.approx(2 * 0.85 / 1.85, rel=1e-6)


def test_a_member_without_the_structure_lowers_the_overlap() -> None:
    square = np.zeros((20, 20))
    square[5:15, 5:15] = 1
    overlap = uncertainty([_binary(square), _binary(square), _binary(0 * square)], BINARY).overlap["foreground"]
    assert overlap.predicted_dice == pytest.approx(2 / 3)
    assert overlap.pairwise_dice == pytest.approx(1 / 3)


# ---- scores ----


def test_scores_are_means_over_the_structure_and_its_band() -> None:
    members = []
    for seed in range(3):
        p = np.zeros((3, 10, 20, 20))
        p[1, 3:6, 5:12, 5:12], p[2, 7, 15, 3:9] = 0.7, 0.6
        p[0] = 1 - p[1] - p[2]
        members.append(0.8 * p + 0.2 * probabilities(LABELS, (10, 20, 20), seed))
    found = uncertainty(members, LABELS)
    spacing = (3.0, 1.0, 0.8)
    scores = structure_scores(found, LABELS, spacing, band_mm=2.5)
    for name, label in LABELS.structures.items():
        near = _within(found.segmentation == label, spacing, 2.5)
        assert scores[name].n_voxels == near.sum() > scores[name].n_foreground == (found.segmentation == label).sum()
        assert scores[name].entropy_bits == pytest.approx(found.entropy[near].astype(float).mean(), rel=1e-6)
        information = found.mutual_information[near].astype(float).mean()
        assert scores[name].mutual_information_bits == pytest.approx(information, rel=1e-6)


def _seed(shape: tuple[int, ...], at: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[at] = True
    return mask


def _within(mask: np.ndarray, spacing: tuple[float, ...], band: float) -> np.ndarray:
    """By all pairwise distances."""
    everywhere = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"), axis=-1).reshape(-1, mask.ndim)
    distances = cdist(everywhere * spacing, np.argwhere(mask) * np.asarray(spacing)).min(axis=1)
    return (distances <= band + 1e-9).reshape(mask.shape)


@pytest.mark.parametrize(
    ("spacing", "band"),
    [((1, 1, 1), 3), ((2, 9, 0.5), 9), ((3, 1, 0.8), 2.5), ((0.3, 0.3, 0.3), 0.9), ((5, 5, 5), 3), ((1, 2, 1), 0)],
)
def test_neighbourhood_against_all_distances(spacing: tuple[float, ...], band: float) -> None:
    mask = np.random.default_rng(0).random((17, 11, 12)) < 0.004
    mask[0, 0, 0] = True
    expected = _within(mask, spacing, band)
    assert mask.sum() <= expected.sum() < mask.size
    assert (neighbourhood(mask, spacing, band) == expected).all()


def test_neighbourhood_of_a_2d_mask_and_of_nothing() -> None:
    mask = _seed((9, 9), (4, 4))
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
    assert (neighbourhood(mask, (1, 1), 1) == binary_dilation(mask, cross)).all()
    assert (neighbourhood(mask[None], (7, 1, 1), 1)[0] == binary_dilation(mask, cross)).all()
    assert not neighbourhood(np.zeros((9, 9), bool), (1, 1), 5).any()
    with pytest.raises(UserError, match=r"2 positive numbers in mm, got \[1, 1, 1\]"):
        neighbourhood(mask, (1, 1, 1), 1)
    with pytest.raises(UserError, match="got -1"):
        neighbourhood(mask, (1, 1), -1)


# ---- bad input, memory ----


def test_bad_members_are_refused() -> None:
    with pytest.raises(UserError, match="at least one member"):
        uncertainty([], BINARY)
    with pytest.raises(UserError, match=r"one shape, got \(4, 4\) and \(4, 5\)"):
        uncertainty([_binary(np.zeros((4, 4))), _binary(np.zeros((4, 5)))], BINARY)
    with pytest.raises(UserError, match="are they logits"):
        uncertainty([10 * _binary(np.ones((4, 4)))], BINARY)


def test_members_may_lie_in_files_of_half_precision(tmp_path: Path) -> None:
    members = [probabilities(LABELS, SHAPE, seed=i).astype(np.float16) for i in range(2)]
    for i, member in enumerate(members):
        np.save(tmp_path / f"{i}.npy", member)
    from_files = uncertainty((np.load(tmp_path / f"{i}.npy", mmap_mode="r") for i in range(2)), LABELS)
    assert (from_files.mean == uncertainty(members, LABELS).mean).all()


def test_memory_is_bounded_whatever_the_number_of_members(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (heads_module, overlap_module):
        monkeypatch.setattr(module, "_VOXELS_AT_ONCE", 1 << 17)  # the image is as much smaller as well
    shape = (240, 128, 128)
    row = probabilities(LABELS, (1, *shape[1:]))

    def members(n: int) -> Iterator[np.ndarray]:
        for _ in range(n):
            yield np.broadcast_to(row, (LABELS.count, *shape))  # takes no memory of its own

    def peak(n: int) -> float:
        tracemalloc.start()
        found = uncertainty(members(n), LABELS)
        structure_scores(found, LABELS, (1, 1, 1))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest / math.prod(shape)

    maps, two_masks, blocks = 4 * (LABELS.count + 3) + 1, 2, 6
    assert peak(3) < maps + 3 + two_masks + blocks  # bytes a voxel
    assert peak(12) < maps + 12 + two_masks + blocks
