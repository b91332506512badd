"""GlaS (Warwick-QU), colon histology: glands outlined in BMPs of instance numbers, grades and patients in a CSV."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.left_out import LeftOut, Note
from nnunet_robust.dataset_conversion.selection import check_selection, draw_patients, recorded
from nnunet_robust.dataset_conversion.source import contents, image_files, read_image, unwrap
from nnunet_robust.dataset_conversion.writer import Case, Labels, write_dataset

OWNER = "https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest (Sirinukunwattana et al. 2017)"
GRADES_FILE = "Grade.csv"

_PARTS = ("train", "testA", "testB")
_GLAND, _BOUNDARY = 1, 2
_EXPECTED = f"expected train_1.bmp, train_1_anno.bmp, ..., testA_1.bmp, ... as published at {OWNER}"


@dataclass(frozen=True)
class GlasParameters:
    """What becomes of GlaS.

    Attributes:
        gray: one channel, the luminance, as in Kamath et al. 2023; otherwise red, green and blue, a channel each.
        boundary_px: where glands meet, a third class: see `touching_borders`; None for gland and background only.
        cases: take the first so many images of the challenge's training set, and as many of its test set; None for all.
        test_share: share of the training set's patients, in [0, 1), that become test cases, beside the challenge's.
        seed: of their choice; see `selection.draw_patients`.

    Raises:
        UserError: `boundary_px` is below 1 or not finite, or another value is out of its range.
    """

    gray: bool = False
    boundary_px: float | None = None
    cases: int | None = None
    test_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_selection(self.cases, self.test_share)
        if self.boundary_px is not None and not 1 <= self.boundary_px < math.inf:
            raise UserError(f"the boundary's distance must be at least 1 pixel, got {self.boundary_px}")

    @property
    def dataset_name(self) -> str:
        """The dataset's name: `GlaS`, and what is not default: `GlaSGrayBoundary`."""
        return f"GlaS{'Gray' if self.gray else ''}{'' if self.boundary_px is None else 'Boundary'}"


class Grade(NamedTuple):
    """What `Grade.csv` says of an image."""

    patient: str
    grade: str


def convert_glas(
    raw_folder: Path,
    source: Path,
    dataset_id: int,
    name: str | None = None,
    parameters: GlasParameters | None = None,
    note: Note = print,
    strict: bool = False,
) -> Path:
    """Write GlaS in nnU-Net's raw format: 8-bit PNGs, one a channel, with the challenge's own training and test sets.

    `train_N` goes to `imagesTr`, `testA_N` and `testB_N` go to `imagesTs`, under their own names. With `Grade.csv`,
    folds are made by patient and stratified by grade (benign, malignant); without it every image counts as a patient,
    which is noted, and so are patients who are in the training and the test set, as in the challenge itself.
    nnU-Net's z-score acts on each of the channels R, G and B by itself. An image is left out, and named, if it, its
    annotation or its row of `Grade.csv` is missing, or cannot be read.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        source: the folder with the BMPs, "Warwick QU Dataset (Released 2016_07_08)", or one that holds nothing else.
        dataset_id: 1 to 999.
        name: of the dataset; None for `parameters.dataset_name`.
        parameters: what to make; None for the defaults.
        note: takes each line about what is odd in the source or left out.
        strict: refuse a source with anything that would be left out.

    Returns:
        The dataset's folder. One that was made from the same files and parameters is left as it is.

    Raises:
        UserError: there are no training images, `Grade.csv` has rows that are not whole or contradict one another, the
            id is taken, or, if `strict`, an image, an annotation or a row of `Grade.csv` is missing, cannot be read, or
            does not fit.

    Reference: Sirinukunwattana et al., "Gland segmentation in colon histology images: the GlaS challenge contest",
    Medical Image Analysis 35 (2017).
    """
    parameters = parameters or GlasParameters()
    source = unwrap(Path(source), lambda folder: any(folder.glob("train_*.bmp")))
    left_out = LeftOut(source, note, strict)
    grades_path = source / GRADES_FILE
    grades = read_grades(grades_path) if grades_path.is_file() else None
    images = _scan(source, grades, parameters.cases, left_out)
    files = [path for image in images.values() for path in (image, _annotation(image))]
    if grades is not None:
        files.append(grades_path)
    training = [name for name in images if name.startswith("train_")]
    patients = {name: name if grades is None else grades[name].patient for name in training}
    strata = {patients[name]: "" if grades is None else grades[name].grade for name in reversed(training)}
    drawn = draw_patients(strata, parameters.test_share, parameters.seed)
    testing = [name for name in images if name not in patients or patients[name] in drawn]
    training = [name for name in training if patients[name] not in drawn]
    labels: Labels = {"background": 0, "gland": _GLAND}
    folder = write_dataset(
        raw_folder,
        dataset_id,
        name or parameters.dataset_name,
        _cases(training, images, grades, parameters, left_out),
        _cases(testing, images, grades, parameters, left_out),
        channel_names={0: "gray"} if parameters.gray else {0: "R", 1: "G", 2: "B"},
        labels=labels if parameters.boundary_px is None else {**labels, "boundary": _BOUNDARY},
        file_ending=".png",
        provenance={
            "source": "GlaS (Warwick-QU), Sirinukunwattana et al. 2017",
            "parameters": recorded(parameters, if_changed=("cases", "test_share", "seed")),
            "source_sha256": left_out.digest(source, files),
        },
        left_out=left_out,
    )
    if grades is None:
        note(f"no {GRADES_FILE} in the source: every image counts as a patient of its own, folds have no strata")
    elif shared := {grades[name].patient for name in training} & {grades[name].patient for name in testing}:
        note(f"{len(shared)} patients of the challenge's test set are in its training set as well")
    return folder


