"""What training saw: the foreground ratio of its patches, epoch by epoch, in a small CSV in the model folder."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from nnunet_robust.common.console import warn
from nnunet_robust.common.csv_files import read_csv
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import atomic_file

FILE = "foreground_ratio.csv"
COLUMNS = ("epoch", "patches", "mean", "std", "min", "q25", "median", "q75", "max", "share_empty")


def foreground_ratios(target: Tensor | Sequence[Tensor], ignore_label: int | None, regions: bool) -> list[float]:
    """The share of foreground voxels of each patch in a batch, over all voxels of the patch.

    Args:
        target: (B, channels, *spatial), or a list of them, full resolution first (deep supervision), as
            nnU-Net's loaders give it: one channel of labels, 0 being background; or for region-based training a
            boolean channel per region, and behind them one for the ignore label if there is one.
        ignore_label: the ignore label, which is not foreground; None if there is none.
        regions: whether the channels are regions: foreground is what lies in any of them.

    Returns:
        B numbers in [0, 1].
    """
    full = (target if isinstance(target, Tensor) else target[0]).numpy(force=True)
    voxels = full[0, 0].size
    counts = []
    for patch in full:
        if regions:
            channels = patch if ignore_label is None else patch[:-1]
            counts.append(np.count_nonzero(channels.any(0)))
        else:
            ignored = 0 if ignore_label is None else np.count_nonzero(patch == ignore_label)
            counts.append(np.count_nonzero(patch) - ignored)
    return [count / voxels for count in counts]


def write_epoch(file: Path, epoch: int, ratios: Sequence[float]) -> None:
    """Add an epoch's row, in place of what the file has of it and of later ones (a resumed training repeats them).

    The file is replaced as a whole. Ratios are in [0, 1], `std` is the population's, `share_empty` the
    share of patches without any foreground.

    Args:
        file: the CSV, made if it is missing; its columns are `COLUMNS`.
        epoch: counted from 0.
        ratios: one per patch, in any order; not empty.
    """
    rows = []
    if file.is_file():
        rows = [row for row in _earlier(file) if int(row["epoch"]) < epoch]
    values = np.asarray(ratios, dtype=np.float64)
    least, q25, median, q75, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    figures = (values.mean(), values.std(), least, q25, median, q75, most, np.mean(values == 0))
    row = dict(zip(COLUMNS, (str(epoch), str(len(values)), *(f"{figure:.6g}" for figure in figures)), strict=True))

    with atomic_file(file) as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows([*rows, row])


def _earlier(file: Path) -> list[dict[str, str]]:
    """The rows of earlier epochs. A training of days does not end because of a file that tells about it."""
    try:
        found = read_csv(file, COLUMNS, "the epochs in it are left out")
        if all(row.cells["epoch"].isdecimal() for row in found):
            return [{name: row.cells[name] for name in COLUMNS} for row in found]
        warn(f"{file}: an epoch is no number: the epochs in it are left out")
    except UserError as error:
        warn(str(error))
    return []
