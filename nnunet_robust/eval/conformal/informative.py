"""Do the masks and intervals of a calibration say anything? A guarantee can be had for nothing by masks that do not.

An inner mask that is empty claims nothing, and is never wrong; an outer mask that is the whole image misses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_robust.eval.conformal.loss_curves import SETTINGS, Kind, LossCurve

LARGEST_SHARE = 1 / 3
"""An outer mask that covers this share of the image does not say where the object is."""
LEAST_DICE = 0.01
"""A Dice that may be as low as this may be anything."""


@dataclass(frozen=True)
class MaskSize:
    """How large a mask is in the calibration cases in which something was segmented; medians over these.

    Attributes:
        of_segmentation: size of the mask relative to the segmentation; None: it was not counted (an outer mask of an
            earlier version), or nothing was segmented in any case.
        of_image: relative to the image, in [0, 1]; None likewise.
        rest: of what is left of image and segmentation, the smaller part relative to the image, in [0, 0.5]; likewise.
        n_empty: in how many of the cases the mask is empty.
        n_cases: how many cases these are.
    """

    of_segmentation: float | None
    of_image: float | None
    rest: float | None
    n_empty: int
    n_cases: int

    def uninformative(self, kind: Kind) -> bool:
        """Whether such masks say nothing.

        An inner mask does not where it is empty in half of the cases. An outer one does not where it covers a third of
        the image. What is large has an outer mask that does so and says something: then it has to go beyond the
        segmentation by half of that, or by half of the rest of the image.
        """
        if not self.n_cases:
            return True
        if self.of_segmentation is None:
            return False
        if kind.startswith("inner"):
            return self.of_segmentation == 0
        if self.of_image is None or self.rest is None or self.of_image < LARGEST_SHARE:
            return False
        return self.of_image * (1 - 1 / self.of_segmentation) >= self.rest / 2

    def sentence(self, kind: Kind) -> str:
        """Write what they are, a sentence."""
        if self.n_cases and self.of_segmentation is None:
            return "An earlier version calibrated, which did not count how large the mask is."
        return f"{'Uninformative: ' if self.uninformative(kind) else 'There '}{self.in_words(kind)}."

    def in_words(self, kind: Kind) -> str:
        """Write what they are, a clause, where that is known."""
        if not self.n_cases or self.of_segmentation is None:
            return "nothing was segmented in any of the cases"
        if kind.startswith("inner"):
            empty = f"is empty in {self.n_empty} of {self.n_cases} cases"
            if self.of_segmentation == 0:
                return f"the inner mask {empty}, so that it claims nothing"
            return f"the inner mask is {_times(self.of_segmentation)} the segmentation (median)" + (
                f", and {empty}" if self.n_empty else ""
            )
        share = "" if self.of_image is None else f" and covers {100 * self.of_image:.3g} % of the image"
        return f"the outer mask is {_times(self.of_segmentation)} the segmentation{share} (median)"


def mask_size(kind: Kind, setting: float, curves: Sequence[Mapping[Kind, LossCurve]]) -> MaskSize:
    """Measure how large the masks of a setting are.

    Args:
        kind: of the masks.
        setting: of `SETTINGS`.
        curves: of each case.
    """
    (where,) = np.nonzero(SETTINGS[kind] == setting)
    at = int(where[0])
    inner: Kind = "inner_margin_mm"
    segmented = [(of_case, int(of_case[inner].of[-1])) for of_case in curves if of_case[inner].of[-1]]
    sizes = np.array([_size(of_case[kind], kind, at) for of_case, _ in segmented], float)
    if not len(sizes) or np.isnan(sizes).any():
        return MaskSize(None, None, None, 0, len(segmented))
    voxels = np.array([voxels for _, voxels in segmented], float)
    images = np.array([_image(of_case) for of_case, _ in segmented], float)
    of_image, rest = None, None
    if not np.isnan(images).any():
        of_image = round(float(np.median(sizes / images)), 9)
        rest = round(float(np.median(np.minimum(voxels, images - voxels) / images)), 9)
    relative = round(float(np.median(sizes / voxels)), 9)
    return MaskSize(relative, of_image, rest, int(np.count_nonzero(sizes == 0)), len(segmented))


def _size(curve: LossCurve, kind: Kind, at: int) -> float:
    if kind.startswith("inner"):
        return float(curve.of[at])
    return float("nan") if curve.size is None else float(curve.size[at])


def _image(curves: Mapping[Kind, LossCurve]) -> float:
    """The voxels of an image: its most cautious outer threshold is 0, which is all of it."""
    curve = curves.get("outer_threshold")
    return float("nan") if curve is None or curve.size is None else float(curve.size[0])


@dataclass(frozen=True)
class UsualInterval:
    """The interval of the Dice in the calibration cases.

    Attributes:
        low: median of its lower ends, in [0, 1].
        high: median of its upper ends, in [0, 1].
    """

    low: float
    high: float

    @classmethod
    def of(cls, intervals: Sequence[tuple[float, float]]) -> UsualInterval:
        """Take the medians of some intervals, at least one."""
        low, high = np.median(np.array(intervals), axis=0)
        return cls(round(float(low), 9), round(float(high), 9))

    @property
    def uninformative(self) -> bool:
        """Whether it leaves everything open, or is of segmentations that cannot be right."""
        return self.low < LEAST_DICE and (self.high > 1 - LEAST_DICE or self.high < LEAST_DICE)

    def in_words(self) -> str:
        """Write what it is, a clause."""
        return f"for the median case, {dice_in_words((self.low, self.high))}"


def dice_in_words(interval: tuple[float, float]) -> str:
    """Write the interval of a Dice, a clause; one that says nothing, or that no right segmentation has, says so.

    >>> dice_in_words((0.71, 0.93))
    'its Dice is expected between 0.71 and 0.93'
    >>> dice_in_words((0.0, 1.0))
    'nothing is known of its Dice'
    >>> dice_in_words((0.0, 0.004))
    'hardly any overlap with the true outline is expected (its Dice is below 0.01)'
    """
    low, high = interval
    if low < LEAST_DICE and high > 1 - LEAST_DICE:
        return "nothing is known of its Dice"
    if high < LEAST_DICE:
        return f"hardly any overlap with the true outline is expected (its Dice is below {LEAST_DICE:g})"
    return f"its Dice is expected between {low:.2f} and {high:.2f}"


def kind_in_words(kind: Kind) -> str:
    """Name a kind of mask: "inner mask by threshold"."""
    side, by = kind.split("_", 1)
    return f"{side} mask by {'threshold' if by == 'threshold' else 'margin'}"


def _times(factor: float) -> str:
    return f"{factor:.3g} times"
