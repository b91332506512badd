"""What sections share: whose the images are, and levels with what they are counted in."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.eval.report import Analysis, analyse, write_page
from nnunet_robust.eval.report.sections import report_figures, report_tables
from tests.eval.report.pages import Page, section
from tests.eval.sweep_output import write_sweep_output

DATASET = "Dataset501_Textures"


def _sweep(out: Path, known: bool | None, cases_of_each: int = 1) -> Path:
    write_sweep_output(out, n_cases=4, labels=("LV", "RV"), levels={"speckle_noise": [0.1, 0.3]}, pictures=False)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["patients_known"]
    if known is not None:
        manifest["patients_known"] = known
    (out / "manifest.json").write_text(json.dumps(manifest))
    results = pd.read_csv(out / "results.csv", dtype={"fold": str})
    results["patient"] = "p" + (results["case"].str[-3:].astype(int) // cases_of_each).astype(str)
    results.to_csv(out / "results.csv", index=False)
    return out


def _samples(analysis: Analysis) -> set[str]:
    return {figure.sample for figure in report_figures(analysis) if figure.group == "structures"}


@pytest.mark.parametrize(
    ("known", "cases_of_each", "sample"),
    [
        (True, 1, "4 cases (4 patients)"),
        (False, 1, "4 images"),
        (None, 1, "4 images"),  # an older manifest: nothing shows that anybody named patients
        (None, 2, "4 cases (2 patients)"),
    ],
)
def test_images_are_counted_where_patients_are_not_known(
    known: bool | None, cases_of_each: int, sample: str, tmp_path: Path
) -> None:
    analysis = analyse([_sweep(tmp_path / "out", known, cases_of_each)])
    assert analysis.patients_known(DATASET) == analysis.patients_known() == ("patient" in sample)
    assert _samples(analysis) == {sample}
    for table in report_tables(analysis):
        headings = [column.heading for column in table.columns]
        assert len(set(headings)) == len(headings)
        if table.name == "friedman":
            assert ("patients" if "patient" in sample else "images") in headings
    html = write_page(analysis, tmp_path / "report.html").read_text()
    n, what = ("2" if "2" in sample else "4"), "patients" if "patient" in sample else "images"
    assert sample in Page(html).words and f"{n} {what} are few" in section(html, "limits").words


def test_levels_have_their_units(tmp_path: Path) -> None:
    analysis = analyse([_sweep(tmp_path / "out", True)])
    unit = "standard deviation, relative to the voxel's value"
    assert analysis.levels_in_words(DATASET, "speckle_noise", 0.1, 0.3) == f"0.1, 0.3 ({unit})"
    assert analysis.levels_in_words(DATASET, "unheard_of", 2.0) == "2"
    html = write_page(analysis, tmp_path / "report.html").read_text()
    assert f"level: {unit}" in Page(html).words


def test_the_command_takes_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _sweep(tmp_path / "out", True)
    assert main(["report", str(out), "--label", "RV"]) == 0
    assert "Of these structures alone: RV." in Page((out / "report.html").read_text()).words
    assert main(["report", str(out), "--label", "RV", "spleen"]) == 2
    assert "--label spleen: no such structure; there is LV, RV" in " ".join(capsys.readouterr().err.split())
    assert main(["report", str(out), str(out), "--compare", "--label", "RV"]) == 2
