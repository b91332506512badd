"""Local binary patterns as torch code, on any device that has float64: bit for bit those of scikit-image.

Whether a neighbour is as bright as the centre is decided by the last bit where an image is flat, so the arithmetic is
scikit-image's own, operation by operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from skimage.transform import resize
from torch.nn import functional

_VALUES_AT_ONCE = 1 << 22  # neighbours of all pixels of some slices


def shrunk(grey: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Shrink slices as `skimage.transform.resize` does with `anti_aliasing`, and round.

    Args:
        grey: uint8 (n, rows, columns), on any device.
        shape: (rows, columns) to make of it, none larger than before.

    Returns:
        uint8 (n, *shape). Linear and separable, so it is two products of matrices, in float64: where a value lies
        half-way between two grey levels, rounding may differ from scikit-image's.
    """
    rows, columns = (_shrinking(old, new, grey.device) for old, new in zip(grey.shape[1:], shape, strict=True))
    return (rows @ grey.double() @ columns.T).round().clamp(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=16)
def _shrinking(old: int, new: int, device: torch.device) -> torch.Tensor:
    """The matrix (new, old) of one axis."""
    return torch.from_numpy(resize(np.eye(old), (new, old), anti_aliasing=True, clip=False)).to(device)


def uniform_patterns(grey: torch.Tensor, points: int, radius: int) -> torch.Tensor:
    """Find the uniform local binary pattern around each pixel: `local_binary_pattern(..., method="uniform")`.

    Args:
        grey: uint8 (n, rows, columns), on any device; n slices, each by itself.
        points: on the circle.
        radius: of the circle, in pixels.

    Returns:
        uint8 (n, rows, columns), in [0, points + 1].

    Reference: Ojala et al., "Multiresolution gray-scale and rotation invariant texture classification with local binary
    patterns", IEEE TPAMI 2002; scikit-image's implementation.
    """
    codes_of = _circle(points, radius, *grey.shape[1:], grey.device)
    step = max(1, _VALUES_AT_ONCE // (points * grey[0].numel()))
    return torch.cat([codes_of(grey[start : start + step]) for start in range(0, len(grey), step)])


@functools.lru_cache(maxsize=4)  # every condition of a case asks again
def _circle(
    points: int, radius: int, rows: int, columns: int, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What finds the codes of slices of one size."""
    angles = 2 * np.pi * np.arange(points) / points
    at_rows = np.arange(rows) + np.round(-radius * np.sin(angles), 5)[:, None]
    at_columns = np.arange(columns) + np.round(radius * np.cos(angles), 5)[:, None]
    margin = radius + 1
    low_rows, low_columns, high_rows, high_columns = (
        torch.from_numpy(side(at).astype(np.int64) + margin).to(device)
        for side in (np.floor, np.ceil)
        for at in (at_rows, at_columns)
    )
    down = torch.from_numpy(at_rows - np.floor(at_rows)).to(device)[:, :, None]
    right = torch.from_numpy(at_columns - np.floor(at_columns)).to(device)[:, None, :]

    def codes(grey: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(grey.double(), (margin,) * 4)  # what lies outside is 0

        def row(at: torch.Tensor) -> torch.Tensor:
            left, beside = (padded[:, at[:, :, None], near[:, None, :]] for near in (low_columns, high_columns))
            return (1 - right) * left + right * beside

        neighbours = (1 - down) * row(low_rows) + down * row(high_rows)
        brighter = neighbours - grey.double()[:, None] >= 0
        changes = (brighter[:, 1:] != brighter[:, :-1]).sum(dim=1)
        return torch.where(changes <= 2, brighter.sum(dim=1), points + 1).to(torch.uint8)

    return codes
