"""The trainers, as the names that `nnUNetv2_train -tr` takes.

A row of `TRAINERS` is all that a new trainer needs besides its file; `trainer_class` makes the class for any name that
the grammar allows, and this module has every such class as an attribute (PEP 562).
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from nnunet_robust.trainers.names import parse

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class Trainer(NamedTuple):
    """A row of the table: where the class is, what its name changes, and who proposed it."""

    location: str
    summary: str
    source: str


TRAINERS: dict[str, Trainer] = {
    "nnUNetTrainer": Trainer(
        "nnunet_robust.trainers.base:RobustTrainer", "the standard trainer, with options", "Isensee et al. 2021"
    ),
    "nnUNetTrainerNoSkip": Trainer(
        "nnunet_robust.trainers.no_skip:nnUNetTrainerNoSkip",
        "no skip connections: the decoder sees only what comes from below", "Kamath et al. 2023",
    ),
    "nnUNetTrainerNoTopSkip": Trainer(
        "nnunet_robust.trainers.no_top_skip:nnUNetTrainerNoTopSkip",
        "only the full-resolution skip is removed", "Wilm et al. 2024",
    ),
    "nnUNetTrainerAdditiveSkip": Trainer(
        "nnunet_robust.trainers.additive_skip:nnUNetTrainerAdditiveSkip",
        "skips are added instead of concatenated, V-Net's way", "Milletari et al. 2016",
    ),
    "nnUNetTrainerAttentionGated": Trainer(
        "nnunet_robust.trainers.attention_gated:nnUNetTrainerAttentionGated",
        "skips are weighed by attention gates, driven from below", "Oktay et al. 2018",
    ),
    "nnUNetTrainerDenseSkip": Trainer(
        "nnunet_robust.trainers.dense_skip:nnUNetTrainerDenseSkip",
        "nested dense decoders (U-Net++)", "Zhou et al. 2018",
    ),
    "nnUNetTrainerAdaptiveSkip": Trainer(
        "nnunet_robust.trainers.adaptive_skip:nnUNetTrainerAdaptiveSkip",
        "a learned gate per skip and image, from the input's own features", "ours",
    ),
    "nnUNetTrainerUNETR": Trainer(
        "nnunet_robust.trainers.unetr:nnUNetTrainerUNETR",
        "UNETR: a transformer for an encoder; AdamW, no deep supervision, patch a multiple of 16",
        "Hatamizadeh et al. 2022",
    ),
}  # fmt: skip

# Options that are a mixin: they win over nnU-Net's class and yield to the trainer's own.
AUGMENTATIONS: dict[str, str] = {
    "noDA": "nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA:nnUNetTrainerNoDA",
    "textureDA": "nnunet_robust.trainers.texture_da:TextureAugmentation",
}
ADVERSARIAL = "nnunet_robust.trainers.adversarial:AdversarialTraining"


@functools.cache
def trainer_class(name: str) -> type[nnUNetTrainer]:
    """The trainer of a name, e.g. `nnUNetTrainerNoSkip_ps64_seed1`.

    Raises:
        AttributeError: not a name of ours, nor close to one.
        UserError: a name of ours that breaks the grammar; the message says the rule and the nearest valid name.
    """
    trainer, options = parse(name, TRAINERS)
    base = _load(TRAINERS[trainer].location)
    if base.__name__ == name:
        return base
    locations = [AUGMENTATIONS[options.augmentation]] if options.augmentation else []
    if options.adversarial:
        locations.append(ADVERSARIAL)
    namespace = {"options": options, "__module__": __name__, "__qualname__": name, "__doc__": base.__doc__}
    return type(name, (base, *map(_load, locations)), namespace)


def _load(location: str) -> Any:
    module, _, attribute = location.partition(":")
    return getattr(importlib.import_module(module), attribute)


def __getattr__(name: str) -> Any:
    if not name.startswith("nnUNetTrainer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return trainer_class(name)
