"""The denoised models of a sweep: each one more arm, beside the model as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.denoising.denoiser import Denoiser
from nnunet_robust.eval.denoising.learned_tolerance import learn
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.results.manifest import Identity
from nnunet_robust.eval.statistics.earlier_sweep import EarlierSweep

WAYS = ("auto", "always")


def denoised_models(
    models: Sequence[Model],
    ways: Sequence[str],
    origin: Path | None,
    identity: Identity,
    digests: Sequence[Mapping[str, str | None]],
    background: Background,
) -> list[Model]:
    """The models again, with denoising; nothing is loaded again.

    Args:
        models: of the sweep, as they are.
        ways: of `WAYS`; none for no denoising.
        origin: for auto, the folder of an earlier sweep of the same models under noise, over other cases.
        identity: of this sweep, as the manifest has it.
        digests: of its cases, name -> digest, and those of each test set of a series.
        background: what decides over the region that is denoised.

    Raises:
        UserError: an unknown way, or an origin that is missing, not needed, of other models, or of the same cases.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise UserError(f"--denoise {unknown[0]}: take {' or '.join(WAYS)}, or both")
    if "auto" in ways and origin is None:
        raise UserError(
            "--denoise auto learns from an earlier sweep how much noise each model bears: sweep other cases (-i, -l) "
            "with --perturb gaussian_noise, and name that folder with --denoise-from"
        )
    if origin is not None and "auto" not in ways:
        raise UserError(f"--denoise-from {origin} is for --denoise auto: give both or neither")
    found = []
    if origin is not None:
        earlier = EarlierSweep.open("--denoise-from", origin)
        earlier.check_alike(identity)
        for model in models:
            earlier.check_has(model.key, model.checkpoints, "sweep it there, too")
        why = "a threshold that was learned on it says nothing of other images"
        earlier.check_unseen(digests, models[0].channels, why)
        found += [with_denoising(model, Denoiser(learn(earlier, model.key), background)) for model in models]
    if "always" in ways:
        found += [with_denoising(model, Denoiser(background=background)) for model in models]
    return found


def with_denoising(model: Model, denoiser: Denoiser) -> Model:
    """The same weights, fed with denoised images; nothing is loaded again."""
    name, at, dataset = model.trainer.partition("@")
    return replace(model, trainer=f"{name}{denoiser.label}{at}{dataset}", denoiser=denoiser, plain=model)


def notes(models: Sequence[Model]) -> tuple[str, ...]:
    """What each model with a threshold was measured to bear, in sentences."""
    return tuple(
        model.denoiser.borne.sentence(model.plain.trainer)
        for model in models
        if model.plain is not None and isinstance(model.denoiser, Denoiser) and model.denoiser.borne is not None
    )
