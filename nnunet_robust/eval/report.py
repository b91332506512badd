"""A sweep's output folder -> `report.html`, one self-contained page. Reads files only."""

from __future__ import annotations

import base64
import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from nnunet_robust import __version__
from nnunet_robust.errors import UserError
from nnunet_robust.eval import plots
from nnunet_robust.eval.results import ARM, arm_key
from nnunet_robust.eval.statistics import (
    CLEAN,
    COMPARABLE,
    CONFIDENCE,
    MEAN_OF_LABELS,
    N_RESAMPLES,
    comparable,
    curves,
    load_results,
    summary,
)
from nnunet_robust.eval.wording import (
    counted_cases,
    few_patients,
    interval,
    number,
    percent,
    sentences,
    spoken,
    with_interval,
)

_CURVES = ("dice", "hd95_mm", "assd_mm", "nsd")  # IoU says what Dice says
_LIMITS = (
    "An interval tells how the mean would vary with other patients of the same kind. It does not cover training: a "
    "line is one trained model, and another seed or fold may lie elsewhere.",
    "All models see the same images with the same noise. Whether two intervals overlap describes them, and is no test: "
    "intervals that overlap do not rule out a difference, for the intervals leave the pairing aside.",
    "The worst level is found in the same data that its score is read from.",
    "An object is missed where there is one and the prediction has none, and hallucinated the other way round. Dice "
    "and NSD are then 0, HD95 and ASSD the image's diagonal, so that a failure never improves a mean.",
)


class _Sweep(NamedTuple):
    """What a sweep's output folder holds; `rows` are the comparable ones."""

    folder: Path
    manifest: dict[str, Any]
    results: pd.DataFrame
    rows: pd.DataFrame
    left_out: list[str]
    inputs: pd.DataFrame | None

    @property
    def series(self) -> set[str]:
        """The perturbations whose levels are test sets of their own."""
        return {name for name, row in self.manifest.get("perturbations", {}).items() if "series" in row}


def write_report(out_folder: Path) -> Path:
    """Write `report.html` into a sweep's output folder; the same files give the same bytes.

    Args:
        out_folder: holds `results.csv` and `manifest.json`; `inputs.csv` and `pictures/` are used where they are there.

    Returns:
        The page's path. It needs neither a network nor other files.

    Raises:
        UserError: the folder lacks a file, a file is broken, or nothing in it can be compared.
    """
    sweep = _read(out_folder)
    folder = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    page = environment.get_template("report.html.j2").render(_page(sweep))
    path = out_folder / "report.html"
    unfinished = out_folder / f".report.html.{os.getpid()}.tmp"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def summary_table(out_folder: Path) -> pd.DataFrame:
    """The Dice summary to print: a row per dataset, perturbation and model, numbers rounded to three decimals.

    Args:
        out_folder: as for `write_report`.

    Returns:
        Columns dataset, perturbation, model, clean, worst, at level, drop, drop %, AUC, missed, hallucinated, cases;
        see `statistics.summary` for what they mean.

    Raises:
        UserError: as for `write_report`.
    """
    table = _over_labels(summary(_read(out_folder).rows))
    names = {
        "dataset": "dataset",
        "perturbation": "perturbation",
        "line": "model",
        "clean": "clean",
        "worst": "worst",
        "worst_level": "at level",
        "drop": "drop",
        "relative_drop": "drop %",
        "auc": "AUC",
        "missed": "missed",
        "hallucinated": "hallucinated",
        "n_cases": "cases",
    }
    table = table.reindex(columns=list(names)).rename(columns=names)
    table["drop %"] = (100 * table["drop %"].astype(float)).round(1)
    return table.round(3)


def _read(folder: Path) -> _Sweep:
    results = load_results(folder / "results.csv")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"No manifest.json in {folder}: give the output folder of `nnunet-robust sweep`.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'manifest.json'} is not JSON ({error}): run the sweep again.") from error
    sweep = _Sweep(folder, manifest, results, results, [], None)
    rows, left_out = comparable(results, sweep.series)
    if rows.empty:
        raise UserError(
            f"Nothing in {folder} can be compared yet: no case is complete for every model; go on with the sweep."
        )
    text = dict.fromkeys(["dataset", "patient", "case", "perturbation"], str)
    path = folder / "inputs.csv"
    inputs = pd.read_csv(path, dtype=text) if path.is_file() else None
    return sweep._replace(rows=rows, left_out=left_out, inputs=inputs)


