"""The tables of confidence, calibration, bounds and experts: their columns, titles, and what is said of them."""

from __future__ import annotations

import pandas as pd

from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.eval.report.calibration import CONFIDENCE_LABEL, REGION
from nnunet_robust.eval.report.experts import MEASURES
from nnunet_robust.eval.report.promises import INTERVAL, OUTER, PROMISES
from nnunet_robust.eval.report.ranking import SCORES
from nnunet_robust.eval.statistics import CONFIDENCE
from nnunet_robust.eval.uncertainty.reliability import CONFIDENCE_ROW, N_BINS
from nnunet_robust.eval.uncertainty.selective import FAILURE_BELOW
from nnunet_robust.pages.tables import Column, Kind

_DATASET = Column("dataset", "dataset")
_CONDITION = (_DATASET, Column("perturbation", "perturbation", "words"), Column("level", "level", "level"))
_LINE = Column("line", "architecture")
_SAMPLE = (Column("n_cases", "images", "count"), Column("n_patients", "patients", "count"))
_INTERVAL = f"{100 * CONFIDENCE:.0f} % bootstrap intervals over patients"


def _once(analysis: Analysis, table: pd.DataFrame) -> pd.DataFrame:
    """The clean images once, not as level 0 of every perturbation."""
    return table[analysis.once(table)].reset_index(drop=True)


def _ranking(analysis: Analysis) -> pd.DataFrame:
    table = _once(analysis, analysis.ranking)
    return table.assign(score=table["score"].map(SCORES))


def _calibration(analysis: Analysis) -> pd.DataFrame:
    table = _once(analysis, analysis.calibration)
    return table.assign(label=table["label"].replace({CONFIDENCE_ROW: CONFIDENCE_LABEL}))


def _coverage(analysis: Analysis) -> pd.DataFrame:
    """A row per condition, architecture and structure, the promises beside each other."""
    table = _once(analysis, analysis.promises)
    keys = ["dataset", "perturbation", "level", "label", "line"]
    wide = table.drop_duplicates(keys)[keys].reset_index(drop=True)
    for promise in PROMISES:
        part = table[table["promise"] == promise]
        if part.empty:
            continue
        names = {
            "mean": promise, "low": f"{promise}_low", "high": f"{promise}_high", "verdict": f"{promise}_verdict",
        }  # fmt: skip
        wide = wide.merge(part.rename(columns=names)[[*keys, *names.values()]], on=keys, how="left")
        wide[f"{promise}_verdict"] = wide[f"{promise}_verdict"].fillna("–")
    of_all = table[~table["promise"].isin(OUTER)]
    sizes = (of_all if len(of_all) else table).groupby(keys)[["n_cases", "n_patients"]].max().reset_index()
    with_object = table[table["promise"].isin(OUTER)].groupby(keys)["n_patients"].max()
    sizes = sizes.merge(with_object.rename("n_with_object").reset_index(), on=keys, how="left")
    for name, part in (("alpha", table[table["promise"] != INTERVAL]), ("share", table[table["promise"] == INTERVAL])):
        promised = part.drop_duplicates(keys)[[*keys, "promised"]].rename(columns={"promised": name})
        wide = wide.merge(promised, on=keys, how="left") if len(part) else wide
    return wide.merge(sizes, on=keys, how="left")


def _breaks(analysis: Analysis) -> pd.DataFrame:
    table = analysis.breaks
    return table.assign(promise=table["promise"].map(PROMISES))


def _difficulty(analysis: Analysis) -> pd.DataFrame:
    table = analysis.difficulty
    return table.assign(measure=table["measure"].map(MEASURES))


_HEADINGS = {
    "outer_threshold": "missed by the outer threshold",
    "inner_threshold": "wrong in the inner threshold",
    "outer_margin_mm": "missed by the outer margin",
    "inner_margin_mm": "wrong in the inner margin",
    "interval": "Dice in its interval",
}

_PROMISE = {
    "outer_threshold": "outer threshold",
    "inner_threshold": "inner threshold",
    "outer_margin_mm": "outer margin",
    "inner_margin_mm": "inner margin",
    "interval": "interval",
}

