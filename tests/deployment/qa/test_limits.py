"""Limits that go by the calibration's own cases: their ranks, the rate that they promise, and those of the user's."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.qa.limits import REVIEWED, check_limits, rules_of, usual_dice
from nnunet_robust.deployment.qa.rating import Evidence, rate
from nnunet_robust.eval.conformal.calibration import Calibration, CalibrationCase, CaseScores
from nnunet_robust.eval.conformal.control import DiceInterval, calibrate_interval
from nnunet_robust.eval.images.image_statistics import ImageStatistics

OVERLAP = "the overlap of the outline with the true one (Dice; 1 is perfect)"
IMAGE = ImageStatistics(((0.0, 0.5, 1.0),), None, None, (None,))


def made(predicted: list[float], patients: list[str] | None = None, width: float = 0.1) -> Calibration:
    """Cases without any uncertainty: every interval is as wide, so that lower ends are `predicted` less `width`."""
    cases = tuple(
        CalibrationCase(f"c{i:03d}", patients[i] if patients else f"p{i}", str(i), IMAGE, {"x": scores})
        for i, scores in enumerate(CaseScores({}, 0.9, value, 0.0) for value in predicted)
    )
    interval = DiceInterval(width / 0.02, 0.1, len(cases), len({case.patient for case in cases}))
    return Calibration({}, "clean images", 0.1, None, 0.1, cases, {"x": {}}, {"x": interval})


@pytest.mark.parametrize(("n", "rank"), [(3, 1), (18, 1), (19, 1), (30, 1), (38, 1), (39, 2), (59, 3), (100, 5)])
def test_review_is_below_a_rank_of_the_calibration_s(n: int, rank: int) -> None:
    """By hand: floor(0.05 (n + 1)), and the lowest where that is none."""
    values = np.linspace(0.6, 0.9, n)
    rule = usual_dice(made(list(np.random.default_rng(n).permutation(values))), "x")
    assert rule.amber == pytest.approx(values[rank - 1] - 0.1)
    assert f"at most {100 * max(0.05, 1 / (n + 1)):.3g} % of cases like those" in rule.why[0]
    assert rule.red == pytest.approx(2 * values[0] - np.median(values) - 0.1)


@pytest.mark.parametrize("n", [19, 30, 59])
def test_new_cases_are_looked_at_as_often_as_is_said(n: int) -> None:
    """Calibration and new cases drawn alike, the interval made of the same cases; half of the Dice is error."""
    rng = np.random.default_rng(n)
    looked_at = []
    for _ in range(1500):
        predicted, uncertainty = rng.uniform(0.6, 0.9, n + 20), rng.uniform(0.0, 0.1, n + 20)
        dice = np.clip(predicted + rng.normal(0, 0.02 + uncertainty / 2), 0, 1)
        patients = [f"p{i}" for i in range(n)]
        interval = calibrate_interval(dice[:n], predicted[:n], uncertainty[:n], patients, 0.1)
        cases = tuple(
            CalibrationCase(f"{i}", f"p{i}", str(i), IMAGE, {"x": CaseScores({}, *(float(v) for v in values))})
            for i, values in enumerate(zip(dice[:n], predicted[:n], uncertainty[:n], strict=True))
        )
        calibration = Calibration({}, "", 0.1, None, 0.1, cases, {"x": {}}, {"x": interval})
        limit = usual_dice(calibration, "x").amber
        new = [interval.around(float(p), float(u))[0] for p, u in zip(predicted[n:], uncertainty[n:], strict=True)]
        looked_at.append(np.mean(np.array(new) < limit))
    expected = int(REVIEWED * (n + 1) + 1e-9) / (n + 1)
    assert np.mean(looked_at) == pytest.approx(expected, abs=4 * np.std(looked_at) / np.sqrt(len(looked_at)))


def test_patients_have_one_weight_each() -> None:
    """One patient's many poor cases are not 5 % of the patients."""
    values = [0.5] * 30 + list(np.linspace(0.7, 0.9, 39))
    patients = ["poor"] * 30 + [f"p{i}" for i in range(39)]
    rule = usual_dice(made(values, patients), "x")
    assert rule.amber == pytest.approx(0.6)  # 2 of 41: the poor one's, and the lowest of the others
    assert usual_dice(made(values), "x").amber == pytest.approx(0.4)
    good = usual_dice(made([0.95] * 30 + values[30:], patients), "x")  # nor do a good one's make the others poor
    assert good.amber == pytest.approx(values[31] - 0.1)


def test_what_a_new_case_is_told() -> None:
    rules = rules_of(made(list(np.linspace(0.7, 0.9, 40))))["x"]  # lower ends from 0.6 to 0.8, median 0.7
    (rule,) = rules
    assert (rule.amber, rule.red) == (pytest.approx(0.6 + 0.2 / 39), pytest.approx(0.5))

    def told(low: float) -> tuple[str, str]:
        found = rate(Evidence((low, 0.9), 0.9, 1.0, None, None, "ml", ()), rules)
        return found.colour, found.reasons[0]

    assert told(0.55) == (
        "amber",
        f"{OVERLAP} may be as low as 0.550, below 0.605, as in "
        "at most 5 % of cases like those of the calibration (its Dice is expected between 0.55 and 0.90, as holds for "
        "90 % of cases like those of the calibration)",
    )
    assert told(0.49) == (
        "red",
        f"{OVERLAP} may be as low as 0.490, below 0.5: further below the lowest of the calibration's 40 cases (0.600) "
        "than that is below their median (0.700) (its Dice is expected between 0.49 and 0.90, as holds for 90 % of "
        "cases like those of the calibration)",
    )
    assert told(0.61)[1] == "the image was not checked"


def test_an_interval_that_says_nothing_is_never_usual() -> None:
    rule = usual_dice(made([0.05] * 20 + [0.9] * 20), "x")  # lower ends of 0
    assert (rule.amber, rule.red) == (0.01, 0.0)
    found = rate(Evidence((0.0, 0.3), 0.9, 1.0, None, None, "ml", ()), [rule])
    assert "as low as 0.000, below 0.01, which is to say that nothing is known of it" in found.reasons[0]


def test_without_an_interval_nothing_is_known() -> None:
    calibration = made([0.8] * 20)
    calibration.intervals.clear()
    found = rate(Evidence(None, None, 1.0, None, None, "ml", ()), rules_of(calibration)["x"])
    assert found.reasons[0] == "no interval of its Dice was calibrated"


def test_limits_of_the_user_s_replace_them() -> None:
    calibration = made([0.8] * 20)
    (dice,) = rules_of(calibration, dice=(0.6, 0.4))["x"]
    assert (dice.amber, dice.red, dice.why) == (0.6, 0.4, ("", ""))
    dice, share = rules_of(calibration, share=(0.5, 0.8))["x"]
    assert (share.amber, share.red, share.beyond) == (0.5, 0.8, "above") and dice.amber == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("dice", "share"),
    [((0.5, 0.8), None), (None, (0.8, 0.5)), ((1.2, 0.5), None), ((0.8, -0.1), None), (None, (0.5, float("nan")))],
)
def test_limits_that_are_none(dice: tuple[float, float] | None, share: tuple[float, float] | None) -> None:
    with pytest.raises(UserError, match=r"^--(dice|share)-limits .*: give two in \[0, 1\], to review and then to"):
        check_limits(dice, share)
    check_limits((0.5, 0.5), (0.5, 0.5))
