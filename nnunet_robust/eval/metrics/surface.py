"""Surfaces of masks and the distances between them, in mm.

What surface-distance 0.1 computes, number for number, where one surface is compared with many: it transforms the
whole box around both masks for each comparison, which takes long as soon as noise scatters a prediction over a volume.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from surface_distance.lookup_tables import (
    create_table_neighbour_code_to_contour_length,
    create_table_neighbour_code_to_surface_area,
)

_CHUNK = 2**16
_REACH = 8  # voxels: how far of the reference a prediction's surface is looked for first
_FAR = 8  # voxels
# A point far away costs the tree 4 to 7 us (a near one 0.6 us), a voxel costs the map 0.13 us. The map is made when the
# tree has cost about a third of it: where one prediction is scattered, more will be.
_VOXELS_PER_FAR_POINT = 120


@dataclass(frozen=True)
class Crop:
    """A mask, cut to a box of the image that has all of it.

    Attributes:
        array: bool, the box; of length 0 for an empty mask.
        start: the box's first voxel in the image.
        voxels: how many are set.
    """

    array: NDArray[np.bool_]
    start: tuple[int, ...]
    voxels: int

    def overlap(self, other: Crop) -> int:
        """Voxels that both masks have."""
        start = [max(a, b) for a, b in zip(self.start, other.start, strict=True)]
        return int(np.count_nonzero(self._from(start, other) & other._from(start, self)))

    def _from(self, start: Sequence[int], other: Crop) -> NDArray[np.bool_]:
        """What lies between `start` and the nearer end of both boxes."""
        ends = (
            min(a + n, b + m)
            for a, n, b, m in zip(self.start, self.array.shape, other.start, other.array.shape, strict=True)
        )
        box = (slice(s - a, max(e, s) - a) for s, e, a in zip(start, ends, self.start, strict=True))
        return self.array[tuple(box)]


@dataclass(frozen=True)
class Surface:
    """The surface elements of a mask, one at each corner of voxels around which the mask changes.

    Attributes:
        points: int32 (axes, N), the corners: corner i of an axis lies between voxels i - 1 and i.
        areas: float64 (N), in mm**2; in 2d lengths in mm.
    """

    points: NDArray[np.int32]
    areas: NDArray[np.float64]


@dataclass
class MapBudget:
    """The memory that the maps of a case's reference surfaces may take together, and the lock for making one.

    Attributes:
        bytes_left: a map takes 4 bytes a voxel, and 13 while it is made.
    """

    bytes_left: int = 2**30
    lock: threading.Lock = field(default_factory=threading.Lock)


def area_table(spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """surface-distance's table: neighbour code (one bit per voxel around a corner) -> area of the surface there.

    Args:
        spacing_mm: the voxel's size along each of 2 or 3 axes, in mm.

    Returns:
        float64 (16) with lengths in mm, or (256) with areas in mm**2.
    """
    if len(spacing_mm) == 2:
        return create_table_neighbour_code_to_contour_length(spacing_mm)
    return create_table_neighbour_code_to_surface_area(spacing_mm)


def extract_surface(mask: Crop, table: NDArray[np.float64]) -> Surface:
    """Find the surface elements of a mask, not empty; what lies outside of the image is background.

    Args:
        mask: 2d or 3d.
        table: `area_table` of the image's spacing.

    Returns:
        The surface, in the image's coordinates, in C order.

    Example:
        >>> import numpy as np
        >>> square = Crop(np.ones((2, 2), bool), (3, 3), 4)
        >>> found = extract_surface(square, area_table((1.0, 1.0)))
        >>> found.points.shape  # eight corners around which the mask changes
        (2, 8)
        >>> round(float(found.areas.sum()), 3)  # four sides of a voxel, and four corners cut off
        6.828
    """
    axes = mask.array.ndim
    codes: NDArray[np.uint8] = np.zeros([n + 2 for n in mask.array.shape], np.uint8)
    codes[(slice(1, -1),) * axes] = mask.array
    for axis in range(axes):
        before = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        codes = (codes[before] << (1 << (axes - 1 - axis))) | codes[after]
    # neither 0 nor all bits set: 0 - 1 wraps around to 255
    flat = np.flatnonzero((codes - np.uint8(1)) < len(table) - 2)
    points = np.empty((axes, len(flat)), np.int32)
    for axis, indices in enumerate(np.unravel_index(flat, codes.shape)):
        np.add(indices, mask.start[axis], out=points[axis], casting="unsafe")
    return Surface(points, table[codes.ravel()[flat]])


class ReferenceSurface:
    """A surface that others are compared with; safe to use from several threads at once.

    Distances to it come from a KD-tree, or, once many long ones were asked for (of scattered noise) and where memory
    allows, from a map of the nearest element for each corner of the image. Both are exact.

    Args:
        surface: the surface, not empty.
        shape: the image's, in voxels.
        spacing_mm: the voxel's size along each axis, in mm.
        budget: the memory for maps.
    """

    def __init__(self, surface: Surface, shape: Sequence[int], spacing_mm: Sequence[float], budget: MapBudget) -> None:
        self.surface = surface
        self._grid = tuple(n + 1 for n in shape)
        self._spacing = tuple(spacing_mm)
        self._budget = budget
        self._far = 0
        self._tree = _tree(surface.points, self._spacing)
        self._map: NDArray[np.int32] | None = None

    def distances_from(self, other: Surface) -> NDArray[np.float64]:
        """The distance of each element of `other` to the nearest one of this surface, in mm."""
        points = other.points
        result = np.empty(points.shape[1])
        for first in range(0, len(result), _CHUNK):
            chunk = points[:, first : first + _CHUNK]
            nearest = self._map_if_worth_it()
            if nearest is None:
                found = self.surface.points[:, self._tree.query(_millimetres(chunk, self._spacing))[1]]
            else:
                found = np.stack(np.unravel_index(nearest[tuple(chunk)], self._grid))
            distances = _distances(chunk, found, self._spacing)
            result[first : first + _CHUNK] = distances
            if nearest is None:
                far = np.count_nonzero(distances > _FAR * sum(self._spacing) / len(self._spacing))
                with self._budget.lock:
                    self._far += int(far)
        return result

    def distances_to(self, other: Surface) -> NDArray[np.float64]:
        """The distance of each element of this surface to the nearest one of `other` (not empty), in mm."""
        points, others = self.surface.points, other.points
        result = np.empty(points.shape[1])
        todo = np.arange(len(result))
        # Of a scattered prediction only the neighbourhood is looked at, a wider one where nothing was found.
        reach = _REACH * max(self._spacing)
        while True:
            wanted = points[:, todo]
            near = _within(others, wanted, [math.ceil(reach / s) for s in self._spacing])
            if near.size:
                bound = reach if near.shape[1] < others.shape[1] else math.inf
                query = _millimetres(wanted, self._spacing)
                index = _tree(near, self._spacing).query(query, distance_upper_bound=bound)[1]
                hit = index < near.shape[1]
                result[todo[hit]] = _distances(wanted[:, hit], near[:, index[hit]], self._spacing)
                todo = todo[~hit]
                if not todo.size:
                    return result
            reach *= 4

    def _map_if_worth_it(self) -> NDArray[np.int32] | None:
        voxels = math.prod(self._grid)
        with self._budget.lock:
            worth_it = self._far * _VOXELS_PER_FAR_POINT >= voxels
            if self._map is None and worth_it and 4 * voxels <= self._budget.bytes_left:
                self._map = self._make_map()
                self._budget.bytes_left -= 4 * voxels
            return self._map

    def _make_map(self) -> NDArray[np.int32]:
        """int32 (corners): the flat index of the nearest surface element's corner."""
        elsewhere: NDArray[np.bool_] = np.ones(self._grid, bool)
        elsewhere[tuple(self.surface.points)] = False
        nearest = _nearest_zero(elsewhere, self._spacing)
        flat = nearest[0]
        for axis in range(1, len(self._grid)):
            flat *= self._grid[axis]
            flat += nearest[axis]
        return flat.copy()  # lets go of the other axes


