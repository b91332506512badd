"""The words of the answer: every branch of every sentence, and what the terminal shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated_studies import Design, draw
from nnunet_robust.eval.report import Analysis, analyse, printed_answer
from nnunet_robust.eval.report.shared import answer
from nnunet_robust.eval.report.shared.answer import (
    all_recipes,
    all_verdicts,
    answers,
    evidence,
    lead_of,
    lost_at_mid_levels,
    mid_levels,
    place,
)
from nnunet_robust.eval.statistics.recipe import Recipe, Switch
from nnunet_robust.eval.statistics.verdict import Interval
from tests.eval.statistics.papers import write_papers
from tests.eval.statistics.test_verdict import made
from tests.eval.sweep_output import write_sweep_output

DATASET = "Dataset501_Textures"
BASELINE, NO_SKIP = "nnUNetTrainer_2epochs_50iters", "nnUNetTrainerNoSkip_2epochs_50iters"
GAIN = Interval(0.1, 0.06, 0.14)
SWITCH = Switch(
    "speckle_noise", (0.3, 0.45), ("B",), (GAIN, Interval(0.2, 0.16, 0.24)), Interval(0.02, 0.01, 0.03), True
)
RECIPE = Recipe(
    dataset=DATASET, baseline="A", take="A", over_baseline=None, switches=(), tendencies=(), evidence="weak",
    n_patients=30, n_trained=3, most_trained=3, has_clean=True, n_conditions=8, n_few=0, absent=(),
    equivalent=False, margin=0.01, detectable=0.0321,
)  # fmt: skip


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse([write_sweep_output(tmp_path_factory.mktemp("sweep"), pictures=False)])


@pytest.fixture(scope="module")
def take(analysis: Analysis) -> Callable[..., str]:
    return lambda **changed: answer._take(replace(RECIPE, **changed), analysis)


def test_too_few_patients(take: Callable[..., str]) -> None:
    assert take(n_patients=5, switches=(SWITCH,)) == (
        "No architecture can be told from another: 5 patients are too few, and 6 are the least."
    )
    assert "1 patient is too few" in take(n_patients=1)
    assert "too few" not in take(n_patients=6)


def test_stay_with_the_baseline(take: Callable[..., str]) -> None:
    assert take() == "Stay with A: no other one is shown to be better on clean images or under any perturbation."
    assert take(n_conditions=0) == "Stay with A: no other one is shown to be better on clean images."
    assert take(equivalent=True) == (
        "Stay with A: no other one is better by more than 0.01 Dice on clean images or under any perturbation, and the "
        "data show that."
    )
    assert take(n_trained=1).startswith("Of these trained models, stay with A: ")


def test_take_another_one(take: Callable[..., str]) -> None:
    another = {"take": "B", "over_baseline": Interval(0.05, 0.03, 0.07)}
    said = "take B, which on clean images is better than A by 0.050 [0.030, 0.070] Dice"
    assert take(**another) == f"T{said[1:]}; under no perturbation is another one shown to be better."
    assert take(**another, n_trained=1).startswith(f"Of these trained models, {said}; ")
    assert take(**another, equivalent=True).startswith(f"T{said[1:]}: no other one is better by more than 0.01 Dice ")
    assert take(**another, switches=(replace(SWITCH, take=("C",)),)).startswith(
        f"T{said[1:]}, but under speckle noise "
    )


def test_switch(take: Callable[..., str]) -> None:
    assert take(switches=(SWITCH,)) == (
        "Stay with A, but under speckle noise from level 0.3 (standard deviation, relative to the voxel's value) take "
        "B, better there by 0.100 to 0.200 Dice, at a cost of 0.020 on clean images."
    )
    one = replace(SWITCH, levels=(0.3,), gains=(GAIN,))
    assert "better there by 0.100 Dice, at" in take(switches=(one,))
    for cost, said in (
        (Interval(0.0, -0.01, 0.01), "Dice, and not told apart on clean images."),
        (Interval(0.01, -0.01, 0.03), "Dice, and not told apart on clean images, where it may lose up to 0.030."),
        (Interval(-0.02, -0.03, -0.01), "Dice, and better on clean images."),
        (None, "Dice."),
        (Interval(0.02, float("nan"), float("nan")), "Dice, and not told apart on clean images."),
    ):
        assert take(switches=(replace(SWITCH, cost=cost),)).endswith(f"0.200 {said}")


def test_switches_to_one_are_told_together_and_to_two_apart(take: Callable[..., str]) -> None:
    blur = replace(SWITCH, perturbation="gaussian_blur", levels=(4.0,), gains=(Interval(0.3, 0.2, 0.4),))
    together = take(switches=(SWITCH, blur))
    assert "(standard deviation, relative to the voxel's value) and Gaussian blur at level 4 " in together
    assert "better there by 0.100 to 0.300 Dice" in together
    apart = take(switches=(SWITCH, replace(blur, take=("C",))))
    assert apart.count(" take ") == 2
    assert "; and under " in apart
    many = take(switches=tuple(replace(SWITCH, levels=(level,), gains=(GAIN,)) for level in (0.1, 0.2, 0.3, 0.45)))
    assert "and 1 more take B" in many


def test_places(analysis: Analysis) -> None:
    def said(*levels: float) -> str:
        return place("gaussian_blur", levels, DATASET, analysis)

    unit = " (standard deviation in voxels)"
    assert said(1.0, 2.0, 3.0, 4.0).endswith("blur at every level")
    assert said(3.0, 4.0).endswith(f"blur from level 3{unit}")
    assert said(2.0, 3.0).endswith(f"blur from level 2 to 3{unit}")
    assert said(4.0).endswith(f"blur at level 4{unit}")
    assert said(1.0).endswith(f"blur at level 1{unit}")


def test_evidence() -> None:
    assert evidence(RECIPE) == (
        "Evidence: weak (30 patients; 3 trainings of each architecture). A difference of 0.032 Dice is found in 9 of "
        "10 such studies, a smaller one less often."
    )
    one = evidence(replace(RECIPE, n_trained=1, most_trained=1, evidence="moderate"))
    assert one.startswith("Evidence: moderate (30 patients; one training of each architecture, so that all of this is ")
    assert "about these trained models: another training could turn it). " in one
    none = evidence(replace(RECIPE, n_patients=1, evidence="none", detectable=float("nan")))
    assert none == "Evidence: none (1 patient; 3 trainings of each architecture)."
    assert "is found" not in evidence(replace(RECIPE, detectable=float("nan")))
    assert evidence(replace(RECIPE, detectable=1.2)).endswith(
        "trainings of each architecture). Not even a difference of 1 Dice is found in 9 of 10 such studies."
    )
    assert "one training of some architectures, so" in evidence(replace(RECIPE, n_trained=1))
    assert "; at least 3 trainings of each architecture)" in evidence(replace(RECIPE, most_trained=5))


def test_evidence_for_a_switch_is_none_for_staying() -> None:
    assert evidence(replace(RECIPE, switches=(SWITCH,))).startswith("Evidence for switching: weak (")
    another = {"take": "B", "over_baseline": Interval(0.05, 0.03, 0.07)}
    assert evidence(replace(RECIPE, switches=(SWITCH,), **another)).startswith("Evidence: weak (")


def test_what_was_not_compared(analysis: Analysis) -> None:
    def said(**changed: Any) -> list[str]:
        return answer._not_compared(replace(RECIPE, **changed), analysis)

    assert said() == []
    assert said(n_few=9) == []  # all: the answer says so itself
    assert said(n_few=2) == ["Nothing is told apart under 2 conditions with fewer than 6 patients."]
    lacking = (("B", ("clean", "speckle_noise")), ("C", ("gaussian_blur",)))
    assert said(absent=lacking) == [
        "B was not compared on clean images or under speckle noise.",
        "C was not compared under Gaussian blur.",
    ]


def test_who_was_left_out_altogether_is_named(tmp_path: Path) -> None:
    third = "nnUNetTrainerDenseSkip"
    out = write_sweep_output(tmp_path, ("nnUNetTrainer", "nnUNetTrainerNoSkip", third), 7, pictures=False)
    rows = pd.read_csv(out / "results.csv", dtype={"fold": str})
    rows[(rows["model"] != third) | (rows["perturbation"] != "clean")].to_csv(out / "results.csv", index=False)
    (found,) = answers(analyse([out]))
    assert found.evidence.endswith(f" {third} was not compared at all: see in the report what was left out.")


def test_where_one_of_two_is_left_out_nothing_is_compared(tmp_path: Path) -> None:
    out = write_sweep_output(tmp_path, ("nnUNetTrainer", "nnUNetTrainerNoSkip"), 7, pictures=False)
    rows = pd.read_csv(out / "results.csv", dtype={"fold": str})
    rows[(rows["model"] == "nnUNetTrainer") | (rows["level"] > 0)].to_csv(out / "results.csv", index=False)
    assert printed_answer(analyse([out])) == [
        "No two architectures can be compared yet: see in the report what was left out."
    ]


def test_only_what_was_compared_is_named(take: Callable[..., str]) -> None:
    assert take(has_clean=False).endswith("no other one is shown to be better under any perturbation.")


def test_sets_for_a_terminal() -> None:
    alike = made(half=0.5, **{"Ensemble, a": 0.9, "B": 0.8, "C": 0.7})
    assert answer._best(alike) == "all 3"
    assert lead_of(alike).startswith("none is told from the highest mean; Ensemble, a leads C by 0.200 [")
    two = made(half=0.15, **{"Ensemble, a": 0.9, "B": 0.8, "C": 0.7})
    assert answer._best(two) == "Ensemble, a; and B"
    assert lead_of(made(half=0.5, A=0.9, B=0.8)).startswith("not told apart; A leads B by 0.100 [")


def test_tendencies(analysis: Analysis) -> None:
    assert answer._tendencies(RECIPE, analysis) == ""
    tendencies = (("speckle_noise", (0.1,), "B"), ("gaussian_blur", (1.0, 2.0, 3.0, 4.0), "C"))
    said = answer._tendencies(replace(RECIPE, tendencies=tendencies), analysis)
    assert said.startswith(
        "Not shown, but higher by more than 0.01 Dice in these data than A: B under speckle noise at "
    )
    assert said.endswith(" blur at every level.")
    on_clean = answer._tendencies(replace(RECIPE, tendencies=(("clean", (0.0,), "B"),)), analysis)
    assert on_clean.endswith(" than A: B on clean images.")
    many = answer._tendencies(replace(RECIPE, tendencies=(tendencies[0],) * 5), analysis)
    assert many.endswith(" and 2 more.")


def test_a_planted_sweep_from_its_files(analysis: Analysis) -> None:
    """The first model falls steeply, the next gently; 12 patients, one training each."""
    (found,) = answers(analysis)
    assert found.dataset == DATASET
    assert found.take.startswith(f"Of these trained models, stay with {BASELINE}, but under ")
    assert f" take {NO_SKIP}, better there by " in found.take
    assert "speckle noise" in found.take
    assert ", at a cost of 0.0" in found.take
    assert found.evidence.startswith("Evidence for switching: moderate (12 patients; one training of each architecture")
    printed = printed_answer(analysis)
    assert printed[:2] == [found.take, found.evidence]
    assert len(printed) <= 15
    (clean,) = [line for line in printed if line.startswith("  clean images: ")]
    assert clean.startswith(f"  clean images: {BASELINE} ({BASELINE} leads {NO_SKIP} by 0.0")


def test_mid_levels_and_what_is_lost_there(analysis: Analysis) -> None:
    assert sorted(mid_levels(analysis, DATASET)) == [("clean", 0.0), ("gaussian_blur", 3.0), ("speckle_noise", 0.3)]
    table = lost_at_mid_levels(analysis).set_index(["perturbation", "line"])
    assert len(table) == 6
    for (perturbation, line), row in table.iterrows():
        verdict = all_verdicts(analysis)[DATASET, perturbation, row["level"]]
        assert row["told"] == (line not in verdict.best)
        assert row["lost"] == pytest.approx(row["clean"] - verdict.means[line])
    assert table.loc[("speckle_noise", BASELINE), "lost"] > 0.2
    assert table.loc["clean", "lost"].tolist() == [0, 0]


def test_at_most_15_lines_for_a_terminal(tmp_path: Path) -> None:
    levels = {f"noise_{i}": [0.1, 0.2] for i in range(14)}
    models = ("nnUNetTrainer", "nnUNetTrainerNoSkip", "nnUNetTrainerAttentionGated")
    printed = printed_answer(analyse([write_sweep_output(tmp_path, models, 7, levels=levels, pictures=False)]))
    assert len(printed) <= 15
    assert printed[-1] == "  and 5 more perturbations: see the report"


def test_one_architecture_has_nothing_to_choose_between(tmp_path: Path) -> None:
    single = analyse([write_sweep_output(tmp_path, ("nnUNetTrainer",), 6, pictures=False)])
    assert all_verdicts(single) == {}
    assert (all_recipes(single), answers(single)) == ([], [])
    assert printed_answer(single) == ["There is one architecture, and nothing to choose between."]
    assert lost_at_mid_levels(single).empty


def test_several_datasets_are_named(tmp_path: Path) -> None:
    names = ("DatasetA", "DatasetB")
    both = analyse([write_sweep_output(tmp_path / name, n_cases=7, pictures=False, dataset=name) for name in names])
    assert [found.dataset for found in answers(both)] == ["DatasetA", "DatasetB"]
    assert [line.split(":")[0] for line in printed_answer(both) if " models, " in line and "Evidence" not in line] == [
        "DatasetA",
        "DatasetB",
    ]


def test_the_papers_means_are_tendencies(tmp_path: Path) -> None:
    (found,) = answers(analyse([write_papers(tmp_path, ["Heart"])]))
    assert found.take == "No architecture can be told from another: 1 image is too few, and 6 are the least."
    assert found.evidence.startswith("Evidence: none (1 image; ")
    assert not np.any(["found in 9 of 10" in said for said in found])


def test_architectures_that_are_alike(tmp_path: Path) -> None:
    study = draw(Design((3, 3), 12, training_sd=0.02), "answer")
    alike = analyse([study.write(tmp_path)])
    (found,) = answers(alike)
    assert found.take == (
        "Stay with nnUNetTrainer: no other one is shown to be better on clean images or under any perturbation."
    )
    assert found.evidence.startswith("Evidence: weak (12 patients; 3 trainings of each architecture). A difference of ")
    assert all("not told apart" in line for line in printed_answer(alike) if line.startswith("  "))
