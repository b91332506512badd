"""The state of a stream after a check."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_robust.deployment.drift.martingale import Moved
from nnunet_robust.deployment.drift.reference import Reference
from nnunet_robust.deployment.drift.stream import Stream
from nnunet_robust.deployment.drift.two_sample import TwoSample

RECENT = 20
"""The number of the stream's last images that are compared with the reference alone."""

FEWEST_RECENT = 5
"""The fewest last images that are compared."""


@dataclass(frozen=True)
class Checked:
    """The state of a stream after a check.

    Attributes:
        reference: that it is compared with.
        stream: with all of its images.
        n_new: number of images that this check has added.
        left_out: case -> why it does not count, of this folder's images that are not in the stream.
        failed: case -> why it could not be measured.
        recent: the stream's last `RECENT` images against the reference alone; None: they are fewer than
            `FEWEST_RECENT`.
    """

    reference: Reference
    stream: Stream
    n_new: int
    left_out: dict[str, str]
    failed: dict[str, str]
    recent: TwoSample | None

    @property
    def moved(self) -> tuple[Moved, ...]:
        """The features that are known to have moved; none: no alarm."""
        return self.stream.test.moved()

    @property
    def exit_code(self) -> int:
        """The exit code: 3 for an alarm, now or earlier, 1 for images that could not be measured, 0 for neither."""
        return 3 if self.moved else 1 if self.failed else 0
