"""How a loss of the whole volume's logits changes with the preprocessed image, through nnU-Net's sliding window."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import nn

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.precision import is_out_of_memory, torch_threads
from nnunet_robust.eval.inference.sliding_window import SlidingWindow

Loss = Callable[[torch.Tensor], torch.Tensor]
"""Aggregated logits (heads, *spatial), float32 -> a number, differentiable."""


class Gradient(NamedTuple):
    """What a loss does over one preprocessed image.

    Attributes:
        logits: float32 (heads, *spatial), the mean over tiles, mirrored copies and folds; without a graph.
        loss: of these logits.
        gradient: d loss / d image, float32 (C, *spatial).
    """

    logits: torch.Tensor
    loss: float
    gradient: torch.Tensor


class WindowGradient:
    """The gradient of a loss of the aggregated logits with respect to the preprocessed image.

    Tiles, Gaussian weights, padding, mirrored copies and folds are the window's; networks and sums are in float32, as
    `fast` sums. The logits L of the volume are linear in the outputs f of the tiles: at a voxel,

        L = 1 / (folds mirrors) * sum over folds, mirrors and tiles of  g / W * mirror(f(mirror(x[tile]))),

    with the Gaussian weights g and their sum W over tiles. So a first pass adds L up without a graph and takes
    d loss / d L. A second takes one copy of one tile at a time and back-propagates through the network

        mirror(g / W * d loss / d L) / (folds mirrors);

    the input's gradients, mirrored back, are added up where the tile lies. Memory is that of the volume's logits and
    of one tile's graph; time is that of about three predictions. The same call gives the same bits on a CPU. For one
    thread at a time.

    Args:
        window: a window of this object's own, which nothing is predicted with: on CUDA that may lay the weights out
            in a way that keeps them from being differentiated through.
    """

    def __init__(self, window: SlidingWindow) -> None:
        self._window = window
        self._device = window.device
        self._gaussian = compute_gaussian(
            window.patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, dtype=torch.float32, device=self._device
        )

    def logits(self, data: torch.Tensor) -> torch.Tensor:
        """The logits alone: the first pass.

        Args:
            data: float32 (C, *spatial) with three spatial axes; images have one of length 1 in front.

        Returns:
            float32 (heads, *spatial), on the window's device.

        Raises:
            UserError: a tile does not fit into memory, or the logits are not finite.
        """
        with self._running():
            padded, inside = self._padded(data)
            return self._sum(padded)[inside]

    def gradient(self, data: torch.Tensor, loss: Loss) -> Gradient:
        """Both passes.

        Args:
            data: as for `logits`.
            loss: of the logits of the whole image, without its padding.

        Raises:
            UserError: a tile does not fit into memory, or logits or gradient are not finite.
        """
        with self._running():
            padded, inside = self._padded(data)
            summed = self._sum(padded)
            logits = summed[inside]
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                value = loss(leaf)
                (of_logits,) = torch.autograd.grad(value, leaf)
            of_padded = torch.zeros_like(summed)  # the loss does not know of the padding
            of_padded[inside] = of_logits
            found = self._back(padded, of_padded)[inside]
        return Gradient(logits, float(value.detach()), found)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        try:
            with torch_threads(self._window.threads, self._device), _full_precision(self._device), torch.no_grad():
                yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"a tile of {'x'.join(map(str, self._window.patch_size))} voxels and its gradient do not fit into "
                f"the memory of {self._device}: take a device with more, or a smaller tile"
            ) from error

    def _padded(self, data: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, ...]]:
        return self._window.padded(data.to(self._device, torch.float32))

    def _copies(self, padded: torch.Tensor) -> Iterator[tuple[nn.Module, tuple[Any, ...], tuple[int, ...]]]:
        """Network, tile and axes to mirror along, in nnU-Net's order."""
        slicers = self._window.slicers(tuple(padded.shape[1:]))
        for network in self._window.networks:
            for slicer in slicers:
                for axes in self._window.mirrors:
                    yield network, slicer, axes

    def _weights(self, padded: torch.Tensor) -> torch.Tensor:
        """1 / (W folds mirrors), for each voxel."""
        weights = torch.zeros(padded.shape[1:], device=self._device)
        for slicer in self._window.slicers(tuple(padded.shape[1:])):
            weights[slicer[1:]] += self._gaussian
        return 1 / (weights * len(self._window.networks) * len(self._window.mirrors))

    def _sum(self, padded: torch.Tensor) -> torch.Tensor:
        """The first pass: logits (heads, *padded)."""
        logits = torch.zeros((self._window.num_heads, *padded.shape[1:]), device=self._device)
        for network, slicer, axes in self._copies(padded):
            logits[slicer] += self._gaussian * network(padded[slicer][None].flip(axes)).flip(axes)[0]
        logits *= self._weights(padded)
        _check_finite(logits, "output")
        return logits

    def _back(self, padded: torch.Tensor, of_logits: torch.Tensor) -> torch.Tensor:
        """The second pass: d loss / d image, (C, *padded)."""
        of_logits = of_logits * self._weights(padded)
        found = torch.zeros_like(padded)
        for network, slicer, axes in self._copies(padded):
            share = (self._gaussian * of_logits[slicer])[None].flip(axes)
            if not share.any():
                continue  # no voxel of the tile counts
            with torch.enable_grad():
                tile = padded[slicer][None].flip(axes).requires_grad_()
                # of the input alone: gradients of the weights are not computed
                (of_tile,) = torch.autograd.grad(network(tile), tile, share)
            found[slicer] += of_tile.flip(axes)[0]
        _check_finite(found, "gradient with respect to the image")
        return found


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On CUDA convolutions round to TF32 unless they are told not to, and their gradients differ from run to run."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


def _check_finite(values: torch.Tensor, name: str) -> None:
    if not torch.isfinite(values).all():
        raise UserError(f"the network's {name} has values that are not finite: look at the intensities of the image")
