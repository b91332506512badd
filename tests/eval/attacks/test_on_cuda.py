"""Gradients and attacks on a pretend CUDA device: those of the CPU, and no more waiting for more tiles."""

from __future__ import annotations

import copy

import pytest
import torch

from nnunet_robust.eval.attacks.gradient import WindowGradient
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from tests.eval.attacks.test_gradient import smooth
from tests.eval.inference.test_sliding_window import CASES, CPU, image, stock, unet
from tests.pretend_cuda import Tally

pytestmark = pytest.mark.usefixtures("one_thread")
CUDA = torch.device("cuda")


def odd_loss(logits: torch.Tensor) -> torch.Tensor:
    """Another weight for each voxel and head, and not linear."""
    weights = torch.linspace(-1, 2, logits.numel(), device=logits.device).view(logits.shape)
    return (weights * logits.log_softmax(0)).mean()


def gradient_of(case: str, device: torch.device) -> WindowGradient:
    network, patch, mirror_axes, folds, step, _ = CASES[case]
    predictor = stock(smooth(copy.deepcopy(network)), patch, mirror_axes, folds, step, device=device)
    return WindowGradient(SlidingWindow.from_predictor(predictor))


@pytest.mark.parametrize(
    "case", ["2d", "2d, one axis, three folds", "3d, smaller, two folds", "3d, anisotropic, two axes"]
)
def test_gradients_are_the_cpus(case: str, cuda: Tally) -> None:
    data = image(*CASES[case][-1])
    found, wanted = (gradient_of(case, device).gradient(data, odd_loss) for device in (CUDA, CPU))
    assert found.gradient.device.type == found.logits.device.type == "cuda"
    torch.testing.assert_close(found.logits.cpu(), wanted.logits, rtol=1e-4, atol=1e-5)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    scale = wanted.gradient.abs().max()
    assert scale > 0 and (found.gradient.cpu() - wanted.gradient).abs().max() < 1e-4 * scale


def test_a_gradient_through_more_tiles_costs_no_more_transfers(cuda: Tally) -> None:
    costs = []
    for width in (24, 72):  # 2 and 8 tiles of 16
        predictor = stock(smooth(unet(2)), (16, 16), (1,), device=CUDA)
        gradient = WindowGradient(SlidingWindow.from_predictor(predictor))
        gradient.gradient(image(1, 16, width), odd_loss)
        cuda.clear()
        gradient.gradient(image(1, 16, width), odd_loss)
        costs.append([cuda.count(kind) for kind in ("wait", "to_host", "to_device")])
    assert costs[0] == costs[1], cuda.places("wait") + cuda.places("to_host") + cuda.places("to_device")
