"""The attacks that a sweep was asked for: on which models, how the manifest tells of them, and whether that fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_robust.errors import UserError
from nnunet_robust.eval.attacks.chain import check_known
from nnunet_robust.eval.models import Model
from nnunet_robust.eval.perturbations import perturbation


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


def described_attacks(names: Iterable[str], steps: int, sources: Mapping[str, Model]) -> dict[str, dict[str, Any]]:
    """Attack -> its entry in the manifest.

    Args:
        names: of perturbations, attacks or not.
        steps: of each attack.
        sources: see `attacked_models`.
    """
    return {
        row.name: {
            "steps": steps,
            "source": {row.source: sources[row.source].checkpoints} if row.source else None,
        }
        for row in map(perturbation, names)
        if row.uses_victim
    }


def refuse_other_attacks(output: Path, manifest: Mapping[str, Any], attacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Whether a folder's attacks are like those that are asked for.

    Args:
        output: the folder.
        manifest: its manifest; empty for a new folder.
        attacks: see `described_attacks`.

    Raises:
        UserError: they have other steps, or are on other checkpoints of their source.
    """
    for name, attack in attacks.items():
        before = manifest.get("perturbations", {}).get(name, {}).get("attack", attack)
        if before["steps"] != attack["steps"]:
            raise UserError(
                f"{output} holds {name} of {before['steps']} steps, not {attack['steps']}: take a new folder for -o, "
                f"or --attack-steps {before['steps']}"
            )
        if before["source"] != attack["source"]:
            raise UserError(f"{output} holds {name} of another checkpoint of that model: take a new folder for -o")
