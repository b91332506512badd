"""One contract for every row of the table; `perturb` and `measure`. Oracles are in test_perturbation_oracles."""

from __future__ import annotations

import importlib
import itertools
import math
import pkgutil
import re

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnunet_robust import perturbations
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.eval.attacks import rows as attack_rows
from nnunet_robust.eval.attacks.attack import ATTACKS
from nnunet_robust.eval.attacks.budget import NORMS
from nnunet_robust.eval.attacks.losses import Weighting
from nnunet_robust.eval.attacks.rows import PERTURBATIONS, PRESETS, against, perturbation
from nnunet_robust.eval.attacks.victim import Answer, Score
from nnunet_robust.perturbations import Perturbation, check_level, measure, perturb, robust_range

ROWS = pytest.mark.parametrize("row", PERTURBATIONS.values(), ids=lambda row: row.name)
# combinations keep the same contract
COMBINED = [
    perturbation(name) for name in ("gaussian_blur+gaussian_noise", "cutout@0.1+missing_slices+background_blur@2")
]
ROWS_AND_COMBINATIONS = pytest.mark.parametrize("row", [*PERTURBATIONS.values(), *COMBINED], ids=lambda row: row.name)
SHAPES = {
    "2d": (1, 40, 48),
    "2d_as_nnunet": (1, 1, 40, 48),
    "2d_rgb": (3, 1, 40, 48),
    "3d_anisotropic": (1, 5, 32, 36),
    "3d_two_channels": (2, 12, 16, 20),
}
# of every shape's spatial axes; 2d pictures as nnU-Net reads them
SPACINGS = {(40, 48): (0.9, 1.1), (1, 40, 48): (999.0, 1.0, 1.0), (5, 32, 36): (1.9, 0.8, 0.9)}
IMAGES = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator("test", seed)


def make_image(shape: tuple[int, ...], scale: float = 250.0, offset: float = -1000.0) -> torch.Tensor:
    """A smooth scene with edges and fine texture, in CT-like units: zeros, negatives, another scale per channel."""
    rng = np.random.default_rng(len(shape))
    scene = np.stack([ndimage.gaussian_filter(rng.normal(size=shape[1:]), 2) for _ in range(shape[0])])
    scene = scene / scene.std() + (scene > 0) + 0.1 * rng.normal(size=shape)
    image = torch.from_numpy(scene.astype(np.float32)) * scale
    image += torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)) * offset
    image[(0,) * image.ndim] = -0.0
    return image


