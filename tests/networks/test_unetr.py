"""UNETR at small sizes in every geometry, and once at the paper's."""

from __future__ import annotations

import pytest
import torch
from monai.networks import nets

from nnunet_robust.networks.unetr import UNETR
from tests.conftest import SMALL_UNETR

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("patch", [(32, 48), (16, 16), (16, 16, 16), (16, 32, 48)])
@pytest.mark.parametrize("channels", [1, 3])
def test_contract(patch: tuple[int, ...], channels: int) -> None:
    torch.manual_seed(0)
    network = UNETR(channels, 4, patch, **SMALL_UNETR)
    x = torch.randn(2, channels, *patch)
    logits = network(x)
    assert logits.shape == (2, 4, *patch)

    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    again = UNETR(channels, 4, patch, **SMALL_UNETR)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), logits)


def test_it_is_monai_s_network() -> None:
    ours = UNETR(2, 3, (16, 32), **SMALL_UNETR)
    theirs = nets.UNETR(2, 3, (16, 32), spatial_dims=2, **SMALL_UNETR)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all("cross_attn" in name for name in missing)
    x = torch.randn(1, 2, 16, 32)
    assert torch.equal(ours(x), theirs(x))


def test_the_paper_s_sizes() -> None:
    network = UNETR(1, 14, (96, 96, 96))
    # The paper reports 92.58 M parameters, for patches of 96 and BTCV's 14 classes; MONAI's code has 92.78 M.
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(92.58, rel=0.01)
    assert len(network.vit.blocks) == 12 and network.vit.blocks[0].attn.num_heads == 12
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in network.modules())


@pytest.mark.parametrize("patch", [(40, 48), (0, 16), (16, 16, 8)])
def test_patch_that_is_not_a_multiple_of_16_is_refused(patch: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        UNETR(1, 2, patch, **SMALL_UNETR)


def test_another_input_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(32, 16\) voxels.*\(16, 32\) only"):
        UNETR(1, 2, (16, 32), **SMALL_UNETR)(torch.randn(1, 1, 32, 16))
