"""A run, and what of a unit is not done yet, by the files of the output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from nnunet_robust.eval.attacks.rows import perturbation
from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.results.failures import Failure
from nnunet_robust.eval.results.results import (
    ATTACK_COLUMNS,
    BOUND_COLUMNS,
    INPUT_COLUMNS,
    RELIABILITY_COLUMNS,
    RESULT_COLUMNS,
    Condition,
    Part,
)
from nnunet_robust.eval.sweep.attacker import Attacker
from nnunet_robust.eval.sweep.guarantees import Promises
from nnunet_robust.eval.sweep.units import Unit

MAPS = ("entropy", "mutual_information")
"""Names of the maps of uncertainty, attributes of `Uncertainty`."""

Arm: TypeAlias = Model | Ensemble
"""What has rows of its own in `results.csv`."""


def networks_of(arms: Sequence[Arm]) -> list[Model]:
    """The models that have to predict for some arms: these themselves, and the members of ensembles."""
    wanted = [model for arm in arms for model in (arm.models if isinstance(arm, Ensemble) else [arm])]
    return list({model.key: model for model in wanted}.values())


@dataclass(frozen=True)
class Run:
    """What is the same for all units of a run.

    Attributes:
        output: folder of the results.
        dataset: name of the dataset, for the tables.
        models: all of them.
        ensembles: of these models.
        windows: model key -> its sliding window.
        promises: model key -> its calibration, where it has one.
        sources: name -> the model whose attacked images all models get.
        attacker: makes attacked images.
        members_by: how a model's members are told apart, see `sliding_window.MEMBERS_BY`; empty: not at all.
        seed: of the perturbations.
        tolerance_mm: of the normalised surface distance.
        save_predictions: keep the segmentations.
        save_maps: keep the maps of uncertainty.
        shown: cases that the report shows; may grow while the sweep runs.
    """

    output: Path
    dataset: str
    models: Sequence[Model]
    ensembles: Sequence[Ensemble]
    windows: Mapping[str, SlidingWindow]
    promises: Mapping[str, Promises]
    sources: Mapping[str, Model]
    attacker: Attacker
    members_by: Sequence[str]
    seed: int
    tolerance_mm: float
    save_predictions: bool
    save_maps: bool
    shown: set[str] = field(default_factory=set)

    @property
    def arms(self) -> list[Arm]:
        """All that are compared."""
        return [*self.models, *self.ensembles]

    def scores(self, arm: Arm) -> bool:
        """Whether an arm's members are told apart."""
        return bool(self.members_by) or isinstance(arm, Ensemble)

    def inputs(self, perturbation: str, case: str) -> Part:
        """The rows of `inputs.csv` of a unit."""
        return Part(self.output / "parts" / "inputs" / perturbation / f"{case}.csv", INPUT_COLUMNS)

    def results(self, key: str, perturbation: str, case: str) -> Part:
        """The rows of `results.csv` of a unit and a model."""
        return Part(self.output / "parts" / key / perturbation / f"{case}.csv", RESULT_COLUMNS)

    def reliability(self, key: str, perturbation: str, case: str) -> Part:
        """The rows of `reliability.csv` of a unit and an arm."""
        return Part(self.output / "parts" / "reliability" / key / perturbation / f"{case}.csv", RELIABILITY_COLUMNS)

    def white_box(self, unit: Unit) -> bool:
        """Whether every model has images of its own in a unit: attacks on itself."""
        return not unit.as_it_is and perturbation(unit.perturbation).white_box

    def attacked(self, condition: Condition, arms: Sequence[Arm]) -> Model | None:
        """The model that a condition attacks, for arms that get the same image; None: it is no attack."""
        row = perturbation(condition.perturbation)
        if not row.uses_victim:
            return None
        if row.source:
            return self.sources[row.source]
        (model,) = networks_of(arms)  # ensembles are refused before it comes to this
        return model

    def attacks(self, key: str, perturbation: str, case: str) -> Part:
        """The rows of `attacks.csv` of a unit and a model."""
        return Part(self.output / "parts" / "attacks" / key / perturbation / f"{case}.csv", ATTACK_COLUMNS)

    def bounds(self, key: str, perturbation: str, case: str) -> Part:
        """The rows of `bounds.csv` of a unit and a model."""
        return Part(self.output / "parts" / "bounds" / key / perturbation / f"{case}.csv", BOUND_COLUMNS)

    def prediction_file(self, key: str, case: str, condition: Condition) -> Path:
        """Where a segmentation is kept."""
        ending = self.models[0].predictor.dataset_json["file_ending"]
        return self.output / "predictions" / key / condition.name / f"{case}{ending}"

    def map_file(self, key: str, case: str, condition: Condition, name: str) -> Path:
        """Where a map of uncertainty is kept."""
        return self.output / "maps" / key / condition.name / f"{case}_{name}.nii.gz"

    def picture(self, case: str, *names: str) -> Path:
        """Where a picture lies."""
        return self.output.joinpath("pictures", case, *names)

    def own_picture(self, case: str, key: str, condition: Condition) -> Path:
        """Where the picture of a model's own image lies, under a condition that is an attack on it."""
        return self.picture(case, key, f"{condition.name}_image.png")

    def pictured(self, case: str, condition: Condition) -> bool:
        """Whether there are pictures of a condition."""
        return case in self.shown and condition.replicate == 0


