"""The region of an image in which a perturbation acts, where that is not all of it: what lies outside is continued."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_SMALLEST = torch.finfo(torch.float32).tiny


def continued(image: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """The image inside of the region, and outside of it a continuation made of means over what is near.

    A filter that reaches beyond the region then finds more of the body there, not the background. Outside stand means
    over blocks of 2, 4, 8, ... voxels, the smallest that hold a voxel of the region (push and pull): within a few per
    cent of the body's own contrast near the border, at the cost of some additions.

    Args:
        image: float tensor (C, *spatial), not modified.
        region: bool (*spatial), on the image's device, not empty.

    Returns:
        A tensor like `image`; every value is within the channel's own range inside of the region.

    Reference: Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.4 (push and pull).
    """
    if bool(region.all()):
        return image
    block = tuple(2 if length > 1 else 1 for length in image.shape[1:])
    pool = F.avg_pool2d if image.ndim == 3 else F.avg_pool3d
    share = pool(region[None].to(image.dtype), block, ceil_mode=True)
    means = pool(torch.where(region, image, 0.0), block, ceil_mode=True) / torch.where(share > 0, share, 1.0)
    coarse = continued(means, share[0] > 0)
    for axis, factor in enumerate(block, 1):
        if factor > 1:
            coarse = coarse.repeat_interleave(factor, dim=axis).narrow(axis, 0, image.shape[axis])
    return torch.where(region, image, coarse)


def kept_nonzero(image: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """The image, in which no voxel has become background: one that is now zero in every channel moves off it.

    nnU-Net takes for background what is exactly zero in every channel. Where a perturbation makes such a voxel of
    another, the channels that were not zero get the smallest normal number of float32, 1.2e-38, with the sign that they
    had: nnU-Net, which works in float32, still takes it for the body, and to its arithmetic it is zero.

    Args:
        image: float tensor (C, *spatial), perturbed; not modified.
        clean: what it was made of.
    """
    lost = (image == 0).all(dim=0) & (clean != 0).any(dim=0)
    smallest = torch.full_like(image, max(_SMALLEST, torch.finfo(image.dtype).tiny))
    return torch.where(lost & (clean != 0), smallest.copysign(clean), image)
