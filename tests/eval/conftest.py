"""A sweep to learn from, shared by the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.eval.sweep.test_sweep import Silent


@pytest.fixture(scope="session")
def calibration(
    textures: str, texture_models: tuple[str, str], nnunet: Path, tmp_path_factory: pytest.TempPathFactory
) -> SweepParameters:
    """What was swept: the training cases under noise, its Dice is not the point here."""
    raw = nnunet / "nnUNet_raw" / textures
    parameters = SweepParameters(
        output=tmp_path_factory.mktemp("calibration") / "out",
        conditions={"gaussian_noise": (0.03, 0.1, 0.3), "gaussian_blur": (1.0,)},
        dataset="901", trainers=texture_models, folds=["0"], device="cpu", mirroring=False,
        images=raw / "imagesTr", labels=[raw / "labelsTr"],
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
        run_sweep(parameters, Silent())
    return parameters
