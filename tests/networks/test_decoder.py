"""One suite over every decoder x encoder x geometry x channels, and proofs of what each skip policy means."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunet_robust.networks import SKIPS, DenseDecoder, SkipDecoder

GEOMETRIES = {
    "2d": (nn.Conv2d, [[1, 1], [2, 2], [2, 2]], [[3, 3]] * 3, (16, 24)),
    "3d": (nn.Conv3d, [[1, 1, 1], [2, 2, 2], [2, 2, 2]], [[3, 3, 3]] * 3, (8, 16, 16)),
    "3d_anisotropic": (nn.Conv3d, [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]], (6, 16, 16)),
}
CONV_PER_STAGE = [1, 2]  # deepest first: differs by level, so that a mix-up shows
DECODERS = [*SKIPS, "dense"]


def stock(encoder: str, geometry: str, channels: int = 1) -> nn.Module:
    conv_op, strides, kernels, _ = GEOMETRIES[geometry]
    norm = nn.InstanceNorm2d if conv_op is nn.Conv2d else nn.InstanceNorm3d
    cls, blocks = {
        "plain": (PlainConvUNet, "n_conv_per_stage"),
        "residual": (ResidualEncoderUNet, "n_blocks_per_stage"),
    }[encoder]
    network = cls(
        input_channels=channels, n_stages=3, features_per_stage=[4, 6, 8], conv_op=conv_op, kernel_sizes=kernels,
        strides=strides, num_classes=3, n_conv_per_stage_decoder=CONV_PER_STAGE, conv_bias=True, norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=True, **{blocks: [1, 2, 2]},
    )  # fmt: skip
    network.apply(network.initialize)
    return network


def with_skips(network: nn.Module, policies: list[str], deep_supervision: bool = True) -> nn.Module:
    network.decoder = SkipDecoder(network.encoder, 3, CONV_PER_STAGE, deep_supervision, policies)
    network.apply(network.initialize)
    return network


def ours(network: nn.Module, decoder: str, deep_supervision: bool = True) -> nn.Module:
    if decoder != "dense":
        return with_skips(network, [decoder] * 2, deep_supervision)
    network.decoder = DenseDecoder(network.encoder, 3, CONV_PER_STAGE, deep_supervision)
    network.apply(network.initialize)
    return network


def image(geometry: str, channels: int = 1) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, channels, *GEOMETRIES[geometry][3])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_contract(decoder: str, encoder: str, geometry: str, channels: int) -> None:
    network = ours(stock(encoder, geometry, channels), decoder)
    x = image(geometry, channels)
    full, half = network(x)
    assert full.shape == (2, 3, *x.shape[2:])
    stride = GEOMETRIES[geometry][1][1]
    assert half.shape == (2, 3, *(n // s for n, s in zip(x.shape[2:], stride, strict=True)))

    (full.square().mean() + half.square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    inference = ours(stock(encoder, geometry, channels), decoder, deep_supervision=False)
    inference.load_state_dict(network.state_dict())
    assert torch.equal(inference(x), full)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_weight_reaches_the_full_resolution_output(decoder: str) -> None:  # else DDP would wait for its gradient
    network = ours(stock("plain", "2d"), decoder, deep_supervision=False)
    network(image("2d")).square().mean().backward()
    unused = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert all("seg_layers.0." in name for name in unused)  # the lower resolution's head
    for name, parameter in network.named_parameters():
        # A bias before an instance norm, and weights before a LeakyReLU that stays on one side, may get exact zeros.
        if parameter.ndim > 1 and name not in unused:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_identity_is_the_stock_decoder(encoder: str, geometry: str) -> None:
    standard = stock(encoder, geometry)
    ours = with_skips(stock(encoder, geometry), ["identity"] * 2)
    ours.load_state_dict(standard.state_dict())  # the same names and shapes
    x = image(geometry)
    for a, b in zip(ours(x), standard(x), strict=True):
        assert torch.equal(a, b)


def influence(network: nn.Module, x: torch.Tensor) -> list[bool]:
    """Which encoder maps, full resolution first and bottleneck last, change the output when replaced by noise."""
    network.eval()
    with torch.no_grad():
        maps = network.encoder(x)
        before = network.decoder(maps)[0]
        changed = []
        for level in range(len(maps)):
            replaced = [torch.randn_like(m) if i == level else m for i, m in enumerate(maps)]
            changed.append(not torch.equal(network.decoder(replaced)[0], before))
    return changed


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        (["absent", "absent"], [False, False, True]),
        (["identity", "identity"], [True, True, True]),
        (["added", "added"], [True, True, True]),
        (["attention", "attention"], [True, True, True]),
        (["adaptive", "adaptive"], [True, True, True]),
        (["absent", "identity"], [False, True, True]),  # full resolution first
        (["identity", "absent"], [True, False, True]),
    ],
)
def test_which_skips_reach_the_output(geometry: str, policies: list[str], expected: list[bool]) -> None:
    assert influence(with_skips(stock("plain", geometry), policies), image(geometry)) == expected


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_added_with_zero_skips_is_no_skip_of_the_same_weights(encoder: str) -> None:
    added, absent = (with_skips(stock(encoder, "3d"), [policy] * 2) for policy in ("added", "absent"))
    absent.load_state_dict(added.state_dict())
    maps = added.encoder(image("3d"))
    zeroed = [torch.zeros_like(m) for m in maps[:-1]] + maps[-1:]
    for a, b in zip(added.decoder(zeroed), absent.decoder(maps), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("decoder", DECODERS)
def test_size_that_is_not_divisible_is_refused(decoder: str) -> None:
    network = ours(stock("plain", "2d"), decoder)
    with pytest.raises(ValueError, match=r"divisible by the product of the strides"):
        network(torch.randn(1, 1, 18, 24))


def test_wrong_policies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 skip policies for 2 skips"):
        with_skips(stock("plain", "2d"), ["absent"] * 3)
    with pytest.raises(ValueError, match=r"'gone'.*absent, identity, added"):
        with_skips(stock("plain", "2d"), ["absent", "gone"])
