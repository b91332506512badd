"""Each rule on both sides of its limits, what is not known, and the words of a rating."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nnunet_robust.deployment.qa.input_checks import Check
from nnunet_robust.deployment.qa.rating import EMPTY_INNER, Evidence, Rating, dice_rule, rate, share_rule

GOOD = Evidence((0.88, 0.97), 0.9, 40.0, 35.0, 45.0, "ml", (Check("spacing", "accept", "1 mm"),))
RULES = (dice_rule(0.8, 0.5), share_rule(0.5, 0.8))


def rated(evidence: Evidence) -> Rating:
    return rate(evidence, RULES)


def but(**changes: Any) -> Evidence:
    return dataclasses.replace(GOOD, **changes)


def test_green_says_what_was_found() -> None:
    found = rated(GOOD)
    assert (found.colour, found.verdict) == ("green", "accept")
    assert found.reasons == (
        "the image passed 1 checks",
        "its Dice is expected between 0.88 and 0.97 (as holds for 90 % of cases like those of the calibration)",
        "the inner mask has 35 ml, the outer 45 ml",
    )


@pytest.mark.parametrize(
    ("low", "colour"), [(0.8, "green"), (0.799, "amber"), (0.5, "amber"), (0.499, "red"), (0.0, "red")]
)
def test_the_lower_end_of_the_dice(low: float, colour: str) -> None:
    found = rated(but(dice=(low, 0.97)))
    assert found.colour == colour
    limit = {"amber": "0.8", "red": "0.5"}.get(colour)
    if limit:
        assert found.reasons == (
            f"the overlap of the outline with the true one (Dice; 1 is perfect) may be as low as {low:.3f}, below "
            f"{limit} (its Dice is expected between {low:.2f} and 0.97, as holds for 90 % of cases like those of the "
            f"calibration)",
        )


@pytest.mark.parametrize(
    ("inner", "colour"), [(50, "green"), (49.9, "amber"), (21, "amber"), (19.9, "red"), (0, "red")]
)
def test_the_width_between_the_masks(inner: float, colour: str) -> None:
    found = rated(but(inner=inner, outer=100.0))
    assert found.colour == colour
    if colour == "red" and inner == 0:
        assert found.reasons == (
            "100 % of the outer mask (100 ml) is not in the inner one (0 ml), more than 80 %",
            EMPTY_INNER,
        )


def test_what_is_not_known_is_never_green() -> None:
    for evidence, reason in (
        (but(dice=None, dice_confidence=None), "no interval of its Dice was calibrated"),
        (but(inner=None, outer=None), "no inner and outer masks were calibrated"),
        (but(inner=None), "no inner and outer masks were calibrated"),
        (but(checks=()), "the image was not checked"),
    ):
        assert rated(evidence).colour == "amber" and rated(evidence).reasons == (reason,)


def test_an_empty_segmentation() -> None:
    found = rated(but(segmentation=0.0, inner=0.0, outer=0.0))
    assert found.colour == "amber"
    assert found.reasons == ("nothing was segmented, so that nothing is known of it: look whether the object is there",)
    assert rated(but(dice=None, segmentation=0.0, inner=0.0, outer=0.0)) == found
    around = rated(but(segmentation=0.0, inner=0.0, outer=3.0))
    assert around.colour == "red" and len(around.reasons) == 2


def test_an_empty_inner_mask_is_never_green() -> None:
    found = rate(but(inner=0.0), ())
    assert (found.colour, found.reasons, found.about) == ("amber", (EMPTY_INNER,), ("empty inner mask",))
    assert rate(but(inner=None), ()).colour == "green"  # none was calibrated: it is not there, and not empty


@pytest.mark.parametrize("dice", [(0.0, 0.0), (0.0, 0.004), (0.0, 1.0), (0.001, 0.996)])
def test_an_interval_that_says_nothing_is_put_in_words(dice: tuple[float, float]) -> None:
    for found in (rated(but(dice=dice)), rate(but(dice=dice), ())):
        said = " ".join(found.reasons)
        assert "0.00" not in said.replace("as low as 0.000", "").replace("as low as 0.001", "")
        assert ("nothing is known of its Dice" if dice[1] > 0.5 else "hardly any overlap") in said


def test_the_gravest_reason_first() -> None:
    checks = (Check("spacing", "review", "3 mm"), Check("finite", "reject", "2 voxels are NaN"))
    found = rated(but(dice=(0.7, 0.9), checks=checks))
    assert (found.colour, found.verdict) == ("red", "reject")
    assert found.reasons[:2] == ("finite: 2 voxels are NaN", "spacing: 3 mm")
    assert len(found.reasons) == 3
    assert rated(but(checks=checks[:1])).verdict == "review"


def test_the_rules_that_are_given() -> None:
    stricter = [dice_rule(0.95, 0.5, (", as is usual", ", as never"))]
    found = rate(GOOD, stricter)
    assert found.colour == "amber" and "may be as low as 0.880, below 0.95, as is" in found.reasons[0]
    assert (
        "below 0.5, as never (its Dice is expected between 0.40 and 0.90"
        in rate(but(dice=(0.4, 0.9)), stricter).reasons[0]
    )
    assert rate(but(inner=0.1, outer=9.0, dice=None), ()).colour == "green"
    milder = (dice_rule(0.6, 0.4), share_rule(0.9, 0.95))
    assert rate(but(dice=(0.65, 0.9), inner=15.0, outer=100.0), milder).colour == "green"
    assert rate(but(dice=(0.45, 0.9)), milder).colour == "amber"
    assert rate(but(inner=4.0, outer=100.0), milder).colour == "red"