CONFIDENCE_KINDS = (
    Kind(
        "ranking",
        "How well do scores rank images by their error?",
        "The error is 1 − Dice, the mean over an image's structures; a replicate counts as an image. Spearman: 1 where "
        "the least sure images are the worst, 0 where the score says nothing, below 0 where it misleads. AUROC: the "
        f"chance that a failure (Dice below {FAILURE_BELOW:g}) is less sure than an image that is none; 0.5 says "
        "nothing. AURC: the mean error of the images accepted, averaged over all coverages; a perfect ranking would "
        "have the least possible one, one by chance the mean error; the excess is what it has above the least. Of "
        f"several trained models the mean of what each of them has. {_INTERVAL}; none where all resamples agree. A "
        "dash is a number that is not defined, for the reason beside it: it is not 0.",
        (
            *_CONDITION,
            _LINE,
            Column("score", "score"),
            Column("spearman", "Spearman", "score", "spearman_low", "spearman_high"),
            Column("failure_auroc", "failure AUROC", "score", "failure_auroc_low", "failure_auroc_high"),
            Column("aurc", "AURC", "score", "aurc_low", "aurc_high"),
            Column("excess_aurc", "excess", "score", "excess_aurc_low", "excess_aurc_high"),
            Column("optimal_aurc", "least possible", "score"),
            Column("chance_aurc", "by chance", "score"),
            Column("n_failures", "failures", "count"),
            *_SAMPLE,
            Column("note", "why not"),
        ),
        _ranking,
        "sureness",
    ),
    Kind(
        "calibration",
        "Calibration of voxels' probabilities",
        f"Expected calibration error in {N_BINS} bins: the distance of the share that is right from the mean "
        f"probability, averaged over bins by their voxels; 0 is perfect. Counted are the {REGION}; the voxels of all "
        "images are added up, large structures weigh more. The gap is the mean probability less the share that is "
        "right: above 0, the model is surer than it should be. For a structure, its own probability and how often it "
        f"is there. Of several trained models the mean of what each of them has. {_INTERVAL}.",
        (
            *_CONDITION,
            _LINE,
            Column("label", "of"),
            Column("mean", "calibration error", "score", "low", "high"),
            Column("gap", "gap", "score", "gap_low", "gap_high"),
            Column("n_voxels", "voxels", "count"),
            *_SAMPLE,
        ),
        _calibration,
        "calibration",
    ),
    Kind(
        "breaks",
        "Where promises are first broken",
        "The lowest level at which the whole interval of what was observed is on the wrong side of what was promised, "
        "and what was observed there; a dash where that is so at no level measured, which does not show that the "
        f"promise holds. {_INTERVAL}; levels are not adjusted for one another.",
        (
            _DATASET,
            _CONDITION[1],
            _LINE,
            Column("label", "structure"),
            Column("promise", "share of"),
            Column("promised", "promised", "score"),
            Column("level", "first broken at level", "level"),
            Column("mean", "observed there", "score", "low", "high"),
            Column("highest", "highest level", "level"),
            Column("n_patients", "patients", "count"),
        ),
        _breaks,
        "bounds",
    ),
    Kind(
        "coverage",
        "What bounds and intervals came to, under each condition",
        "Mean losses: the share of the object that lies outside of the outer mask (of images that have the object), "
        "and of the inner mask that is not object; the share of images whose Dice lies in its interval. Averaged over "
        f"a patient's images, then trained models, then patients. {_INTERVAL}. Beside each what it says of the "
        "promise: broken where the whole interval is on the wrong side of it, kept where none of it is, not settled "
        "else.",
        (
            *_CONDITION,
            Column("label", "structure"),
            _LINE,
            *(
                column
                for promise, heading in _HEADINGS.items()
                for column in (
                    Column(promise, heading, "score", f"{promise}_low", f"{promise}_high"),
                    Column(f"{promise}_verdict", f"{_PROMISE[promise]}: promise"),
                )
            ),
            Column("alpha", "promised: at most", "score"),
            Column("share", "promised: Dice in its interval, at least", "score"),
            Column("n_cases", "cases", "count"),
            Column("n_patients", "patients", "count"),
            Column("n_with_object", "with the object", "count"),
        ),
        _coverage,
        "bounds",
    ),
    Kind(
        "experts",
        "The model with the experts, and the experts with each other",
        "The model's mean Dice with each expert, the experts' mean Dice with each other, and the difference, paired by "
        f"patient. {_INTERVAL}. Above 0, the model is nearer to the experts than they are to each other; that it is as "
        "good as an expert does not follow, as a smooth compromise is near to all of them.",
        (
            *_CONDITION,
            _LINE,
            Column("model", "model with experts", "score", "model_low", "model_high"),
            Column("experts", "experts with each other", "score", "experts_low", "experts_high"),
            Column("difference", "difference", "score", "difference_low", "difference_high"),
            Column("n_cases", "cases", "count"),
            Column("n_patients", "patients", "count"),
        ),
        lambda analysis: _once(analysis, analysis.experts),
        "experts",
    ),
    Kind(
        "difficulty",
        "Are the cases hard that experts differ on?",
        "Spearman's rank correlation of a case's Dice on the clean images with the experts' agreement on it, and with "
        "its texture divergence, over the same cases: 1 where the cases with the higher number are the better ones, 0 "
        f"where it says nothing. {_INTERVAL}.",
        (
            _DATASET,
            _LINE,
            Column("measure", "Dice and"),
            Column("spearman", "Spearman", "score", "low", "high"),
            Column("n_cases", "cases", "count"),
            Column("n_patients", "patients", "count"),
            Column("note", "why not"),
        ),
        _difficulty,
        "experts",
    ),
)
"""Rows of `kinds`, each with the section of the page that it stands in."""
