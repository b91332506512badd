"""The page's sections on attacks and denoising: what stands in them, and what is said there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.eval.report.attack_figures import ATTACKS, DENOISING, TRANSFER
from nnunet_robust.eval.report.attacks import NOISE, Doubt, doubts
from nnunet_robust.eval.report.denoising import HARMS, HELPS
from nnunet_robust.eval.report.report_figure import by_panel, sample_of
from nnunet_robust.eval.report.sections import Section, filled
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.eval.statistics import CLEAN, CONFIDENCE
from nnunet_robust.pages.tables import ReportTable
from nnunet_robust.pages.wording import interval, number, with_interval

GROUPS = {
    ATTACKS: "attacks on each model itself, and random noise",
    TRANSFER: "who is harmed by attacks on whom",
    DENOISING: "Dice with denoising, less Dice without",
}
"""Group of figures -> its title."""

_BANDS = f"{100 * CONFIDENCE:.0f} % bootstrap intervals over patients"
_SECTIONS = (
    Section(
        "attacks",
        "Attacks on the models",
        "Attacks",
        (ATTACKS, TRANSFER),
        (ATTACKS, TRANSFER),
        (
            "An attack changes the values of an image, each or all together within a budget, so that one model "
            "segments it as badly as the attack can bring about. It knows the reference and that model. Of another "
            "change within the budget a model may suffer more: on these images every Dice is an upper bound of "
            "the Dice under the worst change, and a model that keeps much has withstood this attack, not all of them.",
            "In the curves each model is attacked itself: each predicts images of its own (solid). Random noise of the "
            f"same budget is dashed, in the same colour. Bands are {_BANDS}. In the map, a row has the images that "
            "were made against one model, a column the model that predicted them; framed and in bold is the attack on "
            "the model itself. The last row is random noise of the same budget.",
        ),
    ),
    Section(
        "denoising",
        "With and without denoising",
        "Denoising",
        (DENOISING,),
        (DENOISING,),
        (
            "A model whose name ends in +denoise had images denoised before it predicted them, where their noise was "
            "above what the model was measured to bear; +denoise_always, all images. Shown is its mean Dice less that "
            "of the same model without, on the same cases: above 0, denoising helped. Bands are paired "
            f"{_BANDS}.",
        ),
    ),
)


def attack_sections(
    analysis: Analysis, drawn: Mapping[str, Any], tables: Sequence[ReportTable]
) -> list[dict[str, Any]]:
    """The sections that have something to show, for the template.

    Args:
        analysis: of the report.
        drawn: group -> its figures, as `page` draws them.
        tables: of the report.
    """
    lists = {"attacks": _attacks, "denoising": _denoising}
    return list(filled(_SECTIONS, GROUPS, lists, analysis, drawn, tables))


def _attacks(analysis: Analysis) -> list[dict[str, Any]]:
    lists = [
        {"title": "Are these attacks as strong as they should be?", "lines": list(warnings(analysis))},
        {"title": "What attacks did to each model", "lines": list(harms(analysis))},
        {"title": "Which model kept most", "lines": list(keepers(analysis))},
    ]
    return [of_kind for of_kind in lists if of_kind["lines"]]


def harms(analysis: Analysis) -> Iterator[str]:
    """What an attack did to each model that it was on, budget by budget, beside random noise; a sentence per model."""
    for (dataset, name), part in by_panel(analysis.attack_effects):
        for line, rows in part.groupby("line", sort=False):
            clean = rows[rows["level"] == 0]["attacked"]
            start = f"; on clean images it was {number(clean.iloc[0])}" if len(clean) else ""
            at = [_harm(row) for row in rows[rows["level"] > 0].to_dict("records")]
            yield (
                f"{_head(analysis, dataset, name)} on {line} ({sample_of(rows)}, {_steps(rows)}) left it a mean "
                f"Dice of at most {'; '.join(at)}{start}."
            )


def _harm(row: Mapping[Any, Any]) -> str:
    said = f"{with_interval(row['attacked'], row['attacked_low'], row['attacked_high'])} at budget {row['level']:g}"
    return said if np.isnan(row["noise"]) else f"{said} (random noise: {number(row['noise'])})"


def keepers(analysis: Analysis) -> Iterator[str]:
    """Which architecture had the highest mean Dice under attacks on itself, at each budget."""
    for (dataset, name), part in by_panel(analysis.attack_effects[analysis.attack_effects["level"] > 0]):
        if part["line"].nunique() < 2:
            continue
        at = []
        for level, rows in part.groupby("level"):
            if len(rows) < 2:
                continue
            first, second = rows.sort_values("attacked", ascending=False, kind="stable").to_dict("records")[:2]
            overlap = first["attacked_low"] <= second["attacked_high"]
            words = "" if np.isnan(first["attacked_low"]) else f", intervals {'' if overlap else 'do not '}overlap"
            at.append(
                f"{first['line']} at budget {level:g} ({number(first['attacked'])}, "
                f"{number(first['attacked'] - second['attacked'])} more than {second['line']}{words})"
            )
        yield f"{_head(analysis, dataset, name)}, each model attacked itself ({sample_of(part)}): {'; '.join(at)}."


def warnings(analysis: Analysis) -> Iterator[str]:
    """Which attacks are doubtful, as noise or an attack on another model does more; that none is, where none is."""
    of_lines, transferred = analysis.attack_effects_of_lines, analysis.transfer
    found = list(doubts(of_lines, transferred))
    yield from (_warning(analysis, doubt) for doubt in found)
    if found:
        return
    n_own = int((of_lines["level"] > 0).sum() and of_lines[of_lines["level"] > 0]["difference"].notna().sum())
    others = transferred[~transferred["attacked"].isin([NOISE]) & (transferred["attacked"] != transferred["line"])]
    n_others = int(others["difference"].notna().sum())
    if n_own:
        yield f"On average, none of {n_own} attacks on a model itself did less than {NOISE}."
    if n_others:
        yield (
            f"None of {n_others} attacks that were made against another model did more than the attack on the model "
            f"itself, beyond the {_BANDS} of the paired difference."
        )
    if n_own and not n_others:
        yield "Whether attacks made against another model would do more was not swept (`--attack-source`)."


def _warning(analysis: Analysis, doubt: Doubt) -> str:
    means = ("attacked", "noise") if doubt.than == NOISE else ("own", "score")
    at = "; ".join(
        f"{number(row[means[0]])} against {number(row[means[1]])} at {row['level']:g}"
        for row in doubt.rows.to_dict("records")
    )
    who = NOISE if doubt.than == NOISE else f"images made against {doubt.than}"
    return (
        f"Warning: {_head(analysis, doubt.dataset, doubt.perturbation)} on {doubt.line} did less to it than {who} "
        f"(mean Dice {at}; {sample_of(doubt.rows)}): the gradients of {doubt.line} may be masked, or the attack needs "
        "more steps. Do not take what it kept for robustness."
    )


def _head(analysis: Analysis, dataset: str, name: str) -> str:
    return f"{dataset}: " * (len(analysis.datasets) > 1) + analysis.names[name]


def _steps(rows: pd.DataFrame) -> str:
    n = int(rows["steps"].max())
    return f"{n} step{'s' * (n != 1)}"


def _denoising(analysis: Analysis) -> list[dict[str, Any]]:
    lines = list(gains(analysis))
    return [{"title": "Where it helped, and where it harmed", "lines": lines}] if lines else []


def gains(analysis: Analysis) -> Iterator[str]:
    """Where denoising helped and where it harmed, a sentence per dataset and architecture; clean images first."""
    several = len(analysis.datasets) > 1
    table = analysis.denoising
    table = table[analysis.once(table)]
    for (dataset, line), rows in table.groupby(["dataset", "line"], sort=False):
        clean, others = rows[rows["perturbation"] == CLEAN], rows[rows["perturbation"] != CLEAN]
        parts = []
        for row in clean.to_dict("records"):
            words = {HELPS: "better", HARMS: "worse"}.get(row["verdict"], "no difference is shown")
            parts.append(f"on the clean images {_difference(row)} ({words})")
        for verdict, said in ((HELPS, "It helped under"), (HARMS, "It harmed under")):
            of_verdict = others[others["verdict"] == verdict]
            parts.append(
                f"{said} {_places(of_verdict, analysis.names)}"
                if len(of_verdict)
                else f"{said} none of {len(others)} conditions"
            )
        yield (
            f"{dataset}: " * several + f"{line} less {rows['plain_line'].iloc[0]} ({sample_of(rows)}): "
            f"{'. '.join(parts)}. Elsewhere nothing is settled. Intervals are not adjusted for how many there are."
        )


def _places(rows: pd.DataFrame, names: DisplayNames) -> str:
    """Conditions, with the differences there: "speckle noise at 0.2, 0.3 (+0.050 to +0.120); ..."."""
    said = []
    for name, part in rows.groupby("perturbation", sort=False):
        levels = ", ".join(f"{level:g}" for level in part["level"])
        ends = dict.fromkeys(_signed(value) for value in (part["difference"].min(), part["difference"].max()))
        said.append(f"{names[str(name)]} at {levels} ({' to '.join(ends)})")
    return "; ".join(said)


def _difference(row: Mapping[Any, Any]) -> str:
    return f"{_signed(row['difference'])} {interval(row['difference_low'], row['difference_high'])}".rstrip()


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)
