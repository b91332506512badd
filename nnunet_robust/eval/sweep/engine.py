"""The pipeline: worker threads read, perturb, preprocess and measure ahead of the network, and export, compare and
store behind it. Memory is bounded by the queues, whatever the number of conditions; results do not depend on threads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from nnunet_robust.common.files import clean_up
from nnunet_robust.eval.attacks.rows import perturbation
from nnunet_robust.eval.images import pictures
from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.images.maps import write_map
from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.members import Members, predict
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import Logits
from nnunet_robust.eval.results.failures import Failure, reason, record
from nnunet_robust.eval.results.results import Condition, is_disk_full
from nnunet_robust.eval.sweep.run import MAPS, Arm, Run, Work, networks_of, work_on
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.sweep.scores import reliability_rows, scores_of
from nnunet_robust.eval.sweep.units import ClaimLostError, Claims, Unit
from nnunet_robust.eval.uncertainty.uncertainty import structure_scores

_IMAGES_AT_ONCE = 16
_VALUES_AT_ONCE = 1 << 22  # of preprocessed images that go through the network together
_VALUES_WAITING = 1 << 28  # of logits that wait to be stored, for each of the networks' outputs
_POLL_SECONDS = 1.0  # while other processes have all that is left


class _Prepared(NamedTuple):
    """An image, ready for the networks."""

    data: dict[str, tuple[torch.Tensor, dict[str, Any]]]  # Model.preprocessing -> what Model.preprocess returns
    image: torch.Tensor | None  # as it was, for an ensemble


class _Output(NamedTuple):
    """What one network says of an image."""

    model: Model
    logits: Logits
    properties: dict[str, Any]


class Progress(Protocol):
    """What a sweep tells while it runs."""

    def start(self, predictions: int) -> None:
        """So many predictions are to be made; said again where other processes make some of them."""

    def step(self, case: int, cases: int, condition: str) -> None:
        """One is finished: case number (from 1), number of cases, name of the condition."""


@dataclass(eq=False)
class _Job:
    """An image on its way: one condition of a unit, for the arms that lack it."""

    work: Work
    condition: Condition
    arms: list[Arm]
    scene: Future[Scene]
    prepared: Future[_Prepared]

    @property
    def networks(self) -> list[Model]:
        return networks_of(self.arms)

    @property
    def attack(self) -> bool:
        return not self.work.unit.as_it_is and perturbation(self.condition.perturbation).uses_victim


class _Inline(Executor):
    """Does everything at once, in the thread that asks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Engine:
    """Computes units. A context manager; the network runs in the thread that calls it.

    Args:
        run: what all units share.
        claims: of this process, open.
        progress: is told of every prediction.
        workers: threads beside the network's; 0: none.
        cases: names of all cases, for the progress.
    """

    def __init__(self, run: Run, claims: Claims, progress: Progress, workers: int, cases: Sequence[str]) -> None:
        self._run, self._claims, self._progress, self._workers = run, claims, progress, workers
        self._numbers = {name: number for number, name in enumerate(cases, 1)}
        # A torch thread for each worker: more would only get into the network's way.
        self._pool: Executor = (
            ThreadPoolExecutor(workers, "sweep", torch.set_num_threads, (1,)) if workers else _Inline()
        )
        self._behind: deque[tuple[_Job, Arm, Future[None]]] = deque()
        self._scene: tuple[CaseFiles, Future[Scene]] | None = None
        self._busy: list[Unit] = []
        self._expected: dict[Unit, int] = {}
        self._total = 0
        self._values: int | None = None
        self._members = max(window.n_members(run.members_by) for window in run.windows.values())

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def expect(self, units: Sequence[Unit]) -> None:
        """Count what is to be done, for the progress."""
        self._expected = {unit: work_on(self._run, unit).left for unit in units}
        self._total = sum(self._expected.values())
        self._progress.start(self._total)

    def process(self, units: Sequence[Unit]) -> None:
        """Compute what is missing of some units, and wait for those that other processes are at.

        What fails is recorded and does not stop the rest.

        Raises:
            OSError: the disk is full.
        """
        left, whole_cases = list(units), True
        while left:
            self._go_through(left, whole_cases)
            if len(self._busy) == len(left) and not whole_cases:
                time.sleep(_POLL_SECONDS)
            left, self._busy, whole_cases = self._busy, [], False
        self._scene = None

    def _go_through(self, units: Sequence[Unit], whole_cases: bool) -> None:
        jobs = self._jobs(units, whole_cases)
        ahead: deque[_Job] = deque()
        while True:
            # An attack takes long: it is predicted and stored before the next is begun.
            while len(ahead) < (1 if ahead and ahead[-1].attack else self._at_once()) + self._workers:
                if (job := next(jobs, None)) is None:
                    break
                ahead.append(job)
                if self._values is None:
                    self._look_at_size(job)
            if not ahead:
                break
            batch = [ahead.popleft()]
            # The networks are tried out on the first batch, which therefore is a full one.
            first = not self._run.windows[batch[0].networks[0].key].choices
            while ahead and len(batch) < self._at_once() and (first or ahead[0].prepared.done()):
                batch.append(ahead.popleft())
            self._predict(batch)
        self._settle_all_but(0)

    def _at_once(self) -> int:
        return min(_IMAGES_AT_ONCE, max(1, _VALUES_AT_ONCE // (self._values * self._members))) if self._values else 1

    def _waiting(self) -> int:
        """How many predictions may wait to be stored: fewer where their members fill the memory."""
        if not self._workers:
            return 0
        most = self._at_once() + self._workers
        return max(1, min(most, _VALUES_WAITING // (self._values * self._members))) if self._values else most

    def _look_at_size(self, job: _Job) -> None:
        if job.prepared.exception() is None:
            self._values = max(data.numel() for data, _ in job.prepared.result().data.values())

    def _jobs(self, units: Sequence[Unit], whole_cases: bool) -> Iterator[_Job]:
        """Claim one unit after the other, and have its images made.

        Args:
            units: sorted by case.
            whole_cases: leave a case of which another process has a unit for later, as every process reads a case
                that it works on.
        """
        theirs: set[str] = set()
        for unit in units:
            if unit.case in theirs and whole_cases:
                self._busy.append(unit)
                continue
            if not work_on(self._run, unit).left:
                self._is_due(unit, 0)
                continue
            if not self._claims.take(unit):
                theirs.add(unit.case)
                self._busy.append(unit)
                continue
            work = work_on(self._run, unit)  # again: another process may just have finished it
            self._is_due(unit, work.left)
            if not work.left:
                self._close(work)
            for condition, files in unit.images:
                if condition in work.todo:
                    if self._scene is None or self._scene[0] != files:
                        load = self._pool.submit(Scene, files, self._run.models[0], self._run.tolerance_mm)
                        self._scene = files, load
                    scene, arms = self._scene[1], work.todo[condition]
                    for group in [[arm] for arm in arms] if work.attacks else [arms]:
                        prepared = self._pool.submit(self._prepare, work, condition, group, scene)
                        yield _Job(work, condition, group, scene, prepared)

    def _is_due(self, unit: Unit, predictions: int) -> None:
        change = predictions - self._expected.pop(unit, 0)
        if change:
            self._total += change
            self._progress.start(self._total)

    def _prepare(self, work: Work, condition: Condition, arms: Sequence[Arm], loading: Future[Scene]) -> _Prepared:
        """Make the image of a condition, measure it, draw it, and preprocess it, once for all models alike."""
        scene, unit, run = loading.result(), work.unit, self._run  # asked for before this, so under way
        attacked = None if unit.as_it_is else run.attacked(condition, arms)
        if attacked is None:
            image = scene.image(condition, run.seed, as_it_is=unit.as_it_is)
        else:
            image = run.attacker.image(scene, condition, attacked)
        self._measure(work, condition, arms[0], scene, image)
        if run.pictured(unit.case, condition):
            if unit.as_it_is:  # the case's reference goes with its clean image, so that a file has one writer
                reference = f"{condition.name}_reference.png" if unit.in_series else "reference.png"
                pictures.write_labels(run.picture(unit.case, reference), scene.label, scene.slice)
            own = run.own_picture(unit.case, arms[0].key, condition)
            picture = own if work.attacks else run.picture(unit.case, condition.name + ".png")
            pictures.write_image(picture, image.numpy(), scene.bounds, scene.slice)
        alike = {model.preprocessing: model for model in networks_of(arms)}
        data = {key: model.preprocess(image.numpy(), scene.properties) for key, model in alike.items()}
        return _Prepared(data, image if any(isinstance(arm, Ensemble) for arm in arms) else None)

    def _measure(self, work: Work, condition: Condition, arm: Arm, scene: Scene, image: torch.Tensor) -> None:
        """Store what an image is like, where that is not known; of an attack on an arm, as the arm's own."""
        stored, unit = work.measured(arm), work.unit
        if condition in stored.rows:
            return
        measured = scene.measured(image, in_series=unit.in_series)
        if work.attacks:
            measured |= {**arm.arm, **scene.spent(image)}
        self._claims.check(unit)
        fixed = {"dataset": self._run.dataset, "patient": scene.files.patient, "case": unit.case}
        stored.add(condition, [{**fixed, **measured}])

    def _predict(self, batch: Sequence[_Job]) -> None:
        ready: list[tuple[_Job, _Prepared]] = []
        for job in batch:
            try:
                ready.append((job, job.prepared.result()))
            except Exception as error:
                for arm in job.arms if job.work.attacks else [None]:
                    self._fail(job, arm, error)
        if ready:
            self._values = max(data.numel() for _, prepared in ready for data, _ in prepared.data.values())
        kept: dict[tuple[_Job, str], _Output | Exception] = {}
        for model in self._run.models:
            wanted = [(job, *prepared.data[model.preprocessing]) for job, prepared in ready if model in job.networks]
            # An ensemble takes a model's mean: its members are told apart for its own rows only.
            by = self._run.members_by if any(model in job.arms for job, _, _ in wanted) else ()
            outputs = self._logits(model, [data for _, data, _ in wanted], by) if wanted else []
            for (job, _, properties), logits in zip(wanted, outputs, strict=True):
                output = logits if isinstance(logits, Exception) else _Output(model, logits, properties)
                if model in job.arms:
                    self._pass_on(job, model, [output], None)
                if any(isinstance(arm, Ensemble) and model in arm.models for arm in job.arms):
                    kept[job, model.key] = _without_members(output)
            del outputs
            self._settle_all_but(self._waiting())
        for ensemble in self._run.ensembles:
            for job, prepared in ready:
                if ensemble in job.arms:
                    self._pass_on(job, ensemble, [kept[job, m.key] for m in ensemble.models], prepared.image)
            self._settle_all_but(self._waiting())

    def _pass_on(self, job: _Job, arm: Arm, outputs: Sequence[_Output | Exception], image: torch.Tensor | None) -> None:
        """Have a prediction stored, or its failure."""
        made = [output for output in outputs if not isinstance(output, Exception)]
        if len(made) < len(outputs):
            self._fail(job, arm, next(output for output in outputs if isinstance(output, Exception)))
        else:
            self._behind.append((job, arm, self._pool.submit(self._finish, job, arm, made, image)))

    def _logits(self, model: Model, images: list[torch.Tensor], by: Sequence[str]) -> list[Logits | Exception]:
        try:
            return list(self._run.windows[model.key].members_many(images, by))
        except Exception as error:
            if len(images) == 1:
                return [error]
        return [logits for image in images for logits in self._logits(model, [image], by)]

    def _finish(self, job: _Job, arm: Arm, outputs: Sequence[_Output], image: torch.Tensor | None) -> None:
        """Store a prediction: files first, the rows that call it finished last."""
        run, unit, condition, scene = self._run, job.work.unit, job.condition, job.scene.result()
        if isinstance(arm, Ensemble):
            assert image is not None
            members = Members([(output.model, output.logits.mean, output.properties) for output in outputs])
            prediction = arm.predict(members, image.numpy(), scene.spacing_mm)
        else:
            prediction = predict(arm, outputs[0].logits, outputs[0].properties)
        metrics = scene.reference.compare(prediction.labels)
        found = prediction.uncertainty
        sure = {} if found is None else structure_scores(found, scene.heads, scene.spacing_mm)
        scores = scores_of(prediction, sure, scene)
        self._claims.check(unit)
        if run.save_predictions:
            path = run.prediction_file(arm.key, unit.case, condition)
            _save_prediction(path, run.models[0], scene, prediction.labels)
        if run.save_maps and found is not None:
            for name in MAPS:
                write_map(run.map_file(arm.key, unit.case, condition, name), getattr(found, name), scene.properties)
        if run.pictured(unit.case, condition):
            picture = run.picture(unit.case, arm.key, condition.name + ".png")
            pictures.write_labels(picture, prediction.labels, scene.slice)
        fixed = {"dataset": run.dataset, **arm.arm, "patient": scene.files.patient, "case": unit.case}
        if found is not None:
            binned = reliability_rows(prediction, scene)
            job.work.reliability[arm.key].add(condition, [{**fixed, **row} for row in binned])
        if arm.key in run.promises:
            kept = run.promises[arm.key].rows(prediction, sure, scene)
            rows = [{**fixed, **row, "dice": metrics[row["label"]].dice} for row in kept]
            job.work.bounds[arm.key].add(condition, rows)
        rows = [{**fixed, "label": label, **asdict(values), **scores[label]} for label, values in metrics.items()]
        job.work.results[arm.key].add(condition, rows)

    def _settle_all_but(self, left: int) -> None:
        while len(self._behind) > left:
            self._settle()

    def _settle(self) -> None:
        """Wait for the oldest prediction that is being stored."""
        job, arm, future = self._behind.popleft()
        try:
            future.result()
        except Exception as error:
            self._fail(job, arm, error)
        else:
            self._step(job)

    def _fail(self, job: _Job, arm: Arm | None, error: Exception) -> None:
        """Record why a prediction, or (None) all of an image, failed."""
        if is_disk_full(error, self._run.output):
            raise error
        if isinstance(error, ClaimLostError):
            job.work.lost = True
        else:
            unreadable = job.scene.exception() is not None
            level = "" if unreadable or job.condition == Condition.clean() else f"{job.condition.level:g}"
            key = arm.key if arm else ""
            job.work.failures.append(Failure(job.work.unit.case, job.condition.perturbation, level, key, reason(error)))
        for _ in [arm] if arm else job.arms:
            self._step(job)

    def _step(self, job: _Job) -> None:
        case = job.work.unit.case
        self._progress.step(self._numbers[case], len(self._numbers), job.condition.name)
        job.work.left -= 1
        if job.work.left == 0:
            self._close(job.work)

    def _close(self, work: Work) -> None:
        if work.lost:
            self._busy.append(work.unit)
            return
        record(self._run.output, work.unit.case, work.unit.perturbation, work.failures)
        self._claims.release(work.unit)


def _without_members(output: _Output | Exception) -> _Output | Exception:
    return output if isinstance(output, Exception) else output._replace(logits=Logits(output.logits.mean))


def _save_prediction(path: Path, model: Model, scene: Scene, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp_{path.name}")  # the writer goes by the ending
    with clean_up(temporary):
        model.reader.write_seg(labels, str(temporary), scene.properties)
        temporary.replace(path)
