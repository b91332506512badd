"""What is missing from a study, and why: in a table of its own, and in the folders of its sweeps for their reports."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from nnunet_robust.common.files import write_atomically
from nnunet_robust.eval.results.failures import MISSING
from nnunet_robust.study.folder import DONE, Plan, StudyFolder

FILE = "study_failures"
_COLUMNS = ("job", "outcome", "dataset", "configuration", "plans", "trainer", "fold", "reason", "log")


def failures(folder: StudyFolder, plan: Plan) -> list[dict[str, Any]]:
    """A row for each job that is over and did not do all that it should have."""
    rows = []
    for job in plan.jobs.values():
        marker = folder.marker(job.id)
        if marker and marker["outcome"] != DONE:
            log = folder.log(job.id)
            known = {**job.what, **marker, "log": str(log.relative_to(folder.root)) if log.is_file() else ""}
            rows.append({column: known.get(column, "") for column in _COLUMNS})
    return rows


def write_failures(folder: StudyFolder, plan: Plan) -> list[dict[str, Any]]:
    """Write `study_failures.csv` and `.json`, or remove them where nothing has failed; returns the rows.

    A sweep's own part goes into its folder, in words, where its report finds it.
    """
    rows = failures(folder, plan)
    for job in plan.jobs.values():
        if job.stage == "sweep" and (output := folder.root / job.what["output"]).is_dir():
            missing = [row for row in rows if row["job"] in job.inputs]
            if missing:
                lines = [f"{row['job']} {row['outcome']}: {row['reason']}\n" for row in missing]
                write_atomically(output / MISSING, "".join(lines))
            else:
                (output / MISSING).unlink(missing_ok=True)
    table, data = (folder.root / f"{FILE}{ending}" for ending in (".csv", ".json"))
    if not rows:
        table.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
        return rows
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(table, text.getvalue())
    write_atomically(data, json.dumps(rows, indent=1) + "\n")
    return rows
