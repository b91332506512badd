"""The UNETR trainer: what it persists, its learning rates, a real training at small sizes."""

from __future__ import annotations

import json
import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_robust.common.errors import UserError
from nnunet_robust.networks.unetr import UNETR
from nnunet_robust.trainers import trainer_class
from nnunet_robust.trainers.unetr_training import WarmupPoly
from tests.conftest import train, train_until_killed, weights

ARCHITECTURE: dict = {"network_class_name": "any", "arch_kwargs": {}}
PLANS = {
    "configurations": {
        "3d_fullres": {"patch_size": [40, 56, 40], "batch_size": 2, "architecture": ARCHITECTURE},
        "3d_child": {"inherits_from": "3d_fullres", "batch_size": 4},
    }
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_child"])
def test_the_plans_patch_is_rounded_up(configuration: str) -> None:
    before = deepcopy(PLANS)
    adapted = trainer_class("nnUNetTrainerUNETR").adapt(PLANS, configuration)["configurations"]
    assert adapted[configuration]["patch_size"] == [48, 64, 48]
    assert all(type(n) is int for n in adapted[configuration]["patch_size"])
    assert before == PLANS
    if configuration == "3d_child":
        assert adapted["3d_fullres"] == PLANS["configurations"]["3d_fullres"]


def configuration_manager(patch_size: list[int]) -> ConfigurationManager:
    return ConfigurationManager({"patch_size": patch_size, "architecture": ARCHITECTURE})


def test_a_patch_in_the_name_is_taken_as_it_is_or_refused() -> None:
    cls = trainer_class("nnUNetTrainerUNETR_ps16x32x48_bs3")
    adapted = cls.adapt(PLANS, "3d_fullres")["configurations"]["3d_fullres"]
    assert (adapted["patch_size"], adapted["batch_size"]) == ([16, 32, 48], 3)
    for fits in ([16, 16], [16, 16, 16], [16, 32, 48]):
        cls.check_plans(configuration_manager(fits), "any")
    with pytest.raises(UserError, match=r"40x56x64 does not fit UNETR.*multiple of 16.*48x64x64$"):
        cls.check_plans(configuration_manager([40, 56, 64]), "any")


def test_stages_are_refused() -> None:
    with pytest.raises(UserError, match=r"^_st5: .*no stages.*$"):
        trainer_class("nnUNetTrainerUNETR_ps32_st5").adapt(PLANS, "3d_fullres")


def test_learning_rates_by_hand() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 1.0)
    schedule = WarmupPoly(optimizer, 1e-4, epochs=14, warmup=4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-5)
    expected = {0: 2e-5, 1: 4e-5, 3: 8e-5, 4: 1e-4, 9: 1e-4 * 0.5**0.9, 13: 1e-4 * 0.1**0.9}
    for epoch, lr in expected.items():
        schedule.step(epoch)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr)
    schedule.step(1)  # the epoch alone decides, not the steps before
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-5)
    assert WarmupPoly(optimizer, 1e-4, epochs=2, warmup=0).lr(0) == 1e-4


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (19, 0), (20, 1), (100, 5), (1000, 50), (5000, 50)])
def test_length_of_the_warm_up(epochs: int, warmup: int) -> None:
    cls = trainer_class("nnUNetTrainerUNETR")
    trainer: Any = cls.__new__(cls)
    trainer.network, trainer.num_epochs = torch.nn.Linear(1, 1), epochs
    trainer.initial_lr, trainer.weight_decay = 1e-4, 1e-5
    optimizer, schedule = trainer.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["weight_decay"] == 1e-5
    assert (schedule.warmup, schedule.epochs, schedule.peak) == (warmup, epochs, 1e-4)


@pytest.mark.usefixtures("small_unetr")
def test_trains_resumes_exactly_and_predicts_with_the_rounded_patch(textures: str) -> None:
    from nnunet_robust.eval.inference.loading import load_model

    # The textures' own patch is 64 x 64, which needs no rounding.
    file = Path(os.environ["nnUNet_preprocessed"]) / textures / "nnUNetPlans.json"
    stock = file.read_text()
    plans = json.loads(stock)
    plans["configurations"]["2d"] |= {"patch_size": [24, 40], "batch_size": 2}
    name = "nnUNetTrainerUNETR_2epochs_2iters_seed5"
    try:
        file.write_text(json.dumps(plans))
        folder = train(textures, "2d", name, validate=False)
        first = weights(folder)

        shutil.rmtree(folder)
        train_until_killed(textures, "2d", name)
        resumed = weights(train(textures, "2d", name, resume=True, validate=False))
    finally:
        file.write_text(stock)
    assert resumed.keys() == first.keys() and all(torch.equal(resumed[key], first[key]) for key in first)

    assert json.loads((folder / "plans.json").read_text())["configurations"]["2d"]["patch_size"] == [32, 48]
    log = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["logging"]
    assert log["lrs"] == pytest.approx([1e-4, 1e-4 * 0.5**0.9])
    model = load_model(folder, ["0"], "checkpoint_final.pth", torch.device("cpu"), True, None)
    assert list(model.predictor.configuration_manager.patch_size) == [32, 48]
    assert isinstance(model.predictor.network, UNETR)
