"""Do voxels' probabilities mean what they say? Calibration under every condition, from `reliability.csv`.

Counted are the voxels within 3 mm of reference and prediction; those of all images are added up, so that large
structures weigh more. What is measured of each trained model of an architecture is averaged over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_robust.eval.report.ranking import hardest
from nnunet_robust.eval.report.read import Sweep
from nnunet_robust.eval.statistics.patient_bootstrap import Estimate, estimates
from nnunet_robust.eval.uncertainty.reliability import CONFIDENCE_ROW, N_BINS
from nnunet_robust.eval.uncertainty.uncertainty import BAND_MM

REGION = f"voxels within {BAND_MM:g} mm of reference or prediction"
CONFIDENCE_LABEL = "the label that is called"
_CONDITION = ["dataset", "perturbation", "level", "architecture", "label"]
_IMAGE = ["patient", "case", "replicate"]
_ERRORS = [
    "dataset", "perturbation", "level", "line", "label", "mean", "low", "high", "gap", "gap_low", "gap_high",
    "n_voxels", "n_cases", "n_patients", "n_trained",
]  # fmt: skip
_DIAGRAMS = [
    "dataset", "perturbation", "level", "line", "x", "mean", "low", "high", "n_voxels", "n_cases", "n_patients",
]  # fmt: skip


class _Bins(NamedTuple):
    """One architecture's bins under one condition, of one row.

    Attributes:
        condition: of `_CONDITION`.
        counts, sums, hits: (trained models, images, bins).
        patients: (images,).
    """

    condition: tuple[str, str, float, str, str]
    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    hits: NDArray[np.float64]
    patients: list[str]


def _bins(tables: Sequence[pd.DataFrame]) -> Iterator[_Bins]:
    for table in tables:
        for condition, part in table.groupby(_CONDITION, sort=False):
            ordered = part.sort_values(["line", *_IMAGE], kind="stable")
            n_trained = ordered["line"].nunique()
            if len(ordered) % n_trained:
                continue  # reliability.csv is not finished
            counts, sums, hits = (
                ordered[[f"{name}_{i}" for i in range(N_BINS)]].to_numpy(float).reshape(n_trained, -1, N_BINS)
                for name in ("n", "p", "hits")
            )
            patients = list(ordered["patient"])[: counts.shape[1]]
            yield _Bins(condition, counts, sums, hits, patients)  # type: ignore[arg-type]


def calibration(sweeps: Sequence[Sweep]) -> pd.DataFrame:
    """The expected calibration error of each architecture under each condition.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), label (`CONFIDENCE_ROW` for the label that is
        called, or a structure), mean (the error, see `ReliabilityBins.errors`), low, high (its bootstrap interval over
        patients), gap, gap_low, gap_high (mean probability less share of hits: above 0, probabilities are too high),
        n_voxels, n_cases (images), n_patients, n_trained. Empty where no sweep counted voxels.
    """
    found: list[dict[str, Any]] = []
    known: dict[tuple[bytes, ...], list[Estimate]] = {}  # clean images are level 0 of every perturbation
    for bins in _bins([sweep.reliability for sweep in sweeps if sweep.reliability is not None]):
        n = bins.counts.sum(axis=2)
        gaps = bins.sums - bins.hits

        def errors(
            weights: NDArray[np.float64], n: NDArray[np.float64] = n, gaps: NDArray[np.float64] = gaps
        ) -> NDArray[np.float64]:
            per_model = []
            for of_model, totals in zip(gaps, n, strict=True):
                summed = weights @ of_model
                voxels = weights @ totals
                both = np.stack([np.abs(summed).sum(axis=1), summed.sum(axis=1)])
                per_model.append(np.where(voxels > 0, both / np.maximum(voxels, 1), np.nan))
            means: NDArray[np.float64] = np.mean(per_model, axis=0)
            return means

        key = (bins.counts.tobytes(), bins.sums.tobytes(), bins.hits.tobytes(), "\n".join(bins.patients).encode())
        if key not in known:
            known[key] = estimates(errors, bins.patients)
        error, gap = known[key]
        place = dict(zip(_ERRORS, bins.condition, strict=False))
        counts = {
            "n_voxels": int(n.sum()),
            "n_cases": n.shape[1],
            "n_patients": len(set(bins.patients)),
            "n_trained": len(n),
        }
        numbers = {"mean": error.value, "low": error.low, "high": error.high}
        found.append({**place, **numbers, "gap": gap.value, "gap_low": gap.low, "gap_high": gap.high, **counts})
    return pd.DataFrame(found, columns=_ERRORS)


def diagrams(sweeps: Sequence[Sweep]) -> pd.DataFrame:
    """Reliability diagrams on clean images and at the highest level of each perturbation, of the label that is called.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), x (mean probability of a bin), mean (share of
        its voxels that are right), low, high (bootstrap interval over patients), n_voxels, n_cases, n_patients; the
        voxels of all trained models are added up. Bins without voxels are left out.
    """
    found = []
    for sweep in sweeps:
        if sweep.reliability is None:
            continue
        table = sweep.reliability[sweep.reliability["label"] == CONFIDENCE_ROW]
        shown = table.set_index(["dataset", "perturbation", "level"]).index.isin(hardest(table))
        for bins in _bins([table[shown]]):
            found.append(_diagram(bins))
    return pd.concat(found, ignore_index=True)[_DIAGRAMS] if found else pd.DataFrame(columns=_DIAGRAMS)


def _diagram(bins: _Bins) -> pd.DataFrame:
    counts, sums, hits = (table.sum(axis=0) for table in (bins.counts, bins.sums, bins.hits))  # over trained models

    def frequencies(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        n, right = weights @ counts, weights @ hits
        return np.where(n > 0, right / np.maximum(n, 1), np.nan).T

    found = estimates(frequencies, bins.patients)
    n = counts.sum(axis=0)
    table = pd.DataFrame(
        {
            "x": sums.sum(axis=0) / np.maximum(n, 1),
            "mean": [each.value for each in found],
            "low": [each.low for each in found],
            "high": [each.high for each in found],
            "n_voxels": n.astype(int),
            "n_cases": len(counts),
            "n_patients": len(set(bins.patients)),
        }
    )
    return table[table["n_voxels"] > 0].assign(**dict(zip(_DIAGRAMS, bins.condition[:4], strict=False)))
