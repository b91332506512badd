"""An analysis -> `report.html`, one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from nnunet_robust import __version__
from nnunet_robust.common.files import write_atomically
from nnunet_robust.eval.report import promises
from nnunet_robust.eval.report.analysis import CURVES, METRIC, Analysis
from nnunet_robust.eval.report.attack_figures import TRANSFER
from nnunet_robust.eval.report.attack_page import GROUPS as ATTACK_GROUPS
from nnunet_robust.eval.report.attack_page import attack_sections
from nnunet_robust.eval.report.confidence_page import GROUPS as CONFIDENCE_GROUPS
from nnunet_robust.eval.report.confidence_page import confidence_sections
from nnunet_robust.eval.report.figures import ReportFigure, report_figures
from nnunet_robust.eval.report.kinds import inputs_table, recipe_tables, report_tables
from nnunet_robust.eval.report.viewer import viewer_data
from nnunet_robust.eval.statistics import CLEAN, COMPARABLE, CONFIDENCE, N_RESAMPLES, recipe_sentence
from nnunet_robust.pages import plots
from nnunet_robust.pages.rendering import csv_link, environment, table_data
from nnunet_robust.pages.wording import (
    counted_cases,
    failure_sentences,
    few_patients,
    listed_perturbations,
    number,
    sentences,
    with_interval,
)

_LIMITS = (
    "An interval tells how the mean would vary with other patients of the same kind. It does not cover training: "
    "another seed or fold may lie elsewhere. Where an architecture was trained several times, its lowest and highest "
    "trained model stand beside its mean.",
    "All models see the same images with the same noise. Whether two intervals overlap describes them, and is no test: "
    "intervals that overlap do not rule out a difference, for the intervals leave the pairing aside. The table of "
    "pairs keeps it.",
    "The worst level, and the architecture that the recipe names, are found in the same data that their scores are "
    "read from.",
    "An object is missed where there is one and the prediction has none, and hallucinated the other way round. Dice "
    "and NSD are then 0, HD95 and ASSD the image's diagonal, so that a failure never improves a mean.",
)


_TITLES = {**ATTACK_GROUPS, **CONFIDENCE_GROUPS}


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
    figures = report_figures(analysis)
    tables = report_tables(analysis)
    groups = {figure.group: [other for other in figures if other.group == figure.group] for figure in figures}
    with plots.plain_style():
        drawn = {key: _group(key, members) for key, members in groups.items()}
    of_groups = [make(analysis, drawn, tables) for make in (attack_sections, confidence_sections)]
    special = [section for sections in of_groups for section in sections]
    curves = [drawn[metric] for metric in CURVES if metric in drawn]
    dice = analysis.points["dice"]
    lost = analysis.summary_over_labels
    lost = lost[analysis.no_attack(lost)]
    sections = [
        ("summary", "Summary"), ("recipe", "Which to take"), ("curves", "Curves"),
        *[("texture", "Texture divergence")] * ("divergence" in drawn),
        *[("context", "Foreground ratio")] * ("ratio" in drawn), *[("ranks", "Ranks")] * ("ranks" in drawn),
        ("failures", "Failures"), *((section["id"], section["short"]) for section in special),
        ("pictures", "Pictures"), ("statistics", "Statistics"), ("limits", "Assumptions and limits"),
        ("left-out", "Left out"), ("measured", "Measured inputs"), ("manifest", "Manifest"),
    ]  # fmt: skip
    inputs, counts = inputs_table(analysis), analysis.failure_counts
    counts = counts[analysis.no_attack(counts)]
    return {
        "version": __version__,
        "datasets": analysis.datasets,
        "n_architectures": len(analysis.architectures),
        "several_trained": bool((dice["n_trained"] > 1).any()),
        "confidence": f"{100 * CONFIDENCE:.0f} %",
        "n_resamples": f"{N_RESAMPLES:,}",
        "contents": sections,
        "facts": _facts(analysis),
        "summaries": [
            (
                name,
                sentences(dice[dice["dataset"] == name], lost[lost["dataset"] == name], analysis.names)
                + _attacks_apart(analysis, name),
            )
            for name in analysis.datasets
        ],
        "recipe": _recipe(analysis),
        "against_one": bool(analysis.against_one(analysis.rows).any()),
        "curves": curves,
        "divergence": drawn.get("divergence"),
        "ratio": drawn.get("ratio"),
        "ranks": drawn.get("ranks"),
        "failures": drawn.get("failures"),
        "failure_sentences": [
            sentence
            for dataset, part in counts[analysis.once(counts)].groupby("dataset", sort=False)
            for sentence in failure_sentences(part, str(dataset) if len(analysis.datasets) > 1 else "")
        ],
        "sections": special,
        "viewer": viewer_data(analysis.sweeps),
        "tables": [table_data(table) for table in tables if table.section == "statistics"],
        "inputs": None if inputs is None else table_data(inputs),
        "assumptions": list(dict.fromkeys(a for sweep in analysis.sweeps for a in sweep.manifest.assumptions)),
        "limits": [*few_patients(int(dice["n_patients"].min())), *_LIMITS],
        "left_out": [
            *(sentence for sweep in analysis.sweeps for sentence in sweep.left_out),
            *filter(None, [analysis.divergence.left_out]),
            *promises.left_out(analysis.sweeps),
        ],
        "manifests": [
            (", ".join(sweep.datasets), json.dumps(sweep.manifest.to_json(), indent=2, ensure_ascii=False))
            for sweep in analysis.sweeps
        ],
    }


def _attacks_apart(analysis: Analysis, dataset: str) -> list[str]:
    if not analysis.sweep_of[dataset].attacks:
        return []
    return [
        "Attacks on the models are in none of these sentences, nor among those on missed and hallucinated objects: "
        "they have a section of their own."
    ]


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    clean = analysis.points["dice"]
    clean = clean[clean["perturbation"] == CLEAN]
    sizes = {
        str(name): counted_cases(int(part["n_cases"].max()), int(part["n_patients"].max()))
        for name, part in clean.groupby("dataset", sort=False)
    }
    several = len(analysis.datasets) > 1
    cases = [(f"{name}: " * several) + sizes.get(name, "none on clean images") for name in analysis.datasets]
    perturbations = [name for name in dict.fromkeys(analysis.rows["perturbation"]) if name != CLEAN]
    trained = f", {analysis.n_trained} trained models" if analysis.n_trained != len(analysis.architectures) else ""
    facts = [
        ("Datasets" if several else "Dataset", ", ".join(analysis.datasets)),
        ("Architectures", f"{len(analysis.architectures)}{trained}"),
        ("Cases", "; ".join(cases)),
        ("Perturbations", listed_perturbations(perturbations, analysis.names) or "none"),
    ]
    ensembles = {short: name for sweep in analysis.sweeps for short, name in sweep.ensembles.items()}
    if ensembles:
        facts.append(("Ensembles", "; ".join(f"{short}: {name}" for short, name in ensembles.items())))
    for key, title in (("device", "Device"), ("seed", "Seed")):
        told = [getattr(sweep.manifest, key) for sweep in analysis.sweeps]
        found = dict.fromkeys(str(value) for value in told if value is not None)
        if found:
            facts.append((title, ", ".join(found)))
    return facts


def _recipe(analysis: Analysis) -> dict[str, Any] | None:
    if len(analysis.architectures) < 2 or analysis.recipe.empty:
        return None
    levels, ranges = recipe_tables(analysis)
    several = len(analysis.datasets) > 1
    said = []
    for (dataset, _), part in analysis.ranges.groupby(["dataset", "perturbation"], sort=False):
        said.append((f"{dataset}, " * several) + recipe_sentence(part, names=analysis.names))
    return {"sentences": said, "ranges": table_data(ranges), "levels": table_data(levels)}


def _group(key: str, figures: Sequence[ReportFigure]) -> dict[str, Any]:
    """Panels that stand together: drawn, with one legend and one CSV for all of them."""
    info = COMPARABLE.get(key)
    title = key if info is None else f"{info.label} in {info.unit}" if info.unit else info.label
    title = {"divergence": "Dice over divergence", "ratio": "Dice over ratio"}.get(key, _TITLES.get(title, title))
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
                "numbers": None if figure.group in ("ranks", TRANSFER) else _numbers(figure),
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
    return {"what": what, "headings": ["level", *lines], "rows": rows}


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
