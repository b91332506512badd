"""The rows of a prediction in each table: metrics, scores of uncertainty, agreement of experts, bins, guarantees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnunet_robust.eval.inference.members import Prediction
from nnunet_robust.eval.metrics.metrics import SegmentationMetrics
from nnunet_robust.eval.results.tables import BOUNDS, RELIABILITY, RESULTS, SCORES, cell, score_columns
from nnunet_robust.eval.sweep.guarantees import Guarantees
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.uncertainty.expert_variability import expert_agreement
from nnunet_robust.eval.uncertainty.reliability import reliability_bins
from nnunet_robust.eval.uncertainty.uncertainty import BAND_MM, StructureScores, neighbourhood


@dataclass(frozen=True)
class Outcome:
    """A prediction and what was measured of it.

    Attributes:
        prediction: of an image of the scene.
        metrics: structure -> its metrics.
        scores: structure -> its scores of uncertainty; empty where members were not told apart.
        scene: the case.
        guarantees: of the model; None where it is not calibrated.
    """

    prediction: Prediction
    metrics: Mapping[str, SegmentationMetrics]
    scores: Mapping[str, StructureScores]
    scene: Scene
    guarantees: Guarantees | None


def scores_of(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Structure -> the columns `tables.SCORES`, empty where there is nothing to say."""
    prediction, scene = outcome.prediction, outcome.scene
    layout = scene.label_layout
    rows: dict[str, dict[str, Any]] = {name: dict.fromkeys(SCORES, "") for name in layout.structures}
    if prediction.found is not None:
        for name, scores in outcome.scores.items():
            rows[name] |= score_columns(scores, prediction.found.n_members)
    if prediction.weights:
        weights = " ".join(f"{weight:.6g}" for weight in prediction.weights)
        for row in rows.values():
            row |= {"predicted_divergence_bits": cell(prediction.divergence_bits), "weights": weights}
    if scene.experts:
        predicted = np.where(scene.label == scene.ignore_label, 0, prediction.labels)
        for name, agreement in expert_agreement(scene.experts, dict(layout.labels), predicted).items():
            rows[name] |= {
                "expert_agreement": agreement.mean_pairwise,
                "model_expert_dice": agreement.model_mean,
            }
    return rows


def result_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of `results.csv`, one a structure."""
    scores = scores_of(outcome)
    return [{"label": label, **asdict(values), **scores[label]} for label, values in outcome.metrics.items()]


def reliability_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of `reliability.csv`: voxels within `BAND_MM` of the reference or of the prediction, in bins."""
    prediction, scene = outcome.prediction, outcome.scene
    assert prediction.found is not None
    near = neighbourhood(scene.foreground | (prediction.labels > 0), scene.spacing_mm, BAND_MM)
    bins = reliability_bins(prediction.found.mean, scene.label, scene.label_layout, near, scene.ignore_label)
    counted = {"n": bins.counts, "p": bins.probabilities, "hits": bins.hits}
    columns = [f"{what}_{number}" for what, of_row in counted.items() for number in range(of_row.shape[1])]
    values = np.concatenate([of_row.astype(object) for of_row in counted.values()], axis=1)
    return [
        {"label": name, **dict(zip(columns, row, strict=True))} for name, row in zip(bins.names, values, strict=True)
    ]


def bound_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of `bounds.csv`, one a structure that has guarantees."""
    assert outcome.guarantees is not None
    rows = outcome.guarantees.rows(outcome.prediction, outcome.scores, outcome.scene)
    return [{**row, "dice": outcome.metrics[row["label"]].dice} for row in rows]


ROWS: dict[str, Callable[[Outcome], list[dict[str, Any]]]] = {
    RELIABILITY.name: reliability_rows,
    BOUNDS.name: bound_rows,
    RESULTS.name: result_rows,
}
"""Name of a table -> the rows that a prediction has in it, for the tables of predictions."""
