"""Ensembles of a sweep's models: arms of their own, beside their members, predicted from the members' probabilities.

As `nnUNetv2_ensemble` does, it is probabilities on the image's own grid that are averaged; with equal weights the label
map is that command's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.complexity import SWEEP_SLICES, ComplexityMeter
from nnunet_robust.eval.images.regions import EVERYWHERE, Background
from nnunet_robust.eval.inference.members import Members, Prediction
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.results.manifest import Identity
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics.earlier_sweep import EarlierSweep
from nnunet_robust.eval.uncertainty.label_layout import LabelLayout
from nnunet_robust.eval.uncertainty.uncertainty import BAND_MM, Uncertainty, neighbourhood, uncertainty
from nnunet_robust.eval.uncertainty.weights import (
    CompetenceCurve,
    confidence_weights,
    mean_entropy_bits,
    uniform_weights,
)

WEIGHTINGS = ("uniform", "confidence", "complexity")
ALL = "all"


@dataclass(frozen=True)
class Ensemble:
    """Several models of a sweep as one.

    Attributes:
        models: its members.
        weighting: where the weights of a case come from: one of `WEIGHTINGS`.
        curve: how well each member did, by texture divergence; for weights by complexity.
        origin: the SHA-256 of the results that the curve was made from.
        background: what decides over the region that an image's texture is measured in.
    """

    models: tuple[Model, ...]
    weighting: str = "uniform"
    curve: CompetenceCurve | None = None
    origin: str | None = None
    background: Background = EVERYWHERE

    @property
    def trainer(self) -> str:
        """The label in tables and plots."""
        return f"ensemble_{self.weighting}({'+'.join(model.trainer for model in self.models)})"

    @cached_property
    def arm(self) -> dict[str, str]:
        """The columns `tables.ARM`, which tell it from the other arms of a sweep."""
        shared = {name: "+".join(dict.fromkeys(model.arm[name] for model in self.models)) for name in ARM}
        return {**shared, "model": self.trainer}

    @property
    def key(self) -> str:
        """A name for files, unique within a sweep."""
        return arm_key(**self.arm)

    @property
    def checkpoints(self) -> dict[str, str]:
        """The SHA-256 of each checkpoint of each member, and of what the weights were made from."""
        members = {f"{m.key}/{fold}": digest for m in self.models for fold, digest in m.checkpoints.items()}
        return members if self.origin is None else {**members, "weights": self.origin}

    @property
    def label_layout(self) -> LabelLayout:
        """What the channels of its probabilities stand for."""
        return self.models[0].label_layout

    def predict(self, members: Members, image: np.ndarray, spacing_mm: Sequence[float]) -> Prediction:
        """Predict an image from the predictions of the members.

        Args:
            members: one for each model, in order.
            image: (C, *spatial), raw intensities, as the members saw them: its texture is measured, on its own grey
                scale, as a new image has no other.
            spacing_mm: the voxel's size along each axis.
        """
        alike = uncertainty(members, self.label_layout)
        divergence = _divergence(image, alike.segmentation > 0, spacing_mm, self.background.region(image).mask)
        weights = self._weights(members, alike, divergence, spacing_mm).tolist()
        found = alike if self.weighting == "uniform" else uncertainty(members, self.label_layout, weights)
        return Prediction(found.segmentation, found, tuple(weights), divergence)

    def _weights(
        self, members: Members, alike: Uncertainty, divergence_bits: float, spacing_mm: Sequence[float]
    ) -> NDArray[np.float64]:
        if self.weighting == "confidence":
            near = neighbourhood(alike.segmentation > 0, spacing_mm, BAND_MM)
            entropies = [mean_entropy_bits(member, self.label_layout, near) for member in members]
            return confidence_weights(entropies, self.label_layout.max_entropy_bits)
        if self.weighting == "complexity":
            assert self.curve is not None
            return self.curve.weights(divergence_bits)
        return uniform_weights(len(self.models))


def make_ensembles(
    models: Sequence[Model],
    names: Sequence[str],
    weighting: str,
    origin: Path | None,
    identity: Identity,
    digests: Sequence[Mapping[str, str | None]],
    background: Background,
) -> list[Ensemble]:
    """Make the ensemble that the user named, if any.

    Args:
        models: of the sweep.
        names: trainers of its members; `ALL` for all models; none for no ensemble.
        weighting: one of `WEIGHTINGS`.
        origin: for weights by complexity, the folder of an earlier sweep of the same models, with their uniform
            ensemble, over other cases.
        identity: of this sweep, as the manifest has it.
        digests: of its cases, name -> digest, and those of each test set of a series.
        background: what decides over the region that an image's texture is measured in.

    Raises:
        UserError: a name that is no model's, or an origin that is of other models or of the same cases.
    """
    if not names:
        return []
    known = {model.trainer for model in models}
    unknown = [name for name in names if name not in known and name != ALL]
    if unknown:
        raise UserError(f"--ensemble {unknown[0]}: not a model of this sweep, which has {', '.join(sorted(known))}")
    # In one order, however they were named: it is one ensemble.
    chosen = tuple(sorted((m for m in models if ALL in names or m.trainer in names), key=lambda model: model.key))
    if len({model.folder for model in chosen}) < len(chosen):
        raise UserError("--ensemble with several --tile-size would mix them: sweep one tile size at a time")
    if any(model.label_layout != chosen[0].label_layout for model in chosen):
        raise UserError(
            "--ensemble: the models' outputs stand for different labels (regions_class_order): none is made"
        )
    ensemble = Ensemble(chosen)
    if origin is None:
        return [Ensemble(chosen, weighting, background=background)]
    return [Ensemble(chosen, weighting, *_learned(origin, ensemble, identity, digests), background)]


def _learned(
    origin: Path, ensemble: Ensemble, identity: Identity, digests: Sequence[Mapping[str, str | None]]
) -> tuple[CompetenceCurve, str]:
    """The members' curve from an earlier sweep, and its results' digest."""
    earlier = EarlierSweep.open("--weights-from", origin)
    earlier.check_alike(identity)
    wanted = {**{model.key: model.checkpoints for model in ensemble.models}, ensemble.key: ensemble.checkpoints}
    for key, checkpoints in wanted.items():
        earlier.check_has(key, checkpoints, "sweep there with --ensemble of the same models")
    why = "weights that have seen its reference would flatter the ensemble"
    earlier.check_unseen(digests, ensemble.models[0].channels, why)
    of_arm = dict(list(earlier.rows.groupby("key")))
    image = ["patient", "case", "perturbation", "level", "replicate"]
    dice = {key: of_arm[key].groupby(image)["dice"].mean() for key in wanted}
    divergence = pd.to_numeric(of_arm[ensemble.key].groupby(image)["predicted_divergence_bits"].first())
    together = pd.DataFrame({**dice, "": divergence}).dropna(subset=list(wanted))
    curve = CompetenceCurve.fit(
        together[""].to_numpy(float),
        together[[model.key for model in ensemble.models]].to_numpy(float),
        together.index.get_level_values("patient").tolist(),
    )
    return curve, sha256(origin / "results.csv")


def _divergence(
    image: np.ndarray, foreground: NDArray[np.bool_], spacing_mm: Sequence[float], region: NDArray[np.bool_] | None
) -> float:
    meter = ComplexityMeter(
        image,
        foreground.astype(np.uint8),
        {"foreground": [1]},
        spacing_mm,
        max_slices=SWEEP_SLICES,
        region=region,
    )
    return meter.measure(image)["foreground"].texture_divergence_bits
