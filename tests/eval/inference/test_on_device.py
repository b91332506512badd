"""Preprocessing and export as torch code, against nnU-Net's own functions."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import ndimage

from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.on_device import Export, Preprocessing, filled
from nnunet_robust.eval.inference.resampling import Interpolation, Resampling
from nnunet_robust.eval.inference.sliding_window import SlidingWindow

LABELS = {"background": 0, "organ": 1, "tumour": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
Z, CT, RGB = "ZScoreNormalization", "CTNormalization", "RGBTo01Normalization"
# Each changes the plans of an isotropic volume of one channel.
PLANS: dict[str, dict[str, Any]] = {
    "volume": {},
    "same grid": {"spacing": (2.0, 1.5, 1.5)},
    "anisotropic": {"spacing": (3.0, 1.0, 1.0), "of_image": (6.0, 1.4, 0.8)},
    "anisotropic in another axis": {"spacing": (1.0, 1.0, 3.0), "of_image": (1.4, 0.8, 6.0)},
    "anisotropic, transposed": {"order": (1, 0, 2), "spacing": (3.0, 1.0, 1.0), "of_image": (1.4, 6.0, 0.8)},
    "transposed": {"order": (2, 0, 1)},
    "2d": {"spacing": (1.1, 1.0), "of_image": (5.0, 1.5, 1.2)},
    "an image": {"spacing": (1.0, 1.0), "of_image": (999.0, 1.3, 0.8), "shape": (1, 40, 50)},
    "an image on its own grid": {"spacing": (1.0, 1.0), "of_image": (999.0, 1.0, 1.0), "shape": (1, 40, 50)},
    "channels": {"schemes": [Z, CT, "RescaleTo01Normalization", "NoNormalization"]},
    "masked": {"schemes": [Z, Z, CT], "masked": [True, False, True], "margin": 4},
    "masked, transposed": {"schemes": [Z, Z], "masked": [True, True], "margin": 3, "order": (2, 0, 1)},
    "colour": {"schemes": [RGB] * 3, "spacing": (1.0, 1.0), "of_image": (999.0, 1.0, 1.2), "shape": (1, 40, 50)},
    "zero background": {"margin": 5},
    "nothing there": {"margin": 50},
    "regions": {"labels": REGIONS, "margin": 3},
    "regions in another order": {"labels": REGIONS, "regions_order": [3, 1, 2]},
    "ignore label": {"labels": {**LABELS, "ignore": 3}, "margin": 3},
    "many labels": {"labels": {"background": 0, **{f"l{n}": n for n in range(1, 270)}}, "shape": (3, 8, 9)},
    "linear images": {"data_options": {"order": 1}},
    "slices interpolated": {
        "spacing": (3.0, 1.0, 1.0), "of_image": (6.0, 1.4, 0.8), "data_options": {"order_z": 1},
        "logit_options": {"order_z": 1},
    },
    "never apart": {"spacing": (3.0, 1.0, 1.0), "of_image": (6.0, 1.4, 0.8),
                    "data_options": {"force_separate_z": False}, "logit_options": {"force_separate_z": False}},
}  # fmt: skip
OPTIONS = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}


class Case:
    """A model's plans as nnU-Net has them, and an image."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.given = given = {
            "order": (0, 1, 2), "spacing": (1.6, 1.0, 1.2), "of_image": (2.0, 1.5, 1.5), "shape": (14, 30, 34),
            "schemes": [Z], "masked": None, "margin": 0, "labels": LABELS, "regions_order": [1, 2, 3],
            "data_options": {}, "logit_options": {}, **PLANS[name], **changes,
        }  # fmt: skip
        schemes = given["schemes"]
        back = [int(axis) for axis in np.argsort(given["order"])]
        statistics = {"mean": 80.0, "std": 30.0, "percentile_00_5": 20.0, "percentile_99_5": 200.0}
        self.plans = PlansManager({
            "dataset_name": "Dataset900_X", "plans_name": "p", "transpose_forward": list(given["order"]),
            "transpose_backward": back, "label_manager": "LabelManager", "image_reader_writer": "SimpleITKIO",
            "foreground_intensity_properties_per_channel": {str(c): statistics for c in range(len(schemes))},
            "configurations": {"c": {
                "architecture": {}, "preprocessor_name": "DefaultPreprocessor", "spacing": list(given["spacing"]),
                "normalization_schemes": schemes, "use_mask_for_norm": given["masked"] or [False] * len(schemes),
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {**OPTIONS, **given["data_options"]},
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_seg_kwargs": {**OPTIONS, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**OPTIONS, "order": 1, **given["logit_options"]},
            }},
        })  # fmt: skip
        self.configuration = self.plans.get_configuration("c")
        dataset = {"labels": given["labels"], "regions_class_order": given["regions_order"]}
        self.predictor: Any = SimpleNamespace(
            plans_manager=self.plans,
            configuration_manager=self.configuration,
            label_manager=self.plans.get_label_manager(dataset),
            device=torch.device("cpu"),
        )
        self.properties = {"spacing": given["of_image"], "told": "by the reader"}

    def image(self) -> np.ndarray:
        """Smooth and noisy at once, with plateaus next to which splines overshoot, zeros around it and holes."""
        rng, shape = np.random.default_rng(0), self.given["shape"]
        image = rng.normal(120, 8, (len(self.given["schemes"]), *shape)) + 60 * (rng.random(shape) > 0.6)
        image = image.clip(90, 200)
        for z, y, x in rng.integers(0, shape, (40, 3)):
            image[:, z : z + 2, y : y + 2, x : x + 2] = 0
        if margin := self.given["margin"]:
            inside = [slice(min(margin, n // 2) if n > 1 else 0, max(n - margin - 1, n // 2)) for n in shape]
            cut = np.zeros(shape, bool)
            cut[tuple(inside)] = margin < max(shape)
            image *= cut
        return image.astype(np.float32)

    def preprocessed(self) -> tuple[np.ndarray, dict[str, Any]]:
        """By nnU-Net."""
        data, _, found = DefaultPreprocessor(verbose=False).run_case_npy(
            self.image(), None, dict(self.properties), self.plans, self.configuration, {}
        )
        return data, found

    def logits(self, shape: tuple[int, ...]) -> torch.Tensor:
        """As networks give them: smooth."""
        drawn = np.random.default_rng(1).normal(size=(self.predictor.label_manager.num_segmentation_heads, *shape))
        sigma = (0, *(2 if n > 8 else 0.5 for n in shape))
        return torch.from_numpy(ndimage.gaussian_filter(drawn, sigma) * 20).float()

    def exported(self, logits: torch.Tensor, properties: dict[str, Any], probabilities: bool) -> Any:
        """By nnU-Net."""
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.numpy(), self.plans, self.configuration, self.predictor.label_manager, properties, probabilities, 1
        )


@pytest.mark.parametrize("name", PLANS)
def test_preprocessing_is_nnunets(name: str) -> None:
    case = Case(name)
    image = torch.from_numpy(case.image())
    before = image.clone()
    preprocessing = Preprocessing.of(case.predictor)
    assert preprocessing is not None
    found, properties = preprocessing(image, case.properties)
    wanted, wanted_properties = case.preprocessed()
    assert torch.equal(image, before)
    assert found.dtype == torch.float32 and found.is_contiguous()
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)
    assert found.isfinite().all()
    for key, value in wanted_properties.items():
        assert np.array_equal(properties[key], value), key
    assert set(properties) == set(wanted_properties)


def exporting(name: str) -> tuple[Case, torch.Tensor, dict[str, Any], Export]:
    """A case, logits of it, what its preprocessing found, and what exports them."""
    case = Case(name)
    data, properties = case.preprocessed()
    export = Export.of(case.predictor)
    assert export is not None
    return case, case.logits(data.shape[1:]), properties, export


@pytest.mark.parametrize("values", [1, 1 << 22])
@pytest.mark.parametrize("name", PLANS)
def test_labels_are_nnunets(name: str, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_robust.eval.inference.on_device._VALUES_AT_ONCE", values)
    case, logits, properties, export = exporting(name)
    found, wanted = export.labels(logits, properties), case.exported(logits, properties, False)
    assert found.shape == wanted.shape == case.image().shape[1:] and found.dtype == wanted.dtype
    assert len(np.unique(wanted)) > 1 and (found == wanted).mean() >= 0.999
    for label in np.unique(wanted):
        ours, theirs = found == label, wanted == label
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("values", [1, 1 << 22])
@pytest.mark.parametrize("name", PLANS)
def test_probabilities_are_nnunets(name: str, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_robust.eval.inference.on_device._VALUES_AT_ONCE", values)
    case, logits, properties, export = exporting(name)
    found, (_, wanted) = export.probabilities(logits, properties), case.exported(logits, properties, True)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_equally_likely_labels_are_decided_as_nnunet_does() -> None:
    case = Case("same grid")
    _, properties = case.preprocessed()
    logits = torch.randint(0, 2, (3, *properties["shape_after_cropping_and_before_resampling"])).float()
    export = Export.of(case.predictor)
    assert export is not None
    assert np.array_equal(export.labels(logits, properties), case.exported(logits, properties, False))


def test_half_precision_logits_are_taken() -> None:
    case = Case("volume")
    data, properties = case.preprocessed()
    logits = case.logits(data.shape[1:])
    export = Export.of(case.predictor)
    assert export is not None
    found, wanted = export.labels(logits.half(), properties), case.exported(logits, properties, False)
    assert (found == wanted).mean() > 0.999


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("preprocessor_name", "Mine"),
        ("normalization_schemes", ["Mine"]),
        ("resampling_fn_data", "resample_torch_fornnunet"),
        ("resampling_fn_data_kwargs", {**OPTIONS, "order": 0}),
        ("resampling_fn_data_kwargs", {**OPTIONS, "separate_z_anisotropy_threshold": 2}),
    ],
)
def test_what_is_not_known_is_not_preprocessed(setting: str, value: Any) -> None:
    case = Case("volume")
    case.configuration.configuration[setting] = value
    if setting == "preprocessor_name":
        known = case.configuration
        case.predictor.configuration_manager = SimpleNamespace(
            configuration=known.configuration, preprocessor_class=object, spacing=known.spacing,
            normalization_schemes=known.normalization_schemes, use_mask_for_norm=known.use_mask_for_norm,
        )  # fmt: skip
    assert Preprocessing.of(case.predictor) is None and Export.of(case.predictor) is not None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("resampling_fn_probabilities", "resample_torch_fornnunet"),
        ("resampling_fn_probabilities_kwargs", {**OPTIONS, "order": 3}),
        ("resampling_fn_probabilities_kwargs", {}),
    ],
)
def test_what_is_not_known_is_not_exported(setting: str, value: Any) -> None:
    case = Case("volume")
    case.configuration.configuration[setting] = value
    assert Export.of(case.predictor) is None and Preprocessing.of(case.predictor) is not None