def make_mask(image: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(image.shape[1:], dtype=torch.bool)
    mask[..., 10:20, 8:16] = True
    return mask.to(image.device)


def spacing_of(image: torch.Tensor) -> tuple[float, ...]:
    return SPACINGS.get(tuple(image.shape[1:]), (1.0,) * (image.ndim - 1))


class Victim:
    """A model that sees each channel as it lies in its robust range, and dislikes waves along it."""

    def __init__(self, image: torch.Tensor, *, raw: bool) -> None:
        n = image.ndim - 1
        low, high = (bound.view(-1, *[1] * n) for bound in robust_range(image))
        self._low, self._span = (low, torch.where(high > low, high - low, 1)) if raw else (low * 0, low * 0 + 1)
        self._waves = torch.linspace(1, 9, image[0].numel(), device=image.device).view(image.shape[1:])

    def score(self, image: torch.Tensor) -> Score:
        return Score(1.0, float(self._loss(image.detach().float())))

    def gradient(self, image: torch.Tensor, weighting: Weighting, progress: float) -> Answer:
        leaf = image.detach().float().requires_grad_()
        (found,) = torch.autograd.grad(self._loss(leaf), leaf)
        return Answer(self.score(image), found)

    def _loss(self, image: torch.Tensor) -> torch.Tensor:
        return ((image - self._low) / self._span * self._waves).sin().sum()


def apply(row: Perturbation, image: torch.Tensor, level: float, seed: int = 0) -> torch.Tensor:
    extra = against(Victim(image, raw=True), steps=3) if row.uses_victim else None
    return perturb(image, row, level, generator(seed), make_mask(image), spacing_of(image), extra=extra)


def apply_function(row: Perturbation, image: torch.Tensor, level: float, seed: int = 0) -> torch.Tensor:
    """The bare function, on an image taken to be in robust units already."""
    keywords: dict[str, object] = {"mask": make_mask(image)} if row.uses_mask else {}
    if row.uses_spacing:
        keywords["spacing_mm"] = spacing_of(image)
    if row.uses_victim:
        keywords |= {"victim": Victim(image, raw=False), "steps": 3}
    return row.function(image, level, generator(seed), **keywords)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().contiguous().numpy().tobytes()


# --- the table


@ROWS
def test_row_is_complete(row: Perturbation) -> None:
    assert PERTURBATIONS[row.name] is row
    assert row.unit and row.reference and row.function.__doc__
    assert row.modality in {"any", "mri", "ct", "ultrasound", "histology"}
    assert len(row.levels) == 5 and list(row.levels) == sorted(set(row.levels))
    assert row.levels[0] > 0 and row.levels[-1] <= row.maximum


@ROWS
def test_row_says_whether_it_is_random(row: Perturbation) -> None:
    image = make_image((1, 40, 48))
    differs = bits(apply(row, image, row.levels[-1], seed=0)) != bits(apply(row, image, row.levels[-1], seed=1))
    assert differs == row.stochastic


def test_every_row_of_every_module_is_in_the_table() -> None:
    rows = []
    for module in pkgutil.iter_modules(perturbations.__path__, perturbations.__name__ + "."):
        rows += getattr(importlib.import_module(module.name), "ROWS", ())
    rows += attack_rows.ROWS
    assert sorted(row.name for row in rows) == sorted(PERTURBATIONS)
    assert all(row.name == row.function.__name__ for row in rows)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("speckle_noise", "speckle noise"),
        ("rician_noise", "Rician noise"),
        ("kspace_spikes", "k-space spikes"),
        ("pgd_linf", "PGD, l∞"),
        ("worst_case_l2_from_nnUNetTrainer_seed1", "worst case, l2, from nnUNetTrainer_seed1"),
        ("random_l2", "random noise, l2"),
        ("cospgd_l2", "CosPGD, l2"),
        ("gaussian_noise+gaussian_blur@2", "Gaussian noise + Gaussian blur 2"),
    ],
)
def test_display_names(name: str, words: str) -> None:
    assert perturbation(name).display_name == words


PROPER = ["Gaussian", "Rician", "Poisson", "Gibbs", "Rayleigh", "Fourier", "PSF", "JPEG", "MRI", "CT", "PGD", "FGSM"]


def test_proper_names_and_abbreviations_are_written_as_such() -> None:
    for row in PERTURBATIONS.values():
        words = row.display_name.replace(",", "").split()
        assert not {word.lower() for word in PROPER} & set(words), row.name
        assert "kspace" not in words and "_" not in row.display_name, row.name


