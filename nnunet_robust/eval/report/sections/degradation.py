"""One number for papers: the mean degradation relative to clean, and what each perturbation counts in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.columns import ARCHITECTURE, DATASET, PATIENTS, PERTURBATION
from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.report.shared.section import Section, TableSpecification
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.eval.statistics import degradation as statistic
from nnunet_robust.pages.tables import Column
from nnunet_robust.pages.wording import listed_perturbations

RECORD_KEY = "degradation"
"""The key of `record` in files."""


class Counted(NamedTuple):
    """Which perturbations of a dataset count.

    Attributes:
        preset: that the sweep has whole; None where all natural perturbations count.
        perturbations: that count.
        why: a sentence.
    """

    preset: str | None
    perturbations: tuple[str, ...]
    why: str


@shared
def counted(analysis: Analysis) -> dict[str, Counted]:
    """Dataset -> the perturbations that count: those of the largest preset that the sweep has whole.

    Without such a preset all natural perturbations count; attacks, their random noise and series never do.
    """
    found = {dataset: _counted(sweep, dataset) for dataset, sweep in analysis.sweep_of.items()}
    return {dataset: one for dataset, one in found.items() if one.perturbations}


def _counted(sweep: Sweep, dataset: str) -> Counted:
    controls = {attack.control for attack in sweep.attacks.values()}
    perturbed = (sweep.rows["dataset"] == dataset) & (sweep.rows["level"] > 0)
    there = dict.fromkeys(sweep.rows.loc[perturbed, "perturbation"])
    natural = [name for name in there if name not in {CLEAN, *sweep.attacks, *controls, *sweep.series}]
    known = {
        name: dict(entry.presets)
        for name, entry in sweep.manifest.perturbations.items()
        if name in natural and isinstance(entry.presets, Mapping)
    }
    sizes = {preset: size for of_name in known.values() for preset, size in of_name.items()}
    members = {preset: tuple(name for name in natural if preset in known.get(name, {})) for preset in sizes}
    whole = [preset for preset, size in sizes.items() if len(members[preset]) == size]
    if not whole:
        why = "it has no preset as a whole" if known else "its manifest tells no presets"
        return Counted(None, tuple(natural), f"All natural perturbations of the sweep count, for {why}.")
    preset = max(whole, key=lambda name: sizes[name])
    others = [name for name in natural if name not in members[preset]]
    without = f", and not {listed_perturbations(others, sweep.names)}" if others else ""
    return Counted(preset, members[preset], f"The perturbations of the preset {preset} count{without}.")


def _names(analysis: Analysis) -> dict[str, tuple[str, ...]]:
    return {dataset: one.perturbations for dataset, one in counted(analysis).items()}


@shared
def _rows(analysis: Analysis) -> pd.DataFrame:
    """The rows that can be compared, of the models without denoising."""
    rows, denoised = analysis.rows, set()
    for arm in rows.drop_duplicates(["dataset", *ARM]).to_dict("records"):
        if arm_key(**{name: arm[name] for name in ARM}) in analysis.sweep_of[arm["dataset"]].without_denoising:
            denoised.add((arm["dataset"], arm["line"]))
    if not denoised:
        return rows
    return rows[[pair not in denoised for pair in zip(rows["dataset"], rows["line"], strict=True)]]


@shared
def degradation(analysis: Analysis) -> pd.DataFrame:
    """The mean degradation of each architecture, see `statistics.degradation`."""
    return statistic.degradation(_rows(analysis), _names(analysis), METRIC, analysis.baseline)


@shared
def weights(analysis: Analysis) -> list[statistic.Weight]:
    """What each perturbation counts, see `statistics.degradation`."""
    return statistic.weights(_rows(analysis), _names(analysis))


def record(analysis: Analysis) -> list[dict[str, Any]]:
    """The number and its weights as plain dicts, for files; see `statistics.degradation.as_record`."""
    presets = {dataset: one.preset for dataset, one in counted(analysis).items()}
    return statistic.as_record(degradation(analysis), weights(analysis), presets, METRIC)


def _weights_table(analysis: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "dataset": one.dataset,
                "perturbation": one.perturbation,
                "levels": ", ".join(f"{level:g}" for level in one.levels),
                "unit": analysis.unit(one.dataset, one.perturbation),
                "weight": one.weight,
                "weight_of_level": one.of_level,
            }
            for one in weights(analysis)
        ]
    )


def _left_out(analysis: Analysis) -> Iterator[str]:
    table = degradation(analysis)
    there = _rows(analysis)
    for dataset in counted(analysis):
        shown = set(table.loc[table["dataset"] == dataset, "line"])
        for name in dict.fromkeys(there.loc[there["dataset"] == dataset, "architecture"]):
            if name not in shown:
                yield (
                    f"{dataset}, one number: {name} is left out, for it lacks a perturbation that counts, or scores 0 "
                    "on clean images."
                )


def _note(analysis: Analysis) -> str:
    table = degradation(analysis)
    if table.empty:
        return ""
    trained = "The intervals are over patients and trainings."
    if (table["n_trained"] == 1).all():
        trained = (
            "The intervals are over patients. Each architecture was trained once: the numbers are of these trained "
            "models, and another training could turn their order."
        )
    why = " ".join(analysis.lead(dataset) + one.why for dataset, one in counted(analysis).items())
    return (
        f"{why} Degradation is the mean Dice on clean images less that on perturbed ones, as a share of that on clean "
        f"images, with its 95 % interval. {trained} The share of bootstraps in which an architecture loses least "
        f"settles nothing. The ratio is to the degradation of the baseline, {table['baseline'].iloc[0]}, with "
        "Fieller's interval; there is none where the baseline may lose nothing."
    )


_TABLES = (
    TableSpecification(
        "degradation",
        "Mean degradation relative to clean",
        _note,
        (
            DATASET, ARCHITECTURE, Column("clean", "clean Dice", "score"),
            Column("degradation", "degradation", "percent", "degradation_low", "degradation_high"),
            Column("share_least", "loses least", "share"),
            Column("ratio", "ratio to baseline", "score", "ratio_low", "ratio_high"),
            Column("n_perturbations", "perturbations", "count"), PATIENTS, Column("n_trained", "trainings", "count"),
        ),
        degradation,
    ),
    TableSpecification(
        "degradation_weights",
        "Weights of the mean degradation",
        "All perturbations that count do so alike, and all levels of a perturbation.",
        (
            DATASET, PERTURBATION, Column("levels", "levels"), Column("unit", "unit"),
            Column("weight", "weight", "percent"), Column("weight_of_level", "weight of a level", "percent"),
        ),
        _weights_table,
    ),
)  # fmt: skip

SECTION = Section(
    name="degradation",
    short="One number",
    title="One number for papers",
    text=(
        "What share of its clean Dice an architecture loses on average over the perturbations and levels of the second "
        "table: a summary for a paper, and no verdict. It does not say under which perturbation Dice is lost, how "
        "often a perturbation occurs, or who is best: an architecture that is poor on clean images can lose little. "
        "Numbers of two studies can be compared only where perturbations, levels and weights are the same.",
    ),
    tables=_TABLES,
    left_out=_left_out,
)
