"""What several sections of a report share: the sweeps that were read, their curves and summaries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval import statistics
from nnunet_robust.eval.report.shared.read import Sweep, of_structures, read_sweeps
from nnunet_robust.eval.results.display_names import DisplayNames, display_names
from nnunet_robust.eval.statistics import CLEAN, MARGIN, MEAN_OF_LABELS
from nnunet_robust.eval.statistics.cautions import cautions

CURVES = ("dice", "hd95_mm", "assd_mm", "nsd")  # IoU says what Dice says
METRIC = "dice"
"""The metric of the recipe, the ranks, the tests and the sentences."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Analysis:
    """One or more sweeps of different datasets, and what is computed of them, each when it is first asked for.

    Attributes:
        sweeps: in the order given.
        margin: differences of Dice up to this do not matter.
        only: the structures that it is restricted to; empty for all of them.
        computed: what functions that are `shared` returned for this analysis.
    """

    sweeps: list[Sweep]
    margin: float = MARGIN
    only: tuple[str, ...] = ()
    computed: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of all sweeps that can be compared, see `statistics.comparable`."""
        return pd.concat([sweep.rows for sweep in self.sweeps], ignore_index=True)

    @cached_property
    def sweep_of(self) -> dict[str, Sweep]:
        """The sweep of each dataset, in the order of the sweeps."""
        return {name: sweep for sweep in self.sweeps for name in sweep.datasets}

    @cached_property
    def names(self) -> DisplayNames:
        """The perturbations' display names."""
        return display_names(*(sweep.manifest for sweep in self.sweeps))

    @property
    def datasets(self) -> list[str]:
        """The datasets, in the order of the sweeps."""
        return list(self.sweep_of)

    @cached_property
    def warnings(self) -> list[str]:
        """What readers must know before they compare anything, see `statistics.cautions`."""
        return [
            self.lead(", ".join(sweep.datasets)) + said
            for sweep in self.sweeps
            for said in cautions(sweep.manifest, sweep.results)
        ]

    @property
    def architectures(self) -> list[str]:
        """The architectures by name, the baseline first, ensembles last: by this order they get their styles."""
        return [architecture.name for architecture in self.sweeps[0].architectures]

    @property
    def baseline(self) -> str:
        """The name of the architecture that the others are compared with: the standard U-Net, where it is there."""
        return next(architecture.name for architecture in self.sweeps[0].architectures if architecture.is_baseline)

    @property
    def shared_by_all(self) -> str:
        """What all architectures have in common and their names leave out, in words; empty where there is nothing."""
        return self.sweeps[0].shared_by_all

    @cached_property
    def n_trained(self) -> int:
        """How many trained models there are, of all architectures and datasets."""
        return sum(sweep.results["line"].nunique() for sweep in self.sweeps)

    @cached_property
    def points(self) -> dict[str, pd.DataFrame]:
        """For each metric of `CURVES`, each architecture's mean and interval at each level, see `statistics.curves`."""
        return {metric: statistics.curves(self.rows, metric) for metric in CURVES}

    @cached_property
    def summary(self) -> pd.DataFrame:
        """What Dice each architecture lost under each perturbation, of each label and over them.

        See `statistics.summary` for the columns.
        """
        return statistics.summary(self.rows, METRIC)

    @cached_property
    def summary_over_labels(self) -> pd.DataFrame:
        """The rows of the summary that stand for all labels together."""
        over = self.summary["label"] == MEAN_OF_LABELS
        several = self.summary.groupby("dataset")["label"].transform("nunique") > 1
        return self.summary[over | ~several]

    def patients_known(self, *datasets: str) -> bool:
        """Whether it is known whose cases they are, of any of some datasets; none for all of them.

        Older manifests do not say so: there it is known where some patient has several cases.
        """
        return any(self._patients_known[dataset] for dataset in datasets or self.datasets)

    @cached_property
    def _patients_known(self) -> dict[str, bool]:
        known = {}
        for dataset, sweep in self.sweep_of.items():
            cases = sweep.results.loc[sweep.results["dataset"] == dataset, ["patient", "case"]].drop_duplicates()
            said = sweep.manifest.patients_known
            known[dataset] = bool(cases["patient"].nunique() < cases["case"].nunique()) if said is None else said
        return known

    def structures(self, dataset: str) -> list[str]:
        """The structures of a dataset, by nnU-Net's names for its labels or regions, in the order of the rows."""
        of = self.sweep_of[dataset].rows
        return list(map(str, of.loc[of["dataset"] == dataset, "label"].unique()))

    def over_structures(self, dataset: str = "") -> str:
        """Say what a score is a mean of: "mean of 3 structures"; empty where there is one.

        Args:
            dataset: whose score; empty for all datasets together.
        """
        several = [n for of in ([dataset] if dataset else self.datasets) if (n := len(self.structures(of))) > 1]
        if not several:
            return ""
        return f"mean of {several[0]} structures" if len(set(several)) == 1 else "mean of a dataset's structures"

    def of_label(self, label: str) -> Analysis:
        """The same of one structure alone, without the datasets that lack it; see `of_labels`."""
        return replace(self, sweeps=self._having([label]), only=(label,), computed={})

    def of_labels(self, labels: Sequence[str]) -> Analysis:
        """The same of some structures alone: means are over these.

        Args:
            labels: nnU-Net's names of labels or regions.

        Raises:
            UserError: one that no dataset has, or a dataset without any; says which there are.
        """
        known = {dataset: self.structures(dataset) for dataset in self.datasets}
        there = "; ".join(self.lead(dataset) + ", ".join(of) for dataset, of in known.items())
        for label in labels:
            if not any(label in of for of in known.values()):
                raise UserError(f"--label {label}: no such structure; there is {there}")
        for dataset, of in known.items():
            if not set(of) & set(labels):
                raise UserError(f"--label {' '.join(labels)}: {dataset} has none of these, but {', '.join(of)}")
        return replace(self, sweeps=self._having(labels), only=tuple(dict.fromkeys(labels)), computed={})

    def _having(self, labels: Sequence[str]) -> list[Sweep]:
        return [sweep for sweep in (of_structures(sweep, labels) for sweep in self.sweeps) if len(sweep.rows)]

    def unit(self, dataset: str, perturbation: str) -> str:
        """What a perturbation's level is counted in; empty where the sweep does not say."""
        return self.sweep_of[dataset].unit(perturbation)

    def levels_in_words(self, dataset: str, perturbation: str, *levels: float) -> str:
        """Levels with what they are counted in: "0.1, 0.3 (relative standard deviation)"."""
        unit = self.unit(dataset, perturbation)
        return ", ".join(f"{level:g}" for level in levels) + (f" ({unit})" if unit else "")

    def lead(self, dataset: Hashable, end: str = ": ") -> str:
        """How a sentence on a dataset begins: with its name where the report has several, else with nothing."""
        return f"{dataset}{end}" if len(self.datasets) > 1 else ""

    def no_attack(self, table: pd.DataFrame) -> pd.Series:
        """Which rows of a table are not of attacks.

        Args:
            table: columns dataset, perturbation.
        """
        return ~self._among(table, {of: set(sweep.attacks) for of, sweep in self.sweep_of.items()})

    def against_one(self, table: pd.DataFrame) -> pd.Series:
        """Which rows of a table are of attacks whose images were made against one model, and shown to all.

        Args:
            table: columns dataset, perturbation.
        """
        return self._among(
            table,
            {of: {name for name, row in sweep.attacks.items() if row.source} for of, sweep in self.sweep_of.items()},
        )

    @property
    def any_against_one(self) -> bool:
        """Whether there are attacks whose images were made against one model, and shown to all."""
        return bool(self.against_one(self.rows).any())

    @staticmethod
    def _among(table: pd.DataFrame, names: Mapping[str, Collection[str]]) -> pd.Series:
        found = pd.Series(False, index=table.index)
        for dataset, of_dataset in names.items():
            found |= (table["dataset"] == dataset) & table["perturbation"].isin(list(of_dataset))
        return found

    def in_series(self, dataset: str, perturbation: str) -> bool:
        """Whether the levels are test sets of their own."""
        return perturbation in self.sweep_of[dataset].series

    def clean_once(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table without those that have the clean images again, as level 0 of each perturbation.

        Args:
            table: columns dataset, perturbation, level.
        """
        pairs = zip(table["dataset"], table["perturbation"], strict=True)
        series = pd.Series([self.in_series(*pair) for pair in pairs], index=table.index, dtype=bool)
        kept = (table["perturbation"] == CLEAN) | (table["level"] != 0) | series
        return table[kept].reset_index(drop=True)


def shared(compute: Callable[[Analysis], Value]) -> Callable[[Analysis], Value]:
    """Let a function compute once for each analysis: figures, tables and sentences share what it returns."""

    @wraps(compute)
    def once(analysis: Analysis) -> Value:
        if compute not in analysis.computed:
            analysis.computed[compute] = compute(analysis)
        value: Value = analysis.computed[compute]
        return value

    return once


def analyse(folders: Sequence[Path], margin: float = MARGIN, labels: Sequence[str] = ()) -> Analysis:
    """Read sweeps of different datasets for a report.

    Args:
        folders: of sweeps.
        margin: differences of Dice up to this do not matter, in [0, 1).
        labels: the structures that it is restricted to; none for all of them.

    Raises:
        UserError: as for `read_sweeps` and `Analysis.of_labels`; a margin out of its range.
    """
    if not 0 <= margin < 1:
        raise UserError(f"--margin {margin:g} is no difference of Dice that could matter: give one in [0, 1), as 0.01.")
    analysis = Analysis(read_sweeps(folders), margin)
    return analysis.of_labels(labels) if labels else analysis
