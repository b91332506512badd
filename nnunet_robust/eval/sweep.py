"""Models x cases x perturbations x levels -> results, in memory.

Each condition's image is made once and shown to every model. A finished prediction is on disk at once; a run that was
killed goes on where it stood, and another model or perturbation computes only what is new.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from nnunet_robust.errors import UserError
from nnunet_robust.eval import pictures
from nnunet_robust.eval.cases import CaseFiles, LoadedCase, cases_of_dataset, cases_of_folders, check_finite, load_case
from nnunet_robust.eval.complexity import SWEEP_SLICES, ComplexityMeter
from nnunet_robust.eval.manifest import describe
from nnunet_robust.eval.metrics import case_metrics
from nnunet_robust.eval.models import Model, load_model, quiet, sha256
from nnunet_robust.eval.perturbations import PERTURBATIONS, measure, perturb
from nnunet_robust.eval.results import (
    INPUT_COLUMNS,
    RESULT_COLUMNS,
    Condition,
    Part,
    cell,
    combine,
    open_manifest,
    write_atomically,
)
from nnunet_robust.eval.series import SeriesSet, new_sets, read_series
from nnunet_robust.folders import dataset_name, model_folder
from nnunet_robust.seeding import torch_generator


@dataclass(frozen=True)
class SweepParameters:
    """What to run.

    Attributes:
        output: folder of the results.
        conditions: perturbation -> levels.
        dataset: id or name; None where model folders and images are given.
        configuration: nnU-Net's configuration of the trainers.
        trainers: trainer names, looked up in `nnUNet_results`.
        plans: plans identifier of the trainers.
        folds: folds to average; None takes all that are trained.
        checkpoint: file name of the checkpoints.
        model_folders: further trained models.
        images: folder of images; None takes the dataset's test cases or the fold's validation cases.
        labels: folder of their labels.
        series: a `series.csv`: test sets that are conditions of their own, see `nnunet_robust.eval.series`.
        tile_sizes: sliding windows to predict with, as in "64" or "32x64x64", each an arm of its own for every model;
            none takes the patch size of its training.
        replicates: draws per level, for perturbations with randomness.
        seed: of the perturbations.
        mirroring: test-time mirroring, nnU-Net's default.
        save_predictions: keep the segmentations.
        tolerance_mm: tolerance of the normalised surface distance.
        device: cpu, cuda or mps; None takes cuda where there is one.
    """

    output: Path
    conditions: Mapping[str, Sequence[float]]
    dataset: str | None = None
    configuration: str = "2d"
    trainers: Sequence[str] = ()
    plans: str = "nnUNetPlans"
    folds: Sequence[str] | None = None
    checkpoint: str = "checkpoint_final.pth"
    model_folders: Sequence[Path] = ()
    images: Path | None = None
    labels: Path | None = None
    series: Path | None = None
    tile_sizes: Sequence[str] = ()
    replicates: int = 1
    seed: int = 0
    mirroring: bool = True
    save_predictions: bool = False
    tolerance_mm: float = 2.0
    device: str | None = None


class Progress(Protocol):
    """What a sweep tells while it runs."""

    def start(self, predictions: int) -> None:
        """So many predictions are to be made."""

    def step(self, case: int, cases: int, condition: str) -> None:
        """One is finished: case number (from 1), number of cases, name of the condition."""


@dataclass
class _Run:
    """A sweep under way."""

    parameters: SweepParameters
    dataset: str
    models: list[Model]
    cases: list[CaseFiles]
    series: list[tuple[SeriesSet, list[CaseFiles]]]
    manifest: dict[str, Any]
    inputs: dict[str, Part] = field(default_factory=dict)
    results: dict[tuple[str, str], Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = self.parameters.output / "parts"
        for name in self.names:
            self.inputs[name] = Part(parts / "inputs" / f"{name}.csv", INPUT_COLUMNS)
            for model in self.models:
                self.results[model.key, name] = Part(parts / model.key / f"{name}.csv", RESULT_COLUMNS)

    @property
    def names(self) -> list[str]:
        """All cases of the folder: those of series that this run did not name, too."""
        in_series = (
            files for row in self.manifest["perturbations"].values() for files in row.get("series", {}).values()
        )
        return sorted({case.name for case in self.cases}.union(*in_series))

    def prediction_file(self, model: Model, case: CaseFiles, condition: Condition) -> Path:
        ending = model.predictor.dataset_json["file_ending"]
        return self.parameters.output / "predictions" / model.key / condition.name / f"{case.name}{ending}"

    def picture(self, case: CaseFiles, *names: str) -> Path:
        return self.parameters.output.joinpath("pictures", case.name, *names)

    def pictured(self, case: CaseFiles, condition: Condition) -> bool:
        return case.name in self.manifest["pictures"]["cases"].values() and condition.replicate == 0

    def missing(self, case: CaseFiles, condition: Condition) -> list[Model]:
        """The models whose prediction of this case under this condition is not finished."""
        return [model for model in self.models if not self._finished(model, case, condition)]

    def _finished(self, model: Model, case: CaseFiles, condition: Condition) -> bool:
        files = []
        if self.parameters.save_predictions:
            files.append(self.prediction_file(model, case, condition))
        if self.pictured(case, condition):
            files += [
                self.picture(case, condition.name + ".png"),
                self.picture(case, model.key, condition.name + ".png"),
            ]
        done = condition in self.results[model.key, case.name].rows and condition in self.inputs[case.name].rows
        return done and all(file.is_file() for file in files)


def run_sweep(parameters: SweepParameters, progress: Progress) -> Path:
    """Run a sweep, or finish one.

    Args:
        parameters: what to run.
        progress: is told of every finished prediction.

    Returns:
        The path of `results.csv`.

    Raises:
        UserError: bad input, in one line; nothing was computed then.
    """
    conditions = _conditions(parameters)
    device = _device(parameters.device)
    _use_nnunets_threads(device)
    name = None if parameters.dataset is None else dataset_name(parameters.dataset)
    models = _models(parameters, name, device)
    cases = _cases(parameters, name, models)
    series = _series(parameters, cases, models)
    dataset = name or models[0].predictor.plans_manager.dataset_name

    identity = {
        "dataset": dataset,
        "seed": parameters.seed,
        "mirroring": parameters.mirroring,
        "checkpoint": parameters.checkpoint,
        "tolerance_mm": parameters.tolerance_mm,
        "cases": {case.name: sha256_of_case(case) for case in cases},
    }
    manifest = open_manifest(parameters.output / "manifest.json", identity)
    _refuse_retrained(parameters.output, manifest, models)
    digests = [{case.name: sha256_of_case(case) for case in of_set} for _, of_set in series]
    new = new_sets(parameters.output, manifest, [test_set for test_set, _ in series], digests)
    _check(([] if manifest else cases) + [case for number in new for case in series[number][1]], models[0])
    settings = {
        "images": None if parameters.images is None else str(parameters.images),
        "labels": None if parameters.labels is None else str(parameters.labels),
        "replicates": parameters.replicates,
        "tile_step_size": 0.5,
    }
    described = [(test_set, files) for (test_set, _), files in zip(series, digests, strict=True)]
    manifest = describe(manifest, identity, settings, parameters.conditions, described, models, device)
    run = _Run(parameters, dataset, models, cases, series, manifest)
    _save_manifest(run)

    work = [(cases, conditions), *((of_set, [test_set.condition]) for test_set, of_set in series)]
    todo = sum(len(run.missing(case, c)) for of_set, theirs in work for case in of_set for c in theirs)
    if not manifest["pictures"]["cases"]:
        todo += min(3, len(cases)) * len(models)  # the shown cases, once more for their pictures
    progress.start(todo)
    # The clean images first: they tell which cases the report will show.
    _predict(run, cases, [Condition.clean()], progress)
    if not manifest["pictures"]["cases"]:
        manifest["pictures"]["cases"] = pictures.choose_cases(_clean_scores(run))
        _save_manifest(run)
    for of_set, theirs in work:
        _predict(run, of_set, theirs, progress)
    return _combine(run)


def _conditions(parameters: SweepParameters) -> list[Condition]:
    if parameters.replicates < 1:
        raise UserError(f"--replicates {parameters.replicates}: at least 1 draw is needed")
    conditions = [Condition.clean()]
    for name, levels in parameters.conditions.items():
        perturbation = PERTURBATIONS[name]
        draws = parameters.replicates if perturbation.stochastic else 1
        conditions += [Condition(name, float(level), r) for level in levels if level != 0 for r in range(draws)]
    return conditions


def _device(name: str | None) -> torch.device:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is None:
        return torch.device("cuda" if available["cuda"] else "cpu")
    if name not in available:
        raise UserError(f"-device {name}: take one of {', '.join(available)}")
    if not available[name]:
        raise UserError(f"-device {name}: this machine has none that torch can use: take -device cpu")
    return torch.device(name)


def _use_nnunets_threads(device: torch.device) -> None:
    # As nnUNetv2_predict does: the last bit of a convolution, and with it a voxel at a tie, depends on their number.
    if device.type == "cpu":
        torch.set_num_threads(multiprocessing.cpu_count())


def _models(parameters: SweepParameters, dataset: str | None, device: torch.device) -> list[Model]:
    folders = list(parameters.model_folders)
    if parameters.trainers:
        if dataset is None:
            raise UserError("trainers (-tr) need a dataset (-d); a model folder (-m) goes without")
        folders = [
            model_folder(dataset, t, parameters.plans, parameters.configuration) for t in parameters.trainers
        ] + folders
    if not folders:
        raise UserError("no models: name trainers with -tr, or model folders with -m")
    models = [
        load_model(folder, parameters.folds, parameters.checkpoint, device, parameters.mirroring, dataset)
        for folder in folders
    ]
    if parameters.tile_sizes:
        tiled = [model.with_tile_size(text) for model in models for text in parameters.tile_sizes]
        models = list({(model.key, model.folder): model for model in tiled}.values())  # "64" and "64x64" are one
    for model in models[1:]:
        for what, value in _interface(model).items():
            if value != (first := _interface(models[0])[what]):
                raise UserError(f"{model.key} has {what} {value}, {models[0].key} has {first}: sweep them one by one")
    keys = [model.key for model in models]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UserError(f"two models are both called {twice[0]}: sweep them into two output folders")
    return models


def _interface(model: Model) -> dict[str, Any]:
    """What models must share to be swept over the same cases."""
    meta = model.predictor.dataset_json
    return {
        "channels": len(meta.get("channel_names") or meta["modality"]),
        "labels": meta["labels"],
        "file ending": meta["file_ending"],
    }


def _cases(parameters: SweepParameters, dataset: str | None, models: list[Model]) -> list[CaseFiles]:
    shared = _interface(models[0])
    if (parameters.images is None) != (parameters.labels is None):
        raise UserError("images (-i) and labels (-l) go together: give both or neither")
    if parameters.images is not None and parameters.labels is not None:
        return cases_of_folders(parameters.images, parameters.labels, shared["file ending"], shared["channels"])
    if dataset is None:
        raise UserError("no images: give a dataset with -d, or folders with -i and -l")
    return cases_of_dataset(dataset, models[0].fold, shared["file ending"], shared["channels"])


def _series(
    parameters: SweepParameters, cases: list[CaseFiles], models: list[Model]
) -> list[tuple[SeriesSet, list[CaseFiles]]]:
    """The test sets of the series, each with its cases."""
    if parameters.series is None:
        return []
    shared, patients = _interface(models[0]), {case.name: case.patient for case in cases}
    sets = read_series(parameters.series)
    return [(test_set, test_set.cases(shared["file ending"], shared["channels"], patients)) for test_set in sets]


def sha256_of_case(case: CaseFiles) -> str:
    """One digest for a case's images and label."""
    return "-".join(sha256(path)[:16] for path in (*case.images, case.label))


