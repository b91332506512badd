"""Where the mean curves of two architectures cross."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE, N_RESAMPLES, resampled_means
from nnunet_robust.eval.statistics.contrasts import Contrast, contrast, without_gaps
from nnunet_robust.eval.statistics.tables import By, Scores, direction, patient_scores

_EQUAL = 1e-12  # means that differ by less are the same
_STEPS = 64  # between two levels, at which it is looked whether a crossing is possible; ends are refined between them
_COLUMNS = ["dataset", "perturbation", "first", "second", "level", "low", "high", "open", "share", "n_patients"]


class _Interval(NamedTuple):
    """The levels at which two curves may cross; `open` says on which side it reaches the last measured level."""

    low: float = float("nan")
    high: float = float("nan")
    open: str = ""


def crossings(
    rows: pd.DataFrame, metric: str = "dice", n_resamples: int = N_RESAMPLES, seed: int = 0, by: By = "architecture"
) -> pd.DataFrame:
    """Find the levels at which the mean curves of two architectures cross, linear between measured levels.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        n_resamples: number of bootstrap samples of the patients, for `share`.
        seed: of the bootstrap.
        by: "line" takes each trained model for itself.

    Returns:
        A row for each pair and each crossing of their means, and one for a pair that has none. Columns dataset,
        perturbation, and

        - first, second: `first` is the better one below the level, `second` above it; without a crossing, in the order
          of the rows;
        - level: where the means cross, missing where they do not. Curves that meet and part again on the same side do
          not cross; where they run together between two levels, the middle counts;
        - low, high: Fieller's 95 % interval: all levels around the crossing at which the data do not tell the two
          means apart, over other patients, and over other trainings where some architecture has several. Without a
          crossing of the means, from the lowest to the highest of such levels. Missing where there is no such level,
          and where some level has a single patient;
        - open: "below", "above" or "both" where the interval reaches the lowest or highest measured level: the data
          then do not exclude that the curves cross outside of the measured levels, or nowhere;
        - share: of bootstrap samples that have a crossing in this direction; without a crossing of the means, of those
          that have any. Missing for a single patient;
        - n_patients: who took part at any level.

    References: Fieller 1954, "Some problems in interval estimation" (the set of ratios that a t test does not reject);
    Satterthwaite 1946.

    Example:
        >>> import pandas as pd
        >>> same = {"dataset": "D", "perturbation": "blur", "label": "organ", "outcome": "ok"}
        >>> def row(name: str, patient: str, level: float, dice: float) -> dict:
        ...     return {**same, "architecture": name, "line": name, "patient": patient, "case": patient, "level": level,
        ...             "dice": dice}
        >>> dice = {"plain": {0.0: 0.9, 0.3: 0.5}, "no skip": {0.0: 0.8, 0.3: 0.7}}  # the same for both patients
        >>> rows = pd.DataFrame([row(a, p, x, y) for a, curve in dice.items() for p in "ab" for x, y in curve.items()])
        >>> crossings(rows)[["first", "second", "level", "share"]].round(4).values.tolist()  # 0.1 apart, then -0.2
        [['plain', 'no skip', 0.1, 1.0]]
    """
    found = []
    for scores in patient_scores(rows, metric, by):
        if len(scores.levels) > 1 and len(scores.names) > 1:
            found += _of_scores(scores, direction(metric), n_resamples, seed)
    return pd.DataFrame(found, columns=_COLUMNS)


def _of_scores(scores: Scores, sign: float, n_resamples: int, seed: int) -> list[dict[str, Any]]:
    n_names, n_levels, n_patients = scores.values.shape
    flat = scores.values.reshape(-1, n_patients).T
    resampled = resampled_means(flat, n_resamples, seed).reshape(n_names, n_levels, n_resamples)
    pairs = list(combinations(range(n_names), 2))
    means = np.nanmean(scores.values, axis=2)
    squares = _mean_squares(scores, pairs)
    found = []
    for number, (a, b) in enumerate(pairs):
        difference = sign * (means[a] - means[b])
        at, toward = _sign_changes(scores.levels, difference[:, None])
        drawn_at, drawn_toward = _sign_changes(scores.levels, sign * (resampled[a] - resampled[b]))
        crossed: list[int | None] = [j for j in range(n_levels) if np.isfinite(at[j, 0])]
        for j in crossed or [None]:
            first, second = (a, b) if j is None or toward[j, 0] < 0 else (b, a)
            level = float("nan") if j is None else float(at[j, 0])
            drawn = np.isfinite(drawn_at) & (True if j is None else drawn_toward == toward[j, 0])
            share = float(drawn.any(axis=0).mean()) if n_patients > 1 else float("nan")
            interval = _fieller(scores.levels, difference, squares, number, level) if squares else _Interval()
            where = {"dataset": scores.dataset, "perturbation": scores.perturbation}
            pair = {"first": scores.names[first], "second": scores.names[second], "level": level}
            found.append({**where, **pair, **interval._asdict(), "share": share, "n_patients": n_patients})
    return found


def _mean_squares(scores: Scores, pairs: Sequence[tuple[int, int]]) -> Contrast | None:
    """Contrast every pair at each level and in the middle of each two, (pairs, 2 levels - 1).

    That is enough to know the variance everywhere, for between levels each mean square is quadratic. None where some
    level has a single patient.
    """
    by_line, fewest = without_gaps(scores.by_line)
    if fewest < 2:
        return None
    n_lines, n_levels, n_patients = by_line.shape
    columns = np.empty((n_lines, n_patients, 2 * n_levels - 1))
    columns[:, :, ::2] = by_line.swapaxes(1, 2)
    columns[:, :, 1::2] = (columns[:, :, :-1:2] + columns[:, :, 2::2]) / 2
    names = np.eye(len(scores.names))
    weights = np.stack([names[a] - names[b] for a, b in pairs])
    return contrast(columns, scores.owner, weights)._replace(n_patients=fewest)


def _fieller(
    levels: NDArray[np.float64], difference: NDArray[np.float64], squares: Contrast, pair: int, crossing: float
) -> _Interval:
    """Find the levels at which a pair's difference is less than t standard errors from 0, around the crossing.

    Args:
        levels: (levels,), ascending.
        difference: (levels,), of the means.
        squares: what `_mean_squares` returns.
        pair: its row there.
        crossing: the level where the means cross; NaN takes all such levels together.
    """
    at = np.unique([*levels, *np.concatenate([np.linspace(*ends, _STEPS + 1) for ends in pairwise(levels)])])
    if np.isfinite(crossing):
        at = np.union1d(at, crossing)
    segment = np.minimum(np.searchsorted(levels, at, side="right") - 1, len(levels) - 2)
    share = (at - levels[segment]) / (levels[segment + 1] - levels[segment])
    quadratic = np.stack([(1 - share) * (1 - 2 * share), 4 * share * (1 - share), share * (2 * share - 1)])
    here = squares._replace(
        value=np.interp(at, levels, difference),
        **{
            part: np.maximum((quadratic * getattr(squares, part)[pair, 2 * segment + np.arange(3)[:, None]]).sum(0), 0)
            for part in ("patients", "trainings", "rest")
        },
    )
    reach = stdtrit(here.freedom, (1 + CONFIDENCE) / 2) * np.sqrt(here.reml_variance)
    inside = np.where(here.reml_variance > 0, reach, 0.0) - np.abs(here.value)
    possible = np.flatnonzero(inside >= -_EQUAL)
    if not len(possible):
        return _Interval()
    if np.isfinite(crossing):
        runs = np.split(possible, np.flatnonzero(np.diff(possible) > 1) + 1)
        centre = int(np.argmin(np.abs(at - crossing)))
        possible = next((run for run in runs if run[0] <= centre <= run[-1]), possible)
    first, last = int(possible[0]), int(possible[-1])
    ends = ("below" if first == 0 else "", "above" if last == len(at) - 1 else "")
    low = at[0] if ends[0] else _between(at, inside, first, first - 1)
    high = at[-1] if ends[1] else _between(at, inside, last, last + 1)
    return _Interval(float(low), float(high), "both" if all(ends) else "".join(ends))


def _between(at: NDArray[np.float64], inside: NDArray[np.float64], within: int, beyond: int) -> float:
    """The place where `inside` falls to 0, linear between two levels."""
    left, right = max(inside[within], 0.0), inside[beyond]
    return float(at[within] + (at[beyond] - at[within]) * left / (left - right))


def _sign_changes(
    levels: NDArray[np.float64], difference: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each column changes its sign between one non-zero value and the next.

    Args:
        levels: (levels,), ascending.
        difference: (levels, columns); NaN is passed over.

    Returns:
        at, toward: (levels, columns) each. at[j] is the place of the change whose second value is at level j, else
        NaN; toward[j] the sign after it.
    """
    at = np.full(difference.shape, np.nan)
    sign = np.where(np.abs(difference) > _EQUAL, np.sign(difference), 0.0)
    sign[np.isnan(difference)] = np.nan
    columns = np.arange(difference.shape[1])
    last = np.zeros(difference.shape[1], dtype=int)  # the last level with a difference
    first_equal = np.full(difference.shape[1], np.nan)  # where they began to run together since
    last_equal = np.full(difference.shape[1], np.nan)
    for j, level in enumerate(levels):
        before = np.where(np.isnan(sign[last, columns]), 0.0, sign[last, columns])
        changed = before * np.nan_to_num(sign[j]) < 0
        with np.errstate(invalid="ignore", divide="ignore"):
            old, new = difference[last, columns], difference[j]
            straight = levels[last] + (level - levels[last]) * old / (old - new)
        together = (first_equal + last_equal) / 2
        at[j] = np.where(changed, np.where(np.isnan(together), straight, together), np.nan)
        equal = sign[j] == 0
        first_equal = np.where(equal & np.isnan(first_equal), level, first_equal)
        last_equal = np.where(equal, level, last_equal)
        apart = np.abs(np.nan_to_num(sign[j])) > 0
        first_equal[apart] = last_equal[apart] = np.nan
        last[apart] = j
    return at, sign
