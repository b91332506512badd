"""Columns that several tables of a report have, and what they say of intervals."""

from __future__ import annotations

from nnunet_robust.eval.statistics import CONFIDENCE
from nnunet_robust.pages.tables import Column

INTERVALS = f"{100 * CONFIDENCE:.0f} % bootstrap intervals over patients"
BANDS = f"Bands and bars are {INTERVALS}"
DATASET = Column("dataset", "dataset")
PERTURBATION = Column("perturbation", "perturbation", "words")
CONDITION = (DATASET, PERTURBATION, Column("level", "level", "level"))
ARCHITECTURE = Column("line", "architecture")
PATIENTS = Column("n_patients", "patients", "count")
SAMPLE = (Column("n_cases", "cases", "count"), PATIENTS)
IMAGES = (Column("n_cases", "images", "count"), PATIENTS)


def mean_column(key: str, heading: str) -> Column:
    """The column of a mean, with its interval beside it."""
    return Column(key, heading, "score", f"{key}_low", f"{key}_high")
