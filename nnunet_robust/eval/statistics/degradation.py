"""One number for papers: the mean degradation over perturbations relative to clean, with its weights and interval.

With C the mean score of an architecture on clean images and P the mean under the perturbations that count, it is

    degradation = (C - P) / C        for scores of which a higher one is better; (P - C) / C for distances.

P averages the levels of a perturbation, then the perturbations, then patients, then trained models, all with equal
weights. Patients' losses are divided by the architecture's mean on clean images, not by their own score there: a
patient whom an architecture misses on clean images has nothing to lose, and one whom it nearly misses would outweigh
all others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.statistics.bootstrap import CONFIDENCE, N_RESAMPLES, resampled_means
from nnunet_robust.eval.statistics.contrasts import Array, Contrast, contrast
from nnunet_robust.eval.statistics.tables import CLEAN, COMPARABLE, Scores, direction, patient_scores

_NOTHING = 1e-20  # a variance below this is that of rounding
_DOUBLINGS = 60  # of the step by which an interval's end is looked for
_COLUMNS = [
    "dataset", "line", "clean", "degradation", "degradation_low", "degradation_high", "share_least", "baseline",
    "ratio", "ratio_low", "ratio_high", "n_perturbations", "n_patients", "n_trained",
]  # fmt: skip


@dataclass(frozen=True)
class Weight:
    """What a perturbation counts in the mean degradation.

    Attributes:
        dataset: its name.
        perturbation: its name.
        levels: those that it is averaged over, rising, without 0.
        weight: of the perturbation; those of a dataset sum to 1.
    """

    dataset: str
    perturbation: str
    levels: tuple[float, ...]
    weight: float

    @property
    def of_level(self) -> float:
        """The weight of each of the levels."""
        return self.weight / len(self.levels)


def weights(rows: pd.DataFrame, preset_perturbations: Mapping[str, Collection[str]]) -> list[Weight]:
    """List what each perturbation counts: perturbations alike, and the levels of each alike.

    Args:
        rows: what `comparable` returns.
        preset_perturbations: dataset -> the perturbations that count. Clean images and series never do, nor do
            perturbations of which no level can be compared.

    Returns:
        One for each dataset and perturbation, in the order of the rows.
    """
    counted = _counted(rows, preset_perturbations)
    counted = counted[counted["level"] > 0]
    found = []
    for dataset, of_dataset in counted.groupby("dataset", sort=False):
        share = 1 / of_dataset["perturbation"].nunique()
        for name, part in of_dataset.groupby("perturbation", sort=False):
            levels = tuple(sorted(map(float, part["level"].unique())))
            found.append(Weight(str(dataset), str(name), levels, share))
    return found


def degradation(
    rows: pd.DataFrame,
    preset_perturbations: Mapping[str, Collection[str]],
    metric: str = "dice",
    baseline: str | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute the mean degradation of each architecture relative to its clean images; the module says how.

    Patients and trained models count that have a score under every perturbation that counts. An architecture without
    such a trained model has no row; nor has one whose mean on clean images is 0, for it has nothing to lose.

    Args:
        rows: what `comparable` returns.
        preset_perturbations: dataset -> the perturbations that count, see `weights`.
        metric: a key of `COMPARABLE`. Distances may be 0 on clean images: the number is meant for shares, as Dice.
        baseline: the architecture that the others are divided by; by default the first of each dataset.
        n_resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Returns:
        Columns dataset, line (the architecture), and

        - clean: its mean score on clean images, in the metric's unit;
        - degradation, degradation_low, degradation_high: the share of clean that is lost (0.1 is 10 %; negative where
          perturbed images score better), with its 95 % t interval: `contrasts.contrast` of the linearised ratio, over
          patients, and over trainings where any architecture was trained repeatedly. With one training each it is about
          these trained models. The upper end is at most 1 where a higher score is better. Missing with one patient,
          and where nothing varies;
        - share_least: share of bootstraps in which its degradation is the least (of several least ones each gets its
          part). Patients are resampled, for all architectures alike, and within each architecture its trained models.
          Missing with one patient or one architecture;
        - baseline, ratio, ratio_low, ratio_high: the degradation divided by the baseline's, and its Fieller interval:
          all ratios r at which degradation - r * (the baseline's) has an interval that holds 0. Missing where the
          baseline's own interval reaches down to 0: divided by a loss that may be none, a ratio may be anything. Of the
          baseline itself 1, without an interval;
        - n_perturbations, n_patients, n_trained.

    Raises:
        UserError: an unknown metric.

    References: Fieller 1954, "Some problems in interval estimation"; Boone et al. 2023 (ROOD-MRI) and Hendrycks &
    Dietterich 2019 have related numbers: `docs/statistics.md` says what differs.

    Example:
        >>> import pandas as pd
        >>> same = {"dataset": "D", "perturbation": "blur", "label": "organ", "outcome": "ok"}
        >>> def row(name: str, patient: str, level: float, dice: float) -> dict:
        ...     return {**same, "architecture": name, "line": name, "patient": patient, "case": patient, "level": level,
        ...             "dice": dice}
        >>> dice = {"plain": {0.0: 0.9, 1.0: 0.8, 2.0: 0.64}, "no skip": {0.0: 0.8, 1.0: 0.76, 2.0: 0.76}}
        >>> rows = pd.DataFrame([row(a, p, x, y) for a, curve in dice.items() for p in "ab" for x, y in curve.items()])
        >>> degradation(rows, {"D": ["blur"]})[["line", "degradation", "ratio"]].round(3).values.tolist()
        [['plain', 0.2, 1.0], ['no skip', 0.05, 0.25]]
    """
    found = []
    parts = patient_scores(_counted(rows, preset_perturbations), metric)
    parts = [scores for scores in parts if len(scores.levels) > 1]
    for dataset in dict.fromkeys(scores.dataset for scores in parts):
        losses = _losses([scores for scores in parts if scores.dataset == dataset], direction(metric))
        if losses is not None:
            found += [{"dataset": dataset, **row} for row in losses.rows(metric, baseline, n_resamples, seed)]
    return pd.DataFrame(found, columns=_COLUMNS)


