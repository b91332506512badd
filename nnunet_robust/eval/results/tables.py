"""The tables of a sweep's output folder: which there are, what their columns are, and where their parts lie.

`TABLES` is gone over by whoever stores rows, puts parts together or reads tables: a new table is a row there, and a
function that makes its rows (`nnunet_robust.eval.sweep.rows`).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from nnunet_robust.eval.metrics.metrics import METRICS

ARM = ("model", "plans", "configuration", "fold", "patch_size", "tile_size")
IDENTITY = ("dataset", *ARM, "patient", "case")
CONDITION = ("perturbation", "level", "replicate")
N_BINS = 15
"""Bins in a row of `reliability.csv`."""
_LONGEST = 200  # characters of a file's name

SCORES = (
    "n_members", "entropy_bits", "mutual_information_bits", "predicted_dice", "pairwise_dice", "soft_dice",
    "predicted_divergence_bits", "weights", "expert_agreement", "model_expert_dice",
)  # fmt: skip
"""Columns of `results.csv` that are empty where nothing was asked for, or where a score is not defined."""
MEASURED = (
    "psnr_db", "snr_db", "foreground_ratio", "texture_divergence_bits", "boundary_contrast", "noise_sigma", "blur",
)  # fmt: skip
"""Columns of what is measured of an image."""


class When(Enum):
    """Of what a table has rows."""

    ALWAYS = "every prediction"
    SHARED_IMAGE = "images that all arms share"
    OWN_IMAGE = "images that are an arm's own: attacks on itself"
    MEMBERS = "predictions whose members are told apart"
    CALIBRATED = "predictions of calibrated models"


@dataclass(frozen=True)
class ResultTable:
    """A table of a sweep's output folder.

    Attributes:
        name: of its file, without ".csv".
        columns: of the file.
        when: of what it has rows.
        per_arm: whether each arm has rows of its own.
        at_root: whether its parts lie in `parts` itself, not in a folder of the table's name.
        optional: whether it is written only where there are parts of it.
        reported: whether the report reads it beside `results.csv`.
    """

    name: str
    columns: tuple[str, ...]
    when: When
    per_arm: bool = True
    at_root: bool = False
    optional: bool = True
    reported: bool = True

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every version has written; what is measured of images came with time."""
        return tuple(name for name in self.columns if name not in {*MEASURED, *SCORES})

    def file(self, output: Path) -> Path:
        """Name the table's file in an output folder."""
        return output / f"{self.name}.csv"

    def folder(self, output: Path, key: str = "") -> Path:
        """Name the folder of its parts; with a key, of those of an arm."""
        return output / "parts" / ("" if self.at_root else self.name) / key

    def part_file(self, output: Path, key: str, perturbation: str, case: str) -> Path:
        """Name the file with the rows of a case under a perturbation.

        Args:
            output: the output folder.
            key: of the arm; empty for a table that has no rows of each arm.
            perturbation: its name.
            case: name of the case.
        """
        return self.folder(output, key) / perturbation / f"{case}.csv"


INPUTS = ResultTable(
    "inputs", ("dataset", "patient", "case", *CONDITION, *MEASURED), When.SHARED_IMAGE, per_arm=False, optional=False
)
ATTACKS = ResultTable("attacks", (*IDENTITY, *CONDITION, "linf", "l2", *MEASURED), When.OWN_IMAGE, reported=False)
RELIABILITY = ResultTable(
    "reliability",
    (*IDENTITY, *CONDITION, "label", *(f"{what}_{number}" for what in ("n", "p", "hits") for number in range(N_BINS))),
    When.MEMBERS,
)
_BOUNDS = ("outer_threshold", "inner_threshold", "outer_margin_mm", "inner_margin_mm", "dice", "dice_low", "dice_high")
BOUNDS = ResultTable("bounds", (*IDENTITY, *CONDITION, "label", *_BOUNDS), When.CALIBRATED)
_RESULTS = ("label", *METRICS, "n_ref", "n_pred", "outcome", *SCORES)
RESULTS = ResultTable(
    "results", (*IDENTITY, *CONDITION, *_RESULTS), When.ALWAYS, at_root=True, optional=False, reported=False
)
TABLES = (INPUTS, ATTACKS, RELIABILITY, BOUNDS, RESULTS)
"""In the order in which their rows are stored: a prediction is finished by its row in the last."""


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
        """Make the condition of the unperturbed image: level 0 of every perturbation, computed and stored once."""
        return cls("clean", 0.0)

    @property
    def name(self) -> str:
        """The name in files, e.g. `speckle_noise_0.3` or, from the second draw on, `speckle_noise_0.3_r1`."""
        if self.perturbation == "clean":
            return "clean"
        return f"{self.perturbation}_{self.level:g}" + (f"_r{self.replicate}" if self.replicate else "")


def arm_key(model: str, plans: str, configuration: str, fold: str, patch_size: str, tile_size: str) -> str:
    """Name the files of one arm of a sweep: nnU-Net's name of the model, and the tile size where it is not its own.

    Args:
        model: as the other arguments, what the column of `ARM` holds.

    >>> arm_key("nnUNetTrainer", "nnUNetPlans", "2d", "0", patch_size="64x64", tile_size="96x96")
    'nnUNetTrainer__nnUNetPlans__2d__fold0__tile96x96'
    """
    tile = "" if tile_size == patch_size else f"__tile{tile_size}"
    key = f"{model}__{plans}__{configuration}__fold{fold}{tile}"
    # An ensemble has the names of all its members: file systems take 255 bytes.
    return key if len(key) <= _LONGEST else f"{key[: _LONGEST - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def cell(value: Any) -> Any:
    """Write a value as it stands in a table: nothing for NaN."""
    return "" if isinstance(value, float) and math.isnan(value) else value


def score_columns(scores: Any, n_members: int) -> dict[str, Any]:
    """Name a structure's scores as every table does, empty where there is nothing to say.

    Args:
        scores: a `StructureScores` of `nnunet_robust.eval.uncertainty`.
        n_members: of the prediction.
    """
    return {
        "n_members": n_members,
        "entropy_bits": scores.entropy_bits,
        "mutual_information_bits": scores.mutual_information_bits if n_members > 1 else "",
        "predicted_dice": cell(scores.overlap.predicted_dice),
        "pairwise_dice": cell(scores.overlap.pairwise_dice),
        "soft_dice": scores.overlap.soft_dice,
    }
