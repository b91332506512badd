"""Tasks of the Medical Segmentation Decathlon to nnU-Net raw datasets, as volumes or as axial slices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from nnunet_robust.common.digest import source_digest
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.dataset_conversion.nifti import is_nifti, read_volume, stem
from nnunet_robust.dataset_conversion.writer import Case, write_dataset

LAYOUT = (
    "a Decathlon task has dataset.json (modality, labels, training), imagesTr and labelsTr, "
    "as http://medicaldecathlon.com publishes it"
)

Note = Callable[[str], None]


@dataclass(frozen=True)
class MsdParameters:
    """How a task is converted.

    Attributes:
        test_share: share of the patients, in [0, 1), that become test cases: the task's own test labels are not public.
        seed: of their choice; of two shares, the larger one's test patients include the smaller one's.
        slices: "axial" makes every axial slice with foreground a 2d case; None keeps the volumes.
        min_foreground: of slices, the least share of foreground pixels, in [0, 1); at 0 one pixel is enough.

    Raises:
        UserError: a value is out of its range.
    """

    test_share: float = 0.0
    seed: int = 0
    slices: Literal["axial"] | None = None
    min_foreground: float = 0.0

    def __post_init__(self) -> None:
        for field in ("test_share", "min_foreground"):
            if not 0 <= getattr(self, field) < 1:
                raise UserError(f"{field} must be in [0, 1), got {getattr(self, field)}")
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
) -> Path:
    """Write a Decathlon task in nnU-Net's raw format: `.nii.gz`, the task's own channel and label names.

    Values of the images are kept as they are, and so is the geometry; a 4d image becomes one file a channel. Label
    values that are not consecutive are renumbered in their order, which nnU-Net asks for. An image without a label, a
    label without an image, and a file that `dataset.json` does not list are reported and left out.

    Axial slices are those nearest to the axial plane in the patient's space, rows from front to back, columns from the
    patient's right to left, numbered from feet to head: `<case>_slice000`. All slices of a volume have it as their
    patient, and the folds are made by patient.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        source: the task's folder.
        dataset_id: 1 to 999.
        name: of the dataset; None for the task's own, with "Axial" for slices.
        parameters: None for the defaults: volumes, no test cases.
        note: takes each line about what was left out.

    Returns:
        The dataset's folder. One that was made from the same files and parameters is left as it is.

    Raises:
        UserError: the folder is no Decathlon task, a file cannot be read or does not fit, or the id is taken.

    Reference: Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 2022; axial slices as in
    Kamath et al., MICCAI 2023, whose slices hold the organ.
    """
    parameters = parameters or MsdParameters()
    source = Path(source)
    task = _read_task(source)
    channel_names = {index: task["modality"][str(index)] for index in range(len(task["modality"]))}
    source_labels = _labels(task)
    values = {value: position for position, value in enumerate(sorted(source_labels.values()))}
    labels = {label: values[value] for label, value in sorted(source_labels.items(), key=lambda item: item[1])}
    if labels != source_labels:
        note(f"label values renumbered, as nnU-Net wants them consecutive: {source_labels} -> {labels}")
    training, testing = _pairs(source, task, note)
    drawn = _draw(training, parameters)
    tests = testing + [pair for pair in training if pair in drawn]
    training = [pair for pair in training if pair not in drawn]
    if parameters.slices and len(training) < 5:
        folds = "no folds by patient, train with fold all" if len(training) == 1 else f"only {len(training)} folds"
        note(f"training patients: {len(training)}; fewer than five, so there are {folds}")
    files = [path for pair in training + tests for path in (pair.image, pair.label)]
    suffix = "Axial" if parameters.slices else ""
    return write_dataset(
        raw_folder,
        dataset_id,
        name or re.sub(r"[^A-Za-z0-9]", "", str(task.get("name") or source.resolve().name)) + suffix,
        _cases(training, values, parameters, note),
        _cases(tests, values, parameters, note),
        channel_names=channel_names,
        labels=labels,
        file_ending=".nii.gz",
        provenance={
            "source": "Medical Segmentation Decathlon, Antonelli et al. 2022",
            "parameters": asdict(parameters),
            "source_labels": source_labels,
            "source_sha256": source_digest(source, [source / "dataset.json", *files]),
        },
    )


def _read_task(source: Path) -> dict[str, Any]:
    """The task's dataset.json."""
    file = source / "dataset.json"
    if not file.is_file():
        raise UserError(f"no dataset.json in {source}: {LAYOUT}")
    try:
        task = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}): {LAYOUT}") from error
    for key, kind in (("modality", dict), ("labels", dict), ("training", list)):
        if not isinstance(task, dict) or not isinstance(task.get(key), kind) or not task[key]:
            raise UserError(f"{file} has no {key!r}, or an empty one: {LAYOUT}")
    if set(task["modality"]) != {str(index) for index in range(len(task["modality"]))}:
        raise UserError(f"{file}: modalities must be numbered '0', '1', ..., got {task['modality']}")
    return task


