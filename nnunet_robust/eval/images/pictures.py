"""The slices that the report shows: 8-bit PNGs beside the tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nnunet_robust.common.files import atomic_path


def choose_cases(scores: Mapping[str, float]) -> dict[str, str]:
    """Choose a good, a median and a bad case.

    Args:
        scores: a case's score on its clean image, higher is better.

    Returns:
        At most "good", "median", "bad" -> case; fewer where there are fewer cases.
    """
    order = sorted(scores, key=lambda case: (-scores[case], case))
    picked = {"good": order[0], "bad": order[-1], "median": order[len(order) // 2]}
    chosen: dict[str, str] = {}
    for role in ("good", "median", "bad"):
        if picked[role] not in chosen.values() or (role == "median" and len(order) > 2):
            chosen[role] = picked[role]
    return chosen


def display_slice(label: np.ndarray) -> int:
    """Find the index along the first axis with the most foreground; the middle where there is none."""
    area = (label > 0).sum(axis=tuple(range(1, label.ndim)))
    return int(area.argmax()) if area.any() else label.shape[0] // 2


def write_image(path: Path, image: np.ndarray, bounds: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
    """Write one slice of an image in grey.

    Args:
        path: a .png.
        image: (C, *spatial).
        bounds: `robust_range` of the **clean** image, which become black and white.
        index: of the slice.
    """
    low, high = (bound.reshape(-1, 1, 1).cpu().numpy() for bound in bounds)
    unit = (image[:, index] - low) / np.where(high > low, high - low, 1)
    _write(path, np.round(255 * np.clip(unit, 0, 1).mean(axis=0)).astype(np.uint8))


def write_labels(path: Path, labels: np.ndarray, index: int) -> None:
    """Write one slice of a label map (*spatial)."""
    _write(path, labels[index].astype(np.uint8))


def _write(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="png")