def _over_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a summary that stand for all labels together."""
    return table[table["label"] == MEAN_OF_LABELS] if (table["label"] == MEAN_OF_LABELS).any() else table


def _breakable(text: str) -> Markup:
    """Escaped text whose long names (nnUNetTrainerNoSkip_2epochs_50iters) may break after an underscore."""
    return escape(text).replace("_", Markup("_<wbr>"))


def _page(sweep: _Sweep) -> dict[str, Any]:
    points = {metric: curves(sweep.rows, metric) for metric in _CURVES}
    table = summary(sweep.rows)
    over_labels = _over_labels(table)
    datasets = list(dict.fromkeys(sweep.results["dataset"]))
    styles = plots.line_styles(list(dict.fromkeys(sweep.results["line"])))
    clean = points["dice"][points["dice"]["perturbation"] == CLEAN]
    fewest = int(points["dice"]["n_patients"].min())
    return {
        "version": __version__,
        "datasets": datasets,
        "confidence": f"{100 * CONFIDENCE:.0f} %",
        "n_resamples": f"{N_RESAMPLES:,}",
        "facts": _facts(sweep, clean),
        "summaries": [
            (name, sentences(*(part[part["dataset"] == name] for part in (points["dice"], over_labels))))
            for name in datasets
        ],
        "curves": [_curve_group(sweep, metric, points[metric], styles) for metric in _CURVES],
        "tables": _tables(over_labels),
        "label_tables": _tables(table[table["label"] != MEAN_OF_LABELS]) if len(over_labels) < len(table) else [],
        "inputs": _input_rows(sweep.inputs),
        "measured": [heading for _, heading, _ in _MEASURED],
        "pictures": _pictures(sweep),
        "assumptions": list(sweep.manifest.get("assumptions", [])),
        "limits": [*few_patients(fewest), *_LIMITS],
        "left_out": sweep.left_out,
        "manifest": json.dumps(sweep.manifest, indent=2, ensure_ascii=False),
    }


def _facts(sweep: _Sweep, clean: pd.DataFrame) -> list[tuple[str, str]]:
    perturbations = _perturbations(sweep.results)
    facts = [
        ("Dataset", ", ".join(dict.fromkeys(sweep.results["dataset"]))),
        ("Models", str(sweep.results["line"].nunique())),
        (
            "Cases",
            counted_cases(int(clean["n_cases"].max()), int(clean["n_patients"].max()))
            if len(clean)
            else "none on clean images",
        ),
        ("Perturbations", ", ".join(map(spoken, perturbations)) or "none"),
    ]
    for key, title in (("device", "Device"), ("seed", "Seed")):
        if key in sweep.manifest:
            facts.append((title, str(sweep.manifest[key])))
    return facts


def _perturbations(rows: pd.DataFrame) -> list[str]:
    return [name for name in dict.fromkeys(rows["perturbation"]) if name != CLEAN]


def _curve_group(
    sweep: _Sweep, metric: str, points: pd.DataFrame, styles: Mapping[str, plots.LineStyle]
) -> dict[str, Any]:
    figures = []
    perturbed = points[points["perturbation"] != CLEAN]
    limits = plots.y_limits(points, metric)
    for i, ((dataset, name), part) in enumerate(perturbed.groupby(["dataset", "perturbation"], sort=False)):
        unit = str(sweep.manifest.get("perturbations", {}).get(name, {}).get("unit", ""))
        lines = list(dict.fromkeys(part["line"]))
        cells = {
            (row.level, row.line): with_interval(mean, row.low, row.high, metric)
            for row, mean in zip(part.itertuples(), part["mean"], strict=True)
        }
        zero = "0" if name in sweep.series else "0 (clean)"
        levels = sorted(set(part["level"]))
        told = "; ".join(f"{x}: " + ", ".join(f"{cells[level, x]} at {level:g}" for level in levels) for x in lines)
        figures.append(
            {
                "dataset": dataset,
                "name": spoken(str(name)),
                "n": _counted(part),
                "svg": Markup(plots.curve_panel(part, metric, unit, styles, limits, f"{metric}{i}")),
                "alt": f"Mean {COMPARABLE[metric].label} over the level of {spoken(str(name))}. {told}.",
                "lines": lines,
                "values": [
                    (f"{level:g}" if level else zero, [cells[level, line] for line in lines]) for level in levels
                ],
            }
        )
    keys = enumerate(styles.items())
    legend = [(line, Markup(plots.swatch(style, f"{metric}-key{i}"))) for i, (line, style) in keys]
    title, unit_y = COMPARABLE[metric].label, COMPARABLE[metric].unit
    better = f"{COMPARABLE[metric].better} is better"
    return {
        "title": f"{title} in {unit_y}" if unit_y else title,
        "better": better,
        "legend": legend,
        "figures": figures,
    }


def _counted(points: pd.DataFrame) -> str:
    """The size of the sample behind a panel; the levels of a series may differ in it."""
    most = counted_cases(int(points["n_cases"].max()), int(points["n_patients"].max()))
    fewest = int(points["n_cases"].min())
    return most if fewest == points["n_cases"].max() else f"{fewest} to {most} at a level"


def _tables(table: pd.DataFrame) -> list[dict[str, Any]]:
    tables = []
    for (dataset, name, label), part in table.groupby(["dataset", "perturbation", "label"], sort=False):
        rows = []
        for row in part.to_dict("records"):
            pairs = {
                key: (number(row[key]), interval(row[f"{key}_low"], row[f"{key}_high"]))
                for key in ("clean", "worst", "drop", "auc")
            }
            rows.append(
                {
                    **pairs,
                    "line": row["line"],
                    "worst_level": f"{row['worst_level']:g}",
                    "relative_drop": percent(row["relative_drop"]),
                    "missed": row["missed"],
                    "hallucinated": row["hallucinated"],
                    "n_objects": row["n_objects"],
                }
            )
        n = counted_cases(int(part["n_cases"].max()), int(part["n_patients"].max()))
        tables.append({"dataset": dataset, "name": spoken(str(name)), "label": label, "n": n, "rows": rows})
    return tables


# Column of inputs.csv, heading, digits.
_MEASURED = (
    ("psnr_db", "PSNR (dB)", 1),
    ("snr_db", "SNR (dB)", 1),
    ("texture_divergence_bits", "texture divergence (bits)", 3),
    ("boundary_contrast", "boundary contrast", 2),
    ("foreground_ratio", "foreground ratio", 3),
)


def _input_rows(inputs: pd.DataFrame | None) -> list[dict[str, Any]]:
    """What was measured of the inputs of each condition, as "median (least to most)" over cases and replicates."""
    if inputs is None:
        return []

    def spread(values: pd.Series, digits: int) -> str:
        known = values.dropna().to_numpy(float)
        if not len(known):
            return "–"
        if np.isposinf(known).all():
            return "∞"
        median, least, most = (f"{value:.{digits}f}" for value in (np.median(known), known.min(), known.max()))
        return f"{median} ({least} to {most})".replace("-", "−").replace("inf", "∞")

    rows = []
    for (dataset, name, level), part in inputs.groupby(["dataset", "perturbation", "level"], sort=False):
        row = {"dataset": dataset, "name": spoken(str(name)), "level": f"{level:g}", "n": part["case"].nunique()}
        rows.append({**row, "measured": [spread(part[column], digits) for column, _, digits in _MEASURED]})
    return rows


def _pictures(sweep: _Sweep) -> list[dict[str, Any]]:
    """For each perturbation, a grid for each chosen case whose pictures were stored."""
    chosen = sweep.manifest.get("pictures", {}).get("cases", {})
    groups = []
    for name in _perturbations(sweep.results):
        figures = [_grid(sweep, name, rank, case) for rank, case in chosen.items()]
        if stored := [figure for figure in figures if figure]:
            groups.append({"name": spoken(str(name)), "figures": stored})
    return groups


def _grid(sweep: _Sweep, perturbation: str, rank: str, case: str) -> dict[str, str] | None:
    folder = sweep.folder / "pictures" / case
    of_case = sweep.results[(sweep.results["case"] == case) & (sweep.results["replicate"] == 0)]
    of_case = of_case[of_case["perturbation"].isin([CLEAN, perturbation])]
    conditions = sorted(
        {(level, name) for level, name in zip(of_case["level"], of_case["perturbation"], strict=True)},
        key=lambda condition: (condition[1] != CLEAN, condition),
    )
    names = [name if name == CLEAN else f"{name}_{level:g}" for level, name in conditions]
    images = [_image(folder / f"{condition}.png") for condition in names]
    if all(image is None for image in images):
        return None
    rows, told = [], []
    for line, of_line in of_case.groupby("line", sort=False):
        key = arm_key(**of_line.iloc[0][list(ARM)].to_dict())
        tiles = []
        for (level, name), condition, image in zip(conditions, names, images, strict=True):
            note = _note(of_line[(of_line["level"] == level) & (of_line["perturbation"] == name)])
            reference = _image(folder / f"{condition}_reference.png")  # of a series, whose labels are its own
            tiles.append(plots.Tile(image, _image(folder / key / f"{condition}.png"), note, reference))
        rows.append((str(line), tiles))
        told.append(f"{line}: {', '.join(tile.note for tile in tiles)}")
    titles = ["clean" if name == CLEAN else f"level {level:g}" for level, name in conditions]
    png = plots.picture_grid(rows, titles, _image(folder / "reference.png"))
    return {
        "uri": "data:image/png;base64," + base64.b64encode(png).decode(),
        "alt": f"Case {case} under {spoken(perturbation)}, {', '.join(titles)}. {'; '.join(told)}.",
        "caption": f"The {rank} case, {case}: {spoken(perturbation)}.",
    }


def _note(rows: pd.DataFrame) -> str:
    """What stands below a tile: the case's Dice, averaged over labels, and whether an object was missed or made up."""
    if rows.empty:
        return "not run"
    failures = [name for name in ("missed", "hallucinated") if (rows["outcome"] == name).any()]
    return textwrap.shorten(" · ".join([f"Dice {rows['dice'].mean():.3f}", *failures]), 40)


def _image(path: Path) -> np.ndarray | None:
    """A picture (H, W), 8 bit; None where none was stored."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return np.asarray(image if image.mode in {"L", "P"} else image.convert("L"))
