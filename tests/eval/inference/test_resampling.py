"""Resampling, forwards and backwards, against nnU-Net's."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape
from skimage.transform import resize

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


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_without_clipping_it_is_nnunets(case: str, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, old, new = CASES[case]
    options = {**OPTIONS, "order": order}
    new_shape = compute_new_shape(shape, old, new)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *shape))
    monkeypatch.setattr("nnunetv2.preprocessing.resampling.default_resampling.resize", partial(resize, clip=False))
    resampled = torch.from_numpy(resample_data_or_seg_to_shape(image, new_shape, old, new, **options)).float()
    resampling = Resampling(shape, new_shape, old, new, options)
    before = torch.from_numpy(image).float()
    torch.testing.assert_close(resampling.unclipped(before), resampled, rtol=0, atol=1e-5)

    gradient = torch.from_numpy(rng.normal(size=resampled.shape)).float()
    leaf = before.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(resampling.unclipped(leaf), leaf, gradient)
    found = resampling.back(gradient, before, resampled)
    assert found.shape == before.shape
    torch.testing.assert_close(found, wanted)


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
    resampling = Resampling(shape, new_shape, old, new, OPTIONS)
    before, after = torch.from_numpy(image).float(), torch.from_numpy(resampled).float()
    gradient = torch.randn(after.shape, generator=torch.Generator().manual_seed(0))
    found = resampling.back(gradient, before, after)

    # within the plateaus' values; the extremes stay where they are
    direction = np.where(np.abs(image) < 0.45, rng.normal(size=image.shape), 0)
    ahead, behind = (
        resample_data_or_seg_to_shape(image + sign * 1e-3 * direction, new_shape, old, new, **OPTIONS)
        for sign in (1, -1)
    )
    wanted = (gradient.double().numpy() * (ahead - behind)).sum() / 2e-3
    got = (found.double().numpy() * direction).sum()
    assert abs(wanted) > 1
    assert got == pytest.approx(wanted, rel=0.01)
