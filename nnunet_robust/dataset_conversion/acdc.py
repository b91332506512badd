"""ACDC, cardiac cine MRI with the right ventricle, the myocardium and the left ventricle, to an nnU-Net raw dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from nnunet_robust.common.digest import source_digest
from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.nifti import ENDINGS, read_volume
from nnunet_robust.dataset_conversion.writer import Case, write_dataset

LAYOUT = (
    "ACDC has folders training/patient001 with Info.cfg, patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz, "
    "as https://www.creatis.insa-lyon.fr/Challenge/acdc publishes it"
)

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
"""Cavity of the right ventricle, myocardium, cavity of the left ventricle."""

PHASES = ("ED", "ES")
"""End of diastole and end of systole: the two frames of a patient that have a label."""


class Frame(NamedTuple):
    """A case's files and what Info.cfg says of its patient."""

    patient: str
    phase: str
    group: str
    image: Path
    label: Path
    info: Path


def convert_acdc(
    raw_folder: Path, source: Path, dataset_id: int, name: str = "ACDC", note: Callable[[str], None] = print
) -> Path:
    """Write ACDC in nnU-Net's raw format: cases `patient001_ED` and `patient001_ES`, `.nii.gz`.

    `training` becomes the training cases and `testing` the test cases; without these folders, all patients are for
    training. Both frames of a patient are in one fold, and the folds are balanced by diagnosis (`Group` in Info.cfg).
    The 4d film of each patient is not read.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        source: the folder `database`, the one that holds it, or a folder of patients.
        dataset_id: 1 to 999.
        name: of the dataset.
        note: takes each line about what was left out.

    Returns:
        The dataset's folder. One that was made from the same files is left as it is.

    Raises:
        UserError: there are no patients, a patient is incomplete, a file does not fit, or the id is taken.

    Reference: Bernard et al., "Deep Learning Techniques for Automatic MRI Cardiac Multi-structures Segmentation and
    Diagnosis: Is the Problem Solved?", IEEE Transactions on Medical Imaging 2018.
    """
    training, testing = _parts(source)
    training_frames = [frame for patient in training for frame in _frames(patient)]
    unlabelled = [patient for patient in testing if not any(patient.glob(f"{patient.name}_*_gt.nii*"))]
    if unlabelled:
        note(f"left out: {len(unlabelled)} test patients without labels, {unlabelled[0].name} the first")
    test_frames = [frame for patient in testing if patient not in unlabelled for frame in _frames(patient)]
    files = [path for frame in training_frames + test_frames for path in (frame.image, frame.label, frame.info)]
    return write_dataset(
        raw_folder,
        dataset_id,
        name,
        _cases(training_frames),
        _cases(test_frames),
        channel_names={0: "cineMRI"},
        labels=LABELS,
        file_ending=".nii.gz",
        provenance={
            "source": "ACDC, Bernard et al. 2018",
            "parameters": {},
            "source_sha256": source_digest(source, files),
        },
    )


def _parts(source: Path) -> tuple[list[Path], list[Path]]:
    """The patients' folders of training and of testing."""
    root = source / "database" if (source / "database").is_dir() else source
    flat = not (root / "training").is_dir()
    training = _patients(root if flat else root / "training")
    testing = [] if flat else _patients(root / "testing")
    if not training:
        raise UserError(f"no folders patient001, patient002, ... in {root if flat else root / 'training'}: {LAYOUT}")
    return training, testing


def _patients(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("patient*") if path.is_dir() and re.fullmatch(r"patient\d+", path.name))


def _frames(patient: Path) -> list[Frame]:
    """The two labelled frames of a patient."""
    info = patient / "Info.cfg"
    if not info.is_file():
        raise UserError(f"{patient.name} has no Info.cfg: {LAYOUT}")
    said: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        key, _, value = line.partition(":")
        said[key.strip()] = value.strip()
    for key, pattern in (("ED", r"\d+"), ("ES", r"\d+"), ("Group", r"\S+")):
        if not re.fullmatch(pattern, said.get(key, "")):
            found = f"{key}: {said[key]}" if key in said else f"no {key}"
            raise UserError(f"{patient.name}/Info.cfg has {found}, expected 'ED: 1', 'ES: 12', 'Group: DCM': {LAYOUT}")
    frames = []
    for phase in PHASES:
        stem = f"{patient.name}_frame{int(said[phase]):02d}"
        frames.append(
            Frame(patient.name, phase, said["Group"], _file(patient, stem), _file(patient, f"{stem}_gt"), info)
        )
    return frames


def _file(patient: Path, stem: str) -> Path:
    for ending in ENDINGS:
        if (patient / f"{stem}{ending}").is_file():
            return patient / f"{stem}{ending}"
    raise UserError(f"{patient.name} has no {stem}.nii.gz, which its Info.cfg announces: {LAYOUT}")


def _cases(frames: Iterable[Frame]) -> Iterator[Case]:
    values = {value: value for value in LABELS.values()}
    for frame in frames:
        name = f"{frame.patient}_{frame.phase}"
        volume = read_volume(name, frame.image, frame.label, values)
        yield Case(
            name,
            volume.channels,
            volume.label,
            patient=frame.patient,
            spacing_mm=volume.spacing_mm,
            origin_mm=volume.origin_mm,
            direction=volume.direction,
            stratum=frame.group,
        )
