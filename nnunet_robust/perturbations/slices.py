"""Images as stacks of two-dimensional slices, taken a batch at a time so that memory does not grow with the volume."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nnunet_robust.perturbations.axes import computable

_PIXELS = 2**22  # in one batch: 16 slices of 512 x 512


def by_slices(image: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Apply a function to the in-plane slices (the last two axes) of an image, in batches.

    Args:
        image: float tensor (C, *spatial), not modified.
        function: takes slices (S, H, W), float32 or float64, to slices of that shape; S differs from call to call.

    Returns:
        A tensor with the shape, dtype and device of `image`.
    """
    stack = image.reshape(-1, *image.shape[-2:])
    batches = stack.split(max(1, _PIXELS // stack[0].numel()))
    return torch.cat([function(computable(batch)).to(image.dtype) for batch in batches]).view(image.shape)
