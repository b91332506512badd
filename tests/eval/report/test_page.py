"""The page: self-contained, accessible, escaped, the same bytes each time, and robust to what is not there."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.report import analyse, write_report
from nnunet_robust.eval.results.failures import Failure, combine_failures, record
from tests.eval.report.pages import Page, foreign, section, section_text, tables
from tests.eval.sweep_output import MODELS, write_sweep_output

SEEDS = ("nnUNetTrainer_seed1", "nnUNetTrainer_seed2", "nnUNetTrainerNoSkip_seed1")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(tmp_path_factory.mktemp("sweep"), labels=("disc", "ring"))


@pytest.fixture(scope="module")
def html(sweep: Path) -> str:
    return write_report(sweep).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two datasets, one with pictures, with seeds of one architecture."""
    root, levels = tmp_path_factory.mktemp("pair"), {"speckle_noise": [0.1, 0.3]}
    return [
        write_sweep_output(root / "a", SEEDS, 6, levels=levels, dataset="Dataset501_Easy", pictures=False),
        write_sweep_output(root / "b", SEEDS, 5, levels=levels, dataset="Dataset502_Hard", pictures=False),
    ]


def _set(out: Path, change: str, value: float, outcome: str = "ok") -> None:
    """Change the rows of results.csv that a query finds."""
    results = pd.read_csv(out / "results.csv", dtype={"fold": str})
    rows = results.query(change).index
    results.loc[rows, ["dice", "iou", "nsd"]] = value
    results.loc[rows, "outcome"] = outcome
    results.to_csv(out / "results.csv", index=False)


def _table(html: str, caption: str) -> pd.DataFrame:
    """The table whose caption begins so, as text."""
    head, *rows = next(rows for name, rows in tables(html).items() if name.lower().startswith(caption.lower()))
    return pd.DataFrame(rows, columns=head)


def _csvs(page: Page) -> dict[str, pd.DataFrame]:
    links = [a for a in page.named("a") if "download" in a]
    return {a["download"]: pd.read_csv(io.StringIO(unquote(a["href"].partition(",")[2]))) for a in links}


# ---- a page that stands alone, for everybody ----


def test_the_page_refers_to_nothing_outside_of_itself(page: Page) -> None:
    assert foreign(page) == []
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert "prefers-color-scheme: dark" in page.code["style"] and "@media print" in page.code["style"]


def test_the_page_is_well_formed_and_ids_are_unique(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.named("a") if a["href"].startswith("#")]
    assert set(targets) <= set(ids)
    assert targets[0] == "main"  # the skip link is the first thing that is reached


def test_headings_go_down_one_step_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.named(landmark)) == 1


def test_everything_seen_has_words_for_it(page: Page) -> None:
    drawn = [a["aria-label"] for a in page.named("div") if a.get("role") == "img"]
    curves = [text for text in drawn if text.startswith("Mean ") and "over the level" in text]
    assert len(curves) == (4 + 2) * 2  # four metrics, and Dice of two structures, under each of two perturbations
    assert all("at 0" in text for text in curves)
    assert len(page.named("table")) == len(page.named("caption"))
    assert all("scope" in attributes for attributes in page.named("th"))
    assert page.named("html") == [{"lang": "en"}]
    regions = [a for a in page.named("div") if a.get("role") == "region"]
    assert regions and all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    sweep = write_sweep_output(tmp_path / "here", n_cases=2, levels={"speckle_noise": [0.1, 0.2]})
    first = write_report(sweep).read_bytes()
    copy = shutil.copytree(sweep, tmp_path / "elsewhere")
    (copy / "report.html").unlink()
    assert write_report(copy).read_bytes() == first
    assert not list(copy.glob(".*"))  # nothing half-written is left


