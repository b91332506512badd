"""Uncertainty of a segmentation: maps and scores from the probabilities of several members: folds, seeds, mirrorings.

    maps = uncertainty(members, layout)            # maps: entropy, mutual information, mean probabilities
    structure_scores(found, layout, spacing_mm)   # numbers, structure by structure

Of a voxel, the entropy of the mean probabilities is all that is unknown; its share on which the members agree, the
expected entropy, is what each of them finds unclear in the image itself, and the rest, the mutual information between
the label and the choice of the member, is their disagreement (Houlsby et al. 2011; Smith & Gal 2018).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout, blocks
from nnunet_robust.eval.uncertainty.overlap import dice_matrix, mean_of_pairs, overlap_counts

BAND_MM = 3.0
"""How far around the predicted foreground uncertainty counts towards a structure's score."""


@dataclass(frozen=True)
class PredictedDice:
    """How well a structure is expected to be segmented, told without a reference.

    Masks are those of the label maps that nnU-Net makes of the probabilities. Two empty masks have a Dice of 1, an
    empty and another one 0.

    Attributes:
        predicted_dice: **the score**: the mean over members of the Dice between the member's mask and the
            ensemble's, in [0, 1]: the overlap to be expected if the truth were one more draw of such a member. As
            each member is a part of the ensemble, it is optimistic: it ranks cases, and guarantees no Dice. NaN
            with a single member, who agrees with itself and says nothing.
        pairwise_dice: the mean of the Dice over each two members, in [0, 1]; NaN with a single member.
        soft_dice: 2 sum_S p / (|S| + sum p) of the mean probabilities p and the ensemble's mask S, in [0, 1]: the
            expected Dice, to a close approximation, if p is calibrated and voxels are independent. With a single
            member too. An empty mask has 0, the expectation where any p > 0, and 1 where all are 0.

    Reference: Roy et al. 2019 (pairwise), "Bayesian QuickNAT"; Jungo et al. 2020, "Analyzing the quality and
    challenges of uncertainty estimations for brain tumor segmentation"; Borges et al. 2024, "Soft Dice Confidence",
    arXiv 2402.10665.
    """

    predicted_dice: float
    pairwise_dice: float
    soft_dice: float


@dataclass(frozen=True)
class Uncertainty:
    """What the members of an ensemble say of one image. Entropies are in bits, see `LabelLayout.entropy_bits`.

    Attributes:
        n_members: how many.
        mean: float32 (heads, *spatial), their mean probabilities; those of the member, bit for bit, where there is one
            or where all are the same.
        segmentation: (*spatial), the label map that was given, or that of `mean`: the ensemble's.
        entropy: float32 (*spatial), of the mean probabilities.
        expected_entropy: float32 (*spatial), mean of the members' entropies.
        mutual_information: float32 (*spatial), their difference, >= 0; 0 where members agree, as a single one does.
        overlap: structure -> expected overlap.
    """

    n_members: int
    mean: NDArray[np.float32]
    segmentation: NDArray[np.integer]
    entropy: NDArray[np.float32]
    expected_entropy: NDArray[np.float32]
    mutual_information: NDArray[np.float32]
    overlap: dict[str, PredictedDice]


@dataclass(frozen=True)
class StructureScores:
    """How uncertain one structure of one case is.

    Attributes:
        entropy_bits: mean over the structure's surroundings of the maps' entropy.
        mutual_information_bits: the same of the mutual information.
        n_foreground: voxels of the ensemble's mask.
        n_voxels: voxels of the surroundings: the mask and the band around it. Of an empty mask, the voxel where the
            structure is most probable and the band around that one.
        overlap: the expected overlap.
    """

    entropy_bits: float
    mutual_information_bits: float
    n_foreground: int
    n_voxels: int
    overlap: PredictedDice


