"""A straight line over the level for each architecture, and how patients and trainings vary around it.

Each trained model's scores of one patient are reduced to the least-squares intercept and slope. These two numbers have
random effects of patients, of patients and architectures, and of trained models each, so that slopes may differ by
patient and by training; `contrasts` estimates them from mean squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE
from nnunet_robust.eval.statistics.contrasts import FEWEST_PATIENTS, Contrast, contrast, without_gaps
from nnunet_robust.eval.statistics.tables import Scores, patient_scores

_COLUMNS = [
    "dataset", "perturbation", "kind", "term", "estimate", "low", "high", "p", "df", "n_patients", "n_trained", "note",
]  # fmt: skip
_ONE_PATIENT = "a single patient (at some level): nothing is said about others"
_OTHER_PATIENTS = "patients differ between levels: no p, for the level's effect cannot be told from the patients'"
_ONE_EACH = "one training of each architecture: about these trained models, no p"
_FEW = f"fewer than {FEWEST_PATIENTS} patients: no p"
_ALIKE = "all patients alike: no p"
_NOTHING = 1e-24  # a variance below this is that of rounding
_NAN = float("nan")


class _Lines(NamedTuple):
    """Intercepts and slopes.

    Attributes:
        each: (trained models, patients, 2), at the lowest level, and from there to the highest.
        variance: (2,), of an intercept and a slope for residuals of variance 1.
        fewest: number of patients of the level that has the fewest.
        complete: whether every patient has every level.
    """

    each: NDArray[np.float64]
    variance: NDArray[np.float64]
    fewest: int
    complete: bool


def mixed_model(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Fit a straight line over the level for each architecture, with what patients and trainings vary around it.

        score = a + b x + e,   x = (level - lowest level) / (highest level - lowest level)
        a = mean of the architecture + patient + (patient x architecture) + trained model, and b likewise

    The level is not centred: x = 0 is the clean image (in a series, the lowest level) and x = 1 the highest level, so
    that all terms are in the metric's unit. The reference is the first architecture of the rows.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.

    Returns:
        Rows for each dataset and perturbation with two or more levels. Columns dataset, perturbation, and

        - kind, term: "fixed effect" with, for the reference A and each other architecture B, "A at level 0", "A, level
          0 to 0.4" (what the line gains up to the highest level), "B − A at level 0", "B − A, level 0 to 0.4" (how
          much more B gains); "standard deviation" of the intercepts and slopes "between patients" (what all
          architectures share) and "between trained models" of an architecture, and of the "residual" around each
          patient's own lines;
        - estimate, low, high (95 %), df: by Student's t with Satterthwaite's degrees of freedom, over other patients,
          and over other trainings where there are repeats; standard deviations have only the estimate, and none where
          it cannot be had;
        - p, of the estimate being 0: only where the data can carry it, which is where each of the term's architectures
          was trained repeatedly and six or more patients have every level;
        - n_patients, n_trained (trained models of all architectures);
        - note: what the term is about, and why it has no p.

    References: Searle, Casella & McCulloch 1992, "Variance Components" (balanced data: REML is the analysis of variance
    with negative components set to zero); Satterthwaite 1946.
    """
    found = []
    for scores in patient_scores(rows, metric):
        if len(scores.levels) < 2:
            continue
        lines = _lines(scores)
        where = {"dataset": scores.dataset, "perturbation": scores.perturbation}
        size = {"n_patients": len(scores.patients), "n_trained": len(scores.lines)}
        for row in [*_effects(scores, lines), *_deviations(scores, lines)]:
            found.append({**where, **row, **size})
    return pd.DataFrame(found, columns=_COLUMNS)


