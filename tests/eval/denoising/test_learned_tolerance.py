"""How much noise a model bears: against the definition of isotonic regression, and on cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_robust.eval.denoising.learned_tolerance import tolerated_noise


def isotonic(noise: np.ndarray, losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """max over a <= i of min over b >= i of the weighted mean of a..b (Barlow et al. 1972), for distinct noise."""
    order = np.argsort(noise)
    y, w = losses[order], weights[order]
    n = len(y)
    mean = lambda a, b: np.average(y[a : b + 1], weights=w[a : b + 1])  # noqa: E731
    fit = [max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]
    return np.array(fit)[np.argsort(order)]


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_that_of_an_isotonic_fit_with_patients_of_equal_weight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0, 0.3, 40)
    losses = 0.5 * np.clip(noise - 0.1, 0, None) + rng.normal(0, 0.02, 40)
    patients = rng.choice(list("abcdef"), 40, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    weights = np.array([1 / (patients == p).sum() for p in patients])
    fit = isotonic(noise, losses, weights)
    clean = noise <= np.sort(noise)[2]
    threshold, outcome = tolerated_noise(noise, losses, patients.tolist(), clean)
    assert outcome == "within" and threshold == noise[fit <= 0.01].max()
    assert tolerated_noise(noise, losses, patients.tolist(), clean, margin=0.03)[0] == noise[fit <= 0.03].max()


def cases(losses_at: dict[float, float], clean_noise: float = 0.02) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Six patients with a clean image each, and one at each noise, all with that loss."""
    noise = np.array([*[clean_noise] * 6, *[n for n in losses_at for _ in range(6)]])
    losses = np.array([*[0.0] * 6, *[loss for loss in losses_at.values() for _ in range(6)]])
    return noise, losses, [f"p{i}" for i in range(6)] * (1 + len(losses_at))


def test_the_three_outcomes() -> None:
    clean = np.arange(24) < 6
    noise, losses, patients = cases({0.05: 0.005, 0.1: 0.02, 0.2: 0.5})
    assert tolerated_noise(noise, losses, patients, clean) == (0.05, "within")
    noise, losses, patients = cases({0.05: 0.0, 0.1: -0.02, 0.2: 0.009})
    assert tolerated_noise(noise, losses, patients, clean) == (0.2, "all")
    noise, losses, patients = cases({0.05: 0.05, 0.1: 0.2, 0.2: 0.5})
    assert tolerated_noise(noise, losses, patients, clean) == (0.02, "clean")


def test_a_lucky_level_between_bad_ones_does_not_raise_the_threshold() -> None:
    noise, losses, patients = cases({0.05: 0.2, 0.1: -0.01, 0.2: 0.5})
    assert tolerated_noise(noise, losses, patients, np.arange(24) < 6) == (0.02, "clean")


def test_clean_images_are_left_alone_even_where_some_look_noisy() -> None:
    noise, losses, patients = cases({0.05: 0.2, 0.1: 0.3})
    noise[5] = 0.08  # fine texture: noisier by the estimate than what the model does not bear
    threshold, outcome = tolerated_noise(noise, losses, patients, np.arange(18) < 6)
    assert outcome == "clean" and threshold == pytest.approx(np.percentile([0.02] * 5 + [0.08], 95))
