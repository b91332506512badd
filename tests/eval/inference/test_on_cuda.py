"""The sliding window on a pretend CUDA device: the CPU's logits, and no more waiting for more tiles."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from tests.eval.attacks.test_gradient import naive_logits
from tests.eval.inference.test_sliding_window import CASES, image, stock, unet
from tests.pretend_cuda import Tally, pretend_cuda

pytestmark = pytest.mark.usefixtures("one_thread")
CUDA = torch.device("cuda")
KINDS = ("wait", "to_host", "to_device")


@pytest.fixture(autouse=True)
def _short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_robust.eval.inference.precision._SECONDS_PER_TRIAL", 0.001)


def window(case: str, precision: str, device: torch.device, choices: dict[str, Any] | None = None) -> SlidingWindow:
    network, patch, mirror_axes, folds, step, _ = CASES[case]
    predictor = stock(network, patch, mirror_axes, folds, step, device=device)
    return SlidingWindow.from_predictor(predictor, precision, choices)


def on_cpu(case: str, precision: str, data: torch.Tensor) -> torch.Tensor:
    """nnU-Net's logits for `exact`, with its sums in half precision; for `fast` what they are up to rounding."""
    network, patch, mirror_axes, folds, step, _ = CASES[case]
    predictor = stock(copy.deepcopy(network), patch, mirror_axes, folds, step)  # it loads weights into its network
    if precision == "exact":
        return predictor.predict_logits_from_preprocessed_data(data.clone())
    with torch.no_grad():
        return naive_logits(predictor, data).float()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_the_logits_are_the_cpus(case: str, precision: str, cuda: Tally) -> None:
    data = image(*CASES[case][-1])
    wanted = on_cpu(case, precision, data)
    sliding = window(case, precision, CUDA)
    for _ in range(2):  # the first call measures and chooses
        found = sliding.logits(data)
        assert found.device.type == "cuda" and found.dtype == wanted.dtype
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=1e-3)
        assert (found.cpu().argmax(0) == wanted.argmax(0)).float().mean() >= 0.999


@pytest.mark.parametrize("case", ["2d, one axis, three folds", "3d, smaller, two folds"])
def test_compiled_networks_of_every_fold_give_the_cpus_logits(case: str, cuda: Tally) -> None:
    """Batches are filled up to one size there, and the filling is left out of the sums."""
    data = image(*CASES[case][-1])
    found = window(case, "fast", CUDA, {"compiled": True, "batch_size": 8}).logits(data)
    torch.testing.assert_close(found.cpu(), on_cpu(case, "fast", data), rtol=1e-3, atol=1e-3)
    assert cuda.compiled > 0


@pytest.mark.parametrize("case", ["2d, one axis, three folds", "3d, smaller, two folds"])
@pytest.mark.parametrize("by", [("folds",), ("mirroring",), ("folds", "mirroring")])
def test_members_are_the_cpus(case: str, by: tuple[str, ...], cuda: Tally) -> None:
    images = [image(*CASES[case][-1], seed=seed) for seed in (2, 3)]
    found = window(case, "exact", CUDA).members_many(images, by)
    wanted = window(case, "exact", torch.device("cpu")).members_many(images, by)
    for of_device, of_cpu in zip(found, wanted, strict=True):
        assert len(of_device.members) == len(of_cpu.members) > 0
        for one, other in zip(of_device.members, of_cpu.members, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("case", ["2d, one axis, three folds", "3d, smaller, two folds"])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_outputs_in_half_precision_are_summed_up_as_well(case: str, precision: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a real CUDA device")
    data = image(*CASES[case][-1])
    wanted = on_cpu(case, precision, data)
    with pretend_cuda(autocast=True):
        found = window(case, precision, CUDA).logits(data).cpu()
    assert found.dtype == wanted.dtype and not torch.equal(found, wanted)
    assert (found.argmax(0) == wanted.argmax(0)).float().mean() > 0.99
    # sums in half precision have next to no weight to lose at the corners of the image
    off = (found.float() - wanted.float()).abs() / wanted.abs().max()
    assert off.max() < 0.02 if precision == "fast" else off.mean() < 0.01


def counted(tally: Tally, sliding: SlidingWindow, data: torch.Tensor, by: tuple[str, ...] = ()) -> dict[str, int]:
    """What one image costs, after those that are measured and compiled with."""
    for _ in range(2):
        sliding.members_many([data], by)
    tally.clear()
    sliding.members_many([data], by)
    return {kind: tally.count(kind) for kind in KINDS}


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("by", [(), ("mirroring",)])
def test_an_image_of_more_tiles_costs_no_more_transfers(precision: str, by: tuple[str, ...], cuda: Tally) -> None:
    costs = []
    for width in (24, 72):  # 2 and 8 tiles of 16, one at a time
        predictor = stock(unet(2), (16, 16), (1,), device=CUDA)
        sliding = SlidingWindow.from_predictor(predictor, precision, {"batch_size": 1})
        assert len(sliding.slicers((1, 16, width))) == {24: 2, 72: 8}[width]
        costs.append(counted(cuda, sliding, image(1, 16, width), by))
    assert costs[0] == costs[1], cuda.places("wait") + cuda.places("to_host") + cuda.places("to_device")
    assert costs[0]["to_device"] == 1


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_mirrored_copies_and_folds_cost_no_more_transfers(precision: str, cuda: Tally) -> None:
    costs = []
    for mirror_axes, folds in ((None, 1), ((0, 2), 2)):
        predictor = stock(unet(3), (8, 12, 16), mirror_axes, folds, device=CUDA)
        sliding = SlidingWindow.from_predictor(predictor, precision, {"batch_size": 1})
        costs.append(counted(cuda, sliding, image(7, 12, 20)))
    assert costs[0]["to_device"] == costs[1]["to_device"] == 1
    assert costs[1]["wait"] <= costs[0]["wait"] * 2, cuda.places("wait")  # once for each fold
