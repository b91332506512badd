"""A study's folder: what its driver, its jobs and whoever watches it leave and read there.

study.yaml                       what was run last
.study/jobs.json                 the jobs of it, and how they are run
.study/done/<stage>/<job>.json   a marker: the job is over, and how it went
.study/attempts/<stage>/<job>.jsonl   a line for each time that it was begun, and for each time that it ended
.study/running/<stage>/<job>.json     who is at it; touched every `BEAT_SECONDS`
.study/driver.json, .study/lock  who runs the study
logs/<stage>/<job>.log           what the job's commands print
sweeps/<sweep>-<dataset>-...     results and reports
study_failures.csv               what is missing, and why
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_robust.common import processes
from nnunet_robust.common.environment import environment_for
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.json_files import read_json
from nnunet_robust.study.config import FOLDERS
from nnunet_robust.study.matrix import Job, from_json
from nnunet_robust.study.state import HOLDER, JOBS, MARKER, read_state

BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""Who is on another machine and has not touched its file for so long is dead."""

# Outcomes of a job.
DONE = "done"
PARTIAL = "partial"  # a sweep some of whose predictions failed, a dataset some of whose cases were left out
FAILED = "failed"
BLOCKED = "blocked"  # something that it needs has failed
USABLE = (DONE, PARTIAL)

_AGAIN = "run the study again, which writes it anew"


@dataclass(frozen=True)
class Plan:
    """How a study is run: what every job must know.

    Attributes:
        name: of the study.
        run: of this driver; attempts of another do not count as failures.
        executor: Snakemake's.
        gpus: GPUs that jobs share on one machine, or may hold at once on a cluster; 0: they run on the CPU.
        device: as in `config.Study`.
        environment: variables of every job, nnU-Net's folders among them.
        jobs: by id, each after those that it waits for.
    """

    name: str
    run: str
    executor: str
    gpus: int
    device: str | None
    environment: Mapping[str, str]
    jobs: Mapping[str, Job]

    def environment_of(self, job: Job) -> dict[str, str]:
        """All variables of one job: the shell's and the study's, as its stage needs them."""
        return environment_for(job.stage, {**os.environ, **self.environment})

    def device_of(self, job: Job) -> str:
        """nnU-Net's `-device` for a job."""
        return self.device or ("cuda" if job.gpus else "cpu")


@dataclass(frozen=True)
class StudyFolder:
    """Where things are in a study's folder.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def inside(self) -> Path:
        """What nobody but the study itself needs to look at."""
        return self.root / ".study"

    def done(self, job: str) -> Path:
        """The marker of a job."""
        return self.inside / "done" / f"{job}.json"

    def running(self, job: str) -> Path:
        """Who is at a job."""
        return self.inside / "running" / f"{job}.json"

    def attempts(self, job: str) -> Path:
        """When a job was begun and ended."""
        return self.inside / "attempts" / f"{job}.jsonl"

    def log(self, job: str) -> Path:
        """What a job's commands print."""
        return self.root / "logs" / f"{job}.log"

    def write_plan(self, plan: Plan) -> None:
        """Leave word of how the study is run."""
        data = {**vars(plan), "jobs": [asdict(job) for job in plan.jobs.values()]}
        write_atomically(self.inside / "jobs.json", json.dumps(data, indent=1) + "\n")

    def read_plan(self) -> Plan:
        """How the study is run.

        Raises:
            UserError: no study was run here.
        """
        path = self.inside / "jobs.json"
        if not path.is_file():
            raise UserError(f"no study was run in {self.root}: nnunet-robust study run STUDY.yaml")
        data = read_json(path, _AGAIN, JOBS)
        known = {name: data[name] for name in Plan.__dataclass_fields__}
        return Plan(**{**known, "jobs": {entry["id"]: from_json(entry) for entry in data["jobs"]}})

    def marker(self, job: str) -> dict[str, Any]:
        """The marker of a job; empty where it is not over."""
        found = read_state(self.done(job), MARKER)
        return found and {"job": job, "digest": "", "reason": "", "seconds": 0.0, "commands": [], **found}

    def at_work(self, job: str) -> dict[str, Any]:
        """Who is at a job; empty where nobody is."""
        path = self.running(job)
        return holder if (holder := read_state(path, HOLDER)) and is_alive(path, holder) else {}


def myself() -> dict[str, Any]:
    """What `is_alive` needs to know of this process."""
    pid = os.getpid()
    return {"host": processes.host(), "pid": pid, "started": processes.started(pid)}


def is_alive(path: Path, holder: Mapping[str, Any]) -> bool:
    """Whether the process that left a file lives: asked of the system on its machine, on others by the file's age."""
    if holder.get("host") == processes.host():
        return processes.lives(holder["pid"], holder.get("started", ""))
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


def nnunet_folders(environment: Mapping[str, str], root: Path) -> dict[str, str]:
    """nnU-Net's three folders: what the study's `environment` says, else the shell's, else below the study's folder.

    Args:
        environment: of the study; a relative path starts at the study's folder.
        root: the study's folder.
    """
    return {name: str(root / (environment.get(name) or os.environ.get(name) or name)) for name in FOLDERS}
