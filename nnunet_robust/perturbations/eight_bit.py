"""The papers' scale: values from 0 to 255 as shares of 255, clipped to [0, 1], and stored as whole numbers again."""

from __future__ import annotations

from collections.abc import Callable

import torch

Scale = tuple[torch.Tensor, torch.Tensor]
"""(offset, factor), (C, 1, ...): a value x in units of the robust range stands for the share offset + factor x of 255.
None in its place: the image has no 8 bits, and its robust range is taken for 0 to 255."""

_ROUNDING = 1e-3  # of a grey value, which float32 gets wrong on the way


def is_eight_bit(image: torch.Tensor) -> bool:
    """Whether all values are whole numbers from 0 to 255."""
    lowest, highest = image.aminmax()
    return bool(lowest >= 0 and highest <= 255 and (image == image.round()).all())


def in_eight_bits(
    image: torch.Tensor, scale: Scale | None, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Change an image on the 8-bit scale: clipped to [0, 1], then times 255 without what is behind the point.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        scale: of the image.
        change: takes the image as shares of 255, in [0, 1], to the changed one.

    Reference: `make_speckle_image` and `make_blurry_background_image` of Kamath et al.'s `to_skip_or_not`.
    """
    offset, factor = scale or (image.new_zeros(()), image.new_ones(()))
    grey = change((image * factor + offset).clamp(0, 1)).clamp(0, 1)
    stored = (grey * 255 + _ROUNDING).floor() / 255
    return (stored - offset) / factor


def snapped(image: torch.Tensor) -> torch.Tensor:
    """The image, in which what is a whole number but for float32's rounding is one."""
    nearest = image.round()
    return torch.where((image - nearest).abs() < _ROUNDING, nearest, image)
