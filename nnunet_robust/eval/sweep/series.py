"""Series of test sets that exist as files: read and checked before anything is computed.

`series.csv` has the columns `perturbation, level, images, labels` and, if wanted, `unit`; a row is a test set:

    perturbation,level,images,labels,unit
    foreground_alpha,0.1,series/foreground_alpha_0.1/images,series/foreground_alpha_0.1/labels,share of background
    foreground_alpha,0.9,series/foreground_alpha_0.9/images,series/foreground_alpha_0.9/labels,share of background

Paths are relative to the file, or absolute. Names of folders are free; cases in them are named as nnU-Net names them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_robust.common.csv_files import read_csv
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.rows import PERTURBATIONS
from nnunet_robust.eval.images.cases import CaseFiles, cases_of_folders, sha256_of_case
from nnunet_robust.eval.results.manifest import Manifest, PerturbationEntry
from nnunet_robust.eval.results.tables import Condition

_COLUMNS = ("perturbation", "level", "images", "labels")


@dataclass(frozen=True)
class SeriesSet:
    """A row of a series: a test set.

    Attributes:
        condition: its perturbation and level; replicate 0.
        unit: what the level counts; may be empty.
        images: folder of its images.
        labels: folder of their labels.
    """

    condition: Condition
    unit: str
    images: Path
    labels: Path

    def cases(self, file_ending: str, channels: int, patients: Mapping[str, str]) -> list[CaseFiles]:
        """List its cases, by name.

        Args:
            file_ending: of the dataset.
            channels: of the dataset.
            patients: case to patient, of cases that the sweep knows from elsewhere: the same name is the same case.

        Raises:
            UserError: a channel or a label file is missing, or there are no images.
        """
        found = cases_of_folders(self.images, self.labels, file_ending, channels)
        return [replace(case, patient=patients.get(case.name, case.patient)) for case in found]


def read_series(path: Path) -> list[SeriesSet]:
    """Read a `series.csv`.

    Args:
        path: the file.

    Returns:
        Its rows, in the file's order.

    Raises:
        UserError: no such file, columns missing, no rows, a name that is taken or cannot be one, a level that is no
            finite number or is there twice, two units for one perturbation, or a folder that is not there.
    """
    rows = read_csv(path, _COLUMNS, f"give --series a CSV file with the columns {', '.join(_COLUMNS)}")
    if not rows:
        raise UserError(f"{path} has no rows: name at least one test set")
    sets: list[SeriesSet] = []
    for line, row in rows:
        where = f"{path}, line {line}"
        added = _read_row({name: cell.strip() for name, cell in row.items()}, path.parent, where)
        for other in sets:
            if other.condition.perturbation != added.condition.perturbation:
                continue
            if other.condition.name == added.condition.name:
                raise UserError(f"{where}: {added.condition.name} is there twice, to six digits")
            if other.unit != added.unit:
                raise UserError(
                    f"{where}: {added.condition.perturbation} is counted in {added.unit!r} here and in "
                    f"{other.unit!r} before: give it one unit"
                )
        sets.append(added)
    return sets


@dataclass(frozen=True)
class SeriesCases:
    """A test set with its cases.

    Attributes:
        test_set: the row of the series.
        cases: its cases, by name.
        digests: case -> digest of its files.
    """

    test_set: SeriesSet
    cases: Sequence[CaseFiles]
    digests: Mapping[str, str]


def series_cases(
    path: Path | None, labels: Sequence[Path], cases: Sequence[CaseFiles], file_ending: str, channels: int
) -> list[SeriesCases]:
    """Find the cases of each test set of a series.

    Args:
        path: the `series.csv`; None for no series.
        labels: the folders of the sweep's own labels.
        cases: the sweep's own cases: the same name is the same patient.
        file_ending: of the dataset.
        channels: of the dataset.

    Raises:
        UserError: see `read_series` and `SeriesSet.cases`, or the sweep's own labels are of several experts.
    """
    if path is None:
        return []
    if len(labels) > 1:
        raise UserError("--series has one label for each image: sweep it apart from several experts (-l A B)")
    patients = {case.name: case.patient for case in cases}
    found = [(test_set, test_set.cases(file_ending, channels, patients)) for test_set in read_series(path)]
    return [
        SeriesCases(row, of_set, {case.name: sha256_of_case(case, channels) for case in of_set})
        for row, of_set in found
    ]


def new_sets(output: Path, manifest: Manifest, series: Sequence[SeriesCases]) -> list[SeriesCases]:
    """List the test sets that an output folder does not hold yet.

    Args:
        output: the folder.
        manifest: the manifest of the folder.
        series: the test sets of this run.

    Raises:
        UserError: one that it holds has changed, in a file or in its cases.
    """
    new = []
    for of_set in series:
        condition = of_set.test_set.condition
        stored = manifest.perturbations.get(condition.perturbation, PerturbationEntry()).series or {}
        known = stored.get(f"{condition.level:g}")
        if known is None:
            new.append(of_set)
        elif changed := sorted(dict(set(known.items()) ^ set(of_set.digests.items()))):
            raise UserError(
                f"{output} holds results of another test set {condition.name}: {changed[0]!r} has changed, is new or "
                f"is gone: take a new folder for -o"
            )
    return new


def _read_row(row: Mapping[str, str], folder: Path, where: str) -> SeriesSet:
    name = row["perturbation"]
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UserError(f"{where}: a perturbation's name has letters, digits and '_', got {name!r}")
    if name in PERTURBATIONS or name == Condition.clean().perturbation:
        raise UserError(f"{where}: {name!r} is the name of one of the sweep's own perturbations: take another")
    try:
        level = float(row["level"])
    except ValueError:
        level = math.nan
    if not math.isfinite(level):
        raise UserError(f"{where}: the level must be a number (several sites: number them), got {row['level']!r}")
    folders = {}
    for column in ("images", "labels"):
        folders[column] = folder / row[column]
        if not row[column] or "\0" in row[column] or not folders[column].is_dir():
            raise UserError(f"{where}: no folder {str(folders[column])!r} of {column}; paths are relative to the file")
    return SeriesSet(Condition(name, level), row.get("unit", ""), **folders)
