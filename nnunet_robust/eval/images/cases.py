"""Cases, which are images with labels: found, read through nnU-Net's own readers, and checked before anything is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_robust.common.digest import digest_of_case
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.folders import nnunet_folder
from nnunet_robust.common.names import check_name
from nnunet_robust.common.nnunet_files import read_splits, recorded_patients, training_files
from nnunet_robust.eval.images.grids import Grid, compare_grids
from nnunet_robust.eval.images.image_files import (
    ImageFiles,
    LoadedImage,
    UnreadableError,
    check_image,
    files_of_cases,
    read_image,
    warn_of_others,
)
from nnunet_robust.eval.uncertainty.expert_variability import majority, staple

REFERENCES: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
    "first": lambda experts: next(iter(experts.values())),
    "majority": majority,
    "staple": staple,
}
"""What the metrics compare with where several experts have drawn a case; the ignore label votes as any other."""

_ROUNDING = 1e-3  # what a stored label may be off the whole number that it stands for


@dataclass(frozen=True)
class CaseFiles(ImageFiles):
    """Where a case lies on disk: an image and its label, or its labels.

    Attributes:
        label: the reference segmentation.
        experts: where several have drawn the case, the name and the file of each, in order; the first is `label`.
        reference: what is made of them, a key of `REFERENCES`.
        patient_known: whether the dataset says whose it is; else it counts as of a patient of its own.
    """

    label: Path
    experts: tuple[tuple[str, Path], ...] = ()
    reference: str = "first"
    patient_known: bool = False

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


def sha256_of_case(case: CaseFiles, channels: int) -> str:
    """Compute the digest of a case's images and labels that sweeps and calibrations keep."""
    return digest_of_case(case.images, channels, case.labels)


def label_names(dataset_json: Mapping[str, Any]) -> dict[int, str]:
    """List every label value that `dataset.json` declares, with the first name that has it.

    Raises:
        UserError: a name has a line break or another control character.
    """
    known: dict[int, str] = {}
    for name, value in dataset_json["labels"].items():
        check_name(name, "label", path=False)
        for v in value if isinstance(value, (list, tuple)) else (value,):
            known.setdefault(int(v), name)
    return known


def cases_of_folders(
    images: Path, labels: Path, file_ending: str, channels: int, *, complete: bool = True
) -> list[CaseFiles]:
    """List the cases of a folder of images in nnU-Net's naming (see `files_of_cases`) and a folder of labels.

    Whatever else is in the folder of images is named on the standard error stream.

    Args:
        images: the folder of images.
        labels: the folder of labels.
        file_ending: of both.
        channels: how many channels an image has.
        complete: refuse cases that lack their label; else it is `load_case` that does.

    Raises:
        UserError: a folder or a label file is missing, or there are no images.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: give existing folders with -i and -l")
    found = files_of_cases(images, file_ending, channels)
    if not found:
        raise UserError(f"no images named <case>_0000{file_ending} in {images}")
    patients = recorded_patients(images.parent)
    cases = [
        CaseFiles(
            name, patients.get(name, name), files, labels / f"{name}{file_ending}", patient_known=name in patients
        )
        for name, files in found.items()
    ]
    warn_of_others(images, cases, file_ending, channels)
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
    names = [check_name(folder.resolve().name, "expert", path=False) for folder in folders]
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
    splits = read_splits(splits_file) if splits_file.is_file() else []
    if int(fold) >= len(splits):
        raise UserError(f"{dataset} has no labelsTs, and {splits_file} has no fold {fold}: give -i and -l")
    files = training_files(raw)
    patients = recorded_patients(raw)
    unknown = [name for name in splits[int(fold)]["val"] if name not in files]
    if unknown:
        raise UserError(f"validation case {unknown[0]!r} of fold {fold} is not in {raw}: restore it, or give -i and -l")
    return [
        CaseFiles(
            check_name(name, "case"),
            patients.get(name, name),
            tuple(files[name][0]),
            files[name][1],
            patient_known=name in patients,
        )
        for name in sorted(splits[int(fold)]["val"])
    ]


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
            its label are on different grids (see `compare_grids`), `dataset.json` does not know a label value, or all
            of the reference is to be ignored.
    """
    _check_present(case)
    loaded = read_image(case, reader)
    try:
        drawn = [reader.read_seg(str(path)) for path in case.labels]
    except Exception as error:  # whatever a reader raises
        raise UnreadableError(case, one_line(error)) from error
    check_image(case, loaded.image, channels)
    notes, found = list(loaded.notes), []
    grid = Grid.of(loaded.image.shape[1:], loaded.properties)
    for path, (label, properties) in zip(case.labels, drawn, strict=True):
        notes += _check_grid(case, path, grid, Grid.of(label.shape[1:], properties))
        found.append(_whole_numbers(case, path, label, labels))
    experts = {name: label for (name, _), label in zip(case.experts, found, strict=False)}
    reference = REFERENCES[case.reference](experts) if experts else found[0]
    ignore = next((value for value, name in labels.items() if name == "ignore"), None)
    if ignore is not None and (reference == ignore).all():
        raise UserError(f"{case.title}: every voxel of its label is to be ignored: there is nothing to compare with")
    return LoadedCase(loaded.image, loaded.properties, tuple(notes), reference, experts)


def _check_grid(case: CaseFiles, path: Path, of_image: Grid, of_label: Grid) -> list[str]:
    """Compare the grids of an image and its label.

    Returns:
        A note, where they differ by little.
    """
    compared = compare_grids(of_image, of_label)
    if compared.fault:
        raise UserError(
            f"{case.image_title} has {of_image} and its label {path.name} {of_label}, {compared.fault}: "
            f"they must be on one grid"
        )
    return [f"the image and its label {path.name} are {compared.note}"] if compared.note else []


def _whole_numbers(case: CaseFiles, path: Path, label: np.ndarray, labels: Mapping[int, str]) -> np.ndarray:
    """The values of a label, float as nnU-Net's readers give them, as integers (*spatial) that `dataset.json` knows."""
    if len(label) != 1:
        raise UserError(f"{case.title}: the label {path.name} has {len(label)} channels: it must have one")
    whole = np.rint(label[0])
    values = np.unique(np.where(np.abs(label[0] - whole) <= _ROUNDING, whole, label[0]))
    if unknown := [value for value in values if value not in labels]:
        raise UserError(
            f"{case.title}: label value {np.format_float_positional(unknown[0], trim='-')} in {path.name} is not in "
            f"dataset.json, which knows {', '.join(f'{value} ({name})' for value, name in sorted(labels.items()))}"
        )
    return whole.astype(np.int32)