def weighted_percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], percent: float) -> float:
    """The distance within which `percent` of the area lies; as surface-distance's `compute_robust_hausdorff`.

    Example:
        >>> import numpy as np
        >>> weighted_percentile(np.array([0.0, 1.0, 9.0]), np.array([60.0, 36.0, 4.0]), 95)  # 96 % lies within 1 mm
        1.0
    """
    # Sorts by distance, then by area: the order of summation decides where the sum hits the percentage exactly.
    ordered = np.sort(distances + 1j * areas)
    cumulated = np.cumsum(ordered.imag) / np.sum(ordered.imag)
    index = np.searchsorted(cumulated, percent / 100.0)
    return float(ordered.real[min(int(index), len(ordered) - 1)])


def _nearest_zero(array: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.int32]:
    """For each element the indices (axes, *shape) of the nearest False one: by cuCIM on a GPU where it is installed."""
    options = {"sampling": spacing, "return_distances": False, "return_indices": True}
    try:
        import cupy
        from cucim.core.operations.morphology import distance_transform_edt as on_the_gpu

        nearest: NDArray[np.int32] = cupy.asnumpy(on_the_gpu(cupy.asarray(array), **options)).astype(np.int32)
    except (ImportError, RuntimeError, MemoryError):  # not installed, no device, or a full one
        nearest = distance_transform_edt(array, **options)
    return nearest


def _tree(points: NDArray[np.int32], spacing: tuple[float, ...]) -> cKDTree:
    # Neither balanced nor compact: both cost more than they save, in building and in asking.
    return cKDTree(_millimetres(points, spacing), leafsize=32, balanced_tree=False, compact_nodes=False)


def _millimetres(points: NDArray[np.int32], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    return points.T * np.array(spacing)


def _distances(a: NDArray[np.integer], b: NDArray[np.integer], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Rounded as by SciPy's distance transform, so that a distance that equals the tolerance stays within it."""
    squares = np.zeros(a.shape[1])
    for axis, size in enumerate(spacing):
        squares += ((a[axis] - b[axis]) * size) ** 2
    return np.sqrt(squares)


def _within(points: NDArray[np.int32], centres: NDArray[np.int32], margin: Sequence[int]) -> NDArray[np.int32]:
    """Those of the points that lie in the box around the centres, widened by a margin; all of them without a copy."""
    inside = np.ones(points.shape[1], bool)
    for axis, width in enumerate(margin):
        inside &= points[axis] >= centres[axis].min() - width
        inside &= points[axis] <= centres[axis].max() + width
    return points if inside.all() else points[:, inside]
