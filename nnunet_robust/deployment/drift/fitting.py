"""`nnunet-robust monitor fit`: from images that the model was not trained on to a reference file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from nnunet_robust import __version__
from nnunet_robust.common.console import warn
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.json_files import read_json
from nnunet_robust.common.locks import exclusive_lock
from nnunet_robust.common.schemas import check_schema
from nnunet_robust.common.text_files import file_fault
from nnunet_robust.deployment.drift.measuring import Meter
from nnunet_robust.deployment.drift.reference import (
    IMAGES,
    MeasuredImage,
    Reference,
    check_patients,
    image_from_json,
    image_to_json,
    lines_to_json,
    write_reference,
)
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.inference.predictor import Predictor

_SCHEMA = {"type": "object", "properties": {"images": IMAGES}, "required": ["images"]}
Track = Callable[[Sequence[ImageFiles]], Iterable[ImageFiles]]


def fit(
    predictor: Predictor,
    images: Sequence[ImageFiles],
    output: Path,
    condition: str,
    rate: float,
    setup: Mapping[str, str],
    track: Track,
) -> Reference:
    """Measure images and write the reference; a run that was killed goes on where it stood.

    Args:
        predictor: the model.
        images: all of them; of each patient the first by name counts.
        output: of the reference, a `.json`.
        condition: what the images are, in words.
        rate: see `Reference`.
        setup: likewise.
        track: wraps the images that are gone through, for a progress bar.

    Raises:
        UserError: too few patients, images twice, an image that cannot be measured, or another process at work on the
            same file.
    """
    check_patients(len({image.patient for image in images}))
    firsts = list({image.patient: image for image in sorted(images, key=lambda i: i.name, reverse=True)}.values())
    held = f"another process is fitting {output}: wait for it, or give another output"
    with exclusive_lock(output.with_name(f".{output.name}.lock"), held):
        unfinished = output.with_name(f".{output.name}.unfinished")
        head = {"version": __version__, "model": predictor.identity}
        measured = _earlier(unfinished, head)
        meter, faults, used = Meter(predictor), [], []
        for image in track(sorted(firsts, key=lambda image: image.name)):
            digest = image.digest()
            found = measured.get((image.name, image.patient, digest))
            if found is None:
                try:
                    found = meter.measure(image, digest)
                except (UserError, ValueError, RuntimeError) as error:
                    faults.append(f"{image.name}: {one_line(error)}")
                    continue
                measured[image.name, image.patient, digest] = found
                write_atomically(unfinished, lines_to_json(head, map(image_to_json, measured.values())))
            used.append(found)
        if faults:
            raise UserError(
                f"{len(faults)} of {len(firsts)} images cannot be measured; mend or remove them: {'; '.join(faults)}"
            )
        reference = Reference.of(used, predictor.identity, condition, rate, setup)
        reference = reference.leaving_out(len(images) - len(firsts))
        write_reference(output, reference)
        unfinished.unlink(missing_ok=True)
    return reference


def _earlier(path: Path, head: Mapping[str, object]) -> dict[tuple[str, str, str], MeasuredImage]:
    """What an earlier run has measured with the same model."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path, "all images are measured again")
        if any(content.get(name) != value for name, value in head.items()):
            return {}
        check_schema(content, _SCHEMA, lambda what: file_fault(path, what, "all images are measured again"))
        images = [image_from_json(image) for image in content["images"]]
    except (ValueError, TypeError, OverflowError) as error:
        warn(one_line(error))
        return {}
    return {(image.case, image.patient, image.digest): image for image in images}
