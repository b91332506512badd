"""The MRI artefacts against TorchIO, MONAI, and scipy with plain FFTs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.transforms import KSpaceSpikeNoise
from scipy import ndimage

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations.mri import _draw_movements, bias_field, ghosting, kspace_spikes, motion

tio = pytest.importorskip("torchio")
SHAPES = [(1, 24, 31), (9, 24, 30), (16, 20, 23)]


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator("test", seed)


def scene(*shape: int) -> torch.Tensor:
    rng = np.random.default_rng(len(shape))
    smooth = np.stack([ndimage.gaussian_filter(rng.normal(size=shape[1:]), 2) for _ in range(shape[0])])
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return torch.from_numpy(smooth)


# --- bias field


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_bias_field_is_torchios_polynomial(shape: tuple[int, ...], seed: int) -> None:
    image, level = 0.5 + scene(2, *shape), 0.7
    field = (bias_field(image, level, generator(seed)) / image).log()
    torch.testing.assert_close(field[0], field[1])  # one coil, all channels
    assert field.abs().max().item() == pytest.approx(level)
    # TorchIO's own basis, a coefficient at a time: its field is their exponential
    count = 20
    basis = [
        np.log(tio.transforms.BiasField.generate_bias_field(image, 3, np.eye(count)[i])).ravel() for i in range(count)
    ]
    design = np.stack(basis, axis=1).astype(np.float64)
    coefficients = np.linalg.lstsq(design, field[0].numpy().ravel(), rcond=None)[0]
    theirs = tio.transforms.BiasField(coefficients.tolist(), 3)(tio.ScalarImage(tensor=image.float())).data
    torch.testing.assert_close(bias_field(image, level, generator(seed)).float(), theirs, rtol=1e-4, atol=1e-4)
    # a polynomial of the second order would not do
    quadratic = design[:, [i for i, d in enumerate(orders()) if d <= 2]]
    rest = quadratic @ np.linalg.lstsq(quadratic, field[0].numpy().ravel(), rcond=None)[0] - field[0].numpy().ravel()
    assert np.abs(rest).max() > 0.02


def orders() -> list[int]:
    """Total degrees of TorchIO's 20 terms, in its order."""
    return [x + y + z for x in range(4) for y in range(4 - x) for z in range(4 - x - y)]


def test_bias_field_is_a_share_of_the_field_of_view() -> None:
    """Twice the voxels over the same field of view: the same gain at the same place."""
    coarse = bias_field(torch.ones(1, 5, 21, 21), 1.0, generator())
    fine = bias_field(torch.ones(1, 9, 41, 41), 1.0, generator())
    torch.testing.assert_close(fine[:, ::2, ::2, ::2], coarse, rtol=0.05, atol=0.05)


# --- motion


@pytest.mark.parametrize("shape", [(24, 31), (1, 24, 30), (9, 24, 31)])
@pytest.mark.parametrize("seed", range(4))
def test_motion_is_lines_of_a_moved_copy(shape: tuple[int, ...], seed: int) -> None:
    image, level, spacing = scene(2, *shape), 2.0, (3.0, 1.0, 0.8)[-len(shape) :]
    result = motion(image, level, generator(seed), spacing_mm=spacing)
    kept = [n for n in shape if n > 1]
    sizes = np.array([s for s, n in zip(spacing, shape, strict=True) if n > 1])
    axis, movements = _draw_movements(generator(seed), (2, *kept))
    assert max(m.translation.norm().item() for m in movements) == pytest.approx(1)
    assert all(m.rotation.norm() <= 1 for m in movements)
    for ours, channel in zip(result.numpy(), image.numpy(), strict=True):
        channel = channel.reshape(kept)
        centre = (np.array(kept) - 1) / 2
        kspace = np.fft.fftshift(np.fft.fftn(channel))
        for movement in movements:
            angle = math.radians(level) * movement.rotation.numpy()
            turn = rodrigues(angle) if len(kept) == 3 else plane(np.linalg.norm(angle))
            matrix = np.diag(1 / sizes) @ turn @ np.diag(sizes)
            shift = level * movement.translation.numpy()[-len(kept) :] / sizes
            moved = ndimage.affine_transform(channel, matrix, centre - matrix @ centre + shift, order=1, mode="nearest")
            lines = np.moveaxis(np.zeros(kept, dtype=bool), axis, -1)
            lines = np.moveaxis(lines | movement.lines.numpy().astype(bool), -1, axis)
            kspace = np.where(lines, np.fft.fftshift(np.fft.fftn(moved)), kspace)
        expected = np.fft.ifftn(np.fft.ifftshift(kspace)).real
        np.testing.assert_allclose(ours.reshape(kept), expected, rtol=0, atol=1e-6)


