"""The viewer's data: the stored pictures of the chosen cases, small enough for a page, with outlines as vectors.

An image is embedded once, however many models predicted on it. Under attacks on each model itself every model has an
image of its own, and the step shows the clean one beside them. Label maps become outlines here rather than in the page:
paths are small, are drawn sharply at any size, and need no reading back of pixels, which some browsers falsify.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from markupsafe import Markup
from PIL import Image

from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.report.shared.stored_pictures import Step, SweepPictures, stored_pictures

BUDGET = 12_000_000  # bytes of all that the viewer embeds
SIDES = (256, 224, 192, 160, 128, 96, 64, 48, 32)  # pixels of an image's longer side, the largest that fits the budget
_QUALITY = 80  # of WebP
_SAMPLE = 24  # steps to estimate the bytes of all from


def viewer_data(sweeps: Sequence[Sweep], budget: int = BUDGET) -> dict[str, Any]:
    """What `viewer.html.j2` shows: every chosen case, perturbation and level, with every model's prediction.

    Args:
        sweeps: what `read.read_sweeps` returns; pictures come from `pictures/` of their folders, scores from their
            results.
        budget: bytes that may be embedded. Images are made smaller, step by step, until they fit.

    Returns:
        `cases` (how many), `side` (pixels of the longer side of the largest image) and `shrunk` (whether the budget
        made it smaller), `labels` (the label maps' values), `json` (for the script), `fixed` (the pictures for those
        who print or run no scripts: of one case per dataset, at all levels, or at the middle one where the budget
        allows no more), `fixed_all` (whether at all levels) and `own` (whether models have images of their own
        anywhere). Without pictures `cases` is 0.
    """
    shows = [show for show in map(stored_pictures, sweeps) if show.cases]
    steps = [step for show in shows for step in show.steps()]
    largest = max(map(_longer_side, {path for step in steps for path in step.files if path}), default=0)
    for side in _sides(steps, largest, budget):
        pool = _Pool(side)
        text = _script_json({"datasets": [_encoded(show, pool) for show in shows], **pool.content()})
        middle, everything = (_fixed(shows, pool, all_levels) for all_levels in (False, True))
        if len(text) + _bytes(middle) <= budget:
            break
    fixed_all = len(text) + _bytes(everything) <= budget
    return {
        "cases": sum(len(show.cases) for show in shows),
        "side": min(side, largest),
        "shrunk": side < min(largest, SIDES[0]),
        "labels": sorted(pool.labels),
        "json": Markup(text),
        "fixed": everything if fixed_all else middle,
        "fixed_all": fixed_all,
        "own": any(step.images for step in steps),
    }


def _longer_side(path: Path) -> int:
    with Image.open(path) as image:
        return max(image.size)


def _sides(steps: Sequence[Step], largest: int, budget: int) -> list[int]:
    """The sides to try: from the largest that a sample of the steps says might fit, to the smallest."""
    distinct = list({step.files: step for step in steps if any(step.files)}.values())
    every = max(1, len(distinct) // _SAMPLE)
    for i, side in enumerate(SIDES):
        if i and side >= largest:
            continue
        pool = _Pool(side)
        sample = distinct[::every]
        for step in sample:
            pool.add(step)
        if pool.bytes() * len(distinct) <= 1.1 * budget * max(1, len(sample)):
            return list(SIDES[i:])
    return [SIDES[-1]]


@dataclass
class _Pool:
    """Images and outlines, each of them once, at most `side` pixels long."""

    side: int
    images: list[dict[str, Any]] = field(default_factory=list)
    outlines: list[list[tuple[int, str]]] = field(default_factory=list)
    labels: set[int] = field(default_factory=set)
    _known: dict[Path, int] = field(default_factory=dict)

    def add(self, step: Step) -> dict[str, Any]:
        """A step with numbers of images and outlines in place of files."""
        own = [self._add(path, self._image, self.images) for path in step.images]
        return {
            "level": step.level,
            "said": step.said,
            "image": self._add(step.image, self._image, self.images),
            **({"own": own} if own else {}),
            "reference": self._add(step.reference, self._outlines, self.outlines),
            "predictions": [self._add(path, self._outlines, self.outlines) for path in step.predictions],
            "notes": step.notes,
        }

    def content(self) -> dict[str, Any]:
        return {"images": self.images, "outlines": self.outlines}

    def bytes(self) -> int:
        return _bytes([self.images, self.outlines])

    def _add(self, path: Path | None, read: Any, kept: list[Any]) -> int | None:
        if path is None:
            return None
        if path not in self._known:
            self._known[path] = len(kept)
            kept.append(read(path))
        return self._known[path]

    def _image(self, path: Path) -> dict[str, Any]:
        with Image.open(path) as stored:
            image = stored.convert("L")
        image = image.resize(_fitted(image.size, self.side), Image.Resampling.BOX)
        data = io.BytesIO()
        image.save(data, format="webp", quality=_QUALITY)
        uri = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
        return {"uri": uri, "width": image.width, "height": image.height}

    def _outlines(self, path: Path) -> list[tuple[int, str]]:
        with Image.open(path) as stored:
            labels = np.asarray(stored.resize(_fitted(stored.size, self.side), Image.Resampling.NEAREST))
        found = [int(label) for label in np.unique(labels[labels > 0])]
        self.labels.update(found)
        return [(label, outline(labels == label)) for label in found]


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def outline(mask: np.ndarray) -> str:
    """The outline of a mask as the data of an SVG path, in half pixels, x to the right and y down.

    Args:
        mask: bool (H, W).

    Returns:
        A closed sub-path for each outer and inner border, between the centres of pixels inside and outside of the mask
        (marching squares), so that pixel (row, column) is inside, by the even-odd rule, where its centre
        (2 column + 1, 2 row + 1) is. Empty for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return ""
    top, left = rows[0], columns[0]
    part = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(float)  # padded: every border closes
    parts = []
    for line in contourpy.contour_generator(z=part).lines(0.5):
        points = np.rint(2 * np.asarray(line)).astype(int) + np.array([2 * left - 1, 2 * top - 1])
        steps = np.diff(points, axis=0)
        turns: np.ndarray = np.flatnonzero(np.any(np.diff(steps, axis=0) != 0, axis=1)) + 1
        corners = points[[0, *turns]]
        moves = " ".join(map(str, np.diff(corners, axis=0).ravel().tolist()))
        parts.append(f"M{corners[0][0]} {corners[0][1]}l{moves}z".replace(" -", "-"))
    return "".join(parts)


