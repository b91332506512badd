"""The nested decoder against the graph of the U-Net++ paper."""

from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from nnunet_robust.networks import DenseDecoder

Node = tuple[int, int]

# Zhou et al. 2018, figure 1a with three skips, copied by hand: what each node X[i][j] takes in.
GRAPH: dict[Node, set[Node]] = {
    (0, 1): {(0, 0), (1, 0)},
    (1, 1): {(1, 0), (2, 0)},
    (2, 1): {(2, 0), (3, 0)},
    (0, 2): {(0, 0), (0, 1), (1, 1)},
    (1, 2): {(1, 0), (1, 1), (2, 1)},
    (0, 3): {(0, 0), (0, 1), (0, 2), (1, 2)},
}


def unet(stages: int, convolutions: list[int]) -> nn.Module:
    network = PlainConvUNet(
        1, stages, [4, 6, 8, 10][:stages], nn.Conv2d, 3, [1, 2, 2, 2][:stages], 1, 2, convolutions, True,
        nn.InstanceNorm2d, {"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )  # fmt: skip
    network.apply(network.initialize)
    return network.eval()


def dense(network: nn.Module, convolutions: list[int]) -> DenseDecoder:
    decoder = DenseDecoder(network.encoder, 2, convolutions, deep_supervision=True)
    decoder.apply(network.initialize)
    return decoder.eval()


@torch.no_grad()
def test_connectivity_is_the_papers() -> None:
    torch.manual_seed(0)
    network = unet(4, [1, 1, 1])
    decoder = dense(network, [1, 1, 1])
    nodes = {tuple(map(int, name.split("_"))): module for name, module in decoder.nodes.items()}
    assert nodes.keys() == GRAPH.keys() and len(nodes) == 3 * 4 // 2
    maps = network.encoder(torch.randn(1, 1, 16, 24))
    encoded = {(i, 0): m for i, m in enumerate(maps)}

    computed: dict[Node, torch.Tensor] = {}  # what each node gives
    passed_on: dict[Node, torch.Tensor] = {}  # what the others get in its place

    def watch(node: Node) -> None:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            computed[node] = output
            return passed_on.get(node, output)

        nodes[node].register_forward_hook(hook)

    for node in nodes:
        watch(node)
    outputs = decoder(maps)
    undisturbed = dict(computed)

    found: dict[Node, set[Node]] = {node: set() for node in nodes}
    for source, value in {**encoded, **undisturbed}.items():
        # All others are held, so that only what takes the source in directly can change.
        noise = torch.randn_like(value)
        passed_on.update({**undisturbed, source: noise})
        changed_outputs = decoder([noise if source == (i, 0) else m for i, m in enumerate(maps)])
        for node in nodes:
            if not torch.equal(computed[node], undisturbed[node]):
                found[node].add(source)
        heads = [not torch.equal(a, b) for a, b in zip(changed_outputs, outputs, strict=True)]
        assert heads == [source == (i, 3 - i) for i in range(3)]  # the outermost node of each row
        passed_on.clear()
    assert found == GRAPH


@torch.no_grad()
def test_with_one_skip_it_is_the_unet() -> None:
    torch.manual_seed(0)
    network = unet(2, [2])
    decoder = dense(network, [2])
    standard = network.decoder.state_dict()
    names = {"nodes.0_1.transpconv.": "transpconvs.0.", "nodes.0_1.convs.": "stages.0.", "seg_layers.": "seg_layers."}
    state = {}
    for key in decoder.state_dict():
        if not key.startswith("encoder."):
            prefix = next(name for name in names if key.startswith(name))
            state[key] = standard[names[prefix] + key[len(prefix) :]]
    decoder.load_state_dict(state, strict=False)
    maps = network.encoder(torch.randn(2, 1, 8, 12))
    assert torch.equal(decoder(maps)[0], network.decoder(maps)[0])


def test_convolutions_are_the_rows_own() -> None:
    decoder = dense(unet(4, [1, 1, 1]), [3, 2, 1])  # deepest first
    counts = {name: len(node.convs.convs) for name, node in decoder.nodes.items()}
    assert counts == {"0_1": 1, "0_2": 1, "0_3": 1, "1_1": 2, "1_2": 2, "2_1": 3}


def test_wrong_number_of_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 numbers of convolutions for 3 decoder levels"):
        DenseDecoder(unet(4, [1, 1, 1]).encoder, 2, [1, 1], deep_supervision=True)
