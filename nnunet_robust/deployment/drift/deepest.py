"""What a network's deepest layer makes of an image: mean activations, a number per channel and fold.

A pass of its own through the encoder alone, over the tiles as they are, none of them mirrored. So it is the same
whichever way the prediction is run (OpenVINO, torch.compile, batches). In PyTorch it is less than one more copy of each
tile; OpenVINO may predict in less time than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nnunet_robust.deployment.drift.features import mean_activation
from nnunet_robust.eval.inference.sliding_window import SlidingWindow

# Of a network, the module that ends where it is deepest -> its output as (B, channels, *positions).
_DEEPEST: dict[str, Callable[[Any], torch.Tensor]] = {
    "encoder": lambda output: output[-1] if isinstance(output, (list, tuple)) else output,  # nnU-Net's: all its stages
    "vit": lambda output: output[0].transpose(1, 2),  # MONAI's UNETR: tokens, and those of every block
}


class _Enough(Exception):
    pass


class Deepest:
    """The deepest layer of one model's networks.

    Args:
        window: of the model.

    Attributes:
        there: whether its networks have a module of a name that is known; those of nnU-Net and all trainers here do.
    """

    def __init__(self, window: SlidingWindow) -> None:
        self._window = window
        name = next((name for name in _DEEPEST if isinstance(getattr(window.networks[0], name, None), nn.Module)), None)
        self._name, self.there = name or "", name is not None

    def activations(self, data: torch.Tensor) -> tuple[float, ...]:
        """Compute the mean activations of one preprocessed image: over the tiles, all alike, and over space.

        Args:
            data: float32 (C, *spatial), as for `SlidingWindow.logits`.

        Returns:
            A number per channel of each fold's network, fold by fold; none where the layer is not known.

        Raises:
            ValueError: a number that is not finite.
        """
        if not self.there:
            return ()
        with torch.inference_mode():
            tiles = list(self._window.tiles(data))
            folds = [
                torch.stack([self._of_tile(network, tile) for tile in tiles], dim=1)
                for network in self._window.networks
            ]
            found = torch.cat(folds).cpu()  # once for all: the CPU waits for the device here
        return mean_activation(found.numpy())

    def _of_tile(self, network: nn.Module, tile: torch.Tensor) -> torch.Tensor:
        """(channels,), mean over space, on the device."""
        found: list[torch.Tensor] = []

        def hook(_module: nn.Module, _given: Any, output: Any) -> None:
            deepest = _DEEPEST[self._name](output)
            found.append(deepest[0].flatten(1).double().mean(dim=1))
            raise _Enough

        handle = getattr(network, self._name).register_forward_hook(hook)
        try:
            network(tile)
        except _Enough:
            pass
        finally:
            handle.remove()
        return found[0]
