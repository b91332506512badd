"""What builds a trained model's network: nnU-Net's lookup of trainers, without importing every module of nnU-Net.

nnU-Net imports each of its trainers' modules until one has the name, some 60 of them, which takes seconds. Here the
files are searched for the class first, and one of them is imported. Trainers of ours need nnU-Net's trainer for
training only. In all other cases nnU-Net's own lookup answers.
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
    if len(files) != 1 or not _is_module(files[0], package):
        return None
    module = ".".join(["nnunetv2", *files[0].relative_to(package).with_suffix("").parts])
    found = getattr(importlib.import_module(module), trainer)
    # As nnU-Net's lookup demands; it is imported by now, as any trainer of nnU-Net's imports it.
    base = importlib.import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer").nnUNetTrainer
    return found if issubclass(found, base) else None


def _is_module(file: Path, package: Path) -> bool:
    """Whether nnU-Net would come to a file: a module, in packages all the way down."""
    parts = file.relative_to(package).with_suffix("").parts
    folders = [folder for folder in file.parents if folder.is_relative_to(package)]
    return (
        file.name != "__init__.py"
        and all(map(str.isidentifier, parts))
        and all((folder / "__init__.py").is_file() for folder in folders)
    )


def _only_ours() -> bool:
    """Whether nnU-Net looks for trainers in no folder of somebody else's before ours."""
    return next(iter(os.environ.get(hook.VARIABLE, "").split(os.pathsep))) == hook.PLUGIN_FOLDER