def _encoded(show: SweepPictures, pool: _Pool) -> dict[str, Any]:
    cases = [
        {
            "name": case.name,
            "rank": case.rank,
            "perturbations": [
                {"name": p.name, "unit": p.unit, "steps": [pool.add(step) for step in p.steps]}
                for p in case.perturbations
            ],
        }
        for case in show.cases
    ]
    return {"name": show.dataset, "lines": show.lines, "cases": cases}


def _fixed(shows: Sequence[SweepPictures], pool: _Pool, all_levels: bool) -> list[dict[str, Any]]:
    """For each dataset and perturbation, the median case's pictures at all levels or at the middle one."""
    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    for show in shows:
        case = next((case for case in show.cases if case.rank == "median"), show.cases[0])
        for perturbation in case.perturbations:
            steps = [step for step in perturbation.steps if step.image]
            chosen = steps if all_levels else steps[len(steps) // 2 :][:1]  # none, where the clean image is broken
            shown = [_drawn(pool.add(step), pool, seen) for step in chosen]
            what = {"dataset": show.dataset, "case": case.name, "rank": case.rank}
            found.append({**what, "name": perturbation.name, "lines": show.lines, "steps": shown})
    return found


def _drawn(step: dict[str, Any], pool: _Pool, seen: set[int]) -> dict[str, Any]:
    """A step to draw without a script; an image that an earlier one has (the clean one) is only referred to."""

    def picture(number: int) -> dict[str, Any]:
        image = pool.images[number]
        new = number not in seen
        seen.add(number)
        return {
            "number": number,
            "width": image["width"],
            "height": image["height"],
            "uri": image["uri"] if new else None,
            "reference": pool.outlines[step["reference"]] if new and step["reference"] is not None else [],
        }

    own = [None if number is None else picture(number) for number in step.get("own", [])]
    return {
        "level": step["level"],
        "said": step["said"],
        **picture(step["image"]),
        **({"own": own} if own else {}),
        "predictions": [None if p is None else pool.outlines[p] for p in step["predictions"]],
        "notes": step["notes"],
    }


def _bytes(content: Any) -> int:
    return len(json.dumps(content))


def _script_json(content: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
