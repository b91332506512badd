"""study.yaml -> a checked `Study`. Every fault names the file and the line, and what would be right."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_robust.common.environment import may_be_set_by_a_file
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.interrupts import deaf_children
from nnunet_robust.common.schemas import Key, suggestion
from nnunet_robust.study.document import Document, schema
from nnunet_robust.study.names import compose_trainers

STAGES = ("dataset", "plan", "train", "sweep", "report")
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
MOST_TRAININGS = 10_000
"""Of a study: Snakemake's graph of more takes hours to be made."""

# nnU-Net's planners and the names of their plans.
PLANNERS = {
    "ExperimentPlanner": "nnUNetPlans",
    "ResEncUNetPlanner": "nnUNetResEncUNetPlans",
    "nnUNetPlannerResEncM": "nnUNetResEncUNetMPlans",
    "nnUNetPlannerResEncL": "nnUNetResEncUNetLPlans",
    "nnUNetPlannerResEncXL": "nnUNetResEncUNetXLPlans",
}


@dataclass(frozen=True)
class Dataset:
    """A dataset of the study.

    Attributes:
        id: nnU-Net's.
        command: what makes it, as in `("synthesize", "textures")`; empty where it is there already.
        source: what `convert` reads; None for the others.
        name: its name; None for the command's default.
        parameters: the command's options.
        configurations: nnU-Net's configurations to train.
    """

    id: int
    command: tuple[str, ...]
    source: Path | None
    name: str | None
    parameters: Mapping[str, Any]
    configurations: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep of every dataset of the study, or of some.

    Attributes:
        name: names its folder.
        datasets: their ids; None for all.
        options: the rest, as in the YAML: `nnunet-robust sweep`'s options.
    """

    name: str
    datasets: tuple[int, ...] | None
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Resources:
    """What a job of a stage may take. On one machine only `gpus` counts.

    Attributes:
        hours: time limit; a training that meets it goes on in a new job.
        memory_gb: memory.
        gpus: GPUs.
        cpus: cores.
        partition: partition or queue of a cluster, before that of all stages; None for that.
    """

    hours: float
    memory_gb: float
    gpus: int
    cpus: int
    partition: str | None = None


DEFAULT_RESOURCES = {
    "dataset": Resources(hours=4, memory_gb=8, gpus=0, cpus=1),
    "plan": Resources(hours=8, memory_gb=32, gpus=0, cpus=8),
    "train": Resources(hours=48, memory_gb=32, gpus=1, cpus=12),
    "sweep": Resources(hours=24, memory_gb=32, gpus=1, cpus=8),
    "report": Resources(hours=2, memory_gb=16, gpus=0, cpus=2),
}


@dataclass(frozen=True)
class Study:
    """What a study.yaml says, checked.

    Attributes:
        name: of the study.
        path: of the YAML.
        datasets: the datasets.
        planners: nnU-Net's planners, each with the name of its plans.
        trainers: full names, as `nnUNetv2_train -tr` takes them.
        folds: nnU-Net's folds, as text.
        sweeps: the sweeps.
        report: whether to write one.
        device: cpu, cuda or mps; None is cuda in jobs that have a GPU, and cpu in others.
        retries: how often what fails without getting any further is tried again.
        resources: by stage.
        cluster: `partition` and `account`, where given.
        environment: variables for every job.
    """

    name: str
    path: Path
    datasets: tuple[Dataset, ...]
    planners: tuple[tuple[str, str], ...]
    trainers: tuple[str, ...]
    folds: tuple[str, ...]
    sweeps: tuple[Sweep, ...] = ()
    report: bool = True
    device: str | None = None
    retries: int = 2
    resources: Mapping[str, Resources] = field(default_factory=lambda: dict(DEFAULT_RESOURCES))
    cluster: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def load_study(path: Path) -> Study:
    """Read a study.yaml.

    Args:
        path: the file.

    Returns:
        The study. Sources of datasets and series are absolute.

    Raises:
        UserError: with the line: a key that there is not, a value of the wrong type or out of range, a trainer,
            planner, perturbation or preset that does not exist, something that is there twice, a missing source.
    """
    document = Document(path)
    if not isinstance(document.data, dict):
        raise UserError(f"{path} holds no study: nnunet-robust study init writes an example")
    document.check(schema())
    data = document.data
    study = Study(
        name=data["study"],
        path=path,
        datasets=_datasets(document),
        planners=_planners(document),
        trainers=compose_trainers(document),
        folds=tuple(str(fold) for fold in data.get("folds", [0])),
        sweeps=_sweeps(document),
        report=data.get("report", True),
        device=data.get("device"),
        retries=data.get("retries", 2),
        resources={
            stage: Resources(**{**vars(default), **data.get("resources", {}).get(stage, {})})
            for stage, default in DEFAULT_RESOURCES.items()
        },
        cluster={key: data["resources"][key] for key in ("partition", "account") if key in data.get("resources", {})},
        environment=_environment(document),
    )
    _refuse_twice(document, "folds", list(study.folds))
    arms = sum(len(dataset.configurations) for dataset in study.datasets) * len(study.planners)
    if (trainings := arms * len(study.trainers) * len(study.folds)) > MOST_TRAININGS:
        raise document.fault(("trainers",), f"these are {trainings} trainings: a study has at most {MOST_TRAININGS}")
    return study


def _environment(document: Document) -> dict[str, str]:
    given = document.data.get("environment", {})
    for name in given:
        if not may_be_set_by_a_file(name):
            raise document.fault(
                ("environment", name),
                f"a study does not set {name}, which could make its commands run other code: export it in your shell",
            )
    for name in FOLDERS:
        path = Path(str(given.get(name) or "."))
        if path.is_absolute() or ".." in path.parts or str(path).startswith("~"):
            raise document.fault(
                ("environment", name),
                f"{name} is {given[name]}: a study sets it to a folder below its own, as checkpoints elsewhere could "
                f"run code when a training goes on from them: export it in your shell",
            )
    return {name: _text(value) for name, value in given.items()}


def _path(document: Document, key: Key, text: str) -> Path:
    """A path in a study.yaml: absolute, or from the YAML's folder."""
    try:
        return (document.path.parent / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError) as error:  # no such user, a loop of links
        raise document.fault(key, f"{text} is no path here: {error}") from error


