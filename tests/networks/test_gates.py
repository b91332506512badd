"""The gates: against MONAI's, at their two ends, at their start, and read out."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.nets.attentionunet import AttentionBlock
from torch import nn
from torch.nn import functional

from nnunet_robust.networks.gates import AdaptiveGate, AttentionGate
from tests.networks.test_decoder import GEOMETRIES, image, influence, stock, with_skips

GATED = ["attention", "adaptive"]


@pytest.mark.parametrize(
    ("conv_op", "size", "below_size"),
    [
        (nn.Conv2d, (6, 8), (6, 8)),
        (nn.Conv3d, (4, 6, 5), (4, 6, 5)),
        (nn.Conv2d, (6, 8), (3, 4)),
        (nn.Conv3d, (4, 6, 8), (4, 3, 4)),
    ],
)
def test_attention_gate_is_monais(conv_op: type[nn.Module], size: tuple[int, ...], below_size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    gate = AttentionGate(conv_op, channels=5, channels_below=7)
    oracle = AttentionBlock(len(size), f_int=2, f_g=7, f_l=5)
    oracle.W_g[1] = oracle.W_x[1] = oracle.psi[1] = nn.Identity()  # their norms
    with torch.no_grad():
        oracle.W_g[0].conv.load_state_dict(gate.w_g.state_dict())
        oracle.W_x[0].conv.weight.copy_(gate.w_x.weight)
        oracle.W_x[0].conv.bias.zero_()
        oracle.psi[0].conv.load_state_dict({"weight": gate.psi.weight, "bias": gate.bias})

    x, g = torch.randn(2, 5, *size), torch.randn(2, 7, *below_size)
    attention = gate(x, g)
    assert attention.shape == (2, 1, *size) and attention.std() > 0.001
    # MONAI upsamples g before it weighs it; 1 x 1 convolutions and linear interpolation commute.
    upsampled = functional.interpolate(g, size, mode="bilinear" if len(size) == 2 else "trilinear")
    torch.testing.assert_close(x * attention, oracle(upsampled, x), rtol=1e-5, atol=1e-6)


def force(network: nn.Module, level: int, logit: float) -> None:
    """Hold the gate of a level (0 is full resolution) at sigmoid(logit)."""
    gate = network.decoder.skips[-1 - level].gate
    last, bias = (gate.psi, gate.bias) if isinstance(gate, AttentionGate) else (gate.excite, gate.excite.bias)
    nn.init.zeros_(last.weight)
    nn.init.constant_(bias, logit)


@pytest.mark.parametrize("policy", GATED)
@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_open_gates_are_the_plain_unet(policy: str, encoder: str, geometry: str) -> None:
    standard, gated = stock(encoder, geometry), with_skips(stock(encoder, geometry), [policy] * 2)
    loaded = gated.load_state_dict(standard.state_dict(), strict=False)  # the same names and shapes, and the gates
    assert not loaded.unexpected_keys and all(".gate." in key for key in loaded.missing_keys)
    x = image(geometry)
    assert not torch.equal(gated(x)[0], standard(x)[0])
    for level in range(2):
        force(gated, level, 1e4)
    for a, b in zip(gated(x), standard(x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("policy", GATED)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("closed", "expected"), [([0], [False, True, True]), ([1], [True, False, True]), ([0, 1], [False, False, True])]
)
def test_a_closed_gate_removes_its_skip(policy: str, geometry: str, closed: list[int], expected: list[bool]) -> None:
    network = with_skips(stock("plain", geometry), [policy] * 2)
    for level in closed:
        force(network, level, -1e4)
    assert influence(network, image(geometry)) == expected


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gates_are_read_out(geometry: str) -> None:
    network, x = with_skips(stock("plain", geometry), ["adaptive", "attention"]).eval(), image(geometry)
    with torch.no_grad():
        maps = network.encoder(x)
        outputs, (adaptive, attention) = network.decoder(maps, return_gates=True)  # full resolution first
        assert all(torch.equal(a, b) for a, b in zip(outputs, network(x), strict=True))
        assert adaptive.shape == (2, *[1] * (x.ndim - 1)) and attention.shape == (2, 1, *maps[1].shape[2:])
        assert all((gate >= 0).all() and (gate <= 1).all() for gate in (adaptive, attention))
        assert adaptive[0] != adaptive[1]  # of each image
        assert attention.std() > 0  # of each voxel

        # What was read out is what weighed: the attention map belongs to the level from which it came.
        merged = network.decoder.skips[0](torch.zeros_like(maps[1]), maps[1], maps[2])
        assert torch.equal(merged[:, maps[1].shape[1] :], maps[1] * attention)

        network.decoder.deep_supervision = False
        output, gates = network.decoder(maps, return_gates=True)
        assert torch.equal(output, outputs[0]) and len(gates) == 2
    assert with_skips(stock("plain", "2d"), ["absent", "identity"]).decoder(
        stock("plain", "2d").encoder(image("2d")), return_gates=True
    )[1] == [None, None]


@pytest.mark.parametrize("cls", [AttentionGate, AdaptiveGate])
def test_a_gate_looks_at_both_maps_of_its_own_image(cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    gate = cls(nn.Conv2d, 4, 6)
    skip, below = torch.rand(2, 4, 8, 8), torch.rand(2, 6, 4, 4)
    before = gate(skip, below)
    for other in (gate(skip * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), below),
                  gate(skip, below * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))):  # fmt: skip
        torch.testing.assert_close(other[0], before[0])
        assert not torch.allclose(other[1], before[1], atol=1e-6)


def test_an_adaptive_gate_does_not_care_where_things_are() -> None:
    torch.manual_seed(0)
    gate, skip, below = AdaptiveGate(nn.Conv2d, 4, 6), torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)
    shuffled = [m.flatten(2)[..., torch.randperm(m[0, 0].numel())].reshape(m.shape) for m in (skip, below)]
    torch.testing.assert_close(gate(*shuffled), gate(skip, below))


def test_an_adaptive_gate_can_tell_a_noisy_image() -> None:
    """By more than the plain averages of instance-normalised maps can: 0.82 to 0.95 right here, by seed."""
    torch.manual_seed(0)
    network = PlainConvUNet(
        1, 2, 16, nn.Conv2d, 3, [1, 2], 2, 2, 1, True, nn.InstanceNorm2d, {"affine": True}, nonlin=nn.LeakyReLU
    )  # fmt: skip
    gate = AdaptiveGate(nn.Conv2d, 16, 16)
    for module in (network, gate):
        module.apply(network.initialize)
    noisy = torch.arange(16) % 2 == 1

    @torch.no_grad()
    def maps() -> list[torch.Tensor]:
        smooth = functional.interpolate(torch.randn(16, 1, 4, 4), (32, 32), mode="bicubic")
        images = smooth + 0.3 * noisy.view(-1, 1, 1, 1) * torch.randn_like(smooth)
        return network.encoder(functional.instance_norm(images))  # a random encoder: the gate alone learns

    optimizer = torch.optim.Adam(gate.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        functional.binary_cross_entropy(gate(*maps()).flatten(), (~noisy).float()).backward()
        optimizer.step()
    right = torch.cat([(gate(*maps()).flatten() > 0.5) == ~noisy for _ in range(8)])
    assert right.float().mean() > 0.97


@pytest.mark.parametrize("policy", GATED)
def test_gates_start_open_and_can_close(policy: str) -> None:
    torch.manual_seed(0)
    network = with_skips(stock("plain", "2d"), [policy] * 2)  # nnU-Net's initialisation included
    maps = [m.detach() for m in network.encoder(image("2d"))]

    def gates() -> torch.Tensor:
        return torch.stack([gate.mean() for gate in network.decoder(maps, return_gates=True)[1]])

    assert (gates() > {"attention": 0.85, "adaptive": 0.96}[policy]).all()

    # nnU-Net's optimiser, on the gates alone, for an epoch: they are not too far in saturation to move.
    parameters = [parameter for name, parameter in network.named_parameters() if ".gate." in name]
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    for _ in range(250):
        optimizer.zero_grad()
        gates().sum().backward()
        optimizer.step()
    assert (gates() < 0.1).all()
