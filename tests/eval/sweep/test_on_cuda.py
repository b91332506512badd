"""Whole sweeps on a pretend CUDA device: the numbers of a sweep on the CPU, whatever it is asked for."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.results.tables import ARM
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.eval.sweep.test_sweep import Silent
from tests.pretend_cuda import Tally

KEYS = [*ARM, "case", "perturbation", "level", "replicate", "label"]


@pytest.fixture
def parameters(
    textures: str, texture_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SweepParameters:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.001)
    return SweepParameters(
        output=tmp_path / "out", conditions={"gaussian_noise": (0.1,)}, dataset="901", trainers=texture_models,
        folds=["0"], device="cpu", mirroring=False, workers=0,
    )  # fmt: skip


ONCE = ("inference/precision.py", "images/texture_codes.py", "nnunetv2/inference/sliding_window_prediction.py")
"""Files that move something to the device once for a process, or for its first image."""


def table(output: Path, name: str = "results") -> pd.DataFrame:
    found = pd.read_csv(output / f"{name}.csv", dtype={"fold": str}, keep_default_na=False)
    return found.sort_values([key for key in KEYS if key in found]).reset_index(drop=True)


def swept(parameters: SweepParameters, device: str, **more: Any) -> Path:
    changed = replace(parameters, output=parameters.output / device, device=device, **more)
    assert not run_sweep(changed, Silent()).failures
    return changed.output


def numbers(column: pd.Series) -> np.ndarray:
    """The numbers of a column whose cells may hold several; NaN for a word or nothing."""
    split = column.astype(str).str.split(" ", expand=True) if column.name == "weights" else column.to_frame()
    return split.apply(pd.to_numeric, errors="coerce").to_numpy(float)


def assert_alike(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """The same rows, and each number the same up to rounding: a few voxels at a tie may have changed sides."""
    assert list(found.columns) == list(wanted.columns) and len(found) == len(wanted) > 0
    for name in found:
        one, other = numbers(found[name]), numbers(wanted[name])
        if name in KEYS or np.isnan(other).all():
            assert (found[name] == wanted[name]).all(), name
        else:
            of_voxels = name.startswith(("n_", "p_", "hits_"))  # voxels, and sums over them
            np.testing.assert_allclose(one, other, rtol=0.01, atol=3 if of_voxels else 0.002, err_msg=name)


OPTIONS: dict[str, dict[str, Any]] = {  # without an ensemble, one model is swept
    "exact, with threads": {"workers": 2, "mirroring": True},
    "fast": {"precision": "fast"},
    "members and ensembles": {"uncertainty": ("mirroring",), "mirroring": True, "ensemble": ("all",)},
    "weights by confidence": {"ensemble": ("all",), "weights": "confidence"},
    "denoised": {"denoise": ("always",)},
    "attacks": {"conditions": {"pgd_linf": (0.03,), "fgsm_l2": (0.02,)}, "attack_steps": 2},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_a_sweep_gives_the_cpus_numbers(options: str, parameters: SweepParameters, cuda: Tally) -> None:
    asked = OPTIONS[options]
    if "ensemble" not in asked:
        parameters = replace(parameters, trainers=parameters.trainers[:1])
    there = swept(parameters, "cuda", **asked)
    waited = cuda.count("to_device")
    here = swept(parameters, "cpu", **{**asked, "precision": "exact"})
    assert 0 < waited == cuda.count("to_device")  # it was on the device, and the other one was not
    for file in sorted(there.glob("*.csv")):
        assert_alike(table(there, file.stem), table(here, file.stem))


@pytest.mark.parametrize("way", ["exact", "fast"])
def test_mirrored_copies_cost_no_more_transfers(way: str, parameters: SweepParameters, cuda: Tally) -> None:
    costs = []
    for mirroring in (False, True):
        cuda.clear()
        swept(replace(parameters, trainers=parameters.trainers[:1]), "cuda", mirroring=mirroring, precision=way)
        events = [(event.kind, event.where) for event in cuda.events]
        costs.append(Counter(event for event in events if not any(file in event[1] for file in ONCE)))
        shutil.rmtree(parameters.output)
    assert costs[0] == costs[1] and costs[0]
