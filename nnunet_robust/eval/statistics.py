"""Means, intervals and robustness summaries from a sweep's `results.csv`; usable without the command line.

The unit is the patient: a score is averaged over labels and replicates, then over a patient's cases, then over
patients, and the bootstrap resamples patients. Models are compared on the same cases only: `comparable` pairs them, and
says what it left out.

    rows, left_out = comparable(load_results(Path("OUT/results.csv")))
    curves(rows, "dice"), summary(rows, "dice")
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.integrate import trapezoid

from nnunet_robust.errors import UserError
from nnunet_robust.eval.metrics import METRIC_INFO
from nnunet_robust.eval.results import ARM
from nnunet_robust.seeding import numpy_generator

CLEAN = "clean"  # the perturbation's name in the rows of unperturbed images
MEAN_OF_LABELS = "(mean)"  # the label's name in the rows that average over several labels

N_RESAMPLES = 2000
CONFIDENCE = 0.95


# The metrics whose means can be compared: the volume ratio is best at 1, and infinite for a hallucinated object.
COMPARABLE = {name: info for name, info in METRIC_INFO.items() if info.better != "one"}

_MODEL = list(ARM)
_TEXT = ["dataset", *_MODEL, "patient", "case", "perturbation", "label", "outcome"]
_NUMBERS = ["level", "replicate", *COMPARABLE, "volume_ratio", "n_ref", "n_pred"]
_OUTCOMES = {"ok", "both_empty", "missed", "hallucinated"}


def load_results(path: Path) -> pd.DataFrame:
    """Read and check `results.csv`.

    Args:
        path: the file that a sweep wrote, one row per model, case, condition and label.

    Returns:
        Its rows in the file's order, names as str (a fold "0" stays text), numbers as float, and one more column
        `line`: the model's name in tables and plots, with the tile size where it is not that of the training, and
        lengthened by configuration, plans and fold only as far as needed to tell it from the others.

    Raises:
        UserError: no file, no rows, columns missing, a row twice, an unknown outcome, or a metric that is not finite.
    """
    if not path.is_file():
        raise UserError(f"No results at {path}: give the output folder of `nnunet-robust sweep`.")
    not_a_number = {name: ["", "nan", "NaN", "NA"] for name in _NUMBERS}
    try:
        results = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False, na_values=not_a_number)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is not a table of results ({str(error).strip()}): run the sweep again.") from error
    if missing := [name for name in _TEXT + _NUMBERS if name not in results]:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}: it is not a sweep's results.csv.")
    if results.empty:
        raise UserError(f"{path} has no rows: the sweep has not finished its first case, run it again to go on.")
    try:
        results[_NUMBERS] = results[_NUMBERS].astype(float)
    except ValueError as error:
        raise UserError(f"{path} has text where a number belongs ({error}): run the sweep again.") from error
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
    results["line"] = _line_names(results)
    return results


def _line_names(results: pd.DataFrame) -> pd.Series:
    """The shortest names that tell apart what `results.ARM` tells apart."""
    names = {}
    arms = results[_MODEL].drop_duplicates()
    tile = (" (tile " + arms["tile_size"] + ")").where(arms["tile_size"] != arms["patch_size"], "")
    for name, same_name in arms.groupby(arms["model"] + tile, sort=False):
        candidates = [list(c) for n in range(4) for c in combinations(["configuration", "plans", "fold"], n)]
        fields = next(c for c in candidates if not same_name.duplicated(["model", *c]).any())
        for row in same_name.to_dict("records"):
            parts = [f"fold {row[f]}" if f == "fold" else row[f] for f in fields]
            names[tuple(row[f] for f in _MODEL)] = " · ".join([str(name), *parts])
    return pd.Series([names[key] for key in results[_MODEL].itertuples(index=False, name=None)], index=results.index)


def comparable(results: pd.DataFrame, series: Collection[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """Pair the models: per dataset and perturbation, the cases, levels and replicates that every model has.

    Args:
        results: what `load_results` returns.
        series: the perturbations whose levels are test sets of their own: the clean images are not their level 0, and
            their cases need not be the same at every level.

    Returns:
        The rows to compare, with the clean images repeated as level 0 of each perturbation that is no series (and once
        under the name "clean"), and a sentence for everything that was left out. No row is left out without one. The
        column `series` tells whose levels are test sets.
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
            kept.append(paired.assign(series=name in series))
            left_out += [f"{dataset}, {name.replace('_', ' ')}: {sentence}" for sentence in said]
    return pd.concat(kept, ignore_index=True), left_out


