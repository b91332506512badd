"""Reading sweeps: tables beside the results follow their pairing, and ensembles get short names."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.shared.read import read_sweeps
from nnunet_robust.eval.results.tables import ARM
from tests.eval.report.sections.measured_confidence import ENSEMBLE, LEVELS, A, B
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


def test_ensembles_have_short_names_that_no_other_has(tmp_path: Path) -> None:
    third = "nnUNetTrainerDenseSkip_seed1"
    three = f"ensemble_confidence({A}+{B}+{third})"
    write_sweep_output(tmp_path / "two", (A, B, third, ENSEMBLE, three), n_cases=3, pictures=False)
    (sweep,) = read_sweeps([tmp_path / "two"])
    assert set(sweep.results["line"]) >= {"ensemble of 2, uniform", "ensemble of 3, confidence"}
    assert sweep.ensembles["ensemble of 2, uniform"] == ENSEMBLE.replace("_seed1", "")
    other = f"ensemble_uniform({A}+{third})"
    write_sweep_output(tmp_path / "alike", (A, B, third, ENSEMBLE, other), n_cases=3, pictures=False)
    (sweep,) = read_sweeps([tmp_path / "alike"])
    assert not sweep.ensembles and {ENSEMBLE, other} <= set(sweep.results["line"])  # which of them would it be?
