"""Cases, which are images with labels: found, read through nnU-Net's own readers, and checked before anything is
computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_robust.common.digest import digest_of_case
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.folders import nnunet_folder
from nnunet_robust.eval.images.image_files import ImageFiles, LoadedImage, UnreadableError, check_image, read_image
from nnunet_robust.eval.uncertainty.expert_variability import majority, staple

REFERENCES: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
    "first": lambda experts: next(iter(experts.values())),
    "majority": majority,
    "staple": staple,
}
"""What the metrics compare with where several experts have drawn a case; the ignore label votes as any other."""


@dataclass(frozen=True)
class CaseFiles(ImageFiles):
    """Where a case lies on disk: an image and its label, or its labels.

    Attributes:
        label: the reference segmentation.
        experts: where several have drawn the case, the name and the file of each, in order; the first is `label`.
        reference: what is made of them, a key of `REFERENCES`.
    """

    label: Path
    experts: tuple[tuple[str, Path], ...] = ()
    reference: str = "first"

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"case {self.name!r}"

    @property
    def image_title(self) -> str:
        """What messages call its image."""
        return f"{self.title}: the image"

    @property
    def labels(self) -> tuple[Path, ...]:
        """The files that its reference is made of, or set against."""
        return tuple(path for _, path in self.experts) or (self.label,)

    @property
    def files(self) -> tuple[Path, ...]:
        """All of its files: first its images, then its labels."""
        return (*self.images, *self.labels)


@dataclass(frozen=True)
class LoadedCase(LoadedImage):
    """A case in memory.

    Attributes:
        label: (*spatial), integer labels: the reference.
        experts: where there are several, each one's labels, by the name of the folder.
    """

    label: np.ndarray
    experts: Mapping[str, np.ndarray]


def sha256_of_case(case: CaseFiles) -> str:
    """Compute the digest of a case's images and labels that sweeps and calibrations keep."""
    return digest_of_case(case.images, case.labels)


def label_names(dataset_json: Mapping[str, Any]) -> dict[int, str]:
    """List every label value that `dataset.json` declares, with the first name that has it."""
    known: dict[int, str] = {}
    for name, value in dataset_json["labels"].items():
        for v in value if isinstance(value, (list, tuple)) else (value,):
            known.setdefault(int(v), name)
    return known


