"""`results.csv` -> rows, checked and paired; rows -> the scores of patients, which every analysis starts from."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.sentences import listed
from nnunet_robust.eval.metrics.metrics import METRIC_INFO
from nnunet_robust.eval.results.display_names import PLAIN, DisplayNames
from nnunet_robust.eval.results.reading import read_table
from nnunet_robust.eval.results.tables import ARM, SCORES

CLEAN = "clean"  # the perturbation's name in the rows of unperturbed images

# The metrics whose means can be compared: the volume ratio is best at 1, and infinite for a hallucinated object.
COMPARABLE = {name: info for name, info in METRIC_INFO.items() if info.better != "one"}

By = Literal["architecture", "line"]

_MODEL = list(ARM)
_TEXT = ["dataset", *_MODEL, "patient", "case", "perturbation", "label", "outcome"]
_SCORES = [name for name in SCORES if name != "weights"]  # numbers; older tables lack them
_NUMBERS = ["level", "replicate", *COMPARABLE, "volume_ratio", "n_ref", "n_pred"]
_OUTCOMES = {"ok", "both_empty", "missed", "hallucinated"}
# At the end of a trainer's name: before `@<dataset>`, and before the next member of an ensemble.
_SEED = re.compile(r"_seed(?:0|[1-9][0-9]*)(?=$|[@+),])")


def without_seed(model: str) -> str:
    """A model's name without the option `_seed<N>` of its trainer, or of an ensemble's members."""
    return _SEED.sub("", model)


def load_results(path: Path, *more: Path) -> pd.DataFrame:
    """Read and check `results.csv`.

    Args:
        path: the file that a sweep wrote, one row per model, case, condition and label.
        more: those of further sweeps, of other datasets; models are named alike in all.

    Returns:
        Their rows in the files' order, names as str (a fold "0" stays text), numbers as float, and two more columns:

        - `line`: the trained model's name in tables and plots, with the tile size where it is not that of the
          training, and lengthened by configuration, plans and fold only as far as needed to tell it from the others;
        - `architecture`: the same without the option `_seed<N>` and without the fold, so that the seeds and folds of an
          architecture share it. Folds that were averaged are told from single ones where both are there.

    Raises:
        UserError: no file, no rows, columns missing, a row twice, an unknown outcome, or a metric that is not finite.
    """
    results = pd.concat([_read(p) for p in (path, *more)], ignore_index=True)
    arms = results[_MODEL].drop_duplicates()
    arms["tile"] = (" (tile " + arms["tile_size"] + ")").where(arms["tile_size"] != arms["patch_size"], "")
    arms["untrained"] = [without_seed(name) for name in arms["model"]]
    arms["fold_name"] = "fold " + arms["fold"]
    n_folds = [fold.count("+") + 1 for fold in arms["fold"]]
    arms["folds"] = [f"{n} folds averaged" if n > 1 else "single folds" for n in n_folds]
    names = {
        "line": _shortest_names(arms, "model", ["configuration", "plans", "fold_name"]),
        "architecture": _shortest_names(arms, "untrained", ["configuration", "plans", "folds"]),
    }
    codes = results.groupby(_MODEL, sort=False).ngroup().to_numpy()
    for column, of_arms in names.items():
        results[column] = np.asarray(of_arms, dtype=object)[codes]
        results[column] = results[column].astype(results["model"].dtype)
    sizes = results.drop_duplicates(["dataset", *_MODEL])
    if (ambiguous := sizes.duplicated(["dataset", "line"])).any():
        raise UserError(
            f"{path} has {sizes.loc[ambiguous, 'line'].iloc[0]} with two patch sizes: name the two models apart."
        )
    return results


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"No results at {path}: give the output folder of `nnunet-robust sweep`.")
    results = read_table(path, [*_TEXT, *_NUMBERS], "give a sweep's results.csv, or run the sweep again")
    if results.empty:
        raise UserError(f"{path} has no rows: the sweep has not finished its first case, run it again to go on.")
    numbers = [*_NUMBERS, *(name for name in _SCORES if name in results)]
    results[numbers] = results[numbers].astype(float)
    if unknown := set(results["outcome"]) - _OUTCOMES:
        raise UserError(f"{path} has the outcome {min(unknown)!r}: it is one of {', '.join(sorted(_OUTCOMES))}.")
    key = ["dataset", *_MODEL, "case", "perturbation", "level", "replicate", "label"]
    if (twice := results.duplicated(key)).any():
        at = int(np.argmax(twice))
        row = results.iloc[at]
        raise UserError(f"{path}, line {at + 2}: case {row['case']!r} of {row['model']!r} is there twice, remove one.")
    for name in ["level", *COMPARABLE]:
        if (bad := ~np.isfinite(results[name])).any():
            at = int(np.argmax(bad))
            raise UserError(f"{path}, line {at + 2}: {name} is {results[name].iloc[at]}, and a mean would hide it.")
    return results


def _shortest_names(arms: pd.DataFrame, start: str, fields: Sequence[str]) -> list[str]:
    """For each arm its name: the column `start`, the tile, and the fewest fields that tell apart what they can."""
    names: dict[tuple[str, ...], str] = {}
    distinct = arms[[start, "tile", *fields]].drop_duplicates()
    for name, alike in distinct.groupby(distinct[start] + distinct["tile"], sort=False):
        candidates = [list(c) for n in range(len(fields) + 1) for c in combinations(fields, n)]
        chosen = next(c for c in candidates if not alike.duplicated([start, *c]).any())
        for key, row in zip(alike.itertuples(index=False, name=None), alike.to_dict("records"), strict=True):
            names[key] = " · ".join([str(name), *(row[f] for f in chosen)])
    return [names[key] for key in arms[[start, "tile", *fields]].itertuples(index=False, name=None)]


def comparable(
    results: pd.DataFrame, series: Collection[str] = (), names: DisplayNames = PLAIN
) -> tuple[pd.DataFrame, list[str]]:
    """Pair the models: per dataset and perturbation, the cases, levels and replicates that every model has.

    Args:
        results: what `load_results` returns.
        series: the perturbations whose levels are test sets of their own: the clean images are not their level 0, and
            their cases need not be the same at every level.
        names: of perturbations, for the sentences.

    Returns:
        The rows to compare, with the clean images repeated as level 0 of each perturbation that is no series (and once
        under the name "clean"), and a sentence for everything that was left out. No row is left out without one. The
        column `series` tells whose levels are test sets. Levels rise within each perturbation, as figures draw them.
    """
    kept, left_out = [], []
    for dataset, rows in results.groupby("dataset", sort=False):
        is_clean = rows["perturbation"] == CLEAN
        for name in dict.fromkeys([CLEAN, *rows["perturbation"]]):
            lines = list(dict.fromkeys(rows["line"]))
            if name in series:
                paired, said = _pair_series(rows[rows["perturbation"] == name], lines)
            else:
                under = rows[is_clean | (rows["perturbation"] == name)].assign(perturbation=name)
                paired, said = _pair(under, lines)
            kept.append(paired.sort_values("level", kind="stable").assign(series=name in series))
            left_out += [f"{dataset}, {names[name]}: {sentence}" for sentence in said]
    return pd.concat(kept, ignore_index=True), left_out


def _pair(rows: pd.DataFrame, lines: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The part of one perturbation's rows that every model shares, and what that leaves out."""
    left_out = []
    perturbed = (rows["perturbation"] != CLEAN).any()
    levels = {line: set(rows.loc[rows["line"] == line, "level"]) for line in lines}
    for line in lines:
        if 0.0 not in levels[line]:
            left_out.append(f"{line} is left out, for it has no clean images to start from.")
        elif perturbed and len(levels[line]) == 1:
            left_out.append(f"{line} is left out, for it was not run under this perturbation.")
    members = [line for line in lines if 0.0 in levels[line] and (len(levels[line]) > 1 or not perturbed)]
    if not members:
        return rows.iloc[:0], [*left_out, "Nothing is left to compare."]
    rows = rows[rows["line"].isin(members)]

    common = set.intersection(*(levels[line] for line in members))
    if extra := sorted(set(rows["level"]) - common):
        left_out.append(f"level {listed([f'{x:g}' for x in extra])} is left out, for not every model has it.")
    rows = rows[rows["level"].isin(common)]

    all_cases = dict.fromkeys(rows["case"])
    sharing = rows.groupby(["case", "level", "replicate", "label"])["line"].transform("nunique")
    shared = rows[sharing == len(members)]
    complete = shared.groupby("case")["level"].nunique() == len(common)
    cases = set(complete.index[complete])
    if dropped := [case for case in all_cases if case not in cases]:
        left_out.append(
            f"{len(dropped)} of {len(all_cases)} cases ({listed(dropped)}) left out, "
            "for not every model has them at every level."
        )
    unshared = int((rows["case"].isin(cases) & (sharing < len(members))).sum())
    if unshared:
        left_out.append(
            f"{unshared} rows (replicates or labels) of the other cases left out, for not every model has them."
        )
    return shared[shared["case"].isin(cases)], left_out


