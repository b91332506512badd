"""Which architecture for images like these? New images are placed among a sweep's, and its scores there compared.

    answer = recommend(Path("NEW_IMAGES"), Path("OUT"))
    answer.verdict, answer.recipe, answer.declined, sentences(answer)

What is compared is the mean Dice of each architecture at the places of the sweep's curves that are most like the new
images (`nnunet_robust.deployment.recommendation.placement`), paired by patient, by the same function as in a report
(`statistics.verdict.decide`). All images together make one condition; nothing is tested for a single one of them. It
declines where nothing like them was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

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
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.read import Sweep, read_sweeps
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.results.tables import CONDITION
from nnunet_robust.eval.statistics import CLEAN, MARGIN, N_RESAMPLES
from nnunet_robust.eval.statistics.cautions import cautions
from nnunet_robust.eval.statistics.contrasts import FEWEST_PATIENTS, Sample
from nnunet_robust.eval.statistics.recipe import Recipe, recipes
from nnunet_robust.eval.statistics.verdict import Verdict, decide

TRUSTED_DICE = 0.8
"""Of the model that predicts the masks, at the places most like an image: below, its mask does not count."""

SHARE_INSIDE = 0.5
"""Of the images that must lie inside of what was measured, for an answer for all of them."""

_MASK_MODEL = "(the model of the masks)"  # a column beside the trained models
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
        means: architecture -> mean Dice at that place, the highest first; empty where it declines. Nothing is tested.
        declined: why; empty where it does not.
    """

    image: str
    measured: dict[str, float]
    used: tuple[str, ...]
    place: Place | None
    means: dict[str, float] = field(default_factory=dict)
    declined: str = ""


