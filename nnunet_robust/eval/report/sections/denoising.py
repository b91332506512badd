"""What denoising before the prediction gains and costs: each model with it, less the same model without, by patient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.columns import ARCHITECTURE, CONDITION, INTERVALS, SAMPLE, mean_column
from nnunet_robust.eval.report.shared.figures import ReportFigure, by_panel, over_level, sample_of
from nnunet_robust.eval.report.shared.pairs import CASE, columns, mean_points, paired_means
from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.report.shared.section import Section, TableSpecification
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import CLEAN, case_scores
from nnunet_robust.pages.plots import LineStyle
from nnunet_robust.pages.tables import Column
from nnunet_robust.pages.wording import interval, number

_GROUP = "denoising"
HELPS, HARMS, NEITHER = "helps", "harms", "not settled"
_NAMES = ("denoised", "plain", "difference")


@shared
def denoising(analysis: Analysis) -> pd.DataFrame:
    """Denoised less plain, for each architecture that was run both ways.

    The sweeps' manifests tell which arm is which one with denoising before.

    Returns:
        Columns dataset, perturbation, level, line (the architecture, denoised), plain_line (the same without);
        denoised, plain, difference, as of `paired_means`; verdict: `HELPS` where the whole interval of the difference
        is above 0, `HARMS` where it is below, else `NEITHER`. A perturbation is compared where both were run.
    """
    found = [both for sweep in analysis.sweeps for both in _both_ways(sweep)]
    by = ["dataset", "perturbation", "level", "architecture", "plain_line"]
    if not found:
        empty = pd.DataFrame(columns=[*columns(by, _NAMES), "verdict"])
        return empty.rename(columns={"architecture": "line"})
    both = pd.concat(found, ignore_index=True)
    tables = []
    for _, part in both.groupby(["dataset", "perturbation"], sort=False):
        second = part[[*CASE, f"{METRIC}_plain"]].rename(columns={f"{METRIC}_plain": METRIC})
        tables.append(paired_means(part, second, METRIC, by, _NAMES))
    table = pd.concat(tables, ignore_index=True).rename(columns={"architecture": "line"})
    verdicts = [
        HELPS if low > 0 else HARMS if high < 0 else NEITHER
        for low, high in zip(table["difference_low"], table["difference_high"], strict=True)
    ]
    return table.assign(verdict=verdicts)


def _both_ways(sweep: Sweep) -> Iterator[pd.DataFrame]:
    """The scores of each model that was run both ways, denoised and plain side by side."""
    scores = case_scores(sweep.rows, METRIC)
    arms = {
        (arm["dataset"], arm_key(**{name: arm[name] for name in ARM})): arm
        for arm in sweep.rows.drop_duplicates(["dataset", *ARM]).to_dict("records")
    }
    for (dataset, key), arm in arms.items():
        other = arms.get((dataset, sweep.without_denoising.get(key, "")))
        if other is None:
            continue
        here, there = (
            scores[(scores["dataset"] == dataset) & (scores["line"] == each["line"])] for each in (arm, other)
        )
        named = there.assign(architecture=arm["architecture"], line=arm["line"])
        both = here.merge(named, on=[*CASE, "perturbation"], suffixes=("", "_plain"))
        yield both.assign(plain_line=other["architecture"])


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = denoising(analysis)
    if table.empty:
        return
    points = mean_points(table, "difference")
    drawn = points[["mean", "low", "high"]].to_numpy(float)
    room = 0.05 * float(np.ptp(drawn[np.isfinite(drawn)])) + 0.005
    limits = (min(0.0, float(np.nanmin(drawn))) - room, max(0.0, float(np.nanmax(drawn))) + room)
    yield from over_level(
        analysis, points[points["perturbation"] != CLEAN], _GROUP, "Difference in mean Dice, denoised less plain",
        "Dice, denoised less plain", styles, limits, {"no difference": 0.0},
        is_mean=True,
    )  # fmt: skip


def gains(analysis: Analysis) -> Iterator[str]:
    """Where denoising helped and where it harmed, a sentence per dataset and architecture; clean images first."""
    table = analysis.clean_once(denoising(analysis))
    for (dataset, line), rows in table.groupby(["dataset", "line"], sort=False):
        clean, others = rows[rows["perturbation"] == CLEAN], rows[rows["perturbation"] != CLEAN]
        parts = []
        for row in clean.to_dict("records"):
            words = {HELPS: "better", HARMS: "worse"}.get(row["verdict"], "no difference is shown")
            parts.append(f"on the clean images {_difference(row)} ({words})")
        for verdict, said in ((HELPS, "It helped under"), (HARMS, "It harmed under")):
            of_verdict = others[others["verdict"] == verdict]
            if len(others):
                places = _places(of_verdict, analysis) if len(of_verdict) else f"none of {len(others)} conditions"
                parts.append(f"{said} {places}")
        yield (
            analysis.lead(dataset) + f"{line} less {rows['plain_line'].iloc[0]} ({sample_of(rows, analysis)}): "
            f"{'. '.join(parts)}. Elsewhere nothing is settled. Intervals are not adjusted for how many there are."
        )


def _places(rows: pd.DataFrame, analysis: Analysis) -> str:
    """Conditions, with the differences there: "speckle noise at 0.2, 0.3: +0.050 to +0.120; ..."."""
    said = []
    for (dataset, name), part in by_panel(rows):
        levels = analysis.levels_in_words(dataset, name, *part["level"])
        ends = dict.fromkeys(_signed(value) for value in (part["difference"].min(), part["difference"].max()))
        said.append(f"{analysis.names[name]} at {levels}: {' to '.join(ends)}")
    return "; ".join(said)


def _difference(row: Mapping[Any, Any]) -> str:
    return f"{_signed(row['difference'])} {interval(row['difference_low'], row['difference_high'])}".rstrip()


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


_TABLE = TableSpecification(
    "denoising",
    "With denoising, less without",
    "Mean Dice over patients with denoising before the prediction, and of the same model without; the difference "
    f"is paired by patient. {INTERVALS}. It helps where the whole interval is above 0, it harms where it is below, "
    "else that is not settled; conditions are not adjusted for one another.",
    (
        *CONDITION, ARCHITECTURE, mean_column("denoised", "denoised"), mean_column("plain", "without"),
        mean_column("difference", "difference"), Column("verdict", "denoising"), *SAMPLE,
    ),
    lambda analysis: analysis.clean_once(denoising(analysis)),
)  # fmt: skip

SECTION = Section(
    name="denoising",
    short="Denoising",
    title="With and without denoising",
    text=(
        "A model whose name ends in +denoise had images denoised before it predicted them, where their noise was "
        "above the model's measured noise tolerance; +denoise_always, all images. Shown is its mean Dice less that "
        "of the same model without, on the same cases: above 0, denoising helped. Bands are paired "
        f"{INTERVALS}.",
    ),
    figures=_figures,
    groups={_GROUP: "Dice with denoising, less Dice without"},
    tables=(_TABLE,),
    lists={"Where it helped, and where it harmed": gains},
)
