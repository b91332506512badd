"""What denoising before the prediction gains and costs: each model with it, less the same model without, by patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from nnunet_robust.eval.report.pairs import CASE, columns, paired_means
from nnunet_robust.eval.report.read import Sweep
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import case_scores

HELPS, HARMS, NEITHER = "helps", "harms", "not settled"
_NAMES = ("denoised", "plain", "difference")


def differences(sweeps: Sequence[Sweep], metric: str) -> pd.DataFrame:
    """Denoised less plain, for each architecture that was run both ways.

    Args:
        sweeps: of a report; their manifests say which arm is which one with denoising before.
        metric: a key of `COMPARABLE`.

    Returns:
        Columns dataset, perturbation, level, line (the architecture, denoised), plain_line (the same without);
        denoised, plain, difference, as of `paired_means`; verdict: `HELPS` where the whole interval of the difference
        is above 0, `HARMS` where it is below, else `NEITHER`. A perturbation is compared where both were run.
    """
    found = [both for sweep in sweeps for both in _both_ways(sweep, metric)]
    by = ["dataset", "perturbation", "level", "architecture", "plain_line"]
    if not found:
        empty = pd.DataFrame(columns=[*columns(by, _NAMES), "verdict"])
        return empty.rename(columns={"architecture": "line"})
    both = pd.concat(found, ignore_index=True)
    tables = []
    for _, part in both.groupby(["dataset", "perturbation"], sort=False):
        second = part[[*CASE, f"{metric}_plain"]].rename(columns={f"{metric}_plain": metric})
        tables.append(paired_means(part, second, metric, by, _NAMES))
    table = pd.concat(tables, ignore_index=True).rename(columns={"architecture": "line"})
    verdicts = [
        HELPS if low > 0 else HARMS if high < 0 else NEITHER
        for low, high in zip(table["difference_low"], table["difference_high"], strict=True)
    ]
    return table.assign(verdict=verdicts)


def _both_ways(sweep: Sweep, metric: str) -> Iterator[pd.DataFrame]:
    """The scores of each model that was run both ways, denoised and plain side by side."""
    scores = case_scores(sweep.rows, metric)
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
