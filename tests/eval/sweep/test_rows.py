"""Uncertainty, reliability and experts in the sweep, on real trained models, against direct computations."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation
from sklearn.metrics import f1_score

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.report.shared.read import read_sweep
from nnunet_robust.eval.results.tables import ARM, CONDITION, IDENTITY, SCORES, TABLES, ResultTable, When
from nnunet_robust.eval.sweep.plan import plan_sweep
from nnunet_robust.eval.sweep.rows import ROWS
from nnunet_robust.eval.sweep.run import execute
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from nnunet_robust.eval.uncertainty.expert_variability import majority, staple
from tests.conftest import train
from tests.eval.inference.test_ensembles import probabilities, table
from tests.eval.sweep.test_sweep import Silent, read

NAMES = [f"texture_test_{i:04d}" for i in range(3)]


@pytest.fixture
def parameters(
    textures: str, texture_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SweepParameters:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    return SweepParameters(
        output=tmp_path / "out", conditions={"gaussian_noise": (0.3,)}, dataset="901", trainers=texture_models[:1],
        folds=["0"], device="cpu", save_predictions=True,
    )  # fmt: skip


def test_a_new_table_is_a_row_and_a_function(parameters: SweepParameters, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored, resumed, combined and read, and the plan wrote nothing before."""
    extra = ResultTable("extra", (*IDENTITY, *CONDITION, "label", "half"), When.ALWAYS)
    for module in ("results.parts", "sweep.work", "sweep.stages", "report.read"):
        monkeypatch.setattr(f"nnunet_robust.eval.{module}.TABLES", (extra, *TABLES))
    half = {extra.name: lambda found: [{"label": name, "half": m.dice / 2} for name, m in found.metrics.items()]}
    monkeypatch.setattr("nnunet_robust.eval.sweep.stages.ROWS", {**ROWS, **half})
    plan = plan_sweep(parameters)
    assert not parameters.output.exists() and [arm.key for arm in plan.arms] == [model.key for model in plan.models]
    execute(plan, Silent())
    shutil.rmtree(parameters.output / "parts" / "extra" / plan.arms[0].key / "gaussian_noise")
    progress = Silent()
    execute(plan, progress)
    assert progress.steps == 3
    sweep = read_sweep(parameters.output)
    key = [*ARM, "case", "perturbation", "level", "label"]
    both = sweep.rows.merge(sweep.tables["extra"], on=key, validate="one_to_one")
    np.testing.assert_allclose(both["half"], both["dice"] / 2)
    assert set(pd.read_csv(parameters.output / "extra.csv")["case"]) == set(NAMES) == set(both["case"])


def test_mirrored_copies_are_members_and_change_no_prediction(parameters: SweepParameters) -> None:
    plain = replace(parameters, output=parameters.output.with_name("plain"))
    run_sweep(plain, Silent())
    run_sweep(replace(parameters, uncertainty=["mirroring"]), Silent())
    with_scores, without = table(parameters.output), table(plain.output)
    metrics = [name for name in without if name not in SCORES]
    pd.testing.assert_frame_equal(with_scores[metrics], without[metrics])
    for path in plain.output.glob("predictions/**/*.png"):
        assert path.read_bytes() == (parameters.output / path.relative_to(plain.output)).read_bytes()
    assert without[list(SCORES)].isna().all(axis=None) and not (plain.output / "reliability.csv").exists()
    assert (with_scores["n_members"] == 4).all()
    scores = with_scores[["entropy_bits", "mutual_information_bits", "predicted_dice", "pairwise_dice", "soft_dice"]]
    assert scores.notna().all(axis=None) and ((scores >= 0) & (scores <= 1)).all(axis=None)
    assert (scores["mutual_information_bits"] <= scores["entropy_bits"]).all()
    assert scores["predicted_dice"].lt(1).any()  # the copies differ
    with pytest.raises(UserError, match=r"another sweep \(members_by is \['mirroring'\] there"):
        run_sweep(parameters, Silent())


