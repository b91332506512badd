"""The arms of a sweep: what has rows of its own in `results.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.models import Model

Arm: TypeAlias = Model | Ensemble
"""A model, denoised or not, or an ensemble."""


def networks_of(arms: Sequence[Arm]) -> list[Model]:
    """The models that have to predict for some arms: these themselves, and the members of ensembles."""
    wanted = [model for arm in arms for model in (arm.models if isinstance(arm, Ensemble) else [arm])]
    return list({model.key: model for model in wanted}.values())
