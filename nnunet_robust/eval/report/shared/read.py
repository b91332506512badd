"""Sweeps' output folders, read for a report: files only, nothing computed but what can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import is_inside
from nnunet_robust.common.text_files import read_text
from nnunet_robust.eval.report.shared.architectures import (
    Architecture,
    architectures_of,
    arms_of,
    in_order,
    shared_by_all,
    with_short_names,
)
from nnunet_robust.eval.results.display_names import DisplayNames, display_names
from nnunet_robust.eval.results.failures import FAILURES, MISSING, read_failures
from nnunet_robust.eval.results.manifest import MANIFEST, Manifest, PerturbationEntry, read_manifest
from nnunet_robust.eval.results.reading import read_table
from nnunet_robust.eval.results.tables import ARM, BOUNDS, INPUTS, RELIABILITY, TABLES, ResultTable
from nnunet_robust.eval.statistics import CLEAN, comparable, load_results

_FAILURES_SHOWN = 20


class Attack(NamedTuple):
    """An attack of a sweep.

    Attributes:
        name: of the attack without its source; that of the perturbation where an older manifest lacks it.
        control: the random noise of the same budget; empty where an older manifest lacks it.
        source_name: of the model whose attacked images all models got; likewise the name of the perturbation.
        steps: of the attack.
        source: key of that model -> fold -> SHA-256 of its checkpoint; None where every model was attacked itself.
    """

    name: str
    control: str
    source_name: str
    steps: int
    source: Mapping[str, Mapping[str, str]] | None


class Sweep(NamedTuple):
    """What a sweep's output folder holds.

    Attributes:
        folder: where it was read from.
        manifest: its `manifest.json`.
        results: all rows of `results.csv`.
        rows: the rows that can be compared, see `statistics.comparable`.
        left_out: a sentence for everything that cannot, that failed, or that is missing.
        tables: the name of each further table that there is -> its rows; of a table that has rows of each arm, those
            for what can be compared, see `beside`.
        architectures: those of all sweeps that were read together, the baseline first, ensembles last; the rows of each
            table are in this order.
        shared_by_all: what all of these have in common, in words.
    """

    folder: Path
    manifest: Manifest
    results: pd.DataFrame
    rows: pd.DataFrame
    left_out: list[str]
    tables: Mapping[str, pd.DataFrame] = {}
    architectures: tuple[Architecture, ...] = ()
    shared_by_all: str = ""

    @property
    def inputs(self) -> pd.DataFrame | None:
        """The rows of `inputs.csv`; None where there is no such file."""
        return self.tables.get(INPUTS.name)

    @property
    def reliability(self) -> pd.DataFrame | None:
        """The rows of `reliability.csv`; None where there is no such file."""
        return self.tables.get(RELIABILITY.name)

    @property
    def bounds(self) -> pd.DataFrame | None:
        """The rows of `bounds.csv`; None where there is no such file."""
        return self.tables.get(BOUNDS.name)

    @property
    def datasets(self) -> list[str]:
        """The datasets in it: one, unless somebody put tables together."""
        return list(map(str, self.results["dataset"].unique()))

    @property
    def series(self) -> set[str]:
        """The perturbations whose levels are test sets of their own."""
        return {name for name, row in self.manifest.perturbations.items() if row.series is not None}

    @property
    def attacks(self) -> dict[str, Attack]:
        """Perturbations that are attacks -> what the manifest has of each."""
        return {
            name: Attack(
                row.attack.name or name, row.control or "", row.source or name, row.attack.steps, row.attack.source
            )
            for name, row in self.manifest.perturbations.items()
            if row.attack is not None
        }

    @property
    def without_denoising(self) -> dict[str, str]:
        """Arms that denoise -> the same model without."""
        described = self.manifest.models
        return {key: arm.without_denoising for key, arm in described.items() if arm.without_denoising is not None}

    @property
    def names(self) -> DisplayNames:
        """The perturbations' display names."""
        return display_names(self.manifest)

    def unit(self, perturbation: str) -> str:
        """What a perturbation's level is counted in; empty where the manifest does not say."""
        return str(self.manifest.perturbations.get(perturbation, PerturbationEntry()).unit)


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep's output folder.

    Args:
        folder: holds `results.csv` and `manifest.json`; `inputs.csv`, `failures.csv` and `missing.txt` are read where
            they are there.

    Raises:
        UserError: the folder lacks a file, a file is broken, or nothing in it can be compared.
    """
    check_own_files(folder)
    return _sweep(folder, load_results(folder / "results.csv"), _manifest(folder))


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"No manifest.json in {folder}: give the output folder of `nnunet-robust sweep`.")
    return read_manifest(path, "restore the file, or sweep into a new folder")


def _sweep(folder: Path, results: pd.DataFrame, manifest: Manifest) -> Sweep:
    sweep = Sweep(folder, manifest, results, results, [])
    rows, left_out = comparable(results, sweep.series, sweep.names)
    if rows.empty:
        raise UserError(
            f"Nothing in {folder} can be compared yet: no case is complete for every model; go on with the sweep."
        )
    left_out = [*_holes(folder, sweep.datasets), *left_out]
    return sweep._replace(rows=rows, left_out=left_out, tables=_tables(folder, rows))


def _tables(folder: Path, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {table: _table(table, folder) for table in TABLES if table.reported}
    return {
        table.name: beside(rows, stored) if table.per_arm else stored
        for table, stored in found.items()
        if stored is not None
    }


def _table(table: ResultTable, folder: Path) -> pd.DataFrame | None:
    path = table.file(folder)
    return read_table(path, table.required, "run the sweep again, or delete the file") if path.exists() else None


def check_own_files(folder: Path) -> None:
    """Make sure that what a report reads of a folder lies in it: somebody else's may link to what is not theirs.

    Raises:
        UserError: a file is a link that leads out of the folder.
    """
    names = [MANIFEST, MISSING, FAILURES, *(table.file(folder).name for table in TABLES)]
    for path in (folder / name for name in names):
        if path.is_symlink() and not is_inside(path, folder):
            raise UserError(f"{path} is a link that leads out of the folder: put a copy of the file in its place")


def beside(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """What another table of a sweep has of the images that can be compared.

    Args:
        rows: what `comparable` returns.
        table: the columns `tables.IDENTITY` and `tables.CONDITION`, the clean images once.

    Returns:
        The table's rows, with `line` and `architecture`; those of the clean images again as level 0 of each
        perturbation, as in `rows`.
    """
    stored = ["dataset", *ARM, "patient", "case", "stored", "level", "replicate"]
    named = rows.assign(stored=rows["perturbation"].where(rows["series"] | (rows["level"] != 0), CLEAN))
    images = named[[*stored, "perturbation", "line", "architecture", "series"]].drop_duplicates()
    numbers = {"level": float, "replicate": float}
    return images.merge(table.rename(columns={"perturbation": "stored"}).astype(numbers), on=stored)


def of_structures(sweep: Sweep, labels: Sequence[str]) -> Sweep:
    """A sweep with the rows of some structures alone; tables that are not of structures stay as they are.

    Args:
        sweep: of the same models and images.
        labels: the structures' names.
    """
    results, rows = (table[table["label"].isin(labels)].reset_index(drop=True) for table in (sweep.results, sweep.rows))
    tables = {
        name: table[table["label"].isin(labels)].reset_index(drop=True) if "label" in table else table
        for name, table in sweep.tables.items()
    }
    return sweep._replace(results=results, rows=rows, tables=tables)


def _holes(folder: Path, datasets: Sequence[str]) -> list[str]:
    """What a sweep does not have, and why, in sentences."""
    where = ", ".join(datasets)
    missing = folder / MISSING
    said = read_text(missing, "delete the file, or save it as UTF-8").splitlines() if _is_filled(missing) else []
    failures = read_failures(folder)
    said += [f"not computed: {failure}" for failure in failures[:_FAILURES_SHOWN]]
    if (more := len(failures) - _FAILURES_SHOWN) > 0:
        said.append(f"not computed: {more} more, see {folder.name}/failures.csv")
    return [f"{where}: {sentence}" for sentence in said]


def _is_filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def read_sweeps(folders: Sequence[Path]) -> list[Sweep]:
    """Read sweeps of different datasets, to stand side by side; their models are named alike.

    Args:
        folders: one or more, see `read_sweep`.

    Raises:
        UserError: as for `read_sweep`; no folder, or two that hold the same dataset.
    """
    if not folders:
        raise UserError("No sweep given: name the output folder of `nnunet-robust sweep`.")
    for folder in folders:
        check_own_files(folder)
    tables = [folder / "results.csv" for folder in folders]
    datasets = [list(load_results(table)["dataset"].unique()) for table in tables]
    holder: dict[str, Path] = {}
    for folder, of_folder in zip(folders, datasets, strict=True):
        for dataset in of_folder:
            if dataset in holder:
                raise UserError(
                    f"{holder[dataset]} and {folder} both hold {dataset}: to compare two sweeps of one dataset, run "
                    f"`nnunet-robust report --compare {holder[dataset]} {folder}`."
                )
            holder[dataset] = folder
    results = load_results(*tables)
    manifests = [_manifest(folder) for folder in folders]
    described = {name: manifest for of, manifest in zip(datasets, manifests, strict=True) for name in of}
    arms = arms_of(results := with_short_names(results, described), described)
    order = architectures_of(arms)
    results = in_order(results, order)
    return [
        _sweep(folder, results[results["dataset"].isin(of_folder)].reset_index(drop=True), manifest)._replace(
            architectures=order, shared_by_all=shared_by_all(arms)
        )
        for folder, of_folder, manifest in zip(folders, datasets, manifests, strict=True)
    ]