def test_a_single_member_is_scored_as_by_hand(
    parameters: SweepParameters, textures: str, nnunet: Path, tmp_path: Path
) -> None:
    """One fold without mirroring: its probabilities are those that nnU-Net saves."""
    alone = replace(parameters, uncertainty=["folds"], mirroring=False, conditions={}, save_uncertainty=True)
    run_sweep(alone, Silent())
    raw = nnunet / "nnUNet_raw" / textures
    model = nnunet / "nnUNet_results" / textures / f"{parameters.trainers[0]}__nnUNetPlans__2d"
    probabilities(model, raw / "imagesTs", tmp_path / "stock")
    rows = table(parameters.output).set_index("case")
    bins = pd.read_csv(parameters.output / "reliability.csv").set_index(["case", "label"])
    assert (rows["n_members"] == 1).all()
    assert rows[["mutual_information_bits", "predicted_dice", "pairwise_dice"]].isna().all(axis=None)
    y, x = np.ogrid[-3:4, -3:4]
    for name in NAMES:
        p = np.load(tmp_path / "stock" / f"{name}.npz")["probabilities"][:, 0].astype(float)
        mask = p[1] > p[0]
        assert rows.loc[name, "soft_dice"] == pytest.approx(2 * p[1][mask].sum() / (mask.sum() + p[1].sum()), abs=2e-3)
        entropy = -(np.clip(p, 1e-30, 1) * np.log2(np.clip(p, 1e-30, 1))).sum(axis=0)
        near = binary_dilation(mask, y**2 + x**2 <= 9)
        assert rows.loc[name, "entropy_bits"] == pytest.approx(entropy[near].mean(), abs=2e-3)
        stored = next((parameters.output / "maps").glob(f"*/clean/{name}_entropy.nii.gz"))
        np.testing.assert_allclose(np.squeeze(nibabel.load(stored).get_fdata()).T, entropy, atol=0.02)
        reference = np.asarray(Image.open(raw / "labelsTs" / f"{name}.png")) > 0
        counted = binary_dilation(mask | reference, y**2 + x**2 <= 9)
        row = bins.loc[name, "foreground"]
        assert row.filter(regex="^n_").sum() == counted.sum()
        assert row.filter(regex="^hits_").sum() == (reference & counted).sum()
        assert row.filter(regex="^p_").sum() == pytest.approx(p[1][counted].sum(), rel=2e-3)


def test_scores_do_not_depend_on_threads_or_kills(parameters: SweepParameters) -> None:
    levels = {"gaussian_noise": (0.05, 0.1, 0.2, 0.3)}  # that threads store into one file
    scored = replace(
        parameters, conditions=levels, uncertainty=["mirroring", "folds"], save_uncertainty=True, ensemble=["all"]
    )
    run_sweep(replace(scored, workers=0), Silent())
    before = {name: (parameters.output / name).read_bytes() for name in ("results.csv", "reliability.csv")}
    assert len(pd.read_csv(parameters.output / "reliability.csv")) == 2 * 2 * 3 * 5  # arms, rows, cases, conditions
    assert json.loads((parameters.output / "manifest.json").read_text())["identity"]["members_by"] == [
        "folds", "mirroring"
    ]  # fmt: skip
    again = replace(scored, output=parameters.output.with_name("again"))
    run_sweep(replace(again, workers=3), Silent())
    next(again.output.glob("maps/**/*_entropy.nii.gz")).unlink()
    parts = sorted(again.output.glob("parts/nnUNet*/gaussian_noise/*.csv"))
    parts[0].write_bytes(parts[0].read_bytes()[:-20])  # as a kill while it is written leaves it
    progress = Silent()
    run_sweep(again, progress)
    assert progress.steps == 2
    assert before == {name: (again.output / name).read_bytes() for name in before}


@pytest.fixture
def drawn(parameters: SweepParameters, textures: str, nnunet: Path, tmp_path: Path) -> SweepParameters:
    """Three experts: the reference, one who draws it two pixels to the right, and one who draws nothing."""
    raw = nnunet / "nnUNet_raw" / textures
    for expert, change in {
        "anna": lambda label: label,
        "ben": lambda label: np.roll(label, 2, axis=1),
        "chris": lambda label: 0 * label,
    }.items():
        (tmp_path / expert).mkdir()
        for path in (raw / "labelsTs").iterdir():
            stored = tmp_path / "store" / f"{expert}_{path.name}"  # behind links, as some stores have it
            stored.parent.mkdir(exist_ok=True)
            Image.fromarray(change(np.asarray(Image.open(path)))).save(stored)
            (tmp_path / expert / path.name).symlink_to(stored)
    folders = [tmp_path / expert for expert in ("anna", "ben", "chris")]
    return replace(parameters, images=raw / "imagesTs", labels=folders, conditions={})


def test_experts_are_compared_with_each_other_and_with_the_model(drawn: SweepParameters) -> None:
    run_sweep(drawn, Silent())
    rows = table(drawn.output).set_index("case")
    for name in NAMES:
        a, b, _ = (read(folder / f"{name}.png").ravel() > 0 for folder in drawn.labels)
        model = read(next((drawn.output / "predictions").glob(f"*/clean/{name}.png"))).ravel() > 0
        assert rows.loc[name, "expert_agreement"] == pytest.approx(f1_score(a, b) / 3)  # nobody agrees with chris
        assert rows.loc[name, "model_expert_dice"] == pytest.approx((f1_score(a, model) + f1_score(b, model)) / 3)
        assert rows.loc[name, "dice"] == pytest.approx(f1_score(a, model))
    identity = json.loads((drawn.output / "manifest.json").read_text())["identity"]
    assert identity["reference"] == "first" and len(identity["cases"][NAMES[0]].split("-")) == 1 + 3


