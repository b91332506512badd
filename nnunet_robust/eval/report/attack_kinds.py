"""The tables of attacks and of denoising: their columns, titles, and what is said of them."""

from __future__ import annotations

import pandas as pd

from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.eval.statistics import CONFIDENCE
from nnunet_robust.pages.tables import Column, Kind

_ATTACK = (
    Column("dataset", "dataset"),
    Column("perturbation", "attack", "words"),
    Column("level", "budget", "level"),
)
_SAMPLE = (Column("n_cases", "cases", "count"), Column("n_patients", "patients", "count"))
_INTERVAL = f"{100 * CONFIDENCE:.0f} % bootstrap intervals over patients"


def _mean(name: str, heading: str) -> Column:
    return Column(name, heading, "score", f"{name}_low", f"{name}_high")


def _effects(analysis: Analysis) -> pd.DataFrame:
    table = analysis.attack_effects
    return table[table["level"] > 0].reset_index(drop=True)


def _differences(analysis: Analysis) -> pd.DataFrame:
    table = analysis.denoising
    return table[analysis.once(table)].reset_index(drop=True)


ATTACK_KINDS = (
    Kind(
        "attacks",
        "Attacks on each model itself, beside random noise of the same budget",
        "Mean Dice over patients. The difference is that under the attack less that under the noise, paired by "
        f"patient: below 0, the attack did more. {_INTERVAL}. The Dice under the worst change within the budget is at "
        "most that under the attack.",
        (
            *_ATTACK,
            Column("line", "architecture"),
            _mean("attacked", "attacked"),
            _mean("noise", "random noise"),
            _mean("difference", "difference"),
            Column("steps", "steps", "count"),
            *_SAMPLE,
        ),
        _effects,
        "attacks",
    ),
    Kind(
        "transfer",
        "Attacks made against one model, predicted by each",
        "Mean Dice over patients of the model that predicted, and of the same under the attack on itself; the "
        "difference is the first less the second, paired by patient: below 0, the images that were made against "
        f"another model did more. {_INTERVAL}, not adjusted for the number of pairs.",
        (
            *_ATTACK,
            Column("attacked", "made against"),
            Column("line", "predicted by"),
            _mean("score", "Dice"),
            _mean("own", "attacked itself"),
            _mean("difference", "difference"),
            *_SAMPLE,
        ),
        lambda analysis: analysis.transfer,
        "attacks",
    ),
    Kind(
        "denoising",
        "With denoising, less without",
        "Mean Dice over patients with denoising before the prediction, and of the same model without; the difference "
        f"is paired by patient. {_INTERVAL}. It helps where the whole interval is above 0, it harms where it is below, "
        "else that is not settled; conditions are not adjusted for one another.",
        (
            Column("dataset", "dataset"),
            Column("perturbation", "perturbation", "words"),
            Column("level", "level", "level"),
            Column("line", "architecture"),
            _mean("denoised", "denoised"),
            _mean("plain", "without"),
            _mean("difference", "difference"),
            Column("verdict", "denoising"),
            *_SAMPLE,
        ),
        _differences,
        "denoising",
    ),
)
"""Rows of `kinds`, each with the section of the page that it stands in."""
