"""Several perturbations as one condition; the contract that they share with single ones is in test_perturbations."""

from __future__ import annotations

import pickle

import pytest
import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.eval.attacks.rows import perturbation
from nnunet_robust.eval.sweep.conditions import conditions_for
from nnunet_robust.perturbations import check_level, perturb
from nnunet_robust.perturbations.blur import gaussian_blur
from nnunet_robust.perturbations.intensity import brightness, contrast


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator("test", seed)


def image() -> torch.Tensor:
    return torch.rand(1, 24, 24, generator=generator(5))


def test_parts_are_applied_in_the_order_given_at_their_share() -> None:
    x = image()
    # half of 0.4 and half of 1.2, contrast's strongest default
    first = perturbation("brightness@0.4+contrast").function(x, 0.5, generator())
    torch.testing.assert_close(first, contrast(brightness(x, 0.2, generator()), 0.6, generator()))
    second = perturbation("contrast+brightness@0.4").function(x, 0.5, generator())
    torch.testing.assert_close(second, brightness(contrast(x, 0.6, generator()), 0.2, generator()))
    assert not torch.allclose(first, second)


def test_the_noise_is_not_blurred_when_it_comes_last() -> None:
    x = image()
    result = perturbation("gaussian_blur@2+gaussian_noise@0.1").function(x, 1.0, generator())
    noise = result - gaussian_blur(x, 2.0, generator())
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    neighbours = (noise[:, :-1] * noise[:, 1:]).sum() / noise.square().sum()
    assert abs(neighbours.item()) < 0.15  # white


def test_parts_have_fields_of_their_own() -> None:
    zeros = torch.zeros(1, 64, 64)
    row = perturbation("gaussian_noise@0.3+gaussian_noise@0.4")
    # one field twice would give 0.7
    assert row.function(zeros, 1.0, generator()).std().item() == pytest.approx(0.5, rel=0.05)


def test_the_row_is_made_of_its_parts() -> None:
    row = perturbation("gaussian_noise+background_blur@2")
    assert (row.stochastic, row.uses_mask, row.uses_spacing) == (True, True, False)
    assert row.levels == (0.25, 0.5, 0.75, 1.0) and row.maximum == 1
    assert row.unit == "share of gaussian_noise 0.4, background_blur 2"
    plain = perturbation("slice_thickness+contrast")
    assert (plain.stochastic, plain.uses_mask, plain.uses_spacing) == (False, False, True)
    assert perturbation("rician_noise+contrast").modality == "mri"
    assert pickle.loads(pickle.dumps(row)).name == row.name


def test_perturb_hands_on_mask_and_spacing() -> None:
    x, mask = image(), torch.zeros(24, 24, dtype=torch.bool)
    mask[8:16] = True
    coarse = perturb(x, "slice_thickness@4+contrast@0.1", 1.0, generator(), spacing_mm=(2.0, 1.0))
    assert not torch.equal(coarse, perturb(x, "slice_thickness@4+contrast@0.1", 1.0, generator()))
    blurred = perturb(x, "foreground_blur@3+background_blur@1e-9", 1.0, generator(), mask)
    torch.testing.assert_close(blurred, perturb(x, "foreground_blur", 3.0, generator(), mask))
    with pytest.raises(UserError, match="needs the reference segmentation"):
        perturb(x, "foreground_blur+contrast", 1.0, generator())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gaussian_noise+gausian_blur", "Did you mean 'gaussian_blur'"),
        ("gaussian_noise+", "There is no perturbation ''"),
        ("gaussian_noise@much+contrast", r"level of gaussian_noise .*'much'"),
        ("gaussian_noise@0+contrast", r"\(0, 100\], got '0'"),
        ("cutout@2+contrast", r"\(0, 1\], got '2'"),
        ("cutout@nan+contrast", "got 'nan'"),
        ("gaussian_noise@0.2", "Did you mean 'gaussian_noise'"),
    ],
)
def test_bad_names(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        perturbation(name)
    assert "\n" not in str(error.value)


def test_on_the_command_line() -> None:
    name = "gaussian_noise@0.2+gaussian_blur@2"
    assert conditions_for([name], None, None) == {name: (0.25, 0.5, 0.75, 1.0)}
    assert conditions_for([name], "kamath2025", [0.5])[name] == (0.5,)
    with pytest.raises(UserError, match=r"must be in \[0, 1\], got 2"):
        conditions_for([name], None, [2])
    with pytest.raises(UserError, match="in \\[0, 1\\]"):
        check_level(perturbation(name), 1.01)
