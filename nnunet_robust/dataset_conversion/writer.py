"""The one writer of nnU-Net raw datasets: a whole dataset or none, with a record of what it was made from."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

import nnunet_robust
from nnunet_robust.errors import UserError

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"

PROVENANCE_KEY = "nnunet_robust"
"""The key of `dataset.json` that holds what the dataset was made from; nnU-Net ignores it."""


@dataclass(frozen=True, eq=False)
class Case:
    """One case of a dataset.

    Attributes:
        name: the case's identifier: letters, digits, `_`, `-` and `.`; no other case of the dataset has it.
        images: one array a channel, all of the same shape: (H, W) for `.png`, (H, W) or (D, H, W) for `.nii.gz`.
        label: the label map, of the images' shape.
        patient: whose case it is; None where every case is a patient of its own.
        spacing_mm: the voxel's size along each array axis, `.nii.gz` only; None for 1 mm.
    """

    name: str
    images: Sequence[np.ndarray]
    label: np.ndarray
    patient: str | None = None
    spacing_mm: Sequence[float] | None = None


def _write_png(array: np.ndarray, path: Path, spacing_mm: Sequence[float] | None) -> None:
    from PIL import Image

    Image.fromarray(array).save(path)


def _write_nifti(array: np.ndarray, path: Path, spacing_mm: Sequence[float] | None) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    if spacing_mm is not None:
        image.SetSpacing([float(value) for value in reversed(spacing_mm)])  # SimpleITK counts axes from the last
    sitk.WriteImage(image, str(path), True)


class _Format(NamedTuple):
    """What a file ending can hold, and how it is written."""

    write: Callable[[np.ndarray, Path, Sequence[float] | None], None]
    dimensions: tuple[int, ...]
    dtypes: tuple[str, ...]
    has_spacing: bool


_NIFTI_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
FORMATS = {
    ".png": _Format(_write_png, (2,), ("uint8",), has_spacing=False),
    ".nii.gz": _Format(_write_nifti, (2, 3), _NIFTI_DTYPES, has_spacing=True),
}


def write_dataset(
    raw_folder: Path,
    dataset_id: int,
    name: str,
    training: Iterable[Case],
    testing: Iterable[Case],
    *,
    channel_names: Mapping[int, str],
    labels: Mapping[str, int],
    file_ending: str,
    provenance: Mapping[str, JSON],
) -> Path:
    """Write `Dataset<id>_<name>` into `raw_folder`, whole or not at all.

    The dataset is built in a hidden folder beside its final place and renamed when complete; whatever goes wrong, the
    hidden folder is removed, be it by the next call with this id after a kill. The same arguments give the same bytes.
    Where the dataset is there already, with this name, this provenance and from this version of the package, it is left
    as it is and the cases are not read, so that a run that was killed can simply be started again. Of two processes
    that write the same id at the same time one fails.

    Args:
        raw_folder: nnU-Net's folder of raw datasets; made if missing.
        dataset_id: 1 to 999.
        name: letters, digits and `_`, starting with a letter or digit.
        training: the cases of `imagesTr` and `labelsTr`, at least one; consumed one at a time.
        testing: the cases of `imagesTs` and `labelsTs`; no such folders where there are none.
        channel_names: name of each channel, keys 0, 1, ...; nnU-Net picks the normalisation by the name.
        labels: value of each label; "background" is 0 and the values are consecutive.
        file_ending: a key of `FORMATS`.
        provenance: source and parameters, everything that the cases depend on. Stored in `dataset.json` under
            "nnunet_robust" with the package's version and, where some patient is not just a case, `patients`: case to
            patient.

    Returns:
        The dataset's folder.

    Raises:
        UserError: the id is taken, an argument is invalid, or a case does not fit (shapes, types, label values, NaN).
    """
    _check_header(dataset_id, name, channel_names, labels, file_ending)
    raw_folder = Path(raw_folder)
    record = json.loads(json.dumps({"version": nnunet_robust.__version__, **provenance}))
    target = raw_folder / f"Dataset{dataset_id:03d}_{name}"
    if _is_there_already(target, record):
        return target

    partial = raw_folder / f"{_partial_prefix(dataset_id)}{secrets.token_hex(4)}"
    try:
        raw_folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(raw_folder, dataset_id)
        partial.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot write to {raw_folder} ({error.strerror}): set nnUNet_raw to a folder of yours"
        ) from error
    try:
        patients: dict[str, str] = {}
        num_training = _write_part(partial, "Tr", training, patients, len(channel_names), labels, file_ending)
        if not num_training:
            raise UserError(f"no training cases for {target.name}: give at least one")
        _write_part(partial, "Ts", testing, patients, len(channel_names), labels, file_ending)
        if any(case != patient for case, patient in patients.items()):
            record["patients"] = patients
        dataset_json = {
            "channel_names": {str(index): channel_names[index] for index in sorted(channel_names)},
            "labels": dict(labels),
            "numTraining": num_training,
            "file_ending": file_ending,
            PROVENANCE_KEY: record,
        }
        (partial / "dataset.json").write_text(json.dumps(dataset_json, indent=2) + "\n", encoding="utf-8")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _check_header(
    dataset_id: int, name: str, channel_names: Mapping[int, str], labels: Mapping[str, int], file_ending: str
) -> None:
    """Refuse what nnU-Net could not read, before anything is written."""
    if not 1 <= dataset_id <= 999:
        raise UserError(f"dataset id must be in 1..999, got {dataset_id}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
        raise UserError(f"dataset name must consist of letters, digits and underscores, got {name!r}")
    if file_ending not in FORMATS:
        raise UserError(f"file ending must be one of {', '.join(FORMATS)}, got {file_ending!r}")
    if not channel_names or sorted(channel_names) != list(range(len(channel_names))):
        raise UserError(f"channels must be numbered 0, 1, ..., got {sorted(channel_names)}")
    if labels.get("background") != 0 or sorted(labels.values()) != list(range(len(labels))):
        raise UserError(f"labels must be consecutive, with 'background' as 0, got {dict(labels)}")


def _is_there_already(target: Path, record: Mapping[str, JSON]) -> bool:
    """Whether `target` exists and was made from `record`; UserError where its id is taken by anything else."""
    remedy = "choose another id, or delete that folder"
    # nnU-Net looks an id up by this prefix, without the underscore
    for folder in sorted(target.parent.glob(f"{target.name[: len('Dataset000')]}*")):
        if not folder.is_dir():
            continue
        if folder.name != target.name:
            raise UserError(f"dataset id {target.name[7:10]} is taken by {folder}: {remedy}")
        try:
            found = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))[PROVENANCE_KEY]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{folder} exists and was not written by nnunet-robust: {remedy}") from None
        found.pop("patients", None)
        if found != record:
            raise UserError(f"{folder} exists and differs in {_differences(found, record)}: {remedy}")
        return True
    return False


def _differences(found: Mapping[str, JSON], wanted: Mapping[str, JSON], prefix: str = "") -> str:
    """The entries in which two records differ, in words: 'parameters.alpha (there 0.1, wanted 0.8)'."""
    words = []
    for key in sorted(found.keys() | wanted.keys()):
        there, here = found.get(key), wanted.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping) and there != here:
            words.append(_differences(there, here, f"{prefix}{key}."))
        elif there != here:
            words.append(f"{prefix}{key} (there {there}, wanted {here})")
    return ", ".join(words)


def _partial_prefix(dataset_id: int) -> str:
    """How the hidden folders of unfinished datasets begin; nnU-Net, which looks for 'Dataset', does not see them."""
    return f".partial_Dataset{dataset_id:03d}_"


def _remove_stale(raw_folder: Path, dataset_id: int) -> None:
    """Remove what a killed run left behind."""
    for stale in list(raw_folder.glob(f"{_partial_prefix(dataset_id)}*")):
        # Renamed first: were its writer still alive, it would fail at once, not complete a half-deleted dataset.
        doomed = stale.rename(stale.with_name(f"{_partial_prefix(dataset_id)}doomed_{secrets.token_hex(4)}"))
        shutil.rmtree(doomed)


def _write_part(
    folder: Path,
    part: str,
    cases: Iterable[Case],
    patients: dict[str, str],
    num_channels: int,
    labels: Mapping[str, int],
    file_ending: str,
) -> int:
    """Write the cases of one part ("Tr" or "Ts"), add them to `patients`, and return how many there were."""
    count = 0
    file_format = FORMATS[file_ending]
    label_dtype = np.min_scalar_type(max(labels.values()))
    for case in cases:
        if case.name in patients:
            raise UserError(f"two cases are named {case.name!r}: give each a name of its own")
        _check_case(case, num_channels, labels, file_ending)
        patients[case.name] = case.name if case.patient is None else case.patient
        for subfolder in (f"images{part}", f"labels{part}"):
            (folder / subfolder).mkdir(exist_ok=True)
        for channel, image in enumerate(case.images):
            path = folder / f"images{part}" / f"{case.name}_{channel:04d}{file_ending}"
            file_format.write(np.ascontiguousarray(image), path, case.spacing_mm)
        label = np.ascontiguousarray(case.label, dtype=label_dtype)
        file_format.write(label, folder / f"labels{part}" / f"{case.name}{file_ending}", case.spacing_mm)
        count += 1
    return count


def _check_case(case: Case, num_channels: int, labels: Mapping[str, int], file_ending: str) -> None:
    """Refuse a case that nnU-Net would refuse, or silently misread."""
    file_format = FORMATS[file_ending]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", case.name):
        raise UserError(f"case names must consist of letters, digits, '_', '-' and '.', got {case.name!r}")
    if len(case.images) != num_channels:
        raise UserError(f"case {case.name} has {len(case.images)} channels, the dataset {num_channels}")
    for channel, image in enumerate(case.images):
        where = f"case {case.name}, channel {channel}"
        if image.shape != case.label.shape:
            raise UserError(f"{where}: the image is {image.shape}, its label {case.label.shape}; they must be the same")
        if image.ndim not in file_format.dimensions or image.size == 0:
            dimensions = " or ".join(f"{count}d" for count in file_format.dimensions)
            raise UserError(f"{where}: {file_ending} holds {dimensions} images that are not empty, got {image.shape}")
        if image.dtype.name not in file_format.dtypes:
            raise UserError(f"{where}: {file_ending} takes {', '.join(file_format.dtypes)}, got {image.dtype.name}")
        if not np.isfinite(image).all():
            raise UserError(f"{where}: the image holds NaN or infinity; replace them by a value that makes sense")
    undeclared = np.setdiff1d(case.label, list(labels.values()))
    if undeclared.size:
        raise UserError(f"case {case.name}: label value {undeclared[0]} is not among the declared {dict(labels)}")
    if case.spacing_mm is None:
        return
    if not file_format.has_spacing:
        raise UserError(f"case {case.name}: {file_ending} cannot store a spacing, got {tuple(case.spacing_mm)}")
    if len(case.spacing_mm) != case.label.ndim or not all(0 < value < np.inf for value in case.spacing_mm):
        raise UserError(
            f"case {case.name}: spacing must be a positive number of mm for each of {case.label.ndim} axes, "
            f"got {tuple(case.spacing_mm)}"
        )
