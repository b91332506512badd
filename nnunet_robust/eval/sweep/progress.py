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

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        self._progress.say(line)

    def start(self, predictions: int) -> None:
        """Show how many predictions are to be made."""
        self._progress.start(predictions)

    def step(self, case: int, cases: int, condition: str) -> None:
        """Show that one is finished."""
        self._progress.step(f"case {case}/{cases} {condition}")


class JointProgress:
    """The progress of several processes that share the units of a sweep, as that of one.

    Each process counts what is left of the whole sweep, with what others have made since it last looked: it never
    counts too little.

    Args:
        progress: shows it.
    """

    def __init__(self, progress: SweepProgress) -> None:
        self._progress = progress
        self._most: int | None = None  # predictions that all of them may come to
        self._done: dict[str, int] = {}  # process -> those that it has finished
        self._totals: dict[str, int] = {}  # process that lives -> what it counts: its own, and what is left

    @property
    def begun(self) -> bool:
        """Whether any process has found out what is to be done."""
        return self._most is not None

    def announce(self, process: str, expected: Expected) -> None:
        """Say what is going to be done; the first that knows says it for all."""
        if self._most is None:
            self._most = expected.to_make
            self._progress.announce(expected)

    def start(self, process: str, predictions: int) -> None:
        """Take note of what a process counts, its own finished predictions among them."""
        more = predictions - self._totals.get(process, predictions)
        self._most = (self._most or 0) + max(0, more)  # such as pictures of clean images, which are made again
        self._totals[process] = predictions
        self._show()

    def step(self, process: str, case: int, cases: int, condition: str) -> None:
        """Show that a process has finished a prediction."""
        self._done[process] = self._done.get(process, 0) + 1
        self._progress.step(case, cases, condition)
        self._show()

    def lost(self, process: str) -> None:
        """Take note that a process has ended before its time: what it had not stored others make again."""
        self._totals.pop(process, None)
        if self._totals:
            self._most = self._all_done + self._least_left
            self._show()

    @property
    def _all_done(self) -> int:
        return sum(self._done.values())

    @property
    def _least_left(self) -> int:
        return min(total - self._done.get(process, 0) for process, total in self._totals.items())

    def _show(self) -> None:
        done = self._all_done
        self._progress.start(max(done, min(self._most or 0, done + self._least_left)))
