"""Models x cases x perturbations x levels -> results, in memory.

Here: all that is checked before anything is computed, and the order of the work. `parameters` is what the user asked
for, `engine` computes, `units` shares the work among processes, `results` has the files. A finished prediction is on
disk at once; a run that was killed goes on where it stood; another model or perturbation computes only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_robust.common.console import quiet, warn
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.folders import dataset_name
from nnunet_robust.eval.images import pictures
from nnunet_robust.eval.images.cases import CaseFiles, sha256_of_case
from nnunet_robust.eval.images.image_files import check_stored
from nnunet_robust.eval.images.selection import cases_of
from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads, workers_of
from nnunet_robust.eval.inference.ensembles import ALL, make_ensembles
from nnunet_robust.eval.inference.members import members_by
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.selection import interface, models_of
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.results.failures import Failure, combine_failures, record, recorded
from nnunet_robust.eval.results.results import (
    ATTACK_COLUMNS,
    BOUND_COLUMNS,
    INPUT_COLUMNS,
    RELIABILITY_COLUMNS,
    RESULT_COLUMNS,
    Condition,
    combine,
    is_disk_full,
    open_manifest,
)
from nnunet_robust.eval.sweep.attack_settings import attacked_models, described_attacks, refuse_other_attacks
from nnunet_robust.eval.sweep.attacker import Attacker
from nnunet_robust.eval.sweep.denoised_arms import denoised_models, notes
from nnunet_robust.eval.sweep.engine import Engine, Progress
from nnunet_robust.eval.sweep.guarantees import Promises, members_calibrated, read_promises
from nnunet_robust.eval.sweep.manifest import describe
from nnunet_robust.eval.sweep.parameters import (
    Series,
    SweepParameters,
    attacked_conditions,
    check_numbers,
    conditions_of,
    series_of,
    sources_of,
)
from nnunet_robust.eval.sweep.run import Arm, Run, work_on
from nnunet_robust.eval.sweep.series import new_sets
from nnunet_robust.eval.sweep.units import Claims, Unit, folder_lock, shard

# What a later run takes over, so that it computes as this one did; the rest depends on the machine.
_KEPT_CHOICES = ("backend", "inference_type", "memory_layout", "compiled", "batch_size")


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind.

    Attributes:
        table: the path of `results.csv`.
        failures: what could not be computed of this run's models and cases, by this run or an earlier one.
        notes: what was learned before anything was predicted, in sentences.
    """

    table: Path
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()


def run_sweep(parameters: SweepParameters, progress: Progress) -> SweepResult:
    """Run a sweep, finish one, or take part in one: several processes may have one output folder.

    Args:
        parameters: what to run.
        progress: is told of every finished prediction.

    Raises:
        UserError: bad input, in one line, and nothing was computed then; or the disk is full.
    """
    try:
        return _run_sweep(parameters, progress)
    except (OSError, RuntimeError) as error:
        if parameters.output.is_dir() and is_disk_full(error, parameters.output):
            raise UserError(
                f"the disk of {parameters.output} is full: make room, and the same command goes on from here"
            ) from error
        raise


