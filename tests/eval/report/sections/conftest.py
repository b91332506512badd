"""A sweep with scores, calibration, guarantees and experts, for the tests of these sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_robust.eval.report import Analysis, analyse
from tests.eval.report.sections.measured_confidence import ENSEMBLE, LEVELS, A, B, N
from tests.eval.sweep_output import write_sweep_output


@pytest.fixture(scope="session")
def confidence_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(
        tmp_path_factory.mktemp("sweep"), (A, B, ENSEMBLE), N, levels=LEVELS, pictures=False, uncertainty=True,
        single=(B,), calibrated=(A, B), experts=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def confidence(confidence_sweep: Path) -> Analysis:
    return analyse([confidence_sweep])
