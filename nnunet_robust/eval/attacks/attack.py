"""Attacks: an image, perturbed within a budget so that a model segments it as wrongly as it can be made to.

One perturbation of the whole volume; the tiles of the sliding window see the same one. All but FGSM return the worst of
the images that they came by: the lowest mean Dice on the grid of the logits and, of equals, the highest cross-entropy.
PGD, CosPGD and the worst case go the same way whatever the number of steps, so that with the same generator more steps
are never weaker; SegPGD's weights depend on that number, so that for it this is not promised.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import NamedTuple

import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.apgd import ascend
from nnunet_robust.eval.attacks.budget import Ball, Budget
from nnunet_robust.eval.attacks.losses import Weighting, cospgd, masked, plain, segpgd
from nnunet_robust.eval.attacks.victim import Best, Victim

Run = Callable[[Victim, Ball, int, torch.Generator], torch.Tensor]
"""(victim, ball, steps, generator) -> a perturbation in the ball."""


class Attack(NamedTuple):
    """A row of the table of attacks; for each norm, `rows.attack_row` makes a row of the table of perturbations of it.

    Attributes:
        run: finds the perturbation.
        display_name: the name in sentences and titles, as the field writes it.
        reference: where its definition comes from.
        single_step: whether it takes one step, whatever number is asked for, and draws nothing at random.
        in_preset: whether it is one of the preset "attacks".
    """

    run: Run
    display_name: str
    reference: str
    single_step: bool = False
    in_preset: bool = False


_STEP = 0.25  # of the radius: the 2/255 in 8/255 of Madry et al.


def attack(
    name: str,
    victim: Victim,
    image: torch.Tensor,
    budget: Budget,
    steps: int,
    generator: torch.Generator,
    region: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attack one image.

    Args:
        name: of `ATTACKS`.
        victim: the model and the reference of the image, of images like this one.
        image: float (C, *spatial) in units of each channel's robust range; not modified.
        budget: of the perturbation; 0 gives the image, bit for bit.
        steps: >= 1; of each of the attacks that the worst case is made of. FGSM has one, whatever is asked for.
        generator: the source of randomness, freshly made: the worst case draws the noise of `random_control` from it,
            and chooses from that very image too.
        region: bool (*spatial), the voxels that may move, see `Ball`; None: all.

    Returns:
        The perturbed image, with the shape and dtype of `image`; each channel within its own minimum and maximum.

    Raises:
        UserError: an unknown name, or steps < 1.
    """
    if name not in ATTACKS:
        nearest = difflib.get_close_matches(name, ATTACKS, n=1)
        hint = f"Did you mean '{nearest[0]}'? " if nearest else ""
        raise UserError(f"There is no attack '{name}'. {hint}Choose from: {', '.join(ATTACKS)}")
    if steps < 1:
        raise UserError(f"An attack takes at least one step, got {steps}")
    if budget.radius == 0:
        return image.clone()
    ball = Ball(image, budget, region)
    return ball.image(ATTACKS[name].run(victim, ball, steps, generator))


def random_control(
    image: torch.Tensor, budget: Budget, generator: torch.Generator, region: torch.Tensor | None = None
) -> torch.Tensor:
    """What every attack is to be compared with: random noise of the same budget; see `Ball.control`.

    Args:
        image: float (C, *spatial) in units of each channel's robust range; not modified.
        budget: of the noise; 0 gives the image, bit for bit.
        generator: the source of randomness, freshly made: a radius then only scales the noise.
        region: bool (*spatial), the voxels that may move, see `Ball`; None: all.

    Returns:
        The perturbed image, with the shape and dtype of `image`.
    """
    if budget.radius == 0:
        return image.clone()
    ball = Ball(image, budget, region)
    return ball.image(ball.control(generator))


def fgsm(victim: Victim, ball: Ball, steps: int, generator: torch.Generator) -> torch.Tensor:
    """One step of the whole budget from the clean image: linf along the gradient's signs, l2 along the gradient.

    Reference: Goodfellow, Shlens and Szegedy, ICLR 2015, arXiv 1412.6572.
    """
    nothing = ball.nothing()
    direction = ball.direction(victim.gradient(ball.image(nothing), plain, 0.0).gradient)
    return ball.project(ball.radius * direction)


def worst_case(victim: Victim, ball: Ball, steps: int, generator: torch.Generator) -> torch.Tensor:
    """The worst of the random control, PGD, CosPGD, and APGD on three losses: `plain`, `masked` and `cospgd` weights.

    With a generator in the same state it is never weaker than `random_control`, PGD or CosPGD of as many steps, because
    it chooses from their images too. APGD starts where they do; its step sizes need more steps to settle than theirs,
    which are fixed. The time is that of five attacks.

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, arXiv 2003.01690; the best of several losses for segmentation as in Croce, Singh
    and Hein, ECCV 2024, arXiv 2306.12941 (with other losses than theirs, the masked one excepted).
    """
    best = Best()
    state = generator.get_state()
    control = ball.control(generator)
    best.offer(control, victim.score(ball.image(control)))
    generator.set_state(state)  # the start is then that of the other attacks
    start = ball.start(generator)
    for weighting in (plain, cospgd):
        _project(victim, ball, weighting, steps, start, best)
    for weighting in (plain, masked, cospgd):
        ascend(victim, ball, weighting, steps, start, best)
    return best.change


def _project(victim: Victim, ball: Ball, weighting: Weighting, steps: int, change: torch.Tensor, best: Best) -> None:
    """Projected gradient ascent in steps of a quarter of the radius."""
    for step in range(steps):
        answer = victim.gradient(ball.image(change), weighting, step / steps)
        best.offer(change, answer.score)
        change = ball.project(change + _STEP * ball.radius * ball.direction(answer.gradient))
    best.offer(change, victim.score(ball.image(change)))


def _projected(weighting: Weighting) -> Run:
    """`_project` from a random start; the best so far."""

    def run(victim: Victim, ball: Ball, steps: int, generator: torch.Generator) -> torch.Tensor:
        """Projected gradient ascent from a random start, by steps of a quarter of the budget; the worst on the way."""
        best = Best()
        _project(victim, ball, weighting, steps, ball.start(generator), best)
        return best.change

    return run


ATTACKS = {
    "fgsm": Attack(fgsm, "FGSM", "Goodfellow et al. 2015, arXiv 1412.6572", single_step=True),
    "pgd": Attack(_projected(plain), "PGD", "Madry et al. 2018, arXiv 1706.06083"),
    "segpgd": Attack(_projected(segpgd), "SegPGD", "Gu et al. 2022, arXiv 2207.12391"),
    "cospgd": Attack(_projected(cospgd), "CosPGD", "Agnihotri et al. 2024, arXiv 2302.02213"),
    "worst_case": Attack(
        worst_case,
        "worst case",
        "worst of PGD, CosPGD and APGD: Croce and Hein 2020, arXiv 2003.01690; Croce et al. 2024",
        in_preset=True,
    ),
}