def test_other_label_handling_is_not_exported() -> None:
    case = Case("volume")
    case.predictor.label_manager.inference_nonlin = torch.sigmoid
    assert Export.of(case.predictor) is None
    case = Case("volume")
    case.predictor.label_manager = type("Other", (type(case.predictor.label_manager),), {})(LABELS, None)
    assert Export.of(case.predictor) is None


@pytest.mark.parametrize("value", [-1.0, 256.0])
def test_colours_out_of_range_are_refused_as_by_nnunet(value: float) -> None:
    case = Case("colour")
    image = torch.from_numpy(case.image())
    image[1, 0, 20, 20] = value
    preprocessing = Preprocessing.of(case.predictor)
    assert preprocessing is not None
    with pytest.raises(AssertionError, match="RGB images"):
        preprocessing(image, case.properties)


@pytest.mark.parametrize("shape", [(7, 12, 13), (1, 20, 20), (5, 1, 9)])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 1.0])
def test_holes_are_filled_as_by_scipy(shape: tuple[int, ...], share: float) -> None:
    for seed in range(20):
        mask = np.random.default_rng(seed).random(shape) < share
        found = filled(torch.from_numpy(mask.copy())).numpy()
        assert np.array_equal(found, ndimage.binary_fill_holes(mask))


def test_a_winding_passage_is_no_hole() -> None:
    # a spiral: its inside is reached from the border after many turns
    mask = np.ones((1, 41, 41), bool)
    y, x = 0, 1
    for step, length in enumerate([39, 38, 38, 36, 36, 34, 34, 32, 32, 30, 30, 28]):
        dy, dx = ((1, 0), (0, 1), (-1, 0), (0, -1))[step % 4]
        for _ in range(length):
            mask[0, y, x] = False
            y, x = y + dy, x + dx
    volume = np.concatenate([np.ones_like(mask), mask, np.ones_like(mask)])
    assert np.array_equal(filled(torch.from_numpy(volume)).numpy(), ndimage.binary_fill_holes(volume))
    assert not filled(torch.from_numpy(volume)).all()


