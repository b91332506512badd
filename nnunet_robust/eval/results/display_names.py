"""A perturbation's name in words."""

from __future__ import annotations

import re

_NAMES = {
    "random": "random noise",
    "fgsm": "FGSM",
    "pgd": "PGD",
    "segpgd": "SegPGD",
    "cospgd": "CosPGD",
    "worst_case": "worst case",
}
_NORMS = {"linf": "l∞", "l2": "l2"}
_ATTACK = re.compile(rf"({'|'.join(_NAMES)})_({'|'.join(_NORMS)})(?:_from_(.+))?")


def spoken(perturbation: str) -> str:
    """A perturbation's name in a sentence: "speckle noise", "PGD, l∞", "PGD, l∞, from nnUNetTrainer"."""
    if found := _ATTACK.fullmatch(perturbation):
        name, norm, source = found.groups()
        return f"{_NAMES[name]}, {_NORMS[norm]}" + (f", from {source}" if source else "")
    return perturbation.replace("_", " ")


def control_of(attack: str) -> str:
    """The random noise of an attack's budgets: "random_linf" for "pgd_linf" and "pgd_linf_from_nnUNetTrainer"."""
    found = _ATTACK.fullmatch(attack)
    return f"random_{found[2]}" if found else ""


def attacked_by(attack: str) -> tuple[str, str]:
    """An attack without its source, and the source: "pgd_linf", "nnUNetTrainer"; the source is "" where it has none."""
    name, _, source = attack.partition("_from_")
    return name, source
