"""Auto-PGD: gradient ascent with momentum that chooses its own step sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nnunet_robust.eval.attacks.budget import Ball
from nnunet_robust.eval.attacks.losses import Weighting
from nnunet_robust.eval.attacks.victim import Best, Victim

_FIRST_ROUND = 10  # steps
_MOMENTUM = 0.75  # alpha
_ENOUGH = 0.75  # rho: the share of steps that must have gone up
_FIRST_CHECKPOINT, _SOONER, _SHORTEST = 0.22, 0.03, 0.06  # shares of the steps: p_1 and the distances of the others


@dataclass(frozen=True)
class _Point:
    change: torch.Tensor
    loss: float
    gradient: torch.Tensor


def ascend(victim: Victim, ball: Ball, weighting: Weighting, steps: int, start: torch.Tensor, best: Best) -> None:
    """Auto-PGD in rounds of 10, 20, 40, ... steps, each from the best point so far, until there were `steps` steps.

    A round is algorithm 1 of the paper: steps of size eta along `Ball.direction` with momentum 0.75; eta is 2 radii at
    first. At each checkpoint one looks back to the one before: where fewer than 75 % of the steps went up, or neither
    eta nor the best loss has changed, eta is halved and one goes back to the best point. The checkpoints are those of
    the round's planned number of steps, so that a run with more steps continues one with fewer.

    Whether a step went up, and what is best within a round, is told by the plain cross-entropy, whatever the voxel
    weights that the gradient was taken with: their loss falls as voxels are won.

    Args:
        victim: to attack.
        ball: of the perturbations.
        weighting: of voxels in the loss; must not depend on progress.
        steps: gradients taken beside that of the start.
        start: a perturbation in the ball.
        best: told of every point.

    Reference: Croce and Hein, ICML 2020, arXiv 2003.01690, section 3; the rounding of checkpoints as in AutoAttack's
    `autopgd_base.py`.
    """

    def visit(change: torch.Tensor) -> _Point:
        answer = victim.gradient(ball.image(change), weighting, 0.0)
        best.offer(change, answer.score)
        return _Point(change, answer.score.loss, answer.gradient)

    top = visit(start)
    planned = _FIRST_ROUND
    while steps > 0:
        here, before = top, top.change
        size = 2 * ball.radius
        until_check = max(int(_FIRST_CHECKPOINT * planned), 1)
        rises, taken, halved, top_at_check = 0, 0, True, top.loss
        for step in range(min(planned, steps)):
            ahead = ball.project(here.change + size * ball.direction(here.gradient))
            new_share = _MOMENTUM if step else 1.0
            moved = here.change + new_share * (ahead - here.change) + (1 - new_share) * (here.change - before)
            before = here.change
            new = visit(ball.project(moved))
            rises, taken = rises + (new.loss > here.loss), taken + 1
            here = new
            if new.loss > top.loss:
                top = new
            if taken == until_check:
                stuck = rises < _ENOUGH * taken or (not halved and top.loss <= top_at_check)
                if stuck:
                    size, here = size / 2, top
                rises, taken, halved, top_at_check = 0, 0, stuck, top.loss
                until_check = max(until_check - max(int(_SOONER * planned), 1), int(_SHORTEST * planned), 1)
        steps -= planned
        planned *= 2
