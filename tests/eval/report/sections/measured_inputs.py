"""A sweep of made-up scores and measurements, for the tests of the sections on what was measured of the inputs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nnunet_robust.eval.report.shared.architectures import architectures_of, arms_of
from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.results.manifest import Manifest
from nnunet_robust.eval.results.tables import ARM

_FIXED = {"dataset": "D", "replicate": 0.0, "label": "1", "outcome": "ok", "series": False, "case": "c"}


def sweep_of(rows: pd.DataFrame, inputs: pd.DataFrame | None, series: tuple[str, ...] = ()) -> Sweep:
    """A sweep of one dataset, in which each patient is one case and each architecture one trained model."""
    rows = rows.assign(**{name: value for name, value in _FIXED.items() if name not in rows})
    rows["case"] = rows["patient"]
    rows["line"] = rows["architecture"]
    manifest = Manifest.from_json({"perturbations": {name: {"series": {}} for name in series}})
    if inputs is not None:
        inputs = inputs.assign(dataset="D", replicate=0)
    arms = arms_of(rows.assign(**{name: rows.get(name, "") for name in ARM if name not in rows}), {"D": manifest})
    tables = {} if inputs is None else {"inputs": inputs}
    return Sweep(Path("out"), manifest, rows, rows, [], tables, architectures=architectures_of(arms))
