"""The images that came after a reference, in their order, in one JSON file: the state of a test that goes on for years.

It holds raw numbers only. Reading the file makes the test again, image by image: a day's images at a time give the same
numbers as all at once, and a run that was killed has changed nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from nnunet_robust import __version__
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.files import write_atomically
from nnunet_robust.common.json_files import read_json
from nnunet_robust.common.schemas import check_schema
from nnunet_robust.common.text_files import file_fault
from nnunet_robust.deployment.drift.martingale import BETS, JUMP, DriftTest
from nnunet_robust.deployment.drift.reference import (
    IMAGES,
    MeasuredImage,
    Reference,
    image_from_json,
    image_to_json,
    lines_to_json,
)

FORMAT = 1
_ADVICE = "restore it, or begin a new stream with another -o"
_SCHEMA = {"type": "object", "properties": {"images": IMAGES}, "required": ["images"]}


class Stream:
    """A reference, what came after it, and the test.

    Args:
        reference: what new images are compared with.
        reference_digest: SHA-256 of its file.
        rate: of false alarms over the whole stream, in (0, 1).
        seed: see `DriftTest`.

    Attributes:
        images: those that count, in their order.
        test: after them.
    """

    def __init__(self, reference: Reference, reference_digest: str, rate: float = 0.01, seed: int = 0) -> None:
        self._reference = reference
        self._settings = {
            "format": FORMAT,
            "reference": reference_digest,
            "rate": rate,
            "seed": seed,
            "jump": JUMP,
            "bets": {name: list(parameters) for name, parameters in BETS.items()},
        }
        self.images: list[MeasuredImage] = []
        self.test = DriftTest(reference.names, reference.rows, rate, seed, reference.measured)
        self._patients = {image.patient for image in reference.images}
        self._digests = {image.digest for image in reference.images}

    def add(self, images: Iterable[MeasuredImage]) -> dict[str, str]:
        """Take the next images, in the order in which they came.

        Returns:
            Case -> why it does not count: an image that was seen before, or a patient's second. A command that is run
            again changes nothing.

        Raises:
            UserError: an image was measured otherwise than the reference; then none is taken.
        """
        left_out, taken, rows = {}, [], []
        patients, digests = set(self._patients), set(self._digests)
        for image in images:
            if reason := _left_out(image.patient, image.digest, patients, digests):
                left_out[image.case] = reason
            else:
                rows.append(self._reference.row(image))
                taken.append(image)
                patients.add(image.patient)
                digests.add(image.digest)
        if taken:
            self.test.update(rows)
            self.images += taken
            self._patients, self._digests = patients, digests
        return left_out

    def left_out(self, patient: str, digest: str) -> str | None:
        """Say why an image would not count, as `add` does; None if it would."""
        return _left_out(patient, digest, self._patients, self._digests)

    def write(self, path: Path) -> None:
        """Write the stream, whole or not at all; the same stream gives the same bytes."""
        head = {"version": __version__, **self._settings}
        write_atomically(path, lines_to_json(head, map(image_to_json, self.images)))

    def read(self, path: Path) -> None:
        """Take the images of an earlier run.

        Raises:
            UserError: not a stream, or one with another reference, rate, seed or version of this package.
        """
        content = read_json(path, _ADVICE, {"type": "object", "required": list(self._settings)})
        for name, value in self._settings.items():
            if content[name] != value:
                raise UserError(
                    f"{path} was begun with another {name} ({_short(content[name])}, now {_short(value)}): a rate "
                    f"of false alarms holds for one stream with one test; begin a new file"
                )
        check_schema(content, _SCHEMA, lambda what: file_fault(path, what, _ADVICE))
        try:
            left_out = self.add([image_from_json(image) for image in content["images"]])
        except UserError as error:  # of its images
            raise file_fault(path, str(error), _ADVICE) from error
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{path} is not a stream ({type(error).__name__}: {one_line(error)}): {_ADVICE}") from error
        if left_out:
            case, reason = next(iter(left_out.items()))
            raise UserError(f"{path} was changed: {case} counts there, but {reason}; begin a new file")


def _left_out(patient: str, digest: str, patients: Collection[str], digests: Collection[str]) -> str | None:
    if digest in digests:
        return "this image was seen before"
    return f"another image of patient {patient} counts" if patient in patients else None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:13]}..."
