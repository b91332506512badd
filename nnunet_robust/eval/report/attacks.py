"""Attacks: what each does to the model that it is on, beside random noise of the same budget, and to other models.

An attack is only one way to harm a model: what it finds, the worst change of that budget does at least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from nnunet_robust.eval.report.pairs import CASE, columns, paired_means
from nnunet_robust.eval.report.read import Attack, Sweep
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import case_scores

NOISE = "random noise of the same budget"
_SAME = 0.0005  # of a mean Dice: what three decimals cannot tell
_SCORES = [*CASE, "attack", "attacked", "steps", "control"]


def attacked_scores(sweeps: Sequence[Sweep], metric: str) -> pd.DataFrame:
    """The score of each case under each attack.

    Args:
        sweeps: of a report.
        metric: a key of `COMPARABLE`.

    Returns:
        Columns dataset, architecture and line (who predicted), level (the budget; 0 is the clean image), patient, case,
        the metric, attack (its name without a source), attacked (the line of the model that the images were made
        against; where that was not swept, its name and that), steps and control (the random noise of the same budget).
        What a model does under an attack on itself is there once, whether each model was attacked or this one for all.
    """
    found = []
    for sweep in sweeps:
        scores = case_scores(sweep.rows, metric)
        for name, described in sweep.attacks.items():
            of_attack = scores[scores["perturbation"] == name].drop(columns="perturbation")
            attacked = _line_of(sweep, described) if described.source else of_attack["line"]
            facts = {"attack": described.name, "steps": described.steps, "control": described.control}
            found.append(of_attack.assign(attacked=attacked, **facts))
    if not found:
        return pd.DataFrame(columns=[*_SCORES, metric])
    table = pd.concat(found, ignore_index=True)
    return table[~table.duplicated([*CASE, "attack", "attacked"])].reset_index(drop=True)


def _line_of(sweep: Sweep, attack: Attack) -> str:
    """The line of the trained model that an attack was made against; a name of its own where it was not swept."""
    described, attacked = sweep.manifest.models, attack.source or {}
    for arm in sweep.results.drop_duplicates("line").to_dict("records"):
        key = arm_key(**{name: arm[name] for name in ARM})
        if key in attacked and key in described and described[key].checkpoints == attacked[key]:
            return str(arm["line"])
    return f"{attack.source_name} (not swept)"


def own(attacked: pd.DataFrame) -> pd.DataFrame:
    """The rows of `attacked_scores` of models under attacks on themselves."""
    return attacked[attacked["attacked"] == attacked["line"]]


def effects(sweeps: Sequence[Sweep], attacked: pd.DataFrame, metric: str, name: str = "architecture") -> pd.DataFrame:
    """What attacks on a model do to it, beside random noise of the same budget, on the same cases.

    Args:
        sweeps: of a report.
        attacked: `attacked_scores` of them.
        metric: a key of `COMPARABLE`.
        name: "architecture", or "line" for each trained model.

    Returns:
        Columns dataset, perturbation (the attack), level, line (the architecture), steps; attacked, noise, difference
        (attacked less noise: below 0 the attack is the worse one), as of `paired_means`. Level 0 is the clean image.
    """
    found = []
    scores = pd.concat([case_scores(sweep.rows, metric) for sweep in sweeps], ignore_index=True)
    by, names = ["dataset", "attack", "level", name, "steps"], ("attacked", "noise", "difference")
    for _, part in own(attacked).groupby(["dataset", "attack"], sort=False):
        noise = scores[scores["perturbation"] == part["control"].iloc[0]]
        found.append(paired_means(part, noise, metric, by, names))
    return _together(found, columns(by, names)).rename(columns={"attack": "perturbation", name: "line"})


def transfer(sweeps: Sequence[Sweep], attacked: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What attacks that were made against one trained model do to each, beside those on itself.

    Args:
        sweeps: of a report.
        attacked: `attacked_scores` of them.
        metric: a key of `COMPARABLE`.

    Returns:
        Columns dataset, perturbation (the attack), level, attacked (whom the images were made against; `NOISE` for
        those that were made against none), line (who predicted); score, own, difference (score less the score under
        the attack on itself, on the same cases: below 0, the other images harm it more), as of `paired_means`. Of every
        attacked model whose images others were shown, itself included; without clean images.
    """
    found = []
    by, names = ["dataset", "attack", "level", "attacked", "line"], ("score", "own", "difference")
    scores = pd.concat([case_scores(sweep.rows, metric) for sweep in sweeps], ignore_index=True)
    for (dataset, attack), part in attacked[attacked["level"] > 0].groupby(["dataset", "attack"], sort=False):
        sources = part.loc[part["attacked"] != part["line"], "attacked"].unique()
        shown = part[part["attacked"].isin(sources)]
        noise = scores[
            (scores["perturbation"] == part["control"].iloc[0])
            & (scores["dataset"] == dataset)
            & scores["level"].isin(shown["level"])
        ]
        both = pd.concat([shown, noise.assign(attack=attack, attacked=NOISE)])
        found.append(paired_means(both, own(part), metric, by, names))
    return _together(found, columns(by, names)).rename(columns={"attack": "perturbation"})


def _together(parts: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(names))


class Doubt(NamedTuple):
    """An attack that is not as strong as it should be, at the budgets where that is so.

    Attributes:
        dataset, perturbation, line: which attack, on whom.
        than: what harms more: `NOISE`, or the model that the images were made against.
        rows: of `effects` or `transfer`, by trained model, one per budget.
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
        of_lines: `effects` by "line".
        transferred: `transfer`.
    """
    keys = ["dataset", "perturbation", "line"]
    weaker = of_lines[(of_lines["level"] > 0) & (of_lines["difference"] >= _SAME)]
    for (dataset, name, line), rows in weaker.groupby(keys, sort=False):
        yield Doubt(str(dataset), str(name), str(line), NOISE, rows)
    others = transferred[~transferred["attacked"].isin([NOISE]) & (transferred["attacked"] != transferred["line"])]
    stronger = others[others["difference_high"] < 0]
    for (dataset, name, line, source), rows in stronger.groupby([*keys, "attacked"], sort=False):
        yield Doubt(str(dataset), str(name), str(line), str(source), rows)
