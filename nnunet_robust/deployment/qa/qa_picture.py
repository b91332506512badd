"""One slice of an assessed image, with the outlines of its segmentation and its bounds, for `qa.html`."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from nnunet_robust.deployment.qa.assess import Assessment
from nnunet_robust.eval.images import pictures
from nnunet_robust.eval.report.shared.viewer import outline
from nnunet_robust.perturbations import robust_range

_SIDE = 320  # pixels of the longer side, at most
_QUALITY = 80  # of WebP


@dataclass(frozen=True)
class Picture:
    """A slice of an image, with outlines.

    Attributes:
        uri: of the image, as data.
        width: of the slice, in voxels: outlines are in halves of them.
        height: likewise.
        aspect: how much longer a voxel is across than along the rows.
        slice: its index along the first axis, and how many there are.
        outlines: for `segmentation`, `inner` and `outer` the data of SVG paths, one per structure that has one there.
    """

    uri: str
    width: int
    height: int
    aspect: float
    slice: tuple[int, int]
    outlines: dict[str, list[str]]


def picture_of(found: Assessment) -> Picture | None:
    """Draw the slice with the most segmented voxels, or the middle one."""
    image = found.checked.image
    if image is None or not np.isfinite(image).all():
        return None
    labels = np.zeros(image.shape[1:], np.uint8) if found.predicted is None else found.predicted.segmentation
    index = pictures.display_slice(labels)
    grey = _grey(image, index)
    spacing = [float(size) for size in found.checked.properties["spacing"]]
    outlines: dict[str, list[str]] = {"outer": [], "segmentation": [], "inner": []}
    for name, finding in found.findings.items():
        masks = {"outer": finding.outer, "inner": finding.inner}
        if found.predicted is not None:
            masks["segmentation"] = found.predicted.mask(name)
        for which, mask in masks.items():
            if mask is not None and mask[index].any():
                outlines[which].append(outline(mask[index]))
    height, width = grey.shape
    return Picture(_uri(grey), width, height, spacing[1] / spacing[2], (index, image.shape[1]), outlines)


def _grey(image: np.ndarray, index: int) -> np.ndarray:
    low, high = (bound.reshape(-1, 1, 1).numpy() for bound in robust_range(torch.from_numpy(image)))
    unit = (image[:, index] - low) / np.where(high > low, high - low, 1)
    grey: np.ndarray = np.round(255 * np.clip(unit, 0, 1).mean(axis=0)).astype(np.uint8)
    return grey


def _uri(grey: np.ndarray) -> str:
    picture = Image.fromarray(grey)
    scale = min(1.0, _SIDE / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    data = io.BytesIO()
    picture.resize(size, Image.Resampling.BOX).save(data, format="webp", quality=_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
