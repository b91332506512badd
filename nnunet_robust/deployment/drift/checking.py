"""`nnunet-robust monitor check`: a folder's new images are measured, tested and reported."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.locks import exclusive_lock
from nnunet_robust.common.schemas import shown
from nnunet_robust.common.text_files import file_fault
from nnunet_robust.deployment.drift.checked import FEWEST_RECENT, RECENT, Checked
from nnunet_robust.deployment.drift.measuring import Meter, new_images
from nnunet_robust.deployment.drift.page import page
from nnunet_robust.deployment.drift.reference import Reference, check_setup, read_reference
from nnunet_robust.deployment.drift.stream import Stream
from nnunet_robust.deployment.drift.two_sample import TwoSample, compare
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.inference.predictor import Predictor

STREAM, TABLE, PAGE = "stream.json", "images.csv", "monitor.html"
"""What a check writes."""

_MOST_CHANNELS = 10_000  # where the reference is of an earlier version, which has not noted how many it takes

Track = Callable[[Sequence[ImageFiles]], Iterable[ImageFiles]]


def check(
    reference_file: Path,
    images: Path,
    output: Path,
    load: Callable[[Reference], Predictor],
    track: Track,
    order: str = "name",
) -> Checked:
    """Take the images of a folder that were not seen before into the stream, and write where it stands.

    The stream is written after each image: what is killed goes on where it stood. A folder without new images loads no
    model.

    Args:
        reference_file: from `fit`.
        images: a folder; what was seen before may still be in it, or not.
        output: folder of the stream. It is one stream's, whatever folders its images come from.
        load: makes the reference's model.
        track: wraps the new images that are gone through, for a progress bar.
        order: of this folder's new images, see `new_images`.

    Raises:
        UserError: no reference, no images, a stream with another reference, another model, or another process at work
            on the same stream.
    """
    reference = read_reference(reference_file)
    check_setup(reference_file, reference)
    setup = reference.setup
    held = f"another process is checking into {output}: wait for it, or give another output"
    with exclusive_lock(output / ".lock", held):
        stream = Stream(reference, sha256(reference_file), reference.rate)
        if (output / STREAM).exists():
            stream.read(output / STREAM)
        before = len(stream.images)
        channels = _channels(reference_file, setup.get("channels", str(_MOST_CHANNELS)))
        found = new_images(images, setup["file_ending"], channels, setup["patient"], order)
        digests = {image: image.digest() for image in found}
        new = [image for image, digest in digests.items() if stream.left_out(image.patient, digest) is None]
        failed = _take(stream, new, digests, load(reference), track, output / STREAM) if new else {}
        if not (output / STREAM).exists():
            stream.write(output / STREAM)
        counted = {image.digest for image in stream.images}
        reasons = {
            image.name: stream.left_out(image.patient, digest)
            for image, digest in digests.items()
            if digest not in counted
        }
        left_out = {case: reason for case, reason in reasons.items() if reason is not None}
        done = Checked(reference, stream, len(stream.images) - before, left_out, failed, _recent(reference, stream))
        write_atomically(output / TABLE, table(reference, stream))
        write_atomically(output / PAGE, page(done))
    return done


def _channels(path: Path, text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text):
        raise file_fault(path, f"setup.channels must be a whole number, got {shown(text)}", "fit it again")
    return int(text)


def _take(
    stream: Stream,
    new: Sequence[ImageFiles],
    digests: Mapping[ImageFiles, str],
    predictor: Predictor,
    track: Track,
    state: Path,
) -> dict[str, str]:
    """Measure new images one by one; those that cannot be are named, and tried again the next time."""
    meter, failed = Meter(predictor), {}
    for image in track(new):
        if stream.left_out(image.patient, digests[image]) is not None:  # an image before was this patient's
            continue
        try:
            measured = meter.measure(image, digests[image])
        except Exception as error:  # whatever nnU-Net raises: the other images are not to wait for it
            failed[image.name] = one_line(error)
            continue
        stream.add([measured])
        stream.write(state)
    return failed


def as_fitted(predictor: Predictor, reference: Reference) -> Predictor:
    """Make sure that a model is the reference's, and return it.

    Raises:
        UserError: it is another.
    """
    given, now = reference.model, predictor.identity
    if other := sorted(key for key in {*given, *now} if given.get(key) != now.get(key)):
        raise UserError(
            f"the reference is of another model ({other[0]} is {given.get(other[0])!r} there, {now.get(other[0])!r} "
            f"now): fit one with this model"
        )
    return predictor


def _recent(reference: Reference, stream: Stream) -> TwoSample | None:
    rows = [reference.row(image) for image in stream.images[-RECENT:]]
    if len(rows) < FEWEST_RECENT:
        return None
    return compare(reference.rows, rows, reference.names, measured=reference.measured)


def table(reference: Reference, stream: Stream) -> str:
    """Write the stream as CSV, a row per image: its features and each one's evidence after it; empty: not defined."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "number", "case", "patient", "sha256",
            *reference.names,
            *(f"evidence: {name}" for name in reference.names),
            "alarm",
        ]
    )  # fmt: skip
    alarm = stream.test.alarm
    for number, (image, evidence) in enumerate(zip(stream.images, stream.test.evidence, strict=True)):
        values = ["" if math.isnan(value) else f"{value:g}" for value in reference.row(image)]
        alarmed = "yes" if alarm is not None and number >= alarm else "no"
        writer.writerow(
            [number + 1, image.case, image.patient, image.digest, *values, *(f"{e:.3f}" for e in evidence), alarmed]
        )
    return text.getvalue()
