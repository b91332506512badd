"""nnU-Net's own JSON files, as far as they are read here: `dataset.json`, `splits_final.json`, plans, fingerprints."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.json_files import OBJECT, read_json
from nnunet_robust.common.names import check_name
from nnunet_robust.common.text_files import file_fault

_NAMES = {"type": "array", "items": {"type": "string"}}
_TEXTS: Mapping[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
_NAME: Mapping[str, Any] = {"type": ["string", "null"]}
DATASET: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "labels": {
            "type": "object",
            "additionalProperties": {"type": ["integer", "string", "array"], "pattern": "^[0-9]+$"},
        },
        "channel_names": OBJECT,
        "modality": OBJECT,
        "file_ending": {"type": "string", "pattern": "^[.]"},
        "numTraining": {"type": "number"},
        "overwrite_image_reader_writer": _NAME,
        "dataset": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"images": _NAMES, "label": {"type": "string"}},
                "required": ["images", "label"],
            },
        },
        "nnunet_robust": {"type": "object", "properties": {"patients": _TEXTS, "left_out": _TEXTS}},
    },
}
"""The schema of a `dataset.json`; our converters' record stands in it, too."""
SPLITS: Mapping[str, Any] = {
    "type": "array",
    "items": {"type": "object", "properties": {"train": _NAMES, "val": _NAMES}, "required": ["train", "val"]},
}
"""The schema of a `splits_final.json`."""
PLANS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "image_reader_writer": _NAME,
        "label_manager": _NAME,
        "configurations": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "preprocessor_name": _NAME,
                    "normalization_schemes": _NAMES,
                    "resampling_fn_data": _NAME,
                    "resampling_fn_seg": _NAME,
                    "resampling_fn_probabilities": _NAME,
                    "architecture": {
                        "type": "object",
                        "properties": {
                            "network_class_name": _NAME,
                            "arch_kwargs": OBJECT,
                            "_kw_requires_import": {"type": ["array", "null"], "items": {"type": "string"}},
                        },
                    },
                },
            },
        },
    },
    "required": ["configurations"],
}
"""The schema of plans, as far as it is the same for all planners. What nnU-Net imports by name is a text, or a list."""


def read_dataset_json(path: Path, *needed: str) -> dict[str, Any]:
    """Read a `dataset.json`.

    Args:
        path: the file.
        needed: keys that it must have.

    Raises:
        UserError: it cannot be read, is not nnU-Net's, lacks a key, or a label has a name that cannot be one.
    """
    advice = "restore nnU-Net's dataset.json"
    found = read_json(path, advice, {**DATASET, "required": list(needed)}, nan=True)
    for name in found.get("labels", ()):
        try:
            check_name(name, "label", path=False)
        except ValueError as error:
            raise file_fault(path, str(error), advice) from error
    return dict(found)


def recorded_patients(raw: Path) -> dict[str, str]:
    """Read the patient of each case, where one of our converters has recorded it in a raw dataset's `dataset.json`.

    Args:
        raw: the folder of the dataset; nothing is known where it has no such file.
    """
    path = raw / "dataset.json"
    if not path.is_file():
        return {}
    return dict(read_dataset_json(path).get("nnunet_robust", {}).get("patients", {}))


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """Read a `splits_final.json`.

    Raises:
        UserError: it cannot be read, or is not nnU-Net's.
    """
    advice = "restore the folds, or delete the file so that nnU-Net makes them again"
    return list(read_json(path, advice, SPLITS))


def read_plans_json(path: Path) -> dict[str, Any]:
    """Read a planner's plans.

    Raises:
        UserError: they cannot be read, or are not nnU-Net's.
    """
    return dict(read_json(path, "make it again with nnUNetv2_plan_and_preprocess", PLANS, nan=True))


def training_files(raw: Path) -> dict[str, tuple[list[Path], Path]]:
    """List the training cases of a raw dataset as nnU-Net does, without the twelve processes that it starts for it.

    Forked beside threads, such a process may wait for ever, and the command with it.

    Args:
        raw: the folder of the dataset, with its `dataset.json`.

    Returns:
        Case -> its images, by channel, and its label; sorted by case.

    Raises:
        UserError: `dataset.json` cannot be read or is not nnU-Net's.
    """
    meta = read_dataset_json(raw / "dataset.json")
    if "dataset" in meta:  # cases that lie elsewhere
        found = {
            name: ([_expanded(raw, image) for image in case["images"]], _expanded(raw, case["label"]))
            for name, case in meta["dataset"].items()
        }
        return dict(sorted(found.items()))
    ending = read_dataset_json(raw / "dataset.json", "file_ending")["file_ending"]
    if not (raw / "imagesTr").is_dir():
        raise UserError(f"no folder {raw / 'imagesTr'}: restore the dataset's training images")
    images: dict[str, list[Path]] = {}
    for path in sorted(raw.joinpath("imagesTr").iterdir()):
        if match := re.fullmatch(r"(.*)_[0-9]{4}" + re.escape(ending), path.name, re.DOTALL):
            images.setdefault(match[1], []).append(path)
    return {name: (images[name], raw / "labelsTr" / f"{name}{ending}") for name in sorted(images)}


def _expanded(raw: Path, name: str) -> Path:
    return Path(os.path.abspath(raw / os.path.expandvars(name)))  # noqa: PTH100 -- as nnU-Net does
