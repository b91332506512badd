"""What the numbers do not tell, and what was assumed when they were measured."""

from __future__ import annotations

from typing import Any

from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.section import Parts, Section
from nnunet_robust.pages.wording import few_patients

_LIMITS = (
    "A curve's interval tells how the mean would vary with other patients of the same kind. It does not cover "
    "training: another seed or fold may lie elsewhere. Where an architecture was trained several times, its lowest and "
    "highest trained model stand beside its mean, and verdict, recipe and mixed models take other trainings into "
    "account.",
    "All models see the same images with the same noise. Whether two intervals overlap describes them, and is no test: "
    "intervals that overlap do not rule out a difference, for the intervals leave the pairing aside. The table of "
    "pairs keeps it.",
    "The worst level is found in the same data that its score is read from. The verdict's intervals allow for that.",
    "An object is missed where there is one and the prediction has none, and hallucinated the other way round. Dice "
    "and NSD are then 0, HD95 and ASSD the image's diagonal, so that a failure never improves a mean.",
)


def limit_sentences(analysis: Analysis) -> list[str]:
    """What the numbers do not tell, and what was assumed when they were measured, in sentences."""
    assumptions = dict.fromkeys(a for sweep in analysis.sweeps for a in sweep.manifest.assumptions)
    n_patients = int(analysis.points["dice"]["n_patients"].min())
    few = few_patients(n_patients, what="patient" if analysis.patients_known() else "image")
    return [*few, *_LIMITS, *assumptions]


def _content(analysis: Analysis, _: Parts) -> dict[str, Any]:
    return {"sentences": limit_sentences(analysis)}


SECTION = Section(name="limits", short="Assumptions and limits", content=_content, template="limits")
