"""Solid shapes in three dimensions, given by one number: the radius of the sphere around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def _sphere(x: np.ndarray) -> np.ndarray:
    return (x**2).sum(axis=0) <= 1


def _ellipsoid(x: np.ndarray) -> np.ndarray:
    semi_axes = np.array((1.0, 0.7, 0.5)).reshape(3, 1, 1, 1)
    return ((x / semi_axes) ** 2).sum(axis=0) <= 1


def _cube(x: np.ndarray) -> np.ndarray:
    return np.abs(x).max(axis=0) <= 3**-0.5


def _cylinder(x: np.ndarray) -> np.ndarray:
    return (np.abs(x[0]) <= 2**-0.5) & (np.hypot(x[1], x[2]) <= 2**-0.5)


def _torus(x: np.ndarray) -> np.ndarray:
    return np.hypot(np.hypot(x[1], x[2]) - 2 / 3, x[0]) <= 1 / 3


SOLIDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sphere": _sphere,
    "ellipsoid": _ellipsoid,
    "cube": _cube,
    "cylinder": _cylinder,
    "torus": _torus,
}
"""Each tells which points (3, D, H, W) are inside a shape around the origin that just fits into the unit sphere."""


def extent_mm(size: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the mm from the first to the last voxel's centre along each axis (3,): shapes within are wholly inside."""
    return (np.array(size) - 1) * np.array(spacing_mm, dtype=float)


def draw_solid(
    name: str,
    size: Sequence[int],
    spacing_mm: Sequence[float],
    centre_mm: np.ndarray,
    radius_mm: float,
    rotation: np.ndarray,
) -> np.ndarray:
    """Draw a shape: the voxels whose centres lie inside; a sphere is round in mm, whatever the spacing.

    Args:
        name: a key of `SOLIDS`.
        size: voxels per axis.
        spacing_mm: voxel size per axis.
        centre_mm: (3,), from the first voxel's centre.
        radius_mm: of the sphere around the shape.
        rotation: (3, 3), turns the shape's own axes into the volume's.

    Returns:
        A bool array of `size`.
    """
    axes = [np.arange(n) * s - c for n, s, c in zip(size, spacing_mm, centre_mm, strict=True)]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij")) / radius_mm
    return SOLIDS[name](np.einsum("ji,jzyx->izyx", rotation, offsets))


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Draw a rotation matrix (3, 3), uniformly distributed: that of a random unit quaternion."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(rng.normal(size=4)).as_matrix()
