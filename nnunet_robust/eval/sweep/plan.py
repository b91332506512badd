"""The plan of a sweep: all that is checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import dataset_name
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads, workers_of
from nnunet_robust.eval.inference.ensembles import ALL, Ensemble, make_ensembles
from nnunet_robust.eval.inference.members import members_by
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.selection import models_of
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.inference.training import training_of
from nnunet_robust.eval.inference.training_cases import Overlap
from nnunet_robust.eval.results.manifest import Identity, Manifest, ModelEntry, TrainingEntry
from nnunet_robust.eval.sweep.arms import Arm
from nnunet_robust.eval.sweep.attack_settings import AttackSettings, attack_settings, attacked_models
from nnunet_robust.eval.sweep.cases import SweepCases, find_cases, read_new_cases, read_once, training_overlaps
from nnunet_robust.eval.sweep.checks import check_parameters
from nnunet_robust.eval.sweep.denoised_arms import denoised_models
from nnunet_robust.eval.sweep.earlier_results import read_known
from nnunet_robust.eval.sweep.guarantees import Guarantees, members_calibrated, read_guarantees
from nnunet_robust.eval.sweep.parameters import SweepParameters, attacked_conditions, sources_of
from nnunet_robust.eval.sweep.series import new_sets
from nnunet_robust.eval.sweep.units import shard

# What a later run takes over, so that it computes as this one did; the rest depends on the machine.
_CHOICES_TAKEN_OVER = ("backend", "inference_type", "memory_layout", "compiled", "batch_size")


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep is going to do, checked.

    Attributes:
        parameters: what the user asked for.
        device: where the models predict.
        workers: threads beside the network's.
        identity: what results in the output folder share.
        models: the models, then the same with denoising.
        ensembles: of these models.
        windows: model key -> its sliding window.
        guarantees: model key -> its calibration, where it has one.
        sources: name -> the model whose attacked images all models get.
        attacked: the models that are attacked.
        attacks: those of `levels` that are attacks, and how each is made.
        levels: perturbation -> levels.
        cases: of the sweep.
        unreadable: case -> what is wrong with it.
        notes: case that was read now -> what is doubtful about it.
        trainings: model key -> how it was trained; of models without denoising, as is the next.
        overlaps: model key -> which of the cases it was trained on.
        background: what decides over the region of an image that is perturbed and measured.
    """

    parameters: SweepParameters
    device: torch.device
    workers: int
    identity: Identity
    models: Sequence[Model]
    ensembles: Sequence[Ensemble]
    windows: Mapping[str, SlidingWindow]
    guarantees: Mapping[str, Guarantees]
    sources: Mapping[str, Model]
    attacked: Sequence[Model]
    attacks: AttackSettings
    levels: Mapping[str, Sequence[float]]
    cases: SweepCases
    unreadable: Mapping[str, str]
    notes: Mapping[str, Sequence[str]]
    trainings: Mapping[str, TrainingEntry]
    overlaps: Mapping[str, Overlap]
    background: Background

    @property
    def arms(self) -> list[Arm]:
        """All that are compared."""
        return [*self.models, *self.ensembles]

    @property
    def members_by(self) -> Sequence[str]:
        """How a model's members are told apart, see `sliding_window.MEMBERS_BY`; empty: not at all."""
        return self.identity.members_by or ()

    def manifest(self) -> Manifest:
        """The manifest of the output folder as it is now: other processes change it, too.

        Raises:
            UserError: see `read_known`.
        """
        return read_known(self.parameters.output, self.identity, self.arms, self.guarantees, self.attacks)