SIZES = {"finer": ((5, 9, 8), (12, 21, 17)), "coarser": ((12, 21, 17), (5, 9, 8)), "half": ((12, 20, 16), (6, 10, 8))}


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("spacings", [((1, 1, 1), (1, 1, 1)), ((5, 1, 1), (4, 1, 1)), ((1, 5, 1), (1, 4, 1))])
@pytest.mark.parametrize("sizes", SIZES)
def test_images_are_clipped_as_by_nnunet(sizes: str, spacings: Any, order: int) -> None:
    shape, new_shape = SIZES[sizes]
    options = {**OPTIONS, "order": order}
    image = np.random.default_rng(0).normal(size=(2, *shape)).clip(-0.5, 0.5).astype(np.float32)
    wanted = resample_data_or_seg_to_shape(image, new_shape, *spacings, **options)
    found = Resampling(shape, new_shape, *spacings, options)(torch.from_numpy(image))
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=0, atol=1e-5)


@pytest.mark.parametrize("order_z", [0, 1])
@pytest.mark.parametrize("spacings", [((1, 1, 1), (1, 1, 1)), ((5, 1, 1), (4, 1, 1)), ((1, 5, 1), (1, 4, 1))])
@pytest.mark.parametrize("sizes", SIZES)
def test_logits_are_interpolated_as_by_nnunet(sizes: str, spacings: Any, order_z: int) -> None:
    shape, new_shape = SIZES[sizes]
    options = {**OPTIONS, "order": 1, "order_z": order_z}
    logits = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    wanted = resample_data_or_seg_to_shape(logits, new_shape, *spacings, **options)
    interpolation = Interpolation(shape, new_shape, *spacings, options, torch.device("cpu"))
    found = torch.zeros(wanted.shape)
    for where, slab in interpolation.slabs(torch.from_numpy(logits), 500):
        found[:, where] = slab
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=0, atol=1e-5)


