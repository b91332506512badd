"""Artefacts of magnetic resonance imaging. The phase-encode axis is one of the last two, the in-plane ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from nnunet_robust.perturbations.axes import computable, long_axes
from nnunet_robust.perturbations.row import Perturbation

_ORDER = 3  # of the bias field's polynomial
_KEPT = 0.02  # share of k-space lines about the centre that ghosting spares
_VOXELS = 2**21  # of a slab; bounds the memory of resampling and of transforms


def bias_field(
    image: torch.Tensor, level: float, generator: torch.Generator, *, region: torch.Tensor | None = None
) -> torch.Tensor:
    """Smooth multiplicative field of the receiver coils: y = x exp(level f), max |f| = 1.

    f is a polynomial of third order without a constant, in coordinates from -1 to 1 over each axis of the field of
    view (so its smoothness is a share of the field of view), with coefficients drawn from U(-1, 1) and then scaled so
    that its largest magnitude over the image is 1. All channels share it. 0, the dark end of the robust range, stays.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: largest |ln| of the gain; >= 0, 0 is the identity; 0.7 halves or doubles the brightness at one place.
        generator: the source of randomness.
        region: bool (*spatial), where the largest magnitude is sought; None: over the image.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Van Leemput et al., IEEE TMI 1999; TorchIO `RandomBiasField(order=3)`.

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> gain = bias_field(torch.ones(1, 64, 64), 0.7, torch_generator(0))
        >>> round(gain.log().abs().max().item(), 4)
        0.7
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The level of the bias field must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    spatial = (1,) * (4 - image.ndim) + tuple(image.shape[1:])
    coefficients = 2 * torch.rand((_ORDER + 1,) * 3, generator=generator, device=generator.device) - 1
    degree = sum(torch.meshgrid(*[torch.arange(_ORDER + 1, device=generator.device)] * 3, indexing="ij"))
    coefficients = torch.where((degree > 0) & (degree <= _ORDER), coefficients, 0.0)
    work = computable(image)
    z, y, x = (_powers(length).to(device=image.device, dtype=work.dtype) for length in spatial)
    planes = torch.einsum("ijk,yj,xk->iyx", coefficients.to(device=image.device, dtype=work.dtype), y, x)
    field = (z @ planes.flatten(1)).view(image.shape[1:])
    peak = (field if region is None else field[region]).abs().amax()
    gain = (field * (level / torch.where(peak > 0, peak, 1.0))).exp_()
    return (work * gain).to(image.dtype)


