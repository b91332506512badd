"""The sweep's output folder: tidy tables, kept a finished prediction at a time, so that nothing is lost or done twice.

manifest.json                             what was run, with what, on what
parts/<model>/<perturbation>/<case>.csv   a row per condition and label
parts/inputs/<perturbation>/<case>.csv    a row per condition
parts/reliability/<model>/...             a row per condition and label, where members were told apart
parts/bounds/<model>/...                  the same, where the model was calibrated
parts/attacks/<model>/...                 a row per condition that is an attack on the model that predicts, in place of
                                          the row in inputs: every model has an image of its own
results.csv, inputs.csv, reliability.csv, bounds.csv, attacks.csv   the parts put together, sorted
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import math
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import atomic_file
from nnunet_robust.eval.metrics.metrics import METRICS

ARM = ("model", "plans", "configuration", "fold", "patch_size", "tile_size")
IDENTITY = ("dataset", *ARM, "patient", "case")
CONDITION = ("perturbation", "level", "replicate")
N_BINS = 15
"""Of a row of `reliability.csv`."""
_LONGEST = 200  # characters of a file's name

SCORES = (
    "n_members",
    "entropy_bits",
    "mutual_information_bits",
    "predicted_dice",
    "pairwise_dice",
    "soft_dice",
    "predicted_divergence_bits",
    "weights",
    "expert_agreement",
    "model_expert_dice",
)
"""Empty where nothing was asked for, or where a score is not defined."""
RESULT_COLUMNS = (*IDENTITY, *CONDITION, "label", *METRICS, "n_ref", "n_pred", "outcome", *SCORES)
RELIABILITY_COLUMNS = (
    *IDENTITY,
    *CONDITION,
    "label",
    *(f"{what}_{number}" for what in ("n", "p", "hits") for number in range(N_BINS)),
)
MEASURED = (
    "psnr_db",
    "snr_db",
    "foreground_ratio",
    "texture_divergence_bits",
    "boundary_contrast",
    "noise_sigma",
    "blur",
)
"""Of an image."""
INPUT_COLUMNS = ("dataset", "patient", "case", *CONDITION, *MEASURED)
ATTACK_COLUMNS = (*IDENTITY, *CONDITION, "linf", "l2", *MEASURED)
BOUND_COLUMNS = (
    *IDENTITY,
    *CONDITION,
    "label",
    "outer_threshold",
    "inner_threshold",
    "outer_margin_mm",
    "inner_margin_mm",
    "dice",
    "dice_low",
    "dice_high",
)


@dataclass(frozen=True, order=True)
class Condition:
    """One perturbation at one level, drawn once. `Condition.clean()` is the image as it is.

    Attributes:
        perturbation: its name, or "clean".
        level: its physical level; 0 for "clean".
        replicate: number of the draw, from 0.
    """

    perturbation: str
    level: float
    replicate: int = 0

    @classmethod
    def clean(cls) -> Condition:
        """The unperturbed image: level 0 of every perturbation, computed and stored once."""
        return cls("clean", 0.0)

    @property
    def name(self) -> str:
        """For files, e.g. `speckle_noise_0.3` or, from the second draw on, `speckle_noise_0.3_r1`."""
        if self.perturbation == "clean":
            return "clean"
        return f"{self.perturbation}_{self.level:g}" + (f"_r{self.replicate}" if self.replicate else "")


def arm_key(model: str, plans: str, configuration: str, fold: str, patch_size: str, tile_size: str) -> str:
    """A name for the files of one arm of a sweep: nnU-Net's for the model, and the tile size where it is not its own.

    Args:
        model: as the other arguments, what the column of `ARM` holds.
    """
    tile = "" if tile_size == patch_size else f"__tile{tile_size}"
    key = f"{model}__{plans}__{configuration}__fold{fold}{tile}"
    # An ensemble has the names of all its members: file systems take 255 bytes.
    return key if len(key) <= _LONGEST else f"{key[: _LONGEST - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def cell(value: Any) -> Any:
    """What stands in a table for a value: nothing for NaN."""
    return "" if isinstance(value, float) and math.isnan(value) else value


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error means that nothing more can be written; not every library passes on the system's own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return isinstance(error, (OSError, RuntimeError)) and shutil.disk_usage(folder).free < 1 << 16


class Part:
    """The rows of one file under `parts/`, by condition. Rows are appended; one process at a time may do so.

    The file has one column more, `rows`: how many rows the condition has. A condition that lacks some, because the
    process was killed while it wrote, is not there, and is written over.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns
        self.rows: dict[Condition, list[dict[str, str]]] = {}
        self._lock = threading.Lock()
        self._length = 0
        if path.is_file():
            self._read()

    def add(self, condition: Condition, rows: Iterable[Mapping[str, Any]]) -> None:
        """Store the finished rows of a condition. Threads may do so at once."""
        fixed = {"perturbation": condition.perturbation, "level": condition.level, "replicate": condition.replicate}
        added = [{name: str({**row, **fixed}[name]) for name in self.columns} for row in rows]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        with self._lock:
            if self._length == 0:
                writer.writerow([*self.columns, "rows"])
            writer.writerows([*row.values(), len(added)] for row in added)
            self._append(text.getvalue().encode())
            self.rows[condition] = added

    def in_order(self) -> Iterator[dict[str, str]]:
        """All rows, sorted by condition."""
        for condition in sorted(self.rows):
            yield from self.rows[condition]

    def _append(self, data: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(self._length)
                file.seek(self._length)
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._length)
            raise
        self._length += len(data)

    def _read(self) -> None:
        group: list[dict[str, str]] = []
        with self.path.open("rb") as file:
            header = file.readline()
            if not header.endswith(b"\n"):
                return
            if next(csv.reader([header.decode()])) != [*self.columns, "rows"]:
                raise UserError(f"{self.path} has columns of another version of this package: take a new output folder")
            self._length = position = len(header)
            for line in file:
                position += len(line)
                *values, count = next(csv.reader([line.decode(errors="replace")]), [""])
                if not line.endswith(b"\n") or len(values) != len(self.columns) or not count.isdigit():
                    return
                group.append(dict(zip(self.columns, values, strict=True)))
                if len(group) == int(count):
                    row = group[0]
                    key = Condition(row["perturbation"], float(row["level"]), int(row["replicate"]))
                    self.rows[key], group, self._length = group, [], position


def combine(parts: Iterable[Part], columns: tuple[str, ...], target: Path) -> None:
    """Put parts together into one table, in their order, a part at a time."""
    with atomic_file(target) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for part in parts:
            writer.writerows(part.in_order())
