"""A study -> its jobs: what each does, what it waits for, what it may take. Pure data; nothing here needs nnU-Net."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nnunet_robust.study.config import Dataset, Study, Sweep


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        id: `<stage>/<name>`; names the job's files.
        stage: one of `config.STAGES`.
        inputs: ids of the jobs that must be over before.
        what: what it does, in the terms of its stage.
        gpus: GPUs that it takes.
        cpus: cores that it takes on a cluster.
        hours: its time limit there.
        memory_gb: its memory there.
        retries: how often it is tried again after it failed without getting any further.
        partition: its own partition or queue there, where it has one.
    """

    id: str
    stage: str
    inputs: tuple[str, ...]
    what: Mapping[str, Any]
    gpus: int
    cpus: int
    hours: float
    memory_gb: float
    retries: int
    partition: str | None = None

    @cached_property
    def digest(self) -> str:
        """Of what it does: a marker with another digest is of another job."""
        return hashlib.sha256(json.dumps(self.what, sort_keys=True).encode()).hexdigest()[:16]


def jobs_of(study: Study) -> list[Job]:
    """All jobs of a study, each after those that it waits for."""
    jobs = []
    sweeps: list[Job] = []
    for dataset in study.datasets:
        made = _job(study, "dataset", f"{dataset.id:03d}", (), _dataset(dataset))
        planning = {"dataset": dataset.id, "planners": study.planners, "configurations": dataset.configurations}
        planned = _job(study, "plan", made.id.partition("/")[2], (made.id,), planning)
        jobs += [made, planned]
        for plans, configuration in _arms(study, dataset):
            arm, name = _what(dataset, plans, configuration), _arm(dataset, plans, configuration)
            trainings = [
                _job(
                    study,
                    "train",
                    f"{name}-{trainer}-f{fold}",
                    (planned.id,),
                    {**arm, "trainer": trainer, "fold": fold},
                )
                for trainer in study.trainers
                for fold in study.folds
            ]
            jobs += trainings
            for sweep in study.sweeps:
                if sweep.datasets is None or dataset.id in sweep.datasets:
                    sweeps += _sweeps(study, dataset, plans, configuration, sweep, trainings)
    jobs += sweeps
    if study.report and sweeps:
        outputs = {job.what["output"]: job.what["together"] for job in sweeps}
        # Of all jobs, not of the sweeps alone: it tells what is missing, and why.
        jobs.append(_job(study, "report", "report", tuple(job.id for job in jobs), {"sweeps": outputs}))
    return jobs


def from_json(data: Mapping[str, Any]) -> Job:
    """The job whose `asdict` was written."""
    return Job(**{**data, "inputs": tuple(data["inputs"])})


def _job(study: Study, stage: str, name: str, inputs: tuple[str, ...], what: Mapping[str, Any]) -> Job:
    limits = study.resources[stage]
    what = json.loads(json.dumps(what))  # as it will be read from the file, so that the digests are the same
    of_cluster = (limits.gpus, limits.cpus, limits.hours, limits.memory_gb)
    return Job(f"{stage}/{name}", stage, inputs, what, *of_cluster, study.retries, limits.partition)


def _dataset(dataset: Dataset) -> dict[str, Any]:
    return {
        "dataset": dataset.id,
        "command": dataset.command,
        "source": None if dataset.source is None else str(dataset.source),
        "name": dataset.name,
        "parameters": dataset.parameters,
    }


def _arms(study: Study, dataset: Dataset) -> Iterator[tuple[str, str]]:
    for _, plans in study.planners:
        for configuration in dataset.configurations:
            yield plans, configuration


def _what(dataset: Dataset, plans: str, configuration: str) -> dict[str, Any]:
    return {"dataset": dataset.id, "configuration": configuration, "plans": plans}


def _arm(dataset: Dataset, plans: str, configuration: str) -> str:
    """Names jobs and folders; nnU-Net's default plans go without saying."""
    return f"{dataset.id:03d}-{configuration}" + ("" if plans == "nnUNetPlans" else f"-{plans}")


def _sweeps(
    study: Study, dataset: Dataset, plans: str, configuration: str, sweep: Sweep, trainings: list[Job]
) -> Iterator[Job]:
    options = {name: value for name, value in sweep.options.items() if name != "folds"}
    each = sweep.options.get("folds") == "each"
    for folds in [[fold] for fold in study.folds] if each else [list(study.folds)]:
        number, _, arm = (_arm(dataset, plans, configuration) + (f"-f{folds[0]}" if each else "")).partition("-")
        name = f"{sweep.name}-{number}-{arm}"
        what = {
            **_what(dataset, plans, configuration), "trainers": study.trainers, "folds": folds, "options": options,
            "output": f"sweeps/{name}", "together": f"reports/{sweep.name}-{arm}",
        }  # fmt: skip
        yield _job(study, "sweep", name, tuple(job.id for job in trainings if job.what["fold"] in folds), what)
