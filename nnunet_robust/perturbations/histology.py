"""Artefacts of stained tissue on slides, in optical density where stain and tissue absorb, and of their storage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from nnunet_robust.perturbations.axes import computable
from nnunet_robust.perturbations.eight_bit import Scale
from nnunet_robust.perturbations.row import Perturbation
from nnunet_robust.perturbations.slices import by_slices

# The robust range takes the darkest voxels for 0; the light that still passes there, as a share of the brightest's.
_DARKEST = 0.2
_FAINTEST = 0.01  # share of light below which optical density is not followed

# Optical densities of haematoxylin, eosin and DAB (rows) in red, green and blue; Ruifrok and Johnston 2001.
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))

# Annex K.1 of the standard (ITU-T T.81): quantisation of luminance and of colour differences at quality 50.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_COLOUR_DIFFERENCES = (
    (17, 18, 24, 47, *(99,) * 4),
    (18, 21, 26, 66, *(99,) * 4),
    (24, 26, 56, *(99,) * 5),
    (47, 66, *(99,) * 6),
    *((99,) * 8,) * 4,
)

# JFIF: luminance and the differences of blue and red from it (rows), of red, green and blue in [0, 1].
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def stain_shift(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Another batch of stain: amounts of haematoxylin, eosin and DAB become s + level (a s + b).

    For three channels (taken as red, green, blue): transmitted light I = 0.2 + 0.8 x (0.2 of it is taken to pass where
    the robust range has its dark end, whose raw value a perturbation does not know), optical density -log10 I, stain
    amounts s = density M^-1 with Ruifrok's matrix M; a and b are drawn from U(-1, 1) for each stain, then scaled so
    that the largest |a| and the largest |b| are 1. Back: I 10^(-level (a s + b) M). Any other number of channels has
    no colours, and each counts as one stain: density + level (a density + b), the larger of |a| and |b| scaled to 1.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: relative change of the stains' amounts, and their shift in units of decadic optical density; >= 0,
            0 is the identity.
        generator: the source of randomness.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Tellez et al., Medical Image Analysis 2019 (HED colour augmentation); scikit-image `rgb2hed`.
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The shift of the stains must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    scale, shift = (2 * torch.rand(2, 3, generator=generator, device=generator.device) - 1).cpu().double()
    work = computable(image)
    light = _light(work)
    density = -light.clamp(min=_FAINTEST).log10_()
    if image.shape[0] == 3:
        stains = torch.tensor(_STAINS, dtype=torch.float64)
        # one matrix for unmixing, scaling and mixing: (a s) M = density M^-1 diag(a) M
        mixing = (torch.linalg.inv(stains) @ torch.diag(scale / scale.abs().max()) @ stains).to(work)
        offset = (shift / shift.abs().max() @ stains).to(work)
        added = torch.einsum("c...,cd->d...", density, mixing) + offset.view(3, *[1] * (image.ndim - 1))
    else:
        largest = max(abs(scale[0].item()), abs(shift[0].item()))
        added = density * (scale[0].item() / largest) + shift[0].item() / largest
    return (work + light * torch.expm1(added * (-level * math.log(10))) / (1 - _DARKEST)).to(image.dtype)


def tissue_fold(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """A fold of the section: I = I_0^(1 + level m), m = 1 on a curved band across the image, 0 elsewhere.

    I = 0.2 + 0.8 x is the transmitted light (see `stain_shift`): within the band the optical density is 1 + level
    times that of one layer, and empty glass stays bright. The band is a line at a random angle through the middle
    half, bent by a sine, a twentieth to a tenth of the image wide, with soft edges; channels and the slices of a volume
    share it.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: layers of tissue on top of the first; >= 0, 0 is the identity; a real fold has 2.
        generator: the source of randomness.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Kothari et al., J. Biomed. Health Inform. 2014 (tissue folds); Beer-Lambert law.
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The number of layers must be finite and >= 0, got {level}")
    if level == 0:
        return image.clone()
    draws = torch.rand(6, generator=generator, device=generator.device).tolist()
    work = computable(image)
    height, width = image.shape[-2:]
    size = math.sqrt(height * width)
    rows = torch.arange(height, dtype=work.dtype, device=image.device)[:, None] - (0.25 + 0.5 * draws[0]) * height
    columns = torch.arange(width, dtype=work.dtype, device=image.device) - (0.25 + 0.5 * draws[1]) * width
    cosine, sine = math.cos(math.pi * draws[2]), math.sin(math.pi * draws[2])
    along, across = rows * cosine + columns * sine, columns * cosine - rows * sine
    bend = 0.05 * size * torch.sin(along * (2 * math.pi / size) * (0.5 + draws[3]) + 2 * math.pi * draws[4])
    half = (0.025 + 0.025 * draws[5]) * size
    band = torch.sigmoid((half - (across - bend).abs()) / (0.5 + 0.1 * half))
    light = _light(work)
    density = -light.clamp(_FAINTEST, 1).log_()
    return (work + light * torch.expm1(-level * band * density) / (1 - _DARKEST)).to(image.dtype)


