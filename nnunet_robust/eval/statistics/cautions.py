"""What readers of a sweep's numbers must know before they compare anything, in a plain sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from nnunet_robust.common.sentences import joined, named
from nnunet_robust.eval.results.manifest import Manifest, ModelEntry
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics.tables import CLEAN, without_seed


def cautions(manifest: Manifest, results: pd.DataFrame | None) -> list[str]:
    """Say where models were scored on cases of their training, trained unequally, or never find a label.

    The page, `recommend` and the terminal say the same.

    Args:
        manifest: of the sweep.
        results: what `load_results` returns; None where there are no results yet.

    Returns:
        The sentences; none where there is nothing to say, nor of what an older manifest does not tell.
    """
    names = {} if results is None else _names(results, "line")
    models = {
        names.get(key, entry.model): entry for key, entry in manifest.models.items() if entry.training is not None
    }
    architectures = {} if results is None else _names(results, "architecture")
    of_architecture: dict[str, list[ModelEntry]] = {}
    for key, entry in manifest.models.items():
        if entry.training is not None:
            of_architecture.setdefault(architectures.get(key, without_seed(entry.model)), []).append(entry)
    return [
        *_on_training_cases(models),
        *_unknown_cases(models),
        *_unequal_budgets(models),
        *_unknown_budgets(models),
        *_unequal_folds(models),
        *_unequal_repeats(of_architecture),
        *_doubtful_files(manifest.case_notes or {}),
        *([] if results is None else _never_found(results)),
    ]


def _names(results: pd.DataFrame, column: str) -> dict[str, str]:
    """Key of each arm -> its name in a column of the results."""
    arms = results[[*ARM, column]].drop_duplicates().to_dict("records")
    return {arm_key(**{part: arm[part] for part in ARM}): str(arm[column]) for arm in arms}


def _on_training_cases(models: Mapping[str, ModelEntry]) -> list[str]:
    said = []
    for name, entry in models.items():
        known = entry.training_cases
        if known is not None and known.found:
            cases = sorted({case for of_fold in known.found.values() for case in of_fold})
            folds = joined([*known.found])
            said.append(
                f"{name} was trained on {len(cases)} of the {known.n_cases} cases (fold{_s(known.found)} {folds}: "
                f"{named(cases)}), which --allow-training-cases let pass: its scores there are too good, and say "
                f"nothing of new images."
            )
    return said


def _unknown_cases(models: Mapping[str, ModelEntry]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, entry in models.items():
        if entry.training_cases is not None and entry.training_cases.unknown:
            by_reason.setdefault(entry.training_cases.unknown, []).append(name)
    return [
        f"Whether {named(names, last='or')} was trained on any of these cases is not known ({reason}): if so, "
        f"the scores are too good."
        for reason, names in by_reason.items()
    ]


class _Budget(NamedTuple):
    """How long a fold of a model was trained."""

    epochs: int
    iterations: int  # of an epoch
    batch_size: int

    @property
    def patches(self) -> int:
        return self.epochs * self.iterations * self.batch_size


def _budget(entry: ModelEntry, fold: str) -> _Budget | None:
    training = entry.training
    epochs = training.epochs.get(fold) if training else None
    if training is None or epochs is None or training.iterations_per_epoch is None or training.batch_size is None:
        return None
    return _Budget(epochs, training.iterations_per_epoch, training.batch_size)


def _unequal_budgets(models: Mapping[str, ModelEntry]) -> list[str]:
    """What was trained longer than other models; each fold counts by itself."""
    trained: dict[_Budget, list[str]] = {}
    for name, entry in models.items():
        of_model: dict[_Budget, list[str]] = {}
        for fold in _folds(entry):
            if budget := _budget(entry, fold):
                of_model.setdefault(budget, []).append(fold)
        for budget, folds in of_model.items():
            whole = name if len(of_model) == 1 else f"{name} (fold{_s(folds)} {joined(folds)})"
            trained.setdefault(budget, []).append(whole)
    if len({budget.patches for budget in trained}) < 2:
        return []
    parts = [
        f"{named(trained[budget])} on {budget.patches:,} patches ({budget.epochs:,} epoch{'s' * (budget.epochs != 1)} "
        f"of {budget.iterations:,} iterations, batch size {budget.batch_size})"
        for budget in sorted(trained, key=lambda budget: -budget.patches)
    ]
    return [
        f"The trainings are of unequal length: {'; '.join(parts)}. A difference between these models may come from "
        f"that."
    ]


def _unknown_budgets(models: Mapping[str, ModelEntry]) -> list[str]:
    names = [name for name, entry in models.items() if any(_budget(entry, fold) is None for fold in _folds(entry))]
    if not names or len(models) < 2:
        return []
    return [
        f"How long {named(names)} {_was(names)} trained is not known in full (neither the trainer's name nor the "
        f"checkpoint says): it may be longer or shorter than for other models."
    ]


def _unequal_folds(models: Mapping[str, ModelEntry]) -> list[str]:
    by_number: dict[int, list[str]] = {}
    for name, entry in models.items():
        by_number.setdefault(len(_folds(entry)), []).append(name)
    if len(by_number) < 2:
        return []
    parts = [
        f"{named(by_number[n])} {'average' if len(by_number[n]) > 1 else 'averages'} {n} folds"
        if n > 1
        else f"{named(by_number[n])} {'are each' if len(by_number[n]) > 1 else 'is'} a single fold"
        for n in sorted(by_number, reverse=True)
    ]
    return [
        f"The models are not averages of equally many folds: {'; '.join(parts)}. An average of folds is mostly better "
        f"than one of them, whatever the architecture."
    ]


def _unequal_repeats(architectures: Mapping[str, Sequence[ModelEntry]]) -> list[str]:
    """Which architectures were trained more often than others."""
    trained = {name: sorted({_repeat(entry) for entry in entries}) for name, entries in architectures.items()}
    if len({len(repeats) for repeats in trained.values()}) < 2:
        return []
    parts = [
        f"{name} {len(repeats)} time{_s(repeats)} ({named([' '.join(filter(None, repeat)) for repeat in repeats])})"
        for name, repeats in sorted(trained.items(), key=lambda one: -len(one[1]))
    ]
    return [
        f"The architectures were not trained equally often: {'; '.join(parts)}. The fewer trainings, the more of a "
        f"mean is chance."
    ]


def _repeat(entry: ModelEntry) -> tuple[str, str]:
    """What tells a training from others of its architecture."""
    seed = entry.training.seed if entry.training else None
    return ("no seed" if seed is None else f"seed {seed}", f"fold {entry.fold}")


def _doubtful_files(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Which cases have files that may not be what they are taken for."""
    if not notes:
        return []
    case, doubts = next(iter(notes.items()))
    if (more := len(notes) - 1) == 0:
        return [f"The files of {case} are doubtful: {'; '.join(doubts)}."]
    return [
        f"The files of {len(notes)} cases are doubtful; of {case}: {'; '.join(doubts)}. The other{'s are' * (more > 1)}"
        f"{' is' * (more == 1)} in manifest.json (case_notes)."
    ]


def _never_found(results: pd.DataFrame) -> list[str]:
    """Which models predict a label in none of the clean images that have it."""
    clean = results[(results["perturbation"] == CLEAN) & (results["n_ref"] > 0)]
    found = clean.groupby(["dataset", "label", "line"], sort=False).agg(n=("case", "nunique"), most=("n_pred", "max"))
    never = found[found["most"] == 0].reset_index()
    return [
        f"On clean images {named(list(rows['line']))} never {'find' if len(rows) > 1 else 'finds'} the label {label}: "
        f"it is predicted in none of the {n} case{'s' * (n != 1)} that {'have' if n != 1 else 'has'} it."
        for (_, label, n), rows in never.groupby(["dataset", "label", "n"], sort=False)
    ]


def _folds(entry: ModelEntry) -> list[str]:
    return entry.fold.split("+")


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _s(many: Iterable[str] | Sequence[tuple[str, str]]) -> str:
    return "" if len(list(many)) == 1 else "s"
