"""The sweep's output folder: tidy tables, kept a finished prediction at a time, so that nothing is lost or done twice.

manifest.json              what was run, with what, on what
parts/<model>/<case>.csv   a row per condition and label; parts/inputs/<case>.csv likewise for the inputs
results.csv, inputs.csv    the parts put together, sorted
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_robust.errors import UserError
from nnunet_robust.eval.metrics import METRICS

ARM = ("model", "plans", "configuration", "fold", "patch_size", "tile_size")
IDENTITY = ("dataset", *ARM, "patient", "case")
CONDITION = ("perturbation", "level", "replicate")
RESULT_COLUMNS = (*IDENTITY, *CONDITION, "label", *METRICS, "n_ref", "n_pred", "outcome")
INPUT_COLUMNS = (
    "dataset",
    "patient",
    "case",
    *CONDITION,
    "psnr_db",
    "snr_db",
    "foreground_ratio",
    "texture_divergence_bits",
    "boundary_contrast",
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
    return f"{model}__{plans}__{configuration}__fold{fold}{tile}"


def cell(value: Any) -> Any:
    """What stands in a table for a value: nothing for NaN."""
    return "" if isinstance(value, float) and math.isnan(value) else value


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(path)


class Part:
    """The rows of one file under `parts/`, by condition. Each `add` rewrites the file."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns
        self.rows: dict[Condition, list[dict[str, str]]] = {}
        for row in _read(path, columns) if path.is_file() else ():
            key = Condition(row["perturbation"], float(row["level"]), int(row["replicate"]))
            self.rows.setdefault(key, []).append(row)

    def add(self, condition: Condition, rows: Iterable[Mapping[str, Any]]) -> None:
        """Store the finished rows of a condition."""
        fixed = {"perturbation": condition.perturbation, "level": condition.level, "replicate": condition.replicate}
        self.rows[condition] = [{name: str({**row, **fixed}[name]) for name in self.columns} for row in rows]
        write_atomically(self.path, _csv(self.columns, (row for key in sorted(self.rows) for row in self.rows[key])))


def combine(parts: Iterable[Part], columns: tuple[str, ...], target: Path) -> None:
    """Put parts together into one table, in their order."""
    write_atomically(
        target, _csv(columns, (row for part in parts for key in sorted(part.rows) for row in part.rows[key]))
    )


def _csv(columns: tuple[str, ...], rows: Iterable[Mapping[str, str]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _read(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != columns:
            raise UserError(f"{path} has columns of another version of this package: take a new output folder")
        return list(reader)


def open_manifest(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read the manifest of an output folder, and make sure that it is of this sweep.

    Args:
        path: `<out>/manifest.json`; it need not exist.
        identity: what must be the same for results to be put beside one another.

    Returns:
        The manifest, empty for a new folder.

    Raises:
        UserError: the folder holds another sweep's results, or files that are not a sweep's.
    """
    if not path.is_file():
        strangers = sorted(child.name for child in path.parent.iterdir()) if path.parent.is_dir() else []
        if strangers:
            raise UserError(f"{path.parent} is not empty ({strangers[0]}) and holds no sweep: take a new folder for -o")
        return {}
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, value in identity.items():
        before = manifest.get("identity", {}).get(name)
        if before != value:
            if isinstance(value, dict) and isinstance(before, dict):
                name, before, value = _difference(name, before, value)
            raise UserError(
                f"{path.parent} holds the results of another sweep ({name} is {before!r} there, {value!r} now): "
                f"take a new folder for -o"
            )
    return manifest


def _difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any]:
    key = next(key for key in sorted({*before, *now}) if before.get(key) != now.get(key))
    return f"{name} {key!r}", before.get(key), now.get(key)
