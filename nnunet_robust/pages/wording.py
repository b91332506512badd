"""How pages write numbers, names and samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from nnunet_robust.eval.results.display_names import spoken as spoken
from nnunet_robust.eval.statistics import COMPARABLE


def spoken_list(perturbations: Iterable[str]) -> str:
    """Names of perturbations, one after the other; apart by semicolons where a name has a comma."""
    names = [spoken(name) for name in perturbations]
    return ("; " if any("," in name for name in names) else ", ").join(names)


_ENSEMBLE = re.compile(r"ensemble([^()]*)\(([^()]*)\)(.*)")  # the sweep's name: weighting, members, and what is added


def ensemble_names(names: Iterable[str]) -> dict[str, str]:
    """Short names of ensembles: "ensemble of 2, uniform" for "ensemble_uniform(nnUNetTrainer+nnUNetTrainerNoSkip)".

    Args:
        names: of models, as in tables and plots.

    Returns:
        Name -> short name, of the ensembles alone, and of those alone whose short name no other has.
    """
    short = {}
    for name in dict.fromkeys(names):
        if found := _ENSEMBLE.fullmatch(name):
            weighting, members, more = found.groups()
            n = members.count("+") + 1
            short[name] = f"ensemble of {n}, {weighting.strip('_') or 'uniform'}{more}"
    given = list(short.values())
    return {name: text for name, text in short.items() if given.count(text) == 1}


def counted_cases(n_cases: int, n_patients: int) -> str:
    """The sample's size in both units: "12 cases (10 patients)"."""
    return f"{n_cases} case{'s' * (n_cases != 1)} ({n_patients} patient{'s' * (n_patients != 1)})"


def number(value: float, metric: str = "dice") -> str:
    """A score with the decimals that suit its metric; a dash where it is missing."""
    decimals = 2 if COMPARABLE[metric].unit else 3
    return "–" if np.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")


def percent(share: float, decimals: int = 1) -> str:
    """A share as a percentage; a dash where it is missing."""
    return "–" if np.isnan(share) else f"{100 * share:.{decimals}f} %".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value with three decimals, "<0.001" below them; a dash where it is missing."""
    return "–" if np.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float, high: float, metric: str = "dice") -> str:
    """ "[0.91, 0.94]", or nothing where there is no interval (a single patient)."""
    return "" if np.isnan(low) else f"[{number(low, metric)}, {number(high, metric)}]"


def with_interval(mean: float, low: float, high: float, metric: str = "dice") -> str:
    """A mean, and its interval where there is one: "0.926 [0.910, 0.940]"."""
    return f"{number(mean, metric)} {interval(low, high, metric)}".rstrip()


def few_patients(n_patients: int, few: int = 20) -> list[str]:
    """The warning that a small sample deserves, if it is one."""
    if n_patients == 1:
        return ["There is a single patient: no interval can be given, and nothing is said about other patients."]
    if n_patients < few:
        return [f"{n_patients} patients are few: intervals of so few tend to be too narrow, and means may yet shift."]
    return []


def joined(parts: Sequence[str], separator: str = ", ") -> str:
    """The parts of a sentence, one after the other, with "and" before the last."""
    if len(parts) == 1:
        return parts[0]
    return f"{separator.join(parts[:-1])}{separator.rstrip(', ')} and {parts[-1]}"
