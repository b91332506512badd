"""The members of a prediction: folds, mirrored copies, or models, as probabilities on the image's own grid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnunet_robust.eval.models import Model
from nnunet_robust.eval.sliding_window import Logits, SlidingWindow


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


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        segmentation: labels (*spatial), what `nnUNetv2_predict` writes.
        members: that it is the mean of; the mean itself where there is a single one.
    """

    segmentation: np.ndarray
    members: Members

    @classmethod
    def of(cls, model: Model, logits: Logits, properties: Mapping[str, Any]) -> Prediction:
        """From the logits of an image, and the properties that `Model.preprocess` gave beside it."""
        members = Members([(model, member, properties) for member in logits.members or (logits.mean,)])
        return cls(model.export(logits.mean, properties), members)


def predict(
    model: Model, window: SlidingWindow, image: np.ndarray, properties: Mapping[str, Any], by: Collection[str]
) -> Prediction:
    """Predict one image, in memory.

    Args:
        model: whose preprocessing and label handling to use.
        window: of this model.
        image: (C, *spatial), raw intensities as nnU-Net's reader gives them.
        properties: what the reader gave beside it.
        by: of `sliding_window.MEMBERS_BY`, what members are told apart by.

    Raises:
        UserError: see `SlidingWindow.logits`.
    """
    data, found = model.preprocess(image, properties)
    return Prediction.of(model, window.members_many([data], by)[0], found)
