"""Two sweeps, one against the other: paired where they hold the same cases under the same conditions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.common.sentences import listed
from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.results.display_names import display_names
from nnunet_robust.eval.statistics import CLEAN, CONFIDENCE, N_RESAMPLES, bca_intervals, curves
from nnunet_robust.eval.statistics.comparisons import holm
from nnunet_robust.eval.statistics.signed_rank import signed_rank
from nnunet_robust.eval.statistics.tables import Scores, patient_scores

FIRST, SECOND = "first", "second"
_EQUAL = 1e-12  # scores that differ by less are the same
_KEY = ["perturbation", "level", "patient", "case", "replicate", "label"]


class Comparison(NamedTuple):
    """What two sweeps have in common, and how it differs.

    Attributes:
        table: a row per dataset, perturbation, architecture and level (clean images once, as the perturbation "clean"):

            - first, second: mean over patients in each sweep; change: second minus first;
            - low, high: interval of the change: paired, BCa over the patients' differences; else BCa of a difference of
              two independent means. Missing with a single patient;
            - p, p_holm: Wilcoxon's test of the patients' differences where paired (see `signed_rank`), and Holm's
              correction over all architectures and levels of the dataset and perturbation; else missing;
            - paired; n_first, n_second: patients; n_cases_first, n_cases_second.
        points: `statistics.curves` of the rows that were compared, with a column `sweep`: "first" or "second".
        matched: for each dataset, the architectures' names in the first and in the second sweep.
        left_out: a sentence for everything that is in one sweep only, or cannot be compared.
    """

    table: pd.DataFrame
    points: pd.DataFrame
    matched: dict[str, dict[str, str]]
    left_out: list[str]


def compare(
    first: Sweep, second: Sweep, metric: str = "dice", n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two sweeps of the same dataset (before and after a retraining), or of one dataset each (two sites).

    A case is the same in both where dataset, patient, case, perturbation, level, replicate and label agree, and its
    files do, as far as the manifests know. A perturbation that has such cases is compared on these alone; one that has
    none is compared unpaired, at the levels and labels that both have.

    Args:
        first: the one to start from.
        second: the one that may differ.
        metric: a key of `COMPARABLE`.
        n_resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Raises:
        UserError: several datasets and none in common, or no architecture, perturbation and level that both have.
    """
    tables, points, left_out = [], [], []
    names = display_names(first.manifest, second.manifest)
    matched: dict[str, dict[str, str]] = {}
    for ours, theirs in _datasets(first, second):
        name = ours if ours == theirs else f"{ours} and {theirs}"
        a, b = (s.rows[s.rows["dataset"] == d] for s, d in ((first, ours), (second, theirs)))
        matched[name] = _match(a, b)
        left_out += [f"{name}: {sentence}" for sentence in _unmatched(a, b, matched[name])]
        a = _with_digests(a[a["architecture"].isin(matched[name])], first)
        b = _with_digests(b[b["architecture"].isin(matched[name].values())], second)
        b = b.assign(architecture=b["architecture"].map({there: here for here, there in matched[name].items()}))
        said: dict[str, list[str]] = {}
        parts = []
        for perturbation in dict.fromkeys([*a["perturbation"], *b["perturbation"]]):
            here, there = (rows[rows["perturbation"] == perturbation].assign(dataset=name) for rows in (a, b))
            part, sentences = _common(here, there, ours == theirs)
            for sentence in sentences:
                said.setdefault(sentence, []).append(names[str(perturbation)])
            if part is not None:
                parts.append(part)
        left_out += [f"{name}, {listed(where)}: {sentence}" for sentence, where in said.items()]
        tables += [_changes(part, metric, n_resamples, seed) for part in parts]
        for sweep, rows in ((FIRST, [p.first for p in parts]), (SECOND, [p.second for p in parts])):
            if rows:
                means = curves(pd.concat(rows), metric, n_resamples=n_resamples, seed=seed)
                points.append(means.assign(sweep=sweep))
    if not tables:
        raise UserError(
            f"{first.folder} and {second.folder} have no architecture under the same perturbation and level: "
            "there is nothing to compare."
        )
    return Comparison(pd.concat(tables, ignore_index=True), pd.concat(points, ignore_index=True), matched, left_out)


def _datasets(first: Sweep, second: Sweep) -> list[tuple[str, str]]:
    shared = [(name, name) for name in first.datasets if name in second.datasets]
    if not shared and len(first.datasets) == len(second.datasets) == 1:
        return [(first.datasets[0], second.datasets[0])]
    if not shared:
        raise UserError(
            f"{first.folder} holds {listed(first.datasets)}, {second.folder} holds {listed(second.datasets)}: "
            "give sweeps that have a dataset in common, or of one dataset each."
        )
    return shared


