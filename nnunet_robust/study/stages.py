"""What each stage does. Returns the outcome and, where it is not `DONE`, the reason."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.folders import dataset_name, nnunet_folder
from nnunet_robust.common.json_files import read_json
from nnunet_robust.common.nnunet_files import read_dataset_json
from nnunet_robust.study import command_lines
from nnunet_robust.study.failures import write_failures
from nnunet_robust.study.folder import DONE, PARTIAL, USABLE, StudyFolder
from nnunet_robust.study.matrix import Job
from nnunet_robust.study.work import CommandFailedError, NothingToDoError, Work

_MISFITS = {"type": "object", "additionalProperties": {"type": "string"}}


def _dataset(work: Work) -> tuple[str, str]:
    number = str(work.job.what["dataset"])
    try:
        for command in command_lines.dataset_commands(work.job):
            work.run(command)
    except CommandFailedError as error:
        if error.code == 1 and (left_out := command_lines.left_out(number)):
            return PARTIAL, f"left out of the source: {', '.join(list(left_out)[:5])}{', ...' * (len(left_out) > 5)}"
        raise
    dataset_name(number)  # one that should exist must be there
    return DONE, ""


def _plan(work: Work) -> tuple[str, str]:
    """Plans, preprocessed data, folds; and which trainers do not fit the plans."""
    for command in command_lines.plan_commands(work.job):
        work.run(command)
    name = dataset_name(str(work.job.what["dataset"]))
    _write_splits(work, name)
    misfits = _misfits(work, name)
    for job, what in misfits.items():
        work.say(f"{job} does not fit: {what}")
    write_atomically(_misfit_file(work.folder, work.job), json.dumps(misfits, indent=1) + "\n")
    return DONE, ""


def _train(work: Work) -> tuple[str, str]:
    planned = next(job for job in work.job.inputs if job.startswith("plan/"))
    misfits = read_json(_misfit_file(work.folder, work.plan.jobs[planned]), f"delete the marker of {planned}", _MISFITS)
    if work.job.id in misfits:
        raise UserError(misfits[work.job.id])
    if not command_lines.is_trained(work.job):
        _set_corrupt_aside(work, command_lines.fold_folder(work.job))
        work.run(command_lines.train_command(work.job, work.plan.device_of(work.job)))
    if not command_lines.is_trained(work.job):
        raise UserError(f"{work.commands[-1][0]} ended well, but left no validation/summary.json")
    return DONE, ""


def _sweep(work: Work) -> tuple[str, str]:
    what = work.job.what
    failed = {
        work.plan.jobs[job].what["trainer"]
        for job in work.job.inputs
        if work.folder.marker(job).get("outcome") not in USABLE
    }
    trainers = [trainer for trainer in what["trainers"] if trainer not in failed]
    if not trainers:
        raise NothingToDoError("none of its models is trained")
    output = work.folder.root / what["output"]
    try:
        work.run(command_lines.sweep_command(work.job, work.plan.device_of(work.job), trainers, work.folder.root))
    except CommandFailedError as error:
        if error.code == 1 and (output / "failures.csv").is_file():
            return PARTIAL, f"some predictions failed: see {what['output']}/failures.csv"
        raise
    return DONE, ""


def _report(work: Work) -> tuple[str, str]:
    write_failures(work.folder, work.plan)
    reports = command_lines.reports(work.job.what["sweeps"], work.folder.root)
    if not reports:
        raise NothingToDoError("there is no sweep to report")
    for folder, sweeps in reports.items():
        work.run(command_lines.report_command(folder, sweeps))
    return DONE, ""


STAGES: dict[str, Callable[[Work], tuple[str, str]]] = {
    "dataset": _dataset,
    "plan": _plan,
    "train": _train,
    "sweep": _sweep,
    "report": _report,
}


def _write_splits(work: Work, name: str) -> None:
    """splits_final.json before any fold starts: nnU-Net lets whichever fold comes first write it."""
    from nnunet_robust.dataset_conversion.splits import SPLITS_FILE, install_splits, write_splits

    folder = nnunet_folder("nnUNet_preprocessed") / name
    raw = nnunet_folder("nnUNet_raw") / name
    if (raw / SPLITS_FILE).is_file():
        install_splits(raw)
    if (folder / SPLITS_FILE).is_file():
        return
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    cases = sorted(file.name for file in (folder / "gt_segmentations").iterdir())
    ending = read_dataset_json(folder / "dataset.json", "file_ending")["file_ending"]
    # nnU-Net's own call, nnUNetTrainer.do_split
    write_splits(
        folder / SPLITS_FILE,
        generate_crossval_split([case.removesuffix(ending) for case in cases], seed=12345, n_splits=5),
    )
    work.say(f"folds written to {folder / SPLITS_FILE}")


def _misfits(work: Work, name: str) -> dict[str, str]:
    """Job -> why its trainer cannot be trained with these plans, before anybody waits for a GPU."""
    from nnunet_robust.trainers import TRAINERS
    from nnunet_robust.trainers.cost import planned, read_plans
    from nnunet_robust.trainers.names import parse

    found = {}
    for job in work.plan.jobs.values():
        if job.stage != "train" or work.job.id not in job.inputs:
            continue
        with contextlib.suppress(AttributeError):  # not a trainer of ours
            parse(job.what["trainer"], TRAINERS)
            try:
                plans, _ = read_plans(nnunet_folder("nnUNet_preprocessed") / name, job.what["plans"])
                planned(job.what["trainer"], plans, job.what["configuration"])
            except UserError as error:
                found[job.id] = str(error)
    return found


def _misfit_file(folder: StudyFolder, plan_job: Job) -> Path:
    return folder.inside / "misfits" / f"{plan_job.id}.json"


def _set_corrupt_aside(work: Work, folder: Path) -> None:
    """Rename checkpoints that a kill while saving has cut off: nnU-Net would fail on them for ever.

    `--c` then finds the next best: final, latest, best; without any it starts again.
    """
    for name in ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"):
        path = folder / name
        # torch.save writes a zip, whose directory comes last
        if path.is_file() and not zipfile.is_zipfile(path):
            path.replace(path.with_suffix(".pth.corrupt"))
            left = [other.name for other in folder.glob("checkpoint_*.pth")]
            work.say(f"{name} is cut off and was set aside; going on from {', '.join(left) or 'the beginning'}")
