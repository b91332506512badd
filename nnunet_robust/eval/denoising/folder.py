"""A folder of images for `nnUNetv2_predict`: denoised where it helps the model, else copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_robust.common.console import quiet
from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import atomic_path, temporary_name, write_atomically
from nnunet_robust.common.json_files import read_json
from nnunet_robust.eval.denoising.denoiser import Denoiser
from nnunet_robust.eval.denoising.writers import write_image
from nnunet_robust.eval.images.image_files import ImageFiles, load_image
from nnunet_robust.eval.inference.models import Model

RECORD = "denoised.json"
"""Beside the images; nnU-Net looks for files of the dataset's ending only."""
_RECORD: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "denoise": {"type": "object"},
        "cases": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "noise_sigma": {"type": ["number", "null"]},
                    "denoised": {"type": "boolean"},
                    "files": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["noise_sigma", "denoised", "files"],
            },
        },
    },
    "required": ["model", "checkpoints", "denoise", "cases"],
}


@dataclass(frozen=True)
class Done:
    """The outcome for one image.

    Attributes:
        noise_sigma: its noise as a share of its robust range; None where it cannot be measured.
        denoised: whether it was denoised; else it was copied.
        files: SHA-256 of its files, as they were.
    """

    noise_sigma: float | None
    denoised: bool
    files: tuple[str, ...]


def denoise_folder(
    images: Sequence[ImageFiles],
    output: Path,
    model: Model,
    denoiser: Denoiser,
    track: Callable[[Sequence[ImageFiles]], Iterable[ImageFiles]] = iter,
) -> tuple[dict[str, Done], dict[str, str]]:
    """Write the images that a model is to see, one after the other; what an earlier run has done is not done again.

    Args:
        images: see `find_images`.
        output: the folder; `<name>_0000<ending>` and so on, and `denoised.json`.
        model: whose images.
        denoiser: decides.
        track: wraps the images that are gone through, for a progress bar.

    Returns:
        Name -> outcome, and name -> why it could not be read.

    Raises:
        UserError: the folder holds something else, or was made otherwise, or is that of the images; or an image cannot
            be written.
    """
    ending = model.predictor.dataset_json["file_ending"]
    settings = {"model": model.key, "checkpoints": model.checkpoints, "denoise": denoiser.described()}
    targets = {
        image.name: [output / f"{image.name}_{channel:04d}{ending}" for channel in range(len(image.images))]
        for image in images
    }
    done = _earlier(output, settings, denoiser, {path for paths in targets.values() for path in paths}, ending)
    done = {name: entry for name, entry in done.items() if name in targets}
    _write_record(output, settings, done)  # before the first image: what a kill leaves is then known to be ours
    failed: dict[str, str] = {}
    for files in track(images):
        name = files.name
        digests = tuple(map(sha256, files.images))
        if name in done and done[name].files == digests and all(path.is_file() for path in targets[name]):
            continue
        try:
            with quiet():
                loaded = load_image(files, model.reader, model.channels)
        except UserError as error:
            failed[name] = str(error)
            continue
        made = denoiser(loaded.image, loaded.spacing_mm)
        if made is loaded.image:
            for original, target in zip(files.images, targets[name], strict=True):
                _copy(original, target)
        else:
            write_image(model.reader, made, files.images, targets[name])
        noise = denoiser.noise_sigma(loaded.image, loaded.spacing_mm)
        done[name] = Done(noise if np.isfinite(noise) else None, made is not loaded.image, digests)
        _write_record(output, settings, done)
    return done, failed


def _write_record(output: Path, settings: Mapping[str, Any], done: Mapping[str, Done]) -> None:
    record = {**settings, "cases": {name: asdict(done[name]) for name in sorted(done)}}
    write_atomically(output / RECORD, json.dumps(record, indent=1) + "\n")


def _earlier(
    output: Path, settings: Mapping[str, Any], denoiser: Denoiser, targets: set[Path], ending: str
) -> dict[str, Done]:
    """What an earlier run has done in the output folder; what it had half written when it was killed is removed."""
    record = output / RECORD
    for target in targets:
        temporary_name(target).unlink(missing_ok=True)
    strangers = [path for path in sorted(output.glob(f"*{ending}")) if path not in targets]
    if strangers:
        raise UserError(
            f"-o {output} holds {strangers[0].name}, which is none of the images of -i: nnUNetv2_predict would take "
            f"it for one of them; take a new folder"
        )
    if not record.is_file():
        if there := sorted(path for path in targets if path.exists()):
            raise UserError(f"-o {output} holds {there[0].name} already, and no {RECORD}: take a new folder")
        return {}
    before = read_json(record, "restore it, or take a new folder for -o", _RECORD)
    same = all(before.get(name) == settings[name] for name in ("model", "checkpoints"))
    if not same or not denoiser.matches(before["denoise"]):
        raise UserError(f"-o {output} was made for another model or by another threshold: take a new folder")
    return {
        name: Done(entry["noise_sigma"], entry["denoised"], tuple(entry["files"]))
        for name, entry in before["cases"].items()
    }


def _copy(original: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(original, temporary)
