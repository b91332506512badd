"""Experts' agreement by hand and against scikit-learn, statsmodels and SimpleITK; experts of known reliability."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from sklearn.metrics import f1_score

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.uncertainty import expert_variability
from nnunet_robust.eval.uncertainty.expert_variability import (
    expert_agreement,
    majority,
    staple,
)

STRUCTURES = {"whole": (1, 2), "core": 2}


def _maps(n: int, seed: int = 0, shape: tuple[int, ...] = (5, 8, 9), labels: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, shape)
    return {
        f"expert {i}": np.where(rng.random(shape) < 0.3, rng.integers(0, labels, shape), truth).astype(np.uint8)
        for i in range(n)
    }


def test_agreement_is_that_of_each_pair() -> None:
    experts, prediction = _maps(4), _maps(1, seed=9)["expert 0"]
    found = expert_agreement(experts, STRUCTURES, prediction)
    for name, labels in STRUCTURES.items():
        masks = [np.isin(m, labels).ravel() for m in experts.values()]
        agreement = found[name]
        pairs = {(i, j): f1_score(masks[i], masks[j]) for i in range(4) for j in range(4) if i != j}
        assert agreement.mean_pairwise == pytest.approx(np.mean(list(pairs.values())))
        assert agreement.pairwise[0, 3] == pytest.approx(pairs[0, 3])
        both = sum((masks[i] & masks[j]).sum() for i, j in pairs)
        assert agreement.generalised == pytest.approx(2 * both / sum(masks[i].sum() + masks[j].sum() for i, j in pairs))
        for i, expert in enumerate(experts):
            assert agreement.each[expert] == pytest.approx(np.mean([pairs[i, j] for j in range(4) if j != i]))
            assert agreement.model[expert] == pytest.approx(f1_score(masks[i], np.isin(prediction, labels).ravel()))
        assert agreement.model_mean == pytest.approx(np.mean(list(agreement.model.values())))
    alone = expert_agreement(experts, STRUCTURES)["core"]
    assert alone.model == {}
    assert math.isnan(alone.model_mean)
    assert (alone.pairwise == found["core"].pairwise).all()


def test_a_model_that_is_one_of_the_experts_agrees_as_that_expert_does() -> None:
    experts = _maps(3)
    agreement = expert_agreement(experts, STRUCTURES, experts["expert 1"])["core"]
    assert agreement.model["expert 1"] == 1
    others = [agreement.model["expert 0"], agreement.model["expert 2"]]
    assert agreement.each["expert 1"] == pytest.approx(np.mean(others))


def test_agreement_on_nothing_is_agreement() -> None:
    empty = np.zeros((4, 4), np.uint8)
    nobody = expert_agreement({"a": empty, "b": empty}, {"core": 2}, empty)["core"]
    assert (nobody.mean_pairwise, nobody.generalised, nobody.model_mean) == (1, 1, 1)
    one = expert_agreement({"a": empty, "b": empty + 2}, {"core": 2})["core"]
    assert (one.mean_pairwise, one.generalised) == (0, 0)


def test_majority_by_hand_and_with_an_odd_number_of_experts_by_simpleitk(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = (np.array(m, np.uint8) for m in ([0, 1, 2, 1, 0], [0, 1, 1, 2, 5], [1, 1, 2, 0, 5]))
    assert majority({"a": a, "b": b, "c": c}).tolist() == [0, 1, 2, 0, 5]
    assert majority({"a": a, "b": b}).tolist() == [0, 1, 1, 1, 0]  # of equals the lowest
    monkeypatch.setattr(expert_variability, "_VOXELS_AT_ONCE", 50)
    experts = _maps(5, labels=2)
    voted = sitk.LabelVoting([sitk.GetImageFromArray(m) for m in experts.values()], 9)
    found = majority(experts)
    assert (found == sitk.GetArrayFromImage(voted)).all()
    assert found.dtype == np.uint8


def _drawn(truth: np.ndarray, rates: list[float], seed: int = 0) -> dict[str, np.ndarray]:
    """Experts who get each voxel right at these rates."""
    rng = np.random.default_rng(seed)
    highest = int(truth.max())
    return {
        str(i): np.where(
            rng.random(truth.shape) < rate, truth, (truth + rng.integers(1, highest + 1, truth.shape)) % (highest + 1)
        ).astype(np.uint8)
        for i, rate in enumerate(rates)
    }


@pytest.mark.parametrize("labels", [2, 3])
def test_staple_finds_out_whom_to_trust(labels: int) -> None:
    y, x = np.mgrid[:60, :60]
    truth = (((y - 30) ** 2 + (x - 30) ** 2 < 20**2).astype(int) + (y + x < 60)) % labels
    experts = _drawn(truth, [0.95, 0.6, 0.6])
    wrong = {"staple": (staple(experts) != truth).mean(), "majority": (majority(experts) != truth).mean()}
    assert wrong["staple"] < 0.06 < 0.1 < wrong["majority"]


def test_staple_of_two_labels_is_the_binary_one() -> None:
    _, x = np.mgrid[:40, :50]
    experts = _drawn((x < 30).astype(int), [0.9, 0.8, 0.7, 0.85])
    binary = sitk.STAPLE([sitk.GetImageFromArray(m) for m in experts.values()], 1.0, 1.0)
    assert (staple(experts) == (sitk.GetArrayFromImage(binary) > 0.5)).mean() > 0.999


def test_staple_looks_at_the_box_of_what_was_drawn() -> None:
    y, x = np.mgrid[:30, :30]
    disc = ((y - 15) ** 2 + (x - 15) ** 2 < 80).astype(np.uint8)
    experts = {"a": disc, "b": np.roll(disc, 2, axis=0), "c": np.roll(disc, 2, axis=1)}
    wide = {name: np.pad(m, ((10, 40), (5, 60))) for name, m in experts.items()}
    found, in_wide = staple(experts), staple(wide)
    assert (in_wide[10:40, 5:35] == found).all()
    assert in_wide.sum() == found.sum()


def test_staple_of_nothing_and_of_equals() -> None:
    square = np.zeros((4, 9, 9), np.int16)
    square[1:3, 2:6, 3:7] = 2
    assert (staple({"a": square, "b": square}) == square).all()
    assert staple({"a": square, "b": square}).dtype == np.int16
    assert not staple({"a": square * 0, "b": square * 0}).any()
    assert set(np.unique(staple({"a": square, "b": square * 0}))) <= {0, 2}
    with pytest.raises(UserError, match="0 to 300"):
        staple({"a": square * 150, "b": square})


def test_a_single_expert_is_refused() -> None:
    one = {"a": np.zeros((2, 2), np.uint8)}
    for function in (staple, lambda maps: expert_agreement(maps, STRUCTURES)):
        with pytest.raises(UserError, match="at least two experts, got 1: a"):
            function(one)
    with pytest.raises(UserError, match=r"\(2, 2\) and \(2, 3\)"):
        expert_agreement({**one, "b": np.zeros((2, 3), np.uint8)}, STRUCTURES)
