"""The execution of a plan: one unit after the other, the clean images first, then all tables put together."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_robust.common.console import quiet
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import make_folder
from nnunet_robust.eval.images import pictures
from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.results.failures import Failure, combine_failures, record, recorded
from nnunet_robust.eval.results.manifest import MANIFEST, Manifest, Pictures, open_manifest, write_manifest
from nnunet_robust.eval.results.parts import combine_tables
from nnunet_robust.eval.results.tables import RESULTS, Condition
from nnunet_robust.eval.statistics.cautions import cautions
from nnunet_robust.eval.statistics.tables import load_results
from nnunet_robust.eval.sweep.attacker import Attacker
from nnunet_robust.eval.sweep.denoised_arms import notes
from nnunet_robust.eval.sweep.engine import Engine, Progress
from nnunet_robust.eval.sweep.estimate import Expected, Stopwatch, Tried, expected, sample_of
from nnunet_robust.eval.sweep.manifest import describe
from nnunet_robust.eval.sweep.parameters import conditions_of
from nnunet_robust.eval.sweep.plan import SweepPlan
from nnunet_robust.eval.sweep.units import Claims, Unit, folder_lock, shard
from nnunet_robust.eval.sweep.work import Run, work_on

_CLEAN = Condition.clean()


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind.

    Attributes:
        table: the path of `results.csv`.
        failures: what could not be computed of this run's models and cases, by this run or an earlier one.
        notes: what was learned before anything was predicted, and which network could not be run as it was meant to
            be, in sentences.
        warnings: what readers of the numbers must know, in sentences, see `statistics.cautions`.
    """

    table: Path
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def execute(plan: SweepPlan, progress: Progress) -> SweepResult:
    """Compute what a plan's output folder lacks. Several processes may do so at once.

    Args:
        plan: of the sweep.
        progress: is told of every finished prediction.
    """
    parameters = plan.parameters
    make_folder(parameters.output)
    manifest = _change(plan, lambda before: describe(before, plan))
    _record_unreadable(plan)
    run = Run(plan, _attacker(plan), set(manifest.pictures.cases.values()))
    units = _units(plan)
    mine = sorted(shard(units, parameters.shard), key=lambda unit: unit.case)
    names = sorted({unit.case for unit in units})
    left = {unit: work_on(run, unit).left for unit in mine}
    progress.announce(expected(plan, left))
    with quiet(), Claims(parameters.output) as claims, Engine(run, claims, progress, plan.workers, names) as engine:
        engine.expect(left)
        # The clean images first: they tell which cases the report will show.
        engine.process([unit for unit in mine if unit.perturbation == _CLEAN.perturbation])
        _choose_pictures(run, units)
        _keep_choices(plan)
        engine.process(mine)
        _choose_pictures(run, units)
        # of other shards that are finished, but were so before the shown cases were known
        engine.process([unit for unit in units if unit.case in run.shown and _only_pictures_missing(run, unit)])
    _keep_choices(plan)
    with folder_lock(parameters.output):
        return _combine(plan)


def foresee(plan: SweepPlan) -> tuple[Expected, Tried | None]:
    """Find out what `execute` would do and how long it would take; nothing is written to the output folder.

    A few predictions are made in a folder for temporary files, by the same pipeline.

    Args:
        plan: of the sweep.

    Returns:
        What is to be done, and what the predictions took that were tried out; None where none could be.
    """
    run = Run(plan, _attacker(plan), set(plan.manifest().pictures.cases.values()))
    units = shard(_units(plan), plan.parameters.shard)
    todo = expected(plan, {unit: work_on(run, unit).left for unit in units})
    if not todo.to_make or len(plan.unreadable) == len(plan.cases.own):
        return todo, None
    with tempfile.TemporaryDirectory() as folder:
        watch, sample = Stopwatch(), sample_of(plan, Path(folder))
        result = execute(sample, watch)
    return todo, None if result.failures else watch.tried(sample)


def _attacker(plan: SweepPlan) -> Attacker:
    return Attacker(plan.attacked, plan.parameters.attack_steps, plan.parameters.seed)


def _change(plan: SweepPlan, edit: Callable[[Manifest], Manifest]) -> Manifest:
    """Change the manifest as it is now: other processes do, too."""
    with folder_lock(plan.parameters.output):
        changed = edit(plan.manifest())
        write_manifest(plan.parameters.output / MANIFEST, changed)
    return changed


