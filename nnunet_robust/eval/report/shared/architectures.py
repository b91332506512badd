"""The architectures of a report: what they are called, in which order, and which one the others are compared with."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from nnunet_robust.eval.results.manifest import Manifest, ModelEntry
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics.tables import without_seed

_STANDARD = re.compile(r"nnUNetTrainer(_\w+)?")  # the standard U-Net, where an older manifest does not say
_OF_SIZE = re.compile(r"_ps\d+(x\d+)*| \(tile [^)]*\)")  # likewise, what says in a name how large its patches are


class Architecture(NamedTuple):
    """An architecture, as all sweeps of a report have it.

    Attributes:
        name: in the column `architecture` of all rows.
        model: its trainer's name without the seed; of an ensemble, the sweep's own name for it.
        plans: their names, where datasets differ in them.
        configuration: likewise.
        trainings: number of trained models, of all datasets.
        is_baseline: whether the others are compared with it: one of them all.
        is_ensemble: whether it is the mean of several models.
        without_size: its name without the sizes of its patches and tiles: architectures that differ in them share it.
    """

    name: str
    model: str
    plans: str
    configuration: str
    trainings: int
    is_baseline: bool
    is_ensemble: bool
    without_size: str


def with_short_names(results: pd.DataFrame, manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """Give architectures and trained models the names that people read: "No-skip, patch 64".

    A name is that of the architecture, with the options in which the architectures differ; those that all share are
    left out, see `shared_by_all`. No two get the same name. Where the manifests do not say what the architectures are,
    as older ones do not, models keep their trainers' names.

    Args:
        results: what `load_results` returns.
        manifests: dataset -> that of its sweep.

    Returns:
        The rows, with new values in the columns `line` and `architecture`.
    """
    arms = arms_of(results, manifests)
    found = {column: results[column].map(_names(arms, column)) for column in ("line", "architecture")}
    return results.assign(**{column: names.astype(results["model"].dtype) for column, names in found.items()})


def shared_by_all(arms: pd.DataFrame) -> str:
    """Say what all architectures have in common, and their names leave out: "2 epochs of 50 iterations, 2d".

    Args:
        arms: what `arms_of` returns.
    """
    alone = arms[[entry.members is None for entry in arms["entry"]]]
    said = list(_common(entry.options or {} for entry in alone["entry"]).values()) if _are_described(arms) else []
    for column in ("plans", "configuration"):
        values = alone[column].unique()
        said += list(map(str, values)) if len(values) == 1 else []
    return ", ".join(said)


def arms_of(results: pd.DataFrame, manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """List the arms of sweeps, each with what its manifest says.

    Args:
        results: what `load_results` returns.
        manifests: dataset -> that of its sweep.

    Returns:
        The first row of each dataset's arms with the columns `dataset`, `ARM`, `line` and `architecture`; `entry`, its
        `ModelEntry`, an empty one where the manifest lacks it; and `key`, that of the entry.
    """
    arms = results.drop_duplicates(["dataset", *ARM])[["dataset", *ARM, "line", "architecture"]]
    rows = arms.to_dict("records")
    keys = [arm_key(**{name: row[name] for name in ARM}) for row in rows]
    entries = [_entry(manifests[row["dataset"]], key, row["model"]) for row, key in zip(rows, keys, strict=True)]
    return arms.assign(key=keys, entry=pd.Series(entries, index=arms.index, dtype=object))


def architectures_of(arms: pd.DataFrame) -> tuple[Architecture, ...]:
    """List the architectures: the baseline first, then the others in the order of their rows, ensembles last.

    The baseline is the standard U-Net; of several, the one with the fewest options. Older manifests do not say which
    one that is: then it is the trainer `nnUNetTrainer`, with the fewest options behind its name. Without any, it is the
    first that is no ensemble.

    Args:
        arms: what `arms_of` returns.
    """
    described = _are_described(arms)
    found = [_architecture(str(name), part, described) for name, part in arms.groupby("architecture", sort=False)]
    if not found:
        return ()
    first = min(found, key=lambda each: (each[0].is_ensemble, each[1]))[0]
    others = [each for each, _ in found if each is not first]
    return (first._replace(is_baseline=True), *sorted(others, key=lambda each: each.is_ensemble))


def in_order(results: pd.DataFrame, order: Sequence[Architecture]) -> pd.DataFrame:
    """The rows, those of the first architecture first: tables and figures follow the order of rows."""
    place = {architecture.name: at for at, architecture in enumerate(order)}
    return results.iloc[np.argsort(results["architecture"].map(place).to_numpy(), kind="stable")].reset_index(drop=True)


def _entry(manifest: Manifest, key: str, model: str) -> ModelEntry:
    alike = (entry for entry in manifest.models.values() if entry.model == model)
    return manifest.models.get(key) or next(alike, ModelEntry(model=model))


def _are_described(arms: pd.DataFrame) -> bool:
    """Whether all manifests say what the architectures are."""
    return all(entry.architecture is not None for entry in arms["entry"] if entry.members is None)


def _common(options: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The options that all share."""
    first, *others = list(options) or [{}]
    return {option: words for option, words in first.items() if all(other.get(option) == words for other in others)}


