"""Do voxels' probabilities mean what they say? Calibration under every condition, from `reliability.csv`.

Counted are the voxels within 3 mm of reference and prediction; those of all images are added up, so that large
structures weigh more. What is measured of each trained model of an architecture is averaged over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunet_robust.eval.report.shared.analysis import Analysis, shared
from nnunet_robust.eval.report.shared.columns import ARCHITECTURE, BANDS, CONDITION, IMAGES, INTERVALS, mean_column
from nnunet_robust.eval.report.shared.figures import ReportFigure, condition_in_words, hardest, over_level, sample_of
from nnunet_robust.eval.report.shared.panels import panel
from nnunet_robust.eval.report.shared.section import Section, TableSpecification
from nnunet_robust.eval.statistics.patient_bootstrap import Estimate, estimates
from nnunet_robust.eval.uncertainty.reliability import CONFIDENCE_ROW, N_BINS
from nnunet_robust.eval.uncertainty.uncertainty import BAND_MM
from nnunet_robust.pages.plots import INK, LineStyle
from nnunet_robust.pages.tables import Column
from nnunet_robust.pages.wording import number, percent

_ERROR, _DIAGRAM = "calibration", "reliability"
_REGION = f"voxels within {BAND_MM:g} mm of reference or prediction"
_CALLED = "the label that is called"
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


@shared
def calibration(analysis: Analysis) -> pd.DataFrame:
    """The expected calibration error of each architecture under each condition.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), label (`CONFIDENCE_ROW` for the label that is
        called, or a structure), mean (the error, see `ReliabilityBins.errors`), low, high (its bootstrap interval over
        patients), gap, gap_low, gap_high (mean probability less share of hits: above 0, probabilities are too high),
        n_voxels, n_cases (images), n_patients, n_trained. Empty where no sweep counted voxels.
    """
    found: list[dict[str, Any]] = []
    known: dict[tuple[bytes, ...], list[Estimate]] = {}  # clean images are level 0 of every perturbation
    for bins in _bins([sweep.reliability for sweep in analysis.sweeps if sweep.reliability is not None]):
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


@shared
def diagrams(analysis: Analysis) -> pd.DataFrame:
    """Reliability diagrams on clean images and at the highest level of each perturbation, of the label that is called.

    Returns:
        Columns dataset, perturbation, level, line (the architecture), x (mean probability of a bin), mean (share of
        its voxels that are right), low, high (bootstrap interval over patients), n_voxels, n_cases, n_patients; the
        voxels of all trained models are added up. Bins without voxels are left out.
    """
    found = []
    for sweep in analysis.sweeps:
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


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    yield from _errors(analysis, styles)
    yield from _diagrams(analysis, styles)


def _errors(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = calibration(analysis)
    table = table[table["label"] == CONFIDENCE_ROW]
    if table["mean"].notna().any():
        limits = (0.0, 1.08 * float(np.nanmax(table[["mean", "high"]].to_numpy(float))) or 1.0)
        what = "Expected calibration error"
        yield from over_level(analysis, table, _ERROR, what, "expected calibration error", styles, limits)


def _diagrams(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    bins = diagrams(analysis)
    for (dataset, name, at), part in bins.groupby(["dataset", "perturbation", "level"], sort=False):
        where = condition_in_words(analysis, dataset, name, at)
        parts = []
        for line, of_line in part.groupby("line", sort=False):
            last = of_line.iloc[-1]
            parts.append(f"{line}: where it is most confident ({number(last['x'])}), {percent(last['mean'])} are right")
        yield ReportFigure(
            group=_DIAGRAM,
            name=f"{dataset}_{name}_{at:g}",
            dataset=str(dataset),
            title=where,
            sample=sample_of(part, analysis),
            data=part,
            alt=f"Share of voxels that are right over the probability of {_CALLED}, {where}. {'; '.join(parts)}.",
            draw=partial(_panel, part, styles),
            styles={**{line: styles[line] for line in dict.fromkeys(part["line"])}, "perfect calibration": _DIAGONAL},
            value="share that is right",
        )


_DIAGONAL = LineStyle(INK, "", "--")  # of perfect calibration


def _panel(bins: pd.DataFrame, styles: Mapping[str, LineStyle]) -> Figure:
    """A reliability diagram: how often the label that is called is right, over its probability.

    Args:
        bins: columns line, x (mean probability), mean (share that is right), low, high.
        styles: for each line.
    """
    figure, axes = panel()
    lowest = max(0.0, float(min(bins["x"].min(), bins[["mean", "low"]].min().min())) - 0.03)
    axes.plot([0, 1], [0, 1], color=INK, ls=_DIAGONAL.line, lw=1.2)
    for line, of_line in bins.groupby("line", sort=False):
        style = styles[str(line)]
        known = of_line[of_line["low"].notna()]
        axes.vlines(known["x"], known["low"], known["high"], color=style.colour, lw=1.4, alpha=0.7)
        axes.plot(of_line["x"], of_line["mean"], color=style.colour, ls=style.line, marker=style.marker, ms=5, lw=1.8)
    axes.set_xlim(lowest, 1.02)
    axes.set_ylim(lowest, 1.02)
    axes.set_xlabel("probability of the label that is called (bin's mean)", color=INK)
    axes.set_ylabel("share of voxels that are right", color=INK)
    return figure


def _table(analysis: Analysis) -> pd.DataFrame:
    table = analysis.clean_once(calibration(analysis))
    return table.assign(label=table["label"].replace({CONFIDENCE_ROW: _CALLED}))


_TABLE = TableSpecification(
    "calibration",
    "Calibration of voxels' probabilities",
    f"Expected calibration error in {N_BINS} bins: the distance of the share that is right from the mean "
    f"probability, averaged over bins by their voxels; 0 is perfect. Counted are the {_REGION}; the voxels of all "
    "images are added up, large structures weigh more. The gap is the mean probability less the share that is "
    "right: above 0, the model is overconfident. For a structure, its own probability and how often it "
    f"is there. Of several trained models the mean of what each of them has. {INTERVALS}.",
    (
        *CONDITION, ARCHITECTURE, Column("label", "of"), Column("mean", "calibration error", "score", "low", "high"),
        mean_column("gap", "gap"), Column("n_voxels", "voxels", "count"), *IMAGES,
    ),
    _table,
)  # fmt: skip

SECTION = Section(
    name="calibration",
    short="Calibration",
    title="Do probabilities mean what they say?",
    text=(
        f"Counted are the {_REGION}, of all images together, by the probability of the label that is called; over "
        "whole images the error would mostly say how much plain background there is. 0 is perfect. In a "
        "reliability diagram, points below the diagonal are overconfident; bins with few voxels "
        "have wide bars. " + BANDS + ".",
    ),
    figures=_figures,
    groups={_ERROR: "expected calibration error", _DIAGRAM: "reliability diagrams"},
    tables=(_TABLE,),
)
