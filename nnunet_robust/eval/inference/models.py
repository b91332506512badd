"""Trained nnU-Net models, ours or not: loaded once; in memory what `nnUNetv2_predict` does from files."""

from __future__ import annotations

import copy
import inspect
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
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_robust import hook
from nnunet_robust.common.console import quiet
from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.faults import is_memory
from nnunet_robust.common.memory import require_memory
from nnunet_robust.common.nnunet_files import read_dataset_json, read_plans_json
from nnunet_robust.eval.images.cases import CaseFiles, LoadedCase, label_names, load_case
from nnunet_robust.eval.images.image_files import channel_count
from nnunet_robust.eval.images.regions import Background, channel_names, is_colour
from nnunet_robust.eval.inference.on_device import Export, Preprocessing
from nnunet_robust.eval.inference.trust import load_checkpoint
from nnunet_robust.eval.results.tables import arm_key
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout
from nnunet_robust.trainers.plan_names import check_dataset, check_plans
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

_OF_CHECKPOINT = (
    "network_weights",
    "trainer_name",
    "init_args",
    "inference_allowed_mirroring_axes",
    "current_epoch",
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
        predictor: nnU-Net's predictor, initialised; its configuration's patch size is that of the tiles.
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
    predictor: nnUNetPredictor
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
            logits.cpu().numpy(), predictor.plans_manager, self._resampling, predictor.label_manager, properties,
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
            logits.cpu().numpy(), predictor.plans_manager, self._resampling, predictor.label_manager, properties,
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


def load_model(
    folder: Path,
    folds: Sequence[str] | None,
    checkpoint: str,
    device: torch.device,
    mirroring: bool,
    dataset: str | None,
    trusted: bool = False,
) -> Model:
    """Load a trained model folder (`<trainer>__<plans>__<configuration>`).

    Args:
        folder: the model's folder, with `plans.json`, `dataset.json` and `fold_*`.
        folds: the folds to average; None takes all that have the checkpoint.
        checkpoint: file name of the checkpoint, e.g. `checkpoint_final.pth`.
        device: where to predict.
        mirroring: whether to average over mirrored images, as nnU-Net does by default.
        dataset: name of the dataset that it is tested on; None for its own.
        trusted: load whatever its checkpoints hold and its plans name, which may run code.

    Raises:
        UserError: a file is missing or unreadable, holds what could run code, the trainer is not found, or it needs a
            previous stage's output.
    """
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a trained nnU-Net model: it has no {name}")
    trained = sorted(path.parent.name[5:] for path in folder.glob(f"fold_*/{checkpoint}"))
    if twice := [fold for at, fold in enumerate(folds or ()) if fold in (folds or ())[:at]]:
        raise UserError(f"-f {' '.join(folds or ())}: fold {twice[0]} is named twice: name it once")
    missing = [fold for fold in folds or () if fold not in trained]
    if missing or not trained:
        raise UserError(
            f"no checkpoint {checkpoint} of fold {', '.join(missing) or 'any'} in {folder}: "
            f"folds that have it: {', '.join(trained) or 'none'}"
        )
    # `all` was trained on every case: nnU-Net leaves it out too unless it is asked for
    used = list(folds or [fold for fold in trained if fold != "all"] or trained)

    hook.activate()
    try:
        with quiet():
            stored = {fold: _stored(folder / f"fold_{fold}" / checkpoint, trusted) for fold in used}
            predictor = nnUNetPredictor(use_mirroring=mirroring, device=device, allow_tqdm=False)
            _initialise(predictor, folder, list(stored.values()), trusted)
    except (OSError, UserError):
        raise
    except Exception as error:
        if is_memory(error):
            raise
        raise UserError(f"the model in {folder} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error
    label_names(predictor.dataset_json)  # whose names tables and figures can write
    if predictor.configuration_manager.previous_stage_name is not None:
        raise UserError(
            f"{folder} is a cascade: it needs the segmentations of "
            f"{predictor.configuration_manager.previous_stage_name}, which the sweep does not make; take another "
            f"configuration"
        )
    trained_on = predictor.plans_manager.dataset_name
    trainer = predictor.trainer_name
    return Model(
        trainer=trainer if dataset in (None, trained_on) else f"{trainer}@{trained_on}",
        plans=predictor.plans_manager.plans_name,
        configuration=folder.name.split("__")[-1],
        fold="+".join(used),
        folder=folder,
        checkpoints={fold: sha256(folder / f"fold_{fold}" / checkpoint) for fold in used},
        patch_size=tuple(int(n) for n in predictor.configuration_manager.patch_size),
        predictor=predictor,
        epochs={fold: int(found["current_epoch"]) for fold, found in stored.items() if "current_epoch" in found},
    )


def _stored(checkpoint: Path, trusted: bool) -> dict[str, Any]:
    """What prediction needs of a checkpoint, without the optimiser's state."""
    found = load_checkpoint(checkpoint, trusted)
    return {key: found[key] for key in _OF_CHECKPOINT if key in found}


def _initialise(predictor: nnUNetPredictor, folder: Path, stored: Sequence[Mapping[str, Any]], trusted: bool) -> None:
    """Do what nnU-Net's `initialize_from_trained_model_folder` does, which would load pickles whatever they hold.

    Args:
        predictor: gets networks and plans.
        folder: the model's.
        stored: the checkpoint of each fold, as loaded.
        trusted: leave the names in plans unchecked.
    """
    plans = read_plans_json(folder / "plans.json")
    dataset_json = read_dataset_json(folder / "dataset.json", "labels", "file_ending")
    if not trusted:
        check_plans(plans, folder / "plans.json")
        check_dataset(dataset_json, folder / "dataset.json")
    manager = PlansManager(plans)
    configuration = manager.get_configuration(stored[0]["init_args"]["configuration"])
    trainer = recursive_find_trainer_class_by_name(stored[0]["trainer_name"])
    channels = determine_num_input_channels(manager, configuration, dataset_json)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    architecture: tuple[Any, ...] = (manager, configuration)
    if "plans_manager" not in inspect.signature(trainer.build_network_architecture).parameters:  # an older trainer
        architecture = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    network = trainer.build_network_architecture(*architecture, channels, heads, enable_deep_supervision=False)
    weights = [of_fold["network_weights"] for of_fold in stored]
    network.load_state_dict(weights[0])
    mirrored = stored[0].get("inference_allowed_mirroring_axes")
    predictor.manual_initialization(
        network, manager, configuration, weights, dataset_json, stored[0]["trainer_name"], mirrored
    )
