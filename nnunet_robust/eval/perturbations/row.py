"""A row of the table of perturbations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Perturbation:
    """A row of the table.

    Attributes:
        name: as on the command line and in `results.csv`.
        function: `f(image, level, generator)`, with the keyword `mask=` (bool, (*spatial)) where `uses_mask`, and
            `spacing_mm=` (a float per spatial axis) where `uses_spacing`.
        levels: the default levels, rising, from just visible to what a radiologist would reject; without 0.
        maximum: the largest level allowed; the valid range is [0, maximum], finite.
        unit: what the level measures, for axes of plots.
        modality: for which images it is meant; "any", "mri", "ct", "ultrasound", "histology".
        reference: where its definition comes from.
        stochastic: whether the generator is used.
        uses_mask: whether the reference segmentation's foreground is needed.
        uses_spacing: whether the level is a length in mm, so that the voxel size is needed.
    """

    name: str
    function: Callable[..., torch.Tensor]
    levels: tuple[float, ...]
    maximum: float
    unit: str
    modality: str
    reference: str
    stochastic: bool = False
    uses_mask: bool = False
    uses_spacing: bool = False
