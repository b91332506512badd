"""Normalisations in torch, against nnU-Net's own classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes

from nnunet_robust.eval.inference.normalising import NORMALISATIONS


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisations_are_nnunets(name: str, masked: bool) -> None:
    image = np.random.default_rng(0).uniform(3, 250, (4, 9, 8)).astype(np.float32)
    outside = np.zeros(image.shape, np.int8)
    outside[:2] = -masked
    of_dataset = {"mean": 100.0, "std": 40.0, "percentile_00_5": 20.0, "percentile_99_5": 200.0}
    mask = torch.from_numpy(outside >= 0) if masked else None
    found = NORMALISATIONS[name](torch.from_numpy(image), mask, of_dataset)
    wanted = getattr(schemes, name)(masked, of_dataset).run(image.copy(), outside)
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-5, atol=1e-5)
