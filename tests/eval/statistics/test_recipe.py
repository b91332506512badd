"""The recipe on planted data, on verdicts by hand, on the papers' means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.eval.statistics import comparable, load_results, summary
from nnunet_robust.eval.statistics.recipe import ELSE, Recipe, recipe_table, recipes
from nnunet_robust.eval.statistics.verdict import Verdict, verdicts
from tests.eval.statistics.papers import ATTENTION, NO_SKIP, PAPERS, U_NET, write_papers
from tests.eval.statistics.rows import frame
from tests.eval.statistics.test_verdict import made


def _planted(n: int = 40, n_trained: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    patients = rng.normal(0, 0.05, n)
    means = {"standard": (0.93, 0.90, 0.70, 0.50), "noskip": (0.90, 0.89, 0.85, 0.80), "third": (0.5, 0.5, 0.5, 0.5)}
    return frame(
        {
            f"{name}/{seed}": {
                x: mean + patients + rng.normal(0, 0.01, n) for x, mean in zip((0, 0.1, 0.2, 0.4), of, strict=True)
            }
            for name, of in means.items()
            for seed in range(n_trained)
        },
        "speckle_noise",
    )


def one(clean: Verdict | None = None, **noise: Verdict) -> Recipe:
    """The recipe of verdicts by hand, at levels 0.1, 0.2, … of noise."""
    found = {("D", "clean", 0.0): clean} if clean else {}
    found |= {("D", "noise", round(0.1 * (i + 1), 1)): verdict for i, verdict in enumerate(noise.values())}
    (recipe,) = recipes(found, {"D": "A"})
    return recipe


def test_a_planted_recipe_is_found() -> None:
    rows = _planted()
    (found,) = recipes(verdicts(rows, margin=0.005))
    assert (found.baseline, found.take, found.over_baseline) == ("standard", "standard", None)
    (switch,) = found.switches
    assert (switch.perturbation, switch.levels, switch.take) == ("speckle_noise", (0.2, 0.4), ("noskip",))
    assert [gain.value for gain in switch.gains] == pytest.approx([0.15, 0.3], abs=0.01)
    clean = rows[rows["perturbation"] == "clean"].pivot(index="patient", columns="line", values="dice")
    assert switch.cost is not None
    assert switch.cost.value == pytest.approx((clean["standard/0"] - clean["noskip/0"]).mean())
    assert 0 < switch.cost.low < switch.cost.high
    assert switch.strongest
    assert found.tendencies == ()
    assert (found.n_patients, found.n_trained, found.n_conditions) == (40, 1, 3)
    table = recipe_table([found])
    assert table["perturbation"].tolist() == ["speckle_noise", ELSE]
    first, last = table.to_dict("records")
    assert (first["from_level"], first["to_level"], first["take"]) == (0.2, 0.4, ("noskip",))
    assert (first["gain"], first["cost"]) == (switch.gains[-1].value, switch.cost.value)
    assert last["take"] == ("standard",)
    assert np.isnan([last["from_level"], last["gain"], last["cost"]]).all()


def test_the_baseline_is_the_first_architecture_or_the_one_that_is_named() -> None:
    found = verdicts(_planted())
    assert recipes(found)[0].baseline == "standard"
    (recipe,) = recipes(found, {"D1": "noskip"})
    assert (recipe.baseline, recipe.take) == ("noskip", "standard")  # better on clean images
    assert recipe.over_baseline is not None
    assert recipe.over_baseline.low > 0
    assert recipes(found, {"D1": "never heard of"})[0].baseline == "standard"
    third = verdicts(frame({"low": {0: np.linspace(0.1, 0.3, 9)}, "high": {0: np.linspace(0.8, 0.9, 9)}}))
    assert recipes(third)[0].baseline == "low"


@pytest.mark.parametrize(("n", "n_trained", "evidence"), [
    (40, 3, "strong"), (20, 3, "strong"), (19, 3, "moderate"), (40, 2, "moderate"), (40, 1, "moderate"),
    (6, 3, "moderate"), (5, 3, "none"), (1, 1, "none"),
])  # fmt: skip
def test_evidence_by_patients_and_trainings(n: int, n_trained: int, evidence: str) -> None:
    conditions = {"clean": made(n_patients=n, n_trained=n_trained, A=0.9, B=0.9)}
    noise = made(n_patients=n, n_trained=n_trained, A=0.5, B=0.8)
    assert one(**conditions, low=noise).evidence == evidence


def test_evidence_is_weak_where_nothing_is_shown() -> None:
    same = made(n_patients=50, n_trained=5, A=0.9, B=0.9)
    assert one(same, low=same).evidence == "weak"
    known = made(half=0.008, n_patients=50, n_trained=5, A=0.9, B=0.9)
    assert one(known, low=known).evidence == "strong"  # that it makes no difference
    assert one(known, low=known).equivalent
    little = made(n_patients=50, n_trained=5, A=0.9, B=0.925)  # better, but perhaps by less than the margin
    assert one(same, low=little).switches[0].strongest is False
    assert one(same, low=little).evidence == "weak"
    much = made(n_patients=50, n_trained=5, A=0.9, B=0.95)
    assert one(same, low=little, mid=much).evidence == "strong"  # of one switch, at a level of it
    assert one(same, low=little, mid=same, high=much).evidence == "moderate"  # of one of two switches
    assert one(much, low=much).evidence == "strong"  # B instead of A, everywhere
    fewer = made(n_patients=5, n_trained=5, A=0.9, B=0.9)
    assert one(fewer, low=fewer).evidence == "none"


def test_a_condition_of_few_patients_takes_nothing_from_the_others() -> None:
    fewer = made(half=float("nan"), n_patients=5, n_trained=5, A=0.9, B=0.9)
    same, much = made(n_patients=50, n_trained=5, A=0.9, B=0.9), made(n_patients=40, n_trained=5, A=0.8, B=0.9)
    found = one(same, low=much, mid=fewer)
    assert [switch.levels for switch in found.switches] == [(0.1,)]
    assert (found.evidence, found.n_patients, found.n_few, found.equivalent) == ("moderate", 40, 1, False)
    assert one(same, low=much).evidence == "strong"


def test_who_was_not_compared_everywhere_is_named() -> None:
    both, alone = made(half=0.001, A=0.9, B=0.9, C=0.9), made(half=0.001, B=0.9, C=0.9)
    assert one(both, low=both).absent == ()
    assert one(both, low=both).equivalent
    found = one(both, low=both, mid=alone)
    assert found.absent == (("A", ("noise",)),)
    assert not found.equivalent  # nobody knows of it there


def test_levels_one_after_the_other_are_merged() -> None:
    clean = made(A=0.9, B=0.9, C=0.9)
    found = one(
        clean,
        a=made(A=0.8, B=0.9, C=0.8),
        b=made(A=0.7, B=0.8, C=0.81),
        c=made(A=0.6, B=0.6, C=0.8),
        d=made(A=0.5, B=0.5, C=0.5),
        e=made(A=0.4, B=0.4, C=0.6),
    )
    said = [(switch.levels, switch.take) for switch in found.switches]
    assert said == [((0.1, 0.2), ("B",)), ((0.3,), ("C",)), ((0.5,), ("C",))]
    assert [gain.value for gain in found.switches[0].gains] == pytest.approx([0.1, 0.1])
    assert found.switches[0].cost == pytest.approx((0, -0.02, 0.02))
    assert not found.equivalent


def test_what_beats_the_baseline_on_clean_images_is_taken_and_must_be_beaten_then() -> None:
    found = one(made(A=0.8, B=0.9, C=0.7), low=made(A=0.8, B=0.8, C=0.9), mid=made(A=0.8, B=0.6, C=0.6))
    assert found.take == "B"
    assert found.over_baseline == pytest.approx((0.1, 0.08, 0.12))
    assert [(switch.levels, switch.take) for switch in found.switches] == [((0.1,), ("C",)), ((0.2,), ("A",))]
    assert found.switches[0].cost == pytest.approx((0.2, 0.18, 0.22))
    gain = recipe_table([found]).set_index("perturbation").loc[ELSE, ["gain", "gain_low", "gain_high"]]
    assert gain.tolist() == pytest.approx([0.1, 0.08, 0.12])


def test_a_higher_mean_that_is_not_told_apart_is_a_tendency() -> None:
    found = one(
        made(A=0.9, B=0.9, C=0.9),
        a=made(A=0.8, B=0.815, C=0.8),
        b=made(A=0.8, B=0.82, C=0.8),
        c=made(A=0.8, B=0.81, C=0.8),  # exactly the margin
        d=made(A=0.8, B=0.8, C=0.818),
        e=made(A=0.8, B=0.9, C=0.8),  # told apart: a switch
    )
    assert found.tendencies == (("noise", (0.1, 0.2), "B"), ("noise", (0.4,), "C"))
    assert [switch.levels for switch in found.switches] == [(0.5,)]


def test_tendencies_with_a_gap_are_named_apart() -> None:
    tendency, none = made(A=0.8, B=0.815), made(A=0.8, B=0.8)
    found = one(made(A=0.9, B=0.9), a=tendency, b=none, c=tendency)
    assert found.tendencies == (("noise", (0.1,), "B"), ("noise", (0.3,), "B"))


def test_a_margin_exactly_met_is_equivalence_and_no_switch() -> None:
    exact = made(half=0.0, A=0.06, B=0.07)
    found = one(exact, low=exact)
    assert found.equivalent
    assert (found.take, found.switches, found.tendencies) == ("A", (), ())


def test_identical_models_are_equivalent_and_the_baseline_stays() -> None:
    values = np.random.default_rng(1).random(20)
    (found,) = recipes(verdicts(frame({name: {0: values, 1: values / 2} for name in "ABC"}), margin=0.0))
    assert (found.take, found.switches, found.tendencies, found.equivalent) == ("A", (), (), True)
    assert found.evidence == "moderate"  # of these trained models


def test_without_clean_images_the_cost_is_not_known() -> None:
    found = one(a=made(A=0.5, B=0.8))
    assert (found.take, found.switches[0].cost) == ("A", None)
    assert recipe_table([found])["cost"].isna().all()


def test_a_series_costs_what_the_clean_images_say() -> None:
    n = 8
    clean = frame({"A": {0: 0.9 + 0.01 * np.arange(n)}, "B": {0: 0.8 + 0.011 * np.arange(n)}}, "clean")
    site = frame({"A": {3: 0.2 + 0.01 * np.arange(n)}, "B": {3: 0.5 + 0.012 * np.arange(n)}}, "site", series=True)
    site["patient"] = site["case"] = "other_" + site["patient"]
    (found,) = recipes(verdicts(pd.concat([clean, site], ignore_index=True)))
    (switch,) = found.switches
    assert (switch.perturbation, switch.levels, switch.take) == ("site", (3.0,), ("B",))
    assert switch.cost is not None
    assert switch.cost.value == pytest.approx(0.1 - 0.001 * 3.5)


def test_a_single_patient_says_nothing_but_tendencies() -> None:
    (found,) = recipes(verdicts(frame({"A": {0: [0.9], 1: [0.2]}, "B": {0: [0.8], 1: [0.5]}})))
    assert (found.evidence, found.take, found.switches, found.equivalent) == ("none", "A", (), False)
    assert found.tendencies == (("noise", (1.0,), "B"),)
    assert np.isnan(found.detectable)


def test_one_architecture_is_taken() -> None:
    (found,) = recipes(verdicts(frame({"A": {0: [0.9] * 8, 1: [0.5] * 8}})))
    assert (found.baseline, found.take, found.switches) == ("A", "A", ())


def test_the_papers_conclusions_come_out_of_their_table(tmp_path: Path) -> None:
    rows, left_out = comparable(load_results(write_papers(tmp_path) / "results.csv"))
    assert left_out == []
    found = verdicts(rows)
    highest = {(dataset, round(level**2, 1)): one.highest for (dataset, _, level), one in found.items()}
    for dataset in PAPERS:  # attention-gated is best on clean images, everywhere
        assert highest[dataset, 0.0] == ATTENTION
    for dataset in ("BUSI", "Heart", "Spleen"):  # and falls under noise, which only the network without skips bears
        assert highest[dataset, 0.1] == highest[dataset, 0.3] == NO_SKIP
    assert highest["GlaS", 0.1] == ATTENTION  # mild noise on histology: it still leads, by 0.011
    assert highest["GlaS", 0.3] == U_NET
    assert not any(one.settled for one in found.values())  # one mean a dataset: nothing is said about patients
    by_dataset = {one.dataset: one for one in recipes(found, dict.fromkeys(PAPERS, U_NET))}
    assert {one.evidence for one in by_dataset.values()} == {"none"}
    for dataset in ("BUSI", "Heart", "Spleen"):
        on_clean, under_noise = by_dataset[dataset].tendencies
        assert on_clean == ("clean", (0.0,), ATTENTION)
        assert (under_noise[0], len(under_noise[1]), under_noise[2]) == ("speckle_noise", 2, NO_SKIP)
    table = summary(rows).set_index(["dataset", "line"])
    assert table.loc[("Heart", ATTENTION), "drop"] == pytest.approx(0.929 - 0.033)
    for dataset in ("BUSI", "Heart", "Spleen"):  # without skips the least is lost
        assert table.loc[dataset, "drop"].idxmin() == NO_SKIP
    assert table["drop_low"].isna().all()
