"""An analysis -> `report.html`, one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from nnunet_robust import __version__
from nnunet_robust.common.files import write_atomically
from nnunet_robust.eval.report.sections import SECTIONS, report_figures, report_left_out
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.report.shared.section import Parts
from nnunet_robust.eval.statistics import CLEAN, COMPARABLE, CONFIDENCE, N_RESAMPLES
from nnunet_robust.pages import plots
from nnunet_robust.pages.rendering import environment
from nnunet_robust.pages.tables import csv_link, table_data
from nnunet_robust.pages.wording import counted_cases, listed_perturbations, number, with_interval


def write_page(analysis: Analysis, path: Path) -> Path:
    """Write the page; the same files give the same bytes.

    Args:
        analysis: see `analyse`.
        path: of the page. It needs neither a network nor other files.

    Returns:
        `path`.
    """
    page = environment().get_template("report.html.j2").render(_page(analysis))
    write_atomically(path, page)
    return path


def _page(analysis: Analysis) -> dict[str, Any]:
    return {
        "version": __version__,
        "datasets": analysis.datasets,
        "patients": "patients" if analysis.patients_known() else "images",
        "confidence": f"{100 * CONFIDENCE:.0f} %",
        "n_resamples": f"{N_RESAMPLES:,}",
        "facts": _facts(analysis),
        "only": ", ".join(analysis.only),
        "shared_by_all": analysis.shared_by_all,
        "sections": _sections(analysis),
    }


def _sections(analysis: Analysis) -> list[dict[str, Any]]:
    """Every section of the registry, filled with what there is of it."""
    figures = report_figures(analysis)
    left_out = report_left_out(analysis)
    filled = []
    for section in SECTIONS:
        members = {name: [figure for figure in figures if figure.group == name] for name in section.groups}
        with plots.plain_style():
            panels = {name: _group(name, section.groups[name], shown) for name, shown in members.items() if shown}
        tables = [table_data(table) for table in section.all_tables(analysis)]
        filled.append(section.filled(analysis, Parts(panels, tables, left_out)))
    return filled


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    clean = analysis.points["dice"]
    clean = clean[clean["perturbation"] == CLEAN]
    sizes = {
        str(name): counted_cases(
            int(part["n_cases"].max()), int(part["n_patients"].max()), analysis.patients_known(str(name))
        )
        for name, part in clean.groupby("dataset", sort=False)
    }
    several = len(analysis.datasets) > 1
    cases = [analysis.lead(name) + sizes.get(name, "none on clean images") for name in analysis.datasets]
    perturbations = [name for name in dict.fromkeys(analysis.rows["perturbation"]) if name != CLEAN]
    trained = f", {analysis.n_trained} trained models" if analysis.n_trained != len(analysis.architectures) else ""
    facts = [
        ("Datasets" if several else "Dataset", ", ".join(analysis.datasets)),
        ("Architectures", f"{len(analysis.architectures)}{trained}"),
        ("Cases", "; ".join(cases)),
        ("Perturbations", listed_perturbations(perturbations, analysis.names) or "none"),
    ]
    for key, title in (("device", "Device"), ("seed", "Seed")):
        told = [getattr(sweep.manifest, key) for sweep in analysis.sweeps]
        found = dict.fromkeys(str(value) for value in told if value is not None)
        if found:
            facts.append((title, ", ".join(found)))
    return facts


def _group(key: str, title: str, figures: Sequence[ReportFigure]) -> dict[str, Any]:
    """Panels that stand together: drawn, with one legend and one CSV for all of them."""
    info = COMPARABLE.get(key)
    styles = {name: style for figure in figures for name, style in figure.styles.items()}
    data = pd.concat([_labelled(figure) for figure in figures], ignore_index=True)
    return {
        "title": title,
        "better": "" if info is None else f"{info.better} is better",
        "legend": [(name, Markup(plots.swatch(s, f"{key}-key{i}"))) for i, (name, s) in enumerate(styles.items())],
        "figures": [
            {
                "dataset": figure.dataset,
                "title": figure.title,
                "sample": figure.sample,
                "alt": figure.alt,
                "svg": Markup(plots.svg_text(figure.draw(), figure.name)),
                "numbers": None if figure.is_map else _numbers(figure),
            }
            for figure in figures
        ],
        "csv": csv_link(data, key, f"these figures: {title}"),
    }


def _labelled(figure: ReportFigure) -> pd.DataFrame:
    """A figure's data; where its rows do not say what it shows, with that before them."""
    if "perturbation" in figure.data:
        return figure.data
    return figure.data.assign(panel=figure.title)[["panel", *figure.data]]


# Columns of a figure's data that has no levels, as its table shows them; the mean's heading is the figure's own.
_POINT = {
    "x": "x", "lowest": "from", "highest": "to", "mean": "", "optimal": "least possible", "n_voxels": "voxels",
    "n_patients": "patients", "n_points": "points",
}  # fmt: skip


def _numbers(figure: ReportFigure) -> dict[str, Any]:
    """A panel as a table: levels down, architectures across; or, without levels, its points."""
    data = figure.data
    if "x" in data:
        shown = [key for key in _POINT if key in data]
        headings = ["line", *(_POINT[key] or figure.value for key in shown)]
        rows = [
            (
                row["line"],
                [with_interval(row["mean"], row["low"], row["high"]) if key == "mean" else f"{row[key]:.4g}"
                 if key in ("x", "lowest", "highest") else number(row[key]) if key == "optimal" else row[key]
                 for key in shown],
            )
            for row in data.to_dict("records")
        ]  # fmt: skip
        return {"what": "points and means", "headings": headings, "rows": rows}
    cells = _cells(figure)
    lines = list(dict.fromkeys(data["line"]))
    zero = "0" if figure.series else "0 (clean)"
    rows = [
        (f"{level:g}" if level else zero, [cells.get((level, line), "–") for line in lines])
        for level in sorted(set(data["level"]))
    ]
    what = "counts" if "count" in data else f"mean [{100 * CONFIDENCE:.0f} % interval]"
    return {"what": what, "headings": [f"level: {figure.unit}" if figure.unit else "level", *lines], "rows": rows}


def _cells(figure: ReportFigure) -> Mapping[tuple[float, str], str]:
    rows = figure.data.to_dict("records")
    if "count" in figure.data:
        return {(row["level"], row["line"]): f"{row['count']} of {row['of']}" for row in rows}
    metric = figure.group if figure.group in COMPARABLE else METRIC
    return {
        (row["level"], row["line"]): with_interval(row["mean"], row["low"], row["high"], metric)
        + (f" ({number(row['trained_low'], metric)} to {number(row['trained_high'], metric)})"
           if "trained_low" in row and row["n_trained"] > 1 else "")
        for row in rows
    }  # fmt: skip
