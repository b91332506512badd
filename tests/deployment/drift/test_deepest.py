"""The deepest layer's activations: against the network's own encoder, of every trainer, over tiles and folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_robust.deployment.drift.deepest import Deepest
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.networks.unetr import UNETR
from nnunet_robust.trainers import TRAINERS
from tests.conftest import SMALL_UNETR
from tests.trainers.test_networks import build, plans


def window(
    networks: Sequence[nn.Module], patch: tuple[int, ...], mirrors: Sequence[int] | None = None
) -> SlidingWindow:
    return SlidingWindow(networks, patch, mirrors, 2, torch.device("cpu"))


class Tiny(nn.Module):
    """An encoder with two stages, whose deepest map has the given number of channels."""

    def __init__(self, channels: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = Stages(channels)
        self.head = nn.Conv2d(4, 2, 1)
        self.ran = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, _ = self.encoder(x)
        self.ran += 1
        return self.head(first)


class Stages(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = torch.relu(self.first(x))
        return [first, self.second(first)]


def test_means_over_tiles_and_space_fold_by_fold() -> None:
    networks = [Tiny(3, 0).eval(), Tiny(3, 1).eval()]
    image = torch.randn(1, 1, 16, 24)
    deepest = Deepest(window(networks, (16, 16), [0, 1]))
    tiles = [image[:, 0, :, start : start + 16][None] for start in (0, 8)]  # steps of half a tile, none mirrored
    with torch.no_grad():
        expected = np.concatenate(
            [
                np.mean([network.encoder(tile)[-1].mean(dim=(0, 2, 3)).numpy() for tile in tiles], 0)
                for network in networks
            ]
        )
    assert deepest.there and deepest.activations(image) == pytest.approx(expected, rel=1e-5)
    assert all(network.ran == 0 for network in networks)  # what comes after the encoder was not run
    assert not any(network.encoder._forward_hooks for network in networks)
    assert deepest.activations(image) == deepest.activations(image)


def test_a_compiled_network_is_its_own() -> None:
    """What the sliding window is given of a predictor's compiled network is the network itself."""
    network = Tiny().eval()
    image = torch.randn(1, 1, 16, 16)
    plain = Deepest(window([network], (16, 16))).activations(image)
    compiled = torch.compile(network)
    assert Deepest(window([getattr(compiled, "_orig_mod", compiled)], (16, 16))).activations(image) == plain


def test_of_a_transformer_its_tokens() -> None:
    torch.manual_seed(0)
    network = UNETR(1, 2, (32, 32), **SMALL_UNETR).eval()
    image = torch.randn(1, 1, 32, 32)
    found = Deepest(window([network], (32, 32))).activations(image)
    with torch.no_grad():
        tokens, _ = network.vit(image[0][None])
    assert tokens.shape == (1, 4, 12)
    assert found == pytest.approx(tokens[0].mean(dim=0).numpy(), rel=1e-5)


def test_a_network_without_a_known_name_has_none() -> None:
    deepest = Deepest(window([nn.Conv2d(1, 2, 3, padding=1)], (16, 16)))
    assert not deepest.there and deepest.activations(torch.randn(1, 1, 16, 16)) == ()


def test_activations_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        Deepest(window([Tiny()], (16, 16))).activations(torch.full((1, 1, 16, 16), torch.nan))


@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_has_a_deepest_layer(trainer: str, encoder: str, small_unetr: None) -> None:
    network, patch = build(trainer, plans(encoder, "2d"), deep_supervision=False)
    found = Deepest(window([network], tuple(patch))).activations(torch.randn(1, 1, *patch))
    assert len(found) == (SMALL_UNETR["hidden_size"] if "UNETR" in trainer else 8) and len(set(found)) > 1
