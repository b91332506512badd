"""Which architecture is the best for images like these, by a paired bootstrap over patients."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from nnunet_robust.eval.statistics import N_RESAMPLES, bca_intervals, choose


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
        patients: number of the sweep's patients that it rests on.
        resamples: number of bootstraps.
    """

    answer: str
    confidence: float
    equivalent: tuple[str, ...]
    expected: dict[str, dict[str, float]]
    patients: int
    resamples: int


def decide(scores: pd.DataFrame, margin: float, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Verdict:
    """Choose the architecture with the highest mean, and the share of bootstraps that agree.

    Args:
        scores: a row per patient, a column per architecture, no gaps.
        margin: difference that matters.
        n_resamples: number of bootstrap samples, over patients; every architecture sees the same ones.
        seed: of the bootstrap.
    """
    values, names = scores.to_numpy(float), [str(name) for name in scores.columns]
    choice = choose(values, names, margin, n_resamples, seed)
    columns = zip(values.mean(axis=0), *bca_intervals(values, n_resamples, seed=seed), choice.shares, strict=True)
    return Verdict(
        answer=choice.verdict,
        confidence=choice.agreement,
        equivalent=choice.equivalent,
        expected={
            name: dict(zip(("mean", "low", "high", "share"), map(float, column), strict=True))
            for name, column in zip(names, columns, strict=True)
        },
        patients=len(values),
        resamples=n_resamples,
    )
