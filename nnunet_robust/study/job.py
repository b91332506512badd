"""One job, as Snakemake starts it: `nnunet-robust study stage FOLDER JOB`.

Every job can be started again at any time, also while an earlier start of it still runs: it waits for a lock, does
what is left, and leaves a marker. A job that has failed for good leaves a marker, too, so that sweeps and reports are
made of what there is; only a failure that is worth another try makes the exit code 1.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import make_folder, write_atomically
from nnunet_robust.common.folders import nnunet_folder
from nnunet_robust.study import command_lines
from nnunet_robust.study.attempts import Attempts
from nnunet_robust.study.config import FOLDERS
from nnunet_robust.study.folder import BLOCKED, FAILED, USABLE, StudyFolder
from nnunet_robust.study.locks import gpu_slots, hold
from nnunet_robust.study.matrix import Job
from nnunet_robust.study.stages import STAGES
from nnunet_robust.study.work import CommandFailedError, NothingToDoError, Work, last_words, tail


def run_job(root: Path, job_id: str) -> int:
    """Do one job of a study.

    Args:
        root: the study's folder.
        job_id: one of `.study/jobs.json`.

    Returns:
        The exit code: 0 when the marker is there, 1 when the job should be tried again.

    Raises:
        UserError: there is no such study, or no such job in it.
    """
    folder = StudyFolder(root.resolve())
    plan = folder.read_plan()
    if job_id not in plan.jobs:
        raise UserError(f"the study in {root} has no job {job_id!r}: see {folder.inside / 'jobs.json'}")
    job = plan.jobs[job_id]
    environment = plan.environment_of(job)
    os.environ.update(environment)
    for variable in set(os.environ) - set(environment):
        del os.environ[variable]
    for variable in FOLDERS:
        make_folder(Path(os.environ[variable]))
    folder.log(job_id).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(hold(_lock_of(folder, job)))
        except UserError as error:  # the dataset has failed, and there is no fold's folder
            _leave_marker(folder, job, BLOCKED if _failed_input(folder, job) else FAILED, str(error))
            return 0
        if folder.marker(job_id).get("digest") == job.digest:
            return 0  # whom this one waited for has done it
        log = stack.enter_context(folder.log(job_id).open("a", encoding="utf-8"))
        return _attempt(Work(folder, plan, job, lock, log))


def _attempt(work: Work) -> int:
    folder, job = work.folder, work.job
    attempts = Attempts(folder, work.plan, job)
    # Sweeps and reports make do with what there is.
    if job.stage not in ("sweep", "report") and (failed := _failed_input(folder, job)):
        _leave_marker(folder, job, BLOCKED, f"{failed} has failed")
        return 0
    if (tried := attempts.fruitless()) > job.retries:
        _leave_marker(folder, job, FAILED, f"killed {tried} times without getting any further", attempts, work)
        return 0
    available = work.plan.gpus if work.plan.executor == "local" else 0
    with gpu_slots(job.gpus if available else 0, available) as (visible, work.slots), attempts.one_more():
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        work.say(f"attempt on {socket.gethostname()}, {datetime.datetime.now():%Y-%m-%d %H:%M:%S}, GPU {visible}")
        try:
            outcome, reason = STAGES[job.stage](work)
            fault: Exception | None = None
        except NothingToDoError as error:
            outcome, reason, fault = BLOCKED, str(error), None
        except (UserError, CommandFailedError) as error:
            outcome, reason, fault = FAILED, str(error), error
    if isinstance(fault, CommandFailedError):
        reason = f"{reason}: {last_words(folder.log(job.id))}"
        # 2 is bad input, which another try does not mend
        if attempts.fruitless() <= job.retries and not (fault.code == 2 and work.commands[-1][0] == "nnunet-robust"):
            work.say(f"failed, to be tried again: {reason}")
            return 1
    _leave_marker(folder, job, outcome, reason, attempts, work)
    return 0


def _failed_input(folder: StudyFolder, job: Job) -> str:
    """A job that this one waited for and that has not succeeded; empty where all have."""
    return next((one for one in job.inputs if folder.marker(one).get("outcome") not in USABLE), "")


def _lock_of(folder: StudyFolder, job: Job) -> Path:
    """What nobody else may work on meanwhile: of nnU-Net's folders, which other studies may have, too."""
    if job.stage == "train":
        return command_lines.fold_folder(job) / ".study.lock"
    if job.stage in ("dataset", "plan"):
        variable = {"dataset": "nnUNet_raw", "plan": "nnUNet_preprocessed"}[job.stage]
        return nnunet_folder(variable) / f".study_{job.what['dataset']:03d}.lock"
    return folder.inside / "locks" / f"{job.id}.lock"


def _leave_marker(
    folder: StudyFolder, job: Job, outcome: str, reason: str, attempts: Attempts | None = None, work: Work | None = None
) -> None:
    marker: dict[str, Any] = {
        "job": job.id,
        "digest": job.digest,
        "outcome": outcome,
        "reason": reason,
        "seconds": 0.0 if attempts is None else round(attempts.seconds(), 1),
        "gpus": job.gpus,
        "device": None if work is None else work.plan.device_of(job),
        "host": socket.gethostname(),
        "finished": round(time.time(), 1),
        "commands": [] if work is None else work.commands,
        "run": None if work is None else work.plan.run,
    }
    if outcome == FAILED:
        marker["log_tail"] = tail(folder.log(job.id))
    write_atomically(folder.done(job.id), json.dumps(marker, indent=1) + "\n")