def as_record(
    table: pd.DataFrame, of_weights: Sequence[Weight], presets: Mapping[str, str | None], metric: str = "dice"
) -> list[dict[str, Any]]:
    """Make plain dicts of the number and of its weights, as JSON takes them.

    Args:
        table: what `degradation` returns.
        of_weights: what `weights` returns.
        presets: dataset -> the preset whose perturbations count; None for all of the sweep.
        metric: that was averaged.

    Returns:
        For each dataset `dataset, metric, preset, baseline, confidence, weights, architectures`. A weight has
        `perturbation, levels, weight, weight_of_level`, an architecture `architecture` and the further columns of the
        table. What is missing is None.
    """
    found = []
    for dataset, part in table.groupby("dataset", sort=False):
        architectures = part.drop(columns=["dataset", "baseline"]).rename(columns={"line": "architecture"})
        found.append(
            {
                "dataset": str(dataset),
                "metric": metric,
                "preset": presets.get(str(dataset)),
                "baseline": part["baseline"].iloc[0],
                "confidence": CONFIDENCE,
                "weights": [
                    {
                        "perturbation": one.perturbation,
                        "levels": list(one.levels),
                        "weight": one.weight,
                        "weight_of_level": one.of_level,
                    }
                    for one in of_weights
                    if one.dataset == dataset
                ],
                "architectures": [
                    {str(key): None if pd.isna(value) else value for key, value in row.items()}
                    for row in architectures.to_dict("records")
                ],
            }
        )
    return found


