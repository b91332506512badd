"""The deepest layer's activations on a pretend CUDA device: the CPU's, and no more waiting for more tiles."""

from __future__ import annotations

import pytest
import torch

from nnunet_robust.deployment.drift.deepest import Deepest
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from tests.eval.inference.test_sliding_window import image, stock, unet
from tests.pretend_cuda import Tally

pytestmark = pytest.mark.usefixtures("one_thread")


def deepest(device: str) -> Deepest:
    predictor = stock(unet(2), (16, 16), (0, 1), 2, device=torch.device(device))
    return Deepest(SlidingWindow.from_predictor(predictor))


def test_the_activations_are_the_cpus_and_more_tiles_cost_no_more_waiting(cuda: Tally) -> None:
    waited = []
    there, here = deepest("cuda"), deepest("cpu")
    for width in (24, 72):  # 2 and 8 tiles of 16
        data = image(1, 16, width)
        cuda.clear()
        found = there.activations(data)
        waited.append((cuda.count("wait"), cuda.count("to_host")))
        assert found == pytest.approx(here.activations(data), rel=1e-5)
    assert waited[0] == waited[1] == (1, 1)
