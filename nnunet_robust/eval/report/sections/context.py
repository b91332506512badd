"""Dice over foreground ratio by patch size: what larger context buys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from nnunet_robust.eval.report.shared import relations
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.report.shared.read import Sweep
from nnunet_robust.eval.report.shared.relations import Relation
from nnunet_robust.eval.report.shared.section import Section
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.pages.plots import LineStyle, line_styles

RATIO = "foreground_ratio"
_GROUP = "ratio"
_VARIES = 1.05  # the ratio of two levels' mean foreground ratios from which a series counts as one of sizes


@shared
def ratio(analysis: Analysis) -> list[Relation]:
    """Dice over foreground ratio, a line for each patch size (and tile size), a panel for each architecture without.

    Where sizes of patches differ, or in a series whose test sets differ in foreground ratio; from unperturbed images
    only, as perturbations leave the ratio what it is. A series' points are its levels, others are bins of patients.
    Where there is one size of patch alone, the panel has all architectures as its lines.
    """
    found = []
    for sweep in analysis.sweeps:
        table = relations.points([sweep], METRIC, RATIO)
        if table.empty:
            continue
        sizes = _sizes(sweep)
        several = len(set(sizes["size"])) > 1
        table = table.merge(sizes, on=["dataset", "architecture"])
        for (dataset, name), part in table.groupby(["dataset", "perturbation"], sort=False):
            in_series = name in sweep.series
            levels = part.groupby("level")["x"].mean()
            if in_series and levels.max() <= _VARIES * levels.min():
                continue
            binned = name == CLEAN and several and part["x"].nunique() > 1
            if not in_series and not (binned and part["patient"].nunique() >= 2 * relations.PATIENTS_OF_A_BIN):
                continue
            panels = part.groupby("without_size", sort=False) if several else [("all architectures", part)]
            where = f"{dataset}, {'clean images' if name == CLEAN else sweep.names[str(name)]}"
            for title, of_panel in panels:
                line = of_panel["size"] if several else of_panel["architecture"]
                found.append(_ratio_relation(f"{where}: {title}", of_panel.assign(line=line), in_series))
    return found


def _ratio_relation(title: str, table: pd.DataFrame, in_series: bool) -> Relation:
    means = []
    for line, of_line in table.groupby("line", sort=False):
        if in_series:
            levels = [relations.mean_of(part, METRIC) for _, part in of_line.groupby("level")]
            means.append(pd.DataFrame(levels).sort_values("x").assign(line=line))
        else:
            edges = relations.edges_of(of_line["x"], of_line["patient"].nunique())
            means.append(relations.binned(of_line, METRIC, edges).assign(line=line))
    return Relation(title, pd.concat(means, ignore_index=True), table)


def _sizes(sweep: Sweep) -> pd.DataFrame:
    """Each architecture's patch size in words, and its name without what says it."""
    arms = sweep.rows[["dataset", "architecture", "patch_size", "tile_size"]].drop_duplicates(
        ["dataset", "architecture"]
    )
    tile = (", tile " + arms["tile_size"]).where(arms["tile_size"] != arms["patch_size"], "")
    bare = arms["architecture"].map({each.name: each.without_size for each in sweep.architectures})
    return arms[["dataset", "architecture"]].assign(size="patch " + arms["patch_size"] + tile, without_size=bare)


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    sizes = dict.fromkeys(line for relation in ratio(analysis) for line in relation.means["line"])
    of_sizes = {**line_styles(list(sizes)), **styles}
    for relation in ratio(analysis):
        least, most = relation.means["n_patients"].min(), relation.means["n_patients"].max()
        what = "patients" if analysis.patients_known() else "images"
        sample = f"{least if least == most else f'{least} to {most}'} {what} a point"
        label = "foreground ratio: share of the image's voxels"
        yield relations.relation_figure(_GROUP, relation, sample, label, of_sizes, dots=False)


SECTION = Section(
    name="context", short="Foreground ratio", figures=_figures, groups={_GROUP: "Dice over ratio"}, template="context"
)
