"""The first screen of the page, the terminal and `recommend` say what readers must know, in the same sentences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.sections import SECTIONS
from tests.eval.report.pages import section
from tests.eval.sweep_output import write_sweep_output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of two models that were trained for 1,000 and for 100 epochs."""
    out = write_sweep_output(tmp_path / "out", n_cases=3, pictures=False, levels={"gaussian_blur": [1.0, 2.0]})
    manifest = json.loads((out / "manifest.json").read_text())
    for epochs, entry in zip((1000, 100), manifest["models"].values(), strict=True):
        entry["training"] = {"epochs": {"0": epochs}, "iterations_per_epoch": 250, "batch_size": 12, "seed": 1}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_warnings_stand_first_and_in_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    html = (folder / "report.html").read_text(encoding="utf-8")
    words = section(html, "warnings").words
    said = "nnUNetTrainer_2epochs_50iters_seed1 on 3,000,000 patches (1,000 epochs of 250 iterations, batch size 12)"
    assert said in words and SECTIONS[0].name == "warnings" and html.index('id="warnings"') < html.index('id="verdict"')
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said in warning and warning.removeprefix("warning: ") in words


def test_there_is_no_such_section_where_there_is_nothing_to_say(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path / "out", n_cases=3, pictures=False)
    assert analyse([out]).warnings == []
    assert next(row for row in SECTIONS if row.name == "warnings").content(analyse([out]), None) is None


def test_of_several_sweeps_each_warning_names_its_own(folder: Path, tmp_path: Path) -> None:
    other = write_sweep_output(tmp_path / "other", n_cases=3, pictures=False, dataset="Dataset502_Hard")
    shutil.rmtree(other / "pictures", ignore_errors=True)
    (warning,) = analyse([other, folder]).warnings
    assert warning.startswith("Dataset501_Textures: The trainings are of unequal length: ")
