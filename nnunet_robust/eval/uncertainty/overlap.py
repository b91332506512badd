"""How much several label maps of one image overlap, each with each: Dice of members, of experts, of models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError

_VOXELS_AT_ONCE = 1 << 20  # below 2**24, up to which float32 counts exactly


def overlap_counts(label_maps: Sequence[NDArray[np.integer]], labels: int | Iterable[int]) -> NDArray[np.int64]:
    """Count the voxels that each two label maps both give to a structure.

    Args:
        label_maps: M integer arrays of one shape.
        labels: the structure's label, or the labels whose union it is.

    Returns:
        (M, M), symmetric; on the diagonal the structure's size in each map.

    Raises:
        UserError: no maps, maps of different shapes, or not of integers.
    """
    flat = flattened(label_maps)
    wanted = [labels] if isinstance(labels, (int, np.integer)) else list(labels)
    counts: NDArray[np.int64] = np.zeros((len(flat), len(flat)), np.int64)
    for start in range(0, flat[0].size, _VOXELS_AT_ONCE):
        maps = np.stack([m[start : start + _VOXELS_AT_ONCE] for m in flat])
        masks = np.any([maps == label for label in wanted], axis=0).astype(np.float32)
        counts += (masks @ masks.T).astype(np.int64)
    return counts


def dice_matrix(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the Dice of each two label maps: 2 |A and B| / (|A| + |B|); 1 where both are empty.

    Args:
        counts: (M, M), from `overlap_counts`.

    Returns:
        (M, M) in [0, 1], symmetric, with ones on the diagonal.

    Example:
        >>> import numpy as np
        >>> maps = [np.array([1, 1, 0, 0]), np.array([1, 1, 1, 0])]
        >>> dice_matrix(overlap_counts(maps, 1))  # 2 * 2 / (2 + 3)
        array([[1. , 0.8],
               [0.8, 1. ]])
    """
    sizes = np.diag(counts)
    both = sizes[:, None] + sizes
    return np.where(both > 0, 2 * counts / np.maximum(both, 1), 1.0)


def mean_of_pairs(matrix: NDArray[np.float64], weights: Sequence[float] | None = None) -> float:
    """Average over each two different rows of a symmetric matrix, a pair weighing w_i w_j; NaN where there is no pair.

    Args:
        matrix: (M, M).
        weights: of the rows, >= 0; None weighs all alike.
    """
    above = np.triu_indices(len(matrix), 1)
    of_row = np.ones(len(matrix)) if weights is None else np.asarray(weights, float)
    of_pair = of_row[above[0]] * of_row[above[1]]
    return float(np.average(matrix[above], weights=of_pair)) if of_pair.any() else float("nan")


def flattened(label_maps: Sequence[NDArray[np.integer]]) -> list[NDArray[np.integer]]:
    """Check label maps, and return them as flat arrays.

    Raises:
        UserError: no maps, maps of different shapes, or not of integers.
    """
    if not label_maps:
        raise UserError("There are no label maps to compare: give at least one")
    for label_map in label_maps:
        if label_map.dtype.kind not in "biu":
            raise UserError(f"A label map must be of integers, got {label_map.dtype}: convert it, e.g. with astype")
        if label_map.shape != label_maps[0].shape:
            raise UserError(
                f"Label maps of one image must have one shape, got {label_maps[0].shape} and {label_map.shape}"
            )
    return [label_map.reshape(-1) for label_map in label_maps]
