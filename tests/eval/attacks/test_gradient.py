"""The gradient through the sliding window against autograd through the whole image at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from scipy.ndimage import gaussian_filter
from torch import nn

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks import gradient as gradient_module
from nnunet_robust.eval.attacks.gradient import WindowGradient
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from tests.eval.inference.test_sliding_window import CASES, CPU, Fake, image, stock, unet

pytestmark = pytest.mark.usefixtures("one_thread")


def windowed(predictor: nnUNetPredictor) -> WindowGradient:
    return WindowGradient(SlidingWindow.from_predictor(predictor))


def naive_logits(predictor: nnUNetPredictor, data: torch.Tensor) -> torch.Tensor:
    """Every tile, mirrored copy and fold in one differentiable graph, in double precision."""
    patch = predictor.configuration_manager.patch_size
    data, inside = pad_nd_image(data.double(), patch, return_slicer=True)
    peak = torch.zeros(patch).index_put_(tuple(torch.tensor([size // 2]) for size in patch), torch.ones(1))
    gaussian = torch.from_numpy(gaussian_filter(peak.double().numpy(), [size / 8 for size in patch], mode="constant"))
    gaussian = gaussian.clamp(min=gaussian[gaussian > 0].min())
    members = []
    for parameters in predictor.list_of_parameters:
        network = copy.deepcopy(predictor.network)
        network.load_state_dict(parameters)
        network.double().eval()
        flips: list[list[int]] = [[]]
        for axis in predictor.allowed_mirroring_axes or ():
            flips += [[*flip, axis + 2] for flip in flips]
        for flip in flips:
            logits: torch.Tensor | float = 0.0
            total = torch.zeros(data.shape[1:]).double()
            for where in predictor._internal_get_sliding_window_slicers(tuple(data.shape[1:])):
                output = network(data[where][None].flip(flip)).flip(flip)[0]
                placed = torch.zeros(len(output), *data.shape[1:]).double()
                placed[where] = output * gaussian
                total[where[1:]] += gaussian
                logits = logits + placed
            members.append(logits / total)
    return torch.stack(members).mean(0)[(slice(None), *inside[1:])]


def smooth(network: nn.Module) -> nn.Module:
    """Without kinks, on whose side the last bit of a unit would decide."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LeakyReLU):
                setattr(module, name, nn.ELU())
    return network


