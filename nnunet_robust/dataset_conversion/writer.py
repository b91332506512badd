"""The one writer of nnU-Net raw datasets: a whole dataset or none, with a record of what it was made from."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import nnunet_robust
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import flush_to_disk, flush_tree, make_folder
from nnunet_robust.common.nifti_files import check_written
from nnunet_robust.common.nnunet_files import read_dataset_json
from nnunet_robust.dataset_conversion.left_out import LeftOut
from nnunet_robust.dataset_conversion.splits import SPLITS_FILE, WrittenCase, five_folds, write_splits

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"

Labels: TypeAlias = "Mapping[str, int | Sequence[int]]"
"""Name to value, or to the values that a region joins, for nnU-Net's region-based training."""

PROVENANCE_KEY = "nnunet_robust"
"""The key of `dataset.json` that holds what the dataset was made from; nnU-Net ignores it."""

IGNORE = "ignore"
"""nnU-Net's name of the label that neither trains nor scores; its value must be the highest."""

_ROUNDING = 1e-3 + 1e-6
"""How far a label's value may lie off a whole number: a thousandth, itself stored with rounding."""

_RESULTS = ("patients", "left_out")
"""The record's keys that tell what came out, and not what the dataset was made from."""


@dataclass(frozen=True, eq=False)
class Case:
    """One case of a dataset.

    Attributes:
        name: the case's identifier: letters, digits, `_`, `-` and `.`; no other case of the dataset has it.
        images: one array a channel, all of the same shape: (H, W) for `.png`, (H, W) or (D, H, W) for `.nii.gz`.
        label: the label map, of the images' shape.
        patient: whose case it is; None where every case is a patient of its own.
        spacing_mm: the voxel's size along each array axis, `.nii.gz` only; None for 1 mm.
        origin_mm: position of the first voxel, `.nii.gz` only, in SimpleITK's order: x, y[, z]; None for 0.
        direction: direction cosines, `.nii.gz` only, as SimpleITK gives them: a row-major matrix, flat; None for the
            identity.
        stratum: what the folds are to be balanced by, such as a diagnosis; None where it does not matter.
    """

    name: str
    images: Sequence[np.ndarray]
    label: np.ndarray
    patient: str | None = None
    spacing_mm: Sequence[float] | None = None
    origin_mm: Sequence[float] | None = None
    direction: Sequence[float] | None = None
    stratum: str | None = None


def _write_png(array: np.ndarray, path: Path, case: Case) -> None:
    from PIL import Image

    Image.fromarray(array).save(path)


def _write_nifti(array: np.ndarray, path: Path, case: Case) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    if case.spacing_mm is not None:
        image.SetSpacing([float(value) for value in reversed(case.spacing_mm)])  # SimpleITK counts axes from the last
    if case.origin_mm is not None:
        image.SetOrigin([float(value) for value in case.origin_mm])
    if case.direction is not None:
        image.SetDirection([float(value) for value in case.direction])
    sitk.WriteImage(image, str(path), True)
    check_written(path)


class _Format(NamedTuple):
    """What a file ending can hold, and how it is written."""

    write: Callable[[np.ndarray, Path, Case], None]
    dimensions: tuple[int, ...]
    dtypes: tuple[str, ...]
    has_geometry: bool


_NIFTI_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
FORMATS = {
    ".png": _Format(_write_png, (2,), ("uint8",), has_geometry=False),
    ".nii.gz": _Format(_write_nifti, (2, 3), _NIFTI_DTYPES, has_geometry=True),
}


