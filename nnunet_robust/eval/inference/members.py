"""A prediction with its members: folds, mirrored copies, or models, as probabilities on the image's own grid."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import MEMBERS_BY, Logits
from nnunet_robust.eval.uncertainty.uncertainty import Uncertainty, uncertainty


@dataclass(frozen=True)
class Members:
    """The probabilities (heads, *spatial), float32, of the members of a prediction, one after the other.

    Each pass over them makes them again, so that those of a single member are in memory.

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
    """The prediction of a model or an ensemble for an image.

    Attributes:
        labels: (*spatial), on the image's own grid.
        uncertainty: what its members say; None where they were not told apart.
        weights: of an ensemble's models, with a sum of 1.
        divergence_bits: of an ensemble, the texture divergence between what its models, all alike, call foreground
            and the rest; NaN where that is not defined.
    """

    labels: NDArray[np.integer]
    uncertainty: Uncertainty | None = None
    weights: tuple[float, ...] = ()
    divergence_bits: float = math.nan


def predict(model: Model, logits: Logits, properties: Mapping[str, Any]) -> Prediction:
    """Make the prediction of one model; its labels are those of `nnUNetv2_predict`, whatever its members.

    Args:
        model: which.
        logits: of the preprocessed image, with those of its members where they are wanted.
        properties: from `Model.preprocess`.
    """
    labels = model.export(logits.mean, properties)
    if not logits.members:
        return Prediction(labels)
    members = Members([(model, member, properties) for member in logits.members])
    return Prediction(labels, uncertainty(members, model.label_layout, segmentation=labels))


def members_by(words: Collection[str]) -> tuple[str, ...]:
    """Check by what members are told apart, and bring it into a fixed order.

    Raises:
        UserError: a word that is none of `MEMBERS_BY`.
    """
    unknown = sorted(set(words) - set(MEMBERS_BY))
    if unknown:
        raise UserError(f"members by {unknown[0]!r}: take {' or '.join(MEMBERS_BY)}, or both")
    return tuple(word for word in MEMBERS_BY if word in words)
