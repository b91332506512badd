"""What denoising before the prediction gains and costs: each model with it, less the same model without, by patient."""

from __future__ import annotations

import re

import pandas as pd

from nnunet_robust.eval.report.pairs import CASE, columns, paired_means
from nnunet_robust.eval.results.tables import ARM
from nnunet_robust.eval.statistics import case_scores

_DENOISED = re.compile(r"(.+)\+denoise(?:_always)?")
HELPS, HARMS, NEITHER = "helps", "harms", "not settled"
_NAMES = ("denoised", "plain", "difference")


def differences(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Denoised less plain, for each architecture that was run both ways.

    Args:
        rows: what `comparable` returns; models called `<trainer>+denoise` or `<trainer>+denoise_always` are the models
            `<trainer>` of the same plans, configuration, fold and sizes, with denoising before.
        metric: a key of `COMPARABLE`.

    Returns:
        Columns dataset, perturbation, level, line (the architecture, denoised), plain_line (the same without);
        denoised, plain, difference, as of `paired_means`; verdict: `HELPS` where the whole interval of the difference
        is above 0, `HARMS` where it is below, else `NEITHER`. A perturbation is compared where both were run.
    """
    arms = rows.drop_duplicates(["dataset", *ARM]).to_dict("records")
    plain = {(arm["dataset"], *(arm[name] for name in ARM)): arm for arm in arms}
    scores = case_scores(rows, metric)
    found = []
    for arm in arms:
        with_it = _DENOISED.fullmatch(arm["model"])
        other = with_it and plain.get((arm["dataset"], with_it[1], *(arm[name] for name in ARM[1:])))
        if not other:
            continue
        here, there = (
            scores[(scores["dataset"] == each["dataset"]) & (scores["line"] == each["line"])] for each in (arm, other)
        )
        named = there.assign(architecture=arm["architecture"], line=arm["line"])
        both = here.merge(named, on=[*CASE, "perturbation"], suffixes=("", "_plain"))
        found.append(both.assign(plain_line=other["architecture"]))
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
