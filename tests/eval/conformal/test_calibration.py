"""From masks to promises, to calibration.json and back; files that were changed; sentences."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.conformal.calibration import Calibration, CalibrationCase, CaseScores, calibrate
from nnunet_robust.eval.conformal.calibration_file import read_calibration, write_calibration
from nnunet_robust.eval.conformal.control import calibrate_interval
from nnunet_robust.eval.conformal.false_alarms import FalseAlarms
from nnunet_robust.eval.conformal.informative import MaskSize
from nnunet_robust.eval.conformal.loss_curves import SETTINGS, bound_mask, loss_curves
from nnunet_robust.eval.images.image_statistics import ImageStatistics

MODEL = {"trainer": "nnUNetTrainer", "fold": "0", "checkpoints": {"0": "ab12"}, "mirroring": True, "members": ["folds"],
         "precision": "exact"}  # fmt: skip
SPACING = (0.5, 1.0)


def images(index: int, *, empty: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A disc, and the probabilities of a model that sees it somewhat displaced."""
    rng = np.random.default_rng(index)
    y, x = np.ogrid[:40, :32]
    reference = (((y - 20) * 0.5) ** 2 + (x - 16) ** 2 < 8**2) & (not empty)
    dy, dx = rng.normal(0, 1, 2)
    logit = 2 * (8 - np.sqrt(((y - 20 + 2 * dy) * 0.5) ** 2 + (x - 16 + dx) ** 2)) - 20 * empty
    return reference, (logit > 0), (1 / (1 + np.exp(-logit))).astype(np.float32)


def case(index: int, patient: str | None = None, *, empty: bool = False, predicted: bool = True) -> CalibrationCase:
    reference, segmentation, probability = images(index, empty=empty)
    both = reference.sum() + segmentation.sum()
    dice = 2 * float((reference & segmentation).sum() / both) if both else 1.0
    return CalibrationCase(
        f"case_{index:03d}",
        patient or f"p{index}",
        f"{index:064d}",
        ImageStatistics(((0.0, 1.5, 100.25 + index),), None, 0.5, (0.25 - index, None)),
        {
            "disc": CaseScores(
                loss_curves(reference, segmentation, SPACING, probability, sizes=True),
                dice,
                0.9 if predicted else None,
                0.05 if predicted else None,
            )
        },
    )


@pytest.fixture(scope="module")
def made() -> Calibration:
    return calibrate((case(index) for index in range(40)), MODEL, "clean images", 0.1, 0.1, 0.2)


def test_the_promises_are_kept_on_new_cases(made: Calibration) -> None:
    """200 new cases of the same kind; masks are made as for a new image, and losses counted voxel by voxel."""
    new = [images(1000 + index) for index in range(200)]
    for kind, bound in made.bounds["disc"].items():
        assert bound.setting is not None and bound.setting in SETTINGS[kind]
        assert (bound.n_cases, bound.n_patients) == (40, 40)
        losses = []
        for reference, segmentation, probability in new:
            mask = bound_mask(kind, bound.setting, segmentation, SPACING, probability)
            outside, of = (reference & ~mask, reference) if kind.startswith("outer") else (mask & ~reference, mask)
            losses.append(outside.sum() / max(of.sum(), 1))
        assert np.mean(losses) <= 0.1
        assert np.mean(losses) == pytest.approx(bound.mean_loss, abs=0.03)
    assert set(made.bounds["disc"]) == set(SETTINGS)


def test_intervals_come_from_the_stored_scores(made: Calibration) -> None:
    dice = np.array([case.labels["disc"].dice for case in made.cases])
    n = len(dice)
    by_hand = calibrate_interval(dice, np.full(n, 0.9), np.full(n, 0.05), [f"p{i}" for i in range(n)], 0.2)
    assert made.intervals["disc"] == by_hand
    assert calibrate([case(i, predicted=False) for i in range(30)], MODEL, "clean", 0.2).intervals == {}


