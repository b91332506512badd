"""Means, intervals, tests, ranks and the recipe from a sweep's `results.csv`; usable without the command line.

The unit is the patient: a score is averaged over labels and replicates, then over a patient's cases, then over the
trained models (seeds, folds) of an architecture; tests pair patients, and the bootstrap resamples them. Models are
compared on the same cases only: `comparable` pairs them, and says what it left out.

    rows, left_out = comparable(load_results(Path("OUT/results.csv")))
    curves(rows, "dice"), summary(rows, "dice"), pairwise(rows, "dice"), recipe(rows, "dice", margin=0.01)

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
from nnunet_robust.eval.statistics.recipe import MARGIN, NO_DIFFERENCE, choose, recipe, recipe_ranges, recipe_sentence
from nnunet_robust.eval.statistics.summaries import MEAN_OF_LABELS, curves, summary
from nnunet_robust.eval.statistics.tables import CLEAN, COMPARABLE, case_scores, comparable, load_results

__all__ = [
    "CLEAN", "COMPARABLE", "CONFIDENCE", "MARGIN", "MEAN_OF_LABELS", "NO_DIFFERENCE", "N_RESAMPLES", "bca_intervals",
    "bootstrap_interval", "case_scores", "choose", "comparable", "crossings", "curves", "failures", "friedman",
    "load_results", "mixed_model", "pairwise", "rank_stability", "recipe", "recipe_ranges", "recipe_sentence",
    "resample_counts", "resampled_means", "summary",
]  # fmt: skip
