"""Resampling, forwards and backwards, against nnU-Net's."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

from nnunet_robust.eval.inference.resampling import Resampling

OPTIONS = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
CASES = {  # shape, spacing before, spacing after
    "finer": ((9, 12, 14), (2.0, 1.5, 1.5), (1.3, 1.0, 1.1)),
    "coarser": ((9, 22, 24), (1.0, 0.5, 0.5), (1.7, 1.0, 1.3)),
    "one axis": ((9, 12, 14), (1.0, 1.0, 1.0), (1.0, 1.0, 0.6)),
    "slices apart": ((5, 20, 18), (5.0, 1.0, 1.0), (5.0, 1.4, 0.8)),
    "slices apart, resampled too": ((5, 20, 18), (5.0, 1.0, 1.0), (2.0, 1.4, 0.8)),
    "an image": ((1, 20, 18), (999.0, 1.0, 1.0), (999.0, 1.4, 0.8)),
    "nothing to do": ((5, 20, 18), (5.0, 1.0, 1.0), (5.0, 1.0, 1.0)),
}


def gradient_of(resampling: Resampling, image: np.ndarray, of_resampled: torch.Tensor) -> np.ndarray:
    leaf = torch.from_numpy(image).float().requires_grad_()
    (found,) = torch.autograd.grad(resampling(leaf), leaf, of_resampled)
    assert found.shape == leaf.shape
    return found.double().numpy()


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_it_is_nnunets_and_so_is_its_gradient(case: str, order: int) -> None:
    shape, old, new = CASES[case]
    new_shape = compute_new_shape(shape, old, new)
    resample = partial(
        resample_data_or_seg_to_shape, new_shape=new_shape, current_spacing=old, new_spacing=new,
        **{**OPTIONS, "order": order},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    image, direction = rng.normal(size=(2, 2, *shape))
    resampled = torch.from_numpy(resample(image)).float()
    resampling = Resampling(shape, new_shape, old, new, {**OPTIONS, "order": order})
    torch.testing.assert_close(resampling(torch.from_numpy(image).float()), resampled, rtol=0, atol=1e-5)

    gradient = torch.from_numpy(rng.normal(size=resampled.shape)).float()
    change = (resample(image + 1e-6 * direction) - resample(image - 1e-6 * direction)) / 2e-6
    wanted = (gradient.double().numpy() * change).sum()
    assert (gradient_of(resampling, image, gradient) * direction).sum() == pytest.approx(wanted, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("case", ["finer", "slices apart, resampled too"])
def test_what_is_clipped_has_no_gradient(case: str) -> None:
    # two plateaus, as CT normalisation leaves them: next to their borders splines overshoot
    shape, old, new = CASES[case]
    new_shape = compute_new_shape(shape, old, new)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, *shape)).clip(-0.5, 0.5)
    resampled = resample_data_or_seg_to_shape(image, new_shape, old, new, **OPTIONS)
    at_an_extreme = (resampled == resampled.min()) | (resampled == resampled.max())
    assert at_an_extreme.mean() > 0.1
    gradient = torch.randn(resampled.shape, generator=torch.Generator().manual_seed(0))
    found = gradient_of(Resampling(shape, new_shape, old, new, OPTIONS), image, gradient)

    # within the plateaus' values; the extremes stay where they are
    direction = np.where(np.abs(image) < 0.45, rng.normal(size=image.shape), 0)
    ahead, behind = (
        resample_data_or_seg_to_shape(image + sign * 1e-3 * direction, new_shape, old, new, **OPTIONS)
        for sign in (1, -1)
    )
    wanted = (gradient.double().numpy() * (ahead - behind)).sum() / 2e-3
    got = (found * direction).sum()
    assert abs(wanted) > 1
    assert got == pytest.approx(wanted, rel=0.01)
