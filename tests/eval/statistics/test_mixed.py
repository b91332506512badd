"""The mixed model against statsmodels, closed forms and planted values; its error rates by simulation."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import mixedlm

from benchmarks.slope_and_crossing_errors import SLOPES, slope_errors
from nnunet_robust.eval.statistics import mixed_model
from tests.eval.statistics.rows import frame

# statsmodels warns of well-behaved fits too, for a standard deviation is small beside 1
pytestmark = pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.ConvergenceWarning")

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


def _each_line(rows: pd.DataFrame) -> pd.DataFrame:
    """Intercept and slope of each trained model and patient, by numpy's least squares."""
    found = []
    noisy = rows[rows["perturbation"] == "noise"]
    for (name, line, patient), part in noisy.groupby(["architecture", "line", "patient"]):
        slope, intercept = np.polyfit(part["level"] / 0.4, part["dice"], 1)
        found.append({"name": name, "line": line, "patient": patient, "intercept": intercept, "slope": slope})
    return pd.DataFrame(found)


def test_with_one_training_each_it_is_the_paired_t_test_of_slopes_without_its_p() -> None:
    rows = frame(_scores(np.random.default_rng(0), 25))
    found = _noise(mixed_model(rows))
    each = _each_line(rows)
    assert found.index[:6].tolist() == [
        "A at level 0", "A, level 0 to 0.4", "B − A at level 0", "B − A, level 0 to 0.4", "C − A at level 0",
        "C − A, level 0 to 0.4",
    ]  # fmt: skip
    for column, place in (("intercept", " at level 0"), ("slope", ", level 0 to 0.4")):
        values = each.pivot(index="patient", columns="name", values=column)
        for term, of in (("A", values["A"]), ("B − A", values["B"] - values["A"])):
            row = found.loc[term + place]
            theirs = stats.ttest_1samp(of, 0).confidence_interval(0.95)
            assert (row["estimate"], row["df"]) == pytest.approx((of.mean(), 24))
            assert (row["low"], row["high"]) == pytest.approx(tuple(theirs))
    assert found["p"].isna().all()
    assert found["note"][:6].str.contains("about these trained models, no p").all()
    assert found.filter(like="between trained models", axis=0)["estimate"].isna().all()


def test_seeds_are_random_effects_as_in_statsmodels() -> None:
    rng = np.random.default_rng(1)
    scores = _scores(rng, 12, seeds=3, trained=0.05)
    for name in "ABC":  # an architecture suits some patients, and its slopes differ by patient and training
        of_patients, start = rng.normal(0, 0.08, 12), rng.normal(0, 0.05, 12)
        for line in [line for line in scores if line.startswith(name)]:
            of_training = rng.normal(0, 0.04)
            for x, values in scores[line].items():
                scores[line][x] = values + start + (of_patients + of_training) * x / 0.4
    rows = frame(scores)
    found = _noise(mixed_model(rows))
    each = _each_line(rows)
    components = {"p": "0 + C(patient)", "pa": "0 + C(patient):C(name)", "t": "0 + C(line)"}
    for column, place in (("intercept", " at level 0"), ("slope", ", level 0 to 0.4")):
        model = mixedlm(f"{column} ~ C(name)", each, groups=np.zeros(len(each)), vc_formula=components)
        fit = model.fit(reml=True)
        of = dict(zip(model.exog_vc.names, fit.vcomp, strict=True))
        if of["p"] > 1e-6:  # on the boundary the two differ
            assert found.loc["between patients" + place, "estimate"] == pytest.approx(of["p"] ** 0.5, rel=0.01)
            assert found.loc["between trained models" + place, "estimate"] == pytest.approx(of["t"] ** 0.5, rel=0.01)
        rows_of = [found.loc[f"{term}{place}"] for term in ("B − A", "C − A")]
        for name, row in zip("BC", rows_of, strict=True):
            assert row["estimate"] == pytest.approx(fit.fe_params[f"C(name)[T.{name}]"], abs=1e-6)
            assert 0 < row["p"] < 1
            assert 6 <= row["df"] <= 17  # 9 trained models of 3 architectures, 12 patients
        # the model takes all pairs of architectures to vary alike, a contrast looks at its own
        errors = [(row["high"] - row["low"]) / 2 / stats.t.ppf(0.975, row["df"]) for row in rows_of]
        assert np.mean(np.square(errors)) ** 0.5 == pytest.approx(fit.bse_fe["C(name)[T.B]"], rel=0.15)
    assert (found["n_trained"] == 9).all()
    assert (found["note"] == "").all()


def test_planted_standard_deviations_are_found() -> None:
    rng = np.random.default_rng(2)
    patients, slopes = rng.normal(0, 0.1, 400), rng.normal(0, 0.2, 400)
    scores = {}
    for name in "AB":
        for seed in range(30):
            shift, steep = rng.normal(0, 0.04), rng.normal(0, 0.06)
            scores[f"{name}/{seed}"] = {
                x: 0.8 - x**2 + patients + shift + (slopes + steep) * x / 0.4 + rng.normal(0, 0.03, 400) for x in LEVELS
            }
    found = _noise(mixed_model(frame(scores)))["estimate"]
    assert found["between patients at level 0"] == pytest.approx(0.1, rel=0.1)
    assert found["between patients, level 0 to 0.4"] == pytest.approx(0.2, rel=0.1)
    assert found["between trained models at level 0"] == pytest.approx(0.04, rel=0.3)
    assert found["between trained models, level 0 to 0.4"] == pytest.approx(0.06, rel=0.3)
    assert found["residual"] == pytest.approx(0.03, rel=0.02)  # without what the mean curve lacks to a straight line