# What two architectures must share to be taken for the same, from the strictest to the loosest: the name as shown; or
# the trainer, whatever dataset it was trained on and whatever was needed to tell it from others in its sweep.
_SAME: tuple[Callable[[dict[str, str]], tuple[str, ...]], ...] = (
    lambda a: (a["architecture"], a["plans"], a["configuration"]),
    lambda a: (_trainer(a), a["plans"], a["configuration"]),
    lambda a: (_trainer(a), a["configuration"]),
    lambda a: (a["architecture"],),
)


def _trainer(arm: dict[str, str]) -> str:
    return re.sub(r"@[^ ]*| · .*", "", arm["architecture"])


def _match(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, str]:
    """The architectures that both have: the first's name -> the second's; each at most once."""
    arms = [rows.drop_duplicates("architecture").to_dict("records") for rows in (first, second)]
    matched: dict[str, str] = {}
    for same in _SAME:
        here, there = (
            [arm for arm in of_sweep if arm["architecture"] not in taken]
            for of_sweep, taken in zip(arms, (matched.keys(), set(matched.values())), strict=True)
        )
        for arm in here:
            like = [other for other in there if same(other) == same(arm)]
            if len(like) == 1 and [same(other) for other in here].count(same(arm)) == 1:
                matched[arm["architecture"]] = like[0]["architecture"]
    order = dict.fromkeys(first["architecture"])
    return {name: matched[name] for name in order if name in matched}


def _unmatched(first: pd.DataFrame, second: pd.DataFrame, matched: dict[str, str]) -> Iterator[str]:
    for which, rows, known in ((FIRST, first, set(matched)), (SECOND, second, set(matched.values()))):
        for name in dict.fromkeys(rows["architecture"]):
            if name not in known:
                yield f"{name} is in the {which} sweep only."
    arms = [rows.drop_duplicates("architecture").set_index("architecture") for rows in (first, second)]
    for here, there in matched.items():
        kinds = [
            tuple(arm.loc[name, ["plans", "configuration"]]) for arm, name in zip(arms, (here, there), strict=True)
        ]
        if here != there or kinds[0] != kinds[1]:
            a, b = (f"{name} ({', '.join(kind)})" for name, kind in zip((here, there), kinds, strict=True))
            yield f"{a} of the first sweep is compared with {b} of the second."


