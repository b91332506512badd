"""Where an image without a label lies among those that a sweep measured: on which curve, at which level, how far off.

A point is one case under one condition: what was measured of the image (`inputs.csv`), and every trained model's score
for it (`results.csv`). The points of a case under one perturbation, from the clean image to the highest level, make a
curve; between two levels both the measurements and the scores are taken as linear, as for the level at which two
architectures' curves cross.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.statistics import CLEAN

NEIGHBOURS = 20
"""Patients of the sweep that an answer for an image is drawn from: the nearest ones, or all where there are fewer."""

INSIDE_PERCENTILE = 99.0
"""Of the sweep's own distances, each image's to the other patients' curves: what is further off was not measured."""

_POINTS_AT_MOST = 1000  # whose distances make the percentile
_VALUES_AT_ONCE = 1 << 22  # of the differences of points and curves in memory


def _decades(floor: float) -> Callable[[np.ndarray], np.ndarray]:
    """log10 of what is at least `floor`: below, differences mean nothing."""
    return lambda values: np.log10(np.maximum(values, floor))


# What distances are measured in, before it is standardised. Ratios of noise matter, and of what blur has left over.
_SCALES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise_sigma": _decades(3e-3),  # rounding to 8 bits alone makes 0.001 to 0.002
    "blur": lambda values: -np.log10(np.maximum(1 - values, 1e-2)),
    "texture_divergence_bits": lambda values: values,
    "foreground_ratio": _decades(1e-4),
}
IMAGE_FEATURES = ("noise_sigma", "blur")
"""Measured of the image alone."""
MASK_FEATURES = ("texture_divergence_bits", "foreground_ratio")
"""These need a mask: the label in the sweep, a model's prediction in a new image."""


@dataclass(frozen=True)
class Place:
    """The place of an image among those of a sweep.

    Attributes:
        distance: to the nearest curve, in standard deviations of what was measured over the whole sweep.
        limit: the distance beyond which nothing like it was measured.
        scores: a row for each of the nearest patients (their names are the index), a column for each kind of score: the
            mean over the patient's cases of the score at the place of their curves that is nearest to the image.
        levels: for each perturbation by rising distance: `perturbation, level, low, high, distance`, the medians and
            the quartiles of the level over those patients, at the place of the perturbation's curves nearest to the
            image. Series are no perturbations of the clean images and are not among them.
    """

    distance: float
    limit: float
    scores: pd.DataFrame
    levels: pd.DataFrame

    @property
    def inside(self) -> bool:
        """Whether the sweep has measured images like it."""
        return self.distance <= self.limit


