"""Which architectures there are: what their short names stand for."""

from __future__ import annotations

import pandas as pd

from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.section import Section, TableSpecification
from nnunet_robust.pages.tables import Column


def _table(analysis: Analysis) -> pd.DataFrame:
    rows = [
        {**each._asdict(), "line": each.name, "role": "baseline" if each.is_baseline else "", "dataset": ""}
        for each in analysis.sweeps[0].architectures
    ]
    return pd.DataFrame(rows)[["dataset", "line", "model", "plans", "configuration", "trainings", "role"]]


def _note(analysis: Analysis) -> str:
    said = "The trainer is what nnUNetv2_train takes, here without its seed; all seeds and folds of it are trainings."
    return f"{said} All of them: {analysis.shared_by_all}." if analysis.shared_by_all else said


_TABLE = TableSpecification(
    "architectures",
    "What the names stand for",
    _note,
    (
        Column("line", "architecture"), Column("model", "trainer"), Column("plans", "plans"),
        Column("configuration", "configuration"), Column("trainings", "trainings", "count"), Column("role", "role"),
    ),
    _table,
)  # fmt: skip

SECTION = Section(name="architectures", short="Architectures", title="Architectures", tables=(_TABLE,))
