"""Where a stream stands after a check."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_robust.deployment.drift.martingale import Moved
from nnunet_robust.deployment.drift.reference import Reference
from nnunet_robust.deployment.drift.stream import Stream
from nnunet_robust.deployment.drift.two_sample import TwoSample

RECENT = 20
"""Images, the stream's last, that are compared with the reference alone."""

FEWEST_RECENT = 5
"""Fewer are not compared."""


@dataclass(frozen=True)
class Checked:
    """Where a stream stands after a check.

    Attributes:
        reference: that it is compared with.
        stream: with all of its images.
        n_new: images that this check has added.
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
        """3: an alarm, now or earlier; 1: images that could not be measured; 0: neither."""
        return 3 if self.moved else 1 if self.failed else 0
