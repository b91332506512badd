"""`report --compare`: two sweeps in one page, `compare.html`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from nnunet_robust import __version__
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.sentences import listed
from nnunet_robust.eval.report.compare import FIRST, SECOND, Comparison, compare
from nnunet_robust.eval.report.shared.panels import curve_panel, told, y_limits
from nnunet_robust.eval.report.shared.read import Attack, Sweep, read_sweep
from nnunet_robust.eval.results.display_names import DisplayNames, display_names
from nnunet_robust.eval.results.manifest import Manifest
from nnunet_robust.eval.statistics import CLEAN, CONFIDENCE, N_RESAMPLES
from nnunet_robust.pages import plots
from nnunet_robust.pages.rendering import environment
from nnunet_robust.pages.tables import Column, ReportTable, csv_link, table_data
from nnunet_robust.pages.wording import counted_cases, few_patients, number, with_interval

_METRIC = "dice"
_STYLES = {FIRST: plots.LineStyle("#0072B2", "o", "-"), SECOND: plots.LineStyle("#D55E00", "s", "--")}
_CONTENTS = (
    ("summary", "Summary"),
    ("differs", "What differs"),
    ("curves", "Curves"),
    ("changes", "Every change"),
    ("left-out", "In one only"),
    ("limits", "Limits"),
)
_LIMITS = (
    "An interval tells how a mean, or a change, would vary with other patients of the same kind. It does not cover "
    "training: another seed of the same training may change as much as the two sweeps differ.",
    "A change between two sweeps has every cause that differs between them: see what differs in their manifests.",
    "The intervals of single changes are not corrected for their number; the p-values named Holm are, within a dataset "
    "and perturbation.",
)


def write_comparison(first: Path, second: Path, output: Path | None = None) -> Path:
    """Write `compare.html`, one self-contained page; the same files give the same bytes.

    Args:
        first: a sweep's output folder, the one to start from.
        second: another's, the one that may differ.
        output: folder of the page; default: the second.

    Returns:
        The page's path.

    Raises:
        UserError: as for `read_sweep` and `compare`.
    """
    sweeps = read_sweep(first), read_sweep(second)
    page = environment().get_template("compare.html.j2").render(_page(*sweeps))
    path = (second if output is None else output) / "compare.html"
    write_atomically(path, page)
    return path


def _page(first: Sweep, second: Sweep) -> dict[str, Any]:
    comparison = compare(first, second, _METRIC)
    table = comparison.table
    differs, same = manifest_differences(first.manifest, second.manifest)
    names = display_names(first.manifest, second.manifest)
    fewest = int(table[["n_first", "n_second"]].min(axis=None))
    left_out = [(which, said) for which, sweep in ((FIRST, first), (SECOND, second)) for said in sweep.left_out]
    within = [f"Within the {which} sweep, {said}" for which, said in left_out]
    attacks = [_ATTACKS] if first.attacks or second.attacks else []
    return {
        "version": __version__,
        "confidence": f"{100 * CONFIDENCE:.0f} %",
        "n_resamples": f"{N_RESAMPLES:,}",
        "datasets": list(comparison.matched),
        "contents": _CONTENTS,
        "facts": _facts(first, second),
        "checkpoints": _checkpoints(first.manifest, second.manifest),
        "summaries": [
            (name, comparison_sentences(part, {**first.attacks, **second.attacks}, names))
            for name, part in table.groupby("dataset", sort=False)
        ],
        "differs": differs,
        "same": same,
        "curves": _curves(comparison, first, second, names),
        "table": table_data(_table(table, names)),
        "left_out": [*comparison.left_out, *within],
        "limits": [*few_patients(fewest), *_smallest_p(table), *attacks, *_LIMITS],
    }


def _facts(first: Sweep, second: Sweep) -> list[tuple[str, str, str]]:
    told_of: dict[str, Callable[[Sweep], str]] = {
        "folder": lambda sweep: sweep.folder.resolve().name,
        "dataset": lambda sweep: listed(sweep.datasets),
        "architectures": lambda sweep: listed(list(dict.fromkeys(sweep.results["architecture"]))),
        "trained models": lambda sweep: str(sweep.results["line"].nunique()),
        "cases": lambda sweep: counted_cases(sweep.results["case"].nunique(), sweep.results["patient"].nunique()),
    }
    return [(what, tell(first), tell(second)) for what, tell in told_of.items()]


def _smallest_p(table: pd.DataFrame) -> list[str]:
    """The warning that so few paired patients deserve whose differences no test can call clear."""
    fewest = int(table.loc[table["paired"], "n_first"].min()) if table["paired"].any() else 0
    smallest = 2.0 ** (1 - fewest)
    if not fewest or smallest <= 1 - CONFIDENCE:
        return []
    return [
        f"With {fewest} paired patient{'s' * (fewest != 1)} p cannot be below {smallest:.3g}, whatever the difference."
    ]


_ATTACKS = (
    "Attacked images are made anew for each sweep's models: under the same attack the two sweeps have other images, of "
    "the same budget."
)

# ---- sentences ----


def comparison_sentences(table: pd.DataFrame, attacks: Mapping[str, Attack], names: DisplayNames) -> list[str]:
    """One dataset in three sentences: the clean images, how many changes are clear, the largest one.

    Attacks on each model itself have the last two of their own. Those that were made against one model are in none: its
    own one would count twice, and the model may be another one in each sweep.

    Args:
        table: its rows of `Comparison.table`, of Dice.
        attacks: see `Sweep.attacks`, of both sweeps.
        names: of perturbations.
    """
    clean, perturbed = (table[rows] for rows in (table["perturbation"] == CLEAN, table["perturbation"] != CLEAN))
    said = [_clean_images(clean)] if len(clean) else []
    own = [name for name, attack in attacks.items() if not attack.source]
    for start, part in (
        ("", perturbed[~perturbed["perturbation"].isin(list(attacks))]),
        ("Under attacks on each model itself, ", perturbed[perturbed["perturbation"].isin(own)]),
    ):
        if len(part):
            said += [_after(start, sentence) for sentence in (_how_many(part), _largest(part, names))]
    if perturbed["perturbation"].isin([name for name in attacks if name not in own]).any():
        said.append("Attacks whose images were made against one model are in none of these sentences.")
    return said


def _after(start: str, sentence: str) -> str:
    return start + sentence[:1].lower() + sentence[1:] if start else sentence


def _sample(row: Mapping[Any, Any]) -> str:
    if row["paired"]:
        return f"{counted_cases(row['n_cases_first'], row['n_first'])} that both sweeps have"
    here, there = (counted_cases(row[f"n_cases_{which}"], row[f"n_{which}"]) for which in (FIRST, SECOND))
    return f"{here} in the first sweep and {there}, others, in the second"


def _change(row: Mapping[Any, Any]) -> str:
    between = f"{number(row[FIRST])} in the first and {number(row[SECOND])} in the second"
    sign = "+" if row["change"] > 0 else ""
    return f"{between} (a change of {sign}{with_interval(row['change'], row['low'], row['high'])})"


def _clean_images(clean: pd.DataFrame) -> str:
    ranked = clean.sort_values("change", ascending=False, kind="stable").to_dict("records")
    shown = ranked if len(ranked) < 3 else [ranked[0], ranked[-1]]
    between = f" ({len(ranked) - 2} more in between)" if len(ranked) > 2 else ""
    changes = " and ".join(f"{_change(row)} for {row['architecture']}" for row in shown)
    return f"On clean images ({_sample(ranked[0])}), the mean Dice was {changes}{between}."


def _how_many(perturbed: pd.DataFrame) -> str:
    known = perturbed[perturbed["low"].notna()]
    many = f"{len(perturbed)} change{'s' * (len(perturbed) != 1)}"
    what = f"{many} (of an architecture's mean Dice under a perturbation at a level)"
    if known.empty:
        return f"None of the {what} has an interval, for there is a single patient."
    above, below = int((known["low"] > 0).sum()), int((known["high"] < 0).sum())
    chance = (1 - CONFIDENCE) * len(known)
    return (
        f"Of {what}, {above} {'has' if above == 1 else 'have'} an interval above zero (better in the second sweep), "
        f"{below} below it, and {len(known) - above - below} an interval that holds zero; if nothing differed, about "
        f"{chance:.0f} would leave zero out by chance."
    )


def _largest(perturbed: pd.DataFrame, names: DisplayNames) -> str:
    row = perturbed.to_dict("records")[int(perturbed["change"].abs().argmax())]
    return (
        f"The largest change was that of {row['architecture']} under {names[row['perturbation']]} at level "
        f"{row['level']:g}: {_change(row)}, on {_sample(row)}."
    )


# ---- manifests ----

_LEFT_OUT = {"dataset", "assumptions", "pictures", "perturbations", "models"}
_OF_IDENTITY = {"dataset", "seed", "cases"}  # the dataset and the seed stand in the manifest itself, too


def manifest_differences(first: Manifest, second: Manifest) -> tuple[list[tuple[str, str, str]], list[str]]:
    """How two sweeps were run differently: settings, versions, seeds, devices, and each model's choices.

    Args:
        first: a manifest.
        second: another.

    Returns:
        What differs, as (name, value in the first, value in the second), a dash where it is missing; and the names of
        what is the same.
    """
    here, there = (dict(_settings(manifest)) for manifest in (first, second))
    names = list(dict.fromkeys([*here, *there]))
    values = {name: (here.get(name, "–"), there.get(name, "–")) for name in names}
    differs = [(name, a, b) for name, (a, b) in values.items() if a != b]
    return differs, [name for name, (a, b) in values.items() if a == b]


def _settings(manifest: Manifest) -> Iterator[tuple[str, str]]:
    kept = {name: value for name, value in manifest.to_json().items() if name not in _LEFT_OUT}
    if "identity" in kept:
        kept["identity"] = {name: value for name, value in kept["identity"].items() if name not in _OF_IDENTITY}
    for name, value in kept.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}: {key}", str(of_key)) for key, of_key in value.items())
        else:
            yield name, str(value)
    for key, model in manifest.models.items():
        for fold, digest in model.checkpoints.items():
            yield f"checkpoint of {key}, fold {fold}", digest[:16]
        for choice, value in (model.choices or {}).items():
            yield f"{choice} of {key}", str(value)
    names = display_names(manifest)
    for name, row in manifest.perturbations.items():
        if row.attack is not None:
            yield f"steps of {names[name]}", str(row.attack.steps)
            for source, digests in (row.attack.source or {}).items():
                yield f"checkpoints of {source} in {names[name]}", ", ".join(d[:16] for d in digests.values())


def _checkpoints(first: Manifest, second: Manifest) -> str:
    """Whether it is the same trained models, in a sentence; empty where the manifests do not tell."""
    here, there = (
        {digest for model in manifest.models.values() for digest in model.checkpoints.values()}
        for manifest in (first, second)
    )
    if not here or not there:
        return ""
    if here == there:
        return f"Both sweeps are of the same {len(here)} checkpoint{'s' * (len(here) != 1)}."
    shared = len(here & there)
    return f"{shared} of the {len(here)} checkpoints of the first sweep are among the {len(there)} of the second."


# ---- curves and tables ----


def _curves(comparison: Comparison, first: Sweep, second: Sweep, names: DisplayNames) -> list[dict[str, Any]]:
    """For each dataset and perturbation, a panel for each architecture."""
    points = comparison.points[comparison.points["perturbation"] != CLEAN]
    if points.empty:
        return []
    limits = y_limits(points, _METRIC)
    legend = [(f"{name} sweep", Markup(plots.swatch(style, f"key-{name}"))) for name, style in _STYLES.items()]
    groups: list[dict[str, Any]] = []
    with plots.plain_style():
        for (dataset, name), part in points.groupby(["dataset", "perturbation"], sort=False):
            unit = first.unit(str(name)) or second.unit(str(name))
            title = f"{dataset}, {names[str(name)]}" if len(comparison.matched) > 1 else names[str(name)]
            figures = [
                _panel(of_line.assign(line=of_line["sweep"]), str(line), unit, limits, f"c{len(groups)}-{i}")
                for i, (line, of_line) in enumerate(part.groupby("line", sort=False))
            ]
            data = part.rename(columns={"line": "architecture"})
            link = csv_link(data, f"compare-{len(groups) + 1}", f"these figures: {title}")
            groups.append({"title": title, "legend": [] if groups else legend, "figures": figures, "csv": link})
    return groups


def _panel(points: pd.DataFrame, line: str, unit: str, limits: tuple[float, float], name: str) -> dict[str, Any]:
    cells = {
        (row["level"], row["sweep"]): with_interval(row["mean"], row["low"], row["high"])
        for row in points.to_dict("records")
    }
    rows = [
        (f"{level:g}", [cells.get((level, which), "–") for which in (FIRST, SECOND)])
        for level in sorted(set(points["level"]))
    ]
    words = told(points.assign(x=points["level"]), _METRIC)
    return {
        "dataset": "",
        "title": line,
        "sample": _panel_sample(points),
        "alt": f"Mean Dice of {line} over the level. {words}.",
        "svg": Markup(plots.svg_text(curve_panel(points, _METRIC, unit, _STYLES, limits), name)),
        "numbers": {"what": "mean and its interval", "headings": ["level", FIRST, SECOND], "rows": rows},
    }


def _panel_sample(points: pd.DataFrame) -> str:
    counts = [counted_cases(int(p["n_cases"].max()), int(p["n_patients"].max())) for _, p in points.groupby("line")]
    return f"{counts[0]} in each" if len(set(counts)) == 1 else f"first: {counts[0]}; second: {counts[1]}"


_COLUMNS = (
    Column("dataset", "dataset"), Column("perturbation", "perturbation", "words"),
    Column("architecture", "architecture"), Column("level", "level", "level"), Column(FIRST, "first", "score"),
    Column(SECOND, "second", "score"), Column("change", "change", "score", "low", "high"), Column("p", "p", "p"),
    Column("p_holm", "p, Holm", "p"), Column("n_first", "patients, first", "count"),
    Column("n_second", "patients, second", "count"), Column("how", "compared"),
)  # fmt: skip


def _table(table: pd.DataFrame, names: DisplayNames) -> ReportTable:
    data = table.assign(how=np.where(table["paired"], "paired by patient", "unpaired"))
    columns = tuple(c for c in _COLUMNS if not (c.key == "dataset" and table["dataset"].nunique() == 1))
    note = (
        "Mean Dice over patients, and the change from the first sweep to the second. p: Wilcoxon's signed-rank test of "
        "the patients' differences, where they are paired."
    )
    return ReportTable("changes", "Every change", note, columns, data, names)
