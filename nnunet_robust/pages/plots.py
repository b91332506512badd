"""What all figures share: styles of lines, and figures as SVG text.

No pyplot and no global state; the same input gives the same bytes. Models are told apart by colour (Okabe & Ito 2008,
safe for colour-blind readers), marker and line style together. The SVGs' ink is `currentColor`, so that they follow
a page's colours.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", "-.", ":")
_RULES = ("--", ":", "-.")
INK = "#010203"
"""Stands for the page's own text colour, see `svg_text`; as good as black elsewhere."""


class LineStyle(NamedTuple):
    """How one model is drawn, in every figure of a report."""

    colour: str
    marker: str
    line: str


def rule_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """Styles of lines that others are read by: no model's, in ink, without a mark."""
    return {name: LineStyle(INK, "", _RULES[i % len(_RULES)]) for i, name in enumerate(names)}


def line_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each name, by position; the first 56 differ from one another."""
    return {
        name: LineStyle(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)])
        for i, name in enumerate(names)
    }


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """matplotlib's own style, whatever the user's settings; a "$" in a name is a "$", and begins no formula.

    Entering takes longer than a panel: do it once for many.
    """
    with matplotlib.style.context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # of a name: drawn as a box
        yield


def swatch(style: LineStyle, name: str) -> str:
    """A legend's key, as SVG text; `name` makes its ids unique in a page."""
    with plain_style():
        figure = Figure(figsize=(0.5, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.plot(
            [0, 0.5, 1], [0, 0, 0], color=style.colour, ls=style.line, marker=style.marker, markevery=[1], ms=6, lw=1.8
        )
        return svg_text(figure, name)


def svg_text(figure: Figure, name: str) -> str:
    """A figure as SVG text, without a date, transparent, its ink (`INK`) in the text colour of the page around it.

    Args:
        figure: to draw.
        name: makes its ids unique in a page.
    """
    buffer = io.StringIO()
    rc: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with matplotlib.rc_context(rc):
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text)
    # several figures share a page: make every id, and every reference to one, its own
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