def test_names_are_escaped(tmp_path: Path) -> None:
    models = ("<b>bold", "nnUNetTrainer&amp;<script>alert(1)</script>")
    out = write_sweep_output(tmp_path, models=models, n_cases=3, dataset="<i>x</i>", pictures=False)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["perturbations"]["speckle_noise"]["unit"] = "<u>parts</u> & $more"
    manifest["assumptions"] = ["a < b & <em>c</em>"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    page = Page(write_report(out).read_text())
    assert not {"b", "i", "u", "em"} & {tag for tag, _ in page.tags}
    assert len(page.named("script")) == 1 and "alert(1)" not in page.code["script"]
    assert "<b>bold" in page.text
    assert models[1] in page.text
    assert "<u>parts</u> & $more" in page.text


# ---- what it says ----


def test_the_page_says_what_the_numbers_say(page: Page, sweep: Path) -> None:
    table = analyse([sweep]).summary_over_labels.set_index(["perturbation", "line"])
    assert len(table) == 4  # labels together
    worst = table.loc[("speckle_noise", MODELS[0].removesuffix("_seed1"))]
    assert worst["drop"] == pytest.approx(worst["clean"] - worst["worst"])
    assert f"from {worst['clean']:.3f} on clean images to {worst['worst']:.3f} [" in page.text
    assert "12 cases (12 patients)" in page.text
    assert "12 patients are few" in page.text
    assert "the dataset names no patients" in page.text
    assert "level: standard deviation in voxels" in page.text
    assert "Nothing: every model was run on the same cases and levels." in page.text
    assert '"git_commit": "0123abc"' in page.text


def test_csvs_hold_the_means_of_the_results(page: Page, sweep: Path) -> None:
    results = pd.read_csv(sweep / "results.csv")
    found = _csvs(page)
    assert {
        "dice.csv",
        "summary.csv",
        "summary_labels.csv",
        "pairwise.csv",
        "ranks.csv",
        "recipe.csv",
        "verdicts.csv",
    } <= set(found)
    for row in found["dice.csv"].to_dict("records"):
        name = "clean" if row["level"] == 0 else row["perturbation"]
        mine = results[(results["perturbation"] == name) & (results["level"] == row["level"])]
        mine = mine[mine["model"] == row["line"] + "_seed1"]
        assert row["mean"] == pytest.approx(mine["dice"].mean(), abs=1e-5)
        assert row["low"] < row["mean"] < row["high"] and row["n_patients"] == 12
    assert len(found["dice.csv"]) == 2 * 2 * 5


def test_the_recipe_names_who_is_best_and_what_it_costs(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, n_cases=8, levels={"speckle_noise": [0.1, 0.2]}, pictures=False)
    for number, (clean, low, high) in enumerate([(0.9, 0.8, 0.3), (0.85, 0.8, 0.7)]):
        for level, dice in ((0.0, clean), (0.1, low), (0.2, high)):
            _set(out, f"model == '{MODELS[number]}' and level == {level}", dice)
    html = write_report(out).read_text()
    first, second = (name.removesuffix("_seed1") for name in MODELS)
    assert _table(html, "Verdict, level by level")[["level", "best", "verdict"]].to_numpy().tolist() == [
        ["0", first, "settled, and it matters"],
        ["0.1", f"{first}, {second}", "not settled"],
        ["0.2", second, "settled, and it matters"],
    ]
    recipe = _table(html, "Recipe")
    assert recipe[["levels", "take"]].to_numpy().tolist() == [["0.2", second], ["", first]]
    assert recipe.iloc[0]["gain"].startswith("0.400") and recipe.iloc[0]["cost on clean images"].startswith("0.050")
    words = section(html, "verdict").words
    assert f"Of these trained models, stay with {first}, but under speckle noise at level 0.2" in words
    assert f"take {second}, better there by 0.400 Dice, at a cost of 0.050 on clean images." in words
    assert "Evidence for switching: moderate (8 patients; one training of each architecture" in words
    wide = section(write_report(out, margin=0.45).read_text(), "verdict").words
    assert "no other one is better by more than 0.45 Dice on clean images or under any perturbation" in wide


def test_failures_are_counted_of_how_many(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, SEEDS, n_cases=6, levels={"gaussian_blur": [1.0, 2.0]}, pictures=False)
    _set(out, "level >= 0", 0.5)
    _set(out, "model == 'nnUNetTrainer_seed2' and level == 2 and case in ('tex_000', 'tex_004')", 0.0, "missed")
    html = write_report(out).read_text()
    failures = section(html, "failures")
    assert (
        "Missed over all conditions, clean included: 2 of 36 by nnUNetTrainer and none of 18 by nnUNetTrainerNoSkip."
        in (failures.words)
    )
    assert "There is not an image without an object: none could be hallucinated." in failures.words
    assert _table(html, "missed under Gaussian blur")["nnUNetTrainer"].tolist() == [
        "0 of 12",
        "0 of 12",
        "2 of 12",
    ]
    assert len([a for a in failures.named("div") if a.get("role") == "img"]) == 1


def test_all_missed_is_a_page_too(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, n_cases=4, levels={"gaussian_blur": [1.0]}, pictures=False)
    _set(out, "level >= 0", 0.0, "missed")
    html = write_report(out).read_text()
    assert "nan" not in Page(html).text.lower()
    assert "No perturbation lowered the mean Dice" in html
    assert "4 patients are too few, and 6 are the least" in section(html, "verdict").words


def test_trained_models_of_an_architecture_are_drawn_beside_its_mean(pair: list[Path], tmp_path: Path) -> None:
    words = Page(write_report(pair[0], target=tmp_path).read_text()).words
    results = pd.read_csv(pair[0] / "results.csv")
    clean = results[(results["perturbation"] == "clean")].groupby("model")["dice"].mean()
    low, high = sorted(clean[list(SEEDS[:2])])
    assert f"({low:.3f} to {high:.3f})" in words
    assert "2, 3 trained models" in words
    assert "Thin lines are the lowest and the highest mean" in words


def test_what_was_measured_of_the_inputs_is_shown(html: str) -> None:
    found = section(html, "measured")
    assert "texture divergence (bits)" in found.text
    assert "0.250 (0.250 to 0.250)" in found.words  # of the clean images
    assert "0.050 (0.050 to 0.050)" in found.words  # at the highest level
    assert "∞ (∞ to ∞)" in found.words and "2.500 (2.500 to 2.500)" in found.words


def test_tables_can_be_sorted_by_what_they_say(page: Page) -> None:
    assert all(a["class"] == "sortable" for a in page.named("table") if "class" in a)
    assert "aria-sort" in page.code["script"]
    keys = [a["data-key"] for a in page.named("td") if "data-key" in a]
    assert keys
    for key in keys:
        assert key == "" or np.isfinite(float(key)) or key == "inf"


# ---- several datasets ----


def test_several_sweeps_make_one_page(pair: list[Path], tmp_path: Path) -> None:
    html = write_report(*pair, target=tmp_path / "both").read_text()
    page = Page(html)
    assert foreign(page) == [] and page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in ("Dataset501_Easy", "Dataset502_Hard"):
        assert f"{name}, speckle noise" in page.words
    assert "Dataset501_Easy: 6 cases (6 patients); Dataset502_Hard: 5 cases (5 patients)" in page.words
    assert len(section(html, "manifest").named("pre")) == 2
    legends = re.findall(r'<ul class="legend".*?</ul>', section_text(html, "curves"), flags=re.DOTALL)
    assert legends[0].count("<li>") == 2  # architectures have one style in all datasets
    dice = _csvs(page)["dice.csv"]
    for folder, dataset in zip(pair, ("Dataset501_Easy", "Dataset502_Hard"), strict=True):
        alone = _csvs(Page(write_report(folder, target=tmp_path / dataset).read_text()))["dice.csv"]
        pd.testing.assert_frame_equal(dice[dice["dataset"] == dataset].reset_index(drop=True), alone)


def test_two_sweeps_of_one_dataset_are_not_one_report(pair: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(pair[0], tmp_path / "again")
    with pytest.raises(UserError, match=r"both hold Dataset501_Easy.*--compare"):
        write_report(pair[0], copy, target=tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_two_datasets_in_one_table_stand_beside_each_other(pair: list[Path], tmp_path: Path) -> None:
    one = shutil.copytree(pair[0], tmp_path / "one")
    both = pd.concat([pd.read_csv(folder / "results.csv") for folder in pair])
    both.to_csv(one / "results.csv", index=False)
    words = Page(write_report(one).read_text()).words
    assert "Dataset501_Easy, speckle noise" in words and "Dataset502_Hard, speckle noise" in words


# ---- what is not there ----


def test_it_works_without_pictures_and_inputs(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, pictures=False)
    (out / "inputs.csv").unlink()
    html = write_report(out).read_text()
    page = Page(html)
    assert "stored no pictures" in page.text
    assert "stored no measurements" in page.text
    assert 'id="texture"' not in html and 'id="context"' not in html
    assert not page.named("img")


@pytest.mark.parametrize(("models", "n_cases"), [(MODELS[:1], 12), (MODELS, 1), (MODELS[:1], 1), (MODELS, 2)])
def test_it_works_with_one_case_and_with_one_model(models: tuple[str, ...], n_cases: int, tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, models=models, n_cases=n_cases, levels={"gaussian_blur": [1.0]}, pictures=False)
    html = write_report(out).read_text()
    assert not re.search(r"\bnan\b", Page(html).text.lower())
    if n_cases == 1:
        assert "single patient: no interval" in html
    if len(models) == 1:
        assert "There is one architecture: nothing to choose between." in html
        assert 'id="ranks"' not in html
    assert len(analyse([out]).summary_over_labels) == len(models)


def test_a_sweep_of_clean_images_only_is_reported(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, levels={}, pictures=False)
    page = Page(write_report(out).read_text())
    assert "No perturbation can be compared yet." in page.text
    assert analyse([out]).summary_over_labels.empty


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, pictures=False)
    results = pd.read_csv(out / "results.csv", dtype={"fold": str})
    gone = (results["model"] == MODELS[1]) & (results["case"] == "tex_004") & (results["level"] == 0.2)
    results[~gone].to_csv(out / "results.csv", index=False)
    page = Page(write_report(out).read_text())
    assert "speckle noise: 1 of 12 cases (tex_004) left out" in page.text
    assert analyse([out]).summary_over_labels["n_cases"].tolist() == [11, 11, 12, 12]


def test_broken_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No results at"):
        write_report(tmp_path)
    out = write_sweep_output(tmp_path / "out", n_cases=2, pictures=False)
    with pytest.raises(UserError, match=r"--margin 1\.5 is no difference"):
        write_report(out, margin=1.5)
    (out / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json, line 1: it ends too early"):
        write_report(out)
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"No manifest\.json"):
        write_report(out)
    assert not (out / "report.html").exists()


def test_what_failed_and_what_is_missing_is_told(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path / "out", pictures=False)
    rows = [Failure(f"case_{i:02d}", "speckle_noise", "0.3", "", "RuntimeError: a <bad> day") for i in range(23)]
    record(out, "case", "speckle_noise", rows)
    assert combine_failures(out) == rows
    (out / "missing.txt").write_text("nnUNetTrainerUNETR, fold 0: out of memory\n")
    said = Page(section_text(write_report(out).read_text(encoding="utf-8"), "left-out")).text
    assert "nnUNetTrainerUNETR, fold 0: out of memory" in said
    assert "not computed: case_00, speckle_noise 0.3: RuntimeError: a <bad> day" in said
    assert said.count("not computed:") == 21 and "not computed: 3 more, see out/failures.csv" in said