def _pair_series(rows: pd.DataFrame, lines: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The part of a series' rows that every model shares, level by level, and what that leaves out."""
    members = set(rows["line"])
    left_out = [f"{line} is left out, for it was not run on this series." for line in lines if line not in members]
    sharing = rows.groupby(["case", "level", "replicate", "label"])["line"].transform("nunique")
    shared = rows[sharing == len(members)]
    for level, of_level in rows.groupby("level"):
        if dropped := sorted(set(of_level["case"]) - set(shared.loc[shared["level"] == level, "case"])):
            left_out.append(
                f"at level {level:g} {len(dropped)} of {of_level['case'].nunique()} cases ({listed(dropped)}) "
                "left out, for not every model has them."
            )
    return shared, left_out


def case_scores(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The mean over labels and replicates: one score for each trained model, case and condition.

    Args:
        results: rows of `load_results` or `comparable`.
        metric: a key of `COMPARABLE`.

    Returns:
        Columns dataset, perturbation, architecture, line, level, patient, case and the metric's name, in the order of
        the rows.

    Raises:
        UserError: an unknown metric.
    """
    if metric not in COMPARABLE:
        raise UserError(f"Unknown metric {metric!r}: choose one of {', '.join(COMPARABLE)}.")
    keys = ["dataset", "perturbation", "architecture", "line", "level", "patient", "case"]
    return results.groupby(keys, sort=False)[metric].mean().reset_index()


@dataclass(frozen=True)
class Scores:
    """The patients' scores under one perturbation of one dataset.

    Attributes:
        dataset: its name.
        perturbation: its name, or `CLEAN`.
        in_series: whether the levels are test sets of their own.
        names: what is compared: architectures or trained models, in the order of the rows.
        lines: the trained models.
        owner: (lines,), the index of each trained model's name in `names`.
        levels: (levels,), ascending.
        patients: their names, sorted.
        by_line: (lines, levels, patients), each patient's mean over cases; NaN where a series lacks the patient.
        n_cases: (levels,), cases at each level.
    """

    dataset: str
    perturbation: str
    in_series: bool
    names: list[str]
    lines: list[str]
    owner: NDArray[np.intp]
    levels: NDArray[np.float64]
    patients: list[str]
    by_line: NDArray[np.float64]
    n_cases: NDArray[np.intp]

    @functools.cached_property
    def values(self) -> NDArray[np.float64]:
        """The mean over the trained models of each name, (names, levels, patients)."""
        return means_of_names(self.by_line, self.owner, len(self.names))

    def present(self, level: int) -> NDArray[np.bool_]:
        """Which patients have a score of every name at the level of this index, (patients,)."""
        return np.isfinite(self.values[:, level]).all(axis=0)

    def at(self, level: int) -> NDArray[np.float64]:
        """The scores at the level of this index, (patients, names), of the patients with a score of every name."""
        return self.values[:, level, self.present(level)].T


def patient_scores(rows: pd.DataFrame, metric: str, by: By = "architecture") -> list[Scores]:
    """The scores of patients: means over labels and replicates, then cases, then an architecture's trained models.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        by: what is compared; "line" takes each trained model for itself.

    Returns:
        One for each dataset and perturbation, in the order of the rows.

    Raises:
        UserError: an unknown metric.
    """
    scores = case_scores(rows, metric)
    keys = ["dataset", "perturbation"]
    series = rows.loc[rows["series"], keys].drop_duplicates() if "series" in rows else rows.iloc[:0][keys]
    in_series = set(series.itertuples(index=False, name=None))
    n_cases = scores.groupby([*keys, "level"])["case"].nunique().to_dict()
    by_patient = scores.groupby([*keys, "architecture", "line", "level", "patient"], sort=False)[metric].mean()
    found = []
    for key, part in by_patient.reset_index().groupby(keys, sort=False):
        line_at, lines = pd.factorize(part["line"])
        patient_at, patients = pd.factorize(part["patient"], sort=True)
        levels, level_at = np.unique(part["level"].to_numpy(float), return_inverse=True)
        by_line = np.full((len(lines), len(levels), len(patients)), np.nan)
        by_line[line_at, level_at, patient_at] = part[metric].to_numpy(float)
        owner, names = pd.factorize(part.drop_duplicates("line")[by])
        place, named = (str(key[0]), str(key[1]), key in in_series), (list(names), list(lines), owner)
        counted = np.array([n_cases[key[0], key[1], level] for level in levels])
        found.append(Scores(*place, *named, levels, list(patients), by_line, counted))
    return found


def means_of_names(scores: NDArray[np.float64], owner: NDArray[np.intp], n_names: int) -> NDArray[np.float64]:
    """Average the trained models of each name.

    Args:
        scores: (trained models, ...).
        owner: (trained models,), the index of each one's name.
        n_names: number of names; each has a trained model or more.

    Returns:
        (names, ...).
    """
    return np.stack([scores[owner == i].mean(axis=0) for i in range(n_names)])


def direction(metric: str) -> float:
    """The sign of a metric: 1 where a higher value is better, -1 where a lower one is."""
    return 1.0 if COMPARABLE[metric].better == "higher" else -1.0
