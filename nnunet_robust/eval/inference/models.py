"""Trained nnU-Net models, ours or not: loaded once; in memory what `nnUNetv2_predict` does from files."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.memory import require_memory
from nnunet_robust.eval.images.cases import CaseFiles, LoadedCase, label_names, load_case
from nnunet_robust.eval.images.image_files import channel_count
from nnunet_robust.eval.images.regions import Background, channel_names, is_colour
from nnunet_robust.eval.inference.device_memory import to_host
from nnunet_robust.eval.inference.on_device import Export, Preprocessing
from nnunet_robust.eval.results.tables import arm_key
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout
from nnunet_robust.trainers.plans import format_size, nearest_patch_sizes, total_stride

# The entries of a configuration that nnU-Net's DefaultPreprocessor goes by.
_PREPROCESSING = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)


class ImageFilter(Protocol):
    """What raw images go through before nnU-Net's preprocessing. Threads may use it at once."""

    @property
    def label(self) -> str:
        """What is added to the name of a model."""

    @property
    def threshold(self) -> float | None:
        """The noise above which it does something to an image; filters that agree in it do the same."""

    def __call__(self, image: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
        """The image (C, *spatial), filtered or itself; not modified."""

    def matches(self, described: Mapping[str, Any]) -> bool:
        """Whether it does to images what the one that a manifest describes did."""

    def described(self) -> dict[str, Any]:
        """What a manifest says of it."""


@dataclass(eq=False)
class TrainedNetwork:
    """What nnU-Net's predictor knows of a trained model, under the same names; importing that one takes seconds.

    Attributes:
        network: with the weights of the first fold.
        list_of_parameters: the weights of each fold.
        plans_manager: nnU-Net's, of the model's plans.
        configuration_manager: of its configuration.
        dataset_json: of the dataset that it was trained on.
        trainer_name: of its trainer.
        allowed_mirroring_axes: spatial axes (from 0) that it was mirrored along in training; None: none.
        use_mirroring: whether predictions are averaged over mirrored copies.
        device: where it predicts.
        tile_step_size: step between tiles as a fraction of the patch.
    """

    network: nn.Module
    list_of_parameters: Sequence[Mapping[str, Any]]
    plans_manager: PlansManager
    configuration_manager: ConfigurationManager
    dataset_json: dict[str, Any]
    trainer_name: str
    allowed_mirroring_axes: Sequence[int] | None
    use_mirroring: bool
    device: torch.device
    tile_step_size: float = 0.5

    @cached_property
    def label_manager(self) -> LabelManager:
        """nnU-Net's, of the dataset's labels."""
        return self.plans_manager.get_label_manager(self.dataset_json)


@dataclass(frozen=True)
class Model:
    """A trained model, ready to predict.

    Attributes:
        trainer: its trainer's name, with `@<dataset>` behind it where it was trained on another dataset than it is
            tested on, and `+denoise` before that where its images are denoised: the label in tables and plots.
        plans: name of its plans.
        configuration: 2d, 3d_fullres, ...
        fold: its folds, e.g. "0" or "0+1+2" (their logits are averaged).
        folder: where it was loaded from.
        checkpoints: SHA-256 of each fold's checkpoint.
        patch_size: voxels per axis that it was trained on.
        predictor: its networks and plans; the configuration's patch size is that of the tiles.
        denoiser: what the raw images go through first; None leaves them as they are.
        plain: of a model with a denoiser, the same without.
        epochs: how many epochs each fold's checkpoint has behind it, where it says so.
        precision: exact or fast: what `preprocess`, `export` and `probabilities` are computed by.
    """

    trainer: str
    plans: str
    configuration: str
    fold: str
    folder: Path
    checkpoints: dict[str, str]
    patch_size: tuple[int, ...]
    predictor: TrainedNetwork
    denoiser: ImageFilter | None = None
    plain: Model | None = None
    epochs: Mapping[str, int] = field(default_factory=dict)
    precision: str = "exact"

    @property
    def tile_size(self) -> tuple[int, ...]:
        """The number of voxels per axis of the sliding window."""
        return tuple(int(n) for n in self.predictor.configuration_manager.patch_size)

    @property
    def arm(self) -> dict[str, str]:
        """The columns `tables.ARM`, which tell it from the other models of a sweep."""
        return {
            "model": self.trainer,
            "plans": self.plans,
            "configuration": self.configuration,
            "fold": self.fold,
            "patch_size": format_size(self.patch_size),
            "tile_size": format_size(self.tile_size),
        }

    @property
    def key(self) -> str:
        """A name for files, unique within a sweep."""
        return arm_key(**self.arm)

    def with_tile_size(self, text: str) -> Model:
        """Put the same weights under another sliding window; nothing is loaded again.

        Args:
            text: voxels per axis, as in "64" (every axis) or "32x64x64".

        Raises:
            UserError: not such a size, another number of axes, or one that the network cannot take.
        """
        if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", text):
            raise UserError(f"--tile-size {text}: give voxels, for every axis alike (64) or for each (32x64x64)")
        axes = len(self.patch_size)
        tile_size = tuple(map(int, text.split("x")))
        if len(tile_size) not in (1, axes):
            raise UserError(
                f"--tile-size {text} has {len(tile_size)} axes, {self.trainer} has {axes}: give 1 or {axes}"
            )
        if len(tile_size) == 1:
            tile_size *= axes
        if tile_size == self.patch_size:
            return self
        self._check_tile_size(tile_size)
        floats = math.prod(tile_size) * (self.channels + len(self.predictor.dataset_json["labels"]))
        require_memory(f"--tile-size {text}", 4 * floats, "take smaller tiles")
        predictor = copy.copy(self.predictor)
        predictor.configuration_manager = copy.copy(self.predictor.configuration_manager)
        predictor.configuration_manager.configuration = {
            **self.predictor.configuration_manager.configuration,
            "patch_size": list(tile_size),
        }
        return replace(self, predictor=predictor)

    def _check_tile_size(self, tile_size: tuple[int, ...]) -> None:
        configuration = self.predictor.configuration_manager
        network = getattr(self.predictor.network, "_orig_mod", self.predictor.network)  # as torch.compile wraps it
        if type(network).__name__ != configuration.network_arch_class_name.split(".")[-1]:
            raise UserError(
                f"--tile-size {format_size(tile_size)}: {self.trainer} brings a network of its own "
                f"({type(network).__name__}) and takes no other tiles than those of its training, "
                f"{format_size(self.patch_size)}: give that size, or sweep it without --tile-size"
            )
        divisor = total_stride(configuration.network_arch_init_kwargs["strides"], len(tile_size))
        nearest = nearest_patch_sizes(tile_size, divisor)
        if tile_size not in nearest:
            raise UserError(
                f"--tile-size {format_size(tile_size)} does not fit {self.trainer}: each axis must be a multiple of "
                f"{format_size(divisor)}, with more than one voxel left at the bottleneck; the nearest that work are "
                f"{' or '.join(map(format_size, nearest))}"
            )

    @cached_property
    def preprocessing(self) -> str:
        """What decides how images are preprocessed: models that agree in it can share a preprocessed image."""
        plans, configuration = self.predictor.plans_manager, self.predictor.configuration_manager
        settings: dict[str, Any] = {
            "transpose_forward": plans.transpose_forward,
            "intensities": plans.foreground_intensity_properties_per_channel,
            "configuration": {k: v for k, v in configuration.configuration.items() if k in _PREPROCESSING},
        }
        if configuration.preprocessor_class is not DefaultPreprocessor:  # whatever it may look at
            settings = {"plans": plans.plans, "configuration": configuration.configuration}
        if self.denoiser is not None:
            settings["denoised_above"] = self.denoiser.threshold
        return json.dumps(settings, sort_keys=True, default=str)

    def with_precision(self, precision: str) -> Model:
        """Have the same model preprocess and export in this precision; nothing is loaded again.

        Args:
            precision: exact is nnU-Net's own code, on the CPU; fast is `on_device`, where the plans ask for nothing
                that is not known there.
        """
        return self if precision == self.precision else replace(self, precision=precision)

    def preprocess(
        self, image: np.ndarray | torch.Tensor, properties: Mapping[str, Any]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Preprocess one image as nnU-Net does, after denoising it if the model has a denoiser.

        Several threads may do so at once.

        Args:
            image: (C, *spatial), raw intensities as nnU-Net's reader gives them; a tensor on any device; not modified.
            properties: what the reader gave beside it (spacing and what the format needs); not modified.

        Returns:
            float32 (C, *spatial), cropped, normalised and resampled, on the networks' device for `fast`, else on the
            CPU; and the properties that `export` needs.
        """
        predictor = self.predictor
        if self.denoiser is not None:
            image = self.denoiser(_on_cpu(image), [float(s) for s in properties["spacing"]])
        if self._fast_preprocessing is not None:
            return self._fast_preprocessing(torch.as_tensor(image).to(predictor.device), properties)
        data, _, found = self._preprocessor.run_case_npy(
            _on_cpu(image),
            None,
            dict(properties),
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.dataset_json,
        )
        return torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format), found

    def export(self, logits: torch.Tensor, properties: Mapping[str, Any]) -> np.ndarray:
        """Turn logits into labels, by nnU-Net's resampling and label handling. Several threads may do so at once.

        Args:
            logits: (heads, *spatial) of the preprocessed image, on any device.
            properties: from `preprocess`.

        Returns:
            Labels (*spatial), on the image's own grid; what `nnUNetv2_predict` writes for such an image.
        """
        if self._fast_export is not None:
            return self._fast_export.labels(logits, properties)
        predictor = self.predictor
        labels: np.ndarray = convert_predicted_logits_to_segmentation_with_correct_shape(
            to_host(logits).numpy(), predictor.plans_manager, self._resampling, predictor.label_manager, properties,
            num_threads_torch=torch.get_num_threads(),
        )  # fmt: skip
        return labels

    def probabilities(self, logits: torch.Tensor, properties: Mapping[str, Any]) -> np.ndarray:
        """Turn logits into probabilities, as `nnUNetv2_predict --save_probabilities` does.

        Several threads may do so at once.

        Args:
            logits: (heads, *spatial) of the preprocessed image, on any device.
            properties: from `preprocess`.

        Returns:
            float32 (heads, *spatial), on the image's own grid.
        """
        if self._fast_export is not None:
            return self._fast_export.probabilities(logits, properties)
        predictor = self.predictor
        _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            to_host(logits).numpy(), predictor.plans_manager, self._resampling, predictor.label_manager, properties,
            return_probabilities=True, num_threads_torch=torch.get_num_threads(),
        )  # fmt: skip
        found: np.ndarray = probabilities
        return found

    def read(self, case: CaseFiles) -> LoadedCase:
        """Read a case through nnU-Net's reader for the dataset, and check it.

        Raises:
            UserError: see `load_case`.
        """
        return load_case(case, self.reader, self.channels, self.label_names)

    @cached_property
    def reader(self) -> BaseReaderWriter:
        """nnU-Net's reader and writer of the dataset's format."""
        return self.predictor.plans_manager.image_reader_writer_class()

    @property
    def channels(self) -> int:
        """The number of channels that it takes."""
        return channel_count(self.predictor.dataset_json)

    @property
    def colour(self) -> bool:
        """Whether its three channels are red, green and blue."""
        return is_colour(channel_names(self.predictor.dataset_json))

    def background(self, mode: str) -> Background:
        """What becomes of the background of its images, by its plans and its channels' names.

        Args:
            mode: of `regions.BACKGROUNDS`.
        """
        masks = self.predictor.configuration_manager.use_mask_for_norm
        return Background.of(mode, channel_names(self.predictor.dataset_json), masks)

    @property
    def ignore_label(self) -> int | None:
        """The label of voxels that do not count."""
        return self.predictor.label_manager.ignore_label

    @property
    def label_names(self) -> dict[int, str]:
        """Each label value of `dataset.json`, with the first name that has it."""
        return label_names(self.predictor.dataset_json)

    @property
    def regions(self) -> dict[str, int | tuple[int, ...]]:
        """The foreground labels and regions by name, as `dataset.json` has them."""
        labels = self.predictor.dataset_json["labels"]
        regions = {name: tuple(v) if isinstance(v, (list, tuple)) else int(v) for name, v in labels.items()}
        return {name: value for name, value in regions.items() if name != "ignore" and value not in (0, (0,))}

    @cached_property
    def label_layout(self) -> LabelLayout:
        """What the channels of its output stand for."""
        manager = self.predictor.label_manager
        return LabelLayout(self.regions, tuple(manager.regions_class_order) if manager.has_regions else None)

    @cached_property
    def _fast_preprocessing(self) -> Preprocessing | None:
        return Preprocessing.of(self.predictor) if self.precision == "fast" else None

    @cached_property
    def _fast_export(self) -> Export | None:
        return Export.of(self.predictor) if self.precision == "fast" else None

    @cached_property
    def _preprocessor(self) -> DefaultPreprocessor:
        return self.predictor.configuration_manager.preprocessor_class(verbose=False)

    @cached_property
    def _resampling(self) -> SimpleNamespace:
        # What nnU-Net's export looks at. Its own manager looks the function up again whenever models alternate.
        configuration = self.predictor.configuration_manager
        return SimpleNamespace(
            spacing=configuration.spacing, resampling_fn_probabilities=configuration.resampling_fn_probabilities
        )


def _on_cpu(image: np.ndarray | torch.Tensor) -> np.ndarray:
    return image.cpu().numpy() if isinstance(image, torch.Tensor) else image
