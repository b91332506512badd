"""Sweeps' output folders, read for a report: files only, nothing computed but what can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.display_names import DisplayNames, display_names
from nnunet_robust.eval.results.failures import MISSING, read_failures
from nnunet_robust.eval.results.reading import read_table
from nnunet_robust.eval.results.results import ARM
from nnunet_robust.eval.statistics import CLEAN, comparable, load_results
from nnunet_robust.eval.statistics.tables import without_seed

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
        reliability: those of `reliability.csv`, for what can be compared, see `beside`; likewise.
        bounds: those of `bounds.csv`; likewise.
        ensembles: the short names of ensembles in `results` and `rows` -> the sweep's own.
    """

    folder: Path
    manifest: dict[str, Any]
    results: pd.DataFrame
    rows: pd.DataFrame
    left_out: list[str]
    inputs: pd.DataFrame | None
    reliability: pd.DataFrame | None = None
    bounds: pd.DataFrame | None = None
    ensembles: dict[str, str] = {}  # noqa: RUF012 - never modified

    @property
    def datasets(self) -> list[str]:
        """The datasets in it: one, unless somebody put tables together."""
        return list(map(str, self.results["dataset"].unique()))

    @property
    def series(self) -> set[str]:
        """The perturbations whose levels are test sets of their own."""
        return {name for name, row in self.manifest.get("perturbations", {}).items() if "series" in row}

    @property
    def attacks(self) -> dict[str, dict[str, Any]]:
        """Perturbations that are attacks -> what the manifest has of each.

        That is `steps` and `source`; `name` and `source_name`, of the attack without its source and of that; and
        `control`, the random noise of the same budget. What an older manifest lacks is empty, and the name as it is.
        """
        return {
            name: {
                "name": name,
                "control": row.get("control", ""),
                "source_name": row.get("source", name),
                **row["attack"],
            }
            for name, row in self.manifest.get("perturbations", {}).items()
            if "attack" in row
        }

    @property
    def without_denoising(self) -> dict[str, str]:
        """Arms that denoise -> the same model without."""
        described = self.manifest.get("models", {})
        return {key: arm["without_denoising"] for key, arm in described.items() if "without_denoising" in arm}

    @property
    def names(self) -> DisplayNames:
        """The perturbations' display names."""
        return display_names(self.manifest)

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
    return _sweep(folder, load_results(folder / "results.csv"), _manifest(folder))


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"No manifest.json in {folder}: give the output folder of `nnunet-robust sweep`.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'manifest.json'} is not JSON ({error}): run the sweep again.") from error


def _sweep(folder: Path, results: pd.DataFrame, manifest: dict[str, Any]) -> Sweep:
    sweep = Sweep(folder, manifest, results, results, [], None)
    rows, left_out = comparable(results, sweep.series, sweep.names)
    if rows.empty:
        raise UserError(
            f"Nothing in {folder} can be compared yet: no case is complete for every model; go on with the sweep."
        )
    inputs, reliability, bounds = (_table(folder / f"{name}.csv") for name in ("inputs", "reliability", "bounds"))
    return sweep._replace(
        rows=rows,
        left_out=[*_holes(folder, sweep.datasets), *left_out],
        inputs=inputs,
        reliability=None if reliability is None else beside(rows, reliability),
        bounds=None if bounds is None else beside(rows, bounds),
    )


def _table(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return read_table(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is not a table of {path.stem} ({str(error).strip()}): run the sweep again.") from error


def beside(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """What another table of a sweep has of the images that can be compared.

    Args:
        rows: what `comparable` returns.
        table: the columns `results.IDENTITY` and `results.CONDITION`, the clean images once.

    Returns:
        The table's rows, with `line` and `architecture`; those of the clean images again as level 0 of each
        perturbation, as in `rows`.
    """
    stored = ["dataset", *ARM, "patient", "case", "stored", "level", "replicate"]
    named = rows.assign(stored=rows["perturbation"].where(rows["series"] | (rows["level"] != 0), CLEAN))
    images = named[[*stored, "perturbation", "line", "architecture", "series"]].drop_duplicates()
    numbers = {"level": float, "replicate": float}
    return images.merge(table.rename(columns={"perturbation": "stored"}).astype(numbers), on=stored)


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
    manifests = [_manifest(folder) for folder in folders]
    models = [arm for manifest in manifests for arm in manifest.get("models", {}).values()]
    lines = _ensemble_names(results, models, "line", str)
    architectures = _ensemble_names(results, models, "architecture", without_seed)
    results = results.assign(
        line=results["line"].replace(lines), architecture=results["architecture"].replace(architectures)
    )
    sweeps = [
        _sweep(folder, results[results["dataset"].isin(of_folder)].reset_index(drop=True), manifest)
        for folder, of_folder, manifest in zip(folders, datasets, manifests, strict=True)
    ]
    return [
        sweep._replace(
            ensembles={
                short: name
                for name, short in {**lines, **architectures}.items()
                if short in set(sweep.results["architecture"])
            }
        )
        for sweep in sweeps
    ]


def _ensemble_names(
    results: pd.DataFrame, models: Iterable[Mapping[str, Any]], column: str, start: Callable[[str], str]
) -> dict[str, str]:
    """Short names of ensembles: "ensemble of 2, uniform" for "ensemble_uniform(nnUNetTrainer+nnUNetTrainerNoSkip)".

    Args:
        results: what `load_results` returns.
        models: the manifests' arms.
        column: "line" or "architecture".
        start: from a model's name to that which the column's begins with.

    Returns:
        Name -> short name, of the ensembles alone, and of those alone whose short name no other has.
    """
    of_model = {
        arm["model"]: f"ensemble of {len(arm['members'])}, {arm['weights']}" for arm in models if "members" in arm
    }
    arms = results[results["model"].isin(of_model)].drop_duplicates(column).to_dict("records")
    short = {arm[column]: of_model[arm["model"]] + arm[column].removeprefix(start(arm["model"])) for arm in arms}
    given = list(short.values())
    return {name: text for name, text in short.items() if given.count(text) == 1}
