"""What becomes of an image before the networks and after them: made, measured, preprocessed; compared and stored."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nnunet_robust.common.files import atomic_path
from nnunet_robust.eval.images import pictures
from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.images.maps import write_map
from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.members import Members, Prediction, predict
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import Logits
from nnunet_robust.eval.results.tables import TABLES, Condition
from nnunet_robust.eval.sweep.arms import Arm, networks_of
from nnunet_robust.eval.sweep.rows import ROWS, Outcome
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.sweep.units import Claims
from nnunet_robust.eval.sweep.work import MAPS, Run, Work
from nnunet_robust.eval.uncertainty.uncertainty import structure_scores


class Prepared(NamedTuple):
    """An image, ready for the networks."""

    data: dict[str, tuple[torch.Tensor, dict[str, Any]]]  # Model.preprocessing -> what Model.preprocess returns
    image: torch.Tensor | None  # as it was, for an ensemble


class Output(NamedTuple):
    """What one network predicts of an image."""

    model: Model
    logits: Logits
    properties: dict[str, Any]


@dataclass(eq=False)
class Job:
    """An image on its way: one condition of a unit, for the arms that lack it."""

    work: Work
    condition: Condition
    arms: list[Arm]
    scene: Future[Scene]
    attack: bool  # whether the image is one on a model
    prepared: Future[Prepared]

    @property
    def networks(self) -> list[Model]:
        """The models that have to predict for the arms."""
        return networks_of(self.arms)


class Stages:
    """The stages of a run. Threads may use them at once.

    Args:
        run: what all units share.
        claims: of this process, open.
    """

    def __init__(self, run: Run, claims: Claims) -> None:
        self._run, self._claims = run, claims

    def load(self, files: CaseFiles) -> Scene:
        """Read a case."""
        plan = self._run.plan
        device = plan.device if plan.parameters.precision == "fast" else None
        return Scene(files, plan.models[0], plan.parameters.tolerance_mm, plan.background, device)

    def attack(self, condition: Condition, attacked: Model, loading: Future[Scene]) -> torch.Tensor:
        """Make the image of a condition that is an attack; in the networks' thread alone, see `Attacker`."""
        return self._run.attacker.image(loading.result(), condition, attacked)

    def prepare(
        self,
        work: Work,
        condition: Condition,
        arms: Sequence[Arm],
        loading: Future[Scene],
        attacking: Future[torch.Tensor] | None,
    ) -> Prepared:
        """Make the image of a condition, measure it, draw it, and preprocess it, once for all models alike.

        Args:
            work: the unit.
            condition: which.
            arms: that lack it.
            loading: the case, asked for before this, so under way.
            attacking: of an attack, its image, which is there; None for all others.
        """
        scene = loading.result()
        if attacking is None:
            image = scene.image(condition, self._run.plan.parameters.seed, as_it_is=work.unit.as_it_is)
        else:
            image = attacking.result()
        self._measure(work, condition, arms[0], scene, image)
        if self._run.pictured(work.unit.case, condition):
            self._draw(work, condition, arms[0], scene, image)
        alike = {model.preprocessing: model for model in networks_of(arms)}
        data = {key: model.preprocess(image, scene.properties) for key, model in alike.items()}
        return Prepared(data, image if any(isinstance(arm, Ensemble) for arm in arms) else None)

    def _measure(self, work: Work, condition: Condition, arm: Arm, scene: Scene, image: torch.Tensor) -> None:
        """Store what an image is like, where that is not known; of an attack on an arm, as the arm's own."""
        stored, unit = work.measured(arm), work.unit
        if condition in stored.rows:
            return
        measured = scene.measured(image, in_series=unit.in_series)
        if work.white_box:
            measured |= {**arm.arm, **scene.spent(image)}
        self._claims.check(unit)
        stored.add(condition, [{**self._case_columns(scene), **measured}])

    def _draw(self, work: Work, condition: Condition, arm: Arm, scene: Scene, image: torch.Tensor) -> None:
        run, unit = self._run, work.unit
        if unit.as_it_is:  # the case's reference goes with its clean image, so that a file has one writer
            reference = f"{condition.name}_reference.png" if unit.in_series else "reference.png"
            pictures.write_labels(run.picture(unit.case, reference), scene.label, scene.slice)
        own = run.own_picture(unit.case, arm.key, condition)
        picture = own if work.white_box else run.picture(unit.case, condition.name + ".png")
        pictures.write_image(picture, image.cpu().numpy(), scene.bounds, scene.slice)

    def store(self, job: Job, arm: Arm, outputs: Sequence[Output], image: torch.Tensor | None) -> None:
        """Store a prediction: files first, the rows that call it finished last."""
        scene = job.scene.result()
        prediction = _predicted(arm, outputs, image, scene)
        metrics = scene.reference.compare(prediction.labels)
        uncertainty = prediction.uncertainty
        scores = {} if uncertainty is None else structure_scores(uncertainty, scene.label_layout, scene.spacing_mm)
        outcome = Outcome(prediction, metrics, scores, scene, self._run.plan.guarantees.get(arm.key))
        self._claims.check(job.work.unit)
        self._write_files(job, arm, scene, prediction)
        fixed = {**self._case_columns(scene), **arm.arm}
        for table in TABLES:
            part = job.work.part(table, arm)
            if table.name in ROWS and part is not None:
                part.add(job.condition, [{**fixed, **row} for row in ROWS[table.name](outcome)])

    def _write_files(self, job: Job, arm: Arm, scene: Scene, prediction: Prediction) -> None:
        run, condition, case = self._run, job.condition, job.work.unit.case
        if run.plan.parameters.save_predictions:
            path = run.prediction_file(arm.key, case, condition)
            _save_prediction(path, run.plan.models[0], scene, prediction.labels)
        if run.plan.parameters.save_uncertainty and prediction.uncertainty is not None:
            for name in MAPS:
                uncertainty = getattr(prediction.uncertainty, name)
                write_map(run.map_file(arm.key, case, condition, name), uncertainty, scene.properties)
        if run.pictured(case, condition):
            picture = run.picture(case, arm.key, condition.name + ".png")
            pictures.write_labels(picture, prediction.labels, scene.slice)

    def _case_columns(self, scene: Scene) -> dict[str, Any]:
        files = scene.files
        return {"dataset": self._run.plan.identity.dataset, "patient": files.patient, "case": files.name}


def _predicted(arm: Arm, outputs: Sequence[Output], image: torch.Tensor | None, scene: Scene) -> Prediction:
    if not isinstance(arm, Ensemble):
        return predict(arm, outputs[0].logits, outputs[0].properties)
    assert image is not None
    members = Members([(output.model, output.logits.mean, output.properties) for output in outputs])
    return arm.predict(members, image.cpu().numpy(), scene.spacing_mm)


def _save_prediction(path: Path, model: Model, scene: Scene, labels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        model.reader.write_seg(labels, str(temporary), scene.properties)
