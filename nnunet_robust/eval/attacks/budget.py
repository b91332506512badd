"""What an attack may change: a ball around the image, in shares of each channel's robust range."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.sums import exact_sum

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class Budget:
    """How large a perturbation d of the image may be, d in shares of each channel's robust range.

    Attributes:
        radius: the largest allowed |d|; >= 0, finite.
        norm: linf: the largest |d| of any value. l2: the root of the mean of d**2 over all values of the image
            (channels that are constant left out), so that one radius means the same at every image size, and Gaussian
            noise of that standard deviation has just that norm. The usual l2 norm is this times the root of the number
            of values. A linf ball lies within the l2 ball of the same radius.

    Raises:
        UserError: another norm, or a radius that is none.
    """

    radius: float
    norm: str = "linf"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UserError(f"There is no norm {self.norm!r} for attacks: take {' or '.join(NORMS)}")
        if not (self.radius >= 0 and math.isfinite(self.radius)):
            raise UserError(f"The budget of an attack must be finite and >= 0, got {self.radius}")


class Ball:
    """The perturbations of one image that a budget allows. Images are in units of each channel's robust range.

    Beside the budget, every value stays within its channel's own minimum and maximum, as for all perturbations: the
    image at d is clipped, and d with it, which only makes it smaller.

    Args:
        image: float (C, *spatial).
        budget: of the perturbation.
        region: bool (*spatial), the voxels that may move, and that the l2 norm is a mean over; None: all. What lies
            outside of it in `image` must be within each channel's minimum and maximum inside.

    Attributes:
        norm: the budget's.
        radius: the budget's or, where that is less, the largest norm that clipping leaves: a budget without bounds is
            not to make steps without bounds.
    """

    def __init__(self, image: torch.Tensor, budget: Budget, region: torch.Tensor | None = None) -> None:
        minimum, maximum = (
            bound.view(-1, *[1] * (image.ndim - 1)) for bound in image.detach().flatten(1).aminmax(dim=1)
        )
        self.norm = budget.norm
        self._clean = image
        self._moves = maximum > minimum  # a constant channel has no range
        self._lowest, self._highest = (bound.float() - image.float() for bound in (minimum, maximum))
        self._minimum, self._maximum = minimum, maximum
        self._count = max(1, int(self._moves.sum()) * (image[0].numel() if region is None else int(region.sum())))
        if region is not None:
            self._moves = self._moves & region
            self._lowest, self._highest = self._lowest * region, self._highest * region
        self._region = region
        self.radius = min(budget.radius, float(self._size(torch.maximum(-self._lowest, self._highest))))

    def image(self, change: torch.Tensor) -> torch.Tensor:
        """The image at a perturbation (C, *spatial); where that is 0, the image's own bits."""
        moved = (self._clean + change).to(self._clean.dtype).clamp(self._minimum, self._maximum)
        return torch.where(change == 0, self._clean, moved)

    def nothing(self) -> torch.Tensor:
        """The perturbation that is none."""
        return torch.zeros(self._clean.shape, device=self._clean.device)

    def project(self, change: torch.Tensor) -> torch.Tensor:
        """The perturbation, brought back into the budget, then to where the image is not clipped."""
        if self.norm == "linf":
            change = change.clamp(-self.radius, self.radius)
        else:
            size = self._size(change)
            change = change * torch.where(size > self.radius, self.radius / size, 1.0)
        return change.clamp(self._lowest, self._highest)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """The perturbation of norm 1 that a gradient with respect to the image promises most of; 0 if that is 0."""
        if self._region is not None:
            gradient = gradient * self._region
        if self.norm == "linf":
            return gradient.sign()
        # in units of the largest: squares of small gradients would vanish
        return self._unit(gradient / _positive(gradient.abs().max()))

    def control(self, generator: torch.Generator) -> torch.Tensor:
        """Random noise of the whole budget: its norm is the radius, before values are clipped to their channel's own.

        For linf each value moves by the radius, up or down with equal chances: as far as an attack can move it. For l2
        it is Gaussian.
        """
        noise = self._normal(generator)
        return self.project((noise.sign() if self.norm == "linf" else self._unit(noise)) * self.radius)

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """A random perturbation to begin with: linf uniform in the ball, l2 Gaussian of the whole radius.

        Reference: Madry et al., ICLR 2018, section 4; for l2 AutoAttack's `autopgd_base.py`.
        """
        if self.norm == "linf":
            uniform = torch.rand(self._clean.shape, generator=generator, device=generator.device)
            return self.project((2 * uniform - 1).to(self._clean.device) * self.radius)
        return self.project(self._unit(self._normal(generator)) * self.radius)

    def _normal(self, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(self._clean.shape, generator=generator, device=generator.device)
        return noise.to(self._clean.device) * self._moves

    def _unit(self, change: torch.Tensor) -> torch.Tensor:
        return change / _positive(self._size(change))

    def _size(self, change: torch.Tensor) -> torch.Tensor:
        """The norm of a perturbation, as the budget counts it: (), without waiting for the device."""
        if self.norm == "linf":
            return change.abs().max()
        return (exact_sum(change.square()) / self._count).sqrt()


def _positive(size: torch.Tensor) -> torch.Tensor:
    """A size to divide by: 1 where it is 0."""
    return torch.where(size > 0, size, 1.0)
