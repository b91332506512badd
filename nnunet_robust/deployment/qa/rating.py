"""Ratings: green, amber or red for one segmentation, and why.

A rule that does not hold gives a colour and a reason; the worst counts. Which rules apply: `limits.rules_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nnunet_robust.deployment.qa.input_checks import Check, Verdict
from nnunet_robust.eval.conformal.informative import dice_in_words

Colour = Literal["green", "amber", "red"]
COLOURS: tuple[Colour, ...] = ("green", "amber", "red")
"""From the best to the worst."""

VERDICT_OF: dict[Colour, Verdict] = {"green": "accept", "amber": "review", "red": "reject"}
NOTHING_SEGMENTED = "nothing was segmented, so that nothing is known of it: look whether the object is there"
EMPTY_INNER = "no part of the outline is certain (the inner mask is empty): look at the whole of it"
COLOUR_OF: dict[Verdict, Colour] = {verdict: colour for colour, verdict in VERDICT_OF.items()}


@dataclass(frozen=True)
class Evidence:
    """The evidence on one segmentation of one structure.

    Attributes:
        dice: interval of its Dice, in [0, 1]; None: none was calibrated, or nothing was segmented.
        dice_confidence: the share of cases whose Dice such intervals hold; None: none was calibrated.
        segmentation: size of the segmentation.
        inner: of the inner mask; None: none was calibrated.
        outer: of the outer mask, likewise.
        unit: of these sizes, e.g. "ml", or of 2d images "mm²".
        checks: of the image.
    """

    dice: tuple[float, float] | None
    dice_confidence: float | None
    segmentation: float
    inner: float | None
    outer: float | None
    unit: str
    checks: tuple[Check, ...]

    @property
    def uncertain_share(self) -> float | None:
        """The share of the outer mask that is not in the inner one, in [0, 1]; 0 of an empty outer mask."""
        if self.inner is None or self.outer is None:
            return None
        return 1 - self.inner / self.outer if self.outer else 0.0

    def columns(self) -> dict[str, Any]:
        """Return it by the names of its columns in every table, empty where there is no number."""
        low, high = self.dice or ("", "")
        numbers = {
            "inner": self.inner,
            "segmentation": self.segmentation,
            "outer": self.outer,
            "unit": self.unit,
            "outer_not_inner": self.uncertain_share,
        }
        return {"dice_low": low, "dice_high": high, **{k: "" if v is None else v for k, v in numbers.items()}}


@dataclass(frozen=True)
class Rating:
    """The rating that a clinician sees.

    Attributes:
        colour: green, amber or red.
        reasons: for the colour, the gravest first.
        about: for each reason that speaks against it what it is about, in a word or two; of green none.
    """

    colour: Colour
    reasons: tuple[str, ...]
    about: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The same for quality assurance: accept, review or reject."""
        return VERDICT_OF[self.colour]


@dataclass(frozen=True)
class Rule:
    """A limit on one number.

    Attributes:
        about: what is measured, in a word.
        name: the same in words.
        measure: the number; None where it is not known, which is amber.
        amber: the segmentation is amber where the number is beyond this.
        red: and red beyond this.
        beyond: "below" or "above".
        reason: what the number is, with the fields that `_judge` fills in.
        unknown: what to say where it is not known.
        why: what the two limits are, in words that follow them.
    """

    about: str
    name: str
    measure: Callable[[Evidence], float | None]
    amber: float
    red: float
    beyond: Literal["below", "above"]
    reason: str
    unknown: str
    why: tuple[str, str] = ("", "")


def dice_rule(amber: float, red: float, why: tuple[str, str] = ("", "")) -> Rule:
    """Make a rule with limits on the lower end of the interval of the Dice.

    Args:
        amber: below which it is amber, in [0, 1].
        red: below which it is red, in [0, 1].
        why: what these limits are, in words that follow them.
    """
    return Rule(
        "Dice",
        "lower end of the interval of the Dice",
        lambda evidence: None if evidence.dice is None else evidence.dice[0],
        amber,
        red,
        beyond="below",
        reason="the overlap of the outline with the true one (Dice; 1 is perfect) may be as low as {value:.3f}, below "
        "{limit:.3g}{why} ({expected}, as holds for {confidence:.4g} % of cases like those of the calibration)",
        unknown="no interval of its Dice was calibrated",
        why=why,
    )


def share_rule(amber: float, red: float) -> Rule:
    """Make a rule with limits on the share of the outer mask that is not in the inner one.

    Args:
        amber: above which it is amber, in [0, 1].
        red: above which it is red, in [0, 1].
    """
    return Rule(
        "uncertain share",
        "share of the outer mask that is not in the inner one",
        lambda evidence: evidence.uncertain_share,
        amber,
        red,
        beyond="above",
        reason="{percent:.0f} % of the outer mask ({outer} {evidence.unit}) is not in the inner one "
        "({inner} {evidence.unit}), more than {limit_percent:.0f} %",
        unknown="no inner and outer masks were calibrated",
    )


def rate(evidence: Evidence, rules: Sequence[Rule]) -> Rating:
    """Rate one segmentation.

    Args:
        evidence: what is known of it.
        rules: the limits.

    Returns:
        The worst colour that a rule or a check of the image gives, with every reason for a colour other than green;
        for green, what was found instead.
    """
    found = [(COLOUR_OF[check.verdict], check.name, f"{check.name}: {check.reason}") for check in evidence.checks]
    found += [_judge(rule, evidence) for rule in rules]
    if not evidence.checks:
        found.append(("amber", "checks", "the image was not checked"))
    if not evidence.segmentation:
        found.append(("amber", "nothing segmented", NOTHING_SEGMENTED))
    elif evidence.inner == 0:
        found.append(("amber", "empty inner mask", EMPTY_INNER))
    raised = sorted((item for item in found if item[0] != "green"), key=lambda item: -COLOURS.index(item[0]))
    if raised:
        return Rating(raised[0][0], tuple(reason for *_, reason in raised), tuple(about for _, about, _ in raised))
    told = [f"the image passed {len(evidence.checks)} checks"]
    if evidence.dice is not None:
        told.append(
            f"{dice_in_words(evidence.dice)} (as holds for {_percent(evidence):.4g} % of cases like those of the "
            "calibration)"
        )
    if evidence.inner is not None and evidence.outer is not None:
        unit = evidence.unit
        told.append(f"the inner mask has {size(evidence.inner)} {unit}, the outer {size(evidence.outer)} {unit}")
    return Rating("green", tuple(told))


def _judge(rule: Rule, evidence: Evidence) -> tuple[Colour, str, str]:
    value = rule.measure(evidence)
    if value is None:  # of what was not segmented, that is said, and nothing else is known
        return ("amber", rule.about, rule.unknown) if evidence.segmentation else ("green", rule.about, "")
    limits: tuple[tuple[Colour, float, str], ...] = (("red", rule.red, rule.why[1]), ("amber", rule.amber, rule.why[0]))
    for colour, limit, why in limits:
        if value < limit if rule.beyond == "below" else value > limit:
            expected = "" if evidence.dice is None else dice_in_words(evidence.dice)
            return colour, rule.about, rule.reason.format(
                value=value, limit=limit, why=why, percent=100 * value, limit_percent=100 * limit, evidence=evidence,
                expected=expected,
                confidence=_percent(evidence), inner=size(evidence.inner or 0.0), outer=size(evidence.outer or 0.0),
            )  # fmt: skip
    return "green", rule.about, ""


def size(value: float) -> str:
    """Write a size with three digits, or with all that stand before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _percent(evidence: Evidence) -> float:
    return 100 * (evidence.dice_confidence or 0.0)
