"""One model with its members: an image in, masks and scores out; and what a calibration of it is bound to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_robust.common.console import quiet
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.members import members_by, predict
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import MEMBERS_BY, SlidingWindow
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout, Mask
from nnunet_robust.eval.uncertainty.uncertainty import StructureScores, Uncertainty, structure_scores


@dataclass(frozen=True)
class Predicted:
    """The prediction of a model for one image.

    Attributes:
        label_layout: what the channels of its output stand for.
        segmentation: labels (*spatial), as `nnUNetv2_predict` writes them.
        maps: probabilities, entropy and mutual information.
        spacing_mm: the voxel's size along each axis.
    """

    label_layout: LabelLayout
    segmentation: NDArray[np.integer]
    maps: Uncertainty
    spacing_mm: tuple[float, ...]

    @cached_property
    def scores(self) -> dict[str, StructureScores]:
        """The scores of each structure."""
        return structure_scores(self.maps, self.label_layout, self.spacing_mm)

    def mask(self, structure: str) -> Mask:
        """Make the bool mask (*spatial) of a structure in the segmentation."""
        return self.label_layout.mask(self.segmentation, structure)

    @property
    def segmented(self) -> Mask:
        """The bool mask (*spatial) of all structures together."""
        found: Mask = np.zeros(self.segmentation.shape, bool)
        for name in self.label_layout.structures:
            found |= self.mask(name)
        return found

    def probability(self, structure: str) -> NDArray[np.float32]:
        """Return the probability of a structure, the mean over members: (*spatial), in [0, 1]."""
        found: NDArray[np.float32] = np.clip(
            self.maps.mean[self.label_layout.index[structure]], 0, 1
        )  # rounding goes beyond
        return found

    def predicted_dice(self, structure: str) -> float:
        """Return the expected overlap that an interval stands around, in [0, 1]: see `model_identity`."""
        return predicted_dice(self.scores[structure], self.maps.n_members)


class Predictor:
    """A loaded model, ready to predict with members.

    Args:
        model: the model.
        members: of `sliding_window.MEMBERS_BY`, what its members are told apart by.
        precision: exact or fast, see `SlidingWindow`.

    Attributes:
        model: as given, in this precision.
        identity: see `model_identity`.
        window: runs its networks.

    Raises:
        UserError: there are no such members.
    """

    def __init__(self, model: Model, members: Sequence[str], precision: str) -> None:
        self.model = model.with_precision(precision)
        self.identity = model_identity(model, members, precision)
        self._members = tuple(self.identity["members"])
        self.window = SlidingWindow.from_predictor(model.predictor, precision)

    def predict(
        self,
        image: NDArray[np.float32],
        properties: Mapping[str, Any],
        also: Callable[[torch.Tensor], None] | None = None,
    ) -> Predicted:
        """Predict one image.

        Args:
            image: (C, *spatial), raw intensities as nnU-Net's reader gives them.
            properties: what the reader gave beside it.
            also: called with the preprocessed image, float32 (C, *spatial).

        Raises:
            UserError: see `SlidingWindow.logits`.
        """
        with quiet():
            data, found = self.model.preprocess(image, properties)
            if also is not None:
                also(data)
            (logits,) = self.window.members_many([data], self._members)
            prediction = predict(self.model, logits, found)
        assert prediction.uncertainty is not None
        spacing_mm = tuple(float(s) for s in properties["spacing"])
        return Predicted(self.model.label_layout, prediction.labels, prediction.uncertainty, spacing_mm)


def predicted_dice(scores: StructureScores, n_members: int) -> float:
    """Return the expected overlap that an interval of the Dice stands around, in [0, 1]: see `model_identity`."""
    return scores.overlap.soft_dice if n_members == 1 else scores.overlap.predicted_dice


def model_identity(model: Model, members: Sequence[str], precision: str) -> dict[str, Any]:
    """Describe what must be the same for a calibration to be of a model: `Calibration.model`.

    Args:
        model: the model.
        members: of `sliding_window.MEMBERS_BY`.
        precision: exact or fast.

    Returns:
        JSON-ready. `predicted_dice` and `uncertainty` say which scores an interval of the Dice is made of: with several
        members the overlap of these with the segmentation, with a single one the soft Dice.

    Raises:
        UserError: there are no such members.
    """
    used = members_by(members)
    if not used:
        raise UserError(f"--members (none): give {' or '.join(MEMBERS_BY)}, or both")
    predictor = model.predictor
    mirrors = 2 ** len(predictor.allowed_mirroring_axes or ()) if predictor.use_mirroring else 1
    counts = {"folds": len(model.checkpoints), "mirroring": mirrors}
    n_members = int(np.prod([counts[name] for name in used]))
    return {
        "dataset": predictor.plans_manager.dataset_name,
        "trainer": predictor.trainer_name,
        "plans": model.plans,
        "configuration": model.configuration,
        "fold": model.fold,
        "checkpoints": dict(model.checkpoints),
        "tile_size": model.arm["tile_size"],
        "mirroring": bool(predictor.use_mirroring),
        "precision": precision,
        "members": list(used),
        "n_members": n_members,
        "predicted_dice": "soft_dice" if n_members == 1 else "predicted_dice",
        "uncertainty": "entropy_bits",
    }