def read_grades(path: Path) -> dict[str, Grade]:
    """Read `Grade.csv`: the columns `name`, `patient ID` and `grade (GlaS)`.

    Spaces around headers and values, the headers' case, a byte order mark, and CR, LF or CRLF as line ends are all
    taken, as copies of the file differ in them.

    Returns:
        Image name, such as "testA_1", to patient and grade.

    Raises:
        UserError: a column or a value is missing, or an image has two rows that differ.
    """
    text = io.StringIO(path.read_bytes().decode("utf-8-sig", errors="replace"), newline=None)  # None: any line end
    rows = [[cell.strip() for cell in row] for row in csv.reader(text)]
    rows = [row for row in rows if any(row)]
    header = [" ".join(cell.casefold().split()) for cell in rows[0]] if rows else []
    columns = []
    for wanted in ("name", "patient id", "grade (glas)"):
        if wanted not in header:
            raise UserError(f"{path} has no column {wanted!r}, its header is {header}: get the original from {OWNER}")
        columns.append(header.index(wanted))
    grades: dict[str, Grade] = {}
    for row in rows[1:]:
        values = [row[column] if column < len(row) else "" for column in columns]
        if not all(values):
            raise UserError(f"{path} has an incomplete row {row}: get the original from {OWNER}")
        name, grade = values[0], Grade(values[1], values[2].casefold())
        if grades.setdefault(name, grade) != grade:
            raise UserError(f"{path} has two rows for {name} that differ: get the original from {OWNER}")
    return grades


