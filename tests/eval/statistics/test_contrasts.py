"""Contrasts against statsmodels' crossed random effects, analysis of variance and t tests; the critical value."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import mixedlm, ols
from statsmodels.stats.anova import anova_lm

from nnunet_robust.eval.statistics.contrasts import Sample, contrast, critical_value, without_gaps

# statsmodels warns so of well-behaved fits too, for a standard deviation is small beside 1
pytestmark = pytest.mark.filterwarnings("ignore:The MLE may be on the boundary")


def _scores(rng: np.random.Generator, repeats: tuple[int, ...], n: int, training: float = 1.0) -> tuple:
    """(trained models, patients) with all kinds of variation, and the trained models' architectures."""
    owner = np.repeat(np.arange(len(repeats)), repeats)
    own = rng.normal(0, 1, (len(repeats), n))[owner] + rng.normal(0, training, (len(owner), 1))
    return 0.3 * owner[:, None] + rng.normal(0, 1, n) + own + rng.normal(0, 0.5, (len(owner), n)), owner


def _long(scores: np.ndarray, owner: np.ndarray) -> pd.DataFrame:
    line, patient = (index.ravel() for index in np.indices(scores.shape))
    return pd.DataFrame({"y": scores.ravel(), "line": line, "patient": patient, "name": owner[line]})


def _contrast(scores: np.ndarray, owner: np.ndarray, weights: list[list[float]]):
    return contrast(scores[:, :, None], owner, np.array(weights))


@pytest.mark.parametrize("seed", [0, 3])
def test_balanced_data_are_as_in_a_mixed_model_with_crossed_effects(seed: int) -> None:
    scores, owner = _scores(np.random.default_rng(seed), (3, 3), 12)
    data = _long(scores, owner)
    components = {"p": "0 + C(patient)", "pa": "0 + C(patient):C(name)", "t": "0 + C(line)"}
    model = mixedlm("y ~ C(name)", data, groups=np.zeros(len(data)), vc_formula=components)
    fit = model.fit(reml=True)
    assert (fit.vcomp > 0.01).all()  # on the boundary the two would differ
    found = _contrast(scores, owner, [[1, 0], [-1, 1], [0, 1]])
    assert found.value[:2, 0] == pytest.approx(np.asarray(fit.fe_params), abs=1e-6)
    variance = found.reml_variance[:, 0]
    assert variance[1] ** 0.5 == pytest.approx(fit.bse_fe["C(name)[T.1]"], rel=2e-3)
    # the model takes patients to vary alike under both architectures, a contrast looks at its own: the mean is theirs
    assert variance[[0, 2]].mean() ** 0.5 == pytest.approx(fit.bse_fe["Intercept"], rel=2e-3)


def test_mean_squares_are_those_of_the_analysis_of_variance() -> None:
    scores, owner = _scores(np.random.default_rng(1), (3, 3), 10)
    data = _long(scores, owner)
    table = anova_lm(ols("y ~ C(name) * C(patient) + C(name):C(seed)", data.assign(seed=data["line"] % 3)).fit())
    mean_square = table["mean_sq"]
    found = _contrast(scores, owner, [[-1, 1]])
    assert found.patients.item() == pytest.approx(2 / 30 * mean_square["C(name):C(patient)"])
    assert found.trainings.item() == pytest.approx(2 / 30 * mean_square["C(name):C(seed)"])
    assert found.rest.item() == pytest.approx(2 / 30 * mean_square["Residual"])
    assert (table.loc["C(name):C(seed)", "df"], table.loc["Residual", "df"]) == (4, 36)
    assert (found.n_patients, found.n_repeats) == (10, 4)


def test_with_one_training_each_it_is_the_paired_t_test() -> None:
    scores, owner = _scores(np.random.default_rng(2), (1, 1, 1), 9)
    found = _contrast(scores, owner, [[1, -1, 0], [0, 0, 1]])
    theirs = stats.ttest_rel(scores[0], scores[1])
    assert (found.value / found.reml_variance**0.5)[0, 0] == pytest.approx(theirs.statistic)
    assert found.freedom[:, 0].tolist() == [8, 8]
    assert (found.trainings == 0).all()


