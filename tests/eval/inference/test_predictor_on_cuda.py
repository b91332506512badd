"""One model with its members on a pretend CUDA device: what `calibrate`, `apply`, `qa` and `monitor` predict with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_robust.eval.images.cases import cases_of_dataset
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.predictor import Predictor
from tests.conftest import train
from tests.pretend_cuda import Tally


@pytest.mark.parametrize("way", ["exact", "fast"])
def test_a_prediction_with_members_is_the_cpus(
    way: str, textures: str, texture_models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, cuda: Tally
) -> None:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.001)
    folder = train(textures, "2d", texture_models[0])
    found = {}
    for device in ("cuda", "cpu"):
        model = load_model(folder, ["0"], "checkpoint_final.pth", torch.device(device), True, None)
        case = model.read(cases_of_dataset(textures, "0", ".png", model.channels)[0])
        predictor = Predictor(model, ("mirroring",), way if device == "cuda" else "exact")
        found[device] = predictor.predict(case.image, case.properties)
    there, here = found["cuda"], found["cpu"]
    assert (there.segmentation == here.segmentation).mean() >= 0.999 and here.segmentation.any()
    np.testing.assert_allclose(there.maps.mean, here.maps.mean, atol=0.01)
    for structure in here.label_layout.structures:
        assert there.predicted_dice(structure) == pytest.approx(here.predicted_dice(structure), abs=0.005)
    assert cuda.count("to_device") > 0
