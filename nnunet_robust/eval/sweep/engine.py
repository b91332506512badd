"""The pipeline: worker threads read, perturb, preprocess and measure ahead of the network, and export, compare and
store behind it. Attacks are made in the network's thread, between its predictions. Memory is bounded by the queues,
whatever the number of conditions; results do not depend on threads.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import torch

from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.inference.device_memory import free_bytes
from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import Logits, SlidingWindow
from nnunet_robust.eval.results.failures import Failure, reason, record
from nnunet_robust.eval.results.parts import Part, is_disk_full
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.sweep.arms import Arm, networks_of
from nnunet_robust.eval.sweep.estimate import Expected
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.sweep.stages import Job, Output, Prepared, Stages
from nnunet_robust.eval.sweep.units import ClaimLostError, Claims, Unit
from nnunet_robust.eval.sweep.work import Run, Work, work_on

_IMAGES_AT_ONCE = 16
_VALUES_AT_ONCE = 1 << 22  # of preprocessed images that go through the network together
_SHARE_OF_MEMORY = 0.5  # of what is free before the first prediction, for logits; networks and images take the rest
_HOST = torch.device("cpu")
_POLL_SECONDS = 1.0  # while other processes have all that is left


class Progress(Protocol):
    """What a sweep tells while it runs."""

    def announce(self, expected: Expected) -> None:
        """Tell what is going to be done, before the first prediction."""

    def start(self, predictions: int) -> None:
        """Tell how many predictions are to be made; it is told again where other processes make some of them."""

    def step(self, case: int, cases: int, condition: str) -> None:
        """Tell that one is finished: case number (from 1), number of cases, name of the condition."""


_Wanted = tuple[Job, torch.Tensor, dict[str, Any]]  # with the preprocessed image, and what its export needs
_Kept = dict[tuple[Job, str], Output | Exception]  # by the model's key


class _Size(NamedTuple):
    """How large images are, by the last ones: the next are taken to be alike.

    Attributes:
        values: of the preprocessed image.
        fits: predictions whose logits fit into memory at a time, those that are being stored counted.
    """

    values: int
    fits: int


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
        self._size: _Size | None = None
        self._fits: float = math.inf  # predictions at a time, by what did not suffice
        self._room: dict[torch.device, int | None] = {}
        self._members = max(window.n_members(run.plan.members_by) for window in run.plan.windows.values())
        # On a GPU, networks are loaded and compiled while the first images are made.
        self._beside = ThreadPoolExecutor(1, "warm-up")
        self._warm: set[SlidingWindow] = set()
        for window in run.plan.windows.values():
            window.make_room = self._make_room

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._beside.shutdown(wait=True, cancel_futures=True)
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
                if self._size is None and job.prepared.exception() is None:
                    self._size = self._size_of([(job, job.prepared.result())])
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
        """How many images go through a network together: fewer where their logits would fill the memory."""
        if self._size is None:
            return 1
        most = _VALUES_AT_ONCE // (self._size.values * self._members)
        return int(max(1, min(_IMAGES_AT_ONCE, most, self._size.fits // 2, self._fits // 2)))

    def _waiting(self) -> int:
        """How many predictions may wait to be stored: none where the next would not fit beside them."""
        if not self._workers:
            return 0
        at_once = self._at_once()
        most = at_once + self._workers
        return most if self._size is None else int(max(0, min(most, min(self._size.fits, self._fits) - at_once)))

    def _size_of(self, ready: Sequence[tuple[Job, Prepared]]) -> _Size:
        """Look at how large some images are, and what their predictions take."""
        plan, values = self._plan, 1
        fits: float = 2 * _IMAGES_AT_ONCE + self._workers  # more are never held
        for job, prepared in ready:
            for model in job.networks:
                data, properties = prepared.data[model.preprocessing]
                window = plan.windows[model.key]
                # An ensemble's logits are kept until those of its last model are there.
                kept = sum(len(arm.models) for arm in job.arms if isinstance(arm, Ensemble))
                held = window.bytes_held(data, plan.members_by) + kept * window.bytes_held(data, ())
                needed = Counter({window.results_device: held})
                needed[_HOST] += _bytes_while_stored(window, data, properties)
                fits = min([fits, *(self._bytes(device) // needed[device] for device in needed)])
                values = max(values, data.numel())
        return _Size(values, int(fits))

    def _bytes(self, device: torch.device) -> float:
        """What logits may take on a device, as it was before the first of them."""
        if device not in self._room:
            free = free_bytes(device)
            self._room[device] = None if free is None else int(_SHARE_OF_MEMORY * free)
        room = self._room[device]
        return math.inf if room is None else room

    def _make_room(self) -> bool:
        """Have all stored that waits, so that its logits leave the device; tell whether anything did."""
        if not self._behind:
            return False
        self._hold_less()
        self._settle_all_but(0)
        return True

    def _hold_less(self) -> None:
        """It was too much for the memory: from now on, half as much."""
        if self._size is not None:
            self._fits = max(1, min(self._fits, self._size.fits) // 2)

    def _warm_up(self, models: Sequence[Model]) -> None:
        for model in models:
            if (window := self._plan.windows[model.key]) not in self._warm:
                self._warm.add(window)
                self._beside.submit(window.warm_up, model.channels)

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
                    self._warm_up(networks_of(arms))
                    for group in [[arm] for arm in arms] if work.white_box else [arms]:
                        yield self._job(work, condition, group, scene)

    def _job(self, work: Work, condition: Condition, arms: list[Arm], scene: Future[Scene]) -> Job:
        """Have an image made: an attack here and now, as no network may predict meanwhile, all others by a worker."""
        attacked, attacking = self._run.attacked(work.unit, condition, arms), None
        if attacked is not None:
            self._beside.submit(int).result()  # until no network is loaded or compiled beside, either
            attacking = _Inline().submit(self._stages.attack, condition, attacked, scene)
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
            self._size = self._size_of(ready)
        kept: _Kept = {}
        for model in self._plan.models:
            wanted = [(job, *prepared.data[model.preprocessing]) for job, prepared in ready if model in job.networks]
            # An ensemble takes a model's mean: its members are told apart for its own rows only.
            by = self._plan.members_by if any(model in job.arms for job, _, _ in wanted) else ()
            if wanted:
                self._predict_with(model, wanted, by, kept)
            self._settle_all_but(self._waiting())
        for ensemble in self._plan.ensembles:
            for job, prepared in ready:
                if ensemble in job.arms:
                    self._pass_on(job, ensemble, [kept[job, m.key] for m in ensemble.models], prepared.image)
            self._settle_all_but(self._waiting())

    def _predict_with(self, model: Model, wanted: Sequence[_Wanted], by: Sequence[str], kept: _Kept) -> None:
        """Have a model predict images together; one by one where that fails."""
        window = self._plan.windows[model.key]
        if not window.choices:
            self._settle_all_but(0)  # what is measured now does not depend on what is held
        try:
            outputs: list[Any] = window.members_many([data for _, data, _ in wanted], by)
        except Exception as error:
            if is_disk_full(error, self._run.output):  # others were stored to make room
                raise
            outputs = [error]
        if len(outputs) < len(wanted):
            if isinstance(outputs.pop(), MemoryError):
                self._hold_less()
            for one in wanted:
                self._predict_with(model, [one], by, kept)
            return
        while outputs:  # nothing of them is left in a variable, where it would stay on the device
            self._take(wanted[-len(outputs)], model, outputs.pop(0), kept)

    def _take(self, wanted: _Wanted, model: Model, logits: Logits | Exception, kept: _Kept) -> None:
        """Pass on what a model predicts of an image, and keep it for ensembles."""
        job, _, properties = wanted
        output = logits if isinstance(logits, Exception) else Output(model, logits, properties)
        if model in job.arms:
            self._pass_on(job, model, [output], None)
        if any(isinstance(arm, Ensemble) and model in arm.models for arm in job.arms):
            kept[job, model.key] = _without_members(output)

    def _pass_on(self, job: Job, arm: Arm, outputs: Sequence[Output | Exception], image: torch.Tensor | None) -> None:
        """Have a prediction stored, or its failure."""
        made = [output for output in outputs if not isinstance(output, Exception)]
        if len(made) < len(outputs):
            self._fail(job, arm, next(output for output in outputs if isinstance(output, Exception)))
        else:
            self._behind.append((job, arm, self._pool.submit(self._stages.store, job, arm, made, image)))

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


def _bytes_while_stored(window: SlidingWindow, data: torch.Tensor, properties: Mapping[str, Any]) -> int:
    """What the export of a prediction takes beside its logits: float32 outputs on the image's grid, and a copy."""
    shape = properties.get("shape_after_cropping_and_before_resampling", data.shape[1:])
    return 2 * 4 * window.num_heads * max(math.prod(map(int, shape)), data[0].numel())
