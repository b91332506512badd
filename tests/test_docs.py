"""The docs tell what the tables say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nnunet_robust.cli.datasets import convert, synthesize
from nnunet_robust.deployment.drift.features import image_features, prediction_features
from nnunet_robust.deployment.drift.words import MEANINGS
from nnunet_robust.deployment.qa.input_checks import LIMITS
from nnunet_robust.deployment.qa.limits import REVIEWED
from nnunet_robust.eval.attacks.rows import PERTURBATIONS, PRESETS
from nnunet_robust.eval.uncertainty.uncertainty import PredictedDice, StructureScores
from nnunet_robust.study.document import schema
from nnunet_robust.study.examples import EXAMPLES
from nnunet_robust.trainers import TRAINERS
from nnunet_robust.trainers.names import RULE

ROOT = Path(__file__).parent.parent


def doc(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_is_documented_with_its_levels(name: str) -> None:
    row = next(line for line in doc("docs/sweep.md").splitlines() if line.startswith(f"| `{name}`"))
    assert row.endswith(f"| {' '.join(f'{level:g}' for level in PERTURBATIONS[name].levels)} |")


def test_every_preset_trainer_and_option_is_documented() -> None:
    for preset in PRESETS:
        assert f"--preset {preset}" in doc("docs/sweep.md")
    for trainer in TRAINERS:
        assert f"| `{trainer}` |" in doc("docs/trainers.md")
    assert RULE in doc("docs/trainers.md")


def test_every_source_of_data_is_documented() -> None:
    for app, verb in ((convert, "convert"), (synthesize, "synthesize")):
        for command in app.registered_commands:
            assert f"## {verb} {command.callback.__name__}\n" in doc("docs/datasets.md")


def test_every_key_of_a_study_is_documented() -> None:
    page = doc("docs/study.md")
    rules = schema()
    parts = [rules, *(rules["$defs"][part] for part in ("dataset", "sweep", "resources"))]
    for key in (key for part in parts for key in part["properties"]):
        assert re.search(rf"\b{key}\b", page), key
    for name in EXAMPLES:
        assert f"`{name}`" in page or f"init {name}" in page


def test_every_limit_of_a_verdict_is_documented() -> None:
    lines = [line for line in doc("docs/bounds.md").splitlines() if line.startswith("| ")]
    said = {"spacing": "voxel size", "extent": "extent", "intensity range": "intensity range", "noise": "noise"}
    said |= {"smoothness": "noise", "blur": "blur", "contrast": "contrast"}
    said["segmented intensities"] = "median of what is segmented"
    for name, limits in LIMITS.items():
        row = next(line for line in lines if line.startswith(f"| {said[name]}"))
        wanted = [limits.review, limits.reject] if limits.reject < float("inf") else [limits.review]
        assert all(re.search(rf"\b{re.escape(f'{value:g}')} (x|widths)", row) for value in wanted), (name, row)
    dice = next(line for line in lines if line.startswith("| lower end of the interval of the Dice"))
    assert f"below their {100 * REVIEWED:g} % quantile" in dice


def test_every_feature_of_drift_is_documented() -> None:
    image, mask = np.random.default_rng(0).normal(size=(1, 32, 32)), np.zeros((32, 32), bool)
    mask[8:20, 8:20] = True
    scores = {"x": StructureScores(0.1, 0.0, 10, 20, PredictedDice(0.9, 0.8, 0.85))}
    names = {*image_features(image, (1.0, 1.0), ["T1"]), *prediction_features(image, (1.0, 1.0), {"x": mask}, scores)}
    starts = {next((start for start in MEANINGS if name.startswith(start)), name) for name in names}
    assert starts | {"bottleneck", "bottleneck rest"} == {*MEANINGS}
    for start in MEANINGS:
        assert f"| `{start}" in doc("docs/monitor.md"), start


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    readme = doc("README.md")
    assert len(readme.splitlines()) <= 150
    links = [part.split(")")[0] for part in readme.split("](")[1:]]
    for link in links:
        assert link.startswith("https://") or (ROOT / link).is_file(), link
