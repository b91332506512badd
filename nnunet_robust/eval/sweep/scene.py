"""A case in memory, with all that its conditions share: what is made once, however many perturbations and models."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
import torch

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.eval.attacks.rows import perturbation
from nnunet_robust.eval.attacks.sums import exact_sum
from nnunet_robust.eval.images import pictures
from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.images.complexity import SWEEP_SLICES, ComplexityMeter
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.precision import torch_threads
from nnunet_robust.eval.metrics.metrics import Reference
from nnunet_robust.eval.results.tables import Condition, cell
from nnunet_robust.perturbations import Extra, measure, perturb, robust_range


class Scene:
    """A case, read and checked. Threads may use it at once.

    Args:
        files: of the case.
        model: any of the models, which share the dataset's format and labels.
        tolerance_mm: of the normalised surface distance.
        background: what decides over the region that is perturbed and measured.
        device: where its images are made, measured and kept; None: the CPU.

    Attributes:
        files: of the case.
        properties: what nnU-Net's reader gave beside the image.
        label: the reference segmentation (*spatial).
        reference: the same, ready to be compared with predictions.
        label_layout: what the models' outputs stand for.
        spacing_mm: the voxel's size along each axis.
        experts: where several have drawn the case, each one's labels, 0 where the reference is to be ignored.
        foreground: bool (*spatial), where the reference has any structure.
        ignore_label: of voxels that do not count; None: there is none.
        region: bool (*spatial), where the image is perturbed and measured; None: everywhere.
        bounds: robust range of the clean image in that region, per channel, on the device.
        slice: the one to show in pictures.

    Raises:
        UserError: see `load_case`.
    """

    def __init__(
        self,
        files: CaseFiles,
        model: Model,
        tolerance_mm: float,
        background: Background,
        device: torch.device | None = None,
    ) -> None:
        loaded = model.read(files)
        self.files, self.properties, self.label = files, loaded.properties, loaded.label
        clean, self.spacing_mm = torch.from_numpy(loaded.image), loaded.spacing_mm
        self._device = device or torch.device("cpu")
        self._clean = clean.to(self._device)
        self.ignore_label = model.ignore_label
        self._values = [value for value in model.label_names if value not in (0, self.ignore_label)]
        self.label_layout = model.label_layout
        self.foreground = (self.label > 0) & (True if self.ignore_label is None else self.label != self.ignore_label)
        self.region = background.region(loaded.image).mask
        self._region = None if self.region is None else torch.from_numpy(self.region).to(self._device)
        self._colour = model.colour
        low, high = robust_range(clean, None if self.region is None else torch.from_numpy(self.region))
        self.bounds = low.to(self._device), high.to(self._device)
        self.slice = pictures.display_slice(self.label)
        self.reference = Reference(self.label, model.regions, loaded.spacing_mm, tolerance_mm, self.ignore_label)
        # What the reference says nothing of counts for nobody.
        hidden = self.label == self.ignore_label
        self.experts = {name: np.where(hidden, 0, labels) for name, labels in loaded.experts.items()}
        self._lock = threading.Lock()

    def image(
        self,
        condition: Condition,
        seed: int,
        *,
        as_it_is: bool,
        extra: Extra | None = None,
        made_on: torch.device | None = None,
    ) -> torch.Tensor:
        """Make the image under a condition.

        Args:
            condition: which.
            seed: of the noise.
            as_it_is: take the image as its file has it: clean, or of a series.
            extra: of an attack, see `perturb`: the model, with this case's reference.
            made_on: where to perturb; None: on the device.

        Returns:
            float32 (C, *spatial), on the device; not to be modified.

        Raises:
            UserError: the perturbation does not take such an image.
        """
        if as_it_is:
            return self._clean
        row = perturbation(condition.perturbation)
        # Neither model nor level: comparisons are paired, and a level only scales the noise.
        # An attack may then choose the very noise that it is compared with.
        generator = torch_generator(seed, self.files.name, row.control or condition.perturbation, condition.replicate)
        where = self._device if made_on is None else made_on
        mask = torch.from_numpy(self.foreground).to(where) if row.uses_mask else None
        low, high = self.bounds
        with _one_thread():
            return perturb(
                self._clean.to(where),
                row,
                condition.level,
                generator,
                mask,
                self.spacing_mm,
                (low.to(where), high.to(where)),
                extra,
                None if self._region is None else self._region.to(where),
                self._colour,
            ).to(self._device)

    def measured(self, image: torch.Tensor, *, in_series: bool) -> dict[str, Any]:
        """Measure what `inputs.csv` has of an image; a series has nothing to be compared with."""
        complexity = self._meter().measure(image)["foreground"]
        with _one_thread():
            quality = image_quality(image, self.spacing_mm, region=self._region)
            decibels = dict.fromkeys(("psnr_db", "snr_db"), "") if in_series else self._decibels(image)
        return {
            **decibels,
            "foreground_ratio": float(np.mean(self.foreground)),
            "texture_divergence_bits": cell(complexity.texture_divergence_bits),
            "boundary_contrast": cell(complexity.boundary_contrast),
            "noise_sigma": cell(quality.noise_sigma),
            "blur": cell(quality.blur),
        }

    def spent(self, image: torch.Tensor) -> dict[str, float]:
        """Measure how far an image is from the clean one, in both norms of `attacks.budget.Budget`."""
        low, high = (bound.view(-1, *[1] * (image.ndim - 1)) for bound in self.bounds)
        moves = (high > low).flatten()
        change = ((image - self._clean) / (high - low))[moves]
        if self._region is not None:
            change = change[:, self._region]
        if not len(change):
            return {"linf": 0.0, "l2": 0.0}
        with _one_thread():
            return {
                "linf": float(change.abs().max()),
                "l2": float((exact_sum(change.square()) / change.numel()).sqrt()),
            }

    def _decibels(self, image: torch.Tensor) -> dict[str, Any]:
        return dict(measure(self._clean, image, self.bounds, self._region))

    def _meter(self) -> ComplexityMeter:
        with self._lock:
            return self._made_meter

    @functools.cached_property
    def _made_meter(self) -> ComplexityMeter:
        # Of all foreground together, which is what `inputs.csv` has.
        return ComplexityMeter(
            self._clean.cpu().numpy(),
            self.label,
            {"foreground": self._values},
            self.spacing_mm,
            ignore=self.ignore_label,
            max_slices=SWEEP_SLICES,
            region=self.region,
        )


def _one_thread() -> Any:
    # The last bit of a sum depends on the number of torch's threads: images must not, nor on who makes them.
    return torch_threads(1, torch.device("cpu"))
