"""Were the promises of a calibration kept? What bounds and intervals cost under every condition, from `bounds.csv`.

A loss is averaged over a patient's images, then over an architecture's trained models, then over patients: what a
promise is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_robust.eval.report.read import Sweep
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.results.manifest import CalibrationEntry
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import bca_intervals
from nnunet_robust.pages.wording import percent, with_interval

KINDS = {
    "outer_threshold": "object outside of the outer mask (threshold)",
    "inner_threshold": "inner mask that is not object (threshold)",
    "outer_margin_mm": "object outside of the outer mask (margin)",
    "inner_margin_mm": "inner mask that is not object (margin)",
}
"""Column of bounds.csv -> the share that is lost."""

OUTER = ("outer_threshold", "outer_margin_mm")
"""Of these, only patients count whose images have the object."""

INTERVAL = "interval"
PROMISES = {**KINDS, INTERVAL: "cases whose Dice lies in its interval"}
_SHORT = {
    "outer_threshold": "the outer threshold",
    "inner_threshold": "the inner threshold",
    "outer_margin_mm": "the outer margin",
    "inner_margin_mm": "the inner margin",
    INTERVAL: "the interval of the Dice",
}
KEPT, BROKEN, OPEN, UNKNOWN = "kept", "broken", "not settled", "one patient"
_PLACE = ["dataset", "perturbation", "level", "architecture", "label"]
_COLUMNS = [
    "dataset", "perturbation", "level", "line", "label", "promise", "promised", "mean", "low", "high", "verdict",
    "n_cases", "n_patients", "n_trained",
]  # fmt: skip
_BREAKS = [
    "dataset", "perturbation", "line", "label", "promise", "promised", "level", "mean", "low", "high", "highest",
    "n_patients",
]  # fmt: skip


def observed(sweeps: Sequence[Sweep]) -> pd.DataFrame:
    """What each promise came to under each condition.

    Returns:
        A row per condition, architecture, structure and promise. Columns dataset, perturbation, level, line (the
        architecture), label, promise (a key of `PROMISES`), promised (the largest mean loss; of intervals the least
        share of cases), mean, low, high (95 % interval over patients: BCa; of the share of cases Clopper & Pearson's),
        verdict, n_cases (images), n_patients, n_trained. See `verdict`. A kind that no setting could be promised of
        has no row.
    """
    found = [_of_sweep(sweep) for sweep in sweeps if sweep.bounds is not None and len(sweep.bounds)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=_COLUMNS)


def _of_sweep(sweep: Sweep) -> pd.DataFrame:
    assert sweep.bounds is not None
    table = sweep.bounds.assign(**{INTERVAL: _inside(sweep.bounds)})
    rates = _rates(sweep)
    found: list[dict[str, Any]] = []
    for promise in PROMISES:
        promised = table["line"].map({line: rate[promise] for line, rate in rates.items()})
        part = table.assign(promised=promised).dropna(subset=[promise, "promised"])
        keys = [*_PLACE, "promised"]
        by_line = part.groupby([*keys, "line", "patient"], sort=False)[promise].mean().reset_index()
        n_cases = part.groupby(keys)["case"].nunique()
        n_trained = part.groupby(keys)["line"].nunique()
        by_patient = by_line.groupby([*keys, "patient"], sort=False)[promise].mean().unstack()
        if by_patient.empty:
            continue
        scores = by_patient.to_numpy(float).T
        low, high = _exact_intervals(scores) if promise == INTERVAL else bca_intervals(scores)
        for at, (place, values) in enumerate(by_patient.iterrows()):
            dataset, perturbation, level, line, label, rate = place
            ends = float(low[at]), float(high[at])
            found.append(
                {
                    **{"dataset": dataset, "perturbation": perturbation, "level": level, "line": line, "label": label},
                    **{"promise": promise, "promised": rate, "mean": float(values.mean())},
                    **{"low": ends[0], "high": ends[1]},
                    "verdict": verdict(promise, rate, float(values.mean()), *ends, int(values.count())),
                    **{"n_cases": n_cases[place], "n_patients": int(values.count()), "n_trained": n_trained[place]},
                }
            )
    order = {name: at for at, name in enumerate(dict.fromkeys(sweep.rows["architecture"]))}
    perturbations = {name: at for at, name in enumerate(dict.fromkeys(sweep.rows["perturbation"]))}
    made = pd.DataFrame(found, columns=_COLUMNS)
    ranks = made.assign(
        a=made["perturbation"].map(perturbations),
        b=made["line"].map(order),
        c=made["promise"].map(list(PROMISES).index),
    )
    ordered = ranks.sort_values(["dataset", "a", "level", "label", "b", "c"], kind="stable", ignore_index=True)
    return ordered[_COLUMNS]


def _inside(bounds: pd.DataFrame) -> pd.Series:
    inside = bounds["dice"].between(bounds["dice_low"], bounds["dice_high"]).astype(float)
    return inside.where(bounds["dice_low"].notna())


def _rates(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Trained model -> promise -> what was promised; without the architectures that `_at_odds` names."""
    architecture = sweep.results.drop_duplicates("line").set_index("line")["architecture"]
    found = {}
    for line, made in calibrations(sweep).items():
        if architecture[line] not in _at_odds(sweep):
            alpha = float(made.alpha)
            found[line] = {**dict.fromkeys(KINDS, alpha), INTERVAL: 1 - float(made.interval_alpha)}
    return found


def _at_odds(sweep: Sweep) -> list[str]:
    """The architectures whose trained models were promised different things, of which there is no mean."""
    architecture = sweep.results.drop_duplicates("line").set_index("line")["architecture"]
    promised: dict[str, set[tuple[Any, ...]]] = {}
    for line, made in calibrations(sweep).items():
        names = ("alpha", "delta", "interval_alpha", "condition")
        promised.setdefault(str(architecture[line]), set()).add(tuple(getattr(made, name) for name in names))
    return [name for name, several in promised.items() if len(several) > 1]


def left_out(sweeps: Sequence[Sweep]) -> list[str]:
    """A sentence for each architecture whose promises are not shown."""
    return [
        f"{', '.join(sweep.datasets)}, bounds: {name} is left out, for its trained models were calibrated for "
        "different promises: calibrate them alike."
        for sweep in sweeps
        if sweep.bounds is not None
        for name in _at_odds(sweep)
    ]


def calibrations(sweep: Sweep) -> dict[str, CalibrationEntry]:
    """Trained model -> what the manifest says of its calibration; those without one left out."""
    arms = sweep.results.drop_duplicates("line").to_dict("records")
    models = sweep.manifest.models
    found = {str(arm["line"]): models.get(arm_key(**{name: arm[name] for name in ARM})) for arm in arms}
    return {line: entry.calibration for line, entry in found.items() if entry and entry.calibration}


def _exact_intervals(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clopper & Pearson's 95 % interval of each column's mean of shares, (patients, columns), NaN for who lacks it.

    Of shares strictly between 0 and 1 (several cases of a patient), whose mean varies less, it is a wide one.
    """
    n, held = np.isfinite(scores).sum(axis=0), np.nansum(scores, axis=0)
    low = np.where(held > 0, stats.beta.ppf(0.025, np.maximum(held, 1e-9), n - held + 1), 0.0)
    high = np.where(held < n, stats.beta.ppf(0.975, held + 1, np.maximum(n - held, 1e-9)), 1.0)
    return np.where(n > 1, low, np.nan), np.where(n > 1, high, np.nan)


def verdict(promise: str, promised: float, mean: float, low: float, high: float, n_patients: int) -> str:
    """Whether a promise was kept, as far as some patients can say.

    Returns:
        `BROKEN` where the whole interval is on the wrong side of what was promised, `KEPT` where none of it is, else
        `OPEN`; `UNKNOWN` of a single patient. Losses may be rare and large, which the bootstrap of few patients does
        not see. So `KEPT` takes as many patients as show it where nobody loses anything, (1 - alpha)^n <= 0.025, and
        `BROKEN` has to hold with one patient more who loses nothing.
    """
    if np.isnan(low):
        return UNKNOWN
    rounding = 1e-9
    if promise == INTERVAL:
        return BROKEN if high < promised - rounding else KEPT if low >= promised - rounding else OPEN
    if min(low, n_patients * mean / (n_patients + 1)) > promised + rounding:
        return BROKEN
    enough = (1 - promised) ** n_patients <= 0.025
    return KEPT if enough and high <= promised + rounding else OPEN


def first_breaks(table: pd.DataFrame) -> pd.DataFrame:
    """Where each promise is first broken along each perturbation.

    Args:
        table: what `observed` returns.

    Returns:
        Columns dataset, perturbation, line, label, promise, promised, level (the lowest at which it is broken; NaN:
        none), mean, low, high (there), highest (the highest level looked at), n_patients (there; of a promise that
        is never broken the fewest at any level).
    """
    keys = ["dataset", "perturbation", "line", "label", "promise", "promised"]
    found = []
    for place, part in table.groupby(keys, sort=False):
        broken = part[part["verdict"] == BROKEN].sort_values("level")
        at = broken.iloc[0].to_dict() if len(broken) else {}
        row = {**dict(zip(keys, place, strict=True)), "highest": part["level"].max()}
        numbers = {name: at.get(name, np.nan) for name in ("level", "mean", "low", "high")}
        found.append({**row, **numbers, "n_patients": at.get("n_patients", part["n_patients"].min())})
    return pd.DataFrame(found, columns=_BREAKS)


def sentences(breaks: pd.DataFrame, several_datasets: bool, names: DisplayNames) -> Iterator[str]:
    """Where promises are first broken, a sentence for each perturbation, architecture and structure.

    Args:
        breaks: what `first_breaks` returns, without the clean images by themselves.
        several_datasets: whether a sentence has to begin with the dataset.
        names: of perturbations.
    """
    several_labels = breaks["label"].nunique() > 1
    for (dataset, name, line, label), part in breaks.groupby(["dataset", "perturbation", "line", "label"], sort=False):
        who = f"{dataset}, " * several_datasets + f"{names[str(name)]}, {line}" + f", {label}" * several_labels
        broken = part[part["level"].notna()].sort_values("level", kind="stable")
        rest = [_SHORT[promise] for promise in part.loc[part["level"].isna(), "promise"]]
        said = []
        for level, at in broken.groupby("level"):
            what = [
                f"{_SHORT[row['promise']]} ({with_interval(row['mean'], row['low'], row['high'])})"
                for row in at.to_dict("records")
            ]
            said.append(f"at level {level:g}: {', '.join(what)}")
        highest = part["highest"].max()
        if not said:
            yield f"{who}: no promise is shown to be broken up to level {highest:g}."
            continue
        more = f"; not shown to be broken up to level {highest:g}: {', '.join(rest)}" if rest else ""
        yield f"{who}: first broken {'; '.join(said)}{more}."


def share(promised: float, promise: str) -> str:
    """A promise as it stands beside its line in a figure: "promised: at most 10 %"."""
    return f"promised: at {'least' if promise == INTERVAL else 'most'} {percent(promised, 0)}"