def motion(
    image: torch.Tensor, level: float, generator: torch.Generator, *, spacing_mm: Sequence[float]
) -> torch.Tensor:
    """Rigid motion of the object during the scan: y = Re F^-1(the lines of k-space, each of where the object then was).

    Lines are taken in order along the phase-encode axis, one of the last two. The object moves twice, after 40 to 48 %
    and after 52 to 60 % of the scan; the lines about the centre show it where it is in `image`, those before and
    after, displaced by a translation t and a rotation about the image's centre (linear interpolation; in 2d in the
    plane, in 3d about any axis). The level scales t and the angle alike; the larger of the two |t| is the level. All
    channels share the motion. Only what a copy differs by is transformed: y = x + sum_p Re F^-1(M_p F(x_p - x)).

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: largest translation in mm, and the bound of the rotation in degrees; >= 0, 0 is the identity.
        generator: the source of randomness.
        spacing_mm: voxel size along each spatial axis, in mm.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Shaw et al., MIDL 2019; TorchIO `RandomMotion` (two movements, 1 mm with 1 degree).
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The displacement must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    # an axis of one voxel is none: nothing can move along it
    kept = long_axes(image)
    if len(kept) < 2:
        return image.clone()
    squeezed = computable(image).reshape(image.shape[0], *[image.shape[axis] for axis in kept])
    spacing = [float(spacing_mm[axis - 1]) for axis in kept]
    axis, movements = _draw_movements(generator, squeezed.shape)
    result = squeezed.clone()
    thickness = max(1, _VOXELS // squeezed[:, 0].numel()) if squeezed.ndim == 4 else squeezed.shape[1]
    for movement in movements:
        rotation, translation = _pose(movement, level, squeezed.ndim - 1)
        for start in range(0, squeezed.shape[1], thickness):
            stop = min(start + thickness, squeezed.shape[1])
            moved = _moved(squeezed, rotation, translation, spacing, start, stop)
            moved -= squeezed[:, start:stop]
            result[:, start:stop] += _keep_lines(moved, movement.lines, axis)
    return result.reshape(image.shape).to(image.dtype)


def ghosting(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Ghosts along the phase-encode axis: y = Re F^-1((1 - level m) F(x)), m = 1 on every n-th line of k-space.

    n, the number of ghosts, is drawn from 4 to 10, the phase-encode axis from the last two. The 2 % of lines about the
    centre (two at least) are spared. All channels share both.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: share of their magnitude that the lines lose; >= 0, 0 is the identity, at 1 they are gone.
        generator: the source of randomness.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: TorchIO `RandomGhosting` (`intensity`), Perez-Garcia et al. 2021.
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The share of the lines' magnitude must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    axis = -2 + int(torch.randint(2, (), generator=generator, device=generator.device))
    ghosts = int(torch.randint(4, 11, (), generator=generator, device=generator.device))
    length = image.shape[axis]
    lines = torch.zeros(length)
    lines[::ghosts] = 1
    half = max(1, round(_KEPT * length) // 2)
    lines[max(0, length // 2 - half) : length // 2 + half] = 0
    result = computable(image).clone(memory_format=torch.contiguous_format)
    stack = result.view(-1, *image.shape[-2:])
    for slab in stack.split(max(1, _VOXELS // stack[0].numel())):
        slab -= level * _keep_lines(slab, lines, axis)
    return result.to(image.dtype)


def kspace_spikes(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """A spike in k-space (herringbone artefact): y = Re F^-1(F(x) + level max|F(x)| at one place), F over all axes.

    That is a wave, y = x + level A cos(2 pi sum_a k_a r_a / N_a), A = max|F(x)| / N; for an image of no negative
    values A is its mean. The place is shared by the channels (the amplitude is each one's own) and uniform, but for
    waves longer than 20 voxels in plane, which would be a shading and no herringbone.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: magnitude of the spike relative to the largest of k-space; >= 0, 0 is the identity.
        generator: the source of randomness.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: TorchIO `RandomSpike` (one spike, `intensity`); MONAI `KSpaceSpikeNoise`.

    Example:
        >>> import torch
        >>> from nnunet_robust.common.seeding import torch_generator
        >>> waves = kspace_spikes(torch.ones(1, 32, 32), 0.25, torch_generator(0))
        >>> round(waves.mean().item(), 4), round((waves - 1).abs().max().item(), 4)  # about a mean that stays
        (1.0, 0.25)
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The magnitude of the spike must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    spatial = image.shape[1:]
    draws = torch.rand(3, 2, generator=generator, device=generator.device).tolist()
    work = computable(image)
    angle = torch.zeros((), dtype=torch.float64)
    for axis, (length, (place, sign)) in enumerate(zip(reversed(spatial), draws, strict=False)):
        if axis < 2:  # in plane
            frequency = round((0.05 + 0.4 * place) * length) * (1 if sign < 0.5 else -1)
        else:
            frequency = int(place * length)
        # reduced in whole numbers: exact for any length
        steps = (torch.arange(length) * frequency) % length
        angle = steps.double().view(-1, *[1] * axis) * (2 * math.pi / length) + angle
    wave = angle.cos().to(device=image.device, dtype=work.dtype)
    amplitudes = [torch.fft.rfftn(channel).abs().amax() / channel.numel() for channel in work]
    return torch.stack([c + (level * a) * wave for c, a in zip(work, amplitudes, strict=True)]).to(image.dtype)


ROWS = (
    Perturbation(
        name="bias_field",
        function=bias_field,
        levels=(0.2, 0.4, 0.7, 1.0, 1.5),
        maximum=20.0,
        unit="largest |ln(gain)|",
        modality="mri",
        reference="TorchIO RandomBiasField (order 3); Van Leemput et al. 1999",
        stochastic=True,
        uses_region=True,
    ),
    Perturbation(
        name="motion",
        function=motion,
        levels=(0.25, 0.5, 1.0, 2.0, 4.0),
        maximum=1000.0,
        unit="largest translation in mm",
        modality="mri",
        reference="TorchIO RandomMotion; Shaw et al. 2019",
        stochastic=True,
        uses_spacing=True,
    ),
    Perturbation(
        name="ghosting",
        function=ghosting,
        levels=(0.2, 0.4, 0.6, 0.8, 1.0),
        maximum=100.0,
        unit="share of the lines' magnitude",
        modality="mri",
        reference="TorchIO RandomGhosting (intensity)",
        stochastic=True,
    ),
    Perturbation(
        name="kspace_spikes",
        display_name="k-space spikes",
        function=kspace_spikes,
        levels=(0.03, 0.06, 0.12, 0.25, 0.5),
        maximum=1000.0,
        unit="spike / largest magnitude of k-space",
        modality="mri",
        reference="TorchIO RandomSpike (intensity); MONAI KSpaceSpikeNoise",
        stochastic=True,
    ),
)


@dataclass(frozen=True)
class _Movement:
    """Where the object is during some lines, at a level of 1."""

    translation: torch.Tensor  # (3,), mm
    rotation: torch.Tensor  # (3,), degrees: the axis times the angle
    lines: torch.Tensor  # (length of the phase-encode axis,): 1 on its lines, the centre of k-space in the middle


def _draw_movements(generator: torch.Generator, shape: Sequence[int]) -> tuple[int, list[_Movement]]:
    """The phase-encode axis (-1 or -2), the movement before the central lines, and the one after them."""
    device = generator.device
    axis = -2 + int(torch.randint(2, (), generator=generator, device=device))
    times = torch.rand(2, generator=generator, device=device).tolist()
    vectors = torch.randn(2, 2, 3, generator=generator, device=device).cpu().double()
    sizes = torch.rand(2, 2, generator=generator, device=device).cpu().double()
    length = shape[axis]
    first = round((0.4 + 0.08 * times[0]) * length)
    last = max(length // 2 + 1, round((0.52 + 0.08 * times[1]) * length))
    place = torch.arange(length)
    movements = []
    for index, lines in enumerate((place < first, place >= last)):
        translation, rotation = vectors[index]
        if len(shape) == 3:  # in plane
            translation = translation * torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
        size = sizes[index, 0] / sizes[:, 0].max()
        movements.append(
            _Movement(
                translation / translation.norm() * size, rotation / rotation.norm() * sizes[index, 1], lines.float()
            )
        )
    return axis, movements


def _pose(movement: _Movement, level: float, dimensions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotation matrix and translation in mm, over the last `dimensions` axes."""
    z, y, x = (math.radians(level) * movement.rotation).tolist()
    if dimensions == 2:
        angle = math.hypot(z, y, x)
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    else:
        turn = torch.tensor([[0, -x, y], [x, 0, -z], [-y, z, 0]], dtype=torch.float64)
        rotation = torch.linalg.matrix_exp(turn)
    return rotation, level * movement.translation[-dimensions:]


def _moved(
    image: torch.Tensor,
    rotation: torch.Tensor,
    translation: torch.Tensor,
    spacing: Sequence[float],
    start: int,
    stop: int,
) -> torch.Tensor:
    """Rows start to stop of the first spatial axis, taken at R p + t, p in mm from the centre; edges are repeated."""
    lengths = image.shape[1:]
    # grid_sample's coordinates run from -1 to 1 between the outer voxels' centres
    halves = [size * (length - 1) / 2 for size, length in zip(spacing, lengths, strict=True)]
    axes = []
    for i, (half, length) in enumerate(zip(halves, lengths, strict=True)):
        line = torch.linspace(-half, half, length, dtype=image.dtype, device=image.device)
        axes.append((line[start:stop] if i == 0 else line).view(-1, *[1] * (len(lengths) - 1 - i)))
    grid = torch.stack(
        [
            (sum(float(r) * a for r, a in zip(rotation[i], axes, strict=True)) + float(translation[i])) / halves[i]
            for i in reversed(range(len(lengths)))  # grid_sample wants the last axis first
        ],
        dim=-1,
    )
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=True)[0]


def _keep_lines(image: torch.Tensor, lines: torch.Tensor, axis: int) -> torch.Tensor:
    """Re F^-1(lines F(image)) along one axis.

    The mask depends on one axis only: the transforms along the others cancel. The real part of the result is that of
    the mask made symmetric, for which half of the spectrum is enough.

    Args:
        image: real tensor.
        lines: (length of the axis,), weights of the lines, the centre of k-space at length // 2.
        axis: negative.
    """
    length = image.shape[axis]
    weights = torch.fft.ifftshift(lines)
    weights = (weights + weights.flip(0).roll(1)) / 2
    weights = weights[: length // 2 + 1].to(device=image.device, dtype=image.dtype).view(-1, *[1] * (-1 - axis))
    return torch.fft.irfft(torch.fft.rfft(image, dim=axis) * weights, n=length, dim=axis)


def _powers(length: int) -> torch.Tensor:
    """(length, order + 1): the powers of the coordinate from -1 to 1 along an axis; of 0 where it is one voxel."""
    line = torch.linspace(-1, 1, length, dtype=torch.float64) if length > 1 else torch.zeros(1, dtype=torch.float64)
    return line[:, None] ** torch.arange(_ORDER + 1)
