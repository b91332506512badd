"""A trained model as a victim: its whole chain from the raw image to the score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_robust.eval.attacks.chain import Chain
from nnunet_robust.eval.attacks.gradient import WindowGradient
from nnunet_robust.eval.attacks.losses import Target, Weighting, attack_loss, cross_entropy, mean_dice
from nnunet_robust.eval.attacks.sums import exact_sum
from nnunet_robust.eval.attacks.victim import Answer, Score
from nnunet_robust.eval.inference.models import Model


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
    loss = float(exact_sum(losses)) / (target.count * len(losses))
    return Score(mean_dice(logits, target), loss)