def _regions(model: Model) -> dict[str, int | tuple[int, ...]]:
    """Foreground labels and regions by name, as `dataset.json` has them."""
    labels = model.predictor.dataset_json["labels"]
    regions = {name: tuple(v) if isinstance(v, (list, tuple)) else int(v) for name, v in labels.items()}
    return {name: value for name, value in regions.items() if name != "ignore" and value not in (0, (0,))}


def _known_labels(model: Model) -> dict[int, str]:
    known: dict[int, str] = {}
    for name, value in model.predictor.dataset_json["labels"].items():
        for v in value if isinstance(value, (list, tuple)) else (value,):
            known.setdefault(int(v), name)
    return known


def _load(case: CaseFiles, model: Model) -> LoadedCase:
    with quiet():
        reader = model.predictor.plans_manager.image_reader_writer_class()
        return load_case(case, reader, _interface(model)["channels"], _known_labels(model))


def _check(cases: list[CaseFiles], model: Model) -> None:
    """Read every case once, so that a fault of the last one is told before the first is computed."""
    for case in cases:
        _load(case, model)
        check_finite(case)


def _refuse_retrained(output: Path, manifest: Mapping[str, Any], models: list[Model]) -> None:
    for model in models:
        before = manifest.get("models", {}).get(model.key)
        if before is not None and before["checkpoints"] != model.checkpoints:
            raise UserError(
                f"{output} holds results of another checkpoint of {model.key} (it was trained again): "
                f"take a new folder for -o, or delete {output / 'parts' / model.key} and its entry in manifest.json"
            )


