"""The progress bar of a sweep."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class SweepProgress:
    """Shows predictions made of all, the case and condition at hand, and the time left. A context manager."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("loading", total=None)

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, predictions: int) -> None:
        """Show how many predictions are to be made."""
        self._bar.update(self._task, total=predictions, description="predicting")

    def step(self, case: int, cases: int, condition: str) -> None:
        """Show that one is finished."""
        self._bar.update(self._task, advance=1, description=f"case {case}/{cases} {condition:<24}")
