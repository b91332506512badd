"""Changes of the mapping from tissue to intensity."""

from __future__ import annotations

import math

import torch


def contrast(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Gamma correction: y = sign(x) * |x| ** gamma with gamma = exp(level).

    Mid intensities darken; 0 and 1, the ends of the robust range, stay where they are.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: ln(gamma); >= 0, 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or NaN.

    Reference: TorchIO `RandomGamma`, whose `log_gamma` the level is.
    """
    if not level >= 0:
        raise ValueError(f"The logarithm of gamma must be >= 0, got {level}")
    if level == 0:
        return image.clone()
    return image.sign() * image.abs() ** math.exp(level)
