"""A row of the table of perturbations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Perturbation:
    """A row of the table.

    Attributes:
        name: as on the command line and in `results.csv`.
        function: `f(image, level, generator)`, with the keyword `mask=` (bool, (*spatial)) where `uses_mask`,
            `spacing_mm=` (a float per spatial axis) where `uses_spacing`, `region=` (bool (*spatial), or None) where
            `uses_region`, `eight_bit=` (`eight_bit.Scale`, or None) where `uses_eight_bit` or `uses_colour`, `colour=`
            (a bool) where `uses_colour`, and what is handed in with it where it is an attack.
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
        uses_region: whether it takes a mean, an extreme or an extent of the image, which must be the region's.
        uses_eight_bit: whether it works on the 8-bit scale, where the image has 8 bits.
        uses_colour: whether red, green and blue are not three images of one kind to it.
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
    uses_region: bool = False
    uses_eight_bit: bool = False
    uses_colour: bool = False
    attack: str = ""
    single_step: bool = False
    control: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if not self.display_name:
            object.__setattr__(self, "display_name", self.name.replace("_", " "))

    def selected(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords, of those given, that the function takes."""
        taken = {
            "mask": self.uses_mask,
            "spacing_mm": self.uses_spacing,
            "region": self.uses_region,
            "eight_bit": self.uses_eight_bit or self.uses_colour,
            "colour": self.uses_colour,
        }
        return {name: given[name] for name, takes in taken.items() if takes}

    @property
    def uses_victim(self) -> bool:
        """Whether it is an attack on a model."""
        return bool(self.attack)

    @property
    def white_box(self) -> bool:
        """Whether every model has an image of its own: an attack on itself."""
        return self.uses_victim and not self.source
