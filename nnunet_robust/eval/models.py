"""Trained nnU-Net models, ours or not: loaded once, predicting in memory as `nnUNetv2_predict` does from files."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_robust import hook
from nnunet_robust.errors import UserError


@dataclass(frozen=True)
class Model:
    """A trained model, ready to predict.

    Attributes:
        trainer: its trainer's name, with `@<dataset>` behind it where it was trained on another dataset than it is
            tested on: the label in tables and plots.
        plans: name of its plans.
        configuration: 2d, 3d_fullres, ...
        fold: its folds, e.g. "0" or "0+1+2" (their logits are averaged).
        folder: where it was loaded from.
        checkpoints: SHA-256 of each fold's checkpoint.
        predictor: nnU-Net's predictor, initialised.
    """

    trainer: str
    plans: str
    configuration: str
    fold: str
    folder: Path
    checkpoints: dict[str, str]
    predictor: nnUNetPredictor

    @property
    def key(self) -> str:
        """A name for files, unique within a sweep."""
        return f"{self.trainer}__{self.plans}__{self.configuration}__fold{self.fold}"

    def predict(self, image: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
        """Segment one image through nnU-Net's own preprocessing, sliding window, resampling and label handling.

        Args:
            image: (C, *spatial), raw intensities as nnU-Net's reader gives them; not modified.
            properties: what the reader gave beside it (spacing and what the format needs); not modified.

        Returns:
            Labels (*spatial), on the image's own grid; what `nnUNetv2_predict` writes for such an image.
        """
        predictor = self.predictor
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        with quiet():
            data, _, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
                image, None, dict(properties), plans, configuration, predictor.dataset_json
            )
            tensor = torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format)
            logits = predictor.predict_logits_from_preprocessed_data(tensor).cpu().numpy()
            return convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, plans, configuration, predictor.label_manager, properties,
                num_threads_torch=torch.get_num_threads(),
            )  # fmt: skip


def load_model(
    folder: Path,
    folds: Sequence[str] | None,
    checkpoint: str,
    device: torch.device,
    mirroring: bool,
    dataset: str | None,
) -> Model:
    """Load a trained model folder (`<trainer>__<plans>__<configuration>`).

    Args:
        folder: the model's folder, with `plans.json`, `dataset.json` and `fold_*`.
        folds: the folds to average; None takes all that have the checkpoint.
        checkpoint: file name of the checkpoint, e.g. `checkpoint_final.pth`.
        device: where to predict.
        mirroring: whether to average over mirrored images, as nnU-Net does by default.
        dataset: name of the dataset that it is tested on; None for its own.

    Raises:
        UserError: a file is missing or unreadable, the trainer is not found, or it needs a previous stage's output.
    """
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a trained nnU-Net model: it has no {name}")
    trained = sorted(path.parent.name[5:] for path in folder.glob(f"fold_*/{checkpoint}"))
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
            predictor = nnUNetPredictor(use_mirroring=mirroring, device=device, allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(folder), used, checkpoint)
    except Exception as error:
        raise UserError(f"the model in {folder} cannot be loaded: {_one_line(error)}") from error
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
        predictor=predictor,
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Keep what nnU-Net prints for a single prediction off the screen: it would tear the progress bar."""
    return contextlib.redirect_stdout(io.StringIO())
