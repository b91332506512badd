"""Segmentation metrics of one structure in one case: overlap, surface distances in mm, and what was missed.

Surface distances are those of Google DeepMind's `surface-distance`: surfaces run through the corners of voxels, their
elements are weighted by area (length in 2d), and what lies outside of the image counts as background, so that an object
that touches the image's border has a surface there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import surface_distance
from numpy.typing import NDArray

from nnunet_robust.errors import UserError

Outcome = Literal["ok", "both_empty", "missed", "hallucinated"]


@dataclass(frozen=True)
class MetricInfo:
    """What a plot or a table has to know about a metric.

    Attributes:
        label: for axes, without the unit.
        unit: "mm", or "" where there is none.
        better: "higher" or "lower"; "one" where 1 is best and both sides are worse.
    """

    label: str
    unit: str
    better: Literal["higher", "lower", "one"]


METRIC_INFO: dict[str, MetricInfo] = {
    "dice": MetricInfo("Dice", "", "higher"),
    "iou": MetricInfo("IoU", "", "higher"),
    "hd95_mm": MetricInfo("HD95", "mm", "lower"),
    "assd_mm": MetricInfo("ASSD", "mm", "lower"),
    "nsd": MetricInfo("NSD", "", "higher"),
    "volume_ratio": MetricInfo("Volume ratio", "", "one"),
}
METRICS: tuple[str, ...] = tuple(METRIC_INFO)


@dataclass(frozen=True)
class SegmentationMetrics:
    """The metrics of one structure in one case; never NaN.

    | case            | dice, iou, nsd | hd95_mm, assd_mm         | volume_ratio | outcome        |
    |-----------------|----------------|--------------------------|--------------|----------------|
    | both empty      | 1              | 0                        | 1            | `both_empty`   |
    | prediction empty| 0              | the image's diagonal, mm | 0            | `missed`       |
    | reference empty | 0              | the image's diagonal, mm | inf          | `hallucinated` |
    | else            | as defined     | as defined               | as defined   | `ok`           |

    Attributes:
        dice: 2 |A and B| / (|A| + |B|), in [0, 1].
        iou: |A and B| / |A or B|, in [0, 1].
        hd95_mm: robust Hausdorff distance: the larger of the two directions' 95th percentiles, weighted by surface.
        assd_mm: average symmetric surface distance; see `segmentation_metrics`.
        nsd: normalised surface Dice: the share of both surfaces that lies within the tolerance of the other.
        volume_ratio: n_pred / n_ref.
        n_ref: voxels of the reference.
        n_pred: voxels of the prediction.
        outcome: the row of the table.
    """

    dice: float
    iou: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    volume_ratio: float
    n_ref: int
    n_pred: int
    outcome: Outcome


def segmentation_metrics(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float
) -> SegmentationMetrics:
    """Compare a predicted mask with the reference.

    With surface elements i of the reference (area a_i, distance d_i to the predicted surface) and j of the prediction
    (area b_j, distance e_j to the reference's):

        ASSD = (sum a_i d_i + sum b_j e_j) / (sum a_i + sum b_j)
        NSD  = (sum a_i [d_i <= tolerance] + sum b_j [e_j <= tolerance]) / (sum a_i + sum b_j)

    Args:
        reference: bool array, 2d or 3d. A 3d one whose first axis has length 1 is a 2d image: that axis and its
            spacing are dropped.
        prediction: bool array of the same shape.
        spacing_mm: the voxel's size along each axis of the arrays, in mm, > 0.
        tolerance_mm: surfaces nearer than or as near as this agree (NSD), in mm, >= 0.

    Returns:
        The metrics; for empty masks as the table of `SegmentationMetrics` says.

    Raises:
        UserError: masks that are not bool, differ in shape, or are neither 2d nor 3d; a bad spacing or tolerance.

    Reference: Nikolov et al. 2021, arXiv 1809.04430 (surface elements, NSD).
    """
    _check(reference, prediction, spacing_mm, tolerance_mm)
    spacing = [float(s) for s in spacing_mm]
    if reference.ndim == 3 and reference.shape[0] == 1:
        reference, prediction, spacing = reference[0], prediction[0], spacing[1:]

    n_ref, n_pred = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    if n_ref == 0 and n_pred == 0:
        return SegmentationMetrics(1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0, 0, "both_empty")
    if n_ref == 0 or n_pred == 0:
        diagonal = math.hypot(*(n * s for n, s in zip(reference.shape, spacing, strict=True)))
        ratio, outcome = (0.0, "missed") if n_pred == 0 else (math.inf, "hallucinated")
        return SegmentationMetrics(0.0, 0.0, diagonal, diagonal, 0.0, ratio, n_ref, n_pred, outcome)  # type: ignore[arg-type]

    overlap = int(np.count_nonzero(reference & prediction))
    # crops to the box around both masks by itself
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return SegmentationMetrics(
        dice=2 * overlap / (n_ref + n_pred),
        iou=overlap / (n_ref + n_pred - overlap),
        hd95_mm=float(surface_distance.compute_robust_hausdorff(distances, 95)),
        assd_mm=_assd(distances),
        nsd=float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        volume_ratio=n_pred / n_ref,
        n_ref=n_ref,
        n_pred=n_pred,
        outcome="ok",
    )


def case_metrics(
    reference_labels: NDArray[np.integer],
    prediction_labels: NDArray[np.integer],
    regions: Mapping[str, int | Iterable[int]],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    ignore_label: int | None = None,
) -> dict[str, SegmentationMetrics]:
    """Compare two label maps, structure by structure.

    Args:
        reference_labels: integer array, 2d, 3d or (1, H, W).
        prediction_labels: integer array of the same shape.
        regions: name -> a label, or the labels whose union is the region; as in nnU-Net's dataset.json, without
            the background.
        spacing_mm: as for `segmentation_metrics`.
        tolerance_mm: as for `segmentation_metrics`.
        ignore_label: voxels where the reference has this label belong to neither mask.

    Returns:
        name -> metrics, in the order of `regions`.

    Raises:
        UserError: as `segmentation_metrics`.
    """
    _check_shapes(reference_labels, prediction_labels)
    valid = None if ignore_label is None else reference_labels != ignore_label
    result = {}
    for name, labels in regions.items():
        reference, prediction = _mask(reference_labels, labels), _mask(prediction_labels, labels)
        if valid is not None:
            reference, prediction = reference & valid, prediction & valid
        result[name] = segmentation_metrics(reference, prediction, spacing_mm, tolerance_mm)
    return result


def _mask(labels: NDArray[np.integer], wanted: int | Iterable[int]) -> NDArray[np.bool_]:
    if isinstance(wanted, (int, np.integer)):
        return labels == wanted
    return np.isin(labels, list(wanted))


def _assd(distances: Mapping[str, NDArray[np.float64]]) -> float:
    areas_ref, areas_pred = distances["surfel_areas_gt"], distances["surfel_areas_pred"]
    total = areas_ref @ distances["distances_gt_to_pred"] + areas_pred @ distances["distances_pred_to_gt"]
    return float(total / (areas_ref.sum() + areas_pred.sum()))


def _check_shapes(reference: NDArray, prediction: NDArray) -> None:
    if reference.shape != prediction.shape:
        raise UserError(
            f"Reference and prediction must have the same shape, got {reference.shape} and {prediction.shape}"
        )


def _check(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float
) -> None:
    _check_shapes(reference, prediction)
    if reference.dtype != bool or prediction.dtype != bool:
        raise UserError(f"Masks must be bool arrays, got {reference.dtype} and {prediction.dtype}")
    if reference.ndim not in (2, 3):
        raise UserError(f"Masks must have 2 or 3 axes, got the shape {reference.shape}")
    if len(spacing_mm) != reference.ndim or not all(0 < s < math.inf for s in spacing_mm):
        raise UserError(
            f"The spacing must be {reference.ndim} positive numbers in mm, one for each axis, got {list(spacing_mm)}"
        )
    if not tolerance_mm >= 0:
        raise UserError(f"The tolerance must be >= 0 mm, got {tolerance_mm}")
