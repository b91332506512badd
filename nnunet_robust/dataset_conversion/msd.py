"""Tasks of the Medical Segmentation Decathlon to nnU-Net raw datasets, as volumes or as axial slices."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.json_files import read_json
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.dataset_conversion.left_out import LeftOut, Note
from nnunet_robust.dataset_conversion.nifti import is_nifti, read_volume, stem
from nnunet_robust.dataset_conversion.selection import check_selection, recorded
from nnunet_robust.dataset_conversion.source import unwrap
from nnunet_robust.dataset_conversion.writer import IGNORE, Case, write_dataset

LAYOUT = (
    "a Decathlon task has dataset.json (modality, labels, training), imagesTr and labelsTr, "
    "as http://medicaldecathlon.com publishes it"
)


@dataclass(frozen=True)
class MsdParameters:
    """How a task is converted.

    Attributes:
        test_share: share of the patients, in [0, 1), that become test cases: the task's own test labels are not public.
        seed: of their choice; of two shares, the larger one's test patients include the smaller one's.
        slices: "axial" makes every axial slice with foreground a 2d case; None keeps the volumes.
        min_foreground: of slices, the least share of foreground pixels, in [0, 1); at 0 one pixel is enough.
        cases: take the first so many volumes of the training set, and as many labelled ones of the test set; None for
            all.

    Raises:
        UserError: a value is out of its range.
    """

    test_share: float = 0.0
    seed: int = 0
    slices: Literal["axial"] | None = None
    min_foreground: float = 0.0
    cases: int | None = None

    def __post_init__(self) -> None:
        check_selection(self.cases, self.test_share)
        if not 0 <= self.min_foreground < 1:
            raise UserError(f"min_foreground must be in [0, 1), got {self.min_foreground}")
        if self.slices not in (None, "axial"):
            raise UserError(f"slices must be 'axial' or left out, got {self.slices!r}")
        if self.min_foreground and self.slices is None:
            raise UserError(f"min_foreground {self.min_foreground} chooses slices: ask for axial slices too")


class Pair(NamedTuple):
    """A case's files."""

    name: str
    image: Path
    label: Path


def convert_msd(
    raw_folder: Path,
    source: Path,
    dataset_id: int,
    name: str | None = None,
    parameters: MsdParameters | None = None,
    note: Note = print,
    strict: bool = False,
) -> Path:
    """Write a Decathlon task in nnU-Net's raw format: `.nii.gz`, the task's own channel and label names.

    Values of the images are kept as they are, and so is the geometry; a 4d image becomes one file a channel. Label
    values that are not consecutive are renumbered in their order, and "ignore" gets the highest, as nnU-Net wants them.
    An image without a label, a label without an image, and a file that cannot be read are left out, and named; files
    that `dataset.json` does not list are noted.

    Axial slices are those nearest to the axial plane in the patient's space, rows from front to back, columns from the
    patient's right to left, numbered from feet to head: `<case>_slice000`. All slices of a volume have it as their
    patient, and the folds are made by patient.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        source: the task's folder, or one that holds nothing else.
        dataset_id: 1 to 999.
        name: of the dataset; None for the task's own, with "Axial" for slices.
        parameters: None for the defaults: volumes, no test cases.
        note: takes each line about what was left out.
        strict: refuse a source with a file that is missing or cannot be read, rather than leave it out.

    Returns:
        The dataset's folder. One that was made from the same files and parameters is left as it is.

    Raises:
        UserError: the folder is no Decathlon task, the id is taken, or, if `strict`, a file is missing, cannot be read,
            or does not fit.

    Reference: Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 2022; axial slices as in
    Kamath et al., MICCAI 2023, whose slices hold the organ.
    """
    parameters = parameters or MsdParameters()
    source = unwrap(Path(source), lambda folder: (folder / "dataset.json").is_file())
    left_out = LeftOut(source, note, strict)
    task = _read_task(source)
    channel_names = {index: task["modality"][str(index)] for index in range(len(task["modality"]))}
    source_labels = _labels(task)
    in_order = sorted(source_labels, key=lambda label: (label == IGNORE, source_labels[label]))
    labels = {label: value for value, label in enumerate(in_order)}
    values = {source_labels[label]: value for label, value in labels.items()}
    if labels != source_labels:
        note(
            f"label values renumbered, as nnU-Net wants them consecutive, {IGNORE!r} last: {source_labels} -> {labels}"
        )
    training = _training_pairs(source, task, parameters.cases, left_out, note)
    testing, unlabelled = _test_pairs(source, task, parameters.cases, left_out)
    if unlabelled:
        note(f"left out: {len(unlabelled)} test images without labels (--test-share sets labelled cases aside)")
    drawn = _draw(training, parameters)
    tests = testing + [pair for pair in training if pair in drawn]
    training = [pair for pair in training if pair not in drawn]
    if parameters.slices and len(training) < 5:
        folds = "no folds by patient, train with fold all" if len(training) == 1 else f"only {len(training)} folds"
        note(f"training patients: {len(training)}; fewer than five, so there are {folds}")
    files = [path for pair in training + tests for path in (pair.image, pair.label)]
    suffix = "Axial" if parameters.slices else ""
    reader = _Reader(values, labels.get(IGNORE), parameters, left_out, note)
    return write_dataset(
        raw_folder,
        dataset_id,
        name or re.sub(r"[^A-Za-z0-9]", "", str(task.get("name") or source.resolve().name)) + suffix,
        reader.cases(training),
        reader.cases(tests),
        channel_names=channel_names,
        labels=labels,
        file_ending=".nii.gz",
        provenance={
            "source": "Medical Segmentation Decathlon, Antonelli et al. 2022",
            "parameters": recorded(parameters, if_changed=("cases",)),
            "source_labels": source_labels,
            **({"unlabelled_test_cases": unlabelled} if unlabelled else {}),
            "source_sha256": left_out.digest(source, [source / "dataset.json", *files]),
        },
        left_out=left_out,
    )


