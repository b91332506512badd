"""The chain from raw to preprocessed images: forwards as nnU-Net's, backwards as finite differences have it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.chain import Chain
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.models import Model

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def load(dataset: str, trainer: str, configuration: str, mirroring: bool = True) -> Model:
    folder = Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__nnUNetPlans__{configuration}"
    return load_model(folder, ["0"], "checkpoint_final.pth", CPU, mirroring, None)


@pytest.fixture(scope="module")
def volume(volumes: str, volume_model: str) -> Model:
    return load(volumes, volume_model, "3d_fullres")


def case(spacing: tuple[float, ...], border: int = 0, seed: int = 0) -> tuple[torch.Tensor, np.ndarray, dict[str, Any]]:
    """Smooth channels like those of the volumes, and a label; with a border of zeros that is cropped away."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[:14, :30, :34]
    ball = np.exp(-((z - 7) ** 2 / 20 + (y - 14) ** 2 / 60 + (x - 18) ** 2 / 60))
    image = np.stack([100 + 60 * ball, -700 + 400 * ball]) + rng.normal(0, 4, (2, 14, 30, 34))
    label = (ball > 0.4).astype(np.uint8) + (ball > 0.7)
    if border:
        image = np.pad(image, [(0, 0), (0, 0), (border, border + 1), (border, 0)])
        label = np.pad(label, [(0, 0), (border, border + 1), (border, 0)])
    return torch.from_numpy(image).float(), label, {"spacing": spacing}


SPACINGS = {"of the plans": (3.0, 1.0, 1.0), "finer": (2.1, 0.8, 0.7), "coarser": (3.0, 1.3, 1.2)}


@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
def test_forwards_it_is_nnunets(volume: Model, spacing: tuple[float, ...], border: int) -> None:
    image, label, properties = case(spacing, border)
    prepared = Chain(volume, label, properties, CPU).forward(image)
    wanted, found = volume.preprocess(image.numpy(), properties)
    torch.testing.assert_close(prepared.data, wanted, rtol=0, atol=2e-5)
    assert prepared.target.labels.shape == wanted.shape[1:]
    assert set(prepared.target.labels.unique().tolist()) == {0, 1, 2}
    if spacing == SPACINGS["of the plans"]:
        inside = tuple(slice(*bounds) for bounds in found["bbox_used_for_cropping"])
        assert np.array_equal(prepared.target.labels.numpy(), label[inside])


@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
def test_backwards_it_is_the_derivative(volume: Model, spacing: tuple[float, ...], border: int) -> None:
    image, label, properties = case(spacing, border)
    chain = Chain(volume, label, properties, CPU)
    prepared = chain.forward(image)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(prepared.data.shape, generator=generator)
    found = prepared.back(gradient)
    assert found.shape == image.shape and found.dtype == torch.float32
    assert not found[:, (image == 0).all(0)].any()  # what is cropped away
    moves = image != 0  # the extremes, which clip, among them; the steepest way up, and another
    for direction in (found * moves, (found + found.norm() / image.norm() * image) * moves):
        step = 0.5 / float(direction.abs().max())
        ahead, behind = (
            float((gradient * chain.forward(image + sign * step * direction).data).sum(dtype=torch.float64))
            for sign in (1, -1)
        )
        got, wanted = float((found * direction).sum(dtype=torch.float64)), (ahead - behind) / (2 * step)
        assert got == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("normalization_schemes", ["ZScoreNormalization", "Mine"], "has Mine: leave it out"),
        ("resampling_fn_data", "resample_torch_fornnunet", "has resample_torch_fornnunet with .*: leave it out"),
        (
            "resampling_fn_data_kwargs",
            {"order": 0},
            "has resample_data_or_seg_to_shape with {'order': 0}: leave it out",
        ),
    ],
)
def test_what_is_not_known_is_told(
    volume: Model, monkeypatch: pytest.MonkeyPatch, setting: str, value: Any, message: str
) -> None:
    _, label, properties = case((3.0, 1.0, 1.0))
    monkeypatch.setitem(volume.predictor.configuration_manager.configuration, setting, value)
    with pytest.raises(UserError, match=message):
        Chain(volume, label, properties, CPU)
