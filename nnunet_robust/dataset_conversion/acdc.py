"""ACDC, cardiac cine MRI with the right ventricle, the myocardium and the left ventricle, to an nnU-Net raw dataset."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.left_out import LeftOut, Note
from nnunet_robust.dataset_conversion.nifti import ENDINGS, read_volume
from nnunet_robust.dataset_conversion.selection import check_selection, draw_patients, recorded
from nnunet_robust.dataset_conversion.source import contents, is_junk
from nnunet_robust.dataset_conversion.writer import Case, write_dataset

LAYOUT = (
    "ACDC has folders training/patient001 with Info.cfg, patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz, "
    "as https://www.creatis.insa-lyon.fr/Challenge/acdc publishes it"
)

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
"""Cavity of the right ventricle, myocardium, cavity of the left ventricle."""

PHASES = ("ED", "ES")
"""End of diastole and end of systole: the two frames of a patient that have a label."""

_PARTS = {"training": "training", "train": "training", "testing": "testing", "test": "testing"}
_PART_WORD = re.compile(r"(?<![a-z])(train|test)(?:ing)?_?(?:set|data)?(?![a-z])")  # as in "ACDC_testing", "Test Set"
_DEEPEST = 4  # folders between the source and its patients
_LAST_TRAINING = 100  # the number of the last patient that is published for training; the next 50 are for testing


@dataclass(frozen=True)
class AcdcParameters:
    """What becomes of ACDC.

    Attributes:
        cases: take the first so many frames of `training`, and as many of `testing`; None for all.
        test_share: share of the training patients, in [0, 1), that become test cases, beside those of `testing`.
        seed: of their choice; see `selection.draw_patients`.

    Raises:
        UserError: a value is out of its range.
    """

    cases: int | None = None
    test_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_selection(self.cases, self.test_share)


class Frame(NamedTuple):
    """A case's files and what Info.cfg says of its patient."""

    patient: str
    phase: str
    group: str
    image: Path
    label: Path
    info: Path

    @property
    def name(self) -> str:
        """The case's name: `patient001_ED`."""
        return f"{self.patient}_{self.phase}"


def convert_acdc(
    raw_folder: Path,
    source: Path,
    dataset_id: int,
    name: str = "ACDC",
    parameters: AcdcParameters | None = None,
    note: Note = print,
    strict: bool = False,
) -> Path:
    """Write ACDC in nnU-Net's raw format: cases `patient001_ED` and `patient001_ES`, `.nii.gz`.

    The patients are found wherever they lie below the source. Those below a folder `testing` (or `Test Set`,
    `ACDC_testing` and the like) become the test cases, all others are for training. Both frames of a patient are in one
    fold, and the folds are balanced by diagnosis (`Group` in Info.cfg). The 4d film of each patient is not read. Test
    patients without labels are noted, and so is a test set that lies beside the source, or among the patients for
    training.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        source: the folder `database`, one of those that hold it, or a folder of patients.
        dataset_id: 1 to 999.
        name: of the dataset.
        parameters: what to make; None for the defaults.
        note: takes each line about what was left out.
        strict: refuse a source with a patient who is incomplete or a file that cannot be read, rather than leave it
            out.

    Returns:
        The dataset's folder. One that was made from the same files is left as it is.

    Raises:
        UserError: there are no patients, the id is taken, or, if `strict`, a patient is incomplete or a file does not
            fit.

    Reference: Bernard et al., "Deep Learning Techniques for Automatic MRI Cardiac Multi-structures Segmentation and
    Diagnosis: Is the Problem Solved?", IEEE Transactions on Medical Imaging 2018.
    """
    parameters = parameters or AcdcParameters()
    source = Path(source)
    left_out = LeftOut(source, note, strict)
    training, testing = _parts(source, left_out, note)
    unlabelled = [patient.name for patient in testing if not any("_gt.nii" in file for file in _files(patient))]
    if unlabelled:
        note(f"left out: {len(unlabelled)} test patients without labels, {unlabelled[0]} the first")
    frames = list(itertools.islice(_frames(training, left_out), parameters.cases))
    drawn = draw_patients({frame.patient: frame.group for frame in frames}, parameters.test_share, parameters.seed)
    labelled = [patient for patient in testing if patient.name not in unlabelled]
    tests = list(itertools.islice(_frames(labelled, left_out), parameters.cases))
    tests += [frame for frame in frames if frame.patient in drawn]
    frames = [frame for frame in frames if frame.patient not in drawn]
    files = [path for frame in frames + tests for path in (frame.image, frame.label, frame.info)]
    return write_dataset(
        raw_folder,
        dataset_id,
        name,
        _cases(frames, left_out),
        _cases(tests, left_out),
        channel_names={0: "cineMRI"},
        labels=LABELS,
        file_ending=".nii.gz",
        provenance={
            "source": "ACDC, Bernard et al. 2018",
            "parameters": recorded(parameters, if_changed=("cases", "test_share", "seed")),
            **({"unlabelled_test_patients": unlabelled} if unlabelled else {}),
            "source_sha256": left_out.digest(source, files),
        },
        left_out=left_out,
    )


