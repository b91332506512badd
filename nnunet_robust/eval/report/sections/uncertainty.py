"""How well scores of uncertainty rank images by their error, under every condition.

An image is a case under a condition, each draw of the noise (replicate) for itself; its Dice and its scores are means
over its structures. What is measured of each trained model of an architecture is averaged over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunet_robust.eval.report.shared.analysis import Analysis, shared
from nnunet_robust.eval.report.shared.columns import ARCHITECTURE, BANDS, CONDITION, IMAGES, INTERVALS, mean_column
from nnunet_robust.eval.report.shared.figures import ReportFigure, condition_in_words, hardest, over_level, sample_of
from nnunet_robust.eval.report.shared.panels import panel
from nnunet_robust.eval.report.shared.section import Section, TableSpecification
from nnunet_robust.eval.uncertainty.selective import FAILURE_BELOW, Estimate, RankQuality, rank_qualities, risk_curve
from nnunet_robust.pages.plots import INK, LineStyle
from nnunet_robust.pages.tables import Column
from nnunet_robust.pages.wording import number

_RANKING, _RISK = "ranking", "risk"
SCORES = {
    "predicted_dice": "1 − predicted Dice",
    "soft_dice": "1 − soft Dice",
    "entropy_bits": "entropy",
    "mutual_information_bits": "mutual information",
}
"""Column of results.csv -> the score of uncertainty that is made from it, the higher, the more uncertain."""

_OF_MEMBERS = ("predicted_dice", "mutual_information_bits")  # with one member these say nothing
_CONDITION = ["dataset", "perturbation", "level", "architecture"]
_IMAGE = ["patient", "case", "replicate"]
_MEASURES = ("spearman", "failure_auroc", "aurc", "excess_aurc")
_COLUMNS = [
    "dataset", "perturbation", "level", "line", "score",
    *(name + end for name in _MEASURES for end in ("", "_low", "_high")),
    "optimal_aurc", "chance_aurc", "n_failures", "n_cases", "n_patients", "n_trained", "note",
]  # fmt: skip


class _Images(NamedTuple):
    """One architecture's images under one condition.

    Attributes:
        condition: of `_CONDITION`.
        dice: (trained models, images).
        scores: column of results.csv -> uncertainty (trained models, images), NaN where it was not measured.
        members: of the ensembles that the scores are made from, at most; NaN where nothing was measured.
        patients: (images,).
    """

    condition: tuple[str, str, float, str]
    dice: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    members: float
    patients: NDArray[np.str_]

    def with_score(self, score: str) -> NDArray[np.bool_]:
        """Which images have the score from every trained model."""
        present: NDArray[np.bool_] = np.isfinite(self.scores[score]).all(axis=0)
        return present


def _images(rows: pd.DataFrame) -> Iterator[_Images]:
    if "soft_dice" not in rows or rows["soft_dice"].isna().all():
        return
    keys = [*_CONDITION, "line", *_IMAGE]
    names = ["dice", *SCORES]
    groups = rows.groupby(keys, sort=False)
    means = groups[names].mean().where(groups[names].count().eq(groups.size(), axis=0))
    means["n_members"] = groups["n_members"].max()
    for condition, part in means.reset_index().groupby(_CONDITION, sort=False):
        ordered = part.sort_values(["line", *_IMAGE], kind="stable")
        n_trained = ordered["line"].nunique()
        tables = {name: ordered[name].to_numpy(float).reshape(n_trained, -1) for name in names}
        yield _Images(
            condition,
            tables["dice"],
            {name: 1 - tables[name] if name.endswith("_dice") else tables[name] for name in SCORES},
            float(ordered["n_members"].max()),
            ordered["patient"].to_numpy(str)[: tables["dice"].shape[1]],
        )


@shared
def ranking(analysis: Analysis) -> pd.DataFrame:
    """How well each score ranks the images of each architecture under each condition by 1 - Dice.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), score (a key of `SCORES`), the attributes of
        `RankQuality` with their intervals (`spearman`, `spearman_low`, `spearman_high`, ...), n_failures, n_cases
        (images), n_patients, n_trained, and note: why a number is not defined, empty where all are. Empty where no
        scores were measured.
    """
    found = []
    known: dict[tuple[bytes, ...], dict[str, RankQuality]] = {}  # clean images are level 0 of every perturbation
    for images in _images(analysis.rows):
        if np.isnan(images.members):
            continue
        groups: dict[bytes, list[str]] = {}
        for score in SCORES:
            groups.setdefault(images.with_score(score).tobytes(), []).append(score)
        for of_mask, scores in groups.items():
            kept = np.frombuffer(of_mask, bool)
            dice, patients = images.dice[:, kept], images.patients[kept]
            uncertainties = {score: images.scores[score][:, kept] for score in scores}
            qualities: dict[str, RankQuality] = {}
            if kept.any():
                key = (dice.tobytes(), patients.tobytes(), *(u.tobytes() for u in uncertainties.values()))
                if key not in known:
                    known[key] = rank_qualities(uncertainties, dice, list(patients))
                qualities = known[key]
            for score in scores:
                row = _row(qualities.get(score), dice, uncertainties[score], images, score)
                found.append({**dict(zip(_COLUMNS, (*images.condition, score), strict=False)), **row})
    table = pd.DataFrame(found, columns=_COLUMNS)
    table["score_at"] = table["score"].map(list(SCORES).index)
    order = table.groupby(["dataset", "perturbation", "level", "line"], sort=False).ngroup()
    return table.assign(order=order).sort_values(["order", "score_at"], kind="stable", ignore_index=True)[_COLUMNS]


def _row(
    quality: RankQuality | None,
    dice: NDArray[np.float64],
    uncertainty: NDArray[np.float64],
    images: _Images,
    score: str,
) -> dict[str, Any]:
    counts = {"n_cases": dice.shape[1], "n_trained": len(dice)}
    if quality is None:
        alone = images.members == 1 and score in _OF_MEMBERS
        said = "a single member, which agrees with itself" if alone else "not measured"
        return {**counts, "n_patients": 0, "n_failures": 0, "note": said}
    notes = []
    if np.isnan(quality.spearman.value):
        same = (np.ptp(uncertainty, axis=1) == 0).any()
        notes.append("no Spearman: all scores are equal" if same else "no Spearman: all Dice are equal")
    if np.isnan(quality.failure_auroc.value):
        none = (dice >= FAILURE_BELOW).all(axis=1).any()
        notes.append(f"no AUROC: {'no image has' if none else 'all images have'} a Dice below {FAILURE_BELOW:g}")
    estimates: dict[str, Estimate] = {name: getattr(quality, name) for name in _MEASURES}
    return {
        **{name: each.value for name, each in estimates.items()},
        **{f"{name}_low": each.low for name, each in estimates.items()},
        **{f"{name}_high": each.high for name, each in estimates.items()},
        "optimal_aurc": quality.optimal_aurc,
        "chance_aurc": quality.chance_aurc,
        "n_failures": quality.n_failures,
        "n_patients": quality.n_patients,
        **counts,
        "note": "; ".join(notes),
    }


def main_scores(table: pd.DataFrame) -> dict[str, str]:
    """For each dataset, the score that its risk-coverage curves are drawn of: one that all architectures have.

    Args:
        table: what `ranking` returns.

    Returns:
        Dataset -> the predicted Dice; the soft Dice where it is missing anywhere.
    """
    predicted = table[table["score"] == "predicted_dice"]
    complete = predicted.groupby("dataset")["aurc"].apply(lambda values: bool(values.notna().all()))
    return {str(name): "predicted_dice" if full else "soft_dice" for name, full in complete.items()}


@shared
def risk_curves(analysis: Analysis) -> pd.DataFrame:
    """Risk-coverage curves on clean images and at the highest level.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), score, x (coverage), mean (risk), low, high,
        optimal, n_cases, n_patients.
    """
    rows, table = analysis.rows, ranking(analysis)
    shown = hardest(table)
    scores = main_scores(table)
    found = []
    for images in _images(rows[rows.set_index(["dataset", "perturbation", "level"]).index.isin(shown)]):
        dataset, perturbation, level, line = images.condition
        score = scores.get(dataset, "soft_dice")
        kept = images.with_score(score)
        if not kept.any():
            continue
        patients = images.patients[kept]
        curve = risk_curve(images.scores[score][:, kept], images.dice[:, kept], list(patients))
        place = {"dataset": dataset, "perturbation": perturbation, "level": level, "line": line, "score": score}
        counts = {"n_cases": int(kept.sum()), "n_patients": len(set(patients))}
        found.append(curve.rename(columns={"coverage": "x"}).assign(**place, **counts))
    order = ["dataset", "perturbation", "level", "line", "score", "x", "mean", "low", "high", "optimal", "n_cases"]
    columns = [*order, "n_patients"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    yield from _correlations(analysis, styles)
    yield from _risks(analysis, styles)


def _correlations(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = ranking(analysis)
    renamed = {"spearman": "mean", "spearman_low": "low", "spearman_high": "high"}
    keep = ["dataset", "perturbation", "line", "level", "score", *renamed, "n_cases", "n_patients", "n_trained"]
    points = table[keep].rename(columns=renamed)
    lowest = float(np.nanmin([0.0, *points["mean"], *points["low"]]))
    limits = (min(-0.1, np.floor((lowest - 0.02) * 10) / 10), 1.02)
    for score, label in SCORES.items():
        yield from over_level(
            analysis,
            points[points["score"] == score],
            f"{_RANKING}-{score}",
            f"Spearman correlation of {label} with the error, 1 − Dice",
            "Spearman's correlation with error",
            styles,
            limits,
            {"a score that says nothing": 0.0},
        )


def _risks(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    curves = risk_curves(analysis)
    for dataset, of_dataset in curves.groupby("dataset", sort=False):
        score = SCORES[of_dataset["score"].iloc[0]]
        for (name, at), part in of_dataset.groupby(["perturbation", "level"], sort=False):
            where = condition_in_words(analysis, dataset, name, at)
            highest = 1.08 * float(part[["mean", "high"]].max().max()) or 1.0
            ends = part[part["x"] > 1 - 1e-9].set_index("line")
            half = part[np.isclose(part["x"], 0.5)].set_index("line")
            told = "; ".join(
                f"{line}: {number(half.loc[line, 'mean'])} of the least uncertain half, "
                f"{number(ends.loc[line, 'mean'])} of all"
                for line in ends.index
            )
            yield ReportFigure(
                group=_RISK,
                name=f"{dataset}_{name}_{at:g}",
                dataset=str(dataset),
                title=f"{where}, by {score}",
                sample=sample_of(part, analysis),
                data=part,
                alt=f"Risk over coverage, ranked by {score}, {where}. Mean 1 − Dice: {told}.",
                draw=partial(_risk_panel, part, styles, highest),
                styles={
                    **{line: styles[line] for line in dict.fromkeys(part["line"])},
                    "the least possible, in the same colour": _LEAST,
                },
                value="risk",
            )


_LEAST = LineStyle(INK, "", ":")  # of the least possible risk, drawn in the colour of the line that it belongs to
_MARKS = 4  # a risk-coverage curve has a marker at each fourth of its points


def _risk_panel(curves: pd.DataFrame, styles: Mapping[str, LineStyle], highest: float) -> Figure:
    """Risk-coverage curves: the mean error of the images accepted over their share, the least uncertain first.

    Args:
        curves: columns line, x (coverage), mean (risk), low, high, optimal (the least possible, drawn thin and dotted).
        styles: for each line.
        highest: upper end of the y axis.
    """
    figure, axes = panel()
    for line, of_line in curves.groupby("line", sort=False):
        style = styles[str(line)]
        x = of_line["x"].to_numpy(float)
        if of_line["low"].notna().any():
            axes.fill_between(x, of_line["low"], of_line["high"], color=style.colour, alpha=0.16, lw=0)
        axes.plot(x, of_line["optimal"], color=style.colour, ls=_LEAST.line, lw=1)
        axes.plot(
            x, of_line["mean"], color=style.colour, ls=style.line, marker=style.marker, markevery=(_MARKS - 1, _MARKS),
            ms=5, lw=1.8,
        )  # fmt: skip
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, highest)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}")
    axes.set_xlabel("coverage: images accepted, the least uncertain first (%)", color=INK)
    axes.set_ylabel("risk: mean 1 − Dice of those", color=INK)
    return figure


def _undefined(analysis: Analysis) -> Iterator[str]:
    """Which architecture has no score at all, and why."""
    table = ranking(analysis)
    table = table[table["aurc"].isna()].drop_duplicates(["dataset", "line", "score", "note"])
    for row in table.to_dict("records"):
        yield analysis.lead(row["dataset"], ", ") + f"{row['line']}, {SCORES[row['score']]}: {row['note']}"


def _table(analysis: Analysis) -> pd.DataFrame:
    table = analysis.clean_once(ranking(analysis))
    return table.assign(score=table["score"].map(SCORES))


_RANKS = TableSpecification(
    "ranking",
    "How well do scores rank images by their error?",
    "The error is 1 − Dice, the mean over an image's structures; a replicate counts as an image. Spearman: 1 where "
    "the most uncertain images are the worst, 0 where the score says nothing, below 0 where it misleads. AUROC: the "
    f"chance that a failure (Dice below {FAILURE_BELOW:g}) is more uncertain than an image that is none; 0.5 says "
    "nothing. AURC: the mean error of the images accepted, averaged over all coverages; a perfect ranking would "
    "have the least possible one, one by chance the mean error; the excess is what it has above the least. Of "
    f"several trained models the mean of what each of them has. {INTERVALS}; none where all resamples agree. A "
    "dash is a number that is not defined, for the reason beside it: it is not 0.",
    (
        *CONDITION, ARCHITECTURE, Column("score", "score"), mean_column("spearman", "Spearman"),
        mean_column("failure_auroc", "failure AUROC"), mean_column("aurc", "AURC"),
        mean_column("excess_aurc", "excess"), Column("optimal_aurc", "least possible", "score"),
        Column("chance_aurc", "by chance", "score"), Column("n_failures", "failures", "count"), *IMAGES,
        Column("note", "why not"),
    ),
    _table,
)  # fmt: skip

SECTION = Section(
    name="uncertainty",
    short="Uncertainty",
    title="Do scores of uncertainty tell the errors?",
    text=(
        "Scores that need no reference rank the images of each architecture under each condition; the error, "
        "1 − Dice, is known here. Spearman's correlation of the two is 1 where the most uncertain images are the worst "
        "ones, 0 where the score says nothing, and below 0 where it misleads. " + BANDS + ". Where a correlation "
        "is not defined (a single member, all scores equal) the line has a gap, and the table says why.",
        "Risk over coverage: of the images accepted, the least uncertain first, the mean error. A good score makes it "
        "low on the left; the least possible is that of a ranking after the error itself. At full coverage all "
        "scores have the mean error. A risk is in the units of the error: compare curves within a panel.",
    ),
    figures=_figures,
    groups={
        **{f"{_RANKING}-{score}": f"ranking by {label}" for score, label in SCORES.items()},
        _RISK: "risk over coverage",
    },
    folded=tuple(f"{_RANKING}-{score}" for score in SCORES if score != "predicted_dice"),
    tables=(_RANKS,),
    lists={"What cannot rank": _undefined},
)
