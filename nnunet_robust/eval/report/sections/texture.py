"""Dice over texture divergence: how alike foreground and background were, as measured in each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from nnunet_robust.eval.report.shared import relations
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.report.shared.relations import Relation
from nnunet_robust.eval.report.shared.section import Section
from nnunet_robust.pages.plots import LineStyle
from nnunet_robust.pages.wording import counted

_GROUP = "divergence"


class Divergence(NamedTuple):
    """Score over texture divergence.

    Attributes:
        relations: one per architecture, all at the same points.
        n_points: how many.
        left_out: a sentence where it was measured and cannot be shown, else empty.
    """

    relations: list[Relation]
    n_points: int
    left_out: str


@shared
def divergence(analysis: Analysis) -> Divergence:
    """Dice over texture divergence, across datasets and conditions: one relation per architecture.

    The architectures are compared at the same points only: those of the datasets and conditions that all of them have,
    in bins with about as many points each. There is nothing where the divergence was not measured or does not vary.
    """
    table = relations.points(analysis.sweeps, METRIC, relations.DIVERGENCE)
    lines = list(dict.fromkeys(table["architecture"]))
    place = table.groupby(relations.PLACE)["architecture"].transform("nunique")
    table = table[place == len(lines)]
    if lines and table.empty:
        said = "Dice over texture divergence: there is no condition of a dataset that all architectures were run under."
        return Divergence([], 0, said)
    if table["x"].nunique() < 2:
        return Divergence([], 0, "")
    of_one = table[table["architecture"] == lines[0]]
    n_patients = len(of_one[["dataset", "patient"]].drop_duplicates())
    if n_patients < 2 * relations.PATIENTS_OF_A_BIN:
        return Divergence([], 0, f"Dice over texture divergence: too few patients for bins ({n_patients}).")
    edges = relations.edges_of(of_one["x"], n_patients)
    found = []
    for line, of_line in table.groupby("architecture", sort=False):
        means = relations.binned(of_line, METRIC, edges).assign(line=line)
        found.append(Relation(str(line), means, of_line.rename(columns={"architecture": "line"})))
    return Divergence(found, len(of_one), "")


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    of_each, n_points, _ = divergence(analysis)
    if not of_each:
        return
    cloud = of_each[0].cloud
    patients = cloud[["dataset", "patient"]].drop_duplicates()
    n_datasets = patients["dataset"].nunique()
    where = f" in {n_datasets} datasets" if n_datasets > 1 else ""
    if n_datasets == 1 < len(analysis.datasets):
        where = f" of {patients['dataset'].iloc[0]}"
    what = "patient" if analysis.patients_known(*patients["dataset"].unique()) else "image"
    sample = f"{n_points} points ({what} under a condition) of {counted(len(patients), what)}{where}"
    means = pd.concat([relation.means for relation in of_each], ignore_index=True)
    together = Relation("all architectures", means, cloud)
    label = "texture divergence (bits); smaller is harder"
    for relation in [together, *of_each] if len(of_each) > 1 else of_each:
        dots = relation is not together
        yield relations.relation_figure(_GROUP, relation, sample, label, styles, dots)


SECTION = Section(
    name="texture",
    short="Texture divergence",
    figures=_figures,
    groups={_GROUP: "Dice over divergence"},
    left_out=lambda analysis: filter(None, [divergence(analysis).left_out]),
    template="texture",
)
