"""A recommendation in words, tables and JSON."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from nnunet_robust.common.sentences import joined, listed
from nnunet_robust.deployment.recommendation.placement import MASK_FEATURES, Place
from nnunet_robust.deployment.recommendation.recommend import TRUSTED_DICE, ImageAnswer, Recommendation
from nnunet_robust.eval.report import verdicts_json
from nnunet_robust.eval.report.shared.answer import evidence, lead_of
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.statistics import CONFIDENCE
from nnunet_robust.eval.statistics.recipe import Recipe
from nnunet_robust.eval.statistics.verdict import Verdict
from nnunet_robust.pages.wording import counted, number, with_interval

_CONDITIONS = 3  # that an image is likened to, at most


def image_table(recommendation: Recommendation) -> pd.DataFrame:
    """Make a table with a row per image: what was measured, what it is most like, how far off, and the highest mean.

    The highest mean is no answer: nothing is tested for a single image.
    """
    return pd.DataFrame([_image_row(answer, recommendation.names) for answer in recommendation.images])


def _image_row(answer: ImageAnswer, names: DisplayNames) -> dict[str, Any]:
    place = answer.place
    return {
        "image": answer.image,
        **{name.removesuffix("_bits").replace("_", " "): value for name, value in answer.measured.items()},
        "most like": _alike(place, names)[0] if place else "",
        "distance / limit": round(place.distance / place.limit, 3) if place and place.limit else math.nan,
        "highest mean": next((f"{name} {number(mean)}" for name, mean in answer.means.items()), "declined"),
    }


def expected_table(recommendation: Recommendation) -> pd.DataFrame:
    """Make a table with a row per architecture: its mean Dice at images like these, and on clean ones.

    The baseline first, then the highest mean. Between them, whether it is told from the best, and its difference to
    the baseline with the interval that holds for all differences at once. Column `trainer` where names are short.
    """
    verdict, recipe = recommendation.verdict, recommendation.recipe
    if verdict is None or recipe is None:
        return pd.DataFrame()
    others = [name for name in verdict.means if name != recipe.baseline]
    rows = [
        {
            "architecture": name,
            "trainer": recommendation.trainers.get(name, name),
            "Dice at such images": verdict.means[name],
            "over the baseline": "baseline"
            if name == recipe.baseline
            else with_interval(*verdict.difference(name, recipe.baseline)),
            "told from the best": "no" if name in verdict.best else "yes",
            "Dice on clean images": recommendation.clean[name],
        }
        for name in (recipe.baseline, *others)
    ]
    table = pd.DataFrame(rows)
    return table.drop(columns="trainer") if table["trainer"].equals(table["architecture"]) else table


def sentences(recommendation: Recommendation) -> list[str]:
    """Write the answer for all images, the reasons, and what it rests on."""
    warnings = [f"Warning: {warning}" for warning in recommendation.warnings]
    verdict, recipe = recommendation.verdict, recommendation.recipe
    if verdict is None or recipe is None:
        return [f"Declined: {recommendation.declined}.", *warnings]
    inside = [answer for answer in recommendation.images if not answer.declined]
    found = [
        f"Answer: {_take(verdict, recipe)}.",
        f"The best on images like these, or not told from the best: {joined(verdict.best)} ({lead_of(verdict)}).",
        evidence(recipe, recommendation.counts),
    ]
    if verdict.difference(verdict.highest, recipe.take).value > verdict.margin:
        found.append(_tendency(verdict, recipe))
    found += [_reasons(recommendation, inside), *_masks(recommendation.images), *_not_answered(recommendation)]
    found.append(
        f"This rests on {counted(recipe.n_patients, recommendation.counts)} of {recommendation.dataset} that, clean "
        "or perturbed, are most like yours in what was measured; it was not checked on yours, which have no labels."
    )
    if len(inside) > 1:
        found.append("The highest mean of a single image is no answer: only all images together are tested.")
    return found + warnings


def _take(verdict: Verdict, recipe: Recipe) -> str:
    """What to take: the baseline, unless another one is better."""
    whose = "of these trained models, " * (recipe.n_trained == 1)
    where = "on images like these"
    if recipe.over_baseline is not None:
        gain = with_interval(*recipe.over_baseline)
        return f"{whose}take {recipe.take}: {where} it is better than {recipe.baseline} by {gain} Dice"
    stay = f"{whose}stay with {recipe.take}"
    if verdict.best == (recipe.take,):
        return f"{stay}: {where} it is better than every other one"
    if recipe.equivalent:
        return f"{stay}: no other one is better by more than {verdict.margin:g} Dice {where}, and the data show that"
    if recipe.take in verdict.best:
        return f"{stay}: no other one is shown to be better {where}"
    return f"{stay}: what is shown to be better {where} is better by {verdict.margin:g} Dice at most"


def _tendency(verdict: Verdict, recipe: Recipe) -> str:
    """What the means alone say beyond that."""
    more = with_interval(*verdict.difference(verdict.highest, recipe.take))
    return f"Not shown, but higher in these data than {recipe.take}: {verdict.highest}, by {more} Dice."


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


def _masks(answers: tuple[ImageAnswer, ...]) -> list[str]:
    """What became of the predicted masks; nothing where there are none."""
    masked = [answer for answer in answers if MASK_FEATURES[0] in answer.measured]
    if not masked:
        return []
    used = sum(MASK_FEATURES[0] in answer.used for answer in masked)
    return [
        f"Texture divergence and foreground ratio were measured within predicted masks, and count for {used} of "
        f"{len(masked)} images: those like which the sweep has a Dice of at least {TRUSTED_DICE:g} for this model."
    ]


def _not_answered(recommendation: Recommendation) -> list[str]:
    """The images that it declines; nothing where there are none."""
    outside = [answer for answer in recommendation.images if answer.declined]
    if not outside:
        return []
    return [
        f"Not answered for: {listed([answer.image for answer in outside], 5)} ({len(outside)} of "
        f"{len(recommendation.images)} images; {outside[0].image}: {outside[0].declined})."
    ]


def as_json(recommendation: Recommendation) -> str:
    """Write all of it as JSON, for programs; `docs/recommend.md` has the schema."""
    verdict, recipe = recommendation.verdict, recommendation.recipe
    answer = {
        "sweep": str(recommendation.sweep),
        "dataset": recommendation.dataset,
        "margin": recommendation.margin,
        "confidence": CONFIDENCE,
        "trainers": recommendation.trainers,
        "verdict": None
        if verdict is None or recipe is None
        else {**verdicts_json.recipe_fields(recipe), **verdicts_json.verdict_fields(verdict)},
        "declined": recommendation.declined,
        "warnings": list(recommendation.warnings),
        "sentences": sentences(recommendation),
        "clean_dice": recommendation.clean,
        "images": [
            {
                "image": answer.image,
                "measured": answer.measured,
                "used": answer.used,
                "distance": answer.place.distance if answer.place else None,
                "limit": answer.place.limit if answer.place else None,
                "most_like": answer.place.levels.to_dict("records") if answer.place else [],
                "means": answer.means,
                "declined": answer.declined,
            }
            for answer in recommendation.images
        ],
    }
    return verdicts_json.as_json(answer)
