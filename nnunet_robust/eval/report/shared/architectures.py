"""The architectures of a report: which are there, in which order, and which one the others are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from nnunet_robust.eval.results.manifest import Manifest, ModelEntry
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics.tables import without_seed

_STANDARD = "nnUNetTrainer"  # the standard U-Net, where an older manifest does not say


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
    """

    name: str
    model: str
    plans: str
    configuration: str
    trainings: int
    is_baseline: bool
    is_ensemble: bool


def arms_of(results: pd.DataFrame, manifests: Mapping[str, Manifest]) -> pd.DataFrame:
    """The arms of sweeps, each with what its manifest says.

    Args:
        results: what `load_results` returns.
        manifests: dataset -> that of its sweep.

    Returns:
        The first row of each dataset's arms with the columns `dataset`, `ARM`, `line` and `architecture`, and `entry`:
        its `ModelEntry`, an empty one where the manifest lacks it.
    """
    arms = results.drop_duplicates(["dataset", *ARM])[["dataset", *ARM, "line", "architecture"]]
    entries = [_entry(manifests[row["dataset"]], {name: row[name] for name in ARM}) for row in arms.to_dict("records")]
    return arms.assign(entry=pd.Series(entries, index=arms.index, dtype=object))


def _entry(manifest: Manifest, arm: dict[str, str]) -> ModelEntry:
    alike = (entry for entry in manifest.models.values() if entry.model == arm["model"])
    return manifest.models.get(arm_key(**arm)) or next(alike, ModelEntry(model=arm["model"]))


def architectures_of(arms: pd.DataFrame) -> tuple[Architecture, ...]:
    """List the architectures: the baseline first, then the others in the order of their rows, ensembles last.

    The baseline is the standard U-Net; of several, the one with the fewest options. Older manifests do not say which
    one that is: then it is the trainer `nnUNetTrainer`. Without any, it is the first that is no ensemble.

    Args:
        arms: what `arms_of` returns.
    """
    found = [_architecture(str(name), part) for name, part in arms.groupby("architecture", sort=False)]
    if not found:
        return ()
    first = min(found, key=lambda each: (each[0].is_ensemble, each[1]))[0]
    others = [each for each, _ in found if each is not first]
    return (first._replace(is_baseline=True), *sorted(others, key=lambda each: each.is_ensemble))


def _architecture(name: str, arms: pd.DataFrame) -> tuple[Architecture, float]:
    """An architecture, and how far it is from being the baseline: infinitely, where it is not the standard U-Net."""
    entry: ModelEntry = arms["entry"].iloc[0]
    model = without_seed(str(arms["model"].iloc[0]))
    architecture = Architecture(
        name=name,
        model=model,
        plans=_each(arms["plans"]),
        configuration=_each(arms["configuration"]),
        trainings=len(arms[["dataset", "line"]].drop_duplicates()),
        is_baseline=False,
        is_ensemble=entry.members is not None,
    )
    is_standard = model == _STANDARD if entry.baseline is None else entry.baseline
    return architecture, len({*(entry.options or ())} - {"seed"}) if is_standard else np.inf


def _each(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def in_order(results: pd.DataFrame, order: Sequence[Architecture]) -> pd.DataFrame:
    """The rows, those of the first architecture first: tables and figures follow the order of rows."""
    place = {architecture.name: at for at, architecture in enumerate(order)}
    return results.iloc[np.argsort(results["architecture"].map(place).to_numpy(), kind="stable")].reset_index(drop=True)
