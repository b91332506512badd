"""nnU-Net's normalisations in torch: for any device, and to be differentiated with the image's own statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

_EPS = 1e-8  # nnU-Net's smallest divisor

Normalise = Callable[[torch.Tensor, "torch.Tensor | None", Mapping[str, float]], torch.Tensor]
"""(float32 (*spatial); bool (*spatial), where it is not background, None: everywhere; nnU-Net's numbers on the
intensities inside the objects, as `percentile_00_5`) -> float32 (*spatial), another tensor."""


def _z_score(x: torch.Tensor, mask: torch.Tensor | None, of_dataset: Mapping[str, float]) -> torch.Tensor:
    if mask is None:
        return (x - x.mean()) / x.std(correction=0).clamp(min=_EPS)
    # not x[mask], whose size a GPU has to be waited for
    count = mask.sum()
    from_mean = x - torch.where(mask, x, 0.0).sum() / count
    variance = torch.where(mask, from_mean, 0.0).square().sum() / count
    return torch.where(mask, from_mean / variance.clamp(min=_EPS**2).sqrt(), x)


def _ct(x: torch.Tensor, mask: torch.Tensor | None, of_dataset: Mapping[str, float]) -> torch.Tensor:
    clipped = x.clamp(of_dataset["percentile_00_5"], of_dataset["percentile_99_5"])
    return (clipped - of_dataset["mean"]) / max(of_dataset["std"], _EPS)


def _none(x: torch.Tensor, mask: torch.Tensor | None, of_dataset: Mapping[str, float]) -> torch.Tensor:
    return x


def _to_01(x: torch.Tensor, mask: torch.Tensor | None, of_dataset: Mapping[str, float]) -> torch.Tensor:
    from_zero = x - x.min()
    return from_zero / from_zero.max().clamp(min=_EPS)


def _rgb_to_01(x: torch.Tensor, mask: torch.Tensor | None, of_dataset: Mapping[str, float]) -> torch.Tensor:
    return x / 255


NORMALISATIONS: dict[str, Normalise] = {
    "ZScoreNormalization": _z_score,
    "CTNormalization": _ct,
    "NoNormalization": _none,
    "RescaleTo01Normalization": _to_01,
    "RGBTo01Normalization": _rgb_to_01,
}
"""nnU-Net's class -> what it does to one channel."""
