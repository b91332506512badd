"""How a loss of the whole volume's logits changes with the preprocessed image, through nnU-Net's sliding window."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache
from torch import nn

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.precision import is_out_of_memory, torch_threads
from nnunet_robust.eval.inference.sliding_window import SlidingWindow

Loss = Callable[[torch.Tensor], torch.Tensor]
"""Aggregated logits (heads, *spatial), float32 -> a number, differentiable."""

_Slicer: TypeAlias = tuple[Any, ...]
_Copies: TypeAlias = Sequence[tuple[_Slicer, tuple[int, ...]]]  # a tile, and the axes to mirror it along

# Of the copies that go through a network together. On a CPU small tiles gain by it, to this size; on a GPU the graph of
# so many takes some 4 GB with nnU-Net's default networks: one tile of 128 x 128 x 128, or 8 of 512 x 512.
_VOXELS_AT_ONCE = {"cpu": 1 << 16, "accelerator": 1 << 21}


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


class _Graph(NamedTuple):
    """Copies that went through a network, with what autograd needs to go back."""

    copies: _Copies
    tiles: torch.Tensor
    outputs: torch.Tensor


class WindowGradient:
    """The gradient of a loss of the aggregated logits with respect to the preprocessed image.

    Tiles, Gaussian weights, padding, mirrored copies and folds are the window's; networks and sums are in float32, as
    `fast` sums. The logits L of the volume are linear in the outputs f of the tiles: at a voxel,

        L = 1 / (folds mirrors) * sum over folds, mirrors and tiles of  g / W * mirror(f(mirror(x[tile]))),

    with the Gaussian weights g and their sum W over tiles. So a first pass adds L up without a graph and takes
    d loss / d L. A second back-propagates through the network

        mirror(g / W * d loss / d L) / (folds mirrors)

    of each copy of each tile; the input's gradients, mirrored back, are added up where the tile lies. Both passes take
    several copies at once, as many as have `_VOXELS_AT_ONCE` voxels; where these do not fit into memory, half of that,
    down to one. Memory is that of the volume's logits and of one batch's graph; time is that of about three
    predictions, or two where all copies of all folds are one batch, whose graph the first pass keeps. The device is
    waited for twice, whatever the number of tiles. The same call gives the same bits on a CPU. For one thread at a
    time.

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
        # By size, never by a measured time: another number at once gives other last bits.
        voxels = _VOXELS_AT_ONCE["cpu" if self._device.type == "cpu" else "accelerator"]
        self._at_once = max(1, voxels // math.prod(window.patch_size))
        self._known_weights: tuple[tuple[int, ...], torch.Tensor] | None = None

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
            summed, _ = self._sum(padded, keep=False)
            _check_finite(bool(torch.isfinite(summed).all()), "output")
            return summed[inside]

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
            summed, kept = self._sum(padded, keep=True)
            logits = summed[inside]
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                value = loss(leaf)
                (of_logits,) = torch.autograd.grad(value, leaf)
            of_padded = torch.zeros_like(summed)  # the loss does not know of the padding
            of_padded[inside] = of_logits
            of_padded *= self._weights(padded)
            slicers = self._slicers(padded)
            counts = [of_padded[slicer].any() for slicer in slicers]  # where no voxel of a tile does, it is left out
            finite, *count = torch.stack([torch.isfinite(summed).all(), *counts]).tolist()
            _check_finite(finite, "output")
            found = self._back_through(kept, padded, of_padded)
            if found is None:
                found = self._back(padded, of_padded, list(itertools.compress(slicers, count)))
            finite, worth = torch.stack([torch.isfinite(found).all().to(value.dtype), value.detach()]).tolist()
            _check_finite(bool(finite), "gradient with respect to the image")
        return Gradient(logits, worth, found[inside])

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

    def _padded(self, data: torch.Tensor) -> tuple[torch.Tensor, _Slicer]:
        return self._window.padded(data.to(self._device, torch.float32))

    def _slicers(self, padded: torch.Tensor) -> list[_Slicer]:
        return self._window.slicers(tuple(padded.shape[1:]))

    def _weights(self, padded: torch.Tensor) -> torch.Tensor:
        """1 / (W folds mirrors), for each voxel; kept for the last shape, which all steps of an attack share."""
        shape = tuple(padded.shape[1:])
        if self._known_weights is None or self._known_weights[0] != shape:
            weights = torch.zeros(shape, device=self._device)
            for slicer in self._slicers(padded):
                weights[slicer[1:]] += self._gaussian
            weights = 1 / (weights * len(self._window.networks) * len(self._window.mirrors))
            self._known_weights = shape, weights
        return self._known_weights[1]

    def _sum(self, padded: torch.Tensor, keep: bool) -> tuple[torch.Tensor, list[_Graph]]:
        """The first pass: logits (heads, *padded) and, where they are asked for and few, the graphs of all copies."""
        slicers = self._slicers(padded)
        number = len(slicers) * len(self._window.mirrors) * len(self._window.networks)
        kept: list[_Graph] = []

        def forwards(network: nn.Module, copies: _Copies) -> torch.Tensor:
            keeps = keep and number <= self._at_once
            with torch.set_grad_enabled(keeps):
                tiles = _taken(padded, copies).requires_grad_(keeps)
                outputs: torch.Tensor = network(tiles)
            if keeps:
                kept.append(_Graph(copies, tiles, outputs))
            return outputs.detach()

        logits = torch.zeros((self._window.num_heads, *padded.shape[1:]), device=self._device)
        for copies, outputs in self._in_batches(slicers, forwards):
            _put(logits, copies, outputs, self._gaussian)
        logits *= self._weights(padded)
        return logits, kept if number <= self._at_once else []  # memory may not have sufficed

    def _back_through(self, graphs: list[_Graph], padded: torch.Tensor, of_logits: torch.Tensor) -> torch.Tensor | None:
        """The second pass through graphs that are there; None: there are none, or no memory to go back through them."""

        def backwards() -> torch.Tensor:
            found = torch.zeros_like(padded)
            for copies, tiles, outputs in graphs:
                shares = _taken(of_logits, copies, self._gaussian)
                _put(found, copies, torch.autograd.grad(outputs, tiles, shares)[0])
            return found

        if not graphs:
            return None
        found = self._tried(backwards, sum(len(graph.copies) for graph in graphs))
        graphs.clear()
        return found

    def _back(self, padded: torch.Tensor, of_logits: torch.Tensor, slicers: Sequence[_Slicer]) -> torch.Tensor:
        """The second pass, of some tiles: d loss / d image, (C, *padded)."""

        def backwards(network: nn.Module, copies: _Copies) -> torch.Tensor:
            shares = _taken(of_logits, copies, self._gaussian)
            with torch.enable_grad():
                tiles = _taken(padded, copies).requires_grad_()
                # of the input alone: gradients of the weights are not computed
                (of_tiles,) = torch.autograd.grad(network(tiles), tiles, shares)
            return of_tiles

        found = torch.zeros_like(padded)
        for copies, of_tiles in self._in_batches(slicers, backwards):
            _put(found, copies, of_tiles)
        return found

    def _in_batches(
        self, slicers: Sequence[_Slicer], run: Callable[[nn.Module, _Copies], torch.Tensor]
    ) -> Iterator[tuple[_Copies, torch.Tensor]]:
        """Run something on each mirrored copy of some tiles and each fold's network, several copies at once.

        What they are added to is not touched by `run`, so that a batch that does not fit into memory is begun again.
        """
        copies = [(slicer, axes) for axes in self._window.mirrors for slicer in slicers]
        for network in self._window.networks:
            start = 0
            while start < len(copies):
                batch = copies[start : start + self._at_once]
                found = self._tried(functools.partial(run, network, batch), len(batch))
                if found is not None:
                    yield batch, found
                    start += len(batch)

    def _tried(self, run: Callable[[], torch.Tensor], copies: int) -> torch.Tensor | None:
        """What `run` gives, of that many copies; None: out of memory, try again with less."""
        try:
            return run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or copies == 1:
                raise
        # outside of the handler, whose traceback holds on to the memory
        empty_cache(self._device)
        self._at_once = copies // 2
        return None


def _taken(source: torch.Tensor, copies: _Copies, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The copies, (n, channels, *patch), mirrored; each tile times the weights before that."""
    parts = []
    for axes, same in itertools.groupby(copies, operator.itemgetter(1)):
        tiles = torch.stack([source[slicer] for slicer, _ in same])
        parts.append((tiles if weights is None else tiles * weights).flip(axes))
    return torch.cat(parts)


def _put(total: torch.Tensor, copies: _Copies, found: torch.Tensor, weights: torch.Tensor | None = None) -> None:
    """Add what was found of copies, mirrored back and then times the weights, where their tiles lie."""
    start = 0
    for axes, same in itertools.groupby(copies, operator.itemgetter(1)):
        slicers = [slicer for slicer, _ in same]
        tiles = found[start : start + len(slicers)].flip(axes)
        start += len(slicers)
        if weights is not None:
            tiles *= weights
        for slicer, tile in zip(slicers, tiles, strict=True):
            total[slicer] += tile


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On CUDA convolutions round to TF32 unless they are told not to, and their gradients differ from run to run."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


def _check_finite(finite: bool, name: str) -> None:
    if not finite:
        raise UserError(f"the network's {name} has values that are not finite: look at the intensities of the image")
