"""Frames of a video: a case at one level, with image, ground truth and every model's prediction side by side."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from nnunet_robust.eval.report.shared.stored_pictures import CasePictures, PerturbationPictures, Step, SweepPictures
from nnunet_robust.pages.rendering import capital

SIDE = 256  # pixels of an image's longer side
_NARROWEST = 176  # pixels of a panel, so that names fit below images that are high and narrow
_ACROSS = 5  # panels in a row, at most: what a screen shows at full size
_GAP, _MARGIN = 12, 16
_BACKGROUND, _EMPTY, _INK, _SOFT, _ACCENT = "#ffffff", "#d0d5da", "#1a1d21", "#57606a", "#0072b2"
_TRUTH, _GUESS = "#56b4e9", "#e69f00"  # where there is one label
_LABELS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")  # as in the viewer
COLOURS = (_BACKGROUND, _EMPTY, _INK, _SOFT, _ACCENT, _TRUTH, *_LABELS)
"""The colours that are drawn with: `_GUESS` is the first of `_LABELS`."""
_FILLED = 0.35  # of a label's colour over the image
_OUTLINE = 2  # pixels
_LARGE, _MIDDLE, _SMALL = 20, 15, 13  # sizes of text
_TITLES = ((_LARGE, True, _INK), (_MIDDLE, True, _INK), (_SMALL, False, _SOFT))  # of each title: size, bold, colour


class Video(NamedTuple):
    """What a video shows.

    Attributes:
        sweep: whose pictures they are.
        case: of the sweep.
        perturbation: of the case.
        several: whether the sweep has several labels, each in a colour of its own.
    """

    sweep: SweepPictures
    case: CasePictures
    perturbation: PerturbationPictures
    several: bool


def frames(video: Video) -> Iterator[Image.Image]:
    """Draw the frames, one for each step, by rising level.

    Returns:
        RGB images, all of one size, its width and height even, as mp4 needs.
    """
    layout = _layout(video)
    for number, step in enumerate(video.perturbation.steps):
        yield _frame(video, step, number, layout)


class _Layout(NamedTuple):
    """Where things are, in pixels; the same in all frames of a video."""

    titles: list[list[list[str]]]  # the lines of the three titles of each step
    names: list[list[str]]  # of each panel: the lines of its name
    panel: tuple[int, int]  # width and height of an image's place
    across: int
    top: int  # of the first row
    row: int  # height of a row, with its texts
    key: list[str]
    size: tuple[int, int]


def _layout(video: Video) -> _Layout:
    steps = video.perturbation.steps
    sizes = [_fitted(path) for path in {path for step in steps for path in step.files if path}]
    panel = max([_NARROWEST, *(width for width, _ in sizes)]), max(height for _, height in sizes)
    headings = ["Clean image" if _attacked(video) else "Image", "Ground truth", *video.sweep.lines]
    rows = -(-len(headings) // _ACROSS)
    across = -(-len(headings) // rows)
    width = _even(2 * _MARGIN + across * panel[0] + (across - 1) * _GAP)
    names = [_wrapped(heading, panel[0], _SMALL, bold=True) for heading in headings]
    titles = [_titles(video, step, width - 2 * _MARGIN) for step in steps]
    heights = [sum(len(lines) * _line(size) for lines, (size, _, _) in zip(t, _TITLES, strict=True)) for t in titles]
    top = _MARGIN + max(heights) + 6 + _GAP + _GAP // 2
    row = panel[1] + 4 + max(map(len, names)) * _line(_SMALL) + _notes_height(steps, panel[0]) + _GAP
    key = _wrapped(_key(video), width - 2 * _MARGIN, _SMALL)
    height = _even(top + rows * row + len(key) * _line(_SMALL) + _MARGIN)
    return _Layout(titles, names, panel, across, top, row, key, (width, height))


def _titles(video: Video, step: Step, width: int) -> list[list[str]]:
    """What stands above the panels: the perturbation, its level, and whose image it is."""
    unit = f" ({video.perturbation.unit})" if video.perturbation.unit else ""
    texts = (
        capital(video.perturbation.name),
        "clean image (level 0)" if step.clean else f"level {step.level}{unit}",
        f"{video.sweep.dataset}, the {video.case.rank} case, {video.case.name}",
    )
    return [_wrapped(text, width, size, bold) for text, (size, bold, _) in zip(texts, _TITLES, strict=True)]


def _key(video: Video) -> str:
    """What the outlines are, and of what the Dice is."""
    if video.several:
        said = "Each label in its colour; black and white: ground truth. Dice: of the whole case, mean over labels."
    else:
        said = "Blue: ground truth; orange: prediction. Dice: of the whole case."
    return f"{said} Each model is attacked itself, and predicts on its own image." if _attacked(video) else said


def _attacked(video: Video) -> bool:
    """Whether each model has images of its own."""
    return any(step.images for step in video.perturbation.steps)


def _notes_height(steps: Sequence[Step], width: int) -> int:
    return max(len(_wrapped(note, width, _SMALL)) for step in steps for note in step.notes) * _line(_SMALL)


def _frame(video: Video, step: Step, number: int, layout: _Layout) -> Image.Image:
    frame = Image.new("RGB", layout.size, _BACKGROUND)
    draw = ImageDraw.Draw(frame)
    y = _MARGIN
    for lines, (size, bold, colour) in zip(layout.titles[number], _TITLES, strict=True):
        y = _write(draw, _MARGIN, y, lines, size, bold, colour)
    _draw_progress(draw, layout, number, len(video.perturbation.steps))
    for at, picture in enumerate(_panels(step, video.several)):
        x = _MARGIN + at % layout.across * (layout.panel[0] + _GAP)
        y = layout.top + at // layout.across * layout.row
        if picture is None:
            draw.rectangle((x, y, x + layout.panel[0] - 1, y + layout.panel[1] - 1), fill=_EMPTY)
            _write(draw, x + 8, y + 8, ["no picture"], _SMALL, False, _SOFT)
        else:
            frame.paste(picture, (x + (layout.panel[0] - picture.width) // 2, y))
        below = _write(draw, x, y + layout.panel[1] + 4, layout.names[at], _SMALL, True, _INK)
        if at >= 2:
            _write(draw, x, below, _wrapped(step.notes[at - 2], layout.panel[0], _SMALL), _SMALL, False, _INK)
    bottom = layout.size[1] - _MARGIN - len(layout.key) * _line(_SMALL)
    _write(draw, _MARGIN, bottom, layout.key, _SMALL, False, _SOFT)
    return frame


def _draw_progress(draw: ImageDraw.ImageDraw, layout: _Layout, number: int, steps: int) -> None:
    """A bar above the panels, a part for each step, filled up to this one."""
    whole = layout.size[0] - 2 * _MARGIN
    y = layout.top - _GAP - 6
    for step in range(steps):
        start, end = (_MARGIN + round(whole * at / steps) for at in (step, step + 1))
        draw.rectangle((start, y, end - 3, y + 5), fill=_ACCENT if step <= number else _EMPTY)


def _panels(step: Step, several: bool) -> list[Image.Image | None]:
    """The image, the ground truth and each model's prediction, on the image that it is of; None without a picture."""
    image = None if step.image is None else _image(step.image)
    truth = None if step.reference is None else _labels(step.reference)
    panels = [image, None if image is None or truth is None else _painted(image, truth, several, _TRUTH)]
    own = step.images or (step.image,) * len(step.predictions)
    for path, prediction in zip(own, step.predictions, strict=True):
        if path is None or prediction is None:
            panels.append(None)
            continue
        painted = _painted(_image(path), _labels(prediction), several, _GUESS)
        panels.append(painted if truth is None else _outlined(painted, truth, several))
    return panels


