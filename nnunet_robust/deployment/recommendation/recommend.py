"""Which architecture for images like these? New images are placed among a sweep's, and its scores there compared.

    answer = recommend(Path("NEW_IMAGES"), Path("OUT"))
    answer.verdict, answer.declined, sentences(answer)

What is compared is the mean Dice of each architecture at the places of the sweep's curves that are most like the new
images (`nnunet_robust.deployment.recommendation.placement`), paired by patient. It declines where nothing like them
was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.recommendation.measuring import Format, Measurer
from nnunet_robust.deployment.recommendation.placement import (
    IMAGE_FEATURES,
    INSIDE_PERCENTILE,
    MASK_FEATURES,
    Curves,
    Place,
)
from nnunet_robust.eval.images.image_files import ImageFiles, OtherChannelsError, find_images
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.eval.inference.models import Model, load_model
from nnunet_robust.eval.report.shared.read import Sweep, read_sweep
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.results.tables import CONDITION
from nnunet_robust.eval.statistics import CLEAN, MARGIN, N_RESAMPLES
from nnunet_robust.eval.statistics.cautions import cautions
from nnunet_robust.eval.statistics.verdict import Verdict, decide

FEWEST_PATIENTS = 5
"""Of the sweep; with fewer, it declines."""

TRUSTED_DICE = 0.8
"""Of the model that predicts the masks, at the places most like an image: below, its mask does not count."""

SHARE_INSIDE = 0.5
"""Of the images that must lie inside of what was measured, for an answer for all of them."""

_MASK_MODEL = "(the model of the masks)"  # a column beside the architectures
_POINT = ["patient", "case", *CONDITION]

Track = Callable[[Sequence[ImageFiles]], Iterable[ImageFiles]]


@dataclass(frozen=True)
class ImageAnswer:
    """The answer for one image.

    Attributes:
        image: its name.
        measured: what was measured of it, see `Measurer.measure`.
        used: those of them that say where it lies.
        place: where it lies among the sweep's images; None where it could not be measured.
        verdict: None where it declines.
        declined: why; empty where it does not.
    """

    image: str
    measured: dict[str, float]
    used: tuple[str, ...]
    place: Place | None
    verdict: Verdict | None
    declined: str


@dataclass(frozen=True)
class Recommendation:
    """The answer for a set of images.

    Attributes:
        sweep: folder that it rests on.
        dataset: of the sweep.
        names: perturbation -> its display name.
        units: perturbation -> what its level is counted in.
        clean: architecture -> mean Dice on the sweep's clean images.
        margin: difference in Dice that matters.
        images: a part for each image.
        verdict: for all images that lie inside of what was measured, together; None where it declines.
        declined: why; empty where it does not.
        warnings: what is to be known of the sweep, see `statistics.cautions`.
    """

    sweep: Path
    dataset: str
    names: DisplayNames
    units: dict[str, str]
    clean: dict[str, float]
    margin: float
    images: tuple[ImageAnswer, ...]
    verdict: Verdict | None
    declined: str
    warnings: tuple[str, ...] = ()


def recommend(
    images: Path,
    output: Path,
    *,
    model_folder: Path | None = None,
    margin: float = MARGIN,
    device: torch.device | None = None,
    track: Track = iter,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Recommendation:
    """Recommend an architecture for new images.

    Args:
        images: a folder of them (or one file), see `find_images`.
        output: a sweep's output folder.
        model_folder: a trained model, to predict masks with. If the sweep has its scores, and these are at least
            `TRUSTED_DICE` at the places most like an image, texture divergence and foreground ratio within its mask
            count in placing the image, too; else they are only measured.
        margin: difference in Dice that matters, >= 0.
        device: where the model predicts; None is the CPU.
        track: wraps the list of images that is gone through, for a progress bar.
        n_resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Raises:
        UserError: no results, a sweep that has not measured noise and blur, a single architecture, no images, or one
            that cannot be read.
    """
    if not 0 <= margin < 1:
        raise UserError(f"--margin {margin}: give a difference in Dice, from 0 to 1, such as 0.01")
    sweep = read_sweep(output)
    kind = _format(sweep)
    found = find_images(images, kind.file_ending, kind.channels)
    model = None
    if model_folder is not None:
        model = load_model(model_folder, None, "checkpoint_final.pth", device or torch.device("cpu"), True, None)
    advisor = _Advisor(sweep, model, margin, n_resamples, seed)
    measurer = Measurer(kind, model)
    answers = []
    for files in track(found):
        try:
            answers.append(advisor.answer(files.name, measurer.measure(files)))
        except OtherChannelsError as error:
            declined = f"it has {error.found} channels, the sweep's images have {kind.channels}"
            answers.append(ImageAnswer(files.name, {}, (), None, None, declined))
    verdict, declined = advisor.together(answers)
    return Recommendation(
        sweep=output,
        dataset=sweep.datasets[0],
        names=sweep.names,
        units={name: sweep.unit(name) for name in sweep.manifest.perturbations},
        clean=advisor.clean,
        margin=margin,
        images=tuple(answers),
        verdict=verdict,
        declined=declined,
        warnings=tuple(cautions(sweep.manifest, sweep.results)),
    )


class _Advisor:
    """Answers for images, one by one and together."""

    def __init__(self, sweep: Sweep, model: Model | None, margin: float, n_resamples: int, seed: int) -> None:
        self._points, self._architectures = _points(sweep, model)
        self._series = frozenset(sweep.series)
        self._decide = lambda scores: decide(scores, margin, n_resamples, seed)
        self._scores = [name for name in (*self._architectures, _MASK_MODEL) if name in self._points]
        self._curves: dict[tuple[str, ...], Curves] = {}
        clean = self._points[self._points["perturbation"] == CLEAN].groupby("patient")[self._architectures].mean()
        self.clean = {str(name): float(value) for name, value in clean.mean().items()}

    def answer(self, image: str, measured: dict[str, float]) -> ImageAnswer:
        """Place an image and decide; by its mask, too, where that can be trusted."""
        used: tuple[str, ...] = IMAGE_FEATURES
        if missing := [name for name in used if not np.isfinite(measured[name])]:
            return ImageAnswer(image, measured, used, None, None, f"it has no {missing[0]} that could be measured")
        place = self._curves_by(used).place(measured)
        if place.inside and self._trusts_mask(measured, place):
            used = (*IMAGE_FEATURES, *MASK_FEATURES)
            place = self._curves_by(used).place(measured)
        scores = place.scores[self._architectures]
        if not place.inside:
            declined = self._why_outside(measured, used, place)
        elif len(scores) < FEWEST_PATIENTS:
            declined = f"the sweep has {len(scores)} patients, and {FEWEST_PATIENTS} are the least to go by"
        else:
            return ImageAnswer(image, measured, used, place, self._decide(scores), "")
        return ImageAnswer(image, measured, used, place, None, declined)

    def _trusts_mask(self, measured: Mapping[str, float], place: Place) -> bool:
        if _MASK_MODEL not in self._scores or not all(np.isfinite(measured[name]) for name in MASK_FEATURES):
            return False
        return float(place.scores[_MASK_MODEL].mean()) >= TRUSTED_DICE

    def together(self, answers: Sequence[ImageAnswer]) -> tuple[Verdict | None, str]:
        """One verdict for all images that it does not decline, each with the same weight; or why there is none."""
        placed = [answer.place.scores[self._architectures] for answer in answers if answer.verdict and answer.place]
        if len(placed) < SHARE_INSIDE * len(answers) or not placed:
            declined = [answer for answer in answers if answer.declined]
            first = f"{declined[0].image}: {declined[0].declined}"
            return None, f"{len(declined)} of {len(answers)} images cannot be answered for ({first})"
        return self._decide(pd.concat(placed).groupby(level=0).mean()), ""

    def _curves_by(self, features: tuple[str, ...]) -> Curves:
        if features not in self._curves:
            self._curves[features] = Curves(self._points, features, self._scores, self._series)
        return self._curves[features]

    def _why_outside(self, measured: Mapping[str, float], used: tuple[str, ...], place: Place) -> str:
        found = [
            f"{name} {measured[name]:.3g} is {'below' if measured[name] < low else 'above'} its {low:.3g} to {high:.3g}"
            for name, low, high in ((name, self._points[name].min(), self._points[name].max()) for name in used)
            if not low <= measured[name] <= high
        ]
        what = " and ".join(found) or f"{', '.join(used)} are not found together in it"
        return (
            f"it lies outside of what the sweep measured ({what}; distance {place.distance:.2g}, where "
            f"{INSIDE_PERCENTILE:g} % of the sweep's own images are within {place.limit:.2g})"
        )


def _points(sweep: Sweep, model: Model | None) -> tuple[pd.DataFrame, list[str]]:
    """See `Curves`: what was measured of each image of a sweep, and each architecture's Dice for it."""
    if sweep.inputs is None or not {*_POINT, *IMAGE_FEATURES, *MASK_FEATURES} <= set(sweep.inputs):
        raise UserError(
            f"{sweep.folder / 'inputs.csv'} has no {' and '.join(IMAGE_FEATURES)} of the images: "
            f"it is missing or of an earlier version, run the sweep into a new folder"
        )
    if len(sweep.datasets) > 1:
        raise UserError(
            f"{sweep.folder} holds {' and '.join(sweep.datasets)}: give the sweep of one dataset with --from"
        )
    rows = sweep.rows
    rows = rows[~rows["perturbation"].isin(list(sweep.attacks))]  # made against a model: no noise that images come with
    rows = rows[(rows["perturbation"] == CLEAN) | rows["series"] | (rows["level"] > 0)]  # each clean image once
    dice = rows.groupby([*_POINT, "architecture"])["dice"].mean().unstack()
    architectures = [str(name) for name in dice.columns]
    if len(architectures) < 2:
        raise UserError(f"{sweep.folder} has one architecture, {architectures[0]}: there is nothing to choose from")
    if arm := _arm(sweep, model):
        own = rows[(rows[list(arm)] == pd.Series(arm)).all(axis=1)]
        dice[_MASK_MODEL] = own.groupby(_POINT)["dice"].mean()
    points = sweep.inputs.merge(dice.dropna().reset_index(), on=_POINT)
    if points.empty:
        raise UserError(
            f"{sweep.folder} has no image that every architecture ({', '.join(architectures)}) was run on: "
            f"go on with the sweep"
        )
    return points, architectures


def _arm(sweep: Sweep, model: Model | None) -> dict[str, str] | None:
    """The columns that tell the sweep's rows of the same weights and tiles; None where it has none."""
    if model is None:
        return None
    for entry in sweep.manifest.models.values():
        same = entry.checkpoints == model.checkpoints and entry.tile_size == model.arm["tile_size"]
        if same and entry.denoise is None:
            return entry.arm
    return None


def _format(sweep: Sweep) -> Format:
    images = next((entry.images for entry in sweep.manifest.models.values()), None)
    if images is None:
        raise UserError(
            f"{sweep.folder / 'manifest.json'} does not say what images the models take: it is of an earlier version, "
            f"run the sweep into a new folder"
        )
    background = Background.of(sweep.manifest.identity.background_then, images.channel_names, ())
    return Format(images.file_ending, images.channels, images.reader, background)