def _pair(rows: pd.DataFrame, lines: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The part of one perturbation's rows that every model shares, and what that leaves out."""
    said = []
    perturbed = (rows["perturbation"] != CLEAN).any()
    levels = {line: set(rows.loc[rows["line"] == line, "level"]) for line in lines}
    for line in lines:
        if 0.0 not in levels[line]:
            said.append(f"{line} is left out, for it has no clean images to start from.")
        elif perturbed and len(levels[line]) == 1:
            said.append(f"{line} is left out, for it was not run under this perturbation.")
    members = [line for line in lines if 0.0 in levels[line] and (len(levels[line]) > 1 or not perturbed)]
    if not members:
        return rows.iloc[:0], [*said, "Nothing is left to compare."]
    rows = rows[rows["line"].isin(members)]

    common = set.intersection(*(levels[line] for line in members))
    if extra := sorted(set(rows["level"]) - common):
        said.append(f"level {_listed([f'{x:g}' for x in extra])} is left out, for not every model has it.")
    rows = rows[rows["level"].isin(common)]

    all_cases = dict.fromkeys(rows["case"])
    sharing = rows.groupby(["case", "level", "replicate", "label"])["line"].transform("nunique")
    shared = rows[sharing == len(members)]
    complete = shared.groupby("case")["level"].nunique() == len(common)
    cases = set(complete.index[complete])
    if dropped := [case for case in all_cases if case not in cases]:
        said.append(
            f"{len(dropped)} of {len(all_cases)} cases ({_listed(dropped)}) left out, "
            "for not every model has them at every level."
        )
    unshared = int((rows["case"].isin(cases) & (sharing < len(members))).sum())
    if unshared:
        said.append(
            f"{unshared} rows (replicates or labels) of the other cases left out, for not every model has them."
        )
    return shared[shared["case"].isin(cases)], said


def _pair_series(rows: pd.DataFrame, lines: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The part of a series' rows that every model shares, level by level, and what that leaves out."""
    members = set(rows["line"])
    said = [f"{line} is left out, for it was not run on this series." for line in lines if line not in members]
    sharing = rows.groupby(["case", "level", "replicate", "label"])["line"].transform("nunique")
    shared = rows[sharing == len(members)]
    for level, of_level in rows.groupby("level"):
        if dropped := sorted(set(of_level["case"]) - set(shared.loc[shared["level"] == level, "case"])):
            said.append(
                f"at level {level:g} {len(dropped)} of {of_level['case'].nunique()} cases ({_listed(dropped)}) "
                "left out, for not every model has them."
            )
    return shared, said


def _listed(names: Sequence[str], at_most: int = 8) -> str:
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def case_scores(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The mean over labels and replicates: one score for each model, case and condition.

    Args:
        results: rows of `load_results` or `comparable`.
        metric: a key of `COMPARABLE`.

    Returns:
        Columns dataset, perturbation, line, level, patient, case and the metric's name, in the order of the rows.

    Raises:
        UserError: an unknown metric.
    """
    if metric not in COMPARABLE:
        raise UserError(f"Unknown metric {metric!r}: choose one of {', '.join(COMPARABLE)}.")
    keys = ["dataset", "perturbation", "line", "level", "patient", "case"]
    return results.groupby(keys, sort=False)[metric].mean().reset_index()


def bootstrap_interval(
    values_by_patient: pd.Series | Sequence[float] | np.ndarray,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The BCa bootstrap interval of the mean, clustered by patient.

    Args:
        values_by_patient: a series with patients as its index (several values of a patient are averaged first, so that
            patients are what is resampled), or one value per patient.
        n_resamples: number of bootstrap samples.
        confidence: nominal coverage, in (0, 1).
        seed: the same seed and number of patients give the same resamples, so that intervals of models are comparable.

    Returns:
        (low, high); (m, m) where all patients have the same value m; None for a single patient, who says nothing about
        others.

    Raises:
        ValueError: no values, or values that are not finite.

    Reference: Efron 1987, "Better bootstrap confidence intervals"; computed by `scipy.stats.bootstrap`.
    """
    by_patient = (
        values_by_patient.groupby(level=0).mean() if isinstance(values_by_patient, pd.Series) else values_by_patient
    )
    values = np.asarray(by_patient, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"bootstrap_interval needs finite values of at least one patient, got {values.tolist()}")
    if values.size == 1:
        return None
    if np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())):  # equal up to rounding: BCa would be 0 / 0
        return float(values[0]), float(values[0])
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=n_resamples,
        confidence_level=confidence,
        method="BCa",
        random_state=numpy_generator(seed, "bootstrap"),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def curves(rows: pd.DataFrame, metric: str, n_resamples: int = N_RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The mean over patients with its interval, for each model, perturbation and level.

    Level 0 is the clean images, but for a series, which has the levels that it has.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        n_resamples: number of bootstrap samples, see `bootstrap_interval`.
        seed: of the bootstrap.

    Returns:
        Columns dataset, perturbation, line, level (ascending within a line), mean, low, high, n_cases, n_patients. low
        and high are missing where there is a single patient.
    """
    points = []
    for (dataset, perturbation, line), scores, n_cases in _tables(rows, metric):
        for level in scores.columns:
            here = scores[level].dropna()  # only in a series may a patient lack a level
            low, high = _low_high(here, n_resamples, seed)
            points.append(
                {
                    "dataset": dataset,
                    "perturbation": perturbation,
                    "line": line,
                    "level": float(level),
                    "mean": float(here.mean()),
                    "low": low,
                    "high": high,
                    "n_cases": int(n_cases[level]),
                    "n_patients": len(here),
                }
            )
    columns = ["dataset", "perturbation", "line", "level", "mean", "low", "high", "n_cases", "n_patients"]
    return pd.DataFrame(points, columns=columns)


def summary(rows: pd.DataFrame, metric: str = "dice", n_resamples: int = N_RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row per dataset, perturbation and model (and per label where there are several): what was lost, and how.

    Args:
        rows: what `comparable` returns.
        metric: a key of `COMPARABLE`.
        n_resamples: number of bootstrap samples, see `bootstrap_interval`.
        seed: of the bootstrap.

    Returns:
        Columns dataset, perturbation, label ("(mean)" for the average over several), line, and

        - clean, worst: mean score on clean images, and at `worst_level`, the perturbed level where it is worst;
        - drop, relative_drop: what is lost between them (positive is worse, for every metric), and as a share of clean;
        - auc: area under the curve over levels, trapezoid rule, with the levels from 0 to the highest scaled to [0, 1]:
          the score's average over levels, in the metric's unit;
        - *_low, *_high: bootstrap intervals of clean, worst, drop (paired by patient, the worst level
          taken as given) and auc;
        - in a series, clean is the score on the dataset's own test set, which is no level of it: the levels run from
          the lowest, and missed and hallucinated count the series alone. Where not every patient is at both places, or
          at every level, drop and auc are those of the means, and have no interval;
        - missed, hallucinated: how often, over all levels (0 included), of `n_objects` rows (case x level x replicate x
          label);
        - n_cases, n_patients.
    """
    perturbed = rows[rows["perturbation"] != CLEAN]
    labels = list(dict.fromkeys(perturbed["label"]))
    parts = [(labels[0], perturbed)] if len(labels) == 1 else [(MEAN_OF_LABELS, perturbed)] if labels else []
    if len(labels) > 1:
        parts += [(label, perturbed[perturbed["label"] == label]) for label in labels]
    found = [
        {"label": label, **_summary_row(key, scores, clean, part, n_cases, metric, n_resamples, seed)}
        for label, part in parts
        for key, scores, clean, n_cases in _with_clean(rows, part, label, metric)
    ]
    if not found:
        return pd.DataFrame(columns=["dataset", "perturbation", "label", "line"])
    table = pd.DataFrame(found)
    order = ["dataset", "perturbation", "label", "line"]
    ranks = {name: {value: i for i, value in enumerate(dict.fromkeys(table[name]))} for name in order}
    table = table.sort_values(order, key=lambda column: column.map(ranks[str(column.name)]), ignore_index=True)
    return table[[*order, *(name for name in table if name not in order)]]


def _summary_row(
    key: tuple[str, str, str],
    scores: pd.DataFrame,
    clean_scores: pd.Series,
    rows: pd.DataFrame,
    n_cases: pd.Series,
    metric: str,
    n_resamples: int,
    seed: int,
) -> dict[str, Any]:
    dataset, perturbation, line = key
    sign = 1.0 if COMPARABLE[metric].better == "higher" else -1.0
    means = scores.mean()
    mine = rows[(rows["dataset"] == dataset) & (rows["perturbation"] == perturbation) & (rows["line"] == line)]
    is_series = bool(mine["series"].any())
    worst_level: Any = (sign * (means if is_series else means.drop(0.0))).idxmin()
    worst_scores = scores[worst_level].dropna()
    clean = float(clean_scores.mean())
    drop = sign * (clean - float(means[worst_level]))
    losses = sign * (clean_scores - worst_scores) if set(clean_scores.index) == set(worst_scores.index) else None
    areas = _areas(scores)
    row: dict[str, Any] = {"dataset": dataset, "perturbation": perturbation, "line": line, "clean": clean}
    row["clean_low"], row["clean_high"] = _low_high(clean_scores, n_resamples, seed)
    row["worst_level"], row["worst"] = float(worst_level), float(means[worst_level])
    row["worst_low"], row["worst_high"] = _low_high(worst_scores, n_resamples, seed)
    row["drop"] = drop
    row["drop_low"], row["drop_high"] = _NONE if losses is None else _low_high(losses, n_resamples, seed)
    row["relative_drop"] = drop / clean if clean else float("nan")
    complete = bool(scores.notna().all(axis=None))
    row["auc"] = float(areas.mean()) if complete else float(_areas(means.to_frame().T).iloc[0])
    row["auc_low"], row["auc_high"] = _low_high(areas, n_resamples, seed) if complete else _NONE
    row["missed"] = int((mine["outcome"] == "missed").sum())
    row["hallucinated"] = int((mine["outcome"] == "hallucinated").sum())
    return {**row, "n_objects": len(mine), "n_cases": int(n_cases[worst_level]), "n_patients": len(worst_scores)}


def _areas(scores: pd.DataFrame) -> pd.Series:
    """Each row's area under the curve over the levels, scaled to [0, 1]; its value where there is one level."""
    levels = scores.columns.to_numpy(float)
    if len(levels) == 1:
        return scores.iloc[:, 0]
    scaled = (levels - levels[0]) / (levels[-1] - levels[0])
    return pd.Series(trapezoid(scores.to_numpy(float), scaled, axis=1), index=scores.index)


def _with_clean(
    rows: pd.DataFrame, part: pd.DataFrame, label: str, metric: str
) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame, pd.Series, pd.Series]]:
    """`_tables` of a part, each with the scores of its clean images by patient: level 0, or the own test set."""
    own = rows[(rows["perturbation"] == CLEAN) & (rows["label"].eq(label) if label in set(rows["label"]) else True)]
    own_scores = {key: scores[0.0] for key, scores, _ in _tables(own, metric)}
    in_series = set(part.loc[part["series"], "perturbation"])
    for key, scores, n_cases in _tables(part, metric):
        dataset, perturbation, line = key
        own_clean = own_scores.get((dataset, CLEAN, line), pd.Series(dtype=float))
        clean = own_clean if perturbation in in_series else scores[0.0]
        yield key, scores, clean, n_cases


def _tables(rows: pd.DataFrame, metric: str) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame, pd.Series]]:
    """For each (dataset, perturbation, line): scores as patients x levels (ascending), and each level's cases.

    A score is missing where a series does not have the patient at that level.
    """
    for (dataset, perturbation, line), scores in case_scores(rows, metric).groupby(
        ["dataset", "perturbation", "line"], sort=False
    ):
        table = scores.pivot_table(index="patient", columns="level", values=metric, aggfunc="mean")
        yield (str(dataset), str(perturbation), str(line)), table, scores.groupby("level")["case"].nunique()


_NONE = (float("nan"), float("nan"))


def _low_high(values: pd.Series, n_resamples: int, seed: int) -> tuple[float, float]:
    if values.empty:
        return _NONE
    return bootstrap_interval(values, n_resamples=n_resamples, seed=seed) or _NONE
