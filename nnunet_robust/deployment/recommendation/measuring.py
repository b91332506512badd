"""New images, measured as a sweep measures its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_robust.common.console import quiet
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.complexity import SWEEP_SLICES, ComplexityMeter
from nnunet_robust.eval.images.image_files import ImageFiles, load_image
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.images.regions import EVERYWHERE, Background
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.trainers.plan_names import nnunets_own


@dataclass(frozen=True)
class Format:
    """The format of the images that the models of a sweep take, by its manifest.

    Attributes:
        file_ending: e.g. ".nii.gz".
        channels: of an image.
        reader: the name of nnU-Net's class that reads them.
        background: what decides over the region that is measured, as the sweep did.
    """

    file_ending: str
    channels: int
    reader: str
    background: Background = EVERYWHERE

    def make_reader(self) -> BaseReaderWriter:
        """Make nnU-Net's reader of these files.

        Raises:
            UserError: the manifest names no reader of nnU-Net's.
        """
        with quiet():
            reader: BaseReaderWriter = nnunets_own(self.reader, "imageio")()
        return reader


class Measurer:
    """Measures new images.

    Args:
        of_sweep: the format of the sweep's images.
        model: predicts the masks that texture divergence and foreground ratio need; None leaves these out.

    Raises:
        UserError: the model takes other images than the sweep's.
    """

    def __init__(self, of_sweep: Format, model: Model | None = None) -> None:
        self._format, self._model = of_sweep, model
        self._reader = of_sweep.make_reader()
        self._window = SlidingWindow.from_predictor(model.predictor) if model else None
        if model is not None and model.channels != of_sweep.channels:
            raise UserError(
                f"{model.folder} takes {model.channels} channels, the sweep's images have {of_sweep.channels}: "
                f"give one of the sweep's models with -m"
            )

    def measure(self, files: ImageFiles) -> dict[str, float]:
        """Measure what `inputs.csv` has of a sweep's images, as far as that goes without a label.

        Args:
            files: of the image.

        Returns:
            noise_sigma, blur; with a model texture_divergence_bits, foreground_ratio, too. NaN where there is nothing
            to measure.

        Raises:
            UserError: see `load_image`.
        """
        with quiet():
            loaded = load_image(files, self._reader, self._format.channels)
        image, spacing_mm = loaded.image, loaded.spacing_mm
        region = self._format.background.region(image).mask
        quality = image_quality(image, spacing_mm, region=region)
        measured = {"noise_sigma": quality.noise_sigma, "blur": quality.blur}
        if self._model is None or self._window is None:
            return measured
        with quiet():
            data, found = self._model.preprocess(image, loaded.properties)
            mask = self._model.export(self._window.logits(data), found)
        values = [value for value in self._model.label_names if value not in (0, self._model.ignore_label)]
        meter = ComplexityMeter(image, mask, {"foreground": values}, spacing_mm, max_slices=SWEEP_SLICES, region=region)
        complexity = meter.measure(image)["foreground"]
        return {
            **measured,
            "texture_divergence_bits": complexity.texture_divergence_bits,
            "foreground_ratio": float(np.mean(np.isin(mask, values))),
        }
