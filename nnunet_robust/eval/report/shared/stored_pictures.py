"""The pictures that a sweep stored: of each chosen case and perturbation a step per level, with every prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nnunet_robust.eval.report.shared.picture_files import PictureFolder
from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import CLEAN

_CLEAN_IMAGE = "clean image"


class Step(NamedTuple):
    """One condition of a case, as files, None where there is no such file, and a line below each model's picture.

    Attributes:
        level: in words: "0.3", or "0 (clean)".
        said: the perturbation and its level in words, or "clean image".
        image: the image.
        reference: the label map of the ground truth.
        predictions: a label map of each model.
        notes: what stands below each model's picture: its Dice, and whether an object was missed.
        images: each model's own image, where they are not all shown `image`; else empty.
    """

    level: str
    said: str
    image: Path | None
    reference: Path | None
    predictions: tuple[Path | None, ...]
    notes: tuple[str, ...]
    images: tuple[Path | None, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether it is the clean image."""
        return self.said == _CLEAN_IMAGE

    @property
    def files(self) -> tuple[Path | None, ...]:
        """The files of all images of the step."""
        return (self.image, *self.images)


class PerturbationPictures(NamedTuple):
    """A case under one perturbation.

    Attributes:
        key: the perturbation's name in the results.
        name: its display name.
        unit: what its level is counted in; empty where the manifest does not say.
        steps: by rising level; the clean image comes first, but for a series, which has none.
    """

    key: str
    name: str
    unit: str
    steps: list[Step]


class CasePictures(NamedTuple):
    """A case.

    Attributes:
        name: of the case.
        rank: why it was chosen: "good", "median" or "bad".
        perturbations: those that it has any picture of.
    """

    name: str
    rank: str
    perturbations: list[PerturbationPictures]


class SweepPictures(NamedTuple):
    """The pictures of a sweep.

    Attributes:
        dataset: whose cases they are.
        lines: the models' display names, in the order of `Step.predictions`.
        cases: those that have any picture.
    """

    dataset: str
    lines: list[str]
    cases: list[CasePictures]

    def steps(self) -> Iterator[Step]:
        """The steps of all cases and perturbations."""
        return (step for case in self.cases for perturbation in case.perturbations for step in perturbation.steps)


def stored_pictures(sweep: Sweep) -> SweepPictures:
    """Find the pictures in `pictures/` of a sweep's folder, and the scores that stand below them."""
    chosen = sweep.manifest.pictures.cases
    dataset = sweep.manifest.dataset or sweep.datasets[0]  # whose pictures they are
    rows = sweep.results[sweep.results["dataset"].eq(dataset) & sweep.results["replicate"].eq(0)]
    rows = rows[rows["case"].isin(chosen.values())]
    arms = rows.drop_duplicates("line")
    keys = {arm["line"]: arm_key(**{name: arm[name] for name in ARM}) for arm in arms.to_dict("records")}
    notes = _notes(rows)
    cases = []
    for rank, case in chosen.items():
        of_case = rows[rows["case"] == case]
        clean = [(CLEAN, 0.0)] if (of_case["perturbation"] == CLEAN).any() else []
        perturbations = []
        for name in dict.fromkeys(of_case["perturbation"]):
            levels = sorted(set(of_case.loc[of_case["perturbation"] == name, "level"]))
            conditions = [*([] if name in sweep.series else clean), *((name, level) for level in levels)]
            steps = [_step(sweep, *c, case, keys, notes) for c in conditions]
            if name != CLEAN and any(path for step in steps for path in step.files):
                perturbations.append(PerturbationPictures(str(name), sweep.names[str(name)], sweep.unit(name), steps))
        if perturbations:
            cases.append(CasePictures(case, rank, perturbations))
    return SweepPictures(dataset, list(keys), cases)


def _is_white_box(sweep: Sweep, name: str) -> bool:
    return name in sweep.attacks and not sweep.attacks[name].source


def _step(
    sweep: Sweep, name: str, level: float, case: str, keys: Mapping[str, str], notes: Mapping[tuple, str]
) -> Step:
    stored = PictureFolder(sweep.folder, case)
    condition = CLEAN if name == CLEAN else f"{name}_{level:g}"
    white_box = _is_white_box(sweep, name)
    image = stored.image(f"{CLEAN if white_box else condition}.png")
    # A series has labels of its own.
    reference = stored.labels(f"{condition}_reference.png", on=image) or stored.labels("reference.png", on=image)
    like = image or reference
    own = tuple(stored.image(k, f"{condition}_image.png", like=like) for k in keys.values()) if white_box else ()
    predictions = tuple(
        stored.labels(key, f"{condition}.png", on=on or reference)
        for key, on in zip(keys.values(), own or (image,) * len(keys), strict=True)
    )
    below = tuple(notes.get((line, case, name, level), "not run") for line in keys)
    words = ("0 (clean)", _CLEAN_IMAGE) if name == CLEAN else (f"{level:g}", f"{sweep.names[name]} {level:g}")
    return Step(*words, image, reference, predictions, below, own)


def _notes(rows: pd.DataFrame) -> dict[tuple, str]:
    """What stands below a prediction: the whole case's Dice, mean over labels, and whether an object was missed."""
    keys = ["line", "case", "perturbation", "level"]
    dice = rows.groupby(keys, sort=False)["dice"].mean().reset_index().itertuples(index=False, name=None)
    failed = rows[rows["outcome"].isin(["missed", "hallucinated"])].groupby(keys)["outcome"].unique().to_dict()
    return {row[:-1]: " · ".join([f"Dice {row[-1]:.3f}", *failed.get(row[:-1], [])]) for row in dice}