def test_there_and_back(made: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, made)
    again = read_calibration(path)
    assert (again.bounds, again.intervals, again.model) == (made.bounds, made.intervals, made.model)
    assert [(c.case, c.digest, c.image) for c in again.cases] == [(c.case, c.digest, c.image) for c in made.cases]
    for kind, curve in made.cases[3].labels["disc"].curves.items():
        np.testing.assert_array_equal(again.cases[3].labels["disc"].curves[kind].wrong, curve.wrong)
    before = path.read_bytes()
    shuffled = calibrate([case(index) for index in reversed(range(40))], MODEL, "clean images", 0.1, 0.1, 0.2)
    write_calibration(path, shuffled)
    assert path.read_bytes() == before
    assert len(before) < 40 * 20_000  # curves, not volumes
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_not_what_they_were(made: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    with pytest.raises(UserError, match="no calibration"):
        read_calibration(path)
    write_calibration(path, made)
    text = path.read_text()
    content = json.loads(text)

    def changed(**values: object) -> str:
        return json.dumps({**content, **values})

    bounds = json.loads(json.dumps(content["bounds"]))
    bounds["disc"]["outer_margin_mm"]["setting"] = 0.0
    curves = json.loads(json.dumps(content["cases"]))
    curves[0]["labels"]["disc"]["curves"]["outer_threshold"]["wrong"].pop()
    for broken, message in (
        (text[: len(text) // 2], "ends too early"),
        ("[]", "the file must be a mapping"),
        ("{}", "'format' is missing"),
        (changed(format=1), "another version"),
        (changed(sizes={}), "are not those of its cases"),
        (changed(uninformative=["disc: all is well"]), "are not those of its cases"),
        (changed(false_alarms={"n_cases": 3}), "is not a calibration"),
        (changed(settings={}), "another version"),
        (changed(alpha=0.2), "are not those of its cases"),
        (changed(bounds=bounds), "are not those of its cases"),
        (changed(in_words=["disc: all is well"]), "are not those of its cases"),
        (changed(cases=curves), "a curve of outer_threshold that is none"),
        (changed(cases=content["cases"][:3]), "3 calibration patients are too few"),
        (changed(cases=content["cases"] * 2), "'case_000' is twice"),
    ):
        path.write_text(broken)
        with pytest.raises(UserError, match=message):
            read_calibration(path)


def test_who_may_use_it(made: Calibration) -> None:
    made.check_model(MODEL)
    with pytest.raises(
        UserError, match=r"of another model \(checkpoints is \{'0': 'ab12'\} there, \{'0': 'cd34'\} now\)"
    ):
        made.check_model({**MODEL, "checkpoints": {"0": "cd34"}})
    made.check_unseen({"new": "f" * 64}, {"new": "somebody"})
    with pytest.raises(UserError, match=r"1 of 1 cases .*of its patients .first 'new'"):
        made.check_unseen({"new": "f" * 64}, {"new": made.cases[0].patient})
    with pytest.raises(UserError, match=r"1 of 2 cases .*first 'renamed', there 'case_007'."):
        made.check_unseen({"new": "f" * 64, "renamed": f"{7:064d}-{8:064d}"}, {})


def test_cases_without_the_object_do_not_make_a_promise_cheap() -> None:
    cases = [case(index) for index in range(30)] + [case(index, empty=True) for index in range(30, 90)]
    with_empty = calibrate(cases, MODEL, "clean images", 0.1, 0.1).bounds["disc"]
    without = calibrate(cases[:30], MODEL, "clean images", 0.1, 0.1).bounds["disc"]
    for kind in ("outer_threshold", "outer_margin_mm"):
        assert with_empty[kind] == without[kind] and with_empty[kind].n_cases == 30
    assert with_empty["inner_threshold"].n_cases == 90


def test_too_few_and_impossible() -> None:
    with pytest.raises(
        UserError, match=r"^24 calibration patients are too few for alpha 0.1 with confidence 90 %: at least"
    ):
        calibrate([case(index, f"p{index % 24}") for index in range(30)], MODEL, "clean images", 0.1, 0.1)
    with pytest.raises(UserError, match=r"^0 calibration patients are too few for alpha 0.1: at least 9 are needed"):
        calibrate([], MODEL, "clean images", 0.1)
    few = [case(index) for index in range(10)] + [case(index, empty=True) for index in range(10, 40)]
    scarce = calibrate(few, MODEL, "clean images", 0.1, 0.1)
    assert scarce.bounds["disc"]["outer_threshold"].setting is None
    assert (
        "disc: no probability threshold can promise that at most 10 % of the object lies outside of the outer mask, on "
        "average, with confidence 90 % (calibrated on 10 cases of 10 patients, clean images; at least 25 patients are "
        "needed)."
    ) in scarce.sentences("disc")
    reference, empty, zero = np.ones((3, 3), bool), np.zeros((3, 3), bool), np.zeros((3, 3), np.float32)
    missed = CaseScores(loss_curves(reference, empty, (1.0, 1.0), zero), 0.0)
    image = ImageStatistics(((0.0, 0.0, 1.0),), None, None, (None,))
    nothing = calibrate(
        [CalibrationCase(f"c{i}", f"p{i}", str(i), image, {"x": missed}) for i in range(20)], {}, "", 0.1
    )
    assert nothing.bounds["x"]["outer_margin_mm"].setting is None
    assert nothing.bounds["x"]["outer_threshold"].setting == 0  # the whole image
    assert nothing.bounds["x"]["inner_threshold"].setting == 0


def test_cases_must_be_measured_alike() -> None:
    cases = [case(index) for index in range(20)]
    with pytest.raises(UserError, match="'case_020' has other structures, masks or scores than 'case_000'"):
        calibrate([*cases, case(20, predicted=False)], MODEL, "clean images", 0.1)


def test_sentences(made: Calibration) -> None:
    said = made.sentences("disc")
    margin, size = made.bounds["disc"]["outer_margin_mm"], made.sizes("disc")["outer_margin_mm"]
    assert margin.setting is not None and margin.mean_loss is not None
    assert said[2] == (
        f"disc: with the margin {margin.setting:.4g} mm, at most 10 % of the object lies outside of the outer mask, on "
        f"average over patients who have it, with confidence 90 % (calibrated on 40 cases of 40 patients, clean "
        f"images; there it was {100 * margin.mean_loss:.3g} %). There {size.in_words('outer_margin_mm')}."
    )
    low, high = made.intervals["disc"].around(0.9, 0.05)
    assert said[-1] == (
        "disc: a Dice lies in its interval in 80 % of cases (calibrated on 40 cases of 40 patients, clean images). "
        f"There for the median case, its Dice is expected between {low:.2f} and {high:.2f}."
    )


def test_sizes_are_those_of_the_masks(made: Calibration) -> None:
    """Made again from the images, voxel by voxel."""
    for kind, size in made.sizes("disc").items():
        setting = made.bounds["disc"][kind].setting
        assert setting is not None
        relative, of_image = [], []
        for index in range(40):
            _, segmentation, probability = images(index)
            mask = bound_mask(kind, setting, segmentation, SPACING, probability)
            relative.append(mask.sum() / segmentation.sum())
            of_image.append(mask.mean())
        assert size.of_segmentation == pytest.approx(np.median(relative))
        assert size.of_image == pytest.approx(np.median(of_image))
        assert (size.n_empty, size.n_cases) == (0, 40) and not size.uninformative(kind)
    assert made.uninformative() == [] and made.described()["uninformative"] == []


def poor(index: int) -> CalibrationCase:
    """A model that is as certain where there is nothing, and whose segmentation lies beside the disc."""
    reference, _, _ = images(index)
    segmentation = np.zeros(reference.shape, bool)
    segmentation[:6, :6] = True
    probability = np.where(segmentation, 0.9, 0.2).astype(np.float32)
    scores = CaseScores(loss_curves(reference, segmentation, SPACING, probability, sizes=True), 0.0, 0.5, 0.5)
    image = ImageStatistics(((0.0, 0.0, 1.0),), None, None, (None,))
    return CalibrationCase(f"c{index:03d}", f"p{index}", f"{index:064d}", image, {"x": scores})


def test_bounds_that_say_nothing_say_so(tmp_path: Path) -> None:
    nothing = calibrate([poor(index) for index in range(20)], MODEL, "clean images", 0.1)
    assert nothing.bounds["x"]["inner_threshold"].mean_loss == 0  # kept, and for nothing
    said = nothing.uninformative()
    assert (
        "x: the inner mask by threshold is uninformative: the inner mask is empty in 20 of 20 cases, so that it claims "
        "nothing."
    ) in said
    assert (
        "x: the outer mask by threshold is uninformative: the outer mask is 35.6 times the segmentation and covers 100 "
        "% of the image (median)."
    ) in said
    assert "x: the interval of the Dice is uninformative: for the median case, nothing is known of its Dice." in said
    assert all("Uninformative: " in sentence for sentence in nothing.sentences("x")) and len(said) == 5
    path = tmp_path / "c.json"
    write_calibration(path, nothing)
    assert json.loads(path.read_text())["uninformative"] == said
    assert read_calibration(path).uninformative() == said


@pytest.mark.parametrize(
    ("of_segmentation", "of_image", "expected"),
    [
        (4.0, 0.32, False),
        (4.0, 0.34, True),  # a third of the image
        (1.2, 0.54, False),  # of an object of 45 % of the image, which is as large
        (2.0, 0.9, True),
        (1.25, 1.0, True),  # the whole image
    ],
)
def test_an_outer_mask_of_a_third_of_the_image(of_segmentation: float, of_image: float, expected: bool) -> None:
    share = of_image / of_segmentation
    size = MaskSize(of_segmentation, of_image, min(share, 1 - share), 0, 9)
    assert size.uninformative("outer_threshold") == expected == size.uninformative("outer_margin_mm")


def test_a_calibration_of_the_version_before_is_read(made: Calibration, tmp_path: Path) -> None:
    """It had no sizes of outer masks, other words, and nothing of the network's view."""
    path = tmp_path / "calibration.json"
    write_calibration(path, made)
    content = json.loads(path.read_text())
    for name in ("sizes", "uninformative", "false_alarms"):
        del content[name]
    content |= {"format": 2, "in_words": ["disc: other words"]}
    for one in content["cases"]:
        del one["image"]["network"]
        for curve in one["labels"]["disc"]["curves"].values():
            curve.pop("size", None)
    path.write_text(json.dumps(content))
    found = read_calibration(path)
    assert (found.bounds, found.intervals, found.false_alarms) == (made.bounds, made.intervals, None)
    assert (
        found.sizes("disc")["inner_threshold"].of_segmentation == made.sizes("disc")["inner_threshold"].of_segmentation
    )
    assert "An earlier version calibrated, which did not count how large the mask is." in " ".join(
        found.sentences("disc")
    )
    path.write_text(json.dumps({**content, "alpha": 0.2}))
    with pytest.raises(UserError, match="are not those of its cases"):
        read_calibration(path)


def test_false_alarms_are_stored(made: Calibration, tmp_path: Path) -> None:
    alarms = FalseAlarms(40, 40, 3, 1, {"noise": 1, "Dice": 2}, 0.61, 0.84)
    path = tmp_path / "calibration.json"
    write_calibration(path, dataclasses.replace(made, false_alarms=alarms))
    assert read_calibration(path).false_alarms == alarms
    low, high = stats.binomtest(3, 40).proportion_ci(0.95, "exact")
    assert alarms.interval == (pytest.approx(low), pytest.approx(high))
    assert alarms.sentence() == (
        "False alarms: of these 40 cases, qa would flag 3 (7.5 %, 95 % interval 1.6 to 20 %), 1 of them to reject "
        "(Dice 2, noise 1). Each was judged without its own patient (leave-one-patient-out), by the default limits. "
        "About so often qa will speak of new images of this source. The lowest Dice of a structure is 0.61 in flagged "
        "cases and 0.84 in the others (medians), so that not each alarm is for nothing."
    )
    assert json.loads(path.read_text())["false_alarms"]["rate"] == 0.075
