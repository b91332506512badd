"""Outer and inner masks of a segmentation, and what each would have cost on a case whose reference is known.

An outer mask is to miss little of the object; an inner mask is to claim little that is not of it. Either is set by a
threshold on the probability or by a margin in mm, and lies around or within the segmentation whatever the setting:

| kind              | mask                                          | loss of a case                          |
|-------------------|-----------------------------------------------|-----------------------------------------|
| `outer_threshold` | segmentation, or probability >= setting       | share of the object outside of the mask |
| `inner_threshold` | segmentation, and probability > setting       | share of the mask outside of the object |
| `outer_margin_mm` | within `setting` of the segmentation          | as `outer_threshold`                    |
| `inner_margin_mm` | deeper than `setting` inside the segmentation | as `inner_threshold`                    |

A case's losses over all settings of a kind are counted once (`loss_curves`) and kept: its volumes are not needed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty.label_layout import Mask

Kind = Literal["outer_threshold", "inner_threshold", "outer_margin_mm", "inner_margin_mm"]


def _thresholds() -> NDArray[np.float64]:
    # Even in the logit, as nnU-Net's probabilities crowd near 0 and 1. Rounded, so that every machine has the same
    # ones; numbers that float32 has exactly, so that float32 probabilities compare with them alike everywhere.
    low = [float(f"{1 / (1 + math.exp(16 - 0.1 * step)):.3g}") for step in range(160)]
    points = [0.0, *low, 0.5, *(1 - p for p in low), 1.0]
    return np.unique(np.array(points, np.float32)).astype(np.float64)


def _margins() -> NDArray[np.float64]:
    # From less than a pixel of histology to a large organ, each 5 % wider than the last.
    steps = math.ceil(math.log(200 / 0.001) / math.log(1.05))
    return np.unique([0.0, *(float(f"{0.001 * 1.05**step:.3g}") for step in range(steps)), 200.0])


_THRESHOLDS, _MARGINS = _thresholds(), _margins()

SETTINGS: dict[Kind, NDArray[np.float64]] = {
    "outer_threshold": _THRESHOLDS,
    "inner_threshold": _THRESHOLDS[::-1],
    "outer_margin_mm": _MARGINS[::-1],
    "inner_margin_mm": _MARGINS[::-1],
}
"""What a bound can be set to, the most cautious first; the last leaves the segmentation as it is."""


@dataclass(frozen=True)
class LossCurve:
    """The losses of one case under every setting of a kind, as counts.

    Attributes:
        wrong: int (settings): voxels of the object that are missed, or of the mask that are not of the object.
        of: int (settings): voxels of the object, or of the mask.
        size: int (settings): voxels of the mask; None: they were not counted.
    """

    wrong: NDArray[np.int64]
    of: NDArray[np.int64]
    size: NDArray[np.int64] | None = None

    @property
    def losses(self) -> NDArray[np.float64]:
        """The losses, float (settings), in [0, 1]; 0 where there is nothing to miss, or nothing is claimed."""
        return self.wrong / np.maximum(self.of, 1)


def loss_curves(
    reference: Mask,
    segmentation: Mask,
    spacing_mm: Sequence[float],
    probability: NDArray[np.floating] | None = None,
    valid: Mask | None = None,
    *,
    sizes: bool = False,
) -> dict[Kind, LossCurve]:
    """Count what every setting would have cost on a case.

    Args:
        reference: bool (*spatial), the true object.
        segmentation: bool (*spatial), the model's.
        spacing_mm: the voxel's size along each axis, in mm, > 0.
        probability: (*spatial), of the object, in [0, 1]; without it there are no thresholds.
        valid: bool (*spatial), False where the reference says nothing (nnU-Net's ignore label); there nothing counts.
        sizes: count the voxels of outer masks, too, for which distances are computed in the whole image.

    Returns:
        A curve per kind. Those of inner masks always have sizes.

    Raises:
        UserError: arrays of different shapes, masks that are not bool, a bad spacing, probabilities outside of [0, 1].
    """
    _check(segmentation, spacing_mm, reference=reference, probability=probability, valid=valid)
    counted = segmentation if valid is None else segmentation & valid
    wanted = reference if valid is None else reference & valid
    missed, wrong = wanted & ~segmentation, counted & ~wanted
    n_object = int(np.count_nonzero(wanted))

    box = _box(wanted | segmentation, [0] * wanted.ndim)
    away = _beyond(_distances(segmentation[box], missed[box], spacing_mm), _MARGINS)
    box = _box(segmentation, [1] * wanted.ndim)
    outside = ~segmentation[box]
    deep = _beyond(_distances(outside, counted[box], spacing_mm), _MARGINS)
    deep_wrong = _beyond(_distances(outside, wrong[box], spacing_mm), _MARGINS)
    around = ~segmentation if valid is None else valid & ~segmentation
    n_counted = int(np.count_nonzero(counted))
    wide = n_counted + _within(segmentation, around, spacing_mm, _MARGINS) if sizes else None
    curves: dict[Kind, LossCurve] = {
        "outer_margin_mm": LossCurve(
            away[::-1], np.full(len(_MARGINS), n_object), None if wide is None else wide[::-1]
        ),
        "inner_margin_mm": LossCurve(deep_wrong[::-1], deep[::-1], deep[::-1]),
    }
    if probability is None:
        return curves
    below = _below(probability[missed], _THRESHOLDS)
    above, above_wrong = (_beyond(probability[mask], _THRESHOLDS) for mask in (counted, wrong))
    likely = int(np.count_nonzero(around)) - _below(probability[around], _THRESHOLDS) + n_counted if sizes else None
    return {
        "outer_threshold": LossCurve(below, np.full(len(_THRESHOLDS), n_object), likely),
        "inner_threshold": LossCurve(above_wrong[::-1], above[::-1], above[::-1]),
        **curves,
    }


def bound_mask(
    kind: Kind,
    setting: float,
    segmentation: Mask,
    spacing_mm: Sequence[float],
    probability: NDArray[np.floating] | None = None,
) -> Mask:
    """Make the outer or inner mask of a segmentation; see the table above.

    Distances run between the centres of voxels. The image's border is no border of the object: an inner mask may reach
    it. An empty segmentation has no margin around it.

    Args:
        kind: of the bound.
        setting: a probability in [0, 1], or mm >= 0.
        segmentation: bool (*spatial).
        spacing_mm: the voxel's size along each axis, in mm, > 0.
        probability: (*spatial), of the object, in [0, 1]; thresholds need it.

    Returns:
        bool (*spatial).

    Raises:
        UserError: as `loss_curves`; a negative margin, or a threshold without probabilities.
    """
    _check(segmentation, spacing_mm, probability=probability)
    if kind in ("outer_threshold", "inner_threshold"):
        if probability is None:
            raise UserError(f"{kind} needs the object's probabilities: give them, or calibrate a margin in mm")
        limit = np.float32(setting)  # what every threshold is a number of
        outer = kind == "outer_threshold"
        return segmentation | (probability >= limit) if outer else segmentation & (probability > limit)
    if not setting >= 0:
        raise UserError(f"a margin is a number of mm >= 0, got {setting}")
    result = segmentation.copy()
    if kind == "outer_margin_mm":
        box = _box(segmentation, [math.ceil(setting / s) for s in spacing_mm])
        inside, points = segmentation[box], ~segmentation[box]
        result[box][points] = _distances(inside, points, spacing_mm) <= setting
    else:
        box = _box(segmentation, [1] * segmentation.ndim)
        inside = segmentation[box]
        result[box][inside] = _distances(~inside, inside, spacing_mm) > setting
    return result


def _beyond(values: NDArray[np.floating], grid: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each point of an ascending grid, how many values are greater."""
    passed = np.bincount(np.searchsorted(grid, values, side="left"), minlength=len(grid) + 1)
    return passed[::-1].cumsum()[::-1][1:]


def _below(values: NDArray[np.floating], grid: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each point of an ascending grid, how many values are smaller."""
    passed = np.bincount(np.searchsorted(grid, values, side="right"), minlength=len(grid) + 1)
    return passed.cumsum()[:-1]


def _distances(target: Mask, points: Mask, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """From each voxel of `points`, in C order, to the nearest of `target`, in mm; infinite where that is empty."""
    found = np.full(np.count_nonzero(points), np.inf)
    if not len(found) or not target.any():
        return found
    first = 0
    for of_plane in _distances_by_plane(target, points, spacing_mm):
        found[first : first + len(of_plane)] = of_plane
        first += len(of_plane)
    return found


def _within(target: Mask, points: Mask, spacing_mm: Sequence[float], grid: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each distance of an ascending grid, how many voxels of `points` are no farther from `target`."""
    near: NDArray[np.int64] = np.zeros(len(grid), np.int64)
    if not target.any():
        return near
    for of_plane in _distances_by_plane(target, points, spacing_mm):
        near += len(of_plane) - _beyond(of_plane, grid)
    return near


def _distances_by_plane(target: Mask, points: Mask, spacing_mm: Sequence[float]) -> Iterator[NDArray[np.float64]]:
    """`_distances`, of one plane after the other; `target` is not empty."""
    # Indices, not distances: SciPy's distances take several times the memory, and few of them are wanted.
    nearest = ndimage.distance_transform_edt(
        ~target, sampling=list(spacing_mm), return_distances=False, return_indices=True
    )
    for index, plane in enumerate(points):
        where = np.nonzero(plane)
        squares = np.zeros(len(where[0]))
        for axis, (size, here) in enumerate(zip(spacing_mm, (index, *where), strict=True)):
            squares += ((nearest[axis, index][where] - here) * float(size)) ** 2
        yield np.sqrt(squares)


def _box(mask: Mask, grow: Sequence[int]) -> tuple[slice, ...]:
    """Find the box of a mask, wider by a number of voxels on each axis; empty, if the mask is."""
    boxes = ndimage.find_objects(mask.view(np.uint8))
    if not boxes:
        return tuple(slice(0, 0) for _ in mask.shape)
    sides = zip(boxes[0], grow, mask.shape, strict=True)
    return tuple(slice(max(side.start - by, 0), min(side.stop + by, n)) for side, by, n in sides)


def _check(segmentation: Mask, spacing_mm: Sequence[float], **others: NDArray | None) -> None:
    for name, array in {"segmentation": segmentation, **others}.items():
        if array is None:
            continue
        if array.shape != segmentation.shape:
            raise UserError(
                f"the {name} has {array.shape} voxels, the segmentation {segmentation.shape}: they must be on one grid"
            )
        if name == "probability":
            if array.size and not (array.min() >= 0 and array.max() <= 1):  # NaN fails too
                raise UserError(
                    f"probabilities must be in [0, 1], got {array.min():g} to {array.max():g}: give softmax or sigmoid"
                )
        elif array.dtype != bool:
            raise UserError(f"the {name} must be a bool array, got {array.dtype}: compare it with the label first")
    if len(spacing_mm) != segmentation.ndim or not all(0 < s < math.inf for s in spacing_mm):
        raise UserError(
            f"the spacing must be {segmentation.ndim} positive numbers in mm, one for each axis, got {list(spacing_mm)}"
        )