def test_gradients_pass_through_preprocessing() -> None:
    case = Case("masked")
    preprocessing = Preprocessing.of(case.predictor)
    assert preprocessing is not None
    image = torch.from_numpy(case.image()).requires_grad_()
    data, _ = preprocessing(image, case.properties)
    weights = torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((data * weights).sum(), image)
    assert gradient.isfinite().all()
    moved = (image > 95) & (image < 195)
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)) * moved
    ahead, behind = (
        float((preprocessing((image + sign * 0.05 * direction).detach(), case.properties)[0] * weights).double().sum())
        for sign in (1, -1)
    )
    assert float((gradient * direction).double().sum()) == pytest.approx((ahead - behind) / 0.1, rel=0.01)


@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (2.1, 0.8, 0.7), (3.0, 1.3, 1.2)])
def test_a_trained_volume_model_is_nnunets(
    volumes: str, volume_model: str, spacing: tuple[float, ...], border: int
) -> None:
    exact = loaded(volumes, volume_model, "3d_fullres")
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(2, 14, 40, 44)), (0, 1, 2, 2)) * 300 + [[[[100]]], [[[-700]]]]
    image = np.pad(image, [(0, 0), (0, 0), (border, 0), (0, border)]).astype(np.float32)
    agree(exact, image, {"spacing": spacing})