def _predict(run: _Run, cases: list[CaseFiles], conditions: list[Condition], progress: Progress) -> None:
    for number, case in enumerate(cases, 1):
        todo = {condition: models for condition in conditions if (models := run.missing(case, condition))}
        if not todo:
            continue
        loaded = _load(case, run.models[0])
        meter = _meter(loaded, run.models[0])
        for condition, models in todo.items():
            image = _perturbed(run, case, loaded, condition, meter)
            for model in models:
                _finish(run, model, case, loaded, condition, model.predict(image, loaded.properties))
                progress.step(number, len(cases), condition.name)


def _meter(loaded: LoadedCase, model: Model) -> ComplexityMeter:
    """Of all foreground together, which is what `inputs.csv` has."""
    ignore = model.predictor.label_manager.ignore_label
    values = [value for value in _known_labels(model) if value not in (0, ignore)]
    return ComplexityMeter(
        loaded.image,
        loaded.label,
        {"foreground": values},
        loaded.spacing_mm,
        ignore=ignore,
        max_slices=SWEEP_SLICES,
    )


def _perturbed(
    run: _Run, case: CaseFiles, loaded: LoadedCase, condition: Condition, meter: ComplexityMeter
) -> np.ndarray:
    """The image of a condition; what was measured of it, and its picture, are stored."""
    ignore = run.models[0].predictor.label_manager.ignore_label
    mask = (loaded.label > 0) & (loaded.label != ignore) if ignore is not None else loaded.label > 0
    clean = torch.from_numpy(loaded.image)
    image = clean
    in_series = condition.perturbation not in (*PERTURBATIONS, Condition.clean().perturbation)
    if condition.perturbation in PERTURBATIONS:  # else it is clean, or of a series: as the file is
        row = PERTURBATIONS[condition.perturbation]
        # Neither model nor level: comparisons are paired, and a level only scales the noise.
        generator = torch_generator(run.parameters.seed, case.name, condition.perturbation, condition.replicate)
        shown = torch.from_numpy(mask) if row.uses_mask else None
        image = perturb(clean, condition.perturbation, condition.level, generator, shown)
    if condition not in run.inputs[case.name].rows:
        complexity = meter.measure(image.numpy())["foreground"]
        measured = {
            **(dict.fromkeys(("psnr_db", "snr_db"), "") if in_series else measure(clean, image)),
            "foreground_ratio": float(mask.mean()),
            "texture_divergence_bits": cell(complexity.texture_divergence_bits),
            "boundary_contrast": cell(complexity.boundary_contrast),
        }
        row_of_case = {"dataset": run.dataset, "patient": case.patient, "case": case.name, **measured}
        run.inputs[case.name].add(condition, [row_of_case])
    if run.pictured(case, condition):
        index = pictures.display_slice(loaded.label)
        reference = f"{condition.name}_reference.png" if in_series else "reference.png"
        pictures.write_labels(run.picture(case, reference), loaded.label, index)
        pictures.write_image(run.picture(case, condition.name + ".png"), image.numpy(), loaded.image, index)
    return image.numpy()


