"""The tables of statistics of Dice: what was lost, which architectures differ, and where their order changes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nnunet_robust.eval import statistics
from nnunet_robust.eval.report.sections.ranks import ranks
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.columns import ARCHITECTURE, CONDITION, DATASET, PATIENTS, mean_column
from nnunet_robust.eval.report.shared.section import Parts, Section, TableSpecification
from nnunet_robust.pages.tables import Column


@shared
def crossings(analysis: Analysis) -> pd.DataFrame:
    """The levels at which the mean curves of two architectures cross, see `statistics.crossings`."""
    return statistics.crossings(analysis.rows, METRIC)


@shared
def friedman(analysis: Analysis) -> pd.DataFrame:
    """Whether the architectures differ at all under each condition, see `statistics.friedman`."""
    return statistics.friedman(analysis.rows, METRIC)


@shared
def pairwise(analysis: Analysis) -> pd.DataFrame:
    """Which architectures differ, and by how much, paired by patient, see `statistics.pairwise`."""
    return statistics.pairwise(analysis.rows, METRIC)


@shared
def mcnemar(analysis: Analysis) -> pd.DataFrame:
    """Whether architectures fail on different objects, see `statistics.failures`."""
    return statistics.failures(analysis.rows)


@shared
def mixed(analysis: Analysis) -> pd.DataFrame:
    """The terms of the mixed models of Dice over the level, see `statistics.mixed_model`."""
    return statistics.mixed_model(analysis.rows, METRIC)


def _over_labels(analysis: Analysis) -> pd.DataFrame:
    return analysis.summary_over_labels.drop(columns="label")


_PAIR = (Column("first", "first"), Column("second", "second"))
SUMMARY = (
    DATASET, Column("perturbation", "perturbation", "words"), Column("label", "structure"), ARCHITECTURE,
    mean_column("clean", "clean"), Column("worst_level", "worst level", "level"), mean_column("worst", "score there"),
    mean_column("drop", "drop"), Column("relative_drop", "relative drop", "percent"), mean_column("auc", "AUC"),
    Column("missed", "missed", "count", of="n_objects"),
    Column("hallucinated", "hallucinated", "count", of="n_objects"), PATIENTS,
)  # fmt: skip
SUMMARY_NOTE = (
    "Mean Dice. The worst level is the perturbed level with the lowest mean, found in the same data that its score is "
    "read from; for a series, clean is the dataset's own test set. The drop is clean minus worst, paired by patient. "
    "AUC is the area under the curve with the levels scaled to 0 to 1: the average Dice over levels. Missed and "
    "hallucinated objects are counted over all levels, clean included, of case x level x replicate x label x trained "
    "model."
)
_TABLES = (
    TableSpecification("summary", "What was lost", SUMMARY_NOTE, SUMMARY, _over_labels, is_mean=True),
    TableSpecification(
        "crossings",
        "Where two mean curves cross",
        "The level at which the mean Dice of two architectures is the same, linear between levels; the first is better "
        "below it, the second above. Its 95 % interval (Fieller's) is all levels around it at which the data do not "
        "tell the two apart, over other patients, and over other trainings where there are several. An interval that "
        "is open below or above reaches the lowest or highest measured level: the curves may then also cross outside "
        "of the measured levels, or nowhere. Without a crossing of the means it says where one is possible.",
        (
            *CONDITION[:2], *_PAIR, Column("level", "level", "wide", "low", "high"), Column("open", "open"),
            Column("share", "resamples that cross", "share"), PATIENTS,
        ),
        crossings,
        is_mean=True,
    ),
    TableSpecification(
        "friedman",
        "Do the architectures differ at all? Friedman's test",
        "Over patients' mean Dice, all architectures at once, at each condition. Kendall's W is the agreement of the "
        "patients' rankings, from 0 (none) to 1. The p-values are of one condition each, not adjusted.",
        (
            *CONDITION, Column("statistic", "χ²", "wide"), Column("p", "p", "p"),
            Column("kendalls_w", "Kendall's W", "score"), Column("n_models", "architectures", "count"),
            PATIENTS,
        ),
        friedman,
        is_mean=True,
    ),
    TableSpecification(
        "pairwise",
        "Which differ, and by how much? Paired by patient",
        "Hodges-Lehmann shift of Dice (first minus second) with its 95 % interval, Wilcoxon's signed-rank test, "
        "adjusted after Holm within the pairs and levels of a perturbation, and the rank-biserial correlation, from "
        "−1 to 1. The smallest possible p is what this number of patients with a difference could give at best: with "
        "few of them no difference can be significant, however large.",
        (
            *CONDITION, *_PAIR, Column("shift", "shift", "score", "low", "high"), Column("p", "p", "p"),
            Column("p_holm", "p, Holm", "p"), Column("smallest_p", "smallest possible p", "p"),
            Column("rank_biserial", "rank-biserial", "score"),
            Column("n_ties", "ties", "count"), PATIENTS,
        ),
        pairwise,
        is_mean=True,
    ),
    TableSpecification(
        "mcnemar",
        "Do they fail on different objects? McNemar's exact test",
        "An object (a label of a patient) counts as failed where an architecture missed or hallucinated it in more "
        "than half of its predictions. p: McNemar's test, exact; adjusted after Holm within the pairs and levels of a "
        "perturbation. The smallest possible p is what this number of differing objects could give at best.",
        (
            *CONDITION, *_PAIR, Column("only_first", "only first failed", "count"),
            Column("only_second", "only second failed", "count"), Column("p", "p", "p"),
            Column("p_holm", "p, Holm", "p"), Column("smallest_p", "smallest possible p", "p"),
            Column("n", "objects", "count"),
        ),
        mcnemar,
    ),
    TableSpecification(
        "mixed",
        "Mixed models of Dice",
        "Dice = intercept and slope over the level (scaled to 0 to 1) + rest; intercept and slope are those of the "
        "architecture + patient + patient x architecture + trained model; one model for each perturbation. Terms are "
        "in Dice, with 95 % intervals. There is a p only where trainings were repeated: with one training of each "
        "architecture, a term is about these trained models. A straight line is an approximation: the curves show how "
        "good a one.",
        (
            *CONDITION[:2], Column("kind", "kind"), Column("term", "term"),
            Column("estimate", "estimate", "score", "low", "high"), Column("p", "p", "p"),
            PATIENTS, Column("n_trained", "trained models", "count"), Column("note", "note"),
        ),
        mixed,
        is_mean=True,
    ),
    TableSpecification(
        "ranks",
        "How stable is the order?",
        "The rank of the mean Dice at each condition; its mean and 95 % interval over resamples of patients; and the "
        "share of resamples in which the architecture is first.",
        (
            *CONDITION, ARCHITECTURE, Column("rank", "rank", "level"),
            Column("mean_rank", "mean rank", "wide", "low", "high"), Column("share_first", "first", "share"),
        ),
        ranks,
        is_mean=True,
    ),
)  # fmt: skip


def _content(_: Analysis, parts: Parts) -> dict[str, Any]:
    return {"tables": parts.tables}


SECTION = Section(name="statistics", short="Statistics", tables=_TABLES, content=_content, template="statistics")