def _record_unreadable(plan: SweepPlan) -> None:
    for case in plan.cases.own:
        reason = plan.unreadable.get(case.name)
        record(plan.parameters.output, case.name, "", [Failure(case.name, "", "", "", reason)] if reason else [])


def _units(plan: SweepPlan) -> list[Unit]:
    """All units, in an order that depends on nothing else: shards are taken from it."""
    images: dict[tuple[str, str], list[tuple[Condition, CaseFiles]]] = {}
    for condition in conditions_of(plan.parameters, plan.levels):
        for case in plan.cases.own:
            if case.name not in plan.unreadable:
                images.setdefault((condition.perturbation, case.name), []).append((condition, case))
    own = set(images)
    for of_set in plan.cases.series:
        condition = of_set.test_set.condition
        for case in of_set.cases:
            images.setdefault((condition.perturbation, case.name), []).append((condition, case))
    return [Unit(case, name, tuple(found), (name, case) not in own) for (name, case), found in images.items()]


def _choose_pictures(run: Run, units: Sequence[Unit]) -> None:
    """Say which cases the report shows, as soon as all clean images are predicted."""
    if not run.shown and (scores := _clean_scores(run, units)):
        chosen = Pictures(cases=pictures.choose_cases(scores))
        changed = _change(run.plan, lambda now: now if now.pictures.cases else replace(now, pictures=chosen))
        run.shown.update(changed.pictures.cases.values())


def _clean_scores(run: Run, units: Sequence[Unit]) -> dict[str, float]:
    """Mean Dice of each case's clean image, over arms and labels; nothing while other shards have some to predict."""
    scores: dict[str, float] = {}
    for unit in units:
        if unit.perturbation != _CLEAN.perturbation:
            continue
        rows = [run.part(RESULTS, arm.key, unit).rows.get(_CLEAN) for arm in run.plan.arms]
        if all(rows):
            scores[unit.case] = float(np.mean([float(row["dice"]) for of_arm in rows for row in of_arm or ()]))
        elif run.plan.parameters.shard is not None and not recorded(run.output, unit.case, unit.perturbation):
            return {}
    return scores


def _keep_choices(plan: SweepPlan) -> None:
    """Store how each network was run, so that a later run does so, too."""
    choices = {
        key: {"device": plan.device.type, **window.choices} for key, window in plan.windows.items() if window.choices
    }

    def edit(now: Manifest) -> Manifest:
        models = {
            key: replace(model, choices=choices[key]) if key in choices else model for key, model in now.models.items()
        }
        return replace(now, models=models)

    if choices:
        _change(plan, edit)


def _only_pictures_missing(run: Run, unit: Unit) -> bool:
    work = work_on(run, unit)
    return work.left > 0 and all(condition in part.rows for condition, _ in unit.images for part in work.parts.values())


def _combine(plan: SweepPlan) -> SweepResult:
    """Put together all parts of the folder: those of models and test sets that this run did not name, too."""
    output = plan.parameters.output
    manifest = open_manifest(output / MANIFEST, plan.identity)
    of_series = [files for row in manifest.perturbations.values() for files in (row.series or {}).values()]
    names = sorted({case.name for case in plan.cases.own}.union(*of_series))
    perturbations = sorted({_CLEAN.perturbation, *manifest.perturbations})
    # Of equally good ones the report names the first: a model as it is, where denoising changes nothing.
    arms = sorted(manifest.models, key=lambda key: (manifest.models[key].denoise is not None, key))
    combine_tables(output, arms, names, perturbations)
    keys = {"", *(arm.key for arm in plan.arms)}
    failures = tuple(failure for failure in combine_failures(output) if failure.model in keys)
    warnings = tuple(cautions(manifest, _results(RESULTS.file(output))))
    of_networks = {f"{model.key}: {note}": None for model in plan.models for note in plan.windows[model.key].notes}
    return SweepResult(RESULTS.file(output), failures, (*notes(plan.models), *of_networks), warnings)


def _results(table: Path) -> pd.DataFrame | None:
    try:
        return load_results(table)
    except UserError:  # nothing could be predicted
        return None
