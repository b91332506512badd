"""The table of all perturbations: the natural ones, attacks on a model, and noise of the same budget to compare with.

An attack's level is the budget: how far any value may move (linf), or all of them in the root mean square (l2), in
shares of the channel's robust range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from nnunet_robust import perturbations
from nnunet_robust.eval.attacks.attack import ATTACKS, attack, random_control
from nnunet_robust.eval.attacks.budget import NORMS, Budget
from nnunet_robust.eval.attacks.victim import ScaledVictim, Victim
from nnunet_robust.perturbations import Extra, Perturbation

STEPS = 20
"""Of an attack, unless another number is asked for."""

_FROM = "_from_"
_LEVELS = {"linf": (0.002, 0.005, 0.01, 0.02, 0.05), "l2": (0.001, 0.002, 0.005, 0.01, 0.02)}
_UNITS = {
    "linf": "largest change of a value, share of the robust range",
    "l2": "root mean square of the changes, share of the robust range",
}
_NORM_NAMES = {"linf": "l∞", "l2": "l2"}


def control_row(norm: str) -> Perturbation:
    """The row of random noise that attacks of a norm are compared with."""

    def control(
        image: torch.Tensor, level: float, generator: torch.Generator, *, region: torch.Tensor | None = None
    ) -> torch.Tensor:
        return random_control(image, Budget(level, norm), generator, region)

    control.__doc__ = random_control.__doc__
    reference = "as the attacks of the same norm"
    return _row(control, f"random_{norm}", norm, "random noise", reference, stochastic=True)


def attack_row(name: str, norm: str) -> Perturbation:
    """The row of an attack in a norm.

    Args:
        name: of `ATTACKS`.
        norm: of `NORMS`.
    """

    def function(
        image: torch.Tensor,
        level: float,
        generator: torch.Generator,
        *,
        victim: Victim,
        steps: int = STEPS,
        region: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return attack(name, victim, image, Budget(level, norm), steps, generator, region)

    found = ATTACKS[name]
    function.__doc__ = found.run.__doc__
    return _row(
        function, f"{name}_{norm}", norm, found.display_name, found.reference, stochastic=not found.single_step,
        single_step=found.single_step, attack=f"{name}_{norm}", control=f"random_{norm}",
    )  # fmt: skip


def _row(
    function: Callable[..., torch.Tensor], name: str, norm: str, words: str, reference: str, **facts: Any
) -> Perturbation:
    function.__name__ = name
    return Perturbation(
        name, function, _LEVELS[norm], maximum=1.0, unit=_UNITS[norm], modality="any", reference=reference,
        display_name=f"{words}, {_NORM_NAMES[norm]}", uses_region=True, **facts,
    )  # fmt: skip


ROWS = tuple(row for norm in NORMS for row in (control_row(norm), *(attack_row(name, norm) for name in ATTACKS)))

PERTURBATIONS: dict[str, Perturbation] = {**perturbations.PERTURBATIONS, **{row.name: row for row in ROWS}}
PRESETS: dict[str, dict[str, tuple[float, ...]]] = {
    **perturbations.PRESETS,
    "attacks": {
        f"{name}_{norm}": _LEVELS[norm] for norm in NORMS for name, found in ATTACKS.items() if found.in_preset
    },
}


def perturbation(name: str) -> Perturbation:
    """The row of that name, natural or an attack, or the one made for a combination of natural ones.

    `pgd_linf_from_<model>` is the row of an attack on that model, whoever predicts: its images are the same for all.

    Raises:
        UserError: there is none; the message has the nearest name and the list.
    """
    attacked, _, source = name.partition(_FROM)
    if source and attacked in PERTURBATIONS and PERTURBATIONS[attacked].uses_victim:
        row = PERTURBATIONS[attacked]
        return replace(row, name=name, source=source, display_name=f"{row.display_name}, from {source}")
    return perturbations.perturbation(name, PERTURBATIONS)


def with_source(attack: str, source: str) -> str:
    """The name of an attack on the model that is called `source`, whoever predicts."""
    return f"{attack}{_FROM}{source}"


def against(victim: Victim, steps: int = STEPS) -> Extra:
    """What `perturb` hands to the row of an attack.

    Args:
        victim: the model and the image's reference, of raw images.
        steps: of the attack, >= 1.
    """
    return lambda raw, span: {"victim": ScaledVictim(victim, raw, span), "steps": steps}
