"""The verdicts of a report for programs, `verdicts.json`; docs/report.md has its schema."""

from __future__ import annotations

import json
import math
from typing import Any

from nnunet_robust import __version__
from nnunet_robust.eval.report.sections.degradation import RECORD_KEY, record
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis
from nnunet_robust.eval.report.shared.answer import all_recipes, all_verdicts, answers, structures_apart
from nnunet_robust.eval.statistics import CONFIDENCE
from nnunet_robust.eval.statistics.recipe import Recipe
from nnunet_robust.eval.statistics.verdict import Interval, Verdict


def verdicts_json(analysis: Analysis) -> str:
    """Write verdicts and recipes as JSON; the same files give the same bytes."""
    content = {
        "version": __version__,
        "metric": METRIC,
        "margin": analysis.margin,
        "confidence": CONFIDENCE,
        "datasets": _datasets(analysis),
        "structures": [
            {"label": label, "datasets": _datasets(of_label)} for label, of_label in structures_apart(analysis).items()
        ],
        RECORD_KEY: record(analysis),
    }
    return as_json(content)


def as_json(content: Any) -> str:
    """Write what programs read: NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _datasets(analysis: Analysis) -> list[dict[str, Any]]:
    told = {answer.dataset: answer for answer in answers(analysis)}
    found = all_verdicts(analysis)
    return [
        {
            "dataset": recipe.dataset,
            **_recipe(recipe),
            "sentences": [text for text in told[recipe.dataset][1:] if text],
            "verdicts": [
                _verdict(analysis, *key, verdict) for key, verdict in found.items() if key[0] == recipe.dataset
            ],
        }
        for recipe in all_recipes(analysis)
    ]


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says of all conditions, by the names of the schema."""
    return {
        "baseline": recipe.baseline,
        "take": recipe.take,
        "over_baseline": _interval(recipe.over_baseline),
        "evidence": recipe.evidence,
        "n_patients": recipe.n_patients,
        "n_trained": recipe.n_trained,
        "no_other_better_by_more_than_the_margin": recipe.equivalent,
        "detectable": recipe.detectable,
    }


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return {
        **recipe_fields(recipe),
        "switches": [
            {
                "perturbation": switch.perturbation,
                "levels": switch.levels,
                "take": switch.take,
                "gains": [_interval(gain) for gain in switch.gains],
                "cost_on_clean_images": _interval(switch.cost),
            }
            for switch in recipe.switches
        ],
    }


def _verdict(analysis: Analysis, dataset: str, perturbation: str, level: float, verdict: Verdict) -> dict[str, Any]:
    return {
        "perturbation": perturbation,
        "level": level,
        "unit": analysis.unit(dataset, perturbation),
        **verdict_fields(verdict),
    }


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """What a verdict says, by the names of the schema."""
    return {
        "best": verdict.best,
        "settled": verdict.settled,
        "matters": verdict.matters,
        "lead": _interval(verdict.lead),
        "means": verdict.means,
        "differences": [
            {"first": first, "second": second, **(_interval(pair) or {})}
            for (first, second), pair in verdict.pairs.items()
        ],
        "n_patients": verdict.n_patients,
        "n_trained": verdict.n_trained,
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval._asdict()


def _plain(value: Any) -> Any:
    """The same without what JSON lacks: NaN and infinity become null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
