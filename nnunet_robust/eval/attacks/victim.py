"""What an attack asks of a model: how wrong is it on an image, and which way is worse?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from nnunet_robust.eval.attacks.losses import Weighting


class Score(NamedTuple):
    """How wrong a model is on an image, on the grid of its logits, over the voxels that count.

    Attributes:
        dice: mean over structures.
        loss: mean cross-entropy, in nats.
    """

    dice: float
    loss: float

    def worse_than(self, other: Score) -> bool:
        """The lower Dice is worse; of equals, the higher loss."""
        return (self.dice, -self.loss) < (other.dice, -other.loss)


class Best:
    """Keeps the perturbation with the worst score; the first of equals.

    Attributes:
        change: the perturbation (C, *spatial).
        score: of its image.
    """

    change: torch.Tensor
    score: Score | None = None

    def offer(self, change: torch.Tensor, score: Score) -> None:
        """Keep it, if nothing worse is kept."""
        if self.score is None or score.worse_than(self.score):
            self.change, self.score = change, score


class Answer(NamedTuple):
    """The score of an image, and the way up.

    Attributes:
        score: of the image.
        gradient: of the weighted loss with respect to the image, float32 (C, *spatial).
    """

    score: Score
    gradient: torch.Tensor


class Victim(Protocol):
    """A model and the reference of one image. Images are float (C, *spatial), raw unless a class says otherwise."""

    def score(self, image: torch.Tensor) -> Score:
        """How wrong is it there?"""

    def gradient(self, image: torch.Tensor, weighting: Weighting, progress: float) -> Answer:
        """How wrong is it there, and how does `attack_loss` change with the image?"""


class ScaledVictim:
    """A victim of raw images, seen in units of the image's robust range, in which attacks go about.

    Args:
        victim: of raw images.
        raw: from an image (C, *spatial) in these units to the raw one that it stands for.
        span: width of each channel's robust range, (C, 1, ...): one of these units.
    """

    def __init__(self, victim: Victim, raw: Callable[[torch.Tensor], torch.Tensor], span: torch.Tensor) -> None:
        self._victim, self._raw, self._span = victim, raw, span

    def score(self, image: torch.Tensor) -> Score:
        """See `Victim`."""
        return self._victim.score(self._raw(image))

    def gradient(self, image: torch.Tensor, weighting: Weighting, progress: float) -> Answer:
        """See `Victim`."""
        answer = self._victim.gradient(self._raw(image), weighting, progress)
        return Answer(answer.score, answer.gradient.to(image.device) * self._span)