def _with_digests(rows: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The rows with a column `digest`: what is known of the files of their case; empty where nothing is."""
    own, described = sweep.manifest.identity.cases, sweep.manifest.perturbations
    known = {}
    for perturbation, level, case in set(zip(rows["perturbation"], rows["level"], rows["case"], strict=True)):
        series = described[perturbation].series if perturbation in described else None
        files: Mapping[str, str | None] = own if series is None else series.get(f"{level:g}", {})
        known[perturbation, level, case] = files.get(case) or ""
    keys = zip(rows["perturbation"], rows["level"], rows["case"], strict=True)
    return rows.assign(digest=[known[key] for key in keys])


class _Common(NamedTuple):
    """The rows of one dataset and perturbation that are compared."""

    first: pd.DataFrame
    second: pd.DataFrame
    paired: bool


def _common(first: pd.DataFrame, second: pd.DataFrame, same_dataset: bool) -> tuple[_Common | None, list[str]]:
    """What of one perturbation both sweeps have, and what that leaves out."""
    for which, rows, other in ((FIRST, first, second), (SECOND, second, first)):
        if other.empty:
            return None, [f"this is in the {which} sweep only, for architectures that both have."] if len(rows) else []
    said = []
    levels = set(first["level"]) & set(second["level"])
    for which, rows in ((FIRST, first), (SECOND, second)):
        if extra := sorted(set(rows["level"]) - levels):
            said.append(f"level {listed([f'{level:g}' for level in extra])} is in the {which} sweep only.")
    architectures = set(first["architecture"]) & set(second["architecture"])
    a, b = (rows[rows["level"].isin(levels) & rows["architecture"].isin(architectures)] for rows in (first, second))
    if a.empty or b.empty:
        return None, [*said, "no level is in both sweeps."]

    keys = [rows[[*_KEY, "digest"]].drop_duplicates() for rows in (a, b)]
    both = (
        keys[0].merge(keys[1], on=_KEY, suffixes=("", "_there"))
        if same_dataset
        else keys[0].iloc[:0].assign(digest_there="")
    )
    other_files = (both["digest"] != both["digest_there"]) & both["digest"].ne("") & both["digest_there"].ne("")
    if other_files.any():
        cases = list(dict.fromkeys(both.loc[other_files, "case"]))
        said.append(
            f"{listed(cases)} {'has' if len(cases) == 1 else 'have'} other files in the second sweep: not paired."
        )
    shared = both.loc[~other_files, _KEY]
    if shared.empty:
        labels = set(a["label"]) & set(b["label"])
        a, b = (rows[rows["label"].isin(labels)] for rows in (a, b))
        if not labels:
            return None, [*said, "no label is in both sweeps."]
        return _Common(a, b, False), [
            *said,
            "no case is in both sweeps: compared unpaired, as two samples of patients.",
        ]

    pair = [rows.merge(shared, on=_KEY) for rows in (a, b)]
    for which, rows, kept in ((FIRST, a, pair[0]), (SECOND, b, pair[1])):
        all_cases = list(dict.fromkeys(rows["case"]))
        if gone := [case for case in all_cases if case not in set(kept["case"])]:
            said.append(f"{len(gone)} of {len(all_cases)} cases ({listed(gone)}) of the {which} sweep are left out.")
        more = int(rows["case"].isin(set(kept["case"])).sum()) - len(kept)
        if more:
            said.append(
                f"{more} rows (levels, replicates or labels) of the other cases of the {which} sweep are left out."
            )
    return _Common(pair[0], pair[1], True), said


def _changes(part: _Common, metric: str, n_resamples: int, seed: int) -> pd.DataFrame:
    """The rows of `Comparison.table` of one dataset and perturbation."""
    (first,), (second,) = (patient_scores(rows, metric) for rows in (part.first, part.second))
    at_zero_again = first.perturbation != CLEAN and not first.in_series
    keys, columns = [], []
    for i, architecture in enumerate(first.names):
        for level in np.intersect1d(first.levels, second.levels):
            if (level == 0 and at_zero_again) or architecture not in second.names:
                continue
            a = _scores(first, i, level)
            b = _scores(second, second.names.index(architecture), level)
            keys.append((architecture, level))
            columns.append((a, b))
    if not keys:
        return pd.DataFrame()
    low, high, p = (_paired if part.paired else _unpaired)(columns, n_resamples, seed)
    n_cases = [dict(zip(scores.levels, scores.n_cases, strict=True)) for scores in (first, second)]
    return pd.DataFrame(
        {
            "dataset": first.dataset,
            "perturbation": first.perturbation,
            "architecture": [architecture for architecture, _ in keys],
            "level": [level for _, level in keys],
            FIRST: [a.mean() for a, _ in columns],
            SECOND: [b.mean() for _, b in columns],
            "change": [b.mean() - a.mean() for a, b in columns],
            "low": low,
            "high": high,
            "p": p,
            "p_holm": holm(p) if part.paired else np.nan,
            "paired": part.paired,
            "n_first": [len(a) for a, _ in columns],
            "n_second": [len(b) for _, b in columns],
            "n_cases_first": [int(n_cases[0][level]) for _, level in keys],
            "n_cases_second": [int(n_cases[1][level]) for _, level in keys],
        }
    )


def _scores(scores: Scores, architecture: int, level: float) -> pd.Series:
    """One architecture's scores at one level, by patient."""
    at = int(np.flatnonzero(scores.levels == level)[0])
    return pd.Series(scores.values[architecture, at], index=scores.patients).dropna()


_Columns = Sequence[tuple[pd.Series, pd.Series]]


def _paired(columns: _Columns, n_resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low, high and p of the patients' differences."""
    changes = pd.concat([b - a for a, b in columns], axis=1).to_numpy(float)
    low, high = bca_intervals(changes, n_resamples=n_resamples, seed=seed)
    p = np.array([signed_rank(column[np.isfinite(column)]).p for column in changes.T])
    return low, high, p


def _unpaired(columns: _Columns, n_resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low and high of the difference of two means, BCa, each sample resampled by itself; no p.

    Reference: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 14.
    """
    ends = np.array([_difference_interval(a.to_numpy(), b.to_numpy(), n_resamples, seed) for a, b in columns])
    return ends[:, 0], ends[:, 1], np.full(len(ends), np.nan)


def _difference_interval(a: np.ndarray, b: np.ndarray, n_resamples: int, seed: int) -> tuple[float, float]:
    if min(len(a), len(b)) < 2:
        return float("nan"), float("nan")
    if max(np.ptp(a), np.ptp(b)) < _EQUAL:
        return float(b.mean() - a.mean()), float(b.mean() - a.mean())
    found = stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.mean(y, axis=axis) - np.mean(x, axis=axis),
        n_resamples=n_resamples,
        confidence_level=CONFIDENCE,
        method="BCa",
        random_state=numpy_generator(seed, "bootstrap"),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