def cases_of_folders(
    images: Path, labels: Path, file_ending: str, channels: int, *, complete: bool = True
) -> list[CaseFiles]:
    """List the cases of a folder of images in nnU-Net's naming (`<case>_0000<ending>`) and a folder of labels.

    Args:
        images: the folder of images.
        labels: the folder of labels.
        file_ending: of both.
        channels: images of a case.
        complete: refuse cases that lack a file; else it is `load_case` that does.

    Raises:
        UserError: a folder, a channel or a label file is missing, or there are no images.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: give existing folders with -i and -l")
    pattern = re.compile(r"(.+)_(\d{4})" + re.escape(file_ending))
    names = sorted({match[1] for path in images.iterdir() if (match := pattern.fullmatch(path.name))})
    if not names:
        raise UserError(f"no images named <case>_0000{file_ending} in {images}")
    patients = recorded_patients(images.parent)
    cases = []
    for name in names:
        files = tuple(images / f"{name}_{channel:04d}{file_ending}" for channel in range(channels))
        cases.append(CaseFiles(name, patients.get(name, name), files, labels / f"{name}{file_ending}"))
    if complete:
        for case in cases:
            _check_present(case)
    return cases


def drawn_by_experts(cases: Sequence[CaseFiles], folders: Sequence[Path], reference: str) -> list[CaseFiles]:
    """Give each case the labels of all experts.

    Args:
        cases: with the first expert's labels.
        folders: of all experts, the first's too; their names name the experts.
        reference: a key of `REFERENCES`.

    Raises:
        UserError: a folder is missing, two have one name, or there is no such reference.
    """
    if reference not in REFERENCES:
        raise UserError(f"--reference {reference}: take one of {', '.join(REFERENCES)}")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: give existing folders with -l")
    names = [folder.resolve().name for folder in folders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two folders of labels are called {twice[0]}: their names name the experts, give others")
    return [
        replace(
            case,
            experts=tuple((name, folder / case.label.name) for name, folder in zip(names, folders, strict=True)),
            reference=reference,
        )
        for case in cases
    ]


def cases_of_dataset(dataset: str, fold: str, file_ending: str, channels: int) -> list[CaseFiles]:
    """List a dataset's test cases (`imagesTs` with `labelsTs`), or else the validation cases of a fold.

    Files of a case may be missing: `load_case` says so.

    Raises:
        UserError: there are neither, or the fold names no single validation set.
    """
    raw = nnunet_folder("nnUNet_raw") / dataset
    images, labels = raw / "imagesTs", raw / "labelsTs"
    if labels.is_dir() and any(labels.glob(f"*{file_ending}")) and images.is_dir():
        return cases_of_folders(images, labels, file_ending, channels, complete=False)
    if not (raw / "dataset.json").is_file():
        raise UserError(f"no raw dataset {raw}: give images with -i and labels with -l")
    if not fold.isdigit():
        raise UserError(f"{dataset} has no labelsTs, and fold {fold!r} has no validation cases of its own: give -i, -l")
    splits_file = nnunet_folder("nnUNet_preprocessed") / dataset / "splits_final.json"
    splits = json.loads(splits_file.read_text()) if splits_file.is_file() else []
    if int(fold) >= len(splits):
        raise UserError(f"{dataset} has no labelsTs, and {splits_file} has no fold {fold}: give -i and -l")
    files = get_filenames_of_train_images_and_targets(str(raw))
    patients = recorded_patients(raw)
    unknown = [name for name in splits[int(fold)]["val"] if name not in files]
    if unknown:
        raise UserError(f"validation case {unknown[0]!r} of fold {fold} is not in {raw}: restore it, or give -i and -l")
    return [
        CaseFiles(name, patients.get(name, name), tuple(map(Path, files[name]["images"])), Path(files[name]["label"]))
        for name in sorted(splits[int(fold)]["val"])
    ]


def recorded_patients(raw: Path) -> dict[str, str]:
    """Read the patient of each case, where one of our converters has recorded it in a raw dataset's `dataset.json`."""
    file = raw / "dataset.json"
    return json.loads(file.read_text()).get("nnunet_robust", {}).get("patients", {}) if file.is_file() else {}


def _check_present(case: CaseFiles) -> None:
    for path in case.images:
        if not path.is_file():
            raise UserError(f"case {case.name!r}: image file {path} is missing")
    for path in case.labels:
        if not path.is_file():
            raise UserError(f"case {case.name!r}: label file {path} is missing")


def load_case(case: CaseFiles, reader: BaseReaderWriter, channels: int, labels: Mapping[int, str]) -> LoadedCase:
    """Read a case and check it.

    Args:
        case: its files.
        reader: nnU-Net's reader for the dataset's format.
        channels: how many channels the model takes.
        labels: the label values that `dataset.json` declares, with their names.

    Raises:
        UserError: a file is missing or unreadable, the image is none that the model takes (see `check_image`), it and
            its label have different sizes, or `dataset.json` does not know a label value.
    """
    _check_present(case)
    loaded = read_image(case, reader)
    try:
        drawn = [reader.read_seg(str(path))[0] for path in case.labels]
    except Exception as error:  # whatever a reader raises
        raise UnreadableError(case, one_line(error)) from error
    check_image(case, loaded.image, channels)
    for path, label in zip(case.labels, drawn, strict=True):
        _check_label(case, path, label, loaded.image.shape[1:], labels)
    found = [label[0].astype(np.int32) for label in drawn]
    experts = {name: label for (name, _), label in zip(case.experts, found, strict=False)}
    reference = REFERENCES[case.reference](experts) if experts else found[0]
    return LoadedCase(loaded.image, loaded.properties, reference, experts)


def _check_label(
    case: CaseFiles, path: Path, label: np.ndarray, shape: tuple[int, ...], labels: Mapping[int, str]
) -> None:
    if shape != label.shape[1:]:
        raise UserError(
            f"case {case.name!r}: the image has {shape} voxels and its label {label.shape[1:]}: "
            f"they must be on one grid"
        )
    unknown = [value for value in np.unique(label) if value not in labels]
    if unknown:
        raise UserError(
            f"case {case.name!r}: label value {unknown[0]:g} in {path.name} is not in dataset.json, which knows "
            f"{', '.join(f'{value} ({name})' for value, name in sorted(labels.items()))}"
        )