class Curves:
    """The curves of a sweep.

    Args:
        points: a row per patient, case, perturbation, level and replicate (columns of these names), the clean image as
            perturbation "clean", level 0; what was measured of it, and its scores. Rows without a number are left out.
        features: columns that say where an image lies, keys of `noise_sigma, blur, texture_divergence_bits,
            foreground_ratio`.
        scores: columns that say how well it was segmented.
        series: perturbations whose levels are test sets of their own: their points make no curve.

    Raises:
        UserError: fewer than two patients.
    """

    def __init__(
        self, points: pd.DataFrame, features: Sequence[str], scores: Sequence[str], series: frozenset[str] = frozenset()
    ) -> None:
        points = points.dropna(subset=[*features, *scores])
        if points["patient"].nunique() < 2:
            raise UserError(
                f"the sweep has {points['patient'].nunique()} patients with {', '.join(features)} measured and all "
                f"models' predictions: two are the least that images can be placed among"
            )
        self._features, self._scores = tuple(features), list(scores)
        raw = _scaled(points, features)
        self._centre, spread = raw.mean(axis=0), raw.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        self._points = (raw - self._centre) / self._spread
        self._patients = points["patient"].to_numpy(str)
        self._conditions = points.groupby(["perturbation", "level"], sort=False).ngroup().to_numpy()
        first, second, curve = _segments(points.reset_index(drop=True), series)
        self._first, self._second = first, second
        columns = [points[name].to_numpy(float)[[first, second]] for name in ("level", *scores)]
        self._levels, self._values = columns[0], np.stack(columns[1:], axis=-1)
        self._curve = (
            points.iloc[second][["patient", "case", "perturbation"]].reset_index(drop=True).assign(curve=curve)
        )
        self._is_level = ~self._curve["perturbation"].isin([*series, CLEAN]).to_numpy()

    def place(self, features: Mapping[str, float]) -> Place:
        """Place one image.

        Args:
            features: what was measured of it, finite, by the names that the curves were made with.
        """
        raw = _scaled({name: np.array([features[name]]) for name in self._features}, self._features)
        ends = self._points[self._first], self._points[self._second]
        share, distance = (found[0] for found in _project((raw - self._centre) / self._spread, *ends))
        level = self._levels[0] + share * (self._levels[1] - self._levels[0])
        values = self._values[0] + share[:, None] * (self._values[1] - self._values[0])
        found = self._curve.assign(distance=distance, level=level)
        by_patient = found.groupby("patient")["distance"].min().sort_values(kind="stable")
        patients = by_patient.index[:NEIGHBOURS]
        near = found[found["patient"].isin(patients)]
        nearest = near.loc[near.groupby(["patient", "case"])["distance"].idxmin()]
        scores = pd.DataFrame(values[nearest.index], columns=self._scores, index=nearest["patient"])
        return Place(
            float(distance.min()), self.limit, scores.groupby(level=0).mean(), _levels(near[self._is_level[near.index]])
        )

    @cached_property
    def limit(self) -> float:
        """The `INSIDE_PERCENTILE` of the distances of the sweep's images to the nearest curve of another patient.

        As if the image's own condition had not been run: between its neighbouring levels the curves then are straight,
        as they are between the levels that there are. (The highest level and the clean image, at the ends, stay.)
        """
        skipping = _skipping(self._first, self._second)
        first, second = (np.concatenate(ends) for ends in zip((self._first, self._second), skipping[:2], strict=True))
        skipped = np.concatenate([np.full(len(self._first), -1), self._conditions[skipping[2]]])
        inner = np.unique(skipped[len(self._first) :])
        count = min(_POINTS_AT_MOST, len(self._points))
        chosen = np.linspace(0, len(self._points) - 1, count).round().astype(int)
        at_once = max(1, _VALUES_AT_ONCE // (len(first) * len(self._features)))
        found = []
        for begin in range(0, count, at_once):
            block = chosen[begin : begin + at_once]
            condition = self._conditions[block][:, None]
            distance = _project(self._points[block], self._points[first], self._points[second])[1]
            touches = (self._conditions[first] == condition) | (self._conditions[second] == condition)
            there = np.where(skipped < 0, ~(touches & np.isin(condition, inner)), skipped == condition)
            other = self._patients[first] != self._patients[block][:, None]
            found.append(np.where(there & other, distance, math.inf).min(axis=1))
        distances = np.concatenate(found)
        return float(np.percentile(distances[np.isfinite(distances)], INSIDE_PERCENTILE))


def _scaled(columns: Mapping[str, np.ndarray] | pd.DataFrame, features: Sequence[str]) -> np.ndarray:
    return np.stack([_SCALES[name](np.asarray(columns[name], float)) for name in features], axis=1)


def _project(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, features) onto segments, (segments, features) each end.

    Returns:
        The place on each segment, 0 at its start and 1 at its end, and the distance to it; both (n, segments).
    """
    away, step = points[:, None] - start, end - start
    length = (step**2).sum(axis=1)
    along = np.einsum("nsf,sf->ns", away, step) / np.where(length > 0, length, 1.0)
    share = np.clip(along, 0.0, 1.0)
    return share, np.sqrt(((away - share[:, :, None] * step) ** 2).sum(axis=2))


def _skipping(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The segments that replace two where a point between them is left out: starts, ends, and the points left out."""
    after: dict[int, list[int]] = {}
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        if a != b:
            after.setdefault(a, []).append(b)
    found = [(a, c, b) for a, following in after.items() for b in following for c in after.get(b, ())]
    starts, ends, left_out = np.array(found, dtype=int).reshape(-1, 3).T
    return starts, ends, left_out


def _segments(points: pd.DataFrame, series: frozenset[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which points are joined: positions of the starts and ends, and the number of the curve."""
    clean = {case: at for at, case in points.loc[points["perturbation"] == CLEAN, "case"].items()}
    joined: list[tuple[int, int, int]] = []
    for number, ((case, name, _), rows) in enumerate(points.groupby(["case", "perturbation", "replicate"], sort=False)):
        at = rows.sort_values("level", kind="stable").index.tolist()
        if name == CLEAN or name in series:
            joined += [(k, k, number) for k in at]
        else:
            at = [clean[case], *at] if case in clean else at
            joined += [(a, b, number) for a, b in pairwise(at)] or [(at[0], at[0], number)]
    first, second, curve = np.array(joined).T
    return first, second, curve


def _levels(near: pd.DataFrame) -> pd.DataFrame:
    """See `Place.levels`: of each curve its nearest place, then over curves."""
    columns = ["perturbation", "level", "low", "high", "distance"]
    if near.empty:
        return pd.DataFrame(columns=columns)
    of_curve = near.loc[near.groupby("curve")["distance"].idxmin()].groupby("perturbation")
    quartiles = of_curve["level"].quantile([0.25, 0.5, 0.75]).unstack()
    table = pd.DataFrame(
        {
            "level": quartiles[0.5],
            "low": quartiles[0.25],
            "high": quartiles[0.75],
            "distance": of_curve["distance"].median(),
        }
    )
    return table.sort_values("distance", kind="stable").reset_index()[columns]
