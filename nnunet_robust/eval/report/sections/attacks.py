"""Attacks: what each does to the model that it is on, beside random noise of the same budget, and to other models.

An attack is only one way to harm a model: what it finds, the worst change of that budget does at least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nnunet_robust.eval.report.shared import panels
from nnunet_robust.eval.report.shared.analysis import METRIC, Analysis, shared
from nnunet_robust.eval.report.shared.columns import ARCHITECTURE, DATASET, INTERVALS, SAMPLE, mean_column
from nnunet_robust.eval.report.shared.figures import ReportFigure, by_panel, sample_of
from nnunet_robust.eval.report.shared.heat_maps import MOST_COLUMNS, transfer_map
from nnunet_robust.eval.report.shared.pairs import CASE, columns, mean_points, paired_means
from nnunet_robust.eval.report.shared.read import Attack, Sweep
from nnunet_robust.eval.report.shared.section import Section, TableSpecification
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import case_scores
from nnunet_robust.pages.plots import LineStyle, rule_styles
from nnunet_robust.pages.tables import Column
from nnunet_robust.pages.wording import number, with_interval

NOISE = "random noise of the same budget"
_ATTACKS, _TRANSFER = "attacks", "transfer"
_SAME = 0.0005  # of a mean Dice: what three decimals cannot tell
_SCORES = [*CASE, "attack", "attacked", "steps", "control"]


@shared
def attacked(analysis: Analysis) -> pd.DataFrame:
    """The score of each case under each attack.

    Returns:
        Columns dataset, architecture and line (who predicted), level (the budget; 0 is the clean image), patient, case,
        the metric, attack (its name without a source), attacked (the line of the model that the images were made
        against; where that was not swept, its name and that), steps and control (the random noise of the same budget).
        What a model does under an attack on itself is there once, whether each model was attacked or this one for all.
    """
    found = []
    for sweep in analysis.sweeps:
        scores = case_scores(sweep.rows, METRIC)
        for name, described in sweep.attacks.items():
            of_attack = scores[scores["perturbation"] == name].drop(columns="perturbation")
            whom = _line_of(sweep, described) if described.source else of_attack["line"]
            facts = {"attack": described.name, "steps": described.steps, "control": described.control}
            found.append(of_attack.assign(attacked=whom, **facts))
    if not found:
        return pd.DataFrame(columns=[*_SCORES, METRIC])
    table = pd.concat(found, ignore_index=True)
    return table[~table.duplicated([*CASE, "attack", "attacked"])].reset_index(drop=True)


def _line_of(sweep: Sweep, attack: Attack) -> str:
    """The line of the trained model that an attack was made against; a name of its own where it was not swept."""
    described, sources = sweep.manifest.models, attack.source or {}
    for arm in sweep.results.drop_duplicates("line").to_dict("records"):
        key = arm_key(**{name: arm[name] for name in ARM})
        if key in sources and key in described and described[key].checkpoints == sources[key]:
            return str(arm["line"])
    return f"{attack.source_name} (not swept)"


def _own(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `attacked` of models under attacks on themselves."""
    return scores[scores["attacked"] == scores["line"]]


@shared
def _case_scores(analysis: Analysis) -> pd.DataFrame:
    return pd.concat([case_scores(sweep.rows, METRIC) for sweep in analysis.sweeps], ignore_index=True)


def _effects(analysis: Analysis, name: str) -> pd.DataFrame:
    """What attacks on a model do to it, beside random noise of the same budget, on the same cases.

    Args:
        analysis: of the report.
        name: "architecture", or "line" for each trained model.

    Returns:
        Columns dataset, perturbation (the attack), level, line (the architecture), steps; attacked, noise, difference
        (attacked less noise: below 0 the attack is the worse one), as of `paired_means`. Level 0 is the clean image.
    """
    found = []
    scores = _case_scores(analysis)
    by, names = ["dataset", "attack", "level", name, "steps"], ("attacked", "noise", "difference")
    for _, part in _own(attacked(analysis)).groupby(["dataset", "attack"], sort=False):
        noise = scores[scores["perturbation"] == part["control"].iloc[0]]
        found.append(paired_means(part, noise, METRIC, by, names))
    return _together(found, columns(by, names)).rename(columns={"attack": "perturbation", name: "line"})