def _run_sweep(parameters: SweepParameters, progress: Progress) -> SweepResult:
    check_numbers(parameters)
    device = device_of(parameters.device)
    workers = workers_of(parameters.workers, device)
    shard((), parameters.shard)
    by = members_by(parameters.uncertainty or members_calibrated(parameters.calibrations))
    if parameters.save_uncertainty and not (by or parameters.ensemble):
        raise UserError("--save-uncertainty keeps maps of members: tell them apart with --uncertainty, or --ensemble")
    use_nnunets_threads(device)
    name = None if parameters.dataset is None else dataset_name(parameters.dataset)
    members = [trainer for trainer in parameters.ensemble if trainer != ALL]  # need not be named twice
    models = models_of(parameters, name, device, further_trainers=members, tile_sizes=parameters.tile_sizes)
    sources = sources_of(parameters, models, name, device)
    levels_of = attacked_conditions(parameters, sources)
    attacks = described_attacks(levels_of, parameters.attack_steps, sources)
    shared = interface(models[0])
    cases = cases_of(parameters, name, models[0].fold, shared["file ending"], shared["channels"])
    series = series_of(parameters, cases, models)
    digests = [{case.name: sha256_of_case(case, shared["channels"]) for case in of_set} for _, of_set in series]
    identity: dict[str, Any] = {
        "dataset": name or models[0].predictor.plans_manager.dataset_name,
        "seed": parameters.seed,
        "mirroring": parameters.mirroring,
        "checkpoint": parameters.checkpoint,
        "tolerance_mm": parameters.tolerance_mm,
        "precision": parameters.precision,
        "members_by": list(by),
        "reference": cases[0].reference if cases[0].experts else None,
        "cases": {case.name: _digest(case, shared["channels"]) for case in cases},
    }
    every = [identity["cases"], *digests]
    patients = {case.name: case.patient for of_set in (cases, *(of_set for _, of_set in series)) for case in of_set}
    ensembles = make_ensembles(
        models, parameters.ensemble, parameters.weights, parameters.weights_from, identity, every
    )
    denoised = denoised_models(models, parameters.denoise, parameters.denoise_from, identity, every)
    attacked = attacked_models(levels_of, [*models, *denoised], sources)
    arms: list[Arm] = [*models, *denoised, *ensembles]
    promises = read_promises(parameters.calibrations, models, by, parameters.precision, every, patients)
    manifest_file = parameters.output / "manifest.json"

    def known() -> dict[str, Any]:
        manifest = open_manifest(manifest_file, identity)
        _refuse_retrained(parameters.output, manifest, arms)
        _refuse_relearned(parameters.output, manifest, denoised)
        _refuse_recalibrated(parameters.output, manifest, promises)
        refuse_other_attacks(parameters.output, manifest, attacks)
        return manifest

    manifest = known()
    new = new_sets(parameters.output, manifest, [test_set for test_set, _ in series], digests)
    windows = {
        model.key: SlidingWindow.from_predictor(
            model.predictor, parameters.precision, _earlier_choices(manifest, model, device)
        )
        for model in models
    }
    by_network = {model.predictor: windows[model.key] for model in models}
    windows |= {model.key: by_network[model.predictor] for model in denoised}
    broken = _check(cases, manifest, models[0])
    for number in new:
        for case in series[number][1]:
            _read(case, models[0])
    identity["cases"].update(dict.fromkeys(broken))  # not None to be mended later
    settings = {
        "images": None if parameters.images is None else str(parameters.images),
        "labels": [str(folder) for folder in parameters.labels],
        "replicates": parameters.replicates,
        "tile_step_size": 0.5,
        "workers": workers,
    }
    described = [(test_set, files) for (test_set, _), files in zip(series, digests, strict=True)]

    def change(edit: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Change the manifest as it is now: other processes do, too."""
        with folder_lock(parameters.output):
            changed = edit(known())
            write_atomically(manifest_file, json.dumps(changed, indent=1) + "\n")
        return changed

    parameters.output.mkdir(parents=True, exist_ok=True)
    manifest = change(
        lambda before: describe(before, identity, settings, levels_of, attacks, described, arms, promises, device)
    )
    for case in cases:
        failure = Failure(case.name, "", "", "", broken[case.name]) if case.name in broken else None
        record(parameters.output, case.name, "", [failure] if failure else [])
    run = Run(
        parameters.output,
        identity["dataset"],
        [*models, *denoised],
        ensembles,
        windows,
        promises,
        sources,
        Attacker(attacked, parameters.attack_steps, parameters.seed),
        by,
        parameters.seed,
        parameters.tolerance_mm,
        parameters.save_predictions,
        parameters.save_uncertainty,
        set(manifest["pictures"]["cases"].values()),
    )
    conditions = conditions_of(parameters, levels_of)
    units = _units([case for case in cases if case.name not in broken], conditions, series)

    def choose() -> None:
        """Say which cases the report shows, as soon as all clean images are predicted."""
        if not run.shown and (scores := _clean_scores(run, units, parameters.shard is not None)):
            chosen = {"cases": pictures.choose_cases(scores)}
            changed = change(lambda now: {**now, "pictures": now["pictures"] if now["pictures"]["cases"] else chosen})
            run.shown.update(changed["pictures"]["cases"].values())

    def keep_choices() -> None:
        found = {key: window.choices for key, window in windows.items() if window.choices}
        entry = {key: {"device": device.type, **choices} for key, choices in found.items()}

        def edit(now: dict[str, Any]) -> dict[str, Any]:
            listed = {
                key: {**model, "choices": entry[key]} if key in entry else model for key, model in now["models"].items()
            }
            return {**now, "models": listed}

        if entry:
            change(edit)

    mine = sorted(shard(units, parameters.shard), key=lambda unit: unit.case)
    names = sorted({unit.case for unit in units})
    with quiet(), Claims(parameters.output) as claims, Engine(run, claims, progress, workers, names) as engine:
        engine.expect(mine)
        # The clean images first: they tell which cases the report will show.
        engine.process([unit for unit in mine if unit.perturbation == Condition.clean().perturbation])
        choose()
        keep_choices()
        engine.process(mine)
        choose()
        # of other shards that are finished, but were so before the shown cases were known
        engine.process([unit for unit in units if unit.case in run.shown and _only_pictures_missing(run, unit)])
    keep_choices()
    with folder_lock(parameters.output):
        return replace(_combine(run, open_manifest(manifest_file, identity), cases), notes=notes(denoised))


def _only_pictures_missing(run: Run, unit: Unit) -> bool:
    work = work_on(run, unit)
    measured = [work.measured(arm) for arm in run.arms]
    parts = [*measured, *work.results.values(), *work.bounds.values()]
    return work.left > 0 and all(condition in part.rows for condition, _ in unit.images for part in parts)


def _units(cases: Sequence[CaseFiles], conditions: Sequence[Condition], series: Series) -> list[Unit]:
    """All units, in an order that depends on nothing else: shards are taken from it."""
    images: dict[tuple[str, str], list[tuple[Condition, CaseFiles]]] = {}
    for condition in conditions:
        for case in cases:
            images.setdefault((condition.perturbation, case.name), []).append((condition, case))
    own = set(images)
    for test_set, of_set in series:
        for case in of_set:
            images.setdefault((test_set.condition.perturbation, case.name), []).append((test_set.condition, case))
    return [Unit(case, name, tuple(found), (name, case) not in own) for (name, case), found in images.items()]


def _digest(case: CaseFiles, channels: int) -> str | None:
    try:
        return sha256_of_case(case, channels)
    except OSError:
        return None


def _read(case: CaseFiles, model: Model) -> None:
    """Read a case, and say what is doubtful about it."""
    with quiet():
        notes = model.read(case).notes
    check_stored(case)
    for note in notes:
        warn(f"{case.title}: {note}")


def _check(cases: list[CaseFiles], manifest: Mapping[str, Any], model: Model) -> dict[str, str]:
    """Read every case that no earlier run has read, so that faults are told before anything is computed.

    Returns:
        Case -> what is wrong with it.

    Raises:
        UserError: all of them have a fault: the first one's.
    """
    read_before = {name for name, digest in manifest.get("identity", {}).get("cases", {}).items() if digest}
    broken: dict[str, UserError] = {}
    for case in cases:
        if case.name not in read_before:
            try:
                _read(case, model)
            except UserError as error:
                broken[case.name] = error
    if len(broken) == len(cases):
        raise next(iter(broken.values()))
    return {name: str(error) for name, error in broken.items()}


def _earlier_choices(manifest: Mapping[str, Any], model: Model, device: torch.device) -> dict[str, Any]:
    """How an earlier run into this folder ran a model, where it had such a device."""
    choices = manifest.get("models", {}).get(model.key, {}).get("choices", {})
    return {name: choices[name] for name in _KEPT_CHOICES} if choices.get("device") == device.type else {}


def _refuse_retrained(output: Path, manifest: Mapping[str, Any], arms: Sequence[Arm]) -> None:
    for arm in arms:
        before = manifest.get("models", {}).get(arm.key)
        if before is not None and before["checkpoints"] != arm.checkpoints:
            raise UserError(
                f"{output} holds results of another checkpoint of {arm.key} (it was trained again, or its weights "
                f"were): take a new folder for -o, or delete {output / 'parts' / arm.key} and its entry in "
                f"manifest.json"
            )


def _refuse_relearned(output: Path, manifest: Mapping[str, Any], denoised: Sequence[Model]) -> None:
    for model in denoised:
        before = manifest.get("models", {}).get(model.key)
        if before is not None and model.denoiser is not None and not model.denoiser.does_as(before["denoise"]):
            raise UserError(
                f"{output} holds results of {model.key} by another threshold (--denoise-from has changed): take a new "
                f"folder for -o, or delete {output / 'parts' / model.key} and its entry in manifest.json"
            )


def _refuse_recalibrated(output: Path, manifest: Mapping[str, Any], promises: Mapping[str, Promises]) -> None:
    for key, promise in promises.items():
        before = manifest.get("models", {}).get(key, {}).get("calibration")
        if before is not None and before["sha256"] != promise.digest:
            raise UserError(
                f"{output} holds what became of another calibration of {key}: take a new folder for -o, or delete "
                f"{output / 'parts' / 'bounds' / key} and the calibration of that model in manifest.json"
            )


def _clean_scores(run: Run, units: Sequence[Unit], sharded: bool) -> dict[str, float]:
    """Mean Dice of each case's clean image, over arms and labels; nothing while other shards have some to predict."""
    clean = Condition.clean()
    scores: dict[str, float] = {}
    for unit in units:
        if unit.perturbation != clean.perturbation:
            continue
        rows = [run.results(arm.key, unit.perturbation, unit.case).rows.get(clean) for arm in run.arms]
        if all(rows):
            scores[unit.case] = float(np.mean([float(row["dice"]) for of_model in rows for row in of_model or ()]))
        elif sharded and not recorded(run.output, unit.case, unit.perturbation):
            return {}
    return scores


def _combine(run: Run, manifest: Mapping[str, Any], cases: Sequence[CaseFiles]) -> SweepResult:
    """Put together all parts of the folder: those of models and test sets that this run did not name, too."""
    of_series = [files for row in manifest["perturbations"].values() for files in row.get("series", {}).values()]
    names = sorted({case.name for case in cases}.union(*of_series))
    perturbations = sorted({Condition.clean().perturbation, *manifest["perturbations"]})
    # Of equally good ones the report names the first: a model as it is, where denoising changes nothing.
    arms = sorted(manifest["models"], key=lambda key: ("denoise" in manifest["models"][key], key))
    table = run.output / "results.csv"
    combine(
        (run.results(key, p, name) for key in arms for name in names for p in perturbations),
        RESULT_COLUMNS,
        table,
    )
    combine((run.inputs(p, name) for name in names for p in perturbations), INPUT_COLUMNS, run.output / "inputs.csv")
    for part_of, columns, name_of in (
        (run.reliability, RELIABILITY_COLUMNS, "reliability"),
        (run.bounds, BOUND_COLUMNS, "bounds"),
        (run.attacks, ATTACK_COLUMNS, "attacks"),
    ):
        if (run.output / "parts" / name_of).is_dir():
            every = (part_of(key, p, name) for key in arms for name in names for p in perturbations)
            combine(every, columns, run.output / f"{name_of}.csv")
    keys = {"", *(arm.key for arm in run.arms)}
    return SweepResult(table, tuple(failure for failure in combine_failures(run.output) if failure.model in keys))
