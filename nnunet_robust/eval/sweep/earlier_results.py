"""What an output folder holds already: results of other models, attacks or guarantees of the same name are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.results.manifest import MANIFEST, Identity, Manifest, ModelEntry, open_manifest
from nnunet_robust.eval.results.tables import BOUNDS, RESULTS
from nnunet_robust.eval.sweep.arms import Arm
from nnunet_robust.eval.sweep.attack_settings import AttackSettings, refuse_other_attacks
from nnunet_robust.eval.sweep.guarantees import Guarantees


def read_known(
    output: Path,
    identity: Identity,
    arms: Sequence[Arm],
    guarantees: Mapping[str, Guarantees],
    attacks: AttackSettings,
) -> Manifest:
    """Read the manifest of an output folder, empty for a new one.

    Args:
        output: the folder.
        identity: of the sweep.
        arms: of the sweep.
        guarantees: model key -> its calibration.
        attacks: of the sweep.

    Raises:
        UserError: the folder holds something that the sweep's results cannot stand beside.
    """
    manifest = open_manifest(output / MANIFEST, identity)
    for arm in arms:
        _refuse_retrained(output, manifest, arm)
    for arm in arms:
        if isinstance(arm, Model):
            _refuse_relearned(output, manifest, arm)
    for key, guarantee in guarantees.items():
        _refuse_recalibrated(output, manifest, key, guarantee)
    refuse_other_attacks(output, manifest, attacks)
    return manifest


def _refuse_retrained(output: Path, manifest: Manifest, arm: Arm) -> None:
    before = manifest.models.get(arm.key)
    if before is not None and before.checkpoints != arm.checkpoints:
        raise UserError(
            f"{output} holds results of another checkpoint of {arm.key} (it was trained again, or its weights "
            f"were): take a new folder for -o, or delete {RESULTS.folder(output, arm.key)} and its entry in "
            f"manifest.json"
        )


def _refuse_relearned(output: Path, manifest: Manifest, model: Model) -> None:
    before = manifest.models.get(model.key)
    if before is not None and model.denoiser is not None and not model.denoiser.matches(before.denoise or {}):
        raise UserError(
            f"{output} holds results of {model.key} by another threshold (--denoise-from has changed): take a new "
            f"folder for -o, or delete {RESULTS.folder(output, model.key)} and its entry in manifest.json"
        )


def _refuse_recalibrated(output: Path, manifest: Manifest, key: str, guarantees: Guarantees) -> None:
    before = manifest.models.get(key, ModelEntry()).calibration
    if before is not None and before.sha256 != guarantees.digest:
        raise UserError(
            f"{output} holds what became of another calibration of {key}: take a new folder for -o, or delete "
            f"{BOUNDS.folder(output, key)} and the calibration of that model in manifest.json"
        )
