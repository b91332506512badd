"""Attacks on a model, and random noise of the same budget, which they are to be compared with.

The level is the budget: how far any value may move (linf), or all of them in the root mean square (l2), in shares of
the channel's robust range.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from nnunet_robust.eval.attacks.attack import ATTACKS, attack, random_control
from nnunet_robust.eval.attacks.budget import NORMS, Budget
from nnunet_robust.eval.attacks.victim import Victim
from nnunet_robust.perturbations.row import Perturbation

STEPS = 20
"""Of an attack, unless another number is asked for."""

SINGLE_STEP = tuple(f"fgsm_{norm}" for norm in NORMS)
"""Attacks of one step, whatever number is asked for."""

_LEVELS = {"linf": (0.002, 0.005, 0.01, 0.02, 0.05), "l2": (0.001, 0.002, 0.005, 0.01, 0.02)}
_UNITS = {
    "linf": "largest change of a value, share of the robust range",
    "l2": "root mean square of the changes, share of the robust range",
}
_REFERENCES = {
    "fgsm": "Goodfellow et al. 2015, arXiv 1412.6572",
    "pgd": "Madry et al. 2018, arXiv 1706.06083",
    "segpgd": "Gu et al. 2022, arXiv 2207.12391",
    "cospgd": "Agnihotri et al. 2024, arXiv 2302.02213",
    "worst_case": "worst of PGD, CosPGD and APGD: Croce and Hein 2020, arXiv 2003.01690; Croce et al. 2024",
}


def _control(norm: str) -> Perturbation:
    def control(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
        return random_control(image, Budget(level, norm), generator)

    return _row(
        control, f"random_{norm}", norm, random_control.__doc__, "as the attacks of the same norm", attack=False
    )


def _attack(name: str, norm: str) -> Perturbation:
    def function(
        image: torch.Tensor, level: float, generator: torch.Generator, *, victim: Victim, steps: int = STEPS
    ) -> torch.Tensor:
        return attack(name, victim, image, Budget(level, norm), steps, generator)

    return _row(function, f"{name}_{norm}", norm, ATTACKS[name].__doc__, _REFERENCES[name], attack=True)


def _row(
    function: Callable[..., torch.Tensor],
    name: str,
    norm: str,
    documentation: str | None,
    reference: str,
    attack: bool,
) -> Perturbation:
    function.__name__, function.__doc__ = name, documentation
    return Perturbation(
        name,
        function,
        _LEVELS[norm],
        maximum=1.0,
        unit=_UNITS[norm],
        modality="any",
        reference=reference,
        stochastic=name not in SINGLE_STEP,
        uses_victim=attack,
        control=f"random_{norm}" if attack else "",
    )


ROWS = tuple(row for norm in NORMS for row in (_control(norm), *(_attack(name, norm) for name in ATTACKS)))
