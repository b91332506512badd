"""References and streams: to a file and back, pieces and whole, second images of patients, files that were changed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.drift.features import image_features, prediction_features
from nnunet_robust.deployment.drift.martingale import DriftTest
from nnunet_robust.deployment.drift.reference import MeasuredImage, Reference, read_reference, write_reference
from nnunet_robust.deployment.drift.stream import Stream

MODEL = {"key": "nnUNetTrainer__nnUNetPlans__2d__fold0", "checkpoints": {"0": "ab12"}}


def image(number: int, patient: str | None = None, *, shift: float = 0.0, channels: int = 8) -> MeasuredImage:
    rng = np.random.default_rng(number)
    noise, blur = rng.normal(size=2)
    return MeasuredImage(
        f"case_{number:03d}",
        patient or f"p{number:03d}",
        f"{number:064d}",
        {"noise of CT": float(noise) + shift, "blur of CT": math.nan if number % 7 == 0 else float(blur)},
        tuple(map(float, rng.normal(size=channels))),
    )


@pytest.fixture(scope="module")
def made() -> Reference:
    return Reference.of([image(i) for i in range(40)], MODEL, "clean images")


def test_to_a_file_and_back(made: Reference, tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    write_reference(path, made)
    found = read_reference(path)
    assert found.names == made.names and np.array_equal(found.rows, made.rows, equal_nan=True)
    assert (found.model, found.condition, found.n_left_out) == (MODEL, "clean images", 0)
    again = tmp_path / "again.json"
    write_reference(again, found)
    assert again.read_bytes() == path.read_bytes()
    assert json.loads(path.read_text())["images"][7]["features"]["blur of CT"] is None
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["again.json", "reference.json"]


def test_the_order_of_the_images_does_not_count(made: Reference) -> None:
    assert Reference.of([image(i) for i in reversed(range(40))], MODEL, "clean images").images == made.images


def test_features_and_components(made: Reference) -> None:
    names = ("noise of CT", "blur of CT", "bottleneck 1", "bottleneck 2", "bottleneck 3", "bottleneck rest")
    assert made.names == names
    assert made.rows.shape == made.measured.shape == (40, 6)
    assert np.isnan(made.rows[:, 1]).tolist() == [i % 7 == 0 for i in range(40)]
    # half of the images make the basis, and count for the other features only
    assert made.measured[:, :2].all() and (made.measured[:, 2:].sum(axis=0) == 20).all()
    in_basis = [i for i in range(40) if not made.measured[i, 2]]
    activations = np.array([made.images[i].activations for i in in_basis])
    assert made.basis is not None and np.allclose(made.basis.mean, activations.mean(axis=0))
    without = Reference.of([image(i, channels=0) for i in range(12)], MODEL, "clean")
    assert without.basis is None and without.names == names[:2] and without.measured.all()


def test_one_image_for_each_patient() -> None:
    images = [image(i, f"p{i // 3:03d}") for i in range(36)]
    found = Reference.of(reversed(images), MODEL, "clean")
    assert [i.case for i in found.images] == [f"case_{i:03d}" for i in range(0, 36, 3)]
    assert found.n_left_out == 24


def test_what_cannot_be_a_reference(tmp_path: Path) -> None:
    good = [image(i) for i in range(12)]
    other = MeasuredImage("other", "q", "f" * 64, {"noise of CT": 1.0}, good[0].activations)
    copy = MeasuredImage("copy", "q", good[3].digest, good[3].features, good[3].activations)
    namesake = MeasuredImage("case_003", "q", "e" * 64, good[3].features, good[3].activations)
    for images, message in (
        (good[:9], "a reference of 9 patients: give images of 10 or more"),
        ([*good, other], "other was measured otherwise than case_000: only one of them has blur of CT"),
        ([*good, image(12, channels=9)], "case_012 has 9 activations and case_000 8"),
        ([*good, copy], "copy and case_003 are the same image"),
        ([*good, namesake], "two images have one name"),
        ([], "a reference of 0 patients"),
    ):
        with pytest.raises(UserError, match=message):
            Reference.of(images, MODEL, "clean")
    with pytest.raises(UserError, match="no reference"):
        read_reference(tmp_path / "none.json")
    for text, message in (("{", "it ends too early"), ("[]", "must be a mapping"), ("{}", "'format' is missing"),
                          ('{"format": 1}', "'model' is missing")):  # fmt: skip
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match=rf"bad\.json.*{message}.*: fit it again"):
            read_reference(tmp_path / "bad.json")
    write_reference(tmp_path / "old.json", Reference.of(good, MODEL, "clean"))
    (tmp_path / "old.json").write_text((tmp_path / "old.json").read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(UserError, match="of another version"):
        read_reference(tmp_path / "old.json")


def test_a_day_at_a_time_as_all_at_once(made: Reference, tmp_path: Path) -> None:
    """Each day by another process, which knows the file only."""
    new = [image(i, shift=3.0 if i >= 120 else 0.0) for i in range(100, 160)]
    whole = Stream(made, "d1")
    assert whole.add(new) == {}
    whole.write(tmp_path / "whole.json")
    path = tmp_path / "days.json"
    for first in range(0, 60, 12):
        day = Stream(made, "d1")
        if path.is_file():
            day.read(path)
        day.add(new[first : first + 12])
        day.write(path)
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert np.array_equal(day.test.evidence, whole.test.evidence)
    assert whole.test.alarm is not None and 20 <= whole.test.alarm < 45
    assert [moved.name for moved in whole.test.moved()] == ["noise of CT"]
    by_hand = DriftTest(made.names, made.rows, measured=made.measured)
    by_hand.update([made.row(i) for i in new])
    assert np.array_equal(by_hand.evidence, whole.test.evidence)


def test_images_and_patients_count_once(made: Reference) -> None:
    stream = Stream(made, "d1")
    stream.add([image(100), image(101)])
    evidence = stream.test.evidence
    again = stream.add([image(100), image(103, "p101"), image(3), image(104, "p005")])
    assert again == {
        "case_100": "this image was seen before",
        "case_103": "another image of patient p101 counts",
        "case_003": "this image was seen before",
        "case_104": "another image of patient p005 counts",
    }
    assert np.array_equal(stream.test.evidence, evidence) and len(stream.images) == 2
    assert stream.add([image(110), image(110)]) == {"case_110": "this image was seen before"}
    with pytest.raises(UserError, match="case_112 has 3 activations"):
        stream.add([image(111), image(112, channels=3)])
    assert [i.case for i in stream.images] == ["case_100", "case_101", "case_110"]


def test_another_test_needs_another_file(made: Reference, tmp_path: Path) -> None:
    stream, path = Stream(made, "d1"), tmp_path / "stream.json"
    stream.add([image(100), image(101)])
    stream.write(path)
    for other, message in (
        (Stream(made, "d2"), r"begun with another reference \(d1, now d2\)"),
        (Stream(made, "d1", rate=0.05), r"begun with another rate \(0.01, now 0.05\)"),
        (Stream(made, "d1", seed=1), "another seed"),
    ):
        with pytest.raises(UserError, match=message):
            other.read(path)
    text = path.read_text()
    for changed, message in (
        (text.replace("p101", "p100"), "case_101 counts there, but another image of patient p100 counts"),
        (text.replace('"p101"', "[]"), r"images\[1\]\.patient must be a text"),
        (text.replace('"jump": 0.01', '"jump": 0.02'), r"another jump \(0.02, now 0.01\)"),
        (text[:-5], "ends too early"),
    ):
        path.write_text(changed)
        with pytest.raises(UserError, match=message):
            Stream(made, "d1").read(path)


def test_false_alarms_with_components_made_of_the_reference() -> None:
    """200 references, each with a stream of its own, which goes on for twice as long; a stated rate of 10 %."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        images = [
            MeasuredImage(f"c{i:02d}", f"p{i:02d}", f"{i}", {"noise": noise}, tuple(activations))
            for i, (noise, activations) in enumerate(zip(rng.normal(size=60), rng.normal(size=(60, 50)), strict=True))
        ]
        stream = Stream(Reference.of(images[:20], MODEL, "clean"), "d1", rate=0.1)
        stream.add(images[20:])
        alarms += stream.test.alarm is not None
    assert alarms <= 20 + 3 * math.sqrt(200 * 0.1 * 0.9)


def test_from_images_to_the_features_that_moved() -> None:
    """Smooth random images; from the tenth on they are noisy: by 5 % of their range, as on no image before."""

    def measured(number: int, sigma: float) -> MeasuredImage:
        rng = np.random.default_rng(number)
        smooth = gaussian_filter(rng.normal(size=(96, 96)), 4)
        pixels = smooth / np.ptp(smooth) + rng.normal(size=(96, 96)) * (0.01 + 0.002 * rng.random() + sigma)
        features = image_features(pixels[None], (1.0, 1.0), ["US"])
        features |= prediction_features(pixels[None], (1.0, 1.0), {"bright": pixels > 0.1})
        return MeasuredImage(f"c{number:03d}", f"p{number:03d}", f"{number}", features)

    stream = Stream(Reference.of([measured(i, 0) for i in range(30)], MODEL, "clean"), "d1")
    stream.add([measured(i, 0) for i in range(30, 40)])
    assert stream.test.alarm is None
    stream.add([measured(i, 0.05) for i in range(40, 60)])
    assert stream.test.alarm is not None and stream.test.alarm < 10 + 12
    assert {moved.name: moved.bet for moved in stream.test.moved()}["noise of US"] in ("far higher", "higher")
