"""The small datasets and models of `gpu_check.py`: made here, planned by nnU-Net, trained a few iterations."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_robust.dataset_conversion.textures import TextureParameters, synthesize_textures
from nnunet_robust.dataset_conversion.writer import Case, write_dataset
from tests.conftest import pools_of_threads, preprocess


@dataclass(frozen=True)
class Data:
    """A dataset with one trained model.

    Attributes:
        number: of the dataset.
        name: of the dataset, without its number.
        configuration: of nnU-Net's.
        ending: of its files.
        shape: of a test image; of a training image; each (z, y, x).
        spacing_mm: of a test image; of a training image. Where they differ, test images are resampled.
        tests: number of test images.
        trainer: that the model is trained with.
    """

    number: int
    name: str
    configuration: str
    ending: str
    shape: tuple[tuple[int, ...], tuple[int, ...]]
    spacing_mm: tuple[tuple[float, ...], tuple[float, ...]]
    tests: int
    trainer: str

    @property
    def dataset(self) -> str:
        """The folder's name."""
        return f"Dataset{self.number:03d}_{self.name}"

    @property
    def model(self) -> Path:
        """The trained model's folder."""
        results = Path(os.environ["nnUNet_results"])  # noqa: SIM112 - nnU-Net's own name
        return results / self.dataset / f"{self.trainer}__nnUNetPlans__{self.configuration}"

    @property
    def images(self) -> Path:
        """The test images' folder."""
        return Path(os.environ["nnUNet_raw"]) / self.dataset / "imagesTs"  # noqa: SIM112

    @property
    def labels(self) -> Path:
        """The test labels' folder."""
        return self.images.parent / "labelsTs"


def data_of(kind: str, quick: bool) -> Data:
    """The data of a kind: "2d" (128 x 128), "3d" (like a hippocampus) or "ct" (134 x 512 x 512 after resampling)."""
    ones = ((1.0, 1.0, 1.0),) * 2
    trainer = f"nnUNetTrainer_bs2_1epochs_{2 if quick else 20}iters_seed1"
    if kind == "2d":
        flat = ((1, 128, 128),) * 2
        return Data(801, "Textures", "2d", ".png", flat, ones, 3 if quick else 20, trainer)
    if kind == "3d":
        small = ((20, 32, 32) if quick else (36, 50, 35),) * 2
        return Data(802, "Hippocampus", "3d_fullres", ".nii.gz", small, ones, 2 if quick else 16, trainer)
    shapes = ((12, 48, 48), (16, 40, 40)) if quick else ((67, 512, 512), (64, 192, 192))
    spacings = ((5.0, 0.8, 0.8), (2.5, 0.8, 0.8))
    return Data(803, "CT", "3d_fullres", ".nii.gz", shapes, spacings, 1, trainer)


def make(data: Data, device: str) -> None:
    """Make the dataset and train its model, unless that is done."""
    if (data.model / "fold_0" / "checkpoint_final.pth").is_file():
        return
    raw = Path(os.environ["nnUNet_raw"])  # noqa: SIM112
    if not (raw / data.dataset / "dataset.json").is_file():
        if data.configuration == "2d":
            parameters = TextureParameters(cases=5, test_cases=data.tests, size=data.shape[0][-1])
            synthesize_textures(raw, data.number, parameters, data.name)
        else:
            _volumes(raw, data)
    preprocess(data.number, data.configuration)
    train(data, data.trainer, device)


def _volumes(raw: Path, data: Data) -> None:
    def case(name: str, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Case:
        rng = np.random.default_rng(sum(map(ord, name)))
        extent = np.array(shape) * spacing_mm
        grid = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing_mm, strict=True)], indexing="ij")
        label = np.zeros(shape, np.uint8)
        for value in (1, 2, 3):  # spheres, a later one over an earlier one
            centre = extent * rng.uniform(0.3, 0.7, 3)
            inside = sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True))
            label[inside < (extent.min() * (0.35 - 0.08 * value)) ** 2] = value
        image = 60.0 * label - 100 + rng.normal(0, 30, shape)
        return Case(name, [image.astype(np.float32)], label, spacing_mm=spacing_mm)

    (of_test, of_training), (spacing_of_test, spacing) = data.shape, data.spacing_mm
    write_dataset(
        raw, data.number, data.name,
        [case(f"train_{number}", of_training, spacing) for number in range(5)],
        [case(f"test_{number}", of_test, spacing_of_test) for number in range(data.tests)],
        channel_names={0: "CT" if data.number == 803 else "MRI"},
        labels={"background": 0, "large": 1, "middle": 2, "small": 3},
        file_ending=data.ending, provenance={"source": "benchmarks/gpu_data.py"},
    )  # fmt: skip


def train(data: Data, trainer: str, device: str) -> Path:
    """Train fold 0 without its validation; returns the model's folder."""
    from nnunetv2.run.run_training import run_training
    from nnunetv2.training.logging.nnunet_logger import MetaLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "0")
        pools_of_threads(patch)
        patch.setattr(MetaLogger, "plot_progress_png", lambda *_, **__: None)
        patch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_, **__: None)
        run_training(data.dataset, data.configuration, "0", trainer, device=torch.device(device))
    return data.model.with_name(f"{trainer}__nnUNetPlans__{data.configuration}")
