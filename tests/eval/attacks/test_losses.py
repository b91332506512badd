"""Losses and weights by hand, and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.losses import (
    WEIGHTINGS,
    Target,
    attack_loss,
    cospgd,
    cross_entropy,
    masked,
    mean_dice,
    predicted,
    segpgd,
    target,
)
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout

CPU = torch.device("cpu")
PLAIN = LabelLayout({"a": 1, "b": 2})
REGIONS = LabelLayout({"whole": (1, 2), "core": 2}, (1, 2))
HEADS = {"plain": PLAIN, "regions": REGIONS}
IGNORE = 3


def case(heads: LabelLayout, seed: int = 0) -> tuple[torch.Tensor, Target]:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (heads.count, 2, 5, 6))).float()
    return logits, target(rng.integers(0, 4, (2, 5, 6)), heads, IGNORE, CPU)


def by_voxel(logits: torch.Tensor, reference: Target) -> list[tuple[tuple[int, ...], float, bool, float]]:
    """Of each question that counts: where, cross-entropy, whether the answer is right, cosine."""
    found = []
    for at in np.ndindex(*logits.shape[1:]):
        label = int(reference.labels[at])
        if label == IGNORE:
            continue
        values = [float(v) for v in logits[(slice(None), *at)]]
        if reference.heads is PLAIN:
            exponentials = [math.exp(v) for v in values]
            p = [e / sum(exponentials) for e in exponentials]
            right = max(range(3), key=lambda k: values[k]) == label
            found.append(((0, *at), -math.log(p[label]), right, p[label] / math.hypot(*p)))
        else:
            for head, labels in enumerate([(1, 2), (2,)]):
                inside = 1 / (1 + math.exp(-values[head]))
                p_answer = inside if label in labels else 1 - inside
                found.append(
                    ((head, *at), -math.log(p_answer), p_answer > 0.5, p_answer / math.hypot(inside, 1 - inside))
                )
    return found


@pytest.mark.parametrize("kind", HEADS)
def test_each_voxel_by_hand(kind: str) -> None:
    logits, reference = case(HEADS[kind])
    losses = cross_entropy(logits, reference)
    weights = {
        "masked": masked(logits, reference, 0.5),
        "segpgd": segpgd(logits, reference, 0.5),
        "cospgd": cospgd(logits, reference, 0.5),
    }
    questions = by_voxel(logits, reference)
    assert {right for *_, right, _ in questions} == {True, False}
    for at, loss, right, cosine in questions:
        assert float(losses[at]) == pytest.approx(loss, rel=1e-4)
        assert float(weights["masked"][at]) == right
        assert float(weights["segpgd"][at]) == (0.75 if right else 0.25)
        assert float(weights["cospgd"][at]) == pytest.approx(cosine, rel=1e-4)
    assert losses.sum().item() == pytest.approx(sum(loss for _, loss, *_ in questions), rel=1e-5)  # ignored: 0
    mean = sum(loss * cosine for _, loss, _, cosine in questions) / len(questions)
    assert attack_loss(logits, reference, cospgd, 0.0).item() == pytest.approx(mean, rel=1e-4)


def test_segpgd_s_schedule() -> None:
    # lambda = (t - 1) / 2T for t = 1 .. T
    logits, reference = case(PLAIN)
    right = masked(logits, reference, 0.0).bool()
    for t, share in zip(range(1, 5), (0, 0.125, 0.25, 0.375), strict=True):
        weights = segpgd(logits, reference, (t - 1) / 4)
        assert torch.equal(weights, torch.where(right, 1 - share, share))
    assert torch.equal(segpgd(logits, reference, 0.0), masked(logits, reference, 0.0))


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_no_gradient_goes_through_weights_or_ignored_voxels(kind: str, name: str) -> None:
    logits, reference = case(HEADS[kind])
    leaf = logits.clone().requires_grad_()
    loss = attack_loss(leaf, reference, WEIGHTINGS[name], 0.25)
    (found,) = torch.autograd.grad(loss, leaf)
    again = logits.clone().requires_grad_()
    weights = WEIGHTINGS[name](logits, reference, 0.25).detach()
    losses = cross_entropy(again, reference)
    (wanted,) = torch.autograd.grad((weights * losses).sum() / len(by_voxel(logits, reference)), again)
    torch.testing.assert_close(found, wanted)
    assert not found[:, ~reference.valid].any()
    assert found.isfinite().all() and found.any()


def test_extreme_logits_stay_finite() -> None:
    for heads in HEADS.values():
        _, reference = case(heads)
        logits = torch.full((heads.count, 2, 5, 6), -300.0)
        logits[0] = 300.0
        for weighting in WEIGHTINGS.values():
            assert attack_loss(logits, reference, weighting, 0.5).isfinite()


@pytest.mark.parametrize("kind", HEADS)
def test_the_label_map_is_that_of_heads(kind: str) -> None:
    logits, _ = case(HEADS[kind], seed=3)
    probabilities = logits.softmax(0) if kind == "plain" else logits.sigmoid()
    assert np.array_equal(predicted(logits, HEADS[kind]).numpy(), HEADS[kind].segment(probabilities.numpy()))


def test_dice_by_hand() -> None:
    labels = np.array([[[0, 1, 1, 2, 3]]])
    logits = torch.full((3, 1, 1, 5), -1.0)
    for voxel, label in enumerate([1, 1, 0, 2, 2]):  # the last is not to count
        logits[label, 0, 0, voxel] = 1.0
    assert mean_dice(logits, target(labels, PLAIN, IGNORE, CPU)) == pytest.approx((2 * 1 / 4 + 1) / 2)
    nothing = target(np.zeros((1, 1, 5), int), PLAIN, None, CPU)
    assert mean_dice(logits, nothing) == 0.0
    logits[0] = 2.0
    assert mean_dice(logits, nothing) == 1.0


def test_nothing_to_attack_is_told() -> None:
    with pytest.raises(UserError, match="every voxel of the reference has the label to be ignored, 3"):
        target(np.full((1, 2, 2), 3), PLAIN, IGNORE, CPU)
