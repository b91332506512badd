"""What a study is at, from its folder's files alone: on the machine that runs it, or on any that sees the folder."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from nnunet_robust.study.attempts import epochs_begun, list_attempts
from nnunet_robust.study.estimate import epochs, estimate
from nnunet_robust.study.folder import BLOCKED, DONE, FAILED, PARTIAL, Plan, StudyFolder, is_alive
from nnunet_robust.study.matrix import Job
from nnunet_robust.study.state import HOLDER, read_state

_SHOWN = 12  # running and failed jobs; of the rest the number


@dataclass
class Row:
    """The jobs of one stage of one dataset, counted.

    Attributes:
        stage: of the jobs.
        dataset: its id; None for the report.
        counts: by outcome, and `running` and `waiting`.
        hours: spent, of all attempts.
        gpu_hours: the same, times GPUs.
        left: jobs that are not over.
    """

    stage: str
    dataset: int | None
    counts: dict[str, int] = field(default_factory=dict)
    hours: float = 0.0
    gpu_hours: float = 0.0
    left: list[Job] = field(default_factory=list)


@dataclass(frozen=True)
class Status:
    """What a study is at.

    Attributes:
        plan: how it is run.
        driver: who runs it; empty where nobody does.
        rows: its jobs, counted.
        running: jobs at work, each with who is at it.
        failed: markers of jobs that did not do all that they should have.
    """

    plan: Plan
    driver: dict[str, Any]
    rows: list[Row]
    running: list[tuple[Job, dict[str, Any]]]
    failed: list[dict[str, Any]]

    @property
    def finished(self) -> bool:
        """Whether all jobs are over."""
        return not any(row.left for row in self.rows)


def read_status(root: Path) -> Status:
    """Read a study's folder.

    Raises:
        UserError: no study was run there.
    """
    folder = StudyFolder(root)
    plan = folder.read_plan()
    known = folder.inside / "driver.json"
    driver = holder if (holder := read_state(known, HOLDER)) and is_alive(known, holder) else {}
    rows: dict[tuple[str, int | None], Row] = {}
    running, failed = [], []
    for job in plan.jobs.values():
        dataset = job.what.get("dataset")
        row = rows.setdefault((job.stage, dataset), Row(job.stage, dataset))
        marker = folder.marker(job.id)
        at_work = {} if marker else folder.at_work(job.id)
        seconds = marker.get("seconds") or sum(
            attempt.get("seconds", 0.0) for attempt in list_attempts(folder.attempts(job.id))
        )
        if at_work:
            running.append((job, at_work))
            seconds += time.time() - at_work["since"]
        if marker and marker["outcome"] != DONE:
            failed.append(marker)
        state = marker.get("outcome") or ("running" if at_work else "waiting")
        row.counts[state] = row.counts.get(state, 0) + 1
        row.hours += seconds / 3600
        row.gpu_hours += seconds / 3600 * job.gpus
        if not marker:
            row.left.append(job)
    return Status(plan, driver, list(rows.values()), running, failed)


def render(status: Status, root: Path) -> RenderableType:
    """The status as tables."""
    folder, plan = StudyFolder(root), status.plan
    driver = status.driver
    by = f"run by process {driver['pid']} on {driver['host'].split()[0]}, {driver['executor']}" if driver else "not run"
    table = Table(title=f"study {plan.name}: {'finished' if status.finished else by}")
    for heading in ("stage", "dataset"):
        table.add_column(heading)
    for heading in ("done", "running", "waiting", "failed", "hours", "GPU hours", "hours expected"):
        table.add_column(heading, justify="right")
    for row in status.rows:
        expected = estimate(folder, plan, row.left).hours if row.stage == "train" else 0.0
        table.add_row(row.stage, "" if row.dataset is None else f"{row.dataset:03d}", *_cells([row], expected))
    rest = estimate(folder, plan, (job for row in status.rows for job in row.left))
    table.add_section()
    table.add_row("all", "", *_cells(status.rows, rest.hours))
    parts: list[RenderableType] = [table]
    if any(row.left for row in status.rows if row.stage == "train"):
        gpus = f", {rest.gpu_hours:.3g} GPU hours" if rest.gpu_hours else ""
        parts.append(f"expected for the trainings that are left, from their beginning: {rest.hours:.3g} hours{gpus}")
        parts.append(f"({rest.source})")
    for job, holder in status.running[:_SHOWN]:
        at = f", epoch {epochs_begun(folder.log(job.id))} of {epochs(job)}" if job.stage == "train" else ""
        since = (time.time() - holder["since"]) / 3600
        parts.append(f"running {job.id} on {holder['host'].split()[0]} for {since:.2g} h{at}")
    for marker in status.failed[:_SHOWN]:
        parts.append(f"{marker['outcome']:<7} {marker['job']}: {marker['reason']}")
    for what, many in (("running", len(status.running)), ("failed", len(status.failed))):
        if many > _SHOWN:
            parts.append(f"and {many - _SHOWN} more {what}")
    return Group(*parts)


def _cells(rows: Iterable[Row], expected: float) -> list[str]:
    rows = list(rows)

    def count(*states: str) -> str:
        return str(sum(row.counts.get(state, 0) for row in rows for state in states))

    return [
        count(DONE, PARTIAL),
        count("running"),
        count("waiting"),
        count(FAILED, BLOCKED),
        f"{sum(row.hours for row in rows):.2f}",
        f"{sum(row.gpu_hours for row in rows):.2f}",
        f"{expected:.2f}" if expected else "",
    ]
