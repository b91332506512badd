"""The papers' perturbations against scikit-image, called as their published code calls it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.data import camera, immunohistochemistry
from skimage.filters import gaussian
from skimage.util import random_noise

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations import PRESETS, perturb
from nnunet_robust.perturbations.eight_bit import is_eight_bit

LEVELS = PRESETS["kamath2025"]


def images() -> list[np.ndarray]:
    """Twenty of 8 bits (rows, columns, channels): pieces of histology and of a photograph, some darkened."""
    colour, grey = immunohistochemistry(), camera()[..., None]
    pieces = [picture[50 * i : 50 * i + 300, 50 * i : 50 * i + 300] for i in range(5) for picture in (colour, grey)]
    return pieces + [(piece // 2).astype(np.uint8) for piece in pieces]


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.astype(np.float32)).movedim(2, 0)


def rms(changed: np.ndarray, picture: np.ndarray) -> float:
    return float(np.sqrt(np.mean((changed.astype(float) - picture) ** 2)))


@pytest.mark.parametrize("level", LEVELS["speckle_noise_8bit"])
def test_speckle_is_as_strong_as_the_papers(level: float) -> None:
    for seed, picture in enumerate(images()):
        theirs = np.multiply(random_noise(picture, mode="speckle", var=level**2, rng=seed), 255).astype("uint8")
        ours = perturb(tensor(picture), "speckle_noise_8bit", level, torch_generator(seed)).movedim(0, 2).numpy()
        assert is_eight_bit(torch.from_numpy(ours))
        assert rms(ours, picture) == pytest.approx(rms(theirs, picture), rel=0.02)
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.02)
        assert (ours[picture == 0] == 0).all()  # above 0 it multiplies


@pytest.mark.parametrize("sigma", LEVELS["background_blur_8bit"])
def test_the_blur_of_the_background_is_the_papers(sigma: float) -> None:
    for picture in images():
        foreground = np.zeros(picture.shape[:2], bool)
        foreground[20:50, 30:80] = True
        theirs = picture.copy()
        blurred = np.multiply(gaussian(picture, sigma=(sigma, sigma), channel_axis=2), 255).astype("uint8")
        theirs[~foreground] = blurred[~foreground]
        found = perturb(
            tensor(picture), "background_blur_8bit", sigma, torch_generator(0), torch.from_numpy(foreground)
        )
        ours = found.movedim(0, 2).numpy()
        assert np.abs(ours - theirs).max() <= 1 and (ours != theirs).mean() < 0.01  # where float32 rounds otherwise
        assert np.array_equal(ours[foreground], picture[foreground])


def test_what_speckle_noise_does_instead() -> None:
    """The finding: above the robust range's low end, histology gets little more at .3 than theirs at .1."""
    picture = immunohistochemistry()[:200, :200]
    names = ("speckle_noise", "speckle_noise_8bit")
    old, new = (
        rms(perturb(tensor(picture), name, 0.3**0.5, torch_generator(0)).movedim(0, 2).numpy(), picture)
        for name in names
    )
    assert new > 1.2 * old


def test_an_image_without_8_bits_has_its_robust_range_brought_there() -> None:
    image = tensor(immunohistochemistry()[:64, :64]) * 3.7 - 300
    found = perturb(image, "speckle_noise_8bit", 0.2, torch_generator(0))
    low, high = np.percentile(image.flatten(1).numpy(), (0.5, 99.5), axis=1)
    grey = (found.flatten(1).numpy() - low[:, None]) / (high - low)[:, None] * 255
    inner = (grey > 1) & (grey < 254)
    assert np.abs(grey - np.rint(grey))[inner].max() < 0.01
    assert torch.equal(perturb(image, "speckle_noise_8bit", 0, torch_generator(0)), image)


def test_what_has_8_bits() -> None:
    assert is_eight_bit(torch.tensor([[0.0, 255.0]])) and is_eight_bit(torch.tensor([[3.0]]))
    assert not is_eight_bit(torch.tensor([[0.5]]))
    assert not is_eight_bit(torch.tensor([[256.0]])) and not is_eight_bit(torch.tensor([[-1.0]]))
