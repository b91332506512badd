"""The attacks of a sweep: on which models, how each is made, and whether that fits what the folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.chain import check_known
from nnunet_robust.eval.attacks.rows import perturbation
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.results.manifest import AttackEntry, Manifest

AttackSettings: TypeAlias = Mapping[str, AttackEntry]
"""Attack -> how it is made, as the manifest tells of it."""


def attacked_models(names: Iterable[str], models: Sequence[Model], sources: Mapping[str, Model]) -> list[Model]:
    """The models that are attacked.

    Args:
        names: of perturbations, attacks or not.
        models: of the sweep.
        sources: name -> the model whose attacked images all models get.

    Raises:
        UserError: one of them cannot be, see `check_known`.
    """
    rows = [perturbation(name) for name in names]
    found = [*(models if any(row.white_box for row in rows) else []), *sources.values()]
    for model in found:
        check_known(model)
    return list({model.key: model for model in found}.values())


def attack_settings(names: Iterable[str], steps: int, sources: Mapping[str, Model]) -> AttackSettings:
    """How each attack of a sweep is made.

    Args:
        names: of perturbations, attacks or not.
        steps: of each attack.
        sources: see `attacked_models`.
    """
    settings = {}
    for row in map(perturbation, names):
        if row.uses_victim:
            source = sources[row.source] if row.source else None
            settings[row.name] = AttackEntry(
                name=row.attack,
                display_name=perturbation(row.attack).display_name,
                steps=1 if row.single_step else steps,
                # by its key, which names its plans, configuration, folds and tiles, too
                source={source.key: source.checkpoints} if source else None,
            )
    return settings


def refuse_other_attacks(output: Path, manifest: Manifest, attacks: AttackSettings) -> None:
    """Make sure that the attacks in a folder were made as those of this sweep are.

    Args:
        output: the folder.
        manifest: its manifest; empty for a new folder.
        attacks: see `attack_settings`.

    Raises:
        UserError: any has another number of steps, so that they could not be compared, or one is on another model of
            its source's name.
    """
    there = {name: row.attack for name, row in manifest.perturbations.items() if row.attack is not None}
    many = {name: attack for name, attack in there.items() if attack.steps > 1}
    for name, attack in attacks.items():
        other = next((one for one in many if attack.steps > 1 and many[one].steps != attack.steps), None)
        if other is not None:
            raise UserError(
                f"{output} holds {other} of {many[other].steps} steps, not {attack.steps}: take a new folder for "
                f"-o, or --attack-steps {many[other].steps}"
            )
        if name in there and there[name].source != attack.source:
            raise UserError(
                f"{output} holds {name} of another model of that name (its checkpoints, plans, configuration, folds or "
                f"tiles differ): take a new folder for -o"
            )
