"""What an attack asks of a model: how wrong is it on an image, and which way is worse?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_robust.eval.attacks.chain import Chain
from nnunet_robust.eval.attacks.gradient import WindowGradient
from nnunet_robust.eval.attacks.losses import Target, Weighting, attack_loss, cross_entropy, mean_dice
from nnunet_robust.eval.models import Model


class Score(NamedTuple):
    """How wrong a model is on an image, on the grid of its logits, over the voxels that count.

    Attributes:
        dice: mean over structures.
        loss: mean cross-entropy, in nats.
    """

    dice: float
    loss: float

    def worse_than(self, other: Score) -> bool:
        """The lower Dice is worse; of equals, the higher loss."""
        return (self.dice, -self.loss) < (other.dice, -other.loss)


class Answer(NamedTuple):
    """The score of an image, and the way up.

    Attributes:
        score: of the image.
        gradient: of the weighted loss with respect to the raw image, float32 (C, *spatial).
    """

    score: Score
    gradient: torch.Tensor


class Victim(Protocol):
    """A model and the reference of one image. Images are raw, float (C, *spatial)."""

    def score(self, image: torch.Tensor) -> Score:
        """How wrong is it there?"""

    def gradient(self, image: torch.Tensor, weighting: Weighting, progress: float) -> Answer:
        """How wrong is it there, and how does `attack_loss` change with the image?"""


class ModelVictim:
    """A trained model through its whole chain: preprocessing, sliding window, folds and mirroring.

    In float32 throughout, where the sweep's `exact` sums logits in half precision: at a voxel whose labels are nearly
    as likely as one another the two may differ.

    Args:
        model: which.
        window: the model's, made once for all of its cases.
        label: reference (*spatial), as its file has it.
        properties: what nnU-Net's reader gave beside the image.

    Raises:
        UserError: see `Chain`.
    """

    def __init__(
        self, model: Model, window: WindowGradient, label: NDArray[np.integer], properties: Mapping[str, Any]
    ) -> None:
        self._window = window
        self._chain = Chain(model, label, properties, model.predictor.device)

    def score(self, image: torch.Tensor) -> Score:
        """See `Victim`."""
        prepared = self._chain.forward(image)
        return _score(self._window.logits(prepared.data), prepared.target)

    def gradient(self, image: torch.Tensor, weighting: Weighting, progress: float) -> Answer:
        """See `Victim`."""
        prepared = self._chain.forward(image)
        found = self._window.gradient(
            prepared.data, lambda logits: attack_loss(logits, prepared.target, weighting, progress)
        )
        return Answer(_score(found.logits, prepared.target), prepared.back(found.gradient))


def _score(logits: torch.Tensor, target: Target) -> Score:
    losses = cross_entropy(logits, target)
    return Score(
        mean_dice(logits, target), float(losses.sum(dtype=torch.float64)) / (int(target.valid.sum()) * len(losses))
    )
