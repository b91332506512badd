"""A stream over time -> `monitor.html`, one self-contained page."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from nnunet_robust.deployment.drift import words
from nnunet_robust.deployment.drift.checked import Checked
from nnunet_robust.pages.rendering import render

_WIDTH, _HEIGHT = 420, 150  # of a panel's box, in SVG units
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 22
_MOST = 600  # points that are drawn; a longer stream is drawn by the highest and the lowest of each piece
BAND = (5.0, 95.0)
"""Percentiles of the reference that are drawn as its band."""


def page(done: Checked) -> str:
    """Write the page; the same stream gives the same bytes. It needs neither a network nor other files."""
    reference, test = done.reference, done.stream.test
    moved = {found.name: words.movement(found, done) for found in done.moved}
    highest = test.evidence.max(axis=0) if len(test) else np.zeros(len(test.names))
    by_evidence = sorted(range(len(test.names)), key=lambda i: (test.names[i] not in moved, -highest[i], i))
    cases = [image.case for image in done.stream.images]
    rows = np.array([reference.row(image) for image in done.stream.images]).reshape(len(cases), len(test.names))
    return render(
        "monitor.html.j2",
        alarm=test.alarm is not None,
        verdict=words.verdict(done),
        moved=list(moved.values()),
        facts=_facts(done),
        features=[
            {
                "name": test.names[i],
                "meaning": words.meaning(test.names[i]),
                "moved": test.names[i] in moved,
                "highest": f"{highest[i]:.1f}",
                "evidence": _evidence(test.evidence[:, i], test.limit),
                "panel": _values(rows[:, i], reference.rows[reference.measured[:, i], i]),
            }
            for i in by_evidence
        ],
        limit=f"{test.limit:.1f}",
        recent=words.recent_sentence(done),
        shifts=_shifts(done),
        band=BAND,
        guarantees=words.guarantees(done),
        left_out=list(done.left_out.items()),
        failed=list(done.failed.items()),
    )


def _facts(done: Checked) -> list[tuple[str, str]]:
    reference, images = done.reference, done.stream.images
    model = reference.model
    return [
        ("images", f"{len(images)} of as many patients" + (f", the last one {images[-1].case}" if images else "")),
        (
            "reference",
            f"{len(reference.images)} images of as many patients, {reference.condition}"
            + (f"; {reference.n_left_out} further images of these do not count" if reference.n_left_out else ""),
        ),
        ("false alarms", f"{words.percent(reference.rate)} of streams, on average over references"),
        ("model", f"{model['trainer']}, {model['plans']}, {model['configuration']}, folds {model['fold']}"),
        ("was it trained on the reference?", reference.setup["training"]),
    ]


def _shifts(done: Checked) -> list[tuple[str, ...]]:
    """Rows of a table: the clearest first."""
    if done.recent is None:
        return []
    found = sorted(done.recent.features, key=lambda shift: (shift.p_holm, shift.p))
    return [
        (
            shift.name,
            _number(shift.reference_median),
            _number(shift.batch_median),
            f"{100 * shift.superiority:.0f} %",
            f"{shift.p_holm:.2g}",
        )
        for shift in found
    ]


def _number(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.3g}"


def _evidence(evidence: np.ndarray, limit: float) -> Markup:
    """Evidence over images, with the line of the alarm."""
    top = max(limit, float(evidence.max(initial=0))) * 1.12
    bottom = min(-1.0, float(evidence.min(initial=0)) * 1.05)
    frame = _Frame(len(evidence), bottom, top)
    drawn = [
        frame.rule(limit, "limit"),
        frame.rule(0.0, "zero"),
        frame.line(np.concatenate([[0.0], evidence]), "evidence"),
        *frame.ticks([0.0, limit]),
    ]
    return frame.svg(drawn, f"Evidence after each of {len(evidence)} images; an alarm needs {limit:.1f}")


def _values(values: np.ndarray, reference: np.ndarray) -> Markup:
    """A feature's values over images, with the reference's band; undefined ones as crosses at the foot."""
    known = reference[np.isfinite(reference)]
    numbers = values[np.isfinite(values)]
    if not len(known) and not len(numbers):
        return Markup("")
    everything = np.concatenate([known, numbers])
    low, high = float(everything.min()), float(everything.max())
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    frame = _Frame(len(values), low - room, high + room)
    drawn = []
    ticks = [low, high] if high > low else [low]
    if len(known):
        lower, middle, upper = np.percentile(known, (BAND[0], 50, BAND[1]))
        drawn += [frame.band(lower, upper), frame.rule(float(middle), "middle")]
    drawn += [frame.dots(values), *frame.ticks(ticks)]
    return frame.svg(drawn, f"Values in {len(values)} images, {int(np.isnan(values).sum())} of them not defined")


class _Frame:
    """A panel's axes: image 0 (before the first) to n, and values from bottom to top."""

    def __init__(self, n: int, bottom: float, top: float) -> None:
        self._n, self._bottom, self._top = max(n, 1), bottom, top

    def _x(self, image: float) -> str:
        return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * image / self._n:.1f}"

    def _y(self, value: float) -> str:
        share = (value - self._bottom) / (self._top - self._bottom)
        return f"{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share:.1f}"

    def rule(self, value: float, kind: str) -> str:
        y = self._y(value)
        return f'<path class="{kind}" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'

    def band(self, low: float, high: float) -> str:
        y = self._y(high)
        height = max(float(self._y(low)) - float(y), 1.0)
        return f'<rect class="band" x="{_LEFT}" y="{y}" width="{_WIDTH - _LEFT - _RIGHT}" height="{height:.1f}"/>'

    def line(self, values: np.ndarray, kind: str) -> str:
        """The first value stands at 0."""
        points = [f"{self._x(i)} {self._y(float(values[i]))}" for i in _drawn(values)]
        return f'<path class="{kind}" d="M{"L".join(points)}"/>'

    def dots(self, values: np.ndarray) -> str:
        """Image i, from 1, stands at i."""
        at = _drawn(values)
        known = "".join(f"M{self._x(i + 1)} {self._y(float(values[i]))}h0" for i in at if np.isfinite(values[i]))
        foot = _HEIGHT - _BOTTOM - 4
        missing = "".join(
            f"M{float(self._x(i + 1)) - 2:.1f} {foot - 2}l4 4m0-4l-4 4" for i in at if np.isnan(values[i])
        )
        return f'<path class="dots" d="{known}"/>' + (f'<path class="missing" d="{missing}"/>' if missing else "")

    def ticks(self, values: list[float]) -> list[str]:
        texts = [
            f'<text class="tick" x="{_LEFT - 5}" y="{float(self._y(v)) + 3.5:.1f}" text-anchor="end">{v:.3g}</text>'
            for v in values
        ]
        foot = _HEIGHT - 6
        first = f'<text class="tick" x="{self._x(1)}" y="{foot}" text-anchor="middle">1</text>'
        last = f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{foot}" text-anchor="end">image {self._n}</text>'
        axis = f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'
        return [axis, *texts, *([first] if self._n > 4 else []), last]

    def svg(self, drawn: list[str], label: str) -> Markup:
        head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label)
        return head + Markup("".join(drawn)) + Markup("</svg>")


def _drawn(values: np.ndarray) -> list[int]:
    """Which values are drawn: all, or of each piece of a long stream the highest and the lowest."""
    if len(values) <= _MOST:
        return [*range(len(values))]
    chosen = {0, len(values) - 1}
    for piece in np.array_split(np.arange(len(values)), _MOST // 2):
        comparable = np.where(np.isnan(values[piece]), -np.inf, values[piece])
        chosen |= {int(piece[comparable.argmin()]), int(piece[comparable.argmax()])}
    return sorted(chosen)
