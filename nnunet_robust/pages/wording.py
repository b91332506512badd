"""How pages write numbers, names and samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.statistics import COMPARABLE


def listed_perturbations(perturbations: Iterable[str], names: DisplayNames) -> str:
    """Names of perturbations, one after the other; apart by semicolons where a name has a comma."""
    shown = [names[name] for name in perturbations]
    return ("; " if any("," in name for name in shown) else ", ").join(shown)


def counted_cases(n_cases: int, n_patients: int, patients_known: bool = False) -> str:
    """The sample's size in both units: "12 cases (10 patients)"; "12 images" where nobody says whose they are.

    Args:
        n_cases: number of cases.
        n_patients: number of patients; the same where each case counts as a patient of its own.
        patients_known: whether it is known whose the cases are.
    """
    if n_cases == n_patients and not patients_known:
        return counted(n_cases, "image")
    return f"{counted(n_cases, 'case')} ({counted(n_patients, 'patient')})"


def counted(n: int, what: str) -> str:
    """A number of things: "1 image", "12 images"."""
    return f"{n} {what}{'s' * (n != 1)}"


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


def few_patients(n_patients: int, few: int = 20, what: str = "patient") -> list[str]:
    """The warning that a small sample deserves, if it is one; `what` is "image" where patients are not known."""
    if n_patients == 1:
        return [f"There is a single {what}: no interval can be given, and nothing is said about other {what}s."]
    if n_patients < few:
        return [f"{n_patients} {what}s are few: intervals of so few tend to be too narrow, and means may yet shift."]
    return []
