"""Which architecture is the best for images like these, and how surely: a bootstrap over patients, paired."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from nnunet_robust.eval.statistics import N_RESAMPLES, NO_DIFFERENCE, bca_intervals, resampled_means

_ROUNDING = 1e-12  # of means that are equal


@dataclass(frozen=True)
class Verdict:
    """What the sweep says of images like these.

    Attributes:
        answer: the architecture with the highest mean Dice, or `NO_DIFFERENCE`: all are within the margin of it.
        confidence: share of bootstraps over patients in which the answer's mean is within the margin of the best (for
            `NO_DIFFERENCE`: those of all architectures are).
        equivalent: the other architectures whose means are within the margin of the highest.
        expected: architecture -> `mean, low, high` of its Dice at such images (95 % BCa bootstrap interval over
            patients), and `share`, of bootstraps in which it is within the margin of the best.
        patients: of the sweep, that it rests on.
        resamples: number of bootstraps.
    """

    answer: str
    confidence: float
    equivalent: tuple[str, ...]
    expected: dict[str, dict[str, float]]
    patients: int
    resamples: int


def decide(scores: pd.DataFrame, margin: float, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Verdict:
    """Which architecture has the highest mean, and how surely.

    Args:
        scores: a row per patient, a column per architecture, no gaps.
        margin: difference that matters.
        n_resamples: number of bootstrap samples, over patients; every architecture sees the same ones.
        seed: of the bootstrap.
    """
    values = scores.to_numpy(float)
    means = values.mean(axis=0)
    resampled = resampled_means(values, n_resamples, seed).T
    within = resampled.max(axis=1, keepdims=True) - resampled <= margin + _ROUNDING
    level = means.max() - means <= margin + _ROUNDING
    best = int(means.argmax())
    names = [str(name) for name in scores.columns]
    columns = zip(means, *bca_intervals(values, n_resamples, seed=seed), within.mean(axis=0), strict=True)
    expected = {
        name: dict(zip(("mean", "low", "high", "share"), map(float, column), strict=True))
        for name, column in zip(names, columns, strict=True)
    }
    alike = bool(level.all())
    return Verdict(
        answer=NO_DIFFERENCE if alike else names[best],
        confidence=float(within.all(axis=1).mean() if alike else within[:, best].mean()),
        equivalent=tuple(name for i, name in enumerate(names) if level[i] and (alike or i != best)),
        expected=expected,
        patients=len(values),
        resamples=n_resamples,
    )
