"""Segmentation metrics of one structure in one case: overlap, surface distances in mm, and what was missed.

Surface distances are those of Google DeepMind's `surface-distance`: surfaces run through the corners of voxels, their
elements are weighted by area (length in 2d), and what lies outside of the image counts as background, so that an object
that touches the image's border has a surface there. The reference's share is made
once per case: see `Reference`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.metrics.surface import (
    Crop,
    MapBudget,
    ReferenceSurface,
    area_table,
    extract_surface,
    weighted_percentile,
)

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


class Reference:
    """The reference segmentation of a case, ready to be compared with any number of predictions.

    Surfaces, their areas and what finds the nearest element are made once. Several threads may call `compare` at once.

    Args:
        label: integer array, 2d or 3d. One of shape (1, H, W) is a 2d image: that axis and its spacing are dropped.
        regions: name -> a label, or the labels whose union is the region; as in nnU-Net's dataset.json, without
            the background.
        spacing_mm: the voxel's size along each axis of the array, in mm, > 0.
        tolerance_mm: surfaces nearer than or as near as this agree (NSD), in mm, >= 0.
        ignore_label: voxels where the reference has this label belong to neither mask.

    Raises:
        UserError: an array that is not of integers or neither 2d nor 3d; a bad spacing or tolerance.
    """

    def __init__(
        self,
        label: NDArray[np.integer],
        regions: Mapping[str, int | Iterable[int]],
        spacing_mm: Sequence[float],
        tolerance_mm: float,
        ignore_label: int | None = None,
    ) -> None:
        _check(label, spacing_mm, tolerance_mm)
        self._shape = label.shape
        spacing = [float(s) for s in spacing_mm]
        if _is_flat(label.shape):
            label, spacing = label[0], spacing[1:]
        self._tolerance_mm = float(tolerance_mm)
        self._diagonal_mm = math.hypot(*(n * s for n, s in zip(label.shape, spacing, strict=True)))
        self._areas = area_table(spacing)
        self._regions = {name: _labels(wanted) for name, wanted in regions.items()}
        self._valid = None if ignore_label is None else label != ignore_label

        budget = MapBudget()
        self._masks = dict(_masks(label, self._regions, self._valid))
        self._surfaces = {
            name: ReferenceSurface(extract_surface(mask, self._areas), label.shape, spacing, budget)
            for name, mask in self._masks.items()
            if mask.voxels
        }

    def compare(self, prediction: NDArray[np.integer]) -> dict[str, SegmentationMetrics]:
        """The metrics of a prediction, region by region.

        Args:
            prediction: integer array of the reference's shape.

        Returns:
            name -> metrics, in the order of the regions; for empty masks as the table of `SegmentationMetrics` says.

        Raises:
            UserError: another shape, or not integers.
        """
        _check_shapes(self._shape, prediction.shape)
        _check_integers(prediction)
        if _is_flat(prediction.shape):
            prediction = prediction[0]
        masks = _masks(prediction, self._regions, self._valid)
        return {name: self._compare(name, mask) for name, mask in masks}

    def _compare(self, name: str, predicted: Crop) -> SegmentationMetrics:
        reference = self._masks[name]
        n_ref, n_pred = reference.voxels, predicted.voxels
        if n_ref == 0 and n_pred == 0:
            return SegmentationMetrics(1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0, 0, "both_empty")
        if n_pred == 0:
            return SegmentationMetrics(0.0, 0.0, self._diagonal_mm, self._diagonal_mm, 0.0, 0.0, n_ref, 0, "missed")
        if n_ref == 0:
            d = self._diagonal_mm
            return SegmentationMetrics(0.0, 0.0, d, d, 0.0, math.inf, 0, n_pred, "hallucinated")

        overlap = reference.overlap(predicted)
        surface = self._surfaces[name]
        other = extract_surface(predicted, self._areas)
        sides = ((surface.distances_to(other), surface.surface.areas), (surface.distances_from(other), other.areas))
        total = sum(float(areas.sum()) for _, areas in sides)
        return SegmentationMetrics(
            dice=2 * overlap / (n_ref + n_pred),
            iou=overlap / (n_ref + n_pred - overlap),
            hd95_mm=max(weighted_percentile(distances, areas, 95) for distances, areas in sides),
            assd_mm=sum(float(areas @ distances) for distances, areas in sides) / total,
            nsd=sum(float(areas[distances <= self._tolerance_mm].sum()) for distances, areas in sides) / total,
            volume_ratio=n_pred / n_ref,
            n_ref=n_ref,
            n_pred=n_pred,
            outcome="ok",
        )


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

    Example:
        >>> import numpy as np
        >>> reference = np.zeros((20, 20), bool)
        >>> reference[5:15, 5:15] = True
        >>> prediction = np.roll(reference, 2, axis=1)  # two columns too far, that is 1 mm
        >>> found = segmentation_metrics(reference, prediction, spacing_mm=(1.0, 0.5), tolerance_mm=1.0)
        >>> found.dice, found.hd95_mm, found.nsd, found.outcome  # 2 * 80 / (100 + 100)
        (0.8, 1.0, 1.0, 'ok')
        >>> missed = segmentation_metrics(reference, np.zeros_like(reference), (1.0, 0.5), 1.0)
        >>> missed.dice, round(missed.hd95_mm, 2), missed.outcome  # the diagonal of 20 x 10 mm
        (0.0, 22.36, 'missed')
    """
    _check_shapes(reference.shape, prediction.shape)
    if reference.dtype != bool or prediction.dtype != bool:
        raise UserError(f"Masks must be bool arrays, got {reference.dtype} and {prediction.dtype}")
    return case_metrics(reference, prediction, {"mask": 1}, spacing_mm, tolerance_mm)["mask"]


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

    Example:
        >>> import numpy as np
        >>> reference, prediction = np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]])
        >>> found = case_metrics(reference, prediction, {"tumour": 2, "organ": (1, 2)}, (1.0, 1.0), 1.0)
        >>> {name: round(metrics.dice, 3) for name, metrics in found.items()}
        {'tumour': 0.667, 'organ': 1.0}
    """
    _check_shapes(reference_labels.shape, prediction_labels.shape)
    return Reference(reference_labels, regions, spacing_mm, tolerance_mm, ignore_label).compare(prediction_labels)


def _masks(
    label: NDArray[np.integer], regions: Mapping[str, tuple[int, ...]], valid: NDArray[np.bool_] | None
) -> Iterator[tuple[str, Crop]]:
    """The regions of a label map, one after the other: scattered ones are as large as the map."""
    highest = max((v for wanted in regions.values() for v in wanted), default=0)
    boxes = find_objects(label.view(np.uint8) if label.dtype == bool else label, max_label=max(highest, 1))
    for name, wanted in regions.items():
        yield name, _mask(label, wanted, boxes, valid)


def _mask(
    label: NDArray[np.integer],
    wanted: tuple[int, ...],
    boxes: Sequence[tuple[slice, ...] | None],
    valid: NDArray[np.bool_] | None,
) -> Crop:
    whole = tuple(slice(0, n) for n in label.shape)  # labels below 1 have no box
    found = [box for v in wanted if (box := boxes[v - 1] if v > 0 else whole) is not None]
    if not found:
        return Crop(np.zeros((0,) * label.ndim, bool), (0,) * label.ndim, 0)
    union = tuple(slice(min(b.start for b in axis), max(b.stop for b in axis)) for axis in zip(*found, strict=True))
    crop = label[union]
    array = crop == wanted[0]
    for v in wanted[1:]:
        array |= crop == v
    if valid is not None:
        array &= valid[union]
    return Crop(array, tuple(b.start for b in union), int(np.count_nonzero(array)))


def _labels(wanted: int | Iterable[int]) -> tuple[int, ...]:
    return (int(wanted),) if isinstance(wanted, (int, np.integer)) else tuple(int(v) for v in wanted)


def _is_flat(shape: tuple[int, ...]) -> bool:
    """A 2d image with a leading axis, as nnU-Net reads it."""
    return len(shape) == 3 and shape[0] == 1


def _check_shapes(reference: tuple[int, ...], prediction: tuple[int, ...]) -> None:
    if reference != prediction:
        raise UserError(f"Reference and prediction must have the same shape, got {reference} and {prediction}")


def _check_integers(label: NDArray[np.integer]) -> None:
    if label.dtype.kind not in "biu":
        raise UserError(f"A label map must be of integers, got {label.dtype}: convert it, e.g. with astype(np.int32)")


def _check(label: NDArray[np.integer], spacing_mm: Sequence[float], tolerance_mm: float) -> None:
    _check_integers(label)
    if label.ndim not in (2, 3):
        raise UserError(f"Masks must have 2 or 3 axes, got the shape {label.shape}")
    if len(spacing_mm) != label.ndim or not all(0 < s < math.inf for s in spacing_mm):
        raise UserError(
            f"The spacing must be {label.ndim} positive numbers in mm, one for each axis, got {list(spacing_mm)}"
        )
    if not tolerance_mm >= 0:
        raise UserError(f"The tolerance must be >= 0 mm, got {tolerance_mm}")
