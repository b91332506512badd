"""A job at work: its commands, their log, and what must end with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nnunet_robust.common import processes
from nnunet_robust.common.errors import UserError
from nnunet_robust.study.folder import Plan, StudyFolder, myself
from nnunet_robust.study.locks import Lock
from nnunet_robust.study.matrix import Job

_TAIL_LINES = 30
_GRACE_SECONDS = 3.0  # less than Slurm leaves between SIGTERM and SIGKILL


class CommandFailedError(Exception):
    """A command ended with an exit code that is not 0."""

    def __init__(self, command: Sequence[str], code: int) -> None:
        super().__init__(f"{command[0]} ended with exit code {code}")
        self.code = code


class NothingToDoError(Exception):
    """What a job needs has failed."""


@dataclass
class Work:
    """One job at work.

    Attributes:
        folder: the study's.
        plan: how it is run.
        job: the job.
        lock: the job's, which its commands inherit.
        log: the job's log.
        slots: GPUs, likewise inherited.
        commands: what was run.
    """

    folder: StudyFolder
    plan: Plan
    job: Job
    lock: Lock
    log: IO[str]
    slots: list[int] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line in the log."""
        self.log.write(f"[study] {text}\n")
        self.log.flush()

    def run(self, command: Sequence[str]) -> None:
        """Run a command, its output in the log; whatever it starts ends with it.

        Raises:
            CommandFailedError: its exit code is not 0.
        """
        self.commands.append(list(command))
        self.say(" ".join(command))
        process = subprocess.Popen(
            [*_executable(command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[self.lock.descriptor, *self.slots],
        )
        self.lock.note(**myself(), group=process.pid, group_started=processes.started(process.pid))
        try:
            code = process.wait()
        finally:
            _end_group(process)
        if code:
            raise CommandFailedError(command, code)


def tail(log: Path) -> list[str]:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        return []


def last_words(log: Path) -> str:
    """What a command said of its failure: its error line, or its last one."""
    lines = [line.strip() for line in tail(log) if line.strip() and not line.startswith("[study]")]
    errors = [line for line in lines if line.startswith("error: ") or line.partition(":")[0].endswith("Error")]
    return (errors or lines or ["it said nothing"])[-1]


def _executable(name: str) -> list[str]:
    if name == "nnunet-robust":
        return [sys.executable, "-m", "nnunet_robust.cli.main"]
    beside = Path(sys.executable).with_name(name)  # the environment's own, also where it is not on PATH
    path = str(beside) if beside.is_file() else shutil.which(name)
    if path is None:
        raise UserError(f"{name} is not installed: run nnunet-robust doctor")
    return [path]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a command, if it runs, and what it has left behind: it would hold the lock."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