def out_of_focus(image: torch.Tensor, level: float, generator: torch.Generator) -> torch.Tensor:
    """Defocus: each slice convolved with a disc, the image of a point out of focus.

    The weight of an offset at distance d is 1 within the radius, falling to 0 from level - 1/2 to level + 1/2,
    normalised: clip(level + 1/2 - d, 0, 1), so that radii below half a voxel do nothing. Slices (the last two axes)
    are continued by reflection about their outer edge (d c b a | a b c d).

    Args:
        image: float tensor (C, *spatial), not modified.
        level: radius of the disc in voxels; >= 0, 0 is the identity.
        generator: not used; nothing is random here.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level < 0 or not finite.

    Reference: Hendrycks and Dietterich, ICLR 2019 (`defocus_blur`); scipy.ndimage.convolve with that disc.

    Example:
        >>> import torch
        >>> point = torch.zeros(1, 7, 7)
        >>> point[0, 3, 3] = 1.0
        >>> seen = out_of_focus(point, 2.0, torch.Generator())
        >>> round(seen.sum().item(), 4), round((seen[0, 3, 5] / seen[0, 3, 3]).item(), 2)  # half at the rim
        (1.0, 0.5)
    """
    if not 0 <= level < math.inf:
        raise ValueError(f"The radius of the disc must be finite and >= 0, got {level}")
    if level <= 0.5:
        return image.clone()
    radius = math.ceil(level - 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    disc = (level + 0.5 - torch.hypot(offsets[:, None], offsets)).clamp(0, 1)
    disc /= disc.sum()
    height, width = image.shape[-2:]
    rows, columns = (_reflected(length, radius).to(image.device) for length in (height, width))

    def blur(slices: torch.Tensor) -> torch.Tensor:
        padded = slices[:, rows][:, :, columns]
        shape = padded.shape[1:]
        transfer = torch.fft.rfft2(disc.to(padded), s=shape)
        # each output voxel needs inputs up to 2 radius beyond its own index: nothing wraps around
        return torch.fft.irfft2(torch.fft.rfft2(padded) * transfer, s=shape)[:, 2 * radius :, 2 * radius :]

    return by_slices(image, blur)


def jpeg(
    image: torch.Tensor,
    level: float,
    generator: torch.Generator,
    *,
    eight_bit: Scale | None = None,
    colour: bool = False,
) -> torch.Tensor:
    """JPEG compression: the 8 x 8 cosine transform of each slice of each channel, rounded to the standard's table.

    The quality is 100 (1 - level), at least 1, in the sense of libjpeg, which scales the tables (Annex K) by 5000 / q
    per cent below 50 and by 200 - 2 q above. The robust range becomes 0 to 255; values beyond it are not cut off, and
    nothing is rounded to whole grey values: the quantisation alone acts.

    Colour is stored as libjpeg does by default: luminance as a grey image, the differences of blue and red from it at
    half the resolution (4:2:0: means of 2 x 2 pixels, brought back by linear interpolation) and with a coarser table.
    A colour image of 8 bits is compressed as it is, not its robust range, for each channel has another; its values are
    rounded as those in a file.

    Args:
        image: float tensor (C, *spatial) in units of the robust range, not modified.
        level: 1 - quality / 100, in [0, 1]; 0 is the identity, unlike JPEG of quality 100.
        generator: not used; nothing is random here.
        eight_bit: how these units stand for 8-bit values; None: they do not.
        colour: whether the three channels are red, green and blue; else each is a grey image.

    Returns:
        A tensor with the shape, dtype and device of `image`.

    Raises:
        ValueError: level outside of [0, 1] or NaN.

    Reference: ITU-T T.81; libjpeg `jpeg_set_quality`; Pillow `Image.save(quality=...)`.

    Example:
        >>> import torch
        >>> grey = torch.full((1, 8, 8), 0.5)
        >>> jpeg(grey, 0.5, torch.Generator()).unique() * 255  # 127.5 lies within half a step of the middle, 128
        tensor([128.])
    """
    if not 0 <= level <= 1:
        raise ValueError(f"1 - quality / 100 must be in [0, 1], got {level}")
    if level == 0:
        return image.clone()
    if not colour:
        return by_slices(image, lambda slices: _quantised(slices, _LUMINANCE, level))
    work = computable(image)
    offset, factor = eight_bit or (work.new_zeros(()), work.new_ones(()))
    rgb = (work * factor + offset).reshape(3, -1, *image.shape[-2:])
    mixing = torch.tensor(_YCBCR, dtype=torch.float64)
    luminance, *differences = torch.einsum("dc,cshw->dshw", mixing.to(rgb), rgb)
    if eight_bit is not None:  # as a file has them, here and below
        luminance, *differences = (plane.mul(255).round_().div_(255) for plane in (luminance, *differences))
    stored = [by_slices(luminance, lambda slices: _quantised(slices, _LUMINANCE, level))]
    stored += [by_slices(plane, lambda slices: _subsampled(slices, level)) for plane in differences]
    if eight_bit is not None:
        stored = [plane.mul(255).round_().div_(255) for plane in stored]
    decoded = torch.einsum("cd,dshw->cshw", torch.linalg.inv(mixing).to(rgb), torch.stack(stored))
    if eight_bit is not None:
        decoded = decoded.mul(255).round_().clamp_(0, 255).div_(255)
    return ((decoded.reshape(image.shape) - offset) / factor).to(image.dtype)


def _quantised(slices: torch.Tensor, table: Sequence[Sequence[int]], level: float, middle: float = 128) -> torch.Tensor:
    """Slices (S, H, W), of which 0 to 1 is stored as 0 to 255 around a middle, through a table of the standard's."""
    # rounded, as 100 (1 - 0.9) is not 10
    quality = max(1.0, round(100 * (1 - level), 6))
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    scaled = torch.tensor(table, dtype=torch.float64).mul(percent).add(50).div(100).floor().clamp(1, 255)
    index = torch.arange(8, dtype=torch.float64)
    cosines = torch.cos((2 * index + 1) * index[:, None] * (math.pi / 16)) / 2
    cosines[0] /= math.sqrt(2)
    steps, transform = scaled.to(slices), cosines.to(slices)
    height, width = slices.shape[-2:]
    # whole blocks: edges are repeated, as libjpeg does
    padded = F.pad(slices[:, None], (0, -width % 8, 0, -height % 8), mode="replicate")[:, 0]
    blocks = (padded * 255 - middle).unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).transpose(2, 3)
    spectrum = (transform @ blocks @ transform.T).div_(steps).round_().mul_(steps)
    decoded = (transform.T @ spectrum @ transform).add_(middle).div_(255)
    return decoded.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