def uncertainty(
    members: Iterable[NDArray[np.floating]],
    layout: LabelLayout,
    weights: Sequence[float] | None = None,
    segmentation: NDArray[np.integer] | None = None,
) -> Uncertainty:
    """Compute the uncertainty of an ensemble.

    Members are taken one at a time and worked through in blocks. Beside the member at hand, 4 (heads + 3) bytes a voxel
    are held, and one byte more for each member: its label map, for the overlap of pairs.

    Args:
        members: arrays (heads, *spatial) of probabilities, after softmax or sigmoid, on one grid; arrays that lie in
            files (`np.load(..., mmap_mode="r")`) are read a block at a time.
        layout: what they stand for.
        weights: how much each member counts in all means over members, >= 0; None weighs all alike.
        segmentation: the label map to compare with the members' (`overlap`); None takes that of their mean.

    Raises:
        UserError: no members, another number of weights, members of different shapes, or numbers that are no
            probabilities.

    Example:
        >>> import numpy as np
        >>> layout = LabelLayout({"tumour": 1})
        >>> first = np.array([[[1.0, 0.5]], [[0.0, 0.5]]])  # two labels, one row of two voxels: sure, and undecided
        >>> second = np.array([[[0.0, 0.5]], [[1.0, 0.5]]])  # sure of the opposite, and undecided
        >>> found = uncertainty([first, second], layout)
        >>> found.entropy.tolist(), found.mutual_information.tolist()  # bits; only the first is a disagreement
        ([[1.0, 1.0]], [[1.0, 0.0]])
    """
    count, total = 0, 0.0
    shape: tuple[int, ...] = ()
    segmentations = []
    for member in members:
        if weights is not None and count == len(weights):
            raise UserError(f"There are {len(weights)} weights and more members than that: give a weight for each")
        weight = 1.0 if weights is None else float(weights[count])
        count, total = count + 1, total + weight
        share = np.float32(weight / total if weight else 0)
        if count == 1:
            shape = member.shape[1:]
            mean: NDArray[np.float32] = np.zeros((layout.count, *shape), np.float32)
            expected: NDArray[np.float32] = np.zeros(shape, np.float32)
        if member.shape[1:] != shape:
            raise UserError(f"Members must have one shape, got {shape} and {member.shape[1:]}: resample them first")
        labels: NDArray[np.integer] = np.empty(shape, layout.label_type)
        for block in blocks(shape):
            p = layout.checked(member[:, block])
            # Running means: of equal members they are that member, bit for bit.
            mean[:, block] += (p - mean[:, block]) * share
            expected[block] += (layout.entropy_bits(p) - expected[block]) * share
            labels[block] = layout.segment(p)
        segmentations.append(labels)
        del member, p  # before the next one is made
    if count == 0:
        raise UserError("An ensemble needs at least one member, got none")
    if weights is not None and (count != len(weights) or not total > 0 or min(weights) < 0):
        raise UserError(f"Weights must be one for each of {count} members, >= 0 and not all 0, got {list(weights)}")

    entropy: NDArray[np.float32] = np.empty(shape, np.float32)
    information: NDArray[np.float32] = np.empty(shape, np.float32)
    of_mean: NDArray[np.integer] = np.empty(shape, layout.label_type)
    for block in blocks(shape):
        entropy[block] = layout.entropy_bits(mean[:, block])
        information[block] = np.maximum(entropy[block] - expected[block], 0)  # negative by rounding alone
        of_mean[block] = layout.segment(mean[:, block])
    segmentation = of_mean if segmentation is None else segmentation
    overlap = _overlap(mean, segmentation, segmentations, weights, layout)
    return Uncertainty(count, mean, segmentation, entropy, expected, information, overlap)


def _overlap(
    mean: NDArray[np.float32],
    segmentation: NDArray[np.integer],
    members: Sequence[NDArray[np.integer]],
    weights: Sequence[float] | None,
    layout: LabelLayout,
) -> dict[str, PredictedDice]:
    found = {}
    for name, labels in layout.labels.items():
        dice = dice_matrix(overlap_counts([segmentation, *members], labels))
        inside = everywhere = 0.0
        n_foreground = 0
        for block in blocks(segmentation.shape):
            p = mean[layout.index[name], block]
            mask = layout.mask(segmentation[block], name)
            inside += float(p.sum(where=mask, dtype=np.float64))
            everywhere += float(p.sum(dtype=np.float64))
            n_foreground += int(np.count_nonzero(mask))
        found[name] = PredictedDice(
            predicted_dice=float(np.average(dice[0, 1:], weights=weights)) if len(members) > 1 else math.nan,
            pairwise_dice=mean_of_pairs(dice[1:, 1:], weights),
            soft_dice=2 * inside / (n_foreground + everywhere) if n_foreground + everywhere > 0 else 1.0,
        )
    return found


