"""What a sweep stores of a prediction beside its metrics: how sure it is, and how far experts agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnunet_robust.eval.inference.members import Prediction
from nnunet_robust.eval.results.results import SCORES, cell
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.uncertainty.expert_variability import expert_agreement
from nnunet_robust.eval.uncertainty.reliability import reliability_bins
from nnunet_robust.eval.uncertainty.uncertainty import BAND_MM, StructureScores, neighbourhood


def score_columns(scores: StructureScores, n_members: int) -> dict[str, Any]:
    """A structure's scores by the names that they have in every table, empty where there is nothing to say."""
    return {
        "n_members": n_members,
        "entropy_bits": scores.entropy_bits,
        "mutual_information_bits": scores.mutual_information_bits if n_members > 1 else "",
        "predicted_dice": cell(scores.overlap.predicted_dice),
        "pairwise_dice": cell(scores.overlap.pairwise_dice),
        "soft_dice": scores.overlap.soft_dice,
    }


def scores_of(prediction: Prediction, sure: Mapping[str, StructureScores], scene: Scene) -> dict[str, dict[str, Any]]:
    """Structure -> the columns `results.SCORES`, empty where there is nothing to say.

    Args:
        prediction: of an image of the scene.
        sure: structure -> its scores; empty where members were not told apart.
        scene: the case.
    """
    heads = scene.heads
    rows: dict[str, dict[str, Any]] = {name: dict.fromkeys(SCORES, "") for name in heads.structures}
    if prediction.uncertainty is not None:
        for name, scores in sure.items():
            rows[name] |= score_columns(scores, prediction.uncertainty.n_members)
    if prediction.weights:
        weights = " ".join(f"{weight:.6g}" for weight in prediction.weights)
        for row in rows.values():
            row |= {"predicted_divergence_bits": cell(prediction.divergence_bits), "weights": weights}
    if scene.experts:
        said = np.where(scene.label == scene.ignore_label, 0, prediction.labels)
        agreements = expert_agreement(scene.experts, dict(heads.labels), said)
        for name, agreement in agreements.items():
            rows[name] |= {
                "expert_agreement": agreement.mean_pairwise,
                "model_expert_dice": agreement.model_mean,
            }
    return rows


def reliability_rows(prediction: Prediction, scene: Scene) -> list[dict[str, Any]]:
    """The rows of `reliability.csv`: voxels within `BAND_MM` of the reference or of the prediction, in bins.

    Args:
        prediction: with its members.
        scene: the case.
    """
    assert prediction.uncertainty is not None
    near = neighbourhood(scene.foreground | (prediction.labels > 0), scene.spacing_mm, BAND_MM)
    bins = reliability_bins(prediction.uncertainty.mean, scene.label, scene.heads, near, scene.ignore_label)
    counted = {"n": bins.counts, "p": bins.probabilities, "hits": bins.hits}
    columns = [f"{what}_{number}" for what, of_row in counted.items() for number in range(of_row.shape[1])]
    values = np.concatenate([of_row.astype(object) for of_row in counted.values()], axis=1)
    return [
        {"label": name, **dict(zip(columns, row, strict=True))} for name, row in zip(bins.names, values, strict=True)
    ]