@dataclass(eq=False)
class Work:
    """A unit, and what of it is not done.

    Attributes:
        unit: which.
        inputs: its rows in `inputs.csv`.
        results: arm's key -> its rows in `results.csv`.
        reliability: the same in `reliability.csv`, of arms whose members are told apart.
        bounds: the same in `bounds.csv`, of models that are calibrated.
        attacks: the same in `attacks.csv`, where every model has images of its own.
        todo: condition -> the arms that lack it.
        left: predictions that are neither made nor failed.
        failures: what failed.
        lost: another process has taken it over.
    """

    unit: Unit
    inputs: Part
    results: dict[str, Part]
    reliability: dict[str, Part]
    bounds: dict[str, Part]
    attacks: dict[str, Part]
    todo: dict[Condition, list[Arm]]
    left: int
    failures: list[Failure] = field(default_factory=list)
    lost: bool = False

    def measured(self, arm: Arm) -> Part:
        """Where stands what was measured of an arm's images."""
        return self.attacks.get(arm.key, self.inputs)


def work_on(run: Run, unit: Unit) -> Work:
    """What is to be done of a unit, by the files."""
    inputs = run.inputs(unit.perturbation, unit.case)
    results = {arm.key: run.results(arm.key, unit.perturbation, unit.case) for arm in run.arms}

    scored = [arm.key for arm in run.arms if run.scores(arm)]
    reliability = {key: run.reliability(key, unit.perturbation, unit.case) for key in scored}
    bounds = {key: run.bounds(key, unit.perturbation, unit.case) for key in run.promises}
    white_box = run.white_box(unit)
    attacked = run.arms if white_box else []
    attacks = {arm.key: run.attacks(arm.key, unit.perturbation, unit.case) for arm in attacked}

    def finished(arm: Arm, condition: Condition) -> bool:
        files = []
        if run.save_predictions:
            files.append(run.prediction_file(arm.key, unit.case, condition))
        if run.save_maps and run.scores(arm):
            files += [run.map_file(arm.key, unit.case, condition, name) for name in MAPS]
        if run.pictured(unit.case, condition):
            name = condition.name + ".png"
            own = run.own_picture(unit.case, arm.key, condition)
            files += [own if white_box else run.picture(unit.case, name), run.picture(unit.case, arm.key, name)]
        parts = [attacks.get(arm.key, inputs), results[arm.key], *([bounds[arm.key]] if arm.key in bounds else [])]
        done = all(condition in part.rows for part in parts)
        return done and all(file.is_file() for file in files)

    todo = {c: arms for c, _ in unit.images if (arms := [arm for arm in run.arms if not finished(arm, c)])}
    return Work(unit, inputs, results, reliability, bounds, attacks, todo, sum(map(len, todo.values())))