def touching_borders(instances: np.ndarray, distance_px: float) -> np.ndarray:
    """Find where glands meet: the pixels of a gland that lie at most `distance_px` from a pixel of another gland.

    Distances are Euclidean, between the pixels' centres: 1 marks pixels that share an edge with another gland. The
    default of 3 is the radius to which Chen et al. widen the contours that keep glands apart; unlike theirs, borders to
    the background are not marked, and no background pixel is.

    Args:
        instances: (H, W) integers, 0 for the background, a number for each gland.
        distance_px: in pixels, at least 1.

    Returns:
        (H, W) bool.

    >>> touching_borders(np.array([[1, 1, 2, 0, 3]]), distance_px=1).tolist()
    [[False, True, True, False, False]]

    Reference: Chen et al., "DCAN: Deep contour-aware networks for accurate gland segmentation", CVPR 2016.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    border: np.ndarray = np.zeros(instances.shape, dtype=bool)
    margin = math.ceil(distance_px)
    for number, box in enumerate(find_objects(instances), start=1):
        if box is None:
            continue
        # Nothing beyond the gland's box and this margin is near enough.
        near = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
        window = instances[near]
        others = (window != 0) & (window != number)
        if others.any():
            border[near] |= (window == number) & (distance_transform_edt(~others) <= distance_px)
    return border


def _scan(source: Path, grades: Mapping[str, Grade] | None, cases: int | None, left_out: LeftOut) -> dict[str, Path]:
    """Find the images by name, training first, then by number; of each set the first `cases`."""
    found: dict[tuple[int, int], Path] = {}
    annotations: set[Path] = set()
    if not source.is_dir():
        raise UserError(f"no such folder: {source}; {_EXPECTED}")
    for path in image_files(source):
        match = re.fullmatch(rf"({'|'.join(_PARTS)})_(0|[1-9]\d*)(_anno)?\.bmp", path.name)
        if match is None:
            left_out.add(path.name, f"{path} is neither an image nor an annotation of GlaS: {_EXPECTED}")
        elif match[3]:
            annotations.add(path)
        else:
            found[_PARTS.index(match[1]), int(match[2])] = path
    training, testing = ([found[key] for key in sorted(found) if (key[0] == 0) is trained] for trained in (True, False))
    if not training:
        raise UserError(f"{source} holds no training images (found: {contents(source)}): {_EXPECTED}")
    for path in sorted(annotations - {_annotation(path) for path in training + testing}):
        left_out.add(path.name, f"{path} is an annotation without its image: get it from {OWNER}")
    parts = (_complete(part, annotations, grades, left_out) for part in (training, testing))
    return {path.stem: path for part in parts for path in itertools.islice(part, cases)}


def _complete(
    images: Sequence[Path], annotations: set[Path], grades: Mapping[str, Grade] | None, left_out: LeftOut
) -> Iterator[Path]:
    """Yield the images that have an annotation and, where there are grades, one."""
    for path in images:
        with left_out.if_faulty(path.stem):
            if _annotation(path) not in annotations:
                raise UserError(f"{path} has no annotation {_annotation(path).name}: get it from {OWNER}")
            if grades is not None and path.stem not in grades:
                where = path.with_name(GRADES_FILE)
                raise UserError(f"{where} has no row for {path.stem}: get the original from {OWNER}, or take it away")
            yield path


def _annotation(image: Path) -> Path:
    return image.with_name(f"{image.stem}_anno.bmp")


def _cases(
    names: Sequence[str],
    images: Mapping[str, Path],
    grades: Mapping[str, Grade] | None,
    parameters: GlasParameters,
    left_out: LeftOut,
) -> Iterator[Case]:
    """Read the cases, one at a time."""
    for name in names:
        with left_out.if_faulty(name):
            channels, label = _read_pair(images[name], parameters)
            grade = None if grades is None else grades[name]
            yield Case(name, channels, label, patient=grade and grade.patient, stratum=grade and grade.grade)


def _read_pair(path: Path, parameters: GlasParameters) -> tuple[list[np.ndarray], np.ndarray]:
    """Read the channels of an image and its label map."""
    image = read_image(path, ("L", "P", "RGB", "RGBA")).convert("RGB")
    # Modes 1, L and P: the numbers as they are stored. Converted, a palette's colours would take their place.
    instances = np.asarray(read_image(_annotation(path), ("1", "L", "P"))).astype(np.uint8)
    if instances.shape != (image.height, image.width):
        raise UserError(
            f"{_annotation(path)} is {instances.shape[1]} x {instances.shape[0]} pixels, its image "
            f"{image.width} x {image.height}: get the original pair from {OWNER}"
        )
    channels = [image.convert("L")] if parameters.gray else image.split()  # "L": ITU-R BT.601's luminance
    label = np.where(instances > 0, _GLAND, 0).astype(np.uint8)
    if parameters.boundary_px is not None:
        label[touching_borders(instances, parameters.boundary_px)] = _BOUNDARY
    return [np.asarray(channel) for channel in channels], label