def _image(path: Path) -> Image.Image:
    """An image in grey at its size in the frame; larger than stored, its pixels stay squares."""
    with Image.open(path) as stored:
        image = stored.convert("L")
    times = -(-4 * SIDE // max(image.size))
    large = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return (large if max(image.size) < SIDE else image).resize(_fitted(path), Image.Resampling.BOX).convert("RGB")


def _labels(path: Path) -> np.ndarray:
    """A label map (H, W) at the size of its image in the frame."""
    with Image.open(path) as stored:
        return np.asarray(stored.resize(_fitted(path), Image.Resampling.NEAREST))


@functools.lru_cache(maxsize=1024)
def _fitted(path: Path) -> tuple[int, int]:
    with Image.open(path) as stored:
        width, height = stored.size
    scale = SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _painted(image: Image.Image, labels: np.ndarray, several: bool, one: str) -> Image.Image:
    """An image with the labels over it, each in its colour, transparent, with an outline."""
    pixels = np.asarray(image, float)
    for label in np.unique(labels[labels > 0]):
        colour = np.array(rgb(_LABELS[(int(label) - 1) % len(_LABELS)] if several else one), float)
        mask = labels == label
        pixels[mask] = (1 - _FILLED) * pixels[mask] + _FILLED * colour
        pixels[_border(mask)] = colour
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _outlined(image: Image.Image, labels: np.ndarray, several: bool) -> Image.Image:
    """An image with the outline of the ground truth; with several labels white and black, to be seen on any image."""
    outer, inner = (_BACKGROUND, "#000000") if several else (_TRUTH, _TRUTH)
    pixels = np.array(image)
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        pixels[_border(mask)] = rgb(inner)
        pixels[_border(mask, 1)] = rgb(outer)
    return Image.fromarray(pixels)


def _border(mask: np.ndarray, width: int = _OUTLINE) -> np.ndarray:
    return mask & ~binary_erosion(mask, iterations=width)


def rgb(colour: str) -> tuple[int, ...]:
    """Red, green and blue of "#rrggbb", each in [0, 255]."""
    return tuple(bytes.fromhex(colour[1:]))


def _even(pixels: int) -> int:
    return pixels + pixels % 2


@functools.lru_cache(maxsize=8)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along: the same on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _line(size: int) -> int:
    """The height of a line of text, in pixels."""
    return round(1.3 * size)


def _write(draw: ImageDraw.ImageDraw, x: int, y: int, lines: list[str], size: int, bold: bool, colour: str) -> int:
    """Write lines of text; returns where the next one goes."""
    for line in lines:
        draw.text((x, y), line, fill=colour, font=_font(size, bold))
        y += _line(size)
    return y


def _wrapped(text: str, width: int, size: int, bold: bool = False) -> list[str]:
    """A text in lines that are not wider than `width`: broken where words, or parts of a name, end, else anywhere."""
    font = _font(size, bold)
    lines = [""]
    for part in re.findall(r"\s*[A-Z]*[^A-Z\s_+(),]*[_+(),]*", " ".join(text.split())):
        pieces = [part] if font.getlength(part.strip()) <= width else list(part)
        for piece in pieces:
            if lines[-1] and font.getlength(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece if lines[-1] else piece.lstrip()
    return lines
