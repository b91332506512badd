"""What each trainer builds from plans: one suite over trainers x encoders x geometries x channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers import TRAINERS, trainer_class
from tests.networks.test_decoder import influence

STANDARD, UNETR = "nnUNetTrainer", "nnUNetTrainerUNETR"
CLASSES = 3
# Dimensions, strides, kernels and a patch; UNETR takes the patch rounded up to multiples of 16.
GEOMETRIES: dict[str, tuple[int, list[list[int]], list[list[int]], list[int]]] = {
    "2d": (2, [[1, 1], [2, 2], [2, 2]], [[3, 3]] * 3, [16, 24]),
    "3d": (3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]], [[3, 3, 3]] * 3, [8, 16, 16]),
    "3d_anisotropic": (3, [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]], [6, 16, 16]),
}
ENCODERS = {"plain": ("PlainConvUNet", "n_conv_per_stage"), "residual": ("ResidualEncoderUNet", "n_blocks_per_stage")}


pytestmark = pytest.mark.usefixtures("small_unetr", "one_thread")


def plans(encoder: str, geometry: str, patch: list[int] | None = None) -> dict[str, Any]:
    dimensions, strides, kernels, default_patch = GEOMETRIES[geometry]
    network, blocks = ENCODERS[encoder]
    return {
        "dataset_name": "Dataset904_Networks",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "configurations": {
            "c": {
                "patch_size": patch or default_patch,
                "batch_size": 2,
                "architecture": {
                    "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
                    "arch_kwargs": {
                        "n_stages": 3,
                        "features_per_stage": [4, 6, 8],
                        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                        "kernel_sizes": kernels,
                        "strides": strides,
                        blocks: [1, 2, 2],
                        "n_conv_per_stage_decoder": [1, 2],
                        "conv_bias": True,
                        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


def build(
    trainer: str, given: dict[str, Any], channels: int = 1, deep_supervision: bool = True, configuration: str = "c"
) -> tuple[nn.Module, list[int]]:
    """The network as nnU-Net builds it for training and for prediction, and the patch size that it is for."""
    cls = trainer_class(trainer)
    manager = PlansManager(cls.adapt(given, configuration))
    resolved = manager.get_configuration(configuration)
    cls.check_plans(resolved, configuration)
    torch.manual_seed(1)
    return (
        cls.build_network_architecture(manager, resolved, channels, CLASSES, deep_supervision),
        list(resolved.patch_size),
    )


def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    result = network(x)
    return list(result) if isinstance(result, (list, tuple)) else [result]


def has_deep_supervision(trainer: str) -> bool:
    return trainer != UNETR


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_contract(trainer: str, encoder: str, geometry: str, channels: int) -> None:
    network, patch = build(trainer, plans(encoder, geometry), channels)
    x = torch.randn(2, channels, *patch)
    found = outputs(network, x)
    assert found[0].shape == (2, CLASSES, *patch)
    if has_deep_supervision(trainer):
        half = [n // s for n, s in zip(patch, GEOMETRIES[geometry][1][1], strict=True)]
        assert [o.shape for o in found[1:]] == [(2, CLASSES, *half)]
    else:
        assert len(found) == 1

    sum(output.square().mean() for output in found).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())  # the plans' norm

    network.eval()
    inference, _ = build(trainer, plans(encoder, geometry), channels, deep_supervision=False)
    inference.load_state_dict(network.state_dict())
    inference.eval()
    with torch.no_grad():
        assert torch.equal(inference(x), outputs(network, x)[0])


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_bad_patch_is_refused(trainer: str, geometry: str) -> None:
    patch = [n + 1 for n in GEOMETRIES[geometry][3]]
    name = trainer + "_ps" + "x".join(map(str, patch))
    with pytest.raises(UserError, match=r"does not fit.*multiple of"):
        build(name, plans("plain", geometry))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_mixed_precision_and_compilation(trainer: str) -> None:
    network, patch = build(trainer, plans("plain", "3d_anisotropic"))
    x = torch.randn(2, 1, *patch)
    with torch.autocast("cpu", torch.bfloat16):
        low = outputs(network, x)
        sum(output.float().square().mean() for output in low).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    torch._dynamo.reset()  # it counts the recompilations of all trainers together
    compiled = torch.compile(network, backend="eager", fullgraph=True)  # fails on a graph break
    for a, b in zip(outputs(compiled, x), outputs(network, x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_ddp_meets_no_unused_parameter(trainer: str, tmp_path: Path) -> None:
    """DDP's second step fails if a parameter got no gradient in the first; nnU-Net does not search for such."""
    network, patch = build(trainer, plans("plain", "2d"))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(network)
        for _ in range(2):
            sum(output.square().mean() for output in outputs(wrapped, torch.randn(2, 1, *patch))).backward()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ("nnUNetTrainer", [True, True, True]),
        ("nnUNetTrainerNoSkip", [False, False, True]),
        ("nnUNetTrainerNoTopSkip", [False, True, True]),
        ("nnUNetTrainerAdditiveSkip", [True, True, True]),
        ("nnUNetTrainerAttentionGated", [True, True, True]),
        ("nnUNetTrainerDenseSkip", [True, True, True]),
        ("nnUNetTrainerAdaptiveSkip", [True, True, True]),
    ],
)
def test_which_skips_a_trainer_lets_through(encoder: str, trainer: str, expected: list[bool]) -> None:
    """Full resolution first, the bottleneck last; measured by putting noise in a map's place."""
    network, patch = build(trainer, plans(encoder, "2d"))
    assert influence(network, torch.randn(2, 1, *patch)) == expected


def test_which_skips_unetr_lets_through() -> None:
    """Its skips are the image and the transformer's hidden states, each through an encoder block of its own."""
    network, patch = build(UNETR, plans("plain", "2d"))
    x = torch.randn(1, 1, *patch)
    network.eval()
    with torch.no_grad():
        before = network(x)
        for block in (network.encoder1, network.encoder2, network.encoder3, network.encoder4):
            hook = block.register_forward_hook(lambda module, given, output: torch.randn_like(output))
            assert not torch.equal(network(x), before)
            hook.remove()
        assert torch.equal(network(x), before)


def test_every_trainer_s_meaning_is_tested() -> None:
    marks = test_which_skips_a_trainer_lets_through.pytestmark  # type: ignore[attr-defined]
    rows = next(mark.args[1] for mark in marks if mark.args[0] != "encoder")
    assert {trainer for trainer, _ in rows} | {UNETR} == set(TRAINERS)


@pytest.mark.parametrize("planner", ["nnUNetResEncUNetMPlans", "nnUNetResEncUNetLPlans"])
@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != UNETR])
def test_plans_of_nnunets_own_planners(trainer: str, planner: str, resenc_plans: dict[str, dict[str, Any]]) -> None:
    given = resenc_plans[planner]
    for configuration in ("2d", "3d_fullres"):
        with torch.device("meta"):  # shapes alone: these have up to a hundred million weights
            network, patch = build(trainer, given, 2, configuration=configuration)
            found = outputs(network, torch.empty(1, 2, *patch))
        strides = given["configurations"][configuration]["architecture"]["arch_kwargs"]["strides"]
        assert len(found) == len(strides) - 1
        assert found[0].shape == (1, CLASSES, *patch)
