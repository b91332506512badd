"""The worst perturbation that an attack has come by."""

from __future__ import annotations

import torch

from nnunet_robust.eval.attacks.victim import Score


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
