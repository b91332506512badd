"""The page and the words of a check, from streams made of numbers: no model is needed."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from nnunet_robust.deployment.drift import words
from nnunet_robust.deployment.drift.checked import RECENT, Checked
from nnunet_robust.deployment.drift.page import _MOST, _drawn, page
from nnunet_robust.deployment.drift.reference import MeasuredImage, Reference
from nnunet_robust.deployment.drift.stream import Stream
from nnunet_robust.deployment.drift.two_sample import compare

MODEL = {"trainer": "nnUNetTrainer", "plans": "nnUNetPlans", "configuration": "2d", "fold": "0"}
SETUP = {"training": "none of them"}


def image(number: int, shift: float, undefined: bool = False) -> MeasuredImage:
    rng = np.random.default_rng(number)
    noise, blur, share = rng.normal(size=3)
    features = {
        "noise of CT": float(noise) + shift,
        "blur of CT": math.nan if undefined else float(blur),
        "share of a_b": float(share),
    }
    return MeasuredImage(f"case <{number}>", f"p{number}", f"{number:064d}", features)


def done(n: int, shift: float = 0.0, failed: bool = False, undefined: int = 0) -> Checked:
    reference = Reference.of([image(i, 0) for i in range(30)], MODEL, "clean & <plain>", 0.01, SETUP)
    stream = Stream(reference, "d", reference.rate)
    stream.add([image(1000 + i, shift if i >= 10 else 0, i < undefined) for i in range(n)])
    rows = [reference.row(i) for i in stream.images[-RECENT:]]
    recent = compare(reference.rows, rows, reference.names) if len(rows) >= 5 else None
    return Checked(reference, stream, n, {}, {"bad <x>": "it is broken"} if failed else {}, recent)


@pytest.mark.parametrize(("n", "shift", "failed", "code"), [(40, 0, False, 0), (40, 0, True, 1), (40, 3, True, 3)])
def test_exit_codes(n: int, shift: float, failed: bool, code: int) -> None:
    assert done(n, shift, failed).exit_code == code


def test_what_moved_in_words() -> None:
    found = done(40, 3.0)
    (moved,) = found.moved
    values = [float(found.reference.row(i)[0]) for i in found.stream.images[-RECENT:]]
    before = np.median(found.reference.rows[:, 0])
    assert moved.name == "noise of CT" and "higher" in moved.bet
    said = words.movement(moved, found)
    assert f"median {np.median(values):.3g} in the last 20 images, {before:.3g} in the reference's 30" in said
    assert f"known since image {moved.image + 1}, case <{1000 + moved.image}>" in said
    printed = words.lines(found)
    assert printed[0] == "40 images new, 40 in all" and printed[1].startswith("ALARM since image")
    assert printed[-1] == words.NOT_DICE and any("noise of CT (p = " in line for line in printed)
    assert words.lines(done(40))[-1].startswith("the last 20 images against the reference alone")
    assert words.verdict(done(0)) == "no alarm: there are no images yet"
    assert "(not defined in 3)" in words._middle(np.array([1.0, math.nan, math.nan, math.nan, 2.0]))


def test_the_page_of_an_alarm() -> None:
    text = page(done(40, 3.0, failed=True, undefined=4))
    assert text == page(done(40, 3.0, failed=True, undefined=4))
    assert "<title>ALARM: Have the images changed?</title>" in text and "color-scheme" in text
    assert not re.search(r"https?://|<script|built-in|case <1|bad <x>|<plain>", text)
    assert "bad &lt;x&gt; (it is broken)" in text and "clean &amp; &lt;plain&gt;" in text
    headings = re.findall(r"<h3>(.*?)</h3>", text)
    assert headings[0] == 'noise of CT <span class="mark">moved</span>' and len(headings) == 3
    assert text.count('<svg viewBox="0 0 420 150"') == 6 and text.count('class="missing" d="M') == 2  # and the legend
    assert "at most this share ever sets off an alarm" in text and "average over references" in text


def test_the_page_without_an_alarm() -> None:
    assert "<title>Have the images changed?</title>" in page(done(12)) and "What moved" not in page(done(12))
    assert "against the reference alone</h2>" not in page(done(3))
    assert "No alarm: there are no images yet" in page(done(0))


def test_every_feature_has_a_meaning() -> None:
    names = ["noise of T1", "blur of T1", "median of T1", "range of T1", "texture divergence", "share of x"]
    names += ["entropy of x", "predicted Dice of x", "bottleneck 1", "bottleneck rest"]
    assert len({words.meaning(name) for name in names}) == len(names)


def test_of_a_long_stream_the_extremes_are_drawn() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    values[1234], values[4321], values[77] = 50, -50, math.nan
    chosen = _drawn(values)
    assert {0, 77, 1234, 4321, 4999} <= set(chosen) and len(chosen) <= _MOST + 2
    assert _drawn(values[:100]) == [*range(100)]


def test_no_line_doubles_back() -> None:
    lines = re.findall(r'class="evidence" d="M([\d. L]+)"', page(done(40, 3.0)))
    for x in ([float(point.split()[0]) for point in line.split("L")] for line in lines):
        assert x == sorted(x) and len(x) == 41
    assert lines
