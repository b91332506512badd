"""BUSI, breast ultrasound images: lesions outlined in PNG masks, several an image, of whatever pixel format."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.dataset_conversion.left_out import LeftOut, Note
from nnunet_robust.dataset_conversion.selection import check_selection, recorded
from nnunet_robust.dataset_conversion.source import contents, image_files, read_image, unwrap
from nnunet_robust.dataset_conversion.writer import Case, Labels, write_dataset

FOLDER = "Dataset_BUSI_with_GT"
OWNER = "https://scholar.cu.edu.eg/?q=afahmy/pages/dataset (Al-Dhabyani et al. 2020)"
LESION_CLASSES = ("benign", "malignant")
NORMAL = "normal"

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_LABELS: Labels = {"background": 0, "lesion": 1}
_REGIONS: Labels = {"background": 0, "lesion": [1, 2], "malignant": 2}

# A mask's value is grey from a tenth to nine tenths of its maximum. A soft edge, as resized and compressed copies have,
# is grey so many pixels, or such a share of the shorter side, from where the mask is cut; grey areas reach further.
_BLACK, _WHITE = 0.1, 0.9
_SOFT_PX, _SOFT_SHARE = 5, 0.02

_FRAME_SHARE = 0.05  # of a side: how wide a black frame around an inverted mask may be


@dataclass(frozen=True)
class BusiParameters:
    """What becomes of BUSI.

    Attributes:
        include_normal: take the images without a lesion as well, with empty masks.
        classes: keep benign and malignant apart, as nnU-Net's regions "lesion" and "malignant".
        test_share: share of each class's images that is kept for testing, in [0, 1); rounded to whole images, and at
            least one image of a class stays for training. 0 gives no test set.
        seed: of the draw. Neither of the first two options changes which images of a class are drawn.
        cases: take the first so many images, one of each class in turn; None for all.

    Raises:
        UserError: `test_share` or `cases` is out of its range.
    """

    include_normal: bool = False
    classes: bool = False
    test_share: float = 0.2
    seed: int = 0
    cases: int | None = None

    def __post_init__(self) -> None:
        check_selection(self.cases, self.test_share)

    @property
    def dataset_name(self) -> str:
        """The dataset's name: `BUSI`, and what is not default: `BUSINormalClasses`."""
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

    @property
    def files(self) -> list[Path]:
        return [*([] if self.image is None else [self.image]), *self.masks]


def convert_busi(
    raw_folder: Path,
    source: Path,
    dataset_id: int,
    name: str | None = None,
    parameters: BusiParameters | None = None,
    note: Note = print,
    strict: bool = False,
) -> Path:
    """Write BUSI in nnU-Net's raw format: 8-bit grey PNGs, the masks of an image joined.

    Cases are named `benign_0001` and so on, after their files, and folds and test set are stratified by class. BUSI
    publishes no patients, so that images of one woman may lie on both sides of a split. Images that are not grey are
    noted. An image is left out, and named, if it or a mask of it is missing or cannot be read, or if a mask marks the
    whole image, the surroundings of a lesion, or is grey.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        source: `Dataset_BUSI_with_GT`, or a folder that holds it.
        dataset_id: 1 to 999.
        name: of the dataset; None for `parameters.dataset_name`.
        parameters: what to make; None for the defaults.
        note: takes each line about what is odd in the source or left out.
        strict: refuse a source with anything that would be left out.

    Returns:
        The dataset's folder. One that was made from the same files and parameters is left as it is.

    Raises:
        UserError: a class's folder is missing, there is no sound image, the id is taken, or, if `strict`, an image or a
            mask is missing, cannot be read, or does not fit.

    Reference: Al-Dhabyani et al., "Dataset of breast ultrasound images", Data in Brief 28 (2020) 104863.
    """
    parameters = parameters or BusiParameters()
    source = Path(source) / FOLDER if (Path(source) / FOLDER).is_dir() else Path(source)
    source = unwrap(source, lambda folder: any((folder / kind).is_dir() for kind in LESION_CLASSES))
    left_out = LeftOut(source, note, strict)
    kinds = (*LESION_CLASSES, NORMAL) if parameters.include_normal else LESION_CLASSES
    complete = _complete(_in_turn([_scan(source, kind, left_out) for kind in kinds]), left_out)
    entries = list(itertools.islice(complete, parameters.cases))
    entries.sort(key=lambda entry: (kinds.index(entry.kind), entry.number))
    files = [path for entry in entries for path in entry.files]
    tested = _draw_test(entries, parameters)
    coloured: list[str] = []
    folder = write_dataset(
        raw_folder,
        dataset_id,
        name or parameters.dataset_name,
        _cases([entry for entry in entries if entry.name not in tested], parameters.classes, coloured, left_out),
        _cases([entry for entry in entries if entry.name in tested], parameters.classes, coloured, left_out),
        channel_names={0: "ultrasound"},
        labels=_REGIONS if parameters.classes else _LABELS,
        regions_class_order=[1, 2] if parameters.classes else None,
        file_ending=".png",
        provenance={
            "source": "BUSI, Al-Dhabyani et al. 2020",
            "parameters": recorded(parameters, if_changed=("cases",)),
            "source_sha256": left_out.digest(source, files),
        },
        left_out=left_out,
    )
    if coloured:
        note(f"not grey, written as luminance: {', '.join(coloured)}")
    return folder


