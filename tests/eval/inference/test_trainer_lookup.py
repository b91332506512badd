"""The lookup of what builds a network: the answer is nnU-Net's, in every case, and little is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_robust import hook
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.trainer_lookup import _is_module, network_builder
from nnunet_robust.trainers import TRAINERS
from tests.trainers.test_networks import plans

# In a file of their own name, in one of another name, with another network; and one that our grammar has, too.
NNUNETS = (
    "nnUNetTrainerDA5", "nnUNetTrainer_250epochs", "nnUNetTrainerNoDA", "nnUNetTrainerBN", "nnUNetTrainer_5epochs",
)  # fmt: skip


def built(builder: Any) -> list[tuple[str, torch.Size]]:
    """The type of a network for small plans, and the names and shapes of its parameters."""
    manager = PlansManager(plans("plain", "2d", [32, 32]))
    network = builder.build_network_architecture(manager, manager.get_configuration("c"), 2, 3, False)
    return [(type(network).__name__, torch.Size()), *((name, p.shape) for name, p in network.state_dict().items())]


@pytest.mark.usefixtures("small_unetr")
@pytest.mark.parametrize("trainer", [*TRAINERS, *(f"{name}_2epochs_noDA_seed1" for name in TRAINERS), *NNUNETS])
def test_the_network_is_that_of_nnunets_lookup(trainer: str) -> None:
    hook.activate()
    assert built(network_builder(trainer)) == built(recursive_find_trainer_class_by_name(trainer))


@pytest.mark.parametrize("trainer", NNUNETS)
def test_a_trainer_of_nnunets_is_the_very_class(trainer: str) -> None:
    assert network_builder(trainer) is recursive_find_trainer_class_by_name(trainer)


def test_a_trainer_in_a_folder_of_the_users_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerNoSkip(nnUNetTrainer):\n    pass\n"
    )
    monkeypatch.setenv(hook.VARIABLE, str(tmp_path))
    hook.activate()
    assert built(network_builder("nnUNetTrainerNoSkip")) == built(network_builder("nnUNetTrainer"))


def test_what_nobody_has_and_what_is_misspelt() -> None:
    hook.activate()
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer Unheard"):
        network_builder("Unheard")
    with pytest.raises(UserError, match="the nearest valid name is 'nnUNetTrainerNoSkip_ps64'"):
        network_builder("nnUNetTrainerNoskip_patch64")
    with pytest.raises(UserError, match="no name of a class"):
        network_builder("nnUNetTrainer(.*")


@pytest.mark.parametrize(
    ("file", "found"),
    [("sub/ours.py", True), ("sub/my-copy.v2.py", False), ("sub/__init__.py", False), ("bare/ours.py", False),
     ("sub/.ipynb_checkpoints/ours.py", False)],
)  # fmt: skip
def test_only_modules_of_packages_are_looked_at(file: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "__init__.py").touch()
    assert _is_module(tmp_path / file, tmp_path) is found


def test_a_network_of_ours_needs_no_trainer_of_nnunets() -> None:
    code = (
        "import os, sys\n"
        "from nnunet_robust import hook\n"
        "from nnunet_robust.eval.sweep.run import execute\n"  # all that a sweep imports
        "from nnunet_robust.eval.inference.trainer_lookup import network_builder\n"
        "os.environ.pop(hook.VARIABLE, None)\n"
        "hook.activate()\n"
        "for name in ('nnUNetTrainer', 'nnUNetTrainer_ps64', 'nnUNetTrainerNoSkip_seed1'): network_builder(name)\n"
        "heavy = {'nnunetv2.training.nnUNetTrainer.nnUNetTrainer', 'torch._dynamo', 'scipy.stats', 'statsmodels',\n"
        "         'sklearn', 'matplotlib', 'timm', 'monai'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