def test_one_architecture_has_the_patients_variance_without_the_residuals() -> None:
    rng = np.random.default_rng(3)
    patients, slopes = rng.normal(0, 0.02, 3000), rng.normal(0, 0.03, 3000)
    scores = {x: 0.8 + patients + slopes * x / 0.4 + rng.normal(0, 0.05, 3000) for x in LEVELS}
    found = _noise(mixed_model(frame({"A": scores})))["estimate"]
    assert found["between patients at level 0"] == pytest.approx(0.02, rel=0.15)
    assert found["between patients, level 0 to 0.4"] == pytest.approx(0.03, rel=0.15)
    two = _noise(mixed_model(frame({"A": {0: scores[0.0], 0.4: scores[0.4]}})))["estimate"]
    assert two[["residual", "between patients at level 0"]].isna().all()  # two levels: one cannot tell them apart


def test_negative_components_are_zero() -> None:
    rng = np.random.default_rng(5)
    scores = _scores(rng, 12, patient=0.0, seeds=2)
    for name in "AB":  # every other architecture has it the other way round
        for seed in range(2):
            for x, values in scores[f"{name}/{seed}"].items():
                scores[f"{name}/{seed}"][x] = values + (0.1 if name == "A" else -0.1) * np.linspace(-1, 1, 12)
    found = _noise(mixed_model(frame({line: of for line, of in scores.items() if line[0] != "C"})))
    assert found.loc["between patients at level 0", "estimate"] == 0.0


def test_no_p_where_an_architecture_was_trained_once_and_others_repeatedly() -> None:
    scores = _scores(np.random.default_rng(6), 12, seeds=2, trained=0.02)
    found = _noise(mixed_model(frame({line: of for line, of in scores.items() if line != "B/1"})))
    without = found.loc["B − A, level 0 to 0.4"]
    assert np.isnan(without["p"])
    assert without["low"] < without["high"]
    assert without["note"].startswith("B: trained once")
    assert np.isfinite(found.loc[["A, level 0 to 0.4", "C − A, level 0 to 0.4"], "p"]).all()
    # the interval counts the trainings of B as those of the others, once instead of half
    assert without["high"] - without["low"] > np.ptp(found.loc["C − A, level 0 to 0.4", ["low", "high"]])


def test_a_series_of_other_patients_has_the_line_of_its_means_and_no_p() -> None:
    rng = np.random.default_rng(7)
    parts, levels = [], (1.0, 2.0)
    for level in levels:
        part = frame({f"{name}/{seed}": {level: rng.normal(0.8, 0.1, 9)} for name in "AB" for seed in range(2)})
        part = part[part["perturbation"] == "noise"].assign(series=True)
        parts.append(part.assign(patient=part["patient"] + f"_{level}", case=part["case"] + f"_{level}"))
    rows = pd.concat(parts, ignore_index=True)
    found = mixed_model(rows).set_index("term")
    patients = rows.groupby(["level", "patient", "architecture"])["dice"].mean().unstack()
    differences = [(of["B"] - of["A"]).to_numpy() for _, of in patients.groupby("level")]
    row = found.loc["B − A, level 1 to 2"]
    assert row["estimate"] == pytest.approx(differences[1].mean() - differences[0].mean())
    variance = sum(of.var(ddof=1) / 9 for of in differences)  # of two independent means, and what trainings add
    assert row["high"] - row["low"] >= 2 * 1.95 * variance**0.5
    assert found["p"].isna().all()
    assert found["note"].iloc[:4].str.startswith("patients differ between levels: no p").all()
    assert found.loc[["between patients at level 1", "residual"], "estimate"].isna().all()
    assert (found["n_patients"] == 18).all()


def test_degenerate_data_are_told_and_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = _noise(mixed_model(frame({"A": {0: [0.9], 1: [0.5]}, "B": {0: [0.8], 1: [0.7]}})))
        assert one.loc["B − A, level 0 to 1", "estimate"] == pytest.approx(0.3)
        assert one[["low", "high", "p"]].isna().all(axis=None)
        assert one["note"][:4].str.contains("single patient").all()
        few = _noise(mixed_model(frame(_scores(np.random.default_rng(8), 5, seeds=2))))
        assert few["p"].isna().all()
        assert few["note"][:6].str.contains("fewer than 6 patients").all()
        same = _noise(mixed_model(frame({f"{name}/{i}": {0: [0.9] * 7, 1: [0.5] * 7} for name in "AB" for i in "12"})))
        assert same.loc["A, level 0 to 1", ["estimate", "low", "high"]].tolist() == pytest.approx([-0.4] * 3)
        assert np.isnan(same.loc["A, level 0 to 1", "p"])
        assert same.loc["A, level 0 to 1", "note"] == "all patients alike: no p"
        assert mixed_model(frame({"A": {0: [0.9, 0.8]}}, "clean")).empty


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLOPES)
@pytest.mark.parametrize(("names", "seeds", "n"), [(2, 2, 20), (3, 3, 40), (3, 5, 10)])
def test_slopes_of_alike_architectures_are_rarely_called_different(kind: str, names: int, seeds: int, n: int) -> None:
    found = slope_errors(2000, n, names, seeds, SLOPES[kind], whole=10)
    error = 2 * (0.05 * 0.95 / 2000) ** 0.5  # of the simulation, two standard errors
    assert found["with_p"] == 1
    assert 0.03 - error <= found["own"] <= 0.08 + error
    assert 0.03 - error <= found["difference"] <= 0.08 + error


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLOPES)
def test_one_training_each_has_no_p_and_covers_these_trained_models(kind: str) -> None:
    found = slope_errors(2000, 20, 2, 1, SLOPES[kind])
    assert found["with_p"] == 0
    assert 0.93 <= found["covered"] <= 0.97