def plan_sweep(parameters: SweepParameters) -> SweepPlan:
    """Check all that a sweep needs: numbers, device, models, cases, and what the output folder holds already.

    Raises:
        UserError: bad input, in one line. Nothing was written then.
    """
    check_parameters(parameters)
    device = device_of(parameters.device)
    workers = workers_of(parameters.workers, device)
    shard((), parameters.shard)
    by = _members_by(parameters)
    use_nnunets_threads(device)
    dataset = None if parameters.dataset is None else dataset_name(parameters.dataset)
    members = [trainer for trainer in parameters.ensemble if trainer != ALL]  # need not be named twice
    plain = [
        model.with_precision(parameters.precision)
        for model in models_of(parameters, dataset, device, further_trainers=members, tile_sizes=parameters.tile_sizes)
    ]
    sources = sources_of(parameters, plain, dataset, device)
    levels = attacked_conditions(parameters, sources)
    attacks = attack_settings(levels, parameters.attack_steps, sources)
    background = _background(parameters.background, plain)
    cases = find_cases(parameters, dataset, plain)
    overlaps = training_overlaps(parameters, dataset, cases, plain)
    of_dataset = dataset or plain[0].predictor.plans_manager.dataset_name
    identity = _identity(parameters, of_dataset, by, cases, background.mode)
    seen = cases.all_digests
    ensembles = make_ensembles(
        plain, parameters.ensemble, parameters.weights, parameters.weights_from, identity, seen, background
    )
    models = [*plain, *denoised_models(plain, parameters.denoise, parameters.denoise_from, identity, seen, background)]
    attacked = attacked_models(levels, models, sources)
    guarantees = read_guarantees(parameters.calibrations, plain, by, parameters.precision, seen, cases.patients)
    manifest = read_known(parameters.output, identity, [*models, *ensembles], guarantees, attacks)
    new = new_sets(parameters.output, manifest, cases.series)
    windows = _windows(plain, models, parameters.precision, manifest, device)
    new_cases = read_new_cases(cases.own, manifest, plain[0], background)
    notes = dict(new_cases.notes)
    for of_set in new:
        for case in of_set.cases:
            if doubts := read_once(case, plain[0], background):
                notes[f"{case.name} of {of_set.test_set.condition.name}"] = doubts
    return SweepPlan(
        parameters=parameters,
        device=device,
        workers=workers,
        identity=replace(identity, cases={**identity.cases, **dict.fromkeys(new_cases.faults)}),  # to be mended later
        models=models,
        ensembles=ensembles,
        windows=windows,
        guarantees=guarantees,
        sources=sources,
        attacked=attacked,
        attacks=attacks,
        levels=levels,
        cases=cases,
        unreadable=new_cases.faults,
        notes=notes,
        trainings={model.key: training_of(model) for model in plain},
        overlaps=overlaps,
        background=background,
    )


def _members_by(parameters: SweepParameters) -> tuple[str, ...]:
    by = members_by(parameters.uncertainty or members_calibrated(parameters.calibrations))
    if parameters.save_uncertainty and not (by or parameters.ensemble):
        raise UserError("--save-uncertainty keeps maps of members: tell them apart with --uncertainty, or --ensemble")
    return by


def _background(mode: str, models: Sequence[Model]) -> Background:
    """What decides over images' regions: one rule for all models, which see the same images."""
    rules = [model.background(mode) for model in models]
    return next((rule for rule in rules if rule.mode == "keep"), rules[0])


def _identity(
    parameters: SweepParameters, dataset: str, by: Sequence[str], cases: SweepCases, background: str
) -> Identity:
    first = cases.own[0]
    return Identity(
        dataset=dataset,
        seed=parameters.seed,
        mirroring=parameters.mirroring,
        checkpoint=parameters.checkpoint,
        tolerance_mm=parameters.tolerance_mm,
        precision=parameters.precision,
        members_by=list(by),
        reference=first.reference if first.experts else None,
        background=background,
        cases=cases.digests,
    )


def _windows(
    plain: Sequence[Model], models: Sequence[Model], precision: str, manifest: Manifest, device: torch.device
) -> dict[str, SlidingWindow]:
    """Model key -> its sliding window: one for each network, which a model with denoising shares."""
    of_network = {
        model.predictor: SlidingWindow.from_predictor(
            model.predictor, precision, _earlier_choices(manifest, model, device)
        )
        for model in plain
    }
    return {model.key: of_network[model.predictor] for model in models}


def _earlier_choices(manifest: Manifest, model: Model, device: torch.device) -> dict[str, object]:
    """How an earlier run into this folder ran a model, where it had such a device."""
    choices = manifest.models.get(model.key, ModelEntry()).choices or {}
    return {name: choices[name] for name in _CHOICES_TAKEN_OVER} if choices.get("device") == device.type else {}
