"""The sentences: what the numbers say, and no more."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.sections.summary import sentences
from nnunet_robust.eval.report.shared.answer import answers
from tests.eval.statistics.papers import ATTENTION, NO_SKIP, U_NET, write_papers


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
    assert "30 images" in clean
    assert (
        "that of A, the best on clean images, under noise (n = 30): from 0.920 on clean images to 0.500 "
        "[0.450, 0.550] at level 0.4" in drop
    )
    assert "46 % less; the other one, B, had 0.800 [0.750, 0.850] there, and these intervals do not overlap." in drop
    assert average.endswith(
        "the highest mean Dice was that of B under noise (by 0.100, intervals overlap); A, the best on clean images, "
        "was 2nd of 2 under noise."
    )


def test_sentences_claim_no_loss_and_no_winner_where_there_is_none() -> None:
    points = _points(
        ("clean", "A", 0.0, 0.5, 0.4, 0.6),
        ("clean", "B", 0.0, 0.5, 0.4, 0.6),
        ("blur", "A", 1.0, 0.5, 0.4, 0.6),
        ("blur", "B", 1.0, 0.5, 0.4, 0.6),
    )
    table = _table(("blur", "A", 0.5, 1.0, -0.1, -0.2, 0.5, 0.4, 0.6), ("blur", "B", 0.5, 1.0, 0.0, 0.0, 0.5, 0.4, 0.6))
    _, drop, average = sentences(points, table)
    assert drop == "No perturbation lowered the mean Dice of any architecture at any level."
    assert average.endswith("no single architecture under blur.")


def test_many_wins_are_put_together() -> None:
    names = [f"noise {i}" for i in range(5)]
    points = _points(*[("clean", line, 0.0, mean, 0.4, 0.95) for line, mean in (("A", 0.9), ("B", 0.8))])
    table = _table(
        *[(name, "A", 0.9, 1.0, 0.1, 0.1, 0.5, 0.4, 0.6) for name in names],
        *[(name, "B", 0.8, 1.0, 0.1, 0.1, 0.6 + i / 10, 0.55 + i / 10, 0.7 + i / 10) for i, name in enumerate(names)],
    )
    worst = _points(*[(name, line, 1.0, 0.7, 0.6, 0.8) for name in names for line in "AB"])
    average = sentences(pd.concat([points, worst]), table)[-1]
    assert "(by 0.100 to 0.500, intervals apart under 4 of 5)" in average
    assert average.endswith("A, the best on clean images, was not the first under 5 of the perturbations.")
    wide, narrow = table.assign(auc_low=0.0, auc_high=1.0), table.assign(auc_low=table["auc"], auc_high=table["auc"])
    assert "to 0.500, intervals overlap under each)" in sentences(pd.concat([points, worst]), wide)[-1]
    assert "to 0.500, intervals do not overlap under any)" in sentences(pd.concat([points, worst]), narrow)[-1]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """dataset -> its three sentences and its answer."""
    said = {}
    for name in ("BUSI", "GlaS", "Heart", "Spleen"):
        folder: Path = write_papers(tmp_path_factory.mktemp(name), [name])
        analysis = analyse([folder])
        said[name] = [
            *sentences(analysis.points["dice"], analysis.summary_over_labels),
            *answers(analysis)[0][1:],
        ]
    return said


@pytest.mark.parametrize(("dataset", "best", "lowest"), [("Heart", "0.929", "0.833"), ("Spleen", "0.928", "0.606")])
def test_the_papers_table_gives_the_papers_conclusions(
    papers: dict[str, list[str]], dataset: str, best: str, lowest: str
) -> None:
    clean, drop, average, take, evidence, tendencies = papers[dataset]
    # the attention-gated network is the best on clean images, and what bears the noise is the one without skips
    assert f"was {best} for {ATTENTION} and {lowest} for {NO_SKIP} (with 1 more in between)" in clean
    assert f"the best of the others, {NO_SKIP}, the lowest on clean images, had" in drop
    assert f"highest mean Dice was that of {NO_SKIP} under speckle noise" in average
    assert f"{ATTENTION}, the best on clean images, was" in average
    assert f"{ATTENTION} on clean images and {NO_SKIP} under speckle noise at every level" in tendencies
    assert "1 image is too few" in take and evidence.startswith("Evidence: none (1 image")
    assert "one patient gives no interval" in clean


def test_who_fell_deepest_in_the_papers_table(papers: dict[str, list[str]]) -> None:
    assert f"largest drop was that of {ATTENTION}, the best on clean images, under speckle noise" in papers["Heart"][1]
    assert (
        "from 0.929 on clean images to 0.033 at level 0.547723, which is 96 % less, the lowest of all there"
        in (papers["Heart"][1])
    )
    # in the spleen it is the U-Net that ends lowest (.746 to .025); the attention-gated one loses nearly as much
    assert f"largest drop was that of {U_NET} under speckle noise" in papers["Spleen"][1]
    assert f"{ATTENTION}, the best on clean images, was 2nd of 3 under speckle noise." in papers["Spleen"][2]


def test_where_the_papers_found_little_little_is_said(papers: dict[str, list[str]]) -> None:
    clean, drop, *_, tendencies = papers["GlaS"]
    assert f"0.817 for {ATTENTION}" in clean
    assert f"largest drop was that of {ATTENTION}, the best on clean images" in drop
    # at the highest level no-skip and U-Net are .002 apart, and the attention-gated one .018 behind
    assert f"than {U_NET}: {ATTENTION} on clean images and under speckle noise at level 0.316228" in tendencies
