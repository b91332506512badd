"""BUSI, breast ultrasound images: lesions outlined in PNG masks, several an image, of whatever pixel format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from nnunet_robust.common.digest import source_digest
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.dataset_conversion.source import contents, read_image
from nnunet_robust.dataset_conversion.writer import Case, Labels, write_dataset

FOLDER = "Dataset_BUSI_with_GT"
OWNER = "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset (Al-Dhabyani et al. 2020)"
LESION_CLASSES = ("benign", "malignant")
NORMAL = "normal"

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_LABELS: Labels = {"background": 0, "lesion": 1}
_REGIONS: Labels = {"background": 0, "lesion": [1, 2], "malignant": 2}


@dataclass(frozen=True)
class BusiParameters:
    """What becomes of BUSI.

    Attributes:
        include_normal: take the images without a lesion as well, with empty masks.
        classes: keep benign and malignant apart, as nnU-Net's regions "lesion" and "malignant".
        test_share: share of each class's images that is kept for testing, in [0, 1); rounded to whole images, and at
            least one image of a class stays for training. 0 gives no test set.
        seed: of the draw. Neither of the other options changes which images of a class are drawn.

    Raises:
        UserError: `test_share` is out of its range.
    """

    include_normal: bool = False
    classes: bool = False
    test_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise UserError(f"test share must be in [0, 1), got {self.test_share}")

    @property
    def dataset_name(self) -> str:
        """`BUSI`, and what is not default: `BUSINormalClasses`."""
        return f"BUSI{'Normal' if self.include_normal else ''}{'Classes' if self.classes else ''}"


@dataclass
class _Entry:
    """An image of the source and its masks."""

    kind: str
    number: int
    image: Path | None = None
    masks: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.number:04d}"


def convert_busi(
    raw_folder: Path,
    source: Path,
    dataset_id: int,
    name: str | None = None,
    parameters: BusiParameters | None = None,
    note: Callable[[str], None] = print,
) -> Path:
    """Write BUSI in nnU-Net's raw format: 8-bit grey PNGs, the masks of an image joined.

    Cases are named `benign_0001` and so on, after their files, and folds and test set are stratified by class. BUSI
    publishes no patients, so that images of one woman may lie on both sides of a split. Images that
    are not grey are noted.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        source: `Dataset_BUSI_with_GT`, or the folder that holds it.
        dataset_id: 1 to 999.
        name: of the dataset; None for `parameters.dataset_name`.
        parameters: what to make; None for the defaults.
        note: takes each line about what is odd in the source.

    Returns:
        The dataset's folder. One that was made from the same files and parameters is left as it is.

    Raises:
        UserError: a folder, an image or a mask is missing, cannot be read, or does not fit; or the id is taken.

    Reference: Al-Dhabyani et al., "Dataset of breast ultrasound images", Data in Brief 28 (2020) 104863.
    """
    parameters = parameters or BusiParameters()
    source = source / FOLDER if (source / FOLDER).is_dir() else source
    kinds = (*LESION_CLASSES, NORMAL) if parameters.include_normal else LESION_CLASSES
    entries = [entry for kind in kinds for entry in _scan(source, kind)]
    files = [path for entry in entries for path in (_image_path(entry), *entry.masks)]
    tested = _draw_test(entries, parameters)
    coloured: list[str] = []
    folder = write_dataset(
        raw_folder,
        dataset_id,
        name or parameters.dataset_name,
        _cases([entry for entry in entries if entry.name not in tested], parameters.classes, coloured),
        _cases([entry for entry in entries if entry.name in tested], parameters.classes, coloured),
        channel_names={0: "ultrasound"},
        labels=_REGIONS if parameters.classes else _LABELS,
        regions_class_order=[1, 2] if parameters.classes else None,
        file_ending=".png",
        provenance={
            "source": "BUSI, Al-Dhabyani et al. 2020",
            "parameters": asdict(parameters),
            "source_sha256": source_digest(source, files),
        },
    )
    if coloured:
        note(f"not grey, written as luminance: {', '.join(coloured)}")
    return folder


def read_grey(path: Path) -> tuple[np.ndarray, bool]:
    """An image as grey values, and whether it was grey.

    `Y = 0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601), rounded: where the three channels agree, as in nearly all of BUSI,
    that is their value, exactly. An alpha channel is left out; a palette is looked up.

    Args:
        path: an image file of at most 8 bits a channel.

    Returns:
        (H, W) uint8, and True where red, green and blue agree in every pixel.

    Raises:
        UserError: the file cannot be read, or has other pixels.
    """
    image = read_image(path, _MODES).convert("RGB")
    colours = np.asarray(image)
    return np.asarray(image.convert("L")), bool((colours == colours[..., :1]).all())


def read_mask(path: Path) -> np.ndarray:
    """A mask file as (H, W) bool: True where the brightest channel is above half of the mask's own maximum.

    For masks of two values, as BUSI's are, that is every pixel that is not black, be the other value 1 or 255; smooth
    borders, as resized copies have, are cut half-way. An alpha channel does not count; a palette is looked up.

    Raises:
        UserError: the file cannot be read, or has pixels of more than 8 bits a channel.
    """
    brightest = np.asarray(read_image(path, _MODES).convert("RGB")).max(axis=-1)
    return brightest > brightest.max() / 2


def _scan(source: Path, kind: str) -> list[_Entry]:
    """The images of a class and their masks, ordered by number; refuses what cannot be paired."""
    folder = source / kind
    expected = f"expected '{kind} (1).png', '{kind} (1)_mask.png', ... as published at {OWNER}"
    if not folder.is_dir():
        raise UserError(f"{source} has no folder {kind!r} (found: {contents(source)}): {expected}")
    entries: dict[int, _Entry] = {}
    for path in sorted(folder.glob("[!.]*.png")):  # hidden ones are macOS's
        match = re.fullmatch(rf"{kind} \((\d+)\)(_mask(?:_\d+)?)?\.png", path.name)
        if match is None:
            raise UserError(f"{path} is neither an image nor a mask of BUSI: {expected}; take it away or rename it")
        number = int(match[1])
        entry = entries.setdefault(number, _Entry(kind, number))
        if match[2]:
            entry.masks.append(path)
        else:
            entry.image = path
    if not entries:
        raise UserError(f"{folder} holds no PNGs (found: {contents(folder)}): {expected}")
    for entry in entries.values():
        if not entry.masks:
            raise UserError(f"{_image_path(entry)} has no mask: {expected}")
        _image_path(entry)
    return [entries[number] for number in sorted(entries)]


def _image_path(entry: _Entry) -> Path:
    if entry.image is None:
        name = f"{entry.kind} ({entry.number}).png"
        raise UserError(f"{entry.masks[0]} is a mask without its image {name!r}: get it from {OWNER}")
    return entry.image


def _draw_test(entries: Sequence[_Entry], parameters: BusiParameters) -> set[str]:
    """The names of the test cases: of each class its share."""
    tested: set[str] = set()
    for kind in (*LESION_CLASSES, NORMAL):
        names = [entry.name for entry in entries if entry.kind == kind]
        count = min(round(parameters.test_share * len(names)), len(names) - 1)
        order = numpy_generator(parameters.seed, "busi", "test", kind).permutation(len(names))
        tested.update(names[index] for index in order[: max(count, 0)])
    return tested


def _cases(entries: Sequence[_Entry], classes: bool, coloured: list[str]) -> Iterator[Case]:
    """The cases, read one at a time; the names of images that are not grey are added to `coloured`."""
    for entry in entries:
        path = _image_path(entry)
        image, is_grey = read_grey(path)
        if not is_grey:
            coloured.append(path.name)
        lesion = np.zeros(image.shape, dtype=bool)
        for mask_path in entry.masks:
            mask = read_mask(mask_path)
            if mask.shape != image.shape:
                raise UserError(
                    f"{mask_path} is {_size(mask)} pixels, its image {path.name!r} {_size(image)}: "
                    f"get the original pair from {OWNER}"
                )
            lesion |= mask
        if lesion.any() == (entry.kind == NORMAL):
            what = (
                "an empty mask, but shows a lesion" if entry.kind != NORMAL else "a lesion in its mask, but is normal"
            )
            raise UserError(f"{path} has {what}: get the original pair from {OWNER}")
        value = 2 if classes and entry.kind == "malignant" else 1
        yield Case(entry.name, [image], lesion.astype(np.uint8) * value, stratum=entry.kind)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
