"""What a name changes in the plans."""

from __future__ import annotations

from copy import deepcopy

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers.names import Options
from nnunet_robust.trainers.plans import adapt_plans, check_patch_size, nearest_patch_sizes, total_stride

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
PLANS = {
    "configurations": {
        "3d_fullres": {
            "patch_size": [20, 160, 160],
            "batch_size": 2,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 4,
                    "features_per_stage": [32, 64, 128, 256],
                    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
                    "strides": STRIDES,
                    "n_conv_per_stage": [1, 2, 3, 4],
                    "n_conv_per_stage_decoder": [7, 8, 9],
                },
            },
        },
        "3d_child": {"inherits_from": "3d_fullres", "batch_size": 4},
    }
}


def changed(options: Options, configuration: str = "3d_fullres") -> dict:
    return adapt_plans(PLANS, configuration, options)["configurations"][configuration]


def test_the_given_plans_are_left_alone() -> None:
    before = deepcopy(PLANS)
    adapt_plans(PLANS, "3d_fullres", Options(patch_size=(32,), stages=3, batch_size=7))
    assert before == PLANS


def test_without_options_nothing_changes() -> None:
    assert adapt_plans(PLANS, "3d_fullres", Options()) == PLANS


def test_patch_and_batch() -> None:
    assert changed(Options(patch_size=(32,)))["patch_size"] == [32, 32, 32]
    assert changed(Options(patch_size=(16, 32, 48)))["patch_size"] == [16, 32, 48]
    assert changed(Options(batch_size=7))["batch_size"] == 7
    with pytest.raises(UserError, match=r"32x32 has 2 axes.*has 3.*one number or 3"):
        changed(Options(patch_size=(32, 32)))


def test_stages_are_kept_from_full_resolution_down() -> None:
    kwargs = changed(Options(stages=3))["architecture"]["arch_kwargs"]
    assert kwargs["n_stages"] == 3
    assert kwargs["features_per_stage"] == [32, 64, 128]
    assert kwargs["strides"] == STRIDES[:3]
    assert kwargs["n_conv_per_stage"] == [1, 2, 3]
    assert kwargs["n_conv_per_stage_decoder"] == [8, 9]  # the plans list the decoder deepest first


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_impossible_stages(stages: int) -> None:
    with pytest.raises(UserError, match=f"_st{stages}.*has 4 stages: keep 3 to 4"):
        changed(Options(stages=stages))


def test_inherited_configurations() -> None:
    child = changed(Options(patch_size=(32,), stages=3), "3d_child")
    assert child["patch_size"] == [32, 32, 32] and child["batch_size"] == 4
    assert child["architecture"]["arch_kwargs"]["n_stages"] == 3
    plans = adapt_plans(PLANS, "3d_child", Options(stages=3))
    assert plans["configurations"]["3d_fullres"] == PLANS["configurations"]["3d_fullres"]


def test_total_stride() -> None:
    assert total_stride(STRIDES, 3) == (4, 8, 8)
    assert total_stride([1, 2, 2], 2) == (4, 4)


@pytest.mark.parametrize(
    ("patch", "divisor", "nearest"),
    [
        ((72, 72), (32, 32), [(64, 64), (96, 96)]),
        ((32, 32), (32, 32), [(64, 64)]),  # one voxel left at the bottleneck
        ((5, 33, 40), (4, 8, 8), [(4, 32, 40), (8, 40, 40)]),
        ((1, 1), (8, 8), [(16, 16)]),
        ((16, 8), (8, 8), None),  # two voxels left: enough
        ((8, 16, 8), (4, 8, 8), None),
    ],
)
def test_impossible_patches_are_refused_with_the_nearest(patch, divisor, nearest) -> None:
    if nearest is None:
        check_patch_size(patch, divisor, "it")
        return
    assert nearest_patch_sizes(patch, divisor) == nearest
    for size in nearest:
        check_patch_size(size, divisor, "it")  # they do fit
    with pytest.raises(UserError, match=r" or ".join("x".join(map(str, size)) for size in nearest)):
        check_patch_size(patch, divisor, "it")
