"""Which tables of statistics a report has: their columns, titles, and what is said of them."""

from __future__ import annotations

import pandas as pd

from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.eval.report.attack_kinds import ATTACK_KINDS
from nnunet_robust.eval.report.confidence_kinds import CONFIDENCE_KINDS
from nnunet_robust.eval.statistics import MEAN_OF_LABELS
from nnunet_robust.pages.tables import Column, Kind, ReportTable, report_table

_DATASET = Column("dataset", "dataset")
_CONDITION = (_DATASET, Column("perturbation", "perturbation", "words"), Column("level", "level", "level"))
_PAIR = (Column("first", "first"), Column("second", "second"))
_SUMMARY = (
    _DATASET,
    Column("perturbation", "perturbation", "words"),
    Column("label", "label"),
    Column("line", "architecture"),
    Column("clean", "clean", "score", "clean_low", "clean_high"),
    Column("worst_level", "worst level", "level"),
    Column("worst", "score there", "score", "worst_low", "worst_high"),
    Column("drop", "drop", "score", "drop_low", "drop_high"),
    Column("relative_drop", "relative drop", "percent"),
    Column("auc", "AUC", "score", "auc_low", "auc_high"),
    Column("missed", "missed", "count", of="n_objects"),
    Column("hallucinated", "hallucinated", "count", of="n_objects"),
    Column("n_patients", "patients", "count"),
)
_SUMMARY_NOTE = (
    "Mean Dice. The worst level is the perturbed level with the lowest mean, found in the same data that its score is "
    "read from; for a series, clean is the dataset's own test set. The drop is clean minus worst, paired by patient. "
    "AUC is the area under the curve with the levels scaled to 0 to 1: the average Dice over levels. Missed and "
    "hallucinated objects are counted over all levels, clean included, of case x level x replicate x label x trained "
    "model."
)


def _over_labels(analysis: Analysis) -> pd.DataFrame:
    table = analysis.summary_over_labels
    return table.drop(columns="label")


def _each_label(analysis: Analysis) -> pd.DataFrame:
    table = analysis.summary[analysis.summary["label"] != MEAN_OF_LABELS]
    return table[table.groupby("dataset")["label"].transform("nunique") > 1]


_KINDS = (
    Kind("summary", "What was lost", _SUMMARY_NOTE, _SUMMARY, _over_labels),
    Kind("summary_labels", "What was lost, for each label", _SUMMARY_NOTE, _SUMMARY, _each_label),
    Kind(
        "crossings",
        "Where two mean curves cross",
        "The level at which the mean Dice of two architectures is the same, linear between levels, with its 95 % "
        "bootstrap interval among the resamples of patients that have a crossing, and their share.",
        (
            *_CONDITION[:2], *_PAIR, Column("level", "level", "wide", "low", "high"),
            Column("share", "resamples that cross", "share"), Column("n_patients", "patients", "count"),
        ),
        lambda analysis: analysis.crossings,
    ),
    Kind(
        "friedman",
        "Do the architectures differ at all? Friedman's test",
        "Over patients' mean Dice, all architectures at once, at each condition. Kendall's W is the agreement of the "
        "patients' rankings, from 0 (none) to 1. The p-values are of one condition each, not adjusted.",
        (
            *_CONDITION, Column("statistic", "χ²", "wide"), Column("p", "p", "p"),
            Column("kendalls_w", "Kendall's W", "score"), Column("n_models", "architectures", "count"),
            Column("n_patients", "patients", "count"),
        ),
        lambda analysis: analysis.friedman,
    ),
    Kind(
        "pairwise",
        "Which differ, and by how much? Paired by patient",
        "Hodges-Lehmann shift of Dice (first minus second) with its 95 % interval, Wilcoxon's signed-rank test, "
        "adjusted after Holm within the pairs and levels of a perturbation, and the rank-biserial correlation, from "
        "−1 to 1. "
        "The smallest possible p is what so many patients with a difference could give at best: with few of them no "
        "difference can be significant, however large.",
        (
            *_CONDITION, *_PAIR, Column("shift", "shift", "score", "low", "high"), Column("p", "p", "p"),
            Column("p_holm", "p, Holm", "p"), Column("smallest_p", "smallest possible p", "p"),
            Column("rank_biserial", "rank-biserial", "score"),
            Column("n_ties", "ties", "count"), Column("n_patients", "patients", "count"),
        ),
        lambda analysis: analysis.pairwise,
    ),
    Kind(
        "mcnemar",
        "Do they fail on different objects? McNemar's exact test",
        "An object (a label of a patient) counts as failed where an architecture missed or hallucinated it in more "
        "than half of its predictions. p: McNemar's test, exact; adjusted after Holm within the pairs and levels of a "
        "perturbation. The smallest possible p is what so many differing objects could give at best.",
        (
            *_CONDITION, *_PAIR, Column("only_first", "only first failed", "count"),
            Column("only_second", "only second failed", "count"), Column("p", "p", "p"),
            Column("p_holm", "p, Holm", "p"), Column("smallest_p", "smallest possible p", "p"),
            Column("n", "objects", "count"),
        ),
        lambda analysis: analysis.mcnemar,
    ),
    Kind(
        "mixed",
        "Mixed models of Dice",
        "Dice = intercept and slope of the architecture over the level (scaled to 0 to 1) + patient + trained model + "
        "rest; one model for each perturbation, by restricted maximum likelihood. Terms are in Dice, with 95 % "
        "intervals. A straight line is an approximation: the curves show how good a one.",
        (
            *_CONDITION[:2], Column("kind", "kind"), Column("term", "term"),
            Column("estimate", "estimate", "score", "low", "high"), Column("p", "p", "p"),
            Column("n_patients", "patients", "count"), Column("n_trained", "trained models", "count"),
            Column("converged", "converged"), Column("note", "note"),
        ),
        lambda analysis: analysis.mixed,
    ),
    Kind(
        "ranks",
        "How stable is the order?",
        "The rank of the mean Dice at each condition; its mean and 95 % interval over resamples of patients; and the "
        "share of resamples in which the architecture is first.",
        (
            *_CONDITION, Column("line", "architecture"), Column("rank", "rank", "level"),
            Column("mean_rank", "mean rank", "wide", "low", "high"), Column("share_first", "first", "share"),
        ),
        lambda analysis: analysis.ranks,
    ),
)  # fmt: skip