def structure_scores(
    maps: Uncertainty, layout: LabelLayout, spacing_mm: Sequence[float], band_mm: float = BAND_MM
) -> dict[str, StructureScores]:
    """Compute the scores of a case: maps averaged over each predicted structure and the band around it.

    A mean over the whole image would measure how large the image is: most of it is background without any doubt.

    Args:
        maps: what `uncertainty` returns.
        layout: what its heads stand for.
        spacing_mm: the voxel's size along each axis, in mm, > 0.
        band_mm: how far the band reaches, in mm, >= 0; 0 for the mask alone.

    Raises:
        UserError: a bad spacing or band.
    """
    scores = {}
    for name in layout.structures:
        mask = layout.mask(maps.segmentation, name)
        n_foreground = int(np.count_nonzero(mask))
        if n_foreground == 0:
            mask.flat[int(np.argmax(maps.mean[layout.index[name]]))] = True
        near = neighbourhood(mask, spacing_mm, band_mm)
        scores[name] = StructureScores(
            entropy_bits=float(maps.entropy.mean(where=near, dtype=np.float64)),
            mutual_information_bits=float(maps.mutual_information.mean(where=near, dtype=np.float64)),
            n_foreground=n_foreground,
            n_voxels=int(np.count_nonzero(near)),
            overlap=maps.overlap[name],
        )
    return scores


def neighbourhood(mask: NDArray[np.bool_], spacing_mm: Sequence[float], band_mm: float) -> NDArray[np.bool_]:
    """Widen a mask by every voxel whose centre is within `band_mm` of the centre of one of its own.

    Args:
        mask: bool (*spatial), not modified.
        spacing_mm: the voxel's size along each axis, in mm, > 0.
        band_mm: in mm, >= 0.

    Returns:
        bool (*spatial); nothing around an empty mask.

    Raises:
        UserError: a bad spacing or band.

    Example:
        >>> import numpy as np
        >>> mask = np.array([[False, False, False, True, False, False]])
        >>> neighbourhood(mask, spacing_mm=(1.0, 1.0), band_mm=2.0).astype(int)
        array([[0, 1, 1, 1, 1, 1]])
    """
    if len(spacing_mm) != mask.ndim or not all(0 < s < math.inf for s in spacing_mm):
        raise UserError(f"The spacing must be {mask.ndim} positive numbers in mm, got {list(spacing_mm)}")
    if not 0 <= band_mm < math.inf:
        raise UserError(f"The band must be >= 0 mm, got {band_mm}")
    reach = band_mm * (1 + 1e-6)  # a voxel at exactly this distance belongs to it
    near = np.zeros(mask.shape, bool)
    box = find_objects(mask.view(np.uint8), max_label=1)[0]
    if box is None:
        return near
    margins = [int(reach / s) for s in spacing_mm]
    window = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margins, strict=True))
    mask, out = mask[window], near[window]
    # The ball, row by row: a distance transform takes ten times as long, and seventy bytes a voxel.
    rows, width = mask.copy(), 0
    for run, offset in _ball(spacing_mm, reach):
        while width < run:
            width += 1
            rows[..., width:] |= mask[..., :-width]
            rows[..., :-width] |= mask[..., width:]
        ahead, behind = _shifted(offset, mask.shape)
        out[ahead] |= rows[behind]
    return near


def _ball(spacing_mm: Sequence[float], radius_mm: float) -> list[tuple[int, tuple[int, ...]]]:
    """The rows of a ball, shortest first: how far each reaches to both sides, and its offset along the other axes."""
    *others, last = spacing_mm
    margins = [int(radius_mm / s) for s in others]
    rows = []
    for offset in itertools.product(*(range(-m, m + 1) for m in margins)):
        rest = radius_mm**2 - sum((o * s) ** 2 for o, s in zip(offset, others, strict=True))
        if rest >= 0:
            rows.append((int(math.sqrt(rest) / last), offset))
    return sorted(rows)


def _shifted(offset: Sequence[int], shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where in an image, and from where, voxels go that move by an offset; those that leave it are left out."""
    pairs = list(zip(offset, shape, strict=False))
    ahead = tuple(slice(max(o, 0), max(0, n + min(o, 0))) for o, n in pairs)
    behind = tuple(slice(max(-o, 0), max(0, n - max(o, 0))) for o, n in pairs)
    return ahead, behind