@dataclass(frozen=True)
class Recommendation:
    """The answer for a set of images.

    Attributes:
        sweep: folder that it rests on.
        dataset: of the sweep.
        names: perturbation -> its display name.
        units: perturbation -> what its level is counted in.
        clean: architecture -> mean Dice on the sweep's clean images; the baseline first.
        trainers: architecture -> its trainer, without the seed.
        margin: difference in Dice that matters.
        images: a part for each image.
        verdict: for all images that lie inside of what was measured, together; None where it declines.
        recipe: what follows from that: what to take (the baseline, unless another one is better), and how good the
            evidence is; these images stand in the place of the clean ones. None where it declines.
        declined: why; empty where it does not.
        warnings: what is to be known of the sweep, see `statistics.cautions`.
        counts: what the sweep's sample counts: "patient", or "image" where nobody knows whose they are.
    """

    sweep: Path
    dataset: str
    names: DisplayNames
    units: dict[str, str]
    clean: dict[str, float]
    trainers: dict[str, str]
    margin: float
    images: tuple[ImageAnswer, ...]
    verdict: Verdict | None
    recipe: Recipe | None
    declined: str
    warnings: tuple[str, ...] = ()
    counts: str = "patient"


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
    trusted: bool = False,
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
        n_resamples: number of draws, see `contrasts.critical_value`.
        seed: of the draws.
        trusted: see `load_model`.

    Raises:
        UserError: no results, a sweep that has not measured noise and blur, a single architecture, no images, or one
            that cannot be read.
    """
    if not 0 <= margin < 1:
        raise UserError(f"--margin {margin}: give a difference in Dice, from 0 to 1, such as 0.01")
    (sweep,) = read_sweeps([output])
    kind = _format(sweep)
    found = find_images(images, kind.file_ending, kind.channels)
    model = None
    if model_folder is not None:
        where = device or torch.device("cpu")
        model = load_model(model_folder, None, "checkpoint_final.pth", where, True, None, trusted)
    advisor = _Advisor(sweep, model, margin, n_resamples, seed)
    measurer = Measurer(kind, model)
    answers = []
    for files in track(found):
        try:
            answers.append(advisor.answer(files.name, measurer.measure(files)))
        except OtherChannelsError as error:
            declined = f"it has {error.found} channels, the sweep's images have {kind.channels}"
            answers.append(ImageAnswer(files.name, {}, (), None, declined=declined))
    verdict, declined = advisor.together(answers)
    return Recommendation(
        sweep=output,
        dataset=sweep.datasets[0],
        names=sweep.names,
        units={name: sweep.unit(name) for name in sweep.manifest.perturbations},
        clean=advisor.clean,
        trainers={each.name: each.model for each in sweep.architectures},
        margin=margin,
        images=tuple(answers),
        verdict=verdict,
        recipe=None if verdict is None else _recipe(sweep, verdict),
        declined=declined,
        warnings=tuple(cautions(sweep.manifest, sweep.results)),
        counts="patient" if Analysis([sweep]).patients_known() else "image",
    )


def _recipe(sweep: Sweep, verdict: Verdict) -> Recipe:
    """There is one condition, these images: they take the place of the clean ones."""
    dataset = sweep.datasets[0]
    (found,) = recipes({(dataset, CLEAN, 0.0): verdict}, {dataset: _baseline(sweep)})
    return found


def _baseline(sweep: Sweep) -> str:
    """The architecture that the others must beat: its rows are the first ones, see `Sweep.architectures`."""
    return str(sweep.rows["architecture"].iloc[0])


@dataclass(frozen=True)
class _Trained:
    """The trained models of a sweep: see `Sample` for `names`, `lines` and `owner`."""

    names: list[str]
    lines: list[str]
    owner: NDArray[np.intp]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _Trained:
        """The trained models in the order of the rows."""
        lines = rows.drop_duplicates("line")
        owner, names = pd.factorize(lines["architecture"])
        return cls([*map(str, names)], [*map(str, lines["line"])], owner)

    def sample(self, scores: pd.DataFrame) -> Sample:
        """The scores (a row per patient, a column per trained model) as one condition."""
        patients = [*map(str, scores.index)]
        return Sample(self.names, self.lines, self.owner, patients, scores[self.lines].to_numpy(float).T)

    def means(self, scores: pd.DataFrame) -> dict[str, float]:
        """Architecture -> mean over patients and trained models."""
        of_lines = scores[self.lines].mean().to_numpy(float)
        return {name: float(of_lines[self.owner == i].mean()) for i, name in enumerate(self.names)}


class _Advisor:
    """Answers for images, one by one and together."""

    def __init__(self, sweep: Sweep, model: Model | None, margin: float, n_resamples: int, seed: int) -> None:
        self._points, self._trained = _points(sweep, model)
        self._series = frozenset(sweep.series)
        self._margin, self._n_resamples, self._seed = margin, n_resamples, seed
        self._scores = [name for name in (*self._trained.lines, _MASK_MODEL) if name in self._points]
        self._curves: dict[tuple[str, ...], Curves] = {}
        of_clean = self._points[self._points["perturbation"] == CLEAN]
        self.clean = self._trained.means(of_clean.groupby("patient")[self._trained.lines].mean())

    def answer(self, image: str, measured: dict[str, float]) -> ImageAnswer:
        """Place an image; by its mask, too, where that can be trusted."""
        used: tuple[str, ...] = IMAGE_FEATURES
        if missing := [name for name in used if not np.isfinite(measured[name])]:
            return ImageAnswer(image, measured, used, None, declined=f"it has no {missing[0]} that could be measured")
        place = self._curves_by(used).place(measured)
        if place.inside and self._trusts_mask(measured, place):
            used = (*IMAGE_FEATURES, *MASK_FEATURES)
            place = self._curves_by(used).place(measured)
        if declined := self._why_not(measured, used, place):
            return ImageAnswer(image, measured, used, place, declined=declined)
        means = sorted(self._trained.means(place.scores).items(), key=lambda item: -item[1])
        return ImageAnswer(image, measured, used, place, dict(means))

    def _why_not(self, measured: Mapping[str, float], used: tuple[str, ...], place: Place) -> str:
        """Why there is no answer at a place; empty where there is one."""
        if not place.inside:
            return self._why_outside(measured, used, place)
        if (n := len(place.scores)) < FEWEST_PATIENTS:
            return f"the sweep has {n} patients, and {FEWEST_PATIENTS} are the least to tell architectures apart by"
        return ""

    def _trusts_mask(self, measured: Mapping[str, float], place: Place) -> bool:
        if _MASK_MODEL not in self._scores or not all(np.isfinite(measured[name]) for name in MASK_FEATURES):
            return False
        return float(place.scores[_MASK_MODEL].mean()) >= TRUSTED_DICE

    def together(self, answers: Sequence[ImageAnswer]) -> tuple[Verdict | None, str]:
        """One verdict for all images that it does not decline, or why there is none.

        A patient's scores are averaged over the images that it is near to, first: images are no patients.
        """
        placed = [answer.place.scores for answer in answers if answer.place and not answer.declined]
        if len(placed) < SHARE_INSIDE * len(answers) or not placed:
            declined = [answer for answer in answers if answer.declined]
            first = f"{declined[0].image}: {declined[0].declined}"
            return None, f"{len(declined)} of {len(answers)} images cannot be answered for ({first})"
        sample = self._trained.sample(pd.concat(placed).groupby(level=0).mean())
        return decide({"these images": sample}, self._margin, self._n_resamples, self._seed)["these images"], ""

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


def _points(sweep: Sweep, model: Model | None) -> tuple[pd.DataFrame, _Trained]:
    """See `Curves`: what was measured of each image of a sweep, and each trained model's Dice for it."""
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
    trained = _Trained.of(rows)
    dice = rows.groupby([*_POINT, "line"])["dice"].mean().unstack()
    if len(trained.names) < 2:
        raise UserError(f"{sweep.folder} has one architecture, {trained.names[0]}: there is nothing to choose from")
    if arm := _arm(sweep, model):
        own = rows[(rows[list(arm)] == pd.Series(arm)).all(axis=1)]
        dice[_MASK_MODEL] = own.groupby(_POINT)["dice"].mean()
    points = sweep.inputs.merge(dice.dropna().reset_index(), on=_POINT)
    if points.empty:
        raise UserError(
            f"{sweep.folder} has no image that every trained model ({', '.join(trained.lines)}) was run on: "
            f"go on with the sweep"
        )
    return points, trained


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
