"""The progress of a sweep, for people."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from nnunet_robust.common.progress import Progress
from nnunet_robust.eval.sweep.estimate import LOG, Expected


class SweepProgress:
    """Shows predictions made of all, their rate, the time left, and the case and condition at hand. A context manager.

    Args:
        output: the sweep's folder, in which a log is kept, too.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._progress = Progress("predicting", output / LOG)
        self._expected: Expected | None = None

    def __enter__(self) -> SweepProgress:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, traceback)

    @property
    def kept(self) -> str | None:
        """How many predictions are stored of how many, in words; None: nothing is begun."""
        if self._expected is None:
            return None
        # Some are made twice: the clean ones once more where the report shows them.
        stored = min(self._expected.there + self._progress.rate.done, self._expected.predictions)
        return f"{stored} of {self._expected.predictions} predictions are stored in {self._output}"

    def announce(self, expected: Expected) -> None:
        """Say what is going to be done, and how long it takes."""
        self._expected = expected
        self._progress.say(f"{expected.counts()}; {expected.time()}")

    def start(self, predictions: int) -> None:
        """Show how many predictions are to be made."""
        self._progress.start(predictions)

    def step(self, case: int, cases: int, condition: str) -> None:
        """Show that one is finished."""
        self._progress.step(f"case {case}/{cases} {condition}")
