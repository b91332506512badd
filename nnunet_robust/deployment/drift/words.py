"""What a check found, in words: for the terminal, a cron mail and the page."""

from __future__ import annotations

import math

import numpy as np

from nnunet_robust.deployment.drift.checked import RECENT, Checked
from nnunet_robust.deployment.drift.martingale import Moved
from nnunet_robust.deployment.drift.two_sample import FeatureShift

ALPHA = 0.05
"""Of the comparison of the last images, after correction for the number of features."""

NOT_DICE = (
    "An alarm says that the images, or what the model makes of them, are no longer as they were in the reference. It "
    "does not say that segmentations have become worse, and no alarm does not say that they are right: look at some."
)

MEANINGS = {
    "noise": "noise, as a share of the image's range of grey values",
    "blur": "blur, from 0 (sharp) to 1",
    "median": "median of the grey values, in the image's own units",
    "range": "range of the grey values (0.5th to 99.5th percentile), in the image's own units",
    "texture divergence": "how differently what is segmented and the rest are textured, from 0 to 1 bit",
    "share": "share of the voxels that is segmented",
    "entropy": "how unsure the model is around what it segments, in bits",
    "predicted Dice": "the Dice that the model's own uncertainty predicts, from 0 to 1",
    "bottleneck rest": "the network's deepest layer: what is unlike anything the reference varies in",
    "bottleneck": "the network's deepest layer: one of the ways in which the reference varies",
}
"""How a feature's name begins -> what it is. The longest that fits counts."""


def meaning(name: str) -> str:
    """Say what a feature is."""
    return MEANINGS[max((start for start in MEANINGS if name.startswith(start)), key=len)]


def percent(share: float) -> str:
    """Write a share as a percentage, to at most three digits."""
    return f"{100 * share:.3g} %"


def n_images(number: int) -> str:
    """Write a number of images."""
    return f"{number} image{'' if number == 1 else 's'}"


def verdict(done: Checked) -> str:
    """Say in a sentence whether there is an alarm."""
    test = done.stream.test
    if test.alarm is None:
        if not len(test):
            return "no alarm: there are no images yet"
        at = int(np.argmax(test.evidence.max(axis=0)))
        return (
            f"no alarm after {n_images(len(test))}: the most evidence so far was {test.evidence.max():.1f} "
            f"({test.names[at]}), an alarm needs {test.limit:.1f}"
        )
    case = done.stream.images[test.alarm].case
    return (
        f"ALARM since image {test.alarm + 1} of {len(test)}, {case}: the images are no longer as in the reference "
        f"(false alarms: {percent(test.rate)} of streams, on average over references)"
    )


def movement(moved: Moved, done: Checked) -> str:
    """Say in a sentence how a feature has moved."""
    case = done.stream.images[moved.image].case
    return (
        f"{moved.name}: {moved.bet} than before ({_medians(_values(done, moved.name))}); known since image "
        f"{moved.image + 1}, {case}"
    )


def _values(done: Checked, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the reference's images that count, and the stream's last `RECENT`."""
    reference = done.reference
    at = reference.names.index(name)
    now = np.array([reference.row(image)[at] for image in done.stream.images[-RECENT:]])
    return reference.rows[reference.measured[:, at], at], now


def _medians(values: tuple[np.ndarray, np.ndarray]) -> str:
    before, now = values
    return f"median {_middle(now)} in the last {n_images(len(now))}, {_middle(before)} in the reference's {len(before)}"


def _middle(values: np.ndarray) -> str:
    numbers = values[np.isfinite(values)]
    if not len(numbers):
        return "not defined"
    undefined = len(values) - len(numbers)
    return f"{np.median(numbers):.3g}" + (f" (not defined in {undefined})" if undefined else "")


def shifted(done: Checked) -> list[FeatureShift]:
    """List the features in which the last images differ from the reference, at `ALPHA`, corrected for their number."""
    return [] if done.recent is None else [shift for shift in done.recent.features if shift.p_holm < ALPHA]


def recent_sentence(done: Checked) -> str:
    """Say what the comparison of the last images has found; empty: there is none."""
    if done.recent is None:
        return ""
    found = shifted(done)
    listed = ", ".join(f"{s.name} (p = {s.p_holm:.2g})" for s in sorted(found, key=lambda s: s.p_holm)) or "no feature"
    together = "" if math.isnan(done.recent.p_mmd) else f"; all features together, p = {done.recent.p_mmd:.2g} (MMD)"
    return (
        f"the last {n_images(done.recent.n_batch)} against the reference alone, at {percent(ALPHA)} for this once: "
        f"{listed}{together}"
    )


def guarantees(done: Checked) -> list[str]:
    """Say what the stated rate guarantees, and what not."""
    n, rate = len(done.reference.images), percent(done.reference.rate)
    return [
        f"The rate of false alarms is {rate}: of all references and streams in which nothing changes, at most this "
        f"share ever sets off an alarm, however long the stream is. That is an average over references. For this one, "
        f"of {n} patients, it may be far from it: in simulations at 1 %, 0 for most references of 20, and up to 36 % "
        f"for the worst of 100.",
        "The rate holds if images come in an order that has nothing to do with what they show, one for each patient: "
        "further images of a patient do not count.",
        "A feature is named only if its own evidence has reached the limit, which rises with the number of features.",
        f"The comparison of the last {RECENT} images with the reference alone sees slow changes, to which the "
        f"evidence gets used. It holds for one day: where nothing has changed, {percent(ALPHA)} of such comparisons "
        f"name some feature, so that over many days some will. It never sets off the alarm.",
        NOT_DICE,
    ]


def lines(done: Checked) -> list[str]:
    """Write a few lines for the terminal."""
    found = [
        f"{n_images(done.n_new)} new, {len(done.stream.images)} in all"
        + (f"; {len(done.left_out)} not counted (seen before, or a patient's second)" if done.left_out else "")
        + (f"; {len(done.failed)} FAILED" if done.failed else ""),
        verdict(done),
        *(f"  {movement(moved, done)}" for moved in done.moved),
    ]
    if done.recent is not None:
        found.append(recent_sentence(done))
    return [*found, *([NOT_DICE] if done.moved else [])]