def _parts(source: Path, left_out: LeftOut, note: Note) -> tuple[list[Path], list[Path]]:
    """Return the patients' folders of training and of testing, by name."""
    here = source.resolve()
    parts: dict[str, dict[str, Path]] = {"training": {}, "testing": {}}
    beside = _beside(here)
    has_parts = bool(beside) or _part_of(here.name) == "training"
    for patient in _patients(source, left_out):
        inside = [_part_of(folder) for folder in patient.relative_to(source).parts[:-1]]
        named = [part for part in (_PARTS.get(here.name.casefold()), *inside) if part]
        has_parts |= bool(named)
        twin = next((known[patient.name] for known in parts.values() if patient.name in known), None)
        if twin is not None:
            where = patient.relative_to(source).as_posix()
            left_out.add(where, f"{where} is there twice, also as {twin.relative_to(source).as_posix()}")
        else:
            parts[named[-1] if named else "training"][patient.name] = patient
    training, testing = ([part[name] for name in sorted(part)] for part in parts.values())
    if not training:
        found = f"{len(testing)} test patients alone" if testing else contents(source)
        raise UserError(
            f"no folders patient001, patient002, ... for training in {source} (found: {found}): {LAYOUT}; name the "
            "folder that holds training and testing"
        )
    if has_parts and not testing:
        count = sum(1 for folder in beside for _ in _patients(folder, None))
        what = f"the test set beside it, {count} patients" if count else "a test set: there is no testing"
        note(f"without {what}; name the folder that holds training and testing, or set patients aside (--test-share)")
    if published := [patient.name for patient in training if int(patient.name[7:]) > _LAST_TRAINING]:
        note(
            f"for training: {len(published)} patients of ACDC's published test set, {published[0]} the first, as they "
            "lie in no folder testing"
        )
    return training, testing


def _part_of(folder: str) -> str:
    """Return which part a folder's name says that it holds; empty where it says neither, or both."""
    named = {f"{word}ing" for word in _PART_WORD.findall(folder.casefold())}
    return named.pop() if len(named) == 1 else ""


def _beside(here: Path) -> list[Path]:
    """Return the folders of test patients beside a source that is, or lies in, a folder of training patients."""
    inside = [folder for folder in (here, here.parent) if _part_of(folder.name) == "training"]
    siblings = sorted(path for folder in inside for path in folder.parent.iterdir() if path.is_dir())
    return [path for path in siblings if _part_of(path.name) == "testing"]


def _patients(folder: Path, left_out: LeftOut | None, depth: int = 0) -> Iterator[Path]:
    """Find the patients' folders; what is named nearly so is left out."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or is_junk(path):
            continue
        if re.fullmatch(r"patient\d+", path.name):
            yield path
        elif re.match(r"patient[\W_]*\d", path.name, re.IGNORECASE):
            if left_out is not None:
                left_out.add(path.name, f"{path} is not named as ACDC's patients are, patient001: rename it")
        elif depth < _DEEPEST:
            yield from _patients(path, left_out, depth + 1)


def _files(patient: Path) -> dict[str, list[Path]]:
    """Return a patient's files by name, in whatever folders unpacking has put them."""
    files: dict[str, list[Path]] = {}
    for path in sorted(patient.rglob("*")):
        if path.is_file() and not any(is_junk(part) for part in (path, *path.relative_to(patient).parents[:-1])):
            files.setdefault(path.name, []).append(path)
    return files


def _frames(patients: Iterable[Path], left_out: LeftOut) -> Iterator[Frame]:
    """Find the two labelled frames of each patient."""
    for patient in patients:
        with left_out.if_faulty(patient.name):
            files = _files(patient)
            info = _only(patient, files, ["Info.cfg"], "")
            said = _read_info(patient.name, info)
            for phase in PHASES:
                with left_out.if_faulty(f"{patient.name}_{phase}"):
                    stem = f"{patient.name}_frame{int(said[phase]):02d}"
                    image, label = (
                        _only(patient, files, [f"{one}{end}" for end in ENDINGS], ", which its Info.cfg announces")
                        for one in (stem, f"{stem}_gt")
                    )
                    yield Frame(patient.name, phase, said["Group"], image, label, info)


def _read_info(patient: str, path: Path) -> dict[str, str]:
    """Read `Info.cfg`: the numbers of the frames `ED` and `ES`, and the diagnosis, `Group`."""
    said: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{patient}/Info.cfg cannot be read ({error.strerror}): {LAYOUT}") from error
    for line in text.splitlines():
        key, _, value = line.partition(":")
        said[key.strip()] = value.strip()
    for key, pattern in (("ED", r"\d+"), ("ES", r"\d+"), ("Group", r"\S+")):
        if not re.fullmatch(pattern, said.get(key, "")):
            found = f"{key}: {said[key]}" if key in said else f"no {key}"
            raise UserError(f"{patient}/Info.cfg has {found}, expected 'ED: 1', 'ES: 12', 'Group: DCM': {LAYOUT}")
    if int(said["ED"]) == int(said["ES"]):
        raise UserError(f"{patient}/Info.cfg has ED and ES both as {said['ED']}, expected two frames: {LAYOUT}")
    return said


def _only(patient: Path, files: Mapping[str, list[Path]], names: Sequence[str], why: str) -> Path:
    """Return the one file of a patient that has one of these names."""
    found = [path for name in names for path in files.get(name, ())]
    if not found:
        raise UserError(f"{patient.name} has no {names[0]}{why}: {LAYOUT}")
    if len({path.parent for path in found}) > 1:
        where = " and ".join(path.relative_to(patient.parent).as_posix() for path in found[:2])
        raise UserError(f"{patient.name} has {names[0]} twice, as {where}: take one away")
    return found[0]


def _cases(frames: Iterable[Frame], left_out: LeftOut) -> Iterator[Case]:
    """Read the cases, one at a time."""
    values = {value: value for value in LABELS.values()}
    for frame in frames:
        with left_out.if_faulty(frame.name):
            volume = read_volume(frame.name, frame.image, frame.label, values)
            yield Case(
                frame.name,
                volume.channels,
                volume.label,
                patient=frame.patient,
                spacing_mm=volume.spacing_mm,
                origin_mm=volume.origin_mm,
                direction=volume.direction,
                stratum=frame.group,
            )
