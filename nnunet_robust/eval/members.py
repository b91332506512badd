"""The members of a prediction: folds, mirrored copies, or models, as probabilities on the image's own grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnunet_robust.eval.models import Model


@dataclass(frozen=True)
class Members:
    """Probabilities (heads, *spatial), float32, a member at a time: each pass makes them again, so that one is held.

    Attributes:
        logits: of each member, with the model that they are of and the properties of its preprocessed image.
    """

    logits: Sequence[tuple[Model, torch.Tensor, Mapping[str, Any]]]

    def __len__(self) -> int:
        return len(self.logits)

    def __iter__(self) -> Iterator[np.ndarray]:
        for model, logits, properties in self.logits:
            yield model.probabilities(logits, properties)