def odd_loss(logits: torch.Tensor) -> torch.Tensor:
    """Another weight for each voxel and head, and not linear."""
    weights = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view(logits.shape)
    return (weights * logits.log_softmax(0)).mean()


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_gradient_of_the_whole(case: str) -> None:
    network, patch, mirror_axes, folds, step, shape = CASES[case]
    predictor = stock(smooth(network), patch, mirror_axes, folds, step)
    data = image(*shape)
    leaf = data.clone().requires_grad_()
    wanted_logits = naive_logits(predictor, leaf)
    wanted_loss = odd_loss(wanted_logits)
    (wanted,) = torch.autograd.grad(wanted_loss, leaf)
    gradient = windowed(predictor)
    found = gradient.gradient(data, odd_loss)
    assert found.gradient.dtype == torch.float32 and found.gradient.shape == data.shape
    torch.testing.assert_close(found.logits.double(), wanted_logits.detach(), rtol=0, atol=2e-5)
    assert found.loss == pytest.approx(wanted_loss.item(), rel=1e-5)
    assert (found.gradient - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert torch.equal(gradient.logits(data), found.logits)
    assert torch.equal(gradient.gradient(data, odd_loss).gradient, found.gradient)
    assert torch.equal(data, image(*shape))
    assert all(weight.grad is None for weight in gradient._window.networks[0].parameters())


def test_the_logits_are_those_of_the_window() -> None:
    predictor = stock(unet(3), (8, 16, 12), (0, 1, 2), folds=2)
    data = image(13, 16, 17)
    exact = SlidingWindow.from_predictor(predictor).logits(data).float()
    apart = (windowed(predictor).logits(data) - exact).abs()
    assert (apart > 4e-3).float().mean() < 0.05  # half precision


def test_copies_go_through_the_network_together(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Fake()
    window = WindowGradient(SlidingWindow([network], (16, 16), (0, 1), 2, CPU))
    window.gradient(image(3, 20, 40), odd_loss)
    assert network.sizes == [3 * 2 * 4 * 4]  # slices, tiles in each, mirrored copies; once, for both passes
    network.sizes.clear()
    monkeypatch.setitem(gradient_module._VOXELS_AT_ONCE, "cpu", 48 * 16 * 16)
    WindowGradient(SlidingWindow([network], (16, 16), (0, 1), 2, CPU)).gradient(image(3, 20, 40), odd_loss)
    assert network.sizes == [48, 48] * 2


@pytest.mark.parametrize("at_once", [1, 2, 5, 7])
def test_the_number_of_copies_at_once_changes_rounding_alone(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = stock(smooth(unet(2)), (16, 16), (0, 1), folds=2)
    data = image(2, 20, 24)
    wanted = windowed(predictor).gradient(data, odd_loss)
    monkeypatch.setitem(gradient_module._VOXELS_AT_ONCE, "cpu", at_once * 16 * 16)
    found = windowed(predictor).gradient(data, odd_loss)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=1e-5)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
    assert (found.gradient - wanted.gradient).abs().max() < 1e-4 * wanted.gradient.abs().max()


@pytest.mark.parametrize("back_alone", [False, True])
def test_out_of_memory_half_as_many_are_taken_and_nothing_counts_twice(
    back_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Fake):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.fits = 5 if x.requires_grad or not back_alone else 1000
            return super().forward(x)

    roomy, full = Fake(), Full(error=torch.OutOfMemoryError("CUDA out of memory"))
    data = image(1, 20, 40)
    windows = [WindowGradient(SlidingWindow([network], (16, 16), (0, 1), 2, CPU)) for network in (roomy, full)]
    if back_alone:  # in two batches, so that no graph is kept
        windows[1]._at_once = 16
    wanted, found = (window.gradient(data, odd_loss) for window in windows)
    assert torch.equal(found.logits, wanted.logits) and torch.equal(found.gradient, wanted.gradient)
    if back_alone:
        assert full.sizes == [16, 16, 16, 8, *[4] * 8]
    else:
        assert full.sizes == [32, 16, 8, *[4] * 8, *[4] * 8]


def test_a_graph_that_cannot_be_gone_back_through_is_given_up() -> None:
    class Back(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            if len(gradient) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return gradient

    class Full(Fake):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Back.apply(super().forward(x))

    data = image(1, 20, 40)
    roomy, full = (WindowGradient(SlidingWindow([n], (16, 16), (0, 1), 2, CPU)) for n in (Fake(), Full()))
    wanted, found = (window.gradient(data, odd_loss) for window in (roomy, full))
    assert torch.equal(found.logits, wanted.logits) and torch.equal(found.gradient, wanted.gradient)
    assert full._at_once == 4


def test_where_the_loss_does_not_look_there_is_no_gradient() -> None:
    def first_rows(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, :, :4].square().sum()

    class Pointwise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * x

    window = WindowGradient(SlidingWindow([Pointwise()], (16, 16), (0, 1), 2, CPU))
    data = image(1, 40, 20)
    found = window.gradient(data, first_rows).gradient
    torch.testing.assert_close(found[:, :, :4], 18 * data[:, :, :4])
    assert not found[:, :, 4:].any()


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 40, 33)])
def test_what_is_not_finite_is_told(shape: Sequence[int]) -> None:
    window = WindowGradient(SlidingWindow([Fake()], (16, 16), None, 2, CPU))
    with pytest.raises(UserError, match="output has values that are not finite"):
        window.logits(image(*shape) * float("nan"))
    with pytest.raises(UserError, match="gradient with respect to the image has values"):
        window.gradient(image(*shape), lambda logits: (logits - logits).abs().sqrt().sum())


def test_memory_for_not_even_one_tile_is_one_line() -> None:
    window = WindowGradient(
        SlidingWindow([Fake(fits=0, error=torch.OutOfMemoryError("CUDA out of memory"))], (16, 16), None, 2, CPU)
    )
    with pytest.raises(UserError, match=r"^a tile of 16x16 voxels and its gradient do not fit into the memory of cpu"):
        window.gradient(image(1, 16, 16), odd_loss)