def read_grey(path: Path) -> tuple[np.ndarray, bool]:
    """Read an image as grey values, and whether it was grey.

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
    """Read a mask file as (H, W) bool: True where the brightest channel is above half of the mask's own maximum.

    For masks of two values, as BUSI's are, that is every pixel that is not black, be the other value 1 or 255; smooth
    borders, as resized copies have, are cut half-way. An alpha channel does not count; a palette is looked up.

    Raises:
        UserError: the file cannot be read, or has pixels of more than 8 bits a channel.
    """
    return _cut(_brightest(path))


def mask_fault(values: np.ndarray) -> str:
    """Say what is wrong with a mask, as the end of a sentence that begins with its name; empty if it is sound.

    Args:
        values: (H, W), the mask's values as they are stored.

    >>> lesion = np.pad(np.full((4, 6), 255), 8)
    >>> mask_fault(lesion), mask_fault(255 - lesion)
    ('', 'marks more than half of the border of the image, as an inverted mask does')
    >>> mask_fault(np.full((4, 6), 255))
    'marks the whole image'
    """
    from scipy.ndimage import distance_transform_edt

    mask = _cut(values)
    if not mask.any():
        return ""
    if mask.all():
        return "marks the whole image"
    between = (values > _BLACK * values.max()) & (values < _WHITE * values.max())
    if between.any():
        inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
        if (between & (np.maximum(inside, outside) > max(_SOFT_PX, _SOFT_SHARE * min(mask.shape)))).any():
            return "has grey areas, and not only a soft edge: it may be an image, or have a value for each lesion"
    edges = _within_frame(mask)
    border = np.concatenate([edges[0], edges[-1], edges[1:-1, 0], edges[1:-1, -1]])
    if border.mean() > 0.5:
        return "marks more than half of the border of the image, as an inverted mask does"
    return ""


def _within_frame(mask: np.ndarray) -> np.ndarray:
    """Return a mask without the empty rows and columns around it, if these are a thin frame of the image."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    least = [(1 - 2 * _FRAME_SHARE) * length for length in mask.shape]
    return inner if all(inside >= length for inside, length in zip(inner.shape, least, strict=True)) else mask


def _brightest(path: Path) -> np.ndarray:
    return np.asarray(read_image(path, _MODES).convert("RGB")).max(axis=-1)


def _cut(values: np.ndarray) -> np.ndarray:
    return values > values.max() / 2


