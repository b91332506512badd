"""Denoising in the report: differences against pandas by hand, what is said of them, who is compared with whom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.eval.report import analyse, write_report
from nnunet_robust.eval.report.sections import report_figures
from nnunet_robust.eval.report.sections.denoising import denoising, gains
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.statistics import bootstrap_interval
from tests.eval.report.pages import section, tables
from tests.eval.sweep_output import write_sweep_output

PLAIN = "nnUNetTrainer_seed1"
ADAPTIVE, ALWAYS = f"{PLAIN}+denoise", f"{PLAIN}+denoise_always"
OTHER = "nnUNetTrainerNoSkip_seed1"
LEVELS = {"speckle_noise": [0.1, 0.3], "gaussian_blur": [1.0]}
GAINS = {
    ADAPTIVE: {"clean": 0.0, "speckle_noise": 0.2, "gaussian_blur": 0.0},
    ALWAYS: {"clean": -0.05, "speckle_noise": 0.1, "gaussian_blur": -0.1},
}


def write(out: Path, dataset: str = "Dataset501_Textures", n_cases: int = 8) -> Path:
    """Denoised arms gain `GAINS` and a little chance, but for the adaptive one on clean images: it leaves them."""
    write_sweep_output(out, (PLAIN, ADAPTIVE, ALWAYS, OTHER), n_cases, levels=LEVELS, pictures=False, dataset=dataset)
    rng = np.random.default_rng(5)
    results = pd.read_csv(out / "results.csv", dtype={"fold": str})
    plain = results[results["model"] == PLAIN].set_index(["case", "perturbation", "level"])["dice"]
    for at, row in results.iterrows():
        if row["model"] in GAINS:
            gain = GAINS[row["model"]][row["perturbation"]]
            chance = 0.0 if (row["model"], row["perturbation"]) == (ADAPTIVE, "clean") else rng.normal(0, 0.005)
            before = plain[row["case"], row["perturbation"], row["level"]]
            results.loc[at, ["dice", "outcome"]] = [float(np.clip(before + gain + chance, 0, 1)), "ok"]
    results.to_csv(out / "results.csv", index=False)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("denoised"))


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return analyse([folder])


def test_each_is_compared_with_itself_without(folder: Path, analysis: Analysis) -> None:
    rows = pd.read_csv(folder / "results.csv")
    table = denoising(analysis)
    assert set(zip(table["line"], table["plain_line"], strict=True)) == {
        ("nnUNetTrainer+denoise", "nnUNetTrainer"),
        ("nnUNetTrainer+denoise_always", "nnUNetTrainer"),
    }
    assert len(table) == 2 * (1 + 3 + 2)
    for row in table.to_dict("records"):
        stored = "clean" if row["level"] == 0 else row["perturbation"]
        here = rows[(rows["perturbation"] == stored) & (rows["level"] == row["level"])]
        model = row["line"].replace("nnUNetTrainer", PLAIN)
        denoised, plain = (here[here["model"] == name].set_index("patient")["dice"] for name in (model, PLAIN))
        assert row["denoised"] == pytest.approx(denoised.mean())
        assert row["plain"] == pytest.approx(plain.mean())
        assert row["difference"] == pytest.approx((denoised - plain).mean())
        low, high = bootstrap_interval(denoised - plain)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((low, high))
        assert row["verdict"] == ("helps" if low > 0 else "harms" if high < 0 else "not settled")


def test_where_it_helps_and_harms_is_said(analysis: Analysis) -> None:
    adaptive, always = gains(analysis)
    assert adaptive.startswith(
        "nnUNetTrainer+denoise less nnUNetTrainer (8 cases (8 patients)): on the clean images 0.000"
    )
    assert "no difference is shown" in adaptive
    assert (
        "It helped under speckle noise at 0.1, 0.3 (standard deviation, relative to the voxel's value): +" in adaptive
    )
    assert "It harmed under none of 3 conditions" in adaptive
    assert "(worse)" in always
    assert re.search(r"It harmed under Gaussian blur at 1 \(standard deviation in voxels\): −0\.\d{3}\.", always)


def test_the_panels_show_the_differences_around_0(analysis: Analysis) -> None:
    figures = [figure for figure in report_figures(analysis) if figure.group == "denoising"]
    assert [figure.title for figure in figures] == ["speckle noise", "Gaussian blur"]
    axes = figures[0].draw().axes[0]
    rule, *lines = axes.get_lines()
    assert set(rule.get_ydata()) == {0.0}
    of_panel = denoising(analysis)[denoising(analysis)["perturbation"] == "speckle_noise"]
    for line, (_, part) in zip(lines, of_panel.groupby("line", sort=False), strict=True):
        assert line.get_ydata() == pytest.approx(part["difference"])
    low, high = axes.get_ylim()
    assert low < of_panel["difference_low"].min() and of_panel["difference_high"].max() < high


def test_the_page_has_the_section_of_both_datasets(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", "Dataset502_Others", 5)
    html = write_report(folder, other, target=tmp_path).read_text()
    page = section(html, "denoising")
    assert page.words.count("less nnUNetTrainer (") == 4
    assert "Dataset502_Others: nnUNetTrainer+denoise less nnUNetTrainer (5 cases (5 patients))" in page.words
    table = tables(html)["With denoising, less without"]
    assert len(table) == 1 + 2 * 2 * (1 + 2 + 1)
    assert {row[0] for row in table[1:]} == {"Dataset501_Textures", "Dataset502_Others"}


def test_an_arm_without_its_plain_model_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, (ADAPTIVE, OTHER), 4, levels=LEVELS, pictures=False)
    assert denoising(analyse([out])).empty
    assert 'id="denoising"' not in write_report(out).read_text()


def test_a_fold_is_compared_with_the_same_fold(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, (PLAIN, ADAPTIVE), 4, levels=LEVELS, pictures=False)
    results = pd.read_csv(out / "results.csv", dtype={"fold": str})
    second = results.assign(fold="1", dice=results["dice"] - results["model"].map({PLAIN: 0.05, ADAPTIVE: 0.1}))
    second["dice"] = second["dice"].clip(0, 1)
    both = pd.concat([results, second])
    both.to_csv(out / "results.csv", index=False)
    manifest = (out / "manifest.json").read_text()
    models = json.loads(manifest)["models"] | json.loads(manifest.replace("__fold0", "__fold1"))["models"]
    (out / "manifest.json").write_text(json.dumps({**json.loads(manifest), "models": models}))
    table = denoising(analyse([out]))
    assert (table["n_trained"] == 2).all()
    wide = both.pivot_table(index=["fold", "perturbation", "level", "patient"], columns="model", values="dice")
    expected = (wide[ADAPTIVE] - wide[PLAIN]).groupby(["perturbation", "level"]).mean()
    for row in table[table["level"] > 0].to_dict("records"):
        assert row["difference"] == pytest.approx(expected[row["perturbation"], row["level"]])
