"""The denoised models of a sweep: each one more arm, beside the model as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

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
    """Make the models again, with denoising; nothing is loaded again.

    Args:
        models: of the sweep, as they are.
        ways: of `WAYS`; none for no denoising.
        origin: for auto, the folder of an earlier sweep of the same models under noise, over other cases.
        identity: of this sweep, as the manifest has it.
        digests: of its cases, name -> digest, and those of each test set of a series.
        background: what decides over the region that is denoised.

    Raises:
        UserError: an origin that is of other models, or of the same cases.
    """
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
    """Feed the same weights with denoised images; nothing is loaded again."""
    name, at, dataset = model.trainer.partition("@")
    return replace(model, trainer=f"{name}{denoiser.label}{at}{dataset}", denoiser=denoiser, plain=model)


def notes(models: Sequence[Model]) -> tuple[str, ...]:
    """Say in a sentence how much noise each model with a threshold tolerates."""
    return tuple(
        model.denoiser.tolerance.sentence(model.plain.trainer)
        for model in models
        if model.plain is not None and isinstance(model.denoiser, Denoiser) and model.denoiser.tolerance is not None
    )
