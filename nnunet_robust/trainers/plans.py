"""What a trainer's name changes in the plans, and whether a patch size fits the network.

The plans are changed before nnU-Net's trainer sees them: it writes them to the model folder, and prediction rebuilds
the network and its patch from that file alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers.names import Options

# Per-stage settings of dynamic-network-architectures' networks, full resolution first.
_PER_STAGE = (
    "features_per_stage",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage",
    "n_blocks_per_stage",
    "bottleneck_channels",
)

# nnU-Net gives the lowest output of deep supervision no weight: with two stages that is the only one, and the loss NaN.
_FEWEST_STAGES = 3


def adapt_plans(plans: dict[str, Any], configuration: str, options: Options) -> dict[str, Any]:
    """A copy of the plans in which `configuration` has the patch size, batch size and stages that `options` names.

    What the configuration inherits is read from its parents; the changes are written to the configuration itself.

    Raises:
        UserError: the patch size has the wrong number of axes, or there are fewer stages than `options` keeps.
    """
    plans = deepcopy(plans)
    resolved = PlansManager(plans).get_configuration(configuration).configuration
    own = plans["configurations"][configuration]
    if options.patch_size is not None:
        axes = len(resolved["patch_size"])
        if len(options.patch_size) not in (1, axes):
            raise UserError(
                f"patch size {format_size(options.patch_size)} has {len(options.patch_size)} axes, configuration "
                f"{configuration!r} has {axes}: give one number or {axes}"
            )
        own["patch_size"] = list(options.patch_size) * (axes if len(options.patch_size) == 1 else 1)
    if options.batch_size is not None:
        own["batch_size"] = options.batch_size
    if options.stages is not None:
        own["architecture"] = _keep_stages(resolved["architecture"], options.stages, configuration)
    return plans


def _keep_stages(architecture: dict[str, Any], stages: int, configuration: str) -> dict[str, Any]:
    architecture = deepcopy(architecture)
    kwargs = architecture["arch_kwargs"]
    if not _FEWEST_STAGES <= stages <= kwargs["n_stages"]:
        raise UserError(
            f"_st{stages}: the network of configuration {configuration!r} has {kwargs['n_stages']} stages: "
            f"keep {_FEWEST_STAGES} to {kwargs['n_stages']} of them"
        )
    kwargs["n_stages"] = stages
    for key in _PER_STAGE:
        if isinstance(kwargs.get(key), (list, tuple)):
            kwargs[key] = list(kwargs[key][:stages])
    if isinstance(kwargs.get("n_conv_per_stage_decoder"), (list, tuple)):  # deepest first: drop from the front
        kwargs["n_conv_per_stage_decoder"] = list(kwargs["n_conv_per_stage_decoder"])[1 - stages :]
    return architecture


def total_stride(strides: Sequence[int | Sequence[int]], axes: int) -> tuple[int, ...]:
    """The product of a network's strides, per axis."""
    per_stage = [[s] * axes if isinstance(s, int) else list(s) for s in strides]
    return tuple(math.prod(stage[axis] for stage in per_stage) for axis in range(axes))


def check_patch_size(patch_size: Sequence[int], divisor: Sequence[int], what: str) -> None:
    """Refuse a patch that the network cannot halve down to its bottleneck, or that shrinks to one voxel there.

    Instance normalisation has nothing to normalise over a single voxel; a size that is not divisible comes back
    larger from a decoder without skips, and nothing fails (72 in, 80 out).

    Args:
        patch_size: voxels per axis.
        divisor: what each axis must be a multiple of.
        what: names the network in the message.

    Raises:
        UserError: with the nearest sizes that work.
    """
    divisible = all(n % d == 0 for n, d in zip(patch_size, divisor, strict=True))
    if divisible and math.prod(n // d for n, d in zip(patch_size, divisor, strict=True)) > 1:
        return
    nearest = " or ".join(format_size(size) for size in nearest_patch_sizes(patch_size, divisor))
    raise UserError(
        f"patch size {format_size(patch_size)} does not fit {what}: each axis must be a multiple of "
        f"{format_size(divisor)}, with more than one voxel left at the bottleneck; the nearest that work are {nearest} "
        f"(or keep fewer stages with _st<N>)"
    )


def nearest_patch_sizes(patch_size: Sequence[int], divisor: Sequence[int]) -> list[tuple[int, ...]]:
    """The patch sizes that fit, nearest to `patch_size` from below and from above (one if they are the same)."""
    below = tuple(max(d, n // d * d) for n, d in zip(patch_size, divisor, strict=True))
    above = tuple(max(d, -(-n // d) * d) for n, d in zip(patch_size, divisor, strict=True))
    fits = []
    for size in dict.fromkeys((below, above)):
        if math.prod(n // d for n, d in zip(size, divisor, strict=True)) > 1:
            fits.append(size)
    return fits or [tuple(2 * d for d in divisor)]


def format_size(size: Sequence[int]) -> str:
    """Write a size as it stands in a trainer's name: 64x96."""
    return "x".join(map(str, size))
