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
        function: `f(image, level, generator)`, with the keyword `mask=` (bool, (*spatial)) where `uses_mask`,
            `spacing_mm=` (a float per spatial axis) where `uses_spacing`, and `victim=` and `steps=` where
            `uses_victim`.
        levels: the default levels, rising, from just visible to what a radiologist would reject; without 0.
        maximum: the largest level allowed; the valid range is [0, maximum], finite.
        unit: what the level measures, for axes of plots.
        modality: for which images it is meant; "any", "mri", "ct", "ultrasound", "histology".
        reference: where its definition comes from.
        stochastic: whether the generator is used.
        uses_mask: whether the reference segmentation's foreground is needed.
        uses_spacing: whether the level is a length in mm, so that the voxel size is needed.
        uses_victim: whether it is an attack on a model, and the level its budget.
        control: of an attack, the random noise of the same budget, with which it shares its randomness.
        source: of an attack, the name of the model whose images all models get; "": each gets its own.
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
    uses_victim: bool = False
    control: str = ""
    source: str = ""

    @property
    def white_box(self) -> bool:
        """Whether every model has an image of its own: an attack on itself."""
        return self.uses_victim and not self.source
