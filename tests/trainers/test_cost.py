"""What a network costs, against sums done by hand, and what a name changes, on plans written here."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers import TRAINERS
from nnunet_robust.trainers.cost import Change, changes, format_si, network_cost, planned, read_plans, trainer_cost

DATASET = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
FEATURES = [4, 8, 16, 16]
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset903_Cost",
    "plans_name": "nnUNetPlans",
    "label_manager": "LabelManager",
    "configurations": {
        "3d_fullres": {
            "patch_size": [8, 32, 32],
            "batch_size": 3,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 4,
                    "features_per_stage": FEATURES,
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
                    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
                    "n_conv_per_stage": [2, 2, 2, 2],
                    "n_conv_per_stage_decoder": [2, 2, 2],
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        },
        "large_batch": {"inherits_from": "3d_fullres", "batch_size": 6},
    },
}
LIGHT = [name for name in TRAINERS if name != "nnUNetTrainerUNETR"]  # of a size that follows the plans


def cost(name: str, configuration: str = "3d_fullres"):
    return trainer_cost(name, PLANS, configuration, DATASET)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_convolutions_by_hand(device: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace=True), nn.ConvTranspose2d(2, 5, 2, stride=2, bias=False)
    ).to(device)
    found = network_cost(network, (3, 1, 4, 6))
    assert found.parameters == (2 * 1 * 9 + 2) + 2 * 5 * 4
    # Two per multiplication and addition; the transposed one multiplies at each place of its input.
    assert found.flops == 2 * (24 * 9 * 1 * 2) + 2 * (24 * 4 * 2 * 5)
    # The input, and the map between the convolutions, once though ReLU and the second convolution both keep it.
    assert found.activation_bytes == 4 * (3 * 1 * 24 + 3 * 2 * 24)


def test_a_nonlinearity_not_in_place_costs_a_map_only_where_its_input_is_kept() -> None:
    maps = 4 * 2 * 2 * 24  # bytes of a float32 map (2, 2, 4, 6)
    wide = (2, 2, 4, 6)
    relu = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1))
    gelu = nn.Sequential(nn.Conv2d(2, 2, 1), nn.GELU(), nn.Conv2d(2, 2, 1))
    assert network_cost(relu, wide).activation_bytes == 2 * maps  # input, ReLU's output
    assert network_cost(gelu, wide).activation_bytes == 3 * maps  # input, GELU's input, GELU's output


def test_parameters_and_buffers_are_no_activations_and_frozen_ones_no_parameters() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 3, 1))
            self.frozen = nn.Parameter(torch.ones(7), requires_grad=False)
            self.register_buffer("scale", torch.ones(1, 3, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x * self.scale

    found = network_cost(Scaled(), (2, 3, 5))
    assert found.parameters == 3
    assert found.activation_bytes == 4 * 2 * 3 * 5  # x, which the weight's gradient needs; the buffer is kept anyway


def test_a_small_unet_by_hand() -> None:
    def block(inputs: int, outputs: int, kernel: int) -> int:  # two convolutions with bias, each with scale and shift
        return (inputs * outputs * kernel + 3 * outputs) + (outputs * outputs * kernel + 3 * outputs)

    encoder = block(2, 4, 9) + block(4, 8, 27) + block(8, 16, 27) + block(16, 16, 27)
    up = (16 * 16 * 8 + 16) + (16 * 8 * 8 + 8) + (8 * 4 * 4 + 4)
    heads = (16 * 2 + 2) + (8 * 2 + 2) + (4 * 2 + 2)
    decoder = block(32, 16, 27) + block(16, 8, 27) + block(8, 4, 9)
    assert cost("nnUNetTrainer").parameters == encoder + up + heads + decoder
    without = block(16, 16, 27) + block(8, 8, 27) + block(4, 4, 9)
    assert cost("nnUNetTrainerNoSkip").parameters == encoder + up + heads + without


def test_no_skip_costs_less_in_everything() -> None:
    standard, no_skip = cost("nnUNetTrainer"), cost("nnUNetTrainerNoSkip")
    assert no_skip.parameters < standard.parameters
    assert no_skip.flops < standard.flops
    # The first convolution of each decoder level keeps its input: here without the map of the skip.
    maps = sum(c * voxels for c, voxels in ((16, 4 * 8 * 8), (8, 8 * 16 * 16), (4, 8 * 32 * 32)))
    assert standard.activation_bytes - no_skip.activation_bytes == 4 * 3 * maps


def test_options_reach_the_cost() -> None:
    standard = cost("nnUNetTrainer")
    fewer = cost("nnUNetTrainer_st3")
    assert fewer.parameters < standard.parameters and fewer.flops < standard.flops
    larger = cost("nnUNetTrainer_ps8x64x32")
    assert larger.parameters == standard.parameters and larger.flops == 2 * standard.flops
    batch = cost("nnUNetTrainer_bs6")
    assert (batch.parameters, batch.flops) == (standard.parameters, standard.flops)
    assert batch.activation_bytes == 2 * standard.activation_bytes
    assert cost("nnUNetTrainer", "large_batch") == batch
    assert cost("nnUNetTrainer_1epochs_seed1") == standard


@pytest.mark.parametrize("trainer", LIGHT)
def test_shapes_alone_tell_what_a_real_forward_pass_costs(trainer: str) -> None:
    from nnunet_robust.trainers import trainer_class

    manager, resolved = planned(trainer, PLANS, "3d_fullres")
    network = trainer_class(trainer).build_network_architecture(manager, resolved, 2, 2, True)
    real = network_cost(network, (3, 2, 8, 32, 32))
    assert cost(trainer) == real
    assert min(real.parameters, real.flops, real.activation_bytes) > 0


def test_unetr_is_measured_at_its_own_patch() -> None:
    assert Change("patch", "8x32x32", "16x32x32") in changes("nnUNetTrainerUNETR", PLANS, "3d_fullres")
    found = trainer_cost("nnUNetTrainerUNETR_bs1", PLANS, "3d_fullres", {**DATASET, "channel_names": {"0": "CT"}})
    assert found.parameters == pytest.approx(92.58e6, rel=0.01)  # the paper's table, at another patch and more classes
    assert found.activation_bytes > 4 * 16 * 32 * 32


def test_what_a_name_changes() -> None:
    before = deepcopy(PLANS)
    assert changes("nnUNetTrainer", PLANS, "3d_fullres") == []
    assert changes("nnUNetTrainerNoSkip", PLANS, "3d_fullres") == []
    name = "nnUNetTrainerNoSkip_ps16_st3_bs2_100epochs_50iters_noDA_adv_seed0"
    assert changes(name, PLANS, "3d_fullres") == [
        ("patch", "8x32x32", "16x16x16"),
        ("stages", "4", "3"),
        ("batch", "3", "2"),
        ("epochs", "1000", "100"),
        ("iterations an epoch", "250", "50"),
        ("augmentation", "nnU-Net's", "none"),
        (
            "adversarial patches",
            "none",
            "half of each batch: 3 steps up the loss, no voxel moved by more than 0.03 of its channel's range",
        ),
        ("seed", "none", "0"),
    ]
    assert before == PLANS


@pytest.mark.parametrize(
    ("name", "configuration", "says"),
    [
        ("nnUNetTrainerNoSkip_st3_ps16", "3d_fullres", "nearest valid name is 'nnUNetTrainerNoSkip_ps16_st3'"),
        ("nnUNetTrainerDA5", "3d_fullres", "no trainer 'nnUNetTrainerDA5' in nnunet_robust: there are nnUNetTrainer, "),
        ("nnUNetTrainer", "3d_lowres", "no configuration '3d_lowres': there are 3d_fullres, large_batch"),
        ("nnUNetTrainer_ps8x36x32", "3d_fullres", "8x36x32 does not fit"),
    ],
)
def test_faults_are_one_line(name: str, configuration: str, says: str) -> None:
    for function in (changes, planned):
        with pytest.raises(UserError) as fault:
            function(name, PLANS, configuration)
        assert says in str(fault.value) and "\n" not in str(fault.value)


def test_plans_are_read_or_their_absence_explained(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset903_Cost"
    folder.mkdir()
    with pytest.raises(UserError, match=r"no nnUNetPlans\.json in .*plans there: none\).*preprocess -d 903"):
        read_plans(folder, "nnUNetPlans")
    (folder / "nnUNetPlans.json").write_text(json.dumps(PLANS))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    assert read_plans(folder, "nnUNetPlans") == (PLANS, DATASET)
    with pytest.raises(UserError, match=r"no other\.json in .*plans there: nnUNetPlans\)"):
        read_plans(folder, "other")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1 "), (950, "950 "), (999.6, "1.00 k"), (5_600_000, "5.60 M"), (38288230400, "38.3 G"), (4.55e11, "455 G"),
     (999_600, "1.00 M"), (2.5e12, "2.50 T")],
)  # fmt: skip
def test_numbers_in_three_digits(value: float, text: str) -> None:
    assert format_si(value) == text
