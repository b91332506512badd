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
            `spacing_mm=` (a float per spatial axis) where `uses_spacing`, and what is handed in with it where it is an
            attack.
        levels: the default levels, rising, from just visible to what a radiologist would reject; without 0.
        maximum: the largest level allowed; the valid range is [0, maximum], finite.
        unit: what the level measures, for axes of plots.
        modality: for which images it is meant; "any", "mri", "ct", "ultrasound", "histology".
        reference: where its definition comes from.
        display_name: the name in sentences and titles, as the field writes it: "Rician noise". Without one, the name
            with blanks for its underscores.
        stochastic: whether the generator is used.
        uses_mask: whether the reference segmentation's foreground is needed.
        uses_spacing: whether the level is a length in mm, so that the voxel size is needed.
        attack: of an attack on a model, whose level is its budget, the name without a source; "" for all others.
        single_step: of an attack, whether it takes one step, whatever number is asked for.
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
    display_name: str = ""
    stochastic: bool = False
    uses_mask: bool = False
    uses_spacing: bool = False
    attack: str = ""
    single_step: bool = False
    control: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if not self.display_name:
            object.__setattr__(self, "display_name", self.name.replace("_", " "))

    @property
    def uses_victim(self) -> bool:
        """Whether it is an attack on a model."""
        return bool(self.attack)

    @property
    def white_box(self) -> bool:
        """Whether every model has an image of its own: an attack on itself."""
        return self.uses_victim and not self.source