def test_a_trained_2d_model_is_nnunets(textures: str, texture_models: tuple[str, str]) -> None:
    exact = loaded(textures, texture_models[0], "2d")
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(1, 1, 90, 110)), (0, 0, 2, 2)) * 200 + 128
    agree(exact, image.clip(0, 255).astype(np.float32), {"spacing": [999.0, 1.0, 1.0]})


def loaded(dataset: str, trainer: str, configuration: str) -> Model:
    folder = Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__nnUNetPlans__{configuration}"
    return load_model(folder, ["0"], "checkpoint_final.pth", torch.device("cpu"), False, None)


def agree(exact: Model, image: np.ndarray, properties: dict[str, Any]) -> None:
    """From the image to labels and probabilities, both ways, through the same network."""
    fast = exact.with_precision("fast")
    assert fast.with_precision("fast") is fast and fast.preprocessing == exact.preprocessing
    window = SlidingWindow.from_predictor(exact.predictor)
    labels, probabilities = [], []
    for model in (exact, fast):
        before = image.copy()
        data, found = model.preprocess(image if model is exact else torch.from_numpy(image), properties)
        assert np.array_equal(image, before)
        logits = window.logits(data).float()
        labels.append(model.export(logits, found))
        probabilities.append(model.probabilities(logits, found))
    assert labels[0].shape == labels[1].shape == image.shape[1:] and labels[0].dtype == labels[1].dtype
    assert len(np.unique(labels[0])) > 1 and (labels[0] == labels[1]).mean() >= 0.999
    np.testing.assert_allclose(*probabilities, atol=0.01)


def test_what_plans_ask_for_beyond_what_is_known_is_nnunets_own(
    volumes: str, volume_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = loaded(volumes, volume_model, "3d_fullres")
    settings = exact.predictor.configuration_manager.configuration
    monkeypatch.setitem(settings, "resampling_fn_data_kwargs", {**OPTIONS, "separate_z_anisotropy_threshold": 3})
    monkeypatch.setitem(settings, "resampling_fn_probabilities_kwargs", {**OPTIONS, "order": 2})
    fast = exact.with_precision("fast")
    image = np.random.default_rng(0).normal(size=(2, 9, 30, 31)).astype(np.float32)
    (data, found), (other, _) = (model.preprocess(image, {"spacing": (2.1, 0.8, 0.7)}) for model in (exact, fast))
    assert torch.equal(data, other)
    logits = torch.randn(3, *data.shape[1:], generator=torch.Generator().manual_seed(0))
    assert np.array_equal(exact.export(logits, found), fast.export(logits, found))
    assert np.array_equal(exact.probabilities(logits, found), fast.probabilities(logits, found))


def test_threads_do_not_change_a_bit() -> None:
    case = Case("masked")
    preprocessing, export = Preprocessing.of(case.predictor), Export.of(case.predictor)
    assert preprocessing is not None and export is not None
    found, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            data, properties = preprocessing(torch.from_numpy(case.image()), case.properties)
            probabilities = export.probabilities(case.logits(tuple(data.shape[1:])), properties)
            found.append((data.numpy().tobytes(), probabilities.tobytes()))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1]
