"""The page's sections on confidence, calibration, bounds and experts: what stands in them, and what is said there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.eval.report.calibration import REGION
from nnunet_robust.eval.report.confidence_figures import DIAGRAM, ERROR, EXPERTS, PROMISE, RANKING, RISK
from nnunet_robust.eval.report.promises import PROMISES, calibrations, sentences
from nnunet_robust.eval.report.ranking import SCORES
from nnunet_robust.eval.report.sections import Section, filled
from nnunet_robust.eval.statistics import CONFIDENCE
from nnunet_robust.pages.tables import ReportTable

GROUPS = {
    **{f"{RANKING}-{score}": f"ranking by {label}" for score, label in SCORES.items()},
    RISK: "risk over coverage",
    ERROR: "expected calibration error",
    DIAGRAM: "reliability diagrams",
    **{f"{PROMISE}-{promise}": f"share of {what}" for promise, what in PROMISES.items()},
    EXPERTS: "Dice with the experts",
}
"""Group of figures -> its title."""

_BANDS = f"Bands and bars are {100 * CONFIDENCE:.0f} % bootstrap intervals over patients"


_SECTIONS = (
    Section(
        "sureness",
        "How sure is it, and with reason?",
        "How sure",
        (*(f"{RANKING}-{score}" for score in SCORES), RISK),
        (f"{RANKING}-predicted_dice", RISK),
        (
            "Scores that need no reference rank the images of each architecture under each condition; the error, "
            "1 − Dice, is known here. Spearman's correlation of the two is 1 where the least sure images are the worst "
            "ones, 0 where the score says nothing, and below 0 where it misleads. " + _BANDS + ". Where a correlation "
            "is not defined (a single member, all scores equal) the line has a gap, and the table says why.",
            "Risk over coverage: of the images accepted, the surest first, the mean error. A good score makes it low "
            "on the left; the least possible is that of a ranking after the error itself. At full coverage all "
            "scores have the mean error. A risk is in the units of the error: compare curves within a panel.",
        ),
    ),
    Section(
        "calibration",
        "Do probabilities mean what they say?",
        "Calibration",
        (ERROR, DIAGRAM),
        (ERROR, DIAGRAM),
        (
            f"Counted are the {REGION}, of all images together, by the probability of the label that is called; over "
            "whole images the error would mostly say how much plain background there is. 0 is perfect. In a "
            "reliability diagram, points below the diagonal are surer than they should be; bins with few voxels "
            "have wide bars. " + _BANDS + ".",
        ),
    ),
    Section(
        "bounds",
        "Are the promised bounds kept?",
        "Bounds",
        tuple(f"{PROMISE}-{promise}" for promise in PROMISES),
        (f"{PROMISE}-outer_threshold", f"{PROMISE}-interval"),
        (
            "What the masks and intervals of a calibration came to under each condition, against what was promised "
            "(dashed). A promise is about images like those of the calibration: under another condition it is measured "
            "here whether it still holds, not promised. It is called broken where the whole interval of the observed "
            "mean over patients is on the wrong side; that it is not shown to be broken does not show that it holds. A "
            "promise without a confidence is one on average over calibration sets, too: of a single one, the mean may "
            "lie a little on the wrong side by chance. " + _BANDS + ".",
        ),
    ),
    Section(
        "experts",
        "The model beside the experts",
        "Experts",
        (EXPERTS,),
        (EXPERTS,),
        (
            "The model's mean Dice with each expert, and the experts' mean Dice with each other on the same images: "
            "both compare one segmentation with one expert's. Experts drew the clean images: their agreement is the "
            "same under every perturbation. " + _BANDS + ".",
        ),
    ),
)


def confidence_sections(
    analysis: Analysis, drawn: Mapping[str, Any], tables: Sequence[ReportTable]
) -> list[dict[str, Any]]:
    """The sections that have something to show, for the template.

    Args:
        analysis: of the report.
        drawn: group -> its figures, as `page` draws them.
        tables: of the report.
    """
    lists = {"sureness": _undefined, "bounds": _promised}
    return list(filled(_SECTIONS, GROUPS, lists, analysis, drawn, tables))


def _promised(analysis: Analysis) -> list[dict[str, Any]]:
    """What was promised by each calibration, and where that was first broken."""
    several = len(analysis.datasets) > 1
    promised = [
        f"{line}{' on ' + ', '.join(sweep.datasets) if several else ''}: {sentence}"
        for sweep in analysis.sweeps
        for line, made in calibrations(sweep).items()
        for sentence in made.sentences
    ]
    lists = [
        {"title": "What was promised", "lines": promised},
        {
            "title": "Where promises are first broken",
            "lines": list(sentences(analysis.breaks, several, analysis.names)),
        },
    ]
    return [of_kind for of_kind in lists if of_kind["lines"]]


def _undefined(analysis: Analysis) -> list[dict[str, Any]]:
    """Which architecture has no score at all, and why."""
    table = analysis.ranking[analysis.ranking["aurc"].isna()]
    several = len(analysis.datasets) > 1
    found = table.drop_duplicates(["dataset", "line", "score", "note"]).to_dict("records")
    lines = [f"{row['dataset']}, " * several + f"{row['line']}, {SCORES[row['score']]}: {row['note']}" for row in found]
    return [{"title": "What cannot rank", "lines": lines}] if lines else []
