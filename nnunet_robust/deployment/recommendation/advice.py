"""A recommendation in words, tables and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pandas as pd

from nnunet_robust.common.sentences import listed
from nnunet_robust.deployment.recommendation.placement import MASK_FEATURES, Place
from nnunet_robust.deployment.recommendation.recommend import TRUSTED_DICE, ImageAnswer, Recommendation
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.statistics import CONFIDENCE, NO_DIFFERENCE
from nnunet_robust.eval.statistics.verdict import Verdict

FEW_PATIENTS = 20
"""With fewer, the answer says that they are few."""

SURE = 0.8
"""A confidence below this is called a tendency."""

_CONDITIONS = 3  # that an image is likened to, at most


def image_table(recommendation: Recommendation) -> pd.DataFrame:
    """Make a table with a row per image: what was measured, what it is most like, how far off, and its own answer."""
    return pd.DataFrame([_image_row(answer, recommendation.names) for answer in recommendation.images])


def _image_row(answer: ImageAnswer, names: DisplayNames) -> dict[str, Any]:
    place = answer.place
    return {
        "image": answer.image,
        **{name.removesuffix("_bits").replace("_", " "): value for name, value in answer.measured.items()},
        "most like": _alike(place, names)[0] if place else "",
        "distance / limit": round(place.distance / place.limit, 3) if place and place.limit else math.nan,
        "answer": answer.verdict.answer if answer.verdict else "declined",
        "confidence": _percent(answer.verdict.confidence) if answer.verdict else "",
    }


def expected_table(recommendation: Recommendation) -> pd.DataFrame:
    """Make a table with a row per architecture: its mean Dice at images like these, and on clean ones. Best first."""
    verdict = recommendation.verdict
    rows = [
        {
            "architecture": name,
            "Dice at such images": row["mean"],
            "low": row["low"],
            "high": row["high"],
            f"within {recommendation.margin:g} of the best": _percent(row["share"]),
            "Dice on clean images": recommendation.clean[name],
        }
        for name, row in (verdict.expected if verdict else {}).items()
    ]
    return pd.DataFrame(rows).sort_values("Dice at such images", ascending=False, kind="stable", ignore_index=True)


def sentences(recommendation: Recommendation) -> list[str]:
    """Write the answer for all images, the reasons, and what it rests on."""
    warnings = [f"Warning: {warning}" for warning in recommendation.warnings]
    if recommendation.verdict is None:
        return [f"Declined: {recommendation.declined}.", *warnings]
    inside = [answer for answer in recommendation.images if answer.verdict]
    found = [_verdict(recommendation.verdict, recommendation.margin), _reasons(recommendation, inside)]
    if by_mask := _masks(recommendation.images):
        found.append(by_mask)
    if outside := [answer for answer in recommendation.images if not answer.verdict]:
        names = listed([answer.image for answer in outside], 5)
        found.append(
            f"Not answered for: {names} ({len(outside)} of {len(recommendation.images)} images; {outside[0].image}: "
            f"{outside[0].declined})."
        )
    found.append(
        f"This rests on the {recommendation.verdict.patients} patients of {recommendation.dataset} whose images, clean "
        "or perturbed, are most like yours in what was measured; it was not checked on yours, which have no labels."
    )
    if recommendation.verdict.confidence < SURE:
        found.append(
            f"A confidence below {_percent(SURE)} is a tendency, no answer: the sweep has too few patients for one."
        )
    if recommendation.verdict.patients < FEW_PATIENTS:
        found.append(f"{recommendation.verdict.patients} patients are few: other patients could change the answer.")
    return found + warnings


def _verdict(verdict: Verdict, margin: float) -> str:
    share = f"in {_percent(verdict.confidence)} of {verdict.resamples} bootstraps over {verdict.patients} patients"
    if verdict.answer == NO_DIFFERENCE:
        return f"Answer: {NO_DIFFERENCE}; {share} all architectures are within {margin:g} Dice of the best."
    others = f" Within that margin of it is also {listed(verdict.equivalent, 5)}." if verdict.equivalent else ""
    return f"Answer: {verdict.answer}; {share} its mean Dice is within {margin:g} of the best.{others}"


def _reasons(recommendation: Recommendation, inside: list[ImageAnswer]) -> str:
    """What the images are like, as medians over the images."""
    places = [answer.place for answer in inside if answer.place]
    together = pd.concat([place.levels.assign(inside=place.levels["distance"] <= place.limit) for place in places])
    if together.empty:
        return f"Your images are like the clean images of {recommendation.dataset}."
    table = together.groupby("perturbation").median(numeric_only=True)
    table["images"] = together.groupby("perturbation")["inside"].sum()
    table = table[table["images"] > 0].sort_values(["images", "distance"], ascending=[False, True], kind="stable")
    found = [
        f"{recommendation.names[str(name)]} at {row['level']:.3g} ({row['low']:.3g} to {row['high']:.3g}; "
        f"{recommendation.units.get(name, '')})".replace("; )", ")")
        for name, row in table.head(_CONDITIONS).iterrows()
    ]
    count = f"your {len(inside)} images" if len(inside) > 1 else "your image"
    return f"In noise and blur {count} are like the sweep's images under {' or '.join(found)}."


def _alike(place: Place, names: DisplayNames) -> list[str]:
    """The conditions that an image is most like, nearest first."""
    rows = place.levels.head(_CONDITIONS).to_dict("records")
    return [f"{names[row['perturbation']]} {row['level']:.2g}" for row in rows] or ["clean"]


def _masks(answers: tuple[ImageAnswer, ...]) -> str:
    """What became of the predicted masks."""
    masked = [answer for answer in answers if MASK_FEATURES[0] in answer.measured]
    if not masked:
        return ""
    used = sum(MASK_FEATURES[0] in answer.used for answer in masked)
    return (
        f"Texture divergence and foreground ratio were measured within predicted masks, and count for {used} of "
        f"{len(masked)} images: those like which the sweep has a Dice of at least {TRUSTED_DICE:g} for this model."
    )


def as_json(recommendation: Recommendation) -> str:
    """Write all of it as JSON, for programs."""
    answer = {
        "sweep": str(recommendation.sweep),
        "dataset": recommendation.dataset,
        "margin": recommendation.margin,
        "confidence_level_of_intervals": CONFIDENCE,
        "verdict": _verdict_json(recommendation.verdict),
        "declined": recommendation.declined,
        "warnings": list(recommendation.warnings),
        "sentences": sentences(recommendation),
        "clean_dice": recommendation.clean,
        "images": [
            {
                "image": answer.image,
                "measured": {name: _number(value) for name, value in answer.measured.items()},
                "used": answer.used,
                "distance": answer.place.distance if answer.place else None,
                "limit": answer.place.limit if answer.place else None,
                "most_like": answer.place.levels.to_dict("records") if answer.place else [],
                "verdict": _verdict_json(answer.verdict),
                "declined": answer.declined,
            }
            for answer in recommendation.images
        ],
    }
    return json.dumps(answer, indent=1) + "\n"


def _verdict_json(verdict: Verdict | None) -> dict[str, Any] | None:
    return asdict(verdict) if verdict else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _percent(share: float) -> str:
    return f"{math.floor(100 * share + 1e-9)} %"
