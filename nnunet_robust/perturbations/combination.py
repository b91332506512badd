"""Several perturbations at once: `gaussian_noise+gaussian_blur`, or `gaussian_noise@0.2+gaussian_blur@2`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations.row import Perturbation

_NOTHING = {"region": None, "eight_bit": None, "colour": False}  # what a caller of the bare function may leave out
LEVELS = (0.25, 0.5, 0.75, 1.0)
_Part = tuple[Perturbation, float]


def combined(name: str, look_up: Callable[[str], Perturbation]) -> Perturbation:
    """The row of a combination: its parts joined by "+", applied in this order, each "name" or "name@level".

    The combination's level in (0, 1] is the share of each part's level: of the one behind its "@", or else of its
    strongest default. Each part has a random field of its own. Values are clipped once, after the last part.

    Args:
        name: of the combination.
        look_up: gives the row of a part; raises UserError where there is none.

    Raises:
        UserError: an unknown part, an attack, or a level that is no number in (0, maximum] of the part.
    """
    parts = tuple(_part(text, name, look_up) for text in name.split("+"))
    rows = [row for row, _ in parts]
    meant = {row.modality for row in rows} - {"any"}
    return Perturbation(
        name=name,
        function=functools.partial(_apply, parts),
        levels=LEVELS,
        maximum=1.0,
        unit="share of " + ", ".join(f"{row.name} {level:g}" for row, level in parts),
        modality=meant.pop() if len(meant) == 1 else "any",
        reference="; ".join(dict.fromkeys(row.reference for row in rows)),
        display_name=" + ".join(map(_display_name, name.split("+"), rows)),
        stochastic=any(row.stochastic for row in rows),
        uses_mask=any(row.uses_mask for row in rows),
        uses_spacing=any(row.uses_spacing for row in rows),
        uses_region=any(row.uses_region for row in rows),
        uses_eight_bit=any(row.uses_eight_bit for row in rows),
        uses_colour=any(row.uses_colour for row in rows),
    )


def _part(text: str, whole: str, look_up: Callable[[str], Perturbation]) -> _Part:
    name, at, number = text.partition("@")
    row = look_up(name)
    if row.uses_victim:
        raise UserError(f"{name} in '{whole}' is an attack, which cannot be a part of a combination: sweep it alone")
    if not at:
        return row, row.levels[-1]
    try:
        level = float(number)
    except ValueError:
        level = math.nan
    if not 0 < level <= row.maximum:
        raise UserError(
            f"The level of {name} in '{whole}' ({row.unit}) must be a number in (0, {row.maximum:g}], got '{number}'"
        )
    return row, level


def _display_name(text: str, row: Perturbation) -> str:
    """A part's name in words, and the level behind its "@"."""
    return " ".join(filter(None, (row.display_name, text.partition("@")[2])))


def _apply(
    parts: Sequence[_Part],
    image: torch.Tensor,
    level: float,
    generator: torch.Generator,
    **given: Any,
) -> torch.Tensor:
    """Apply the parts one after the other, each at its level times the share `level` in [0, 1]."""
    if not 0 <= level <= 1:
        raise ValueError(f"The share of a combination must be in [0, 1], got {level}")
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    result = image.clone()
    for number, (row, strongest) in enumerate(parts):
        field = torch_generator(seed, number, row.name)
        result = row.function(result, level * strongest, field, **row.selected({**_NOTHING, **given}))
    return result
