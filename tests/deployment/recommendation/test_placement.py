"""Images among a sweep's curves: distances, levels and scores by hand, and how far off is too far."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.deployment.recommendation import placement
from nnunet_robust.deployment.recommendation.placement import IMAGE_FEATURES, Curves

ROWS = ["patient", "case", "perturbation", "level", "replicate", "noise_sigma", "blur", "dice"]


def points(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=ROWS)


def two_patients() -> pd.DataFrame:
    """Noise of 0.01, 0.1 and 1 (whole decades) at two values of blur; Dice falls by 0.3 from level to level."""
    return points(
        *(
            (patient, patient, "noise" if level else "clean", level, 0, 0.01 * 10**level, blur, 0.9 - 0.3 * level)
            for patient, blur in (("a", 0.5), ("b", 0.9))
            for level in (0.0, 1.0, 2.0)
        )
    )


def standardised(*rows: tuple[float, float]) -> np.ndarray:
    """Of (noise, blur): decades of each, in standard deviations of the table `two_patients`."""
    table = two_patients()
    raw = np.stack([np.log10(table["noise_sigma"]), -np.log10(1 - table["blur"])], axis=1)
    new = np.array([(math.log10(noise), -math.log10(1 - blur)) for noise, blur in rows])
    return (new - raw.mean(axis=0)) / raw.std(axis=0)


def test_level_and_scores_are_linear_between_levels() -> None:
    curves = Curves(two_patients(), IMAGE_FEATURES, ["dice"])
    place = curves.place({"noise_sigma": 0.01 * 10**1.25, "blur": 0.5})  # on the curve of "a"
    assert place.distance == pytest.approx(0, abs=1e-9)
    assert place.scores["dice"].to_dict() == pytest.approx({"a": 0.9 - 0.3 * 1.25, "b": 0.9 - 0.3 * 1.25})
    row = place.levels.iloc[0]
    assert (row["perturbation"], row["low"], row["high"]) == ("noise", 1.25, 1.25) and row["level"] == pytest.approx(
        1.25
    )
    here, there = standardised((0.1, 0.5), (0.1, 0.9))
    assert curves.place({"noise_sigma": 0.1, "blur": 0.9}).levels["distance"][0] == pytest.approx(
        np.linalg.norm(here - there) / 2
    )  # the median of 0 and the distance of the two curves


def test_beyond_the_ends_of_a_curve_the_distance_grows() -> None:
    curves = Curves(two_patients(), IMAGE_FEATURES, ["dice"])
    place = curves.place({"noise_sigma": 10.0, "blur": 0.5})
    here, end = standardised((10.0, 0.5), (1.0, 0.5))
    assert place.distance == pytest.approx(np.linalg.norm(here - end))
    assert place.scores["dice"]["a"] == pytest.approx(0.3) and place.levels["level"][0] == 2


def test_the_limit_is_a_percentile_of_distances_without_the_own_patient_and_level() -> None:
    generator = numpy_generator("limit")
    table = pd.concat(
        two_patients().assign(
            patient=f"p{i}", case=f"p{i}", blur=lambda t: t["blur"] ** generator.uniform(0.5, 2, len(t))
        )[lambda t: ~t.duplicated(["case", "level"])]
        for i in range(7)
    )
    curves = Curves(table, IMAGE_FEATURES, ["dice"])
    raw = np.stack([np.log10(table["noise_sigma"]), -np.log10(1 - table["blur"])], axis=1)
    at = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    shares = np.linspace(0, 1, 2001)[:, None]
    distances = []
    for i in range(len(at)):
        others = [p for p in sorted(set(table["patient"])) if p != table["patient"].iloc[i]]
        lines = [at[(table["patient"] == p).to_numpy()] for p in others]
        if table["level"].iloc[i] == 1:  # the one between two others: as if it had not been run
            lines = [line[[0, 2]] for line in lines]
        dense = np.concatenate([a + shares * (b - a) for line in lines for a, b in pairwise(line)])
        distances.append(np.linalg.norm(dense - at[i], axis=1).min())
    assert curves.limit == pytest.approx(np.percentile(distances, 99), abs=2e-3)


def test_blocks_and_the_choice_of_points_change_nothing_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Curves(homogeneous(30), IMAGE_FEATURES, ["dice"]).limit
    monkeypatch.setattr(placement, "_VALUES_AT_ONCE", 1)
    assert Curves(homogeneous(30), IMAGE_FEATURES, ["dice"]).limit == whole
    monkeypatch.setattr(placement, "_POINTS_AT_MOST", 100)
    assert Curves(homogeneous(30), IMAGE_FEATURES, ["dice"]).limit == pytest.approx(whole, rel=0.5)


def test_the_nearest_patients_are_taken_and_their_cases_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "NEIGHBOURS", 2)
    table = points(
        *(("near", case, "clean", 0.0, 0, 0.1, blur, dice) for case, blur, dice in (("x", 0.5, 0.2), ("y", 0.6, 0.4))),
        ("next", "z", "clean", 0.0, 0, 0.1, 0.7, 0.7),
        ("far", "w", "clean", 0.0, 0, 0.1, 0.98, 0.9),
    )
    place = Curves(table, IMAGE_FEATURES, ["dice"]).place({"noise_sigma": 0.1, "blur": 0.5})
    assert place.scores["dice"].to_dict() == pytest.approx({"near": 0.3, "next": 0.7})
    assert place.levels.empty


def test_a_series_makes_no_curve_and_replicates_start_from_the_clean_image() -> None:
    table = two_patients().query("patient == 'a' or level == 0")
    as_curve = Curves(table, IMAGE_FEATURES, ["dice"])
    as_series = Curves(table, IMAGE_FEATURES, ["dice"], frozenset({"noise"}))
    middle = {"noise_sigma": 0.01 * 10**1.5, "blur": 0.5}
    assert as_curve.place(middle).distance == pytest.approx(0, abs=1e-9)
    assert as_series.place(middle).distance > 0.1 and as_series.place(middle).levels.empty
    drawn_again = table.assign(replicate=lambda t: (t["level"] > 0).astype(int))
    start = {"noise_sigma": 0.01 * 10**0.5, "blur": 0.5}
    assert Curves(drawn_again, IMAGE_FEATURES, ["dice"]).place(start).distance == pytest.approx(0, abs=1e-9)


def test_one_patient_or_what_was_not_measured_is_refused() -> None:
    for table in (two_patients().query("patient == 'a'"), two_patients().assign(blur=math.nan)):
        with pytest.raises(UserError, match=r"the sweep has [01] patients"):
            Curves(table, IMAGE_FEATURES, ["dice"])


def homogeneous(patients: int, between: bool = False) -> pd.DataFrame:
    """Images that differ little, noise and blur at the default levels of the sweep (or, `between`, amid them)."""
    generator = numpy_generator("homogeneous", patients)
    rows = []
    for i in range(patients):
        texture, sharp = 0.02 * np.exp(0.1 * generator.normal()), 0.3 * np.exp(0.05 * generator.normal())
        for name, levels in (
            ("clean", [0.0]),
            ("noise", [0.02, 0.05, 0.1, 0.2, 0.4]),
            ("blur", [0.5, 1.0, 2.0, 3.0, 5.0]),
        ):
            steps = np.sqrt(np.array([levels[0] / 2, *levels])[:-1] * levels) if between else levels
            for level in steps:
                noise = math.hypot(texture / (1 + (name == "blur") * 8 * level**2), level * (name == "noise"))
                left = sharp / (1 + (name == "blur") * level**2)
                jitter = np.exp(0.02 * generator.normal(size=2))
                rows.append((f"p{i}", f"p{i}", name, level, 0, noise * jitter[0], 1 - left * jitter[1], 0.5))
    return points(*rows)


@pytest.mark.parametrize("between", [False, True])
def test_few_images_of_the_sweep_s_kind_are_called_outside(between: bool) -> None:
    """Levels that the sweep did not run lie on its curves as well."""
    curves = Curves(homogeneous(20), IMAGE_FEATURES, ["dice"])
    new = homogeneous(41, between=between)
    outside = [not curves.place(row).inside for row in new[list(IMAGE_FEATURES)].to_dict("records")]
    assert np.mean(outside) < 0.08
    assert not curves.place({"noise_sigma": 0.4, "blur": 0.97}).inside  # noise and blur at once were not measured
    assert not curves.place({"noise_sigma": 2.0, "blur": 0.7}).inside