def test_which_rows_take_what() -> None:
    assert {row.name for row in PERTURBATIONS.values() if row.uses_mask} == {
        "background_blur",
        "background_blur_8bit",
        "foreground_blur",
    }
    attacks = {row.name: row.control for row in PERTURBATIONS.values() if row.uses_victim}
    assert attacks == {f"{name}_{norm}": f"random_{norm}" for name in ATTACKS for norm in NORMS}
    assert {"slice_thickness", "missing_slices", "correlated_noise"} <= {
        row.name for row in PERTURBATIONS.values() if row.uses_spacing
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_hold_valid_levels(preset: str) -> None:
    assert PRESETS[preset]
    for name, levels in PRESETS[preset].items():
        for level in levels:
            assert level > 0
            check_level(perturbation(name), level)


def test_kamath_preset_is_the_papers() -> None:
    preset = PRESETS["kamath2025"]
    assert [level**2 for level in preset["speckle_noise_8bit"]] == pytest.approx([0.1, 0.3])
    assert preset["background_blur_8bit"] == (3.0, 7.0)
    assert set(preset) == {"speckle_noise_8bit", "background_blur_8bit"}


@pytest.mark.parametrize("modality", ["mri", "ct", "ultrasound", "histology"])
def test_presets_of_modalities_are_those_of_the_table(modality: str) -> None:
    preset = PRESETS[modality]
    assert {row.name for row in PERTURBATIONS.values() if row.modality == modality} <= set(preset)
    assert {PERTURBATIONS[name].modality for name in preset} <= {modality, "any"}
    assert all(levels == PERTURBATIONS[name].levels for name, levels in preset.items())


def test_the_other_presets() -> None:
    assert list(PRESETS) == ["kamath2025", "mri", "ct", "ultrasound", "histology", "noise", "all", "attacks"]
    natural = [row for row in PERTURBATIONS.values() if row not in attack_rows.ROWS]
    assert PRESETS["all"] == {row.name: row.levels for row in natural}
    assert natural == list(perturbations.PERTURBATIONS.values())
    assert set(PRESETS["attacks"]) == {"worst_case_linf", "worst_case_l2"}
    assert set(PRESETS["noise"]) == {
        "gaussian_noise", "speckle_noise", "salt_and_pepper", "rician_noise", "poisson_noise", "correlated_noise",
    }  # fmt: skip


# --- the contract


@ROWS_AND_COMBINATIONS
@IMAGES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_level_zero_returns_the_same_bits(row: Perturbation, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    image = make_image(shape).to(dtype)
    assert math.copysign(1, image.flatten()[0].item()) == -1  # -0.0 is in there
    for zero in (0, 0.0, -0.0):
        for result in (apply(row, image, zero), apply_function(row, image, zero)):
            assert bits(result) == bits(image)
            assert result.data_ptr() != image.data_ptr()


@ROWS_AND_COMBINATIONS
@IMAGES
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_keeps_the_form_and_the_input(
    row: Perturbation, shape: tuple[int, ...], device: str, dtype: torch.dtype
) -> None:
    image = make_image(shape).to(device=device, dtype=dtype)
    before = bits(image)
    for result in (
        apply(row, image, row.levels[-1]),
        apply_function(row, image, row.levels[-1]),
    ):
        assert (result.shape, result.dtype, result.device) == (image.shape, image.dtype, image.device)
        assert bits(image) == before
        assert bits(result) != before


@ROWS_AND_COMBINATIONS
@IMAGES
def test_same_seed_same_bits(row: Perturbation, shape: tuple[int, ...]) -> None:
    image = make_image(shape)
    assert bits(apply(row, image, row.levels[2])) == bits(apply(row, image, row.levels[2]))


@ROWS_AND_COMBINATIONS
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_sees_the_same_image(row: Perturbation) -> None:
    image = make_image((2, 12, 16, 20))
    on_gpu = apply(row, image.cuda(), row.levels[2]).cpu()
    torch.testing.assert_close(on_gpu, apply(row, image, row.levels[2]), rtol=1e-5, atol=0.01)


@ROWS_AND_COMBINATIONS
@IMAGES
def test_stays_within_the_range_of_each_channel_and_finite(row: Perturbation, shape: tuple[int, ...]) -> None:
    image = make_image(shape)
    for level in (*row.levels, row.maximum):
        result = apply(row, image, level)
        assert torch.isfinite(result).all()
        for before, after in zip(image, result, strict=True):
            assert before.min() <= after.min() and after.max() <= before.max()


@ROWS_AND_COMBINATIONS
@IMAGES
def test_psnr_falls_with_the_level(row: Perturbation, shape: tuple[int, ...]) -> None:
    image = make_image(shape)
    psnr = [measure(image, apply(row, image, level))["psnr_db"] for level in (0.0, *row.levels)]
    assert psnr[0] == math.inf
    assert all(a > b for a, b in itertools.pairwise(psnr)), psnr


@ROWS_AND_COMBINATIONS
def test_levels_share_one_field(row: Perturbation) -> None:
    """What two levels do to an image is alike if they start from one state, and less so if not."""
    if not row.stochastic or row.uses_victim:
        pytest.skip("nothing is random, or it is chosen for each level")
    image = make_image((1, 12, 16, 20))
    small, large, other = (
        (apply(row, image, row.levels[level], seed) - image).flatten() for level, seed in ((1, 0), (2, 0), (2, 1))
    )
    same = torch.nn.functional.cosine_similarity(small, large, dim=0)
    assert same > 0.4
    assert same > torch.nn.functional.cosine_similarity(small, other, dim=0) + 0.1


@ROWS_AND_COMBINATIONS
def test_a_tiny_level_changes_little(row: Perturbation) -> None:
    image = make_image((1, 12, 16, 20))
    assert measure(image, apply(row, image, 1e-3))["psnr_db"] > 25


@ROWS_AND_COMBINATIONS
def test_one_level_means_the_same_in_other_units(row: Perturbation) -> None:
    image = make_image((1, 40, 48))
    rescaled = image * 0.01 + 7
    expected = apply(row, image, row.levels[2]) * 0.01 + 7
    torch.testing.assert_close(apply(row, rescaled, row.levels[2]), expected, rtol=0, atol=1e-3)


@ROWS_AND_COMBINATIONS
def test_channels_are_scaled_apart(row: Perturbation) -> None:
    """Another scale of one channel leaves the other's result alone."""
    image = make_image((2, 12, 16, 20))
    other = image.clone()
    other[1] = other[1] * 100 - 3
    of_image, of_other = (apply(row, x, row.levels[2])[0] for x in (image, other))
    if row.uses_victim:  # the victim's gradient is one of both channels
        torch.testing.assert_close(of_image, of_other, rtol=0, atol=0.01)
    else:
        assert bits(of_image) == bits(of_other)


@ROWS_AND_COMBINATIONS
@pytest.mark.parametrize("value", [0.0, -0.0, -1024.0, 0.1])
def test_a_constant_image_stays(row: Perturbation, value: float) -> None:
    image = torch.full((1, 1, 24, 24), value)
    assert bits(apply(row, image, row.levels[-1])) == bits(image)


@ROWS_AND_COMBINATIONS
def test_a_constant_channel_stays_beside_another(row: Perturbation) -> None:
    image = make_image((2, 12, 16, 20))
    image[1] = 0.3
    result = apply(row, image, row.levels[-1])
    assert bits(result[1]) == bits(image[1])
    assert bits(result[0]) != bits(image[0])


@ROWS_AND_COMBINATIONS
@pytest.mark.parametrize("level", [-0.1, math.nan, math.inf, -math.inf, 1e9])
def test_a_level_out_of_range_is_refused(row: Perturbation, level: float) -> None:
    with pytest.raises(UserError, match=rf"level of {re.escape(row.name)} .* got {re.escape(str(level))}"):
        apply(row, make_image((1, 8, 8)), level)


@ROWS_AND_COMBINATIONS
@pytest.mark.parametrize("level", [-0.1, math.nan])
def test_the_bare_function_refuses_too(row: Perturbation, level: float) -> None:
    with pytest.raises(ValueError, match="got"):
        apply_function(row, make_image((1, 20, 20)), level)


@ROWS_AND_COMBINATIONS
def test_a_non_contiguous_image_is_no_different(row: Perturbation) -> None:
    image = make_image((1, 40, 40))
    transposed = image.transpose(1, 2).contiguous().transpose(1, 2)
    assert not transposed.is_contiguous()
    expected = apply(row, image, row.levels[2])
    torch.testing.assert_close(apply(row, transposed, row.levels[2]), expected, rtol=1e-5, atol=2e-3)


# --- the wrapper


def test_unknown_name() -> None:
    with pytest.raises(UserError, match=r"'gausian_noise'. Did you mean 'gaussian_noise'\?.*contrast"):
        perturb(make_image((1, 8, 8)), "gausian_noise", 0.1, generator())
    with pytest.raises(UserError, match=r"'xyz'. Choose from: gaussian_noise"):
        perturbation("xyz")


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_masks_are_asked_for_and_checked(level: float) -> None:
    image = make_image((1, 1, 20, 20))
    with pytest.raises(UserError, match="needs the reference segmentation"):
        perturb(image, "background_blur", level, generator())
    with pytest.raises(UserError, match=r"bool of shape \(1, 20, 20\).*shape \(20, 20\)"):
        perturb(image, "background_blur", level, generator(), torch.zeros(20, 20, dtype=torch.bool))
    with pytest.raises(UserError, match=r"got torch.int64"):
        perturb(image, "background_blur", level, generator(), torch.zeros(1, 20, 20, dtype=torch.long))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.0), (1.0, math.nan), (math.inf, 1.0)])
