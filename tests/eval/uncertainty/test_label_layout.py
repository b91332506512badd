"""Label maps against nnU-Net's own, entropies against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy.stats import entropy

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout, blocks

LABELS = LabelLayout({"liver": 1, "tumour": 2})
REGIONS = LabelLayout({"whole": (1, 2), "core": 2}, class_order=(1, 2))


def probabilities(heads: LabelLayout, shape: tuple[int, ...], seed: int = 0, sharpness: float = 2.0) -> np.ndarray:
    """Made-up ones, (heads, *shape)."""
    logits = sharpness * np.random.default_rng(seed).normal(size=(heads.count, *shape))
    odds = np.exp(logits)
    return (odds / odds.sum(axis=0) if heads.class_order is None else odds / (1 + odds)).astype(np.float32)


@pytest.mark.parametrize(
    ("heads", "labels", "order"),
    [
        (LABELS, {"background": 0, "liver": 1, "tumour": 2}, None),
        (REGIONS, {"background": 0, "whole": [1, 2], "core": 2}, [1, 2]),
    ],
)
def test_the_label_map_is_nnunets(heads: LabelLayout, labels: dict, order: list[int] | None) -> None:
    manager = LabelManager(labels, order)
    p = probabilities(heads, (9, 10, 11))
    assert heads.count == manager.num_segmentation_heads
    ours = heads.segment(p)
    assert ours.dtype == np.uint8
    assert set(np.unique(ours)) == {0, 1, 2}
    assert (ours == manager.convert_probabilities_to_segmentation(p)).all()


def test_entropies_are_scipys() -> None:
    p = probabilities(LABELS, (5, 6))
    np.testing.assert_allclose(LABELS.entropy_bits(p), entropy(p.astype(float), base=2, axis=0), rtol=1e-5)
    q = probabilities(REGIONS, (5, 6))
    each = entropy(np.stack([q, 1 - q]).astype(float), base=2, axis=0)
    np.testing.assert_allclose(REGIONS.entropy_bits(q), each.sum(axis=0), rtol=1e-5)


def test_entropies_at_the_ends_are_exact() -> None:
    for heads in (LABELS, REGIONS):
        sure = np.zeros((heads.count, 2), np.float32)
        sure[0] = 1
        assert heads.entropy_bits(sure).tolist() == [0, 0]
        share = 1 / 3 if heads is LABELS else 0.5
        unsure = np.full((heads.count, 2), share, np.float32)
        assert heads.entropy_bits(unsure) == pytest.approx(heads.max_entropy_bits, rel=1e-6)
    assert pytest.approx(np.log2(3)) == LABELS.max_entropy_bits
    assert REGIONS.max_entropy_bits == 2


def test_blocks_cut_the_first_axis_once_and_whole() -> None:
    for shape in [(300, 512, 512), (1, 4000, 4000), (5,), (7, 3)]:
        found = np.concatenate([np.arange(shape[0])[block] for block in blocks(shape)])
        assert (found == np.arange(shape[0])).all()
    assert next(blocks((300, 256, 256))) == slice(0, 4)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (np.zeros((2, 4)), "2 heads, and the labels ask for 3"),
        (np.array([[5.0], [-3.0], [0.0]]), "-3 to 5: are they logits"),
        (np.array([[np.nan], [0.5], [0.5]]), "nan"),
        (np.full((3, 4), 0.5), "sum to 1 in each voxel, got 1.5"),
    ],
)
def test_numbers_that_are_no_probabilities_are_refused(p: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LABELS.checked(p)


@pytest.mark.parametrize(
    ("structures", "order", "message"),
    [
        ({}, None, "nothing but background"),
        ({"a": 1, "b": 3}, None, "1 to 2"),
        ({"a": (1, 2), "b": 2}, (1,), "1 entries for 2"),
    ],
)
def test_heads_that_cannot_be_are_refused(structures: dict, order: tuple | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelLayout(structures, order)
