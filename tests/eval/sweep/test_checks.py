"""What is refused of a sweep's parameters before models are loaded: a case for each row of the table, at least."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.sweep.checks import CHECKS, check_parameters
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.eval.sweep.test_sweep import Silent

GOOD = {"output": Path("out"), "conditions": {"speckle_noise": (0.1,)}, "dataset": "999", "trainers": ["nnUNetTrainer"]}
PGD, TRANSFER = ({"conditions": {name: (0.01,)}} for name in ("pgd_linf", "pgd_linf_from_A"))

FAULTS = [
    ({"replicates": 0}, "--replicates 0: at least 1"),
    ({"replicates": 3, "conditions": {"contrast": (0.5,)}}, "--replicates 3: nothing of this sweep is drawn at random"),
    ({"replicates": 3, "conditions": {}}, "--replicates 3: nothing"),
    ({"tolerance_mm": -1.0}, "--tolerance-mm -1: give mm"),
    ({"tolerance_mm": math.nan}, "--tolerance-mm nan"),
    ({"tolerance_mm": math.inf}, "--tolerance-mm inf"),
    ({"conditions": {"speckle_noise": (0.1,), "contrast": (0.0,)}}, "--perturb contrast at level 0 alone"),
    ({"attack_steps": 0, **PGD}, "--attack-steps 0: at least 1"),
    ({"attack_steps": 5}, "--attack-steps 5: no attack is swept"),
    ({"attack_sources": ["self"]}, "--attack-source is of attacks"),
    ({"ensemble": ["all"], **PGD}, "an ensemble is not attacked as one"),
    ({"attack_sources": ["B"], **TRANSFER}, "--attack-source: pgd_linf_from_A names its source already"),
    ({"uncertainty": ["mirroring"], "mirroring": False}, "--uncertainty mirroring: --disable-tta leaves no"),
    ({"uncertainty": ["folds", "mirroring"], "mirroring": False}, "--uncertainty mirroring: --disable-tta"),
    ({"weights": "best"}, "--weights best: take one of uniform, confidence, complexity"),
    ({"weights": "complexity", "ensemble": ["all"]}, "--weights complexity and --weights-from OUT go together"),
    ({"weights_from": Path("x"), "ensemble": ["all"]}, "go together"),
    ({"weights": "confidence"}, "--weights confidence needs an ensemble"),
    ({"ensemble": ["all", "A"]}, "--ensemble A: all has it already"),
    ({"denoise": ["sometimes"]}, "--denoise sometimes: take auto or always"),
    ({"denoise": ["auto"]}, "name that folder with --denoise-from"),
    ({"denoise_from": Path("x")}, "--denoise-from x is for --denoise auto"),
    ({"reference": "majority", "images": Path("i"), "labels": [Path("l")]}, "--reference majority is of several"),
    ({"labels": [Path("l")]}, "go together"),
]


@pytest.mark.parametrize(("changes", "says"), FAULTS)
def test_it_is_refused_before_anything_is_loaded(changes: dict, says: str) -> None:
    with pytest.raises(UserError) as error:  # there is no dataset 999: nothing is asked of it
        run_sweep(SweepParameters(**{**GOOD, **changes}), Silent())
    assert says in str(error.value) and "\n" not in str(error.value)


def test_every_row_has_a_fault_and_good_parameters_have_none() -> None:
    parameters = [SweepParameters(**{**GOOD, **changes}) for changes, _ in FAULTS]
    assert all(any(check.faulty(p) for p in parameters) for check in CHECKS)
    check_parameters(SweepParameters(**GOOD))


@pytest.mark.parametrize(
    "changes",
    [
        {"tolerance_mm": 0.0, "seed": -1},  # a seed is hashed: any whole number is one
        {"replicates": 2},
        {"replicates": 2, **PGD},
        {"attack_steps": 5, **PGD},
        {"attack_sources": ["self"], **PGD},
        {"uncertainty": ["folds"], "mirroring": False},
        {"ensemble": ["all"], "weights": "confidence"},
        {"conditions": {"speckle_noise": (0.0, 0.1)}},
        {"reference": "majority", "images": Path("i"), "labels": [Path("l"), Path("m")]},
    ],
)
def test_what_has_an_effect_is_not_refused(changes: dict) -> None:
    check_parameters(SweepParameters(**{**GOOD, **changes}))
