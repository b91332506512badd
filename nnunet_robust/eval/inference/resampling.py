"""nnU-Net's resampling of images and of logits as torch code, on any device; gradients pass through that of images.

`resample_data_or_seg_to_shape` is, but for one thing, linear and separable: a matrix for each axis. The exception is
that scikit-image's `resize` clips what splines overshoot to the extremes of the values that it was given: of a
channel, or of a slice where slices are resampled one by one. It computes in float64, this in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from scipy import ndimage
from torch.nn import functional

FUNCTION = "resample_data_or_seg_to_shape"
"""nnU-Net's name of the only resampling that is known here."""

_OPTIONS = ("is_seg", "order", "order_z", "force_separate_z")
_LINEAR = (1,)
_SPLINES = (1, 2, 3, 4, 5)


def knows_image_resampling(configuration: Mapping[str, Any]) -> bool:
    """Tell whether `Resampling` does what a configuration of the plans asks for.

    Args:
        configuration: of the plans, as in `plans.json`, whose `resampling_fn_data` is looked at.
    """
    return _knows(configuration, "resampling_fn_data", _SPLINES)


def knows_logit_resampling(configuration: Mapping[str, Any]) -> bool:
    """Tell whether `Interpolation` does what `resampling_fn_probabilities` of a configuration asks for."""
    return _knows(configuration, "resampling_fn_probabilities", _LINEAR)


def _knows(configuration: Mapping[str, Any], function: str, orders: Sequence[int]) -> bool:
    options = configuration.get(f"{function}_kwargs", {})
    return (
        configuration.get(function) == FUNCTION
        and set(options) <= set(_OPTIONS)
        and not options.get("is_seg", False)
        and options.get("order", 3) in orders
        and options.get("order_z", 0) in (0, *orders)
    )


