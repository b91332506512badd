"""What a raw dataset holds, read back from its files: the table at the end of every conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_robust.common.console import show
from nnunet_robust.common.nnunet_files import read_dataset_json
from nnunet_robust.dataset_conversion.writer import IGNORE, PROVENANCE_KEY

PARTS = {"Tr": "training", "Ts": "test"}


@dataclass(frozen=True)
class PartSummary:
    """The cases of one part of a dataset.

    Attributes:
        cases: how many there are.
        patients: how many patients they come from.
        sizes: for each axis of the arrays the least and the most voxels; empty without cases.
        spacings_mm: for each axis the least and the most millimetres; None where the files have no spacing.
        foreground_ratios: for each case the share of its voxels that have any label but 0 and "ignore".
        voxels: for each label or region how many voxels it has.
    """

    cases: int
    patients: int
    sizes: list[tuple[int, int]]
    spacings_mm: list[tuple[float, float]] | None
    foreground_ratios: list[float]
    voxels: dict[str, int]


def summarise(dataset_folder: Path, part: str) -> PartSummary:
    """Summarise one part of a raw dataset from its label files.

    Args:
        dataset_folder: a folder that `write_dataset` returned.
        part: "Tr" or "Ts"; may have no cases.
    """
    dataset = read_dataset_json(dataset_folder / "dataset.json", PROVENANCE_KEY, "file_ending", "labels")
    patients: Mapping[str, str] = dataset[PROVENANCE_KEY].get("patients", {})
    ending, ignore = dataset["file_ending"], dataset["labels"].get(IGNORE, 0)
    names, shapes, spacings, ratios = [], [], [], []
    counts: np.ndarray = np.zeros(1, dtype=np.int64)
    for path in sorted((dataset_folder / f"labels{part}").glob(f"*{ending}")):
        label, spacing = _read_label(path)
        names.append(path.name[: -len(ending)])
        shapes.append(label.shape)
        spacings.append(spacing)
        ratios.append(float(((label != 0) & (label != ignore)).mean()))
        found = np.bincount(label.ravel(), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return PartSummary(
        cases=len(names),
        patients=len({patients.get(name, name) for name in names}),
        sizes=_ranges(shapes),
        spacings_mm=None if not any(spacings) else _ranges(spacings),
        foreground_ratios=ratios,
        voxels={name: _count(counts, value) for name, value in dataset["labels"].items()},
    )


def print_summary(dataset_folder: Path) -> None:
    """Print what was written, training and test set side by side, and the command that comes next."""
    from rich.table import Table

    parts = [summarise(dataset_folder, part) for part in PARTS]
    table = Table("", *PARTS.values(), title=dataset_folder.name)
    rows = [_rows(part) for part in parts]
    for heading in rows[0]:
        table.add_row(heading, *(row[heading] for row in rows))
    show(table)
    number = int(dataset_folder.name[len("Dataset") :].split("_")[0])
    print(f"{dataset_folder}\nnext: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity")


def _rows(part: PartSummary) -> dict[str, str]:
    """Return the cells of a part's column, by the heading of their row."""
    ratios = part.foreground_ratios
    cells = {
        "cases": str(part.cases),
        "patients": str(part.patients),
        "size, per axis": " x ".join(_range(low, high) for low, high in part.sizes),
        "spacing in mm, per axis": " x ".join(_range(low, high) for low, high in part.spacings_mm or []),
        "foreground ratio, mean": f"{np.mean(ratios):.4f}" if ratios else "",
        "foreground ratio, range": f"{min(ratios):.4f} to {max(ratios):.4f}" if ratios else "",
        "empty masks": str(ratios.count(0.0)),
    }
    return cells | {f"voxels of {name}": f"{count}" for name, count in part.voxels.items()}


def _range(low: float, high: float) -> str:
    return f"{low:.4g}" if low == high else f"{low:.4g}..{high:.4g}"


def _ranges(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, Any]]:
    """Return for each column its least and its most value; of 2d and 3d rows together, as many as the shorter have."""
    return [(min(column), max(column)) for column in zip(*rows, strict=False)]


def _count(counts: np.ndarray, value: int | Sequence[int]) -> int:
    values = [value] if isinstance(value, int) else value
    return sum(int(counts[index]) for index in values if index < len(counts))


def _read_label(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return a label map and its spacing along the array's axes; () where the format has none."""
    if path.name.endswith(".png"):
        from PIL import Image

        with Image.open(path) as image:
            return np.asarray(image), ()
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image), tuple(reversed(image.GetSpacing()))