def _subsampled(slices: torch.Tensor, level: float) -> torch.Tensor:
    """A colour difference (S, H, W): stored at half the resolution, and interpolated."""
    height, width = slices.shape[-2:]
    even = F.pad(slices[:, None], (0, width % 2, 0, height % 2), mode="replicate")
    small = _quantised(F.avg_pool2d(even, 2)[:, 0], _COLOUR_DIFFERENCES, level, middle=0)
    # three quarters of the nearest and one of the next, along either axis: libjpeg's "fancy upsampling"
    large = F.interpolate(small[:, None], scale_factor=2, mode="bilinear", align_corners=False)
    return large[:, 0, :height, :width]


ROWS = (
    Perturbation(
        name="stain_shift",
        function=stain_shift,
        levels=(0.01, 0.02, 0.05, 0.1, 0.2),
        maximum=10.0,
        unit="relative change of stain amounts",
        modality="histology",
        reference="Tellez et al. 2019; scikit-image rgb2hed",
        stochastic=True,
    ),
    Perturbation(
        name="tissue_fold",
        function=tissue_fold,
        levels=(0.1, 0.25, 0.5, 1.0, 2.0),
        maximum=100.0,
        unit="layers of tissue on top of the first",
        modality="histology",
        reference="Kothari et al. 2014; Beer-Lambert law",
        stochastic=True,
    ),
    Perturbation(
        name="out_of_focus",
        function=out_of_focus,
        levels=(1.0, 2.0, 3.0, 5.0, 8.0),
        maximum=100.0,
        unit="radius of the disc in voxels",
        modality="histology",
        reference="Hendrycks and Dietterich 2019 (defocus_blur)",
    ),
    Perturbation(
        name="jpeg",
        display_name="JPEG compression",
        function=jpeg,
        levels=(0.5, 0.7, 0.85, 0.92, 0.97),
        maximum=1.0,
        unit="1 - quality / 100",
        modality="histology",
        reference="ITU-T T.81; Pillow",
        uses_colour=True,
    ),
)


def _light(image: torch.Tensor) -> torch.Tensor:
    return _DARKEST + (1 - _DARKEST) * image


def _reflected(length: int, radius: int) -> torch.Tensor:
    """Indices of an axis continued by `radius` on both sides by reflection about the outer edge, as often as needed."""
    index = torch.arange(-radius, length + radius) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)