class Resampling:
    """One change of grid of an image.

    Args:
        shape: (*old) of the image before; three axes.
        new_shape: (*new), after.
        spacing_mm: of the image before, along each axis.
        new_spacing_mm: after.
        options: `resampling_fn_data_kwargs` of the plans.
    """

    def __init__(
        self,
        shape: Sequence[int],
        new_shape: Sequence[int],
        spacing_mm: Sequence[float],
        new_spacing_mm: Sequence[float],
        options: Mapping[str, Any],
    ) -> None:
        apart = _axis_apart(spacing_mm, new_spacing_mm, options)
        order = options.get("order", 3)
        orders = [options.get("order_z", 0) if axis == apart else order for axis in range(len(shape))]
        sizes = {axis: (int(old), int(new)) for axis, (old, new) in enumerate(zip(shape, new_shape, strict=True))}
        changed = [axis for axis, (old, new) in sizes.items() if old != new]
        # the axes that shrink first: less is left to do for the others
        within = sorted((axis for axis in changed if axis != apart), key=lambda axis: sizes[axis][1] / sizes[axis][0])
        self._within = [(axis + 1, *sizes[axis], orders[axis]) for axis in within]
        self._across = [(axis + 1, *sizes[axis], orders[axis]) for axis in changed if axis == apart]
        self._clipped_over = tuple(axis + 1 for axis in range(len(shape)) if axis != apart)
        self._overshoots = order > 1 and bool(within)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Resample as nnU-Net does, one channel and one axis after the other.

        Args:
            image: float32 (C, *old), on any device; gradients pass.

        Returns:
            float32 (C, *new); the image itself where there is nothing to do.
        """
        if not self._within and not self._across:
            return image
        return torch.cat([self._one(channel[None]) for channel in image])

    def _one(self, channel: torch.Tensor) -> torch.Tensor:
        resampled = _along_all(channel, self._within)
        if self._overshoots:
            low, high = (bound(channel, dim=self._clipped_over, keepdim=True) for bound in (torch.amin, torch.amax))
            resampled = resampled.clamp(low, high)
        return _along_all(resampled, self._across)


class Interpolation:
    """One change of grid of logits, linear within slices, slab by slab: they need not be in memory all at once.

    Args:
        shape: (*old) of the logits before; three axes.
        new_shape: (*new), after.
        spacing_mm: of the logits before, along each axis.
        new_spacing_mm: after.
        options: `resampling_fn_probabilities_kwargs` of the plans.
        device: of the logits.
    """

    def __init__(
        self,
        shape: Sequence[int],
        new_shape: Sequence[int],
        spacing_mm: Sequence[float],
        new_spacing_mm: Sequence[float],
        options: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        apart = _axis_apart(spacing_mm, new_spacing_mm, options)
        nearest = apart if options.get("order_z", 0) == 0 else None
        self._new = tuple(int(n) for n in new_shape)
        self._moves, self._blends = int(shape[0]) != self._new[0], False
        if self._moves:
            before, after, weights = _neighbours(int(shape[0]), self._new[0], nearest == 0)
            self._before, self._after = before.to(device), after.to(device)
            self._weights, self._blends = weights.to(device).view(-1, 1, 1), bool(weights.any())
        self._picked = {
            axis: _neighbours(int(shape[axis]), self._new[axis], True)[0].to(device)
            for axis in (1, 2)
            if nearest == axis and shape[axis] != self._new[axis]
        }

    def slabs(self, logits: torch.Tensor, values: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Go through the logits on the new grid.

        Args:
            logits: float (heads, *old), on the device.
            values: a slab has at most that many, but always a slice.

        Yields:
            The slices along the first axis, and float32 (heads, slices, *new[1:]) there.
        """
        step = max(1, values // max(1, len(logits) * self._new[1] * self._new[2]))
        for start in range(0, self._new[0], step):
            where = slice(start, min(start + step, self._new[0]))
            yield where, self._slab(logits, where)

    def _slab(self, logits: torch.Tensor, where: slice) -> torch.Tensor:
        slab = logits[:, self._before[where] if self._moves else where].float()
        if self._blends:
            slab = torch.lerp(slab, logits[:, self._after[where]].float(), self._weights[where])
        for axis, index in self._picked.items():
            slab = slab.index_select(axis + 1, index)
        if tuple(slab.shape[2:]) != self._new[1:]:
            # half-pixel centres, edges repeated: what scikit-image does at order 1
            slab = functional.interpolate(slab, self._new[1:], mode="bilinear", align_corners=False)
        return slab


def _axis_apart(spacing_mm: Sequence[float], new_spacing_mm: Sequence[float], options: Mapping[str, Any]) -> int | None:
    """The axis across which slices are resampled one by one; None: there is none."""
    separate, axis = determine_do_sep_z_and_axis(options.get("force_separate_z", False), spacing_mm, new_spacing_mm)
    return int(axis) if separate else None


def _neighbours(old: int, new: int, nearest: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each voxel of an axis the two old ones that it lies between, and the float32 weight of the second."""
    at = (old / new) * (np.arange(new) + 0.5) - 0.5  # as nnU-Net rounds it: it decides where two are equally near
    if nearest:
        at = np.floor(at + 0.5)
    at = at.clip(0, old - 1)
    before = np.floor(at)
    found = (
        before.astype(np.int64),
        np.minimum(before + 1, old - 1).astype(np.int64),
        (at - before).astype(np.float32),
    )
    return torch.from_numpy(found[0]), torch.from_numpy(found[1]), torch.from_numpy(found[2])


def _along_all(image: torch.Tensor, steps: Sequence[tuple[int, int, int, int]]) -> torch.Tensor:
    for axis, old, new, order in steps:
        image = _along(image, _on_device(old, new, order, image.device), axis)
    return image


def _along(image: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply one axis by a matrix (new, old), in the layout that is there: no axis is moved."""
    *before, _ = image.shape[: axis + 1]
    behind = image.shape[axis + 1 :]
    flat = image.reshape(int(np.prod(before)), image.shape[axis], int(np.prod(behind)))
    if flat.shape[2] == 1:
        found = flat[:, :, 0] @ matrix.T
    elif flat.shape[0] == 1:
        found = matrix @ flat[0]
    else:
        found = torch.bmm(matrix.expand(len(flat), *matrix.shape), flat)
    return found.reshape(*before, len(matrix), *behind)


@functools.lru_cache(maxsize=32)  # every condition of a case, and every step of an attack, asks again
def _on_device(old: int, new: int, order: int, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # or gradients could not pass later
        return torch.from_numpy(_matrix(old, new, order)).float().to(device)


def _matrix(old: int, new: int, order: int) -> np.ndarray:
    """The matrix (new, old) of one axis: splines of an order, edges repeated, the voxels' outer borders aligned."""
    at = (old / new) * (np.arange(new) + 0.5) - 0.5
    return np.stack([ndimage.map_coordinates(unit, at[None], order=order, mode="nearest") for unit in np.eye(old)], 1)
