"""Local binary patterns in torch, against scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data
from skimage.feature import local_binary_pattern
from skimage.transform import resize

from nnunet_robust.eval.images import texture_codes
from nnunet_robust.eval.images.texture_codes import shrunk, uniform_patterns


def slices(name: str) -> np.ndarray:
    """uint8 (n, rows, columns)."""
    rng = np.random.default_rng(0)
    found = {
        "noise": rng.integers(0, 256, (3, 40, 50)),
        "steps": rng.integers(0, 3, (3, 40, 50)) * 100,
        "flat": np.full((2, 33, 20), 137),
        "plateaus": np.kron(rng.integers(0, 256, (2, 5, 6)), np.ones((8, 8))),
        "photograph": data.brick()[None, :200, :300],
        "narrow": rng.integers(0, 256, (2, 2, 60)),
    }
    return found[name].astype(np.uint8)


@pytest.mark.parametrize("values", [1, 1 << 22])
@pytest.mark.parametrize("name", ["noise", "steps", "flat", "plateaus", "photograph", "narrow"])
def test_patterns_are_scikit_images_bit_for_bit(name: str, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texture_codes, "_VALUES_AT_ONCE", values)
    grey = slices(name)
    found = uniform_patterns(torch.from_numpy(grey), 24, 3).numpy()
    assert np.array_equal(found, np.stack([local_binary_pattern(one, 24, 3, "uniform") for one in grey]))


@pytest.mark.parametrize("shape", [(20, 25), (33, 50), (40, 17)])
def test_slices_are_shrunk_as_by_scikit_image(shape: tuple[int, int]) -> None:
    grey = slices("noise")
    found = shrunk(torch.from_numpy(grey), shape).numpy()
    wanted = [np.rint(resize(one, shape, anti_aliasing=True, preserve_range=True)) for one in grey]
    assert found.dtype == np.uint8 and (found == np.stack(wanted)).mean() > 0.995
    assert np.abs(found.astype(int) - np.stack(wanted)).max() <= 1
