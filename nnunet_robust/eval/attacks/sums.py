"""Sums over whole images, on any device."""

from __future__ import annotations

import torch


def exact_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of float32 values in double precision: float64 (), without waiting for the device.

    Where the device has no float64 (Apple's MPS), lines along the last axis are summed in float32 there, and the lines
    in float64 on the CPU, where the result then is.
    """
    if values.device.type == "mps":
        return values.sum(dim=-1).cpu().sum(dtype=torch.float64)
    return values.sum(dtype=torch.float64)
