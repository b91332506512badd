"""Every row of the table on a pretend CUDA device: the CPU's image, and no step on the wrong device."""

from __future__ import annotations

import pytest
import torch

from nnunet_robust.perturbations import Perturbation, measure
from tests.perturbations.test_perturbations import ROWS_AND_COMBINATIONS, apply, make_image
from tests.pretend_cuda import Tally

SHAPES = {"2d_rgb": (3, 1, 40, 48), "3d_anisotropic": (1, 5, 32, 36)}


@ROWS_AND_COMBINATIONS
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_device_makes_the_same_image(row: Perturbation, shape: tuple[int, ...], cuda: Tally) -> None:
    image = make_image(shape)
    there = image.cuda()
    found, wanted = apply(row, there, row.levels[2]), apply(row, image, row.levels[2])
    assert found.device.type == "cuda" and torch.equal(there.cpu(), image)
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-5, atol=0.01)
    assert not torch.equal(wanted, image)
    assert measure(there, found) == pytest.approx(measure(image, wanted), rel=1e-4)
