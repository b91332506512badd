"""The pipeline: worker threads read, perturb, preprocess and measure ahead of the network, and export, compare and
store behind it. Attacks are made in the network's thread, between its predictions. Memory is bounded by the queues,
whatever the number of conditions; results do not depend on threads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch

from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import Logits
from nnunet_robust.eval.results.failures import Failure, reason, record
from nnunet_robust.eval.results.parts import Part, is_disk_full
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.sweep.arms import Arm
from nnunet_robust.eval.sweep.estimate import Expected
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.sweep.stages import Job, Output, Prepared, Stages
from nnunet_robust.eval.sweep.units import ClaimLostError, Claims, Unit
from nnunet_robust.eval.sweep.work import Run, Work, work_on

_IMAGES_AT_ONCE = 16
_VALUES_AT_ONCE = 1 << 22  # of preprocessed images that go through the network together
_VALUES_WAITING = 1 << 28  # of logits that wait to be stored, for each of the networks' outputs
_POLL_SECONDS = 1.0  # while other processes have all that is left


class Progress(Protocol):
    """What a sweep tells while it runs."""

    def announce(self, expected: Expected) -> None:
        """Tell what is going to be done, before the first prediction."""

    def start(self, predictions: int) -> None:
        """Tell how many predictions are to be made; it is told again where other processes make some of them."""

    def step(self, case: int, cases: int, condition: str) -> None:
        """Tell that one is finished: case number (from 1), number of cases, name of the condition."""


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
        self._run, self._plan, self._claims, self._progress, self._workers = run, run.plan, claims, progress, workers
        self._stages = Stages(run, claims)
        self._numbers = {name: number for number, name in enumerate(cases, 1)}
        # A torch thread for each worker: more would only get into the network's way.
        self._pool: Executor = (
            ThreadPoolExecutor(workers, "sweep", torch.set_num_threads, (1,)) if workers else _Inline()
        )
        self._behind: deque[tuple[Job, Arm, Future[None]]] = deque()
        self._scene: tuple[CaseFiles, Future[Scene]] | None = None
        self._busy: list[Unit] = []
        self._expected: dict[Unit, int] = {}
        self._total = 0
        self._values: int | None = None
        self._members = max(window.n_members(run.plan.members_by) for window in run.plan.windows.values())

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def expect(self, left: Mapping[Unit, int]) -> None:
        """Take note of how many predictions each unit lacks, for the progress."""
        self._expected = dict(left)
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
        ahead: deque[Job] = deque()
        while True:
            # An attack takes long: it is predicted before the next is begun.
            while not (ahead and ahead[-1].attack) and len(ahead) < self._at_once() + self._workers:
                if (job := next(jobs, None)) is None:
                    break
                ahead.append(job)
                if self._values is None:
                    self._look_at_size(job)
            if not ahead:
                break
            batch = [ahead.popleft()]
            # The networks are tried out on the first batch, which therefore is a full one.
            first = not self._plan.windows[batch[0].networks[0].key].choices
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

    def _look_at_size(self, job: Job) -> None:
        if job.prepared.exception() is None:
            self._values = max(data.numel() for data, _ in job.prepared.result().data.values())

    def _jobs(self, units: Sequence[Unit], whole_cases: bool) -> Iterator[Job]:
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
                        load = self._pool.submit(self._stages.load, files)
                        self._scene = files, load
                    scene, arms = self._scene[1], work.todo[condition]
                    for group in [[arm] for arm in arms] if work.white_box else [arms]:
                        yield self._job(work, condition, group, scene)

    def _job(self, work: Work, condition: Condition, arms: list[Arm], scene: Future[Scene]) -> Job:
        """Have an image made: an attack here and now, as no network may predict meanwhile, all others by a worker."""
        attacked = self._run.attacked(work.unit, condition, arms)
        attacking = None if attacked is None else _Inline().submit(self._stages.attack, condition, attacked, scene)
        prepared = self._pool.submit(self._stages.prepare, work, condition, arms, scene, attacking)
        return Job(work, condition, arms, scene, attacking is not None, prepared)

    def _is_due(self, unit: Unit, predictions: int) -> None:
        change = predictions - self._expected.pop(unit, 0)
        if change:
            self._total += change
            self._progress.start(self._total)

    def _predict(self, batch: Sequence[Job]) -> None:
        ready: list[tuple[Job, Prepared]] = []
        for job in batch:
            try:
                ready.append((job, job.prepared.result()))
            except Exception as error:
                for arm in job.arms if job.work.white_box else [None]:
                    self._fail(job, arm, error)
        if ready:
            self._values = max(data.numel() for _, prepared in ready for data, _ in prepared.data.values())
        kept: dict[tuple[Job, str], Output | Exception] = {}
        for model in self._plan.models:
            wanted = [(job, *prepared.data[model.preprocessing]) for job, prepared in ready if model in job.networks]
            # An ensemble takes a model's mean: its members are told apart for its own rows only.
            by = self._plan.members_by if any(model in job.arms for job, _, _ in wanted) else ()
            outputs = self._logits(model, [data for _, data, _ in wanted], by) if wanted else []
            for (job, _, properties), logits in zip(wanted, outputs, strict=True):
                output = logits if isinstance(logits, Exception) else Output(model, logits, properties)
                if model in job.arms:
                    self._pass_on(job, model, [output], None)
                if any(isinstance(arm, Ensemble) and model in arm.models for arm in job.arms):
                    kept[job, model.key] = _without_members(output)
            del outputs
            self._settle_all_but(self._waiting())
        for ensemble in self._plan.ensembles:
            for job, prepared in ready:
                if ensemble in job.arms:
                    self._pass_on(job, ensemble, [kept[job, m.key] for m in ensemble.models], prepared.image)
            self._settle_all_but(self._waiting())

    def _pass_on(self, job: Job, arm: Arm, outputs: Sequence[Output | Exception], image: torch.Tensor | None) -> None:
        """Have a prediction stored, or its failure."""
        made = [output for output in outputs if not isinstance(output, Exception)]
        if len(made) < len(outputs):
            self._fail(job, arm, next(output for output in outputs if isinstance(output, Exception)))
        else:
            self._behind.append((job, arm, self._pool.submit(self._stages.store, job, arm, made, image)))

    def _logits(self, model: Model, images: list[torch.Tensor], by: Sequence[str]) -> list[Logits | Exception]:
        try:
            return list(self._plan.windows[model.key].members_many(images, by))
        except Exception as error:
            if len(images) == 1:
                return [error]
        return [logits for image in images for logits in self._logits(model, [image], by)]

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

    def _fail(self, job: Job, arm: Arm | None, error: Exception) -> None:
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

    def _step(self, job: Job) -> None:
        case = job.work.unit.case
        self._progress.step(self._numbers[case], len(self._numbers), job.condition.name)
        job.work.left -= 1
        if job.work.left == 0:
            self._close(job.work)

    def _close(self, work: Work) -> None:
        if work.lost:
            self._busy.append(work.unit)
            return
        Part.flush(work.parts.values())
        record(self._run.output, work.unit.case, work.unit.perturbation, work.failures)
        self._claims.release(work.unit)


def _without_members(output: Output | Exception) -> Output | Exception:
    return output if isinstance(output, Exception) else output._replace(logits=Logits(output.logits.mean))
