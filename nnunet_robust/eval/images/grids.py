"""Grids: where the voxels of an array lie, and whether two of them lie in the same place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_APART = 0.5
"""In voxels: grids that are further apart at any voxel, along any axis, are two grids."""
_ROUNDING = 0.01  # in voxels: what headers of one grid differ by
_NO_SPACING = (999.0, 1.0, 1.0)  # what nnU-Net's reader says of a flat image whose format has none (PNG)


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid of an image, a channel or a label.

    Attributes:
        shape: the number of voxels along each axis, as the array has them.
        spacing: their size, likewise.
        axes: (d, d), the steps from voxel to voxel in mm, a column per axis; x is the first, the array's last. None
            where the format has no geometry (PNG, TIFF).
        origin: (d,), the position of the first voxel in mm.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    axes: NDArray[np.float64] | None = None
    origin: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, shape: Sequence[int], properties: Mapping[str, Any]) -> Grid:
        """Take it from what nnU-Net's readers give beside an array: those of SimpleITK and nibabel have a geometry.

        Args:
            shape: of the array, without channels.
            properties: from the reader.
        """
        size, spacing = tuple(map(int, shape)), tuple(float(s) for s in properties["spacing"])
        if (itk := properties.get("sitk_stuff")) is not None:
            n_axes = len(itk["spacing"])
            axes = np.reshape(itk["direction"], (n_axes, n_axes)) * np.asarray(itk["spacing"])
            space = min(n_axes, len(size))  # channels in one file are a fourth axis there
            return cls(size, spacing, axes[:space, :space], np.asarray(itk["origin"], float)[:space])
        if (nifti := properties.get("nibabel_stuff")) is not None:
            affine = np.asarray(nifti.get("reoriented_affine", nifti["original_affine"]), float)
            return cls(size, spacing, affine[:3, :3], affine[:3, 3])
        return cls(size, spacing)

    def __str__(self) -> str:
        if self.axes is None and self.spacing == _NO_SPACING:
            return f"{self.shape[1:]} pixels"
        text = f"{self.shape} voxels of {_numbers(self.spacing)} mm"
        if self.axes is None or self.origin is None:
            return text
        directions = self.axes / np.maximum(np.linalg.norm(self.axes, axis=0), 1e-12)
        return f"{text}, origin {_numbers(self.origin)}, direction {_numbers(directions.ravel())}"

    def voxels_apart(self, other: Grid) -> float:
        """How far any voxel of another grid of the same size lies from the same voxel of this one.

        Returns:
            The largest distance along any axis of this grid, in its voxels; 0 where either has no geometry, infinite
            where they cannot be compared.
        """
        if self.axes is None or other.axes is None or self.origin is None or other.origin is None:
            return 0.0
        if self.axes.shape != other.axes.shape:
            return float("inf")
        # The distance is an affine function of the voxel: it is largest at a corner.
        sizes = self.shape[::-1][: len(self.axes)]
        corners = np.array(list(itertools.product(*((0, size - 1) for size in sizes))), float).T
        moved = (other.axes - self.axes) @ corners + (other.origin - self.origin)[:, None]
        try:
            apart = float(np.abs(np.linalg.solve(self.axes, moved)).max())
        except np.linalg.LinAlgError:
            return float("inf")
        return apart if np.isfinite(apart) else float("inf")


@dataclass(frozen=True)
class Comparison:
    """What two grids have in common: at most one of the two is not empty.

    Attributes:
        fault: why they are two; a clause.
        note: in what they differ without being two; likewise.
    """

    fault: str = ""
    note: str = ""


def compare_grids(first: Grid, second: Grid) -> Comparison:
    """Compare two grids: size and spacing as nnU-Net does, origin and direction by how far they move a voxel.

    nnU-Net's integrity check warns of another origin or direction, whatever the difference.
    """
    if first.shape != second.shape:
        return Comparison(fault="other sizes")
    if not np.allclose(first.spacing, second.spacing):
        return Comparison(fault="other spacings")
    apart = first.voxels_apart(second)
    if apart > MOST_APART:
        return Comparison(fault=f"up to {apart:.4g} voxels apart")
    return Comparison(note=f"up to {apart:.2g} voxels apart, and taken as one grid" if apart > _ROUNDING else "")


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    # + 0.0: no minus before a zero
    return f"({', '.join(f'{round(float(value), 6) + 0.0:g}' for value in values)})"
