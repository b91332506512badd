"""The voxels that growing boxes reach first, without a number for every voxel of the image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

TIE = 1e-3
"""How far the faces of a box lean: without it all of a face would be reached at once."""

Box: TypeAlias = list[tuple[int, int]]
"""Along each axis the first voxel, and the one behind the last."""

_ALL = 2.0  # the factor at which a box with edges of 0.5 or more covers the image, wherever its centre is
_NEAR = 1.002  # of a bracket's ends: nearer ones cost more to find than they save
_ROUNDING = 1.0001


def first_reached(
    centres: NDArray[np.float32], edges: NDArray[np.float32], lengths: Sequence[int], count: int
) -> tuple[list[Box], NDArray[np.int64]]:
    """Find the voxels that growing boxes reach first.

    At a factor f a box reaches the voxels of which max_a d_a + TIE * sum_a d_a <= f, where d_a is the distance from
    its centre along axis a, in shares of the image's length, over its edge. Two factors are found between which the
    wanted one lies; what boxes surely hold at the smaller one is taken whole, and of what is between them alone the
    factor is computed.

    Args:
        centres: (boxes, axes), of the boxes, in shares of the image's lengths.
        edges: (boxes, axes), relative to one another; at least 0.5.
        lengths: of the image, in voxels.
        count: of voxels that are wanted, >= 1; more are found where several are reached at once.

    Returns:
        Boxes that are reached as a whole, and the places of further voxels, counted along the flattened image.
    """
    axes = len(lengths)

    def boxes_at(factor: float) -> list[Box]:
        return [_box(*box, lengths, factor) for box in zip(centres.tolist(), edges.tolist(), strict=True)]

    # what the boxes would have to grow to, were they within the image and apart
    guess = (count / math.prod(lengths) / (2**axes * edges.prod(axis=1, dtype=np.float64).sum())) ** (1 / axes)
    low, high = _bracket(lambda factor: _volume(boxes_at(factor)), float(guess), count, axes)
    leaning = (1 + axes * TIE) * _ROUNDING
    whole, possible = boxes_at(low / leaning), boxes_at(high * leaning)
    places = _between(whole, possible, lengths)
    factors = _factors(centres, edges, lengths, places)
    left = count - _volume(whole)
    return whole, places[factors <= np.partition(factors, left - 1)[left - 1]]


def _box(centre: Sequence[float], edge: Sequence[float], lengths: Sequence[int], factor: float) -> Box:
    """The voxels with max_a d_a <= factor."""
    return [
        (max(0, math.ceil((c - factor * e) * n - 0.5)), min(n, math.floor((c + factor * e) * n - 0.5) + 1))
        for c, e, n in zip(centre, edge, lengths, strict=True)
    ]


def _volume(boxes: Sequence[Box]) -> int:
    """The number of voxels that boxes cover together: by inclusion and exclusion."""
    total = 0
    for number in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, number):
            volume = 1
            for ends in zip(*chosen, strict=True):
                volume *= max(0, min(high for _, high in ends) - max(low for low, _ in ends))
            total += volume if number % 2 else -volume
    return total


def _bracket(volume: Callable[[float], int], guess: float, count: int, axes: int) -> tuple[float, float]:
    """Two factors near one another: at the first there are fewer voxels than wanted, at the second not."""
    low, high, factor, beyond = 0.0, _ALL * _ROUNDING, guess, 0.3 * (_NEAR - 1)
    while high > low * _NEAR and high > 1e-9:
        if not low < factor < high:
            factor = (low + high) / 2
        found = volume(factor)
        if found < count:
            low = factor
        else:
            high = factor
        # volumes grow about as the power of the axes; a little beyond, and ever more, to get on the other side
        factor *= (count / max(found, 1)) ** (1 / axes) * (1 + beyond if found < count else 1 - beyond)
        beyond = min(2 * beyond, 0.5)
    return low, high


def _between(whole: Sequence[Box], possible: Sequence[Box], lengths: Sequence[int]) -> NDArray[np.int64]:
    """The places of what lies in any of the possible boxes, and not in any of the whole ones."""
    steps = [math.prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
    parts = []
    for inner, outer in zip(whole, possible, strict=True):
        for slab in _around(inner, outer):
            places: NDArray[np.int64] = np.zeros((), np.int64)
            for (low, high), step in zip(slab, steps, strict=True):
                places = np.add.outer(places, np.arange(low * step, high * step, step))
            parts.append(places.ravel())
    found = np.unique(np.concatenate(parts))
    at = np.unravel_index(found, tuple(lengths))
    taken: NDArray[np.bool_] = np.zeros(len(found), bool)
    for box in whole:
        inside: NDArray[np.bool_] = np.ones(len(found), bool)
        for position, (low, high) in zip(at, box, strict=True):
            inside &= (position >= low) & (position < high)
        taken |= inside
    return found[~taken]


def _around(inner: Box, outer: Box) -> list[Box]:
    """What a box has more than one within it, as boxes that do not overlap."""
    if any(low >= high for low, high in inner):
        return [outer]
    slabs = []
    for axis, ((first, last), (low, high)) in enumerate(zip(outer, inner, strict=True)):
        for ends in ((first, low), (high, last)):
            if ends[0] < ends[1]:
                slabs.append([*inner[:axis], ends, *outer[axis + 1 :]])
    return slabs


def _factors(
    centres: NDArray[np.float32], edges: NDArray[np.float32], lengths: Sequence[int], places: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The factor at which the first box reaches each place."""
    at = np.unravel_index(places, tuple(lengths))
    positions = [(np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length) for length in lengths]
    factors: NDArray[np.float32] = np.full(len(places), np.inf, np.float32)
    for centre, edge in zip(centres, edges, strict=True):
        along = [(np.abs(p - c) / e)[a] for p, c, e, a in zip(positions, centre, edge, at, strict=True)]
        farthest = np.maximum.reduce(along)
        total = np.float32(0.0)
        for distance in along:
            total = total + distance
        factors = np.minimum(factors, farthest + np.float32(TIE) * total)
    return factors
