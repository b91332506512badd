"""The commands `nnunet-robust sweep` and `perturbations`. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_robust.cli.checks import ANY, LENGTH, SEED, Within
from nnunet_robust.cli.options import (
    CaseFlags,
    Commands,
    ModelAndFoldsFlags,
    PredictionFlags,
    folder_of,
    of_cases,
    of_execution,
)
from nnunet_robust.common.console import show
from nnunet_robust.common.interrupts import Stopped

if TYPE_CHECKING:
    from nnunet_robust.eval.sweep.estimate import Expected, Tried

sweeping = Commands()

_RESULTS = folder_of("manifest.json", "results.csv", "inputs.csv")

_FAILURES_SHOWN = 20  # lines; the file has them all

_of_perturbations = partial(typer.Option, rich_help_panel="Perturbations")
_of_ensembles = partial(typer.Option, rich_help_panel="Ensembles")
_of_uncertainty = partial(typer.Option, rich_help_panel="Uncertainty")
_of_denoising = partial(typer.Option, rich_help_panel="Denoising")
_of_attacks = partial(typer.Option, rich_help_panel="Attacks")


def _known_perturbations(incomplete: str) -> list[str]:
    from nnunet_robust.eval.attacks.rows import PERTURBATIONS

    return [name for name in PERTURBATIONS if name.startswith(incomplete)]


def _known_presets(incomplete: str) -> list[str]:
    from nnunet_robust.eval.attacks.rows import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


@dataclass(frozen=True, kw_only=True)
class SweepCaseFlags(CaseFlags):
    """Images with labels, several experts' among them, and series of them."""

    reference: Annotated[
        str, of_cases("--reference", help="Of several -l, what to compare with: first, majority, staple.")
    ] = "first"
    series: Annotated[Path | None, of_cases("--series", help="A CSV of test sets, each a condition.")] = None
    allow_training_cases: Annotated[
        bool,
        of_cases("--allow-training-cases", help="Score models on cases of their own training; the report says so."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ConditionFlags:
    """Perturbations and their levels, as the user names them."""

    perturb: Annotated[
        list[str],
        _of_perturbations(
            "--perturb",
            help="Perturbations, several at once; NAME=0.1,0.2 has its own levels. nnunet-robust perturbations lists "
            "them.",
            autocompletion=_known_perturbations,
        ),
    ]
    preset: Annotated[
        str | None,
        _of_perturbations(
            "--preset",
            help="A named set of perturbations and levels. nnunet-robust perturbations lists them.",
            autocompletion=_known_presets,
        ),
    ] = None
    levels: Annotated[list[float] | None, _of_perturbations("--levels", help="Levels of each --perturb."), ANY] = None


@dataclass(frozen=True, kw_only=True)
class DrawFlags:
    """How noise is drawn, and where it goes."""

    replicates: Annotated[int, _of_perturbations("--replicates", help="Noise draws per level."), Within(1, 10_000)] = 1
    seed: Annotated[int, _of_perturbations("--seed", help="Seed of the noise."), SEED] = 0
    background: Annotated[
        str,
        _of_perturbations(
            "--background",
            help="Of exact zeros: keep, perturb, or auto: keep what nnU-Net crops or normalises without.",
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class EnsembleFlags:
    """Ensembles of the models."""

    ensemble: Annotated[
        list[str], _of_ensembles("--ensemble", help="Trainers that make an ensemble beside themselves; or: all.")
    ]
    weights: Annotated[
        str, _of_ensembles("--weights", help="Of its members, case by case: uniform, confidence, complexity.")
    ] = "uniform"
    weights_from: Annotated[
        Path | None, _of_ensembles("--weights-from", help="For complexity: a sweep with --ensemble over other cases.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class UncertaintyFlags:
    """What is measured of a model's confidence."""

    uncertainty: Annotated[
        list[str],
        _of_uncertainty("--uncertainty", help="Scores of uncertainty, from members by: folds, mirroring, or both."),
    ]
    calibrations: Annotated[
        list[Path], _of_uncertainty("--calibration", help="Of the models: what becomes of their guarantees.")
    ]
    save_uncertainty: Annotated[
        bool, _of_uncertainty("--save-uncertainty", help="Keep the maps: entropy, mutual information.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class DenoisingFlags:
    """The models again with denoised images."""

    denoise: Annotated[
        list[str],
        _of_denoising(
            "--denoise", help="Each model also with denoising: auto (above the noise that it tolerates), always."
        ),
    ]
    denoise_from: Annotated[
        Path | None,
        _of_denoising("--denoise-from", metavar="OUT", help="For auto: a sweep of noise over calibration cases."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class AttackFlags:
    """How attacks are made."""

    attack_sources: Annotated[
        list[str],
        _of_attacks("--attack-source", help="Attack these models (trainers or folders) for all; self: each itself."),
    ]
    attack_steps: Annotated[int, _of_attacks("--attack-steps", help="Steps of each attack."), Within(1, 100_000)] = 20


@dataclass(frozen=True, kw_only=True)
class SweepExecutionFlags(PredictionFlags):
    """How the models predict, and how the work is divided."""

    tile_sizes: Annotated[
        list[str],
        of_execution("--tile-size", help="Sliding windows, as 64 or 32x64x64; default: training's."),
    ]
    workers: Annotated[
        int | None, of_execution("--workers", help="Threads beside the networks'; default: by device."), Within(0, 1024)
    ] = None
    shard: Annotated[
        str | None, of_execution("--shard", help="i/n: the i-th of n processes that work at different times or places.")
    ] = None


@sweeping.command(rich_help_panel="Evaluation")
def sweep(
    output: Annotated[Path, typer.Option("-o", help="Folder of the results; a sweep begun there goes on."), _RESULTS],
    models: ModelAndFoldsFlags,
    cases: SweepCaseFlags,
    named: ConditionFlags,
    draws: DrawFlags,
    ensembles: EnsembleFlags,
    uncertainty: UncertaintyFlags,
    denoising: DenoisingFlags,
    attacks: AttackFlags,
    execution: SweepExecutionFlags,
    gpus: Annotated[
        str | None, of_execution("--gpus", help="GPUs to run on, a process each: a number, or all; default: one.")
    ] = None,
    save_predictions: Annotated[bool, typer.Option("--save-predictions", help="Keep the segmentations.")] = False,
    tolerance_mm: Annotated[
        float, typer.Option("--tolerance-mm", help="Tolerance of the surface Dice (nsd)."), LENGTH
    ] = 2.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many predictions there are, and try out how long they take.")
    ] = False,
) -> None:
    """Perturb the test images step by step, predict with every model, and measure: results.csv, inputs.csv.

    Example: nnunet-robust sweep -d 501 -tr nnUNetTrainer nnUNetTrainerNoSkip -f 0 -o OUT --perturb speckle_noise
    """
    from nnunet_robust.eval.inference.devices import gpus_of
    from nnunet_robust.eval.sweep.conditions import conditions_for
    from nnunet_robust.eval.sweep.processes import run_on, share
    from nnunet_robust.eval.sweep.progress import SweepProgress
    from nnunet_robust.eval.sweep.sweep import SweepParameters, foresee_sweep, run_sweep

    devices = [] if gpus is None else gpus_of(gpus, execution.device)
    perturbed = named.perturb or named.preset or named.levels or not (cases.series or execution.tile_sizes)
    parameters = SweepParameters(
        output=output,
        conditions=conditions_for(named.perturb, named.preset, named.levels) if perturbed else {},
        save_predictions=save_predictions,
        tolerance_mm=tolerance_mm,
        **vars(models),
        **vars(cases),
        **vars(draws),
        **vars(ensembles),
        **vars(uncertainty),
        **vars(denoising),
        **vars(attacks),
        **vars(execution),
    )
    if dry_run:
        foreseen = foresee_sweep(share(parameters, devices) if devices else parameters)
        print(*_foreseen(*foreseen, processes=max(1, len(devices))), sep="\n")
        return
    progress = SweepProgress(output)
    try:
        with progress:
            several = len(devices) > 1
            result = run_on(devices, parameters, progress) if several else run_sweep(parameters, progress)
    except Stopped as stopped:
        if progress.kept:
            stopped.kept = f"{progress.kept}, and the same command goes on from there"
        raise
    for note in result.notes:
        print(note, file=sys.stderr)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for failure in result.failures[:_FAILURES_SHOWN]:
        print(f"failed: {failure}", file=sys.stderr)
    if result.failures:
        print(f"{len(result.failures)} failures: see {output / 'failures.csv'}", file=sys.stderr)
    print(*_answer(output), result.table, f"next: nnunet-robust report {output}", sep="\n")
    if result.failures:
        raise typer.Exit(1)


def _foreseen(expected: Expected, tried: Tried | None, processes: int = 1) -> list[str]:
    """What a dry run prints, which tries predictions out on one device."""
    from nnunet_robust.common.progress import duration

    if not expected.to_make:
        return [expected.counts(), expected.time()]
    if tried is None:
        return [expected.counts(), "the predictions that were tried out failed: run it, and failures.csv says why"]
    attacks = "" if tried.attack_seconds is None else f", {tried.attack_seconds:.3g} s with an attack"
    basis = f"{tried.seconds:.3g} s a prediction{attacks}, tried out on {tried.sample}"
    shared = f", shared by {processes} GPUs" if processes > 1 else ""
    return [expected.counts(), f"about {duration(tried.of(expected) / processes)} ({basis}{shared})"]


def _answer(output: Path) -> list[str]:
    """What the folder's results say of which architecture to take; nothing where there is nothing to compare."""
    from nnunet_robust.common.errors import UserError
    from nnunet_robust.eval.report import analyse, printed_answer

    try:
        analysis = analyse([output])
    except UserError:  # no case is complete for every model, or the folder holds several datasets
        return []
    return printed_answer(analysis) if len(analysis.architectures) > 1 else []


@sweeping.command(rich_help_panel="Evaluation")
def perturbations() -> None:
    """List the perturbations with unit, default levels and modality, and the presets: what sweep takes.

    Example: nnunet-robust perturbations
    """
    from rich.table import Table

    from nnunet_robust.eval.attacks.rows import PERTURBATIONS, PRESETS

    table = Table("perturbation", "level", "default levels", "modality", title="--perturb")
    for name, row in PERTURBATIONS.items():
        table.add_row(name, row.unit, _numbers(row.levels), row.modality)
    show(table)
    table = Table("preset", "perturbations, at their default levels where none stand here", title="--preset")
    for name, conditions in PRESETS.items():
        members = (
            one if levels == PERTURBATIONS[one].levels else f"{one} at {_numbers(levels)}"
            for one, levels in conditions.items()
        )
        table.add_row(name, ", ".join(members))
    show(table)


def _numbers(levels: tuple[float, ...]) -> str:
    return " ".join(f"{level:g}" for level in levels)