def test_trainings_that_vary_are_counted_and_those_that_do_not_are_not() -> None:
    rng = np.random.default_rng(3)
    scores, owner = _scores(rng, (3, 2), 15, training=30.0)
    found = _contrast(scores, owner, [[1, -1]])
    # beside such trainings nothing else matters: a t test of the trained models' means with a pooled variance
    theirs = stats.ttest_ind(scores[owner == 0].mean(axis=1), scores[owner == 1].mean(axis=1))
    assert (found.value / found.reml_variance**0.5).item() == pytest.approx(theirs.statistic, rel=0.01)
    assert found.freedom.item() == pytest.approx(3, abs=0.05)
    same = scores - scores.mean(axis=1, keepdims=True)
    still = _contrast(same, owner, [[1, -1]])
    assert still.reml_variance.item() == still.patients.item()
    assert still.freedom.item() == pytest.approx(14)


def test_freedom_is_satterthwaites_and_never_less_than_that_of_the_weaker_part() -> None:
    scores, owner = _scores(np.random.default_rng(4), (2, 2), 12)
    found = _contrast(scores, owner, [[1, -1]])
    between = found.reml_variance**2 / (found.patients**2 / 11 + found.trainings**2 / 2)
    assert found.freedom.item() == pytest.approx(max(between.item(), 2))
    weak = found._replace(patients=np.array([[0.1]]), trainings=np.array([[1.0]]), rest=np.array([[0.9]]))
    assert weak.reml_variance.item() == pytest.approx(0.2)
    assert weak.variance.item() == 1.0  # what verdicts use is never less than either part
    assert weak.freedom.item() == 2  # 0.2 ** 2 / (1 / 2) would be 0.08


def test_gaps_give_the_means_and_variances_of_those_who_are_there() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(0, 1, (1, 2, 12))
    scores[0, 0, :5] = scores[0, 1, 8:] = np.nan
    filled, fewest = without_gaps(scores)
    assert fewest == 7
    found = contrast(filled.swapaxes(1, 2), np.array([0]), np.eye(1))
    for level, there in enumerate((scores[0, 0, 5:], scores[0, 1, :8])):
        assert found.value[0, level] == pytest.approx(there.mean())
        assert found.reml_variance[0, level] == pytest.approx(there.var(ddof=1) / len(there))
    complete = rng.normal(0, 1, (2, 2, 4))
    assert without_gaps(complete)[0] is complete


# ---- the critical value ----


def _sample(scores: np.ndarray, prefix: str = "", owner: tuple[int, ...] = (0, 1), lines: str = "") -> Sample:
    names = [f"{lines}{'AB'[i]}" for i in sorted(set(owner))]
    patients = [f"{prefix}{i}" for i in range(scores.shape[1])]
    return Sample(names, [f"{lines}{i}" for i in range(len(owner))], np.array(owner), patients, scores)


def test_one_comparison_needs_students_t() -> None:
    rng = np.random.default_rng(0)
    found = [critical_value([_sample(rng.normal(0, 1, (2, 20)))], 4000, seed) for seed in range(10)]
    assert np.mean(found) == pytest.approx(stats.t.ppf(0.975, 19), rel=0.02)


def test_independent_comparisons_need_sidaks_level() -> None:
    rng = np.random.default_rng(1)
    many = [_sample(rng.normal(0, 1, (2, 40)), prefix=f"{i} ") for i in range(10)]  # other patients at each condition
    found = [critical_value(many, 4000, seed) for seed in range(10)]
    assert np.mean(found) == pytest.approx(stats.t.ppf((1 + 0.95 ** (1 / 10)) / 2, 39), rel=0.03)
    same = critical_value([many[0]] * 10, 4000)
    assert same == critical_value([many[0]], 4000)  # the same comparison ten times is one


def test_trainings_alone_need_students_t_of_their_repeats() -> None:
    rng = np.random.default_rng(2)
    owner = (0, 0, 0, 1, 1, 1)
    scores = rng.normal(0, 5, (6, 1)) + rng.normal(0, 0.01, (6, 20))
    found = [critical_value([_sample(scores, owner=owner)], 4000, seed) for seed in range(10)]
    assert np.mean(found) == pytest.approx(stats.t.ppf(0.975, 4), rel=0.05)


def test_too_few_patients_settle_nothing() -> None:
    few = _sample(np.random.default_rng(3).normal(0, 1, (2, 5)))
    assert critical_value([few], 100) == np.inf
    assert critical_value([], 100) == np.inf
