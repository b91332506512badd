"""What an attack makes worse: cross-entropy by voxel, and how much each voxel counts in it.

A step of SegPGD or CosPGD ascends the mean of w * CE over voxels; they differ in the weights w, which no gradient
passes through. Plain labels have one question in a voxel, which of them it is; regions have one for each head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout


@dataclass(frozen=True)
class Target:
    """The reference, on the grid of the logits.

    Attributes:
        labels: int64 (*spatial).
        valid: bool (*spatial), False where the label is to be ignored.
        heads: what the logits' channels stand for.
        count: how many voxels count.
    """

    labels: torch.Tensor
    valid: torch.Tensor
    heads: LabelLayout
    count: int

    @property
    def yes(self) -> torch.Tensor:
        """float32 (heads, *spatial): of plain labels, one-hot; of regions, 1 inside of each."""
        if self.heads.class_order is None:
            of_each: list[tuple[int, ...]] = [(label,) for label in range(self.heads.count)]
        else:
            of_each = list(self.heads.labels.values())
        return torch.stack([_among(self.labels, values) for values in of_each]).float()


def target(labels: NDArray[np.integer], heads: LabelLayout, ignore_label: int | None, device: torch.device) -> Target:
    """The reference of an image.

    Args:
        labels: (*spatial), on the grid of the logits.
        heads: what the logits' channels stand for: `Model.label_layout`.
        ignore_label: of voxels that do not count; None: all count.
        device: of the logits.

    Raises:
        UserError: no voxel counts.
    """
    found = torch.from_numpy(np.ascontiguousarray(labels).astype(np.int64)).to(device)
    valid = torch.ones_like(found, dtype=torch.bool) if ignore_label is None else found != ignore_label
    count = int(valid.sum())
    if not count:
        raise UserError(f"every voxel of the reference has the label to be ignored, {ignore_label}: nothing to attack")
    return Target(found, valid, heads, count)


Weighting = Callable[[torch.Tensor, Target, float], torch.Tensor]
"""(logits, target, progress) -> weights like the answers of `cross_entropy`; progress in [0, 1): steps done / steps."""


def cross_entropy(logits: torch.Tensor, reference: Target) -> torch.Tensor:
    """The cross-entropy of each voxel: of a softmax over labels, or of a sigmoid for each region.

    Args:
        logits: (heads, *spatial).
        reference: of the same grid.

    Returns:
        (1, *spatial) for plain labels, (heads, *spatial) for regions, in nats; 0 where nothing counts.
    """
    if reference.heads.class_order is None:
        labels = torch.where(reference.valid, reference.labels, 0)
        losses = functional.cross_entropy(logits[None], labels[None], reduction="none")
    else:
        losses = functional.binary_cross_entropy_with_logits(logits, reference.yes, reduction="none")
    return losses * reference.valid


def attack_loss(logits: torch.Tensor, reference: Target, weighting: Weighting, progress: float) -> torch.Tensor:
    """What a step ascends: the mean of weight * cross-entropy over the voxels that count (and over regions).

    Args:
        logits: (heads, *spatial).
        reference: of the same grid.
        weighting: one of `WEIGHTINGS`; its weights are constants for the gradient.
        progress: steps done / steps, in [0, 1).
    """
    losses = cross_entropy(logits, reference)
    weights = weighting(logits.detach(), reference, progress)
    return (weights * losses).sum() / (reference.count * len(losses))


def plain(logits: torch.Tensor, reference: Target, progress: float) -> torch.Tensor:
    """Every voxel counts alike: w = 1, as in FGSM and PGD.

    Reference: Goodfellow et al., ICLR 2015; Madry et al., ICLR 2018, eq. 2.1 and section 2.1.
    """
    return torch.ones((), device=logits.device)


def segpgd(logits: torch.Tensor, reference: Target, progress: float) -> torch.Tensor:
    """SegPGD: w = 1 - l where the prediction is right, l where it is wrong; l = progress / 2.

    At step t = 1 .. T, l = (t - 1) / 2T: at first only what is still right counts, towards the end nearly all alike.
    "Right" is, for plain labels, the largest logit at the label; for a region, its logit on the label's side of 0.

    Reference: Gu et al., "SegPGD", ECCV 2022, arXiv 2207.12391: the split of the loss, the schedule of lambda and
    algorithm 1; the same in the code of Agnihotri et al. (`segpgd_scale`, there with t from 0).
    """
    share = progress / 2
    return torch.where(_right(logits, reference), 1 - share, share)


def masked(logits: torch.Tensor, reference: Target, progress: float) -> torch.Tensor:
    """Only what is still right counts: w = 1 there, 0 elsewhere; SegPGD's weights at its first step, kept.

    Reference: the masked cross-entropy of Croce, Singh and Hein, "Towards Reliable Evaluation and Fast Training of
    Robust Semantic Segmentation Models", ECCV 2024, arXiv 2306.12941.
    """
    return _right(logits, reference).float()


def cospgd(logits: torch.Tensor, reference: Target, progress: float) -> torch.Tensor:
    """CosPGD: w = cosine of the angle between the predicted probabilities p and the one-hot reference y: p_y / |p|.

    A region is a question with two answers, p and 1 - p, so that w = p_y / sqrt(p**2 + (1 - p)**2). In (0, 1]; near 0
    where the prediction is surely wrong. There is no schedule: the weights change with the predictions.

    Reference: Agnihotri, Jung and Keuper, "CosPGD", ICML 2024, arXiv 2302.02213 (the loss scaled by the cosine
    similarity of softmax and one-hot), and their code (`cospgd_scale`), which detaches the weights likewise.
    """
    if reference.heads.class_order is None:
        probabilities = logits.softmax(0)
        labels = torch.where(reference.valid, reference.labels, 0)[None]
        return probabilities.gather(0, labels) / probabilities.norm(dim=0, keepdim=True)
    inside = logits.sigmoid()
    of_answer = torch.where(reference.yes > 0, inside, 1 - inside)
    return of_answer / torch.hypot(inside, 1 - inside)


WEIGHTINGS: dict[str, Weighting] = {"plain": plain, "segpgd": segpgd, "masked": masked, "cospgd": cospgd}


def predicted(logits: torch.Tensor, heads: LabelLayout) -> torch.Tensor:
    """The label map of logits, as nnU-Net makes it: int64 (*spatial); see `LabelLayout.segment`."""
    if heads.class_order is None:
        return logits.argmax(0)
    labels = torch.zeros(logits.shape[1:], dtype=torch.int64, device=logits.device)
    for head, label in enumerate(heads.class_order):
        labels[logits[head] > 0] = label
    return labels


def mean_dice(logits: torch.Tensor, reference: Target) -> float:
    """The mean over structures of the Dice of the label map, on the logits' grid, over the voxels that count.

    A structure that neither has counts 1, one that a single one has 0, as in `results.csv`.
    """
    labels = predicted(logits, reference.heads)
    counts = []
    for values in reference.heads.labels.values():
        found, wanted = (_among(map_, values) & reference.valid for map_ in (labels, reference.labels))
        counts += [(found & wanted).sum(), found.sum() + wanted.sum()]
    waited = torch.stack(counts).tolist()  # once for all structures
    dice = [2 * both / total if total else 1.0 for both, total in zip(waited[::2], waited[1::2], strict=True)]
    return sum(dice) / len(dice)


def _right(logits: torch.Tensor, reference: Target) -> torch.Tensor:
    if reference.heads.class_order is None:
        return (logits.argmax(0) == reference.labels)[None]
    return (logits > 0) == (reference.yes > 0)


def _among(labels: torch.Tensor, values: tuple[int, ...]) -> torch.Tensor:
    return functools.reduce(torch.logical_or, (labels == value for value in values))
