"""The trainers, as the names that `nnUNetv2_train -tr` takes.

A row of `TRAINERS` is all that a new trainer needs besides its file; `trainer_class` makes the class for any name that
the grammar allows, and this module has every such class as an attribute (PEP 562).
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers.names import in_words, parse

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_robust.trainers.architecture import Architecture


BASELINE = "nnUNetTrainer"
"""The trainer that others are compared with: the standard U-Net."""


class Trainer(NamedTuple):
    """A row of the table.

    Attributes:
        architecture: where the class is that makes its network.
        display_name: as tables and figures write its architecture; no other trainer has it.
        summary: what its name changes.
        source: who proposed it.
        training: where the class is that trains it.
    """

    architecture: str
    display_name: str
    summary: str
    source: str
    training: str = "nnunet_robust.trainers.base:RobustTrainer"


class Described(NamedTuple):
    """What tables and figures say of a trainer.

    Attributes:
        display_name: of its architecture; its whole name for a trainer that is not ours.
        options: option -> its words, see `names.in_words`; empty for a trainer that is not ours.
        baseline: whether it is the standard U-Net, whatever its options.
    """

    display_name: str
    options: dict[str, str]
    baseline: bool


TRAINERS: dict[str, Trainer] = {
    "nnUNetTrainer": Trainer(
        "nnunet_robust.trainers.architecture:Architecture", "Standard",
        "the standard trainer, with options", "Isensee et al. 2021",
    ),
    "nnUNetTrainerNoSkip": Trainer(
        "nnunet_robust.trainers.no_skip:NoSkip", "No-skip",
        "no skip connections: the decoder sees only what comes from below", "Kamath et al. 2023",
    ),
    "nnUNetTrainerNoTopSkip": Trainer(
        "nnunet_robust.trainers.no_top_skip:NoTopSkip", "No top skip",
        "only the full-resolution skip is removed", "Wilm et al. 2024",
    ),
    "nnUNetTrainerAdditiveSkip": Trainer(
        "nnunet_robust.trainers.additive_skip:AdditiveSkip", "Additive skip",
        "skips are added instead of concatenated, V-Net's way", "Milletari et al. 2016",
    ),
    "nnUNetTrainerAttentionGated": Trainer(
        "nnunet_robust.trainers.attention_gated:AttentionGated", "Attention-gated",
        "skips are weighed by attention gates, driven from below", "Oktay et al. 2018",
    ),
    "nnUNetTrainerDenseSkip": Trainer(
        "nnunet_robust.trainers.dense_skip:DenseSkip", "Dense skip",
        "nested dense decoders (U-Net++)", "Zhou et al. 2018",
    ),
    "nnUNetTrainerAdaptiveSkip": Trainer(
        "nnunet_robust.trainers.adaptive_skip:AdaptiveSkip", "Adaptive skip",
        "a learned gate per skip and image, from the input's own features", "ours",
    ),
    "nnUNetTrainerUNETR": Trainer(
        "nnunet_robust.trainers.unetr:TransformerEncoder", "UNETR",
        "UNETR: a transformer for an encoder; AdamW, no deep supervision, patch a multiple of 16",
        "Hatamizadeh et al. 2022", "nnunet_robust.trainers.unetr_training:TransformerTraining",
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
    row = TRAINERS[trainer]
    locations = [row.architecture] if row.architecture != TRAINERS[BASELINE].architecture else []
    locations.append(row.training)
    if options.augmentation:
        locations.append(AUGMENTATIONS[options.augmentation])
    if options.adversarial:
        locations.append(ADVERSARIAL)
    bases = tuple(map(_load, locations))
    namespace = {"options": options, "__module__": __name__, "__qualname__": name, "__doc__": bases[0].__doc__}
    return type(name, bases, namespace)


def architecture(name: str) -> type[Architecture]:
    """What makes the network of a trainer of that name; nnU-Net's trainer is not imported for it.

    Raises:
        AttributeError, UserError: see `trainer_class`.
    """
    trainer, _ = parse(name, TRAINERS)
    found: type[Architecture] = _load(TRAINERS[trainer].architecture)
    return found


def describe(name: str) -> Described:
    """Say what tables and figures write for a trainer, ours or not.

    Args:
        name: of a trainer, with its options.

    Example:
        >>> describe("nnUNetTrainerNoSkip_ps64_2epochs")
        Described(display_name='No-skip', options={'patch_size': 'patch 64', 'epochs': '2 epochs'}, baseline=False)
    """
    try:
        trainer, options = parse(name, TRAINERS)
    except (AttributeError, UserError):  # not of our grammar, and whoever wrote it has a class for it
        return Described(name, {}, False)
    return Described(TRAINERS[trainer].display_name, in_words(options), trainer == BASELINE)


def _load(location: str) -> Any:
    module, _, attribute = location.partition(":")
    return getattr(importlib.import_module(module), attribute)


def __getattr__(name: str) -> Any:
    if not name.startswith("nnUNetTrainer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return trainer_class(name)
