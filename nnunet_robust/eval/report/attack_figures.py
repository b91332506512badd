"""The figures of attacks and of denoising, as data; `figures` makes a report's figures of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd

from nnunet_robust.eval.report import attack_panels, panels
from nnunet_robust.eval.report.analysis import Analysis
from nnunet_robust.eval.report.attacks import NOISE
from nnunet_robust.eval.report.over_level import over_level
from nnunet_robust.eval.report.report_figure import ReportFigure, by_panel, sample_of
from nnunet_robust.eval.statistics import CLEAN
from nnunet_robust.pages.plots import LineStyle, rule_styles
from nnunet_robust.pages.wording import number

ATTACKS, TRANSFER, DENOISING = "attacks", "transfer", "denoising"
_MOST_COLUMNS = 16  # of a heat map: as wide as the page
_KEYS = ["dataset", "perturbation", "line", "level"]
_COUNTS = ["n_cases", "n_patients", "n_trained"]


def attack_figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    """All of them, without those that have nothing to show."""
    for make in (_own, _transfer, _denoising):
        yield from make(analysis, styles)


def _means(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """One of the means of `paired_means`, as points of a curve."""
    renamed = {name: "mean", f"{name}_low": "low", f"{name}_high": "high"}
    return table[[*_KEYS, *renamed, *_COUNTS]].rename(columns=renamed)


def _own(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = analysis.attack_effects
    if table.empty:
        return
    # solid and dashed tell an attack from noise here; colour and marker tell who
    attacked = {line: style._replace(line="-") for line, style in styles.items()}
    noisy = {f"{line}, random noise": style._replace(line="--", marker="") for line, style in styles.items()}
    points = pd.concat([_means(table, "attacked"), _means(table, "noise")], ignore_index=True)
    limits = panels.y_limits(points, "dice")
    for (dataset, name), part in by_panel(table):
        lines = list(dict.fromkeys(part["line"]))
        noise = _means(part, "noise").dropna(subset="mean")
        noise = noise.assign(line=noise["line"] + ", random noise")
        both = pd.concat([_means(part, "attacked"), noise], ignore_index=True)
        yield ReportFigure(
            group=ATTACKS,
            name=f"{dataset}_{name}",
            dataset=dataset,
            title=f"{analysis.names[name]}, each model attacked itself",
            sample=sample_of(part),
            data=both,
            alt=f"Mean Dice over the budget of {analysis.names[name]}. {panels.told(both.assign(x=both['level']))}.",
            draw=partial(
                panels.level_panel, both, "mean Dice", _unit(analysis, dataset, name), {**attacked, **noisy}, limits,
                unbanded=set(noise["line"]),
            ),
            styles={**{line: attacked[line] for line in lines}, f"{NOISE}, in the same colour": rule_styles([""])[""]},
        )  # fmt: skip


def _unit(analysis: Analysis, dataset: str, attack: str) -> str:
    """What the budget is counted in, whatever the source."""
    attacks = analysis.sweep_of[dataset].attacks
    return analysis.unit(dataset, next(name for name, row in attacks.items() if row.name == attack))


def _transfer(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    for (dataset, name), table in by_panel(analysis.transfer):
        models = list(dict.fromkeys(table["line"]))
        levels = sorted(set(table["level"]))
        at_once = max(1, _MOST_COLUMNS // len(models))
        for number_of, start in enumerate(range(0, len(levels), at_once), 1):
            shown = levels[start : start + at_once]
            part = table[table["level"].isin(shown)].reset_index(drop=True)
            told = (
                f"{row.attacked} at {row.level:g}, predicted by {row.line}: {number(row.score)}"
                for row in part.itertuples(index=False)
            )
            yield ReportFigure(
                group=TRANSFER,
                name=f"{dataset}_{name}_{number_of}",
                dataset=dataset,
                title=analysis.names[name],
                sample=sample_of(part),
                data=part,
                alt=f"Mean Dice by attacked and predicting model under {analysis.names[name]}. {'; '.join(told)}.",
                draw=partial(attack_panels.transfer_map, part, models),
                styles={},
            )


def _denoising(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = analysis.denoising
    if table.empty:
        return
    points = _means(table, "difference")
    drawn = points[["mean", "low", "high"]].to_numpy(float)
    room = 0.05 * float(np.ptp(drawn[np.isfinite(drawn)])) + 0.005
    limits = (min(0.0, float(np.nanmin(drawn))) - room, max(0.0, float(np.nanmax(drawn))) + room)
    yield from over_level(
        analysis, points[points["perturbation"] != CLEAN], DENOISING, "Difference in mean Dice, denoised less plain",
        "Dice, denoised less plain", styles, limits, {"no difference": 0.0},
    )  # fmt: skip
