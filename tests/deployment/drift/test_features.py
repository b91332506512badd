"""Features against numpy, by hand and by meaning; what is undefined; components, and why their images are set aside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.drift.bottleneck import COMPONENTS, Basis, basis_patients
from nnunet_robust.deployment.drift.features import image_features, mean_activation, ordered, prediction_features
from nnunet_robust.eval.images.complexity import ComplexityMeter
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.uncertainty.uncertainty import PredictedDice, StructureScores

SPACING = (1.0, 1.0)


def textured(seed: int = 0, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (100 * rng.random((channels, 64, 64)) * np.arange(1, channels + 1)[:, None, None]).astype(np.float32)


def disc() -> np.ndarray:
    y, x = np.ogrid[:64, :64]
    return (y - 30) ** 2 + (x - 34) ** 2 < 15**2


def test_each_channel_is_measured_by_itself_in_its_own_units() -> None:
    image = textured()
    found = image_features(image, SPACING, ["T1", "T2"])
    for name, channel in zip(["T1", "T2"], image, strict=True):
        low, median, high = np.quantile(channel, (0.005, 0.5, 0.995))
        assert found[f"median of {name}"] == pytest.approx(median, rel=1e-5)
        assert found[f"range of {name}"] == pytest.approx(high - low, rel=1e-5)
        assert found[f"noise of {name}"] == pytest.approx(image_quality(channel[None], SPACING).noise_sigma, rel=1e-5)
    assert found["range of T2"] == pytest.approx(2 * found["range of T1"], rel=0.05)
    assert len(found) == 8


def test_noise_and_blur_move_their_features_and_units_only_theirs() -> None:
    y, x = np.mgrid[:64, :64]
    image = (100 * np.sin(y / 5) * np.cos(x / 7) + np.random.default_rng(0).normal(0, 1, (64, 64)))[None]
    clean = image_features(image, SPACING, ["US"])
    noisy = image_features(image + np.random.default_rng(1).normal(0, 30, image.shape), SPACING, ["US"])
    assert noisy["noise of US"] > 5 * clean["noise of US"]
    scaled = image_features(3 * image, SPACING, ["US"])
    assert scaled["noise of US"] == pytest.approx(clean["noise of US"], rel=1e-3)
    assert scaled["median of US"] == pytest.approx(3 * clean["median of US"], rel=1e-4)


def test_slices_of_2d_formats_are_as_the_image_is() -> None:
    flat, image = textured(channels=1), textured(channels=1)[:, None]
    assert image_features(image, (999.0, 1.0, 1.0), ["US"]) == image_features(flat, SPACING, ["US"])
    masks = {"tumour": disc()}
    as_slice = prediction_features(image, (999.0, 1.0, 1.0), {"tumour": disc()[None]})
    assert as_slice == prediction_features(flat, SPACING, masks)


def test_what_is_not_defined_is_nan() -> None:
    constant = np.full((1, 64, 64), 7.0, np.float32)
    found = image_features(constant, SPACING, ["CT"])
    assert math.isnan(found["noise of CT"]) and math.isnan(found["blur of CT"])
    assert (found["median of CT"], found["range of CT"]) == (7.0, 0.0)
    nothing = prediction_features(textured(), SPACING, {"tumour": np.zeros((64, 64), bool)})
    assert math.isnan(nothing["texture divergence"]) and nothing["share of tumour"] == 0
    with pytest.raises(UserError, match="2 channels and there are names for 1"):
        image_features(textured(), SPACING, ["T1"])


def test_a_prediction_in_numbers() -> None:
    image, mask = textured(), disc()
    other = np.zeros_like(mask)
    other[:3, :4] = True
    scores = {
        "tumour": StructureScores(0.1234567, 0.0, 10, 20, PredictedDice(0.9, 0.8, 0.85)),
        "cyst": StructureScores(0.5, 0.0, 10, 20, PredictedDice(math.nan, math.nan, 0.85)),
    }
    found = prediction_features(image, SPACING, {"tumour": mask, "cyst": other}, scores)
    assert found["share of tumour"] == pytest.approx(mask.sum() / 64**2, rel=1e-5)
    assert found["share of cyst"] == pytest.approx(12 / 64**2, rel=1e-5)
    assert (found["entropy of tumour"], found["predicted Dice of tumour"]) == (0.123457, 0.9)
    assert found["predicted Dice of cyst"] == 0.85  # of a single member: the soft Dice
    label = mask + 2 * other
    by_meter = ComplexityMeter(image, label, {"all": [1, 2]}, SPACING).measure(image)["all"]
    assert found["texture divergence"] == pytest.approx(by_meter.texture_divergence_bits, rel=1e-5)
    assert set(prediction_features(image, SPACING, {"tumour": mask})) == {"texture divergence", "share of tumour"}


def test_activations_are_means_over_space() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert mean_activation(values) == (5.5, 17.5)
    with pytest.raises(ValueError, match="finite"):
        mean_activation(np.full((2, 3), np.nan))


def test_undefined_is_lowest_and_equal_to_itself() -> None:
    assert ordered([1.0, math.nan, -5.0]).tolist() == [1.0, -math.inf, -5.0]


def test_components_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 6)) @ rng.normal(size=(6, 40)) + rng.normal(size=(30, 40)) / 10
    basis, new = Basis.of(images), rng.normal(size=40)
    scaled = (images - images.mean(axis=0)) / images.std(axis=0)
    oracle = PCA(COMPONENTS).fit(scaled)
    along = oracle.transform(((new - images.mean(axis=0)) / images.std(axis=0))[None])[0]
    found = basis.features(new)
    assert list(found) == ["bottleneck 1", "bottleneck 2", "bottleneck 3", "bottleneck rest"]
    assert np.abs([found[f"bottleneck {i}"] for i in (1, 2, 3)]) == pytest.approx(np.abs(along), rel=1e-4)
    back = oracle.inverse_transform(along[None])[0]
    rest = np.linalg.norm((new - images.mean(axis=0)) / images.std(axis=0) - back)
    assert found["bottleneck rest"] == pytest.approx(rest, rel=1e-4)


def test_a_basis_of_few_or_equal_images() -> None:
    with pytest.raises(UserError, match="4 images cannot make components"):
        Basis.of(np.zeros((4, 10)))
    same = Basis.of(np.ones((8, 10)))
    assert list(same.features(np.ones(10))) == ["bottleneck rest"]
    assert same.features(np.ones(10))["bottleneck rest"] == 0
    with pytest.raises(UserError, match="another layer"):
        same.features(np.ones(9))


def test_images_that_make_the_components_are_no_reference_for_them() -> None:
    """Those lie closer to the components than any new image of the same kind does: it would be a stranger."""
    rng = np.random.default_rng(0)
    images, new = rng.normal(size=(20, 100)), rng.normal(size=(20, 100))
    basis = Basis.of(images[:10])
    own, set_aside, later = (
        [basis.features(image)["bottleneck rest"] for image in rows] for rows in (images[:10], images[10:], new)
    )
    assert max(own) < min(later)
    assert stats.ks_2samp(set_aside, later).pvalue > 0.05


def test_half_of_the_patients_make_the_basis() -> None:
    names = [f"p{i}" for i in range(21)]
    drawn = basis_patients(names)
    assert len(drawn) == 10 and drawn < set(names)
    assert basis_patients([*names[::-1], "p3"]) == drawn
    assert drawn != set(names[:10])
