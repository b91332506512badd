"""A case with a background: what a sweep does to its image, and says of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from scipy import ndimage

from nnunet_robust.eval.images.cases import CaseFiles, LoadedCase
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.sweep.cases import read_once
from nnunet_robust.eval.sweep.scene import Scene
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout

SHAPE = (1, 96, 96)
RADIUS = np.hypot(*(np.mgrid[:96, :96] - 47.0))[None]


def brain() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPE), (0, 2, 2))
    image = 400 + 90 * smooth / smooth.std() + rng.normal(0, 10, SHAPE)
    return np.where(RADIUS < 30, image.clip(1), 0)[None].astype(np.float32)


def model_that_reads(image: np.ndarray) -> Any:
    label = (RADIUS < 10).astype(np.int32)
    loaded = LoadedCase(image, {"spacing": [999.0, 1.0, 1.0]}, (), label, {})
    return SimpleNamespace(
        read=lambda files: loaded, ignore_label=None, label_names={0: "background", 1: "disc"}, colour=False,
        label_layout=LabelLayout({"disc": 1}, None), regions={"disc": 1},
    )  # fmt: skip


def scene(image: np.ndarray, background: Background) -> Scene:
    return Scene(CaseFiles("a", "a", (Path("a.png"),), Path("a.png")), model_that_reads(image), 2.0, background)


@pytest.mark.parametrize(
    ("name", "level"),
    [("gaussian_noise", 0.02), ("gaussian_blur", 2), ("bias_field", 0.2), ("random_linf", 0.02), ("cutout", 0.1)],
)
def test_the_background_stays_and_is_not_measured(name: str, level: float) -> None:
    image, condition = brain(), Condition(name, level, 0)
    kept, everywhere = (scene(image, Background(mode)) for mode in ("auto", "perturb"))
    assert kept.region is not None and np.array_equal(kept.region, RADIUS < 30) and everywhere.region is None
    inside = kept.image(condition, 0, as_it_is=False)
    assert not inside[:, ~torch.from_numpy(kept.region)].any()
    assert crop_to_nonzero(inside.numpy())[2] == crop_to_nonzero(image)[2]
    other = np.where(kept.region, image, 7.0).astype(np.float32)
    flat = scene(other, Background("keep"))
    assert flat.region is None  # nothing is zero there
    found, with_zeros = kept.measured(inside, in_series=False), everywhere.measured(inside, in_series=False)
    assert found["psnr_db"] < with_zeros["psnr_db"]  # zeros that do not change dilute it
    assert float(found["texture_divergence_bits"]) < float(with_zeros["texture_divergence_bits"])


def test_the_clean_image_is_the_same_bytes_either_way() -> None:
    image = brain()
    for mode in ("auto", "keep", "perturb"):
        of = scene(image, Background(mode))
        clean = of.image(Condition.clean(), 0, as_it_is=True)
        assert clean.numpy().tobytes() == image.tobytes()
        assert of.image(Condition("gaussian_noise", 0.0, 0), 0, as_it_is=False).numpy().tobytes() == image.tobytes()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_budget_is_spent_in_the_region(norm: str) -> None:
    of = scene(brain(), Background("auto"))
    spent = of.spent(of.image(Condition(f"random_{norm}", 0.005, 0), 0, as_it_is=False))
    assert spent[norm] == pytest.approx(0.005, rel=0.05)  # less what is clipped


def test_guessed_padding_is_a_doubt_of_the_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = brain()
    image[..., :20] = -3024
    model = model_that_reads(image)
    path = tmp_path / "a_0000.png"
    sitk.WriteImage(sitk.GetImageFromArray(image[0, 0].astype(np.uint8)), str(path))
    files = CaseFiles("a", "a", (path,), path)
    (note,) = read_once(files, model, Background("auto", (False,)))
    assert note.startswith("-3024 lies far below all other values, and is taken for padding (a guess: ")
    assert capsys.readouterr().err == f"warning: case 'a': {note}\n"
    assert read_once(files, model, Background("auto", (True,))) == ()
    assert read_once(files, model, Background("perturb", (False,))) == ()