def _read_task(source: Path) -> dict[str, Any]:
    """Read the task's dataset.json."""
    file = source / "dataset.json"
    if not file.is_file():
        raise UserError(f"no dataset.json in {source}: {LAYOUT}")
    task = dict(read_json(file, LAYOUT, nan=True))
    for key, kind in (("modality", dict), ("labels", dict), ("training", list)):
        if not isinstance(task.get(key), kind) or not task[key]:
            raise UserError(f"{file} has no {key!r}, or an empty one: {LAYOUT}")
    if set(task["modality"]) != {str(index) for index in range(len(task["modality"]))}:
        raise UserError(f"{file}: modalities must be numbered '0', '1', ..., got {task['modality']}")
    return task


def _labels(task: Mapping[str, Any]) -> dict[str, int]:
    """Return the labels as name to value, from value to name; 0 is "background", however the task spells it."""
    try:
        labels = {int(value): str(label) for value, label in task["labels"].items()}
    except ValueError:
        raise UserError(f"labels in dataset.json must be value to name, got {task['labels']}: {LAYOUT}") from None
    if labels.get(0) == IGNORE:
        raise UserError(f"labels in dataset.json have {IGNORE!r} as 0, which is the background's, got {task['labels']}")
    labels[0] = "background"
    if len(set(labels.values())) != len(labels) or min(labels) < 0:
        raise UserError(f"labels in dataset.json must have a name each and values from 0, got {task['labels']}")
    return {label: value for value, label in labels.items()}


def _training_pairs(
    source: Path, task: Mapping[str, Any], cases: int | None, left_out: LeftOut, note: Note
) -> list[Pair]:
    """Find the first training pairs of which both files are there, by name; note files that dataset.json lacks."""
    listed: list[tuple[Path, Path]] = []
    for entry in task["training"]:
        files = [entry.get(key) if isinstance(entry, dict) else None for key in ("image", "label")]
        if not all(isinstance(file, str) and not Path(file).is_absolute() for file in files):
            raise UserError(
                f"entries of 'training' in dataset.json must be paths of an image and a label in {source}, got {entry}"
            )
        listed.append((source / str(files[0]), source / str(files[1])))
    training = list(itertools.islice(_complete(listed, left_out), cases))
    if not training:
        raise UserError(f"no image with a label in {source}, of {len(listed)} in dataset.json: {LAYOUT}")
    for folder, column in (("imagesTr", 0), ("labelsTr", 1)):
        known = {pair[column].name for pair in listed}
        for path in sorted((source / folder).glob("*")):
            if is_nifti(path) and path.name not in known:
                note(f"left out: {folder}/{path.name} is not in dataset.json")
    return training


