"""A layer's mean activations, hundreds of numbers, in a few: principal components, and what they leave.

The components fit the images that they are made of better than any others. Those images therefore never stand in the
reference of these features: a test would take every new image for a stranger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.deployment.drift.features import to_digits

COMPONENTS = 3
"""The largest number of components."""

FEWEST_IN_BASIS = 5
"""The fewest images of a basis; with fewer, components say nothing of how images differ."""


@dataclass(frozen=True)
class Basis:
    """The basis that mean activations are reduced by.

    Attributes:
        mean: (channels,), of the images that it was made of.
        scale: (channels,), their standard deviations; 1 where they do not differ.
        components: (k, channels), of length 1, orthogonal, the strongest first, k <= `COMPONENTS`.
        n_images: number of images that it was made of.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    components: NDArray[np.float64]
    n_images: int

    @classmethod
    def of(cls, activations: ArrayLike) -> Basis:
        """Make a basis: principal components of images' activations, each channel divided by its standard deviation.

        Args:
            activations: (images, channels), see `mean_activation`.

        Raises:
            UserError: fewer than `FEWEST_IN_BASIS` images.
        """
        array = np.asarray(activations, dtype=np.float64)
        if len(array) < FEWEST_IN_BASIS:
            raise UserError(f"{len(array)} images cannot make components: give {FEWEST_IN_BASIS} or more")
        mean, scale = array.mean(axis=0), array.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        _, sizes, axes = np.linalg.svd((array - mean) / scale, full_matrices=False)
        used = axes[: min(COMPONENTS, int(np.sum(sizes > 1e-9 * max(sizes[0], 1e-300))))]
        # Either sign would do; a file read again must give the same.
        signs = np.sign(used[np.arange(len(used)), np.abs(used).argmax(axis=1)])
        return cls(mean, scale, used * signs[:, None], len(array))

    def features(self, activation: Sequence[float]) -> dict[str, float]:
        """Reduce an image's mean activations.

        Args:
            activation: (channels,).

        Returns:
            "bottleneck 1", ... (in the channels' standard deviations) and "bottleneck rest", the length of what the
            components leave, >= 0.

        Raises:
            UserError: another number of channels.
        """
        array = np.asarray(activation, dtype=np.float64)
        if array.shape != self.mean.shape:
            raise UserError(f"{array.size} activations, the reference has {self.mean.size}: they are of another layer")
        scaled = (array - self.mean) / self.scale
        along = self.components @ scaled
        rest = float(np.linalg.norm(scaled - along @ self.components))
        names = [*(f"bottleneck {number}" for number in range(1, len(along) + 1)), "bottleneck rest"]
        return dict(zip(names, map(to_digits, (*along, rest)), strict=True))


def basis_patients(patients: Sequence[str]) -> frozenset[str]:
    """Draw half of a reference's patients, whose images make the basis and nothing else of it.

    The draw depends on their names alone.
    """
    names = sorted(set(patients))
    drawn = numpy_generator("drift", "basis", *names).permutation(len(names))[: len(names) // 2]
    return frozenset(names[index] for index in drawn)