def _datasets(document: Document) -> tuple[Dataset, ...]:
    data = document.data
    datasets = []
    for index, entry in enumerate(data["datasets"]):
        key: Key = ("datasets", index)
        origins = [origin for origin in ("synthesize", "convert", "existing") if origin in entry]
        if len(origins) != 1:
            raise document.fault(
                key,
                f"dataset {entry['id']} comes from {' and '.join(origins) or 'nowhere'}: give it one of synthesize, "
                f"convert and existing",
            )
        origin = origins[0]
        for unused, wanted in {"source": "convert", "parameters": "synthesize or convert"}.items():
            if unused in entry and origin not in wanted:
                raise document.fault((*key, unused), f"{unused!r} belongs to {wanted}, not to {origin}")
        command = () if origin == "existing" else (origin, entry[origin])
        if command and "parameters" in entry:
            document.check(schema()["$defs"][entry[origin]], (*key, "parameters"))
        source = None
        if origin == "convert":
            if "source" not in entry:
                raise document.fault(key, f"dataset {entry['id']}: 'source', the folder to convert, is missing")
            source = _path(document, (*key, "source"), entry["source"])
            if not os.path.isdir(source):  # noqa: PTH112 -- Path.is_dir raises an error for a name that is too long
                raise document.fault((*key, "source"), f"there is no folder {source}: name where the source lies")
        configurations = entry.get("configurations", data.get("configurations", ["2d"]))
        datasets.append(
            Dataset(entry["id"], command, source, entry.get("name"), entry.get("parameters", {}), tuple(configurations))
        )
    _refuse_twice(document, "datasets", [dataset.id for dataset in datasets])
    return tuple(datasets)


