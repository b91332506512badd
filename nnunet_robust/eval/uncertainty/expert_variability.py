"""Several experts have drawn the same case: how much do they agree, and is the model as near to them as they are?

The model's Dice is set against the experts' own: its mean over experts beside the mean over pairs of experts. Both
compare one segmentation with one expert's. A Dice with the majority's or STAPLE's reference is not to be set against
the latter: a consensus is smoother than each of those who made it, and easier to be near to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty.overlap import dice_matrix, flattened, mean_of_pairs, overlap_counts

_VOXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Agreement:
    """How much experts agree on one structure of one case. Two empty masks have a Dice of 1.

    Attributes:
        experts: their names.
        pairwise: (experts, experts), the Dice of each with each.
        mean_pairwise: the mean over each two experts, in [0, 1]; 1 less it is a measure of the case's difficulty.
        generalised: sum over pairs of 2 |A and B| / sum over pairs of |A| + |B|: one Dice of all of them, in which a
            pair weighs as much as it has drawn (Crum et al. 2006, "Generalized overlap measures for evaluation and
            validation in medical image analysis").
        each: expert -> the mean Dice with the others.
        model: expert -> the model's Dice with that one; empty where no prediction was given.
    """

    experts: tuple[str, ...]
    pairwise: NDArray[np.float64]
    mean_pairwise: float
    generalised: float
    each: dict[str, float]
    model: dict[str, float]

    @property
    def model_mean(self) -> float:
        """The model's mean Dice over experts, to be set against `mean_pairwise`; NaN without a prediction."""
        return float(np.mean(list(self.model.values()))) if self.model else math.nan


def expert_agreement(
    experts: Mapping[str, NDArray[np.integer]],
    structures: Mapping[str, int | Iterable[int]],
    prediction: NDArray[np.integer] | None = None,
) -> dict[str, Agreement]:
    """Compute how much the experts agree on a case, and the model with each of them.

    Args:
        experts: name -> label map, integers (*spatial), at least two.
        structures: name -> a label, or the labels whose union it is: `Model.regions`.
        prediction: the model's label map.

    Returns:
        Structure -> agreement.

    Raises:
        UserError: fewer than two experts, different shapes, or arrays that are not of integers.

    Example:
        >>> import numpy as np
        >>> experts = {"a": np.array([1, 1, 0, 0]), "b": np.array([1, 1, 1, 0])}
        >>> found = expert_agreement(experts, {"organ": 1}, prediction=np.array([1, 1, 0, 0]))["organ"]
        >>> found.mean_pairwise, found.model  # 2 * 2 / (2 + 3)
        (0.8, {'a': 1.0, 'b': 0.8})
    """
    _check_several(experts)
    n = len(experts)
    maps = [*experts.values(), *([] if prediction is None else [prediction])]
    found = {}
    for name, labels in structures.items():
        counts = overlap_counts(maps, labels)
        dice = dice_matrix(counts)
        pairwise = dice[:n, :n]
        others = (pairwise.sum(axis=1) - 1) / (n - 1)
        sizes = int(np.trace(counts[:n, :n]))
        overlaps = int(counts[:n, :n].sum()) - sizes  # each pair twice; each size is in n - 1 pairs
        found[name] = Agreement(
            experts=tuple(experts),
            pairwise=pairwise,
            mean_pairwise=mean_of_pairs(pairwise),
            generalised=overlaps / ((n - 1) * sizes) if sizes else 1.0,
            each={expert: float(mean) for expert, mean in zip(experts, others, strict=True)},
            model=dict(zip(experts, dice[n, :n].tolist(), strict=True)) if prediction is not None else {},
        )
    return found


def majority(experts: Mapping[str, NDArray[np.integer]]) -> NDArray[np.integer]:
    """Vote: the label that most experts give to each voxel; of equals the lowest, so background where it is among them.

    Args:
        experts: name -> label map, integers (*spatial).

    Returns:
        (*spatial), of the first label map's type.

    Raises:
        UserError: no experts, different shapes, or arrays that are not of integers.

    Example:
        >>> import numpy as np
        >>> majority({"a": np.array([0, 1, 2]), "b": np.array([0, 1, 1]), "c": np.array([1, 1, 2])})
        array([0, 1, 2])
    """
    maps = list(experts.values())
    flat = flattened(maps)
    labels = _labels(flat)
    chosen = [
        labels[np.argmax([np.count_nonzero(stack == label, axis=0) for label in labels], axis=0)]
        for stack in _stacks(flat)
    ]
    return np.concatenate(chosen).reshape(maps[0].shape).astype(maps[0].dtype)


def staple(experts: Mapping[str, NDArray[np.integer]]) -> NDArray[np.integer]:
    """Make a reference that weighs experts by how reliable they turn out to be, label by label.

    SimpleITK's MultiLabelSTAPLE, on the box that all foreground lies in: the estimates depend on how much background
    there is (Asman & Landman 2011). Undecided voxels are background.

    Args:
        experts: name -> label map, integers (*spatial) from 0 to 255, at least two.

    Returns:
        (*spatial), of the first label map's type.

    Raises:
        UserError: as `expert_agreement`, or labels that are negative or above 255.

    Reference: Warfield et al. 2004, "Simultaneous truth and performance level estimation (STAPLE)"; Rohlfing et al.
    2003 for several labels.
    """
    _check_several(experts)
    maps = list(experts.values())
    labels = _labels(flattened(maps))
    if labels[0] < 0 or labels[-1] > 255:
        raise UserError(f"STAPLE takes labels from 0 to 255, got {labels[0]} to {labels[-1]}")
    reference = np.zeros(maps[0].shape, maps[0].dtype)
    drawn = np.any([m != 0 for m in maps], axis=0)
    if not drawn.any():
        return reference
    along = [np.flatnonzero(drawn.any(axis=tuple(b for b in range(drawn.ndim) if b != a))) for a in range(drawn.ndim)]
    box = tuple(slice(int(hit[0]), int(hit[-1]) + 1) for hit in along)
    images = [sitk.GetImageFromArray(np.ascontiguousarray(m[box], np.uint8)) for m in maps]
    undecided = int(labels[-1]) + 1
    found = sitk.GetArrayFromImage(sitk.MultiLabelSTAPLE(images, undecided % 256))
    reference[box] = np.where(np.isin(found, labels), found, 0)
    return reference


def _check_several(experts: Mapping[str, NDArray[np.integer]]) -> None:
    if len(experts) < 2:
        raise UserError(f"Agreement needs at least two experts, got {len(experts)}: {', '.join(experts) or 'none'}")


def _labels(flat: Sequence[NDArray[np.integer]]) -> NDArray[np.integer]:
    return np.unique(np.concatenate([np.unique(label_map) for label_map in flat]))


def _stacks(flat: Sequence[NDArray[np.integer]]) -> Iterable[NDArray[np.integer]]:
    """(experts, voxels), a block at a time."""
    for start in range(0, flat[0].size, _VOXELS_AT_ONCE):
        yield np.stack([label_map[start : start + _VOXELS_AT_ONCE] for label_map in flat])
