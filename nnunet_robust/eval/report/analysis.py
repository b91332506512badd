"""All that a report says, computed once, and shared by its figures, tables and sentences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval import statistics
from nnunet_robust.eval.report import attacks, calibration, denoising, experts, promises, ranking
from nnunet_robust.eval.report.measured import Divergence, Relation, over_divergence, over_ratio
from nnunet_robust.eval.report.read import Sweep, read_sweeps
from nnunet_robust.eval.results.display_names import DisplayNames, display_names
from nnunet_robust.eval.statistics import CLEAN, MARGIN, MEAN_OF_LABELS

CURVES = ("dice", "hd95_mm", "assd_mm", "nsd")  # IoU says what Dice says
METRIC = "dice"
"""The metric of the recipe, the ranks, the tests and the sentences."""

_FAILURES = {"missed": ("ok", "missed"), "hallucinated": ("both_empty", "hallucinated")}


@dataclass(frozen=True)
class Analysis:
    """One or more sweeps of different datasets, and the statistics of them; each is computed when first asked for.

    Attributes:
        sweeps: in the order given.
        margin: differences of Dice up to this do not matter.
    """

    sweeps: list[Sweep]
    margin: float = MARGIN

    @cached_property
    def rows(self) -> pd.DataFrame:
        """What can be compared, of all datasets."""
        return pd.concat([sweep.rows for sweep in self.sweeps], ignore_index=True)

    @cached_property
    def sweep_of(self) -> dict[str, Sweep]:
        """dataset -> its sweep, in the order of the sweeps."""
        return {name: sweep for sweep in self.sweeps for name in sweep.datasets}

    @cached_property
    def names(self) -> DisplayNames:
        """The perturbations' display names."""
        return display_names(*(sweep.manifest for sweep in self.sweeps))

    @property
    def datasets(self) -> list[str]:
        """In the order of the sweeps."""
        return list(self.sweep_of)

    @cached_property
    def architectures(self) -> list[str]:
        """In the order of their first rows: by this order they get their styles."""
        return list(dict.fromkeys(name for sweep in self.sweeps for name in sweep.results["architecture"]))

    @cached_property
    def n_trained(self) -> int:
        """How many trained models there are, of all architectures and datasets."""
        return sum(sweep.results["line"].nunique() for sweep in self.sweeps)

    @cached_property
    def points(self) -> dict[str, pd.DataFrame]:
        """metric -> `statistics.curves`, for each of `CURVES`."""
        return {metric: statistics.curves(self.rows, metric) for metric in CURVES}

    @cached_property
    def summary(self) -> pd.DataFrame:
        """`statistics.summary`: for each label, and over them."""
        return statistics.summary(self.rows, METRIC)

    @cached_property
    def summary_over_labels(self) -> pd.DataFrame:
        """The rows of the summary that stand for all labels together."""
        over = self.summary["label"] == MEAN_OF_LABELS
        several = self.summary.groupby("dataset")["label"].transform("nunique") > 1
        return self.summary[over | ~several]

    @cached_property
    def recipe(self) -> pd.DataFrame:
        """`statistics.recipe`, without attacks made against one model: the choice would only be for the others."""
        return statistics.recipe(self.rows[~self.against_one(self.rows)], METRIC, margin=self.margin)

    @cached_property
    def ranges(self) -> pd.DataFrame:
        """`statistics.recipe_ranges`."""
        return statistics.recipe_ranges(self.recipe)

    @cached_property
    def crossings(self) -> pd.DataFrame:
        """`statistics.crossings`."""
        return statistics.crossings(self.rows, METRIC)

    @cached_property
    def friedman(self) -> pd.DataFrame:
        """`statistics.friedman`."""
        return statistics.friedman(self.rows, METRIC)

    @cached_property
    def pairwise(self) -> pd.DataFrame:
        """`statistics.pairwise`."""
        return statistics.pairwise(self.rows, METRIC)

    @cached_property
    def mcnemar(self) -> pd.DataFrame:
        """`statistics.failures`."""
        return statistics.failures(self.rows)

    @cached_property
    def mixed(self) -> pd.DataFrame:
        """`statistics.mixed_model`."""
        return statistics.mixed_model(self.rows, METRIC)

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """`statistics.rank_stability`, the clean images once."""
        ranks = statistics.rank_stability(self.rows, METRIC)
        return ranks[self.once(ranks)].reset_index(drop=True)

    @cached_property
    def failure_counts(self) -> pd.DataFrame:
        """How many objects each architecture missed and hallucinated under each condition.

        Returns:
            Columns dataset, perturbation, level, line (the architecture), what ("missed", "hallucinated"), count, of:
            how many could be missed (there was an object: case x label x replicate x trained model) or hallucinated
            (there was none).
        """
        keys = ["dataset", "perturbation", "level", "architecture"]
        outcomes = pd.crosstab([self.rows[key] for key in keys], self.rows["outcome"])
        outcomes = outcomes.reindex(columns=["ok", "both_empty", *_FAILURES], fill_value=0)
        order = self.rows[keys].drop_duplicates()
        counts = order.merge(outcomes.reset_index(), on=keys).rename(columns={"architecture": "line"})
        parts = [
            counts[["dataset", "perturbation", "level", "line"]].assign(
                what=what, count=counts[what], of=counts[list(could)].sum(axis=1)
            )
            for what, could in _FAILURES.items()
        ]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def divergence(self) -> Divergence:
        """`measured.over_divergence`."""
        return over_divergence(self.sweeps, METRIC)

    @cached_property
    def ratio(self) -> list[Relation]:
        """`measured.over_ratio`."""
        return over_ratio(self.sweeps, METRIC)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """`ranking.ranking`."""
        return ranking.ranking(self.rows)

    @cached_property
    def risk_curves(self) -> pd.DataFrame:
        """`ranking.risk_curves`."""
        return ranking.risk_curves(self.rows, self.ranking)

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """`calibration.calibration`."""
        return calibration.calibration(self.sweeps)

    @cached_property
    def diagrams(self) -> pd.DataFrame:
        """`calibration.diagrams`."""
        return calibration.diagrams(self.sweeps)

    @cached_property
    def promises(self) -> pd.DataFrame:
        """`promises.observed`."""
        return promises.observed(self.sweeps)

    @cached_property
    def breaks(self) -> pd.DataFrame:
        """`promises.first_breaks`, along the perturbations."""
        return promises.first_breaks(self.promises[self.promises["perturbation"] != CLEAN])

    @cached_property
    def attacked(self) -> pd.DataFrame:
        """`attacks.attacked_scores`."""
        return attacks.attacked_scores(self.sweeps, METRIC)

    @cached_property
    def attack_effects(self) -> pd.DataFrame:
        """`attacks.effects`, of architectures."""
        return attacks.effects(self.sweeps, self.attacked, METRIC)

    @cached_property
    def attack_effects_of_lines(self) -> pd.DataFrame:
        """`attacks.effects`, of trained models."""
        return attacks.effects(self.sweeps, self.attacked, METRIC, "line")

    @cached_property
    def transfer(self) -> pd.DataFrame:
        """`attacks.transfer`."""
        return attacks.transfer(self.sweeps, self.attacked, METRIC)

    @cached_property
    def denoising(self) -> pd.DataFrame:
        """`denoising.differences`."""
        return denoising.differences(self.sweeps, METRIC)

    @cached_property
    def experts(self) -> pd.DataFrame:
        """`experts.agreement`."""
        return experts.agreement(self.rows)

    @cached_property
    def difficulty(self) -> pd.DataFrame:
        """`experts.difficulty`."""
        return experts.difficulty(self.sweeps)

    def unit(self, dataset: str, perturbation: str) -> str:
        """What a perturbation's level is counted in."""
        return self.sweep_of[dataset].unit(perturbation)

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

    @staticmethod
    def _among(table: pd.DataFrame, names: Mapping[str, Collection[str]]) -> pd.Series:
        found = pd.Series(False, index=table.index)
        for dataset, of_dataset in names.items():
            found |= (table["dataset"] == dataset) & table["perturbation"].isin(list(of_dataset))
        return found

    def in_series(self, dataset: str, perturbation: str) -> bool:
        """Whether the levels are test sets of their own."""
        return perturbation in self.sweep_of[dataset].series

    def once(self, table: pd.DataFrame) -> pd.Series:
        """Which rows to keep so that clean images, which are level 0 of every perturbation, count once.

        Args:
            table: columns dataset, perturbation, level.
        """
        pairs = zip(table["dataset"], table["perturbation"], strict=True)
        series = pd.Series([self.in_series(*pair) for pair in pairs], index=table.index, dtype=bool)
        return (table["perturbation"] == CLEAN) | (table["level"] != 0) | series


def analyse(folders: Sequence[Path], margin: float = MARGIN) -> Analysis:
    """Read sweeps of different datasets for a report.

    Args:
        folders: of sweeps.
        margin: differences of Dice up to this do not matter, in [0, 1).

    Raises:
        UserError: as for `read_sweeps`; a margin out of its range.
    """
    if not 0 <= margin < 1:
        raise UserError(f"--margin {margin:g} is no difference of Dice that could matter: give one in [0, 1), as 0.01.")
    return Analysis(read_sweeps(folders), margin)
