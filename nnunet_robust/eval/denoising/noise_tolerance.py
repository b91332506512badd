"""The noise tolerance of a model, and what it was measured on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class NoiseTolerance:
    """The noise that a model was measured to tolerate.

    Attributes:
        threshold: the largest estimated noise (`noise_sigma`) up to which it is not worth denoising.
        outcome: "within": the loss exceeded the margin within what was measured; "all": it did not, and the threshold
            is the largest noise that was measured; "clean": it did so at once, and the threshold is what clean images
            have.
        margin: mean loss of Dice against the same patients' clean images that counts as tolerated.
        clean_noise: the percentile `learned_tolerance.CLEAN_PERCENTILE` of the noise of clean images.
        largest_noise: the largest noise that was measured.
        n_patients: number of patients that it was learned from.
        n_images: number of images, clean and perturbed.
        perturbations: names of those that the images were perturbed with.
        origin: SHA-256 of the sweep's tables, results and inputs.
    """

    threshold: float
    outcome: str
    margin: float
    clean_noise: float
    largest_noise: float
    n_patients: int
    n_images: int
    perturbations: tuple[str, ...]
    origin: tuple[str, str] = ("", "")

    def described(self) -> dict[str, Any]:
        """Describe it for the manifest."""
        return {**asdict(self), "perturbations": list(self.perturbations), "origin": list(self.origin)}

    def sentence(self, model: str) -> str:
        """Write it as a sentence."""
        what = {
            "within": f"bears noise up to {self.threshold:.3g} of the robust range",
            "all": f"bore all noise that was measured, up to {self.threshold:.3g} of the robust range",
            "clean": f"bears no more noise than clean images have, {self.threshold:.3g} of the robust range",
        }
        kinds = ", ".join(self.perturbations)
        return (
            f"{model} {what[self.outcome]}: there its mean Dice is within {self.margin:g} of that on the same "
            f"patients' clean images ({self.n_patients} patients, {self.n_images} images, {kinds})"
        )
