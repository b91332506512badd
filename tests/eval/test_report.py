"""The page: self-contained, accessible, escaped, the same bytes each time, and robust to what is not there."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.errors import UserError
from nnunet_robust.eval import plots
from nnunet_robust.eval.report import summary_table, write_report
from nnunet_robust.eval.wording import sentences
from tests.eval.sweep_output import MODELS, write_sweep_output

_VOID = {"meta", "wbr", "img", "br", "link", "hr", "input", "path", "use", "rect"}


class _Page(HTMLParser):
    """Collects every tag with its attributes, the text, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.styles = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles += data
        else:
            self.text += data

    def named(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_output(tmp_path_factory.mktemp("sweep"), labels=("disc", "ring"))


@pytest.fixture(scope="module")
def page(sweep: Path) -> _Page:
    return _Page(write_report(sweep).read_text(encoding="utf-8"))


def test_the_page_refers_to_nothing_outside_of_itself(page: _Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                assert value.startswith("data:image/png;base64,") or value[1:] in ids, (tag, name, value[:60])
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.lstrip("#") in ids
            assert not name.startswith("on")
    assert "@import" not in page.styles
    assert "url(" not in page.styles
    assert "prefers-color-scheme: dark" in page.styles


def test_the_page_is_well_formed_and_ids_are_unique(page: _Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_everything_seen_has_words_for_it(page: _Page) -> None:
    pictures = page.named("img")
    assert len(pictures) == 3 * 2  # good, median and bad, under each of two perturbations
    assert all(re.search(r"Case tex_\d+ under .*Dice \d", attributes["alt"]) for attributes in pictures)
    drawn = [a for a in page.named("div") if a.get("role") == "img"]
    assert len(drawn) == 4 * 2  # four metrics under each of two perturbations
    assert all("at 0" in attributes["aria-label"] for attributes in drawn)
    assert len(page.named("figure")) == len(page.named("figcaption")) == len(pictures) + len(drawn)
    assert len(page.named("table")) == len(page.named("caption"))
    assert all("scope" in attributes for attributes in page.named("th"))
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("main")) == 1


def test_the_page_says_what_the_numbers_say(page: _Page, sweep: Path) -> None:
    table = summary_table(sweep).set_index(["perturbation", "model"])
    assert len(table) == 4  # labels together
    worst = table.loc[("speckle_noise", MODELS[0])]
    assert worst["drop"] == pytest.approx(worst["clean"] - worst["worst"], abs=0.0011)
    assert f"from {worst['clean']:.3f} on clean images to {worst['worst']:.3f} [" in page.text
    assert "12 cases (12 patients)" in page.text
    assert "12 patients are few" in page.text
    assert "the dataset names no patients" in page.text
    assert "level: standard deviation in voxels" in page.text
    assert "Nothing: every model was run on the same cases and levels." in page.text
    assert "label ring" in page.text
    assert '"git_commit": "0123abc"' in page.text


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
    page = _Page(write_report(out).read_text())
    assert not {"b", "i", "u", "script"} & {tag for tag, _ in page.tags}
    assert {tag for tag, _ in page.tags if tag == "em"} == set()
    assert "<b>bold" in page.text
    assert models[1] in page.text
    assert "<u>parts</u> & $more" in page.text


def test_it_works_without_pictures_and_inputs(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, pictures=False)
    (out / "inputs.csv").unlink()
    page = _Page(write_report(out).read_text())
    assert "stored no pictures" in page.text
    assert "stored no measurements" in page.text
    assert not page.named("img")


def test_it_works_with_some_pictures_missing(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, n_cases=3, levels={"speckle_noise": [0.1, 0.2]})
    folder = out / "pictures" / "tex_000"
    (folder / "speckle_noise_0.1.png").unlink()
    (folder / "reference.png").unlink()
    shutil.rmtree(next(path for path in folder.iterdir() if path.is_dir()))
    shutil.rmtree(out / "pictures" / "tex_001")
    page = _Page(write_report(out).read_text())
    assert len(page.named("img")) == 2  # the good and the bad case


@pytest.mark.parametrize(("models", "n_cases"), [(MODELS[:1], 12), (MODELS, 1), (MODELS[:1], 1), (MODELS, 2)])
def test_it_works_with_one_case_and_with_one_model(models: tuple[str, ...], n_cases: int, tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, models=models, n_cases=n_cases, levels={"gaussian_blur": [1.0]})
    page = _Page(write_report(out).read_text())
    assert "nan" not in page.text.lower()
    if n_cases == 1:
        assert "single patient: no interval" in page.text
    assert len(summary_table(out)) == len(models)


def test_a_sweep_of_clean_images_only_is_reported(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, levels={})
    page = _Page(write_report(out).read_text())
    assert "No perturbation can be compared yet." in page.text
    assert summary_table(out).empty


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, pictures=False)
    results = pd.read_csv(out / "results.csv", dtype={"fold": str})
    gone = (results["model"] == MODELS[1]) & (results["case"] == "tex_004") & (results["level"] == 0.2)
    results[~gone].to_csv(out / "results.csv", index=False)
    page = _Page(write_report(out).read_text())
    assert "speckle noise: 1 of 12 cases (tex_004) left out" in page.text
    assert summary_table(out).set_index(["perturbation", "model"])["cases"].tolist() == [11, 11, 12, 12]


def test_two_datasets_stand_beside_each_other(tmp_path: Path) -> None:
    easy = write_sweep_output(tmp_path / "easy", n_cases=4, dataset="Dataset501_Easy", pictures=False)
    hard = write_sweep_output(tmp_path / "hard", n_cases=4, dataset="Dataset502_Hard", pictures=False)
    both = pd.concat([pd.read_csv(folder / "results.csv") for folder in (easy, hard)])
    both.to_csv(easy / "results.csv", index=False)
    page = _Page(write_report(easy).read_text())
    assert "Dataset501_Easy, gaussian blur" in re.sub(r"\s+", " ", page.text)
    assert "Dataset502_Hard, gaussian blur" in re.sub(r"\s+", " ", page.text)


def test_broken_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No results at"):
        write_report(tmp_path)
    out = write_sweep_output(tmp_path / "out", n_cases=2, pictures=False)
    (out / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        write_report(out)
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"No manifest\.json"):
        write_report(out)
    assert not (out / "report.html").exists()


# ---- sentences and figures ----


def _points(*rows: tuple) -> pd.DataFrame:
    columns = ["perturbation", "line", "level", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns).assign(n_cases=30, n_patients=30)


def _table(*rows: tuple) -> pd.DataFrame:
    columns = ["perturbation", "line", "clean", "worst_level", "drop", "relative_drop", "auc", "auc_low", "auc_high"]
    return pd.DataFrame(rows, columns=columns).assign(n_cases=30, n_patients=30)


def test_sentences_tell_overlap_and_the_largest_drop() -> None:
    points = _points(
        ("clean", "A", 0.0, 0.92, 0.90, 0.94),
        ("clean", "B", 0.0, 0.89, 0.86, 0.91),
        ("noise", "A", 0.4, 0.50, 0.45, 0.55),
        ("noise", "B", 0.4, 0.80, 0.75, 0.85),
    )
    table = _table(
        ("noise", "A", 0.92, 0.4, 0.42, 0.4565, 0.7, 0.6, 0.75), ("noise", "B", 0.89, 0.4, 0.09, 0.1, 0.8, 0.7, 0.9)
    )
    clean, drop, average = sentences(points, table)
    assert "0.920 [0.900, 0.940] for A and 0.890 [0.860, 0.910] for B; these intervals overlap." in clean
    assert "30 cases (30 patients)" in clean
    assert "that of A under noise (n = 30): from 0.920 on clean images to 0.500 [0.450, 0.550] at level 0.4" in drop
    assert "46 % less; the other model, B, had 0.800 [0.750, 0.850] there, and these intervals do not overlap." in drop
    assert average.endswith("the highest mean Dice was that of B under noise (by 0.100, intervals overlap).")


def test_sentences_claim_no_loss_and_no_winner_where_there_is_none() -> None:
    points = _points(
        ("clean", "A", 0.0, 0.5, 0.4, 0.6),
        ("clean", "B", 0.0, 0.5, 0.4, 0.6),
        ("blur", "A", 1.0, 0.5, 0.4, 0.6),
        ("blur", "B", 1.0, 0.5, 0.4, 0.6),
    )
    table = _table(("blur", "A", 0.5, 1.0, -0.1, -0.2, 0.5, 0.4, 0.6), ("blur", "B", 0.5, 1.0, 0.0, 0.0, 0.5, 0.4, 0.6))
    _, drop, average = sentences(points, table)
    assert drop == "No perturbation lowered the mean Dice of any model at any level."
    assert "no single model under blur" in average


def test_styles_differ_in_colour_marker_and_line() -> None:
    styles = plots.line_styles([f"m{i}" for i in range(56)])
    assert len(set(styles.values())) == 56
    first = list(styles.values())[:4]
    assert all(len({style[i] for style in first}) == 4 for i in range(3))


def test_outlines_are_drawn_where_the_labels_are() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 10:30] = 1
    tile = plots.Tile(np.full((40, 40), 128, np.uint8), labels, "Dice 1.000")
    empty = tile._replace(prediction=np.zeros_like(labels))
    sizes = [len(plots.picture_grid([("m", [t])], ["clean"], None)) for t in (tile, empty)]
    assert sizes[0] > sizes[1]
    assert plots.picture_grid([("m", [tile])], ["clean"], labels) == plots.picture_grid(
        [("m", [tile])], ["clean"], labels
    )


def test_what_was_measured_of_the_inputs_is_shown(tmp_path: Path) -> None:
    page = write_report(write_sweep_output(tmp_path / "out")).read_text()
    section = page[page.index('id="measured-h"') : page.index('id="pictures-h"')]
    assert "texture divergence (bits)" in section
    assert "0.250 (0.250 to 0.250)" in section  # of the clean images
    assert "0.050 (0.050 to 0.050)" in section  # at the highest level
    assert ">∞<" in section and ">2.50 (2.50 to 2.50)<" in section