@pytest.mark.parametrize(("reference", "consensus"), [("majority", majority), ("staple", staple)])
def test_the_metrics_compare_with_the_reference_asked_for(reference: str, consensus, drawn: SweepParameters) -> None:
    run_sweep(replace(drawn, reference=reference), Silent())
    rows = table(drawn.output).set_index("case")
    for name in NAMES:
        experts = {folder.name: read(folder / f"{name}.png").astype(np.int32) for folder in drawn.labels}
        wanted = consensus(experts).ravel() > 0
        model = read(next((drawn.output / "predictions").glob(f"*/clean/{name}.png"))).ravel() > 0
        assert rows.loc[name, "n_ref"] == wanted.sum()
        assert rows.loc[name, "dice"] == pytest.approx(f1_score(wanted, model))


def test_bad_experts_are_one_line(drawn: SweepParameters, tmp_path: Path) -> None:
    for changes, says in (
        ({"reference": "best"}, "--reference best: take one of first, majority, staple"),
        ({"labels": [*drawn.labels, tmp_path / "dora"]}, "no folder .*dora: give existing folders with -l"),
        ({"labels": [drawn.labels[0], drawn.labels[0]]}, "two folders of labels are called anna"),
        ({"labels": drawn.labels[:1], "reference": "majority"}, "--reference majority is of several experts"),
        ({"save_uncertainty": True}, "--save-uncertainty keeps maps of members"),
        ({"uncertainty": ["seeds"]}, "members by 'seeds': take folds or mirroring, or both"),
    ):
        with pytest.raises(UserError, match=says):
            run_sweep(replace(drawn, **changes), Silent())
    (drawn.labels[1] / f"{NAMES[1]}.png").unlink()
    (failure,) = run_sweep(drawn, Silent()).failures
    assert failure.case == NAMES[1] and "ben" in failure.reason and "is missing" in failure.reason
    shutil.copy(drawn.labels[0] / f"{NAMES[1]}.png", drawn.labels[1])
    assert not run_sweep(drawn, Silent()).failures


@pytest.mark.slow
def test_regions_and_what_is_ignored(regions: str, nnunet: Path, tmp_path: Path) -> None:
    """Sigmoid outputs, three channels, and a stripe that nobody has drawn: there nothing counts."""
    trainer = "nnUNetTrainer_ps32_bs2_1epochs_4iters_seed1"
    train(regions, "2d", trainer, validate=False)
    raw = nnunet / "nnUNet_raw" / regions
    (tmp_path / "second").mkdir()
    for path in (raw / "labelsTs").iterdir():
        label = np.array(Image.open(path))
        label[:6] = 1  # this expert has, but the reference says nothing there
        Image.fromarray(label).save(tmp_path / "second" / path.name)
    sweep = SweepParameters(
        output=tmp_path / "out", conditions={}, dataset=regions, trainers=[trainer], folds=["0"], device="cpu",
        images=raw / "imagesTs", labels=[raw / "labelsTs", tmp_path / "second"], uncertainty=["mirroring"],
        save_predictions=True,
    )  # fmt: skip
    run_sweep(sweep, Silent())
    rows = table(sweep.output).set_index(["case", "label"])
    bins = pd.read_csv(sweep.output / "reliability.csv").set_index(["case", "label"])
    y, x = np.ogrid[-3:4, -3:4]
    for name in ("test_0", "test_1"):
        label, other = (read(folder / f"{name}.png") for folder in sweep.labels)
        said = read(next((sweep.output / "predictions").glob(f"*/clean/{name}.png")))
        counts = label != 3
        near = binary_dilation(np.isin(label, (1, 2)) | (said > 0), y**2 + x**2 <= 9) & counts
        for structure, values in (("whole", (1, 2)), ("core", (2,))):
            a, b, c = (np.isin(m, values) & counts for m in (label, other, said))
            row = rows.loc[(name, structure)]
            assert row["expert_agreement"] == pytest.approx(_dice(a, b)) == 1
            assert row["model_expert_dice"] == pytest.approx(_dice(a, c)) == row["dice"]
            binned = bins.loc[(name, structure)]
            assert binned.filter(regex="^n_").sum() == near.sum()
            assert binned.filter(regex="^hits_").sum() == (a & near).sum()


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / n if (n := np.count_nonzero(a) + np.count_nonzero(b)) else 1.0
