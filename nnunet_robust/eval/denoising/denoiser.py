"""The denoiser decides by the image's own noise."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nnunet_robust.eval.denoising.noise_tolerance import NoiseTolerance
from nnunet_robust.eval.denoising.variation import ANISOTROPY, STRENGTH, denoise
from nnunet_robust.eval.images.image_quality import mean_of, noise_sigmas
from nnunet_robust.eval.images.regions import EVERYWHERE, Background

FILTER = f"total variation (Chambolle 2004), weight {STRENGTH:g} x noise, slice by slice beyond {ANISOTROPY:g} : 1"


@dataclass(frozen=True)
class Denoiser:
    """Denoises an image, always or where its noise is above a model's tolerance. Several threads may use it at once.

    Attributes:
        tolerance: the noise tolerance of the model; None denoises always.
        background: what decides over the region whose noise is measured, and that is denoised.
    """

    tolerance: NoiseTolerance | None = None
    background: Background = EVERYWHERE

    @property
    def label(self) -> str:
        """The suffix of a model's name."""
        return "+denoise_always" if self.tolerance is None else "+denoise"

    @property
    def threshold(self) -> float | None:
        """The `noise_sigma` above which images are denoised; None: all whose noise can be measured."""
        return None if self.tolerance is None else self.tolerance.threshold

    def needed(self, noise_sigma: float) -> bool:
        """Tell whether an image is to be denoised.

        Args:
            noise_sigma: its noise, see `image_quality`; NaN, which cannot be measured, leaves it as it is.
        """
        return noise_sigma > (0.0 if self.tolerance is None else self.tolerance.threshold)

    def __call__(self, image: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
        """Denoise an image if it needs it.

        Args:
            image: (C, *spatial), raw intensities, as nnU-Net's reader gives them; not modified.
            spacing_mm: per spatial axis.

        Returns:
            The image itself where it needs nothing; else an array of its shape and dtype, see `variation.denoise`.
        """
        known = _look(image, spacing_mm, self.background)
        if not self.needed(known.noise_sigma):
            return image
        if known.denoised is None:
            known = known._replace(denoised=denoise(image, spacing_mm, known.noise_sigmas, known.region))
            _last.seen = known
        assert known.denoised is not None
        return known.denoised

    def noise_sigma(self, image: np.ndarray, spacing_mm: Sequence[float]) -> float:
        """Measure the image's noise, as `image_quality` has it, once for one image."""
        return _look(image, spacing_mm, self.background).noise_sigma

    def matches(self, described: Mapping[str, Any]) -> bool:
        """Tell whether it does the same to images as one that a manifest describes, whatever each was learned from."""
        then = (described.get("filter"), described.get("threshold"), described.get("background", "perturb"))
        return then == (FILTER, self.threshold, self.background.mode)

    def described(self) -> dict[str, Any]:
        """Describe it for the manifest."""
        learned = {} if self.tolerance is None else self.tolerance.described()
        return {"filter": FILTER, "background": self.background.mode, **learned}


class _Seen(NamedTuple):
    """What a thread has found out about the image that it looked at last."""

    image: np.ndarray
    spacing_mm: tuple[float, ...]
    background: Background
    region: np.ndarray | None
    noise_sigmas: list[float]
    denoised: np.ndarray | None

    @property
    def noise_sigma(self) -> float:
        return mean_of(self.noise_sigmas)


# Several models ask about one image, one after the other; their thresholds differ, the denoised image does not.
_last = threading.local()


def _look(image: np.ndarray, spacing_mm: Sequence[float], background: Background) -> _Seen:
    seen: _Seen | None = getattr(_last, "seen", None)
    known = seen is not None and _same(seen.image, image)
    if seen is None or not known or (seen.spacing_mm, seen.background) != (tuple(spacing_mm), background):
        region = background.region(image).mask
        sigmas = noise_sigmas(image, spacing_mm, region=region)
        # The image is kept so that no other takes its place in memory.
        seen = _Seen(image, tuple(spacing_mm), background, region, sigmas, None)
        _last.seen = seen
    return seen


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(one.__array_interface__ == other.__array_interface__)  # address, shape, strides, type
