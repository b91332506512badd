"""How long trainings will take: from those of the study that are finished, or else from an assumption."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from nnunet_robust.study.folder import DONE, Plan, StudyFolder
from nnunet_robust.study.matrix import Job
from nnunet_robust.trainers import TRAINERS
from nnunet_robust.trainers.names import Options, parse

# nnU-Net's, where a name does not say otherwise (2.8.1).
_EPOCHS, _ITERATIONS = 1000, 250

# Seconds per training iteration at nnU-Net's own patch and batch size, by device and dimensions: assumptions, of the
# order of a current data-centre GPU (40 s an epoch in 2d, 100 s in 3d) and of a desktop's CPU.
ASSUMED_SECONDS = {("cuda", "2d"): 0.16, ("cuda", "3d"): 0.4, ("cpu", "2d"): 1.0, ("cpu", "3d"): 10.0}


class Estimate(NamedTuple):
    """What trainings will take.

    Attributes:
        hours: of all of them, one after the other.
        gpu_hours: of those that have a GPU, times their GPUs.
        source: what it rests on, in words.
    """

    hours: float
    gpu_hours: float
    source: str


def estimate(folder: StudyFolder, plan: Plan, jobs: Iterable[Job]) -> Estimate:
    """What the given trainings will take from their beginning.

    Args:
        folder: the study's; finished trainings there are the measure of the others: those of the same trainer but for
            seed and fold first, then those of the same dataset and configuration.
        plan: how it is run.
        jobs: jobs; those that are no trainings are left out.
    """
    alike: dict[Any, list[float]] = {}
    for job in plan.jobs.values():
        if job.stage == "train" and (marker := folder.marker(job.id)).get("outcome") == DONE and marker["commands"]:
            for key in _keys(plan, job):
                alike.setdefault(key, []).append(marker["seconds"] / iterations(job))
    hours = gpu_hours = 0.0
    measured = assumed = 0
    for job in jobs:
        if job.stage != "train":
            continue
        known = next((alike[key] for key in _keys(plan, job) if key in alike), None)
        if known:
            measured, seconds = measured + 1, sum(known) / len(known)
        else:
            device = "cpu" if plan.device_of(job) == "cpu" else "cuda"
            assumed, seconds = assumed + 1, ASSUMED_SECONDS[device, job.what["configuration"][:2]]
        hours += iterations(job) * seconds / 3600
        gpu_hours += iterations(job) * seconds / 3600 * job.gpus
    parts = [f"{measured} from trainings measured here"] if measured else []
    if assumed:
        kinds = {device for device, _ in ASSUMED_SECONDS} & {
            "cpu" if plan.device_of(job) == "cpu" else "cuda" for job in plan.jobs.values() if job.stage == "train"
        }
        told = ", ".join(f"{seconds:g} s in {d} on {k}" for (k, d), seconds in ASSUMED_SECONDS.items() if k in kinds)
        parts.append(f"{assumed} assumed: an iteration takes {told}")
    return Estimate(hours, gpu_hours, "; ".join(parts) or "nothing left to train")


def epochs(job: Job) -> int:
    """How many epochs a training has."""
    return _options(job).epochs or _EPOCHS


def iterations(job: Job) -> int:
    """How many training iterations a training has."""
    return epochs(job) * (_options(job).iterations or _ITERATIONS)


def _options(job: Job) -> Options:
    try:
        return parse(job.what["trainer"], TRAINERS)[1]
    except AttributeError:  # a trainer of nnU-Net's or of the user's
        return Options()


def _keys(plan: Plan, job: Job) -> list[Any]:
    """What another training must share with this one to be its measure, closest first."""
    what, device = job.what, plan.device_of(job)
    arm = (device, what["dataset"], what["configuration"], what["plans"])
    return [(*arm, what["trainer"].partition("_seed")[0]), arm]
