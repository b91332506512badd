"""Tests of differences between architectures, paired by patient, at each level by itself."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy  # whose parts are loaded when they are used: a sweep does not wait for them
from numpy.typing import ArrayLike, NDArray

from nnunet_robust.eval.statistics.signed_rank import signed_rank
from nnunet_robust.eval.statistics.tables import By, patient_scores

FAMILY = "all pairs at all levels of one dataset, perturbation and metric"  # what Holm's p-values are adjusted for

_FAILURES = ("missed", "hallucinated")
_FRIEDMAN = ["dataset", "perturbation", "level", "statistic", "p", "kendalls_w", "n_patients", "n_models"]
_PAIRWISE = [
    "dataset", "perturbation", "level", "first", "second", "shift", "low", "high", "p", "p_holm", "smallest_p",
    "rank_biserial", "n_patients", "n_ties", "n_family",
]  # fmt: skip
_MCNEMAR = [
    "dataset", "perturbation", "level", "first", "second", "only_first", "only_second", "p", "p_holm", "smallest_p",
    "n", "n_family",
]  # fmt: skip


def friedman(rows: pd.DataFrame, metric: str, by: By = "architecture") -> pd.DataFrame:
    """Test whether any of three or more architectures differs: Friedman's test over patients, with Kendall's W.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        by: "line" takes each trained model for itself.

    Returns:
        A row per dataset, perturbation and level with at least two patients and three architectures (of two, `pairwise`
        tells all). Columns dataset, perturbation, level, statistic (chi-squared, corrected for ties), p (of its
        asymptotic distribution with n_models - 1 degrees of freedom, not adjusted for the number of levels), kendalls_w
        (statistic / (n_patients (n_models - 1)): 0 where patients rank at random, 1 where all rank alike), n_patients,
        n_models. Where every patient has the same score of everyone the statistic is 0 and p is 1.

    References: Friedman 1937; Kendall & Babington Smith 1939; computed by `scipy.stats.friedmanchisquare`.

    Example:
        >>> import pandas as pd
        >>> same = {"dataset": "D", "perturbation": "blur", "label": "organ", "outcome": "ok"}
        >>> def row(name: str, patient: str, level: float, dice: float) -> dict:
        ...     return {**same, "architecture": name, "line": name, "patient": patient, "case": patient, "level": level,
        ...             "dice": dice}
        >>> dice = {"plain": 0.9, "added": 0.8, "no skip": 0.7}  # four patients who rank them alike
        >>> table = friedman(pd.DataFrame([row(a, p, 0.0, y) for a, y in dice.items() for p in "abcd"]), "dice")
        >>> table[["statistic", "kendalls_w", "n_patients"]].round(4).values.tolist()  # at most 4 * (3 - 1) and 1
        [[8.0, 1.0, 4.0]]
    """
    found = []
    for scores in patient_scores(rows, metric, by):
        for j, level in enumerate(scores.levels):
            values = np.round(scores.at(j), 12)  # equal up to rounding is a tie
            n_patients, n_models = values.shape
            if n_patients < 2 or n_models < 3:
                continue
            statistic, p = 0.0, 1.0
            if np.ptp(values, axis=1).any():
                statistic, p = map(float, scipy.stats.friedmanchisquare(*values.T))
            w = statistic / (n_patients * (n_models - 1))
            found.append((scores.dataset, scores.perturbation, float(level), statistic, p, w, n_patients, n_models))
    return pd.DataFrame(found, columns=_FRIEDMAN)


def pairwise(rows: pd.DataFrame, metric: str, by: By = "architecture") -> pd.DataFrame:
    """Compare each two architectures at each level: Wilcoxon's signed-rank test and the Hodges-Lehmann shift.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        by: "line" takes each trained model for itself.

    Returns:
        Columns dataset, perturbation, level, first, second, shift (first minus second, in the metric's unit), low, high
        (95 %; missing below 6 patients, who cannot give it), p, p_holm (adjusted within `FAMILY`; the clean images are
        level 0 of every perturbation, and so are in every perturbation's family), smallest_p (the smallest p that this
        number of differences can give), rank_biserial (positive: first is higher), n_patients, n_ties (patients without
        a difference), n_family (comparisons in the family: p_holm cannot be below n_family * smallest_p where that is
        the same for all). See `signed_rank`.

    Example:
        >>> import pandas as pd
        >>> same = {"dataset": "D", "perturbation": "blur", "label": "organ", "outcome": "ok"}
        >>> def row(name: str, patient: str, level: float, dice: float) -> dict:
        ...     return {**same, "architecture": name, "line": name, "patient": patient, "case": patient, "level": level,
        ...             "dice": dice}
        >>> dice = {"plain": 0.9, "no skip": 0.8}
        >>> table = pairwise(pd.DataFrame([row(a, p, 0.0, y) for a, y in dice.items() for p in "abcdef"]), "dice")
        >>> table[["first", "second", "shift", "p"]].round(4).values.tolist()  # of six patients, 2 / 2**6 at best
        [['plain', 'no skip', 0.1, 0.0312]]
    """
    found = []
    for scores in patient_scores(rows, metric, by):
        place = {"dataset": scores.dataset, "perturbation": scores.perturbation}
        for j, level in enumerate(scores.levels):
            values = scores.at(j)
            if not len(values):
                continue
            for a, b in combinations(range(len(scores.names)), 2):
                compared = signed_rank(values[:, a] - values[:, b])
                pair = {"first": scores.names[a], "second": scores.names[b], "n_patients": len(values)}
                found.append({**place, "level": float(level), **pair, **compared._asdict()})
    return _with_holm(found, _PAIRWISE)


def failures(rows: pd.DataFrame, by: By = "architecture") -> pd.DataFrame:
    """Count, for each two architectures at each level, the objects that only one of them misses or hallucinates.

    The unit is an object: a label of a patient. An architecture fails on it where it missed or hallucinated it in more
    than half of its rows (cases, replicates, trained models). Labels of one patient count apart, as if they were
    independent.

    Args:
        rows: what `comparable` returns.
        by: "line" takes each trained model for itself.

    Returns:
        Columns dataset, perturbation, level, first, second, only_first, only_second (objects on which only that one
        fails), p (McNemar's test, exact, two-sided; 1 where both fail on the same objects), p_holm (adjusted within
        `FAMILY`), smallest_p (the smallest p that this number of differing objects can give), n (objects), n_family
        (comparisons in the family).

    Reference: McNemar 1947; computed by `statsmodels.stats.contingency_tables.mcnemar(exact=True)`.
    """
    from statsmodels.stats.contingency_tables import mcnemar  # takes a second, which a sweep does not wait for

    keys = ["dataset", "perturbation", "level"]
    failed = rows.assign(failed=rows["outcome"].isin(_FAILURES))
    shares = failed.groupby([*keys, "patient", "label", by], sort=False)["failed"].mean().reset_index()
    found = []
    for (dataset, perturbation), part in shares.groupby(keys[:2], sort=False):
        place = {"dataset": dataset, "perturbation": perturbation}
        for level, of_level in part.groupby("level"):
            names = list(dict.fromkeys(of_level[by]))
            table = of_level.pivot(index=["patient", "label"], columns=by, values="failed").dropna()
            fails = {name: table[name].to_numpy() > 0.5 for name in names}
            for first, second in combinations(names, 2):
                only_first = int((fails[first] & ~fails[second]).sum())
                only_second = int((fails[second] & ~fails[first]).sum())
                differing = only_first + only_second
                p = float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue) if differing else 1.0
                pair = {"first": first, "second": second, "only_first": only_first, "only_second": only_second}
                tested = {"p": min(1.0, p), "smallest_p": min(1.0, 2.0 ** (1 - differing)), "n": len(table)}
                found.append({**place, "level": float(level), **pair, **tested})
    return _with_holm(found, _MCNEMAR)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjust the p-values of one family after Holm: of m, the i-th smallest times m - i + 1, at least the one before.

    (As `statsmodels`' multipletests, which collects all garbage in each call: a tenth of a second.)

    Args:
        p: (m,), each in [0, 1].

    Reference: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Example:
        >>> holm([0.01, 0.04, 0.03])  # 3 * 0.01, then 2 * 0.03, then at least as much
        array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted


def _with_holm(found: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """A table of comparisons, with Holm's p-values within each dataset and perturbation, and how many there are."""
    table = pd.DataFrame(found, columns=columns)
    for _, family in table.groupby(["dataset", "perturbation"], sort=False):
        table.loc[family.index, "p_holm"] = holm(family["p"])
        table.loc[family.index, "n_family"] = len(family)
    return table.astype({"p_holm": float, "n_family": int})
