"""How a model was trained, as far as its checkpoints and its trainer's name tell."""

from __future__ import annotations

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.results.manifest import TrainingEntry
from nnunet_robust.trainers import TRAINERS
from nnunet_robust.trainers.names import Options, parse
from nnunet_robust.trainers.plans import format_size

ITERATIONS = 250
"""Of an epoch, where the trainer's name says nothing else: nnU-Net's own."""


def training_of(model: Model) -> TrainingEntry:
    """Describe how a model was trained.

    Args:
        model: as loaded; its plans are those that its trainer's name has changed.
    """
    options = _options(model.predictor.trainer_name)
    return TrainingEntry(
        dataset=model.predictor.plans_manager.dataset_name,
        epochs=dict(model.epochs),
        iterations_per_epoch=None if options is None else options.iterations or ITERATIONS,
        batch_size=model.predictor.configuration_manager.configuration.get("batch_size"),
        patch_size=format_size(model.patch_size),
        seed=None if options is None else options.seed,
    )


def _options(trainer: str) -> Options | None:
    """What a trainer's name says; None for a trainer that is not of this package's grammar."""
    try:
        return parse(trainer, TRAINERS)[1]
    except (AttributeError, UserError):
        return None
