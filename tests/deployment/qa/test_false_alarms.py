"""False alarms on a calibration's own cases, against what images that were never seen come to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_robust.deployment.qa.false_alarms import false_alarms
from nnunet_robust.deployment.qa.training import Training
from nnunet_robust.eval.conformal.calibration import Calibration, CalibrationCase, CaseScores, calibrate
from nnunet_robust.eval.conformal.loss_curves import loss_curves
from nnunet_robust.eval.images.image_statistics import ImageStatistics
from nnunet_robust.eval.images.normalisation import NetworkView, Normalisation

SPACING = (1.0, 1.0)
TRAINING = Training(
    ("MRI",),
    Normalisation(("ZScoreNormalization",), (False,), ({"percentile_00_5": 0.0, "percentile_99_5": 1.0},)),
    np.array([SPACING] * 5),
    np.array([(20.0, 20.0)] * 5),
)


def case(index: int, *, noise: float = 0.03, spacing: float = 1.0, predicted: float = 0.9) -> CalibrationCase:
    """A square that the model finds nearly, and is certain of in its middle."""
    reference, segmentation = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    reference[5:15, 5:15] = True
    segmentation[5:15, 5 : 14 + index % 2] = True
    probability = np.where(segmentation, 0.9, 0.05).astype(np.float32)
    probability[7:13, 7:13] = 0.99
    view = NetworkView((spacing, 1.0), (20.0, 20.0), ((-2.0, 0.0, 2.0),), (1.0,), (0.5,))
    image = ImageStatistics(((0.0, 1.0, 2.0),), noise, 0.5, (0.3,), view)
    curves = loss_curves(reference, segmentation, SPACING, probability, sizes=True)
    both = reference.sum() + segmentation.sum()
    scores = CaseScores(curves, 2 * float((reference & segmentation).sum() / both), predicted, 0.05)
    return CalibrationCase(f"c{index:03d}", f"p{index}", f"{index:064d}", image, {"x": scores})


def made(cases: list[CalibrationCase]) -> Calibration:
    return calibrate(cases, {}, "clean images", 0.1)


def test_cases_that_are_alike_are_accepted() -> None:
    found = false_alarms(made([case(index) for index in range(20)]), TRAINING)
    assert (found.n_cases, found.n_patients, found.n_flagged, found.n_rejected, found.reasons) == (20, 20, 0, 0, {})
    assert found.dice_flagged is None and found.dice_accepted is not None and found.remade


def test_a_case_is_not_compared_with_itself() -> None:
    """Each odd one is within what the whole calibration has seen, and beyond what the others have."""
    cases = [case(index) for index in range(20)]
    cases[3], cases[5] = case(3, noise=0.06), case(5, spacing=1.5)
    cases[7] = case(7, predicted=0.2)
    found = false_alarms(made(cases), TRAINING)
    assert found.n_flagged == 3 and found.reasons["noise"] == found.reasons["spacing"] == found.reasons["Dice"] == 1


def test_the_cases_of_a_patient_are_left_out_together() -> None:
    cases = [case(index) for index in range(20)]
    cases[3], cases[4] = (replace(case(index, noise=0.06), patient="same") for index in (3, 4))
    found = false_alarms(made(cases), TRAINING)
    assert (found.n_patients, found.n_flagged, found.reasons["noise"]) == (19, 2, 2)


def test_the_fewest_patients() -> None:
    """Nine are needed for alpha 0.1: without one of them nothing can be calibrated anew."""
    found = false_alarms(made([case(index) for index in range(9)]), TRAINING)
    assert found.n_cases == 9 and not found.remade and "fewer are too few to calibrate on" in found.sentence()


def test_an_empty_inner_mask_is_an_alarm_on_every_case() -> None:
    cases = []
    for index in range(20):
        one = case(index)
        reference, segmentation = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
        reference[:3, :3], segmentation[10:14, 10:14] = True, True
        probability = np.where(segmentation, 0.9, 0.05).astype(np.float32)
        curves = loss_curves(reference, segmentation, SPACING, probability, sizes=True)
        cases.append(replace(one, labels={"x": CaseScores(curves, 0.0, 0.0, 0.0)}))
    found = false_alarms(made(cases), TRAINING)
    assert found.n_flagged == 20 and found.reasons["empty inner mask"] == 20


@pytest.mark.parametrize("n", [60, 120])
def test_many_patients_are_left_out_in_groups(n: int) -> None:
    found = false_alarms(made([case(index) for index in range(n)]), TRAINING)
    assert (found.n_cases, found.n_patients) == (n, n)


def test_the_rate_is_that_of_new_images() -> None:
    """Noise drawn at random: of 30 and one new image, the new one is as often beyond as one of 31 left out."""
    rng = np.random.default_rng(0)
    counted, new = [], []
    for _ in range(60):
        noises = rng.lognormal(-3.5, 0.4, 11)
        found = false_alarms(made([case(index, noise=float(noises[index])) for index in range(11)]), TRAINING)
        counted.append(found.rate)
        new.append(noises[10] > 1.2 * noises[:10].max() or noises[10] < noises[:10].min() / 1.3)
    assert np.mean(counted) == pytest.approx(np.mean(new), abs=4 * np.std(new) / np.sqrt(60))
