"""Sweeps' output folders, read for a report: files only, nothing computed but what can be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nnunet_robust.errors import UserError
from nnunet_robust.eval.failures import MISSING, read_failures
from nnunet_robust.eval.statistics import comparable, load_results

_FAILURES_SHOWN = 20


class Sweep(NamedTuple):
    """What a sweep's output folder holds.

    Attributes:
        folder: where it was read from.
        manifest: its `manifest.json`.
        results: all rows of `results.csv`.
        rows: the rows that can be compared, see `statistics.comparable`.
        left_out: a sentence for everything that cannot, that failed, or that is missing.
        inputs: the rows of `inputs.csv`; None where there is no such file.
    """

    folder: Path
    manifest: dict[str, Any]
    results: pd.DataFrame
    rows: pd.DataFrame
    left_out: list[str]
    inputs: pd.DataFrame | None

    @property
    def datasets(self) -> list[str]:
        """The datasets in it: one, unless somebody put tables together."""
        return list(map(str, self.results["dataset"].unique()))

    @property
    def series(self) -> set[str]:
        """The perturbations whose levels are test sets of their own."""
        return {name for name, row in self.manifest.get("perturbations", {}).items() if "series" in row}

    def unit(self, perturbation: str) -> str:
        """What a perturbation's level is counted in; empty where the manifest does not say."""
        return str(self.manifest.get("perturbations", {}).get(perturbation, {}).get("unit", ""))


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep's output folder.

    Args:
        folder: holds `results.csv` and `manifest.json`; `inputs.csv`, `failures.csv` and `missing.txt` are read where
            they are there.

    Raises:
        UserError: the folder lacks a file, a file is broken, or nothing in it can be compared.
    """
    return _sweep(folder, load_results(folder / "results.csv"))


def _sweep(folder: Path, results: pd.DataFrame) -> Sweep:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"No manifest.json in {folder}: give the output folder of `nnunet-robust sweep`.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'manifest.json'} is not JSON ({error}): run the sweep again.") from error
    sweep = Sweep(folder, manifest, results, results, [], None)
    rows, left_out = comparable(results, sweep.series)
    if rows.empty:
        raise UserError(
            f"Nothing in {folder} can be compared yet: no case is complete for every model; go on with the sweep."
        )
    text = dict.fromkeys(["dataset", "patient", "case", "perturbation"], str)
    path = folder / "inputs.csv"
    try:
        inputs = pd.read_csv(path, dtype=text) if path.is_file() else None
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is not a table of inputs ({str(error).strip()}): run the sweep again.") from error
    return sweep._replace(rows=rows, left_out=[*_holes(folder, sweep.datasets), *left_out], inputs=inputs)


def _holes(folder: Path, datasets: Sequence[str]) -> list[str]:
    """What a sweep does not have, and why, in sentences."""
    where = ", ".join(datasets)
    missing = folder / MISSING
    said = missing.read_text(encoding="utf-8").splitlines() if missing.is_file() else []
    failures = read_failures(folder)
    said += [f"not computed: {failure}" for failure in failures[:_FAILURES_SHOWN]]
    if (more := len(failures) - _FAILURES_SHOWN) > 0:
        said.append(f"not computed: {more} more, see {folder.name}/failures.csv")
    return [f"{where}: {sentence}" for sentence in said]


def read_sweeps(folders: Sequence[Path]) -> list[Sweep]:
    """Read sweeps of different datasets, to stand side by side; their models are named alike.

    Args:
        folders: one or more, see `read_sweep`.

    Raises:
        UserError: as for `read_sweep`; no folder, or two that hold the same dataset.
    """
    if not folders:
        raise UserError("No sweep given: name the output folder of `nnunet-robust sweep`.")
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
    return [
        _sweep(folder, results[results["dataset"].isin(of_folder)].reset_index(drop=True))
        for folder, of_folder in zip(folders, datasets, strict=True)
    ]
