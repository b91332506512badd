"""What was measured of the inputs of each condition: noise, likeness of foreground and background, size."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.columns import CONDITION
from nnunet_robust.eval.report.shared.section import Parts, Section, TableSpecification
from nnunet_robust.pages.tables import Column, table_data

_MEASURED = (
    ("psnr_db", "PSNR (dB)", "decibel"),
    ("snr_db", "SNR (dB)", "decibel"),
    ("noise_sigma", "noise (share of the robust range)", "measured"),
    ("blur", "blur", "measured"),
    ("texture_divergence_bits", "texture divergence (bits)", "measured"),
    ("boundary_contrast", "boundary contrast", "measured"),
    ("foreground_ratio", "foreground ratio", "measured"),
)


def _inputs(analysis: Analysis) -> pd.DataFrame:
    """The median, the least and the most of each measurement; empty where no sweep stored anything."""
    stored = [sweep.inputs for sweep in analysis.sweeps if sweep.inputs is not None]
    if not stored:
        return pd.DataFrame()
    inputs = pd.concat(stored, ignore_index=True)
    groups = inputs.groupby(["dataset", "perturbation", "level"], sort=False)
    data = groups["case"].nunique().rename("n_cases").reset_index()
    for key in (key for key, _, _ in _MEASURED if key in inputs):
        found = groups[key].agg(["median", "min", "max"]).reset_index()
        data[[key, f"{key}_least", f"{key}_most"]] = found[["median", "min", "max"]]
    return data


_TABLE = TableSpecification(
    "inputs",
    "Noise, likeness of foreground and background, size of the foreground",
    "Median over all inputs (least to most). PSNR and SNR compare a perturbed image with its clean original, which "
    "a series of test sets does not have. Texture divergence and boundary contrast tell foreground from "
    "background: the smaller, the harder.",
    (
        *CONDITION,
        *(Column(key, name, form, f"{key}_least", f"{key}_most", "", "({} to {})") for key, name, form in _MEASURED),
        Column("n_cases", "cases", "count"),
    ),
    _inputs,
)


def _content(analysis: Analysis, _: Parts) -> dict[str, Any]:
    return {"tables": [table_data(table) for table in _TABLE.tables(analysis)]}  # on the page alone, in no file


SECTION = Section(name="measured", short="Measured inputs", content=_content, template="measured")
