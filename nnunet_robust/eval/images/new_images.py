"""Images without labels: found, read as nnU-Net reads them, and measured as a sweep measures its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

from nnunet_robust.common.console import quiet
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.eval.images.complexity import SWEEP_SLICES, ComplexityMeter
from nnunet_robust.eval.images.image_quality import image_quality
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import SlidingWindow


class OtherChannelsError(UserError):
    """An image has not the channels of the sweep's."""


@dataclass(frozen=True)
class Format:
    """What images the models of a sweep take, by its manifest.

    Attributes:
        file_ending: e.g. ".nii.gz".
        channels: of an image.
        reader: the name of nnU-Net's class that reads them.
    """

    file_ending: str
    channels: int
    reader: str

    def make_reader(self) -> BaseReaderWriter:
        """nnU-Net's reader of these files."""
        with quiet():
            reader: BaseReaderWriter = recursive_find_reader_writer_by_name(self.reader)()
        return reader


def find_images(folder: Path, file_ending: str) -> dict[str, tuple[Path, ...]]:
    """The images of a folder, or a single file.

    Args:
        folder: images named `<case>_0000<ending>`, a file per channel; or, where no file is named so, any files of the
            ending, each an image of its own.
        file_ending: what counts as an image.

    Returns:
        Name -> its files, sorted.

    Raises:
        UserError: no such folder, or no file of the ending in it.
    """
    if folder.is_file() and folder.name.endswith(file_ending):
        return {folder.name.removesuffix(file_ending): (folder,)}
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the folder of the new images ({file_ending} files) with -i")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(file_ending) and path.is_file())
    if not files:
        raise UserError(f"no {file_ending} files in {folder}: the models take such files, convert the new images")
    pattern = re.compile(r"(.+)_\d{4}" + re.escape(file_ending))
    by_case: dict[str, list[Path]] = {}
    for path in files:
        if match := pattern.fullmatch(path.name):
            by_case.setdefault(match[1], []).append(path)
    return {name: tuple(of_case) for name, of_case in by_case.items()} or {
        path.name.removesuffix(file_ending): (path,) for path in files
    }


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

    def measure(self, name: str, files: tuple[Path, ...]) -> dict[str, float]:
        """What `inputs.csv` has of a sweep's images, as far as it can be measured without a label.

        Args:
            name: of the image, for messages.
            files: one per channel, or one that holds all.

        Returns:
            noise_sigma, blur; with a model texture_divergence_bits, foreground_ratio, too. NaN where there is nothing
            to measure.

        Raises:
            OtherChannelsError: it has another number of channels than the sweep's.
            UserError: it cannot be read, or has voxels that are NaN or infinite.
        """
        try:
            with quiet():
                image, properties = self._reader.read_images([str(path) for path in files])
        except Exception as error:
            raise UserError(f"image {name!r} cannot be read: {one_line(error)}") from error
        if len(image) != self._format.channels:
            raise OtherChannelsError(f"it has {len(image)} channels, the sweep's images have {self._format.channels}")
        if not np.isfinite(image).all():
            raise UserError(f"image {name!r} has voxels that are NaN or infinite: mend or remove it")
        image = image.astype(np.float32, copy=False)
        spacing_mm = tuple(float(s) for s in properties["spacing"])
        quality = image_quality(image, spacing_mm)
        measured = {"noise_sigma": quality.noise_sigma, "blur": quality.blur}
        if self._model is None or self._window is None:
            return measured
        with quiet():
            data, found = self._model.preprocess(image, properties)
            mask = self._model.export(self._window.logits(data), found)
        values = [value for value in self._model.label_names if value not in (0, self._model.ignore_label)]
        meter = ComplexityMeter(image, mask, {"foreground": values}, spacing_mm, max_slices=SWEEP_SLICES)
        complexity = meter.measure(image)["foreground"]
        return {
            **measured,
            "texture_divergence_bits": complexity.texture_divergence_bits,
            "foreground_ratio": float(np.mean(np.isin(mask, values))),
        }