@shared
def attack_effects(analysis: Analysis) -> pd.DataFrame:
    """What attacks on a model do to it, by architecture, see `_effects`."""
    return _effects(analysis, "architecture")


@shared
def attack_effects_of_lines(analysis: Analysis) -> pd.DataFrame:
    """What attacks on a model do to it, by trained model, see `_effects`."""
    return _effects(analysis, "line")


@shared
def transfer(analysis: Analysis) -> pd.DataFrame:
    """What attacks that were made against one trained model do to each, beside those on itself.

    Returns:
        Columns dataset, perturbation (the attack), level, attacked (whom the images were made against; `NOISE` for
        those that were made against none), line (who predicted); score, own, difference (score less the score under
        the attack on itself, on the same cases: below 0, the other images harm it more), as of `paired_means`. Of every
        attacked model whose images others were shown, itself included; without clean images.
    """
    found = []
    by, names = ["dataset", "attack", "level", "attacked", "line"], ("score", "own", "difference")
    scores, under_attack = _case_scores(analysis), attacked(analysis)
    for (dataset, attack), part in under_attack[under_attack["level"] > 0].groupby(["dataset", "attack"], sort=False):
        sources = part.loc[part["attacked"] != part["line"], "attacked"].unique()
        shown = part[part["attacked"].isin(sources)]
        noise = scores[
            (scores["perturbation"] == part["control"].iloc[0])
            & (scores["dataset"] == dataset)
            & scores["level"].isin(shown["level"])
        ]
        both = pd.concat([shown, noise.assign(attack=attack, attacked=NOISE)])
        found.append(paired_means(both, _own(part), METRIC, by, names))
    return _together(found, columns(by, names)).rename(columns={"attack": "perturbation"})


def _together(parts: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(names))


class Doubt(NamedTuple):
    """An attack that is not as strong as it should be, at the budgets where that is so.

    Attributes:
        dataset, perturbation, line: which attack, on whom.
        than: what harms more: `NOISE`, or the model that the images were made against.
        rows: of `attack_effects_of_lines` or `transfer`, by trained model, one per budget.
    """

    dataset: str
    perturbation: str
    line: str
    than: str
    rows: pd.DataFrame


def doubts(of_lines: pd.DataFrame, transferred: pd.DataFrame) -> Iterator[Doubt]:
    """Attacks that noise outdoes on average, and attacks that one made against another model outdoes beyond noise.

    An attack knows the model's gradients, neither noise nor another model's attack does: where these harm more, the
    gradients may be masked, or the attack too short (Athalye et al. 2018, arXiv 1802.00420, section 3.1).

    Args:
        of_lines: what `attack_effects_of_lines` returns.
        transferred: what `transfer` returns.
    """
    keys = ["dataset", "perturbation", "line"]
    weaker = of_lines[(of_lines["level"] > 0) & (of_lines["difference"] >= _SAME)]
    for (dataset, name, line), rows in weaker.groupby(keys, sort=False):
        yield Doubt(str(dataset), str(name), str(line), NOISE, rows)
    others = transferred[~transferred["attacked"].isin([NOISE]) & (transferred["attacked"] != transferred["line"])]
    stronger = others[others["difference_high"] < 0]
    for (dataset, name, line, source), rows in stronger.groupby([*keys, "attacked"], sort=False):
        yield Doubt(str(dataset), str(name), str(line), str(source), rows)


