"""What a job runs: nnU-Net's commands and this package's, each of which could be typed by hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_robust.common.console import warn
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import dataset_name, model_folder_of, nnunet_folder
from nnunet_robust.common.json_files import read_json
from nnunet_robust.study.matrix import Job

PROVENANCE_KEY = "nnunet_robust"  # that of dataset_conversion.writer, which is slow to import

Command = list[str]


def dataset_commands(job: Job) -> Iterator[Command]:
    """Make a dataset; nothing for one that exists."""
    what = job.what
    if what["command"]:
        source = [what["source"]] if what["source"] else []
        name = ["--name", what["name"]] if what["name"] else []
        options = list(_options(what["parameters"]))
        yield ["nnunet-robust", *what["command"], *source, "--id", str(what["dataset"]), *name, *options]


def left_out(dataset: str) -> dict[str, str]:
    """What a conversion left out of a dataset of ours: the name of a case or a file of the source, to the reason."""
    try:
        record = _record(nnunet_folder("nnUNet_raw") / dataset_name(dataset) / "dataset.json") or {}
    except UserError:  # there is no dataset
        return {}
    return dict(record.get("left_out", {}))


def plan_commands(job: Job) -> Iterator[Command]:
    """Plan and preprocess a dataset with every planner, one after the other: they share files.

    What is whole already is left alone.
    """
    what = job.what
    number, configurations = str(what["dataset"]), list(what["configurations"])
    name = dataset_name(number)
    folder = nnunet_folder("nnUNet_preprocessed") / name
    _remove_stale(nnunet_folder("nnUNet_raw") / name, folder)
    processes = os.environ.get("nnUNet_def_n_proc") or str(min(job.cpus, os.cpu_count() or 1))  # noqa: SIM112
    for index, (planner, plans) in enumerate(what["planners"]):
        left = [one for one in configurations if not _is_preprocessed(folder, plans, one)]
        if index == 0 and left:
            yield [
                *("nnUNetv2_plan_and_preprocess", "-d", number, "-c", *configurations, "-pl", planner),
                *("-np", processes, "-npfp", processes, "--clean"),
            ]
        elif left:
            if not (folder / f"{plans}.json").is_file():
                yield ["nnUNetv2_plan_experiment", "-d", number, "-pl", planner]
            # Asked again: planners may share what they preprocess.
            if left := [one for one in configurations if not _is_preprocessed(folder, plans, one)]:
                yield ["nnUNetv2_preprocess", "-d", number, "-plans_name", plans, "-c", *left, "-np", processes]


def train_command(job: Job, device: str) -> Command:
    """Begin a training, or go on with it."""
    what = job.what
    gpus = ["-num_gpus", str(job.gpus)] if job.gpus > 1 and device == "cuda" else []
    return [
        *("nnUNetv2_train", str(what["dataset"]), what["configuration"], what["fold"]),
        *("-tr", what["trainer"], "-p", what["plans"], "-device", device, *gpus, "--c"),
    ]


def sweep_command(job: Job, device: str, trainers: Sequence[str], root: Path) -> Command:
    """Sweep over the models that there are.

    Args:
        job: the sweep.
        device: cpu, cuda or mps.
        trainers: those of which all folds are trained.
        root: the study's folder.
    """
    what, options = job.what, dict(job.what["options"])
    given = options.pop("perturbations", [])
    perturb = [
        name if isinstance(given, list) or given[name] == "default" else f"{name}={','.join(map(str, given[name]))}"
        for name in given
    ]
    series = options.pop("series", False)
    if series is True:
        series = str(nnunet_folder("nnUNet_raw") / dataset_name(str(what["dataset"])) / "series.csv")
    mirroring = options.pop("mirroring", True)
    tiles = [str(size) for size in options.pop("tile_sizes", [])]
    gpus = ["--gpus", str(job.gpus)] if job.gpus > 1 and device == "cuda" else []
    return [
        *("nnunet-robust", "sweep", "-d", str(what["dataset"]), "-c", what["configuration"], "-p", what["plans"]),
        *("-f", *what["folds"], "-tr", *trainers, "-o", str(root / what["output"]), "-device", device),
        *gpus,
        *(["--perturb", *perturb] if perturb else []),
        *(["--series", series] if series else []),
        *(["--tile-size", *tiles] if tiles else []),
        *([] if mirroring else ["--disable-tta"]),
        *_options(options),
    ]


def reports(sweeps: Mapping[str, str], root: Path) -> dict[Path, list[Path]]:
    """The reports of those sweeps that there are: of each, and of several datasets side by side.

    Args:
        sweeps: a sweep's folder -> the folder of its report together with other datasets, below `root`.
        root: the study's folder.

    Returns:
        A report's folder -> the sweeps on it.
    """
    swept = {root / sweep: root / together for sweep, together in sweeps.items()}
    there = [sweep for sweep in swept if (sweep / "results.csv").is_file()]
    groups = {swept[sweep]: [other for other in there if swept[other] == swept[sweep]] for sweep in there}
    return {
        **{sweep: [sweep] for sweep in there},
        **{folder: members for folder, members in groups.items() if len(members) > 1},
    }


def report_command(folder: Path, sweeps: Sequence[Path]) -> Command:
    """Write one of `reports`."""
    return ["nnunet-robust", "report", *map(str, sweeps), "-o", str(folder)]


def fold_folder(job: Job) -> Path:
    """Where nnU-Net keeps a training."""
    what = job.what
    name = dataset_name(str(what["dataset"]))
    return model_folder_of(name, what["trainer"], what["plans"], what["configuration"]) / f"fold_{what['fold']}"


def is_trained(job: Job) -> bool:
    """Whether a training is finished: nnU-Net's last file of it, written when the validation is over, is there.

    Raises:
        UserError: what is there was trained on other data under the same name.
    """
    folder = fold_folder(job)
    then = _record(folder.parent / "dataset.json")
    now = _record(nnunet_folder("nnUNet_preprocessed") / folder.parents[1].name / "dataset.json")
    if then and now and then != now:
        raise UserError(
            f"{folder.parent} was trained when {folder.parents[1].name} was made from other parameters: delete it, or "
            f"give the dataset another id"
        )
    return (folder / "validation" / "summary.json").is_file()


def _options(parameters: Mapping[str, Any]) -> Iterator[str]:
    """`{"test_alphas": [0.1, 0.9], "both_directions": True}` -> `--test-alphas 0.1 0.9 --both-directions`."""
    for name, value in parameters.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            if value:
                yield flag
        else:
            yield from (
                flag,
                *map(str, value if isinstance(value, Collection) and not isinstance(value, str) else [value]),
            )


def _remove_stale(raw: Path, preprocessed: Path) -> None:
    """Remove what was planned and preprocessed when a dataset of ours was made from other parameters."""
    now, then = _record(raw / "dataset.json"), _record(preprocessed / "dataset.json")
    if now and then and now != then:
        shutil.rmtree(preprocessed)


def _record(dataset_json: Path) -> Any:
    """What a dataset was made from; None where it is not one of ours."""
    return _read(dataset_json).get(PROVENANCE_KEY)


def _is_preprocessed(folder: Path, plans: str, configuration: str) -> bool:
    """Whether all training cases of a configuration are there, or the plans have no such configuration."""
    known = _read(folder / f"{plans}.json").get("configurations")
    if known is None:
        return False
    if configuration not in known:
        return True
    entry = known[configuration]
    while "data_identifier" not in entry and "inherits_from" in entry:
        entry = known[entry["inherits_from"]]
    cases = len(list((folder / entry["data_identifier"]).glob("*.pkl")))  # each case's last file
    return 0 < cases >= _read(folder / "dataset.json").get("numTraining", 0)


def _read(path: Path) -> dict[str, Any]:
    """A file of nnU-Net's; empty where there is none, or it is broken: it is then made anew."""
    try:
        return dict(read_json(path, "it counts as not there", nan=True))
    except UserError as error:
        if path.exists():
            warn(str(error))
        return {}
