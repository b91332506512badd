"""Where an image is perturbed and measured: nnU-Net's own non-zero region, without the padding of a CT.

nnU-Net crops an image to what is not zero and, where its plans say so, normalises by that region alone. Noise in a
background that was zero changes both, and what a curve then shows is the crop. A CT's padding outside of the scanner's
circle is no part of the body either: what is drawn from the image's intensities would depend on the number that it is
filled with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_robust.common.errors import UserError

BACKGROUNDS = ("auto", "keep", "perturb")
"""What becomes of the background: kept where nnU-Net crops it, always kept, perturbed as everything else."""

AIR_HU = -1024.0
"""The lowest value that a scanner gives to air; what a CT has below it is padding."""

FEWEST_PADDING = 0.001
"""Share of the voxels that must have a CT's lowest value for it to be padding: noise in air has no value so often."""

GUESSED_PADDING = 0.05
"""The same where a channel is not called CT, so that padding is guessed."""

GUESSED_GAP = 0.5
"""Of a guess: the distance from the padding to all else, as a share of the width of all else (2nd to 98th percentile).
"""

_BULK = (2.0, 98.0)


@dataclass(frozen=True)
class Region:
    """The voxels of an image that are perturbed and measured.

    Attributes:
        mask: bool (*spatial); None: all of them.
        guessed: the padding's value, where no channel's name says that it is a CT; None: nothing was guessed.
    """

    mask: NDArray[np.bool_] | None
    guessed: float | None = None


@dataclass(frozen=True)
class Background:
    """What decides over an image's region.

    Attributes:
        mode: of `BACKGROUNDS`.
        ct: for each channel whether `dataset.json` calls it a CT, as nnU-Net tells them.
    """

    mode: str
    ct: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in BACKGROUNDS:
            raise UserError(f"--background {self.mode}: take one of {', '.join(BACKGROUNDS)}")

    @classmethod
    def of(cls, mode: str, names: Sequence[str], use_mask_for_norm: Sequence[bool]) -> Background:
        """What a model's plans and its dataset make of a mode: auto is keep where any channel is normalised by a mask.

        Args:
            mode: of `BACKGROUNDS`.
            names: of the channels, as in `dataset.json`; none: no channel is known to be a CT.
            use_mask_for_norm: the plans', for each channel.

        Raises:
            UserError: there is no such mode.
        """
        ct = tuple(get_normalization_scheme(name) is CTNormalization for name in names)
        return cls("keep" if mode == "auto" and any(use_mask_for_norm) else mode, ct)

    def region(self, image: NDArray[np.floating]) -> Region:
        """Find an image's region.

        Args:
            image: (C, *spatial), raw intensities, finite.
        """
        if self.mode == "perturb":
            return Region(None)
        region: NDArray[np.bool_] = np.ones(image.shape[1:], bool)
        if self.mode == "keep":
            region &= create_nonzero_mask(image)
        elif _is_cropped(image):
            region &= _body(image)
        guesses: list[float] = []
        for number, channel in enumerate(image):
            if number < len(self.ct) and self.ct[number]:
                padding = _padding(channel, AIR_HU, FEWEST_PADDING)
            elif (limit := _guessed_limit(channel)) is None:
                continue
            elif (padding := _padding(channel, limit, GUESSED_PADDING)) is not None:
                guesses.append(float(channel.min()))
            if padding is not None:
                region &= ~padding
        if region.all() or not region.any():
            return Region(None)
        return Region(region, guesses[0] if guesses else None)


EVERYWHERE = Background("perturb")
"""All voxels, as in versions that did not tell background from the rest."""


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """The channels' names in `dataset.json`, in order; older ones call them modalities."""
    named = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    return [str(named[key]) for key in sorted(named, key=int)]


def is_colour(names: Sequence[str]) -> bool:
    """Whether channels of these names are red, green and blue."""
    return [name.casefold() for name in names] in (["r", "g", "b"], ["red", "green", "blue"], ["rgb_to_0_1"] * 3)


def _is_cropped(image: NDArray[np.floating]) -> bool:
    """Whether nnU-Net's crop is smaller than the image: whether a face of it is all zeros (filling holes adds none)."""
    for axis in range(1, image.ndim):
        for end in (0, -1):
            if not image.take(end, axis=axis).any():
                return bool(image.any())
    return False


def _body(image: NDArray[np.floating]) -> NDArray[np.bool_]:
    """nnU-Net's non-zero mask, the holes of a flat image filled, too.

    nnU-Net fills none in an image that is one voxel thick, as all of its voxels are at the edge. That matters to the
    normalisation by a mask alone: without one, what is black inside of the body is perturbed as the rest of it.
    """
    long = [length for length in image.shape[1:] if length > 1]
    flat = image.reshape(len(image), *long) if len(long) == 2 else image
    return np.asarray(create_nonzero_mask(flat)).reshape(image.shape[1:])


def _padding(channel: NDArray[np.floating], limit: float, fewest: float) -> NDArray[np.bool_] | None:
    """Voxels below a limit that hang together with those of the lowest value, if that value is there often enough."""
    lowest = channel.min()
    if not lowest < limit or np.count_nonzero(channel == lowest) < fewest * channel.size:
        return None
    parts, count = ndimage.label(channel < limit)
    filled = np.zeros(count + 1, bool)
    filled[parts[channel == lowest]] = True
    found: NDArray[np.bool_] = filled[parts]
    return found


def _guessed_limit(channel: NDArray[np.floating]) -> float | None:
    """Halfway between a single lowest value, below zero, and all else, if that is far above; None: it is no padding."""
    lowest = channel.min()
    if lowest >= 0 or np.count_nonzero(channel == lowest) < GUESSED_PADDING * channel.size:
        return None
    rest = channel[channel > lowest]
    if not rest.size:
        return None
    low, high = np.percentile(rest, _BULK)
    return float(lowest + low) / 2 if low - lowest >= GUESSED_GAP * max(high - low, 1e-12) else None