def rodrigues(vector: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(vector).as_matrix()


def plane(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@pytest.mark.parametrize("seed", range(8))
def test_motion_displaces_all_lines_but_those_about_the_centre(seed: int) -> None:
    axis, (before, after) = _draw_movements(generator(seed), (1, 16, 40, 40))
    assert axis in (-1, -2)
    for lines in (before.lines, after.lines.flip(0)):
        count = int(lines.sum())
        assert 16 <= count <= 19 and lines[:count].all()  # 40 to 48 % of 40
    assert not before.lines[20] and not after.lines[20]


def test_motion_takes_slabs_of_large_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_robust.perturbations import mri

    image = scene(2, 9, 24, 31)
    whole = motion(image, 2.0, generator(), spacing_mm=(3.0, 1.0, 1.0))
    monkeypatch.setattr(mri, "_VOXELS", 24 * 31 * 2)
    torch.testing.assert_close(motion(image, 2.0, generator(), spacing_mm=(3.0, 1.0, 1.0)), whole)


# --- ghosting


@pytest.mark.parametrize("shape", [(2, 1, 40, 48), (1, 9, 41, 33)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("level", [0.3, 1.0])
def test_ghosting_is_torchios_for_one_axis_and_number(shape: tuple[int, ...], seed: int, level: float) -> None:
    image = scene(*shape).float()
    ours = ghosting(image, level, generator(seed))
    found = []
    for axis in (1, 2):
        length = image.shape[axis + 1]
        restored = 2 * max(1, round(0.02 * length) // 2)
        for ghosts in range(4, 11):
            transform = tio.transforms.Ghosting(ghosts, axis, level, restored / length)
            theirs = transform(tio.ScalarImage(tensor=image)).data
            found += [(axis, ghosts)] * torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    assert len(found) == 1


def test_ghosting_draws_all_axes_and_numbers() -> None:
    image = scene(1, 40, 48)
    results = {ghosting(image, 1.0, generator(seed)).numpy().tobytes() for seed in range(150)}
    assert len(results) == 14


# --- spikes


@pytest.mark.parametrize("shape", [(2, 1, 40, 48), (2, 9, 24, 31)])
@pytest.mark.parametrize("seed", range(4))
def test_spike_is_torchios_and_monais(shape: tuple[int, ...], seed: int) -> None:
    image, level = scene(*shape), 0.3
    ours = kspace_spikes(image, level, generator(seed))
    half = torch.fft.fftshift(torch.fft.fftn((ours - image)[0])).abs().flatten().topk(2)
    torch.testing.assert_close(half.values[0], half.values[1])  # of a real wave
    place = tuple(int(i[0]) for i in torch.unravel_index(half.indices[:1], shape[1:]))
    centred = [abs(p - n // 2) / n for p, n in zip(place, shape[1:], strict=True)]
    assert all(0.03 < f < 0.48 for f in centred[1:])
    position = (np.array(place) + 0.5) / np.array(shape[1:])
    theirs = tio.transforms.Spike(position[None], level)(tio.ScalarImage(tensor=image.float())).data
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-5)
    # MONAI sets the magnitude of the place and keeps its phase: equal up to what was there before
    spectrum = torch.fft.fftshift(torch.fft.fftn(image[0]))
    monai = KSpaceSpikeNoise(loc=place, k_intensity=float((level * spectrum.abs().max()).log()))(image[:1])
    size = (ours[0] - image[0]).norm()
    assert abs((monai[0] - image[0]).norm() - size) < 0.1 * size


def test_spikes_of_all_seeds_are_herringbones() -> None:
    for seed in range(100):
        change = kspace_spikes(torch.ones(1, 40, 48), 1.0, generator(seed)) - 1
        assert abs(change.mean()) < 1e-4
        assert change.std().item() == pytest.approx(0.5**0.5, rel=1e-3)
        assert (change[0].diff(dim=0).abs().max() > 0.2) and (change[0].diff(dim=1).abs().max() > 0.2)
