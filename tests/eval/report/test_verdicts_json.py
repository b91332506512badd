"""`verdicts.json` says what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.shared.answer import all_recipes, all_verdicts, answers
from nnunet_robust.eval.report.verdicts_json import verdicts_json
from tests.eval.sweep_output import write_sweep_output


def test_it_has_every_verdict_and_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_sweep_output(tmp_path, n_cases=8, pictures=False)
    assert main(["report", str(out), "--format", "json"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) <= 16 and printed[-1] == str(out / "verdicts.json") and not (out / "report.html").exists()
    stored = json.loads((out / "verdicts.json").read_text())
    analysis = analyse([out])
    (dataset,) = stored["datasets"]
    (answer,) = answers(analysis)
    assert dataset["sentences"] == [text for text in answer[1:] if text] == printed[: len(dataset["sentences"])]
    assert dataset["baseline"] == analysis.baseline and dataset["n_patients"] == 8 and dataset["n_trained"] == 1
    (recipe,) = all_recipes(analysis)
    assert recipe.switches
    for one, switch in zip(dataset["switches"], recipe.switches, strict=True):
        assert (one["perturbation"], one["levels"]) == (switch.perturbation, [*switch.levels])
        assert one["take"] == [*switch.take] and one["gains"][0]["low"] == switch.gains[0].low
        assert one["cost_on_clean_images"]["value"] > 0
    found = all_verdicts(analysis)
    assert [(one["perturbation"], one["level"]) for one in dataset["verdicts"]] == [key[1:] for key in found]
    for one, verdict in zip(dataset["verdicts"], found.values(), strict=True):
        assert tuple(one["best"]) == verdict.best and one["settled"] is verdict.settled
        (pair,) = one["differences"]
        assert pair["low"] < pair["value"] < pair["high"]
        assert one["lead"]["value"] == pytest.approx(max(one["means"].values()) - min(one["means"].values()))
    assert verdicts_json(analysis) == (out / "verdicts.json").read_text()


def test_its_keys_are_those_of_the_docs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text()
    lines = text.partition("## `verdicts.json`")[2].partition("\n## ")[0].splitlines()
    of_datasets = [line.split("|")[1] for line in lines if line.startswith("| `.")]
    told = {name.strip(" `.[]") for cell in of_datasets for name in cell.split(",")}
    (dataset,) = json.loads(verdicts_json(analyse([write_sweep_output(tmp_path, n_cases=8, pictures=False)])))[
        "datasets"
    ]
    assert set(dataset) == told


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, n_cases=3, pictures=False)
    (dataset,) = json.loads(verdicts_json(analyse([out])))["datasets"]
    assert dataset["evidence"] == "none" and dataset["detectable"] is None
    assert all(len(one["best"]) == 2 and one["lead"]["low"] is None for one in dataset["verdicts"])
