"""Reading sweeps: tables beside the results follow their pairing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.results.tables import ARM
from tests.eval.report.sections.measured_confidence import LEVELS, A, B
from tests.eval.sweep_output import write_sweep_output


def test_tables_that_are_beside_the_results_follow_the_pairing(tmp_path: Path) -> None:
    copy = write_sweep_output(
        tmp_path, (A, B), 5, levels=LEVELS, pictures=False, uncertainty=True, calibrated=(A, B)
    )  # fmt: skip
    results = pd.read_csv(copy / "results.csv", dtype={"fold": str})
    results = results[~((results["model"] == B) & (results["case"] == "tex_002") & (results["level"] == 0.1))]
    results.to_csv(copy / "results.csv", index=False)
    (read,) = analyse([copy]).sweeps
    for table in (read.reliability, read.bounds):
        assert table is not None
        noise = table[table["perturbation"] == "speckle_noise"]
        assert set(noise["case"]) == {"tex_000", "tex_001", "tex_003", "tex_004"}
        assert set(noise["level"]) == {0, 0.1, 0.45}
        assert set(table.loc[table["perturbation"] == "gaussian_blur", "case"]) > set(noise["case"])
        assert not table.duplicated([*ARM, "perturbation", "level", "case", "label"]).any()