def _counted(rows: pd.DataFrame, preset_perturbations: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """The rows, clean images included, of the perturbations that count."""
    among = pd.Series(False, index=rows.index)
    for dataset, names in preset_perturbations.items():
        among |= (rows["dataset"] == dataset) & rows["perturbation"].isin(list(names))
    in_series = rows["series"].astype(bool) if "series" in rows else pd.Series(False, index=rows.index)
    return rows[among & (rows["perturbation"] != CLEAN) & ~in_series]


def _losses(parts: Sequence[Scores], sign: float) -> _Losses | None:
    """The means over perturbations, of the trained models and patients under all of them; None without any."""
    lines = [line for line in parts[0].lines if all(line in part.lines for part in parts)]
    patients = sorted(set.intersection(*(set(part.patients) for part in parts)))
    if not lines or not patients:
        return None
    clean, perturbed = np.zeros((2, len(lines), len(patients)))
    for part in parts:
        of_lines = part.by_line[[part.lines.index(line) for line in lines]]
        of_both = of_lines[:, :, [part.patients.index(patient) for patient in patients]]
        clean += of_both[:, 0] / len(parts)
        perturbed += of_both[:, 1:].mean(axis=1) / len(parts)
    owners = [parts[0].names[parts[0].owner[parts[0].lines.index(line)]] for line in lines]
    names = [
        name for name in dict.fromkeys(owners) if clean[[owner == name for owner in owners]].mean() > 0
    ]  # the others have nothing to lose
    kept = [owner in names for owner in owners]
    if not names:
        return None
    owner = np.array([names.index(name) for name in owners if name in names], dtype=np.intp)
    return _Losses(names, owner, clean[kept], sign * (clean[kept] - perturbed[kept]), len(parts))


@dataclass(frozen=True)
class _Losses:
    """What is lost in a dataset.

    Attributes:
        names: architectures.
        owner: (lines,), the index of each trained model's architecture.
        clean: (lines, patients), scores on clean images.
        lost: (lines, patients), clean less perturbed; positive is worse.
        n_perturbations: that count.
    """

    names: list[str]
    owner: NDArray[np.intp]
    clean: Array
    lost: Array
    n_perturbations: int

    @property
    def shares(self) -> Array:
        """(names,): the degradation."""
        return self._of_names(self.lost) / self._of_names(self.clean)

    def _of_names(self, values: Array) -> Array:
        return np.array([values[self.owner == i].mean() for i in range(len(self.names))])

    def linearised(self) -> Array:
        """(lines, patients, 1): what averages to the degradation, and varies as it does to the first order."""
        share, clean = self.shares[self.owner, None], self._of_names(self.clean)[self.owner, None]
        return np.asarray((share + (self.lost - share * self.clean) / clean)[:, :, None])

    def rows(self, metric: str, baseline: str | None, n_resamples: int, seed: int) -> Iterator[dict[str, Any]]:
        """The rows of the table, without the dataset."""
        n_names, n_patients = len(self.names), self.clean.shape[1]
        low, high, share_least = np.full((3, n_names), np.nan)
        if n_patients > 1:
            low, high = _ends(contrast(self.linearised(), self.owner, np.eye(n_names)))
            if COMPARABLE[metric].better == "higher":
                high = np.minimum(high, 1.0)
        if n_patients > 1 and n_names > 1:
            share_least = self._least(n_resamples, seed)
        baseline = self.names[0] if baseline is None else baseline
        clean = self._of_names(self.clean)
        for i, name in enumerate(self.names):
            ratio, ratio_low, ratio_high = self._ratio(i, baseline, low)
            yield {
                "line": name, "clean": float(clean[i]), "degradation": float(self.shares[i]),
                "degradation_low": float(low[i]), "degradation_high": float(high[i]),
                "share_least": float(share_least[i]), "baseline": baseline, "ratio": ratio, "ratio_low": ratio_low,
                "ratio_high": ratio_high, "n_perturbations": self.n_perturbations, "n_patients": n_patients,
                "n_trained": int((self.owner == i).sum()),
            }  # fmt: skip

    def _least(self, n_resamples: int, seed: int) -> Array:
        """(names,): the share of bootstraps in which each has the least degradation."""
        n_lines = len(self.owner)
        means = resampled_means(np.concatenate([self.clean, self.lost]).T, n_resamples, seed)
        drawn = np.empty((len(self.names), n_resamples))
        for i in range(len(self.names)):
            of_name = np.flatnonzero(self.owner == i)
            k = len(of_name)
            if k > 1:
                chosen = numpy_generator(seed, "trainings", i).integers(0, k, (n_resamples, k))
                counts = (chosen[:, :, None] == np.arange(k)).sum(axis=1).T
            else:
                counts = np.ones((1, n_resamples))
            clean, lost = ((counts * means[of_name + start]).sum(axis=0) for start in (0, n_lines))
            with np.errstate(invalid="ignore", divide="ignore"):
                drawn[i] = np.where(clean > 0, lost / clean, np.inf)
        rounded = np.round(drawn, 12)
        least = rounded == rounded.min(axis=0)
        return np.asarray((least / least.sum(axis=0)).mean(axis=1))

    def _ratio(self, of: int, baseline: str, low: Array) -> tuple[float, float, float]:
        """The ratio to the baseline's degradation, and the ends of its interval."""
        missing = float("nan")
        if baseline not in self.names:
            return missing, missing, missing
        base = self.names.index(baseline)
        bottom = self.shares[base]
        if not bottom > 0 or low[base] <= 0:
            return missing, missing, missing
        ratio = float(self.shares[of] / bottom)
        if of == base or np.isnan(low[base]) or np.isnan(low[of]):
            return ratio, missing, missing
        return ratio, self._fieller(of, base, ratio, -1.0), self._fieller(of, base, ratio, 1.0)

    def _fieller(self, of: int, base: int, ratio: float, toward: float) -> float:
        """The end of the ratio's interval on one side, where the interval of the difference begins to hold 0."""
        linearised, row = self.linearised(), np.zeros((1, len(self.names)))
        row[0, of] = 1.0

        def outside(r: float) -> float:
            row[0, base] = -r
            found = contrast(linearised, self.owner, row)
            return float(np.abs(found.value[0, 0]) - _reach(found)[0, 0])

        if outside(ratio) >= 0:  # nothing varies in the difference
            return float("nan")
        step = 0.1
        for _ in range(_DOUBLINGS):
            if outside(ratio + toward * step) > 0:
                return float(optimize.brentq(outside, ratio, ratio + toward * step, xtol=1e-8))
            step *= 2
        return float("nan")


def _reach(found: Contrast) -> Array:
    """Half the width of the 95 % t intervals, 0 where nothing varies."""
    varies = found.variance > _NOTHING
    freedom = np.where(varies, found.freedom, 1.0)
    return np.asarray(np.where(varies, stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(found.variance), 0.0))


def _ends(found: Contrast) -> tuple[Array, Array]:
    """(sums,) each: the ends of the intervals of a single column, missing where nothing varies."""
    reach = _reach(found)[:, 0]
    reach = np.where(reach > 0, reach, np.nan)
    return found.value[:, 0] - reach, found.value[:, 0] + reach