def _architecture(name: str, arms: pd.DataFrame, described: bool) -> tuple[Architecture, float]:
    """An architecture, and how far it is from being the baseline: infinitely, where it is not the standard U-Net."""
    arm = arms.iloc[0]
    entry: ModelEntry = arm["entry"]
    model, options = without_seed(str(arm["model"])), entry.options or {}
    of_size = [f", {options.get('patch_size', '')}", f" (tile {arm['tile_size']})"]
    architecture = Architecture(
        name=name,
        model=model,
        plans=_each(arms["plans"]),
        configuration=_each(arms["configuration"]),
        trainings=len(arms[["dataset", "line"]].drop_duplicates()),
        is_baseline=False,
        is_ensemble=entry.members is not None,
        without_size=functools.reduce(str.removesuffix, of_size, name) if described else _OF_SIZE.sub("", name),
    )
    is_standard = _STANDARD.fullmatch(model) is not None if entry.baseline is None else entry.baseline
    n_options = model.count("_") if entry.options is None else len(options.keys() - {"seed"})
    return architecture, n_options if is_standard else np.inf


def _each(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _names(arms: pd.DataFrame, column: str) -> dict[str, str]:
    """The names in a column, `line` or `architecture` -> the short ones."""
    start: Callable[[str], str] = without_seed if column == "architecture" else str
    known = dict(zip(zip(arms["dataset"], arms["key"], strict=True), arms[column], strict=True))
    distinct = arms.drop_duplicates(column).to_dict("records")
    # load_results has put behind the model's name what tells it from others of that name
    ending = {arm[column]: arm[column].removeprefix(start(arm["model"])) for arm in distinct}
    single = [arm for arm in distinct if arm["entry"].members is None]
    names = {arm[column]: start(arm["model"]) + ending[arm[column]] for arm in single}
    if _are_described(arms):
        options = {arm[column]: _options(arm["entry"], column) for arm in single}
        common = _common(options.values())
        told = {name: [words for option, words in of.items() if option not in common] for name, of in options.items()}
        ways = [
            (arm[column], [", ".join([arm["entry"].architecture, *told[arm[column]]]) + ending[arm[column]]])
            for arm in single
        ]
        names = _told_apart(ways)
    ways = []
    for arm in distinct:
        entry: ModelEntry = arm["entry"]
        if entry.members is not None:
            base, more = f"Ensemble of {len(entry.members)}", ending[arm[column]]
            of = [known.get((arm["dataset"], key), key) for key in entry.members]
            by = " + ".join(names.get(member, member) for member in of)
            ways.append(
                (arm[column], [f"{base}{more}", f"{base}, {entry.weights}{more}", f"{base}, {entry.weights} ({by})"])
            )
    return {**names, **_told_apart(ways)}


def _options(entry: ModelEntry, column: str) -> dict[str, str]:
    """What a name in a column may tell: an architecture has all seeds."""
    return {
        option: words for option, words in (entry.options or {}).items() if (option, column) != ("seed", "architecture")
    }


def _told_apart(ways: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """For each name the first of its shorter ones that no other has; itself, where there is none."""
    names: dict[str, str] = {}
    for step in range(max((len(shorter) for _, shorter in ways), default=0)):
        counted = Counter(shorter[step] for name, shorter in ways if name not in names)
        names |= {name: of[step] for name, of in ways if name not in names and counted[of[step]] == 1}
    return {name: names.get(name, name) for name, _ in ways}
