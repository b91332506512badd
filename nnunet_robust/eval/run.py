"""A run, and what of a unit is not done yet, by the files of the output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_robust.eval.failures import Failure
from nnunet_robust.eval.models import Model
from nnunet_robust.eval.results import INPUT_COLUMNS, RESULT_COLUMNS, Condition, Part
from nnunet_robust.eval.sliding_window import SlidingWindow
from nnunet_robust.eval.units import Unit


@dataclass(frozen=True)
class Run:
    """What is the same for all units of a run.

    Attributes:
        output: folder of the results.
        dataset: name of the dataset, for the tables.
        models: all of them.
        windows: model key -> its sliding window.
        seed: of the perturbations.
        tolerance_mm: of the normalised surface distance.
        save_predictions: keep the segmentations.
        shown: cases that the report shows; may grow while the sweep runs.
    """

    output: Path
    dataset: str
    models: Sequence[Model]
    windows: Mapping[str, SlidingWindow]
    seed: int
    tolerance_mm: float
    save_predictions: bool
    shown: set[str] = field(default_factory=set)

    def inputs(self, perturbation: str, case: str) -> Part:
        """The rows of `inputs.csv` of a unit."""
        return Part(self.output / "parts" / "inputs" / perturbation / f"{case}.csv", INPUT_COLUMNS)

    def results(self, key: str, perturbation: str, case: str) -> Part:
        """The rows of `results.csv` of a unit and a model."""
        return Part(self.output / "parts" / key / perturbation / f"{case}.csv", RESULT_COLUMNS)

    def prediction_file(self, model: Model, case: str, condition: Condition) -> Path:
        """Where a segmentation is kept."""
        ending = model.predictor.dataset_json["file_ending"]
        return self.output / "predictions" / model.key / condition.name / f"{case}{ending}"

    def picture(self, case: str, *names: str) -> Path:
        """Where a picture lies."""
        return self.output.joinpath("pictures", case, *names)

    def pictured(self, case: str, condition: Condition) -> bool:
        """Whether there are pictures of a condition."""
        return case in self.shown and condition.replicate == 0


@dataclass(eq=False)
class Work:
    """A unit, and what of it is not done.

    Attributes:
        unit: which.
        inputs: its rows in `inputs.csv`.
        results: model key -> its rows in `results.csv`.
        todo: condition -> the models that lack it.
        left: predictions that are neither made nor failed.
        failures: what failed.
        lost: another process has taken it over.
    """

    unit: Unit
    inputs: Part
    results: dict[str, Part]
    todo: dict[Condition, list[Model]]
    left: int
    failures: list[Failure] = field(default_factory=list)
    lost: bool = False


def work_on(run: Run, unit: Unit) -> Work:
    """What is to be done of a unit, by the files."""
    inputs = run.inputs(unit.perturbation, unit.case)
    results = {model.key: run.results(model.key, unit.perturbation, unit.case) for model in run.models}

    def finished(model: Model, condition: Condition) -> bool:
        files = []
        if run.save_predictions:
            files.append(run.prediction_file(model, unit.case, condition))
        if run.pictured(unit.case, condition):
            name = condition.name + ".png"
            files += [run.picture(unit.case, name), run.picture(unit.case, model.key, name)]
        done = condition in results[model.key].rows and condition in inputs.rows
        return done and all(file.is_file() for file in files)

    todo = {c: models for c, _ in unit.images if (models := [m for m in run.models if not finished(m, c)])}
    return Work(unit, inputs, results, todo, sum(map(len, todo.values())))