def recipe_tables(analysis: Analysis) -> tuple[ReportTable, ReportTable]:
    """The recipe by level, and with adjacent levels of the same verdict merged."""
    levels, ranges = analysis.recipe, analysis.ranges
    places = [
        levels[(levels["dataset"] == row["dataset"]) & (levels["perturbation"] == row["perturbation"])
               & levels["level"].between(row["from_level"], row["to_level"])]["advantage"]
        for row in ranges.to_dict("records")
    ]  # fmt: skip
    ends = zip(ranges["from_level"], ranges["to_level"], strict=True)
    merged = ranges.assign(
        levels=[f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in ends],
        least_advantage=[place.min() for place in places],
        most_advantage=[place.max() for place in places],
    )
    note = (
        f"The architecture with the best mean Dice at a level, or no difference that matters, where all are within "
        f"{analysis.margin:g} of it. Agreement is the share of bootstrap resamples of patients in which it is within "
        f"{analysis.margin:g} of that resample's best (of a range, the lowest). The advantage is over the next best; "
        "the clean cost is the best mean on clean images minus its own."
    )
    cost = Column("clean_cost", "clean cost", "score", "clean_cost_low", "clean_cost_high")
    patients = Column("n_patients", "patients", "count")
    by_range = (
        *_CONDITION[:2], Column("levels", "levels"), Column("verdict", "verdict"),
        Column("agreement", "agreement", "share"),
        Column("least_advantage", "least advantage", "score"), Column("most_advantage", "most advantage", "score"),
        cost, patients,
    )  # fmt: skip
    by_level = (
        *_CONDITION, Column("verdict", "verdict"), Column("equivalent", "as good, within the margin", "list"),
        Column("agreement", "agreement", "share"),
        Column("advantage", "advantage", "score", "advantage_low", "advantage_high"), cost, patients,
    )  # fmt: skip
    return (
        report_table("recipe_levels", "Recipe, level by level", note, by_level, levels, analysis.names),
        report_table("recipe", "Recipe", note, by_range, merged, analysis.names),
    )


_MEASURED = (
    ("psnr_db", "PSNR (dB)", "decibel"),
    ("snr_db", "SNR (dB)", "decibel"),
    ("noise_sigma", "noise (share of the robust range)", "measured"),
    ("blur", "blur", "measured"),
    ("texture_divergence_bits", "texture divergence (bits)", "measured"),
    ("boundary_contrast", "boundary contrast", "measured"),
    ("foreground_ratio", "foreground ratio", "measured"),
)


def inputs_table(analysis: Analysis) -> ReportTable | None:
    """What was measured of the inputs of each condition; None where no sweep stored anything."""
    stored = [sweep.inputs for sweep in analysis.sweeps if sweep.inputs is not None]
    if not stored:
        return None
    inputs = pd.concat(stored, ignore_index=True)
    kinds = [kind for kind in _MEASURED if kind[0] in inputs]
    groups = inputs.groupby(["dataset", "perturbation", "level"], sort=False)
    data = groups["case"].nunique().rename("n_cases").reset_index()
    for key, _, _ in kinds:
        found = groups[key].agg(["median", "min", "max"]).reset_index()
        data[[key, f"{key}_least", f"{key}_most"]] = found[["median", "min", "max"]]
    columns = (
        *_CONDITION,
        *(Column(key, heading, form, f"{key}_least", f"{key}_most", "", "({} to {})") for key, heading, form in kinds),
        Column("n_cases", "cases", "count"),
    )
    note = (
        "Median over all inputs (least to most). PSNR and SNR compare a perturbed image with its clean original, which "
        "a series of test sets does not have. Texture divergence and boundary contrast tell foreground from "
        "background: the smaller, the harder."
    )
    title = "Noise, likeness of foreground and background, size of the foreground"
    return report_table("inputs", title, note, columns, data, analysis.names)


def report_tables(analysis: Analysis) -> list[ReportTable]:
    """The tables of statistics that have any rows, in the report's order."""
    found = [(kind, kind.data(analysis)) for kind in (*_KINDS, *ATTACK_KINDS, *CONFIDENCE_KINDS)]
    return [
        report_table(kind.name, kind.title, kind.note, kind.columns, data, analysis.names, kind.section)
        for kind, data in found
        if len(data)
    ]
