"""The mixed model against statsmodels, closed forms and planted values."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import mixedlm, ols
from statsmodels.stats.anova import anova_lm

from nnunet_robust.eval.statistics import mixed_model
from tests.eval.statistics.rows import frame

# statsmodels warns so of well-behaved fits too, for a standard deviation is small beside 1
pytestmark = pytest.mark.filterwarnings("ignore:The MLE may be on the boundary")

LEVELS = np.array([0.0, 0.1, 0.2, 0.4])


def _scores(
    rng: np.random.Generator, n: int, seeds: int = 1, patient: float = 0.08, trained: float = 0.0, rest: float = 0.03
) -> dict[str, dict[float, np.ndarray]]:
    patients = rng.normal(0, patient, n)
    made = {}
    for name, clean, loss in (("A", 0.9, 0.5), ("B", 0.85, 0.1), ("C", 0.8, 0.3)):
        for seed in range(seeds):
            shift = patients + rng.normal(0, trained)
            made[f"{name}/{seed}" if seeds > 1 else name] = {
                x: clean - loss * x / 0.4 + shift + rng.normal(0, rest, n) for x in LEVELS
            }
    return made


def _noise(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["perturbation"] == "noise"].set_index("term")


def _long(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["perturbation"] == "noise"].assign(x=lambda t: t["level"] / 0.4)


def test_complete_data_are_fitted_as_statsmodels_does() -> None:
    rows = frame(_scores(np.random.default_rng(0), 25, patient=0.04, rest=0.06))
    found = _noise(mixed_model(rows))
    data = _long(rows)
    fit = mixedlm("dice ~ C(architecture) * x", data, groups=data["patient"]).fit(reml=True)
    pairs = {
        "A at level 0": "Intercept",
        "A, level 0 to 0.4": "x",
        "B − A at level 0": "C(architecture)[T.B]",
        "B − A, level 0 to 0.4": "C(architecture)[T.B]:x",
        "C − A at level 0": "C(architecture)[T.C]",
        "C − A, level 0 to 0.4": "C(architecture)[T.C]:x",
    }
    assert found.index[:6].tolist() == list(pairs)
    for term, theirs in pairs.items():
        row = found.loc[term]
        assert row["estimate"] == pytest.approx(fit.fe_params[theirs], abs=1e-6)
        error = (row["high"] - row["low"]) / 2 / stats.t.ppf(0.975, row["df"])
        assert error == pytest.approx(fit.bse[theirs], rel=1e-3)
        assert row["df"] > 24
    assert found.loc["between patients", "estimate"] == pytest.approx(float(fit.cov_re.iloc[0, 0]) ** 0.5, rel=1e-4)
    assert found.loc["residual", "estimate"] == pytest.approx(fit.scale**0.5, rel=1e-4)
    assert np.isnan(found.loc["between trained models", "estimate"])
    assert found["note"].str.contains("one trained model of each").all()
    assert found["converged"].all()


def test_seeds_are_a_variance_component_as_in_statsmodels() -> None:
    rows = frame(_scores(np.random.default_rng(1), 12, seeds=3, trained=0.05))
    found = _noise(mixed_model(rows))
    data = _long(rows)
    components = {"patient": "0 + C(patient)", "trained": "0 + C(line)"}
    model = mixedlm("dice ~ C(architecture) * x", data, groups=np.zeros(len(data)), vc_formula=components)
    fit = model.fit(reml=True)
    assert found.loc["between patients", "estimate"] == pytest.approx(fit.vcomp[0] ** 0.5, rel=1e-3)
    assert found.loc["between trained models", "estimate"] == pytest.approx(fit.vcomp[1] ** 0.5, rel=1e-3)
    row = found.loc["B − A at level 0"]
    assert row["estimate"] == pytest.approx(fit.fe_params["C(architecture)[T.B]"], abs=1e-6)
    error = fit.bse["C(architecture)[T.B]"]
    assert (row["high"] - row["low"]) / 2 / error == pytest.approx(2.4, abs=0.1)  # t of 6 to 7 degrees of freedom
    assert 6 <= row["df"] < 8  # 9 trained models of 3 architectures
    assert (found["n_trained"] == 9).all()
    assert (found["note"] == "").all()


def test_one_architecture_is_the_random_effects_analysis_of_variance() -> None:
    rng = np.random.default_rng(2)
    patients = rng.normal(0, 0.1, 10)
    scores = {x: 0.8 + patients + rng.normal(0, 0.05, 10) for x in (0.0, 1.0)}
    found = _noise(mixed_model(frame({"A": scores})))
    data = pd.DataFrame(scores)
    long = data.melt(ignore_index=False, var_name="x", value_name="y").reset_index(names="patient")
    table = anova_lm(ols("y ~ C(patient) + C(x)", long).fit())
    within = table.loc["Residual", "mean_sq"]
    between = (table.loc["C(patient)", "mean_sq"] - within) / 2
    assert found.loc["residual", "estimate"] == pytest.approx(within**0.5)
    assert found.loc["between patients", "estimate"] == pytest.approx(between**0.5)
    # the slope is then the paired t test
    change = data[1.0] - data[0.0]
    row = found.loc["A, level 0 to 1"]
    assert row["estimate"] == pytest.approx(change.mean())
    assert row["df"] == pytest.approx(9)
    assert (row["high"] - row["low"]) / 2 == pytest.approx(2.262157 * change.std() / 10**0.5, rel=1e-5)


def test_negative_components_are_zero() -> None:
    rng = np.random.default_rng(5)
    scores = _scores(rng, 12, patient=0.0)
    for values in scores.values():  # each level's patients are centred: patients vary less than chance would have them
        mean = np.mean(list(values.values()), axis=0)
        for x in values:
            values[x] = values[x] - mean + mean.mean()
    rows = frame(scores)
    found = _noise(mixed_model(rows))
    assert found.loc["between patients", "estimate"] == 0.0
    data = _long(rows)
    plain = ols("dice ~ C(architecture) * x", data).fit()  # without patients it is ordinary least squares
    assert found.loc["residual", "estimate"] == pytest.approx(plain.mse_resid**0.5)
    assert found.loc["B − A at level 0", "p"] == pytest.approx(plain.pvalues["C(architecture)[T.B]"])


def test_a_series_of_other_patients_goes_to_statsmodels_and_says_so() -> None:
    rng = np.random.default_rng(6)
    rows = frame(_scores(rng, 20), "site", series=True)
    rows = rows[(rows["level"] < 0.3) | (rows["patient"] > "p0007")]  # the first eight lack the last level
    found = mixed_model(rows).set_index("term")
    data = rows[rows["perturbation"] == "site"].assign(x=lambda t: t["level"] / 0.4)
    fit = mixedlm("dice ~ C(architecture) * x", data, groups=data["patient"]).fit(reml=True)
    row = found.loc["B − A, level 0 to 0.4"]
    assert row["estimate"] == pytest.approx(fit.fe_params["C(architecture)[T.B]:x"], abs=1e-5)
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.96 * fit.bse["C(architecture)[T.B]:x"], rel=1e-3)
    assert row["converged"]
    assert row["note"].startswith("patients differ between levels")
    assert np.isinf(row["df"])
    several = frame(_scores(rng, 10, seeds=2, trained=0.05), "site", series=True)
    several = several[(several["level"] < 0.3) | (several["patient"] > "p0003")]
    found = mixed_model(several).set_index("term")
    assert found.loc["between trained models", "estimate"] == pytest.approx(0.05, abs=0.04)


def test_degenerate_data_are_told_and_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = _noise(mixed_model(frame({"A": {0: [0.9], 1: [0.5]}, "B": {0: [0.8], 1: [0.7]}})))
        assert one.loc["B − A, level 0 to 1", "estimate"] == pytest.approx(0.3)
        assert one[["low", "high", "p"]].isna().all(axis=None)
        assert one["note"].str.contains("single patient").all()
        same = _noise(mixed_model(frame({name: {0: [0.9] * 4, 1: [0.9] * 4} for name in "AB"})))
        assert same.loc["B − A, level 0 to 1", ["estimate", "low", "high", "p"]].tolist() == pytest.approx([0, 0, 0, 1])
        missed = _noise(mixed_model(frame({"A": {0: [0.9] * 4, 1: [0.0] * 4}, "B": {0: [0.9] * 4, 1: [0.9] * 4}})))
        assert missed.loc["B − A, level 0 to 1", ["estimate", "p"]].tolist() == pytest.approx([0.9, 0])
        assert mixed_model(frame({"A": {0: [0.9, 0.8]}}, "clean")).empty


@pytest.mark.slow
def test_its_intervals_cover_with_few_seeds() -> None:
    rng = np.random.default_rng(9)
    covered = []
    for _ in range(200):
        found = _noise(mixed_model(frame(_scores(rng, 10, seeds=3, trained=0.05))))
        true = {"B − A at level 0": -0.05, "B − A, level 0 to 0.4": 0.4}
        covered.append([found.loc[t, "low"] <= value <= found.loc[t, "high"] for t, value in true.items()])
    assert ((np.mean(covered, axis=0) >= 0.91) & (np.mean(covered, axis=0) <= 0.99)).all()  # standard error 0.015
