"""A sweep on several devices of one machine: a process for each, on the claims that keep processes apart."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from nnunet_robust.common.faults import in_words
from nnunet_robust.common.interrupts import PATIENCE_SECONDS, Stopped, deaf_children, stoppable
from nnunet_robust.eval.inference.devices import workers_of
from nnunet_robust.eval.results.failures import reason
from nnunet_robust.eval.sweep.estimate import Expected
from nnunet_robust.eval.sweep.parameters import SweepParameters
from nnunet_robust.eval.sweep.progress import JointProgress, SweepProgress
from nnunet_robust.eval.sweep.run import SweepResult
from nnunet_robust.eval.sweep.sweep import run_sweep


@dataclass(eq=False)
class Worker:
    """A process that takes part in a sweep.

    Attributes:
        name: for people: its device.
        process: itself.
        channel: what it tells.
        outcome: what it came to; None while it works, and where it was ended from outside.
    """

    name: str
    process: BaseProcess
    channel: Connection
    outcome: SweepResult | Exception | None = None

    def ended(self) -> None:
        """Take note that nothing more comes from it."""
        self.process.join()
        if self.outcome is None:
            code = self.process.exitcode or 0
            self.outcome = BrokenProcessPool() if code < 0 or code > 128 else RuntimeError(f"it ended with {code}")


def run_on(devices: Sequence[str], parameters: SweepParameters, progress: SweepProgress) -> SweepResult:
    """Run a sweep with a process on each device. Where one fails, the others take over what it had.

    Args:
        devices: "cpu", or "cuda:<its word for CUDA_VISIBLE_DEVICES>", see `devices.gpus_of`.
        parameters: what to run; its workers are shared out, its device is replaced.
        progress: shows what all processes have finished together.

    Raises:
        Exception: every process failed; what the last one failed of, as from `run_sweep`.
    """
    joint, of_each = JointProgress(progress), share(parameters, devices)
    workers: list[Worker] = []
    try:
        for number, device in enumerate(devices, 1):
            workers.append(_start(number, device, of_each))
        return listen(workers, joint, progress)
    finally:  # they give back what they have claimed
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def listen(workers: Sequence[Worker], joint: JointProgress, progress: SweepProgress) -> SweepResult:
    """Pass on what processes tell until all have ended; their faults in a line each, where others go on.

    Args:
        workers: the processes, running.
        joint: shows what all of them have done.
        progress: prints the lines.

    Returns:
        What the last one that finished came to: it has all that the others have made.

    Raises:
        Exception: see `run_on`.
    """
    going = {worker.channel: worker for worker in workers}
    finished: list[SweepResult] = []
    untold: list[Worker] = []  # bad input lets every process fail: then one line is enough
    fault: Exception | None = None
    while going:
        for channel in wait(list(going)):
            assert isinstance(channel, Connection)
            worker = going[channel]
            try:
                what, *told = channel.recv()
            except (EOFError, OSError):
                del going[channel]
                worker.ended()
                if isinstance(worker.outcome, SweepResult):
                    finished.append(worker.outcome)
                elif worker.outcome is not None:
                    joint.lost(worker.name)
                    untold.append(worker)
                    fault = worker.outcome
            else:
                if what == "ended":
                    worker.outcome = _outcome(*told)
                else:
                    getattr(joint, what)(worker.name, *told)
            if joint.begun and (going or finished):
                while untold:
                    progress.say(_failed(untold.pop(0)))
    if not finished:
        assert fault is not None
        raise fault
    return finished[-1]


def _outcome(told: SweepResult | Exception, where: str) -> SweepResult | Exception:
    if isinstance(told, Exception):
        told.__cause__ = RuntimeError(f"in a process of its own:\n{where}")  # for --debug
    return told


def _failed(worker: Worker) -> str:
    assert isinstance(worker.outcome, Exception)
    return f"{worker.name} does no more: {in_words(worker.outcome) or reason(worker.outcome)}; the others go on"


def share(parameters: SweepParameters, devices: Sequence[str]) -> SweepParameters:
    """Return what each of several processes is to run: the same sweep, with its share of the workers.

    Args:
        parameters: of all together.
        devices: one for each process, of one kind, as for `run_on`.
    """
    kind = devices[0].partition(":")[0]
    return replace(
        parameters, device=kind, workers=workers_of(parameters.workers, torch.device(kind), processes=len(devices))
    )


def _start(number: int, device: str, parameters: SweepParameters) -> Worker:
    _, _, visible = device.partition(":")
    ours, theirs = multiprocessing.Pipe(duplex=False)
    # Not forked: CUDA does not survive that. Started one by one, as each is told its GPU by its environment.
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(parameters, theirs), name=device)
    with deaf_children(), _environment({"CUDA_VISIBLE_DEVICES": visible} if visible else {}):
        process.start()
    theirs.close()  # its end alone: when it dies, ours says so
    return Worker(f"process {number} ({device})", process, ours)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Telling:
    """The progress of one process: told to the one that has started it."""

    def __init__(self, channel: Connection) -> None:
        self._channel = channel

    def announce(self, expected: Expected) -> None:
        self._channel.send(("announce", expected))

    def start(self, predictions: int) -> None:
        self._channel.send(("start", predictions))

    def step(self, case: int, cases: int, condition: str) -> None:
        self._channel.send(("step", case, cases, condition))


def _work(parameters: SweepParameters, channel: Connection) -> None:
    """Take part in a sweep: what a process does."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")  # as the command line does
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with stoppable(until_the_end=True):
            try:
                outcome: tuple[SweepResult | Exception, str] = run_sweep(parameters, _Telling(channel)), ""
            except Exception as error:
                outcome = _portable(error), "".join(traceback.format_exception(error))
            channel.send(("ended", *outcome))
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    except BrokenPipeError:  # nobody is there to be told
        sys.exit(1)


def _portable(error: Exception) -> Exception:
    """An error, or where it cannot be sent to another process, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(reason(error))
    return error


def _end_with_parent() -> None:
    """End as if told to where the process that has started this one is no more: killed, as a rule."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_SECONDS)
        os._exit(1)
