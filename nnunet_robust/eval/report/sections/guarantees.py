"""Do the guarantees of a calibration hold? What bounds and intervals cost under every condition, from `bounds.csv`.

A loss is averaged over a patient's images, then over an architecture's trained models, then over patients: what a
guarantee is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_robust.eval.report.shared import columns
from nnunet_robust.eval.report.shared.analysis import Analysis, shared
from nnunet_robust.eval.report.shared.figures import ReportFigure, over_level
from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.report.shared.section import Section, TableSpecification
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.results.manifest import CalibrationEntry
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import CLEAN, bca_intervals
from nnunet_robust.pages.plots import LineStyle
from nnunet_robust.pages.tables import Column
from nnunet_robust.pages.wording import percent, with_interval

_GROUP = "bounds"
HOLDS, BROKEN, OPEN, UNKNOWN = "holds", "broken", "not settled", "one patient"


class Guarantee(NamedTuple):
    """What a calibration guarantees of the images of a patient.

    Attributes:
        share: what it bounds the mean share of.
        axis: the label of the axis of its figures.
        heading: the heading of its column.
        name: in the heading of its verdict.
        words: in sentences.
    """

    share: str
    axis: str
    heading: str
    name: str
    words: str


_MISSED, _WRONG = "mean share of the object missed", "mean share of the mask that is wrong"
INTERVAL = "interval"
GUARANTEES = {
    "outer_threshold": Guarantee(
        "object outside of the outer mask (threshold)", _MISSED, "missed by the outer threshold", "outer threshold",
        "the outer threshold",
    ),
    "inner_threshold": Guarantee(
        "inner mask that is not object (threshold)", _WRONG, "wrong in the inner threshold", "inner threshold",
        "the inner threshold",
    ),
    "outer_margin_mm": Guarantee(
        "object outside of the outer mask (margin)", _MISSED, "missed by the outer margin", "outer margin",
        "the outer margin",
    ),
    "inner_margin_mm": Guarantee(
        "inner mask that is not object (margin)", _WRONG, "wrong in the inner margin", "inner margin",
        "the inner margin",
    ),
    INTERVAL: Guarantee(
        "cases whose Dice lies in its interval", "share of cases in their interval", "Dice in its interval", "interval",
        "the interval of the Dice",
    ),
}  # fmt: skip
"""Column of bounds.csv (of a loss), or `INTERVAL` -> what it is."""

OUTER = ("outer_threshold", "outer_margin_mm")
"""The losses that are counted only of patients whose images have the object."""

_PLACE = ["dataset", "perturbation", "level", "architecture", "label"]
_COLUMNS = [
    "dataset", "perturbation", "level", "line", "label", "guarantee", "guaranteed", "mean", "low", "high", "verdict",
    "n_cases", "n_patients", "n_trained",
]  # fmt: skip
_BREAKS = [
    "dataset", "perturbation", "line", "label", "guarantee", "guaranteed", "level", "mean", "low", "high", "highest",
    "n_patients",
]  # fmt: skip


@shared
def guarantees(analysis: Analysis) -> pd.DataFrame:
    """What each guarantee came to under each condition.

    Returns:
        A row per condition, architecture, structure and guarantee. Columns dataset, perturbation, level, line (the
        architecture), label, guarantee (a key of `GUARANTEES`), guaranteed (the largest mean loss; of intervals the
        least share of cases), mean, low, high (95 % interval over patients: BCa; of the share of cases Clopper &
        Pearson's), verdict (see `verdict`), n_cases (images), n_patients, n_trained. A guarantee that no setting gives
        has no row.
    """
    found = [_of_sweep(sweep) for sweep in analysis.sweeps if sweep.bounds is not None and len(sweep.bounds)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=_COLUMNS)


def _of_sweep(sweep: Sweep) -> pd.DataFrame:
    assert sweep.bounds is not None
    table = sweep.bounds.assign(**{INTERVAL: _inside(sweep.bounds)})
    rates = _rates(sweep)
    found: list[dict[str, Any]] = []
    for guarantee in GUARANTEES:
        guaranteed = table["line"].map({line: rate[guarantee] for line, rate in rates.items()})
        part = table.assign(guaranteed=guaranteed).dropna(subset=[guarantee, "guaranteed"])
        keys = [*_PLACE, "guaranteed"]
        by_line = part.groupby([*keys, "line", "patient"], sort=False)[guarantee].mean().reset_index()
        n_cases = part.groupby(keys)["case"].nunique()
        n_trained = part.groupby(keys)["line"].nunique()
        by_patient = by_line.groupby([*keys, "patient"], sort=False)[guarantee].mean().unstack()
        if by_patient.empty:
            continue
        scores = by_patient.to_numpy(float).T
        low, high = _exact_intervals(scores) if guarantee == INTERVAL else bca_intervals(scores)
        for at, (place, values) in enumerate(by_patient.iterrows()):
            dataset, perturbation, level, line, label, rate = place
            ends = float(low[at]), float(high[at])
            found.append(
                {
                    **{"dataset": dataset, "perturbation": perturbation, "level": level, "line": line, "label": label},
                    **{"guarantee": guarantee, "guaranteed": rate, "mean": float(values.mean())},
                    **{"low": ends[0], "high": ends[1]},
                    "verdict": verdict(guarantee, rate, float(values.mean()), *ends, int(values.count())),
                    **{"n_cases": n_cases[place], "n_patients": int(values.count()), "n_trained": n_trained[place]},
                }
            )
    order = {name: at for at, name in enumerate(dict.fromkeys(sweep.rows["architecture"]))}
    perturbations = {name: at for at, name in enumerate(dict.fromkeys(sweep.rows["perturbation"]))}
    made = pd.DataFrame(found, columns=_COLUMNS)
    ranks = made.assign(
        a=made["perturbation"].map(perturbations),
        b=made["line"].map(order),
        c=made["guarantee"].map(list(GUARANTEES).index),
    )
    ordered = ranks.sort_values(["dataset", "a", "level", "label", "b", "c"], kind="stable", ignore_index=True)
    return ordered[_COLUMNS]


def _inside(bounds: pd.DataFrame) -> pd.Series:
    inside = bounds["dice"].between(bounds["dice_low"], bounds["dice_high"]).astype(float)
    return inside.where(bounds["dice_low"].notna())


def _rates(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Trained model -> guarantee -> what was guaranteed; without the architectures that `_at_odds` names."""
    architecture = sweep.results.drop_duplicates("line").set_index("line")["architecture"]
    found = {}
    for line, made in calibrations(sweep).items():
        if architecture[line] not in _at_odds(sweep):
            alpha = float(made.alpha)
            found[line] = {**dict.fromkeys(GUARANTEES, alpha), INTERVAL: 1 - float(made.interval_alpha)}
    return found


def _at_odds(sweep: Sweep) -> list[str]:
    """The architectures whose trained models were guaranteed different things, of which there is no mean."""
    architecture = sweep.results.drop_duplicates("line").set_index("line")["architecture"]
    guaranteed: dict[str, set[tuple[Any, ...]]] = {}
    for line, made in calibrations(sweep).items():
        names = ("alpha", "delta", "interval_alpha", "condition")
        guaranteed.setdefault(str(architecture[line]), set()).add(tuple(getattr(made, name) for name in names))
    return [name for name, several in guaranteed.items() if len(several) > 1]


def left_out(analysis: Analysis) -> list[str]:
    """A sentence for each architecture whose guarantees are not shown."""
    return [
        f"{', '.join(sweep.datasets)}, bounds: {name} is left out, for its trained models were calibrated for "
        "different guarantees: calibrate them alike."
        for sweep in analysis.sweeps
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


def verdict(guarantee: str, guaranteed: float, mean: float, low: float, high: float, n_patients: int) -> str:
    """Whether a guarantee holds, as far as some patients can say.

    Returns:
        `BROKEN` where the whole interval is on the wrong side of what was guaranteed, `HOLDS` where none of it is, else
        `OPEN`; `UNKNOWN` of a single patient. Losses may be rare and large, which the bootstrap of few patients does
        not see. So `HOLDS` takes as many patients as show it where nobody loses anything, (1 - alpha)^n <= 0.025, and
        `BROKEN` has to hold with one patient more who loses nothing.
    """
    if np.isnan(low):
        return UNKNOWN
    rounding = 1e-9
    if guarantee == INTERVAL:
        return BROKEN if high < guaranteed - rounding else HOLDS if low >= guaranteed - rounding else OPEN
    if min(low, n_patients * mean / (n_patients + 1)) > guaranteed + rounding:
        return BROKEN
    enough = (1 - guaranteed) ** n_patients <= 0.025
    return HOLDS if enough and high <= guaranteed + rounding else OPEN


@shared
def breaks(analysis: Analysis) -> pd.DataFrame:
    """Where each guarantee is first broken along each perturbation.

    Returns:
        Columns dataset, perturbation, line, label, guarantee, guaranteed, level (the lowest at which it is broken; NaN:
        none), mean, low, high (there), highest (the highest level looked at), n_patients (there; of a guarantee that
        is never broken the fewest at any level).
    """
    keys = ["dataset", "perturbation", "line", "label", "guarantee", "guaranteed"]
    table = guarantees(analysis)
    table = table[table["perturbation"] != CLEAN]
    found = []
    for place, part in table.groupby(keys, sort=False):
        broken = part[part["verdict"] == BROKEN].sort_values("level")
        at = broken.iloc[0].to_dict() if len(broken) else {}
        row = {**dict(zip(keys, place, strict=True)), "highest": part["level"].max()}
        numbers = {name: at.get(name, np.nan) for name in ("level", "mean", "low", "high")}
        found.append({**row, **numbers, "n_patients": at.get("n_patients", part["n_patients"].min())})
    return pd.DataFrame(found, columns=_BREAKS)


def sentences(
    table: pd.DataFrame, several_datasets: bool, names: DisplayNames, in_words: Callable[[str, str, float], str]
) -> Iterator[str]:
    """Where guarantees are first broken, a sentence for each perturbation, architecture and structure.

    Args:
        table: what `first_breaks` returns, without the clean images by themselves.
        several_datasets: whether a sentence has to begin with the dataset.
        names: of perturbations.
        in_words: what is said of a dataset's perturbation's level.
    """
    several_labels = table["label"].nunique() > 1
    for (dataset, name, line, label), part in table.groupby(["dataset", "perturbation", "line", "label"], sort=False):
        start, end = f"{dataset}, " if several_datasets else "", f", {label}" if several_labels else ""
        who = f"{start}{names[str(name)]}, {line}{end}"
        broken = part[part["level"].notna()].sort_values("level", kind="stable")
        rest = [GUARANTEES[key].words for key in part.loc[part["level"].isna(), "guarantee"]]
        said = []
        for level, at in broken.groupby("level"):
            what = [
                f"{GUARANTEES[row['guarantee']].words} ({with_interval(row['mean'], row['low'], row['high'])})"
                for row in at.to_dict("records")
            ]
            where = f"at level {in_words(str(dataset), str(name), level)}" if level else "on the clean images"
            said.append(f"{where}: {', '.join(what)}")
        highest = part["highest"].max()
        reach = f"up to level {in_words(str(dataset), str(name), highest)}" if highest else "on the clean images"
        if not said:
            yield f"{who}: no guarantee is shown to be broken {reach}."
            continue
        more = f"; not shown to be broken {reach}: {', '.join(rest)}" if rest else ""
        yield f"{who}: first broken {'; '.join(said)}{more}."


def share(guaranteed: float, guarantee: str) -> str:
    """A guarantee as it stands beside its line in a figure: "guaranteed: at most 10 %"."""
    return f"guaranteed: at {'least' if guarantee == INTERVAL else 'most'} {percent(guaranteed, 0)}"


def _sentences(analysis: Analysis) -> Iterator[str]:
    return sentences(breaks(analysis), len(analysis.datasets) > 1, analysis.names, analysis.levels_in_words)


def _guaranteed(analysis: Analysis) -> Iterator[str]:
    """What was guaranteed by each calibration."""
    for sweep in analysis.sweeps:
        where = f" on {', '.join(sweep.datasets)}" if len(analysis.datasets) > 1 else ""
        for line, made in calibrations(sweep).items():
            yield from (f"{line}{where}: {sentence}" for sentence in made.sentences)


def _uninformative(analysis: Analysis) -> Iterator[str]:
    """Which masks and intervals say nothing, so that their guarantees are kept for nothing."""
    for sweep in analysis.sweeps:
        where = f" on {', '.join(sweep.datasets)}" if len(analysis.datasets) > 1 else ""
        for line, made in calibrations(sweep).items():
            yield from (f"{line}{where}: {sentence}" for sentence in made.uninformative)


def _false_alarms(analysis: Analysis) -> Iterator[str]:
    for sweep in analysis.sweeps:
        where = f" on {', '.join(sweep.datasets)}" if len(analysis.datasets) > 1 else ""
        for line, made in calibrations(sweep).items():
            if made.false_alarms:
                yield f"{line}{where}: {made.false_alarms}"


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = guarantees(analysis)
    for name, guarantee in GUARANTEES.items():
        points = table[table["guarantee"] == name]
        if points.empty:
            continue
        rules = {share(float(value), name): float(value) for value in points["guaranteed"].unique()}
        drawn = points[["mean", "low", "high", "guaranteed"]].to_numpy(float)
        highest = 1.02 if name == INTERVAL else min(1.02, 1.08 * float(np.nanmax(drawn)))
        lowest = max(0.0, np.floor((float(np.nanmin(drawn)) - 0.02) * 10) / 10) if name == INTERVAL else 0.0
        several = points["label"].nunique() > 1
        what = f"Share of {guarantee.share}" if name == INTERVAL else f"Mean share of {guarantee.share}"
        for label, of_label in points.groupby("label", sort=False):
            group, limits, structure = f"{_GROUP}-{name}", (lowest, highest), str(label) if several else ""
            yield from over_level(analysis, of_label, group, what, guarantee.axis, styles, limits, rules, structure)


def _coverage(analysis: Analysis) -> pd.DataFrame:
    """A row per condition, architecture and structure, the guarantees beside each other."""
    table = analysis.clean_once(guarantees(analysis))
    keys = ["dataset", "perturbation", "level", "label", "line"]
    wide = table.drop_duplicates(keys)[keys].reset_index(drop=True)
    for name in GUARANTEES:
        part = table[table["guarantee"] == name]
        if part.empty:
            continue
        names = {"mean": name, "low": f"{name}_low", "high": f"{name}_high", "verdict": f"{name}_verdict"}
        wide = wide.merge(part.rename(columns=names)[[*keys, *names.values()]], on=keys, how="left")
        wide[f"{name}_verdict"] = wide[f"{name}_verdict"].fillna("–")
    of_all = table[~table["guarantee"].isin(OUTER)]
    sizes = (of_all if len(of_all) else table).groupby(keys)[["n_cases", "n_patients"]].max().reset_index()
    with_object = table[table["guarantee"].isin(OUTER)].groupby(keys)["n_patients"].max()
    sizes = sizes.merge(with_object.rename("n_with_object").reset_index(), on=keys, how="left")
    for name, part in (
        ("alpha", table[table["guarantee"] != INTERVAL]),
        ("share", table[table["guarantee"] == INTERVAL]),
    ):
        guaranteed = part.drop_duplicates(keys)[[*keys, "guaranteed"]].rename(columns={"guaranteed": name})
        wide = wide.merge(guaranteed, on=keys, how="left") if len(part) else wide
    return wide.merge(sizes, on=keys, how="left")


def _first_breaks(analysis: Analysis) -> pd.DataFrame:
    table = breaks(analysis)
    return table.assign(guarantee=table["guarantee"].map({name: each.share for name, each in GUARANTEES.items()}))


_TABLES = (
    TableSpecification(
        "breaks",
        "Where guarantees are first broken",
        "The lowest level at which the whole interval of what was observed is on the wrong side of what was "
        "guaranteed, and what was observed there; a dash where that is so at no level measured, which does not show "
        f"that the guarantee holds. {columns.INTERVALS}; levels are not adjusted for one another.",
        (
            columns.DATASET, columns.PERTURBATION, columns.ARCHITECTURE, Column("label", "structure"),
            Column("guarantee", "share of"), Column("guaranteed", "guaranteed", "score"),
            Column("level", "first broken at level", "level"), Column("mean", "observed there", "score", "low", "high"),
            Column("highest", "highest level", "level"), columns.PATIENTS,
        ),
        _first_breaks,
    ),
    TableSpecification(
        "coverage",
        "What bounds and intervals came to, under each condition",
        "Mean losses: the share of the object that lies outside of the outer mask (of images that have the object), "
        "and of the inner mask that is not object; the share of images whose Dice lies in its interval. Averaged over "
        f"a patient's images, then trained models, then patients. {columns.INTERVALS}. Beside each what it says of the "
        "guarantee: broken where the whole interval is on the wrong side of it, holds where none of it is, not settled "
        "else.",
        (
            *columns.CONDITION, Column("label", "structure"), columns.ARCHITECTURE,
            *(
                column
                for name, guarantee in GUARANTEES.items()
                for column in (
                    columns.mean_column(name, guarantee.heading),
                    Column(f"{name}_verdict", f"{guarantee.name}: guarantee"),
                )
            ),
            Column("alpha", "guaranteed: at most", "score"),
            Column("share", "guaranteed: Dice in its interval, at least", "score"), *columns.SAMPLE,
            Column("n_with_object", "with the object", "count"),
        ),
        _coverage,
    ),
)  # fmt: skip

SECTION = Section(
    name="guarantees",
    short="Guarantees",
    title="Guarantee coverage",
    text=(
        "What the masks and intervals of a calibration came to under each condition, against what was guaranteed "
        "(dashed). A guarantee is about images like those of the calibration: under another condition it is measured "
        "here whether it still holds, not guaranteed. It is called broken where the whole interval of the observed "
        "mean over patients is on the wrong side; that it is not shown to be broken does not show that it holds. A "
        "guarantee without a confidence is one on average over calibration sets, too: of a single one, the mean may "
        "lie a little on the wrong side by chance. What is called uninformative holds for nothing: an inner mask that "
        "is empty is never wrong, an outer one that is next to the whole image misses nothing. " + columns.BANDS + ".",
    ),
    figures=_figures,
    groups={f"{_GROUP}-{name}": f"share of {guarantee.share}" for name, guarantee in GUARANTEES.items()},
    folded=(f"{_GROUP}-inner_threshold", f"{_GROUP}-outer_margin_mm", f"{_GROUP}-inner_margin_mm"),
    tables=_TABLES,
    lists={
        "Guarantees that say nothing": _uninformative,
        "What was guaranteed": _guaranteed,
        "Alarms on the calibration's own cases": _false_alarms,
        "Where guarantees are first broken": _sentences,
    },
    left_out=left_out,
)
