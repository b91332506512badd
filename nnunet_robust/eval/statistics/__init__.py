"""Means, intervals, tests, ranks, verdicts and the recipe from a sweep's `results.csv`; no command line needed.

The unit is the patient: a score is averaged over labels and replicates, then over a patient's cases, then over the
trained models (seeds, folds) of an architecture; tests pair patients, and the bootstrap resamples them. Models are
compared on the same cases only: `comparable` pairs them, and says what it left out.

    rows, left_out = comparable(load_results(Path("OUT/results.csv")))
    curves(rows, "dice"), summary(rows, "dice"), pairwise(rows, "dice")
    recipes(verdicts(rows, "dice", margin=0.01))

`docs/statistics.md` says what each number means, and what it is conditioned on.
"""

from __future__ import annotations

from nnunet_robust.eval.statistics.bootstrap import (
    CONFIDENCE,
    N_RESAMPLES,
    bca_intervals,
    bootstrap_interval,
    resample_counts,
    resampled_means,
)
from nnunet_robust.eval.statistics.comparisons import failures, friedman, pairwise
from nnunet_robust.eval.statistics.crossings import crossings
from nnunet_robust.eval.statistics.mixed import mixed_model
from nnunet_robust.eval.statistics.ranks import rank_stability
from nnunet_robust.eval.statistics.recipe import recipe_table, recipes
from nnunet_robust.eval.statistics.summaries import MEAN_OF_LABELS, curves, summary
from nnunet_robust.eval.statistics.tables import CLEAN, COMPARABLE, case_scores, comparable, load_results
from nnunet_robust.eval.statistics.verdict import MARGIN, decide, pair_table, verdict_table, verdicts

__all__ = [
    "CLEAN", "COMPARABLE", "CONFIDENCE", "MARGIN", "MEAN_OF_LABELS", "N_RESAMPLES", "bca_intervals",
    "bootstrap_interval", "case_scores", "comparable", "crossings", "curves", "decide", "failures", "friedman",
    "load_results", "mixed_model", "pair_table", "pairwise", "rank_stability", "recipe_table", "recipes",
    "resample_counts", "resampled_means", "summary", "verdict_table", "verdicts",
]  # fmt: skip
