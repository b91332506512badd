"""Overlap of label maps against scikit-learn's F1, which is the Dice of two masks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty import overlap
from nnunet_robust.eval.uncertainty.overlap import dice_matrix, mean_of_pairs, overlap_counts


@pytest.mark.parametrize("labels", [2, (1, 3)])
def test_the_dice_of_each_two_maps_is_sklearns_f1(
    labels: int | tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 4, (7, 11, 13)).astype(np.uint8) for _ in range(4)]
    whole = overlap_counts(maps, labels)
    monkeypatch.setattr(overlap, "_VOXELS_AT_ONCE", 100)  # several blocks, the last one shorter
    counts = overlap_counts(maps, labels)
    assert (counts == whole).all()
    masks = [np.isin(m, labels).ravel() for m in maps]
    expected = [[f1_score(a, b) for b in masks] for a in masks]
    np.testing.assert_allclose(dice_matrix(counts), expected, rtol=1e-12)
    assert mean_of_pairs(dice_matrix(counts)) == pytest.approx(np.mean([expected[i][j] for i, j in _PAIRS]))


_PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_empty_masks_are_defined() -> None:
    empty, full = np.zeros((3, 3), np.uint8), np.ones((3, 3), np.uint8)
    dice = dice_matrix(overlap_counts([empty, empty, full], 1))
    assert dice.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert np.isnan(mean_of_pairs(np.ones((1, 1))))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], "no label maps"),
        ([np.zeros((2, 2))], "float64"),
        ([np.zeros((2, 2), int), np.zeros((2, 3), int)], r"\(2, 2\) and \(2, 3\)"),
    ],
)
def test_bad_maps_are_refused(maps: list[np.ndarray], message: str) -> None:
    with pytest.raises(UserError, match=message):
        overlap_counts(maps, 1)


def test_pairs_weigh_as_their_rows_do() -> None:
    matrix = np.array([[1, 0.5, 0.1], [0.5, 1, 0.2], [0.1, 0.2, 1]])
    assert mean_of_pairs(matrix, [1, 1, 1]) == pytest.approx(mean_of_pairs(matrix)) == pytest.approx(0.8 / 3)
    assert mean_of_pairs(matrix, [0.5, 0.5, 0]) == pytest.approx(0.5)
    assert np.isnan(mean_of_pairs(matrix, [1, 0, 0]))
