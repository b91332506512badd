"""Every figure of a report, as data: a name, a title, the numbers, and how it is drawn. Nothing is drawn here yet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

import pandas as pd

from nnunet_robust.eval.report import panels
from nnunet_robust.eval.report.analysis import CURVES, METRIC, Analysis
from nnunet_robust.eval.report.attack_figures import attack_figures
from nnunet_robust.eval.report.confidence_figures import confidence_figures
from nnunet_robust.eval.report.measured import Relation
from nnunet_robust.eval.report.report_figure import ReportFigure, by_panel, sample_of
from nnunet_robust.eval.statistics import CLEAN, COMPARABLE
from nnunet_robust.pages.plots import LineStyle, line_styles
from nnunet_robust.pages.wording import listed_perturbations, percent

_MOST_COLUMNS = 16  # of a heat map: as wide as the page


def report_figures(analysis: Analysis) -> list[ReportFigure]:
    """All figures of a report, in its order, without those that have nothing to show."""
    styles = line_styles(analysis.architectures)
    found = [figure for metric in CURVES for figure in _curves(analysis, styles, metric)]
    found += [
        figure
        for make in (_divergence, _ratio, _ranks, _failures, attack_figures, confidence_figures)
        for figure in make(analysis, styles)
    ]
    names: dict[str, int] = {}
    unique = []
    for figure in found:
        slug = "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-") for part in (figure.group, figure.name))
        names[slug] = names.get(slug, 0) + 1
        unique.append(ReportFigure(**{**vars(figure), "name": slug + f"-{names[slug]}" * (names[slug] > 1)}))
    return unique


def _curves(analysis: Analysis, styles: Mapping[str, LineStyle], metric: str) -> Iterator[ReportFigure]:
    points = analysis.points[metric]
    label = COMPARABLE[metric].label
    for (dataset, name), part in by_panel(points[points["perturbation"] != CLEAN]):
        # Shares can be compared between datasets, distances cannot.
        beside = points if not COMPARABLE[metric].unit else points[points["dataset"] == dataset]
        lines = list(dict.fromkeys(part["line"]))
        told = panels.told(part.assign(x=part["level"]), metric)
        yield ReportFigure(
            group=metric,
            name=f"{dataset}_{name}",
            dataset=dataset,
            title=analysis.names[name],
            sample=sample_of(part),
            data=part,
            alt=f"Mean {label} over the level of {analysis.names[name]}. {told}.",
            draw=partial(
                panels.curve_panel, part, metric, analysis.unit(dataset, name), styles, panels.y_limits(beside, metric)
            ),
            styles={line: styles[line] for line in lines},
            series=analysis.in_series(dataset, name),
        )


def _divergence(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    relations, n_points, _ = analysis.divergence
    if not relations:
        return
    cloud = relations[0].cloud
    patients = cloud[["dataset", "patient"]].drop_duplicates()
    n_datasets = patients["dataset"].nunique()
    where = f" in {n_datasets} datasets" if n_datasets > 1 else ""
    if n_datasets == 1 < len(analysis.datasets):
        where = f" of {patients['dataset'].iloc[0]}"
    sample = (
        f"{n_points} points (patient under a condition) of {len(patients)} patient{'s' * (len(patients) != 1)}{where}"
    )
    means = pd.concat([relation.means for relation in relations], ignore_index=True)
    together = Relation("all architectures", means, cloud)
    label = "texture divergence (bits); smaller is harder"
    for relation in [together, *relations] if len(relations) > 1 else relations:
        dots = relation is not together
        yield _relation_figure("divergence", relation, sample, label, styles, dots)


def _ratio(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    sizes = dict.fromkeys(line for relation in analysis.ratio for line in relation.means["line"])
    of_sizes = {**line_styles(list(sizes)), **styles}
    for relation in analysis.ratio:
        least, most = relation.means["n_patients"].min(), relation.means["n_patients"].max()
        sample = f"{least if least == most else f'{least} to {most}'} patients a point"
        label = "foreground ratio: share of the image's voxels"
        yield _relation_figure("ratio", relation, sample, label, of_sizes, dots=False)


def _relation_figure(
    group: str,
    relation: Relation,
    sample: str,
    x_label: str,
    styles: Mapping[str, LineStyle],
    dots: bool,
) -> ReportFigure:
    means, x = relation.means, relation.cloud["x"]
    lines = list(dict.fromkeys(means["line"]))
    order = ["line", *(name for name in means if name != "line")]
    return ReportFigure(
        group=group,
        name=relation.title,
        dataset="",
        title=relation.title,
        sample=sample,
        data=means[order],
        alt=f"Mean {COMPARABLE[METRIC].label} over {x_label}. {panels.told(means, METRIC)}.",
        draw=partial(
            panels.relation_panel,
            means,
            METRIC,
            x_label,
            {line: styles[line] for line in lines},
            (-0.02, 1.02),
            (float(x.min()), float(x.max())),
            relation.cloud if dots else None,
        ),
        styles={line: styles[line] for line in lines},
    )


def _ranks(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    ranks = analysis.ranks[~analysis.against_one(analysis.ranks)]
    for dataset, of_dataset in ranks.groupby("dataset", sort=False):
        lines = [name for name in analysis.architectures if name in set(of_dataset["line"])]
        if len(lines) < 2:
            continue
        for number, names in enumerate(_chunks(of_dataset), 1):
            part = of_dataset[of_dataset["perturbation"].isin(names)]
            first = part[part["rank"] == part.groupby(["perturbation", "level"])["rank"].transform("min")]
            parts = (
                f"{analysis.names[row.perturbation]} {row.level:g}: {row.line} ({percent(row.share_first, 0)})"
                for row in first.itertuples(index=False)
            )
            yield ReportFigure(
                group="ranks",
                name=f"{dataset}_{number}",
                dataset=str(dataset),
                title=listed_perturbations(names, analysis.names),
                sample=_patients(analysis, str(dataset)),
                data=part,
                alt=f"Ranks of {len(lines)} architectures. First, with the share of bootstraps: {'; '.join(parts)}.",
                draw=partial(
                    panels.rank_map,
                    part.assign(condition=[analysis.names[name] for name in part["perturbation"]]),
                    lines,
                    len(lines),
                ),
                styles={},
            )


def _chunks(ranks: pd.DataFrame) -> list[list[str]]:
    """Perturbations that fit beside each other in one heat map."""
    chunks: list[list[str]] = []
    filled = _MOST_COLUMNS
    for name, part in ranks.groupby("perturbation", sort=False):
        width = part["level"].nunique()
        if filled + width > _MOST_COLUMNS:
            chunks.append([])
            filled = 0
        chunks[-1].append(str(name))
        filled += width
    return chunks


def _failures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    counts = analysis.failure_counts
    perturbed = counts[(counts["perturbation"] != CLEAN) & (counts["of"] > 0)]
    for (dataset, name), of_panel in by_panel(perturbed):
        for what, part in of_panel.groupby("what", sort=False):
            if not part["count"].any():
                continue
            told = "; ".join(
                f"{line}: " + ", ".join(f"{n} of {of} at {level:g}" for level, n, of in rows.itertuples(index=False))
                for line, rows in part.set_index("line")[["level", "count", "of"]].groupby("line", sort=False)
            )
            yield ReportFigure(
                group="failures",
                name=f"{what}_{dataset}_{name}",
                dataset=dataset,
                title=f"{what} under {analysis.names[name]}",
                sample=f"at most {part['count'].max()} of {part['of'].max()} objects",
                data=part,
                alt=f"Objects {what} over the level of {analysis.names[name]}. {told}.",
                draw=partial(panels.failure_panel, part, analysis.unit(dataset, name), styles),
                styles={line: styles[line] for line in dict.fromkeys(part["line"])},
                series=analysis.in_series(dataset, name),
            )


def _patients(analysis: Analysis, dataset: str) -> str:
    n = analysis.rows.loc[analysis.rows["dataset"] == dataset, "patient"].nunique()
    return f"{n} patient{'s' * (n != 1)}"