def _figures(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    yield from _curves(analysis, styles)
    yield from _maps(analysis)


def _curves(analysis: Analysis, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    table = attack_effects(analysis)
    if table.empty:
        return
    # solid and dashed tell an attack from noise here; colour and marker tell who
    solid = {line: style._replace(line="-") for line, style in styles.items()}
    noisy = {f"{line}, random noise": style._replace(line="--", marker="") for line, style in styles.items()}
    points = pd.concat([mean_points(table, "attacked"), mean_points(table, "noise")], ignore_index=True)
    limits = panels.y_limits(points, "dice")
    for (dataset, name), part in by_panel(table):
        lines = list(dict.fromkeys(part["line"]))
        noise = mean_points(part, "noise").dropna(subset="mean")
        noise = noise.assign(line=noise["line"] + ", random noise")
        both = pd.concat([mean_points(part, "attacked"), noise], ignore_index=True)
        yield ReportFigure(
            group=_ATTACKS,
            name=f"{dataset}_{name}",
            dataset=dataset,
            title=f"{analysis.names[name]}, each model attacked itself",
            sample=sample_of(part, analysis),
            data=both,
            alt=f"Mean Dice over the budget of {analysis.names[name]}. {panels.told(both.assign(x=both['level']))}.",
            draw=partial(
                panels.level_panel, both, "mean Dice", _unit(analysis, dataset, name), {**solid, **noisy}, limits,
                unbanded=set(noise["line"]),
            ),
            styles={**{line: solid[line] for line in lines}, f"{NOISE}, in the same colour": rule_styles([""])[""]},
        )  # fmt: skip


def _unit(analysis: Analysis, dataset: str, attack: str) -> str:
    """What the budget is counted in, whatever the source."""
    attacks = analysis.sweep_of[dataset].attacks
    return analysis.unit(dataset, next(name for name, row in attacks.items() if row.name == attack))


def _maps(analysis: Analysis) -> Iterator[ReportFigure]:
    for (dataset, name), table in by_panel(transfer(analysis)):
        models = list(dict.fromkeys(table["line"]))
        levels = sorted(set(table["level"]))
        at_once = max(1, MOST_COLUMNS // len(models))
        for number_of, start in enumerate(range(0, len(levels), at_once), 1):
            shown = levels[start : start + at_once]
            part = table[table["level"].isin(shown)].reset_index(drop=True)
            told = (
                f"{row.attacked} at {row.level:g}, predicted by {row.line}: {number(row.score)}"
                for row in part.itertuples(index=False)
            )
            yield ReportFigure(
                group=_TRANSFER,
                name=f"{dataset}_{name}_{number_of}",
                dataset=dataset,
                title=analysis.names[name],
                sample=sample_of(part, analysis),
                data=part,
                alt=f"Mean Dice by attacked and predicting model under {analysis.names[name]}. {'; '.join(told)}.",
                draw=partial(transfer_map, part, models),
                styles={},
                is_map=True,
                is_mean=True,
            )


def harms(analysis: Analysis) -> Iterator[str]:
    """What an attack did to each model that it was on, budget by budget, beside random noise; a sentence per model."""
    for (dataset, name), part in by_panel(attack_effects(analysis)):
        for line, rows in part.groupby("line", sort=False):
            clean = rows[rows["level"] == 0]["attacked"]
            start = f"; on clean images it was {number(clean.iloc[0])}" if len(clean) else ""
            at = [_harm(row) for row in rows[rows["level"] > 0].to_dict("records")]
            yield (
                f"{_head(analysis, dataset, name)} on {line} ({sample_of(rows, analysis)}, {_steps(rows)}) left it a "
                f"mean Dice of at most {'; '.join(at)}{start}."
            )


def _harm(row: Mapping[Any, Any]) -> str:
    said = f"{with_interval(row['attacked'], row['attacked_low'], row['attacked_high'])} at budget {row['level']:g}"
    return said if np.isnan(row["noise"]) else f"{said} (random noise: {number(row['noise'])})"


def keepers(analysis: Analysis) -> Iterator[str]:
    """Which architecture had the highest mean Dice under attacks on itself, at each budget."""
    for (dataset, name), part in by_panel(_under_attack(analysis)):
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
        start = f"{_head(analysis, dataset, name)}, each model attacked itself ({sample_of(part, analysis)})"
        yield f"{start}: {'; '.join(at)}."


def warnings(analysis: Analysis) -> Iterator[str]:
    """Which attacks are doubtful, as noise or an attack on another model does more; that none is, where none is."""
    of_lines, others = attack_effects_of_lines(analysis), transfer(analysis)
    found = list(doubts(of_lines, others))
    yield from (_warning(analysis, doubt) for doubt in found)
    if found:
        return
    n_own = int((of_lines["level"] > 0).sum() and of_lines[of_lines["level"] > 0]["difference"].notna().sum())
    others = others[~others["attacked"].isin([NOISE]) & (others["attacked"] != others["line"])]
    n_others = int(others["difference"].notna().sum())
    if n_own:
        yield f"On average, none of {n_own} attacks on a model itself did less than {NOISE}."
    if n_others:
        yield (
            f"None of {n_others} attacks that were made against another model did more than the attack on the model "
            f"itself, beyond the {INTERVALS} of the paired difference."
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
        f"(mean Dice {at}; {sample_of(doubt.rows, analysis)}): the gradients of {doubt.line} may be masked, or "
        "the attack needs more steps. Do not take what it kept for robustness."
    )


def _head(analysis: Analysis, dataset: str, name: str) -> str:
    return analysis.lead(dataset) + analysis.names[name]


def _steps(rows: pd.DataFrame) -> str:
    n = int(rows["steps"].max())
    return f"{n} step{'s' * (n != 1)}"


def _under_attack(analysis: Analysis) -> pd.DataFrame:
    table = attack_effects(analysis)
    return table[table["level"] > 0].reset_index(drop=True)


_ATTACK = (DATASET, Column("perturbation", "attack", "words"), Column("level", "budget", "level"))
_TABLES = (
    TableSpecification(
        "attacks",
        "Attacks on each model itself, beside random noise of the same budget",
        "Mean Dice over patients. The difference is that under the attack less that under the noise, paired by "
        f"patient: below 0, the attack did more. {INTERVALS}. The Dice under the worst change within the budget is at "
        "most that under the attack.",
        (
            *_ATTACK, ARCHITECTURE, mean_column("attacked", "attacked"), mean_column("noise", "random noise"),
            mean_column("difference", "difference"), Column("steps", "steps", "count"), *SAMPLE,
        ),
        _under_attack,
    ),
    TableSpecification(
        "transfer",
        "Attacks made against one model, predicted by each",
        "Mean Dice over patients of the model that predicted, and of the same under the attack on itself; the "
        "difference is the first less the second, paired by patient: below 0, the images that were made against "
        f"another model did more. {INTERVALS}, not adjusted for the number of pairs.",
        (
            *_ATTACK, Column("attacked", "made against"), Column("line", "predicted by"), mean_column("score", "Dice"),
            mean_column("own", "attacked itself"), mean_column("difference", "difference"), *SAMPLE,
        ),
        transfer,
    ),
)  # fmt: skip

SECTION = Section(
    name="attacks",
    short="Attacks",
    title="Attacks on the models",
    text=(
        "An attack changes the values of an image, each or all together within a budget, so that one model "
        "segments it as badly as the attack can bring about. It knows the reference and that model. Of another "
        "change within the budget a model may suffer more: on these images every Dice is an upper bound of "
        "the Dice under the worst change, and a model that keeps much has withstood this attack, not all of them.",
        "In the curves each model is attacked itself: each predicts images of its own (solid). Random noise of the "
        f"same budget is dashed, in the same colour. Bands are {INTERVALS}. In the map, a row has the images that "
        "were made against one model, a column the model that predicted them; framed and in bold is the attack on "
        "the model itself. The last row is random noise of the same budget.",
    ),
    figures=_figures,
    groups={_ATTACKS: "attacks on each model itself, and random noise", _TRANSFER: "who is harmed by attacks on whom"},
    tables=_TABLES,
    lists={
        "Are these attacks as strong as they should be?": warnings,
        "What attacks did to each model": harms,
        "Which model kept most": keepers,
    },
)
