"""Series of test sets: the file, the sweep over it, and its report."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.report import analyse, write_report
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.statistics import comparable, curves, load_results, summary
from nnunet_robust.eval.sweep.series import read_series
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from nnunet_robust.trainers import describe
from tests.eval.statistics.rows import load as _load
from tests.eval.statistics.rows import result as _row
from tests.eval.sweep.test_sweep import Silent, rows

HEADER = "perturbation,level,images,labels,unit\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/images", "a/labels", "b/images", "b/labels"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def written(folder: Path, text: str) -> Path:
    (folder / "series.csv").write_text(text)
    return folder / "series.csv"


def test_a_file_is_read(folder: Path) -> None:
    path = written(folder, f"{HEADER}site, 1 ,a/images,a/labels,number\nsite,2,{folder}/b/images,b/labels,number\n")
    first, second = read_series(path)
    assert (first.condition, second.condition) == (Condition("site", 1.0), Condition("site", 2.0))
    assert first.images == folder / "a" / "images" and second.images == folder / "b" / "images"
    assert second.labels == folder / "b" / "labels" and second.unit == "number"


def test_as_a_spreadsheet_saves_it_and_without_units(folder: Path) -> None:
    path = folder / "series.csv"
    path.write_bytes("\ufefflabels,images,level,perturbation\r\na/labels,a/images,-1.5,tesla\r\n".encode())
    (only,) = read_series(path)
    assert (only.condition, only.unit) == (Condition("tesla", -1.5), "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("perturbation,level\nsite,1\n", r"lacks the columns images, labels"),
        ("", r"the file is empty"),
        (HEADER, r"has no rows"),
        (HEADER + "site,high,a/images,a/labels,\n", r"line 2: the level must be a number .*'high'"),
        (HEADER + "site,inf,a/images,a/labels,\n", r"'inf'"),
        (HEADER + "site,1,a/images\n", r"line 2: it has 3 cells, and the header 5"),
        (HEADER + "site,1,a/images,c/labels,\n", r"no folder '.*c/labels' of labels"),
        (HEADER + "my site,1,a/images,a/labels,\n", r"got 'my site'"),
        (HEADER + "clean,1,a/images,a/labels,\n", r"'clean' is the name of one of"),
        (HEADER + "gaussian_blur,1,a/images,a/labels,\n", r"'gaussian_blur' is the name of one of"),
        (HEADER + "s,1,a/images,a/labels,\ns,1.0000001,b/images,b/labels,\n", r"line 3: s_1 is there twice"),
        (HEADER + "s,1,a/images,a/labels,mm\ns,2,b/images,b/labels,cm\n", r"line 3: s is counted in 'cm' here"),
    ],
)
def test_bad_files(folder: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        read_series(written(folder, text))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*nowhere.csv"):
        read_series(tmp_path / "nowhere.csv")


# ---- the sweep ----


@pytest.fixture
def series(textures: str, nnunet: Path, tmp_path: Path) -> Path:
    """Darker copies of the test images at levels 0 and 2, with the same labels; one more site with cases of its own."""
    raw = nnunet / "nnUNet_raw" / textures
    lines = []
    for level in (0, 2):
        target = tmp_path / "sets" / f"dark{level}"
        shutil.copytree(raw / "imagesTs", target / "images")
        shutil.copytree(raw / "labelsTs", target / "labels")
        for path in (target / "images").iterdir():
            Image.fromarray(np.asarray(Image.open(path)) // (1 + level)).save(path)
        lines.append(f"darkness,{level},{target.name}/images,{target.name}/labels,halvings\n")
    splits = json.loads((nnunet / "nnUNet_preprocessed" / textures / "splits_final.json").read_text())
    site = tmp_path / "sets" / "site"
    for kind, ending in (("images", "_0000.png"), ("labels", ".png")):
        (site / kind).mkdir(parents=True)
        for number, name in enumerate(splits[0]["val"]):
            shutil.copy(raw / f"{kind}Tr" / f"{name}{ending}", site / kind / f"other_{number}{ending}")
    lines.append("site,7,site/images,site/labels,\n")
    path = tmp_path / "sets" / "series.csv"
    path.write_text(HEADER + "".join(lines))
    return path


@pytest.fixture
def parameters(texture_models: tuple[str, str], series: Path, tmp_path: Path) -> SweepParameters:
    return SweepParameters(
        output=tmp_path / "out", conditions={}, dataset="901", trainers=texture_models, folds=["0"],
        series=series, mirroring=False, device="cpu",
    )  # fmt: skip


def test_a_sweep_over_a_series_and_its_report(parameters: SweepParameters, series: Path, tmp_path: Path) -> None:
    progress = Silent()
    run_sweep(parameters, progress)
    assert progress.steps == progress.total
    out = parameters.output
    table = rows(out / "results.csv")
    found = {(row["perturbation"], row["level"], row["replicate"], row["case"]) for row in table}
    cases = [f"texture_test_{i:04d}" for i in range(3)]
    wanted = {(name, level, "0", case) for name, level in
              (("clean", "0.0"), ("darkness", "0.0"), ("darkness", "2.0")) for case in cases}  # fmt: skip
    wanted |= {("site", "7.0", "0", f"other_{number}") for number in range(2)}
    assert found == wanted and len(table) == 2 * len(wanted)

    # What the sweep says of a test set is what it says of that folder alone.
    alone = replace(
        parameters, output=tmp_path / "alone", series=None, conditions={"contrast": (0.5,)},
        images=series.parent / "dark2" / "images", labels=[series.parent / "dark2" / "labels"],
    )  # fmt: skip
    run_sweep(alone, Silent())
    theirs = {(r["model"], r["case"]): r["dice"] for r in rows(tmp_path / "alone/results.csv") if r["level"] == "0.0"}
    ours = {(r["model"], r["case"]): r["dice"] for r in table if (r["perturbation"], r["level"]) == ("darkness", "2.0")}
    assert ours == theirs and len(set(ours.values())) > 1
    # level 0 of this series is a copy of the clean images
    scores = {name: [r["dice"] for r in table if (r["perturbation"], r["level"]) == (name, "0.0")]
              for name in ("clean", "darkness")}  # fmt: skip
    assert scores["clean"] == scores["darkness"]

    inputs = rows(out / "inputs.csv")
    assert {row["psnr_db"] for row in inputs if row["perturbation"] in ("darkness", "site")} == {""}
    manifest = json.loads((out / "manifest.json").read_text())["perturbations"]
    assert manifest["darkness"]["levels"] == [0, 2] and manifest["darkness"]["unit"] == "halvings"
    assert set(manifest["site"]["series"]["7"]) == {"other_0", "other_1"}
    assert str(tmp_path) not in json.dumps(manifest)

    page = write_report(out).read_text()
    assert "level: halvings" in page and "site" in page
    assert "0 (clean)" not in page  # the only level 0 is that of the series
    printed = analyse([out]).summary_over_labels.set_index(["perturbation", "line"])
    for trainer in parameters.trainers:
        clean = np.mean([float(r["dice"]) for r in table if (r["model"], r["perturbation"]) == (trainer, "clean")])
        architecture = describe(trainer).display_name
        assert printed.loc[("site", architecture), "clean"] == pytest.approx(clean)

    again = Silent()
    run_sweep(parameters, again)
    assert again.total == 0
    before = (out / "results.csv").read_bytes()
    run_sweep(replace(parameters, series=None, conditions={"contrast": (0.5,)}), Silent())
    kept = [row for row in rows(out / "results.csv") if row["perturbation"] != "contrast"]
    assert kept == table and (out / "results.csv").read_bytes() != before


def test_a_changed_test_set_is_noticed_and_a_broken_one_told_first(parameters: SweepParameters, series: Path) -> None:
    one = replace(parameters, trainers=parameters.trainers[:1])
    image = series.parent / "site" / "images" / "other_1_0000.png"
    original = image.read_bytes()
    image.write_bytes(b"no picture")
    with pytest.raises(UserError, match="'other_1' cannot be read"):
        run_sweep(one, Silent())
    assert not one.output.exists()
    image.write_bytes(original)
    run_sweep(one, Silent())
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    with pytest.raises(UserError, match="another test set site_7: 'other_1' has changed"):
        run_sweep(one, Silent())
    image.unlink()
    with pytest.raises(UserError, match="another test set site_7: 'other_1'"):
        run_sweep(one, Silent())


def test_results_of_a_series_are_those_of_its_rows_in_order(parameters: SweepParameters) -> None:
    run_sweep(replace(parameters, trainers=parameters.trainers[:1]), Silent())
    with (parameters.output / "results.csv").open(newline="") as file:
        names = [row["case"] for row in csv.DictReader(file)]
    assert names == sorted(names)


# ---- statistics, by hand ----


def test_a_series_has_no_clean_point_and_its_cases_may_differ(tmp_path: Path) -> None:
    table = [_row("a", "clean", 0, 0.9), _row("b", "clean", 0, 0.7)]
    table += [
        _row("a", "site", 1, 0.5),
        _row("b", "site", 1, 0.3),
        _row("x", "site", 3, 0.2),
        _row("y", "site", 3, 0.1),
    ]
    table += [_row("z", "site", 3, 0.3)]
    kept, left_out = comparable(_load(table, tmp_path), {"site"})
    assert left_out == []
    points = curves(kept, "dice").set_index(["perturbation", "level"])
    assert [level for name, level in points.index if name == "site"] == [1, 3]
    assert points.loc[("site", 1.0), "mean"] == pytest.approx(0.4)
    assert points.loc[("site", 3.0), "mean"] == pytest.approx(0.2)
    assert list(points.loc["site", "n_cases"]) == list(points.loc["site", "n_patients"]) == [2, 3]
    row = summary(kept).iloc[0]
    assert (row["clean"], row["worst_level"]) == (pytest.approx(0.8), 3)
    assert row["drop"] == pytest.approx(0.6) and np.isnan(row["drop_low"])  # other patients: no pairs
    assert row["auc"] == pytest.approx(0.3) and np.isnan(row["auc_low"])


def test_a_series_of_the_same_cases_is_paired(tmp_path: Path) -> None:
    table = [_row(case, "clean", 0, score) for case, score in zip("abc", (0.9, 0.7, 0.8), strict=True)]
    for level, loss in ((0.1, 0.0), (0.5, 0.2), (0.9, 0.6)):
        scores = zip("abc", (0.9, 0.7, 0.8), strict=True)
        table += [_row(case, "alpha", level, score - loss) for case, score in scores]
    row = summary(comparable(_load(table, tmp_path), {"alpha"})[0]).iloc[0]
    assert row["drop"] == pytest.approx(0.6)
    assert (row["drop_low"], row["drop_high"]) == (pytest.approx(0.6), pytest.approx(0.6))  # everyone loses the same
    assert row["auc"] == pytest.approx(0.8 - (0.1 + 0.4) / 2) and not np.isnan(row["auc_low"])


def test_models_are_compared_on_the_cases_of_a_level_that_all_have(tmp_path: Path) -> None:
    table = [_row("a", "clean", 0, 0.9, model=model) for model in "AB"]
    table += [_row("x", "site", 1, 0.5, model=model) for model in "AB"]
    table += [_row("y", "site", 1, 0.1, model="A")]
    kept, left_out = comparable(_load(table, tmp_path), {"site"})
    assert left_out == ["D1, site: at level 1 1 of 2 cases (y) left out, for not every model has them."]
    assert set(curves(kept, "dice")["mean"]) == {0.9, 0.5}


def test_tile_sizes_are_lines_of_their_own(tmp_path: Path) -> None:
    table = [_row("a", "clean", 0, 0.9), _row("a", "clean", 0, 0.8, tile_size="128x128")]
    pd.DataFrame(table).to_csv(tmp_path / "results.csv", index=False)
    assert list(load_results(tmp_path / "results.csv")["line"]) == ["A", "A (tile 128x128)"]