def write_dataset(
    raw_folder: Path,
    dataset_id: int,
    name: str,
    training: Iterable[Case],
    testing: Iterable[Case],
    *,
    channel_names: Mapping[int, str],
    labels: Labels,
    file_ending: str,
    provenance: Mapping[str, JSON],
    regions_class_order: Sequence[int] | None = None,
    beside: Callable[[Path], None] | None = None,
    left_out: LeftOut | None = None,
) -> Path:
    """Write `Dataset<id>_<name>` into `raw_folder`, whole or not at all.

    The dataset is built in a hidden folder beside its final place and renamed when complete; whatever goes wrong, the
    hidden folder is removed, be it by the next call with this id after a kill. The same arguments give the same bytes.
    Where the dataset is there already, with this name, this provenance and from this version of the package, it is left
    as it is and the cases are not read, so that a run that was killed can simply be started again. Of two processes
    that write the same id at the same time one fails.

    Where a training case has a stratum, or a patient other than its own name, the folds are made here, as nnU-Net's own
    would put cases of one patient on both sides: `splits_final.json` in the dataset's folder; see
    `splits.five_folds` and `splits.install_splits`.

    Args:
        raw_folder: nnU-Net's folder of raw datasets; made if missing.
        dataset_id: 1 to 999.
        name: letters, digits and `_`, starting with a letter or digit.
        training: the cases of `imagesTr` and `labelsTr`, at least one; consumed one at a time.
        testing: the cases of `imagesTs` and `labelsTs`; no such folders where there are none.
        channel_names: name of each channel, keys 0, 1, ...; nnU-Net picks the normalisation by the name.
        labels: value of each label, or a region's values; "background" is 0, the values are consecutive, and "ignore",
            where there is one, is the highest.
        file_ending: a key of `FORMATS`.
        provenance: source and parameters, everything that the cases depend on. Stored in `dataset.json` under
            "nnunet_robust" with the package's version and, where the source says whose the cases are, `patients`: case
            to patient; where something was left out, `left_out`: case or file to reason.
        regions_class_order: with regions only: the value that each of them, in the order of `labels`, paints where
            nnU-Net predicts it; a later one paints over an earlier one.
        beside: writes further files into the folder that it is given, the hidden one; see `series.series_writer`.
        left_out: what the source lacks; takes the cases that do not fit. None for refusing the first of them.

    Returns:
        The dataset's folder.

    Raises:
        UserError: the id is taken, an argument is invalid, there are no training cases, or, without `left_out`, a case
            does not fit (shapes, types, label values, NaN).
    """
    _check_header(dataset_id, name, channel_names, file_ending)
    values = _label_values(labels, regions_class_order)
    raw_folder = Path(raw_folder)
    record = json.loads(json.dumps({"version": nnunet_robust.__version__, **provenance}))
    target = raw_folder / f"Dataset{dataset_id:03d}_{name}"
    found = _found(target, record)
    if found is not None:
        if left_out is not None:
            left_out.recall(found.get("left_out", {}))
        return target

    partial = raw_folder / f"{_partial_prefix(dataset_id)}{secrets.token_hex(4)}"
    try:
        make_folder(raw_folder)
        _remove_stale(raw_folder, dataset_id)
        partial.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot write to {raw_folder} ({error.strerror}): set nnUNet_raw to a folder of yours"
        ) from error
    try:
        names: set[str] = set()
        trained = write_cases(partial, "Tr", training, names, len(channel_names), values, file_ending, left_out)
        reasons = {} if left_out is None else left_out.reasons
        if not trained:
            why = f"all are left out, as {next(iter(reasons.values()))}" if reasons else "give at least one"
            raise UserError(f"no training cases for {target.name}: {why}")
        tested = write_cases(partial, "Ts", testing, names, len(channel_names), values, file_ending, left_out)
        if any(case.patient_known for case in trained + tested):
            record["patients"] = {case.name: case.patient for case in trained + tested}
        if reasons:
            record["left_out"] = dict(sorted(reasons.items()))
        if any(case.name != case.patient or case.stratum is not None for case in trained):
            write_splits(partial / SPLITS_FILE, five_folds(trained))
        if beside is not None:
            beside(partial)
        dataset_json = {
            "channel_names": {str(index): channel_names[index] for index in sorted(channel_names)},
            "labels": dict(labels),
            **({} if regions_class_order is None else {"regions_class_order": list(regions_class_order)}),
            "numTraining": len(trained),
            "file_ending": file_ending,
            PROVENANCE_KEY: record,
        }
        (partial / "dataset.json").write_text(json.dumps(dataset_json, indent=2) + "\n", encoding="utf-8")
        flush_tree(partial)  # a whole dataset or none, also after a power cut
        partial.rename(target)
        flush_to_disk(raw_folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def read_left_out(dataset_folder: Path) -> dict[str, str]:
    """Return what a conversion left out of a dataset: the name of a case, or of a file of the source, to the reason."""
    dataset = read_dataset_json(dataset_folder / "dataset.json", PROVENANCE_KEY)
    return dict(dataset[PROVENANCE_KEY].get("left_out", {}))


def _check_header(dataset_id: int, name: str, channel_names: Mapping[int, str], file_ending: str) -> None:
    """Refuse what nnU-Net could not read, before anything is written."""
    if not 1 <= dataset_id <= 999:
        raise UserError(f"dataset id must be in 1..999, got {dataset_id}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
        raise UserError(f"dataset name must consist of letters, digits and underscores, got {name!r}")
    if file_ending not in FORMATS:
        raise UserError(f"file ending must be one of {', '.join(FORMATS)}, got {file_ending!r}")
    if not channel_names or sorted(channel_names) != list(range(len(channel_names))):
        raise UserError(f"channels must be numbered 0, 1, ..., got {sorted(channel_names)}")


def _label_values(labels: Labels, regions_class_order: Sequence[int] | None) -> list[int]:
    """Return all values that a label map may hold; refuse labels and regions that nnU-Net could not read."""
    regions = {name: [value] if isinstance(value, int) else list(value) for name, value in labels.items()}
    values = sorted(value for region in regions.values() for value in region)
    if any(len(region) > 1 for region in regions.values()):
        values = sorted(set(values))  # regions overlap, labels do not
        order = list(regions_class_order or [])
        if len(order) != len(regions.keys() - {"background", IGNORE}) or not set(order) <= set(values) - {0}:
            raise UserError(f"regions_class_order must hold a label for each region of {dict(labels)}, got {order}")
    elif regions_class_order is not None:
        raise UserError(f"regions_class_order {list(regions_class_order)} needs a region, labels are {dict(labels)}")
    if labels.get("background") != 0 or values != list(range(len(values))):
        raise UserError(f"labels must be consecutive, with 'background' as 0, got {dict(labels)}")
    if IGNORE in regions and [name for name, region in regions.items() if values[-1] in region] != [IGNORE]:
        raise UserError(f"the label {IGNORE!r} must have the highest value, and alone, got {dict(labels)}")
    return values


def whole_labels(array: np.ndarray) -> np.ndarray:
    """Return a label map with the values that are whole but for rounding made whole, and all others as they are.

    Args:
        array: a label map of any type; values within a thousandth of a whole number count as that number.

    >>> whole_labels(np.array([0.0, 0.9999999, 1.5])).tolist()
    [0.0, 1.0, 1.5]
    """
    if array.dtype.kind != "f":
        return array
    whole = np.rint(array)
    return np.where(np.abs(array - whole) <= _ROUNDING, whole, array)


def _found(target: Path, record: Mapping[str, JSON]) -> Mapping[str, Any] | None:
    """Return the record of `target` where it exists and was made from `record`; None where there is no such folder.

    Raises:
        UserError: the dataset's id is taken by anything else.
    """
    remedy = "choose another id, or delete that folder"
    # nnU-Net looks an id up by this prefix, without the underscore
    for folder in sorted(target.parent.glob(f"{target.name[: len('Dataset000')]}*")):
        if not folder.is_dir():
            continue
        if folder.name != target.name:
            raise UserError(f"dataset id {target.name[7:10]} is taken by {folder}: {remedy}")
        try:
            found = dict(read_dataset_json(folder / "dataset.json", PROVENANCE_KEY)[PROVENANCE_KEY])
        except UserError:
            raise UserError(f"{folder} exists and was not written by nnunet-robust: {remedy}") from None
        made_from = {key: value for key, value in found.items() if key not in _RESULTS}
        if made_from != record:
            raise UserError(f"{folder} exists and differs in {_differences(made_from, record)}: {remedy}")
        return found
    return None


def _differences(found: Mapping[str, JSON], wanted: Mapping[str, JSON], prefix: str = "") -> str:
    """Return the entries in which two records differ, in words: 'parameters.alpha (there 0.1, wanted 0.8)'."""
    words = []
    for key in sorted(found.keys() | wanted.keys()):
        there, here = found.get(key), wanted.get(key)
        if isinstance(there, Mapping) and isinstance(here, Mapping) and there != here:
            words.append(_differences(there, here, f"{prefix}{key}."))
        elif there != here:
            words.append(f"{prefix}{key} (there {there}, wanted {here})")
    return ", ".join(words)


def _partial_prefix(dataset_id: int) -> str:
    """Return how the hidden folders of unfinished datasets begin; nnU-Net looks for 'Dataset' and does not see them."""
    return f".partial_Dataset{dataset_id:03d}_"


def _remove_stale(raw_folder: Path, dataset_id: int) -> None:
    """Remove what a killed run left behind."""
    for stale in list(raw_folder.glob(f"{_partial_prefix(dataset_id)}*")):
        # Renamed first: were its writer still alive, it would fail at once, not complete a half-deleted dataset.
        doomed = stale.rename(stale.with_name(f"{_partial_prefix(dataset_id)}doomed_{secrets.token_hex(4)}"))
        shutil.rmtree(doomed)


def write_cases(
    folder: Path,
    part: str,
    cases: Iterable[Case],
    names: set[str],
    num_channels: int,
    label_values: Sequence[int],
    file_ending: str,
    left_out: LeftOut | None = None,
) -> list[WrittenCase]:
    """Write cases to `images<part>` and `labels<part>`; their names must not be in `names`, and are added to it."""
    written = []
    label_dtype = np.min_scalar_type(max(label_values))
    for case in cases:
        with contextlib.nullcontext() if left_out is None else left_out.if_faulty(case.name):
            if case.name in names:
                raise UserError(f"two cases are named {case.name!r}: give each a name of its own")
            label = whole_labels(case.label)
            _check_case(case, label, num_channels, label_values, file_ending)
            names.add(case.name)
            _write_case(folder, part, case, np.ascontiguousarray(label, dtype=label_dtype), file_ending)
            written.append(WrittenCase(case.name, case.patient or case.name, case.stratum, bool(case.patient)))
    return written


def _write_case(folder: Path, part: str, case: Case, label: np.ndarray, file_ending: str) -> None:
    for subfolder in (f"images{part}", f"labels{part}"):
        (folder / subfolder).mkdir(exist_ok=True)
    for channel, image in enumerate(case.images):
        path = folder / f"images{part}" / f"{case.name}_{channel:04d}{file_ending}"
        FORMATS[file_ending].write(np.ascontiguousarray(image), path, case)
    FORMATS[file_ending].write(label, folder / f"labels{part}" / f"{case.name}{file_ending}", case)


def _check_case(
    case: Case, label: np.ndarray, num_channels: int, label_values: Sequence[int], file_ending: str
) -> None:
    """Refuse a case that nnU-Net would refuse, or silently misread."""
    file_format = FORMATS[file_ending]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", case.name):
        raise UserError(f"case names must consist of letters, digits, '_', '-' and '.', got {case.name!r}")
    if len(case.images) != num_channels:
        raise UserError(f"case {case.name} has {len(case.images)} channels, the dataset {num_channels}")
    for channel, image in enumerate(case.images):
        where = f"case {case.name}, channel {channel}"
        if image.shape != label.shape:
            raise UserError(f"{where}: the image is {image.shape}, its label {label.shape}; they must be the same")
        if image.ndim not in file_format.dimensions or image.size == 0:
            dimensions = " or ".join(f"{count}d" for count in file_format.dimensions)
            raise UserError(f"{where}: {file_ending} holds {dimensions} images that are not empty, got {image.shape}")
        if image.dtype.name not in file_format.dtypes:
            raise UserError(f"{where}: {file_ending} takes {', '.join(file_format.dtypes)}, got {image.dtype.name}")
        if not np.isfinite(image).all():
            raise UserError(f"{where}: the image holds NaN or infinity; replace them by a value that makes sense")
    undeclared = np.setdiff1d(label, label_values)
    if undeclared.size:
        raise UserError(f"case {case.name}: label value {undeclared[0]!s} is not among the declared {label_values}")
    _check_geometry(case, file_ending)


def _check_geometry(case: Case, file_ending: str) -> None:
    """Refuse a spacing, an origin or a direction that does not fit the array, or that the format cannot store."""
    ndim = case.label.ndim
    for what, given, length in (
        ("spacing", case.spacing_mm, ndim),
        ("origin", case.origin_mm, ndim),
        ("direction", case.direction, ndim**2),
    ):
        if given is None:
            continue
        if not FORMATS[file_ending].has_geometry:
            raise UserError(f"case {case.name}: {file_ending} cannot store the case's {what}, got {tuple(given)}")
        if len(given) != length or not np.isfinite(given).all():
            raise UserError(f"case {case.name}: {what} takes {length} finite numbers in {ndim}d, got {tuple(given)}")
    if case.spacing_mm is not None and not min(case.spacing_mm) > 0:
        raise UserError(f"case {case.name}: spacing must be a positive number of mm, got {tuple(case.spacing_mm)}")
    if case.direction is not None and abs(np.linalg.det(np.reshape(case.direction, (ndim, ndim)))) < 1e-6:
        raise UserError(f"case {case.name}: the axes of direction {tuple(case.direction)} are not independent")
