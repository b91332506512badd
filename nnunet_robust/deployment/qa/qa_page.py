"""The rows of a quality assurance -> `qa.html`, one self-contained page, and what is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_robust.common.files import write_atomically
from nnunet_robust.deployment.qa.input_checks import LIMITS
from nnunet_robust.deployment.qa.qa import SYMBOLS, Row, counts
from nnunet_robust.deployment.qa.rating import Rule, size
from nnunet_robust.eval.conformal.calibration import Calibration
from nnunet_robust.eval.conformal.informative import dice_in_words
from nnunet_robust.pages.rendering import render

UNCALIBRATED = (
    "No calibration was given: verdicts rest on checks of the images alone, which cannot see a wrong segmentation."
)
WHAT_IT_IS = (
    "Accept means that nothing was found that speaks against the segmentation, not that it is right. What is promised "
    "holds for images like those of the calibration, on average, and for no single image."
)


def write_page(
    path: Path,
    rows: Sequence[Row],
    model: str,
    calibration: Calibration | None,
    rules: Mapping[str, Sequence[Rule]],
    ignored: Sequence[str],
) -> None:
    """Write the page; the same rows give the same bytes.

    Args:
        path: of the page. It needs neither a network nor other files.
        rows: the worst first.
        model: that predicted, in words.
        calibration: None: there was none.
        rules: structure -> the limits of its ratings.
        ignored: files of the folder that were not looked at.
    """
    sentences = [s for label in calibration.bounds for s in calibration.sentences(label)] if calibration else []
    page = render(
        "qa.html.j2",
        model=model,
        rows=[_shown(row) for row in rows],
        counts=[(verdict, SYMBOLS[verdict], n) for verdict, n in counts(rows).items()],
        sentences=[*sentences, *([calibration.training] if calibration and calibration.training else [])],
        uninformative=calibration.uninformative() if calibration else [],
        false_alarms=alarms.sentence() if calibration and (alarms := calibration.false_alarms) else "",
        uncalibrated="" if calibration else UNCALIBRATED,
        what_it_is=WHAT_IT_IS,
        ignored=list(ignored),
        limits=_limits(rules),
    )
    write_atomically(path, page)


def _shown(row: Row) -> dict[str, Any]:
    return {
        "case": row.case,
        "verdict": row.verdict,
        "symbol": SYMBOLS[row.verdict],
        "reasons": row.reasons,
        "picture": row.picture,
        "facts": [(name, *_in_words(measured)) for name, measured in row.structures.items()],
        "image": ", ".join(
            f"{name} {row.image[key]:.3g}"
            for key, name in (("noise_sigma", "noise"), ("blur", "blur"))
            if row.image[key] != ""
        ),
    }


def _in_words(measured: dict[str, Any]) -> tuple[str, str]:
    """What is expected of the Dice, and the three sizes with the share that two of them leave open."""
    dice = "" if measured["dice_low"] == "" else dice_in_words((measured["dice_low"], measured["dice_high"]))
    if not measured["segmentation"]:
        dice = "nothing was segmented"
    sizes = [measured[which] for which in ("inner", "segmentation", "outer")]
    listed = " / ".join("not calibrated" if value == "" else size(value) if value else "empty" for value in sizes)
    share = measured["outer_not_inner"]
    return dice, f"{listed} {measured['unit']}" + (
        "" if share == "" else f", {100 * share:.0f} % of the outer not in the inner"
    )


def printed_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Make a table with a row per case, the worst first: verdict, what is expected of the worst Dice, and why."""
    listed = []
    for row in rows:
        lows = {name: measured["dice_low"] for name, measured in row.structures.items() if measured["dice_low"] != ""}
        lowest = min(lows, key=lambda name: lows[name], default=None)
        listed.append(
            {
                "case": row.case,
                "verdict": f"{SYMBOLS[row.verdict]} {row.verdict}",
                "lowest Dice": "" if lowest is None else f"{_short(row.structures[lowest])} ({lowest})",
                "why": "; ".join(row.reasons),
            }
        )
    frame = pd.DataFrame(listed)
    return frame if any(frame["lowest Dice"]) else frame.drop(columns="lowest Dice")


def _short(measured: dict[str, Any]) -> str:
    return _in_words(measured)[0].removeprefix("its Dice is expected ")


def _limits(rules: Mapping[str, Sequence[Rule]]) -> list[tuple[str, str, str]]:
    shown = [(name, limits.review, limits.reject, "") for name, limits in LIMITS.items()]
    shown += [
        (f"{structure}: {r.name}", r.amber, r.red, f"{r.beyond} ") for structure in rules for r in rules[structure]
    ]
    return [
        (name, f"{beyond}{review:.3g}", "never" if reject in _NEVER[beyond] else f"{beyond}{reject:.3g}")
        for name, review, reject, beyond in shown
    ]


_NEVER = {"": (math.inf,), "below ": (0.0,), "above ": (1.0,)}
"""Limits that nothing is beyond."""
