"""Studies whose truth is known: scores drawn by a model, given to the verdict or written as a sweep's output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.eval.statistics.contrasts import Sample

NAMES = ("nnUNetTrainer", "nnUNetTrainerNoSkip", "nnUNetTrainerAttentionGated", "nnUNetTrainerDenseSkip",
         "nnUNetTrainerAdditiveSkip")  # fmt: skip
PERTURBATIONS = ("speckle_noise", "gaussian_noise", "gaussian_blur")
DATASET = "Dataset501_Simulated"

_MEAN, _OF_PATIENTS, _OF_REST = 0.8, 0.05, 0.2  # the rest is a fifth of the variance of a patient's difference
_FAILS = 0.05

Shape = Literal["normal", "heavy", "dice", "failing"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """How a study is drawn: y = mean + patient + (architecture x patient) + training + rest, at each condition.

    Attributes:
        trainings: of each architecture; their number is that of the architectures.
        n_patients: patients.
        n_levels: of each of the `PERTURBATIONS`; the clean images are one condition more.
        error: standard error of a difference by the patients, one training each; what patients vary by follows from it.
        rho: correlation of the effects of one patient, or training, between two conditions.
        training_sd: of the trainings' effects.
        planted: what the last architecture is better by.
        only: the perturbation under which it is better; everywhere if it is empty.
        shape: "normal"; "heavy" (Student's t with 3 degrees of freedom); "dice" (beta(19, 1), mean 0.95, with 3 % of
            the scores 0; `error` does not hold); "failing" (normal, and the first architecture is at about 0 in 5 % of
            the scores and better in all others, so that the means are the same).
    """

    trainings: tuple[int, ...] = (1, 1)
    n_patients: int = 20
    n_levels: int = 4
    error: float = 0.01
    rho: float = 0.5
    training_sd: float = 0.0
    planted: float = 0.0
    only: str = ""
    shape: Shape = "normal"

    @property
    def conditions(self) -> list[tuple[str, float]]:
        """(perturbation, level), the clean images first."""
        levels = [round(0.1 * (i + 1), 1) for i in range(self.n_levels)]
        return [(CLEAN, 0.0), *((name, level) for name in PERTURBATIONS for level in levels)]

    @property
    def names(self) -> tuple[str, ...]:
        """The architectures."""
        return NAMES[: len(self.trainings)]

    @property
    def lines(self) -> list[str]:
        """The trained models; those of an architecture that is trained repeatedly have a seed in their name."""
        return [
            name if n == 1 else f"{name}_seed{seed}"
            for name, n in zip(self.names, self.trainings, strict=True)
            for seed in range(n)
        ]

    @property
    def owner(self) -> NDArray[np.intp]:
        """(lines,), the index of each one's architecture."""
        return np.repeat(np.arange(len(self.trainings)), self.trainings)

    @property
    def better(self) -> list[bool]:
        """(conditions,), where the last architecture is better."""
        return [bool(self.planted) and self.only in ("", name) for name, _ in self.conditions]


class Study(NamedTuple):
    """A study that was drawn.

    Attributes:
        design: what it was drawn by.
        scores: (trained models, conditions, patients).
    """

    design: Design
    scores: Array

    @property
    def samples(self) -> dict[tuple[str, str, float], Sample]:
        """What `statistics.verdict.decide` takes, with the keys of `verdicts`."""
        design = self.design
        patients = [f"p{i:03d}" for i in range(design.n_patients)]
        return {
            (DATASET, *condition): Sample(design.names, design.lines, design.owner, patients, self.scores[:, j])
            for j, condition in enumerate(design.conditions)
        }

    def write(self, folder: Path) -> Path:
        """Write `results.csv` and `manifest.json` as a sweep does, and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(list(self._rows())).to_csv(folder / "results.csv", index=False)
        levels = sorted({level for name, level in self.design.conditions if name != CLEAN})
        manifest = {
            "dataset": DATASET,
            "perturbations": {name: {"levels": levels, "unit": "", "reference": ""} for name in PERTURBATIONS},
            "assumptions": ["These scores were drawn at random."],
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        return folder

    def _rows(self) -> Iterator[dict[str, object]]:
        fixed = {"dataset": DATASET, "plans": "nnUNetPlans", "configuration": "2d", "fold": "0", "patch_size": "64x64"}
        fixed |= {"tile_size": "64x64", "replicate": 0, "label": "foreground", "iou": 0.5, "hd95_mm": 2.0}
        fixed |= {"assd_mm": 1.0, "nsd": 0.5, "volume_ratio": 1.0, "n_ref": 100, "n_pred": 100, "outcome": "ok"}
        for line, of_line in zip(self.design.lines, self.scores, strict=True):
            for (perturbation, level), of_condition in zip(self.design.conditions, of_line, strict=True):
                for i, dice in enumerate(of_condition):
                    where = {"perturbation": perturbation, "level": level, "patient": f"p{i:03d}", "case": f"c{i:03d}"}
                    yield {**fixed, **where, "model": line, "dice": dice}


def draw(design: Design, *seed: str | int | float) -> Study:
    """Draw a study.

    Args:
        design: how.
        seed: names and numbers that tell it from other studies.
    """
    generator = numpy_generator("simulated study", *seed)
    owner, n_conditions, n = design.owner, len(design.conditions), design.n_patients

    def effects(*shape: int) -> Array:
        """(first, conditions, others): with variance 1 and the correlation `rho` between conditions."""
        first, *others = shape
        both = [_noise(generator, design.shape, (first, k, *others)) for k in (1, n_conditions)]
        return np.sqrt(design.rho) * both[0] + np.sqrt(1 - design.rho) * both[1]

    of_patients = effects(1, n)
    of_names = effects(len(design.trainings), n)[owner]
    of_lines = effects(len(owner), 1)
    rest = _noise(generator, design.shape, (len(owner), n_conditions, n))
    if design.shape == "dice":
        scores = _like_dice(np.sqrt(0.6) * of_patients + np.sqrt(0.3) * of_names + np.sqrt(0.1) * rest, generator)
    else:
        apart = design.error * np.sqrt(n / 2)
        scores = _MEAN + _OF_PATIENTS * of_patients
        scores = scores + apart * (np.sqrt(1 - _OF_REST) * of_names + np.sqrt(_OF_REST) * rest)
    if design.shape == "failing":
        fails = generator.random((n_conditions, n)) < _FAILS
        scores[owner == 0] += _MEAN * (_FAILS - fails)
    scores = scores + design.training_sd * of_lines
    scores[np.ix_(owner == owner[-1], np.flatnonzero(design.better))] += design.planted
    return Study(design, scores)


def _noise(generator: np.random.Generator, shape: Shape, size: tuple[int, ...]) -> Array:
    """Variance 1."""
    if shape == "heavy":
        return generator.standard_t(3, size) / np.sqrt(3)
    return generator.standard_normal(size)


def _like_dice(normal: Array, generator: np.random.Generator) -> Array:
    """Scores of beta(19, 1), with some failures."""
    from scipy.special import ndtr

    return np.asarray(np.where(generator.random(normal.shape) < 0.03, 0.0, ndtr(normal) ** (1 / 19)))
