"""What builds a trained model's network: nnU-Net's lookup of trainers, without importing every module of nnU-Net.

nnU-Net imports each of its trainers' modules until one has the name, some 60 of them, which takes seconds. Here the
files are searched for the class first, and one of them is imported. Trainers of ours need nnU-Net's trainer for
training only. In all other cases nnU-Net's own lookup answers; it is the same answer in every case.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_robust import hook
from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers import BASELINE, architecture

_TRAINERS = Path("training", "nnUNetTrainer")  # in nnU-Net's own package


def network_builder(trainer: str) -> Any:
    """Find what has the `build_network_architecture` of a trainer.

    Args:
        trainer: its name, as a checkpoint has it.

    Returns:
        The trainer's class; for a trainer of ours, which nnU-Net would find, its architecture alone.

    Raises:
        RuntimeError: nnU-Net finds no such trainer.
        UserError: a name of ours that breaks the grammar.
    """
    if trainer == BASELINE:
        return architecture(BASELINE)
    if found := _nnunets_own(trainer):
        return found
    if _only_ours():
        try:
            return architecture(trainer)
        except AttributeError:
            pass
    return recursive_find_trainer_class_by_name(trainer)


def _nnunets_own(trainer: str) -> Any:
    """The class of that name in nnU-Net's package; None where none, or more than one file defines it."""
    if not re.fullmatch(r"\w+", trainer):
        raise UserError(f"a checkpoint names the trainer {trainer!r}, which is no name of a class")
    package = Path(nnunetv2.__path__[0])
    defined = re.compile(rf"^class {trainer}\b", re.MULTILINE)
    files = [path for path in sorted((package / _TRAINERS).rglob("*.py")) if defined.search(path.read_text("utf-8"))]
    if len(files) != 1 or files[0].name == "__init__.py":
        return None
    module = ".".join(["nnunetv2", *files[0].relative_to(package).with_suffix("").parts])
    return getattr(importlib.import_module(module), trainer)


def _only_ours() -> bool:
    """Whether nnU-Net looks for trainers in no folder of somebody else's before ours."""
    return next(iter(os.environ.get(hook.VARIABLE, "").split(os.pathsep))) == hook.PLUGIN_FOLDER
