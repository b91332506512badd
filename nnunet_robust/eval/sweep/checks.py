"""What can be told of a sweep's parameters before models are loaded: values out of range, options without an effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.rows import STEPS, perturbation
from nnunet_robust.eval.images.selection import check_cases
from nnunet_robust.eval.inference.ensembles import ALL, WEIGHTINGS
from nnunet_robust.eval.sweep.denoised_arms import WAYS
from nnunet_robust.eval.sweep.parameters import SweepParameters, on_themselves
from nnunet_robust.perturbations.row import Perturbation


class Check(NamedTuple):
    """A fault of a sweep's parameters.

    Attributes:
        faulty: whether they have it; what is found may be named in `says`.
        says: the option, its value and what to do; `{p}` is the parameters, `{found}` what was found.
    """

    faulty: Callable[[SweepParameters], Any]
    says: str


def _rows(parameters: SweepParameters) -> Iterator[Perturbation]:
    return map(perturbation, parameters.conditions)


def _attacks(parameters: SweepParameters) -> list[Perturbation]:
    return [row for row in _rows(parameters) if row.uses_victim]


def _white_box(parameters: SweepParameters) -> bool:
    return any(row.white_box for row in _attacks(parameters))


def _unknown(names: Any, known: tuple[str, ...]) -> list[str]:
    return [name for name in names if name not in known]


CHECKS = (
    Check(lambda p: p.replicates < 1, "--replicates {p.replicates}: at least 1 draw is needed"),
    Check(
        lambda p: p.replicates > 1 and not any(row.stochastic or row.uses_victim for row in _rows(p)),
        "--replicates {p.replicates}: nothing of this sweep is drawn at random: leave it out, or add a perturbation "
        "that is",
    ),
    Check(lambda p: not 0 <= p.tolerance_mm < math.inf, "--tolerance-mm {p.tolerance_mm:g}: give mm, 0 or above, as 2"),
    Check(
        lambda p: next((name for name, levels in p.conditions.items() if not any(levels)), None),
        "--perturb {found} at level 0 alone: that is the clean image, which is swept anyway: name other levels, or "
        "leave it out",
    ),
    Check(lambda p: p.attack_steps < 1, "--attack-steps {p.attack_steps}: at least 1 step is needed"),
    Check(
        lambda p: p.attack_sources and not _attacks(p),
        "--attack-source is of attacks: name some with --perturb, as pgd_linf, or take --preset attacks",
    ),
    Check(
        lambda p: p.ensemble and on_themselves(p) and _white_box(p),
        "an ensemble is not attacked as one: sweep attacks without --ensemble, or from --attack-source",
    ),
    Check(
        lambda p: p.attack_sources and not _white_box(p) and next((row.name for row in _attacks(p)), None),
        "--attack-source: {found} names its source already: leave one of them out",
    ),
    Check(
        lambda p: p.attack_steps != STEPS and not _attacks(p),
        "--attack-steps {p.attack_steps}: no attack is swept: name one with --perturb, as pgd_linf, or leave it out",
    ),
    Check(
        lambda p: "mirroring" in p.uncertainty and not p.mirroring,
        "--uncertainty mirroring: --disable-tta leaves no mirrored copies to tell apart: leave out one of the two",
    ),
    Check(
        lambda p: p.weights not in WEIGHTINGS, "--weights {p.weights}: take one of " + ", ".join(WEIGHTINGS)
    ),
    Check(
        lambda p: (p.weights == "complexity") != (p.weights_from is not None),
        "--weights complexity and --weights-from OUT go together: OUT is a sweep over calibration cases with "
        "--ensemble of the same models",
    ),
    Check(
        lambda p: p.weights != "uniform" and not p.ensemble,
        "--weights {p.weights} needs an ensemble: name its models with --ensemble, or take all",
    ),
    Check(
        lambda p: ALL in p.ensemble and _unknown(p.ensemble, (ALL,)),
        "--ensemble {found[0]}: all has it already: leave one of them out",
    ),
    Check(
        lambda p: _unknown(p.denoise, WAYS), "--denoise {found[0]}: take " + " or ".join(WAYS) + ", or both"
    ),
    Check(
        lambda p: "auto" in p.denoise and p.denoise_from is None,
        "--denoise auto learns from an earlier sweep how much noise each model bears: sweep other cases (-i, -l) "
        "with --perturb gaussian_noise, and name that folder with --denoise-from",
    ),
    Check(
        lambda p: p.denoise_from is not None and "auto" not in p.denoise,
        "--denoise-from {p.denoise_from} is for --denoise auto: give both or neither",
    ),
)  # fmt: skip


def check_parameters(parameters: SweepParameters) -> None:
    """Refuse what cannot be done, and what would change nothing.

    Raises:
        UserError: the first of `CHECKS` that is faulty, or of `check_cases`.
    """
    for check in CHECKS:
        if found := check.faulty(parameters):
            raise UserError(check.says.format(p=parameters, found=found))
    check_cases(parameters)
