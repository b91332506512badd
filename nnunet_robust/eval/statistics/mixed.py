"""The mixed model `metric ~ architecture * level + (1 | patient) + (1 | trained model)` of each perturbation.

Where every patient has every trained model at every level, which `comparable` sees to for all but series, the model's
likelihood falls into independent parts (strata), and its estimates are sums of squares: exact, at once, without an
iteration that may fail. Series with other patients at other levels go to `statsmodels`' MixedLM.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE
from nnunet_robust.eval.statistics.tables import Scores, patient_scores

_COLUMNS = [
    "dataset", "perturbation", "kind", "term", "estimate", "low", "high", "p", "df", "n_patients", "n_trained",
    "converged", "note",
]  # fmt: skip
_ONE_EACH = "one trained model of each architecture: how trainings vary is not estimated"
_ONE_PATIENT = "a single patient: nothing is said about others"


class _Fit(NamedTuple):
    """Estimates of k intercepts and k slopes, one per architecture.

    Attributes:
        estimates: (2k,), the intercepts (at the lowest level), then the slopes (to the highest).
        covariances: (parts, 2k, 2k), which sum to the estimates' covariance.
        freedom: (parts,), the degrees of freedom of each part; infinite for a normal approximation.
        deviations: standard deviation between patients, between trained models of an architecture, and of the rest.
        converged: whether the fit is one.
        note: what a reader has to know about the fit.
    """

    estimates: NDArray[np.float64]
    covariances: NDArray[np.float64]
    freedom: NDArray[np.float64]
    deviations: tuple[float, float, float]
    converged: bool
    note: str


def mixed_model(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """A straight line over the level for each architecture, with what patients and trainings vary around it.

        score = a_architecture + b_architecture x + u_patient + v_trained + e
        x = (level - lowest level) / (highest level - lowest level)

    with independent normal u, v and e, fitted by restricted maximum likelihood (REML). The level is not centred: x = 0
    is the clean image (in a series, the lowest level) and x = 1 the highest level, so that all terms are in the
    metric's unit. The reference is the first architecture of the rows.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.

    Returns:
        Rows for each dataset and perturbation with two or more levels. Columns dataset, perturbation, and

        - kind, term: "fixed effect" with, for the reference A and each other architecture B, "A at level 0", "A, level
          0 to 0.4" (what the line gains up to the highest level), "B − A at level 0", "B − A, level 0 to 0.4" (how
          much more B gains); "standard deviation" with "between patients", "between trained models", "residual";
        - estimate, low, high (95 %), p (of the estimate being 0), df: by Student's t with Satterthwaite's degrees of
          freedom; standard deviations have only the estimate, and none where it cannot be had;
        - n_patients, n_trained (trained models of all architectures);
        - converged: whether the fit ended well; note: what to know about it.

    References: Searle, Casella & McCulloch 1992, "Variance Components" (balanced data: REML is the analysis of variance
    with negative components set to zero); Satterthwaite 1946.
    """
    found = []
    for scores in patient_scores(rows, metric):
        if len(scores.levels) < 2:
            continue
        everywhere = np.isfinite(scores.by_line).all(axis=(0, 1))
        fit = _strata(scores) if everywhere.all() else _iterated(scores)
        present = int(np.isfinite(scores.by_line).any(axis=(0, 1)).sum())
        for row in _terms(fit, scores):
            where = {"dataset": scores.dataset, "perturbation": scores.perturbation}
            size = {"n_patients": present, "n_trained": len(scores.lines)}
            found.append({**where, **row, **size, "converged": fit.converged, "note": fit.note})
    return pd.DataFrame(found, columns=_COLUMNS)


def _terms(fit: _Fit, scores: Scores) -> list[dict[str, Any]]:
    names, k = scores.names, len(scores.names)
    start, way = f"at level {scores.levels[0]:g}", f"level {scores.levels[0]:g} to {scores.levels[-1]:g}"
    contrasts = [(f"{names[0]} {start}", [(0, 1.0)]), (f"{names[0]}, {way}", [(k, 1.0)])]
    for i in range(1, k):
        contrasts.append((f"{names[i]} − {names[0]} {start}", [(i, 1.0), (0, -1.0)]))
        contrasts.append((f"{names[i]} − {names[0]}, {way}", [(k + i, 1.0), (k, -1.0)]))
    found = []
    for term, entries in contrasts:
        weights = np.zeros(2 * k)
        for place, weight in entries:
            weights[place] = weight
        found.append({"kind": "fixed effect", "term": term, **_inference(fit, weights)})
    of = ("between patients", "between trained models", "residual")
    for term, deviation in zip(of, fit.deviations, strict=True):
        found.append({"kind": "standard deviation", "term": term, "estimate": deviation})
    return found


def _inference(fit: _Fit, weights: NDArray[np.float64]) -> dict[str, float]:
    estimate = float(weights @ fit.estimates)
    parts = np.einsum("i,pij,j->p", weights, fit.covariances, weights)
    if not np.isfinite(parts).all():
        return {"estimate": estimate}
    variance = max(float(parts.sum()), 0.0)
    if variance <= 1e-24:  # everyone alike up to rounding
        p = 1.0 if abs(estimate) <= 1e-12 else 0.0
        return {"estimate": estimate, "low": estimate, "high": estimate, "p": p}
    used = parts != 0
    spread = float((parts[used] ** 2 / fit.freedom[used]).sum())
    df = variance**2 / spread if spread else float("inf")
    error = variance**0.5
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, df)) * error
    p = 2 * float(stats.t.sf(abs(estimate) / error, df))
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half, "p": p, "df": df}


def _scaled(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return (levels - levels[0]) / (levels[-1] - levels[0])


def _strata(scores: Scores) -> _Fit:
    """REML of complete data, from the mean squares of patients, trained models and the rest."""
    values = scores.by_line
    n_lines, n_levels, n_patients = values.shape
    k, owner = len(scores.names), scores.owner
    design = np.column_stack([np.ones(n_levels), _scaled(scores.levels)])
    solve = np.linalg.pinv(design)  # (2, levels): generalised least squares is ordinary least squares here
    means = np.stack([values[owner == i].mean(axis=(0, 2)) for i in range(k)])
    lines = means @ solve.T  # (k, 2)
    estimates = lines.T.ravel()
    fitted = (lines @ design.T)[owner]

    sizes = np.bincount(owner, minlength=k)
    of_architecture = np.stack([values[owner == i].mean() for i in range(k)])
    of_patients = values.mean(axis=(0, 1)) - values.mean()
    of_trained = values.mean(axis=(1, 2)) - of_architecture[owner]
    squares = np.array(
        [n_lines * n_levels * (of_patients**2).sum(), n_patients * n_levels * (of_trained**2).sum(), 0.0]
    )
    squares[2] = max(float(((values - fitted[:, :, None]) ** 2).sum()) - squares.sum(), 0.0)
    freedom = np.array([n_patients - 1, n_lines - k, 0])
    freedom[2] = values.size - 2 * k - freedom.sum()
    repeats = np.array([n_lines * n_levels, n_patients * n_levels])

    # d covariance / d variance of patients, trained models, rest
    shape = np.zeros((3, 2 * k, 2 * k))
    shape[0, :k, :k] = 1 / n_patients
    shape[1, :k, :k] = np.diag(1 / sizes)
    shape[2] = np.kron(solve @ solve.T, np.diag(1 / (n_patients * sizes)))
    if n_patients < 2 or freedom[2] < 1:
        unknown = np.full((3, 2 * k, 2 * k), np.nan)
        note = _ONE_PATIENT if n_patients < 2 else "too few scores to tell what is left"
        return _Fit(estimates, unknown, freedom, (float("nan"),) * 3, True, note)

    apart, rest_square, rest_freedom = _pooled(squares, freedom)
    rest = rest_square / rest_freedom
    mean_square = [squares[i] / freedom[i] if i in apart else 0.0 for i in (0, 1)]
    covariances = np.stack(
        [mean_square[i] / repeats[i] * shape[i] for i in (0, 1)]
        + [rest * (shape[2] - sum(shape[i] / repeats[i] for i in apart))]
    )
    variances = [max(mean_square[i] - rest, 0.0) / repeats[i] if i in apart else 0.0 for i in (0, 1)]
    deviations = (variances[0] ** 0.5, variances[1] ** 0.5 if n_lines > k else float("nan"), rest**0.5)
    degrees = np.array([max(freedom[0], 1), max(freedom[1], 1), rest_freedom], dtype=float)
    return _Fit(estimates, covariances, degrees, deviations, True, "" if n_lines > k else _ONE_EACH)


def _pooled(squares: NDArray[np.float64], freedom: NDArray[np.int_]) -> tuple[list[int], float, int]:
    """Which of patients (0) and trained models (1) vary more than the rest, and the rest with the other ones in it.

    A stratum whose mean square is below the rest's would have a negative variance: under REML it is zero, and the
    stratum tells about the rest.
    """
    apart = [i for i in (0, 1) if freedom[i] > 0]
    square, df = float(squares[2]), int(freedom[2])
    for i in sorted(apart, key=lambda i: squares[i] / freedom[i]):
        if squares[i] / freedom[i] <= square / df:
            apart.remove(i)
            square, df = square + float(squares[i]), df + int(freedom[i])
    return apart, square, df


def _iterated(scores: Scores) -> _Fit:
    """REML by `statsmodels`, with normal instead of Student's quantiles, where patients lack levels."""
    from statsmodels.regression.mixed_linear_model import MixedLM  # slow to import, and seldom needed

    k, several = len(scores.names), len(scores.lines) > len(scores.names)
    line, level, patient = np.nonzero(np.isfinite(scores.by_line))
    score, owner, x = scores.by_line[line, level, patient], scores.owner[line], _scaled(scores.levels)[level]
    design = np.zeros((len(score), 2 * k))
    design[np.arange(len(score)), owner] = 1.0
    design[np.arange(len(score)), k + owner] = x
    unit = float(score.std()) or 1.0  # variances far from 1 end its search too early
    frame = pd.DataFrame({"score": score / unit, "patient": patient, "trained": line})
    unknown = np.full((1, 2 * k, 2 * k), np.nan)
    nothing = (float("nan"),) * 3
    note = "patients differ between levels; normal quantiles" + ("" if several else f"; {_ONE_EACH}")
    ordinary = np.linalg.lstsq(design, score, rcond=None)[0]
    if len(set(patient)) < 2 or np.linalg.matrix_rank(design) < 2 * k or len(score) <= 2 * k:
        return _Fit(ordinary, unknown, np.ones(1), nothing, True, _ONE_PATIENT if len(set(patient)) < 2 else note)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is in `converged`
        try:
            if several:
                columns = [f"x{i}" for i in range(2 * k)]
                model = MixedLM.from_formula(
                    "score ~ 0 + " + " + ".join(columns),
                    frame.join(pd.DataFrame(design, columns=columns)),
                    groups=np.zeros(len(frame)),
                    vc_formula={"1_patient": "0 + C(patient)", "2_trained": "0 + C(trained)"},
                )
            else:
                model = MixedLM(frame["score"], design, frame["patient"])
            fit = model.fit(reml=True)
        except (np.linalg.LinAlgError, ValueError) as error:
            return _Fit(ordinary, unknown, np.ones(1), nothing, False, f"{note}; MixedLM failed: {error}")
    variances = [*fit.vcomp] if several else [float(np.asarray(fit.cov_re).item()), float("nan")]
    patients, trained = (unit * max(float(v), 0.0) ** 0.5 for v in variances)
    covariance = unit**2 * np.asarray(fit.cov_params())[: 2 * k, : 2 * k][None]
    return _Fit(
        unit * np.asarray(fit.fe_params), covariance, np.full(1, np.inf), (patients, trained, unit * fit.scale**0.5),
        bool(fit.converged), note if fit.converged else f"{note}; the fit did not converge",
    )  # fmt: skip