def _finish(
    run: _Run, model: Model, case: CaseFiles, loaded: LoadedCase, condition: Condition, prediction: np.ndarray
) -> None:
    """Store a prediction: files first, the rows that call it finished last."""
    if run.parameters.save_predictions:
        _save_prediction(run.prediction_file(model, case, condition), model, loaded, prediction)
    if run.pictured(case, condition):
        index = pictures.display_slice(loaded.label)
        pictures.write_labels(run.picture(case, model.key, condition.name + ".png"), prediction, index)
    ignore = model.predictor.label_manager.ignore_label
    metrics = case_metrics(
        loaded.label, prediction, _regions(model), loaded.spacing_mm, run.parameters.tolerance_mm, ignore
    )
    fixed = {"dataset": run.dataset, **model.arm, "patient": case.patient, "case": case.name}
    rows = [{**fixed, "label": label, **asdict(values)} for label, values in metrics.items()]
    run.results[model.key, case.name].add(condition, rows)


def _save_prediction(path: Path, model: Model, loaded: LoadedCase, prediction: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp_{path.name}")  # the writer goes by the ending
    writer = model.predictor.plans_manager.image_reader_writer_class()
    writer.write_seg(prediction, str(temporary), loaded.properties)
    temporary.replace(path)


def _clean_scores(run: _Run) -> dict[str, float]:
    """Mean Dice of each case's clean image, over models and labels."""
    clean = Condition.clean()
    return {
        case.name: float(
            np.mean([float(r["dice"]) for m in run.models for r in run.results[m.key, case.name].rows[clean]])
        )
        for case in run.cases
    }


def _combine(run: _Run) -> Path:
    """Put together all parts of the folder: those of models that this run did not name, too."""
    output = run.parameters.output
    parts = (
        run.results.get((key, name)) or Part(output / "parts" / key / f"{name}.csv", RESULT_COLUMNS)
        for key in sorted(run.manifest["models"])
        for name in run.names
    )
    combine(parts, RESULT_COLUMNS, output / "results.csv")
    combine((run.inputs[name] for name in run.names), INPUT_COLUMNS, output / "inputs.csv")
    return output / "results.csv"


def _save_manifest(run: _Run) -> None:
    write_atomically(run.parameters.output / "manifest.json", json.dumps(run.manifest, indent=1) + "\n")