def _planners(document: Document) -> tuple[tuple[str, str], ...]:
    planners = []
    for index, entry in enumerate(document.data.get("planners", ["ExperimentPlanner"])):
        if isinstance(entry, str):
            if entry not in PLANNERS:
                raise document.fault(
                    ("planners", index),
                    f"there is no planner {entry!r}: {suggestion(entry, PLANNERS)}; name one of your own as "
                    f"{{planner: {entry}, plans: NAME_OF_ITS_PLANS}}",
                )
            planners.append((entry, PLANNERS[entry]))
        else:
            planners.append((entry["planner"], entry["plans"]))
    _refuse_twice(document, "planners", [plans for _, plans in planners])
    return tuple(planners)


def _sweeps(document: Document) -> tuple[Sweep, ...]:
    ids = {entry["id"] for entry in document.data["datasets"]}
    sweeps: list[Sweep] = []
    asked: list[tuple[Key, dict[str, Any]]] = []
    for index, entry in enumerate(document.data.get("sweeps", [])):
        key: Key = ("sweeps", index)
        options = {name: value for name, value in entry.items() if name not in ("name", "datasets")}
        for position, number in enumerate(entry.get("datasets", [])):
            if number not in ids:
                where = (*key, "datasets", position)
                raise document.fault(where, f"the study has no dataset {number}: {suggestion('', map(str, ids))}")
        if not {"preset", "perturbations", "series", "tile_sizes"} & options.keys():
            raise document.fault(
                key, f"sweep {entry['name']!r} has nothing to do: give it perturbations, a preset, series or tile_sizes"
            )
        if isinstance(series := options.get("series"), str):
            file = _path(document, (*key, "series"), series)
            if not os.path.isfile(file):  # noqa: PTH113 -- as above
                raise document.fault((*key, "series"), f"there is no file {file}: give a series.csv, or true")
            options["series"] = str(file)
        if "preset" in options:
            asked.append(((*key, "preset"), {"names": [], "preset": options["preset"], "levels": None}))
        given = options.get("perturbations", {})
        for position, name in enumerate(given):
            levels = given[name] if isinstance(given, dict) and given[name] != "default" else None
            where = (*key, "perturbations", name if isinstance(given, dict) else position)
            asked.append((where, {"names": [name], "preset": None, "levels": levels}))
        sweeps.append(Sweep(entry["name"], tuple(entry["datasets"]) if "datasets" in entry else None, options))
    _refuse_twice(document, "sweeps", [sweep.name for sweep in sweeps])
    for (where, _), what in zip(asked, _faults_of_conditions([conditions for _, conditions in asked]), strict=True):
        if what:
            raise document.fault(where, what)
    return tuple(sweeps)


def _faults_of_conditions(asked: list[dict[str, Any]]) -> list[str]:
    """What is wrong with each of them; empty where nothing is.

    In a process of its own: the table of perturbations needs torch, and the driver of a study lives for days.
    """
    if not asked:
        return []
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with deaf_children():
            checked = pool.submit(_check_conditions, asked)
        return checked.result()


def _check_conditions(asked: list[dict[str, Any]]) -> list[str]:
    from nnunet_robust.eval.sweep.conditions import conditions_for

    faults = []
    for conditions in asked:
        try:
            conditions_for(**conditions)
            faults.append("")
        except UserError as error:
            faults.append(str(error))
    return faults


def _refuse_twice(document: Document, section: str, values: list[Any]) -> None:
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            raise document.fault((section, index), f"{section}: {value} is there twice")
        seen.add(value)


def _text(value: Any) -> str:
    """An environment variable's value; nnU-Net takes `true` and `f` as well as `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
