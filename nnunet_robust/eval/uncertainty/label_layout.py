"""The label layout of a network: its output channels are labels that exclude one another, or regions that may overlap.

Plain labels have a softmax over the heads, head k being label k. Regions have a sigmoid for each head, and nnU-Net
writes the label map region after region (`regions_class_order`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError

Mask: TypeAlias = NDArray[np.bool_]
"""Where a structure is, (*spatial)."""

_TOLERANCE = 0.01  # of probabilities and their sum: float16 files are off by a thousandth
_TINY = np.finfo(np.float32).tiny
_VOXELS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class LabelLayout:
    """What the heads of a network stand for.

    Attributes:
        structures: name -> a label, or the labels whose union it is, without the background: `Model.regions`.
        class_order: of regions, the label that each head writes, later ones over earlier ones; None for plain labels.

    Raises:
        UserError: no structures, labels that are not 1, 2, 3, ..., or an order of another length.
    """

    structures: Mapping[str, int | tuple[int, ...]]
    class_order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.structures:
            raise UserError("There is nothing but background among the labels: name at least one structure")
        if self.class_order is None:
            values = [value for labels in self.labels.values() for value in labels]
            if sorted(values) != list(range(1, len(self.structures) + 1)):
                raise UserError(f"Labels without regions must be 1 to {len(self.structures)}, got {values}")
        elif len(self.class_order) != len(self.structures):
            raise UserError(
                f"regions_class_order has {len(self.class_order)} entries for {len(self.structures)} regions: "
                "it must have one for each"
            )

    @property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """Name -> the labels of a structure, always a tuple."""
        return {k: (int(v),) if isinstance(v, (int, np.integer)) else tuple(v) for k, v in self.structures.items()}

    @property
    def count(self) -> int:
        """The number of heads, with the background's where there is one."""
        return len(self.structures) + (self.class_order is None)

    @property
    def index(self) -> dict[str, int]:
        """Name -> the head of a structure."""
        if self.class_order is None:
            return {name: labels[0] for name, labels in self.labels.items()}
        return {name: i for i, name in enumerate(self.structures)}

    @property
    def max_entropy_bits(self) -> float:
        """The largest possible entropy of a voxel: log2 of the number of labels, or one bit for each region."""
        return math.log2(self.count) if self.class_order is None else float(self.count)

    def checked(self, probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
        """Check probabilities, and return them as float32.

        Args:
            probabilities: (heads, *spatial), in [0, 1]; of plain labels, with a sum of 1 in each voxel.

        Raises:
            UserError: another number of heads, or numbers that are no probabilities.
        """
        if len(probabilities) != self.count:
            raise UserError(f"Probabilities have {len(probabilities)} heads, and the labels ask for {self.count}")
        p = np.asarray(probabilities, np.float32)
        low, high = float(p.min()), float(p.max())
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            raise UserError(f"Probabilities must be in [0, 1], got {low:g} to {high:g}: are they logits?")
        if self.class_order is None:
            sums = p.sum(axis=0)
            worst = float(sums.flat[int(np.argmax(np.abs(sums - 1)))])
            if not abs(worst - 1) <= _TOLERANCE:
                raise UserError(f"Probabilities of the labels must sum to 1 in each voxel, got {worst:g}")
        return p

    def entropy_bits(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute how uncertain each voxel is: the Shannon entropy of its label.

        Labels: -sum_k p_k log2 p_k. Regions: each head is a question of its own, answered by yes or no, and the
        entropies -p log2 p - (1 - p) log2 (1 - p) of all heads are added up.

        Args:
            probabilities: float32 (heads, *spatial), in [0, 1].

        Returns:
            float32 (*spatial), in [0, `max_entropy_bits`] up to rounding.
        """
        p = np.clip(probabilities, 0, 1)
        terms = p * np.log2(np.maximum(p, _TINY))
        if self.class_order is not None:
            q = 1 - p
            terms += q * np.log2(np.maximum(q, _TINY))
        return np.abs(terms.sum(axis=0))

    def segment(self, probabilities: NDArray[np.float32]) -> NDArray[np.integer]:
        """Make the label map of probabilities, as nnU-Net does.

        Args:
            probabilities: (heads, *spatial).

        Returns:
            uint8 (uint16 for labels above 255), (*spatial): the most probable label, the lowest of equals; of regions,
            the labels of `class_order` one over the other where the probability is above 0.5.
        """
        segmentation: NDArray[np.integer] = np.zeros(probabilities.shape[1:], self.label_type)
        if self.class_order is None:  # argmax across the first axis takes five times as long
            highest = probabilities[0]
            for label in range(1, self.count):
                above = probabilities[label] > highest
                np.maximum(segmentation, above * self.label_type(label), out=segmentation)
                highest = np.maximum(highest, probabilities[label])
            return segmentation
        for head, label in enumerate(self.class_order):
            segmentation[probabilities[head] > 0.5] = label
        return segmentation

    def mask(self, label_map: NDArray[np.integer], name: str) -> Mask:
        """Make the bool mask of a structure in a label map, without any array that is larger."""
        first, *others = self.labels[name]
        found: Mask = label_map == first
        for label in others:
            found |= label_map == label
        return found

    @property
    def label_type(self) -> type[np.uint8] | type[np.uint16]:
        """The type of label maps."""
        highest = max((*self.labels.values(), self.class_order or (0,)), key=max)
        return np.uint8 if max(highest) < 256 else np.uint16


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of the first axis that cut an image into blocks of about 260,000 voxels.

    Args:
        shape: (*spatial), without heads.
    """
    step = max(1, _VOXELS_AT_ONCE // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)
