"""How often the verdict is wrong, and what it finds: small runs of `benchmarks/verdict_errors.py`.

Its tables, of a thousand studies each, are in docs/statistics.md. The bounds here leave two standard errors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulated_studies import DATASET, Design, draw
from benchmarks.verdict_errors import PAGES, limit, simulate, told
from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.shared.answer import all_verdicts
from nnunet_robust.eval.statistics import comparable, load_results
from nnunet_robust.eval.statistics.verdict import decide, verdicts

N_STUDIES = 400


@pytest.mark.parametrize("trainings", [(1, 1, 1), (3, 2)])
def test_files_and_rows_in_memory_give_the_same_verdicts(trainings: tuple[int, ...], tmp_path: Path) -> None:
    study = draw(Design(trainings, 9, n_levels=2, training_sd=0.02, planted=0.1, only="gaussian_blur"), "files")
    rows, left_out = comparable(load_results(study.write(tmp_path) / "results.csv"))
    assert left_out == []
    in_memory, of_rows, of_page = decide(study.samples), verdicts(rows), all_verdicts(analyse([tmp_path]))
    assert set(in_memory) == set(of_rows) == set(of_page)
    for key, verdict in in_memory.items():
        for other in (of_rows[key], of_page[key]):
            assert other.best == verdict.best
            for pair, interval in verdict.pairs.items():
                assert other.pairs[pair] == pytest.approx(interval)


def test_a_study_is_what_its_design_says() -> None:
    design = Design((2, 1), 400, n_levels=2, error=0.02, training_sd=0.05, planted=0.3, only="speckle_noise")
    study = draw(design, "design")
    assert study.scores.shape == (3, 7, 400)
    assert [name for (name, _), better in zip(design.conditions, design.better, strict=True) if better] == [
        "speckle_noise",
        "speckle_noise",
    ]
    assert {key[0] for key in study.samples} == {DATASET}
    between = study.scores[2] - study.scores[0]
    assert between.std(axis=1) / np.sqrt(400) == pytest.approx(np.full(7, 0.02), rel=0.1)
    correlations = np.corrcoef(between)[~np.eye(7, dtype=bool)]
    assert correlations.mean() == pytest.approx(0.8 * design.rho, abs=0.07)
    with_failures = draw(Design((1, 1), 4000, n_levels=1, error=0.0005, shape="failing"), "failing").scores
    assert (with_failures[0] < 0.3).mean() == pytest.approx(0.05, abs=0.01)
    assert with_failures[0].mean() == pytest.approx(with_failures[1].mean(), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("n_names", "n_patients"), [(2, 6), (3, 20), (5, 20)])
def test_architectures_that_are_alike_are_seldom_told_apart(n_names: int, n_patients: int) -> None:
    (found,) = simulate(Design((1,) * n_names, n_patients), N_STUDIES)
    assert found.told <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / N_STUDIES)
    assert max(found.settled, found.switch) <= found.told


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["heavy", "dice"])
def test_other_distributions(shape: str) -> None:
    (found,) = simulate(Design((1, 1, 1), 20, shape=shape), N_STUDIES)  # type: ignore[arg-type]
    assert found.told <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / N_STUDIES)


@pytest.mark.slow
@pytest.mark.parametrize("trainings", [(3, 3), (5, 5, 5), (2, 2, 2), (3, 1)])
def test_trainings_that_differ_do_not_make_a_winner(trainings: tuple[int, ...]) -> None:
    (found,) = simulate(Design(trainings, 20, training_sd=0.02), N_STUDIES)
    assert found.told <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / N_STUDIES)


@pytest.mark.slow
def test_one_training_cannot_speak_for_its_architecture() -> None:
    """Why every sentence is about these trained models then: other trainings would give another winner."""
    (found,) = simulate(Design((1, 1, 1), 20, training_sd=0.02), 100)
    assert found.told > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("n_names", "n_levels", "power"), [(2, 13, (0.82, 0.88)), (3, 4, (0.72, 0.82))])
def test_what_is_planted_is_found(n_names: int, n_levels: int, power: tuple[float, float]) -> None:
    """Of three it must be told from two, so that fewer levels are settled."""
    for n_patients, least in zip((20, 40), power, strict=True):
        design = Design((1,) * n_names, n_patients, n_levels, planted=0.05)
        (found,) = simulate(design, 100)
        assert found.power >= least
        assert found.right >= 0.98
    assert limit(20, 5, 40) == pytest.approx(0.862, abs=0.001)
    (never,) = simulate(Design((1,) * n_names, 5, n_levels, planted=0.05), 20)
    assert (never.power, never.right, never.settled, never.told) == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_through_the_whole_page(name: str, tmp_path: Path) -> None:
    design = PAGES[name]
    found = [told(draw(design, "page", number), tmp_path / str(number), number == 0) for number in range(6)]
    named = sum(one.names_another for one in found)
    if design.planted and design.n_patients > 5:
        assert named == len(found)
    elif design.n_patients == 5:
        assert named == 0
    elif design.training_sd == 0 or min(design.trainings) > 1:
        assert named <= 1
    assert all(one.of_these_models == (min(design.trainings) == 1) for one in found)
    assert all(len(one.printed) <= 15 for one in found)