def _labels(task: Mapping[str, Any]) -> dict[str, int]:
    """Name to value, of labels given as value to name; 0 is "background", however the task spells it."""
    try:
        labels = {int(value): str(label) for value, label in task["labels"].items()}
    except ValueError:
        raise UserError(f"labels in dataset.json must be value to name, got {task['labels']}: {LAYOUT}") from None
    labels[0] = "background"
    if len(set(labels.values())) != len(labels) or min(labels) < 0:
        raise UserError(f"labels in dataset.json must have a name each and values from 0, got {task['labels']}")
    return {label: value for value, label in labels.items()}


def _pairs(source: Path, task: Mapping[str, Any], note: Note) -> tuple[list[Pair], list[Pair]]:
    """The training and the test pairs that are complete, by name; all else is noted."""
    listed: list[tuple[Path, Path]] = []
    for entry in task["training"]:
        files = [entry.get(key) if isinstance(entry, dict) else None for key in ("image", "label")]
        if not all(isinstance(file, str) and not Path(file).is_absolute() for file in files):
            raise UserError(
                f"entries of 'training' in dataset.json must be paths of an image and a label in {source}, got {entry}"
            )
        listed.append((source / str(files[0]), source / str(files[1])))
    training = _complete(listed, note)
    if not training:
        raise UserError(f"no image with a label in {source}, of {len(listed)} in dataset.json: {LAYOUT}")
    for folder, column in (("imagesTr", 0), ("labelsTr", 1)):
        known = {pair[column].name for pair in listed}
        for path in sorted((source / folder).glob("*")):
            if is_nifti(path) and path.name not in known:
                note(f"left out: {folder}/{path.name} is not in dataset.json")

    test_entries = [entry if isinstance(entry, dict) else {"image": entry} for entry in task.get("test") or []]
    images = [source / str(entry["image"]) for entry in test_entries if "image" in entry]
    tests = [(image, source / "labelsTs" / image.name) for image in images]
    labelled = _complete([pair for pair in tests if pair[1].is_file()], note)
    unlabelled = [image for image, label in tests if is_nifti(image) and not label.is_file()]
    if unlabelled:
        note(f"left out: {len(unlabelled)} test images without labels (--test-share sets labelled cases aside)")
    return training, labelled


def _complete(listed: Iterable[tuple[Path, Path]], note: Note) -> list[Pair]:
    """The pairs of which both files are there, by name."""
    pairs = []
    for image, label in listed:
        if not is_nifti(image):
            continue
        missing = [path for path in (image, label) if not path.is_file()]
        if missing:
            note(
                f"left out: {stem(image)}, there is no {' and no '.join(f'{p.parent.name}/{p.name}' for p in missing)}"
            )
        else:
            pairs.append(Pair(stem(image), image, label))
    return sorted(pairs)


def _draw(pairs: Sequence[Pair], parameters: MsdParameters) -> set[Pair]:
    """The pairs that become test cases; each is a patient."""
    if not parameters.test_share:
        return set()
    count = max(1, round(parameters.test_share * len(pairs)))
    if count >= len(pairs):
        raise UserError(f"test_share {parameters.test_share} of {len(pairs)} patients leaves none for training")
    order = numpy_generator("msd test share", parameters.seed).permutation(len(pairs))
    return {pairs[index] for index in order[:count]}


def _cases(pairs: Iterable[Pair], values: Mapping[int, int], parameters: MsdParameters, note: Note) -> Iterator[Case]:
    """The cases, read one volume at a time."""
    for pair in pairs:
        if parameters.slices is None:
            volume = read_volume(pair.name, pair.image, pair.label, values)
            yield Case(
                pair.name,
                volume.channels,
                volume.label,
                spacing_mm=volume.spacing_mm,
                origin_mm=volume.origin_mm,
                direction=volume.direction,
            )
            continue
        slices = list(_axial_slices(pair, values, parameters.min_foreground))
        if not slices:
            note(f"left out: {pair.name} has no slice with enough foreground")
        yield from slices


def _axial_slices(pair: Pair, values: Mapping[int, int], min_foreground: float) -> Iterator[Case]:
    """The slices of a volume that have enough foreground, from feet to head."""
    volume = read_volume(pair.name, pair.image, pair.label, values, orientation="LPS")
    shares = np.mean(volume.label > 0, axis=(1, 2))
    for index in np.flatnonzero((shares > 0) & (shares >= min_foreground)):
        yield Case(
            f"{pair.name}_slice{index:03d}",
            [channel[index] for channel in volume.channels],
            volume.label[index],
            patient=pair.name,
            spacing_mm=volume.spacing_mm[1:],
        )