def _design(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([np.ones(len(levels)), (levels - levels[0]) / (levels[-1] - levels[0])])


def _lines(scores: Scores) -> _Lines:
    filled, fewest = without_gaps(scores.by_line)
    design = _design(scores.levels)
    each = np.einsum("cx,lxp->lpc", np.linalg.pinv(design), filled)
    complete = bool(np.isfinite(scores.by_line).all())
    return _Lines(each, np.diag(np.linalg.inv(design.T @ design)), fewest, complete)


def _places(scores: Scores) -> tuple[str, str]:
    """How intercepts and slopes are called after the name of what has them."""
    return f" at level {scores.levels[0]:g}", f", level {scores.levels[0]:g} to {scores.levels[-1]:g}"


def _effects(scores: Scores, lines: _Lines) -> Iterator[dict[str, Any]]:
    """The reference's intercept and slope, then the other architectures' differences from it."""
    k = len(scores.names)
    weights = np.eye(k)
    weights[1:, 0] = -1
    if lines.fewest < 2:
        means = np.stack([lines.each[scores.owner == i].mean(axis=(0, 1)) for i in range(k)])
        found = None
        values = weights @ means
    else:
        found = contrast(lines.each, scores.owner, weights)._replace(n_patients=lines.fewest)
        values = found.value
    for i, name in enumerate(scores.names):
        what = name if i == 0 else f"{name} − {scores.names[0]}"
        note = _without_p(scores, lines, sorted({0, i}))
        for column, place in enumerate(_places(scores)):
            row = {"kind": "fixed effect", "term": what + place, "estimate": float(values[i, column]), "note": note}
            yield row | (_inference(found, (i, column), note) if found else {})


def _without_p(scores: Scores, lines: _Lines, names: list[int]) -> str:
    """Why a term about the architectures of these indices has no p; empty where it has one."""
    if lines.fewest < 2:
        return _ONE_PATIENT
    reasons = [] if lines.complete else [_OTHER_PATIENTS]
    repeats = np.bincount(scores.owner)
    once = [scores.names[i] for i in names if repeats[i] == 1]
    if len(scores.lines) == len(scores.names):
        reasons.append(_ONE_EACH)
    elif once:
        trained = " and ".join(once)
        reasons.append(f"{trained}: trained once, taken to vary with the training as the others do, no p")
    if lines.fewest < FEWEST_PATIENTS:
        reasons.append(_FEW)
    return "; ".join(reasons)


def _inference(found: Contrast, at: tuple[int, int], note: str) -> dict[str, Any]:
    estimate, variance, df = float(found.value[at]), float(found.reml_variance[at]), float(found.freedom[at])
    if variance <= _NOTHING:
        return {"low": estimate, "high": estimate, "note": "; ".join(filter(None, [note, _ALIKE]))}
    error = variance**0.5
    half = float(stdtrit(df, (1 + CONFIDENCE) / 2)) * error
    p = _NAN if note else 2 * float(stdtr(df, -abs(estimate) / error))
    return {"low": estimate - half, "high": estimate + half, "p": p, "df": df}


def _deviations(scores: Scores, lines: _Lines) -> Iterator[dict[str, Any]]:
    """Standard deviations of intercepts and slopes between patients and between trained models, and the residual."""
    residual = _residual_variance(scores, lines)
    of = {
        "between patients": _patient_variances(scores, lines, residual),
        "between trained models": _training_variances(scores, lines),
    }
    for what, variances in of.items():
        for variance, place in zip(variances, _places(scores), strict=True):
            deviation = float(np.sqrt(max(variance, 0.0))) if np.isfinite(variance) else _NAN
            yield {"kind": "standard deviation", "term": what + place, "estimate": deviation, "note": ""}
    yield {"kind": "standard deviation", "term": "residual", "estimate": float(residual**0.5), "note": ""}


def _residual_variance(scores: Scores, lines: _Lines) -> float:
    """The variance around the patients' own lines, without the mean curve's distance from a straight line."""
    n_lines, n_levels, n_patients = scores.by_line.shape
    if not lines.complete or n_patients < 2 or n_levels < 3:
        return _NAN
    apart = scores.by_line - scores.by_line.mean(axis=2, keepdims=True)
    design = _design(scores.levels)
    apart = apart - np.einsum("yc,cx,lxp->lyp", design, np.linalg.pinv(design), apart)
    return float((apart**2).sum() / (n_lines * (n_patients - 1) * (n_levels - 2)))


def _patient_variances(scores: Scores, lines: _Lines, residual: float) -> NDArray[np.float64]:
    """The mean covariance between architectures; of a single one between its trainings, or what the residual leaves."""
    if not lines.complete or lines.fewest < 2:
        return np.full(2, _NAN)
    k = len(scores.names)
    sharing = np.stack([lines.each[scores.owner == i].mean(axis=0) for i in range(k)]) if k > 1 else lines.each
    n = len(sharing)
    if n == 1:
        return np.asarray(sharing[0].var(axis=0, ddof=1) - residual * lines.variance)
    total = sharing.sum(axis=0).var(axis=0, ddof=1)
    return np.asarray((total - sharing.var(axis=1, ddof=1).sum(axis=0)) / (n * (n - 1)))


def _training_variances(scores: Scores, lines: _Lines) -> NDArray[np.float64]:
    if len(scores.lines) == len(scores.names) or lines.fewest < 2:
        return np.full(2, _NAN)
    found = contrast(lines.each, scores.owner, np.eye(len(scores.names))[:1])
    return np.asarray((found.trainings - found.rest)[0] * np.bincount(scores.owner)[0])