def test_spacings_are_checked(spacing: tuple[float, ...]) -> None:
    image = make_image((1, 20, 20))
    with pytest.raises(UserError, match=r"spacing for slice_thickness must be .* 2 spatial axes, got \("):
        perturb(image, "slice_thickness", 3.0, generator(), spacing_mm=spacing)
    perturb(image, "contrast", 0.1, generator(), spacing_mm=spacing)  # does not look at it


def test_no_spacing_is_a_millimetre() -> None:
    image = make_image((1, 5, 32, 36))
    without = perturb(image, "slice_thickness", 3.0, generator())
    assert bits(without) == bits(perturb(image, "slice_thickness", 3.0, generator(), spacing_mm=(1, 1, 1)))
    assert bits(without) != bits(perturb(image, "slice_thickness", 3.0, generator(), spacing_mm=[2, 1, 1]))


@pytest.mark.parametrize(
    "image", [torch.zeros(1, 4, 4, dtype=torch.int16), torch.zeros(4, 4), torch.zeros(1, 1, 1, 4, 4)]
)
def test_other_tensors_are_refused(image: torch.Tensor) -> None:
    with pytest.raises(UserError, match="float tensor"):
        perturb(image, "contrast", 0.1, generator())


def test_robust_range_is_numpys_percentile_by_channel() -> None:
    image = make_image((3, 12, 16, 20))
    low, high = robust_range(image)
    expected = np.percentile(image.numpy().reshape(3, -1).astype(np.float64), [0.5, 99.5], axis=1)
    np.testing.assert_allclose(low.numpy(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(high.numpy(), expected[1], rtol=1e-5)
    assert low.dtype == torch.float32 and low.shape == (3,)


def test_robust_range_of_a_nearly_empty_channel_is_its_full_range() -> None:
    image = torch.zeros(2, 100, 100)
    image[0, 3, 4:8] = 5.0
    low, high = robust_range(image)
    assert low.tolist() == [0.0, 0.0]
    assert high.tolist() == [5.0, 0.0]
    assert bits(perturb(image, "gaussian_noise", 0.1, generator())[0]) != bits(image[0])


def test_robust_range_takes_more_values_than_torch_quantile() -> None:
    image = torch.arange(2**24 + 8, dtype=torch.float32).view(1, 2, -1)
    assert robust_range(image)[1].item() == pytest.approx(0.995 * 2**24, rel=1e-4)


def test_values_left_alone_keep_their_bits() -> None:
    image = make_image((2, 12, 16, 20))
    mask = make_mask(image)
    blurred = perturb(image, "background_blur", 3.0, generator(), mask)
    assert torch.equal(blurred[:, mask], image[:, mask])
    assert not torch.equal(blurred[:, ~mask], image[:, ~mask])
    peppered = perturb(image, "salt_and_pepper", 0.1, generator())
    assert (peppered == image).float().mean() > 0.88


# --- measure


def test_measure_by_hand() -> None:
    clean = torch.linspace(0, 100, 1001).view(1, 1, 1, -1)
    low, high = robust_range(clean)
    span = (high - low).item()
    assert span == pytest.approx(99, rel=1e-6)
    perturbed = clean + 9.9 * torch.tensor([1.0, -1.0]).repeat(501)[:1001]  # 0.1 of the robust range
    measured = measure(clean, perturbed)
    assert measured["psnr_db"] == pytest.approx(20, abs=1e-4)
    assert measured["snr_db"] == pytest.approx(
        10 * math.log10(clean.double().var(correction=0).item() / 9.9**2), abs=1e-4
    )


def test_measure_pools_channels_in_their_own_units() -> None:
    clean = torch.linspace(0, 100, 1001).view(1, 1, -1)
    two = torch.cat([clean, clean * 50 - 7])
    noise = torch.ones_like(clean)
    one = measure(clean, clean + 9.9 * noise)
    both = measure(two, torch.cat([clean + 9.9 * noise, two[1:] + 50 * 9.9 * noise]))
    assert both == pytest.approx(one, abs=1e-3)
    half = measure(two, torch.cat([clean + 9.9 * noise, two[1:]]))
    assert half["psnr_db"] == pytest.approx(one["psnr_db"] + 10 * math.log10(2), abs=1e-3)


def test_measure_is_never_nan() -> None:
    constant = torch.full((1, 8, 8), 3.0)
    assert measure(constant, constant) == {"psnr_db": math.inf, "snr_db": math.inf}
    assert measure(constant, constant + 0.1) == {"psnr_db": pytest.approx(20, abs=1e-4), "snr_db": -math.inf}
    image = make_image((1, 8, 8))
    assert measure(image, image) == {"psnr_db": math.inf, "snr_db": math.inf}
