"""The noise tolerance of a model, learned from an earlier sweep of it over other cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.denoising.noise_tolerance import NoiseTolerance
from nnunet_robust.eval.results.reading import read_table
from nnunet_robust.eval.results.tables import CONDITION, Condition
from nnunet_robust.eval.statistics import MARGIN
from nnunet_robust.eval.statistics.earlier_sweep import EarlierSweep

NOISE = ("gaussian_noise", "rician_noise", "speckle_noise", "poisson_noise")
"""Perturbations that count: noise of its own in every voxel, which is what `noise_sigma` estimates."""

FEWEST_PATIENTS = 5
"""The fewest patients to learn from."""

CLEAN_PERCENTILE = 95.0
"""Percentile of the noise of clean images: what is below counts as clean, whatever a model tolerates."""


def tolerated_noise(
    noise: NDArray[np.float64],
    losses: NDArray[np.float64],
    patients: Sequence[str],
    clean: NDArray[np.bool_],
    margin: float = MARGIN,
) -> tuple[float, str]:
    """Find the largest noise up to which the mean loss is within a margin.

    The mean loss as a function of the estimated noise is taken to fall nowhere: it is fitted by isotonic regression,
    each patient with the same weight. The threshold is the largest noise of an image at which the fit is within the
    margin, and never below the `CLEAN_PERCENTILE`th percentile of the clean images' noise, as it would be where clean
    images are as noisy by the estimate (fine texture counts as noise) as some that the model does not tolerate.

    Args:
        noise: (images,), `noise_sigma`.
        losses: (images,), the Dice of the same case's clean image minus the image's; 0 for clean images.
        patients: (images,), whose it is.
        clean: (images,), whether it is a clean image; at least one.
        margin: >= 0.

    Returns:
        The threshold, and the outcome, see `NoiseTolerance`.

    Reference: Barlow et al., "Statistical Inference under Order Restrictions", 1972 (pool adjacent violators).
    """
    from sklearn.isotonic import IsotonicRegression  # not loaded by sweeps that learn nothing

    _, of_patient, sizes = np.unique(np.asarray(patients, str), return_inverse=True, return_counts=True)
    fit = IsotonicRegression().fit(noise, losses, sample_weight=1.0 / sizes[of_patient])
    within = fit.predict(noise) <= margin + 1e-12
    of_clean = float(np.percentile(noise[clean], CLEAN_PERCENTILE))
    tolerated = float(noise[within].max(initial=-np.inf))
    if within.all():
        return tolerated, "all"
    return (tolerated, "within") if tolerated > of_clean else (of_clean, "clean")


def learn(earlier: EarlierSweep, key: str) -> NoiseTolerance:
    """Learn the noise tolerance of a model from an earlier sweep.

    Args:
        earlier: the sweep.
        key: the model's, one of `earlier.models`.

    Raises:
        UserError: the sweep has not measured the noise of its inputs, or too few patients under any of `NOISE`.
    """
    where = f"{earlier.flag} {earlier.folder}"
    table = earlier.folder / "inputs.csv"
    point = ["patient", "case", *CONDITION]
    inputs = read_table(table, point, f"sweep again for {earlier.flag}") if table.is_file() else pd.DataFrame()
    if not {*point, "noise_sigma"} <= set(inputs):
        raise UserError(f"{where}: its inputs.csv has no noise_sigma: it is of an earlier version, sweep it again")
    own = earlier.rows[earlier.rows["key"] == key]
    dice = own.groupby(point)["dice"].mean().reset_index()
    numbers = {"level": float, "replicate": float}
    images = dice.merge(inputs[[*point, "noise_sigma"]].astype(numbers), on=point).dropna(subset=["noise_sigma"])
    is_clean = images["perturbation"] == Condition.clean().perturbation
    images = images[is_clean | images["perturbation"].isin(NOISE)].assign(clean=is_clean)
    of_clean = images[images["clean"]].set_index("case")["dice"]
    images = images[images["case"].isin(of_clean.index)]
    noisy = images[~images["clean"]]
    if (n_patients := noisy["patient"].nunique()) < FEWEST_PATIENTS:
        raise UserError(
            f"{where}: {n_patients} patients have both a clean image and one under {', '.join(NOISE)} there, and "
            f"{FEWEST_PATIENTS} are the least to learn from: sweep more cases with --perturb {NOISE[0]}"
        )
    noise = images["noise_sigma"].to_numpy(float)
    losses = images["case"].map(of_clean).to_numpy(float) - images["dice"].to_numpy(float)
    clean = images["clean"].to_numpy(bool)
    threshold, outcome = tolerated_noise(noise, losses, images["patient"].tolist(), clean)
    return NoiseTolerance(
        threshold=threshold,
        outcome=outcome,
        margin=MARGIN,
        clean_noise=float(np.percentile(noise[clean], CLEAN_PERCENTILE)),
        largest_noise=float(noise.max()),
        n_patients=images["patient"].nunique(),
        n_images=len(images),
        perturbations=tuple(sorted(noisy["perturbation"].unique())),
        origin=(sha256(earlier.folder / "results.csv"), sha256(table)),
    )