def _test_pairs(
    source: Path, task: Mapping[str, Any], cases: int | None, left_out: LeftOut
) -> tuple[list[Pair], list[str]]:
    """Find the first test pairs of which both files are there, and the names of all that have no label."""
    entries = [entry if isinstance(entry, dict) else {"image": entry} for entry in task.get("test") or []]
    images = [source / str(entry["image"]) for entry in entries if "image" in entry]
    tests = [(image, source / "labelsTs" / image.name) for image in images]
    unlabelled = sorted(stem(image) for image, label in tests if is_nifti(image) and not label.is_file())
    labelled = _complete([pair for pair in tests if pair[1].is_file()], left_out)
    return list(itertools.islice(labelled, cases)), unlabelled


def _complete(listed: Iterable[tuple[Path, Path]], left_out: LeftOut) -> Iterator[Pair]:
    """Yield the pairs of which both files are there, by name."""
    for image, label in sorted(listed, key=lambda files: (stem(files[0]), files)):
        if not is_nifti(image):
            continue
        missing = [path for path in (image, label) if not path.is_file()]
        if missing:
            files = " and no ".join(f"{path.parent.name}/{path.name}" for path in missing)
            fault = f"{stem(image)} is in dataset.json, but there is no {files}: get it, or take the entry out"
            left_out.add(stem(image), fault)
        else:
            yield Pair(stem(image), image, label)


def _draw(pairs: Sequence[Pair], parameters: MsdParameters) -> set[Pair]:
    """Return the pairs that become test cases; each is a patient."""
    if not parameters.test_share:
        return set()
    count = max(1, round(parameters.test_share * len(pairs)))
    if count >= len(pairs):
        raise UserError(f"test_share {parameters.test_share} of {len(pairs)} patients leaves none for training")
    order = numpy_generator("msd test share", parameters.seed).permutation(len(pairs))
    return {pairs[index] for index in order[:count]}


class _Reader(NamedTuple):
    """Reads the cases, one volume at a time.

    Attributes:
        values: the label's values in the files, and what each becomes.
        ignore: what the label "ignore" becomes; None without one.
        parameters: volumes, or which slices.
        left_out: takes the volumes that cannot be read.
        note: takes a line about each volume without a slice.
    """

    values: Mapping[int, int]
    ignore: int | None
    parameters: MsdParameters
    left_out: LeftOut
    note: Note

    def cases(self, pairs: Iterable[Pair]) -> Iterator[Case]:
        """Yield the cases of each pair: the volume or its slices."""
        for pair in pairs:
            with self.left_out.if_faulty(pair.name):
                if self.parameters.slices is None:
                    yield self._volume(pair)
                    continue
                slices = list(self._axial_slices(pair))
                if not slices:
                    self.note(f"left out: {pair.name} has no slice with enough foreground")
                yield from slices

    def _volume(self, pair: Pair) -> Case:
        volume = read_volume(pair.name, pair.image, pair.label, self.values)
        return Case(
            pair.name,
            volume.channels,
            volume.label,
            patient=pair.name,
            spacing_mm=volume.spacing_mm,
            origin_mm=volume.origin_mm,
            direction=volume.direction,
        )

    def _axial_slices(self, pair: Pair) -> Iterator[Case]:
        """Yield the slices of a volume that have enough foreground, from feet to head."""
        volume = read_volume(pair.name, pair.image, pair.label, self.values, orientation="LPS")
        foreground = (volume.label > 0) & (volume.label != (0 if self.ignore is None else self.ignore))
        shares = np.mean(foreground, axis=(1, 2))
        for index in np.flatnonzero((shares > 0) & (shares >= self.parameters.min_foreground)):
            yield Case(
                f"{pair.name}_slice{index:03d}",
                [channel[index] for channel in volume.channels],
                volume.label[index],
                patient=pair.name,
                spacing_mm=volume.spacing_mm[1:],
            )