def _scan(source: Path, kind: str, left_out: LeftOut) -> list[_Entry]:
    """Find the images of a class and their masks, ordered by number."""
    folder = source / kind
    if not folder.is_dir():
        raise UserError(f"{source} has no folder {kind!r} (found: {contents(source)}): {_expected(kind)}")
    entries: dict[int, _Entry] = {}
    for path in image_files(folder):
        match = re.fullmatch(rf"{kind} \((0|[1-9]\d*)\)(_mask(?:_\d+)?)?\.png", path.name)
        if match is None:
            fault = f"{path} is neither an image nor a mask of BUSI: {_expected(kind)}; take it away or rename it"
            left_out.add(f"{kind}/{path.name}", fault)
            continue
        number = int(match[1])
        entry = entries.setdefault(number, _Entry(kind, number))
        if match[2]:
            entry.masks.append(path)
        else:
            entry.image = path
    if not entries:
        raise UserError(f"{folder} holds no PNGs (found: {contents(folder)}): {_expected(kind)}")
    return [entries[number] for number in sorted(entries)]


def _expected(kind: str) -> str:
    return f"expected '{kind} (1).png', '{kind} (1)_mask.png', ... as published at {OWNER}"


def _in_turn(classes: Sequence[Sequence[_Entry]]) -> list[_Entry]:
    """Return the first entry of each class, then the second of each, and so on."""
    turns = itertools.zip_longest(*classes)
    return [entry for turn in turns for entry in turn if entry is not None]


def _complete(entries: Sequence[_Entry], left_out: LeftOut) -> Iterator[_Entry]:
    """Yield the entries that have an image and a mask."""
    for entry in entries:
        with left_out.if_faulty(entry.name):
            _image_path(entry)
            if not entry.masks:
                raise UserError(f"{entry.image} has no mask: {_expected(entry.kind)}")
            yield entry


def _image_path(entry: _Entry) -> Path:
    if entry.image is None:
        name = f"{entry.kind} ({entry.number}).png"
        raise UserError(f"{entry.masks[0]} is a mask without its image {name!r}: get it from {OWNER}")
    return entry.image


def _draw_test(entries: Sequence[_Entry], parameters: BusiParameters) -> set[str]:
    """Return the names of the test cases: of each class its share."""
    tested: set[str] = set()
    for kind in (*LESION_CLASSES, NORMAL):
        names = [entry.name for entry in entries if entry.kind == kind]
        count = min(round(parameters.test_share * len(names)), len(names) - 1)
        order = numpy_generator(parameters.seed, "busi", "test", kind).permutation(len(names))
        tested.update(names[index] for index in order[: max(count, 0)])
    return tested


def _cases(entries: Sequence[_Entry], classes: bool, coloured: list[str], left_out: LeftOut) -> Iterator[Case]:
    """Read the cases, one at a time; the names of images that are not grey are added to `coloured`."""
    for entry in entries:
        with left_out.if_faulty(entry.name):
            path = _image_path(entry)
            image, is_grey = read_grey(path)
            lesion = np.zeros(image.shape, dtype=bool)
            for mask_path in entry.masks:
                lesion |= _fitting_mask(mask_path, path, image.shape)
            if lesion.any() == (entry.kind == NORMAL):
                what = "a lesion in its mask, but is normal" if lesion.any() else "an empty mask, but shows a lesion"
                raise UserError(f"{path} has {what}: get the original pair from {OWNER}")
            if not is_grey:
                coloured.append(path.name)
            value = 2 if classes and entry.kind == "malignant" else 1
            yield Case(entry.name, [image], lesion.astype(np.uint8) * value, stratum=entry.kind)


def _fitting_mask(path: Path, image: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a mask of an image; refuse one of another size, and one that marks no lesion that could be told."""
    values = _brightest(path)
    if values.shape != shape:
        sizes = [f"{size[1]} x {size[0]}" for size in (values.shape, shape)]
        raise UserError(
            f"{path} is {sizes[0]} pixels, its image {image.name!r} {sizes[1]}: get the original pair from {OWNER}"
        )
    if fault := mask_fault(values):
        raise UserError(f"{path} {fault}: get the original pair from {OWNER}")
    return _cut(values)
